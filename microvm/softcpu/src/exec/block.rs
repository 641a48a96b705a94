//! Decoded code, keyed by real page, offset in the page and decoding mode, so that it outlives translations and processes.

use std::collections::HashMap;

use super::tlb::PAGE_SIZE;
use super::uop::{MODES, Uop};

/// Longest block in instructions; also what an interrupt waits for at most.
pub const MAX_BLOCK: usize = 64;
/// Instruction slots of a page.
const SLOTS: usize = PAGE_SIZE as usize / 4;
/// Most micro-ops kept (32 MiB); beyond it all code is decoded anew.
const MAX_UOPS: usize = 4 << 20;
/// Most pages kept (64 MiB of slot tables).
const MAX_PAGES: usize = 16 << 10;

const NO_BLOCK: u32 = u32::MAX;
/// A slot packs a block: the index of its first micro-op, then its length less one.
const COUNT_BITS: u32 = MAX_BLOCK.trailing_zeros();
const _: () = assert!(MAX_BLOCK.is_power_of_two() && MAX_UOPS << COUNT_BITS < NO_BLOCK as usize);

/// The blocks of one page in one mode.
#[derive(Debug)]
struct CodePage {
    page: u64,
    slots: Box<[u32; SLOTS]>,
}

/// One page's blocks, for the hot loop.
#[derive(Clone, Copy)]
pub struct Blocks<'a> {
    slots: &'a [u32; SLOTS],
    uops: &'a [Uop],
}

impl<'a> Blocks<'a> {
    /// The block that starts at `pc`, an address in the page.
    #[inline(always)]
    pub fn at(&self, pc: u64) -> Option<&'a [Uop]> {
        let slot = self.slots[(pc / 4) as usize % SLOTS];
        // An empty slot names micro-ops that cannot be there.
        let start = (slot >> COUNT_BITS) as usize;
        self.uops.get(start..start + 1 + slot as usize % MAX_BLOCK)
    }
}

/// All decoded code of a vCPU.
#[derive(Debug, Default)]
pub struct CodeCache {
    pages: Vec<CodePage>,
    index: HashMap<(u64, u32), u32>,
    uops: Vec<Uop>,
}

impl CodeCache {
    /// The number of the page with real page number `page`, decoded in `mode`.
    pub fn page(&mut self, page: u64, mode: u32) -> u32 {
        if let Some(number) = self.index.get(&(page, mode)) {
            return *number;
        }
        let number = self.pages.len() as u32;
        self.pages.push(CodePage { page, slots: Box::new([NO_BLOCK; SLOTS]) });
        self.index.insert((page, mode), number);
        number
    }

    /// The blocks of a page.
    #[inline(always)]
    pub fn blocks(&self, page: u32) -> Option<Blocks<'_>> {
        Some(Blocks { slots: &self.pages.get(page as usize)?.slots, uops: &self.uops })
    }

    /// The micro-ops from `offset` in a page on, if they have been decoded.
    pub fn block(&self, page: u32, offset: u64) -> Option<&[Uop]> {
        self.blocks(page)?.at(offset)
    }

    /// True when a new block or page may not fit any more; [`Self::clear`] then.
    pub fn is_full(&self) -> bool {
        self.uops.len() + MAX_BLOCK > MAX_UOPS || self.pages.len() >= MAX_PAGES
    }

    /// Keeps a block.
    pub fn insert(&mut self, page: u32, offset: u64, uops: &[Uop]) {
        debug_assert!((1..=MAX_BLOCK).contains(&uops.len()));
        let slot = (self.uops.len() as u32) << COUNT_BITS | (uops.len() as u32 - 1);
        self.uops.extend_from_slice(uops);
        if let Some(page) = self.pages.get_mut(page as usize) {
            page.slots[(offset / 4) as usize % SLOTS] = slot;
        }
    }

    /// Forgets the blocks of a real page, in every mode. Its page numbers stay good.
    pub fn forget(&mut self, page: u64) {
        for mode in 0..MODES {
            if let Some(code) = self.index.get(&(page, mode)).and_then(|number| self.pages.get_mut(*number as usize)) {
                code.slots.fill(NO_BLOCK);
            }
        }
    }

    /// Real page numbers of all pages with code, some repeated.
    pub fn real_pages(&self) -> impl Iterator<Item = u64> {
        self.pages.iter().map(|code| code.page)
    }

    /// Forgets everything; page numbers are void.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}
