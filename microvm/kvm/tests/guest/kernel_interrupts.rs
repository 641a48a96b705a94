//! The kernel's interrupt controller: sources, lines, eventfds, RTAS calls; stores that become events.

use std::os::fd::AsFd;
use std::sync::Arc;

use nix::sys::eventfd::{EfdFlags, EventFd};
use paperboat_hypervisor::{Exit, InterruptController, SourceState, Vcpu};
use vm_memory::{Bytes, GuestAddress};

use super::code::{self, Guest};
use super::{REPORT, answer, hypercall, later};

const MESSAGE: u32 = 0x1200;
const WIRE: u32 = 0x1100;
const PRIORITY: u8 = 5;
/// What H_XIRR says of a source when everything was let through before.
const OPEN: u64 = 0xff00_0000;

fn open(level: bool) -> SourceState {
    SourceState { server: 0, priority: PRIORITY, level, masked: false }
}

fn event() -> Arc<EventFd> {
    Arc::new(EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).unwrap())
}

fn listening() -> (Guest, Box<dyn Vcpu>, Arc<dyn InterruptController>) {
    let guest = Guest::with_controller(code::listen(), 1);
    let vcpu = guest.enter(0);
    let controller = guest.vm.interrupt_controller().unwrap();
    (guest, vcpu, controller)
}

/// The next interrupt that the guest takes.
fn taken(vcpu: &mut dyn Vcpu) -> u64 {
    let (nr, args) = hypercall(vcpu);
    assert_eq!(nr, REPORT);
    answer(vcpu, 0);
    args[0]
}

#[test]
fn a_line_and_an_event_wake_a_ceded_vcpu() {
    let (_guest, mut vcpu, controller) = listening();
    controller.set_source(MESSAGE, open(false)).unwrap();
    let line = Arc::clone(&controller);
    let thread = later(move || line.set_line(MESSAGE, true).unwrap());
    assert_eq!(taken(vcpu.as_mut()), OPEN | u64::from(MESSAGE));
    thread.join().unwrap();

    controller.set_source(MESSAGE + 1, open(false)).unwrap();
    let event = event();
    controller.bind_event(MESSAGE + 1, event.as_fd(), true).unwrap();
    for _ in 0..3 {
        let edge = Arc::clone(&event);
        let thread = later(move || assert_eq!(edge.write(1).unwrap(), 8));
        assert_eq!(taken(vcpu.as_mut()), OPEN | u64::from(MESSAGE + 1));
        thread.join().unwrap();
    }
    controller.bind_event(MESSAGE + 1, event.as_fd(), false).unwrap();
    event.write(1).unwrap();
    // KVM ignores a source that was never made.
    controller.set_line(MESSAGE + 0x100, true).unwrap();
    let kick = vcpu.handle();
    let thread = later(move || kick.kick());
    assert_eq!(vcpu.run().unwrap(), Exit::Kicked, "an event that is bound no longer is nobody's");
    thread.join().unwrap();
}

#[test]
fn a_level_comes_again_until_it_is_lowered() {
    let (_guest, mut vcpu, controller) = listening();
    controller.set_source(WIRE, open(true)).unwrap();
    controller.set_line(WIRE, true).unwrap();
    for _ in 0..3 {
        assert_eq!(taken(vcpu.as_mut()), OPEN | u64::from(WIRE));
    }
    // The report that is under way was the last.
    let (_, args) = hypercall(vcpu.as_mut());
    assert_eq!(args[0], OPEN | u64::from(WIRE));
    controller.set_line(WIRE, false).unwrap();
    answer(vcpu.as_mut(), 0);
    let kick = vcpu.handle();
    let thread = later(move || kick.kick());
    assert_eq!(vcpu.run().unwrap(), Exit::Kicked);
    thread.join().unwrap();
}

/// A guest that makes RTAS calls, with tokens of the test's own.
struct Caller {
    guest: Guest,
    vcpu: Box<dyn Vcpu>,
}

const GET_XIVE: u32 = 0x2012;
const SET_XIVE: u32 = 0x2013;
const INT_OFF: u32 = 0x2014;
const INT_ON: u32 = 0x2015;

impl Caller {
    /// The status of the call and what else it returns; `None`: it left the kernel.
    fn call<const RETURNS: usize>(&mut self, token: u32, args: &[u32]) -> Option<[i32; RETURNS]> {
        let words = [&[token, args.len() as u32, RETURNS as u32], args, &[0x7777; RETURNS]].concat();
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        let memory = self.guest.ram.memory();
        memory.write_slice(&bytes, GuestAddress(code::data(0))).unwrap();
        let (nr, args_in) = hypercall(self.vcpu.as_mut());
        if nr != REPORT {
            assert_eq!((nr, args_in[0]), (0xf000, code::data(0)));
            answer(self.vcpu.as_mut(), 0);
            assert_eq!(hypercall(self.vcpu.as_mut()).0, REPORT);
        }
        answer(self.vcpu.as_mut(), 0);
        if nr != REPORT {
            return None;
        }
        let at = code::data(0) + 4 * (3 + args.len() as u64);
        Some(std::array::from_fn(|index| {
            let word: [u8; 4] = self.guest.ram.memory().read_obj(GuestAddress(at + 4 * index as u64)).unwrap();
            i32::from_be_bytes(word)
        }))
    }
}

#[test]
fn the_kernel_serves_the_calls_it_was_told_and_survives_sources_that_were_never_made() {
    let guest = Guest::with_controller(code::rtas(), 1);
    let vcpu = guest.enter(0);
    let controller = guest.vm.interrupt_controller().unwrap();
    for (name, token) in [("ibm,get-xive", GET_XIVE), ("ibm,int-off", INT_OFF), ("ibm,int-on", INT_ON)] {
        controller.serve_rtas(name, token).unwrap();
    }
    assert!(controller.serve_rtas("power-off", 0x200b).is_err(), "KVM knows four calls");
    let mut caller = Caller { guest, vcpu };
    assert_eq!(caller.call::<1>(SET_XIVE, &[MESSAGE, 0, 5]), None, "nobody told the kernel");
    controller.set_source(MESSAGE, open(false)).unwrap();
    assert_eq!(caller.call(GET_XIVE, &[MESSAGE]), Some([0, 0, PRIORITY.into()]));
    assert_eq!(caller.call(INT_OFF, &[MESSAGE]), Some([0]));
    assert_eq!(caller.call(GET_XIVE, &[MESSAGE]), Some([0, 0, 0xff]));
    assert_eq!(caller.call(INT_ON, &[MESSAGE]), Some([0]));
    assert_eq!(caller.call(GET_XIVE, &[MESSAGE]), Some([0, 0, PRIORITY.into()]));
    for source in [0, 1, 2, MESSAGE + 1, MESSAGE + 0x1ff, 0x40_0000, u32::MAX] {
        for token in [INT_OFF, INT_ON] {
            let status = caller.call::<1>(token, &[source]).unwrap();
            assert!(matches!(status, [0 | -3]), "{token:#x} of {source:#x}: {status:?}");
        }
        let status = caller.call::<3>(GET_XIVE, &[source]).unwrap();
        assert!(matches!(status, [-3, _, _] | [0, _, 0xff]), "{source:#x}: {status:?}");
    }
    assert_eq!(caller.call(GET_XIVE, &[MESSAGE]), Some([0, 0, PRIORITY.into()]), "it lives");
}

#[test]
fn a_store_becomes_an_event() {
    let guest = Guest::with_controller(code::mapped_access(), 1);
    let events = guest.vm.store_events().unwrap();
    let event = event();
    events.bind_store(code::DEVICE + 8, event.as_fd(), true).unwrap();
    assert!(events.bind_store(code::DEVICE + 8, event.as_fd(), true).is_err(), "once is enough");
    let mut vcpu = guest.enter(0);
    assert_eq!(vcpu.run().unwrap(), Exit::MmioRead { addr: code::DEVICE + 16, len: 2 }, "the store before it did not come out");
    assert_eq!(event.read(), Ok(1));
    events.bind_store(code::DEVICE + 8, event.as_fd(), false).unwrap();
    assert!(events.bind_store(code::DEVICE + 8, event.as_fd(), false).is_err(), "it is bound no longer");
}
