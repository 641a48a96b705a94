//! The few rtnetlink requests that a pod's network takes (rtnetlink(7)): the shim reads with them what a namespace holds, and the guest's
//! agent sets up the same in the guest.
//!
//! [`Connection`] belongs to the network namespace of the thread that opens it, for its whole life. The kernel answers rtnetlink from
//! memory, so requests block. Messages are encoded by `netlink-packet-route`; the types here hold what a pod needs of them.

#![forbid(unsafe_code)]

mod address;
mod link;
mod monitor;
mod neighbour;
mod route;
mod tc;

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

pub use address::Address;
pub use link::{Link, LinkChange};
pub use monitor::Monitor;
pub use neighbour::Neighbour;
pub use route::{Route, RouteKind, Via};

/// A hardware address of Ethernet.
pub type Mac = [u8; 6];

/// Most objects of one answer. A pod has a handful of each; a host's full routing table is refused rather than kept.
const OBJECTS_MAX: usize = 1 << 16;

/// Tries at a list that changes while the kernel writes it down.
const DUMP_ATTEMPTS: usize = 5;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The kernel refused.
    #[error("{what}: {source}")]
    Refused {
        /// The request, for a person.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The answer is no message of rtnetlink.
    #[error("{what}: the kernel's answer: {message}")]
    Garbled {
        /// The request, for a person.
        what: String,
        /// What is wrong with it.
        message: String,
    },
    /// More than anybody's pod has.
    #[error("{what}: more than {OBJECTS_MAX}")]
    TooMany {
        /// The request, for a person.
        what: String,
    },
}

impl NetlinkError {
    /// The kernel's answer, where it gave one.
    pub fn os_error(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } => source.raw_os_error(),
            Self::Garbled { .. } | Self::TooMany { .. } => None,
        }
    }
}

/// Whether a request makes, replaces, or changes.
#[derive(Clone, Copy)]
enum Verb {
    /// Acts on what is there.
    Change,
    /// Makes what must not be there yet.
    Make,
    /// Makes, or takes the place of what is there.
    Replace,
}

/// A conversation with the kernel about one network namespace.
pub struct Connection {
    socket: Socket,
    sequence: u32,
}

impl Connection {
    /// Opens one in the calling thread's network namespace.
    ///
    /// # Errors
    /// The system's.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends a request that is answered with yes or no.
    fn ask(&mut self, what: &str, verb: Verb, message: RouteNetlinkMessage) -> Result<(), NetlinkError> {
        let flags = match verb {
            Verb::Change => 0,
            Verb::Make => NLM_F_CREATE | NLM_F_EXCL,
            Verb::Replace => NLM_F_CREATE | NLM_F_REPLACE,
        };
        self.exchange(what, message, NLM_F_ACK | flags).map(drop)
    }

    /// Asks for a list.
    fn list(&mut self, what: &str, message: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        let mut attempt = 1;
        loop {
            match self.exchange(what, message.clone(), NLM_F_DUMP) {
                Err(error) if attempt < DUMP_ATTEMPTS && error.os_error() == Some(INTERRUPTED) => attempt += 1,
                other => return other,
            }
        }
    }

    fn exchange(
        &mut self,
        what: &str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        let refused = |source| NetlinkError::Refused { what: what.to_owned(), source };
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map_err(refused)?;

        let mut answers = Vec::new();
        let mut changed_meanwhile = false;
        loop {
            let (datagram, _) = self.socket.recv_from_full().map_err(refused)?;
            for message in messages(&datagram) {
                let message = message.map_err(|message| NetlinkError::Garbled { what: what.to_owned(), message })?;
                // An answer to a request that was given up.
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                changed_meanwhile |= message.header.flags & DUMP_INTERRUPTED != 0;
                match message.payload {
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(answers),
                    NetlinkPayload::Error(error) => return Err(refused(error.to_io())),
                    NetlinkPayload::Done(_) if changed_meanwhile => {
                        return Err(refused(io::Error::from_raw_os_error(INTERRUPTED)));
                    }
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::InnerMessage(_) if answers.len() == OBJECTS_MAX => {
                        return Err(NetlinkError::TooMany { what: what.to_owned() });
                    }
                    NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                    _ => {}
                }
            }
        }
    }
}

/// Set by the kernel in a list that changed while it was written (`NLM_F_DUMP_INTR`).
const DUMP_INTERRUPTED: u16 = 0x10;

/// `EINTR`, the name for such a list here.
const INTERRUPTED: i32 = 4;

/// The messages of a datagram, each on a boundary of four bytes.
fn messages(datagram: &[u8]) -> impl Iterator<Item = Result<NetlinkMessage<RouteNetlinkMessage>, String>> + '_ {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let parsed = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(|error| error.to_string());
        let length = parsed.as_ref().map_or(rest.len(), |message| message.header.length as usize);
        // A length of zero would be an endless loop.
        let next = length.max(1).next_multiple_of(4).min(rest.len());
        rest = &rest[next..];
        Some(parsed)
    })
}
