//! TCE tables: which guest pages a partitionable endpoint may reach, and how (LoPAR, Translation Control Entry Access).

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes that one entry maps.
pub const TCE_PAGE_SIZE: u64 = 4096;

/// Most entries one multi-TCE hypercall may name.
pub const TCES_PER_CALL_MAX: u64 = 512;

const TCE_READ: u64 = 1;
const TCE_WRITE: u64 = 2;
const TCE_ACCESS: u64 = TCE_READ | TCE_WRITE;

/// Direction of a device's access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// The device reads memory.
    Read,
    /// The device writes memory.
    Write,
}

/// Why a TCE call or a device's access fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TceError {
    /// No table has this number.
    #[error("no such logical I/O bus number")]
    Liobn,
    /// The I/O address lies outside the window.
    #[error("I/O bus address outside the window")]
    Address,
    /// The entry does not grant the access.
    #[error("access not granted")]
    Denied,
}

struct Table {
    window_bytes: u64,
    /// Made with the first entry that grants something: most machines use identity DMA and never need it.
    entries: Vec<u64>,
}

/// All tables, by logical I/O bus number.
#[derive(Default)]
pub struct TceTables {
    tables: Mutex<BTreeMap<u32, Table>>,
}

impl TceTables {
    /// Adds an empty table for I/O addresses 0 to `window_bytes`.
    pub fn add(&self, liobn: u32, window_bytes: u64) {
        self.lock().insert(liobn, Table { window_bytes, entries: Vec::new() });
    }

    /// Sets `count` entries from `ioba` on to the values `tce` gives for 0, 1, 2 …
    ///
    /// # Errors
    /// [`TceError::Liobn`], [`TceError::Address`]; nothing is changed then.
    pub fn put(&self, liobn: u64, ioba: u64, count: u64, tce: impl Fn(u64) -> u64) -> Result<(), TceError> {
        let mut tables = self.lock();
        let table = find(&mut tables, liobn)?;
        let first = ioba / TCE_PAGE_SIZE;
        let size = table.window_bytes / TCE_PAGE_SIZE;
        let end = first.checked_add(count).filter(|end| *end <= size).ok_or(TceError::Address)?;
        let clearing = (0..count).all(|index| tce(index) & TCE_ACCESS == 0);
        if table.entries.is_empty() && clearing {
            return Ok(());
        }
        table.entries.resize(size as usize, 0);
        for (index, slot) in table.entries[first as usize..end as usize].iter_mut().enumerate() {
            *slot = tce(index as u64);
        }
        Ok(())
    }

    /// The entry for `ioba`.
    ///
    /// # Errors
    /// [`TceError::Liobn`], [`TceError::Address`].
    pub fn entry(&self, liobn: u64, ioba: u64) -> Result<u64, TceError> {
        let mut tables = self.lock();
        let table = find(&mut tables, liobn)?;
        if ioba >= table.window_bytes {
            return Err(TceError::Address);
        }
        Ok(table.entries.get((ioba / TCE_PAGE_SIZE) as usize).copied().unwrap_or(0))
    }

    /// The guest real address behind `ioba` for an access within one TCE page.
    ///
    /// # Errors
    /// [`TceError::Denied`] when the entry does not grant it, and those of [`Self::entry`].
    pub fn translate(&self, liobn: u32, ioba: u64, access: Access) -> Result<u64, TceError> {
        let entry = self.entry(liobn.into(), ioba)?;
        let needed = match access {
            Access::Read => TCE_READ,
            Access::Write => TCE_WRITE,
        };
        if entry & needed == 0 {
            return Err(TceError::Denied);
        }
        Ok(entry & !(TCE_PAGE_SIZE - 1) | ioba & (TCE_PAGE_SIZE - 1))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Table>> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn find(tables: &mut BTreeMap<u32, Table>, liobn: u64) -> Result<&mut Table, TceError> {
    let liobn = u32::try_from(liobn).map_err(|_| TceError::Liobn)?;
    tables.get_mut(&liobn).ok_or(TceError::Liobn)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables() -> TceTables {
        let tables = TceTables::default();
        tables.add(0x8000_0000, 1 << 20);
        tables
    }

    #[test]
    fn entries_grant_what_they_say() {
        let tables = tables();
        tables.put(0x8000_0000, 0x3000, 1, |_| 0x1234_5000 | TCE_READ).unwrap();
        assert_eq!(tables.entry(0x8000_0000, 0x3fff), Ok(0x1234_5001));
        assert_eq!(tables.translate(0x8000_0000, 0x3042, Access::Read), Ok(0x1234_5042));
        assert_eq!(tables.translate(0x8000_0000, 0x3042, Access::Write), Err(TceError::Denied));
        assert_eq!(tables.translate(0x8000_0000, 0x4000, Access::Read), Err(TceError::Denied));
    }

    #[test]
    fn the_window_and_the_number_are_checked() {
        let tables = tables();
        assert_eq!(tables.put(1, 0, 1, |_| 3), Err(TceError::Liobn));
        assert_eq!(tables.put(0x1_8000_0000, 0, 1, |_| 3), Err(TceError::Liobn));
        assert_eq!(tables.put(0x8000_0000, 0xf_f000, 2, |_| 3), Err(TceError::Address));
        assert_eq!(tables.put(0x8000_0000, u64::MAX, u64::MAX, |_| 3), Err(TceError::Address));
        assert_eq!(tables.entry(0x8000_0000, 1 << 20), Err(TceError::Address));
        assert_eq!(tables.entry(0x8000_0000, 0xf_f000), Ok(0), "the refused call changed nothing");
    }

    #[test]
    fn clearing_an_unused_table_allocates_nothing() {
        let tables = tables();
        tables.put(0x8000_0000, 0, 256, |_| 0).unwrap();
        assert!(tables.lock()[&0x8000_0000].entries.is_empty());
    }
}
