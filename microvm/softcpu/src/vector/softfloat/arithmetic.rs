//! Sums, products, quotients, roots, comparisons (ISA 3.0B I 4.3.1, 4.4.1, 7.4.2).
//!
//! Results are exact but for a sticky bit and still have to be rounded. The flags are the VX and ZX bits of the FPSCR.

use std::cmp::Ordering;

use super::round::{Rounding, shift_right_sticky};
use super::wide::Wide;
use super::{DOUBLE, Format, Kind, Number, TOP};
use crate::vector::fpscr::{VXIDI, VXIMZ, VXISI, VXSNAN, VXSQRT, VXZDZ, ZX};

/// Quotients and roots of 62 bits and a sticky bit serve formats of at most so many fraction bits.
const SHORT_FRACTION: u32 = 60;

/// VXSNAN if one of the operands is a signaling NaN.
fn signaling(operands: &[Number]) -> u32 {
    if operands.iter().any(|x| x.is_signaling()) { VXSNAN } else { 0 }
}

/// The first NaN among the operands, made quiet (ISA 3.0B I 4.3.2).
fn first_nan(operands: &[Number]) -> Option<Number> {
    operands.iter().find(|x| x.is_nan()).map(|x| x.quieted())
}

/// A finite number from a significand that is not zero and not yet normalized: bit 127 is worth 2^exponent.
fn normalized(negative: bool, exponent: i32, significand: u128) -> Number {
    let zeros = significand.leading_zeros();
    Number { kind: Kind::Finite, negative, exponent: exponent - zeros as i32, significand: significand << zeros }
}

/// `a + b`. The rounding mode decides about the sign of zero.
#[inline]
pub(in crate::vector) fn add(a: Number, b: Number, rounding: Rounding) -> (Number, u32) {
    if a.kind == Kind::Finite && b.kind == Kind::Finite {
        return (finite_sum(a, b, rounding), 0);
    }
    if let Some(nan) = first_nan(&[a, b]) {
        return (nan, signaling(&[a, b]));
    }
    match (a.kind, b.kind) {
        (Kind::Infinity, Kind::Infinity) if a.negative != b.negative => (Number::DEFAULT_NAN, VXISI),
        (Kind::Infinity, _) => (a, 0),
        (_, Kind::Infinity) => (b, 0),
        (Kind::Zero, Kind::Zero) if a.negative == b.negative => (a, 0),
        (Kind::Zero, Kind::Zero) => (Number::zero(rounding == Rounding::Down), 0),
        (Kind::Zero, _) => (b, 0),
        _ => (a, 0),
    }
}

/// The sum of two finite numbers with at most 124 significant bits each.
fn finite_sum(a: Number, b: Number, rounding: Rounding) -> Number {
    let (big, small) = if (a.exponent, a.significand) >= (b.exponent, b.significand) { (a, b) } else { (b, a) };
    let distance = (big.exponent - small.exponent) as u32;
    // One bit of headroom; the low bits are free, so nothing is lost by it.
    let (x, y) = (big.significand >> 1, shift_right_sticky(small.significand >> 1, distance));
    let sum = if big.negative == small.negative { x + y } else { x - y };
    if sum == 0 {
        return Number::zero(rounding == Rounding::Down);
    }
    normalized(big.negative, big.exponent + 1, sum)
}

/// `a × b` of finite numbers, exactly: bit 255 is worth 2^exponent.
fn finite_product(a: Number, b: Number) -> (i32, Wide) {
    const LOW: u128 = u64::MAX as u128;
    let product = if a.significand & LOW == 0 && b.significand & LOW == 0 {
        Wide { high: (a.significand >> 64) * (b.significand >> 64), low: 0 }
    } else {
        Wide::product(a.significand, b.significand)
    };
    (a.exponent + b.exponent + 1, product)
}

/// The product if one of the factors is not finite, or zero.
fn special_product(a: Number, b: Number) -> Option<(Number, u32)> {
    let negative = a.negative != b.negative;
    if a.kind == Kind::Finite && b.kind == Kind::Finite {
        return None;
    }
    if let Some(nan) = first_nan(&[a, b]) {
        return Some((nan, signaling(&[a, b])));
    }
    Some(match (a.kind, b.kind) {
        (Kind::Infinity, Kind::Zero) | (Kind::Zero, Kind::Infinity) => (Number::DEFAULT_NAN, VXIMZ),
        (Kind::Infinity, _) | (_, Kind::Infinity) => (Number::infinity(negative), 0),
        _ => (Number::zero(negative), 0),
    })
}

/// `a × b`.
#[inline]
pub(in crate::vector) fn multiply(a: Number, b: Number) -> (Number, u32) {
    if let Some(special) = special_product(a, b) {
        return special;
    }
    let (exponent, product) = finite_product(a, b);
    (normalized(a.negative != b.negative, exponent, product.sticky_high()), 0)
}

/// `a × c + b`, rounded only once by the caller. NaNs count in the order a, b, c (ISA 3.0B I 4.3.2, table of xsmaddadp).
#[inline]
pub(in crate::vector) fn multiply_add(a: Number, c: Number, b: Number, rounding: Rounding) -> (Number, u32) {
    let invalid = if (a.is_infinity() && c.is_zero()) || (a.is_zero() && c.is_infinity()) { VXIMZ } else { 0 };
    if let Some(nan) = first_nan(&[a, b, c]) {
        return (nan, signaling(&[a, b, c]) | invalid);
    }
    if let Some((product, flags)) = special_product(a, c) {
        if flags != 0 {
            return (product, flags);
        }
        return add(product, b, rounding);
    }
    let negative = a.negative != c.negative;
    let (exponent, product) = finite_product(a, c);
    match b.kind {
        Kind::Infinity => (b, 0),
        Kind::Finite if product.low == 0 => (finite_sum(normalized(negative, exponent, product.high), b, rounding), 0),
        Kind::Finite => (wide_sum(negative, exponent, product, b, rounding), 0),
        _ => (normalized(negative, exponent, product.sticky_high()), 0),
    }
}

/// The sum of an exact product and a finite number.
fn wide_sum(negative: bool, exponent: i32, product: Wide, b: Number, rounding: Rounding) -> Number {
    let zeros = product.leading_zeros();
    let (exponent, product) = (exponent - zeros as i32, product.shift_left(zeros));
    let addend = Wide { high: b.significand, low: 0 };
    let product_is_big = exponent.cmp(&b.exponent).then(product.compare(addend)) != Ordering::Less;
    let (big_sign, big_exponent, big, small_exponent, small) = if product_is_big {
        (negative, exponent, product, b.exponent, addend)
    } else {
        (b.negative, b.exponent, addend, exponent, product)
    };
    // One bit of headroom, as above: of 256 bits, 226 are in use.
    let x = big.shift_right_sticky(1);
    let y = small.shift_right_sticky(1).shift_right_sticky((big_exponent - small_exponent) as u32);
    let sum = if negative == b.negative { x.plus(y) } else { x.minus(y) };
    if sum.high | sum.low == 0 {
        return Number::zero(rounding == Rounding::Down);
    }
    let zeros = sum.leading_zeros();
    let significand = sum.shift_left(zeros).sticky_high();
    Number { kind: Kind::Finite, negative: big_sign, exponent: big_exponent + 1 - zeros as i32, significand }
}

/// `a ÷ b`, precise enough for `format`.
#[inline]
pub(in crate::vector) fn divide(a: Number, b: Number, format: Format) -> (Number, u32) {
    let negative = a.negative != b.negative;
    if a.kind == Kind::Finite && b.kind == Kind::Finite {
        return (finite_quotient(negative, a, b, format), 0);
    }
    if let Some(nan) = first_nan(&[a, b]) {
        return (nan, signaling(&[a, b]));
    }
    match (a.kind, b.kind) {
        (Kind::Infinity, Kind::Infinity) => (Number::DEFAULT_NAN, VXIDI),
        (Kind::Zero, Kind::Zero) => (Number::DEFAULT_NAN, VXZDZ),
        (Kind::Infinity, _) => (Number::infinity(negative), 0),
        (Kind::Finite, Kind::Zero) => (Number::infinity(negative), ZX),
        _ => (Number::zero(negative), 0),
    }
}

fn finite_quotient(negative: bool, a: Number, b: Number, format: Format) -> Number {
    let exponent = a.exponent - b.exponent;
    if format.fraction_bits <= SHORT_FRACTION && (a.significand | b.significand) as u64 == 0 {
        // Up to 64 significant bits each: a 63- or 64-bit quotient in one step.
        let (dividend, divisor) = (a.significand >> 1, b.significand >> 64);
        let (quotient, remainder) = (dividend / divisor, dividend % divisor);
        return normalized(negative, exponent, quotient << 64 | u128::from(remainder != 0));
    }
    // Digit by digit. 15 bits are free in a quad's significand: the remainder has room to double.
    const QUOTIENT_BITS: u32 = 117;
    let (mut remainder, divisor) = (a.significand >> 2, b.significand >> 2);
    let mut quotient = 0;
    for _ in 0..QUOTIENT_BITS {
        quotient <<= 1;
        if remainder >= divisor {
            remainder -= divisor;
            quotient |= 1;
        }
        remainder <<= 1;
    }
    normalized(negative, exponent, quotient << (128 - QUOTIENT_BITS) | u128::from(remainder != 0))
}

/// √a, precise enough for `format`.
#[inline]
pub(in crate::vector) fn square_root(a: Number, format: Format) -> (Number, u32) {
    match a.kind {
        Kind::QuietNan | Kind::SignalingNan => (a.quieted(), signaling(&[a])),
        Kind::Zero => (a, 0),
        _ if a.negative => (Number::DEFAULT_NAN, VXSQRT),
        Kind::Infinity => (a, 0),
        Kind::Finite => (finite_root(a, format), 0),
    }
}

fn finite_root(a: Number, format: Format) -> Number {
    // The radicand in [1, 4) with bit 126 worth one, so that the exponent left is even.
    let radicand = if a.exponent & 1 == 0 { a.significand >> 1 } else { a.significand };
    let exponent = a.exponent >> 1;
    if format.fraction_bits <= SHORT_FRACTION && a.significand as u64 == 0 {
        let root = radicand.isqrt();
        return normalized(false, exponent, root << 64 | u128::from(root * root != radicand));
    }
    // Digit by digit, two bits of the radicand for each of the root.
    const ROOT_BITS: u32 = 117;
    let (mut remainder, mut root, mut rest) = (0u128, 0u128, radicand);
    for _ in 0..ROOT_BITS {
        remainder = remainder << 2 | rest >> 126;
        rest <<= 2;
        let trial = root << 2 | 1;
        root <<= 1;
        if remainder >= trial {
            remainder -= trial;
            root |= 1;
        }
    }
    normalized(false, exponent, root << (128 - ROOT_BITS) | u128::from(remainder != 0))
}

/// The estimate of 1/a: here the quotient itself, which every precision the ISA asks of an estimate allows.
pub(in crate::vector) fn reciprocal(a: Number) -> (Number, u32) {
    divide(Number::ONE, a, DOUBLE)
}

/// The estimate of 1/√a: here correct but for a rounding in the 64th bit.
pub(in crate::vector) fn reciprocal_root(a: Number) -> (Number, u32) {
    match a.kind {
        Kind::Zero => (Number::infinity(a.negative), ZX),
        Kind::Infinity if !a.negative => (Number::zero(false), 0),
        _ => {
            let (root, flags) = square_root(a, DOUBLE);
            if root.kind != Kind::Finite {
                return (root, flags);
            }
            let short = Number { significand: root.significand >> 64 << 64, ..root };
            (finite_quotient(false, Number::ONE, short, DOUBLE), flags)
        }
    }
}

/// `None` if one is a NaN. +0 equals -0.
#[inline]
pub(in crate::vector) fn compare(a: Number, b: Number) -> Option<Ordering> {
    if a.is_nan() || b.is_nan() {
        return None;
    }
    Some(key(a).cmp(&key(b)))
}

/// Ordered as the numbers are: sign, then exponent and significand, turned around for negative numbers.
fn key(a: Number) -> (i32, i32, u128) {
    let (class, exponent, significand) = match a.kind {
        Kind::Zero => return (0, 0, 0),
        Kind::Infinity => (2, 0, TOP),
        _ => (1, a.exponent, a.significand),
    };
    if a.negative { (-class, -exponent, !significand) } else { (class, exponent, significand) }
}

#[cfg(test)]
mod tests {
    use super::super::round::{Environment, round};
    use super::super::{QUAD, SINGLE, pack, unpack};
    use super::*;

    const NEAREST: Environment = Environment::masked(Rounding::NearestEven);

    fn double(x: f64) -> Number {
        unpack(x.to_bits().into(), DOUBLE)
    }

    fn rounded((number, flags): (Number, u32)) -> (u64, u32) {
        let (number, more) = round(number, DOUBLE, NEAREST);
        (pack(number, DOUBLE) as u64, flags | more)
    }

    /// Operands where something happens: around 1, ties, denormals, limits, and a spread of random ones.
    fn samples() -> Vec<f64> {
        let mut values =
            vec![0.0, -0.0, 1.0, -1.0, 1.5, 3.0, f64::MIN_POSITIVE, f64::MAX, -f64::MAX, 5e-324, 1e-310, f64::INFINITY];
        values.extend([
            1.0 + f64::EPSILON,
            1.0 - f64::EPSILON / 2.0,
            2f64.powi(53),
            2f64.powi(-53),
            2f64.powi(-1022),
            -f64::INFINITY,
        ]);
        let mut seed = 0x9e37_79b9_7f4a_7c15u64;
        for i in 0..200 {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            // Half of them of similar size, so that sums cancel.
            let bits = if i % 2 == 0 { seed } else { seed & 0x800f_ffff_ffff_ffff | (1020 + seed % 7) << 52 };
            let value = f64::from_bits(bits);
            if !value.is_nan() {
                values.push(value);
            }
        }
        values
    }

    /// The host rounds to nearest as IEEE 754 says; its NaNs are left out, for their payload differs.
    fn same(ours: (u64, u32), host: f64, what: &str) {
        if !host.is_nan() {
            assert_eq!(ours.0, host.to_bits(), "{what}: {:e} against {host:e}", f64::from_bits(ours.0));
        } else {
            assert_eq!(ours.0, 0x7ff8_0000_0000_0000, "{what}");
        }
    }

    #[test]
    fn agrees_with_the_host_to_nearest() {
        let values = samples();
        for &x in &values {
            same(rounded(square_root(double(x), DOUBLE)), x.sqrt(), &format!("sqrt {x:e}"));
            for &y in &values {
                let (a, b) = (double(x), double(y));
                same(rounded(add(a, b, Rounding::NearestEven)), x + y, &format!("{x:e} + {y:e}"));
                same(rounded(multiply(a, b)), x * y, &format!("{x:e} * {y:e}"));
                same(rounded(divide(a, b, DOUBLE)), x / y, &format!("{x:e} / {y:e}"));
                assert_eq!(compare(a, b), x.partial_cmp(&y), "{x:e} <> {y:e}");
                let z = values[(x.to_bits() ^ y.to_bits()) as usize % values.len()];
                let fused = multiply_add(a, b, double(z), Rounding::NearestEven);
                same(rounded(fused), x.mul_add(y, z), &format!("{x:e} * {y:e} + {z:e}"));
            }
        }
    }

    #[test]
    fn quad_carries_a_double_operation_exactly() {
        // Through the wide paths, with results that fit into 113 bits: the same as double's one rounding.
        let quad = |x: f64| unpack(pack(double(x), QUAD), QUAD);
        let to_double = |(number, _): (Number, u32)| pack(round(number, DOUBLE, NEAREST).0, DOUBLE) as u64;
        for (x, y) in [(1.0, 3.0), (2.0, 7.0), (1e10, 3e-5), (1.0 + f64::EPSILON, 1.0 - f64::EPSILON)] {
            let long = |x| Number { significand: quad(x).significand | 1 << 20, ..quad(x) };
            assert_eq!(to_double(divide(long(x), long(y), QUAD)), (x / y).to_bits(), "{x} / {y}");
            assert_eq!(to_double(square_root(long(x), QUAD)), x.sqrt().to_bits(), "sqrt {x}");
            assert_eq!(to_double(multiply(long(x), long(y))), (x * y).to_bits(), "{x} * {y}");
        }
    }

    #[test]
    fn quad_third_and_root_of_two() {
        let quad = |(number, _): (Number, u32)| pack(round(number, QUAD, NEAREST).0, QUAD);
        let three = Number { significand: 3 << 126, exponent: 1, ..Number::ONE };
        let third = divide(Number::ONE, three, QUAD);
        assert_eq!(quad(third), 0x3ffd_5555_5555_5555_5555_5555_5555_5555);
        // √2 is 1.6a09e667f3bcc908b2fb1366ea957d3e3adec175… in hexadecimal.
        let two = Number { exponent: 1, ..Number::ONE };
        assert_eq!(quad(square_root(two, QUAD)), 0x3fff_6a09_e667_f3bc_c908_b2fb_1366_ea95);
    }

    #[test]
    fn quad_fused_multiply_add_cancels_exactly() {
        // (1 + u)(1 - u) - 1 = -u^2, far below the last bit of the product.
        let u = 2f64.powi(-112);
        let (above, below) =
            (Number { significand: TOP | 1 << 15, ..Number::ONE }, Number { significand: !0 << 15, exponent: -1, ..Number::ONE });
        // 1 - 2^-113 = below.
        let (result, _) = multiply_add(above, below, Number::ONE.negated(), Rounding::NearestEven);
        // (1 + 2^-112)(1 - 2^-113) - 1 = 2^-113 - 2^-225.
        assert!(!result.negative);
        assert_eq!(result.exponent, -114);
        assert_eq!(pack(round(result, DOUBLE, NEAREST).0, DOUBLE) as u64, (u / 2.0).to_bits());
        let (result, flags) = round(result, QUAD, NEAREST);
        assert_eq!((result.significand, flags), (!0 << 16, 0));
    }

    #[test]
    fn invalid_operations() {
        let infinity = Number::infinity(false);
        assert_eq!(add(infinity, infinity.negated(), Rounding::Up), (Number::DEFAULT_NAN, VXISI));
        assert_eq!(multiply(infinity, Number::zero(true)), (Number::DEFAULT_NAN, VXIMZ));
        assert_eq!(divide(Number::zero(false), Number::zero(false), DOUBLE), (Number::DEFAULT_NAN, VXZDZ));
        assert_eq!(divide(infinity, infinity, DOUBLE), (Number::DEFAULT_NAN, VXIDI));
        assert_eq!(divide(Number::ONE, Number::zero(true), DOUBLE), (Number::infinity(true), ZX));
        assert_eq!(square_root(Number::ONE.negated(), DOUBLE), (Number::DEFAULT_NAN, VXSQRT));
    }

    #[test]
    fn nans_in_the_order_a_b_c() {
        let nan = |payload: u128| unpack(0x7f80_0000 | payload, SINGLE);
        let (a, b, c) = (nan(1), nan(0x40_0002), nan(0x40_0003));
        let single = |(number, flags)| (pack(number, SINGLE), flags);
        assert_eq!(single(multiply_add(a, c, b, Rounding::Up)), (0x7fc0_0001, VXSNAN));
        assert_eq!(single(multiply_add(Number::ONE, c, b, Rounding::Up)), (0x7fc0_0002, 0));
        assert_eq!(single(multiply_add(Number::zero(false), Number::infinity(true), b, Rounding::Up)), (0x7fc0_0002, VXIMZ));
        assert_eq!(single(add(Number::ONE, a, Rounding::Up)), (0x7fc0_0001, VXSNAN));
    }

    #[test]
    fn sign_of_zero() {
        assert_eq!(add(Number::ONE, Number::ONE.negated(), Rounding::NearestEven).0, Number::zero(false));
        assert_eq!(add(Number::ONE, Number::ONE.negated(), Rounding::Down).0, Number::zero(true));
        assert_eq!(add(Number::zero(true), Number::zero(true), Rounding::Up).0, Number::zero(true));
    }
}
