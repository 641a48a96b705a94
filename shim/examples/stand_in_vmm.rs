//! A stand-in for `paperboat-vmm` and the agent behind it, for tests of the shim alone: it speaks both protocols as the `.proto`
//! files tell, and runs a container's command as a plain process of the host. Nothing here is isolated; nothing here is shipped.

use std::collections::HashMap;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::Stdio as ProcessStdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use paperboat_protocol::agent::{self, CreateContainerRequest, ExecRequest, HelloRequest, KillRequest, ProcessRequest, Stdio};
use paperboat_protocol::agent_ttrpc::{Agent, create_agent};
use paperboat_protocol::machine::{self, ended_response::Reason};
use paperboat_protocol::machine_ttrpc::{Machine, create_machine};
use paperboat_protocol::{AGENT_PORT, PROTOCOL_VERSION, READY_MESSAGE, READY_PORT, STREAM_PORT};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::process::Command;
use tokio::sync::watch;
use ttrpc::Code;
use ttrpc::r#async::transport::Listener;
use ttrpc::r#async::{Server, TtrpcContext};
use ttrpc::error::get_rpc_status;

#[tokio::main]
async fn main() {
    // SAFETY: the shim hands over exactly these two descriptors, and nobody else here uses them.
    #[allow(unsafe_code)]
    let (control, lifeline) = unsafe { (OwnedFd::from_raw_fd(3), OwnedFd::from_raw_fd(4)) };
    std::thread::spawn(move || {
        let _ = std::io::Read::read(&mut std::fs::File::from(lifeline), &mut [0]);
        std::process::exit(0);
    });
    let control = std::os::unix::net::UnixListener::from(control);
    control.set_nonblocking(true).expect("a socket");
    let service = Arc::new(StandIn { ended: Arc::new(watch::channel(None).0), counter: AtomicU64::new(1_000_000) });
    let mut ended = service.ended.subscribe();
    let mut server =
        Server::new().add_listener(Listener::try_from(control).expect("a listener")).register_service(create_machine(service));
    server.start().await.expect("serve");
    let _ = ended.wait_for(Option::is_some).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
}

struct StandIn {
    ended: Arc<watch::Sender<Option<Reason>>>,
    counter: AtomicU64,
}

#[async_trait]
impl Machine for StandIn {
    async fn start(&self, _: &TtrpcContext, request: machine::StartRequest) -> ttrpc::Result<machine::StartResponse> {
        if request.cmdline.contains("panic_now") {
            std::fs::write(&request.console_path, "[0.1] Kernel panic - not syncing: stand-in\n").expect("console");
            self.ended.send_replace(Some(Reason::PANIC));
            return Ok(machine::StartResponse { backend: "stand-in".into(), ..Default::default() });
        }
        let guest = Arc::new(Guest {
            share: request.share_path.into(),
            streams: Mutex::default(),
            processes: Mutex::default(),
            ended: self.ended.clone(),
        });
        let vsock = UnixListener::bind(&request.vsock_path).expect("vsock");
        let service = format!("{}-agent", request.vsock_path);
        let mut server =
            Server::new().bind(&format!("unix://{service}")).expect("bind").register_service(create_agent(guest.clone()));
        server.start().await.expect("serve the agent");
        tokio::spawn(async move {
            while let Ok((stream, _)) = vsock.accept().await {
                tokio::spawn(guest.clone().connection(stream, service.clone()));
            }
            drop(server);
        });
        let ready = format!("{}_{READY_PORT}", request.vsock_path);
        tokio::spawn(async move {
            let mut stream = UnixStream::connect(ready).await.expect("the shim listens");
            stream.write_all(READY_MESSAGE).await.expect("the shim reads");
        });
        Ok(machine::StartResponse { backend: "stand-in".into(), ..Default::default() })
    }

    async fn wait(&self, _: &TtrpcContext, _: machine::Empty) -> ttrpc::Result<machine::EndedResponse> {
        let mut ended = self.ended.subscribe();
        let reason = ended.wait_for(Option::is_some).await.ok().and_then(|reason| *reason).unwrap_or(Reason::UNKNOWN);
        Ok(machine::EndedResponse { reason: reason.into(), ..Default::default() })
    }

    async fn stop(&self, _: &TtrpcContext, _: machine::Empty) -> ttrpc::Result<machine::Empty> {
        self.ended.send_replace(Some(Reason::STOPPED));
        Ok(machine::Empty::new())
    }

    async fn stats(&self, _: &TtrpcContext, _: machine::Empty) -> ttrpc::Result<machine::StatsResponse> {
        let instructions = self.counter.fetch_add(1000, Ordering::Relaxed);
        let vcpu = machine::stats_response::Vcpu { instructions, ..Default::default() };
        Ok(machine::StatsResponse { vcpus: vec![vcpu], cpu_time_ns: 1_000_000, ..Default::default() })
    }
}

struct Guest {
    share: PathBuf,
    streams: Mutex<HashMap<String, UnixStream>>,
    processes: Mutex<HashMap<(String, String), Arc<Process>>>,
    ended: Arc<watch::Sender<Option<Reason>>>,
}

struct Process {
    arguments: Vec<String>,
    stdio: Stdio,
    pid: watch::Sender<Option<u32>>,
    exit: watch::Sender<Option<u32>>,
}

impl Guest {
    async fn connection(self: Arc<Self>, mut stream: UnixStream, service: String) {
        let line = read_line(&mut stream).await;
        let port: u32 = line.strip_prefix("CONNECT ").and_then(|port| port.parse().ok()).unwrap_or(0);
        let _ = stream.write_all(b"OK 1073741824\n").await;
        match port {
            AGENT_PORT => {
                let mut agent = UnixStream::connect(service).await.expect("our own service");
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut agent).await;
            }
            STREAM_PORT => {
                let token = read_line(&mut stream).await;
                self.streams.lock().expect("whole").insert(token, stream);
            }
            _ => {}
        }
    }

    async fn stream(&self, token: &str) -> Option<UnixStream> {
        for _ in 0..500 {
            if token.is_empty() {
                return None;
            }
            if let Some(stream) = self.streams.lock().expect("whole").remove(token) {
                return Some(stream);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        None
    }

    fn process(&self, id: &str, exec_id: &str) -> ttrpc::Result<Arc<Process>> {
        let found = self.processes.lock().expect("whole").get(&(id.into(), exec_id.into())).cloned();
        found.ok_or_else(|| get_rpc_status(Code::NOT_FOUND, format!("{id}/{exec_id}: not found")))
    }

    fn add(&self, id: String, exec_id: String, process: &serde_json::Value, stdio: Stdio) {
        let arguments =
            process["args"].as_array().into_iter().flatten().filter_map(|word| word.as_str()).map(str::to_owned).collect();
        let process = Process { arguments, stdio, pid: watch::channel(None).0, exit: watch::channel(None).0 };
        self.processes.lock().expect("whole").insert((id, exec_id), Arc::new(process));
    }

    fn json(&self, path: &str) -> ttrpc::Result<serde_json::Value> {
        let refused = |error: &dyn std::fmt::Display| get_rpc_status(Code::INVALID_ARGUMENT, format!("{path}: {error}"));
        let bytes = std::fs::read(self.share.join(path)).map_err(|error| refused(&error))?;
        serde_json::from_slice(&bytes).map_err(|error| refused(&error))
    }
}

async fn read_line(stream: &mut UnixStream) -> String {
    let mut line = Vec::new();
    while let Ok(byte) = stream.read_u8().await {
        if byte == b'\n' {
            break;
        }
        line.push(byte);
    }
    String::from_utf8_lossy(&line).into_owned()
}

#[async_trait]
impl Agent for Guest {
    async fn hello(&self, _: &TtrpcContext, _: HelloRequest) -> ttrpc::Result<agent::HelloResponse> {
        Ok(agent::HelloResponse { protocol_version: PROTOCOL_VERSION, kernel_release: "stand-in".into(), ..Default::default() })
    }

    async fn create_container(
        &self,
        _: &TtrpcContext,
        request: CreateContainerRequest,
    ) -> ttrpc::Result<agent::CreateContainerResponse> {
        let spec = self.json(&request.spec_path)?;
        if !self.share.join(&request.rootfs_path).join("bin").is_dir() {
            return Err(get_rpc_status(Code::INVALID_ARGUMENT, "the root file system has no /bin"));
        }
        // What a guest could do to its host through the share: nothing.
        if std::fs::write(self.share.join("containers/planted"), "").is_ok() {
            return Err(get_rpc_status(Code::INTERNAL, "the share is writable"));
        }
        self.add(request.id, String::new(), &spec["process"], request.stdio.unwrap_or_default());
        Ok(agent::CreateContainerResponse { pid: 2, ..Default::default() })
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecRequest) -> ttrpc::Result<agent::Empty> {
        let process = self.json(&request.process_path)?;
        self.add(request.id, request.exec_id, &process, request.stdio.unwrap_or_default());
        Ok(agent::Empty::new())
    }

    async fn start(&self, _: &TtrpcContext, request: ProcessRequest) -> ttrpc::Result<agent::StartResponse> {
        let process = self.process(&request.id, &request.exec_id)?;
        let Some((program, arguments)) = process.arguments.split_first() else {
            return Err(get_rpc_status(Code::INVALID_ARGUMENT, "no program"));
        };
        let (input, output, errors) = (
            self.stream(&process.stdio.stdin).await,
            self.stream(&process.stdio.stdout).await,
            self.stream(&process.stdio.stderr).await,
        );
        let mut command = Command::new(program);
        command.args(arguments).stdin(ProcessStdio::piped()).stdout(ProcessStdio::piped()).stderr(ProcessStdio::piped());
        let mut child =
            command.spawn().map_err(|error| get_rpc_status(Code::INVALID_ARGUMENT, format!("exec {program}: {error}")))?;
        let pid = child.id().unwrap_or(0);
        process.pid.send_replace(Some(pid));
        let (mut child_in, mut child_out, mut child_err) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        tokio::spawn(async move {
            match (input, &mut child_in) {
                (Some(mut input), Some(child_in)) => drop(tokio::io::copy(&mut input, child_in).await),
                // Open until this process ends, however it does: `cat` is the command that runs until then.
                _ => std::future::pending().await,
            }
        });
        let outputs = tokio::spawn(async move {
            let out = async {
                if let (Some(mut output), Some(child_out)) = (output, &mut child_out) {
                    let _ = tokio::io::copy(child_out, &mut output).await;
                }
            };
            let err = async {
                if let (Some(mut errors), Some(child_err)) = (errors, &mut child_err) {
                    let _ = tokio::io::copy(child_err, &mut errors).await;
                }
            };
            tokio::join!(out, err);
        });
        tokio::spawn(async move {
            use std::os::unix::process::ExitStatusExt;
            let status = child.wait().await.expect("our child");
            let _ = outputs.await;
            let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(255);
            process.exit.send_replace(Some(u32::try_from(code).unwrap_or(255)));
        });
        Ok(agent::StartResponse { pid, ..Default::default() })
    }

    async fn wait(&self, _: &TtrpcContext, request: ProcessRequest) -> ttrpc::Result<agent::WaitResponse> {
        let mut exit = self.process(&request.id, &request.exec_id)?.exit.subscribe();
        let status = exit.wait_for(Option::is_some).await.ok().and_then(|status| *status).unwrap_or(255);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let exited_at_unix_ns = u64::try_from(now.as_nanos()).unwrap_or(0);
        Ok(agent::WaitResponse { exit_status: status, exited_at_unix_ns, ..Default::default() })
    }

    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> ttrpc::Result<agent::Empty> {
        let process = self.process(&request.id, &request.exec_id)?;
        let pid = *process.pid.borrow();
        match pid {
            None => {
                process.exit.send_replace(Some(128 + request.signal));
            }
            Some(pid) => {
                let signal = nix::sys::signal::Signal::try_from(request.signal as i32).ok();
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), signal);
            }
        }
        Ok(agent::Empty::new())
    }

    async fn delete(&self, _: &TtrpcContext, request: ProcessRequest) -> ttrpc::Result<agent::WaitResponse> {
        self.process(&request.id, &request.exec_id)?;
        self.processes.lock().expect("whole").remove(&(request.id, request.exec_id));
        Ok(agent::WaitResponse::new())
    }

    async fn set_network(&self, _: &TtrpcContext, _: agent::SetNetworkRequest) -> ttrpc::Result<agent::Empty> {
        // Its processes have the host's.
        Ok(agent::Empty::new())
    }

    async fn shutdown(&self, _: &TtrpcContext, _: agent::Empty) -> ttrpc::Result<agent::Empty> {
        self.ended.send_replace(Some(Reason::POWER_OFF));
        Ok(agent::Empty::new())
    }
}
