//! `paperboat-difftest`: see the library.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use paperboat_difftest::case::{Case, Endian, Outcome};
use paperboat_difftest::generate::{Class, candidates, case, runs_in};
use paperboat_difftest::image::BATCH;
use paperboat_difftest::qemu::Qemu;
use paperboat_difftest::rng::Rng;
use paperboat_difftest::{compare, direct, machine};
use paperboat_softcpu::table::{Insn, Op, decode};

/// Compares the software CPU with QEMU, instruction by instruction.
#[derive(Parser)]
struct Arguments {
    /// How many instruction instances to run.
    #[arg(long, default_value_t = 200_000)]
    count: usize,
    /// Start of the random sequence; the same seed gives the same instances.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only this part of the table.
    #[arg(long)]
    class: Option<Class>,
    /// Only this instruction.
    #[arg(long)]
    mnemonic: Option<String>,
    /// Mismatches to show per instruction.
    #[arg(long, default_value_t = 1)]
    show: usize,
    /// Run the vector part by itself instead of the whole CPU.
    #[arg(long)]
    direct: bool,
}

#[derive(Default)]
struct Tally {
    run: usize,
    wrong: usize,
    shown: Vec<String>,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let qemu = Qemu::find()?;
    let ops = candidates(arguments.class, arguments.mnemonic.as_deref());
    anyhow::ensure!(!ops.is_empty(), "no such instruction in that class");
    println!("{} instances of {} instructions, seed {}", arguments.count, ops.len(), arguments.seed);
    let mut rng = Rng::new(arguments.seed);
    let mut tallies: BTreeMap<&'static str, Tally> = BTreeMap::new();
    let mut done = 0;
    let mut batch = 0;
    while done < arguments.count {
        let endian = if batch % 2 == 0 { Endian::Little } else { Endian::Big };
        batch += 1;
        let ops: Vec<Op> = ops.iter().copied().filter(|op| runs_in(*op, endian)).collect();
        if ops.is_empty() {
            continue;
        }
        // Each row in turn, so that every row is covered however few instances there are.
        let size = BATCH.min(arguments.count - done);
        let cases: Vec<Case> = (0..size).map(|index| case(&mut rng, ops[(done + index) % ops.len()], index)).collect();
        let theirs = qemu.run(&cases, endian)?;
        let ours = if arguments.direct { direct::run(&cases, endian) } else { machine::run(&cases, endian)? };
        for (case, (ours, theirs)) in cases.iter().zip(ours.iter().zip(&theirs)) {
            judge(&mut tallies, case, endian, ours, theirs, arguments.show);
        }
        done += size;
    }
    Ok(report(&tallies))
}

fn judge(
    tallies: &mut BTreeMap<&'static str, Tally>,
    case: &Case,
    endian: Endian,
    ours: &Outcome,
    theirs: &Outcome,
    show: usize,
) {
    let Some(op): Option<Op> = decode(Insn(case.word)) else { return };
    let tally = tallies.entry(op.row().mnemonic).or_default();
    tally.run += 1;
    if !compare::agree(op, case, ours, theirs) {
        tally.wrong += 1;
        if tally.shown.len() < show {
            tally.shown.push(compare::describe(case, endian, ours, theirs));
        }
    }
}

fn report(tallies: &BTreeMap<&'static str, Tally>) -> ExitCode {
    let (mut run, mut wrong, mut bad) = (0, 0, 0);
    for (mnemonic, tally) in tallies {
        run += tally.run;
        wrong += tally.wrong;
        if tally.wrong > 0 {
            bad += 1;
            println!("{mnemonic}: {} of {} differ", tally.wrong, tally.run);
            for text in &tally.shown {
                println!("{text}");
            }
        }
    }
    println!("{run} instances of {} instructions, {wrong} mismatches in {bad} of them", tallies.len());
    if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
