//! This terminal on a unix socket.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

/// Ctrl-], as other consoles have it.
const ESCAPE: u8 = 0x1d;

/// The terminal without echo, lines and signals, until it is dropped.
struct Raw(Option<Termios>);

impl Raw {
    fn new() -> Result<Self> {
        let stdin = std::io::stdin();
        // Not a terminal: bytes pass as they are.
        let Ok(before) = tcgetattr(&stdin) else { return Ok(Self(None)) };
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&stdin, SetArg::TCSANOW, &raw).context("set the terminal")?;
        Ok(Self(Some(before)))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = tcsetattr(std::io::stdin(), SetArg::TCSANOW, before);
        }
    }
}

/// Connects standard input and output to the socket `name` in `dir` until Ctrl-] or its end.
pub fn attach(dir: &Path, name: &str) -> Result<()> {
    // A socket's path may have 107 bytes; one by the directory's descriptor is short.
    let directory = std::fs::File::open(dir)?;
    let path = format!("/proc/self/fd/{}/{name}", directory.as_raw_fd());
    let socket = UnixStream::connect(&path).with_context(|| format!("connect to {}", dir.join(name).display()))?;
    eprintln!("connected to the lab's console; Ctrl-] leaves it");
    let _raw = Raw::new()?;
    let mut input = socket.try_clone()?;
    std::thread::spawn(move || {
        let mut byte = [0];
        let mut stdin = std::io::stdin().lock();
        while stdin.read(&mut byte).is_ok_and(|count| count == 1) && byte[0] != ESCAPE {
            if input.write_all(&byte).is_err() {
                break;
            }
        }
        let _ = input.shutdown(std::net::Shutdown::Both);
    });
    (&socket).write_all(b"\n")?;
    let mut bytes = [0; 4096];
    let mut stdout = std::io::stdout().lock();
    loop {
        let count = (&socket).read(&mut bytes).unwrap_or(0);
        if count == 0 {
            return Ok(());
        }
        stdout.write_all(&bytes[..count])?;
        stdout.flush()?;
    }
}
