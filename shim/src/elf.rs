//! Which architecture an image is for, read from the ELF header of the program it would run, before a machine is started for it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

/// Bytes of a file looked at: an ELF header's identification and machine, or a script's first line (Linux reads 256).
const HEAD_BYTES: usize = 256;

/// Interpreters may be scripts themselves; Linux stops after four (fs/exec.c).
const MAX_SCRIPT_DEPTH: usize = 4;

/// The program search path of a container that does not set one.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the guest runs.
pub const GUEST_ARCHITECTURE: &str = "ppc64le";

const EM_PPC64: u16 = 21;

/// The image is for another architecture.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the image is for {found} ({} says so), this runtime's guests run {GUEST_ARCHITECTURE}", program.display())]
pub struct WrongArchitecture {
    /// Name of the image's architecture.
    pub found: String,
    /// The program in the image.
    pub program: PathBuf,
}

/// Checks the program of `args` in the root file system `root`. What cannot be found or read passes: the guest then gives the
/// precise error.
pub fn check(root: &Path, args: &[String], env: &[String], cwd: &Path) -> Result<(), WrongArchitecture> {
    let Ok(root) = File::open(root) else { return Ok(()) };
    let Some(name) = args.first() else { return Ok(()) };
    let found = candidates(name, env, cwd).find_map(|path| read_head(&root, &path).map(|head| (path, head)));
    let Some((mut program, mut head)) = found else { return Ok(()) };
    for _ in 0..MAX_SCRIPT_DEPTH {
        let Some(interpreter) = script_interpreter(&head) else { break };
        let Some(next) = read_head(&root, &interpreter) else { return Ok(()) };
        (program, head) = (interpreter, next);
    }
    match architecture(&head) {
        Some(found) if found != GUEST_ARCHITECTURE => Err(WrongArchitecture { found, program }),
        _ => Ok(()),
    }
}

/// Whether a file of the host is a program of another architecture than the guest's.
pub fn is_foreign(program: &Path) -> bool {
    let Ok(root) = File::open("/") else { return false };
    let head = read_head(&root, program);
    head.and_then(|head| architecture(&head)).is_some_and(|found| found != GUEST_ARCHITECTURE)
}

/// The paths at which execvp(3) would look.
fn candidates(name: &str, env: &[String], cwd: &Path) -> impl Iterator<Item = PathBuf> {
    let direct = name.contains('/').then(|| cwd.join(name));
    let search = env.iter().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    let searched: Vec<PathBuf> = match direct {
        Some(path) => vec![path],
        None => search.split(':').map(|directory| cwd.join(directory).join(name)).collect(),
    };
    searched.into_iter()
}

/// The first bytes of a regular file inside `root`; links are followed as the container would follow them, never out of it.
fn read_head(root: &File, path: &Path) -> Option<Vec<u8>> {
    let how = OpenHow::new()
        // A fifo in an image must not hold the shim up.
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file = File::from(openat2(root.as_fd(), path, how).ok()?);
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut head = Vec::new();
    file.take(HEAD_BYTES as u64).read_to_end(&mut head).ok()?;
    Some(head)
}

fn script_interpreter(head: &[u8]) -> Option<PathBuf> {
    let line = head.strip_prefix(b"#!")?.split(|&byte| byte == b'\n').next()?;
    let word = line.split(|byte| byte.is_ascii_whitespace()).find(|word| !word.is_empty())?;
    Some(PathBuf::from(OsStr::from_bytes(word)))
}

/// Name of an ELF file's architecture, as container images spell it; None if it is no ELF file.
fn architecture(head: &[u8]) -> Option<String> {
    // System V ABI, ELF header: identification (class, data), then e_type and e_machine in the file's byte order.
    let (class, data) = match head {
        [0x7f, b'E', b'L', b'F', class, data, ..] => (*class, *data),
        _ => return None,
    };
    let raw: [u8; 2] = head.get(18..20)?.try_into().ok()?;
    let big_endian = data == 2;
    let machine = if big_endian { u16::from_be_bytes(raw) } else { u16::from_le_bytes(raw) };
    let name = match (machine, class, big_endian) {
        (EM_PPC64, 2, false) => GUEST_ARCHITECTURE,
        (EM_PPC64, _, _) => "ppc64 (big-endian)",
        (20, _, _) => "ppc (32-bit)",
        (62, 2, _) => "amd64",
        (62, _, _) => "x32",
        (3, _, _) => "386",
        (183, _, false) => "arm64",
        (40, _, _) => "arm",
        (22, _, _) => "s390x",
        (243, 2, _) => "riscv64",
        (258, _, _) => "loong64",
        (8, _, _) => "mips",
        _ => return Some(format!("ELF machine {machine}")),
    };
    Some(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn elf(machine: u16, class: u8, data: u8) -> Vec<u8> {
        let mut head = vec![0; 64];
        head[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', class, data]);
        head[18..20].copy_from_slice(&if data == 2 { machine.to_be_bytes() } else { machine.to_le_bytes() });
        head
    }

    fn image(files: &[(&str, Vec<u8>)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        root
    }

    fn run(root: &Path, arg: &str) -> Result<(), WrongArchitecture> {
        check(root, &[arg.to_owned()], &["PATH=/sbin:/bin".to_owned()], Path::new("/"))
    }

    #[test]
    fn the_guests_own_architecture_passes() {
        let root = image(&[("bin/sh", elf(21, 2, 1))]);
        assert_eq!(run(root.path(), "sh"), Ok(()));
    }

    #[test]
    fn another_architecture_is_named_through_path_links_and_scripts() {
        let root = image(&[("bin/busybox", elf(62, 2, 1)), ("entry", b"#! /bin/sh -e\nexit".to_vec())]);
        symlink("/bin/busybox", root.path().join("bin/sh")).unwrap();
        for name in ["sh", "/bin/sh", "bin/sh", "/entry"] {
            let error = run(root.path(), name).unwrap_err().to_string();
            assert!(error.contains("amd64") && error.contains("ppc64le"), "{error}");
        }
        let big = image(&[("bin/sh", elf(21, 2, 2))]);
        assert!(run(big.path(), "sh").unwrap_err().to_string().contains("big-endian"));
    }

    #[test]
    fn links_do_not_lead_out_of_the_image() {
        let root = image(&[("bin/true", elf(21, 2, 1))]);
        // On the host this is an x86-64 (or other) program; in the image the name does not exist.
        symlink("../../../../../../../../proc/self/exe", root.path().join("bin/sh")).unwrap();
        assert_eq!(run(root.path(), "sh"), Ok(()));
    }

    #[test]
    fn what_is_no_program_is_left_to_the_guest() {
        let root = image(&[("bin/a", b"".to_vec()), ("bin/b", b"\x7fELF".to_vec()), ("bin/loop", b"#!/bin/loop\n".to_vec())]);
        for name in ["a", "b", "loop", "missing"] {
            assert_eq!(run(root.path(), name), Ok(()), "{name}");
        }
    }
}
