//! The single-threaded helpers. libcontainer forks in ways that only a process with one thread survives, and it changes its caller
//! (OOM score, dumpable flag, working directory); setns(2) into a user namespace demands one thread too. So PID 1 runs
//! its own program again, as `create ORDER` or `exec ORDER`, and hears through [`crate::report`] what came of it. The helper then
//! ends, and PID 1 adopts the container's process.

pub mod create;
pub mod cwd;
pub mod debug;
mod devices;
pub mod exec;
pub mod program;
pub mod spec;
mod trace;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::log;
use crate::report::{self, Reporter, Reports};
use crate::sys;

/// Why a process was not made.
#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    /// A file operation.
    #[error("{what} {path:?}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// To which file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A file that holds no valid JSON of its type.
    #[error("{path:?}: {source}")]
    Json {
        /// The file.
        path: PathBuf,
        /// What and where.
        source: serde_json::Error,
    },
    /// A file over the limit.
    #[error("{path:?} is larger than {max_bytes} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit.
        max_bytes: u64,
    },
    /// A spec the guest cannot fulfil.
    #[error(transparent)]
    Spec(#[from] spec::SpecError),
    /// Device rules that do not hold.
    #[error(transparent)]
    Devices(#[from] devices::DeviceError),
    /// A setting of the pod's namespaces.
    #[error(transparent)]
    Sysctl(#[from] crate::sysctl::SysctlError),
    /// A program that cannot run.
    #[error(transparent)]
    Program(#[from] program::ProgramError),
    /// libcontainer's failure.
    #[error("{0}")]
    Container(String),
    /// A system call on the way into the container.
    #[error("{what}: {source}")]
    Call {
        /// What was being done.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A value that is out of its range.
    #[error("{field}: {value} is not valid")]
    Value {
        /// Field of the process.
        field: &'static str,
        /// Its value.
        value: String,
    },
}

/// What a helper is to do; travels as JSON in its argument.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Order {
    /// Make a container.
    Create(create::CreateOrder),
    /// Add a process to one.
    Exec(exec::ExecOrder),
    /// Run a program in the guest itself.
    Debug(debug::DebugOrder),
}

/// Descriptors a helper is given by number.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Inherited {
    report: RawFd,
    log: Option<RawFd>,
}

/// Standard streams of the process to be; `None` is /dev/null.
#[derive(Debug, Default)]
pub struct ChildStreams {
    /// Its standard input.
    pub stdin: Option<OwnedFd>,
    /// Its standard output.
    pub stdout: Option<OwnedFd>,
    /// Its standard error.
    pub stderr: Option<OwnedFd>,
}

/// Starts a helper. Its pid is to be claimed from the reaper before anything is awaited.
///
/// # Errors
/// The kernel's: out of processes, memory, descriptors.
pub fn spawn(order: &Order, streams: ChildStreams) -> io::Result<(Pid, Reports)> {
    let (reports, theirs) = report::channel()?;
    let inherited = Inherited { report: theirs.as_raw_fd(), log: log::descriptor() };
    let stdio = |fd: Option<OwnedFd>| fd.map_or_else(Stdio::null, Stdio::from);
    let child = Command::new("/proc/self/exe")
        .arg("helper")
        .arg(serde_json::to_string(&inherited)?)
        .arg(serde_json::to_string(order)?)
        .env_clear()
        .stdin(stdio(streams.stdin))
        .stdout(stdio(streams.stdout))
        .stderr(stdio(streams.stderr))
        .spawn()?;
    // `theirs` closes here; dropping `child` neither waits nor kills: the reaper does.
    Ok((Pid::from_raw(child.id().cast_signed()), reports))
}

/// `main` of a helper: `arguments` are the two of [`spawn`]. Answers the exit code.
pub fn main(arguments: &[String]) -> i32 {
    let [inherited, order] = arguments else { return 2 };
    let Ok(inherited) = serde_json::from_str::<Inherited>(inherited) else { return 2 };
    let Ok(reporter) = Reporter::inherited(inherited.report) else { return 2 };
    if let Some(fd) = inherited.log {
        log::use_descriptor(fd);
    }
    // The standard library ignores SIGPIPE, and what is ignored stays so across exec; containers expect the default.
    sys::default_sigpipe();
    trace::install();
    let done = match serde_json::from_str(order) {
        Ok(Order::Create(order)) => create::run(&order, reporter.clone()),
        Ok(Order::Exec(order)) => exec::run(&order, &reporter),
        Ok(Order::Debug(order)) => match debug::run(&order) {
            Ok(never) => match never {},
            Err(error) => Err(error),
        },
        Err(source) => Err(HelperError::Json { path: "order".into(), source }),
    };
    match done {
        Ok(()) => 0,
        Err(error) => {
            reporter.fail(error.to_string());
            1
        }
    }
}

/// The text of an error and its causes, without repeating what a cause's text already says.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}
