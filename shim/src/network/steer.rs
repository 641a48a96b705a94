//! Steering: connections to localhost of a network namespace come to listeners of ours, whatever their port.
//!
//! Where the kernel looks for the socket that takes a new connection, a program answers (linux/bpf.h, `BPF_PROG_TYPE_SK_LOOKUP`; Linux
//! 5.9). The port that was called stays the local port of the accepted connection. The kernel drops the program with the last descriptor
//! of its link: nothing is left behind, however the process ends.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use paperboat_bpf::insn::{
    ADD_IMMEDIATE, AND_IMMEDIATE, CALL, EXIT, JUMP, JUMP_IF_IMMEDIATE, JUMP_IF_NOT_IMMEDIATE, LOAD_CONSTANT, LOAD_WORD,
    MAP_DESCRIPTOR, MOVE_IMMEDIATE, MOVE_REGISTER, STORE_WORD,
};
use paperboat_bpf::{Attach, Insn, Program, SocketMap};
use paperboat_protocol::resolver::RESOLVER_ADDRESS;

// linux/bpf.h: helper functions.
const MAP_LOOKUP_ELEM: i32 = 1;
const SK_RELEASE: i32 = 86;
const SK_ASSIGN: i32 = 124;

// struct bpf_sk_lookup: offsets.
const FAMILY: i16 = 8;
const PROTOCOL: i16 = 12;
const LOCAL_IP4: i16 = 40;
const LOCAL_IP6: i16 = 44;

/// Where the program finds the listeners.
const SLOT_V4: i32 = 0;
const SLOT_V6: i32 = 1;

/// Lets TCP connections to 127.0.0.0/8, but for Docker's resolver at 127.0.0.11, and ::1 of the namespace behind `namespace` come to
/// these listeners, which live in it. Holds as long as the answer.
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
    let map = SocketMap::new(2).map_err(failed("make a socket map"))?;
    for (slot, listener) in [(SLOT_V4, Some(v4)), (SLOT_V6, v6)] {
        let Some(listener) = listener else { continue };
        map.set(slot.cast_unsigned(), listener).map_err(failed("put a listener into a socket map"))?;
    }
    let loaded =
        Program::load(Attach::SocketLookup, &program(map.descriptor())).map_err(failed("load a program for socket lookup"))?;
    // The link holds the program, the program the map, the map the listeners.
    loaded.link(namespace).map_err(failed("attach a program to the network namespace"))
}

/// The program: which listener takes a connection, if it is one to localhost. Everything else is looked up as ever.
fn program(map: i32) -> Vec<Insn> {
    // Registers: 0 answers, 1 to 3 are arguments and 2 the scratch, 6 and 7 survive calls, 10 is the end of the stack.
    const CONTEXT: u8 = 6;
    const SOCKET: u8 = 7;
    const STACK: u8 = 10;
    let insn = Insn::new;
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd as _;

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
