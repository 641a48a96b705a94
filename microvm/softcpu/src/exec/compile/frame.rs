//! What all compiled code shares: its registers, the way in, the ways out, and the way from a block to the next.
//!
//! | register | holds |
//! |---|---|
//! | rbp | the CPU |
//! | rbx | the address of its GPR 16, so that each register is a short displacement away |
//! | r12 | the effective address of the page that is executed |
//! | r13 | the data bank in force |
//! | r14 | the address of the attention word |
//! | r15 | the address of guest memory |
//! | rax, rcx, rdx, rsi, rdi, r8 | what is at hand; the address of an access is in rax |
//!
//! On the stack: the code cache; the addresses of the epoch of code pages, of the fetch translations in force, and of the region.
#![allow(unsafe_code, reason = "calls what it has made")]

use std::mem::offset_of;
use std::sync::Arc;

use dynasmrt::x64::X64Relocation;
use dynasmrt::{DynasmApi, DynasmError, DynasmLabelApi, VecAssembler, dynasm};

use super::super::Cpu;
use super::super::block::{COMPILED, CodeCache, MODE_COMPILED};
use super::super::tlb::{self, PAGE_SIZE};
use super::region::Region;
use super::support;
use crate::state::State;

/// What code is made with.
pub type Assembler = VecAssembler<X64Relocation>;

const ST: usize = offset_of!(Cpu, st);
pub const GPR_16: i32 = (ST + offset_of!(State, gpr) + 16 * 8) as i32;
pub const CR: i32 = (ST + offset_of!(State, cr)) as i32;
pub const SO: i32 = (ST + offset_of!(State, so)) as i32;
pub const CA: i32 = (ST + offset_of!(State, ca)) as i32;
pub const CA32: i32 = (ST + offset_of!(State, ca32)) as i32;
pub const LR: i32 = (ST + offset_of!(State, lr)) as i32;
pub const CTR: i32 = (ST + offset_of!(State, ctr)) as i32;
pub const PC: i32 = (ST + offset_of!(State, pc)) as i32;
pub const MSR: i32 = (ST + offset_of!(State, msr)) as i32;
pub const CFAR: i32 = offset_of!(Cpu, cfar) as i32;
pub const INSTRUCTIONS: i32 = offset_of!(Cpu, instructions) as i32;
const CHECK_AT: i32 = offset_of!(Cpu, check_at) as i32;
const HEEDED: i32 = offset_of!(Cpu, heeded) as i32;
const EPOCH: i32 = offset_of!(Cpu, epoch) as i32;

/// Bytes of the stack: four words, and one to keep it aligned.
const FRAME: i32 = 40;

/// The displacement of GPR `n` from rbx.
pub fn gpr(n: u8) -> i8 {
    ((i32::from(n & 31) - 16) * 8) as i8
}

/// The displacement of VSR `n` from rbp: its low doubleword; the high one follows.
pub fn vsr(n: u8) -> i32 {
    (ST + offset_of!(State, vsr)) as i32 + 16 * i32::from(n & 63)
}

/// The way from the interpreter's loop into compiled code.
#[derive(Debug, Clone, Copy)]
pub struct Entrance(Enter);

/// CPU, its code, data bank, page, block, fetch translations; 1 if an instruction stopped.
type Enter = unsafe extern "sysv64" fn(*mut Cpu, *const CodeCache, usize, u64, usize, usize) -> u64;

impl Entrance {
    /// Runs the code at `target`, a block of the page that the CPU's address is in. True if an instruction stopped.
    #[inline(always)]
    pub fn enter(self, cpu: &mut Cpu, code: &CodeCache, target: usize) -> bool {
        let (bank, fetches) = (cpu.storage.bank_address(), cpu.storage.fetch_address());
        let page = cpu.st.pc & !(PAGE_SIZE - 1);
        // SAFETY: `target` is a block that `emit` has made for this CPU. It touches the CPU's registers, whose places are those of
        // `offset_of!`, its soft TLB, the attention word and the epoch, which live as long as the CPU, guest memory where an
        // entry of the soft TLB leads to, which is memory to the end of its page, and the slots of pages that a fetch entry names,
        // which exist as long as the entry does; what they say is compiled was made as `target` was.
        unsafe { (self.0)(cpu, code, bank, page, target, fetches) != 0 }
    }
}

/// Addresses of what blocks jump to and call.
#[derive(Debug, Clone, Copy)]
pub struct Thunks {
    /// To the block at the address in rax.
    pub onwards: usize,
    /// Ways out: to the loop, and with a stop.
    pub done: usize,
    pub stopped: usize,
    /// By the access's size: 1, 2, 4, 8 bytes.
    pub load: [usize; 4],
    pub store: [usize; 4],
    pub inner: usize,
    pub last: usize,
}

/// The code that all blocks share, for the region's beginning: the way in, the ways out, and what leads to `support`.
///
/// # Errors
/// The assembler's.
pub fn frame(cpu: &Cpu, region: &Region) -> Result<(Vec<u8>, Entrance, Thunks), DynasmError> {
    let base = region.address(0);
    let mut ops = Assembler::new(base);
    let attention = Arc::as_ptr(&cpu.attention) as i64;
    let ram = cpu.storage.ram().host_address() as i64;
    let epoch = cpu.storage.ram().code().epoch_word().as_ptr() as i64;
    // Six registers and five words keep the stack aligned for calls.
    dynasm!(ops ; .arch x64
        ; push rbx ; push rbp ; push r12 ; push r13 ; push r14 ; push r15
        ; sub rsp, FRAME
        ; mov rbp, rdi
        ; lea rbx, [rdi + GPR_16]
        ; mov [rsp], rsi
        ; mov r13, rdx
        ; mov r12, rcx
        ; mov r14, QWORD attention
        ; mov r15, QWORD ram
        ; mov rax, QWORD epoch
        ; mov [rsp + 8], rax
        ; mov [rsp + 16], r9
        ; mov rax, QWORD base as i64
        ; mov [rsp + 24], rax
        ; jmp r8
    );
    let done = base + ops.offset().0;
    dynasm!(ops ; .arch x64 ; xor eax, eax ; jmp >out);
    let stopped = base + ops.offset().0;
    dynasm!(ops ; .arch x64
        ; mov eax, 1
        ; out:
        ; add rsp, FRAME
        ; pop r15 ; pop r14 ; pop r13 ; pop r12 ; pop rbp ; pop rbx
        ; ret
    );
    // What is done between blocks that are not of one page: to the one at rax if nothing is wanted and it is compiled.
    let onwards = base + ops.offset().0;
    dynasm!(ops ; .arch x64 ; mov [rbp + PC], rax);
    wanted(&mut ops, |ops| dynasm!(ops ; .arch x64 ; jnz extern done), |ops| dynasm!(ops ; .arch x64 ; jae extern done));
    let (page, place) = (!(PAGE_SIZE - 1) as i32, (PAGE_SIZE - 1) as i32);
    let compiled = COMPILED.trailing_zeros() as i8;
    dynasm!(ops ; .arch x64
        ; mov rcx, rax
        ; shr rcx, tlb::PAGE_SHIFT as i8
        ; and ecx, (tlb::FETCH_COUNT - 1) as i32
        ; imul ecx, ecx, tlb::FETCH_STRIDE as i32
        ; add rcx, [rsp + 16]
        ; mov rdx, rax
        ; and rdx, page
        ; mov rsi, rdx
        ; or rdx, MODE_COMPILED as i32
        ; cmp rdx, [rcx + tlb::FETCH_TAG as i32]
        ; jne extern done
        ; mov rcx, [rcx + tlb::FETCH_SLOTS as i32]
        ; and eax, place
        ; mov eax, [rcx + rax]
        ; btr eax, BYTE compiled
        ; jnc extern done
        ; mov r12, rsi
        ; add rax, [rsp + 24]
        ; jmp rax
    );
    let mut thunk = |function: usize| {
        let at = base + ops.offset().0;
        dynasm!(ops ; .arch x64 ; mov rax, QWORD function as i64 ; jmp rax);
        at
    };
    type Load = unsafe extern "sysv64" fn(*mut Cpu, u64, u64, u64) -> support::Loaded;
    type Store = unsafe extern "sysv64" fn(*mut Cpu, u64, u64, u64, u64) -> u64;
    let loads: [Load; 4] = [support::load::<1>, support::load::<2>, support::load::<4>, support::load::<8>];
    let stores: [Store; 4] = [support::store::<1>, support::store::<2>, support::store::<4>, support::store::<8>];
    let thunks = Thunks {
        onwards,
        done,
        stopped,
        load: loads.map(|function| thunk(function as usize)),
        store: stores.map(|function| thunk(function as usize)),
        inner: thunk(support::inner as *const () as usize),
        last: thunk(support::last as *const () as usize),
    };
    // SAFETY: the frame begins with the way in, whose arguments are those of the type.
    let entrance = Entrance(unsafe { std::mem::transmute::<usize, Enter>(base) });
    Ok((ops.finalize()?, entrance, thunks))
}

/// Jumps out if something wants to be looked at before the next block, as `hot::wanted` says: by the first closure where the zero flag is
/// clear, by the second where the carry flag is. rcx is used.
pub fn wanted(ops: &mut Assembler, unless_zero: impl Fn(&mut Assembler), unless_below: impl Fn(&mut Assembler)) {
    dynasm!(ops ; .arch x64 ; mov ecx, [r14] ; test ecx, [rbp + HEEDED]);
    unless_zero(ops);
    dynasm!(ops ; .arch x64 ; mov rcx, [rbp + INSTRUCTIONS] ; cmp rcx, [rbp + CHECK_AT]);
    unless_below(ops);
    dynasm!(ops ; .arch x64 ; mov rcx, [rsp + 8] ; mov rcx, [rcx] ; cmp rcx, [rbp + EPOCH]);
    unless_zero(ops);
}
