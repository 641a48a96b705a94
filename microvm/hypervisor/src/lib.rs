//! The narrow trait between the machine and whatever executes POWER code.
//!
//! The contract is KVM-HV's, because KVM-HV is the backend that cannot be changed: a backend executes the guest *and*
//! serves the hypercalls that KVM-HV serves in the kernel (the hashed page table, H_CEDE, H_PROD, H_CONFER,
//! H_REGISTER_VPA, H_RANDOM, H_PAGE_INIT, H_CLEAR_REF, H_CLEAR_MOD, H_SET_DABR, H_SET_XDABR, and H_SET_MODE for CIABR and
//! DAWR). A backend with an [`InterruptController`] serves the presentation hypercalls too. Every other hypercall, every access to a real address outside RAM, and every end of execution leaves the
//! backend as an [`Exit`]. The machine above never asks which backend it has.

#[cfg(feature = "contract")]
pub mod contract;
mod interrupts;
mod ram;
mod regs;
mod table;
mod vm;

pub use interrupts::{InterruptController, Presentation, SourceState, StoreEvents};
pub use ram::{Backing, CODE_PAGE_SIZE, CodePages, GuestRam, RamError};
pub use regs::{EntryState, VcpuRegs};
pub use table::{ResizableTable, ResizeError, TABLE_ORDERS};
pub use vm::{
    BackendError, Capabilities, ClockMode, Exit, HypercallArgs, HypercallReply, INTERRUPT_KINDS, InterruptMode, PageSizeEncoding,
    Processor, SegmentPageSizes, Vcpu, VcpuHandle, VcpuStats, Vm, VmConfig, Woken,
};
