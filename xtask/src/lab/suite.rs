//! Runs the cases of each lab and sums up.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use super::cases::{self, Case};
use super::programs::Programs;
use super::{Booted, Parts};
use crate::cache::{Inputs, digest};
use crate::cli::LabMachine;
use crate::ctx::Ctx;
use crate::engines::Scope;
use crate::setup::{self, Host};
use crate::ui::duration;

/// `cargo xtask lab test`: the routine cases on one machine, or all cases on every machine.
pub fn run(ctx: &Ctx, machine: Option<LabMachine>, all: bool) -> Result<ExitCode> {
    let machines = machines(machine, all);
    let (programs, parts) = prepare(ctx, &machines, all)?;
    let mut failed = Vec::new();
    let mut summaries = Vec::new();
    for (machine, parts) in machines.into_iter().zip(&parts) {
        match boot_and_run(ctx, machine, &cases::of(machine, all), &programs, parts) {
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

/// The machine asked for, else powernv9; all of them if `all` and none was named.
fn machines(asked: Option<LabMachine>, all: bool) -> Vec<LabMachine> {
    match asked {
        Some(machine) => vec![machine],
        None if all => LabMachine::value_variants().to_vec(),
        None => vec![LabMachine::Powernv9],
    }
}

/// `cargo xtask test --stage e2e --backend kvm`: the end-to-end suites alone, on powernv9.
pub fn suites(ctx: &Ctx) -> Result<Vec<String>> {
    let (programs, parts) = prepare(ctx, &[LabMachine::Powernv9], false)?;
    let cases: Vec<Case> = cases::suites().collect();
    Ok(vec![boot_and_run(ctx, LabMachine::Powernv9, &cases, &programs, &parts[0])?])
}

/// The stage of `cargo xtask test`: the routine cases on powernv9, unless all that they depend on is as it was when they last passed on
/// this machine; everything everywhere if `all`.
pub fn stage(ctx: &Ctx, all: bool) -> Result<Vec<String>> {
    let machines = machines(None, all);
    let (programs, parts) = prepare(ctx, &machines, all)?;
    let mut lines = Vec::new();
    for (machine, parts) in machines.into_iter().zip(&parts) {
        let inputs = inputs(&programs, parts)?;
        let note = Passed::of(ctx, machine, all, inputs.key());
        if let Some(when) = note.read() {
            let line = format!("lab {}: not run: it passed {when} ago with the same programs, kernels and cases", machine.name());
            ctx.ui.line("test", &line);
            lines.push(line);
            continue;
        }
        lines.push(boot_and_run(ctx, machine, &cases::of(machine, all), &programs, parts)?);
        note.write()?;
    }
    Ok(lines)
}

/// Identity of all that decides how the cases end.
fn inputs(programs: &Programs, parts: &Parts) -> Result<Inputs> {
    let inputs = programs.inputs()?;
    let inputs = [&parts.guest.vmlinux, &parts.guest.initramfs, &parts.guest.disk]
        .into_iter()
        .try_fold(inputs, |inputs, path| inputs.with_file(path))?;
    Ok(inputs
        .with("cases", digest(include_bytes!("cases.rs")))
        .with("machine", digest(include_bytes!("session.rs")))
        .with("scripts", digest(cases::SCRIPTS.concat().as_bytes())))
}

/// Programs, and what each of the machines boots.
fn prepare(ctx: &Ctx, machines: &[LabMachine], all: bool) -> Result<(Programs, Vec<Parts>)> {
    let _lock = ctx.lock()?;
    let host = Host::detect()?;
    setup::ensure_packages(ctx, &host)?;
    let parts = machines.iter().map(|&machine| Parts::prepare(ctx, &host, machine, &[])).collect::<Result<_>>()?;
    let tests = machines.iter().any(|machine| !LabMachine::UNABLE.contains(machine));
    Ok((Programs::prepare(ctx, &host, tests, Scope::of_tests(all))?, parts))
}

fn boot_and_run(ctx: &Ctx, machine: LabMachine, cases: &[Case], programs: &Programs, parts: &Parts) -> Result<String> {
    let started = Instant::now();
    let booted = Booted::new(ctx, machine, programs, |name| cases::used(cases, name), parts)?;
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
