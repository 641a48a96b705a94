//! Execution: blocks of pre-decoded instructions, interrupts, and access to storage.

use crate::mmu::Fault;

/// Storage as an instruction sees it: effective addresses, translated and checked, in the current endian mode.
pub trait DataMemory {
    /// Loads `size` (1, 2, 4, 8 or 16) bytes as one integer, byte order by MSR\[LE\]. Need not be aligned.
    ///
    /// # Errors
    /// The interrupt that the access raises; nothing has changed then.
    fn load(&mut self, ea: u64, size: u8) -> Result<u128, Fault>;

    /// Stores the low `size` (1, 2, 4, 8 or 16) bytes of `value` as one integer, byte order by MSR\[LE\]. Need not be aligned.
    ///
    /// # Errors
    /// The interrupt that the access raises; nothing was stored then.
    fn store(&mut self, ea: u64, size: u8, value: u128) -> Result<(), Fault>;
}
