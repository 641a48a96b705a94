//! For hosts without a compiler: all code is interpreted.

use super::block::CodeCache;
use super::uop::Uop;
use super::{Cpu, Stop};

/// Never made here.
#[derive(Debug)]
pub enum Compiler {}

/// A block to compile.
#[derive(Debug, Clone, Copy)]
#[allow(dead_code, reason = "read by the compilers of other hosts")]
pub struct Block<'a> {
    pub uops: &'a [Uop],
    pub first: u32,
    pub page: u32,
    pub offset: u64,
}

impl Compiler {
    /// None.
    pub fn new(_cpu: &Cpu) -> Option<Self> {
        None
    }

    /// Never called.
    pub fn is_of(&self, _cpu: &Cpu) -> bool {
        match *self {}
    }

    /// Never called.
    pub fn compile(&mut self, _block: Block<'_>) -> Option<u32> {
        match *self {}
    }

    /// Never called.
    pub fn forget_page(&mut self, _page: u32) {
        match *self {}
    }

    /// Never called.
    pub fn clear(&mut self) {
        match *self {}
    }

    /// Never called.
    pub fn is_full(&self) -> bool {
        match *self {}
    }

    /// Never called.
    pub fn run(&self, _cpu: &mut Cpu, _code: &CodeCache, _entry: u32) -> Result<(), Stop> {
        match *self {}
    }
}
