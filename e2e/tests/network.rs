//! A pod's network: namespaces and cables made by hand, as a network plug-in would.

#![forbid(unsafe_code)]

use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use paperboat_e2e::expect;
use paperboat_e2e::host::image;
use paperboat_e2e::net::Net;
use paperboat_e2e::{Host, leaks};

fn host() -> Host {
    Host::start().unwrap_or_else(|error| panic!("{error}"))
}

/// `ctr run`'s option for a namespace.
fn in_namespace(path: &std::path::Path) -> String {
    format!("network:{}", path.display())
}

/// Fails if something of ours is in a pod's namespace.
#[track_caller]
fn expect_clean(net: &Net, pod: u8) {
    let links = net.inside_pod(pod, "ip -o link; tc qdisc show").unwrap();
    assert!(!links.contains("paperboat") && !links.contains("ingress"), "left behind: {links}");
}

#[test]
fn a_killed_shim_leaves_nothing_in_the_namespace() {
    let host = host();
    let mut net = Net::new().unwrap();
    let pod = net.pod(5).unwrap();
    let before = host.leftovers();
    thread::scope(|scope| {
        let namespace = in_namespace(&pod);
        let (host, net) = (&host, &net);
        let running =
            scope.spawn(move || host.run_with(&["--with-ns", &namespace], &image("busybox"), "orphan", &["sleep", "1000"]));
        host.wait_for_log(&["container started id=orphan"]).unwrap();
        let there = net.inside_pod(5, "ip -o link; tc qdisc show").unwrap();
        assert!(there.contains("paperboat0") && there.contains("ingress"), "{there}");
        // A second pod in the namespace of the first is refused by name, and the first one keeps its network.
        let second = host.run_with(&["--with-ns", &in_namespace(&pod)], &image("busybox"), "second", &["true"]).unwrap();
        expect::code(host, &second, 1);
        expect::words(host, &second.stderr, &["eth0", "another micro-VM"]);
        net.inside("busybox ping -c 1 -W 60 10.88.0.5").unwrap();
        for pid in leaks::processes_of(host.directory(), host.containerd_pid()) {
            let program = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
            if program.ends_with("containerd-shim-paperboat-v1") {
                kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
            }
        }
        assert!(!running.join().unwrap().unwrap().status.success());
    });
    let _ = std::fs::remove_dir_all(host.directory().join("fifo"));
    expect::nothing_left(&host, &before);
    expect_clean(&net, 5);
}

#[test]
fn a_namespace_without_interfaces_has_loopback_and_the_hosts_is_refused() {
    let host = host();
    let before = host.leftovers();
    let script = "ping -c 1 -W 30 127.0.0.1 >/dev/null && ping -c 1 -W 30 ::1 >/dev/null && echo loopback; ip -o link show up";
    let output = host.run("lonely", &["sh", "-c", script]).unwrap();
    expect::code(&host, &output, 0);
    expect::words(&host, &output.stdout, &["loopback"]);
    assert_eq!(output.stdout.lines().filter(|line| line.contains("LOWER_UP")).count(), 1, "{}", output.stdout);
    let refused = host.run_with(&["--net-host"], &image("busybox"), "greedy", &["true"]).unwrap();
    expect::code(&host, &refused, 1);
    expect::words(&host, &refused.stderr, &["network namespace", "--network host"]);
    expect::nothing_left(&host, &before);
}

/// Part of `cargo xtask test --all`.
mod slow {
    use super::*;

    #[test]
    fn interfaces_come_and_go_while_a_pod_runs() {
        let host = host();
        let mut net = Net::new().unwrap();
        let pod = net.pod(4).unwrap();
        let before = host.leftovers();
        // It waits until it can reach the host through the new cable, then until that is gone.
        let script = "until ip -o address show dev eth1 2>/dev/null | grep 10.88.1.4; do sleep 1; done; echo came
        while ip link show eth1 >/dev/null 2>&1; do sleep 1; done; echo went; ping -c 1 -W 30 10.88.0.1 >/dev/null && echo still here";
        thread::scope(|scope| {
            let namespace = in_namespace(&pod);
            let (host, net) = (&host, &net);
            let running =
                scope.spawn(move || host.run_with(&["--with-ns", &namespace], &image("busybox"), "plugs", &["sh", "-c", script]));
            host.wait_for_log(&["container started id=plugs"]).unwrap();
            net.plug(4, "eth1", "10.88.1.4/24").unwrap();
            host.wait_for_log(&["network interface eth1 is in slot 1"]).unwrap();
            net.inside("ip address add 10.88.1.1/24 dev sw0; busybox ping -c 1 -W 60 10.88.1.4").unwrap();
            net.unplug(4, "eth1").unwrap();
            let output = running.join().unwrap().unwrap();
            expect::code(host, &output, 0);
            expect::words(host, &output.stdout, &["came", "went", "still here"]);
        });
        expect_clean(&net, 4);
        expect::nothing_left(&host, &before);
    }
}
