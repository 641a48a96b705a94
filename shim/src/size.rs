//! How large a pod's machine is: from what the pod says of itself, else from the configuration.
//!
//! Memory is a ceiling: it is taken from the host as the guest uses it, and given back. So a small limit does not make a small machine:
//! the guest's control groups keep the limit, and it may be raised later. A large one makes a large machine.

use serde::Deserialize;

use crate::config::Config;
use crate::spec::Spec;

/// What guest kernel, agent and page cache take beside a container's limit, in bytes.
const OVERHEAD_BYTES: u64 = 128 << 20;

/// Guest pages have 64 KiB; the machine's memory comes in these.
const GRANULE_BYTES: u64 = 1 << 20;

/// More than any host this runs on, in bytes: a limit beyond it means none.
const MAX_MEMORY_BYTES: u64 = 16 << 40;

/// XICS server numbers and the device tree are laid out for this many.
const MAX_VCPUS: u32 = 255;

/// As many as a network slot of the machine has room for.
const QUEUE_PAIRS_MAX: u32 = 8;

/// A machine's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Memory ceiling, bytes.
    pub memory_bytes: u64,
}

impl Size {
    /// Of the pod that `spec` starts: its annotations where CRI gives them, else the limits of its one container, else the configuration.
    pub fn of(config: &Config, spec: &Spec) -> Self {
        let asked = spec.annotated_resources().or(&spec.resources());
        // More vCPUs than the host has CPUs only wait for each other.
        let host_cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let max_vcpus = u32::try_from(host_cpus).unwrap_or(MAX_VCPUS).min(config.limits.max_vcpus);
        let max = Self { vcpus: max_vcpus, memory_bytes: config.limits.max_memory_mib << 20 };
        Self { vcpus: config.vcpus, memory_bytes: config.memory_mib << 20 }.raised(asked, max)
    }

    /// Pairs of queues of each network slot, so that each vCPU has its own.
    pub fn queue_pairs(self) -> u32 {
        self.vcpus.clamp(1, QUEUE_PAIRS_MAX)
    }

    fn raised(self, asked: Asked, max: Self) -> Self {
        let memory = asked.memory_bytes.filter(|bytes| *bytes < MAX_MEMORY_BYTES);
        let memory = memory.map_or(0, |bytes| (bytes + OVERHEAD_BYTES).next_multiple_of(GRANULE_BYTES).min(max.memory_bytes));
        let cpus = asked.cpus.map_or(0, |cpus| cpus.min(max.vcpus));
        Self { vcpus: self.vcpus.max(cpus), memory_bytes: self.memory_bytes.max(memory) }
    }
}

/// What a pod asks for.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// Its memory limit, bytes.
    pub memory_bytes: Option<u64>,
    /// Its CPU quota in whole CPUs, rounded up.
    pub cpus: Option<u32>,
}

impl Asked {
    /// From numbers as OCI and CRI have them: zero and below mean no limit.
    pub fn new(memory: Option<i64>, quota: Option<i64>, period: Option<u64>) -> Self {
        /// The kernel's period where none is given, microseconds.
        const PERIOD_US: u64 = 100_000;
        let positive = |number: Option<i64>| number.and_then(|number| u64::try_from(number).ok()).filter(|number| *number > 0);
        let period = period.filter(|period| *period > 0).unwrap_or(PERIOD_US);
        let cpus = positive(quota).map(|quota| u32::try_from(quota.div_ceil(period)).unwrap_or(MAX_VCPUS));
        Self { memory_bytes: positive(memory), cpus }
    }

    /// What is not asked for here is taken from `other`.
    fn or(self, other: &Self) -> Self {
        Self { memory_bytes: self.memory_bytes.or(other.memory_bytes), cpus: self.cpus.or(other.cpus) }
    }
}

/// The memory limit in an OCI LinuxResources; `None` where it sets none.
pub fn memory_limit(resources: &str) -> Result<Option<u64>, serde_json::Error> {
    let resources: Option<Resources> = serde_json::from_str(resources)?;
    Ok(resources.unwrap_or_default().asked().memory_bytes)
}

/// The fields of OCI LinuxResources that size a machine.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default)]
pub struct Resources {
    memory: Option<Memory>,
    cpu: Option<Cpu>,
}

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default)]
struct Memory {
    limit: Option<i64>,
}

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default)]
struct Cpu {
    quota: Option<i64>,
    period: Option<u64>,
}

impl Resources {
    /// What they ask for.
    pub fn asked(&self) -> Asked {
        let (memory, cpu) = (self.memory.clone().unwrap_or_default(), self.cpu.clone().unwrap_or_default());
        Asked::new(memory.limit, cpu.quota, cpu.period)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    const CONFIGURED: Size = Size { vcpus: 1, memory_bytes: 512 * MIB };
    const MAX: Size = Size { vcpus: 4, memory_bytes: 2048 * MIB };

    #[test]
    fn a_pod_that_says_nothing_has_the_configured_size() {
        assert_eq!(CONFIGURED.raised(Asked::default(), MAX), CONFIGURED);
        assert_eq!(Asked::new(Some(0), Some(-1), Some(0)), Asked::default());
    }

    #[test]
    fn limits_raise_the_ceiling_and_never_lower_it() {
        let memory = |limit| CONFIGURED.raised(Asked::new(Some(limit), None, None), MAX).memory_bytes / MIB;
        assert_eq!((memory(64 << 20), memory(1 << 30), memory(4 << 30)), (512, 1152, 2048));
        assert_eq!(memory(i64::MAX), 512, "no limit, as some clients write it");
    }

    #[test]
    fn quotas_are_rounded_up_to_whole_cpus() {
        let vcpus = |quota, period| CONFIGURED.raised(Asked::new(None, Some(quota), period), MAX).vcpus;
        assert_eq!((vcpus(50_000, None), vcpus(150_000, None), vcpus(3000, Some(1000)), vcpus(999_999, None)), (1, 2, 3, 4));
    }

    #[test]
    fn each_vcpu_has_queues_up_to_what_a_slot_has_room_for() {
        let pairs = |vcpus| Size { vcpus, ..CONFIGURED }.queue_pairs();
        assert_eq!((pairs(1), pairs(3), pairs(64)), (1, 3, 8));
    }

    #[test]
    fn limits_are_found_in_a_clients_resources() {
        assert_eq!(memory_limit(r#"{"memory": {"limit": 5, "swap": 9}, "pids": {"limit": 3}}"#).unwrap(), Some(5));
        assert_eq!(memory_limit(r#"{"memory": null}"#).unwrap(), None);
        assert!(memory_limit("{").is_err());
    }
}
