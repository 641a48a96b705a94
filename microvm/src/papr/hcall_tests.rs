use super::*;
use crate::papr::status::{H_AUTHORITY, H_CLOSED, H_FUNCTION, H_PTEG_FULL, H_RESOURCE};
use crate::papr::testkit::{platform, platform_of};
use crate::papr::vty::UNIT_ADDRESS;
use crate::papr::{Platform, phb};
use crate::testing::{Random, ScriptedTable, ScriptedVm};
use paperboat_hypervisor::{HypercallArgs, ResizeError};
use std::sync::{Arc, Mutex};

fn call(platform: &Platform, nr: u64, args: &[u64]) -> HypercallReply {
    let mut full: HypercallArgs = [0; 9];
    full[..args.len()].copy_from_slice(args);
    platform.hypercall(0, nr, &full).reply
}

#[test]
fn tokens_and_names_are_unique() {
    for (index, row) in CALLS.iter().enumerate() {
        assert!(CALLS[..index].iter().all(|other| other.token != row.token && other.name != row.name), "{}", row.name);
        assert!(!row.section.is_empty());
    }
}

#[test]
fn the_terminal_packs_characters_from_the_left() {
    let (platform, console) = platform(1);
    let word = |text: &[u8; 8]| u64::from_be_bytes(*text);
    let reply = call(&platform, 0x58, &[UNIT_ADDRESS.into(), 11, word(b"hello, w"), word(b"orldXXXX")]);
    assert_eq!(reply.status, H_SUCCESS);
    assert_eq!(console.tail(0), b"hello, worl");
    assert_eq!(call(&platform, 0x58, &[UNIT_ADDRESS.into(), 17, 0, 0]).status, H_PARAMETER);
    assert_eq!(call(&platform, 0x58, &[1, 1, 0, 0]).status, H_PARAMETER);
    platform.vty.type_in(b"ab");
    let reply = call(&platform, 0x54, &[0]);
    assert_eq!((reply.status, reply.count), (H_SUCCESS, 3));
    assert_eq!(reply.outputs[..3], [2, 0x6162 << 48, 0]);
    assert_eq!(call(&platform, 0x54, &[5]).status, H_PARAMETER);
}

#[test]
fn interrupts_go_the_whole_way_through_the_calls() {
    let (platform, _) = platform(2);
    call(&platform, 0x68, &[0xff]);
    assert_eq!(call(&platform, 0x6c, &[0, 4]).status, H_SUCCESS);
    let reply = call(&platform, 0x70, &[0]);
    assert_eq!(reply.outputs[..2], [0xff00_0002, 4]);
    let xirr = call(&platform, 0x74, &[]).outputs[0];
    assert_eq!(xirr, 0xff00_0002);
    call(&platform, 0x6c, &[0, 0xff]);
    assert_eq!(call(&platform, 0x64, &[xirr]).status, H_SUCCESS);
    assert_eq!(call(&platform, 0x64, &[0xff00_0003]).status, H_PARAMETER, "no such source");
    assert_eq!(call(&platform, 0xfc, &[]).outputs[0], 0xff00_0000);
    assert_eq!(call(&platform, 0x6c, &[2, 4]).status, H_PARAMETER);
    assert_eq!(call(&platform, 0x6c, &[1 << 32, 4]).status, H_PARAMETER);
    assert_eq!(call(&platform, 0x70, &[2]).status, H_PARAMETER);
}

#[test]
fn tce_calls_check_number_window_count_and_list() {
    let (platform, _) = platform(1);
    let liobn = u64::from(phb::LIOBN);
    assert_eq!(call(&platform, 0x20, &[liobn, 0x2000, 0x5003]).status, H_SUCCESS);
    assert_eq!(call(&platform, 0x1c, &[liobn, 0x2fff]).outputs[0], 0x5003);
    assert_eq!(call(&platform, 0x138, &[liobn, 0, 0x7001, 512]).status, H_SUCCESS);
    assert_eq!(call(&platform, 0x138, &[liobn, 0, 0x7001, 513]).status, H_PARAMETER);
    assert_eq!(call(&platform, 0x1c, &[liobn, 0x1f_f000]).outputs[0], 0x7001);
    platform.ram.memory().write_slice(&[0, 0, 0, 0, 0, 0, 0xa0, 3, 0, 0, 0, 0, 0, 0, 0xb0, 3], GuestAddress(0x3000)).unwrap();
    assert_eq!(call(&platform, 0x13c, &[liobn, 0x1000, 0x3000, 2]).status, H_SUCCESS);
    assert_eq!(call(&platform, 0x1c, &[liobn, 0x2000]).outputs[0], 0xb003);
    for bad in [[liobn, 0x1000, 0x3008, 2], [liobn, 0x1000, u64::MAX - 0xfff, 2], [liobn, 0x1000, 0x3000, 513]] {
        assert_eq!(call(&platform, 0x13c, &bad).status, H_PARAMETER);
    }
    assert_eq!(call(&platform, 0x20, &[liobn + 1, 0, 0]).status, H_PARAMETER);
    assert_eq!(call(&platform, 0x20, &[liobn, phb::DMA_WINDOW_BYTES, 3]).status, H_PARAMETER);
}

#[test]
fn modes_are_checked_and_reach_the_backend() {
    let (platform, _) = platform(1);
    assert_eq!(call(&platform, 0x31c, &[3, 3, 0, 0]).status, H_SUCCESS);
    assert_eq!(call(&platform, 0x31c, &[1, 4, 0, 0]).status, H_SUCCESS);
    assert_eq!(platform.vm.interrupt_mode(), (3, true));
    for (args, status) in [
        ([1, 3, 0, 0], H_UNSUPPORTED_FLAG),
        ([4, 3, 0, 0], H_UNSUPPORTED_FLAG),
        ([2, 4, 0, 0], H_UNSUPPORTED_FLAG),
        ([0, 6, 0, 0], H_P2),
        ([0, 3, 1, 0], H_P3),
        ([0, 4, 0, 1], H_P4),
    ] {
        assert_eq!(call(&platform, 0x31c, &args).status, status, "{args:?}");
    }
    assert_eq!(platform.vm.interrupt_mode(), (3, true));
    assert_eq!(call(&platform, 0x31c, &[0, 4, 0, 0]).status, H_SUCCESS);
    assert_eq!(platform.vm.interrupt_mode(), (3, false));
}

#[test]
fn a_hash_guest_has_no_process_table() {
    let (platform, _) = platform(1);
    assert_eq!(call(&platform, 0x37c, &[0]).status, H_SUCCESS);
    assert_eq!(call(&platform, 0x37c, &[0x10]).status, H_SUCCESS);
    for flags in [0x4, 0x18, 0x1c, 0x2, 0x20, u64::MAX] {
        assert_eq!(call(&platform, 0x37c, &[flags]).status, H_PARAMETER, "{flags:#x}");
    }
}

#[test]
fn characteristics_are_the_backends() {
    let (platform, _) = platform(1);
    assert_eq!(call(&platform, 0x1c8, &[]).outputs[..2], [0, 0x01c0_0000_0000_0000]);
}

#[test]
fn system_resets_name_their_targets() {
    let (platform, _) = platform(3);
    let targets = |target: i64| {
        let mut args: HypercallArgs = [0; 9];
        args[0] = target as u64;
        platform.hypercall(1, 0x380, &args).action
    };
    assert_eq!(targets(-1), Action::SystemReset(vec![0, 1, 2]));
    assert_eq!(targets(-2), Action::SystemReset(vec![0, 2]));
    assert_eq!(targets(2), Action::SystemReset(vec![2]));
    assert_eq!(targets(3), Action::None);
    assert_eq!(targets(-3), Action::None);
}

#[test]
fn the_page_table_keeps_its_size() {
    let (platform, _) = platform(1);
    for nr in [0x36c, 0x370] {
        for args in [[0, 24], [0, 0], [1, 24], [0, 17]] {
            assert_eq!(call(&platform, nr, &args).status, H_AUTHORITY, "{nr:#x} {args:?}");
        }
    }
}

#[test]
fn the_page_table_becomes_smaller_where_the_backend_can() {
    const PREPARE: u64 = 0x36c;
    const COMMIT: u64 = 0x370;
    let refused = BackendError::Protocol { id: 0, reason: "a test" };
    let failures = [ResizeError::NoMemory { order: 20 }, ResizeError::Collision { order: 20 }, refused.into()];
    let table = Arc::new(ScriptedTable { order: Mutex::new(22), failures: Mutex::new(failures.into()) });
    let vm = ScriptedVm::new(Vec::new()).with_table(&table);
    let (platform, _) = platform_of(vm, 1);
    let ask = |nr, order| call(&platform, nr, &[0, order]).status;
    for nr in [PREPARE, COMMIT] {
        assert_eq!(call(&platform, nr, &[1, 20]).status, H_PARAMETER);
        for order in [1, 17, 47, 1 << 32 | 20, u64::MAX] {
            assert_eq!(ask(nr, order), H_PARAMETER, "{order}");
        }
    }
    for order in [22, 23, 46] {
        assert_eq!(ask(PREPARE, order), H_RESOURCE, "{order}");
    }
    assert_eq!((ask(COMMIT, 20), ask(COMMIT, 0)), (H_CLOSED, H_CLOSED), "nothing is prepared");
    assert_eq!((ask(PREPARE, 20), ask(PREPARE, 0), ask(COMMIT, 20)), (H_SUCCESS, H_SUCCESS, H_CLOSED), "it was taken back");
    assert_eq!((ask(PREPARE, 20), ask(PREPARE, 22), ask(COMMIT, 20)), (H_SUCCESS, H_RESOURCE, H_CLOSED), "and replaced");
    for status in [H_RESOURCE, H_PTEG_FULL, H_HARDWARE, H_SUCCESS] {
        assert_eq!((ask(PREPARE, 20), ask(COMMIT, 21), ask(COMMIT, 20)), (H_SUCCESS, H_CLOSED, status));
        assert_eq!(ask(COMMIT, 20), H_CLOSED, "a commit uses up what was prepared");
    }
    assert_eq!(*table.order.lock().unwrap(), 20);
    assert_eq!(ask(PREPARE, 20), H_RESOURCE);
}

#[test]
fn what_only_the_thread_can_do_is_asked_of_it() {
    let (platform, _) = platform(1);
    let action = |nr: u64, first: u64| platform.hypercall(0, nr, &[first, 0, 0, 0, 0, 0, 0, 0, 0]).action;
    assert_eq!(action(0x24, 0x1234), Action::SetSprg0(0x1234));
    assert_eq!(action(0x298, 0), Action::Join);
}

#[test]
fn cache_inhibited_accesses_stay_in_the_windows() {
    let (platform, _) = platform(1);
    let window = phb::WINDOWS[2].real_base;
    assert_eq!(call(&platform, 0x3c, &[4, window]).outputs[0], 0xffff_ffff, "nothing decodes there");
    for args in [[4, 0], [4, window + 2], [3, window], [u64::MAX, window], [8, u64::MAX - 7]] {
        assert_eq!(call(&platform, 0x3c, &args).status, H_PARAMETER, "{args:x?}");
        assert_eq!(call(&platform, 0x40, &[args[0], args[1], 7]).status, H_PARAMETER, "{args:x?}");
    }
}

#[test]
fn cached_accesses_stay_in_memory() {
    let (platform, _) = platform(1);
    assert_eq!(call(&platform, 0x48, &[8, 0x2000, 0x0102_0304_0506_0708]).status, H_SUCCESS);
    assert_eq!(platform.ram.memory().read_obj::<u8>(GuestAddress(0x2007)).unwrap(), 8);
    for (size, address, value) in
        [(1, 0x2003, 4), (2, 0x2002, 0x0304), (4, 0x2004, 0x0506_0708), (8, 0x2000, 0x0102_0304_0506_0708)]
    {
        assert_eq!(call(&platform, 0x44, &[size, address]).outputs[0], value, "{size} bytes");
        assert_eq!(call(&platform, 0x48, &[size, address, u64::MAX]).status, H_SUCCESS);
        assert_eq!(call(&platform, 0x44, &[size, address]).outputs[0], u64::MAX >> (64 - 8 * size));
        assert_eq!(call(&platform, 0x48, &[size, address, value]).status, H_SUCCESS);
    }
    for args in [[3, 0x2000], [4, 0x2002], [8, 1 << 20], [1, phb::WINDOWS[2].real_base], [0, 0]] {
        assert_eq!(call(&platform, 0x44, &args).status, H_PARAMETER, "{args:x?}");
        assert_eq!(call(&platform, 0x48, &[args[0], args[1], 7]).status, H_PARAMETER, "{args:x?}");
    }
    for nr in [0x4c, 0x50] {
        assert_eq!(call(&platform, nr, &[0x2000]).status, H_SUCCESS);
        assert_eq!(call(&platform, nr, &[1 << 20]).status, H_PARAMETER);
    }
}

#[test]
fn unknown_calls_are_refused_and_counted() {
    let (platform, _) = platform(1);
    for nr in [0, 0x30, 0x3fc, 0xf001, u64::MAX] {
        assert_eq!(call(&platform, nr, &[]).status, H_FUNCTION);
    }
    let counted = platform.counters(0).unwrap().by_name();
    assert_eq!(counted, [("unknown", 5)]);
}

/// Every hypercall with awkward arguments: a code comes back and nothing panics.
#[test]
fn random_arguments_get_codes() {
    for seed in 0..40 {
        let mut random = Random::new(seed);
        let (platform, _) = platform(2);
        for _ in 0..2000 {
            let row = &CALLS[random.below(CALLS.len() as u64) as usize];
            let mut args: HypercallArgs = std::array::from_fn(|_| random.awkward());
            if random.below(3) == 0 {
                args[0] = u64::from(phb::LIOBN);
            }
            let cpu = random.below(2) as u32;
            let outcome = platform.hypercall(cpu, row.token, &args);
            let known = [H_SUCCESS, H_BUSY, H_PARAMETER, H_AUTHORITY, H_P2, H_P3, H_P4, H_UNSUPPORTED_FLAG];
            assert!(known.contains(&outcome.reply.status), "seed {seed}: {} = {}", row.name, outcome.reply.status);
            assert!(outcome.reply.count <= 9);
        }
    }
}
