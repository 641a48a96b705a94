//! The helper that makes a container: translates the spec, lets libcontainer do the rest, reports the pid.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::{Gid, Uid, fchown};
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use serde::{Deserialize, Serialize};

use super::program::SpecProgram;
use super::spec::{self, Place};
use super::{HelperError, chain, cwd, devices};
use crate::report::{Report, Reporter, receive_terminal};
use crate::{sys, sysctl};

/// What to make.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CreateOrder {
    /// The container's id.
    pub id: String,
    /// Its spec, absolute, inside the share.
    pub spec: PathBuf,
    /// Its root file system, absolute, inside the share.
    pub rootfs: PathBuf,
    /// The shared directory.
    pub share: PathBuf,
    /// The agent's own directory of this container; exists and is empty.
    pub directory: PathBuf,
    /// Its cgroup below the cgroup mount.
    pub cgroup: String,
    /// Whether it has a terminal.
    pub terminal: bool,
}

/// Name of the translated spec in the container's directory.
pub const SPEC_FILE: &str = "config.json";

/// libcontainer's directory in the container's, where it makes one more of the container's id.
const STATE_DIRECTORY: &str = "state";

/// Makes the container and reports its pid; its init waits for the start.
///
/// # Errors
/// [`HelperError`]; libcontainer has then removed what it made.
pub fn run(order: &CreateOrder, reporter: Reporter) -> Result<(), HelperError> {
    let mut spec: Spec = spec::read_json(&order.spec)?;
    let place = Place {
        share: &order.share,
        rootfs: &order.rootfs,
        cgroup: &order.cgroup,
        terminal: order.terminal,
        swap: Path::new("/proc/swaps").exists(),
    };
    let leftover = spec::translate(&mut spec, place)?;
    for note in &leftover.notes {
        crate::warn!("left out container={} what={note:?}", order.id);
    }
    for (key, value) in &leftover.sysctls {
        sysctl::set(key, value)?;
    }
    cwd::provide(&mut spec, &order.rootfs, &order.directory)?;
    let file = order.directory.join(SPEC_FILE);
    let text = serde_json::to_vec(&spec).map_err(|source| HelperError::Json { path: file.clone(), source })?;
    fs::write(&file, text).map_err(|source| HelperError::Io { what: "writing", path: file.clone(), source })?;
    own_streams(&spec)?;

    let console = order.directory.join("console.sock");
    let console_error = |source| HelperError::Io { what: "terminal socket", path: console.clone(), source };
    let listener = order.terminal.then(|| UnixListener::bind(&console)).transpose().map_err(console_error)?;
    let state = order.directory.join(STATE_DIRECTORY);
    fs::create_dir(&state).map_err(|source| HelperError::Io { what: "making", path: state.clone(), source })?;
    let container = ContainerBuilder::new(order.id.clone(), SyscallType::Linux)
        .with_executor(SpecProgram::new(reporter.clone()))
        .with_root_path(&state)
        .map(|builder| builder.with_console_socket(order.terminal.then_some(&console)))
        .and_then(|builder| builder.as_init(&order.directory).with_systemd(false).with_detach(true).build())
        .map_err(|error| cwd::complaint(&order.directory).unwrap_or_else(|| HelperError::Container(chain(&error))))?;
    let pid = container.pid().ok_or_else(|| HelperError::Container("libcontainer made no process".into()))?.as_raw();

    // The cgroup is there now, and the container's program is not yet.
    let rules = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref()?.devices().clone()).unwrap_or_default();
    let cgroup = Path::new(crate::cgroup::MOUNT).join(order.cgroup.trim_start_matches('/'));
    if let Err(error) = devices::apply(&rules, &cgroup) {
        // The agent removes the rest when it hears of the failure.
        let _ = sys::kill(nix::unistd::Pid::from_raw(pid), libc::SIGKILL);
        return Err(error.into());
    }

    let gone = |source| HelperError::Call { what: "reporting".into(), source };
    if let Some(listener) = listener {
        let master = receive_terminal(&listener).map_err(console_error)?;
        reporter.send(&Report::Terminal, Some(&master)).map_err(gone)?;
    }
    reporter.send(&Report::Created { pid }, None).map_err(gone)
}

/// Where libcontainer's init of container `id` listens for the start, below the agent's directory of it.
pub fn notify_socket(directory: &Path, id: &str) -> PathBuf {
    directory.join(STATE_DIRECTORY).join(id).join("notify.sock")
}

/// Gives the pipes on the standard streams to the container's user, so that it may open /dev/stdout anew.
fn own_streams(spec: &Spec) -> Result<(), HelperError> {
    let Some(process) = spec.process() else { return Ok(()) };
    let linux = spec.linux().as_ref();
    let mapped = linux.is_some_and(|l| l.namespaces().iter().flatten().any(|n| n.typ() == LinuxNamespaceType::User));
    let host_id = |id: u32, mappings: Option<&Vec<oci_spec::runtime::LinuxIdMapping>>| {
        let inside = |m: &&oci_spec::runtime::LinuxIdMapping| id.checked_sub(m.container_id()).is_some_and(|at| at < m.size());
        match mappings.into_iter().flatten().find(inside) {
            Some(m) if mapped => m.host_id().saturating_add(id - m.container_id()),
            _ => id,
        }
    };
    let uid = host_id(process.user().uid(), linux.and_then(|l| l.uid_mappings().as_ref()));
    let gid = host_id(process.user().gid(), linux.and_then(|l| l.gid_mappings().as_ref()));
    own_pipes(uid, gid)
}

/// Gives the pipes among this process' standard streams to `uid` and `gid` of the guest.
///
/// # Errors
/// The kernel's.
pub fn own_pipes(uid: u32, gid: u32) -> Result<(), HelperError> {
    if uid == 0 {
        return Ok(());
    }
    for stream in [std::io::stdin().as_fd(), std::io::stdout().as_fd(), std::io::stderr().as_fd()] {
        let call = |what: &str, errno: nix::Error| HelperError::Call { what: what.into(), source: errno.into() };
        let mode = fstat(stream).map_err(|e| call("standard stream", e))?.st_mode;
        if mode & SFlag::S_IFMT.bits() == SFlag::S_IFIFO.bits() {
            fchown(stream, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
                .map_err(|e| call("owner of a standard stream", e))?;
        }
    }
    Ok(())
}
