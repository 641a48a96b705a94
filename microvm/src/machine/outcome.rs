//! What can become of a machine: errors, states, ends.

use paperboat_hypervisor::{BackendError, RamError};

use super::{MEMORY_MAX, MEMORY_MIN, MEMORY_STEP, STOP_LIMIT};
use crate::backend::ChoiceError;
use crate::boot::{BootError, TreeError};
use crate::papr::{GuestEnd, PlatformError};

/// Why a machine cannot be made or controlled.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// Too little memory.
    #[error("{memory_bytes} bytes of memory: a machine needs at least {} MiB", MEMORY_MIN >> 20)]
    MemoryTooSmall {
        /// As asked for.
        memory_bytes: u64,
    },
    /// Too much memory.
    #[error("{memory_bytes} bytes of memory: a machine has at most {} GiB", MEMORY_MAX >> 30)]
    MemoryTooLarge {
        /// As asked for.
        memory_bytes: u64,
    },
    /// Not a multiple of the step.
    #[error("{memory_bytes} bytes of memory: must be a multiple of {step} MiB (next: {next} MiB)", step = MEMORY_STEP >> 20,
        next = memory_bytes.div_ceil(MEMORY_STEP) * (MEMORY_STEP >> 20))]
    MemoryStep {
        /// As asked for.
        memory_bytes: u64,
    },
    /// Deterministic time needs one vCPU.
    #[error("a deterministic machine has one CPU, not {vcpus}")]
    Deterministic {
        /// As asked for.
        vcpus: u32,
    },
    /// Guest memory.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// CPU counts or the tree.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The backend.
    #[error(transparent)]
    Choice(#[from] ChoiceError),
    /// A vCPU.
    #[error("vCPU {id}")]
    Vcpu {
        /// Which.
        id: u32,
        /// What the backend said.
        #[source]
        source: BackendError,
    },
    /// A device cannot be made.
    #[error("device {name}")]
    Device {
        /// Which.
        name: &'static str,
        /// What it said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Devices and interrupts.
    #[error(transparent)]
    Platform(#[from] PlatformError),
    /// Kernel, initramfs, command line, layout.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// A thread cannot be started.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
    /// The system has no entropy for the guest's seed.
    #[error("cannot read random bytes")]
    Entropy(#[source] std::io::Error),
    /// It was stopped while it was being made.
    #[error("stopped while the machine was being made")]
    GivenUp,
    /// The call does not fit the state.
    #[error("the machine is {status:?}")]
    State {
        /// The state it is in.
        status: Status,
    },
    /// A vCPU did not leave the guest in time.
    #[error("a vCPU did not stop within {} ms", STOP_LIMIT.as_millis())]
    Stuck,
}

/// What the machine does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Made, never run.
    New,
    /// The guest executes.
    Running,
    /// Every vCPU stands still.
    Paused,
    /// Over.
    Ended,
}

/// Why it is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndReason {
    /// The guest powered off.
    PowerOff,
    /// The guest asked for a reboot.
    Reboot,
    /// The guest's kernel panicked, with its text.
    Panic(String),
    /// Stopped by request.
    Stopped,
    /// The instruction budget is used up.
    Budget,
    /// The machine or its backend failed.
    Failed(String),
}

impl From<GuestEnd> for EndReason {
    fn from(end: GuestEnd) -> Self {
        match end {
            GuestEnd::PowerOff => Self::PowerOff,
            GuestEnd::Reboot => Self::Reboot,
            GuestEnd::Panic(text) => Self::Panic(text),
        }
    }
}
