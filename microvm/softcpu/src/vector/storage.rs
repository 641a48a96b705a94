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

/// Where `size` bytes stand in a register that byte `offset` of its storage begins: by how many bits from the right end. `from_left`, as in
/// big-endian mode, byte 0 of storage is byte 0 of the register; otherwise it is byte 15.
pub(super) fn place(offset: u32, size: u8, from_left: bool) -> u32 {
    8 * if from_left { 16 - offset - u32::from(size) } else { offset }
}

/// Ones in the low `size` (1 to 16) bytes.
pub(super) fn low_bytes(size: u8) -> u128 {
    u128::MAX >> (128 - 8 * u32::from(size))
}

/// Storage for the tests of both parts.
#[cfg(test)]
pub(super) mod testkit {
    use crate::exec::DataMemory;
    use crate::mmu::Fault;

    /// What [`Bytes`] holds at first in its lower half; as one integer in big-endian order.
    pub const NUMBERED: u128 = 0x0001_0203_0405_0607_0809_0a0b_0c0d_0e0f;

    /// 32 bytes of storage at address 0: 0 to 15, then ones.
    pub struct Bytes {
        pub bytes: [u8; 32],
        pub little: bool,
    }

    impl Bytes {
        pub fn numbered(little: bool) -> Self {
            Self { bytes: std::array::from_fn(|i| if i < 16 { i as u8 } else { 0xff }), little }
        }
    }

    impl DataMemory for Bytes {
        fn load(&mut self, ea: u64, size: u8) -> Result<u128, Fault> {
            let mut bytes = self.bytes[ea as usize..ea as usize + usize::from(size)].to_vec();
            if self.little {
                bytes.reverse();
            }
            Ok(bytes.iter().fold(0, |value, &byte| value << 8 | u128::from(byte)))
        }

        fn store(&mut self, ea: u64, size: u8, value: u128) -> Result<(), Fault> {
            for i in 0..usize::from(size) {
                let place = if self.little { i } else { usize::from(size) - 1 - i };
                self.bytes[ea as usize + i] = (value >> (8 * place)) as u8;
            }
            Ok(())
        }
    }
}
