//! A guest whose agent is hostile, at the other end of the shim's connection: whatever it says, or does not say, becomes an error soon, in
//! words that fit a log.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::time::Duration;

use paperboat_protocol::PROTOCOL_VERSION;
use paperboat_protocol::agent::HelloResponse;
use paperboat_shim::agent::{Agent, AgentError};
use protobuf::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use ttrpc::{Code, Response, get_status};

/// What the shim gives each call here.
const PATIENCE: Duration = Duration::from_millis(300);

/// Nothing in here may take as long.
const LIMIT: Duration = Duration::from_secs(20);

/// ttrpc's frame header (containerd/ttrpc, PROTOCOL.md): length, stream, type, flags.
const HEADER_BYTES: usize = 10;
const RESPONSE: u8 = 2;
const DATA: u8 = 3;

/// Longest text of a guest in an error, with what the shim says around it.
const LONGEST_TEXT: usize = 2200;

/// What a hostile agent says to the first request, whose stream is given.
type Answer = Box<dyn Fn(u32) -> Vec<u8> + Send>;

fn frame(stream: u32, kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend(stream.to_be_bytes());
    bytes.extend([kind, 0]);
    bytes.extend(payload);
    bytes
}

fn envelope(stream: u32, payload: Vec<u8>) -> Vec<u8> {
    let response = Response { status: Some(get_status(Code::OK, "")).into(), payload, ..Default::default() };
    frame(stream, RESPONSE, &response.write_to_bytes().unwrap())
}

fn hello(change: impl FnOnce(&mut HelloResponse)) -> Vec<u8> {
    let mut answer = HelloResponse { protocol_version: PROTOCOL_VERSION, ..Default::default() };
    change(&mut answer);
    answer.write_to_bytes().unwrap()
}

/// Reads a request; its stream.
async fn request(stream: &mut UnixStream) -> Option<u32> {
    let mut header = [0; HEADER_BYTES];
    stream.read_exact(&mut header).await.ok()?;
    let word = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap());
    let mut payload = vec![0; word(0) as usize];
    stream.read_exact(&mut payload).await.ok()?;
    Some(word(4))
}

/// Connects to an agent that answers its first requests as given, the last for ever; then `then` is done with the connection.
async fn meet<T>(answers: Vec<Answer>, then: impl AsyncFnOnce(Result<Agent, AgentError>) -> T) -> T {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("vsock");
    let listener = UnixListener::bind(&path).unwrap();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut line = [0; 13];
        stream.read_exact(&mut line).await.unwrap();
        stream.write_all(b"OK 1\n").await.unwrap();
        let mut number = 0;
        while let Some(id) = request(&mut stream).await {
            let answer = &answers[number.min(answers.len() - 1)];
            // The shim may have had enough.
            if stream.write_all(&answer(id)).await.is_err() {
                return;
            }
            number += 1;
        }
    });
    let work = async { then(Agent::connect_with(&path, "host", &HashMap::new(), PATIENCE).await).await };
    let done = tokio::time::timeout(LIMIT, work).await.expect("the shim waits for ever");
    server.abort();
    done
}

/// What the shim makes of one hostile answer to its hello.
async fn told(answer: impl Fn(u32) -> Vec<u8> + Send + 'static) -> Result<Agent, AgentError> {
    meet(vec![Box::new(answer)], async |agent| agent).await
}

#[tokio::test]
async fn nonsense_and_silence_are_errors_and_end() {
    let good = || hello(|_| {});
    let cases: Vec<(&str, Answer)> = vec![
        ("silence", Box::new(|_| Vec::new())),
        ("zeros", Box::new(|_| vec![0; 1 << 20])),
        ("ones", Box::new(|_| vec![0xff; 1 << 16])),
        ("text", Box::new(|_| b"HTTP/1.1 200 OK\r\n\r\n".repeat(100))),
        ("the head of a frame of 4 GiB", Box::new(|id| [&[0xff; 4][..], &id.to_be_bytes(), &[RESPONSE, 0]].concat())),
        ("half a frame", Box::new(move |id| envelope(id, good())[..12].to_vec())),
        ("a frame that holds no message", Box::new(|id| frame(id, RESPONSE, &[0xff; 100]))),
        ("an answer that is no message", Box::new(|id| envelope(id, vec![0xff; 100]))),
        ("an answer to another question", Box::new(move |id| envelope(id + 2, hello(|_| {})))),
        ("a question", Box::new(move |id| frame(id, 1, &hello(|_| {})))),
        ("a kind that is not there", Box::new(move |id| frame(id, 77, &hello(|_| {})))),
        ("a stream's data", Box::new(move |id| frame(id, DATA, &[0xff; 4096]).repeat(64))),
    ];
    for (what, answer) in cases {
        match told(answer).await {
            Err(AgentError::Lost { call: "hello", .. }) => {}
            Err(other) => panic!("{what}: {other:?}"),
            Ok(_) => panic!("{what} passes for an agent"),
        }
    }
}

#[tokio::test]
async fn another_version_is_named() {
    let answer = told(|id| envelope(id, hello(|answer| answer.protocol_version = 4_000_000_000))).await;
    let message = answer.err().expect("not ours").to_string();
    assert!(message.contains("4000000000") && message.contains("different releases"), "{message}");
}

#[tokio::test]
async fn texts_of_the_guest_are_made_short_and_harmless() {
    let long = "\u{1b}[2Jspoiled\r".repeat(100_000);
    let refusal = {
        let long = long.clone();
        move |id| {
            let response = Response { status: Some(get_status(Code::INTERNAL, &long)).into(), ..Default::default() };
            frame(id, RESPONSE, &response.write_to_bytes().unwrap())
        }
    };
    let message = told(refusal).await.err().expect("a refusal").to_string();
    assert!(message.len() <= LONGEST_TEXT && message.contains("spoiled") && !message.contains('\u{1b}'), "{}", message.len());
    let boastful = move |id| {
        envelope(
            id,
            hello(|answer| {
                answer.kernel_release = long.clone();
                answer.boot_id = long.clone();
            }),
        )
    };
    let agent = told(boastful).await.unwrap_or_else(|error| panic!("{error}"));
    for text in [&agent.kernel_release, &agent.boot_id] {
        assert!(text.len() <= LONGEST_TEXT && !text.contains(['\u{1b}', '\r']), "{}", text.len());
    }
}

#[tokio::test]
async fn an_agent_that_falls_silent_later_holds_no_call_up() {
    let good = Box::new(|id| envelope(id, hello(|_| {})));
    meet(vec![good, Box::new(|_| Vec::new())], async |agent| {
        let agent = agent.unwrap_or_else(|error| panic!("{error}"));
        // A wait is for as long as the process runs; it is the machine's end that ends it.
        let wait = tokio::time::timeout(PATIENCE * 2, agent.wait("c", "")).await;
        assert!(wait.is_err(), "answered by nobody");
        for error in [agent.kill("c", "", 9, true).await.err(), agent.pids("c").await.err()] {
            assert!(matches!(error, Some(AgentError::Lost { .. })), "{error:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn an_agent_that_hangs_up_ends_every_call() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("vsock");
    let listener = UnixListener::bind(&path).unwrap();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_exact(&mut [0; 13]).await.unwrap();
        stream.write_all(b"OK 1\n").await.unwrap();
        let id = request(&mut stream).await.unwrap();
        stream.write_all(&envelope(id, hello(|_| {}))).await.unwrap();
        request(&mut stream).await.unwrap();
    });
    let agent = Agent::connect_with(&path, "host", &HashMap::new(), PATIENCE).await.unwrap_or_else(|error| panic!("{error}"));
    let wait = tokio::time::timeout(LIMIT, agent.wait("c", "")).await.expect("the wait ends with the connection");
    assert!(matches!(wait, Err(AgentError::Lost { call: "wait", .. })));
    server.await.unwrap();
}
