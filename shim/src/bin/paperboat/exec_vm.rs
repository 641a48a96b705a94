//! `paperboat exec-vm`: this terminal, or these streams, become those of a program in the guest.

use std::io::{IsTerminal, stdin, stdout};
use std::process::ExitCode;

use paperboat_protocol::agent::DebugRequest;
use paperboat_protocol::debug::{DEBUG_PORT, FRAME_MAX, FrameKind, HEADER_BYTES, frame, parse_header};
use paperboat_shim::agent::connect;
use paperboat_shim::config::Config;
use protobuf::Message;
use ratatui::crossterm::terminal::{disable_raw_mode, enable_raw_mode, size};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{Cli, ExecVmArguments};
use crate::failure::Failure;
use crate::pods::{self, Pod};
use crate::table;

/// Exit status of a program whose guest went away.
const LOST: u8 = 255;

/// The terminal without echo and line editing, until this is dropped.
struct RawTerminal;

impl RawTerminal {
    fn enter() -> Result<Self, Failure> {
        enable_raw_mode().map_err(|source| Failure::Io { what: "terminal", source })?;
        Ok(Self)
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = disable_raw_mode();
    }
}

/// Runs the program; its exit status becomes ours.
pub fn run(cli: &Cli, arguments: &ExecVmArguments) -> Result<ExitCode, Failure> {
    let config = Config::load(cli.config.as_deref())?;
    let pod = pods::find(&config, &arguments.pod)?;
    if !pod.note.debug_console {
        return Err(Failure::NoDebugConsole { pod: pod.note.id.clone(), config: Config::path(cli.config.as_deref()) });
    }
    let terminal = stdin().is_terminal() && stdout().is_terminal();
    let (columns, rows) = if terminal { size().unwrap_or((80, 24)) } else { (0, 0) };
    let request = DebugRequest {
        args: arguments.command.clone(),
        terminal,
        term: std::env::var("TERM").unwrap_or_default(),
        columns: columns.into(),
        rows: rows.into(),
        ..Default::default()
    };
    let runtime = pods::runtime()?;
    let status = runtime.block_on(session(&pod, &request));
    // Standard input may be waited for by a thread that nothing can wake.
    runtime.shutdown_background();
    status.map(ExitCode::from)
}

async fn session(pod: &Pod, request: &DebugRequest) -> Result<u8, Failure> {
    let stream = connect(&pod.paths.vsock_socket(), DEBUG_PORT).await;
    let stream = stream.map_err(|source| Failure::Agent { pod: pod.note.id.clone(), source })?;
    let (reader, mut writer) = stream.into_split();
    let content = request.write_to_bytes().unwrap_or_default();
    writer
        .write_all(&frame(FrameKind::Request, &content))
        .await
        .map_err(|source| Failure::Io { what: "the guest's console", source })?;
    let _raw = if request.terminal { Some(RawTerminal::enter()?) } else { None };
    tokio::select! {
        status = output(pod, reader) => status,
        failed = input(writer, request.terminal) => Err(failed),
    }
}

/// Passes on what the guest writes, up to the exit status.
async fn output(pod: &Pod, mut reader: OwnedReadHalf) -> Result<u8, Failure> {
    let (mut out, mut err) = (tokio::io::stdout(), tokio::io::stderr());
    let mut content = vec![0; FRAME_MAX];
    loop {
        let mut header = [0; HEADER_BYTES];
        if reader.read_exact(&mut header).await.is_err() {
            return Ok(LOST);
        }
        let Some((kind, length)) = parse_header(header) else { return Ok(LOST) };
        let content = &mut content[..length];
        if reader.read_exact(content).await.is_err() {
            return Ok(LOST);
        }
        let written = match kind {
            FrameKind::Data => {
                async {
                    out.write_all(content).await?;
                    out.flush().await
                }
                .await
            }
            FrameKind::ErrorData => {
                async {
                    err.write_all(content).await?;
                    err.flush().await
                }
                .await
            }
            FrameKind::Exit => return Ok(content.last().copied().unwrap_or(LOST)),
            FrameKind::Refused => {
                let reason = table::harmless(&String::from_utf8_lossy(content));
                return Err(Failure::Refused { pod: pod.note.id.clone(), reason });
            }
            FrameKind::Request | FrameKind::Resize => Ok(()),
        };
        written.map_err(Failure::Output)?;
    }
}

/// Passes on what is typed, and the terminal's size. Returns only a failure: the program may go on without input.
async fn input(mut writer: OwnedWriteHalf, terminal: bool) -> Failure {
    let sent = async {
        let mut window = signal(SignalKind::window_change())?;
        let mut input = tokio::io::stdin();
        let mut buffer = vec![0; FRAME_MAX];
        let mut open = true;
        loop {
            tokio::select! {
                read = input.read(&mut buffer), if open => {
                    let count = read?;
                    open = count > 0;
                    writer.write_all(&frame(FrameKind::Data, &buffer[..count])).await?;
                }
                changed = window.recv(), if terminal => {
                    if changed.is_none() {
                        continue;
                    }
                    let (columns, rows) = size()?;
                    let content = [columns.to_be_bytes(), rows.to_be_bytes()].concat();
                    writer.write_all(&frame(FrameKind::Resize, &content)).await?;
                }
                else => std::future::pending::<()>().await,
            }
        }
    };
    let sent: std::io::Result<std::convert::Infallible> = sent.await;
    match sent {
        // The guest is gone; its side of the conversation says so.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::future::pending().await,
        Err(source) => Failure::Io { what: "standard input", source },
        Ok(never) => match never {},
    }
}
