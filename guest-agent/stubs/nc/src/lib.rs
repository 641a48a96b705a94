//! Stand-in for the system call crate `nc`, whose powerpc64 tables do not compile.
//!
//! libcontainer needs exactly one call of it, `sched_setattr(2)`, for `process.scheduler` of the OCI spec. The names are
//! the ones it uses.

use std::io;

/// `struct sched_attr` of `linux/sched/types.h`, as far as version 1 of it (56 bytes) reaches.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct sched_attr_t {
    /// Size of this structure in bytes.
    pub size: u32,
    /// `SCHED_*` policy.
    pub sched_policy: u32,
    /// `SCHED_FLAG_*` bits.
    pub sched_flags: u64,
    /// Nice value for `SCHED_OTHER` and `SCHED_BATCH`.
    pub sched_nice: i32,
    /// Static priority for `SCHED_FIFO` and `SCHED_RR`.
    pub sched_priority: u32,
    /// `SCHED_DEADLINE`: run time in nanoseconds.
    pub sched_runtime: u64,
    /// `SCHED_DEADLINE`: deadline in nanoseconds.
    pub sched_deadline: u64,
    /// `SCHED_DEADLINE`: period in nanoseconds.
    pub sched_period: u64,
    /// Lower utilisation hint.
    pub sched_util_min: u32,
    /// Upper utilisation hint.
    pub sched_util_max: u32,
}

/// Sets the scheduling policy of thread `pid` (0: the caller).
///
/// # Errors
/// The kernel's error, see `sched_setattr(2)`.
///
/// # Safety
/// None needed from the caller; `unsafe` only because the replaced function is.
#[allow(unsafe_code)]
pub unsafe fn sched_setattr(pid: i32, attr: &sched_attr_t, flags: u32) -> io::Result<()> {
    // SAFETY: the kernel reads `attr.size` bytes at most from a live reference; callers set it to the structure's size.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, pid, std::ptr::from_ref(attr), flags) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(unsafe_code)]
    fn the_kernel_accepts_the_layout_and_rejects_a_bad_policy() {
        assert_eq!(size_of::<sched_attr_t>(), 56);
        let normal = sched_attr_t { size: 56, ..Default::default() };
        // SAFETY: `size` is the structure's size.
        unsafe { sched_setattr(0, &normal, 0) }.expect("SCHED_OTHER with nice 0 is what a test runs with");
        let bad = sched_attr_t { size: 56, sched_policy: 77, ..Default::default() };
        // SAFETY: as above.
        let error = unsafe { sched_setattr(0, &bad, 0) }.expect_err("no such policy");
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }
}
