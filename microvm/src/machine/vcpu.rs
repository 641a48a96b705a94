//! The thread of one vCPU: enter the guest, answer its exits, stand still or leave when told to.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use paperboat_hypervisor::{BackendError, Exit, HypercallReply, Vcpu, Woken};

use super::{EndReason, Executing, Inner};
use crate::boot::{MSR_EE, MSR_LE, MSR_ME, MSR_SF};
use crate::papr::cpus::{CpuState, Joined};
use crate::papr::status::{H_BAD_MODE, H_CONTINUE, H_FUNCTION, H_SUCCESS};
use crate::papr::{Action, Outcome};

pub(super) fn thread(inner: &Inner, mut vcpu: Box<dyn Vcpu>) {
    while let Some(entry) = inner.platform.cpus.wait_for_start(vcpu.id()) {
        let side = &inner.vcpus[vcpu.id() as usize];
        let executing = Executing::new(inner);
        // One that was meant for the life before this one.
        side.system_reset.store(false, Ordering::Release);
        vcpu.enter(entry);
        let next = run(inner, vcpu.as_mut());
        drop(executing);
        *side.last_regs.lock().unwrap_or_else(PoisonError::into_inner) = Some(vcpu.regs());
        match next {
            Next::Parked => {}
            Next::Over => return,
        }
    }
}

enum Next {
    /// stop-self: wait for start-cpu.
    Parked,
    /// The machine ends.
    Over,
}

fn run(inner: &Inner, vcpu: &mut dyn Vcpu) -> Next {
    let id = vcpu.id();
    let side = &inner.vcpus[id as usize];
    let platform = &inner.platform;
    if !inner.checkpoint() {
        return Next::Over;
    }
    loop {
        let exit = match vcpu.run() {
            Ok(exit) => exit,
            Err(error) => return fail(inner, vcpu, &error.to_string()),
        };
        side.counters.count(&exit);
        let completed = match exit {
            Exit::Hypercall { nr, args } => match answer(inner, vcpu, platform.hypercall(id, nr, &args)) {
                Ok(completed) => completed,
                Err(next) => return next,
            },
            Exit::MmioRead { addr, len } => vcpu.complete_mmio_read(platform.mmio_read(id, addr, len)),
            Exit::MmioWrite { addr, len, data } => {
                platform.mmio_write(id, addr, len, &data);
                Ok(())
            }
            Exit::Kicked => {
                if !inner.checkpoint() {
                    return Next::Over;
                }
                if side.system_reset.swap(false, Ordering::AcqRel) {
                    system_reset(inner, vcpu);
                }
                Ok(())
            }
            Exit::Budget => {
                inner.end(EndReason::Budget);
                return Next::Over;
            }
            Exit::Failed { reason } => {
                inner.end(EndReason::Failed(format!("vCPU {id}: {reason}")));
                return Next::Over;
            }
        };
        if let Err(error) = completed {
            return fail(inner, vcpu, &error.to_string());
        }
    }
}

/// Gives the guest its answer and does what the call asks of this thread. An error of the backend is for the caller to report.
fn answer(inner: &Inner, vcpu: &mut dyn Vcpu, outcome: Outcome) -> Result<Result<(), BackendError>, Next> {
    let reply = match outcome.action {
        Action::Join => HypercallReply::status(join(inner, vcpu)?),
        _ => outcome.reply,
    };
    let completed = vcpu.complete_hypercall(reply);
    match outcome.action {
        Action::None | Action::Join => {}
        Action::StopSelf => return Err(Next::Parked),
        Action::End(end) => {
            inner.end(inner.with_panic_text(end.into()));
            return Err(Next::Over);
        }
        Action::SystemReset(targets) => {
            for target in targets {
                request_system_reset(inner, target);
            }
        }
        Action::SetSprg0(value) => {
            let mut regs = vcpu.regs();
            regs.sprg[0] = value;
            vcpu.set_regs(&regs);
        }
    }
    Ok(completed)
}

/// A stopped vCPU has no state that a reset could interrupt.
fn request_system_reset(inner: &Inner, target: u32) {
    if inner.platform.cpus.state(target) == Some(CpuState::Running)
        && let Some(side) = inner.vcpus.get(target as usize)
    {
        side.system_reset.store(true, Ordering::Release);
        side.handle.kick();
    }
}

/// H_JOIN (LoPAR, Thread Join Option): the last vCPU that is awake goes on with H_CONTINUE, the others sleep until H_PROD.
fn join(inner: &Inner, vcpu: &mut dyn Vcpu) -> Result<i64, Next> {
    let id = vcpu.id();
    let cpus = &inner.platform.cpus;
    let prodded = |id: u32| inner.vcpus.get(id as usize).is_some_and(|side| side.handle.prodded());
    // An interrupt could not wake it.
    if vcpu.regs().msr & MSR_EE != 0 {
        return Ok(H_BAD_MODE);
    }
    // A prod that came early is used up now.
    if !prodded(id) && cpus.join(id, prodded) == Joined::Last {
        return Ok(H_CONTINUE);
    }
    let status = loop {
        match vcpu.wait_for_prod() {
            None => break Ok(H_FUNCTION),
            Some(Woken::Prodded) => break Ok(H_SUCCESS),
            Some(Woken::Kicked) => {
                if !inner.checkpoint() {
                    break Err(Next::Over);
                }
                if inner.vcpus[id as usize].system_reset.load(Ordering::Acquire) {
                    // The next look finds it again, with the call complete.
                    inner.vcpus[id as usize].handle.kick();
                    break Ok(H_SUCCESS);
                }
            }
        }
    };
    cpus.joined_no_more(id);
    status
}

fn fail(inner: &Inner, vcpu: &dyn Vcpu, reason: &str) -> Next {
    let dump = crate::stats::register_dump(&vcpu.regs());
    inner.end(EndReason::Failed(format!("vCPU {}: {reason}\n{dump}", vcpu.id())));
    Next::Over
}

/// A system reset interrupt (ISA 3.0B III 6.5.1): SRR0 and SRR1 hold the interrupted state, vector 0x100 is entered in real mode.
fn system_reset(inner: &Inner, vcpu: &mut dyn Vcpu) {
    const VECTOR: u64 = 0x100;
    let mut regs = vcpu.regs();
    let (_, little_endian) = inner.platform.vm.interrupt_mode();
    regs.srr0 = regs.pc;
    regs.srr1 = regs.msr;
    regs.pc = VECTOR;
    regs.msr = MSR_SF | MSR_ME | if little_endian { MSR_LE } else { 0 };
    vcpu.set_regs(&regs);
}
