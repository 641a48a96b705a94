//! Runs the cases of each lab, and sums up.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use super::cases::{self, Case};
use super::programs::Programs;
use super::report::{Ending, Outcome, Report, Summary, Tests};
use super::session::Session;
use super::{Booted, Parts};
use crate::cache::{Inputs, digest, remove_tree};
use crate::cli::LabMachine;
use crate::ctx::Ctx;
use crate::engines::Scope;
use crate::setup::{self, Host};
use crate::ui::duration;

/// Labs that run at once: each keeps one processor busy and may take 4 GiB.
const AT_ONCE: usize = 2;
/// Lines of a failed case's output that are shown at once.
const SHOWN_LINES: usize = 60;

/// `cargo xtask lab test`: the routine cases on one machine, or all cases on every machine.
pub fn run(ctx: &Ctx, machine: Option<LabMachine>, all: bool) -> Result<ExitCode> {
    let machines = machines(machine, all);
    let (programs, parts) = prepare(ctx, &machines, |machine| cases::of(machine, all), Scope::of_tests(all))?;
    let jobs = machines.into_iter().zip(&parts).collect();
    let reports = each(jobs, |machine, parts| boot_and_run(ctx, machine, cases::of(machine, all), &programs, parts));
    print!("\n{}", Summary(&reports));
    lines(&reports)?;
    Ok(ExitCode::SUCCESS)
}

/// One line for each machine.
///
/// # Errors
/// Names the machines on which something failed.
fn lines(reports: &[Report]) -> Result<Vec<String>> {
    let failed = Summary(reports).failed().join(", ");
    ensure!(failed.is_empty(), "the lab failed on {failed}");
    Ok(reports.iter().map(Report::summary).collect())
}

/// Does `task` for each machine, for some of them at once; what it says of each, in order.
fn each(jobs: Vec<(LabMachine, &Parts)>, task: impl Fn(LabMachine, &Parts) -> Report + Sync) -> Vec<Report> {
    let count = jobs.len();
    let (jobs, done) = (Mutex::new(jobs.into_iter().enumerate()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(count) {
            scope.spawn(|| {
                loop {
                    let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some((number, (machine, parts))) = next else { return };
                    let report = task(machine, parts);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((number, report));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, report)| report).collect()
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
    const MACHINE: LabMachine = LabMachine::Powernv9;
    let (programs, parts) = prepare(ctx, &[MACHINE], cases::suites, Scope::Routine)?;
    let reports = [boot_and_run(ctx, MACHINE, cases::suites(MACHINE), &programs, &parts[0])];
    eprint!("\n{}", Summary(&reports));
    lines(&reports)
}

/// The stage of `cargo xtask test`: the routine cases on powernv9, unless all that they depend on is as it was when they last passed on
/// this machine; everything everywhere if `all`.
pub fn stage(ctx: &Ctx, all: bool) -> Result<Vec<String>> {
    let machines = machines(None, all);
    let (programs, parts) = prepare(ctx, &machines, |machine| cases::of(machine, all), Scope::of_tests(all))?;
    let jobs = machines.into_iter().zip(&parts).collect();
    let reports = each(jobs, |machine, parts| unless_passed(ctx, machine, all, &programs, parts));
    eprint!("\n{}", Summary(&reports));
    lines(&reports)
}

/// One machine's part of the stage.
fn unless_passed(ctx: &Ctx, machine: LabMachine, all: bool, programs: &Programs, parts: &Parts) -> Report {
    let cases = cases::of(machine, all);
    let mut report = Report::of(ctx, machine);
    let note = match inputs(programs, &cases, parts) {
        Ok(inputs) => Passed::of(ctx, machine, all, inputs.key()),
        Err(error) => {
            report.trouble = Some(format!("{error:#}"));
            return report;
        }
    };
    if let Some(when) = note.read() {
        let why = format!("not run: it passed {when} ago with the same programs, kernels and cases");
        ctx.ui.line("test", &format!("lab {}: {why}", machine.name()));
        report.skipped = Some(why);
        return report;
    }
    report = boot_and_run(ctx, machine, cases, programs, parts);
    if report.passed() {
        report.trouble = note.write().err().map(|error| format!("{error:#}"));
    }
    report
}

/// Identity of all that decides how the cases end.
fn inputs(programs: &Programs, cases: &[Case], parts: &Parts) -> Result<Inputs> {
    let inputs = programs.inputs(|name| cases::used(cases, name))?;
    let inputs = [&parts.guest.vmlinux, &parts.guest.initramfs, &parts.guest.disk]
        .into_iter()
        .try_fold(inputs, |inputs, path| inputs.with_file(path))?;
    Ok(inputs
        .with("cases", digest(include_bytes!("cases.rs")))
        .with("machine", digest(include_bytes!("session.rs")))
        .with("scripts", digest(cases::SCRIPTS.concat().as_bytes())))
}

/// The programs of the machines' cases, and what each of the machines boots.
fn prepare(
    ctx: &Ctx,
    machines: &[LabMachine],
    cases: impl Fn(LabMachine) -> Vec<Case>,
    scope: Scope,
) -> Result<(Programs, Vec<Parts>)> {
    let _lock = ctx.lock()?;
    let host = Host::detect()?;
    setup::ensure_packages(ctx, &host)?;
    let parts = machines.iter().map(|&machine| Parts::prepare(ctx, &host, machine, &[])).collect::<Result<_>>()?;
    let cases: Vec<Case> = machines.iter().flat_map(|&machine| cases(machine)).collect();
    Ok((Programs::prepare(ctx, &host, |name| cases::used(&cases, name), scope)?, parts))
}

/// Boots a lab, runs the cases, ends it. Whatever goes wrong is in the report.
fn boot_and_run(ctx: &Ctx, machine: LabMachine, cases: Vec<Case>, programs: &Programs, parts: &Parts) -> Report {
    let started = Instant::now();
    let mut report = Report::of(ctx, machine);
    let logs = report.console.with_file_name("cases");
    report.outcomes = cases.iter().map(|case| Outcome::to_come(case, &logs)).collect();
    let result = Session::of(ctx, machine).ensure_down().and_then(|()| {
        // Of the last run.
        remove_tree(&logs)?;
        fs::create_dir_all(&logs).context("make the directory of logs")?;
        let booted = Booted::new(ctx, machine, programs, |name| cases::used(&cases, name), parts)?;
        for (case, outcome) in cases.iter().zip(&mut report.outcomes) {
            run_case(&booted, machine, case, outcome)?;
            ensure!(booted.session.is_up(), "the lab ended in the case {:?}", case.name);
        }
        Ok(())
    });
    if let Err(error) = result {
        eprintln!("error: {}: {error:#}", machine.name());
        report.trouble = Some(format!("{error:#}"));
    }
    report.took = started.elapsed();
    report
}

/// Runs a case, with its output in a file and perhaps on the screen.
fn run_case(booted: &Booted<'_>, machine: LabMachine, case: &Case, outcome: &mut Outcome) -> Result<()> {
    let begun = Instant::now();
    let log = File::create(&outcome.log).with_context(|| format!("write {}", outcome.log.display()))?;
    let mut output = Output { log, screen: case.shown.then(|| Lines { machine, rest: Vec::new() }) };
    let done = booted.session.run(&case.script, case.limit, Some(&mut output));
    drop(output);
    let problem = match done {
        Err(error) => Some(format!("{error:#}")),
        Ok(done) => {
            outcome.tests = Tests::of(&done.output);
            case.problem(done.status, &done.output)
        }
    };
    outcome.took = begun.elapsed();
    let (name, took) = (machine.name(), duration(outcome.took));
    let Some(problem) = problem else {
        outcome.ending = Ending::Passed;
        booted.ctx.ui.line("lab", &format!("{name} passed  {} ({took})", case.name));
        return Ok(());
    };
    booted.ctx.ui.line("lab", &format!("{name} FAILED  {} ({took})", case.name));
    eprintln!("{problem}");
    if !case.shown {
        eprintln!("{}", last_lines(&outcome.log));
    }
    eprintln!("the whole output: {}", outcome.log.display());
    outcome.ending = Ending::Failed(problem);
    Ok(())
}

/// The end of a case's output.
fn last_lines(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
}

impl Report {
    /// Of a machine on which nothing has been run yet.
    fn of(ctx: &Ctx, machine: LabMachine) -> Self {
        let console = Session::of(ctx, machine).console_log();
        Self { machine, outcomes: Vec::new(), trouble: None, skipped: None, took: Duration::ZERO, console }
    }
}

impl Outcome {
    /// Of a case that has not been run yet; its log is in the directory by its name.
    fn to_come(case: &Case, logs: &Path) -> Self {
        let name: String = case.name.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' }).collect();
        let log = logs.join(format!("{name}.log"));
        Self { case: case.name.clone(), ending: Ending::NotRun, took: Duration::ZERO, tests: Tests::default(), log }
    }
}

/// A case's output: to its file, and to the screen.
struct Output {
    log: File,
    screen: Option<Lines>,
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.log.write_all(bytes)?;
        if let Some(screen) = &mut self.screen {
            screen.write_all(bytes)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
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
