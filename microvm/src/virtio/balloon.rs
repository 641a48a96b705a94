//! The balloon device (virtio 1.2 §5.5): memory the guest does not use goes back to the host.
//!
//! Mostly by free page reporting: the guest offers ranges of free pages, and they are punched out of the memory file, so that
//! the next touch finds zeros. Inflating works as well, though nothing asks for it yet (`num_pages` stays 0).

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use nix::fcntl::{FallocateFlags, fallocate};
use paperboat_hypervisor::{Backing, GuestRam};

use super::queue::{Chain, ChainFault, Counters, DeviceQueue, Ram};
use super::worker::{Workers, serve};
use super::{Activation, VirtioDevice, VirtioError, copy_config};

const DEVICE_TYPE: u16 = 5;
/// "Memory controller, RAM", as QEMU's balloon also says.
const CLASS_CODE: u32 = 0x05_00_00;

/// VIRTIO_BALLOON_F_DEFLATE_ON_OOM: the guest may take pages back when it runs short.
const F_DEFLATE_ON_OOM: u64 = 1 << 2;
/// VIRTIO_BALLOON_F_REPORTING.
const F_REPORTING: u64 = 1 << 5;

const INFLATE_QUEUE: u16 = 0;
const DEFLATE_QUEUE: u16 = 1;
/// Queues of features that are not offered do not count (§5.5.2).
const REPORTING_QUEUE: u16 = 2;
const QUEUE_SIZE: u16 = 128;

/// Page frame numbers in the inflate queue count units of 4 KiB whatever the guest's page size (§5.5.6).
const FRAME_SHIFT: u32 = 12;
/// Bytes of page frame numbers read at a time. Linux sends 256 numbers per chain.
const FRAMES_CHUNK_BYTES: usize = 4096;

/// Holes are punched in pages of the memory file; parts of pages stay.
const HOST_PAGE_BYTES: u64 = 4096;

#[derive(Default)]
struct State {
    /// Pages of 4 KiB in the balloon as the driver says.
    actual: AtomicU32,
    freed_bytes: AtomicU64,
}

/// The balloon device.
#[derive(Default)]
pub struct BalloonDevice {
    state: Arc<State>,
    workers: Workers,
}

impl BalloonDevice {
    /// An empty balloon.
    pub fn new() -> Self {
        Self::default()
    }

    fn serve(
        &mut self,
        name: &str,
        mut queue: DeviceQueue,
        handle: impl for<'a> Fn(&'a Ram, Chain<'a>, &Freer) -> Result<(), ChainFault> + Send + 'static,
    ) -> Result<(), VirtioError> {
        let freer = Freer { ram: queue.ram().clone(), state: Arc::clone(&self.state), counters: queue.counters() };
        self.workers.spawn(name, move |stop| {
            serve(&mut queue, &stop, |memory, chain| handle(memory, chain, &freer).map(|()| 0));
        })
    }
}

impl VirtioDevice for BalloonDevice {
    fn device_type(&self) -> u16 {
        DEVICE_TYPE
    }

    fn class_code(&self) -> u32 {
        CLASS_CODE
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; 3]
    }

    fn features(&self) -> u64 {
        F_DEFLATE_ON_OOM | F_REPORTING
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        // num_pages, actual (§5.5.4).
        let mut config = [0; 8];
        config[4..].copy_from_slice(&self.state.actual.load(Ordering::Relaxed).to_le_bytes());
        copy_config(&config, offset, data);
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        if let (4, Ok(actual)) = (offset, data.try_into()) {
            self.state.actual.store(u32::from_le_bytes(actual), Ordering::Relaxed);
        }
    }

    fn activate(&mut self, mut activation: Activation) -> Result<(), VirtioError> {
        let inflate = activation.take_queue(INFLATE_QUEUE)?;
        let deflate = activation.take_queue(DEFLATE_QUEUE)?;
        self.serve("balloon-inflate", inflate, |memory, chain, freer| freer.inflate(memory, chain))?;
        // Pages taken back come by being touched.
        self.serve("balloon-deflate", deflate, |_, _, _| Ok(()))?;
        if activation.features & F_REPORTING != 0 {
            let reporting = activation.take_queue(REPORTING_QUEUE)?;
            self.serve("balloon-report", reporting, |_, chain, freer| {
                freer.report(chain);
                Ok(())
            })?;
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.workers.stop();
        self.state.actual.store(0, Ordering::Relaxed);
    }

    fn statistics(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("freed_bytes", self.state.freed_bytes.load(Ordering::Relaxed)),
            ("inflated_pages", u64::from(self.state.actual.load(Ordering::Relaxed))),
        ]
    }
}

/// Gives ranges of guest memory back to the host.
struct Freer {
    ram: GuestRam,
    state: Arc<State>,
    counters: Arc<Counters>,
}

impl Freer {
    /// The ranges of a report are the buffers of its chain (§5.5.6.7).
    fn report(&self, chain: Chain<'_>) {
        for descriptor in chain.writable() {
            self.free(descriptor.addr().0, u64::from(descriptor.len()));
        }
    }

    /// The chain's bytes are little-endian page frame numbers.
    fn inflate(&self, memory: &Ram, chain: Chain<'_>) -> Result<(), ChainFault> {
        let mut reader = chain.reader(memory).map_err(|_| ChainFault::Buffers)?;
        let mut buffer = [0; FRAMES_CHUNK_BYTES];
        loop {
            let length = reader.available_bytes().min(FRAMES_CHUNK_BYTES) & !3;
            if length == 0 {
                return Ok(());
            }
            reader.read_exact(&mut buffer[..length]).map_err(|_| ChainFault::Buffers)?;
            let frames =
                buffer[..length].chunks_exact(4).map(|frame| u32::from_le_bytes([frame[0], frame[1], frame[2], frame[3]]));
            let mut frames: Vec<u64> = frames.map(u64::from).collect();
            frames.sort_unstable();
            // Neighbours go in one call: a 64 KiB page of the guest is sixteen frames.
            for run in frames.chunk_by(|first, second| *second == first + 1) {
                self.free(run[0] << FRAME_SHIFT, (run.len() as u64) << FRAME_SHIFT);
            }
        }
    }

    fn free(&self, address: u64, length: u64) {
        let (start, end) = (address.checked_next_multiple_of(HOST_PAGE_BYTES), address.checked_add(length));
        let whole = start.zip(end).map(|(start, end)| (start, end / HOST_PAGE_BYTES * HOST_PAGE_BYTES));
        let Some((start, end)) = whole.filter(|(start, end)| start < end && *end <= self.ram.size_bytes()) else {
            Counters::count(&self.counters.errors);
            return;
        };
        if self.ram.backing() == Backing::Huge {
            // What was given back might not be there when it is needed again; and few reports are as large as a page.
            return;
        }
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        match fallocate(self.ram.memfd(), flags, start.cast_signed(), (end - start).cast_signed()) {
            Ok(()) => {
                // What was there reads as zeros now: to the CPU, a write.
                self.ram.code_pages().wrote(start, end - start);
                Counters::add(&self.state.freed_bytes, end - start);
            }
            Err(error) => {
                Counters::count(&self.counters.errors);
                log::debug!("cannot free {start:#x}..{end:#x}: {error}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use nix::sys::stat::fstat;
    use vm_memory::{Bytes, GuestAddress};

    use super::super::testkit::{Buffer, Driver};
    use super::*;

    const AT: u64 = 32 << 20;
    const LENGTH: u32 = 1 << 20;

    /// A device whose guest has used a megabyte at [`AT`].
    fn used() -> Driver {
        let driver = Driver::start(Box::new(BalloonDevice::new()));
        driver.ram.memory().write_slice(&vec![0xaa; LENGTH as usize], GuestAddress(AT)).unwrap();
        driver
    }

    fn resident_bytes(driver: &Driver) -> i64 {
        fstat(driver.ram.memfd().as_fd()).unwrap().st_blocks * 512
    }

    fn byte(driver: &Driver, address: u64) -> u8 {
        driver.ram.memory().read_obj(GuestAddress(address)).unwrap()
    }

    #[test]
    fn reported_pages_go_back_to_the_host_and_read_as_zeros() {
        let mut driver = used();
        let code = driver.ram.code_pages();
        code.mark_code(AT / 4096 + 3);
        let before = resident_bytes(&driver);
        driver.offer(2, &[Buffer { address: AT, length: LENGTH, writable: true }]);
        driver.notify(2);
        driver.wait_used(2);
        assert!(before - resident_bytes(&driver) >= i64::from(LENGTH));
        assert_eq!(byte(&driver, AT + 5000), 0);
        assert!(code.is_stale(AT / 4096 + 3), "decoded code there is gone");
        assert_eq!(driver.statistic("freed_bytes"), u64::from(LENGTH));
    }

    #[test]
    fn only_whole_pages_of_real_memory_are_freed() {
        let mut driver = used();
        let end = driver.ram.size_bytes();
        for (address, length) in [(AT + 1, 4096), (end - 4096, 8192), (1 << 50, 4096), (u64::MAX - 10, 4096), (AT, 0)] {
            driver.offer(2, &[Buffer { address, length, writable: true }]);
            driver.notify(2);
            driver.wait_used(2);
        }
        assert_eq!(driver.statistic("freed_bytes"), 0);
        assert_eq!(driver.statistic("errors"), 5);
        driver.offer(2, &[Buffer { address: AT + 1, length: 8192, writable: true }]);
        driver.notify(2);
        driver.wait_used(2);
        assert_eq!((byte(&driver, AT + 4095), byte(&driver, AT + 4096), byte(&driver, AT + 8192)), (0xaa, 0, 0xaa));
    }

    #[test]
    fn inflating_frees_by_frame_number_in_any_order() {
        let mut driver = used();
        let first = (AT >> FRAME_SHIFT) as u32;
        let frames: Vec<u8> = (0..16).rev().map(|frame| first + frame).chain([u32::MAX]).flat_map(u32::to_le_bytes).collect();
        driver.request(INFLATE_QUEUE.into(), &[&frames[..30], &frames[30..]], 0);
        assert_eq!(byte(&driver, AT + 65535), 0);
        assert_eq!(byte(&driver, AT + 65536), 0xaa);
        assert_eq!((driver.statistic("freed_bytes"), driver.statistic("errors")), (65536, 1));
        driver.request(DEFLATE_QUEUE.into(), &[&frames], 0);
    }

    #[test]
    fn the_driver_says_how_big_the_balloon_is() {
        let driver = used();
        driver.function.bar_write(0, 0x2004, &7u32.to_le_bytes());
        assert_eq!(driver.device_config(8), [0, 0, 0, 0, 7, 0, 0, 0]);
        assert_eq!(driver.statistic("inflated_pages"), 7);
    }
}
