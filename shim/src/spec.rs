//! The bundle's OCI runtime specification: the few fields the host side needs, and the copy for the guest with host paths replaced.
//! The document itself is kept as JSON, so that fields this shim does not know reach the agent untouched.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use paperboat_protocol::{INIT_PROGRAM, MEMORY_MOUNT, SHARE_MOUNT};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::elf;
use crate::hooks::Hooks;
use crate::size::{Asked, Resources};
use crate::volume::{self, MemoryVolume, Placed, Volume};

/// Largest config.json read, in bytes. Linux bounds arguments and environment at a few MiB; the rest is small beside them.
const MAX_SPEC_BYTES: u64 = 64 << 20;

/// Why a specification was refused.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// config.json cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// config.json is not an OCI specification.
    #[error("{path}: {source}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// config.json is larger than any specification.
    #[error("{0}: larger than 64 MiB")]
    TooLarge(PathBuf),
    /// A volume whose source does not exist on the host.
    #[error("mount of {source_path} at {destination}: {source}")]
    Volume {
        /// The host's path.
        source_path: PathBuf,
        /// The container's path.
        destination: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Something of the host's that a guest cannot have.
    #[error("{path}: the host's {kind} namespace cannot reach into a micro-VM; {instead}")]
    HostNamespace {
        /// The file.
        path: PathBuf,
        /// Which namespace.
        kind: &'static str,
        /// What to do.
        instead: &'static str,
    },
    /// The working directory is no absolute path (OCI runtime specification, "process").
    #[error("{path}: process.cwd is {cwd:?}, it must be an absolute path")]
    RelativeCwd {
        /// The file.
        path: PathBuf,
        /// As given.
        cwd: PathBuf,
    },
    /// Ids of the host's files are the container's here.
    #[error("mount of {source_path} at {destination}: id-mapped mounts (uidMappings, gidMappings) are not supported")]
    IdMapped {
        /// The host's path.
        source_path: PathBuf,
        /// The container's path.
        destination: String,
    },
}

/// The parts of the specification that the host side acts on.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct View {
    process: Option<ProcessView>,
    root: Option<RootView>,
    hostname: String,
    #[serde(deserialize_with = "nullable")]
    mounts: Vec<MountView>,
    #[serde(deserialize_with = "nullable")]
    annotations: HashMap<String, String>,
    #[serde(deserialize_with = "nullable")]
    hooks: Hooks,
    linux: Option<LinuxView>,
    oci_version: String,
}

/// Go writes an empty list or map as null where a field is not marked `omitempty`.
fn nullable<'de, T: Default + Deserialize<'de>, D: serde::Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ProcessView {
    #[serde(deserialize_with = "nullable")]
    args: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    env: Vec<String>,
    cwd: PathBuf,
    #[serde(rename = "oomScoreAdj")]
    oom_score_adj: Option<i32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RootView {
    path: PathBuf,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct MountView {
    destination: String,
    #[serde(rename = "type")]
    kind: String,
    source: PathBuf,
    #[serde(deserialize_with = "nullable")]
    options: Vec<String>,
    #[serde(rename = "uidMappings")]
    uid_mappings: Vec<Value>,
    #[serde(rename = "gidMappings")]
    gid_mappings: Vec<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct LinuxView {
    #[serde(deserialize_with = "nullable")]
    namespaces: Vec<NamespaceView>,
    cgroups_path: String,
    resources: Option<Resources>,
    #[serde(deserialize_with = "nullable")]
    sysctl: HashMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NamespaceView {
    #[serde(rename = "type")]
    kind: String,
    path: PathBuf,
}

/// The network namespace in which the pod's machine lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkNamespace {
    /// One that nobody else has.
    Fresh,
    /// An existing one.
    Path(PathBuf),
}

/// Part a container plays in its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The pod is this container.
    Single,
    /// Stands for the pod; nothing runs in it.
    Sandbox,
    /// One of the pod's containers.
    Member,
}

/// A specification for the guest, and what it needs outside.
#[derive(Debug)]
pub struct ForGuest {
    /// The document.
    pub document: Vec<u8>,
    /// Host paths to be mounted into the share.
    pub volumes: Vec<Volume>,
    /// File systems that the guest makes in its memory.
    pub memory_volumes: Vec<MemoryVolume>,
}

/// Namespaces that a guest cannot share with its host, and what to ask for instead.
const HOST_NAMESPACES: [(&str, &str); 3] = [
    (
        "network",
        "a pod's network comes from interfaces in its own namespace: leave out --net-host, --network host, hostNetwork, and publish ports",
    ),
    ("pid", "a guest has its own processes: leave out --pid host, hostPID"),
    ("ipc", "a guest has its own shared memory: leave out --ipc host, hostIPC"),
];

/// Where Docker mounts its init (`docker run --init`), which it then gives the container's own program after `--`.
const ENGINE_INIT: &str = "/sbin/docker-init";

/// What a container has of its pod, and the name in the pod's files.
const POD_FILES: [(&str, &str); 3] =
    [("/etc/hostname", "hostname"), ("/etc/hosts", "hosts"), ("/etc/resolv.conf", "resolv.conf")];

/// The same for memory, which is writable whatever the root file system is.
const SHARED_MEMORY: [(&str, &str, &str); 1] = [("/dev/shm", "shm", "rw")];

/// A bundle's specification.
#[derive(Debug)]
pub struct Spec {
    document: Value,
    view: View,
}

impl Spec {
    /// Reads `config.json` of a bundle.
    pub fn load(bundle: &Path) -> Result<Self, SpecError> {
        let path = bundle.join("config.json");
        let read = |source| SpecError::Read { path: path.clone(), source };
        let mut bytes = Vec::new();
        let file = std::fs::File::open(&path).map_err(read)?;
        file.take(MAX_SPEC_BYTES + 1).read_to_end(&mut bytes).map_err(read)?;
        if bytes.len() as u64 > MAX_SPEC_BYTES {
            return Err(SpecError::TooLarge(path));
        }
        let spec = Self::parse(&bytes).map_err(|source| SpecError::Parse { path: path.clone(), source })?;
        for (kind, instead) in HOST_NAMESPACES {
            if !spec.namespaces().any(|namespace| namespace.kind == kind) {
                return Err(SpecError::HostNamespace { path, kind, instead });
            }
        }
        if let Some((_, _, cwd)) = spec.program()
            && !cwd.is_absolute()
        {
            let cwd = cwd.to_owned();
            return Err(SpecError::RelativeCwd { path, cwd });
        }
        Ok(spec)
    }

    /// Parses a specification.
    pub fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        let document: Value = serde_json::from_slice(bytes)?;
        let view = View::deserialize(&document)?;
        Ok(Self { document, view })
    }

    /// The pod this container belongs to, where its annotations name one.
    pub fn sandbox_id(&self) -> Option<&str> {
        self.view.annotations.get("io.kubernetes.cri.sandbox-id").map(String::as_str).filter(|id| !id.is_empty())
    }

    /// The container's annotations.
    pub fn annotations(&self) -> &HashMap<String, String> {
        &self.view.annotations
    }

    /// Part the container plays in its pod.
    pub fn role(&self) -> Role {
        match self.view.annotations.get("io.kubernetes.cri.container-type").map(String::as_str) {
            Some("sandbox") => Role::Sandbox,
            Some("container") => Role::Member,
            _ => Role::Single,
        }
    }

    /// Host name of the container.
    pub fn hostname(&self) -> &str {
        &self.view.hostname
    }

    /// The network namespace the specification asks for.
    pub fn network_namespace(&self) -> NetworkNamespace {
        match self.namespaces().find(|namespace| namespace.kind == "network") {
            Some(namespace) if !namespace.path.as_os_str().is_empty() => NetworkNamespace::Path(namespace.path.clone()),
            _ => NetworkNamespace::Fresh,
        }
    }

    fn namespaces(&self) -> impl Iterator<Item = &NamespaceView> {
        self.view.linux.iter().flat_map(|linux| &linux.namespaces)
    }

    /// The host's file that is the container's resolv.conf.
    pub fn resolv_conf(&self) -> Option<&Path> {
        let mount = self.view.mounts.iter().find(|mount| mount.destination == "/etc/resolv.conf")?;
        Some(&mount.source).filter(|source| source.is_absolute()).map(PathBuf::as_path)
    }

    /// Settings of the whole pod: a sandbox's, in whose namespaces the pod's containers live. A single container's are its own.
    pub fn pod_sysctls(&self) -> &HashMap<String, String> {
        static NONE: LazyLock<HashMap<String, String>> = LazyLock::new(HashMap::new);
        self.view.linux.as_ref().filter(|_| self.role() == Role::Sandbox).map_or(&NONE, |linux| &linux.sysctl)
    }

    /// The container's cgroup as the client names it; empty when it does not.
    pub fn cgroups_path(&self) -> &str {
        self.view.linux.as_ref().map_or("", |linux| &linux.cgroups_path)
    }

    /// Limits of the container itself.
    pub fn resources(&self) -> Asked {
        self.view.linux.as_ref().and_then(|linux| linux.resources.as_ref()).map(Resources::asked).unwrap_or_default()
    }

    /// Limits of the whole pod, where the client knows them when it starts the pod.
    pub fn annotated_resources(&self) -> Asked {
        let number = |name: &str| self.view.annotations.get(&format!("io.kubernetes.cri.sandbox-{name}"))?.parse::<i64>().ok();
        let period = number("cpu-period").and_then(|period| u64::try_from(period).ok());
        Asked::new(number("memory"), number("cpu-quota"), period)
    }

    /// How readily the host's kernel ends the pod when memory runs out.
    pub fn oom_score_adj(&self) -> Option<i32> {
        self.view.process.as_ref()?.oom_score_adj
    }

    /// Programs of the host that are to run at certain moments.
    pub fn hooks(&self) -> &Hooks {
        &self.view.hooks
    }

    /// Version of the specification the document follows.
    pub fn oci_version(&self) -> &str {
        &self.view.oci_version
    }

    /// `root.path`: absolute, or relative to the bundle.
    pub fn root_path(&self) -> &Path {
        self.view.root.as_ref().map_or(Path::new("rootfs"), |root| &root.path)
    }

    /// Arguments, environment and working directory of the container's program, which an engine's init may run.
    pub fn program(&self) -> Option<(&[String], &[String], &Path)> {
        let process = self.view.process.as_ref()?;
        let cwd = if process.cwd.as_os_str().is_empty() { Path::new("/") } else { &process.cwd };
        let args = match process.args.as_slice() {
            [init, dashes, own @ ..] if init == ENGINE_INIT && dashes == "--" => own,
            all => all,
        };
        Some((args, &process.env, cwd))
    }

    /// Gives the container the files that all of its pod have, where containerd leaves them to the runtime: those it does not mention,
    /// and shared memory that would be the container's alone.
    pub fn add_pod_files(&mut self, directory: &Path) {
        let access = if self.document["root"]["readonly"] == json!(true) { "ro" } else { "rw" };
        let mut mounts = match self.document["mounts"].take() {
            Value::Array(mounts) => mounts,
            _ => Vec::new(),
        };
        for (destination, name, access) in
            POD_FILES.map(|(destination, name)| (destination, name, access)).into_iter().chain(SHARED_MEMORY)
        {
            let found = self.view.mounts.iter().position(|mount| mount.destination == destination);
            let mount = json!({"destination": destination, "type": "bind", "source": directory.join(name), "options": ["rbind", "rprivate", access]});
            match found {
                None => mounts.push(mount),
                Some(at) if self.view.mounts[at].kind == "tmpfs" && name == "shm" => mounts[at] = mount,
                Some(_) => {}
            }
        }
        self.document["mounts"] = Value::Array(mounts);
        // It was one before, and what came is well-formed.
        if let Ok(view) = View::deserialize(&self.document) {
            self.view = view;
        }
    }

    /// The specification for the guest, and what its mounts need. `bundle` is where relative sources begin, `container_in_share` the
    /// container's directory, relative to the share.
    pub fn for_guest(&self, bundle: &Path, container_in_share: &Path) -> Result<ForGuest, SpecError> {
        let in_guest = Path::new(SHARE_MOUNT).join(container_in_share);
        let mut document = self.document.clone();
        document["root"]["path"] = json!(in_guest.join("rootfs"));
        let (mut volumes, mut memory_volumes) = (Vec::new(), Vec::new());
        for (index, mount) in self.view.mounts.iter().enumerate() {
            let bound = mount.kind == "bind" || mount.options.iter().any(|option| option == "bind" || option == "rbind");
            if !bound {
                continue;
            }
            let source_path = bundle.join(&mount.source);
            let destination = mount.destination.clone();
            if !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty() {
                return Err(SpecError::IdMapped { source_path, destination });
            }
            if is_foreign_init(mount) {
                document["mounts"][index]["source"] = json!(INIT_PROGRAM);
                continue;
            }
            let options = &mount.options;
            if options.iter().any(|option| option == "shared" || option == "rshared") {
                log::warn!(
                    "mount at {destination}: shared propagation leads into a micro-VM alone: what is mounted there stays in the guest"
                );
            }
            let placed = volume::place(&index.to_string(), &source_path, Path::new(&destination), options)
                .and_then(|placed| Ok((placed, volume::inherited(&source_path, options)?)));
            let (placed, inherited) = placed.map_err(|source| SpecError::Volume { source_path, destination, source })?;
            let entry = &mut document["mounts"][index];
            match placed {
                Placed::Share(volume) => {
                    entry["source"] = json!(in_guest.join("mounts").join(&volume.name));
                    volumes.push(volume);
                }
                Placed::Memory(volume) => {
                    entry["source"] = json!(Path::new(MEMORY_MOUNT).join(&volume.name));
                    memory_volumes.push(volume);
                }
            }
            let all = options.iter().map(String::as_str).chain(inherited);
            entry["options"] = json!(all.collect::<Vec<_>>());
        }
        let document = serde_json::to_vec(&document).map_err(|source| SpecError::Parse { path: "config.json".into(), source })?;
        Ok(ForGuest { document, volumes, memory_volumes })
    }
}

/// Docker's init is a program of the host; where the guest cannot run it, its own does the same.
fn is_foreign_init(mount: &MountView) -> bool {
    mount.destination == ENGINE_INIT && elf::is_foreign(&mount.source)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::ReadOnly;

    fn spec(document: Value) -> Spec {
        Spec::parse(document.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn network_namespaces_are_told_apart() {
        let of = |namespaces: Value| spec(json!({"linux": {"namespaces": namespaces}})).network_namespace();
        assert_eq!(of(json!([{"type": "network"}])), NetworkNamespace::Fresh);
        assert_eq!(of(json!([{"type": "network", "path": "/run/netns/a"}])), NetworkNamespace::Path("/run/netns/a".into()));
    }

    #[test]
    fn cri_annotations_give_pod_and_role() {
        let member = spec(json!({"annotations": {
            "io.kubernetes.cri.sandbox-id": "pod", "io.kubernetes.cri.container-type": "container"}}));
        assert_eq!((member.sandbox_id(), member.role()), (Some("pod"), Role::Member));
        assert_eq!((spec(json!({})).sandbox_id(), spec(json!({})).role()), (None, Role::Single));
    }

    #[test]
    fn a_container_has_its_pods_files_unless_it_brings_its_own() {
        let own = json!({"destination": "/etc/hosts", "type": "bind", "source": "/own/hosts"});
        let shm = json!({"destination": "/dev/shm", "type": "tmpfs", "source": "shm"});
        let mut spec = spec(json!({"root": {"path": "rootfs", "readonly": true}, "mounts": [own, shm]}));
        spec.add_pod_files(Path::new("/pod"));
        let found: Vec<_> =
            spec.view.mounts.iter().map(|mount| (mount.destination.as_str(), mount.source.to_str().unwrap())).collect();
        let wanted = [
            ("/etc/hosts", "/own/hosts"),
            ("/dev/shm", "/pod/shm"),
            ("/etc/hostname", "/pod/hostname"),
            ("/etc/resolv.conf", "/pod/resolv.conf"),
        ];
        assert_eq!(found, wanted);
        assert_eq!(spec.view.mounts[1].options.last().unwrap(), "rw");
        assert_eq!(spec.view.mounts[2].options.last().unwrap(), "ro");
    }

    #[test]
    fn the_pods_settings_are_its_sandboxs() {
        let of = |kind: &str| {
            let linux = json!({"sysctl": {"net.ipv4.ip_forward": "1"}});
            let spec = spec(json!({"annotations": {"io.kubernetes.cri.container-type": kind}, "linux": linux}));
            spec.pod_sysctls().get("net.ipv4.ip_forward").cloned()
        };
        assert_eq!((of("sandbox"), of("container")), (Some("1".to_owned()), None));
        assert!(spec(json!({"linux": {"sysctl": null}})).pod_sysctls().is_empty());
    }

    #[test]
    fn an_init_that_the_guest_cannot_run_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let init = directory.path().join("docker-init");
        let of = |head: &[u8]| {
            std::fs::write(&init, head).unwrap();
            let mount = json!({"destination": "/sbin/docker-init", "type": "bind", "source": &init, "options": ["bind", "ro"]});
            let spec =
                spec(json!({"mounts": [mount], "process": {"args": ["/sbin/docker-init", "--", "sh", "-c", "x"], "cwd": "/"}}));
            assert_eq!(spec.program().unwrap().0, ["sh", "-c", "x"]);
            let guest = spec.for_guest(Path::new("/"), Path::new("containers/c")).unwrap();
            let document: Value = serde_json::from_slice(&guest.document).unwrap();
            (document["mounts"][0]["source"].as_str().unwrap().to_owned(), guest.volumes.len())
        };
        let mut head = [0; 64];
        head[..6].copy_from_slice(b"\x7fELF\x02\x01");
        head[18] = 62;
        assert_eq!(of(&head), (INIT_PROGRAM.to_owned(), 0));
        head[18] = 21;
        assert_eq!(of(&head).1, 1, "the host's own is taken where the guest can run it");
    }

    #[test]
    fn the_pods_size_comes_from_annotations_or_limits() {
        let pod = spec(json!({
            "annotations": {"io.kubernetes.cri.sandbox-memory": "1048576", "io.kubernetes.cri.sandbox-cpu-quota": "200000",
                            "io.kubernetes.cri.sandbox-cpu-period": "100000"},
            "linux": {"resources": {"memory": {"limit": 5}}},
        }));
        assert_eq!(pod.annotated_resources(), Asked { memory_bytes: Some(1 << 20), cpus: Some(2) });
        assert_eq!(pod.resources(), Asked { memory_bytes: Some(5), cpus: None });
        assert_eq!(spec(json!({"linux": {"resources": null}})).resources(), Asked::default());
    }

    #[test]
    fn the_guests_copy_has_guest_paths_and_keeps_the_rest() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("hosts");
        std::fs::write(&file, "").unwrap();
        let original = spec(json!({
            "root": {"path": "rootfs", "readonly": true},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/data", "type": "bind", "source": directory.path(), "options": ["rbind", "ro"]},
                {"destination": "/etc/hosts", "type": "none", "source": file, "options": ["bind"]},
            ],
            "futureField": {"kept": 1},
        }));
        let ForGuest { document, volumes, memory_volumes } =
            original.for_guest(Path::new("/bundle"), Path::new("containers/c")).unwrap();
        let guest: Value = serde_json::from_slice(&document).unwrap();
        assert_eq!(guest["root"], json!({"path": "/run/paperboat/share/containers/c/rootfs", "readonly": true}));
        assert_eq!(guest["mounts"][0]["source"], "proc");
        assert_eq!(guest["mounts"][1]["source"], "/run/paperboat/share/containers/c/mounts/1");
        assert_eq!(guest["futureField"]["kept"], 1);
        assert_eq!((volumes.len(), memory_volumes.len()), (2, 0));
        assert!(volumes[0].directory && volumes[0].recursive && volumes[0].read_only == ReadOnly::Top);
        assert!(!volumes[1].directory && !volumes[1].recursive && volumes[1].read_only == ReadOnly::No);
    }

    #[test]
    fn a_relative_source_begins_at_the_bundle() {
        let bundle = tempfile::tempdir().unwrap();
        std::fs::create_dir(bundle.path().join("data")).unwrap();
        let relative = spec(json!({"mounts": [{"destination": "/d", "type": "bind", "source": "data"}]}));
        let volumes = relative.for_guest(bundle.path(), Path::new("c")).unwrap().volumes;
        assert_eq!(volumes[0].source, bundle.path().join("data"));
    }

    #[test]
    fn namespaces_of_the_host_are_refused_with_a_way_out() {
        let bundle = tempfile::tempdir().unwrap();
        let load = |kinds: &[&str]| {
            let namespaces: Vec<_> = kinds.iter().map(|kind| json!({"type": kind})).collect();
            std::fs::write(bundle.path().join("config.json"), json!({"linux": {"namespaces": namespaces}}).to_string()).unwrap();
            Spec::load(bundle.path()).map(drop).map_err(|error| error.to_string())
        };
        assert_eq!(load(&["network", "pid", "ipc"]), Ok(()));
        assert!(load(&["pid", "ipc"]).unwrap_err().contains("--network host"));
        assert!(load(&["network", "ipc"]).unwrap_err().contains("hostPID"));
        assert!(load(&["network", "pid"]).unwrap_err().contains("hostIPC"));
    }

    #[test]
    fn a_relative_working_directory_is_refused_by_name() {
        let bundle = tempfile::tempdir().unwrap();
        let load = |cwd: &str| {
            let namespaces: Vec<_> = ["network", "pid", "ipc"].iter().map(|kind| json!({"type": kind})).collect();
            let document = json!({"process": {"cwd": cwd}, "linux": {"namespaces": namespaces}});
            std::fs::write(bundle.path().join("config.json"), document.to_string()).unwrap();
            Spec::load(bundle.path()).map(drop).map_err(|error| error.to_string())
        };
        assert_eq!(load("/work"), Ok(()));
        let message = load("work").unwrap_err();
        assert!(message.contains("process.cwd") && message.contains("\"work\""), "{message}");
    }

    #[test]
    fn mapped_ids_are_refused() {
        let mapped =
            spec(json!({"mounts": [{"destination": "/d", "type": "bind", "source": "/", "uidMappings": [{"size": 1}]}]}));
        assert!(mapped.for_guest(Path::new("/"), Path::new("c")).unwrap_err().to_string().contains("uidMappings"));
    }

    #[test]
    fn null_is_empty() {
        let empty = spec(json!({"mounts": null, "hooks": null, "annotations": null, "process": {"args": null, "env": null}}));
        assert!(empty.program().unwrap().0.is_empty());
    }

    #[test]
    fn a_volume_that_is_not_there_is_named() {
        let missing = spec(json!({"mounts": [{"destination": "/d", "type": "bind", "source": "/nonexistent/x"}]}));
        let message = missing.for_guest(Path::new("/"), Path::new("c")).unwrap_err().to_string();
        assert!(message.contains("/nonexistent/x") && message.contains("/d"), "{message}");
    }
}
