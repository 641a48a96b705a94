//! The guest's console output: the last part is always kept in memory, and all of it may go to a file or to a terminal.
//!
//! Writers are vCPU threads inside a hypercall, so nothing here waits: a terminal or pipe gets a bounded backlog that a thread of its own drains,
//! and a full backlog is the guest's to try again.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// What is kept in memory, in bytes: the boot messages of a verbose kernel.
pub const TAIL_BYTES_MAX: usize = 256 << 10;

/// Largest console file in bytes unless another limit is given: a guest that prints for ever fills no disk.
pub const FILE_BYTES_MAX: u64 = 16 << 20;

/// Unwritten bytes for a slow terminal before the guest has to wait.
const BACKLOG_BYTES_MAX: usize = 64 << 10;

/// Most bytes of one write: what a pipe that polls writable takes without blocking (POSIX PIPE_BUF).
const CHUNK_BYTES: usize = 4096;

/// How long the drain thread waits for a terminal before it looks whether it should end.
const POLL_MS: u16 = 100;

/// How long the drain thread waits when a terminal takes nothing although it said that it would.
const RETRY: Duration = Duration::from_millis(10);

/// Written once when a console file is full.
const FILE_FULL: &[u8] = b"\n[the console file is full; later output is in memory only]\n";

/// A part of the output.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Position behind them, counted from the machine's start.
    pub next: u64,
    /// Nothing will follow.
    pub ended: bool,
}

/// Where output goes besides memory.
enum Sink {
    None,
    File { file: File, written: u64, limit: u64 },
    Backlog,
}

struct State {
    tail: VecDeque<u8>,
    total_bytes: u64,
    backlog: VecDeque<u8>,
    sink: Sink,
    closing: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// The console.
pub struct Console {
    shared: Arc<Shared>,
    drain: Mutex<Option<JoinHandle<()>>>,
}

impl Console {
    /// Kept in memory only.
    pub fn in_memory() -> Self {
        Self::with(Sink::None)
    }

    /// Also written to `file`, at most `limit` bytes, [`FILE_BYTES_MAX`] for want of a better.
    pub fn to_file(file: File, limit: u64) -> Self {
        Self::with(Sink::File { file, written: 0, limit })
    }

    /// Also written to what stands at `path`: a file, which is made if there is none, `emptied` or continued, and takes at most `limit` bytes; or a
    /// pipe or a terminal as with [`Self::to_stream`].
    ///
    /// # Errors
    /// What the system said; also for a pipe that nobody reads.
    pub fn to_path(path: &str, emptied: bool, limit: u64) -> io::Result<Self> {
        let mut options = File::options();
        // A pipe without a reader would hold the open for ever.
        options.create(true).custom_flags(OFlag::O_NONBLOCK.bits());
        if emptied {
            options.write(true).truncate(true)
        } else {
            options.append(true)
        };
        let file = options.open(path).map_err(|error| match error.raw_os_error() {
            Some(libc::ENXIO) => io::Error::other("nobody reads this pipe"),
            _ => error,
        })?;
        if file.metadata()?.is_file() {
            return Ok(Self::to_file(file, limit));
        }
        // Its thread asks before it writes.
        let flags = OFlag::from_bits_truncate(fcntl(&file, FcntlArg::F_GETFL)?);
        fcntl(&file, FcntlArg::F_SETFL(flags & !OFlag::O_NONBLOCK))?;
        Self::to_stream(file)
    }

    /// Also written to `output`, a terminal or a pipe, by a thread of its own.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn to_stream(output: File) -> io::Result<Self> {
        let output = if output.is_terminal() { unblocked(&output).unwrap_or(output) } else { output };
        let console = Self::with(Sink::Backlog);
        let shared = Arc::clone(&console.shared);
        let thread = std::thread::Builder::new().name("console".into()).spawn(move || drain(&shared, output))?;
        *console.drain.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(console)
    }

    fn with(sink: Sink) -> Self {
        let state = State { tail: VecDeque::new(), total_bytes: 0, backlog: VecDeque::new(), sink, closing: false };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() }), drain: Mutex::new(None) }
    }

    /// Takes all of `bytes`, or, when a slow stream has fallen behind, nothing of them (false).
    pub fn write(&self, bytes: &[u8]) -> bool {
        let mut state = self.lock();
        if matches!(state.sink, Sink::Backlog) {
            if state.backlog.len() + bytes.len() > BACKLOG_BYTES_MAX {
                return false;
            }
            state.backlog.extend(bytes);
        }
        if let Sink::File { file, written, limit } = &mut state.sink {
            let room = limit.saturating_sub(*written);
            if room > 0 {
                let part = &bytes[..bytes.len().min(room as usize)];
                *written += part.len() as u64;
                // A full disk must not stop the guest; the tail in memory goes on.
                let _ = file.write_all(part);
                if *written == *limit {
                    let _ = file.write_all(FILE_FULL);
                }
            }
        }
        state.tail.extend(bytes);
        state.total_bytes += bytes.len() as u64;
        let excess = state.tail.len().saturating_sub(TAIL_BYTES_MAX);
        state.tail.drain(..excess);
        self.shared.changed.notify_all();
        true
    }

    /// The last `lines` lines that are kept; 0 for all.
    pub fn tail(&self, lines: usize) -> Vec<u8> {
        let state = self.lock();
        let bytes: Vec<u8> = state.tail.iter().copied().collect();
        if lines == 0 {
            return bytes;
        }
        let body = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        let cut = body.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n').nth(lines - 1);
        bytes[cut.map_or(0, |(position, _)| position + 1)..].to_vec()
    }

    /// At most `max` bytes of output from position `from` on, which is the end if it lies beyond it. Waits for the first of them up to `wait`.
    /// What is no longer kept is passed over.
    pub fn read_from(&self, from: u64, max: usize, wait: Duration) -> Piece {
        let mut state = self.lock();
        let from = from.min(state.total_bytes);
        if state.total_bytes == from {
            let nothing_new = |state: &mut State| state.total_bytes == from && !state.closing;
            state = self.shared.changed.wait_timeout_while(state, wait, nothing_new).unwrap_or_else(PoisonError::into_inner).0;
        }
        let first_kept = state.total_bytes - state.tail.len() as u64;
        let skip = from.saturating_sub(first_kept) as usize;
        let bytes: Vec<u8> = state.tail.iter().skip(skip).take(max).copied().collect();
        let next = from.max(first_kept) + bytes.len() as u64;
        Piece { bytes, next, ended: state.closing && next == state.total_bytes }
    }

    /// The last `lines` lines as text.
    pub fn tail_lines(&self, lines: usize) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.tail(lines)).into_owned();
        text.lines().map(|line| line.trim_end_matches('\r').to_owned()).collect()
    }

    /// Bytes written since the machine started.
    pub fn total_bytes(&self) -> u64 {
        self.lock().total_bytes
    }

    /// Ends the drain thread after it wrote what it can write without waiting.
    pub fn close(&self) {
        self.lock().closing = true;
        self.shared.changed.notify_all();
        let thread = self.drain.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A panic there was reported by the panic hook already.
            let _ = thread.join();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.close();
    }
}

/// The same terminal, opened once more so that writes to it do not wait: what it takes at a time is not known before. Whoever shares the old
/// descriptor (the user's shell) keeps what it has.
fn unblocked(terminal: &File) -> io::Result<File> {
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    File::options().write(true).custom_flags(flags.bits()).open(format!("/proc/self/fd/{}", terminal.as_raw_fd()))
}

/// Writes the backlog to `output` until the console closes or the other side is gone.
fn drain(shared: &Shared, mut output: File) {
    loop {
        let (chunk, closing) = {
            let mut state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
            while state.backlog.is_empty() && !state.closing {
                state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            let count = state.backlog.len().min(CHUNK_BYTES);
            (state.backlog.iter().take(count).copied().collect::<Vec<u8>>(), state.closing)
        };
        if chunk.is_empty() {
            return;
        }
        let mut fds = [PollFd::new(output.as_fd(), PollFlags::POLLOUT)];
        let ready = poll(&mut fds, PollTimeout::from(POLL_MS));
        let writable = fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLOUT));
        let done = match ready {
            Ok(0) | Err(nix::Error::EINTR) if !closing => continue,
            Ok(count) if count > 0 && writable => output.write(&chunk),
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        };
        let written = match done {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && !closing => {
                std::thread::sleep(RETRY);
                0
            }
            Err(_) => {
                // Nobody reads any more: the guest goes on without.
                let mut state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
                state.sink = Sink::None;
                state.backlog.clear();
                return;
            }
        };
        shared.state.lock().unwrap_or_else(PoisonError::into_inner).backlog.drain(..written);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn the_tail_is_bounded_and_counted_in_lines() {
        let console = Console::in_memory();
        for line in 0..100_000 {
            assert!(console.write(format!("line {line}\r\n").as_bytes()));
        }
        assert_eq!(console.tail(0).len(), TAIL_BYTES_MAX);
        assert_eq!(console.tail_lines(2), ["line 99998", "line 99999"]);
        assert!(console.write(b"no newline"));
        assert_eq!(console.tail_lines(2), ["line 99999", "no newline"]);
        assert_eq!(console.tail(1), b"no newline");
    }

    #[test]
    fn a_file_takes_no_more_than_its_limit() {
        let path = std::env::temp_dir().join(format!("console-test-{}", std::process::id()));
        let console = Console::to_file(File::create(&path).unwrap(), FILE_BYTES_MAX);
        let block = vec![b'x'; 1 << 20];
        for _ in 0..20 {
            assert!(console.write(&block));
        }
        let length = std::fs::metadata(&path).unwrap().len();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(length, FILE_BYTES_MAX + FILE_FULL.len() as u64);
        assert_eq!(console.total_bytes(), 20 << 20);
    }

    #[test]
    fn a_reader_follows_from_where_it_was() {
        let console = Arc::new(Console::in_memory());
        assert!(console.write(b"hello"));
        let piece = |bytes: &[u8], next, ended| Piece { bytes: bytes.to_vec(), next, ended };
        assert_eq!(console.read_from(1, 3, Duration::ZERO), piece(b"ell", 4, false));
        assert_eq!(console.read_from(5, 9, Duration::ZERO), piece(b"", 5, false));
        let other = Arc::clone(&console);
        let reader = std::thread::spawn(move || other.read_from(u64::MAX, 9, Duration::from_secs(60)));
        std::thread::sleep(Duration::from_millis(20));
        assert!(console.write(b"!"));
        assert_eq!(reader.join().unwrap(), piece(b"!", 6, false));
        assert!(console.write(&[b'x'; TAIL_BYTES_MAX]));
        let total = 6 + TAIL_BYTES_MAX as u64;
        assert_eq!(console.read_from(2, 2, Duration::ZERO), piece(b"xx", 8, false), "what is gone is passed over");
        let other = Arc::clone(&console);
        let reader = std::thread::spawn(move || other.read_from(total, 9, Duration::from_secs(60)));
        std::thread::sleep(Duration::from_millis(20));
        console.close();
        assert_eq!(reader.join().unwrap(), piece(b"", total, true));
        assert!(!console.read_from(total - 2, 1, Duration::ZERO).ended);
    }

    #[test]
    fn a_stream_gets_everything_in_order() {
        let (mut reader, writer) = io::pipe().unwrap();
        let console = Console::to_stream(File::from(std::os::fd::OwnedFd::from(writer))).unwrap();
        assert!(console.write(b"hello "));
        assert!(console.write(b"world"));
        console.close();
        drop(console);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello world");
    }

    #[test]
    fn a_reader_that_sleeps_makes_the_guest_wait_but_not_the_stop() {
        let (reader, writer) = io::pipe().unwrap();
        let console = Console::to_stream(File::from(std::os::fd::OwnedFd::from(writer))).unwrap();
        let block = vec![b'x'; 4096];
        let accepted = (0..200).filter(|_| console.write(&block)).count();
        assert!(accepted < 200, "{accepted} blocks accepted");
        let start = std::time::Instant::now();
        console.close();
        assert!(start.elapsed() < Duration::from_secs(1));
        drop(reader);
    }

    #[test]
    fn a_path_may_be_a_pipe() {
        let path = std::env::temp_dir().join(format!("console-pipe-{}", std::process::id()));
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let name = path.to_str().unwrap();
        let error = Console::to_path(name, true, FILE_BYTES_MAX).err().expect("nobody reads it");
        assert!(error.to_string().contains("nobody reads"), "{error}");
        let mut reader = File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&path).unwrap();
        let console = Console::to_path(name, false, FILE_BYTES_MAX).unwrap();
        let block = vec![b'x'; 4096];
        let accepted = (0..200).filter(|_| console.write(&block)).count();
        assert!(accepted < 200, "{accepted} blocks accepted by a pipe that nobody empties");
        console.close();
        let mut first = [0; 16];
        reader.read_exact(&mut first).unwrap();
        assert_eq!(&first, &[b'x'; 16]);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_reader_that_went_away_stops_nobody() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let console = Console::to_stream(File::from(std::os::fd::OwnedFd::from(writer))).unwrap();
        let block = vec![b'x'; 4096];
        for _ in 0..2000 {
            if console.write(&block) && console.total_bytes() > 4 << 20 {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("the console stays blocked");
    }
}
