//! The user's terminal as the guest's: raw mode, and an escape key.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use paperboat_microvm::machine::Machine;

use crate::stopper::Stopper;

/// Ctrl-A: the next key is for the machine.
const ESCAPE: u8 = 0x01;
/// How long the reader sleeps before it looks whether it should end.
const POLL_MS: u16 = 100;
/// What the guest has not fetched yet is offered again after this time.
const RETRY: Duration = Duration::from_millis(10);

/// Raw mode for as long as it lives.
pub struct RawMode {
    saved: Termios,
}

impl RawMode {
    /// Switches standard input to raw mode if it is a terminal.
    pub fn enter() -> io::Result<Option<Self>> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let saved = tcgetattr(&stdin)?;
        let mut raw = saved.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&stdin, SetArg::TCSANOW, &raw)?;
        Ok(Some(Self { saved }))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // Nothing better is left to do than to try; and not to wait for what a stopped terminal has not shown.
        let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &self.saved);
    }
}

/// Types what arrives on standard input into the machine until `done`.
pub fn forward_input(machine: &Machine, stopper: &Stopper, done: &Arc<AtomicBool>) {
    // Not through std's buffer: what it holds is not seen by poll.
    let stdin = io::stdin().lock();
    let mut escaped = false;
    let mut buffer = [0; 256];
    while !done.load(Ordering::Relaxed) {
        let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::from(POLL_MS)) {
            Ok(0) | Err(nix::Error::EINTR) => continue,
            Ok(_) => {}
            Err(_) => return,
        }
        let count = match nix::unistd::read(stdin.as_fd(), &mut buffer) {
            Err(nix::Error::EINTR) => continue,
            Ok(0) | Err(_) => return,
            Ok(count) => count,
        };
        let mut typed = Vec::with_capacity(count);
        for byte in &buffer[..count] {
            match (escaped, *byte) {
                (false, ESCAPE) => escaped = true,
                (true, key) => {
                    escaped = false;
                    match key {
                        b'x' | b'q' => return stopper.stop(),
                        ESCAPE => typed.push(ESCAPE),
                        _ => eprint!("\r\nCtrl-A x ends the machine, Ctrl-A Ctrl-A types Ctrl-A\r\n"),
                    }
                }
                (false, byte) => typed.push(byte),
            }
        }
        let mut rest = &typed[..];
        while !rest.is_empty() && !done.load(Ordering::Relaxed) {
            rest = &rest[machine.type_in(rest)..];
            if !rest.is_empty() {
                std::thread::sleep(RETRY);
            }
        }
    }
}
