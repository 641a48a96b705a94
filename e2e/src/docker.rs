//! A private Docker: its own root, sockets and process id file, in the network namespace of a private containerd.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::command::{COMMAND_TIMEOUT, Output, finish};
use crate::host::{Host, Setup};
use crate::products::Docker as Release;
use crate::{Error, io};

/// The Docker daemon answers within this time even on a busy machine.
const DOCKERD_TIMEOUT: Duration = Duration::from_secs(180);

/// A daemon that is asked to end has this long before it is killed.
const END_TIMEOUT: Duration = Duration::from_secs(120);

/// Pause between two looks.
const POLL: Duration = Duration::from_millis(20);

/// A machine with a Docker of our own. Its containers are in the containerd namespace of the host, and in its cgroup.
pub struct Docker {
    dockerd: Child,
    prefix: PathBuf,
    host: Host,
}

impl Docker {
    /// Starts containerd and Docker and loads the busybox image.
    pub fn start(release: Release) -> Result<Self, Error> {
        Self::start_with(release, "", "{}")
    }

    /// The same, with lines of the runtime's configuration and a daemon.json.
    pub fn start_with(release: Release, configuration: &str, daemon: &str) -> Result<Self, Error> {
        let setup = Setup { containerd: release.containerd(), configuration: configuration.into(), ..Setup::default() };
        let host = Host::start_bare(&setup)?;
        let prefix = release.prefix()?;
        let shim = host.products().bin.join("containerd-shim-paperboat-v1");
        let daemon = daemon.replace("@DIRECTORY@", &host.directory().display().to_string());
        let daemon = daemon.replace("@SHIM@", &shim.display().to_string());
        std::fs::write(host.directory().join("daemon.json"), daemon).map_err(io("daemon.json"))?;
        let dockerd = spawn_dockerd(&host, &prefix)?;
        let mut docker = Self { dockerd, prefix, host };
        docker.wait_for_dockerd()?;
        docker.load("busybox")?;
        Ok(docker)
    }

    /// The machine.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Loads NAME.tar.
    pub fn load(&self, name: &str) -> Result<(), Error> {
        let archive = self.host.archive(name).display().to_string();
        let output = self.docker(&["load", "--input", &archive])?;
        if output.status.success() {
            return Ok(());
        }
        Err(Error::Command { command: format!("docker load --input {archive}"), output: output.stderr })
    }

    /// Runs `docker` to its end.
    pub fn docker(&self, arguments: &[&str]) -> Result<Output, Error> {
        finish(self.command(arguments), COMMAND_TIMEOUT)
    }

    /// A `docker` command, not started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let directory = self.host.directory();
        let mut command = Command::new(self.prefix.join("bin/docker"));
        command.arg("--config").arg(directory.join("docker-client"));
        command.arg("--host").arg(format!("unix://{}", directory.join("d.sock").display())).args(arguments);
        command
    }

    /// A `docker-compose` command, not started.
    pub fn compose(&self, arguments: &[&str]) -> Command {
        let directory = self.host.directory();
        let mut command = Command::new(self.prefix.join("libexec/docker/cli-plugins/docker-compose"));
        command.env("DOCKER_HOST", format!("unix://{}", directory.join("d.sock").display()));
        command.env("DOCKER_CONFIG", directory.join("docker-client")).args(arguments);
        command
    }

    /// A `docker` command with a terminal as its standard streams, not started.
    pub fn command_on_a_terminal(&self, arguments: &[&str]) -> Command {
        let inner = self.command(arguments);
        let quoted = |word: &std::ffi::OsStr| format!("'{}'", word.to_string_lossy().replace('\'', r"'\''"));
        let words: Vec<String> = std::iter::once(inner.get_program()).chain(inner.get_args()).map(quoted).collect();
        let mut command = Command::new("script");
        command.args(["--quiet", "--return", "--command", &words.join(" "), "/dev/null"]);
        command
    }

    /// All that the daemon has logged.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.host.directory().join("dockerd.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn wait_for_dockerd(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + DOCKERD_TIMEOUT;
        while !self.docker(&["version"])?.status.success() {
            if Instant::now() > deadline || !matches!(self.dockerd.try_wait(), Ok(None)) {
                return Err(Error::NoDaemon("dockerd", self.log()));
            }
            thread::sleep(POLL);
        }
        Ok(())
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // Asked first, so that it takes down its networks; the host's own end kills what is left.
        if let Ok(pid) = i32::try_from(self.dockerd.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let deadline = Instant::now() + END_TIMEOUT;
        while matches!(self.dockerd.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.dockerd.kill();
                let _ = self.dockerd.wait();
            }
            thread::sleep(POLL);
        }
        // The daemon makes the group above its containers, and leaves it.
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let _ = std::fs::remove_dir(hierarchy.path().join(self.host.namespace()));
        }
    }
}

fn spawn_dockerd(host: &Host, prefix: &std::path::Path) -> Result<Child, Error> {
    let directory = host.directory();
    let log = File::create(directory.join("dockerd.log")).map_err(io("dockerd's log"))?;
    let mut command = host.command_inside(prefix.join("sbin/dockerd"));
    let paths = [
        ("--config-file", "daemon.json"),
        ("--data-root", "dr"),
        ("--exec-root", "de"),
        ("--pidfile", "d.pid"),
        ("--containerd", "c.sock"),
    ];
    for (option, name) in paths {
        command.arg(option).arg(directory.join(name));
    }
    command
        .arg("--host")
        .arg(format!("unix://{}", directory.join("d.sock").display()))
        .args(["--containerd-namespace", host.namespace()])
        .args(["--containerd-plugins-namespace", &format!("{}-plugins", host.namespace())])
        .args(["--cgroup-parent", &format!("/{}", host.namespace())])
        .arg("--userland-proxy-path")
        .arg(prefix.join("sbin/docker-proxy"))
        .arg("--init-path")
        .arg(prefix.join("bin/tini-static"))
        .env("PATH", format!("{}:{}", prefix.join("bin").display(), host.engine_path()))
        .env("PAPERBOAT_CONFIG", directory.join("paperboat.yaml"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(io("dockerd's log"))?)
        .stderr(log);
    command.spawn().map_err(io("start dockerd"))
}
