//! `cargo xtask bench lab`: Paperboat's machine under KVM-HV beside QEMU's under the same, and `ctr run` beside runc's, in one boot of the
//! lab. The lab's clock counts instructions: a processor second is a thousand million of them, of programs, guests and the host's kernel.
//! An emulator's own seconds would mostly measure how it translates code that it sees for the first time.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::programs::Programs;
use super::session::Session;
use super::{Booted, Parts, quote};
use crate::bench::{Figure, Goal, Lab, median, overhead, peer};
use crate::cli::LabMachine;
use crate::engines::Scope;
use crate::{guest, kernel, stock};

/// The peer, as a package of the lab's release.
const PEER: &str = "qemu-system-ppc";
/// The guest's memory.
const MEMORY_BYTES: u64 = 512 << 20;
/// Where the lab has the peer's files.
const PEER_DIR: &str = "/opt/paperboat/peer";
/// One round is two boots and two containers, a minute of a quiet machine.
const ROUND_LIMIT: Duration = Duration::from_secs(300);
/// A hundredth of memory is the hashed page table, which the host's kernel holds: none of it is in the process.
const NO_TABLE: u64 = 0;

/// Boots the lab and measures.
pub fn measure(lab: &Lab) -> Result<Vec<Figure>> {
    let ctx = lab.ctx;
    let (programs, parts) = {
        let _lock = ctx.lock()?;
        let mut programs = Programs::prepare(ctx, &lab.host, |_| false, Scope::Demo)?;
        let pause = guest::c_program(ctx, &lab.host, "pause", guest::SMALL)?;
        programs.add("pause.cpio", stock::one_program(ctx, "pause", &pause)?);
        let userland = programs.path("userland.cpio")?.to_owned();
        let loaded = ctx.cache.root().join("lab/peer");
        crate::cache::remove_tree(&loaded)?;
        fs::create_dir_all(&loaded)?;
        peer::write_files(
            &loaded,
            &kernel::prepare(ctx, &lab.host)?.vmlinux,
            &userland,
            "console=hvc0 quiet",
            MEMORY_BYTES,
            peer::Pages::Small,
            &[],
        )?;
        for entry in fs::read_dir(&loaded)?.flatten() {
            programs.add(&format!("peer/{}", entry.file_name().to_string_lossy()), entry.path());
        }
        (programs, Parts::prepare(ctx, &lab.host, LabMachine::Powernv9, &[PEER])?)
    };
    let session = Session::of(ctx, LabMachine::Powernv9).counted();
    let booted = Booted::of(ctx, session, &programs, |name| !name.starts_with("tests/"), &parts)?;
    let qemu: Vec<String> = ["qemu-system-ppc64".to_owned()]
        .into_iter()
        .chain(peer::KVM.iter().map(|&word| word.to_owned()))
        .chain(peer::arguments(MEMORY_BYTES, PEER_DIR.as_ref()))
        .map(|word| quote(&word))
        .collect();
    let script = format!(
        "RUNS={} QEMU={}\n{}",
        lab.runs,
        quote(&qemu.join(" ")),
        concat!(include_str!("engine.sh"), include_str!("figures.sh"))
    );
    let rounds = u32::try_from(lab.runs).unwrap_or(u32::MAX);
    let done = booted.session.run(&script, ROUND_LIMIT.saturating_mul(rounds.saturating_add(1)), None)?;
    ensure!(done.status == 0, "the lab's figures failed with status {}:\n{}", done.status, done.output);
    figures(&done.output, lab.runs)
}

fn figures(output: &str, runs: usize) -> Result<Vec<Figure>> {
    let values = |figure: &str, who: &str| -> Result<f64> {
        let of_line = |line: &str| {
            let mut words = line.split_whitespace();
            let matches = words.next() == Some(figure) && words.next() == Some(who);
            matches.then(|| words.next()?.parse::<f64>().ok())?
        };
        median(output.lines().filter_map(of_line).collect()).with_context(|| format!("the lab printed no {figure} of {who}"))
    };
    let mut rows = Vec::new();
    for (name, figure, peer, goal) in
        [("boot", "lab.boot", "qemu kvm", Goal::AtMost(0.5)), ("ctr_run", "lab.ctr_run", "runc", Goal::AtMost(3.0))]
    {
        let both = |what: &str| -> Result<(f64, f64)> {
            let key = format!("{name}.{what}");
            Ok((values(&key, "ours")?, values(&key, "peer")?))
        };
        let (cpu, wall) = (both("cpu")?, both("wall")?);
        let row = |figure: String, value, unit, peer, goal| Figure { figure, value, unit, peer, runs, goal };
        let beside = |value| Some((peer.to_owned(), value));
        rows.push(row(format!("{figure}.cpu_seconds"), cpu.0, "s", beside(cpu.1), Goal::None));
        rows.push(row(format!("{figure}.wall_seconds"), wall.0, "s", beside(wall.1), Goal::None));
        let ratio = if name == "boot" { "cpu_ratio" } else { "ratio" };
        rows.push(row(format!("{figure}.{ratio}"), cpu.0 / cpu.1, "×", None, goal));
    }
    let maps: String = output.lines().filter_map(|line| line.strip_prefix("maps ")).map(|line| format!("{line}\n")).collect();
    ensure!(maps.contains("paperboat-guest"), "the machine's maps show no guest memory");
    rows.push(Figure {
        figure: "lab.overhead_bytes".into(),
        value: overhead::own_bytes(&maps, NO_TABLE) as f64,
        unit: "bytes",
        peer: None,
        runs: 1,
        goal: Goal::AtMost((5u64 << 20) as f64),
    });
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "boot.cpu ours 2\nboot.wall ours 2.5\nboot.cpu peer 5\nboot.wall peer 6\nboot.cpu ours 3\nboot.cpu peer 5\n\
        maps 7f0000000000-7f0020000000 rw-s 00000000 00:01 5 /memfd:paperboat-guest (deleted)\nmaps Pss: 60000 kB\n\
        maps 555500000000-555500100000 r-xp 00000000 08:01 7 /bin/paperboat-vmm\nmaps Pss:         23 kB\n\
        ctr_run.cpu ours 8\nctr_run.wall ours 9\nctr_run.cpu peer 3\nctr_run.wall peer 4\n";

    #[test]
    fn the_labs_lines_become_figures() {
        let rows = figures(OUTPUT, 2).unwrap();
        let value = |name: &str| rows.iter().find(|row| row.figure == name).map(|row| row.value);
        assert_eq!(value("lab.boot.cpu_ratio"), Some(0.5));
        assert_eq!(value("lab.ctr_run.ratio"), Some(8.0 / 3.0));
        assert_eq!(value("lab.overhead_bytes"), Some(f64::from(23 << 10)));
    }

    #[test]
    fn a_line_that_is_missing_is_an_error() {
        let error = figures(&OUTPUT.replace("ctr_run.wall peer 4\n", ""), 2).unwrap_err().to_string();
        assert!(error.contains("ctr_run.wall of peer"), "{error}");
    }
}
