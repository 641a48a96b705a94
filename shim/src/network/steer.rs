//! Steering: connections to localhost of a network namespace come to listeners of ours, whatever their port.
//!
//! Where the kernel looks for the socket that takes a new connection, a program answers (linux/bpf.h, `BPF_PROG_TYPE_SK_LOOKUP`; Linux
//! 5.9). The port that was called stays the local port of the accepted connection. The kernel drops the program with the last descriptor
//! of its link: nothing is left behind, however the process ends.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use paperboat_protocol::resolver::RESOLVER_ADDRESS;

/// `struct bpf_insn`: code, registers (destination low), offset, immediate.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Insn {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

// bpf_common.h and bpf.h: class | size or operation | source or mode.
const LOAD_WORD: u8 = 0x61;
const LOAD_CONSTANT: u8 = 0x18;
const STORE_WORD: u8 = 0x62;
const ADD_IMMEDIATE: u8 = 0x07;
const AND_IMMEDIATE: u8 = 0x54;
const MOVE_IMMEDIATE: u8 = 0xb7;
const MOVE_REGISTER: u8 = 0xbf;
const JUMP: u8 = 0x05;
const JUMP_IF_IMMEDIATE: u8 = 0x15;
const JUMP_IF_NOT_IMMEDIATE: u8 = 0x55;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;

/// Source register of a `LOAD_CONSTANT` whose immediate is a map's descriptor.
const MAP_DESCRIPTOR: u8 = 1;

// linux/bpf.h: helper functions.
const MAP_LOOKUP_ELEM: i32 = 1;
const SK_RELEASE: i32 = 86;
const SK_ASSIGN: i32 = 124;

// struct bpf_sk_lookup: offsets.
const FAMILY: i16 = 8;
const PROTOCOL: i16 = 12;
const LOCAL_IP4: i16 = 40;
const LOCAL_IP6: i16 = 44;

// linux/bpf.h: commands and constants of bpf(2).
const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_MAP_TYPE_SOCKMAP: u32 = 15;
const BPF_PROG_TYPE_SK_LOOKUP: u32 = 30;
const BPF_SK_LOOKUP: u32 = 36;

/// Where the program finds the listeners.
const SLOT_V4: i32 = 0;
const SLOT_V6: i32 = 1;

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

/// The part that attaching takes.
#[repr(C)]
#[derive(Default)]
struct LinkAttr {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
}

/// Lets TCP connections to 127.0.0.0/8, but for Docker's resolver at 127.0.0.11, and ::1 of the namespace behind `namespace` come to these listeners, which live in it. Holds as long
/// as the answer.
///
/// # Errors
/// What step failed, and the kernel's answer: `EINVAL` before Linux 5.9 or without socket maps, `ENOSYS` without BPF, `EPERM` without
/// `CAP_BPF` and `CAP_NET_ADMIN`.
pub fn localhost(
    namespace: BorrowedFd<'_>,
    v4: BorrowedFd<'_>,
    v6: Option<BorrowedFd<'_>>,
) -> Result<OwnedFd, (&'static str, io::Error)> {
    let failed = |what| move |error| (what, error);
    let attr = MapAttr { map_type: BPF_MAP_TYPE_SOCKMAP, key_size: 4, value_size: 8, max_entries: 2, ..MapAttr::default() };
    // SAFETY: `attr` has the layout the command reads and points to nothing.
    let map = unsafe { bpf(BPF_MAP_CREATE, &attr) }.map_err(failed("make a socket map"))?;
    // SAFETY: the command has just answered a new descriptor.
    let map = unsafe { OwnedFd::from_raw_fd(map) };
    for (slot, listener) in [(SLOT_V4, Some(v4)), (SLOT_V6, v6)] {
        let Some(listener) = listener else { continue };
        let value = u64::from(listener.as_raw_fd().cast_unsigned());
        let attr = ElementAttr {
            map_fd: number(&map),
            key: std::ptr::from_ref(&slot) as u64,
            value: std::ptr::from_ref(&value) as u64,
            ..ElementAttr::default()
        };
        // SAFETY: `attr` has the layout the command reads; key and value are live locals of the map's sizes, 4 and 8 bytes.
        unsafe { bpf(BPF_MAP_UPDATE_ELEM, &attr) }.map_err(failed("put a listener into a socket map"))?;
    }
    let program = program(map.as_raw_fd());
    let attr = LoadAttr {
        prog_type: BPF_PROG_TYPE_SK_LOOKUP,
        insn_cnt: program.len() as u32,
        insns: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        expected_attach_type: BPF_SK_LOOKUP,
        ..LoadAttr::default()
    };
    // SAFETY: `attr` has the layout the command reads; program and licence outlive the call, the count is the program's.
    let loaded = unsafe { bpf(BPF_PROG_LOAD, &attr) }.map_err(failed("load a program for socket lookup"))?;
    // SAFETY: the command has just answered a new descriptor.
    let loaded = unsafe { OwnedFd::from_raw_fd(loaded) };
    let attr = LinkAttr {
        prog_fd: number(&loaded),
        target_fd: namespace.as_raw_fd().cast_unsigned(),
        attach_type: BPF_SK_LOOKUP,
        flags: 0,
    };
    // SAFETY: `attr` has the layout the command reads; both descriptors are open.
    let link = unsafe { bpf(BPF_LINK_CREATE, &attr) }.map_err(failed("attach a program to the network namespace"))?;
    // The link holds the program, the program the map, the map the listeners.
    // SAFETY: the command has just answered a new descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(link) })
}

fn number(fd: &impl AsFd) -> u32 {
    fd.as_fd().as_raw_fd().cast_unsigned()
}

/// The program: which listener takes a connection, if it is one to localhost. Everything else is looked up as ever.
fn program(map: libc::c_int) -> Vec<Insn> {
    // Registers: 0 answers, 1 to 3 are arguments and 2 the scratch, 6 and 7 survive calls, 10 is the end of the stack.
    const CONTEXT: u8 = 6;
    const SOCKET: u8 = 7;
    const STACK: u8 = 10;
    let insn = |code, to: u8, from: u8, offset, immediate| Insn { code, registers: registers(to, from), offset, immediate };
    let network_order = |value: u32| value.to_be().cast_signed();
    // Jumps to the end, which come first in this list, get their distance below.
    let pass_unless = |value| insn(JUMP_IF_NOT_IMMEDIATE, 2, 0, 0, value);
    let mut code = vec![
        insn(MOVE_REGISTER, CONTEXT, 1, 0, 0),
        insn(LOAD_WORD, 2, CONTEXT, PROTOCOL, 0),
        pass_unless(libc::IPPROTO_TCP),
        insn(STORE_WORD, STACK, 0, -4, SLOT_V4),
        insn(LOAD_WORD, 2, CONTEXT, FAMILY, 0),
        // Over the part for IPv6 to the one for IPv4.
        insn(JUMP_IF_IMMEDIATE, 2, 0, 11, libc::AF_INET),
        pass_unless(libc::AF_INET6),
        insn(STORE_WORD, STACK, 0, -4, SLOT_V6),
    ];
    for (word, value) in [(0, 0), (1, 0), (2, 0), (3, network_order(1))] {
        code.push(insn(LOAD_WORD, 2, CONTEXT, LOCAL_IP6 + 4 * word, 0));
        code.push(pass_unless(value));
    }
    let is_resolver = code.len() + 2;
    code.extend([
        insn(JUMP, 0, 0, 4, 0),
        insn(LOAD_WORD, 2, CONTEXT, LOCAL_IP4, 0),
        // Docker's resolver is the host's.
        insn(JUMP_IF_IMMEDIATE, 2, 0, 0, network_order(u32::from(*RESOLVER_ADDRESS.ip()))),
        insn(AND_IMMEDIATE, 2, 0, 0, network_order(0xff00_0000)),
        pass_unless(network_order(0x7f00_0000)),
        insn(LOAD_CONSTANT, 1, MAP_DESCRIPTOR, 0, map),
        insn(0, 0, 0, 0, 0),
        insn(MOVE_REGISTER, 2, STACK, 0, 0),
        insn(ADD_IMMEDIATE, 2, 0, 0, -4),
        insn(CALL, 0, 0, 0, MAP_LOOKUP_ELEM),
        insn(MOVE_REGISTER, SOCKET, 0, 0, 0),
        insn(MOVE_REGISTER, 2, 0, 0, 0),
    ]);
    let without_socket = code.len();
    code.extend([
        insn(JUMP_IF_IMMEDIATE, 0, 0, 0, 0),
        insn(MOVE_REGISTER, 1, CONTEXT, 0, 0),
        insn(MOVE_IMMEDIATE, 3, 0, 0, 0),
        insn(CALL, 0, 0, 0, SK_ASSIGN),
        insn(MOVE_REGISTER, 1, SOCKET, 0, 0),
        insn(CALL, 0, 0, 0, SK_RELEASE),
        // SK_PASS: with the socket assigned, or with the kernel's own search.
        insn(MOVE_IMMEDIATE, 0, 0, 0, 1),
        insn(EXIT, 0, 0, 0, 0),
    ]);
    let end = code.len() - 2;
    for (at, insn) in code.iter_mut().enumerate() {
        if insn.code == JUMP_IF_NOT_IMMEDIATE || at == without_socket || at == is_resolver {
            // The program has some forty instructions.
            insn.offset = (end - at - 1) as i16;
        }
    }
    code
}

/// The two four-bit registers of an instruction, which are bit fields in C and so follow the byte order.
fn registers(to: u8, from: u8) -> u8 {
    if cfg!(target_endian = "little") { to | from << 4 } else { to << 4 | from }
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
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn structures_have_the_kernels_size() {
        assert_eq!((size_of::<Insn>(), size_of::<LoadAttr>(), size_of::<ElementAttr>()), (8, 72, 32));
    }

    /// In a namespace of its own: the machine's localhost stays as it is.
    #[test]
    fn every_port_of_localhost_leads_to_the_listeners_and_other_addresses_do_not() {
        let tested = std::thread::spawn(|| {
            if let Err(errno) = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET) {
                eprintln!("skipped: network namespaces take root ({errno})");
                return;
            }
            let mut kernel = paperboat_netlink::Connection::open().unwrap();
            let up = paperboat_netlink::LinkChange { up: Some(true), ..Default::default() };
            kernel.change_link(1, &up).unwrap();
            let namespace = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
            let listeners = [TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("[::1]:0").unwrap()];
            let link = localhost(namespace.as_fd(), listeners[0].as_fd(), Some(listeners[1].as_fd())).unwrap();
            for (address, listener) in [("127.0.0.1:80", 0), ("127.1.2.3:65535", 0), ("[::1]:80", 1)] {
                let mut caller = TcpStream::connect(address).unwrap();
                let (mut called, _) = listeners[listener].accept().unwrap();
                assert_eq!(called.local_addr().unwrap().to_string(), address);
                caller.write_all(b"hello").unwrap();
                drop(caller);
                let mut text = String::new();
                called.read_to_string(&mut text).unwrap();
                assert_eq!(text, "hello");
            }
            let resolver = TcpListener::bind("127.0.0.11:53").unwrap();
            let caller = TcpStream::connect("127.0.0.11:53").unwrap();
            assert_eq!(resolver.accept().unwrap().1, caller.local_addr().unwrap(), "Docker's resolver stays the host's");
            drop(link);
            assert_eq!(TcpStream::connect("127.0.0.1:80").unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        });
        tested.join().unwrap();
    }
}
