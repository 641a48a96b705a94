//! `paperboat-difftest`: see the library.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use paperboat_difftest::case::{Case, Endian, Outcome};
use paperboat_difftest::generate::{Class, candidates, case, runs_in};
use paperboat_difftest::image::BATCH;
use paperboat_difftest::qemu::Qemu;
use paperboat_difftest::rng::Rng;
use paperboat_difftest::{compare, corpus, direct, machine};
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
    /// Write a golden corpus into this directory instead of comparing: `--count` cases per instruction, all classes.
    #[arg(long)]
    record: Option<PathBuf>,
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
    if let Some(directory) = &arguments.record {
        record(&qemu, directory, arguments.seed, arguments.count)?;
        return Ok(ExitCode::SUCCESS);
    }
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

/// Records `per_row` cases of every instruction in both byte orders by turns.
fn record(qemu: &Qemu, directory: &Path, seed: u64, per_row: usize) -> Result<()> {
    for class in Class::value_variants() {
        let name = class.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        let mut rng = Rng::new(seed);
        let ops = candidates(Some(*class), None);
        let mut text = format!("# Golden corpus, class {name}, seed {seed}: made by paperboat-difftest --record with QEMU.\n");
        for (turn, endian) in [Endian::Little, Endian::Big].into_iter().enumerate() {
            let chosen = (0..per_row).flat_map(|round| ops.iter().map(move |op| (round, *op)));
            let cases: Vec<Case> = chosen
                .filter(|(round, op)| runs_in(*op, endian) && (round % 2 == turn || !runs_in(*op, Endian::Little)))
                .enumerate()
                .map(|(index, (_, op))| corpus::quiet(op, &case(&mut rng, op, index)))
                .collect();
            anyhow::ensure!(cases.len() <= BATCH, "{} cases do not fit into one batch", cases.len());
            for (index, (case, outcome)) in cases.iter().zip(qemu.run(&cases, endian)?).enumerate() {
                text.push_str(&corpus::to_line(index, endian, case, &outcome));
                text.push('\n');
            }
        }
        std::fs::write(directory.join(format!("{name}.txt")), text)?;
    }
    Ok(())
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
