//! `paperboat-fuzz`: runs a target on mutations of its corpus. An input that panics is printed and kept.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use paperboat_fuzz::mutate::{Random, mutated};
use paperboat_fuzz::{TARGETS, corpus};

/// Fuzzes a part of the machine with mutations of its corpus.
#[derive(Parser)]
struct Arguments {
    /// devices, elf, hypercalls, inside or rtas.
    target: String,
    /// How many inputs to run.
    #[arg(long, default_value_t = 100_000)]
    rounds: u64,
    /// Start of the random sequence; the same seed gives the same inputs.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Run one input, a file as the corpus has it, instead.
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Where an input that panics is kept.
    #[arg(long, default_value = ".", value_name = "DIR")]
    keep: PathBuf,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let names = || TARGETS.iter().map(|target| target.name).collect::<Vec<_>>().join(", ");
    let target = TARGETS.iter().find(|target| target.name == arguments.target);
    let target = target.with_context(|| format!("no target {:?}: there are {}", arguments.target, names()))?;
    if let Some(path) = &arguments.input {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        (target.run)(&corpus::parse(&text).with_context(|| format!("{}", path.display()))?);
        return Ok(ExitCode::SUCCESS);
    }
    let inputs: Vec<Vec<u8>> = corpus::load(target.name)?.into_iter().map(|(_, bytes)| bytes).collect();
    let mut random = Random::new(arguments.seed);
    for round in 0..arguments.rounds {
        let input = mutated(&inputs, &mut random);
        if catch_unwind(AssertUnwindSafe(|| (target.run)(&input))).is_err() {
            let path = arguments.keep.join(format!("{}-{}-{round}.hex", target.name, arguments.seed));
            fs::write(&path, corpus::format(&input)).with_context(|| format!("write {}", path.display()))?;
            eprintln!("round {round} of seed {} panicked: {}", arguments.seed, path.display());
            return Ok(ExitCode::FAILURE);
        }
    }
    println!("{} inputs of {}, seed {}: no panic", arguments.rounds, target.name, arguments.seed);
    Ok(ExitCode::SUCCESS)
}
