//! From micro-ops to x86-64 code. Registers are used as `frame` says.

use dynasmrt::{DynamicLabel, DynasmApi, DynasmLabelApi, dynasm};

use super::super::hot;
use super::super::msr;
use super::super::tlb::{PAGE_SIZE, layout};
use super::super::uop::{IF_SET, Uop};
use super::Block;
use super::frame::{Assembler, CA, CA32, CR, CTR, LR, MSR, SO, SPARE, Thunks, gpr, vsr};

/// A block's code.
pub struct Made {
    /// For the address that it was made for.
    pub code: Vec<u8>,
    /// Jumps that leave until the block at this offset of the page is there: its offset, where the displacement lies in the code.
    pub open: Vec<(u64, usize)>,
}

/// Makes a block's code for address `base`. `known` has the addresses of the page's compiled blocks.
pub fn block(block: Block<'_>, base: usize, thunks: &Thunks, known: impl Fn(u64) -> Option<usize>) -> Option<Made> {
    // Such loops do whole turns at once where they are interpreted.
    if block.uops.iter().any(|uop| matches!(uop, Uop::CopyingBdnz { .. } | Uop::FarCopyingBdnz { .. })) {
        return None;
    }
    let mut emit = Emit {
        ops: Assembler::new_with_capacity(base, 4096, 0, 0, 64, 0, 64),
        thunks,
        block,
        known: &known,
        base,
        chains: !block.uops.iter().any(|uop| matches!(uop, Uop::System(..) | Uop::Newer(..))),
        index: 0,
        later: Vec::new(),
        exits: Vec::new(),
        open: Vec::new(),
    };
    emit.whole();
    let code = emit.ops.finalize().ok()?;
    Some(Made { code, open: emit.open })
}

/// An access that the soft TLB did not answer.
struct Slow {
    from: DynamicLabel,
    back: DynamicLabel,
    index: usize,
    access: Access,
}

#[derive(Clone, Copy)]
enum Access {
    /// A size as a power of two, and how the value is extended.
    Load(u8, Widen),
    /// The register, whose value is still the one to store, and the size.
    Store { rs: u8, size: u8 },
    /// By the interpreter, from the instruction's start.
    Whole,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Widen {
    Zero,
    Sign,
}

/// A taken branch to a known place, emitted after the block's body.
struct Exit {
    from: DynamicLabel,
    /// Of the branch.
    index: usize,
    /// Displacement from the page's beginning.
    target: i64,
}

/// Whether two values are compared as signed or as unsigned ones.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Signed,
    Unsigned,
}

/// What a value is compared with.
#[derive(Clone, Copy)]
enum With {
    Register(u8),
    /// Extended to the width of the comparison.
    Immediate(i32),
}

struct Emit<'a> {
    ops: Assembler,
    thunks: &'a Thunks,
    block: Block<'a>,
    known: &'a dyn Fn(u64) -> Option<usize>,
    base: usize,
    /// Whether the block's ways lead straight to others: not if it may have changed how code is found.
    chains: bool,
    /// Of the current instruction in the block.
    index: usize,
    later: Vec<Slow>,
    exits: Vec<Exit>,
    open: Vec<(u64, usize)>,
}

/// Emits instructions.
macro_rules! x {
    ($emit:expr; $($code:tt)*) => { dynasm!($emit.ops ; .arch x64 ; $($code)*) };
}

impl Emit<'_> {
    /// The displacement of the block's instruction `index` from the page's beginning.
    fn place(&self, index: usize) -> i64 {
        self.block.offset as i64 + 4 * index as i64
    }

    fn whole(&mut self) {
        let mut ended = false;
        while self.index < self.block.uops.len() {
            ended = self.micro_op(self.block.uops[self.index]);
            self.index += 1;
        }
        if !ended {
            self.go_to(self.place(self.block.uops.len()), self.block.uops.len(), false);
        }
        for exit in std::mem::take(&mut self.exits) {
            x!(self; =>exit.from);
            self.go_to(exit.target, exit.index + 1, true);
        }
        for slow in std::mem::take(&mut self.later) {
            self.slow(&slow);
        }
    }

    // ---- ways out ---------------------------------------------------------------------------------------------------------

    /// Ends the block after `count` instructions, on to `target` from the page's beginning; `branched` if the last of them is a branch.
    fn go_to(&mut self, target: i64, count: usize, branched: bool) {
        let place = self.place(count - 1) as i32;
        x!(self; mov ecx, count as i32);
        let near = u64::try_from(target).ok().filter(|offset| *offset < PAGE_SIZE && self.chains);
        let Some(offset) = near else {
            x!(self; lea rax, [r12 + target as i32]);
            if branched {
                x!(self; mov edx, place; jmp extern self.thunks.branch_to);
            } else {
                x!(self; jmp extern self.thunks.go_to);
            }
            return;
        };
        if branched {
            x!(self; mov eax, place; call extern self.thunks.branched);
        } else {
            x!(self; call extern self.thunks.counted);
        }
        match (self.known)(offset) {
            _ if offset == self.block.offset => x!(self; jz extern self.base),
            Some(address) => x!(self; jz extern address),
            None => {
                // To the next instruction, until it is known.
                let out = self.ops.new_dynamic_label();
                x!(self; jz =>out; =>out);
                self.open.push((offset, self.ops.offset().0 - 4));
            }
        }
        x!(self; mov eax, target as i32; jmp extern self.thunks.leave);
    }

    /// A taken branch to the address in rax.
    fn go_to_register(&mut self) {
        let (place, count) = (self.place(self.index) as i32, self.index as i32 + 1);
        x!(self; and rax, -4; mov edx, place; mov ecx, count; jmp extern self.thunks.branch_to);
    }

    /// A new way out for the branch at the current instruction, `offset` bytes away.
    fn exit(&mut self, offset: i64) -> DynamicLabel {
        let from = self.ops.new_dynamic_label();
        self.exits.push(Exit { from, index: self.index, target: self.place(self.index) + offset });
        from
    }

    /// Takes a way out if the CR bit is as the branch wants it.
    fn branch_on(&mut self, shift: u8, set: bool, to: DynamicLabel) {
        let bit = 1u32 << (shift & 31);
        x!(self; test DWORD [BYTE rbp + CR], bit as i32);
        if set { x!(self; jnz =>to) } else { x!(self; jz =>to) }
    }

    // ---- condition register -----------------------------------------------------------------------------------------------

    /// Puts the outcome of the comparison just made into the CR field at `shift`; its new bits, in their places, are in eax.
    fn set_field(&mut self, shift: u8, order: Order) {
        let shift = shift & 28;
        let (less, greater, equal) = ((8u32 << shift) as i32, (4u32 << shift) as i32, (2u32 << shift) as i32);
        let others = !(0xfu32 << shift) as i32;
        x!(self; mov eax, less; mov ecx, greater; mov edx, equal);
        match order {
            Order::Signed => x!(self; cmovg eax, ecx),
            Order::Unsigned => x!(self; cmova eax, ecx),
        }
        x!(self; cmove eax, edx; movzx ecx, BYTE [BYTE rbp + SO]);
        if shift != 0 {
            x!(self; shl ecx, shift as i8);
        }
        x!(self; or eax, ecx; mov ecx, [BYTE rbp + CR]; and ecx, others; or ecx, eax; mov [BYTE rbp + CR], ecx);
    }

    /// Stores rax to `rt` and compares it with zero into CR field 0.
    fn record(&mut self, rt: u8) {
        x!(self; mov [BYTE rbx + gpr(rt)], rax; test rax, rax);
        self.set_field(28, Order::Signed);
    }

    fn compare(&mut self, shift: u8, ra: u8, with: With, wide: bool, order: Order) {
        let a = gpr(ra);
        match (with, wide) {
            (With::Register(rb), true) => x!(self; mov rax, [BYTE rbx + a]; cmp rax, [BYTE rbx + gpr(rb)]),
            (With::Register(rb), false) => x!(self; mov eax, [BYTE rbx + a]; cmp eax, [BYTE rbx + gpr(rb)]),
            (With::Immediate(imm), true) => x!(self; cmp QWORD [BYTE rbx + a], imm),
            (With::Immediate(imm), false) => x!(self; cmp DWORD [BYTE rbx + a], imm),
        }
        self.set_field(shift, order);
    }

    /// The comparison, and the branch of the next instruction on its outcome.
    fn compare_and_branch(&mut self, ra: u8, with: With, wide: bool, order: Order, test: u8, offset: i16) {
        self.compare(test & 28, ra, with, wide, order);
        self.branch_on_field(test, offset);
    }

    /// The next instruction's branch on the field whose bits are in eax.
    fn branch_on_field(&mut self, test: u8, offset: i16) {
        self.index += 1;
        let to = self.exit(i64::from(offset));
        let bit = 1u32 << (test & 31);
        x!(self; test eax, bit as i32);
        if test & IF_SET != 0 { x!(self; jnz =>to) } else { x!(self; jz =>to) }
    }

    // ---- what has no code of its own --------------------------------------------------------------------------------------

    /// Where the instruction `index` is, as `frame` has it.
    fn at(&self, index: usize) -> i32 {
        (self.place(index) as i32) << 8 | index as i32
    }

    /// Runs the micro-op `index` by the interpreter; it goes on behind it.
    fn interpret_inner(&mut self, index: usize) {
        let (number, at) = ((self.block.first as usize + index) as i32, self.at(index));
        x!(self; mov edx, number; mov ecx, at; call extern self.thunks.inner);
    }

    /// Runs the current micro-op by the interpreter. True if it ended the block.
    fn interpret(&mut self) -> bool {
        if self.index + 1 < self.block.uops.len() {
            self.interpret_inner(self.index);
            return false;
        }
        let (number, at) = ((self.block.first as usize + self.index) as i32, self.at(self.index));
        x!(self; mov edx, number; mov ecx, at; jmp extern self.thunks.last);
        true
    }
}

mod ops;
mod storage;
