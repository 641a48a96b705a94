//! What containerd asks of the containers of a running pod.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use containerd_shim_protos::events::task as event;
use protobuf::MessageField;

use super::error::wrong_phase;
use super::files::remove_container_files;
use super::{EXEC_END_GRACE, KILLED, Pod, PodError, SIGKILL};
use crate::agent::AgentError;
use crate::container::{Container, Exit, Phase, Process};
use crate::events::Event;
use crate::hooks::Moment;
use crate::logger::Whose;
use crate::machine::MachineError;
use crate::spec::Role;
use crate::streams::{StdioPaths, Streams};
use crate::{cleanup, size};

/// Time for Start's answer to be written before the news of the end may go out.
const START_ANSWER_GRACE: Duration = Duration::from_millis(5);

/// Output may take this long to be passed on after the end of its process; a descendant may hold it open for ever.
const OUTPUT_GRACE: Duration = Duration::from_secs(2);

/// SIGKILL must work whatever the guest does: after this time the whole machine goes.
const KILL_GRACE: Duration = Duration::from_secs(10);

/// Processes told of a container, Linux's PID_MAX_DEFAULT: their number is the guest's word, and each makes the answer longer.
const MAX_PROCESSES: usize = 32_768;

impl Pod {
    /// Adds a process, described by the OCI Process in `description`, to a running container.
    pub async fn exec(self: &Arc<Self>, id: &str, exec_id: &str, description: &[u8], stdio: StdioPaths) -> Result<(), PodError> {
        let container = self.container(id)?;
        if container.init.exit().is_some() {
            return Err(wrong_phase(&container.init));
        }
        if exec_id.is_empty() || container.process(exec_id).is_some() {
            return Err(PodError::Exists(format!("process {exec_id:?} of container {id}")));
        }
        let tokens = stdio.tokens();
        // A name of our own: exec ids may hold anything.
        let number =
            tokens.stdin.split('.').chain(tokens.stdout.split('.')).chain(tokens.stderr.split('.')).find(|part| !part.is_empty());
        let name = format!("process-{}.json", number.map_or_else(unnumbered, str::to_owned));
        let in_share = self.paths.container_in_share(id).join(&name);
        let file = self.paths.files().join(&in_share);
        std::fs::write(&file, description).map_err(|source| PodError::File { path: file.clone(), source })?;
        let added = async {
            self.or_machine_end(self.agent.exec(id, exec_id, &in_share, tokens.clone())).await?;
            let whose = Whose { namespace: self.publisher.namespace(), id: exec_id };
            let streams = Streams::connect(&stdio, &tokens, self.agent.vsock(), whose).await;
            if streams.is_err() {
                self.discard(id, exec_id).await;
            }
            Ok::<_, PodError>(streams?)
        };
        let streams = match added.await {
            Ok(streams) => streams,
            Err(error) => {
                let _ = std::fs::remove_file(&file);
                return Err(error);
            }
        };
        let process = Arc::new(Process::new(id, exec_id, stdio, Some(streams), Some(file)));
        if !container.add_exec(process.clone()) {
            return Err(PodError::Exists(format!("process {exec_id:?} of container {id}")));
        }
        self.publisher.publish(Event::ExecAdded(event::TaskExecAdded {
            container_id: id.into(),
            exec_id: exec_id.into(),
            ..Default::default()
        }));
        self.clone().watch_process(container, process);
        Ok(())
    }

    /// Lets a process run.
    pub async fn start(self: &Arc<Self>, id: &str, exec_id: &str) -> Result<(), PodError> {
        let container = self.container(id)?;
        let process = self.process(id, exec_id)?;
        let starting = process.starting.clone().lock_owned().await;
        if process.phase() != Phase::Created {
            // Why it cannot be started is what became of its machine, where that is gone.
            if self.machine.has_ended() {
                return Err(MachineError::Ended(self.machine.ended().await).into());
            }
            return Err(wrong_phase(&process));
        }
        // What the namespace holds by now, the container finds from its first instruction on.
        let started = async {
            if exec_id.is_empty() {
                self.network.refresh(&self.machine, &self.agent).await?;
                self.open_resolver().await;
            }
            if container.role != Role::Sandbox {
                self.or_machine_end(self.agent.start(id, exec_id)).await?;
            }
            Ok(())
        };
        if let Err(error) = started.await {
            drop(starting);
            // The process must not stay "created" for ever: its owner waits for the end of its streams before deleting it.
            self.discard(id, exec_id).await;
            if tokio::time::timeout(EXEC_END_GRACE, process.ended()).await.is_err() {
                self.settle(&process, Exit { status: KILLED, at: SystemTime::now() }, None).await;
            }
            return Err(error);
        }
        process.enter(Phase::Running);
        if exec_id.is_empty() {
            self.run_late_hooks(&container, Moment::Started).await;
        }
        self.publish(
            id,
            if exec_id.is_empty() {
                Event::Start(event::TaskStart { container_id: id.into(), pid: self.pid(), ..Default::default() })
            } else {
                let (container_id, exec_id) = (id.into(), exec_id.into());
                Event::ExecStarted(event::TaskExecStarted { container_id, exec_id, pid: self.pid(), ..Default::default() })
            },
        );
        log::info!("container started id={id} exec={exec_id} {}", self.machine.counters().await);
        tokio::spawn(async move {
            tokio::time::sleep(START_ANSWER_GRACE).await;
            drop(starting);
        });
        Ok(())
    }

    /// Sends a signal to a process, or to all of its container.
    pub async fn kill(self: &Arc<Self>, id: &str, exec_id: &str, signal: u32, all: bool) -> Result<(), PodError> {
        let container = self.container(id)?;
        let process = self.process(id, exec_id)?;
        if process.exit().is_some() && !all {
            return Err(PodError::Finished);
        }
        if container.role == Role::Sandbox {
            return self.kill_sandbox(&process, signal).await;
        }
        let call = self.or_machine_end(self.agent.kill(id, exec_id, signal, all));
        let limit = if signal == SIGKILL { KILL_GRACE } else { Duration::MAX };
        match tokio::time::timeout(limit, call).await {
            Ok(Err(PodError::Agent(AgentError::NotFound(_)))) if signal == SIGKILL => Err(PodError::Finished),
            Ok(Err(PodError::Machine(MachineError::Ended(_)))) => {
                // Its processes went with it, and who asked may delete them next.
                let _ = tokio::time::timeout(EXEC_END_GRACE, process.ended()).await;
                Err(PodError::Finished)
            }
            Ok(done) => done,
            Err(_) => {
                log::error!("the agent did not kill container {id} within {KILL_GRACE:?}: ending the machine");
                self.machine.kill().await;
                Ok(())
            }
        }
    }

    /// Nothing runs in a sandbox: a signal that would end a process ends the pod.
    async fn kill_sandbox(&self, process: &Process, signal: u32) -> Result<(), PodError> {
        // pause(1) of Kubernetes ends with 0 on SIGINT and SIGTERM, and takes no notice of others than SIGKILL.
        let status = match signal {
            SIGKILL => KILLED,
            2 | 15 => 0,
            _ => return Ok(()),
        };
        // Its network namespace is taken down next: nothing may be left in it.
        self.end_machine().await;
        self.settle(process, Exit { status, at: SystemTime::now() }, None).await;
        Ok(())
    }

    /// Removes an ended process, and with an empty `exec_id` its container. With the last container the machine ends and the pod's
    /// directory goes.
    pub async fn delete(self: &Arc<Self>, id: &str, exec_id: &str) -> Result<Exit, PodError> {
        let container = self.container(id)?;
        let process = self.process(id, exec_id)?;
        let exit = match process.phase() {
            Phase::Stopped(exit) => exit,
            Phase::Created => self.end_unstarted(&container, &process).await,
            Phase::Running | Phase::Paused => return Err(wrong_phase(&process)),
        };
        if let Some(streams) = process.streams.lock().await.as_mut() {
            streams.finish(OUTPUT_GRACE).await;
        }
        if exec_id.is_empty() {
            self.delete_container(&container).await?;
        } else {
            self.discard(id, exec_id).await;
            container.remove_exec(exec_id);
            if let Some(file) = &process.description {
                let _ = std::fs::remove_file(file);
            }
        }
        if exec_id.is_empty() {
            self.run_late_hooks(&container, Moment::Stopped).await;
            self.publish(
                id,
                Event::Delete(event::TaskDelete {
                    container_id: id.into(),
                    pid: self.pid(),
                    exit_status: exit.status,
                    exited_at: MessageField::some(exit.at.into()),
                    ..Default::default()
                }),
            );
        }
        Ok(exit)
    }

    async fn delete_container(&self, container: &Container) -> Result<(), PodError> {
        let last = {
            let containers = self.lock();
            containers.len() == 1 && containers.contains_key(&container.id)
        };
        if last {
            self.end_machine().await;
            cleanup::remove_pod(&self.paths)?;
        } else {
            if container.role != Role::Sandbox {
                self.discard(&container.id, "").await;
            }
            // The guest is done with it; now the host's mounts can go.
            remove_container_files(&self.paths, &container.id)?;
        }
        self.lock().remove(&container.id);
        Ok(())
    }

    async fn end_unstarted(&self, container: &Container, process: &Process) -> Exit {
        if container.role != Role::Sandbox {
            self.discard(&process.container, &process.exec_id).await;
            if let Ok(exit) = tokio::time::timeout(EXEC_END_GRACE, process.ended()).await {
                return exit;
            }
        }
        let exit = Exit { status: KILLED, at: SystemTime::now() };
        self.settle(process, exit, None).await;
        process.exit().unwrap_or(exit)
    }

    /// How many processes a container has. One that has ended keeps its init's place until it is deleted, as a zombie does: a restarted
    /// containerd takes a shim without processes for one whose task was never made, and removes it.
    pub async fn count_processes(&self, id: &str) -> Result<usize, PodError> {
        let container = self.container(id)?;
        if container.role == Role::Sandbox || container.init.exit().is_some() {
            return Ok(1);
        }
        Ok(self.or_machine_end(self.agent.pids(id)).await?.len().clamp(1, MAX_PROCESSES))
    }

    /// The counters of a container: its cgroup's files by name. Nothing runs in a sandbox, so it has none.
    pub async fn counters(&self, id: &str) -> Result<HashMap<String, String>, PodError> {
        if self.container(id)?.role == Role::Sandbox {
            return Ok(HashMap::new());
        }
        self.or_machine_end(self.agent.stats(id)).await
    }

    /// Applies new limits, an OCI LinuxResources as JSON. What it leaves out stays.
    pub async fn update(&self, id: &str, resources: &str) -> Result<(), PodError> {
        let container = self.container(id)?;
        let limit = size::memory_limit(resources).map_err(PodError::Resources)?;
        let machine_bytes = self.machine.memory_bytes();
        if let Some(limit_bytes) = limit.filter(|limit| *limit > machine_bytes) {
            return Err(PodError::BeyondMachine { limit_bytes, machine_bytes });
        }
        // Nothing runs in a sandbox.
        if container.role == Role::Sandbox {
            return Ok(());
        }
        self.or_machine_end(self.agent.update(id, resources)).await
    }

    /// Freezes or thaws a container.
    pub async fn freeze(&self, id: &str, frozen: bool) -> Result<(), PodError> {
        let container = self.container(id)?;
        let (from, to) = if frozen { (Phase::Running, Phase::Paused) } else { (Phase::Paused, Phase::Running) };
        if container.init.phase() != from {
            return Err(wrong_phase(&container.init));
        }
        let container_id = id.to_owned();
        if frozen {
            self.or_machine_end(self.agent.pause(id)).await?;
            container.init.enter(to);
            self.publisher.publish(Event::Paused(event::TaskPaused { container_id, ..Default::default() }));
        } else {
            self.or_machine_end(self.agent.resume(id)).await?;
            container.init.enter(to);
            self.publisher.publish(Event::Resumed(event::TaskResumed { container_id, ..Default::default() }));
        }
        Ok(())
    }
}

/// A name for the description of a process without streams.
fn unnumbered() -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("t{}", now.as_nanos())
}
