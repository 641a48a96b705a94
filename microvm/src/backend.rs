//! The one place that knows which backends there are.

use std::io::Write;
use std::sync::{Arc, Mutex};

use paperboat_hypervisor::{BackendError, Vm, VmConfig};
use paperboat_softcpu::{SoftVm, TraceConfig};

/// Which backend the user wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BackendChoice {
    /// KVM where the host offers it for hash guests, the software CPU elsewhere.
    #[default]
    Auto,
    /// KVM on POWER or an error.
    Kvm,
    /// The software CPU.
    Soft,
}

/// Why there is no backend.
#[derive(Debug, thiserror::Error)]
pub enum ChoiceError {
    /// The name means nothing.
    #[error("backend {0:?}: must be auto, kvm or soft")]
    Unknown(String),
    /// KVM was asked for on a host that cannot run POWER guests.
    #[error("backend kvm needs a POWER host and a build for it; this one is {host}: use soft", host = std::env::consts::ARCH)]
    NoKvm,
    /// The backend refused.
    #[error("the software CPU cannot be set up")]
    Soft(#[source] BackendError),
}

impl std::str::FromStr for BackendChoice {
    type Err = ChoiceError;

    fn from_str(text: &str) -> Result<Self, ChoiceError> {
        match text {
            "" | "auto" => Ok(Self::Auto),
            "kvm" => Ok(Self::Kvm),
            "soft" => Ok(Self::Soft),
            other => Err(ChoiceError::Unknown(other.to_owned())),
        }
    }
}

/// A partition and the name of what executes it.
pub struct ChosenVm {
    /// The backend.
    pub vm: Arc<dyn Vm>,
    /// For people and the control API.
    pub name: &'static str,
}

/// What the processor itself prints while it executes (software CPU only).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuTrace {
    /// Every instruction.
    pub instructions: bool,
    /// Every exception with its address.
    pub exceptions: bool,
}

/// Makes the partition that `config` describes.
///
/// # Errors
/// [`ChoiceError`].
pub fn create_vm(choice: BackendChoice, config: VmConfig, trace: CpuTrace) -> Result<ChosenVm, ChoiceError> {
    match choice {
        BackendChoice::Kvm => Err(ChoiceError::NoKvm),
        BackendChoice::Auto | BackendChoice::Soft => {
            let vm = SoftVm::new(config).map_err(ChoiceError::Soft)?;
            if trace != CpuTrace::default() {
                let writer: Arc<Mutex<dyn Write + Send>> = Arc::new(Mutex::new(std::io::stderr()));
                let CpuTrace { instructions, exceptions: interrupts } = trace;
                vm.set_trace(TraceConfig { instructions, interrupts, hypercalls: false, problem_state: None, writer });
            }
            Ok(ChosenVm { vm: Arc::new(vm), name: "soft" })
        }
    }
}
