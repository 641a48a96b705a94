//! Permutes, byte-wise shifts, extracts and inserts (ISA 3.0B I 6.8, 6.14 to 6.16).

use crate::vector::lanes::{Lane, build};

/// Bit 7 of every byte.
pub(super) const LOW_BIT_OF_BYTES: u128 = 0x0101_0101_0101_0101_0101_0101_0101_0101;

/// Byte 0 to 15 of `a`, 16 to 31 of `b`.
fn concatenated(a: u128, b: u128) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(&a.to_be_bytes());
    bytes[16..].copy_from_slice(&b.to_be_bytes());
    bytes
}

/// vperm: every byte of `control` names a byte of `a` followed by `b`.
pub(crate) fn permute(a: u128, b: u128, control: u128) -> u128 {
    if let Some(first) = first_of_row(control) {
        return from_byte(a, b, first);
    }
    let bytes = concatenated(a, b);
    u128::from_be_bytes(control.to_be_bytes().map(|index| bytes[usize::from(index & 31)]))
}

/// The number of the first byte (0 to 16) if `control` names sixteen in a row, as what lvsl and lvsr load does.
pub(crate) fn first_of_row(control: u128) -> Option<u32> {
    const ASCENDING: u128 = 0x0001_0203_0405_0607_0809_0a0b_0c0d_0e0f;
    let control = control & (0x1f * LOW_BIT_OF_BYTES);
    let first = control >> 120;
    (first <= 16 && control == ASCENDING + LOW_BIT_OF_BYTES * first).then_some(first as u32)
}

/// 16 bytes of `a` followed by `b`, from byte `first` (0 to 16) on.
pub(crate) fn from_byte(a: u128, b: u128, first: u32) -> u128 {
    match first {
        0 => a,
        16.. => b,
        n => a << (8 * n) | b >> (128 - 8 * n),
    }
}

/// vpermr: the same, counted from the right.
pub(in crate::vector) fn permute_right(a: u128, b: u128, control: u128) -> u128 {
    // 31 - n has the complements of n's five bits.
    permute(a, b, !control)
}

/// vpermxor: the exclusive-or of two bytes that the two digits of every control byte name.
pub(super) fn permute_xor(a: u128, b: u128, control: u128) -> u128 {
    let (a, b, control) = (u8::split(a), u8::split(b), u8::split(control));
    build(|i| a[usize::from(control[i] >> 4)] ^ b[usize::from(control[i] & 15)])
}

/// vsldoi: 16 bytes of `a` followed by `b`, from byte `bytes` (0 to 15) on.
pub(in crate::vector) fn double_shift_left(a: u128, b: u128, bytes: u32) -> u128 {
    from_byte(a, b, bytes & 15)
}

/// vslv: every byte shifted left by its own count, filled from its right neighbour.
pub(super) fn shift_left_variable(a: u128, b: u128) -> u128 {
    let (a, b) = (u8::split(a), u8::split(b));
    build(|i| {
        let pair = u16::from_be_bytes([a[i], a.get(i + 1).copied().unwrap_or(0)]);
        (pair << (b[i] & 7) >> 8) as u8
    })
}

/// vsrv: every byte shifted right by its own count, filled from its left neighbour.
pub(super) fn shift_right_variable(a: u128, b: u128) -> u128 {
    let (a, b) = (u8::split(a), u8::split(b));
    build(|i| {
        let left = if i == 0 { 0 } else { a[i - 1] };
        (u16::from_be_bytes([left, a[i]]) >> (b[i] & 7)) as u8
    })
}

/// `size` bytes from byte `index` (0 to 15) on, as an integer. Bytes beyond the right end are zero (undefined in the ISA).
pub(in crate::vector) fn extract(register: u128, index: usize, size: usize) -> u128 {
    register << (8 * (index & 15)) >> (128 - 8 * size)
}

/// `into` with its `size` bytes from byte `index` on replaced by the low bytes of `value`. Bytes beyond the right end are dropped
/// (undefined in the ISA).
pub(in crate::vector) fn insert(into: u128, value: u128, index: usize, size: usize) -> u128 {
    let left = u128::MAX << (128 - 8 * size);
    let shift = 8 * (index & 15);
    into & !(left >> shift) | value << (128 - 8 * size) >> shift
}

/// vpkpx: 8:8:8:8 to 1:5:5:5.
pub(super) fn pack_pixel(pixel: u32) -> u16 {
    ((pixel >> 9 & 0x8000) | (pixel >> 9 & 0x7c00) | (pixel >> 6 & 0x03e0) | (pixel >> 3 & 0x001f)) as u16
}

/// vupkhpx, vupklpx: 1:5:5:5 to 8:8:8:8, the first field sign-extended.
pub(super) fn unpack_pixel(pixel: u16) -> u32 {
    let pixel = u32::from(pixel);
    (if pixel & 0x8000 != 0 { 0xff00_0000 } else { 0 }) | (pixel & 0x7c00) << 6 | (pixel & 0x03e0) << 3 | pixel & 0x001f
}

/// vgbbd: a doubleword as an 8 × 8 bit matrix, transposed: first in blocks of 2 × 2 bits, then 4 × 4, then 8 × 8.
pub(super) fn gather_bits(doubleword: u64) -> u64 {
    const STEPS: [(u32, u64); 3] = [(7, 0x00aa_00aa_00aa_00aa), (14, 0x0000_cccc_0000_cccc), (28, 0x0000_0000_f0f0_f0f0)];
    STEPS.iter().fold(doubleword, |x, &(distance, mask)| {
        let exchanged = (x ^ x >> distance) & mask;
        x ^ exchanged ^ exchanged << distance
    })
}

/// vbpermq: sixteen bits of `a`, named by the bytes of `b`, zero for 128 and more.
pub(super) fn bit_permute_quadword(a: u128, b: u128) -> u128 {
    let bits = u8::split(b).iter().fold(0, |bits, &index| bits << 1 | if index < 128 { a >> (127 - index) & 1 } else { 0 });
    bits << 64
}

/// vbpermd: in each doubleword, eight bits of `a`'s, named by the bytes of `b`'s, zero for 64 and more.
pub(super) fn bit_permute_doublewords(a: u128, b: u128) -> u128 {
    let (a, b) = (u64::split(a), u64::split(b));
    build(|i| b[i].to_be_bytes().iter().fold(0, |bits, &index| bits << 1 | if index < 64 { a[i] >> (63 - index) & 1 } else { 0 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: u128 = 0x0001_0203_0405_0607_0809_0a0b_0c0d_0e0f;

    #[test]
    fn permute_counts_from_the_left_and_permute_right_from_the_right() {
        assert!((0..=16).all(|n| permute(BYTES, !BYTES, BYTES + n * LOW_BIT_OF_BYTES) == from_byte(BYTES, !BYTES, n as u32)));
        assert_eq!(from_byte(BYTES, !BYTES, 3) & 0xffff_ffff, 0x0fff_fefd);
        let control = 0x000f_101f_2000_0000_0000_0000_0000_0000;
        assert_eq!(permute(BYTES, !BYTES, control) >> 88, 0x00_0fff_f000);
        assert_eq!(permute_right(BYTES, !BYTES, control) >> 96, 0xf0ff_0f00);
    }

    #[test]
    fn double_shift_takes_the_second_register_behind_the_first() {
        assert_eq!(double_shift_left(BYTES, !0, 4), 0x0405_0607_0809_0a0b_0c0d_0e0f_ffff_ffff);
        assert_eq!(double_shift_left(BYTES, !0, 0), BYTES);
    }

    #[test]
    fn variable_shifts_fill_from_the_neighbour() {
        let counts = 0x0401_0000_0000_0000_0000_0000_0000_0004;
        let value = 0x1234_5600_0000_0000_0000_0000_0000_00ab;
        assert_eq!(shift_left_variable(value, counts), 0x2368_5600_0000_0000_0000_0000_0000_00b0);
        assert_eq!(shift_right_variable(value, counts), 0x011a_5600_0000_0000_0000_0000_0000_000a);
    }

    #[test]
    fn extract_and_insert_count_bytes_from_the_left() {
        assert_eq!(extract(BYTES, 3, 4), 0x0304_0506);
        assert_eq!(insert(BYTES, 0x1234_aabb, 3, 2), 0x0001_02aa_bb05_0607_0809_0a0b_0c0d_0e0f);
        assert_eq!(insert(BYTES, 0xaabb, 15, 2), BYTES & !0xff | 0xaa);
    }

    #[test]
    fn pixels_keep_the_high_bits_of_each_colour() {
        assert_eq!(pack_pixel(0x01ff_8408), 0x8000 | 0x7c00 | 0x10 << 5 | 1);
        assert_eq!(unpack_pixel(0x8000 | 0x1f << 10 | 2 << 5 | 3), 0xff1f_0203);
    }

    #[test]
    fn gather_bits_transposes() {
        assert_eq!(gather_bits(0xff00_0000_0000_0000), 0x8080_8080_8080_8080);
        assert_eq!(gather_bits(0x0100_0000_0000_0000), 0x80);
        assert_eq!(gather_bits(0x8040_2010_0804_0201), 0x8040_2010_0804_0201);
        for row in 0..8 {
            for column in 0..8 {
                assert_eq!(gather_bits(1 << (8 * row + column)), 1 << (8 * column + row));
            }
        }
    }

    #[test]
    fn bit_permute_picks_by_number_and_zeroes_the_rest() {
        let a = 1 << 127 | 1;
        let b = 0x007f_8001_0000_0000_0000_0000_0000_0000;
        assert_eq!(bit_permute_quadword(a, b), 0b1100_1111_1111_1111 << 64);
        let a = 1 << 127 | 1;
        let b = 0x003f_4001_4040_4040_3f3f_4040_4040_4040;
        assert_eq!(bit_permute_doublewords(a, b), 0b1000_0000 << 64 | 0b1100_0000);
    }
}
