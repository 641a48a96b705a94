//! The connection to the guest's agent. Its answers come from the guest and are not trusted: every call has a time limit, every
//! text a length limit, and nothing it says can do more than end its own pod.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use paperboat_protocol::agent::{
    CreateContainerRequest, ExecRequest, HelloRequest, KillRequest, MemoryVolume, ProcessRequest, ResizePtyRequest,
    SetNetworkRequest, StateResponse, Stdio, UpdateRequest, WaitOomRequest, WaitResponse,
};
use paperboat_protocol::agent_ttrpc::AgentClient;
use paperboat_protocol::{AGENT_PORT, PROTOCOL_VERSION, READY_MESSAGE};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use ttrpc::r#async::Client;
use ttrpc::r#async::transport::Socket;
use ttrpc::context::{self, Context};

use crate::machine::plain;
use crate::volume;

/// A call that the agent answers from memory. On the software CPU of a busy host even that takes its time.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Namespaces, mounts, cgroups; helper processes start.
const CREATE_TIMEOUT: Duration = Duration::from_secs(120);

/// The host side of vsock answers `CONNECT` as soon as the guest accepted.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest answer to `CONNECT`: "OK ", ten digits, a newline.
const MAX_HANDSHAKE_BYTES: usize = 32;

/// Connections that may come to the ready socket before one tells the right message.
const MAX_READY_ATTEMPTS: usize = 16;

/// Random bytes for the guest's pool.
const ENTROPY_BYTES: usize = 64;

/// Longest text from the guest put into a log or an error, in characters.
const MAX_TEXT: usize = 2048;

/// What went wrong between shim and agent.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// No connection through vsock.
    #[error("vsock port {port}: {source}")]
    Connect {
        /// Guest port.
        port: u32,
        /// What the system said.
        source: std::io::Error,
    },
    /// The ready socket failed.
    #[error("waiting for the agent: {0}")]
    Ready(#[source] std::io::Error),
    /// The host's random source failed.
    #[error("/dev/urandom: {0}")]
    Entropy(#[source] std::io::Error),
    /// The agent speaks another protocol.
    #[error("the agent speaks protocol {theirs}, this shim {PROTOCOL_VERSION}: shim and initramfs are of different releases")]
    Version {
        /// Its version.
        theirs: u32,
    },
    /// The agent says that there is no such container or process.
    #[error("{0}")]
    NotFound(String),
    /// The agent refused.
    #[error("{call}: {message}")]
    Refused {
        /// Which call.
        call: &'static str,
        /// The agent's message.
        message: String,
    },
    /// No answer: the connection broke, or the time is up.
    #[error("{call}: the guest's agent does not answer: {message}")]
    Lost {
        /// Which call.
        call: &'static str,
        /// What the transport said.
        message: String,
    },
}

/// The agent of one guest.
#[derive(Clone)]
pub struct Agent {
    client: AgentClient,
    vsock: PathBuf,
    call_timeout: Duration,
    /// Release of the guest's kernel, as the agent tells it.
    pub kernel_release: String,
    /// Boot id of the guest's kernel, as the agent tells it.
    pub boot_id: String,
}

/// Text from the guest, made fit for logs.
pub(crate) fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).take(MAX_TEXT).collect()
}

/// Waits until an agent says on the ready socket that its services listen.
pub async fn wait_ready(listener: UnixListener) -> Result<(), AgentError> {
    for _ in 0..MAX_READY_ATTEMPTS {
        let (mut stream, _) = listener.accept().await.map_err(AgentError::Ready)?;
        let mut message = vec![0; READY_MESSAGE.len()];
        if stream.read_exact(&mut message).await.is_ok() && message == READY_MESSAGE {
            return Ok(());
        }
    }
    Err(AgentError::Ready(std::io::Error::other("the guest sends something else")))
}

/// Connects to a port of the guest.
pub async fn connect(vsock: &Path, port: u32) -> Result<UnixStream, AgentError> {
    let attempt = async {
        let mut stream = UnixStream::connect(vsock).await?;
        stream.write_all(format!("CONNECT {port}\n").as_bytes()).await?;
        // Byte by byte: what follows the newline belongs to the connection's user.
        let mut answer = Vec::new();
        while answer.last() != Some(&b'\n') {
            if answer.len() == MAX_HANDSHAKE_BYTES {
                return Err(std::io::Error::other("the answer to CONNECT does not end"));
            }
            answer.push(stream.read_u8().await?);
        }
        if answer.starts_with(b"OK ") {
            return Ok(stream);
        }
        Err(std::io::Error::other(format!("CONNECT was answered with {:?}", String::from_utf8_lossy(&answer))))
    };
    let timed = tokio::time::timeout(CONNECT_TIMEOUT, attempt).await;
    timed.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())).map_err(|source| AgentError::Connect { port, source })
}

impl Agent {
    /// Connects and says hello: versions are compared, the guest gets time, entropy, the pod's name and its settings.
    pub async fn connect(vsock: &Path, hostname: &str, sysctls: &HashMap<String, String>) -> Result<Self, AgentError> {
        Self::connect_with(vsock, hostname, sysctls, CALL_TIMEOUT).await
    }

    /// The same; each call that is answered from memory gets `call_timeout`.
    pub async fn connect_with(
        vsock: &Path,
        hostname: &str,
        sysctls: &HashMap<String, String>,
        call_timeout: Duration,
    ) -> Result<Self, AgentError> {
        let stream = connect(vsock, AGENT_PORT).await?;
        let client = AgentClient::new(Client::new(Socket::from(stream)));
        let mut entropy = vec![0; ENTROPY_BYTES];
        let mut source = tokio::fs::File::open("/dev/urandom").await.map_err(AgentError::Entropy)?;
        source.read_exact(&mut entropy).await.map_err(AgentError::Entropy)?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let request = HelloRequest {
            protocol_version: PROTOCOL_VERSION,
            unix_time_ns: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
            entropy,
            hostname: hostname.into(),
            sysctls: sysctls.clone(),
            ..Default::default()
        };
        let answer = client.hello(limit(call_timeout), &request).await.map_err(|error| failed("hello", &error))?;
        if answer.protocol_version != PROTOCOL_VERSION {
            return Err(AgentError::Version { theirs: answer.protocol_version });
        }
        let (kernel_release, boot_id) = (harmless(&answer.kernel_release), harmless(&answer.boot_id));
        Ok(Self { client, vsock: vsock.to_owned(), call_timeout, kernel_release, boot_id })
    }

    /// Host side of the guest's vsock.
    pub fn vsock(&self) -> &Path {
        &self.vsock
    }

    /// Creates a container whose files are below `in_share` in the share. Returns the guest's pid of its init.
    pub async fn create(
        &self,
        id: &str,
        in_share: &Path,
        memory: &[volume::MemoryVolume],
        stdio: Stdio,
    ) -> Result<u32, AgentError> {
        let memory_volumes = memory.iter().map(|volume| MemoryVolume {
            name: volume.name.clone(),
            size_bytes: volume.size_bytes,
            mode: volume.mode,
            uid: volume.uid,
            gid: volume.gid,
            ..Default::default()
        });
        let request = CreateContainerRequest {
            id: id.into(),
            stdio: Some(stdio).into(),
            spec_path: in_share.join("config.json").display().to_string(),
            rootfs_path: in_share.join("rootfs").display().to_string(),
            memory_volumes: memory_volumes.collect(),
            ..Default::default()
        };
        let answer = self.client.create_container(limit(CREATE_TIMEOUT), &request).await;
        answer.map(|answer| answer.pid).map_err(|error| failed("create", &error))
    }

    /// Adds a process whose OCI description is at `process_path` in the share.
    pub async fn exec(&self, id: &str, exec_id: &str, process_path: &Path, stdio: Stdio) -> Result<(), AgentError> {
        let request = ExecRequest {
            id: id.into(),
            exec_id: exec_id.into(),
            stdio: Some(stdio).into(),
            process_path: process_path.display().to_string(),
            ..Default::default()
        };
        self.client.exec(limit(CREATE_TIMEOUT), &request).await.map(drop).map_err(|error| failed("exec", &error))
    }

    /// Lets a process run. Returns its pid in the guest.
    pub async fn start(&self, id: &str, exec_id: &str) -> Result<u32, AgentError> {
        let answer = self.client.start(limit(CREATE_TIMEOUT), &process(id, exec_id)).await;
        answer.map(|answer| answer.pid).map_err(|error| failed("start", &error))
    }

    /// Waits for the end of a process, however long it runs.
    pub async fn wait(&self, id: &str, exec_id: &str) -> Result<WaitResponse, AgentError> {
        self.client.wait(context::with_timeout(0), &process(id, exec_id)).await.map_err(|error| failed("wait", &error))
    }

    /// Sends a signal.
    pub async fn kill(&self, id: &str, exec_id: &str, signal: u32, all: bool) -> Result<(), AgentError> {
        let request = KillRequest { id: id.into(), exec_id: exec_id.into(), signal, all, ..Default::default() };
        self.client.kill(limit(self.call_timeout), &request).await.map(drop).map_err(|error| failed("kill", &error))
    }

    /// Waits until the guest's kernel has ended more processes of a container for want of memory than `seen`; how many.
    pub async fn wait_oom(&self, id: &str, seen: u64) -> Result<u64, AgentError> {
        let request = WaitOomRequest { id: id.into(), seen, ..Default::default() };
        let answer = self.client.wait_oom(context::with_timeout(0), &request).await;
        answer.map(|answer| answer.oom_kills).map_err(|error| failed("wait for OOM", &error))
    }

    /// The agent's view of a process.
    pub async fn state(&self, id: &str, exec_id: &str) -> Result<StateResponse, AgentError> {
        self.client.state(limit(self.call_timeout), &process(id, exec_id)).await.map_err(|error| failed("state", &error))
    }

    /// Removes an ended process or container.
    pub async fn delete(&self, id: &str, exec_id: &str) -> Result<(), AgentError> {
        self.client
            .delete(limit(self.call_timeout), &process(id, exec_id))
            .await
            .map(drop)
            .map_err(|error| failed("delete", &error))
    }

    /// Changes the size of a process's terminal.
    pub async fn resize(&self, id: &str, exec_id: &str, columns: u32, rows: u32) -> Result<(), AgentError> {
        let request = ResizePtyRequest { id: id.into(), exec_id: exec_id.into(), columns, rows, ..Default::default() };
        self.client.resize_pty(limit(self.call_timeout), &request).await.map(drop).map_err(|error| failed("resize", &error))
    }

    /// Freezes a container.
    pub async fn pause(&self, id: &str) -> Result<(), AgentError> {
        self.client.pause(limit(self.call_timeout), &process(id, "")).await.map(drop).map_err(|error| failed("pause", &error))
    }

    /// Lets a frozen container run again.
    pub async fn resume(&self, id: &str) -> Result<(), AgentError> {
        self.client.resume(limit(self.call_timeout), &process(id, "")).await.map(drop).map_err(|error| failed("resume", &error))
    }

    /// Guest pids of a container's processes with their exec ids, empty where a process was not added by exec.
    pub async fn pids(&self, id: &str) -> Result<Vec<(u32, String)>, AgentError> {
        let answer =
            self.client.pids(limit(self.call_timeout), &process(id, "")).await.map_err(|error| failed("pids", &error))?;
        Ok(answer.processes.into_iter().map(|entry| (entry.pid, entry.exec_id)).collect())
    }

    /// The container's cgroup files by name.
    pub async fn stats(&self, id: &str) -> Result<std::collections::HashMap<String, String>, AgentError> {
        let answer =
            self.client.stats(limit(self.call_timeout), &process(id, "")).await.map_err(|error| failed("stats", &error))?;
        Ok(answer.cgroup_files)
    }

    /// Applies new limits, an OCI LinuxResources as JSON.
    pub async fn update(&self, id: &str, resources_json: &str) -> Result<(), AgentError> {
        let request = UpdateRequest { id: id.into(), resources_json: resources_json.into(), ..Default::default() };
        self.client.update(limit(self.call_timeout), &request).await.map(drop).map_err(|error| failed("update", &error))
    }

    /// Makes the guest's network what is described.
    pub async fn set_network(&self, request: SetNetworkRequest) -> Result<(), AgentError> {
        let answer = self.client.set_network(limit(self.call_timeout), &request).await;
        answer.map(drop).map_err(|error| failed("network", &error))
    }

    /// Has the guest's kernel forget files that nobody uses.
    pub async fn forget_files(&self) -> Result<(), AgentError> {
        let answer = self.client.forget_files(limit(self.call_timeout), &Default::default()).await;
        answer.map(drop).map_err(|error| failed("forget files", &error))
    }

    /// Has the guest hand questions for names at Docker's resolver to the host.
    pub async fn open_resolver(&self) -> Result<(), AgentError> {
        let answer = self.client.open_resolver(limit(CALL_TIMEOUT), &Default::default()).await;
        answer.map(drop).map_err(|error| failed("resolver", &error))
    }

    /// Asks the guest to sync its file systems and power off. The connection may end before the answer.
    pub async fn shutdown(&self, patience: Duration) {
        let _ = self.client.shutdown(limit(patience), &Default::default()).await;
    }
}

fn limit(duration: Duration) -> Context {
    context::with_duration(duration)
}

fn process(id: &str, exec_id: &str) -> ProcessRequest {
    ProcessRequest { id: id.into(), exec_id: exec_id.into(), ..Default::default() }
}

fn failed(call: &'static str, error: &ttrpc::Error) -> AgentError {
    match error {
        ttrpc::Error::RpcStatus(status) if status.code() == ttrpc::Code::NOT_FOUND => {
            AgentError::NotFound(harmless(&status.message))
        }
        ttrpc::Error::RpcStatus(status) => AgentError::Refused { call, message: harmless(&status.message) },
        other => AgentError::Lost { call, message: plain(other) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn answered_with(answer: &'static [u8]) -> Result<UnixStream, AgentError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vsock");
        let listener = UnixListener::bind(&path).unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut line = [0; 13];
            stream.read_exact(&mut line).await.unwrap();
            assert_eq!(&line, b"CONNECT 1024\n");
            stream.write_all(answer).await.unwrap();
        });
        let result = connect(&path, 1024).await;
        server.await.unwrap();
        result
    }

    #[tokio::test]
    async fn the_handshake_takes_its_line_and_not_a_byte_more() {
        let mut stream = answered_with(b"OK 1073741824\nrest").await.unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "rest");
    }

    #[tokio::test]
    async fn nonsense_and_endless_answers_are_errors() {
        assert!(answered_with(b"NO\n").await.is_err());
        assert!(answered_with(&[b'x'; 4096]).await.is_err());
        assert!(answered_with(b"").await.is_err());
    }

    #[tokio::test]
    async fn only_the_ready_message_counts() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ready");
        let waiting = tokio::spawn(wait_ready(UnixListener::bind(&path).unwrap()));
        UnixStream::connect(&path).await.unwrap().write_all(b"something else entirely").await.unwrap();
        drop(UnixStream::connect(&path).await.unwrap());
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!waiting.is_finished());
        UnixStream::connect(&path).await.unwrap().write_all(READY_MESSAGE).await.unwrap();
        waiting.await.unwrap().unwrap();
    }
}
