//! One epoll thread that moves packets between the queues and all unix sockets. Short packets of a guest are taken by the vCPU that notifies of them: its
//! host peer then gets them without a thread switch in between.
//!
//! Sockets are watched edge-triggered, so that thousands of idle ones cost nothing per turn. A connection with something
//! for the guest stands in a list; receive buffers are given out from it in turns. What is owed to the guest is bounded: per connection by
//! its few pending control packets, and resets of connections that do not exist by [`MAX_PENDING_RESETS`]: with that many
//! owed, no more packets are taken from the guest until it offers receive buffers.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use std::os::fd::AsRawFd;

use super::VsockCounters;
use super::connection::{BUFFER_BYTES, Connection, Verdict};
use super::packet::{HEADER_BYTES, HOST_CID, Header, MAX_PAYLOAD_BYTES, Operation, Ports, TYPE_STREAM};
use crate::virtio::later::Later;
use crate::virtio::queue::{ChainFault, Counters, DeviceQueue};
use crate::virtio::worker::Stop;

/// Most sockets at once, counting clients that have not sent their CONNECT line yet. Together with the credit per
/// connection this bounds the memory held for hosts that do not read.
const MAX_CONNECTIONS: usize = 4096;

/// Most resets owed to the guest at once.
const MAX_PENDING_RESETS: usize = 1024;

/// Longest `CONNECT <port>\n` line.
const MAX_CONNECT_LINE: usize = 32;

/// Transmit packets taken before the receive queue and the sockets get their turn.
const TRANSMIT_BATCH: usize = 64;

/// How long the guest may stay without word of packets that were taken. It needs it for nothing but memory, and each word costs it an
/// interrupt and a turn of a worker thread.
const SIGNAL_DELAY: Duration = Duration::from_millis(2);

/// Most packets that a vCPU takes per notification.
const DIRECT_BATCH: usize = 16;

/// Events taken per turn.
pub(super) const EVENTS_PER_TURN: usize = 64;

/// How long to wait before accepting again after descriptors ran out, milliseconds.
pub(super) const ACCEPT_RETRY_MS: u16 = 100;

/// Host ports of host-initiated connections: from here upwards, below 2^31.
const FIRST_HOST_PORT: u32 = 1 << 30;

pub(super) const TOKEN_STOP: u64 = 0;
const TOKEN_RECEIVE: u64 = 1;
const TOKEN_TRANSMIT: u64 = 2;
const TOKEN_LISTENER: u64 = 3;
const TOKEN_LATER: u64 = 4;
const FIRST_SOCKET_TOKEN: u64 = 16;

/// A client that has not sent its whole CONNECT line.
struct Handshake {
    stream: UnixStream,
    line: Vec<u8>,
}

enum Socket {
    Handshake(Handshake),
    Connection { ports: Ports, connection: Box<Connection> },
}

/// How taking packets from the guest ended.
#[derive(PartialEq, Eq)]
enum Taken {
    /// None is left that can be taken now.
    All,
    /// There may be more.
    More,
    /// The next one is not for this thread.
    Unwanted,
}

pub(super) struct Muxer {
    cid: u64,
    path: PathBuf,
    listener: Arc<UnixListener>,
    pub(super) accepting: bool,
    pub(super) epoll: Arc<Epoll>,
    receive: DeviceQueue,
    pub(super) transmit: DeviceQueue,
    sockets: HashMap<u64, Socket>,
    /// Tokens of connections the guest knows.
    by_ports: HashMap<Ports, u64>,
    /// Tokens of connections that may have something for the guest, each once.
    ready: VecDeque<u64>,
    resets: VecDeque<Ports>,
    /// Packets taken of which the guest was not told.
    untold: usize,
    later: Later,
    next_token: u64,
    next_host_port: u32,
    buffer: Vec<u8>,
    counters: Arc<Counters>,
    vsock_counters: Arc<VsockCounters>,
}

impl Muxer {
    pub(super) fn new(
        cid: u64,
        path: PathBuf,
        listener: Arc<UnixListener>,
        vsock_counters: Arc<VsockCounters>,
        receive: DeviceQueue,
        transmit: DeviceQueue,
    ) -> io::Result<Self> {
        let epoll = Arc::new(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?);
        let watch = |fd: BorrowedFd<'_>, token| epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, token));
        watch(receive.kick().as_fd(), TOKEN_RECEIVE)?;
        watch(transmit.kick().as_fd(), TOKEN_TRANSMIT)?;
        watch(listener.as_fd(), TOKEN_LISTENER)?;
        let later = Later::new(SIGNAL_DELAY)?;
        watch(later.as_fd(), TOKEN_LATER)?;
        let counters = transmit.counters();
        Ok(Self {
            cid,
            path,
            listener,
            accepting: true,
            epoll,
            receive,
            transmit,
            sockets: HashMap::new(),
            by_ports: HashMap::new(),
            ready: VecDeque::new(),
            resets: VecDeque::new(),
            untold: 0,
            later,
            next_token: FIRST_SOCKET_TOKEN,
            next_host_port: FIRST_HOST_PORT,
            buffer: vec![0; MAX_PAYLOAD_BYTES],
            counters,
            vsock_counters,
        })
    }

    /// Takes what woke the thread, and serves both queues.
    pub(super) fn serve(&mut self, events: &[EpollEvent], stop: &Stop) {
        for event in events {
            match event.data() {
                TOKEN_STOP => return,
                // Level-triggered: take what they hold. Whatever woke us, both queues are looked at below.
                TOKEN_RECEIVE => drop(self.receive.kick().read()),
                TOKEN_TRANSMIT => drop(self.transmit.kick().read()),
                TOKEN_LATER => {
                    self.later.expired();
                    self.tell();
                }
                TOKEN_LISTENER => self.accept(),
                token => self.socket_event(token, event.events()),
            }
        }
        if !self.accepting {
            self.resume_accepting();
        }
        self.move_packets(stop);
    }

    /// Serves both queues until neither has anything that can be done.
    fn move_packets(&mut self, stop: &Stop) {
        loop {
            if stop.requested() {
                return;
            }
            let took = self.take_from_guest(TRANSMIT_BATCH, |_| true) == Taken::More;
            let starved = self.give_to_guest();
            if took {
                continue;
            }
            let more_buffers = starved && self.receive.rearm();
            let more_packets = self.resets.len() < MAX_PENDING_RESETS && self.transmit.rearm();
            if !more_buffers && !more_packets {
                return;
            }
        }
    }

    /// Takes up to `batch` packets that are `wanted` from the guest.
    fn take_from_guest(&mut self, batch: usize, wanted: impl Fn(&Header) -> bool) -> Taken {
        let ram = self.transmit.ram().clone();
        for _ in 0..batch {
            let chain = if self.resets.len() < MAX_PENDING_RESETS { self.transmit.pop(ram.memory()) } else { None };
            let Some(chain) = chain else {
                if self.untold >= TRANSMIT_BATCH || self.untold != 0 && !self.later.start() {
                    self.tell();
                }
                return Taken::All;
            };
            let head = chain.head_index();
            let Ok(mut reader) = chain.reader(ram.memory()) else {
                self.transmit.fail(ChainFault::Buffers);
                return Taken::All;
            };
            let mut header = [0; HEADER_BYTES];
            if reader.read_exact(&mut header).is_err() {
                self.transmit.fail(ChainFault::Short);
                return Taken::All;
            }
            let header = Header::parse(&header);
            if !wanted(&header) {
                self.transmit.unpop();
                return Taken::Unwanted;
            }
            let length = header.length as usize;
            let mut payload = std::mem::take(&mut self.buffer);
            if length <= payload.len() && reader.read_exact(&mut payload[..length]).is_ok() {
                Counters::add(&self.counters.bytes_from_guest, u64::from(header.length));
                self.packet_from_guest(&header, &payload[..length]);
            } else {
                // A length that is not true: whose bytes these are cannot be known.
                Counters::count(&self.counters.errors);
                self.reset_unless(&header);
            }
            self.buffer = payload;
            self.transmit.complete(head, 0);
            self.untold += 1;
        }
        self.tell();
        Taken::More
    }

    /// Takes packets on a vCPU, sooner than a thread is awake, and gives what they ask for, credit above all: a guest that sends stands still
    /// without it. A vCPU connects nowhere, since its current directory is the share's. True if nothing is left for the muxer's thread.
    pub(super) fn take_directly(&mut self) -> bool {
        let connected = |header: &Header| header.operation != Some(Operation::Request);
        let all = loop {
            match self.take_from_guest(DIRECT_BATCH, connected) {
                Taken::All if self.resets.len() < MAX_PENDING_RESETS && self.transmit.rearm() => {}
                Taken::All => break true,
                Taken::More | Taken::Unwanted => break false,
            }
        };
        let nothing_owed = self.resets.is_empty() && self.ready.is_empty();
        all && (nothing_owed || !self.give_to_guest() && self.resets.is_empty() && self.ready.is_empty())
    }

    /// Tells the guest of the packets that were taken.
    fn tell(&mut self) {
        self.untold = 0;
        self.transmit.signal();
    }

    fn packet_from_guest(&mut self, header: &Header, payload: &[u8]) {
        if header.source_cid != self.cid || header.destination_cid != HOST_CID {
            // Not ours to answer: there is nobody behind other addresses (§5.10.6.4.2 asks for no reset then).
            Counters::count(&self.counters.errors);
            return;
        }
        let ports = header.ports();
        let Some(operation) = header.operation.filter(|_| header.socket_type == TYPE_STREAM) else {
            Counters::count(&self.counters.errors);
            self.reset_unless(header);
            return;
        };
        let Some(&token) = self.by_ports.get(&ports) else {
            match operation {
                Operation::Request => self.guest_connects(header),
                Operation::Reset => {}
                _ => self.owe_reset(ports),
            }
            return;
        };
        let Some(Socket::Connection { connection, .. }) = self.sockets.get_mut(&token) else { return };
        connection.take_credit(header);
        let verdict = match operation {
            // A second request for a live connection breaks it (§5.10.6.4).
            Operation::Request => Verdict::Reset,
            Operation::Response => connection.accepted(ports.host),
            Operation::Reset => {
                self.by_ports.remove(&ports);
                connection.guest_resets()
            }
            Operation::Shutdown => connection.guest_shuts_down(header.flags),
            Operation::Data => connection.receive(payload),
            Operation::CreditUpdate => Verdict::Alive,
            Operation::CreditRequest => {
                connection.wants_credit_update();
                Verdict::Alive
            }
        };
        self.conclude(token, verdict);
    }

    /// The guest wants to reach a port of the host.
    fn guest_connects(&mut self, header: &Header) {
        let ports = header.ports();
        let stream = match self.connect_host(ports.host) {
            Ok(stream) => stream,
            Err(error) => {
                log::debug!("guest to host port {}: {error}", ports.host);
                Counters::count(&self.vsock_counters.refused);
                self.owe_reset(ports);
                return;
            }
        };
        let connection = Connection::new(stream, false, Some(header));
        if !self.adopt(ports, connection) {
            self.owe_reset(ports);
        }
    }

    /// Connects without ever waiting: a listener whose backlog is full refuses.
    fn connect_host(&self, port: u32) -> io::Result<UnixStream> {
        let mut path = self.path.clone().into_os_string();
        path.push(format!("_{port}"));
        let address = UnixAddr::new(PathBuf::from(path).as_path())?;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        connect(socket.as_raw_fd(), &address)?;
        Ok(UnixStream::from(socket))
    }

    /// Clients of the host that came in.
    fn accept(&mut self) {
        loop {
            if self.sockets.len() >= MAX_CONNECTIONS {
                self.pause_accepting();
                return;
            }
            match self.listener.accept() {
                Ok((stream, _)) => {
                    if stream.set_nonblocking(true).is_err() {
                        continue;
                    }
                    let token = self.token();
                    if self.watch(&stream, token).is_ok() {
                        self.sockets.insert(token, Socket::Handshake(Handshake { stream, line: Vec::new() }));
                        self.continue_handshake(token);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    // Out of descriptors, most likely: the waiting client would wake us without end.
                    log::warn!("vsock cannot accept: {error}");
                    self.pause_accepting();
                    return;
                }
            }
        }
    }

    fn pause_accepting(&mut self) {
        self.accepting = self.epoll.delete(self.listener.as_fd()).is_err();
    }

    fn resume_accepting(&mut self) {
        if self.sockets.len() < MAX_CONNECTIONS {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, TOKEN_LISTENER);
            self.accepting = self.epoll.add(self.listener.as_fd(), event).is_ok();
        }
    }

    fn watch(&self, stream: &UnixStream, token: u64) -> nix::Result<()> {
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        self.epoll.add(stream, EpollEvent::new(flags, token))
    }

    fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    fn socket_event(&mut self, token: u64, flags: EpollFlags) {
        match self.sockets.get_mut(&token) {
            Some(Socket::Handshake(_)) => self.continue_handshake(token),
            Some(Socket::Connection { connection, .. }) => {
                if flags.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
                    connection.host_event(flags.intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR));
                }
                let verdict = connection.flush();
                self.conclude(token, verdict);
            }
            None => {} // Closed earlier in this turn.
        }
    }

    /// Reads the CONNECT line byte by byte: what follows it belongs to the stream.
    fn continue_handshake(&mut self, token: u64) {
        let Some(Socket::Handshake(handshake)) = self.sockets.get_mut(&token) else { return };
        loop {
            let mut byte = [0];
            match handshake.stream.read(&mut byte) {
                Ok(1) if byte[0] == b'\n' => break,
                Ok(1) if handshake.line.len() < MAX_CONNECT_LINE => handshake.line.push(byte[0]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => {
                    self.sockets.remove(&token);
                    return;
                }
            }
        }
        let Some(Socket::Handshake(Handshake { stream, line })) = self.sockets.remove(&token) else { return };
        let port = std::str::from_utf8(&line).ok().and_then(|line| line.strip_prefix("CONNECT ")?.parse::<u32>().ok());
        let Some(guest) = port else {
            log::debug!("a vsock client sent no CONNECT line");
            return;
        };
        let ports = Ports { host: self.free_host_port(guest), guest };
        // It is watched already, but under a token that is gone; what the socket holds by now is looked at anyway.
        let _ = self.epoll.delete(&stream);
        self.adopt(ports, Connection::new(stream, true, None));
    }

    fn free_host_port(&mut self, guest: u32) -> u32 {
        loop {
            let host = self.next_host_port;
            self.next_host_port = if host + 1 < 1 << 31 { host + 1 } else { FIRST_HOST_PORT };
            // Ends: there are fewer connections than ports.
            if !self.by_ports.contains_key(&Ports { host, guest }) {
                return host;
            }
        }
    }

    /// Takes a connection in; false (and closed) when there are too many.
    fn adopt(&mut self, ports: Ports, connection: Connection) -> bool {
        let token = self.token();
        if self.sockets.len() >= MAX_CONNECTIONS || self.watch(connection.stream(), token).is_err() {
            Counters::count(&self.vsock_counters.refused);
            return false;
        }
        self.sockets.insert(token, Socket::Connection { ports, connection: Box::new(connection) });
        self.by_ports.insert(ports, token);
        Counters::count(&self.vsock_counters.opened);
        self.vsock_counters.open.fetch_add(1, Ordering::Relaxed);
        self.conclude(token, Verdict::Alive);
        true
    }

    /// After something happened to a connection: it is removed, or listed if it has something to send.
    fn conclude(&mut self, token: u64, verdict: Verdict) {
        let Some(Socket::Connection { ports, connection }) = self.sockets.get_mut(&token) else { return };
        if verdict == Verdict::Alive {
            if !connection.listed && connection.has_work() {
                connection.listed = true;
                self.ready.push_back(token);
            }
            return;
        }
        let ports = *ports;
        // Closing the socket also takes it out of the epoll set.
        self.sockets.remove(&token);
        // A detached connection's ports may belong to another by now.
        if self.by_ports.get(&ports) == Some(&token) {
            self.by_ports.remove(&ports);
        }
        decrement(&self.vsock_counters.open);
        if verdict == Verdict::Reset {
            self.owe_reset(ports);
        }
    }

    fn reset_unless(&mut self, header: &Header) {
        if header.operation == Some(Operation::Reset) {
            return;
        }
        let ports = header.ports();
        match self.by_ports.get(&ports) {
            Some(&token) => self.conclude(token, Verdict::Reset),
            None => self.owe_reset(ports),
        }
    }

    fn owe_reset(&mut self, ports: Ports) {
        // Packets are only taken from the guest below the limit; socket events can add one per connection at most.
        if self.resets.len() < MAX_PENDING_RESETS + MAX_CONNECTIONS {
            self.resets.push_back(ports);
        }
    }

    /// Fills receive buffers; true if there is more to give than buffers.
    fn give_to_guest(&mut self) -> bool {
        let ram = self.receive.ram().clone();
        let mut starved = false;
        while !self.resets.is_empty() || !self.ready.is_empty() {
            let Some(chain) = self.receive.pop(ram.memory()) else {
                starved = true;
                break;
            };
            let head = chain.head_index();
            let Ok(mut writer) = chain.writer(ram.memory()) else {
                self.receive.fail(ChainFault::Buffers);
                break;
            };
            let Some(room) = writer.available_bytes().checked_sub(HEADER_BYTES) else {
                self.receive.fail(ChainFault::NoRoom);
                break;
            };
            let mut buffer = std::mem::take(&mut self.buffer);
            let room = room.min(buffer.len());
            let next = self.next_for_guest(&mut buffer[..room]);
            if let Some(header) = &next {
                let length = header.length as usize;
                let written = writer.write_all(&header.to_bytes()).and_then(|()| writer.write_all(&buffer[..length]));
                if written.is_err() {
                    self.receive.fail(ChainFault::Buffers);
                }
                Counters::add(&self.counters.bytes_to_guest, u64::from(header.length));
                self.receive.complete(head, (HEADER_BYTES + length) as u32);
            }
            self.buffer = buffer;
            if next.is_none() {
                self.receive.unpop();
                break;
            }
        }
        self.receive.signal();
        starved
    }

    /// The next packet owed to the guest, with its payload in `buffer`.
    fn next_for_guest(&mut self, buffer: &mut [u8]) -> Option<Header> {
        if let Some(ports) = self.resets.pop_front() {
            Counters::count(&self.vsock_counters.resets_sent);
            return Some(self.header(ports, Operation::Reset));
        }
        while let Some(token) = self.ready.pop_front() {
            let Some(Socket::Connection { ports, connection }) = self.sockets.get_mut(&token) else { continue };
            connection.listed = false;
            let ports = *ports;
            let Some(outgoing) = connection.next_packet(buffer) else { continue };
            let forwarded = connection.account();
            let verdict = if outgoing.operation == Operation::Shutdown { connection.after_sending() } else { Verdict::Alive };
            let mut header = self.header(ports, outgoing.operation);
            header.length = outgoing.length as u32;
            header.flags = outgoing.flags;
            header.forwarded = forwarded;
            self.conclude(token, verdict);
            return Some(header);
        }
        None
    }

    fn header(&self, ports: Ports, operation: Operation) -> Header {
        Header {
            source_cid: HOST_CID,
            destination_cid: self.cid,
            source_port: ports.host,
            destination_port: ports.guest,
            length: 0,
            socket_type: TYPE_STREAM,
            operation: Some(operation),
            flags: 0,
            buffer_bytes: BUFFER_BYTES,
            forwarded: 0,
        }
    }
}

fn decrement(gauge: &AtomicU64) {
    gauge.fetch_sub(1, Ordering::Relaxed);
}
