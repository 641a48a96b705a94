//! What the scalar instructions of the floating-point and the VSX class share.

use std::cmp::Ordering;

use super::fpscr::{self, FPCC, VE, VXSNAN, VXVC};
use super::operation::Outcome;
use super::softfloat::arithmetic::compare;
use super::softfloat::round::{Rounding, round_to_integer};
use super::softfloat::{DOUBLE, Format, Kind, Number, unpack};
use crate::state::State;

/// A double-precision datum.
#[inline]
pub(super) fn double(bits: u64) -> Number {
    unpack(bits.into(), DOUBLE)
}

/// Rounds an exact result to `format`, records exceptions and class in the FPSCR, and returns the result in double format, or
/// `None` if an enabled exception suppresses it.
pub(super) fn conclude(state: &mut State, exact: (Number, u32), format: Format) -> Option<u64> {
    let environment = fpscr::environment(state);
    Outcome::exact(exact, format, environment).conclude(state)
}

/// The same for a result that is an integer: FPRF is undefined and stays.
pub(super) fn conclude_integer(state: &mut State, (value, flags): (u64, u32)) -> Option<u64> {
    let fprf = state.fpscr & u64::from(fpscr::FPRF);
    fpscr::scalar(state, flags, fprf).then_some(value)
}

/// frin and the like: to an integer without the inexact exception.
pub(super) fn to_integral(number: Number, rounding: Rounding) -> (Number, u32) {
    let flags = if number.is_signaling() { VXSNAN } else { 0 };
    (round_to_integer(number.quieted(), rounding).0, flags)
}

/// The condition code of a comparison: less, greater, equal, unordered.
pub(super) fn condition(a: Number, b: Number) -> u32 {
    match compare(a, b) {
        Some(Ordering::Less) => 8,
        Some(Ordering::Greater) => 4,
        Some(Ordering::Equal) => 2,
        None => 1,
    }
}

/// fcmpu, fcmpo and the like (ISA 3.0B I 4.6.8): CR field and FPCC, VXSNAN, and VXVC if `ordered`.
pub(super) fn compare_to_cr(state: &mut State, field: usize, a: Number, b: Number, ordered: bool) {
    let condition = condition(a, b);
    state.fpscr = state.fpscr & !u64::from(FPCC) | u64::from(condition) << 12;
    state.set_cr_field(field, condition);
    if condition == 1 {
        let flags = if a.is_signaling() || b.is_signaling() {
            let also = if ordered && state.fpscr as u32 & VE == 0 { VXVC } else { 0 };
            VXSNAN | also
        } else if ordered {
            VXVC
        } else {
            0
        };
        fpscr::raise(state, flags);
    }
}

/// The same for doubles in their register format.
#[inline]
pub(super) fn compare_doubles_to_cr(state: &mut State, field: usize, a: u64, b: u64, ordered: bool) {
    // The host's comparison is that of IEEE 754.
    let condition = match f64::from_bits(a).partial_cmp(&f64::from_bits(b)) {
        Some(Ordering::Less) => 8,
        Some(Ordering::Greater) => 4,
        Some(Ordering::Equal) => 2,
        None => return compare_to_cr(state, field, double(a), double(b), ordered),
    };
    state.fpscr = state.fpscr & !u64::from(FPCC) | u64::from(condition) << 12;
    state.set_cr_field(field, condition);
}

/// A number's exponent as the test instructions see it: the field without bias, whatever it stands for.
fn field_exponent(bits: u64, format: Format) -> i32 {
    ((u128::from(bits) >> format.fraction_bits() & ((1 << format.exponent_bits()) - 1)) as i32) - format.max_exponent()
}

/// True if the exponent field is zero.
fn is_zero_or_denormal(bits: u64, format: Format) -> bool {
    field_exponent(bits, format) == -format.max_exponent()
}

/// The condition that ftdiv and the like deliver (ISA 3.0B I 4.6.6.1): 0b1000, with 0b0100 if an operand is special and 0b0010 if the
/// software algorithm for division would go wrong.
pub(super) fn test_divide(a: u64, b: u64, format: Format) -> u32 {
    let (x, y) = (unpack(a.into(), format), unpack(b.into(), format));
    let (ea, eb) = (field_exponent(a, format), field_exponent(b, format));
    let (least, most, fraction) = (format.min_exponent(), format.max_exponent(), format.fraction_bits() as i32);
    let special = x.is_infinity() || y.is_infinity() || is_zero_or_denormal(b, format);
    let hard = x.is_infinity()
        || y.is_infinity()
        || y.is_zero()
        || x.is_nan()
        || y.is_nan()
        || eb <= least
        || eb >= most - 2
        || (!x.is_zero() && (ea - eb >= most || ea - eb <= least + 1 || ea <= least + fraction));
    8 | u32::from(special) << 2 | u32::from(hard) << 1
}

/// The condition that ftsqrt and the like deliver.
pub(super) fn test_square_root(b: u64, format: Format) -> u32 {
    let y = unpack(b.into(), format);
    let special = y.is_infinity() || is_zero_or_denormal(b, format);
    let hard = y.kind != Kind::Finite
        || y.negative
        || field_exponent(b, format) <= format.min_exponent() + format.fraction_bits() as i32;
    8 | u32::from(special) << 2 | u32::from(hard) << 1
}

#[cfg(test)]
mod tests {
    use super::super::fpscr::{FEX, FX, VX};
    use super::*;

    #[test]
    fn ordered_comparison_of_a_signaling_nan() {
        let (snan, qnan) = (double(0x7ff0_0000_0000_0001), double(0x7ff8_0000_0000_0000));
        let mut state = State::default();
        compare_to_cr(&mut state, 2, snan, Number::ONE, true);
        assert_eq!((state.cr_field(2), state.fpscr as u32), (1, FX | VX | VXSNAN | VXVC | 0x1000));
        let mut state = State { fpscr: VE.into(), ..State::default() };
        compare_to_cr(&mut state, 2, snan, Number::ONE, true);
        assert_eq!(state.fpscr as u32, FX | FEX | VX | VXSNAN | VE | 0x1000);
        let mut state = State::default();
        compare_to_cr(&mut state, 7, Number::ONE, qnan, false);
        assert_eq!((state.cr_field(7), state.fpscr as u32), (1, 0x1000));
        compare_to_cr(&mut state, 7, Number::zero(true), Number::zero(false), true);
        assert_eq!((state.cr_field(7), state.fpscr as u32), (2, 0x2000));
    }

    #[test]
    fn tests_for_software_division() {
        let one = 1.0f64.to_bits();
        assert_eq!(test_divide(one, one, DOUBLE), 0b1000);
        assert_eq!(test_divide(one, 0, DOUBLE), 0b1110);
        assert_eq!(test_divide(one, 1, DOUBLE), 0b1110);
        assert_eq!(test_divide(f64::NAN.to_bits(), one, DOUBLE), 0b1010);
        assert_eq!(test_divide(1e-300f64.to_bits(), one, DOUBLE), 0b1010);
        assert_eq!(test_divide(0, one, DOUBLE), 0b1000);
        assert_eq!(test_square_root(one, DOUBLE), 0b1000);
        assert_eq!(test_square_root(0, DOUBLE), 0b1110);
        assert_eq!(test_square_root((-1.0f64).to_bits(), DOUBLE), 0b1010);
    }
}
