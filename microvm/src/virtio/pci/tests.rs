//! The transport as a driver sees it: through its registers and through rings, honest ones and others.

use super::*;
use crate::virtio::rng::RngDevice;
use crate::virtio::testkit::{Buffer, Driver, Random, wait_for};

fn driver() -> Driver {
    Driver::start(Box::new(RngDevice::new()))
}

#[test]
fn the_register_file_reads_back_what_a_driver_sets_up() {
    let driver = driver();
    driver.write16(0x16, 0);
    assert_eq!(driver.read(0x1c, 2), 1);
    assert_eq!(driver.read(0x20, 8), driver.queues[0].descriptors());
    assert_eq!(driver.read(0x28, 4), driver.queues[0].available());
    driver.write16(0x16, 7);
    assert_eq!(driver.read(0x18, 2), 0, "a queue that is not there has size zero");
}

#[test]
fn features_that_were_not_offered_or_no_version_1_are_refused() {
    let driver = Driver::discover(Box::new(RngDevice::new()));
    for features in [F_EVENT_IDX, F_VERSION_1 | 1 << 33, F_VERSION_1 | 1 << 5] {
        driver.write8(0x14, 0);
        driver.write8(0x14, 3);
        driver.accept_features(features);
        driver.write8(0x14, 0x0b);
        assert_eq!(driver.status(), 3, "{features:#x}");
    }
    driver.write32(8, 2);
    driver.write32(0xc, 1);
    driver.write8(0x14, 0x0b);
    assert_eq!(driver.status(), 3, "feature word 2 does not exist");
}

#[test]
fn an_enabled_queue_does_not_move_until_reset() {
    let mut driver = driver();
    driver.write16(0x16, 0);
    let before = driver.read(0x20, 8);
    driver.write32(0x20, 0xdead_0000);
    driver.write16(0x18, 1);
    driver.write16(0x1c, 0);
    assert_eq!((driver.read(0x20, 8), driver.read(0x1c, 2)), (before, 1));
    assert_eq!(driver.request(0, &[], 8).len(), 8);
    driver.write8(0x14, 0);
    assert_eq!((driver.status(), driver.read(0x1c, 2), driver.read(0x20, 8)), (0, 0, 0));
}

#[test]
fn rings_outside_memory_or_crooked_need_a_reset() {
    for (descriptors, available, used) in [
        (u64::MAX - 15, 0x1000, 0x2000),
        (0x1008, 0x2000, 0x3000),
        (0x1000, 0x2001, 0x3000),
        (0x1000, 0x2000, 1 << 40),
        (0x1000, 0, 0x3000),
    ] {
        let driver = Driver::discover(Box::new(RngDevice::new()));
        driver.write8(0x14, 3);
        driver.accept_features(F_VERSION_1);
        driver.write8(0x14, 0x0b);
        for (register, address) in [(0x20, descriptors), (0x28, available), (0x30, used)] {
            driver.function.bar_write(0, register, &u64::to_le_bytes(address));
        }
        driver.write16(0x1c, 1);
        driver.write8(0x14, 0x0f);
        assert_eq!(driver.status() & STATUS_NEEDS_RESET, STATUS_NEEDS_RESET);
    }
}

#[test]
fn an_available_index_beyond_the_queue_needs_a_reset() {
    let mut driver = driver();
    for _ in 0..40 {
        driver.publish(0, 0);
    }
    driver.notify(0);
    wait_for("DEVICE_NEEDS_RESET", || (driver.status() & STATUS_NEEDS_RESET != 0).then_some(()));
}

#[test]
fn looping_and_wild_descriptors_need_a_reset_and_harm_nobody() {
    let wild = [
        Buffer { address: 1 << 40, length: 64, writable: true },
        Buffer { address: u64::MAX - 8, length: 64, writable: true },
        Buffer { address: (64 << 20) - 8, length: 64, writable: true },
        Buffer { address: 0x80_0000, length: u32::MAX, writable: true },
    ];
    for buffer in wild {
        let mut driver = driver();
        driver.offer(0, &[buffer]);
        driver.notify(0);
        wait_for("DEVICE_NEEDS_RESET", || (driver.status() & STATUS_NEEDS_RESET != 0).then_some(()));
    }
    // A chain whose descriptor points at itself.
    let mut looping = driver();
    let space = looping.space(8);
    looping.descriptor(0, 3, space, 1, 3);
    looping.publish(0, 3);
    looping.notify(0);
    wait_for("DEVICE_NEEDS_RESET", || (looping.status() & STATUS_NEEDS_RESET != 0).then_some(()));
    // One that is whole but for its middle, which is in no table.
    let mut torn = driver();
    let space = torn.space(8);
    torn.descriptor(0, 3, space, 1, torn.queues[0].size);
    torn.publish(0, 3);
    torn.notify(0);
    wait_for("DEVICE_NEEDS_RESET", || (torn.status() & STATUS_NEEDS_RESET != 0).then_some(()));
    // A head that the table does not have.
    let mut headless = driver();
    headless.publish(0, 0xfff0);
    headless.notify(0);
    wait_for("DEVICE_NEEDS_RESET", || (headless.status() & STATUS_NEEDS_RESET != 0).then_some(()));
}

#[test]
fn the_depth_of_a_queue_is_counted() {
    let mut driver = driver();
    for _ in 0..5 {
        let buffer = driver.space(8);
        driver.offer(0, &[buffer]);
    }
    driver.notify(0);
    for _ in 0..5 {
        driver.wait_used(0);
    }
    assert_eq!(driver.statistic("queue_depth"), 5);
}

#[test]
fn indirect_descriptors_work() {
    let mut driver = driver();
    let (first, second) = (driver.space(8), driver.space(24));
    let table = driver.space(32);
    driver.raw_descriptor(table.address, first, 1, 1);
    driver.raw_descriptor(table.address + 16, second, 0, 0);
    driver.descriptor(0, 5, Buffer { writable: false, ..table }, 4, 0);
    driver.publish(0, 5);
    driver.notify(0);
    assert_eq!(driver.wait_used(0), (5, 32));
}

#[test]
fn interrupts_come_through_the_bound_vector_when_asked_for() {
    let mut driver = driver();
    driver.request(0, &[], 8);
    wait_for("an interrupt", || (driver.line.edges() == 1).then_some(()));
    driver.request(0, &[], 8);
    wait_for("an interrupt", || (driver.line.edges() == 2).then_some(()));
}

#[test]
fn a_device_comes_up_again_after_any_number_of_resets() {
    let mut driver = driver();
    for _ in 0..20 {
        driver.bring_up();
        assert_eq!(driver.request(0, &[], 16).len(), 16);
    }
    assert_eq!(driver.statistic("resets"), 20);
}

#[test]
fn registers_of_any_offset_and_width_are_harmless() {
    let driver = Driver::discover(Box::new(RngDevice::new()));
    for offset in (0..0x1_0000u64).step_by(3).chain([u64::MAX, u64::MAX - 3, 1 << 32]) {
        for width in [1, 2, 3, 4, 8] {
            driver.function.bar_read(0, offset, &mut vec![0; width]);
            driver.function.bar_write(0, offset, &vec![0xff; width]);
            driver.function.bar_write(0, offset, &vec![0; width]);
        }
    }
    driver.function.bar_write(3, 0, &[1]);
    assert_eq!(driver.function.bar_address(0), None);
}

#[test]
fn the_configuration_access_window_reaches_the_registers() {
    let driver = Driver::discover(Box::new(RngDevice::new()));
    let mut at = driver.capability(0x09);
    while driver.function.config_read(at + 3, 1) != 5 {
        at = driver.function.config_read(at + 1, 1) as u16;
    }
    driver.function.config_write(at + 8, 4, 0x14);
    driver.function.config_write(at + 12, 4, 1);
    driver.function.config_write(at + 16, 1, 3);
    assert_eq!(driver.status(), 3);
    assert_eq!(driver.function.config_read(at + 16, 1), 3);
}

#[test]
fn after_shutdown_nothing_starts_any_more() {
    let mut driver = driver();
    driver.function.shutdown();
    driver.function.shutdown();
    driver.write8(0x14, 0);
    driver.write8(0x14, 1);
    let space = driver.space(8);
    driver.offer(0, &[space]);
    driver.notify(0);
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert_eq!(driver.take_used(0), None);
}

#[test]
fn random_rings_and_registers_never_end_the_device() {
    use vm_memory::{Bytes, GuestAddress};
    let mut random = Random::new();
    let mut driver = driver();
    for _ in 0..300 {
        // Rings full of nonsense whose addresses are near memory's end, or within it.
        for _ in 0..64 {
            let at = driver.queues[0].descriptors() + random.below(0xa000);
            let value = if random.below(2) == 0 { random.below(64 << 20) } else { random.next() };
            driver.ram.memory().write_obj(value, GuestAddress(at)).unwrap();
        }
        for _ in 0..16 {
            let register = random.below(0x38);
            let value = random.next().to_le_bytes();
            // Status 0 is left out: it would mean a reset each time.
            if register != 0x14 {
                driver.function.bar_write(0, register, &value[..1 << random.below(4)]);
            }
            driver.function.config_write(random.below(256) as u16, 1 << random.below(3), random.next() as u32);
        }
        driver.notify(0);
        if driver.status() & STATUS_NEEDS_RESET != 0 {
            driver.bring_up();
        }
    }
    driver.bring_up();
    assert_eq!(driver.request(0, &[], 8).len(), 8);
}

/// The addresses that are events now.
#[derive(Default)]
struct Rung(Mutex<Vec<u64>>);

impl Doorbells for Rung {
    fn bind(&self, address: u64, _: std::os::fd::BorrowedFd<'_>, bound: bool) -> bool {
        let mut addresses = lock(&self.0);
        if bound {
            addresses.push(address);
        } else {
            addresses.retain(|other| *other != address);
        }
        true
    }
}

#[test]
fn notifications_are_events_while_the_device_is_up_and_where_its_registers_are() {
    const COMMAND: u16 = 4;
    let mut driver = Driver::discover(Box::new(RngDevice::new()));
    let rung = Arc::new(Rung::default());
    driver.function.bind_doorbells(rung.clone());
    let now = || lock(&rung.0).clone();
    driver.function.assign_bar(BAR_INDEX, 0x2100_0000_0000);
    driver.function.config_write(COMMAND, 2, 2);
    assert_eq!(now(), [0_u64; 0], "nobody serves the queue yet");
    driver.bring_up();
    assert_eq!(now(), [0x2100_0000_3000]);
    driver.function.config_write(0x10, 4, 0x10_0000);
    assert_eq!(now(), [0x2100_0010_3000], "the registers moved");
    driver.function.config_write(COMMAND, 2, 0);
    assert_eq!(now(), [0_u64; 0], "memory decoding is off");
    driver.function.config_write(COMMAND, 2, 2);
    assert_eq!(now(), [0x2100_0010_3000]);
    driver.write8(0x14, 0);
    assert_eq!(now(), [0_u64; 0], "the device was reset");
    driver.bring_up();
    driver.function.shutdown();
    assert_eq!(now(), [0_u64; 0]);
}
