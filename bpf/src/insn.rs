//! Instructions (RFC 9669; linux/bpf.h, `struct bpf_insn`).

/// One instruction: code, registers (destination low), offset, immediate.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Insn {
    /// What is done: one of this module's constants.
    pub code: u8,
    registers: u8,
    /// Distance of a jump in instructions, counted from the next one, or of a memory access in bytes.
    pub offset: i16,
    /// The constant, a helper function's number, or half of a 64-bit constant.
    pub immediate: i32,
}

// Section 3: class | size or operation | source or mode.
/// `to = *(u32 *)(from + offset)`.
pub const LOAD_WORD: u8 = 0x61;
/// `to =` 64-bit constant: this immediate and that of the next instruction, which is otherwise zero.
pub const LOAD_CONSTANT: u8 = 0x18;
/// `*(u32 *)(to + offset) = immediate`.
pub const STORE_WORD: u8 = 0x62;
/// `to += immediate`, 64 bits.
pub const ADD_IMMEDIATE: u8 = 0x07;
/// `to &= immediate`, 32 bits.
pub const AND_IMMEDIATE: u8 = 0x54;
/// `to >>= immediate`, 32 bits, zeroes from the left.
pub const SHIFT_RIGHT_IMMEDIATE: u8 = 0x74;
/// `to = immediate`, sign-extended to 64 bits.
pub const MOVE_IMMEDIATE: u8 = 0xb7;
/// `to = from`, 64 bits.
pub const MOVE_REGISTER: u8 = 0xbf;
/// `to = from`, 32 bits.
pub const MOVE_WORD: u8 = 0xbc;
/// Goes on `offset` instructions further.
pub const JUMP: u8 = 0x05;
/// The same if `to == immediate`.
pub const JUMP_IF_IMMEDIATE: u8 = 0x15;
/// The same if `to != immediate`.
pub const JUMP_IF_NOT_IMMEDIATE: u8 = 0x55;
/// The same if `to != from`.
pub const JUMP_IF_NOT_REGISTER: u8 = 0x5d;
/// Calls the kernel's function of this number with registers 1 to 5.
pub const CALL: u8 = 0x85;
/// Ends the program; register 0 is its answer.
pub const EXIT: u8 = 0x95;

/// `from` of a [`LOAD_CONSTANT`] whose immediate is a map's descriptor.
pub const MAP_DESCRIPTOR: u8 = 1;

impl Insn {
    /// An instruction with all its parts; what it does not use is zero.
    #[must_use]
    pub const fn new(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Self {
        // Bit fields in C, which follow the byte order.
        let registers = if cfg!(target_endian = "little") { to | from << 4 } else { to << 4 | from };
        Self { code, registers, offset, immediate }
    }

    /// The destination register, 0 to 10.
    #[must_use]
    pub const fn to(self) -> u8 {
        if cfg!(target_endian = "little") { self.registers & 15 } else { self.registers >> 4 }
    }

    /// The source register, 0 to 10.
    #[must_use]
    pub const fn from(self) -> u8 {
        if cfg!(target_endian = "little") { self.registers >> 4 } else { self.registers & 15 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instruction_is_eight_bytes_with_its_registers_apart() {
        let insn = Insn::new(MOVE_REGISTER, 6, 1, 0, 0);
        assert_eq!((size_of::<Insn>(), insn.to(), insn.from()), (8, 6, 1));
    }
}
