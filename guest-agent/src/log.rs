//! Log lines of the guest: `paperboat-agent: LEVEL SECONDS text key=value …` on the console, where the machine keeps them.
//!
//! Every console byte is a hypercall's share on a software CPU, so there is no debug level: milestones, refusals and failures.

use std::fmt;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::OnceLock;

use nix::time::{ClockId, clock_gettime};

/// Longest line in bytes; more is cut so that a hostile spec cannot flood the console through an error text.
const LINE_MAX: usize = 1024;

static CONSOLE: OnceLock<File> = OnceLock::new();

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// A milestone.
    Info,
    /// Something was refused or left out.
    Warn,
    /// Something failed.
    Error,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        })
    }
}

/// Sends the lines to the guest's console from now on; until then, and without a console, they go to standard error.
pub fn use_console() {
    // The console itself rather than /dev/kmsg: `quiet` on the kernel's command line must not silence the agent.
    if let Ok(console) = File::options().write(true).custom_flags(libc::O_NOCTTY).open("/dev/console") {
        let _ = CONSOLE.set(console);
    }
}

/// The descriptor behind the lines, kept open across exec for a helper, whose standard streams are the container's.
pub fn descriptor() -> Option<RawFd> {
    // One duplicate serves all helpers.
    static INHERITABLE: OnceLock<Option<File>> = OnceLock::new();
    let duplicate = || match CONSOLE.get() {
        Some(console) => console.try_clone().ok(),
        None => std::io::stderr().as_fd().try_clone_to_owned().ok().map(File::from),
    };
    let file = INHERITABLE.get_or_init(duplicate).as_ref()?;
    nix::fcntl::fcntl(file, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).ok()?;
    Some(file.as_raw_fd())
}

/// Sends the lines to the descriptor that PID 1 handed down; it closes at the next exec.
pub fn use_descriptor(raw: RawFd) {
    if let Ok(fd) = crate::sys::inherited_fd(raw) {
        let _ = nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC));
        let _ = CONSOLE.set(File::from(fd));
    }
}

/// Writes one line. Use the macros [`info!`](crate::info), [`warn!`](crate::warn) and [`error!`](crate::error).
pub fn line(level: Level, text: fmt::Arguments<'_>) {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0.0, |t| t.tv_sec() as f64 + t.tv_nsec() as f64 / 1e9);
    let bytes = format_line(level, now, text);
    // A console that cannot be written to leaves nobody to tell.
    let _ = match CONSOLE.get() {
        Some(mut console) => console.write_all(&bytes),
        None => std::io::stderr().write_all(&bytes),
    };
}

fn format_line(level: Level, seconds: f64, text: fmt::Arguments<'_>) -> Vec<u8> {
    let mut line = format!("paperboat-agent: {level} {seconds:.3} {text}").replace(['\n', '\r'], " ");
    if line.len() > LINE_MAX {
        let cut = (0..=LINE_MAX).rev().find(|&at| line.is_char_boundary(at)).unwrap_or(0);
        line.truncate(cut);
        line.push('…');
    }
    line.push('\n');
    line.into_bytes()
}

/// A milestone.
#[macro_export]
macro_rules! info {
    ($($arg:tt)*) => { $crate::log::line($crate::log::Level::Info, format_args!($($arg)*)) };
}

/// Something was refused or left out.
#[macro_export]
macro_rules! warn {
    ($($arg:tt)*) => { $crate::log::line($crate::log::Level::Warn, format_args!($($arg)*)) };
}

/// Something failed.
#[macro_export]
macro_rules! error {
    ($($arg:tt)*) => { $crate::log::line($crate::log::Level::Error, format_args!($($arg)*)) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_call_is_one_bounded_line() {
        let line = format_line(Level::Warn, 1.5, format_args!("a\nb\r{}", "é".repeat(2 * LINE_MAX)));
        let text = String::from_utf8(line).expect("cut at a character boundary");
        assert!(text.starts_with("paperboat-agent: warn 1.500 a b é"), "{text}");
        assert_eq!(text.matches('\n').count(), 1);
        assert!(text.len() <= LINE_MAX + 4);
    }
}
