//! The backend: [`SoftVm`] and its vCPUs behind the hypervisor trait.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use paperboat_hypervisor::{
    BackendError, Capabilities, EntryState, Exit, HypercallReply, InterruptMode, Presentation, Processor, Vcpu, VcpuHandle,
    VcpuRegs, VcpuStats, Vm, VmConfig, Woken,
};

use crate::clock::TIMEBASE_HZ;
use crate::coverage::Coverage;
use crate::exec::{Cpu, Engine, sprn};
use crate::exec::{Owed, hypercall_reply};
use crate::mmu::{Hpt, HptError, SLB_ENTRIES, segment_page_sizes};
use crate::shared::{Shared, attention};
use crate::trace::{TraceConfig, Tracer};

/// POWER9 DD2.2: no DAWR and no transactional memory for partitions, no radix workarounds in Linux.
pub const PVR: u32 = 0x004e_1202;
/// Logical PVRs of architecture 3.00 and 2.07.
const CPU_VERSION: u32 = 0x0f00_0005;
const CPU_VERSION_POWER8: u32 = 0x0f00_0004;
/// Most vCPUs of a partition.
const MAX_VCPUS: u32 = 64;
/// Sizes of the hashed page table (ISA 3.0B III 5.7.8.1).
const HPT_ORDERS: std::ops::RangeInclusive<u32> = 18..=46;

/// Instructions are words: the two low bits of their address are ignored (ISA 3.0B I 1.3.3). What looks up code by address relies on it.
const INSTRUCTION_ADDRESS: u64 = !3;

/// Longest sleep in one go; a bound on what a lost wake-up could cost.
const LONGEST_SLEEP: Duration = Duration::from_millis(500);

/// `ibm,pa-features` (LoPAR C.6.2): 66 attribute bytes, so that no byte keeps a guest's default. Zero is what is not offered:
/// transactional memory (22), large decrementer (24), performance monitor (28, 42), event-based branches (34), radix (40),
/// decimal floating point (54).
fn pa_features(processor: Processor) -> Vec<u8> {
    let mut features = vec![
        66, 0, // length, attribute type
        0xf6, 0x3f, 0xc7, 0xc0, 0x00, 0xf0, // 0 to 5: MMU, FPU, SLB …; little-endian, CFAR, lq
        0x80, 0x00, 0x00, 0x00, 0x00, 0x00, // 6 to 11: 2.07 data streams
        0x00, 0x00, 0x00, 0x00, 0x80, 0x00, // 12 to 17: vector (16)
        0x80, 0x00, 0x80, 0x00, 0x00, 0x00, // 18 to 23: VSX (18), vector XOR (20)
        0x00, 0x00, 0x80, 0x00, 0x00, 0x00, // 24 to 29: 64-bit atomics (26)
        0x00, 0x00, 0x80, 0x00, 0x00, 0x00, // 30 to 35: little-endian atomics (32)
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // 36 to 41
        0x00, 0x00, 0x80, 0x00, 0x80, 0x00, // 42 to 47: copy and paste (44), scv (46)
        0x80, 0x00, 0x80, 0x00, 0x80, 0x00, // 48 to 53: SIMD, quad precision, string
        0x00, 0x00, 0x80, 0x00, 0x80, 0x00, // 54 to 59: decimal integer, SHA
        0x80, 0x00, 0x80, 0x00, 0x00, 0x00, // 60 to 65: atomic memory operations, darn
    ];
    if processor == Processor::Power8 {
        // From copy and paste on, all is of 3.0.
        const FIRST_OF_3_0: usize = 44;
        features[2 + FIRST_OF_3_0..].fill(0);
    }
    features
}

/// Nothing to flush on the way in and out of the kernel: character bits that say so (LoPAR 14.5.x, H_GET_CPU_CHARACTERISTICS).
const CPU_CHARACTERISTICS: (u64, u64) = (0, 0x01c0_0000_0000_0000);

/// A partition on the software CPU.
pub struct SoftVm {
    shared: Arc<Shared>,
    capabilities: Capabilities,
    trace: Mutex<Option<TraceConfig>>,
    coverage: Mutex<Option<Arc<Coverage>>>,
    compile_after: Mutex<CompileAfter>,
}

/// After how many runs a block of guest code is compiled for the host (x86-64; elsewhere all is interpreted).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompileAfter(Option<u8>);

impl CompileAfter {
    /// All code is interpreted.
    pub const NEVER: Self = Self(None);
    /// What can be chosen.
    const RUNS: [u8; 7] = [2, 4, 8, 16, 32, 64, 128];
}

/// Early enough that code which runs now and then is compiled, too; later than most of what runs only when Linux boots.
impl Default for CompileAfter {
    fn default() -> Self {
        Self(Some(64))
    }
}

impl std::str::FromStr for CompileAfter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "never" {
            return Ok(Self::NEVER);
        }
        let runs = text.parse().ok().filter(|runs| Self::RUNS.contains(runs));
        runs.map(|runs| Self(Some(runs))).ok_or_else(|| "must be never, or a power of two from 2 to 128".to_owned())
    }
}

impl SoftVm {
    /// Makes the partition: its page table, its clock.
    ///
    /// # Errors
    /// [`BackendError::Config`] names what is impossible; [`BackendError::Os`] what the host refused.
    pub fn new(config: VmConfig) -> Result<Self, BackendError> {
        let refuse = |what, value, allowed| Err(BackendError::Config { what, value, allowed });
        if config.vcpu_count == 0 || config.vcpu_count > MAX_VCPUS {
            return refuse("number of vCPUs", u64::from(config.vcpu_count), "1 to 64");
        }
        if config.clock == paperboat_hypervisor::ClockMode::Deterministic && config.vcpu_count != 1 {
            return refuse("number of vCPUs with the deterministic clock", u64::from(config.vcpu_count), "1");
        }
        if !HPT_ORDERS.contains(&config.hpt_order) {
            return refuse("order of the hashed page table", u64::from(config.hpt_order), "18 to 46");
        }
        if config.presentation == Presentation::Backend {
            let allowed = "machine: the software CPU has no interrupt controller of its own";
            return Err(BackendError::Config { what: "presentation of interrupts by the backend", value: 1, allowed });
        }
        let hpt = Hpt::new(config.hpt_order).map_err(|error| match error {
            HptError::Order { order } => {
                BackendError::Config { what: "order of the hashed page table", value: u64::from(order), allowed: "18 to 46" }
            }
            HptError::Memory { order } => BackendError::Os {
                call: format!("allocate a hashed page table of 2^{order} bytes"),
                source: std::io::ErrorKind::OutOfMemory.into(),
            },
        })?;
        let capabilities = Capabilities {
            pvr: PVR,
            cpu_version: match config.processor {
                Processor::Native => CPU_VERSION,
                Processor::Power8 => CPU_VERSION_POWER8,
            },
            timebase_hz: TIMEBASE_HZ,
            slb_entries: SLB_ENTRIES as u32,
            hpt_order: config.hpt_order,
            hpt_resize: false,
            segment_page_sizes: segment_page_sizes(),
            segments_1t: true,
            cpu_characteristics: CPU_CHARACTERISTICS,
            in_kernel_xics: false,
            pa_features: pa_features(config.processor),
        };
        let shared = Arc::new(Shared::new(&config, hpt)?);
        Ok(Self { shared, capabilities, trace: Mutex::new(None), coverage: Mutex::new(None), compile_after: Mutex::default() })
    }

    /// Traces the vCPUs that are made from now on.
    pub fn set_trace(&self, config: TraceConfig) {
        *self.trace.lock().unwrap_or_else(PoisonError::into_inner) = Some(config);
    }

    /// Counts the instructions of the vCPUs that are made from now on by row of the table. They execute one by one, which is slow.
    pub fn set_coverage(&self, coverage: Arc<Coverage>) {
        *self.coverage.lock().unwrap_or_else(PoisonError::into_inner) = Some(coverage);
    }

    /// When the code of the vCPUs that are made from now on is compiled.
    pub fn set_compile_after(&self, runs: CompileAfter) {
        *self.compile_after.lock().unwrap_or_else(PoisonError::into_inner) = runs;
    }

    /// Makes vCPU `id` as its own type, which offers more to tests and tools than the trait.
    ///
    /// # Errors
    /// As [`Vm::create_vcpu`].
    pub fn create_soft_vcpu(&self, id: u32) -> Result<SoftVcpu, BackendError> {
        if id >= self.shared.vcpu_count() {
            return Err(BackendError::Vcpu { id, reason: "beyond the configured number of vCPUs" });
        }
        if !self.shared.claim(id) {
            return Err(BackendError::Vcpu { id, reason: "it exists already" });
        }
        let mut cpu = Cpu::new(&self.shared, id);
        let trace = self.trace.lock().unwrap_or_else(PoisonError::into_inner).clone();
        cpu.trace = trace.map(|config| Tracer::new(id, config));
        cpu.coverage = self.coverage.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let compile_after = *self.compile_after.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(SoftVcpu { engine: Engine::new(cpu, compile_after.0) })
    }

    /// Injects a system reset into a vCPU.
    pub fn inject_system_reset(&self, id: u32) {
        self.shared.raise(id, attention::RESET);
    }

    /// Injects a machine check into a vCPU (taken once MSR\[ME\] allows), for tests of a guest's recovery.
    pub fn inject_machine_check(&self, id: u32) {
        self.shared.raise(id, attention::MACHINE_CHECK);
    }
}

impl Vm for SoftVm {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn create_vcpu(&self, id: u32) -> Result<Box<dyn Vcpu>, BackendError> {
        Ok(Box::new(self.create_soft_vcpu(id)?))
    }

    fn set_interrupt_mode(&self, change: InterruptMode) -> Result<(), BackendError> {
        if let Some(ail) = change.ail
            && !matches!(ail, 0 | 2 | 3)
        {
            return Err(BackendError::Config { what: "LPCR[AIL]", value: u64::from(ail), allowed: "0, 2 or 3" });
        }
        self.shared.set_interrupt_mode(change);
        Ok(())
    }

    fn interrupt_mode(&self) -> (u8, bool) {
        self.shared.interrupt_mode()
    }
}

/// A vCPU.
pub struct SoftVcpu {
    engine: Engine,
}

impl SoftVcpu {
    /// The state of the vCPU, for tests and tools.
    pub fn cpu(&mut self) -> &mut Cpu {
        &mut self.engine.cpu
    }

    /// Registers and translations as text.
    pub fn dump(&self) -> String {
        self.engine.dump()
    }
}

impl Vcpu for SoftVcpu {
    fn id(&self) -> u32 {
        self.engine.cpu.id
    }

    fn enter(&mut self, entry: EntryState) {
        self.engine.cpu.reset();
        let cpu = &mut self.engine.cpu;
        cpu.st.gpr[3] = entry.r3;
        cpu.st.gpr[4] = entry.r4;
        cpu.st.pc = entry.pc & INSTRUCTION_ADDRESS;
        cpu.set_msr(entry.msr & crate::exec::msr::IMPLEMENTED);
        self.engine.restart();
    }

    fn run(&mut self) -> Result<Exit, BackendError> {
        if self.engine.owed != Owed::Nothing {
            return Err(BackendError::Protocol { id: self.id(), reason: "the last exit was not completed" });
        }
        Ok(self.engine.run())
    }

    fn complete_hypercall(&mut self, reply: HypercallReply) -> Result<(), BackendError> {
        if self.engine.owed != Owed::Hypercall {
            return Err(BackendError::Protocol { id: self.id(), reason: "no hypercall is pending" });
        }
        self.engine.owed = Owed::Nothing;
        hypercall_reply(&mut self.engine.cpu, &reply);
        Ok(())
    }

    fn complete_mmio_read(&mut self, data: [u8; 8]) -> Result<(), BackendError> {
        let Owed::Load { ra, size, little_endian } = self.engine.owed else {
            return Err(BackendError::Protocol { id: self.id(), reason: "no load is pending" });
        };
        self.engine.owed = Owed::Nothing;
        let bytes = &data[..usize::from(size).min(8)];
        let fold = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
        let value = if little_endian { bytes.iter().rev().fold(0, fold) } else { bytes.iter().fold(0, fold) };
        self.engine.complete_load(ra, size, value);
        Ok(())
    }

    fn wait_for_prod(&mut self) -> Option<Woken> {
        let (id, shared) = (self.id(), &self.engine.cpu.shared);
        loop {
            if shared.clear(id, attention::KICK) {
                return Some(Woken::Kicked);
            }
            if shared.clear(id, attention::PROD) {
                return Some(Woken::Prodded);
            }
            shared.sleep(id, attention::KICK | attention::PROD, LONGEST_SLEEP);
        }
    }

    fn regs(&self) -> VcpuRegs {
        let cpu = &self.engine.cpu;
        VcpuRegs {
            gpr: cpu.st.gpr,
            pc: cpu.st.pc,
            msr: cpu.st.msr,
            cr: cpu.st.cr,
            lr: cpu.st.lr,
            ctr: cpu.st.ctr,
            xer: cpu.st.xer(),
            srr0: cpu.spr[sprn::SRR0],
            srr1: cpu.spr[sprn::SRR1],
            dar: cpu.spr[sprn::DAR],
            dsisr: cpu.spr[sprn::DSISR] as u32,
            sprg: [cpu.spr[sprn::SPRG0], cpu.spr[sprn::SPRG1], cpu.spr[sprn::SPRG2], cpu.spr[sprn::SPRG3]],
        }
    }

    fn set_regs(&mut self, regs: &VcpuRegs) {
        let cpu = &mut self.engine.cpu;
        cpu.st.gpr = regs.gpr;
        cpu.st.pc = regs.pc & INSTRUCTION_ADDRESS;
        cpu.st.cr = regs.cr;
        cpu.st.lr = regs.lr;
        cpu.st.ctr = regs.ctr;
        cpu.st.set_xer(regs.xer);
        cpu.set_msr(regs.msr & crate::exec::msr::IMPLEMENTED);
        let sprs = [
            (sprn::SRR0, regs.srr0),
            (sprn::SRR1, regs.srr1),
            (sprn::DAR, regs.dar),
            (sprn::DSISR, u64::from(regs.dsisr)),
            (sprn::SPRG0, regs.sprg[0]),
            (sprn::SPRG1, regs.sprg[1]),
            (sprn::SPRG2, regs.sprg[2]),
            (sprn::SPRG3, regs.sprg[3]),
        ];
        for (number, value) in sprs {
            cpu.spr[number] = value;
        }
        self.engine.restart();
    }

    fn handle(&self) -> Arc<dyn VcpuHandle> {
        Arc::new(Handle { shared: Arc::clone(&self.engine.cpu.shared), id: self.engine.cpu.id })
    }
}

/// A vCPU as other threads reach it.
struct Handle {
    shared: Arc<Shared>,
    id: u32,
}

impl VcpuHandle for Handle {
    fn set_external_interrupt(&self, asserted: bool) {
        if asserted {
            self.shared.raise(self.id, attention::EXTERNAL);
        } else {
            self.shared.clear(self.id, attention::EXTERNAL);
        }
    }

    fn kick(&self) {
        self.shared.raise(self.id, attention::KICK);
    }

    fn prodded(&self) -> bool {
        self.shared.attention(self.id) & attention::PROD != 0
    }

    fn stats(&self) -> VcpuStats {
        self.shared.stats(self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_attribute_byte_is_declared() {
        for processor in [Processor::Native, Processor::Power8] {
            let features = pa_features(processor);
            assert_eq!(features.len(), 68);
            for absent in [22, 24, 40, 54] {
                assert_eq!(features[2 + absent], 0, "byte {absent}");
            }
            assert_eq!(features[2 + 46] != 0, processor == Processor::Native, "scv");
        }
    }
}
