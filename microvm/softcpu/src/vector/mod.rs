//! Floating point, VMX and VSX: semantics on the 64 vector-scalar registers (ISA 3.0B Book I chapters 4, 6, 7).
//!
//! One `u128` per register, in the ISA's big-endian numbering: bit 0 is the most significant bit, word element 0 the most
//! significant word. FPR *n* is the high doubleword of VSR *n*, VR *n* is VSR 32 + *n*. Little-endian mode matters in loads and
//! stores only.
//!
//! The caller has checked the row's facility (for [`Facility::VsxOrVec`] with [`facility()`]) and
//! privilege, advances the address of the instruction, and afterwards takes the floating-point enabled exception interrupt when
//! FPSCR\[FEX\] and MSR\[FE0\] or MSR\[FE1\] ask for it. Everything else happens here: target registers, CR, FPSCR, VSCR, RA of the update
//! forms. If a storage access faults, no register has changed.

mod float;
mod fpscr;
mod lanes;
mod operation;
mod scalar;
mod softfloat;
mod storage;
mod swar;
mod vmx;
mod vsx;

use crate::exec::DataMemory;
use crate::mmu::Fault;
use crate::state::State;
use crate::table::{Facility, FloatOp, Insn, VmxOp, VsxOp};

/// Executes a floating-point instruction (ISA 3.0B I 4).
///
/// # Errors
/// The interrupt that a storage access raises; no register has changed then.
pub fn execute_float(op: FloatOp, insn: Insn, state: &mut State, memory: &mut dyn DataMemory) -> Result<(), Fault> {
    float::execute(op, insn, state, memory)
}

/// Executes a vector instruction (ISA 3.0B I 6).
///
/// # Errors
/// The interrupt that a storage access raises; no register has changed then.
pub fn execute_vmx(op: VmxOp, insn: Insn, state: &mut State, memory: &mut dyn DataMemory) -> Result<(), Fault> {
    vmx::execute(op, insn, state, memory)
}

/// Executes a vector-scalar instruction (ISA 3.0B I 7).
///
/// # Errors
/// The interrupt that a storage access raises; no register has changed then.
pub fn execute_vsx(op: VsxOp, insn: Insn, state: &mut State, memory: &mut dyn DataMemory) -> Result<(), Fault> {
    vsx::execute(op, insn, state, memory)
}

/// The facility that this instance of an instruction needs: for [`Facility::VsxOrVec`] it depends on the register's number and is
/// [`Facility::Vec`], [`Facility::Vsx`], or [`Facility::Fp`] (moves between general and floating-point registers; ISA 3.0B I 3.3.19);
/// for all others it is the row's.
pub fn facility(op: VsxOp, insn: Insn) -> Facility {
    vsx::facility(op, insn)
}

/// For an instruction of [`Facility::VsxOrVec`]: true if this instance needs MSR\[VEC\] (ISA 3.0B I 7.6). If it is false, [`facility`]
/// tells between MSR\[VSX\] and MSR\[FP\].
pub fn needs_vec(op: VsxOp, insn: Insn) -> bool {
    facility(op, insn) == Facility::Vec
}
