//! What the operator decides: the table of keys with their defaults, and where each value came from.
//!
//! Values come from the defaults, then from the configuration file (`files.rs`), then from the files of its drop-in directory, then from
//! the pod's annotations as far as the operator allows them (`annotations.rs`). Keys nobody knows and values that cannot be are errors that
//! name file, line and column: a typing error must not become a default.

mod annotations;
mod files;
mod values;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use annotations::AnnotationKey;
pub use files::{DEFAULT_PATH, PATH_VARIABLE};
use values::{Absolute, Bounded, Parameters, StateDirectory};

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("configuration {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not what is expected; the message ends with line and column.
    #[error("configuration {path}: {source}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        source: serde_yaml::Error,
    },
    /// A file is larger than any configuration.
    #[error("configuration {0}: larger than 1 MiB")]
    TooLarge(PathBuf),
    /// A file in the drop-in directory that would be overlooked.
    #[error("configuration {0}: only files named *.yaml are read here: rename it")]
    Overlooked(PathBuf),
    /// More files than anybody can keep in mind.
    #[error("configuration {0}: more than {max} files", max = files::MAX_DROP_INS)]
    TooMany(PathBuf),
    /// Two values that do not go together.
    #[error("{key} is {value} ({origin}), but {limit_key} is {limit} ({limit_origin}): lower the one or raise the other")]
    AboveLimit {
        /// The key.
        key: &'static str,
        /// Its value.
        value: u64,
        /// Where it came from.
        origin: Origin,
        /// The key of the limit.
        limit_key: &'static str,
        /// The limit.
        limit: u64,
        /// Where the limit came from.
        limit_origin: Origin,
    },
    /// An annotation that means nothing.
    #[error("annotation {name}: unknown; known are {known}")]
    UnknownAnnotation {
        /// The annotation.
        name: String,
        /// Those that exist.
        known: String,
    },
    /// An annotation that the operator does not allow.
    #[error("annotation {name} is not allowed on this host: add {key} to `annotations` in {path} to allow it")]
    DeniedAnnotation {
        /// The annotation.
        name: String,
        /// The key it would set.
        key: &'static str,
        /// The configuration file.
        path: PathBuf,
    },
    /// An annotation with a value that cannot be.
    #[error("annotation {name}: {reason}")]
    AnnotationValue {
        /// The annotation.
        name: String,
        /// What is wrong with its value.
        reason: String,
    },
}

/// What executes guest instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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

/// What the guest may remember of the share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ShareCache {
    /// Nothing: every read and every name goes to the host.
    Never,
    /// File content as long as the file does not change, names and attributes for `cache_ms`.
    Auto,
    /// Everything until the guest needs its memory, whatever the host changes.
    Always,
}

impl ShareCache {
    /// The name the machine's API uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Auto => "auto",
            Self::Always => "always",
        }
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Origin {
    /// Built in.
    #[default]
    Default,
    /// A configuration file.
    File(PathBuf),
    /// An annotation of the pod.
    Annotation(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Annotation(name) => write!(f, "annotation {name}"),
        }
    }
}

/// Origins by key; keys with their default are left out.
type Origins = BTreeMap<String, Origin>;

/// One key as it stands: for people, and for the note that each pod keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// The key, with its section: `limits.max_vcpus`.
    pub key: String,
    /// Its value, as YAML on one line.
    pub value: String,
    /// Where the value came from.
    pub origin: String,
    /// What the key is for.
    #[serde(skip)]
    pub help: Vec<&'static str>,
}

/// A value as YAML on one line. JSON is YAML, and has lists on one line.
fn one_line(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(list @ serde_json::Value::Array(_)) => list.to_string(),
        Ok(scalar) => serde_yaml::to_string(&scalar).unwrap_or_default().trim_end().to_owned(),
        // Nothing here has a value that cannot be written.
        Err(_) => String::new(),
    }
}

/// Declares a section of the configuration once: each key with its explanation, its type, what its text is parsed as, and its default.
macro_rules! settings {
    (
        $(#[$about:meta])* $name:ident, $layer:ident
        { $( $(#[doc = $doc:literal])+ $key:ident: $type:ty, $parsed:ty = $default:expr; )* }
        sections { $( $(#[doc = $section_doc:literal])+ $section:ident: $section_type:ident, $section_layer:ident; )* }
    ) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name {
            $( $(#[doc = $doc])+ pub $key: $type, )*
            $( $(#[doc = $section_doc])+ pub $section: $section_type, )*
            /// Where values came from that are not defaults.
            pub(crate) origins: Origins,
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    $( $key: $default, )*
                    $( $section: $section_type::default(), )*
                    origins: Origins::new(),
                }
            }
        }

        /// What one file says.
        #[derive(Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        struct $layer {
            $( $key: Option<$parsed>, )*
            $( $section: $section_layer, )*
        }

        impl $layer {
            fn apply(self, to: &mut $name, origin: &Origin) {
                $( if let Some(value) = self.$key {
                    to.$key = value.into();
                    to.origins.insert(stringify!($key).to_owned(), origin.clone());
                } )*
                $( self.$section.apply(&mut to.$section, origin); )*
            }
        }

        impl $name {
            fn list(&self, prefix: &str, settings: &mut Vec<Setting>) {
                $( settings.push(Setting {
                    key: format!("{prefix}{}", stringify!($key)),
                    value: one_line(&self.$key),
                    origin: self.origin(stringify!($key)).to_string(),
                    help: vec![$( $doc ),+],
                }); )*
                $( self.$section.list(concat!(stringify!($section), "."), settings); )*
            }

            /// Where a key of this section has its value from.
            pub fn origin(&self, key: &str) -> Origin {
                self.origins.get(key).cloned().unwrap_or_default()
            }
        }
    };
}

settings! {
    /// The configuration, complete with defaults.
    Config, Layer
    {
        /// Guest kernel: a ppc64le vmlinux, the ELF file itself.
        kernel: PathBuf, Absolute = "/usr/share/paperboat/vmlinux".into();
        /// Guest initial RAM file system with the agent.
        initramfs: PathBuf, Absolute = "/usr/share/paperboat/initramfs.cpio".into();
        /// The machine's program. null: paperboat-vmm beside the shim.
        vmm: Option<PathBuf>, Absolute = None;
        /// What executes guest instructions. auto: KVM where the host is POWER and offers it, otherwise
        /// the software CPU; kvm and soft insist.
        backend: Backend, Backend = Backend::Auto;
        /// Virtual CPUs of a pod, 1 to 64.
        vcpus: u32, Bounded<1, MAX_VCPUS> = 1;
        /// Memory ceiling of a pod in MiB, a multiple of 16. Only what the guest uses is taken from the host.
        memory_mib: u64, Bounded<MIN_MEMORY_MIB, MAX_MEMORY_MIB, 16> = 512;
        /// Memory of pods in huge pages of the host's default size (`sysctl vm.nr_hugepages=`). All of it is then
        /// taken when a pod starts, and kept until it ends.
        huge_pages: bool, bool = false;
        /// How much the guest kernel says on its console: error, warn, info, debug.
        guest_log_level: GuestLog, GuestLog = GuestLog::Warn;
        /// More guest kernel parameters, put after the runtime's own.
        kernel_parameters: String, Parameters = String::new();
        /// Allow `paperboat exec-vm`, a root shell in the guest outside of its containers. For finding faults:
        /// whoever is root on the host can then look into every new pod.
        debug_console: bool, bool = false;
        /// Program for that shell: a static ppc64le busybox. null: only programs that the guest has are there.
        debug_tools: Option<PathBuf>, Absolute = None;
        /// Verbose logging of shim and machine.
        debug: bool, bool = false;
        /// Where pods keep their sockets, logs and mounts on the host, at most 61 characters: it holds unix sockets.
        state_dir: PathBuf, StateDirectory = "/run/paperboat".into();
        /// Longest time from a machine's start until its agent is ready, in seconds. The software CPU on a busy
        /// host needs some seconds of processor time.
        boot_timeout_s: u64, Bounded<1, 86400> = 120;
        /// Annotations io.paperboat.NAME that pods may set. NAME is one of vcpus, memory_mib, guest_log_level,
        /// kernel_parameters, backend, boot_timeout_s. An annotation that is not listed is an error of the pod.
        annotations: Vec<AnnotationKey>, Vec<AnnotationKey> = vec![AnnotationKey::Vcpus, AnnotationKey::MemoryMib];
    }
    sections {
        /// The share, over which a pod sees its root file systems and volumes.
        virtio_fs: VirtioFs, VirtioFsLayer;
        /// Upper bounds.
        limits: Limits, LimitsLayer;
    }
}

settings! {
    /// Options of the file system share.
    VirtioFs, VirtioFsLayer
    {
        /// What the guest remembers of file contents: never, auto (while the file does not change), always.
        cache: ShareCache, ShareCache = ShareCache::Auto;
        /// How long the guest uses a name or attributes without asking again, in ms. Secrets and config maps
        /// change on the host: more than a second shows old ones for that long.
        cache_ms: u64, Bounded<0, 3_600_000> = 1000;
        /// Extended attributes, at the cost of a question for each new file.
        xattr: bool, bool = true;
    }
    sections {}
}

settings! {
    /// Upper bounds of what pods ask for and leave.
    Limits, LimitsLayer
    {
        /// Most virtual CPUs that an annotation may ask for.
        max_vcpus: u32, Bounded<1, MAX_VCPUS> = 16;
        /// Most memory that an annotation may ask for, in MiB.
        max_memory_mib: u64, Bounded<MIN_MEMORY_MIB, MAX_MEMORY_MIB, 16> = 65536;
        /// Size in KiB at which a guest's console file stops growing. Later output is kept in memory only.
        console_kib: u64, Bounded<16, 1_048_576> = 16384;
    }
    sections {}
}

/// More memory than any host this runs on; a typing error stands out below it. MiB.
const MAX_MEMORY_MIB: u64 = 16 << 20;

/// The guest kernel with its hashed page table and the agent do not start below this. MiB.
const MIN_MEMORY_MIB: u64 = 64;

/// What the guest kernel is built for.
const MAX_VCPUS: u64 = 64;

impl Config {
    /// Every key with value, origin and explanation, in the order of the documentation.
    pub fn settings(&self) -> Vec<Setting> {
        let mut settings = Vec::new();
        self.list("", &mut settings);
        settings
    }

    /// The configuration as a file, with a comment for each key.
    pub fn document(&self) -> String {
        let mut text =
            String::from("# Configuration of Paperboat. Every key may be left out; what stands here is the default.\n");
        let mut section = "";
        let settings = self.settings();
        for setting in &settings {
            let (of, key) = setting.key.split_once('.').unwrap_or(("", &setting.key));
            let indent = if of.is_empty() { "" } else { "  " };
            text.push('\n');
            if of != section {
                section = of;
                text.push_str(&format!("{of}:\n"));
            }
            for line in &setting.help {
                text.push_str(&format!("{indent}# {}\n", line.trim()));
            }
            text.push_str(&format!("{indent}{key}: {}\n", setting.value));
        }
        text
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

    /// Values that are possible alone and not together.
    fn check(self) -> Result<Self, ConfigError> {
        let limits = [
            ("vcpus", u64::from(self.vcpus), "max_vcpus", "limits.max_vcpus", u64::from(self.limits.max_vcpus)),
            ("memory_mib", self.memory_mib, "max_memory_mib", "limits.max_memory_mib", self.limits.max_memory_mib),
        ];
        for (key, value, limit_name, limit_key, limit) in limits {
            if value > limit {
                let (origin, limit_origin) = (self.origin(key), self.limits.origin(limit_name));
                return Err(ConfigError::AboveLimit { key, value, origin, limit_key, limit, limit_origin });
            }
        }
        Ok(self)
    }
}

/// Parses a configuration's text without drop-ins; `path` is for messages.
fn layer(text: &str, path: &Path) -> Result<Layer, ConfigError> {
    // An empty document is YAML's null, which is no mapping, but means "all defaults" to everybody.
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(Layer::default());
    }
    serde_yaml::from_str(text).map_err(|source| ConfigError::Parse { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, Path::new("c.yaml"))
    }

    #[track_caller]
    fn refused(text: &str, words: &[&str]) {
        let message = parse(text).unwrap_err().to_string();
        for word in words {
            assert!(message.contains(word), "{word:?} is not in: {message}");
        }
    }

    #[test]
    fn keys_override_defaults_and_are_noted() {
        let config = parse("kernel: /k\nvcpus: 3\nbackend: soft\nguest_log_level: debug\nlimits:\n  console_kib: 64\n").unwrap();
        assert_eq!((config.kernel.to_str(), config.vcpus, config.backend), (Some("/k"), 3, Backend::Soft));
        assert_eq!(config.guest_log_level.loglevel(), 8);
        assert_eq!(config.limits.console_kib, 64);
        assert_eq!(config.memory_mib, Config::default().memory_mib);
        assert_eq!(config.origin("vcpus"), Origin::File("c.yaml".into()));
        assert_eq!(config.limits.origin("console_kib"), Origin::File("c.yaml".into()));
        assert_eq!(config.origin("memory_mib"), Origin::Default);
    }

    #[test]
    fn mistakes_are_shown_with_line_and_column() {
        refused("vcpus: 1\nmemroy_mib: 5\n", &["c.yaml", "memroy_mib", "line 2 column 1"]);
        refused("vcpus: 1\nlimits:\n  max_vcpu: 5\n", &["max_vcpu", "line 3 column 3"]);
        refused("vcpus: 1\nvcpus: 2\n", &["duplicate", "vcpus"]);
        refused("vcpus: many\n", &["vcpus", "1 to 64", "line 1 column 8"]);
    }

    #[test]
    fn values_that_cannot_be_are_refused_where_they_stand() {
        refused("\nvcpus: 0\n", &["vcpus", "1 to 64", "line 2 column 8"]);
        refused("vcpus: 65\n", &["1 to 64"]);
        refused("vcpus: -1\n", &["1 to 64"]);
        refused("memory_mib: 63\n", &["64 to 16777216"]);
        refused("memory_mib: 100\n", &["multiple of 16"]);
        refused("boot_timeout_s: 0\n", &["1 to 86400"]);
        refused("kernel: vmlinux\n", &["kernel", "absolute"]);
        refused("backend: qemu\n", &["qemu", "auto", "line 1 column 10"]);
        refused("kernel_parameters: \"a\\nb\"\n", &["printable"]);
        refused(&format!("state_dir: /{}\n", "x".repeat(80)), &["state_dir", "61"]);
        refused("annotations: [kernel]\n", &["kernel", "memory_mib"]);
        refused("virtio_fs:\n  cache: maybe\n", &["maybe", "line 2 column 10"]);
    }

    #[test]
    fn values_that_exclude_each_other_are_refused_with_both_names() {
        refused("vcpus: 32\n", &["vcpus is 32 (c.yaml)", "limits.max_vcpus is 16 (default)"]);
        assert!(parse("vcpus: 32\nlimits:\n  max_vcpus: 32\n").is_ok());
    }

    #[test]
    fn an_empty_file_means_defaults() {
        assert_eq!(parse("# nothing yet\n\n").unwrap(), Config::default());
    }

    #[test]
    fn the_printed_default_is_the_default() {
        let text = Config::default().document();
        let mut config = parse(&text).unwrap();
        config.origins.clear();
        config.limits.origins.clear();
        config.virtio_fs.origins.clear();
        assert_eq!(config, Config::default(), "{text}");
        assert!(text.lines().filter(|line| line.trim_start().starts_with('#')).count() > Config::default().settings().len());
    }
}
