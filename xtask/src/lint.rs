//! `cargo xtask lint`: format, clippy, documentation, and what the dependencies are.

use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::ctx::Ctx;
use crate::run::Log;
use crate::{guest, licences};

/// Runs every check; all failures are shown, not only the first.
pub fn run(ctx: &Ctx) -> Result<()> {
    let mut failures = Vec::new();
    let mut check = |name: &str, result: Result<()>| match result {
        Ok(()) => ctx.ui.line("lint", &format!("{name}: passed")),
        Err(error) => {
            eprintln!("error: {name}: {error:#}");
            failures.push(name.to_owned());
        }
    };
    check("format", cargo(ctx, "fmt", &["fmt", "--all", "--check"], &[]));
    check("clippy", cargo(ctx, "clippy", &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"], &[]));
    check("documentation", cargo(ctx, "doc", &["doc", "--workspace", "--no-deps"], &[("RUSTDOCFLAGS", "-D warnings")]));
    check("dependencies", licences::check(ctx));
    match has_cargo_deny(ctx) {
        true => check("advisories", cargo(ctx, "advisories", &["deny", "check", "advisories"], &[])),
        false => ctx.ui.line("lint", "advisories: not run: cargo-deny is not installed"),
    }
    if failures.is_empty() {
        return Ok(());
    }
    bail!("lint failed: {}", failures.join(", "))
}

fn cargo(ctx: &Ctx, name: &str, args: &[&str], variables: &[(&str, &str)]) -> Result<()> {
    let log = Log::create(ctx.cache.logs().join(format!("lint-{name}.log")))?;
    let mut command = guest::cargo(ctx);
    command.args(args).envs(variables.iter().copied());
    log.run(&mut command, Some(&mut ctx.ui.progress("lint", None)))
}

fn has_cargo_deny(ctx: &Ctx) -> bool {
    let probe =
        |command: &mut Command| command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    !ctx.offline && probe(guest::cargo(ctx).args(["deny", "--version"]))
}
