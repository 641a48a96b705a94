//! The one place that waits for children. PID 1 adopts every orphan of the guest, so a status may arrive before anybody knows
//! whose it is: the container's init is adopted when its creating helper exits, and may be dead by then. Statuses without
//! an owner are therefore kept, a limited number of them, until the pid is claimed.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// How many unclaimed statuses are kept, oldest dropped first. Orphans of containers without a pid namespace end here too; a claim
/// follows its process' death within one helper's run.
const UNCLAIMED_MAX: usize = 1024;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// As a shell tells it: the exit code, or 128 + signal.
    pub status: u32,
    /// Wall clock, nanoseconds since the epoch.
    pub at_unix_ns: u64,
}

/// A point in the order of deaths; a claim made with it ignores earlier ones, which were of an older process of that number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(u64);

#[derive(Default)]
struct Inner {
    deaths: u64,
    claims: HashMap<i32, oneshot::Sender<Exit>>,
    unclaimed: VecDeque<(u64, i32, Exit)>,
}

/// The reaper; clones share one state.
#[derive(Clone, Default)]
pub struct Reaper(Arc<Mutex<Inner>>);

impl Reaper {
    /// Reaps at every SIGCHLD, forever.
    ///
    /// # Errors
    /// When the signal cannot be watched.
    pub fn spawn(&self) -> std::io::Result<()> {
        let mut children = signal(SignalKind::child())?;
        let reaper = self.clone();
        tokio::spawn(async move {
            // Children may have ended before the signal was watched.
            reaper.reap();
            while children.recv().await.is_some() {
                reaper.reap();
            }
        });
        Ok(())
    }

    /// To be taken before a process is started that [`Self::claim`] will name.
    pub fn mark(&self) -> Mark {
        Mark(self.inner().deaths)
    }

    /// The death of `pid`, past or to come, but not before `since`. The receiver fails only when the same pid is claimed again.
    pub fn claim(&self, pid: Pid, since: Mark) -> oneshot::Receiver<Exit> {
        let (sender, receiver) = oneshot::channel();
        let mut inner = self.inner();
        let kept = inner.unclaimed.iter().position(|&(death, of, _)| of == pid.as_raw() && death > since.0);
        match kept.and_then(|at| inner.unclaimed.remove(at)) {
            // The receiver is at hand, so the send cannot fail.
            Some((_, _, exit)) => drop(sender.send(exit)),
            None => drop(inner.claims.insert(pid.as_raw(), sender)),
        }
        receiver
    }

    /// Collects every child that has ended.
    pub fn reap(&self) {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)) {
                Ok(WaitStatus::Exited(pid, code)) => self.record(pid, code.cast_unsigned() & 0xff),
                Ok(WaitStatus::Signaled(pid, signal, _)) => self.record(pid, 128 + (signal as i32).cast_unsigned()),
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
                // A stop or continuation, which is not asked for, or an interrupted call.
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => {
                    crate::error!("reaping failed error={error}");
                    return;
                }
            }
        }
    }

    fn record(&self, pid: Pid, status: u32) {
        let exit = Exit { status, at_unix_ns: unix_time_ns() };
        let mut inner = self.inner();
        inner.deaths += 1;
        let death = inner.deaths;
        match inner.claims.remove(&pid.as_raw()) {
            // A claimant that went away does not care any more.
            Some(claim) => drop(claim.send(exit)),
            None => {
                if inner.unclaimed.len() == UNCLAIMED_MAX {
                    inner.unclaimed.pop_front();
                }
                inner.unclaimed.push_back((death, pid.as_raw(), exit));
            }
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here can panic half way; a poisoned state is as good as any.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wall clock, nanoseconds since the epoch.
pub fn unix_time_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_REALTIME)
        .map_or(0, |t| u64::try_from(t.tv_sec()).unwrap_or(0) * 1_000_000_000 + u64::try_from(t.tv_nsec()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_death_before_the_claim_is_kept_for_it() {
        let reaper = Reaper::default();
        let mark = reaper.mark();
        reaper.record(Pid::from_raw(7), 3);
        let exit = reaper.claim(Pid::from_raw(7), mark).try_recv().expect("kept");
        assert_eq!(exit.status, 3);
        assert!(reaper.claim(Pid::from_raw(7), mark).try_recv().is_err(), "handed out once");
    }

    #[test]
    fn a_death_of_an_earlier_process_of_that_number_is_not_mistaken() {
        let reaper = Reaper::default();
        reaper.record(Pid::from_raw(7), 1);
        let mark = reaper.mark();
        let mut claim = reaper.claim(Pid::from_raw(7), mark);
        assert!(claim.try_recv().is_err());
        reaper.record(Pid::from_raw(7), 2);
        assert_eq!(claim.try_recv().expect("the new one").status, 2);
    }

    #[test]
    fn unclaimed_deaths_are_limited() {
        let reaper = Reaper::default();
        let mark = reaper.mark();
        for pid in 1..=(UNCLAIMED_MAX as i32 + 1) {
            reaper.record(Pid::from_raw(pid), 0);
        }
        assert_eq!(reaper.inner().unclaimed.len(), UNCLAIMED_MAX);
        assert!(reaper.claim(Pid::from_raw(1), mark).try_recv().is_err(), "the oldest went");
        assert!(reaper.claim(Pid::from_raw(2), mark).try_recv().is_ok());
    }
}
