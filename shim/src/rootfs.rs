//! Mounting into the pod's share: root file systems as containerd's snapshotter describes them, volumes, and the share itself.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use containerd_shim_protos::api::Mount;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use paperboat_protocol::debug::DEBUG_TOOLS;

use crate::cleanup;
use crate::volume::{ReadOnly, Volume};

/// mount(2) copies one page of options; the last byte must be zero.
const MAX_DATA_BYTES: usize = 4095;

/// A mount that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The system refused.
    #[error("mount {kind} {mount_source} at {}: {errno}", target.display())]
    Mount {
        /// File system type.
        kind: String,
        /// What was to be mounted.
        mount_source: String,
        /// Where.
        target: PathBuf,
        /// Why not.
        errno: Errno,
    },
    /// The options do not fit in the page that mount(2) takes.
    #[error("mount {kind} at {}: {bytes} bytes of options, the kernel takes {MAX_DATA_BYTES}", target.display())]
    OptionsTooLong {
        /// File system type.
        kind: String,
        /// Where.
        target: PathBuf,
        /// Length of the options.
        bytes: usize,
    },
    /// A directory or file to mount on could not be made.
    #[error("{}: {source}", path.display())]
    Target {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The mounts below a volume cannot be listed.
    #[error(transparent)]
    List(#[from] cleanup::CleanupError),
    /// There is no root file system.
    #[error("root file system {}: {source}", path.display())]
    NoRoot {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Makes a directory and its parents, readable by root only where they are new.
pub fn make_directory(path: &Path) -> Result<(), MountError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| MountError::Target { path: path.to_owned(), source })
}

/// Mounts `files` read-only at `share`, as a mount that passes later mounts on to copies of it: the machine's mount namespace then
/// sees containers that come later, and nothing propagates back from there once it is made a slave.
pub fn mount_share(files: &Path, share: &Path) -> Result<(), MountError> {
    make_directory(files)?;
    make_directory(share)?;
    bind(files, share, false)?;
    // First private: a bind mount inside a shared mount joins that mount's peer group.
    change(share, MsFlags::MS_PRIVATE)?;
    change(share, MsFlags::MS_SHARED)?;
    change(share, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV)
}

/// Mounts a container's root file system at an existing directory: the snapshotter's mounts, or without any the directory that the
/// specification names.
pub fn mount_root(mounts: &[Mount], root_path: &Path, target: &Path) -> Result<(), MountError> {
    if mounts.is_empty() {
        let metadata = std::fs::metadata(root_path);
        let directory = metadata.and_then(|m| if m.is_dir() { Ok(()) } else { Err(Errno::ENOTDIR.into()) });
        directory.map_err(|source| MountError::NoRoot { path: root_path.to_owned(), source })?;
        return bind_as_slave(root_path, target, true);
    }
    mounts.iter().try_for_each(|entry| mount_one(entry, target))
}

/// Makes what a volume is mounted on, below `directory`.
pub fn make_volume_target(volume: &Volume, directory: &Path) -> Result<(), MountError> {
    let target = directory.join(&volume.name);
    if volume.directory {
        return make_directory(&target);
    }
    make_directory(directory)?;
    std::fs::File::create(&target).map(drop).map_err(|source| MountError::Target { path: target, source })
}

/// Mounts a volume below `directory`, read-only where asked.
pub fn mount_volume(volume: &Volume, directory: &Path) -> Result<(), MountError> {
    let target = directory.join(&volume.name);
    bind_as_slave(&volume.source, &target, volume.recursive)?;
    let read_only = |target: &Path| change(target, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY);
    match volume.read_only {
        ReadOnly::No => Ok(()),
        ReadOnly::Top => read_only(&target),
        ReadOnly::Recursive => cleanup::mounts_below(&target)?.iter().try_for_each(|mount| read_only(mount)),
    }
}

/// Puts the debug console's program where the agent looks for it.
pub fn mount_debug_tools(source: &Path, files: &Path, share: &Path) -> Result<(), MountError> {
    let place = Path::new(DEBUG_TOOLS);
    let directory = place.parent().unwrap_or(Path::new(""));
    let name = place.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let volume = Volume { source: source.to_owned(), name, directory: false, recursive: false, read_only: ReadOnly::Top };
    make_volume_target(&volume, &files.join(directory))?;
    mount_volume(&volume, &share.join(directory))
}

fn mount_one(entry: &Mount, root: &Path) -> Result<(), MountError> {
    let target = match entry.target.trim_start_matches('/') {
        "" => root.to_owned(),
        below => root.join(below),
    };
    let options = Options::parse(&entry.options);
    if options.data.len() > MAX_DATA_BYTES {
        return Err(MountError::OptionsTooLong { kind: entry.type_.clone(), target, bytes: options.data.len() });
    }
    let is_bind = options.flags.contains(MsFlags::MS_BIND) || entry.type_ == "bind";
    if is_bind {
        bind_as_slave(Path::new(&entry.source), &target, options.flags.contains(MsFlags::MS_REC))?;
        // A bind mount takes its flags in a second step (mount(2), "Creating a bind mount").
        let changes = options.flags - MsFlags::MS_BIND - MsFlags::MS_REC;
        if !changes.is_empty() {
            change(&target, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | changes)?;
        }
        return Ok(());
    }
    mount(Some(entry.source.as_str()), &target, Some(entry.type_.as_str()), options.flags, Some(options.data.as_str()))
        .map_err(|errno| MountError::Mount { kind: entry.type_.clone(), mount_source: entry.source.clone(), target, errno })
}

/// What the host mounts below the source later reaches the guest, never the other way round: unmounting here would otherwise unmount
/// there.
fn bind_as_slave(source: &Path, target: &Path, recursive: bool) -> Result<(), MountError> {
    bind(source, target, recursive)?;
    change(target, MsFlags::MS_SLAVE | MsFlags::MS_REC)
}

fn bind(source: &Path, target: &Path, recursive: bool) -> Result<(), MountError> {
    let flags = if recursive { MsFlags::MS_BIND | MsFlags::MS_REC } else { MsFlags::MS_BIND };
    mount(Some(source), target, None::<&str>, flags, None::<&str>).map_err(|errno| MountError::Mount {
        kind: "bind".into(),
        mount_source: source.display().to_string(),
        target: target.to_owned(),
        errno,
    })
}

fn change(target: &Path, flags: MsFlags) -> Result<(), MountError> {
    mount(None::<&str>, target, None::<&str>, flags, None::<&str>).map_err(|errno| MountError::Mount {
        kind: format!("{flags:?}"),
        mount_source: String::new(),
        target: target.to_owned(),
        errno,
    })
}

/// fstab-style options, parted into flags of mount(2) and the file system's own.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    flags: MsFlags,
    data: String,
}

impl Options {
    fn parse(options: &[String]) -> Self {
        let mut flags = MsFlags::empty();
        let mut data: Vec<&str> = Vec::new();
        for option in options {
            let (flag, set) = match option.as_str() {
                "ro" => (MsFlags::MS_RDONLY, true),
                "rw" => (MsFlags::MS_RDONLY, false),
                "nosuid" => (MsFlags::MS_NOSUID, true),
                "suid" => (MsFlags::MS_NOSUID, false),
                "nodev" => (MsFlags::MS_NODEV, true),
                "dev" => (MsFlags::MS_NODEV, false),
                "noexec" => (MsFlags::MS_NOEXEC, true),
                "exec" => (MsFlags::MS_NOEXEC, false),
                "sync" => (MsFlags::MS_SYNCHRONOUS, true),
                "dirsync" => (MsFlags::MS_DIRSYNC, true),
                "noatime" => (MsFlags::MS_NOATIME, true),
                "nodiratime" => (MsFlags::MS_NODIRATIME, true),
                "relatime" => (MsFlags::MS_RELATIME, true),
                "strictatime" => (MsFlags::MS_STRICTATIME, true),
                "bind" => (MsFlags::MS_BIND, true),
                "rbind" => (MsFlags::MS_BIND | MsFlags::MS_REC, true),
                "defaults" | "async" | "atime" | "loop" => continue,
                _ => {
                    data.push(option);
                    continue;
                }
            };
            flags.set(flag, set);
        }
        Self { flags, data: data.join(",") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_parted_and_the_last_word_wins() {
        let list: Vec<String> = ["ro", "index=off", "lowerdir=/a:/b", "nosuid", "rw", "rbind"].map(str::to_owned).into();
        let options = Options::parse(&list);
        assert_eq!(options.flags, MsFlags::MS_NOSUID | MsFlags::MS_BIND | MsFlags::MS_REC);
        assert_eq!(options.data, "index=off,lowerdir=/a:/b");
    }

    #[test]
    fn options_beyond_a_page_are_refused_before_the_kernel_cuts_them() {
        let entry = Mount { type_: "overlay".into(), options: vec!["x".repeat(4096)], ..Default::default() };
        assert!(matches!(mount_one(&entry, Path::new("/nonexistent")), Err(MountError::OptionsTooLong { bytes: 4096, .. })));
    }

    #[test]
    fn a_root_that_is_not_there_is_named() {
        let target = tempfile::tempdir().unwrap();
        let message = mount_root(&[], Path::new("/nonexistent/root"), target.path()).unwrap_err().to_string();
        assert!(message.contains("/nonexistent/root"), "{message}");
    }
}
