//! The pod's machine and shim in the host's cgroups: a leaf beside the containers' own, so that what the pod costs is charged to the pod.
//!
//! The client's `cgroupsPath` names a cgroup for the container's processes, which live in the guest; its parent is what limits the pod
//! (the kubelet's pod cgroup). Machine and shim join `PARENT/paperboat-POD`: on v1 in every mounted hierarchy, on v2 as a leaf, because only
//! leaves may hold processes there (cgroup-v2.rst, "No Internal Process Constraint").

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// Levels of directories made or removed for one leaf; real paths have five.
const MAX_DEPTH: usize = 32;

/// The kernel lets go of an ended process a little after its parent has heard of the end, and of a killed shim's machine when the host's
/// init has reaped it. Counted for all directories together.
const REMOVE_ATTEMPTS: u32 = 500;
const REMOVE_PAUSE: Duration = Duration::from_millis(4);

/// Where the kernel lists mounts.
const MOUNTS: &str = "/proc/self/mountinfo";

/// Where the kernel lists this process's cgroups.
const MEMBERSHIPS: &str = "/proc/self/cgroup";

/// A cgroup's list of processes; a written one joins.
const PROCS: &str = "cgroup.procs";

/// Options of a v1 hierarchy's file system that are not names of controllers.
const NOT_CONTROLLERS: [&str; 6] = ["rw", "ro", "xattr", "noprefix", "clone_children", "cpuset_v2_mode"];

/// A cgroup hierarchy's mount.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    mount_point: PathBuf,
    /// Controllers of a v1 hierarchy, as /proc/PID/cgroup has them; empty on v2.
    controllers: Vec<String>,
    /// cpuset on v1: a new cgroup takes no process before its CPUs and memory nodes are set.
    cpuset_v1: bool,
}

/// What [`join`] did, as far as it came.
#[derive(Debug, Default)]
pub struct Joined {
    /// Directories that were made, parents first: they are to be removed with the pod.
    pub made: Vec<PathBuf>,
    /// Where this process was before.
    pub home: Vec<PathBuf>,
}

/// Joins processes to the pod's leaf in every hierarchy. Directories of `ours`, which other pods made, count as made: the last pod takes
/// them away. `note` hears of each directory before it is made, so that whoever dies meanwhile leaves none unknown.
pub fn join(
    cgroups_path: &str,
    pod: &str,
    processes: &[u32],
    ours: &[PathBuf],
    mut note: impl FnMut(&Path) -> io::Result<()>,
) -> (Joined, io::Result<()>) {
    let mut joined = Joined::default();
    let Some(leaf) = leaf(cgroups_path, pod) else { return (joined, Ok(())) };
    let result = hierarchies_here().and_then(|(hierarchies, memberships)| {
        hierarchies.iter().try_for_each(|hierarchy| {
            joined.home.extend(hierarchy.of_member(&memberships));
            let directory = make(hierarchy, &leaf, ours, &mut joined.made, &mut note)?;
            processes.iter().try_for_each(|pid| fs::write(directory.join(PROCS), pid.to_string()))
        })
    });
    (joined, result)
}

/// Moves this process out of `made` and back to where it was, or to the hierarchy's root where that is gone: its last work is to remove them.
pub fn leave(made: &[PathBuf], home: &[PathBuf]) {
    let Ok((hierarchies, memberships)) = hierarchies_here() else { return };
    for hierarchy in hierarchies {
        if !hierarchy.of_member(&memberships).is_some_and(|now| made.contains(&now)) {
            continue;
        }
        let back = home.iter().find(|path| path.starts_with(&hierarchy.mount_point));
        let pid = std::process::id().to_string();
        let left = back.is_some_and(|back| fs::write(back.join(PROCS), &pid).is_ok());
        if !left && let Err(error) = fs::write(hierarchy.mount_point.join(PROCS), &pid) {
            log::warn!("{}: {error}", hierarchy.mount_point.display());
        }
    }
}

fn hierarchies_here() -> io::Result<(Vec<Hierarchy>, String)> {
    Ok((hierarchies(&fs::read_to_string(MOUNTS)?), fs::read_to_string(MEMBERSHIPS)?))
}

impl Hierarchy {
    /// The directory of the process whose `/proc/PID/cgroup` (cgroups(7)) is given.
    fn of_member(&self, memberships: &str) -> Option<PathBuf> {
        memberships.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            let same = controllers.split(',').filter(|name| !name.is_empty()).eq(self.controllers.iter().map(String::as_str));
            same.then(|| self.mount_point.join(path.trim_start_matches('/')))
        })
    }
}

/// Removes directories that [`join`] made, as far as nobody else uses them.
pub fn remove(made: &[PathBuf]) {
    let mut attempts = 0..REMOVE_ATTEMPTS;
    for directory in made.iter().rev() {
        while let Err(error) = fs::remove_dir(directory) {
            // Busy: by the last moments of the machine, or by another pod's leaf below; the last pod takes it away.
            let waits = error.kind() == io::ErrorKind::ResourceBusy && !has_children(directory);
            if !waits || attempts.next().is_none() {
                break;
            }
            thread::sleep(REMOVE_PAUSE);
        }
    }
}

fn has_children(directory: &Path) -> bool {
    let entries = fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    entries.filter_map(|entry| entry.file_type().ok()).any(|kind| kind.is_dir())
}

/// The pod's leaf, relative to a hierarchy's root; none where the client wants no cgroup.
fn leaf(cgroups_path: &str, pod: &str) -> Option<PathBuf> {
    let parent = match cgroups_path.split(':').collect::<Vec<_>>()[..] {
        [""] => return None,
        // systemd's form, slice:prefix:name.
        [slice, _, _] => slice_path(slice),
        _ => Path::new(cgroups_path).parent()?.to_owned(),
    };
    let relative: PathBuf = parent.components().filter(|part| matches!(part, std::path::Component::Normal(_))).collect();
    (relative.components().count() < MAX_DEPTH).then(|| relative.join(format!("paperboat-{pod}")))
}

/// systemd.slice(5): `a-b.slice` is below `a.slice`; the root slice is `-.slice`.
fn slice_path(slice: &str) -> PathBuf {
    let name = slice.strip_suffix(".slice").unwrap_or(slice);
    let mut path = PathBuf::new();
    let mut prefix = String::new();
    for part in name.split('-').filter(|part| !part.is_empty()) {
        if !prefix.is_empty() {
            prefix.push('-');
        }
        prefix.push_str(part);
        path.push(format!("{prefix}.slice"));
    }
    path
}

/// The hierarchies a container engine uses: all of v1 where any is mounted, else v2.
fn hierarchies(mountinfo: &str) -> Vec<Hierarchy> {
    let parse = |line: &str| {
        // proc(5): mount point is the fifth field; after the separator come type, source and options of the file system.
        let (fields, rest) = line.split_once(" - ")?;
        let mut rest = rest.split(' ');
        let (kind, options) = (rest.next()?.to_owned(), rest.nth(1)?.to_owned());
        let mount_point = PathBuf::from(fields.split(' ').nth(4)?);
        let named = |option: &&str| !NOT_CONTROLLERS.contains(option) && !option.starts_with("release_agent=");
        let controllers: Vec<String> = match kind.as_str() {
            "cgroup" => options.split(',').filter(named).map(str::to_owned).collect(),
            _ => Vec::new(),
        };
        let cpuset_v1 = controllers.iter().any(|name| name == "cpuset");
        Some((kind, Hierarchy { mount_point, controllers, cpuset_v1 }))
    };
    let all: Vec<_> = mountinfo.lines().filter_map(parse).collect();
    let of =
        |wanted: &str| all.iter().filter(|(kind, _)| kind == wanted).map(|(_, hierarchy)| hierarchy.clone()).collect::<Vec<_>>();
    let v1 = of("cgroup");
    if v1.is_empty() { of("cgroup2") } else { v1 }
}

fn make(
    hierarchy: &Hierarchy,
    leaf: &Path,
    ours: &[PathBuf],
    made: &mut Vec<PathBuf>,
    note: &mut impl FnMut(&Path) -> io::Result<()>,
) -> io::Result<PathBuf> {
    let mut directory = hierarchy.mount_point.clone();
    for part in leaf.components() {
        let parent = directory.clone();
        directory.push(part);
        if ours.contains(&directory) || !directory.exists() {
            note(&directory)?;
        }
        match fs::create_dir(&directory) {
            Ok(()) => made.push(directory.clone()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if ours.contains(&directory) {
                    made.push(directory.clone());
                }
                continue;
            }
            Err(error) => return Err(error),
        }
        if hierarchy.cpuset_v1 {
            for file in ["cpuset.cpus", "cpuset.mems"] {
                fs::write(directory.join(file), fs::read(parent.join(file))?)?;
            }
        }
    }
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leaf_is_a_sibling_of_the_clients_cgroup() {
        assert_eq!(leaf("/default/first", "first"), Some("default/paperboat-first".into()));
        assert_eq!(leaf("/kubepods/besteffort/pod1/abc", "abc"), Some("kubepods/besteffort/pod1/paperboat-abc".into()));
        assert_eq!(leaf("", "x"), None);
        assert_eq!(leaf("/../../etc/x", "p"), Some("etc/paperboat-p".into()));
    }

    #[test]
    fn systemds_form_is_expanded() {
        let expected = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/paperboat-p";
        assert_eq!(leaf("kubepods-burstable-pod1.slice:cri-containerd:abc", "p"), Some(expected.into()));
        assert_eq!(leaf("-.slice:a:b", "p"), Some("paperboat-p".into()));
    }

    #[test]
    fn v1_hierarchies_go_before_v2() {
        let v2 = "30 23 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let v1 = "31 23 0:27 / /sys/fs/cgroup/cpuset rw shared:9 - cgroup cgroup rw,cpuset\n32 23 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let points = |table: &str| {
            hierarchies(table).iter().map(|h| (h.mount_point.display().to_string(), h.cpuset_v1)).collect::<Vec<_>>()
        };
        assert_eq!(points(v2), [("/sys/fs/cgroup/unified".to_owned(), false)]);
        assert_eq!(
            points(&format!("{v2}{v1}")),
            [("/sys/fs/cgroup/cpuset".to_owned(), true), ("/sys/fs/cgroup/memory".to_owned(), false)]
        );
    }

    #[test]
    fn a_processes_place_in_each_hierarchy_is_found() {
        let table = "31 23 0:27 / /c/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
            32 23 0:28 / /c/systemd rw - cgroup cgroup rw,xattr,name=systemd\n";
        let memberships = "4:cpu,cpuacct:/a/b\n1:name=systemd:/s\n0::/unified\n";
        let places: Vec<_> = hierarchies(table).iter().map(|hierarchy| hierarchy.of_member(memberships)).collect();
        assert_eq!(places, [Some("/c/cpu,cpuacct/a/b".into()), Some("/c/systemd/s".into())]);
        let v2 = &hierarchies("30 23 0:26 / /c rw - cgroup2 cgroup2 rw,nsdelegate\n")[0];
        assert_eq!(v2.of_member(memberships), Some("/c/unified".into()));
    }

    #[test]
    fn what_was_made_is_removed_and_what_was_there_stays() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("kubepods")).unwrap();
        let hierarchy = Hierarchy { mount_point: root.path().into(), controllers: Vec::new(), cpuset_v1: false };
        let (mut first, mut second) = (Vec::new(), Vec::new());
        let mut noted = Vec::new();
        let mut note = |directory: &Path| {
            noted.push((directory.to_owned(), directory.exists()));
            Ok(())
        };
        make(&hierarchy, Path::new("kubepods/pod1/paperboat-a"), &[], &mut first, &mut note).unwrap();
        make(&hierarchy, Path::new("kubepods/pod1/paperboat-b"), &first, &mut second, &mut note).unwrap();
        assert_eq!((first.len(), second.len()), (2, 2));
        // Each was noted before it was there; only the second pod found one of the first.
        let (paths, there): (Vec<_>, Vec<_>) = noted.into_iter().unzip();
        assert_eq!((paths, there), ([first.clone(), second.clone()].concat(), vec![false, false, true, false]));
        remove(&first);
        assert!(root.path().join("kubepods/pod1/paperboat-b").exists());
        remove(&second);
        assert!(root.path().join("kubepods").exists() && !root.path().join("kubepods/pod1").exists());
    }
}
