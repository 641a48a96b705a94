//! A vCPU: KVM_RUN and what it takes to make it what the trait promises.
//!
//! KVM takes an answer (to a hypercall, to a load) at the next KVM_RUN. Registers are therefore not what the guest will see until then;
//! before they are read or set an owed answer is brought in by a KVM_RUN that `immediate_exit` turns back at the door.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::thread::ThreadId;

use paperboat_hypervisor::{
    BackendError, EntryState, Exit, HypercallReply, INTERRUPT_KINDS, Vcpu, VcpuHandle, VcpuRegs, VcpuStats,
};

use crate::bindings::{self as b, kvm_regs};
use crate::kick;
use crate::sys::{RunExit, VcpuFd};
use crate::vm::{H_RANDOM, Partition};

/// Vector registers that a fresh entry clears: VSR 0 to 31 (floating point), VR 0 to 31.
const VECTOR_REGISTERS: u64 = 32;
/// H_HARDWARE (LoPAR table 14.1).
const H_HARDWARE: i64 = -1;
/// No thread runs the vCPU yet.
const NO_THREAD: i32 = 0;

/// What other threads reach of a vCPU.
pub struct Side {
    fd: VcpuFd,
    /// The thread that runs the vCPU.
    thread: AtomicI32,
    kicked: AtomicBool,
    /// KVM_RUN is under way, or will be before anything else is looked at.
    inside: AtomicBool,
    /// Number of the interrupt mode that LPCR holds.
    mode: AtomicU64,
    external: AtomicBool,
    interrupts: AtomicU64,
    /// Keeps the partition's memory mapped for as long as a descriptor of it lives.
    partition: Arc<Partition>,
}

impl Side {
    /// Makes KVM_RUN come back, or the one that begins now.
    pub(crate) fn call_out(&self) {
        self.fd.set_immediate_exit(true);
        let thread = self.thread.load(Ordering::SeqCst);
        if thread != NO_THREAD {
            kick::kick(thread);
        }
    }

    /// The guest may be executing under an older interrupt mode than `number`.
    pub(crate) fn is_inside_with_mode_before(&self, number: u64) -> bool {
        self.inside.load(Ordering::SeqCst) && self.mode.load(Ordering::SeqCst) < number
    }
}

/// Which answer the machine owes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owed {
    Nothing,
    Hypercall,
    Load,
}

/// A vCPU under KVM.
pub struct KvmVcpu {
    id: u32,
    side: Arc<Side>,
    owed: Owed,
    /// An answer was given that KVM has not taken yet.
    answered: Cell<bool>,
    /// An exit that came when KVM took an answer: a vector load or store takes several.
    early: Cell<Option<RunExit>>,
    /// The thread that is prepared to run it.
    thread: Option<ThreadId>,
    /// It has executed: a new entry finds registers to clear.
    used: bool,
}

impl KvmVcpu {
    /// Takes a fresh vCPU.
    pub(crate) fn new(id: u32, fd: VcpuFd, partition: Arc<Partition>) -> Result<Self, BackendError> {
        // Without it `sc 1` of the guest ends the run.
        fd.enable(b::KVM_CAP_PPC_PAPR)?;
        if let Some(xics) = &partition.xics {
            fd.connect(xics, id)?;
        }
        if let Some(logical_pvr) = partition.compatibility {
            fd.set_one_reg(b::KVM_REG_PPC_ARCH_COMPAT, logical_pvr)?;
        }
        let side = Side {
            fd,
            thread: AtomicI32::new(NO_THREAD),
            kicked: AtomicBool::new(false),
            inside: AtomicBool::new(false),
            mode: AtomicU64::new(0),
            external: AtomicBool::new(false),
            interrupts: AtomicU64::new(0),
            partition,
        };
        let side = Arc::new(side);
        Ok(Self { id, side, owed: Owed::Nothing, answered: Cell::new(false), early: Cell::new(None), thread: None, used: false })
    }

    pub(crate) fn side(&self) -> Arc<Side> {
        Arc::clone(&self.side)
    }

    fn fd(&self) -> &VcpuFd {
        &self.side.fd
    }

    /// Has KVM take an answer that was given.
    fn settle(&self) -> Result<(), BackendError> {
        if self.answered.get() {
            self.fd().set_immediate_exit(true);
            let exit = self.fd().run()?;
            self.answered.set(false);
            if !matches!(exit, RunExit::Interrupted) {
                self.early.set(Some(exit));
            }
        }
        Ok(())
    }

    /// Takes up the partition's interrupt mode.
    fn update_mode(&self) -> Result<(), BackendError> {
        let (lpcr, number) = self.side.partition.lpcr(self.fd().one_reg(b::KVM_REG_PPC_LPCR_64)?);
        self.fd().set_one_reg(b::KVM_REG_PPC_LPCR_64, lpcr)?;
        self.side.mode.store(number, Ordering::SeqCst);
        Ok(())
    }

    fn clear_vectors(&self) -> Result<(), BackendError> {
        for index in 0..VECTOR_REGISTERS {
            self.fd().set_one_reg(b::KVM_REG_PPC_VSR0 + index, 0_u128)?;
            self.fd().set_one_reg(b::KVM_REG_PPC_VR0 + index, 0_u128)?;
        }
        self.fd().set_one_reg(b::KVM_REG_PPC_FPSCR, 0_u64)?;
        self.fd().set_one_reg(b::KVM_REG_PPC_VSCR, 0_u32)
    }

    fn enter_with(&mut self, entry: EntryState) -> Result<(), BackendError> {
        // An answer that nobody gave is taken all the same: KVM would put it into the new life's registers.
        match self.owed {
            Owed::Nothing => {}
            Owed::Hypercall => self.fd().answer_hypercall(0, &[]),
            Owed::Load => self.fd().answer_load([0; 8]),
        }
        if self.owed != Owed::Nothing {
            self.answered.set(true);
        }
        self.settle()?;
        self.early.set(None);
        self.owed = Owed::Nothing;
        if self.used {
            self.clear_vectors()?;
        }
        let mut regs = kvm_regs { pc: entry.pc, msr: entry.msr, ..Default::default() };
        regs.gpr[3] = entry.r3;
        regs.gpr[4] = entry.r4;
        self.fd().set_regs(&regs)
    }

    fn prepare_thread(&mut self) -> Result<(), BackendError> {
        let current = std::thread::current().id();
        if self.thread != Some(current) {
            let failed = |source| BackendError::Os { call: "prepare the vCPU's thread for its signal".into(), source };
            self.side.thread.store(kick::enter_thread().map_err(failed)?, Ordering::SeqCst);
            self.thread = Some(current);
        }
        Ok(())
    }

    /// One KVM_RUN, unless a kick or a change of mode comes first.
    fn run_once(&self) -> Result<Option<RunExit>, BackendError> {
        // In this order: who sets one of the two flags below afterwards sets `immediate_exit` after it, and KVM_RUN turns back.
        self.fd().set_immediate_exit(false);
        self.side.inside.store(true, Ordering::SeqCst);
        let exit = if self.side.kicked.load(Ordering::SeqCst) {
            Ok(None)
        } else if self.side.mode.load(Ordering::SeqCst) != self.side.partition.mode_number() {
            self.side.inside.store(false, Ordering::SeqCst);
            self.update_mode().map(|()| Some(RunExit::Interrupted))
        } else {
            let exit = self.fd().run();
            self.answered.set(false);
            exit.map(Some)
        };
        self.side.inside.store(false, Ordering::SeqCst);
        exit
    }

    fn failure(&self, what: &str) -> Exit {
        let state = match self.fd().regs() {
            Ok(regs) => format!(
                "pc {:#x}, msr {:#x}, lr {:#x}, srr0 {:#x}, srr1 {:#x}, r1 {:#x}, r3 {:#x}",
                regs.pc, regs.msr, regs.lr, regs.srr0, regs.srr1, regs.gpr[1], regs.gpr[3]
            ),
            Err(error) => error.to_string(),
        };
        Exit::Failed { reason: format!("{what}: {state}") }
    }

    /// H_RANDOM is the backend's; where the host has no generator KVM does not serve it.
    fn random(&self) {
        match getrandom::u64() {
            Ok(value) => self.fd().answer_hypercall(0, &[value]),
            Err(_) => self.fd().answer_hypercall(H_HARDWARE, &[]),
        }
        self.answered.set(true);
    }
}

impl Vcpu for KvmVcpu {
    fn id(&self) -> u32 {
        self.id
    }

    fn enter(&mut self, entry: EntryState) {
        if let Err(error) = self.enter_with(entry) {
            // The guest then runs from where it was; the next KVM_RUN shows the trouble again.
            log::error!("vCPU {}: entry at {:#x}: {error}", self.id, entry.pc);
        }
    }

    fn run(&mut self) -> Result<Exit, BackendError> {
        if self.owed != Owed::Nothing {
            return Err(BackendError::Protocol { id: self.id, reason: "the last exit was not completed" });
        }
        self.prepare_thread()?;
        self.used = true;
        loop {
            let next = match self.early.take() {
                Some(exit) => Some(exit),
                None => self.run_once()?,
            };
            let Some(exit) = next else {
                self.side.kicked.store(false, Ordering::SeqCst);
                return Ok(Exit::Kicked);
            };
            match exit {
                RunExit::Interrupted => {}
                RunExit::Hypercall(H_RANDOM, _) => self.random(),
                RunExit::Hypercall(nr, args) => {
                    self.owed = Owed::Hypercall;
                    return Ok(Exit::Hypercall { nr, args });
                }
                RunExit::MmioRead(addr, len) => {
                    self.owed = Owed::Load;
                    return Ok(Exit::MmioRead { addr, len: len.min(8) as u8 });
                }
                RunExit::MmioWrite(addr, len, data) => {
                    // What is left of a store (vectors take several) KVM does at the next KVM_RUN.
                    self.answered.set(true);
                    return Ok(Exit::MmioWrite { addr, len: len.min(8) as u8, data });
                }
                RunExit::EntryFailed(reason) => return Ok(self.failure(&format!("KVM cannot enter the guest ({reason:#x})"))),
                RunExit::Internal(error) => return Ok(self.failure(&format!("KVM failed with internal error {error}"))),
                RunExit::Other(reason) => return Ok(self.failure(&format!("KVM left the guest for reason {reason}"))),
            }
        }
    }

    fn complete_hypercall(&mut self, reply: HypercallReply) -> Result<(), BackendError> {
        if self.owed != Owed::Hypercall {
            return Err(BackendError::Protocol { id: self.id, reason: "no hypercall is pending" });
        }
        self.owed = Owed::Nothing;
        self.fd().answer_hypercall(reply.status, &reply.outputs[..reply.count.min(reply.outputs.len())]);
        self.answered.set(true);
        Ok(())
    }

    fn complete_mmio_read(&mut self, data: [u8; 8]) -> Result<(), BackendError> {
        if self.owed != Owed::Load {
            return Err(BackendError::Protocol { id: self.id, reason: "no load is pending" });
        }
        self.owed = Owed::Nothing;
        self.fd().answer_load(data);
        self.answered.set(true);
        Ok(())
    }

    fn regs(&self) -> VcpuRegs {
        let read = || -> Result<VcpuRegs, BackendError> {
            self.settle()?;
            let regs = self.fd().regs()?;
            Ok(VcpuRegs {
                gpr: regs.gpr,
                pc: regs.pc,
                msr: regs.msr,
                cr: regs.cr as u32,
                lr: regs.lr,
                ctr: regs.ctr,
                xer: regs.xer,
                srr0: regs.srr0,
                srr1: regs.srr1,
                dar: self.fd().one_reg(b::KVM_REG_PPC_DAR)?,
                dsisr: self.fd().one_reg(b::KVM_REG_PPC_DSISR)?,
                sprg: [regs.sprg0, regs.sprg1, regs.sprg2, regs.sprg3],
            })
        };
        read().unwrap_or_else(|error| {
            log::error!("vCPU {}: registers: {error}", self.id);
            VcpuRegs::default()
        })
    }

    fn set_regs(&mut self, regs: &VcpuRegs) {
        let write = || -> Result<(), BackendError> {
            self.settle()?;
            // What the trait does not name keeps its value.
            let mut all = self.fd().regs()?;
            all.gpr = regs.gpr;
            (all.pc, all.msr, all.cr) = (regs.pc, regs.msr, regs.cr.into());
            (all.lr, all.ctr, all.xer) = (regs.lr, regs.ctr, regs.xer);
            (all.srr0, all.srr1) = (regs.srr0, regs.srr1);
            [all.sprg0, all.sprg1, all.sprg2, all.sprg3] = regs.sprg;
            self.fd().set_regs(&all)?;
            self.fd().set_one_reg(b::KVM_REG_PPC_DAR, regs.dar)?;
            self.fd().set_one_reg(b::KVM_REG_PPC_DSISR, regs.dsisr)
        };
        if let Err(error) = write() {
            log::error!("vCPU {}: registers: {error}", self.id);
        }
    }

    fn handle(&self) -> Arc<dyn VcpuHandle> {
        Arc::new(Handle { id: self.id, side: self.side() })
    }
}

/// A vCPU as other threads reach it.
struct Handle {
    id: u32,
    side: Arc<Side>,
}

impl VcpuHandle for Handle {
    fn set_external_interrupt(&self, asserted: bool) {
        // The presentation layer calls under its lock: no two levels race.
        if self.side.external.swap(asserted, Ordering::SeqCst) == asserted {
            return;
        }
        let level = if asserted { b::KVM_INTERRUPT_SET_LEVEL } else { b::KVM_INTERRUPT_UNSET };
        if let Err(error) = self.side.fd.interrupt(level) {
            log::error!("vCPU {}: {error}", self.id);
        }
        if asserted {
            self.side.interrupts.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn kick(&self) {
        self.side.kicked.store(true, Ordering::SeqCst);
        self.side.call_out();
    }

    fn stats(&self) -> VcpuStats {
        // KVM delivers the rest without telling.
        let external = self.side.interrupts.load(Ordering::Relaxed);
        let interrupts = INTERRUPT_KINDS.map(|kind| if kind == "external" { external } else { 0 });
        VcpuStats { interrupts, ..VcpuStats::default() }
    }
}
