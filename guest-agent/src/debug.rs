//! The debug console: programs in the guest itself, outside of its containers, for somebody who is root on the host. Only where the
//! host asked for it by a word on the kernel's command line. `paperboat_protocol::debug` describes the conversation.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::pty::openpty;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, pipe2};
use paperboat_protocol::agent::DebugRequest;
use paperboat_protocol::debug::{DEBUG_PARAMETER, DEBUG_TOOLS, FRAME_MAX, FrameKind, HEADER_BYTES, frame, parse_header};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest, ReadHalf, WriteHalf, split};
use tokio::sync::{Mutex, Semaphore, oneshot};
use tokio::time::timeout;

use crate::helper::debug::DebugOrder;
use crate::helper::{self, ChildStreams, Order};
use crate::reaper::{Exit, Reaper};
use crate::streams::window_size;
use crate::sys;
use crate::transport::{Connection, Listener};

/// Programs at once: enough for a person, too few to trouble the guest.
const SESSIONS_MAX: usize = 8;

/// How long the host side may take to say what it wants.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Output that comes after the program's end, from what it has left running, is waited for this long.
const SILENCE_MAX: Duration = Duration::from_millis(500);

/// Arguments and their length in bytes, as Linux bounds them well above.
const ARGS_MAX: usize = 1024;

/// The end of input as a terminal understands it: Ctrl-D.
const END_OF_TRANSMISSION: &[u8] = &[4];

/// Why a session did not come to a program's end.
#[derive(Debug, thiserror::Error)]
enum DebugError {
    #[error("the request: {0}")]
    Request(&'static str),
    #[error("{what}: {source}")]
    Io { what: &'static str, source: io::Error },
    #[error("{0}")]
    Program(String),
}

fn failed<E: Into<io::Error>>(what: &'static str) -> impl Fn(E) -> DebugError {
    move |source| DebugError::Io { what, source: source.into() }
}

/// Whether the host asked for the console.
pub fn wanted() -> bool {
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    line.split_ascii_whitespace().any(|word| word == DEBUG_PARAMETER)
}

/// Serves until the agent ends.
pub async fn serve(listener: Listener, reaper: Reaper, share: PathBuf) {
    let places = Arc::new(Semaphore::new(SESSIONS_MAX));
    loop {
        let Ok(connection) = listener.accept().await else { continue };
        let (reaper, tools, places) = (reaper.clone(), share.join(DEBUG_TOOLS), places.clone());
        tokio::spawn(async move {
            let (reader, writer) = split(connection);
            let writer = Mutex::new(writer);
            let ended = match places.try_acquire() {
                Ok(_place) => session(reader, &writer, &reaper, &tools).await,
                Err(_) => Err(DebugError::Request("too many sessions")),
            };
            let last = match ended {
                Ok(exit) => frame(FrameKind::Exit, &exit.status.to_be_bytes()),
                Err(error) => {
                    crate::warn!("debug console: {error}");
                    frame(FrameKind::Refused, error.to_string().as_bytes())
                }
            };
            let mut writer = writer.into_inner();
            let _ = writer.write_all(&last).await;
            let _ = writer.shutdown().await;
        });
    }
}

type Writer = Mutex<WriteHalf<Connection>>;

/// The agent's ends of a program's streams.
struct Ends {
    input: Option<AsyncFd<OwnedFd>>,
    output: AsyncFd<OwnedFd>,
    errors: Option<AsyncFd<OwnedFd>>,
    terminal: bool,
}

async fn session(mut reader: ReadHalf<Connection>, writer: &Writer, reaper: &Reaper, tools: &Path) -> Result<Exit, DebugError> {
    let asked = timeout(REQUEST_TIMEOUT, next_frame(&mut reader)).await.map_err(|_| DebugError::Request("none came"))?;
    let Some((FrameKind::Request, content)) = asked else { return Err(DebugError::Request("something else came")) };
    let request: DebugRequest = protobuf::Message::parse_from_bytes(&content).map_err(|_| DebugError::Request("is not one"))?;
    let order = order(&request, tools)?;
    crate::info!("debug console runs {:?}", order.args);
    let (child, mut ends) = streams(&request)?;
    let mark = reaper.mark();
    let (pid, reports) = helper::spawn(&Order::Debug(order), child).map_err(failed("starting a helper"))?;
    let mut exit = reaper.claim(pid, mark);
    // The end of the reports without a failure means that the program runs.
    if let Some((crate::report::Report::Failed { error }, _)) = reports.next().await.map_err(failed("hearing of the program"))? {
        return Err(DebugError::Program(error));
    }
    let input = ends.input.take();
    let host = feed(&mut reader, input, &ends);
    let program = async {
        let output = async {
            tokio::join!(pump(&ends.output, FrameKind::Data, writer), async {
                if let Some(errors) = &ends.errors {
                    pump(errors, FrameKind::ErrorData, writer).await;
                }
            })
        };
        tokio::pin!(output);
        let ended = tokio::select! {
            ended = &mut exit => Some(ended),
            _ = &mut output => None,
        };
        match ended {
            Some(ended) => {
                let _ = timeout(SILENCE_MAX, output).await;
                ended
            }
            None => (&mut exit).await,
        }
    };
    tokio::select! {
        ended = program => ended.map_err(|_| DebugError::Request("the program was lost")),
        () = host => {
            abandon(pid, &mut exit);
            Err(DebugError::Request("the host side went away"))
        }
    }
}

/// Kills the program's session if it has not been reaped.
fn abandon(pid: Pid, exit: &mut oneshot::Receiver<Exit>) {
    if exit.try_recv() == Err(oneshot::error::TryRecvError::Empty) {
        let _ = killpg(pid, Signal::SIGKILL);
    }
}

/// The program for a request: a path as it stands, anything else as one of the tools' names.
fn order(request: &DebugRequest, tools: &Path) -> Result<DebugOrder, DebugError> {
    let mut args = request.args.clone();
    if args.len() > ARGS_MAX {
        return Err(DebugError::Request("too many arguments"));
    }
    if args.is_empty() {
        args = vec!["sh".into()];
    }
    let program = match args[0].contains('/') {
        true => PathBuf::from(&args[0]),
        false if tools.exists() => tools.to_owned(),
        false => {
            return Err(DebugError::Request("without `debug_tools` in the host's configuration only a program's path will do"));
        }
    };
    let printable = |text: &str| text.chars().filter(|c| c.is_ascii_graphic()).take(64).collect::<String>();
    let environment = vec![
        "PATH=/bin:/usr/bin".to_owned(),
        "HOME=/".to_owned(),
        "PS1=guest \\w # ".to_owned(),
        format!("TERM={}", if request.term.is_empty() { "dumb".to_owned() } else { printable(&request.term) }),
    ];
    Ok(DebugOrder { program, args, environment, terminal: request.terminal })
}

/// A terminal, or three pipes.
fn streams(request: &DebugRequest) -> Result<(ChildStreams, Ends), DebugError> {
    let watch = |fd: OwnedFd, interest| {
        fcntl(&fd, FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC)).map_err(failed("terminal"))?;
        fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(failed("terminal"))?;
        sys::watch(fd, interest).map_err(failed("watching a stream"))
    };
    if request.terminal {
        let pair = openpty(None, None).map_err(failed("terminal"))?;
        let size = window_size(request.columns, request.rows).map_err(|_| DebugError::Request("size of the terminal"))?;
        sys::set_window_size(pair.master.as_fd(), size.0, size.1).map_err(failed("size of the terminal"))?;
        let copy = |fd: &OwnedFd| fd.try_clone().map_err(failed::<io::Error>("terminal"));
        let child = ChildStreams { stdin: Some(copy(&pair.slave)?), stdout: Some(copy(&pair.slave)?), stderr: Some(pair.slave) };
        let input = watch(copy(&pair.master)?, Interest::WRITABLE)?;
        let output = watch(pair.master, Interest::READABLE)?;
        return Ok((child, Ends { input: Some(input), output, errors: None, terminal: true }));
    }
    let pipe = || pipe2(OFlag::O_CLOEXEC).map_err(failed("pipe"));
    let ((child_in, ours_in), (ours_out, child_out), (ours_err, child_err)) = (pipe()?, pipe()?, pipe()?);
    let child = ChildStreams { stdin: Some(child_in), stdout: Some(child_out), stderr: Some(child_err) };
    let ends = Ends {
        input: Some(watch(ours_in, Interest::WRITABLE)?),
        output: watch(ours_out, Interest::READABLE)?,
        errors: Some(watch(ours_err, Interest::READABLE)?),
        terminal: false,
    };
    Ok((child, ends))
}

/// The next frame; `None` at the end of the connection, or when what comes is none.
async fn next_frame(reader: &mut ReadHalf<Connection>) -> Option<(FrameKind, Vec<u8>)> {
    let mut header = [0; HEADER_BYTES];
    reader.read_exact(&mut header).await.ok()?;
    let (kind, length) = parse_header(header)?;
    let mut content = vec![0; length];
    reader.read_exact(&mut content).await.ok()?;
    Some((kind, content))
}

/// Passes input and sizes on, until the host side goes away.
async fn feed(reader: &mut ReadHalf<Connection>, mut input: Option<AsyncFd<OwnedFd>>, ends: &Ends) {
    while let Some((kind, content)) = next_frame(reader).await {
        match (kind, content.as_slice()) {
            (FrameKind::Data, []) if ends.terminal => {
                if let Some(input) = &input {
                    let _ = write_all(input, END_OF_TRANSMISSION).await;
                }
            }
            (FrameKind::Data, []) => input = None,
            (FrameKind::Data, bytes) => {
                // A program that does not read any more is no reason to end.
                let broken = match &input {
                    Some(input) => write_all(input, bytes).await.is_err(),
                    None => false,
                };
                if broken {
                    input = None;
                }
            }
            (FrameKind::Resize, &[c1, c2, r1, r2]) if ends.terminal => {
                let _ = sys::set_window_size(ends.output.as_fd(), u16::from_be_bytes([c1, c2]), u16::from_be_bytes([r1, r2]));
            }
            _ => {}
        }
    }
}

async fn write_all(fd: &AsyncFd<OwnedFd>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = fd.async_io(Interest::WRITABLE, |fd| nix::unistd::write(fd, bytes).map_err(Into::into)).await?;
        bytes = &bytes[written..];
    }
    Ok(())
}

/// Passes one output on to its end: a terminal's is EIO, when nobody has its other side open.
async fn pump(fd: &AsyncFd<OwnedFd>, kind: FrameKind, writer: &Writer) {
    let mut buffer = vec![0; FRAME_MAX];
    loop {
        let read = fd.async_io(Interest::READABLE, |fd| nix::unistd::read(fd, &mut buffer).map_err(Into::into)).await;
        let count = match read {
            Ok(count) if count > 0 => count,
            Err(error) if error.raw_os_error() == Some(Errno::EINTR as i32) => continue,
            _ => return,
        };
        if writer.lock().await.write_all(&frame(kind, &buffer[..count])).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(args: &[&str]) -> DebugRequest {
        DebugRequest { args: args.iter().map(|&arg| arg.to_owned()).collect(), term: "xterm\n".into(), ..Default::default() }
    }

    #[test]
    fn names_are_tools_and_paths_are_paths() {
        let tools = Path::new("/proc/self/exe");
        assert_eq!(order(&request(&[]), tools).expect("a shell").args, ["sh"]);
        let listed = order(&request(&["ps", "-l"]), tools).expect("a tool");
        assert_eq!((listed.program.as_path(), listed.args.len()), (tools, 2));
        assert!(listed.environment.contains(&"TERM=xterm".to_owned()));
        assert_eq!(order(&request(&["/init"]), tools).expect("a path").program, Path::new("/init"));
        assert!(order(&request(&["ps"]), Path::new("/nonexistent")).is_err());
        assert!(order(&request(&["x"; ARGS_MAX + 1]), tools).is_err());
    }
}
