//! What a guest frees goes back to the host, and a guest that rests leaves the host's processors alone.

use std::thread;
use std::time::{Duration, Instant};

use crate::guest::{Guest, PATIENCE, counter};

/// Written to a guest's memory and freed, bytes.
const FILE: u64 = 100 << 20;

#[test]
fn memory_that_a_guest_frees_goes_back_to_the_host() {
    let mut guest = Guest::own("page_reporting.page_reporting_order=2", &[]);
    guest.run("mkdir /ram && mount -t tmpfs none /ram");
    for round in 1..3 {
        guest.run(&format!("dd if=/dev/zero of=/ram/file bs=1M count={} 2> /ram/said", FILE >> 20));
        let full = guest.machine.resident_bytes();
        assert!(full >= FILE, "round {round}: {full} bytes resident with the file");
        guest.run("rm /ram/file");
        let freed = Instant::now();
        while guest.machine.resident_bytes() > full - FILE * 8 / 10 {
            assert!(freed.elapsed() < PATIENCE, "round {round}: {full} bytes resident, now {}", guest.machine.resident_bytes());
            thread::sleep(Duration::from_millis(100));
        }
    }
    // Memory that went is memory like any.
    guest.run("mkdir /ram/copies; for copy in $(seq 50); do cp /bin/busybox /ram/copies/$copy; done");
    assert_eq!(guest.run("md5sum /ram/copies/* /bin/busybox | cut -c1-32 | uniq -c | wc -l"), "1");
    let ended = guest.power_off();
    assert!(counter(&ended, "balloon.freed_bytes") >= 2 * FILE * 8 / 10, "{}", ended.messages);
    assert!(counter(&ended, "balloon.requests") > 0, "{}", ended.messages);
    assert_eq!(counter(&ended, "balloon.broken"), 0, "{}", ended.messages);
}

/// Most times that the threads of an idle machine wake up in a second: the guest's clock and its timers, and no more than that.
const WAKE_UPS_PER_SECOND_MAX: u64 = 60;

#[test]
fn an_idle_machine_with_every_device_in_use_sleeps() {
    const SECONDS: u64 = 10;
    let mut guest = Guest::own("", &["--cpus", "2"]);
    guest.use_everything(0);
    // Everything stays open: the share, the interface, a stream that says nothing.
    guest.run("mount -t virtiofs paperboat /mnt; ip link set eth0 up; ip address add 10.88.0.9/24 dev eth0");
    guest.run("exec 8< /mnt/fact; (sleep 1000 | talk listen 3000 > /dev/null) &");
    let _stream = guest.connect(3000);
    // The guest has things to do after a boot, and the host's bridge after a link came up.
    thread::sleep(Duration::from_secs(3));
    let before = guest.machine.wake_ups();
    thread::sleep(Duration::from_secs(SECONDS));
    let woken = guest.machine.wake_ups() - before;
    assert!(woken <= SECONDS * WAKE_UPS_PER_SECOND_MAX, "{woken} wake-ups in {SECONDS} s");
    guest.power_off();
}
