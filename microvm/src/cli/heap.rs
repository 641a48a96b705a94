//! The C library's allocator, told to be small.
#![allow(unsafe_code, reason = "one call of the C library")]

/// Arenas of the heap. The C library makes one for each thread otherwise, and on hosts with pages of 64 KiB each costs one or more of them; the
/// machine's threads allocate little and rarely at the same time.
const ARENAS_MAX: libc::c_int = 1;

/// To be called before there is a second thread.
pub fn keep_small() {
    // SAFETY: takes numbers; changes how later allocations are served, nothing that exists.
    let done = unsafe { libc::mallopt(libc::M_ARENA_MAX, ARENAS_MAX) };
    if done == 0 {
        log::debug!("the heap's arenas cannot be limited");
    }
}
