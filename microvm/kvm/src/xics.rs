//! The kernel's interrupt controller (KVM_DEV_TYPE_XICS), and stores that become events.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use nix::errno::Errno;
use paperboat_hypervisor::{BackendError, InterruptController, Presentation, SourceState, StoreEvents};

use crate::bindings as b;
use crate::host::HostError;
use crate::sys::{PartitionFd, XicsFd};
use crate::vm::Partition;

/// What KVM must offer for interrupts in the kernel: the controller, its RTAS calls, eventfds as lines.
const WANTED: [(u32, &str); 3] =
    [(b::KVM_CAP_IRQ_XICS, "KVM_CAP_IRQ_XICS"), (b::KVM_CAP_PPC_RTAS, "KVM_CAP_PPC_RTAS"), (b::KVM_CAP_IRQFD, "KVM_CAP_IRQFD")];

/// Makes the controller, if `presentation` wants it, or leaves it to the kernel and the kernel can.
pub fn create(fd: &PartitionFd, presentation: Presentation, servers: u32) -> Result<Option<XicsFd>, HostError> {
    let must = match presentation {
        Presentation::Machine => return Ok(None),
        Presentation::Backend => true,
        Presentation::Auto => false,
    };
    if let Some((_, name)) = WANTED.iter().find(|(capability, _)| fd.capability(*capability) <= 0) {
        return if must { Err(HostError::Missing(name)) } else { Ok(None) };
    }
    let xics = match fd.create_xics() {
        Ok(xics) => xics,
        // The host's controller is out of virtual processors; one of the machine's own needs none.
        Err(Errno::ENOMEM | Errno::ENOSPC | Errno::ENODEV) if !must => {
            log::warn!("the kernel makes no interrupt controller; the machine presents interrupts itself");
            return Ok(None);
        }
        Err(errno) => return Err(BackendError::Os { call: "KVM_CREATE_DEVICE XICS".into(), source: errno.into() }.into()),
    };
    xics.limit_servers(servers)?;
    Ok(Some(xics))
}

/// A partition as devices reach it.
pub struct Events {
    partition: Arc<Partition>,
}

impl Events {
    pub fn new(partition: &Arc<Partition>) -> Self {
        Self { partition: Arc::clone(partition) }
    }
}

impl InterruptController for Events {
    fn serve_rtas(&self, name: &str, token: u32) -> Result<(), BackendError> {
        self.partition.fd.define_rtas(name, token)
    }

    fn set_source(&self, number: u32, state: SourceState) -> Result<(), BackendError> {
        let level = if state.level { b::KVM_XICS_LEVEL_SENSITIVE } else { 0 };
        let masked = if state.masked { b::KVM_XICS_MASKED } else { 0 };
        let word = u64::from(state.server) | u64::from(state.priority) << b::KVM_XICS_PRIORITY_SHIFT | level | masked;
        match &self.partition.xics {
            Some(xics) => xics.set_source(number, word),
            None => Ok(()),
        }
    }

    fn set_line(&self, number: u32, asserted: bool) -> Result<(), BackendError> {
        self.partition.fd.set_line(number, asserted)
    }

    fn bind_event(&self, number: u32, event: BorrowedFd<'_>, bound: bool) -> Result<(), BackendError> {
        self.partition.fd.bind_event(number, event, bound)
    }
}

impl StoreEvents for Events {
    fn bind_store(&self, address: u64, event: BorrowedFd<'_>, bound: bool) -> Result<(), BackendError> {
        self.partition.fd.bind_store(address, event, bound)
    }
}
