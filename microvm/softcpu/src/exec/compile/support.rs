//! What compiled code calls: accesses that the soft TLB does not answer, and instructions that have no code of their own.
//!
//! Each is given the address and the index of its instruction in the block, and leaves the CPU as the interpreter would.
#![allow(unsafe_code, reason = "called from compiled code, with the CPU's address")]

use super::super::block::CodeCache;
use super::super::uop::{MODE_64, MODE_LE, Uop};
use super::super::{Cpu, DataMemory, Stop, execute, hot};
use crate::table::{Insn, Op};

/// What a load came to, in two registers.
#[repr(C)]
pub struct Loaded {
    value: u64,
    /// 1 if the instruction stopped.
    stopped: u64,
}

/// The instruction at `at`, the block's number `index`, stopped.
#[cold]
fn stopped(cpu: &mut Cpu, stop: Stop, at: u64, index: u64) {
    cpu.st.pc = at;
    cpu.npc = at.wrapping_add(4);
    cpu.instructions += index;
    cpu.index = 0;
    cpu.compiled_stop = Some(stop);
}

/// Loads `N` bytes at `ea`.
///
/// # Safety
/// `cpu` is the CPU whose code calls, and nothing else refers to it.
pub unsafe extern "sysv64" fn load<const N: usize>(cpu: *mut Cpu, ea: u64, at: u64, index: u64) -> Loaded {
    // SAFETY: by the caller's promise.
    let cpu = unsafe { &mut *cpu };
    match cpu.storage.load(ea, N as u8) {
        Ok(value) => Loaded { value: value as u64, stopped: 0 },
        Err(fault) => {
            stopped(cpu, fault.into(), at, index);
            Loaded { value: 0, stopped: 1 }
        }
    }
}

/// Stores the low `N` bytes of `value` at `ea`; 1 if the instruction stopped, 0 otherwise.
///
/// # Safety
/// As [`load`].
pub unsafe extern "sysv64" fn store<const N: usize>(cpu: *mut Cpu, ea: u64, value: u64, at: u64, index: u64) -> u64 {
    // SAFETY: by the caller's promise.
    let cpu = unsafe { &mut *cpu };
    match cpu.storage.store(ea, N as u8, u128::from(value)) {
        Ok(()) => 0,
        Err(fault) => {
            stopped(cpu, fault.into(), at, index);
            1
        }
    }
}

/// Runs the micro-op `number` of `code` by itself, in the middle of a block. Zero if it stopped, otherwise the address of the data bank
/// that is in force after it.
///
/// # Safety
/// As [`load`]; `code` is the code cache that the block is of.
pub unsafe extern "sysv64" fn inner(cpu: *mut Cpu, code: *const CodeCache, number: u64, at: u64, index: u64) -> usize {
    // SAFETY: by the caller's promise.
    let (cpu, code) = unsafe { (&mut *cpu, &*code) };
    let done = match plain(code.uop(number as usize)) {
        Some((op, insn)) => executed(cpu, op, insn, at, index),
        // They are counted at the block's end.
        None => single(cpu, code, number, at, index).map(|()| cpu.instructions -= index + 1),
    };
    match done {
        Ok(()) => cpu.storage.bank_address(),
        Err(stop) => {
            cpu.compiled_stop = Some(stop);
            0
        }
    }
}

/// Runs the micro-op `number` of `code` by itself, the last of its block; 1 if it stopped, 0 otherwise.
///
/// # Safety
/// As [`inner`].
pub unsafe extern "sysv64" fn last(cpu: *mut Cpu, code: *const CodeCache, number: u64, at: u64, index: u64) -> u64 {
    // SAFETY: by the caller's promise.
    let (cpu, code) = unsafe { (&mut *cpu, &*code) };
    let done = match plain(code.uop(number as usize)) {
        Some((op, insn)) => executed(cpu, op, insn, at, index).map(|()| {
            cpu.st.pc = cpu.npc;
            cpu.instructions += index + 1;
        }),
        None => single(cpu, code, number, at, index),
    };
    match done {
        Ok(()) => 0,
        Err(stop) => {
            cpu.compiled_stop = Some(stop);
            1
        }
    }
}

/// The row and word of a micro-op that runs by the plain semantics of its class.
#[inline(always)]
fn plain(uop: &[Uop]) -> Option<(Op, Insn)> {
    match *uop.first()? {
        Uop::Fixed(op, insn) => Some((Op::Fixed(op), insn)),
        Uop::Branch(op, insn) => Some((Op::Branch(op), insn)),
        Uop::System(op, insn) => Some((Op::System(op), insn)),
        Uop::Float(op, insn) => Some((Op::Float(op), insn)),
        Uop::Vmx(op, insn) => Some((Op::Vmx(op), insn)),
        Uop::Vsx(op, insn) => Some((Op::Vsx(op), insn)),
        _ => None,
    }
}

/// Executes the instruction at `at`, the block's number `index`.
#[inline(always)]
fn executed(cpu: &mut Cpu, op: Op, insn: Insn, at: u64, index: u64) -> Result<(), Stop> {
    cpu.st.pc = at;
    cpu.npc = at.wrapping_add(4);
    cpu.index = index as u32;
    let done = execute(cpu, op, insn);
    cpu.index = 0;
    if done.is_err() {
        cpu.instructions += index;
    }
    done
}

/// A block of one micro-op: the instructions before it count as completed, for whoever reads the time.
fn single(cpu: &mut Cpu, code: &CodeCache, number: u64, at: u64, index: u64) -> Result<(), Stop> {
    cpu.instructions += index;
    hot::run_block(cpu, code, MODE_64 | MODE_LE, code.uop(number as usize), at)
}
