//! The machine under a leak checker: its test of starting and stopping, in every state and way, executed by valgrind. A part of
//! `cargo xtask test --all`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::ctx::Ctx;
use crate::run::{Log, capture};
use crate::setup::{self, Host};
use crate::{guest, kernel};

/// The checker.
const PACKAGES: &[&str] = &["valgrind"];
/// Exit status of the checker when it found something.
const FOUND: &str = "9";

/// What cargo reports of a program that it built.
#[derive(Deserialize)]
struct Built {
    target: Target,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

const TEST: &str = "stop";

/// Builds the test, and runs it under the checker: memory that nothing points to any more is an error, and so are accesses outside of it.
pub fn run(ctx: &Ctx) -> Result<Vec<String>> {
    let vmlinux = {
        let _lock = ctx.lock()?;
        setup::ensure_installed(ctx, PACKAGES)?;
        kernel::prepare(ctx, &Host::detect()?)?.vmlinux
    };
    let mut cargo = guest::cargo(ctx);
    cargo.args(["test", "--no-run", "--message-format=json-render-diagnostics", "-p", "paperboat-microvm", "--test", TEST]);
    let text = capture(&mut cargo)?;
    // Lines of other kinds name no target or no executable.
    let mut built = text.lines().filter_map(|line| serde_json::from_str::<Built>(line).ok());
    let test = built.find(|built| built.target.name == TEST && built.executable.is_some()).and_then(|built| built.executable);
    let test = test.with_context(|| format!("cargo built no test `{TEST}`"))?;
    let log = Log::create(ctx.cache.logs().join("leaks.log"))?;
    let mut checker = Command::new("valgrind");
    checker.args(["--leak-check=full", "--show-leak-kinds=definite,indirect", "--errors-for-leak-kinds=definite,indirect"]);
    checker.arg(format!("--error-exitcode={FOUND}")).arg("--fair-sched=yes").arg(test);
    checker.env("PAPERBOAT_LEAK_CHECK", "1").env("PAPERBOAT_KERNEL", vmlinux);
    log.run(&mut checker, None)?;
    let text = std::fs::read_to_string(log.path())?;
    let summary = |words: &str| text.lines().find(|line| line.contains(words)).map(|line| line.trim().to_owned());
    let lost =
        summary("ERROR SUMMARY").with_context(|| format!("the checker said nothing; its log: {}", log.path().display()))?;
    ensure!(text.contains("test result: ok. 1 passed"), "the test did not run; its log: {}", log.path().display());
    Ok(vec![format!("leaks: {lost}")])
}
