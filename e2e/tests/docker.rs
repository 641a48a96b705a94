//! Docker, as its users meet the runtime.

#![forbid(unsafe_code)]

use paperboat_e2e::docker::Docker;
use paperboat_e2e::expect;
use paperboat_e2e::guest::PROOF_SCRIPT;
use paperboat_e2e::host::{RUNTIME, image};
use paperboat_e2e::products::Docker as Release;

/// A Docker, or a failure that says what is missing.
fn docker(release: Release) -> Docker {
    Docker::start(release).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a_container_runs_in_the_foreground_and_in_the_background() {
    let docker = docker(Release::V26);
    let host = docker.host();
    let before = host.leftovers();
    let busybox = image("busybox");
    let run = ["run", "--runtime", RUNTIME, "--network", "none"];

    let script = format!("{PROOF_SCRIPT}; echo to standard error >&2; exit 7");
    let output = docker.docker(&[&run[..], &["--rm", &busybox, "sh", "-c", &script]].concat()).unwrap();
    expect::code(host, &output, 7);
    expect::guest(&output.stdout);
    assert!(output.stderr.ends_with("to standard error\n"), "{output:?}");

    let output = docker.docker(&[&run[..], &["--detach", "--name", "second", &busybox, "sleep", "1000"]].concat()).unwrap();
    expect::code(host, &output, 0);
    let output = docker.docker(&["exec", "second", "cat", "/proc/sys/kernel/osrelease"]).unwrap();
    expect::words(host, &output.stdout, &["-paperboat"]);
    expect::code(host, &docker.docker(&["kill", "second"]).unwrap(), 0);
    let output = docker.docker(&["inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", "second"]).unwrap();
    assert_eq!(output.stdout, "exited 137\n");
    expect::code(host, &docker.docker(&["rm", "second"]).unwrap(), 0);
    expect::nothing_left(host, &before);
}
