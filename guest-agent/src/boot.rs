//! What the kernel leaves to PID 1: a real root, the kernel's file systems, control groups, the share, the loopback interface.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{chdir, chroot, sync};
use paperboat_protocol::{INIT_PROGRAM, SHARE_MOUNT, SHARE_TAG};

use crate::{cgroup, sys};

/// Open files: what systemd gives services, so that programs that walk all possible descriptors stay quick.
const NOFILE_SOFT: u64 = 1024;
const NOFILE_HARD: u64 = 524_288;

/// Why there is no working guest.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A mount.
    #[error("mounting {what} at {target}: {source}")]
    Mount {
        /// File system or source.
        what: &'static str,
        /// Where.
        target: &'static str,
        /// The kernel's answer.
        source: Errno,
    },
    /// Anything else.
    #[error("{what}: {source}")]
    Step {
        /// Which step.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Control groups.
    #[error(transparent)]
    Cgroup(#[from] cgroup::CgroupError),
}

struct Mount {
    what: &'static str,
    target: &'static str,
    flags: MsFlags,
    options: Option<&'static str>,
}

/// Everything but the root, in order.
const MOUNTS: [Mount; 6] = [
    Mount { what: "proc", target: "/proc", flags: NO_SUID_EXEC_DEV, options: None },
    Mount { what: "sysfs", target: "/sys", flags: NO_SUID_EXEC_DEV, options: None },
    Mount { what: "cgroup2", target: cgroup::MOUNT, flags: NO_SUID_EXEC_DEV, options: Some("nsdelegate") },
    Mount { what: "devtmpfs", target: "/dev", flags: MsFlags::MS_NOSUID, options: Some("mode=0755") },
    Mount {
        what: "devpts",
        target: "/dev/pts",
        flags: MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC),
        options: Some("gid=5,mode=0620,ptmxmode=0666"),
    },
    Mount { what: "tmpfs", target: "/dev/shm", flags: MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV), options: Some("mode=1777") },
];

const NO_SUID_EXEC_DEV: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC).union(MsFlags::MS_NODEV);

/// Makes the guest ready for containers. The share may be missing from a machine, which then can run none.
///
/// # Errors
/// [`BootError`]: the first step that failed.
pub fn set_up() -> Result<(), BootError> {
    move_root()?;
    for Mount { what, target, flags, options } in MOUNTS {
        // sysfs and devtmpfs bring their own directories, and the kernel refuses to make them.
        if !Path::new(target).is_dir() {
            fs::create_dir_all(target).map_err(step("directories"))?;
        }
        mount(Some(what), target, Some(what), flags, options).map_err(|source| BootError::Mount { what, target, source })?;
    }
    for (link, target) in [("/dev/fd", "/proc/self/fd"), ("/dev/stdin", "fd/0"), ("/dev/stdout", "fd/1"), ("/dev/stderr", "fd/2")]
    {
        std::os::unix::fs::symlink(target, link).map_err(step("links in /dev"))?;
    }
    share_init()?;
    fs::create_dir_all("/tmp").map_err(step("directories"))?;
    fs::set_permissions("/tmp", fs::Permissions::from_mode(0o1777)).map_err(step("directories"))?;
    crate::log::use_console();
    cgroup::enable_controllers()?;
    sys::interface_up("lo").map_err(step("loopback interface"))?;
    setrlimit(Resource::RLIMIT_NOFILE, NOFILE_SOFT, NOFILE_HARD).map_err(|errno| step("limit of open files")(errno.into()))?;
    Ok(())
}

/// Mounts the directory shared with the host.
///
/// # Errors
/// [`BootError`]; `EINVAL` when the machine has no file system device of that tag.
pub fn mount_share() -> Result<PathBuf, BootError> {
    fs::create_dir_all(SHARE_MOUNT).map_err(step("directories"))?;
    mount(Some(SHARE_TAG), SHARE_MOUNT, Some("virtiofs"), MsFlags::empty(), None::<&str>).map_err(|source| BootError::Mount {
        what: SHARE_TAG,
        target: SHARE_MOUNT,
        source,
    })?;
    Ok(SHARE_MOUNT.into())
}

/// The kernel refuses pivot_root(2) while the root is the initramfs, and libcontainer pivots: so the root becomes a tmpfs mounted
/// over it. This program's file stays reachable through /proc/self/exe.
fn move_root() -> Result<(), BootError> {
    const NEW: &str = "/newroot";
    fs::create_dir_all(NEW).map_err(step("directories"))?;
    let mounted = |source| BootError::Mount { what: "tmpfs", target: "/", source };
    mount(Some("tmpfs"), NEW, Some("tmpfs"), MsFlags::empty(), Some("mode=0755")).map_err(mounted)?;
    chdir(NEW).map_err(mounted)?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>).map_err(mounted)?;
    chroot(".").map_err(mounted)?;
    chdir("/").map_err(mounted)?;
    Ok(())
}

/// This program, where bind mounts of containers find it.
fn share_init() -> Result<(), BootError> {
    let failed = |source| BootError::Mount { what: "/proc/self/exe", target: INIT_PROGRAM, source };
    if let Some(directory) = Path::new(INIT_PROGRAM).parent() {
        fs::create_dir_all(directory).map_err(step("directories"))?;
    }
    fs::write(INIT_PROGRAM, b"").map_err(step("directories"))?;
    mount(Some("/proc/self/exe"), INIT_PROGRAM, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(failed)
}

fn step(what: &'static str) -> impl Fn(io::Error) -> BootError {
    move |source| BootError::Step { what, source }
}

/// Writes back what is cached and turns the machine off. Returns only if the kernel refuses.
pub fn power_off() -> Errno {
    sync();
    match reboot(RebootMode::RB_POWER_OFF) {
        Err(errno) => errno,
        Ok(never) => match never {},
    }
}
