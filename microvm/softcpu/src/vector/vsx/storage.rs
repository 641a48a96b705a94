//! Loads and stores of vector-scalar registers (ISA 3.0B I 7.6.2).
//!
//! Storage is accessed as integers in the byte order of the mode; what differs between the instructions is the size of the elements whose
//! order in storage is always the register's: in little-endian mode, an integer of 16 bytes holds them the other way round.

use crate::exec::DataMemory;
use crate::mmu::Fault;
use crate::state::State;
use crate::table::{Insn, VsxOp};
use crate::vector::lanes::{Lane, build, splat};
use crate::vector::softfloat::convert::{double_to_single, single_to_double};
use crate::vector::storage;

/// Loads an element, zero-extended, into the high doubleword.
fn load_scalar(ea: u64, size: u8, memory: &mut dyn DataMemory) -> Result<u128, Fault> {
    Ok(memory.load(ea, size)? << 64)
}

/// The elements of type `T` in the opposite order if the mode is little-endian.
fn in_storage_order<T: Lane>(register: u128, state: &State) -> u128 {
    if !storage::little_endian(state) {
        return register;
    }
    let lanes = T::split(register);
    let lanes = lanes.as_ref();
    build(|i| lanes[lanes.len() - 1 - i])
}

/// The effective address of a load or store of the class.
fn address(op: VsxOp, insn: Insn, state: &State) -> u64 {
    match op {
        VsxOp::Lxv | VsxOp::Stxv => storage::displaced(insn, state, insn.dq()),
        VsxOp::Lxsd | VsxOp::Lxssp | VsxOp::Stxsd | VsxOp::Stxssp => storage::displaced(insn, state, insn.ds()),
        VsxOp::Lxvl | VsxOp::Lxvll | VsxOp::Stxvl | VsxOp::Stxvll => storage::truncate(state, storage::base(insn, state)),
        _ => storage::indexed(insn, state),
    }
}

/// The register that a load or store of the class names.
pub(super) fn register(op: VsxOp, insn: Insn) -> usize {
    match op {
        VsxOp::Lxv | VsxOp::Stxv => insn.xt_dq(),
        VsxOp::Lxsd | VsxOp::Lxssp | VsxOp::Stxsd | VsxOp::Stxssp => 32 + insn.rt(),
        _ => insn.xt(),
    }
}

/// Executes a load.
pub(super) fn load(op: VsxOp, insn: Insn, state: &mut State, memory: &mut dyn DataMemory) -> Result<(), Fault> {
    use VsxOp::*;
    let ea = address(op, insn, state);
    let value = match op {
        Lxsdx | Lxsd => load_scalar(ea, 8, memory)?,
        Lxsspx | Lxssp => u128::from(single_to_double(memory.load(ea, 4)? as u32)) << 64,
        Lxsiwax => u128::from(i64::from(memory.load(ea, 4)? as i32) as u64) << 64,
        Lxsiwzx => load_scalar(ea, 4, memory)?,
        Lxsibzx => load_scalar(ea, 1, memory)?,
        Lxsihzx => load_scalar(ea, 2, memory)?,
        Lxvd2x => in_storage_order::<u64>(memory.load(ea, 16)?, state),
        Lxvw4x => in_storage_order::<u32>(memory.load(ea, 16)?, state),
        Lxvh8x => in_storage_order::<u16>(memory.load(ea, 16)?, state),
        Lxvb16x => in_storage_order::<u8>(memory.load(ea, 16)?, state),
        Lxvdsx => splat::<u64>(memory.load(ea, 8)?, 1),
        Lxvwsx => splat::<u32>(memory.load(ea, 4)?, 3),
        Lxvl | Lxvll => load_with_length(op == Lxvll, ea, length(insn, state), state, memory)?,
        _ => memory.load(ea, 16)?,
    };
    state.vsr[register(op, insn)] = value;
    Ok(())
}

/// Executes a store.
pub(super) fn store(op: VsxOp, insn: Insn, state: &mut State, memory: &mut dyn DataMemory) -> Result<(), Fault> {
    use VsxOp::*;
    let ea = address(op, insn, state);
    let value = state.vsr[register(op, insn)];
    let high = value >> 64;
    match op {
        Stxsdx | Stxsd => memory.store(ea, 8, high),
        Stxsspx | Stxssp => memory.store(ea, 4, double_to_single(high as u64).into()),
        Stxsiwx => memory.store(ea, 4, high & 0xffff_ffff),
        Stxsibx => memory.store(ea, 1, high & 0xff),
        Stxsihx => memory.store(ea, 2, high & 0xffff),
        Stxvd2x => memory.store(ea, 16, in_storage_order::<u64>(value, state)),
        Stxvw4x => memory.store(ea, 16, in_storage_order::<u32>(value, state)),
        Stxvh8x => memory.store(ea, 16, in_storage_order::<u16>(value, state)),
        Stxvb16x => memory.store(ea, 16, in_storage_order::<u8>(value, state)),
        Stxvl | Stxvll => store_with_length(op == Stxvll, ea, length(insn, state), value, state, memory),
        _ => memory.store(ea, 16, value),
    }
}

/// Number of bytes of lxvl and its family: bits 0 to 7 of RB, at most 16.
fn length(insn: Insn, state: &State) -> u32 {
    ((state.gpr[insn.rb()] >> 56) as u32).min(16)
}

/// Splits `length` (at most 16) bytes into accesses of 8, 4, 2 and 1: offset and size.
fn pieces(length: u32) -> impl Iterator<Item = (u32, u8)> {
    let whole = if length == 16 { Some((0, 16)) } else { None };
    let parts = [8u32, 4, 2, 1]
        .into_iter()
        .filter(move |size| length & size != 0)
        .map(move |size| (length & !(2 * size - 1) & 15, size as u8));
    whole.into_iter().chain(parts)
}

/// lxvl, lxvll.
fn load_with_length(left: bool, ea: u64, length: u32, state: &State, memory: &mut dyn DataMemory) -> Result<u128, Fault> {
    let little = storage::little_endian(state);
    let mut value = 0;
    for (offset, size) in pieces(length) {
        let piece = memory.load(storage::truncate(state, ea.wrapping_add(offset.into())), size)?;
        let piece = if left && little { reversed(piece, size) } else { piece };
        value |= piece << storage::place(offset, size, left || !little);
    }
    Ok(value)
}

/// stxvl, stxvll.
fn store_with_length(
    left: bool,
    ea: u64,
    length: u32,
    value: u128,
    state: &State,
    memory: &mut dyn DataMemory,
) -> Result<(), Fault> {
    let little = storage::little_endian(state);
    for (offset, size) in pieces(length) {
        let piece = value >> storage::place(offset, size, left || !little) & storage::low_bytes(size);
        let piece = if left && little { reversed(piece, size) } else { piece };
        memory.store(storage::truncate(state, ea.wrapping_add(offset.into())), size, piece)?;
    }
    Ok(())
}

/// The low `size` bytes in the opposite order.
fn reversed(piece: u128, size: u8) -> u128 {
    piece.swap_bytes() >> (128 - 8 * u32::from(size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vector::storage::testkit::{Bytes, NUMBERED};

    /// Loads from bytes 0, 1, 2 … and stores the register again elsewhere: the register, and whether the same bytes came out.
    fn through(op: VsxOp, back: VsxOp, little: bool, length: u64) -> (u128, bool) {
        let mut memory = Bytes::numbered(little);
        let mut state = State { msr: 1 << 63 | u64::from(little), ..State::default() };
        // XT 33, RA 3, RB 4.
        let insn = Insn(1 << 21 | 3 << 16 | 4 << 11 | 1);
        let by_length = matches!(op, VsxOp::Lxvl | VsxOp::Lxvll);
        state.gpr[4] = if by_length { length << 56 } else { 0 };
        load(op, insn, &mut state, &mut memory).unwrap();
        let loaded = state.vsr[33];
        state.gpr[3] = 16;
        store(back, insn, &mut state, &mut memory).unwrap();
        let bytes = if by_length { length as usize } else { 16 };
        let same = memory.bytes[16..16 + bytes] == memory.bytes[..bytes] && memory.bytes[16 + bytes..].iter().all(|&b| b == 0xff);
        (loaded, same)
    }

    #[test]
    fn elements_keep_their_order_and_reverse_their_bytes() {
        use VsxOp::*;
        for (op, back, little) in [
            (Lxvd2x, Stxvd2x, 0x0706_0504_0302_0100_0f0e_0d0c_0b0a_0908),
            (Lxvw4x, Stxvw4x, 0x0302_0100_0706_0504_0b0a_0908_0f0e_0d0c),
            (Lxvh8x, Stxvh8x, 0x0100_0302_0504_0706_0908_0b0a_0d0c_0f0e),
            (Lxvb16x, Stxvb16x, NUMBERED),
            (Lxvx, Stxvx, NUMBERED.swap_bytes()),
        ] {
            assert_eq!(through(op, back, false, 0), (NUMBERED, true), "{op:?}");
            assert_eq!(through(op, back, true, 0), (little, true), "{op:?}");
        }
    }

    #[test]
    fn lengths() {
        use VsxOp::*;
        for length in 0..=16u64 {
            let left = if length == 0 { 0 } else { NUMBERED & u128::MAX << (128 - 8 * length) };
            assert_eq!(through(Lxvl, Stxvl, false, length), (left, true), "{length}");
            assert_eq!(through(Lxvll, Stxvll, false, length), (left, true), "{length}");
            assert_eq!(through(Lxvll, Stxvll, true, length), (left, true), "{length}");
            assert_eq!(through(Lxvl, Stxvl, true, length), (left.swap_bytes(), true), "{length}");
        }
    }
}
