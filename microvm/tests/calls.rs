//! Every call of the control API in every state of the machine: what is answered, and that wrong or repeated calls change nothing.

mod common;

use std::time::Duration;

use common::Program;
use common::served::{Served, TRIES, call, empty, starting};
use paperboat_protocol::machine as api;
use paperboat_protocol::machine::state_response::Status;

/// A call that is made at a time when it may be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Start,
    State,
    Wait,
    Pause,
    Resume,
    Stats,
    BindNic,
    BindNicOddAddress,
    UnbindNic,
    WaitForget,
    Console,
    ReadConsole,
    TypeConsole,
}

/// What comes back.
enum Answer {
    Good,
    /// An error with this text in it.
    Error(&'static str),
    /// Nothing for as long as the machine lives.
    Nothing,
}

use Answer::{Error, Good, Nothing};
use Asked::*;

const NO_MACHINE: Answer = Error("no machine was started");
const OVER: Answer = Error("the machine is Ended");
const NO_SLOT: Answer = Error("network slot 9: the machine has 1");
const AGAIN: Answer = Error("a machine was started already");

/// Long enough for any answer that comes at all.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// Long enough to see that none comes.
const SILENCE: Duration = Duration::from_millis(30);

async fn ask(served: &Served, asked: Asked) -> Result<(), String> {
    let client = &served.client;
    let none = |_| ();
    match asked {
        Start => client.start(call(), &request(served)).await.map(|_| ()),
        State => client.state(call(), &empty()).await.map(|_| ()),
        Wait => client.wait(call(), &empty()).await.map(|_| ()),
        Pause => client.pause(call(), &empty()).await.map(none),
        Resume => client.resume(call(), &empty()).await.map(none),
        Stats => client.stats(call(), &empty()).await.map(|_| ()),
        BindNic => {
            let request = api::BindNicRequest { slot: 9, tap_name: "tap0".into(), ..Default::default() };
            client.bind_nic(call(), &request).await.map(none)
        }
        BindNicOddAddress => {
            let request = api::BindNicRequest { tap_name: "tap0".into(), mac: vec![2; 5], ..Default::default() };
            client.bind_nic(call(), &request).await.map(none)
        }
        UnbindNic => client.unbind_nic(call(), &api::UnbindNicRequest { slot: 9, ..Default::default() }).await.map(none),
        WaitForget => client.wait_forget(call(), &api::WaitForgetRequest::default()).await.map(|_| ()),
        Console => client.console(call(), &api::ConsoleRequest::default()).await.map(|_| ()),
        ReadConsole => client.read_console(call(), &api::ReadConsoleRequest::default()).await.map(|_| ()),
        TypeConsole => {
            let typed = api::TypeConsoleRequest { text: b"x".to_vec(), ..Default::default() };
            client.type_console(call(), &typed).await.map(|_| ())
        }
    }
    .map_err(|error| error.to_string())
}

fn request(served: &Served) -> api::StartRequest {
    api::StartRequest { nic_slots: 1, ..served.request(&Program::new().print("up\n").spin()) }
}

/// Makes every call of the table twice, in order; the state stays what it is.
async fn hold(served: &Served, state: Status, table: &[(Asked, Answer)]) {
    for round in ["once", "again"] {
        for (asked, expected) in table {
            let patience = if matches!(expected, Nothing) { SILENCE } else { ANSWER_LIMIT };
            let answer = tokio::time::timeout(patience, ask(served, *asked)).await;
            let fits = match (expected, &answer) {
                (Good, Ok(Ok(()))) | (Nothing, Err(_)) => true,
                (Error(text), Ok(Err(error))) => error.contains(text),
                _ => false,
            };
            assert!(fits, "{asked:?} {round} in {state:?}: {answer:?}");
            assert_eq!(served.status().await, state, "after {asked:?}");
        }
    }
}

/// The table of a machine that lives.
fn living() -> Vec<(Asked, Answer)> {
    vec![
        (Start, AGAIN),
        (State, Good),
        (Wait, Nothing),
        (Stats, Good),
        (BindNic, NO_SLOT),
        (BindNicOddAddress, Error("MAC address of 5 bytes")),
        (UnbindNic, NO_SLOT),
        (WaitForget, Nothing),
        (Console, Good),
        (ReadConsole, Good),
        (TypeConsole, Good),
    ]
}

/// The table where there is no machine.
fn without_machine(start: Option<Answer>) -> Vec<(Asked, Answer)> {
    let mut table = vec![(State, Good)];
    let others =
        [Wait, Pause, Resume, Stats, BindNic, BindNicOddAddress, UnbindNic, WaitForget, Console, ReadConsole, TypeConsole];
    table.extend(others.map(|asked| (asked, NO_MACHINE)));
    table.extend(start.map(|answer| (Start, answer)));
    table
}

#[tokio::test(flavor = "current_thread")]
async fn every_call_in_every_state() {
    let mut served = Served::new("calls").await;
    hold(&served, Status::NEW, &without_machine(None)).await;

    served.client.start(call(), &request(&served)).await.unwrap();
    let table = living().into_iter().chain([(Resume, Error("the machine is Running"))]);
    hold(&served, Status::RUNNING, &table.collect::<Vec<_>>()).await;

    served.client.pause(call(), &empty()).await.unwrap();
    let table = living().into_iter().chain([(Pause, Good)]);
    hold(&served, Status::PAUSED, &table.collect::<Vec<_>>()).await;

    served.client.resume(call(), &empty()).await.unwrap();
    assert_eq!(served.status().await, Status::RUNNING);
    served.client.stop(call(), &empty()).await.unwrap();
    served.ends();
}

#[tokio::test(flavor = "current_thread")]
async fn every_call_while_the_machine_is_made() {
    for _ in 0..TRIES {
        let (mut served, starting) = starting().await;
        let mut wrong = Vec::new();
        for (asked, expected) in without_machine(Some(AGAIN)) {
            let answer = ask(&served, asked).await;
            let fits = match expected {
                Good => answer.is_ok(),
                Error(text) => answer.as_ref().is_err_and(|error| error.contains(text)),
                Nothing => false,
            };
            if !fits {
                wrong.push(format!("{asked:?}: {answer:?}"));
            }
        }
        // On a busy host the machine may be made before everything was asked.
        let still = served.status().await == Status::NEW;
        served.client.stop(call(), &empty()).await.unwrap();
        let started = starting.await.unwrap();
        served.ends();
        if still {
            assert!(started.unwrap_err().to_string().contains("stopped"));
            assert!(wrong.is_empty(), "{wrong:?}");
            return;
        }
    }
    panic!("it was made faster than asked, {TRIES} times");
}

#[tokio::test(flavor = "current_thread")]
async fn every_call_when_the_machine_is_over() {
    let mut served = Served::new("over").await;
    let program = Program::new().print("up\n").rtas("power-off", &[0, 0]).spin();
    let request = api::StartRequest { nic_slots: 1, ..served.request(&program) };
    served.client.start(call(), &request).await.unwrap();
    served.client.wait(call(), &empty()).await.unwrap();
    let table = [
        (Start, AGAIN),
        (State, Good),
        (Wait, Good),
        (Pause, OVER),
        (Resume, OVER),
        (Stats, Good),
        (BindNic, OVER),
        (BindNicOddAddress, OVER),
        (UnbindNic, NO_SLOT),
        (WaitForget, OVER),
        (Console, Good),
        (ReadConsole, Good),
        (TypeConsole, OVER),
    ];
    hold(&served, Status::ENDED, &table).await;
    // Twice at once: both are answered.
    let stop = async || served.client.stop(call(), &empty()).await;
    let (one, two) = tokio::join!(stop(), stop());
    assert!(one.is_ok() && two.is_ok(), "{one:?} {two:?}");
    served.ends();
}
