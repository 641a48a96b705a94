//! Mounts of the guest that containers need and leave: file systems in memory, and the host's file systems below the share.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use paperboat_protocol::MEMORY_MOUNT;
use paperboat_protocol::agent::MemoryVolume;

use crate::names::{self, NameError};

/// Memory volumes of one pod: far beyond what a pod has.
const VOLUMES_MAX: usize = 256;

/// Rounds of unmounting: mounts may be stacked.
const ROUNDS_MAX: usize = 16;

/// Where the kernel is told what to forget.
pub const DROP_CACHES: &str = "/proc/sys/vm/drop_caches";

/// A name that was used since the kernel last looked is spared once, and a round in which all are spared ends the kernel's search: the
/// second round forgets them, the third what they held.
const FORGET_ROUNDS: usize = 3;

/// Why a mount could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// A name that could lead elsewhere.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The agent's limit.
    #[error("more than {VOLUMES_MAX} memory volumes")]
    TooMany,
    /// The kernel refused.
    #[error("memory volume {target:?}: {source}")]
    Io {
        /// Where it was to be.
        target: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Makes those of `volumes` that are not there yet.
///
/// # Errors
/// [`MountError`], for the first that failed.
pub fn make_memory_volumes(volumes: &[MemoryVolume]) -> Result<(), MountError> {
    for volume in volumes {
        names::id("memory_volumes.name", &volume.name)?;
        let target = Path::new(MEMORY_MOUNT).join(&volume.name);
        let failed = |source| MountError::Io { target: target.clone(), source };
        if target.exists() {
            continue;
        }
        fs::create_dir_all(MEMORY_MOUNT).map_err(failed)?;
        if fs::read_dir(MEMORY_MOUNT).map_err(failed)?.count() >= VOLUMES_MAX {
            return Err(MountError::TooMany);
        }
        fs::create_dir(&target).map_err(failed)?;
        let MemoryVolume { mode, uid, gid, .. } = volume;
        let options = format!("mode={:o},uid={uid},gid={gid}{}", mode & 0o7777, size(volume.size_bytes));
        // What containers may do with it is said by each container's own bind mount.
        if let Err(errno) = mount(Some("tmpfs"), &target, Some("tmpfs"), MsFlags::empty(), Some(options.as_str())) {
            let _ = fs::remove_dir(&target);
            return Err(failed(errno.into()));
        }
    }
    Ok(())
}

/// The option for a size; without one tmpfs takes half of the memory.
fn size(size_bytes: u64) -> String {
    let half = nix::sys::sysinfo::sysinfo().map_or(u64::MAX, |info| info.ram_total() / 2);
    if size_bytes == 0 || size_bytes > half { String::new() } else { format!(",size={size_bytes}") }
}

/// Unmounts what is mounted below `directory` in the agent's own mount namespace: the kernel mounts the host's file systems there when
/// they are first entered. With the last mount of one its inodes are forgotten, and the host can let go of it.
pub fn detach_below(directory: &Path) {
    for _ in 0..ROUNDS_MAX {
        let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
        let points: Vec<PathBuf> = table.split(|&byte| byte == b'\n').filter_map(mount_point).collect();
        let below: Vec<_> = points.iter().rev().filter(|point| point.starts_with(directory)).collect();
        if below.is_empty() {
            return;
        }
        for point in below {
            match umount2(point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
                Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
                Err(errno) => crate::warn!("left mounted {point:?}: {errno}"),
            }
        }
    }
}

/// Has the kernel forget names and inodes that nobody uses. With the last name of a file of the share goes its inode, and the host is told.
///
/// # Errors
/// The kernel's answer.
pub fn forget_files() -> io::Result<()> {
    // 4 keeps the kernel from telling the console each time; 2 is names and inodes (Documentation/admin-guide/sysctl/vm.rst).
    fs::write(DROP_CACHES, "4")?;
    (0..FORGET_ROUNDS).try_for_each(|_| fs::write(DROP_CACHES, "2"))
}

/// Fifth field of a mountinfo line (proc(5)), its octal escapes undone.
fn mount_point(line: &[u8]) -> Option<PathBuf> {
    let mut field = line.split(|&byte| byte == b' ').nth(4)?;
    let mut path = Vec::with_capacity(field.len());
    while let [first, rest @ ..] = field {
        let escaped = match rest {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] if *first == b'\\' => {
                Some((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'))
            }
            _ => None,
        };
        path.push(escaped.unwrap_or(*first));
        field = if escaped.is_some() { &rest[3..] } else { rest };
    }
    Some(std::ffi::OsString::from_vec(path).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_lose_their_escapes() {
        let line = br"36 35 98:0 / /a\040b\134c rw - virtiofs paperboat rw";
        assert_eq!(mount_point(line), Some(PathBuf::from(r"/a b\c")));
        assert_eq!(mount_point(b"36 35"), None);
    }

    #[test]
    fn a_size_beyond_the_guest_is_left_to_tmpfs() {
        assert_eq!(size(4096), ",size=4096");
        assert_eq!((size(0), size(u64::MAX)), (String::new(), String::new()));
    }

    #[test]
    fn a_name_stays_below_its_directory() {
        let volume = MemoryVolume { name: "../share".into(), ..Default::default() };
        assert!(matches!(make_memory_volumes(&[volume]), Err(MountError::Name(_))));
    }
}
