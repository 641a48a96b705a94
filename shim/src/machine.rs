//! The pod's machine as the shim sees it: a `paperboat-vmm` process, its control service, and the truth about its end.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use paperboat_protocol::debug::DEBUG_PARAMETER;
use paperboat_protocol::machine::ended_response::Reason;
use paperboat_protocol::machine::{
    BindNicRequest, Empty, EndedResponse, ShareOptions, StartRequest, StatsResponse, UnbindNicRequest, WaitForgetRequest,
};
use paperboat_protocol::machine_ttrpc::MachineClient;
use protobuf::MessageField;
use tokio::process::{Child, Command};
use tokio::sync::{Notify, watch};
use ttrpc::r#async::Client;
use ttrpc::context;

use crate::charge;
use crate::cleanup;
use crate::config::{Config, VirtioFs};
use crate::paths::PodPaths;
use crate::size::Size;
use crate::spec::{NetworkNamespace, Spec};

/// Where the machine finds its control socket and its lifeline.
const CONTROL_FD: i32 = 3;
const LIFELINE_FD: i32 = 4;

/// Loading kernel and initial RAM file system, laying out memory: no guest instruction runs before the answer.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// An answer that needs no work.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Between the machine's word that it ended and the end of its process, and the other way round.
const END_GRACE: Duration = Duration::from_secs(5);

/// The answer to Wait may be behind the end of the process by this much.
const LAST_ANSWER_GRACE: Duration = Duration::from_millis(200);

/// Console lines quoted in an error, and the most bytes read for them.
const TAIL_LINES: usize = 12;
const TAIL_BYTES: u64 = 4096;

/// Context id of the guest on its vsock; host side is one socket per pod, so one number serves all.
const GUEST_CID: u64 = 3;

/// Why there is no machine.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// A file the machine needs cannot be read.
    #[error("{what} {}: {source}", path.display())]
    File {
        /// Which of the configured files.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The pod's network namespace cannot be entered or made.
    #[error("network namespace {namespace:?}: {source}")]
    Namespace {
        /// Which.
        namespace: NetworkNamespace,
        /// What the system said.
        source: std::io::Error,
    },
    /// The process cannot be prepared or started.
    #[error("machine {}: {source}", program.display())]
    Spawn {
        /// The machine's program.
        program: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The machine refused its description.
    #[error("machine: {0}")]
    Start(String),
    /// The machine refused a tap.
    #[error("machine: network slot {slot}: {message}")]
    Nic {
        /// Number of the slot.
        slot: u32,
        /// What it said.
        message: String,
    },
    /// The machine does not tell when it has too many files open.
    #[error("machine: files of the share: {0}")]
    Forget(String),
    /// The machine ended.
    #[error("{0}")]
    Ended(Arc<MachineEnd>),
}

/// How and why a machine ended.
#[derive(Debug)]
pub struct MachineEnd {
    /// For a person, one line.
    pub reason: String,
    /// The machine was asked to end.
    pub expected: bool,
    /// The guest's last words.
    pub console_tail: Vec<String>,
    /// Last counters, where the machine could still tell them.
    pub counters: Counters,
}

impl fmt::Display for MachineEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)?;
        if !self.console_tail.is_empty() {
            f.write_str("; last lines of the guest's console:")?;
        }
        self.console_tail.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

/// What a machine has cost so far; nothing where it could not tell.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counters {
    /// Guest instructions of all vCPUs, where the backend counts them.
    pub instructions: Option<u64>,
    /// CPU time of the machine's process.
    pub cpu_time: Option<Duration>,
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(count) = self.instructions {
            write!(f, "guest_instructions={count} ")?;
        }
        self.cpu_time.map_or(Ok(()), |time| write!(f, "machine_cpu_ms={}", time.as_millis()))
    }
}

impl Counters {
    fn of(stats: &StatsResponse) -> Self {
        let instructions = stats.vcpus.iter().fold(0u64, |sum, vcpu| sum.saturating_add(vcpu.instructions));
        let known = |value: u64| (value > 0).then_some(value);
        Self { instructions: known(instructions), cpu_time: known(stats.cpu_time_ns).map(Duration::from_nanos) }
    }
}

/// A running machine. The process ends with the last descriptor of its lifeline, so also when the shim dies in any way.
pub struct Machine {
    client: MachineClient,
    pid: u32,
    size: Size,
    control: Arc<Control>,
    end: watch::Receiver<Option<Arc<MachineEnd>>>,
    _lifeline: OwnedFd,
}

struct Control {
    started: Notify,
    kill: Notify,
    stopping: std::sync::atomic::AtomicBool,
}

impl Machine {
    /// Starts the process in the pod's network namespace and in the cgroup beside the one its specification names, and the machine in it.
    pub async fn start(config: &Config, paths: &PodPaths, pod: &str, spec: &Spec) -> Result<Self, MachineError> {
        let size = Size::of(config, spec);
        let program = config.vmm_path();
        for (what, path) in [("guest kernel", &config.kernel), ("guest initramfs", &config.initramfs), ("machine", &program)] {
            readable_file(path).map_err(|source| MachineError::File { what, path: path.clone(), source })?;
        }
        let spawn_error = |source| MachineError::Spawn { program: program.clone(), source };
        let listener = std::os::unix::net::UnixListener::bind(paths.control_socket()).map_err(spawn_error)?;
        let (lifeline_reader, lifeline) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|errno| spawn_error(errno.into()))?;
        let log = OpenOptions::new().create(true).append(true).mode(0o600).open(paths.machine_log()).map_err(spawn_error)?;

        let mut command = Command::new(&program);
        command
            .args(["serve", "--control-fd", &CONTROL_FD.to_string(), "--lifeline-fd", &LIFELINE_FD.to_string()])
            .env_clear()
            .env("RUST_LOG", if config.debug { "debug" } else { "info" })
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(spawn_error)?)
            .stderr(log);
        command
            .fd_mappings(vec![
                FdMapping { parent_fd: listener.into(), child_fd: CONTROL_FD },
                FdMapping { parent_fd: lifeline_reader, child_fd: LIFELINE_FD },
            ])
            .map_err(|_| spawn_error(std::io::ErrorKind::InvalidInput.into()))?;
        let mut child = spawn_in(command, spec.network_namespace(), &program).await?;
        let pid = child.id().unwrap_or(0);
        if let Err(error) = cleanup::note_machine(paths, pid) {
            log::warn!("machine.pid: {error}");
        }
        // Before the first page of guest memory, which would stay charged to wherever the process was born.
        // Here and now, not in a task of its own: a boot that is given up must not enter what was already left.
        tokio::task::block_in_place(|| charge::enter(paths, pod, spec.cgroups_path(), pid));
        adjust_oom_score(pid, spec.oom_score_adj());

        // The socket was bound before the child was born: only its death makes it refuse.
        let client = match Client::connect(&format!("unix://{}", paths.control_socket().display())).await {
            Ok(client) => MachineClient::new(client),
            Err(error) => {
                let status = match tokio::time::timeout(END_GRACE, child.wait()).await {
                    Ok(status) => status,
                    Err(_) => kill(&mut child).await,
                };
                log::warn!("machine control: {}", plain(&error));
                let end = MachineEnd { reason: reason(None, &status), ..MachineEnd::lost() };
                return Err(MachineError::Ended(Arc::new(end)));
            }
        };
        let control = Arc::new(Control { started: Notify::new(), kill: Notify::new(), stopping: false.into() });
        let (end_sender, end) = watch::channel(None);
        tokio::spawn(watch_end(child, client.clone(), paths.console_log(), control.clone(), end_sender));
        let machine = Self { client, pid, size, control, end, _lifeline: lifeline };

        let request = StartRequest {
            kernel_path: config.kernel.display().to_string(),
            initrd_path: config.initramfs.display().to_string(),
            cmdline: command_line(config),
            vcpus: size.vcpus,
            memory_bytes: size.memory_bytes,
            backend: config.backend.as_str().into(),
            share_path: paths.share().display().to_string(),
            vsock_path: paths.vsock_socket().display().to_string(),
            guest_cid: GUEST_CID,
            console_path: paths.console_log().display().to_string(),
            console_max_bytes: config.limits.console_kib << 10,
            share_options: MessageField::some(share_options(config)),
            huge_pages: config.huge_pages,
            nic_slots: crate::network::SLOTS.into(),
            nic_queue_pairs: size.queue_pairs(),
            ..Default::default()
        };
        let refused = tokio::select! {
            answer = machine.client.start(context::with_duration(START_TIMEOUT), &request) => match answer {
                Ok(answer) => {
                    machine.control.started.notify_one();
                    let Size { vcpus, memory_bytes } = size;
                    log::info!("machine started pid={pid} backend={} vcpus={vcpus} memory_mib={}", answer.backend, memory_bytes >> 20);
                    return Ok(machine);
                }
                Err(error) => error,
            },
            end = machine.ended() => return Err(MachineError::Ended(end)),
        };
        // A connection that broke is explained by the end of the process; a refusal explains itself.
        if !matches!(refused, ttrpc::Error::RpcStatus(_))
            && let Ok(end) = tokio::time::timeout(END_GRACE, machine.ended()).await
        {
            return Err(MachineError::Ended(end));
        }
        machine.expect_end();
        machine.kill().await;
        Err(MachineError::Start(plain(&refused)))
    }

    /// Lets the guest's network slot number `slot` send and receive through a tap of its network namespace. The guest's agent finds it by the
    /// slot's own address, and gives it the interface's.
    pub async fn bind_nic(&self, slot: u32, tap: &str, mtu: u32) -> Result<(), MachineError> {
        let request = BindNicRequest { slot, tap_name: tap.into(), mtu, ..Default::default() };
        let answer = self.client.bind_nic(context::with_duration(CALL_TIMEOUT), &request).await;
        answer.map(drop).map_err(|error| MachineError::Nic { slot, message: plain(&error) })
    }

    /// Takes the link of a network slot down and lets go of its tap.
    pub async fn unbind_nic(&self, slot: u32) -> Result<(), MachineError> {
        let request = UnbindNicRequest { slot, ..Default::default() };
        let answer = self.client.unbind_nic(context::with_duration(CALL_TIMEOUT), &request).await;
        answer.map(drop).map_err(|error| MachineError::Nic { slot, message: plain(&error) })
    }

    /// Waits until the guest should forget files; `answered` is the number of the last answer, 0 at first.
    pub async fn wait_forget(&self, answered: u64) -> Result<u64, MachineError> {
        let request = WaitForgetRequest { answered, ..Default::default() };
        let answer = self.client.wait_forget(context::with_timeout(0), &request).await;
        answer.map(|answer| answer.ring).map_err(|error| MachineError::Forget(plain(&error)))
    }

    /// Host process id of the machine.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Pairs of queues of each of its network slots.
    pub fn queue_pairs(&self) -> u32 {
        self.size.queue_pairs()
    }

    /// Its memory, bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.size.memory_bytes
    }

    /// The machine's end, once it came.
    pub async fn ended(&self) -> Arc<MachineEnd> {
        let mut end = self.end.clone();
        // The sender lives until it has sent; losing it would be an end too.
        match end.wait_for(Option::is_some).await {
            Ok(end) => end.clone().unwrap_or_else(|| Arc::new(MachineEnd::lost())),
            Err(_) => Arc::new(MachineEnd::lost()),
        }
    }

    /// Whether the machine has ended.
    pub fn has_ended(&self) -> bool {
        self.end.borrow().is_some()
    }

    /// What the machine has cost so far, or up to its end.
    pub async fn counters(&self) -> Counters {
        if self.has_ended() {
            return self.ended().await.counters;
        }
        let nothing = Empty::new();
        let stats = self.client.stats(context::with_duration(CALL_TIMEOUT), &nothing).await;
        stats.as_ref().map(Counters::of).unwrap_or_default()
    }

    /// From now on the end of the machine is what was asked for.
    pub fn expect_end(&self) {
        self.control.stopping.store(true, std::sync::atomic::Ordering::Relaxed);
    }

    /// Ends the machine: by its own service, then by force. Returns once the process is gone.
    pub async fn stop(&self) {
        self.expect_end();
        let nothing = Empty::new();
        let stop = self.client.stop(context::with_duration(CALL_TIMEOUT), &nothing);
        let _ = tokio::time::timeout(CALL_TIMEOUT, stop).await;
        if tokio::time::timeout(END_GRACE, self.ended()).await.is_err() {
            self.kill().await;
        }
    }

    /// Kills the process and waits for its end.
    pub async fn kill(&self) {
        self.control.kill.notify_one();
        self.ended().await;
    }
}

impl MachineEnd {
    fn lost() -> Self {
        Self {
            reason: "the machine's state is unknown".into(),
            expected: false,
            console_tail: Vec::new(),
            counters: Counters::default(),
        }
    }
}

/// A readable regular file; the error is the system's.
fn readable_file(path: &Path) -> std::io::Result<()> {
    let metadata = std::fs::File::open(path)?.metadata()?;
    if metadata.is_file() { Ok(()) } else { Err(std::io::Error::other("is not a file")) }
}

fn share_options(config: &Config) -> ShareOptions {
    let VirtioFs { cache, cache_ms, xattr, .. } = &config.virtio_fs;
    ShareOptions { cache: cache.as_str().into(), cache_ms: *cache_ms, xattr: *xattr, ..Default::default() }
}

/// Kernel parameters every guest gets.
fn command_line(config: &Config) -> String {
    // panic=-1: a panic ends the machine at once (RTAS ibm,os-term or a reboot) instead of spinning on the host's CPU.
    // page_reporting_order=2: free memory goes back in pieces of 256 KiB. By default a 64K-page kernel reports 16 MiB at a time, and
    // nothing at all while less than 512 MiB is free.
    let mut line =
        format!("console=hvc0 loglevel={} panic=-1 page_reporting.page_reporting_order=2", config.guest_log_level.loglevel());
    if config.debug_console {
        line.push(' ');
        line.push_str(DEBUG_PARAMETER);
    }
    if !config.kernel_parameters.is_empty() {
        line.push(' ');
        line.push_str(&config.kernel_parameters);
    }
    line
}

/// The host's kernel looks at the machine when memory runs out, where the pod's processes are not to be seen.
fn adjust_oom_score(pid: u32, adjustment: Option<i32>) {
    if let Some(adjustment) = adjustment
        && let Err(error) = std::fs::write(format!("/proc/{pid}/oom_score_adj"), adjustment.to_string())
    {
        log::warn!("oom_score_adj {adjustment} of the machine: {error}");
    }
}

/// Spawns from a thread that entered the namespace: a child is born into the namespaces of the thread that makes it. The thread ends
/// with that, so nothing else ever runs in there.
async fn spawn_in(mut command: Command, namespace: NetworkNamespace, program: &Path) -> Result<Child, MachineError> {
    let runtime = tokio::runtime::Handle::current();
    let program = program.to_owned();
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let entered = enter(&namespace).map_err(|source| MachineError::Namespace { namespace, source });
        let child = entered.and_then(|()| {
            let _in_runtime = runtime.enter();
            command.spawn().map_err(|source| MachineError::Spawn { program, source })
        });
        // The receiver waits; were it gone, the dropped lifeline ends the child.
        let _ = sender.send(child);
    });
    receiver.await.unwrap_or_else(|_| Err(MachineError::Start("the starting thread ended early".into())))
}

fn enter(namespace: &NetworkNamespace) -> std::io::Result<()> {
    match namespace {
        NetworkNamespace::Fresh => nix::sched::unshare(CloneFlags::CLONE_NEWNET).map_err(Into::into),
        NetworkNamespace::Path(path) => {
            let file = std::fs::File::open(path)?;
            nix::sched::setns(file, CloneFlags::CLONE_NEWNET).map_err(Into::into)
        }
    }
}

/// Owns the child: collects the machine's own account of its end and the process's status, and publishes one truth.
async fn watch_end(
    mut child: Child,
    client: MachineClient,
    console: PathBuf,
    control: Arc<Control>,
    sender: watch::Sender<Option<Arc<MachineEnd>>>,
) {
    let nothing = Empty::new();
    let account = async {
        // Before its start there is no machine whose end could be waited for.
        control.started.notified().await;
        match client.wait(context::with_timeout(0), &nothing).await {
            Ok(answer) => answer,
            // No account: the process tells the rest.
            Err(error) => {
                log::debug!("wait for the machine: {}", plain(&error));
                std::future::pending().await
            }
        }
    };
    tokio::pin!(account);
    let mut told: Option<EndedResponse> = None;
    let status = tokio::select! {
        status = child.wait() => {
            // The answer may still be in the socket.
            told = tokio::time::timeout(LAST_ANSWER_GRACE, &mut account).await.ok();
            status
        }
        answer = &mut account => {
            told = Some(answer);
            // The machine is over, its process has nothing left to do.
            let _ = client.stop(context::with_duration(CALL_TIMEOUT), &nothing).await;
            match tokio::time::timeout(END_GRACE, child.wait()).await {
                Ok(status) => status,
                Err(_) => kill(&mut child).await,
            }
        }
        () = control.kill.notified() => kill(&mut child).await,
    };
    let expected = control.stopping.load(std::sync::atomic::Ordering::Relaxed);
    let told_tail = told.as_ref().map(|answer| answer.console_tail.clone()).unwrap_or_default();
    let end = MachineEnd {
        reason: reason(told.as_ref(), &status),
        expected,
        console_tail: if told_tail.is_empty() { console_tail(&console) } else { last_lines(told_tail) },
        counters: told.as_ref().map(|answer| Counters::of(&answer.stats)).unwrap_or_default(),
    };
    if expected {
        log::info!("machine ended: {}", end.reason);
    } else {
        log::error!("machine ended: {end}");
    }
    sender.send_replace(Some(Arc::new(end)));
}

async fn kill(child: &mut Child) -> std::io::Result<ExitStatus> {
    // Fails only when the child is gone already.
    let _ = child.start_kill();
    child.wait().await
}

fn reason(told: Option<&EndedResponse>, status: &std::io::Result<ExitStatus>) -> String {
    if let Some(answer) = told {
        let message = answer.message.trim();
        let kind = match answer.reason.enum_value_or_default() {
            Reason::POWER_OFF => "the guest powered off",
            Reason::REBOOT => "the guest asked for a reboot",
            Reason::PANIC => "the guest kernel panicked",
            Reason::STOPPED => "the machine was stopped",
            Reason::FAILED => "the machine failed",
            Reason::UNKNOWN => "the machine ended",
        };
        return if message.is_empty() { kind.into() } else { format!("{kind}: {message}") };
    }
    match status {
        Ok(status) => match (status.signal(), status.code()) {
            (Some(signal), _) => format!("the machine was killed by signal {signal}"),
            (_, code) => format!("the machine's process ended with status {}", code.unwrap_or(-1)),
        },
        Err(error) => format!("the machine's process is lost: {error}"),
    }
}

/// The last lines of the console's file; empty when there is none.
fn console_tail(path: &Path) -> Vec<String> {
    let read = || {
        let mut file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    };
    let bytes = read().unwrap_or_default();
    last_lines(String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect())
}

/// At most [`TAIL_LINES`] lines from the end, without blank ones and without anything that would steer a terminal.
fn last_lines(lines: Vec<String>) -> Vec<String> {
    let clean = |line: String| line.chars().filter(|c| !c.is_control()).take(256).collect::<String>();
    let lines: Vec<String> = lines.into_iter().map(clean).filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].to_vec()
}

/// A ttrpc error without its wrapping.
pub fn plain(error: &ttrpc::Error) -> String {
    match error {
        ttrpc::Error::RpcStatus(status) => status.message.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_names_cause_and_last_lines() {
        let killed: std::io::Result<ExitStatus> = Ok(ExitStatus::from_raw(9));
        assert_eq!(reason(None, &killed), "the machine was killed by signal 9");
        let told = EndedResponse { reason: Reason::PANIC.into(), message: "no init".into(), ..Default::default() };
        assert_eq!(reason(Some(&told), &killed), "the guest kernel panicked: no init");
    }

    #[test]
    fn console_lines_are_bounded_and_harmless() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text: String = (0..1000).map(|n| format!("line {n}\u{1b}[2J\r\n\n")).collect();
        std::fs::write(file.path(), text).unwrap();
        let tail = console_tail(file.path());
        assert_eq!(tail.len(), TAIL_LINES);
        assert_eq!(tail.last().unwrap(), "line 999[2J");
        assert!(console_tail(Path::new("/nonexistent")).is_empty());
    }
}
