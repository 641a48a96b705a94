//! A case: one instruction with the state before it, and the state after it.

/// Bytes of storage that a case's instruction may touch.
pub const SCRATCH_BYTES: usize = 256;

/// Byte order of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Endian {
    /// MSR\[LE\] = 1.
    Little,
    /// MSR\[LE\] = 0.
    Big,
}

/// What a case starts from and ends with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// General purpose registers.
    pub gpr: [u64; 32],
    /// Vector-scalar registers.
    pub vsr: [u128; 64],
    /// Link register.
    pub lr: u64,
    /// Count register.
    pub ctr: u64,
    /// Condition register.
    pub cr: u32,
    /// Fixed-point exception register.
    pub xer: u64,
    /// Floating-point status and control register.
    pub fpscr: u64,
    /// Vector status and control register.
    pub vscr: u32,
    /// Storage at the case's scratch address.
    pub scratch: [u8; SCRATCH_BYTES],
}

impl Default for Snapshot {
    fn default() -> Self {
        Self { gpr: [0; 32], vsr: [0; 64], lr: 0, ctr: 0, cr: 0, xer: 0, fpscr: 0, vscr: 0, scratch: [0; SCRATCH_BYTES] }
    }
}

/// Most instructions of a case.
pub const MAX_INSTRUCTIONS: usize = 31;

/// One instruction with the state before it, or a short program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// The instruction, or the first of several.
    pub word: u32,
    /// Those after it: what a branch skips, or the rest of a program.
    pub rest: Vec<u32>,
    /// The state before it.
    pub before: Snapshot,
}

impl Case {
    /// All its instructions.
    pub fn words(&self) -> impl Iterator<Item = u32> {
        std::iter::once(self.word).chain(self.rest.iter().copied())
    }

    /// True for a program: nothing in it may have an undefined result.
    pub fn is_program(&self) -> bool {
        self.rest.len() > 1
    }
}

/// How an instruction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It completed.
    Completed,
    /// It raised what Linux reports as this signal.
    Signal(u8),
    /// It was never reached.
    NotRun,
}

/// The state after an instruction; after a signal only `vsr` and `fpscr` mean something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// How it ended.
    pub ending: Ending,
    /// The state after it.
    pub after: Snapshot,
}
