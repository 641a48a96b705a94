//! A split virtqueue (virtio 1.2 §2.7) as a device thread uses it, and what all queues of a device share.
//!
//! The ring itself is virtio-queue's. What is added here is the policy: the first thing in a ring that cannot be makes the
//! queue broken, and from then on it behaves like an empty one, so that device code needs no error path for it.

use std::num::Wrapping;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering, fence};

use nix::sys::eventfd::EventFd;
use paperboat_hypervisor::{CodePages, GuestRam};
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::interrupts::Interrupts;
use super::translated::{DmaFault, TranslatedRing};

/// Guest memory as virtio-queue takes it.
pub type Ram = GuestMemoryMmap<CodePages>;

/// A chain of descriptors taken from a queue.
pub type Chain<'a> = DescriptorChain<&'a Ram>;

/// DEVICE_NEEDS_RESET in the device status (virtio 1.2 §2.1).
pub(super) const STATUS_NEEDS_RESET: u8 = 0x40;

/// VIRTQ_AVAIL_F_NO_INTERRUPT (virtio 1.2 §2.7.6).
pub(super) const NO_INTERRUPT: u16 = 1;

/// What can be wrong with a chain.
#[derive(Debug, thiserror::Error)]
pub enum ChainFault {
    /// Its buffers are not in memory, or their lengths overflow.
    #[error("a chain has buffers outside memory")]
    Buffers,
    /// It has no room for the answer that the device owes.
    #[error("a chain has no room for an answer")]
    NoRoom,
    /// A request is too short for its header.
    #[error("a request is cut short")]
    Short,
}

/// Counters of a device, readable at any time.
#[derive(Debug, Default)]
pub struct Counters {
    /// Chains completed.
    pub requests: AtomicU64,
    /// Most chains that one of its queues has held at once: made available and not completed yet.
    pub queue_depth: AtomicU64,
    /// Payload bytes from the guest.
    pub bytes_from_guest: AtomicU64,
    /// Payload bytes to the guest.
    pub bytes_to_guest: AtomicU64,
    /// Requests that were malformed, and rings found broken.
    pub errors: AtomicU64,
    /// Notifications by the driver.
    pub kicks: AtomicU64,
    /// Notifications served on the notifying vCPU, without the device's thread.
    pub direct: AtomicU64,
    /// Interrupts sent to the driver.
    pub interrupts: AtomicU64,
    /// Resets by the driver.
    pub resets: AtomicU64,
    /// Times the device was marked as needing a reset.
    pub broken: AtomicU64,
}

impl Counters {
    /// Adds one to a counter.
    pub fn count(counter: &AtomicU64) {
        Self::add(counter, 1);
    }

    /// Adds `amount` to a counter.
    pub fn add(counter: &AtomicU64, amount: u64) {
        counter.fetch_add(amount, Ordering::Relaxed);
    }

    /// All counters by name.
    pub fn snapshot(&self) -> Vec<(&'static str, u64)> {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        vec![
            ("requests", read(&self.requests)),
            ("queue_depth", read(&self.queue_depth)),
            ("bytes_from_guest", read(&self.bytes_from_guest)),
            ("bytes_to_guest", read(&self.bytes_to_guest)),
            ("errors", read(&self.errors)),
            ("kicks", read(&self.kicks)),
            ("direct", read(&self.direct)),
            ("interrupts", read(&self.interrupts)),
            ("resets", read(&self.resets)),
            ("broken", read(&self.broken)),
        ]
    }
}

/// What transport and queues of one device share.
pub(super) struct DeviceShared {
    pub(super) name: String,
    /// The device status register (virtio 1.2 §2.1).
    pub(super) status: AtomicU8,
    pub(super) interrupts: Interrupts,
    /// Changes with every change of the configuration that is not the driver's own (virtio 1.2 §4.1.4.3.1).
    pub(super) generation: AtomicU8,
    pub(super) counters: Arc<Counters>,
}

/// How a device tells its driver that the configuration changed.
#[derive(Clone)]
pub struct ConfigChange(pub(super) Arc<DeviceShared>);

impl ConfigChange {
    /// The configuration reads differently from now on.
    pub fn tell(&self) {
        self.0.generation.fetch_add(1, Ordering::SeqCst);
        self.0.interrupts.config_changed(&self.0.counters);
    }
}

impl DeviceShared {
    /// Sets DEVICE_NEEDS_RESET and tells the driver by a configuration change interrupt (virtio 1.2 §2.1.1).
    pub(super) fn needs_reset(&self, reason: &dyn std::fmt::Display) {
        Counters::count(&self.counters.errors);
        let before = self.status.fetch_or(STATUS_NEEDS_RESET, Ordering::SeqCst);
        if before & STATUS_NEEDS_RESET == 0 {
            log::warn!("{}: needs a reset: {reason}", self.name);
            Counters::count(&self.counters.broken);
            self.interrupts.config_changed(&self.counters);
        }
    }
}

/// Where the rings are: at guest real addresses, or behind the endpoint's window.
#[allow(clippy::large_enum_variant, reason = "one per queue, and never moved about")]
pub(super) enum Ring {
    Identity(Queue),
    Translated(TranslatedRing),
}

/// One queue of an active device. Once anything in it cannot be, it acts like an empty one.
pub struct DeviceQueue {
    ring: Ring,
    index: u16,
    ram: GuestRam,
    kick: Arc<EventFd>,
    shared: Arc<DeviceShared>,
    broken: bool,
    /// The used index when the driver was last told, or was not because it did not ask.
    signalled: Wrapping<u16>,
}

/// What is wrong with a ring.
#[derive(Debug, thiserror::Error)]
enum RingFault {
    #[error(transparent)]
    Queue(#[from] virtio_queue::Error),
    #[error(transparent)]
    Memory(#[from] vm_memory::GuestMemoryError),
    #[error(transparent)]
    Dma(#[from] DmaFault),
    #[error("a chain loops, is too long, or leads out of its table or out of memory")]
    Chain,
}

impl DeviceQueue {
    pub(super) fn new(ring: Ring, index: u16, ram: GuestRam, kick: Arc<EventFd>, shared: Arc<DeviceShared>) -> Self {
        Self { ring, index, ram, kick, shared, broken: false, signalled: Wrapping(0) }
    }

    fn size(&self) -> u16 {
        match &self.ring {
            Ring::Identity(ring) => ring.size(),
            Ring::Translated(ring) => ring.size(),
        }
    }

    /// Guest memory.
    pub fn ram(&self) -> &GuestRam {
        &self.ram
    }

    /// Readable when the driver has notified this queue.
    pub fn kick(&self) -> &EventFd {
        &self.kick
    }

    /// The same, to wait on without the queue.
    pub(super) fn shared_kick(&self) -> Arc<EventFd> {
        Arc::clone(&self.kick)
    }

    /// The device's counters.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.shared.counters)
    }

    /// Does something with the ring; what cannot be makes the queue broken, and a broken one is left alone.
    fn attempt<T: Default>(&mut self, action: impl FnOnce(&mut Self) -> Result<T, RingFault>) -> T {
        if self.broken {
            return T::default();
        }
        action(self).unwrap_or_else(|fault| {
            self.fail(fault);
            T::default()
        })
    }

    /// The next chain the driver has made available. Its descriptors are to be read before the next is popped.
    pub fn pop<'a>(&mut self, memory: &'a Ram) -> Option<Chain<'a>> {
        self.attempt(|queue| {
            let (chain, depth) = match &mut queue.ring {
                Ring::Identity(ring) => {
                    let chain = ring.iter(memory)?.next();
                    if chain.as_ref().is_some_and(|chain| !is_whole(chain)) {
                        return Err(RingFault::Chain);
                    }
                    (chain, ring.avail_idx(memory, Ordering::Relaxed)? - Wrapping(ring.next_used()))
                }
                Ring::Translated(ring) => (ring.pop(memory)?, ring.depth()),
            };
            // An index that the driver moves meanwhile may say anything.
            let depth = depth.0.min(queue.size());
            queue.shared.counters.queue_depth.fetch_max(depth.into(), Ordering::Relaxed);
            Ok(chain)
        })
    }

    /// Puts the chain popped last back: it will be popped again.
    pub fn unpop(&mut self) {
        match &mut self.ring {
            Ring::Identity(ring) => ring.go_to_previous_position(),
            Ring::Translated(ring) => ring.unpop(),
        }
    }

    /// Hands the chain that starts at `head` back to the driver, with `written` bytes in it.
    pub fn complete(&mut self, head: u16, written: u32) {
        self.complete_together(&[(head, written)]);
    }

    /// Hands chains back that belong together: the driver sees all of them at once, or none.
    pub fn complete_together(&mut self, chains: &[(u16, u32)]) {
        self.attempt(|queue| {
            match &mut queue.ring {
                Ring::Identity(ring) => complete(ring, queue.ram.memory(), chains)?,
                Ring::Translated(ring) => ring.complete(chains)?,
            }
            Counters::add(&queue.shared.counters.requests, chains.len() as u64);
            Ok(())
        });
    }

    /// Interrupts the driver if it wants to know about chains completed since the last call.
    pub fn signal(&mut self) {
        let wanted = self.attempt(|queue| match &mut queue.ring {
            Ring::Identity(ring) => Ok(wants_signal(ring, queue.ram.memory(), &mut queue.signalled)?),
            Ring::Translated(ring) => Ok(ring.wants_signal()?),
        });
        if wanted {
            self.shared.interrupts.queue_used(self.index, &self.shared.counters);
        }
    }

    /// Asks the driver not to notify while the queue is being served.
    pub fn disable_notifications(&mut self) {
        self.attempt(|queue| match &mut queue.ring {
            Ring::Identity(ring) => Ok(ring.disable_notification(queue.ram.memory())?),
            Ring::Translated(ring) => Ok(ring.notify(false).map(|_| ())?),
        });
    }

    /// Asks for notifications again; true if chains came in meanwhile, for which none will come.
    pub fn rearm(&mut self) -> bool {
        self.attempt(|queue| match &mut queue.ring {
            Ring::Identity(ring) => Ok(ring.enable_notification(queue.ram.memory())?),
            Ring::Translated(ring) => Ok(ring.notify(true)?),
        })
    }

    /// Marks the queue as broken and the device as needing a reset.
    pub fn fail(&mut self, reason: impl std::fmt::Display) {
        self.broken = true;
        self.shared.needs_reset(&format_args!("queue {}: {reason}", self.index));
    }
}

/// Whether a chain ends where its driver says so: the ring code leaves off without a word where it cannot go on.
fn is_whole(chain: &Chain<'_>) -> bool {
    chain.clone().last().is_some_and(|last| !last.has_next())
}

/// Puts elements into the used ring. Those beyond the index are the device's to write; the index then moves over all of them.
fn complete(ring: &mut Queue, memory: &Ram, chains: &[(u16, u32)]) -> Result<(), RingFault> {
    let Some(((last, last_written), others)) = chains.split_last() else { return Ok(()) };
    let (first, size) = (ring.next_used(), ring.size());
    for (position, (head, written)) in (0u16..).zip(others) {
        let slot = u64::from(first.wrapping_add(position) % size);
        let element = [u32::from(*head).to_le(), written.to_le()];
        memory.write_obj(element, GuestAddress(ring.used_ring().saturating_add(4 + 8 * slot)))?;
    }
    ring.set_next_used(first.wrapping_add(others.len() as u16));
    Ok(ring.add_used(memory, *last, *last_written)?)
}

/// Whether the driver asked to hear of one of the elements added since this was asked last (virtio 1.2 §2.7.7, §2.7.10).
fn wants_signal(ring: &Queue, memory: &Ram, signalled: &mut Wrapping<u16>) -> Result<bool, vm_memory::GuestMemoryError> {
    let new = Wrapping(ring.next_used());
    let old = std::mem::replace(signalled, new);
    // The index has to be out before the driver's wish is read.
    fence(Ordering::SeqCst);
    let available = ring.avail_ring();
    if ring.event_idx_enabled() {
        let at = available.saturating_add(4 + 2 * u64::from(ring.size()));
        let event: u16 = memory.load(GuestAddress(at), Ordering::Relaxed)?;
        return Ok(new - Wrapping(u16::from_le(event)) - Wrapping(1) < new - old);
    }
    let flags: u16 = memory.load(GuestAddress(available), Ordering::Relaxed)?;
    Ok(new != old && u16::from_le(flags) & NO_INTERRUPT == 0)
}
