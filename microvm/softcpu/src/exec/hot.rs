//! The hot loop: a `match` over micro-ops, block after block, until something needs the engine's attention.

use std::cmp::Ordering;
use std::sync::atomic::Ordering::{AcqRel, Relaxed, SeqCst};
use std::sync::atomic::fence;

use super::block::{CodeCache, Found};
use super::copying;
use super::fixed::compare_bits;
use super::tlb::PAGE_SIZE;
use super::uop::{IF_SET, Uop};
use super::{Cpu, DataMemory, Interrupt, Stop, execute, msr, program};
use crate::state::State;
use crate::table::{Op, decode};
use crate::vector;

/// Why the hot loop returned without an interrupt; `cpu.st.pc` is where execution goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pause {
    /// A check is due.
    Boundary,
    /// No decoded code for the next address.
    Miss,
    /// The block at the next address is worth compiling.
    Hot,
}

/// The page being executed: its effective address with the mode in the low bits, and its number in the code cache.
#[derive(Debug, Clone, Copy)]
pub(super) struct Here {
    pub(super) tag: u64,
    pub(super) code: u32,
    /// [`super::Storage::fetch_changes`] when it was looked up.
    pub(super) changes: u64,
}

impl Here {
    pub(super) const NOWHERE: Self = Self { tag: u64::MAX, code: 0, changes: 0 };
}

const PAGE_MASK: u64 = !(PAGE_SIZE - 1);

#[inline(always)]
fn record(st: &mut State, value: u64) {
    let bits = compare_bits((value as i64).cmp(&0), st.so);
    st.cr = st.cr & 0x0fff_ffff | bits << 28;
}

#[inline(always)]
fn set_field(st: &mut State, shift: u8, order: Ordering) {
    let bits = compare_bits(order, st.so);
    let shift = u32::from(shift & 31);
    st.cr = st.cr & !(0xf << shift) | bits << shift;
}

#[inline(always)]
fn add_carrying(st: &mut State, a: u64, b: u64, carry: bool) -> u64 {
    let (partial, first) = a.overflowing_add(b);
    let (value, second) = partial.overflowing_add(u64::from(carry));
    st.ca = first | second;
    // The carry into bit 32 shows in the sum's bit 32.
    st.ca32 = (a ^ b ^ value) >> 32 & 1 != 0;
    value
}

#[inline(always)]
fn cr_bit(st: &State, shift: u8) -> bool {
    st.cr >> (shift & 31) & 1 != 0
}

/// Runs blocks. On `Err` the instruction at `cpu.st.pc` stopped, `cpu.npc` is the one after it.
/// `cpu.instructions` counts the completed ones.
pub(super) fn run(cpu: &mut Cpu, code: &CodeCache, here: &mut Here, mode: u32) -> Result<Pause, Stop> {
    loop {
        if wanted(cpu) {
            return Ok(Pause::Boundary);
        }
        let tag = cpu.st.pc & PAGE_MASK | u64::from(mode);
        if here.tag != tag || here.changes != cpu.storage.fetch_changes {
            let Some(number) = cpu.storage.fetch_fast(cpu.st.pc, mode) else {
                return Ok(Pause::Miss);
            };
            *here = Here { tag, code: number, changes: cpu.storage.fetch_changes };
        }
        let Some(blocks) = code.blocks(here.code) else {
            return Ok(Pause::Miss);
        };
        // Block after block within the page.
        loop {
            let pc = cpu.st.pc;
            match blocks.at(pc) {
                Found::Compiled(entry) => code.run_compiled(cpu, entry)?,
                Found::Decoded(uops) => run_block(cpu, code, mode, uops, pc)?,
                Found::Hot => return Ok(Pause::Hot),
                Found::None => return Ok(Pause::Miss),
            }
            if cpu.mode_changed {
                cpu.mode_changed = false;
                *here = Here::NOWHERE;
                return Ok(Pause::Boundary);
            }
            if (cpu.st.pc ^ pc) & PAGE_MASK != 0 || here.changes != cpu.storage.fetch_changes {
                break;
            }
            if wanted(cpu) {
                return Ok(Pause::Boundary);
            }
        }
    }
}

/// True if something wants to be looked at before the next block.
#[inline(always)]
fn wanted(cpu: &Cpu) -> bool {
    cpu.attention.load(Relaxed) & cpu.heeded != 0
        || cpu.instructions >= cpu.check_at
        || cpu.storage.ram().code().epoch() != cpu.epoch
}

/// Runs one block that starts at `pc`, of `code` decoded in `mode`.
#[inline(always)]
pub(super) fn run_block(cpu: &mut Cpu, code: &CodeCache, mode: u32, uops: &[Uop], pc: u64) -> Result<(), Stop> {
    macro_rules! r {
        ($n:expr) => {
            cpu.st.gpr[usize::from($n & 31)]
        };
    }
    let mut rest = uops.iter();
    while let Some(uop) = rest.next() {
        // Index of this instruction in the block; after `skip!` of the second one of a pair.
        macro_rules! index {
            () => {
                uops.len() - rest.len() - 1
            };
        }
        macro_rules! skip {
            () => {
                rest.next()
            };
        }
        // The address of this instruction.
        macro_rules! at {
            () => {
                pc.wrapping_add(4 * index!() as u64)
            };
        }
        macro_rules! stop {
            ($stop:expr) => {{
                cpu.st.pc = at!();
                cpu.npc = cpu.truncate(at!().wrapping_add(4));
                cpu.instructions += index!() as u64;
                cpu.index = 0;
                return Err($stop.into());
            }};
        }
        macro_rules! plain {
            ($op:expr, $insn:expr) => {{
                cpu.st.pc = at!();
                cpu.npc = cpu.truncate(at!().wrapping_add(4));
                cpu.index = index!() as u32;
                let result = execute(cpu, $op, $insn);
                cpu.index = 0;
                if let Err(stop) = result {
                    cpu.instructions += index!() as u64;
                    return Err(stop);
                }
            }};
        }
        macro_rules! go {
            ($target:expr) => {{
                cpu.cfar = at!();
                cpu.instructions += index!() as u64 + 1;
                let target = $target;
                // A loop of one block goes round here, unless its turns are counted.
                if target == pc && !code.compiles() && !wanted(cpu) {
                    rest = uops.iter();
                    continue;
                }
                cpu.st.pc = target;
                return Ok(());
            }};
        }
        macro_rules! load {
            ($ea:expr, $n:literal) => {{
                let ea = $ea;
                match cpu.storage.load_fast::<$n>(ea) {
                    Some(value) => value,
                    None => match cpu.storage.load(ea, $n) {
                        Ok(value) => value as u64,
                        Err(fault) => stop!(fault),
                    },
                }
            }};
        }
        macro_rules! store {
            ($ea:expr, $n:literal, $value:expr) => {{
                let (ea, value) = ($ea, $value);
                if !cpu.storage.store_fast::<$n>(ea, value)
                    && let Err(fault) = cpu.storage.store(ea, $n, u128::from(value))
                {
                    stop!(fault)
                }
            }};
        }
        macro_rules! load_quad {
            ($ea:expr) => {{
                let ea = $ea;
                match cpu.storage.load_fast_quad(ea) {
                    Some(value) => value,
                    None => match cpu.storage.load(ea, 16) {
                        Ok(value) => value,
                        Err(fault) => stop!(fault),
                    },
                }
            }};
        }
        macro_rules! store_quad {
            ($ea:expr, $value:expr) => {{
                let (ea, value) = ($ea, $value);
                if !cpu.storage.store_fast_quad(ea, value)
                    && let Err(fault) = cpu.storage.store(ea, 16, value)
                {
                    stop!(fault)
                }
            }};
        }
        macro_rules! facility {
            ($bit:expr, $interrupt:ident) => {
                if cpu.st.msr & $bit == 0 {
                    stop!(Stop::Interrupt(Interrupt::$interrupt))
                }
            };
        }
        macro_rules! d {
            ($ra:expr, $imm:expr) => {
                r!($ra).wrapping_add(i64::from($imm) as u64)
            };
        }
        macro_rules! xa {
            ($ra:expr, $rb:expr) => {
                r!($ra).wrapping_add(r!($rb))
            };
        }
        /// The order into the CR field of the tested bit, then the branch of the next instruction.
        macro_rules! compare_and_branch {
            ($order:expr, $test:expr, $offset:expr) => {{
                let bits = compare_bits($order, cpu.st.so);
                let field = u32::from($test & 0x1c);
                cpu.st.cr = cpu.st.cr & !(0xf << field) | bits << field;
                skip!();
                if (bits >> ($test & 3) & 1 != 0) == ($test & IF_SET != 0) {
                    go!(at!().wrapping_add(i64::from($offset) as u64))
                }
            }};
        }
        match *uop {
            Uop::Fixed(op, insn) => plain!(Op::Fixed(op), insn),
            Uop::Branch(op, insn) => {
                plain!(Op::Branch(op), insn);
                if rest.as_slice().is_empty() {
                    cpu.st.pc = cpu.npc;
                    cpu.instructions += index!() as u64 + 1;
                    return Ok(());
                }
            }
            Uop::System(op, insn) => {
                plain!(Op::System(op), insn);
                if rest.as_slice().is_empty() {
                    cpu.st.pc = cpu.npc;
                    cpu.instructions += index!() as u64 + 1;
                    return Ok(());
                }
            }
            Uop::Float(op, insn) => plain!(Op::Float(op), insn),
            Uop::Vmx(op, insn) => plain!(Op::Vmx(op), insn),
            Uop::Vsx(op, insn) => plain!(Op::Vsx(op), insn),
            Uop::Illegal => stop!(program::illegal()),
            Uop::Newer(insn) => {
                let Some(op) = decode(insn).filter(|_| !cpu.problem_state()) else { stop!(program::illegal()) };
                plain!(op, insn);
                // It ends its block.
                cpu.st.pc = cpu.npc;
                cpu.instructions += index!() as u64 + 1;
                return Ok(());
            }
            Uop::Nop => {}
            Uop::OrderSome => fence(AcqRel),
            Uop::OrderAll => fence(SeqCst),
            Uop::Spin => cpu.spin(),

            Uop::Li { rt, imm } => r!(rt) = i64::from(imm) as u64,
            Uop::Addi { rt, ra, imm } => r!(rt) = d!(ra, imm),
            Uop::Add { rt, ra, rb } => r!(rt) = xa!(ra, rb),
            Uop::AddRecord { rt, ra, rb } => {
                let value = xa!(ra, rb);
                r!(rt) = value;
                record(&mut cpu.st, value);
            }
            Uop::Subf { rt, ra, rb } => r!(rt) = r!(rb).wrapping_sub(r!(ra)),
            Uop::SubfRecord { rt, ra, rb } => {
                let value = r!(rb).wrapping_sub(r!(ra));
                r!(rt) = value;
                record(&mut cpu.st, value);
            }
            Uop::Neg { rt, ra } => r!(rt) = r!(ra).wrapping_neg(),
            Uop::Mulli { rt, ra, imm } => r!(rt) = r!(ra).wrapping_mul(i64::from(imm) as u64),
            Uop::Mulld { rt, ra, rb } => r!(rt) = r!(ra).wrapping_mul(r!(rb)),
            Uop::Mullw { rt, ra, rb } => {
                r!(rt) = (i64::from(r!(ra) as i32) * i64::from(r!(rb) as i32)) as u64;
            }
            Uop::Mulhdu { rt, ra, rb } => r!(rt) = ((u128::from(r!(ra)) * u128::from(r!(rb))) >> 64) as u64,
            Uop::Addic { rt, ra, imm } => {
                let a = r!(ra);
                r!(rt) = add_carrying(&mut cpu.st, a, i64::from(imm) as u64, false);
            }
            Uop::Subfic { rt, ra, imm } => {
                let a = !r!(ra);
                r!(rt) = add_carrying(&mut cpu.st, a, i64::from(imm) as u64, true);
            }
            Uop::Addc { rt, ra, rb } => {
                let (a, b) = (r!(ra), r!(rb));
                r!(rt) = add_carrying(&mut cpu.st, a, b, false);
            }
            Uop::Adde { rt, ra, rb } => {
                let (a, b, carry) = (r!(ra), r!(rb), cpu.st.ca);
                r!(rt) = add_carrying(&mut cpu.st, a, b, carry);
            }
            Uop::Subfc { rt, ra, rb } => {
                let (a, b) = (!r!(ra), r!(rb));
                r!(rt) = add_carrying(&mut cpu.st, a, b, true);
            }
            Uop::Subfe { rt, ra, rb } => {
                let (a, b, carry) = (!r!(ra), r!(rb), cpu.st.ca);
                r!(rt) = add_carrying(&mut cpu.st, a, b, carry);
            }
            Uop::Addze { rt, ra } => {
                let (a, carry) = (r!(ra), cpu.st.ca);
                r!(rt) = add_carrying(&mut cpu.st, a, 0, carry);
            }

            Uop::Move { ra, rs } => r!(ra) = r!(rs),
            Uop::And { ra, rs, rb } => r!(ra) = r!(rs) & r!(rb),
            Uop::AndRecord { ra, rs, rb } => {
                let value = r!(rs) & r!(rb);
                r!(ra) = value;
                record(&mut cpu.st, value);
            }
            Uop::Or { ra, rs, rb } => r!(ra) = r!(rs) | r!(rb),
            Uop::OrRecord { ra, rs, rb } => {
                let value = r!(rs) | r!(rb);
                r!(ra) = value;
                record(&mut cpu.st, value);
            }
            Uop::Xor { ra, rs, rb } => r!(ra) = r!(rs) ^ r!(rb),
            Uop::Nor { ra, rs, rb } => r!(ra) = !(r!(rs) | r!(rb)),
            Uop::Andc { ra, rs, rb } => r!(ra) = r!(rs) & !r!(rb),
            Uop::Orc { ra, rs, rb } => r!(ra) = r!(rs) | !r!(rb),
            Uop::AndiRecord { ra, rs, imm } => {
                let value = r!(rs) & u64::from(imm);
                r!(ra) = value;
                record(&mut cpu.st, value);
            }
            Uop::Ori { ra, rs, imm } => r!(ra) = r!(rs) | u64::from(imm),
            Uop::Xori { ra, rs, imm } => r!(ra) = r!(rs) ^ u64::from(imm),
            Uop::Extsb { ra, rs } => r!(ra) = r!(rs) as i8 as u64,
            Uop::Extsh { ra, rs } => r!(ra) = r!(rs) as i16 as u64,
            Uop::Extsw { ra, rs } => r!(ra) = r!(rs) as i32 as u64,
            Uop::ExtswRecord { ra, rs } => {
                let value = r!(rs) as i32 as u64;
                r!(ra) = value;
                record(&mut cpu.st, value);
            }
            Uop::Cntlzd { ra, rs } => r!(ra) = u64::from(r!(rs).leading_zeros()),
            Uop::Cntlzw { ra, rs } => r!(ra) = u64::from((r!(rs) as u32).leading_zeros()),
            Uop::Popcntd { ra, rs } => r!(ra) = u64::from(r!(rs).count_ones()),
            Uop::Rotate { ra, rs, sh, mb, me } => r!(ra) = r!(rs).rotate_left(u32::from(sh)) & straight(mb, me),
            Uop::RotateRecord { ra, rs, sh, mb, me } => {
                let value = r!(rs).rotate_left(u32::from(sh)) & straight(mb, me);
                r!(ra) = value;
                record(&mut cpu.st, value);
            }
            Uop::RotateInsert { ra, rs, sh, mb, me } => {
                let mask = straight(mb, me);
                r!(ra) = r!(rs).rotate_left(u32::from(sh)) & mask | r!(ra) & !mask;
            }
            Uop::ShiftLeft { ra, rs, sh } => r!(ra) = r!(rs) << (sh & 63),
            Uop::ShiftRight { ra, rs, sh } => r!(ra) = r!(rs) >> (sh & 63),
            Uop::RotateWord { ra, rs, sh, mask } => {
                r!(ra) = u64::from((r!(rs) as u32).rotate_left(u32::from(sh)) & mask);
            }
            Uop::RotateWordRecord { ra, rs, sh, mask } => {
                let value = u64::from((r!(rs) as u32).rotate_left(u32::from(sh)) & mask);
                r!(ra) = value;
                record(&mut cpu.st, value);
            }
            Uop::RotateWordInsert { ra, rs, sh, mask } => {
                let inserted = u64::from((r!(rs) as u32).rotate_left(u32::from(sh)) & mask);
                r!(ra) = inserted | r!(ra) & !u64::from(mask);
            }
            Uop::Sld { ra, rs, rb } => {
                let by = r!(rb);
                r!(ra) = if by & 0x40 != 0 { 0 } else { r!(rs) << (by & 63) };
            }
            Uop::Srd { ra, rs, rb } => {
                let by = r!(rb);
                r!(ra) = if by & 0x40 != 0 { 0 } else { r!(rs) >> (by & 63) };
            }
            Uop::Slw { ra, rs, rb } => {
                let by = r!(rb);
                r!(ra) = if by & 0x20 != 0 { 0 } else { u64::from((r!(rs) as u32) << (by & 31)) };
            }
            Uop::Srw { ra, rs, rb } => {
                let by = r!(rb);
                r!(ra) = if by & 0x20 != 0 { 0 } else { u64::from((r!(rs) as u32) >> (by & 31)) };
            }
            Uop::Sradi { ra, rs, sh } => {
                let value = r!(rs) as i64;
                let by = u32::from(sh & 63);
                cpu.st.ca = value < 0 && value & (1i64 << by).wrapping_sub(1) != 0;
                cpu.st.ca32 = cpu.st.ca;
                r!(ra) = (value >> by) as u64;
            }
            Uop::Srawi { ra, rs, sh } => {
                let value = i64::from(r!(rs) as i32);
                let by = u32::from(sh & 31);
                cpu.st.ca = value < 0 && value & (1i64 << by).wrapping_sub(1) != 0;
                cpu.st.ca32 = cpu.st.ca;
                r!(ra) = (value >> by) as u64;
            }

            Uop::Cmpdi { shift, ra, imm } => {
                let order = (r!(ra) as i64).cmp(&i64::from(imm));
                set_field(&mut cpu.st, shift, order);
            }
            Uop::Cmpwi { shift, ra, imm } => {
                let order = (r!(ra) as i32).cmp(&imm);
                set_field(&mut cpu.st, shift, order);
            }
            Uop::Cmpldi { shift, ra, imm } => {
                let order = r!(ra).cmp(&u64::from(imm));
                set_field(&mut cpu.st, shift, order);
            }
            Uop::Cmplwi { shift, ra, imm } => {
                let order = (r!(ra) as u32).cmp(&imm);
                set_field(&mut cpu.st, shift, order);
            }
            Uop::Cmpd { shift, ra, rb } => {
                let order = (r!(ra) as i64).cmp(&(r!(rb) as i64));
                set_field(&mut cpu.st, shift, order);
            }
            Uop::Cmpw { shift, ra, rb } => {
                let order = (r!(ra) as i32).cmp(&(r!(rb) as i32));
                set_field(&mut cpu.st, shift, order);
            }
            Uop::Cmpld { shift, ra, rb } => {
                let order = r!(ra).cmp(&r!(rb));
                set_field(&mut cpu.st, shift, order);
            }
            Uop::Cmplw { shift, ra, rb } => {
                let order = (r!(ra) as u32).cmp(&(r!(rb) as u32));
                set_field(&mut cpu.st, shift, order);
            }
            Uop::Isel { rt, ra, rb, shift } => {
                r!(rt) = if cr_bit(&cpu.st, shift) { r!(ra) } else { r!(rb) };
            }
            Uop::Mfcr { rt, mask } => r!(rt) = u64::from(cpu.st.cr & mask),
            Uop::Mtcrf { rs, mask } => cpu.st.cr = cpu.st.cr & !mask | r!(rs) as u32 & mask,
            Uop::Mflr { rt } => r!(rt) = cpu.st.lr,
            Uop::Mtlr { rs } => cpu.st.lr = r!(rs),
            Uop::Mfctr { rt } => r!(rt) = cpu.st.ctr,
            Uop::Mtctr { rs } => cpu.st.ctr = r!(rs),

            Uop::Lbz { rt, ra, imm } => r!(rt) = load!(d!(ra, imm), 1),
            Uop::Lhz { rt, ra, imm } => r!(rt) = load!(d!(ra, imm), 2),
            Uop::Lha { rt, ra, imm } => r!(rt) = load!(d!(ra, imm), 2) as i16 as u64,
            Uop::Lwz { rt, ra, imm } => r!(rt) = load!(d!(ra, imm), 4),
            Uop::Lwa { rt, ra, imm } => r!(rt) = load!(d!(ra, imm), 4) as i32 as u64,
            Uop::Ld { rt, ra, imm } => r!(rt) = load!(d!(ra, imm), 8),
            Uop::Lbzx { rt, ra, rb } => r!(rt) = load!(xa!(ra, rb), 1),
            Uop::Lhzx { rt, ra, rb } => r!(rt) = load!(xa!(ra, rb), 2),
            Uop::Lhax { rt, ra, rb } => r!(rt) = load!(xa!(ra, rb), 2) as i16 as u64,
            Uop::Lwzx { rt, ra, rb } => r!(rt) = load!(xa!(ra, rb), 4),
            Uop::Lwax { rt, ra, rb } => r!(rt) = load!(xa!(ra, rb), 4) as i32 as u64,
            Uop::Ldx { rt, ra, rb } => r!(rt) = load!(xa!(ra, rb), 8),
            Uop::Lbzu { rt, ra, imm } => {
                let ea = d!(ra, imm);
                r!(rt) = load!(ea, 1);
                r!(ra) = ea;
            }
            Uop::Lhzu { rt, ra, imm } => {
                let ea = d!(ra, imm);
                r!(rt) = load!(ea, 2);
                r!(ra) = ea;
            }
            Uop::Lwzu { rt, ra, imm } => {
                let ea = d!(ra, imm);
                r!(rt) = load!(ea, 4);
                r!(ra) = ea;
            }
            Uop::Ldu { rt, ra, imm } => {
                let ea = d!(ra, imm);
                r!(rt) = load!(ea, 8);
                r!(ra) = ea;
            }
            Uop::Stb { rs, ra, imm } => store!(d!(ra, imm), 1, r!(rs)),
            Uop::Sth { rs, ra, imm } => store!(d!(ra, imm), 2, r!(rs)),
            Uop::Stw { rs, ra, imm } => store!(d!(ra, imm), 4, r!(rs)),
            Uop::Std { rs, ra, imm } => store!(d!(ra, imm), 8, r!(rs)),
            Uop::Stbx { rs, ra, rb } => store!(xa!(ra, rb), 1, r!(rs)),
            Uop::Sthx { rs, ra, rb } => store!(xa!(ra, rb), 2, r!(rs)),
            Uop::Stwx { rs, ra, rb } => store!(xa!(ra, rb), 4, r!(rs)),
            Uop::Stdx { rs, ra, rb } => store!(xa!(ra, rb), 8, r!(rs)),
            Uop::Stbu { rs, ra, imm } => {
                let ea = d!(ra, imm);
                store!(ea, 1, r!(rs));
                r!(ra) = ea;
            }
            Uop::Sthu { rs, ra, imm } => {
                let ea = d!(ra, imm);
                store!(ea, 2, r!(rs));
                r!(ra) = ea;
            }
            Uop::Stwu { rs, ra, imm } => {
                let ea = d!(ra, imm);
                store!(ea, 4, r!(rs));
                r!(ra) = ea;
            }
            Uop::Stdu { rs, ra, imm } => {
                let ea = d!(ra, imm);
                store!(ea, 8, r!(rs));
                r!(ra) = ea;
            }
            Uop::Lfd { rt, ra, imm } => {
                facility!(msr::FP, FpUnavailable);
                let value = load!(d!(ra, imm), 8);
                cpu.st.vsr[usize::from(rt & 31)] = u128::from(value) << 64;
            }
            Uop::Stfd { rs, ra, imm } => {
                facility!(msr::FP, FpUnavailable);
                store!(d!(ra, imm), 8, (cpu.st.vsr[usize::from(rs & 31)] >> 64) as u64);
            }
            Uop::Lvx { rt, ra, rb } => {
                facility!(msr::VEC, VecUnavailable);
                let ea = xa!(ra, rb) & !15;
                let value = load_quad!(ea);
                cpu.st.vsr[32 + usize::from(rt & 31)] = value;
            }
            Uop::Stvx { rs, ra, rb } => {
                facility!(msr::VEC, VecUnavailable);
                let ea = xa!(ra, rb) & !15;
                let value = cpu.st.vsr[32 + usize::from(rs & 31)];
                store_quad!(ea, value);
            }
            Uop::LvxAt { rt, rb } => {
                facility!(msr::VEC, VecUnavailable);
                let value = load_quad!(r!(rb) & !15);
                cpu.st.vsr[32 + usize::from(rt & 31)] = value;
            }
            Uop::StvxAt { rs, rb } => {
                facility!(msr::VEC, VecUnavailable);
                let value = cpu.st.vsr[32 + usize::from(rs & 31)];
                store_quad!(r!(rb) & !15, value);
            }
            Uop::Vperm { rt, ra, rb, rc } => {
                facility!(msr::VEC, VecUnavailable);
                let [a, b, control] = [ra, rb, rc].map(|n| cpu.st.vsr[32 + usize::from(n & 31)]);
                cpu.st.vsr[32 + usize::from(rt & 31)] = vector::permute(a, b, control);
            }
            // Two doublewords, the first at the lower address in either byte order.
            Uop::Lxvd2x { xt, ra, rb } => {
                facility!(msr::VSX, VsxUnavailable);
                let ea = xa!(ra, rb);
                let value = load_quad!(ea);
                cpu.st.vsr[usize::from(xt & 63)] = value.rotate_left(64);
            }
            Uop::Stxvd2x { xs, ra, rb } => {
                facility!(msr::VSX, VsxUnavailable);
                let ea = xa!(ra, rb);
                let value = cpu.st.vsr[usize::from(xs & 63)].rotate_left(64);
                store_quad!(ea, value);
            }

            Uop::B { offset } => go!(at!().wrapping_add(i64::from(offset) as u64)),
            Uop::Bl { offset } => {
                cpu.st.lr = at!().wrapping_add(4);
                go!(at!().wrapping_add(i64::from(offset) as u64))
            }
            Uop::BranchIf { shift, offset } => {
                if cr_bit(&cpu.st, shift) {
                    go!(at!().wrapping_add(i64::from(offset) as u64))
                }
            }
            Uop::BranchUnless { shift, offset } => {
                if !cr_bit(&cpu.st, shift) {
                    go!(at!().wrapping_add(i64::from(offset) as u64))
                }
            }
            Uop::Bdnz { offset } => {
                cpu.st.ctr = cpu.st.ctr.wrapping_sub(1);
                if cpu.st.ctr != 0 {
                    go!(at!().wrapping_add(i64::from(offset) as u64))
                }
            }
            Uop::CopyingBdnz { kind, offset } => {
                cpu.st.ctr = cpu.st.ctr.wrapping_sub(1);
                if cpu.st.ctr != 0 {
                    if !wanted(cpu) {
                        copying::repeat(cpu, &uops[..index!()], kind, index!() as u64 + 1);
                    }
                    go!(at!().wrapping_add(i64::from(offset) as u64))
                }
            }
            Uop::FarCopyingBdnz { offset } => {
                cpu.st.ctr = cpu.st.ctr.wrapping_sub(1);
                if cpu.st.ctr != 0 {
                    let target = at!().wrapping_add(i64::from(offset) as u64);
                    if !wanted(cpu) {
                        copying::repeat_across(cpu, code, mode, &uops[..index!()], target);
                    }
                    go!(target)
                }
            }
            Uop::CmpdiBranch { ra, test, imm, offset } => {
                compare_and_branch!((r!(ra) as i64).cmp(&i64::from(imm)), test, offset)
            }
            Uop::CmpwiBranch { ra, test, imm, offset } => {
                compare_and_branch!((r!(ra) as i32).cmp(&i32::from(imm)), test, offset)
            }
            Uop::CmpldiBranch { ra, test, imm, offset } => compare_and_branch!(r!(ra).cmp(&u64::from(imm)), test, offset),
            Uop::CmplwiBranch { ra, test, imm, offset } => {
                compare_and_branch!((r!(ra) as u32).cmp(&u32::from(imm)), test, offset)
            }
            Uop::CmpdBranch { ra, rb, test, offset } => {
                compare_and_branch!((r!(ra) as i64).cmp(&(r!(rb) as i64)), test, offset)
            }
            Uop::CmpwBranch { ra, rb, test, offset } => {
                compare_and_branch!((r!(ra) as i32).cmp(&(r!(rb) as i32)), test, offset)
            }
            Uop::CmpldBranch { ra, rb, test, offset } => compare_and_branch!(r!(ra).cmp(&r!(rb)), test, offset),
            Uop::CmplwBranch { ra, rb, test, offset } => {
                compare_and_branch!((r!(ra) as u32).cmp(&(r!(rb) as u32)), test, offset)
            }
            Uop::AndiBranch { ra, rs, test, imm, offset } => {
                let value = r!(rs) & u64::from(imm);
                r!(ra) = value;
                compare_and_branch!((value as i64).cmp(&0), test, offset)
            }
            Uop::RotateBranch { ra, rs, sh, mb, test, offset } => {
                let value = r!(rs).rotate_left(u32::from(sh)) & straight(mb, 63);
                r!(ra) = value;
                compare_and_branch!((value as i64).cmp(&0), test, offset)
            }
            Uop::LdLd { rt, rt2, ra, imm, imm2 } => {
                let base = r!(ra);
                r!(rt) = load!(base.wrapping_add(i64::from(imm) as u64), 8);
                skip!();
                r!(rt2) = load!(base.wrapping_add(i64::from(imm2) as u64), 8);
            }
            Uop::StdStd { rs, rs2, ra, imm, imm2 } => {
                let base = r!(ra);
                store!(base.wrapping_add(i64::from(imm) as u64), 8, r!(rs));
                skip!();
                store!(base.wrapping_add(i64::from(imm2) as u64), 8, r!(rs2));
            }
            Uop::MoveMove { ra, rs, ra2, rs2 } => {
                r!(ra) = r!(rs);
                r!(ra2) = r!(rs2);
                skip!();
            }
            Uop::AddiAddi { rt, ra, imm } => {
                r!(rt) = d!(ra, imm);
                skip!();
            }
            Uop::MtlrBlr { rs } => {
                let target = r!(rs);
                cpu.st.lr = target;
                skip!();
                go!(target & !3)
            }
            Uop::AddAdd { rt, ra, rb, rt2, ra2, rb2 } => {
                r!(rt) = xa!(ra, rb);
                r!(rt2) = xa!(ra2, rb2);
                skip!();
            }
            Uop::XorXor { rt, ra, rb, rt2, ra2, rb2 } => {
                r!(rt) = r!(ra) ^ r!(rb);
                r!(rt2) = r!(ra2) ^ r!(rb2);
                skip!();
            }
            Uop::TurnXor { ra, rs, sh, ra2, rs2, rb2 } => {
                r!(ra) = u64::from((r!(rs) as u32).rotate_left(u32::from(sh)));
                r!(ra2) = r!(rs2) ^ r!(rb2);
                skip!();
            }
            Uop::ShiftAdd { ra, rs, sh, rt2, ra2, rb2 } => {
                r!(ra) = r!(rs) << (sh & 63);
                r!(rt2) = xa!(ra2, rb2);
                skip!();
            }
            Uop::Blr => go!(cpu.st.lr & !3),
            Uop::BlrIf { shift } => {
                if cr_bit(&cpu.st, shift) {
                    go!(cpu.st.lr & !3)
                }
            }
            Uop::BlrUnless { shift } => {
                if !cr_bit(&cpu.st, shift) {
                    go!(cpu.st.lr & !3)
                }
            }
            Uop::Bctr => go!(cpu.st.ctr & !3),
            Uop::Bctrl => {
                cpu.st.lr = at!().wrapping_add(4);
                go!(cpu.st.ctr & !3)
            }
        }
    }
    cpu.st.pc = cpu.truncate(pc.wrapping_add(4 * uops.len() as u64));
    cpu.instructions += uops.len() as u64;
    Ok(())
}

/// Ones from `mb` to `me`, `mb` not above `me`.
#[inline(always)]
pub(super) fn straight(mb: u8, me: u8) -> u64 {
    (u64::MAX >> (mb & 63)) & (u64::MAX << (63 - (me & 63)))
}

#[cfg(test)]
pub(super) mod testkit;
#[cfg(test)]
mod tests;
