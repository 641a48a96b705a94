//! The hypercalls that the software CPU serves itself, made by a guest's `sc 1`, and accesses through the page table that they have filled: every
//! sequence is answered, and what was entered is what is read.

use paperboat_hypervisor::{
    ClockMode, EntryState, Exit, GuestRam, HypercallArgs, HypercallReply, Processor, Vcpu, VcpuRegs, VmConfig,
};
use paperboat_microvm::backend::{BackendChoice, CpuOptions, create_vm};
use paperboat_softcpu::SERVED_HYPERCALLS;
use vm_memory::{Bytes, GuestAddress};

use crate::input::Input;

const MEMORY_BYTES: u64 = 1 << 20;
const VCPUS: u32 = 2;
/// Of 16384 entries.
const HPT_ORDER: u32 = 18;
/// Calls of one input; more show nothing new.
const CALLS_MAX: usize = 64;
/// Instructions of a vCPU, of which each call takes a handful: a guest may overwrite what is executed next.
const BUDGET: u64 = 100_000;

/// A hypercall that nobody serves inside: the end of every program.
const OUTSIDE: u64 = 0x7ff4;
/// li r3,OUTSIDE; sc 1
const LEAVE: [u32; 2] = [0x3860_0000 | OUTSIDE as u32, 0x4400_0022];
/// Where the programs stand, above the interrupt vectors.
const CALL: u64 = 0x1000;
const LOAD: u64 = 0x1100;
const STORE: u64 = 0x1200;
/// slbmte r6,r7; mtmsrd r8; isync
const TRANSLATE: [u32; 3] = [0x7cc0_3b24, 0x7d00_0164, 0x4c00_012c];
/// ld r5,0(r9) and std r5,0(r9)
const ACCESS: [u32; 2] = [0xe8a9_0000, 0xf8a9_0000];

const MSR_SF: u64 = 1 << 63;
const MSR_PR: u64 = 1 << 14;
const MSR_DR: u64 = 1 << 4;

const H_ENTER: u64 = 0x08;
const H_READ: u64 = 0x0c;
const H_CEDE: u64 = 0xe0;
const H_SET_MODE: u64 = 0x31c;
/// Resources of H_SET_MODE that are served inside.
const BREAKPOINTS: [u64; 3] = [1, 2, 5];
const H_SUCCESS: u64 = 0;

/// Numbers that mean something: entries at the edges, flags (exact, four, AVPN, any of, zero, copy), areas of a vCPU, words of H_BULK_REMOVE,
/// addresses at the edges of memory, SLB entries.
const KNOWN: [u64; 24] = [
    1,
    7,
    8,
    0x3ff8,
    0x3fff,
    0x4000,
    1 << 39,
    1 << 37,
    1 << 31,
    1 << 30,
    1 << 15,
    1 << 14,
    1 << 45,
    2 << 45,
    3 << 45,
    5 << 45,
    0x40 << 56,
    0x42 << 56 | 1,
    0x41 << 56 | 8,
    0xc0 << 56,
    MEMORY_BYTES,
    MEMORY_BYTES - 0x1000,
    // Valid, entry 0, effective segment 0.
    1 << 27,
    // Bolted, valid, memory coherent, readable and writable.
    0x192,
];

/// Vectors, all of which leave, and the three programs.
fn programs() -> Vec<u8> {
    let mut words = LEAVE.repeat(CALL as usize / 8);
    let mut place = |at: u64, code: &[u32]| {
        words.resize(at as usize / 4, 0);
        words.extend(code);
        words.extend(LEAVE);
    };
    // sc 1; mr r13,r3
    place(CALL, &[0x4400_0022, 0x7c6d_1b78]);
    for (at, access) in [(LOAD, ACCESS[0]), (STORE, ACCESS[1])] {
        place(at, &[TRANSLATE[0], TRANSLATE[1], TRANSLATE[2], access]);
    }
    words.into_iter().flat_map(u32::to_be_bytes).collect()
}

struct Guest {
    ram: GuestRam,
    programs: Vec<u8>,
    vcpus: Vec<Box<dyn Vcpu>>,
}

impl Guest {
    fn new() -> Self {
        let ram = GuestRam::new(MEMORY_BYTES).expect("a MiB of memory");
        let config = VmConfig {
            ram: ram.clone(),
            vcpu_count: VCPUS,
            hpt_order: HPT_ORDER,
            clock: ClockMode::Host,
            budget_instructions: Some(BUDGET),
            processor: Processor::Native,
            threads_per_core: 1,
            presentation: Default::default(),
        };
        let vm = create_vm(BackendChoice::Soft, config, CpuOptions::default()).expect("the software CPU").vm;
        let vcpus = (0..VCPUS).map(|id| vm.create_vcpu(id).expect("a vCPU")).collect();
        Self { ram, programs: programs(), vcpus }
    }

    /// Enters vCPU `id` at `pc` with registers from r3 on; its registers when it has left, and by which hypercall. `None`: the guest has destroyed
    /// its program.
    fn enter(&mut self, id: usize, pc: u64, registers: &[u64]) -> Option<(u64, VcpuRegs)> {
        // What a guest has overwritten is made again.
        self.ram.memory().write_slice(&self.programs, GuestAddress(0)).expect("it is memory");
        let vcpu = &mut self.vcpus[id];
        vcpu.enter(EntryState { pc, msr: MSR_SF, r3: 0, r4: 0 });
        let mut regs = vcpu.regs();
        regs.gpr[3..3 + registers.len()].copy_from_slice(registers);
        vcpu.set_regs(&regs);
        loop {
            match vcpu.run().expect("every exit was completed") {
                Exit::Hypercall { nr, .. } => {
                    let regs = vcpu.regs();
                    vcpu.complete_hypercall(HypercallReply::status(0)).expect("a hypercall is pending");
                    return Some((nr, regs));
                }
                Exit::MmioRead { .. } => vcpu.complete_mmio_read([0; 8]).expect("a load is pending"),
                Exit::MmioWrite { .. } => {}
                Exit::Budget => return None,
                exit => panic!("{exit:?}"),
            }
        }
    }

    /// A hypercall: its status, and what came back in r4 and r5.
    fn call(&mut self, id: usize, nr: u64, args: &HypercallArgs) -> Option<(u64, [u64; 2])> {
        let handle = self.vcpus[id].handle();
        // Nothing else ends a cede.
        handle.set_external_interrupt(nr == H_CEDE);
        let registers: Vec<u64> = [nr].into_iter().chain(*args).collect();
        let left = self.enter(id, CALL, &registers);
        handle.set_external_interrupt(false);
        let (left_by, regs) = left?;
        if left_by != OUTSIDE {
            let mut left = vec![0; self.programs.len()];
            self.ram.memory().read_slice(&mut left, GuestAddress(0)).expect("it is memory");
            assert_ne!(left, self.programs, "{nr:#x} is not served");
            return None;
        }
        Some((regs.gpr[13], [regs.gpr[4], regs.gpr[5]]))
    }

    /// What H_ENTER has entered is there, where it says, in the group that was asked for.
    fn entered(&mut self, id: usize, asked: &HypercallArgs, ptex: u64) -> Option<()> {
        /// Bits that are the hypervisor's, of the first and of the second doubleword.
        const RESERVED: [u64; 2] = [0x60, 1 << 62];
        const VALID: u64 = 1;
        let [_, group, v, r, ..] = *asked;
        assert_eq!(ptex / 8, group / 8);
        let (status, words) = self.call(id, H_READ, &[0, ptex, 0, 0, 0, 0, 0, 0, 0])?;
        assert_eq!((status, words), (H_SUCCESS, [v & !RESERVED[0] | VALID, r & !RESERVED[1]]));
        Some(())
    }
}

/// A byte for the CPU, one for the call (behind the last: a load, a store), nine arguments; for an access the two words of an SLB entry, the state
/// (bit 0: problem state) and the address.
pub fn run(data: &[u8]) {
    // A guest that destroys its program has said enough.
    let _ = sequence(data);
}

fn sequence(data: &[u8]) -> Option<()> {
    let mut guest = Guest::new();
    let mut input = Input::new(data);
    for _ in 0..CALLS_MAX {
        if input.is_empty() {
            break;
        }
        let id = usize::from(input.byte()) % VCPUS as usize;
        let row = usize::from(input.byte()) % (SERVED_HYPERCALLS.len() + 2);
        let Some((nr, ..)) = SERVED_HYPERCALLS.get(row) else {
            let program = if row == SERVED_HYPERCALLS.len() { LOAD } else { STORE };
            let [entry, number, state, address] = std::array::from_fn(|_| input.value(&KNOWN));
            let msr = MSR_SF | MSR_DR | if state & 1 == 0 { 0 } else { MSR_PR };
            guest.enter(id, program, &[0, 0, 0, entry, number, msr, address])?;
            continue;
        };
        let mut args: HypercallArgs = std::array::from_fn(|_| input.value(&KNOWN));
        if *nr == H_SET_MODE {
            // Its other resources are the machine's.
            args[1] = BREAKPOINTS[args[1] as usize % BREAKPOINTS.len()];
        }
        let (status, [ptex, _]) = guest.call(id, *nr, &args)?;
        if *nr == H_ENTER && status == H_SUCCESS {
            guest.entered(id, &args, ptex)?;
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_goes_through_the_entry_that_was_made() {
        const PAGE: u64 = 0x5000;
        const WORD: u64 = 0x0123_4567_89ab_cdef;
        // Valid segment 0 as SLB entry 0; readable and writable memory.
        let through = [0, 0, 0, 0x400, 1 << 27, MSR_SF | MSR_DR, 8];
        let mut guest = Guest::new();
        guest.ram.memory().write_slice(&WORD.to_be_bytes(), GuestAddress(PAGE + 8)).unwrap();
        let (_, regs) = guest.enter(0, LOAD, &through).unwrap();
        assert_ne!(regs.gpr[5], WORD, "there is no entry");
        assert_eq!(guest.call(0, H_ENTER, &[0, 0, 1, PAGE | 0x12, 0, 0, 0, 0, 0]), Some((H_SUCCESS, [0, 0])));
        let (left_by, regs) = guest.enter(1, LOAD, &through).unwrap();
        assert_eq!((left_by, regs.gpr[5]), (OUTSIDE, WORD));
    }
}
