//! Counters of the machine, and how they print.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::hash::{Hash, Hasher};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use paperboat_hypervisor::{Exit, GuestRam, INTERRUPT_KINDS, VcpuRegs, VcpuStats};

use crate::machine::Machine;

/// Exits of one vCPU by kind.
#[derive(Debug, Default)]
pub struct VcpuCounters {
    exits: [AtomicU64; KINDS.len()],
}

const KINDS: [&str; 6] = ["hypercall", "mmio_read", "mmio_write", "kicked", "budget", "failed"];

impl VcpuCounters {
    /// Counts one exit.
    pub fn count(&self, exit: &Exit) {
        let kind = match exit {
            Exit::Hypercall { .. } => 0,
            Exit::MmioRead { .. } => 1,
            Exit::MmioWrite { .. } => 2,
            Exit::Kicked => 3,
            Exit::Budget => 4,
            Exit::Failed { .. } => 5,
        };
        crate::machine::bump(&self.exits[kind]);
    }

    fn by_kind(&self) -> BTreeMap<&'static str, u64> {
        let all = KINDS.iter().zip(&self.exits);
        all.map(|(kind, count)| (*kind, count.load(Ordering::Relaxed))).filter(|(_, count)| *count > 0).collect()
    }
}

/// One vCPU's counters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VcpuReport {
    /// Its number.
    pub id: u32,
    /// Guest instructions, where the backend counts them.
    pub instructions: Option<u64>,
    /// Exits by kind.
    pub exits: BTreeMap<&'static str, u64>,
    /// Hypercalls and RTAS calls by name; those served in the backend under `inside`.
    pub hypercalls: BTreeMap<&'static str, u64>,
    /// Interrupts and faults delivered to the guest, by kind.
    pub interrupts: BTreeMap<&'static str, u64>,
    /// Times it ceded.
    pub cedes: u64,
}

impl VcpuReport {
    pub(crate) fn new(id: u32, stats: VcpuStats, counters: &VcpuCounters, hypercalls: Vec<(&'static str, u64)>) -> Self {
        let mut hypercalls: BTreeMap<_, _> = hypercalls.into_iter().collect();
        hypercalls.insert("inside", stats.hypercalls_inside);
        let exits = counters.by_kind();
        let interrupts = INTERRUPT_KINDS.into_iter().zip(stats.interrupts).filter(|(_, count)| *count > 0).collect();
        Self { id, instructions: stats.instructions, exits, hypercalls, interrupts, cedes: stats.cedes }
    }
}

/// One counter of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceCounter {
    /// The device's name.
    pub device: String,
    /// The counter's name.
    pub counter: &'static str,
    /// Its value.
    pub value: u64,
}

/// All counters of a machine at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineStats {
    /// vCPUs by number.
    pub vcpus: Vec<VcpuReport>,
    /// Guest memory that is backed by host memory, in bytes.
    pub memory_resident_bytes: u64,
    /// Devices.
    pub devices: Vec<DeviceCounter>,
    /// CPU time of this process.
    pub cpu_time: Duration,
}

impl MachineStats {
    pub(crate) fn new(ram: &GuestRam, vcpus: Vec<VcpuReport>, devices: Vec<DeviceCounter>) -> Self {
        // POSIX counts st_blocks in units of 512 bytes whatever the block size.
        let resident = nix::sys::stat::fstat(ram.memfd()).map_or(0, |stat| u64::try_from(stat.st_blocks).unwrap_or(0) * 512);
        Self { vcpus, memory_resident_bytes: resident, devices, cpu_time: process_cpu_time() }
    }

    /// Guest instructions of all vCPUs, where the backend counts them.
    pub fn instructions(&self) -> Option<u64> {
        self.vcpus.iter().map(|vcpu| vcpu.instructions).sum()
    }
}

impl std::fmt::Display for MachineStats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(instructions) = self.instructions() {
            let seconds = self.cpu_time.as_secs_f64();
            let mips = if seconds > 0.0 { instructions as f64 / seconds / 1e6 } else { 0.0 };
            writeln!(f, "guest instructions {instructions}, {mips:.0} MIPS")?;
        }
        writeln!(f, "cpu time {:.3} s", self.cpu_time.as_secs_f64())?;
        writeln!(f, "guest memory resident {} KiB", self.memory_resident_bytes >> 10)?;
        for vcpu in &self.vcpus {
            write!(f, "vcpu{}: interrupts {}, cedes {}", vcpu.id, vcpu.interrupts.values().sum::<u64>(), vcpu.cedes)?;
            for (name, count) in vcpu.interrupts.iter().chain(&vcpu.exits).chain(&vcpu.hypercalls) {
                write!(f, ", {name} {count}")?;
            }
            writeln!(f)?;
        }
        for counter in self.devices.iter().filter(|counter| counter.value > 0) {
            writeln!(f, "{}.{} {}", counter.device, counter.counter, counter.value)?;
        }
        Ok(())
    }
}

/// CPU time that this process has used.
pub fn process_cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// What a machine that is over has left: registers of every vCPU, instructions, a digest of guest memory. Two deterministic runs of the
/// same guest print the same.
pub fn final_state(machine: &Machine) -> String {
    let mut text = String::new();
    let instructions: Vec<_> = machine.stats().vcpus.iter().map(|vcpu| vcpu.instructions).collect();
    for (id, regs) in machine.final_registers().iter().enumerate() {
        // Writing to a String cannot fail.
        match regs {
            Some(regs) => {
                let count = instructions.get(id).copied().flatten().unwrap_or(0);
                let _ = write!(text, "cpu{id} instructions {count}\n{}", register_dump(regs));
            }
            None => {
                let _ = writeln!(text, "cpu{id} never ran");
            }
        }
    }
    let _ = writeln!(text, "memory {:016x}", memory_digest(machine.memory()));
    text
}

/// Pages of zeros are left out, touched or not: reading them would make them real.
fn memory_digest(ram: &GuestRam) -> u64 {
    const PAGE: usize = 0x1_0000;
    let file = std::fs::File::from(match ram.memfd().try_clone() {
        Ok(file) => file,
        Err(_) => return 0,
    });
    let mut page = vec![0; PAGE];
    let mut hasher = std::hash::DefaultHasher::new();
    let mut at = 0;
    while at < ram.size_bytes() {
        match nix::unistd::lseek(&file, at as i64, nix::unistd::Whence::SeekData) {
            Ok(data) => at = data as u64 & !(PAGE as u64 - 1),
            // No data behind it.
            Err(_) => break,
        }
        if file.read_exact_at(&mut page, at).is_ok() && page.iter().any(|byte| *byte != 0) {
            at.hash(&mut hasher);
            page.hash(&mut hasher);
        }
        at += PAGE as u64;
    }
    hasher.finish()
}

/// Registers as text, for failures.
pub fn register_dump(regs: &VcpuRegs) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(text, "pc {:016x} msr {:016x} lr {:016x} ctr {:016x}", regs.pc, regs.msr, regs.lr, regs.ctr);
    let _ = writeln!(text, "cr {:08x} xer {:x} srr0 {:016x} srr1 {:016x}", regs.cr, regs.xer, regs.srr0, regs.srr1);
    let _ = writeln!(text, "dar {:016x} dsisr {:08x} sprg {:x?}", regs.dar, regs.dsisr, regs.sprg);
    for (index, row) in regs.gpr.chunks(4).enumerate() {
        let values: Vec<String> = row.iter().map(|value| format!("{value:016x}")).collect();
        let _ = writeln!(text, "r{:<2} {}", index * 4, values.join(" "));
    }
    text
}
