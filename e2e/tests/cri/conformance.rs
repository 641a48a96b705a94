//! What Kubernetes' validation suite for container runtimes looks at, beside what the other tests show: security contexts, states, lists,
//! counters, logs, mounts.

use paperboat_e2e::cri::message::security_profile::ProfileType;
use paperboat_e2e::cri::message::{ContainerConfig, LinuxContainerSecurityContext};
use paperboat_e2e::cri::{HANDLER_BY_API, Node, Pod, container_config};
use paperboat_e2e::expect;

use crate::{asked, node};

/// A container that waits, with its security context still to be set.
fn waiting(name: &str, set: impl FnOnce(&mut LinuxContainerSecurityContext)) -> ContainerConfig {
    let mut config = container_config(name, &["sleep", "1000"]);
    set(config.linux.mut_or_insert_default().security_context.mut_or_insert_default());
    config
}

/// Starts it, or tells the log.
fn started(node: &Node, pod: &Pod, config: ContainerConfig) -> String {
    node.run(pod, config).unwrap_or_else(|error| panic!("{error}\n{}", node.host().log()))
}

/// Part of `cargo xtask test --all`.
mod slow {
    use std::time::{Duration, Instant};

    use paperboat_e2e::cri::message::{
        ContainerState, ContainerStatsFilter, LinuxContainerResources, ListContainerStatsRequest, ListContainerStatsResponse,
        ListContainersRequest, ListContainersResponse, ListPodSandboxRequest, ListPodSandboxResponse, Mount, MountPropagation,
        NamespaceMode, NamespaceOption, Nothing, PodSandboxRequest,
    };
    use paperboat_e2e::guest::PROOF_SCRIPT;
    use protobuf::MessageField;

    use super::*;

    #[test]
    fn security_contexts_are_kept_by_the_guest() {
        let node = node();
        let host = node.host();
        let before = host.leftovers();
        let mut config = node.pod_config("contexts");
        config.linux.mut_or_insert_default().security_context.mut_or_insert_default().privileged = true;
        let pod = node.run_pod(config).unwrap_or_else(|error| panic!("{error}\n{}", host.log()));

        let by_name = waiting("by-name", |security| {
            security.run_as_username = "nobody".into();
            security.supplemental_groups = vec![1234, 5678];
        });
        assert_eq!(asked(&node, &started(&node, &pod, by_name), "id -u; id -G"), "65534\n65534 1234 5678");

        let masked = waiting("masked", |security| {
            security.masked_paths = vec!["/proc/meminfo".into(), "/proc/irq".into()];
            security.readonly_paths = vec!["/proc/sys".into()];
        });
        let script = "wc -c < /proc/meminfo; ls /proc/irq | wc -l; echo 1 > /proc/sys/vm/swappiness";
        let seen = asked(&node, &started(&node, &pod, masked), &format!("{{ {script}; }} 2>&1; true"));
        assert!(seen.starts_with("0\n0\n") && seen.contains("Read-only file system"), "{seen}");

        let profile = host.directory().join("no-chmod.json");
        let calls = r#"{"names": ["chmod", "fchmod", "fchmodat", "fchmodat2"], "action": "SCMP_ACT_ERRNO"}"#;
        std::fs::write(&profile, format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{calls}]}}"#)).unwrap();
        let filtered = waiting("filtered", |security| {
            let seccomp = security.seccomp.mut_or_insert_default();
            seccomp.profile_type = ProfileType::Localhost.into();
            seccomp.localhost_ref = profile.display().to_string();
        });
        let id = started(&node, &pod, filtered);
        assert_eq!(asked(&node, &id, "chmod 700 /tmp 2>&1 || true"), "chmod: /tmp: Operation not permitted");

        let able = waiting("able", |security| {
            security.capabilities.mut_or_insert_default().add_capabilities = vec!["NET_ADMIN".into()];
            security.seccomp.mut_or_insert_default().profile_type = ProfileType::Unconfined.into();
        });
        let id = started(&node, &pod, able);
        assert_eq!(
            asked(&node, &id, "ip link set lo mtu 1400 && cat /sys/class/net/lo/mtu; grep Seccomp: /proc/self/status"),
            "1400\nSeccomp:\t0"
        );

        // Privileged means all capabilities that containerd has, over the guest and nothing else.
        let id = started(&node, &pod, waiting("privileged", |security| security.privileged = true));
        let of_containerd = std::fs::read_to_string(format!("/proc/{}/status", host.containerd_pid())).unwrap();
        let effective = of_containerd.lines().find(|line| line.starts_with("CapEff:")).unwrap();
        assert_eq!(asked(&node, &id, "grep CapEff: /proc/self/status"), effective);
        assert_eq!(
            asked(
                &node,
                &id,
                "mount -t tmpfs none /mnt 2>/dev/null || { mkdir -p /m && mount -t tmpfs none /m; } && echo mounted"
            ),
            "mounted"
        );
        expect::guest(&asked(&node, &id, PROOF_SCRIPT));
        let devices = asked(&node, &id, "ls /dev");
        assert!(!devices.lines().any(|name| name.starts_with("vd") || name.starts_with("sd") || name == "kvm"), "{devices}");
        node.remove_pod(&pod).unwrap();
        expect::nothing_left(host, &before);
    }

    #[test]
    fn states_lists_and_ends_are_told_as_asked() {
        let node = node();
        let host = node.host();
        let before = host.leftovers();
        let pod = node.run_pod(node.pod_config("states")).unwrap_or_else(|error| panic!("{error}\n{}", host.log()));
        let state = |id: &str| node.status(id).unwrap().state.enum_value().unwrap();

        let created = node.create(&pod, container_config("created", &["true"])).unwrap();
        let running = started(&node, &pod, container_config("running", &["sleep", "1000"]));
        assert_eq!((state(&created), state(&running)), (ContainerState::CONTAINER_CREATED, ContainerState::CONTAINER_RUNNING));
        let list: ListContainersResponse = node.call("ListContainers", &ListContainersRequest::default()).unwrap();
        let mut names: Vec<&str> = list.containers.iter().map(|container| container.metadata.name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["created", "running"]);
        let pods: ListPodSandboxResponse = node.call("ListPodSandbox", &ListPodSandboxRequest::default()).unwrap();
        assert_eq!(pods.items.iter().map(|pod| pod.metadata.name.as_str()).collect::<Vec<_>>(), ["states"]);

        let filter = ContainerStatsFilter { pod_sandbox_id: pod.id.clone(), ..Default::default() };
        let request = ListContainerStatsRequest { filter: MessageField::some(filter), ..Default::default() };
        let stats: ListContainerStatsResponse = node.call("ListContainerStats", &request).unwrap();
        let of_running = stats.stats.iter().find(|stats| stats.attributes.id == running).unwrap_or_else(|| panic!("{stats}"));
        assert!(
            of_running.memory.working_set_bytes.value > 0 && of_running.cpu.usage_core_nano_seconds.value > 0,
            "{of_running}"
        );

        // As `kubectl debug --target`: a container that looks at another one's processes.
        let debugger = waiting("debugger", |security| {
            let options = security.namespace_options.mut_or_insert_default();
            (options.pid, options.target_id) = (NamespaceMode::TARGET.into(), running.clone());
        });
        let debugger = started(&node, &pod, debugger);
        let of_target = asked(&node, &debugger, "ps -o args");
        assert!(of_target.matches("sleep 1000").count() >= 2, "{of_target}");

        // Out of memory: its kernel is the guest's, the reason is Kubernetes'.
        let mut hungry = container_config("hungry", &["tail", "/dev/zero"]);
        let limits = LinuxContainerResources { memory_limit_in_bytes: 32 << 20, ..Default::default() };
        hungry.linux.mut_or_insert_default().resources = MessageField::some(limits);
        let hungry = started(&node, &pod, hungry);
        let status = node.wait(&hungry).unwrap();
        assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"), "{status}");
        let error = node.exec(&hungry, &["true"], 60).unwrap_err().to_string();
        assert!(error.contains("EXITED") || error.contains("running"), "{error}");

        // Whatever is stopped and removed may be so again, in any state.
        for _ in 0..2 {
            node.stop_container(&running, 0).unwrap();
        }
        for id in [&created, &running, &hungry, &debugger] {
            node.remove_container(id).unwrap();
            node.remove_container(id).unwrap();
        }
        // A name is free again, and one that runs goes with its pod.
        started(&node, &pod, container_config("running", &["sleep", "1000"]));
        let request = PodSandboxRequest { pod_sandbox_id: pod.id.clone(), ..Default::default() };
        for method in ["StopPodSandbox", "StopPodSandbox", "RemovePodSandbox", "RemovePodSandbox"] {
            node.call::<Nothing>(method, &request).unwrap();
        }
        expect::nothing_left(host, &before);
    }

    #[test]
    fn logs_hold_what_was_written() {
        let node = node();
        let host = node.host();
        let before = host.leftovers();
        let pod = node.run_pod(node.pod_config("logs")).unwrap_or_else(|error| panic!("{error}\n{}", host.log()));
        // Lines of two streams, one without its end, one longer than the 16 KiB that are cut off.
        let script = "echo out; echo err >&2; head -c 20000 /dev/zero | tr '\\0' x; echo; printf unfinished";
        let id = started(&node, &pod, container_config("logs", &["sh", "-c", script]));
        assert_eq!(node.wait(&id).unwrap().exit_code, 0);
        let deadline = Instant::now() + Duration::from_secs(60);
        let lines = loop {
            let lines = node.log_lines("logs.log").unwrap();
            if lines.len() == 5 || Instant::now() > deadline {
                break lines;
            }
        };
        let has = |line: &str| lines.iter().any(|found| found == line);
        assert!(has("stdout F out") && has("stderr F err") && has("stdout P unfinished"), "{lines:.200?}");
        let long: usize = lines.iter().filter(|line| line.ends_with("xx")).map(|line| line.len() - "stdout P ".len()).sum();
        assert_eq!(long, 20_000, "{}", lines.len());
        node.remove_pod(&pod).unwrap();
        expect::nothing_left(host, &before);
    }

    #[test]
    fn what_belongs_to_the_node_is_refused_with_the_cure() {
        let node = node();
        let host = node.host();
        let before = host.leftovers();
        let of_node = NamespaceMode::NODE;
        let cases = [
            ("hostNetwork", NamespaceOption { network: of_node.into(), ..Default::default() }),
            ("hostPID", NamespaceOption { pid: of_node.into(), ..Default::default() }),
            ("hostIPC", NamespaceOption { ipc: of_node.into(), ..Default::default() }),
        ];
        // Of the host's network containerd 2.1 asks no shim by the sandbox API: it ends itself, dereferencing a pod's missing specification.
        let asked = cases.into_iter().filter(|(cure, _)| node.handler() != HANDLER_BY_API || *cure != "hostNetwork");
        for (cure, options) in asked {
            let mut config = node.pod_config("of-the-node");
            config.linux.mut_or_insert_default().security_context.mut_or_insert_default().namespace_options =
                MessageField::some(options);
            let error = node.run_pod(config).map(|pod| pod.id).unwrap_err().to_string();
            assert!(error.contains(cure), "{cure}: {error}");
            expect::nothing_left(host, &before);
        }
    }

    #[test]
    fn mounts_of_the_host_reach_a_container_that_asks_for_them() {
        let node = node();
        let host = node.host();
        let before = host.leftovers();
        let pod = node.run_pod(node.pod_config("mounts")).unwrap_or_else(|error| panic!("{error}\n{}", host.log()));
        let volume = host.directory().join("volume");
        std::fs::create_dir_all(volume.join("early")).unwrap();
        std::fs::create_dir_all(volume.join("late")).unwrap();
        let (tmpfs, none) = (nix::mount::MsFlags::empty(), None::<&str>);
        nix::mount::mount(Some(&volume), &volume, none, nix::mount::MsFlags::MS_BIND, none).unwrap();
        nix::mount::mount(none, &volume, none, nix::mount::MsFlags::MS_SHARED, none).unwrap();
        let mounted = |name: &str| {
            let place = volume.join(name);
            nix::mount::mount(Some("none"), &place, Some("tmpfs"), tmpfs, none).unwrap();
            std::fs::write(place.join("file"), name).unwrap();
        };
        mounted("early");
        let with = |name: &str, propagation: MountPropagation| {
            let mut config = container_config(name, &["sleep", "1000"]);
            config.mounts.push(Mount {
                container_path: "/data".into(),
                host_path: volume.display().to_string(),
                propagation: propagation.into(),
                ..Default::default()
            });
            node.run(&pod, config)
        };
        let kinds = [
            ("private", MountPropagation::PROPAGATION_PRIVATE),
            ("slave", MountPropagation::PROPAGATION_HOST_TO_CONTAINER),
            ("both", MountPropagation::PROPAGATION_BIDIRECTIONAL),
        ];
        let ids = kinds.map(|(name, propagation)| with(name, propagation).unwrap_or_else(|error| panic!("{name}: {error}")));
        mounted("late");
        for (id, (name, _)) in ids.iter().zip(kinds) {
            assert_eq!(asked(&node, id, "cat /data/early/file /data/late/file"), "earlylate", "{name}");
        }
        node.remove_pod(&pod).unwrap();
        for place in [volume.join("early"), volume.join("late"), volume.clone()] {
            nix::mount::umount(&place).unwrap();
        }
        expect::nothing_left(host, &before);
    }
}
