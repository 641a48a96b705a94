//! The commands of bpf(2) (linux/bpf.h, `union bpf_attr`; Linux 5.9 for programs that look up sockets).

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use crate::Insn;

const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_MAP_TYPE_SOCKMAP: u32 = 15;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_PROG_TYPE_SK_LOOKUP: u32 = 30;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_SK_LOOKUP: u32 = 36;
const BPF_F_ALLOW_MULTI: u32 = 2;

/// Where a program is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attach {
    /// Each use of a device node in a control group: 0 refuses it.
    CgroupDevice,
    /// Each search for the socket of a new connection in a network namespace.
    SocketLookup,
}

impl Attach {
    /// `prog_type` and `attach_type`.
    fn types(self) -> (u32, u32) {
        match self {
            Self::CgroupDevice => (BPF_PROG_TYPE_CGROUP_DEVICE, BPF_CGROUP_DEVICE),
            Self::SocketLookup => (BPF_PROG_TYPE_SK_LOOKUP, BPF_SK_LOOKUP),
        }
    }
}

/// The part of `union bpf_attr` that making a map takes.
#[repr(C)]
#[derive(Default)]
struct MapAttr {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

/// The part that setting an element takes.
#[repr(C)]
#[derive(Default)]
struct ElementAttr {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The part that loading takes.
#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

/// The part that attaching takes: descriptors and type stand in another order for a link than for a control group.
#[repr(C)]
struct AttachAttr([u32; 4]);

/// A map of listening sockets, by slot.
#[derive(Debug)]
pub struct SocketMap(OwnedFd);

impl SocketMap {
    /// An empty map with this many slots.
    ///
    /// # Errors
    /// The kernel's: `EINVAL` without socket maps, `ENOSYS` without BPF, `EPERM` without `CAP_BPF` and `CAP_NET_ADMIN`.
    pub fn new(slots: u32) -> io::Result<Self> {
        let attr =
            MapAttr { map_type: BPF_MAP_TYPE_SOCKMAP, key_size: 4, value_size: 8, max_entries: slots, ..MapAttr::default() };
        // SAFETY: `attr` has the layout the command reads and points to nothing.
        unsafe { new_descriptor(BPF_MAP_CREATE, &attr) }.map(Self)
    }

    /// Puts a socket into a slot. The map holds it no longer than it is open elsewhere.
    ///
    /// # Errors
    /// The kernel's: `E2BIG` for a slot that the map has not, `EOPNOTSUPP` for a socket that is no TCP or UDP one.
    pub fn set(&self, slot: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        let value = u64::from(socket.as_raw_fd().cast_unsigned());
        let attr = ElementAttr {
            map_fd: number(&self.0),
            key: std::ptr::from_ref(&slot) as u64,
            value: std::ptr::from_ref(&value) as u64,
            ..ElementAttr::default()
        };
        // SAFETY: `attr` has the layout the command reads; key and value are live locals of the map's sizes, 4 and 8 bytes.
        unsafe { bpf(BPF_MAP_UPDATE_ELEM, &attr) }.map(drop)
    }

    /// The map's number for a [`LOAD_CONSTANT`](crate::insn::LOAD_CONSTANT), good for as long as the map lives.
    #[must_use]
    pub fn descriptor(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

/// A program that the kernel's verifier has accepted.
#[derive(Debug)]
pub struct Program {
    fd: OwnedFd,
    attach: Attach,
}

impl Program {
    /// Loads a program for one kind of use.
    ///
    /// # Errors
    /// The kernel's: `EINVAL` or `EACCES` where the verifier refuses it, `EINVAL` where the kernel does not know this use.
    pub fn load(attach: Attach, code: &[Insn]) -> io::Result<Self> {
        let (prog_type, attach_type) = attach.types();
        let attr = LoadAttr {
            prog_type,
            insn_cnt: u32::try_from(code.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
            insns: code.as_ptr() as u64,
            license: c"Apache-2.0".as_ptr() as u64,
            expected_attach_type: attach_type,
            ..LoadAttr::default()
        };
        // SAFETY: `attr` has the layout the command reads; code and licence outlive the call, the count is the code's, and the kernel
        // writes nothing.
        let fd = unsafe { new_descriptor(BPF_PROG_LOAD, &attr) }?;
        Ok(Self { fd, attach })
    }

    /// Attaches it to a control group, beside others. The control group holds it from then on.
    ///
    /// # Errors
    /// The kernel's: `EBADF` where that is no control group of version 2.
    pub fn attach(&self, cgroup: BorrowedFd<'_>) -> io::Result<()> {
        let attr = AttachAttr([cgroup.as_raw_fd().cast_unsigned(), number(&self.fd), self.attach.types().1, BPF_F_ALLOW_MULTI]);
        // SAFETY: `attr` has the layout the command reads; both descriptors are open.
        unsafe { bpf(BPF_PROG_ATTACH, &attr) }.map(drop)
    }

    /// Attaches it to a network namespace for as long as the answer is open, which holds the program and its maps.
    ///
    /// # Errors
    /// The kernel's: `EINVAL` where that is no network namespace, `E2BIG` after 64 programs.
    pub fn link(&self, namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        let attr = AttachAttr([number(&self.fd), namespace.as_raw_fd().cast_unsigned(), self.attach.types().1, 0]);
        // SAFETY: `attr` has the layout the command reads; both descriptors are open.
        unsafe { new_descriptor(BPF_LINK_CREATE, &attr) }
    }
}

fn number(fd: &impl AsFd) -> u32 {
    fd.as_fd().as_raw_fd().cast_unsigned()
}

/// A command that answers a new descriptor.
///
/// # Safety
/// As for [`bpf`].
unsafe fn new_descriptor<T>(command: libc::c_int, attr: &T) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise.
    let fd = unsafe { bpf(command, attr) }?;
    // SAFETY: the command has just answered a new descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// bpf(2).
///
/// # Safety
/// `attr` must be laid out as `command` reads it, and what it points to must live.
unsafe fn bpf<T>(command: libc::c_int, attr: &T) -> io::Result<libc::c_int> {
    // SAFETY: the caller's promise; the size is the structure's.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>() as libc::c_uint) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as libc::c_int) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::insn::{EXIT, MOVE_IMMEDIATE};

    #[test]
    fn structures_have_the_kernels_size() {
        assert_eq!((size_of::<LoadAttr>(), size_of::<ElementAttr>(), size_of::<AttachAttr>()), (72, 32, 16));
    }

    #[test]
    fn the_verifier_is_asked() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: loading a program takes root");
            return;
        }
        let answer = Insn::new(MOVE_IMMEDIATE, 0, 0, 0, 1);
        let whole = Program::load(Attach::CgroupDevice, &[answer, Insn::new(EXIT, 0, 0, 0, 0)]).unwrap();
        let namespace = std::fs::File::open("/proc/self/ns/net").unwrap();
        assert_eq!(whole.attach(namespace.as_fd()).unwrap_err().raw_os_error(), Some(libc::EBADF));
        let error = Program::load(Attach::CgroupDevice, &[answer]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "a program that does not end: {error}");
    }
}
