//! Random cases from the rows of the instruction table.

use paperboat_softcpu::table::operand::{Field, Kind, fields, overflow_bit, record_bit};
use paperboat_softcpu::table::{Facility, Op, Privilege, Row, decode};

use crate::case::{Case, Endian, SCRATCH_BYTES, Snapshot};
use crate::image::{scratch_address, stub_address};
use crate::rng::{Flavour, Rng};

/// A part of the table, as the command line names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Class {
    /// Fixed point, CR logic, XER.
    Fixed,
    /// Floating point.
    Float,
    /// Vector.
    Vmx,
    /// Vector-scalar.
    Vsx,
    /// Not an instruction at a time: short programs of fixed-point instructions, branches and accesses to storage.
    Program,
}

/// Problem-state instructions that cannot be compared case by case, and why.
const LEFT_OUT: &[(&str, &str)] = &[
    ("bca", "the first and last 32 KiB of storage hold nothing"),
    ("bcla", "the first and last 32 KiB of storage hold nothing"),
    ("bctar", "the program's own register"),
    ("bctarl", "the program's own register"),
    ("darn", "random by design"),
    ("mftb", "time"),
    ("sc", "leaves the program"),
    ("scv", "leaves the program"),
    ("wait", "waits"),
    ("rfebb", "event-based branches"),
    ("isync", "no effect to compare"),
    ("sync", "no effect to compare"),
    ("eieio", "no effect to compare"),
    ("icbi", "no effect to compare"),
    ("icbt", "no effect to compare"),
    ("dcbt", "no effect to compare"),
    ("dcbtst", "no effect to compare"),
    ("dcbf", "no effect to compare"),
    ("dcbst", "no effect to compare"),
    ("dst", "no effect to compare"),
    ("dstst", "no effect to compare"),
    ("dss", "no effect to compare"),
    ("copy", "needs an accelerator"),
    ("paste.", "needs an accelerator"),
    ("cp_abort", "no effect to compare"),
    ("stbcx.", "depends on a reservation"),
    ("sthcx.", "depends on a reservation"),
    ("stwcx.", "depends on a reservation"),
    ("stdcx.", "depends on a reservation"),
    ("stqcx.", "depends on a reservation"),
];

/// The instructions of a class (all classes for `None`) that cases are made of; privileged ones are not.
pub fn candidates(class: Option<Class>, mnemonic: Option<&str>) -> Vec<Op> {
    decode::all_ops()
        .filter(|op| {
            let row = op.row();
            let of = match op {
                Op::Fixed(_) => Class::Fixed,
                Op::Branch(_) => Class::Fixed,
                Op::System(_) => Class::Fixed,
                Op::Float(_) => Class::Float,
                Op::Vmx(_) => Class::Vmx,
                Op::Vsx(_) => Class::Vsx,
            };
            row.privilege == Privilege::Problem
                && row.facility != Facility::Dfp
                && class.is_none_or(|class| class == of)
                && mnemonic.is_none_or(|mnemonic| mnemonic == row.mnemonic)
                && !LEFT_OUT.iter().any(|(name, _)| *name == row.mnemonic)
        })
        .collect()
}

/// Multiple and string accesses raise an alignment interrupt in little-endian mode, which QEMU's user mode does not survive.
pub fn runs_in(op: Op, endian: Endian) -> bool {
    const BIG_ONLY: &[&str] = &["lmw", "stmw", "lswi", "lswx", "stswi", "stswx"];
    endian == Endian::Big || !BIG_ONLY.contains(&op.row().mnemonic)
}

/// True if the instruction computes an effective address and accesses storage there.
pub fn accesses_storage(row: &Row) -> bool {
    let by_register = row.encoding.value >> 26 == 31
        && ["l", "st", "dcbz"].iter().any(|start| row.mnemonic.starts_with(start))
        && !["lvsl", "lvsr"].contains(&row.mnemonic);
    row.operands.contains('(') || by_register
}

/// Makes a case of `op`, to run as number `index` of its batch.
pub fn case(rng: &mut Rng, op: Op, index: usize) -> Case {
    let row = op.row();
    // Most words are valid forms; a row that never is would be a mistake in the rules below.
    const ATTEMPTS: usize = 1000;
    let mut word = 0;
    for attempt in 0..=ATTEMPTS {
        assert!(attempt < ATTEMPTS, "{} has no valid form", row.mnemonic);
        word = random_word(rng, row);
        if is_valid_form(row, word) {
            break;
        }
    }
    let mut before = snapshot(rng, row);
    restrict_modes(rng, row, word, &mut before);
    if accesses_storage(row) {
        aim(rng, row, word, &mut before, index);
    }
    let is_branch = row.operands.contains("LI") || row.operands.contains("BO");
    if !is_branch {
        return Case { word, rest: Vec::new(), before };
    }
    let word = direct_branch(rng, row, word, &mut before, index);
    Case { word, rest: vec![SKIPPED], before }
}

/// What a branch jumps over: `addi r31,r31,1`.
const SKIPPED: u32 = 14 << 26 | 31 << 21 | 31 << 16 | 1;

/// Gives a branch its target: behind the instruction that follows it.
fn direct_branch(rng: &mut Rng, row: &Row, word: u32, state: &mut Snapshot, index: usize) -> u32 {
    let target = stub_address(index) + 8;
    // The low two bits of LR and CTR do not count.
    state.lr = target | rng.below(4);
    state.ctr = rng.pick(&[0, 1, 2, 3, u64::MAX, 1 << 32]);
    if row.mnemonic.starts_with("bcctr") {
        state.ctr = target | rng.below(4);
    }
    let absolute = row.mnemonic.ends_with('a');
    let words = if absolute { target >> 2 } else { 2 };
    match field_named(row, "LI").or_else(|| field_named(row, "BD")) {
        Some(field) => field.set(word, words as u32),
        None => word,
    }
}

pub(crate) fn random_word(rng: &mut Rng, row: &Row) -> u32 {
    let mut word = row.encoding.value;
    for field in fields(row) {
        let value = match field.name {
            "FXM" if row.mnemonic != "mtcrf" => 1 << rng.below(8),
            // XER, LR, CTR.
            "SPR" => rng.pick(&[1, 8, 9]),
            // QEMU 7.2 compares signed words without their sign (5 and 7), and returns another minimum for 24, 25 and 28.
            "FC" => match row.mnemonic {
                "lwat" => rng.pick(&[0, 1, 2, 3, 4, 6, 8, 16]),
                "ldat" => rng.pick(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 16]),
                "stwat" => rng.pick(&[0, 1, 2, 3, 4, 6, 24]),
                _ => rng.pick(&[0, 1, 2, 3, 4, 5, 6, 7, 24]),
            },
            "NB" => rng.below(32) as u32,
            // Bytes that lie within the register.
            "UIM" if row.mnemonic.starts_with("vextract") || row.mnemonic.starts_with("vinsert") => {
                let size = match row.mnemonic.as_bytes().last() {
                    Some(b'b') => 1,
                    Some(b'h') => 2,
                    Some(b'w') => 4,
                    _ => 8,
                };
                rng.below(17 - size) as u32
            }
            "UIM" if row.mnemonic == "xxextractuw" || row.mnemonic == "xxinsertw" => rng.below(13) as u32,
            "CY" => 0,
            // A count register cannot be decremented and jumped to.
            "BO" if row.mnemonic.starts_with("bcctr") => rng.below(32) as u32 | 4,
            _ => match field.kind {
                Kind::GprPair | Kind::FprPair => rng.below(16) as u32 * 2,
                Kind::Signed | Kind::Displacement { .. } if rng.one_in(2) => rng.pick(&[0, 1, u32::MAX, 0x7fff, 0x8000, 8]),
                _ => rng.bits() as u32,
            },
        };
        word = field.set(word, value);
    }
    for bit in record_bit(row).into_iter().chain(overflow_bit(row)) {
        if rng.one_in(2) {
            word |= bit;
        }
    }
    word
}

pub(crate) fn field_named(row: &Row, name: &str) -> Option<Field> {
    fields(row).into_iter().find(|field| field.name == name)
}

/// False for the invalid forms that the ISA names on the instruction pages.
fn is_valid_form(row: &Row, word: u32) -> bool {
    let number = |name: &str| field_named(row, name).map(|field| field.get(word));
    let target = ["RT", "RS", "RTp", "RSp"].iter().find_map(|name| number(name));
    let (ra, rb) = (number("RA"), number("RB"));
    let storage = accesses_storage(row);
    let is_load = row.mnemonic.starts_with('l');
    if storage {
        let same_target = is_load && number("FRT").is_none() && ra == target;
        if is_update(row) && (ra == Some(0) || same_target) {
            return false;
        }
        // Without a base register only the first and last 32 KiB of storage can be reached: nothing of ours lies there.
        if ra == Some(0) && (rb.is_none() || is_length(row.mnemonic)) {
            return false;
        }
        // The address is built from two registers, so they have to differ.
        if ra.is_some() && ra == rb {
            return false;
        }
        let written = match row.mnemonic {
            "lmw" => (32 - target.unwrap_or(0)).max(1),
            "lswi" | "lswx" => 8,
            "lq" | "lqarx" | "lwat" | "ldat" | "stwat" | "stdat" => 2,
            _ => 0,
        };
        let inside =
            |register: Option<u32>| register.is_some_and(|register| register.wrapping_sub(target.unwrap_or(0)) & 31 < written);
        if written > 0 && (inside(ra) || inside(rb)) {
            return false;
        }
        if ["lwat", "ldat", "stwat", "stdat"].contains(&row.mnemonic) && target == Some(31) {
            return false;
        }
    }
    // I 7.6: round-to-integer of quad precision has two reserved combinations.
    let reserved_rounding = number("R") == Some(0) && matches!(number("RMC"), Some(1 | 2));
    !reserved_rounding
}

pub(crate) fn is_update(row: &Row) -> bool {
    let name = row.mnemonic;
    name.ends_with("ux") || (name.ends_with('u') && row.operands.contains('('))
}

pub(crate) fn snapshot(rng: &mut Rng, row: &Row) -> Snapshot {
    let mut state = Snapshot::default();
    for register in &mut state.gpr {
        *register = rng.integer();
    }
    if rng.one_in(2) {
        // Relations between operands: equal and nearly equal ones.
        let (to, from) = (rng.below(32) as usize, rng.below(32) as usize);
        state.gpr[to] = state.gpr[from].wrapping_add(rng.below(3)).wrapping_sub(1);
    }
    let flavours = flavours(row);
    let flavour = rng.pick(flavours);
    for register in &mut state.vsr {
        let flavour = if rng.one_in(4) { rng.pick(flavours) } else { flavour };
        *register = rng.vector(flavour);
    }
    state.cr = rng.bits() as u32;
    // SO, OV, CA, OV32, CA32 and the byte count.
    state.xer = rng.bits() & 0xe00c_0000 | rng.below(17);
    state.fpscr = fpscr(rng);
    state.vscr = (rng.below(2) | if rng.one_in(8) { 0x1_0000 } else { 0 }) as u32;
    for (index, chunk) in state.scratch.chunks_exact_mut(16).enumerate() {
        let value = if index % 2 == 0 { rng.wide() } else { rng.vector(flavour) };
        chunk.copy_from_slice(&value.to_le_bytes());
    }
    state
}

/// Exceptions are either enabled or have happened, so that loading the state cannot trap; summary bits as the others demand.
fn fpscr(rng: &mut Rng) -> u64 {
    const VX_CAUSES: u64 = 0x01f8_0700;
    const VX: u64 = 0x2000_0000;
    /// VE, OE, UE, ZE, XE.
    const ENABLES: u64 = 0xf8;
    let rounding = rng.below(4);
    match rng.below(8) {
        0..=3 => return rounding,
        4 | 5 => return rounding | rng.bits() & ENABLES | rng.bits() & 0x1_f000,
        _ => {}
    }
    let mut value = rng.bits() & rng.bits() & 0x9fff_f700 | rounding;
    if value & VX_CAUSES != 0 {
        value |= VX;
    }
    value
}

/// Keeps to what QEMU 7.2 gets right: it negates before rounding where I 4.6.6.2 negates the rounded result,
/// and takes the wrong one of two directions when `xsrqpi` and `xsrqpxp` round as FPSCR says.
fn restrict_modes(rng: &mut Rng, row: &Row, word: u32, state: &mut Snapshot) {
    const RN: u64 = 3;
    let name = row.mnemonic;
    let by_fpscr = field_named(row, "RMC").is_some_and(|field| field.get(word) == 3)
        && field_named(row, "R").is_some_and(|field| field.get(word) == 0);
    if name.contains("nmadd") || name.contains("nmsub") {
        state.fpscr = state.fpscr & !RN | rng.below(2);
    } else if by_fpscr {
        state.fpscr = state.fpscr & !RN | rng.pick(&[0, 2]);
    }
}

/// What the operands of an instruction should look like, by its name.
fn flavours(row: &Row) -> &'static [Flavour] {
    use Flavour::{Decimal, Double, Half, Integer, Narrow, Quad, Single, Zoned};
    let name = row.mnemonic;
    let has = |part: &str| name.contains(part);
    if name.starts_with("bcd") {
        &[Decimal, Decimal, Zoned, Integer]
    } else if name.starts_with("vmul10") {
        &[Decimal, Integer]
    } else if has("hp") {
        &[Half, Single, Double, Narrow]
    } else if has("qp") {
        &[Quad, Quad, Quad, Double, Integer]
    } else if name.starts_with('f') && name.ends_with('s') {
        // Operands that are not single precision make the result undefined (I 4.3.5.1).
        &[Narrow]
    } else if name.starts_with('f') || row.operands.contains("FR") {
        &[Double, Double, Narrow, Narrow, Integer]
    } else if name.starts_with("xv") && (has("sp") || has("sx") || has("ux")) {
        &[Single, Single, Double, Integer]
    } else if name.starts_with("xs") && name.ends_with("sp") {
        // QEMU rounds twice unless the operands are single precision.
        &[Narrow, Narrow, Narrow, Double, Single]
    } else if name.starts_with("xs") {
        &[Double, Double, Narrow, Single, Integer]
    } else if name.starts_with("xv") {
        &[Double, Double, Single, Integer]
    } else if has("fp") || name.starts_with("vct") || name.starts_with("vrf") || name.starts_with("vcf") {
        &[Single, Single, Integer]
    } else {
        &[Integer, Integer, Integer, Single]
    }
}

/// Sets the address registers so that the access falls into the case's scratch storage.
fn aim(rng: &mut Rng, row: &Row, word: u32, state: &mut Snapshot, index: usize) {
    let name = row.mnemonic;
    let alignment: u64 = match name {
        "lbarx" => 1,
        "lharx" => 2,
        "lwarx" | "lmw" | "stmw" => 4,
        "ldarx" => 8,
        // Atomic functions that use a pair want both in one aligned block of 32 bytes (II 4.5).
        "lq" | "stq" | "lqarx" | "lwat" | "stwat" | "ldat" | "stdat" => 16,
        _ => 1,
    };
    // Anything from 64 on leaves room below; the longest access is 128 bytes.
    let target = scratch_address(index) + (SCRATCH_BYTES as u64 / 4 + rng.below(64)) / alignment * alignment;
    let register = |name: &str| field_named(row, name).map(|field| field.get(word) as usize);
    let base = register("RA").unwrap_or(0);
    let displacement = fields(row).into_iter().find_map(|field| match field.kind {
        Kind::Displacement { shift } => Some(field.get_signed(word) << shift),
        _ => None,
    });
    if let Some(displacement) = displacement {
        if base != 0 {
            state.gpr[base] = target.wrapping_add_signed(-displacement);
        }
    } else if let Some(index) = register("RB").filter(|_| !is_length(name)) {
        let start = if base == 0 { 0 } else { state.gpr[base] };
        state.gpr[index] = target.wrapping_sub(start);
    } else {
        if let Some(length) = register("RB") {
            state.gpr[length] = rng.below(20) << 56 | rng.bits() >> 8;
        }
        if base != 0 {
            state.gpr[base] = target;
        }
    }
}

/// RB is a length in its top byte, not an index: lxvl and its kind.
fn is_length(name: &str) -> bool {
    ["lxvl", "lxvll", "stxvl", "stxvll"].contains(&name)
}
