//! Ending `run` from outside: by a signal or by the escape key, within a second, whatever the machine does, also while it is being made.

use std::path::PathBuf;
use std::process;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};
use paperboat_microvm::give_up::GiveUp;
use paperboat_microvm::machine::{Machine, STOP_LIMIT};

use crate::run::EXIT_STOPPED;
use crate::terminal::RawMode;

/// How long the machine has to end by itself. Something of the host may hold it: a trace that nobody reads, a shared directory whose server is
/// away.
const LAST_RESORT: Duration = Duration::from_millis(900);
const _: () = assert!(LAST_RESORT.as_millis() < STOP_LIMIT.as_millis());

/// What has to end. Clones are the same.
#[derive(Clone, Default)]
pub struct Stopper {
    /// For the machine that is being made.
    pub give_up: GiveUp,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    machine: Option<Machine>,
    /// A file that the machine has made.
    socket: Option<PathBuf>,
    terminal: Option<RawMode>,
    asked: bool,
    over: bool,
}

impl Stopper {
    /// Has the usual signals stop what there is. To be called before there is a second thread.
    ///
    /// # Errors
    /// The host refuses the thread.
    pub fn on_signals(&self) -> Result<()> {
        let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
        signals.thread_block().context("blocking signals")?;
        let stopper = self.clone();
        let body = move || {
            while signals.wait().is_ok() {
                stopper.stop();
            }
        };
        std::thread::Builder::new().name("signals".into()).spawn(body).context("starting the signal thread")?;
        Ok(())
    }

    /// The machine's devices have made this socket.
    pub fn socket_made(&self, socket: Option<PathBuf>) {
        self.lock().socket = socket;
    }

    /// The machine is there.
    pub fn machine_made(&self, machine: &Machine) {
        let mut state = self.lock();
        state.machine = Some(machine.clone());
        if state.asked {
            machine.stop();
        }
    }

    /// Keeps the terminal's mode until [`Self::terminal_back`].
    pub fn terminal_taken(&self, terminal: Option<RawMode>) {
        self.lock().terminal = terminal;
    }

    /// The machine is over: the terminal is the user's again.
    pub fn terminal_back(&self) {
        let terminal = self.lock().terminal.take();
        drop(terminal);
    }

    /// The end has been told, and only reports are written. Whoever does not want them stops again.
    pub fn over(&self) {
        self.lock().over = true;
    }

    /// Stops what there is. Does not wait.
    pub fn stop(&self) {
        self.give_up.ask();
        let mut state = self.lock();
        if state.over {
            process::exit(EXIT_STOPPED.into());
        }
        if std::mem::replace(&mut state.asked, true) {
            return;
        }
        let machine = state.machine.clone();
        drop(state);
        let stopper = self.clone();
        let last_resort = move || {
            std::thread::sleep(LAST_RESORT);
            stopper.end_process();
        };
        // Before the machine is told: that may wait for its console.
        let _ = std::thread::Builder::new().name("last-resort".into()).spawn(last_resort);
        if let Some(machine) = machine {
            machine.stop();
        }
    }

    fn end_process(&self) {
        let mut state = self.lock();
        if state.over {
            return;
        }
        drop(state.terminal.take());
        if let Some(socket) = &state.socket {
            // The machine may have been faster.
            let _ = std::fs::remove_file(socket);
        }
        process::exit(EXIT_STOPPED.into());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
