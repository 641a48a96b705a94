//! Interrupt sources as RTAS, bridge and terminal see them, whoever presents their interrupts: the machine's own [`Xics`] or the backend's
//! controller.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::eventfd::{EfdFlags, EventFd};
use paperboat_hypervisor::{BackendError, InterruptController, SourceState};

use super::rtas;
use super::xics::{self, LEAST_FAVOURED, NoSuch, Xics};
use crate::pci::InterruptLine;

/// RTAS calls that the backend's controller serves. ibm,set-xive is not among them: KVM's for XIVE hosts takes the number of any source in a
/// block of 1024, made or not, so the machine looks first.
const SERVED_INSIDE: [&str; 3] = ["ibm,get-xive", "ibm,int-off", "ibm,int-on"];

/// The sources of a machine.
pub trait Sources: Send + Sync {
    /// The line of `source` for a device.
    fn line(&self, source: u32) -> Arc<dyn InterruptLine>;

    /// Forgets what a message source has pending and masks it: it was released by its device.
    fn reset(&self, source: u32);

    /// ibm,set-xive: server and priority.
    ///
    /// # Errors
    /// [`NoSuch`] source or server.
    fn set_xive(&self, source: u32, server: u32, priority: u8) -> Result<(), NoSuch>;

    /// ibm,get-xive.
    ///
    /// # Errors
    /// [`NoSuch`] source.
    fn xive(&self, source: u32) -> Result<(u32, u8), NoSuch>;

    /// ibm,int-off (`enabled` false) and ibm,int-on.
    ///
    /// # Errors
    /// [`NoSuch`] source.
    fn set_enabled(&self, source: u32, enabled: bool) -> Result<(), NoSuch>;
}

impl Sources for Arc<Xics> {
    fn line(&self, source: u32) -> Arc<dyn InterruptLine> {
        Xics::line(self, source)
    }

    fn reset(&self, source: u32) {
        self.reset_source(source);
    }

    fn set_xive(&self, source: u32, server: u32, priority: u8) -> Result<(), NoSuch> {
        Xics::set_xive(self, source, server, priority)
    }

    fn xive(&self, source: u32) -> Result<(u32, u8), NoSuch> {
        Xics::xive(self, source)
    }

    fn set_enabled(&self, source: u32, enabled: bool) -> Result<(), NoSuch> {
        Xics::set_enabled(self, source, enabled)
    }
}

/// Sources of the backend's controller. A source is made when its line is asked for: hosts have a limited number of them.
pub struct BackendSources {
    shared: Arc<Shared>,
    servers: u32,
}

struct Shared {
    controller: Arc<dyn InterruptController>,
    sources: Mutex<BTreeMap<u32, Source>>,
}

struct Source {
    state: SourceState,
    /// The level of the wire.
    asserted: bool,
    /// It may have something in flight, which a change of its state forgets.
    used: bool,
    /// Message sources: what a write to makes an edge.
    event: Option<Arc<EventFd>>,
}

impl BackendSources {
    /// Sources for `servers` vCPUs, none made yet.
    ///
    /// # Errors
    /// The controller does not serve the RTAS calls of sources.
    pub fn new(controller: Arc<dyn InterruptController>, servers: u32) -> Result<Self, BackendError> {
        for call in rtas::CALLS.iter().filter(|call| SERVED_INSIDE.contains(&call.name)) {
            controller.serve_rtas(call.name, call.token)?;
        }
        Ok(Self { shared: Arc::new(Shared { controller, sources: Mutex::default() }), servers })
    }

    /// What the machine knows of sources is what it set last: the calls that change it elsewhere do not come here.
    fn known(&self, source: u32) -> Result<SourceState, NoSuch> {
        self.shared.lock().get(&source).map(|source| source.state).ok_or(NoSuch)
    }

    fn change(&self, number: u32, server: u32, priority: u8) -> Result<(), NoSuch> {
        let mut sources = self.shared.lock();
        let source = sources.get_mut(&number).ok_or(NoSuch)?;
        let masked = priority == LEAST_FAVOURED;
        source.state = SourceState { server, priority, masked, ..source.state };
        if !self.shared.apply(number, source.state) {
            return Err(NoSuch);
        }
        // What was pending is forgotten by the change: messages come once too often rather than never.
        if source.asserted || (source.used && !source.state.level) {
            self.shared.set_line(number, true);
        }
        source.used |= !masked;
        Ok(())
    }
}

impl Sources for BackendSources {
    fn line(&self, number: u32) -> Arc<dyn InterruptLine> {
        let shared = &self.shared;
        let mut sources = shared.lock();
        let level = xics::is_wired(number);
        let source = sources.entry(number).or_insert_with(|| {
            let state = SourceState { server: 0, priority: LEAST_FAVOURED, level, masked: true };
            shared.apply(number, state);
            Source { state, asserted: false, used: false, event: None }
        });
        if !level && source.event.is_none() {
            source.event = shared.event(number);
        }
        match source.event.clone() {
            Some(event) => Arc::new(EventLine(event)),
            None => Arc::new(BackendLine { shared: Arc::clone(shared), number }),
        }
    }

    fn reset(&self, number: u32) {
        let mut sources = self.shared.lock();
        let Some(source) = sources.get_mut(&number) else { return };
        if let Some(event) = source.event.take()
            && let Err(error) = self.shared.controller.bind_event(number, event.as_fd(), false)
        {
            log::error!("interrupt source {number:#x}: {error}");
        }
        source.state = SourceState { server: 0, priority: LEAST_FAVOURED, masked: true, ..source.state };
        source.used = false;
        self.shared.apply(number, source.state);
    }

    fn set_xive(&self, source: u32, server: u32, priority: u8) -> Result<(), NoSuch> {
        if server >= self.servers { Err(NoSuch) } else { self.change(source, server, priority) }
    }

    fn xive(&self, source: u32) -> Result<(u32, u8), NoSuch> {
        self.known(source).map(|state| (state.server, if state.masked { LEAST_FAVOURED } else { state.priority }))
    }

    fn set_enabled(&self, source: u32, _: bool) -> Result<(), NoSuch> {
        self.known(source).map(|_| ())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Source>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply(&self, number: u32, state: SourceState) -> bool {
        let done = self.controller.set_source(number, state);
        if let Err(error) = &done {
            log::error!("interrupt source {number:#x}: {error}");
        }
        done.is_ok()
    }

    fn set_line(&self, number: u32, asserted: bool) {
        if let Err(error) = self.controller.set_line(number, asserted) {
            log::error!("interrupt source {number:#x}: {error}");
        }
    }

    /// An eventfd whose writes are edges. `None`: out of descriptors; the line then works by calls.
    fn event(&self, number: u32) -> Option<Arc<EventFd>> {
        let made =
            EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).map_err(|errno| errno.to_string());
        let bound = made.and_then(|event| {
            let bound = self.controller.bind_event(number, event.as_fd(), true);
            bound.map(|()| Arc::new(event)).map_err(|error| error.to_string())
        });
        bound.inspect_err(|error| log::warn!("interrupt source {number:#x} has no event: {error}")).ok()
    }
}

/// A message source: an edge is a write.
struct EventLine(Arc<EventFd>);

impl InterruptLine for EventLine {
    fn trigger(&self) {
        // EAGAIN: more edges wait there already than anybody can count.
        let _ = self.0.write(1);
    }

    fn set_level(&self, asserted: bool) {
        if asserted {
            self.trigger();
        }
    }
}

/// A source by calls.
struct BackendLine {
    shared: Arc<Shared>,
    number: u32,
}

impl InterruptLine for BackendLine {
    fn trigger(&self) {
        self.shared.set_line(self.number, true);
    }

    fn set_level(&self, asserted: bool) {
        let mut sources = self.shared.lock();
        let Some(source) = sources.get_mut(&self.number) else { return };
        if source.asserted != asserted {
            source.asserted = asserted;
            self.shared.set_line(self.number, asserted);
        }
    }
}

#[cfg(test)]
#[path = "sources_tests.rs"]
mod tests;
