//! Devices behind a real translation table, under a driver that maps what it uses, less than that, and something else.

use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress};

use super::super::F_ACCESS_PLATFORM;
use super::super::net::{NetDevice, Nic};
use super::super::rng::RngDevice;
use super::super::testkit::{Buffer, Driver, Random, wait_for};
use crate::papr::phb::EndpointWindow;
use crate::papr::tce::{TCE_PAGE_SIZE, TceTables};

const LIOBN: u32 = 0x8000_0001;
const WINDOW_BYTES: u64 = 128 << 20;
/// Bus addresses of the test driver.
const OFFSET: u64 = 32 << 20;
const READ: u64 = 1;
const WRITE: u64 = 2;
const NEEDS_RESET: u8 = 0x40;

/// All of memory, to be read and written, at [`OFFSET`].
fn tables() -> Arc<TceTables> {
    let tables = Arc::new(TceTables::default());
    tables.add(LIOBN, WINDOW_BYTES);
    tables.put(LIOBN.into(), OFFSET, (64 << 20) / TCE_PAGE_SIZE, |page| (page * TCE_PAGE_SIZE) | READ | WRITE).unwrap();
    tables
}

/// Maps the page that holds guest real address `at` to `entry`.
fn map(tables: &TceTables, at: u64, entry: u64) {
    tables.put(LIOBN.into(), OFFSET + at, 1, |_| entry).unwrap();
}

fn rng(tables: &Arc<TceTables>) -> Driver {
    let driver = Driver::behind(Box::new(RngDevice::new()), Arc::new(EndpointWindow::new(Arc::clone(tables), LIOBN)), OFFSET);
    assert_ne!(driver.device_features() & F_ACCESS_PLATFORM, 0);
    driver
}

fn broken(driver: &Driver) {
    wait_for("DEVICE_NEEDS_RESET", || (driver.status() & NEEDS_RESET != 0).then_some(()));
    assert!(driver.statistic("errors") > 0);
}

#[test]
fn a_device_works_through_its_table() {
    let tables = tables();
    let mut driver = rng(&tables);
    for round in 0..600 {
        let answer = driver.request(0, &[], 64);
        assert_ne!(answer, [0; 64], "round {round}");
    }
    wait_for("interrupts", || (driver.line.edges() >= 600).then_some(()));
    // Several buffers, and an indirect table.
    let (first, second, table) = (driver.space(8), driver.space(24), driver.space(32));
    driver.raw_descriptor(table.address, first, 1, 1);
    driver.raw_descriptor(table.address + 16, second, 0, 0);
    driver.descriptor(0, 5, Buffer { writable: false, ..table }, 4, 0);
    driver.publish(0, 5);
    driver.notify(0);
    assert_eq!(driver.wait_used(0), (5, 32));
}

#[test]
fn pages_that_lie_apart_are_one_buffer() {
    let tables = tables();
    let mut driver = rng(&tables);
    // Bus pages in a row whose real pages run backwards.
    let at = 40 << 20;
    for page in 0..4u64 {
        map(&tables, at + page * TCE_PAGE_SIZE, (at + (3 - page) * TCE_PAGE_SIZE) | READ | WRITE);
    }
    driver.offer(0, &[Buffer { address: at + 100, length: 4096, writable: true }]);
    driver.notify(0);
    assert_eq!(driver.wait_used(0).1, 4096);
    let filled = |from: u64, length: usize| {
        let mut bytes = vec![0; length];
        driver.ram.memory().read_slice(&mut bytes, GuestAddress(from)).unwrap();
        bytes.iter().any(|byte| *byte != 0)
    };
    assert!(filled(at + 3 * 4096 + 100, 3996), "the first bus page is the last real one");
    assert!(filled(at + 2 * 4096, 100));
    assert!(!filled(at + 2 * 4096 + 100, 3996), "not beyond the buffer");
    assert!(!filled(at, 8192));
}

#[test]
fn each_of_the_four_access_states_holds() {
    for (entry, allowed) in [(0, false), (READ, false), (WRITE, true), (READ | WRITE, true)] {
        let tables = tables();
        let mut driver = rng(&tables);
        let buffer = Buffer { address: 48 << 20, length: 64, writable: true };
        map(&tables, buffer.address, buffer.address | entry);
        driver.offer(0, &[buffer]);
        driver.notify(0);
        if allowed {
            assert_eq!(driver.wait_used(0).1, 64);
        } else {
            broken(&driver);
            assert_eq!(driver.bytes(buffer, 64), [0; 64], "nothing was written");
        }
    }
    // What the device reads.
    for (entry, allowed) in [(0, false), (READ, true), (WRITE, false), (READ | WRITE, true)] {
        let tables = tables();
        let device = Box::new(NetDevice::new(Nic::new(0, 1).unwrap()));
        let mut driver = Driver::behind(device, Arc::new(EndpointWindow::new(Arc::clone(&tables), LIOBN)), OFFSET);
        let packet = Buffer { address: 48 << 20, length: 100, writable: false };
        map(&tables, packet.address, packet.address | entry);
        driver.offer(1, &[packet]);
        driver.notify(1);
        if allowed {
            assert_eq!(driver.wait_used(1).1, 0);
        } else {
            broken(&driver);
        }
    }
}

#[test]
fn rings_need_their_grants_and_a_reset_heals() {
    let tables = tables();
    let mut driver = rng(&tables);
    let rings = [
        (driver.queues[0].descriptors(), WRITE),
        (driver.queues[0].available(), WRITE),
        (driver.queues[0].used(), READ),
        (driver.queues[0].used(), 0),
    ];
    for (ring, left) in rings {
        map(&tables, ring, ring | left);
        let space = driver.space(8);
        driver.offer(0, &[space]);
        driver.notify(0);
        broken(&driver);
        map(&tables, ring, ring | READ | WRITE);
        driver.bring_up();
        assert_eq!(driver.request(0, &[], 8).len(), 8);
    }
}

#[test]
fn a_table_that_leads_outside_memory_reaches_nothing() {
    let tables = tables();
    let mut driver = rng(&tables);
    for real in [64 << 20, 1 << 40, 1 << 56, !0xfff] {
        let buffer = Buffer { address: 48 << 20, length: 64, writable: true };
        map(&tables, buffer.address, real | READ | WRITE);
        driver.offer(0, &[buffer]);
        driver.notify(0);
        broken(&driver);
        driver.bring_up();
    }
    // Outside the window, wrapping, and endless.
    for (address, length) in [(WINDOW_BYTES, 64), (u64::MAX - 8 - OFFSET, 64), (0, u32::MAX)] {
        driver.offer(0, &[Buffer { address, length, writable: true }]);
        driver.notify(0);
        broken(&driver);
        driver.bring_up();
    }
    assert_eq!(driver.request(0, &[], 8).len(), 8);
}

#[test]
fn loops_and_nested_tables_end() {
    let tables = tables();
    let mut driver = rng(&tables);
    let (space, table) = (driver.space(8), driver.space(64));
    driver.descriptor(0, 3, space, 1, 3);
    driver.publish(0, 3);
    driver.notify(0);
    broken(&driver);
    for (length, inner_flags, outer_flags) in [(16, 4, 4), (15, 0, 4), (0, 0, 4), (64, 1, 4), (16, 0, 5)] {
        driver.bring_up();
        // An entry that names itself as the next, or a table within a table.
        driver.raw_descriptor(table.address, Buffer { writable: false, ..table }, inner_flags, 0);
        driver.descriptor(0, 0, Buffer { address: table.address, length, writable: false }, outer_flags, 0);
        driver.publish(0, 0);
        driver.notify(0);
        broken(&driver);
    }
    driver.bring_up();
    driver.publish(0, 0xfff0);
    driver.notify(0);
    broken(&driver);
}

#[test]
fn random_tables_and_rings_never_end_the_device() {
    let mut random = Random::new();
    let tables = tables();
    let mut driver = rng(&tables);
    for _ in 0..200 {
        for _ in 0..16 {
            let page = random.below((64 << 20) / TCE_PAGE_SIZE) * TCE_PAGE_SIZE;
            let entry = if random.below(3) == 0 { random.next() } else { page | random.below(4) };
            map(&tables, page, entry);
            let at = driver.queues[0].descriptors() + random.below(0xa000);
            driver.ram.memory().write_obj(random.next() >> random.below(40), GuestAddress(at)).unwrap();
        }
        let ring = driver.queues[0].descriptors() + random.below(10) * TCE_PAGE_SIZE;
        map(&tables, ring, ring | random.below(4));
        driver.notify(0);
        if driver.status() & NEEDS_RESET != 0 {
            driver.bring_up();
        }
    }
    tables.put(LIOBN.into(), OFFSET, (64 << 20) / TCE_PAGE_SIZE, |page| (page * TCE_PAGE_SIZE) | READ | WRITE).unwrap();
    driver.bring_up();
    assert_eq!(driver.request(0, &[], 8).len(), 8);
}
