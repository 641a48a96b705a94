//! A split virtqueue whose every address goes through the endpoint's DMA window (VIRTIO_F_ACCESS_PLATFORM, virtio 1.2 §6.1).
//!
//! Rings, descriptors and indirect tables are read and written here page by page, each access as the window grants it. The buffers of a chain are
//! translated when it is popped and written down again, as guest real addresses, in a table that only this process has; device code then walks
//! that table as it walks any other. A table holds one chain: it is read before the next is popped.

use std::num::Wrapping;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use paperboat_hypervisor::{GuestRam, RamError};
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use super::queue::{Chain, NO_INTERRUPT, Ram};
use crate::pci::{DmaAccess, DmaWindow};

/// Where the tables stand: far beyond any guest memory, and nothing that a window translates to.
const TABLES_AT: u64 = 1 << 56;
/// Places for the first piece of a chain, by its head: the largest queue of any device here.
const HEADS: u16 = 1024;
/// Pieces of a chain. 16 MiB in pages of 4 KiB are 4096; one that has more than this is refused.
const PIECES_MAX: u16 = 8192;
/// Descriptors of one table: a queue's size, so a power of two.
const TABLE_DESCRIPTORS: u16 = (HEADS + PIECES_MAX).next_power_of_two();
const DESCRIPTOR_BYTES: u64 = 16;
/// A table is followed by a ring of available chains, which is how the ring code is shown one.
const RING_OFFSET: u64 = TABLE_DESCRIPTORS as u64 * DESCRIPTOR_BYTES;
const TABLE_BYTES: u64 = RING_OFFSET + 0x1_0000;

/// Descriptor flags (virtio 1.2 §2.7.5).
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// Why a ring cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum DmaFault {
    /// The endpoint may not do that there.
    #[error("{access:?} access to bus address {address:#x} is not granted")]
    Denied { address: u64, access: DmaAccess },
    /// The window leads outside guest memory.
    #[error("bus address {address:#x} leads outside guest memory")]
    Outside { address: u64 },
    /// More chains than the ring has places for.
    #[error("the available index is beyond the queue")]
    Index,
    /// A descriptor that the table does not have, or too many of them, or nested tables.
    #[error("a chain of descriptors that cannot be")]
    Chain,
    /// The table that only this process has cannot be written.
    #[error(transparent)]
    Memory(#[from] GuestMemoryError),
    /// The ring code does not take that table.
    #[error(transparent)]
    Walker(#[from] virtio_queue::Error),
}

/// A device's view of memory in which each of `queues` queues has a table.
pub(super) fn with_tables(ram: &GuestRam, queues: usize) -> Result<GuestRam, RamError> {
    ram.with_private_memory(TABLES_AT, queues as u64 * TABLE_BYTES)
}

/// Memory through a window.
pub(super) struct Bus {
    window: Arc<dyn DmaWindow>,
    ram: GuestRam,
}

impl Bus {
    pub(super) fn new(window: Arc<dyn DmaWindow>, ram: GuestRam) -> Self {
        Self { window, ram }
    }

    /// The guest real address of the first byte, and how many of `length` bytes follow it without a gap.
    fn piece(&self, address: u64, length: u64, access: DmaAccess) -> Result<(u64, u64), DmaFault> {
        let (real, together) = self.window.translate(address, access).ok_or(DmaFault::Denied { address, access })?;
        let length = length.min(together);
        let inside = real.checked_add(length).is_some_and(|end| end <= self.ram.size_bytes());
        if inside { Ok((real, length)) } else { Err(DmaFault::Outside { address }) }
    }

    /// Calls `each` with the pieces of a range, neighbours joined.
    fn pieces(
        &self,
        address: u64,
        length: u64,
        access: DmaAccess,
        mut each: impl FnMut(u64, u64) -> Result<(), DmaFault>,
    ) -> Result<(), DmaFault> {
        let mut done = 0;
        let mut open: Option<(u64, u64)> = None;
        while done < length {
            let at = address.checked_add(done).ok_or(DmaFault::Outside { address })?;
            let (real, bytes) = self.piece(at, length - done, access)?;
            done += bytes;
            open = match open {
                Some((start, so_far)) if start + so_far == real => Some((start, so_far + bytes)),
                Some((start, so_far)) => {
                    each(start, so_far)?;
                    Some((real, bytes))
                }
                None => Some((real, bytes)),
            };
        }
        open.map_or(Ok(()), |(start, bytes)| each(start, bytes))
    }

    fn read<const N: usize>(&self, address: u64) -> Result<[u8; N], DmaFault> {
        let (mut bytes, mut done) = ([0; N], 0);
        self.pieces(address, N as u64, DmaAccess::Read, |real, length| {
            let part = &mut bytes[done..done + length as usize];
            done += part.len();
            Ok(self.ram.memory().read_slice(part, GuestAddress(real))?)
        })?;
        Ok(bytes)
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), DmaFault> {
        let mut rest = bytes;
        self.pieces(address, bytes.len() as u64, DmaAccess::Write, |real, length| {
            let (part, behind) = rest.split_at(length as usize);
            rest = behind;
            Ok(self.ram.memory().write_slice(part, GuestAddress(real))?)
        })
    }

    /// A ring's 16-bit word: aligned, so in one piece.
    fn load(&self, address: u64, order: Ordering) -> Result<u16, DmaFault> {
        let (real, _) = self.piece(address, 2, DmaAccess::Read)?;
        Ok(u16::from_le(self.ram.memory().load(GuestAddress(real), order)?))
    }

    fn store(&self, address: u64, value: u16, order: Ordering) -> Result<(), DmaFault> {
        let (real, _) = self.piece(address, 2, DmaAccess::Write)?;
        Ok(self.ram.memory().store(value.to_le(), GuestAddress(real), order)?)
    }
}

#[derive(Clone, Copy)]
struct Descriptor {
    address: u64,
    length: u32,
    flags: u16,
    next: u16,
}

impl Descriptor {
    fn parse(bytes: [u8; DESCRIPTOR_BYTES as usize]) -> Self {
        let (address, rest) = bytes.split_at(8);
        let word = |at: usize| u16::from_le_bytes([rest[at], rest[at + 1]]);
        Self {
            address: address.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)),
            length: u32::from(word(2)) << 16 | u32::from(word(0)),
            flags: word(4),
            next: word(6),
        }
    }

    fn bytes(self) -> [u8; DESCRIPTOR_BYTES as usize] {
        let mut bytes = [0; DESCRIPTOR_BYTES as usize];
        bytes[..8].copy_from_slice(&self.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.length.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&self.next.to_le_bytes());
        bytes
    }
}

/// Where the rings are, as bus addresses, and how they are used.
#[derive(Debug, Clone, Copy)]
pub(super) struct RingPlace {
    pub(super) size: u16,
    pub(super) descriptors: u64,
    pub(super) available: u64,
    pub(super) used: u64,
    pub(super) event_idx: bool,
}

impl RingPlace {
    /// Alignments of virtio 1.2 §2.7, and room in the table: everything else is checked at each access.
    pub(super) fn is_valid(&self) -> bool {
        self.size <= HEADS
            && self.descriptors.is_multiple_of(16)
            && self.available.is_multiple_of(2)
            && self.used.is_multiple_of(4)
    }
}

/// A queue behind a window.
pub(super) struct TranslatedRing {
    bus: Bus,
    place: RingPlace,
    /// Its table of translated descriptors, and the ring code that walks it.
    table: u64,
    walker: Queue,
    shown: Wrapping<u16>,
    next_available: Wrapping<u16>,
    /// The available index when it was read last.
    seen: Wrapping<u16>,
    next_used: Wrapping<u16>,
    signalled: Wrapping<u16>,
}

impl TranslatedRing {
    /// Queue number `index` of a device whose memory was made by [`with_tables`].
    ///
    /// # Errors
    /// Those of the ring code for its table; there is no reason for any.
    pub(super) fn new(bus: Bus, index: u16, place: RingPlace) -> Result<Self, virtio_queue::Error> {
        let table = TABLES_AT + u64::from(index) * TABLE_BYTES;
        let mut walker = Queue::new(TABLE_DESCRIPTORS)?;
        walker.try_set_desc_table_address(GuestAddress(table))?;
        walker.try_set_avail_ring_address(GuestAddress(table + RING_OFFSET))?;
        walker.set_ready(true);
        let zero = Wrapping(0);
        Ok(Self { bus, place, table, walker, shown: zero, next_available: zero, seen: zero, next_used: zero, signalled: zero })
    }

    /// The address of the word or element behind a ring's two words of flags and index. Rings end before the address space does, or their
    /// addresses are not granted.
    fn element(ring: u64, index: Wrapping<u16>, size: u16, bytes: u64) -> u64 {
        ring.wrapping_add(4 + u64::from(index.0 % size) * bytes)
    }

    pub(super) fn pop<'a>(&mut self, memory: &'a Ram) -> Result<Option<Chain<'a>>, DmaFault> {
        let available = Wrapping(self.bus.load(self.place.available.wrapping_add(2), Ordering::Acquire)?);
        let waiting = available - self.next_available;
        self.seen = available;
        if waiting.0 > self.place.size {
            return Err(DmaFault::Index);
        }
        if waiting.0 == 0 {
            return Ok(None);
        }
        let at = Self::element(self.place.available, self.next_available, self.place.size, 2);
        let head = self.bus.load(at, Ordering::Relaxed)?;
        self.translate(head)?;
        self.next_available += 1;
        let ring = self.table + RING_OFFSET;
        memory.write_obj(head.to_le(), GuestAddress(Self::element(ring, self.shown, TABLE_DESCRIPTORS, 2)))?;
        self.shown += 1;
        memory.store(self.shown.0.to_le(), GuestAddress(ring + 2), Ordering::Release)?;
        Ok(self.walker.iter(memory)?.next())
    }

    /// Writes the chain that starts at `head` into the table, as guest real addresses.
    fn translate(&self, head: u16) -> Result<(), DmaFault> {
        let mut table = (self.place.descriptors, self.place.size);
        let (mut index, mut steps, mut indirect) = (head, 0, false);
        let mut pieces = Vec::new();
        loop {
            // A chain that is longer than its table loops.
            if index >= table.1 || steps == table.1 {
                return Err(DmaFault::Chain);
            }
            steps += 1;
            let at = table.0.wrapping_add(u64::from(index) * DESCRIPTOR_BYTES);
            let descriptor = Descriptor::parse(self.bus.read(at)?);
            if descriptor.flags & INDIRECT != 0 {
                let entries = u16::try_from(descriptor.length / DESCRIPTOR_BYTES as u32).unwrap_or(0);
                let whole = descriptor.length.is_multiple_of(DESCRIPTOR_BYTES as u32);
                if !whole || entries == 0 || indirect || descriptor.flags & NEXT != 0 {
                    return Err(DmaFault::Chain);
                }
                (table, index, steps, indirect) = ((descriptor.address, entries), 0, 0, true);
                continue;
            }
            self.collect(descriptor, &mut pieces)?;
            if descriptor.flags & NEXT == 0 {
                return self.write_down(head, pieces);
            }
            index = descriptor.next;
        }
    }

    fn collect(&self, descriptor: Descriptor, pieces: &mut Vec<Descriptor>) -> Result<(), DmaFault> {
        let flags = descriptor.flags & WRITE;
        let access = if flags != 0 { DmaAccess::Write } else { DmaAccess::Read };
        self.bus.pieces(descriptor.address, descriptor.length.into(), access, |address, length| {
            if pieces.len() == usize::from(PIECES_MAX) {
                return Err(DmaFault::Chain);
            }
            // Pieces of a 32-bit length are no longer than it.
            pieces.push(Descriptor { address, length: length as u32, flags, next: 0 });
            Ok(())
        })
    }

    /// The first piece stands at the chain's own head, so that the chain is known by it; the others follow the places for heads.
    fn write_down(&self, head: u16, mut pieces: Vec<Descriptor>) -> Result<(), DmaFault> {
        if pieces.is_empty() {
            // A chain of empty buffers.
            pieces.push(Descriptor { address: 0, length: 0, flags: 0, next: 0 });
        }
        let last = pieces.len() - 1;
        for (next, piece) in (HEADS..).zip(&mut pieces[..last]) {
            piece.flags |= NEXT;
            piece.next = next;
        }
        let bytes: Vec<u8> = pieces[1..].iter().flat_map(|piece| piece.bytes()).collect();
        let memory = self.bus.ram.memory();
        memory.write_slice(&pieces[0].bytes(), self.table_entry(head))?;
        memory.write_slice(&bytes, self.table_entry(HEADS))?;
        Ok(())
    }

    fn table_entry(&self, index: u16) -> GuestAddress {
        GuestAddress(self.table + u64::from(index) * DESCRIPTOR_BYTES)
    }

    pub(super) fn size(&self) -> u16 {
        self.place.size
    }

    /// Chains made available and not completed, as far as the last [`Self::pop`] saw.
    pub(super) fn depth(&self) -> Wrapping<u16> {
        self.seen - self.next_used
    }

    pub(super) fn unpop(&mut self) {
        self.next_available -= 1;
    }

    /// Puts elements into the used ring and moves its index over all of them at once.
    pub(super) fn complete(&mut self, chains: &[(u16, u32)]) -> Result<(), DmaFault> {
        for (head, written) in chains {
            let at = Self::element(self.place.used, self.next_used, self.place.size, 8);
            let mut element = [0; 8];
            element[..4].copy_from_slice(&u32::from(*head).to_le_bytes());
            element[4..].copy_from_slice(&written.to_le_bytes());
            self.bus.write(at, &element)?;
            self.next_used += 1;
        }
        self.bus.store(self.place.used.wrapping_add(2), self.next_used.0, Ordering::Release)
    }

    /// Whether the driver asked to hear of an element completed since the last call (virtio 1.2 §2.7.7, §2.7.10).
    pub(super) fn wants_signal(&mut self) -> Result<bool, DmaFault> {
        let old = std::mem::replace(&mut self.signalled, self.next_used);
        fence(Ordering::SeqCst);
        if self.place.event_idx {
            let at = self.place.available.wrapping_add(4 + 2 * u64::from(self.place.size));
            let event = Wrapping(self.bus.load(at, Ordering::Relaxed)?);
            return Ok(self.next_used - event - Wrapping(1) < self.next_used - old);
        }
        let flags = self.bus.load(self.place.available, Ordering::Relaxed)?;
        Ok(self.next_used != old && flags & NO_INTERRUPT == 0)
    }

    /// Asks for notifications, or asks for none; true if chains came in meanwhile.
    pub(super) fn notify(&mut self, wanted: bool) -> Result<bool, DmaFault> {
        const NO_NOTIFY: u16 = 1;
        if self.place.event_idx {
            if wanted {
                let at = Self::element(self.place.used, Wrapping(0), 1, 0) + 8 * u64::from(self.place.size);
                self.bus.store(at, self.next_available.0, Ordering::Relaxed)?;
            }
        } else {
            self.bus.store(self.place.used, if wanted { 0 } else { NO_NOTIFY }, Ordering::Relaxed)?;
        }
        if !wanted {
            return Ok(false);
        }
        // The wish has to be out before the index is read.
        fence(Ordering::SeqCst);
        let available = self.bus.load(self.place.available.wrapping_add(2), Ordering::Acquire)?;
        Ok(Wrapping(available) != self.next_available)
    }
}

#[cfg(test)]
mod tests;
