//! Compiled blocks against interpreted ones.

use super::super::block::Found;
use super::super::fuse::fuse;
use super::super::hot;
use super::super::hot::testkit::{MEMORY_BYTES, Random, compare, copy, cpu, fill};
use super::super::lower::translate;
use super::super::uop::{MODE_64, MODE_LE, Uop, may_fall_through};
use super::super::{Op, msr};
use super::*;
use crate::table::{Insn, Level, decode, decode::all_ops};

const MODE: u32 = MODE_64 | MODE_LE;
/// Where blocks run, beyond what random addresses reach.
const PC: u64 = 0x7_0000;

/// A block of up to `len` random instructions: their words and micro-ops.
fn random_block(random: &mut Random, ops: &[Op], len: usize) -> (Vec<Insn>, Vec<Uop>) {
    let (mut words, mut uops) = (Vec::new(), Vec::new());
    while words.len() < len {
        let op = ops[random.next() as usize % ops.len()];
        let encoding = op.row().encoding;
        let mut word = encoding.value | random.next() as u32 & !encoding.mask;
        // Often few registers, so that instructions meet.
        if random.next().is_multiple_of(2) {
            word &= encoding.mask | 0xfc63_18ff;
        }
        if decode(Insn(word)) != Some(op) {
            continue;
        }
        let (uop, ends) = translate(Insn(word), Some(op), MODE, Level::V300);
        words.push(Insn(word));
        uops.push(uop);
        if ends && !may_fall_through(uop) {
            break;
        }
    }
    fuse(&mut uops);
    (words, uops)
}

/// The instructions of blocks; those with micro-ops of their own are as frequent as all others.
fn candidates() -> Vec<Op> {
    let weight = |op: &Op| match op {
        Op::Fixed(_) | Op::Branch(_) => 4,
        Op::System(_) => usize::from(matches!(op.row().mnemonic, "mfspr" | "mtspr")),
        _ => 1,
    };
    all_ops().flat_map(|op| std::iter::repeat_n(op, weight(&op))).collect()
}

#[test]
fn compiled_and_interpreted_blocks_agree() {
    const ROUNDS: usize = 20_000;
    let mut random = Random(77);
    let (mut compiled, mut plain) = (cpu(), cpu());
    let mut cache = CodeCache::new(Compiler::new(&compiled), 128);
    let page = cache.page(PC >> 12, MODE);
    let ops = candidates();
    let mut ran = 0;
    for round in 0..ROUNDS {
        if round % 16 == 0 {
            fill(&mut plain, &mut random);
        }
        if round % 1024 == 0 {
            cache.clear();
            assert_eq!(cache.page(PC >> 12, MODE), page);
        }
        let len = 1 + random.next() as usize % 12;
        let (words, uops) = random_block(&mut random, &ops, len);
        let offset = (random.next() % (4096 - 4 * 16)) & !3;
        cache.forget(PC >> 12);
        cache.insert(page, offset, &uops);
        cache.compile(page, offset);
        copy(&plain, &mut compiled);
        for cpu in [&mut plain, &mut compiled] {
            cpu.st.pc = PC + offset;
            (cpu.instructions, cpu.cfar, cpu.check_at) = (100, 1, 0);
        }
        let slow = hot::run_block(&mut plain, &CodeCache::default(), MODE, &uops, PC + offset);
        let Found::Compiled(entry) = cache.blocks(page).unwrap().at(PC + offset) else { continue };
        ran += 1;
        let fast = cache.run_compiled(&mut compiled, entry);
        let text = format!("{uops:?} {words:x?}");
        assert_eq!(format!("{fast:?}"), format!("{slow:?}"), "{text}");
        compare(words[0], &compiled, &plain);
        let rest = |cpu: &Cpu| (cpu.st.pc, cpu.instructions, cpu.cfar, cpu.st.fpscr, cpu.st.vscr);
        assert_eq!(rest(&compiled), rest(&plain), "{text}");
        if slow.is_err() {
            assert_eq!(compiled.npc, plain.npc, "{text}");
        }
        assert_ne!(plain.st.msr & msr::SF, 0);
    }
    assert!(ran > ROUNDS * 9 / 10, "only {ran} blocks were compiled");
}

#[test]
fn a_full_region_is_used_again_from_its_beginning() {
    let mut cpu = cpu();
    let mut cache = CodeCache::new(Compiler::new(&cpu), 128);
    // A load sixty-three times, then a return.
    let uops: Vec<Uop> = std::iter::repeat_n(Uop::Ld { rt: 3, ra: 4, imm: 8 }, 63).chain([Uop::Blr]).collect();
    let mut blocks = 0;
    while !cache.is_full() {
        let page = cache.page(0x1000 + blocks, MODE);
        cache.insert(page, 0, &uops);
        cache.compile(page, 0);
        assert!(matches!(cache.blocks(page).unwrap().at(0), Found::Compiled(_)), "block {blocks}");
        blocks += 1;
    }
    assert!((500..16_000).contains(&blocks), "full after {blocks} blocks");
    cache.clear();
    let page = cache.page(0x1000, MODE);
    assert!(!cache.is_full() && matches!(cache.blocks(page).unwrap().at(0), Found::None));
    cache.insert(page, 0, &uops);
    cache.compile(page, 0);
    let Found::Compiled(entry) = cache.blocks(page).unwrap().at(0) else { panic!("not compiled") };
    (cpu.st.pc, cpu.st.lr, cpu.st.gpr[4]) = (PC, 0x40, 0x1000);
    cpu.storage.ram().store::<8>(0x1008, 77);
    cache.run_compiled(&mut cpu, entry).unwrap();
    assert_eq!((cpu.st.pc, cpu.st.gpr[3], cpu.instructions), (0x40, 77, 64));
}

/// A new AMR in the middle of a block holds for the accesses behind it.
#[test]
fn an_access_behind_a_new_amr_is_checked_by_it() {
    const AMR_DENIES_READS_OF_KEY_0: u64 = 1 << 62;
    const AMR: u32 = 29;
    let mut cpu = cpu();
    let mut cache = CodeCache::new(Compiler::new(&cpu), 128);
    // Segment 0, VSID 1, pages of 4 KiB; the page at 0x3000 in its group of the table, readable and writable in both states.
    let _ = cpu.storage.slb.slbmte(1 << 12, 0x0800_0000);
    let group = (1u64 ^ 3) % (cpu.shared.hpt.entry_count() / 8);
    assert_eq!(cpu.shared.hpt.h_enter(0, group * 8, 1 << 12, 0x3000 | 0x110 | 2, MEMORY_BYTES).reply.status, 0);
    cpu.set_msr(msr::SF | msr::LE | msr::DR);
    let mtspr = Insn(31 << 26 | 5 << 21 | (AMR & 31) << 16 | (AMR >> 5) << 11 | 467 << 1);
    let words = [Insn(0xe864_0000), mtspr, Insn(0xe8c4_0000), Insn(0x4e80_0020)];
    let uops: Vec<Uop> = words.iter().map(|word| translate(*word, decode(*word), MODE, Level::V300).0).collect();
    let page = cache.page(PC >> 12, MODE);
    cache.insert(page, 0, &uops);
    cache.compile(page, 0);
    let Found::Compiled(entry) = cache.blocks(page).unwrap().at(0) else { panic!("not compiled") };
    cpu.storage.ram().store::<8>(0x3000, 77);
    for (amr, readable) in [(0, true), (AMR_DENIES_READS_OF_KEY_0, false), (0, true)] {
        (cpu.st.pc, cpu.st.lr, cpu.st.gpr[4], cpu.st.gpr[5], cpu.st.gpr[6]) = (PC, 0, 0x3000, amr, 0);
        cpu.storage.set_amr(0);
        assert_eq!(cache.run_compiled(&mut cpu, entry).is_ok(), readable, "AMR {amr:#x}");
        assert_eq!((cpu.st.gpr[3], cpu.st.gpr[6]), (77, if readable { 77 } else { 0 }), "AMR {amr:#x}");
    }
}
