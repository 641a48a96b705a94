//! `io.containerd.paperboat.v1`: the containerd shim that runs each pod in a micro-VM.
//!
//! The life of a pod, in the order the modules come in:
//!
//! 1. [`args`] and [`bootstrap`]: containerd runs `containerd-shim-paperboat-v1 start` in the bundle; a server process is left behind for the
//!    first container of a pod, later ones find its address. [`serve`] is that process.
//! 2. [`service`] answers containerd's Task API and drives one [`pod`], made of [`container`]s and their processes; [`sandbox`] answers the
//!    sandbox API for the same pod.
//! 3. A pod owns directories ([`paths`]), the root file systems and volumes mounted there ([`rootfs`], [`volume`], [`spec`], checked by [`elf`]),
//!    one machine ([`machine`], as large as [`size`] says, in the host's cgroups by [`cgroup`] and [`charge`]) and the connection to its agent ([`agent`]).
//! 4. The interfaces of the pod's network namespace become the guest's ([`network`]);
//!    [`hooks`] may have put them there.
//! 5. Standard streams are pumped between containerd's fifos and vsock connections ([`streams`]); what happens is told to containerd
//!    in order ([`events`]).
//! 6. [`cleanup`] removes what a pod leaves on the host, from the living shim and from the `delete` command alike; a shim that lives
//!    though containerd has given it up is told so first ([`farewell`]).

#![deny(unsafe_code)]

pub mod agent;
pub mod args;
pub mod bootstrap;
pub mod cgroup;
pub mod charge;
pub mod check;
pub mod cleanup;
pub mod config;
pub mod container;
pub mod elf;
pub mod events;
pub mod farewell;
pub mod hooks;
pub mod logger;
pub mod logging;
pub mod machine;
pub mod metrics;
pub mod network;
pub mod note;
pub mod paths;
pub mod pod;
pub mod rootfs;
pub mod sandbox;
pub mod serve;
pub mod service;
pub mod size;
pub mod spec;
pub mod streams;
pub mod volume;

/// Name under which clients ask for this runtime.
pub const RUNTIME_NAME: &str = "io.containerd.paperboat.v1";
