//! Removing what a pod has on the host: mounts, directories, sockets, and a machine that outlived its shim. Every step may be
//! repeated, and may find its work already done.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::charge;
use crate::paths::PodPaths;

/// Rounds of unmounting: mounts may be stacked, and more may appear by propagation while we work.
const MAX_UNMOUNT_ROUNDS: usize = 16;

/// A killed machine is gone within this time, even if the host must first take back gigabytes of guest memory.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause between looks at a dying process.
const KILL_POLL: Duration = Duration::from_millis(5);

/// Why something is left on the host.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    /// The list of mounts cannot be read.
    #[error("/proc/self/mountinfo: {0}")]
    MountInfo(#[source] io::Error),
    /// A mount stays; nothing below it is removed.
    #[error("unmount {}: {errno}", path.display())]
    Unmount {
        /// Mount point.
        path: PathBuf,
        /// Why.
        errno: Errno,
    },
    /// Mounts keep appearing.
    #[error("mounts below {} keep coming back", .0.display())]
    Endless(PathBuf),
    /// A file or directory stays.
    #[error("remove {}: {source}", path.display())]
    Remove {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The machine does not end.
    #[error("machine {0} does not end")]
    Machine(i32),
}

/// Unmounts everything at and below `root`, latest first.
pub fn unmount_below(root: &Path) -> Result<(), CleanupError> {
    for _ in 0..MAX_UNMOUNT_ROUNDS {
        let mounts = mounts_below(root)?;
        if mounts.is_empty() {
            return Ok(());
        }
        for path in mounts.iter().rev() {
            // Detached, so that a machine that still looks at a file there does not hold the pod's removal up; and never through a
            // link that the guest may have put in the way.
            match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
                // Propagation from a parent may have taken it with it.
                Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
                Err(errno) => return Err(CleanupError::Unmount { path: path.clone(), errno }),
            }
        }
    }
    Err(CleanupError::Endless(root.to_owned()))
}

/// Mount points at and below `root`, in the order of mounting.
///
/// # Errors
/// [`CleanupError::MountInfo`].
pub fn mounts_below(root: &Path) -> Result<Vec<PathBuf>, CleanupError> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").map_err(CleanupError::MountInfo)?;
    // The kernel lists real paths; the state directory may be reached through a link (/var/run).
    let root = std::fs::canonicalize(root).unwrap_or_else(|_| root.to_owned());
    Ok(table.lines().filter_map(mount_point).filter(|path| path.starts_with(&root)).collect())
}

/// Fifth field of a mountinfo line (proc(5)), its octal escapes undone.
fn mount_point(line: &str) -> Option<PathBuf> {
    let field = line.split(' ').nth(4)?.as_bytes();
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let escaped = (*first == b'\\')
            .then(|| tail.get(..3).and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()))
            .flatten();
        match escaped {
            Some(byte) => {
                path.push(byte);
                rest = &tail[3..];
            }
            None => {
                path.push(*first);
                rest = tail;
            }
        }
    }
    use std::os::unix::ffi::OsStringExt;
    Some(PathBuf::from(std::ffi::OsString::from_vec(path)))
}

/// Removes a directory whose mounts are gone, with all it holds.
pub fn remove_tree(root: &Path) -> Result<(), CleanupError> {
    // The order is what protects volumes and images from being emptied: not one file is removed while a mount remains.
    unmount_below(root)?;
    match std::fs::remove_dir_all(root) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(CleanupError::Remove { path: root.to_owned(), source }),
        _ => Ok(()),
    }
}

/// Removes a whole pod: its machine if it still runs, mounts, directory, and parents that became empty.
pub fn remove_pod(paths: &PodPaths) -> Result<(), CleanupError> {
    end_machine(paths)?;
    crate::network::note::undo(paths);
    charge::leave(paths);
    remove_tree(paths.root())?;
    // The namespace's directory and the state directory go when they are empty.
    remove_empty_parents(paths.root(), 2);
    Ok(())
}

/// Removes up to `levels` directories above `path`, as far as they are empty.
pub fn remove_empty_parents(path: &Path, levels: usize) {
    for parent in path.ancestors().skip(1).take(levels) {
        if std::fs::remove_dir(parent).is_err() {
            return;
        }
    }
}

/// Notes which process the machine is, for [`remove_pod`] after the shim's death.
pub fn note_machine(paths: &PodPaths, pid: u32) -> io::Result<()> {
    let start = i32::try_from(pid).ok().and_then(start_time).unwrap_or(0);
    std::fs::write(paths.machine_pid(), format!("{pid} {start}\n"))
}

/// Kills the noted machine unless its process is gone or its number belongs to another process by now.
fn end_machine(paths: &PodPaths) -> Result<(), CleanupError> {
    let Ok(note) = std::fs::read_to_string(paths.machine_pid()) else { return Ok(()) };
    let mut words = note.split_whitespace();
    let (Some(Ok(pid)), Some(Ok(start))) = (words.next().map(str::parse::<i32>), words.next().map(str::parse::<u64>)) else {
        return Ok(());
    };
    let deadline = Instant::now() + KILL_TIMEOUT;
    while pid > 1 && start_time(pid) == Some(start) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        if Instant::now() > deadline {
            return Err(CleanupError::Machine(pid));
        }
        std::thread::sleep(KILL_POLL);
    }
    Ok(())
}

/// Start time of a living process in clock ticks since boot (field 22 of /proc/PID/stat); a zombie counts as gone.
fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, also ") ".
    let after_name = stat.rsplit_once(") ")?.1;
    let mut fields = after_name.split(' ');
    if matches!(fields.next(), Some("Z" | "X")) {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_escapes_are_undone() {
        let line = r"36 35 98:0 /mnt1 /run/a\040b\134c rw,noatime master:1 - ext3 /dev/root rw";
        assert_eq!(mount_point(line), Some(PathBuf::from(r"/run/a b\c")));
        assert_eq!(mount_point(r"36 35 98:0 / /x\04 rw"), Some(PathBuf::from(r"/x\04")));
        assert_eq!(mount_point("36 35"), None);
    }

    #[test]
    fn a_machine_is_killed_once_and_a_reused_number_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let paths = PodPaths::at(directory.path().join("ns/pod"));
        std::fs::create_dir_all(paths.root()).unwrap();
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        // A wrong start time is another process.
        std::fs::write(paths.machine_pid(), format!("{} 1\n", child.id())).unwrap();
        end_machine(&paths).unwrap();
        assert!(child.try_wait().unwrap().is_none());
        note_machine(&paths, child.id()).unwrap();
        end_machine(&paths).unwrap();
        assert!(!child.wait().unwrap().success());
        remove_pod(&paths).unwrap();
        remove_pod(&paths).unwrap();
        assert!(!directory.path().join("ns").exists());
    }
}
