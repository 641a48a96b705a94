//! The one place that knows which backends there are.

use std::io::Write;
use std::sync::{Arc, Mutex};

use paperboat_hypervisor::{BackendError, ClockMode, Presentation, Vm, VmConfig};
use paperboat_kvm::host::{self, HostError};
use paperboat_softcpu::{SoftVm, TraceConfig};

pub use paperboat_softcpu::coverage::Coverage;
pub use paperboat_softcpu::{CompileAfter, TraceFilter};

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
    /// KVM was asked for, and the host cannot.
    #[error("backend kvm: {source_text}; {cure}", source_text = chain(.0), cure = .0.cure())]
    Kvm(HostError),
    /// Coverage was asked for under KVM.
    #[error("backend kvm: coverage is counted by the software CPU only; use --backend soft")]
    Coverage,
    /// The backend's interrupt controller was asked for, and it has none.
    #[error(
        "the software CPU has no interrupt controller of its own: --xics kernel is for KVM, leave it out or use --xics machine"
    )]
    Xics,
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

/// What is asked of the software CPU: what it prints while it executes, and how it executes.
#[derive(Debug, Clone, Default)]
pub struct CpuOptions {
    /// Every instruction.
    pub instructions: bool,
    /// Every exception with its address.
    pub exceptions: bool,
    /// Hypercalls that the backend serves itself.
    pub hypercalls: bool,
    /// Which of them.
    pub filter: TraceFilter,
    /// Where completed instructions are counted by row of the CPU's table.
    pub coverage: Option<Arc<Coverage>>,
    /// When code is compiled.
    pub compile_after: CompileAfter,
}

impl CpuOptions {
    fn is_on(&self) -> bool {
        self.instructions || self.exceptions || self.hypercalls
    }
}

/// Makes the partition that `config` describes.
///
/// # Errors
/// [`ChoiceError`].
pub fn create_vm(choice: BackendChoice, config: VmConfig, trace: CpuOptions) -> Result<ChosenVm, ChoiceError> {
    match choice {
        BackendChoice::Kvm if trace.coverage.is_some() => Err(ChoiceError::Coverage),
        BackendChoice::Kvm => kvm(config),
        BackendChoice::Soft => soft(config, trace),
        BackendChoice::Auto => match auto(&config, &trace, host::probe) {
            BackendChoice::Kvm => kvm(config),
            _ => soft(config, trace),
        },
    }
}

/// Whether guests can run under KVM here, in words.
///
/// # Errors
/// [`ChoiceError::Kvm`] says why not, and what helps.
pub fn probe_kvm() -> Result<String, ChoiceError> {
    host::probe().map_err(ChoiceError::Kvm)
}

/// What [`BackendChoice::Auto`] means here: KVM where the host can and the machine asks for nothing that only the software CPU has.
fn auto(config: &VmConfig, trace: &CpuOptions, probe: impl FnOnce() -> Result<String, HostError>) -> BackendChoice {
    let soft_only = config.clock == ClockMode::Deterministic
        || config.budget_instructions.is_some()
        || trace.instructions
        || trace.exceptions
        || trace.coverage.is_some();
    if soft_only {
        return BackendChoice::Soft;
    }
    match probe() {
        Ok(found) => {
            log::debug!("backend kvm: {found}");
            BackendChoice::Kvm
        }
        // No surprise there.
        Err(HostError::NotPower) => BackendChoice::Soft,
        Err(error) => {
            log::warn!("the software CPU executes the guest: {}; {}", chain(&error), error.cure());
            BackendChoice::Soft
        }
    }
}

fn kvm(config: VmConfig) -> Result<ChosenVm, ChoiceError> {
    let vm = paperboat_kvm::create(config).map_err(ChoiceError::Kvm)?;
    Ok(ChosenVm { vm, name: "kvm" })
}

fn soft(config: VmConfig, trace: CpuOptions) -> Result<ChosenVm, ChoiceError> {
    if config.presentation == Presentation::Backend {
        return Err(ChoiceError::Xics);
    }
    let vm = SoftVm::new(config).map_err(ChoiceError::Soft)?;
    vm.set_compile_after(trace.compile_after);
    if let Some(coverage) = &trace.coverage {
        vm.set_coverage(Arc::clone(coverage));
    }
    if trace.is_on() {
        let writer: Arc<Mutex<dyn Write + Send>> = Arc::new(Mutex::new(std::io::stderr()));
        let CpuOptions { instructions, exceptions: interrupts, hypercalls, filter, .. } = trace;
        vm.set_trace(TraceConfig { instructions, interrupts, hypercalls, filter, writer });
    }
    Ok(ChosenVm { vm: Arc::new(vm), name: "soft" })
}

/// An error with its sources, in one line.
fn chain(error: &HostError) -> String {
    let sources = std::iter::successors(std::error::Error::source(error), |error| error.source());
    sources.fold(error.to_string(), |text, source| format!("{text}: {source}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use paperboat_hypervisor::{GuestRam, Processor};

    fn config() -> VmConfig {
        VmConfig {
            ram: GuestRam::new(1 << 20).unwrap(),
            vcpu_count: 1,
            hpt_order: 18,
            clock: ClockMode::Host,
            budget_instructions: None,
            processor: Processor::Native,
            threads_per_core: 1,
            presentation: Default::default(),
        }
    }

    #[test]
    fn auto_is_kvm_where_the_host_can() {
        let found = || Ok("hash guests".to_owned());
        assert_eq!(auto(&config(), &CpuOptions::default(), found), BackendChoice::Kvm);
        assert_eq!(auto(&config(), &CpuOptions::default(), || Err(HostError::NoHash)), BackendChoice::Soft);
        let counted = VmConfig { budget_instructions: Some(1), ..config() };
        assert_eq!(auto(&counted, &CpuOptions::default(), found), BackendChoice::Soft);
        let traced = CpuOptions { instructions: true, ..CpuOptions::default() };
        assert_eq!(auto(&config(), &traced, found), BackendChoice::Soft);
    }

    #[test]
    fn a_refusal_names_reason_and_cure() {
        let denied = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        let text = ChoiceError::Kvm(HostError::Device(denied)).to_string();
        assert!(text.contains("/dev/kvm cannot be opened: permission denied; run as root"), "{text}");
    }
}
