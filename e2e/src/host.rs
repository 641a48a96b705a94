//! A private containerd: its own root, state, socket and network namespace, so that a test leaves the machine as it was.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::command::COMMAND_TIMEOUT;
pub use crate::command::{Output, finish};
use crate::leaks::{self, Leftovers};
use crate::products::Containerd;
use crate::{Error, Products, io};

/// The runtime's name, as a user gives it; containerd finds `containerd-shim-paperboat-v1` in its PATH.
pub const RUNTIME: &str = "io.containerd.paperboat.v1";

/// containerd answers within this time even on a busy machine.
const CONTAINERD_TIMEOUT: Duration = Duration::from_secs(180);

/// A web server of a pod answers within this time, once it listens.
const FETCH_TIMEOUT: Duration = Duration::from_secs(60);

/// Pause between two looks.
const POLL: Duration = Duration::from_millis(20);

/// What a running pod does shows in the log and in its directory within this time.
const LOG_TIMEOUT: Duration = Duration::from_secs(120);

/// What a private containerd is to be.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    /// Which containerd.
    pub containerd: Containerd,
    /// Lines of the runtime's configuration.
    pub configuration: String,
    /// The CRI plugin's part of containerd's configuration; without it there is none.
    pub cri: Option<String>,
}

/// A machine with a containerd of our own.
pub struct Host {
    products: Products,
    bin: PathBuf,
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
        let setup = Setup { containerd: Containerd::of_tests()?, configuration: configuration.into(), ..Setup::default() };
        let host = Self::start_bare(&setup)?;
        host.import("busybox", "linux/ppc64le")?;
        Ok(host)
    }

    /// Starts the containerd of `setup`, without an image.
    pub fn start_bare(setup: &Setup) -> Result<Self, Error> {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let products = Products::from_environment()?;
        let bin = setup.containerd.directory()?;
        let lock = File::create(std::env::temp_dir().join("paperboat-e2e.lock")).map_err(io("lock file"))?;
        let lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| io("lock")(errno.into()))?;
        // The lock is ours, so nobody else's fixture is in use.
        leaks::remove_abandoned(&std::env::temp_dir());
        leaks::remove_cgroups(leaks::NAMESPACE_PREFIX);
        // Short: unix sockets live below it.
        let directory = tempfile::Builder::new().prefix(leaks::PREFIX).tempdir().map_err(io("temporary directory"))?;
        let namespace = format!("{}{}-{}", leaks::NAMESPACE_PREFIX, std::process::id(), STARTED.fetch_add(1, Ordering::Relaxed));
        write_configuration(&products, directory.path(), setup)?;
        let containerd = spawn_containerd(&products, &bin, directory.path())?;
        let mut host = Self { products, bin, directory: Some(directory), containerd, namespace, _one_at_a_time: lock };
        host.wait_for_containerd()?;
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

    /// Waits until containerd's process is gone, as a test has it killed.
    pub fn wait_for_containerds_end(&mut self) -> Result<(), Error> {
        self.containerd.wait().map(drop).map_err(io("containerd"))
    }

    /// Starts containerd again, on what the last one left.
    pub fn restart_containerd(&mut self) -> Result<(), Error> {
        self.containerd = spawn_containerd(&self.products, &self.bin, self.directory())?;
        self.wait_for_containerd()
    }

    /// What is tested.
    pub fn products(&self) -> &Products {
        &self.products
    }

    /// Imports NAME.tar for one platform.
    pub fn import(&self, name: &str, platform: &str) -> Result<(), Error> {
        self.import_into(&self.namespace, name, platform)
    }

    /// The same, into another containerd namespace.
    pub fn import_into(&self, namespace: &str, name: &str, platform: &str) -> Result<(), Error> {
        let archive = self.archive(name);
        let archive_name = archive.display().to_string();
        let arguments = ["--namespace", namespace, "images", "import", "--platform", platform, &archive_name];
        let output = self.ctr(&arguments)?;
        if output.status.success() {
            return Ok(());
        }
        Err(Error::Command { command: format!("ctr images import {}", archive.display()), output: output.stderr })
    }

    /// The archive of an image.
    pub fn archive(&self, name: &str) -> PathBuf {
        self.products.images.join(format!("{name}.tar"))
    }

    /// A program that is to run in containerd's network namespace.
    pub fn command_inside(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.containerd.id())).arg("--").arg(program);
        command
    }

    /// Does `task` in containerd's network namespace, in a thread of its own: a thread does not come back.
    pub fn inside<T: Send + 'static>(&self, task: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> Result<T, Error> {
        let path = format!("/proc/{}/ns/net", self.containerd.id());
        let namespace = File::open(&path).map_err(io(path))?;
        let done = thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET)?;
            task()
        });
        done.join().unwrap_or_else(|_| Err(std::io::ErrorKind::Other.into())).map_err(io("in containerd's network namespace"))
    }

    /// What a web server that containerd's network namespace can reach has at `/`.
    pub fn fetch(&self, server: SocketAddr) -> Result<String, Error> {
        self.inside(move || {
            let mut stream = TcpStream::connect_timeout(&server, FETCH_TIMEOUT)?;
            stream.set_read_timeout(Some(FETCH_TIMEOUT))?;
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            match answer.split_once("\r\n\r\n") {
                Some((head, body)) if head.contains(" 200 ") => Ok(body.to_owned()),
                _ => Err(std::io::Error::other(answer)),
            }
        })
    }

    /// PATH for engines: the project's programs first, then those of this containerd, and runc.
    pub fn engine_path(&self) -> String {
        engine_path(&self.products, &self.bin)
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
        let mut command = Command::new(self.bin.join("ctr"));
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

    fn wait_for_containerd(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + CONTAINERD_TIMEOUT;
        while !self.ctr(&["version"])?.status.success() {
            if Instant::now() > deadline || !matches!(self.containerd.try_wait(), Ok(None)) {
                return Err(Error::NoDaemon("containerd", self.log()));
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
        // A test that failed may leave pods: their processes know this directory, their control groups bear its namespace.
        for pid in leaks::processes_of(self.directory(), self.containerd.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let _ = self.containerd.kill();
        let _ = self.containerd.wait();
        let Some(directory) = self.directory.take() else { return };
        if std::env::var_os("PAPERBOAT_E2E_KEEP").is_some() {
            let _ = std::fs::write(directory.path().join(leaks::KEPT), "");
            eprintln!("kept: {}", directory.keep().display());
            return;
        }
        leaks::unmount_below(directory.path());
        leaks::remove_cgroups(&self.namespace);
        if let Err(error) = directory.close() {
            eprintln!("the fixture's directory stays: {error}");
        }
    }
}

fn write_configuration(products: &Products, directory: &Path, setup: &Setup) -> Result<(), Error> {
    // NRI listens at one place for the whole machine. The CRI plugin has had two names.
    let mut disabled = vec!["io.containerd.nri.v1.nri"];
    if setup.cri.is_none() {
        disabled.extend(["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime", "io.containerd.cri.v1.images"]);
    }
    // containerd 2.x reads version 2 too.
    let containerd = format!(
        "version = 2\nroot = {root:?}\nstate = {state:?}\ndisabled_plugins = {disabled:?}\n\
         [grpc]\naddress = {socket:?}\n[plugins.\"io.containerd.internal.v1.opt\"]\npath = {opt:?}\n{cri}",
        root = directory.join("root"),
        state = directory.join("state"),
        socket = directory.join("c.sock"),
        opt = directory.join("opt"),
        cri = setup.cri.as_deref().unwrap_or_default().replace("@DIRECTORY@", &directory.display().to_string()),
    );
    std::fs::write(directory.join("containerd.toml"), containerd).map_err(io("containerd's configuration"))?;
    let more = &setup.configuration;
    // What a test sets takes the place of what is set here.
    let mut ours = vec![
        ("kernel", products.kernel.display().to_string()),
        ("initramfs", products.initramfs.display().to_string()),
        ("state_dir", directory.join("p").display().to_string()),
    ];
    ours.extend(products.backend.clone().map(|backend| ("backend", backend)));
    let mut text = more.clone();
    for (key, value) in ours {
        if !more.lines().any(|line| line.starts_with(&format!("{key}:"))) {
            text.push_str(&format!("\n{key}: {value}"));
        }
    }
    std::fs::write(directory.join("paperboat.yaml"), text).map_err(io("the runtime's configuration"))
}

fn engine_path(products: &Products, engine: &Path) -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{}:{}:{}:{path}", products.bin.display(), engine.display(), products.runc.display())
}

fn spawn_containerd(products: &Products, bin: &Path, directory: &Path) -> Result<Child, Error> {
    let log = File::options().create(true).append(true).open(directory.join("containerd.log")).map_err(io("containerd's log"))?;
    // Its network namespace begins with a loopback that is down, which no machine has.
    let script = "ip link set lo up && exec \"$@\"";
    let mut command = Command::new("unshare");
    command
        .args(["--net", "sh", "-c", script, "sh"])
        .arg(bin.join("containerd"))
        .arg("--config")
        .arg(directory.join("containerd.toml"))
        .env("PATH", engine_path(products, bin))
        .env("PAPERBOAT_CONFIG", directory.join("paperboat.yaml"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(io("containerd's log"))?)
        .stderr(log);
    command.spawn().map_err(io("start containerd"))
}

fn read_lossy(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}
