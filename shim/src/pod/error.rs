//! What can go wrong with a pod.

use std::sync::Arc;
use std::time::Duration;

use crate::agent::AgentError;
use crate::cleanup::CleanupError;
use crate::config::ConfigError;
use crate::container::{Phase, Process};
use crate::elf::WrongArchitecture;
use crate::hooks::HookError;
use crate::machine::{MachineEnd, MachineError};
use crate::network::NetworkError;
use crate::rootfs::MountError;
use crate::sandbox::description::DescriptionError;
use crate::spec::SpecError;
use crate::streams::StreamError;

/// What went wrong with a pod or one of its containers.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    /// An annotation of this runtime is unusable.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The sandbox API's description of the pod is unusable.
    #[error(transparent)]
    Description(#[from] DescriptionError),
    /// The specification is unusable.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The image cannot run in these guests.
    #[error(transparent)]
    Architecture(#[from] WrongArchitecture),
    /// Something could not be mounted.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// There is no machine, or it ended.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The agent refused or is unreachable.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// Standard streams could not be set up.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The pod's network.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// A program that was to run on the host.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// Something is left on the host.
    #[error(transparent)]
    Cleanup(#[from] CleanupError),
    /// A file of the pod cannot be written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The guest did not come up in time.
    #[error("the guest's agent was not ready within {0:?}{1}")]
    BootTimeout(Duration, ConsoleTail),
    /// The id cannot name a directory.
    #[error("{0:?} is not a container id")]
    BadId(String),
    /// The name is taken.
    #[error("{0} exists already")]
    Exists(String),
    /// No container or process of that name.
    #[error("{0}: not found")]
    NotFound(String),
    /// Not possible in the process's present phase.
    #[error("{what} is {phase}")]
    WrongPhase {
        /// Container or process.
        what: String,
        /// Its phase.
        phase: &'static str,
    },
    /// Limits that are no JSON.
    #[error("resources: {0}")]
    Resources(#[source] serde_json::Error),
    /// A limit that the machine cannot give.
    #[error(
        "memory limit of {limit_bytes} bytes: the pod's machine has {machine_bytes} (sized when it was started, from the pod's \
         limits and memory_mib of the configuration)"
    )]
    BeyondMachine {
        /// What was asked for.
        limit_bytes: u64,
        /// Memory of the machine.
        machine_bytes: u64,
    },
    /// Nobody wants the pod any more.
    #[error("the pod's shim was told to shut down")]
    Closing,
    /// The process has ended already.
    #[error("process already finished")]
    Finished,
}

/// Last console lines, for a message.
#[derive(Debug)]
pub struct ConsoleTail(pub(super) Arc<MachineEnd>);

impl std::fmt::Display for ConsoleTail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.console_tail.is_empty() {
            return f.write_str("; its console is silent");
        }
        f.write_str("; last lines of its console:")?;
        self.0.console_tail.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

/// Not possible in the phase the process is in.
pub(super) fn wrong_phase(process: &Process) -> PodError {
    let phase = match process.phase() {
        Phase::Created => "created, not running",
        Phase::Running => "running",
        Phase::Paused => "paused",
        Phase::Stopped(_) => "stopped",
    };
    let exec = if process.exec_id.is_empty() { String::new() } else { format!(" process {}", process.exec_id) };
    PodError::WrongPhase { what: format!("container {}{exec}", process.container), phase }
}
