//! A 64-bit POWER9 in software (a logical POWER8 for guests that are to find one): Power ISA 3.0B without hypervisor state, with the hash MMU, behind the
//! `paperboat-hypervisor` trait. It serves the hypercalls that KVM-HV serves in the kernel and exits for all others.
//!
//! - [`table`]: one declarative table of instructions; decoder, disassembler, trace and test generators come from it.
//! - [`state`]: the architected registers.
//! - [`mmu`]: effective → virtual → real, the hashed page table and its hypercalls.
//! - [`exec`]: the interpreter of pre-decoded blocks, the compiler of those that are hot (x86-64), interrupts and storage access.
//! - [`vector`]: floating point, VMX and VSX.
//!
//! What it leaves out, and what a guest sees of that:
//!
//! - Decimal floating point and transactional memory are not offered (`ibm,pa-features`); their instructions are illegal.
//! - Event-based branches: `rfebb` raises facility unavailable. The performance monitor's registers keep what is written and never count.
//! - `wait` and `stop` end at once, as the ISA allows; partitions idle with H_CEDE.
//! - `paste.` never finds an accelerator: it reports that nothing was pasted.
//! - `stqcx.` is atomic against other quadword conditional stores; against narrower stores each of its two doublewords is.
//! - Real mode is the virtual real mode area: all of memory, and a storage interrupt beyond it.
#![deny(unsafe_code)]

mod calls;
mod clock;
pub mod coverage;
mod dump;
pub mod exec;
pub mod mmu;
mod shared;
pub mod state;
pub mod table;
mod trace;
pub mod vector;
mod vm;

pub use calls::SERVED as SERVED_HYPERCALLS;
pub use trace::{Place, TraceConfig, TraceFilter, TraceWriter};
pub use vm::{CompileAfter, PVR, SoftVcpu, SoftVm};
