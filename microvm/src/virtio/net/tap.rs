//! Taps: network interfaces of the host whose other end is a descriptor (linux/if_tun.h).
//!
//! A descriptor of `/dev/net/tun` belongs to the network namespace of the thread that opened it, and attaching it to a tap that exists needs no
//! capability when the tap has no owner, or the calling user is its owner (TUNSETOWNER).
#![allow(unsafe_code, reason = "the ioctls of taps have no safe wrapper in a library")]

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use libc::{c_int, c_uint, ifreq};
use nix::fcntl::{OFlag, openat};
use nix::net::if_::if_nametoindex;
use nix::sys::stat::Mode;
use nix::{ioctl_write_int_bad, ioctl_write_ptr_bad, request_code_write};

use super::NetError;
use super::header::HEADER_BYTES;

/// Longest name of an interface (IFNAMSIZ without the NUL).
const NAME_BYTES_MAX: usize = 15;

/// What a tap may hand over in one piece to a guest that negotiated it (TUN_F_*).
pub(super) const OFFLOAD_CSUM: u32 = 1;
pub(super) const OFFLOAD_TSO4: u32 = 2;
pub(super) const OFFLOAD_TSO6: u32 = 4;
pub(super) const OFFLOAD_TSO_ECN: u32 = 8;

ioctl_write_ptr_bad!(tun_set_iff, request_code_write!(b'T', 202, size_of::<c_int>()), ifreq);
ioctl_write_int_bad!(tun_set_offload, request_code_write!(b'T', 208, size_of::<c_uint>()));
ioctl_write_ptr_bad!(tun_set_vnet_header_size, request_code_write!(b'T', 216, size_of::<c_int>()), c_int);
ioctl_write_ptr_bad!(tun_set_queue, request_code_write!(b'T', 217, size_of::<c_int>()), ifreq);
ioctl_write_ptr_bad!(tun_set_vnet_little_endian, request_code_write!(b'T', 220, size_of::<c_int>()), c_int);

/// What a network device needs of the host's end of its link.
pub(super) trait HostLink: Send + Sync {
    /// The descriptor of queue pair `index`: packets behind a header of 12 bytes, non-blocking.
    fn queue(&self, index: usize) -> BorrowedFd<'_>;

    /// Says what the guest takes without checksums and segmentation (`OFFLOAD_*`).
    ///
    /// # Errors
    /// What the kernel said.
    fn set_offload(&self, offload: u32) -> io::Result<()>;

    /// Spreads packets for the guest over the first `active` queues.
    ///
    /// # Errors
    /// What the kernel said.
    fn set_active_queues(&self, active: usize) -> io::Result<()>;
}

/// The way to taps: `/dev/net`, opened before the machine gives up its rights.
#[derive(Debug)]
pub struct TunDevice {
    directory: OwnedFd,
}

impl TunDevice {
    /// Opens `/dev/net` and makes sure that taps can be had.
    ///
    /// # Errors
    /// [`NetError::Device`].
    pub fn open() -> Result<Self, NetError> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = File::options().read(true).custom_flags(flags.bits()).open("/dev/net").map_err(NetError::Device)?;
        let device = Self { directory: directory.into() };
        device.descriptor()?;
        Ok(device)
    }

    fn descriptor(&self) -> Result<OwnedFd, NetError> {
        let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        openat(&self.directory, "tun", flags, Mode::empty()).map_err(|errno| NetError::Device(errno.into()))
    }

    /// Attaches `queue_pairs` queues to the tap `name`, which must exist.
    ///
    /// # Errors
    /// [`NetError::TapName`], [`NetError::NoTap`], [`NetError::Attach`].
    pub fn attach(&self, name: &str, queue_pairs: u16) -> Result<Tap, NetError> {
        let valid = (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.bytes().any(|b| b <= b' ' || b == b'/' || b == b':');
        if !valid || name == "." || name == ".." {
            return Err(NetError::TapName { name: name.to_owned() });
        }
        // The kernel would make a tap of that name, if it may, and an interface that nobody configured helps nobody.
        if_nametoindex(name).map_err(|errno| NetError::NoTap { name: name.to_owned(), source: errno.into() })?;
        let failed = |errno: nix::Error| NetError::Attach { name: name.to_owned(), queue_pairs, source: errno.into() };
        let mut flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        if queue_pairs > 1 {
            flags |= libc::IFF_MULTI_QUEUE;
        }
        let request = interface_request(name, flags);
        let mut queues = Vec::new();
        for _ in 0..queue_pairs {
            let queue = self.descriptor()?;
            let fd = queue.as_raw_fd();
            let (header_bytes, little_endian): (c_int, c_int) = (HEADER_BYTES as c_int, 1);
            // SAFETY: the descriptor is open, and each argument points to an initialised value of the type that the request reads.
            unsafe {
                tun_set_iff(fd, &raw const request).map_err(failed)?;
                tun_set_vnet_header_size(fd, &raw const header_bytes).map_err(failed)?;
                tun_set_vnet_little_endian(fd, &raw const little_endian).map_err(failed)?;
            }
            queues.push(Queue { descriptor: queue, enabled: true.into() });
        }
        Ok(Tap { queues })
    }
}

fn interface_request(name: &str, flags: c_int) -> ifreq {
    // SAFETY: an ifreq is a name and a union of plain numbers: zeros are a value of it.
    let mut request: ifreq = unsafe { MaybeUninit::zeroed().assume_init() };
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes().take(NAME_BYTES_MAX)) {
        *place = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = flags as i16;
    request
}

struct Queue {
    descriptor: OwnedFd,
    enabled: std::sync::atomic::AtomicBool,
}

/// A tap with its queues. Dropping it lets go of the interface.
pub struct Tap {
    queues: Vec<Queue>,
}

impl HostLink for Tap {
    fn queue(&self, index: usize) -> BorrowedFd<'_> {
        self.queues[index].descriptor.as_fd()
    }

    fn set_offload(&self, offload: u32) -> io::Result<()> {
        let fd = self.queues[0].descriptor.as_raw_fd();
        // SAFETY: the descriptor is open and the request takes a number.
        unsafe { tun_set_offload(fd, offload.cast_signed()) }?;
        Ok(())
    }

    fn set_active_queues(&self, active: usize) -> io::Result<()> {
        use std::sync::atomic::Ordering::Relaxed;
        for (index, queue) in self.queues.iter().enumerate() {
            let enable = index < active.max(1);
            if queue.enabled.load(Relaxed) == enable {
                continue;
            }
            let request = interface_request("", if enable { libc::IFF_ATTACH_QUEUE } else { libc::IFF_DETACH_QUEUE });
            // SAFETY: the descriptor is open and the request points to an initialised ifreq.
            unsafe { tun_set_queue(queue.descriptor.as_raw_fd(), &raw const request) }?;
            queue.enabled.store(enable, Relaxed);
        }
        Ok(())
    }
}
