//! Stand-in for the crate `prctl`, which declares the variadic `prctl(2)` of libc as a function of five fixed arguments. On
//! powerpc64 that is no harmless lie: a variadic function stores its register arguments in a save area that only the caller
//! of one sets aside (ELFv2 ABI 2.2.3.3), so the call overwrites the caller's frame and it returns to address 0.
//!
//! Only what libcontainer calls is here, with the signatures it knows: errors are errno values.

use std::ffi::{CString, c_int, c_ulong};
use std::io;

/// Whether a core may be dumped of this process, and its /proc files are its own.
///
/// # Errors
/// errno.
pub fn set_dumpable(dumpable: bool) -> Result<(), i32> {
    set(libc::PR_SET_DUMPABLE, c_ulong::from(dumpable))
}

/// Whether the permitted capabilities survive a change of user.
///
/// # Errors
/// errno.
pub fn set_keep_capabilities(keep: bool) -> Result<(), i32> {
    set(libc::PR_SET_KEEPCAPS, c_ulong::from(keep))
}

/// Whether execve(2) may give privileges; once set it stays.
///
/// # Errors
/// errno, `EINVAL` for an attempt to unset it.
pub fn set_no_new_privileges(set_it: bool) -> Result<(), i32> {
    set(libc::PR_SET_NO_NEW_PRIVS, c_ulong::from(set_it))
}

/// Name of the calling thread; the kernel keeps 15 bytes.
///
/// # Errors
/// errno, `EINVAL` for a name with a zero byte.
pub fn set_name(name: &str) -> Result<(), i32> {
    let name = CString::new(name).map_err(|_| libc::EINVAL)?;
    set(libc::PR_SET_NAME, name.as_ptr() as c_ulong)
}

#[allow(unsafe_code)]
fn set(option: c_int, value: c_ulong) -> Result<(), i32> {
    const NONE: c_ulong = 0;
    // SAFETY: the options used here take a number, or a string that outlives the call; the rest must be zero.
    let result = unsafe { libc::prctl(option, value, NONE, NONE, NONE) };
    if result == -1 { Err(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_shows() {
        set_name("a-stand-in").expect("any name will do");
        assert_eq!(std::fs::read_to_string("/proc/thread-self/comm").expect("proc"), "a-stand-in\n");
        set_keep_capabilities(true).expect("anybody may");
        set_keep_capabilities(false).expect("anybody may");
        set_no_new_privileges(true).expect("anybody may");
        assert_eq!(set_no_new_privileges(false), Err(libc::EINVAL));
        assert_eq!(set_name("a\0b"), Err(libc::EINVAL));
    }
}
