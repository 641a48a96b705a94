//! Which vCPUs run: start-cpu, stop-self and query-cpu-stopped-state (LoPAR, Manage Stopped Processors), and the release of secondaries from
//! Linux's hold loop.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use paperboat_hypervisor::EntryState;

/// Power state of a vCPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CpuState {
    /// Waits for start-cpu.
    Stopped,
    /// Told to start; its thread has not taken it up yet.
    Starting(EntryState),
    /// Executes the guest.
    Running,
    /// Called stop-self; its thread has not parked yet.
    Stopping,
}

/// Why start-cpu fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// No such vCPU.
    #[error("no such CPU")]
    NoSuch,
    /// It runs already.
    #[error("the CPU is not stopped")]
    NotStopped,
}

/// What H_JOIN means for its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Joined {
    /// Every other vCPU that is not stopped has joined: this one goes on.
    Last,
    /// It sleeps until H_PROD.
    Sleeps,
}

/// All vCPUs. Threads of stopped ones sleep here.
pub struct Cpus {
    inner: Mutex<Inner>,
    changed: Condvar,
}

struct Inner {
    states: Vec<CpuState>,
    joined: Vec<bool>,
    closed: bool,
}

impl Cpus {
    /// `count` stopped vCPUs.
    pub fn new(count: u32) -> Self {
        Self {
            inner: Mutex::new(Inner {
                states: vec![CpuState::Stopped; count as usize],
                joined: vec![false; count as usize],
                closed: false,
            }),
            changed: Condvar::new(),
        }
    }

    /// The state of `id`.
    pub fn state(&self, id: u32) -> Option<CpuState> {
        self.lock().states.get(id as usize).copied()
    }

    /// Starts a stopped vCPU.
    ///
    /// # Errors
    /// [`StartError`]; nothing is changed then.
    pub fn start(&self, id: u32, entry: EntryState) -> Result<(), StartError> {
        let mut inner = self.lock();
        let state = inner.states.get_mut(id as usize).ok_or(StartError::NoSuch)?;
        if *state != CpuState::Stopped {
            return Err(StartError::NotStopped);
        }
        *state = CpuState::Starting(entry);
        self.changed.notify_all();
        Ok(())
    }

    /// stop-self was called by `id`.
    pub fn stopping(&self, id: u32) {
        if let Some(state) = self.lock().states.get_mut(id as usize) {
            *state = CpuState::Stopping;
        }
    }

    /// Called by the thread of `id` when it does not execute: sleeps until start-cpu, then says where to enter. `None`: the machine ends.
    pub fn wait_for_start(&self, id: u32) -> Option<EntryState> {
        let mut inner = self.lock();
        loop {
            if inner.closed {
                return None;
            }
            match inner.states.get_mut(id as usize)? {
                state @ CpuState::Starting(_) => {
                    let CpuState::Starting(entry) = std::mem::replace(state, CpuState::Running) else {
                        unreachable!("matched above")
                    };
                    return Some(entry);
                }
                state => *state = CpuState::Stopped,
            }
            inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// H_JOIN of `id`. One that has joined but for whom `prodded` says that H_PROD came counts as awake.
    pub fn join(&self, id: u32, prodded: impl Fn(u32) -> bool) -> Joined {
        let mut inner = self.lock();
        let asleep = |other: usize| {
            let stopped = matches!(inner.states[other], CpuState::Stopped | CpuState::Stopping);
            stopped || (inner.joined[other] && !prodded(other as u32))
        };
        if (0..inner.states.len()).all(|other| other == id as usize || asleep(other)) {
            return Joined::Last;
        }
        if let Some(joined) = inner.joined.get_mut(id as usize) {
            *joined = true;
        }
        Joined::Sleeps
    }

    /// `id` sleeps no longer in H_JOIN.
    pub fn joined_no_more(&self, id: u32) {
        if let Some(joined) = self.lock().joined.get_mut(id as usize) {
            *joined = false;
        }
    }

    /// True when every vCPU but the first was started: nobody has to be released from the hold loop any more.
    pub fn all_started(&self) -> bool {
        self.lock().states.iter().all(|state| *state != CpuState::Stopped)
    }

    /// Number of vCPUs.
    pub fn count(&self) -> u32 {
        self.lock().states.len() as u32
    }

    /// Ends every wait, now and later.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    const ENTRY: EntryState = EntryState { pc: 0x60, msr: 1 << 63, r3: 1, r4: 0 };

    #[test]
    fn a_cpu_starts_once_until_it_stops() {
        let cpus = Cpus::new(2);
        assert_eq!(cpus.start(2, ENTRY), Err(StartError::NoSuch));
        assert_eq!(cpus.start(1, ENTRY), Ok(()));
        assert_eq!(cpus.start(1, ENTRY), Err(StartError::NotStopped));
        assert_eq!(cpus.wait_for_start(1), Some(ENTRY));
        assert_eq!(cpus.state(1), Some(CpuState::Running));
        assert_eq!(cpus.start(1, ENTRY), Err(StartError::NotStopped));
        cpus.stopping(1);
        assert_eq!(cpus.start(1, ENTRY), Err(StartError::NotStopped));
    }

    #[test]
    fn the_last_to_join_goes_on() {
        let cpus = Cpus::new(3);
        for id in 0..2 {
            cpus.start(id, ENTRY).unwrap();
            cpus.wait_for_start(id).unwrap();
        }
        let nobody = |_: u32| false;
        assert_eq!(cpus.join(1, nobody), Joined::Sleeps, "CPU 0 is awake, CPU 2 does not count");
        assert_eq!(cpus.join(0, nobody), Joined::Last);
        assert_eq!(cpus.join(0, |id| id == 1), Joined::Sleeps, "CPU 1 was prodded and is about to wake");
        cpus.joined_no_more(0);
        cpus.joined_no_more(1);
        assert_eq!(cpus.join(0, nobody), Joined::Sleeps);
    }

    #[test]
    fn closing_ends_the_wait() {
        let cpus = Arc::new(Cpus::new(1));
        let waiter = std::thread::spawn({
            let cpus = Arc::clone(&cpus);
            move || cpus.wait_for_start(0)
        });
        cpus.close();
        assert_eq!(waiter.join().unwrap(), None);
    }
}
