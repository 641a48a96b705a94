//! Standard streams. Each wanted stream is a connection of its own, which the host side opens and names by a token; between
//! it and the process there is a pipe, or the master side of a terminal, and a pump. A pump holds one buffer and reads only
//! when that has been written: a slow reader slows the writer, and nothing grows.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;
use paperboat_protocol::STREAM_TOKEN_MAX;
use paperboat_protocol::agent::Stdio;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::helper::ChildStreams;
use crate::transport::{Connection, Listener};

/// How long a new connection may take to name its stream, and one that came before its stream was wanted is kept.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(10);
const EARLY_TIMEOUT: Duration = Duration::from_secs(60);

/// Connections kept for streams not wanted yet: three per process of a pod that starts many at once.
const EARLY_MAX: usize = 96;

/// How long a process' start waits for the host side to open its streams.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);

/// A pump's buffer in bytes: half of the 64 KiB that a virtio-vsock packet carries at most, as a pump has one per stream.
const BUFFER: usize = 32 * 1024;

/// After the process has ended: how long its output may stay silent, held open by a grandchild, and how long the host
/// side may take to read what is left.
const SILENCE_MAX: Duration = Duration::from_secs(1);
const DRAIN_MAX: Duration = Duration::from_secs(60);
const DRAIN_STEP: Duration = Duration::from_millis(10);

/// After a request to close standard input: how long the connection must be quiet to have delivered everything.
const CLOSE_QUIET: Duration = Duration::from_millis(200);

/// What can be wrong with a process' streams.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// A token that is none.
    #[error("stdio.{stream}: a token has 1 to {STREAM_TOKEN_MAX} printable ASCII characters")]
    Token {
        /// Which stream.
        stream: &'static str,
    },
    /// The same token twice.
    #[error("stdio.{stream}: this token is waited for already")]
    TokenTaken {
        /// Which stream.
        stream: &'static str,
    },
    /// A terminal has one output.
    #[error("stdio.stderr: a terminal has no standard error of its own")]
    TerminalStderr,
    /// A size that is none.
    #[error("terminal size {columns}x{rows}: at most 65535 each")]
    Size {
        /// Columns asked for.
        columns: u32,
        /// Rows asked for.
        rows: u32,
    },
    /// The host side did not connect.
    #[error("stdio.{stream} was not opened within {} s", OPEN_TIMEOUT.as_secs())]
    NotOpened {
        /// Which stream.
        stream: &'static str,
    },
    /// The kernel's refusal.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// A connection that has named its stream; bytes that came with the name.
struct Arrival {
    connection: Connection,
    early: Vec<u8>,
}

#[derive(Default)]
struct Meeting {
    expected: HashMap<String, oneshot::Sender<Arrival>>,
    early: HashMap<String, (Instant, Arrival)>,
}

/// Where connections and processes meet; clones share one state.
#[derive(Clone, Default)]
pub struct Streams(Arc<Mutex<Meeting>>);

/// A stream somebody waits for.
struct Expected {
    stream: &'static str,
    token: String,
    arrival: oneshot::Receiver<Arrival>,
    streams: Streams,
}

impl Drop for Expected {
    fn drop(&mut self) {
        self.streams.meeting().expected.remove(&self.token);
    }
}

/// The streams a process wants, until it starts.
pub struct Wanted {
    stdin: Option<Expected>,
    stdout: Option<Expected>,
    stderr: Option<Expected>,
    terminal: bool,
    size: Option<(u16, u16)>,
}

/// The agent's ends of a process' pipes.
#[derive(Default)]
pub struct Pipes {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

/// The connections of a process that starts.
pub struct Opened {
    stdin: Option<Arrival>,
    stdout: Option<Arrival>,
    stderr: Option<Arrival>,
}

impl Streams {
    /// Accepts connections on `listener`, forever.
    pub async fn serve(self, listener: Listener) {
        loop {
            match listener.accept().await {
                Ok(connection) => drop(tokio::spawn(self.clone().welcome(connection))),
                Err(error) => {
                    crate::warn!("stream connection failed error={error}");
                    // Out of descriptors or memory: do not spin.
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn welcome(self, mut connection: Connection) {
        match timeout(TOKEN_TIMEOUT, read_token(&mut connection)).await {
            Ok(Ok((token, early))) => self.arrive(token, Arrival { connection, early }),
            Ok(Err(error)) => crate::warn!("stream without a token error={error}"),
            Err(_) => crate::warn!("stream without a token in {} s", TOKEN_TIMEOUT.as_secs()),
        }
    }

    fn arrive(&self, token: String, arrival: Arrival) {
        let mut meeting = self.meeting();
        if let Some(waiting) = meeting.expected.remove(&token) {
            // Nobody waits any more: the process is gone, and the connection closes.
            drop(waiting.send(arrival));
            return;
        }
        meeting.early.retain(|_, (since, _)| since.elapsed() < EARLY_TIMEOUT);
        if meeting.early.len() >= EARLY_MAX {
            crate::warn!("stream refused: {EARLY_MAX} wait for their process already");
            return;
        }
        meeting.early.insert(token, (Instant::now(), arrival));
    }

    /// Checks what the request says of streams and begins to wait for them.
    ///
    /// # Errors
    /// [`StreamError`] naming the field.
    pub fn want(&self, stdio: &Stdio) -> Result<Wanted, StreamError> {
        if stdio.terminal && !stdio.stderr.is_empty() {
            return Err(StreamError::TerminalStderr);
        }
        let size = match (stdio.columns, stdio.rows) {
            (0, 0) => None,
            (columns, rows) => Some(window_size(columns, rows)?),
        };
        Ok(Wanted {
            stdin: self.expect("stdin", &stdio.stdin)?,
            stdout: self.expect("stdout", &stdio.stdout)?,
            stderr: self.expect("stderr", &stdio.stderr)?,
            terminal: stdio.terminal,
            size,
        })
    }

    fn expect(&self, stream: &'static str, token: &str) -> Result<Option<Expected>, StreamError> {
        if token.is_empty() {
            return Ok(None);
        }
        if token.len() > STREAM_TOKEN_MAX || !token.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(StreamError::Token { stream });
        }
        let (sender, arrival) = oneshot::channel();
        let mut meeting = self.meeting();
        if meeting.expected.contains_key(token) {
            return Err(StreamError::TokenTaken { stream });
        }
        match meeting.early.remove(token) {
            Some((_, early)) => drop(sender.send(early)),
            None => drop(meeting.expected.insert(token.to_owned(), sender)),
        }
        Ok(Some(Expected { stream, token: token.to_owned(), arrival, streams: self.clone() }))
    }

    fn meeting(&self) -> MutexGuard<'_, Meeting> {
        // Nothing in here can panic half way; a poisoned state is as good as any.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A terminal size as the kernel takes it.
///
/// # Errors
/// [`StreamError::Size`] beyond 16 bits.
pub fn window_size(columns: u32, rows: u32) -> Result<(u16, u16), StreamError> {
    match (u16::try_from(columns), u16::try_from(rows)) {
        (Ok(columns), Ok(rows)) => Ok((columns, rows)),
        _ => Err(StreamError::Size { columns, rows }),
    }
}

async fn read_token(connection: &mut Connection) -> io::Result<(String, Vec<u8>)> {
    let mut line = Vec::with_capacity(STREAM_TOKEN_MAX + 1);
    let mut chunk = [0; STREAM_TOKEN_MAX + 1];
    loop {
        let len = connection.read(&mut chunk).await?;
        if len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        line.extend_from_slice(&chunk[..len]);
        if let Some(end) = line.iter().position(|&byte| byte == b'\n') {
            let early = line.split_off(end + 1);
            line.pop();
            let token = String::from_utf8(line).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
            return Ok((token, early));
        }
        if line.len() > STREAM_TOKEN_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
}

impl Wanted {
    /// Whether it is a terminal.
    pub fn terminal(&self) -> bool {
        self.terminal
    }

    /// Initial size of the terminal, when the request gave one.
    pub fn size(&self) -> Option<(u16, u16)> {
        self.size
    }

    /// Changes the initial size.
    pub fn set_size(&mut self, size: (u16, u16)) {
        self.size = Some(size);
    }

    /// The pipes between process and pumps; none for a terminal, nor for a stream that is not wanted.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn pipes(&self) -> Result<(ChildStreams, Pipes), StreamError> {
        let mut child = ChildStreams::default();
        let mut ours = Pipes::default();
        if self.terminal {
            return Ok((child, ours));
        }
        if self.stdin.is_some() {
            let (read, write) = pipe()?;
            (child.stdin, ours.stdin) = (Some(read), Some(write));
        }
        if self.stdout.is_some() {
            let (read, write) = pipe()?;
            (child.stdout, ours.stdout) = (Some(write), Some(read));
        }
        if self.stderr.is_some() {
            let (read, write) = pipe()?;
            (child.stderr, ours.stderr) = (Some(write), Some(read));
        }
        Ok((child, ours))
    }

    /// Waits until the host side has opened every wanted stream.
    ///
    /// # Errors
    /// [`StreamError::NotOpened`] after 30 seconds.
    pub async fn opened(mut self) -> Result<Opened, StreamError> {
        let until = Instant::now() + OPEN_TIMEOUT;
        async fn one(expected: Option<Expected>, until: Instant) -> Result<Option<Arrival>, StreamError> {
            let Some(mut expected) = expected else { return Ok(None) };
            match tokio::time::timeout_at(until, &mut expected.arrival).await {
                Ok(Ok(arrival)) => Ok(Some(arrival)),
                _ => Err(StreamError::NotOpened { stream: expected.stream }),
            }
        }
        Ok(Opened {
            stdin: one(self.stdin.take(), until).await?,
            stdout: one(self.stdout.take(), until).await?,
            stderr: one(self.stderr.take(), until).await?,
        })
    }
}

fn pipe() -> Result<(OwnedFd, OwnedFd), StreamError> {
    pipe2(OFlag::O_CLOEXEC).map_err(|errno| StreamError::Io { what: "pipe", source: errno.into() })
}

/// A descriptor of ours, read and written without blocking.
struct Pipe(AsyncFd<OwnedFd>);

impl Pipe {
    fn new(fd: OwnedFd, interest: Interest) -> Result<Self, StreamError> {
        let failed = |source| StreamError::Io { what: "standard stream", source };
        let flags = fcntl(&fd, FcntlArg::F_GETFL).map_err(|errno| failed(errno.into()))?;
        let flags = OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK;
        fcntl(&fd, FcntlArg::F_SETFL(flags)).map_err(|errno| failed(errno.into()))?;
        Ok(Self(crate::sys::watch(fd, interest).map_err(failed)?))
    }

    async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.async_io(Interest::READABLE, |fd| Ok(nix::unistd::read(fd, buffer)?)).await
    }

    async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let len = self.0.async_io(Interest::WRITABLE, |fd| Ok(nix::unistd::write(fd, bytes)?)).await?;
            bytes = &bytes[len..];
        }
        Ok(())
    }
}

/// A terminal's master side.
#[derive(Clone)]
pub struct Terminal(Arc<Pipe>);

impl Terminal {
    /// Takes over the master side.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(master: OwnedFd) -> Result<Self, StreamError> {
        Ok(Self(Arc::new(Pipe::new(master, Interest::READABLE | Interest::WRITABLE)?)))
    }

    /// Sets its size.
    ///
    /// # Errors
    /// The kernel's.
    pub fn resize(&self, (columns, rows): (u16, u16)) -> Result<(), StreamError> {
        crate::sys::set_window_size(self.0.0.get_ref().as_fd(), columns, rows)
            .map_err(|source| StreamError::Io { what: "terminal size", source })
    }
}

/// The pumps of a running process. Dropping them cuts its streams.
#[derive(Default)]
pub struct Pumps {
    outputs: Vec<Output>,
    input: Option<JoinHandle<()>>,
    close_input: Arc<Notify>,
}

struct Output {
    task: JoinHandle<()>,
    /// Set while the host side is being written to.
    writing: Arc<AtomicBool>,
}

impl Drop for Pumps {
    fn drop(&mut self) {
        for output in &self.outputs {
            output.task.abort();
        }
        if let Some(input) = &self.input {
            input.abort();
        }
    }
}

impl Pumps {
    /// Pumps between `opened` and the process' pipes or terminal.
    ///
    /// # Errors
    /// When the kernel cannot watch a descriptor.
    pub fn start(opened: Opened, pipes: Pipes, terminal: Option<&Terminal>) -> Result<Self, StreamError> {
        let mut pumps = Self::default();
        let readable = |fd: Option<OwnedFd>| fd.map(|fd| Pipe::new(fd, Interest::READABLE).map(Arc::new)).transpose();
        let (stdin, stdout, stderr) = match terminal {
            Some(terminal) => (Some(terminal.0.clone()), Some(terminal.0.clone()), None),
            None => {
                let stdin = pipes.stdin.map(|fd| Pipe::new(fd, Interest::WRITABLE).map(Arc::new)).transpose()?;
                (stdin, readable(pipes.stdout)?, readable(pipes.stderr)?)
            }
        };
        for (arrival, pipe) in [(opened.stdout, stdout), (opened.stderr, stderr)] {
            if let (Some(arrival), Some(pipe)) = (arrival, pipe) {
                let writing = Arc::new(AtomicBool::new(false));
                let task = tokio::spawn(pump_out(pipe, arrival.connection, writing.clone()));
                pumps.outputs.push(Output { task, writing });
            }
        }
        if let (Some(arrival), Some(pipe)) = (opened.stdin, stdin) {
            pumps.input = Some(tokio::spawn(pump_in(arrival, pipe, pumps.close_input.clone())));
        }
        Ok(pumps)
    }

    /// Ends standard input after what has arrived.
    pub fn close_input(&self) {
        self.close_input.notify_one();
    }

    /// After the process' end: waits until its output has been read, but not for a grandchild that keeps it open, nor for ever
    /// for a host side that does not read. Then cuts what is left.
    pub async fn drain(self) {
        let start = Instant::now();
        let mut active = start;
        while self.outputs.iter().any(|output| !output.task.is_finished()) {
            if self.outputs.iter().any(|output| output.writing.load(Ordering::Relaxed)) {
                active = Instant::now();
            }
            if active.elapsed() > SILENCE_MAX || start.elapsed() > DRAIN_MAX {
                crate::warn!("streams cut after the end of their process");
                return;
            }
            sleep(DRAIN_STEP).await;
        }
    }
}

async fn pump_out(pipe: Arc<Pipe>, mut connection: Connection, writing: Arc<AtomicBool>) {
    let mut buffer = vec![0; BUFFER];
    let mut host_reads = true;
    loop {
        match pipe.read(&mut buffer).await {
            // EIO: the last process has closed the terminal.
            Ok(0) => break,
            Err(error) if error.raw_os_error() == Some(Errno::EIO as i32) => break,
            Err(error) => {
                crate::warn!("output lost error={error}");
                break;
            }
            Ok(len) if host_reads => {
                writing.store(true, Ordering::Relaxed);
                if let Err(error) = connection.write_all(&buffer[..len]).await {
                    // The container must not die of its host side's fault: go on, and throw it away.
                    crate::warn!("output has no reader error={error}");
                    host_reads = false;
                }
                writing.store(false, Ordering::Relaxed);
            }
            Ok(_) => {}
        }
    }
    writing.store(true, Ordering::Relaxed);
    // A peer that is gone already has its end of stream.
    let _ = connection.shutdown().await;
}

async fn pump_in(arrival: Arrival, pipe: Arc<Pipe>, close: Arc<Notify>) {
    let Arrival { mut connection, early } = arrival;
    if pipe.write_all(&early).await.is_err() {
        return;
    }
    let mut buffer = vec![0; BUFFER];
    let mut closing = false;
    loop {
        let read = tokio::select! {
            biased;
            read = connection.read(&mut buffer) => read,
            () = close.notified(), if !closing => {
                closing = true;
                continue;
            }
            () = sleep(CLOSE_QUIET), if closing => return,
        };
        match read {
            // The pipe closes with its last owner, which is this pump; a terminal stays, for its output.
            Ok(0) | Err(_) => return,
            // The process reads no more.
            Ok(len) if pipe.write_all(&buffer[..len]).await.is_err() => return,
            Ok(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use tokio::io::{AsyncReadExt as _, DuplexStream, duplex};

    use super::*;

    fn connect(streams: &Streams, hello: &[u8]) -> DuplexStream {
        let (host, guest) = duplex(BUFFER * 2);
        tokio::spawn(streams.clone().welcome(Box::new(guest)));
        let mut host = host;
        let hello = hello.to_vec();
        // The duplex pipe holds it at once.
        futures::executor::block_on(async { host.write_all(&hello).await.expect("room") });
        host
    }

    fn stdio(stdin: &str, stdout: &str) -> Stdio {
        Stdio { stdin: stdin.into(), stdout: stdout.into(), ..Default::default() }
    }

    #[tokio::test]
    async fn data_flows_both_ways_whoever_comes_first() {
        let streams = Streams::default();
        let mut host_in = connect(&streams, b"tok-in\nfirst ");
        sleep(Duration::from_millis(20)).await;
        let wanted = streams.want(&stdio("tok-in", "tok-out")).expect("good tokens");
        let mut host_out = connect(&streams, b"tok-out\n");
        let (child, ours) = wanted.pipes().expect("pipes");
        let opened = wanted.opened().await.expect("both came");
        let pumps = Pumps::start(opened, ours, None).expect("pumps");
        host_in.write_all(b"second").await.expect("write");
        host_in.shutdown().await.expect("half-close");
        let child = tokio::task::spawn_blocking(move || {
            let mut input = String::new();
            std::fs::File::from(child.stdin.expect("stdin")).read_to_string(&mut input).expect("read");
            std::fs::File::from(child.stdout.expect("stdout")).write_all(input.to_uppercase().as_bytes()).expect("write");
        });
        child.await.expect("child");
        let mut output = String::new();
        host_out.read_to_string(&mut output).await.expect("read to the end");
        assert_eq!(output, "FIRST SECOND");
        pumps.drain().await;
    }

    #[tokio::test]
    async fn a_slow_reader_loses_nothing_and_a_held_pipe_is_cut() {
        let streams = Streams::default();
        let wanted = streams.want(&stdio("", "slow")).expect("good token");
        let mut host = connect(&streams, b"slow\n");
        let (child, ours) = wanted.pipes().expect("pipes");
        let pumps = Pumps::start(wanted.opened().await.expect("came"), ours, None).expect("pumps");
        let out = child.stdout.expect("stdout");
        let held = out.try_clone().expect("a grandchild's copy");
        let total = 4 * BUFFER;
        tokio::task::spawn_blocking(move || std::fs::File::from(out).write_all(&vec![7; total]))
            .await
            .expect("thread")
            .expect("write");
        let drained = tokio::spawn(pumps.drain());
        // Longer than the silence that is allowed: what is not read yet is no silence.
        sleep(SILENCE_MAX + Duration::from_millis(500)).await;
        assert!(!drained.is_finished());
        let mut output = Vec::new();
        host.read_to_end(&mut output).await.expect("read until cut");
        assert_eq!(output.len(), total);
        drained.await.expect("drain");
        drop(held);
    }

    #[tokio::test]
    async fn asked_to_close_input_ends_after_what_has_come() {
        let streams = Streams::default();
        let wanted = streams.want(&stdio("in", "")).expect("good token");
        let _host = connect(&streams, b"in\nall of it");
        let (child, ours) = wanted.pipes().expect("pipes");
        let pumps = Pumps::start(wanted.opened().await.expect("came"), ours, None).expect("pumps");
        pumps.close_input();
        let mut input = String::new();
        let mut stdin = std::fs::File::from(child.stdin.expect("stdin"));
        tokio::task::spawn_blocking(move || stdin.read_to_string(&mut input).map(|_| assert_eq!(input, "all of it")))
            .await
            .expect("thread")
            .expect("read to the end");
    }

    #[tokio::test]
    async fn bad_requests_name_their_field() {
        let streams = Streams::default();
        for token in ["a b", "a\n", "ü", &"x".repeat(STREAM_TOKEN_MAX + 1)] {
            let error = streams.want(&stdio("", token)).err().expect("refused").to_string();
            assert!(error.contains("stdio.stdout"), "{error}");
        }
        let terminal = Stdio { terminal: true, stderr: "t".into(), ..Default::default() };
        assert!(matches!(streams.want(&terminal), Err(StreamError::TerminalStderr)));
        let twice = streams.want(&stdio("one", "one"));
        assert!(matches!(twice, Err(StreamError::TokenTaken { stream: "stdout" })));
        drop(twice);
        assert!(streams.meeting().expected.is_empty(), "what is not wanted any more is forgotten");
        assert!(matches!(window_size(65536, 1), Err(StreamError::Size { .. })));
    }
}
