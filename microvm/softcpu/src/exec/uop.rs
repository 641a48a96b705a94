//! Micro-ops: instructions pre-decoded to eight bytes.
//!
//! The frequent ones have their own shape with the fields taken out; all others keep their table row and word, and run by the plain
//! semantics of their class. A micro-op of its own exists only where the frequency pays for it (64-bit mode; loads and stores
//! also little-endian), so every path of the machine but this one is the plain one.

use super::copying::Copying;
use crate::table::{BranchOp, FixedOp, FloatOp, Insn, SystemOp, VmxOp, VsxOp};

/// Declares the micro-ops, a line each: fields are bytes but for immediates.
macro_rules! micro_ops {
    ($($(#[$meta:meta])* $name:ident $(($($class:ty),*))? $({ $($field:ident: $type:ty),* })?,)*) => {
        /// A pre-decoded instruction. Register fields are below 32, `shift` is a bit's distance from the right end of CR.
        #[derive(Debug, Clone, Copy)]
        #[allow(missing_docs, reason = "each is the instruction of its name, in a form said in its comment where it is special")]
        pub enum Uop {
            $($(#[$meta])* $name $(($($class),*))? $({ $($field: $type),* })?,)*
        }
    };
}

micro_ops! {
    // Any instruction, by its class.
    Fixed(FixedOp, Insn),
    Branch(BranchOp, Insn),
    System(SystemOp, Insn),
    Float(FloatOp, Insn),
    Vmx(VmxOp, Insn),
    Vsx(VsxOp, Insn),
    Illegal,
    /// Newer than the processor that the guest is to find: illegal in problem state.
    Newer(Insn),
    Nop,
    /// lwsync, eieio.
    OrderSome,
    /// hwsync, ptesync.
    OrderAll,
    /// or 1,1,1 and or 31,31,31: the program spins and lowers its priority (II 3.1).
    Spin,

    // Arithmetic.
    Li { rt: u8, imm: i32 },
    Addi { rt: u8, ra: u8, imm: i32 },
    Add { rt: u8, ra: u8, rb: u8 },
    AddRecord { rt: u8, ra: u8, rb: u8 },
    Subf { rt: u8, ra: u8, rb: u8 },
    SubfRecord { rt: u8, ra: u8, rb: u8 },
    Neg { rt: u8, ra: u8 },
    Mulli { rt: u8, ra: u8, imm: i32 },
    Mulld { rt: u8, ra: u8, rb: u8 },
    Mullw { rt: u8, ra: u8, rb: u8 },
    Mulhdu { rt: u8, ra: u8, rb: u8 },
    Addic { rt: u8, ra: u8, imm: i32 },
    Subfic { rt: u8, ra: u8, imm: i32 },
    Addc { rt: u8, ra: u8, rb: u8 },
    Adde { rt: u8, ra: u8, rb: u8 },
    Subfc { rt: u8, ra: u8, rb: u8 },
    Subfe { rt: u8, ra: u8, rb: u8 },
    Addze { rt: u8, ra: u8 },

    // Logic.
    Move { ra: u8, rs: u8 },
    And { ra: u8, rs: u8, rb: u8 },
    AndRecord { ra: u8, rs: u8, rb: u8 },
    Or { ra: u8, rs: u8, rb: u8 },
    OrRecord { ra: u8, rs: u8, rb: u8 },
    Xor { ra: u8, rs: u8, rb: u8 },
    Nor { ra: u8, rs: u8, rb: u8 },
    Andc { ra: u8, rs: u8, rb: u8 },
    Orc { ra: u8, rs: u8, rb: u8 },
    AndiRecord { ra: u8, rs: u8, imm: u32 },
    Ori { ra: u8, rs: u8, imm: u32 },
    Xori { ra: u8, rs: u8, imm: u32 },
    Extsb { ra: u8, rs: u8 },
    Extsh { ra: u8, rs: u8 },
    Extsw { ra: u8, rs: u8 },
    ExtswRecord { ra: u8, rs: u8 },
    Cntlzd { ra: u8, rs: u8 },
    Cntlzw { ra: u8, rs: u8 },
    Popcntd { ra: u8, rs: u8 },
    /// rldicl, rldicr, rldic: rotate and mask from `mb` to `me`, not wrapping.
    Rotate { ra: u8, rs: u8, sh: u8, mb: u8, me: u8 },
    RotateRecord { ra: u8, rs: u8, sh: u8, mb: u8, me: u8 },
    /// rldimi.
    RotateInsert { ra: u8, rs: u8, sh: u8, mb: u8, me: u8 },
    /// sldi.
    ShiftLeft { ra: u8, rs: u8, sh: u8 },
    /// srdi.
    ShiftRight { ra: u8, rs: u8, sh: u8 },
    /// rlwinm with a mask that does not wrap.
    RotateWord { ra: u8, rs: u8, sh: u8, mask: u32 },
    RotateWordRecord { ra: u8, rs: u8, sh: u8, mask: u32 },
    /// rlwimi with a mask that does not wrap.
    RotateWordInsert { ra: u8, rs: u8, sh: u8, mask: u32 },
    Sld { ra: u8, rs: u8, rb: u8 },
    Srd { ra: u8, rs: u8, rb: u8 },
    Slw { ra: u8, rs: u8, rb: u8 },
    Srw { ra: u8, rs: u8, rb: u8 },
    Sradi { ra: u8, rs: u8, sh: u8 },
    Srawi { ra: u8, rs: u8, sh: u8 },

    // Compare, select, condition register.
    Cmpdi { shift: u8, ra: u8, imm: i32 },
    Cmpwi { shift: u8, ra: u8, imm: i32 },
    Cmpldi { shift: u8, ra: u8, imm: u32 },
    Cmplwi { shift: u8, ra: u8, imm: u32 },
    Cmpd { shift: u8, ra: u8, rb: u8 },
    Cmpw { shift: u8, ra: u8, rb: u8 },
    Cmpld { shift: u8, ra: u8, rb: u8 },
    Cmplw { shift: u8, ra: u8, rb: u8 },
    Isel { rt: u8, ra: u8, rb: u8, shift: u8 },
    Mfcr { rt: u8, mask: u32 },
    Mtcrf { rs: u8, mask: u32 },
    Mflr { rt: u8 },
    Mtlr { rs: u8 },
    Mfctr { rt: u8 },
    Mtctr { rs: u8 },

    // Loads and stores, displacement and indexed. RA is a register here, never the constant zero.
    Lbz { rt: u8, ra: u8, imm: i32 },
    Lhz { rt: u8, ra: u8, imm: i32 },
    Lha { rt: u8, ra: u8, imm: i32 },
    Lwz { rt: u8, ra: u8, imm: i32 },
    Lwa { rt: u8, ra: u8, imm: i32 },
    Ld { rt: u8, ra: u8, imm: i32 },
    Lbzx { rt: u8, ra: u8, rb: u8 },
    Lhzx { rt: u8, ra: u8, rb: u8 },
    Lhax { rt: u8, ra: u8, rb: u8 },
    Lwzx { rt: u8, ra: u8, rb: u8 },
    Lwax { rt: u8, ra: u8, rb: u8 },
    Ldx { rt: u8, ra: u8, rb: u8 },
    Lbzu { rt: u8, ra: u8, imm: i32 },
    Lhzu { rt: u8, ra: u8, imm: i32 },
    Lwzu { rt: u8, ra: u8, imm: i32 },
    Ldu { rt: u8, ra: u8, imm: i32 },
    Stb { rs: u8, ra: u8, imm: i32 },
    Sth { rs: u8, ra: u8, imm: i32 },
    Stw { rs: u8, ra: u8, imm: i32 },
    Std { rs: u8, ra: u8, imm: i32 },
    Stbx { rs: u8, ra: u8, rb: u8 },
    Sthx { rs: u8, ra: u8, rb: u8 },
    Stwx { rs: u8, ra: u8, rb: u8 },
    Stdx { rs: u8, ra: u8, rb: u8 },
    Stbu { rs: u8, ra: u8, imm: i32 },
    Sthu { rs: u8, ra: u8, imm: i32 },
    Stwu { rs: u8, ra: u8, imm: i32 },
    Stdu { rs: u8, ra: u8, imm: i32 },
    Lfd { rt: u8, ra: u8, imm: i32 },
    Stfd { rs: u8, ra: u8, imm: i32 },
    /// lvx with RA = 0.
    LvxAt { rt: u8, rb: u8 },
    StvxAt { rs: u8, rb: u8 },
    /// lvx with both address registers.
    Lvx { rt: u8, ra: u8, rb: u8 },
    Stvx { rs: u8, ra: u8, rb: u8 },
    Lxvd2x { xt: u8, ra: u8, rb: u8 },
    Stxvd2x { xs: u8, ra: u8, rb: u8 },
    Vperm { rt: u8, ra: u8, rb: u8, rc: u8 },

    // Branches; displacements count from the branch itself.
    B { offset: i32 },
    Bl { offset: i32 },
    /// Branch if the CR bit is set.
    BranchIf { shift: u8, offset: i32 },
    BranchUnless { shift: u8, offset: i32 },
    Bdnz { offset: i32 },
    /// The end of a loop that copies and begins with the block (see `copying`).
    CopyingBdnz { kind: Copying, offset: i32 },
    /// The end of a loop that may copy and begins in the page before.
    FarCopyingBdnz { offset: i32 },
    Blr,
    BlrIf { shift: u8 },
    BlrUnless { shift: u8 },
    Bctr,
    Bctrl,

    // Two instructions in one (see `fuse`). The micro-op of the second one stands behind it and is passed over. `test` is the branch's
    // CR bit as its distance from the right end, with [`IF_SET`] for a branch if the bit is set.
    CmpdiBranch { ra: u8, test: u8, imm: i16, offset: i16 },
    CmpwiBranch { ra: u8, test: u8, imm: i16, offset: i16 },
    CmpldiBranch { ra: u8, test: u8, imm: u16, offset: i16 },
    CmplwiBranch { ra: u8, test: u8, imm: u16, offset: i16 },
    CmpdBranch { ra: u8, rb: u8, test: u8, offset: i16 },
    CmpwBranch { ra: u8, rb: u8, test: u8, offset: i16 },
    CmpldBranch { ra: u8, rb: u8, test: u8, offset: i16 },
    CmplwBranch { ra: u8, rb: u8, test: u8, offset: i16 },
    AndiBranch { ra: u8, rs: u8, test: u8, imm: u16, offset: i16 },
    /// clrldi. and its kin: RotateRecord to the right end.
    RotateBranch { ra: u8, rs: u8, sh: u8, mb: u8, test: u8, offset: i16 },
    LdLd { rt: u8, rt2: u8, ra: u8, imm: i16, imm2: i16 },
    StdStd { rs: u8, rs2: u8, ra: u8, imm: i16, imm2: i16 },
    MoveMove { ra: u8, rs: u8, ra2: u8, rs2: u8 },
    /// addis and addi of one register.
    AddiAddi { rt: u8, ra: u8, imm: i32 },
    MtlrBlr { rs: u8 },
    AddAdd { rt: u8, ra: u8, rb: u8, rt2: u8, ra2: u8, rb2: u8 },
    XorXor { rt: u8, ra: u8, rb: u8, rt2: u8, ra2: u8, rb2: u8 },
    /// rotlwi, then xor.
    TurnXor { ra: u8, rs: u8, sh: u8, ra2: u8, rs2: u8, rb2: u8 },
    /// sldi, then add.
    ShiftAdd { ra: u8, rs: u8, sh: u8, rt2: u8, ra2: u8, rb2: u8 },
}

/// Of a fused branch: taken if the CR bit is set.
pub const IF_SET: u8 = 32;

/// Decoding mode: 64-bit.
pub const MODE_64: u32 = 1;
/// Decoding mode: little-endian.
pub const MODE_LE: u32 = 2;
/// Number of combinations of the two.
pub const MODES: u32 = 4;

/// True for a conditional branch behind which the block goes on: it is left only where the branch is taken.
pub fn may_fall_through(uop: Uop) -> bool {
    matches!(uop, Uop::BranchIf { .. } | Uop::BranchUnless { .. } | Uop::Bdnz { .. } | Uop::BlrIf { .. } | Uop::BlrUnless { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_micro_op_is_eight_bytes() {
        assert_eq!(size_of::<Uop>(), 8);
    }
}
