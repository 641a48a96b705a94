//! XICS: the interrupt presentation and source layers (LoPAR, Interrupt Support), for backends without one
//! of their own.
//!
//! Each server (one per vCPU) presents at most one interrupt, the most favoured one that its CPPR lets through; lower
//! numbers are more favoured. A source whose interrupt is displaced or not let through is *rejected*: it remembers that,
//! and is presented again when the server's CPPR loosens. One lock covers both layers: every operation is short, and
//! rejections cross the layers in both directions.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use paperboat_hypervisor::VcpuHandle;

use crate::pci::InterruptLine;

/// The source number of inter-processor interrupts.
pub const IPI_SOURCE: u32 = 2;
/// The terminal's source.
pub const VTY_SOURCE: u32 = 0x1000;
/// First of the 32 wired PCI interrupts, one per device.
const INTX_BASE: u32 = 0x1100;
const INTX_SOURCES: u32 = 32;
/// First message-signalled source.
pub const MSI_BASE: u32 = 0x1200;
/// Number of message-signalled sources: every device with vectors for 64 CPUs.
pub const MSI_SOURCES: u32 = 0x400;

/// Least favoured priority: lets nothing through as an interrupt's, everything as a CPPR.
pub(super) const LEAST_FAVOURED: u8 = 0xff;

/// The wired interrupt of PCI device `device` (0 to 31).
pub const fn intx_source(device: u8) -> u32 {
    INTX_BASE + device as u32
}

/// True for the wired sources, false for messages.
pub(super) const fn is_wired(source: u32) -> bool {
    source.wrapping_sub(INTX_BASE) < INTX_SOURCES
}

/// A source or server number that does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no such interrupt source or server")]
pub struct NoSuch;

/// State of one source.
#[derive(Debug, Clone, Copy)]
struct Source {
    server: u32,
    priority: u8,
    /// What ibm,int-on restores.
    saved_priority: u8,
    level: bool,
    /// Level sources: the wire. Message sources: an edge came while masked.
    asserted: bool,
    /// Presented or accepted, and not yet ended: a level source is not presented twice.
    in_flight: bool,
}

impl Source {
    fn new(level: bool) -> Self {
        Self { server: 0, priority: LEAST_FAVOURED, saved_priority: LEAST_FAVOURED, level, asserted: false, in_flight: false }
    }

    fn masked(&self) -> bool {
        self.priority == LEAST_FAVOURED
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Presented {
    source: u32,
    priority: u8,
}

#[derive(Debug)]
struct Server {
    cppr: u8,
    mfrr: u8,
    presented: Option<Presented>,
}

struct Inner {
    servers: Vec<Server>,
    sources: Vec<(u32, Source)>,
    /// Sources waiting for their server's CPPR to loosen.
    rejected: BTreeSet<u32>,
}

/// Both layers. Shared by vCPU threads (hypercalls) and devices (lines).
pub struct Xics {
    inner: Mutex<Inner>,
    handles: Vec<OnceLock<Arc<dyn VcpuHandle>>>,
}

impl Xics {
    /// Servers 0 to `servers` − 1, with all sources masked.
    pub fn new(servers: u32) -> Arc<Self> {
        let server = || Server { cppr: 0, mfrr: LEAST_FAVOURED, presented: None };
        let mut sources = vec![(VTY_SOURCE, Source::new(false))];
        sources.extend((0..INTX_SOURCES).map(|index| (INTX_BASE + index, Source::new(true))));
        sources.extend((0..MSI_SOURCES).map(|index| (MSI_BASE + index, Source::new(false))));
        Arc::new(Self {
            inner: Mutex::new(Inner { servers: (0..servers).map(|_| server()).collect(), sources, rejected: BTreeSet::new() }),
            handles: (0..servers).map(|_| OnceLock::new()).collect(),
        })
    }

    /// Connects the output of `server` to its vCPU. The first connection stays.
    pub fn connect(&self, server: u32, handle: Arc<dyn VcpuHandle>) {
        if let Some(slot) = self.handles.get(server as usize) {
            let _ = slot.set(handle);
        }
    }

    /// The line of `source` for a device.
    pub fn line(self: &Arc<Self>, source: u32) -> Arc<dyn InterruptLine> {
        Arc::new(SourceLine { xics: Arc::clone(self), source })
    }

    /// H_XIRR: accepts what is presented. CPPR in the top byte, source below; source 0 when there is nothing.
    pub fn accept(&self, server: u32) -> u32 {
        let mut inner = self.lock();
        let Some(state) = inner.server(server) else { return 0 };
        let cppr = u32::from(state.cppr) << 24;
        let Some(presented) = state.presented.take() else { return cppr };
        state.cppr = presented.priority;
        self.output(server, false);
        cppr | presented.source
    }

    /// H_CPPR: sets the priority at and below which nothing gets through.
    pub fn set_cppr(&self, server: u32, cppr: u8) {
        self.lock().set_cppr(self, server, cppr);
    }

    /// H_EOI: ends the interrupt named in `xirr` and restores the CPPR from it.
    ///
    /// # Errors
    /// [`NoSuch`] source; the CPPR is restored all the same.
    pub fn end(&self, server: u32, xirr: u32) -> Result<(), NoSuch> {
        let mut inner = self.lock();
        let number = xirr & 0xff_ffff;
        let known = number == IPI_SOURCE || inner.source(number).is_some();
        if let Some(source) = inner.source(number) {
            source.in_flight = false;
            if source.level && source.asserted && !source.masked() {
                inner.rejected.insert(number);
                // Presented by set_cppr below where its server is this one, otherwise here.
                let target = inner.source(number).map_or(server, |source| source.server);
                if target != server {
                    inner.resend(self, target);
                }
            }
        }
        inner.set_cppr(self, server, (xirr >> 24) as u8);
        known.then_some(()).ok_or(NoSuch)
    }

    /// H_IPI: sets the server's MFRR, the priority of its pending inter-processor interrupt (0xff: none).
    ///
    /// # Errors
    /// [`NoSuch`] server.
    pub fn set_mfrr(&self, server: u32, mfrr: u8) -> Result<(), NoSuch> {
        let mut inner = self.lock();
        inner.server(server).ok_or(NoSuch)?.mfrr = mfrr;
        inner.present_ipi(self, server);
        Ok(())
    }

    /// H_IPOLL: XIRR and MFRR of `server` without accepting.
    ///
    /// # Errors
    /// [`NoSuch`] server.
    pub fn poll(&self, server: u32) -> Result<(u32, u8), NoSuch> {
        let mut inner = self.lock();
        let state = inner.server(server).ok_or(NoSuch)?;
        let source = state.presented.map_or(0, |presented| presented.source);
        Ok((u32::from(state.cppr) << 24 | source, state.mfrr))
    }

    /// ibm,set-xive: server and priority of a source.
    ///
    /// # Errors
    /// [`NoSuch`] source or server.
    pub fn set_xive(&self, number: u32, server: u32, priority: u8) -> Result<(), NoSuch> {
        let mut inner = self.lock();
        inner.server(server).ok_or(NoSuch)?;
        let source = inner.source(number).ok_or(NoSuch)?;
        source.server = server;
        source.priority = priority;
        source.saved_priority = priority;
        inner.unmasked(self, number);
        Ok(())
    }

    /// ibm,get-xive: server and priority.
    ///
    /// # Errors
    /// [`NoSuch`] source.
    pub fn xive(&self, number: u32) -> Result<(u32, u8), NoSuch> {
        let mut inner = self.lock();
        let source = inner.source(number).ok_or(NoSuch)?;
        Ok((source.server, source.priority))
    }

    /// ibm,int-off (`enabled` false) and ibm,int-on.
    ///
    /// # Errors
    /// [`NoSuch`] source.
    pub fn set_enabled(&self, number: u32, enabled: bool) -> Result<(), NoSuch> {
        let mut inner = self.lock();
        let source = inner.source(number).ok_or(NoSuch)?;
        if enabled {
            source.priority = source.saved_priority;
            inner.unmasked(self, number);
        } else if !source.masked() {
            source.saved_priority = source.priority;
            source.priority = LEAST_FAVOURED;
        }
        Ok(())
    }

    /// Forgets what a message source has pending and masks it: it was released by its device.
    pub fn reset_source(&self, number: u32) {
        let mut inner = self.lock();
        inner.rejected.remove(&number);
        if let Some(source) = inner.source(number) {
            *source = Source::new(source.level);
        }
    }

    fn trigger(&self, number: u32) {
        let mut inner = self.lock();
        let Some(source) = inner.source(number) else { return };
        if source.masked() {
            source.asserted = true;
        } else {
            inner.present(self, number);
        }
    }

    fn set_level(&self, number: u32, asserted: bool) {
        let mut inner = self.lock();
        let Some(source) = inner.source(number) else { return };
        source.asserted = asserted;
        if asserted && !source.in_flight && !source.masked() {
            inner.present(self, number);
        } else if !asserted {
            inner.rejected.remove(&number);
        }
    }

    /// Drives the external interrupt input of a vCPU. Handles never call back.
    fn output(&self, server: u32, asserted: bool) {
        if let Some(handle) = self.handles.get(server as usize).and_then(OnceLock::get) {
            handle.set_external_interrupt(asserted);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn server(&mut self, server: u32) -> Option<&mut Server> {
        self.servers.get_mut(server as usize)
    }

    fn source(&mut self, number: u32) -> Option<&mut Source> {
        let index = self.sources.binary_search_by_key(&number, |entry| entry.0).ok()?;
        Some(&mut self.sources[index].1)
    }

    fn set_cppr(&mut self, xics: &Xics, server: u32, cppr: u8) {
        let Some(state) = self.server(server) else { return };
        state.cppr = cppr;
        if let Some(presented) = state.presented.filter(|presented| presented.priority >= cppr) {
            state.presented = None;
            xics.output(server, false);
            self.reject(presented.source);
        }
        self.present_ipi(xics, server);
        self.resend(xics, server);
    }

    /// A source may have something to deliver after its priority changed.
    fn unmasked(&mut self, xics: &Xics, number: u32) {
        let Some(source) = self.source(number) else { return };
        if source.masked() {
            return;
        }
        let pending = source.asserted && (!source.level || !source.in_flight);
        if !source.level {
            source.asserted = false;
        }
        if pending || self.rejected.contains(&number) {
            self.present(xics, number);
        }
    }

    /// Offers a source's interrupt to its server; it is rejected when something more favoured stands in the way.
    fn present(&mut self, xics: &Xics, number: u32) {
        let Some(source) = self.source(number) else { return };
        let (target, priority) = (source.server, source.priority);
        source.in_flight = true;
        let Some(state) = self.servers.get_mut(target as usize) else { return };
        let displaced = match state.presented {
            _ if priority >= state.cppr => return self.reject(number),
            Some(presented) if presented.priority <= priority => {
                if presented.source != number {
                    self.reject(number);
                }
                return;
            }
            displaced => displaced,
        };
        state.presented = Some(Presented { source: number, priority });
        self.rejected.remove(&number);
        xics.output(target, true);
        // A source that became more favoured while presented displaces only itself.
        if let Some(displaced) = displaced.filter(|displaced| displaced.source != number) {
            self.reject(displaced.source);
        }
    }

    /// Offers the inter-processor interrupt that MFRR asks for.
    fn present_ipi(&mut self, xics: &Xics, server: u32) {
        let Some(state) = self.server(server) else { return };
        let beaten = state.presented.is_some_and(|presented| presented.priority <= state.mfrr);
        if state.mfrr >= state.cppr || beaten {
            return;
        }
        let displaced = state.presented.replace(Presented { source: IPI_SOURCE, priority: state.mfrr });
        xics.output(server, true);
        if let Some(displaced) = displaced {
            self.reject(displaced.source);
        }
    }

    /// An IPI needs no memory of its rejection: MFRR is it.
    fn reject(&mut self, number: u32) {
        if let Some(source) = self.source(number) {
            source.in_flight = false;
            self.rejected.insert(number);
        }
    }

    fn resend(&mut self, xics: &Xics, server: u32) {
        if self.rejected.is_empty() {
            return;
        }
        let waiting: Vec<u32> = self.rejected.iter().copied().collect();
        for number in waiting {
            let ready = self.source(number).is_some_and(|source| source.server == server && !source.masked());
            if ready {
                self.rejected.remove(&number);
                self.present(xics, number);
            }
        }
    }
}

struct SourceLine {
    xics: Arc<Xics>,
    source: u32,
}

impl InterruptLine for SourceLine {
    fn trigger(&self) {
        self.xics.trigger(self.source);
    }

    fn set_level(&self, asserted: bool) {
        self.xics.set_level(self.source, asserted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Random, TestHandle};

    const MSI_A: u32 = MSI_BASE;
    const MSI_B: u32 = MSI_BASE + 1;

    fn xics(servers: u32) -> (Arc<Xics>, Vec<Arc<TestHandle>>) {
        let xics = Xics::new(servers);
        let handles: Vec<_> = (0..servers).map(|_| Arc::new(TestHandle::default())).collect();
        for (server, handle) in handles.iter().enumerate() {
            xics.connect(server as u32, handle.clone());
            xics.set_cppr(server as u32, 0xff);
        }
        (xics, handles)
    }

    #[test]
    fn a_message_is_presented_accepted_and_ended() {
        let (xics, handles) = xics(1);
        xics.set_xive(MSI_A, 0, 5).unwrap();
        xics.line(MSI_A).trigger();
        assert!(handles[0].external());
        let xirr = xics.accept(0);
        assert_eq!(xirr, 0xff00_0000 | MSI_A);
        assert!(!handles[0].external());
        assert_eq!(xics.accept(0), 0x0500_0000, "nothing more; CPPR is the accepted priority");
        xics.end(0, xirr).unwrap();
        assert_eq!(xics.accept(0), 0xff00_0000);
    }

    #[test]
    fn a_second_message_during_service_comes_after_the_end() {
        let (xics, handles) = xics(1);
        xics.set_xive(MSI_A, 0, 5).unwrap();
        xics.line(MSI_A).trigger();
        let xirr = xics.accept(0);
        xics.line(MSI_A).trigger();
        assert!(!handles[0].external());
        xics.end(0, xirr).unwrap();
        assert!(handles[0].external());
        assert_eq!(xics.accept(0) & 0xff_ffff, MSI_A);
    }

    #[test]
    fn the_more_favoured_goes_first_and_the_other_is_sent_again() {
        let (xics, _) = xics(1);
        xics.set_xive(MSI_A, 0, 5).unwrap();
        xics.set_xive(MSI_B, 0, 3).unwrap();
        xics.line(MSI_A).trigger();
        xics.line(MSI_B).trigger();
        let first = xics.accept(0);
        assert_eq!(first & 0xff_ffff, MSI_B);
        assert_eq!(xics.accept(0) & 0xff_ffff, 0, "A stays behind the CPPR of B");
        xics.end(0, first).unwrap();
        assert_eq!(xics.accept(0) & 0xff_ffff, MSI_A);
    }

    #[test]
    fn tightening_the_cppr_takes_back_what_was_presented() {
        let (xics, handles) = xics(1);
        xics.set_xive(MSI_A, 0, 5).unwrap();
        xics.line(MSI_A).trigger();
        xics.set_cppr(0, 5);
        assert!(!handles[0].external());
        xics.set_cppr(0, 6);
        assert!(handles[0].external());
    }

    #[test]
    fn masked_messages_wait_and_are_delivered_once() {
        let (xics, handles) = xics(1);
        xics.line(MSI_A).trigger();
        assert!(!handles[0].external());
        xics.set_xive(MSI_A, 0, 5).unwrap();
        assert!(handles[0].external());
        let xirr = xics.accept(0);
        xics.end(0, xirr).unwrap();
        assert!(!handles[0].external());
        xics.set_enabled(MSI_A, false).unwrap();
        assert_eq!(xics.xive(MSI_A), Ok((0, 0xff)));
        xics.line(MSI_A).trigger();
        assert!(!handles[0].external());
        xics.set_enabled(MSI_A, true).unwrap();
        assert_eq!(xics.xive(MSI_A), Ok((0, 5)));
        assert!(handles[0].external());
    }

    #[test]
    fn a_level_comes_again_until_it_is_lowered() {
        let (xics, handles) = xics(1);
        let source = intx_source(0);
        xics.set_xive(source, 0, 5).unwrap();
        let line = xics.line(source);
        line.set_level(true);
        let xirr = xics.accept(0);
        line.set_level(true);
        assert!(!handles[0].external(), "in service: not presented twice");
        xics.end(0, xirr).unwrap();
        assert!(handles[0].external(), "still asserted: again");
        let xirr = xics.accept(0);
        line.set_level(false);
        xics.end(0, xirr).unwrap();
        assert!(!handles[0].external());
    }

    #[test]
    fn a_level_moved_to_another_server_follows_at_its_end() {
        let (xics, handles) = xics(2);
        let source = intx_source(3);
        xics.set_xive(source, 0, 5).unwrap();
        xics.line(source).set_level(true);
        let xirr = xics.accept(0);
        xics.set_xive(source, 1, 5).unwrap();
        xics.end(0, xirr).unwrap();
        assert!(!handles[0].external());
        assert!(handles[1].external());
    }

    #[test]
    fn ipis_carry_their_priority_and_stay_until_mfrr_is_cleared() {
        let (xics, handles) = xics(2);
        xics.set_mfrr(1, 4).unwrap();
        assert!(handles[1].external());
        assert_eq!(xics.poll(1), Ok((0xff00_0002, 4)));
        let xirr = xics.accept(1);
        assert_eq!(xirr, 0xff00_0002);
        xics.set_mfrr(1, 0xff).unwrap();
        xics.end(1, xirr).unwrap();
        assert!(!handles[1].external());
        assert_eq!(xics.set_mfrr(2, 4), Err(NoSuch));
        assert_eq!(xics.poll(9), Err(NoSuch));
    }

    #[test]
    fn an_ipi_displaces_a_less_favoured_message_without_losing_it() {
        let (xics, _) = xics(1);
        xics.set_xive(MSI_A, 0, 5).unwrap();
        xics.line(MSI_A).trigger();
        xics.set_mfrr(0, 4).unwrap();
        let ipi = xics.accept(0);
        assert_eq!(ipi & 0xff_ffff, IPI_SOURCE);
        xics.set_mfrr(0, 0xff).unwrap();
        xics.end(0, ipi).unwrap();
        assert_eq!(xics.accept(0) & 0xff_ffff, MSI_A);
    }

    #[test]
    fn unknown_numbers_are_errors() {
        let (xics, _) = xics(1);
        for number in [0, 1, IPI_SOURCE, MSI_BASE + MSI_SOURCES, u32::MAX] {
            assert_eq!(xics.xive(number), Err(NoSuch));
            assert_eq!(xics.set_xive(number, 0, 5), Err(NoSuch));
            assert_eq!(xics.set_enabled(number, true), Err(NoSuch));
        }
        assert_eq!(xics.set_xive(MSI_A, 1, 5), Err(NoSuch));
    }

    /// After any sequence of operations, once everything is unmasked and ended, every triggered message was delivered and
    /// the output says whether something is presented.
    #[test]
    fn random_sequences_lose_no_interrupt() {
        for seed in 1..200 {
            let mut random = Random::new(seed);
            let (xics, handles) = xics(2);
            let mut due = [false; 4];
            for index in 0..4u32 {
                xics.set_xive(MSI_A + index, index % 2, 5).unwrap();
            }
            let mut stacks: [Vec<u32>; 2] = Default::default();
            for _ in 0..300 {
                let index = random.below(4) as u32;
                let server = random.below(2) as u32;
                match random.below(6) {
                    0 => {
                        xics.line(MSI_A + index).trigger();
                        due[index as usize] = true;
                    }
                    1 => xics.set_enabled(MSI_A + index, random.below(2) == 0).unwrap(),
                    2 => xics.set_xive(MSI_A + index, server, 3 + random.below(4) as u8).unwrap(),
                    3 => xics.set_mfrr(server, if random.below(2) == 0 { 4 } else { 0xff }).unwrap(),
                    4 => {
                        let xirr = xics.accept(server);
                        if xirr & 0xff_ffff != 0 {
                            if let Some(slot) = due.get_mut((xirr & 0xff_ffff).wrapping_sub(MSI_A) as usize) {
                                *slot = false;
                            }
                            stacks[server as usize].push(xirr);
                        }
                    }
                    _ => {
                        if let Some(xirr) = stacks[server as usize].pop() {
                            xics.end(server, xirr).unwrap();
                        }
                    }
                }
            }
            for index in 0..4u32 {
                xics.set_xive(MSI_A + index, 0, 5).unwrap();
            }
            for server in 0..2u32 {
                xics.set_mfrr(server, 0xff).unwrap();
                for _ in 0..64 {
                    let Some(xirr) = stacks[server as usize].pop() else { break };
                    xics.end(server, xirr).unwrap();
                }
                for _ in 0..64 {
                    let xirr = xics.accept(server);
                    if xirr & 0xff_ffff == 0 {
                        break;
                    }
                    if let Some(slot) = due.get_mut((xirr & 0xff_ffff).wrapping_sub(MSI_A) as usize) {
                        *slot = false;
                    }
                    xics.end(server, 0xff00_0000 | xirr & 0xff_ffff).unwrap();
                }
            }
            assert_eq!(due, [false; 4], "seed {seed}");
            assert!(!handles[0].external() && !handles[1].external(), "seed {seed}");
        }
    }
}
