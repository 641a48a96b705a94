//! Fixed-point arithmetic, logic, compare, shift and CR moves: the complete, plain semantics (ISA 3.0B I 3.3).
//!
//! The hot micro-ops of [`super::uop`] repeat a part of these in a faster form; a test holds both to the same results.

use crate::state::State;
use crate::table::{FixedOp, Insn};

use super::{Cpu, Interrupt, Stop, atomic, bcd, loadstore, program};

/// Mask of the ones from bit `mb` to bit `me` in the ISA's numbering, wrapping around if `mb > me` (I 3.3.14).
pub(super) const fn mask(mb: u32, me: u32) -> u64 {
    let from_mb = u64::MAX >> (mb & 63);
    let to_me = u64::MAX << (63 - (me & 63));
    if mb <= me { from_mb & to_me } else { from_mb | to_me }
}

/// The word twice, rotated left: ROTL32 of I 3.3.14.
pub(super) const fn rotl32(value: u64, by: u32) -> u64 {
    let word = (value as u32).rotate_left(by) as u64;
    word << 32 | word
}

/// `sh` of the MD and XS forms: bit 30 and bits 16 to 20.
pub(super) const fn sh6(insn: Insn) -> u32 {
    insn.bits(30, 30) << 5 | insn.bits(16, 20)
}

/// `mb` and `me` of the MD and MDS forms: bit 26 and bits 21 to 25.
pub(super) const fn mb6(insn: Insn) -> u32 {
    insn.bits(26, 26) << 5 | insn.bits(21, 25)
}

/// CR field for a signed comparison with zero, summary overflow included (I 2.3.1).
pub(super) fn record_cr0(state: &mut State, result: u64) {
    let value = if state.is_64bit() { result as i64 } else { i64::from(result as i32) };
    let bits = match value.cmp(&0) {
        std::cmp::Ordering::Less => 8,
        std::cmp::Ordering::Greater => 4,
        std::cmp::Ordering::Equal => 2,
    };
    state.set_cr_field(0, bits | u32::from(state.so));
}

pub(super) fn compare_bits(order: std::cmp::Ordering, so: bool) -> u32 {
    u32::from(so)
        | match order {
            std::cmp::Ordering::Less => 8,
            std::cmp::Ordering::Greater => 4,
            std::cmp::Ordering::Equal => 2,
        }
}

/// A sum with its carries and overflows out of 64 and 32 bits.
struct Sum {
    value: u64,
    carry64: bool,
    carry32: bool,
    overflow64: bool,
    overflow32: bool,
}

fn sum(a: u64, b: u64, carry: bool) -> Sum {
    let wide = u128::from(a) + u128::from(b) + u128::from(carry);
    let value = wide as u64;
    let overflow = (a ^ value) & (b ^ value);
    Sum {
        value,
        carry64: wide >> 64 != 0,
        carry32: (u64::from(a as u32) + u64::from(b as u32) + u64::from(carry)) >> 32 != 0,
        overflow64: overflow >> 63 != 0,
        overflow32: (overflow >> 31) & 1 != 0,
    }
}

fn set_overflow(state: &mut State, ov: bool, ov32: bool) {
    state.ov = ov;
    state.ov32 = ov32;
    state.so |= ov;
}

fn set_carry(state: &mut State, sum: &Sum) {
    state.ca = if state.is_64bit() { sum.carry64 } else { sum.carry32 };
    state.ca32 = sum.carry32;
}

/// Ends an add-like XO-form instruction: target, overflow, record.
fn finish_sum(state: &mut State, insn: Insn, sum: &Sum) {
    state.gpr[insn.rt()] = sum.value;
    if insn.oe() {
        let ov = if state.is_64bit() { sum.overflow64 } else { sum.overflow32 };
        set_overflow(state, ov, sum.overflow32);
    }
    if insn.record() {
        record_cr0(state, sum.value);
    }
}

/// Ends a multiply or divide: both overflow bits are alike (I 3.3.9).
fn finish_product(state: &mut State, insn: Insn, value: u64, overflow: bool) {
    state.gpr[insn.rt()] = value;
    if insn.oe() {
        set_overflow(state, overflow, overflow);
    }
    if insn.record() {
        record_cr0(state, value);
    }
}

/// Ends an instruction whose target is RA.
fn finish_logical(state: &mut State, insn: Insn, value: u64) {
    state.gpr[insn.ra()] = value;
    if insn.record() {
        record_cr0(state, value);
    }
}

/// TO-field conditions of the trap instructions (I 3.3.11).
pub(super) fn trap_condition(to: usize, a: i64, b: i64) -> bool {
    let (ua, ub) = (a as u64, b as u64);
    (to & 16 != 0 && a < b)
        || (to & 8 != 0 && a > b)
        || (to & 4 != 0 && a == b)
        || (to & 2 != 0 && ua < ub)
        || (to & 1 != 0 && ua > ub)
}

fn trap(cpu: &Cpu, insn: Insn, a: i64, b: i64) -> Result<(), Stop> {
    debug_assert!(cpu.st.pc & 3 == 0);
    if trap_condition(insn.rt(), a, b) { Err(Stop::Interrupt(Interrupt::Program(program::TRAP))) } else { Ok(()) }
}

/// Quotient of a signed division as the hardware leaves it: an undefined quotient (zero divisor, overflow) is the dividend.
fn divide_signed(a: i64, b: i64) -> (i64, bool) {
    a.checked_div(b).map_or((a, true), |quotient| (quotient, false))
}

/// Executes any instruction of the class, loads, stores and cache management included.
pub(super) fn execute(cpu: &mut Cpu, op: FixedOp, insn: Insn) -> Result<(), Stop> {
    use FixedOp::*;
    let st = &mut cpu.st;
    let (rs, ra, rb) = (st.gpr[insn.rt()], st.gpr[insn.ra()], st.gpr[insn.rb()]);
    let ra_or_zero = if insn.ra() == 0 { 0 } else { ra };
    let si = insn.si() as u64;
    match op {
        Addi => st.gpr[insn.rt()] = ra_or_zero.wrapping_add(si),
        Addis => st.gpr[insn.rt()] = ra_or_zero.wrapping_add(si << 16),
        Addpcis => {
            let d = (insn.bits(16, 25) << 6 | insn.bits(11, 15) << 1 | insn.bits(31, 31)) as u16 as i16;
            st.gpr[insn.rt()] = st.pc.wrapping_add(4).wrapping_add((i64::from(d) << 16) as u64);
        }
        Add => finish_sum(st, insn, &sum(ra, rb, false)),
        Subf => finish_sum(st, insn, &sum(!ra, rb, true)),
        Addic | AddicRecord => {
            let sum = sum(ra, si, false);
            st.gpr[insn.rt()] = sum.value;
            set_carry(st, &sum);
            if op == AddicRecord {
                record_cr0(st, sum.value);
            }
        }
        Subfic => {
            let sum = sum(!ra, si, true);
            st.gpr[insn.rt()] = sum.value;
            set_carry(st, &sum);
        }
        Addc | Subfc | Adde | Subfe | Addme | Subfme | Addze | Subfze => {
            let sum = match op {
                Addc => sum(ra, rb, false),
                Subfc => sum(!ra, rb, true),
                Adde => sum(ra, rb, st.ca),
                Subfe => sum(!ra, rb, st.ca),
                Addme => sum(ra, u64::MAX, st.ca),
                Subfme => sum(!ra, u64::MAX, st.ca),
                Addze => sum(ra, 0, st.ca),
                _ => sum(!ra, 0, st.ca),
            };
            set_carry(st, &sum);
            finish_sum(st, insn, &sum);
        }
        Addex => {
            // CY = 0 carries through OV; the other values are reserved (I 3.3.9).
            if insn.bits(21, 22) != 0 {
                return Err(program::illegal());
            }
            let sum = sum(ra, rb, st.ov);
            st.gpr[insn.rt()] = sum.value;
            st.ov = if st.is_64bit() { sum.carry64 } else { sum.carry32 };
            st.ov32 = sum.carry32;
        }
        Neg => finish_sum(st, insn, &sum(!ra, 0, true)),
        Mulli => st.gpr[insn.rt()] = ra.wrapping_mul(si),
        Mullw => {
            let product = i64::from(ra as i32) * i64::from(rb as i32);
            finish_product(st, insn, product as u64, product != i64::from(product as i32));
        }
        Mulhw => {
            let product = i64::from(ra as i32) * i64::from(rb as i32);
            finish_high(st, insn, u64::from((product >> 32) as u32), true);
        }
        Mulhwu => {
            let product = u64::from(ra as u32) * u64::from(rb as u32);
            finish_high(st, insn, product >> 32, true);
        }
        Mulld => {
            let product = i128::from(ra as i64) * i128::from(rb as i64);
            finish_product(st, insn, product as u64, product != i128::from(product as i64));
        }
        Mulhd => finish_high(st, insn, ((i128::from(ra as i64) * i128::from(rb as i64)) >> 64) as u64, false),
        Mulhdu => finish_high(st, insn, ((u128::from(ra) * u128::from(rb)) >> 64) as u64, false),
        Maddhd => {
            let rc = st.gpr[insn.rc()];
            let value = i128::from(ra as i64).wrapping_mul(i128::from(rb as i64)).wrapping_add(i128::from(rc as i64));
            st.gpr[insn.rt()] = (value >> 64) as u64;
        }
        Maddhdu => {
            let rc = st.gpr[insn.rc()];
            st.gpr[insn.rt()] = ((u128::from(ra) * u128::from(rb)).wrapping_add(u128::from(rc)) >> 64) as u64;
        }
        Maddld => st.gpr[insn.rt()] = ra.wrapping_mul(rb).wrapping_add(st.gpr[insn.rc()]),
        Divw => {
            let (a, b) = (ra as i32, rb as i32);
            let quotient = a.checked_div(b);
            finish_product(st, insn, u64::from(quotient.unwrap_or(a) as u32), quotient.is_none());
        }
        Divwu => {
            let (a, b) = (ra as u32, rb as u32);
            let quotient = a.checked_div(b);
            finish_product(st, insn, u64::from(quotient.unwrap_or(a)), quotient.is_none());
        }
        Divwe => {
            let quotient = (i64::from(ra as i32) << 32).checked_div(i64::from(rb as i32));
            let fits = quotient.and_then(|q| i32::try_from(q).ok());
            finish_product(st, insn, u64::from(fits.unwrap_or(0) as u32), fits.is_none());
        }
        Divweu => {
            let quotient = (u64::from(ra as u32) << 32).checked_div(u64::from(rb as u32));
            let fits = quotient.and_then(|q| u32::try_from(q).ok());
            finish_product(st, insn, u64::from(fits.unwrap_or(0)), fits.is_none());
        }
        Divd => {
            let (quotient, overflow) = divide_signed(ra as i64, rb as i64);
            finish_product(st, insn, quotient as u64, overflow);
        }
        Divdu => {
            let quotient = ra.checked_div(rb);
            finish_product(st, insn, quotient.unwrap_or(ra), quotient.is_none());
        }
        Divde => {
            let quotient = (i128::from(ra as i64) << 64).checked_div(i128::from(rb as i64));
            let fits = quotient.and_then(|q| i64::try_from(q).ok());
            finish_product(st, insn, fits.unwrap_or(0) as u64, fits.is_none());
        }
        Divdeu => {
            let quotient = (u128::from(ra) << 64).checked_div(u128::from(rb));
            let fits = quotient.and_then(|q| u64::try_from(q).ok());
            finish_product(st, insn, fits.unwrap_or(0), fits.is_none());
        }
        // An undefined remainder (zero divisor, overflow) is zero.
        Modsw => st.gpr[insn.rt()] = i64::from((ra as i32).checked_rem(rb as i32).unwrap_or(0)) as u64,
        Moduw => st.gpr[insn.rt()] = u64::from((ra as u32).checked_rem(rb as u32).unwrap_or(0)),
        Modsd => st.gpr[insn.rt()] = (ra as i64).checked_rem(rb as i64).unwrap_or(0) as u64,
        Modud => st.gpr[insn.rt()] = ra.checked_rem(rb).unwrap_or(0),
        Darn => {
            let random = cpu.shared.random();
            cpu.st.gpr[insn.rt()] = match insn.bits(14, 15) {
                0 => random & 0xffff_ffff,
                1 | 2 => random,
                // Reserved; all ones is the error value (I 3.3.9).
                _ => u64::MAX,
            };
        }
        Cmpi | Cmp => {
            let b = if op == Cmpi { si } else { rb };
            let order = if insn.bits(10, 10) != 0 { (ra as i64).cmp(&(b as i64)) } else { (ra as i32).cmp(&(b as i32)) };
            st.set_cr_field(insn.bf(), compare_bits(order, st.so));
        }
        Cmpli | Cmpl => {
            let b = if op == Cmpli { insn.ui() } else { rb };
            let order = if insn.bits(10, 10) != 0 { ra.cmp(&b) } else { (ra as u32).cmp(&(b as u32)) };
            st.set_cr_field(insn.bf(), compare_bits(order, st.so));
        }
        Cmprb => {
            let [.., hi1, lo1, hi2, lo2] = rb.to_be_bytes();
            let value = ra as u8;
            let within = (lo2..=hi2).contains(&value) || (insn.bits(10, 10) != 0 && (lo1..=hi1).contains(&value));
            st.set_cr_field(insn.bf(), u32::from(within) << 2);
        }
        Cmpeqb => st.set_cr_field(insn.bf(), u32::from(rb.to_be_bytes().contains(&(ra as u8))) << 2),
        Setb => {
            let field = st.cr_field(insn.bits(11, 13) as usize);
            st.gpr[insn.rt()] = if field & 8 != 0 { u64::MAX } else { u64::from(field & 4 != 0) };
        }
        Isel => {
            let set = st.cr >> (31 - insn.bits(21, 25)) & 1 != 0;
            st.gpr[insn.rt()] = if set { ra_or_zero } else { rb };
        }
        Tdi => return trap(cpu, insn, ra as i64, insn.si()),
        Twi => return trap(cpu, insn, i64::from(ra as i32), insn.si()),
        Td => return trap(cpu, insn, ra as i64, rb as i64),
        Tw => return trap(cpu, insn, i64::from(ra as i32), i64::from(rb as i32)),
        AndiRecord | AndisRecord => {
            let value = rs & (insn.ui() << if op == AndisRecord { 16 } else { 0 });
            st.gpr[insn.ra()] = value;
            record_cr0(st, value);
        }
        Ori => st.gpr[insn.ra()] = rs | insn.ui(),
        Oris => st.gpr[insn.ra()] = rs | insn.ui() << 16,
        Xori => st.gpr[insn.ra()] = rs ^ insn.ui(),
        Xoris => st.gpr[insn.ra()] = rs ^ insn.ui() << 16,
        And => finish_logical(st, insn, rs & rb),
        Xor => finish_logical(st, insn, rs ^ rb),
        Nand => finish_logical(st, insn, !(rs & rb)),
        // `or rx,rx,rx` sets the thread's priority (II 3.1), which has no effect here.
        Or => finish_logical(st, insn, rs | rb),
        Orc => finish_logical(st, insn, rs | !rb),
        Nor => finish_logical(st, insn, !(rs | rb)),
        Eqv => finish_logical(st, insn, !(rs ^ rb)),
        Andc => finish_logical(st, insn, rs & !rb),
        Extsb => finish_logical(st, insn, rs as i8 as u64),
        Extsh => finish_logical(st, insn, rs as i16 as u64),
        Extsw => finish_logical(st, insn, rs as i32 as u64),
        Cntlzw => finish_logical(st, insn, u64::from((rs as u32).leading_zeros())),
        Cntlzd => finish_logical(st, insn, u64::from(rs.leading_zeros())),
        Cnttzw => finish_logical(st, insn, u64::from((rs as u32).trailing_zeros())),
        Cnttzd => finish_logical(st, insn, u64::from(rs.trailing_zeros())),
        Cmpb => {
            let (a, b) = (rs.to_be_bytes(), rb.to_be_bytes());
            let equal = std::array::from_fn(|i| if a[i] == b[i] { 0xff } else { 0 });
            st.gpr[insn.ra()] = u64::from_be_bytes(equal);
        }
        Popcntb => st.gpr[insn.ra()] = u64::from_be_bytes(rs.to_be_bytes().map(|b| b.count_ones() as u8)),
        Popcntw => {
            st.gpr[insn.ra()] = u64::from((rs >> 32).count_ones()) << 32 | u64::from((rs as u32).count_ones());
        }
        Popcntd => st.gpr[insn.ra()] = u64::from(rs.count_ones()),
        Prtyw => {
            let low_bits = rs & 0x0101_0101_0101_0101;
            let parity = |word: u32| u64::from(word.count_ones() & 1);
            st.gpr[insn.ra()] = parity((low_bits >> 32) as u32) << 32 | parity(low_bits as u32);
        }
        Prtyd => st.gpr[insn.ra()] = u64::from((rs & 0x0101_0101_0101_0101).count_ones() & 1),
        Bpermd => {
            st.gpr[insn.ra()] = rs.to_le_bytes().iter().enumerate().fold(0, |bits, (i, index)| {
                let bit = if *index < 64 { rb >> (63 - index) & 1 } else { 0 };
                bits | bit << i
            });
        }
        Rlwinm => {
            let mask = mask(insn.bits(21, 25) + 32, insn.bits(26, 30) + 32);
            finish_logical(st, insn, rotl32(rs, insn.bits(16, 20)) & mask);
        }
        Rlwnm => {
            let mask = mask(insn.bits(21, 25) + 32, insn.bits(26, 30) + 32);
            finish_logical(st, insn, rotl32(rs, rb as u32 & 31) & mask);
        }
        Rlwimi => {
            let mask = mask(insn.bits(21, 25) + 32, insn.bits(26, 30) + 32);
            finish_logical(st, insn, rotl32(rs, insn.bits(16, 20)) & mask | ra & !mask);
        }
        Rldicl => finish_logical(st, insn, rs.rotate_left(sh6(insn)) & mask(mb6(insn), 63)),
        Rldicr => finish_logical(st, insn, rs.rotate_left(sh6(insn)) & mask(0, mb6(insn))),
        Rldic => finish_logical(st, insn, rs.rotate_left(sh6(insn)) & mask(mb6(insn), 63 - sh6(insn))),
        Rldimi => {
            let mask = mask(mb6(insn), 63 - sh6(insn));
            finish_logical(st, insn, rs.rotate_left(sh6(insn)) & mask | ra & !mask);
        }
        Rldcl => finish_logical(st, insn, rs.rotate_left(rb as u32 & 63) & mask(mb6(insn), 63)),
        Rldcr => finish_logical(st, insn, rs.rotate_left(rb as u32 & 63) & mask(0, mb6(insn))),
        Slw => finish_logical(st, insn, if rb & 0x20 != 0 { 0 } else { u64::from((rs as u32) << (rb & 31)) }),
        Srw => finish_logical(st, insn, if rb & 0x20 != 0 { 0 } else { u64::from((rs as u32) >> (rb & 31)) }),
        Sld => finish_logical(st, insn, if rb & 0x40 != 0 { 0 } else { rs << (rb & 63) }),
        Srd => finish_logical(st, insn, if rb & 0x40 != 0 { 0 } else { rs >> (rb & 63) }),
        Srawi => shift_right_algebraic(st, insn, i64::from(rs as i32), insn.bits(16, 20)),
        Sraw => shift_right_algebraic(st, insn, i64::from(rs as i32), rb as u32 & 63),
        Sradi => shift_right_algebraic(st, insn, rs as i64, sh6(insn)),
        Srad => shift_right_algebraic(st, insn, rs as i64, rb as u32 & 127),
        Extswsli => finish_logical(st, insn, (rs as i32 as u64) << sh6(insn)),
        Cdtbcd => st.gpr[insn.ra()] = bcd::declets_to_bcd(rs),
        Cbcdtd => st.gpr[insn.ra()] = bcd::bcd_to_declets(rs),
        Addg6s => st.gpr[insn.rt()] = bcd::sixes(ra, rb),
        Mtcrf | Mtocrf => {
            let fields = insn.bits(12, 19);
            let mask = (0..8).filter(|i| fields & (0x80 >> i) != 0).fold(0u32, |m, i| m | 0xf000_0000 >> (4 * i));
            st.cr = (st.cr & !mask) | (rs as u32 & mask);
        }
        Mfcr => st.gpr[insn.rt()] = u64::from(st.cr),
        Mfocrf => {
            // With other than one field selected the result is undefined; the selected fields are given.
            let fields = insn.bits(12, 19);
            let mask = (0..8).filter(|i| fields & (0x80 >> i) != 0).fold(0u32, |m, i| m | 0xf000_0000 >> (4 * i));
            st.gpr[insn.rt()] = u64::from(st.cr & mask);
        }
        Mcrxrx => {
            let bits = u32::from(st.ov) << 3 | u32::from(st.ov32) << 2 | u32::from(st.ca) << 1 | u32::from(st.ca32);
            st.set_cr_field(insn.bf(), bits);
        }
        Lwat | Ldat | Stwat | Stdat | Lbarx | Lharx | Lwarx | Ldarx | Lqarx | StbcxRecord | SthcxRecord | StwcxRecord
        | StdcxRecord | StqcxRecord => return atomic::execute(cpu, op, insn),
        _ => return loadstore::execute(cpu, op, insn),
    }
    Ok(())
}

/// Ends a multiply-high, which has no overflow form. CR0 after the word forms is undefined in 64-bit mode (I 3.3.9); the
/// hardware compares the word.
fn finish_high(state: &mut State, insn: Insn, value: u64, word: bool) {
    state.gpr[insn.rt()] = value;
    if insn.record() {
        record_cr0(state, if word { value as i32 as u64 } else { value });
    }
}

fn shift_right_algebraic(state: &mut State, insn: Insn, value: i64, by: u32) {
    let result = value >> by.min(63);
    // Ones shifted out of a negative number.
    let lost = if by > 63 { value } else { value & (1i64 << by).wrapping_sub(1) };
    state.ca = value < 0 && lost != 0;
    state.ca32 = state.ca;
    finish_logical(state, insn, result as u64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_wrap() {
        assert_eq!(mask(0, 63), u64::MAX);
        assert_eq!(mask(63, 63), 1);
        assert_eq!(mask(32, 35), 0xf000_0000);
        assert_eq!(mask(62, 1), 0xc000_0000_0000_0003);
    }

    #[test]
    fn trap_conditions() {
        assert!(trap_condition(31, 0, 0));
        assert!(trap_condition(16, -1, 0));
        assert!(!trap_condition(2, -1, 0));
        assert!(trap_condition(1, -1, 0));
        assert!(!trap_condition(0, 5, 5));
    }
}
