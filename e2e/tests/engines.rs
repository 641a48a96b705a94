//! The lines of containerd beside 1.7, which all other tests use: each speaks to a shim in its own way.

#![forbid(unsafe_code)]

use paperboat_e2e::expect;
use paperboat_e2e::guest::PROOF_SCRIPT;
use paperboat_e2e::host::{Host, RUNTIME, Setup, image};
use paperboat_e2e::products::Containerd;

/// One container to its exit status, one that is stopped from outside, and nothing left of both.
fn runs_containers(containerd: Containerd) {
    let host = Host::start_bare(&Setup { containerd, ..Setup::default() }).unwrap_or_else(|error| panic!("{error}"));
    host.import("busybox", "linux/ppc64le").unwrap();
    let version = host.ctr(&["version"]).unwrap();
    println!("{}", version.stdout);
    let before = host.leftovers();
    let output = host.run("first", &["sh", "-c", &format!("{PROOF_SCRIPT}; exit 7")]).unwrap();
    expect::code(&host, &output, 7);
    expect::guest(&output.stdout);

    let detached = ["run", "--detach", "--runtime", RUNTIME, &image("busybox"), "second", "sleep", "1000"];
    let detached = host.ctr(&detached).unwrap();
    expect::code(&host, &detached, 0);
    let exec = host.ctr(&["tasks", "exec", "--exec-id", "look", "second", "cat", "/proc/sys/kernel/osrelease"]).unwrap();
    expect::code(&host, &exec, 0);
    expect::words(&host, &exec.stdout, &["-paperboat"]);
    // It kills the task and waits for its end, whose status each line of ctr tells in its own way.
    let deleted = host.ctr(&["tasks", "delete", "--force", "second"]).unwrap();
    assert!(deleted.code() == Some(137) || deleted.stderr.contains("exit code 137"), "{deleted:?}");
    expect::code(&host, &host.ctr(&["containers", "delete", "second"]).unwrap(), 0);
    expect::nothing_left(&host, &before);
}

#[test]
fn containerd_1_6_runs_containers() {
    runs_containers(Containerd::V1_6);
}

#[test]
fn containerd_2_runs_containers() {
    runs_containers(Containerd::V2);
}
