//! What the machine's process needs in memory beside its guest: proportional set size while a guest is up, without guest memory and without
//! the hashed page table, which is as large as the guest's memory asks.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use super::{Figure, Goal, Lab, machine, median};
use crate::stock;

const TARGET_BYTES: f64 = (24u64 << 20) as f64;
/// What the shell's PID 1 prints when it waits for input.
const UP: &str = "[ready]";
/// A table has this part of memory's size, rounded up to a power of two.
const MEMORY_PER_TABLE: u64 = 128;
/// Slack of an allocation around the table.
const SLACK_BYTES: u64 = 0x1_0000;

/// Boots `kernel` to a shell and looks.
pub fn measure(lab: &Lab, kernel: &Path, memory_bytes: u64) -> Result<Figure> {
    let shell = {
        let _lock = lab.ctx.lock()?;
        stock::shell(lab.ctx, &lab.host)?
    };
    let table = (memory_bytes / MEMORY_PER_TABLE).next_power_of_two();
    let mut values = Vec::new();
    for _ in 0..lab.runs {
        let mut child = machine::ours(lab, kernel, &shell, "console=hvc0 quiet", memory_bytes)?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start the machine")?;
        let output = child.stdout.take().context("the machine has an output")?;
        let up = BufReader::new(output).lines().map_while(Result::ok).any(|line| line.contains(UP));
        let maps = fs::read_to_string(format!("/proc/{}/smaps", child.id()));
        child.kill()?;
        child.wait()?;
        ensure!(up, "the guest did not reach its shell");
        values.push(own_bytes(&maps.context("read the machine's memory maps")?, table) as f64);
    }
    Ok(Figure {
        figure: "boot.soft.overhead_bytes".into(),
        value: median(values).context("at least one run is needed")?,
        unit: "bytes",
        peer: None,
        runs: lab.runs,
        goal: Goal::AtMost(TARGET_BYTES),
    })
}

/// Proportional set size of all mappings but guest memory's and the page table's.
pub fn own_bytes(smaps: &str, table_bytes: u64) -> u64 {
    let mut total = 0;
    let mut counted = true;
    for line in smaps.lines() {
        if let Some((range, name)) = header(line) {
            let size = range.1 - range.0;
            let is_table = name.is_empty() && (table_bytes..=table_bytes + SLACK_BYTES).contains(&size);
            counted = !name.contains("paperboat-guest") && !is_table;
        } else if counted && let Some(kib) = line.strip_prefix("Pss:").and_then(|rest| rest.trim().strip_suffix(" kB")) {
            total += kib.trim().parse::<u64>().unwrap_or(0) << 10;
        }
    }
    total
}

/// A mapping's address range and name.
fn header(line: &str) -> Option<((u64, u64), &str)> {
    let mut fields = line.split_whitespace();
    let (from, to) = fields.next()?.split_once('-')?;
    let range = (u64::from_str_radix(from, 16).ok()?, u64::from_str_radix(to, 16).ok()?);
    Some((range, fields.nth(4).unwrap_or("")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_memory_and_the_table_are_left_out() {
        let smaps = "\
7f0000000000-7f0020000000 rw-s 00000000 00:01 5 /memfd:paperboat-guest (deleted)\nPss: 60000 kB\n\
7f0030000000-7f0030401000 rw-p 00000000 00:00 0 \nPss:       4000 kB\nPss_Dirty: 4000 kB\n\
7f0040000000-7f0040800000 rw-p 00000000 00:00 0 \nSize: 8192 kB\nPss:        100 kB\n\
555500000000-555500100000 r-xp 00000000 08:01 7 /bin/paperboat-vmm\nPss:         23 kB\n";
        assert_eq!(own_bytes(smaps, 4 << 20), 123 << 10);
    }
}
