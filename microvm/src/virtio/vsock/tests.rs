//! The device against a guest played by the test: packets through real rings, real unix sockets on the other side.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use tempfile::TempDir;

use super::packet::{HEADER_BYTES, HOST_CID, Header, Operation, SHUTDOWN_BOTH, SHUTDOWN_SEND, TYPE_STREAM};
use super::*;
use crate::virtio::testkit::{Buffer, Driver, PATIENCE, Random, wait_for};

const CID: u64 = 3;
const RX: usize = 0;
const TX: usize = 1;
/// Just under 4 KiB with the header, as Linux offers them.
const RX_BYTES: usize = 4096 - 320;

/// A guest's vsock stack, as much of it as the tests need.
struct Guest {
    driver: Driver,
    receive: std::collections::HashMap<u16, Buffer>,
    buffer_bytes: u32,
    forwarded: u32,
    directory: TempDir,
}

impl Guest {
    fn new() -> Self {
        let mut guest = Self::without_buffers();
        guest.offer_buffers(64);
        guest
    }

    fn without_buffers() -> Self {
        let directory = TempDir::new().unwrap();
        let device = VsockDevice::new(CID, &directory.path().join("vsock")).unwrap();
        let driver = Driver::start(Box::new(device));
        Self { driver, receive: Default::default(), buffer_bytes: 256 << 10, forwarded: 0, directory }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("vsock")
    }

    fn offer_buffers(&mut self, count: usize) {
        for _ in 0..count {
            let space = self.driver.space(RX_BYTES);
            self.offer_buffer(space);
        }
        self.driver.notify(RX);
    }

    fn offer_buffer(&mut self, space: Buffer) {
        let head = self.driver.offer(RX, &[space]);
        self.receive.insert(head, space);
    }

    fn send(&mut self, host: u32, guest: u32, operation: Operation, flags: u32, payload: &[u8]) {
        let header = Header {
            source_cid: CID,
            destination_cid: HOST_CID,
            source_port: guest,
            destination_port: host,
            length: payload.len() as u32,
            socket_type: TYPE_STREAM,
            operation: Some(operation),
            flags,
            buffer_bytes: self.buffer_bytes,
            forwarded: self.forwarded,
        };
        self.send_raw(&header, payload);
    }

    fn send_raw(&mut self, header: &Header, payload: &[u8]) {
        let mut buffers = vec![self.driver.place(&header.to_bytes())];
        for part in payload.chunks(10_000) {
            buffers.push(self.driver.place(part));
        }
        self.driver.offer(TX, &buffers);
        self.driver.notify(TX);
        self.driver.wait_used(TX);
    }

    fn try_receive(&mut self) -> Option<(Header, Vec<u8>)> {
        let (head, length) = self.driver.take_used(RX)?;
        let buffer = self.receive.remove(&head).unwrap();
        let bytes = self.driver.bytes(buffer, length as usize);
        self.offer_buffer(buffer);
        self.driver.notify(RX);
        let (header, payload) = bytes.split_first_chunk::<HEADER_BYTES>().unwrap();
        let header = Header::parse(header);
        assert_eq!(header.length as usize, payload.len());
        assert_eq!((header.source_cid, header.destination_cid, header.socket_type), (HOST_CID, CID, TYPE_STREAM));
        Some((header, payload.to_vec()))
    }

    fn receive(&mut self) -> (Header, Vec<u8>) {
        wait_for("a packet", || self.try_receive())
    }

    fn expect(&mut self, operation: Operation) -> Header {
        let (header, _) = self.receive();
        assert_eq!(header.operation, Some(operation));
        header
    }

    /// A connection from a host client to guest port `port`: the client, and the host's port.
    fn connect_from_host(&mut self, port: u32) -> (UnixStream, u32) {
        let mut client = UnixStream::connect(self.path()).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.write_all(format!("CONNECT {port}\n").as_bytes()).unwrap();
        let request = self.expect(Operation::Request);
        assert_eq!(request.destination_port, port);
        self.send(request.source_port, port, Operation::Response, 0, &[]);
        let mut line = Vec::new();
        let mut byte = [0];
        while byte[0] != b'\n' {
            client.read_exact(&mut byte).unwrap();
            line.push(byte[0]);
        }
        assert_eq!(String::from_utf8(line).unwrap(), format!("OK {}\n", request.source_port));
        (client, request.source_port)
    }

    /// Receives data until `total` bytes came, giving credit back.
    fn drain(&mut self, total: usize, host: u32, guest: u32) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < total {
            let (header, payload) = self.receive();
            match header.operation {
                Some(Operation::Data) => {
                    all.extend_from_slice(&payload);
                    self.forwarded = self.forwarded.wrapping_add(payload.len() as u32);
                }
                Some(Operation::CreditRequest) => self.send(host, guest, Operation::CreditUpdate, 0, &[]),
                other => panic!("{other:?} amid data"),
            }
        }
        all
    }
}

/// Bytes that differ along the stream.
fn pattern(length: usize) -> Vec<u8> {
    (0..length as u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

#[test]
fn packets_are_taken_by_who_notifies_and_requests_by_the_thread() {
    let mut guest = Guest::new();
    let listener = UnixListener::bind(guest.directory.path().join("vsock_700")).unwrap();
    let direct = |guest: &Guest| guest.driver.statistic("direct");
    guest.send(700, 9000, Operation::Request, 0, &[]);
    guest.expect(Operation::Response);
    let (mut peer, _) = listener.accept().unwrap();
    assert_eq!(direct(&guest), 0, "a vCPU connects nowhere");
    // The thread may still be at it when the notification comes: then the packet is the thread's.
    wait_for("a packet taken directly", || {
        guest.send(700, 9000, Operation::Data, 0, b"short");
        peer.read_exact(&mut [0; 5]).unwrap();
        (direct(&guest) > 0).then_some(())
    });
    let long = vec![7; 60_000];
    wait_for("a long packet taken directly", || {
        let before = direct(&guest);
        guest.send(700, 9000, Operation::Data, 0, &long);
        let mut arrived = vec![0; long.len()];
        peer.read_exact(&mut arrived).unwrap();
        assert_eq!(arrived, long);
        (direct(&guest) > before).then_some(())
    });
    let before = direct(&guest);
    guest.send(700, 9001, Operation::Request, 0, &[]);
    guest.driver.wait_used(RX);
    assert_eq!(direct(&guest), before, "a vCPU connects nowhere");
}

#[test]
fn many_packets_are_one_interrupt() {
    const PACKETS: usize = 200;
    let mut guest = Guest::new();
    let (mut client, host) = guest.connect_from_host(5);
    let before = guest.driver.statistic("interrupts");
    for _ in 0..PACKETS {
        guest.send(host, 5, Operation::Data, 0, b"x");
    }
    client.read_exact(&mut [0; PACKETS]).unwrap();
    let told = || guest.driver.statistic("interrupts") - before;
    // Word of the last comes, too.
    wait_for("an interrupt", || (told() > 0).then_some(()));
    assert!(told() < PACKETS as u64 / 2, "{} interrupts", told());
}

#[test]
fn the_guest_reads_its_context_id() {
    let guest = Guest::new();
    assert_eq!(guest.driver.device_config(8), CID.to_le_bytes());
    assert!(matches!(VsockDevice::new(2, &guest.path()), Err(VsockError::Cid { cid: 2 })));
    assert!(matches!(VsockDevice::new(3, &guest.path()), Err(VsockError::Listen { .. })));
}

#[test]
fn a_host_client_talks_to_the_guest() {
    let mut guest = Guest::new();
    let (mut client, host) = guest.connect_from_host(1024);
    client.write_all(b"ping").unwrap();
    let (header, payload) = guest.receive();
    assert_eq!((header.operation, payload.as_slice()), (Some(Operation::Data), b"ping".as_slice()));
    guest.send(host, 1024, Operation::Data, 0, b"pong");
    let mut answer = [0; 4];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"pong");
    drop(client);
    let shutdown = guest.expect(Operation::Shutdown);
    assert_eq!(shutdown.flags, SHUTDOWN_BOTH);
    guest.send(host, 1024, Operation::Reset, 0, &[]);
    wait_for("the connection to end", || (guest.driver.statistic("connections_open") == 0).then_some(()));
}

#[test]
fn a_refused_client_sees_its_connection_close() {
    let mut guest = Guest::new();
    let mut client = UnixStream::connect(guest.path()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(b"CONNECT 7\n").unwrap();
    let request = guest.expect(Operation::Request);
    guest.send(request.source_port, 7, Operation::Reset, 0, &[]);
    assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
}

#[test]
fn clients_with_nonsense_are_turned_away() {
    let guest = Guest::new();
    for line in
        ["GET / HTTP/1.1\n", "CONNECT\n", "CONNECT 4294967296\n", "CONNECT -1\n", "CONNECT 000000000000000000000000000000001\n"]
    {
        let mut client = UnixStream::connect(guest.path()).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.write_all(line.as_bytes()).unwrap();
        let ended = client.read(&mut [0; 8]);
        assert!(
            ended.as_ref().is_ok_and(|length| *length == 0) || ended.is_err_and(|error| error.raw_os_error() == Some(104)),
            "{line}"
        );
    }
}

#[test]
fn the_guest_reaches_host_listeners_by_port() {
    let mut guest = Guest::new();
    let listener = UnixListener::bind(guest.directory.path().join("vsock_5000")).unwrap();
    guest.send(5000, 40, Operation::Request, 0, &[]);
    let (mut server, _) = listener.accept().unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(guest.expect(Operation::Response).destination_port, 40);
    guest.send(5000, 40, Operation::Data, 0, b"hello");
    let mut heard = [0; 5];
    server.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"hello");
    // Half-close from the guest: the server reads the end and may still answer.
    guest.send(5000, 40, Operation::Shutdown, SHUTDOWN_SEND, &[]);
    assert_eq!(server.read(&mut heard).unwrap(), 0);
    server.write_all(b"bye").unwrap();
    let (_, payload) = guest.receive();
    assert_eq!(payload, b"bye");
    // A full close is answered by a reset.
    guest.send(5000, 40, Operation::Shutdown, SHUTDOWN_BOTH, &[]);
    guest.expect(Operation::Reset);
    guest.send(5001, 41, Operation::Request, 0, &[]);
    guest.expect(Operation::Reset);
    assert_eq!(guest.driver.statistic("connections_refused"), 1);
}

#[test]
fn a_lot_of_data_each_way_is_whole_and_fragmented() {
    let mut guest = Guest::new();
    let (client, host) = guest.connect_from_host(9);
    let data = pattern(3 << 20);
    let sender = {
        let (mut client, data) = (client.try_clone().unwrap(), data.clone());
        std::thread::spawn(move || client.write_all(&data).unwrap())
    };
    assert_eq!(guest.drain(data.len(), host, 9), data);
    sender.join().unwrap();

    let reader = {
        let (mut client, total) = (client.try_clone().unwrap(), data.len());
        std::thread::spawn(move || {
            let mut all = vec![0; total];
            client.read_exact(&mut all).unwrap();
            all
        })
    };
    let (mut sent, mut free) = (0usize, BUFFER as usize);
    while sent < data.len() {
        while free == 0 {
            let (header, _) = guest.receive();
            free = BUFFER as usize - (sent as u32).wrapping_sub(header.forwarded) as usize;
        }
        let length = free.min(60_000).min(data.len() - sent);
        guest.send(host, 9, Operation::Data, 0, &data[sent..sent + length]);
        sent += length;
        free -= length;
    }
    assert_eq!(reader.join().unwrap(), data);
}

const BUFFER: u32 = super::connection::BUFFER_BYTES;

#[test]
fn without_receive_buffers_nothing_is_read_from_the_host() {
    let mut guest = Guest::without_buffers();
    guest.offer_buffers(1);
    let (mut client, _) = guest.connect_from_host(5);
    guest.driver.wait_nothing(RX);
    client.set_nonblocking(true).unwrap();
    // The one buffer is offered again: it is filled once, then the client's writes fill the socket and stop.
    let mut accepted = 0;
    while let Ok(length) = client.write(&[1; 4096]) {
        accepted += length;
        assert!(accepted < 16 << 20, "nothing holds the writer back");
        std::thread::sleep(std::time::Duration::from_micros(50));
    }
    let (header, _) = guest.receive();
    assert_eq!(header.length as usize, RX_BYTES - HEADER_BYTES);
}

#[test]
fn a_guest_that_overruns_its_credit_or_lies_about_lengths_is_reset() {
    let mut guest = Guest::new();
    let (mut client, host) = guest.connect_from_host(9);
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    // The host client does not read; sooner or later the guest is beyond what it was given.
    let chunk = vec![1; 60_000];
    let overrun = (0..200).find_map(|_| {
        guest.send(host, 9, Operation::Data, 0, &chunk);
        guest.try_receive().filter(|(header, _)| header.operation == Some(Operation::Reset))
    });
    assert!(overrun.is_some());
    let mut rest = Vec::new();
    assert!(client.read_to_end(&mut rest).is_ok());

    let (_client, host) = guest.connect_from_host(10);
    for length in [1, 65_537, u32::MAX] {
        let header = Header {
            source_cid: CID,
            destination_cid: HOST_CID,
            source_port: 10,
            destination_port: host,
            length,
            socket_type: TYPE_STREAM,
            operation: Some(Operation::Data),
            flags: 0,
            buffer_bytes: 0,
            forwarded: 0,
        };
        guest.send_raw(&header, &[]);
        guest.expect(Operation::Reset);
    }
    assert!(guest.driver.statistic("errors") >= 3);
}

#[test]
fn strange_packets_are_counted_and_answered_where_the_specification_says_so() {
    let mut guest = Guest::new();
    let base = Header {
        source_cid: CID,
        destination_cid: HOST_CID,
        source_port: 1,
        destination_port: 2,
        length: 0,
        socket_type: TYPE_STREAM,
        operation: Some(Operation::Data),
        flags: 0,
        buffer_bytes: 0,
        forwarded: 0,
    };
    guest.send_raw(&Header { source_cid: 9, ..base }, &[]);
    guest.send_raw(&Header { destination_cid: 9, ..base }, &[]);
    guest.send_raw(&Header { operation: Some(Operation::Reset), ..base }, &[]);
    guest.driver.wait_nothing(RX);
    for strange in [base, Header { socket_type: 7, ..base }, Header { operation: None, ..base }] {
        guest.send_raw(&strange, &[]);
        guest.expect(Operation::Reset);
    }
    // Shorter than a header.
    let short = guest.driver.place(&[0; 20]);
    guest.driver.offer(TX, &[short]);
    guest.driver.notify(TX);
    wait_for("DEVICE_NEEDS_RESET", || (guest.driver.status() & 0x40 != 0).then_some(()));
}

#[test]
fn resets_owed_to_a_guest_without_buffers_hold_its_transmit_queue_back() {
    let mut guest = Guest::without_buffers();
    let header = guest.driver.place(
        &Header {
            source_cid: CID,
            destination_cid: HOST_CID,
            source_port: 1,
            destination_port: 2,
            length: 0,
            socket_type: TYPE_STREAM,
            operation: Some(Operation::Data),
            flags: 0,
            buffer_bytes: 0,
            forwarded: 0,
        }
        .to_bytes(),
    );
    // One reset is owed for each of these.
    for _ in 0..1024 {
        guest.driver.offer(TX, &[header]);
        guest.driver.notify(TX);
        guest.driver.wait_used(TX);
    }
    guest.driver.offer(TX, &[header]);
    guest.driver.notify(TX);
    guest.driver.wait_nothing(TX);
    guest.offer_buffers(8);
    guest.expect(Operation::Reset);
    guest.driver.wait_used(TX);
}

#[test]
fn hundreds_of_connections_at_once() {
    let mut guest = Guest::new();
    let mut clients: Vec<_> = (0..300).map(|index| (guest.connect_from_host(2000 + index), index)).collect();
    assert_eq!(guest.driver.statistic("connections_open"), 300);
    for ((client, _), index) in &mut clients {
        client.write_all(&index.to_le_bytes()).unwrap();
    }
    let mut seen = std::collections::HashSet::new();
    while seen.len() < clients.len() {
        let (header, payload) = guest.receive();
        let index = u32::from_le_bytes(payload.try_into().unwrap());
        assert_eq!(header.destination_port, 2000 + index);
        seen.insert(index);
    }
}

#[test]
fn a_reset_closes_every_connection_and_shutdown_removes_the_socket() {
    let mut guest = Guest::new();
    let (mut client, _) = guest.connect_from_host(9);
    guest.driver.bring_up();
    assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
    guest.receive.clear();
    guest.offer_buffers(4);
    let (mut again, _) = guest.connect_from_host(9);
    again.shutdown(Shutdown::Write).unwrap();
    assert_eq!(guest.expect(Operation::Shutdown).flags, SHUTDOWN_SEND);
    let path = guest.path();
    assert!(path.exists());
    guest.driver.function.shutdown();
    assert!(!path.exists());
    assert_eq!(again.read(&mut [0; 8]).unwrap(), 0);
}

#[test]
fn random_packets_never_end_the_device() {
    let mut random = Random::new();
    let mut guest = Guest::new();
    let _listener = UnixListener::bind(guest.directory.path().join("vsock_5000")).unwrap();
    let (mut client, host) = guest.connect_from_host(9);
    client.set_nonblocking(true).unwrap();
    for _ in 0..4000 {
        let payload = vec![7; random.below(3000) as usize];
        let honest = random.below(4) != 0;
        let header = Header {
            source_cid: if random.below(20) == 0 { random.next() } else { CID },
            destination_cid: if random.below(20) == 0 { random.next() } else { HOST_CID },
            source_port: [9, 10, 11, random.next() as u32][random.below(4) as usize],
            destination_port: [host, 5000, 5001, random.next() as u32][random.below(4) as usize],
            length: if honest { payload.len() as u32 } else { random.next() as u32 },
            socket_type: if random.below(20) == 0 { random.next() as u16 } else { TYPE_STREAM },
            operation: None,
            flags: random.below(8) as u32,
            buffer_bytes: random.next() as u32,
            forwarded: random.next() as u32,
        };
        let mut bytes = header.to_bytes();
        bytes[30] = random.below(10) as u8;
        let buffers = [guest.driver.place(&bytes), guest.driver.place(&payload)];
        guest.driver.offer(TX, &buffers);
        guest.driver.notify(TX);
        while guest.driver.take_used(TX).is_none() {
            guest.try_receive();
        }
        while guest.try_receive().is_some() {}
        let _ = client.write(&[1; 100]);
        let _ = client.read(&mut [0; 4096]);
    }
    assert_eq!(guest.driver.status(), 0x0f);
    // Still of use to those who behave: a connection on ports that no packet above can have meant.
    let (mut client, host) = guest.connect_to_fresh_port();
    guest.send(host, FRESH_PORT, Operation::Data, 0, b"alive");
    let mut heard = [0; 5];
    client.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"alive");
}

const FRESH_PORT: u32 = 4_000_000_000;

impl Guest {
    /// Like [`Self::connect_from_host`], past whatever else the device still has to say.
    fn connect_to_fresh_port(&mut self) -> (UnixStream, u32) {
        let mut client = UnixStream::connect(self.path()).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.write_all(format!("CONNECT {FRESH_PORT}\n").as_bytes()).unwrap();
        let host = loop {
            let (header, _) = self.receive();
            if header.operation == Some(Operation::Request) && header.destination_port == FRESH_PORT {
                break header.source_port;
            }
        };
        self.send(host, FRESH_PORT, Operation::Response, 0, &[]);
        let mut byte = [0];
        while byte[0] != b'\n' {
            client.read_exact(&mut byte).unwrap();
        }
        (client, host)
    }
}
