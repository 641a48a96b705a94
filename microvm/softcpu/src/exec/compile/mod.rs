//! A compiler for code that is hot: blocks of micro-ops to the host's instructions (x86-64), one after the other, registers in memory.
//!
//! What a block does, and where it looks up, is what the interpreter's loop does (`hot`): each way out counts the instructions, notes the
//! branch and asks whether something is wanted before it goes to the next block. What it saves is the way from one micro-op to
//! the next, whose jumps the host cannot foresee in code that runs now and then.
//!
//! Blocks of one page go to each other directly; all other ways lead back to the loop. A page's code becomes invalid as
//! a whole and only between blocks, so a way within it is good as long as a block of it can be entered. Code is compiled
//! for 64-bit little-endian mode; each vCPU has its own.

mod emit;
mod frame;
mod region;
mod support;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::num::NonZeroUsize;

use super::block::CodeCache;
use super::uop::Uop;
use super::{Cpu, Stop};
use dynasmrt::DynasmError;
use frame::{Entrance, Owner, Thunks};
use region::Region;

/// Bytes of machine code of a vCPU; when they are used up all code is made anew.
const REGION_BYTES: NonZeroUsize = NonZeroUsize::new(16 << 20).unwrap();
/// More than any block comes to.
const LARGEST_BLOCK: usize = 64 << 10;

/// A block to compile.
#[derive(Debug, Clone, Copy)]
pub struct Block<'a> {
    /// Its micro-ops.
    pub uops: &'a [Uop],
    /// The number of the first of them in the code cache.
    pub first: u32,
    /// The number of its page in the code cache.
    pub page: u32,
    /// Where in the page it begins, in bytes.
    pub offset: u64,
}

/// The place of a jump that leads out of its page's code until the block at `offset` of the page is compiled.
#[derive(Debug, Clone, Copy)]
struct OpenJump {
    offset: u64,
    /// Offset in the region of the jump's 32-bit displacement.
    displacement: usize,
}

/// What is known of a page's compiled code.
#[derive(Debug, Default)]
struct Page {
    /// Compiled blocks: offset in the page, offset in the region.
    blocks: HashMap<u64, usize>,
    open: Vec<OpenJump>,
}

/// Why there is no compiler.
#[derive(Debug, thiserror::Error)]
enum NoCompiler {
    #[error("no executable memory: {0}")]
    Memory(#[from] std::io::Error),
    #[error("the assembler: {0}")]
    Assembler(#[from] DynasmError),
}

/// The compiled code of a vCPU.
#[derive(Debug)]
pub struct Compiler {
    region: Region,
    /// What the code knows of its CPU.
    owner: Owner,
    entrance: Entrance,
    thunks: Thunks,
    /// Where the next block goes, and where the first went.
    next: usize,
    start: usize,
    pages: HashMap<u32, Page>,
}

impl Compiler {
    /// For a vCPU; none where the host does not let code be made.
    pub fn new(cpu: &Cpu) -> Option<Self> {
        match Self::make(cpu) {
            Ok(compiler) => Some(compiler),
            Err(error) => {
                log::warn!("no guest code is compiled, all is interpreted: {error}");
                None
            }
        }
    }

    fn make(cpu: &Cpu) -> Result<Self, NoCompiler> {
        let mut region = Region::new(REGION_BYTES)?;
        let owner = Owner::of(cpu);
        let (code, entrance, thunks) = frame::frame(&owner, &region)?;
        let start = code.len().next_multiple_of(64);
        region.write(0, &code);
        region.written();
        Ok(Self { region, owner, entrance, thunks, next: start, start, pages: HashMap::new() })
    }

    /// True if the code is for this CPU: it holds addresses of what belongs to it.
    pub fn is_of(&self, cpu: &Cpu) -> bool {
        self.owner == Owner::of(cpu)
    }

    /// Compiles a block; the number to [`Self::run`] it by. None for blocks that are better interpreted.
    pub fn compile(&mut self, block: Block<'_>) -> Option<u32> {
        let base = self.region.address(self.next);
        let page = self.pages.entry(block.page).or_default();
        let known = |offset: u64| page.blocks.get(&offset).map(|at| self.region.address(*at));
        let made = emit::block(block, base, &self.thunks, known)?;
        let entry = self.next;
        if !self.region.write(entry, &made.code) {
            return None;
        }
        self.next = (entry + made.code.len()).next_multiple_of(16);
        page.blocks.insert(block.offset, entry);
        page.open.extend(made.open.iter().map(|(offset, at)| OpenJump { offset: *offset, displacement: entry + at }));
        let region = &mut self.region;
        page.open.retain(|jump| {
            let waits = jump.offset != block.offset;
            if !waits {
                let displacement = entry as i64 - (jump.displacement as i64 + 4);
                region.write(jump.displacement, &(displacement as i32).to_le_bytes());
            }
            waits
        });
        self.region.written();
        u32::try_from(entry).ok()
    }

    /// Forgets the blocks of a page: none of them is entered again.
    pub fn forget_page(&mut self, page: u32) {
        self.pages.remove(&page);
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.pages.clear();
        self.next = self.start;
    }

    /// True when a block may not fit any more.
    pub fn is_full(&self) -> bool {
        self.next + LARGEST_BLOCK > self.region.len()
    }

    /// Runs compiled code from the block `entry` on, which the CPU's address leads to, until it leaves the page or something is
    /// wanted.
    ///
    /// # Errors
    /// As the interpreter's blocks.
    #[inline(always)]
    pub fn run(&self, cpu: &mut Cpu, code: &CodeCache, entry: u32) -> Result<(), Stop> {
        if self.entrance.enter(cpu, code, self.region.address(entry as usize)) {
            return Err(cpu.compiled_stop.take().unwrap_or(Stop::Unimplemented));
        }
        Ok(())
    }
}
