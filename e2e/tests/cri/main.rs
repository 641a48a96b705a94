//! Pods, as a kubelet asks containerd's CRI plugin for them.

#![forbid(unsafe_code)]

mod conformance;
mod sandboxes;

use paperboat_e2e::cri::message::security_profile::ProfileType;
use paperboat_e2e::cri::message::{
    ContainerStatsResponse, Int64Value, KeyValue, LinuxContainerResources, Mount, Nothing, UpdateContainerResourcesRequest,
};
use paperboat_e2e::cri::{CallError, Node, container, container_config};
use paperboat_e2e::expect;
use paperboat_e2e::guest::PROOF_SCRIPT;
use paperboat_e2e::products::Containerd;
use protobuf::MessageField;

/// A node with the containerd that the tests are for, or a failure that says what is missing.
fn node() -> Node {
    let containerd = Containerd::of_tests().unwrap_or_else(|error| panic!("{error}"));
    Node::start(containerd).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a_pod_runs_several_containers_in_one_machine() {
    let node = node();
    let host = node.host();
    let before = host.leftovers();
    let pod = node.run_pod(node.pod_config("several")).unwrap_or_else(|error| panic!("{error}\n{}", host.log()));
    assert!(node.pod_status(&pod).unwrap().network.ip.starts_with("10.88."));

    let mut boots = Vec::new();
    for (name, code) in [("first", 7), ("second", 0)] {
        let script = format!("{PROOF_SCRIPT}; hostname; exit {code}");
        let id = node.run(&pod, container_config(name, &["sh", "-c", &script])).unwrap();
        let status = node.wait(&id).unwrap();
        assert_eq!(status.exit_code, code, "{status:?}\n{}", host.log());
        let lines = node.log_lines(&format!("{name}.log")).unwrap();
        let text: Vec<&str> = lines.iter().map(|line| line.strip_prefix("stdout F ").unwrap()).collect();
        assert_eq!(text.last(), Some(&"several"));
        boots.push(expect::guest(&text.join("\n")).boot_id);
        node.remove_container(&id).unwrap();
    }
    assert_eq!(boots[0], boots[1], "containers of a pod share its machine");
    node.remove_pod(&pod).unwrap();
    expect::nothing_left(host, &before);
}

/// Answers a program's question with one line.
fn asked(node: &Node, id: &str, script: &str) -> String {
    let answer = node.exec(id, &["sh", "-c", script], 60).unwrap_or_else(|error| panic!("{error}\n{}", node.host().log()));
    String::from_utf8_lossy(&answer.stdout).trim_end().to_owned()
}

#[test]
fn a_container_is_looked_after_while_it_runs() {
    let node = node();
    let host = node.host();
    let before = host.leftovers();
    let pod = node.run_pod(node.pod_config("watched")).unwrap_or_else(|error| panic!("{error}\n{}", host.log()));
    let script = "trap 'echo told; exit 5' TERM; echo begun; while true; do sleep 0.2; done";
    let mut config = container_config("watched", &["sh", "-c", script]);
    config.envs.push(KeyValue { key: "COLOUR".into(), value: "green".into(), ..Default::default() });
    let limits = LinuxContainerResources { memory_limit_in_bytes: 64 << 20, ..Default::default() };
    config.linux.mut_or_insert_default().resources = MessageField::some(limits);
    let id = node.run(&pod, config).unwrap();

    // Exec, with its status, its streams, its limit in time.
    let answer = node.exec(&id, &["sh", "-c", "echo $COLOUR; echo oops >&2; exit 3"], 60).unwrap();
    assert_eq!((&answer.stdout[..], &answer.stderr[..], answer.exit_code), (&b"green\n"[..], &b"oops\n"[..], 3));
    expect::guest(&asked(&node, &id, PROOF_SCRIPT));
    let late = node.exec(&id, &["sleep", "1000"], 1).unwrap_err();
    assert!(matches!(late, CallError::Status { code: DEADLINE_EXCEEDED, .. }), "{late}");
    assert_eq!(asked(&node, &id, "pidof sleep | wc -w").parse::<u32>().map(|sleeps| sleeps <= 1), Ok(true), "it is killed");
    let missing = node.exec(&id, &["no-such-program"], 60).unwrap_err().to_string();
    assert!(missing.contains("no-such-program"), "{missing}");

    // What it uses, and a new limit.
    let stats: ContainerStatsResponse = node.call("ContainerStats", &container(&id)).unwrap();
    assert!(stats.stats.cpu.usage_core_nano_seconds.value > 0 && stats.stats.memory.working_set_bytes.value > 0, "{stats}");
    assert_eq!(asked(&node, &id, MEMORY_LIMIT), (64 << 20).to_string());
    let limits = LinuxContainerResources { memory_limit_in_bytes: 96 << 20, ..Default::default() };
    let update =
        UpdateContainerResourcesRequest { container_id: id.clone(), linux: MessageField::some(limits), ..Default::default() };
    node.call::<Nothing>("UpdateContainerResources", &update).unwrap();
    assert_eq!(asked(&node, &id, MEMORY_LIMIT), (96 << 20).to_string());

    // Its log is moved away, as the kubelet does, and goes on in a new file.
    let log = node.log_directory().join("watched.log");
    std::fs::rename(&log, node.log_directory().join("watched.log.1")).unwrap();
    node.call::<Nothing>("ReopenContainerLog", &container(&id)).unwrap();
    node.stop_container(&id, 60).unwrap();
    assert_eq!(node.wait(&id).unwrap().exit_code, 5);
    assert_eq!(node.log_lines("watched.log.1").unwrap(), ["stdout F begun"]);
    assert_eq!(node.log_lines("watched.log").unwrap(), ["stdout F told"]);

    node.remove_pod(&pod).unwrap();
    expect::nothing_left(host, &before);
}

/// gRPC's code for a limit in time.
const DEADLINE_EXCEEDED: u32 = 4;

/// The container's own limit, wherever its cgroup is.
const MEMORY_LIMIT: &str = "cat /sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)/memory.max";

#[test]
fn a_container_is_who_and_what_its_security_context_says() {
    let node = node();
    let host = node.host();
    let before = host.leftovers();
    let pod = node.run_pod(node.pod_config("secured")).unwrap_or_else(|error| panic!("{error}\n{}", host.log()));
    let volume = host.directory().join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("from-host"), "hello").unwrap();

    let mut config = container_config("secured", &["sleep", "1000"]);
    let security = config.linux.mut_or_insert_default().security_context.mut_or_insert_default();
    security.run_as_user = number(1000);
    security.run_as_group = number(2000);
    security.supplemental_groups = vec![3000];
    security.readonly_rootfs = true;
    security.no_new_privs = true;
    security.capabilities.mut_or_insert_default().drop_capabilities = vec!["ALL".into()];
    security.seccomp.mut_or_insert_default().profile_type = ProfileType::RuntimeDefault.into();
    for (path, readonly) in [("/data", false), ("/fixed", true)] {
        let mount =
            Mount { container_path: path.into(), host_path: volume.display().to_string(), readonly, ..Default::default() };
        config.mounts.push(mount);
    }
    std::os::unix::fs::chown(&volume, Some(1000), Some(2000)).unwrap();
    let id = node.run(&pod, config).unwrap();
    assert_eq!(asked(&node, &id, "id -u; id -g; id -G"), "1000\n2000\n2000 3000");
    let status = asked(&node, &id, "grep -E 'CapEff|CapBnd|NoNewPrivs|Seccomp:' /proc/self/status");
    assert_eq!(status, "CapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2");
    assert_eq!(asked(&node, &id, "touch /x 2>&1 || true"), "touch: /x: Read-only file system");
    assert_eq!(
        asked(&node, &id, "cat /fixed/from-host; touch /fixed/x 2>&1 || true"),
        "hellotouch: /fixed/x: Read-only file system"
    );
    // Both ways: what the guest writes is on the host, and what the host changes is in the guest.
    assert_eq!(asked(&node, &id, "echo from the guest > /data/from-guest; cat /data/from-guest"), "from the guest");
    assert_eq!(std::fs::read_to_string(volume.join("from-guest")).unwrap(), "from the guest\n");
    std::fs::write(volume.join("later"), "news").unwrap();
    assert_eq!(asked(&node, &id, "cat /data/later"), "news");
    node.remove_pod(&pod).unwrap();
    expect::nothing_left(host, &before);
}

fn number(value: i64) -> MessageField<Int64Value> {
    MessageField::some(Int64Value { value, ..Default::default() })
}

/// Part of `cargo xtask test --all`.
mod slow {
    use paperboat_e2e::cri::message::{AttachRequest, ExecRequest, NamespaceMode};
    use paperboat_e2e::cri::stream::{RESIZE, STATUS, STDIN, STDOUT};

    use super::*;

    #[test]
    fn streams_lead_into_the_container() {
        let node = node();
        let host = node.host();
        let before = host.leftovers();
        let pod = node.run_pod(node.pod_config("streams")).unwrap_or_else(|error| panic!("{error}\n{}", host.log()));
        let mut config = container_config("streams", &["cat"]);
        config.stdin = true;
        let id = node.run(&pod, config).unwrap();

        let exec = ExecRequest {
            container_id: id.clone(),
            cmd: ["sh", "-c", "tty; read size; stty size; echo \"read $size\"; exit 3"].map(str::to_owned).into(),
            tty: true,
            stdin: true,
            stdout: true,
            ..Default::default()
        };
        let mut stream = node.stream("Exec", &exec).unwrap();
        stream.wait_for(STDOUT, "/dev/pts/").unwrap();
        stream.send(RESIZE, br#"{"Width": 101, "Height": 33}"#).unwrap();
        // The size travels beside the input: both are there when the next line is read.
        std::thread::sleep(std::time::Duration::from_secs(2));
        stream.send(STDIN, b"now\n").unwrap();
        stream.wait_for(STDOUT, "read now").unwrap();
        let status = stream.wait_for(STATUS, "Failure").unwrap();
        assert!(status.contains("\"3\""), "{status}");
        let output = stream.read_to_end(STDOUT).unwrap();
        assert!(output.contains("33 101"), "{output}");

        let attach = AttachRequest { container_id: id.clone(), stdin: true, stdout: true, ..Default::default() };
        let mut stream = node.stream("Attach", &attach).unwrap();
        stream.send(STDIN, b"through the guest\n").unwrap();
        stream.wait_for(STDOUT, "through the guest\n").unwrap();
        drop(stream);
        assert_eq!(node.log_lines("streams.log").unwrap(), ["stdout F through the guest"]);
        node.remove_pod(&pod).unwrap();
        expect::nothing_left(host, &before);
    }

    #[test]
    fn containerd_2_runs_pods_too() {
        let node = Node::start(Containerd::V2).unwrap_or_else(|error| panic!("{error}"));
        let host = node.host();
        let before = host.leftovers();
        let pod = node.run_pod(node.pod_config("newer")).unwrap_or_else(|error| panic!("{error}\n{}", host.log()));
        let id = node.run(&pod, container_config("newer", &["sleep", "1000"])).unwrap();
        expect::guest(&asked(&node, &id, PROOF_SCRIPT));
        node.stop_container(&id, 0).unwrap();
        assert_eq!(node.wait(&id).unwrap().exit_code, 137);
        node.remove_pod(&pod).unwrap();
        expect::nothing_left(host, &before);
    }

    #[test]
    fn a_pod_is_set_up_as_its_description_says() {
        let node = node();
        let host = node.host();
        let before = host.leftovers();
        let mut config = node.pod_config("described");
        let dns = config.dns_config.mut_or_insert_default();
        (dns.servers, dns.searches) = (vec!["9.9.9.9".into()], vec!["example.test".into()]);
        let linux = config.linux.mut_or_insert_default();
        linux.sysctls.insert("net.ipv4.ip_unprivileged_port_start".into(), "80".into());
        linux.sysctls.insert("kernel.shmmax".into(), "12345678".into());
        let shared = linux.security_context.mut_or_insert_default().namespace_options.mut_or_insert_default();
        shared.pid = NamespaceMode::POD.into();
        let pod = node.run_pod(config).unwrap_or_else(|error| panic!("{error}\n{}", host.log()));

        // A volume as the kubelet makes one of a config map: it is changed by renaming a link.
        let volume = host.directory().join("config-map");
        let version = |name: &str| {
            std::fs::create_dir_all(volume.join(name)).unwrap();
            std::fs::write(volume.join(name).join("key"), name).unwrap();
            std::os::unix::fs::symlink(name, volume.join("..next")).unwrap();
            std::fs::rename(volume.join("..next"), volume.join("..data")).unwrap();
        };
        version("..one");
        std::os::unix::fs::symlink("..data/key", volume.join("key")).unwrap();

        let mut first = container_config("first", &["sleep", "1001"]);
        let own = first.linux.mut_or_insert_default().security_context.mut_or_insert_default();
        own.namespace_options.mut_or_insert_default().pid = NamespaceMode::POD.into();
        let mut second = first.clone();
        second.metadata.mut_or_insert_default().name = "second".into();
        second.command = ["sleep", "1002"].map(str::to_owned).into();
        second.log_path = "second.log".into();
        second.mounts.push(Mount {
            container_path: "/config".into(),
            host_path: volume.display().to_string(),
            readonly: true,
            ..Default::default()
        });
        node.run(&pod, first).unwrap();
        let id = node.run(&pod, second).unwrap();
        let settings = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shmmax";
        assert_eq!(asked(&node, &id, settings), "80\n12345678");
        assert_eq!(
            asked(&node, &id, "cat /etc/hostname; cat /etc/resolv.conf"),
            "described\nsearch example.test\nnameserver 9.9.9.9"
        );
        let processes = asked(&node, &id, "ps -o pid,args");
        assert!(processes.contains("sleep 1001") && processes.contains("sleep 1002"), "{processes}");
        assert_eq!(asked(&node, &id, "cat /config/key"), "..one");
        version("..two");
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while asked(&node, &id, "cat /config/key") != "..two" {
            assert!(std::time::Instant::now() < deadline, "the update does not reach the guest");
        }
        node.remove_pod(&pod).unwrap();
        expect::nothing_left(host, &before);
    }

    #[test]
    fn what_fails_half_way_leaves_nothing_behind() {
        let node = node();
        let host = node.host();
        let before = host.leftovers();
        let pod = node.run_pod(node.pod_config("failing")).unwrap_or_else(|error| panic!("{error}\n{}", host.log()));
        let missing = node.run(&pod, container_config("missing", &["no-such-program"])).unwrap_err().to_string();
        assert!(missing.contains("no-such-program"), "{missing}");
        // The pod is none the worse for it.
        let id = node.run(&pod, container_config("sound", &["sh", "-c", "exit 3"])).unwrap();
        assert_eq!(node.wait(&id).unwrap().exit_code, 3);
        node.remove_pod(&pod).unwrap();
        expect::nothing_left(host, &before);

        let mut config = node.pod_config("unsettled");
        config.linux.mut_or_insert_default().sysctls.insert("net.ipv4.no_such_setting".into(), "1".into());
        let error = node.run_pod(config).map(|pod| pod.id).unwrap_err().to_string();
        assert!(error.contains("net.ipv4.no_such_setting=1"), "{error}");
        expect::nothing_left(host, &before);

        std::fs::write(host.directory().join("paperboat.yaml"), "kernel: /nonexistent/vmlinux\n").unwrap();
        let error = node.run_pod(node.pod_config("kernelless")).map(|pod| pod.id).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/vmlinux"), "{error}");
        expect::nothing_left(host, &before);
    }

    #[test]
    fn pods_reach_each_other_and_ports_are_forwarded() {
        let node = node();
        let host = node.host();
        let before = host.leftovers();
        let page = "mkdir /pages; cat /proc/sys/kernel/random/boot_id > /pages/index.html; exec httpd -f -p 80 -h /pages";
        let server = node.run_pod(node.pod_config("server")).unwrap_or_else(|error| panic!("{error}\n{}", host.log()));
        let id = node.run(&server, container_config("server", &["sh", "-c", page])).unwrap();
        let boot = asked(&node, &id, "cat /proc/sys/kernel/random/boot_id");
        let client = node.run_pod(node.pod_config("client")).unwrap();
        let id = node.run(&client, container_config("client", &["sleep", "1000"])).unwrap();
        let address = node.pod_status(&server).unwrap().network.ip.clone();
        let fetch = format!("until wget -q -T 10 -O - http://{address}/; do sleep 1; done");
        assert_eq!(asked(&node, &id, &fetch), boot);
        node.remove_pod(&client).unwrap();

        // As `kubectl port-forward`: data on channel 0, behind the port's number.
        let mut stream = node.forward(&server, 80).unwrap();
        stream.send(0, b"GET / HTTP/1.0\r\n\r\n").unwrap();
        stream.wait_for(0, &boot).unwrap();
        drop(stream);
        node.remove_pod(&server).unwrap();
        expect::nothing_left(host, &before);
    }
}
