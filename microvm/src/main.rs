//! `paperboat-vmm`: one process, one micro-VM. `run` is for people at a terminal, `serve` for the shim.
#![deny(unsafe_code)]

#[path = "cli/inherited.rs"]
mod inherited;
#[path = "cli/logger.rs"]
mod logger;
#[path = "cli/run.rs"]
mod run;
#[path = "cli/serve.rs"]
mod serve;
#[path = "cli/terminal.rs"]
mod terminal;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use paperboat_microvm::backend;

#[derive(Parser)]
#[command(name = "paperboat-vmm", version, about = "A micro-VM for POWER: a PAPR partition on KVM or on a software POWER CPU")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run one machine with its console here.
    Run(Box<run::RunArguments>),
    /// Serve the control API to a program that started this one.
    Serve(serve::ServeArguments),
    /// Say whether this host runs guests under KVM; if not, why, and what helps. Exit status 0 if it does, 1 if not.
    Probe,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    logger::install();
    let outcome = match arguments.command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Serve(arguments) => serve::serve(&arguments),
        Command::Probe => backend::probe_kvm().map_err(anyhow::Error::from).map(|found| {
            println!("kvm: {found}");
            ExitCode::SUCCESS
        }),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            // One line with every cause: what people and the shim's log show.
            eprintln!("paperboat-vmm: {error:#}");
            ExitCode::from(run::EXIT_USAGE)
        }
    }
}
