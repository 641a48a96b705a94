//! A private containerd: its own root, state, socket and network namespace, so that a test leaves the machine as it was.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::leaks::{self, Leftovers};
use crate::{Error, Products, io};

/// The runtime's name, as a user gives it; containerd finds `containerd-shim-paperboat-v1` in its PATH.
pub const RUNTIME: &str = "io.containerd.paperboat.v1";

/// containerd answers within this time even on a busy machine.
const CONTAINERD_TIMEOUT: Duration = Duration::from_secs(60);

/// No command of a test takes longer; a hanging one becomes a failure with a name.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(180);

/// Pause between two looks.
const POLL: Duration = Duration::from_millis(20);

/// What a running pod does shows in the log and in its directory within this time.
const LOG_TIMEOUT: Duration = Duration::from_secs(120);

/// What a finished command left.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// From start to end.
    pub wall: Duration,
}

impl Output {
    /// Exit code; a command that was killed by a signal has none.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }
}

/// A machine with a containerd of our own.
pub struct Host {
    products: Products,
    directory: Option<TempDir>,
    containerd: Child,
    namespace: String,
    // Last, so that the next test starts when everything here is gone.
    _one_at_a_time: Flock<File>,
}

impl Host {
    /// Starts containerd and imports the busybox image. Tests take turns: the leak check looks at the whole machine.
    pub fn start() -> Result<Self, Error> {
        Self::start_with("")
    }

    /// The same, with more lines in the runtime's configuration.
    pub fn start_with(configuration: &str) -> Result<Self, Error> {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let products = Products::from_environment()?;
        let lock = File::create(std::env::temp_dir().join("paperboat-e2e.lock")).map_err(io("lock file"))?;
        let lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| io("lock")(errno.into()))?;
        // Short: unix sockets live below it.
        let directory = tempfile::Builder::new().prefix("pb-").tempdir().map_err(io("temporary directory"))?;
        let namespace = format!("e2e-{}-{}", std::process::id(), STARTED.fetch_add(1, Ordering::Relaxed));
        write_configuration(&products, directory.path(), configuration)?;
        let containerd = spawn_containerd(&products, directory.path())?;
        let host = Self { products, directory: Some(directory), containerd, namespace, _one_at_a_time: lock };
        host.wait_for_containerd()?;
        host.import("busybox", "linux/ppc64le")?;
        Ok(host)
    }

    /// The directory of this containerd and of the pods' state.
    pub fn directory(&self) -> &Path {
        self.directory.as_ref().map_or(Path::new("/nonexistent"), TempDir::path)
    }

    /// Where the runtime keeps its pods.
    pub fn state_dir(&self) -> PathBuf {
        self.directory().join("p")
    }

    /// The containerd namespace of this host.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// containerd's process.
    pub fn containerd_pid(&self) -> u32 {
        self.containerd.id()
    }

    /// What is tested.
    pub fn products(&self) -> &Products {
        &self.products
    }

    /// Imports NAME.tar for one platform.
    pub fn import(&self, name: &str, platform: &str) -> Result<(), Error> {
        let archive = self.products.images.join(format!("{name}.tar"));
        let output = self.ctr(&["images", "import", "--platform", platform, &archive.display().to_string()])?;
        if output.status.success() {
            return Ok(());
        }
        Err(Error::Command { command: format!("ctr images import {}", archive.display()), output: output.stderr })
    }

    /// Runs `ctr` to its end.
    pub fn ctr(&self, arguments: &[&str]) -> Result<Output, Error> {
        finish(self.ctr_command(arguments), COMMAND_TIMEOUT)
    }

    /// `ctr run --rm` with this runtime: a container of the busybox image.
    pub fn run(&self, id: &str, command: &[&str]) -> Result<Output, Error> {
        self.run_with(&[], &image("busybox"), id, command)
    }

    /// The same, with more options and another image.
    pub fn run_with(&self, options: &[&str], image: &str, id: &str, command: &[&str]) -> Result<Output, Error> {
        finish(self.run_command(options, image, id, command), COMMAND_TIMEOUT)
    }

    /// The command of [`Self::run_with`], not started.
    pub fn run_command(&self, options: &[&str], image: &str, id: &str, command: &[&str]) -> Command {
        let fifos = self.directory().join("fifo").display().to_string();
        let all = [&["run", "--rm", "--runtime", RUNTIME, "--fifo-dir", &fifos], options, &[image, id], command].concat();
        self.ctr_command(&all)
    }

    /// A `ctr` command, not started.
    pub fn ctr_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.products.containerd.join("ctr"));
        command.arg("--address").arg(self.directory().join("c.sock")).args(["--namespace", &self.namespace]).args(arguments);
        command
    }

    /// All that containerd and the shims have logged.
    pub fn log(&self) -> String {
        read_lossy(&self.directory().join("containerd.log"))
    }

    /// Waits until the log has a line with all of these words, and returns the last such line.
    pub fn wait_for_log(&self, words: &[&str]) -> Result<String, Error> {
        let deadline = Instant::now() + LOG_TIMEOUT;
        loop {
            let log = self.log();
            if let Some(line) = log.lines().rfind(|line| words.iter().all(|word| line.contains(word))) {
                return Ok(line.to_owned());
            }
            if Instant::now() > deadline {
                return Err(Error::Command { command: format!("waiting for {words:?} in the log"), output: log });
            }
            thread::sleep(POLL);
        }
    }

    /// Waits until pod `id` has a machine; returns its process id, as the runtime noted it.
    pub fn wait_for_machine(&self, id: &str) -> Result<i32, Error> {
        let note = self.state_dir().join(&self.namespace).join(id).join("machine.pid");
        let deadline = Instant::now() + LOG_TIMEOUT;
        while Instant::now() < deadline {
            let text = std::fs::read_to_string(&note).unwrap_or_default();
            if let Some(Ok(pid)) = text.split_whitespace().next().map(str::parse) {
                return Ok(pid);
            }
            // Boot is to be caught early.
            thread::sleep(POLL / 10);
        }
        Err(Error::Command { command: format!("waiting for the machine of pod {id}"), output: self.log() })
    }

    /// What is on the machine now that could have been left by pods.
    pub fn leftovers(&self) -> Leftovers {
        leaks::look(self)
    }

    fn wait_for_containerd(&self) -> Result<(), Error> {
        let deadline = Instant::now() + CONTAINERD_TIMEOUT;
        while !self.ctr(&["version"])?.status.success() {
            if Instant::now() > deadline {
                return Err(Error::NoContainerd(self.log()));
            }
            thread::sleep(POLL);
        }
        Ok(())
    }
}

/// Reference of an image of this project.
pub fn image(name: &str) -> String {
    format!("paperboat.local/{name}:latest")
}

impl Drop for Host {
    fn drop(&mut self) {
        // A test that failed may leave pods: their processes know this directory.
        for pid in leaks::processes_of(self.directory(), self.containerd.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = self.containerd.kill();
        let _ = self.containerd.wait();
        let Some(directory) = self.directory.take() else { return };
        if std::env::var_os("PAPERBOAT_E2E_KEEP").is_some() {
            eprintln!("kept: {}", directory.keep().display());
            return;
        }
        for mount in leaks::mounts_below(directory.path()).iter().rev() {
            let _ = nix::mount::umount2(mount.as_str(), nix::mount::MntFlags::MNT_DETACH);
        }
        if let Err(error) = directory.close() {
            eprintln!("the fixture's directory stays: {error}");
        }
    }
}

fn write_configuration(products: &Products, directory: &Path, more: &str) -> Result<(), Error> {
    let containerd = format!(
        "version = 2\nroot = {root:?}\nstate = {state:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
         [grpc]\naddress = {socket:?}\n[plugins.\"io.containerd.internal.v1.opt\"]\npath = {opt:?}\n",
        root = directory.join("root"),
        state = directory.join("state"),
        socket = directory.join("c.sock"),
        opt = directory.join("opt"),
    );
    std::fs::write(directory.join("containerd.toml"), containerd).map_err(io("containerd's configuration"))?;
    // What a test sets takes the place of what is set here.
    let ours = [
        ("kernel", products.kernel.display().to_string()),
        ("initrd", products.initramfs.display().to_string()),
        ("state_dir", directory.join("p").display().to_string()),
    ];
    let mut text = String::from(more);
    for (key, value) in ours {
        if !more.lines().any(|line| line.starts_with(&format!("{key}:"))) {
            text.push_str(&format!("\n{key}: {value}"));
        }
    }
    std::fs::write(directory.join("paperboat.yaml"), text).map_err(io("the runtime's configuration"))
}

fn spawn_containerd(products: &Products, directory: &Path) -> Result<Child, Error> {
    let log = File::create(directory.join("containerd.log")).map_err(io("containerd's log"))?;
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new("unshare");
    command
        .arg("--net")
        .arg(products.containerd.join("containerd"))
        .arg("--config")
        .arg(directory.join("containerd.toml"))
        .env("PATH", format!("{}:{}:{path}", products.bin.display(), products.containerd.display()))
        .env("PAPERBOAT_CONFIG", directory.join("paperboat.yaml"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(io("containerd's log"))?)
        .stderr(log);
    command.spawn().map_err(io("start containerd"))
}

/// Runs a command to its end, its output taken while it runs; kills it when the time is up.
pub fn finish(mut command: Command, limit: Duration) -> Result<Output, Error> {
    let shown = format!("{command:?}");
    let started = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(io(&shown))?;
    let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
    let status = loop {
        if let Some(status) = child.try_wait().map_err(io(&shown))? {
            break status;
        }
        if started.elapsed() > limit {
            let _ = child.kill();
            let _ = child.wait();
            let text = format!("not finished after {limit:?}\n{}{}", joined(stdout), joined(stderr));
            return Err(Error::Command { command: shown, output: text });
        }
        thread::sleep(Duration::from_millis(2));
    };
    Ok(Output { status, wall: started.elapsed(), stdout: joined(stdout), stderr: joined(stderr) })
}

fn collect(stream: Option<impl std::io::Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            // What came before an error is what there is.
            let _ = stream.read_to_end(&mut bytes);
        }
        bytes
    })
}

fn joined(reader: thread::JoinHandle<Vec<u8>>) -> String {
    String::from_utf8_lossy(&reader.join().unwrap_or_default()).into_owned()
}

fn read_lossy(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}
