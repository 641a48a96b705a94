//! Descriptors that the parent hands over by number.
#![allow(unsafe_code)]

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use anyhow::{Context, Result, ensure};

/// Takes over descriptor `fd`, which the command line says the parent has passed.
///
/// # Errors
/// When it is a standard stream or not open.
pub fn take(fd: RawFd) -> Result<OwnedFd> {
    ensure!(fd > 2, "descriptor {fd} is a standard stream");
    std::fs::symlink_metadata(format!("/proc/self/fd/{fd}")).with_context(|| format!("descriptor {fd} was not passed"))?;
    // SAFETY: the descriptor is open (checked above), was passed for this use by the parent, and is taken over once, at process start,
    // before anything here has opened descriptors of its own that could have this number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
