//! A pod's place in the host's cgroups over its life: entered with the machine, left and removed with the pod, noted in its directory.
//!
//! Pods come and go at once and share parents: the directory that one pod makes another finds there, and the last one has to take it
//! away. So making with its note, and removing, are each done under one lock, which is the state directory itself: nothing is
//! left for it.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::cgroup;
use crate::paths::PodPaths;

/// Other pods hold the lock for milliseconds, or for as long as a killed machine takes to die. One that hangs costs order, not the pod.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
const LOCK_POLL: Duration = Duration::from_millis(2);

/// Puts the machine and this process where the pod's costs belong. A host whose cgroups cannot be written to still runs pods.
pub fn enter(paths: &PodPaths, pod: &str, cgroups_path: &str, machine: u32) {
    let _lock = lock(paths);
    let processes = [machine, std::process::id()];
    let note = |directory: &Path| {
        let mut file = File::options().create(true).append(true).open(paths.cgroups())?;
        writeln!(file, "{}", directory.display())
    };
    let (joined, result) = cgroup::join(cgroups_path, pod, &processes, &paths.cgroups_of_pods(), note);
    let noted = std::fs::write(paths.cgroup_home(), text(&joined.home));
    if let Err(error) = result.and(noted) {
        log::warn!("the machine is not in the pod's cgroup: {error}");
    }
}

/// Moves this process out of the pod's cgroups if it is there, and removes those that no other pod needs. May be repeated.
pub fn leave(paths: &PodPaths) {
    let made = lines(&paths.cgroups());
    if made.is_empty() {
        return;
    }
    let _lock = lock(paths);
    cgroup::leave(&made, &lines(&paths.cgroup_home()));
    cgroup::remove(&made);
}

fn text(list: &[PathBuf]) -> String {
    list.iter().map(|directory| format!("{}\n", directory.display())).collect()
}

fn lines(path: &Path) -> Vec<PathBuf> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(PathBuf::from).collect()
}

/// The state directory, locked; it cannot go away while it holds this pod.
fn lock(paths: &PodPaths) -> Option<Flock<File>> {
    let directory = paths.state_dir()?;
    let deadline = Instant::now() + LOCK_TIMEOUT;
    let mut file = File::open(directory).ok()?;
    loop {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Some(lock),
            Err((file, Errno::EWOULDBLOCK)) if Instant::now() < deadline => file,
            Err((_, errno)) => {
                log::warn!("{}: lock: {}", directory.display(), io::Error::from(errno));
                return None;
            }
        };
        thread::sleep(LOCK_POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_take_turns_and_leave_no_lock_behind() {
        let state = tempfile::tempdir().unwrap();
        let pods = ["a", "b"].map(|pod| PodPaths::new(state.path(), "ns", pod));
        pods.iter().for_each(|paths| std::fs::create_dir_all(paths.root()).unwrap());
        let held = lock(&pods[0]).unwrap();
        let other = Flock::lock(File::open(state.path()).unwrap(), FlockArg::LockExclusiveNonblock);
        assert!(matches!(other, Err((_, Errno::EWOULDBLOCK))));
        drop(held);
        assert!(lock(&pods[1]).is_some());
        assert_eq!(std::fs::read_dir(state.path()).unwrap().count(), 1);
    }
}
