//! Log drivers: programs of the host that take what a process writes (`binary://PATH?NAME=VALUE`), as `nerdctl run --detach` has them.
//!
//! containerd's convention (its page on runtime v2, "Logging"): the driver gets standard output as descriptor 3 and standard error as
//! 4, says that it is ready by writing to descriptor 5 or closing it, finds whose output it is in its environment, and ends with its input.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::process::{Child, Command};

/// The scheme of a stream's name.
pub const SCHEME: &str = "binary";

/// How long a driver may take until it is ready, and to end after its input.
const PATIENCE: Duration = Duration::from_secs(10);

/// Most arguments of a driver: names and values of the query.
const MAX_ARGUMENTS: usize = 256;

/// Why there is no log driver.
#[derive(Debug, thiserror::Error)]
pub enum LoggerError {
    /// The name is none of a program.
    #[error("log driver {0:?}: binary:// and the absolute path of a program are wanted, then ?NAME=VALUE&…")]
    Name(String),
    /// It cannot be started.
    #[error("log driver {}: {source}", program.display())]
    Start {
        /// Its program.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It does not become ready.
    #[error("log driver {}: it neither wrote to descriptor 5 nor closed it within {PATIENCE:?}", .0.display())]
    Silent(PathBuf),
}

/// Whose output it is.
#[derive(Debug, Clone, Copy)]
pub struct Whose<'a> {
    /// containerd's namespace.
    pub namespace: &'a str,
    /// The container, or the process that was added to it.
    pub id: &'a str,
}

/// A running log driver.
pub struct Logger {
    program: PathBuf,
    child: Child,
}

/// A log driver, and where it takes standard output and error from.
pub struct Started {
    /// The driver.
    pub logger: Logger,
    /// For standard output.
    pub stdout: Sender,
    /// For standard error.
    pub stderr: Sender,
}

impl Logger {
    /// Starts the driver that the stream's name describes, and waits until it is ready.
    pub async fn start(name: &str, whose: Whose<'_>) -> Result<Started, LoggerError> {
        let (program, arguments) = parse(name).ok_or_else(|| LoggerError::Name(name.into()))?;
        let failed = |source: io::Error| LoggerError::Start { program: program.clone(), source };
        let (stdout, to_stdout) = io::pipe().map_err(failed)?;
        let (stderr, to_stderr) = io::pipe().map_err(failed)?;
        let (ready, to_ready) = io::pipe().map_err(failed)?;
        let sender = |end: io::PipeWriter| Sender::from_owned_fd(end.into()).map_err(failed);
        let (to_stdout, to_stderr) = (sender(to_stdout)?, sender(to_stderr)?);
        let mut ready = Receiver::from_owned_fd(ready.into()).map_err(failed)?;
        let mut command = Command::new(&program);
        command.args(&arguments).env("CONTAINER_ID", whose.id).env("CONTAINER_NAMESPACE", whose.namespace);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let given = |parent_fd: OwnedFd, child_fd| FdMapping { parent_fd, child_fd };
        let given = vec![given(stdout.into(), 3), given(stderr.into(), 4), given(to_ready.into(), 5)];
        command.fd_mappings(given).map_err(|_| failed(io::ErrorKind::InvalidInput.into()))?;
        let child = command.spawn().map_err(failed)?;
        // This process's copies of the driver's ends go, so that ends are seen.
        drop(command);
        let logger = Self { program, child };
        // A byte or an end: both mean that it is ready.
        match tokio::time::timeout(PATIENCE, ready.read(&mut [0])).await {
            Ok(Ok(_)) => Ok(Started { logger, stdout: to_stdout, stderr: to_stderr }),
            Ok(Err(source)) => Err(LoggerError::Start { program: logger.program.clone(), source }),
            Err(_) => Err(LoggerError::Silent(logger.program.clone())),
        }
    }

    /// Waits for its end, now that its input has ended; one that does not end is killed.
    pub async fn finish(mut self) {
        match tokio::time::timeout(PATIENCE, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => {}
            Ok(Ok(status)) => log::warn!("log driver {}: {status}", self.program.display()),
            Ok(Err(error)) => log::warn!("log driver {}: {error}", self.program.display()),
            Err(_) => log::warn!("log driver {}: it did not end with its input, and is killed", self.program.display()),
        }
    }
}

/// Program and arguments: each name of the query and its first value.
fn parse(name: &str) -> Option<(PathBuf, Vec<String>)> {
    let (scheme, rest) = name.split_once("://")?;
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let program = PathBuf::from(decoded(path, false)?);
    let mut arguments: Vec<String> = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (key, value) = (decoded(key, true)?, decoded(value, true)?);
        if arguments.iter().step_by(2).any(|known| *known == key) {
            continue;
        }
        arguments.extend([key, value]);
    }
    let sound = scheme == SCHEME && program.is_absolute() && arguments.len() <= MAX_ARGUMENTS;
    sound.then_some((program, arguments))
}

/// Undoes the coding of URLs (RFC 3986, 2.1); in a query a plus sign is a blank.
fn decoded(text: &str, in_query: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                let (high, low) = (digit(rest.next()?)?, digit(rest.next()?)?);
                u8::try_from(high << 4 | low).ok()?
            }
            b'+' if in_query => b' ',
            other => other,
        });
    }
    String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use tokio::io::AsyncWriteExt;

    use super::*;

    #[test]
    fn names_are_programs_with_arguments() {
        let parsed = |name| parse(name).map(|(program, arguments)| (program.display().to_string(), arguments));
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        assert_eq!(parsed("binary:///bin/x"), Some(("/bin/x".into(), Vec::new())));
        let all = parsed("binary:///a%20b?id=c%2Fd&flag&two+words=x+y&id=again");
        assert_eq!(all, Some(("/a b".into(), words(&["id", "c/d", "flag", "", "two words", "x y"]))));
        for bad in ["binary://relative/x", "binary:///x?a=%", "binary:///x?a=%zz", "file:///x", "binary:///%00", "/x"] {
            assert_eq!(parsed(bad), None, "{bad}");
        }
        let many: String = (0..MAX_ARGUMENTS).map(|n| format!("n{n}&")).collect();
        assert_eq!(parsed(&format!("binary:///x?{many}")), None);
    }

    fn driver(directory: &Path, script: &str) -> String {
        let path = directory.join("driver");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        format!("binary://{}", path.display())
    }

    #[tokio::test]
    async fn a_driver_takes_both_streams_and_ends_with_them() {
        let directory = tempfile::tempdir().unwrap();
        let whole = directory.path().join("whole");
        let script =
            format!("exec 5>&-; {{ echo $CONTAINER_NAMESPACE $CONTAINER_ID $*; cat <&3; cat <&4; }} > {}", whole.display());
        let name = driver(directory.path(), &script) + "?key=value";
        let Started { logger, mut stdout, mut stderr } = Logger::start(&name, Whose { namespace: "ns", id: "c" }).await.unwrap();
        stderr.write_all(b"second\n").await.unwrap();
        stdout.write_all(b"first\n").await.unwrap();
        drop((stdout, stderr));
        logger.finish().await;
        assert_eq!(std::fs::read_to_string(whole).unwrap(), "ns c key value\nfirst\nsecond\n");
    }

    #[tokio::test]
    async fn a_driver_that_is_not_there_or_ends_at_once_is_no_hang() {
        let whose = Whose { namespace: "ns", id: "c" };
        let missing = Logger::start("binary:///nonexistent/driver", whose).await.err().unwrap().to_string();
        assert!(missing.contains("/nonexistent/driver") && missing.contains("No such file"), "{missing}");
        let directory = tempfile::tempdir().unwrap();
        let Started { logger, mut stdout, .. } = Logger::start(&driver(directory.path(), "exit 1"), whose).await.unwrap();
        logger.finish().await;
        assert!(stdout.write_all(b"nobody reads\n").await.is_err());
    }
}
