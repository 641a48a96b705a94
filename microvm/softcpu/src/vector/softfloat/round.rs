//! Rounding to a format, with the exceptions that come of it (ISA 3.0B I 4.3.6, 4.4.3 to 4.4.5).

use super::{Format, Kind, Number, TOP};
use crate::vector::fpscr::{FI, FR, OX, UX, XX};

/// Rounding modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::vector) enum Rounding {
    /// To nearest, ties to even.
    NearestEven,
    /// To nearest, ties away from zero.
    NearestAway,
    TowardZero,
    Up,
    Down,
    /// Toward zero, and the last bit set if anything was lost.
    Odd,
}

/// What governs a rounding: mode, and which exceptions deliver a scaled result instead of infinity or a denormalized number.
#[derive(Debug, Clone, Copy)]
pub(in crate::vector) struct Environment {
    pub rounding: Rounding,
    /// FPSCR\[OE\].
    pub overflow_enabled: bool,
    /// FPSCR\[UE\].
    pub underflow_enabled: bool,
}

impl Environment {
    /// This rounding, no exception enabled.
    pub const fn masked(rounding: Rounding) -> Self {
        Self { rounding, overflow_enabled: false, underflow_enabled: false }
    }
}

/// Shifts right; bits shifted out are remembered in bit 0.
#[inline]
pub(super) fn shift_right_sticky(significand: u128, distance: u32) -> u128 {
    match distance {
        0 => significand,
        1..=127 => significand >> distance | u128::from(significand << (128 - distance) != 0),
        _ => u128::from(significand != 0),
    }
}

/// Drops the low `drop` (1 to 127) bits of `significand` by the rounding mode: the value in units of the lowest kept bit, whether bits
/// were lost, and whether the magnitude grew.
#[inline]
pub(super) fn drop_bits(significand: u128, drop: u32, negative: bool, rounding: Rounding) -> (u128, bool, bool) {
    let kept = significand >> drop;
    let lost = significand & ((1 << drop) - 1);
    let half = 1 << (drop - 1);
    let up = match rounding {
        Rounding::NearestEven => lost > half || (lost == half && kept & 1 != 0),
        Rounding::NearestAway => lost >= half,
        Rounding::TowardZero => false,
        Rounding::Up => lost != 0 && !negative,
        Rounding::Down => lost != 0 && negative,
        Rounding::Odd => lost != 0 && kept & 1 == 0,
    };
    (kept + u128::from(up), lost != 0, up)
}

/// True if an overflow delivers infinity, false if the largest finite number.
fn overflows_to_infinity(negative: bool, rounding: Rounding) -> bool {
    match rounding {
        Rounding::NearestEven | Rounding::NearestAway => true,
        Rounding::TowardZero | Rounding::Odd => false,
        Rounding::Up => !negative,
        Rounding::Down => negative,
    }
}

/// Rounds a number (bit 0 of its significand is sticky) to `format`: the number, and OX, UX, XX, FR and FI as they result. Zeros,
/// infinities and NaNs pass unchanged.
#[inline]
pub(in crate::vector) fn round(number: Number, format: Format, environment: Environment) -> (Number, u32) {
    if number.kind != Kind::Finite {
        return (number, 0);
    }
    let Number { negative, mut exponent, mut significand, .. } = number;
    let mut flags = 0;
    // Tininess is detected before rounding (ISA 3.0B I 4.4.4).
    let tiny = exponent < format.min_exponent();
    if tiny {
        if environment.underflow_enabled {
            flags |= UX;
            exponent += format.adjustment();
        } else {
            significand = shift_right_sticky(significand, (format.min_exponent() - exponent) as u32);
            exponent = format.min_exponent();
        }
    }

    let drop = format.fraction_shift();
    let (kept, inexact, incremented) = drop_bits(significand, drop, negative, environment.rounding);
    if inexact {
        flags |= XX | FI | if tiny { UX } else { 0 } | if incremented { FR } else { 0 };
    }
    if kept == 0 {
        return (Number::zero(negative), flags);
    }
    // A carry out of the top leaves a power of two.
    if kept >> (format.fraction_bits + 1) != 0 {
        significand = TOP;
        exponent += 1;
    } else {
        let zeros = (kept << drop).leading_zeros();
        significand = kept << drop << zeros;
        exponent -= zeros as i32;
    }

    if exponent > format.max_exponent() {
        flags |= OX;
        if environment.overflow_enabled {
            exponent -= format.adjustment();
        } else if overflows_to_infinity(negative, environment.rounding) {
            return (Number::infinity(negative), flags | XX | FI | FR);
        } else {
            exponent = format.max_exponent();
            significand = u128::MAX << drop;
            flags = (flags | XX | FI) & !FR;
        }
    }
    (Number { kind: Kind::Finite, negative, exponent, significand }, flags)
}

/// Rounds to an integer: the number, whether it changed, and whether its magnitude grew. Zeros, infinities and NaNs pass unchanged.
pub(in crate::vector) fn round_to_integer(number: Number, rounding: Rounding) -> (Number, bool, bool) {
    if number.kind != Kind::Finite || number.exponent >= 127 {
        return (number, false, false);
    }
    let Number { negative, exponent, significand, .. } = number;
    // Below one half everything behaves like a quarter: bit 127 is worth 1/2 at least after the shift.
    let (significand, exponent) = if exponent < -1 { (1 << 126, -1) } else { (significand, exponent) };
    let (kept, inexact, incremented) = if exponent < 0 {
        // All bits are fraction: one more than fits into a shift.
        drop_bits(shift_right_sticky(significand, 1), 127, negative, rounding)
    } else {
        drop_bits(significand, 127 - exponent as u32, negative, rounding)
    };
    if kept == 0 {
        return (Number::zero(negative), inexact, incremented);
    }
    let zeros = kept.leading_zeros();
    let result = Number { kind: Kind::Finite, negative, exponent: 127 - zeros as i32, significand: kept << zeros };
    (result, inexact, incremented)
}

#[cfg(test)]
mod tests {
    use super::super::{DOUBLE, SINGLE, pack, unpack};
    use super::*;

    fn to_single(bits: u64, rounding: Rounding) -> (u32, u32) {
        let (number, flags) = round(unpack(bits.into(), DOUBLE), SINGLE, Environment::masked(rounding));
        (pack(number, SINGLE) as u32, flags)
    }

    #[test]
    fn ties_and_directions() {
        use Rounding::*;
        // 1 + 2^-24: a tie between 1 and 1 + 2^-23.
        let tie = 0x3ff0_0000_1000_0000;
        for (rounding, sign, up) in [
            (NearestEven, 0, false),
            (NearestAway, 0, true),
            (TowardZero, 0, false),
            (Up, 0, true),
            (Down, 0, false),
            (Odd, 0, true),
            (Up, 1, false),
            (Down, 1, true),
        ] {
            let expected = (0x3f80_0000 + u32::from(up)) | sign << 31;
            let flags = XX | FI | if up { FR } else { 0 };
            assert_eq!(to_single(tie | u64::from(sign) << 63, rounding), (expected, flags), "{rounding:?} {sign}");
        }
        // 1 + 3 · 2^-24: the even neighbour is above.
        assert_eq!(to_single(0x3ff0_0000_3000_0000, NearestEven), (0x3f80_0002, XX | FI | FR));
        assert_eq!(to_single(0x3ff0_0000_2000_0000, NearestEven), (0x3f80_0001, 0));
    }

    #[test]
    fn overflow_depends_on_the_mode() {
        let largest = 0x47ef_ffff_f000_0000; // Halfway between the largest single and 2^128.
        assert_eq!(to_single(largest, Rounding::NearestEven), (0x7f80_0000, OX | XX | FI | FR));
        assert_eq!(to_single(largest, Rounding::TowardZero), (0x7f7f_ffff, XX | FI));
        let huge = 0x4ff0_0000_0000_0000;
        assert_eq!(to_single(huge, Rounding::TowardZero), (0x7f7f_ffff, OX | XX | FI));
        assert_eq!(to_single(huge | 1 << 63, Rounding::Up), (0xff7f_ffff, OX | XX | FI));
        assert_eq!(to_single(huge | 1 << 63, Rounding::Down), (0xff80_0000, OX | XX | FI | FR));
    }

    #[test]
    fn underflow_needs_loss_unless_enabled() {
        // 2^-149 is exact.
        assert_eq!(to_single((1023 - 149) << 52, Rounding::NearestEven), (1, 0));
        // 2^-150 is a tie with zero.
        assert_eq!(to_single((1023 - 150) << 52, Rounding::NearestEven), (0, UX | XX | FI));
        assert_eq!(to_single((1023 - 150) << 52, Rounding::Up), (1, UX | XX | FI | FR));
        // Just below the smallest normal: tiny before rounding, even though it rounds to a normal number.
        let almost = (1023 - 126) << 52;
        assert_eq!(to_single(almost - 1, Rounding::NearestEven), (0x80_0000, UX | XX | FI | FR));
        let enabled = Environment { underflow_enabled: true, ..Environment::masked(Rounding::NearestEven) };
        let (number, flags) = round(unpack((1023 - 149) << 52, DOUBLE), SINGLE, enabled);
        assert_eq!((number.exponent, flags), (-149 + 192, UX));
    }

    #[test]
    fn enabled_overflow_scales() {
        let enabled = Environment { overflow_enabled: true, ..Environment::masked(Rounding::NearestEven) };
        let (number, flags) = round(Number { exponent: 130, ..Number::ONE }, SINGLE, enabled);
        assert_eq!((number.exponent, flags), (130 - 192, OX));
    }

    #[test]
    fn integers() {
        let integer = |value: f64, rounding| {
            let (number, inexact, up) = round_to_integer(unpack(value.to_bits().into(), DOUBLE), rounding);
            (f64::from_bits(pack(number, DOUBLE) as u64), inexact, up)
        };
        use Rounding::*;
        assert_eq!(integer(0.5, NearestEven), (0.0, true, false));
        assert_eq!(integer(0.5, NearestAway), (1.0, true, true));
        assert_eq!(integer(1.5, NearestEven), (2.0, true, true));
        assert_eq!(integer(2.5, NearestEven), (2.0, true, false));
        assert_eq!(integer(-0.1, Down), (-1.0, true, true));
        assert_eq!(integer(1e-300, Up), (1.0, true, true));
        assert_eq!(integer(0.75, NearestEven), (1.0, true, true));
        assert_eq!(integer(3.0, Up), (3.0, false, false));
        assert_eq!(integer(1e300, Up), (1e300, false, false));
        assert!(integer(-0.3, TowardZero).0.is_sign_negative());
    }
}
