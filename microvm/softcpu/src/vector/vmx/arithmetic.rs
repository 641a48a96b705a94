//! Integer arithmetic that is more than one operation per element (ISA 3.0B I 6.9).

use crate::vector::lanes::{Lane, build, zip3};

/// `a + b + carry` and the carry out of it.
pub(super) fn add_extended(a: u128, b: u128, carry: u128) -> (u128, u128) {
    let (sum, first) = a.overflowing_add(b);
    let (sum, second) = sum.overflowing_add(carry);
    (sum, u128::from(first | second))
}

/// vmhaddshs, vmhraddshs: (a × b + rounding) >> 15, plus c, saturated; and whether an element was.
pub(super) fn multiply_high_add(a: u128, b: u128, c: u128, rounding: i32) -> (u128, bool) {
    let mut saturated = false;
    let result = zip3::<i16>(a, b, c, |x, y, z| {
        let sum = ((i32::from(x) * i32::from(y) + rounding) >> 15) + i32::from(z);
        let clamped = sum.clamp(i16::MIN.into(), i16::MAX.into());
        saturated |= clamped != sum;
        clamped as i16
    });
    (result, saturated)
}

/// vmsumudm: both doubleword products and c, modulo 2^128.
pub(super) fn sum_doubleword_products(a: u128, b: u128, c: u128) -> u128 {
    let (a, b) = (u64::split(a), u64::split(b));
    let product = |i: usize| u128::from(a[i]) * u128::from(b[i]);
    product(0).wrapping_add(product(1)).wrapping_add(c)
}

/// vmsumubm, vmsummbm: four byte products and c in each word; `widen` takes a byte of `a` as signed or unsigned.
pub(super) fn sum_byte_products(a: u128, b: u128, c: u128, widen: impl Fn(u8) -> i32) -> u128 {
    let (a, b, c) = (u8::split(a), u8::split(b), i32::split(c));
    build(|i| {
        let products: i32 = (4 * i..4 * i + 4).map(|k| widen(a[k]) * i32::from(b[k])).sum();
        products.wrapping_add(c[i])
    })
}

/// vmsumuhm, vmsumuhs: two halfword products and c in each word.
pub(super) fn sum_unsigned_products(a: u128, b: u128, c: u128, saturate: bool) -> (u128, bool) {
    let (a, b, c) = (u16::split(a), u16::split(b), u32::split(c));
    let mut saturated = false;
    let result = build(|i| {
        let sum = (2 * i..2 * i + 2).fold(u64::from(c[i]), |sum, k| sum + u64::from(a[k]) * u64::from(b[k]));
        if saturate && sum > u64::from(u32::MAX) {
            saturated = true;
            return u32::MAX;
        }
        sum as u32
    });
    (result, saturated)
}

/// vmsumshm, vmsumshs: two halfword products and c in each word.
pub(super) fn sum_signed_products(a: u128, b: u128, c: u128, saturate: bool) -> (u128, bool) {
    let (a, b, c) = (i16::split(a), i16::split(b), i32::split(c));
    let mut saturated = false;
    let result = build(|i| {
        let sum = (2 * i..2 * i + 2).fold(i64::from(c[i]), |sum, k| sum + i64::from(a[k]) * i64::from(b[k]));
        if saturate { clamp_word(sum, &mut saturated) } else { sum as i32 }
    });
    (result, saturated)
}

fn clamp_word(sum: i64, saturated: &mut bool) -> i32 {
    let clamped = sum.clamp(i32::MIN.into(), i32::MAX.into());
    *saturated |= clamped != sum;
    clamped as i32
}

/// vsum4sbs.
pub(super) fn sum_across_signed_bytes(a: u128, b: u128) -> (u128, bool) {
    let (a, b) = (i8::split(a), i32::split(b));
    let mut saturated = false;
    let result = build(|i| {
        let sum = a[4 * i..4 * i + 4].iter().fold(i64::from(b[i]), |sum, &x| sum + i64::from(x));
        clamp_word(sum, &mut saturated)
    });
    (result, saturated)
}

/// vsum4shs.
pub(super) fn sum_across_signed_halfwords(a: u128, b: u128) -> (u128, bool) {
    let (a, b) = (i16::split(a), i32::split(b));
    let mut saturated = false;
    let result = build(|i| {
        let sum = a[2 * i..2 * i + 2].iter().fold(i64::from(b[i]), |sum, &x| sum + i64::from(x));
        clamp_word(sum, &mut saturated)
    });
    (result, saturated)
}

/// vsum4ubs.
pub(super) fn sum_across_unsigned_bytes(a: u128, b: u128) -> (u128, bool) {
    let (a, b) = (u8::split(a), u32::split(b));
    let mut saturated = false;
    let result = build(|i| {
        let sum = a[4 * i..4 * i + 4].iter().fold(u64::from(b[i]), |sum, &x| sum + u64::from(x));
        u32::try_from(sum).unwrap_or_else(|_| {
            saturated = true;
            u32::MAX
        })
    });
    (result, saturated)
}

/// vsum2sws: sums in words 1 and 3, zeros in 0 and 2.
pub(super) fn sum_across_half_words(a: u128, b: u128) -> (u128, bool) {
    let (a, b) = (i32::split(a), i32::split(b));
    let mut saturated = false;
    let mut sum = |i: usize| clamp_word(i64::from(a[i - 1]) + i64::from(a[i]) + i64::from(b[i]), &mut saturated);
    let result = i32::join([0, sum(1), 0, sum(3)]);
    (result, saturated)
}

/// vsumsws: the sum in word 3, zeros in the others.
pub(super) fn sum_across_words(a: u128, b: u128) -> (u128, bool) {
    let mut saturated = false;
    let sum = i32::split(a).iter().fold(i64::from(b as i32), |sum, &x| sum + i64::from(x));
    (i32::join([0, 0, 0, clamp_word(sum, &mut saturated)]), saturated)
}

/// Ones in bits `first..=last` of the ISA's numbering of `width` bits, wrapping around if `first > last`.
fn mask(first: u32, last: u32, width: u32) -> u64 {
    let ones = u64::MAX >> (64 - width);
    let (from, to) = (ones >> first, ones & (u64::MAX << (width - 1 - last)));
    if first <= last { from & to } else { from | to }
}

/// vrlwmi (`into` is the old target), vrlwnm (`into` is zero).
pub(super) fn rotate_words(a: u128, b: u128, into: u128) -> u128 {
    zip3::<u32>(a, b, into, |value, control, old| {
        let mask = mask(control >> 16 & 31, control >> 8 & 31, 32) as u32;
        value.rotate_left(control & 31) & mask | old & !mask
    })
}

/// vrldmi (`into` is the old target), vrldnm (`into` is zero).
pub(super) fn rotate_doublewords(a: u128, b: u128, into: u128) -> u128 {
    zip3::<u64>(a, b, into, |value, control, old| {
        let mask = mask((control >> 16 & 63) as u32, (control >> 8 & 63) as u32, 64);
        value.rotate_left((control & 63) as u32) & mask | old & !mask
    })
}

/// vmul10uq and its family: the low 128 bits of `a × 10 + carry`, and what lies above them. A carry above 9 is undefined in the
/// ISA; it is used as it is.
pub(super) fn multiply_by_ten(a: u128, carry: u128) -> (u128, u128) {
    let low = (a & u128::from(u64::MAX)) * 10 + carry;
    let high = (a >> 64) * 10 + (low >> 64);
    (high << 64 | low & u128::from(u64::MAX), high >> 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_saturate_only_where_asked() {
        let c = u128::from(u32::MAX);
        let (modulo, noted) = sum_unsigned_products(1, 1, c, false);
        assert_eq!((modulo, noted), (0, false));
        assert_eq!(sum_unsigned_products(1, 1, c, true), (c, true));
        let ones = 0x8000_8000;
        assert_eq!(sum_signed_products(ones, ones, 0, true), (0x7fff_ffff, true));
        assert_eq!(multiply_high_add(0x8000, 0x8000, 0, 0), (0x7fff, true));
        assert_eq!(multiply_high_add(0x4000, 1, 0, 0x4000), (1, false));
        assert_eq!(multiply_high_add(0x4000, 1, 0, 0), (0, false));
    }

    #[test]
    fn mixed_products_take_a_as_signed() {
        assert_eq!(sum_byte_products(0xff, 0xff, 0, |x| i32::from(x as i8)), u128::from(0u32.wrapping_sub(255)));
        assert_eq!(sum_byte_products(0xff, 0xff, 0, i32::from), 255 * 255);
    }

    #[test]
    fn sums_across_go_to_the_last_word() {
        assert_eq!(sum_across_words(0x0000_0001_0000_0002_0000_0003_0000_0004, 5), (15, false));
        assert_eq!(sum_across_half_words(0x0000_0001_0000_0002_7fff_ffff_0000_0004, 0), (0x0000_0003_0000_0000_7fff_ffff, true));
    }

    #[test]
    fn rotate_masks_wrap_around() {
        // mb 28, me 3: the outer eight bits. Shift 4.
        let control = 28 << 16 | 3 << 8 | 4;
        assert_eq!(rotate_words(0x1234_5678, control, 0) as u32, 0x2000_0001);
        assert_eq!(rotate_words(0x1234_5678, control, 0xffff_ffff) as u32, 0x2fff_fff1);
    }

    #[test]
    fn carries() {
        assert_eq!(add_extended(u128::MAX, 0, 1), (0, 1));
        assert_eq!(add_extended(5, !3, 1), (2, 1));
        assert_eq!(multiply_by_ten(u128::MAX, 9), (u128::MAX, 9));
    }
}
