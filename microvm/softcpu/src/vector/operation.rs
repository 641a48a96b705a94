//! The arithmetic of scalar and vector instructions on doubles in their register format: the fast path where it applies, the exact one
//! elsewhere.

use super::fpscr;
use super::softfloat::convert::{self, Integer};
use super::softfloat::round::{Environment, Rounding, round};
use super::softfloat::{DOUBLE, Format, Number, SINGLE, arithmetic, class_flags, fast, pack, unpack};
use crate::state::State;

const SIGN: u64 = 1 << 63;

/// A rounded result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outcome {
    /// In double format, whatever it was rounded to.
    pub bits: u64,
    /// Exceptions, FR and FI, as FPSCR bits.
    pub flags: u32,
    /// FPRF.
    pub class: u64,
}

impl Outcome {
    /// A normalized result of the fast path.
    #[inline]
    fn normalized((bits, flags): (u64, u32)) -> Self {
        Self { bits, flags, class: if bits & SIGN != 0 { 0x8000 } else { 0x4000 } }
    }

    /// Rounds an exact result. A NaN keeps as much of its payload as `format` holds (for single precision, operands beyond it are
    /// undefined: ISA 3.0B I 4.3.5.1).
    #[cold]
    pub fn exact((number, flags): (Number, u32), format: Format, environment: Environment) -> Self {
        let (number, more) = round(number.truncated_payload(format), format, environment);
        Self { bits: pack(number, DOUBLE) as u64, flags: flags | more, class: class_flags(number, format) }
    }

    /// The opposite, as the negative multiply-add instructions have it: after rounding, and not for a NaN.
    #[inline]
    pub fn negated(self) -> Self {
        if self.bits & !SIGN > 0x7ff0_0000_0000_0000 {
            return self;
        }
        // Negative classes have the codes 8, 9, 0x12 and 0x18, positive ones 4, 5, 2 and 0x14.
        let class = match self.class >> 12 {
            0x02 => 0x12,
            0x12 => 0x02,
            0x14 => 0x18,
            0x18 => 0x14,
            code => code ^ 0x0c,
        };
        Self { bits: self.bits ^ SIGN, class: class << 12, ..self }
    }

    /// Records a scalar result in the FPSCR; `None` if an enabled exception suppresses it.
    #[inline]
    pub fn conclude(self, state: &mut State) -> Option<u64> {
        fpscr::scalar(state, self.flags, self.class).then_some(self.bits)
    }
}

fn number(bits: u64) -> Number {
    unpack(bits.into(), DOUBLE)
}

/// `a + b`.
#[inline]
pub(super) fn add(a: u64, b: u64, format: Format, environment: Environment) -> Outcome {
    match fast::add(a, b, format, environment.rounding) {
        Some(result) => Outcome::normalized(result),
        None => Outcome::exact(arithmetic::add(number(a), number(b), environment.rounding), format, environment),
    }
}

/// `a - b`.
#[inline]
pub(super) fn subtract(a: u64, b: u64, format: Format, environment: Environment) -> Outcome {
    match fast::add(a, b ^ SIGN, format, environment.rounding) {
        Some(result) => Outcome::normalized(result),
        None => Outcome::exact(arithmetic::add(number(a), number(b).negated(), environment.rounding), format, environment),
    }
}

/// `a × b`.
#[inline]
pub(super) fn multiply(a: u64, b: u64, format: Format, environment: Environment) -> Outcome {
    match fast::multiply(a, b, format, environment.rounding) {
        Some(result) => Outcome::normalized(result),
        None => Outcome::exact(arithmetic::multiply(number(a), number(b)), format, environment),
    }
}

/// `a ÷ b`.
#[inline]
pub(super) fn divide(a: u64, b: u64, format: Format, environment: Environment) -> Outcome {
    match fast::divide(a, b, format, environment.rounding) {
        Some(result) => Outcome::normalized(result),
        None => Outcome::exact(arithmetic::divide(number(a), number(b), DOUBLE), format, environment),
    }
}

/// √b.
#[inline]
pub(super) fn square_root(b: u64, format: Format, environment: Environment) -> Outcome {
    match fast::square_root(b, format, environment.rounding) {
        Some(result) => Outcome::normalized(result),
        None => Outcome::exact(arithmetic::square_root(number(b), DOUBLE), format, environment),
    }
}

/// The estimate of 1/b.
pub(super) fn reciprocal(b: u64, format: Format, environment: Environment) -> Outcome {
    Outcome::exact(arithmetic::reciprocal(number(b)), format, environment)
}

/// The estimate of 1/√b.
pub(super) fn reciprocal_root(b: u64, format: Format, environment: Environment) -> Outcome {
    Outcome::exact(arithmetic::reciprocal_root(number(b)), format, environment)
}

/// What a multiply-add instruction makes of its product and sum.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fused {
    /// The addend is subtracted.
    pub subtract: bool,
    /// The rounded result is negated.
    pub negate: bool,
}

/// a × c + b.
pub(super) const MADD: Fused = Fused { subtract: false, negate: false };
/// a × c - b.
pub(super) const MSUB: Fused = Fused { subtract: true, negate: false };
/// -(a × c + b).
pub(super) const NMADD: Fused = Fused { subtract: false, negate: true };
/// -(a × c - b).
pub(super) const NMSUB: Fused = Fused { subtract: true, negate: true };

/// `a × c ± b`, rounded once, then negated if asked.
#[inline]
pub(super) fn multiply_add([a, c, b]: [u64; 3], fused: Fused, format: Format, environment: Environment) -> Outcome {
    let rounding = environment.rounding;
    let outcome = match fast::multiply_add(a, c, if fused.subtract { b ^ SIGN } else { b }, format, rounding) {
        Some(result) => Outcome::normalized(result),
        None => {
            let addend = if fused.subtract { number(b).negated() } else { number(b) };
            Outcome::exact(arithmetic::multiply_add(number(a), number(c), addend, rounding), format, environment)
        }
    };
    if fused.negate { outcome.negated() } else { outcome }
}

/// `b` rounded to single precision.
#[inline]
pub(super) fn to_single(b: u64, environment: Environment) -> Outcome {
    match fast::to_single(b, environment.rounding) {
        Some(result) => Outcome::normalized(result),
        None => {
            let number = number(b);
            let flags = if number.is_signaling() { fpscr::VXSNAN } else { 0 };
            Outcome::exact((number.quieted(), flags), SINGLE, environment)
        }
    }
}

/// A signed integer.
#[inline]
pub(super) fn from_signed(b: u64, format: Format, environment: Environment) -> Outcome {
    let value = b as i64;
    match fast::from_integer(value < 0, value.unsigned_abs(), format, environment.rounding) {
        Some(result) => Outcome::normalized(result),
        None => Outcome::exact((convert::from_signed(value), 0), format, environment),
    }
}

/// An unsigned integer.
#[inline]
pub(super) fn from_unsigned(b: u64, format: Format, environment: Environment) -> Outcome {
    match fast::from_integer(false, b, format, environment.rounding) {
        Some(result) => Outcome::normalized(result),
        None => Outcome::exact((convert::from_unsigned(b), 0), format, environment),
    }
}

/// `b` as an integer, and the FPSCR bits of the conversion.
#[inline]
pub(super) fn to_integer(b: u64, integer: Integer, rounding: Rounding) -> (u64, u32) {
    fast::to_integer(b, integer, rounding).unwrap_or_else(|| convert::to_integer(number(b), integer, rounding))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vector::fpscr::{FI, OX, XX};

    const NEAREST: Environment = Environment::masked(Rounding::NearestEven);

    #[test]
    fn negation_turns_the_class_around() {
        let results = [1.0, -1.0, 0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY, 1e-310, -1e-310];
        for x in results {
            let outcome = Outcome::exact((number(x.to_bits()), 0), DOUBLE, NEAREST);
            let expected = Outcome::exact((number((-x).to_bits()), 0), DOUBLE, NEAREST);
            assert_eq!(outcome.negated(), expected, "{x}");
        }
        let nan = Outcome::exact((Number::DEFAULT_NAN, 0), DOUBLE, NEAREST);
        assert_eq!(nan.negated(), nan);
    }

    #[test]
    fn negation_comes_after_rounding() {
        // -(1 × 1 + 2^-60), upward: the sum rounds up, then turns.
        let tiny = (1023u64 - 60) << 52;
        let one = 1.0f64.to_bits();
        let up = Environment::masked(Rounding::Up);
        let outcome = multiply_add([one, one, tiny], NMADD, DOUBLE, up);
        assert_eq!(outcome.bits, (-1.0f64 - f64::EPSILON).to_bits());
    }

    #[test]
    fn enabled_exceptions_scale_the_result() {
        let environment = Environment { overflow_enabled: true, underflow_enabled: true, ..NEAREST };
        let huge = 2f64.powi(1000).to_bits();
        // 2^2000 / 2^1536.
        let outcome = multiply(huge, huge, DOUBLE, environment);
        assert_eq!((outcome.bits, outcome.flags, outcome.class), (2f64.powi(464).to_bits(), OX, 0x4000));
        // 2^-2000 · 2^1536, exact.
        let tiny = 2f64.powi(-1000).to_bits();
        let outcome = multiply(tiny, tiny, DOUBLE, environment);
        assert_eq!((outcome.bits, outcome.flags), (2f64.powi(-464).to_bits(), fpscr::UX));
        // Single precision scales by 192, and the result is in double format.
        let outcome = to_single(2f64.powi(200).to_bits(), environment);
        assert_eq!((outcome.bits, outcome.flags), (2f64.powi(8).to_bits(), OX));
        let outcome = to_single((2f64.powi(-150) * (1.0 + f64::EPSILON)).to_bits(), environment);
        assert_eq!((outcome.bits, outcome.flags), (2f64.powi(42).to_bits(), fpscr::UX | XX | FI));
    }
}
