//! Decoded code, keyed by real page, offset in the page and decoding mode, so that it outlives translations and processes.

use std::cell::Cell;
use std::collections::HashMap;

use super::compile::{self, Compiler};
use super::tlb::{PAGE_SIZE, PageCode};
use super::uop::{MODE_64, MODE_LE, MODES, Uop};
use super::{Cpu, Stop};

/// Longest block in instructions; also what an interrupt waits for at most.
pub const MAX_BLOCK: usize = 64;
/// Instruction slots of a page.
const SLOTS: usize = PAGE_SIZE as usize / 4;
/// Most micro-ops kept (32 MiB); beyond it all code is decoded anew.
const MAX_UOPS: usize = 4 << 20;
/// Most pages kept (64 MiB of slot tables).
const MAX_PAGES: usize = 16 << 10;

/// A slot packs a block: the index of its first micro-op, then its length less one; or, with this bit, where it lies compiled.
/// Compiled code reads slots, too.
pub const COMPILED: u32 = 1 << 31;
/// The mode whose code is compiled.
pub const MODE_COMPILED: u32 = MODE_64 | MODE_LE;
const NO_BLOCK: u32 = COMPILED - 1;
const COUNT_BITS: u32 = MAX_BLOCK.trailing_zeros();
const _: () = assert!(MAX_BLOCK.is_power_of_two() && MAX_UOPS << COUNT_BITS < NO_BLOCK as usize);

/// Counters of how often blocks run, shared by blocks whose micro-ops lie so many apart.
const HEATS: usize = 1 << 14;

/// The blocks of one page in one mode.
#[derive(Debug)]
struct CodePage {
    page: u64,
    mode: u32,
    slots: Box<[u32; SLOTS]>,
}

/// One page's blocks, for the hot loop.
#[derive(Clone, Copy)]
pub struct Blocks<'a> {
    slots: &'a [u32; SLOTS],
    code: &'a CodeCache,
}

/// A block as the hot loop finds it.
#[derive(Debug, Clone, Copy)]
pub enum Found<'a> {
    /// It has not been decoded.
    None,
    /// To be interpreted.
    Decoded(&'a [Uop]),
    /// As it is, but it has run often enough to be compiled.
    Hot,
    /// To be entered by [`CodeCache::run_compiled`].
    Compiled(u32),
}

impl<'a> Blocks<'a> {
    /// The block that starts at `pc`, an address in the page.
    #[inline(always)]
    pub fn at(&self, pc: u64) -> Found<'a> {
        let slot = self.slots[(pc / 4) as usize % SLOTS];
        if slot & COMPILED != 0 {
            return Found::Compiled(slot & !COMPILED);
        }
        match self.code.decoded(slot) {
            Some(_) if self.code.heats(slot) => Found::Hot,
            Some(uops) => Found::Decoded(uops),
            None => Found::None,
        }
    }
}

/// All decoded code of a vCPU.
#[derive(Debug)]
pub struct CodeCache {
    pages: Vec<CodePage>,
    index: HashMap<(u64, u32), u32>,
    uops: Vec<Uop>,
    compiler: Option<Compiler>,
    /// The slots that compiled blocks had before, by where they lie compiled.
    originals: HashMap<u32, u32>,
    heats: Box<[Cell<u8>; HEATS]>,
    /// A counter that has these bits at zero makes its block hot; none does if there is no compiler.
    heat_mask: u8,
}

impl Default for CodeCache {
    /// Without a compiler.
    fn default() -> Self {
        Self::new(None, 1)
    }
}

impl CodeCache {
    /// Empty. With a compiler, blocks are compiled after they ran `compile_after` times or so, a power of two up to 128.
    pub fn new(compiler: Option<Compiler>, compile_after: u8) -> Self {
        let heats = Box::new([const { Cell::new(0) }; HEATS]);
        let heat_mask = compile_after.clamp(2, 128).next_power_of_two() - 1;
        Self { pages: Vec::new(), index: HashMap::new(), uops: Vec::new(), compiler, originals: HashMap::new(), heats, heat_mask }
    }

    /// The micro-ops that a slot names. An empty one names some that cannot be there.
    #[inline(always)]
    fn decoded(&self, slot: u32) -> Option<&[Uop]> {
        let start = (slot >> COUNT_BITS) as usize;
        self.uops.get(start..start + 1 + slot as usize % MAX_BLOCK)
    }

    /// Counts a run of a slot's block. True if it is time to compile it.
    #[inline(always)]
    fn heats(&self, slot: u32) -> bool {
        if self.compiler.is_none() {
            return false;
        }
        let cell = &self.heats[(slot >> COUNT_BITS) as usize / 4 % HEATS];
        cell.set(cell.get().wrapping_add(1));
        cell.get() & self.heat_mask == 0
    }

    /// The micro-op `number` alone, for compiled code.
    #[cfg(target_arch = "x86_64")]
    pub fn uop(&self, number: usize) -> &[Uop] {
        self.uops.get(number..=number).unwrap_or_default()
    }

    /// True if there is no compiler, or it is this CPU's.
    pub fn is_of(&self, cpu: &Cpu) -> bool {
        self.compiler.as_ref().is_none_or(|compiler| compiler.is_of(cpu))
    }

    /// True if hot blocks are to be compiled.
    #[inline(always)]
    pub fn compiles(&self) -> bool {
        self.compiler.is_some()
    }

    /// From now on all code is interpreted. There must be none that is compiled: see [`Self::clear`].
    pub fn compile_no_more(&mut self) {
        self.compiler = None;
    }

    /// Compiles the block at `offset` of a page, if that is possible.
    pub fn compile(&mut self, page: u32, offset: u64) {
        let Some(code) = self.pages.get_mut(page as usize) else { return };
        let (Some(compiler), MODE_COMPILED) = (&mut self.compiler, code.mode) else { return };
        let slot = &mut code.slots[(offset / 4) as usize % SLOTS];
        let first = *slot >> COUNT_BITS;
        let Some(uops) = self.uops.get(first as usize..first as usize + 1 + *slot as usize % MAX_BLOCK) else { return };
        if let Some(entry) = compiler.compile(compile::Block { uops, first, page, offset }) {
            self.originals.insert(entry, *slot);
            *slot = COMPILED | entry;
        }
    }

    /// Runs the block that [`Found::Compiled`] named, and what it leads to in the page.
    ///
    /// # Errors
    /// As [`super::hot::run_block`].
    #[inline(always)]
    pub fn run_compiled(&self, cpu: &mut Cpu, entry: u32) -> Result<(), Stop> {
        match &self.compiler {
            Some(compiler) => compiler.run(cpu, self, entry),
            None => Err(Stop::Unimplemented),
        }
    }

    /// The number of the page with real page number `page`, decoded in `mode`.
    pub fn page(&mut self, page: u64, mode: u32) -> u32 {
        if let Some(number) = self.index.get(&(page, mode)) {
            return *number;
        }
        let number = self.pages.len() as u32;
        self.pages.push(CodePage { page, mode, slots: Box::new([NO_BLOCK; SLOTS]) });
        self.index.insert((page, mode), number);
        number
    }

    /// A page for the soft TLB: its number and where its slots lie, as long as the page exists.
    pub fn page_code(&self, number: u32) -> PageCode {
        let slots = self.pages.get(number as usize).map_or(0, |page| page.slots.as_ptr().expose_provenance());
        PageCode { number, slots }
    }

    /// The blocks of a page.
    #[inline(always)]
    pub fn blocks(&self, page: u32) -> Option<Blocks<'_>> {
        Some(Blocks { slots: &self.pages.get(page as usize)?.slots, code: self })
    }

    /// The micro-ops from `offset` in a page on, if they have been decoded.
    pub fn block(&self, page: u32, offset: u64) -> Option<&[Uop]> {
        let slot = self.pages.get(page as usize)?.slots[(offset / 4) as usize % SLOTS];
        let slot = if slot & COMPILED != 0 { *self.originals.get(&(slot & !COMPILED))? } else { slot };
        self.decoded(slot)
    }

    /// True when a new block or page may not fit any more; [`Self::clear`] then.
    pub fn is_full(&self) -> bool {
        self.uops.len() + MAX_BLOCK > MAX_UOPS
            || self.pages.len() >= MAX_PAGES
            || self.compiler.as_ref().is_some_and(Compiler::is_full)
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
            let Some(number) = self.index.get(&(page, mode)) else { continue };
            if let Some(code) = self.pages.get_mut(*number as usize) {
                code.slots.fill(NO_BLOCK);
            }
            if let Some(compiler) = &mut self.compiler {
                compiler.forget_page(*number);
            }
        }
    }

    /// Real page numbers of all pages with code, some repeated.
    pub fn real_pages(&self) -> impl Iterator<Item = u64> {
        self.pages.iter().map(|code| code.page)
    }

    /// Forgets everything; page numbers are void, and so is where slots lay: fetch translations have to be forgotten with it.
    pub fn clear(&mut self) {
        self.pages.clear();
        self.index.clear();
        self.uops.clear();
        self.originals.clear();
        if let Some(compiler) = &mut self.compiler {
            compiler.clear();
        }
    }
}
