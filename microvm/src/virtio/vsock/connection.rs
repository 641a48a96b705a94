//! One stream between a unix socket of the host and a socket of the guest.
//!
//! Towards the guest nothing is buffered: bytes are read from the unix socket only when there is a receive buffer to put
//! them into and the guest has given credit for them. Towards the host at most [`BUFFER_BYTES`] are held, because that is
//! the credit the guest is given (virtio 1.2 §5.10.6.3).

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use super::packet::{Header, Operation, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};

/// Credit given to the guest per connection: what we hold for a host peer that does not read. As much as Linux gives: four of its
/// largest packets, so that some are under way while others are carried on.
pub(super) const BUFFER_BYTES: u32 = 256 << 10;

/// The guest is told about freed space when this much of its credit is unaccounted for. Half: early enough that a steady
/// stream never stalls, seldom enough to cost little.
const CREDIT_UPDATE_BYTES: u32 = BUFFER_BYTES / 2;

/// What to do with a connection after something happened to it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It goes on.
    Alive,
    /// It is over, and the guest has to be told by a reset.
    Reset,
    /// It is over, and the guest knows.
    Gone,
}

/// A packet for the guest, without addresses; its payload is in the caller's buffer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outgoing {
    pub(super) operation: Operation,
    pub(super) flags: u32,
    pub(super) length: usize,
}

/// A control packet that waits for a receive buffer.
#[derive(Default)]
struct Pending {
    request: bool,
    response: bool,
    credit_update: bool,
    credit_request: bool,
}

pub(super) struct Connection {
    stream: UnixStream,
    established: bool,
    /// The guest forgot it (reset); what it sent before still goes to the host.
    detached: bool,
    pending: Pending,

    /// Towards the guest: its credit, and how far we are.
    guest_buffer_bytes: u32,
    guest_forwarded: u32,
    sent: u32,
    credit_requested: bool,
    host_readable: bool,
    host_eof: bool,
    host_hung_up: bool,
    /// SHUTDOWN flags that apply to our side, and those the guest was told.
    our_shutdown: u32,
    told_shutdown: u32,

    /// Towards the host: what did not fit into the socket yet.
    backlog: VecDeque<u8>,
    received: u32,
    forwarded: u32,
    advertised: u32,
    host_takes_no_more: bool,
    guest_shutdown: u32,

    /// True while it stands in the muxer's list of connections with something to send.
    pub(super) listed: bool,
}

impl Connection {
    /// `stream` is non-blocking. A host-initiated connection asks the guest first; a guest-initiated one is answered.
    pub(super) fn new(stream: UnixStream, host_initiated: bool, credit: Option<&Header>) -> Self {
        let mut connection = Self {
            stream,
            established: !host_initiated,
            detached: false,
            pending: Pending { request: host_initiated, response: !host_initiated, ..Pending::default() },
            guest_buffer_bytes: 0,
            guest_forwarded: 0,
            sent: 0,
            credit_requested: false,
            // A new socket may have data, and its first event may be consumed already: look once.
            host_readable: true,
            host_eof: false,
            host_hung_up: false,
            our_shutdown: 0,
            told_shutdown: 0,
            backlog: VecDeque::new(),
            received: 0,
            forwarded: 0,
            advertised: 0,
            host_takes_no_more: false,
            guest_shutdown: 0,
            listed: false,
        };
        if let Some(header) = credit {
            connection.take_credit(header);
        }
        connection
    }

    pub(super) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// The forwarded-bytes count for the header of any packet; remembers that the guest will know it.
    pub(super) fn account(&mut self) -> u32 {
        self.advertised = self.forwarded;
        self.pending.credit_update = false;
        self.forwarded
    }

    /// Every packet from the guest carries its credit.
    pub(super) fn take_credit(&mut self, header: &Header) {
        self.guest_buffer_bytes = header.buffer_bytes;
        self.guest_forwarded = header.forwarded;
        if self.credit() > 0 {
            self.credit_requested = false;
        }
    }

    /// Bytes the guest has room for. A guest that claims nonsense has none.
    fn credit(&self) -> u32 {
        self.guest_buffer_bytes.saturating_sub(self.sent.wrapping_sub(self.guest_forwarded))
    }

    /// The guest accepted a host-initiated connection: the client learns it by its `OK` line.
    pub(super) fn accepted(&mut self, host_port: u32) -> Verdict {
        if self.established {
            return Verdict::Reset;
        }
        self.established = true;
        // The socket is new and its buffer empty: a short write cannot be but for a client that is gone.
        match (&self.stream).write_all(format!("OK {host_port}\n").as_bytes()) {
            Ok(()) => Verdict::Alive,
            Err(_) => Verdict::Reset,
        }
    }

    /// Payload from the guest. It must be within the credit it was given.
    pub(super) fn receive(&mut self, payload: &[u8]) -> Verdict {
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let outstanding = self.received.wrapping_sub(self.forwarded);
        if !self.established || self.guest_shutdown & SHUTDOWN_SEND != 0 || length > BUFFER_BYTES.saturating_sub(outstanding) {
            return Verdict::Reset;
        }
        self.received = self.received.wrapping_add(length);
        let mut rest = payload;
        if self.backlog.is_empty() && !self.host_takes_no_more {
            let written = self.write_host(payload);
            rest = &payload[written..];
        }
        if self.host_takes_no_more {
            // Nobody will read it; the credit must not leak.
            self.forwarded = self.received;
        } else {
            self.backlog.extend(rest);
        }
        self.after_forwarding()
    }

    /// The host socket can take more.
    pub(super) fn flush(&mut self) -> Verdict {
        while !self.backlog.is_empty() && !self.host_takes_no_more {
            let (front, _) = self.backlog.as_slices();
            let chunk = front.len();
            let written = match write_some(&self.stream, front) {
                Ok(written) => written,
                Err(_) => {
                    self.host_refuses();
                    break;
                }
            };
            self.backlog.drain(..written);
            self.forwarded = self.forwarded.wrapping_add(written as u32);
            if written < chunk {
                break;
            }
        }
        self.after_forwarding()
    }

    fn after_forwarding(&mut self) -> Verdict {
        if self.backlog.is_empty() {
            // A backlog that was long once need not stay allocated.
            self.backlog.shrink_to(0);
            if self.detached {
                return Verdict::Gone;
            }
            if self.guest_shutdown & SHUTDOWN_SEND != 0 {
                let _ = self.stream.shutdown(Shutdown::Write);
            }
            let nothing_to_guest = self.guest_shutdown & SHUTDOWN_RECEIVE != 0 || self.told_shutdown & SHUTDOWN_SEND != 0;
            if self.guest_shutdown & SHUTDOWN_SEND != 0 && nothing_to_guest {
                return Verdict::Reset;
            }
        }
        if self.received.wrapping_sub(self.advertised) >= CREDIT_UPDATE_BYTES && self.forwarded != self.advertised {
            self.pending.credit_update = true;
        }
        Verdict::Alive
    }

    /// Writes what the socket takes; 0 when it refuses for good.
    fn write_host(&mut self, bytes: &[u8]) -> usize {
        match write_some(&self.stream, bytes) {
            Ok(written) => {
                self.forwarded = self.forwarded.wrapping_add(written as u32);
                written
            }
            Err(_) => {
                self.host_refuses();
                0
            }
        }
    }

    /// The host's end does not read any more: the guest is told, what is on the way is dropped.
    fn host_refuses(&mut self) {
        self.host_takes_no_more = true;
        self.backlog.clear();
        self.forwarded = self.received;
        self.our_shutdown |= SHUTDOWN_RECEIVE;
    }

    /// The guest's SHUTDOWN.
    pub(super) fn guest_shuts_down(&mut self, flags: u32) -> Verdict {
        self.guest_shutdown |= flags & SHUTDOWN_BOTH;
        if self.guest_shutdown & SHUTDOWN_RECEIVE != 0 {
            let _ = self.stream.shutdown(Shutdown::Read);
        }
        self.after_forwarding()
    }

    /// The guest's RST.
    pub(super) fn guest_resets(&mut self) -> Verdict {
        if self.backlog.is_empty() || self.host_takes_no_more {
            return Verdict::Gone;
        }
        self.detached = true;
        Verdict::Alive
    }

    pub(super) fn wants_credit_update(&mut self) {
        self.pending.credit_update = true;
    }

    /// The host socket may have data or an end.
    pub(super) fn host_event(&mut self, hung_up: bool) {
        self.host_readable = true;
        if hung_up {
            self.host_hung_up = true;
            if self.host_eof {
                self.our_shutdown = SHUTDOWN_BOTH;
            }
        }
    }

    /// Whether [`Self::next_packet`] may have something.
    pub(super) fn has_work(&self) -> bool {
        let pending = &self.pending;
        !self.detached
            && (pending.request
                || pending.response
                || pending.credit_update
                || pending.credit_request
                || self.established && (self.our_shutdown & !self.told_shutdown != 0 || self.may_read()))
    }

    fn may_read(&self) -> bool {
        let guest_listens = self.guest_shutdown & SHUTDOWN_RECEIVE == 0;
        self.host_readable && !self.host_eof && guest_listens && (self.credit() > 0 || !self.credit_requested)
    }

    /// The next packet for the guest, its payload in `buffer`.
    pub(super) fn next_packet(&mut self, buffer: &mut [u8]) -> Option<Outgoing> {
        let control = |operation| Some(Outgoing { operation, flags: 0, length: 0 });
        if self.detached {
            return None;
        }
        if std::mem::take(&mut self.pending.request) {
            return control(Operation::Request);
        }
        if std::mem::take(&mut self.pending.response) {
            return control(Operation::Response);
        }
        if std::mem::take(&mut self.pending.credit_update) {
            return control(Operation::CreditUpdate);
        }
        if std::mem::take(&mut self.pending.credit_request) {
            return control(Operation::CreditRequest);
        }
        if !self.established {
            return None;
        }
        if self.may_read() {
            let limit = buffer.len().min(self.credit() as usize);
            if limit == 0 {
                // Asked for once per stall; the update comes with the guest's next packet of any kind.
                self.credit_requested = true;
                return control(Operation::CreditRequest);
            }
            match read_some(&self.stream, &mut buffer[..limit]) {
                Ok(Some(0)) | Err(_) => {
                    self.host_eof = true;
                    self.our_shutdown |= if self.host_hung_up { SHUTDOWN_BOTH } else { SHUTDOWN_SEND };
                }
                Ok(Some(length)) => {
                    self.sent = self.sent.wrapping_add(length as u32);
                    return Some(Outgoing { operation: Operation::Data, flags: 0, length });
                }
                Ok(None) => self.host_readable = false,
            }
        }
        // All data is out, or the host's end cannot deliver any: then the shutdown may follow.
        if self.our_shutdown & !self.told_shutdown != 0 {
            self.told_shutdown = self.our_shutdown;
            return Some(Outgoing { operation: Operation::Shutdown, flags: self.our_shutdown, length: 0 });
        }
        None
    }

    /// Whether it is over now that a shutdown was sent.
    pub(super) fn after_sending(&mut self) -> Verdict {
        self.after_forwarding()
    }
}

/// Reads once; `None` when there is nothing yet.
fn read_some(mut stream: &UnixStream, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    loop {
        match stream.read(buffer) {
            Ok(length) => return Ok(Some(length)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Writes until the socket is full; how much it took.
fn write_some(mut stream: &UnixStream, bytes: &[u8]) -> io::Result<usize> {
    let mut written = 0;
    while written < bytes.len() {
        match stream.write(&bytes[written..]) {
            Ok(length) => written += length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::super::packet::{HEADER_BYTES, HOST_CID};
    use super::*;

    fn credit(buffer_bytes: u32, forwarded: u32) -> Header {
        Header { buffer_bytes, forwarded, ..Header::parse(&[0; HEADER_BYTES]) }
    }

    fn established(buffer_bytes: u32) -> (Connection, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut connection = Connection::new(ours, false, Some(&credit(buffer_bytes, 0)));
        assert_eq!(connection.next_packet(&mut []).unwrap().operation, Operation::Response);
        (connection, theirs)
    }

    fn data(length: usize) -> Option<Outgoing> {
        Some(Outgoing { operation: Operation::Data, flags: 0, length })
    }

    #[test]
    fn the_guest_gets_no_more_than_its_credit() {
        let (mut connection, mut host) = established(100);
        host.write_all(&[7; 250]).unwrap();
        let mut buffer = [0; 64];
        assert_eq!(connection.next_packet(&mut buffer), data(64));
        assert_eq!(connection.next_packet(&mut buffer), data(36));
        assert_eq!(connection.next_packet(&mut buffer).unwrap().operation, Operation::CreditRequest);
        assert!(!connection.has_work(), "one request per stall");
        connection.take_credit(&credit(100, 90));
        assert!(connection.has_work());
        assert_eq!(connection.next_packet(&mut buffer), data(64));
        // A guest that claims to have read what was never sent has no room.
        connection.take_credit(&credit(100, 5000));
        assert_eq!(connection.credit(), 0);
        assert_eq!(HOST_CID, 2);
    }

    #[test]
    fn more_than_the_credit_we_gave_is_a_reset() {
        let (mut connection, _host) = established(0);
        let chunk = vec![1; 64 << 10];
        let mut total = 0u32;
        // The socket's own buffer takes some; beyond it exactly our credit is held.
        while connection.backlog.is_empty() {
            assert_eq!(connection.receive(&chunk), Verdict::Alive);
            total += chunk.len() as u32;
        }
        let held = total.wrapping_sub(connection.forwarded);
        let room = (BUFFER_BYTES - held) as usize;
        assert_eq!(connection.receive(&vec![2; room]), Verdict::Alive);
        assert_eq!(connection.backlog.len(), BUFFER_BYTES as usize);
        assert_eq!(connection.receive(&[3]), Verdict::Reset);
    }

    #[test]
    fn space_that_the_host_freed_is_announced() {
        let (mut connection, mut host) = established(0);
        let chunk = vec![9; CREDIT_UPDATE_BYTES as usize / 2];
        assert_eq!(connection.receive(&chunk), Verdict::Alive);
        assert!(!connection.has_work() || connection.next_packet(&mut []).unwrap().operation == Operation::CreditRequest);
        assert_eq!(connection.receive(&chunk), Verdict::Alive);
        let mut sink = vec![0; chunk.len() * 2];
        host.read_exact(&mut sink).unwrap();
        connection.flush();
        assert_eq!(connection.next_packet(&mut []).unwrap().operation, Operation::CreditUpdate);
        assert_eq!(connection.account(), chunk.len() as u32 * 2);
    }

    #[test]
    fn a_half_close_in_each_direction() {
        let (mut connection, mut host) = established(1000);
        let mut buffer = [0; 64];
        host.write_all(b"last words").unwrap();
        host.shutdown(Shutdown::Write).unwrap();
        assert_eq!(connection.next_packet(&mut buffer), data(10));
        let shutdown = connection.next_packet(&mut buffer).unwrap();
        assert_eq!((shutdown.operation, shutdown.flags), (Operation::Shutdown, SHUTDOWN_SEND));
        assert_eq!(connection.after_sending(), Verdict::Alive);
        assert_eq!(connection.receive(b"answer"), Verdict::Alive);
        assert_eq!(connection.guest_shuts_down(SHUTDOWN_SEND), Verdict::Reset, "both directions are done");
        let mut heard = String::new();
        host.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "answer");
    }

    #[test]
    fn a_host_that_is_gone_is_told_as_both_and_takes_nothing_more() {
        let (mut connection, host) = established(1000);
        drop(host);
        connection.host_event(true);
        let shutdown = connection.next_packet(&mut [0; 8]).unwrap();
        assert_eq!((shutdown.operation, shutdown.flags), (Operation::Shutdown, SHUTDOWN_BOTH));
        assert_eq!(connection.receive(&[1; 100]), Verdict::Alive);
        assert_eq!(connection.forwarded, 100, "its credit comes back");
        assert!(connection.backlog.is_empty());
        assert_eq!(connection.guest_resets(), Verdict::Gone);
    }

    #[test]
    fn what_the_guest_sent_before_a_reset_still_arrives() {
        let (mut connection, mut host) = established(0);
        let chunk = vec![5; 32 << 10];
        let mut total = 0;
        while connection.backlog.is_empty() {
            assert_eq!(connection.receive(&chunk), Verdict::Alive);
            total += chunk.len();
        }
        assert_eq!(connection.guest_resets(), Verdict::Alive);
        let mut received = 0;
        let mut sink = vec![0; 16 << 10];
        while received < total {
            received += host.read(&mut sink).unwrap();
            let verdict = connection.flush();
            assert_eq!(verdict == Verdict::Gone, connection.backlog.is_empty());
        }
    }
}
