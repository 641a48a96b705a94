//! The cpio archive that the kernel unpacks as its first root (Documentation/driver-api/early-userspace/buffer-format
//! of Linux: the "newc" form). Written here so that device nodes need no root and every build has the same bytes.

use anyhow::{Context, Result, ensure};

const MAGIC: &str = "070701";
const TRAILER: &str = "TRAILER!!!";
const S_IFREG: u32 = 0o100_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFCHR: u32 = 0o020_000;
const S_IFLNK: u32 = 0o120_000;

/// What an entry of the archive is.
pub enum Node {
    /// A directory.
    Directory {
        /// Permission bits.
        mode: u32,
    },
    /// A regular file.
    File {
        /// Permission bits.
        mode: u32,
        /// Its bytes.
        content: Vec<u8>,
    },
    /// A symbolic link to this path.
    Symlink(String),
    /// A character device.
    CharDevice {
        /// Permission bits.
        mode: u32,
        /// Device numbers.
        major: u32,
        /// Device numbers.
        minor: u32,
    },
}

/// An archive being written: everything belongs to root, and to the epoch.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Appends an entry; `name` is relative to the root. Parents must come first.
    pub fn push(&mut self, name: &str, node: Node) -> Result<()> {
        match node {
            Node::Directory { mode } => self.entry(name, S_IFDIR | mode, 2, (0, 0), &[]),
            Node::File { mode, content } => self.entry(name, S_IFREG | mode, 1, (0, 0), &content),
            Node::Symlink(target) => self.entry(name, S_IFLNK | 0o777, 1, (0, 0), target.as_bytes()),
            Node::CharDevice { mode, major, minor } => self.entry(name, S_IFCHR | mode, 1, (major, minor), &[]),
        }
    }

    /// Ends the archive and returns its bytes.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        self.entry(TRAILER, 0, 1, (0, 0), &[])?;
        Ok(self.bytes)
    }

    fn entry(&mut self, name: &str, mode: u32, nlink: u32, rdev: (u32, u32), content: &[u8]) -> Result<()> {
        ensure!(!name.is_empty() && !name.starts_with('/'), "an archive's names are relative: {name:?}");
        self.entries += 1;
        let inode = if name == TRAILER { 0 } else { self.entries };
        let size = u32::try_from(content.len()).with_context(|| format!("{name} is larger than 4 GiB"))?;
        let name_size = u32::try_from(name.len() + 1)?;
        // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
        let fields = [inode, mode, 0, 0, nlink, 0, size, 0, 0, rdev.0, rdev.1, name_size, 0];
        self.bytes.extend_from_slice(MAGIC.as_bytes());
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    fn sample() -> Vec<u8> {
        let mut archive = Archive::default();
        archive.push("dev", Node::Directory { mode: 0o755 }).unwrap();
        archive.push("dev/console", Node::CharDevice { mode: 0o600, major: 5, minor: 1 }).unwrap();
        archive.push("init", Node::File { mode: 0o755, content: b"12345".to_vec() }).unwrap();
        archive.push("link", Node::Symlink("init".into())).unwrap();
        archive.finish().unwrap()
    }

    #[test]
    fn layout_is_newc() {
        let bytes = sample();
        assert_eq!(&bytes[..6], b"070701");
        // The first entry's name begins after the 110 bytes of its header, its end is padded to four.
        assert_eq!(&bytes[110..114], b"dev\0");
        assert_eq!(&bytes[116..122], b"070701");
        assert!(bytes.len().is_multiple_of(4));
        assert_eq!(bytes, sample());
    }

    #[test]
    fn cpio_reads_it() {
        let child = Command::new("cpio").args(["-tv"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let Ok(mut child) = child else {
            eprintln!("not run: cpio is not installed");
            return;
        };
        child.stdin.take().unwrap().write_all(&sample()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success());
        assert!(
            text.lines().any(|line| line.starts_with("crw-------") && line.contains("5,") && line.ends_with("dev/console")),
            "{text}"
        );
        assert!(text.lines().any(|line| line.starts_with("-rwxr-xr-x") && line.ends_with("init")), "{text}");
        assert!(text.lines().any(|line| line.starts_with("lrwxrwxrwx") && line.ends_with("link -> init")), "{text}");
    }
}
