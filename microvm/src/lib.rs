//! The micro-VM: a PAPR machine with virtio devices, one code for every backend.
#![forbid(unsafe_code)]

pub mod boot;
pub mod papr;
pub mod pci;
pub mod virtio;
