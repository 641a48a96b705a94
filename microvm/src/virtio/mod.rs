//! Virtio devices on PCI (virtio 1.2), as any stock ppc64 kernel finds them.
//!
//! [`VirtioPci`] is the transport: it owns everything that is the same for every device, namely config space, the register
//! windows, feature negotiation, MSI-X, reset. A [`VirtioDevice`] owns what makes it that device. The two meet at
//! [`VirtioDevice::activate`]: the transport hands over the queues the driver has set up, and the device serves them on threads of
//! its own, which sleep on each queue's eventfd, until [`VirtioDevice::reset`] has joined them all.
//!
//! Whatever a driver puts into rings and registers ends in one of three ways: a proper answer, a counted error, or
//! a queue that is marked broken (DEVICE_NEEDS_RESET, virtio 1.2 §2.1.1) and served no further until the driver resets the device.

pub mod balloon;
mod config_space;
mod doorbells;
pub mod fs;

mod interrupts;
mod later;
pub mod net;
mod pci;
mod queue;
pub mod rng;
mod translated;
pub mod vsock;
mod worker;

#[cfg(test)]
mod testkit;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use paperboat_hypervisor::GuestRam;

pub use pci::VirtioPci;
pub use queue::{Chain, ConfigChange, Counters, DeviceQueue, Ram};

/// VIRTIO_F_RING_INDIRECT_DESC (virtio 1.2 §6).
pub const F_INDIRECT_DESC: u64 = 1 << 28;
/// VIRTIO_F_RING_EVENT_IDX.
pub const F_EVENT_IDX: u64 = 1 << 29;
/// VIRTIO_F_VERSION_1.
pub const F_VERSION_1: u64 = 1 << 32;
/// VIRTIO_F_ACCESS_PLATFORM: addresses are bus addresses.
pub const F_ACCESS_PLATFORM: u64 = 1 << 33;

/// Most queues a device may have. It bounds the notification window and the MSI-X table.
pub const MAX_QUEUES: usize = 64;

/// Why a device could not be made or started.
#[derive(Debug, thiserror::Error)]
pub enum VirtioError {
    /// An eventfd, epoll instance or duplicate descriptor could not be made.
    #[error("cannot create the {what} of {device}")]
    Descriptor {
        /// The device's name.
        device: String,
        /// What was being made.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A thread could not be started.
    #[error("cannot start thread {thread}")]
    Thread {
        /// The thread's name.
        thread: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The device offers more queues than [`MAX_QUEUES`], or one whose size is not a power of two.
    #[error("{device} offers queues of sizes {sizes:?}: at most {MAX_QUEUES} powers of two up to 32768")]
    Queues {
        /// The device's name.
        device: String,
        /// The sizes it offers.
        sizes: Vec<u16>,
    },
    /// The driver started the device without a queue that it needs.
    #[error("queue {index} is not enabled")]
    QueueMissing {
        /// The queue's index.
        index: u16,
    },
    /// The directory cannot be served.
    #[error(transparent)]
    Fs(#[from] fs::FsError),
    /// The sockets cannot be served.
    #[error(transparent)]
    Vsock(#[from] vsock::VsockError),
}

/// What the driver has set up when it writes DRIVER_OK.
pub struct Activation {
    /// Guest memory.
    pub ram: GuestRam,
    /// The negotiated feature bits.
    pub features: u64,
    /// One entry per queue index; `None` where the driver did not enable it.
    pub queues: Vec<Option<DeviceQueue>>,
    /// Tells the driver of changes in the device's configuration, until the reset.
    pub change: ConfigChange,
}

impl Activation {
    /// Takes queue `index` out.
    ///
    /// # Errors
    /// [`VirtioError::QueueMissing`] if the driver did not enable it.
    pub fn take_queue(&mut self, index: u16) -> Result<DeviceQueue, VirtioError> {
        self.queues.get_mut(usize::from(index)).and_then(Option::take).ok_or(VirtioError::QueueMissing { index })
    }
}

/// A queue that can be served on the thread that notifies it.
pub trait DirectService: Send + Sync {
    /// The driver has notified the queue. True if nothing is left for the device's own thread.
    fn notified(&self) -> bool;
}

/// A virtio device without its transport.
///
/// The transport calls these from vCPU threads, one at a time.
pub trait VirtioDevice: Send {
    /// Virtio device type (virtio 1.2 §5).
    fn device_type(&self) -> u16;

    /// PCI class code in 24 bits.
    fn class_code(&self) -> u32;

    /// Largest size of each queue, powers of two.
    fn queue_sizes(&self) -> Vec<u16>;

    /// Device-specific feature bits it offers (0 to 23 and 50 up); the transport adds its own.
    fn features(&self) -> u64 {
        0
    }

    /// Fills `data` from the device configuration at `offset`; bytes beyond its end stay zero.
    fn read_config(&self, offset: usize, data: &mut [u8]);

    /// Stores `data` (1 to 8 bytes) into the device configuration at `offset`. Ignored where nothing can be written.
    fn write_config(&mut self, _offset: usize, _data: &[u8]) {}

    /// The driver is ready: serve the queues from now on.
    ///
    /// # Errors
    /// The transport marks the device as needing a reset.
    fn activate(&mut self, activation: Activation) -> Result<(), VirtioError>;

    /// How queue `index` is served by a vCPU, if the device does that. Asked after each activation; not used any more once
    /// [`Self::reset`] was called, except by a call that was under way.
    fn direct(&self, _index: u16) -> Option<Arc<dyn DirectService>> {
        None
    }

    /// Stops serving, joins every thread and forgets what belonged to this activation. Called in any state.
    fn reset(&mut self);

    /// The machine ends: beyond a reset, releases what the device holds outside (sockets, files).
    fn shutdown(&mut self) {
        self.reset();
    }

    /// Whether there is anything for a driver to do. Of a device without, the PCI function shows an id that no driver takes; the guest sees
    /// the other one when it scans the bus again.
    fn is_plugged(&self) -> bool {
        true
    }

    /// Device-specific counters, added to the transport's.
    fn statistics(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}

/// Copies `source[offset..]` into `data` as far as it reaches: how configuration structures are read.
pub(crate) fn copy_config(source: &[u8], offset: usize, data: &mut [u8]) {
    let available = source.get(offset..).unwrap_or_default();
    let length = available.len().min(data.len());
    data[..length].copy_from_slice(&available[..length]);
}

/// A lock whose holder panicked still holds consistent data here: every critical section is a few assignments.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
