//! Single-precision arithmetic of the vector class (ISA 3.0B I 6.6, 6.10): to nearest, without exceptions, and with denormalized
//! numbers taken for zero if VSCR\[NJ\] is set.

use super::{VSCR_NJ, note_saturation, recorded};
use crate::state::State;
use crate::table::{Insn, VmxOp};
use crate::vector::fpscr::VXCVI;
use crate::vector::lanes::{Lane, build};
use crate::vector::softfloat::arithmetic::{add, compare, multiply_add, reciprocal, reciprocal_root};
use crate::vector::softfloat::convert::{
    Integer, SIGNED_WORD, UNSIGNED_WORD, double_to_single, from_signed, from_unsigned, single_to_double, to_integer,
};
use crate::vector::softfloat::fast;
use crate::vector::softfloat::round::{Environment, Rounding, round, round_to_integer};
use crate::vector::softfloat::{Kind, Number, SINGLE, pack, unpack};

const NEAREST: Rounding = Rounding::NearestEven;

/// Executes one instruction and returns the target's new value; CR6 and VSCR are set where the instruction does.
pub(super) fn execute(op: VmxOp, insn: Insn, state: &mut State) -> u128 {
    use VmxOp::*;
    let flush = state.vscr & VSCR_NJ != 0;
    if let Vaddfp | Vsubfp | Vmaddfp | Vnmsubfp = op {
        return arithmetic(op, insn, state, flush);
    }
    let read = |register: u128| u32::split(register).map(|word| operand(word, flush));
    let (a, b) = (read(state.vr(insn.ra())), read(state.vr(insn.rb())));
    let each = |f: &dyn Fn(usize) -> Number| build::<u32>(|i| result(f(i), flush));
    let holds = |f: &dyn Fn(usize) -> bool| build::<u32>(|i| if f(i) { u32::MAX } else { 0 });
    match op {
        Vmaxfp => each(&|i| extreme(a[i], b[i], false)),
        Vminfp => each(&|i| extreme(a[i], b[i], true)),
        Vctsxs => to_integers(state, insn, &b, SIGNED_WORD),
        Vctuxs => to_integers(state, insn, &b, UNSIGNED_WORD),
        Vcfsx => from_integers(state, insn, |word| from_signed(i64::from(word as i32))),
        Vcfux => from_integers(state, insn, |word| from_unsigned(word.into())),
        Vrfim => each(&|i| round_to_integer(b[i].quieted(), Rounding::Down).0),
        Vrfin => each(&|i| round_to_integer(b[i].quieted(), NEAREST).0),
        Vrfip => each(&|i| round_to_integer(b[i].quieted(), Rounding::Up).0),
        Vrfiz => each(&|i| round_to_integer(b[i].quieted(), Rounding::TowardZero).0),
        Vcmpbfp => {
            let bounds = build::<u32>(|i| {
                let above = !compare(a[i], b[i]).is_some_and(|order| order.is_le());
                let below = !compare(a[i], b[i].negated()).is_some_and(|order| order.is_ge());
                u32::from(above) << 31 | u32::from(below) << 30
            });
            // With the record bit CR6 says whether all elements are within bounds.
            if insn.oe() {
                state.set_cr_field(6, u32::from(bounds == 0) << 1);
            }
            bounds
        }
        Vcmpeqfp => recorded(insn, state, holds(&|i| compare(a[i], b[i]).is_some_and(|order| order.is_eq()))),
        Vcmpgefp => recorded(insn, state, holds(&|i| compare(a[i], b[i]).is_some_and(|order| order.is_ge()))),
        Vcmpgtfp => recorded(insn, state, holds(&|i| compare(a[i], b[i]).is_some_and(|order| order.is_gt()))),
        Vrefp => each(&|i| reciprocal(b[i]).0),
        Vrsqrtefp => each(&|i| reciprocal_root(b[i]).0),
        Vexptefp => each(&|i| power_of_two(b[i])),
        // The caller passes the instructions above and this one.
        _ => each(&|i| logarithm(b[i])),
    }
}

/// vaddfp, vsubfp, vmaddfp, vnmsubfp.
fn arithmetic(op: VmxOp, insn: Insn, state: &State, flush: bool) -> u128 {
    use VmxOp::*;
    let read = |n: usize| u32::split(state.vr(n));
    let (a, b, c) = (read(insn.ra()), read(insn.rb()), read(insn.rc()));
    const MINUS: u64 = 1 << 63;
    build::<u32>(|i| {
        // Normalized operands and results are the same in both modes.
        let wide = |word: u32| single_to_double(word);
        let quick = match op {
            Vaddfp => fast::add(wide(a[i]), wide(b[i]), SINGLE, NEAREST),
            Vsubfp => fast::add(wide(a[i]), wide(b[i]) ^ MINUS, SINGLE, NEAREST),
            Vmaddfp => fast::multiply_add(wide(a[i]), wide(c[i]), wide(b[i]), SINGLE, NEAREST),
            _ => fast::multiply_add(wide(a[i]), wide(c[i]), wide(b[i]) ^ MINUS, SINGLE, NEAREST),
        };
        let is_tiny = |word: u32| word & 0x7f80_0000 == 0;
        if let Some((bits, _)) = quick
            && !is_tiny(a[i])
            && !is_tiny(b[i])
            && !(matches!(op, Vmaddfp | Vnmsubfp) && is_tiny(c[i]))
        {
            let word = double_to_single(bits);
            return if op == Vnmsubfp { word ^ 0x8000_0000 } else { word };
        }
        let (a, b, c) = (operand(a[i], flush), operand(b[i], flush), operand(c[i], flush));
        match op {
            Vaddfp => result(add(a, b, NEAREST).0, flush),
            Vsubfp => result(add(a, b.negated(), NEAREST).0, flush),
            Vmaddfp => result(multiply_add(a, c, b, NEAREST).0, flush),
            // To nearest, it is the same to negate before rounding.
            _ => result(multiply_add(a, c, b.negated(), NEAREST).0.negated(), flush),
        }
    })
}

/// A word as a number; denormalized ones are zero if `flush`.
fn operand(word: u32, flush: bool) -> Number {
    let number = unpack(word.into(), SINGLE);
    if flush && is_tiny(number) { Number::zero(number.negative) } else { number }
}

/// A result rounded to nearest; tiny ones are zero if `flush`.
fn result(number: Number, flush: bool) -> u32 {
    if flush && is_tiny(number) {
        return pack(Number::zero(number.negative), SINGLE) as u32;
    }
    pack(round(number, SINGLE, Environment::masked(NEAREST)).0, SINGLE) as u32
}

fn is_tiny(number: Number) -> bool {
    number.kind == Kind::Finite && number.exponent < SINGLE.min_exponent()
}

/// The larger or the smaller operand; a NaN if there is one; -0 is below +0.
fn extreme(a: Number, b: Number, least: bool) -> Number {
    if a.is_nan() || b.is_nan() {
        return if a.is_nan() { a.quieted() } else { b.quieted() };
    }
    let a_is_less = match compare(a, b) {
        Some(order) if order.is_ne() => order.is_lt(),
        _ => a.negative,
    };
    if a_is_less == least { a } else { b }
}

/// `number` × 2^exponent.
fn scaled(number: Number, exponent: i32) -> Number {
    if number.kind == Kind::Finite { Number { exponent: number.exponent + exponent, ..number } } else { number }
}

/// vctsxs, vctuxs: scaled up by 2^UIM, toward zero, saturated; a NaN is 0.
fn to_integers(state: &mut State, insn: Insn, b: &[Number; 4], integer: Integer) -> u128 {
    let scale = insn.ra() as i32;
    let mut saturated = false;
    let result = build::<u32>(|i| {
        if b[i].is_nan() {
            return 0;
        }
        let (value, flags) = to_integer(scaled(b[i], scale), integer, Rounding::TowardZero);
        saturated |= flags & VXCVI != 0;
        value as u32
    });
    note_saturation(state, saturated);
    result
}

/// vcfsx, vcfux: scaled down by 2^UIM.
fn from_integers(state: &State, insn: Insn, number: impl Fn(u32) -> Number) -> u128 {
    let scale = insn.ra() as i32;
    let words = u32::split(state.vr(insn.rb()));
    build::<u32>(|i| result(scaled(number(words[i]), -scale), false))
}

/// A finite number as the host's double, which holds any single exactly.
fn to_host(number: Number) -> f64 {
    f64::from_bits(pack(number, super::super::softfloat::DOUBLE) as u64)
}

fn from_host(value: f64) -> Number {
    unpack(value.to_bits().into(), super::super::softfloat::DOUBLE)
}

/// 2^x to well beyond the 1/16 that vexptefp promises. Only additions and multiplications of doubles: the same on every host.
fn power_of_two(x: Number) -> Number {
    match x.kind {
        Kind::QuietNan | Kind::SignalingNan => x.quieted(),
        Kind::Infinity if x.negative => Number::zero(false),
        Kind::Infinity => x,
        Kind::Zero => Number::ONE,
        Kind::Finite => {
            // Beyond ±256 the result is infinite or zero anyway.
            let x = to_host(x).clamp(-256.0, 256.0);
            let whole = x.floor();
            let exponent = (x - whole) * std::f64::consts::LN_2;
            // The exponential series; the 20th term is below 2^-71.
            let series = (1..20).rev().fold(1.0, |sum, k| 1.0 + exponent / f64::from(k) * sum);
            scaled(from_host(series), whole as i32)
        }
    }
}

/// log2 x to well beyond the 1/32 that vlogefp promises, in the same way.
fn logarithm(x: Number) -> Number {
    match x.kind {
        Kind::QuietNan | Kind::SignalingNan => x.quieted(),
        Kind::Zero => Number::infinity(true),
        _ if x.negative => Number::DEFAULT_NAN,
        Kind::Infinity => x,
        Kind::Finite => {
            let m = to_host(Number { exponent: 0, ..x });
            // ln m = 2 artanh((m - 1)/(m + 1)), with an argument of at most 1/3.
            let t = (m - 1.0) / (m + 1.0);
            let series = (0..20).rev().fold(0.0, |sum, k| 1.0 / f64::from(2 * k + 1) + t * t * sum);
            from_host(f64::from(x.exponent) + 2.0 * t * series / std::f64::consts::LN_2)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// VRT 1, VRA 2 (UIM), VRB 3, VRC 4, record bit off.
    const INSN: Insn = Insn(1 << 21 | 2 << 16 | 3 << 11 | 4 << 6);

    fn run(op: VmxOp, a: [u32; 4], b: [u32; 4], c: [u32; 4], nj: bool) -> ([u32; 4], u32) {
        let mut state = State { vscr: if nj { VSCR_NJ } else { 0 }, ..State::default() };
        state.set_vr(2, u32::join(a));
        state.set_vr(3, u32::join(b));
        state.set_vr(4, u32::join(c));
        let value = execute(op, INSN, &mut state);
        (u32::split(value), state.vscr & 1)
    }

    const ONE: u32 = 0x3f80_0000;

    #[test]
    fn sums_flush_only_in_non_java_mode() {
        let a = [ONE, 0x0080_0000, 0x0000_0001, 0x7f80_0001];
        let b = [ONE, 0x8040_0000, 0x0000_0001, ONE];
        assert_eq!(run(VmxOp::Vaddfp, a, b, [0; 4], false).0, [0x4000_0000, 0x0040_0000, 2, 0x7fc0_0001]);
        assert_eq!(run(VmxOp::Vaddfp, a, b, [0; 4], true).0, [0x4000_0000, 0x0080_0000, 0, 0x7fc0_0001]);
    }

    #[test]
    fn extremes_and_bounds() {
        let a = [0x8000_0000, ONE, 0x7fc0_0000, 0xff80_0000];
        let b = [0, 0x4000_0000, ONE, ONE];
        assert_eq!(run(VmxOp::Vmaxfp, a, b, [0; 4], false).0, [0, 0x4000_0000, 0x7fc0_0000, ONE]);
        assert_eq!(run(VmxOp::Vminfp, a, b, [0; 4], false).0, [0x8000_0000, ONE, 0x7fc0_0000, 0xff80_0000]);
        assert_eq!(run(VmxOp::Vcmpbfp, a, b, [0; 4], false).0, [0, 0, 0xc000_0000, 0x4000_0000]);
    }

    #[test]
    fn conversions_scale_and_saturate() {
        // UIM is 2: times four.
        let b = [0x3fc0_0000, 0x7fc0_0000, 0xbf80_0000, 0x3e00_0000];
        assert_eq!(run(VmxOp::Vctsxs, [0; 4], b, [0; 4], false), ([6, 0, (-4i32) as u32, 0], 0));
        assert_eq!(run(VmxOp::Vctuxs, [0; 4], b, [0; 4], false), ([6, 0, 0, 0], 1));
        let b = [0x4f00_0000, 0xff80_0000, 0, 0];
        assert_eq!(run(VmxOp::Vctsxs, [0; 4], b, [0; 4], false), ([0x7fff_ffff, 0x8000_0000, 0, 0], 1));
        assert_eq!(run(VmxOp::Vcfsx, [0; 4], [!0, 6, 0, 0], [0; 4], false).0, [0xbe80_0000, 0x3fc0_0000, 0, 0]);
    }

    #[test]
    fn estimates_are_close() {
        for x in [-3.5f32, 0.1, 10.25, 127.9, -126.5, 1e-3] {
            let (result, _) = run(VmxOp::Vexptefp, [0; 4], [x.to_bits(); 4], [0; 4], false);
            let expected = x.exp2();
            assert!((f32::from_bits(result[0]) - expected).abs() <= expected * 1e-6, "2^{x}");
            let x = x.abs();
            let (result, _) = run(VmxOp::Vlogefp, [0; 4], [x.to_bits(); 4], [0; 4], false);
            assert!((f32::from_bits(result[0]) - x.log2()).abs() <= 1e-5, "log2 {x}");
        }
        let specials = [0x7f80_0000, 0xff80_0000, 0, 0x4080_0000];
        assert_eq!(run(VmxOp::Vexptefp, [0; 4], specials, [0; 4], false).0, [0x7f80_0000, 0, ONE, 0x4180_0000]);
        assert_eq!(run(VmxOp::Vlogefp, [0; 4], specials, [0; 4], false).0, [0x7f80_0000, 0x7fc0_0000, 0xff80_0000, 0x4000_0000]);
    }

    #[test]
    fn fused_results_are_negated_after_rounding() {
        let (result, _) = run(VmxOp::Vnmsubfp, [ONE; 4], [ONE, 0, 0x7fc0_0001, ONE], [ONE; 4], false);
        assert_eq!(result, [0x8000_0000, 0xbf80_0000, 0x7fc0_0001, 0x8000_0000]);
    }
}
