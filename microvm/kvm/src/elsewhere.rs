//! What a host that is not POWER answers.

use std::sync::Arc;

use paperboat_hypervisor::{Vm, VmConfig};

use crate::host::HostError;

/// Makes no partition: this host's processor is not POWER.
///
/// # Errors
/// [`HostError::NotPower`], always.
pub fn create(_config: VmConfig) -> Result<Arc<dyn Vm>, HostError> {
    Err(HostError::NotPower)
}

pub(crate) fn probe() -> Result<String, HostError> {
    Err(HostError::NotPower)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_says_why_it_cannot() {
        let error = probe().unwrap_err();
        assert!(error.to_string().contains(std::env::consts::ARCH), "{error}");
        assert!(error.cure().contains("soft"));
    }
}
