//! An interrupt controller of a backend's own: XICS in the kernel (LoPAR, Interrupt Support).
//!
//! It presents interrupts to the vCPUs and serves the presentation hypercalls (H_XIRR, H_XIRR_X, H_CPPR, H_EOI, H_IPI, H_IPOLL) where
//! nobody else sees them. The machine still owns the numbers of the sources and says what each one is.

use std::os::fd::BorrowedFd;

use crate::BackendError;

/// Where interrupts are presented to vCPUs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Presentation {
    /// In the backend where it has a controller, in the machine elsewhere.
    #[default]
    Auto,
    /// In the backend, or the partition is not made.
    Backend,
    /// In the machine, by [`crate::VcpuHandle::set_external_interrupt`].
    Machine,
}

/// A source as the controller is to treat it from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceState {
    /// The interrupt server (vCPU) that takes it.
    pub server: u32,
    /// Its priority; 0xff is the least favoured one, which nothing presents.
    pub priority: u8,
    /// A wire, not a message.
    pub level: bool,
    /// Not presented until it is unmasked.
    pub masked: bool,
}

/// The controller of a partition.
pub trait InterruptController: Send + Sync {
    /// Has the backend serve an RTAS call of interrupt sources under `token`; `name` as LoPAR spells it.
    ///
    /// # Errors
    /// [`BackendError::Os`]: the backend does not know the call.
    fn serve_rtas(&self, name: &str, token: u32) -> Result<(), BackendError>;

    /// Makes source `number`, or changes it. What it had pending is forgotten.
    ///
    /// # Errors
    /// [`BackendError::Os`].
    fn set_source(&self, number: u32, state: SourceState) -> Result<(), BackendError>;

    /// One edge of a message source (`true`), or the level of a wired one. Nothing happens for a source that was never made.
    ///
    /// # Errors
    /// [`BackendError::Os`].
    fn set_line(&self, number: u32, asserted: bool) -> Result<(), BackendError>;

    /// Each write to the eventfd `event` is an edge of source `number` from now on; not `bound`: no longer.
    ///
    /// # Errors
    /// [`BackendError::Os`].
    fn bind_event(&self, number: u32, event: BorrowedFd<'_>, bound: bool) -> Result<(), BackendError>;
}

/// Stores of the guest that become writes to an eventfd without leaving the backend.
pub trait StoreEvents: Send + Sync {
    /// Stores of any width to real address `address`, outside memory, are writes to the eventfd `event` from now on; not `bound`: they are
    /// exits again.
    ///
    /// # Errors
    /// [`BackendError::Os`]: also when the address is bound already.
    fn bind_store(&self, address: u64, event: BorrowedFd<'_>, bound: bool) -> Result<(), BackendError>;
}
