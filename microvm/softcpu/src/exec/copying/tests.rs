//! Whole turns of copying loops against their instructions, one by one.

use super::super::fuse::fuse;
use super::super::hot::testkit::{MEMORY_BYTES, Random, compare, copy, cpu, fill};
use super::super::lower::translate;
use super::super::uop::{MODE_64, MODE_LE};
use super::super::{Cpu, Stop, execute};
use super::*;
use crate::exec::hot::run_block;
use crate::table::{Insn, Level, decode};

const FROM: u32 = 4;
const TO: u32 = 3;
const CONTROL: u32 = 16;
/// lvsr of every alignment, and one that is none.
const CONTROLS: u64 = 18;

/// D- and DS-form: opcode, register, base, displacement.
fn d(opcode: u32, register: u32, base: u32, displacement: u32) -> u32 {
    opcode << 26 | register << 21 | base << 16 | displacement
}

/// lvx (103) or stvx (231).
fn x(extended: u32, register: u32, ra: u32, rb: u32) -> u32 {
    31 << 26 | register << 21 | ra << 16 | rb << 11 | extended << 1
}

/// The index register of quadword `k`: none, then 17, 18 …
fn at(k: u32, base: u32) -> (u32, u32) {
    if k == 0 { (0, base) } else { (base, 16 + k) }
}

/// The loop's words.
fn words(kind: Copying, count: u32) -> Vec<u32> {
    let bytes = if kind == Copying::Doublewords { 8 } else { 16 };
    let mut words = Vec::new();
    for k in 0..count {
        let (ra, rb) = at(k, FROM);
        match kind {
            Copying::Doublewords => words.push(d(58, 5 + k, FROM, 8 * k)),
            Copying::Quadwords => words.push(x(103, k, ra, rb)),
            Copying::Shifted => {
                words.push(x(103, k, ra, rb));
                let before = if k == 0 { count - 1 } else { k - 1 };
                words.push(4 << 26 | (8 + k) << 21 | k << 16 | before << 11 | CONTROL << 6 | 43);
            }
        }
    }
    words.push(d(14, FROM, FROM, bytes * count));
    for k in 0..count {
        let (ra, rb) = at(k, TO);
        words.push(match kind {
            Copying::Doublewords => d(62, 5 + k, TO, 8 * k),
            Copying::Quadwords => x(231, k, ra, rb),
            Copying::Shifted => x(231, 8 + k, ra, rb),
        });
    }
    words.push(d(14, TO, TO, bytes * count));
    words.push(0x4200_0000 | (4 * words.len() as u32).wrapping_neg() & 0xfffc);
    words
}

fn uops(words: &[u32]) -> Vec<Uop> {
    words.iter().map(|word| translate(Insn(*word), decode(Insn(*word)), MODE_64 | MODE_LE, Level::V300).0).collect()
}

/// The loop at `pc` by the plain semantics, until it ends, a check is due at its branch, or an instruction stops.
fn plainly(cpu: &mut Cpu, words: &[u32], pc: u64) -> Result<(), Stop> {
    cpu.st.pc = pc;
    loop {
        let insn = Insn(words[((cpu.st.pc - pc) / 4) as usize]);
        cpu.npc = cpu.st.pc + 4;
        execute(cpu, decode(insn).unwrap(), insn)?;
        cpu.instructions += 1;
        cpu.st.pc = cpu.npc;
        let turned = cpu.st.pc == pc;
        if cpu.st.pc == pc + 4 * words.len() as u64 || turned && cpu.instructions >= cpu.check_at {
            return Ok(());
        }
    }
}

#[test]
fn loops_of_every_kind_do_what_their_instructions_do() {
    let mut random = Random(15);
    let (mut hot, mut plain) = (cpu(), cpu());
    fill(&mut plain, &mut random);
    let pc = 0x1_0000;
    let mut whole = 0;
    for round in 0..1500 {
        let kind = [Copying::Doublewords, Copying::Quadwords, Copying::Shifted][round % 3];
        let count = match kind {
            Copying::Doublewords => 1 + random.next() as u32 % 16,
            Copying::Quadwords => 1 + random.next() as u32 % 8,
            Copying::Shifted => 2 + random.next() as u32 % 7,
        };
        let words = words(kind, count);
        let mut uops = uops(&words);
        assert_eq!(mark(&mut uops), words.len(), "{kind:?} {count}");
        if round % 50 == 0 {
            fill(&mut plain, &mut random);
        }
        let stride = u64::from(count) * if kind == Copying::Doublewords { 8 } else { 16 };
        let turns = random.next() % 120;
        let near = random.next() % 300;
        // Apart, overlapping either way, and running out of memory; aligned or not.
        let source = random.next() % (MEMORY_BYTES - 64);
        let destination = match random.next() % 4 {
            0 => source.wrapping_add(near),
            1 => source.saturating_sub(near),
            _ => random.next() % (MEMORY_BYTES - 64),
        };
        let mask = [!15, !7, !0][random.next() as usize % 3];
        (plain.st.gpr[FROM as usize], plain.st.gpr[TO as usize]) = (source & mask, destination & mask);
        plain.st.ctr = turns;
        for k in 1..8 {
            plain.st.gpr[16 + k] = 16 * k as u64;
        }
        if kind != Copying::Doublewords && random.next().is_multiple_of(16) {
            plain.st.gpr[17] = 32;
        }
        plain.st.vsr[32 + CONTROL as usize] = match random.next() % CONTROLS {
            17 => u128::from(random.next()) << 64 | u128::from(random.next()),
            n => 0x0001_0203_0405_0607_0809_0a0b_0c0d_0e0f + u128::from(n) * 0x0101_0101_0101_0101_0101_0101_0101_0101,
        };
        plain.check_at = 1 + random.next() % (stride * 40);
        hot.check_at = plain.check_at;
        copy(&plain, &mut hot);
        (plain.instructions, hot.instructions) = (0, 0);
        let slow = plainly(&mut plain, &words, pc);
        // What `hot::run` does: back to the block where its loop paused for nothing.
        hot.st.pc = pc;
        let fast = run_block(&mut hot, &CodeCache::default(), MODE_64 | MODE_LE, &uops, pc);
        assert_eq!(format!("{fast:?}"), format!("{slow:?}"), "{kind:?}");
        compare(Insn(words[0]), &hot, &plain);
        assert_eq!((hot.st.pc, hot.instructions), (plain.st.pc, plain.instructions), "{kind:?}");
        whole += u64::from(fast.is_ok());
    }
    assert!(whole > 600, "only {whole} loops came to an end");
}

#[test]
fn turns_are_done_at_once() {
    let mut cpu = cpu();
    cpu.check_at = u64::MAX;
    let words = words(Copying::Doublewords, 16);
    let mut uops = uops(&words);
    mark(&mut uops);
    (cpu.st.gpr[4], cpu.st.gpr[3], cpu.st.ctr) = (0, 0x8000, 9);
    // Both pages become known.
    for ea in [0, 0x8000] {
        cpu.storage.probe_store(ea, 8).unwrap();
    }
    let before = cpu.st.ctr;
    repeat(&mut cpu, &uops[..uops.len() - 1], Copying::Doublewords, 35);
    assert_eq!((before - cpu.st.ctr, cpu.instructions), (8, 8 * 35));
    assert_eq!((cpu.st.gpr[4], cpu.st.gpr[3]), (8 * 128, 0x8000 + 8 * 128));
}

#[test]
fn a_loop_across_two_pages_copies_too() {
    const PAGE: u64 = 0x4000;
    let mode = MODE_64 | MODE_LE;
    for (kind, count) in [(Copying::Doublewords, 16), (Copying::Quadwords, 8), (Copying::Shifted, 8)] {
        let words = words(kind, count);
        for begun in 1..words.len() - 2 {
            let pc = PAGE - 4 * begun as u64;
            let (mut hot, mut plain) = (cpu(), cpu());
            fill(&mut plain, &mut Random(begun as u64));
            (plain.st.gpr[FROM as usize], plain.st.gpr[TO as usize], plain.st.ctr) = (0x8000, 0xc000, 20);
            (1..8).for_each(|k| plain.st.gpr[16 + k] = 16 * k as u64);
            plain.st.vsr[32 + CONTROL as usize] = 0x0506_0708_090a_0b0c_0d0e_0f10_1112_1314;
            (plain.check_at, hot.check_at) = (u64::MAX, u64::MAX);
            copy(&plain, &mut hot);
            let (mut begin, mut end) = (uops(&words[..begun]), uops(&words[begun..]));
            fuse(&mut begin);
            assert_eq!(mark_across(&mut end), end.len(), "{kind:?} {begun}");
            let mut code = CodeCache::default();
            let page = code.page(pc >> 12, mode);
            code.insert(page, pc, &begin);
            let translation = hot.storage.translate_fetch(pc).unwrap();
            hot.storage.remember_fetch(pc, mode, &translation, code.page_code(page));
            for ea in [0x8000, 0xc000] {
                hot.storage.probe_store(ea, 8).unwrap();
            }
            repeat_across(&mut hot, &code, mode, &end[..end.len() - 1], pc);
            assert_eq!(hot.st.ctr, 1, "{kind:?} {begun}");
            plainly(&mut plain, &words, pc).unwrap();
            plainly(&mut hot, &words, pc).unwrap();
            compare(Insn(words[0]), &hot, &plain);
            assert_eq!(hot.instructions, plain.instructions);
        }
    }
}

#[test]
fn other_loops_stay_as_they_are() {
    let change = |at: usize, word: u32| {
        let mut words = words(Copying::Quadwords, 4);
        words[at] = word;
        mark(&mut uops(&words))
    };
    assert_eq!(change(1, x(103, 0, FROM, 17)), 0, "a register loaded twice");
    assert_eq!(change(1, x(103, 1, FROM, TO)), 0, "an index that moves");
    assert_eq!(change(4, d(14, FROM, FROM, 32)), 0, "another stride");
    assert_eq!(change(6, x(231, 2, TO, 17)), 0, "another order");
    assert_eq!(mark(&mut uops(&words(Copying::Shifted, 1))), 0, "the quadword before is loaded over");
    let mut elsewhere = words(Copying::Doublewords, 4);
    *elsewhere.last_mut().unwrap() -= 4;
    assert_eq!(mark(&mut uops(&elsewhere)), 0, "a branch past the beginning");
    let mut onto_itself = words(Copying::Doublewords, 1);
    onto_itself[0] = d(58, TO, FROM, 0);
    onto_itself[2] = d(62, TO, TO, 0);
    assert_eq!(mark(&mut uops(&onto_itself)), 0, "the destination's address is loaded");
}
