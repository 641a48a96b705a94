//! Effective addresses and byte order of the loads and stores in this part.

use crate::state::State;
use crate::table::Insn;

/// MSR\[SF\]: 64-bit mode.
const MSR_SF: u64 = 1 << 63;
/// MSR\[LE\].
const MSR_LE: u64 = 1;

/// True in little-endian mode.
pub(super) fn little_endian(state: &State) -> bool {
    state.msr & MSR_LE != 0
}

/// An effective address as the mode has it: 32 bits in 32-bit mode (ISA 3.0B I 1.10.3).
pub(super) fn truncate(state: &State, ea: u64) -> u64 {
    if state.msr & MSR_SF != 0 { ea } else { ea & 0xffff_ffff }
}

/// RA, or zero if the field is zero.
pub(super) fn base(insn: Insn, state: &State) -> u64 {
    if insn.ra() == 0 { 0 } else { state.gpr[insn.ra()] }
}

/// (RA|0) + (RB): X form.
pub(super) fn indexed(insn: Insn, state: &State) -> u64 {
    truncate(state, base(insn, state).wrapping_add(state.gpr[insn.rb()]))
}

/// (RA|0) + displacement: D, DS and DQ form.
pub(super) fn displaced(insn: Insn, state: &State, displacement: i64) -> u64 {
    truncate(state, base(insn, state).wrapping_add_signed(displacement))
}
