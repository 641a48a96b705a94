//! A machine by hand: `paperboat-vmm run` with a shell on its console, as a person would use it.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use crate::Error;

/// A guest that says nothing more for so long hangs; a bound on the test, not an expectation.
const PATIENCE: Duration = Duration::from_secs(300);

/// What tests of the machine need, from the environment.
#[derive(Debug, Clone)]
pub struct MachineProducts {
    /// `paperboat-vmm`.
    pub program: PathBuf,
    /// The project's kernel.
    pub kernel: PathBuf,
    /// Initramfs with a shell that reads the console.
    pub shell: PathBuf,
    /// What executes guests: `soft`, unless the environment says otherwise.
    pub backend: String,
    /// What the program is started by: `ip netns exec NAME`, or nothing.
    pub through: Vec<String>,
}

impl MachineProducts {
    /// Reads the environment; every path must exist.
    ///
    /// # Errors
    /// [`Error::Unset`], [`Error::Missing`].
    pub fn from_environment() -> Result<Self, Error> {
        Ok(Self {
            program: path("PAPERBOAT_BIN")?.join("paperboat-vmm"),
            kernel: path("PAPERBOAT_KERNEL")?,
            shell: path("PAPERBOAT_SHELL")?,
            backend: std::env::var("PAPERBOAT_BACKEND").unwrap_or_else(|_| "soft".into()),
            through: Vec::new(),
        })
    }
}

fn path(variable: &'static str) -> Result<PathBuf, Error> {
    let path = PathBuf::from(std::env::var_os(variable).ok_or(Error::Unset(variable))?);
    if path.exists() { Ok(path) } else { Err(Error::Missing { variable, path }) }
}

/// A product that only `cargo xtask test --all` makes; without it the test says that it does not run.
pub fn optional(variable: &'static str) -> Option<PathBuf> {
    let found = path(variable).ok();
    if found.is_none() {
        eprintln!("not run: {variable} is part of cargo xtask test --all");
    }
    found
}

/// A running machine whose console is read here.
pub struct Machine {
    child: Child,
    typed: Option<ChildStdin>,
    output: Receiver<Vec<u8>>,
    console: String,
    /// Where the console has been read to.
    at: usize,
}

/// How a machine ended.
#[derive(Debug)]
pub struct Ended {
    /// `paperboat-vmm`'s exit status.
    pub status: Option<i32>,
    /// Its messages.
    pub messages: String,
    /// The whole console.
    pub console: String,
}

impl Machine {
    /// Starts `kernel` with the shell; `options` are options of `paperboat-vmm run`, `cmdline` is appended to the kernel's.
    ///
    /// # Errors
    /// [`Error::Io`] if the program cannot be started.
    pub fn start(products: &MachineProducts, kernel: &Path, cmdline: &str, options: &[&str]) -> Result<Self, Error> {
        let words = products.through.iter().map(OsStr::new).chain([products.program.as_os_str()]);
        let words: Vec<&OsStr> = words.collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        let cmdline = format!("console=hvc0 quiet {cmdline}");
        command.args(["run", "--backend", &products.backend, "--cmdline", &cmdline, "--kernel"]);
        command.arg(kernel).arg("--initrd").arg(&products.shell).args(options);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let failed = |source| Error::Io { what: format!("start {}", products.program.display()), source };
        let mut child = command.spawn().map_err(failed)?;
        let (sender, output) = channel();
        if let Some(mut stdout) = child.stdout.take() {
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = stdout.read(&mut buffer) {
                    if sender.send(buffer[..count].to_vec()).is_err() {
                        return;
                    }
                }
            });
        }
        let typed = child.stdin.take();
        Ok(Self { child, typed, output, console: String::new(), at: 0 })
    }

    /// Reads the console up to and including `text`; returns what came before it.
    ///
    /// # Panics
    /// When the machine ends or says nothing for very long: with the whole console.
    pub fn wait_for(&mut self, text: &str) -> String {
        loop {
            if let Some(found) = self.console[self.at..].find(text) {
                let before = self.console[self.at..self.at + found].to_owned();
                self.at += found + text.len();
                return before;
            }
            match self.output.recv_timeout(PATIENCE) {
                Ok(bytes) => self.console.push_str(&String::from_utf8_lossy(&bytes).replace('\r', "")),
                Err(RecvTimeoutError::Timeout) => panic!("the guest did not print {text:?}:\n{}", self.console),
                Err(RecvTimeoutError::Disconnected) => panic!("the machine ended before {text:?}:\n{}", self.console),
            }
        }
    }

    /// Waits for the shell.
    pub fn wait_for_shell(&mut self) {
        self.wait_for("[ready]\n");
    }

    /// Types a line.
    pub fn type_line(&mut self, line: &str) {
        if let Some(typed) = &mut self.typed {
            // A machine that is gone is noticed by what it does not print.
            let _ = writeln!(typed, "{line}");
        }
    }

    /// Runs a command in the guest's shell; its output and status.
    pub fn command(&mut self, line: &str) -> (String, i32) {
        self.type_line(line);
        let output = self.wait_for("[status ");
        let status = self.wait_for("]\n");
        (output, status.parse().unwrap_or(-1))
    }

    /// Runs a command that must succeed; its output without the last newline.
    ///
    /// # Panics
    /// When its status is not 0.
    pub fn run(&mut self, line: &str) -> String {
        let (output, status) = self.command(line);
        assert_eq!(status, 0, "{line}\n{output}");
        output.trim_end_matches('\n').to_owned()
    }

    /// Memory of its process that is resident, bytes; 0 once it is gone.
    pub fn resident_bytes(&self) -> u64 {
        status_number(format!("/proc/{}/status", self.child.id()), "VmRSS:") << 10
    }

    /// How often its threads have begun to wait so far, each to be woken.
    pub fn wake_ups(&self) -> u64 {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).into_iter().flatten().flatten();
        threads.map(|thread| status_number(thread.path().join("status"), "voluntary_ctxt_switches:")).sum()
    }

    /// Waits for the end.
    pub fn end(mut self) -> Ended {
        // The shell's input stays open until the machine is over.
        loop {
            match self.output.recv_timeout(PATIENCE) {
                Ok(bytes) => self.console.push_str(&String::from_utf8_lossy(&bytes).replace('\r', "")),
                Err(RecvTimeoutError::Timeout) => panic!("the machine does not end:\n{}", self.console),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let mut messages = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            // What cannot be read was not said.
            let _ = stderr.read_to_string(&mut messages);
        }
        let status = self.child.wait().ok().and_then(|status| status.code());
        Ended { status, messages, console: std::mem::take(&mut self.console) }
    }
}

/// The number behind `field` in a status file of proc(5), 0 where there is none any more.
fn status_number(path: impl AsRef<Path>, field: &str) -> u64 {
    let status = std::fs::read_to_string(path).unwrap_or_default();
    let value = status.lines().find_map(|line| line.strip_prefix(field)?.split_whitespace().next());
    value.and_then(|value| value.parse().ok()).unwrap_or(0)
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
