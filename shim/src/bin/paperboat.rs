//! `paperboat`: the operator's command.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use paperboat_shim::check;
use paperboat_shim::config::Config;

/// Container pods in micro-VMs on IBM POWER.
#[derive(Parser)]
#[command(name = "paperboat")]
struct Options {
    /// Configuration file; without it the one in PAPERBOAT_CONFIG, else /etc/paperboat/config.yaml.
    #[arg(long, global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Prints the version.
    Version,
    /// Says whether pods can start on this host.
    Check,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match options.command {
        Command::Version => {
            println!("paperboat {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Command::Check => match Config::load(options.config.as_deref()) {
            Ok(config) => report(&config),
            Err(error) => {
                eprintln!("paperboat: {error}");
                ExitCode::FAILURE
            }
        },
    }
}

fn report(config: &Config) -> ExitCode {
    let findings = check::check(config);
    for finding in &findings {
        println!("{} {}: {}", if finding.good { "ok  " } else { "FAIL" }, finding.what, finding.detail);
    }
    if findings.iter().all(|finding| finding.good) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
