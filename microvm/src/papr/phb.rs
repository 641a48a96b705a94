//! The PAPR PCI host bridge: one bus, one function per device, memory windows, MSI-X sources and a DMA window
//! (LoPAR, PCI Configuration Space, MSI Support; IEEE 1275 PCI binding).

use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use paperboat_hypervisor::StoreEvents;

use super::sources::Sources;
use super::tce::{Access, TCE_PAGE_SIZE, TceTables};
use super::xics;
use crate::pci::{DmaAccess, DmaWindow, Doorbells, PciBar, PciFunction};

/// The bridge's unit identifier, also its unit address in the tree.
pub const BUID: u64 = 0x800_0000_2000_0000;

/// Most functions: device numbers 0 to 31 of bus 0.
pub const FUNCTIONS_MAX: usize = 32;

/// Logical I/O bus number of the bridge's DMA window.
pub const LIOBN: u32 = 0x8000_0000;

/// How the functions reach memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DmaPolicy {
    /// By guest real address.
    #[default]
    Identity,
    /// Through a table of its own for each function, if its driver agrees: the function offers it.
    Enforced,
}

/// A function's view through its table.
pub(crate) struct EndpointWindow {
    tce: Arc<TceTables>,
    liobn: u32,
}

impl EndpointWindow {
    pub(crate) fn new(tce: Arc<TceTables>, liobn: u32) -> Self {
        Self { tce, liobn }
    }
}

impl DmaWindow for EndpointWindow {
    fn translate(&self, address: u64, access: DmaAccess) -> Option<(u64, u64)> {
        let access = match access {
            DmaAccess::Read => Access::Read,
            DmaAccess::Write => Access::Write,
        };
        let real = self.tce.translate(self.liobn, address, access).ok()?;
        Some((real, TCE_PAGE_SIZE - address % TCE_PAGE_SIZE))
    }
}

/// The backend's events, by bus address.
struct BridgeDoorbells {
    events: Arc<dyn StoreEvents>,
}

impl Doorbells for BridgeDoorbells {
    fn bind(&self, address: u64, event: BorrowedFd<'_>, bound: bool) -> bool {
        let memory = WINDOWS.iter().filter(|window| window.space != SPACE_IO);
        let Some(window) = memory.into_iter().find(|window| address.wrapping_sub(window.bus_base) < window.size_bytes) else {
            return false;
        };
        let done = self.events.bind_store(address - window.bus_base + window.real_base, event, bound);
        // Two functions at one address are the guest's own doing: the later one's stores go on coming out.
        done.inspect_err(|error| log::debug!("doorbell at {address:#x}: {error}")).is_ok()
    }
}

/// Size of the DMA window in bytes. The guest clears every entry at boot, 512 a call, so it is only as large as bounce-free
/// traffic of the devices needs.
pub const DMA_WINDOW_BYTES: u64 = 64 << 20;

/// A range of bus addresses that guest real addresses reach.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// The space code of the PCI binding: I/O, 32-bit memory, 64-bit memory.
    pub space: u32,
    /// First bus address.
    pub bus_base: u64,
    /// First guest real address.
    pub real_base: u64,
    /// Size in bytes.
    pub size_bytes: u64,
}

const SPACE_IO: u32 = 0x0100_0000;
const SPACE_MEMORY32: u32 = 0x0200_0000;
const SPACE_MEMORY64: u32 = 0x0300_0000;
const SPACE_PREFETCHABLE: u32 = 0x4000_0000;

/// The windows, far above any guest memory and below the 46 real address bits of the hashed page table.
pub const WINDOWS: &[Window] = &[
    Window { space: SPACE_IO, bus_base: 0, real_base: 0x2000_0000_0000, size_bytes: 0x1_0000 },
    Window { space: SPACE_MEMORY32, bus_base: 0x8000_0000, real_base: 0x2000_8000_0000, size_bytes: 0x8000_0000 },
    Window { space: SPACE_MEMORY64, bus_base: 0x2100_0000_0000, real_base: 0x2100_0000_0000, size_bytes: 0x100_0000_0000 },
];

/// The cells of `ibm,dma-window`: number, start, size.
pub fn dma_window_cells(liobn: u32) -> [u32; 5] {
    [liobn, 0, 0, (DMA_WINDOW_BYTES >> 32) as u32, DMA_WINDOW_BYTES as u32]
}

/// Why the functions cannot be attached.
#[derive(Debug, thiserror::Error)]
pub enum PhbError {
    /// More functions than device numbers.
    #[error("{count} PCI functions, allowed are {FUNCTIONS_MAX}")]
    TooMany {
        /// How many.
        count: usize,
    },
    /// A BAR that no window can hold.
    #[error("{function}: BAR {index} of {size_bytes:#x} bytes fits no window")]
    Bar {
        /// The function's name.
        function: String,
        /// Which BAR.
        index: u8,
        /// Its size.
        size_bytes: u64,
    },
}

/// A BAR with the bus address it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AssignedBar {
    /// The register.
    pub bar: PciBar,
    /// Bus address before the guest moves it.
    pub address: u64,
}

impl AssignedBar {
    /// The space code with the prefetchable bit.
    pub fn space(&self) -> u32 {
        let space = if self.bar.is_64bit { SPACE_MEMORY64 } else { SPACE_MEMORY32 };
        if self.bar.prefetchable { space | SPACE_PREFETCHABLE } else { space }
    }
}

/// A function in its place.
pub struct PciSlot {
    /// Device number on bus 0.
    pub device: u8,
    /// What is there.
    pub function: Arc<dyn PciFunction>,
    /// Its BARs.
    pub bars: Vec<AssignedBar>,
    /// Number of the translation table that is its own.
    pub liobn: Option<u32>,
}

impl PciSlot {
    /// The high cell that names a register of this function in the PCI binding, also the configuration address of RTAS.
    pub fn config_address(&self, register: u16) -> u32 {
        u32::from(self.device) << 11 | u32::from(register & 0xff)
    }
}

/// Why an RTAS call on the bridge fails; all are RTAS parameter errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no such bridge, function, register or vector")]
pub struct BadPciCall;

/// A configuration access as RTAS names it.
#[derive(Debug, Clone, Copy)]
pub struct ConfigAccess {
    /// `config_addr`: bus, device, function, register; the register's upper four bits on top.
    pub address: u32,
    /// 1, 2 or 4 bytes.
    pub size: u32,
}

/// The bridge.
pub struct Phb {
    slots: Vec<PciSlot>,
    sources: Arc<dyn Sources>,
    msi: Mutex<MsiPool>,
}

/// Message-signalled sources by device: contiguous ranges.
#[derive(Default)]
struct MsiPool {
    ranges: Vec<MsiRange>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct MsiRange {
    device: u8,
    first: u32,
    count: u32,
}

impl Phb {
    /// Gives each function a device number, BAR addresses and an INTx line, in order.
    ///
    /// # Errors
    /// [`PhbError`].
    pub fn new(
        functions: Vec<Arc<dyn PciFunction>>,
        sources: Arc<dyn Sources>,
        tce: &Arc<TceTables>,
        policy: DmaPolicy,
    ) -> Result<Self, PhbError> {
        if functions.len() > FUNCTIONS_MAX {
            return Err(PhbError::TooMany { count: functions.len() });
        }
        // No function, no bridge in the tree, no window.
        if !functions.is_empty() {
            tce.add(LIOBN, DMA_WINDOW_BYTES);
        }
        let mut next = [0, WINDOWS[1].bus_base, WINDOWS[2].bus_base];
        let mut slots = Vec::with_capacity(functions.len());
        for (device, function) in functions.into_iter().enumerate() {
            let mut bars = Vec::new();
            for bar in function.bars() {
                let window = if bar.is_64bit { 2 } else { 1 };
                let limit = WINDOWS[window].bus_base + WINDOWS[window].size_bytes;
                let refused =
                    || PhbError::Bar { function: function.name().to_owned(), index: bar.index, size_bytes: bar.size_bytes };
                let size_bytes = Some(bar.size_bytes).filter(|size| size.is_power_of_two() && bar.index < 6);
                let size_bytes = size_bytes.ok_or_else(refused)?;
                let address = next[window].next_multiple_of(size_bytes);
                let end = address.checked_add(size_bytes).filter(|end| *end <= limit).ok_or_else(refused)?;
                next[window] = end;
                function.assign_bar(bar.index, address);
                bars.push(AssignedBar { bar: *bar, address });
            }
            let device = device as u8;
            function.bind_intx(sources.line(xics::intx_source(device)));
            let liobn = (policy == DmaPolicy::Enforced).then(|| LIOBN + 1 + u32::from(device));
            if let Some(liobn) = liobn {
                tce.add(liobn, DMA_WINDOW_BYTES);
                function.bind_dma(Arc::new(EndpointWindow::new(Arc::clone(tce), liobn)));
            }
            slots.push(PciSlot { device, function, bars, liobn });
        }
        Ok(Self { slots, sources, msi: Mutex::default() })
    }

    /// Lets the functions be notified by events of the backend.
    pub fn bind_doorbells(&self, events: &Arc<dyn StoreEvents>) {
        for slot in &self.slots {
            slot.function.bind_doorbells(Arc::new(BridgeDoorbells { events: Arc::clone(events) }));
        }
    }

    /// The functions in device order.
    pub fn slots(&self) -> &[PciSlot] {
        &self.slots
    }

    #[cfg(test)]
    pub(crate) fn into_slots(self) -> Vec<PciSlot> {
        self.slots
    }

    /// ibm,read-pci-config: the value, all ones where no function is.
    ///
    /// # Errors
    /// [`BadPciCall`] for a size or alignment that does not exist.
    pub fn config_read(&self, access: ConfigAccess) -> Result<u32, BadPciCall> {
        let (slot, register) = self.decode(access)?;
        let ones = u32::MAX >> (32 - access.size * 8);
        Ok(slot.map_or(ones, |slot| slot.function.config_read(register, access.size as u8) & ones))
    }

    /// ibm,write-pci-config; ignored where no function is.
    ///
    /// # Errors
    /// As [`Self::config_read`].
    pub fn config_write(&self, access: ConfigAccess, value: u32) -> Result<(), BadPciCall> {
        let (slot, register) = self.decode(access)?;
        if let Some(slot) = slot {
            let mask = u32::MAX >> (32 - access.size * 8);
            slot.function.config_write(register, access.size as u8, value & mask);
        }
        Ok(())
    }

    fn decode(&self, access: ConfigAccess) -> Result<(Option<&PciSlot>, u16), BadPciCall> {
        let register = (access.address & 0xff | access.address >> 20 & 0xf00) as u16;
        if !matches!(access.size, 1 | 2 | 4) || u32::from(register) % access.size != 0 {
            return Err(BadPciCall);
        }
        Ok((self.slot_at(access.address), register))
    }

    fn slot_at(&self, address: u32) -> Option<&PciSlot> {
        let (bus, function) = (address >> 16 & 0xff, address >> 8 & 7);
        let device = (address >> 11 & 0x1f) as usize;
        if bus != 0 || function != 0 { None } else { self.slots.get(device) }
    }

    /// ibm,change-msi: releases what the function has and binds `count` sources to its vectors. Returns how many it got.
    ///
    /// # Errors
    /// [`BadPciCall`] when there is no such function, or it has no MSI-X, or the sources are used up.
    pub fn change_msix(&self, address: u32, count: u32) -> Result<u32, BadPciCall> {
        let slot = self.slot_at(address).ok_or(BadPciCall)?;
        let vectors = u32::from(slot.function.msix_vectors());
        // Linux asks for a power of two and takes anything else as a refusal.
        let count = count.min(vectors.next_power_of_two());
        if vectors == 0 && count > 0 {
            return Err(BadPciCall);
        }
        let mut msi = self.lock();
        if let Some(position) = msi.ranges.iter().position(|range| range.device == slot.device) {
            let range = msi.ranges.remove(position);
            for index in 0..range.count {
                if index < vectors {
                    slot.function.bind_msix(index as u16, None);
                }
                self.sources.reset(range.first + index);
            }
        }
        if count == 0 {
            return Ok(0);
        }
        let range = msi.take(slot.device, count).ok_or(BadPciCall)?;
        for index in 0..count.min(vectors) {
            slot.function.bind_msix(index as u16, Some(self.sources.line(range.first + index)));
        }
        Ok(count)
    }

    /// How many sources the function has now.
    ///
    /// # Errors
    /// [`BadPciCall`] when there is no such function.
    pub fn msix_count(&self, address: u32) -> Result<u32, BadPciCall> {
        let slot = self.slot_at(address).ok_or(BadPciCall)?;
        Ok(self.lock().ranges.iter().find(|range| range.device == slot.device).map_or(0, |range| range.count))
    }

    /// ibm,query-interrupt-source-number: the source of vector `index`.
    ///
    /// # Errors
    /// [`BadPciCall`] when the function has no such vector bound.
    pub fn msix_source(&self, address: u32, index: u32) -> Result<u32, BadPciCall> {
        let slot = self.slot_at(address).ok_or(BadPciCall)?;
        let msi = self.lock();
        let range = msi.ranges.iter().find(|range| range.device == slot.device).ok_or(BadPciCall)?;
        if index < range.count { Ok(range.first + index) } else { Err(BadPciCall) }
    }

    /// Load from a guest real address. All ones where nothing answers (a master abort).
    pub fn mmio_read(&self, real: u64, data: &mut [u8]) {
        match self.claim(real, data.len() as u64) {
            Some((slot, bar, offset)) => {
                data.fill(0);
                slot.function.bar_read(bar, offset, data);
            }
            None => data.fill(0xff),
        }
    }

    /// Store to a guest real address; lost where nothing answers. Returns whether something did.
    pub fn mmio_write(&self, real: u64, data: &[u8]) -> bool {
        match self.claim(real, data.len() as u64) {
            Some((slot, bar, offset)) => {
                slot.function.bar_write(bar, offset, data);
                true
            }
            None => false,
        }
    }

    /// True for real addresses that lie in a window.
    pub fn covers(&self, real: u64) -> bool {
        !self.slots.is_empty() && WINDOWS.iter().any(|window| real.wrapping_sub(window.real_base) < window.size_bytes)
    }

    fn claim(&self, real: u64, length: u64) -> Option<(&PciSlot, u8, u64)> {
        let window = WINDOWS.iter().find(|window| real.wrapping_sub(window.real_base) < window.size_bytes)?;
        if window.space == SPACE_IO {
            return None;
        }
        let address = real - window.real_base + window.bus_base;
        self.slots.iter().find_map(|slot| {
            slot.bars.iter().find_map(|assigned| {
                let base = slot.function.bar_address(assigned.bar.index)?;
                let offset = address.checked_sub(base)?;
                (offset.checked_add(length)? <= assigned.bar.size_bytes).then_some((slot, assigned.bar.index, offset))
            })
        })
    }

    fn lock(&self) -> MutexGuard<'_, MsiPool> {
        self.msi.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MsiPool {
    /// The first gap of `count` sources, at a multiple of the power of two above it.
    fn take(&mut self, device: u8, count: u32) -> Option<MsiRange> {
        let align = count.next_power_of_two();
        let end = xics::MSI_BASE + xics::MSI_SOURCES;
        let mut first = xics::MSI_BASE;
        while first + count <= end {
            let taken = self.ranges.iter().find(|range| first < range.first + range.count && range.first < first + count);
            match taken {
                Some(range) => first = (range.first + range.count).next_multiple_of(align),
                None => {
                    let range = MsiRange { device, first, count };
                    self.ranges.push(range);
                    return Some(range);
                }
            }
        }
        None
    }
}

const _: () = assert!(DMA_WINDOW_BYTES.is_multiple_of(TCE_PAGE_SIZE));

#[cfg(test)]
mod tests {
    use super::super::xics::Xics;
    use super::*;
    use crate::testing::TestFunction;

    fn phb(count: usize) -> (Phb, Vec<Arc<TestFunction>>) {
        let functions: Vec<_> = (0..count).map(|index| Arc::new(TestFunction::new(&format!("t{index}")))).collect();
        let dynamic = functions.iter().map(|function| function.clone() as Arc<dyn PciFunction>).collect();
        (Phb::new(dynamic, Arc::new(Xics::new(1)), &Arc::default(), DmaPolicy::Identity).unwrap(), functions)
    }

    #[test]
    fn bars_do_not_overlap_and_are_aligned() {
        let (phb, _) = phb(3);
        let mut ranges: Vec<_> =
            phb.slots().iter().flat_map(|slot| slot.bars.iter()).map(|bar| (bar.address, bar.bar.size_bytes)).collect();
        ranges.sort_unstable();
        for (address, size) in &ranges {
            assert_eq!(address % size, 0);
        }
        for pair in ranges.windows(2) {
            assert!(pair[0].0 + pair[0].1 <= pair[1].0);
        }
    }

    #[test]
    fn config_cycles_reach_their_function_only() {
        let (phb, functions) = phb(2);
        assert_eq!(phb.config_read(ConfigAccess { address: 0x800, size: 2 }), Ok(0x1af4));
        assert_eq!(phb.config_read(ConfigAccess { address: 0x1000, size: 4 }), Ok(0xffff_ffff), "no device 2");
        assert_eq!(phb.config_read(ConfigAccess { address: 0x100, size: 2 }), Ok(0xffff), "no function 1");
        assert_eq!(phb.config_read(ConfigAccess { address: 0x1_0000, size: 1 }), Ok(0xff), "no bus 1");
        for (address, size) in [(0, 0), (0, 3), (0, 8), (1, 2), (2, 4), (0, u32::MAX)] {
            assert_eq!(phb.config_read(ConfigAccess { address, size }), Err(BadPciCall));
        }
        phb.config_write(ConfigAccess { address: 0x804, size: 2 }, 0xffff_0006).unwrap();
        assert_eq!(functions[1].last_config_write(), Some((4, 2, 6)));
        assert_eq!(functions[0].last_config_write(), None);
        phb.config_write(ConfigAccess { address: 0x1000_0008, size: 4 }, 1).unwrap();
        assert_eq!(functions[0].last_config_write(), Some((0x108, 4, 1)), "extended configuration space");
    }

    #[test]
    fn mmio_goes_by_the_bar_that_the_function_decodes() {
        let (phb, functions) = phb(2);
        let address = phb.slots()[1].bars[0].address;
        let mut data = [0; 4];
        phb.mmio_read(address + 8, &mut data);
        assert_eq!(data, [0xff; 4], "decoding is off");
        functions[1].decode(true);
        phb.mmio_read(address + 8, &mut data);
        assert_eq!(data, [8, 9, 10, 11]);
        assert!(phb.mmio_write(address + 0x10, &[1, 2]));
        assert_eq!(functions[1].last_bar_write(), Some((4, 0x10, vec![1, 2])));
        let end = address + phb.slots()[1].bars[0].bar.size_bytes;
        assert!(!phb.mmio_write(end - 1, &[1, 2]), "an access across the end is nobody's");
        assert!(!phb.mmio_write(0, &[1]));
        assert!(!phb.mmio_write(u64::MAX, &[1]));
    }

    #[test]
    fn message_sources_are_bound_queried_and_released() {
        let (phb, functions) = phb(3);
        assert_eq!(phb.change_msix(0x800, 2), Ok(2));
        let first = phb.msix_source(0x800, 0).unwrap();
        assert_eq!(phb.msix_source(0x800, 1), Ok(first + 1));
        assert_eq!(phb.msix_source(0x800, 2), Err(BadPciCall));
        assert_eq!(phb.msix_source(0, 0), Err(BadPciCall));
        assert_eq!(functions[1].bound_vectors(), 2);
        assert_eq!(phb.change_msix(0x800, 1), Ok(1), "a second change replaces the first");
        assert_eq!(functions[1].bound_vectors(), 1);
        assert_eq!(phb.change_msix(0, 1000), Ok(2), "no more than the table rounded up");
        assert_ne!(phb.msix_source(0, 0), phb.msix_source(0x800, 0));
        assert_eq!(phb.change_msix(0x800, 0), Ok(0));
        assert_eq!(phb.change_msix(0x800, 0), Ok(0));
        assert_eq!(functions[1].bound_vectors(), 0);
        assert_eq!(phb.change_msix(0x1800, 1), Err(BadPciCall));
        assert_eq!(phb.msix_count(0), Ok(2));
    }

    #[test]
    fn too_many_functions_are_refused() {
        let functions: Vec<Arc<dyn PciFunction>> = (0..33).map(|_| Arc::new(TestFunction::new("t")) as _).collect();
        assert!(matches!(
            Phb::new(functions, Arc::new(Xics::new(1)), &Arc::default(), DmaPolicy::Identity),
            Err(PhbError::TooMany { count: 33 })
        ));
    }
}
