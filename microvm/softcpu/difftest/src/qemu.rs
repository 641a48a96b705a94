//! The other side: QEMU's user-mode emulation of a POWER9.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use crate::case::{Case, Endian, Outcome};
use crate::image::{BASE, Image, Target};

/// Why QEMU could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum QemuError {
    /// It is not installed.
    #[error("neither {0} nor {0}-static is in the path: install qemu-user-static")]
    Missing(&'static str),
    /// The program file could not be written.
    #[error("cannot write the program")]
    Write(#[source] std::io::Error),
    /// It did not start.
    #[error("cannot run {command}")]
    Start {
        /// The emulator.
        command: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It ended without the results.
    #[error("{command} ended with {status} and {got} of {wanted} bytes of results: {said}")]
    Ended {
        /// The emulator.
        command: String,
        /// Its exit status.
        status: std::process::ExitStatus,
        /// Bytes of results that came.
        got: usize,
        /// Bytes of results that were expected.
        wanted: usize,
        /// Its standard error.
        said: String,
    },
}

/// The installed emulators.
#[derive(Debug, Clone)]
pub struct Qemu {
    little: String,
    big: String,
}

impl Qemu {
    /// Finds both emulators in the path.
    ///
    /// # Errors
    /// [`QemuError::Missing`] names the one that is not there.
    pub fn find() -> Result<Self, QemuError> {
        Ok(Self { little: find("qemu-ppc64le")?, big: find("qemu-ppc64")? })
    }

    /// Runs a batch of cases.
    ///
    /// # Errors
    /// [`QemuError`] if the emulator did not deliver results; a signal in a case is an outcome, not an error.
    pub fn run(&self, cases: &[Case], endian: Endian) -> Result<Vec<Outcome>, QemuError> {
        let command = match endian {
            Endian::Little => &self.little,
            Endian::Big => &self.big,
        };
        let image = Image::new(cases, endian, Target::Linux);
        let mut file = tempfile::Builder::new().prefix("difftest-").tempfile().map_err(QemuError::Write)?;
        file.write_all(&elf(&image, endian)).map_err(QemuError::Write)?;
        let path = file.into_temp_path();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).map_err(QemuError::Write)?;
        let output = Command::new(command)
            .args(["-cpu", "power9"])
            .arg(&path)
            .stdin(Stdio::null())
            .output()
            .map_err(|source| QemuError::Start { command: command.clone(), source })?;
        let (_, wanted) = image.results();
        if !output.status.success() || output.stdout.len() != wanted {
            return Err(QemuError::Ended {
                command: command.clone(),
                status: output.status,
                got: output.stdout.len(),
                wanted,
                said: String::from_utf8_lossy(&output.stderr).into_owned(),
            });
        }
        Ok(image.outcomes(&output.stdout))
    }
}

fn find(name: &'static str) -> Result<String, QemuError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    [name.to_owned(), format!("{name}-static")]
        .into_iter()
        .find(|name| std::env::split_paths(&path).any(|directory| directory.join(name).is_file()))
        .ok_or(QemuError::Missing(name))
}

/// A static ELF64 executable with one segment (System V ABI, chapter 4 and 5).
fn elf(image: &Image, endian: Endian) -> Vec<u8> {
    const HEADER_BYTES: u64 = 64;
    const PROGRAM_HEADER_BYTES: u64 = 56;
    const SEGMENT_OFFSET: u64 = 0x1_0000;
    const EM_PPC64: u64 = 21;
    const ABI_V2: u64 = 2;
    const READ_WRITE_EXECUTE: u64 = 7;

    let mut file = vec![0x7f, b'E', b'L', b'F', 2, if endian == Endian::Little { 1 } else { 2 }, 1];
    file.resize(16, 0);
    let size = image.bytes.len() as u64;
    let fields: [(u64, usize); 21] = [
        (2, 2), // ET_EXEC
        (EM_PPC64, 2),
        (1, 4),
        (image.entry, 8),
        (HEADER_BYTES, 8),
        (0, 8),
        (ABI_V2, 4),
        (HEADER_BYTES, 2),
        (PROGRAM_HEADER_BYTES, 2),
        (1, 2),
        (64, 2),
        (0, 2),
        (0, 2),
        (1, 4), // PT_LOAD
        (READ_WRITE_EXECUTE, 4),
        (SEGMENT_OFFSET, 8),
        (BASE, 8),
        (BASE, 8),
        (size, 8),
        (size, 8),
        (0x1_0000, 8),
    ];
    for (value, width) in fields {
        match endian {
            Endian::Little => file.extend(&value.to_le_bytes()[..width]),
            Endian::Big => file.extend(&value.to_be_bytes()[8 - width..]),
        }
    }
    file.resize(SEGMENT_OFFSET as usize, 0);
    file.extend(&image.bytes);
    file
}
