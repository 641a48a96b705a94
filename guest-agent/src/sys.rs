//! The system calls for which neither `std` nor `nix` has a safe function. All of the agent's `unsafe` is here and in
//! `helper/devices.rs` (bpf).

#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::unistd::{ForkResult, Pid};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Bytes of entropy taken at once; `Hello` carries 64 at most.
pub const ENTROPY_MAX: usize = 64;

/// `struct rand_pool_info` of `linux/random.h` with its buffer.
#[repr(C)]
struct RandPoolInfo {
    entropy_count_bits: libc::c_int,
    buf_size_bytes: libc::c_int,
    buf: [u8; ENTROPY_MAX],
}

mod ioctl {
    // RNDADDENTROPY is _IOW('R', 3, int[2]): the encoding differs on powerpc, which nix's macro knows.
    nix::ioctl_write_ptr!(rnd_add_entropy, b'R', 3, [libc::c_int; 2]);
    nix::ioctl_write_ptr_bad!(set_window_size, libc::TIOCSWINSZ, libc::winsize);
    nix::ioctl_write_int_bad!(set_controlling_terminal, libc::TIOCSCTTY);
    nix::ioctl_read_bad!(interface_flags, libc::SIOCGIFFLAGS, libc::ifreq);
    nix::ioctl_write_ptr_bad!(set_interface_flags, libc::SIOCSIFFLAGS, libc::ifreq);
}

/// Mixes `bytes` into the kernel's pool and credits them as full entropy: they come from the host's generator.
/// More than [`ENTROPY_MAX`] bytes are ignored.
///
/// # Errors
/// The kernel's, for instance without `CAP_SYS_ADMIN`.
pub fn add_entropy(bytes: &[u8]) -> io::Result<()> {
    let len = bytes.len().min(ENTROPY_MAX);
    if len == 0 {
        return Ok(());
    }
    let mut info =
        RandPoolInfo { entropy_count_bits: len as libc::c_int * 8, buf_size_bytes: len as libc::c_int, buf: [0; ENTROPY_MAX] };
    info.buf[..len].copy_from_slice(&bytes[..len]);
    let random = File::options().write(true).open("/dev/urandom")?;
    // SAFETY: the kernel reads two ints and then `buf_size_bytes` bytes, all inside `info`, which outlives the call.
    unsafe { ioctl::rnd_add_entropy(random.as_raw_fd(), std::ptr::from_ref(&info).cast()) }?;
    Ok(())
}

/// Sets the size of the terminal behind `fd`.
///
/// # Errors
/// `ENOTTY` when `fd` is no terminal.
pub fn set_window_size(fd: BorrowedFd<'_>, columns: u16, rows: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel reads one winsize from a live local.
    unsafe { ioctl::set_window_size(fd.as_raw_fd(), &size) }?;
    Ok(())
}

/// Makes the terminal `fd` the controlling one of the calling session leader.
///
/// # Errors
/// `EPERM` when the caller leads no session or has a terminal already.
pub fn set_controlling_terminal(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the request takes an integer.
    unsafe { ioctl::set_controlling_terminal(fd.as_raw_fd(), 0) }?;
    Ok(())
}

/// Sets `IFF_UP` of interface `name` (15 bytes at most) in the caller's network namespace.
///
/// # Errors
/// The kernel's, `ENODEV` when there is none.
pub fn interface_up(name: &str) -> io::Result<()> {
    let socket = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Inet,
        nix::sys::socket::SockType::Datagram,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // SAFETY: ifreq is plain data, for which all zeros is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    // SAFETY: the kernel reads and writes one ifreq, a live local.
    unsafe { ioctl::interface_flags(socket.as_raw_fd(), &raw mut request) }?;
    // SAFETY: SIOCGIFFLAGS has filled in `ifru_flags`, so that is the live field of the union.
    unsafe { request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short };
    // SAFETY: the kernel reads one ifreq, a live local.
    unsafe { ioctl::set_interface_flags(socket.as_raw_fd(), &request) }?;
    Ok(())
}

/// Takes over the descriptor `raw` that the parent handed down by number.
///
/// # Errors
/// `EBADF` when there is none, `EINVAL` for standard streams.
pub fn inherited_fd(raw: RawFd) -> io::Result<OwnedFd> {
    if raw <= libc::STDERR_FILENO {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: fcntl with F_GETFD touches no memory and answers EBADF for a number that is not open.
    if unsafe { libc::fcntl(raw, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and nobody else owns it: helpers call this once, at their start, for the number in their argument.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Lets the runtime watch `fd`, which does not block.
///
/// # Errors
/// `EPERM` for regular files, out of watches.
pub fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd keeps one open descriptor of one number for its whole life.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(Into::into)
}

/// Wraps a descriptor that a message has just brought.
pub fn received_fd(raw: RawFd) -> OwnedFd {
    // SAFETY: callers pass the numbers of an SCM_RIGHTS message they received, each once; the kernel installed them for us.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

/// A descriptor for process `pid`, against which signals and `setns` are safe from reuse of the number.
///
/// # Errors
/// `ESRCH` when there is no such process.
pub fn pidfd_open(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: takes integers, answers a new descriptor.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Sends a signal by number, real-time ones included, which `nix` has no names for.
///
/// # Errors
/// The kernel's, `ESRCH` when there is no such process.
pub fn kill(pid: Pid, signal: i32) -> nix::Result<()> {
    // SAFETY: takes integers.
    nix::errno::Errno::result(unsafe { libc::kill(pid.as_raw(), signal) }).map(drop)
}

/// Sets close-on-exec on every descriptor above the standard streams.
///
/// # Errors
/// The kernel's.
pub fn close_on_exec_from_3() -> io::Result<()> {
    // SAFETY: takes integers and changes flags only.
    let result = unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Forks. Only for the single-threaded helpers: with threads the child could not allocate.
///
/// # Errors
/// The kernel's, `EAGAIN` at a pids limit.
pub fn fork() -> nix::Result<ForkResult> {
    debug_assert_eq!(std::fs::read_dir("/proc/self/task").map_or(1, |tasks| tasks.count()), 1, "fork with other threads around");
    // SAFETY: the helper has one thread, so the child's copy of memory, locks included, is consistent.
    unsafe { nix::unistd::fork() }
}

/// Gives SIGPIPE its default action, to end the process.
pub fn default_sigpipe() {
    // SAFETY: no handler is installed, only the default one named. It fails only for signals that do not exist.
    let _ = unsafe { nix::sys::signal::signal(nix::sys::signal::Signal::SIGPIPE, nix::sys::signal::SigHandler::SigDfl) };
}

/// Replaces the program; `environment` as `KEY=value`. Returns only its failure.
pub fn execve(path: &CString, arguments: &[CString], environment: &[CString]) -> nix::errno::Errno {
    match nix::unistd::execve(path, arguments, environment) {
        Err(error) => error,
        Ok(never) => match never {},
    }
}

/// Points the standard streams 0, 1 and 2 at `fd`.
///
/// # Errors
/// The kernel's.
pub fn standard_streams_to(fd: impl AsFd) -> io::Result<()> {
    nix::unistd::dup2_stdin(&fd)?;
    nix::unistd::dup2_stdout(&fd)?;
    nix::unistd::dup2_stderr(&fd)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropy_ioctl_is_encoded_as_the_architecture_wants() {
        // _IOW is direction 1 at bit 30 in the generic encoding, direction 4 at bit 29 on powerpc.
        let (write, shift) = if cfg!(target_arch = "powerpc64") { (4u64, 29) } else { (1, 30) };
        let expected = write << shift | 8 << 16 | u64::from(b'R') << 8 | 3;
        assert_eq!(nix::request_code_write!(b'R', 3, size_of::<[libc::c_int; 2]>()) as u64, expected);
    }

    #[test]
    fn handed_down_descriptors_must_exist() {
        assert_eq!(inherited_fd(1).expect_err("a standard stream").kind(), io::ErrorKind::InvalidInput);
        assert_eq!(inherited_fd(1_000_000).expect_err("not open").raw_os_error(), Some(libc::EBADF));
    }

    #[test]
    fn a_pidfd_needs_a_process() {
        pidfd_open(Pid::this()).expect("we exist");
        assert!(pidfd_open(Pid::from_raw(i32::MAX)).is_err());
    }
}
