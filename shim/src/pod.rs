//! One pod: a machine, its agent and the containers in it, from boot to the last removal.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use containerd_shim_protos::api::Mount;
use containerd_shim_protos::events::task as event;
use protobuf::MessageField;
use tokio::net::UnixListener;

use crate::agent::{self, Agent, AgentError};
use crate::cleanup::{self, CleanupError};
use crate::config::{Config, ConfigError};
use crate::container::{Container, Exit, Phase, Process};
use crate::elf::{self, WrongArchitecture};
use crate::events::{Event, Publisher};
use crate::machine::{Counters, Machine, MachineEnd, MachineError};
use crate::note::Note;
use crate::paths::PodPaths;
use crate::rootfs::{self, MountError};
use crate::spec::{Role, Spec, SpecError};
use crate::streams::{StdioPaths, StreamError, Streams};

/// Exit status of processes whose machine is gone, as if each had got SIGKILL.
const KILLED: u32 = 128 + 9;

/// Time for Start's answer to be written before the news of the end may go out.
const START_ANSWER_GRACE: Duration = Duration::from_millis(5);

/// Output may take this long to be passed on after the end of its process; a descendant may hold it open for ever.
const OUTPUT_GRACE: Duration = Duration::from_secs(2);

/// Added processes get this long to end after their container's init.
const EXEC_END_GRACE: Duration = Duration::from_secs(2);

/// The guest gets this long to sync its file systems and power off. containerd waits three seconds for Shutdown.
const POWER_OFF_GRACE: Duration = Duration::from_secs(2);

/// A machine that died breaks the agent's connection first; its own end is known within this time.
const MACHINE_END_GRACE: Duration = Duration::from_secs(2);

/// SIGKILL must work whatever the guest does: after this time the whole machine goes.
const KILL_GRACE: Duration = Duration::from_secs(10);

const SIGKILL: u32 = 9;

/// What went wrong with a pod or one of its containers.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    /// An annotation of this runtime is unusable.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The specification is unusable.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The image cannot run in these guests.
    #[error(transparent)]
    Architecture(#[from] WrongArchitecture),
    /// Something could not be mounted.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// There is no machine, or it ended.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The agent refused or is unreachable.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// Standard streams could not be set up.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// Something is left on the host.
    #[error(transparent)]
    Cleanup(#[from] CleanupError),
    /// A file of the pod cannot be written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The guest did not come up in time.
    #[error("the guest's agent was not ready within {0:?}{1}")]
    BootTimeout(Duration, ConsoleTail),
    /// The id cannot name a directory.
    #[error("{0:?} is not a container id")]
    BadId(String),
    /// The name is taken.
    #[error("{0} exists already")]
    Exists(String),
    /// No container or process of that name.
    #[error("{0}: not found")]
    NotFound(String),
    /// Not possible in the process's present phase.
    #[error("{what} is {phase}")]
    WrongPhase {
        /// Container or process.
        what: String,
        /// Its phase.
        phase: &'static str,
    },
    /// The process has ended already.
    #[error("process already finished")]
    Finished,
}

/// Last console lines, for a message.
#[derive(Debug)]
pub struct ConsoleTail(Arc<MachineEnd>);

impl std::fmt::Display for ConsoleTail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.console_tail.is_empty() {
            return f.write_str("; its console is silent");
        }
        f.write_str("; last lines of its console:")?;
        self.0.console_tail.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

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
}

/// A running pod.
pub struct Pod {
    id: String,
    paths: PodPaths,
    machine: Machine,
    agent: Agent,
    publisher: Publisher,
    containers: Mutex<HashMap<String, Arc<Container>>>,
}

/// Refuses ids that could leave their directory. containerd's own rules are stricter.
fn check_id(id: &str) -> Result<(), PodError> {
    let sound = !id.is_empty() && id.len() <= 255 && !id.contains(['/', '\0']) && id != "." && id != "..";
    if sound { Ok(()) } else { Err(PodError::BadId(id.chars().take(64).collect())) }
}

impl Pod {
    /// Boots a machine for the pod and creates its first container. Leaves nothing behind when it fails.
    pub async fn boot(
        config: &Config,
        namespace: &str,
        id: &str,
        publisher: Publisher,
        options: CreateOptions,
    ) -> Result<Arc<Self>, PodError> {
        check_id(id)?;
        check_id(namespace)?;
        check_id(&options.id)?;
        let spec = Spec::load(Path::new(&options.bundle))?;
        let annotations = spec.annotations();
        let config = &config.with_annotations(annotations.iter().map(|(name, value)| (name.as_str(), value.as_str())))?;
        let paths = PodPaths::new(&config.state_dir, namespace, id);
        if let Err(source) = make_pod_directory(&paths) {
            return Err(match source.kind() {
                std::io::ErrorKind::AlreadyExists => PodError::Exists(format!("pod {namespace}/{id}")),
                _ => PodError::File { path: paths.root().into(), source },
            });
        }
        if let Err(error) = Note::new(namespace, id, config, annotations).write(&paths) {
            log::warn!("pod.json, for the paperboat command: {error}");
        }
        let booted = Self::boot_in(config, id, &paths, publisher, &spec, options).await;
        if booted.is_err()
            && let Err(error) = cleanup::remove_pod(&paths)
        {
            log::error!("{error}");
        }
        booted
    }

    async fn boot_in(
        config: &Config,
        id: &str,
        paths: &PodPaths,
        publisher: Publisher,
        spec: &Spec,
        options: CreateOptions,
    ) -> Result<Arc<Self>, PodError> {
        crate::logging::also_to(&paths.shim_log());
        rootfs::mount_share(&paths.files(), &paths.share())?;
        if let Some(tools) = config.debug_tools.as_deref().filter(|_| config.debug_console) {
            rootfs::mount_debug_tools(tools, &paths.files(), &paths.share())?;
        }
        // What can fail early fails before a machine boots for nothing.
        let prepared = prepare_files(paths, spec, &options)?;
        let ready_socket = paths.ready_socket();
        let ready = UnixListener::bind(&ready_socket).map_err(|source| PodError::File { path: ready_socket, source })?;
        let machine = Machine::start(config, paths, id, spec.network_namespace(), spec.cgroups_path()).await?;
        let agent = match boot_agent(config, paths, &machine, ready, spec.hostname()).await {
            Ok(agent) => agent,
            Err(error) => {
                machine.expect_end();
                machine.kill().await;
                // Only now is the console complete.
                return Err(match error {
                    PodError::BootTimeout(limit, _) => PodError::BootTimeout(limit, ConsoleTail(machine.ended().await)),
                    other => other,
                });
            }
        };
        let pod = Arc::new(Self { id: id.into(), paths: paths.clone(), machine, agent, publisher, containers: Mutex::default() });
        log::info!(
            "agent ready kernel={} boot_id={} {}",
            pod.agent.kernel_release,
            pod.agent.boot_id,
            pod.machine.counters().await
        );
        pod.clone().watch_machine();
        if let Err(error) = pod.create_prepared(spec, prepared, options).await {
            pod.end_machine().await;
            return Err(error);
        }
        Ok(pod)
    }

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
        let spec = Spec::load(Path::new(&options.bundle))?;
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
        let CreateOptions { id, bundle, mounts, stdio } = options;
        let streams = match prepared {
            Prepared::Sandbox => None,
            Prepared::Container => {
                let tokens = stdio.tokens();
                let in_share = self.paths.container_in_share(&id);
                self.or_machine_end(self.agent.create(&id, &in_share, tokens.clone())).await?;
                let streams =
                    self.or_machine_end(async { Ok(Streams::connect(&stdio, &tokens, self.agent.vsock()).await) }).await?;
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
        self.publisher.publish(Event::Create(event::TaskCreate {
            container_id: id.clone(),
            bundle,
            rootfs: mounts,
            io: MessageField::some(io),
            pid: self.pid(),
            ..Default::default()
        }));
        log::info!("container created id={id} {}", self.machine.counters().await);
        if container.role != Role::Sandbox {
            self.clone().watch_process(container, init);
        }
        Ok(())
    }

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
            let streams = Streams::connect(&stdio, &tokens, self.agent.vsock()).await;
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
            return Err(wrong_phase(&process));
        }
        if container.role != Role::Sandbox
            && let Err(error) = self.or_machine_end(self.agent.start(id, exec_id)).await
        {
            drop(starting);
            // The process must not stay "created" for ever: its owner waits for the end of its streams before deleting it.
            self.discard(id, exec_id).await;
            if tokio::time::timeout(EXEC_END_GRACE, process.ended()).await.is_err() {
                self.settle(&process, Exit { status: KILLED, at: SystemTime::now() }, None).await;
            }
            return Err(error);
        }
        process.enter(Phase::Running);
        self.publisher.publish(if exec_id.is_empty() {
            Event::Start(event::TaskStart { container_id: id.into(), pid: self.pid(), ..Default::default() })
        } else {
            let (container_id, exec_id) = (id.into(), exec_id.into());
            Event::ExecStarted(event::TaskExecStarted { container_id, exec_id, pid: self.pid(), ..Default::default() })
        });
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
        if signal != SIGKILL {
            return call.await;
        }
        match tokio::time::timeout(KILL_GRACE, call).await {
            Ok(Err(PodError::Agent(AgentError::NotFound(_)))) => Err(PodError::Finished),
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
            self.publisher.publish(Event::Delete(event::TaskDelete {
                container_id: id.into(),
                pid: self.pid(),
                exit_status: exit.status,
                exited_at: MessageField::some(exit.at.into()),
                ..Default::default()
            }));
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

    /// Lets the guest power off, then makes sure.
    pub async fn end_machine(&self) {
        self.machine.expect_end();
        if !self.machine.has_ended() {
            self.agent.shutdown(POWER_OFF_GRACE).await;
            if tokio::time::timeout(POWER_OFF_GRACE, self.machine.ended()).await.is_err() {
                self.machine.stop().await;
            }
        }
    }

    /// Waits for a process's end and tells everybody.
    fn watch_process(self: Arc<Self>, container: Arc<Container>, process: Arc<Process>) {
        tokio::spawn(async move {
            let (exit, oom, last_words) = self.end_of(&process).await;
            log::info!(
                "container ended id={} exec={} status={} {}",
                process.container,
                process.exec_id,
                exit.status,
                self.machine.counters().await
            );
            if process.exec_id.is_empty() {
                let others = async {
                    for exec in container.execs() {
                        exec.ended().await;
                    }
                };
                let _ = tokio::time::timeout(EXEC_END_GRACE, others).await;
            }
            if oom {
                let container_id = process.container.clone();
                self.publisher.publish(Event::Oom(event::TaskOOM { container_id, ..Default::default() }));
            }
            self.settle(&process, exit, last_words).await;
        });
    }

    /// How the process ended, whether by want of memory, and what to tell its readers when it was not by itself.
    async fn end_of(&self, process: &Process) -> (Exit, bool, Option<String>) {
        match self.or_machine_end(self.agent.wait(&process.container, &process.exec_id)).await {
            Ok(answer) => {
                let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(answer.exited_at_unix_ns));
                // A guest's clock may say anything; its exit status is a byte.
                let at = at.filter(|at| *at <= SystemTime::now() && answer.exited_at_unix_ns > 0).unwrap_or_else(SystemTime::now);
                (Exit { status: answer.exit_status & 0xff, at }, answer.oom, None)
            }
            Err(error) => {
                let killed = Exit { status: KILLED, at: SystemTime::now() };
                if matches!(error, PodError::Agent(AgentError::NotFound(_))) {
                    return (killed, false, None);
                }
                let expected = matches!(&error, PodError::Machine(MachineError::Ended(end)) if end.expected);
                if !self.machine.has_ended() {
                    log::error!("the guest's agent failed, ending the machine: {error}");
                    self.machine.kill().await;
                }
                let newline = if process.stdio.terminal { "\r\n" } else { "\n" };
                let words = format!("paperboat: pod {}: {error}\n", self.id).replace('\n', newline);
                (killed, false, (!expected).then_some(words))
            }
        }
    }

    /// Makes the end of a process known: first to its streams, then to waiters and containerd, after the news of its start.
    async fn settle(&self, process: &Process, exit: Exit, last_words: Option<String>) {
        if let Some(streams) = process.streams.lock().await.as_ref() {
            streams.process_ended(last_words);
        }
        let _start_is_out = process.starting.lock().await;
        if process.enter(Phase::Stopped(exit)) {
            let id = if process.exec_id.is_empty() { &process.container } else { &process.exec_id };
            self.publisher.publish(Event::Exit(event::TaskExit {
                container_id: process.container.clone(),
                id: id.clone(),
                pid: self.pid(),
                exit_status: exit.status,
                exited_at: MessageField::some(exit.at.into()),
                ..Default::default()
            }));
        }
    }

    /// A sandbox ends with its machine.
    fn watch_machine(self: Arc<Self>) {
        tokio::spawn(async move {
            self.machine.ended().await;
            let sandboxes: Vec<_> = self.lock().values().filter(|container| container.role == Role::Sandbox).cloned().collect();
            for sandbox in sandboxes {
                self.settle(&sandbox.init, Exit { status: KILLED, at: SystemTime::now() }, None).await;
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Container>>> {
        // Whole operations on a map: a panic elsewhere leaves it usable.
        self.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What [`prepare_files`] laid out.
enum Prepared {
    /// Nothing: no process runs in a sandbox.
    Sandbox,
    /// Specification, root file system and volumes.
    Container,
}

/// The pod's directory, which must not exist yet: another pod's would be taken down with this one.
fn make_pod_directory(paths: &PodPaths) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let mut builder = std::fs::DirBuilder::new();
    builder.mode(0o700);
    if let Some(parent) = paths.root().parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    }
    builder.create(paths.root())
}

/// Lays out a container's part of the share: specification, root file system, volumes.
fn prepare_files(paths: &PodPaths, spec: &Spec, options: &CreateOptions) -> Result<Prepared, PodError> {
    if spec.role() == Role::Sandbox {
        return Ok(Prepared::Sandbox);
    }
    let in_share = paths.container_in_share(&options.id);
    let (files, share) = (paths.files().join(&in_share), paths.share().join(&in_share));
    let (document, volumes) = spec.for_guest(&in_share)?;
    rootfs::make_directory(&files.join("rootfs"))?;
    let config = files.join("config.json");
    std::fs::write(&config, document).map_err(|source| PodError::File { path: config, source })?;
    let root = share.join("rootfs");
    rootfs::mount_root(&options.mounts, &Path::new(&options.bundle).join(spec.root_path()), &root)?;
    if let Some((args, env, cwd)) = spec.program() {
        elf::check(&root, args, env, cwd)?;
    }
    for volume in &volumes {
        rootfs::make_volume_target(volume, &files.join("mounts"))?;
        rootfs::mount_volume(volume, &share.join("mounts"))?;
    }
    Ok(Prepared::Container)
}

fn remove_container_files(paths: &PodPaths, id: &str) -> Result<(), CleanupError> {
    let in_share = paths.container_in_share(id);
    cleanup::unmount_below(&paths.share().join(&in_share))?;
    cleanup::remove_tree(&paths.files().join(&in_share))
}

/// Waits for the agent, for as long as the machine lives and the configuration allows.
async fn boot_agent(
    config: &Config,
    paths: &PodPaths,
    machine: &Machine,
    ready: UnixListener,
    hostname: &str,
) -> Result<Agent, PodError> {
    let vsock = paths.vsock_socket();
    // A specification without a host name means the host's, as in a namespace nobody named.
    let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    let hostname = if hostname.is_empty() { host() } else { hostname.to_owned() };
    let boot = async {
        agent::wait_ready(ready).await?;
        Agent::connect(&vsock, &hostname).await
    };
    let limit = config.boot_timeout();
    let booted = tokio::select! {
        booted = tokio::time::timeout(limit, boot) => booted,
        end = machine.ended() => return Err(MachineError::Ended(end).into()),
    };
    match booted {
        Ok(Ok(agent)) => Ok(agent),
        // A machine that died between two steps explains more than the step that failed.
        Ok(Err(error)) => match tokio::time::timeout(MACHINE_END_GRACE, machine.ended()).await {
            Ok(end) => Err(MachineError::Ended(end).into()),
            Err(_) => Err(error.into()),
        },
        Err(_) => {
            let silent =
                MachineEnd { reason: String::new(), expected: true, console_tail: Vec::new(), counters: Counters::default() };
            Err(PodError::BootTimeout(limit, ConsoleTail(Arc::new(silent))))
        }
    }
}

fn wrong_phase(process: &Process) -> PodError {
    let phase = match process.phase() {
        Phase::Created => "created, not running",
        Phase::Running => "running",
        Phase::Paused => "paused",
        Phase::Stopped(_) => "stopped",
    };
    let exec = if process.exec_id.is_empty() { String::new() } else { format!(" process {}", process.exec_id) };
    PodError::WrongPhase { what: format!("container {}{exec}", process.container), phase }
}

/// A name for the description of a process without streams.
fn unnumbered() -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("t{}", now.as_nanos())
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
