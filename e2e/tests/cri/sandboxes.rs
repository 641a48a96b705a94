//! What stands for a pod: a pause container of another architecture, beside pods of runc; or nothing, by containerd's sandbox API.

use paperboat_e2e::cri::message::{NamespaceMode, PodSandboxState};
use paperboat_e2e::cri::{HANDLER, HANDLER_BY_API, HOST_PLATFORM, Node, RUNC, container_config, image_spec};
use paperboat_e2e::expect;
use paperboat_e2e::guest::PROOF_SCRIPT;
use paperboat_e2e::products::Containerd;
use protobuf::MessageField;

use crate::{asked, node};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

#[test]
fn pods_of_two_runtimes_live_side_by_side() {
    let node = node();
    let host = node.host();
    let before = host.leftovers();
    node.import_platform("platforms", HOST_PLATFORM).unwrap();
    let others = node.run_pod_with(RUNC, node.pod_config("others")).unwrap_or_else(|error| panic!("{error}\n{}", host.log()));
    let ours = node.run_pod(node.pod_config("ours")).unwrap_or_else(|error| panic!("{error}\n{}", host.log()));
    let of_host = |name: &str| {
        let mut config = container_config(name, &["sleep", "1000"]);
        config.image = MessageField::some(image_spec("platforms"));
        config
    };
    let beside = node.run(&others, of_host("beside")).unwrap_or_else(|error| panic!("{error}\n{}", host.log()));
    let inside = node.run(&ours, container_config("inside", &["sleep", "1000"])).unwrap();
    assert_eq!(asked(&node, &beside, &format!("cat {BOOT_ID}")), std::fs::read_to_string(BOOT_ID).unwrap().trim());
    expect::guest(&asked(&node, &inside, PROOF_SCRIPT));

    // An image for the host: both architectures are named, and the pod is none the worse for it.
    if cfg!(target_arch = "x86_64") {
        let error = node.run(&ours, of_host("foreign")).unwrap_err().to_string();
        assert!(error.contains("amd64") && error.contains("ppc64le"), "{error}");
    }
    let address = node.pod_status(&others).unwrap().network.ip.clone();
    assert_eq!(asked(&node, &inside, &format!("ping -c 1 -W 10 {address} >/dev/null && echo reached")), "reached");
    node.remove_pod(&others).unwrap();
    expect::guest(&asked(&node, &inside, PROOF_SCRIPT));
    node.remove_pod(&ours).unwrap();
    // runc leaves the group above its containers to whoever named it: a kubelet.
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        let _ = std::fs::remove_dir(hierarchy.path().join(host.namespace()));
    }
    expect::nothing_left(host, &before);
}

#[test]
fn a_pod_comes_by_the_sandbox_api() {
    let node = Node::start(Containerd::V2).unwrap_or_else(|error| panic!("{error}"));
    let host = node.host();
    let before = host.leftovers();
    let mut config = node.pod_config("described");
    let dns = config.dns_config.mut_or_insert_default();
    (dns.servers, dns.searches) = (vec!["9.9.9.9".into()], vec!["example.test".into()]);
    config.linux.mut_or_insert_default().sysctls.insert("kernel.shmmax".into(), "12345678".into());
    let run = |config| node.run_pod_with(HANDLER_BY_API, config);
    let pod = run(config).unwrap_or_else(|error| panic!("{error}\n{}", host.log()));
    let status = node.pod_status(&pod).unwrap();
    assert_eq!(
        (status.state.enum_value(), status.runtime_handler.as_str()),
        (Ok(PodSandboxState::SANDBOX_READY), HANDLER_BY_API)
    );
    assert!(status.network.ip.starts_with("10.88."), "{status}");

    // Two containers in one machine, with the pod's files and its shared memory.
    let first =
        node.run(&pod, container_config("first", &["sleep", "1000"])).unwrap_or_else(|error| panic!("{error}\n{}", host.log()));
    let second = node.run(&pod, container_config("second", &["sleep", "1000"])).unwrap();
    let (one, two) = (expect::guest(&asked(&node, &first, PROOF_SCRIPT)), expect::guest(&asked(&node, &second, PROOF_SCRIPT)));
    assert_eq!(one.boot_id, two.boot_id, "containers of a pod share its machine");
    let files = "hostname; cat /etc/hostname /etc/resolv.conf /proc/sys/kernel/shmmax; cmp /etc/hosts /dev/null 2>&1 | wc -l";
    assert_eq!(asked(&node, &first, files), "described\ndescribed\nsearch example.test\nnameserver 9.9.9.9\n12345678\n1");
    asked(&node, &first, "echo shared > /dev/shm/word");
    assert_eq!(asked(&node, &second, "cat /dev/shm/word"), "shared");
    assert!(asked(&node, &second, "ip -4 -o addr show dev eth0").contains(&status.network.ip.to_string()));
    node.stop_container(&first, 0).unwrap();
    assert_eq!(node.wait(&first).unwrap().exit_code, 137);
    node.remove_container(&first).unwrap();
    expect::guest(&asked(&node, &second, PROOF_SCRIPT));
    node.remove_pod(&pod).unwrap();
    expect::nothing_left(host, &before);

    // What cannot be is refused in time, and nothing stays of it.
    let mut config = node.pod_config("of-the-host");
    let linux = config.linux.mut_or_insert_default();
    linux.security_context.mut_or_insert_default().namespace_options.mut_or_insert_default().pid = NamespaceMode::NODE.into();
    let error = run(config).map(|pod| pod.id).unwrap_err().to_string();
    assert!(error.contains("hostPID"), "{error}");
    expect::nothing_left(host, &before);
}

/// Part of `cargo xtask test --all`.
mod slow {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    use paperboat_e2e::task_api::TaskApi;

    use super::*;

    #[test]
    fn a_pod_of_the_sandbox_api_outlives_containerd_and_dies_with_its_machine() {
        let mut node = Node::start(Containerd::V2).unwrap_or_else(|error| panic!("{error}"));
        let before = node.host().leftovers();
        let config = node.pod_config("lasting");
        let pod = node.run_pod_with(HANDLER_BY_API, config).unwrap_or_else(|error| panic!("{error}\n{}", node.host().log()));
        let id = node.run(&pod, container_config("lasting", &["sleep", "1000"])).unwrap();
        let boot = expect::guest(&asked(&node, &id, PROOF_SCRIPT)).boot_id;
        node.restart().unwrap();
        assert_eq!(expect::guest(&asked(&node, &id, PROOF_SCRIPT)).boot_id, boot);
        assert_eq!(node.pod_status(&pod).unwrap().state.enum_value(), Ok(PodSandboxState::SANDBOX_READY));

        // What the shim answers when it is asked itself, and that it knows no other pod.
        let bundle = node.host().directory().join("state/io.containerd.sandbox.controller.v1.shim/k8s.io").join(&pod.id);
        let api = TaskApi::of_bundle(&bundle, &pod.id).unwrap().sandbox();
        api.ping(&pod.id).unwrap();
        assert_eq!(api.platform(&pod.id).unwrap(), ("linux".to_owned(), "ppc64le".to_owned()));
        let status = api.status(&pod.id).unwrap();
        assert_eq!((status.state.as_str(), status.info.get("boot_id")), ("SANDBOX_READY", Some(&boot)));
        let used = api.metrics(&pod.id).unwrap();
        assert!(used.memory.usage > 0 && used.cpu.usage_usec > 0 && used.pids.current > 0, "{used}");
        assert!(api.ping("another").is_err() && api.status("another").is_err());

        let status = std::fs::read_dir(node.host().state_dir().join("k8s.io")).unwrap().next().unwrap().unwrap().path();
        let machine: i32 =
            std::fs::read_to_string(status.join("machine.pid")).unwrap().split_whitespace().next().unwrap().parse().unwrap();
        kill(Pid::from_raw(machine), Signal::SIGKILL).unwrap();
        assert_eq!(node.wait(&id).unwrap().exit_code, 137);
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while node.pod_status(&pod).unwrap().state.enum_value() != Ok(PodSandboxState::SANDBOX_NOTREADY) {
            assert!(std::time::Instant::now() < deadline, "the pod stays ready without its machine\n{}", node.host().log());
        }
        assert!(api.ping(&pod.id).is_err(), "a dead sandbox does not answer");
        node.remove_pod(&pod).unwrap();
        expect::nothing_left(node.host(), &before);
    }

    #[test]
    fn both_sandboxers_serve_one_node() {
        let node = Node::start(Containerd::V2).unwrap_or_else(|error| panic!("{error}"));
        let before = node.host().leftovers();
        let pods = [HANDLER, HANDLER_BY_API].map(|handler| node.run_pod_with(handler, node.pod_config(handler)).unwrap());
        let boots = pods.each_ref().map(|pod| {
            let id = node.run(pod, container_config(&pod.id, &["sleep", "1000"])).unwrap();
            expect::guest(&asked(&node, &id, PROOF_SCRIPT)).boot_id
        });
        assert_ne!(boots[0], boots[1], "each pod has a machine of its own");
        for pod in &pods {
            node.remove_pod(pod).unwrap();
        }
        expect::nothing_left(node.host(), &before);
    }
}
