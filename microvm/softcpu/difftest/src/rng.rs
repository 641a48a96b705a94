//! A small deterministic random number generator, and numbers worth computing with.

/// xorshift64*: the whole sequence follows from the seed.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// A generator for a seed; each seed gives another sequence.
    pub fn new(seed: u64) -> Self {
        let mut rng = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        rng.bits();
        rng
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// 128 random bits.
    pub fn wide(&mut self) -> u128 {
        u128::from(self.bits()) << 64 | u128::from(self.bits())
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        (self.bits() >> 11) % n
    }

    /// True once in `n`.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of several.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// What a vector-scalar register is filled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// Integer lanes.
    Integer,
    /// Half precision.
    Half,
    /// Single precision.
    Single,
    /// Double precision.
    Double,
    /// Double precision values that are also single precision.
    Narrow,
    /// Quad precision.
    Quad,
    /// Decimal digits with a sign.
    Decimal,
    /// Numbers in decimal characters.
    Zoned,
}

impl Rng {
    /// A fixed-point operand: edges of the widths, bit patterns, small and random numbers.
    pub fn integer(&mut self) -> u64 {
        const EDGES: [u64; 16] = [
            0,
            1,
            u64::MAX,
            i64::MIN as u64,
            i64::MAX as u64,
            0x7fff_ffff,
            0x8000_0000,
            0xffff_ffff,
            0xffff_ffff_8000_0000,
            0x1_0000_0000,
            0x7fff,
            0x8000,
            0xffff_ffff_ffff_8000,
            0x80,
            0x8000_0000_8000_0000,
            0x7fff_ffff_7fff_ffff,
        ];
        match self.below(8) {
            0 | 1 => self.pick(&EDGES),
            2 => self.bits() >> self.below(64),
            3 => (self.bits() as i64 >> self.below(64)) as u64,
            4 => 1 << self.below(64),
            5 => self.below(128).wrapping_sub(64),
            _ => self.bits(),
        }
    }

    /// A floating-point number with `exponent` bits of exponent and `fraction` bits of fraction: zeros, infinities, NaNs of both
    /// kinds, denormals, numbers at the ends of the range, numbers near one, and anything.
    pub fn float(&mut self, exponent: u32, fraction: u32) -> u128 {
        let sign = u128::from(self.below(2)) << (exponent + fraction);
        let top = (1u128 << exponent) - 1;
        let bias = top >> 1;
        let random = self.wide() & ((1 << fraction) - 1);
        let sparse = match self.below(6) {
            0 => 0,
            1 => 1,
            2 => (1 << fraction) - 1,
            3 => 1 << self.below(u64::from(fraction)),
            4 => random >> self.below(u64::from(fraction)),
            _ => random,
        };
        let number = |e: u128, f: u128| e << fraction | f;
        sign | match self.below(16) {
            0 => 0,
            1 => number(top, 0),
            2 => number(top, 1 << (fraction - 1) | sparse),
            3 => number(top, sparse & !(1 << (fraction - 1)) | 1),
            4 => number(0, sparse),
            5 => number(self.pick(&[1, 2, top - 1, top - 2]), sparse),
            6 => number(bias, 0),
            7..=12 => {
                let near = u128::from(self.below(2 * u64::from(fraction) + 8));
                number((bias + near).saturating_sub(u128::from(fraction) + 4).min(top - 1), sparse)
            }
            _ => number(u128::from(self.bits()) & top, random),
        }
    }

    fn decimal(&mut self) -> u128 {
        let digits = self.below(32) as u32;
        let mut value = 0u128;
        for _ in 0..digits {
            value = value << 4 | u128::from(if self.one_in(3) { self.pick(&[0, 9]) } else { self.below(10) });
        }
        let sign = if self.one_in(12) { self.below(16) } else { self.pick(&[0xc, 0xd, 0xf, 0xa, 0xb]) };
        let broken = if self.one_in(16) { 0xe << (4 * self.below(32)) } else { 0 };
        value << 4 | u128::from(sign) | broken
    }

    fn zoned(&mut self) -> u128 {
        let zone = self.pick(&[0x30, 0xf0]);
        let mut value = 0u128;
        for _ in 0..16 {
            value = value << 8 | u128::from(zone | self.below(10));
        }
        let sign = self.pick(&[0u64, 0x40, 0x10, 0x80, 0x90, 0xc0]);
        value ^ u128::from(sign) ^ if self.one_in(8) { 1 << self.below(128) } else { 0 }
    }

    fn lanes(&mut self, width: u32, mut lane: impl FnMut(&mut Self) -> u128) -> u128 {
        (0..128 / width).fold(0, |value, _| value << width | lane(self))
    }

    /// The contents of a vector-scalar register.
    pub fn vector(&mut self, flavour: Flavour) -> u128 {
        match flavour {
            Flavour::Half => self.lanes(16, |rng| rng.float(5, 10)),
            Flavour::Single => self.lanes(32, |rng| rng.float(8, 23)),
            Flavour::Double => self.lanes(64, |rng| rng.float(11, 52)),
            Flavour::Narrow => self.lanes(64, |rng| u128::from(f64::from(f32::from_bits(rng.float(8, 23) as u32)).to_bits())),
            Flavour::Quad => self.float(15, 112),
            Flavour::Decimal => self.decimal(),
            Flavour::Zoned => self.zoned(),
            Flavour::Integer => match self.below(8) {
                0 => self.lanes(64, |rng| u128::from(rng.integer())),
                1 => self.lanes(32, |rng| u128::from(rng.integer() as u32)),
                2 => self.lanes(16, |rng| u128::from(rng.integer() as u16)),
                3 => self.lanes(8, |rng| u128::from(rng.integer() as u8)),
                4 => self.wide() >> self.below(128),
                5 => 1 << self.below(128),
                6 => self.pick(&[0, u128::MAX, 1 << 127, u128::MAX >> 1, 1]),
                _ => self.wide(),
            },
        }
    }
}
