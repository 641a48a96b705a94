//! Network slots of the machine, which are functions on the PCI bus.
//!
//! A slot that nothing is bound to shows an id that no driver takes, so that it costs the guest's start next to nothing. Binding and unbinding
//! change the id. The kernel reads it once, when it finds a function: where it knows another one than the function shows, the function is
//! removed and the bus scanned again.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

const DEVICES: &str = "/sys/bus/pci/devices";
const RESCAN: &str = "/sys/bus/pci/rescan";

/// Vendor of virtio devices (virtio 1.2 §4.1.2).
const VENDOR: u16 = 0x1af4;

/// Makes the kernel's view of the slots the machine's. Returns once drivers have taken what is new.
///
/// # Errors
/// The kernel's answer.
pub fn settle() -> io::Result<()> {
    if !Path::new(DEVICES).is_dir() {
        return Ok(());
    }
    let mut changed = false;
    for entry in fs::read_dir(DEVICES)? {
        let function = entry?.path();
        if is_changed(&function)? {
            fs::write(function.join("remove"), "1")?;
            changed = true;
        }
    }
    if changed { fs::write(RESCAN, "1") } else { Ok(()) }
}

fn is_changed(function: &Path) -> io::Result<bool> {
    let mut shown = [0; 4];
    File::open(function.join("config"))?.read_exact(&mut shown)?;
    let [vendor, device] = [[shown[0], shown[1]], [shown[2], shown[3]]].map(u16::from_le_bytes);
    Ok(vendor == VENDOR && known_id(&fs::read_to_string(function.join("device"))?) != Some(device))
}

/// As sysfs writes it: `0x1041`.
fn known_id(text: &str) -> Option<u16> {
    u16::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_that_shows_another_id_is_changed() {
        let function = std::env::temp_dir().join(format!("paperboat-slots-{}", std::process::id()));
        fs::create_dir_all(&function).unwrap();
        fs::write(function.join("config"), [0xf4, 0x1a, 0x41, 0x10, 0, 0]).unwrap();
        fs::write(function.join("device"), "0x1041\n").unwrap();
        assert!(!is_changed(&function).unwrap());
        fs::write(function.join("device"), "0x10f0\n").unwrap();
        assert!(is_changed(&function).unwrap());
        // Another vendor's is not ours to remove.
        fs::write(function.join("config"), [0x86, 0x80, 0x41, 0x10]).unwrap();
        assert!(!is_changed(&function).unwrap());
        fs::remove_dir_all(function).unwrap();
    }
}
