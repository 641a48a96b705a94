//! Scalar arithmetic, comparison and conversion in the high doubleword (ISA 3.0B I 7.6.4 to 7.6.7).

use super::element::{in_class, raw, scalar};
use crate::state::State;
use crate::table::{Insn, VsxOp};
use crate::vector::fpscr::{self, FPCC, FPRF, VE, VXSNAN, VXVC};
use crate::vector::operation::{self, Fused, MADD, MSUB, NMADD, NMSUB};
use crate::vector::scalar::{
    compare_doubles_to_cr, conclude, conclude_integer, condition, test_divide, test_square_root, to_integral,
};
use crate::vector::softfloat::arithmetic::compare;
use crate::vector::softfloat::convert::{SIGNED_DOUBLEWORD, SIGNED_WORD, UNSIGNED_DOUBLEWORD, UNSIGNED_WORD, single_to_double};
use crate::vector::softfloat::round::{Environment, Rounding, round, round_to_integer};
use crate::vector::softfloat::{DOUBLE, Format, HALF, Kind, Number, SINGLE, class_flags, pack, unpack};

/// Executes one instruction and returns the target's new value, or `None` if there is none or an enabled exception suppresses it.
pub(super) fn execute(op: VsxOp, insn: Insn, state: &mut State) -> Option<u128> {
    use VsxOp::*;
    let (xa, xb) = (state.vsr[insn.xa()], state.vsr[insn.xb()]);
    let (ra, rb) = ((xa >> 64) as u64, (xb >> 64) as u64);
    let environment = fpscr::environment(state);
    if let Some((format, multiply_by_target, fused)) = fused_form(op) {
        let target = (state.vsr[insn.xt()] >> 64) as u64;
        let operands = if multiply_by_target { [ra, target, rb] } else { [ra, rb, target] };
        let bits = operation::multiply_add(operands, fused, format, environment).conclude(state)?;
        return Some(u128::from(bits) << 64);
    }
    let (a, b) = (scalar(xa), scalar(xb));
    let doubleword = match op {
        Xsadddp => operation::add(ra, rb, DOUBLE, environment).conclude(state),
        Xssubdp => operation::subtract(ra, rb, DOUBLE, environment).conclude(state),
        Xsmuldp => operation::multiply(ra, rb, DOUBLE, environment).conclude(state),
        Xsdivdp => operation::divide(ra, rb, DOUBLE, environment).conclude(state),
        Xssqrtdp => operation::square_root(rb, DOUBLE, environment).conclude(state),
        Xsredp => operation::reciprocal(rb, DOUBLE, environment).conclude(state),
        Xsrsqrtedp => operation::reciprocal_root(rb, DOUBLE, environment).conclude(state),
        Xsaddsp => operation::add(ra, rb, SINGLE, environment).conclude(state),
        Xssubsp => operation::subtract(ra, rb, SINGLE, environment).conclude(state),
        Xsmulsp => operation::multiply(ra, rb, SINGLE, environment).conclude(state),
        Xsdivsp => operation::divide(ra, rb, SINGLE, environment).conclude(state),
        Xssqrtsp => operation::square_root(rb, SINGLE, environment).conclude(state),
        Xsresp => operation::reciprocal(rb, SINGLE, environment).conclude(state),
        Xsrsqrtesp => operation::reciprocal_root(rb, SINGLE, environment).conclude(state),
        Xstdivdp => return to_cr(state, insn, test_divide(ra, rb, DOUBLE)),
        Xstsqrtdp => return to_cr(state, insn, test_square_root(rb, DOUBLE)),
        Xscmpodp | Xscmpudp => {
            compare_doubles_to_cr(state, insn.bf(), ra, rb, op == Xscmpodp);
            return None;
        }
        Xscmpexpdp => {
            let field = |x: u128| (x >> 116 & 0x7ff) as u32;
            return condition_to_cr(state, insn, compare_exponents(a, b, field(xa), field(xb)));
        }
        Xsmaxdp | Xsmindp => maximum(state, a, b, op == Xsmindp),
        Xsmaxcdp | Xsmincdp => maximum_c(state, a, b, op == Xsmincdp),
        Xsmaxjdp | Xsminjdp => maximum_java(state, a, b, op == Xsminjdp),
        Xscmpeqdp | Xscmpgtdp | Xscmpgedp => compare_to_mask(op, state, a, b),

        // In the low half of the doubleword, and in the high one, which the ISA leaves undefined.
        Xscvdpsp => {
            let (number, flags) = round(b.quieted().truncated_payload(SINGLE), SINGLE, environment);
            let bits = pack(number, SINGLE) as u64;
            let flags = flags | signaling(b);
            fpscr::scalar(state, flags, class_flags(number, SINGLE)).then_some(bits << 32 | bits)
        }
        Xscvspdp => {
            let word = unpack(raw(xb, SINGLE, 0).into(), SINGLE);
            conclude(state, (word.quieted(), signaling(word)), DOUBLE)
        }
        Xscvdpspn => {
            let word = u64::from(double_to_single_quietly(rb));
            Some(word << 32 | word)
        }
        Xscvspdpn => Some(single_to_double(raw(xb, SINGLE, 0) as u32)),
        Xsrsp => operation::to_single(rb, environment).conclude(state),
        Xscvhpdp => {
            let half = unpack(xb >> 64 & 0xffff, HALF);
            conclude(state, (half.quieted(), signaling(half)), DOUBLE)
        }
        Xscvdphp => {
            let (number, flags) = round(b.quieted().truncated_payload(HALF), HALF, environment);
            let flags = flags | signaling(b);
            fpscr::scalar(state, flags, class_flags(number, HALF)).then(|| pack(number, HALF) as u64)
        }
        Xscvdpsxds => conclude_integer(state, operation::to_integer(rb, SIGNED_DOUBLEWORD, Rounding::TowardZero)),
        Xscvdpuxds => conclude_integer(state, operation::to_integer(rb, UNSIGNED_DOUBLEWORD, Rounding::TowardZero)),
        // In both words, as every processor does it, although only the second one is defined.
        Xscvdpsxws => {
            let word = operation::to_integer(rb, SIGNED_WORD, Rounding::TowardZero);
            conclude_integer(state, word).map(|word| word << 32 | word)
        }
        Xscvdpuxws => {
            let word = operation::to_integer(rb, UNSIGNED_WORD, Rounding::TowardZero);
            conclude_integer(state, word).map(|word| word << 32 | word)
        }
        Xscvsxddp => operation::from_signed(rb, DOUBLE, environment).conclude(state),
        Xscvuxddp => operation::from_unsigned(rb, DOUBLE, environment).conclude(state),
        Xscvsxdsp => operation::from_signed(rb, SINGLE, environment).conclude(state),
        Xscvuxdsp => operation::from_unsigned(rb, SINGLE, environment).conclude(state),
        Xsrdpi => conclude(state, to_integral(b, Rounding::NearestAway), DOUBLE),
        Xsrdpim => conclude(state, to_integral(b, Rounding::Down), DOUBLE),
        Xsrdpip => conclude(state, to_integral(b, Rounding::Up), DOUBLE),
        Xsrdpiz => conclude(state, to_integral(b, Rounding::TowardZero), DOUBLE),
        Xsrdpic => {
            let (number, inexact, incremented) = round_to_integer(b.quieted(), environment.rounding);
            let flags = signaling(b) | fpscr::inexact(inexact, incremented);
            fpscr::scalar(state, flags, class_flags(number, DOUBLE)).then(|| pack(number, DOUBLE) as u64)
        }

        Xsxexpdp => return to_register(state, insn, (xb >> 116 & 0x7ff) as u64),
        Xsxsigdp => return to_register(state, insn, significand(rb, DOUBLE)),
        Xsiexpdp => Some(state.gpr[insn.ra()] & 0x800f_ffff_ffff_ffff | (state.gpr[insn.rb()] & 0x7ff) << 52),
        Xststdcdp => return test_class(state, insn, b, DOUBLE, false),
        Xststdcsp => {
            // A test, not an operation: no enabled exception scales the result.
            let environment = Environment::masked(environment.rounding);
            let single = round(b.quieted().truncated_payload(SINGLE), SINGLE, environment).0;
            let differs = single != b.quieted();
            return test_class(state, insn, b, SINGLE, differs);
        }
        // The caller passes scalar instructions only, and these are all.
        _ => return None,
    };
    doubleword.map(|bits| u128::from(bits) << 64)
}

/// VXSNAN for a signaling NaN.
pub(super) fn signaling(number: Number) -> u32 {
    if number.is_signaling() { VXSNAN } else { 0 }
}

/// The forms of the multiply-add instructions: format, whether the target is a factor (M) or the addend (A), and signs.
#[inline]
fn fused_form(op: VsxOp) -> Option<(Format, bool, Fused)> {
    use VsxOp::*;
    Some(match op {
        Xsmaddadp => (DOUBLE, false, MADD),
        Xsmaddmdp => (DOUBLE, true, MADD),
        Xsmsubadp => (DOUBLE, false, MSUB),
        Xsmsubmdp => (DOUBLE, true, MSUB),
        Xsnmaddadp => (DOUBLE, false, NMADD),
        Xsnmaddmdp => (DOUBLE, true, NMADD),
        Xsnmsubadp => (DOUBLE, false, NMSUB),
        Xsnmsubmdp => (DOUBLE, true, NMSUB),
        Xsmaddasp => (SINGLE, false, MADD),
        Xsmaddmsp => (SINGLE, true, MADD),
        Xsmsubasp => (SINGLE, false, MSUB),
        Xsmsubmsp => (SINGLE, true, MSUB),
        Xsnmaddasp => (SINGLE, false, NMADD),
        Xsnmaddmsp => (SINGLE, true, NMADD),
        Xsnmsubasp => (SINGLE, false, NMSUB),
        Xsnmsubmsp => (SINGLE, true, NMSUB),
        _ => return None,
    })
}

fn to_cr(state: &mut State, insn: Insn, bits: u32) -> Option<u128> {
    state.set_cr_field(insn.bf(), bits);
    None
}

/// To the CR field and FPCC.
pub(super) fn condition_to_cr(state: &mut State, insn: Insn, bits: u32) -> Option<u128> {
    state.fpscr = state.fpscr & !u64::from(FPCC) | u64::from(bits) << 12;
    to_cr(state, insn, bits)
}

fn to_register(state: &mut State, insn: Insn, value: u64) -> Option<u128> {
    state.gpr[insn.rt()] = value;
    None
}

/// xscmpexpdp, xscmpexpqp: the exponent fields, unordered if there is a NaN.
pub(super) fn compare_exponents(a: Number, b: Number, a_field: u32, b_field: u32) -> u32 {
    if a.is_nan() || b.is_nan() {
        return 1;
    }
    match a_field.cmp(&b_field) {
        std::cmp::Ordering::Less => 8,
        std::cmp::Ordering::Greater => 4,
        std::cmp::Ordering::Equal => 2,
    }
}

/// The fraction with the bit that the format leaves implicit.
pub(super) fn significand(bits: u64, format: Format) -> u64 {
    let fraction = bits & ((1 << format.fraction_bits()) - 1);
    let number = unpack(bits.into(), format);
    let implicit = number.kind == Kind::Finite && number.exponent >= format.min_exponent();
    fraction | u64::from(implicit) << format.fraction_bits()
}

/// xststdcdp, xststdcsp, xststdcqp: sign, match, and in the last bit `differs`.
pub(super) fn test_class(state: &mut State, insn: Insn, b: Number, format: Format, differs: bool) -> Option<u128> {
    let matches = in_class(b, format, insn.bits(9, 15));
    let bits = u32::from(b.negative) << 3 | u32::from(matches) << 1 | u32::from(differs);
    condition_to_cr(state, insn, bits)
}

/// The result of a comparison or choice: exceptions recorded, `None` if VE suppresses it. FPRF, FR and FI stay.
fn choose(state: &mut State, flags: u32, bits: u64) -> Option<u64> {
    fpscr::raise(state, flags);
    (!fpscr::suppresses(state, flags)).then_some(bits)
}

/// The number that xsmaxdp and the like deliver (IEEE 754-2008, maxNum): a quiet NaN yields to a number; -0 is below +0.
pub(super) fn extreme(a: Number, b: Number, least: bool) -> Number {
    match (a.is_nan(), b.is_nan()) {
        (true, false) if !a.is_signaling() => return b,
        (false, true) if !b.is_signaling() => return a,
        (true, _) => return a.quieted(),
        (_, true) => return b.quieted(),
        _ => {}
    }
    let a_is_less = match compare(a, b) {
        Some(order) if order.is_ne() => order.is_lt(),
        _ => a.negative,
    };
    if a_is_less == least { a } else { b }
}

fn maximum(state: &mut State, a: Number, b: Number, least: bool) -> Option<u64> {
    choose(state, signaling(a) | signaling(b), pack(extreme(a, b, least), DOUBLE) as u64)
}

/// xsmaxcdp, xsmincdp: as `a > b ? a : b` in C; a NaN anywhere yields `b`, as it is.
fn maximum_c(state: &mut State, a: Number, b: Number, least: bool) -> Option<u64> {
    let takes_a = compare(a, b).is_some_and(|order| if least { order.is_lt() } else { order.is_gt() });
    choose(state, signaling(a) | signaling(b), pack(if takes_a { a } else { b }, DOUBLE) as u64)
}

/// xsmaxjdp, xsminjdp: as Math.max in Java; the first NaN as it is; -0 is below +0.
fn maximum_java(state: &mut State, a: Number, b: Number, least: bool) -> Option<u64> {
    let result = if a.is_nan() {
        a
    } else if b.is_nan() {
        b
    } else {
        extreme(a, b, least)
    };
    choose(state, signaling(a) | signaling(b), pack(result, DOUBLE) as u64)
}

/// xscmpeqdp, xscmpgtdp, xscmpgedp.
fn compare_to_mask(op: VsxOp, state: &mut State, a: Number, b: Number) -> Option<u64> {
    let condition = condition(a, b);
    let (holds, ordered) = match op {
        VsxOp::Xscmpeqdp => (condition == 2, false),
        VsxOp::Xscmpgtdp => (condition == 4, true),
        _ => (condition & 6 != 0, true),
    };
    let flags = unordered_flags(state, a, b, ordered);
    choose(state, flags, if holds { u64::MAX } else { 0 })
}

/// VXSNAN and VXVC of a comparison.
pub(super) fn unordered_flags(state: &State, a: Number, b: Number, ordered: bool) -> u32 {
    let snan = signaling(a) | signaling(b);
    if !ordered || !(a.is_nan() || b.is_nan()) {
        return snan;
    }
    if snan != 0 && state.fpscr as u32 & VE != 0 { snan } else { snan | VXVC }
}

/// xscvdpspn: the bits that single precision has; what is too small is denormalized, without rounding.
fn double_to_single_quietly(doubleword: u64) -> u32 {
    let sign = (doubleword >> 32) as u32 & 0x8000_0000;
    let (field, fraction) = (doubleword >> 52 & 0x7ff, doubleword & 0xf_ffff_ffff_ffff);
    if field >= 897 {
        return sign | (doubleword >> 32) as u32 & 0x4000_0000 | (doubleword >> 29) as u32 & 0x3fff_ffff;
    }
    let significand = if field == 0 { fraction } else { fraction | 1 << 52 };
    let shift = 897 - field.max(1) as u32;
    sign | (significand.checked_shr(shift).unwrap_or(0) >> 29) as u32 & 0x7f_ffff
}

/// FPRF of a result that FPSCR records although it is not a rounding's, for the quad instructions.
pub(super) fn record_class(state: &mut State, flags: u32, class: u64) -> bool {
    debug_assert!(class & !u64::from(FPRF) == 0);
    fpscr::scalar(state, flags, class)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vector::fpscr::{FEX, FI, FX, VX, XX};

    /// XT 1, XA 2, XB 3.
    const INSN: Insn = Insn(1 << 21 | 2 << 16 | 3 << 11);

    fn run(op: VsxOp, a: u64, b: u64, fpscr: u32) -> (Option<u64>, State) {
        let mut state = State { fpscr: fpscr.into(), ..State::default() };
        state.vsr[2] = u128::from(a) << 64;
        state.vsr[3] = u128::from(b) << 64;
        let result = execute(op, INSN, &mut state);
        (result.map(|bits| (bits >> 64) as u64), state)
    }

    const SNAN: u64 = 0x7ff0_0000_0000_0001;
    const QNAN: u64 = 0x7ff8_0000_0000_0002;
    const ONE: u64 = 0x3ff0_0000_0000_0000;

    #[test]
    fn the_three_maxima_differ_in_nans() {
        assert_eq!(run(VsxOp::Xsmaxdp, QNAN, ONE, 0).0, Some(ONE));
        assert_eq!(run(VsxOp::Xsmaxdp, SNAN, ONE, 0).0, Some(SNAN | 1 << 51));
        assert_eq!(run(VsxOp::Xsmaxdp, SNAN, ONE, VE).0, None);
        assert_eq!(run(VsxOp::Xsmaxcdp, QNAN, ONE, 0).0, Some(ONE));
        assert_eq!(run(VsxOp::Xsmaxcdp, ONE, SNAN, 0).0, Some(SNAN));
        assert_eq!(run(VsxOp::Xsmaxjdp, QNAN, ONE, 0).0, Some(QNAN));
        assert_eq!(run(VsxOp::Xsmaxjdp, 1 << 63, 0, 0).0, Some(0));
        assert_eq!(run(VsxOp::Xsminjdp, 0, 1 << 63, 0).0, Some(1 << 63));
        assert_eq!(run(VsxOp::Xsmaxcdp, 0, 1 << 63, 0).0, Some(1 << 63));
    }

    #[test]
    fn comparisons_to_a_mask() {
        assert_eq!(run(VsxOp::Xscmpgedp, ONE, ONE, 0).0, Some(u64::MAX));
        let (result, state) = run(VsxOp::Xscmpgtdp, QNAN, ONE, 0);
        assert_eq!((result, state.fpscr as u32), (Some(0), FX | VX | VXVC));
        let (result, state) = run(VsxOp::Xscmpeqdp, SNAN, ONE, VE);
        assert_eq!((result, state.fpscr as u32), (None, FX | FEX | VX | VXSNAN | VE));
    }

    #[test]
    fn fused_forms_use_the_target_differently() {
        let (two, three, five) = (2.0f64.to_bits(), 3.0f64.to_bits(), 5.0f64.to_bits());
        for (op, expected) in [
            (VsxOp::Xsmaddadp, 2.0 * 3.0 + 5.0),
            (VsxOp::Xsmaddmdp, 2.0 * 5.0 + 3.0),
            (VsxOp::Xsnmsubadp, -(2.0 * 3.0 - 5.0)),
            (VsxOp::Xsmsubmsp, 2.0 * 5.0 - 3.0f64),
        ] {
            let mut state = State::default();
            (state.vsr[1], state.vsr[2], state.vsr[3]) = (u128::from(five) << 64, u128::from(two) << 64, u128::from(three) << 64);
            assert_eq!(execute(op, INSN, &mut state).map(|bits| (bits >> 64) as u64), Some(expected.to_bits()), "{op:?}");
        }
    }

    #[test]
    fn conversions_between_formats() {
        assert_eq!(run(VsxOp::Xscvdpsp, 0, 1.5f64.to_bits(), 0).0.map(|x| x >> 32), Some(0x3fc0_0000));
        assert_eq!(run(VsxOp::Xscvspdp, 0, 0x7f80_0001 << 32, 0).0, Some(0x7ff8_0000_2000_0000));
        assert_eq!(run(VsxOp::Xscvspdpn, 0, 0x7f80_0001 << 32, 0).0, Some(0x7ff0_0000_2000_0000));
        assert_eq!(run(VsxOp::Xscvhpdp, 0, 0x3c00, 0).0, Some(ONE));
        assert_eq!(run(VsxOp::Xscvdphp, 0, 65504.0f64.to_bits(), 0).0, Some(0x7bff));
        assert_eq!(run(VsxOp::Xscvdpspn, 0, 1e-40f64.to_bits(), 0).0.map(|x| x >> 32), Some(0x1_16c2));
        assert_eq!(run(VsxOp::Xscvdpuxws, 0, 3.0f64.to_bits(), 0).0, Some(3 << 32 | 3));
        let (result, state) = run(VsxOp::Xscvdpsxws, 0, (-1.5f64).to_bits(), 0);
        assert_eq!((result.map(|x| x as u32), state.fpscr as u32), (Some(!0), FX | XX | FI));
    }

    #[test]
    fn class_tests() {
        // BF 1, DCMX: -Zero | +Denormal.
        let insn = Insn(1 << 23 | 0b000_0110 << 16 | 3 << 11);
        for (bits, expected) in [(1u64 << 63, 0b1010), (1, 0b0010), (0, 0), (QNAN, 0)] {
            let mut state = State::default();
            state.vsr[3] = u128::from(bits) << 64;
            execute(VsxOp::Xststdcdp, insn, &mut state);
            assert_eq!((state.cr_field(1), state.fpscr as u32 >> 12), (expected, expected), "{bits:#x}");
        }
        let mut state = State::default();
        state.vsr[3] = u128::from(0.1f64.to_bits()) << 64;
        execute(VsxOp::Xststdcsp, insn, &mut state);
        assert_eq!(state.cr_field(1), 1);
        // A single's denormal number is representable, whichever exceptions are enabled.
        for enables in [0, 0xf8] {
            let mut state = State { fpscr: enables, ..State::default() };
            state.vsr[3] = u128::from(f64::from(f32::from_bits(1)).to_bits()) << 64;
            execute(VsxOp::Xststdcsp, insn, &mut state);
            assert_eq!(state.cr_field(1), 0b0010);
        }
    }

    #[test]
    fn exponent_and_significand() {
        let (_, state) = run(VsxOp::Xsxsigdp, 0, 1.5f64.to_bits(), 0);
        assert_eq!(state.gpr[1], 0x18_0000_0000_0000);
        let (_, state) = run(VsxOp::Xsxsigdp, 0, 5, 0);
        assert_eq!(state.gpr[1], 5);
        let (_, state) = run(VsxOp::Xsxexpdp, 0, 1.5f64.to_bits(), 0);
        assert_eq!(state.gpr[1], 1023);
    }
}
