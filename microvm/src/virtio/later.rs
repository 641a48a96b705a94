//! Word of completed requests that the guest can wait for: one interrupt tells of many.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

/// Runs while requests are completed of which the driver was not told.
pub(super) struct Later {
    timer: TimerFd,
    running: AtomicBool,
    delay: Duration,
}

impl Later {
    /// One whose descriptor becomes readable `delay` after the first [`Self::start`].
    pub(super) fn new(delay: Duration) -> io::Result<Self> {
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)?;
        Ok(Self { timer, running: AtomicBool::new(false), delay })
    }

    /// False if time cannot be measured: the driver is to be told at once.
    pub(super) fn start(&self) -> bool {
        if self.running.swap(true, Ordering::SeqCst) {
            return true;
        }
        let set = self.timer.set(Expiration::OneShot(TimeSpec::from_duration(self.delay)), TimerSetTimeFlags::empty());
        if set.is_err() {
            self.running.store(false, Ordering::SeqCst);
        }
        set.is_ok()
    }

    /// The time is over, and the caller tells the driver: the next request starts it again.
    pub(super) fn expired(&self) {
        // Reading says how often; once is what was asked for.
        let _ = nix::unistd::read(self.timer.as_fd(), &mut [0; 8]);
        self.running.store(false, Ordering::SeqCst);
    }
}

impl AsFd for Later {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}
