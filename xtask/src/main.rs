//! The one door for every chore: `cargo xtask …`.

#![forbid(unsafe_code)]

mod apt;
mod bench;
mod cache;
mod chores;
mod cli;
mod ctx;
#[cfg(test)]
mod docs;
mod engines;
mod guest;
mod images;
mod initramfs;
mod kernel;
mod lab;
mod layer;
mod leaks;
mod licences;
mod lint;
#[cfg(test)]
mod messages;
mod oci;
mod probes;
mod run;
mod setup;
mod stock;
mod test;
mod toolchain;
mod ui;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use crate::cli::{Chore, Cli};
use crate::ctx::Ctx;

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            match is_disk_full(&error) {
                true => eprintln!("error: {}: {error:#}", run::DISK_FULL),
                false => eprintln!("error: {error:#}"),
            }
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    let ctx = Ctx::new(cli.offline)?;
    let _lock = match cli.chore {
        // These run for long after everything is prepared, and let others work meanwhile.
        Chore::Test(_) | Chore::Demo | Chore::Bench(_) | Chore::Lint | Chore::Difftest(_) | Chore::Lab(_) => None,
        _ => Some(ctx.lock()?),
    };
    match cli.chore {
        Chore::Setup(args) => chores::setup(&ctx, &args),
        Chore::Demo => return chores::demo(&ctx),
        Chore::Test(args) => return test::run(&ctx, &args),
        Chore::Bench(args) => bench::run(&ctx, &args),
        Chore::Lab(args) => return lab::run(&ctx, &args),
        Chore::Difftest(args) => return chores::difftest(&ctx, &args),
        Chore::Kernel(args) => chores::kernel(&ctx, &args),
        Chore::Images => chores::images(&ctx),
        Chore::Build(args) => chores::build(&ctx, &args),
        Chore::Env(args) => chores::env(&ctx, &args),
        Chore::Lint => lint::run(&ctx),
        Chore::Clean => chores::clean(&ctx),
    }?;
    Ok(ExitCode::SUCCESS)
}

fn is_disk_full(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<std::io::Error>().is_some_and(|io| io.kind() == std::io::ErrorKind::StorageFull))
}
