//! How one thread gets another one out of KVM_RUN: a signal whose handler does nothing, after `immediate_exit` was set. The signal ends a
//! KVM_RUN that is under way; `immediate_exit` ends one that is about to begin.
#![allow(unsafe_code, reason = "a signal handler, and a signal for one thread")]

use std::io;
use std::sync::OnceLock;

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// The signal. Nothing else in the machine uses it.
const KICK: Signal = Signal::SIGUSR1;

extern "C" fn nothing(_: libc::c_int) {}

/// Installs the handler, once for the process.
pub fn install() -> io::Result<()> {
    static INSTALLED: OnceLock<Result<(), nix::Error>> = OnceLock::new();
    let installed = INSTALLED.get_or_init(|| {
        // Without SA_RESTART: KVM_RUN is to come back.
        let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler touches nothing.
        unsafe { sigaction(KICK, &action) }.map(|_| ())
    });
    (*installed).map_err(io::Error::from)
}

/// Lets the signal reach the calling thread. Returns the thread's number for [`kick`].
pub fn enter_thread() -> io::Result<i32> {
    let mut set = SigSet::empty();
    set.add(KICK);
    set.thread_unblock()?;
    Ok(nix::unistd::gettid().as_raw())
}

/// Signals the thread `tid` of this process. One that is gone is no error.
pub fn kick(tid: i32) {
    // SAFETY: tgkill takes numbers only; the handler is installed before any thread number is known.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, KICK as libc::c_int) };
}
