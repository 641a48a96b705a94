//! What is shown in the lab: KVM by itself, the machine on it, a container's life through containerd.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use super::programs::Programs;
use super::{Booted, Parts};
use crate::cache::digest;
use crate::cli::LabMachine;
use crate::ctx::Ctx;
use crate::setup::{self, Host};
use crate::ui::duration;

/// One test program, or one command, run in the lab.
struct Case {
    name: String,
    /// For the lab's shell; the programs are in /opt/paperboat.
    script: String,
    /// What the output must contain, besides status 0.
    expect: &'static [&'static str],
    limit_s: u64,
    /// Its output is shown as it comes.
    shown: bool,
}

/// What shows KVM and the machine on it, in the order of what rests on what: name, script, expected words, limit in seconds.
const BASE: &[(&str, &str, &[&str], u64)] = &[
    (
        "the host is told apart",
        concat!(include_str!("engine.sh"), include_str!("hosts.sh")),
        &["kvm: hash guests", "a container without kvm_hv says so", "a container without the device says so", "pods is 0"],
        300,
    ),
    (
        "kvm: guests of a few instructions, and the contract of the backends",
        "/opt/paperboat/tests/kvm-guest --test-threads=1",
        &["test result: ok.", "who_serves_which_hypercall ... ok"],
        240,
    ),
    (
        "the kernel boots to a program",
        "/opt/paperboat/bin/paperboat-vmm run --backend kvm --bare --stats --memory 512M --cmdline 'console=hvc0' \
            --kernel /opt/paperboat/vmlinux --initrd /opt/paperboat/userland.cpio </dev/null",
        &["userland reached", "hash-mmu: Initializing hash mmu"],
        120,
    ),
    (
        "the kernel boots on two CPUs, with devices",
        "/opt/paperboat/bin/paperboat-vmm run --backend kvm --cpus 2 --memory 256M --cmdline 'console=hvc0' \
            --kernel /opt/paperboat/vmlinux --initrd /opt/paperboat/userland.cpio </dev/null",
        &["userland reached", "smp: Brought up 1 node, 2 CPUs"],
        180,
    ),
    (
        "threads of one core, interrupts presented by the machine, a POWER8",
        "boot() { /opt/paperboat/bin/paperboat-vmm run --backend kvm --bare --memory 256M --cmdline console=hvc0 \
            --kernel /opt/paperboat/vmlinux --initrd /opt/paperboat/userland.cpio \"$@\" </dev/null; }
        boot --cpus 4 --threads 4 && boot --cpus 2 --xics machine && boot --cpu power8",
        &["smp: Brought up 1 node, 4 CPUs", "smp: Brought up 1 node, 2 CPUs", "POWER8 (architected)"],
        300,
    ),
    (
        "a container's life through containerd",
        concat!(include_str!("engine.sh"), include_str!("container.sh")),
        &["the exit status is 7", "POWER", "an exec's status is 3", "machines left is 0"],
        600,
    ),
];

/// The end-to-end suites that run in the lab as they are, what they leave out there, and how long each may take, in seconds.
const SUITES: &[(&str, &str, u64)] = &[
    // Debian's kernels are not in the lab, and only the software CPU repeats itself.
    ("machine", "--skip stock --skip bit_for_bit", 1800),
    ("thin_cut", "", 1800),
    ("tasks", "", 1800),
    ("pods", "", 1800),
    ("streams", "", 1800),
    ("files", "", 900),
    ("confinement", "", 1800),
    ("deaths", "", 1800),
    ("input", "", 1800),
    ("storage", "", 1800),
    ("network", "", 1800),
];

/// Tests of one suite that the routine run does: one of each kind. All of it takes four times as long.
const ROUTINE: &str = "thin_cut a_command_runs_in a_missing_kernel a_guest_that_panics_while_it_works a_shim_that_is_killed";

/// Where the suites find everything in the lab.
const PLACES: &str = "export PAPERBOAT_BACKEND=kvm PAPERBOAT_BIN=/opt/paperboat/bin PAPERBOAT_KERNEL=/opt/paperboat/vmlinux \
    PAPERBOAT_INITRAMFS=/opt/paperboat/initramfs.cpio PAPERBOAT_SHELL=/opt/paperboat/shell.cpio PAPERBOAT_PROBES=/opt/paperboat/probes \
    PAPERBOAT_HOSTILE=/opt/paperboat/hostile.cpio \
    PAPERBOAT_IMAGES=/opt/paperboat/images PAPERBOAT_CONTAINERD_BIN=/usr/bin \
    PAPERBOAT_RUNC_BIN=/usr/sbin PATH=/opt/paperboat/bin:$PATH";

/// One end-to-end test program with its arguments.
fn suite(name: &str, arguments: &str, limit_s: u64) -> Case {
    Case {
        name: format!("end-to-end: {name}"),
        script: format!("{PLACES}\n/opt/paperboat/tests/e2e-{name} --test-threads=1 {arguments}"),
        expect: &["test result: ok."],
        limit_s,
        shown: true,
    }
}

fn every_suite() -> impl Iterator<Item = Case> {
    SUITES.iter().map(|&(name, less, limit)| suite(name, &format!("--skip slow:: {less}"), limit))
}

fn list(all: bool) -> Vec<Case> {
    let base = BASE.iter().map(|&(name, script, expect, limit_s)| Case {
        name: name.into(),
        script: script.into(),
        expect,
        limit_s,
        shown: false,
    });
    if all {
        base.chain(every_suite()).collect()
    } else {
        let (name, tests) = ROUTINE.split_once(' ').unwrap_or((ROUTINE, ""));
        base.chain([suite(name, tests, 600)]).collect()
    }
}

/// `cargo xtask lab test`: the routine cases on one machine, or all cases on every machine.
pub fn run(ctx: &Ctx, machine: LabMachine, all: bool) -> Result<ExitCode> {
    let (programs, parts) = prepare(ctx)?;
    let machines = if all { LabMachine::value_variants() } else { &[machine] };
    let mut failed = Vec::new();
    let mut summaries = Vec::new();
    for &machine in machines {
        match boot_and_run(ctx, machine, &list(all), &programs, &parts) {
            Ok(summary) => summaries.push(summary),
            Err(error) => {
                eprintln!("error: {error:#}");
                failed.push(machine.name());
            }
        }
    }
    for summary in summaries {
        println!("{summary}");
    }
    ensure!(failed.is_empty(), "the lab failed on {}", failed.join(", "));
    Ok(ExitCode::SUCCESS)
}

/// `cargo xtask test --stage e2e --backend kvm`: the end-to-end suites alone, on powernv9.
pub fn suites(ctx: &Ctx) -> Result<Vec<String>> {
    let (programs, parts) = prepare(ctx)?;
    let cases: Vec<Case> = every_suite().collect();
    Ok(vec![boot_and_run(ctx, LabMachine::Powernv9, &cases, &programs, &parts)?])
}

/// The stage of `cargo xtask test`: the routine cases on powernv9, unless all that they depend on is as it was when they last passed on
/// this machine; everything everywhere if `all`.
pub fn stage(ctx: &Ctx, all: bool) -> Result<Vec<String>> {
    let (programs, parts) = prepare(ctx)?;
    let machines = if all { LabMachine::value_variants() } else { &[LabMachine::Powernv9] };
    let inputs = programs
        .inputs()?
        .with_file(&parts.guest.vmlinux)?
        .with_file(&parts.guest.initramfs)?
        .with_file(&parts.guest.disk)?
        .with("cases", digest(include_bytes!("suite.rs")))
        .with("machine", digest(include_bytes!("session.rs")))
        .with(
            "scripts",
            digest(concat!(include_str!("engine.sh"), include_str!("hosts.sh"), include_str!("container.sh")).as_bytes()),
        );
    let mut lines = Vec::new();
    for &machine in machines {
        let note = Passed::of(ctx, machine, all, inputs.key());
        if let Some(when) = note.read() {
            let line = format!("lab {}: not run: it passed {when} ago with the same programs, kernels and cases", machine.name());
            ctx.ui.line("test", &line);
            lines.push(line);
            continue;
        }
        lines.push(boot_and_run(ctx, machine, &list(all), &programs, &parts)?);
        note.write()?;
    }
    Ok(lines)
}

fn prepare(ctx: &Ctx) -> Result<(Programs, Parts)> {
    let _lock = ctx.lock()?;
    let host = Host::detect()?;
    setup::ensure_packages(ctx, &host)?;
    Ok((Programs::prepare(ctx, &host)?, Parts::prepare(ctx, &host, &[])?))
}

fn boot_and_run(ctx: &Ctx, machine: LabMachine, cases: &[Case], programs: &Programs, parts: &Parts) -> Result<String> {
    let started = Instant::now();
    let booted = Booted::new(ctx, machine, programs, parts)?;
    let mut failed = Vec::new();
    for case in cases {
        let begun = Instant::now();
        let mut screen = std::io::stderr();
        let screen = case.shown.then_some(&mut screen as &mut dyn Write);
        let problem = match booted.session.run(&case.script, Duration::from_secs(case.limit_s), screen) {
            Err(error) => Some(format!("{error:#}")),
            Ok(done) => case.problem(done.status, &done.output),
        };
        let took = duration(begun.elapsed());
        match problem {
            None => ctx.ui.line("lab", &format!("passed  {} ({took})", case.name)),
            Some(problem) => {
                ctx.ui.line("lab", &format!("FAILED  {} ({took})", case.name));
                eprintln!("{problem}");
                failed.push(case.name.as_str());
            }
        }
    }
    drop(booted);
    if !failed.is_empty() {
        bail!("failed in the lab {}: {}", machine.name(), failed.join(", "));
    }
    let took = duration(started.elapsed());
    Ok(format!("lab {}: {} of {} cases passed in {took}", machine.name(), cases.len(), cases.len()))
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

/// That cases passed on a machine, and with what.
struct Passed {
    path: PathBuf,
    key: String,
}

impl Passed {
    fn of(ctx: &Ctx, machine: LabMachine, all: bool, key: String) -> Self {
        let scope = if all { "all" } else { "routine" };
        Self { path: ctx.cache.root().join("lab/passed").join(format!("{}-{scope}", machine.name())), key }
    }

    /// How long ago they passed with the same.
    fn read(&self) -> Option<String> {
        let same = fs::read_to_string(&self.path).is_ok_and(|key| key == self.key);
        let when = same.then(|| fs::metadata(&self.path))?.ok()?.modified().ok()?;
        Some(duration(when.elapsed().unwrap_or_default()))
    }

    fn write(&self) -> Result<()> {
        let dir = self.path.parent().context("a note has a directory")?;
        fs::create_dir_all(dir)?;
        fs::write(&self.path, &self.key).context("note that the lab passed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_routine_run_is_a_part_of_everything() {
        let (routine, all) = (list(false), list(true));
        assert_eq!(all.len(), BASE.len() + SUITES.len());
        for case in &routine {
            assert!(all.iter().any(|of_all| of_all.name == case.name), "{}", case.name);
        }
    }

    #[test]
    fn a_case_needs_status_and_words() {
        let case = Case { name: String::new(), script: String::new(), expect: &["one", "two"], limit_s: 1, shown: false };
        assert_eq!(case.problem(0, "one two"), None);
        assert!(case.problem(1, "one two").unwrap().contains("exit status 1"));
        assert!(case.problem(0, "one").unwrap().contains("\"two\" is not in"));
    }
}
