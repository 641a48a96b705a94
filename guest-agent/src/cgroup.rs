//! The containers' cgroups (v2). One directory `ctr-ID` each, directly below the mount: the prefix keeps an id from being
//! the name of a control file.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use libcgroups::common::{CgroupManager as _, ControllerOpt};
use libcgroups::v2::manager::Manager;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use oci_spec::runtime::LinuxResources;
use tokio::io::Interest;

use crate::sys;

/// Where cgroup2 is mounted.
pub const MOUNT: &str = "/sys/fs/cgroup";

/// Controllers containers get, as far as the kernel has them.
const CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];

/// Counters and limits that `Stats` answers.
const STATS_FILES: [&str; 15] = [
    "cpu.stat",
    "cpu.max",
    "cpu.weight",
    "io.stat",
    "memory.current",
    "memory.events",
    "memory.max",
    "memory.peak",
    "memory.stat",
    "memory.swap.current",
    "memory.swap.max",
    "pids.current",
    "pids.events",
    "pids.max",
    "cgroup.events",
];

/// How long a container may take to freeze or thaw, and its directory to go.
const SETTLE: Duration = Duration::from_secs(10);
const SETTLE_STEP: Duration = Duration::from_millis(20);

/// A memory.events file has a handful of lines. Bytes.
const EVENTS_MAX: usize = 1024;

/// Deepest nesting of cgroups a container may make that we look into.
const DEPTH_MAX: usize = 16;

/// What failed, and on which file.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// A control file.
    #[error("cgroup file {path:?}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel did not finish in time.
    #[error("cgroup {path:?} did not become {what} in {} s", SETTLE.as_secs())]
    Unsettled {
        /// The cgroup.
        path: PathBuf,
        /// What it was to become.
        what: &'static str,
    },
    /// A limit that was refused.
    #[error("limits of {path:?}: {reason}")]
    Limits {
        /// The cgroup.
        path: PathBuf,
        /// What and why.
        reason: String,
    },
}

/// A container's cgroup.
#[derive(Clone, Debug)]
pub struct Cgroup {
    path: PathBuf,
    below_mount: String,
}

/// Gives all containers the controllers the kernel has. To be called once, before the first container.
///
/// # Errors
/// When cgroup2 is not mounted.
pub fn enable_controllers() -> Result<(), CgroupError> {
    let available = Path::new(MOUNT).join("cgroup.controllers");
    let available = fs::read_to_string(&available).map_err(|source| CgroupError::File { path: available, source })?;
    let wanted: Vec<String> =
        available.split_whitespace().filter(|name| CONTROLLERS.contains(name)).map(|name| format!("+{name}")).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let path = Path::new(MOUNT).join("cgroup.subtree_control");
    fs::write(&path, wanted.join(" ")).map_err(|source| CgroupError::File { path, source })
}

impl Cgroup {
    /// The cgroup of container `id`, which has passed [`crate::names::id`]. Makes nothing.
    pub fn of(id: &str) -> Self {
        let below_mount = format!("/ctr-{id}");
        Self { path: Path::new(MOUNT).join(&below_mount[1..]), below_mount }
    }

    /// Absolute path including the mount.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// As the spec's `cgroupsPath` has it.
    pub fn below_mount(&self) -> &str {
        &self.below_mount
    }

    /// Kills every process in it, nested cgroups included.
    ///
    /// # Errors
    /// When there is no such cgroup.
    pub fn kill(&self) -> Result<(), CgroupError> {
        self.write("cgroup.kill", "1")
    }

    /// Sends `signal` to every process in it.
    ///
    /// # Errors
    /// When there is no such cgroup.
    pub fn signal(&self, signal: Signal) -> Result<(), CgroupError> {
        if signal == Signal::SIGKILL {
            return self.kill();
        }
        for pid in self.pids()? {
            match kill(pid, signal) {
                // Ended between the listing and now.
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(errno) => return Err(CgroupError::File { path: self.path.join("cgroup.procs"), source: errno.into() }),
            }
        }
        Ok(())
    }

    /// Every process in it, nested cgroups included.
    ///
    /// # Errors
    /// When there is no such cgroup.
    pub fn pids(&self) -> Result<Vec<Pid>, CgroupError> {
        let mut pids = Vec::new();
        collect_pids(&self.path, DEPTH_MAX, &mut pids)?;
        Ok(pids)
    }

    /// How many of its processes the kernel has killed for lack of memory.
    pub fn oom_kills(&self) -> u64 {
        let events = fs::read_to_string(self.path.join("memory.events")).unwrap_or_default();
        counter(&events, "oom_kill")
    }

    /// Waits until the kernel has killed more of its processes for lack of memory than `seen`; answers how many.
    ///
    /// # Errors
    /// When the cgroup goes.
    pub async fn oom_kills_beyond(&self, seen: u64) -> Result<u64, CgroupError> {
        let path = self.path.join("memory.events");
        let failed = |source| CgroupError::File { path: path.clone(), source };
        let file = fs::File::open(&path).map_err(failed)?;
        // kernfs tells of a change as an exceptional condition, since the last read of this very file.
        let changes = sys::watch(file.into(), Interest::PRIORITY).map_err(failed)?;
        loop {
            let mut text = [0; EVENTS_MAX];
            let len = nix::sys::uio::pread(changes.get_ref(), &mut text, 0).map_err(|errno| failed(errno.into()))?;
            let kills = counter(&String::from_utf8_lossy(&text[..len]), "oom_kill");
            if kills > seen {
                return Ok(kills);
            }
            changes.ready(Interest::PRIORITY).await.map_err(failed)?.clear_ready();
        }
    }

    /// The counters: file name to content, as far as they exist.
    pub fn stats(&self) -> HashMap<String, String> {
        let read = |name: &&str| Some(((*name).to_owned(), fs::read_to_string(self.path.join(name)).ok()?));
        STATS_FILES.iter().filter_map(read).collect()
    }

    /// Freezes or thaws it, and waits until that is done.
    ///
    /// # Errors
    /// [`CgroupError::Unsettled`] after ten seconds.
    pub async fn freeze(&self, frozen: bool) -> Result<(), CgroupError> {
        let (value, what) = if frozen { ("1", "frozen") } else { ("0", "thawed") };
        self.write("cgroup.freeze", value)?;
        let path = self.path.join("cgroup.events");
        let start = tokio::time::Instant::now();
        loop {
            let events = fs::read_to_string(&path).map_err(|source| CgroupError::File { path: path.clone(), source })?;
            if (counter(&events, "frozen") == 1) == frozen {
                return Ok(());
            }
            if start.elapsed() > SETTLE {
                // Half frozen would be the worst of both.
                let _ = self.write("cgroup.freeze", "0");
                return Err(CgroupError::Unsettled { path: self.path.clone(), what });
            }
            tokio::time::sleep(SETTLE_STEP).await;
        }
    }

    /// Applies new limits; what `resources` leaves out stays.
    ///
    /// # Errors
    /// [`CgroupError::Limits`], naming the file that refused.
    pub fn update(&self, resources: &LinuxResources) -> Result<(), CgroupError> {
        let failed = |error: libcgroups::v2::manager::V2ManagerError| CgroupError::Limits {
            path: self.path.clone(),
            reason: error.to_string(),
        };
        let manager = Manager::new(MOUNT.into(), self.below_mount.clone().into()).map_err(failed)?;
        let options = ControllerOpt { resources, disable_oom_killer: false, oom_score_adj: None, freezer_state: None };
        manager.apply(&options).map_err(failed)
    }

    /// Kills what is left in it and removes it with all nested ones; one that is not there is removed already.
    ///
    /// # Errors
    /// When processes stay in it for ten seconds.
    pub async fn remove(&self) -> Result<(), CgroupError> {
        if !self.path.exists() {
            return Ok(());
        }
        self.kill()?;
        let start = tokio::time::Instant::now();
        loop {
            match remove_tree(&self.path, DEPTH_MAX) {
                Ok(()) => return Ok(()),
                // Killed processes leave when they have been reaped.
                Err(error) if errno(&error) == Errno::EBUSY && start.elapsed() < SETTLE => tokio::time::sleep(SETTLE_STEP).await,
                Err(source) => return Err(CgroupError::File { path: self.path.clone(), source }),
            }
        }
    }

    fn write(&self, file: &str, value: &str) -> Result<(), CgroupError> {
        let path = self.path.join(file);
        fs::write(&path, value).map_err(|source| CgroupError::File { path, source })
    }
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(0))
}

/// The value of `name` in a flat-keyed file; 0 when it is not there.
fn counter(text: &str, name: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok()).unwrap_or(0)
}

fn subdirectories(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn collect_pids(path: &Path, depth: usize, pids: &mut Vec<Pid>) -> Result<(), CgroupError> {
    let procs = path.join("cgroup.procs");
    let text = match fs::read_to_string(&procs) {
        // The process list of a threaded cgroup is its parent's.
        Err(error) if errno(&error) == Errno::EOPNOTSUPP => String::new(),
        result => result.map_err(|source| CgroupError::File { path: procs, source })?,
    };
    pids.extend(text.lines().filter_map(|line| line.parse().ok()).filter(|&pid: &i32| pid > 0).map(Pid::from_raw));
    if depth > 0 {
        for nested in subdirectories(path).map_err(|source| CgroupError::File { path: path.into(), source })? {
            collect_pids(&nested, depth - 1, pids)?;
        }
    }
    Ok(())
}

fn remove_tree(path: &Path, depth: usize) -> io::Result<()> {
    if depth > 0 {
        for nested in subdirectories(path)? {
            remove_tree(&nested, depth - 1)?;
        }
    }
    fs::remove_dir(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_matched_whole() {
        let events = "low 0\nmax 7\noom 1\noom_kill 3\noom_group_kill 0\n";
        assert_eq!(counter(events, "oom"), 1);
        assert_eq!(counter(events, "oom_kill"), 3);
        assert_eq!(counter(events, "absent"), 0);
        assert_eq!(counter("oom_kill many\n", "oom_kill"), 0);
    }

    #[test]
    fn an_id_cannot_name_a_control_file() {
        let cgroup = Cgroup::of("cgroup.procs");
        assert_eq!(cgroup.below_mount(), "/ctr-cgroup.procs");
        assert_eq!(cgroup.path(), Path::new("/sys/fs/cgroup/ctr-cgroup.procs"));
    }
}
