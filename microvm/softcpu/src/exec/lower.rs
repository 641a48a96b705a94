//! From an instruction to its micro-op.

use crate::table::{BranchOp, FixedOp, FloatOp, Insn, Level, Op, SystemOp, VmxOp, VsxOp};

use super::fixed::{mb6, sh6};
use super::uop::{MODE_64, MODE_LE, Uop};
use super::{branch, sprn, system};

/// True for an instruction after which execution may go on elsewhere or differently: it ends its block.
fn ends_block(op: Op) -> bool {
    match op {
        Op::Branch(op) => !matches!(
            op,
            BranchOp::Crand
                | BranchOp::Crnand
                | BranchOp::Cror
                | BranchOp::Crxor
                | BranchOp::Crnor
                | BranchOp::Creqv
                | BranchOp::Crandc
                | BranchOp::Crorc
                | BranchOp::Mcrf
        ),
        Op::System(op) => !matches!(
            op,
            SystemOp::Mfspr | SystemOp::Mftb | SystemOp::Mtspr | SystemOp::Mfmsr | SystemOp::Slbmfev | SystemOp::Slbmfee
        ),
        _ => false,
    }
}

/// The micro-op of an instruction, and whether it ends its block. `newest` is the version of the architecture that programs may use.
pub fn translate(word: Insn, op: Option<Op>, mode: u32, newest: Level) -> (Uop, bool) {
    let Some(op) = op else {
        return (Uop::Illegal, true);
    };
    if op.row().level > newest {
        return (Uop::Newer(word), true);
    }
    let hot = match op {
        _ if mode & MODE_64 == 0 => None,
        Op::Fixed(op) => arithmetic(op, word).or_else(|| if mode & MODE_LE != 0 { storage(op, word) } else { None }),
        Op::Branch(op) => branches(op, word),
        Op::System(op) => moves(op, word),
        Op::Float(op) if mode & MODE_LE != 0 => float_storage(op, word),
        Op::Vmx(op) if mode & MODE_LE != 0 => vector(op, word),
        Op::Vsx(op) if mode & MODE_LE != 0 => vsx_storage(op, word),
        _ => None,
    };
    let plain = match op {
        Op::Fixed(op) => Uop::Fixed(op, word),
        Op::Branch(op) => Uop::Branch(op, word),
        Op::System(op) => Uop::System(op, word),
        Op::Float(op) => Uop::Float(op, word),
        Op::Vmx(op) => Uop::Vmx(op, word),
        Op::Vsx(op) => Uop::Vsx(op, word),
    };
    (hot.unwrap_or(plain), ends_block(op))
}

fn arithmetic(op: FixedOp, i: Insn) -> Option<Uop> {
    use FixedOp::*;
    let (rt, ra, rb) = (i.rt() as u8, i.ra() as u8, i.rb() as u8);
    let rs = rt;
    let imm = i.si() as i32;
    let cr_shift = 28 - 4 * i.bf() as u8;
    let (record, oe) = (i.record(), i.oe());
    let doubleword = i.bits(10, 10) != 0;
    let word_mask = || {
        let (mb, me) = (i.bits(21, 25), i.bits(26, 30));
        (mb <= me).then(|| (u32::MAX >> mb) & (u32::MAX << (31 - me)))
    };
    let sh = sh6(i) as u8;
    let field = mb6(i) as u8;
    let rotate = |mb: u8, me: u8| match record {
        _ if mb > me => None,
        true => Some(Uop::RotateRecord { ra, rs, sh, mb, me }),
        false => Some(Uop::Rotate { ra, rs, sh, mb, me }),
    };
    Some(match op {
        Addi if ra == 0 => Uop::Li { rt, imm },
        Addi => Uop::Addi { rt, ra, imm },
        Addis if ra == 0 => Uop::Li { rt, imm: imm << 16 },
        Addis => Uop::Addi { rt, ra, imm: imm << 16 },
        Mulli => Uop::Mulli { rt, ra, imm },
        Addic => Uop::Addic { rt, ra, imm },
        Subfic => Uop::Subfic { rt, ra, imm },
        Add | Subf | Neg | Mulld | Mullw | Addc | Adde | Subfc | Subfe | Addze if oe => return None,
        Add if record => Uop::AddRecord { rt, ra, rb },
        Add => Uop::Add { rt, ra, rb },
        Subf if record => Uop::SubfRecord { rt, ra, rb },
        Subf => Uop::Subf { rt, ra, rb },
        Neg if !record => Uop::Neg { rt, ra },
        Mulld if !record => Uop::Mulld { rt, ra, rb },
        Mullw if !record => Uop::Mullw { rt, ra, rb },
        Mulhdu if !record => Uop::Mulhdu { rt, ra, rb },
        Addc if !record => Uop::Addc { rt, ra, rb },
        Adde if !record => Uop::Adde { rt, ra, rb },
        Subfc if !record => Uop::Subfc { rt, ra, rb },
        Subfe if !record => Uop::Subfe { rt, ra, rb },
        Addze if !record => Uop::Addze { rt, ra },
        Or if !record && rs == rb && ra == rs && matches!(ra, 1 | 31) => Uop::Spin,
        // or rx,rx,rx: a move to itself, or a priority hint.
        Or if !record && rs == rb && ra == rs => Uop::Nop,
        Or if !record && rs == rb => Uop::Move { ra, rs },
        Or if record => Uop::OrRecord { ra, rs, rb },
        Or => Uop::Or { ra, rs, rb },
        And if record => Uop::AndRecord { ra, rs, rb },
        And => Uop::And { ra, rs, rb },
        Xor if !record => Uop::Xor { ra, rs, rb },
        Nor if !record => Uop::Nor { ra, rs, rb },
        Andc if !record => Uop::Andc { ra, rs, rb },
        Orc if !record => Uop::Orc { ra, rs, rb },
        AndiRecord => Uop::AndiRecord { ra, rs, imm: i.ui() as u32 },
        AndisRecord => Uop::AndiRecord { ra, rs, imm: (i.ui() as u32) << 16 },
        Ori if i.ui() == 0 && ra == rs => Uop::Nop,
        Ori => Uop::Ori { ra, rs, imm: i.ui() as u32 },
        Oris => Uop::Ori { ra, rs, imm: (i.ui() as u32) << 16 },
        Xori => Uop::Xori { ra, rs, imm: i.ui() as u32 },
        Xoris => Uop::Xori { ra, rs, imm: (i.ui() as u32) << 16 },
        Extsb if !record => Uop::Extsb { ra, rs },
        Extsh if !record => Uop::Extsh { ra, rs },
        Extsw if record => Uop::ExtswRecord { ra, rs },
        Extsw => Uop::Extsw { ra, rs },
        Cntlzd if !record => Uop::Cntlzd { ra, rs },
        Cntlzw if !record => Uop::Cntlzw { ra, rs },
        Popcntd => Uop::Popcntd { ra, rs },
        Rldicl if !record && sh != 0 && field == 64 - sh => Uop::ShiftRight { ra, rs, sh: field },
        Rldicl => return rotate(field, 63),
        Rldicr if !record && field == 63 - sh => Uop::ShiftLeft { ra, rs, sh },
        Rldicr => return rotate(0, field),
        Rldic => return rotate(field, 63 - sh),
        Rldimi if !record && field <= 63 - sh => Uop::RotateInsert { ra, rs, sh, mb: field, me: 63 - sh },
        Rlwinm if record => Uop::RotateWordRecord { ra, rs, sh: rb, mask: word_mask()? },
        Rlwinm => Uop::RotateWord { ra, rs, sh: rb, mask: word_mask()? },
        Rlwimi if !record => Uop::RotateWordInsert { ra, rs, sh: rb, mask: word_mask()? },
        Sld if !record => Uop::Sld { ra, rs, rb },
        Srd if !record => Uop::Srd { ra, rs, rb },
        Slw if !record => Uop::Slw { ra, rs, rb },
        Srw if !record => Uop::Srw { ra, rs, rb },
        Sradi if !record => Uop::Sradi { ra, rs, sh },
        Srawi if !record => Uop::Srawi { ra, rs, sh: rb },
        Cmpi if doubleword => Uop::Cmpdi { shift: cr_shift, ra, imm },
        Cmpi => Uop::Cmpwi { shift: cr_shift, ra, imm },
        Cmpli if doubleword => Uop::Cmpldi { shift: cr_shift, ra, imm: i.ui() as u32 },
        Cmpli => Uop::Cmplwi { shift: cr_shift, ra, imm: i.ui() as u32 },
        Cmp if doubleword => Uop::Cmpd { shift: cr_shift, ra, rb },
        Cmp => Uop::Cmpw { shift: cr_shift, ra, rb },
        Cmpl if doubleword => Uop::Cmpld { shift: cr_shift, ra, rb },
        Cmpl => Uop::Cmplw { shift: cr_shift, ra, rb },
        Isel if ra != 0 => Uop::Isel { rt, ra, rb, shift: 31 - i.bits(21, 25) as u8 },
        Dcbt | Dcbtst | Icbt | Dst | Dstst | Dss => Uop::Nop,
        Sync if i.bits(9, 10) == 1 => Uop::OrderSome,
        Sync => Uop::OrderAll,
        Eieio => Uop::OrderSome,
        Mfcr => Uop::Mfcr { rt, mask: u32::MAX },
        Mfocrf => Uop::Mfcr { rt, mask: field_mask(i) },
        Mtcrf | Mtocrf => Uop::Mtcrf { rs, mask: field_mask(i) },
        _ => return None,
    })
}

/// The CR bits that FXM selects.
fn field_mask(i: Insn) -> u32 {
    let fields = i.bits(12, 19);
    (0..8).filter(|n| fields & (0x80 >> n) != 0).fold(0, |mask, n| mask | 0xf000_0000 >> (4 * n))
}

fn storage(op: FixedOp, i: Insn) -> Option<Uop> {
    use FixedOp::*;
    let (rt, ra, rb) = (i.rt() as u8, i.ra() as u8, i.rb() as u8);
    let rs = rt;
    let (imm, ds) = (i.si() as i32, i.ds() as i32);
    if ra == 0 {
        // (RA|0) = 0: an indexed access is one at RB without displacement.
        let imm = 0;
        let ra = rb;
        return Some(match op {
            Lbzx => Uop::Lbz { rt, ra, imm },
            Lhzx => Uop::Lhz { rt, ra, imm },
            Lwzx => Uop::Lwz { rt, ra, imm },
            Ldx => Uop::Ld { rt, ra, imm },
            Stbx => Uop::Stb { rs, ra, imm },
            Sthx => Uop::Sth { rs, ra, imm },
            Stwx => Uop::Stw { rs, ra, imm },
            Stdx => Uop::Std { rs, ra, imm },
            _ => return None,
        });
    }
    let loads_into_base = rt == ra;
    Some(match op {
        Lbz => Uop::Lbz { rt, ra, imm },
        Lhz => Uop::Lhz { rt, ra, imm },
        Lha => Uop::Lha { rt, ra, imm },
        Lwz => Uop::Lwz { rt, ra, imm },
        Lwa => Uop::Lwa { rt, ra, imm: ds },
        Ld => Uop::Ld { rt, ra, imm: ds },
        Lbzx => Uop::Lbzx { rt, ra, rb },
        Lhzx => Uop::Lhzx { rt, ra, rb },
        Lhax => Uop::Lhax { rt, ra, rb },
        Lwzx => Uop::Lwzx { rt, ra, rb },
        Lwax => Uop::Lwax { rt, ra, rb },
        Ldx => Uop::Ldx { rt, ra, rb },
        Lbzu | Lhzu | Lwzu | Ldu if loads_into_base => return None,
        Lbzu => Uop::Lbzu { rt, ra, imm },
        Lhzu => Uop::Lhzu { rt, ra, imm },
        Lwzu => Uop::Lwzu { rt, ra, imm },
        Ldu => Uop::Ldu { rt, ra, imm: ds },
        Stb => Uop::Stb { rs, ra, imm },
        Sth => Uop::Sth { rs, ra, imm },
        Stw => Uop::Stw { rs, ra, imm },
        Std => Uop::Std { rs, ra, imm: ds },
        Stbx => Uop::Stbx { rs, ra, rb },
        Sthx => Uop::Sthx { rs, ra, rb },
        Stwx => Uop::Stwx { rs, ra, rb },
        Stdx => Uop::Stdx { rs, ra, rb },
        Stbu => Uop::Stbu { rs, ra, imm },
        Sthu => Uop::Sthu { rs, ra, imm },
        Stwu => Uop::Stwu { rs, ra, imm },
        Stdu => Uop::Stdu { rs, ra, imm: ds },
        _ => return None,
    })
}

/// BO patterns without hints (I 2.4): decrement and branch if not zero; if false; if true; always.
const BO_BDNZ: u32 = 0b10000;
const BO_FALSE: u32 = 0b00100;
const BO_TRUE: u32 = 0b01100;
const BO_ALWAYS: u32 = 0b10100;

/// BO without its hint bits.
fn bo(i: Insn) -> u32 {
    let bo = i.bits(6, 10);
    match bo & 0b10100 {
        // Conditional, count unused: `a` and `t` hint.
        0b00100 => bo & 0b11100,
        // Count used: hints in bits 1 and 4.
        0b10000 => bo & 0b10010,
        0b10100 => BO_ALWAYS,
        _ => bo,
    }
}

fn branches(op: BranchOp, i: Insn) -> Option<Uop> {
    let shift = 31 - i.bits(11, 15) as u8;
    Some(match (op, bo(i)) {
        (BranchOp::B, _) => Uop::B { offset: branch::li(i) as i32 },
        (BranchOp::Bl, _) => Uop::Bl { offset: branch::li(i) as i32 },
        (BranchOp::Bc, BO_TRUE) => Uop::BranchIf { shift, offset: i.ds() as i32 },
        (BranchOp::Bc, BO_FALSE) => Uop::BranchUnless { shift, offset: i.ds() as i32 },
        (BranchOp::Bc, BO_BDNZ) => Uop::Bdnz { offset: i.ds() as i32 },
        (BranchOp::Bc, BO_ALWAYS) => Uop::B { offset: i.ds() as i32 },
        (BranchOp::Bclr, BO_ALWAYS) => Uop::Blr,
        (BranchOp::Bclr, BO_TRUE) => Uop::BlrIf { shift },
        (BranchOp::Bclr, BO_FALSE) => Uop::BlrUnless { shift },
        (BranchOp::Bcctr, BO_ALWAYS) => Uop::Bctr,
        (BranchOp::Bcctrl, BO_ALWAYS) => Uop::Bctrl,
        _ => return None,
    })
}

fn moves(op: SystemOp, i: Insn) -> Option<Uop> {
    let rt = i.rt() as u8;
    Some(match (op, system::spr_number(i)) {
        (SystemOp::Mfspr, sprn::LR) => Uop::Mflr { rt },
        (SystemOp::Mtspr, sprn::LR) => Uop::Mtlr { rs: rt },
        (SystemOp::Mfspr, sprn::CTR) => Uop::Mfctr { rt },
        (SystemOp::Mtspr, sprn::CTR) => Uop::Mtctr { rs: rt },
        _ => return None,
    })
}

/// Names that the table of another class uses; looked up by mnemonic so that the tables stay independent.
fn float_storage(op: FloatOp, i: Insn) -> Option<Uop> {
    let (rt, ra, imm) = (i.rt() as u8, i.ra() as u8, i.si() as i32);
    if ra == 0 {
        return None;
    }
    match op.row().mnemonic {
        "lfd" => Some(Uop::Lfd { rt, ra, imm }),
        "stfd" => Some(Uop::Stfd { rs: rt, ra, imm }),
        _ => None,
    }
}

fn vector(op: VmxOp, i: Insn) -> Option<Uop> {
    let (rt, ra, rb) = (i.rt() as u8, i.ra() as u8, i.rb() as u8);
    match op.row().mnemonic {
        "vperm" => Some(Uop::Vperm { rt, ra, rb, rc: i.bits(21, 25) as u8 }),
        "lvx" if ra == 0 => Some(Uop::LvxAt { rt, rb }),
        "stvx" if ra == 0 => Some(Uop::StvxAt { rs: rt, rb }),
        "lvx" => Some(Uop::Lvx { rt, ra, rb }),
        "stvx" => Some(Uop::Stvx { rs: rt, ra, rb }),
        _ => None,
    }
}

fn vsx_storage(op: VsxOp, i: Insn) -> Option<Uop> {
    let (xt, ra, rb) = (i.xt() as u8, i.ra() as u8, i.rb() as u8);
    if ra == 0 {
        return None;
    }
    match op.row().mnemonic {
        "lxvd2x" => Some(Uop::Lxvd2x { xt, ra, rb }),
        "stxvd2x" => Some(Uop::Stxvd2x { xs: xt, ra, rb }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::decode;

    #[test]
    fn hints_do_not_change_the_branch() {
        // bne+ and bne- and bne, bdnz+.
        for word in [0x4082_0008, 0x40c2_0008, 0x40e2_0008] {
            let insn = Insn(word);
            let (uop, ends) = translate(insn, decode(insn), MODE_64 | MODE_LE, Level::V300);
            assert!(ends && matches!(uop, Uop::BranchUnless { shift: 29, offset: 8 }), "{uop:?}");
        }
        let insn = Insn(0x4320_fff8);
        assert!(matches!(translate(insn, decode(insn), MODE_64, Level::V300).0, Uop::Bdnz { offset: -8 }));
    }
}
