//! System linkage, SPR moves, storage control and processor control (ISA 3.0B II, III).

use crate::mmu::SlbInvalidation;
use crate::shared::attention;
use crate::table::{Insn, Privilege, SystemOp};

use super::interrupt::facility;
use super::{Cpu, Interrupt, Stop, msr, program, spr, sprn};

/// SPR number of mtspr and mfspr: its two halves are swapped in the instruction.
pub(super) fn spr_number(insn: Insn) -> u16 {
    (insn.bits(16, 20) << 5 | insn.bits(11, 15)) as u16
}

/// Message type of a privileged doorbell, RB bits 32 to 36 (III 11.2).
const DOORBELL_TYPE: u64 = 5;

/// Executes an instruction of the class.
pub(super) fn execute(cpu: &mut Cpu, op: SystemOp, insn: Insn) -> Result<(), Stop> {
    use SystemOp::*;
    match op.row().privilege {
        Privilege::Problem => {}
        _ if cpu.problem_state() => return Err(program::privileged()),
        Privilege::Supervisor => {}
        // Hypervisor emulation assistance reaches the guest as an illegal instruction.
        Privilege::Hypervisor => return Err(program::illegal()),
    }
    let (rs, rb) = (cpu.st.gpr[insn.rt()], cpu.st.gpr[insn.rb()]);
    match op {
        Sc => {
            // LEV = 1 asks the hypervisor, from privileged state only; bits above the low one are ignored (III 3.3.1).
            if insn.bits(20, 26) & 1 != 0 && !cpu.problem_state() {
                return Err(super::Stop::Hypercall);
            }
            return Err(super::Stop::Interrupt(Interrupt::SystemCall));
        }
        Scv => {
            enabled(cpu, facility::SCV)?;
            return Err(super::Stop::Interrupt(Interrupt::SystemCallVectored(insn.bits(20, 26) as u8)));
        }
        Rfscv => {
            let target = cpu.st.lr;
            return_to(cpu, target, cpu.st.ctr);
        }
        Rfid => {
            let (target, source) = (cpu.spr[sprn::SRR0], cpu.spr[sprn::SRR1]);
            return_to(cpu, target, source);
        }
        Rfebb => return Err(super::Stop::Interrupt(Interrupt::FacilityUnavailable(facility::EBB))),
        // Both may end for any reason (II 4.6.4, III 3.3.2): they end at once.
        SystemOp::Stop | Wait => {}
        // The block ends here, and with it everything fetched before.
        Isync => {}
        Mtspr => spr::write(cpu, spr_number(insn), rs)?,
        Mfspr | Mftb => {
            if let Some(value) = spr::read(cpu, spr_number(insn))? {
                cpu.st.gpr[insn.rt()] = value;
            }
        }
        Mtmsr | Mtmsrd => {
            let old = cpu.st.msr;
            let new = match (insn.bits(15, 15) != 0, op) {
                (true, _) => msr::after_mtmsr_l1(old, rs),
                (false, Mtmsr) => msr::after_mtmsr(old, rs),
                _ => msr::after_mtmsrd(old, rs),
            };
            cpu.set_msr(new);
            cpu.npc = cpu.truncate(cpu.npc);
        }
        Mfmsr => cpu.st.gpr[insn.rt()] = cpu.st.msr,
        Slbie | Slbieg => {
            let dropped = cpu.storage.slb.slbie(rb);
            forget(cpu, dropped);
        }
        Slbia => {
            let dropped = cpu.storage.slb.slbia(insn.bits(8, 10));
            forget(cpu, dropped);
        }
        Slbmte => {
            let dropped = cpu.storage.slb.slbmte(rs, rb);
            forget(cpu, dropped);
        }
        Slbmfev => cpu.st.gpr[insn.rt()] = cpu.storage.slb.slbmfev(rb),
        Slbmfee => cpu.st.gpr[insn.rt()] = cpu.storage.slb.slbmfee(rb),
        SlbfeeRecord => {
            let found = cpu.storage.slb.slbfee(rb);
            cpu.st.gpr[insn.rt()] = found.unwrap_or(0);
            let bits = u32::from(found.is_some()) << 1 | u32::from(cpu.st.so);
            cpu.st.set_cr_field(0, bits);
        }
        Slbsync => {}
        // More than asked for is allowed: the next accesses fill the soft TLB again.
        Tlbiel => cpu.storage.forget_all(),
        Msgsndp => {
            if let Some(thread) = doorbell_target(cpu, rb) {
                cpu.shared.raise(thread, attention::DOORBELL);
            }
        }
        Msgclrp => {
            if let Some(thread) = doorbell_target(cpu, rb) {
                cpu.shared.clear(thread, attention::DOORBELL);
                cpu.doorbell &= thread != cpu.id;
            }
        }
        Hrfid | Tlbie | Tlbsync | Msgsnd | Msgclr | Msgsync | Lbzcix | Lhzcix | Lwzcix | Ldcix | Stbcix | Sthcix | Stwcix
        | Stdcix => return Err(program::illegal()),
    }
    Ok(())
}

/// The vCPU that a privileged doorbell is for: a thread of the sender's core, named by its TIR.
fn doorbell_target(cpu: &Cpu, rb: u64) -> Option<u32> {
    let thread = (rb & 0x7f) as u32;
    cpu.shared.sibling(cpu.id, thread).filter(|_| rb >> 27 & 0x1f == DOORBELL_TYPE)
}

fn enabled(cpu: &Cpu, bit: u8) -> Result<(), Stop> {
    if cpu.problem_state() && cpu.spr[sprn::FSCR] >> bit & 1 == 0 {
        return Err(super::Stop::Interrupt(Interrupt::FacilityUnavailable(bit)));
    }
    Ok(())
}

fn return_to(cpu: &mut Cpu, target: u64, source: u64) {
    let new = msr::after_return(cpu.st.msr, source);
    cpu.set_msr(new);
    cpu.npc = cpu.truncate(target & !3);
}

fn forget(cpu: &mut Cpu, dropped: SlbInvalidation) {
    cpu.storage.forget_segments(dropped);
}
