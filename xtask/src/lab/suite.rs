//! What is shown in the lab: KVM by itself, the machine on it, a container's life through containerd.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::programs::Programs;
use super::{Booted, Parts};
use crate::cache::digest;
use crate::cli::LabMachine;
use crate::ctx::Ctx;
use crate::setup::{self, Host};
use crate::ui::duration;

/// One test program, or one command, run in the lab.
struct Case {
    name: &'static str,
    /// For the lab's shell; the programs are in /opt/paperboat.
    script: &'static str,
    /// What the output must contain, besides status 0.
    expect: &'static [&'static str],
    limit_s: u64,
}

/// In the order of what rests on what.
const CASES: &[Case] = &[
    Case {
        name: "the host is told apart",
        script: "/opt/paperboat/bin/paperboat-vmm probe
            chmod 000 /dev/kvm; setpriv --reuid 65534 --clear-groups /opt/paperboat/bin/paperboat-vmm probe 2>&1; echo status $?; chmod 600 /dev/kvm",
        expect: &["kvm: hash guests", "/dev/kvm cannot be opened", "run as root", "status 1"],
        limit_s: 60,
    },
    Case {
        name: "kvm: guests of a few instructions, and the contract of the backends",
        script: "/opt/paperboat/tests/kvm-guest --test-threads=1",
        expect: &["test result: ok.", "who_serves_which_hypercall ... ok"],
        limit_s: 240,
    },
    Case {
        name: "the kernel boots to a program",
        script: "/opt/paperboat/bin/paperboat-vmm run --backend kvm --bare --stats --memory 512M --cmdline 'console=hvc0' \
            --kernel /opt/paperboat/vmlinux --initrd /opt/paperboat/userland.cpio </dev/null",
        expect: &["userland reached", "hash-mmu: Initializing hash mmu"],
        limit_s: 120,
    },
    Case {
        name: "the kernel boots on two CPUs, with devices",
        script: "/opt/paperboat/bin/paperboat-vmm run --backend kvm --cpus 2 --memory 256M --cmdline 'console=hvc0' \
            --kernel /opt/paperboat/vmlinux --initrd /opt/paperboat/userland.cpio </dev/null",
        expect: &["userland reached", "smp: Brought up 1 node, 2 CPUs"],
        limit_s: 180,
    },
    Case {
        name: "a container's life through containerd",
        script: include_str!("container.sh"),
        expect: &["the exit status is 7", "POWER9", "an exec's status is 3", "machines left is 0"],
        limit_s: 600,
    },
];

/// `cargo xtask lab test`: all cases, on a lab of its own.
pub fn run(ctx: &Ctx, machine: LabMachine) -> Result<ExitCode> {
    let (programs, parts) = prepare(ctx)?;
    let summary = cases(ctx, machine, &programs, &parts)?;
    for line in summary {
        println!("{line}");
    }
    Ok(ExitCode::SUCCESS)
}

/// The stage of `cargo xtask test`: on powernv9, unless all that it depends on is as it was when it last passed on this machine.
pub fn stage(ctx: &Ctx) -> Result<Vec<String>> {
    let (programs, parts) = prepare(ctx)?;
    let inputs = programs
        .inputs()?
        .with_file(&parts.guest.vmlinux)?
        .with_file(&parts.guest.initramfs)?
        .with_file(&parts.guest.disk)?
        .with("cases", digest(include_bytes!("suite.rs")))
        .with("container", digest(include_bytes!("container.sh")));
    let note = Passed::of(ctx, &inputs.key());
    if let Some(when) = note.read() {
        let line = format!("lab: not run: it passed {when} ago with the same programs, kernels and cases");
        ctx.ui.line("test", &line);
        return Ok(vec![line]);
    }
    let summary = cases(ctx, LabMachine::Powernv9, &programs, &parts)?;
    note.write()?;
    Ok(summary)
}

fn prepare(ctx: &Ctx) -> Result<(Programs, Parts)> {
    let _lock = ctx.lock()?;
    let host = Host::detect()?;
    setup::ensure_packages(ctx, &host)?;
    Ok((Programs::prepare(ctx, &host)?, Parts::prepare(ctx, &host)?))
}

fn cases(ctx: &Ctx, machine: LabMachine, programs: &Programs, parts: &Parts) -> Result<Vec<String>> {
    let started = Instant::now();
    let booted = Booted::new(ctx, machine, programs, parts)?;
    let mut failed = Vec::new();
    for case in CASES {
        let begun = Instant::now();
        let done = booted.session.run(case.script, Duration::from_secs(case.limit_s), None);
        let problem = match done {
            Err(error) => Some(format!("{error:#}")),
            Ok(done) => case.problem(done.status, &done.output),
        };
        let took = duration(begun.elapsed());
        match problem {
            None => ctx.ui.line("lab", &format!("passed  {} ({took})", case.name)),
            Some(problem) => {
                ctx.ui.line("lab", &format!("FAILED  {} ({took})", case.name));
                eprintln!("{problem}");
                failed.push(case.name);
            }
        }
    }
    drop(booted);
    if !failed.is_empty() {
        bail!("failed in the lab: {}", failed.join(", "));
    }
    let took = duration(started.elapsed());
    Ok(vec![format!("lab {}: {} of {} cases passed in {took}", machine.name(), CASES.len(), CASES.len())])
}

impl Case {
    /// What is wrong with how it ended.
    fn problem(&self, status: i32, output: &str) -> Option<String> {
        if status != 0 {
            return Some(format!("exit status {status}:\n{output}"));
        }
        let missing = self.expect.iter().find(|words| !output.contains(*words))?;
        Some(format!("{missing:?} is not in:\n{output}"))
    }
}

/// That the stage passed, with what.
struct Passed {
    path: PathBuf,
}

impl Passed {
    fn of(ctx: &Ctx, key: &str) -> Self {
        Self { path: ctx.cache.root().join("lab/passed").join(key) }
    }

    /// How long ago it passed.
    fn read(&self) -> Option<String> {
        let when = fs::metadata(&self.path).ok()?.modified().ok()?;
        Some(duration(when.elapsed().unwrap_or_default()))
    }

    fn write(&self) -> Result<()> {
        let dir = self.path.parent().context("a note has a directory")?;
        crate::cache::remove_tree(dir)?;
        fs::create_dir_all(dir)?;
        fs::write(&self.path, b"").context("note that the lab passed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_needs_status_and_words() {
        let case = Case { name: "", script: "", expect: &["one", "two"], limit_s: 1 };
        assert_eq!(case.problem(0, "one two"), None);
        assert!(case.problem(1, "one two").unwrap().contains("exit status 1"));
        assert!(case.problem(0, "one").unwrap().contains("\"two\" is not in"));
    }
}
