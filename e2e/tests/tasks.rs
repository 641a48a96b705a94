//! The life of a task: what each call of the Task API answers at each moment, and what containerd hears of it.

#![forbid(unsafe_code)]

use std::thread;
use std::time::{Duration, Instant};

use containerd_shim_protos::ttrpc::Code;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use paperboat_e2e::events::Events;
use paperboat_e2e::guest::{PROOF_SCRIPT, Proof, ThisHost};
use paperboat_e2e::task_api::{Fifos, Refusal};
use paperboat_e2e::{Host, Running, leaks};

/// Runs until it is told to end, and then takes its time to say so.
const SERVICE: &str = "trap 'exit 9' TERM; touch /ready; while true; do echo tick >> /ticks; sleep 0.2; done";

fn host() -> Host {
    Host::start().unwrap_or_else(|error| panic!("{error}"))
}

#[track_caller]
fn expect_refusal<T: std::fmt::Debug>(answer: Result<T, Refusal>, code: Code) {
    match answer {
        Err((refused, _)) if refused == code => {}
        other => panic!("expected {code:?}, got {other:?}"),
    }
}

#[track_caller]
fn expect_nothing_left(host: &Host, before: &leaks::Leftovers) {
    let left = leaks::settle(host, before);
    assert!(left.is_empty(), "left behind: {left:#?}\n{}", host.log());
}

fn until(host: &Host, what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}\n{}", host.log());
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_task_lives_and_everybody_hears_of_it_once_and_in_order() {
    let host = host();
    let events = Events::listen(&host).unwrap();
    let before = host.leftovers();
    let box_ = Running::start(&host, "box", &[], &["sh", "-c", SERVICE]).unwrap();
    let api = box_.api().unwrap();
    assert!(api.serves("containerd.task.v2.Task") && api.serves("containerd.task.v3.Task"));
    assert!(!api.serves("containerd.task.v9.Task"));

    // Running: it cannot be started again or deleted, and nobody can freeze it to disk.
    expect_refusal(api.start(""), Code::FAILED_PRECONDITION);
    expect_refusal(api.delete(""), Code::FAILED_PRECONDITION);
    expect_refusal(api.checkpoint(), Code::UNIMPLEMENTED);
    expect_refusal(api.state("nobody"), Code::NOT_FOUND);
    let (shim, task) = api.connect().unwrap();
    assert!(shim != task && api.pids().unwrap().contains(&task), "the task's pid is among its pids");
    assert_eq!(api.state("").unwrap().pid, task);

    // A program is added: where it runs, its streams, its status, its pid.
    let output = box_.exec("proof", &["sh", "-c", &format!("{PROOF_SCRIPT}; test -e /ready; echo aside >&2; exit 5")]).unwrap();
    assert_eq!((output.code(), output.stderr.as_str()), (Some(5), "aside\n"), "{output:#?}");
    let proof = Proof::parse(&output.stdout).expect("the proof is complete");
    assert_eq!(proof.doubt(&ThisHost::look().unwrap()), None);
    let missing = box_.exec("missing", &["no-such-program"]).unwrap();
    assert!(missing.code() == Some(1) && missing.stderr.contains("no-such-program"), "{missing:#?}");

    // Frozen and thawed: nothing runs in between.
    let ticks = |name: &str| box_.shell(name, "wc -l < /ticks").unwrap().trim().parse::<u32>().unwrap();
    let before_pause = ticks("ticks-1");
    assert!(box_.task(&["pause"]).unwrap().status.success());
    assert_eq!(box_.status().unwrap(), "PAUSED");
    expect_refusal(api.delete(""), Code::FAILED_PRECONDITION);
    assert!(box_.task(&["resume"]).unwrap().status.success());
    assert_eq!(box_.status().unwrap(), "RUNNING");
    let mut look = 0;
    until(&host, "the clock goes on", || {
        look += 1;
        ticks(&format!("ticks-{}", look + 1)) > before_pause
    });

    // A signal is the program's to answer. The first process of a pid namespace gets none that it has no handler for
    // (pid_namespaces(7)), so first its trap must be there.
    until(&host, "the service is ready", || {
        look += 1;
        box_.shell(&format!("look-{look}"), "ls /ready").is_ok()
    });
    let looks = events.of_task("box").iter().filter(|topic| *topic == "exec-added").count();
    assert!(box_.task(&["kill", "--signal", "TERM"]).unwrap().status.success());
    box_.wait_for_status("STOPPED").unwrap();

    // Stopped: its end is told as often as asked for, and nothing can be done with it but to delete it.
    assert_eq!((api.wait("").unwrap(), api.wait("").unwrap()), (9, 9));
    let state = api.state("").unwrap();
    assert_eq!(state.exit_status, 9);
    assert!(state.exited_at.seconds > 0);
    expect_refusal(api.kill("", 9, false), Code::NOT_FOUND);
    expect_refusal(api.kill("", 9, true), Code::NOT_FOUND);
    expect_refusal(api.exec("late", r#"{"args": ["true"], "cwd": "/"}"#, &Fifos::default()), Code::FAILED_PRECONDITION);
    expect_refusal(api.start(""), Code::FAILED_PRECONDITION);
    assert!(!api.pids().unwrap().is_empty(), "a restarted containerd must not take it for one that never was");
    assert_eq!(box_.remove_stopped().unwrap(), Some(9));
    // Deleted: the shim has gone, or has never heard of it.
    let (code, _) = api.wait("").expect_err("there is no such task");
    assert!(matches!(code, Code::NOT_FOUND | Code::UNAVAILABLE), "{code:?}");

    // Create, start, paused, resumed, exit and delete of the task; of each program that it was added, started and ended, but for the one
    // that could only be added.
    let topics = events.expect("box", 6 + 3 * looks - 2);
    let position =
        |topic: &str| topics.iter().position(|seen| seen == topic).unwrap_or_else(|| panic!("no {topic} in {topics:?}"));
    let order = ["create", "start", "exec-added", "exec-started", "paused", "resumed"].map(position);
    assert!(order.is_sorted(), "{topics:?}");
    assert_eq!(topics[topics.len() - 2..], ["exit", "delete"], "{topics:?}");
    for once in ["create", "start", "paused", "resumed", "delete"] {
        assert_eq!(topics.iter().filter(|topic| *topic == once).count(), 1, "{topics:?}");
    }
    let count = |topic: &str| topics.iter().filter(|seen| *seen == topic).count();
    assert_eq!((count("exec-started"), count("exit")), (looks - 1, looks - 1 + 1), "{topics:?}");
    drop(events);
    expect_nothing_left(&host, &before);
}

#[test]
fn containerd_is_killed_and_finds_its_pods_again() {
    let mut host = host();
    let before = host.leftovers();
    let (stays, boot_id, ends) = {
        let stays = Running::start(&host, "stays", &[], &["sleep", "1000"]).unwrap();
        let ends = Running::start(&host, "ends", &[], &["sh", "-c", "while ! test -e /go; do sleep 0.1; done; exit 5"]).unwrap();
        let boot_id = stays.shell("before", "cat /proc/sys/kernel/random/boot_id").unwrap();
        let api = ends.api().unwrap();
        kill(Pid::from_raw(host.containerd_pid().cast_signed()), Signal::SIGKILL).unwrap();
        host.wait_for_containerds_end().unwrap();
        // While nobody listens, one of them ends.
        let fifos = Fifos::default();
        api.exec("go", r#"{"args": ["touch", "/go"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}}"#, &fifos)
            .unwrap();
        api.start("go").unwrap();
        assert_eq!(api.wait("").unwrap(), 5);
        ("stays", boot_id, "ends")
    };
    host.restart_containerd().unwrap();
    let (stays, ends) = (Running::found(&host, stays), Running::found(&host, ends));
    assert_eq!((stays.status().unwrap().as_str(), ends.status().unwrap().as_str()), ("RUNNING", "STOPPED"));
    // The same machine, not another one.
    assert_eq!(stays.shell("after", "cat /proc/sys/kernel/random/boot_id").unwrap(), boot_id);
    assert_eq!(ends.remove_stopped().unwrap(), Some(5), "the status of an end that containerd did not see");
    assert_eq!(stays.remove().unwrap(), Some(137));
    expect_nothing_left(&host, &before);
}

#[test]
fn a_signal_for_all_reaches_every_process_of_the_container() {
    let host = host();
    let before = host.leftovers();
    let told = |name: &str| format!("trap 'touch /told-{name}' USR1; touch /waits-{name}; while true; do sleep 0.1; done");
    let box_ = Running::start(&host, "all", &[], &["sh", "-c", &told("first")]).unwrap();
    let api = box_.api().unwrap();
    let process = serde_json::json!({
        "args": ["sh", "-c", told("added")], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0},
    });
    api.exec("added", &process.to_string(), &Fifos::default()).unwrap();
    api.start("added").unwrap();
    let mut look = 0;
    let mut there = |files: &str| {
        look += 1;
        box_.exec(&format!("look-{look}"), &["sh", "-c", &format!("ls {files}")]).unwrap().status.success()
    };
    until(&host, "both wait", || there("/waits-first /waits-added"));
    // 10 is SIGUSR1. One process, and no other.
    api.kill("added", 10, false).unwrap();
    until(&host, "the added one is told", || there("/told-added"));
    assert!(!there("/told-first"), "only the added one is told");
    box_.shell("forget", "rm /told-added").unwrap();
    api.kill("", 10, true).unwrap();
    until(&host, "both are told", || there("/told-first /told-added"));
    // And the end of all of them.
    api.kill("", 9, true).unwrap();
    assert_eq!((api.wait("").unwrap(), api.wait("added").unwrap()), (137, 137));
    expect_refusal(api.kill("", 9, false), Code::NOT_FOUND);
    box_.wait_for_status("STOPPED").unwrap();
    assert_eq!(box_.remove_stopped().unwrap(), Some(137));
    expect_nothing_left(&host, &before);
}
