//! Decoded code, keyed by real page, offset in the page and decoding mode, so that it outlives translations and processes.

use std::collections::HashMap;

use super::tlb::PAGE_SIZE;
use super::uop::Uop;

/// Longest block in instructions; also what an interrupt waits for at most.
pub const MAX_BLOCK: usize = 64;
/// Instruction slots of a page.
const SLOTS: usize = PAGE_SIZE as usize / 4;
/// Most micro-ops kept (32 MiB); beyond it all code is decoded anew.
const MAX_UOPS: usize = 4 << 20;
/// Most pages kept (64 MiB of slot tables).
const MAX_PAGES: usize = 16 << 10;

const NO_BLOCK: u32 = u32::MAX;

/// A block: its micro-ops in the arena.
#[derive(Debug, Clone, Copy)]
struct Block {
    start: u32,
    count: u32,
}

/// The blocks of one page in one mode.
#[derive(Debug)]
struct CodePage {
    page: u64,
    slots: Box<[u32; SLOTS]>,
}

/// All decoded code of a vCPU.
#[derive(Debug, Default)]
pub struct CodeCache {
    pages: Vec<CodePage>,
    index: HashMap<(u64, u32), u32>,
    blocks: Vec<Block>,
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

    /// The micro-ops from `offset` in a page on, if they have been decoded.
    #[inline(always)]
    pub fn block(&self, page: u32, offset: u64) -> Option<&[Uop]> {
        let id = self.pages.get(page as usize)?.slots[(offset / 4) as usize % SLOTS];
        let block = self.blocks.get(id as usize)?;
        self.uops.get(block.start as usize..(block.start + block.count) as usize)
    }

    /// True when a new block or page may not fit any more; [`Self::clear`] then.
    pub fn is_full(&self) -> bool {
        self.uops.len() + MAX_BLOCK > MAX_UOPS || self.pages.len() >= MAX_PAGES
    }

    /// Keeps a block.
    pub fn insert(&mut self, page: u32, offset: u64, uops: &[Uop]) {
        let id = self.blocks.len() as u32;
        self.blocks.push(Block { start: self.uops.len() as u32, count: uops.len() as u32 });
        self.uops.extend_from_slice(uops);
        if let Some(page) = self.pages.get_mut(page as usize) {
            page.slots[(offset / 4) as usize % SLOTS] = id;
        }
    }

    /// Forgets the blocks of a real page, in every mode. Its page numbers stay good.
    pub fn forget(&mut self, page: u64) {
        for code in self.pages.iter_mut().filter(|code| code.page == page) {
            code.slots.fill(NO_BLOCK);
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
