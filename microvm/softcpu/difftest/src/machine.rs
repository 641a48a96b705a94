//! Our side: a whole machine without devices, in real mode and privileged state.

use paperboat_hypervisor::{BackendError, ClockMode, EntryState, Exit, GuestRam, InterruptMode, RamError, Vcpu, Vm, VmConfig};
use paperboat_softcpu::SoftVm;
use vm_memory::{Bytes, GuestAddress};

use crate::case::{Case, Endian, Outcome};
use crate::image::{BASE, BATCH, DONE, Image, MSR, MSR_LE, Target};

const RAM_BYTES: u64 = 64 << 20;
/// The runtime takes some 320 instructions a case.
const BUDGET: u64 = BATCH as u64 * 1000;

/// Why our CPU could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// No memory for it.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// The backend refused.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The program does not fit.
    #[error("the program does not fit into the machine's memory")]
    Memory(#[from] vm_memory::GuestMemoryError),
    /// The program did not come to its end.
    #[error("the program left the CPU in an unexpected way: {exit:?}\n{dump}")]
    Exit {
        /// How.
        exit: Exit,
        /// The CPU's state.
        dump: String,
    },
}

/// Runs a batch of cases on the software CPU.
///
/// # Errors
/// [`MachineError`] if the program did not come to its end; an interrupt in a case is an outcome, not an error.
pub fn run(cases: &[Case], endian: Endian) -> Result<Vec<Outcome>, MachineError> {
    let image = Image::new(cases, endian, Target::Bare);
    let ram = GuestRam::new(RAM_BYTES)?;
    ram.memory().write_slice(&image.bytes, GuestAddress(BASE))?;
    for (vector, code) in &image.vectors {
        ram.memory().write_slice(code, GuestAddress(*vector))?;
    }
    let vm = SoftVm::new(VmConfig {
        ram: ram.clone(),
        vcpu_count: 1,
        hpt_order: 18,
        clock: ClockMode::Deterministic,
        budget_instructions: Some(BUDGET),
    })?;
    let little = endian == Endian::Little;
    vm.set_interrupt_mode(InterruptMode { ail: None, little_endian: Some(little) })?;
    let mut vcpu = vm.create_soft_vcpu(0)?;
    vcpu.enter(EntryState { pc: image.entry, msr: MSR | if little { MSR_LE } else { 0 }, r3: 0, r4: 0 });
    match vcpu.run()? {
        Exit::Hypercall { nr: DONE, .. } => {}
        exit => return Err(MachineError::Exit { exit, dump: vcpu.dump() }),
    }
    let (offset, length) = image.results();
    let mut records = vec![0; length];
    ram.memory().read_slice(&mut records, GuestAddress(BASE + offset))?;
    Ok(image.outcomes(&records))
}
