//! What the host must have, and the cure for each thing that it lacks.

use std::io;

use paperboat_hypervisor::BackendError;

/// Least page size of the host's kernel: guest kernels use 64 KiB pages, which smaller host pages cannot back.
pub const HOST_PAGE_MIN: u64 = 64 << 10;

/// Why hash guests cannot run here under KVM.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// Another processor.
    #[error("KVM for POWER guests needs a POWER host, this one is {}", std::env::consts::ARCH)]
    NotPower,
    /// No device.
    #[error("there is no /dev/kvm: the host's kernel has not loaded kvm_hv")]
    NoDevice,
    /// The device cannot be opened.
    #[error("/dev/kvm cannot be opened")]
    Device(#[source] io::Error),
    /// Not the stable API.
    #[error("/dev/kvm speaks version {found} of its API, not {wanted}")]
    Version {
        /// As found.
        found: i32,
        /// The stable one.
        wanted: u32,
    },
    /// KVM without its hypervisor mode.
    #[error("KVM has no hypervisor mode here: the module kvm_hv is not loaded, or the processor does not run in hypervisor mode")]
    NoHv,
    /// Radix guests only.
    #[error("KVM runs no guests with a hashed page table here: this host is itself a partition (PowerVM, or nested KVM)")]
    NoHash,
    /// Small pages.
    #[error("the host's kernel has pages of {page_bytes} bytes, which cannot back a guest's pages of {HOST_PAGE_MIN}")]
    SmallPages {
        /// The host's page size.
        page_bytes: u64,
    },
    /// No room for the hashed page table.
    #[error("the host has no contiguous memory left for a hashed page table of 2^{order} bytes")]
    NoTable {
        /// Log2 of its size.
        order: u32,
    },
    /// A capability that every kernel since 4.x has.
    #[error("the host's KVM lacks {0}")]
    Missing(&'static str),
    /// Anything else.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

impl HostError {
    /// What the host's administrator can do about it.
    pub fn cure(&self) -> &'static str {
        match self {
            Self::NotPower => "use the software CPU: backend soft",
            Self::NoDevice | Self::NoHv => {
                "run `modprobe kvm_hv` on a bare-metal (powernv) host with POWER8 or later, or use backend soft"
            }
            Self::Device(source) if source.kind() == io::ErrorKind::PermissionDenied => {
                "run as root or as a member of the group that owns /dev/kvm (usually kvm)"
            }
            Self::Device(_) => "look at the host's kernel log",
            Self::Version { .. } | Self::Missing(_) => "use a kernel of version 6.1 or later on the host",
            Self::NoHash => "use a bare-metal (powernv) host, or backend soft",
            Self::SmallPages { .. } => "boot the host with a kernel of 64 KiB pages (Debian's ends in -64k)",
            Self::NoTable { .. } => {
                "stop other guests, give the pod less memory, or boot the host with a larger kvm_cma_resv_ratio= (percent of memory)"
            }
            Self::Backend(_) => "look at the host's kernel log",
        }
    }
}

/// Whether hash guests can run here: makes a small partition and drops it. Returns what was found, in words.
///
/// # Errors
/// [`HostError`] says what is missing; [`HostError::cure`] what to do.
pub fn probe() -> Result<String, HostError> {
    here::probe()
}

#[cfg(not(target_arch = "powerpc64"))]
use crate::elsewhere as here;
#[cfg(target_arch = "powerpc64")]
use crate::vm as here;
