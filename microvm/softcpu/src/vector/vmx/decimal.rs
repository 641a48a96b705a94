//! Packed, national and zoned decimal (ISA 3.0B I 6.17).
//!
//! A signed packed decimal is 31 digits and a sign code in the last four bits. The instructions leave their verdict in CR6:
//! less, greater or equal zero, and overflow; a field that is overflow alone says that an operand was not a number.

use crate::state::State;
use crate::table::{Insn, VmxOp};

/// 10^31: one more than the largest magnitude.
const LIMIT: u128 = 10u128.pow(31);
/// Digits of a signed packed decimal.
const DIGITS: u32 = 31;

/// A signed packed decimal: `digits` holds one digit in four bits, without the sign code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Packed {
    negative: bool,
    digits: u128,
}

impl Packed {
    /// `None` if a digit or the sign code is invalid.
    fn new(register: u128) -> Option<Self> {
        let negative = match register & 15 {
            0xa | 0xc | 0xe | 0xf => false,
            0xb | 0xd => true,
            _ => return None,
        };
        let digits = register >> 4;
        are_digits(digits).then_some(Self { negative, digits })
    }

    /// The register with the preferred sign code: C or, with `PS`, F for plus; D for minus.
    fn register(self, preferred_f: bool) -> u128 {
        let sign = if self.negative {
            0xd
        } else if preferred_f {
            0xf
        } else {
            0xc
        };
        self.digits << 4 | sign
    }

    fn value(self) -> i128 {
        let magnitude = from_digits(self.digits) as i128;
        if self.negative { -magnitude } else { magnitude }
    }

    /// Less, greater or equal, as in a CR field.
    fn verdict(self) -> u32 {
        if self.digits == 0 {
            EQUAL
        } else if self.negative {
            LESS
        } else {
            GREATER
        }
    }
}

const LESS: u32 = 8;
const GREATER: u32 = 4;
const EQUAL: u32 = 2;
const OVERFLOW: u32 = 1;

/// A result and its CR6.
struct Outcome {
    register: u128,
    cr: u32,
}

/// True if every four bits are a digit.
fn are_digits(digits: u128) -> bool {
    // A digit of 10 or more has bit 3 and one of bits 2 and 1.
    const EIGHTS: u128 = 0x8888_8888_8888_8888_8888_8888_8888_8888;
    digits & EIGHTS & (digits << 1 | digits << 2) == 0
}

/// The number that up to 32 digits stand for.
fn from_digits(digits: u128) -> u128 {
    let half = |mut digits: u64| {
        let mut value = 0u64;
        for _ in 0..16 {
            value = value * 10 + (digits >> 60);
            digits <<= 4;
        }
        value
    };
    u128::from(half((digits >> 64) as u64)) * 10u128.pow(16) + u128::from(half(digits as u64))
}

/// The last 32 digits of a number.
fn to_digits(value: u128) -> u128 {
    let half = |mut value: u64| {
        let mut digits = 0u64;
        for place in 0..16 {
            digits |= (value % 10) << (4 * place);
            value /= 10;
        }
        u128::from(digits)
    };
    let base = 10u128.pow(16);
    half((value / base % base) as u64) << 64 | half((value % base) as u64)
}

/// The last 31 digits of a sum, with overflow noted; zero is positive.
fn from_value(value: i128, preferred_f: bool) -> Outcome {
    let magnitude = value.unsigned_abs();
    let packed = Packed { negative: value < 0, digits: to_digits(magnitude % LIMIT) };
    let cr = match value {
        0 => EQUAL,
        _ if value < 0 => LESS,
        _ => GREATER,
    };
    Outcome { register: packed.register(preferred_f), cr: cr | if magnitude >= LIMIT { OVERFLOW } else { 0 } }
}

/// Executes one instruction and returns the target's new value; CR6 is set.
pub(super) fn execute(op: VmxOp, insn: Insn, state: &mut State) -> u128 {
    let (a, b) = (state.vr(insn.ra()), state.vr(insn.rb()));
    let ps = insn.bits(22, 22) != 0;
    let outcome = match op {
        VmxOp::Bcdadd => both(a, b, |a, b| from_value(a.value() + b.value(), ps)),
        VmxOp::Bcdsub => both(a, b, |a, b| from_value(a.value() - b.value(), ps)),
        VmxOp::Bcdcfn => from_national(b, ps),
        VmxOp::Bcdctn => Packed::new(b).map(to_national),
        VmxOp::Bcdcfz => from_zoned(b, ps),
        VmxOp::Bcdctz => Packed::new(b).map(|b| to_zoned(b, ps)),
        VmxOp::Bcdcfsq => Some(from_value(b as i128, ps)),
        VmxOp::Bcdctsq => Packed::new(b).map(|b| Outcome { register: b.value() as u128, cr: b.verdict() }),
        VmxOp::Bcdsetsgn => Packed::new(b).map(|b| Outcome { register: b.register(ps), cr: b.verdict() }),
        VmxOp::Bcdcpsgn => both(a, b, |digits, sign| {
            let result = Packed { negative: sign.negative, ..digits };
            Outcome { register: result.digits << 4 | b & 15, cr: result.verdict() }
        }),
        VmxOp::Bcds => Packed::new(b).map(|b| shift(b, count(a), false, ps)),
        VmxOp::Bcdsr => Packed::new(b).map(|b| shift(b, count(a), true, ps)),
        VmxOp::Bcdus => are_digits(b).then(|| unsigned(shift_digits(b, count(a), DIGITS + 1))),
        VmxOp::Bcdtrunc => Packed::new(b).map(|b| {
            let (digits, lost) = keep(b.digits, length(a), DIGITS);
            let result = Packed { digits, ..b };
            Outcome { register: result.register(ps), cr: result.verdict() | lost }
        }),
        VmxOp::Bcdutrunc => are_digits(b).then(|| unsigned(keep(b, length(a), DIGITS + 1))),
        // The caller passes the instructions above only.
        _ => None,
    };
    // The result for an invalid operand is undefined.
    let Outcome { register, cr } = outcome.unwrap_or(Outcome { register: u128::MAX, cr: OVERFLOW });
    state.set_cr_field(6, cr);
    register
}

fn both(a: u128, b: u128, f: impl FnOnce(Packed, Packed) -> Outcome) -> Option<Outcome> {
    Some(f(Packed::new(a)?, Packed::new(b)?))
}

/// Shift count of bcds. and the like: byte element 7, signed.
fn count(a: u128) -> i32 {
    i32::from((a >> 64) as i8)
}

/// Number of digits to keep: halfword element 3.
fn length(a: u128) -> u32 {
    u32::from((a >> 64) as u16)
}

/// Digits moved by `count` places to the left (negative: right) inside `places`, and whether a digit other than zero left on the left.
fn shift_digits(digits: u128, count: i32, places: u32) -> (u128, u32) {
    let all = u128::MAX >> (128 - 4 * places);
    let distance = count.unsigned_abs();
    if count < 0 {
        return (if distance >= places { 0 } else { digits >> (4 * distance) }, 0);
    }
    if distance >= places {
        return (0, u32::from(digits != 0));
    }
    let lost = distance > 0 && digits >> (4 * (places - distance)) != 0;
    (digits << (4 * distance) & all, u32::from(lost))
}

/// bcds., bcdsr.
fn shift(b: Packed, count: i32, round: bool, ps: bool) -> Outcome {
    let (mut digits, lost) = shift_digits(b.digits, count, DIGITS);
    let mut overflow = lost;
    if round && count < 0 {
        let (last_out, _) = shift_digits(b.digits, count + 1, DIGITS);
        if last_out & 15 >= 5 {
            let rounded = from_digits(digits) + 1;
            overflow |= u32::from(rounded >= LIMIT);
            digits = to_digits(rounded % LIMIT);
        }
    }
    let result = Packed { digits, ..b };
    Outcome { register: result.register(ps), cr: result.verdict() | overflow }
}

/// The last `length` of `places` digits, and whether one of the others was not zero.
fn keep(digits: u128, length: u32, places: u32) -> (u128, u32) {
    if length >= places {
        return (digits, 0);
    }
    let mask = (1u128 << (4 * length)) - 1;
    (digits & mask, u32::from(digits & !mask != 0))
}

fn unsigned((digits, lost): (u128, u32)) -> Outcome {
    Outcome { register: digits, cr: if digits == 0 { EQUAL } else { GREATER } | lost }
}

/// bcdcfn.: seven halfwords "0" to "9" and a halfword "+" or "-".
fn from_national(b: u128, ps: bool) -> Option<Outcome> {
    let negative = match b as u16 {
        0x002b => false,
        0x002d => true,
        _ => return None,
    };
    let mut digits = 0;
    for place in (1..8).rev() {
        let code = (b >> (16 * place)) as u16;
        if !(0x30..=0x39).contains(&code) {
            return None;
        }
        digits = digits << 4 | u128::from(code & 15);
    }
    let result = Packed { negative, digits };
    Some(Outcome { register: result.register(ps), cr: result.verdict() })
}

/// bcdctn.
fn to_national(b: Packed) -> Outcome {
    let sign = if b.negative { 0x2d } else { 0x2b };
    let register = (0..7).fold(sign, |register, place| register | (0x30 | b.digits >> (4 * place) & 15) << (16 * (place + 1)));
    Outcome { register, cr: b.verdict() | u32::from(b.digits >> 28 != 0) }
}

/// bcdcfz.: sixteen bytes of zone and digit; the last one's zone is the sign.
fn from_zoned(b: u128, ps: bool) -> Option<Outcome> {
    let zone = if ps { 0xf } else { 0x3 };
    let sign = (b >> 4 & 15) as u32;
    let negative = match (ps, sign) {
        (false, _) => sign & 4 != 0,
        (true, 0xb | 0xd) => true,
        (true, 0xa..) => false,
        (true, _) => return None,
    };
    let mut digits = 0;
    for place in (0..16).rev() {
        let byte = b >> (8 * place) & 0xff;
        if byte & 15 > 9 || (place > 0 && byte >> 4 != zone) {
            return None;
        }
        digits = digits << 4 | byte & 15;
    }
    let result = Packed { negative, digits };
    Some(Outcome { register: result.register(false), cr: result.verdict() })
}

/// bcdctz.
fn to_zoned(b: Packed, ps: bool) -> Outcome {
    let (zone, sign) = match (ps, b.negative) {
        (false, false) => (0x3, 0x3),
        (false, true) => (0x3, 0x7),
        (true, false) => (0xf, 0xc),
        (true, true) => (0xf, 0xd),
    };
    let register = (0..16).fold(0, |register, place| {
        let high = if place == 0 { sign } else { zone };
        register | (high << 4 | b.digits >> (4 * place) & 15) << (8 * place)
    });
    Outcome { register, cr: b.verdict() | u32::from(b.digits >> 64 != 0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(a: u128, b: u128) -> (u128, u32) {
        let outcome = both(a, b, |a, b| from_value(a.value() + b.value(), false));
        outcome.map_or((0, OVERFLOW), |o| (o.register, o.cr))
    }

    #[test]
    fn addition_keeps_31_digits() {
        assert_eq!(sum(0x12c, 0x34f), (0x46c, GREATER));
        assert_eq!(sum(0x12d, 0x12c), (0x0c, EQUAL));
        assert_eq!(sum(0x12d, 0x1c), (0x11d, LESS));
        let largest = 0x9999_9999_9999_9999_9999_9999_9999_999c;
        assert_eq!(sum(largest, 0x1c), (0x0c, GREATER | OVERFLOW));
        assert_eq!(sum(0x12c, 0x1a0), (0, OVERFLOW));
        assert_eq!(sum(0xb2c, 0x1c), (0, OVERFLOW));
    }

    #[test]
    fn shifts_lose_or_round() {
        let b = Packed { negative: true, digits: 0x1256 };
        assert_eq!(shift(b, -2, false, false).register, 0x12d);
        assert_eq!(shift(b, -2, true, false).register, 0x13d);
        let o = shift(b, 28, false, false);
        assert_eq!((o.register >> 116, o.cr), (0x256, LESS | OVERFLOW));
        assert_eq!(shift(b, -31, true, false).cr, EQUAL);
    }

    #[test]
    fn national_and_zoned_are_read_back() {
        let o = to_national(Packed { negative: true, digits: 0x1234567 });
        assert_eq!(o.register, 0x0031_0032_0033_0034_0035_0036_0037_002d);
        assert_eq!(from_national(o.register, true).map(|o| (o.register, o.cr)), Some((0x1234567d, LESS)));
        let o = to_zoned(Packed { negative: true, digits: 0x42 }, false);
        assert_eq!(o.register, 0x3030_3030_3030_3030_3030_3030_3030_3472);
        assert_eq!(from_zoned(o.register, false).map(|o| o.register), Some(0x42d));
        assert!(from_zoned(o.register, true).is_none());
    }

    #[test]
    fn digits_and_numbers() {
        assert_eq!(to_digits(12345678901234567890123), 0x12345678901234567890123);
        assert_eq!(from_digits(0x12345678901234567890123), 12345678901234567890123);
        assert!(!are_digits(0xa) && !are_digits(0xc << 124) && are_digits(0x9 << 124 | 0x89));
    }
}
