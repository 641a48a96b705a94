//! The common case in 64-bit integers: normalized doubles in, a normalized number out.
//!
//! Every function here gives what the exact path would give, in any rounding mode, or `None` where that path has to be taken: zeros,
//! denormalized numbers, infinities, NaNs, overflow, underflow, cancellation to zero. It may deliver single precision, in double format.

use std::cmp::Ordering;

use super::convert::Integer;
use super::round::Rounding;
use super::{Format, SINGLE};
use crate::vector::fpscr::{self, FI, FR, XX};

const SIGN: u64 = 1 << 63;
const FRACTION: u64 = (1 << 52) - 1;
const BIAS: i32 = 1023;
const TOP: u64 = 1 << 63;

/// A normalized double: sign bit, exponent, significand of 53 bits.
#[inline]
fn fields(bits: u64) -> Option<(u64, i32, u64)> {
    let field = (bits >> 52 & 0x7ff) as i32;
    if field == 0 || field == 0x7ff {
        return None;
    }
    Some((bits & SIGN, field - BIAS, bits & FRACTION | 1 << 52))
}

/// Whether to add one to the last bit kept (`odd`), given what is lost, as a fraction of 2^64.
#[inline]
fn rounds_up(odd: bool, lost: u64, negative: bool, rounding: Rounding) -> bool {
    match rounding {
        Rounding::NearestEven => lost > TOP || (lost == TOP && odd),
        Rounding::NearestAway => lost >= TOP,
        Rounding::TowardZero => false,
        Rounding::Up => lost != 0 && !negative,
        Rounding::Down => lost != 0 && negative,
        Rounding::Odd => lost != 0 && !odd,
    }
}

/// Rounds a significand whose bit 63 is set and whose low bits are sticky.
#[inline]
fn finish(sign: u64, exponent: i32, significand: u64, format: Format, rounding: Rounding) -> Option<(u64, u32)> {
    let fraction_bits = format.fraction_bits();
    let drop = 63 - fraction_bits;
    let (kept, lost) = (significand >> drop, significand << (64 - drop));
    let up = rounds_up(kept & 1 != 0, lost, sign != 0, rounding);
    let rounded = kept + u64::from(up);
    let carry = (rounded >> (fraction_bits + 1)) as i32;
    if exponent < format.min_exponent() || exponent + carry > format.max_exponent() {
        return None;
    }
    // After a carry the fraction is zero.
    let fraction = rounded << (52 - fraction_bits) & FRACTION;
    let bits = sign | ((exponent + carry + BIAS) as u64) << 52 | fraction;
    Some((
        bits,
        if lost == 0 {
            0
        } else if up {
            XX | FI | FR
        } else {
            XX | FI
        },
    ))
}

/// `a + b`.
#[inline]
pub(in crate::vector) fn add(a: u64, b: u64, format: Format, rounding: Rounding) -> Option<(u64, u32)> {
    let (x, y) = (fields(a)?, fields(b)?);
    let ((sign, exponent, big), (small_sign, small_exponent, small)) = if a & !SIGN >= b & !SIGN { (x, y) } else { (y, x) };
    let distance = (exponent - small_exponent) as u32;
    // Bit 62 leads: one bit of headroom above, ten below.
    let (big, small) = (big << 10, small << 10);
    let small = if distance < 63 { small >> distance | u64::from(small & ((1 << distance) - 1) != 0) } else { 1 };
    let sum = if sign == small_sign { big + small } else { big - small };
    if sum == 0 {
        return None;
    }
    let zeros = sum.leading_zeros();
    finish(sign, exponent + 1 - zeros as i32, sum << zeros, format, rounding)
}

/// `a × b`.
#[inline]
pub(in crate::vector) fn multiply(a: u64, b: u64, format: Format, rounding: Rounding) -> Option<(u64, u32)> {
    let ((a_sign, a_exponent, a), (b_sign, b_exponent, b)) = (fields(a)?, fields(b)?);
    let product = u128::from(a) * u128::from(b);
    // Bit 105 or 104 leads.
    let significand = (product >> 42) as u64 | u64::from(product as u64 & ((1 << 42) - 1) != 0);
    let zeros = significand.leading_zeros();
    finish(a_sign ^ b_sign, a_exponent + b_exponent + 1 - zeros as i32, significand << zeros, format, rounding)
}

/// `a × c + b`, rounded once.
#[inline]
pub(in crate::vector) fn multiply_add(a: u64, c: u64, b: u64, format: Format, rounding: Rounding) -> Option<(u64, u32)> {
    let ((a_sign, a_exponent, a), (c_sign, c_exponent, c), (b_sign, b_exponent, b)) = (fields(a)?, fields(c)?, fields(b)?);
    // Bit 126 leads in both: one bit of headroom above; 20 bits at least are free below.
    let product = (u128::from(a) * u128::from(c)) << 21;
    let zeros = product.leading_zeros() - 1;
    let product = (a_sign ^ c_sign, a_exponent + c_exponent + 1 - zeros as i32, product << zeros);
    let addend = (b_sign, b_exponent, u128::from(b) << 74);
    let (big, small) = if (product.1, product.2) >= (addend.1, addend.2) { (product, addend) } else { (addend, product) };
    let shifted = super::round::shift_right_sticky(small.2, (big.1 - small.1) as u32);
    let sum = if big.0 == small.0 { big.2 + shifted } else { big.2 - shifted };
    if sum == 0 {
        return None;
    }
    let zeros = sum.leading_zeros();
    let sum = sum << zeros;
    let significand = (sum >> 64) as u64 | u64::from(sum as u64 != 0);
    finish(big.0, big.1 + 1 - zeros as i32, significand, format, rounding)
}

/// `a ÷ b`.
#[inline]
pub(in crate::vector) fn divide(a: u64, b: u64, format: Format, rounding: Rounding) -> Option<(u64, u32)> {
    let ((a_sign, a_exponent, a), (b_sign, b_exponent, b)) = (fields(a)?, fields(b)?);
    // The quotient of two significands is between 1/2 and 2.
    let (dividend, divisor) = (u128::from(a) << 63, u128::from(b));
    let quotient = (dividend / divisor) as u64;
    let remainder = dividend - u128::from(quotient) * divisor;
    let zeros = quotient.leading_zeros();
    let significand = quotient << zeros | u64::from(remainder != 0);
    finish(a_sign ^ b_sign, a_exponent - b_exponent - zeros as i32, significand, format, rounding)
}

/// √a.
#[inline]
pub(in crate::vector) fn square_root(a: u64, format: Format, rounding: Rounding) -> Option<(u64, u32)> {
    let (sign, exponent, significand) = fields(a)?;
    if sign != 0 {
        return None;
    }
    // A radicand of 105 or 106 bits has a root of 53 bits. IEEE 754 wants the host's root to be the nearest one: it is the
    // true one rounded down, or one more.
    let radicand = u128::from(significand) << (52 + (exponent & 1));
    let scaled = f64::from_bits(((BIAS + (exponent & 1)) as u64) << 52 | a & FRACTION);
    let nearest = scaled.sqrt().to_bits() & FRACTION | 1 << 52;
    let square = u128::from(nearest) * u128::from(nearest);
    // Ten bits more tell apart less than, and more than, half of the last one; a tie is impossible.
    let below = match square.cmp(&radicand) {
        Ordering::Equal => 0,
        Ordering::Less => 1,
        Ordering::Greater => 0u64.wrapping_sub(1 << 11) + (1 << 10 | 1),
    };
    finish(0, exponent >> 1, (nearest << 11).wrapping_add(below), format, rounding)
}

/// A double rounded to single precision.
#[inline]
pub(in crate::vector) fn to_single(a: u64, rounding: Rounding) -> Option<(u64, u32)> {
    let (sign, exponent, significand) = fields(a)?;
    finish(sign, exponent, significand << 11, SINGLE, rounding)
}

/// An integer, given as sign and magnitude.
#[inline]
pub(in crate::vector) fn from_integer(negative: bool, magnitude: u64, format: Format, rounding: Rounding) -> Option<(u64, u32)> {
    if magnitude == 0 {
        return None;
    }
    let zeros = magnitude.leading_zeros();
    finish(u64::from(negative) << 63, 63 - zeros as i32, magnitude << zeros, format, rounding)
}

/// A double below 2^62 in magnitude to an integer that can hold it.
#[inline]
pub(in crate::vector) fn to_integer(a: u64, integer: Integer, rounding: Rounding) -> Option<(u64, u32)> {
    let (sign, exponent, significand) = fields(a)?;
    if exponent >= 62 {
        return None;
    }
    let significand = significand << 11;
    let (kept, lost) = match exponent {
        0.. => (significand >> (63 - exponent), significand << (exponent + 1)),
        -1 => (0, significand),
        // Less than one half, more than nothing.
        _ => (0, 1),
    };
    let up = rounds_up(kept & 1 != 0, lost, sign != 0, rounding);
    let magnitude = kept + u64::from(up);
    if u128::from(magnitude) > integer.limit(sign != 0) {
        return None;
    }
    let value = if sign != 0 { magnitude.wrapping_neg() } else { magnitude };
    Some((value & integer.mask(), fpscr::inexact(lost != 0, up)))
}

#[cfg(test)]
mod tests {
    use super::super::convert::{SIGNED_DOUBLEWORD, SIGNED_WORD, UNSIGNED_DOUBLEWORD, UNSIGNED_WORD};
    use super::super::round::{Environment, round};
    use super::super::{DOUBLE, Number, arithmetic, convert, pack, unpack};
    use super::*;

    const MODES: [Rounding; 6] =
        [Rounding::NearestEven, Rounding::NearestAway, Rounding::TowardZero, Rounding::Up, Rounding::Down, Rounding::Odd];

    /// Doubles that are short, long, near one another, near ties of single precision, and near the limits.
    struct Samples(u64);

    impl Samples {
        fn next(&mut self) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0
        }

        fn double(&mut self) -> u64 {
            let (bits, shape) = (self.next(), self.next());
            let fraction = match shape % 5 {
                0 => bits & 0xf_ffff_ffff_ffff,
                1 => bits & 0xf_ffff_e000_0000,
                2 => bits & 0xf_ffff_f000_0000 | shape >> 8 & 1,
                3 => bits & 0xff00_0000_0000,
                _ => 0u64.wrapping_sub(bits & 3) & 0xf_ffff_ffff_ffff,
            };
            let field = match shape >> 16 & 3 {
                0 => bits >> 52 & 0x7ff,
                1 => 1023 + (bits >> 52 & 0x7f) - 64,
                _ => 1023 + (bits >> 52 & 7) - 4,
            };
            bits & SIGN | field << 52 | fraction
        }
    }

    fn exact((number, flags): (Number, u32), format: Format, rounding: Rounding) -> (u64, u32) {
        let (number, more) = round(number, format, Environment::masked(rounding));
        (pack(number, DOUBLE) as u64, flags | more)
    }

    #[test]
    fn agrees_with_the_exact_path() {
        let mut samples = Samples(0x1234_5678_9abc_def1);
        let mut taken = [0; 8];
        for round in 0..60_000 {
            let (a, b, c) = (samples.double(), samples.double(), samples.double());
            let c = if round % 4 == 0 { a ^ SIGN } else { c };
            let number = |bits: u64| unpack(bits.into(), DOUBLE);
            let (rounding, format) = (MODES[round % 6], if round % 7 < 3 { SINGLE } else { DOUBLE });
            let integer = [SIGNED_WORD, UNSIGNED_WORD, SIGNED_DOUBLEWORD, UNSIGNED_DOUBLEWORD][round % 4];
            let results = [
                (add(a, b, format, rounding), exact(arithmetic::add(number(a), number(b), rounding), format, rounding)),
                (multiply(a, b, format, rounding), exact(arithmetic::multiply(number(a), number(b)), format, rounding)),
                (divide(a, b, format, rounding), exact(arithmetic::divide(number(a), number(b), DOUBLE), format, rounding)),
                (
                    multiply_add(a, b, c, format, rounding),
                    exact(arithmetic::multiply_add(number(a), number(b), number(c), rounding), format, rounding),
                ),
                (square_root(a, format, rounding), exact(arithmetic::square_root(number(a), DOUBLE), format, rounding)),
                (to_single(a, rounding), exact((number(a), 0), SINGLE, rounding)),
                (from_integer(a & 1 != 0, b, format, rounding), {
                    let magnitude = Number { negative: a & 1 != 0, ..convert::from_unsigned(b) };
                    exact((magnitude, 0), format, rounding)
                }),
                (to_integer(a, integer, rounding), convert::to_integer(number(a), integer, rounding)),
            ];
            for (which, (fast, exact)) in results.into_iter().enumerate() {
                if let Some(fast) = fast {
                    taken[which] += 1;
                    assert_eq!(fast, exact, "operation {which} of {a:#x} {b:#x} {c:#x}, {format:?}, {rounding:?}");
                }
            }
        }
        // A path that is never taken would prove nothing.
        assert!(taken.iter().all(|&count| count > 10_000), "{taken:?}");
    }
}
