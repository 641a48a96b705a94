//! Load-and-reserve, store-conditional, and the atomic memory operations (ISA 3.0B II 4.5, 4.6.2).

use crate::mmu::Fault;
use crate::table::{FixedOp, Insn};

use super::{Cpu, DataMemory, Stop, program};

/// Retries of an atomic memory operation against other vCPUs before it lets them go first. The operation is lock-free, so some
/// vCPU has got ahead every time.
const ATTEMPTS: usize = 1 << 20;

/// Executes an instruction of the group.
pub(super) fn execute(cpu: &mut Cpu, op: FixedOp, insn: Insn) -> Result<(), Stop> {
    use FixedOp::*;
    match op {
        Lbarx => load_reserve(cpu, insn, 1),
        Lharx => load_reserve(cpu, insn, 2),
        Lwarx => load_reserve(cpu, insn, 4),
        Ldarx => load_reserve(cpu, insn, 8),
        Lqarx => load_reserve(cpu, insn, 16),
        StbcxRecord => store_conditional(cpu, insn, 1),
        SthcxRecord => store_conditional(cpu, insn, 2),
        StwcxRecord => store_conditional(cpu, insn, 4),
        StdcxRecord => store_conditional(cpu, insn, 8),
        StqcxRecord => store_conditional(cpu, insn, 16),
        Lwat => load_atomic(cpu, insn, 4),
        Ldat => load_atomic(cpu, insn, 8),
        Stwat => store_atomic(cpu, insn, 4),
        _ => store_atomic(cpu, insn, 8),
    }
}

fn aligned(cpu: &Cpu, insn: Insn, size: u8) -> Result<u64, Stop> {
    let base = if insn.ra() == 0 { 0 } else { cpu.st.gpr[insn.ra()] };
    let ea = cpu.truncate(base.wrapping_add(cpu.st.gpr[insn.rb()]));
    if ea.is_multiple_of(u64::from(size)) { Ok(ea) } else { Err(Fault::Alignment { ea }.into()) }
}

fn load_reserve(cpu: &mut Cpu, insn: Insn, size: u8) -> Result<(), Stop> {
    let ea = aligned(cpu, insn, size)?;
    if size == 16 {
        if !insn.rt().is_multiple_of(2) || insn.rt() == insn.ra() || insn.rt() == insn.rb() {
            return Err(program::illegal());
        }
        let value = cpu.storage.load_reserve(ea, size)?;
        cpu.st.gpr[insn.rt()] = (value >> 64) as u64;
        cpu.st.gpr[insn.rt() + 1] = value as u64;
        return Ok(());
    }
    cpu.st.gpr[insn.rt()] = cpu.storage.load_reserve(ea, size)? as u64;
    Ok(())
}

fn store_conditional(cpu: &mut Cpu, insn: Insn, size: u8) -> Result<(), Stop> {
    let ea = aligned(cpu, insn, size)?;
    let value = if size == 16 {
        if !insn.rt().is_multiple_of(2) {
            return Err(program::illegal());
        }
        u128::from(cpu.st.gpr[insn.rt()]) << 64 | u128::from(cpu.st.gpr[insn.rt() + 1])
    } else {
        u128::from(cpu.st.gpr[insn.rt()])
    };
    let stored = cpu.storage.store_conditional(ea, size, value)?;
    let bits = u32::from(stored) << 1 | u32::from(cpu.st.so);
    cpu.st.set_cr_field(0, bits);
    Ok(())
}

/// The lower or higher of two values of `size` bytes, signed or not.
fn extreme(a: u64, b: u64, size: u8, signed: bool, higher: bool) -> u64 {
    let unused = 64 - 8 * u32::from(size);
    // Flipping the sign bit makes signed order unsigned.
    let flip = if signed { 1 << 63 } else { 0 };
    let key = |v: u64| (v << unused) ^ flip;
    if (key(a) > key(b)) == higher { a } else { b }
}

/// The operations that lwat and stwat share, FC 0 to 7 (II 4.5.1).
fn combine(code: u32, memory: u64, operand: u64, size: u8) -> Option<u64> {
    Some(match code {
        0 => memory.wrapping_add(operand),
        1 => memory ^ operand,
        2 => memory | operand,
        3 => memory & operand,
        4 => extreme(memory, operand, size, false, true),
        5 => extreme(memory, operand, size, true, true),
        6 => extreme(memory, operand, size, false, false),
        7 => extreme(memory, operand, size, true, false),
        _ => return None,
    })
}

fn operand_address(cpu: &Cpu, insn: Insn, size: u8) -> Result<u64, Stop> {
    let ea = cpu.truncate(if insn.ra() == 0 { 0 } else { cpu.st.gpr[insn.ra()] });
    if ea.is_multiple_of(u64::from(size)) { Ok(ea) } else { Err(Fault::Alignment { ea }.into()) }
}

/// The neighbour at `ea + offset` of the bounded and twin forms, which must lie in the same 32 bytes (II 4.5.1).
fn neighbour(cpu: &Cpu, ea: u64, offset: i64) -> Result<u64, Stop> {
    let other = ea.wrapping_add(offset as u64);
    if (other ^ ea) & !31 != 0 { Err(Fault::Alignment { ea }.into()) } else { Ok(cpu.truncate(other)) }
}

fn load_atomic(cpu: &mut Cpu, insn: Insn, size: u8) -> Result<(), Stop> {
    let code = insn.bits(16, 20);
    let ea = operand_address(cpu, insn, size)?;
    let step = i64::from(size);
    let other = match code {
        24 | 25 => Some(neighbour(cpu, ea, step)?),
        28 => Some(neighbour(cpu, ea, -step)?),
        _ => None,
    };
    let first = cpu.st.gpr[(insn.rt() + 1) % 32];
    let second = cpu.st.gpr[(insn.rt() + 2) % 32];
    let mask = u64::MAX >> (64 - 8 * u32::from(size));
    for _ in 0..ATTEMPTS {
        let old = cpu.storage.load(ea, size)? as u64;
        let bound = match other {
            Some(other) => cpu.storage.load(other, size)? as u64,
            None => 0,
        };
        // What goes to memory, if anything.
        let new = match code {
            8 => Some(first),
            16 => (old != first & mask).then_some(second),
            24 => (old != bound).then(|| old.wrapping_add(1)),
            25 => (old == bound).then(|| old.wrapping_add(1)),
            28 => (old != bound).then(|| old.wrapping_sub(1)),
            _ => match combine(code, old, first, size) {
                Some(new) => Some(new),
                None => return Err(program::illegal()),
            },
        };
        let stored = match new {
            Some(new) => cpu.storage.compare_and_swap(ea, size, old, new & mask)?,
            None => {
                cpu.storage.probe_store(ea, usize::from(size))?;
                true
            }
        };
        if stored {
            let refused = new.is_none() && code != 16;
            cpu.st.gpr[insn.rt()] = if refused { 1 << (8 * u32::from(size) - 1) } else { old };
            return Ok(());
        }
    }
    Err(Fault::Alignment { ea }.into())
}

fn store_atomic(cpu: &mut Cpu, insn: Insn, size: u8) -> Result<(), Stop> {
    let code = insn.bits(16, 20);
    let ea = operand_address(cpu, insn, size)?;
    let operand = cpu.st.gpr[insn.rt()];
    let mask = u64::MAX >> (64 - 8 * u32::from(size));
    for _ in 0..ATTEMPTS {
        let old = cpu.storage.load(ea, size)? as u64;
        if code == 24 {
            // Store twin: both, if they are equal.
            let other = neighbour(cpu, ea, i64::from(size))?;
            let twin = cpu.storage.load(other, size)? as u64;
            cpu.storage.probe_store(other, usize::from(size))?;
            if twin != old {
                cpu.storage.probe_store(ea, usize::from(size))?;
                return Ok(());
            }
            if cpu.storage.compare_and_swap(ea, size, old, operand & mask)? {
                cpu.storage.store(other, size, u128::from(operand))?;
                return Ok(());
            }
            continue;
        }
        let Some(new) = combine(code, old, operand, size) else {
            return Err(program::illegal());
        };
        if cpu.storage.compare_and_swap(ea, size, old, new & mask)? {
            return Ok(());
        }
    }
    Err(Fault::Alignment { ea }.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extremes_by_size_and_sign() {
        assert_eq!(extreme(0x8000_0000, 1, 4, true, true), 1);
        assert_eq!(extreme(0x8000_0000, 1, 4, false, true), 0x8000_0000);
        assert_eq!(extreme(u64::MAX, 1, 8, true, false), u64::MAX);
        assert_eq!(combine(9, 0, 0, 8), None);
    }
}
