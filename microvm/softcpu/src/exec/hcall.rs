//! The hypercalls that KVM-HV serves in the kernel (LoPAR 14.5), served inside; all others leave as exits.

use std::sync::Arc;

use paperboat_hypervisor::{HypercallArgs, HypercallReply};

use crate::mmu;
use crate::shared::{Forget, attention};

use super::{Cpu, Ram, msr, sprn};

const H_SUCCESS: i64 = 0;
const H_PARAMETER: i64 = -4;
const H_RESOURCE: i64 = -16;
const H_P2: i64 = -55;
const H_P3: i64 = -56;
const H_P4: i64 = -57;
/// First of the codes that name an unsupported flag bit.
const H_UNSUPPORTED_FLAG: i64 = -256;

const H_SET_DABR: u64 = 0x28;
const H_REGISTER_VPA: u64 = 0xdc;
const H_CEDE: u64 = 0xe0;
const H_CONFER: u64 = 0xe4;
const H_PROD: u64 = 0xe8;
const H_SET_XDABR: u64 = 0x134;
const H_RANDOM: u64 = 0x300;
const H_SET_MODE: u64 = 0x31c;

/// Resources of H_SET_MODE.
const MODE_CIABR: u64 = 1;
const MODE_DAWR0: u64 = 2;
const MODE_DAWR1: u64 = 5;

/// What became of a hypercall.
pub(super) enum Outcome {
    /// Served; registers are set.
    Done,
    /// H_CEDE: sleep until there is a reason to go on.
    Cede,
    /// The machine has to serve it.
    Leave,
}

/// The areas that H_REGISTER_VPA (LoPAR 14.11.3.2) registers for a vCPU, as real addresses.
#[derive(Debug, Clone, Default)]
pub struct Areas {
    vpa: Option<u64>,
    slb_shadow: Option<(u64, u32)>,
    dispatch_log: Option<(u64, u32)>,
}

/// Offset of `size` in an area's header: 16 bits at 4 for the VPA, 32 bits at 4 for the others.
const AREA_SIZE: u64 = 4;
/// Smallest VPA: the architected 640 bytes.
const VPA_BYTES: u64 = 640;
/// Offset of the old status byte, and its "shared processor" bit.
const VPA_STATUS: u64 = 9;
const VPA_SHARED_PROCESSOR: u64 = 2;
/// Offset of the yield count.
const VPA_YIELD_COUNT: u64 = 0x100;
/// Areas begin at a line of the data cache.
const AREA_ALIGNMENT: u64 = 128;
const SMALLEST_LOG: u32 = 48;

impl Areas {
    /// Notes in the VPA that the vCPU starts (`running`, even count) or stops (odd count) executing.
    pub fn yielded(&self, ram: &Ram, running: bool) {
        let Some(vpa) = self.vpa else { return };
        let count = (ram.load::<4>(vpa + VPA_YIELD_COUNT) as u32).swap_bytes();
        let is_running = count.is_multiple_of(2);
        if is_running != running {
            ram.store::<4>(vpa + VPA_YIELD_COUNT, u64::from(count.wrapping_add(1).swap_bytes()));
        }
    }

    fn register(&mut self, ram: &Ram, function: u64, address: u64, running: bool) -> i64 {
        const REGISTER_VPA: u64 = 1;
        const REGISTER_LOG: u64 = 2;
        const REGISTER_SLB: u64 = 3;
        const DEREGISTER_VPA: u64 = 5;
        const DEREGISTER_LOG: u64 = 6;
        const DEREGISTER_SLB: u64 = 7;
        let is_bad = address == 0 || !address.is_multiple_of(AREA_ALIGNMENT);
        match function {
            REGISTER_VPA | REGISTER_LOG | REGISTER_SLB if is_bad => H_PARAMETER,
            REGISTER_VPA => {
                let size = (ram.load::<2>(address.wrapping_add(AREA_SIZE)) as u16).swap_bytes();
                let size = u64::from(size);
                let crosses = address % 4096 + size > 4096;
                if size < VPA_BYTES || crosses || !ram.contains(address, size) {
                    return H_PARAMETER;
                }
                let status = ram.load::<1>(address + VPA_STATUS);
                ram.store::<1>(address + VPA_STATUS, status | VPA_SHARED_PROCESSOR);
                ram.store::<4>(address + VPA_YIELD_COUNT, u64::from(1u32.swap_bytes()));
                self.vpa = Some(address);
                self.yielded(ram, running);
                H_SUCCESS
            }
            REGISTER_LOG | REGISTER_SLB => {
                let size = (ram.load::<4>(address.wrapping_add(AREA_SIZE)) as u32).swap_bytes();
                if size < SMALLEST_LOG || !ram.contains(address, u64::from(size)) {
                    return H_PARAMETER;
                }
                if self.vpa.is_none() {
                    return H_RESOURCE;
                }
                let area = Some((address, size));
                if function == REGISTER_LOG {
                    self.dispatch_log = area
                } else {
                    self.slb_shadow = area
                }
                H_SUCCESS
            }
            DEREGISTER_VPA => {
                if self.dispatch_log.is_some() || self.slb_shadow.is_some() {
                    return H_RESOURCE;
                }
                self.vpa = None;
                H_SUCCESS
            }
            DEREGISTER_LOG => {
                self.dispatch_log = None;
                H_SUCCESS
            }
            DEREGISTER_SLB => {
                self.slb_shadow = None;
                H_SUCCESS
            }
            _ => H_PARAMETER,
        }
    }
}

/// Writes a reply to the registers.
pub(crate) fn reply(cpu: &mut Cpu, reply: &HypercallReply) {
    cpu.st.gpr[3] = reply.status as u64;
    let count = reply.count.min(reply.outputs.len());
    cpu.st.gpr[4..4 + count].copy_from_slice(&reply.outputs[..count]);
}

/// Serves the hypercall in the registers, if it is one of ours. `forget` makes every vCPU forget an entry before it returns.
pub(super) fn serve(cpu: &mut Cpu, nr: u64, args: &HypercallArgs, forget: impl FnOnce(&mut Cpu, &[Forget])) -> Outcome {
    if mmu::serves(nr) {
        let shared = Arc::clone(&cpu.shared);
        let Some(answer) = shared.hpt.hypercall(nr, args, &shared.memory) else {
            return Outcome::Leave;
        };
        let dropped: Vec<Forget> = answer.dropped.as_slice().iter().map(|ptex| Forget::Ptex(*ptex)).collect();
        forget(cpu, &dropped);
        reply(cpu, &answer.reply);
        return Outcome::Done;
    }
    let status = match nr {
        H_CEDE => {
            // The call enables external interrupts and returns when one came (LoPAR 14.11.3.3).
            cpu.set_msr(cpu.st.msr | msr::EE);
            cpu.st.gpr[3] = H_SUCCESS as u64;
            return Outcome::Cede;
        }
        H_PROD => match u32::try_from(args[0]) {
            Ok(target) if cpu.shared.exists(target) => {
                cpu.shared.raise(target, attention::PROD);
                H_SUCCESS
            }
            _ => H_PARAMETER,
        },
        H_CONFER => {
            // -1 confers to all. The host's scheduler decides who runs; the conferring thread steps back once.
            let target = args[0] as u32;
            if target != u32::MAX && !cpu.shared.exists(target) {
                H_PARAMETER
            } else {
                std::thread::yield_now();
                H_SUCCESS
            }
        }
        H_REGISTER_VPA => register_vpa(cpu, args),
        H_RANDOM => {
            let random = cpu.shared.random();
            reply(cpu, &HypercallReply::with(H_SUCCESS, &[random]));
            return Outcome::Done;
        }
        H_SET_DABR => {
            // DABR[61:63] are translation, store and load; DAWRX has them as WT, DW and DR (III 9.4).
            let control = (args[0] & 4) << 2 | (args[0] & 2) << 5 | (args[0] & 1) << 5 | DAWRX_GUEST;
            set_dawr(cpu, args[0] & !7, control);
            H_SUCCESS
        }
        H_SET_XDABR => {
            if args[1] & 3 == 0 || args[1] > 3 {
                H_PARAMETER
            } else {
                let control = (args[0] & 4) << 2 | (args[0] & 2) << 5 | (args[0] & 1) << 5 | args[1] & 3;
                set_dawr(cpu, args[0] & !7, control);
                H_SUCCESS
            }
        }
        H_SET_MODE if matches!(args[1], MODE_CIABR | MODE_DAWR0 | MODE_DAWR1) => set_mode(cpu, args),
        _ => return Outcome::Leave,
    };
    cpu.st.gpr[3] = status as u64;
    Outcome::Done
}

/// PRIVM for problem and privileged state, and its hypervisor bit.
const DAWRX_GUEST: u64 = 3;
const DAWRX_HYPERVISOR: u64 = 4;

fn set_dawr(cpu: &mut Cpu, address: u64, control: u64) {
    cpu.spr[sprn::DAWR0] = address;
    cpu.spr[sprn::DAWRX0] = control;
    cpu.storage.set_watchpoint(address, control);
}

fn set_mode(cpu: &mut Cpu, args: &HypercallArgs) -> i64 {
    let [flags, resource, value1, value2, ..] = *args;
    match resource {
        // A second watchpoint came with POWER10.
        MODE_DAWR1 => H_P2,
        _ if flags != 0 => H_UNSUPPORTED_FLAG,
        MODE_CIABR if value2 != 0 => H_P4,
        // CIABR[PRIV] = 3 is the hypervisor's.
        MODE_CIABR if value1 & 3 == 3 => H_P3,
        MODE_CIABR => {
            cpu.spr[sprn::CIABR] = value1;
            H_SUCCESS
        }
        _ if value2 & DAWRX_HYPERVISOR != 0 => H_P4,
        _ => {
            set_dawr(cpu, value1, value2);
            H_SUCCESS
        }
    }
}

/// H_REGISTER_VPA: flags hold the subfunction in bits 16 to 18; any vCPU may register any other's areas.
fn register_vpa(cpu: &Cpu, args: &HypercallArgs) -> i64 {
    let [flags, target, address, ..] = *args;
    let Ok(target) = u32::try_from(target) else {
        return H_PARAMETER;
    };
    let (ram, is_self) = (&cpu.shared.ram, target == cpu.id);
    cpu.shared.with_areas(target, |areas| areas.register(ram, (flags >> 45) & 7, address, is_self)).unwrap_or(H_PARAMETER)
}
