//! Execution: blocks of pre-decoded instructions, interrupts, and access to storage.
//!
//! [`Cpu`] is one vCPU's state. `execute` runs any instruction of the table by its plain semantics; `run` drives blocks of
//! micro-ops and falls back to it for everything that is not hot.

mod atomic;
mod bcd;
mod block;
mod branch;
#[cfg(target_arch = "x86_64")]
mod compile;
#[cfg(not(target_arch = "x86_64"))]
#[path = "compile/none.rs"]
mod compile;
mod copying;
mod fixed;
mod fuse;
mod hcall;
mod hot;
mod interrupt;
mod loadstore;
mod lower;
pub mod msr;
mod ram;
mod run;
mod spr;
mod storage;
mod system;
mod tlb;
mod uop;
mod wait;

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use paperboat_hypervisor::HypercallArgs;

use crate::coverage::Coverage;
use crate::mmu::Fault;
use crate::shared::{Shared, attention};
use crate::state::State;
use crate::table::{Facility, Insn, Op};
use crate::trace::Tracer;
use crate::vector;

pub(crate) use hcall::Areas;
pub(crate) use hcall::reply as hypercall_reply;
pub use interrupt::{Interrupt, program};
pub use ram::Ram;
pub(crate) use run::{Engine, Owed};
pub use spr::{SPRS, Sprs, number as sprn};
pub use storage::Storage;

/// Storage as an instruction sees it: effective addresses, translated and checked, in the current endian mode.
pub trait DataMemory {
    /// Loads `size` (1, 2, 4, 8 or 16) bytes as one integer, byte order by MSR\[LE\]. Need not be aligned.
    ///
    /// # Errors
    /// The interrupt that the access raises; nothing has changed then.
    fn load(&mut self, ea: u64, size: u8) -> Result<u128, Fault>;

    /// Stores the low `size` (1, 2, 4, 8 or 16) bytes of `value` as one integer, byte order by MSR\[LE\]. Need not be aligned.
    ///
    /// # Errors
    /// The interrupt that the access raises; nothing was stored then.
    fn store(&mut self, ea: u64, size: u8, value: u128) -> Result<(), Fault>;
}

/// Why an instruction did not complete in the ordinary way.
#[derive(Debug)]
pub enum Stop {
    /// A storage access was refused or has to be served by the machine.
    Fault(Fault),
    /// An interrupt at this instruction.
    Interrupt(Interrupt),
    /// `sc 1`: a hypercall. The instruction is complete.
    Hypercall,
    /// A row of the table without semantics: a defect of this program, which ends the run with a dump.
    Unimplemented,
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// FPSCR\[FEX\]: an enabled exception is pending.
const FPSCR_FEX: u64 = 1 << 30;

/// One vCPU. What compiled code touches most comes first, as in [`State`].
#[repr(C)]
pub struct Cpu {
    /// Instructions completed, as of the start of the current block.
    pub instructions: u64,
    /// Instruction count at which the engine looks at clock, budget and interrupts.
    pub(crate) check_at: u64,
    /// Epoch of the code pages up to which decoded code is known to be good.
    pub(crate) epoch: u64,
    /// CFAR: the address of the last taken branch.
    pub cfar: u64,
    /// The attention bits that matter now: an external interrupt does not while MSR[EE] is off.
    pub(crate) heeded: u32,
    /// Registers.
    pub st: State,
    /// Special registers that are plain storage.
    pub spr: Sprs,
    /// Segment and translation lookaside buffers, and the way to memory.
    pub storage: Storage,
    /// The partition.
    pub shared: Arc<Shared>,
    /// Its number.
    pub id: u32,
    /// Where execution goes on after the current instruction.
    pub npc: u64,
    /// What others want of this vCPU; see [`attention`].
    pub(crate) attention: Arc<AtomicU32>,
    /// Interrupts taken. They count against the budget too: a fetch that faults in its own handler completes no instruction.
    pub(crate) interrupts: u64,
    /// Index of the current instruction in its block.
    pub index: u32,
    /// Time base value at which DEC turns negative.
    pub dec_deadline: u64,
    /// Time base offset of deterministic runs: what idle jumps added.
    pub tb_skipped: u64,
    /// The MSR changed in a way that changes how code is fetched or decoded.
    pub(crate) mode_changed: bool,
    /// Floating-point exceptions were enabled with one pending in FPSCR.
    pub(crate) float_pending: bool,
    /// DEC was seen negative. (Its exception is looked for at checks only: reading the clock costs.)
    pub(crate) dec_seen: bool,
    /// A doorbell is waiting (DPDES).
    pub doorbell: bool,
    /// The buffer of copy, waiting for paste.
    pub copied: bool,
    /// Low-priority hints executed, and whether they have become many.
    spins: u32,
    pub(crate) spun: bool,
    /// Why compiled code stopped, on its way to the engine.
    #[cfg(target_arch = "x86_64")]
    compiled_stop: Option<Stop>,
    /// The trace, if one was asked for.
    pub trace: Option<Tracer>,
    /// Where completed instructions are counted by row, if that was asked for.
    pub coverage: Option<Arc<Coverage>>,
}

impl Cpu {
    /// vCPU `id` of a partition, at zero state.
    pub fn new(shared: &Arc<Shared>, id: u32) -> Self {
        let mut cpu = Self {
            st: State::default(),
            spr: Sprs::new(),
            storage: Storage::new(Arc::clone(shared), id),
            shared: Arc::clone(shared),
            id,
            npc: 0,
            cfar: 0,
            attention: shared.attention_word(id),
            instructions: 0,
            interrupts: 0,
            index: 0,
            dec_deadline: 0,
            tb_skipped: 0,
            check_at: 0,
            epoch: 0,
            mode_changed: false,
            float_pending: false,
            heeded: 0,
            dec_seen: false,
            doorbell: false,
            copied: false,
            spins: 0,
            spun: false,
            #[cfg(target_arch = "x86_64")]
            compiled_stop: None,
            trace: None,
            coverage: None,
        };
        cpu.spr[sprn::PVR] = u64::from(crate::vm::PVR);
        cpu.spr[sprn::PIR] = u64::from(id);
        cpu.set_dec(0x7fff_ffff);
        cpu.set_msr(0);
        cpu
    }

    /// Back to zero state; memory, the page table and the time base stay.
    pub fn reset(&mut self) {
        let (instructions, skipped) = (self.instructions, self.tb_skipped);
        let (shared, trace, coverage) = (Arc::clone(&self.shared), self.trace.take(), self.coverage.take());
        *self = Self::new(&shared, self.id);
        (self.instructions, self.tb_skipped) = (instructions, skipped);
        (self.trace, self.coverage) = (trace, coverage);
        self.set_dec(0x7fff_ffff);
    }

    /// Changes the MSR and what depends on it.
    pub fn set_msr(&mut self, msr: u64) {
        let changed = self.st.msr ^ msr;
        if changed & (msr::SF | msr::LE | msr::IR | msr::PR | msr::SE | msr::BE) != 0 {
            self.mode_changed = true;
        }
        if changed & msr & (msr::FE0 | msr::FE1) != 0 && self.st.fpscr & FPSCR_FEX != 0 {
            self.float_pending = true;
            self.check_at = 0;
        }
        if changed & msr & msr::EE != 0 && (self.dec_seen || self.doorbell) {
            self.check_at = 0;
        }
        self.heeded = attention::ALWAYS
            | if msr & msr::EE != 0 { attention::EXTERNAL } else { 0 }
            | if msr & msr::ME != 0 { attention::MACHINE_CHECK } else { 0 };
        self.st.msr = msr;
        self.storage.set_msr(msr);
    }

    /// The guest lowered its priority: it waits in a loop. After some turns the engine is to step back.
    #[cold]
    fn spin(&mut self) {
        const SPINS_PER_STEP: u32 = 256;
        self.spins = self.spins.wrapping_add(1);
        if self.spins.is_multiple_of(SPINS_PER_STEP) && self.shared.vcpu_count() > 1 {
            self.spun = true;
            self.check_at = 0;
        }
    }

    /// An address in the current mode: the high word is ignored outside 64-bit mode (I 1.10.3).
    #[inline(always)]
    pub fn truncate(&self, ea: u64) -> u64 {
        if self.st.is_64bit() { ea } else { ea & 0xffff_ffff }
    }

    /// True in problem state.
    #[inline(always)]
    pub fn problem_state(&self) -> bool {
        self.st.msr & msr::PR != 0
    }

    /// The time base.
    pub fn timebase(&self) -> u64 {
        self.shared.clock.timebase(self.instructions + u64::from(self.index)).wrapping_add(self.tb_skipped)
    }

    /// DEC, 32 bits.
    pub fn dec(&self) -> u32 {
        self.dec_deadline.wrapping_sub(self.timebase()) as u32
    }

    /// Sets DEC.
    pub fn set_dec(&mut self, value: u32) {
        self.dec_deadline = self.timebase().wrapping_add(i64::from(value as i32) as u64);
        self.dec_seen = false;
        self.check_at = 0;
    }

    /// DEC's exception exists while its sign bit is set (III 6.5.11).
    pub fn dec_pending(&self) -> bool {
        self.dec() >> 31 != 0
    }
}

/// Executes one instruction of any class by its plain semantics. `cpu.st.pc` is its address, `cpu.npc` the next one's, which branches
/// change.
///
/// # Errors
/// Why it did not complete; no register has changed then, except where the interrupt says so.
pub(crate) fn execute(cpu: &mut Cpu, op: Op, insn: Insn) -> Result<(), Stop> {
    match op {
        Op::Fixed(op) => fixed::execute(cpu, op, insn),
        Op::Branch(op) => branch::execute(cpu, op, insn),
        Op::System(op) => system::execute(cpu, op, insn),
        Op::Float(float) => {
            available(cpu, op.row().facility)?;
            vector::execute_float(float, insn, &mut cpu.st, &mut cpu.storage)?;
            float_exception(cpu)
        }
        Op::Vmx(vmx) => {
            available(cpu, op.row().facility)?;
            vector::execute_vmx(vmx, insn, &mut cpu.st, &mut cpu.storage)?;
            Ok(())
        }
        Op::Vsx(vsx) => {
            available(cpu, vector::facility(vsx, insn))?;
            vector::execute_vsx(vsx, insn, &mut cpu.st, &mut cpu.storage)?;
            float_exception(cpu)
        }
    }
}

fn available(cpu: &Cpu, facility: Facility) -> Result<(), Stop> {
    let (bit, interrupt) = match facility {
        Facility::Base => return Ok(()),
        Facility::Fp => (msr::FP, Interrupt::FpUnavailable),
        Facility::Vec => (msr::VEC, Interrupt::VecUnavailable),
        Facility::Vsx | Facility::VsxOrVec => (msr::VSX, Interrupt::VsxUnavailable),
        // Not offered at any level: what a processor without the facility does.
        Facility::Dfp => return Err(program::illegal()),
    };
    if cpu.st.msr & bit != 0 { Ok(()) } else { Err(Stop::Interrupt(interrupt)) }
}

/// The enabled-exception program interrupt (I 4.4): FPSCR\[FEX\] with MSR\[FE0\] or MSR\[FE1\].
fn float_exception(cpu: &Cpu) -> Result<(), Stop> {
    if cpu.st.fpscr & FPSCR_FEX != 0 && cpu.st.msr & (msr::FE0 | msr::FE1) != 0 {
        return Err(Stop::Interrupt(Interrupt::Program(program::FLOATING_POINT)));
    }
    Ok(())
}

/// For the trace and the machine: the hypercall registers.
pub(crate) fn hypercall_args(st: &State) -> (u64, HypercallArgs) {
    (st.gpr[3], std::array::from_fn(|i| st.gpr[4 + i]))
}
