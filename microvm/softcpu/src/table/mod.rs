//! One declarative table of instructions, in one file per class.
//!
//! A row says how an instruction is encoded, how it is written, since which version it exists, which facility it needs and who may
//! execute it. Decoder, disassembler, trace, coverage report and random test generator all read these rows; semantics
//! are keyed by the class's enum. Adding an instruction is adding a row and a match arm.

use std::fmt;

#[macro_use]
mod class;
pub mod branch;
pub mod decode;
pub mod disasm;
pub mod encoding;
pub mod fixed;
pub mod float;
pub mod operand;
pub mod system;
pub mod vmx;
pub mod vsx;

pub use branch::BranchOp;
pub use decode::decode;
pub use encoding::Encoding;
pub use fixed::FixedOp;
pub use float::FloatOp;
pub use system::SystemOp;
pub use vmx::VmxOp;
pub use vsx::VsxOp;

/// An instruction word with its fields, numbered as in ISA 3.0B I 1.6.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Insn(pub u32);

impl fmt::Debug for Insn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010x}", self.0)
    }
}

impl Insn {
    /// Bits `first..=last` in the ISA's numbering (bit 0 is the most significant).
    pub const fn bits(self, first: u32, last: u32) -> u32 {
        (self.0 >> (31 - last)) & (((1u64 << (last - first + 1)) - 1) as u32)
    }

    /// RT, RS, FRT, VRT, BO, TO: bits 6 to 10.
    pub const fn rt(self) -> usize {
        self.bits(6, 10) as usize
    }

    /// RA, FRA, VRA, BI: bits 11 to 15.
    pub const fn ra(self) -> usize {
        self.bits(11, 15) as usize
    }

    /// RB, FRB, VRB, SH: bits 16 to 20.
    pub const fn rb(self) -> usize {
        self.bits(16, 20) as usize
    }

    /// RC, FRC, VRC: bits 21 to 25.
    pub const fn rc(self) -> usize {
        self.bits(21, 25) as usize
    }

    /// The record bit, 31.
    pub const fn record(self) -> bool {
        self.0 & 1 != 0
    }

    /// The overflow-enable bit, 21.
    pub const fn oe(self) -> bool {
        self.bits(21, 21) != 0
    }

    /// SI or D, sign-extended.
    pub const fn si(self) -> i64 {
        self.0 as i16 as i64
    }

    /// UI, zero-extended.
    pub const fn ui(self) -> u64 {
        self.0 as u16 as u64
    }

    /// DS || 0b00, sign-extended.
    pub const fn ds(self) -> i64 {
        (self.0 & 0xfffc) as i16 as i64
    }

    /// DQ || 0b0000, sign-extended.
    pub const fn dq(self) -> i64 {
        (self.0 & 0xfff0) as i16 as i64
    }

    /// BF: bits 6 to 8.
    pub const fn bf(self) -> usize {
        self.bits(6, 8) as usize
    }

    /// VSR target or source, TX || T (bit 31 and bits 6 to 10).
    pub const fn xt(self) -> usize {
        (self.bits(31, 31) << 5 | self.bits(6, 10)) as usize
    }

    /// VSR target or source of the DQ form, TX in bit 28.
    pub const fn xt_dq(self) -> usize {
        (self.bits(28, 28) << 5 | self.bits(6, 10)) as usize
    }

    /// VSR A, AX || A (bit 29 and bits 11 to 15).
    pub const fn xa(self) -> usize {
        (self.bits(29, 29) << 5 | self.bits(11, 15)) as usize
    }

    /// VSR B, BX || B (bit 30 and bits 16 to 20).
    pub const fn xb(self) -> usize {
        (self.bits(30, 30) << 5 | self.bits(16, 20)) as usize
    }

    /// VSR C, CX || C (bit 28 and bits 21 to 25).
    pub const fn xc(self) -> usize {
        (self.bits(28, 28) << 5 | self.bits(21, 25)) as usize
    }
}

/// Version of the architecture in which an instruction appeared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Up to and including 2.06 (POWER7).
    V206,
    /// 2.07 (POWER8).
    V207,
    /// 3.0 and 3.0B (POWER9).
    V300,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V206 => "2.06",
            Self::V207 => "2.07",
            Self::V300 => "3.0",
        })
    }
}

/// Facility an instruction belongs to: what MSR, FSCR or HFSCR must have enabled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Facility {
    /// Always available.
    Base,
    /// MSR\[FP\], else 0x800.
    Fp,
    /// MSR\[VEC\], else 0xf20.
    Vec,
    /// MSR\[VSX\], else 0xf40.
    Vsx,
    /// VSX instruction on VSRs 32 to 63 only when its register number says so: MSR\[VEC\] if the operand's high bit is set, MSR\[VSX\] if not
    /// (lxsd, lxssp, stxsd, stxssp, lxv, stxv, lxvx, stxvx, lxvl, mtvsrws …; ISA 3.0B I 7.6).
    VsxOrVec,
    /// Decimal floating point, not offered: facility unavailable, 0xf60.
    Dfp,
}

/// Whether an instruction may be used in problem state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    /// Any state.
    Problem,
    /// Privileged: program interrupt (privileged) from problem state.
    Supervisor,
    /// Hypervisor: never available to the guest.
    Hypervisor,
}

/// One instruction.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// As the ISA writes it, without `o` and `.`.
    pub mnemonic: &'static str,
    /// Fixed bits.
    pub encoding: Encoding,
    /// Operands in assembler order, comma-separated field names as in the ISA: `RT,RA,SI`, `RT,D(RA)`, `XT,XA,XB`, `VRT,VRA,VRB,VRC`, `BF,FRA,FRB` …
    pub operands: &'static str,
    /// Since which version.
    pub level: Level,
    /// Which facility.
    pub facility: Facility,
    /// Who may execute it.
    pub privilege: Privilege,
    /// Has a record bit (31): mnemonic with a dot.
    pub has_rc: bool,
    /// Has an overflow-enable bit (21): mnemonic with `o`.
    pub has_oe: bool,
}

/// An instruction of any class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// Fixed point, load and store, cache management.
    Fixed(FixedOp),
    /// Branches and CR logic.
    Branch(BranchOp),
    /// System linkage, SPRs, storage control.
    System(SystemOp),
    /// Floating point.
    Float(FloatOp),
    /// VMX.
    Vmx(VmxOp),
    /// VSX.
    Vsx(VsxOp),
}

impl Op {
    /// This instruction's row.
    pub fn row(self) -> &'static Row {
        match self {
            Self::Fixed(op) => op.row(),
            Self::Branch(op) => op.row(),
            Self::System(op) => op.row(),
            Self::Float(op) => op.row(),
            Self::Vmx(op) => op.row(),
            Self::Vsx(op) => op.row(),
        }
    }

    /// Its place in [`decode::all_ops`].
    pub fn number(self) -> usize {
        const BRANCH: usize = FixedOp::ALL.len();
        const SYSTEM: usize = BRANCH + BranchOp::ALL.len();
        const FLOAT: usize = SYSTEM + SystemOp::ALL.len();
        const VMX: usize = FLOAT + FloatOp::ALL.len();
        const VSX: usize = VMX + VmxOp::ALL.len();
        match self {
            Self::Fixed(op) => op as usize,
            Self::Branch(op) => BRANCH + op as usize,
            Self::System(op) => SYSTEM + op as usize,
            Self::Float(op) => FLOAT + op as usize,
            Self::Vmx(op) => VMX + op as usize,
            Self::Vsx(op) => VSX + op as usize,
        }
    }

    /// The class's name.
    pub fn class(self) -> &'static str {
        match self {
            Self::Fixed(_) => "fixed",
            Self::Branch(_) => "branch",
            Self::System(_) => "system",
            Self::Float(_) => "float",
            Self::Vmx(_) => "vmx",
            Self::Vsx(_) => "vsx",
        }
    }
}
