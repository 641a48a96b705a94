//! Interrupts and events in the kernel: the XICS device, its sources and lines, eventfds in both directions.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use paperboat_hypervisor::BackendError;

use super::{KVMIO, PartitionFd, VcpuFd, enable, refused};
use crate::bindings::{
    self as b, kvm_create_device, kvm_device_attr, kvm_ioeventfd, kvm_irq_level, kvm_irq_level__bindgen_ty_1, kvm_irqfd,
    kvm_rtas_token_args,
};

nix::ioctl_write_ptr!(irq_line, KVMIO, 0x61, kvm_irq_level);
nix::ioctl_write_ptr!(irqfd, KVMIO, 0x76, kvm_irqfd);
nix::ioctl_write_ptr!(ioeventfd, KVMIO, 0x79, kvm_ioeventfd);
nix::ioctl_write_ptr!(define_token, KVMIO, 0xac, kvm_rtas_token_args);
nix::ioctl_readwrite!(create_device, KVMIO, 0xe0, kvm_create_device);
nix::ioctl_write_ptr!(set_device_attr, KVMIO, 0xe1, kvm_device_attr);
nix::ioctl_write_ptr!(has_device_attr, KVMIO, 0xe3, kvm_device_attr);

/// An XICS of the kernel's (Documentation/virt/kvm/devices/xics.rst).
#[derive(Debug)]
pub struct XicsFd {
    fd: OwnedFd,
}

impl XicsFd {
    /// Makes room for `servers` interrupt servers, where the kernel lets itself be told; it otherwise makes room for the most there can be.
    pub fn limit_servers(&self, servers: u32) -> Result<(), BackendError> {
        let attr = kvm_device_attr {
            group: b::KVM_DEV_XICS_GRP_CTRL,
            attr: u64::from(b::KVM_DEV_XICS_NR_SERVERS),
            addr: &raw const servers as u64,
            ..Default::default()
        };
        // SAFETY: the kernel reads the structure only.
        if unsafe { has_device_attr(self.fd.as_raw_fd(), &attr) }.is_err() {
            return Ok(());
        }
        // SAFETY: the kernel reads the structure and, behind `addr`, one word that lives until the call is over.
        unsafe { set_device_attr(self.fd.as_raw_fd(), &attr) }.map_err(refused("KVM_SET_DEVICE_ATTR of XICS servers")).map(|_| ())
    }

    /// Makes or changes source `number`; `state` as the device defines it.
    pub fn set_source(&self, number: u32, state: u64) -> Result<(), BackendError> {
        let attr = kvm_device_attr {
            group: b::KVM_DEV_XICS_GRP_SOURCES,
            attr: number.into(),
            addr: &raw const state as u64,
            ..Default::default()
        };
        // SAFETY: the kernel reads the structure and, behind `addr`, one doubleword that lives until the call is over.
        unsafe { set_device_attr(self.fd.as_raw_fd(), &attr) }
            .map_err(refused(format!("KVM_SET_DEVICE_ATTR of XICS source {number:#x}")))
            .map(|_| ())
    }
}

impl PartitionFd {
    /// Makes the partition's XICS, before its vCPUs. The error is KVM's own.
    pub fn create_xics(&self) -> Result<XicsFd, Errno> {
        let mut request = kvm_create_device { type_: b::KVM_DEV_TYPE_XICS, ..Default::default() };
        // SAFETY: the kernel reads and fills the structure.
        unsafe { create_device(self.fd.as_raw_fd(), &raw mut request) }?;
        // SAFETY: a new descriptor that nobody else knows.
        Ok(XicsFd { fd: unsafe { OwnedFd::from_raw_fd(request.fd as i32) } })
    }

    /// Has the kernel serve the RTAS call `name` under `token`.
    pub fn define_rtas(&self, name: &str, token: u32) -> Result<(), BackendError> {
        let mut request = kvm_rtas_token_args { name: [0; 120], token: token.into() };
        // One byte stays zero: the end of the name.
        for (slot, byte) in request.name[..119].iter_mut().zip(name.bytes()) {
            *slot = byte as _;
        }
        // SAFETY: the kernel reads the structure.
        unsafe { define_token(self.fd.as_raw_fd(), &request) }
            .map_err(refused(format!("KVM_PPC_RTAS_DEFINE_TOKEN {name}")))
            .map(|_| ())
    }

    /// An edge, or a level.
    pub fn set_line(&self, number: u32, level: bool) -> Result<(), BackendError> {
        let request = kvm_irq_level { __bindgen_anon_1: kvm_irq_level__bindgen_ty_1 { irq: number }, level: level.into() };
        // SAFETY: the kernel reads the structure.
        unsafe { irq_line(self.fd.as_raw_fd(), &request) }.map_err(refused(format!("KVM_IRQ_LINE {number:#x}"))).map(|_| ())
    }

    /// Ties an eventfd to a source, or unties it.
    pub fn bind_event(&self, number: u32, event: BorrowedFd<'_>, bound: bool) -> Result<(), BackendError> {
        let flags = if bound { 0 } else { b::KVM_IRQFD_FLAG_DEASSIGN };
        let request = kvm_irqfd { fd: event.as_raw_fd() as u32, gsi: number, flags, ..Default::default() };
        // SAFETY: the kernel reads the structure, and holds the eventfd's file by itself.
        unsafe { irqfd(self.fd.as_raw_fd(), &request) }.map_err(refused(format!("KVM_IRQFD {number:#x}"))).map(|_| ())
    }

    /// Ties stores of any width to a real address to an eventfd, or unties them.
    pub fn bind_store(&self, address: u64, event: BorrowedFd<'_>, bound: bool) -> Result<(), BackendError> {
        let flags = if bound { 0 } else { b::KVM_IOEVENTFD_FLAG_DEASSIGN };
        let request = kvm_ioeventfd { datamatch: 0, addr: address, len: 0, fd: event.as_raw_fd(), flags, pad: [0; 36] };
        // SAFETY: the kernel reads the structure, and holds the eventfd's file by itself.
        unsafe { ioeventfd(self.fd.as_raw_fd(), &request) }.map_err(refused(format!("KVM_IOEVENTFD {address:#x}"))).map(|_| ())
    }
}

impl VcpuFd {
    /// Connects the vCPU to `xics` as `server`.
    pub fn connect(&self, xics: &XicsFd, server: u32) -> Result<(), BackendError> {
        let args = [xics.fd.as_raw_fd() as u64, server.into(), 0, 0];
        enable(self.fd.as_raw_fd(), b::KVM_CAP_IRQ_XICS, args)
    }
}

/// As in the parent: nix's encoding against the header's numbers.
const _: () = {
    let pairs = [
        (nix::request_code_write!(KVMIO, 0x61, size_of::<kvm_irq_level>()), b::KVM_IRQ_LINE),
        (nix::request_code_write!(KVMIO, 0x76, size_of::<kvm_irqfd>()), b::KVM_IRQFD),
        (nix::request_code_write!(KVMIO, 0x79, size_of::<kvm_ioeventfd>()), b::KVM_IOEVENTFD),
        (nix::request_code_write!(KVMIO, 0xac, size_of::<kvm_rtas_token_args>()), b::KVM_PPC_RTAS_DEFINE_TOKEN),
        (nix::request_code_readwrite!(KVMIO, 0xe0, size_of::<kvm_create_device>()), b::KVM_CREATE_DEVICE),
        (nix::request_code_write!(KVMIO, 0xe1, size_of::<kvm_device_attr>()), b::KVM_SET_DEVICE_ATTR),
        (nix::request_code_write!(KVMIO, 0xe3, size_of::<kvm_device_attr>()), b::KVM_HAS_DEVICE_ATTR),
    ];
    let mut index = 0;
    while index < pairs.len() {
        assert!(pairs[index].0 as u32 == pairs[index].1);
        index += 1;
    }
};
