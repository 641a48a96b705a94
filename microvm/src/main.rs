//! `paperboat-vmm`: one process, one micro-VM. `run` is for people at a terminal, `serve` for the shim.
#![deny(unsafe_code)]

#[path = "cli/heap.rs"]
mod heap;
#[path = "cli/inherited.rs"]
mod inherited;
#[path = "cli/logger.rs"]
mod logger;
#[path = "cli/numbers.rs"]
mod numbers;
#[path = "cli/run.rs"]
mod run;
#[path = "cli/serve.rs"]
mod serve;
#[path = "cli/stopper.rs"]
mod stopper;
#[path = "cli/terminal.rs"]
mod terminal;
#[path = "cli/trace.rs"]
mod trace;

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
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error),
    };
    logger::install();
    heap::keep_small();
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

/// Help and version as clap prints them; a mistake as one line.
fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // Nobody to tell when standard output is gone.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print();
        return ExitCode::from(run::EXIT_USAGE);
    }
    let text = error.to_string();
    // clap ends its reason with an empty line; lists of missing options stand on lines of their own.
    let reason: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
    let reason = reason.join(" ");
    eprintln!("paperboat-vmm: {} (see paperboat-vmm --help)", reason.strip_prefix("error: ").unwrap_or(&reason));
    ExitCode::from(run::EXIT_USAGE)
}
