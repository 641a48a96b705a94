//! Descriptors of /dev/kvm, a partition and a vCPU, and the calls on them (Documentation/virt/kvm/api.rst of Linux).
//!
//! The C library, and crates that wrap KVM elsewhere, encode ioctl numbers as most architectures do; powerpc has its own layout, which nix's
//! macros know. Every number is compared at compile time with the one that the kernel's header gives.
#![allow(unsafe_code, reason = "ioctl, and the kvm_run page shared with the kernel")]

mod interrupts;

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use paperboat_hypervisor::{BackendError, GuestRam};

use crate::bindings::{
    KVM_CAP_PPC_ENABLE_HCALL, kvm_enable_cap, kvm_interrupt, kvm_one_reg, kvm_ppc_cpu_char, kvm_ppc_mmuv3_cfg,
    kvm_ppc_resize_hpt, kvm_ppc_smmu_info, kvm_regs, kvm_run, kvm_userspace_memory_region,
};
use crate::trampoline;

pub use interrupts::XicsFd;

/// Type of KVM's ioctls.
const KVMIO: u8 = 0xae;

nix::ioctl_write_int_bad!(get_api_version, nix::request_code_none!(KVMIO, 0x00));
nix::ioctl_write_int_bad!(create_vm, nix::request_code_none!(KVMIO, 0x01));
nix::ioctl_write_int_bad!(check_extension, nix::request_code_none!(KVMIO, 0x03));
nix::ioctl_write_int_bad!(vcpu_mmap_size, nix::request_code_none!(KVMIO, 0x04));
nix::ioctl_write_int_bad!(create_vcpu, nix::request_code_none!(KVMIO, 0x41));
nix::ioctl_write_ptr!(set_user_memory_region, KVMIO, 0x46, kvm_userspace_memory_region);
nix::ioctl_read!(get_regs, KVMIO, 0x81, kvm_regs);
nix::ioctl_write_ptr!(set_regs, KVMIO, 0x82, kvm_regs);
nix::ioctl_write_ptr!(interrupt, KVMIO, 0x86, kvm_interrupt);
nix::ioctl_write_ptr!(enable_cap, KVMIO, 0xa3, kvm_enable_cap);
nix::ioctl_read!(get_smmu_info, KVMIO, 0xa6, kvm_ppc_smmu_info);
nix::ioctl_readwrite!(allocate_htab, KVMIO, 0xa7, u32);
// The header says that the kernel writes the structure of these two; it reads it.
nix::ioctl_read!(resize_hpt_prepare, KVMIO, 0xad, kvm_ppc_resize_hpt);
nix::ioctl_read!(resize_hpt_commit, KVMIO, 0xae, kvm_ppc_resize_hpt);
nix::ioctl_write_ptr!(get_one_reg, KVMIO, 0xab, kvm_one_reg);
nix::ioctl_write_ptr!(set_one_reg, KVMIO, 0xac, kvm_one_reg);
nix::ioctl_write_ptr!(configure_v3_mmu, KVMIO, 0xaf, kvm_ppc_mmuv3_cfg);
nix::ioctl_read!(get_cpu_char, KVMIO, 0xb1, kvm_ppc_cpu_char);

/// The refusal of a call, with its name.
fn refused(call: impl Into<String>) -> impl FnOnce(nix::Error) -> BackendError {
    let call = call.into();
    move |errno| BackendError::Os { call, source: errno.into() }
}

/// /dev/kvm.
#[derive(Debug)]
pub struct Kvm {
    file: File,
}

impl Kvm {
    /// Opens the device.
    pub fn open() -> io::Result<Self> {
        Ok(Self { file: File::options().read(true).write(true).open("/dev/kvm")? })
    }

    /// Version of the API.
    pub fn api_version(&self) -> Result<i32, BackendError> {
        // SAFETY: takes no argument.
        unsafe { get_api_version(self.file.as_raw_fd(), 0) }.map_err(refused("KVM_GET_API_VERSION"))
    }

    /// Makes a partition of the given kind; the error is KVM's own.
    pub fn create_vm(&self, kind: u32) -> Result<PartitionFd, nix::Error> {
        // SAFETY: takes a number.
        let fd = unsafe { create_vm(self.file.as_raw_fd(), kind as i32) }?;
        // SAFETY: a new descriptor that nobody else knows.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(PartitionFd { fd, memory: None })
    }

    /// Size of the page that kernel and process share for each vCPU.
    pub fn run_size(&self) -> Result<usize, BackendError> {
        // SAFETY: takes no argument.
        let size = unsafe { vcpu_mmap_size(self.file.as_raw_fd(), 0) }.map_err(refused("KVM_GET_VCPU_MMAP_SIZE"))?;
        Ok(usize::try_from(size).unwrap_or(0).max(size_of::<kvm_run>()))
    }
}

/// A partition.
#[derive(Debug)]
pub struct PartitionFd {
    fd: OwnedFd,
    /// Mapped for as long as the partition knows its address.
    memory: Option<GuestRam>,
}

impl PartitionFd {
    /// Value of a capability; 0 where KVM lacks it.
    pub fn capability(&self, capability: u32) -> i32 {
        // SAFETY: takes a number.
        unsafe { check_extension(self.fd.as_raw_fd(), capability as i32) }.unwrap_or(0)
    }

    /// Gives the partition its memory at real address 0.
    pub fn set_memory(&mut self, ram: &GuestRam) -> Result<(), BackendError> {
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: ram.size_bytes(),
            userspace_addr: ram.host_base().as_ptr() as u64,
        };
        // SAFETY: the range is mapped and stays so: this value keeps the memory for as long as the descriptor lives.
        unsafe { set_user_memory_region(self.fd.as_raw_fd(), &region) }.map_err(refused("KVM_SET_USER_MEMORY_REGION"))?;
        self.memory = Some(ram.clone());
        Ok(())
    }

    /// What the processor's hash MMU offers.
    pub fn smmu_info(&self) -> Result<kvm_ppc_smmu_info, BackendError> {
        let mut info = kvm_ppc_smmu_info::default();
        // SAFETY: the kernel fills the structure.
        unsafe { get_smmu_info(self.fd.as_raw_fd(), &raw mut info) }.map_err(refused("KVM_PPC_GET_SMMU_INFO"))?;
        Ok(info)
    }

    /// Makes the hashed page table, 2^`order` bytes. The error is KVM's own.
    pub fn allocate_table(&self, order: u32) -> Result<(), nix::Error> {
        let mut order = order;
        // SAFETY: the kernel reads and writes one word.
        unsafe { allocate_htab(self.fd.as_raw_fd(), &raw mut order) }.map(|_| ())
    }

    /// Makes a table of 2^`order` bytes beside the one in use, or drops the one made so far (0). Returns 0 when it is there, else how many
    /// milliseconds KVM thinks that it still takes. The error is KVM's own.
    pub fn prepare_table(&self, order: u32) -> Result<i32, nix::Error> {
        let mut request = kvm_ppc_resize_hpt { shift: order, ..Default::default() };
        // SAFETY: the kernel reads the structure.
        unsafe { resize_hpt_prepare(self.fd.as_raw_fd(), &raw mut request) }
    }

    /// Moves the bolted entries to the table of 2^`order` bytes that is prepared, and uses it. KVM keeps the vCPUs out of the guest meanwhile,
    /// and afterwards holds no prepared table, whatever became of it. The error is KVM's own.
    pub fn commit_table(&self, order: u32) -> Result<(), nix::Error> {
        let mut request = kvm_ppc_resize_hpt { shift: order, ..Default::default() };
        // SAFETY: the kernel reads the structure.
        unsafe { resize_hpt_commit(self.fd.as_raw_fd(), &raw mut request) }.map(|_| ())
    }

    /// Chooses the hash MMU on processors that have radix too (ISA 3.0 and later).
    pub fn choose_hash(&self) -> Result<(), BackendError> {
        // SAFETY: the kernel reads the structure; no flag: hash, no process table.
        unsafe { configure_v3_mmu(self.fd.as_raw_fd(), &kvm_ppc_mmuv3_cfg::default()) }
            .map_err(refused("KVM_PPC_CONFIGURE_V3_MMU"))
            .map(|_| ())
    }

    /// The processor's characteristics and the behaviour it needs.
    pub fn cpu_characteristics(&self) -> Result<kvm_ppc_cpu_char, BackendError> {
        let mut answer = kvm_ppc_cpu_char::default();
        // SAFETY: the kernel fills the structure.
        unsafe { get_cpu_char(self.fd.as_raw_fd(), &raw mut answer) }.map_err(refused("KVM_PPC_GET_CPU_CHAR"))?;
        Ok(answer)
    }

    /// Turns a capability on.
    pub fn enable(&self, capability: u32, args: [u64; 4]) -> Result<(), BackendError> {
        enable(self.fd.as_raw_fd(), capability, args)
    }

    /// Has the kernel serve the hypercall `nr`.
    pub fn serve_in_kernel(&self, nr: u64) -> Result<(), BackendError> {
        self.enable(KVM_CAP_PPC_ENABLE_HCALL, [nr, 1, 0, 0])
    }

    /// Makes vCPU `id`.
    pub fn create_vcpu(&self, id: u32, run_size: usize) -> Result<VcpuFd, BackendError> {
        // SAFETY: takes a number.
        let fd = unsafe { create_vcpu(self.fd.as_raw_fd(), id as i32) }.map_err(refused(format!("KVM_CREATE_VCPU {id}")))?;
        // SAFETY: a new descriptor that nobody else knows.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let run = RunPage::map(&fd, run_size)?;
        Ok(VcpuFd { fd, run })
    }
}

fn enable(fd: i32, capability: u32, args: [u64; 4]) -> Result<(), BackendError> {
    let request = kvm_enable_cap { cap: capability, args, ..Default::default() };
    // SAFETY: the kernel reads the structure; none of the capabilities that this crate turns on takes a pointer.
    unsafe { enable_cap(fd, &request) }.map_err(refused(format!("KVM_ENABLE_CAP {capability} {args:?}"))).map(|_| ())
}

/// The page that the kernel and this process share for a vCPU.
#[derive(Debug)]
struct RunPage {
    address: NonNull<kvm_run>,
    size: usize,
}

// SAFETY: the mapping belongs to no thread; who may access what of it is said at each access.
unsafe impl Send for RunPage {}
// SAFETY: shared access is to `immediate_exit` alone, by an atomic.
unsafe impl Sync for RunPage {}

impl RunPage {
    fn map(fd: &OwnedFd, size: usize) -> Result<Self, BackendError> {
        let length = NonZeroUsize::new(size).unwrap_or(NonZeroUsize::MIN);
        // SAFETY: a new mapping at an address that the kernel chooses.
        let address = unsafe { mmap(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, fd, 0) }
            .map_err(refused("map kvm_run"))?;
        Ok(Self { address: address.cast(), size })
    }
}

impl Drop for RunPage {
    fn drop(&mut self) {
        // SAFETY: mapped by `map`, and no reference into it outlives this value.
        let _ = unsafe { munmap(self.address.cast(), self.size) };
    }
}

/// Why KVM_RUN came back, copied out of the shared page.
#[derive(Debug, Clone, Copy)]
pub enum RunExit {
    /// A hypercall: number and arguments.
    Hypercall(u64, [u64; 9]),
    /// A load of so many bytes.
    MmioRead(u64, u32),
    /// A store.
    MmioWrite(u64, u32, [u8; 8]),
    /// A signal, or `immediate_exit`.
    Interrupted,
    /// KVM cannot enter the guest: the reason that it gives.
    EntryFailed(u64),
    /// KVM cannot go on.
    Internal(u32),
    /// A reason that no hash guest should cause.
    Other(u32),
}

/// A vCPU. Everything but [`VcpuFd::interrupt`] and [`VcpuFd::set_immediate_exit`] is for the thread that runs it: other calls wait
/// for KVM_RUN to end.
#[derive(Debug)]
pub struct VcpuFd {
    fd: OwnedFd,
    run: RunPage,
}

impl VcpuFd {
    /// Turns a capability of the vCPU on.
    pub fn enable(&self, capability: u32) -> Result<(), BackendError> {
        enable(self.fd.as_raw_fd(), capability, [0; 4])
    }

    /// The next KVM_RUN, or the one that begins meanwhile, comes back at once.
    pub fn set_immediate_exit(&self, wanted: bool) {
        // SAFETY: a byte of the mapping that the kernel only reads; every access of this process is by this atomic.
        let flag = unsafe { AtomicU8::from_ptr(&raw mut (*self.run.address.as_ptr()).immediate_exit) };
        flag.store(u8::from(wanted), Ordering::SeqCst);
    }

    /// KVM_RUN. For the thread that owns the vCPU.
    pub fn run(&self) -> Result<RunExit, BackendError> {
        match trampoline::kvm_run(self.fd.as_fd()) {
            Ok(()) => Ok(self.exit()),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) => Ok(RunExit::Interrupted),
            Err(source) => Err(BackendError::Os { call: "KVM_RUN".into(), source }),
        }
    }

    fn exit(&self) -> RunExit {
        use crate::bindings as b;
        let run = self.run.address.as_ptr();
        // SAFETY: the kernel writes the page inside KVM_RUN only, which is over; the owner's thread alone comes here. Each
        // member of the union is plain numbers, valid whatever the bytes are, and read as the reason says.
        unsafe {
            let more = &raw const (*run).__bindgen_anon_1;
            match (*run).exit_reason {
                b::KVM_EXIT_PAPR_HCALL => RunExit::Hypercall((*more).papr_hcall.nr, (*more).papr_hcall.args),
                b::KVM_EXIT_MMIO => {
                    let mmio = (*more).mmio;
                    if mmio.is_write == 0 {
                        RunExit::MmioRead(mmio.phys_addr, mmio.len)
                    } else {
                        RunExit::MmioWrite(mmio.phys_addr, mmio.len, mmio.data)
                    }
                }
                b::KVM_EXIT_INTR => RunExit::Interrupted,
                b::KVM_EXIT_FAIL_ENTRY => RunExit::EntryFailed((*more).fail_entry.hardware_entry_failure_reason),
                b::KVM_EXIT_INTERNAL_ERROR => RunExit::Internal((*more).internal.suberror),
                other => RunExit::Other(other),
            }
        }
    }

    /// The answer to [`RunExit::Hypercall`], taken at the next KVM_RUN: registers of outputs beyond the given ones keep their values.
    pub fn answer_hypercall(&self, status: i64, outputs: &[u64]) {
        // SAFETY: as in `exit`; the structure is the one that KVM has just filled.
        unsafe {
            let call = &mut (*self.run.address.as_ptr()).__bindgen_anon_1.papr_hcall;
            call.ret = status as u64;
            for (slot, output) in call.args.iter_mut().zip(outputs) {
                *slot = *output;
            }
        }
    }

    /// The answer to [`RunExit::MmioRead`], taken at the next KVM_RUN.
    pub fn answer_load(&self, data: [u8; 8]) {
        // SAFETY: as in `exit`.
        unsafe { (*self.run.address.as_ptr()).__bindgen_anon_1.mmio.data = data };
    }

    /// Level of the external interrupt input. From any thread.
    pub fn interrupt(&self, level: i32) -> Result<(), BackendError> {
        let request = kvm_interrupt { irq: level as u32 };
        // SAFETY: the kernel reads the structure.
        unsafe { interrupt(self.fd.as_raw_fd(), &request) }.map_err(refused("KVM_INTERRUPT")).map(|_| ())
    }

    /// General registers.
    pub fn regs(&self) -> Result<kvm_regs, BackendError> {
        let mut regs = kvm_regs::default();
        // SAFETY: the kernel fills the structure.
        unsafe { get_regs(self.fd.as_raw_fd(), &raw mut regs) }.map_err(refused("KVM_GET_REGS"))?;
        Ok(regs)
    }

    /// Sets the general registers.
    pub fn set_regs(&self, regs: &kvm_regs) -> Result<(), BackendError> {
        // SAFETY: the kernel reads the structure.
        unsafe { set_regs(self.fd.as_raw_fd(), regs) }.map_err(refused("KVM_SET_REGS")).map(|_| ())
    }

    /// Reads the register `id`, which has the size of `T`.
    pub fn one_reg<T: Register>(&self, id: u64) -> Result<T, BackendError> {
        assert_eq!(register_size(id), size_of::<T>(), "register {id:#x}");
        let mut value = T::default();
        let request = kvm_one_reg { id, addr: &raw mut value as u64 };
        // SAFETY: the kernel writes as many bytes as the id says, which is the value's size.
        unsafe { get_one_reg(self.fd.as_raw_fd(), &request) }.map_err(refused(format!("KVM_GET_ONE_REG {id:#x}")))?;
        Ok(value)
    }

    /// Sets the register `id`, which has the size of `T`.
    pub fn set_one_reg<T: Register>(&self, id: u64, value: T) -> Result<(), BackendError> {
        assert_eq!(register_size(id), size_of::<T>(), "register {id:#x}");
        let request = kvm_one_reg { id, addr: &raw const value as u64 };
        // SAFETY: the kernel reads as many bytes as the id says, which is the value's size.
        unsafe { set_one_reg(self.fd.as_raw_fd(), &request) }.map_err(refused(format!("KVM_SET_ONE_REG {id:#x}"))).map(|_| ())
    }
}

/// What a register can hold.
pub trait Register: Copy + Default {}
impl Register for u32 {}
impl Register for u64 {}
impl Register for u128 {}

/// The size in bytes that a register's id carries in bits 52 to 55 (KVM_REG_SIZE_MASK).
const fn register_size(id: u64) -> usize {
    1 << ((id >> 52) & 0xf)
}

/// Checked whenever the crate is built: the sizes of the kernel's structures, and nix's encoding against the header's numbers.
const _: () = {
    use crate::bindings as b;
    assert!(size_of::<kvm_run>() == 2352);
    assert!(size_of::<kvm_regs>() == 392);
    assert!(register_size(b::KVM_REG_PPC_LPCR_64) == 8);
    assert!(register_size(b::KVM_REG_PPC_DSISR) == 4);
    assert!(register_size(b::KVM_REG_PPC_VSR0) == 16);
    let pairs = [
        (nix::request_code_none!(KVMIO, 0x00), b::KVM_GET_API_VERSION),
        (nix::request_code_none!(KVMIO, 0x01), b::KVM_CREATE_VM),
        (nix::request_code_none!(KVMIO, 0x03), b::KVM_CHECK_EXTENSION),
        (nix::request_code_none!(KVMIO, 0x04), b::KVM_GET_VCPU_MMAP_SIZE),
        (nix::request_code_none!(KVMIO, 0x41), b::KVM_CREATE_VCPU),
        (nix::request_code_write!(KVMIO, 0x46, size_of::<kvm_userspace_memory_region>()), b::KVM_SET_USER_MEMORY_REGION),
        (nix::request_code_none!(KVMIO, 0x80), b::KVM_RUN),
        (nix::request_code_read!(KVMIO, 0x81, size_of::<kvm_regs>()), b::KVM_GET_REGS),
        (nix::request_code_write!(KVMIO, 0x82, size_of::<kvm_regs>()), b::KVM_SET_REGS),
        (nix::request_code_write!(KVMIO, 0x86, size_of::<kvm_interrupt>()), b::KVM_INTERRUPT),
        (nix::request_code_write!(KVMIO, 0xa3, size_of::<kvm_enable_cap>()), b::KVM_ENABLE_CAP),
        (nix::request_code_read!(KVMIO, 0xa6, size_of::<kvm_ppc_smmu_info>()), b::KVM_PPC_GET_SMMU_INFO),
        (nix::request_code_readwrite!(KVMIO, 0xa7, size_of::<u32>()), b::KVM_PPC_ALLOCATE_HTAB),
        (nix::request_code_write!(KVMIO, 0xab, size_of::<kvm_one_reg>()), b::KVM_GET_ONE_REG),
        (nix::request_code_write!(KVMIO, 0xac, size_of::<kvm_one_reg>()), b::KVM_SET_ONE_REG),
        (nix::request_code_write!(KVMIO, 0xaf, size_of::<kvm_ppc_mmuv3_cfg>()), b::KVM_PPC_CONFIGURE_V3_MMU),
        (nix::request_code_read!(KVMIO, 0xad, size_of::<kvm_ppc_resize_hpt>()), b::KVM_PPC_RESIZE_HPT_PREPARE),
        (nix::request_code_read!(KVMIO, 0xae, size_of::<kvm_ppc_resize_hpt>()), b::KVM_PPC_RESIZE_HPT_COMMIT),
        (nix::request_code_read!(KVMIO, 0xb1, size_of::<kvm_ppc_cpu_char>()), b::KVM_PPC_GET_CPU_CHAR),
    ];
    let mut index = 0;
    while index < pairs.len() {
        assert!(pairs[index].0 as u32 == pairs[index].1);
        index += 1;
    }
};
