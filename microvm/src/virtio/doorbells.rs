//! Which notification addresses are events of the backend now: those of the queues that a device serves on its own threads, while it is
//! active and its BAR is decoded.

use std::os::fd::AsFd;
use std::sync::Arc;

use nix::sys::eventfd::EventFd;

use crate::pci::Doorbells;

/// The bound addresses of one function.
#[derive(Default)]
pub(super) struct BoundDoorbells {
    means: Option<Arc<dyn Doorbells>>,
    bound: Vec<(u64, Arc<EventFd>)>,
}

impl BoundDoorbells {
    /// Gives the means.
    pub(super) fn set_means(&mut self, means: Arc<dyn Doorbells>) {
        self.means = Some(means);
    }

    /// True where addresses can be bound at all.
    pub(super) fn possible(&self) -> bool {
        self.means.is_some()
    }

    /// Binds exactly `wanted`, as far as that goes; the rest goes on coming out of the guest.
    pub(super) fn set(&mut self, wanted: Vec<(u64, Arc<EventFd>)>) {
        let Some(means) = &self.means else { return };
        self.bound.retain(|(address, event)| {
            let stays = wanted.iter().any(|(other, kept)| other == address && Arc::ptr_eq(kept, event));
            if !stays {
                means.bind(*address, event.as_fd(), false);
            }
            stays
        });
        for (address, event) in wanted {
            if !self.bound.iter().any(|(other, _)| *other == address) && means.bind(address, event.as_fd(), true) {
                self.bound.push((address, event));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::BorrowedFd;
    use std::sync::Mutex;

    use super::super::worker::eventfd;
    use super::*;

    /// Remembers; refuses one address.
    #[derive(Default)]
    struct Means(Mutex<Vec<(u64, bool)>>);

    const TAKEN: u64 = 0x3008;

    impl Doorbells for Means {
        fn bind(&self, address: u64, _: BorrowedFd<'_>, bound: bool) -> bool {
            self.0.lock().unwrap().push((address, bound));
            address != TAKEN
        }
    }

    #[test]
    fn only_what_differs_is_bound_and_unbound() {
        let means = Arc::new(Means::default());
        let mut doorbells = BoundDoorbells::default();
        let events = [Arc::new(eventfd().unwrap()), Arc::new(eventfd().unwrap())];
        let wanted = |addresses: [u64; 2]| addresses.into_iter().zip(events.iter().map(Arc::clone)).collect::<Vec<_>>();
        doorbells.set(wanted([0x3000, 0x3004]));
        assert!(!doorbells.possible() && means.0.lock().unwrap().is_empty());
        doorbells.set_means(means.clone());
        let did = || std::mem::take(&mut *means.0.lock().unwrap());
        doorbells.set(wanted([0x3000, 0x3004]));
        assert_eq!(did(), [(0x3000, true), (0x3004, true)]);
        doorbells.set(wanted([0x3000, 0x3004]));
        assert_eq!(did(), []);
        doorbells.set(wanted([0x3000, TAKEN]));
        assert_eq!(did(), [(0x3004, false), (TAKEN, true)]);
        doorbells.set(Vec::new());
        assert_eq!(did(), [(0x3000, false)], "what was refused is not unbound");
    }
}
