//! Vector-scalar (VSX) instructions (ISA 3.0B I 7).

use crate::exec::DataMemory;
use crate::mmu::Fault;
use crate::state::State;
use crate::table::{Insn, VsxOp};

/// See [`super::needs_vec`].
pub(super) fn needs_vec(op: VsxOp, insn: Insn) -> bool {
    match op {
        VsxOp::Xxlxor => insn.xt() >= 32,
    }
}

/// Executes one instruction of the class.
pub(super) fn execute(op: VsxOp, insn: Insn, state: &mut State, _memory: &mut dyn DataMemory) -> Result<(), Fault> {
    let (a, b) = (state.vsr[insn.xa()], state.vsr[insn.xb()]);
    match op {
        VsxOp::Xxlxor => state.vsr[insn.xt()] = a ^ b,
    }
    Ok(())
}
