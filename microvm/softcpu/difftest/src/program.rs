//! Short programs: fixed-point instructions, accesses to storage, branches forward and at most one loop. What single
//! instructions cannot show appears here: fused and specialised forms, the ends of blocks, and code that is entered in the middle.

use paperboat_softcpu::table::operand::{Kind, fields};
use paperboat_softcpu::table::{Op, Row};

use crate::case::{Case, MAX_INSTRUCTIONS, SCRATCH_BYTES};
use crate::generate::{Class, accesses_storage, candidates, field_named, is_update, random_word, snapshot};
use crate::image::scratch_address;
use crate::rng::Rng;

/// `ori r0,r0,0`.
pub const NOP: u32 = 24 << 26;

/// Registers that programs compute with: few, so that results meet.
const WORKING: std::ops::RangeInclusive<u32> = 3..=12;
/// Holds an index of 0 to 47.
const INDEX: u32 = 28;
/// Points into the scratch storage and is never written.
const BASE: u32 = 29;
/// Points into the scratch storage and moves with update forms.
const MOVING: u32 = 27;

/// The instructions that programs are made of: results are defined for all operands, and storage is reached through a base register.
pub fn pool() -> Vec<Op> {
    const UNFIT: &[&str] = &[
        "lq", "stq", "lqarx", "lmw", "stmw", "lswi", "lswx", "stswi", "stswx", "dcbz", "lbarx", "lharx", "lwarx", "ldarx",
        "lwat", "ldat", "stwat", "stdat", "mtspr", "tw", "twi", "td", "tdi", "addpcis",
    ];
    candidates(Some(Class::Fixed), None)
        .into_iter()
        .filter(|op| {
            let name = op.row().mnemonic;
            let undefined = ["div", "mod", "mulhw"].iter().any(|start| name.starts_with(start));
            let branch = op.row().operands.contains("LI") || op.row().operands.contains("BO");
            !undefined && !branch && !UNFIT.contains(&name)
        })
        .collect()
}

/// Makes a program of instructions of the pool, to run as number `index` of its batch.
pub fn case(rng: &mut Rng, pool: &[Op], index: usize) -> Case {
    let length = 4 + rng.below(MAX_INSTRUCTIONS as u64 - 4) as usize;
    let mut before = snapshot(rng, pool[0].row());
    // A loop makes moving bases move too far.
    let looped = rng.one_in(3);
    let mut words: Vec<u32> = (0..length)
        .map(|_| {
            let op = rng.pick(pool);
            instruction(rng, op.row(), looped)
        })
        .collect();
    place_branches(rng, &mut words, looped);
    for (n, register) in before.gpr.iter_mut().enumerate().filter(|(n, _)| !WORKING.contains(&(*n as u32))) {
        *register = n as u64;
    }
    before.ctr = 1 + rng.below(6);
    let middle = scratch_address(index) + SCRATCH_BYTES as u64 / 2;
    before.gpr[INDEX as usize] = rng.below(48);
    before.gpr[BASE as usize] = middle - 16;
    before.gpr[MOVING as usize] = middle;
    Case { word: words[0], rest: words.split_off(1), before }
}

fn instruction(rng: &mut Rng, row: &Row, looped: bool) -> u32 {
    if looped && is_update(row) && accesses_storage(row) {
        return NOP;
    }
    let mut word = random_word(rng, row);
    for field in fields(row) {
        if matches!(field.kind, Kind::Gpr | Kind::GprOrZero) {
            let register = WORKING.start() + rng.below(u64::from(WORKING.end() - WORKING.start() + 1)) as u32;
            word = field.set(word, register);
        }
    }
    if accesses_storage(row) { aimed(rng, row, word) } else { word }
}

/// Through the fixed base with a displacement or the index register; update forms through the moving base by small steps.
fn aimed(rng: &mut Rng, row: &Row, word: u32) -> u32 {
    let update = is_update(row);
    let mut word = word;
    for field in fields(row) {
        let value = match (field.name, field.kind) {
            ("RA", _) => {
                if update {
                    MOVING
                } else {
                    BASE
                }
            }
            // An update by the index would leave the storage after a few steps.
            ("RB", _) => INDEX,
            (_, Kind::Displacement { shift }) if update => rng.pick(&[0, 1, u32::MAX]) << 2 >> shift,
            (_, Kind::Displacement { shift }) => rng.below(48) as u32 >> shift,
            _ => continue,
        };
        word = field.set(word, value);
    }
    let indexed_update = update && field_named(row, "RB").is_some();
    if indexed_update { NOP } else { word }
}

/// Replaces some instructions by branches forward, and perhaps one by a loop back.
fn place_branches(rng: &mut Rng, words: &mut [u32], looped: bool) {
    const BC: u32 = 16 << 26;
    let last = words.len() - 1;
    let back = looped.then(|| 1 + rng.below(last as u64) as usize);
    for (at, word) in words.iter_mut().enumerate().take(last) {
        if !rng.one_in(5) {
            continue;
        }
        // BO 0b001at and 0b011at test a condition, 0b1z1zz is always: none of them counts.
        let bo = rng.pick(&[0b00100, 0b01100, 0b00110, 0b01111, 0b10100]);
        let distance = 1 + rng.below((last - at) as u64) as u32;
        *word = BC | bo << 21 | (rng.below(32) as u32) << 16 | distance << 2;
    }
    if let Some(at) = back {
        // bdnz: CTR starts small and nothing else changes it.
        let distance = 1 + rng.below(at as u64) as u32;
        words[at] = BC | 0b10000 << 21 | (distance << 2).wrapping_neg() & 0xfffc;
    }
}
