//! Conversions between integers and floating point, and between the register formats of single and double precision.

use super::round::{Rounding, round_to_integer};
use super::{DOUBLE, Kind, Number, SINGLE, pack, unpack};
use crate::vector::fpscr::{self, VXCVI, VXSNAN};

/// The kinds of integer that conversions deliver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::vector) struct Integer {
    pub bits: u32,
    pub signed: bool,
}

/// 32-bit signed.
pub(in crate::vector) const SIGNED_WORD: Integer = Integer { bits: 32, signed: true };
/// 32-bit unsigned.
pub(in crate::vector) const UNSIGNED_WORD: Integer = Integer { bits: 32, signed: false };
/// 64-bit signed.
pub(in crate::vector) const SIGNED_DOUBLEWORD: Integer = Integer { bits: 64, signed: true };
/// 64-bit unsigned.
pub(in crate::vector) const UNSIGNED_DOUBLEWORD: Integer = Integer { bits: 64, signed: false };

impl Integer {
    /// The largest magnitude of its numbers with this sign.
    pub const fn limit(self, negative: bool) -> u128 {
        if negative { self.smallest() } else { self.largest() }
    }

    /// All its bits.
    pub const fn mask(self) -> u64 {
        u64::MAX >> (64 - self.bits)
    }

    const fn largest(self) -> u128 {
        (1 << (self.bits - self.signed as u32)) - 1
    }

    /// The magnitude of the smallest one.
    const fn smallest(self) -> u128 {
        if self.signed { 1 << (self.bits - 1) } else { 0 }
    }
}

/// Converts to an integer (its low `bits` bits, as `u64`) with saturation: out of range is VXCVI, and so is a NaN, which becomes the smallest
/// one (ISA 3.0B I 4.6.7.1).
pub(in crate::vector) fn to_integer(number: Number, integer: Integer, rounding: Rounding) -> (u64, u32) {
    let mask = integer.mask();
    let saturated = |negative: bool| {
        if negative { (integer.smallest() as u64).wrapping_neg() & mask } else { integer.largest() as u64 }
    };
    match number.kind {
        Kind::QuietNan => return (saturated(true), VXCVI),
        Kind::SignalingNan => return (saturated(true), VXCVI | VXSNAN),
        Kind::Infinity => return (saturated(number.negative), VXCVI),
        _ => {}
    }
    let (rounded, inexact, incremented) = round_to_integer(number, rounding);
    if rounded.kind != Kind::Zero && rounded.exponent >= 64 {
        return (saturated(number.negative), VXCVI);
    }
    let magnitude = if rounded.kind == Kind::Zero { 0 } else { rounded.significand >> (127 - rounded.exponent) };
    if magnitude > integer.limit(number.negative) {
        return (saturated(number.negative), VXCVI);
    }
    let value = if number.negative { (magnitude as u64).wrapping_neg() } else { magnitude as u64 };
    (value & mask, fpscr::inexact(inexact, incremented))
}

/// A signed integer as a number.
pub(in crate::vector) fn from_signed(value: i64) -> Number {
    Number { negative: value < 0, ..from_unsigned(value.unsigned_abs()) }
}

/// An unsigned integer as a number.
pub(in crate::vector) fn from_unsigned(value: u64) -> Number {
    if value == 0 {
        return Number::zero(false);
    }
    let zeros = value.leading_zeros();
    Number { kind: Kind::Finite, negative: false, exponent: 63 - zeros as i32, significand: u128::from(value << zeros) << 64 }
}

/// A single-precision word in double format, as lfs loads it (ISA 3.0B I 4.6.2, DOUBLE): a signaling NaN stays one.
#[inline]
pub(in crate::vector) fn single_to_double(word: u32) -> u64 {
    let field = word >> 23 & 0xff;
    if field != 0 && field != 0xff {
        let sign = u64::from(word >> 31) << 63;
        return sign | (u64::from(word & 0x7fff_ffff) << 29).wrapping_add(896 << 52);
    }
    pack(unpack(word.into(), SINGLE), DOUBLE) as u64
}

/// A doubleword in single format, as stfs stores it (ISA 3.0B I 4.6.3, SINGLE): no rounding, bits beyond the format are dropped. Where the
/// ISA leaves the result undefined (too small for a denormalized number), it is zero.
#[inline]
pub(in crate::vector) fn double_to_single(doubleword: u64) -> u32 {
    let exponent = doubleword >> 52 & 0x7ff;
    let sign = (doubleword >> 32) as u32 & 0x8000_0000;
    match exponent {
        897.. => (doubleword >> 32) as u32 & 0xc000_0000 | (doubleword >> 29) as u32 & 0x3fff_ffff,
        874..=896 => sign | ((1 << 52 | doubleword & 0xf_ffff_ffff_ffff) >> (926 - exponent)) as u32,
        _ => sign,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vector::fpscr::{FI, FR, XX};

    fn integer(value: f64, integer: Integer, rounding: Rounding) -> (u64, u32) {
        to_integer(unpack(value.to_bits().into(), DOUBLE), integer, rounding)
    }

    #[test]
    fn limits() {
        use Rounding::*;
        assert_eq!(integer(2147483647.5, SIGNED_WORD, TowardZero), (0x7fff_ffff, XX | FI));
        assert_eq!(integer(2147483647.5, SIGNED_WORD, NearestEven), (0x7fff_ffff, VXCVI));
        assert_eq!(integer(-2147483648.5, SIGNED_WORD, NearestEven), (0x8000_0000, XX | FI));
        assert_eq!(integer(-1e30, SIGNED_DOUBLEWORD, NearestEven), (1 << 63, VXCVI));
        assert_eq!(integer(1e19, UNSIGNED_DOUBLEWORD, NearestEven), (10_000_000_000_000_000_000, 0));
        assert_eq!(integer(-0.4, UNSIGNED_DOUBLEWORD, NearestEven), (0, XX | FI));
        assert_eq!(integer(-0.6, UNSIGNED_WORD, NearestEven), (0, VXCVI));
        assert_eq!(integer(-0.6, SIGNED_WORD, NearestEven), (0xffff_ffff, XX | FI | FR));
        assert_eq!(integer(f64::NAN, SIGNED_DOUBLEWORD, NearestEven).0, 1 << 63);
        assert_eq!(integer(f64::NAN, UNSIGNED_WORD, NearestEven), (0, VXCVI));
        assert_eq!(integer(f64::INFINITY, UNSIGNED_WORD, NearestEven), (0xffff_ffff, VXCVI));
    }

    #[test]
    fn register_formats() {
        for value in [0.0f32, -0.0, 1.0, -1.5, 1e-40, 1e-45, f32::MAX, f32::INFINITY, f32::MIN_POSITIVE] {
            assert_eq!(single_to_double(value.to_bits()), f64::from(value).to_bits());
            assert_eq!(double_to_single(f64::from(value).to_bits()), value.to_bits());
        }
        assert_eq!(single_to_double(0x7f80_0001), 0x7ff0_0000_2000_0000);
        assert_eq!(double_to_single(0x7ff0_0000_2000_0000), 0x7f80_0001);
    }

    #[test]
    fn from_integers() {
        assert_eq!(pack(from_signed(-3), DOUBLE) as u64, (-3.0f64).to_bits());
        assert_eq!(pack(from_signed(i64::MIN), DOUBLE) as u64, (i64::MIN as f64).to_bits());
        assert_eq!(pack(from_unsigned(1 << 63), DOUBLE) as u64, (2f64.powi(63)).to_bits());
    }
}
