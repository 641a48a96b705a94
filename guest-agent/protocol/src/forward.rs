//! Connections from outside to the guest's localhost. On a connection to [`FORWARD_PORT`] the host side names an address of localhost,
//! `127.0.0.1:80` or `[::1]:80`, and a newline. The agent dials it and answers [`GRANTED`], after which the connection is the dialled one, or
//! a line that says why not, and closes.

/// Guest vsock port.
pub const FORWARD_PORT: u32 = 1028;

/// Longest request in bytes, its newline included: an IPv6 address in brackets and a port.
pub const REQUEST_MAX: usize = 64;

/// The answer before the connection is the dialled one.
pub const GRANTED: &[u8] = b"OK\n";

/// Longest answer in bytes, its newline included.
pub const ANSWER_MAX: usize = 256;
