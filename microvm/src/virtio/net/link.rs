//! The link of a network slot: down from boot, up while it is bound to a tap.
//!
//! Order of locks: a link's state, then a side of a pair. Whoever holds a side does not take the state.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::EventFd;

use super::super::lock;
use super::super::queue::ConfigChange;
use super::super::worker::eventfd;
use super::tap::HostLink;
use super::{MAC_PREFIX, MTU_MAX, MTU_MIN, NetError, QUEUE_PAIRS_MAX, SLOTS_MAX, TOKEN_TAP, TOKEN_WAKE};

/// How a slot is bound.
#[derive(Debug, Clone, Copy, Default)]
pub struct BindOptions {
    /// Address in the device's configuration while bound; the slot's own if there is none.
    pub mac: Option<[u8; 6]>,
    /// Longest packet without segmentation offload, without the Ethernet header; the longest there is if there is none.
    pub mtu: Option<u32>,
}

/// Counters of a link.
#[derive(Debug, Default)]
pub(super) struct LinkCounters {
    pub(super) dropped_to_guest: AtomicU64,
    pub(super) dropped_from_guest: AtomicU64,
    pub(super) bound: AtomicU64,
    pub(super) lost: AtomicU64,
}

/// One pair of queues, as the host's end sees it.
pub(super) struct PairEnds {
    /// What the pair's thread sleeps on. The tap is in it while the link is bound.
    pub(super) epoll: Epoll,
    /// Wakes that thread when the link changes.
    wake: EventFd,
    /// The tap for each direction. A side that is locked is not taken away.
    pub(super) receive: Mutex<Option<Arc<dyn HostLink>>>,
    pub(super) transmit: Mutex<Option<Arc<dyn HostLink>>>,
    pub(super) packets_to_guest: AtomicU64,
    pub(super) packets_from_guest: AtomicU64,
}

struct LinkState {
    host: Option<Arc<dyn HostLink>>,
    mac: [u8; 6],
    /// What the driver takes in one piece, `OFFLOAD_*`.
    offload: u32,
    /// Tells the driver that the configuration changed, while there is one.
    change: Option<ConfigChange>,
}

/// A network slot as the machine's control holds it: it exists from boot, and its link comes and goes.
pub struct Nic {
    slot: u8,
    pub(super) pairs: Vec<PairEnds>,
    state: Mutex<LinkState>,
    /// Pairs that the driver uses.
    active_pairs: AtomicU16,
    mtu: AtomicU32,
    pub(super) counters: LinkCounters,
}

impl Nic {
    /// Slot number `slot`, its link down, with room for `queue_pairs` pairs of queues.
    ///
    /// # Errors
    /// [`NetError::Slots`], [`NetError::QueuePairs`], [`NetError::Descriptor`].
    pub fn new(slot: u32, queue_pairs: u32) -> Result<Arc<Self>, NetError> {
        let number = u8::try_from(slot).ok().filter(|number| usize::from(*number) < SLOTS_MAX);
        let slot = number.ok_or(NetError::Slots { slots: slot.saturating_add(1) })?;
        if !(1..=u32::from(QUEUE_PAIRS_MAX)).contains(&queue_pairs) {
            return Err(NetError::QueuePairs { queue_pairs });
        }
        let pairs = (0..queue_pairs).map(|_| PairEnds::new()).collect::<io::Result<_>>().map_err(NetError::Descriptor)?;
        let state = LinkState { host: None, mac: own_mac(slot), offload: 0, change: None };
        Ok(Arc::new(Self {
            slot,
            pairs,
            state: Mutex::new(state),
            active_pairs: AtomicU16::new(1),
            mtu: AtomicU32::new(MTU_MAX),
            counters: LinkCounters::default(),
        }))
    }

    /// Its pairs of queues.
    pub fn queue_pairs(&self) -> u16 {
        self.pairs.len() as u16
    }

    /// Binds the slot to `tap`, whose queues are as many as [`Self::queue_pairs`]: the link is up.
    ///
    /// # Errors
    /// [`NetError::Bound`], [`NetError::Mac`], [`NetError::Mtu`], [`NetError::Configure`]; the link stays as it was.
    pub fn bind(&self, tap: super::Tap, options: BindOptions) -> Result<(), NetError> {
        self.bind_host(Arc::new(tap), options)
    }

    pub(super) fn bind_host(&self, host: Arc<dyn HostLink>, options: BindOptions) -> Result<(), NetError> {
        let mac = options.mac.unwrap_or(own_mac(self.slot));
        if !is_station(mac) {
            return Err(NetError::Mac { mac });
        }
        let mtu = options.mtu.unwrap_or(MTU_MAX);
        if !(MTU_MIN..=MTU_MAX).contains(&mtu) {
            return Err(NetError::Mtu { mtu });
        }
        let mut state = lock(&self.state);
        if state.host.is_some() {
            return Err(NetError::Bound { slot: self.slot.into() });
        }
        let active = self.active_pairs();
        host.set_offload(state.offload).and_then(|()| host.set_active_queues(active)).map_err(NetError::Configure)?;
        for (index, pair) in self.pairs.iter().enumerate() {
            if let Err(error) = pair.attach(index, &host) {
                self.detach(&host);
                return Err(NetError::Configure(error));
            }
        }
        state.host = Some(host);
        state.mac = mac;
        self.mtu.store(mtu, Ordering::Relaxed);
        self.counters.bound.fetch_add(1, Ordering::Relaxed);
        state.tell();
        Ok(())
    }

    /// Takes the link down and closes the tap's descriptors. False when the link was down.
    pub fn unbind(&self) -> bool {
        let mut state = lock(&self.state);
        let Some(host) = state.host.take() else { return false };
        // A tap that stays is found as it was left; one that is gone takes no orders.
        let _ = host.set_offload(0);
        self.detach(&host);
        state.mac = own_mac(self.slot);
        self.mtu.store(MTU_MAX, Ordering::Relaxed);
        state.tell();
        true
    }

    /// The tap went away under the link.
    pub(super) fn lost(&self, error: &io::Error) {
        if self.unbind() {
            log::warn!("net{}: the tap is gone: {error}", self.slot);
            self.counters.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn detach(&self, host: &Arc<dyn HostLink>) {
        for (index, pair) in self.pairs.iter().enumerate() {
            pair.detach(index, host);
        }
    }

    /// Whether the link is up.
    pub fn is_bound(&self) -> bool {
        lock(&self.state).host.is_some()
    }

    /// A driver has come: `offload` is what it takes, and it uses one pair until it says otherwise (virtio 1.2 §5.1.6.5.6).
    pub(super) fn activated(&self, offload: u32, change: ConfigChange) {
        lock(&self.state).change = Some(change);
        self.configure(offload, 1);
    }

    /// The driver is gone.
    pub(super) fn deactivated(&self) {
        lock(&self.state).change = None;
        self.configure(0, 1);
    }

    fn configure(&self, offload: u32, pairs: u16) {
        if let Err(error) = self.set_offload(offload).and_then(|()| self.set_active_pairs(pairs)) {
            log::warn!("net{}: the tap cannot be configured: {error}", self.slot);
        }
    }

    /// The driver takes `offload` in one piece from now on.
    pub(super) fn set_offload(&self, offload: u32) -> io::Result<()> {
        let mut state = lock(&self.state);
        state.offload = offload;
        state.host.as_ref().map_or(Ok(()), |host| host.set_offload(offload))
    }

    /// The driver uses that many pairs from now on.
    pub(super) fn set_active_pairs(&self, pairs: u16) -> io::Result<()> {
        let state = lock(&self.state);
        self.active_pairs.store(pairs, Ordering::Release);
        let result = state.host.as_ref().map_or(Ok(()), |host| host.set_active_queues(usize::from(pairs)));
        // Packets may have come for a pair whose thread did not look.
        self.pairs.iter().for_each(PairEnds::wake);
        result
    }

    pub(super) fn active_pairs(&self) -> usize {
        usize::from(self.active_pairs.load(Ordering::Acquire))
    }

    pub(super) fn mtu(&self) -> u32 {
        self.mtu.load(Ordering::Relaxed)
    }

    /// Address and link state, as the configuration shows them.
    pub(super) fn status(&self) -> ([u8; 6], bool) {
        let state = lock(&self.state);
        (state.mac, state.host.is_some())
    }

    /// The driver gives the interface an address.
    pub(super) fn set_mac(&self, mac: [u8; 6]) -> bool {
        let valid = is_station(mac);
        if valid {
            lock(&self.state).mac = mac;
        }
        valid
    }
}

impl LinkState {
    fn tell(&self) {
        if let Some(change) = &self.change {
            change.tell();
        }
    }
}

impl PairEnds {
    fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let wake = eventfd()?;
        epoll.add(&wake, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, TOKEN_WAKE))?;
        let (packets_to_guest, packets_from_guest) = Default::default();
        Ok(Self { epoll, wake, receive: Mutex::default(), transmit: Mutex::default(), packets_to_guest, packets_from_guest })
    }

    fn attach(&self, index: usize, host: &Arc<dyn HostLink>) -> io::Result<()> {
        // Edges only: a tap with packets for which the guest has no room must not keep its thread awake.
        self.epoll.add(host.queue(index), EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, TOKEN_TAP))?;
        *lock(&self.receive) = Some(Arc::clone(host));
        *lock(&self.transmit) = Some(Arc::clone(host));
        self.wake();
        Ok(())
    }

    fn detach(&self, index: usize, host: &Arc<dyn HostLink>) {
        // ENOENT where attaching failed.
        let _ = self.epoll.delete(host.queue(index).as_fd());
        *lock(&self.receive) = None;
        *lock(&self.transmit) = None;
        self.wake();
    }

    fn wake(&self) {
        // EAGAIN: the counter is full of unseen wake-ups, and edges come with every write all the same.
        let _ = self.wake.write(1);
    }
}

/// The address a slot has from boot: the guest's agent tells slots apart by it.
fn own_mac(slot: u8) -> [u8; 6] {
    let [a, b, c, d, e] = MAC_PREFIX;
    [a, b, c, d, e, slot]
}

/// An address that an interface can have: not a group's, not zero.
fn is_station(mac: [u8; 6]) -> bool {
    mac[0] & 1 == 0 && mac != [0; 6]
}
