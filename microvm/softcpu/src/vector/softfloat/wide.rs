//! 256-bit intermediate results of quad precision.

use std::cmp::Ordering;

/// An unsigned 256-bit integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wide {
    pub high: u128,
    pub low: u128,
}

impl Wide {
    /// The product of two 128-bit integers.
    pub fn product(a: u128, b: u128) -> Self {
        const HALF: u128 = u64::MAX as u128;
        let (a1, a0, b1, b0) = (a >> 64, a & HALF, b >> 64, b & HALF);
        let low = a0 * b0;
        // At most (2^64 - 1)^2 + 2 · (2^64 - 1): no overflow.
        let middle = a1 * b0 + (low >> 64);
        let middle_low = a0 * b1 + (middle & HALF);
        Self { high: a1 * b1 + (middle >> 64) + (middle_low >> 64), low: middle_low << 64 | low & HALF }
    }

    /// Shifts right; bits shifted out are remembered in bit 0.
    pub fn shift_right_sticky(self, distance: u32) -> Self {
        match distance {
            0 => self,
            1..=127 => Self {
                high: self.high >> distance,
                low: self.high << (128 - distance) | self.low >> distance | u128::from(self.low << (128 - distance) != 0),
            },
            128 => Self { high: 0, low: self.high | u128::from(self.low != 0) },
            129..=255 => {
                let lost = self.low != 0 || self.high << (256 - distance) != 0;
                Self { high: 0, low: self.high >> (distance - 128) | u128::from(lost) }
            }
            _ => Self { high: 0, low: u128::from(self.high | self.low != 0) },
        }
    }

    /// Shifts left by less than 256.
    pub fn shift_left(self, distance: u32) -> Self {
        match distance {
            0 => self,
            1..=127 => Self { high: self.high << distance | self.low >> (128 - distance), low: self.low << distance },
            _ => Self { high: self.low << (distance - 128), low: 0 },
        }
    }

    pub fn leading_zeros(self) -> u32 {
        if self.high != 0 { self.high.leading_zeros() } else { 128 + self.low.leading_zeros() }
    }

    /// `self + other`, modulo 2^256.
    pub fn plus(self, other: Self) -> Self {
        let (low, carry) = self.low.overflowing_add(other.low);
        Self { high: self.high.wrapping_add(other.high).wrapping_add(carry.into()), low }
    }

    /// `self - other`, modulo 2^256.
    pub fn minus(self, other: Self) -> Self {
        let (low, borrow) = self.low.overflowing_sub(other.low);
        Self { high: self.high.wrapping_sub(other.high).wrapping_sub(borrow.into()), low }
    }

    pub fn compare(self, other: Self) -> Ordering {
        (self.high, self.low).cmp(&(other.high, other.low))
    }

    /// The high half, with the low half as a sticky bit.
    pub fn sticky_high(self) -> u128 {
        self.high | u128::from(self.low != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_and_shifts() {
        let square = Wide::product(u128::MAX, u128::MAX);
        assert_eq!(square, Wide { high: u128::MAX - 1, low: 1 });
        assert_eq!(square.shift_right_sticky(128), Wide { high: 0, low: u128::MAX });
        assert_eq!(square.shift_right_sticky(255), Wide { high: 0, low: 1 });
        assert_eq!(Wide { high: 0, low: 3 }.shift_right_sticky(1), Wide { high: 0, low: 1 });
        assert_eq!(Wide { high: 0, low: 3 }.shift_left(200), Wide { high: 3 << 72, low: 0 });
        assert_eq!(square.plus(Wide { high: 1, low: u128::MAX }), Wide { high: 0, low: 0 });
        assert_eq!(Wide { high: 1, low: 0 }.minus(Wide { high: 0, low: 1 }), Wide { high: 0, low: u128::MAX });
    }
}
