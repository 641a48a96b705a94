//! Pods, as a kubelet asks containerd's CRI plugin for them.

#![forbid(unsafe_code)]

use paperboat_e2e::cri::{Node, container_config};
use paperboat_e2e::expect;
use paperboat_e2e::guest::PROOF_SCRIPT;
use paperboat_e2e::products::Containerd;

/// A node, or a failure that says what is missing.
fn node() -> Node {
    Node::start(Containerd::V1_7).unwrap_or_else(|error| panic!("{error}"))
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
