//! Vector (VMX) instructions (ISA 3.0B I 6).

use crate::exec::DataMemory;
use crate::mmu::Fault;
use crate::state::State;
use crate::table::{Insn, VmxOp};

/// Executes one instruction of the class.
pub(super) fn execute(op: VmxOp, insn: Insn, state: &mut State, _memory: &mut dyn DataMemory) -> Result<(), Fault> {
    let (a, b) = (state.vr(insn.ra()), state.vr(insn.rb()));
    match op {
        VmxOp::Vand => state.set_vr(insn.rt(), a & b),
    }
    Ok(())
}
