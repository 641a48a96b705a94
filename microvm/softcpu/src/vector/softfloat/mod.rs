//! Exact binary floating point for half, single, double and quad precision (ISA 3.0B I 4.3, 7.4; IEEE 754).
//!
//! Every operation goes the same way: [`unpack`] the operands, compute with a significand so wide that nothing is lost but a
//! sticky bit, [`round`](round::round) once, [`pack`]. Exceptions are returned as FPSCR bits; which of them suppress the result is for
//! [`fpscr`](super::fpscr) to say.

pub(super) mod arithmetic;
pub(super) mod convert;
pub(super) mod fast;
pub(super) mod round;
mod wide;

/// An interchange format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Format {
    exponent_bits: u32,
    fraction_bits: u32,
}

/// binary16.
pub(super) const HALF: Format = Format { exponent_bits: 5, fraction_bits: 10 };
/// binary32.
pub(super) const SINGLE: Format = Format { exponent_bits: 8, fraction_bits: 23 };
/// binary64.
pub(super) const DOUBLE: Format = Format { exponent_bits: 11, fraction_bits: 52 };
/// binary128.
pub(super) const QUAD: Format = Format { exponent_bits: 15, fraction_bits: 112 };
/// Double-extended: quad's exponents, a significand of 64 bits. A rounding precision only; it is kept in quad format.
pub(super) const EXTENDED: Format = Format { exponent_bits: 15, fraction_bits: 63 };

impl Format {
    /// Width of the exponent field.
    pub const fn exponent_bits(self) -> u32 {
        self.exponent_bits
    }

    /// Width of the fraction field.
    pub const fn fraction_bits(self) -> u32 {
        self.fraction_bits
    }

    /// The largest exponent of a finite number; also the bias.
    pub const fn max_exponent(self) -> i32 {
        (1 << (self.exponent_bits - 1)) - 1
    }

    /// The smallest exponent of a normalized number.
    pub const fn min_exponent(self) -> i32 {
        1 - self.max_exponent()
    }

    /// What is added to or subtracted from the exponent when an enabled underflow or overflow exception delivers its result
    /// (ISA 3.0B I 4.4.3, 4.4.4): 192 for single, 1536 for double, 24576 for quad precision.
    const fn adjustment(self) -> i32 {
        3 << (self.exponent_bits - 2)
    }

    const fn fraction_mask(self) -> u128 {
        (1 << self.fraction_bits) - 1
    }

    const fn exponent_mask(self) -> u128 {
        (1 << self.exponent_bits) - 1
    }

    const fn sign_bit(self) -> u128 {
        1 << (self.exponent_bits + self.fraction_bits)
    }

    /// How far the fraction is from the top of a significand (bit 126 downwards).
    const fn fraction_shift(self) -> u32 {
        127 - self.fraction_bits
    }
}

/// What kind of datum a [`Number`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Zero,
    Finite,
    Infinity,
    QuietNan,
    SignalingNan,
}

/// An unpacked datum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Number {
    pub kind: Kind,
    pub negative: bool,
    /// Of the leading bit, unbiased. Finite numbers only.
    pub exponent: i32,
    /// Finite: bit 127 is set and worth 2^exponent; before rounding bit 0 is sticky. NaN: the fraction from bit 126 downwards.
    pub significand: u128,
}

/// The leading bit of a significand.
const TOP: u128 = 1 << 127;
/// The bit that tells a quiet NaN.
const QUIET: u128 = 1 << 126;

impl Number {
    pub const fn zero(negative: bool) -> Self {
        Self { kind: Kind::Zero, negative, exponent: 0, significand: 0 }
    }

    pub const fn infinity(negative: bool) -> Self {
        Self { kind: Kind::Infinity, negative, exponent: 0, significand: 0 }
    }

    /// The NaN that invalid operations deliver.
    pub const DEFAULT_NAN: Self = Self { kind: Kind::QuietNan, negative: false, exponent: 0, significand: QUIET };

    /// ±1.
    pub const ONE: Self = Self { kind: Kind::Finite, negative: false, exponent: 0, significand: TOP };

    pub const fn is_nan(self) -> bool {
        matches!(self.kind, Kind::QuietNan | Kind::SignalingNan)
    }

    pub const fn is_signaling(self) -> bool {
        matches!(self.kind, Kind::SignalingNan)
    }

    pub const fn is_zero(self) -> bool {
        matches!(self.kind, Kind::Zero)
    }

    pub const fn is_infinity(self) -> bool {
        matches!(self.kind, Kind::Infinity)
    }

    /// A NaN made quiet; anything else as it is.
    pub const fn quieted(self) -> Self {
        match self.kind {
            Kind::SignalingNan => Self { kind: Kind::QuietNan, significand: self.significand | QUIET, ..self },
            _ => self,
        }
    }

    /// The opposite number; NaNs keep their sign (ISA 3.0B I 4.6.6.2).
    pub const fn negated(self) -> Self {
        if self.is_nan() { self } else { Self { negative: !self.negative, ..self } }
    }

    /// A NaN with only as much of its payload as fits into `format`; anything else as it is.
    pub const fn truncated_payload(self, format: Format) -> Self {
        if self.is_nan() {
            Self { significand: self.significand >> format.fraction_shift() << format.fraction_shift(), ..self }
        } else {
            self
        }
    }
}

/// Reads the low bits of `bits` as a datum of this format.
#[inline]
pub(super) fn unpack(bits: u128, format: Format) -> Number {
    let negative = bits & format.sign_bit() != 0;
    let field = (bits >> format.fraction_bits & format.exponent_mask()) as i32;
    let fraction = (bits & format.fraction_mask()) << format.fraction_shift();
    if field == format.exponent_mask() as i32 {
        let kind = match fraction {
            0 => Kind::Infinity,
            _ if fraction & QUIET != 0 => Kind::QuietNan,
            _ => Kind::SignalingNan,
        };
        return Number { kind, negative, exponent: 0, significand: fraction };
    }
    if field != 0 {
        let exponent = field - format.max_exponent();
        return Number { kind: Kind::Finite, negative, exponent, significand: TOP | fraction };
    }
    if fraction == 0 {
        return Number::zero(negative);
    }
    // Bit 127 would be worth 2^min_exponent.
    let zeros = fraction.leading_zeros();
    Number { kind: Kind::Finite, negative, exponent: format.min_exponent() - zeros as i32, significand: fraction << zeros }
}

/// Writes a number that this format can represent (it has been rounded to it or to a smaller one). A signaling NaN stays one as
/// long as its payload fits. An exponent above the format's becomes infinity, bits below its precision are dropped.
#[inline]
pub(super) fn pack(number: Number, format: Format) -> u128 {
    let sign = if number.negative { format.sign_bit() } else { 0 };
    let all_ones = format.exponent_mask() << format.fraction_bits;
    let magnitude = match number.kind {
        Kind::Zero => 0,
        Kind::Infinity => all_ones,
        Kind::QuietNan | Kind::SignalingNan => all_ones | number.significand >> format.fraction_shift() & format.fraction_mask(),
        Kind::Finite if number.exponent > format.max_exponent() => all_ones,
        Kind::Finite if number.exponent >= format.min_exponent() => {
            let field = (number.exponent + format.max_exponent()) as u128;
            field << format.fraction_bits | number.significand >> format.fraction_shift() & format.fraction_mask()
        }
        Kind::Finite => {
            let below = (format.min_exponent() - number.exponent) as u32;
            number.significand.checked_shr(format.fraction_shift() + below).unwrap_or(0)
        }
    };
    sign | magnitude
}

/// FPRF for a result of this format (ISA 3.0B I 4.2.2): class and sign in bits 47 to 51.
#[inline]
pub(super) fn class_flags(number: Number, format: Format) -> u64 {
    let (positive, negative) = match number.kind {
        Kind::Finite if number.exponent < format.min_exponent() => (0b10100, 0b11000),
        Kind::Finite => (0b00100, 0b01000),
        Kind::Zero => (0b00010, 0b10010),
        Kind::Infinity => (0b00101, 0b01001),
        Kind::QuietNan | Kind::SignalingNan => (0b10001, 0b10001),
    };
    (if number.negative { negative } else { positive }) << 12
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pack_undoes_unpack() {
        let samples: &[(Format, &[u128])] = &[
            (HALF, &[0, 0x8000, 1, 0x3ff, 0x400, 0x3c00, 0x7bff, 0x7c00, 0xfc00, 0x7e01, 0x7c01, 0x8001]),
            (SINGLE, &[0, 1, 0x7f_ffff, 0x80_0000, 0x3f80_0000, 0x7f7f_ffff, 0xff80_0000, 0x7fc0_0001, 0x7f80_0001]),
            (DOUBLE, &[1, 0xf_ffff_ffff_ffff, 0x10_0000_0000_0000, 0x3ff0_0000_0000_0000, 0xfff0_0000_0000_0001]),
            (QUAD, &[1, 1 << 111, 1 << 112, 0x3fff << 112, 0x7fff << 112, 0x7fff << 112 | 1, u128::MAX]),
        ];
        for &(format, values) in samples {
            for &bits in values {
                assert_eq!(pack(unpack(bits, format), format), bits, "{format:?} {bits:#x}");
            }
        }
    }

    #[test]
    fn exponents_of_denormals() {
        assert_eq!(unpack(1, DOUBLE).exponent, -1074);
        assert_eq!(unpack(1, SINGLE).exponent, -149);
        assert_eq!(unpack(0x40_0000, SINGLE).exponent, -127);
        assert_eq!(unpack(0x3f80_0000, SINGLE), Number::ONE);
    }

    #[test]
    fn classes() {
        for (bits, class) in [
            (0x8000_0000, 0b10010),
            (0x0000_0001, 0b10100),
            (0x807f_ffff, 0b11000),
            (0xff80_0000, 0b01001),
            (0xffc0_0000, 0b10001),
            (0xbf80_0000, 0b01000),
        ] {
            assert_eq!(class_flags(unpack(bits, SINGLE), SINGLE) >> 12, class, "{bits:#x}");
        }
    }
}
