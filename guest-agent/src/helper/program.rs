//! Finding the program a container is to run, and running it.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use nix::fcntl::AtFlags;
use nix::unistd::{AccessFlags, faccessat};
use oci_spec::runtime::{Process, Spec};

use crate::report::Reporter;
use crate::sys;

/// Where programs are looked for when the environment has no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// `e_machine` of the programs this machine runs.
const OUR_MACHINE: u16 = if cfg!(target_arch = "powerpc64") { 21 } else { 62 };

/// Why a program cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// Nothing to run.
    #[error("process.args is empty")]
    NoArguments,
    /// Not there.
    #[error("exec: {name:?}: executable file not found in $PATH ({path})")]
    NotFound {
        /// First argument.
        name: String,
        /// The PATH searched.
        path: String,
    },
    /// There, but not to be executed. Docker makes exit status 126 of the words `permission denied`.
    #[error("exec: {path:?}: {}", reason.desc().to_lowercase())]
    NotExecutable {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        reason: nix::errno::Errno,
    },
    /// An image of another architecture.
    #[error("exec: {path:?} is a program for {theirs}, this machine runs {ours}")]
    WrongArchitecture {
        /// The file.
        path: PathBuf,
        /// What it is for.
        theirs: String,
        /// What we are.
        ours: String,
    },
    /// A zero byte in it.
    #[error("{0} holds a zero byte")]
    ZeroByte(&'static str),
}

/// libcontainer's last step: runs the program of the spec with its environment in order, and tells PID 1 when that fails.
#[derive(Clone)]
pub struct SpecProgram {
    reporter: Reporter,
}

impl SpecProgram {
    /// Failures go to `reporter`, whose descriptor closes when the program runs.
    pub fn new(reporter: Reporter) -> Self {
        Self { reporter }
    }
}

impl Executor for SpecProgram {
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let process = spec.process().as_ref().ok_or(ExecutorValidationError::CantHandle("spec without process"))?;
        find(process).and_then(|path| check_machine(&path)).map_err(|error| {
            // Said directly, too: libcontainer wraps it in three layers of words.
            self.reporter.fail(error.to_string());
            ExecutorValidationError::ArgValidationError(error.to_string())
        })
    }

    // The environment is handed to execve(2) as it stands in the spec.
    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        Ok(())
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let process = spec.process().as_ref().ok_or(ExecutorError::InvalidArg)?;
        let error = match prepare(process) {
            Ok(program) => program.run(),
            Err(error) => error,
        };
        self.reporter.fail(error.to_string());
        Err(ExecutorError::Other(error.to_string()))
    }
}

/// A program that was found, with all that execve(2) wants.
#[derive(Debug)]
pub struct Prepared {
    path: PathBuf,
    program: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

impl Prepared {
    /// Replaces this process. Returns only the failure.
    pub fn run(self) -> ProgramError {
        let reason = sys::execve(&self.program, &self.arguments, &self.environment);
        match check_machine(&self.path) {
            Err(wrong) if reason == nix::errno::Errno::ENOEXEC => wrong,
            _ => ProgramError::NotExecutable { path: self.path, reason },
        }
    }
}

/// Finds `process`' program and readies its arguments and environment, as seen from where and who the caller is.
///
/// # Errors
/// [`ProgramError`] when there is none that this user may execute.
pub fn prepare(process: &Process) -> Result<Prepared, ProgramError> {
    let path = find(process)?;
    let c_string = |what| move |text: &String| CString::new(text.as_str()).map_err(|_| ProgramError::ZeroByte(what));
    let arguments = process.args().iter().flatten().map(c_string("process.args")).collect::<Result<_, _>>()?;
    let mut environment: Vec<CString> = process.env().iter().flatten().map(c_string("process.env")).collect::<Result<_, _>>()?;
    if variable(process, "HOME").is_none() {
        let home = home_of(process.user().uid()).unwrap_or_else(|| "/".into());
        environment.push(c_string("/etc/passwd")(&format!("HOME={home}"))?);
    }
    let program = CString::new(path.as_os_str().as_encoded_bytes()).map_err(|_| ProgramError::ZeroByte("process.args"))?;
    Ok(Prepared { path, program, arguments, environment })
}

/// The program's path, as a shell would find it with the environment of the spec, seen from where the caller is.
///
/// # Errors
/// [`ProgramError`] when there is none that this user may execute.
pub fn find(process: &Process) -> Result<PathBuf, ProgramError> {
    let name = process.args().iter().flatten().next().ok_or(ProgramError::NoArguments)?;
    if name.contains('/') {
        let path = PathBuf::from(name);
        return match executable(&path) {
            Ok(()) => Ok(path),
            Err(reason) => Err(ProgramError::NotExecutable { path, reason }),
        };
    }
    let search = variable(process, "PATH").unwrap_or(DEFAULT_PATH);
    let mut denied = None;
    for directory in search.split(':').filter(|directory| directory.starts_with('/') && !name.is_empty()) {
        let path = Path::new(directory).join(name);
        match executable(&path) {
            Ok(()) => return Ok(path),
            Err(nix::errno::Errno::EACCES) if path.is_file() => denied = Some(path),
            Err(_) => {}
        }
    }
    Err(match denied {
        Some(path) => ProgramError::NotExecutable { path, reason: nix::errno::Errno::EACCES },
        None => ProgramError::NotFound { name: name.clone(), path: search.to_owned() },
    })
}

fn executable(path: &Path) -> nix::Result<()> {
    match faccessat(nix::fcntl::AT_FDCWD, path, AccessFlags::X_OK, AtFlags::AT_EACCESS) {
        // A seccomp filter older than faccessat2(2): execve will tell.
        Err(nix::errno::Errno::EPERM | nix::errno::Errno::ENOSYS) => {}
        result => result?,
    }
    if path.is_dir() { Err(nix::errno::Errno::EISDIR) } else { Ok(()) }
}

/// Refuses a file that is a program of another architecture; anything else is left to the kernel to judge.
fn check_machine(path: &Path) -> Result<(), ProgramError> {
    let mut header = [0; 20];
    // A program may be executable and not readable: the kernel will tell.
    let readable = File::open(path).and_then(|mut file| file.read_exact(&mut header));
    if readable.is_err() || header[..4] != *b"\x7fELF" {
        return Ok(());
    }
    let little = header[5] == 1;
    let bytes = [header[18], header[19]];
    let machine = if little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) };
    if machine == OUR_MACHINE && little {
        return Ok(());
    }
    Err(ProgramError::WrongArchitecture {
        path: path.to_owned(),
        theirs: machine_name(machine, little),
        ours: machine_name(OUR_MACHINE, true),
    })
}

/// Names as `uname -m` spells them.
fn machine_name(machine: u16, little: bool) -> String {
    match (machine, little) {
        (3, _) => "i386".into(),
        (20, _) => "ppc".into(),
        (21, true) => "ppc64le".into(),
        (21, false) => "ppc64 (big-endian)".into(),
        (22, _) => "s390x".into(),
        (40, _) => "arm".into(),
        (62, _) => "x86_64".into(),
        (183, _) => "aarch64".into(),
        (243, _) => "riscv64".into(),
        (258, _) => "loongarch64".into(),
        (other, _) => format!("ELF machine {other}"),
    }
}

fn variable<'a>(process: &'a Process, name: &str) -> Option<&'a str> {
    // The last one counts, as it does for a shell.
    process.env().iter().flatten().rev().find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='))
}

/// Home directory of `uid` by the container's /etc/passwd, bounded.
fn home_of(uid: u32) -> Option<String> {
    const PASSWD_MAX: u64 = 1 << 20;
    let mut text = String::new();
    File::open("/etc/passwd").ok()?.take(PASSWD_MAX).read_to_string(&mut text).ok()?;
    home_in(&text, uid)
}

fn home_in(passwd: &str, uid: u32) -> Option<String> {
    let uid = uid.to_string();
    passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find_map(|fields| match fields[..] {
        [_, _, of, _, _, home, ..] if of == uid && !home.is_empty() => Some(home.to_owned()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::ProcessBuilder;

    use super::*;

    fn process(args: &[&str], env: &[&str]) -> Process {
        let owned = |list: &[&str]| list.iter().map(|&s| s.to_owned()).collect::<Vec<_>>();
        ProcessBuilder::default().args(owned(args)).env(owned(env)).build().expect("process")
    }

    #[test]
    fn programs_are_found_as_a_shell_finds_them() {
        let sh = find(&process(&["sh"], &["PATH=/nonexistent:/bin"])).expect("there is a shell");
        assert_eq!(sh, Path::new("/bin/sh"));
        assert!(find(&process(&["sh"], &[])).is_ok(), "default PATH");
        let error = find(&process(&["no-such-program"], &["PATH=/bin"])).expect_err("there is none").to_string();
        assert!(error.contains("no-such-program") && error.contains("/bin"), "{error}");
        let error = find(&process(&["/etc/passwd"], &[])).expect_err("no program").to_string();
        assert!(error.contains("/etc/passwd") && error.contains("permission denied"), "{error}");
        assert!(find(&process(&["/"], &[])).is_err(), "a directory");
        assert!(find(&process(&[""], &[])).is_err());
        assert!(find(&process(&[], &[])).is_err());
    }

    #[test]
    fn a_foreign_program_is_named() {
        check_machine(Path::new("/proc/self/exe")).expect("runs here");
        let path = std::env::temp_dir().join(format!("paperboat-elf-{}", std::process::id()));
        let mut header = std::fs::read("/proc/self/exe").expect("readable")[..64].to_vec();
        header[18..20].copy_from_slice(&243u16.to_le_bytes());
        std::fs::write(&path, header).expect("temporary file");
        let error = check_machine(&path).expect_err("not ours").to_string();
        assert!(error.contains("riscv64") && error.contains(&machine_name(OUR_MACHINE, true)), "{error}");
        std::fs::write(&path, "#!/bin/sh\n").expect("temporary file");
        check_machine(&path).expect("a script is the kernel's business");
        std::fs::remove_file(&path).expect("clean up");
    }

    #[test]
    fn home_and_variables() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:33:33::/srv:/bin/false\n";
        assert_eq!(home_in(passwd, 33).as_deref(), Some("/srv"));
        assert_eq!(home_in(passwd, 34), None);
        let process = process(&["sh"], &["A=1", "AB=2", "A=3"]);
        assert_eq!(variable(&process, "A"), Some("3"));
        assert_eq!(variable(&process, "B"), None);
    }
}
