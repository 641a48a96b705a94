//! The shim's program against both its peers, without containerd and without a guest: the Task API from outside, the stand-in machine
//! (examples/stand_in_vmm.rs) inside, and an event service that may be late.
//!
//! Mounts and namespaces need root; without it these tests say so and do nothing.

#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use containerd_shim_protos::api;
use containerd_shim_protos::events::task as event;
use containerd_shim_protos::shim::events::ForwardRequest;
use containerd_shim_protos::shim_async::{Client, Events, TaskClient, create_events};
use nix::sys::stat::Mode;
use protobuf::well_known_types::any::Any;
use protobuf::{Message, MessageField};
use serde_json::json;
use ttrpc::r#async::{Server, TtrpcContext};
use ttrpc::context::{self, Context};
use ttrpc::{Code, Error};

/// No call of these tests takes long.
fn soon() -> Context {
    context::with_duration(Duration::from_secs(20))
}

macro_rules! needs_root {
    () => {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("not run: mounts and network namespaces need root");
            return;
        }
    };
}

/// A host directory with configuration, image and bundles, and one containerd namespace.
struct Stage {
    directory: tempfile::TempDir,
    events: Arc<Recorder>,
}

#[derive(Default)]
struct Recorder {
    seen: Mutex<Vec<(String, String)>>,
}

#[async_trait]
impl Events for Recorder {
    async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<api::Empty> {
        let envelope = request.envelope.unwrap_or_default();
        let event = envelope.event.unwrap_or_default();
        // The container's id is field 1 of every task event.
        let id = event::TaskOOM::parse_from_bytes(&event.value).map(|event| event.container_id).unwrap_or_default();
        self.seen.lock().unwrap().push((envelope.topic, id));
        Ok(api::Empty::new())
    }
}

impl Stage {
    fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("pbs-").tempdir().unwrap();
        let root = directory.path();
        let stand_in = Path::new(env!("CARGO_BIN_EXE_paperboat")).with_file_name("examples").join("stand_in_vmm");
        assert!(stand_in.exists(), "{} is built by cargo test", stand_in.display());
        fs::write(root.join("kernel"), "").unwrap();
        fs::create_dir_all(root.join("image/bin")).unwrap();
        let config = format!(
            "vmm: {stand_in:?}\nkernel: {k:?}\ninitramfs: {k:?}\nstate_dir: {s:?}\n",
            k = root.join("kernel"),
            s = root.join("p")
        );
        fs::write(root.join("config.yaml"), config).unwrap();
        Self { directory, events: Arc::default() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Serves events from now on.
    async fn serve_events(&self) -> Server {
        let address = format!("unix://{}", self.path("events").display());
        let mut server = Server::new().bind(&address).unwrap().register_service(create_events(self.events.clone()));
        server.start().await.unwrap();
        server
    }

    /// Makes a bundle and runs the shim's `start` in it; returns the address it prints.
    fn start(&self, id: &str, command: &[&str], annotations: serde_json::Value) -> String {
        let bundle = self.path(id);
        fs::create_dir(&bundle).unwrap();
        let spec = json!({
            "ociVersion": "1.0.2",
            "process": {"args": command, "cwd": "/", "env": []},
            "root": {"path": self.path("image")},
            "annotations": annotations,
            "linux": {"namespaces": [{"type": "network"}, {"type": "pid"}, {"type": "ipc"}]},
        });
        fs::write(bundle.join("config.json"), spec.to_string()).unwrap();
        nix::unistd::mkfifo(&bundle.join("log"), Mode::from_bits_truncate(0o600)).unwrap();
        let output = self.command(id, &["start"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let address = String::from_utf8(output.stdout).unwrap();
        assert_eq!(fs::read_to_string(bundle.join("address")).unwrap(), address, "containerd 1.6 finds the shim by this file");
        address
    }

    fn command(&self, id: &str, action: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_containerd-shim-paperboat-v1"));
        command
            .args(["-namespace", "ns", "-address", "/run/c.sock", "-publish-binary", "/bin/c", "-id", id])
            .args(action)
            .current_dir(self.path(id))
            .env("PAPERBOAT_CONFIG", self.path("config.yaml"))
            .env("TTRPC_ADDRESS", self.path("events"))
            .stdin(std::process::Stdio::null());
        command
    }

    fn fifo(&self, name: &str) -> String {
        let path = self.path(name);
        nix::unistd::mkfifo(&path, Mode::from_bits_truncate(0o600)).unwrap();
        path.display().to_string()
    }

    fn create_request(&self, id: &str) -> api::CreateTaskRequest {
        api::CreateTaskRequest { id: id.into(), bundle: self.path(id).display().to_string(), ..Default::default() }
    }

    /// Topics of one container's events in the order in which they came.
    fn topics(&self, id: &str) -> Vec<String> {
        let seen = self.events.seen.lock().unwrap();
        seen.iter()
            .filter(|(_, container)| container == id)
            .map(|(topic, _)| topic.trim_start_matches("/tasks/").to_owned())
            .collect()
    }

    async fn expect_topics(&self, id: &str, expected: &[&str]) {
        for _ in 0..500 {
            if self.topics(id).len() >= expected.len() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(self.topics(id), expected);
    }

    /// Waits for the end of the shim, then fails if it left anything.
    async fn expect_nothing_left(&self) {
        for _ in 0..1000 {
            if !self.path("p").exists() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(!self.path("p").exists(), "state stays behind");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&*self.directory.path().to_string_lossy()), "{mounts}");
    }
}

async fn connect(address: &str) -> TaskClient {
    TaskClient::new(Client::connect(address).await.unwrap())
}

fn task(id: &str, exec_id: &str) -> (api::StartRequest, api::WaitRequest, api::DeleteRequest) {
    let (id, exec_id) = (id.to_owned(), exec_id.to_owned());
    (
        api::StartRequest { id: id.clone(), exec_id: exec_id.clone(), ..Default::default() },
        api::WaitRequest { id: id.clone(), exec_id: exec_id.clone(), ..Default::default() },
        api::DeleteRequest { id, exec_id, ..Default::default() },
    )
}

fn kill(id: &str, signal: u32) -> api::KillRequest {
    api::KillRequest { id: id.into(), signal, ..Default::default() }
}

#[track_caller]
fn expect_refusal<T: std::fmt::Debug>(answer: ttrpc::Result<T>, code: Code) {
    match answer {
        Err(Error::RpcStatus(status)) => assert_eq!(status.code(), code, "{status:?}"),
        other => panic!("expected {code:?}, got {other:?}"),
    }
}

async fn read_all(path: String) -> String {
    tokio::task::spawn_blocking(move || fs::read_to_string(path).unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_lives_and_its_events_come_in_order_though_containerd_was_away() {
    needs_root!();
    let stage = Stage::new();
    let address = stage.start("one", &["sh", "-c", "cat; echo more >&2; exit 7"], json!({}));
    let client = connect(&address).await;
    let (start, wait, delete) = task("one", "");
    let (stdin, stdout, stderr) = (stage.fifo("in"), stage.fifo("out"), stage.fifo("err"));
    let request = api::CreateTaskRequest {
        stdin: stdin.clone(),
        stdout: stdout.clone(),
        stderr: stderr.clone(),
        ..stage.create_request("one")
    };
    let pid = client.create(soon(), &request).await.unwrap().pid;
    assert!(Path::new(&format!("/proc/{pid}")).exists(), "the task's pid is a process of the host");
    let (stdout, stderr) = (tokio::spawn(read_all(stdout)), tokio::spawn(read_all(stderr)));
    expect_refusal(client.create(soon(), &stage.create_request("one")).await, Code::ALREADY_EXISTS);
    client.start(soon(), &start).await.unwrap();
    expect_refusal(client.start(soon(), &start).await, Code::FAILED_PRECONDITION);
    expect_refusal(client.delete(soon(), &delete).await, Code::FAILED_PRECONDITION);
    tokio::task::spawn_blocking(move || fs::write(stdin, "through and through\n").unwrap()).await.unwrap();
    client.close_io(soon(), &api::CloseIORequest { id: "one".into(), stdin: true, ..Default::default() }).await.unwrap();
    assert_eq!(client.wait(soon(), &wait).await.unwrap().exit_status, 7);
    assert_eq!((stdout.await.unwrap().as_str(), stderr.await.unwrap().as_str()), ("through and through\n", "more\n"));
    expect_refusal(client.kill(soon(), &kill("one", 9)).await, Code::NOT_FOUND);
    // Only now does containerd listen: nothing was lost.
    let _events = stage.serve_events().await;
    assert_eq!(client.delete(soon(), &delete).await.unwrap().exit_status, 7);
    expect_refusal(client.wait(soon(), &wait).await, Code::NOT_FOUND);
    stage.expect_topics("one", &["create", "start", "exit", "delete"]).await;
    client.shutdown(soon(), &api::ShutdownRequest { id: "one".into(), ..Default::default() }).await.unwrap();
    stage.expect_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_of_a_pod_share_one_shim_that_stays_until_the_last() {
    needs_root!();
    let stage = Stage::new();
    let _events = stage.serve_events().await;
    let annotations = |kind| json!({"io.kubernetes.cri.sandbox-id": "pod", "io.kubernetes.cri.container-type": kind});
    let address = stage.start("pod", &["/pause"], annotations("sandbox"));
    let client = connect(&address).await;
    client.create(soon(), &stage.create_request("pod")).await.unwrap();
    client.start(soon(), &task("pod", "").0).await.unwrap();
    assert_eq!(stage.start("member", &["cat"], annotations("container")), address);
    client.create(soon(), &stage.create_request("member")).await.unwrap();
    let (start, wait, delete) = task("member", "");
    client.start(soon(), &start).await.unwrap();
    // A process added to it.
    let process = Any { value: br#"{"args": ["sh", "-c", "exit 3"], "cwd": "/"}"#.to_vec(), ..Default::default() };
    let exec = api::ExecProcessRequest {
        id: "member".into(),
        exec_id: "x".into(),
        spec: MessageField::some(process),
        ..Default::default()
    };
    client.exec(soon(), &exec).await.unwrap();
    expect_refusal(client.exec(soon(), &exec).await, Code::ALREADY_EXISTS);
    let (exec_start, exec_wait, exec_delete) = task("member", "x");
    client.start(soon(), &exec_start).await.unwrap();
    assert_eq!(client.wait(soon(), &exec_wait).await.unwrap().exit_status, 3);
    client.delete(soon(), &exec_delete).await.unwrap();
    // One container goes, the shim stays for the other.
    client.kill(soon(), &kill("member", 15)).await.unwrap();
    assert_eq!(client.wait(soon(), &wait).await.unwrap().exit_status, 128 + 15);
    client.delete(soon(), &delete).await.unwrap();
    stage.expect_topics("member", &["create", "start", "exec-added", "exec-started", "exit", "exit", "delete"]).await;
    client.shutdown(soon(), &api::ShutdownRequest { id: "member".into(), ..Default::default() }).await.unwrap();
    let state = client.state(soon(), &api::StateRequest { id: "pod".into(), ..Default::default() }).await.unwrap();
    assert_eq!(state.status.enum_value(), Ok(api::Status::RUNNING));
    client.kill(soon(), &kill("pod", 9)).await.unwrap();
    assert_eq!(client.wait(soon(), &task("pod", "").1).await.unwrap().exit_status, 137);
    client.delete(soon(), &task("pod", "").2).await.unwrap();
    client.shutdown(soon(), &api::ShutdownRequest { id: "pod".into(), ..Default::default() }).await.unwrap();
    stage.expect_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_versions_of_the_task_api_are_served() {
    needs_root!();
    let stage = Stage::new();
    let address = stage.start("v", &["true"], json!({}));
    let client = Client::connect(&address).await.unwrap();
    for service in ["containerd.task.v2.Task", "containerd.task.v3.Task"] {
        let request = ttrpc::Request { service: service.into(), method: "State".into(), ..Default::default() };
        // The service is known, the task is not.
        expect_refusal(client.request(request).await, Code::NOT_FOUND);
    }
    connect(&address).await.shutdown(soon(), &api::ShutdownRequest::new()).await.unwrap();
    stage.expect_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_machine_ends_its_tasks_and_says_why() {
    needs_root!();
    let stage = Stage::new();
    let _events = stage.serve_events().await;
    let client = connect(&stage.start("doomed", &["cat"], json!({}))).await;
    let stderr = stage.fifo("err");
    let request = api::CreateTaskRequest { stderr: stderr.clone(), ..stage.create_request("doomed") };
    let pid = client.create(soon(), &request).await.unwrap().pid;
    let words = tokio::spawn(read_all(stderr));
    let (start, wait, delete) = task("doomed", "");
    client.start(soon(), &start).await.unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::Signal::SIGKILL).unwrap();
    // Clients kill before they delete: whoever asks first hears that there is nothing left to kill, and can delete.
    expect_refusal(client.kill(soon(), &kill("doomed", 9)).await, Code::NOT_FOUND);
    assert_eq!(client.wait(soon(), &wait).await.unwrap().exit_status, 137);
    let words = words.await.unwrap();
    assert!(words.contains("killed by signal 9"), "{words}");
    client.delete(soon(), &delete).await.unwrap();
    stage.expect_topics("doomed", &["create", "start", "exit", "delete"]).await;
    client.shutdown(soon(), &api::ShutdownRequest::new()).await.unwrap();
    stage.expect_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_cleans_after_a_shim_that_was_killed() {
    needs_root!();
    let stage = Stage::new();
    let client = connect(&stage.start("orphan", &["cat"], json!({}))).await;
    client.create(soon(), &stage.create_request("orphan")).await.unwrap();
    let connected = client.connect(soon(), &api::ConnectRequest { id: "orphan".into(), ..Default::default() }).await.unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(connected.shim_pid as i32), nix::sys::signal::Signal::SIGKILL).unwrap();
    for _ in 0..2 {
        let output = stage.command("orphan", &["delete"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(api::DeleteResponse::parse_from_bytes(&output.stdout).unwrap().exit_status, 137);
    }
    stage.expect_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_reboot_delete_removes_the_state_and_touches_no_process() {
    needs_root!();
    let stage = Stage::new();
    let client = connect(&stage.start("old", &["cat"], json!({}))).await;
    client.create(soon(), &stage.create_request("old")).await.unwrap();
    let connected = client.connect(soon(), &api::ConnectRequest { id: "old".into(), ..Default::default() }).await.unwrap();
    // A reboot ends the processes and the mounts; files on a disk stay, with numbers that mean other processes by now.
    for pid in [connected.shim_pid, connected.task_pid] {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::Signal::SIGKILL);
    }
    let pod = stage.path("p/ns/old");
    paperboat_shim::cleanup::unmount_below(&pod).unwrap();
    let mut other = Command::new("sleep").arg("1000").spawn().unwrap();
    fs::write(pod.join("machine.pid"), format!("{} 1\n", other.id())).unwrap();
    fs::write(pod.join("cgroups"), "/sys/fs/cgroup/nothing/of/this/boot\n").unwrap();
    for _ in 0..2 {
        let output = stage.command("old", &["delete"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(other.try_wait().unwrap().is_none(), "another process was ended");
    other.kill().unwrap();
    other.wait().unwrap();
    stage.expect_nothing_left().await;
    // A pod of that name can be made at once, also where nobody deleted the old one.
    fs::create_dir_all(stage.path("p/ns/old/share")).unwrap();
    fs::write(pod.join("owner"), stage.path("p/s/long-gone").display().to_string()).unwrap();
    fs::remove_dir_all(stage.path("old")).unwrap();
    let client = connect(&stage.start("old", &["cat"], json!({}))).await;
    client.create(soon(), &stage.create_request("old")).await.unwrap();
    client.delete(soon(), &task("old", "").2).await.unwrap();
    client.shutdown(soon(), &api::ShutdownRequest::new()).await.unwrap();
    stage.expect_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn delete_ends_what_a_living_shim_still_has() {
    needs_root!();
    let stage = Stage::new();
    let delete = |id: &str| {
        let output = stage.command(id, &["delete"]).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        api::DeleteResponse::parse_from_bytes(&output.stdout).unwrap().exit_status
    };
    // Its task was never made: there is nothing but the shim.
    stage.start("never", &["cat"], json!({}));
    assert_eq!(delete("never"), 137);
    stage.expect_nothing_left().await;

    // It runs; one container of a pod takes nothing from the others.
    let member = |kind: &str| json!({"io.kubernetes.cri.sandbox-id": "pod", "io.kubernetes.cri.container-type": kind});
    let client = connect(&stage.start("pod", &["/pause"], member("sandbox"))).await;
    stage.start("one", &["cat"], member("container"));
    for id in ["pod", "one"] {
        client.create(soon(), &stage.create_request(id)).await.unwrap();
        client.start(soon(), &task(id, "").0).await.unwrap();
    }
    assert_eq!(delete("one"), 137);
    expect_refusal(client.wait(soon(), &task("one", "").1).await, Code::NOT_FOUND);
    client.connect(soon(), &api::ConnectRequest { id: "pod".into(), ..Default::default() }).await.expect("the pod lives");
    assert_eq!(delete("pod"), 137);
    stage.expect_nothing_left().await;
    assert_eq!(delete("pod"), 137, "and again");
}
