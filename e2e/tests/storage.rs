//! A pod's files: what mounts show, what crosses between host and guest, and what does not.

#![forbid(unsafe_code)]

use paperboat_e2e::host::image;
use paperboat_e2e::{Host, expect};

/// The shell functions with which scripts tell what holds and what does not.
const CHECKS: &str = "holds() { what=$1; shift; if \"$@\" >/dev/null 2>&1; then echo \"ok $what\"; else echo \"NOT $what\"; fi; }
    fails() { what=$1; shift; if \"$@\" >/dev/null 2>&1; then echo \"NOT $what\"; else echo \"ok $what\"; fi; }";

fn host() -> Host {
    Host::start().unwrap_or_else(|error| panic!("{error}"))
}

/// Runs a script of [`CHECKS`] in the busybox image; every check must hold.
#[track_caller]
fn expect_all(host: &Host, options: &[&str], id: &str, script: &str) -> String {
    let script = format!("{CHECKS}\n{script}");
    let output = host.run_with(options, &image("busybox"), id, &["sh", "-c", &script]).unwrap();
    expect::code(host, &output, 0);
    assert!(output.stdout.contains("ok ") && !output.stdout.contains("NOT "), "{}\n{}", output.stdout, output.stderr);
    output.stdout
}

#[test]
fn another_snapshotter_serves_as_well() {
    let host = host();
    let before = host.leftovers();
    let script = "holds 'the image is there' [ -x /bin/busybox ]; holds 'the root is written' sh -c 'echo x > /x && grep x /x'";
    expect_all(&host, &["--snapshotter", "native"], "native", script);
    expect::nothing_left(&host, &before);
}
