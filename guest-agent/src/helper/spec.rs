//! The OCI spec as containerd wrote it speaks of the host. Here it becomes one for the guest: what belongs to the guest stays,
//! what names something of the host is replaced by the guest's own, left out with a note, or refused.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Arch, LinuxNamespaceType, LinuxResources, LinuxSeccompAction, LinuxSyscallBuilder, Mount, RootBuilder, Spec,
};
use paperboat_protocol::{INIT_PROGRAM, MEMORY_MOUNT};
use serde::de::DeserializeOwned;

use super::HelperError;

/// Largest spec or process file in bytes. 10,000 environment variables take about 1 MiB.
const JSON_MAX: u64 = 64 << 20;

/// Largest depth is serde_json's own (128). Sources of bind mounts that mean the guest's own file systems.
const GUEST_SOURCES: [&str; 5] = ["/dev", "/proc", "/sys", MEMORY_MOUNT, INIT_PROGRAM];

/// Calls that the default profile of container engines allows on this architecture only; a profile computed on a host of another
/// one lacks them.
const PPC64LE_CALLS: [&str; 2] = ["sync_file_range2", "swapcontext"];

/// What the spec holds that a container in a micro-VM cannot have.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// A field libcontainer or the agent needs.
    #[error("config.json: {0} is missing")]
    Missing(&'static str),
    /// Stream set-up and spec disagree.
    #[error("config.json: process.terminal is {spec}, but the request says {request}")]
    Terminal {
        /// In the spec.
        spec: bool,
        /// In the request.
        request: bool,
    },
    /// Bind mount from a path of the host that is not in the guest.
    #[error(
        "config.json: mount of {destination:?}: source {mount_source:?} is a path of the host; in the guest it must lie below {share:?}"
    )]
    MountSource {
        /// Where in the container.
        destination: PathBuf,
        /// Its source.
        mount_source: PathBuf,
        /// The shared directory.
        share: PathBuf,
    },
    /// A namespace that cannot be shared with a host process.
    #[error("config.json: linux.namespaces: the {0} namespace of a host process cannot be joined from a micro-VM")]
    ForeignNamespace(LinuxNamespaceType),
    /// User-space notification goes to a socket of the host.
    #[error(
        "config.json: linux.seccomp: notification to a host process (listenerPath, SCMP_ACT_NOTIFY) cannot leave the micro-VM"
    )]
    SeccompNotify,
}

/// Where the container's parts are in the guest.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The shared directory.
    pub share: &'a Path,
    /// Its root file system.
    pub rootfs: &'a Path,
    /// Its cgroup, absolute below the cgroup mount.
    pub cgroup: &'a str,
    /// Whether the streams are a terminal.
    pub terminal: bool,
    /// Whether this kernel accounts swap.
    pub swap: bool,
}

/// What is left to do outside the container, and what was left out.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Leftover {
    /// Settings of namespaces that the container shares with the pod, hence with the guest itself: `(key, value)`.
    pub sysctls: Vec<(String, String)>,
    /// For the log: what was left out and why.
    pub notes: Vec<String>,
}

/// Reads JSON of at most 64 MiB.
///
/// # Errors
/// [`HelperError`] with path, line and column.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, HelperError> {
    let unreadable = |source| HelperError::Io { what: "reading", path: path.to_owned(), source };
    // A pipe or a device in its place must not hold up the helper.
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(unreadable(std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a regular file")));
    }
    let mut text = Vec::new();
    File::open(path).map_err(unreadable)?.take(JSON_MAX + 1).read_to_end(&mut text).map_err(unreadable)?;
    if text.len() as u64 > JSON_MAX {
        return Err(HelperError::TooLarge { path: path.to_owned(), max_bytes: JSON_MAX });
    }
    serde_json::from_slice(&text).map_err(|source| HelperError::Json { path: path.to_owned(), source })
}

/// Translates `spec` in place.
///
/// # Errors
/// [`SpecError`], naming field and value.
pub fn translate(spec: &mut Spec, place: Place<'_>) -> Result<Leftover, SpecError> {
    let mut leftover = Leftover::default();
    process(spec, place, &mut leftover)?;
    root(spec, place)?;
    for mount in spec.mounts_mut().iter_mut().flatten() {
        bind_source(mount, place.share)?;
    }
    hooks(spec, &mut leftover);
    let shared = namespaces(spec)?;
    sysctls(spec, &shared, &mut leftover);
    resources(spec, place, &mut leftover);
    seccomp(spec)?;
    let linux = spec.linux_mut().as_mut().ok_or(SpecError::Missing("linux"))?;
    linux.set_cgroups_path(Some(place.cgroup.into())).set_mount_label(None).set_intel_rdt(None);
    // Engines say it as mount(8) does (`rslave`); it is always for all below.
    let propagation = linux.rootfs_propagation().as_deref().map(|word| word.strip_prefix('r').unwrap_or(word).to_owned());
    linux.set_rootfs_propagation(propagation);
    Ok(leftover)
}

fn process(spec: &mut Spec, place: Place<'_>, leftover: &mut Leftover) -> Result<(), SpecError> {
    let process = spec.process_mut().as_mut().ok_or(SpecError::Missing("process"))?;
    let terminal = process.terminal().unwrap_or(false);
    if terminal != place.terminal {
        return Err(SpecError::Terminal { spec: terminal, request: place.terminal });
    }
    if process.args().as_ref().is_none_or(Vec::is_empty) {
        return Err(SpecError::Missing("process.args"));
    }
    for (name, value) in
        [("apparmorProfile", process.apparmor_profile().as_ref()), ("selinuxLabel", process.selinux_label().as_ref())]
    {
        if value.is_some_and(|value| !value.is_empty()) {
            leftover.notes.push(format!("process.{name}: the guest kernel has no such security module"));
        }
    }
    // An explicit `false` would make libcontainer load the filter too late.
    process.set_apparmor_profile(None).set_selinux_label(None);
    if process.no_new_privileges() == Some(false) {
        process.set_no_new_privileges(None);
    }
    Ok(())
}

fn root(spec: &mut Spec, place: Place<'_>) -> Result<(), SpecError> {
    let readonly = spec.root().as_ref().ok_or(SpecError::Missing("root"))?.readonly();
    let root = RootBuilder::default().path(place.rootfs).readonly(readonly.unwrap_or(false)).build();
    spec.set_root(Some(root.map_err(|_| SpecError::Missing("root"))?));
    Ok(())
}

/// Bind mounts come from the share (a relative source is below it) or from the guest's own /dev, /proc and /sys.
fn bind_source(mount: &mut Mount, share: &Path) -> Result<(), SpecError> {
    let bind = mount.typ().as_deref() == Some("bind")
        || mount.options().iter().flatten().any(|option| matches!(option.as_str(), "bind" | "rbind"));
    let (true, Some(source)) = (bind, mount.source().clone()) else { return Ok(()) };
    let absolute = share.join(&source);
    let climbs = absolute.components().any(|c| matches!(c, std::path::Component::ParentDir));
    let ours = absolute.starts_with(share) || GUEST_SOURCES.iter().any(|own| absolute.starts_with(own));
    if climbs || !ours {
        return Err(SpecError::MountSource {
            destination: mount.destination().clone(),
            mount_source: source,
            share: share.to_owned(),
        });
    }
    mount.set_source(Some(absolute));
    Ok(())
}

/// Only startContainer hooks run inside the container; all others are programs of the host, and run there.
fn hooks(spec: &mut Spec, leftover: &mut Leftover) {
    let Some(hooks) = spec.hooks().clone() else { return };
    let start = hooks.start_container().clone().filter(|hooks| !hooks.is_empty());
    let kept = oci_spec::runtime::Hooks::default();
    let kept = start.map(|start| {
        let mut kept = kept;
        kept.set_start_container(Some(start));
        kept
    });
    if kept.as_ref() != Some(&hooks) {
        leftover.notes.push("hooks of the host are not run in the guest".into());
    }
    spec.set_hooks(kept);
}

/// Drops the namespaces that the container shares with its pod: the guest is the pod, so the guest's own ones are meant.
/// Answers which were dropped.
fn namespaces(spec: &mut Spec) -> Result<Vec<LinuxNamespaceType>, SpecError> {
    let linux = spec.linux_mut().as_mut().ok_or(SpecError::Missing("linux"))?;
    let mut shared = Vec::new();
    let mut kept = Vec::new();
    for namespace in linux.namespaces().iter().flatten() {
        let foreign = namespace.path().as_ref().is_some_and(|path| !path.as_os_str().is_empty());
        match namespace.typ() {
            // The machine's interfaces are in the guest's own network namespace, made for this pod alone.
            LinuxNamespaceType::Network => shared.push(LinuxNamespaceType::Network),
            kind @ (LinuxNamespaceType::User | LinuxNamespaceType::Time | LinuxNamespaceType::Mount) if foreign => {
                return Err(SpecError::ForeignNamespace(kind));
            }
            kind if foreign => shared.push(kind),
            _ => {
                let mut namespace = namespace.clone();
                namespace.set_path(None);
                kept.push(namespace);
            }
        }
    }
    if !kept.iter().any(|namespace| namespace.typ() == LinuxNamespaceType::Mount) {
        return Err(SpecError::Missing("linux.namespaces: mount"));
    }
    let own_uts = kept.iter().any(|namespace| namespace.typ() == LinuxNamespaceType::Uts);
    linux.set_namespaces(Some(kept));
    if !own_uts {
        // The pod's name is the guest's, which Hello has set.
        spec.set_hostname(None).set_domainname(None);
    }
    Ok(shared)
}

/// libcontainer refuses settings of namespaces it does not make. Those of the pod are set by the agent.
fn sysctls(spec: &mut Spec, shared: &[LinuxNamespaceType], leftover: &mut Leftover) {
    let Some(linux) = spec.linux_mut().as_mut() else { return };
    let Some(settings) = linux.sysctl().clone() else { return };
    let of_pod = |key: &str| {
        let key = key.replace('/', ".");
        let ipc = key.starts_with("kernel.msg")
            || key.starts_with("kernel.shm")
            || key == "kernel.sem"
            || key.starts_with("fs.mqueue.");
        key.starts_with("net.") || ipc && shared.contains(&LinuxNamespaceType::Ipc)
    };
    let (pod, own): (HashMap<_, _>, HashMap<_, _>) = settings.into_iter().partition(|(key, _)| of_pod(key));
    leftover.sysctls = pod.into_iter().collect();
    leftover.sysctls.sort();
    linux.set_sysctl((!own.is_empty()).then_some(own));
}

fn resources(spec: &mut Spec, place: Place<'_>, leftover: &mut Leftover) {
    let Some(resources) = spec.linux_mut().as_mut().and_then(|linux| linux.resources_mut().as_mut()) else { return };
    if resources.hugepage_limits().iter().flatten().any(|limit| limit.limit() != 0) {
        leftover.notes.push("linux.resources.hugepageLimits: the guest has no huge page pools".into());
    }
    fit_resources(resources, place.swap);
}

/// Drops limits that this kernel has no files for; `swap` is whether it accounts swap.
pub fn fit_resources(resources: &mut LinuxResources, swap: bool) {
    // The guest has no huge page pools; engines send a limit of zero for every size of the host.
    resources.set_hugepage_limits(None);
    if let Some(memory) = resources.memory_mut().as_mut()
        && !swap
    {
        // Without swap in the guest a limit on it is kept by itself.
        memory.set_swap(None);
    }
}

fn seccomp(spec: &mut Spec) -> Result<(), SpecError> {
    let Some(seccomp) = spec.linux_mut().as_mut().and_then(|linux| linux.seccomp_mut().as_mut()) else { return Ok(()) };
    let notifies = seccomp.syscalls().iter().flatten().any(|rule| rule.action() == LinuxSeccompAction::ScmpActNotify);
    if notifies || seccomp.listener_path().is_some() || seccomp.default_action() == LinuxSeccompAction::ScmpActNotify {
        return Err(SpecError::SeccompNotify);
    }
    let for_us = seccomp.architectures().iter().flatten().any(|arch| *arch == Arch::ScmpArchPpc64le);
    let denies = !matches!(seccomp.default_action(), LinuxSeccompAction::ScmpActAllow | LinuxSeccompAction::ScmpActLog);
    if denies && !for_us && cfg!(target_arch = "powerpc64") {
        let names: Vec<String> = PPC64LE_CALLS.iter().map(|&name| name.to_owned()).collect();
        let rule = LinuxSyscallBuilder::default().names(names).action(LinuxSeccompAction::ScmpActAllow).build();
        let mut rules = seccomp.syscalls().clone().unwrap_or_default();
        rules.extend(rule.ok());
        seccomp.set_syscalls(Some(rules));
    }
    // Without a list the filter is for the architecture it is loaded on.
    seccomp.set_architectures(None);
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn place() -> Place<'static> {
        Place {
            share: Path::new("/run/paperboat/share"),
            rootfs: Path::new("/run/paperboat/share/containers/one/rootfs"),
            cgroup: "/ctr-one",
            terminal: false,
            swap: false,
        }
    }

    fn spec(change: impl FnOnce(&mut serde_json::Value)) -> Spec {
        let mut value = json!({
            "ociVersion": "1.1.0",
            "root": {"path": "rootfs", "readonly": true},
            "hostname": "pod",
            "process": {"user": {"uid": 0, "gid": 0}, "args": ["sh"], "cwd": "/", "apparmorProfile": "x", "selinuxLabel": "y",
                        "noNewPrivileges": false},
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
            "linux": {
                "cgroupsPath": "kubepods.slice:cri:one",
                "namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "network", "path": "/var/run/netns/x"},
                               {"type": "ipc", "path": "/proc/77/ns/ipc"}, {"type": "uts", "path": "/proc/77/ns/uts"}],
            },
        });
        change(&mut value);
        serde_json::from_value(value).expect("a valid spec")
    }

    #[test]
    fn what_names_the_host_goes() {
        let mut spec = spec(|_| ());
        translate(&mut spec, place()).expect("fit for the guest");
        let linux = spec.linux().as_ref().expect("linux");
        assert_eq!(linux.cgroups_path().as_deref(), Some(Path::new("/ctr-one")));
        let kinds: Vec<_> = linux.namespaces().iter().flatten().map(|n| (n.typ(), n.path().is_some())).collect();
        assert_eq!(kinds, [(LinuxNamespaceType::Mount, false), (LinuxNamespaceType::Pid, false)]);
        assert_eq!(spec.hostname(), &None, "a shared uts namespace keeps the pod's name");
        let root = spec.root().as_ref().expect("root");
        assert_eq!((root.path().as_path(), root.readonly()), (place().rootfs, Some(true)));
        let process = spec.process().as_ref().expect("process");
        assert!(process.apparmor_profile().is_none() && process.selinux_label().is_none());
        assert_eq!(process.no_new_privileges(), None);
    }

    #[test]
    fn propagation_is_spelled_for_libcontainer() {
        for (engine, ours) in [("rslave", "slave"), ("rshared", "shared"), ("private", "private")] {
            let mut spec = spec(|value| value["linux"]["rootfsPropagation"] = json!(engine));
            translate(&mut spec, place()).expect("fit for the guest");
            assert_eq!(spec.linux().as_ref().and_then(|linux| linux.rootfs_propagation().clone()).as_deref(), Some(ours));
        }
    }

    #[test]
    fn bind_sources_are_of_the_guest() {
        let bind = |source: &str| {
            let mut spec = spec(|value| {
                value["mounts"] = json!([{"destination": "/data", "type": "bind", "source": source, "options": ["rbind", "ro"]}]);
            });
            translate(&mut spec, place()).map(|_| spec.mounts().as_ref().expect("mounts")[0].source().clone().expect("source"))
        };
        assert_eq!(bind("containers/one/mounts/0").expect("relative"), place().share.join("containers/one/mounts/0"));
        assert!(bind("/run/paperboat/share/volumes/a").is_ok());
        assert!(bind("/dev/shm").is_ok());
        assert!(bind("/run/paperboat/memory/cache").is_ok());
        for bad in ["/etc/resolv.conf", "/run/paperboat/share/../x", "../x", "/devil"] {
            let error = bind(bad).expect_err(bad).to_string();
            assert!(error.contains("/data") && error.contains(bad), "{error}");
        }
    }

    #[test]
    fn settings_of_the_pod_are_left_to_the_agent() {
        let mut spec = spec(|value| {
            value["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1", "kernel.shmmax": "9", "kernel.domainname": "d"});
        });
        let leftover = translate(&mut spec, place()).expect("fit for the guest");
        assert_eq!(leftover.sysctls, [("kernel.shmmax".into(), "9".into()), ("net.ipv4.ip_forward".into(), "1".into())]);
        let own = spec.linux().as_ref().and_then(|l| l.sysctl().clone()).expect("one is left");
        assert_eq!(own.into_iter().collect::<Vec<_>>(), [("kernel.domainname".into(), "d".into())]);
    }

    #[test]
    fn what_cannot_be_given_is_refused_by_name() {
        let refused =
            |change: fn(&mut serde_json::Value)| translate(&mut spec(change), place()).expect_err("refused").to_string();
        let error = refused(|v| v["linux"]["namespaces"][0]["path"] = json!("/proc/1/ns/mnt"));
        assert!(error.contains("the mnt namespace"), "{error}");
        let error = refused(|v| v["process"]["terminal"] = json!(true));
        assert!(error.contains("process.terminal is true"), "{error}");
        let error = refused(|v| v["process"]["args"] = json!([]));
        assert!(error.contains("process.args"), "{error}");
        let error = refused(|v| {
            v["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ERRNO", "listenerPath": "/run/agent.sock"});
        });
        assert!(error.contains("listenerPath"), "{error}");
    }

    #[test]
    fn limits_the_guest_has_no_file_for_go() {
        let mut spec = spec(|v| {
            v["linux"]["resources"] = json!({
                "memory": {"limit": 64 << 20, "swap": 64 << 20},
                "hugepageLimits": [{"pageSize": "2MB", "limit": 0}],
            });
        });
        let leftover = translate(&mut spec, place()).expect("fit for the guest");
        let resources = spec.linux().as_ref().and_then(|l| l.resources().clone()).expect("resources");
        let memory = resources.memory().expect("memory");
        assert_eq!((memory.limit(), memory.swap()), (Some(64 << 20), None));
        assert!(resources.hugepage_limits().is_none() && !leftover.notes.iter().any(|note| note.contains("hugepage")));
    }

    #[test]
    fn hooks_of_the_host_do_not_run() {
        let mut spec = spec(|v| {
            v["hooks"] = json!({"prestart": [{"path": "/usr/bin/host-hook"}], "startContainer": [{"path": "/inside"}]});
        });
        let leftover = translate(&mut spec, place()).expect("fit for the guest");
        assert!(leftover.notes.iter().any(|note| note.contains("hooks of the host")), "{:?}", leftover.notes);
        let kept = serde_json::to_value(spec.hooks()).expect("json");
        assert_eq!(kept, json!({"startContainer": [{"path": "/inside"}]}));
    }
}
