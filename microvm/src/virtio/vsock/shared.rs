//! The muxer between its own thread, which waits for sockets and queues, and the vCPUs that notify of packets.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags, EpollTimeout};

use super::muxer::{ACCEPT_RETRY_MS, EVENTS_PER_TURN, Muxer, TOKEN_STOP};
use crate::virtio::worker::Stop;
use crate::virtio::{DirectService, lock};

/// A muxer that several threads may serve, one at a time.
pub(super) struct Shared {
    /// `None` after the device was reset.
    muxer: Mutex<Option<Muxer>>,
    epoll: Arc<Epoll>,
}

impl Shared {
    pub(super) fn new(muxer: Muxer) -> Self {
        Self { epoll: Arc::clone(&muxer.epoll), muxer: Mutex::new(Some(muxer)) }
    }

    /// Lets `stop` end the muxer's own thread.
    pub(super) fn watch(&self, stop: &Stop) -> io::Result<()> {
        Ok(self.epoll.add(stop.event().as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, TOKEN_STOP))?)
    }

    /// The muxer's own thread.
    pub(super) fn run(&self, stop: &Stop) {
        let mut events = [EpollEvent::empty(); EVENTS_PER_TURN];
        let mut timeout = EpollTimeout::NONE;
        while !stop.requested() {
            let waited = self.epoll.wait(&mut events, timeout);
            let mut muxer = lock(&self.muxer);
            let Some(muxer) = muxer.as_mut() else { return };
            match waited {
                Ok(count) => muxer.serve(&events[..count], stop),
                Err(Errno::EINTR) => {}
                Err(error) => return muxer.transmit.fail(error),
            }
            timeout = if muxer.accepting { EpollTimeout::NONE } else { EpollTimeout::from(ACCEPT_RETRY_MS) };
        }
    }

    /// Closes every socket: whoever is moving packets finishes that first.
    pub(super) fn close(&self) {
        lock(&self.muxer).take();
    }
}

impl DirectService for Shared {
    fn notified(&self) -> bool {
        // Its own thread is at it: that one looks again, because the caller writes the eventfd.
        let Ok(mut muxer) = self.muxer.try_lock() else { return false };
        muxer.as_mut().is_some_and(Muxer::take_directly)
    }
}
