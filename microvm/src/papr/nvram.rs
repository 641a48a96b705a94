//! The partition's non-volatile memory (LoPAR, NVRAM Access). It lives as long as the machine and starts as an earlier boot
//! would have left it: with the two logs that Linux looks for, and free space behind them. An unformatted one makes Linux complain
//! and format it, call by call.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Size in bytes: both logs, and as much again for whatever a guest wants to keep.
pub const SIZE_BYTES: u32 = 0x4000;

/// Partitions are counted in blocks of this many bytes, their header included (CHRP binding, NVRAM partitions).
const BLOCK_BYTES: usize = 16;
/// Signature of a partition that belongs to the operating system.
const OPERATING_SYSTEM: u8 = 0xa0;
/// Signature of free space.
const FREE: u8 = 0x7f;

/// The partitions: signature, name, blocks. Linux wants 2079 bytes for the first and 4000 for the second.
const PARTITIONS: &[(u8, &[u8], u16)] = &[
    (OPERATING_SYSTEM, b"ibm,rtas-log", 132),
    (OPERATING_SYSTEM, b"lnx,oops-log", 252),
    (FREE, b"wwwwwwwwwwww", (SIZE_BYTES as usize / BLOCK_BYTES) as u16 - 132 - 252),
];

/// The bytes of `offset` and the `length` behind it, if they are all there.
pub fn range(offset: u32, length: u32) -> Option<Range<usize>> {
    let end = offset.checked_add(length).filter(|end| *end <= SIZE_BYTES)?;
    Some(offset as usize..end as usize)
}

/// The memory. Made when it is first touched: most kernels here never do.
#[derive(Default)]
pub struct Nvram(Mutex<Vec<u8>>);

impl Nvram {
    /// The bytes of `range`, which came from [`range`].
    pub fn fetch(&self, range: Range<usize>) -> Vec<u8> {
        self.bytes().get(range).unwrap_or_default().to_vec()
    }

    /// Stores `bytes` from `start` on; what would not fit is left out.
    pub fn store(&self, start: usize, bytes: &[u8]) {
        for (slot, byte) in self.bytes().iter_mut().skip(start).zip(bytes) {
            *slot = *byte;
        }
    }

    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        let mut bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes.is_empty() {
            *bytes = formatted();
        }
        bytes
    }
}

fn formatted() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(SIZE_BYTES as usize);
    for (signature, name, blocks) in PARTITIONS {
        let end = bytes.len() + usize::from(*blocks) * BLOCK_BYTES;
        bytes.extend([*signature, checksum(*signature, name, *blocks)]);
        bytes.extend(blocks.to_be_bytes());
        bytes.extend(*name);
        bytes.resize(end, 0);
    }
    bytes
}

/// The sum of the header's other bytes with each carry added at the low end.
fn checksum(signature: u8, name: &[u8], blocks: u16) -> u8 {
    let all = blocks.to_be_bytes().into_iter().chain([signature]).chain(name.iter().copied());
    all.fold(0, |sum: u8, byte| {
        let (sum, carry) = sum.overflowing_add(byte);
        sum + u8::from(carry)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_fill_the_memory_and_their_headers_add_up() {
        let bytes = formatted();
        assert_eq!(bytes.len(), SIZE_BYTES as usize);
        let mut at = 0;
        let mut names = Vec::new();
        while at < bytes.len() {
            let header = &bytes[at..at + 16];
            let blocks = u16::from_be_bytes([header[2], header[3]]);
            assert_eq!(header[1], checksum(header[0], &header[4..], blocks));
            names.push(String::from_utf8(header[4..].to_vec()).unwrap());
            at += usize::from(blocks) * BLOCK_BYTES;
        }
        assert_eq!(at, bytes.len());
        assert_eq!(names, ["ibm,rtas-log", "lnx,oops-log", "wwwwwwwwwwww"]);
        // By hand: 0x7f + 0x02 + 0x80 + 12 × 0x77 = 1685; 1685 mod 255.
        assert_eq!(checksum(FREE, b"wwwwwwwwwwww", 0x280), (1685 % 255) as u8);
    }

    #[test]
    fn ranges_end_where_the_memory_ends() {
        assert_eq!(range(0, SIZE_BYTES), Some(0..SIZE_BYTES as usize));
        assert_eq!(range(SIZE_BYTES, 0), Some(SIZE_BYTES as usize..SIZE_BYTES as usize));
        assert_eq!(range(SIZE_BYTES, 1), None);
        assert_eq!(range(u32::MAX, 2), None);
    }
}
