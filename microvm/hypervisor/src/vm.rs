//! Vm, Vcpu, Exit: what a backend is.

use std::sync::Arc;

use crate::{EntryState, GuestRam, InterruptController, Presentation, ResizableTable, StoreEvents, VcpuRegs};

/// Arguments of a hypercall (LoPAR 14.5): GPR 4 to GPR 12.
pub type HypercallArgs = [u64; 9];

/// What the machine answers to a hypercall: the return code for GPR 3 and the outputs for GPR 4 onwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HypercallReply {
    /// Return code (LoPAR table 14.1), into GPR 3.
    pub status: i64,
    /// Outputs into GPR 4 … GPR 12; only the first `count` are written, the rest of the registers keep their values.
    pub outputs: HypercallArgs,
    /// How many outputs there are (0 to 9).
    pub count: usize,
}

impl HypercallReply {
    /// A reply without outputs.
    pub const fn status(status: i64) -> Self {
        Self { status, outputs: [0; 9], count: 0 }
    }

    /// A reply with outputs for GPR 4 onwards; at most nine are kept.
    pub fn with(status: i64, values: &[u64]) -> Self {
        let mut reply = Self::status(status);
        for (slot, value) in reply.outputs.iter_mut().zip(values) {
            *slot = *value;
            reply.count += 1;
        }
        reply
    }
}

/// Why a vCPU came back from [`Vcpu::run`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// `sc 1` with a hypercall that the backend does not serve. Answer with [`Vcpu::complete_hypercall`] before running again.
    Hypercall {
        /// Token, GPR 3.
        nr: u64,
        /// GPR 4 to GPR 12.
        args: HypercallArgs,
    },
    /// Load from a real address outside RAM. Answer with [`Vcpu::complete_mmio_read`] before running again.
    MmioRead {
        /// Guest real address.
        addr: u64,
        /// 1, 2, 4 or 8 bytes.
        len: u8,
    },
    /// Store to a real address outside RAM. Already complete: just run again.
    MmioWrite {
        /// Guest real address.
        addr: u64,
        /// 1, 2, 4 or 8 bytes.
        len: u8,
        /// The bytes in memory order, first `len` valid.
        data: [u8; 8],
    },
    /// Another thread called [`VcpuHandle::kick`].
    Kicked,
    /// The instruction budget of [`VmConfig::budget_instructions`] is used up (software CPU only).
    Budget,
    /// The backend cannot go on with this guest; the text holds disassembly, address and registers.
    Failed {
        /// For the log and the person reading it.
        reason: String,
    },
}

/// How guest time passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockMode {
    /// The time base follows the host's monotonic clock.
    Host,
    /// The time base counts instructions; an idle vCPU jumps to its next deadline. One vCPU only: runs are bit-identical.
    Deterministic,
}

/// Which processor the guest is to find.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Processor {
    /// What the backend is.
    #[default]
    Native,
    /// A logical POWER8 (LoPAR, logical PVRs): architecture 2.07; what is newer is illegal in problem state, as PCR has it (ISA 3.0B III 2.5).
    Power8,
}

/// What the machine asks a backend for.
#[derive(Debug, Clone)]
pub struct VmConfig {
    /// Guest memory, region at real address 0.
    pub ram: GuestRam,
    /// Number of vCPUs that may be created (1 to 64).
    pub vcpu_count: u32,
    /// Log2 of the hashed page table's size in bytes (18 to 46).
    pub hpt_order: u32,
    /// Host clock or deterministic.
    pub clock: ClockMode,
    /// Stop with [`Exit::Budget`] after that many guest instructions per vCPU, if given and the backend counts.
    pub budget_instructions: Option<u64>,
    /// The processor.
    pub processor: Processor,
    /// vCPUs of one core, by their numbers: those that directed doorbells reach (1, 2, 4 or 8).
    pub threads_per_core: u32,
    /// Who presents interrupts.
    pub presentation: Presentation,
}

/// One page size a segment can hold (a row of `ibm,segment-page-sizes`, LoPAR C.6.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageSizeEncoding {
    /// Log2 of the actual page size.
    pub page_shift: u32,
    /// The LP encoding in the HPTE.
    pub pte_encoding: u32,
}

/// One base page size with the actual sizes mixed into its segments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentPageSizes {
    /// Log2 of the base page size.
    pub base_shift: u32,
    /// The SLB's L and LP bits for it (L = 0x100, LP = 0x30).
    pub slb_encoding: u32,
    /// The page sizes.
    pub pages: Vec<PageSizeEncoding>,
}

/// What a backend offers, for the device tree and the hypercall tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// Processor version register of the vCPUs.
    pub pvr: u32,
    /// `cpu-version` for the tree: the logical PVR, 0x0f00_0005 for architecture 3.00.
    pub cpu_version: u32,
    /// Time base frequency in Hz.
    pub timebase_hz: u64,
    /// Number of SLB entries.
    pub slb_entries: u32,
    /// Log2 of the hashed page table's size in bytes.
    pub hpt_order: u32,
    /// The table can be given another size while the guest runs: there is a [`Vm::resizable_table`].
    pub hpt_resize: bool,
    /// Base page sizes, mixed sizes included.
    pub segment_page_sizes: Vec<SegmentPageSizes>,
    /// 1 TiB segments are supported.
    pub segments_1t: bool,
    /// Answer to H_GET_CPU_CHARACTERISTICS (LoPAR 14.5.x): character and behaviour words for GPR 4 and GPR 5.
    pub cpu_characteristics: (u64, u64),
    /// The backend runs the interrupt presentation layer itself (in-kernel XICS).
    pub in_kernel_xics: bool,
    /// `ibm,pa-features` payload: the length byte, the zero byte, and the attribute bytes (LoPAR C.6.2).
    pub pa_features: Vec<u8>,
}

/// Why a backend could not be made or driven.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// A configuration no backend can run.
    #[error("{what} is {value}, allowed is {allowed}")]
    Config {
        /// The parameter.
        what: &'static str,
        /// Its value.
        value: u64,
        /// The range in words.
        allowed: &'static str,
    },
    /// The vCPU exists already or lies beyond the configured count.
    #[error("vCPU {id} cannot be created: {reason}")]
    Vcpu {
        /// Its number.
        id: u32,
        /// Why.
        reason: &'static str,
    },
    /// An operating system call failed.
    #[error("{call}")]
    Os {
        /// Which call, with its object.
        call: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A completion was given although nothing was pending, or the other way round.
    #[error("vCPU {id}: {reason}")]
    Protocol {
        /// Its number.
        id: u32,
        /// What was wrong.
        reason: &'static str,
    },
}

/// Why [`Vcpu::wait_for_prod`] came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// H_PROD.
    Prodded,
    /// [`VcpuHandle::kick`].
    Kicked,
}

/// A partition: its hashed page table, its memory, its vCPUs.
pub trait Vm: Send + Sync {
    /// What this backend offers for the configuration it was made with.
    fn capabilities(&self) -> &Capabilities;

    /// Makes vCPU `id` (also its interrupt server number), stopped at zero state. Each id once, below the configured count.
    ///
    /// # Errors
    /// [`BackendError::Vcpu`] for a repeated or excessive id, [`BackendError::Os`] from the host.
    fn create_vcpu(&self, id: u32) -> Result<Box<dyn Vcpu>, BackendError>;

    /// Sets LPCR's AIL (0, 2 or 3) and ILE for every vCPU of the partition (H_SET_MODE resources 3 and 4 act partition-wide).
    ///
    /// # Errors
    /// [`BackendError::Config`] for an AIL value that does not exist.
    fn set_interrupt_mode(&self, change: InterruptMode) -> Result<(), BackendError>;

    /// The interrupt mode in force.
    fn interrupt_mode(&self) -> (u8, bool);

    /// The backend's own interrupt controller. `None`: the machine presents interrupts.
    fn interrupt_controller(&self) -> Option<Arc<dyn InterruptController>> {
        None
    }

    /// The hashed page table as something whose size can change. `None`: it keeps the size that it was made with.
    fn resizable_table(&self) -> Option<Arc<dyn ResizableTable>> {
        None
    }

    /// How stores become events without an exit, where the backend can.
    fn store_events(&self) -> Option<Arc<dyn StoreEvents>> {
        None
    }
}

/// A change to the partition's interrupt mode; `None` leaves a part as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InterruptMode {
    /// LPCR\[AIL\]: 0, 2 or 3.
    pub ail: Option<u8>,
    /// LPCR\[ILE\]: interrupts enter little-endian.
    pub little_endian: Option<bool>,
}

/// A vCPU, owned by the thread that runs it.
pub trait Vcpu: Send {
    /// Its number.
    fn id(&self) -> u32;

    /// Sets the state in which the guest is entered; all other registers become zero.
    fn enter(&mut self, entry: EntryState);

    /// Executes the guest until something leaves the backend. H_CEDE blocks inside until an interrupt or a kick comes.
    ///
    /// # Errors
    /// [`BackendError::Protocol`] when the last exit was not completed.
    fn run(&mut self) -> Result<Exit, BackendError>;

    /// Answers [`Exit::Hypercall`].
    ///
    /// # Errors
    /// [`BackendError::Protocol`] when no hypercall is pending.
    fn complete_hypercall(&mut self, reply: HypercallReply) -> Result<(), BackendError>;

    /// Answers [`Exit::MmioRead`] with the bytes in memory order.
    ///
    /// # Errors
    /// [`BackendError::Protocol`] when no load is pending.
    fn complete_mmio_read(&mut self, data: [u8; 8]) -> Result<(), BackendError>;

    /// Sleeps until H_PROD comes for this vCPU, which uses it up, or a kick. For H_JOIN, between a [`Exit::Hypercall`] and its answer. `None`:
    /// the backend serves H_PROD where nobody else sees it.
    fn wait_for_prod(&mut self) -> Option<Woken> {
        None
    }

    /// Registers, for dumps and tests.
    fn regs(&self) -> VcpuRegs;

    /// Sets the registers.
    fn set_regs(&mut self, regs: &VcpuRegs);

    /// The handle by which other threads reach this vCPU.
    fn handle(&self) -> Arc<dyn VcpuHandle>;
}

/// What other threads may do to a vCPU.
pub trait VcpuHandle: Send + Sync {
    /// Level of the external interrupt input (from the interrupt presentation layer). Wakes a ceded vCPU when raised.
    fn set_external_interrupt(&self, asserted: bool);

    /// Makes [`Vcpu::run`] return [`Exit::Kicked`] soon: at once when ceded, at the next block boundary when running, and
    /// at the next call when not inside it (a kick is never lost).
    fn kick(&self);

    /// True while an H_PROD waits for this vCPU to sleep or to wake.
    fn prodded(&self) -> bool {
        false
    }

    /// Counters, readable at any time.
    fn stats(&self) -> VcpuStats;
}

/// Names of the interrupts that a vCPU is counted by, in the order of [`VcpuStats::interrupts`].
pub const INTERRUPT_KINDS: [&str; 15] = [
    "system_reset",
    "machine_check",
    "data_storage",
    "data_segment",
    "instruction_storage",
    "instruction_segment",
    "external",
    "alignment",
    "program",
    "decrementer",
    "doorbell",
    "system_call",
    "trace",
    "fp_vector_unavailable",
    "facility_unavailable",
];

/// Counters of a vCPU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VcpuStats {
    /// Guest instructions completed, where the backend counts them.
    pub instructions: Option<u64>,
    /// Hypercalls served inside the backend.
    pub hypercalls_inside: u64,
    /// Interrupts delivered to the guest, by [`INTERRUPT_KINDS`]; zeros where the backend does not see them.
    pub interrupts: [u64; INTERRUPT_KINDS.len()],
    /// Times the vCPU ceded.
    pub cedes: u64,
}
