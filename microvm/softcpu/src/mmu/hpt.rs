//! The hashed page table of the partition (ISA 3.0B III 5.7.8): groups of eight entries of two doublewords.
//!
//! Entries are kept in the format that guests hand to H_ENTER (ISA 2.07: B in the first doubleword), so that a search compares one
//! word. A guest cannot tell: it sees its page table through hypercalls only. [`Hpte::to_isa3`] gives the 3.0 format.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Entries per group.
pub(super) const GROUP: u64 = 8;
/// Locks for the groups; group n uses lock n modulo this. Contention needs two vCPUs in one lock at once.
const LOCKS: usize = 64;

/// Smallest and largest table, log2 of bytes (ISA 3.0B III 5.7.8.1).
const ORDERS: std::ops::RangeInclusive<u32> = 18..=46;

/// V of the first doubleword (bit 63).
pub(super) const HPTE_V: u64 = 0x1;
/// H: the entry is in its secondary group (bit 62).
pub(super) const HPTE_H: u64 = 0x2;
/// R of the second doubleword (bit 55).
pub(super) const HPTE_R: u64 = 0x100;
/// C of the second doubleword (bit 56).
pub(super) const HPTE_C: u64 = 0x80;

/// Why a table could not be made.
#[derive(Debug, thiserror::Error)]
pub enum HptError {
    /// Not a size that the architecture knows.
    #[error("hashed page table of 2^{order} bytes: the order must be 18 to 46")]
    Order {
        /// Log2 of the size in bytes.
        order: u32,
    },
    /// The host has not got that much memory.
    #[error("no memory for a hashed page table of 2^{order} bytes")]
    Memory {
        /// Log2 of the size in bytes.
        order: u32,
    },
}

/// One entry: the two doublewords in the 2.07 format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hpte {
    /// B, AVPN, software bits, L, H, V.
    pub v: u64,
    /// pp0, key, RPN and LP, R, C, WIMG, N, PP.
    pub r: u64,
}

impl Hpte {
    /// V.
    pub fn is_valid(self) -> bool {
        self.v & HPTE_V != 0
    }

    /// The same entry as ISA 3.0 lays it out: B moves from bits 0 and 1 of the first to bits 4 and 5 of the second doubleword.
    pub fn to_isa3(self) -> (u64, u64) {
        let v = self.v & 0x000f_ffff_ffff_ffff;
        (v, self.r & !(3 << 58) | (self.v >> 62) << 58)
    }
}

/// The hashed page table, shared by all vCPUs of a partition.
#[derive(Debug)]
pub struct Hpt {
    /// First and second doublewords alternate.
    words: Box<[AtomicU64]>,
    locks: [Mutex<()>; LOCKS],
    order: u32,
}

impl Hpt {
    /// An empty table of 2^`order` bytes. The host has memory behind what was touched of it only: most guests never touch most of it.
    ///
    /// # Errors
    /// [`HptError`] for an impossible order or too little memory.
    pub fn new(order: u32) -> Result<Self, HptError> {
        if !ORDERS.contains(&order) {
            return Err(HptError::Order { order });
        }
        let count = usize::try_from(1u64 << (order - 3)).map_err(|_| HptError::Memory { order })?;
        let words = bytemuck::try_zeroed_slice_box(count).map_err(|()| HptError::Memory { order })?;
        Ok(Self { words, locks: std::array::from_fn(|_| Mutex::new(())), order })
    }

    /// Log2 of the size in bytes.
    pub fn order(&self) -> u32 {
        self.order
    }

    /// Number of entries; PTE indexes lie below.
    pub fn entry_count(&self) -> u64 {
        1 << (self.order - 4)
    }

    /// Index of the first entry of the group that `hash` selects.
    pub(super) fn group(&self, hash: u64) -> u64 {
        (hash & (self.entry_count() / GROUP - 1)) * GROUP
    }

    /// The entry at `ptex`; an invalid one if there is no such index. Another vCPU may be changing it: take the lock where
    /// both words have to belong together.
    pub fn entry(&self, ptex: u64) -> Hpte {
        let Some(index) = self.index(ptex) else {
            return Hpte::default();
        };
        Hpte { v: self.words[index].load(Ordering::Acquire), r: self.words[index + 1].load(Ordering::Acquire) }
    }

    /// Takes the lock of the group of `ptex`; `None` if there is no such index.
    pub(super) fn lock(&self, ptex: u64) -> Option<LockedEntry<'_>> {
        let index = self.index(ptex)?;
        let guard = self.locks[(ptex / GROUP) as usize % LOCKS].lock().unwrap_or_else(PoisonError::into_inner);
        Some(LockedEntry { table: self, index, _guard: guard })
    }

    fn index(&self, ptex: u64) -> Option<usize> {
        (ptex < self.entry_count()).then(|| ptex as usize * 2)
    }
}

/// An entry whose group is locked: nobody else changes it.
pub(super) struct LockedEntry<'a> {
    table: &'a Hpt,
    index: usize,
    _guard: MutexGuard<'a, ()>,
}

impl LockedEntry<'_> {
    pub(super) fn get(&self) -> Hpte {
        Hpte {
            v: self.table.words[self.index].load(Ordering::Relaxed),
            r: self.table.words[self.index + 1].load(Ordering::Relaxed),
        }
    }

    /// Replaces the entry. A search that runs meanwhile sees the first word only and confirms under the lock.
    pub(super) fn set(&self, entry: Hpte) {
        self.table.words[self.index + 1].store(entry.r, Ordering::Release);
        self.table.words[self.index].store(entry.v, Ordering::Release);
    }

    /// Moves to slot `slot` (0 to 7) of the same group, under the same lock.
    pub(super) fn slot(&mut self, slot: u64) {
        self.index = (self.index & !15) + (slot as usize & 7) * 2;
    }
}
