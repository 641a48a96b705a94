//! What pods could leave on a machine, seen from outside: processes, mounts, sockets, cgroups, directories.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::Host;

/// Processes end and containerd tidies up after `ctr` has returned, but not for longer than this, on an emulated machine of a busy host too.
const SETTLE_TIME: Duration = Duration::from_secs(90);

/// Pause between two looks.
const POLL: Duration = Duration::from_millis(50);

/// Directories below a cgroup hierarchy looked at: guards against a loop of links.
const MAX_DEPTH: usize = 12;

/// Beginning of the name of a fixture's directory.
pub(crate) const PREFIX: &str = "pb-";

/// A file in a fixture's directory that is to stay.
pub(crate) const KEPT: &str = "kept";

/// Beginning of the name of a fixture's containerd namespace, which is in the names of its control groups.
pub(crate) const NAMESPACE_PREFIX: &str = "e2e-";

/// One look at the machine; each entry names one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftovers(BTreeSet<String>);

impl Leftovers {
    /// Things that are here and were not there.
    pub fn beyond(&self, before: &Self) -> Vec<String> {
        self.0.difference(&before.0).cloned().collect()
    }
}

/// Everything of `host` that pods make.
pub(crate) fn look(host: &Host) -> Leftovers {
    let mut found = BTreeSet::new();
    let directory = host.directory();
    for pid in processes_of(directory, host.containerd_pid()) {
        found.insert(format!("process {pid} {}", command_line(pid)));
    }
    found.extend(mounts_below(directory).into_iter().map(|path| format!("mount {path}")));
    for socket in sockets_below(host.containerd_pid(), directory) {
        found.insert(format!("socket {socket}"));
    }
    for hierarchy in children(Path::new("/sys/fs/cgroup")) {
        cgroups_named(&hierarchy, host.namespace(), false, MAX_DEPTH, &mut found);
    }
    // The runtime's state, containerd's bundles, ctr's fifos.
    for root in [host.state_dir(), directory.join("state/io.containerd.runtime.v2.task"), directory.join("fifo")] {
        tree(&root, &mut found);
    }
    for work in children(&directory.join("root/io.containerd.runtime.v2.task")) {
        found.extend(children(&work).into_iter().map(|path| format!("directory {}", path.display())));
    }
    Leftovers(found)
}

/// Waits until nothing is left that was not there `before`; returns what stays.
pub fn settle(host: &Host, before: &Leftovers) -> Vec<String> {
    let deadline = Instant::now() + SETTLE_TIME;
    loop {
        let left = host.leftovers().beyond(before);
        // containerd keeps the directory of a namespace once used, empty.
        let left: Vec<String> = left.into_iter().filter(|entry| !is_containerds_own(entry, host)).collect();
        if left.is_empty() || Instant::now() > deadline {
            return left;
        }
        thread::sleep(POLL);
    }
}

fn is_containerds_own(entry: &str, host: &Host) -> bool {
    let bundles = host.directory().join("state/io.containerd.runtime.v2.task");
    let own = [bundles.clone(), host.directory().join("fifo")];
    let path = entry.strip_prefix("directory ").map(Path::new);
    path.is_some_and(|path| own.iter().any(|own| path == own) || path.parent() == Some(&bundles))
}

/// Processes, other than containerd, that mention the directory on their command line or hold a file in it open.
pub fn processes_of(directory: &Path, containerd: u32) -> Vec<i32> {
    let own = [std::process::id(), containerd];
    let pids = children(Path::new("/proc")).into_iter().filter_map(|path| path.file_name()?.to_str()?.parse::<i32>().ok());
    pids.filter(|&pid| u32::try_from(pid).is_ok_and(|pid| !own.contains(&pid)) && belongs(pid, directory)).collect()
}

fn belongs(pid: i32, directory: &Path) -> bool {
    if command_line(pid).contains(&*directory.to_string_lossy()) {
        return true;
    }
    children(Path::new(&format!("/proc/{pid}/fd")))
        .iter()
        .any(|link| fs::read_link(link).is_ok_and(|to| to.starts_with(directory)))
}

fn command_line(pid: i32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

/// Mount points at and below a directory, in the order of mounting.
pub fn mounts_below(directory: &Path) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // The fifth field; the fixture's paths have nothing that would be escaped.
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    points.filter(|point| Path::new(point).starts_with(directory)).map(str::to_owned).collect()
}

/// Takes down every mount below a directory.
pub(crate) fn unmount_below(directory: &Path) {
    for mount in mounts_below(directory).iter().rev() {
        let _ = nix::mount::umount2(mount.as_str(), nix::mount::MntFlags::MNT_DETACH);
    }
}

/// Removes the empty control groups with this in their path, deepest first.
pub(crate) fn remove_cgroups(name: &str) {
    let mut found = BTreeSet::new();
    for hierarchy in children(Path::new("/sys/fs/cgroup")) {
        cgroups_named(&hierarchy, name, false, MAX_DEPTH, &mut found);
    }
    for entry in found.iter().rev().filter(|entry| is_fixtures(entry)) {
        // One with processes in it stays.
        let _ = fs::remove_dir(entry.trim_start_matches("cgroup "));
    }
}

/// Whether a control group's path has a part that begins as a fixture's namespace does, prefix and process id.
fn is_fixtures(path: &str) -> bool {
    let numbered =
        |part: &str| part.strip_prefix(NAMESPACE_PREFIX).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    path.split('/').any(numbered)
}

/// Clears away the directories in `temporary` of fixtures whose process was killed, with their mounts: no process uses them. Who calls
/// this holds the lock that lets one fixture be at a time.
pub(crate) fn remove_abandoned(temporary: &Path) {
    let abandoned = |directory: &PathBuf| {
        let named = directory.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
        let fixtures = named && directory.join("containerd.toml").exists() && !directory.join(KEPT).exists();
        fixtures && processes_of(directory, 0).is_empty()
    };
    for directory in children(temporary).into_iter().filter(abandoned) {
        unmount_below(&directory);
        let _ = fs::remove_dir_all(directory);
    }
}

fn sockets_below(containerd: u32, directory: &Path) -> BTreeSet<String> {
    // /proc/PID/net/unix shows the sockets of that process's network namespace: containerd's, where the shims are too.
    let table = fs::read_to_string(format!("/proc/{containerd}/net/unix")).unwrap_or_default();
    let paths = table.lines().filter_map(|line| line.split_whitespace().nth(7));
    paths.filter(|path| Path::new(path).starts_with(directory)).map(str::to_owned).collect()
}

/// cgroups with the fixture's namespace in their path (`/NAMESPACE/ID` is what ctr asks for), and all below them.
fn cgroups_named(directory: &Path, name: &str, inside: bool, depth: usize, found: &mut BTreeSet<String>) {
    for child in children(directory) {
        let is_directory = fs::symlink_metadata(&child).is_ok_and(|metadata| metadata.is_dir());
        if depth == 0 || !is_directory {
            continue;
        }
        let inside = inside || child.to_string_lossy().contains(name);
        if inside {
            found.insert(format!("cgroup {}", child.display()));
        }
        cgroups_named(&child, name, inside, depth - 1, found);
    }
}

fn tree(root: &Path, found: &mut BTreeSet<String>) {
    let Ok(metadata) = fs::symlink_metadata(root) else { return };
    let kind = if metadata.is_dir() { "directory" } else { "file" };
    found.insert(format!("{kind} {}", root.display()));
    if metadata.is_dir() {
        children(root).iter().for_each(|child| tree(child, found));
    }
}

fn children(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).map(|entries| entries.filter_map(Result::ok).map(|entry| entry.path()).collect());
    entries.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_thing_is_seen_and_an_old_one_is_not_counted() {
        let set = |names: &[&str]| Leftovers(names.iter().map(|&name| name.to_owned()).collect());
        assert_eq!(set(&["mount /a", "process 1"]).beyond(&set(&["process 1"])), ["mount /a"]);
        assert!(set(&["process 1"]).beyond(&set(&["process 1", "mount /a"])).is_empty());
    }

    #[test]
    fn a_process_with_an_open_file_in_the_directory_belongs_to_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = fs::File::create(directory.path().join("f")).unwrap();
        let mut child = std::process::Command::new("sleep").arg("100").stdout(file).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        assert!(processes_of(directory.path(), 0).contains(&pid));
        assert!(!processes_of(directory.path(), child.id()).contains(&pid));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn only_a_fixtures_groups_are_removed() {
        assert!(is_fixtures("cgroup /sys/fs/cgroup/memory/e2e-17-0/first") && is_fixtures("/c/e2e.slice/e2e-17.slice"));
        assert!(!is_fixtures("/c/e2e-tests") && !is_fixtures("/c/my-e2e-17-0"));
    }

    #[test]
    fn what_a_killed_fixture_left_is_removed_unless_it_is_in_use_or_kept() {
        let temporary = tempfile::tempdir().unwrap();
        let make = || tempfile::Builder::new().prefix(PREFIX).tempdir_in(temporary.path()).unwrap();
        let (left, used, kept) = (make(), make(), make());
        for directory in [&left, &used, &kept] {
            fs::write(directory.path().join("containerd.toml"), "").unwrap();
        }
        fs::write(kept.path().join(KEPT), "").unwrap();
        let log = fs::File::create(used.path().join("log")).unwrap();
        let mut child = std::process::Command::new("sleep").arg("100").stdout(log).spawn().unwrap();
        remove_abandoned(temporary.path());
        let there = [&left, &used, &kept].map(|directory| directory.path().exists());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(there, [false, true, true]);
    }

    #[test]
    fn directories_and_files_are_listed() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("d")).unwrap();
        fs::write(directory.path().join("d/f"), "").unwrap();
        let mut found = BTreeSet::new();
        tree(directory.path(), &mut found);
        assert_eq!(found.len(), 3);
    }
}
