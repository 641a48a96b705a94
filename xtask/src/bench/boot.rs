//! `cargo xtask bench boot`: from the machine's start to a program in the guest, beside QEMU's emulation of the same
//! partition, with the project's kernel and with one of Debian's. Both are counted to the power-off that the program asks for as its
//! first act. What the machine itself needs in memory is read while a guest is up.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::{Figure, Goal, Lab, machine, median, overhead, peer};
use crate::{guest, stock};

/// What the issues measure with: 512 MiB, no devices.
const MEMORY_BYTES: u64 = 512 << 20;
/// What the guest's program prints.
const REACHED: &str = "userland reached";
/// The kernel's command line.
const CMDLINE: &str = "console=hvc0 quiet";

/// Measures instructions, processor seconds in turn with the peer, and memory.
pub fn measure(lab: &Lab) -> Result<Vec<Figure>> {
    machine::with_directory(|work| measure_in(lab, work))
}

fn measure_in(lab: &Lab, work: &Path) -> Result<Vec<Figure>> {
    let (program, stock) = {
        let _lock = lab.ctx.lock()?;
        (guest::c_program(lab.ctx, &lab.host, "userland", guest::SMALL)?, stock::benchmark_kernel(lab.ctx)?)
    };
    let initramfs = machine::initramfs(work, &program)?;
    let own = lab.path("PAPERBOAT_KERNEL")?;
    let own_boots = beside(
        lab,
        &mut machine::ours(lab, own, &initramfs, CMDLINE, MEMORY_BYTES)?,
        &mut peer::command(work, own, &initramfs, CMDLINE, MEMORY_BYTES)?,
    )?;
    let stock_boots = beside(
        lab,
        &mut machine::ours(lab, &stock, &initramfs, CMDLINE, MEMORY_BYTES)?,
        &mut peer::firmware_command(&stock, &initramfs, CMDLINE, MEMORY_BYTES),
    )?;

    let figure = |name: &str, value, unit, peer, goal| Figure { figure: name.into(), value, unit, peer, runs: lab.runs, goal };
    let qemu = |seconds| Some(("qemu tcg".to_owned(), seconds));
    Ok(vec![
        figure("boot.guest_instructions", own_boots.instructions, "instructions", None, Goal::AtMost(25e6)),
        figure("boot.cpu_seconds", own_boots.ours, "s", qemu(own_boots.theirs), Goal::None),
        figure("boot.cpu_ratio", own_boots.ours / own_boots.theirs, "×", None, Goal::AtMost(1.0)),
        figure("boot.stock.guest_instructions", stock_boots.instructions, "instructions", None, Goal::None),
        figure("boot.stock.cpu_seconds", stock_boots.ours, "s", qemu(stock_boots.theirs), Goal::None),
        figure("boot.stock.cpu_ratio", stock_boots.ours / stock_boots.theirs, "×", None, Goal::AtMost(1.25)),
        overhead::measure(lab, own, MEMORY_BYTES)?,
    ])
}

/// Medians of boots in turn with the peer's.
struct Medians {
    instructions: f64,
    ours: f64,
    theirs: f64,
}

fn beside(lab: &Lab, ours: &mut Command, theirs: &mut Command) -> Result<Medians> {
    let (mut instructions, mut our_seconds, mut their_seconds) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..lab.runs {
        let boot = machine::run(ours, REACHED)?;
        instructions.push(boot.instructions().context("the machine printed no number of guest instructions")?);
        our_seconds.push(boot.cpu_seconds);
        their_seconds.push(machine::run(theirs, REACHED)?.cpu_seconds);
    }
    let middle = |values: Vec<f64>| median(values).context("at least one run is needed");
    Ok(Medians { instructions: middle(instructions)?, ours: middle(our_seconds)?, theirs: middle(their_seconds)? })
}
