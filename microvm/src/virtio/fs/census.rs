//! How many files the guest remembers: each is a descriptor of this process, and a process may have only so many.
//!
//! Long before there are too many, a [`Bell`] rings for whoever can have the guest forget (the shim asks the agent). A request that finds no
//! room waits for that, on its queue's own thread. A guest that does not forget is told that there are too many open files, and
//! harms nobody else: what is kept back for the rest of this process stays free.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// More than this would only pin the host's memory, a kilobyte or so each.
const FILES_MAX: u64 = 1 << 18;

/// What one request can add at most: a page of directory entries with the inode of each.
const REQUEST_MOST: u64 = 1024;

/// Longest wait of a request for room.
const PATIENCE: Duration = Duration::from_secs(10);

/// After the guest was told to forget, its word of what it forgot is here within this time.
const GRACE: Duration = Duration::from_secs(1);

/// Rings when the guest should forget files.
#[derive(Debug, Default)]
pub struct Bell {
    /// How often it has rung.
    rung: watch::Sender<u64>,
    /// The last ring that was answered; `None` where nobody listens.
    answered: Mutex<Option<u64>>,
}

impl Bell {
    /// Returns the number of a ring after `answered`, once there is one. The guest has been told to forget for all up to `answered`.
    pub async fn wait(&self, answered: u64) -> u64 {
        let mut rung = self.rung.subscribe();
        *lock(&self.answered) = Some(answered.min(*rung.borrow()));
        // The sender lives as long as this.
        rung.wait_for(|rung| *rung > answered).await.map_or(answered, |rung| *rung)
    }

    /// Rings, unless a ring is unanswered. The number of the last ring; `None` if nobody listens.
    fn ring(&self) -> Option<u64> {
        let answered = (*lock(&self.answered))?;
        self.rung.send_if_modified(|rung| {
            let again = *rung <= answered;
            *rung += u64::from(again);
            again
        });
        Some(*self.rung.borrow())
    }

    fn is_answered(&self, ring: u64) -> bool {
        lock(&self.answered).is_some_and(|answered| answered >= ring)
    }
}

/// The count, and what follows from it.
pub(super) struct Census {
    limit: u64,
    bell: Arc<Bell>,
    state: Mutex<State>,
    /// Something was forgotten, or the device is at its end.
    fewer: Condvar,
}

#[derive(Default)]
struct State {
    /// Lookups that the guest has not forgotten yet, by inode.
    inodes: HashMap<u64, u64>,
    /// Files and directories that the guest has open.
    handles: u64,
    /// The bell rings at this many.
    next_ring: u64,
    /// The guest was told to forget and did not: nobody waits until there is room again.
    stubborn: bool,
    /// Nobody waits any more.
    closed: bool,
}

impl State {
    fn files(&self) -> u64 {
        self.inodes.len() as u64 + self.handles
    }
}

impl Census {
    /// For a guest that may have `descriptors` of this process.
    pub(super) fn new(descriptors: u64, bell: Arc<Bell>) -> Self {
        let limit = descriptors.min(FILES_MAX);
        let state = State { next_ring: limit / 4 * 3, ..State::default() };
        Self { limit, bell, state: Mutex::new(state), fewer: Condvar::new() }
    }

    /// Most files that the guest may remember and have open.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// The guest was told of an inode.
    pub(super) fn learned(&self, inode: u64) {
        let mut state = lock(&self.state);
        // Beyond the limit the file system itself refuses.
        if inode != 0 && (state.files() < self.limit || state.inodes.contains_key(&inode)) {
            *state.inodes.entry(inode).or_default() += 1;
            self.ring_if_many(&mut state);
        }
    }

    /// The guest forgot as many lookups of an inode. As the file system counts: never below none.
    pub(super) fn forgot(&self, inode: u64, count: u64) {
        let mut state = lock(&self.state);
        let Some(lookups) = state.inodes.get_mut(&inode) else { return };
        *lookups = lookups.saturating_sub(count);
        if *lookups == 0 {
            state.inodes.remove(&inode);
            self.fewer(&mut state);
        }
    }

    /// The guest has one more file open.
    pub(super) fn opened(&self) {
        let mut state = lock(&self.state);
        state.handles += 1;
        self.ring_if_many(&mut state);
    }

    /// It has closed one.
    pub(super) fn closed(&self) {
        let mut state = lock(&self.state);
        state.handles = state.handles.saturating_sub(1);
        self.fewer(&mut state);
    }

    /// The guest knows nothing any more, and may begin again.
    pub(super) fn clear(&self) {
        let mut state = lock(&self.state);
        *state = State::default();
        self.fewer(&mut state);
    }

    /// Lets go of all who wait, now and until the next [`Self::clear`].
    pub(super) fn close(&self) {
        lock(&self.state).closed = true;
        self.fewer.notify_all();
    }

    /// Whether a request may be served at once.
    pub(super) fn has_room(&self) -> bool {
        let state = lock(&self.state);
        state.stubborn || state.closed || self.fits(&state)
    }

    /// Waits until there is room for a request, or none is to be expected.
    pub(super) fn wait_for_room(&self) {
        let mut state = lock(&self.state);
        if state.stubborn || state.closed || self.fits(&state) {
            return;
        }
        let Some(mut ring) = self.bell.ring() else {
            state.stubborn = true;
            return;
        };
        let mut deadline = Instant::now() + PATIENCE;
        let (mut told, mut again) = (false, true);
        while !state.closed && !self.fits(&state) {
            let now = Instant::now();
            if now >= deadline {
                log::warn!(
                    "the guest has {} files in use or in mind, and may have {}: it gets no more",
                    state.files(),
                    self.limit
                );
                state.stubborn = true;
                return;
            }
            if again && self.bell.is_answered(ring) {
                // That ring may be older than this wait: the guest forgot, and remembered as much again before it was known.
                again = false;
                ring = self.bell.ring().unwrap_or(ring);
            } else if !told && self.bell.is_answered(ring) {
                told = true;
                deadline = deadline.min(now + GRACE);
            }
            let step = deadline.saturating_duration_since(now).min(GRACE / 10);
            state = self.fewer.wait_timeout(state, step).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn fits(&self, state: &State) -> bool {
        state.files() + REQUEST_MOST.min(self.limit / 8) <= self.limit
    }

    fn ring_if_many(&self, state: &mut State) {
        if state.files() >= state.next_ring {
            self.bell.ring();
            // What is in use cannot be forgotten: the next ring is for what came since.
            state.next_ring = state.files() + self.limit / 16;
        }
    }

    fn fewer(&self, state: &mut State) {
        if state.files() < self.limit / 4 * 3 {
            state.next_ring = self.limit / 4 * 3;
        }
        if self.fits(state) {
            state.stubborn = false;
            self.fewer.notify_all();
        }
    }
}

/// Counts are whole at any time: a panic elsewhere leaves them usable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learn(census: &Census, inodes: std::ops::Range<u64>) {
        inodes.for_each(|inode| census.learned(inode));
    }

    #[tokio::test]
    async fn the_bell_rings_before_there_is_no_room_and_again_for_what_came_since() {
        let bell = Arc::new(Bell::default());
        let census = Census::new(1600, Arc::clone(&bell));
        let listener = tokio::spawn({
            let bell = Arc::clone(&bell);
            async move { bell.wait(0).await }
        });
        while lock(&bell.answered).is_none() {
            tokio::task::yield_now().await;
        }
        learn(&census, 2..1201);
        assert_eq!(*bell.rung.borrow(), 0);
        learn(&census, 1201..1300);
        assert_eq!(listener.await.unwrap(), 1);
        // Unanswered: one ring is enough, whatever comes.
        learn(&census, 1300..1400);
        assert_eq!(*bell.rung.borrow(), 1);
        assert!(tokio::time::timeout(Duration::from_millis(1), bell.wait(1)).await.is_err());
        learn(&census, 1400..1502);
        assert_eq!(bell.wait(1).await, 2);
    }

    #[test]
    fn who_finds_no_room_waits_for_it() {
        let bell = Arc::new(Bell::default());
        let census = Census::new(800, Arc::clone(&bell));
        *lock(&bell.answered) = Some(0);
        learn(&census, 2..800);
        assert!(!census.has_room());
        std::thread::scope(|scope| {
            scope.spawn(|| census.wait_for_room());
            while *bell.rung.borrow() == 0 {
                std::thread::yield_now();
            }
            (2..300).for_each(|inode| census.forgot(inode, 1));
        });
        assert!(census.has_room() && !lock(&census.state).stubborn);
    }

    #[test]
    fn a_guest_that_was_told_before_it_remembered_this_much_is_told_again() {
        let bell = Arc::new(Bell::default());
        let census = Census::new(800, Arc::clone(&bell));
        *lock(&bell.answered) = Some(0);
        learn(&census, 2..800);
        assert_eq!(*bell.rung.borrow(), 1);
        std::thread::scope(|scope| {
            scope.spawn(|| census.wait_for_room());
            // For the first ring it forgot what it had then.
            *lock(&bell.answered) = Some(1);
            while *bell.rung.borrow() < 2 {
                std::thread::yield_now();
            }
            (2..300).for_each(|inode| census.forgot(inode, 1));
        });
        assert!(census.has_room() && !lock(&census.state).stubborn);
    }

    #[test]
    fn a_guest_that_does_not_forget_is_not_waited_for_twice() {
        let bell = Arc::new(Bell::default());
        let census = Census::new(800, Arc::clone(&bell));
        learn(&census, 2..800);
        // Nobody listens.
        census.wait_for_room();
        assert!(census.has_room() && lock(&census.state).stubborn);
        census.clear();
        assert!(!lock(&census.state).stubborn);
        learn(&census, 2..800);
        // Somebody has told it already.
        *lock(&bell.answered) = Some(u64::MAX);
        census.wait_for_room();
        assert!(lock(&census.state).stubborn);
    }

    #[test]
    fn counts_are_as_the_file_system_s() {
        let census = Census::new(800, Arc::default());
        census.learned(7);
        census.learned(7);
        census.opened();
        assert_eq!(lock(&census.state).files(), 2);
        census.forgot(7, 1);
        census.forgot(8, 1);
        census.closed();
        census.closed();
        assert_eq!(lock(&census.state).files(), 1);
        census.forgot(7, u64::MAX);
        assert_eq!(lock(&census.state).files(), 0);
        learn(&census, 2..5000);
        assert_eq!(lock(&census.state).files(), 800);
    }
}
