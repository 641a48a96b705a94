//! Floating-point instructions (ISA 3.0B I 4).

use crate::exec::DataMemory;
use crate::mmu::Fault;
use crate::state::State;
use crate::table::{FloatOp, Insn};

/// Executes one instruction of the class.
pub(super) fn execute(op: FloatOp, insn: Insn, state: &mut State, _memory: &mut dyn DataMemory) -> Result<(), Fault> {
    match op {
        FloatOp::Fmr => state.set_fpr(insn.rt(), state.fpr(insn.rb())),
    }
    if insn.record() {
        state.set_cr_field(1, (state.fpscr >> 28) as u32);
    }
    Ok(())
}
