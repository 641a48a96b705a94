//! The network device (virtio 1.2 §5.1): a slot that exists from boot, and is bound to a tap later.
//!
//! Until then its PCI function shows an id that no driver takes, which spares the guest's start a driver's. A driver that is there when a slot
//! is bound, unbound or loses its tap hears of it by an interrupt, as a change of the configuration. Each pair of queues has a thread that carries packets to the guest; what the guest sends is written to the
//! tap by the vCPU that notifies, and by that thread when there is much of it.

mod control;
mod header;
mod link;
mod pair;
mod tap;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::worker::{DirectQueue, Workers};
use super::{Activation, DirectService, VirtioDevice, VirtioError, copy_config};
use control::Control;
pub use link::{BindOptions, Nic};
use pair::{Pair, Transmit};
pub use tap::{Tap, TunDevice};

const DEVICE_TYPE: u16 = 1;
/// "Network controller, Ethernet".
const CLASS_CODE: u32 = 0x02_00_00;

/// Most network slots of a machine.
pub const SLOTS_MAX: usize = 8;
/// Most pairs of queues of a slot; the transport has room for 31.
pub const QUEUE_PAIRS_MAX: u16 = 8;
/// Entries of a queue for packets.
const PACKET_QUEUE_SIZE: u16 = 256;
/// Entries of the queue for commands: Linux has one in flight.
const CONTROL_QUEUE_SIZE: u16 = 64;

/// The first five bytes of a slot's address from boot; the last is the slot's number.
const MAC_PREFIX: [u8; 5] = [0x02, 0x70, 0x62, 0x00, 0x00];
/// Least MTU of IPv4.
const MTU_MIN: u32 = 68;
/// Longest IP packet.
const MTU_MAX: u32 = 65535;

const F_CSUM: u64 = 1 << 0;
const F_GUEST_CSUM: u64 = 1 << 1;
const F_CTRL_GUEST_OFFLOADS: u64 = 1 << 2;
const F_MAC: u64 = 1 << 5;
const F_GUEST_TSO4: u64 = 1 << 7;
const F_GUEST_TSO6: u64 = 1 << 8;
const F_GUEST_ECN: u64 = 1 << 9;
const F_HOST_TSO4: u64 = 1 << 11;
const F_HOST_TSO6: u64 = 1 << 12;
const F_HOST_ECN: u64 = 1 << 13;
const F_MRG_RXBUF: u64 = 1 << 15;
const F_STATUS: u64 = 1 << 16;
const F_CTRL_VQ: u64 = 1 << 17;
const F_MQ: u64 = 1 << 22;
const F_CTRL_MAC_ADDR: u64 = 1 << 23;

/// What is always offered. Missing on purpose: MTU (the guest may set any), CTRL_RX and CTRL_VLAN (every packet is delivered), UFO (no
/// kernel since 4.14 sends or asks for it).
const OFFERED: u64 = F_CSUM
    | F_GUEST_CSUM
    | F_CTRL_GUEST_OFFLOADS
    | F_MAC
    | F_GUEST_TSO4
    | F_GUEST_TSO6
    | F_GUEST_ECN
    | F_HOST_TSO4
    | F_HOST_TSO6
    | F_HOST_ECN
    | F_MRG_RXBUF
    | F_STATUS
    | F_CTRL_VQ
    | F_CTRL_MAC_ADDR;

/// VIRTIO_NET_S_LINK_UP in the configuration's status.
const STATUS_LINK_UP: u16 = 1;

/// What wakes a pair's thread.
const TOKEN_WAKE: u64 = 0;
const TOKEN_TAP: u64 = 1;
const TOKEN_STOP: u64 = 2;
const TOKEN_RECEIVE: u64 = 3;
const TOKEN_TRANSMIT: u64 = 4;
const TOKEN_CONTROL: u64 = 5;
const TOKEN_TIMER: u64 = 6;

/// Why a slot cannot be made or bound.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// More slots than there may be.
    #[error("{slots} network slots: at most {SLOTS_MAX}")]
    Slots {
        /// As asked for.
        slots: u32,
    },
    /// A number of queues that cannot be.
    #[error("{queue_pairs} pairs of queues: from 1 to {QUEUE_PAIRS_MAX}")]
    QueuePairs {
        /// As asked for.
        queue_pairs: u32,
    },
    /// An eventfd or epoll instance could not be made.
    #[error("cannot create the descriptors of a network slot")]
    Descriptor(#[source] io::Error),
    /// The host has no taps, or this process may not use them.
    #[error("cannot open /dev/net/tun (is the module tun loaded?)")]
    Device(#[source] io::Error),
    /// Not the name of an interface.
    #[error("tap {name:?}: not the name of an interface")]
    TapName {
        /// As asked for.
        name: String,
    },
    /// No such interface.
    #[error("tap {name}: no such interface in the machine's network namespace")]
    NoTap {
        /// As asked for.
        name: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The kernel does not attach to it.
    #[error(
        "tap {name}: cannot attach {queue_pairs} queue pairs (needs a free tap of the machine's user, with multi_queue exactly for more than one pair)"
    )]
    Attach {
        /// Its name.
        name: String,
        /// As many as were to be attached.
        queue_pairs: u16,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The tap refuses what the driver negotiated.
    #[error("cannot configure the tap")]
    Configure(#[source] io::Error),
    /// The slot has a tap.
    #[error("network slot {slot} is bound already")]
    Bound {
        /// Which.
        slot: u32,
    },
    /// Not an address that an interface can have.
    #[error("MAC address {mac:02x?}: must be a station's")]
    Mac {
        /// As asked for.
        mac: [u8; 6],
    },
    /// Not an MTU.
    #[error("MTU {mtu}: from {MTU_MIN} to {MTU_MAX}")]
    Mtu {
        /// As asked for.
        mtu: u32,
    },
}

/// What of a driver's features the tap has to know.
fn offload(features: u64) -> u32 {
    let pairs = [
        (F_GUEST_CSUM, tap::OFFLOAD_CSUM),
        (F_GUEST_TSO4, tap::OFFLOAD_TSO4),
        (F_GUEST_TSO6, tap::OFFLOAD_TSO6),
        (F_GUEST_ECN, tap::OFFLOAD_TSO_ECN),
    ];
    // Segments without a checksum cannot be (§5.1.3.1): the tap refuses them.
    let accepted = if features & F_GUEST_CSUM == 0 { 0 } else { features };
    pairs.iter().filter(|(feature, _)| accepted & feature != 0).fold(0, |all, (_, bit)| all | bit)
}

/// The network device of a slot.
pub struct NetDevice {
    nic: Arc<Nic>,
    workers: Workers,
    /// The queues that vCPUs serve, by index.
    direct: Vec<(u16, Arc<dyn DirectService>)>,
    close: Vec<Box<dyn FnOnce() + Send>>,
}

impl NetDevice {
    /// The device of the slot.
    pub fn new(nic: Arc<Nic>) -> Self {
        Self { nic, workers: Workers::default(), direct: Vec::new(), close: Vec::new() }
    }

    fn features_of_slot(&self) -> u64 {
        if self.nic.queue_pairs() > 1 { OFFERED | F_MQ } else { OFFERED }
    }

    /// The control queue's index follows the queues that the driver knows of (§5.1.2).
    fn control_index(&self, features: u64) -> u16 {
        if features & F_MQ != 0 { 2 * self.nic.queue_pairs() } else { 2 }
    }

    fn start(&mut self, activation: &mut Activation) -> Result<(), VirtioError> {
        let features = activation.features;
        let control = activation.take_queue(self.control_index(features)).ok().filter(|_| features & F_CTRL_VQ != 0);
        let mut control = control.map(|queue| {
            let service = Control::new(Arc::clone(&self.nic), features, queue.counters());
            DirectQueue::new(queue, service)
        });
        if let Some(queue) = &control {
            self.serve_direct(self.control_index(features), queue);
        }
        let pairs = if features & F_MQ != 0 { self.nic.queue_pairs() } else { 1 };
        for index in 0..pairs {
            let (receive, transmit) = (activation.take_queue(2 * index), activation.take_queue(2 * index + 1));
            let (receive, transmit) = match (receive, transmit) {
                (Ok(receive), Ok(transmit)) => (receive, transmit),
                // A driver need not set up more pairs than it will use.
                (Err(_), Err(_)) if index > 0 => continue,
                (Err(error), _) | (_, Err(error)) => return Err(error),
            };
            let counters = receive.counters();
            let service = Transmit::new(Arc::clone(&self.nic), usize::from(index), features, Arc::clone(&counters))?;
            let transmit = DirectQueue::new(transmit, service);
            self.serve_direct(2 * index + 1, &transmit);
            let pair = Pair {
                index: index.into(),
                nic: Arc::clone(&self.nic),
                mergeable: features & F_MRG_RXBUF != 0,
                receive,
                transmit,
                control: control.take(),
                counters,
            };
            self.workers.spawn(&format!("net-pair-{index}"), move |stop| pair.run(&stop))?;
        }
        Ok(())
    }

    fn serve_direct<S: super::worker::Service>(&mut self, index: u16, queue: &Arc<DirectQueue<S>>) {
        self.direct.push((index, Arc::clone(queue) as Arc<dyn DirectService>));
        let queue = Arc::clone(queue);
        self.close.push(Box::new(move || queue.close()));
    }
}

impl VirtioDevice for NetDevice {
    fn device_type(&self) -> u16 {
        DEVICE_TYPE
    }

    fn class_code(&self) -> u32 {
        CLASS_CODE
    }

    fn queue_sizes(&self) -> Vec<u16> {
        let mut sizes = vec![PACKET_QUEUE_SIZE; 2 * usize::from(self.nic.queue_pairs())];
        sizes.push(CONTROL_QUEUE_SIZE);
        // A driver without MQ finds the control queue where the second pair begins.
        sizes
    }

    fn features(&self) -> u64 {
        self.features_of_slot()
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        // mac, status, max_virtqueue_pairs (§5.1.4).
        let (mac, up) = self.nic.status();
        let mut config = mac.to_vec();
        config.extend_from_slice(&(if up { STATUS_LINK_UP } else { 0 }).to_le_bytes());
        config.extend_from_slice(&self.nic.queue_pairs().to_le_bytes());
        copy_config(&config, offset, data);
    }

    fn activate(&mut self, mut activation: Activation) -> Result<(), VirtioError> {
        self.nic.activated(offload(activation.features), activation.change.clone());
        self.start(&mut activation)
    }

    fn direct(&self, index: u16) -> Option<Arc<dyn DirectService>> {
        self.direct.iter().find(|(queue, _)| *queue == index).map(|(_, service)| Arc::clone(service))
    }

    fn reset(&mut self) {
        self.workers.stop();
        self.direct.clear();
        self.close.drain(..).for_each(|close| close());
        self.nic.deactivated();
    }

    fn shutdown(&mut self) {
        self.reset();
        self.nic.unbind();
    }

    fn is_plugged(&self) -> bool {
        self.nic.is_bound()
    }

    fn statistics(&self) -> Vec<(&'static str, u64)> {
        let counters = &self.nic.counters;
        let of = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let pairs = || self.nic.pairs.iter().map(|pair| (of(&pair.packets_to_guest), of(&pair.packets_from_guest)));
        vec![
            ("packets_to_guest", pairs().map(|(to, _)| to).sum()),
            ("packets_from_guest", pairs().map(|(_, from)| from).sum()),
            ("pairs", self.nic.active_pairs() as u64),
            // That have carried packets both ways.
            ("pairs_used", pairs().filter(|(to, from)| *to > 0 && *from > 0).count() as u64),
            ("dropped_to_guest", of(&counters.dropped_to_guest)),
            ("dropped_from_guest", of(&counters.dropped_from_guest)),
            ("bound", of(&counters.bound)),
            ("lost", of(&counters.lost)),
            ("link_up", self.nic.is_bound().into()),
        ]
    }
}

#[cfg(test)]
mod tests;
