//! Running a client to its end.

use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::{Error, io};

/// No command of a test takes longer; a hanging one becomes a failure with a name.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(600);

/// What a finished command left.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// From start to end.
    pub wall: Duration,
}

impl Output {
    /// Exit code; a command that was killed by a signal has none.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }
}

/// Runs a command to its end, its output taken while it runs; kills it when the time is up.
pub fn finish(mut command: Command, limit: Duration) -> Result<Output, Error> {
    let shown = format!("{command:?}");
    let started = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(io(&shown))?;
    let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
    let status = loop {
        if let Some(status) = child.try_wait().map_err(io(&shown))? {
            break status;
        }
        if started.elapsed() > limit {
            let _ = child.kill();
            let _ = child.wait();
            let text = format!("not finished after {limit:?}\n{}{}", joined(stdout), joined(stderr));
            return Err(Error::Command { command: shown, output: text });
        }
        thread::sleep(Duration::from_millis(2));
    };
    Ok(Output { status, wall: started.elapsed(), stdout: joined(stdout), stderr: joined(stderr) })
}

fn collect(stream: Option<impl std::io::Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            // What came before an error is what there is.
            let _ = stream.read_to_end(&mut bytes);
        }
        bytes
    })
}

fn joined(reader: thread::JoinHandle<Vec<u8>>) -> String {
    String::from_utf8_lossy(&reader.join().unwrap_or_default()).into_owned()
}
