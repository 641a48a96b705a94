//! `paperboat`: the operator's command. It reads pods' state directories, and asks their machines over the control API.
//!
//! [`cli`] says what it understands; each command has a file of its own. [`pods`] finds pods and asks them, [`table`] prints for people.

#![forbid(unsafe_code)]

mod check;
mod cli;
mod config;
mod exec_vm;
mod failure;
mod logs;
mod pages;
mod pods;
mod ps;
mod table;
mod top;
mod trace;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};
use crate::failure::Failure;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(code) => code,
        // Whoever reads our output has enough: `paperboat ps | head`.
        Err(Failure::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("paperboat: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<ExitCode, Failure> {
    match &cli.command {
        Command::Check => check::run(cli),
        Command::Ps => ps::run(cli),
        Command::Stats(arguments) => ps::stats(cli, arguments),
        Command::Top(arguments) => top::run(cli, arguments),
        Command::Logs(arguments) => logs::run(cli, arguments),
        Command::ExecVm(arguments) => exec_vm::run(cli, arguments),
        Command::Trace(arguments) => trace::run(cli, arguments),
        Command::Config(arguments) => config::run(cli, arguments),
        Command::Version => pages::version(cli),
        Command::Completions(arguments) => pages::completions(arguments),
        Command::Man(arguments) => pages::man(arguments),
    }
}
