//! What all compiled code shares: its registers, the way in, the ways out, and what blocks jump to and call.
//!
//! | register | holds |
//! |---|---|
//! | rbp | the CPU |
//! | rbx | the address of its GPR 16, so that each register is a short displacement away |
//! | r9, r10 | masks: an address's page, the place of a page's entry in the soft TLB |
//! | r12 | the effective address of the page that is executed |
//! | r13 | the data bank in force, at its entries for loads |
//! | r14 | the address of the attention word |
//! | r15 | the address of guest memory |
//! | rax, rcx, rdx, rsi, rdi, r8 | what is at hand; the address of an access is in rax |
//!
//! On the stack: the code cache; the addresses of the epoch of code pages, of the fetch translations in force, and of the region.
//! An instruction's *place* is its offset in the page; *at* is its place times 256 plus its index in the block.
#![allow(unsafe_code, reason = "calls what it has made")]

use std::mem::offset_of;
use std::sync::Arc;

use dynasmrt::x64::X64Relocation;
use dynasmrt::{DynasmApi, DynasmError, DynasmLabelApi, VecAssembler, dynasm};

use super::super::Cpu;
use super::super::block::{COMPILED, CodeCache, MODE_COMPILED};
use super::super::tlb::{PAGE_SHIFT, PAGE_SIZE, layout};
use super::region::Region;
use super::support;
use crate::state::State;

/// What code is made with.
pub type Assembler = VecAssembler<X64Relocation>;

/// A displacement from rbp that fits a byte.
const fn near(offset: usize) -> i8 {
    assert!(offset < 128);
    offset as i8
}

const ST: usize = offset_of!(Cpu, st);
pub const CR: i8 = near(ST + offset_of!(State, cr));
pub const SO: i8 = near(ST + offset_of!(State, so));
pub const CA: i8 = near(ST + offset_of!(State, ca));
pub const CA32: i8 = near(ST + offset_of!(State, ca32));
pub const LR: i8 = near(ST + offset_of!(State, lr));
pub const CTR: i8 = near(ST + offset_of!(State, ctr));
pub const MSR: i8 = near(ST + offset_of!(State, msr));
const PC: i8 = near(ST + offset_of!(State, pc));
const CFAR: i8 = near(offset_of!(Cpu, cfar));
const INSTRUCTIONS: i8 = near(offset_of!(Cpu, instructions));
const CHECK_AT: i8 = near(offset_of!(Cpu, check_at));
const HEEDED: i8 = near(offset_of!(Cpu, heeded));
const EPOCH: i8 = near(offset_of!(Cpu, epoch));
const GPR_16: i32 = (ST + offset_of!(State, gpr) + 16 * 8) as i32;

/// Bytes of the stack: four words, and one to keep it aligned.
const FRAME: i32 = 40;
/// A word of it that holds nothing, for the instruction that is a fence.
pub const SPARE: i8 = 32;

/// The displacement of GPR `n` from rbx.
pub fn gpr(n: u8) -> i8 {
    ((i32::from(n & 31) - 16) * 8) as i8
}

/// The displacement of VSR `n` from rbp: its low doubleword; the high one follows.
pub fn vsr(n: u8) -> i32 {
    (ST + offset_of!(State, vsr)) as i32 + 16 * i32::from(n & 63)
}

/// Addresses of a CPU and its partition that code has in it. They stay as long as the CPU does, also when it is reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    attention: usize,
    ram: usize,
    epoch: usize,
}

impl Owner {
    /// Those of a CPU.
    pub fn of(cpu: &Cpu) -> Self {
        Self {
            attention: Arc::as_ptr(&cpu.attention).expose_provenance(),
            ram: cpu.storage.ram().host_address(),
            epoch: cpu.storage.ram().code().epoch_word().as_ptr().expose_provenance(),
        }
    }
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
        // which exist as long as the entry does; what they say is compiled was made as `target` was. Addresses of instructions
        // are multiples of four, so a slot is read whole.
        unsafe { (self.0)(cpu, code, bank, page, target, fetches) != 0 }
    }
}

/// Addresses of what blocks jump to and call. Those that are called keep all registers but the ones that are at hand.
#[derive(Debug, Clone, Copy)]
pub struct Thunks {
    /// Called at a block's end, ecx instructions long: the zero flag says that the next block may be gone to. `branched` also notes the
    /// taken branch whose place is in eax.
    pub counted: usize,
    pub branched: usize,
    /// Jumped to after that: to the loop, for the address whose displacement from the page is in eax.
    pub leave: usize,
    /// Jumped to at a block's end, ecx instructions long: on to the address in rax, by a taken branch whose place is in edx, or
    /// without one.
    pub branch_to: usize,
    pub go_to: usize,
    /// Called for what the soft TLB does not know: the address in rax, at in ecx; the value is in rcx afterwards, or in rdx
    /// before. By the access's size: 1, 2, 4, 8 bytes.
    pub load: [usize; 4],
    pub store: [usize; 4],
    /// Called, and jumped to, for the micro-op whose number is in edx, at in ecx.
    pub inner: usize,
    pub last: usize,
}

/// The code that all blocks share, for the region's beginning.
///
/// # Errors
/// The assembler's.
pub fn frame(owner: &Owner, region: &Region) -> Result<(Vec<u8>, Entrance, Thunks), DynasmError> {
    let base = region.address(0);
    let mut frame = Frame { ops: Assembler::new(base), base, done: 0, stopped: 0 };
    frame.way_in(owner);
    frame.ways_out();
    let (counted, branched, leave) = frame.ends();
    let (branch_to, go_to) = frame.onwards();
    type Load = unsafe extern "sysv64" fn(*mut Cpu, u64, u64, u64) -> support::Loaded;
    type Store = unsafe extern "sysv64" fn(*mut Cpu, u64, u64, u64, u64) -> u64;
    let loads: [Load; 4] = [support::load::<1>, support::load::<2>, support::load::<4>, support::load::<8>];
    let stores: [Store; 4] = [support::store::<1>, support::store::<2>, support::store::<4>, support::store::<8>];
    let load = loads.map(|function| frame.load(function as usize));
    let store = stores.map(|function| frame.store(function as usize));
    let (inner, last) = (frame.inner(), frame.last());
    let thunks = Thunks { counted, branched, leave, branch_to, go_to, load, store, inner, last };
    // SAFETY: the frame begins with the way in, whose arguments are those of the type.
    let entrance = Entrance(unsafe { std::mem::transmute::<usize, Enter>(base) });
    Ok((frame.ops.finalize()?, entrance, thunks))
}

struct Frame {
    ops: Assembler,
    base: usize,
    /// The ways out: to the loop, and with a stop.
    done: usize,
    stopped: usize,
}

/// Emits instructions.
macro_rules! x {
    ($frame:expr; $($code:tt)*) => { dynasm!($frame.ops ; .arch x64 ; $($code)*) };
}

impl Frame {
    /// The address of what is emitted next.
    fn here(&self) -> usize {
        self.base + self.ops.offset().0
    }

    /// Loads the masks, which calls do not keep.
    fn masks(&mut self) {
        x!(self; mov r9, !(PAGE_SIZE - 1) as i32; mov r10d, layout::INDEX_MASK as i32);
    }

    fn way_in(&mut self, owner: &Owner) {
        let (attention, ram, epoch) = (owner.attention as i64, owner.ram as i64, owner.epoch as i64);
        let region = self.base as i64;
        // Six registers and five words keep the stack aligned for calls.
        x!(self
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
            ; mov rax, QWORD region
            ; mov [rsp + 24], rax
        );
        self.masks();
        x!(self; jmp r8);
    }

    fn ways_out(&mut self) {
        self.done = self.here();
        x!(self; xor eax, eax; jmp >out);
        self.stopped = self.here();
        x!(self
            ; mov eax, 1
            ; out:
            ; add rsp, FRAME
            ; pop r15 ; pop r14 ; pop r13 ; pop r12 ; pop rbp ; pop rbx
            ; ret
        );
    }

    /// Clears the zero flag if something wants to be looked at before the next block, as `hot::wanted` says, after ecx more
    /// instructions; sets it otherwise. `depth` bytes are on the stack above the frame.
    fn wanted(&mut self, depth: i32) {
        x!(self
            ; add rcx, [BYTE rbp + INSTRUCTIONS]
            ; mov [BYTE rbp + INSTRUCTIONS], rcx
            ; cmp rcx, [BYTE rbp + CHECK_AT]
            ; jae >yes
            ; mov ecx, [r14]
            ; test ecx, [BYTE rbp + HEEDED]
            ; jnz >over
            ; mov rcx, [rsp + depth + 8]
            ; mov rcx, [rcx]
            ; cmp rcx, [BYTE rbp + EPOCH]
            ; jmp >over
            ; yes:
            ; test rsp, rsp
            ; over:
        );
    }

    fn ends(&mut self) -> (usize, usize, usize) {
        let branched = self.here();
        x!(self; add rax, r12; mov [BYTE rbp + CFAR], rax);
        let counted = self.here();
        self.wanted(8);
        x!(self; ret);
        let leave = self.here();
        x!(self; movsxd rax, eax; add rax, r12; mov [BYTE rbp + PC], rax; jmp extern self.done);
        (counted, branched, leave)
    }

    /// What is done between blocks that are not of one page: the fetch translation of the address and the slot in its page lead to
    /// the next, if that is compiled.
    fn onwards(&mut self) -> (usize, usize) {
        let branch_to = self.here();
        x!(self; add rdx, r12; mov [BYTE rbp + CFAR], rdx);
        let go_to = self.here();
        x!(self; mov [BYTE rbp + PC], rax);
        self.wanted(0);
        // Of an instruction: a word.
        let place = (PAGE_SIZE - 4) as i32;
        let compiled = COMPILED.trailing_zeros() as i8;
        x!(self
            ; jnz extern self.done
            ; mov rcx, rax
            ; shr rcx, PAGE_SHIFT as i8
            ; and ecx, (layout::FETCH_COUNT - 1) as i32
            ; imul ecx, ecx, layout::FETCH_STRIDE as i32
            ; add rcx, [rsp + 16]
            ; mov rsi, rax
            ; and rsi, r9
            ; lea rdx, [rsi + MODE_COMPILED as i32]
            ; cmp rdx, [rcx + layout::FETCH_TAG as i32]
            ; jne extern self.done
            ; mov rcx, [rcx + layout::FETCH_SLOTS as i32]
            ; and eax, place
            ; mov eax, [rcx + rax]
            ; btr eax, BYTE compiled
            ; jnc extern self.done
            ; mov r12, rsi
            ; add rax, [rsp + 24]
            ; jmp rax
        );
        (branch_to, go_to)
    }

    /// Calls a function of `support` from a thunk that was called.
    fn call(&mut self, function: usize) {
        x!(self; mov rdi, rbp; mov rax, QWORD function as i64; sub rsp, 8; call rax; add rsp, 8);
    }

    fn load(&mut self, function: usize) -> usize {
        let at = self.here();
        x!(self; mov rsi, rax; mov edx, ecx; shr edx, 8; add rdx, r12; movzx ecx, cl);
        self.call(function);
        x!(self; test edx, edx; jnz >bad; mov rcx, rax);
        self.back();
        at
    }

    fn store(&mut self, function: usize) -> usize {
        let at = self.here();
        x!(self; mov rsi, rax; movzx r8d, cl; shr ecx, 8; add rcx, r12);
        self.call(function);
        x!(self; test eax, eax; jnz >bad);
        self.back();
        at
    }

    /// The end of a thunk that was called; from `bad` on with a stop.
    fn back(&mut self) {
        self.masks();
        x!(self; ret; bad:; add rsp, 8; jmp extern self.stopped);
    }

    fn inner(&mut self) -> usize {
        let at = self.here();
        x!(self; mov rsi, [rsp + 8]; movzx r8d, cl; shr ecx, 8; add rcx, r12);
        self.call(support::inner as *const () as usize);
        x!(self; test rax, rax; jz >bad; mov r13, rax);
        self.back();
        at
    }

    fn last(&mut self) -> usize {
        let at = self.here();
        let function = support::last as *const () as i64;
        x!(self
            ; mov rsi, [rsp]
            ; movzx r8d, cl
            ; shr ecx, 8
            ; add rcx, r12
            ; mov rdi, rbp
            ; mov rax, QWORD function
            ; call rax
            ; test eax, eax
            ; jnz extern self.stopped
            ; jmp extern self.done
        );
        at
    }
}
