//! A pod as the sandbox API describes it: from Kubernetes' own message to the specification and the files that containerd makes of it
//! when a pause container stands for the pod.

use std::collections::HashMap;

use nix::mount::{MsFlags, mount};
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use serde_json::{Map, Value, json};

use crate::paths::PodPaths;
use crate::pod::PodError;

mod proto {
    include!(concat!(env!("OUT_DIR"), "/modules.rs"));
}

use proto::pod::{LinuxPodSandboxConfig, PodSandboxConfig};

/// Name of the message that describes a pod, however its package is spelled before it.
const MESSAGE: &str = "PodSandboxConfig";

/// `NamespaceMode.NODE`: the host's.
const NODE: i32 = 2;

/// What containerd gives a pod's first process: the kernel should end others first.
const OOM_SCORE_ADJ: i32 = -998;

/// Annotations that are for this runtime.
const OURS: &str = "io.paperboat.";

/// containerd's own limit of a pod's shared memory, as mount(2) takes it.
const SHM_OPTIONS: &str = "mode=1777,size=65536k";

/// Why a pod's description was refused.
#[derive(Debug, thiserror::Error)]
pub enum DescriptionError {
    /// Another client than a kubelet's: what its message means is not known here.
    #[error("CreateSandbox: options of type {0:?}: this runtime takes a pod's description, runtime.v1.PodSandboxConfig")]
    Type(String),
    /// No message.
    #[error("CreateSandbox: options: {0}")]
    Parse(#[from] protobuf::Error),
}

/// A pod that is to be made.
#[derive(Debug)]
pub struct Description {
    config: PodSandboxConfig,
}

impl Description {
    /// Reads the options of a CreateSandbox request.
    ///
    /// # Errors
    /// [`DescriptionError`].
    pub fn parse(options: &Any) -> Result<Self, DescriptionError> {
        if options.type_url.rsplit(['.', '/']).next() != Some(MESSAGE) {
            return Err(DescriptionError::Type(options.type_url.chars().take(128).collect()));
        }
        Ok(Self { config: PodSandboxConfig::parse_from_bytes(&options.value)? })
    }

    /// The specification of the container that stands for the pod.
    pub fn document(&self, id: &str, network_namespace: &str, annotations: &HashMap<String, String>) -> Value {
        let linux = self.config.linux.get_or_default();
        let mut namespaces = Vec::new();
        let wanted = linux.security_context.get_or_default().namespace_options.get_or_default();
        // Without a path and a mode it is the host's, which the specification says by leaving it out.
        if wanted.network != NODE && !network_namespace.is_empty() {
            namespaces.push(json!({"type": "network", "path": network_namespace}));
        }
        for (kind, mode) in [("pid", wanted.pid), ("ipc", wanted.ipc)] {
            if mode != NODE {
                namespaces.push(json!({"type": kind}));
            }
        }
        namespaces.push(json!({"type": "uts"}));
        json!({
            "ociVersion": "1.1.0",
            "hostname": self.config.hostname,
            "process": {"cwd": "/", "args": ["pause"], "oomScoreAdj": OOM_SCORE_ADJ},
            "annotations": self.annotations(id, annotations),
            "linux": {
                "namespaces": namespaces,
                "cgroupsPath": cgroups_path(linux, id),
                "sysctl": linux.sysctls,
            },
        })
    }

    /// Those that containerd gives a pause container, and those of the pod that are for this runtime: what they may set is the
    /// configuration's to say.
    fn annotations(&self, id: &str, more: &HashMap<String, String>) -> Map<String, Value> {
        let mut all: Map<String, Value> = Map::new();
        let ours = self.config.annotations.iter().filter(|(name, _)| name.starts_with(OURS));
        all.extend(more.iter().chain(ours).map(|(name, value)| (name.clone(), json!(value))));
        let mut cri = |name: &str, value: String| all.insert(format!("io.kubernetes.cri.{name}"), json!(value));
        let metadata = self.config.metadata.get_or_default();
        cri("container-type", "sandbox".into());
        cri("sandbox-id", id.into());
        cri("sandbox-name", metadata.name.clone());
        cri("sandbox-namespace", metadata.namespace.clone());
        cri("sandbox-uid", metadata.uid.clone());
        if let Some(resources) = self.config.linux.get_or_default().resources.as_ref() {
            let numbers = [
                ("sandbox-cpu-period", resources.cpu_period),
                ("sandbox-cpu-quota", resources.cpu_quota),
                ("sandbox-cpu-shares", resources.cpu_shares),
                ("sandbox-memory", resources.memory_limit_in_bytes),
            ];
            for (name, number) in numbers {
                cri(name, number.to_string());
            }
        }
        all
    }

    /// Writes the files that all containers of the pod have.
    ///
    /// # Errors
    /// [`PodError::File`].
    pub fn write_files(&self, paths: &PodPaths) -> Result<(), PodError> {
        let directory = paths.pod_files();
        let failed = |path: &std::path::Path| {
            let path = path.to_owned();
            move |source| PodError::File { path, source }
        };
        let shm = directory.join("shm");
        std::fs::create_dir_all(&shm).map_err(failed(&shm))?;
        let flags = MsFlags::MS_NOEXEC | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("shm"), &shm, Some("tmpfs"), flags, Some(SHM_OPTIONS)).map_err(|errno| failed(&shm)(errno.into()))?;
        let host = |name: &str| std::fs::read(name).unwrap_or_default();
        let mut hostname = self.config.hostname.clone().into_bytes();
        if hostname.is_empty() {
            hostname = host("/proc/sys/kernel/hostname");
        } else {
            hostname.push(b'\n');
        }
        let resolv_conf = self.resolv_conf().unwrap_or_else(|| host("/etc/resolv.conf"));
        for (name, content) in [("hostname", hostname), ("hosts", host("/etc/hosts")), ("resolv.conf", resolv_conf)] {
            let path = directory.join(name);
            std::fs::write(&path, content).map_err(failed(&path))?;
        }
        Ok(())
    }

    /// resolv.conf(5) of the pod's DNS settings; the host's own serves where there are none.
    fn resolv_conf(&self) -> Option<Vec<u8>> {
        let dns = self.config.dns_config.as_ref()?;
        let mut text = String::new();
        if !dns.searches.is_empty() {
            text.push_str(&format!("search {}\n", dns.searches.join(" ")));
        }
        for server in &dns.servers {
            text.push_str(&format!("nameserver {server}\n"));
        }
        if !dns.options.is_empty() {
            text.push_str(&format!("options {}\n", dns.options.join(" ")));
        }
        (!text.is_empty()).then(|| text.into_bytes())
    }
}

/// The pod's cgroup, as containerd spells it for either driver.
fn cgroups_path(linux: &LinuxPodSandboxConfig, id: &str) -> String {
    let parent = linux.cgroup_parent.as_str();
    let last = parent.rsplit('/').next().unwrap_or_default();
    if last.ends_with(".slice") {
        return format!("{last}:cri-containerd:{id}");
    }
    if parent.is_empty() { format!("/k8s.io/{id}") } else { format!("{}/{id}", parent.trim_end_matches('/')) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{NetworkNamespace, Role, Spec};

    fn description(config: PodSandboxConfig) -> Description {
        let value = config.write_to_bytes().unwrap();
        let options = Any { type_url: "type.googleapis.com/runtime.v1.PodSandboxConfig".into(), value, ..Default::default() };
        Description::parse(&options).unwrap()
    }

    fn spec(config: PodSandboxConfig, network: &str) -> Spec {
        let document = description(config).document("pod", network, &HashMap::new());
        Spec::parse(document.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn a_pod_becomes_the_specification_of_its_sandbox() {
        let mut config = PodSandboxConfig { hostname: "shop".into(), ..Default::default() };
        config.annotations = [("io.paperboat.vcpus", "2"), ("example.test/other", "x")].map(|(a, b)| (a.into(), b.into())).into();
        let linux = config.linux.mut_or_insert_default();
        linux.cgroup_parent = "/kubepods/pod1".into();
        linux.sysctls.insert("kernel.shmmax".into(), "1".into());
        linux.resources.mut_or_insert_default().memory_limit_in_bytes = 64 << 20;
        let spec = spec(config, "/run/netns/a");
        assert_eq!((spec.role(), spec.sandbox_id(), spec.hostname()), (Role::Sandbox, Some("pod"), "shop"));
        assert_eq!(spec.network_namespace(), NetworkNamespace::Path("/run/netns/a".into()));
        assert_eq!((spec.cgroups_path(), spec.pod_sysctls().len()), ("/kubepods/pod1/pod", 1));
        assert_eq!(spec.annotations().get("io.paperboat.vcpus").map(String::as_str), Some("2"));
        assert!(!spec.annotations().contains_key("example.test/other"));
        assert_eq!(spec.annotations().get("io.kubernetes.cri.sandbox-memory").map(String::as_str), Some("67108864"));
    }

    #[test]
    fn a_slice_is_spelled_for_systemd() {
        let of = |parent: &str| {
            let linux = LinuxPodSandboxConfig { cgroup_parent: parent.into(), ..Default::default() };
            cgroups_path(&linux, "pod")
        };
        assert_eq!(of("/kubepods.slice/kubepods-pod1.slice"), "kubepods-pod1.slice:cri-containerd:pod");
        assert_eq!(of(""), "/k8s.io/pod");
    }

    #[test]
    fn the_hosts_namespaces_are_not_in_the_specification() {
        let mut config = PodSandboxConfig::default();
        let namespaces = config.linux.mut_or_insert_default().security_context.mut_or_insert_default();
        namespaces.namespace_options.mut_or_insert_default().pid = NODE;
        let document = description(config).document("pod", "", &HashMap::new());
        let kinds: Vec<&str> =
            document["linux"]["namespaces"].as_array().unwrap().iter().filter_map(|n| n["type"].as_str()).collect();
        assert_eq!(kinds, ["ipc", "uts"]);
    }

    #[test]
    fn names_are_asked_where_the_pod_says() {
        let mut config = PodSandboxConfig::default();
        assert_eq!(description(config.clone()).resolv_conf(), None);
        let dns = config.dns_config.mut_or_insert_default();
        (dns.servers, dns.searches, dns.options) = (vec!["9.9.9.9".into()], vec!["a".into(), "b".into()], vec!["ndots:5".into()]);
        let text = String::from_utf8(description(config).resolv_conf().unwrap()).unwrap();
        assert_eq!(text, "search a b\nnameserver 9.9.9.9\noptions ndots:5\n");
    }

    #[test]
    fn other_messages_are_refused_by_name() {
        let of = |type_url: &str, value: &[u8]| {
            Description::parse(&Any { type_url: type_url.into(), value: value.into(), ..Default::default() })
                .unwrap_err()
                .to_string()
        };
        assert!(of("example.Other", b"").contains("example.Other"));
        assert!(of("runtime.v1.PodSandboxConfig", b"\x12\x7fabc").contains("options"));
    }
}
