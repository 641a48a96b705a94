//! The micro-VM: a PAPR machine with virtio devices, one code for every backend.
//!
//! [`boot`] loads, [`papr`] answers the guest's calls, [`machine`] runs the vCPUs, [`virtio`] holds the devices, and [`backend`]
//! is the one place that knows what executes the guest.
#![deny(unsafe_code)]

pub mod backend;
pub mod boot;
pub mod console;
pub mod control;
pub mod devices;
pub mod give_up;
pub mod jail;
pub mod machine;
pub mod papr;
pub mod pci;
pub mod stats;
#[cfg(test)]
pub(crate) mod testing;
pub mod virtio;
