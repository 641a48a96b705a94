//! The golden corpus against the CPU, without QEMU.

use std::collections::HashSet;
use std::fmt::Write;

use paperboat_difftest::case::{Case, Endian};
use paperboat_difftest::compare::{agree, describe};
use paperboat_difftest::corpus::{Golden, parse};
use paperboat_difftest::machine::{self, Translation};
use paperboat_softcpu::table::{Insn, decode};

const CORPORA: [(&str, &str); 5] = [
    ("fixed", include_str!("../corpus/fixed.txt")),
    ("float", include_str!("../corpus/float.txt")),
    ("vmx", include_str!("../corpus/vmx.txt")),
    ("vsx", include_str!("../corpus/vsx.txt")),
    ("program", include_str!("../corpus/program.txt")),
];

/// Runs the lines of one byte order at the places they were recorded for; the descriptions of those that differ.
fn mismatches(golden: &[Golden], endian: Endian, translation: Translation) -> Vec<String> {
    let chosen: Vec<&Golden> = golden.iter().filter(|golden| golden.endian == endian).collect();
    let cases: Vec<Case> = chosen.iter().map(|golden| golden.case.clone()).collect();
    for (place, golden) in chosen.iter().enumerate() {
        assert_eq!(place, golden.index, "lines of a byte order are numbered through");
    }
    let outcomes = machine::run(&cases, endian, translation).expect("the machine runs");
    chosen
        .iter()
        .zip(outcomes)
        .filter_map(|(golden, ours)| {
            let op = decode(Insn(golden.case.word)).expect("an instruction of the table");
            let same = agree(op, &golden.case, &ours, &golden.outcome);
            (!same).then(|| describe(&golden.case, endian, &ours, &golden.outcome))
        })
        .collect()
}

#[test]
fn every_line_comes_out_as_recorded() {
    let mut wrong = String::new();
    for (name, text) in CORPORA {
        let golden = parse(text).expect("a readable corpus");
        for endian in [Endian::Little, Endian::Big] {
            for translation in [Translation::Real, Translation::Paged(12), Translation::Paged(16)] {
                for text in mismatches(&golden, endian, translation) {
                    let _ = writeln!(wrong, "{name}, {translation:?}: {text}");
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn most_of_the_table_is_in_it() {
    let mut mnemonics = HashSet::new();
    for (_, text) in CORPORA {
        for golden in parse(text).expect("a readable corpus") {
            mnemonics.insert(decode(Insn(golden.case.word)).expect("an instruction of the table").row().mnemonic);
        }
    }
    assert!(mnemonics.len() > 780, "only {} instructions", mnemonics.len());
}

#[test]
fn a_wrong_expectation_is_noticed() {
    let mut golden = parse(CORPORA[0].1).expect("a readable corpus");
    let add = golden.iter_mut().find(|golden| golden.case.word >> 26 == 14).expect("an addi");
    let (endian, target) = (add.endian, (add.case.word >> 21 & 31) as usize);
    add.outcome.after.gpr[target] ^= 1;
    assert_eq!(mismatches(&golden, endian, Translation::Real).len(), 1);
}
