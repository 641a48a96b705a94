//! Machines that benchmarks run: a kernel, an initramfs with one program, and the processor time that the whole of it takes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{UsageWho, getrusage};

use super::Lab;
use crate::initramfs::{Archive, Node};
use crate::run::display;

/// What the machine prints before the number of instructions.
const INSTRUCTIONS: &str = "guest instructions ";

/// A machine's run from start to end.
pub struct Ran {
    /// User and system time of the process and its threads.
    pub cpu_seconds: f64,
    /// Standard output, then standard error.
    pub output: String,
}

impl Ran {
    /// The guest instructions that our machine counted.
    pub fn instructions(&self) -> Option<f64> {
        let rest = self.output.lines().find_map(|line| line.split_once(INSTRUCTIONS))?.1;
        rest.split([',', ' ']).next()?.parse().ok()
    }
}

/// Calls `act` with an empty directory, which goes afterwards.
pub fn with_directory<T>(act: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let work = std::env::temp_dir().join(format!("paperboat-bench-{}", std::process::id()));
    crate::cache::remove_tree(&work)?;
    fs::create_dir(&work).with_context(|| format!("create {}", work.display()))?;
    let result = act(&work);
    crate::cache::remove_tree(&work)?;
    result
}

/// Packs `program` as /init, with the devices that it may open; returns the archive below `work`.
pub fn initramfs(work: &Path, program: &Path) -> Result<PathBuf> {
    let mut archive = Archive::default();
    archive.push("dev", Node::Directory { mode: 0o755 })?;
    archive.push("dev/console", Node::CharDevice { mode: 0o600, major: 5, minor: 1 })?;
    archive.push("dev/null", Node::CharDevice { mode: 0o666, major: 1, minor: 3 })?;
    archive.push("init", Node::File { mode: 0o755, content: fs::read(program)? })?;
    let path = work.join("initramfs.cpio");
    fs::write(&path, archive.finish()?)?;
    Ok(path)
}

/// Our machine on the software CPU with `kernel`, without devices.
pub fn ours(lab: &Lab, kernel: &Path, initramfs: &Path, cmdline: &str, memory_bytes: u64) -> Result<Command> {
    let mut command = Command::new(lab.path("PAPERBOAT_BIN")?.join("paperboat-vmm"));
    command.args(["run", "--backend", "soft", "--bare", "--stats", "--cmdline", cmdline, "--memory"]);
    command.arg(format!("{}M", memory_bytes >> 20)).arg("--kernel").arg(kernel);
    command.arg("--initrd").arg(initramfs);
    Ok(command)
}

/// Runs a machine to its end. What it used is what the finished children used since. `expected` has to be in its output.
pub fn run(command: &mut Command, expected: &str) -> Result<Ran> {
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
    ensure!(text.contains(expected), "the guest did not print {expected:?}: {}\n{text}", display(command));
    Ok(Ran { cpu_seconds, output: text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_read() {
        let ran = |output: &str| Ran { cpu_seconds: 0.0, output: output.to_owned() };
        assert_eq!(ran("x\nguest instructions 17700123, 240 MIPS\n").instructions(), Some(17_700_123.0));
        assert_eq!(ran("nothing of the kind").instructions(), None);
    }

    #[test]
    fn a_run_that_ends_early_is_an_error() {
        assert!(run(Command::new("sh").args(["-c", "echo panic"]), "userland reached").is_err());
        assert!(run(Command::new("sh").args(["-c", "echo userland reached"]), "userland reached").is_ok());
    }
}
