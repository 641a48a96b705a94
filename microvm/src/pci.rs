//! The boundary between the PAPR PCI host bridge (`papr`) and the functions behind it (`virtio`).
//!
//! The bridge owns addresses and interrupt sources: it routes config cycles (ibm,read-/write-pci-config, LoPAR 7.3.5.1),
//! decodes MMIO by the BAR values that it asks the function for, binds MSI-X vectors to XICS sources (ibm,change-msi) and describes each
//! function in the device tree. The function owns its config space, its BAR contents and its vectors' mask bits.
//! All methods take `&self`: accesses come from any vCPU thread, and a function does its own, short, locking.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// One interrupt source of the machine, as a device sees it.
pub trait InterruptLine: Send + Sync {
    /// One edge: a message-signalled interrupt.
    fn trigger(&self);

    /// Level of a wired interrupt (INTx).
    fn set_level(&self, asserted: bool);
}

/// What a function is, for config space and device tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PciIdentity {
    /// Vendor id (0x1af4 for virtio).
    pub vendor_id: u16,
    /// Device id (0x1040 + virtio device type).
    pub device_id: u16,
    /// Class code: base class, subclass, programming interface in 24 bits.
    pub class_code: u32,
    /// Revision id (1 or above for modern virtio).
    pub revision_id: u8,
    /// Subsystem vendor id.
    pub subsystem_vendor_id: u16,
    /// Subsystem id.
    pub subsystem_id: u16,
}

/// A base address register. All are memory BARs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PciBar {
    /// Index of its first dword register (0 to 5).
    pub index: u8,
    /// Size in bytes, a power of two, at least 64 KiB so that a 64K-page guest maps nothing else with it.
    pub size_bytes: u64,
    /// 64-bit, occupying two registers.
    pub is_64bit: bool,
    /// Prefetchable.
    pub prefetchable: bool,
}

/// Direction of a function's access to memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DmaAccess {
    /// The function reads memory.
    Read,
    /// The function writes memory.
    Write,
}

/// What a function's accesses to memory go through when its driver has agreed to that: the endpoint's translation table.
pub trait DmaWindow: Send + Sync {
    /// The guest real address behind bus address `address`, and how many bytes from there on the same entry covers (at least one). `None`
    /// when the access is not granted. The address may lie outside guest memory: a guest writes the table.
    fn translate(&self, address: u64, access: DmaAccess) -> Option<(u64, u64)>;
}

/// Stores to a function's registers that become events without a vCPU leaving the guest.
pub trait Doorbells: Send + Sync {
    /// Stores to bus address `address` are writes to the eventfd `event` from now on; not `bound`: they come to the function again. False when
    /// that cannot be done: nothing changed then.
    fn bind(&self, address: u64, event: BorrowedFd<'_>, bound: bool) -> bool;
}

/// A PCI function behind the host bridge.
pub trait PciFunction: Send + Sync {
    /// A short name for logs and statistics, for example `fs0`.
    fn name(&self) -> &str;

    /// Its identity.
    fn identity(&self) -> PciIdentity;

    /// Its BARs.
    fn bars(&self) -> &[PciBar];

    /// Size of its MSI-X table (0 when it has none).
    fn msix_vectors(&self) -> u16;

    /// Reads `len` (1, 2 or 4) bytes of config space at `offset`, little-endian, zero-extended. All ones where nothing is.
    fn config_read(&self, offset: u16, len: u8) -> u32;

    /// Writes `len` (1, 2 or 4) bytes of config space at `offset`, little-endian.
    fn config_write(&self, offset: u16, len: u8, value: u32);

    /// Where BAR `index` is mapped now: its bus address, or `None` while memory decoding is off or the BAR is unassigned.
    fn bar_address(&self, index: u8) -> Option<u64>;

    /// Presets the BAR's address (the bridge assigns addresses before the guest starts).
    fn assign_bar(&self, index: u8, address: u64);

    /// Load from a BAR; fills `data` in memory order. Undefined offsets read as zeros.
    fn bar_read(&self, index: u8, offset: u64, data: &mut [u8]);

    /// Store to a BAR, `data` in memory order. Undefined offsets are ignored.
    fn bar_write(&self, index: u8, offset: u64, data: &[u8]);

    /// Binds MSI-X vector `vector` to an interrupt source, or unbinds it (ibm,change-msi).
    fn bind_msix(&self, vector: u16, line: Option<Arc<dyn InterruptLine>>);

    /// Gives the function its INTx line.
    fn bind_intx(&self, line: Arc<dyn InterruptLine>);

    /// Gives the function a window for its accesses to memory. Called before the guest starts, in machines that enforce it; the function then
    /// offers its driver to use it.
    fn bind_dma(&self, window: Arc<dyn DmaWindow>);

    /// Gives the function the means to be notified by events. Called before the guest starts, in machines that have them.
    fn bind_doorbells(&self, doorbells: Arc<dyn Doorbells>);

    /// The machine stops: end every thread of this function and release what it holds. Called once; idempotent.
    fn shutdown(&self);

    /// Counters by name (`requests`, `bytes_in`, `errors` …), readable at any time.
    fn statistics(&self) -> Vec<(&'static str, u64)>;
}
