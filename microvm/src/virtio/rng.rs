//! The entropy device (virtio 1.2 §5.4): the host's getrandom(2), at a bounded rate.

use std::io::Write;
use std::time::{Duration, Instant};

use super::queue::{Chain, ChainFault, Counters, Ram};
use super::worker::{Stop, Workers, serve};
use super::{Activation, VirtioDevice, VirtioError};

const DEVICE_TYPE: u16 = 4;
/// "Encryption controller, other": what a PCI entropy source is.
const CLASS_CODE: u32 = 0x10_80_00;
const QUEUE_SIZE: u16 = 16;

/// Entropy per second that a guest may draw in the long run. A Linux guest mixes in 64 bytes now and then; nothing needs more.
const BYTES_PER_SECOND: u64 = 64 << 10;
/// What it may draw at once after a pause, enough for every reader at boot.
const BURST_BYTES: u64 = 64 << 10;
/// Most bytes given per request; a driver asks again for more (§5.4.6.2 allows any length above zero).
const REQUEST_BYTES: usize = 4096;

/// The entropy device.
#[derive(Default)]
pub struct RngDevice {
    workers: Workers,
}

impl RngDevice {
    /// An entropy device.
    pub fn new() -> Self {
        Self::default()
    }
}

impl VirtioDevice for RngDevice {
    fn device_type(&self) -> u16 {
        DEVICE_TYPE
    }

    fn class_code(&self) -> u32 {
        CLASS_CODE
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }

    fn read_config(&self, _offset: usize, _data: &mut [u8]) {}

    fn activate(&mut self, mut activation: Activation) -> Result<(), VirtioError> {
        let mut queue = activation.take_queue(0)?;
        self.workers.spawn("rng", move |stop| {
            let counters = queue.counters();
            let mut allowance = Allowance::full(Instant::now());
            serve(&mut queue, &stop.clone(), |memory, chain| fill(memory, chain, &mut allowance, &stop, &counters));
        })
    }

    fn reset(&mut self) {
        self.workers.stop();
    }
}

fn fill(memory: &Ram, chain: Chain<'_>, allowance: &mut Allowance, stop: &Stop, counters: &Counters) -> Result<u32, ChainFault> {
    let mut writer = chain.writer(memory).map_err(|_| ChainFault::Buffers)?;
    let wanted = writer.available_bytes().min(REQUEST_BYTES);
    if wanted == 0 {
        return Err(ChainFault::NoRoom);
    }
    let wait = allowance.take(wanted as u64, Instant::now());
    if !wait.is_zero() {
        stop.sleep(wait);
    }
    let mut entropy = vec![0; wanted];
    if let Err(error) = getrandom::fill(&mut entropy) {
        log::error!("no entropy from the host: {error}");
        return Ok(0);
    }
    writer.write_all(&entropy).map_err(|_| ChainFault::Buffers)?;
    Counters::add(&counters.bytes_to_guest, wanted as u64);
    Ok(wanted as u32)
}

/// A token bucket.
struct Allowance {
    bytes: u64,
    since: Instant,
}

impl Allowance {
    fn full(now: Instant) -> Self {
        Self { bytes: BURST_BYTES, since: now }
    }

    /// Takes `bytes` (at most [`BURST_BYTES`]) and answers how long to wait before they may be used.
    fn take(&mut self, bytes: u64, now: Instant) -> Duration {
        let earned = now.saturating_duration_since(self.since).as_micros().saturating_mul(u128::from(BYTES_PER_SECOND));
        self.bytes = self.bytes.saturating_add(u64::try_from(earned / 1_000_000).unwrap_or(BURST_BYTES)).min(BURST_BYTES);
        self.since = now;
        if let Some(left) = self.bytes.checked_sub(bytes) {
            self.bytes = left;
            return Duration::ZERO;
        }
        let missing = bytes - self.bytes;
        self.bytes = 0;
        let wait = Duration::from_micros(missing.saturating_mul(1_000_000) / BYTES_PER_SECOND);
        // What is earned while waiting is spent already.
        self.since = now + wait;
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::super::testkit::Driver;
    use super::*;

    #[test]
    fn entropy_arrives_and_differs() {
        let mut driver = Driver::start(Box::new(RngDevice::new()));
        let first = driver.request(0, &[], 64);
        let second = driver.request(0, &[], 64);
        assert_eq!(first.len(), 64);
        assert_ne!(first, second);
        assert_eq!(driver.statistic("bytes_to_guest"), 128);
    }

    #[test]
    fn a_request_is_filled_up_to_its_limit() {
        let mut driver = Driver::start(Box::new(RngDevice::new()));
        assert_eq!(driver.request(0, &[], 3 * REQUEST_BYTES).len(), REQUEST_BYTES);
    }

    #[test]
    fn a_request_without_room_breaks_the_device_until_it_is_reset() {
        let mut driver = Driver::start(Box::new(RngDevice::new()));
        let unwritable = driver.place(&[0; 16]);
        driver.offer(0, &[unwritable]);
        driver.notify(0);
        super::super::testkit::wait_for("DEVICE_NEEDS_RESET", || (driver.status() & 0x40 != 0).then_some(()));
        assert_eq!(driver.statistic("broken"), 1);
        driver.bring_up();
        assert_eq!(driver.request(0, &[], 8).len(), 8);
    }

    #[test]
    fn the_rate_is_bounded_in_the_long_run() {
        let start = Instant::now();
        let mut allowance = Allowance::full(start);
        assert_eq!(allowance.take(BURST_BYTES, start), Duration::ZERO);
        assert_eq!(allowance.take(BYTES_PER_SECOND / 2, start), Duration::from_millis(500));
        assert_eq!(allowance.take(BYTES_PER_SECOND / 2, start + Duration::from_secs(1)), Duration::ZERO);
        assert!(allowance.take(1024, start + Duration::from_secs(1)) > Duration::ZERO);
    }
}
