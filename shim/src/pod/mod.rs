//! One pod: a machine, its agent and the containers in it, from boot to the last removal.
//!
//! `boot` brings it up, `files` lays out what it has on the host, `network` follows its interfaces, `tasks` does what containerd asks, `ends` tells how everything ended.

mod boot;
mod ends;
mod error;
mod files;
mod network;
mod tasks;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use containerd_shim_protos::api::Mount;
use containerd_shim_protos::events::task as event;
use protobuf::MessageField;

use self::files::{Prepared, prepare_files, remove_container_files};
use crate::agent::{Agent, AgentError};
use crate::container::{Container, Process};
use crate::events::{Event, Publisher};
use crate::hooks::{self, Moment};
use crate::logger::Whose;
use crate::machine::{Machine, MachineError};
use crate::network::Network;
use crate::network::resolver::Resolver;
use crate::paths::PodPaths;
use crate::sandbox::description::Description;
use crate::spec::{Role, Spec};
use crate::streams::{StdioPaths, Streams};

pub use error::{ConsoleTail, PodError};

/// Exit status of processes whose machine is gone, as if each had got SIGKILL.
const KILLED: u32 = 128 + 9;

/// Added processes get this long to end after their container's init.
const EXEC_END_GRACE: Duration = Duration::from_secs(2);

/// A machine that died breaks the agent's connection first; its own end is known within this time.
const MACHINE_END_GRACE: Duration = Duration::from_secs(2);

const SIGKILL: u32 = 9;

/// What containerd asks for when it creates a container.
pub struct CreateOptions {
    /// Container id.
    pub id: String,
    /// Its bundle.
    pub bundle: String,
    /// The snapshotter's mounts.
    pub mounts: Vec<Mount>,
    /// Its standard streams.
    pub stdio: StdioPaths,
    /// The pod's description, when it comes by the sandbox API.
    pub description: Option<Description>,
}

/// A running pod.
pub struct Pod {
    id: String,
    paths: PodPaths,
    machine: Machine,
    network: Network,
    agent: Agent,
    publisher: Publisher,
    /// Made by the sandbox API: containerd knows no task that stands for the pod.
    without_pause: bool,
    /// The host's file that is the first container's resolv.conf.
    resolv_conf: Option<PathBuf>,
    /// Open once that file names Docker's resolver.
    resolver: tokio::sync::Mutex<Option<Resolver>>,
    containers: Mutex<HashMap<String, Arc<Container>>>,
}

/// Refuses ids that could leave their directory. containerd's own rules are stricter.
fn check_id(id: &str) -> Result<(), PodError> {
    let sound = !id.is_empty() && id.len() <= 255 && !id.contains(['/', '\0']) && id != "." && id != "..";
    if sound { Ok(()) } else { Err(PodError::BadId(id.chars().take(64).collect())) }
}

impl Pod {
    /// Host process id of the machine, which stands for every process of the pod on the host.
    pub fn pid(&self) -> u32 {
        self.machine.pid()
    }

    /// The pod's directory.
    pub fn paths(&self) -> &PodPaths {
        &self.paths
    }

    /// The agent.
    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    /// Whether no container is left.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// The containers' ids.
    pub fn container_ids(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    /// The container of that id.
    pub fn container(&self, id: &str) -> Result<Arc<Container>, PodError> {
        self.lock().get(id).cloned().ok_or_else(|| PodError::NotFound(format!("container {id}")))
    }

    /// The process of that name.
    pub fn process(&self, id: &str, exec_id: &str) -> Result<Arc<Process>, PodError> {
        let process = self.container(id)?.process(exec_id);
        process.ok_or_else(|| PodError::NotFound(format!("process {exec_id} of container {id}")))
    }

    /// Creates a further container of the pod.
    pub async fn create(self: &Arc<Self>, options: CreateOptions) -> Result<(), PodError> {
        check_id(&options.id)?;
        if self.lock().contains_key(&options.id) {
            return Err(PodError::Exists(format!("container {}", options.id)));
        }
        let mut spec = Spec::load(Path::new(&options.bundle))?;
        if self.without_pause {
            spec.add_pod_files(&self.paths.pod_files());
        }
        let id = options.id.clone();
        let created = match prepare_files(&self.paths, &spec, &options) {
            Ok(prepared) => self.create_prepared(&spec, prepared, options).await,
            Err(error) => Err(error),
        };
        if created.is_err()
            && let Err(error) = remove_container_files(&self.paths, &id)
        {
            log::error!("{error}");
        }
        created
    }

    async fn create_prepared(self: &Arc<Self>, spec: &Spec, prepared: Prepared, options: CreateOptions) -> Result<(), PodError> {
        let CreateOptions { id, bundle, mounts, stdio, .. } = options;
        hooks::run(spec, Moment::Creating, &id, self.pid(), Path::new(&bundle)).await?;
        let streams = match prepared {
            Prepared::Sandbox => None,
            Prepared::Container(memory) => {
                let tokens = stdio.tokens();
                let in_share = self.paths.container_in_share(&id);
                self.or_machine_end(self.agent.create(&id, &in_share, &memory, tokens.clone())).await?;
                let whose = Whose { namespace: self.publisher.namespace(), id: &id };
                let connect = async { Ok(Streams::connect(&stdio, &tokens, self.agent.vsock(), whose).await) };
                let streams = self.or_machine_end(connect).await?;
                match streams {
                    Ok(streams) => Some(streams),
                    Err(error) => {
                        self.discard(&id, "").await;
                        return Err(error.into());
                    }
                }
            }
        };
        let io = event::TaskIO {
            stdin: stdio.stdin.clone(),
            stdout: stdio.stdout.clone(),
            stderr: stdio.stderr.clone(),
            terminal: stdio.terminal,
            ..Default::default()
        };
        let init = Arc::new(Process::new(&id, "", stdio, streams, None));
        let container = Arc::new(Container::new(&id, &bundle, spec.role(), init.clone()));
        self.lock().insert(id.clone(), container.clone());
        self.publish(
            &id,
            Event::Create(event::TaskCreate {
                container_id: id.clone(),
                bundle,
                rootfs: mounts,
                io: MessageField::some(io),
                pid: self.pid(),
                ..Default::default()
            }),
        );
        log::info!("container created id={id} {}", self.machine.counters().await);
        if container.role != Role::Sandbox {
            self.clone().watch_oom(container.clone());
            self.clone().watch_process(container, init);
        }
        Ok(())
    }

    /// Tells containerd what became of a container, unless it is the sandbox of a pod that has no task of its own.
    fn publish(&self, container: &str, event: Event) {
        if !self.without_pause || container != self.id {
            self.publisher.publish(event);
        }
    }

    /// An agent's call that ends with the machine's end.
    pub async fn or_machine_end<T>(&self, call: impl Future<Output = Result<T, AgentError>>) -> Result<T, PodError> {
        let error = tokio::select! {
            answer = call => match answer {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            },
            end = self.machine.ended() => return Err(MachineError::Ended(end).into()),
        };
        // A broken connection is the first sign of a dead machine; its own account tells more.
        if matches!(error, AgentError::Connect { .. } | AgentError::Lost { .. })
            && let Ok(end) = tokio::time::timeout(MACHINE_END_GRACE, self.machine.ended()).await
        {
            return Err(MachineError::Ended(end).into());
        }
        Err(error.into())
    }

    /// Kills and removes a process in the guest, without asking whether that was possible.
    async fn discard(&self, id: &str, exec_id: &str) {
        if self.machine.has_ended() {
            return;
        }
        let _ = self.or_machine_end(self.agent.kill(id, exec_id, SIGKILL, exec_id.is_empty())).await;
        if let Err(error) = self.or_machine_end(self.agent.delete(id, exec_id)).await {
            log::debug!("remove container {id} exec {exec_id:?} in the guest: {error}");
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Container>>> {
        // Whole operations on a map: a panic elsewhere leaves it usable.
        self.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_leave_their_directory_are_refused() {
        for bad in ["", ".", "..", "a/b", "../x", "a\0"] {
            assert!(check_id(bad).is_err(), "{bad:?}");
        }
        assert!(check_id("first-1_2.x").is_ok());
    }
}
