//! Bytes read as numbers: an input that is used up goes on with zeros.

/// What is left of an input.
pub struct Input<'a> {
    bytes: &'a [u8],
}

impl<'a> Input<'a> {
    /// All of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// True when nothing is left.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// A byte.
    pub fn byte(&mut self) -> u8 {
        let (first, rest) = self.bytes.split_first().unwrap_or((&0, &[]));
        self.bytes = rest;
        *first
    }

    fn number(&mut self, bytes: usize) -> u64 {
        (0..bytes).fold(0, |value, _| value << 8 | u64::from(self.byte()))
    }

    /// A number: a byte says how it is written, so that few bytes make what finds edges. `known` are values that mean something to the target.
    pub fn value(&mut self, known: &[u64]) -> u64 {
        match self.byte() % 10 {
            0 => 0,
            1 => self.number(1),
            2 => self.number(2),
            3 => self.number(4),
            4 => self.number(8),
            5 => 1 << (self.byte() & 63),
            6 => u64::MAX - self.number(1),
            7 => u64::from(u32::MAX) - self.number(1),
            8 => self.number(1) << 12,
            _ => known.get(usize::from(self.byte()) % known.len().max(1)).copied().unwrap_or(0),
        }
    }
}
