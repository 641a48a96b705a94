//! One real ppc64le image through the whole system, and the ways in which that can fail.

#![forbid(unsafe_code)]

use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use paperboat_e2e::expect::{
    code as expect_code, guest as expect_guest, nothing_left as expect_nothing_left, words as expect_words,
};
use paperboat_e2e::guest::PROOF_SCRIPT;
use paperboat_e2e::host::{finish, image};
use paperboat_e2e::{Host, leaks};

/// A host, or a failure that says what is missing.
fn host() -> Host {
    host_with("")
}

fn host_with(configuration: &str) -> Host {
    Host::start_with(configuration).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a_command_runs_in_a_micro_vm_and_its_exit_status_comes_back() {
    let host = host();
    let before = host.leftovers();
    let output = host.run("first", &["sh", "-c", &format!("{PROOF_SCRIPT}; echo to standard error >&2; exit 7")]).unwrap();
    expect_code(&host, &output, 7);
    expect_guest(&output.stdout);
    assert_eq!(output.stderr, "to standard error\n");
    expect_nothing_left(&host, &before);
    // Boot, start and end are in containerd's log, each with whose they are and with figures that grow. KVM counts no instructions, but every
    // machine's processor time is known.
    let kvm = host.products().backend.as_deref() == Some("kvm");
    let counter = if kvm { "machine_cpu_ms=" } else { "guest_instructions=" };
    let namespace = format!("namespace={}", host.namespace());
    let figures: Vec<u64> = ["agent ready", "container started id=first", "container ended id=first"]
        .iter()
        .map(|stage| {
            let line = host.wait_for_log(&["level=info", stage, &namespace, "pod=first", "container=first"]).unwrap();
            let count = line.split_once(counter).map(|(_, rest)| rest.split([' ', '"']).next().unwrap_or_default());
            count.and_then(|digits| digits.parse().ok()).unwrap_or_else(|| panic!("no count in {line}"))
        })
        .collect();
    assert!(figures.is_sorted_by(|a, b| a < b || kvm && a == b) && figures[0] > 0, "{figures:?}");
}

#[test]
fn twenty_runs_in_a_row_leave_nothing_behind() {
    let host = host();
    let before = host.leftovers();
    let mut boots = Vec::new();
    for round in 0..20 {
        let output = host.run(&format!("run-{round}"), &["sh", "-c", &format!("{PROOF_SCRIPT}; exit {round}")]).unwrap();
        expect_code(&host, &output, round);
        boots.push(expect_guest(&output.stdout).boot_id);
    }
    expect_nothing_left(&host, &before);
    // Twenty machines, not one.
    boots.sort();
    boots.dedup();
    assert_eq!(boots.len(), 20);
}

#[test]
fn an_image_for_another_architecture_is_refused_by_name() {
    let host = host();
    host.import("platforms", "linux/amd64").unwrap();
    let before = host.leftovers();
    let output = host.run_with(&["--platform", "linux/amd64"], &image("platforms"), "wrong", &["sh", "-c", "exit 0"]).unwrap();
    expect_code(&host, &output, 1);
    expect_words(&host, &output.stderr, &["amd64", "ppc64le"]);
    expect_nothing_left(&host, &before);
}

#[test]
fn a_missing_kernel_is_named() {
    let host = host_with("kernel: /nonexistent/vmlinux");
    let before = host.leftovers();
    let output = host.run("kernelless", &["true"]).unwrap();
    expect_code(&host, &output, 1);
    expect_words(&host, &output.stderr, &["guest kernel", "/nonexistent/vmlinux", "No such file"]);
    expect_nothing_left(&host, &before);
}

#[test]
fn a_mistake_in_the_configuration_is_shown_with_its_line() {
    let host = host_with("vcpus: 1\nvcpsu: 2");
    let before = host.leftovers();
    let output = host.run("misconfigured", &["true"]).unwrap();
    expect_code(&host, &output, 1);
    expect_words(&host, &output.stderr, &["vcpsu", "line 2"]);
    expect_nothing_left(&host, &before);
}

#[test]
fn a_guest_that_panics_while_it_boots_is_an_error_with_its_last_words() {
    // The kernel finds no init and panics.
    let host = host_with("kernel_parameters: rdinit=/nonexistent root=/dev/nonexistent");
    let before = host.leftovers();
    let output = host.run("panics", &["true"]).unwrap();
    expect_code(&host, &output, 1);
    expect_words(
        &host,
        &output.stderr,
        &["the guest kernel panicked", "last lines of the guest's console", "Unable to mount root fs"],
    );
    expect_nothing_left(&host, &before);
}

#[test]
fn a_guest_that_panics_while_it_works_ends_its_container() {
    let host = host();
    let before = host.leftovers();
    // A privileged container may tell its guest's kernel to panic when a container's memory runs out, and then use its own up. (A guest
    // without a limit may search for pages to reclaim for minutes before it gives up.)
    let script = "echo 2 > /proc/sys/vm/panic_on_oom && echo running && tail /dev/zero";
    let options = ["--privileged", "--memory-limit", "67108864"];
    let output = host.run_with(&options, &image("busybox"), "crashes", &["sh", "-c", script]).unwrap();
    expect_code(&host, &output, 137);
    expect_words(&host, &output.stdout, &["running"]);
    expect_words(&host, &output.stderr, &["panic"]);
    expect_nothing_left(&host, &before);
}

#[test]
fn a_machine_that_is_killed_ends_its_container_with_137() {
    let host = host();
    let before = host.leftovers();
    let output = thread::scope(|scope| {
        let run = scope.spawn(|| host.run("victim", &["sh", "-c", "echo running; sleep 1000"]));
        host.wait_for_log(&["container started id=victim"]).unwrap();
        let machine = host.wait_for_machine("victim").unwrap();
        kill(Pid::from_raw(machine), Signal::SIGKILL).unwrap();
        run.join().unwrap().unwrap()
    });
    expect_code(&host, &output, 137);
    expect_words(&host, &output.stderr, &["killed by signal 9"]);
    expect_nothing_left(&host, &before);
}

#[test]
fn a_machine_that_is_killed_while_it_boots_is_an_error() {
    let host = host();
    let before = host.leftovers();
    let output = thread::scope(|scope| {
        let run = scope.spawn(|| host.run("young", &["true"]));
        let machine = host.wait_for_machine("young").unwrap();
        kill(Pid::from_raw(machine), Signal::SIGKILL).unwrap();
        run.join().unwrap().unwrap()
    });
    expect_code(&host, &output, 1);
    expect_words(&host, &output.stderr, &["killed by signal 9"]);
    expect_nothing_left(&host, &before);
}

#[test]
fn a_shim_that_is_killed_leaves_nothing_behind() {
    let host = host();
    let before = host.leftovers();
    let output = thread::scope(|scope| {
        let run = scope.spawn(|| host.run("orphan", &["sh", "-c", "echo running; sleep 1000"]));
        host.wait_for_log(&["container started id=orphan"]).unwrap();
        for pid in leaks::processes_of(host.directory(), host.containerd_pid()) {
            let program = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
            if program.file_name() == Path::new("containerd-shim-paperboat-v1").file_name() {
                kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
            }
        }
        run.join().unwrap().unwrap()
    });
    assert!(!output.status.success(), "{output:#?}");
    // ctr keeps its own fifos when its Delete finds no shim.
    let _ = std::fs::remove_dir_all(host.directory().join("fifo"));
    expect_nothing_left(&host, &before);
}

#[test]
fn the_operators_check_tells_good_from_bad() {
    let host = host();
    let check = |configuration: &Path| {
        let mut command = std::process::Command::new(host.products().bin.join("paperboat"));
        command.args(["check", "--config"]).arg(configuration);
        finish(command, Duration::from_secs(30)).unwrap()
    };
    let good = check(&host.directory().join("paperboat.yaml"));
    assert!(good.status.success(), "{good:#?}");
    let bad = host.directory().join("bad.yaml");
    std::fs::write(&bad, "kernel: /nonexistent/vmlinux\n").unwrap();
    let output = check(&bad);
    assert!(!output.status.success());
    expect_words(&host, &output.stdout, &["FAIL kernel", "/nonexistent/vmlinux"]);
}
