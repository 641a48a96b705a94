//! A driver for tests: it finds, negotiates and drives a device through its PCI registers and real rings in guest memory,
//! as a guest kernel does.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use paperboat_hypervisor::GuestRam;
use vm_memory::{Bytes, GuestAddress};

use super::config_space::{COMMON_OFFSET, DEVICE_OFFSET, NOTIFY_OFFSET, NOTIFY_STRIDE, TABLE_OFFSET};
use super::{F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1, VirtioDevice, VirtioPci};
use crate::pci::{DmaWindow, InterruptLine, PciFunction};

/// How long a test waits for a device before it fails: a busy machine is no failure.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

const RAM_BYTES: u64 = 64 << 20;
const RINGS_AT: u64 = 0x10_0000;
const RING_BYTES: u64 = 0x1_0000;
const BUFFERS_AT: u64 = 0x80_0000;
/// Largest queue a test sets up: its three rings fit [`RING_BYTES`].
const QUEUE_SIZE: u16 = 256;

const NEXT: u16 = 1;
const WRITE: u16 = 2;

#[derive(Default)]
pub(super) struct RecordingLine {
    edges: AtomicUsize,
    level: AtomicBool,
}

impl RecordingLine {
    pub(super) fn edges(&self) -> usize {
        self.edges.load(Ordering::SeqCst)
    }

    pub(super) fn level(&self) -> bool {
        self.level.load(Ordering::SeqCst)
    }
}

impl InterruptLine for RecordingLine {
    fn trigger(&self) {
        self.edges.fetch_add(1, Ordering::SeqCst);
    }

    fn set_level(&self, asserted: bool) {
        self.level.store(asserted, Ordering::SeqCst);
    }
}

/// Random numbers for tests (xorshift64): the seed is printed, and taken from the environment variable SEED.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new() -> Self {
        let given = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
        let clock = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |now| now.as_nanos() as u64);
        let seed = given.unwrap_or_else(clock) | 1;
        println!("SEED={seed}");
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `limit`.
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// Waits until `ready` answers something; fails the test with `what` after [`PATIENCE`].
pub(super) fn wait_for<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// One buffer of a chain.
#[derive(Clone, Copy)]
pub(super) struct Buffer {
    pub(super) address: u64,
    pub(super) length: u32,
    pub(super) writable: bool,
}

pub(super) struct DriverQueue {
    index: u16,
    pub(super) size: u16,
    base: u64,
    free: Vec<u16>,
    chains: HashMap<u16, Vec<u16>>,
    next_available: u16,
    last_used: u16,
}

impl DriverQueue {
    pub(super) fn descriptors(&self) -> u64 {
        self.base
    }

    pub(super) fn available(&self) -> u64 {
        self.base + 0x4000
    }

    pub(super) fn used(&self) -> u64 {
        self.base + 0x8000
    }
}

pub(super) struct Driver {
    pub(super) function: Arc<dyn PciFunction>,
    pub(super) ram: GuestRam,
    pub(super) queues: Vec<DriverQueue>,
    pub(super) line: Arc<RecordingLine>,
    /// What bus addresses are above guest real addresses.
    offset: u64,
    next_buffer: u64,
}

impl Driver {
    /// A device that no driver has touched yet.
    pub(super) fn discover(device: Box<dyn VirtioDevice>) -> Self {
        let ram = GuestRam::new(RAM_BYTES).unwrap();
        let function = VirtioPci::new("test0", device, ram.clone()).unwrap();
        let line = Arc::new(RecordingLine::default());
        for vector in 0..function.msix_vectors() {
            function.bind_msix(vector, Some(Arc::clone(&line) as Arc<dyn InterruptLine>));
        }
        Self { function, ram, queues: Vec::new(), line, offset: 0, next_buffer: BUFFERS_AT }
    }

    /// A device that is up with every feature and queue.
    pub(super) fn start(device: Box<dyn VirtioDevice>) -> Self {
        let mut driver = Self::discover(device);
        driver.bring_up();
        driver
    }

    /// A device that is up behind `window`, whose bus addresses are `offset` above guest real addresses.
    pub(super) fn behind(device: Box<dyn VirtioDevice>, window: Arc<dyn DmaWindow>, offset: u64) -> Self {
        let mut driver = Self::discover(device);
        driver.offset = offset;
        driver.function.bind_dma(window);
        driver.bring_up();
        driver
    }

    /// Reset, negotiation, queues, DRIVER_OK (virtio 1.2 §3.1.1).
    pub(super) fn bring_up(&mut self) {
        self.write8(0x14, 0);
        self.write8(0x14, 1);
        self.write8(0x14, 3);
        let features = self.device_features();
        assert_eq!(features & (F_VERSION_1 | F_EVENT_IDX | F_INDIRECT_DESC), F_VERSION_1 | F_EVENT_IDX | F_INDIRECT_DESC);
        self.accept_features(features);
        self.write8(0x14, 0x0b);
        assert_eq!(self.status(), 0x0b, "the device takes the features it offered");
        self.set_up_queues();
        self.write8(0x14, 0x0f);
        assert_eq!(self.status(), 0x0f);
    }

    pub(super) fn device_features(&self) -> u64 {
        self.write32(0, 0);
        let low = self.read(4, 4);
        self.write32(0, 1);
        low | self.read(4, 4) << 32
    }

    pub(super) fn accept_features(&self, features: u64) {
        self.write32(8, 0);
        self.write32(0xc, features as u32);
        self.write32(8, 1);
        self.write32(0xc, (features >> 32) as u32);
    }

    pub(super) fn set_up_queues(&mut self) {
        // MSI-X on (control word of the capability the config space ends with) and every vector unmasked.
        let msix = self.capability(0x11);
        self.function.config_write(msix + 2, 2, 0x8000);
        self.queues.clear();
        for index in 0..self.read(0x12, 2) as u16 {
            self.write16(0x16, index);
            let size = (self.read(0x18, 2) as u16).min(QUEUE_SIZE);
            let base = RINGS_AT + u64::from(index) * RING_BYTES;
            self.ram.memory().write_slice(&vec![0; RING_BYTES as usize], GuestAddress(base)).unwrap();
            let queue = DriverQueue {
                index,
                size,
                base,
                free: (0..size).rev().collect(),
                chains: HashMap::new(),
                next_available: 0,
                last_used: 0,
            };
            self.write16(0x18, size);
            for (register, address) in [(0x20, queue.descriptors()), (0x28, queue.available()), (0x30, queue.used())] {
                self.function.bar_write(0, register, &(address + self.offset).to_le_bytes());
            }
            self.write16(0x1a, index + 1);
            assert_eq!(self.read(0x1a, 2), u64::from(index + 1));
            let control = u64::from(TABLE_OFFSET) + u64::from(index + 1) * 16 + 12;
            self.function.bar_write(0, control, &0u32.to_le_bytes());
            self.write16(0x1c, 1);
            self.queues.push(queue);
        }
    }

    pub(super) fn capability(&self, id: u32) -> u16 {
        let mut at = self.function.config_read(0x34, 1) as u16;
        while self.function.config_read(at, 1) != id {
            at = self.function.config_read(at + 1, 1) as u16;
            assert_ne!(at, 0, "capability {id:#x} is missing");
        }
        at
    }

    pub(super) fn read(&self, register: u64, length: usize) -> u64 {
        let mut data = [0; 8];
        self.function.bar_read(0, u64::from(COMMON_OFFSET) + register, &mut data[..length]);
        u64::from_le_bytes(data)
    }

    pub(super) fn write8(&self, register: u64, value: u8) {
        self.function.bar_write(0, register, &[value]);
    }

    pub(super) fn write16(&self, register: u64, value: u16) {
        self.function.bar_write(0, register, &value.to_le_bytes());
    }

    pub(super) fn write32(&self, register: u64, value: u32) {
        self.function.bar_write(0, register, &value.to_le_bytes());
    }

    pub(super) fn status(&self) -> u8 {
        self.read(0x14, 1) as u8
    }

    pub(super) fn device_config(&self, length: usize) -> Vec<u8> {
        let mut data = vec![0; length];
        self.function.bar_read(0, u64::from(DEVICE_OFFSET), &mut data);
        data
    }

    pub(super) fn statistic(&self, name: &str) -> u64 {
        let all = self.function.statistics();
        all.iter().find(|(key, _)| *key == name).unwrap_or_else(|| panic!("no counter {name} in {all:?}")).1
    }

    /// A fresh piece of memory with `bytes` in it.
    pub(super) fn place(&mut self, bytes: &[u8]) -> Buffer {
        let address = self.room(bytes.len());
        self.ram.memory().write_slice(bytes, GuestAddress(address)).unwrap();
        Buffer { address, length: bytes.len() as u32, writable: false }
    }

    /// A fresh piece of memory for the device to write.
    pub(super) fn space(&mut self, length: usize) -> Buffer {
        Buffer { address: self.room(length), length: length as u32, writable: true }
    }

    fn room(&mut self, length: usize) -> u64 {
        if self.next_buffer + length as u64 + 64 > RAM_BYTES {
            self.next_buffer = BUFFERS_AT; // Tests do not keep buffers for long.
        }
        let address = self.next_buffer;
        self.next_buffer += (length as u64).next_multiple_of(64);
        address
    }

    pub(super) fn descriptor(&self, queue: usize, slot: u16, buffer: Buffer, flags: u16, next: u16) {
        let at = self.queues[queue].descriptors() + u64::from(slot) * 16;
        self.raw_descriptor(at, buffer, flags, next);
    }

    pub(super) fn raw_descriptor(&self, at: u64, buffer: Buffer, flags: u16, next: u16) {
        let flags = flags | if buffer.writable { WRITE } else { 0 };
        let mut bytes = buffer.address.wrapping_add(self.offset).to_le_bytes().to_vec();
        bytes.extend_from_slice(&buffer.length.to_le_bytes());
        bytes.extend_from_slice(&flags.to_le_bytes());
        bytes.extend_from_slice(&next.to_le_bytes());
        self.ram.memory().write_slice(&bytes, GuestAddress(at)).unwrap();
    }

    /// Makes a chain available, without notifying.
    pub(super) fn offer(&mut self, queue: usize, buffers: &[Buffer]) -> u16 {
        let slots: Vec<u16> = buffers.iter().map(|_| self.queues[queue].free.pop().expect("queue full")).collect();
        for (position, (slot, buffer)) in slots.iter().zip(buffers).enumerate() {
            let next = slots.get(position + 1);
            self.descriptor(queue, *slot, *buffer, if next.is_some() { NEXT } else { 0 }, next.copied().unwrap_or(0));
        }
        let head = slots[0];
        self.queues[queue].chains.insert(head, slots);
        self.publish(queue, head);
        head
    }

    /// Puts a head into the available ring.
    pub(super) fn publish(&mut self, queue: usize, head: u16) {
        let queue = &mut self.queues[queue];
        let memory = self.ram.memory();
        let slot = queue.available() + 4 + u64::from(queue.next_available % queue.size) * 2;
        memory.write_obj(head.to_le(), GuestAddress(slot)).unwrap();
        queue.next_available = queue.next_available.wrapping_add(1);
        memory.store(queue.next_available.to_le(), GuestAddress(queue.available() + 2), Ordering::Release).unwrap();
    }

    pub(super) fn notify(&self, queue: usize) {
        let address = u64::from(NOTIFY_OFFSET + NOTIFY_STRIDE * u32::from(self.queues[queue].index));
        self.function.bar_write(0, address, &(queue as u16).to_le_bytes());
    }

    /// The next used element, if there is one: head and length. Asks for an interrupt at the one after it.
    pub(super) fn take_used(&mut self, queue: usize) -> Option<(u16, u32)> {
        let queue = &mut self.queues[queue];
        let memory = self.ram.memory();
        let index: u16 = memory.load(GuestAddress(queue.used() + 2), Ordering::Acquire).unwrap();
        if u16::from_le(index) == queue.last_used {
            return None;
        }
        let at = queue.used() + 4 + u64::from(queue.last_used % queue.size) * 8;
        let head: u32 = memory.read_obj(GuestAddress(at)).unwrap();
        let length: u32 = memory.read_obj(GuestAddress(at + 4)).unwrap();
        queue.last_used = queue.last_used.wrapping_add(1);
        let used_event = queue.available() + 4 + u64::from(queue.size) * 2;
        memory.store(queue.last_used.to_le(), GuestAddress(used_event), Ordering::SeqCst).unwrap();
        let head = u32::from_le(head) as u16;
        if let Some(slots) = queue.chains.remove(&head) {
            queue.free.extend(slots);
        }
        Some((head, u32::from_le(length)))
    }

    pub(super) fn wait_used(&mut self, queue: usize) -> (u16, u32) {
        wait_for("a used buffer", || self.take_used(queue))
    }

    /// Gives the device time for something it must not do.
    pub(super) fn wait_nothing(&mut self, queue: usize) {
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(self.take_used(queue), None, "nothing was expected");
    }

    pub(super) fn bytes(&self, buffer: Buffer, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.ram.memory().read_slice(&mut bytes, GuestAddress(buffer.address)).unwrap();
        bytes
    }

    /// A request of `parts` with room for `room` bytes of answer; what the device wrote.
    pub(super) fn request(&mut self, queue: usize, parts: &[&[u8]], room: usize) -> Vec<u8> {
        let mut buffers: Vec<_> = parts.iter().map(|part| self.place(part)).collect();
        let answer = self.space(room);
        if room > 0 {
            buffers.push(answer);
        }
        let head = self.offer(queue, &buffers);
        self.notify(queue);
        let (used, length) = self.wait_used(queue);
        assert_eq!(used, head);
        self.bytes(answer, length as usize)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.function.shutdown();
    }
}
