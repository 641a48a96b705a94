//! Where a pod keeps its state on the host, as functions of names: `start`, the server and `delete` find the same places without
//! talking to each other.
//!
//! ```text
//! STATE_DIR/s/HASH               containerd's Task API socket of one pod
//! STATE_DIR/NAMESPACE/ID/        0700, one pod
//!     control  vsock  vsock_1026   sockets of the machine
//!     files/                       containers/ID/{config.json,rootfs,mounts}, written by the host only
//!     share/                       what the guest sees: files/ mounted read-only, root file systems and volumes on top
//!     pod-files/                   hosts, hostname, resolv.conf, shm of a pod that came by the sandbox API
//!     console.log machine.log shim.log
//!     pod.json                     what the pod is, for the operator's command
//!     machine.pid cgroups cgroup-home owner network   for whoever cleans up after this shim
//! ```

use std::path::{Path, PathBuf};

use paperboat_protocol::READY_PORT;
use paperboat_protocol::resolver::RESOLVER_PORT;
use sha2::{Digest, Sha256};

/// `sun_path` holds 108 bytes with its final zero.
const MAX_SOCKET_PATH_BYTES: usize = 107;

/// Hex digits of a hash in a path: 128 bits, beyond chance.
const HASH_DIGITS: usize = 32;

/// Longest name of a socket inside a pod's directory, with the slash.
const LONGEST_SOCKET_NAME: &str = "/vsock_1026";

/// Longest state directory in bytes: below it a pod's directory is `/h/HASH` at the least.
pub const MAX_STATE_DIR_BYTES: usize = MAX_SOCKET_PATH_BYTES - LONGEST_SOCKET_NAME.len() - HASH_DIGITS - "/h/".len();

/// The first [`HASH_DIGITS`] hex digits of SHA-256 over the parts, each ended by a zero byte.
fn hash(parts: &[&str]) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(part.as_bytes());
        digest.update([0]);
    }
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect::<String>()[..HASH_DIGITS].to_owned()
}

/// Socket of the pod's Task API. `address` tells two containerds on one host apart.
pub fn task_socket(state_dir: &Path, address: &str, namespace: &str, pod: &str) -> PathBuf {
    state_dir.join("s").join(hash(&[address, namespace, pod]))
}

/// A pod's directory and the places inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodPaths {
    root: PathBuf,
}

impl PodPaths {
    /// The directory of pod `pod`: named by namespace and id, or by their hash where sockets would not fit below such a name.
    pub fn new(state_dir: &Path, namespace: &str, pod: &str) -> Self {
        let plain = state_dir.join(namespace).join(pod);
        let fits = plain.as_os_str().len() + LONGEST_SOCKET_NAME.len() <= MAX_SOCKET_PATH_BYTES;
        Self { root: if fits { plain } else { state_dir.join("h").join(hash(&[namespace, pod])) } }
    }

    /// A pod's directory that is already known.
    pub fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// The pod's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The machine's ttrpc service.
    pub fn control_socket(&self) -> PathBuf {
        self.root.join("control")
    }

    /// Host side of the guest's vsock.
    pub fn vsock_socket(&self) -> PathBuf {
        self.root.join("vsock")
    }

    /// Where the agent says that it is ready.
    pub fn ready_socket(&self) -> PathBuf {
        self.root.join(format!("vsock_{READY_PORT}"))
    }

    /// Where the guest's questions for names come.
    pub fn resolver_socket(&self) -> PathBuf {
        self.root.join(format!("vsock_{RESOLVER_PORT}"))
    }

    /// What the guest sees over virtio-fs.
    pub fn share(&self) -> PathBuf {
        self.root.join("share")
    }

    /// The directories and files below the share, as the host writes them. The guest has no way to change them, so no link of
    /// its making can lead the host astray.
    pub fn files(&self) -> PathBuf {
        self.root.join("files")
    }

    /// Files that all containers of a pod have, where containerd leaves them to the runtime.
    pub fn pod_files(&self) -> PathBuf {
        self.root.join("pod-files")
    }

    /// A container's directory relative to the share, as the agent is told.
    pub fn container_in_share(&self, id: &str) -> PathBuf {
        Path::new("containers").join(id)
    }

    /// The guest's console.
    pub fn console_log(&self) -> PathBuf {
        self.root.join("console.log")
    }

    /// What the machine's process prints.
    pub fn machine_log(&self) -> PathBuf {
        self.root.join("machine.log")
    }

    /// The shim's own log.
    pub fn shim_log(&self) -> PathBuf {
        self.root.join("shim.log")
    }

    /// Name of the Task API socket of the shim whose pod this is.
    pub fn owner(&self) -> PathBuf {
        self.root.join("owner")
    }

    /// Directories made in the host's cgroup hierarchies, one a line.
    pub fn cgroups(&self) -> PathBuf {
        self.root.join("cgroups")
    }

    /// The shim's own cgroups before it joined the pod's, one a line.
    pub fn cgroup_home(&self) -> PathBuf {
        self.root.join("cgroup-home")
    }

    /// The directory of all pods; none for a pod that is not below one.
    pub fn state_dir(&self) -> Option<&Path> {
        self.root.parent()?.parent()
    }

    /// What all pods list in [`Self::cgroups`].
    pub fn cgroups_of_pods(&self) -> Vec<PathBuf> {
        let below = |directory: &Path| {
            let entries = std::fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
            entries.map(|entry| entry.path()).collect::<Vec<_>>()
        };
        let pods = self.state_dir().map(below).unwrap_or_default().into_iter().flat_map(|namespace| below(&namespace));
        let lists = pods.filter_map(|pod| std::fs::read_to_string(pod.join("cgroups")).ok());
        lists.flat_map(|list| list.lines().map(PathBuf::from).collect::<Vec<_>>()).collect()
    }

    /// What the pod is and how it was configured.
    pub fn note(&self) -> PathBuf {
        self.root.join("pod.json")
    }

    /// What was made in the pod's network namespace.
    pub fn network(&self) -> PathBuf {
        self.root.join("network")
    }

    /// Process id and start time of the machine.
    pub fn machine_pid(&self) -> PathBuf {
        self.root.join("machine.pid")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_used_while_sockets_fit() {
        let paths = PodPaths::new(Path::new("/run/paperboat"), "k8s.io", &"a".repeat(64));
        assert_eq!(paths.root(), Path::new("/run/paperboat/k8s.io").join("a".repeat(64)));
        assert!(paths.ready_socket().as_os_str().len() <= MAX_SOCKET_PATH_BYTES);
    }

    #[test]
    fn longer_names_are_hashed_and_stay_apart() {
        let of = |namespace: &str, id: &str| PodPaths::new(Path::new("/run/paperboat"), namespace, id);
        let (one, two) = (of(&"n".repeat(76), "ab"), of(&"n".repeat(76), "ac"));
        assert!(one.ready_socket().as_os_str().len() <= MAX_SOCKET_PATH_BYTES);
        assert_ne!(one, two);
        assert_eq!(one, of(&"n".repeat(76), "ab"));
    }

    #[test]
    fn task_sockets_differ_by_containerd_namespace_and_pod() {
        let state = Path::new("/run/paperboat");
        let all = [
            task_socket(state, "/a", "n", "p"),
            task_socket(state, "/b", "n", "p"),
            task_socket(state, "/a", "np", ""),
            task_socket(state, "/a", "n", "q"),
        ];
        for (index, path) in all.iter().enumerate() {
            assert!(!all[index + 1..].contains(path));
        }
    }
}
