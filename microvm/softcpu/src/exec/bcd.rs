//! Binary coded decimal assists (ISA 3.0B I 3.3.16): densely packed decimal to and from BCD, and the sixes to add.

/// Three BCD digits from a ten-bit declet (ISA 3.0B I 5.5.1, table "DPD to BCD").
fn declet_to_bcd(declet: u64) -> u64 {
    let bit = |i: u32| declet >> (9 - i) & 1;
    let (p, q, r, s, t, u, v, w, x, y) = (bit(0), bit(1), bit(2), bit(3), bit(4), bit(5), bit(6), bit(7), bit(8), bit(9));
    let small = |a, b, c| a << 2 | b << 1 | c;
    let (hundreds, tens, ones) = match (v, w << 1 | x, s << 1 | t) {
        (0, ..) => (small(p, q, r), small(s, t, u), small(w, x, y)),
        (_, 0, _) => (small(p, q, r), small(s, t, u), 8 | y),
        (_, 1, _) => (small(p, q, r), 8 | u, small(s, t, y)),
        (_, 2, _) => (8 | r, small(s, t, u), small(p, q, y)),
        (_, _, 0) => (8 | r, 8 | u, small(p, q, y)),
        (_, _, 1) => (8 | r, small(p, q, u), 8 | y),
        (_, _, 2) => (small(p, q, r), 8 | u, 8 | y),
        _ => (8 | r, 8 | u, 8 | y),
    };
    hundreds << 8 | tens << 4 | ones
}

/// A ten-bit declet from three BCD digits (ISA 3.0B I 5.5.1, table "BCD to DPD").
fn bcd_to_declet(digits: u64) -> u64 {
    let bit = |i: u32| digits >> (11 - i) & 1;
    let (a, b, c, d, e, f, g, h, i, j, k, m) =
        (bit(0), bit(1), bit(2), bit(3), bit(4), bit(5), bit(6), bit(7), bit(8), bit(9), bit(10), bit(11));
    let bits = match (a, e, i) {
        (0, 0, 0) => [b, c, d, f, g, h, 0, j, k, m],
        (0, 0, _) => [b, c, d, f, g, h, 1, 0, 0, m],
        (0, _, 0) => [b, c, d, j, k, h, 1, 0, 1, m],
        (0, _, _) => [b, c, d, 1, 0, h, 1, 1, 1, m],
        (_, 0, 0) => [j, k, d, f, g, h, 1, 1, 0, m],
        (_, 0, _) => [f, g, d, 0, 1, h, 1, 1, 1, m],
        (_, _, 0) => [j, k, d, 0, 0, h, 1, 1, 1, m],
        _ => [0, 0, d, 1, 1, h, 1, 1, 1, m],
    };
    bits.into_iter().fold(0, |declet, bit| declet << 1 | bit)
}

/// cdtbcd: two declets in each word become six digits.
pub(super) fn declets_to_bcd(value: u64) -> u64 {
    let word = |w: u64| (declet_to_bcd(w >> 10 & 0x3ff) << 12) | declet_to_bcd(w & 0x3ff);
    word(value >> 32) << 32 | word(value & 0xffff_ffff)
}

/// cbcdtd: six digits in each word become two declets.
pub(super) fn bcd_to_declets(value: u64) -> u64 {
    let word = |w: u64| bcd_to_declet(w >> 12 & 0xfff) << 10 | bcd_to_declet(w & 0xfff);
    word(value >> 32) << 32 | word(value & 0xffff_ffff)
}

/// addg6s: a six in every digit out of which the sum does not carry.
pub(super) fn sixes(a: u64, b: u64) -> u64 {
    (0..16).fold(0, |sixes, digit| {
        let below = if digit == 15 { u64::MAX } else { (1u64 << (4 * (digit + 1))) - 1 };
        let carries = u128::from(a & below) + u128::from(b & below) > u128::from(below);
        if carries { sixes } else { sixes | 6 << (4 * digit) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_three_digits_survive_the_round_trip() {
        for n in 0..1000u64 {
            let digits = ((n / 100) << 8) | ((n / 10 % 10) << 4) | (n % 10);
            assert_eq!(declet_to_bcd(bcd_to_declet(digits)), digits);
        }
        assert_eq!(bcd_to_declet(0x999), 0x0ff);
        assert_eq!(bcd_to_declet(0x079), 0x079);
        assert_eq!(bcd_to_declet(0x080), 0x00a);
    }

    #[test]
    fn sixes_where_nothing_carries() {
        assert_eq!(sixes(0, 0), 0x6666_6666_6666_6666);
        assert_eq!(sixes(0xf, 1), 0x6666_6666_6666_6660);
    }
}
