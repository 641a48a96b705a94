//! KVM on POWER (KVM-HV) with a hashed page table, behind the hypervisor trait.
//!
//! | module | what |
//! |---|---|
//! | [`host`] | what the host must have, and the cure for each thing that it lacks |
//! | `sys` | descriptors of /dev/kvm, a partition, a vCPU: the only caller of `ioctl` |
//! | `trampoline` | the way into KVM_RUN that keeps the host's floating point and vector registers |
//! | `pages` | page sizes that what backs guest memory can hold |
//! | `vm`, `vcpu` | the trait's two halves |
//! | `resize` | the page table becomes smaller |
//! | `xics` | the kernel's interrupt controller, and stores that become events |
//! | `kick` | how one thread gets another one out of KVM_RUN |
//! | `bindings` | the kernel's structures and numbers, generated: see docs/lab.md |
//!
//! KVM serves in the kernel what `paperboat_hypervisor` says a backend serves; interrupts are presented by the kernel's XICS, or, if the machine
//! wants that, by the machine's own through KVM_INTERRUPT. On another host than POWER the crate offers [`host::probe`] and [`create`], which say so.

pub mod host;

#[cfg(target_arch = "powerpc64")]
#[allow(
    missing_docs,
    non_camel_case_types,
    non_upper_case_globals,
    unsafe_code,
    dead_code,
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    reason = "generated; its unsafe blocks fill plain structures with zeros"
)]
mod bindings;
#[cfg(target_arch = "powerpc64")]
mod kick;
#[cfg(target_arch = "powerpc64")]
mod pages;
#[cfg(target_arch = "powerpc64")]
mod resize;
#[cfg(target_arch = "powerpc64")]
mod sys;
#[cfg(target_arch = "powerpc64")]
mod trampoline;
#[cfg(target_arch = "powerpc64")]
mod vcpu;
#[cfg(target_arch = "powerpc64")]
mod vm;
#[cfg(target_arch = "powerpc64")]
mod xics;

#[cfg(target_arch = "powerpc64")]
pub use vm::create;

#[cfg(not(target_arch = "powerpc64"))]
mod elsewhere;
#[cfg(not(target_arch = "powerpc64"))]
pub use elsewhere::create;
