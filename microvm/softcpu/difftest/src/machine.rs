//! Our side: a whole machine without devices, in privileged state, in real mode or with every page of its memory mapped to itself.

use paperboat_hypervisor::{BackendError, ClockMode, EntryState, Exit, GuestRam, InterruptMode, RamError, Vcpu, Vm, VmConfig};
use paperboat_softcpu::SoftVm;
use paperboat_softcpu::exec::Cpu;
use vm_memory::{Bytes, GuestAddress};

use crate::case::{Case, Endian, Outcome};
use crate::image::{BASE, BATCH, DONE, Image, MSR, MSR_LE, Target};

const RAM_BYTES: u64 = 64 << 20;
/// Four entries for each page of 4 KiB.
const HPT_ORDER: u32 = 20;
/// MSR\[IR\] and MSR\[DR\].
const MSR_RELOCATE: u64 = 0x30;
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

/// How the program's addresses are translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Translation {
    /// MSR\[IR\] and MSR\[DR\] off.
    Real,
    /// One segment with pages of this size (log2, 12 or 16), identity-mapped.
    Paged(u32),
}

impl Translation {
    /// A different one for each batch in turn.
    pub fn of_batch(number: usize) -> Self {
        [Self::Real, Self::Paged(16), Self::Paged(12)][number / 2 % 3]
    }
}

/// Segment 0 with VSID `VSID`, and its pages where the primary hash (VSID ^ page, ISA 3.0B III 5.7.8.2) puts them.
fn map(cpu: &mut Cpu, page_shift: u32) {
    const VSID: u64 = 5;
    const SLB_VALID: u64 = 0x0800_0000;
    const MEMORY_COHERENT: u64 = 0x10;
    let (size, large, lp) = if page_shift == 16 { (0x110, 4, 0x1000) } else { (0, 0, 0) };
    let _ = cpu.storage.slb.slbmte(VSID << 12 | size, SLB_VALID);
    let hpt = &cpu.shared.hpt;
    for page in 0..RAM_BYTES >> page_shift {
        let group = (VSID ^ page) % (hpt.entry_count() / 8);
        let v = VSID << 12 | (page << page_shift >> 16) & !0x7f | large;
        let reply = hpt.h_enter(0, group * 8, v, page << page_shift | lp | MEMORY_COHERENT, RAM_BYTES);
        assert_eq!(reply.reply.status, 0, "page {page:#x}: the table is large enough");
    }
}

/// Runs a batch of cases on the software CPU.
///
/// # Errors
/// [`MachineError`] if the program did not come to its end; an interrupt in a case is an outcome, not an error.
pub fn run(cases: &[Case], endian: Endian, translation: Translation) -> Result<Vec<Outcome>, MachineError> {
    let image = Image::new(cases, endian, Target::Bare);
    let ram = GuestRam::new(RAM_BYTES)?;
    ram.memory().write_slice(&image.bytes, GuestAddress(BASE))?;
    for (vector, code) in &image.vectors {
        ram.memory().write_slice(code, GuestAddress(*vector))?;
    }
    let vm = SoftVm::new(VmConfig {
        ram: ram.clone(),
        vcpu_count: 1,
        hpt_order: HPT_ORDER,
        clock: ClockMode::Deterministic,
        budget_instructions: Some(BUDGET),
        processor: Default::default(),
        threads_per_core: 1,
        presentation: Default::default(),
    })?;
    let little = endian == Endian::Little;
    vm.set_interrupt_mode(InterruptMode { ail: None, little_endian: Some(little) })?;
    let mut vcpu = vm.create_soft_vcpu(0)?;
    let msr = MSR | if little { MSR_LE } else { 0 } | if translation == Translation::Real { 0 } else { MSR_RELOCATE };
    vcpu.enter(EntryState { pc: image.entry, msr, r3: 0, r4: 0 });
    if let Translation::Paged(page_shift) = translation {
        map(vcpu.cpu(), page_shift);
    }
    match vcpu.run()? {
        Exit::Hypercall { nr: DONE, .. } => {}
        exit => return Err(MachineError::Exit { exit, dump: vcpu.dump() }),
    }
    let (offset, length) = image.results();
    let mut records = vec![0; length];
    ram.memory().read_slice(&mut records, GuestAddress(BASE + offset))?;
    Ok(image.outcomes(&records))
}
