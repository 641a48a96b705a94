//! Drivers that hand in what cannot be: the device says DEVICE_NEEDS_RESET and is counted as broken, nothing else minds, and the next driver has it
//! working again.

use crate::guest::{DRIVERS, Guest, counter};

/// The device of each of [`DRIVERS`] as it is counted, and one of its queues that takes requests.
const DEVICES: [(&str, u16); 5] = [("fs", 1), ("vsock", 1), ("net0", 1), ("rng", 0), ("balloon", 0)];
/// As `images/misuse.c` knows them: rings that are not in memory; an available index beyond the ring; a head that the table has not; a chain that
/// loops; a table of descriptors, and buffers, that are not in memory; buffers that go around the end of the address space.
const MISDEEDS: [&str; 7] = ["rings", "index", "head", "loop", "table", "nowhere", "wrapping"];

#[test]
fn a_driver_that_hands_in_what_cannot_be_stops_its_device_and_nothing_else() {
    let mut guest = Guest::own("", &[]);
    let mut round = 0;
    for (driver, (device, queue)) in DRIVERS.into_iter().zip(DEVICES) {
        let function = guest.run(&format!("basename $(dirname $(readlink -f /sys/bus/virtio/drivers/{driver}/virtio*))"));
        guest.run(&format!("echo {function} > /sys/bus/pci/drivers/virtio-pci/unbind"));
        for misdeed in MISDEEDS {
            assert_eq!(guest.run(&format!("misuse {function} {queue} {misdeed}")), "status 4f", "{device}: {misdeed}");
        }
        for other in DRIVERS.into_iter().filter(|other| *other != driver) {
            round += 1;
            guest.use_device(other, round);
        }
        guest.run(&format!("echo {function} > /sys/bus/pci/drivers/virtio-pci/bind"));
        round += 1;
        guest.use_device(driver, round);
    }
    let ended = guest.power_off();
    for (device, _) in DEVICES {
        let count = |name: &str| counter(&ended, &format!("{device}.{name}"));
        assert_eq!(count("broken"), MISDEEDS.len() as u64, "{device}: {}", ended.messages);
        assert!(count("errors") >= count("broken") && count("resets") >= count("broken"), "{device}: {}", ended.messages);
        assert!(ended.messages.contains(&format!("{device}: needs a reset: ")), "{device}: {}", ended.messages);
    }
}
