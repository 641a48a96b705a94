//! What the partition finds around its CPU: hypercalls, RTAS, terminal, XICS, TCE tables, PCI host bridge.
//!
//! [`Platform`] is the machine as the guest's calls see it. A vCPU thread hands it every exit; it answers and may ask for
//! an [`Action`] that only the thread or the machine can carry out. Two tables hold the calls: [`hcall::CALLS`] and
//! [`rtas::CALLS`]; dispatch, tree, counters, traces and tests come from them.

pub mod calendar;
pub mod cpus;
pub mod hcall;
pub mod hpt;
pub mod nvram;
pub mod phb;
pub mod rtas;
pub mod sources;
pub mod tce;
#[cfg(test)]
pub(crate) mod testkit;
pub mod trace;
pub mod vty;
pub mod xics;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use paperboat_hypervisor::{BackendError, GuestRam, HypercallArgs, HypercallReply, Vm};

use crate::console::Console;
use crate::pci::PciFunction;
use calendar::PartitionClock;
use cpus::Cpus;
use hpt::PreparedTable;
use nvram::Nvram;
use phb::{DmaPolicy, Phb, PhbError};
use sources::{BackendSources, Sources};
use tce::TceTables;
use trace::Trace;
use vty::Vty;
use xics::Xics;

/// Return codes of hypercalls (LoPAR table 14.1).
pub mod status {
    /// Done.
    pub const H_SUCCESS: i64 = 0;
    /// Try again later.
    pub const H_BUSY: i64 = 1;
    /// What the call works on is not there.
    pub const H_CLOSED: i64 = 2;
    /// H_JOIN: every other vCPU has joined, the caller goes on.
    pub const H_CONTINUE: i64 = 18;
    /// The hardware, or the machine, failed.
    pub const H_HARDWARE: i64 = -1;
    /// No such hypercall.
    pub const H_FUNCTION: i64 = -2;
    /// A parameter is out of range.
    pub const H_PARAMETER: i64 = -4;
    /// The processor is in a state in which the call is not allowed.
    pub const H_BAD_MODE: i64 = -5;
    /// An entry of the page table has no place.
    pub const H_PTEG_FULL: i64 = -6;
    /// The partition is not allowed to.
    pub const H_AUTHORITY: i64 = -10;
    /// The partition does not get so much.
    pub const H_RESOURCE: i64 = -16;
    /// Parameter 2 is out of range.
    pub const H_P2: i64 = -55;
    /// Parameter 3 is out of range.
    pub const H_P3: i64 = -56;
    /// Parameter 4 is out of range.
    pub const H_P4: i64 = -57;
    /// A flag is not supported; the flag's number counts down from here.
    pub const H_UNSUPPORTED_FLAG: i64 = -256;
}

/// Why the partition ended by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestEnd {
    /// RTAS power-off.
    PowerOff,
    /// RTAS system-reboot.
    Reboot,
    /// RTAS ibm,os-term with the guest's text.
    Panic(String),
}

/// What an exit asks of the thread or the machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Action {
    /// Nothing.
    #[default]
    None,
    /// RTAS stop-self: this vCPU waits for start-cpu.
    StopSelf,
    /// The machine ends.
    End(GuestEnd),
    /// A system reset interrupt for these vCPUs (H_SIGNAL_SYS_RESET).
    SystemReset(Vec<u32>),
    /// H_SET_SPRG0: the vCPU's register.
    SetSprg0(u64),
    /// H_JOIN: the thread finds the answer, and sleeps until H_PROD if another vCPU is still awake.
    Join,
}

/// The answer to a hypercall.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// For the guest.
    pub reply: HypercallReply,
    /// For the machine.
    pub action: Action,
}

impl From<i64> for Outcome {
    fn from(status: i64) -> Self {
        Self { reply: HypercallReply::status(status), action: Action::None }
    }
}

impl From<HypercallReply> for Outcome {
    fn from(reply: HypercallReply) -> Self {
        Self { reply, action: Action::None }
    }
}

/// One hypercall or RTAS call on its way.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    /// The machine.
    pub platform: &'a Platform,
    /// The vCPU that calls.
    pub cpu: u32,
    /// GPR 4 to GPR 12.
    pub args: &'a HypercallArgs,
}

/// How often each row of a table was called, by one vCPU.
pub struct CallCounters {
    hcalls: Vec<AtomicU64>,
    rtas: Vec<AtomicU64>,
    unknown: AtomicU64,
}

impl CallCounters {
    fn new() -> Self {
        let zeros = |count| (0..count).map(|_| AtomicU64::new(0)).collect();
        Self { hcalls: zeros(hcall::CALLS.len()), rtas: zeros(rtas::CALLS.len()), unknown: AtomicU64::new(0) }
    }

    /// Calls by name, those never made left out.
    pub fn by_name(&self) -> Vec<(&'static str, u64)> {
        let hcalls = self.hcalls.iter().zip(hcall::CALLS.iter().map(|call| call.name));
        let rtas = self.rtas.iter().zip(rtas::CALLS.iter().map(|call| call.name));
        let unknown = std::iter::once((&self.unknown, "unknown"));
        let all = hcalls.chain(rtas).chain(unknown);
        all.map(|(count, name)| (name, count.load(Ordering::Relaxed))).filter(|(_, count)| *count > 0).collect()
    }
}

/// What a platform is made of.
pub struct PlatformParts {
    /// Guest memory.
    pub ram: GuestRam,
    /// The backend.
    pub vm: Arc<dyn Vm>,
    /// Number of vCPUs.
    pub vcpus: u32,
    /// Where the terminal writes.
    pub console: Arc<Console>,
    /// PCI functions in slot order.
    pub functions: Vec<Arc<dyn PciFunction>>,
    /// How the functions reach memory.
    pub dma: DmaPolicy,
    /// Time of day.
    pub clock: PartitionClock,
    /// What is printed of the guest's calls.
    pub trace: Trace,
}

/// Why the parts do not go together.
#[derive(Debug, thiserror::Error)]
pub enum PlatformError {
    /// The functions do not fit the bridge.
    #[error(transparent)]
    Phb(#[from] PhbError),
    /// The backend's interrupt controller.
    #[error("the backend's interrupt controller")]
    Interrupts(#[from] BackendError),
}

/// Most different unknown calls that are logged; a hostile guest has 2^64 of them.
const UNKNOWN_LOGGED_MAX: usize = 64;

/// The machine as the guest's calls see it.
pub struct Platform {
    /// Guest memory.
    pub ram: GuestRam,
    /// The backend.
    pub vm: Arc<dyn Vm>,
    /// Interrupt sources.
    pub sources: Arc<dyn Sources>,
    /// The presentation layer, where the backend has none.
    pub xics: Option<Arc<Xics>>,
    /// The terminal.
    pub vty: Vty,
    /// PCI.
    pub phb: Phb,
    /// DMA windows.
    pub tce: Arc<TceTables>,
    /// Which vCPUs run.
    pub cpus: Cpus,
    /// Time of day.
    pub clock: PartitionClock,
    /// What is printed of the guest's calls.
    pub trace: Trace,
    /// Non-volatile memory.
    pub nvram: Nvram,
    /// The size of the page table that the guest has prepared.
    pub prepared_table: PreparedTable,
    counters: Vec<CallCounters>,
    unknown: Mutex<BTreeSet<u64>>,
}

impl Platform {
    /// Joins the parts.
    ///
    /// # Errors
    /// [`PlatformError`].
    pub fn new(parts: PlatformParts) -> Result<Self, PlatformError> {
        let (sources, xics): (Arc<dyn Sources>, _) = match parts.vm.interrupt_controller() {
            Some(controller) => (Arc::new(BackendSources::new(controller, parts.vcpus)?), None),
            None => {
                let xics = Xics::new(parts.vcpus);
                (Arc::new(Arc::clone(&xics)), Some(xics))
            }
        };
        let tce = Arc::<TceTables>::default();
        let phb = Phb::new(parts.functions, Arc::clone(&sources), &tce, parts.dma)?;
        if let Some(events) = parts.vm.store_events() {
            phb.bind_doorbells(&events);
        }
        Ok(Self {
            vty: Vty::new(parts.console, sources.line(xics::VTY_SOURCE)),
            ram: parts.ram,
            vm: parts.vm,
            sources,
            xics,
            phb,
            tce,
            cpus: Cpus::new(parts.vcpus),
            clock: parts.clock,
            trace: parts.trace,
            nvram: Nvram::default(),
            prepared_table: PreparedTable::default(),
            counters: (0..parts.vcpus).map(|_| CallCounters::new()).collect(),
            unknown: Mutex::default(),
        })
    }

    /// Serves the hypercall `nr` of `cpu`.
    pub fn hypercall(&self, cpu: u32, nr: u64, args: &HypercallArgs) -> Outcome {
        let call = Call { platform: self, cpu, args };
        let Some(index) = hcall::CALLS.iter().position(|row| row.token == nr) else {
            self.note_unknown(cpu, nr, || format!("hypercall {nr:#x}"));
            self.trace.unknown_hypercall(cpu, nr, args);
            return Outcome::from(status::H_FUNCTION);
        };
        if let Some(counters) = self.counters.get(cpu as usize) {
            counters.hcalls[index].fetch_add(1, Ordering::Relaxed);
        }
        let row = &hcall::CALLS[index];
        let outcome = (row.handler)(&call);
        self.trace.hypercall(cpu, row.name, args, &outcome);
        outcome
    }

    /// Load from a real address outside RAM.
    pub fn mmio_read(&self, cpu: u32, addr: u64, len: u8) -> [u8; 8] {
        let mut data = [0; 8];
        let length = usize::from(len).min(8);
        self.phb.mmio_read(addr, &mut data[..length]);
        self.trace.mmio(cpu, "read", addr, &data[..length]);
        data
    }

    /// Store to a real address outside RAM.
    pub fn mmio_write(&self, cpu: u32, addr: u64, len: u8, data: &[u8; 8]) {
        let data = &data[..usize::from(len).min(8)];
        self.trace.mmio(cpu, "write", addr, data);
        self.phb.mmio_write(addr, data);
    }

    /// The counters of `cpu`.
    pub fn counters(&self, cpu: u32) -> Option<&CallCounters> {
        self.counters.get(cpu as usize)
    }

    pub(crate) fn count_rtas(&self, cpu: u32, index: usize) {
        if let Some(counters) = self.counters.get(cpu as usize) {
            counters.rtas[index].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a call that no table has, and logs each kind once. `key` tells kinds apart.
    pub(crate) fn note_unknown(&self, cpu: u32, key: u64, what: impl FnOnce() -> String) {
        if let Some(counters) = self.counters.get(cpu as usize) {
            counters.unknown.fetch_add(1, Ordering::Relaxed);
        }
        let mut unknown = self.unknown.lock().unwrap_or_else(PoisonError::into_inner);
        if unknown.len() < UNKNOWN_LOGGED_MAX && unknown.insert(key) {
            log::warn!("vCPU {cpu}: the guest makes a call that this machine does not serve: {}", what());
        }
    }
}
