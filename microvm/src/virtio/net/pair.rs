//! One pair of queues: its thread, and how a packet goes each way.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollFlags, EpollTimeout};

use super::super::later::Later;
use super::super::queue::{Chain, ChainFault, Counters, DeviceQueue, Ram};
use super::super::worker::{DirectQueue, Served, Service, Stop};
use super::super::{VirtioError, lock};
use super::control::Control;
use super::header::{ETHERNET_BYTES, FRAME_BYTES_MAX, HEADER_BYTES, NUM_BUFFERS, Refusal, Rules};
use super::link::Nic;
use super::{TOKEN_CONTROL, TOKEN_RECEIVE, TOKEN_STOP, TOKEN_TIMER, TOKEN_TRANSMIT};

/// Packets carried to the guest before the thread looks at its other duties, and before the guest is interrupted.
const RECEIVE_BATCH: usize = 64;

/// How long the guest may stay without word of packets that are sent. It needs it for nothing but memory, and each word costs it an interrupt;
/// a stack that limits what is under way (Linux's small queues) must not wait for long.
const SIGNAL_DELAY: Duration = Duration::from_micros(200);

/// A pair's queues with what serves them.
pub(super) struct Pair {
    pub(super) index: usize,
    pub(super) nic: Arc<Nic>,
    pub(super) mergeable: bool,
    pub(super) receive: DeviceQueue,
    pub(super) transmit: Arc<DirectQueue<Transmit>>,
    /// The control queue, with the first pair.
    pub(super) control: Option<Arc<DirectQueue<Control>>>,
    pub(super) counters: Arc<Counters>,
}

/// What became of a packet for the guest.
enum Delivery {
    Delivered,
    /// The guest has no buffers for it now.
    Starved,
    /// It fits no buffers that the guest will ever have.
    Dropped,
}

impl Pair {
    /// Carries packets until the end.
    pub(super) fn run(mut self, stop: &Stop) {
        let nic = Arc::clone(&self.nic);
        let epoll = &nic.pairs[self.index].epoll;
        let transmit = Arc::clone(&self.transmit);
        let kicks = [
            (Some(self.receive.shared_kick()), TOKEN_RECEIVE),
            (Some(self.transmit.kick()), TOKEN_TRANSMIT),
            (self.control.as_ref().map(|queue| queue.kick()), TOKEN_CONTROL),
        ];
        let mut sources = vec![(stop.event().as_fd(), TOKEN_STOP)];
        sources.push((transmit.service().later.as_fd(), TOKEN_TIMER));
        sources.extend(kicks.iter().filter_map(|(kick, token)| Some((kick.as_ref()?.as_fd(), *token))));
        let added = sources.iter().try_for_each(|(fd, token)| epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, *token)));
        if let Err(error) = added {
            self.receive.fail(format_args!("its thread cannot wait: {error}"));
            return;
        }
        let mut frame = Frame { bytes: vec![0; FRAME_BYTES_MAX].into(), length: 0 };
        loop {
            let more = self.carry(&mut frame);
            let mut events = [EpollEvent::empty(); 8];
            let count = match epoll.wait(&mut events, if more { EpollTimeout::ZERO } else { EpollTimeout::NONE }) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                // A thread that cannot sleep must not spin either.
                Err(error) => break self.receive.fail(error),
            };
            if stop.requested() {
                break;
            }
            for event in &events[..count] {
                match event.data() {
                    // EAGAIN cannot be: nobody else reads them.
                    TOKEN_RECEIVE => drop(self.receive.kick().read()),
                    TOKEN_TIMER => {
                        transmit.service().later.expired();
                        transmit.signal();
                    }
                    TOKEN_TRANSMIT => transmit.serve_all(stop),
                    TOKEN_CONTROL => {
                        if let Some(control) = &self.control {
                            control.serve_all(stop);
                        }
                    }
                    _ => {}
                }
            }
        }
        for (fd, _) in sources {
            let _ = epoll.delete(fd);
        }
    }

    /// Carries up to a batch of packets to the guest; true if there may be more.
    fn carry(&mut self, frame: &mut Frame) -> bool {
        if self.index >= self.nic.active_pairs() {
            return false;
        }
        let nic = Arc::clone(&self.nic);
        let side = lock(&nic.pairs[self.index].receive);
        let Some(host) = side.as_ref() else {
            // What was read from a link that is down now is lost with it.
            frame.length = 0;
            return false;
        };
        let ram = self.receive.ram().clone();
        let mut carried = 0;
        let more = loop {
            if carried == RECEIVE_BATCH {
                break true;
            }
            if frame.length == 0 {
                // Nothing that carries packets has empty ones: that is an end.
                let read = nix::unistd::read(host.queue(self.index), &mut frame.bytes);
                match read.and_then(|length| if length == 0 { Err(Errno::ENODEV) } else { Ok(length) }) {
                    Ok(length) => frame.length = length,
                    Err(Errno::EINTR) => continue,
                    Err(Errno::EAGAIN) => break false,
                    Err(error) => {
                        drop(side);
                        self.receive.signal();
                        nic.lost(&error.into());
                        return false;
                    }
                }
            }
            carried += 1;
            match self.deliver(ram.memory(), frame) {
                Delivery::Delivered => {
                    nic.pairs[self.index].packets_to_guest.fetch_add(1, Ordering::Relaxed);
                    Counters::add(&self.counters.bytes_to_guest, (frame.length - HEADER_BYTES) as u64);
                }
                Delivery::Dropped => {
                    nic.counters.dropped_to_guest.fetch_add(1, Ordering::Relaxed);
                }
                // The kernel keeps, and at its limit drops, what comes meanwhile.
                Delivery::Starved if self.receive.rearm() => continue,
                Delivery::Starved => break false,
            }
            frame.length = 0;
        };
        self.receive.signal();
        more
    }

    /// Puts a packet into the guest's buffers, as many as it needs when they may be merged (§5.1.6.4).
    fn deliver(&mut self, memory: &Ram, frame: &mut Frame) -> Delivery {
        let length = frame.length;
        if length < HEADER_BYTES + ETHERNET_BYTES {
            return Delivery::Dropped;
        }
        let mut buffers = Vec::with_capacity(1);
        let mut room = 0;
        while room < length {
            let Some(chain) = self.receive.pop(memory) else {
                buffers.iter().for_each(|_| self.receive.unpop());
                return Delivery::Starved;
            };
            let head = chain.head_index();
            let Ok(writer) = chain.writer(memory) else {
                self.receive.fail(ChainFault::Buffers);
                return Delivery::Dropped;
            };
            let bytes = writer.available_bytes();
            if bytes < HEADER_BYTES {
                self.receive.fail(ChainFault::NoRoom);
                return Delivery::Dropped;
            }
            room += bytes;
            buffers.push((head, writer));
            if !self.mergeable && room < length {
                self.receive.unpop();
                return Delivery::Dropped;
            }
        }
        frame.bytes[NUM_BUFFERS].copy_from_slice(&(buffers.len() as u16).to_le_bytes());
        let mut rest = &frame.bytes[..length];
        let mut used = Vec::with_capacity(buffers.len());
        for (head, mut writer) in buffers {
            let (part, behind) = rest.split_at(writer.available_bytes().min(rest.len()));
            if writer.write_all(part).is_err() {
                self.receive.fail(ChainFault::Buffers);
                return Delivery::Dropped;
            }
            used.push((head, part.len() as u32));
            rest = behind;
        }
        self.receive.complete_together(&used);
        Delivery::Delivered
    }
}

/// A packet behind its header, on its way to the guest.
struct Frame {
    bytes: Box<[u8]>,
    /// 0 when there is none.
    length: usize,
}

/// How the packets of one queue leave the guest.
pub(super) struct Transmit {
    nic: Arc<Nic>,
    index: usize,
    rules: Rules,
    counters: Arc<Counters>,
    /// The packet under way.
    frame: Mutex<Box<[u8]>>,
    /// For packets of whose completion the guest was not told.
    later: Later,
}

impl Transmit {
    pub(super) fn new(nic: Arc<Nic>, index: usize, features: u64, counters: Arc<Counters>) -> Result<Self, VirtioError> {
        let frame = Mutex::new(vec![0; FRAME_BYTES_MAX].into());
        let descriptor = |source| VirtioError::Descriptor { device: "net".into(), what: "timer", source };
        let later = Later::new(SIGNAL_DELAY).map_err(descriptor)?;
        Ok(Self { nic, index, rules: Rules::new(features), counters, frame, later })
    }

    fn refuse(&self, refusal: Refusal) {
        log::debug!("a packet of the guest is refused: {refusal:?}");
        Counters::count(&self.counters.errors);
        self.nic.counters.dropped_from_guest.fetch_add(1, Ordering::Relaxed);
    }

    fn send(&self, frame: &[u8]) -> io::Result<()> {
        let side = lock(&self.nic.pairs[self.index].transmit);
        let Some(host) = side.as_ref() else { return Err(Errno::ENETDOWN.into()) };
        // A tap takes a whole packet or none.
        nix::unistd::write(host.queue(self.index), frame)?;
        Ok(())
    }
}

impl Service for Transmit {
    fn serve<'a>(&self, memory: &'a Ram, chain: Chain<'a>, _direct: bool) -> Result<Served, ChainFault> {
        let mut reader = chain.reader(memory).map_err(|_| ChainFault::Buffers)?;
        let length = reader.available_bytes();
        if length < HEADER_BYTES {
            return Err(ChainFault::Short);
        }
        let mut frame = lock(&self.frame);
        let Some(frame) = frame.get_mut(..length) else {
            self.refuse(Refusal::Length);
            return Ok(Served::Now(0));
        };
        reader.read_exact(frame).map_err(|_| ChainFault::Buffers)?;
        if let Err(refusal) = self.rules.check(frame, self.nic.mtu()) {
            self.refuse(refusal);
            return Ok(Served::Now(0));
        }
        // Nothing that the host's end says concerns the guest: networks lose packets.
        match self.send(frame) {
            Ok(()) => {
                self.nic.pairs[self.index].packets_from_guest.fetch_add(1, Ordering::Relaxed);
                Counters::add(&self.counters.bytes_from_guest, (length - HEADER_BYTES) as u64);
            }
            Err(error) => {
                log::trace!("a packet of the guest is dropped: {error}");
                self.nic.counters.dropped_from_guest.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(Served::Now(0))
    }

    fn enter(&self) -> bool {
        true
    }

    fn signals_later(&self) -> bool {
        self.later.start()
    }
}
