//! The system calls for which nothing safe exists: making a tap, which rtnetlink cannot do (Linux,
//! Documentation/networking/tuntap.rst), and having the runtime watch a descriptor.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use paperboat_netlink::Monitor;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Where taps come from.
const CLONE_DEVICE: &str = "/dev/net/tun";

mod ioctl {
    nix::ioctl_write_ptr_bad!(set_interface, libc::TUNSETIFF, libc::ifreq);
    nix::ioctl_write_int_bad!(set_persistent, libc::TUNSETPERSIST);
}

/// Makes tap `name` in the calling thread's network namespace, to stay until it is removed, with the header in front of each packet that
/// the machine wants. Several descriptors may be attached to one with `multi_queue`, each a queue.
///
/// # Errors
/// The system's: `EBUSY` when the name is taken, `ENOENT` when the host has no taps.
pub fn make_tap(name: &str, multi_queue: bool) -> io::Result<()> {
    let device = File::options().read(true).write(true).open(CLONE_DEVICE);
    let device = device.map_err(|error| io::Error::new(error.kind(), format!("{CLONE_DEVICE}: {error}")))?;
    // SAFETY: ifreq is plain data, for which all zeros is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.is_empty() || name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    let queues = if multi_queue { libc::IFF_MULTI_QUEUE } else { 0 };
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_TUN_EXCL | queues;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: the kernel reads one ifreq, a live local.
    unsafe { ioctl::set_interface(device.as_raw_fd(), &raw const request) }?;
    // SAFETY: the request takes an integer.
    unsafe { ioctl::set_persistent(device.as_raw_fd(), 1) }?;
    Ok(())
}

/// Lets the runtime watch for news.
///
/// # Errors
/// The system's.
pub fn watch(monitor: Monitor) -> io::Result<AsyncFd<Monitor>> {
    // SAFETY: a Monitor keeps one open socket of one number for its whole life.
    unsafe { AsyncFd::register_with_interest(monitor, Interest::READABLE) }.map_err(Into::into)
}
