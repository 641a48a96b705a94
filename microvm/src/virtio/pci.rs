//! The modern PCI transport (virtio 1.2 §4.1): register windows, negotiation, life cycle.
//!
//! Registers are little-endian whatever the guest is. Notifications go straight from the vCPU's store to the queue's
//! eventfd (in the backend, where it can), or to the queue's direct service where it has one; everything else is rare and takes the transport's lock.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use nix::sys::eventfd::EventFd;
use paperboat_hypervisor::GuestRam;
use virtio_queue::{Queue, QueueT};

use super::config_space::{
    BAR, BAR_INDEX, COMMON_BYTES, COMMON_OFFSET, CONFIG_BYTES, ConfigSpace, DEVICE_BYTES, DEVICE_OFFSET, Effect, ISR_OFFSET,
    NOTIFY_OFFSET, NOTIFY_STRIDE, PENDING_OFFSET, TABLE_OFFSET, Window,
};
use super::doorbells::BoundDoorbells;
use super::interrupts::Interrupts;
use super::queue::{ConfigChange, Counters, DeviceQueue, DeviceShared, Ring, STATUS_NEEDS_RESET};
use super::translated::{self, Bus, RingPlace, TranslatedRing};
use super::worker::eventfd;
use super::{
    Activation, DirectService, F_ACCESS_PLATFORM, F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1, MAX_QUEUES, VirtioDevice,
    VirtioError, lock,
};
use crate::pci::{DmaWindow, Doorbells, InterruptLine, PciBar, PciFunction, PciIdentity};

const VENDOR_VIRTIO: u16 = 0x1af4;
/// Modern device ids start here (virtio 1.2 §4.1.2.1).
const MODERN_DEVICE_ID: u16 = 0x1040;
/// What an unplugged device shows: of the vendor's ids that are free for experiments (virtio 1.2 §4.1.2 has those up to 0x107f), one
/// that no driver takes.
const UNPLUGGED_DEVICE_ID: u16 = 0x10f0;
/// Where in config space the device id is.
const DEVICE_ID_OFFSET: usize = 2;

const STATUS_DRIVER_OK: u8 = 0x04;
const STATUS_FEATURES_OK: u8 = 0x08;
/// The bits a driver sets; the device sets DEVICE_NEEDS_RESET.
const STATUS_DRIVER_BITS: u8 = 0x01 | 0x02 | STATUS_DRIVER_OK | STATUS_FEATURES_OK | 0x80;

/// What the transport offers for every device.
const TRANSPORT_FEATURES: u64 = F_VERSION_1 | F_EVENT_IDX | F_INDIRECT_DESC;

/// A queue as the driver is setting it up.
struct QueueSetup {
    max_size: u16,
    size: u16,
    enabled: bool,
    descriptors: u64,
    available: u64,
    used: u64,
}

impl QueueSetup {
    fn new(max_size: u16) -> Self {
        Self { max_size, size: max_size, enabled: false, descriptors: 0, available: 0, used: 0 }
    }
}

struct Transport {
    device: Box<dyn VirtioDevice>,
    feature_select: u32,
    driver_feature_select: u32,
    driver_features: u64,
    queue_select: u16,
    queues: Vec<QueueSetup>,
    /// What memory is reached through, in machines that enforce it.
    window: Option<Arc<dyn DmaWindow>>,
    doorbells: BoundDoorbells,
    active: bool,
    shut_down: bool,
}

/// A virtio device as a PCI function.
pub struct VirtioPci {
    identity: PciIdentity,
    vectors: u16,
    ram: GuestRam,
    config: Mutex<ConfigSpace>,
    transport: Mutex<Transport>,
    kicks: Vec<Arc<EventFd>>,
    /// Queues that a vCPU may serve by itself. Never locked together with anything else.
    direct: RwLock<Vec<Option<Arc<dyn DirectService>>>>,
    shared: Arc<DeviceShared>,
}

impl VirtioPci {
    /// Puts `device` behind PCI registers. `name` is for logs and statistics, for example `fs0`.
    ///
    /// # Errors
    /// [`VirtioError::Queues`] or [`VirtioError::Descriptor`].
    #[allow(clippy::new_ret_no_self, reason = "the host bridge takes functions of any kind")]
    pub fn new(name: &str, device: Box<dyn VirtioDevice>, ram: GuestRam) -> Result<Arc<dyn PciFunction>, VirtioError> {
        let sizes = device.queue_sizes();
        if sizes.len() > MAX_QUEUES || !sizes.iter().all(|size| size.is_power_of_two()) {
            return Err(VirtioError::Queues { device: name.to_owned(), sizes });
        }
        let descriptor = |source| VirtioError::Descriptor { device: name.to_owned(), what: "queue notification eventfd", source };
        let kicks = sizes.iter().map(|_| eventfd().map(Arc::new)).collect::<Result<_, _>>().map_err(descriptor)?;
        // One vector per queue and one for configuration changes. The number is a power of two because ibm,change-msi
        // is asked for powers of two only (LoPAR 7.3.10.5).
        let vectors = (sizes.len() as u16 + 1).next_power_of_two();
        let device_type = device.device_type();
        let identity = PciIdentity {
            vendor_id: VENDOR_VIRTIO,
            device_id: MODERN_DEVICE_ID + device_type,
            class_code: device.class_code(),
            revision_id: 1,
            subsystem_vendor_id: VENDOR_VIRTIO,
            subsystem_id: MODERN_DEVICE_ID + device_type,
        };
        let shared = DeviceShared {
            name: name.to_owned(),
            status: AtomicU8::new(0),
            interrupts: Interrupts::new(sizes.len(), vectors),
            generation: AtomicU8::new(0),
            counters: Arc::new(Counters::default()),
        };
        Ok(Arc::new(Self {
            identity,
            vectors,
            ram,
            config: Mutex::new(ConfigSpace::new(&identity, sizes.len(), vectors)),
            transport: Mutex::new(Transport {
                device,
                feature_select: 0,
                driver_feature_select: 0,
                driver_features: 0,
                queue_select: 0,
                queues: sizes.into_iter().map(QueueSetup::new).collect(),
                window: None,
                doorbells: BoundDoorbells::default(),
                active: false,
                shut_down: false,
            }),
            kicks,
            direct: RwLock::default(),
            shared: Arc::new(shared),
        }))
    }

    /// The common configuration structure as it reads now (virtio 1.2 §4.1.4.3).
    fn common_registers(&self) -> [u8; COMMON_BYTES as usize] {
        let transport = lock(&self.transport);
        let queue = transport.queues.get(usize::from(transport.queue_select));
        // Of a queue that is not there only the size, zero, has a meaning.
        let select = transport.queue_select;
        let word = |value: u64, select: u32| match select {
            0 => value as u32,
            1 => (value >> 32) as u32,
            _ => 0,
        };
        let mut registers = [0; COMMON_BYTES as usize];
        let mut put = |at: usize, bytes: &[u8]| registers[at..at + bytes.len()].copy_from_slice(bytes);
        put(0x00, &transport.feature_select.to_le_bytes());
        put(0x04, &word(transport.offered(), transport.feature_select).to_le_bytes());
        put(0x08, &transport.driver_feature_select.to_le_bytes());
        put(0x0c, &word(transport.driver_features, transport.driver_feature_select).to_le_bytes());
        put(0x10, &self.shared.interrupts.config_vector().to_le_bytes());
        put(0x12, &(transport.queues.len() as u16).to_le_bytes());
        put(0x14, &[self.shared.status.load(Ordering::SeqCst)]);
        put(0x15, &[self.shared.generation.load(Ordering::SeqCst)]);
        put(0x16, &select.to_le_bytes());
        put(0x1a, &self.shared.interrupts.queue_vector(select).to_le_bytes());
        if let Some(queue) = queue {
            put(0x18, &queue.size.to_le_bytes());
            put(0x1c, &u16::from(queue.enabled).to_le_bytes());
            put(0x1e, &select.to_le_bytes());
            put(0x20, &queue.descriptors.to_le_bytes());
            put(0x28, &queue.available.to_le_bytes());
            put(0x30, &queue.used.to_le_bytes());
        }
        registers
    }

    /// One register write of 1, 2 or 4 bytes. A write that fits no register is ignored.
    fn write_common(&self, offset: u32, length: usize, value: u32) {
        let mut transport = lock(&self.transport);
        if transport.shut_down {
            return;
        }
        let negotiating = self.shared.status.load(Ordering::SeqCst) & STATUS_FEATURES_OK == 0;
        match (offset, length) {
            (0x00, 4) => transport.feature_select = value,
            (0x08, 4) => transport.driver_feature_select = value,
            (0x0c, 4) if negotiating => transport.write_driver_features(value),
            (0x10, 2) => self.shared.interrupts.set_config_vector(value as u16),
            (0x14, 1) => self.write_status(transport, value as u8),
            (0x16, 2) => transport.queue_select = value as u16,
            (0x1a, 2) => self.shared.interrupts.set_queue_vector(transport.queue_select, value as u16),
            (0x18 | 0x1c | 0x20..0x38, _) => transport.write_queue(offset, length, value),
            _ => {}
        }
    }

    fn write_status(&self, mut transport: MutexGuard<'_, Transport>, value: u8) {
        if value == 0 {
            self.reset(&mut transport);
            return;
        }
        let current = self.shared.status.load(Ordering::SeqCst);
        // virtio 1.2 §2.1.1: a driver never clears a bit but by a reset.
        let mut added = value & STATUS_DRIVER_BITS & !current;
        if added & STATUS_FEATURES_OK != 0 && !transport.features_acceptable() {
            added &= !STATUS_FEATURES_OK;
        }
        let status = self.shared.status.fetch_or(added, Ordering::SeqCst) | added;
        if added & STATUS_DRIVER_OK != 0 && status & STATUS_FEATURES_OK != 0 && status & STATUS_NEEDS_RESET == 0 {
            self.activate(&mut transport);
        }
    }

    fn activate(&self, transport: &mut Transport) {
        let features = transport.driver_features;
        let window = transport.window.clone().filter(|_| features & F_ACCESS_PLATFORM != 0);
        let ram = match &window {
            Some(_) => translated::with_tables(&self.ram, transport.queues.len()),
            None => Ok(self.ram.clone()),
        };
        let ram = match ram {
            Ok(ram) => ram,
            Err(error) => return self.shared.needs_reset(&error),
        };
        let mut queues = Vec::with_capacity(transport.queues.len());
        for (index, (setup, kick)) in transport.queues.iter().zip(&self.kicks).enumerate() {
            let index = index as u16;
            if !setup.enabled {
                queues.push(None);
                continue;
            }
            let ring = match &window {
                Some(window) => translated_ring(setup, features, index, Bus::new(Arc::clone(window), ram.clone())),
                None => self.ring(setup, features).map(Ring::Identity),
            };
            let Some(ring) = ring else {
                self.shared.needs_reset(&format_args!("queue {index} is not in memory or not aligned"));
                return;
            };
            let _ = kick.read(); // A notification from before the activation.
            let shared = Arc::clone(&self.shared);
            queues.push(Some(DeviceQueue::new(ring, index, ram.clone(), Arc::clone(kick), shared)));
        }
        // What was made available before DRIVER_OK is looked at without a notification.
        for kick in &self.kicks {
            let _ = kick.write(1);
        }
        transport.active = true;
        let change = ConfigChange(Arc::clone(&self.shared));
        if let Err(error) = transport.device.activate(Activation { ram, features, queues, change }) {
            self.shared.needs_reset(&error);
            return;
        }
        let direct = (0..self.kicks.len()).map(|index| transport.device.direct(index as u16)).collect();
        *self.direct.write().unwrap_or_else(PoisonError::into_inner) = direct;
        self.place_doorbells(transport);
    }

    /// Notifications of the queues that a vCPU does not serve become events where the guest has put them.
    fn place_doorbells(&self, transport: &mut Transport) {
        if !transport.doorbells.possible() {
            return;
        }
        let bar = lock(&self.config).bar_address().filter(|_| transport.active);
        let direct = self.direct.read().unwrap_or_else(PoisonError::into_inner);
        let wanted = bar.into_iter().flat_map(|bar| {
            let served = |index: usize| direct.get(index).is_some_and(Option::is_some);
            let queues = transport.queues.iter().zip(&self.kicks).enumerate();
            let rung = queues.filter(move |(index, (queue, _))| queue.enabled && !served(*index));
            let place = move |index: usize| bar + u64::from(NOTIFY_OFFSET) + index as u64 * u64::from(NOTIFY_STRIDE);
            rung.map(move |(index, (_, kick))| (place(index), Arc::clone(kick)))
        });
        let wanted = wanted.collect();
        drop(direct);
        transport.doorbells.set(wanted);
    }

    fn forget_direct(&self) {
        self.direct.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The ring a driver described, if it lies in memory.
    fn ring(&self, setup: &QueueSetup, features: u64) -> Option<Queue> {
        use vm_memory::GuestAddress;
        let mut queue = Queue::new(setup.max_size).ok()?;
        queue.try_set_size(setup.size).ok()?;
        queue.try_set_desc_table_address(GuestAddress(setup.descriptors)).ok()?;
        queue.try_set_avail_ring_address(GuestAddress(setup.available)).ok()?;
        queue.try_set_used_ring_address(GuestAddress(setup.used)).ok()?;
        queue.set_event_idx(features & F_EVENT_IDX != 0);
        queue.set_ready(true);
        // Address 0 means "not set" to the ring code, and no driver puts a ring onto the exception vectors.
        (setup.available != 0 && queue.is_valid(self.ram.memory())).then_some(queue)
    }

    /// Joins the device's threads, then forgets everything the driver set up.
    fn reset(&self, transport: &mut Transport) {
        if transport.active {
            self.forget_direct();
            transport.device.reset();
            Counters::count(&self.shared.counters.resets);
        }
        transport.active = false;
        self.place_doorbells(transport);
        transport.feature_select = 0;
        transport.driver_feature_select = 0;
        transport.driver_features = 0;
        transport.queue_select = 0;
        for queue in &mut transport.queues {
            *queue = QueueSetup::new(queue.max_size);
        }
        self.shared.interrupts.reset();
        self.shared.status.store(0, Ordering::SeqCst);
    }

    fn notify(&self, offset: u64) {
        let index = offset / u64::from(NOTIFY_STRIDE);
        if let Some(kick) = usize::try_from(index).ok().and_then(|index| self.kicks.get(index)) {
            Counters::count(&self.shared.counters.kicks);
            let services = self.direct.read().unwrap_or_else(PoisonError::into_inner);
            let service = services.get(index as usize).cloned().flatten();
            drop(services);
            if service.is_some_and(|service| service.notified()) {
                Counters::count(&self.shared.counters.direct);
                return;
            }
            // EAGAIN: the counter is full of unseen notifications, so one more says nothing new.
            let _ = kick.write(1);
        }
    }

    fn read_bar(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let Ok(offset) = u32::try_from(offset) else { return };
        let within = |start: u32| (offset - start) as usize;
        match offset {
            COMMON_OFFSET..ISR_OFFSET => super::copy_config(&self.common_registers(), within(COMMON_OFFSET), data),
            ISR_OFFSET => {
                if let Some(byte) = data.first_mut() {
                    *byte = self.shared.interrupts.read_isr();
                }
            }
            DEVICE_OFFSET..NOTIFY_OFFSET if offset < DEVICE_OFFSET + DEVICE_BYTES => {
                lock(&self.transport).device.read_config(within(DEVICE_OFFSET), data);
            }
            TABLE_OFFSET..PENDING_OFFSET => self.shared.interrupts.read_table(within(TABLE_OFFSET), data),
            PENDING_OFFSET.. => self.shared.interrupts.read_pending(within(PENDING_OFFSET), data),
            _ => {}
        }
    }

    fn write_bar(&self, offset: u64, data: &[u8]) {
        let Ok(offset) = u32::try_from(offset) else { return };
        match offset {
            COMMON_OFFSET..ISR_OFFSET => match *data {
                [a] => self.write_common(offset, 1, u32::from(a)),
                [a, b] => self.write_common(offset, 2, u32::from(u16::from_le_bytes([a, b]))),
                [a, b, c, d] => self.write_common(offset, 4, u32::from_le_bytes([a, b, c, d])),
                [a, b, c, d, e, f, g, h] => {
                    self.write_common(offset, 4, u32::from_le_bytes([a, b, c, d]));
                    self.write_common(offset.saturating_add(4), 4, u32::from_le_bytes([e, f, g, h]));
                }
                _ => {}
            },
            DEVICE_OFFSET..NOTIFY_OFFSET if offset < DEVICE_OFFSET + DEVICE_BYTES => {
                let mut transport = lock(&self.transport);
                if !transport.shut_down {
                    transport.device.write_config((offset - DEVICE_OFFSET) as usize, data);
                }
            }
            NOTIFY_OFFSET..TABLE_OFFSET => self.notify(u64::from(offset - NOTIFY_OFFSET)),
            TABLE_OFFSET..PENDING_OFFSET => {
                self.shared.interrupts.write_table((offset - TABLE_OFFSET) as usize, data);
            }
            _ => {}
        }
    }
}

/// The ring a driver described by bus addresses. Where it leads shows at each access.
fn translated_ring(setup: &QueueSetup, features: u64, index: u16, bus: Bus) -> Option<Ring> {
    let place = RingPlace {
        size: setup.size,
        descriptors: setup.descriptors,
        available: setup.available,
        used: setup.used,
        event_idx: features & F_EVENT_IDX != 0,
    };
    let ring = place.is_valid().then(|| TranslatedRing::new(bus, index, place).ok()).flatten();
    ring.map(Ring::Translated)
}

impl Transport {
    fn offered(&self) -> u64 {
        let translated = if self.window.is_some() { F_ACCESS_PLATFORM } else { 0 };
        TRANSPORT_FEATURES | translated | self.device.features()
    }

    fn features_acceptable(&self) -> bool {
        self.driver_features & !self.offered() == 0 && self.driver_features & F_VERSION_1 != 0
    }

    fn write_driver_features(&mut self, value: u32) {
        match self.driver_feature_select {
            0 => self.driver_features = self.driver_features & !0xffff_ffff | u64::from(value),
            1 => self.driver_features = self.driver_features & 0xffff_ffff | u64::from(value) << 32,
            // Bits that nobody defines: accepted as zero only, so that FEATURES_OK is refused otherwise.
            _ if value != 0 => self.driver_features = u64::MAX,
            _ => {}
        }
    }

    /// A register of the selected queue. Once enabled, a queue only changes by a reset (virtio 1.2 §4.1.4.3.2).
    fn write_queue(&mut self, offset: u32, length: usize, value: u32) {
        let Some(queue) = self.queues.get_mut(usize::from(self.queue_select)) else { return };
        if queue.enabled {
            return;
        }
        let low = |field: u64| field & !0xffff_ffff | u64::from(value);
        let high = |field: u64| field & 0xffff_ffff | u64::from(value) << 32;
        match (offset, length) {
            (0x18, 2) if (value as u16).is_power_of_two() && value <= u32::from(queue.max_size) => queue.size = value as u16,
            (0x1c, 2) if value == 1 => queue.enabled = true,
            (0x20, 4) => queue.descriptors = low(queue.descriptors),
            (0x24, 4) => queue.descriptors = high(queue.descriptors),
            (0x28, 4) => queue.available = low(queue.available),
            (0x2c, 4) => queue.available = high(queue.available),
            (0x30, 4) => queue.used = low(queue.used),
            (0x34, 4) => queue.used = high(queue.used),
            _ => {}
        }
    }
}

impl PciFunction for VirtioPci {
    fn name(&self) -> &str {
        &self.shared.name
    }

    fn identity(&self) -> PciIdentity {
        let device_id = if lock(&self.transport).device.is_plugged() { self.identity.device_id } else { UNPLUGGED_DEVICE_ID };
        PciIdentity { device_id, ..self.identity }
    }

    fn bars(&self) -> &[PciBar] {
        &[BAR]
    }

    fn msix_vectors(&self) -> u16 {
        self.vectors
    }

    fn config_read(&self, offset: u16, len: u8) -> u32 {
        let (offset, length) = (usize::from(offset).min(CONFIG_BYTES), usize::from(len.min(4)));
        let window = lock(&self.config).reads_window(offset, length);
        if let Some(Window { offset: at, length }) = window {
            // Reading pci_cfg_data is reading the BAR. Not under the config lock: the two never nest.
            let mut data = [0; 4];
            self.read_bar(at, &mut data[..length]);
            lock(&self.config).set_window_data(data);
        }
        let intx_pending = self.shared.interrupts.intx_pending();
        let identity = (offset < DEVICE_ID_OFFSET + 2).then(|| self.identity());
        let mut config = lock(&self.config);
        if let Some(identity) = identity {
            config.set_device_id(identity.device_id);
        }
        config.read(offset, length, intx_pending)
    }

    fn config_write(&self, offset: u16, len: u8, value: u32) {
        let (before, effect, after) = {
            let mut config = lock(&self.config);
            let before = config.bar_address();
            let effect = config.write(usize::from(offset), usize::from(len), value);
            (before, effect, config.bar_address())
        };
        if before != after {
            self.place_doorbells(&mut lock(&self.transport));
        }
        match effect {
            Effect::None => {}
            Effect::Msix { enabled, masked } => self.shared.interrupts.set_msix(enabled, masked),
            Effect::Command { intx_disabled } => self.shared.interrupts.set_intx_disabled(intx_disabled),
            Effect::WindowWrite(window, data) => self.write_bar(window.offset, &data.to_le_bytes()[..window.length]),
        }
    }

    fn bar_address(&self, index: u8) -> Option<u64> {
        if index == BAR_INDEX { lock(&self.config).bar_address() } else { None }
    }

    fn assign_bar(&self, index: u8, address: u64) {
        if index == BAR_INDEX {
            lock(&self.config).assign_bar(address);
        }
    }

    fn bar_read(&self, index: u8, offset: u64, data: &mut [u8]) {
        if index == BAR_INDEX {
            self.read_bar(offset, data);
        } else {
            data.fill(0);
        }
    }

    fn bar_write(&self, index: u8, offset: u64, data: &[u8]) {
        if index == BAR_INDEX {
            self.write_bar(offset, data);
        }
    }

    fn bind_msix(&self, vector: u16, line: Option<Arc<dyn InterruptLine>>) {
        self.shared.interrupts.bind_msix(vector, line);
    }

    fn bind_intx(&self, line: Arc<dyn InterruptLine>) {
        self.shared.interrupts.bind_intx(line);
    }

    fn bind_dma(&self, window: Arc<dyn DmaWindow>) {
        lock(&self.transport).window = Some(window);
    }

    fn bind_doorbells(&self, doorbells: Arc<dyn Doorbells>) {
        lock(&self.transport).doorbells.set_means(doorbells);
    }

    fn shutdown(&self) {
        let mut transport = lock(&self.transport);
        if !transport.shut_down {
            transport.shut_down = true;
            transport.active = false;
            self.place_doorbells(&mut transport);
            self.forget_direct();
            transport.device.shutdown();
        }
    }

    fn statistics(&self) -> Vec<(&'static str, u64)> {
        let mut all = self.shared.counters.snapshot();
        all.extend(lock(&self.transport).device.statistics());
        all
    }
}

#[cfg(test)]
mod tests;
