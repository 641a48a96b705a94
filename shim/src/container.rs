//! A container of the pod and its processes: what containerd can ask about them at any time.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::{Mutex as AsyncMutex, watch};

use crate::spec::Role;
use crate::streams::{StdioPaths, Streams};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// As a shell tells it: 128 + signal for a signalled process.
    pub status: u32,
    /// When.
    pub at: SystemTime,
}

/// Where a process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Prepared, not started.
    Created,
    /// Running.
    Running,
    /// Frozen with its container.
    Paused,
    /// Ended.
    Stopped(Exit),
}

/// One process: a container's init (`exec_id` empty) or one added to it.
pub struct Process {
    /// The container.
    pub container: String,
    /// containerd's name of an added process.
    pub exec_id: String,
    /// Its streams as containerd named them.
    pub stdio: StdioPaths,
    /// Its pumps; none for a sandbox.
    pub streams: AsyncMutex<Option<Streams>>,
    /// Held while a start is under way: the news of the end waits until the news of the start is out.
    pub starting: Arc<AsyncMutex<()>>,
    /// Description in the pod's files, for an added process.
    pub description: Option<PathBuf>,
    phase: watch::Sender<Phase>,
}

impl Process {
    /// A process that was just prepared.
    pub fn new(
        container: &str,
        exec_id: &str,
        stdio: StdioPaths,
        streams: Option<Streams>,
        description: Option<PathBuf>,
    ) -> Self {
        Self {
            container: container.into(),
            exec_id: exec_id.into(),
            stdio,
            streams: AsyncMutex::new(streams),
            starting: Arc::default(),
            description,
            phase: watch::channel(Phase::Created).0,
        }
    }

    /// Where it is in its life.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Moves on; an ended process stays ended. Returns whether the phase was taken.
    pub fn enter(&self, next: Phase) -> bool {
        self.phase.send_if_modified(|phase| {
            let taken = !matches!(phase, Phase::Stopped(_));
            if taken {
                *phase = next;
            }
            taken
        })
    }

    /// Its end, once it came.
    pub async fn ended(&self) -> Exit {
        let mut phase = self.phase.subscribe();
        loop {
            if let Phase::Stopped(exit) = *phase.borrow_and_update() {
                return exit;
            }
            // The sender is `self`, which outlives this borrow.
            let _ = phase.changed().await;
        }
    }

    /// Its end, if it came.
    pub fn exit(&self) -> Option<Exit> {
        match self.phase() {
            Phase::Stopped(exit) => Some(exit),
            _ => None,
        }
    }
}

/// One container of a pod.
pub struct Container {
    /// containerd's id.
    pub id: String,
    /// Its bundle.
    pub bundle: String,
    /// Part it plays in the pod.
    pub role: Role,
    /// Its first process.
    pub init: Arc<Process>,
    /// Processes that the guest's kernel ended for want of memory, as far as containerd has heard of it.
    pub oom_told: AtomicU64,
    execs: Mutex<HashMap<String, Arc<Process>>>,
}

impl Container {
    /// A container with its init and no other process.
    pub fn new(id: &str, bundle: &str, role: Role, init: Arc<Process>) -> Self {
        Self { id: id.into(), bundle: bundle.into(), role, init, oom_told: AtomicU64::new(0), execs: Mutex::default() }
    }

    /// The process of that name; an empty name is the init.
    pub fn process(&self, exec_id: &str) -> Option<Arc<Process>> {
        if exec_id.is_empty() { Some(self.init.clone()) } else { self.lock().get(exec_id).cloned() }
    }

    /// All added processes.
    pub fn execs(&self) -> Vec<Arc<Process>> {
        self.lock().values().cloned().collect()
    }

    /// Adds a process. Returns false, changing nothing, if the name is taken.
    pub fn add_exec(&self, process: Arc<Process>) -> bool {
        let mut execs = self.lock();
        if execs.contains_key(&process.exec_id) {
            return false;
        }
        execs.insert(process.exec_id.clone(), process);
        true
    }

    /// Forgets an added process.
    pub fn remove_exec(&self, exec_id: &str) {
        self.lock().remove(exec_id);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Process>>> {
        // Whole operations on a map: a panic elsewhere leaves it usable.
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_ended_process_stays_ended() {
        let process = Process::new("c", "", StdioPaths::default(), None, None);
        assert!(process.enter(Phase::Running));
        let exit = Exit { status: 7, at: SystemTime::now() };
        assert!(process.enter(Phase::Stopped(exit)));
        assert!(!process.enter(Phase::Running));
        assert!(!process.enter(Phase::Stopped(Exit { status: 0, at: exit.at })));
        assert_eq!(process.ended().await, exit);
    }

    #[tokio::test]
    async fn every_waiter_hears_of_the_end() {
        let process = Arc::new(Process::new("c", "", StdioPaths::default(), None, None));
        let waiters: Vec<_> = (0..3)
            .map(|_| {
                let process = process.clone();
                tokio::spawn(async move { process.ended().await.status })
            })
            .collect();
        tokio::task::yield_now().await;
        process.enter(Phase::Stopped(Exit { status: 9, at: SystemTime::now() }));
        for waiter in waiters {
            assert_eq!(waiter.await.unwrap(), 9);
        }
    }
}
