//! The ttrpc service: each call of `agent.proto` to the containers, each error to its code.

use async_trait::async_trait;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};
use paperboat_protocol::agent::state_response::Status;
use paperboat_protocol::agent::{
    CreateContainerRequest, CreateContainerResponse, Empty, ExecRequest, HelloRequest, HelloResponse, KillRequest, PidsResponse,
    ProcessRequest, ResizePtyRequest, SetNetworkRequest, StartResponse, StateResponse, StatsResponse, UpdateRequest,
    WaitOomRequest, WaitOomResponse, WaitResponse, pids_response,
};
use paperboat_protocol::resolver::RESOLVER_ADDRESS;
use paperboat_protocol::{PROTOCOL_VERSION, agent_ttrpc};
use tokio::sync::mpsc;
use ttrpc::asynchronous::TtrpcContext;
use ttrpc::{Code, get_status};

use crate::container::{AgentError, Containers};
use crate::mounts::MountError;
use crate::names::NameError;
use crate::network::Network;
use crate::process::{Ended, Process};
use crate::resolver::Resolver;
use crate::streams::{StreamError, window_size};
use crate::{sys, sysctl};

/// Longest host name, HOST_NAME_MAX of Linux.
const HOSTNAME_MAX: usize = 64;

/// Settings of one pod: beyond what anybody sets by hand.
const SYSCTLS_MAX: usize = 256;

/// The service.
pub struct Service {
    /// The containers.
    pub containers: Containers,
    /// Whether clock, entropy and host name are this guest's to set; not so in a test on a host.
    pub owns_machine: bool,
    /// The guest's network.
    pub network: Network,
    /// The guest's end of Docker's resolver.
    pub resolver: Resolver,
    /// Where a request to shut down goes.
    pub shutdown: mpsc::Sender<()>,
}

impl From<AgentError> for ttrpc::Error {
    fn from(error: AgentError) -> Self {
        let code = match &error {
            AgentError::Name(NameError::Missing { .. }) | AgentError::NoContainer(_) | AgentError::NoProcess { .. } => {
                Code::NOT_FOUND
            }
            // As containerd's own runtime answers a signal to what has ended.
            AgentError::EndedAlready => Code::NOT_FOUND,
            AgentError::Name(_)
            | AgentError::Mount(MountError::Name(_))
            | AgentError::SignalNumber(_)
            | AgentError::Resources(_) => Code::INVALID_ARGUMENT,
            AgentError::Stream(StreamError::NotOpened { .. }) | AgentError::Slow { .. } => Code::DEADLINE_EXCEEDED,
            AgentError::Stream(StreamError::Io { .. }) => Code::INTERNAL,
            AgentError::Stream(_) => Code::INVALID_ARGUMENT,
            AgentError::Exists(_) => Code::ALREADY_EXISTS,
            AgentError::TooMany { .. } | AgentError::Mount(MountError::TooMany) => Code::RESOURCE_EXHAUSTED,
            AgentError::StartedAlready
            | AgentError::NotStarted
            | AgentError::StillRunning(_)
            | AgentError::NotRunning(_)
            | AgentError::Paused(_)
            | AgentError::NoTerminal => Code::FAILED_PRECONDITION,
            AgentError::Failed(_) => Code::UNKNOWN,
            AgentError::Cgroup(_)
            | AgentError::Mount(MountError::Io { .. })
            | AgentError::Signal(_)
            | AgentError::Helper(_)
            | AgentError::Report(_)
            | AgentError::HelperDied { .. }
            | AgentError::Notify(_)
            | AgentError::File { .. } => Code::INTERNAL,
        };
        refusal(code, error.to_string())
    }
}

impl Service {
    fn process(&self, id: &str, exec_id: &str) -> Result<std::sync::Arc<Process>, AgentError> {
        self.containers.find(id)?.process(exec_id)
    }

    fn set_up_machine(&self, request: &HelloRequest) {
        // None of these keeps a pod from running; each failure is told.
        let seconds = i64::try_from(request.unix_time_ns / 1_000_000_000).unwrap_or(0);
        if seconds > 0 {
            let nanoseconds = i64::try_from(request.unix_time_ns % 1_000_000_000).unwrap_or(0);
            if let Err(errno) = clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::new(seconds, nanoseconds)) {
                crate::warn!("clock not set error={errno}");
            }
        }
        if let Err(error) = sys::add_entropy(&request.entropy) {
            crate::warn!("entropy not added error={error}");
        }
        if !request.hostname.is_empty()
            && let Err(errno) = nix::unistd::sethostname(&request.hostname)
        {
            crate::warn!("host name not set error={errno}");
        }
    }
}

fn set_sysctls(request: &HelloRequest) -> ttrpc::Result<()> {
    let count = request.sysctls.len();
    if count > SYSCTLS_MAX {
        return Err(refusal(Code::INVALID_ARGUMENT, format!("{count} sysctls (at most {SYSCTLS_MAX})")));
    }
    for (name, value) in &request.sysctls {
        sysctl::set(name, value).map_err(|error| refusal(Code::INVALID_ARGUMENT, error.to_string()))?;
    }
    Ok(())
}

fn refusal(code: Code, text: String) -> ttrpc::Error {
    ttrpc::Error::RpcStatus(get_status(code, text))
}

fn wait_response(ended: Ended) -> WaitResponse {
    WaitResponse {
        exit_status: ended.exit.status,
        exited_at_unix_ns: ended.exit.at_unix_ns,
        oom_kills: ended.oom_kills,
        ..Default::default()
    }
}

fn kernel_file(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

#[async_trait]
impl agent_ttrpc::Agent for Service {
    async fn hello(&self, _: &TtrpcContext, request: HelloRequest) -> ttrpc::Result<HelloResponse> {
        if request.protocol_version != PROTOCOL_VERSION {
            let (theirs, ours) = (request.protocol_version, PROTOCOL_VERSION);
            return Err(refusal(
                Code::FAILED_PRECONDITION,
                format!("protocol_version {theirs}: the guest's agent speaks version {ours}; shim and guest image do not match"),
            ));
        }
        if request.entropy.len() > sys::ENTROPY_MAX || request.hostname.len() > HOSTNAME_MAX {
            let (entropy, hostname) = (request.entropy.len(), request.hostname.len());
            return Err(refusal(
                Code::INVALID_ARGUMENT,
                format!(
                    "entropy of {entropy} bytes (at most {}), hostname of {hostname} (at most {HOSTNAME_MAX})",
                    sys::ENTROPY_MAX
                ),
            ));
        }
        if self.owns_machine {
            self.set_up_machine(&request);
            set_sysctls(&request)?;
        }
        crate::info!("hello");
        Ok(HelloResponse {
            protocol_version: PROTOCOL_VERSION,
            agent_version: env!("CARGO_PKG_VERSION").into(),
            kernel_release: kernel_file("/proc/sys/kernel/osrelease"),
            boot_id: kernel_file("/proc/sys/kernel/random/boot_id"),
            ..Default::default()
        })
    }

    async fn create_container(
        &self,
        _: &TtrpcContext,
        request: CreateContainerRequest,
    ) -> ttrpc::Result<CreateContainerResponse> {
        let stdio = request.stdio.get_or_default();
        crate::mounts::make_memory_volumes(&request.memory_volumes).map_err(AgentError::from)?;
        let created = self.containers.create(&request.id, stdio, &request.spec_path, &request.rootfs_path).await;
        if let Err(error) = &created {
            crate::error!("container not created id={:?}: {error}", request.id);
        }
        Ok(CreateContainerResponse { pid: created?, ..Default::default() })
    }

    async fn start(&self, _: &TtrpcContext, request: ProcessRequest) -> ttrpc::Result<StartResponse> {
        let started = self.containers.start(&request.id, &request.exec_id).await;
        if let Err(error) = &started {
            crate::error!("process not started container={:?} exec={:?}: {error}", request.id, request.exec_id);
        }
        Ok(StartResponse { pid: started?, ..Default::default() })
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecRequest) -> ttrpc::Result<Empty> {
        self.containers.exec(&request.id, &request.exec_id, request.stdio.get_or_default(), &request.process_path)?;
        Ok(Empty::new())
    }

    async fn kill(&self, _: &TtrpcContext, request: KillRequest) -> ttrpc::Result<Empty> {
        self.containers.kill(&request.id, &request.exec_id, request.signal, request.all)?;
        Ok(Empty::new())
    }

    async fn wait(&self, _: &TtrpcContext, request: ProcessRequest) -> ttrpc::Result<WaitResponse> {
        let process = self.process(&request.id, &request.exec_id)?;
        Ok(wait_response(process.wait().await))
    }

    async fn wait_oom(&self, _: &TtrpcContext, request: WaitOomRequest) -> ttrpc::Result<WaitOomResponse> {
        let container = self.containers.find(&request.id).map_err(ttrpc::Error::from)?;
        let init = container.process("").map_err(ttrpc::Error::from)?;
        let oom_kills = tokio::select! {
            kills = container.cgroup().oom_kills_beyond(request.seen) => kills.map_err(AgentError::from)?,
            // Nothing of it is left to be killed, and the call is not to outlive the container.
            ended = init.wait() => ended.oom_kills,
        };
        Ok(WaitOomResponse { oom_kills, ..Default::default() })
    }

    async fn state(&self, _: &TtrpcContext, request: ProcessRequest) -> ttrpc::Result<StateResponse> {
        let container = self.containers.find(&request.id).map_err(ttrpc::Error::from)?;
        let process = container.process(&request.exec_id).map_err(ttrpc::Error::from)?;
        let ended = process.ended();
        let status = match ended {
            Some(_) => Status::STOPPED,
            None if !process.running() => Status::CREATED,
            None if container.paused() => Status::PAUSED,
            None => Status::RUNNING,
        };
        Ok(StateResponse {
            status: status.into(),
            pid: process.pid().map_or(0, |pid| pid.as_raw().cast_unsigned()),
            exit_status: ended.map_or(0, |ended| ended.exit.status),
            exited_at_unix_ns: ended.map_or(0, |ended| ended.exit.at_unix_ns),
            ..Default::default()
        })
    }

    async fn delete(&self, _: &TtrpcContext, request: ProcessRequest) -> ttrpc::Result<WaitResponse> {
        Ok(wait_response(self.containers.delete(&request.id, &request.exec_id).await?))
    }

    async fn resize_pty(&self, _: &TtrpcContext, request: ResizePtyRequest) -> ttrpc::Result<Empty> {
        let process = self.process(&request.id, &request.exec_id)?;
        process.resize(window_size(request.columns, request.rows).map_err(AgentError::from)?)?;
        Ok(Empty::new())
    }

    async fn close_stdin(&self, _: &TtrpcContext, request: ProcessRequest) -> ttrpc::Result<Empty> {
        self.process(&request.id, &request.exec_id)?.close_input();
        Ok(Empty::new())
    }

    async fn pause(&self, _: &TtrpcContext, request: ProcessRequest) -> ttrpc::Result<Empty> {
        self.containers.pause(&request.id, true).await?;
        Ok(Empty::new())
    }

    async fn resume(&self, _: &TtrpcContext, request: ProcessRequest) -> ttrpc::Result<Empty> {
        self.containers.pause(&request.id, false).await?;
        Ok(Empty::new())
    }

    async fn pids(&self, _: &TtrpcContext, request: ProcessRequest) -> ttrpc::Result<PidsResponse> {
        let pids = self.containers.find(&request.id).and_then(|container| container.pids()).map_err(ttrpc::Error::from)?;
        let processes =
            pids.into_iter().map(|(pid, exec_id)| pids_response::Process { pid, exec_id, ..Default::default() }).collect();
        Ok(PidsResponse { processes, ..Default::default() })
    }

    async fn stats(&self, _: &TtrpcContext, request: ProcessRequest) -> ttrpc::Result<StatsResponse> {
        let container = self.containers.find(&request.id).map_err(ttrpc::Error::from)?;
        Ok(StatsResponse { cgroup_files: container.cgroup().stats(), ..Default::default() })
    }

    async fn update(&self, _: &TtrpcContext, request: UpdateRequest) -> ttrpc::Result<Empty> {
        self.containers.update(&request.id, &request.resources_json)?;
        Ok(Empty::new())
    }

    async fn set_network(&self, _: &TtrpcContext, request: SetNetworkRequest) -> ttrpc::Result<Empty> {
        self.network.set(&request).map_err(|error| {
            crate::error!("network not set: {error}");
            refusal(if error.is_of_request() { Code::INVALID_ARGUMENT } else { Code::INTERNAL }, error.to_string())
        })?;
        Ok(Empty::new())
    }

    async fn forget_files(&self, _: &TtrpcContext, _: Empty) -> ttrpc::Result<Empty> {
        if self.owns_machine {
            // It takes as long as there is to forget.
            let forgotten = tokio::task::spawn_blocking(crate::mounts::forget_files).await;
            forgotten
                .map_err(|error| refusal(Code::INTERNAL, error.to_string()))?
                .map_err(|error| refusal(Code::INTERNAL, format!("{}: {error}", crate::mounts::DROP_CACHES)))?;
        }
        Ok(Empty::new())
    }

    async fn open_resolver(&self, _: &TtrpcContext, _: Empty) -> ttrpc::Result<Empty> {
        self.resolver.open().await.map_err(|error| refusal(Code::UNAVAILABLE, format!("{RESOLVER_ADDRESS}: {error}")))?;
        Ok(Empty::new())
    }

    async fn shutdown(&self, _: &TtrpcContext, _: Empty) -> ttrpc::Result<Empty> {
        // A second request finds the first one under way.
        let _ = self.shutdown.try_send(());
        Ok(Empty::new())
    }
}
