//! What becomes of a bind mount: the host's files through the share, or a file system in the guest's memory.

use std::io;
use std::path::{Component, Path, PathBuf};

use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use nix::sys::statvfs::{FsFlags, statvfs};
use sha2::{Digest, Sha256};

/// Directory name of the kubelet's plugin for emptyDir volumes. Secrets, config maps and tokens lie in tmpfs too, but their content
/// comes from the host and changes there.
const EMPTY_DIR: &str = "kubernetes.io~empty-dir";

/// Hex digits in the name of a memory volume: 128 bits of a hash, beyond chance.
const NAME_DIGITS: usize = 32;

/// How far "read-only" goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadOnly {
    /// Not at all.
    No,
    /// The mount itself; mounts below it keep their own setting, as with mount(8).
    Top,
    /// Everything below it too (`rro`).
    Recursive,
}

/// A host path to be mounted into the pod's share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// The host's path.
    pub source: PathBuf,
    /// Name below the container's `mounts` directory.
    pub name: String,
    /// A directory; otherwise a file, a socket, or a device.
    pub directory: bool,
    /// Mounts below the source come along.
    pub recursive: bool,
    /// Not to be written through.
    pub read_only: ReadOnly,
}

/// A tmpfs that the pod's containers share and the guest makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryVolume {
    /// The same for the same host path.
    pub name: String,
    /// Its limit, as on the host.
    pub size_bytes: u64,
    /// Mode of its root.
    pub mode: u32,
    /// Owner of its root.
    pub uid: u32,
    /// Group of its root.
    pub gid: u32,
}

/// Where a bind mount's content lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placed {
    /// On the host, reached through the share.
    Share(Volume),
    /// In the guest's memory.
    Memory(MemoryVolume),
}

/// Decides for a bind mount of `source` at `destination`; `name` is unique in its container.
///
/// # Errors
/// The system's, when the source is not there.
pub fn place(name: &str, source: &Path, destination: &Path, options: &[String]) -> io::Result<Placed> {
    let metadata = std::fs::metadata(source)?;
    if metadata.is_dir() && in_memory(source, destination)? {
        use std::os::unix::fs::MetadataExt;
        let filesystem = statvfs(source)?;
        return Ok(Placed::Memory(MemoryVolume {
            name: name_of(source),
            size_bytes: filesystem.blocks().saturating_mul(filesystem.fragment_size()),
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
        }));
    }
    let last = |words: &[&str]| options.iter().rev().find(|option| words.contains(&option.as_str())).map(String::as_str);
    Ok(Placed::Share(Volume {
        source: source.to_owned(),
        name: name.to_owned(),
        directory: metadata.is_dir(),
        recursive: last(&["bind", "rbind"]) != Some("bind"),
        read_only: match last(&["ro", "rw", "rro", "rrw"]) {
            Some("ro") => ReadOnly::Top,
            Some("rro") => ReadOnly::Recursive,
            _ => ReadOnly::No,
        },
    }))
}

/// Restrictions of the source's mount that a bind mount on one kernel would inherit, and that the guest's kernel has to be told.
///
/// # Errors
/// The system's, when the source is not there.
pub fn inherited(source: &Path, options: &[String]) -> io::Result<Vec<&'static str>> {
    Ok(restrictions(statvfs(source)?.flags(), options))
}

fn restrictions(flags: FsFlags, options: &[String]) -> Vec<&'static str> {
    let said = |word: &str| options.iter().any(|option| option == word);
    let table =
        [(FsFlags::ST_NOSUID, "nosuid", "suid"), (FsFlags::ST_NODEV, "nodev", "dev"), (FsFlags::ST_NOEXEC, "noexec", "exec")];
    table.into_iter().filter(|(flag, on, off)| flags.contains(*flag) && !said(on) && !said(off)).map(|(_, on, _)| on).collect()
}

/// Memory that processes share must be memory of the guest; a volume "in memory" is to be paid for by the pod.
fn in_memory(source: &Path, destination: &Path) -> io::Result<bool> {
    let empty_dir = source.components().any(|part| part == Component::Normal(EMPTY_DIR.as_ref()));
    Ok((empty_dir || destination == Path::new("/dev/shm")) && statfs(source)?.filesystem_type() == TMPFS_MAGIC)
}

fn name_of(source: &Path) -> String {
    let digest = Sha256::digest(source.as_os_str().as_encoded_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>()[..NAME_DIGITS].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn the_last_word_wins() {
        let directory = tempfile::tempdir().unwrap();
        let volume = |options: &[&str]| match place("0", directory.path(), Path::new("/data"), &words(options)).unwrap() {
            Placed::Share(volume) => (volume.recursive, volume.read_only),
            Placed::Memory(_) => panic!("a plain directory is not memory"),
        };
        assert_eq!(volume(&[]), (true, ReadOnly::No));
        assert_eq!(volume(&["rbind", "ro"]), (true, ReadOnly::Top));
        assert_eq!(volume(&["ro", "bind", "rw"]), (false, ReadOnly::No));
        assert_eq!(volume(&["rbind", "rro"]), (true, ReadOnly::Recursive));
    }

    #[test]
    fn shared_memory_is_the_guests_and_secrets_are_the_hosts() {
        let shm = Path::new("/dev/shm");
        if statfs(shm).map(|found| found.filesystem_type()).ok() != Some(TMPFS_MAGIC) {
            eprintln!("not run: /dev/shm is no tmpfs here");
            return;
        }
        let pod = tempfile::tempdir_in(shm).unwrap();
        let cache = pod.path().join("volumes/kubernetes.io~empty-dir/cache");
        let secret = pod.path().join("volumes/kubernetes.io~secret/token");
        std::fs::create_dir_all(&cache).unwrap();
        std::fs::create_dir_all(&secret).unwrap();
        let placed = |source: &Path, destination: &str| place("0", source, Path::new(destination), &[]).unwrap();
        let Placed::Memory(volume) = placed(&cache, "/cache") else { panic!("not in memory") };
        assert!(volume.size_bytes > 0 && volume.mode == 0o755 && volume.name.len() == NAME_DIGITS, "{volume:?}");
        assert_eq!(placed(&cache, "/elsewhere"), Placed::Memory(volume.clone()), "one path, one volume");
        assert!(matches!(placed(&secret, "/var/run/secrets"), Placed::Share(_)));
        assert!(matches!(placed(&secret, "/dev/shm"), Placed::Memory(other) if other.name != volume.name));
    }

    #[test]
    fn what_the_sources_mount_forbids_is_forbidden_in_the_guest() {
        let all = FsFlags::ST_NOSUID | FsFlags::ST_NODEV | FsFlags::ST_NOEXEC;
        let of = |options: &[&str]| restrictions(all, &words(options));
        assert_eq!(of(&[]), ["nosuid", "nodev", "noexec"]);
        assert!(restrictions(FsFlags::empty(), &[]).is_empty());
        assert_eq!(of(&["nodev", "exec"]), ["nosuid"]);
    }
}
