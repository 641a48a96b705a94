//! One process of a container, its init or an added one, from the request to the last byte of its output.

use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use crate::container::AgentError;
use crate::helper::create::notify_socket;
use crate::helper::{self, Order};
use crate::reaper::{Exit, Reaper};
use crate::report::{Report, Reports};
use crate::streams::{Pipes, Pumps, Terminal, Wanted};

/// How long a helper may take to make a process, and a made one to execute its program. A software CPU and a host file system
/// behind it are slow; a startContainer hook may run in between.
const HELPER_TIMEOUT: Duration = Duration::from_secs(120);

/// How long a helper that has done its work may take to end.
const HELPER_EXIT_TIMEOUT: Duration = Duration::from_secs(2);

/// Status of a process that was to start and could not, as a shell gives it.
const STATUS_NOT_STARTED: u32 = 126;

/// How a process ended, once everything that follows from it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its status and time.
    pub exit: Exit,
    /// How many processes of the container the kernel had killed for lack of memory by then.
    pub oom_kills: u64,
}

/// Where it is in its life; its end is told by [`Process::ended`].
enum Phase {
    /// Not made yet (an added process).
    Added(Box<Added>),
    /// Made, waiting for the start (an init).
    Created(Box<Created>),
    /// A start is under way, or has failed.
    Starting,
    /// Its program runs, or ran.
    Running(Pumps),
}

struct Added {
    order: Order,
    wanted: Wanted,
}

struct Created {
    reports: Reports,
    wanted: Wanted,
    pipes: Pipes,
    notify: PathBuf,
}

/// A process.
pub struct Process {
    ended: watch::Sender<Option<Ended>>,
    inner: Mutex<Inner>,
}

struct Inner {
    pid: Option<Pid>,
    phase: Phase,
    terminal: Option<Terminal>,
    /// The end of standard input was asked for before there was one.
    input_ends: bool,
}

/// A helper's answers up to the point that was asked for.
#[derive(Default)]
struct Made {
    pid: Option<Pid>,
    exit: Option<oneshot::Receiver<Exit>>,
    terminal: Option<Terminal>,
    helper: Option<(Pid, oneshot::Receiver<Exit>)>,
}

impl Process {
    fn new(phase: Phase, pid: Option<Pid>, terminal: Option<Terminal>) -> Self {
        Self { ended: watch::Sender::new(None), inner: Mutex::new(Inner { pid, phase, terminal, input_ends: false }) }
    }

    /// An added process, to be made at its start.
    pub fn added(order: Order, wanted: Wanted) -> Self {
        Self::new(Phase::Added(Box::new(Added { order, wanted })), None, None)
    }

    /// Makes a container's init, which then waits for its start. The receiver tells its end.
    ///
    /// # Errors
    /// What the helper reports, streams, time-out.
    pub async fn create_init(
        order: Order,
        directory: &Path,
        id: &str,
        wanted: Wanted,
        reaper: &Reaper,
    ) -> Result<(Self, oneshot::Receiver<Exit>), AgentError> {
        let (child, pipes) = wanted.pipes()?;
        let mark = reaper.mark();
        let (helper, reports) = helper::spawn(&order, child).map_err(AgentError::Helper)?;
        let mut made = Made { helper: Some((helper, reaper.claim(helper, mark))), ..Made::default() };
        let claim = |pid| reaper.claim(pid, mark);
        let followed = timeout(HELPER_TIMEOUT, made.follow(&reports, claim, |made| made.pid.is_some())).await;
        if let Err(error) = followed.unwrap_or(Err(slow("making the container"))) {
            made.abandon();
            return Err(error);
        }
        let (Some(pid), Some(exit)) = (made.pid, made.exit.take()) else { return Err(made.no_process().await) };
        if let (Some(terminal), Some(size)) = (&made.terminal, wanted.size()) {
            terminal.resize(size)?;
        }
        let created = Created { reports, wanted, pipes, notify: notify_socket(directory, id) };
        Ok((Self::new(Phase::Created(Box::new(created)), Some(pid), made.terminal), exit))
    }

    /// Lets it run: waits for its streams, makes it when it is an added one, and answers when its program executes. With the pid
    /// comes, for an added one, the receiver that tells its end.
    ///
    /// # Errors
    /// When it was started before, or cannot run; it has ended then.
    pub async fn start(&self, reaper: &Reaper) -> Result<(Pid, Option<oneshot::Receiver<Exit>>), AgentError> {
        let phase = {
            let mut inner = self.inner();
            match inner.phase {
                Phase::Added(_) | Phase::Created(_) => std::mem::replace(&mut inner.phase, Phase::Starting),
                Phase::Starting | Phase::Running(_) => return Err(AgentError::StartedAlready),
            }
        };
        let started = match phase {
            Phase::Added(added) => self.start_added(*added, reaper).await.map(|(pid, exit)| (pid, Some(exit))),
            Phase::Created(created) => self.start_created(*created).await.map(|pid| (pid, None)),
            Phase::Starting | Phase::Running(_) => Err(AgentError::StartedAlready),
        };
        if started.is_err() && self.pid().is_none() {
            let exit = Exit { status: STATUS_NOT_STARTED, at_unix_ns: crate::reaper::unix_time_ns() };
            self.end(Ended { exit, oom_kills: 0 });
        }
        started
    }

    async fn start_added(&self, added: Added, reaper: &Reaper) -> Result<(Pid, oneshot::Receiver<Exit>), AgentError> {
        let Added { mut order, wanted } = added;
        let (child, pipes) = wanted.pipes()?;
        if let Order::Exec(order) = &mut order {
            order.size = wanted.size();
        }
        let opened = wanted.opened().await?;
        let mark = reaper.mark();
        let (helper, reports) = helper::spawn(&order, child).map_err(AgentError::Helper)?;
        let mut made = Made { helper: Some((helper, reaper.claim(helper, mark))), ..Made::default() };
        let claim = |pid| {
            self.inner().pid = Some(pid);
            reaper.claim(pid, mark)
        };
        let followed = timeout(HELPER_TIMEOUT, made.follow(&reports, claim, |_| false)).await;
        if let Err(error) = followed.unwrap_or(Err(slow("starting the process"))) {
            made.abandon();
            self.inner().pid = None;
            return Err(error);
        }
        let (Some(pid), Some(exit)) = (made.pid, made.exit.take()) else { return Err(made.no_process().await) };
        // The helper has nothing left to do but to leave the container's control group, where it would be counted.
        if let Some((_, helper_exit)) = made.helper.take() {
            let _ = timeout(HELPER_EXIT_TIMEOUT, helper_exit).await;
        }
        let pumps = Pumps::start(opened, pipes, made.terminal.as_ref())?;
        self.inner().terminal = made.terminal;
        self.runs_with(pumps);
        Ok((pid, exit))
    }

    async fn start_created(&self, created: Created) -> Result<Pid, AgentError> {
        let Created { reports, wanted, pipes, notify } = created;
        let (pid, terminal) = {
            let inner = self.inner();
            (inner.pid.ok_or(AgentError::EndedAlready)?, inner.terminal.clone())
        };
        let opened = wanted.opened().await?;
        let_init_run(&notify).map_err(|source| match self.ended() {
            Some(_) => AgentError::EndedAlready,
            None => AgentError::Notify(source),
        })?;
        let mut made = Made::default();
        let followed = timeout(HELPER_TIMEOUT, made.follow(&reports, |_| oneshot::channel().1, |_| false)).await;
        followed.unwrap_or(Err(slow("executing the program")))?;
        let pumps = Pumps::start(opened, pipes, terminal.as_ref())?;
        self.runs_with(pumps);
        Ok(pid)
    }

    /// Its pid, once it has one.
    pub fn pid(&self) -> Option<Pid> {
        self.inner().pid
    }

    /// Whether its program was started.
    pub fn running(&self) -> bool {
        matches!(self.inner().phase, Phase::Running(_))
    }

    /// Whether it was neither started nor made, so that there is nothing to end.
    pub fn only_added(&self) -> bool {
        matches!(self.inner().phase, Phase::Added(_))
    }

    /// How it ended, if it has.
    pub fn ended(&self) -> Option<Ended> {
        *self.ended.borrow()
    }

    /// Tells everybody who waits; the first telling counts.
    pub fn end(&self, ended: Ended) {
        self.ended.send_if_modified(|now| now.is_none() && now.replace(ended).is_none());
    }

    /// Waits for its end.
    pub async fn wait(&self) -> Ended {
        let mut ended = self.ended.subscribe();
        match ended.wait_for(Option::is_some).await.map(|ended| *ended) {
            Ok(Some(ended)) => ended,
            // The sender is ours and lives as long as we do.
            _ => std::future::pending().await,
        }
    }

    /// Sends it `signal`.
    ///
    /// # Errors
    /// When it has ended or was not made yet.
    pub fn signal(&self, signal: i32) -> Result<(), AgentError> {
        let pid = self.pid().ok_or(AgentError::NotStarted)?;
        // Reaped only on this thread, and told at once: a pid without an end is still its own.
        if self.ended().is_some() {
            return Err(AgentError::EndedAlready);
        }
        match crate::sys::kill(pid, signal) {
            Err(Errno::ESRCH) => Err(AgentError::EndedAlready),
            other => other.map_err(AgentError::Signal),
        }
    }

    /// Sets its terminal's size, now or at its start.
    ///
    /// # Errors
    /// When it has no terminal.
    pub fn resize(&self, size: (u16, u16)) -> Result<(), AgentError> {
        let mut inner = self.inner();
        let Inner { terminal, phase, .. } = &mut *inner;
        match (terminal, phase) {
            (Some(terminal), _) => Ok(terminal.resize(size)?),
            (None, Phase::Added(added)) if added.wanted.terminal() => {
                added.wanted.set_size(size);
                Ok(())
            }
            _ => Err(AgentError::NoTerminal),
        }
    }

    /// Ends its standard input after what has arrived; before its start that is remembered.
    pub fn close_input(&self) {
        let mut inner = self.inner();
        match &inner.phase {
            Phase::Running(pumps) => pumps.close_input(),
            _ => inner.input_ends = true,
        }
    }

    fn runs_with(&self, pumps: Pumps) {
        let mut inner = self.inner();
        if inner.input_ends {
            pumps.close_input();
        }
        inner.phase = Phase::Running(pumps);
    }

    /// After its end: waits, bounded, until its output has been read, and cuts its streams.
    pub async fn drain(&self) {
        let phase = std::mem::replace(&mut self.inner().phase, Phase::Starting);
        if let Phase::Running(pumps) = phase {
            pumps.drain().await;
        }
        self.inner().terminal = None;
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here can panic half way; a poisoned state is as good as any.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Made {
    /// Follows the helper's reports until `enough`, or their end. `claim` is called with the pid at once, before anything is awaited.
    async fn follow(
        &mut self,
        reports: &Reports,
        claim: impl Fn(Pid) -> oneshot::Receiver<Exit>,
        enough: impl Fn(&Self) -> bool,
    ) -> Result<(), AgentError> {
        let mut failure: Option<String> = None;
        while !enough(self) {
            match reports.next().await.map_err(AgentError::Report)? {
                // Every copy of the helper's end is closed: the program runs, or nothing is left that could.
                None => break,
                Some((Report::Terminal, Some(master))) => self.terminal = Some(Terminal::new(master)?),
                Some((Report::Terminal, None)) => {}
                Some((Report::Created { pid }, _)) => {
                    let pid = Pid::from_raw(pid);
                    self.exit = Some(claim(pid));
                    self.pid = Some(pid);
                }
                // The pid of what has failed may be still to come, so listen to the end. The first failure is the cause.
                Some((Report::Failed { error }, _)) => drop(failure.get_or_insert(error)),
            }
        }
        failure.map_or(Ok(()), |error| Err(AgentError::Failed(error)))
    }

    /// Kills what was made and will not run its program, and the helper that should have made it.
    fn abandon(&mut self) {
        let made = self.pid.zip(self.exit.as_mut());
        let helper = self.helper.as_mut().map(|(pid, exit)| (*pid, exit));
        for (pid, exit) in made.into_iter().chain(helper) {
            // Not reaped yet, so the number is still its own.
            if exit.try_recv() == Err(oneshot::error::TryRecvError::Empty) {
                let _ = kill(pid, Signal::SIGKILL);
            }
        }
    }

    async fn no_process(mut self) -> AgentError {
        let status = match self.helper.take() {
            Some((_, exit)) => exit.await.map_or(0, |exit| exit.status),
            None => 0,
        };
        AgentError::HelperDied { status }
    }
}

fn slow(what: &'static str) -> AgentError {
    AgentError::Slow { what, seconds: HELPER_TIMEOUT.as_secs() }
}

/// Tells libcontainer's init to go on. Its socket is reached through a descriptor of its directory, as its path may be longer than a
/// socket address holds.
fn let_init_run(socket: &Path) -> std::io::Result<()> {
    let (Some(directory), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(std::io::ErrorKind::InvalidInput.into());
    };
    let directory = std::fs::File::open(directory)?;
    let path = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
    UnixStream::connect(path)?.write_all(b"start container")
}
