//! The containers of the pod.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use oci_spec::runtime::LinuxResources;
use paperboat_protocol::agent::Stdio;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::cgroup::{Cgroup, CgroupError};
use crate::helper::Order;
use crate::helper::create::CreateOrder;
use crate::helper::exec::ExecOrder;
use crate::mounts::{self, MountError};
use crate::names::{self, NameError};
use crate::process::{Ended, Process};
use crate::reaper::{Exit, Reaper};
use crate::streams::{StreamError, Streams};

/// Containers of one pod, and added processes of one container: far beyond what a pod has, well within a small guest's memory.
const CONTAINERS_MAX: usize = 256;
const PROCESSES_MAX: usize = 1024;

/// How long the end of an init waits to be told until its added processes, which die with it, have been told.
const EXECS_GRACE: Duration = Duration::from_secs(5);

/// Highest signal number, Linux' SIGRTMAX.
const SIGNAL_MAX: u32 = 64;

/// Why a request was not fulfilled. The text is what a person at `ctr` reads.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A field that is not valid.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Streams that are not valid or did not come.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// A control group.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// A memory volume.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// No such container.
    #[error("container {0}: not found")]
    NoContainer(String),
    /// No such added process.
    #[error("process {exec} of container {container}: not found")]
    NoProcess {
        /// The container.
        container: String,
        /// The process.
        exec: String,
    },
    /// The id is in use.
    #[error("{0} exists already")]
    Exists(String),
    /// A limit of the agent.
    #[error("more than {max} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The limit.
        max: usize,
    },
    /// Start was called before.
    #[error("process was started already")]
    StartedAlready,
    /// Start was not called yet.
    #[error("process was not started")]
    NotStarted,
    /// Its end has come.
    #[error("process already finished")]
    EndedAlready,
    /// Its end has not come.
    #[error("process {0} has not ended")]
    StillRunning(String),
    /// Needs a running container.
    #[error("container {0} is not running")]
    NotRunning(String),
    /// Needs one that is not paused.
    #[error("container {0} is paused")]
    Paused(String),
    /// Resizing what has no size.
    #[error("process has no terminal")]
    NoTerminal,
    /// A number that is no signal.
    #[error("signal {0}: 1 to {SIGNAL_MAX} expected")]
    SignalNumber(u32),
    /// The kernel did not send it.
    #[error("signal: {0}")]
    Signal(#[source] Errno),
    /// Limits that are no JSON.
    #[error("resources_json: {0}")]
    Resources(#[source] serde_json::Error),
    /// A helper that could not be started.
    #[error("starting a helper: {0}")]
    Helper(#[source] io::Error),
    /// A helper whose word was lost.
    #[error("hearing of a helper: {0}")]
    Report(#[source] io::Error),
    /// A helper that died silently.
    #[error("the helper ended with status {status} and made no process")]
    HelperDied {
        /// 128 + signal when signalled.
        status: u32,
    },
    /// What a helper, or the process it made, reports.
    #[error("{0}")]
    Failed(String),
    /// Init does not listen.
    #[error("letting the container's init run: {0}")]
    Notify(#[source] io::Error),
    /// Out of time.
    #[error("{what} took longer than {seconds} s")]
    Slow {
        /// What.
        what: &'static str,
        /// The limit.
        seconds: u64,
    },
    /// The agent's own files.
    #[error("{path:?}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// A container.
pub struct Container {
    id: String,
    cgroup: Cgroup,
    directory: PathBuf,
    /// Its directory in the share.
    files: PathBuf,
    paused: AtomicBool,
    init: Arc<Process>,
    execs: Mutex<HashMap<String, Arc<Process>>>,
}

/// All containers of the pod; clones share one state.
#[derive(Clone)]
pub struct Containers(Arc<Shared>);

struct Shared {
    share: PathBuf,
    directory: PathBuf,
    reaper: Reaper,
    streams: Streams,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    containers: HashMap<String, Arc<Container>>,
    /// Ids on their way in.
    creating: HashSet<String>,
}

/// Keeps an id reserved while its container is made.
struct Reservation<'a> {
    shared: &'a Shared,
    id: &'a str,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.shared.table().creating.remove(self.id);
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing in here can panic half way; a poisoned state is as good as any.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reserve<'a>(&'a self, id: &'a str) -> Result<Reservation<'a>, AgentError> {
        let mut table = self.table();
        if table.containers.contains_key(id) || table.creating.contains(id) {
            return Err(AgentError::Exists(format!("container {id}")));
        }
        if table.containers.len() + table.creating.len() >= CONTAINERS_MAX {
            return Err(AgentError::TooMany { what: "containers", max: CONTAINERS_MAX });
        }
        table.creating.insert(id.to_owned());
        Ok(Reservation { shared: self, id })
    }
}

impl Containers {
    /// None yet; `share` is the directory shared with the host, `directory` the agent's own.
    pub fn new(share: PathBuf, directory: PathBuf, reaper: Reaper, streams: Streams) -> Self {
        Self(Arc::new(Shared { share, directory, reaper, streams, table: Mutex::default() }))
    }

    /// Makes a container; answers the pid of its init, which waits for the start.
    ///
    /// # Errors
    /// [`AgentError`]; nothing is left of it then.
    pub async fn create(&self, id: &str, stdio: &Stdio, spec_path: &str, rootfs_path: &str) -> Result<u32, AgentError> {
        names::id("id", id)?;
        let shared = &*self.0;
        let spec = names::below_share(&shared.share, "spec_path", spec_path)?;
        let rootfs = names::below_share(&shared.share, "rootfs_path", rootfs_path)?;
        // What the shim lays out for this container; two containers' files are never one below the other.
        let files = rootfs.parent().unwrap_or(&rootfs).to_owned();
        let _reservation = shared.reserve(id)?;
        let wanted = shared.streams.want(stdio)?;
        let cgroup = Cgroup::of(id);
        let directory = shared.directory.join(id);
        let order = Order::Create(CreateOrder {
            id: id.to_owned(),
            spec,
            rootfs,
            share: shared.share.clone(),
            directory: directory.clone(),
            cgroup: cgroup.below_mount().to_owned(),
            terminal: wanted.terminal(),
        });
        make_directory(&directory)?;
        let (init, exit) = match Process::create_init(order, &directory, id, wanted, &shared.reaper).await {
            Ok(made) => made,
            Err(error) => {
                self.clean(&cgroup, &directory, &files).await;
                return Err(error);
            }
        };
        let pid = init.pid().map_or(0, |pid| pid.as_raw().cast_unsigned());
        let container = Arc::new(Container {
            id: id.to_owned(),
            cgroup,
            directory,
            files,
            paused: AtomicBool::new(false),
            init: Arc::new(init),
            execs: Mutex::default(),
        });
        tokio::spawn(container.clone().watch_init(exit));
        shared.table().containers.insert(id.to_owned(), container);
        crate::info!("container created id={id} pid={pid}");
        Ok(pid)
    }

    async fn clean(&self, cgroup: &Cgroup, directory: &Path, files: &Path) {
        if let Err(error) = cgroup.remove().await {
            crate::error!("left behind: {error}");
        }
        if let Err(error) = fs::remove_dir_all(directory) {
            crate::error!("left behind {directory:?}: {error}");
        }
        mounts::detach_below(files);
    }

    /// Lets a process run; answers its pid.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn start(&self, id: &str, exec_id: &str) -> Result<u32, AgentError> {
        let container = self.find(id)?;
        let process = container.process(exec_id)?;
        if process.only_added() {
            if container.init.ended().is_some() || !container.init.running() {
                return Err(AgentError::NotRunning(id.to_owned()));
            }
            if container.paused.load(Ordering::Relaxed) {
                return Err(AgentError::Paused(id.to_owned()));
            }
        }
        let (pid, exit) = process.start(&self.0.reaper).await?;
        if let Some(exit) = exit {
            tokio::spawn(container.clone().watch_exec(process, exit));
        }
        crate::info!("process started container={id} exec={exec_id:?} pid={pid}");
        Ok(pid.as_raw().cast_unsigned())
    }

    /// Adds a process, to run at its start.
    ///
    /// # Errors
    /// [`AgentError`].
    pub fn exec(&self, id: &str, exec_id: &str, stdio: &Stdio, process_path: &str) -> Result<(), AgentError> {
        names::id("exec_id", exec_id)?;
        let container = self.find(id)?;
        let process = names::below_share(&self.0.share, "process_path", process_path)?;
        let init = match (container.init.pid(), container.init.ended()) {
            (Some(pid), None) if container.init.running() => pid.as_raw(),
            _ => return Err(AgentError::NotRunning(id.to_owned())),
        };
        let wanted = self.0.streams.want(stdio)?;
        let order = Order::Exec(ExecOrder {
            process,
            directory: container.directory.clone(),
            init,
            cgroup: container.cgroup.path().to_owned(),
            terminal: wanted.terminal(),
            size: None,
        });
        let mut execs = container.execs();
        if execs.contains_key(exec_id) {
            return Err(AgentError::Exists(format!("process {exec_id} of container {id}")));
        }
        if execs.len() >= PROCESSES_MAX {
            return Err(AgentError::TooMany { what: "added processes", max: PROCESSES_MAX });
        }
        execs.insert(exec_id.to_owned(), Arc::new(Process::added(order, wanted)));
        Ok(())
    }

    /// Sends `signal` to a process, or with `all` to every process of the container.
    ///
    /// # Errors
    /// [`AgentError::EndedAlready`] among others.
    pub fn kill(&self, id: &str, exec_id: &str, signal: u32, all: bool) -> Result<(), AgentError> {
        let container = self.find(id)?;
        let process = container.process(exec_id)?;
        let number = i32::try_from(signal).ok().filter(|_| (1..=SIGNAL_MAX).contains(&signal));
        let number = number.ok_or(AgentError::SignalNumber(signal))?;
        match Signal::try_from(number) {
            Ok(signal) if all => {
                if container.init.ended().is_some() {
                    return Err(AgentError::EndedAlready);
                }
                Ok(container.cgroup.signal(signal)?)
            }
            // A real-time signal for all reaches the process only; nix has no name for it.
            _ => process.signal(number),
        }
    }

    /// Removes an ended process, or with an empty `exec_id` the container.
    ///
    /// # Errors
    /// [`AgentError::StillRunning`] among others.
    pub async fn delete(&self, id: &str, exec_id: &str) -> Result<Ended, AgentError> {
        let container = self.find(id)?;
        let process = container.process(exec_id)?;
        if process.only_added() {
            container.execs().remove(exec_id);
            let ended = Ended { exit: Exit { status: 0, at_unix_ns: crate::reaper::unix_time_ns() }, oom_kills: 0 };
            process.end(ended);
            return Ok(ended);
        }
        let ended = process.ended().ok_or_else(|| {
            AgentError::StillRunning(if exec_id.is_empty() { id.to_owned() } else { format!("{exec_id} of container {id}") })
        })?;
        process.drain().await;
        if !exec_id.is_empty() {
            container.execs().remove(exec_id);
            return Ok(ended);
        }
        // Nobody else finds it from here on, so two deletions do not meet.
        if self.0.table().containers.remove(id).is_none() {
            return Err(AgentError::NoContainer(id.to_owned()));
        }
        let execs: Vec<_> = container.execs().drain().collect();
        for (_, exec) in execs {
            exec.drain().await;
        }
        self.clean(&container.cgroup, &container.directory, &container.files).await;
        crate::info!("container deleted id={id}");
        Ok(ended)
    }

    /// Freezes or thaws a container.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn pause(&self, id: &str, paused: bool) -> Result<(), AgentError> {
        let container = self.find(id)?;
        if container.init.ended().is_some() || !container.init.running() {
            return Err(AgentError::NotRunning(id.to_owned()));
        }
        container.cgroup.freeze(paused).await?;
        container.paused.store(paused, Ordering::Relaxed);
        Ok(())
    }

    /// Applies new limits, the OCI LinuxResources as JSON.
    ///
    /// # Errors
    /// [`AgentError`] naming what was refused.
    pub fn update(&self, id: &str, resources_json: &str) -> Result<(), AgentError> {
        let container = self.find(id)?;
        let mut resources: LinuxResources = serde_json::from_str(resources_json).map_err(AgentError::Resources)?;
        if container.init.ended().is_some() {
            return Err(AgentError::NotRunning(id.to_owned()));
        }
        crate::helper::spec::fit_resources(&mut resources, Path::new("/proc/swaps").exists());
        Ok(container.cgroup.update(&resources)?)
    }

    /// The container `id`.
    ///
    /// # Errors
    /// [`AgentError::NoContainer`].
    pub fn find(&self, id: &str) -> Result<Arc<Container>, AgentError> {
        names::id("id", id)?;
        self.0.table().containers.get(id).cloned().ok_or_else(|| AgentError::NoContainer(id.to_owned()))
    }
}

impl Container {
    /// The process `exec_id`, or with an empty one the init.
    ///
    /// # Errors
    /// [`AgentError::NoProcess`].
    pub fn process(&self, exec_id: &str) -> Result<Arc<Process>, AgentError> {
        if exec_id.is_empty() {
            return Ok(self.init.clone());
        }
        names::id("exec_id", exec_id)?;
        let missing = || AgentError::NoProcess { container: self.id.clone(), exec: exec_id.to_owned() };
        self.execs().get(exec_id).cloned().ok_or_else(missing)
    }

    /// Its cgroup.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Whether it is frozen.
    pub fn paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// Pids of its processes, with the exec id of those that were added.
    ///
    /// # Errors
    /// When its cgroup is gone.
    pub fn pids(&self) -> Result<Vec<(u32, String)>, AgentError> {
        let named: HashMap<_, _> = self.execs().iter().filter_map(|(id, process)| Some((process.pid()?, id.clone()))).collect();
        let pids = self.cgroup.pids()?;
        Ok(pids.into_iter().map(|pid| (pid.as_raw().cast_unsigned(), named.get(&pid).cloned().unwrap_or_default())).collect())
    }

    /// What follows from the end of the init: nothing of the container runs on, and its processes' ends are told before its own.
    async fn watch_init(self: Arc<Self>, exit: oneshot::Receiver<Exit>) {
        let Ok(exit) = exit.await else { return };
        let oom_kills = self.cgroup.oom_kills();
        if let Err(error) = self.cgroup.kill() {
            crate::warn!("container={}: {error}", self.id);
        }
        let execs: Vec<_> = self.execs().values().filter(|exec| exec.pid().is_some()).cloned().collect();
        let all_told = async {
            for exec in &execs {
                exec.wait().await;
            }
        };
        if timeout(EXECS_GRACE, all_told).await.is_err() {
            crate::warn!("container={}: an added process outlives its init", self.id);
        }
        crate::info!("container ended id={} status={} oom_kills={oom_kills}", self.id, exit.status);
        self.init.end(Ended { exit, oom_kills });
    }

    async fn watch_exec(self: Arc<Self>, process: Arc<Process>, exit: oneshot::Receiver<Exit>) {
        let Ok(exit) = exit.await else { return };
        process.end(Ended { exit, oom_kills: self.cgroup.oom_kills() });
    }

    fn execs(&self) -> MutexGuard<'_, HashMap<String, Arc<Process>>> {
        // Nothing in here can panic half way; a poisoned state is as good as any.
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn make_directory(directory: &Path) -> Result<(), AgentError> {
    let failed = |source| AgentError::File { path: directory.to_owned(), source };
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    fs::create_dir_all(directory).map_err(failed)
}
