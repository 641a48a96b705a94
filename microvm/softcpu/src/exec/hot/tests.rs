//! Micro-ops against the plain semantics.

use super::super::fuse::fuse;
use super::super::lower::translate;
use super::super::uop::{MODE_64, MODE_LE};
use super::testkit::{EDGES, MEMORY_BYTES, Random, compare, copy, cpu, fill};
use super::*;
use crate::table::{FixedOp, Insn, Level, decode, decode::all_ops};

#[test]
fn hot_and_plain_forms_agree() {
    const ROUNDS: usize = 24;
    let mut random = Random(20260);
    let (mut hot, mut plain) = (cpu(), cpu());
    let mode = MODE_64 | MODE_LE;
    let mut covered = 0;
    fill(&mut plain, &mut random);
    for op in all_ops() {
        let row = op.row();
        for _ in 0..ROUNDS {
            let word = Insn(row.encoding.value | random.next() as u32 & !row.encoding.mask);
            if decode(word) != Some(op) {
                continue;
            }
            let (uop, _) = translate(word, Some(op), mode, Level::V300);
            if matches!(uop, Uop::Fixed(..) | Uop::Branch(..) | Uop::System(..) | Uop::Float(..) | Uop::Vmx(..) | Uop::Vsx(..)) {
                continue;
            }
            covered += 1;
            if covered % 64 == 1 {
                fill(&mut plain, &mut random);
            }
            let pc = 0x1_0000 + (random.next() & 0xffc);
            plain.st.pc = pc;
            plain.npc = pc + 4;
            copy(&plain, &mut hot);
            let fast = run_block(&mut hot, &CodeCache::default(), MODE_64 | MODE_LE, &[uop], pc);
            let slow = execute(&mut plain, op, word);
            assert_eq!(format!("{fast:?}"), format!("{slow:?}"), "{}", row.mnemonic);
            compare(word, &hot, &plain);
            if slow.is_ok() {
                assert_eq!(hot.st.pc, plain.npc, "{}", row.mnemonic);
            }
        }
    }
    assert!(covered > 1500, "only {covered} instances");
}

#[test]
fn a_fault_leaves_the_registers_and_names_its_instruction() {
    let mut cpu = cpu();
    cpu.st.gpr[4] = MEMORY_BYTES + 0x1000;
    let words = [0x3860_0001u32, 0xe8a4_0008, 0x3860_0002];
    let uops: Vec<Uop> = words.iter().map(|w| translate(Insn(*w), decode(Insn(*w)), MODE_64 | MODE_LE, Level::V300).0).collect();
    assert!(run_block(&mut cpu, &CodeCache::default(), MODE_64 | MODE_LE, &uops, 0x100).is_err());
    assert_eq!((cpu.st.pc, cpu.npc, cpu.instructions), (0x104, 0x108, 1));
    assert_eq!((cpu.st.gpr[3], cpu.st.gpr[5]), (1, 0));
    assert!(matches!(decode(Insn(words[1])), Some(Op::Fixed(FixedOp::Ld))));
}

/// A word of one of the instructions that pairs are made of, on few registers, so that they meet.
fn pairable(random: &mut Random) -> Insn {
    const WORDS: [u32; 17] = [
        0x2c20_0000, // cmpdi
        0x2c00_0000, // cmpwi
        0x2820_0000, // cmpldi
        0x2800_0000, // cmplwi
        0x7c20_0000, // cmpd
        0x7c00_0000, // cmpw
        0x7c20_0040, // cmpld
        0x7c00_0040, // cmplw
        0x7000_0000, // andi.
        0x7800_0001, // rldicl.
        0xe800_0000, // ld
        0xf800_0000, // std
        0x3800_0000, // addi
        0x3c00_0000, // addis
        0x7c00_0214, // add
        0x7c00_0278, // xor
        0x5400_003e, // rotlwi
    ];
    let registers = (random.next() as u32 % 4 + 3) << 21 | (random.next() as u32 % 4 + 3) << 16;
    let third = (random.next() as u32 % 4 + 3) << 11;
    let word = WORDS[random.next() as usize % WORDS.len()];
    Insn(match word >> 26 {
        10 | 11 => word | registers & 0x1f_0000 | random.next() as u32 & 0x0380_ffff,
        31 if word & 0x7ff == 0x40 || word & 0x7ff == 0 => {
            word | registers & 0x1f_0000 | third | random.next() as u32 & 0x0380_0000
        }
        31 => word | registers | third,
        30 | 21 => word | registers | random.next() as u32 & 0xf800,
        58 | 62 => word | registers | random.next() as u32 & 0x01f8,
        _ => word | registers | random.next() as u32 & 0xffff,
    })
}

/// What may follow it: a conditional branch on field 0 to 7, a move, a shift, mtlr and blr, or the same kind again.
fn follower(first: Insn, random: &mut Random) -> Insn {
    let field = if first.0 >> 26 == 28 || first.0 >> 26 == 30 { 0 } else { first.bits(6, 8) };
    let bit = field * 4 + random.next() as u32 % 4;
    let sense = if random.next().is_multiple_of(2) { 0x0180_0000 } else { 0x0080_0000 };
    match random.next() % 3 {
        0 => pairable(random),
        _ => Insn(0x4000_0000 | sense | bit << 16 | (random.next() as u32 & 0x7c)),
    }
}

#[test]
fn pairs_do_what_their_instructions_do() {
    const ROUNDS: usize = 6000;
    let mut random = Random(4);
    let (mut hot, mut plain) = (cpu(), cpu());
    let mode = MODE_64 | MODE_LE;
    let mut seen = std::collections::BTreeMap::<String, u32>::new();
    let fixed = [
        [0x7c64_1b78u32, 0x7ca6_2b78], // mr, mr
        [0x7c68_03a6, 0x4e80_0020],    // mtlr, blr
        [0x7864_1f24, 0x7ca4_1a14],    // sldi, add
        [0x5464_403e, 0x7c85_2278],    // rotlwi, xor
        [0xe883_0008, 0xe8a3_0010],    // ld, ld
        [0xf883_0008, 0xf8a3_0010],    // std, std
        [0x3c64_0001, 0x3863_8000],    // addis, addi
        [0x7c64_2a14, 0x7c83_3214],    // add, add
        [0x7c83_2a78, 0x7cc4_1a78],    // xor, xor
    ];
    for round in 0..ROUNDS {
        let words = match fixed.get(round % 16) {
            Some(pair) => pair.map(Insn),
            None => {
                let first = pairable(&mut random);
                [first, follower(first, &mut random)]
            }
        };
        let mut uops = words.map(|word| translate(word, decode(word), mode, Level::V300).0);
        let single = format!("{:?}", uops[0]);
        fuse(&mut uops);
        let both = format!("{:?}", uops[0]);
        if both == single {
            continue;
        }
        *seen.entry(both.split([' ', '(']).next().unwrap_or_default().to_owned()).or_default() += 1;
        if round % 32 == 0 {
            fill(&mut plain, &mut random);
        }
        let pc = 0x1_0000;
        for register in 3..7 {
            plain.st.gpr[register] = match random.next() % 4 {
                0 => EDGES[random.next() as usize % EDGES.len()],
                1 => random.next(),
                // The second of two doublewords lies beyond memory.
                2 => MEMORY_BYTES - 16,
                _ => random.next() % (MEMORY_BYTES + 64),
            };
        }
        copy(&plain, &mut hot);
        let fast = run_block(&mut hot, &CodeCache::default(), MODE_64 | MODE_LE, &uops, pc);
        plain.st.pc = pc;
        let mut slow = Ok(());
        let mut done = 0;
        for word in words {
            plain.npc = plain.st.pc + 4;
            slow = execute(&mut plain, decode(word).unwrap(), word);
            if slow.is_err() {
                break;
            }
            plain.st.pc = plain.npc;
            done += 1;
        }
        assert_eq!(format!("{fast:?}"), format!("{slow:?}"), "{both}");
        compare(words[0], &hot, &plain);
        assert_eq!((hot.st.pc, hot.instructions), (plain.st.pc, plain.instructions + done), "{both}");
        hot.instructions = 0;
        plain.instructions = 0;
    }
    assert_eq!(seen.len(), 19, "not every pair was seen: {seen:?}");
    assert!(seen.values().all(|count| *count >= 8), "{seen:?}");
}
