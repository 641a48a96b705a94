//! The 256 bytes of a function's config space (PCI 3.0 §6.1) with virtio's capabilities (virtio 1.2 §4.1.4).

use crate::pci::{PciBar, PciIdentity};

/// Bytes of config space. There is no extended space behind a conventional host bridge.
pub(super) const CONFIG_BYTES: usize = 256;

/// All of virtio's structures and the MSI-X table live in this BAR.
pub(super) const BAR_INDEX: u8 = 0;

/// Size of that BAR: one page of a 64K-page guest.
pub(super) const BAR_BYTES: u64 = 0x1_0000;

/// Where each structure is within the BAR. Each has pages of 4 KiB to itself, in case a host maps them one by one.
pub(super) const COMMON_OFFSET: u32 = 0x0000;
pub(super) const ISR_OFFSET: u32 = 0x1000;
pub(super) const DEVICE_OFFSET: u32 = 0x2000;
pub(super) const NOTIFY_OFFSET: u32 = 0x3000;
pub(super) const TABLE_OFFSET: u32 = 0x8000;
pub(super) const PENDING_OFFSET: u32 = 0xc000;

/// Length of the common configuration structure up to and with queue_device (virtio 1.2 §4.1.4.3).
pub(super) const COMMON_BYTES: u32 = 0x38;
/// Length given to the device configuration structure; no device here has more.
pub(super) const DEVICE_BYTES: u32 = 0x100;
/// Distance in bytes between the notification addresses of two queues.
pub(super) const NOTIFY_STRIDE: u32 = 4;

const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const BAR0: usize = 0x10;
const CAPABILITY_POINTER: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;

/// Command register bits that can be set: memory decode, bus master, SERR, parity, INTx disable. There is no I/O space.
const COMMAND_WRITABLE: u16 = 0x0002 | 0x0004 | 0x0040 | 0x0100 | 0x0400;
const COMMAND_MEMORY: u16 = 0x0002;
const COMMAND_INTX_DISABLE: u16 = 0x0400;
const STATUS_CAPABILITIES: u16 = 0x0010;
const STATUS_INTERRUPT: u16 = 0x0008;

/// 64-bit, prefetchable memory: may be placed in any memory window.
const BAR_TYPE: u64 = 0b1100;

const CAPABILITY_MSIX: u8 = 0x11;
const CAPABILITY_VENDOR: u8 = 0x09;
/// virtio 1.2 §4.1.4, cfg_type.
const CFG_COMMON: u8 = 1;
const CFG_NOTIFY: u8 = 2;
const CFG_ISR: u8 = 3;
const CFG_DEVICE: u8 = 4;
const CFG_PCI: u8 = 5;

const FIRST_CAPABILITY: usize = 0x40;

/// What a config write asks the transport to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing beyond what was stored.
    None,
    /// The MSI-X control word changed.
    Msix {
        /// Its enable bit.
        enabled: bool,
        /// Its function mask bit.
        masked: bool,
    },
    /// The command register changed.
    Command {
        /// Its interrupt disable bit.
        intx_disabled: bool,
    },
    /// pci_cfg_data was written: store these bytes at this offset of the BAR (virtio 1.2 §4.1.4.9).
    WindowWrite(Window, u32),
}

/// The BAR access that the PCI configuration access capability describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) offset: u64,
    pub(super) length: usize,
}

pub(super) struct ConfigSpace {
    bytes: [u8; CONFIG_BYTES],
    /// Which bits a write may change.
    writable: [u8; CONFIG_BYTES],
    bar: u64,
    msix_control: usize,
    /// Offset of the PCI configuration access capability.
    window: usize,
}

impl ConfigSpace {
    pub(super) fn new(identity: &PciIdentity, queues: usize, vectors: u16) -> Self {
        let mut space = Self { bytes: [0; CONFIG_BYTES], writable: [0; CONFIG_BYTES], bar: 0, msix_control: 0, window: 0 };
        space.put(0x00, &identity.vendor_id.to_le_bytes());
        space.put(0x02, &identity.device_id.to_le_bytes());
        space.put(STATUS, &STATUS_CAPABILITIES.to_le_bytes());
        space.put(0x08, &[identity.revision_id]);
        space.put(0x09, &identity.class_code.to_le_bytes()[..3]);
        space.put(0x2c, &identity.subsystem_vendor_id.to_le_bytes());
        space.put(0x2e, &identity.subsystem_id.to_le_bytes());
        space.put(0x3d, &[1]); // INTA#
        space.allow(COMMAND, &COMMAND_WRITABLE.to_le_bytes());
        space.allow(0x0c, &[0xff]); // Cache line size: no meaning here, but firmware sets it.
        space.allow(INTERRUPT_LINE, &[0xff]);

        let mut chain = Capabilities { space: &mut space, at: FIRST_CAPABILITY, link: CAPABILITY_POINTER };
        let notify_bytes = NOTIFY_STRIDE * u32::try_from(queues).unwrap_or(u32::MAX / NOTIFY_STRIDE);
        chain.virtio(CFG_COMMON, COMMON_OFFSET, COMMON_BYTES, &[]);
        chain.virtio(CFG_NOTIFY, NOTIFY_OFFSET, notify_bytes, &NOTIFY_STRIDE.to_le_bytes());
        chain.virtio(CFG_ISR, ISR_OFFSET, 1, &[]);
        chain.virtio(CFG_DEVICE, DEVICE_OFFSET, DEVICE_BYTES, &[]);
        let window = chain.virtio(CFG_PCI, 0, 0, &[0; 4]);
        let msix = chain.msix(vectors);
        space.window = window;
        space.msix_control = msix + 2;
        // cap.bar, cap.offset, cap.length and pci_cfg_data of the access capability are the driver's.
        space.allow(window + 4, &[0xff]);
        space.allow(window + 8, &[0xff; 12]);
        space.allow(space.msix_control + 1, &[0xc0]);
        space
    }

    pub(super) fn set_device_id(&mut self, device_id: u16) {
        self.put(0x02, &device_id.to_le_bytes());
    }

    /// The byte-wise value at `offset`; all ones outside. `intx_pending` goes into the status register.
    pub(super) fn read(&self, offset: usize, length: usize, intx_pending: bool) -> u32 {
        let mut value = [0xff; 4];
        for (byte, position) in value.iter_mut().zip(offset..offset.saturating_add(length)) {
            *byte = match position {
                BAR0..0x18 => self.bar_register()[position - BAR0],
                STATUS if intx_pending => self.bytes[STATUS] | STATUS_INTERRUPT.to_le_bytes()[0],
                _ => self.bytes.get(position).copied().unwrap_or(0xff),
            };
        }
        let mask = if length >= 4 { u32::MAX } else { (1 << (8 * length)) - 1 };
        u32::from_le_bytes(value) & mask
    }

    pub(super) fn write(&mut self, offset: usize, length: usize, value: u32) -> Effect {
        let value = value.to_le_bytes();
        let range = offset..offset.saturating_add(length.min(4));
        let touches = |at: usize, size: usize| range.start < at + size && at < range.end;
        for (byte, position) in value.iter().zip(range.clone()) {
            if let BAR0..0x18 = position {
                let shift = 8 * (position - BAR0);
                self.bar = (self.bar & !(0xff << shift) | u64::from(*byte) << shift) & !(BAR_BYTES - 1);
            } else if let (Some(cell), Some(mask)) = (self.bytes.get_mut(position), self.writable.get(position)) {
                *cell = *cell & !mask | byte & mask;
            }
        }
        if touches(self.msix_control, 2) {
            let high = self.bytes[self.msix_control + 1];
            return Effect::Msix { enabled: high & 0x80 != 0, masked: high & 0x40 != 0 };
        }
        if touches(COMMAND, 2) {
            return Effect::Command { intx_disabled: self.command() & COMMAND_INTX_DISABLE != 0 };
        }
        if touches(self.window + 16, 4)
            && let Some(window) = self.window()
        {
            return Effect::WindowWrite(window, self.dword(self.window + 16));
        }
        Effect::None
    }

    /// True if a read at `offset` touches pci_cfg_data: the transport then refreshes it by [`Self::set_window_data`] first.
    pub(super) fn reads_window(&self, offset: usize, length: usize) -> Option<Window> {
        let data = self.window + 16;
        (offset < data + 4 && data < offset.saturating_add(length)).then(|| self.window()).flatten()
    }

    pub(super) fn set_window_data(&mut self, data: [u8; 4]) {
        self.put(self.window + 16, &data);
    }

    /// Where the BAR is decoded, if memory decoding is on and it has an address.
    pub(super) fn bar_address(&self) -> Option<u64> {
        (self.command() & COMMAND_MEMORY != 0 && self.bar != 0).then_some(self.bar)
    }

    pub(super) fn assign_bar(&mut self, address: u64) {
        self.bar = address & !(BAR_BYTES - 1);
    }

    fn window(&self) -> Option<Window> {
        let length = self.dword(self.window + 12);
        // virtio 1.2 §4.1.4.9.2: the driver must write 1, 2 or 4 into cap.length, and an offset that is a multiple of it.
        let offset = self.dword(self.window + 8);
        let valid = matches!(length, 1 | 2 | 4) && offset.is_multiple_of(length) && self.bytes[self.window + 4] == BAR_INDEX;
        valid.then_some(Window { offset: u64::from(offset), length: length as usize })
    }

    fn bar_register(&self) -> [u8; 8] {
        (self.bar | BAR_TYPE).to_le_bytes()
    }

    fn command(&self) -> u16 {
        u16::from_le_bytes([self.bytes[COMMAND], self.bytes[COMMAND + 1]])
    }

    fn dword(&self, at: usize) -> u32 {
        u32::from_le_bytes([self.bytes[at], self.bytes[at + 1], self.bytes[at + 2], self.bytes[at + 3]])
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn allow(&mut self, at: usize, mask: &[u8]) {
        self.writable[at..at + mask.len()].copy_from_slice(mask);
    }
}

/// The one BAR, as the bridge asks for it.
pub(super) const BAR: PciBar = PciBar { index: BAR_INDEX, size_bytes: BAR_BYTES, is_64bit: true, prefetchable: true };

/// Appends capabilities, linking each to the one before.
struct Capabilities<'a> {
    space: &'a mut ConfigSpace,
    at: usize,
    link: usize,
}

impl Capabilities<'_> {
    /// struct virtio_pci_cap (virtio 1.2 §4.1.4) followed by `extra`. Answers where it is.
    fn virtio(&mut self, cfg_type: u8, offset: u32, length: u32, extra: &[u8]) -> usize {
        let mut body = Vec::with_capacity(20);
        let size = 16 + extra.len();
        body.extend_from_slice(&[CAPABILITY_VENDOR, 0, size as u8, cfg_type, BAR_INDEX, 0, 0, 0]);
        body.extend_from_slice(&offset.to_le_bytes());
        body.extend_from_slice(&length.to_le_bytes());
        body.extend_from_slice(extra);
        self.append(&body)
    }

    /// The MSI-X capability (PCI 3.0 §6.8.2).
    fn msix(&mut self, vectors: u16) -> usize {
        let mut body = vec![CAPABILITY_MSIX, 0];
        body.extend_from_slice(&vectors.saturating_sub(1).to_le_bytes());
        body.extend_from_slice(&(TABLE_OFFSET | u32::from(BAR_INDEX)).to_le_bytes());
        body.extend_from_slice(&(PENDING_OFFSET | u32::from(BAR_INDEX)).to_le_bytes());
        self.append(&body)
    }

    fn append(&mut self, body: &[u8]) -> usize {
        let at = self.at;
        self.space.put(at, body);
        self.space.put(self.link, &[at as u8]);
        self.link = at + 1;
        self.at = (at + body.len()).next_multiple_of(4);
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> ConfigSpace {
        let identity = PciIdentity {
            vendor_id: 0x1af4,
            device_id: 0x105a,
            class_code: 0x01_80_00,
            revision_id: 1,
            subsystem_vendor_id: 0x1af4,
            subsystem_id: 0x40,
        };
        ConfigSpace::new(&identity, 3, 4)
    }

    /// Walks the capability list as a driver does.
    fn capabilities(space: &ConfigSpace) -> Vec<(usize, u8)> {
        let mut at = space.read(CAPABILITY_POINTER, 1, false) as usize;
        let mut found = Vec::new();
        while at != 0 {
            found.push((at, space.read(at, 1, false) as u8));
            assert!(found.len() < 16, "the list loops");
            at = space.read(at + 1, 1, false) as usize;
        }
        found
    }

    #[test]
    fn identity_and_capabilities_are_found() {
        let space = space();
        assert_eq!(space.read(0, 4, false), 0x105a_1af4);
        assert_eq!(space.read(8, 4, false), 0x0180_0001);
        assert_eq!(space.read(STATUS, 2, false), 0x0010);
        assert_eq!(space.read(STATUS, 2, true), 0x0018);
        let list = capabilities(&space);
        let types: Vec<_> =
            list.iter().filter(|(_, id)| *id == CAPABILITY_VENDOR).map(|(at, _)| space.read(at + 3, 1, false)).collect();
        assert_eq!(types, [1, 2, 3, 4, 5]);
        let (msix, _) = *list.iter().find(|(_, id)| *id == CAPABILITY_MSIX).unwrap();
        assert_eq!(space.read(msix + 2, 2, false), 3);
        assert_eq!(space.read(msix + 4, 4, false), TABLE_OFFSET);
    }

    #[test]
    fn bar_sizing_and_decoding() {
        let mut space = space();
        space.write(0x10, 4, 0xffff_ffff);
        space.write(0x14, 4, 0xffff_ffff);
        assert_eq!(space.read(0x10, 4, false), 0xffff_000c);
        assert_eq!(space.read(0x14, 4, false), 0xffff_ffff);
        space.write(0x10, 4, 0x8001_0000);
        space.write(0x14, 4, 0x2100);
        assert_eq!(space.bar_address(), None, "memory decoding is off");
        space.write(COMMAND, 2, 0x0006);
        assert_eq!(space.bar_address(), Some(0x2100_8001_0000));
        assert_eq!(space.read(0x18, 4, false), 0, "there is no other BAR");
    }

    #[test]
    fn msix_and_intx_bits_reach_the_transport() {
        let mut space = space();
        let at = space.msix_control;
        assert_eq!(space.write(at, 2, 0xffff), Effect::Msix { enabled: true, masked: true });
        assert_eq!(space.read(at, 2, false), 0xc003, "the table size is read-only");
        assert_eq!(space.write(at, 2, 0x8000), Effect::Msix { enabled: true, masked: false });
        assert_eq!(space.write(COMMAND, 2, 0x0400), Effect::Command { intx_disabled: true });
    }

    #[test]
    fn every_offset_width_and_value_is_harmless() {
        let mut space = space();
        for offset in 0..4096usize {
            for length in [1, 2, 4] {
                space.write(offset, length, 0xffff_ffff);
                let _ = space.read(offset, length, true);
            }
        }
        assert_eq!(space.read(0, 4, false), 0x105a_1af4, "the identity is read-only");
        assert_eq!(space.read(256, 2, false), 0xffff);
        assert_eq!(capabilities(&space).len(), 6);
    }

    #[test]
    fn the_access_window_needs_a_valid_length() {
        let mut space = space();
        let window = space.window;
        space.write(window + 8, 4, COMMON_OFFSET + 0x14);
        assert_eq!(space.reads_window(window + 16, 4), None);
        space.write(window + 12, 4, 1);
        assert_eq!(space.reads_window(window + 16, 4), Some(Window { offset: 0x14, length: 1 }));
        assert_eq!(space.write(window + 16, 4, 0), Effect::WindowWrite(Window { offset: 0x14, length: 1 }, 0));
        space.write(window + 12, 4, 3);
        assert_eq!(space.reads_window(window + 16, 4), None);
    }
}
