//! Runs the cases of each lab, and sums up.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

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

/// Labs that run at once: each keeps one processor busy and may take 4 GiB.
const AT_ONCE: usize = 2;

/// `cargo xtask lab test`: the routine cases on one machine, or all cases on every machine.
pub fn run(ctx: &Ctx, machine: Option<LabMachine>, all: bool) -> Result<ExitCode> {
    let machines = machines(machine, all);
    let (programs, parts) = prepare(ctx, &machines, all)?;
    let jobs = machines.into_iter().zip(&parts).collect();
    for summary in each(jobs, |machine, parts| boot_and_run(ctx, machine, &cases::of(machine, all), &programs, parts))? {
        println!("{summary}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Does `task` for each machine, for some of them at once; what it says of each, in order.
///
/// # Errors
/// Names those on which it failed, when it has been done for all.
fn each(jobs: Vec<(LabMachine, &Parts)>, task: impl Fn(LabMachine, &Parts) -> Result<String> + Sync) -> Result<Vec<String>> {
    let count = jobs.len();
    let (jobs, done) = (Mutex::new(jobs.into_iter().enumerate()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(count) {
            // A lab ends with the thread that has booted it.
            scope.spawn(|| {
                loop {
                    let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some((number, (machine, parts))) = next else { return };
                    let result = task(machine, parts);
                    if let Err(error) = &result {
                        eprintln!("error: {error:#}");
                    }
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((number, machine, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(number, ..)| *number);
    let failed: Vec<&str> = done.iter().filter(|(.., result)| result.is_err()).map(|(_, machine, _)| machine.name()).collect();
    let failed = failed.join(", ");
    let summaries: Vec<String> = done.into_iter().filter_map(|(.., result)| result.ok()).collect();
    ensure!(failed.is_empty(), "the lab failed on {failed}; {}", summaries.join("; "));
    Ok(summaries)
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
    let cases: Vec<Case> = cases::suites(LabMachine::Powernv9).collect();
    Ok(vec![boot_and_run(ctx, LabMachine::Powernv9, &cases, &programs, &parts[0])?])
}

/// The stage of `cargo xtask test`: the routine cases on powernv9, unless all that they depend on is as it was when they last passed on
/// this machine; everything everywhere if `all`.
pub fn stage(ctx: &Ctx, all: bool) -> Result<Vec<String>> {
    let machines = machines(None, all);
    let (programs, parts) = prepare(ctx, &machines, all)?;
    let jobs = machines.into_iter().zip(&parts).collect();
    each(jobs, |machine, parts| {
        let inputs = inputs(&programs, parts)?;
        let note = Passed::of(ctx, machine, all, inputs.key());
        if let Some(when) = note.read() {
            let line = format!("lab {}: not run: it passed {when} ago with the same programs, kernels and cases", machine.name());
            ctx.ui.line("test", &line);
            return Ok(line);
        }
        let line = boot_and_run(ctx, machine, &cases::of(machine, all), &programs, parts)?;
        note.write()?;
        Ok(line)
    })
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
    let (mut failed, mut tests) = (Vec::new(), 0);
    for case in cases {
        let begun = Instant::now();
        let mut screen = Lines { machine, rest: Vec::new() };
        let screen = case.shown.then_some(&mut screen as &mut dyn Write);
        let problem = match booted.session.run(&case.script, case.limit, screen) {
            Err(error) => Some(format!("{error:#}")),
            Ok(done) => {
                tests += cases::tests(&done.output);
                case.problem(done.status, &done.output)
            }
        };
        let (name, took) = (machine.name(), duration(begun.elapsed()));
        match problem {
            None => ctx.ui.line("lab", &format!("{name} passed  {} ({took})", case.name)),
            Some(problem) => {
                ctx.ui.line("lab", &format!("{name} FAILED  {} ({took})", case.name));
                eprintln!("{problem}");
                failed.push(case.name.as_str());
            }
        }
        ensure!(booted.session.is_up(), "the lab {} ended in the case {:?}", machine.name(), case.name);
    }
    drop(booted);
    if !failed.is_empty() {
        bail!("failed in the lab {}: {}", machine.name(), failed.join(", "));
    }
    let took = duration(started.elapsed());
    Ok(format!("lab {}: {} of {} cases passed, {tests} tests in them, in {took}", machine.name(), cases.len(), cases.len()))
}

/// A case's output on the screen, line by line, each with its machine: two may be at work.
struct Lines {
    machine: LabMachine,
    rest: Vec<u8>,
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.rest.extend_from_slice(bytes);
        while let Some(end) = self.rest.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            eprint!("{:>14}  {}", self.machine.name(), String::from_utf8_lossy(&line));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        if !self.rest.is_empty() {
            eprintln!("{:>14}  {}", self.machine.name(), String::from_utf8_lossy(&self.rest));
        }
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
