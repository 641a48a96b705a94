//! `cargo xtask bench cpu`: the parts of `images/workload.c` on the software CPU and under QEMU's emulation of the same partition.
//!
//! A part is named on the kernel's command line, so a run is a boot and the part. A boot with no part is measured the same way
//! and taken off. The guest prints a digest of what it computed; both engines have to print the same.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::machine::{self, Ran};
use super::{Figure, Goal, Lab, median, peer};
use crate::guest;

/// As the boot benchmark has it.
const MEMORY_BYTES: u64 = 512 << 20;
/// No part: the boot alone.
const BOOT: &str = "none";
/// As the program names them.
const PARTS: &[&str] = &["int", "mem", "fp", "vec", "sys", "fork"];
/// Optimised as distributions do, for the oldest processor they support.
const FLAGS: &[&str] = &["-O2", "-mcpu=power8", "-lm"];
/// To reach: guest instructions in a microsecond of the integer part, and speed as a part of the peer's.
const MIPS: f64 = 500.0;
const SPEED_RATIO: f64 = 0.25;

/// What one engine needed for a part, boot included.
#[derive(Default)]
struct Samples {
    seconds: Vec<f64>,
    instructions: Vec<f64>,
}

/// Medians of [`Samples`].
#[derive(Clone, Copy, Debug, PartialEq)]
struct Cost {
    seconds: f64,
    instructions: f64,
}

impl Samples {
    fn cost(self) -> Result<Cost> {
        let seconds = median(self.seconds).context("at least one run is needed")?;
        Ok(Cost { seconds, instructions: median(self.instructions).unwrap_or(0.0) })
    }
}

impl Cost {
    /// The part without the boot.
    fn without(self, boot: Self) -> Self {
        Self { seconds: self.seconds - boot.seconds, instructions: self.instructions - boot.instructions }
    }
}

/// Measures every part in turn with the peer.
pub fn measure(lab: &Lab) -> Result<Vec<Figure>> {
    machine::with_directory(|work| measure_in(lab, work))
}

fn measure_in(lab: &Lab, work: &Path) -> Result<Vec<Figure>> {
    let program = {
        let _lock = lab.ctx.lock()?;
        guest::c_program(lab.ctx, &lab.host, "workload", FLAGS)?
    };
    let initramfs = machine::initramfs(work, &program)?;
    let (ours_boot, theirs_boot) = sample(lab, work, &initramfs, BOOT)?;
    let mut figures = vec![ratio("boot", lab.runs, ours_boot, theirs_boot, Goal::None)];
    for part in PARTS {
        let (ours, theirs) = sample(lab, work, &initramfs, part)?;
        let (ours, theirs) = (ours.without(ours_boot), theirs.without(theirs_boot));
        ensure!(ours.seconds > 0.0 && theirs.seconds > 0.0, "part {part} took no longer than the boot alone");
        let mips = ours.instructions / ours.seconds / 1e6;
        let goal = if *part == "int" { Goal::AtLeast(MIPS) } else { Goal::None };
        figures.push(Figure {
            figure: format!("cpu.{part}.mips"),
            value: mips,
            unit: "MIPS",
            peer: Some(("qemu tcg".to_owned(), ours.instructions / theirs.seconds / 1e6)),
            runs: lab.runs,
            goal,
        });
        figures.push(ratio(part, lab.runs, ours, theirs, Goal::AtLeast(SPEED_RATIO)));
    }
    Ok(figures)
}

/// Runs a part on both engines in turn.
fn sample(lab: &Lab, work: &Path, initramfs: &Path, part: &str) -> Result<(Cost, Cost)> {
    let cmdline = format!("console=hvc0 quiet -- {part}");
    let kernel = lab.path("PAPERBOAT_KERNEL")?;
    let mut our_command = machine::ours(lab, kernel, initramfs, &cmdline, MEMORY_BYTES)?;
    let mut their_command = peer::command(work, kernel, initramfs, &cmdline, MEMORY_BYTES)?;
    let (mut ours, mut theirs) = (Samples::default(), Samples::default());
    let expected = format!("part {part} digest ");
    let mut first: Option<String> = None;
    for _ in 0..lab.runs {
        let (mine, peers) = (machine::run(&mut our_command, &expected)?, machine::run(&mut their_command, &expected)?);
        for ran in [&mine, &peers] {
            let found = digest(ran, &expected).context("the guest printed no digest")?;
            let wanted = first.get_or_insert_with(|| found.to_owned());
            ensure!(found == wanted, "part {part} computed {found} on one engine and {wanted} on the other");
        }
        ours.seconds.push(mine.cpu_seconds);
        ours.instructions.push(mine.instructions().context("the machine printed no number of guest instructions")?);
        theirs.seconds.push(peers.cpu_seconds);
    }
    Ok((ours.cost()?, theirs.cost()?))
}

/// The word after `before`.
fn digest<'a>(ran: &'a Ran, before: &str) -> Option<&'a str> {
    ran.output.split_once(before)?.1.split_whitespace().next()
}

fn ratio(part: &str, runs: usize, ours: Cost, theirs: Cost, goal: Goal) -> Figure {
    let value = theirs.seconds / ours.seconds;
    Figure { figure: format!("cpu.{part}.speed_ratio"), value, unit: "×", peer: None, runs, goal }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_is_taken_off() {
        let cost = |seconds, instructions| Cost { seconds, instructions };
        let part = cost(2.5, 900e6).without(cost(0.5, 20e6));
        assert_eq!(part, cost(2.0, 880e6));
        assert_eq!(ratio("int", 1, part, cost(0.5, 0.0), Goal::None).value, 0.25);
    }

    #[test]
    fn digests_are_found() {
        let ran = Ran { cpu_seconds: 0.0, output: "[0] x\r\npart fp digest 0123\r\n".into() };
        assert_eq!(digest(&ran, "part fp digest "), Some("0123"));
        assert_eq!(digest(&ran, "part int digest "), None);
    }
}
