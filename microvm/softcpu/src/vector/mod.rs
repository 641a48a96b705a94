//! Floating point, VMX and VSX: semantics on the 64 vector-scalar registers (ISA 3.0B Book I chapters 4, 6, 7).
//!
//! One `u128` per register, in the ISA's big-endian numbering: bit 0 is the most significant bit, word element 0 the most
//! significant word. FPR *n* is the high doubleword of VSR *n*, VR *n* is VSR 32 + *n*. Little-endian mode matters in loads and
//! stores only.
//!
//! The caller has checked the row's facility (for [`Facility::VsxOrVec`](crate::table::Facility::VsxOrVec) with [`needs_vec`]) and
//! privilege, advances the address of the instruction, and afterwards takes the floating-point enabled exception interrupt when
//! FPSCR\[FEX\] and MSR\[FE0\] or MSR\[FE1\] ask for it. Everything else happens here: target registers, CR, FPSCR, VSCR, RA of the update
//! forms. If a storage access faults, no register has changed.

mod float;
mod fpscr;
mod lanes;
mod scalar;
mod softfloat;
mod storage;
mod vmx;
mod vsx;

use crate::exec::DataMemory;
use crate::mmu::Fault;
use crate::state::State;
use crate::table::{FloatOp, Insn, VmxOp, VsxOp};

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

/// For an instruction of [`Facility::VsxOrVec`](crate::table::Facility::VsxOrVec): true if this instance needs MSR\[VEC\], false if it
/// needs MSR\[VSX\] (ISA 3.0B I 7.6: by the high bit of the target or source register's number).
pub fn needs_vec(op: VsxOp, insn: Insn) -> bool {
    vsx::needs_vec(op, insn)
}
