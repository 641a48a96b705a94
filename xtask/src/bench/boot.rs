//! `cargo xtask bench boot`: from the machine's start to a program in the guest, beside QEMU's emulation of the same
//! partition. Both are counted to the power-off that the program asks for as its first act.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{UsageWho, getrusage};

use super::{Figure, Goal, Lab, median, peer};
use crate::guest;
use crate::initramfs::{Archive, Node};
use crate::run::display;

/// What the issues measure with: 512 MiB, no devices.
const MEMORY_BYTES: u64 = 512 << 20;
/// What the guest's program prints.
const REACHED: &str = "userland reached";
/// What the machine prints before the number of instructions.
const INSTRUCTIONS: &str = "guest instructions ";

/// One boot.
struct Boot {
    cpu_seconds: f64,
    output: String,
}

/// Measures instructions, and processor seconds in turn with the peer.
pub fn measure(lab: &Lab) -> Result<Vec<Figure>> {
    let work = std::env::temp_dir().join(format!("paperboat-bench-{}", std::process::id()));
    crate::cache::remove_tree(&work)?;
    fs::create_dir(&work).with_context(|| format!("create {}", work.display()))?;
    let figures = measure_in(lab, &work);
    crate::cache::remove_tree(&work)?;
    figures
}

fn measure_in(lab: &Lab, work: &Path) -> Result<Vec<Figure>> {
    let program = {
        let _lock = lab.ctx.lock()?;
        guest::c_program(lab.ctx, &lab.host, "userland")?
    };
    let mut archive = Archive::default();
    archive.push("dev", Node::Directory { mode: 0o755 })?;
    archive.push("dev/console", Node::CharDevice { mode: 0o600, major: 5, minor: 1 })?;
    archive.push("init", Node::File { mode: 0o755, content: fs::read(program)? })?;
    let initramfs = work.join("userland.cpio");
    fs::write(&initramfs, archive.finish()?)?;
    let kernel = lab.path("PAPERBOAT_KERNEL")?;

    let mut ours = Command::new(lab.path("PAPERBOAT_BIN")?.join("paperboat-vmm"));
    ours.args(["run", "--backend", "soft", "--bare", "--stats", "--cmdline", "console=hvc0 quiet", "--memory"])
        .arg(format!("{}M", MEMORY_BYTES >> 20))
        .arg("--kernel")
        .arg(kernel)
        .arg("--initrd")
        .arg(&initramfs);
    let mut theirs = peer::command(work, kernel, &initramfs, MEMORY_BYTES)?;

    let (mut instructions, mut our_seconds, mut their_seconds) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..lab.runs {
        let boot = run(&mut ours)?;
        instructions.push(count(&boot.output).context("the machine printed no number of guest instructions")?);
        our_seconds.push(boot.cpu_seconds);
        their_seconds.push(run(&mut theirs)?.cpu_seconds);
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

/// Runs one boot to its end; what it used is what the finished children used since.
fn run(command: &mut Command) -> Result<Boot> {
    let used = || -> Result<f64> {
        let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
        let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
        Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
    };
    let before = used()?;
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("start {}", display(command)))?;
    let cpu_seconds = used()? - before;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text += &String::from_utf8_lossy(&output.stderr);
    ensure!(text.contains(REACHED), "the guest did not reach its program: {}\n{text}", display(command));
    Ok(Boot { cpu_seconds, output: text })
}

/// The number after [`INSTRUCTIONS`].
fn count(output: &str) -> Option<f64> {
    let rest = output.lines().find_map(|line| line.split_once(INSTRUCTIONS))?.1;
    rest.split([',', ' ']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_read() {
        assert_eq!(count("x\nguest instructions 17700123, 240 MIPS\n"), Some(17_700_123.0));
        assert_eq!(count("nothing of the kind"), None);
    }

    #[test]
    fn a_boot_that_ends_early_is_an_error() {
        assert!(run(Command::new("sh").args(["-c", "echo panic"])).is_err());
        let boot = run(Command::new("sh").args(["-c", "echo userland reached"])).unwrap();
        assert!(boot.cpu_seconds < 5.0);
    }
}
