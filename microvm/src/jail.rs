//! What a machine that the guest has taken over can still reach.
//!
//! There is one place where the machine gives up rights, [`enter_jail`], called once after every descriptor is open and
//! before the first guest instruction. What it drops today is what can be dropped without changing what devices need:
//!
//! | dropped now | why |
//! |---|---|
//! | gaining privileges by execve | `no_new_privs`: no set-uid program gives back what is dropped |
//! | core dumps | guest memory and the pod's secrets stay out of files |
//! | inherited descriptors | [`close_inherited`], at process start, before anything else is opened |
//!
//! A mount namespace that holds the shared directory only, capabilities and seccomp follow here, and nowhere else.

use std::io;

use nix::sys::resource::{Resource, setrlimit};

/// Why the jail cannot be entered. The machine must not run the guest then.
#[derive(Debug, thiserror::Error)]
#[error("cannot give up {what}")]
pub struct JailError {
    what: &'static str,
    #[source]
    source: io::Error,
}

/// Closes every descriptor from `first` on.
///
/// # Errors
/// [`JailError`] when the process cannot list its descriptors.
pub fn close_inherited(first: i32) -> Result<(), JailError> {
    let failed = |source| JailError { what: "inherited descriptors", source };
    let entries = std::fs::read_dir("/proc/self/fd").map_err(failed)?;
    // Collected before anything is closed: the listing has a descriptor itself, gone when the loop begins.
    let open: Vec<i32> = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    for fd in open.into_iter().filter(|fd| *fd >= first) {
        // EBADF for the listing's own.
        let _ = nix::unistd::close(fd);
    }
    Ok(())
}

/// Gives up what the machine does not need from here on.
///
/// # Errors
/// [`JailError`] names what could not be given up.
pub fn enter_jail() -> Result<(), JailError> {
    let failed = |what| move |errno: nix::Error| JailError { what, source: errno.into() };
    nix::sys::prctl::set_no_new_privs().map_err(failed("gaining privileges"))?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(failed("core dumps"))?;
    Ok(())
}
