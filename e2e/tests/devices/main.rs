//! The devices in guests' hands: the project's kernel and Debian's own find each of them and use it, with message interrupts and with pins, behind
//! translation tables, and after their drivers have let go and taken them again. Streams over vsock of every kind, all of it at once, drivers that
//! hand in what cannot be, network cards with several queues, and devices that rest.

#![forbid(unsafe_code)]

mod guest;
mod memory;
mod queues;
mod streams;
mod stress;
mod trouble;

use paperboat_e2e::vmm::optional;

use guest::{DRIVERS, Guest, all_devices_counted, counter};

#[test]
fn own_kernel_uses_every_device_again_after_its_driver_let_go() {
    let mut guest = Guest::own("", &["--memory", "1G"]);
    guest.use_everything(0);
    assert_ne!(guest.run("grep -c MSI /proc/interrupts"), "0");
    for round in 1..3 {
        for driver in DRIVERS {
            guest.run(&format!(
                "cd /sys/bus/virtio/drivers/{driver} && name=$(ls | grep '^virtio[0-9]') && echo $name > unbind && echo $name > bind"
            ));
        }
        guest.use_everything(round);
    }
    let ended = guest.power_off();
    all_devices_counted(&ended);
    assert!(counter(&ended, "fs.resets") >= 3 && counter(&ended, "net0.resets") >= 3, "{}", ended.messages);
}

#[test]
fn own_kernel_uses_every_device_by_interrupt_pins() {
    let mut guest = Guest::own("pci=nomsi", &[]);
    guest.use_everything(0);
    let (_, status) = guest.machine.command("grep MSI /proc/interrupts");
    assert_eq!(status, 1, "no message interrupts");
    assert_ne!(guest.run("grep -c 'Level.*virtio' /proc/interrupts"), "0");
    all_devices_counted(&guest.power_off());
}

#[test]
fn own_kernel_uses_every_device_behind_translation_tables() {
    let mut guest = Guest::own("", &["--enforce-dma"]);
    guest.use_everything(0);
    // VIRTIO_F_ACCESS_PLATFORM, taken by all but the balloon's driver.
    assert_eq!(guest.run("cut -c34 /sys/bus/virtio/devices/virtio*/features | sort | uniq -c | tr -s ' '"), " 1 0\n 4 1");
    all_devices_counted(&guest.power_off());
}

/// A kernel of Debian's with its modules beside it.
fn stock(variable: &'static str) {
    let Some(kernel) = optional(variable) else { return };
    let kernel = std::fs::canonicalize(kernel).unwrap();
    let mut guest = Guest::boot(&kernel, Some(&kernel.with_file_name("modules.cpio")), "", &["--memory", "1G"]);
    guest.use_everything(0);
    all_devices_counted(&guest.power_off());
}

#[test]
fn a_stock_kernel_uses_every_device() {
    stock("PAPERBOAT_STOCK_6_1");
}

/// Part of `cargo xtask test --all`.
mod slow {
    use super::*;

    #[test]
    fn stock_6_12_with_4k_pages_uses_every_device() {
        stock("PAPERBOAT_STOCK_6_12_4K");
    }

    #[test]
    fn stock_6_12_with_64k_pages_uses_every_device() {
        stock("PAPERBOAT_STOCK_6_12_64K");
    }
}
