//! Several containers in one machine, as Kubernetes' pods are made: a sandbox that runs nothing, and members that share with it.

#![forbid(unsafe_code)]

use std::thread;

use paperboat_e2e::{Host, Output, Running, leaks};

/// Options of a container of pod `pod`, of one kind: `sandbox` or `container`.
fn of_pod(kind: &str, more: &[&str]) -> Vec<String> {
    let kind = format!("io.kubernetes.cri.container-type={kind}");
    let fixed = ["--annotation", "io.kubernetes.cri.sandbox-id=pod", "--annotation", &kind];
    fixed.iter().chain(more).map(|&word| word.to_owned()).collect()
}

fn start<'a>(host: &'a Host, id: &str, options: &[String], command: &[&str]) -> Running<'a> {
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    Running::start(host, id, &options, command).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn containers_of_a_pod_share_one_machine_and_what_the_pod_shares() {
    let host = Host::start().unwrap_or_else(|error| panic!("{error}"));
    let before = host.leftovers();
    // The sandbox's program is not run: there is none of this name in the image.
    let sandbox = start(&host, "pod", &of_pod("sandbox", &[]), &["/pause"]);
    assert_eq!(sandbox.status().unwrap(), "RUNNING");
    let (shim, machine) = sandbox.api().unwrap().connect().unwrap();
    assert_eq!(sandbox.api().unwrap().pids().unwrap(), [machine]);

    // Members join the sandbox's namespaces by the host pid they are told, as CRI has it.
    let path = |kind: &str| format!("{kind}:/proc/{machine}/ns/{}", if kind == "network" { "net" } else { kind });
    let shared: Vec<String> = ["network", "ipc", "uts"].map(path).into();
    let mut options = Vec::new();
    shared.iter().for_each(|path| options.extend(["--with-ns", path]));
    let one = start(&host, "one", &of_pod("container", &options), &["sh", "-c", "echo one > /mark; sleep 1000"]);
    let pid = path("pid");
    options.extend(["--with-ns", &pid]);
    let two = start(&host, "two", &of_pod("container", &options), &["sh", "-c", "exec sleep 1234"]);
    assert_eq!(
        (one.api().unwrap().connect().unwrap(), two.api().unwrap().connect().unwrap()),
        ((shim, machine), (shim, machine))
    );

    let namespaces =
        "for n in net ipc uts pid mnt; do readlink /proc/self/ns/$n; done; cat /proc/sys/kernel/random/boot_id; hostname";
    let of_one = one.shell("namespaces", namespaces).unwrap();
    let of_two = two.shell("namespaces", namespaces).unwrap();
    let (of_one, of_two): (Vec<_>, Vec<_>) = (of_one.lines().collect(), of_two.lines().collect());
    assert_eq!((&of_one[..3], &of_one[5..]), (&of_two[..3], &of_two[5..]), "network, ipc, names, machine");
    assert!(of_one[3] != of_two[3] && of_one[4] != of_two[4], "their own processes and files: {of_one:?} {of_two:?}");
    // Who shares the pod's processes sees them all; who does not sees its own.
    assert!(two.shell("all", "ps").unwrap().contains("sleep 1000"));
    assert!(!one.shell("own", "ps").unwrap().contains("sleep 1234"));
    assert!(two.shell("other", "test -e /mark || echo apart").unwrap().contains("apart"));
    // A listener of one is reached by the other at localhost.
    let listener = thread::scope(|scope| {
        let serve = scope.spawn(|| one.exec("serve", &["sh", "-c", "echo served | timeout 60 nc -l -p 8080"]).unwrap());
        let fetch = "for i in $(seq 50); do nc 127.0.0.1 8080 < /dev/null && exit 0; sleep 0.2; done; exit 1";
        let fetched = two.shell("fetch", fetch).unwrap();
        serve.join().unwrap();
        fetched
    });
    assert_eq!(listener, "served\n");

    // One ends and is started anew, under another name, in the same machine.
    assert_eq!(one.remove().unwrap(), Some(137));
    let again = start(&host, "again", &of_pod("container", &options), &["sleep", "1000"]);
    assert!(again.shell("boot", "cat /proc/sys/kernel/random/boot_id").unwrap().contains(of_one[5]));
    again.remove().unwrap();
    assert_eq!(two.remove().unwrap(), Some(137));
    assert_eq!(sandbox.status().unwrap(), "RUNNING");
    sandbox.remove().unwrap();
    let left = leaks::settle(&host, &before);
    assert!(left.is_empty(), "left behind: {left:#?}\n{}", host.log());
}

#[test]
fn four_pods_run_at_once() {
    let host = Host::start().unwrap_or_else(|error| panic!("{error}"));
    let before = host.leftovers();
    let outputs: Vec<Output> = thread::scope(|scope| {
        let host = &host;
        let start = |number: i32| {
            scope.spawn(move || host.run(&format!("pod-{number}"), &["sh", "-c", &format!("exit {number}")]).unwrap())
        };
        let runs: Vec<_> = (0..4).map(start).collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    let codes: Vec<_> = outputs.iter().map(Output::code).collect();
    assert_eq!(codes, [Some(0), Some(1), Some(2), Some(3)], "{outputs:#?}\n{}", host.log());
    let left = leaks::settle(&host, &before);
    assert!(left.is_empty(), "left behind: {left:#?}");
}
