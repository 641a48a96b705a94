//! Standard streams: each a vsock connection to the agent, pumped from or to what containerd named.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use paperboat_protocol::agent::Stdio;
use paperboat_protocol::{STREAM_PORT, STREAM_TOKEN_MAX};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf, pipe};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::agent::{self, AgentError};
use crate::logger::{self, Logger, LoggerError, Started, Whose};

/// Bytes moved at once, a pipe's default capacity.
const BUFFER_BYTES: usize = 64 << 10;

/// Why a process has no standard streams.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// A kind of stream this shim cannot serve.
    #[error("standard stream {0:?}: only fifos, file:// and, for output, binary:// are supported")]
    Scheme(String),
    /// The program that was to take the output.
    #[error(transparent)]
    Logger(#[from] LoggerError),
    /// The fifo or file cannot be opened.
    #[error("standard stream {}: {source}", path.display())]
    Open {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// No connection to the agent.
    #[error(transparent)]
    Agent(#[from] AgentError),
}

/// Streams as containerd names them; empty where not wanted.
#[derive(Debug, Clone, Default)]
pub struct StdioPaths {
    /// Read by the process.
    pub stdin: String,
    /// Written by the process; with a terminal all it writes.
    pub stdout: String,
    /// Written by the process; unused with a terminal.
    pub stderr: String,
    /// The process gets a terminal.
    pub terminal: bool,
}

impl StdioPaths {
    /// Tokens for the agent, one for each wanted stream.
    pub fn tokens(&self) -> Stdio {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let process = NEXT.fetch_add(1, Ordering::Relaxed);
        let token = |wanted: bool, name: &str| {
            let token = if wanted { format!("{process}.{name}") } else { String::new() };
            debug_assert!(token.len() <= STREAM_TOKEN_MAX);
            token
        };
        Stdio {
            stdin: token(!self.stdin.is_empty(), "stdin"),
            stdout: token(!self.stdout.is_empty(), "stdout"),
            stderr: token(!self.stderr.is_empty() && !self.terminal, "stderr"),
            terminal: self.terminal,
            ..Default::default()
        }
    }
}

/// The pumps of one process.
pub struct Streams {
    outputs: Vec<JoinHandle<()>>,
    input: Option<JoinHandle<()>>,
    logger: Option<Logger>,
    close_input: watch::Sender<bool>,
    epilogue: watch::Sender<Option<String>>,
}

impl Streams {
    /// Opens what containerd named, connects each stream by its token and starts pumping.
    pub async fn connect(paths: &StdioPaths, tokens: &Stdio, vsock: &Path, whose: Whose<'_>) -> Result<Self, StreamError> {
        let (close_input, closing) = watch::channel(false);
        let (epilogue, last_words) = watch::channel(None);
        let mut streams = Self { outputs: Vec::new(), input: None, logger: None, close_input, epilogue };
        let [stdout, stderr] = open_sinks(paths, tokens, whose, &mut streams.logger).await?;
        // The last words of a failing machine go to standard error, or to the terminal.
        let last = if tokens.stderr.is_empty() { &tokens.stdout } else { &tokens.stderr };
        for (sink, token) in [(stdout, &tokens.stdout), (stderr, &tokens.stderr)] {
            let Some(sink) = sink else { continue };
            let (from, to) = connect_stream(vsock, token).await?.into_split();
            let last_words = (token == last).then(|| last_words.clone());
            // The guest never reads from an output; its half is kept only so that the connection stays whole.
            streams.outputs.push(tokio::spawn(pump_output(from, to, sink, last_words)));
        }
        if !tokens.stdin.is_empty() {
            let source = open_source(&paths.stdin)?;
            let (from, to) = connect_stream(vsock, &tokens.stdin).await?.into_split();
            streams.input = Some(tokio::spawn(pump_input(source, from, to, closing)));
        }
        Ok(streams)
    }

    /// Ends standard input once what is in the fifo has been passed on.
    pub fn close_input(&self) {
        self.close_input.send_replace(true);
    }

    /// The process has ended; `last_words` are for whoever reads its output, when it did not end by itself.
    pub fn process_ended(&self, last_words: Option<String>) {
        self.epilogue.send_replace(Some(last_words.unwrap_or_default()));
        if let Some(input) = &self.input {
            input.abort();
        }
    }

    /// Waits until all output has been passed on, for `limit` at most: a descendant may hold the stream, or nobody reads it. Then a log
    /// driver gets its time.
    pub async fn finish(&mut self, limit: Duration) {
        let deadline = tokio::time::Instant::now() + limit;
        for output in &mut self.outputs {
            if tokio::time::timeout_at(deadline, &mut *output).await.is_err() {
                output.abort();
            }
        }
        self.outputs.clear();
        if let Some(logger) = self.logger.take() {
            logger.finish().await;
        }
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.outputs.iter().chain(&self.input).for_each(JoinHandle::abort);
    }
}

async fn connect_stream(vsock: &Path, token: &str) -> Result<UnixStream, StreamError> {
    let mut stream = agent::connect(vsock, STREAM_PORT).await?;
    let sent = stream.write_all(format!("{token}\n").as_bytes()).await;
    sent.map_err(|source| AgentError::Connect { port: STREAM_PORT, source })?;
    Ok(stream)
}

type Sink = Box<dyn AsyncWrite + Send + Unpin>;

/// A fifo's path, or a `file://` path.
enum Target {
    Fifo(PathBuf),
    File(PathBuf),
}

fn target(name: &str) -> Result<Target, StreamError> {
    match name.split_once("://") {
        None | Some(("fifo", _)) => Ok(Target::Fifo(name.strip_prefix("fifo://").unwrap_or(name).into())),
        Some(("file", path)) => Ok(Target::File(path.into())),
        Some(_) => Err(StreamError::Scheme(name.into())),
    }
}

/// Where standard output and error go, each if it is wanted: one log driver takes both.
async fn open_sinks(
    paths: &StdioPaths,
    tokens: &Stdio,
    whose: Whose<'_>,
    logger: &mut Option<Logger>,
) -> Result<[Option<Sink>; 2], StreamError> {
    let wanted = [(&paths.stdout, &tokens.stdout), (&paths.stderr, &tokens.stderr)];
    let wanted = wanted.map(|(path, token)| (!token.is_empty()).then_some(path));
    let driver = wanted[0].filter(|path| path.split_once("://").is_some_and(|(scheme, _)| scheme == logger::SCHEME));
    if let Some(driver) = driver {
        let Started { logger: started, stdout, stderr } = Logger::start(driver, whose).await?;
        *logger = Some(started);
        let stderr: Option<Sink> = match wanted[1] {
            Some(path) if path == driver => Some(Box::new(stderr)),
            Some(path) => Some(open_sink(path).await?),
            None => None,
        };
        return Ok([Some(Box::new(stdout)), stderr]);
    }
    let mut sinks = [None, None];
    for (sink, path) in sinks.iter_mut().zip(wanted) {
        if let Some(path) = path {
            *sink = Some(open_sink(path).await?);
        }
    }
    Ok(sinks)
}

async fn open_sink(name: &str) -> Result<Sink, StreamError> {
    let (path, file) = match target(name)? {
        // Open both ways: a reader that goes away and comes back (containerd's restart) neither ends nor kills the pump.
        Target::Fifo(path) => match pipe::OpenOptions::new().read_write(true).open_sender(&path) {
            Ok(fifo) => return Ok(Box::new(fifo)),
            Err(source) => (path, Err(source)),
        },
        Target::File(path) => {
            // As containerd's own runtime does: a log's directory need not be there.
            let made = path.parent().map(std::fs::create_dir_all).unwrap_or(Ok(()));
            made.map_err(|source| StreamError::Open { path: path.clone(), source })?;
            let file = tokio::fs::OpenOptions::new().create(true).append(true).open(&path).await;
            (path, file)
        }
    };
    match file {
        Ok(file) => Ok(Box::new(file)),
        Err(source) => Err(StreamError::Open { path, source }),
    }
}

fn open_source(name: &str) -> Result<pipe::Receiver, StreamError> {
    match target(name)? {
        // For reading only: clients end standard input by closing the fifo as well as by CloseIO, and `ctr` forgets the latter when its
        // own input ends early. Before the first writer comes, such a fifo is not readable rather than ended (fifo(7), poll(2)).
        Target::Fifo(path) => pipe::OpenOptions::new().open_receiver(&path).map_err(|source| StreamError::Open { path, source }),
        Target::File(_) => Err(StreamError::Scheme(name.into())),
    }
}

async fn pump_output(
    mut from: OwnedReadHalf,
    _to: OwnedWriteHalf,
    mut sink: Sink,
    last_words: Option<watch::Receiver<Option<String>>>,
) {
    let mut buffer = vec![0; BUFFER_BYTES];
    // A read error is an end too: the machine is gone.
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if sink.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
    if let Some(mut last_words) = last_words {
        // The stream's end comes before the news of the process's end; only that tells whether there is more to say.
        let words = last_words.wait_for(Option::is_some).await.ok().and_then(|words| words.clone()).unwrap_or_default();
        let _ = sink.write_all(words.as_bytes()).await;
    }
    let _ = sink.flush().await;
}

async fn pump_input(
    mut source: pipe::Receiver,
    _from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut closing: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = tokio::select! {
            read = source.read(&mut buffer) => read.unwrap_or(0),
            // An error means that nobody is left to close it.
            _ = closing.wait_for(|closed| *closed) => break,
        };
        if read == 0 || to.write_all(&buffer[..read]).await.is_err() {
            let _ = to.shutdown().await;
            return;
        }
    }
    // What was written before the close goes first. The fifo itself is asked (it does not block), because the reactor need not
    // have heard of it yet.
    while let Ok(read @ 1..) = nix::unistd::read(&source, &mut buffer) {
        if to.write_all(&buffer[..read]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::Mode;
    use std::fs::File;
    use std::io::{Read, Write};
    use tokio::io::{AsyncBufReadExt, BufReader};
    use tokio::net::UnixListener;

    const WHOSE: Whose<'_> = Whose { namespace: "ns", id: "c" };

    struct Guest {
        directory: tempfile::TempDir,
        listener: UnixListener,
    }

    impl Guest {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let listener = UnixListener::bind(directory.path().join("vsock")).unwrap();
            Self { directory, listener }
        }

        fn fifo(&self, name: &str) -> String {
            let path = self.directory.path().join(name);
            nix::unistd::mkfifo(&path, Mode::from_bits_truncate(0o600)).unwrap();
            path.display().to_string()
        }

        /// Accepts one stream and returns it after handshake and token.
        async fn accept(&self) -> (String, BufReader<UnixStream>) {
            let (stream, _) = self.listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            stream.read_line(&mut line).await.unwrap();
            assert_eq!(line, "CONNECT 1025\n");
            stream.get_mut().write_all(b"OK 5\n").await.unwrap();
            line.clear();
            stream.read_line(&mut line).await.unwrap();
            (line, stream)
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn output_reaches_the_fifo_and_ends_with_the_process() {
        let guest = Guest::new();
        let paths = StdioPaths { stderr: guest.fifo("err"), ..Default::default() };
        let tokens = paths.tokens();
        let vsock = guest.directory.path().join("vsock");
        let (streams, (token, mut stream)) = tokio::join!(Streams::connect(&paths, &tokens, &vsock, WHOSE), guest.accept());
        let mut streams = streams.unwrap();
        assert_eq!(token, format!("{}\n", tokens.stderr));
        let path = paths.stderr.clone();
        let reader = tokio::task::spawn_blocking(move || {
            let mut text = String::new();
            File::open(path).unwrap().read_to_string(&mut text).unwrap();
            text
        });
        stream.get_mut().write_all(b"hello\n").await.unwrap();
        drop(stream);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!reader.is_finished(), "the reader must not see an end before the process has ended");
        streams.process_ended(Some("killed\n".into()));
        assert_eq!(reader.await.unwrap(), "hello\nkilled\n");
        streams.finish(Duration::from_secs(5)).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn input_is_passed_on_whole_before_it_is_closed() {
        let guest = Guest::new();
        let paths = StdioPaths { stdin: guest.fifo("in"), ..Default::default() };
        let tokens = paths.tokens();
        let vsock = guest.directory.path().join("vsock");
        let (streams, (_, mut stream)) = tokio::join!(Streams::connect(&paths, &tokens, &vsock, WHOSE), guest.accept());
        let streams = streams.unwrap();
        let path = paths.stdin.clone();
        // Within the fifo's capacity, so that all of it waits there when the close comes. The fifo itself stays open.
        let open = move || {
            let mut fifo = File::options().write(true).open(path).unwrap();
            fifo.write_all(&[7; 60_000]).unwrap();
            fifo
        };
        let fifo = tokio::task::spawn_blocking(open).await.unwrap();
        streams.close_input();
        let mut received = Vec::new();
        stream.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, vec![7; 60_000]);
        drop(fifo);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn input_ends_with_its_last_writer_and_not_before_the_first() {
        let guest = Guest::new();
        let paths = StdioPaths { stdin: guest.fifo("in"), ..Default::default() };
        let tokens = paths.tokens();
        let vsock = guest.directory.path().join("vsock");
        let (streams, (_, mut stream)) = tokio::join!(Streams::connect(&paths, &tokens, &vsock, WHOSE), guest.accept());
        let _streams = streams.unwrap();
        let early = tokio::time::timeout(Duration::from_millis(100), stream.read(&mut [0; 1])).await;
        assert!(early.is_err(), "ended before anybody wrote");
        let path = paths.stdin.clone();
        tokio::task::spawn_blocking(move || std::fs::write(path, "x").unwrap()).await.unwrap();
        let mut received = String::new();
        stream.read_to_string(&mut received).await.unwrap();
        assert_eq!(received, "x");
    }

    #[tokio::test]
    async fn a_reader_that_never_comes_does_not_hold_the_end_up() {
        let guest = Guest::new();
        let paths = StdioPaths { stdout: guest.fifo("out"), ..Default::default() };
        let vsock = guest.directory.path().join("vsock");
        let tokens = paths.tokens();
        let (streams, (_, mut stream)) = tokio::join!(Streams::connect(&paths, &tokens, &vsock, WHOSE), guest.accept());
        let mut streams = streams.unwrap();
        let flood = tokio::spawn(async move { stream.get_mut().write_all(&[1; 1 << 20]).await });
        streams.finish(Duration::from_millis(100)).await;
        flood.abort();
    }

    #[tokio::test]
    async fn unknown_kinds_of_streams_are_refused() {
        assert!(matches!(open_sink("carrier-pigeon:///logger?a=b").await, Err(StreamError::Scheme(_))));
        assert!(matches!(open_source("/nonexistent/fifo"), Err(StreamError::Open { .. })));
    }
}
