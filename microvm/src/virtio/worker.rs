//! Device threads: they sleep in poll(2) on a queue's eventfd and end when told to.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::queue::{Chain, ChainFault, DeviceQueue, Ram};
use super::{DirectService, VirtioError, lock};

/// A non-blocking, close-on-exec eventfd.
pub(super) fn eventfd() -> io::Result<EventFd> {
    Ok(EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?)
}

/// How a thread learns that it is to end.
#[derive(Clone)]
pub(super) struct Stop {
    inner: Arc<StopInner>,
}

struct StopInner {
    requested: AtomicBool,
    event: EventFd,
}

impl Stop {
    /// True once the thread is to end.
    pub(super) fn requested(&self) -> bool {
        self.inner.requested.load(Ordering::Acquire)
    }

    /// Becomes readable when the thread is to end, and stays so.
    pub(super) fn event(&self) -> &EventFd {
        &self.inner.event
    }

    /// Sleeps until `kick` was written (and takes what it holds) or the end is requested, then for which: true at the end.
    pub(super) fn wait(&self, kick: &EventFd) -> bool {
        loop {
            let mut fds =
                [PollFd::new(kick.as_fd(), PollFlags::POLLIN), PollFd::new(self.inner.event.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::NONE) {
                Err(Errno::EINTR) => {}
                // Nothing else can happen to two valid eventfds; a thread that cannot sleep must not spin either.
                Err(_) => return true,
                Ok(_) if self.requested() => return true,
                Ok(_) => {
                    // EAGAIN: another waiter took it, or poll woke for the stop event only.
                    let _ = kick.read();
                    return false;
                }
            }
        }
    }

    /// Sleeps for `duration`; true if the end was requested meanwhile.
    pub(super) fn sleep(&self, duration: Duration) -> bool {
        let timeout = PollTimeout::try_from(duration).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.inner.event.as_fd(), PollFlags::POLLIN)];
        // An early wake-up by a signal only shortens the sleep.
        let _ = poll(&mut fds, timeout);
        self.requested()
    }
}

/// The threads of one activation of a device. Dropping it ends and joins them.
#[derive(Default)]
pub(super) struct Workers {
    running: Vec<(Stop, JoinHandle<()>)>,
}

impl Workers {
    /// Starts a thread. Its body has to return soon after [`Stop::requested`].
    pub(super) fn spawn(&mut self, name: &str, body: impl FnOnce(Stop) + Send + 'static) -> Result<(), VirtioError> {
        let failed = |source| VirtioError::Thread { thread: name.to_owned(), source };
        let event = eventfd().map_err(failed)?;
        let stop = Stop { inner: Arc::new(StopInner { requested: AtomicBool::new(false), event }) };
        let for_thread = stop.clone();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || body(for_thread)).map_err(failed)?;
        self.running.push((stop, thread));
        Ok(())
    }

    /// Ends and joins every thread.
    pub(super) fn stop(&mut self) {
        for (stop, _) in &self.running {
            stop.inner.requested.store(true, Ordering::Release);
            // Its counter cannot overflow from one write.
            let _ = stop.inner.event.write(1);
        }
        for (_, thread) in self.running.drain(..) {
            if thread.join().is_err() {
                log::error!("a device thread panicked");
            }
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Serves a queue of requests one after the other until the end: `handle` returns how many bytes it wrote into the chain.
pub(super) fn serve(
    queue: &mut DeviceQueue,
    stop: &Stop,
    mut handle: impl for<'a> FnMut(&'a Ram, Chain<'a>) -> Result<u32, ChainFault>,
) {
    let ram = queue.ram().clone();
    loop {
        queue.disable_notifications();
        while let Some(chain) = queue.pop(ram.memory()) {
            if stop.requested() {
                return;
            }
            let head = chain.head_index();
            match handle(ram.memory(), chain) {
                Ok(written) => {
                    queue.complete(head, written);
                    queue.signal();
                }
                Err(fault) => queue.fail(fault),
            }
        }
        if queue.rearm() {
            continue;
        }
        if stop.wait(queue.kick()) {
            return;
        }
    }
}

/// What became of a request.
pub(super) enum Served {
    /// Its answer is in the chain, this many bytes long.
    Now(u32),
    /// It may take long: the queue's own thread is to serve it. Nothing was done yet.
    Later,
}

/// Something that serves the requests of a queue one by one.
pub(super) trait Service: Send + Sync + 'static {
    /// Serves a request. With `direct` the calling thread is a vCPU's, and [`Served::Later`] is the answer to whatever may wait.
    ///
    /// # Errors
    /// The chain cannot be served, now or ever.
    fn serve<'a>(&self, memory: &'a Ram, chain: Chain<'a>, direct: bool) -> Result<Served, ChainFault>;

    /// Readies the calling thread, once per thread; false if it cannot serve.
    fn enter(&self) -> bool;

    /// Called after a vCPU has served requests. True if the driver is not waiting for their completion: the service then sees to it
    /// that [`DirectQueue::signal`] is called soon.
    fn signals_later(&self) -> bool {
        false
    }
}

/// Most requests a vCPU serves per notification before it goes back to the guest.
const DIRECT_BATCH: usize = 16;

/// A queue that is served by its own thread, and, where a request is short work, by the vCPU that notifies it: a guest that
/// waits for the answer then gets it without two thread switches.
pub(super) struct DirectQueue<S> {
    /// `None` after the device was reset.
    queue: Mutex<Option<DeviceQueue>>,
    kick: Arc<EventFd>,
    service: S,
}

impl<S: Service> DirectQueue<S> {
    /// A queue whose own thread is the caller's: it calls [`Self::serve_all`] when [`Self::kick`] is readable.
    pub(super) fn new(queue: DeviceQueue, service: S) -> Arc<Self> {
        let kick = queue.shared_kick();
        Arc::new(Self { queue: Mutex::new(Some(queue)), kick, service })
    }

    /// Starts the queue's own thread.
    pub(super) fn start(workers: &mut Workers, name: &str, queue: DeviceQueue, service: S) -> Result<Arc<Self>, VirtioError> {
        let direct = Self::new(queue, service);
        let for_thread = Arc::clone(&direct);
        workers.spawn(name, move |stop| {
            if !for_thread.service.enter() {
                if let Some(queue) = lock(&for_thread.queue).as_mut() {
                    queue.fail("its thread cannot be set up");
                }
                return;
            }
            while !stop.wait(&for_thread.kick) {
                for_thread.serve_left(&stop);
            }
        })?;
        Ok(direct)
    }

    /// Readable when there is work for the queue's own thread.
    pub(super) fn kick(&self) -> Arc<EventFd> {
        Arc::clone(&self.kick)
    }

    /// Takes what [`Self::kick`] holds and serves what is left.
    pub(super) fn serve_all(&self, stop: &Stop) {
        // EAGAIN: somebody looked before.
        let _ = self.kick.read();
        self.serve_left(stop);
    }

    /// Interrupts the driver if it wants to know about what was completed.
    pub(super) fn signal(&self) {
        if let Some(queue) = lock(&self.queue).as_mut() {
            queue.signal();
        }
    }

    /// What serves the requests.
    pub(super) fn service(&self) -> &S {
        &self.service
    }

    fn serve_left(&self, stop: &Stop) {
        if let Some(queue) = lock(&self.queue).as_mut() {
            self.drain(queue, usize::MAX, false, &|| stop.requested());
        }
    }

    /// Takes the queue away: whoever is serving a request finishes it first.
    pub(super) fn close(&self) {
        lock(&self.queue).take();
    }

    /// Serves up to `batch` requests; true when none is left.
    fn drain(&self, queue: &mut DeviceQueue, batch: usize, direct: bool, stop: &dyn Fn() -> bool) -> bool {
        let ram = queue.ram().clone();
        let mut served = 0;
        queue.disable_notifications();
        loop {
            while let Some(chain) = queue.pop(ram.memory()) {
                let head = chain.head_index();
                if stop() || served == batch {
                    queue.unpop();
                    return false;
                }
                served += 1;
                match self.service.serve(ram.memory(), chain, direct) {
                    Ok(Served::Now(written)) => {
                        queue.complete(head, written);
                        if !direct || !self.service.signals_later() {
                            queue.signal();
                        }
                    }
                    Ok(Served::Later) => {
                        queue.unpop();
                        return false;
                    }
                    Err(fault) => queue.fail(fault),
                }
            }
            if !queue.rearm() {
                return true;
            }
        }
    }
}

impl<S: Service> DirectService for DirectQueue<S> {
    fn notified(&self) -> bool {
        // Its own thread is at it: that one looks again, because the caller writes the eventfd.
        let Ok(mut queue) = self.queue.try_lock() else { return false };
        let Some(queue) = queue.as_mut() else { return false };
        self.service.enter() && self.drain(queue, DIRECT_BATCH, true, &|| false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn a_kick_wakes_and_stop_ends() {
        let kick = Arc::new(eventfd().unwrap());
        let woken = Arc::new(AtomicU32::new(0));
        let mut workers = Workers::default();
        let (thread_kick, thread_woken) = (Arc::clone(&kick), Arc::clone(&woken));
        workers
            .spawn("test", move |stop| {
                while !stop.wait(&thread_kick) {
                    thread_woken.fetch_add(1, Ordering::SeqCst);
                }
            })
            .unwrap();
        kick.write(1).unwrap();
        while woken.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        workers.stop();
        assert_eq!(woken.load(Ordering::SeqCst), 1, "one kick is one wake-up");
        workers.stop();
    }
}
