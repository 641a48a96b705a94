//! `cargo xtask lint`: format, clippy, documentation, and what the dependencies are.

use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::ctx::Ctx;
use crate::run::{Log, NO_NETWORK};
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
        false => ctx.ui.line("lint", "advisories: not run: cargo-deny is not installed"),
        true => match cargo(ctx, "advisories", &["deny", "check", "advisories"], &[]) {
            Err(error) if is_unreachable(&format!("{error:#}")) => {
                ctx.ui.line("lint", "advisories: not run: their database cannot be reached");
            }
            result => check("advisories", result),
        },
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

/// Whether cargo-deny has failed for want of its database, rather than by what is in it.
fn is_unreachable(failure: &str) -> bool {
    failure.contains("failed to fetch advisory database") || failure.starts_with(NO_NETWORK)
}

fn has_cargo_deny(ctx: &Ctx) -> bool {
    let probe =
        |command: &mut Command| command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    !ctx.offline && probe(guest::cargo(ctx).args(["deny", "--version"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advisories_that_cannot_be_had_are_told_from_those_that_apply() {
        assert!(is_unreachable("command failed (exit status: 1): …\n [ERROR] failed to fetch advisory database https://example"));
        assert!(!is_unreachable("command failed (exit status: 1): …\n error[vulnerability]: use after free in libexample"));
    }
}
