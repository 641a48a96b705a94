//! containerd's sandbox API (`containerd.runtime.sandbox.v1`), which containerd 2 speaks with `sandboxer = "shim"`: the pod is made and ended
//! by calls of its own, and no pause container stands for it.
//!
//! [`description`] turns Kubernetes' message into the specification that a pause container would have. From there on it is the same pod:
//! its sandbox, in which nothing runs, is created, started, waited for and deleted by these calls in place of those of the Task API.

pub mod description;

use std::collections::HashMap;
use std::path::Path;
use std::time::SystemTime;

use async_trait::async_trait;
use containerd_shim_protos::sandbox_api as api;
use containerd_shim_protos::sandbox_async::Sandbox;
use containerd_shim_protos::types::platform::Platform;
use protobuf::MessageField;
use protobuf::well_known_types::any::Any;
use ttrpc::Code;
use ttrpc::r#async::TtrpcContext;
use ttrpc::error::get_rpc_status;

use self::description::Description;
use crate::container::Phase;
use crate::elf::GUEST_ARCHITECTURE;
use crate::pod::{CreateOptions, PodError};
use crate::service::{Service, whole};
use crate::spec::Spec;
use crate::streams::StdioPaths;

/// States as Kubernetes spells them.
const READY: &str = "SANDBOX_READY";
const NOT_READY: &str = "SANDBOX_NOTREADY";

const SIGTERM: u32 = 15;

/// A sandbox that was described, and perhaps started.
#[derive(Debug)]
pub(crate) struct Described {
    bundle: String,
    description: Option<Description>,
    started_at: Option<SystemTime>,
}

impl Service {
    fn check_sandbox(&self, id: &str) -> Result<(), PodError> {
        if id == self.pod_id() { Ok(()) } else { Err(PodError::NotFound(format!("sandbox {id}"))) }
    }

    /// Writes the specification that a pause container would have into the bundle.
    fn describe(&self, request: &api::CreateSandboxRequest) -> Result<(), PodError> {
        let id = request.sandbox_id.as_str();
        self.check_sandbox(id)?;
        let mut described = self.described();
        if described.is_some() {
            return Err(PodError::Exists(format!("sandbox {id}")));
        }
        let description = Description::parse(request.options.get_or_default())?;
        let document = description.document(id, &request.netns_path, &request.annotations);
        let path = Path::new(&request.bundle_path).join("config.json");
        std::fs::write(&path, document.to_string()).map_err(|source| PodError::File { path, source })?;
        // What cannot be is refused before anything is made.
        Spec::load(Path::new(&request.bundle_path))?;
        let bundle = request.bundle_path.clone();
        *described = Some(Described { bundle, description: Some(description), started_at: None });
        Ok(())
    }

    async fn start_described(&self, id: &str) -> Result<(u32, SystemTime), PodError> {
        self.check_sandbox(id)?;
        let (bundle, description) = {
            let mut described = self.described();
            let found = described.as_mut().ok_or_else(|| PodError::NotFound(format!("sandbox {id}")))?;
            let description = found.description.take();
            (found.bundle.clone(), description.ok_or_else(|| PodError::Exists(format!("sandbox {id}")))?)
        };
        let options = CreateOptions {
            id: id.into(),
            bundle,
            mounts: Vec::new(),
            stdio: StdioPaths::default(),
            description: Some(description),
        };
        let pid = self.create_container(options).await?;
        self.pod()?.start(id, "").await?;
        let now = SystemTime::now();
        if let Some(described) = self.described().as_mut() {
            described.started_at = Some(now);
        }
        Ok((pid, now))
    }

    /// Ends the pod's machine; a sandbox that has ended, or was never started, stays as it is.
    async fn stop_sandbox_pod(&self, id: &str) -> Result<(), PodError> {
        self.check_sandbox(id)?;
        let Ok(pod) = self.pod() else { return Ok(()) };
        match pod.kill(id, "", SIGTERM, false).await {
            Err(PodError::Finished | PodError::NotFound(_)) => Ok(()),
            done => done,
        }
    }

    fn sandbox_status_of(&self, id: &str, verbose: bool) -> Result<api::SandboxStatusResponse, PodError> {
        self.check_sandbox(id)?;
        let pod = self.pod()?;
        let mut answer = api::SandboxStatusResponse { sandbox_id: id.into(), pid: pod.pid(), ..Default::default() };
        let ready = match pod.process(id, "")?.phase() {
            Phase::Stopped(exit) => {
                answer.exited_at = MessageField::some(exit.at.into());
                false
            }
            phase => phase == Phase::Running,
        };
        answer.state = if ready { READY } else { NOT_READY }.into();
        answer.created_at = self.described().as_ref().and_then(|described| described.started_at).map(Into::into).into();
        if verbose {
            let agent = pod.agent();
            let facts = [("kernel", &agent.kernel_release), ("boot_id", &agent.boot_id)];
            answer.info = facts.map(|(name, text)| (name.to_owned(), text.clone())).into();
        }
        Ok(answer)
    }

    /// What the pod's containers have used together.
    async fn sandbox_counters(&self, id: &str) -> Result<HashMap<String, String>, PodError> {
        self.check_sandbox(id)?;
        let pod = self.pod()?;
        let mut all = Vec::new();
        for container in pod.container_ids() {
            // One that is removed meanwhile counts no more.
            all.extend(pod.counters(&container).await.ok());
        }
        Ok(crate::metrics::sum(&all))
    }
}

#[async_trait]
impl Sandbox for Service {
    async fn create_sandbox(
        &self,
        _: &TtrpcContext,
        request: api::CreateSandboxRequest,
    ) -> ttrpc::Result<api::CreateSandboxResponse> {
        self.describe(&request).inspect_err(|error| log::warn!("{error}"))?;
        Ok(api::CreateSandboxResponse::default())
    }

    async fn start_sandbox(
        &self,
        _: &TtrpcContext,
        request: api::StartSandboxRequest,
    ) -> ttrpc::Result<api::StartSandboxResponse> {
        let service = self.clone();
        let id = request.sandbox_id;
        let (pid, at) = whole(&id.clone(), async move { service.start_described(&id).await }).await?;
        Ok(api::StartSandboxResponse { pid, created_at: MessageField::some(at.into()), ..Default::default() })
    }

    async fn platform(&self, _: &TtrpcContext, request: api::PlatformRequest) -> ttrpc::Result<api::PlatformResponse> {
        self.check_sandbox(&request.sandbox_id)?;
        let platform = Platform { os: "linux".into(), architecture: GUEST_ARCHITECTURE.into(), ..Default::default() };
        Ok(api::PlatformResponse { platform: MessageField::some(platform), ..Default::default() })
    }

    async fn stop_sandbox(&self, _: &TtrpcContext, request: api::StopSandboxRequest) -> ttrpc::Result<api::StopSandboxResponse> {
        let service = self.clone();
        let id = request.sandbox_id;
        whole(&id.clone(), async move { service.stop_sandbox_pod(&id).await }).await?;
        Ok(api::StopSandboxResponse::default())
    }

    async fn wait_sandbox(&self, _: &TtrpcContext, request: api::WaitSandboxRequest) -> ttrpc::Result<api::WaitSandboxResponse> {
        let exit = self.pod()?.process(&request.sandbox_id, "")?.ended().await;
        let exited_at = MessageField::some(exit.at.into());
        Ok(api::WaitSandboxResponse { exit_status: exit.status, exited_at, ..Default::default() })
    }

    async fn sandbox_status(
        &self,
        _: &TtrpcContext,
        request: api::SandboxStatusRequest,
    ) -> ttrpc::Result<api::SandboxStatusResponse> {
        Ok(self.sandbox_status_of(&request.sandbox_id, request.verbose)?)
    }

    async fn ping_sandbox(&self, _: &TtrpcContext, request: api::PingRequest) -> ttrpc::Result<api::PingResponse> {
        self.check_sandbox(&request.sandbox_id)?;
        match self.pod()?.process(&request.sandbox_id, "")?.exit() {
            None => Ok(api::PingResponse::default()),
            Some(_) => Err(PodError::Finished.into()),
        }
    }

    async fn shutdown_sandbox(
        &self,
        _: &TtrpcContext,
        request: api::ShutdownSandboxRequest,
    ) -> ttrpc::Result<api::ShutdownSandboxResponse> {
        let service = self.clone();
        let id = request.sandbox_id;
        whole(&id.clone(), async move {
            service.stop_sandbox_pod(&id).await?;
            // One that was not started has nothing to delete; what members are left goes with the shim.
            match service.delete_process(&id, "").await {
                Err(PodError::NotFound(_)) | Ok(_) => service.end(),
                Err(error) => return Err(error),
            }
            Ok(())
        })
        .await?;
        Ok(api::ShutdownSandboxResponse::default())
    }

    async fn sandbox_metrics(
        &self,
        _: &TtrpcContext,
        request: api::SandboxMetricsRequest,
    ) -> ttrpc::Result<api::SandboxMetricsResponse> {
        let files = self.sandbox_counters(&request.sandbox_id).await?;
        let value = crate::metrics::encode(&files).map_err(|error| get_rpc_status(Code::INTERNAL, error))?;
        let mut answer = api::SandboxMetricsResponse::default();
        let metric = answer.metrics.mut_or_insert_default();
        metric.id = request.sandbox_id;
        metric.timestamp = MessageField::some(SystemTime::now().into());
        metric.data = MessageField::some(Any { type_url: crate::metrics::TYPE_URL.into(), value, ..Default::default() });
        Ok(answer)
    }
}
