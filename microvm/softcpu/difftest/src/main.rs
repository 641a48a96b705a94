//! `paperboat-difftest`: see the library.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use paperboat_difftest::case::{Case, Endian, Ending, Outcome};
use paperboat_difftest::generate::{Class, candidates, case, runs_in};
use paperboat_difftest::image::BATCH;
use paperboat_difftest::machine::Translation;
use paperboat_difftest::qemu::Qemu;
use paperboat_difftest::rng::Rng;
use paperboat_difftest::{compare, corpus, direct, machine, program};
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
    signals: usize,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let qemu = Qemu::find()?;
    if let Some(directory) = &arguments.record {
        record(&qemu, directory, arguments.seed, arguments.count)?;
        return Ok(ExitCode::SUCCESS);
    }
    let ops = candidates(arguments.class, arguments.mnemonic.as_deref());
    anyhow::ensure!(!ops.is_empty() || arguments.class == Some(Class::Program), "no such instruction in that class");
    println!("{} instances, seed {}", arguments.count, arguments.seed);
    let mut rng = Rng::new(arguments.seed);
    let pool = program::pool();
    let mut tallies: BTreeMap<&'static str, Tally> = BTreeMap::new();
    let mut done = 0;
    let mut batch = 0;
    while done < arguments.count {
        let endian = if batch % 2 == 0 { Endian::Little } else { Endian::Big };
        let translation = Translation::of_batch(batch);
        batch += 1;
        let ops: Vec<Op> = ops.iter().copied().filter(|op| runs_in(*op, endian)).collect();
        // Without a class or an instruction named, every fourth pair of batches holds programs.
        let everything = arguments.class.is_none() && arguments.mnemonic.is_none();
        let programs = arguments.class == Some(Class::Program) || (everything && batch % 8 > 5);
        if ops.is_empty() && !programs {
            continue;
        }
        // Each row in turn, so that every row is covered however few instances there are.
        let size = BATCH.min(arguments.count - done);
        let cases: Vec<Case> = (0..size)
            .map(|index| match programs {
                true => program::case(&mut rng, &pool, index),
                false => case(&mut rng, ops[(done + index) % ops.len()], index),
            })
            .collect();
        let theirs = qemu.run(&cases, endian)?;
        let ours = if arguments.direct { direct::run(&cases, endian) } else { machine::run(&cases, endian, translation)? };
        for (index, (case, (ours, theirs))) in cases.iter().zip(ours.iter().zip(&theirs)).enumerate() {
            let Some(text) = judge(&mut tallies, case, endian, ours, theirs, arguments.show) else { continue };
            println!("{text}");
            if case.is_program() {
                let (case, ours, theirs) = shrink(&qemu, &cases, index, endian, translation)?;
                println!("shrunk to\n{}", compare::describe(&case, endian, &ours, &theirs));
            }
        }
        done += size;
    }
    let code = report(&tallies);
    // Instances that name no part of the table are to cover all of it.
    let missing = missing(&tallies);
    if arguments.class.is_none() && arguments.mnemonic.is_none() && arguments.count >= COVERING && !missing.is_empty() {
        println!("rows that were not run: {}", missing.join(", "));
        return Ok(ExitCode::FAILURE);
    }
    Ok(code)
}

/// From so many instances on, every row has its turn in both byte orders.
const COVERING: usize = 20_000;

/// The rows of problem state that had no instance.
fn missing(tallies: &BTreeMap<&'static str, Tally>) -> Vec<&'static str> {
    let mut rows: Vec<&str> = candidates(None, None).into_iter().map(|op| op.row().mnemonic).collect();
    rows.retain(|mnemonic| !tallies.contains_key(mnemonic));
    rows.dedup();
    rows
}

/// Records `per_row` cases of every instruction in both byte orders by turns, and some programs.
fn record(qemu: &Qemu, directory: &Path, seed: u64, per_row: usize) -> Result<()> {
    const PROGRAMS: usize = 20;
    let pool = program::pool();
    for class in Class::value_variants() {
        let name = class.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        let mut rng = Rng::new(seed);
        let ops = candidates(Some(*class), None);
        let mut text = format!("# Golden corpus, class {name}, seed {seed}: made by paperboat-difftest --record with QEMU.\n");
        for (turn, endian) in [Endian::Little, Endian::Big].into_iter().enumerate() {
            let chosen: Vec<Op> = (0..per_row)
                .flat_map(|round| ops.iter().map(move |op| (round, *op)))
                .filter(|(round, op)| runs_in(*op, endian) && (round % 2 == turn || !runs_in(*op, Endian::Little)))
                .map(|(_, op)| op)
                .collect();
            let count = if *class == Class::Program { PROGRAMS } else { chosen.len() };
            anyhow::ensure!(count <= BATCH, "{count} cases do not fit into one batch");
            let cases: Vec<Case> = (0..count)
                .map(|index| match chosen.get(index) {
                    Some(op) => corpus::quiet(*op, &case(&mut rng, *op, index)),
                    None => corpus::quiet(pool[0], &program::case(&mut rng, &pool, index)),
                })
                .collect();
            for (index, (case, outcome)) in cases.iter().zip(qemu.run(&cases, endian)?).enumerate() {
                text.push_str(&corpus::to_line(index, endian, case, &outcome));
                text.push('\n');
            }
        }
        std::fs::write(directory.join(format!("{name}.txt")), text)?;
    }
    Ok(())
}

/// Counts a case; the description of a mismatch if it is to be shown.
fn judge(
    tallies: &mut BTreeMap<&'static str, Tally>,
    case: &Case,
    endian: Endian,
    ours: &Outcome,
    theirs: &Outcome,
    show: usize,
) -> Option<String> {
    let op = decode(Insn(case.word))?;
    let tally = tallies.entry(if case.is_program() { "(program)" } else { op.row().mnemonic }).or_default();
    tally.run += 1;
    tally.signals += usize::from(theirs.ending != Ending::Completed);
    if compare::agree(op, case, ours, theirs) {
        return None;
    }
    tally.wrong += 1;
    (tally.wrong <= show).then(|| compare::describe(case, endian, ours, theirs))
}

/// Makes nothing of one instruction after the other as long as the two sides still differ.
fn shrink(
    qemu: &Qemu,
    cases: &[Case],
    index: usize,
    endian: Endian,
    translation: Translation,
) -> Result<(Case, Outcome, Outcome)> {
    // Addresses depend on the place in the batch, so the program stays where it is.
    let mut cases = cases[..=index].to_vec();
    let run = |cases: &[Case]| -> Result<(Outcome, Outcome)> {
        let last = |outcomes: Vec<Outcome>| outcomes.into_iter().last().ok_or_else(|| anyhow::anyhow!("no outcome"));
        Ok((last(machine::run(cases, endian, translation)?)?, last(qemu.run(cases, endian)?)?))
    };
    for at in 0..=cases[index].rest.len() {
        let full = cases[index].clone();
        match at.checked_sub(1) {
            None => cases[index].word = program::NOP,
            Some(at) => cases[index].rest[at] = program::NOP,
        }
        let (ours, theirs) = run(&cases)?;
        let Some(op) = decode(Insn(cases[index].word)) else { continue };
        if compare::agree(op, &cases[index], &ours, &theirs) {
            cases[index] = full;
        }
    }
    let (ours, theirs) = run(&cases)?;
    Ok((cases.swap_remove(index), ours, theirs))
}

fn report(tallies: &BTreeMap<&'static str, Tally>) -> ExitCode {
    let (mut run, mut wrong, mut bad, mut signals) = (0, 0, 0, 0);
    for (mnemonic, tally) in tallies {
        run += tally.run;
        wrong += tally.wrong;
        signals += tally.signals;
        if tally.wrong > 0 {
            bad += 1;
            println!("{mnemonic}: {} of {} differ", tally.wrong, tally.run);
        }
    }
    println!("{run} instances of {} rows, {signals} ended in a signal; {wrong} mismatches in {bad} rows", tallies.len());
    if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
