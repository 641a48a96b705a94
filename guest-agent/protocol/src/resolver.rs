//! Questions for names that the guest's containers ask at 127.0.0.11, where Docker has its resolver: on the host it listens in the pod's
//! network namespace. For each the agent opens a connection to [`RESOLVER_PORT`] of the host and sends a byte that tells what follows.
//!
//! After [`DATAGRAM`] come one question and one answer, each behind its length in two bytes (big-endian), as names are asked over TCP
//! (RFC 1035 §4.2.2). After [`STREAM`] the connection is a TCP connection to the resolver.

use std::net::{Ipv4Addr, SocketAddrV4};

/// Host vsock port (context id 2).
pub const RESOLVER_PORT: u32 = 1029;

/// The resolver, in the guest as in the host's namespace.
pub const RESOLVER_ADDRESS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 11), 53);

/// A question that came as a datagram.
pub const DATAGRAM: u8 = b'd';

/// A TCP connection.
pub const STREAM: u8 = b's';
