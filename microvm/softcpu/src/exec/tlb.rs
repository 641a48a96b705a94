//! The soft TLB: direct-mapped, one bank per translation context, loads, stores and fetches apart.
//!
//! A bank holds what one combination of relocation, problem state and AMR may do, so that entering the kernel, leaving it, or
//! opening user memory to it changes an index and loses nothing. Every entry keeps the index of its page table entry: H_REMOVE
//! and H_PROTECT name one, and exactly its translations go.

#[cfg(target_arch = "x86_64")]
use std::mem::offset_of;

use crate::mmu::SlbInvalidation;

/// Pages of the soft TLB: the smallest page of the architecture.
pub const PAGE_SHIFT: u32 = 12;
/// Bytes in such a page.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;
const PAGE_MASK: u64 = !(PAGE_SIZE - 1);

/// Entries of a data bank, per direction.
const DATA_ENTRIES: usize = 1024;
/// Entries of a fetch bank: the text of a kernel without modules fits.
const FETCH_ENTRIES: usize = 2048;
/// Data banks: real mode, and seven combinations of problem state and AMR (Linux uses four).
pub const DATA_BANKS: usize = 8;
/// Fetch banks: real mode, privileged, problem state.
pub const FETCH_BANKS: usize = 3;

/// A tag that no page has.
const EMPTY: u64 = u64::MAX;
/// Page table index of a real-mode entry.
pub const NO_PTEX: u64 = u64::MAX;

/// Which page table entries may have translations here, by the low bits of their index: most that the guest changes have none, and
/// nothing has to be looked through for them.
#[derive(Debug, Clone)]
struct Filter([u64; FILTER_BITS / 64]);

const FILTER_BITS: usize = 4096;

impl Filter {
    const EMPTY: Self = Self([0; FILTER_BITS / 64]);

    fn place(ptex: u64) -> (usize, u64) {
        let bit = ptex as usize % FILTER_BITS;
        (bit / 64, 1 << (bit % 64))
    }

    fn add(&mut self, ptex: u64) {
        let (word, bit) = Self::place(ptex);
        self.0[word] |= bit;
    }

    fn may_hold(&self, ptex: u64) -> bool {
        let (word, bit) = Self::place(ptex);
        self.0[word] & bit != 0
    }
}

/// What a data entry answers: real address = effective address + `delta`. Compiled code reads entries, too.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct DataEntry {
    tag: u64,
    delta: u64,
}

/// What is needed to forget an entry: its page table entry and the class of its segment.
#[derive(Debug, Clone, Copy)]
struct Origin {
    ptex: u64,
    class: bool,
}

const EMPTY_DATA: DataEntry = DataEntry { tag: EMPTY, delta: 0 };
const NO_ORIGIN: Origin = Origin { ptex: NO_PTEX, class: false };

/// One direction of a data bank.
#[derive(Debug, Clone)]
pub struct DataTlb {
    entries: [DataEntry; DATA_ENTRIES],
    origins: [Origin; DATA_ENTRIES],
    filter: Filter,
}

impl DataTlb {
    fn new() -> Self {
        Self { entries: [EMPTY_DATA; DATA_ENTRIES], origins: [NO_ORIGIN; DATA_ENTRIES], filter: Filter::EMPTY }
    }

    /// Real address of `len` bytes at `ea`, if the page is known and all bytes lie in it.
    #[inline(always)]
    pub fn lookup(&self, ea: u64, len: u64) -> Option<u64> {
        let entry = &self.entries[(ea >> PAGE_SHIFT) as usize % DATA_ENTRIES];
        // The last byte's page has to match the first one's entry, so a crossing never does.
        if entry.tag == ea.wrapping_add(len - 1) & PAGE_MASK { Some(ea.wrapping_add(entry.delta)) } else { None }
    }

    /// Real address of the `N` bytes at `ea`, if they are aligned and the page is known.
    #[inline(always)]
    pub fn lookup_aligned<const N: usize>(&self, ea: u64) -> Option<u64> {
        let entry = &self.entries[(ea >> PAGE_SHIFT) as usize % DATA_ENTRIES];
        // A tag has zeros where an unaligned address has ones.
        if entry.tag == ea & (PAGE_MASK | (N as u64 - 1)) { Some(ea.wrapping_add(entry.delta)) } else { None }
    }

    /// Remembers that the page of `ea` leads to that of `ra`.
    pub fn insert(&mut self, ea: u64, ra: u64, ptex: Option<u64>, class: bool) {
        let index = (ea >> PAGE_SHIFT) as usize % DATA_ENTRIES;
        self.entries[index] = DataEntry { tag: ea & PAGE_MASK, delta: ra.wrapping_sub(ea) };
        self.origins[index] = Origin { ptex: ptex.unwrap_or(NO_PTEX), class };
        if let Some(ptex) = ptex {
            self.filter.add(ptex);
        }
    }

    fn clear(&mut self) {
        self.entries.fill(EMPTY_DATA);
        self.origins.fill(NO_ORIGIN);
        self.filter = Filter::EMPTY;
    }

    fn drop_ptex(&mut self, ptex: u64) {
        if !self.filter.may_hold(ptex) {
            return;
        }
        self.filter = Filter::EMPTY;
        for (entry, origin) in self.entries.iter_mut().zip(self.origins.iter_mut()) {
            if origin.ptex == ptex {
                *entry = EMPTY_DATA;
                origin.ptex = NO_PTEX;
            } else if origin.ptex != NO_PTEX {
                self.filter.add(origin.ptex);
            }
        }
    }

    fn drop_segments(&mut self, what: SlbInvalidation) {
        match what {
            SlbInvalidation::None => {}
            SlbInvalidation::All => self.clear(),
            SlbInvalidation::Segment { base, shift } => {
                for entry in self.entries.iter_mut() {
                    if entry.tag >> shift == base >> shift {
                        *entry = EMPTY_DATA;
                    }
                }
            }
            SlbInvalidation::Class1 => {
                for (entry, origin) in self.entries.iter_mut().zip(self.origins.iter()) {
                    if origin.class {
                        *entry = EMPTY_DATA;
                    }
                }
            }
        }
    }

    /// Forgets translations that lead to the real page number `page`.
    pub fn drop_real_page(&mut self, page: u64) {
        for entry in self.entries.iter_mut() {
            if entry.tag != EMPTY && entry.tag.wrapping_add(entry.delta) >> PAGE_SHIFT == page {
                *entry = EMPTY_DATA;
            }
        }
    }
}

/// The data translations of one context.
#[derive(Debug, Clone)]
#[repr(C)]
pub struct DataBank {
    /// For loads.
    pub load: DataTlb,
    /// For stores: the page is writable, C is set, and it holds no decoded code.
    pub store: DataTlb,
    /// Problem state and AMR; `None` for a bank not in use.
    pub key: Option<(bool, u64)>,
}

impl DataBank {
    /// An empty bank.
    pub fn new() -> Self {
        Self { load: DataTlb::new(), store: DataTlb::new(), key: None }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.load.clear();
        self.store.clear();
    }

    /// Forgets what came through one page table entry.
    pub fn drop_ptex(&mut self, ptex: u64) {
        self.load.drop_ptex(ptex);
        self.store.drop_ptex(ptex);
    }

    /// Forgets segments.
    pub fn drop_segments(&mut self, what: SlbInvalidation) {
        self.load.drop_segments(what);
        self.store.drop_segments(what);
    }
}

/// A page's decoded code.
#[derive(Debug, Clone, Copy)]
pub struct PageCode {
    /// Its number in the code cache.
    pub number: u32,
    /// Where compiled code finds its slots.
    pub slots: usize,
}

/// What a fetch entry answers. Compiled code reads entries, too.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct FetchEntry {
    tag: u64,
    code: PageCode,
    class: bool,
    ptex: u64,
}

const EMPTY_FETCH: FetchEntry = FetchEntry { tag: EMPTY, code: PageCode { number: 0, slots: 0 }, class: false, ptex: NO_PTEX };

/// The fetch translations of one context. The low bits of a tag say in which mode (64-bit, little-endian) the page was decoded.
#[derive(Debug, Clone)]
pub struct FetchBank {
    entries: Box<[FetchEntry; FETCH_ENTRIES]>,
    filter: Filter,
}

impl FetchBank {
    /// An empty bank.
    pub fn new() -> Self {
        Self { entries: Box::new([EMPTY_FETCH; FETCH_ENTRIES]), filter: Filter::EMPTY }
    }

    /// The entry of the page of `ea` in a decoding mode.
    #[inline(always)]
    pub fn lookup(&self, ea: u64, mode: u32) -> Option<u32> {
        let entry = &self.entries[(ea >> PAGE_SHIFT) as usize % FETCH_ENTRIES];
        if entry.tag == ea & PAGE_MASK | u64::from(mode) { Some(entry.code.number) } else { None }
    }

    /// The address of the entries, for compiled code.
    #[inline(always)]
    pub fn address(&self) -> usize {
        self.entries.as_ptr().expose_provenance()
    }

    /// Remembers which decoded code the page of `ea` has.
    pub fn insert(&mut self, ea: u64, mode: u32, code: PageCode, ptex: Option<u64>, class: bool) {
        let tag = ea & PAGE_MASK | u64::from(mode);
        self.entries[(ea >> PAGE_SHIFT) as usize % FETCH_ENTRIES] =
            FetchEntry { tag, code, class, ptex: ptex.unwrap_or(NO_PTEX) };
        if let Some(ptex) = ptex {
            self.filter.add(ptex);
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.entries.fill(EMPTY_FETCH);
        self.filter = Filter::EMPTY;
    }

    fn drop_where(&mut self, goes: impl Fn(&FetchEntry) -> bool) -> bool {
        let mut any = false;
        self.filter = Filter::EMPTY;
        for entry in self.entries.iter_mut().filter(|entry| entry.tag != EMPTY) {
            if goes(entry) {
                *entry = EMPTY_FETCH;
                any = true;
            } else if entry.ptex != NO_PTEX {
                self.filter.add(entry.ptex);
            }
        }
        any
    }

    /// Forgets what came through one page table entry.
    pub fn drop_ptex(&mut self, ptex: u64) -> bool {
        self.filter.may_hold(ptex) && self.drop_where(|entry| entry.ptex == ptex)
    }

    /// Forgets segments.
    pub fn drop_segments(&mut self, what: SlbInvalidation) -> bool {
        match what {
            SlbInvalidation::None => false,
            SlbInvalidation::All => self.drop_where(|_| true),
            SlbInvalidation::Segment { base, shift } => self.drop_where(|entry| entry.tag >> shift == base >> shift),
            SlbInvalidation::Class1 => self.drop_where(|entry| entry.class),
        }
    }
}

/// Where compiled code finds what it reads, in bytes.
#[cfg(target_arch = "x86_64")]
pub mod layout {
    use super::*;

    /// The fields of a data entry.
    pub const TAG: usize = offset_of!(DataEntry, tag);
    /// As [`TAG`].
    pub const DELTA: usize = offset_of!(DataEntry, delta);
    /// The entries of a [`DataBank`] for loads: what it knows of a bank is their address.
    pub const LOADS: usize = offset_of!(DataBank, load) + offset_of!(DataTlb, entries);
    /// How far from them those for stores are.
    pub const STORES_FROM_LOADS: usize = offset_of!(DataBank, store) - offset_of!(DataBank, load);
    /// An address shifted to the right by this, masked by [`INDEX_MASK`], is its entry's offset.
    pub const INDEX_SHIFT: u32 = PAGE_SHIFT - size_of::<DataEntry>().trailing_zeros();
    /// As [`INDEX_SHIFT`].
    pub const INDEX_MASK: usize = (DATA_ENTRIES - 1) * size_of::<DataEntry>();
    /// The fields of a fetch entry.
    pub const FETCH_TAG: usize = offset_of!(FetchEntry, tag);
    /// As [`FETCH_TAG`].
    pub const FETCH_SLOTS: usize = offset_of!(FetchEntry, code.slots);
    /// From one fetch entry to the next.
    pub const FETCH_STRIDE: usize = size_of::<FetchEntry>();
    /// The number of fetch entries.
    pub const FETCH_COUNT: usize = FETCH_ENTRIES;

    const _: () = assert!(DATA_ENTRIES.is_power_of_two() && size_of::<DataEntry>().is_power_of_two());
    const _: () = assert!(FETCH_ENTRIES.is_power_of_two());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_access_that_crosses_the_page_misses() {
        let mut tlb = DataTlb::new();
        tlb.insert(0x7000, 0x3000, None, false);
        tlb.insert(0x8000, 0x9000, None, false);
        assert_eq!(tlb.lookup(0x7ff8, 8), Some(0x3ff8));
        assert_eq!(tlb.lookup(0x7ff9, 8), None);
        assert_eq!(tlb.lookup(0x6fff, 1), None);
        assert_eq!(tlb.lookup(u64::MAX, 8), None);
        assert_eq!(tlb.lookup_aligned::<8>(0x7ff8), Some(0x3ff8));
        assert_eq!(tlb.lookup_aligned::<4>(0x7ff6), None);
        assert_eq!(tlb.lookup_aligned::<1>(0x7fff), Some(0x3fff));
        assert_eq!(DataTlb::new().lookup_aligned::<8>(u64::MAX), None);
    }

    #[test]
    fn a_filter_that_was_made_anew_still_knows_what_stayed() {
        let mut bank = FetchBank::new();
        // 7 and 4103 share a bit.
        for (page, ptex) in [(1u64, 7u64), (2, 4103), (3, 9)] {
            let code = PageCode { number: page as u32, slots: 0 };
            bank.insert(page << PAGE_SHIFT, 0, code, Some(ptex), false);
        }
        assert!(!bank.drop_ptex(8) && bank.drop_ptex(7));
        assert_eq!([1, 2, 3].map(|page| bank.lookup(page << PAGE_SHIFT, 0)), [None, Some(2), Some(3)]);
        assert!(bank.drop_ptex(4103) && bank.drop_ptex(9) && !bank.drop_ptex(9));
        let mut data = DataTlb::new();
        data.insert(0x1000, 0x1000, Some(7), false);
        data.insert(0x2000, 0x2000, Some(4103), false);
        data.drop_ptex(7);
        assert!(data.lookup(0x1000, 1).is_none() && data.lookup(0x2000, 1).is_some());
        data.drop_ptex(4103);
        assert!(data.lookup(0x2000, 1).is_none());
    }

    #[test]
    fn exactly_the_named_translations_go() {
        let mut bank = DataBank::new();
        bank.load.insert(0x1000, 0x1000, Some(7), false);
        bank.load.insert(0x2000, 0x2000, Some(8), true);
        bank.store.insert(0x1000_3000, 0x3000, Some(7), false);
        bank.drop_ptex(7);
        assert!(bank.load.lookup(0x1000, 1).is_none() && bank.store.lookup(0x1000_3000, 1).is_none());
        assert!(bank.load.lookup(0x2000, 1).is_some());
        bank.drop_segments(SlbInvalidation::Segment { base: 0x1000_0000, shift: 28 });
        assert!(bank.load.lookup(0x2000, 1).is_some());
        bank.drop_segments(SlbInvalidation::Class1);
        assert!(bank.load.lookup(0x2000, 1).is_none());
    }
}
