//! Loads, stores and cache management of the fixed-point class: the complete, plain semantics (ISA 3.0B I 3.3.2 to 3.3.8, II 4.3).

use std::sync::atomic::{Ordering, fence};

use crate::mmu::Fault;
use crate::table::{FixedOp, Insn};

use super::{Cpu, DataMemory, Stop, program};

/// Size in bytes of the blocks that dcbz clears and copy moves (`d-cache-block-size` of the device tree).
pub const CACHE_BLOCK: u64 = 128;

/// How the effective address is formed.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    D,
    Ds,
    Dq,
    X,
}

/// What is loaded or stored: size in bytes, and how a loaded value fills the register.
#[derive(Clone, Copy)]
struct Shape {
    form: Form,
    size: u8,
    signed: bool,
    reversed: bool,
    update: bool,
}

const fn shape(form: Form, size: u8) -> Shape {
    Shape { form, size, signed: false, reversed: false, update: false }
}

impl Shape {
    const fn signed(self) -> Self {
        Self { signed: true, ..self }
    }

    const fn reversed(self) -> Self {
        Self { reversed: true, ..self }
    }

    const fn update(self) -> Self {
        Self { update: true, ..self }
    }
}

fn load_shape(op: FixedOp) -> Option<Shape> {
    use FixedOp::*;
    Some(match op {
        Lbz => shape(Form::D, 1),
        Lbzu => shape(Form::D, 1).update(),
        Lbzx => shape(Form::X, 1),
        Lbzux => shape(Form::X, 1).update(),
        Lhz => shape(Form::D, 2),
        Lhzu => shape(Form::D, 2).update(),
        Lhzx => shape(Form::X, 2),
        Lhzux => shape(Form::X, 2).update(),
        Lha => shape(Form::D, 2).signed(),
        Lhau => shape(Form::D, 2).signed().update(),
        Lhax => shape(Form::X, 2).signed(),
        Lhaux => shape(Form::X, 2).signed().update(),
        Lwz => shape(Form::D, 4),
        Lwzu => shape(Form::D, 4).update(),
        Lwzx => shape(Form::X, 4),
        Lwzux => shape(Form::X, 4).update(),
        Lwa => shape(Form::Ds, 4).signed(),
        Lwax => shape(Form::X, 4).signed(),
        Lwaux => shape(Form::X, 4).signed().update(),
        Ld => shape(Form::Ds, 8),
        Ldu => shape(Form::Ds, 8).update(),
        Ldx => shape(Form::X, 8),
        Ldux => shape(Form::X, 8).update(),
        Lhbrx => shape(Form::X, 2).reversed(),
        Lwbrx => shape(Form::X, 4).reversed(),
        Ldbrx => shape(Form::X, 8).reversed(),
        _ => return None,
    })
}

fn store_shape(op: FixedOp) -> Option<Shape> {
    use FixedOp::*;
    Some(match op {
        Stb => shape(Form::D, 1),
        Stbu => shape(Form::D, 1).update(),
        Stbx => shape(Form::X, 1),
        Stbux => shape(Form::X, 1).update(),
        Sth => shape(Form::D, 2),
        Sthu => shape(Form::D, 2).update(),
        Sthx => shape(Form::X, 2),
        Sthux => shape(Form::X, 2).update(),
        Stw => shape(Form::D, 4),
        Stwu => shape(Form::D, 4).update(),
        Stwx => shape(Form::X, 4),
        Stwux => shape(Form::X, 4).update(),
        Std => shape(Form::Ds, 8),
        Stdu => shape(Form::Ds, 8).update(),
        Stdx => shape(Form::X, 8),
        Stdux => shape(Form::X, 8).update(),
        Sthbrx => shape(Form::X, 2).reversed(),
        Stwbrx => shape(Form::X, 4).reversed(),
        Stdbrx => shape(Form::X, 8).reversed(),
        _ => return None,
    })
}

fn reverse(value: u64, size: u8) -> u64 {
    value.swap_bytes() >> (64 - 8 * u32::from(size))
}

fn address(cpu: &Cpu, insn: Insn, form: Form) -> u64 {
    let base = if insn.ra() == 0 { 0 } else { cpu.st.gpr[insn.ra()] };
    let offset = match form {
        Form::D => insn.si() as u64,
        Form::Ds => insn.ds() as u64,
        Form::Dq => insn.dq() as u64,
        Form::X => cpu.st.gpr[insn.rb()],
    };
    cpu.truncate(base.wrapping_add(offset))
}

/// (RA|0): the address of the forms without displacement.
fn base_address(cpu: &Cpu, insn: Insn) -> u64 {
    cpu.truncate(if insn.ra() == 0 { 0 } else { cpu.st.gpr[insn.ra()] })
}

/// Executes what `fixed` leaves over.
pub(super) fn execute(cpu: &mut Cpu, op: FixedOp, insn: Insn) -> Result<(), Stop> {
    use FixedOp::*;
    if let Some(shape) = load_shape(op) {
        return load(cpu, insn, shape);
    }
    if let Some(shape) = store_shape(op) {
        return store(cpu, insn, shape);
    }
    match op {
        Lq => {
            let ea = address(cpu, insn, Form::Dq);
            // RTp must be even and not RA (I 3.3.5).
            if !insn.rt().is_multiple_of(2) || insn.rt() == insn.ra() {
                return Err(program::illegal());
            }
            let value = cpu.storage.load(ea, 16)?;
            cpu.st.gpr[insn.rt()] = (value >> 64) as u64;
            cpu.st.gpr[insn.rt() + 1] = value as u64;
        }
        Stq => {
            let ea = address(cpu, insn, Form::Ds);
            if !insn.rt().is_multiple_of(2) {
                return Err(program::illegal());
            }
            let value = u128::from(cpu.st.gpr[insn.rt()]) << 64 | u128::from(cpu.st.gpr[insn.rt() + 1]);
            cpu.storage.store(ea, 16, value)?;
        }
        Lmw => load_multiple(cpu, insn)?,
        Stmw => store_multiple(cpu, insn)?,
        Lswi | Stswi => {
            let ea = base_address(cpu, insn);
            let count = match insn.rb() {
                0 => 32,
                count => count,
            };
            string(cpu, insn, ea, count, op == Lswi)?;
        }
        Lswx | Stswx => {
            let ea = address(cpu, insn, Form::X);
            string(cpu, insn, ea, usize::from(cpu.st.xer_count), op == Lswx)?;
        }
        Dcbz => {
            let ea = address(cpu, insn, Form::X) & !(CACHE_BLOCK - 1);
            cpu.storage.zero(ea, CACHE_BLOCK)?;
        }
        Icbi => {
            let ea = address(cpu, insn, Form::X);
            cpu.storage.invalidate_code(ea)?;
        }
        Dcbst | Dcbf => {
            let ea = address(cpu, insn, Form::X);
            cpu.storage.touch(ea)?;
        }
        // Hints.
        Dcbt | Dcbtst | Icbt | Dst | Dstst | Dss => {}
        Copy => {
            let ea = address(cpu, insn, Form::X);
            if !ea.is_multiple_of(CACHE_BLOCK) {
                return Err(Fault::Alignment { ea }.into());
            }
            cpu.storage.touch(ea)?;
            cpu.copied = true;
        }
        PasteRecord => {
            // No accelerator is there to paste to: the paste does not succeed (II 4.4).
            cpu.copied = false;
            let so = u32::from(cpu.st.so);
            cpu.st.set_cr_field(0, so);
        }
        CpAbort => cpu.copied = false,
        // L = 0 (hwsync) and 2 (ptesync) order stores before loads; everything else the host's memory model or a compiler barrier gives.
        Sync => fence(if insn.bits(9, 10) == 1 { Ordering::AcqRel } else { Ordering::SeqCst }),
        Eieio => fence(Ordering::AcqRel),
        _ => return Err(Stop::Unimplemented),
    }
    Ok(())
}

fn load(cpu: &mut Cpu, insn: Insn, shape: Shape) -> Result<(), Stop> {
    if shape.update && (insn.ra() == 0 || insn.ra() == insn.rt()) {
        return Err(program::illegal());
    }
    let ea = address(cpu, insn, shape.form);
    let value = cpu.storage.load(ea, shape.size)? as u64;
    let value = if shape.reversed { reverse(value, shape.size) } else { value };
    let unused = 64 - 8 * u32::from(shape.size);
    cpu.st.gpr[insn.rt()] = if shape.signed { ((value << unused) as i64 >> unused) as u64 } else { value };
    if shape.update {
        cpu.st.gpr[insn.ra()] = ea;
    }
    Ok(())
}

fn store(cpu: &mut Cpu, insn: Insn, shape: Shape) -> Result<(), Stop> {
    if shape.update && insn.ra() == 0 {
        return Err(program::illegal());
    }
    let ea = address(cpu, insn, shape.form);
    let value = cpu.st.gpr[insn.rt()];
    let value = if shape.reversed { reverse(value, shape.size) } else { value };
    cpu.storage.store(ea, shape.size, u128::from(value))?;
    if shape.update {
        cpu.st.gpr[insn.ra()] = ea;
    }
    Ok(())
}

/// Multiple and string forms raise alignment in little-endian mode (I 3.3.7, 3.3.8).
fn big_endian_only(cpu: &Cpu, ea: u64) -> Result<(), Stop> {
    if cpu.storage.little_endian() { Err(Fault::Alignment { ea }.into()) } else { Ok(()) }
}

fn load_multiple(cpu: &mut Cpu, insn: Insn) -> Result<(), Stop> {
    let ea = address(cpu, insn, Form::D);
    big_endian_only(cpu, ea)?;
    if insn.ra() >= insn.rt() && (insn.ra() != 0 || insn.rt() == 0) {
        return Err(program::illegal());
    }
    let mut values = [0; 32];
    for (i, value) in values.iter_mut().enumerate().skip(insn.rt()) {
        let at = cpu.truncate(ea.wrapping_add(4 * (i - insn.rt()) as u64));
        *value = cpu.storage.load(at, 4)? as u64;
    }
    cpu.st.gpr[insn.rt()..].copy_from_slice(&values[insn.rt()..]);
    Ok(())
}

fn store_multiple(cpu: &mut Cpu, insn: Insn) -> Result<(), Stop> {
    let ea = address(cpu, insn, Form::D);
    big_endian_only(cpu, ea)?;
    for i in insn.rt()..32 {
        let at = cpu.truncate(ea.wrapping_add(4 * (i - insn.rt()) as u64));
        let value = cpu.st.gpr[i];
        cpu.storage.store(at, 4, u128::from(value))?;
    }
    Ok(())
}

/// lswi, lswx, stswi, stswx: `count` bytes in the low words of successive registers, r0 after r31.
fn string(cpu: &mut Cpu, insn: Insn, ea: u64, count: usize, is_load: bool) -> Result<(), Stop> {
    big_endian_only(cpu, ea)?;
    if is_load {
        let mut bytes = [0u8; 128];
        for (i, byte) in bytes.iter_mut().enumerate().take(count) {
            *byte = cpu.storage.load(cpu.truncate(ea.wrapping_add(i as u64)), 1)? as u8;
        }
        for (i, word) in bytes[..count.next_multiple_of(4)].chunks_exact(4).enumerate() {
            let word = u32::from_be_bytes([word[0], word[1], word[2], word[3]]);
            cpu.st.gpr[(insn.rt() + i) % 32] = u64::from(word);
        }
        return Ok(());
    }
    for i in 0..count {
        let register = cpu.st.gpr[(insn.rt() + i / 4) % 32];
        let byte = register >> (24 - 8 * (i % 4)) & 0xff;
        let at = cpu.truncate(ea.wrapping_add(i as u64));
        cpu.storage.store(at, 1, u128::from(byte))?;
    }
    Ok(())
}
