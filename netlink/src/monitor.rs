//! Hearing of changes.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use netlink_sys::{Socket, protocols::NETLINK_ROUTE};

/// Groups of rtnetlink(7): interfaces, permanent neighbours, addresses and routes of both families.
const GROUPS: [u32; 6] = [1, 3, 5, 7, 9, 11];

/// Datagrams taken at once; the rest waits for the next look.
const DRAIN_MAX: usize = 4096;

/// Tells that something in a network namespace changed; what, the lists tell.
pub struct Monitor(Socket);

impl Monitor {
    /// Listens in the calling thread's network namespace from now on.
    ///
    /// # Errors
    /// The system's.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        for group in GROUPS {
            socket.add_membership(group)?;
        }
        socket.set_non_blocking(true)?;
        Ok(Self(socket))
    }

    /// Takes all news. Returns whether there were any; lost ones count.
    ///
    /// # Errors
    /// The system's.
    pub fn drain(&self) -> io::Result<bool> {
        let mut buffer = Vec::with_capacity(64 << 10);
        let mut news = false;
        for _ in 0..DRAIN_MAX {
            buffer.clear();
            match self.0.recv_from(&mut buffer, 0) {
                Ok(_) => news = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // The kernel had more to tell than the socket holds.
                Err(error) if error.raw_os_error() == Some(105) => news = true,
                Err(error) => return Err(error),
            }
        }
        Ok(news)
    }
}

impl AsRawFd for Monitor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
