//! Mutations from a printed seed.

/// Longest input.
pub const INPUT_MAX: usize = 4096;

/// A small generator (xorshift64*): the same sequence for the same seed.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The sequence of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `limit`, which is not zero.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

/// An input made from one or two of `corpus`, or from nothing.
pub fn mutated(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    const EDGES: [u8; 8] = [0, 1, 2, 0x7f, 0x80, 0xfe, 0xff, 9];
    let pick = |random: &mut Random| corpus.get(random.below(corpus.len().max(1))).cloned().unwrap_or_default();
    let mut input = pick(random);
    for _ in 0..1 + random.below(8) {
        let at = random.below(input.len() + 1);
        let length = random.below(16).min(input.len() - at);
        match random.below(7) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = EDGES[random.below(EDGES.len())],
            2 if at < input.len() => input[at] = random.below(256) as u8,
            3 => drop(input.drain(at..at + length)),
            4 => {
                let bytes: Vec<u8> = (0..1 + random.below(16)).map(|_| random.below(256) as u8).collect();
                input.splice(at..at, bytes);
            }
            5 => {
                let chunk = input[at..at + length].to_vec();
                let to = random.below(input.len() + 1);
                input.splice(to..to, chunk);
            }
            _ => {
                let other = pick(random);
                input.truncate(at);
                input.extend(other.iter().skip(random.below(other.len() + 1)));
            }
        }
    }
    input.truncate(INPUT_MAX);
    input
}
