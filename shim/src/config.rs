//! `/etc/paperboat/config.yaml`: what the operator decides. Unknown keys are errors that name the line.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

/// Where the configuration is looked for when nothing else is said.
pub const DEFAULT_PATH: &str = "/etc/paperboat/config.yaml";

/// Environment variable that names another configuration file.
pub const PATH_VARIABLE: &str = "PAPERBOAT_CONFIG";

/// Largest configuration file read, in bytes.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// More memory than any host this runs on; a typing error stands out below it. MiB.
const MAX_MEMORY_MIB: u64 = 16 << 20;

/// The guest kernel with its hashed page table and the agent do not start below this. MiB.
const MIN_MEMORY_MIB: u64 = 64;

/// XICS server numbers and the device tree are laid out for this many.
const MAX_VCPUS: u32 = 255;

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file named explicitly cannot be read.
    #[error("configuration {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not what is expected; the message names line and column.
    #[error("configuration {path}: {source}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        source: serde_yaml::Error,
    },
    /// The file is larger than any configuration.
    #[error("configuration {0}: larger than 1 MiB")]
    TooLarge(PathBuf),
    /// A value outside its range.
    #[error("configuration {path}: {key} is {value}, allowed are {allowed}")]
    Range {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// Its value.
        value: u64,
        /// What is allowed.
        allowed: &'static str,
    },
}

/// What executes guest instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// KVM where the host is POWER and offers it, otherwise the software CPU.
    Auto,
    /// KVM on POWER.
    Kvm,
    /// The software POWER CPU.
    Soft,
}

impl Backend {
    /// The name the machine's API uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Kvm => "kvm",
            Self::Soft => "soft",
        }
    }
}

/// How much the guest kernel says on its console.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GuestLog {
    /// Errors only: the fastest boot.
    Error,
    /// Warnings too.
    Warn,
    /// The kernel's usual messages.
    Info,
    /// Everything.
    Debug,
}

impl GuestLog {
    /// Linux console log level: messages below it are printed.
    pub fn loglevel(self) -> u8 {
        match self {
            Self::Error => 4,
            Self::Warn => 5,
            Self::Info => 7,
            Self::Debug => 8,
        }
    }
}

/// The configuration, complete with defaults.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Guest kernel: a raw ppc64le vmlinux.
    pub kernel: PathBuf,
    /// Guest initial RAM file system with the agent.
    pub initrd: PathBuf,
    /// The machine's program. Unset: `paperboat-vmm` beside the shim.
    pub vmm: Option<PathBuf>,
    /// Virtual CPUs of a machine.
    pub vcpus: u32,
    /// Memory ceiling of a machine, MiB.
    pub memory_mib: u64,
    /// What executes guest instructions.
    pub backend: Backend,
    /// How much the guest kernel says on its console.
    pub guest_log_level: GuestLog,
    /// More guest kernel parameters, put after the runtime's own.
    pub kernel_parameters: String,
    /// Where pods keep their state on the host.
    pub state_dir: PathBuf,
    /// Longest time from the machine's start until the agent is ready, seconds.
    pub boot_timeout_s: u64,
    /// Verbose logging of shim and machine.
    pub debug: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            kernel: "/usr/share/paperboat/vmlinux".into(),
            initrd: "/usr/share/paperboat/initramfs.cpio".into(),
            vmm: None,
            vcpus: 1,
            memory_mib: 512,
            backend: Backend::Auto,
            guest_log_level: GuestLog::Warn,
            kernel_parameters: String::new(),
            state_dir: "/run/paperboat".into(),
            // The software CPU on a host with every core busy: boot is some seconds of CPU time.
            boot_timeout_s: 120,
            debug: false,
        }
    }
}

impl Config {
    /// Loads the file that `explicit` names, else the one in the environment, else [`DEFAULT_PATH`]; only the last may be absent.
    pub fn load(explicit: Option<&Path>) -> Result<Self, ConfigError> {
        let named = explicit.map(Path::to_owned).or_else(|| std::env::var_os(PATH_VARIABLE).map(PathBuf::from));
        let path = named.clone().unwrap_or_else(|| DEFAULT_PATH.into());
        let size = match std::fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(ConfigError::Read { path, source }),
        };
        if size > MAX_CONFIG_BYTES {
            return Err(ConfigError::TooLarge(path));
        }
        let text = std::fs::read_to_string(&path).map_err(|source| ConfigError::Read { path: path.clone(), source })?;
        Self::parse(&text, &path)
    }

    /// Parses a configuration's text; `path` is for messages.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        // An empty document is YAML's null, which is no mapping, but means "all defaults" to everybody.
        let nothing = text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'));
        let config: Self = if nothing {
            Self::default()
        } else {
            serde_yaml::from_str(text).map_err(|source| ConfigError::Parse { path: path.to_owned(), source })?
        };
        let range = |key, value, allowed| Err(ConfigError::Range { path: path.to_owned(), key, value, allowed });
        if !(1..=MAX_VCPUS).contains(&config.vcpus) {
            return range("vcpus", config.vcpus.into(), "1 to 255");
        }
        if !(MIN_MEMORY_MIB..=MAX_MEMORY_MIB).contains(&config.memory_mib) {
            return range("memory_mib", config.memory_mib, "64 to 16777216");
        }
        if !(1..=86400).contains(&config.boot_timeout_s) {
            return range("boot_timeout_s", config.boot_timeout_s, "1 to 86400");
        }
        Ok(config)
    }

    /// The machine's program.
    pub fn vmm_path(&self) -> PathBuf {
        const NAME: &str = "paperboat-vmm";
        self.vmm.clone().unwrap_or_else(|| match std::env::current_exe() {
            Ok(shim) => shim.with_file_name(NAME),
            Err(_) => NAME.into(),
        })
    }

    /// Longest time from the machine's start until the agent is ready.
    pub fn boot_timeout(&self) -> Duration {
        Duration::from_secs(self.boot_timeout_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new("c.yaml"))
    }

    #[test]
    fn keys_override_defaults() {
        let config = parse("kernel: /k\nvcpus: 3\nbackend: soft\nguest_log_level: debug\n").unwrap();
        assert_eq!((config.kernel.to_str(), config.vcpus, config.backend), (Some("/k"), 3, Backend::Soft));
        assert_eq!(config.guest_log_level.loglevel(), 8);
        assert_eq!(config.memory_mib, Config::default().memory_mib);
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_the_line() {
        let message = parse("vcpus: 1\nmemroy_mib: 5\n").unwrap_err().to_string();
        assert!(message.contains("memroy_mib") && message.contains("line 2"), "{message}");
    }

    #[test]
    fn values_out_of_range_are_refused() {
        assert!(matches!(parse("vcpus: 0"), Err(ConfigError::Range { key: "vcpus", .. })));
        assert!(matches!(parse("memory_mib: 63"), Err(ConfigError::Range { key: "memory_mib", .. })));
    }

    #[test]
    fn an_empty_file_means_defaults() {
        assert_eq!(parse("# nothing yet\n\n").unwrap().vcpus, 1);
    }

    #[test]
    fn a_named_file_must_exist() {
        assert!(matches!(Config::load(Some(Path::new("/nonexistent/c.yaml"))), Err(ConfigError::Read { .. })));
    }
}
