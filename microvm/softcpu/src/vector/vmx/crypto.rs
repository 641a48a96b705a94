//! AES, SHA-2 and carry-less products (ISA 3.0B I 6.11).

use crate::vector::lanes::{Lane, build, map};

/// The AES S-box, built from its definition: inverse in GF(2^8), then an affine map (FIPS 197, 5.1.1).
const SBOX: [u8; 256] = sbox();
const INVERSE_SBOX: [u8; 256] = inverse_sbox();

/// Multiplication in GF(2^8) modulo x^8 + x^4 + x^3 + x + 1.
const fn multiply(a: u8, b: u8) -> u8 {
    let (mut a, mut b, mut product) = (a, b, 0);
    while b != 0 {
        if b & 1 != 0 {
            product ^= a;
        }
        a = a << 1 ^ if a & 0x80 != 0 { 0x1b } else { 0 };
        b >>= 1;
    }
    product
}

const fn sbox() -> [u8; 256] {
    let mut table = [0; 256];
    let mut x = 0;
    while x < 256 {
        // x^254 is the inverse of x, and 0 for 0.
        let (mut inverse, mut power) = (1, 0);
        while power < 254 {
            inverse = multiply(inverse, x as u8);
            power += 1;
        }
        let s = inverse;
        table[x] = s ^ s.rotate_left(1) ^ s.rotate_left(2) ^ s.rotate_left(3) ^ s.rotate_left(4) ^ 0x63;
        x += 1;
    }
    table
}

const fn inverse_sbox() -> [u8; 256] {
    let mut table = [0; 256];
    let mut x = 0;
    while x < 256 {
        table[SBOX[x] as usize] = x as u8;
        x += 1;
    }
    table
}

/// Products by the constants of MixColumns and its inverse.
const fn products(factor: u8) -> [u8; 256] {
    let mut table = [0; 256];
    let mut x = 0;
    while x < 256 {
        table[x] = multiply(x as u8, factor);
        x += 1;
    }
    table
}

const BY_2: [u8; 256] = products(2);
const BY_3: [u8; 256] = products(3);
const BY_9: [u8; 256] = products(9);
const BY_11: [u8; 256] = products(11);
const BY_13: [u8; 256] = products(13);
const BY_14: [u8; 256] = products(14);

/// SubBytes: vsbox.
pub(super) fn substitute(state: u128) -> u128 {
    map::<u8>(state, |x| SBOX[usize::from(x)])
}

/// ShiftRows: byte `4 * column + row` comes from column + row.
fn shift_rows(state: u128) -> u128 {
    let bytes = u8::split(state);
    build(|i| bytes[(i + 4 * (i % 4)) % 16])
}

fn inverse_shift_rows(state: u128) -> u128 {
    let bytes = u8::split(state);
    build(|i| bytes[(i + 16 - 4 * (i % 4)) % 16])
}

/// Multiplies every column by a circulant matrix whose first row the four tables are.
fn mix_columns(state: u128, rows: [&[u8; 256]; 4]) -> u128 {
    let bytes = u8::split(state);
    build(|i| (0..4).fold(0, |sum, k| sum ^ rows[k][usize::from(bytes[i / 4 * 4 + (i + k) % 4])]))
}

/// vcipher: one round.
pub(super) fn cipher(state: u128, key: u128) -> u128 {
    const BY_1: [u8; 256] = products(1);
    mix_columns(shift_rows(substitute(state)), [&BY_2, &BY_3, &BY_1, &BY_1]) ^ key
}

/// vcipherlast: the last round.
pub(super) fn cipher_last(state: u128, key: u128) -> u128 {
    shift_rows(substitute(state)) ^ key
}

/// vncipherlast: the last round of the inverse cipher.
pub(super) fn inverse_cipher_last(state: u128, key: u128) -> u128 {
    map::<u8>(inverse_shift_rows(state), |x| INVERSE_SBOX[usize::from(x)]) ^ key
}

/// vncipher: one round of the inverse cipher.
pub(super) fn inverse_cipher(state: u128, key: u128) -> u128 {
    mix_columns(inverse_cipher_last(state, key), [&BY_14, &BY_11, &BY_13, &BY_9])
}

/// vshasigmaw: `six` selects the small (0) or large (1) index of each word's function, `st` the upper- or lower-case sigma.
pub(super) fn sha256_sigma(a: u128, st: bool, six: u32) -> u128 {
    let words = u32::split(a);
    build(|i| {
        let x = words[i];
        match (st, six >> (3 - i) & 1 != 0) {
            (false, false) => x.rotate_right(7) ^ x.rotate_right(18) ^ x >> 3,
            (false, true) => x.rotate_right(17) ^ x.rotate_right(19) ^ x >> 10,
            (true, false) => x.rotate_right(2) ^ x.rotate_right(13) ^ x.rotate_right(22),
            (true, true) => x.rotate_right(6) ^ x.rotate_right(11) ^ x.rotate_right(25),
        }
    })
}

/// vshasigmad: doubleword `i` is governed by bit `2 * i` of `six`.
pub(super) fn sha512_sigma(a: u128, st: bool, six: u32) -> u128 {
    let doublewords = u64::split(a);
    build(|i| {
        let x = doublewords[i];
        match (st, six >> (3 - 2 * i) & 1 != 0) {
            (false, false) => x.rotate_right(1) ^ x.rotate_right(8) ^ x >> 7,
            (false, true) => x.rotate_right(19) ^ x.rotate_right(61) ^ x >> 6,
            (true, false) => x.rotate_right(28) ^ x.rotate_right(34) ^ x.rotate_right(39),
            (true, true) => x.rotate_right(14) ^ x.rotate_right(18) ^ x.rotate_right(41),
        }
    })
}

/// The product of two polynomials over GF(2).
fn carry_less_product(a: u64, b: u64) -> u128 {
    let (mut product, mut b, a) = (0, b, u128::from(a));
    while b != 0 {
        product ^= a << b.trailing_zeros();
        b &= b - 1;
    }
    product
}

/// vpmsumb: in each halfword, the exclusive-or of the products of its two bytes.
pub(super) fn polynomial_sum_bytes(a: u128, b: u128) -> u128 {
    let (a, b) = (u8::split(a), u8::split(b));
    build(|i| (2 * i..2 * i + 2).fold(0, |sum, k| sum ^ carry_less_product(a[k].into(), b[k].into()) as u16))
}

/// vpmsumh.
pub(super) fn polynomial_sum_halfwords(a: u128, b: u128) -> u128 {
    let (a, b) = (u16::split(a), u16::split(b));
    build(|i| (2 * i..2 * i + 2).fold(0, |sum, k| sum ^ carry_less_product(a[k].into(), b[k].into()) as u32))
}

/// vpmsumw.
pub(super) fn polynomial_sum_words(a: u128, b: u128) -> u128 {
    let (a, b) = (u32::split(a), u32::split(b));
    build(|i| (2 * i..2 * i + 2).fold(0, |sum, k| sum ^ carry_less_product(a[k].into(), b[k].into()) as u64))
}

/// vpmsumd.
pub(super) fn polynomial_sum_doublewords(a: u128, b: u128) -> u128 {
    let (a, b) = (u64::split(a), u64::split(b));
    carry_less_product(a[0], b[0]) ^ carry_less_product(a[1], b[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aes128_known_answer() {
        // FIPS 197, appendix B: start of round 1 and its key, start of round 2.
        let state = 0x193d_e3be_a0f4_e22b_9ac6_8d2a_e9f8_4808;
        let key = 0xa0fa_fe17_8854_2cb1_23a3_3939_2a6c_7605;
        let next = 0xa49c_7ff2_689f_352b_6b5b_ea43_026a_5049;
        assert_eq!(cipher(state, key), next);
        // The last round and its inverse undo each other up to the key.
        assert_eq!(inverse_cipher_last(cipher_last(state, 0), 0), state);
        // Undoing a full round: take the key away, unmix (by vncipher with the inner steps undone), compare.
        let unmixed = inverse_cipher(cipher_last(next ^ key, 0), 0);
        assert_eq!(unmixed, cipher_last(state, 0));
    }

    #[test]
    fn sigma_functions() {
        assert_eq!(sha256_sigma(1, false, 0), (1u32.rotate_right(7) ^ 1u32.rotate_right(18)).into());
        assert_eq!(sha256_sigma(1 << 96, true, 0b1000) >> 96, (1u32 << 26 | 1 << 21 | 1 << 7).into());
        assert_eq!(sha512_sigma(1 << 64, true, 0b1000) >> 64, (1u64 << 50 | 1 << 46 | 1 << 23).into());
        assert_eq!(sha512_sigma(1, true, 0b0010), (1u64 << 50 | 1 << 46 | 1 << 23).into());
    }

    #[test]
    fn carry_less_products() {
        assert_eq!(carry_less_product(0b11, 0b11), 0b101);
        assert_eq!(carry_less_product(u64::MAX, 2), u128::from(u64::MAX) << 1);
        assert_eq!(polynomial_sum_bytes(0xff80, 0x0102), 0xff ^ 0x100);
    }
}
