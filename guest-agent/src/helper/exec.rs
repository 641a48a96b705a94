//! The helper that adds a process to a container, with the container's confinement. libcontainer's own way to do that keeps the
//! namespaces but drops the seccomp filter, so the steps are here, in the order runc takes them.

use std::fs::{self, File};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use libcontainer::config::PersonalityDomain;
use libcontainer::oci_spec::runtime::LinuxPersonalityDomain;
use libcontainer::syscall::syscall::{Syscall, SyscallType};
use libcontainer::{capabilities, seccomp};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{ForkResult, Gid, Pid, Uid, setgroups, setresgid, setresuid, setsid};
use oci_spec::runtime::{LinuxNamespaceType, Process, Spec};
use serde::{Deserialize, Serialize};

use super::create::{SPEC_FILE, own_pipes};
use super::program::{self, Prepared, ProgramError};
use super::{HelperError, spec};
use crate::report::{Report, Reporter};
use crate::sys;

/// Where the processes of a cgroup are listed and added.
const CGROUP_PROCS: &str = "cgroup.procs";

/// What to add, and to what.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExecOrder {
    /// The OCI process as JSON, absolute, inside the share.
    pub process: PathBuf,
    /// The agent's directory of the container.
    pub directory: PathBuf,
    /// Pid of the container's init.
    pub init: i32,
    /// The container's cgroup, absolute including the mount.
    pub cgroup: PathBuf,
    /// Whether it has a terminal.
    pub terminal: bool,
    /// The terminal's columns and rows, set before the program can ask.
    pub size: Option<(u16, u16)>,
}

/// Adds the process and reports its pid; a failure after the fork is reported by the process itself.
///
/// # Errors
/// [`HelperError`] for what fails before the fork.
pub fn run(order: &ExecOrder, reporter: &Reporter) -> Result<(), HelperError> {
    let mut process: Process = spec::read_json(&order.process)?;
    let container: Spec = spec::read_json(&order.directory.join(SPEC_FILE))?;
    check(&mut process, order)?;
    let init = sys::pidfd_open(Pid::from_raw(order.init)).map_err(|source| call("the container's init", source))?;
    own_pipes(process.user().uid(), process.user().gid())?;
    join_cgroup(order)?;
    if let Some(adjustment) = process.oom_score_adj().or_else(|| container.process().as_ref()?.oom_score_adj()) {
        let path = Path::new("/proc/self/oom_score_adj");
        fs::write(path, adjustment.to_string()).map_err(|source| HelperError::Io {
            what: "writing",
            path: path.into(),
            source,
        })?;
    }
    let linux = SyscallType::Linux.create_syscall();
    for rlimit in process.rlimits().iter().flatten() {
        linux.set_rlimit(rlimit).map_err(|error| HelperError::Call {
            what: format!("process.rlimits: {:?}", rlimit.typ()),
            source: std::io::Error::other(error),
        })?;
    }
    enter_namespaces(&container, &init)?;
    // A pid namespace takes effect for children only, hence one more process.
    match sys::fork().map_err(|errno| call("fork", errno.into()))? {
        ForkResult::Parent { child } => {
            reporter.send(&Report::Created { pid: child.as_raw() }, None).map_err(|source| call("reporting", source))
        }
        ForkResult::Child => {
            let error = match confine(&process, &container, order, linux.as_ref(), reporter) {
                Ok(program) => program.run().into(),
                Err(error) => error,
            };
            reporter.fail(error.to_string());
            // 127 and 126 as a shell has them; the failure has been reported, so hardly anybody will look.
            std::process::exit(if matches!(error, HelperError::Program(ProgramError::NotFound { .. })) { 127 } else { 126 })
        }
    }
}

fn check(process: &mut Process, order: &ExecOrder) -> Result<(), HelperError> {
    let terminal = process.terminal().unwrap_or(false);
    if terminal != order.terminal {
        let value = format!("{terminal} in the process, {} in the request", order.terminal);
        return Err(HelperError::Value { field: "process.terminal", value });
    }
    if process.args().as_ref().is_none_or(Vec::is_empty) {
        return Err(ProgramError::NoArguments.into());
    }
    if !process.cwd().is_absolute() {
        return Err(HelperError::Value { field: "process.cwd", value: process.cwd().display().to_string() });
    }
    Ok(())
}

/// Joins the container's cgroup; when that has been divided by the container itself, the part its init is in.
fn join_cgroup(order: &ExecOrder) -> Result<(), HelperError> {
    let join = |directory: &Path| {
        let path = directory.join(CGROUP_PROCS);
        fs::write(&path, "0").map_err(|source| HelperError::Io { what: "joining", path, source })
    };
    match join(&order.cgroup) {
        // No processes in inner nodes: cgroup-v2.rst, "No Internal Process Constraint".
        Err(HelperError::Io { source, .. }) if matches!(errno(&source), Errno::EBUSY | Errno::EOPNOTSUPP) => {
            let path = PathBuf::from(format!("/proc/{}/cgroup", order.init));
            let text =
                fs::read_to_string(&path).map_err(|source| HelperError::Io { what: "reading", path: path.clone(), source })?;
            let of_init = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
            let part = Path::new(crate::cgroup::MOUNT).join(of_init);
            if part.starts_with(&order.cgroup) { join(&part) } else { join(&order.cgroup) }
        }
        result => result,
    }
}

fn enter_namespaces(container: &Spec, init: &OwnedFd) -> Result<(), HelperError> {
    let kinds = container.linux().iter().flat_map(|linux| linux.namespaces().iter().flatten()).map(|namespace| namespace.typ());
    let flags = kinds.map(flag).fold(CloneFlags::empty(), CloneFlags::union);
    // One call: the kernel takes the user namespace first, and all or none.
    setns(init, flags).map_err(|errno| call("entering the container's namespaces", errno.into()))?;
    if flags.contains(CloneFlags::CLONE_NEWUSER) {
        set_ids(0, 0).map_err(|errno| call("root of the container's user namespace", errno.into()))?;
    }
    Ok(())
}

fn flag(kind: LinuxNamespaceType) -> CloneFlags {
    // Not in nix: linux/sched.h.
    const CLONE_NEWTIME: i32 = 0x80;
    match kind {
        LinuxNamespaceType::Mount => CloneFlags::CLONE_NEWNS,
        LinuxNamespaceType::Cgroup => CloneFlags::CLONE_NEWCGROUP,
        LinuxNamespaceType::Uts => CloneFlags::CLONE_NEWUTS,
        LinuxNamespaceType::Ipc => CloneFlags::CLONE_NEWIPC,
        LinuxNamespaceType::User => CloneFlags::CLONE_NEWUSER,
        LinuxNamespaceType::Pid => CloneFlags::CLONE_NEWPID,
        LinuxNamespaceType::Network => CloneFlags::CLONE_NEWNET,
        LinuxNamespaceType::Time => CloneFlags::from_bits_retain(CLONE_NEWTIME),
    }
}

/// The steps of runc's setns init, up to the program.
fn confine(
    process: &Process,
    container: &Spec,
    order: &ExecOrder,
    linux: &dyn Syscall,
    reporter: &Reporter,
) -> Result<Prepared, HelperError> {
    setsid().map_err(|errno| call("setsid", errno.into()))?;
    if order.terminal {
        terminal(process, order.size, reporter)?;
    }
    let filter = container.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let load_filter = || match filter {
        Some(filter) => seccomp::initialize_seccomp(filter)
            .map(|_| ())
            .map_err(|error| call("loading the seccomp filter", std::io::Error::other(super::chain(&error)))),
        None => Ok(()),
    };
    let no_new_privileges = process.no_new_privileges().unwrap_or(false);
    if no_new_privileges {
        nix::sys::prctl::set_no_new_privs().map_err(|errno| call("process.noNewPrivileges", errno.into()))?;
    }
    if let Some(personality) = container.linux().as_ref().and_then(|linux| linux.personality().as_ref()) {
        let domain = match personality.domain() {
            LinuxPersonalityDomain::PerLinux => PersonalityDomain::Linux,
            LinuxPersonalityDomain::PerLinux32 => PersonalityDomain::Linux32,
        };
        linux.personality(domain).map_err(|error| call("linux.personality", std::io::Error::other(error)))?;
    }
    sys::close_on_exec_from_3().map_err(|source| call("closing descriptors", source))?;
    // Without no_new_privs loading a filter takes privileges, which are about to go.
    if !no_new_privileges {
        load_filter()?;
    }
    // Before the change of user, who may not be allowed to, and again after it, when root is not (FUSE, NFS).
    let cwd = || {
        let failed = |source| HelperError::Io { what: "process.cwd", path: process.cwd().clone(), source };
        std::env::set_current_dir(process.cwd()).map_err(failed)
    };
    let before = cwd();
    if let Some(mask) = process.user().umask() {
        let mode = Mode::from_bits(mask)
            .ok_or_else(|| HelperError::Value { field: "process.user.umask", value: format!("{mask:#o}") })?;
        umask(mode);
    }
    let groups: Vec<Gid> = process.user().additional_gids().iter().flatten().map(|&gid| Gid::from_raw(gid)).collect();
    match setgroups(&groups) {
        // Not permitted in a user namespace that denies it, and then there is nothing to drop.
        Err(Errno::EPERM) if groups.is_empty() => {}
        other => other.map_err(|errno| call("process.user.additionalGids", errno.into()))?,
    }
    let failed = |what: &'static str| move |error: libcontainer::syscall::SyscallError| call(what, std::io::Error::other(error));
    set_ids(process.user().uid(), process.user().gid()).map_err(|errno| call("process.user", errno.into()))?;
    capabilities::reset_effective(linux).map_err(failed("process.capabilities"))?;
    if let Some(wanted) = process.capabilities() {
        capabilities::drop_privileges(wanted, linux).map_err(failed("process.capabilities"))?;
    }
    if before.is_err() {
        cwd()?;
    }
    // A working directory outside the container's root shows as "(unreachable)" or an error.
    std::env::current_dir()
        .ok()
        .filter(|path| path.is_absolute())
        .ok_or_else(|| HelperError::Value { field: "process.cwd", value: process.cwd().display().to_string() })?;
    // Before the filter: after it as little as possible happens.
    let program = program::prepare(process)?;
    if no_new_privileges {
        load_filter()?;
    }
    Ok(program)
}

/// Changes user and group for good, and keeps the permitted capabilities, to be cut down next.
fn set_ids(uid: u32, gid: u32) -> nix::Result<()> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    nix::sys::prctl::set_keepcaps(true)?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    nix::sys::prctl::set_keepcaps(false)
}

/// Opens a terminal of the container's devpts, makes it ours, and sends its master side.
fn terminal(process: &Process, size: Option<(u16, u16)>, reporter: &Reporter) -> Result<(), HelperError> {
    let failed = |source| HelperError::Io { what: "terminal", path: "/dev/ptmx".into(), source };
    let pty = nix::pty::openpty(None, None).map_err(|errno| failed(errno.into()))?;
    if let Some((columns, rows)) = size {
        sys::set_window_size(pty.master.as_fd(), columns, rows).map_err(failed)?;
    }
    let uid = process.user().uid();
    // The program's user must be able to open its terminal anew.
    nix::unistd::fchown(&pty.slave, Some(Uid::from_raw(uid)), None).map_err(|errno| failed(errno.into()))?;
    reporter.send(&Report::Terminal, Some(&pty.master)).map_err(failed)?;
    sys::set_controlling_terminal(pty.slave.as_fd()).map_err(failed)?;
    sys::standard_streams_to(File::from(pty.slave)).map_err(failed)
}

fn call(what: &str, source: std::io::Error) -> HelperError {
    HelperError::Call { what: what.into(), source }
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(0))
}
