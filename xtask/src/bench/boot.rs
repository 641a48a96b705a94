//! `cargo xtask bench boot`: from the machine's start to a program in the guest, beside QEMU's emulation of the same
//! partition. Both are counted to the power-off that the program asks for as its first act.

use std::path::Path;

use anyhow::{Context, Result};

use super::{Figure, Goal, Lab, machine, median, peer};
use crate::guest;

/// What the issues measure with: 512 MiB, no devices.
const MEMORY_BYTES: u64 = 512 << 20;
/// What the guest's program prints.
const REACHED: &str = "userland reached";
/// The kernel's command line.
const CMDLINE: &str = "console=hvc0 quiet";

/// Measures instructions, and processor seconds in turn with the peer.
pub fn measure(lab: &Lab) -> Result<Vec<Figure>> {
    machine::with_directory(|work| measure_in(lab, work))
}

fn measure_in(lab: &Lab, work: &Path) -> Result<Vec<Figure>> {
    let program = {
        let _lock = lab.ctx.lock()?;
        guest::c_program(lab.ctx, &lab.host, "userland", guest::SMALL)?
    };
    let initramfs = machine::initramfs(work, &program)?;
    let mut ours = machine::ours(lab, &initramfs, CMDLINE, MEMORY_BYTES)?;
    let mut theirs = peer::command(work, lab.path("PAPERBOAT_KERNEL")?, &initramfs, CMDLINE, MEMORY_BYTES)?;

    let (mut instructions, mut our_seconds, mut their_seconds) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..lab.runs {
        let boot = machine::run(&mut ours, REACHED)?;
        instructions.push(boot.instructions().context("the machine printed no number of guest instructions")?);
        our_seconds.push(boot.cpu_seconds);
        their_seconds.push(machine::run(&mut theirs, REACHED)?.cpu_seconds);
    }
    let middle = |values: Vec<f64>| median(values).context("at least one run is needed");
    let (ours, theirs) = (middle(our_seconds)?, middle(their_seconds)?);
    let figure = |name: &str, value, unit, peer, goal| Figure { figure: name.into(), value, unit, peer, runs: lab.runs, goal };
    Ok(vec![
        figure("boot.guest_instructions", middle(instructions)?, "instructions", None, Goal::AtMost(25e6)),
        figure("boot.cpu_seconds", ours, "s", Some(("qemu tcg".to_owned(), theirs)), Goal::None),
        figure("boot.cpu_ratio", ours / theirs, "×", None, Goal::AtMost(1.0)),
    ])
}
