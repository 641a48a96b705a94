//! `docker run --init`: this program as PID 1 of a container, in place of Docker's own, which is one of the host's architecture. It runs the
//! container's program as its child, hands signals on to it, reaps what loses its parent, and ends as the program ends.

use std::io::ErrorKind;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid};

use crate::sys;

/// Name under which Docker calls its init.
pub const NAME: &str = "docker-init";

/// Statuses of a shell, which Docker's users know.
const CANNOT_RUN: i32 = 126;
const NOT_FOUND: i32 = 127;
/// Of a program that a signal ended: this and the signal's number.
const SIGNALLED: i32 = 128;

/// si_code of a signal that the kernel sent (siginfo.h): from a terminal, to all of its foreground group.
const SI_KERNEL: i32 = 0x80;

/// Faults of this program itself.
const OWN: [Signal; 6] = [Signal::SIGFPE, Signal::SIGILL, Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGABRT, Signal::SIGTRAP];

/// Runs `arguments`, which may begin with `--`; answers the exit status.
pub fn main(arguments: &[String]) -> i32 {
    let arguments = match arguments {
        [first, rest @ ..] if first == "--" => rest,
        all => all,
    };
    let Some((program, rest)) = arguments.split_first() else {
        eprintln!("{NAME}: no program to run");
        return CANNOT_RUN;
    };
    match run(program, rest) {
        Ok(status) => status,
        Err(errno) => {
            eprintln!("{NAME}: {errno}");
            1
        }
    }
}

fn run(program: &str, arguments: &[String]) -> Result<i32, Errno> {
    // What is blocked is kept for the descriptor, even for a PID 1, whom signals without a handler do not reach.
    let mut signals = SigSet::all();
    for own in OWN {
        signals.remove(own);
    }
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&signals), None)?;
    let news = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC)?;
    let child = match sys::fork()? {
        ForkResult::Parent { child } => child,
        ForkResult::Child => std::process::exit(become_program(program, arguments)),
    };
    loop {
        let Some(signal) = news.read_signal()? else { continue };
        match Signal::try_from(signal.ssi_signo.cast_signed()) {
            Ok(Signal::SIGCHLD) => {
                if let Some(status) = reap(child) {
                    return Ok(status);
                }
            }
            // A terminal's signals have reached the child already, which is in this group.
            Ok(_) if signal.ssi_code == SI_KERNEL => {}
            // It may have ended meanwhile, which SIGCHLD tells.
            Ok(signal) => drop(kill(child, signal)),
            Err(_) => {}
        }
    }
}

/// Replaces this process, without the blocked signals. Returns only the status of the failure.
fn become_program(program: &str, arguments: &[String]) -> i32 {
    // Whether the standard library leaves the mask of a child as it is has changed from one release of it to another.
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
    let error = Command::new(program).args(arguments).exec();
    eprintln!("{NAME}: {program}: {error}");
    if error.kind() == ErrorKind::NotFound { NOT_FOUND } else { CANNOT_RUN }
}

/// Takes the status of every child that has ended; answers that of `child`.
fn reap(child: Pid) -> Option<i32> {
    let mut ended = None;
    loop {
        let (pid, status) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => (pid, code),
            Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, SIGNALLED + signal as i32),
            Ok(WaitStatus::StillAlive) | Err(_) => return ended,
            Ok(_) => continue,
        };
        if pid == child {
            ended = Some(status);
        }
    }
}
