//! containerd's Task API over one pod.

use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use containerd_shim_protos::api;
use containerd_shim_protos::shim_async::Task;
use protobuf::MessageField;
use protobuf::well_known_types::any::Any;
use tokio::sync::{Mutex, Notify, watch};
use tokio::time::{Instant, sleep};
use ttrpc::Code;
use ttrpc::r#async::TtrpcContext;
use ttrpc::error::get_rpc_status;

use crate::agent::AgentError;
use crate::config::Config;
use crate::container::Phase;
use crate::events::Publisher;
use crate::logging;
use crate::paths::PodPaths;
use crate::pod::{CreateOptions, Pod, PodError};
use crate::sandbox::Described;
use crate::streams::StdioPaths;

/// Longest description of an added process, in bytes: its arguments and environment, which Linux bounds below this.
const MAX_PROCESS_BYTES: usize = 4 << 20;

/// A client that was killed between starting a shim and creating its pod, or while the pod booted, asks for no shutdown. Longer
/// than any client takes from one call to the next.
const WITHOUT_POD_LIMIT: Duration = Duration::from_secs(60);

/// How often is looked whether there is a pod.
const WITHOUT_POD_LOOK: Duration = Duration::from_secs(5);

/// The Task service of one shim.
#[derive(Clone)]
pub struct Service {
    shared: Arc<Shared>,
}

struct Shared {
    namespace: String,
    pod_id: String,
    socket: PathBuf,
    config: Config,
    publisher: Publisher,
    pod: RwLock<Option<Arc<Pod>>>,
    /// What the sandbox API has told of the pod.
    described: std::sync::Mutex<Option<Described>>,
    /// One creation at a time: the first boots the machine the others wait for.
    creating: Mutex<()>,
    /// A boot under way is to be given up.
    closing: watch::Sender<bool>,
    done: Notify,
}

impl From<PodError> for ttrpc::Error {
    fn from(error: PodError) -> Self {
        let code = match &error {
            PodError::NotFound(_) | PodError::Finished | PodError::Agent(AgentError::NotFound(_)) => Code::NOT_FOUND,
            PodError::Exists(_) => Code::ALREADY_EXISTS,
            PodError::WrongPhase { .. } => Code::FAILED_PRECONDITION,
            PodError::BadId(_)
            | PodError::Config(_)
            | PodError::Resources(_)
            | PodError::BeyondMachine { .. }
            | PodError::Spec(_)
            | PodError::Description(_)
            | PodError::Architecture(_)
            | PodError::Stream(_) => Code::INVALID_ARGUMENT,
            _ => Code::UNKNOWN,
        };
        get_rpc_status(code, error)
    }
}

impl Service {
    /// A service at `socket`, without a pod; the first Create boots it.
    pub fn new(namespace: &str, pod_id: &str, socket: PathBuf, config: Config, publisher: Publisher) -> Self {
        let shared = Shared {
            namespace: namespace.into(),
            pod_id: pod_id.into(),
            socket,
            config,
            publisher,
            pod: RwLock::default(),
            described: std::sync::Mutex::default(),
            creating: Mutex::default(),
            closing: watch::channel(false).0,
            done: Notify::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Returns once containerd has no more use for this shim.
    pub async fn done(&self) {
        tokio::select! {
            () = self.shared.done.notified() => {}
            () = self.without_pod_for(WITHOUT_POD_LIMIT, WITHOUT_POD_LOOK) => log::warn!("no pod for {WITHOUT_POD_LIMIT:?}: nobody needs this shim"),
        }
    }

    /// Returns once there has been neither a pod nor a creation for as long as `limit`, looking every `interval`.
    async fn without_pod_for(&self, limit: Duration, interval: Duration) {
        let mut last_use = Instant::now();
        while last_use.elapsed() < limit {
            sleep(interval).await;
            if self.pod().is_ok() || self.shared.creating.try_lock().is_err() {
                last_use = Instant::now();
            }
        }
    }

    /// Ends what may still be there.
    pub async fn close(&self) {
        let shared = &self.shared;
        shared.closing.send_replace(true);
        let end_machine = || async {
            if let Ok(pod) = self.pod() {
                pod.end_machine().await;
            }
        };
        // Without its machine a creation fails soon; then there is no other one, and none comes.
        end_machine().await;
        let _creation = shared.creating.lock().await;
        end_machine().await;
        // A pod that was still booting has a directory too.
        let paths = PodPaths::new(&shared.config.state_dir, &shared.namespace, &shared.pod_id);
        let ours = std::fs::read_to_string(paths.owner()).is_ok_and(|owner| Path::new(&owner) == shared.socket);
        if ours && let Err(error) = crate::cleanup::remove_pod(&paths) {
            log::error!("{error}");
        }
    }

    /// The pod's id.
    pub(crate) fn pod_id(&self) -> &str {
        &self.shared.pod_id
    }

    /// What the sandbox API has told of the pod.
    pub(crate) fn described(&self) -> MutexGuard<'_, Option<Described>> {
        // Whole values are put in and taken out.
        self.shared.described.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the server end.
    pub(crate) fn end(&self) {
        self.shared.done.notify_one();
    }

    pub(crate) fn pod(&self) -> Result<Arc<Pod>, PodError> {
        let pod = self.shared.pod.read().unwrap_or_else(PoisonError::into_inner);
        pod.clone().ok_or_else(|| PodError::NotFound(format!("pod {}", self.shared.pod_id)))
    }

    fn set_pod(&self, pod: Option<Arc<Pod>>) {
        *self.shared.pod.write().unwrap_or_else(PoisonError::into_inner) = pod;
    }

    pub(crate) async fn create_container(&self, options: CreateOptions) -> Result<u32, PodError> {
        let _one_at_a_time = self.shared.creating.lock().await;
        match self.pod() {
            Ok(pod) => {
                pod.create(options).await?;
                Ok(pod.pid())
            }
            Err(_) => {
                let shared = &self.shared;
                let (namespace, id, publisher) = (&shared.namespace, &shared.pod_id, shared.publisher.clone());
                let mut closing = shared.closing.subscribe();
                let pod = tokio::select! {
                    biased;
                    // Its machine goes with what held it; `close` removes the rest.
                    _ = closing.wait_for(|closing| *closing) => return Err(PodError::Closing),
                    pod = Pod::boot(&shared.config, namespace, id, &shared.socket, publisher, options) => pod?,
                };
                let pid = pod.pid();
                self.set_pod(Some(pod));
                Ok(pid)
            }
        }
    }

    pub(crate) async fn delete_process(&self, id: &str, exec_id: &str) -> Result<api::DeleteResponse, PodError> {
        let pod = self.pod()?;
        let exit = pod.delete(id, exec_id).await?;
        if pod.is_empty() {
            self.set_pod(None);
        }
        Ok(api::DeleteResponse {
            pid: pod.pid(),
            exit_status: exit.status,
            exited_at: MessageField::some(exit.at.into()),
            ..Default::default()
        })
    }

    fn state_of(&self, id: &str, exec_id: &str) -> Result<api::StateResponse, PodError> {
        let pod = self.pod()?;
        let container = pod.container(id)?;
        let process = pod.process(id, exec_id)?;
        let mut answer = api::StateResponse {
            id: id.into(),
            exec_id: exec_id.into(),
            bundle: container.bundle.clone(),
            pid: pod.pid(),
            stdin: process.stdio.stdin.clone(),
            stdout: process.stdio.stdout.clone(),
            stderr: process.stdio.stderr.clone(),
            terminal: process.stdio.terminal,
            ..Default::default()
        };
        let status = match process.phase() {
            Phase::Created => api::Status::CREATED,
            Phase::Running => api::Status::RUNNING,
            Phase::Paused => api::Status::PAUSED,
            Phase::Stopped(exit) => {
                answer.exit_status = exit.status;
                answer.exited_at = MessageField::some(exit.at.into());
                api::Status::STOPPED
            }
        };
        answer.status = status.into();
        Ok(answer)
    }
}

/// Runs an operation to its end even if the client goes away meanwhile (ttrpc drops the handler then): half an operation would leave
/// half a container.
pub(crate) async fn whole<T: Send + 'static>(
    container: &str,
    operation: impl Future<Output = Result<T, PodError>> + Send + 'static,
) -> ttrpc::Result<T> {
    let logged = async {
        let result = operation.await;
        if let Err(error) = &result {
            log::warn!("{error}");
        }
        result
    };
    match tokio::spawn(logging::of_container(container, logged)).await {
        Ok(result) => Ok(result?),
        Err(error) => Err(get_rpc_status(Code::INTERNAL, error)),
    }
}

#[async_trait]
impl Task for Service {
    async fn create(&self, _: &TtrpcContext, request: api::CreateTaskRequest) -> ttrpc::Result<api::CreateTaskResponse> {
        if !request.checkpoint.is_empty() {
            return Err(get_rpc_status(Code::UNIMPLEMENTED, "restoring a checkpoint is not implemented"));
        }
        let service = self.clone();
        let stdio =
            StdioPaths { stdin: request.stdin, stdout: request.stdout, stderr: request.stderr, terminal: request.terminal };
        let options = CreateOptions { id: request.id, bundle: request.bundle, mounts: request.rootfs, stdio, description: None };
        let id = options.id.clone();
        let pid = whole(&id, async move { service.create_container(options).await }).await?;
        Ok(api::CreateTaskResponse { pid, ..Default::default() })
    }

    async fn start(&self, _: &TtrpcContext, request: api::StartRequest) -> ttrpc::Result<api::StartResponse> {
        let pod = self.pod()?;
        let pid = pod.pid();
        whole(&request.id.clone(), async move { pod.start(&request.id, &request.exec_id).await }).await?;
        Ok(api::StartResponse { pid, ..Default::default() })
    }

    async fn state(&self, _: &TtrpcContext, request: api::StateRequest) -> ttrpc::Result<api::StateResponse> {
        Ok(self.state_of(&request.id, &request.exec_id)?)
    }

    async fn wait(&self, _: &TtrpcContext, request: api::WaitRequest) -> ttrpc::Result<api::WaitResponse> {
        let exit = self.pod()?.process(&request.id, &request.exec_id)?.ended().await;
        Ok(api::WaitResponse { exit_status: exit.status, exited_at: MessageField::some(exit.at.into()), ..Default::default() })
    }

    async fn kill(&self, _: &TtrpcContext, request: api::KillRequest) -> ttrpc::Result<api::Empty> {
        let pod = self.pod()?;
        whole(&request.id.clone(), async move { pod.kill(&request.id, &request.exec_id, request.signal, request.all).await })
            .await?;
        Ok(api::Empty::new())
    }

    async fn delete(&self, _: &TtrpcContext, request: api::DeleteRequest) -> ttrpc::Result<api::DeleteResponse> {
        let service = self.clone();
        let id = request.id.clone();
        whole(&id, async move { service.delete_process(&request.id, &request.exec_id).await }).await
    }

    async fn exec(&self, _: &TtrpcContext, request: api::ExecProcessRequest) -> ttrpc::Result<api::Empty> {
        let pod = self.pod()?;
        let description = request.spec.into_option().unwrap_or_default().value;
        if description.len() > MAX_PROCESS_BYTES {
            return Err(get_rpc_status(Code::INVALID_ARGUMENT, "the process's description is larger than 4 MiB"));
        }
        let stdio =
            StdioPaths { stdin: request.stdin, stdout: request.stdout, stderr: request.stderr, terminal: request.terminal };
        whole(&request.id.clone(), async move { pod.exec(&request.id, &request.exec_id, &description, stdio).await }).await?;
        Ok(api::Empty::new())
    }

    async fn pids(&self, _: &TtrpcContext, request: api::PidsRequest) -> ttrpc::Result<api::PidsResponse> {
        let pod = self.pod()?;
        // Guest pids mean nothing on the host, and clients look them up there (`docker top`): each process of the guest is
        // told as the host process that it runs in.
        let entry = api::ProcessInfo { pid: pod.pid(), ..Default::default() };
        let processes = vec![entry; pod.count_processes(&request.id).await?];
        Ok(api::PidsResponse { processes, ..Default::default() })
    }

    async fn pause(&self, _: &TtrpcContext, request: api::PauseRequest) -> ttrpc::Result<api::Empty> {
        let pod = self.pod()?;
        whole(&request.id.clone(), async move { pod.freeze(&request.id, true).await }).await?;
        Ok(api::Empty::new())
    }

    async fn resume(&self, _: &TtrpcContext, request: api::ResumeRequest) -> ttrpc::Result<api::Empty> {
        let pod = self.pod()?;
        whole(&request.id.clone(), async move { pod.freeze(&request.id, false).await }).await?;
        Ok(api::Empty::new())
    }

    async fn checkpoint(&self, _: &TtrpcContext, _: api::CheckpointTaskRequest) -> ttrpc::Result<api::Empty> {
        Err(get_rpc_status(Code::UNIMPLEMENTED, "checkpoint is not implemented"))
    }

    async fn resize_pty(&self, _: &TtrpcContext, request: api::ResizePtyRequest) -> ttrpc::Result<api::Empty> {
        let pod = self.pod()?;
        if pod.process(&request.id, &request.exec_id)?.exit().is_some() {
            return Err(PodError::Finished.into());
        }
        pod.or_machine_end(pod.agent().resize(&request.id, &request.exec_id, request.width, request.height)).await?;
        Ok(api::Empty::new())
    }

    async fn close_io(&self, _: &TtrpcContext, request: api::CloseIORequest) -> ttrpc::Result<api::Empty> {
        let process = self.pod()?.process(&request.id, &request.exec_id)?;
        if request.stdin
            && let Some(streams) = process.streams.lock().await.as_ref()
        {
            streams.close_input();
        }
        Ok(api::Empty::new())
    }

    async fn update(&self, _: &TtrpcContext, request: api::UpdateTaskRequest) -> ttrpc::Result<api::Empty> {
        let pod = self.pod()?;
        let resources = request.resources.into_option().unwrap_or_default().value;
        let resources = String::from_utf8(resources).map_err(|error| get_rpc_status(Code::INVALID_ARGUMENT, error))?;
        pod.update(&request.id, &resources).await?;
        Ok(api::Empty::new())
    }

    async fn stats(&self, _: &TtrpcContext, request: api::StatsRequest) -> ttrpc::Result<api::StatsResponse> {
        let pod = self.pod()?;
        let files = pod.counters(&request.id).await?;
        let value = crate::metrics::encode(&files).map_err(|error| get_rpc_status(Code::INTERNAL, error))?;
        let any = Any { type_url: crate::metrics::TYPE_URL.into(), value, ..Default::default() };
        Ok(api::StatsResponse { stats: MessageField::some(any), ..Default::default() })
    }

    async fn connect(&self, _: &TtrpcContext, request: api::ConnectRequest) -> ttrpc::Result<api::ConnectResponse> {
        let pod = self.pod()?;
        pod.container(&request.id)?;
        Ok(api::ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: pod.pid(),
            version: env!("CARGO_PKG_VERSION").into(),
            ..Default::default()
        })
    }

    async fn shutdown(&self, _: &TtrpcContext, request: api::ShutdownRequest) -> ttrpc::Result<api::Empty> {
        // Several containers share this shim: each one's removal asks for a shutdown, the last one means it.
        let idle = self.pod().map_or(true, |pod| pod.is_empty());
        if idle || request.now {
            self.end();
        }
        Ok(api::Empty::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_shim_that_never_gets_a_pod_ends_by_itself() {
        const LIMIT: Duration = Duration::from_millis(50);
        const INTERVAL: Duration = Duration::from_millis(5);
        let publisher = Publisher::start("ns", None);
        let service = Service::new("ns", "pod", "/nonexistent/socket".into(), Config::default(), publisher);
        let creating = service.shared.creating.lock().await;
        let ends = service.without_pod_for(LIMIT, INTERVAL);
        tokio::pin!(ends);
        assert!(tokio::time::timeout(LIMIT * 4, &mut ends).await.is_err(), "a creation is under way");
        drop(creating);
        ends.await;
    }
}
