//! `cargo xtask test`: the stages, their durations, and the runner's own summary at the end.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::chores::Products;
use crate::cli::{Stage, TestArgs, TestBackend};
use crate::ctx::Ctx;
use crate::engines::Scope;
use crate::setup::Host;
use crate::{guest, kernel, lab, leaks, lint, setup, ui};

/// The crate whose tests need guests.
const E2E: &str = "paperboat-e2e";

/// Lines of containerd beside the first one, as the tests' fixture knows them.
const OTHER_ENGINES: [&str; 2] = ["1.6", "2"];

/// A suite with an engine of another line, or one that is set up in another way.
struct OtherWay {
    stage: &'static str,
    suite: &'static str,
    /// By which the tests' fixture knows the way.
    variables: &'static [(&'static str, &'static str)],
}

const OTHER_WAYS: [OtherWay; 3] = [
    OtherWay { stage: "CRI, containerd 2", suite: "cri", variables: &[("PAPERBOAT_E2E_CONTAINERD", "2")] },
    OtherWay {
        stage: "CRI, sandbox API",
        suite: "cri",
        variables: &[("PAPERBOAT_E2E_CONTAINERD", "2"), ("PAPERBOAT_E2E_SANDBOXER", "shim")],
    },
    OtherWay { stage: "docker 28", suite: "docker", variables: &[("PAPERBOAT_E2E_DOCKER", "28")] },
];

/// The suites that show the Task API, which each line of containerd speaks in its own way.
const TASK_API: [&str; 8] = ["tasks", "pods", "streams", "confinement", "files", "deaths", "input", "thin_cut"];

/// What became of a stage.
struct Outcome {
    stage: String,
    seconds: String,
    result: Result<Vec<String>>,
}

/// Runs the stages asked for; a stage that fails does not keep the next ones from being tried.
pub fn run(ctx: &Ctx, args: &TestArgs) -> Result<ExitCode> {
    let wanted = |stage| args.stage.is_none_or(|only| only == stage);
    let mut outcomes = Vec::new();
    let mut stage = |name: &str, body: &mut dyn FnMut() -> Result<Vec<String>>| {
        ctx.ui.line("test", &format!("stage {name}"));
        let started = Instant::now();
        let result = body();
        if let Err(error) = &result {
            eprintln!("error: {error:#}");
        }
        let passed = result.is_ok();
        outcomes.push(Outcome { stage: name.to_owned(), seconds: ui::duration(started.elapsed()), result });
        passed
    };

    // Tests link against the machine's libraries and call its programs.
    stage("packages", &mut || {
        let _lock = ctx.lock()?;
        setup::ensure_packages(ctx, &Host::detect()?).map(|()| Vec::new())
    });
    if wanted(Stage::Lint) {
        stage("lint", &mut || lint::run(ctx).map(|()| Vec::new()));
    }
    if wanted(Stage::Unit) {
        stage("unit", &mut || unit(ctx));
        stage("difftest", &mut || difftest(ctx));
        if args.all {
            stage("leaks", &mut || leaks::run(ctx));
        } else {
            ctx.ui.line("test", "leaks: not run: it is part of --all");
        }
    }
    let in_lab = args.backend == TestBackend::Kvm && !Host::detect()?.is_power();
    if wanted(Stage::E2e) && in_lab {
        stage("e2e in the lab", &mut || lab::suites(ctx));
    } else if wanted(Stage::E2e) {
        let mut products = None;
        let prepared = stage("products", &mut || {
            products = Some(Products::prepare(ctx, Scope::of_tests(args.all))?);
            Ok(Vec::new())
        });
        if prepared && let Some(products) = &products {
            if nix::unistd::geteuid().is_root() {
                stage("e2e", &mut || e2e(ctx, products, args));
                for engine in OTHER_ENGINES.into_iter().filter(|_| args.all) {
                    let variables = [("PAPERBOAT_E2E_CONTAINERD", engine)];
                    stage(&format!("containerd {engine}"), &mut || suites(ctx, products, args, &TASK_API, &variables));
                }
                for way in OTHER_WAYS.iter().filter(|_| args.all) {
                    stage(way.stage, &mut || suites(ctx, products, args, &[way.suite], way.variables));
                }
                if !args.all {
                    ctx.ui.line(
                        "test",
                        "end-to-end tests in modules `slow`, those of the Task API and of CRI with other lines of containerd, those of Docker \
                         with 28: not run: they are part of --all",
                    );
                }
            } else {
                ctx.ui.line("test", "stage e2e: not run: containerd needs root");
            }
        }
        if args.all {
            stage("kernel twice", &mut || kernel_twice(ctx).map(|()| Vec::new()));
        } else {
            ctx.ui.line("test", "kernel twice: not run: it is part of --all");
        }
    }
    if wanted(Stage::Lab) {
        stage("lab", &mut || lab::stage(ctx, args.all));
        if !args.all {
            ctx.ui.line("test", "every end-to-end suite in the lab, and powernv8 and powernv10: not run: they are part of --all");
        }
    }

    eprintln!();
    for outcome in &outcomes {
        let word = if outcome.result.is_ok() { "passed" } else { "FAILED" };
        eprintln!("{:>14}  {word}  {}", outcome.stage, outcome.seconds);
    }
    for line in outcomes.iter().filter_map(|outcome| outcome.result.as_ref().ok()).flatten() {
        println!("{line}");
    }
    let failed: Vec<&str> =
        outcomes.iter().filter(|outcome| outcome.result.is_err()).map(|outcome| outcome.stage.as_str()).collect();
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    println!("failed: {}", failed.join(", "));
    Ok(ExitCode::FAILURE)
}

fn unit(ctx: &Ctx) -> Result<Vec<String>> {
    let mut tests = runner(ctx, Choice::Unit);
    let mut summary = stream(&mut tests)?;
    let mut examples = guest::cargo(ctx);
    examples.args(["test", "--quiet", "--workspace", "--doc", "--exclude", E2E]);
    summary.extend(stream(&mut examples)?.into_iter().filter(|line| !line.contains(" 0 passed")));
    Ok(summary)
}

/// The software CPU beside QEMU's: every row of the table that a program may use, always the same instances.
fn difftest(ctx: &Ctx) -> Result<Vec<String>> {
    const INSTANCES: &str = "200000";
    let mut tester = guest::cargo(ctx);
    tester.args(["run", "--quiet", "--release", "-p", "paperboat-difftest", "--", "--seed", "1", "--count", INSTANCES]);
    stream(&mut tester)
}

/// Tests in a module `slow` are left out unless all are wanted.
fn e2e(ctx: &Ctx, products: &Products, args: &TestArgs) -> Result<Vec<String>> {
    let mut tests = runner(ctx, Choice::EndToEnd(&[]));
    if !args.all {
        tests.args(["--", "--skip", "slow::"]);
    }
    with_products(&mut tests, products, args);
    stream(&mut tests)
}

/// Suites of the end-to-end tests with an engine of another line, or one that is set up in another way.
fn suites(ctx: &Ctx, products: &Products, args: &TestArgs, names: &[&str], variables: &[(&str, &str)]) -> Result<Vec<String>> {
    let mut tests = runner(ctx, Choice::EndToEnd(names));
    with_products(&mut tests, products, args);
    tests.envs(variables.iter().copied());
    stream(&mut tests)
}

fn with_products(tests: &mut Command, products: &Products, args: &TestArgs) {
    products.apply(tests);
    if args.backend == TestBackend::Kvm {
        tests.env("PAPERBOAT_BACKEND", "kvm");
    }
}

fn kernel_twice(ctx: &Ctx) -> Result<()> {
    let _lock = ctx.lock()?;
    let host = Host::detect()?;
    let first = kernel::prepare(ctx, &host)?;
    kernel::check_reproducible(ctx, &host, &first)
}

/// Which of the workspace's tests run.
enum Choice<'a> {
    /// Every crate's own.
    Unit,
    /// These suites of the end-to-end tests, or all.
    EndToEnd(&'a [&'a str]),
}

/// nextest where it is installed, cargo's own runner elsewhere.
fn runner(ctx: &Ctx, choice: Choice<'_>) -> Command {
    let mut cargo = guest::cargo(ctx);
    let has_nextest = guest::cargo(ctx)
        .args(["nextest", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if has_nextest {
        // Always the whole workspace, of which a filter takes its part: other packages have other features, and compile everything once more.
        cargo.args(["nextest", "run", "--no-fail-fast", "--workspace", "-E", &choice.filter()]);
    } else {
        cargo.args(["test", "--no-fail-fast"]);
        match choice {
            Choice::Unit => cargo.args(["--workspace", "--exclude", E2E]),
            Choice::EndToEnd(suites) => cargo.args(["-p", E2E]).args(suites.iter().flat_map(|suite| ["--test", suite])),
        };
    }
    cargo
}

impl Choice<'_> {
    /// As nextest is told.
    fn filter(&self) -> String {
        match self {
            Self::Unit => format!("not package({E2E})"),
            Self::EndToEnd([]) => format!("package({E2E})"),
            Self::EndToEnd(suites) => {
                let suites: Vec<String> = suites.iter().map(|suite| format!("binary({suite})")).collect();
                format!("package({E2E}) and ({})", suites.join(" or "))
            }
        }
    }
}

/// Runs tests with their output shown; returns the lines that sum them up.
fn stream(command: &mut Command) -> Result<Vec<String>> {
    let shown = crate::run::display(command);
    let (reader, writer) = std::io::pipe().context("make a pipe")?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn().with_context(|| format!("start {shown}"))?;
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut summary = Vec::new();
    for line in BufReader::new(reader).split(b'\n') {
        let line = line.context("read the tests' output")?;
        let line = String::from_utf8_lossy(&line);
        let _ = writeln!(std::io::stderr(), "{line}");
        if is_summary(&line) {
            summary.push(line.trim().to_owned());
        }
    }
    let status = child.wait()?;
    anyhow::ensure!(status.success(), "{shown}: {status}");
    Ok(summary)
}

fn is_summary(line: &str) -> bool {
    let line = line.trim_start();
    let of_difftest = line.contains(" instances of ") && line.contains(" mismatches in ");
    line.starts_with("test result:") || (line.starts_with("Summary [") && line.contains("tests run")) || of_difftest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_are_known() {
        assert!(is_summary("     Summary [   0.010s] 12 tests run: 12 passed, 0 skipped"));
        assert!(is_summary("test result: ok. 3 passed; 0 failed; 0 ignored"));
        assert!(is_summary("200000 instances of 826 rows, 499 ended in a signal; 0 mismatches in 0 rows"));
        assert!(!is_summary("        PASS [   0.010s] xtask cache::tests::x"));
    }

    #[test]
    fn a_filter_names_its_suites() {
        let filter = Choice::EndToEnd(&["tasks", "pods"]).filter();
        assert_eq!(filter, "package(paperboat-e2e) and (binary(tasks) or binary(pods))");
    }

    #[test]
    fn a_failing_command_is_an_error() {
        let passed = stream(Command::new("sh").args(["-c", "echo test result: ok."])).unwrap();
        assert_eq!(passed, ["test result: ok."]);
        assert!(stream(Command::new("sh").args(["-c", "echo test result: FAILED.; exit 101"])).is_err());
    }
}
