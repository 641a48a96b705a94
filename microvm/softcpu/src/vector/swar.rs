//! All bytes or halfwords of a register at once, in plain integer arithmetic. Compilers turn element loops over words and
//! doublewords into good code, but not those over smaller elements, and strings are made of these.

/// The highest bit of every element.
#[derive(Debug, Clone, Copy)]
pub(super) struct Elements {
    high: u128,
    bits: u32,
}

/// Sixteen bytes.
pub(super) const BYTES: Elements = Elements { high: u128::MAX / 0xff * 0x80, bits: 8 };
/// Eight halfwords.
pub(super) const HALFWORDS: Elements = Elements { high: u128::MAX / 0xffff * 0x8000, bits: 16 };

impl Elements {
    /// `a + b` in every element.
    #[inline]
    pub fn add(self, a: u128, b: u128) -> u128 {
        // Without the highest bits no carry leaves an element; they are added without carry.
        ((a & !self.high) + (b & !self.high)) ^ ((a ^ b) & self.high)
    }

    /// `a - b` in every element.
    #[inline]
    pub fn subtract(self, a: u128, b: u128) -> u128 {
        ((a | self.high) - (b & !self.high)) ^ ((a ^ !b) & self.high)
    }

    /// Ones in the elements whose highest bit is set in `marks`.
    #[inline]
    fn spread(self, marks: u128) -> u128 {
        let ones = (marks & self.high) >> (self.bits - 1);
        (ones << self.bits).wrapping_sub(ones)
    }

    /// Ones where `a = b`.
    #[inline]
    pub fn equal(self, a: u128, b: u128) -> u128 {
        let difference = a ^ b;
        !self.spread(((difference & !self.high) + !self.high) | difference)
    }

    /// Ones where `a > b`, unsigned.
    #[inline]
    pub fn greater(self, a: u128, b: u128) -> u128 {
        // The borrow out of b - a.
        self.spread((!b & a) | (!(b ^ a) & self.subtract(b, a)))
    }

    /// The smaller element of each pair, unsigned.
    #[inline]
    pub fn minimum(self, a: u128, b: u128) -> u128 {
        let greater = self.greater(a, b);
        b & greater | a & !greater
    }

    /// The larger element of each pair, unsigned.
    #[inline]
    pub fn maximum(self, a: u128, b: u128) -> u128 {
        let greater = self.greater(a, b);
        a & greater | b & !greater
    }
}

#[cfg(test)]
mod tests {
    use super::super::lanes::{compare, zip};
    use super::*;

    #[test]
    fn same_as_element_by_element() {
        // Every pair of bytes, sixteen at a time.
        for x in 0..=u8::MAX {
            for start in (0..=u8::MAX).step_by(16) {
                let a = u128::from_be_bytes([x; 16]);
                let b = u128::from_be_bytes(std::array::from_fn(|i| start + i as u8));
                assert_eq!(BYTES.add(a, b), zip(a, b, u8::wrapping_add));
                assert_eq!(BYTES.subtract(a, b), zip(a, b, u8::wrapping_sub));
                assert_eq!(BYTES.equal(a, b), compare::<u8>(a, b, |x, y| x == y));
                assert_eq!(BYTES.greater(a, b), compare::<u8>(a, b, |x, y| x > y));
                assert_eq!(BYTES.minimum(a, b), zip(a, b, u8::min));
                assert_eq!(BYTES.maximum(b, a), zip(a, b, u8::max));
                assert_eq!(HALFWORDS.add(a, b), zip(a, b, u16::wrapping_add));
                assert_eq!(HALFWORDS.subtract(b, a), zip(b, a, u16::wrapping_sub));
                assert_eq!(HALFWORDS.equal(a, b), compare::<u16>(a, b, |x, y| x == y));
                assert_eq!(HALFWORDS.greater(a, b), compare::<u16>(a, b, |x, y| x > y));
            }
        }
    }
}
