//! The partition: what the host offers, its memory, its hashed page table, its interrupt mode.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use paperboat_hypervisor::{
    BackendError, Capabilities, ClockMode, GuestRam, InterruptController, InterruptMode, Processor, ResizableTable, StoreEvents,
    TABLE_ORDERS, Vcpu, Vm, VmConfig,
};

use crate::bindings as b;
use crate::host::{HOST_PAGE_MIN, HostError};
use crate::pages::segment_page_sizes;
use crate::resize::Table;
use crate::sys::{Kvm, PartitionFd, XicsFd};
use crate::vcpu::{KvmVcpu, Side};
use crate::xics::{self, Events};
use crate::{kick, trampoline};

/// Most vCPUs of a partition, as everywhere in the machine.
const MAX_VCPUS: u32 = 64;
/// How long H_SET_MODE waits for the other vCPUs to leave the guest.
const MODE_LIMIT: Duration = Duration::from_secs(1);
/// How often it looks.
const MODE_LOOK: Duration = Duration::from_micros(100);
/// Guest memory and page table of the partition that [`probe`] makes.
const PROBE_MEMORY: u64 = 1 << 20;
const PROBE_ORDER: u32 = 18;

/// Hypercalls that the kernel serves only when asked to (papr: the contract of the trait). H_RANDOM is asked for where the host has a generator.
pub const OPTIONAL_CALLS: &[u64] = &[H_CLEAR_MOD, H_CLEAR_REF, H_PAGE_INIT, H_SET_MODE];
const H_CLEAR_MOD: u64 = 0x10;
const H_CLEAR_REF: u64 = 0x14;
const H_PAGE_INIT: u64 = 0x2c;
const H_SET_MODE: u64 = 0x31c;
/// Random doubleword (LoPAR, Random Number Generation).
pub const H_RANDOM: u64 = 0x300;

/// LPCR\[AIL\] (ISA 3.0B III 2.2).
const LPCR_AIL_SHIFT: u32 = 63 - 40;
const LPCR_AIL: u64 = 3 << LPCR_AIL_SHIFT;
/// LPCR\[ILE\].
const LPCR_ILE: u64 = 1 << (63 - 38);

/// What vCPUs and partition share.
pub struct Partition {
    pub(crate) fd: PartitionFd,
    /// The kernel's interrupt controller, if it presents interrupts.
    pub(crate) xics: Option<XicsFd>,
    /// The logical PVR that vCPUs are held to, if it is not the host's.
    pub(crate) compatibility: Option<u32>,
    mode: Mutex<Mode>,
    /// Counts changes of the mode; each vCPU takes one up before it enters the guest.
    mode_number: AtomicU64,
    sides: Mutex<Vec<Option<Arc<Side>>>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Mode {
    ail: u8,
    little_endian: bool,
}

impl Partition {
    /// The number of the mode in force.
    pub(crate) fn mode_number(&self) -> u64 {
        self.mode_number.load(Ordering::SeqCst)
    }

    /// `lpcr` with the mode's bits, and the mode's number.
    pub(crate) fn lpcr(&self, lpcr: u64) -> (u64, u64) {
        let mode = lock(&self.mode);
        let ile = if mode.little_endian { LPCR_ILE } else { 0 };
        (lpcr & !(LPCR_AIL | LPCR_ILE) | u64::from(mode.ail) << LPCR_AIL_SHIFT | ile, self.mode_number())
    }
}

/// A partition under KVM-HV.
pub struct KvmVm {
    partition: Arc<Partition>,
    capabilities: Capabilities,
    /// The page table, where its size can change.
    table: Option<Arc<Table>>,
    run_size: usize,
}

/// Makes the partition that `config` describes.
///
/// # Errors
/// [`HostError`] says what the host lacks.
pub fn create(config: VmConfig) -> Result<Arc<dyn Vm>, HostError> {
    let refuse = |what, value, allowed| Err(BackendError::Config { what, value, allowed }.into());
    if config.vcpu_count == 0 || config.vcpu_count > MAX_VCPUS {
        return refuse("number of vCPUs", u64::from(config.vcpu_count), "1 to 64");
    }
    if config.clock == ClockMode::Deterministic {
        return refuse("deterministic clock", 1, "0 under KVM: use backend soft");
    }
    if config.budget_instructions.is_some() {
        return refuse("budget of instructions", 1, "none under KVM: use backend soft");
    }
    if !TABLE_ORDERS.contains(&config.hpt_order) {
        return refuse("order of the hashed page table", u64::from(config.hpt_order), "18 to 46");
    }
    kick::install().map_err(|source| BackendError::Os { call: "sigaction".into(), source })?;
    let kvm = open()?;
    let mut fd = partition(&kvm)?;
    fd.set_memory(&config.ram)?;
    table(&fd, config.hpt_order)?;
    offer(&fd, config.threads_per_core)?;
    let xics = xics::create(&fd, config.presentation, config.vcpu_count)?;
    let backing = config.ram.huge_page_bytes().unwrap_or_else(page_bytes);
    let mut capabilities = capabilities(&fd, config.hpt_order, backing)?;
    let compatibility = match config.processor {
        Processor::Native => None,
        Processor::Power8 => {
            capabilities.cpu_version = Generation::Power8.logical_pvr();
            capabilities.pa_features = Generation::Power8.pa_features();
            Some(capabilities.cpu_version)
        }
    };
    capabilities.in_kernel_xics = xics.is_some();
    let run_size = kvm.run_size()?;
    let sides = (0..config.vcpu_count).map(|_| None).collect();
    let partition =
        Partition { fd, xics, compatibility, mode: Mutex::default(), mode_number: AtomicU64::new(1), sides: Mutex::new(sides) };
    let partition = Arc::new(partition);
    let table = capabilities.hpt_resize.then(|| Arc::new(Table::new(&partition, config.hpt_order)));
    Ok(Arc::new(KvmVm { partition, capabilities, table, run_size }))
}

/// See [`crate::host::probe`].
pub(crate) fn probe() -> Result<String, HostError> {
    let kvm = open()?;
    let mut fd = partition(&kvm)?;
    let ram = GuestRam::new(PROBE_MEMORY)
        .map_err(|error| BackendError::Os { call: error.to_string(), source: io::ErrorKind::OutOfMemory.into() })?;
    fd.set_memory(&ram)?;
    table(&fd, PROBE_ORDER)?;
    let capabilities = capabilities(&fd, PROBE_ORDER, page_bytes())?;
    let sizes: Vec<String> =
        capabilities.segment_page_sizes.iter().map(|row| format!("{} KiB", (1_u64 << row.base_shift) >> 10)).collect();
    Ok(format!("hash guests on a processor with PVR {:#010x}, pages of {}", capabilities.pvr, sizes.join(" and ")))
}

fn open() -> Result<Kvm, HostError> {
    let kvm = Kvm::open().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => HostError::NoDevice,
        _ => HostError::Device(error),
    })?;
    let found = kvm.api_version()?;
    if found != b::KVM_API_VERSION as i32 {
        return Err(HostError::Version { found, wanted: b::KVM_API_VERSION });
    }
    Ok(kvm)
}

fn partition(kvm: &Kvm) -> Result<PartitionFd, HostError> {
    let page_bytes = page_bytes();
    if page_bytes < HOST_PAGE_MIN {
        return Err(HostError::SmallPages { page_bytes });
    }
    // EINVAL: no module that runs guests in this mode is loaded.
    let fd = kvm.create_vm(b::KVM_VM_PPC_HV).map_err(|errno| match errno {
        Errno::EINVAL => HostError::NoHv,
        errno => BackendError::Os { call: "KVM_CREATE_VM".into(), source: errno.into() }.into(),
    })?;
    for (capability, name) in [
        (b::KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT"),
        (b::KVM_CAP_PPC_PAPR, "KVM_CAP_PPC_PAPR"),
        (b::KVM_CAP_PPC_ENABLE_HCALL, "KVM_CAP_PPC_ENABLE_HCALL"),
        (b::KVM_CAP_PPC_GET_SMMU_INFO, "KVM_CAP_PPC_GET_SMMU_INFO"),
    ] {
        if fd.capability(capability) <= 0 {
            return Err(HostError::Missing(name));
        }
    }
    Ok(fd)
}

fn table(fd: &PartitionFd, order: u32) -> Result<(), HostError> {
    fd.allocate_table(order).map_err(|errno| match errno {
        // A host that is a partition itself manages no hashed page tables for others.
        Errno::EOPNOTSUPP | Errno::ENOTTY => HostError::NoHash,
        Errno::ENOMEM => HostError::NoTable { order },
        errno => BackendError::Os { call: format!("KVM_PPC_ALLOCATE_HTAB {order}"), source: errno.into() }.into(),
    })?;
    if fd.capability(b::KVM_CAP_PPC_MMU_HASH_V3) > 0 {
        fd.choose_hash()?;
    }
    Ok(())
}

/// Has the kernel serve its half of the hypercalls, and tells it how many vCPUs share a core: whatever the host's threads are since POWER9, no
/// more than it has threads on a POWER8, where vCPUs of a core run at once.
fn offer(fd: &PartitionFd, threads_per_core: u32) -> Result<(), HostError> {
    for call in OPTIONAL_CALLS {
        fd.serve_in_kernel(*call)?;
    }
    if fd.capability(b::KVM_CAP_PPC_HWRNG) > 0 {
        fd.serve_in_kernel(H_RANDOM)?;
    }
    let threads = threads_per_core.max(1);
    // A bit for each number; 0 from kernels before 4.14, which know no such question.
    let possible = fd.capability(b::KVM_CAP_PPC_SMT_POSSIBLE).cast_unsigned();
    if threads > 1 && possible != 0 && possible & threads == 0 {
        let allowed = "no more than the host's cores have: KVM adds none on a POWER8";
        return Err(BackendError::Config { what: "threads of a core", value: threads.into(), allowed }.into());
    }
    if threads > 1 || fd.capability(b::KVM_CAP_PPC_SMT) > 1 {
        fd.enable(b::KVM_CAP_PPC_SMT, [threads.into(), 0, 0, 0])?;
    }
    Ok(())
}

fn page_bytes() -> u64 {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    size.and_then(|size| u64::try_from(size).ok()).unwrap_or(4096)
}

/// `backing`: size in bytes of the pages that guest memory consists of.
fn capabilities(fd: &PartitionFd, hpt_order: u32, backing: u64) -> Result<Capabilities, HostError> {
    let info = fd.smmu_info()?;
    let pvr = trampoline::host_pvr();
    let cpu_characteristics = if fd.capability(b::KVM_CAP_PPC_GET_CPU_CHAR) > 0 {
        let answer = fd.cpu_characteristics()?;
        (answer.character & answer.character_mask, answer.behaviour & answer.behaviour_mask)
    } else {
        // What nothing is known of needs everything (LoPAR, H_GET_CPU_CHARACTERISTICS): favour security, flush, bounds checks.
        (0, 0b111 << 61)
    };
    Ok(Capabilities {
        pvr,
        cpu_version: Generation::of(pvr).logical_pvr(),
        timebase_hz: timebase_hz()?,
        slb_entries: info.slb_size,
        hpt_order,
        hpt_resize: fd.capability(b::KVM_CAP_SPAPR_RESIZE_HPT) > 0,
        segment_page_sizes: segment_page_sizes(&info, backing.ilog2()),
        segments_1t: info.flags & u64::from(b::KVM_PPC_1T_SEGMENTS) != 0,
        cpu_characteristics,
        in_kernel_xics: false,
        pa_features: Generation::of(pvr).pa_features(),
    })
}

/// Time base frequency, as the host's own device tree has it: cells, big-endian.
fn timebase_hz() -> Result<u64, BackendError> {
    const CPUS: &str = "/proc/device-tree/cpus";
    let failed = |source| BackendError::Os { call: format!("read timebase-frequency below {CPUS}"), source };
    for entry in std::fs::read_dir(CPUS).map_err(failed)? {
        let path = entry.map_err(failed)?.path().join("timebase-frequency");
        if let Ok(cells) = std::fs::read(path)
            && matches!(cells.len(), 4 | 8)
        {
            return Ok(cells.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)));
        }
    }
    Err(failed(io::ErrorKind::NotFound.into()))
}

/// Which processor it is: PVRs of one generation share the attributes that guests see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Generation {
    Power8,
    Power9,
    /// POWER10 and later.
    Power10,
}

impl Generation {
    fn of(pvr: u32) -> Self {
        match pvr >> 16 {
            0x4b..=0x4d => Self::Power8,
            0x4e => Self::Power9,
            _ => Self::Power10,
        }
    }

    /// The level of the architecture as a processor version (LoPAR, logical PVRs).
    fn logical_pvr(self) -> u32 {
        match self {
            Self::Power8 => 0x0f00_0004,
            Self::Power9 => 0x0f00_0005,
            Self::Power10 => 0x0f00_0006,
        }
    }

    /// `ibm,pa-features` (LoPAR C.6.2): 66 attribute bytes, so that no byte keeps a guest's default. Zero is what is not offered: transactional
    /// memory (22), large decrementer (24), performance monitor (28, 42), event-based branches (34), radix (40).
    fn pa_features(self) -> Vec<u8> {
        let mut features = vec![0; 68];
        features[0] = 66;
        // Bytes 0 to 5: MMU, FPU, SLB …; little-endian, CFAR, lq; 6: 2.07 data streams.
        features[2..9].copy_from_slice(&[0xf6, 0x3f, 0xc7, 0xc0, 0x00, 0xf0, 0x80]);
        // Vector, VSX, vector XOR; 64-bit atomics (26), little-endian atomics (32); decimal floating point (54).
        let mut offered = vec![16, 18, 20, 26, 32, 54];
        if self != Self::Power8 {
            // copy and paste, scv, SIMD, quad precision, string, decimal integer, SHA, atomic memory operations, darn.
            offered.extend([44, 46, 48, 50, 52, 56, 58, 60, 62, 64]);
        }
        for byte in offered {
            features[2 + byte] = 0x80;
        }
        features
    }
}

impl Vm for KvmVm {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn create_vcpu(&self, id: u32) -> Result<Box<dyn Vcpu>, BackendError> {
        let mut sides = lock(&self.partition.sides);
        let slot =
            sides.get_mut(id as usize).ok_or(BackendError::Vcpu { id, reason: "beyond the configured number of vCPUs" })?;
        if slot.is_some() {
            return Err(BackendError::Vcpu { id, reason: "it exists already" });
        }
        let fd = self.partition.fd.create_vcpu(id, self.run_size)?;
        let vcpu = KvmVcpu::new(id, fd, Arc::clone(&self.partition))?;
        *slot = Some(vcpu.side());
        Ok(Box::new(vcpu))
    }

    /// KVM keeps the mode per core and changes it when the vCPU does not run: each vCPU does it on its own thread before it enters the guest
    /// again; those inside are called out.
    fn set_interrupt_mode(&self, change: InterruptMode) -> Result<(), BackendError> {
        if let Some(ail) = change.ail
            && !matches!(ail, 0 | 2 | 3)
        {
            return Err(BackendError::Config { what: "LPCR[AIL]", value: u64::from(ail), allowed: "0, 2 or 3" });
        }
        {
            let mut mode = lock(&self.partition.mode);
            mode.ail = change.ail.unwrap_or(mode.ail);
            mode.little_endian = change.little_endian.unwrap_or(mode.little_endian);
            self.partition.mode_number.fetch_add(1, Ordering::SeqCst);
        }
        let number = self.partition.mode_number();
        let sides: Vec<Arc<Side>> = lock(&self.partition.sides).iter().flatten().cloned().collect();
        let deadline = Instant::now() + MODE_LIMIT;
        for side in sides {
            while side.is_inside_with_mode_before(number) {
                if Instant::now() > deadline {
                    let call = "call a vCPU out of the guest for H_SET_MODE".into();
                    return Err(BackendError::Os { call, source: io::ErrorKind::TimedOut.into() });
                }
                side.call_out();
                std::thread::sleep(MODE_LOOK);
            }
        }
        Ok(())
    }

    fn interrupt_mode(&self) -> (u8, bool) {
        let mode = lock(&self.partition.mode);
        (mode.ail, mode.little_endian)
    }

    fn interrupt_controller(&self) -> Option<Arc<dyn InterruptController>> {
        self.partition.xics.is_some().then(|| Arc::new(Events::new(&self.partition)) as _)
    }

    fn resizable_table(&self) -> Option<Arc<dyn ResizableTable>> {
        self.table.clone().map(|table| table as _)
    }

    fn store_events(&self) -> Option<Arc<dyn StoreEvents>> {
        let offered = |capability| self.partition.fd.capability(capability) > 0;
        (offered(b::KVM_CAP_IOEVENTFD) && offered(b::KVM_CAP_IOEVENTFD_ANY_LENGTH))
            .then(|| Arc::new(Events::new(&self.partition)) as _)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
