//! A container that runs in the background, as a test sees it through `ctr` and, past containerd, through its shim's Task API.

use std::collections::HashMap;
use std::thread;
use std::time::{Duration, Instant};

use crate::host::{RUNTIME, image};
use crate::task_api::TaskApi;
use crate::{Error, Host, Output};

/// What a container is waited for comes within this time.
const PATIENCE: Duration = Duration::from_secs(120);

/// Pause between two looks; each is a run of `ctr`.
const POLL: Duration = Duration::from_millis(100);

/// A running container of the busybox image.
pub struct Running<'a> {
    host: &'a Host,
    id: String,
}

impl<'a> Running<'a> {
    /// Starts it in the background, its streams going nowhere.
    pub fn start(host: &'a Host, id: &str, options: &[&str], command: &[&str]) -> Result<Self, Error> {
        let image = image("busybox");
        Self::start_as(host, id, &[options, &[&image, id], command].concat())
    }

    /// The same from a specification of the test's own, written by [`crate::spec`].
    pub fn start_spec(host: &'a Host, id: &str, spec: &std::path::Path) -> Result<Self, Error> {
        Self::start_as(host, id, &["--config", &spec.display().to_string(), id])
    }

    fn start_as(host: &'a Host, id: &str, rest: &[&str]) -> Result<Self, Error> {
        let output = host.ctr(&[&["run", "--detach", "--null-io", "--runtime", RUNTIME], rest].concat())?;
        if output.status.success() {
            return Ok(Self { host, id: id.into() });
        }
        Err(Error::Command { command: format!("ctr run {id}"), output: format!("{}\n{}", output.stderr, host.log()) })
    }

    /// Takes up one that runs already.
    pub fn found(host: &'a Host, id: &str) -> Self {
        Self { host, id: id.into() }
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Runs a command in it.
    pub fn exec(&self, name: &str, command: &[&str]) -> Result<Output, Error> {
        self.host.ctr(&[&["task", "exec", "--exec-id", name, &self.id], command].concat())
    }

    /// What a shell in it prints.
    pub fn shell(&self, name: &str, script: &str) -> Result<String, Error> {
        let output = self.exec(name, &["sh", "-c", script])?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(Error::Command { command: script.into(), output: format!("{output:#?}") })
    }

    /// Its status as containerd tells it: RUNNING, PAUSED, STOPPED; empty when there is no such task.
    pub fn status(&self) -> Result<String, Error> {
        let table = self.host.ctr(&["task", "ls"])?.stdout;
        let line = table.lines().find(|line| line.split_whitespace().next() == Some(&self.id));
        Ok(line.and_then(|line| line.split_whitespace().last()).unwrap_or_default().to_owned())
    }

    /// Waits until it has that status.
    pub fn wait_for_status(&self, wanted: &str) -> Result<(), Error> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status()?;
            if status == wanted {
                return Ok(());
            }
            if Instant::now() > deadline {
                let command = format!("waiting for {} to be {wanted}", self.id);
                return Err(Error::Command { command, output: format!("{status}\n{}", self.host.log()) });
            }
            thread::sleep(POLL);
        }
    }

    /// `ctr task ACTION`; its output.
    pub fn task(&self, action: &[&str]) -> Result<Output, Error> {
        self.host.ctr(&[&["task"], action, &[&self.id]].concat())
    }

    /// Counters by name, as `ctr task metrics` prints them.
    pub fn metrics(&self) -> Result<HashMap<String, u64>, Error> {
        let output = self.task(&["metrics"])?;
        let pair = |line: &str| {
            let mut words = line.split_whitespace();
            Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
        };
        Ok(output.stdout.lines().filter_map(pair).collect())
    }

    /// Its shim's Task API, asked past containerd.
    pub fn api(&self) -> Result<TaskApi, Error> {
        let bundle = self.host.directory().join("state/io.containerd.runtime.v2.task").join(self.host.namespace()).join(&self.id);
        TaskApi::of_bundle(&bundle, &self.id)
    }

    /// Kills what may still run and removes the container; its exit code as `ctr task rm` tells it.
    pub fn remove(self) -> Result<Option<i32>, Error> {
        let _ = self.task(&["kill", "--signal", "KILL"])?;
        self.wait_for_status("STOPPED")?;
        self.remove_stopped()
    }

    /// Removes the container, which has ended.
    pub fn remove_stopped(self) -> Result<Option<i32>, Error> {
        let removed = self.task(&["rm"])?;
        let container = self.host.ctr(&["container", "rm", &self.id])?;
        if !container.status.success() {
            return Err(Error::Command { command: format!("ctr container rm {}", self.id), output: container.stderr });
        }
        // ctr says "… exit code N" unless it is 0.
        let digits = |rest: &str| rest.chars().take_while(char::is_ascii_digit).collect::<String>();
        let told = removed.stderr.split("exit code ").nth(1).and_then(|rest| digits(rest).parse().ok());
        Ok(told.or_else(|| removed.status.success().then_some(0)))
    }
}
