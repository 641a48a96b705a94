//! What a pod writes down about itself for the operator's command: who it is, and with which settings it runs.

use std::collections::HashMap;
use std::os::unix::fs::OpenOptionsExt;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::config::{Config, Setting};
use crate::paths::PodPaths;

/// Largest note read, in bytes; a real one has three thousand.
const MAX_NOTE_BYTES: u64 = 1 << 20;

/// A pod's note.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// containerd's namespace.
    pub namespace: String,
    /// The pod's id: that of its sandbox, or of its only container.
    pub id: String,
    /// The name people gave it, where the client says one.
    pub name: Option<String>,
    /// When its shim began to boot it, milliseconds since the epoch.
    pub started_unix_ms: u64,
    /// Process id of its shim.
    pub shim_pid: u32,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Memory ceiling, MiB.
    pub memory_mib: u64,
    /// Whether `paperboat exec-vm` works.
    pub debug_console: bool,
    /// Every setting with its origin.
    pub settings: Vec<Setting>,
}

impl Note {
    /// The note of a pod that is about to boot.
    pub fn new(namespace: &str, id: &str, config: &Config, annotations: &HashMap<String, String>) -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self {
            namespace: namespace.into(),
            id: id.into(),
            name: name(annotations),
            started_unix_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
            shim_pid: std::process::id(),
            vcpus: config.vcpus,
            memory_mib: config.memory_mib,
            debug_console: config.debug_console,
            settings: config.settings(),
        }
    }

    /// Writes it into the pod's directory.
    pub fn write(&self, paths: &PodPaths) -> std::io::Result<()> {
        let file = std::fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(paths.note())?;
        serde_json::to_writer(file, self).map_err(Into::into)
    }

    /// Reads the note of a pod.
    pub fn read(paths: &PodPaths) -> std::io::Result<Self> {
        use std::io::Read;
        let file = std::fs::File::open(paths.note())?;
        serde_json::from_reader(file.take(MAX_NOTE_BYTES)).map_err(Into::into)
    }
}

/// Kubernetes' namespace and name of the pod, where the client is a kubelet; nerdctl's name of a container.
fn name(annotations: &HashMap<String, String>) -> Option<String> {
    /// Longer names would tear every table.
    const MAX_CHARS: usize = 253;
    let of = |key: &str| annotations.get(key).filter(|text| !text.is_empty());
    let name = match (of("io.kubernetes.cri.sandbox-namespace"), of("io.kubernetes.cri.sandbox-name")) {
        (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
        (None, Some(name)) => name.clone(),
        _ => of("nerdctl/name")?.clone(),
    };
    Some(name.chars().filter(|c| !c.is_control()).take(MAX_CHARS).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_as_it_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let paths = PodPaths::at(directory.path().to_owned());
        let annotations = [("io.kubernetes.cri.sandbox-namespace", "shop"), ("io.kubernetes.cri.sandbox-name", "till\u{1b}-0")];
        let annotations = annotations.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let note = Note::new("k8s.io", "abc", &Config::default(), &annotations);
        note.write(&paths).unwrap();
        let mut read = Note::read(&paths).unwrap();
        assert_eq!(read.name.as_deref(), Some("shop/till-0"));
        assert!(read.settings.iter().any(|setting| setting.key == "limits.max_vcpus" && setting.origin == "default"));
        // Explanations are not written.
        for (read, written) in read.settings.iter_mut().zip(&note.settings) {
            read.help = written.help.clone();
        }
        assert_eq!(read, note);
        std::fs::write(paths.note(), "{").unwrap();
        assert!(Note::read(&paths).is_err());
    }
}
