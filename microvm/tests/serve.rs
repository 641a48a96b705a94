//! `paperboat-vmm serve` as the shim uses it.

mod common;

use std::time::{Duration, Instant};

use common::Program;
use common::served::{Served, call, empty};
use paperboat_protocol::machine as api;

#[tokio::test(flavor = "current_thread")]
async fn a_machine_lives_and_tells_its_end() {
    let mut served = Served::new("life").await;
    assert_eq!(served.status().await, api::state_response::Status::NEW);
    let request = served.request(&Program::new().print("one line\n").rtas("power-off", &[0, 0]).spin());
    let started = served.client.start(call(), &request).await.unwrap();
    assert_eq!(started.backend, "soft");
    let ended = served.client.wait(call(), &empty()).await.unwrap();
    assert_eq!(ended.reason.unwrap(), api::ended_response::Reason::POWER_OFF);
    assert_eq!(ended.console_tail, ["one line"]);
    assert!(ended.stats.vcpus[0].instructions > 10);
    assert_eq!(ended.stats.vcpus[0].hypercalls["power-off"], 1);
    assert_eq!(served.status().await, api::state_response::Status::ENDED);
    assert_eq!(std::fs::read(served.scratch.path("console")).unwrap(), b"one line\n");
    let again = served.client.start(call(), &request).await.unwrap_err().to_string();
    assert!(again.contains("already"), "{again}");
    served.client.stop(call(), &empty()).await.unwrap();
    served.ends();
}

#[tokio::test(flavor = "current_thread")]
async fn wrong_calls_are_errors_and_change_nothing() {
    let mut served = Served::new("wrong").await;
    for outcome in [
        served.client.pause(call(), &empty()).await.err(),
        served.client.resume(call(), &empty()).await.err(),
        served.client.wait(call(), &empty()).await.err(),
        served.client.stats(call(), &empty()).await.err(),
    ] {
        assert!(outcome.unwrap().to_string().contains("no machine"));
    }
    let good = served.request(&Program::new().spin());
    let bad = [
        (api::StartRequest { kernel_path: "/nonexistent/vmlinux".into(), ..good.clone() }, "/nonexistent/vmlinux"),
        (api::StartRequest { backend: "magic".into(), ..good.clone() }, "magic"),
        (api::StartRequest { vcpus: 0, ..good.clone() }, "1 to 64"),
        (api::StartRequest { memory_bytes: 5 << 20, ..good.clone() }, "16 MiB"),
        (api::StartRequest { share_path: "/nonexistent/share".into(), ..good.clone() }, "/nonexistent/share"),
        (api::StartRequest { guest_cid: 2, ..good.clone() }, "context id 2"),
    ];
    for (request, needle) in bad {
        let text = served.client.start(call(), &request).await.unwrap_err().to_string();
        assert!(text.contains(needle), "{text}");
    }
    assert_eq!(served.status().await, api::state_response::Status::NEW);
    served.client.start(call(), &good).await.expect("a good description after bad ones");
    assert!(served.client.start(call(), &good).await.is_err());
    assert!(served.client.resume(call(), &empty()).await.is_err());
    assert_eq!(served.status().await, api::state_response::Status::RUNNING);
    served.client.stop(call(), &empty()).await.unwrap();
    served.ends();
}

#[tokio::test(flavor = "current_thread")]
async fn pause_stops_the_instructions_and_resume_lets_them_go_on() {
    let mut served = Served::new("pause").await;
    served.client.start(call(), &served.request(&Program::new().spin())).await.unwrap();
    served.client.pause(call(), &empty()).await.unwrap();
    assert_eq!(served.status().await, api::state_response::Status::PAUSED);
    let instructions = async || served.client.stats(call(), &empty()).await.unwrap().vcpus[0].instructions;
    let before = instructions().await;
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert_eq!(instructions().await, before);
    served.client.resume(call(), &empty()).await.unwrap();
    let begun = Instant::now();
    while instructions().await == before {
        assert!(begun.elapsed() < Duration::from_secs(5), "nothing runs after resume");
    }
    served.client.stop(call(), &empty()).await.unwrap();
    served.ends();
}

#[tokio::test(flavor = "current_thread")]
async fn the_console_is_read_and_typed_into() {
    let mut served = Served::new("attach").await;
    let read = async |from, wait_ms| {
        let request = api::ReadConsoleRequest { from, wait_ms, ..Default::default() };
        served.client.read_console(call(), &request).await
    };
    assert!(read(0, 0).await.unwrap_err().to_string().contains("no machine"));
    // Prints, then what is typed, then ends.
    let program = Program::new().print("ready\n").echo_one_character().print("bye\n").rtas("power-off", &[0, 0]).spin();
    served.client.start(call(), &served.request(&program)).await.unwrap();
    let mut text = Vec::new();
    let mut next = 0;
    while text != b"ready\n" {
        let piece = read(next, 10_000).await.unwrap();
        assert!(!piece.ended && piece.next == next + piece.text.len() as u64);
        (next, text) = (piece.next, [text, piece.text].concat());
    }
    assert!(read(next, 1).await.unwrap().text.is_empty(), "it waits for a key");
    let typed = api::TypeConsoleRequest { text: b"k".to_vec(), ..Default::default() };
    assert_eq!(served.client.type_console(call(), &typed).await.unwrap().taken, 1);
    loop {
        let piece = read(next, 10_000).await.unwrap();
        (next, text) = (piece.next, [text, piece.text].concat());
        if piece.ended {
            break;
        }
    }
    assert_eq!(text, b"ready\nkbye\n");
    assert!(served.client.type_console(call(), &typed).await.unwrap_err().to_string().contains("Ended"));
    served.client.stop(call(), &empty()).await.unwrap();
    served.ends();
}

#[tokio::test(flavor = "current_thread")]
async fn waiting_readers_are_few_and_do_not_keep_the_machine() {
    let mut served = Served::new("readers").await;
    served.client.start(call(), &served.request(&Program::new().spin())).await.unwrap();
    let readers: Vec<_> = (0..8)
        .map(|_| {
            let client = served.client.clone();
            let request = api::ReadConsoleRequest { from: 0, wait_ms: 10_000, ..Default::default() };
            // The one below may be in the way of the last for a moment.
            tokio::spawn(async move {
                loop {
                    match client.read_console(call(), &request).await {
                        Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                        read => break read,
                    }
                }
            })
        })
        .collect();
    let one_more = api::ReadConsoleRequest { from: 0, wait_ms: 0, ..Default::default() };
    let begun = Instant::now();
    while served.client.read_console(call(), &one_more).await.is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(5), "a ninth reader waits");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    served.client.stop(call(), &empty()).await.unwrap();
    for reader in readers {
        assert!(
            tokio::time::timeout(Duration::from_secs(10), reader)
                .await
                .expect("a reader is told of the end")
                .unwrap()
                .unwrap()
                .ended
        );
    }
    served.ends();
}

#[tokio::test(flavor = "current_thread")]
async fn the_machine_ends_with_its_lifeline() {
    let mut served = Served::new("lifeline").await;
    let request = served.request(&Program::new().print("up\n").spin());
    served.client.start(call(), &request).await.unwrap();
    drop(served.lifeline.take());
    served.ends();
}

#[tokio::test(flavor = "current_thread")]
async fn a_waiter_learns_of_a_stop_and_of_a_panic() {
    let mut served = Served::new("stop").await;
    served.client.start(call(), &served.request(&Program::new().spin())).await.unwrap();
    let waiter = served.client.clone();
    let waiting = tokio::spawn(async move { waiter.wait(call(), &empty()).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    served.client.stop(call(), &empty()).await.unwrap();
    let ended = waiting.await.unwrap().expect("the answer comes before the connection closes");
    assert_eq!(ended.reason.unwrap(), api::ended_response::Reason::STOPPED);
    served.ends();

    let served = Served::new("panic").await;
    let (program, text) = Program::new().text("OS panic: no init");
    let request = served.request(&program.rtas("ibm,os-term", &[text]).spin());
    served.client.start(call(), &request).await.unwrap();
    let ended = served.client.wait(call(), &empty()).await.unwrap();
    assert_eq!((ended.reason.unwrap(), ended.message.as_str()), (api::ended_response::Reason::PANIC, "OS panic: no init"));
}

#[tokio::test(flavor = "current_thread")]
async fn descriptors_beyond_the_two_are_closed() {
    let served = Served::new("inherited").await;
    // An answer says that start-up is over.
    assert_eq!(served.status().await, api::state_response::Status::NEW);
    let targets = || {
        let listing = std::fs::read_dir(format!("/proc/{}/fd", served.child.id())).unwrap();
        listing.map(|entry| std::fs::read_link(entry.unwrap().path()).unwrap()).collect::<Vec<_>>()
    };
    assert!(targets().iter().all(|target| target != &served.stray), "{:?}", targets());
}
