//! A shim's Task API, spoken past containerd: what `ctr` has no words for.

use std::path::Path;
use std::time::Duration;

use containerd_shim_protos::api;
use containerd_shim_protos::cgroups_v2::metrics::Metrics;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::sandbox_api;
use containerd_shim_protos::sandbox_sync::SandboxClient;
use containerd_shim_protos::ttrpc::{self, Code};
use containerd_shim_protos::{Client, TaskClient};

use crate::Error;

/// A hanging call becomes a failure.
const LIMIT: Duration = Duration::from_secs(120);

/// One task of a shim.
pub struct TaskApi {
    client: TaskClient,
    connection: Client,
    id: String,
}

/// The status code and text of a refusal.
pub type Refusal = (Code, String);

fn context() -> ttrpc::context::Context {
    ttrpc::context::with_duration(LIMIT)
}

fn refusal(error: ttrpc::Error) -> Refusal {
    match error {
        ttrpc::Error::RpcStatus(status) => (status.code(), status.message),
        other => (Code::UNAVAILABLE, other.to_string()),
    }
}

impl TaskApi {
    /// Connects to the shim that serves a bundle.
    pub fn of_bundle(bundle: &Path, id: &str) -> Result<Self, Error> {
        let file = bundle.join("address");
        let address = std::fs::read_to_string(&file).map_err(crate::io(file.display().to_string()))?;
        let connection = Client::connect(&address)
            .map_err(|error| Error::Command { command: format!("connect to {address}"), output: error.to_string() })?;
        Ok(Self { client: TaskClient::new(connection.clone()), connection, id: id.into() })
    }

    /// The same shim's sandbox API.
    pub fn sandbox(&self) -> SandboxApi {
        SandboxApi { client: SandboxClient::new(self.connection.clone()) }
    }

    /// State of a process.
    pub fn state(&self, exec_id: &str) -> Result<api::StateResponse, Refusal> {
        let request = api::StateRequest { id: self.id.clone(), exec_id: exec_id.into(), ..Default::default() };
        self.client.state(context(), &request).map_err(refusal)
    }

    /// Lets a process run.
    pub fn start(&self, exec_id: &str) -> Result<u32, Refusal> {
        let request = api::StartRequest { id: self.id.clone(), exec_id: exec_id.into(), ..Default::default() };
        self.client.start(context(), &request).map(|answer| answer.pid).map_err(refusal)
    }

    /// Waits for the end of a process; its exit status.
    pub fn wait(&self, exec_id: &str) -> Result<u32, Refusal> {
        let request = api::WaitRequest { id: self.id.clone(), exec_id: exec_id.into(), ..Default::default() };
        self.client.wait(context(), &request).map(|answer| answer.exit_status).map_err(refusal)
    }

    /// Sends a signal.
    pub fn kill(&self, exec_id: &str, signal: u32, all: bool) -> Result<(), Refusal> {
        let request = api::KillRequest { id: self.id.clone(), exec_id: exec_id.into(), signal, all, ..Default::default() };
        self.client.kill(context(), &request).map(drop).map_err(refusal)
    }

    /// Removes an ended process; its exit status.
    pub fn delete(&self, exec_id: &str) -> Result<u32, Refusal> {
        let request = api::DeleteRequest { id: self.id.clone(), exec_id: exec_id.into(), ..Default::default() };
        self.client.delete(context(), &request).map(|answer| answer.exit_status).map_err(refusal)
    }

    /// Adds a process, an OCI Process as JSON, with fifos for its streams.
    pub fn exec(&self, exec_id: &str, process: &str, stdio: &Fifos) -> Result<(), Refusal> {
        let request = api::ExecProcessRequest {
            id: self.id.clone(),
            exec_id: exec_id.into(),
            spec: MessageField::some(Any { value: process.as_bytes().to_vec(), ..Default::default() }),
            stdin: stdio.stdin.clone(),
            stdout: stdio.stdout.clone(),
            stderr: stdio.stderr.clone(),
            terminal: stdio.terminal,
            ..Default::default()
        };
        self.client.exec(context(), &request).map(drop).map_err(refusal)
    }

    /// Sets the size of a terminal.
    pub fn resize(&self, exec_id: &str, width: u32, height: u32) -> Result<(), Refusal> {
        let request = api::ResizePtyRequest { id: self.id.clone(), exec_id: exec_id.into(), width, height, ..Default::default() };
        self.client.resize_pty(context(), &request).map(drop).map_err(refusal)
    }

    /// Ends standard input.
    pub fn close_input(&self, exec_id: &str) -> Result<(), Refusal> {
        let request = api::CloseIORequest { id: self.id.clone(), exec_id: exec_id.into(), stdin: true, ..Default::default() };
        self.client.close_io(context(), &request).map(drop).map_err(refusal)
    }

    /// Host pids, one for each process of the guest's container.
    pub fn pids(&self) -> Result<Vec<u32>, Refusal> {
        let request = api::PidsRequest { id: self.id.clone(), ..Default::default() };
        let answer = self.client.pids(context(), &request).map_err(refusal)?;
        Ok(answer.processes.into_iter().map(|process| process.pid).collect())
    }

    /// The shim's pid and the task's.
    pub fn connect(&self) -> Result<(u32, u32), Refusal> {
        let request = api::ConnectRequest { id: self.id.clone(), ..Default::default() };
        self.client.connect(context(), &request).map(|answer| (answer.shim_pid, answer.task_pid)).map_err(refusal)
    }

    /// Applies limits, an OCI LinuxResources as JSON.
    pub fn update(&self, resources: &str) -> Result<(), Refusal> {
        let resources = Any { value: resources.as_bytes().to_vec(), ..Default::default() };
        let request =
            api::UpdateTaskRequest { id: self.id.clone(), resources: MessageField::some(resources), ..Default::default() };
        self.client.update(context(), &request).map(drop).map_err(refusal)
    }

    /// The counters of its cgroup.
    pub fn stats(&self) -> Result<Metrics, Refusal> {
        let request = api::StatsRequest { id: self.id.clone(), ..Default::default() };
        let stats = self.client.stats(context(), &request).map_err(refusal)?.stats.unwrap_or_default();
        Metrics::parse_from_bytes(&stats.value).map_err(|error| (Code::DATA_LOSS, error.to_string()))
    }

    /// Asks for a checkpoint.
    pub fn checkpoint(&self) -> Result<(), Refusal> {
        let request = api::CheckpointTaskRequest { id: self.id.clone(), ..Default::default() };
        self.client.checkpoint(context(), &request).map(drop).map_err(refusal)
    }

    /// Whether the shim serves a service of that name.
    pub fn serves(&self, service: &str) -> bool {
        let request = ttrpc::Request { service: service.into(), method: "State".into(), ..Default::default() };
        // A task without an id is not found; an unknown service is not implemented.
        matches!(self.connection.request(request), Err(ttrpc::Error::RpcStatus(status)) if status.code() == Code::NOT_FOUND)
    }
}

/// Fifos for one process's streams; an empty name where a stream is not wanted.
#[derive(Debug, Default, Clone)]
pub struct Fifos {
    /// Written by the test.
    pub stdin: String,
    /// Read by the test.
    pub stdout: String,
    /// Read by the test.
    pub stderr: String,
    /// A terminal instead of pipes.
    pub terminal: bool,
}

impl Fifos {
    /// Makes the fifos NAME-in and NAME-out in a directory.
    pub fn new(directory: &Path, name: &str, terminal: bool) -> Result<Self, Error> {
        let make = |end: &str| {
            let path = directory.join(format!("{name}-{end}"));
            let made = nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU);
            made.map_err(|errno| crate::io(path.display().to_string())(errno.into()))?;
            Ok::<_, Error>(path.display().to_string())
        };
        Ok(Self { stdin: make("in")?, stdout: make("out")?, stderr: String::new(), terminal })
    }
}

/// The sandbox API of a shim, as far as containerd's clients do not get to see it.
pub struct SandboxApi {
    client: SandboxClient,
}

impl SandboxApi {
    /// Whether the sandbox lives.
    pub fn ping(&self, id: &str) -> Result<(), Refusal> {
        let request = sandbox_api::PingRequest { sandbox_id: id.into(), ..Default::default() };
        self.client.ping_sandbox(context(), &request).map(drop).map_err(refusal)
    }

    /// Its state with all details.
    pub fn status(&self, id: &str) -> Result<sandbox_api::SandboxStatusResponse, Refusal> {
        let request = sandbox_api::SandboxStatusRequest { sandbox_id: id.into(), verbose: true, ..Default::default() };
        self.client.sandbox_status(context(), &request).map_err(refusal)
    }

    /// Operating system and architecture of its containers.
    pub fn platform(&self, id: &str) -> Result<(String, String), Refusal> {
        let request = sandbox_api::PlatformRequest { sandbox_id: id.into(), ..Default::default() };
        let answer = self.client.platform(context(), &request).map_err(refusal)?;
        let platform = answer.platform.unwrap_or_default();
        Ok((platform.os, platform.architecture))
    }

    /// What its containers have used together.
    pub fn metrics(&self, id: &str) -> Result<Metrics, Refusal> {
        let request = sandbox_api::SandboxMetricsRequest { sandbox_id: id.into(), ..Default::default() };
        let answer = self.client.sandbox_metrics(context(), &request).map_err(refusal)?;
        let data = answer.metrics.unwrap_or_default().data.unwrap_or_default();
        Metrics::parse_from_bytes(&data.value).map_err(|error| (Code::INTERNAL, error.to_string()))
    }
}
