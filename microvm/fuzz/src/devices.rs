//! The devices: any writes to configuration space and registers, any rings, any requests end in answers, counted errors or a device that needs a
//! reset. A thread of a device that panics is a broken promise as well.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Once};

use paperboat_hypervisor::GuestRam;
use paperboat_microvm::devices::{DEFAULT_CID, DeviceConfig, VsockConfig};
use paperboat_microvm::pci::PciFunction;
use vm_memory::{Bytes, GuestAddress};

use crate::input::Input;

const MEMORY_BYTES: u64 = 8 << 20;
/// Steps of one input; more show nothing new.
const STEPS_MAX: usize = 48;
/// Bytes of one request that come from the input.
const REQUEST_MAX: usize = 256;
/// Queues of a device that are used; no device has more that differ.
const QUEUES: u64 = 3;
const QUEUE_SIZE: u16 = 32;
/// Where the rings of a device stand, queue by queue, and its buffers behind them.
const DEVICE_BYTES: u64 = 1 << 20;
const QUEUE_BYTES: u64 = 0x1_0000;
const BUFFERS: u64 = QUEUES * QUEUE_BYTES;
/// Offsets of the register windows in BAR 0, and registers of the first one (virtio 1.2 §4.1.4.3).
const NOTIFY: u64 = 0x3000;
const DEVICE_FEATURE_SELECT: u64 = 0x00;
const DRIVER_FEATURE_SELECT: u64 = 0x08;
const STATUS: u64 = 0x14;
const QUEUE_SELECT: u64 = 0x16;
/// Numbers that mean something to devices.
const KNOWN: [u64; 8] = [0, 0x14, 0x1c, 0x3000, 0x8000, BUFFERS, MEMORY_BYTES - 8, MEMORY_BYTES];

/// Set by a panic on any thread.
static PANICKED: AtomicBool = AtomicBool::new(false);

/// A directory with a share and a place for a socket.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let name = format!("paperboat-fuzz-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(path.join("share/directory")).expect("a directory");
        std::fs::write(path.join("share/file"), "content").expect("a file");
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn functions(scratch: &Path, ram: &GuestRam) -> Vec<Arc<dyn PciFunction>> {
    let share = DeviceConfig::open_share(&scratch.join("share").to_string_lossy()).expect("the share");
    let config = DeviceConfig {
        share: Some(share),
        vsock: Some(VsockConfig { cid: DEFAULT_CID, socket_path: scratch.join("vsock") }),
        nics: DeviceConfig::network_slots(1, 1).expect("a network slot"),
        helpers: true,
        ..DeviceConfig::default()
    };
    config.make(ram).expect("five devices")
}

/// A device, and what the driver has published in each of its queues.
struct Driven<'a> {
    function: &'a dyn PciFunction,
    ram: &'a GuestRam,
    base: u64,
    published: [u16; QUEUES as usize],
}

impl Driven<'_> {
    fn write(&self, register: u64, bytes: &[u8]) {
        self.function.bar_write(0, register, bytes);
    }

    /// As a driver does it: everything that is offered is taken but for `refused`, every queue is set up.
    fn bring_up(&mut self, refused: u64) {
        self.write(STATUS, &[0]);
        self.write(STATUS, &[3]);
        for half in 0..2u32 {
            self.write(DEVICE_FEATURE_SELECT, &half.to_le_bytes());
            let mut offered = [0; 4];
            self.function.bar_read(0, DEVICE_FEATURE_SELECT + 4, &mut offered);
            let taken = u32::from_le_bytes(offered) & !(refused >> (32 * half)) as u32;
            self.write(DRIVER_FEATURE_SELECT, &half.to_le_bytes());
            self.write(DRIVER_FEATURE_SELECT + 4, &taken.to_le_bytes());
        }
        self.write(STATUS, &[0x0b]);
        for queue in 0..QUEUES {
            let rings = self.base + queue * QUEUE_BYTES;
            // The memory is the test's own.
            self.ram.memory().write_slice(&[0; 0x9000], GuestAddress(rings)).expect("rings in memory");
            self.published[queue as usize] = 0;
            self.write(QUEUE_SELECT, &(queue as u16).to_le_bytes());
            self.write(QUEUE_SELECT + 2, &QUEUE_SIZE.to_le_bytes());
            for (register, offset) in [(0x20, 0), (0x28, 0x4000), (0x30, 0x8000)] {
                self.write(register, &(rings + offset).to_le_bytes());
            }
            self.write(0x1c, &1u16.to_le_bytes());
        }
        self.write(STATUS, &[0x0f]);
    }

    /// A chain of two descriptors: `request` to be read, `room` bytes to be written.
    fn offer(&mut self, queue: u64, request: &[u8], room: u32) {
        let rings = self.base + queue * QUEUE_BYTES;
        let published = &mut self.published[queue as usize];
        let head = *published % (QUEUE_SIZE / 2) * 2;
        let buffer = self.base + BUFFERS + u64::from(head) * 0x1000;
        let memory = self.ram.memory();
        let descriptor = |address: u64, length: u32, flags: u16, next: u16| {
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&address.to_le_bytes());
            bytes[8..12].copy_from_slice(&length.to_le_bytes());
            bytes[12..14].copy_from_slice(&flags.to_le_bytes());
            bytes[14..].copy_from_slice(&next.to_le_bytes());
            bytes
        };
        let first = descriptor(buffer, request.len() as u32, 1, head + 1);
        let second = descriptor(buffer + 0x1000, room, 2, 0);
        *published = published.wrapping_add(1);
        for (address, bytes) in [
            (buffer, request),
            (rings + 16 * u64::from(head), &first),
            (rings + 16 * u64::from(head + 1), &second),
            (rings + 0x4004 + 2 * u64::from(published.wrapping_sub(1) % QUEUE_SIZE), &head.to_le_bytes()),
            (rings + 0x4002, &published.to_le_bytes()),
        ] {
            memory.write_slice(bytes, GuestAddress(address)).expect("rings and buffers in memory");
        }
        self.notify(queue);
    }

    fn notify(&self, queue: u64) {
        self.write(NOTIFY + 4 * queue, &(queue as u16).to_le_bytes());
    }
}

/// Steps: a byte for the device, one for what is done, and what that takes.
pub fn run(data: &[u8]) {
    static WATCH: Once = Once::new();
    WATCH.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANICKED.store(true, Ordering::SeqCst);
            usual(info);
        }));
    });
    let scratch = Scratch::new();
    let ram = GuestRam::new(MEMORY_BYTES).expect("eight MiB of memory");
    let functions = functions(&scratch.0, &ram);
    let mut devices: Vec<Driven> = (1u64..)
        .zip(&functions)
        .map(|(number, function)| Driven { function: &**function, ram: &ram, base: number * DEVICE_BYTES, published: [0; 3] })
        .collect();
    let mut input = Input::new(data);
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        let which = usize::from(input.byte()) % devices.len();
        step(&mut devices[which], &mut input);
    }
    for function in &functions {
        function.shutdown();
    }
    assert!(!PANICKED.load(Ordering::SeqCst), "a thread of a device has panicked");
}

fn step(device: &mut Driven<'_>, input: &mut Input<'_>) {
    match input.byte() % 8 {
        0 => device.bring_up(if input.byte() & 1 == 0 { 0 } else { input.value(&KNOWN) }),
        // Twice as often: a request, whose first word is its length where the input says so, as FUSE has it.
        1 | 2 => {
            let (queue, shape) = (u64::from(input.byte()) % QUEUES, input.byte());
            let room = if shape & 1 == 0 { 0x1000 } else { input.value(&KNOWN) as u32 };
            let length = usize::from(input.byte()).min(REQUEST_MAX);
            let mut request: Vec<u8> = (0..length).map(|_| input.byte()).collect();
            if shape & 2 == 0 && length >= 4 {
                request[..4].copy_from_slice(&(length as u32).to_le_bytes());
            }
            device.offer(queue, &request, room);
        }
        3 => device.function.config_write(input.value(&KNOWN) as u16, 1 << (input.byte() % 3), input.value(&KNOWN) as u32),
        4 => {
            device.function.config_read(input.value(&KNOWN) as u16, 1 << (input.byte() % 3));
        }
        5 => {
            let (offset, value) = (input.value(&KNOWN), input.value(&KNOWN).to_le_bytes());
            device.write(offset, &value[..1 << (input.byte() % 4)]);
        }
        6 => {
            let (offset, mut bytes) = (input.value(&KNOWN), [0; 8]);
            device.function.bar_read(0, offset, &mut bytes[..1 << (input.byte() % 4)]);
        }
        // Rings and whatever else is in memory.
        _ => {
            let at = device.base + input.value(&KNOWN) % DEVICE_BYTES;
            let value = input.value(&KNOWN);
            // Outside memory there is nothing to write to.
            let _ = device.ram.memory().write_obj(value.to_le(), GuestAddress(at));
            device.notify(u64::from(input.byte()) % QUEUES);
        }
    }
}
