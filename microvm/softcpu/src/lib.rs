//! A 64-bit POWER9 in software: Power ISA 3.0B without hypervisor state, with the hash MMU, behind the
//! `paperboat-hypervisor` trait. It serves the hypercalls that KVM-HV serves in the kernel and exits for all others.
//!
//! - [`table`]: one declarative table of instructions; decoder, disassembler, trace and test generators come from it.
//! - [`state`]: the architected registers.
//! - [`mmu`]: effective → virtual → real, the hashed page table and its hypercalls.
//! - [`exec`]: the pre-decoded block interpreter, interrupts and storage access.
//! - [`vector`]: floating point, VMX and VSX.
#![deny(unsafe_code)]

mod clock;
mod dump;
pub mod exec;
pub mod mmu;
mod shared;
pub mod state;
pub mod table;
mod trace;
pub mod vector;
mod vm;

pub use trace::{TraceConfig, TraceWriter};
pub use vm::{PVR, SoftVcpu, SoftVm};
