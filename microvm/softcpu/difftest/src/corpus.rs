//! The golden corpus: cases with what QEMU made of them, as text, so that the comparison also runs where QEMU is missing.
//!
//! One case a line: number in its batch (which fixes the addresses), byte order, instruction words, disassembly of the first in brackets, state
//! before as `name=hex` (what is not named is zero), `->`, and what changed. `m16` is the 16 bytes of scratch storage from
//! offset 16 on. A case that ends in a signal has `signal=` alone after the arrow.

use std::fmt::Write;

use paperboat_softcpu::table::disasm::disassemble;
use paperboat_softcpu::table::operand::{Kind, fields};
use paperboat_softcpu::table::{Facility, Op};

use crate::case::{Case, Endian, Ending, MAX_INSTRUCTIONS, Outcome, SCRATCH_BYTES, Snapshot};
use crate::generate::accesses_storage;

/// Bytes of scratch storage per word of a line.
const CHUNK: usize = 16;

/// Why a corpus could not be read.
#[derive(Debug, thiserror::Error)]
#[error("line {line} of the corpus: {what} in {text:?}")]
pub struct CorpusError {
    /// Counted from one.
    line: usize,
    /// What is wrong.
    what: &'static str,
    /// Where.
    text: String,
}

/// A line of the corpus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Golden {
    /// Number of the case in its batch.
    pub index: usize,
    /// Byte order.
    pub endian: Endian,
    /// The instruction and the state before it.
    pub case: Case,
    /// What QEMU made of it.
    pub outcome: Outcome,
}

/// Zeroes what the instruction does not name, so that a line stays short.
pub fn quiet(op: Op, case: &Case) -> Case {
    let row = op.row();
    let branches = matches!(op, Op::Branch(_)) || row.operands.contains("SPR") || case.is_program();
    let (mut gprs, mut vsrs) = (0u32, 0u64);
    for field in fields(row) {
        let n = field.get(case.word);
        match field.kind {
            Kind::Gpr | Kind::GprOrZero => gprs |= 1 << n,
            Kind::GprPair => gprs |= 3 << n,
            Kind::Fpr | Kind::Vsr => vsrs |= 1 << n,
            Kind::FprPair => vsrs |= 3 << n,
            Kind::Vr => vsrs |= 1 << (32 + n),
            _ => {}
        }
    }
    if case.is_program() {
        (gprs, vsrs) = (u32::MAX, 0);
    }
    let mut before = case.before.clone();
    for (n, register) in before.gpr.iter_mut().enumerate() {
        *register *= u64::from(gprs >> n & 1);
    }
    for (n, register) in before.vsr.iter_mut().enumerate() {
        *register *= u128::from(vsrs >> n & 1);
    }
    let long = ["lmw", "stmw", "lswi", "lswx", "stswi", "stswx", "dcbz"].contains(&row.mnemonic);
    if !accesses_storage(row) && !case.is_program() {
        before.scratch = [0; SCRATCH_BYTES];
    } else if !long && !case.is_program() {
        // Accesses are aimed at bytes 64 to 127 and 16 bytes long at most.
        before.scratch[..48].fill(0);
        before.scratch[144..].fill(0);
    }
    if row.facility == Facility::Base || case.is_program() {
        (before.fpscr, before.vscr) = (0, 0);
    }
    if !branches {
        (before.lr, before.ctr) = (0, 0);
    }
    Case { word: case.word, rest: case.rest.clone(), before }
}

/// A case as a line.
pub fn to_line(index: usize, endian: Endian, case: &Case, outcome: &Outcome) -> String {
    let order = if endian == Endian::Little { "le" } else { "be" };
    let mut line = format!("{index} {order} {} [{}]", words(case), disassemble(case.word, 0));
    push_changes(&mut line, &Snapshot::default(), &case.before);
    line.push_str(" ->");
    match outcome.ending {
        Ending::Completed => push_changes(&mut line, &case.before, &outcome.after),
        Ending::Signal(signal) => push(&mut line, "signal", u128::from(signal)),
        Ending::NotRun => push(&mut line, "signal", 0),
    }
    line
}

fn words(case: &Case) -> String {
    let words: Vec<String> = case.words().map(|word| format!("{word:08x}")).collect();
    words.join("+")
}

fn push(line: &mut String, name: impl std::fmt::Display, value: u128) {
    // Writing to a String cannot fail.
    let _ = write!(line, " {name}={value:x}");
}

fn push_changes(line: &mut String, from: &Snapshot, to: &Snapshot) {
    for (n, (_, value)) in from.gpr.iter().zip(&to.gpr).enumerate().filter(|(_, (from, to))| from != to) {
        push(line, format_args!("r{n}"), u128::from(*value));
    }
    for (n, (_, value)) in from.vsr.iter().zip(&to.vsr).enumerate().filter(|(_, (from, to))| from != to) {
        push(line, format_args!("vs{n}"), *value);
    }
    let words = |state: &Snapshot| {
        [
            ("lr", state.lr),
            ("ctr", state.ctr),
            ("cr", u64::from(state.cr)),
            ("xer", state.xer),
            ("fpscr", state.fpscr),
            ("vscr", u64::from(state.vscr)),
        ]
    };
    for ((name, from), (_, to)) in words(from).into_iter().zip(words(to)) {
        if from != to {
            push(line, name, u128::from(to));
        }
    }
    for (n, (from, to)) in from.scratch.chunks_exact(CHUNK).zip(to.scratch.chunks_exact(CHUNK)).enumerate() {
        if from != to {
            let value = to.iter().fold(0u128, |value, byte| value << 8 | u128::from(*byte));
            push(line, format_args!("m{}", n * CHUNK), value);
        }
    }
}

/// Reads a corpus; empty lines and lines that begin with `#` do not count.
///
/// # Errors
/// [`CorpusError`] names the line and the word.
pub fn parse(text: &str) -> Result<Vec<Golden>, CorpusError> {
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(number, line)| {
            parse_line(line).map_err(|(what, text)| CorpusError { line: number + 1, what, text: text.to_owned() })
        })
        .collect()
}

fn parse_line(line: &str) -> Result<Golden, (&'static str, &str)> {
    let (head, rest) = line.split_once(" [").ok_or(("no disassembly", line))?;
    let (_, states) = rest.split_once(']').ok_or(("no end of the disassembly", line))?;
    let (before, after) = states.split_once("->").ok_or(("no arrow", line))?;
    let mut head = head.split(' ');
    let mut next = || head.next().ok_or(("too short", line));
    let index = next()?;
    let index = index.parse().map_err(|_| ("not a number", index))?;
    let endian = match next()? {
        "le" => Endian::Little,
        "be" => Endian::Big,
        other => return Err(("not a byte order", other)),
    };
    let words = next()?;
    let mut parsed = words.split('+').map(|word| u32::from_str_radix(word, 16));
    let wrong = |_| ("not an instruction word", words);
    let word = parsed.next().unwrap_or(Ok(0)).map_err(wrong)?;
    let rest = parsed.collect::<Result<Vec<u32>, _>>().map_err(wrong)?;
    if rest.len() >= MAX_INSTRUCTIONS {
        return Err(("too many instructions", words));
    }
    let mut case = Case { word, rest, before: Snapshot::default() };
    for item in before.split_whitespace() {
        apply(&mut case.before, item)?;
    }
    let mut outcome = Outcome { ending: Ending::Completed, after: case.before.clone() };
    for item in after.split_whitespace() {
        match item.strip_prefix("signal=") {
            Some(signal) => {
                let signal = u8::from_str_radix(signal, 16).map_err(|_| ("not a signal", item))?;
                outcome.ending = if signal == 0 { Ending::NotRun } else { Ending::Signal(signal) };
            }
            None => apply(&mut outcome.after, item)?,
        }
    }
    Ok(Golden { index, endian, case, outcome })
}

fn apply<'a>(state: &mut Snapshot, item: &'a str) -> Result<(), (&'static str, &'a str)> {
    let (name, value) = item.split_once('=').ok_or(("no value", item))?;
    let value = u128::from_str_radix(value, 16).map_err(|_| ("not a value", item))?;
    let number = |prefix: &str| name.strip_prefix(prefix).and_then(|number| number.parse::<usize>().ok());
    match name {
        "lr" => state.lr = value as u64,
        "ctr" => state.ctr = value as u64,
        "cr" => state.cr = value as u32,
        "xer" => state.xer = value as u64,
        "fpscr" => state.fpscr = value as u64,
        "vscr" => state.vscr = value as u32,
        _ => {
            if let Some(register) = number("r").and_then(|n| state.gpr.get_mut(n)) {
                *register = value as u64;
            } else if let Some(register) = number("vs").and_then(|n| state.vsr.get_mut(n)) {
                *register = value;
            } else if let Some(bytes) = number("m").and_then(|n| state.scratch.get_mut(n..n + CHUNK)) {
                bytes.copy_from_slice(&value.to_be_bytes());
            } else {
                return Err(("no such register", item));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_reads_back_as_it_was_written() {
        let mut before = Snapshot { cr: 5, fpscr: 3, ..Snapshot::default() };
        before.gpr[4] = 0x100;
        before.vsr[63] = 1 << 127;
        before.scratch[17] = 0xab;
        let mut after = before.clone();
        after.gpr[3] = 7;
        after.vsr[63] = 0;
        after.scratch[17] = 0;
        let case = Case { word: 0x3860_0007, rest: vec![0x6000_0000], before };
        for ending in [Ending::Completed, Ending::Signal(7)] {
            let after = if ending == Ending::Completed { after.clone() } else { case.before.clone() };
            let golden = Golden { index: 12, endian: Endian::Big, case: case.clone(), outcome: Outcome { ending, after } };
            let line = to_line(golden.index, golden.endian, &golden.case, &golden.outcome);
            assert_eq!(parse(&line).unwrap(), [golden], "{line}");
        }
    }

    #[test]
    fn a_broken_line_is_named() {
        let error = parse("# comment\n\n0 le 38600007 [addi] r99=1 ->").unwrap_err();
        assert_eq!(error.to_string(), "line 3 of the corpus: no such register in \"r99=1\"");
        assert!(parse("0 le 38600007 [addi] r1=1").is_err());
        assert!(parse("0 me 38600007 [addi] ->").is_err());
    }
}
