//! Tests of the translation rules, one each.

use super::*;
use paperboat_hypervisor::GuestRam;
use vm_memory::{Bytes, GuestAddress};

const RAM: u64 = 64 << 20;
const H_EXACT: u64 = 1 << (63 - 24);
const SEGMENT_64K: u64 = 0x110;
const SEGMENT_16M: u64 = 0x100;
const KERNEL: u64 = 0xc000_0000_0000_0000;

/// One vCPU's view: a segment at `KERNEL` (1T, VSID 5) unless a test adds others.
struct World {
    slb: Slb,
    hpt: Hpt,
    context: TranslationContext,
}

impl World {
    fn new(segment_bits: u64) -> Self {
        let mut slb = Slb::default();
        slb.slbmte(1 << 62 | 5 << 24 | segment_bits, KERNEL | 0x0800_0000);
        let context = TranslationContext { relocate: true, problem_state: false, amr: 0, iamr: 0, ram_bytes: RAM };
        Self { slb, hpt: Hpt::new(18).unwrap(), context }
    }

    /// Enters a mapping of `ea` in its primary group as a guest does; returns its index.
    fn map(&self, ea: u64, r: u64) -> u64 {
        let (_, segment) = self.slb.lookup(ea).expect("a segment");
        let probe = translate::Probe::new(segment, ea).expect("a known page size");
        let large = if segment.vsid_word & 0x100 != 0 || r & 0xf000 == 0x7000 { 4 } else { 0 };
        let reply = self.hpt.h_enter(0, self.hpt.group(probe.hash), probe.v | large, r, RAM).reply;
        assert_eq!(reply.status, 0);
        reply.outputs[0]
    }

    fn go(&self, ea: u64, access: Access) -> Result<Translation, Fault> {
        translate(&self.context, &self.slb, &self.hpt, ea, access)
    }
}

fn dsi(dsisr: u32, ea: u64) -> Result<Translation, Fault> {
    Err(Fault::DataStorage { dsisr, ea })
}

fn isi(srr1: u64) -> Result<Translation, Fault> {
    Err(Fault::InstructionStorage { srr1 })
}

#[test]
fn no_segment_is_a_segment_interrupt() {
    let world = World::new(SEGMENT_64K);
    assert_eq!(world.go(0x1234, Access::Load), Err(Fault::DataSegment { ea: 0x1234 }));
    assert_eq!(world.go(0x1234, Access::Store), Err(Fault::DataSegment { ea: 0x1234 }));
    assert_eq!(world.go(0x1234, Access::Fetch), Err(Fault::InstructionSegment));
}

#[test]
fn no_entry_is_a_storage_interrupt_with_bit_33() {
    let world = World::new(SEGMENT_64K);
    assert_eq!(world.go(KERNEL, Access::Load), dsi(0x4000_0000, KERNEL));
    assert_eq!(world.go(KERNEL, Access::Store), dsi(0x4200_0000, KERNEL));
    assert_eq!(world.go(KERNEL, Access::Fetch), isi(0x4000_0000));
}

#[test]
fn a_64k_page_translates_and_keeps_r_and_c() {
    let world = World::new(SEGMENT_64K);
    let ptex = world.map(KERNEL + 0x3_0000, 0x21_1000 | 0x10);
    let to = world.go(KERNEL + 0x3_4567, Access::Load).unwrap();
    assert_eq!((to.ra, to.page_shift, to.ptex), (0x21_4567, 16, Some(ptex)));
    assert!(to.readable && to.executable && !to.writable, "the first store has to set C");
    assert_eq!(world.hpt.entry(ptex).r & 0x180, 0x100);
    assert!(world.go(KERNEL + 0x3_4567, Access::Store).unwrap().writable);
    assert_eq!(world.hpt.entry(ptex).r & 0x180, 0x180);
    assert!(world.go(KERNEL + 0x3_4567, Access::Load).unwrap().writable, "C is set now");
}

#[test]
fn a_refused_access_records_nothing() {
    let world = World::new(SEGMENT_64K);
    let ptex = world.map(KERNEL, 0x1000 | 0x10 | 3);
    assert_eq!(world.go(KERNEL, Access::Store), dsi(0x0a00_0000, KERNEL));
    assert_eq!(world.hpt.entry(ptex).r & 0x180, 0);
}

#[test]
fn protection_follows_key_and_pp() {
    // (pp0 pp, key) → may load, may store; ISA 3.0B III 5.7.10.1.
    let table = [
        (0b000, false, true, true),
        (0b001, false, true, true),
        (0b010, false, true, true),
        (0b011, false, true, false),
        (0b110, false, true, false),
        (0b000, true, false, false),
        (0b001, true, true, false),
        (0b010, true, true, true),
        (0b011, true, true, false),
        (0b110, true, false, false),
    ];
    for (pp, key, load, store) in table {
        for problem_state in [false, true] {
            let segment_key = match (key, problem_state) {
                (false, _) => 0,
                (true, false) => 0x800,
                (true, true) => 0x400,
            };
            let mut world = World::new(SEGMENT_64K | segment_key);
            world.context.problem_state = problem_state;
            world.map(KERNEL, 0x1000 | 0x10 | (pp & 4) << 61 | pp & 3);
            let name = format!("pp {pp:03b} key {key} problem {problem_state}");
            let loaded = world.go(KERNEL, Access::Load);
            assert_eq!(loaded.is_ok(), load, "{name}");
            if !load {
                assert_eq!(loaded, dsi(0x0800_0000, KERNEL), "{name}");
                assert_eq!(world.go(KERNEL, Access::Fetch), isi(0x0800_0000), "{name}");
            }
            let stored = world.go(KERNEL, Access::Store);
            assert_eq!(stored.is_ok(), store, "{name}");
            if !store {
                assert_eq!(stored, dsi(0x0a00_0000, KERNEL), "{name}");
            }
        }
    }
}

#[test]
fn the_key_of_the_other_state_does_not_count() {
    let mut world = World::new(SEGMENT_64K | 0x400);
    world.map(KERNEL, 0x1000 | 0x10);
    assert!(world.go(KERNEL, Access::Load).is_ok(), "Kp does not bind the kernel");
    world.context.problem_state = true;
    assert_eq!(world.go(KERNEL, Access::Load), dsi(0x0800_0000, KERNEL));
}

#[test]
fn no_execute_comes_from_segment_page_and_guard() {
    let world = World::new(SEGMENT_64K | 0x200);
    world.map(KERNEL, 0x1000 | 0x10);
    assert_eq!(world.go(KERNEL, Access::Fetch), isi(0x1000_0000));
    assert!(!world.go(KERNEL, Access::Load).unwrap().executable);
    for bits in [0x4, 0x8] {
        let world = World::new(SEGMENT_64K);
        world.map(KERNEL, 0x1000 | 0x10 | bits);
        assert_eq!(world.go(KERNEL, Access::Fetch), isi(0x1000_0000));
        assert!(world.go(KERNEL, Access::Load).is_ok());
    }
}

#[test]
fn class_keys_bind_every_state() {
    // Key 0b01010: high bits 01 in r bits 2 and 3, low bits 010 in 52 to 54.
    let r = 0x1000 | 0x10 | 1 << 60 | 0b010 << 9;
    let mut world = World::new(SEGMENT_64K);
    world.map(KERNEL, r);
    world.context.amr = 0b10 << (62 - 2 * 10);
    assert!(world.go(KERNEL, Access::Load).is_ok());
    assert_eq!(world.go(KERNEL, Access::Store), dsi(0x0220_0000, KERNEL));
    world.context.amr = 0b01 << (62 - 2 * 10);
    assert_eq!(world.go(KERNEL, Access::Load), dsi(0x0020_0000, KERNEL));
    assert!(world.go(KERNEL, Access::Fetch).is_ok(), "AMR does not bind fetches");
    world.context = TranslationContext { amr: 0, iamr: 0b01 << (62 - 2 * 10), ..world.context };
    assert_eq!(world.go(KERNEL, Access::Fetch), isi(0x0020_0000));
    assert!(!world.go(KERNEL, Access::Load).unwrap().executable);
    world.context.iamr = !(0b11 << (62 - 2 * 10));
    world.context.amr = !(0b11 << (62 - 2 * 10));
    assert!(world.go(KERNEL, Access::Fetch).is_ok(), "other keys do not matter");
    assert!(world.go(KERNEL, Access::Store).is_ok());
}

#[test]
fn the_secondary_group_is_searched_with_h() {
    let world = World::new(SEGMENT_64K);
    let (_, segment) = world.slb.lookup(KERNEL).unwrap();
    let probe = translate::Probe::new(segment, KERNEL).unwrap();
    let primary = world.hpt.group(probe.hash);
    let secondary = world.hpt.group(!probe.hash);
    assert_ne!(primary, secondary);
    // H in the primary group does not match, nor does its absence in the secondary group.
    world.hpt.h_enter(0, primary, probe.v | 2 | 4, 0x1000 | 0x10, RAM);
    world.hpt.h_enter(0, secondary, probe.v | 4, 0x1000 | 0x10, RAM);
    assert_eq!(world.go(KERNEL, Access::Load), dsi(0x4000_0000, KERNEL));
    let entered = world.hpt.h_enter(0, secondary, probe.v | 2 | 4, 0x5_1000 | 0x10, RAM).reply.outputs[0];
    let to = world.go(KERNEL, Access::Load).unwrap();
    assert_eq!((to.ra, to.ptex), (0x5_0000, Some(entered)));
}

#[test]
fn page_sizes_mix_within_a_segment() {
    let world = World::new(0);
    world.map(KERNEL, 0x2000 | 0x10);
    assert_eq!(world.go(KERNEL + 0x123, Access::Load).unwrap().page_shift, 12);
    // A 64K page in a segment of 4K base pages: L with LP = 0111, one entry per 4K page that is used.
    world.map(KERNEL + 0x1_5000, 0x10_7000 | 0x10);
    let to = world.go(KERNEL + 0x1_5abc, Access::Load).unwrap();
    assert_eq!((to.ra, to.page_shift), (0x10_5abc, 16));
    assert_eq!(world.go(KERNEL + 0x1_6abc, Access::Load), dsi(0x4000_0000, KERNEL + 0x1_6abc));

    let world = World::new(SEGMENT_64K);
    world.map(KERNEL + 0x10_0000, 0x100_8000 | 0x10);
    let to = world.go(KERNEL + 0x10_1234, Access::Load).unwrap();
    assert_eq!((to.ra, to.page_shift), (0x110_1234, 24));

    let world = World::new(SEGMENT_16M);
    world.map(KERNEL, 0x200_0000 | 0x10);
    let to = world.go(KERNEL + 0xab_cdef, Access::Load).unwrap();
    assert_eq!((to.ra, to.page_shift), (0x2ab_cdef, 24));
}

#[test]
fn an_entry_of_another_base_page_size_does_not_match() {
    let mut world = World::new(SEGMENT_16M);
    world.map(KERNEL, 0x100_0000 | 0x10);
    assert!(world.go(KERNEL, Access::Load).is_ok());
    world.slb.slbmte(1 << 62 | 5 << 24 | SEGMENT_64K, KERNEL | 0x0800_0000);
    assert_eq!(world.go(KERNEL, Access::Load), dsi(0x4000_0000, KERNEL));
}

#[test]
fn both_segment_sizes_have_their_own_hash_and_b() {
    let mut world = World::new(SEGMENT_64K);
    world.slb.slbmte(0x1234_5678 << 12 | SEGMENT_64K, 0x1000_0000 | 0x0800_0000 | 1);
    world.map(0x1000_0000, 0x3_1000 | 0x10);
    assert_eq!(world.go(0x1000_0042, Access::Load).unwrap().ra, 0x3_0042);
    assert_eq!(world.go(0x2000_0042, Access::Load), Err(Fault::DataSegment { ea: 0x2000_0042 }));
    // The 1T segment covers ESIDs beside its own.
    world.map(KERNEL + 0xff_0000_0000, 0x4_1000 | 0x10);
    assert_eq!(world.go(KERNEL + 0xff_0000_0010, Access::Load).unwrap().ra, 0x4_0010);
}

#[test]
fn ram_is_never_cache_inhibited_and_devices_lie_beyond_it() {
    let world = World::new(SEGMENT_64K);
    world.map(KERNEL, 0x1000 | 0x2a);
    assert!(!world.go(KERNEL, Access::Load).unwrap().cache_inhibited);
    world.map(KERNEL + 0x1_0000, 0x100_0000_1000 | 0x2a);
    let to = world.go(KERNEL + 0x1_0004, Access::Store).unwrap();
    assert!(to.cache_inhibited);
    assert_eq!(to.ra, 0x100_0000_0004);
}

#[test]
fn real_mode_reaches_ram_only() {
    let mut world = World::new(SEGMENT_64K);
    world.context.relocate = false;
    let to = world.go(0xf000_0000_0012_3456, Access::Store).unwrap();
    assert_eq!((to.ra, to.ptex), (0x12_3456, None));
    assert_eq!(world.go(RAM, Access::Load), dsi(0x4000_0000, RAM));
    assert_eq!(world.go(RAM, Access::Fetch), isi(0x4000_0000));
}

#[test]
fn slb_changes_name_what_becomes_stale() {
    let mut slb = Slb::default();
    let segment = |base, shift| SlbInvalidation::Segment { base, shift };
    assert_eq!(slb.slbmte(7 << 12 | 0x80, 0x1000_0000 | 0x0800_0000 | 3), SlbInvalidation::None);
    // Another segment takes the place: the old translations stay true.
    assert_eq!(slb.slbmte(8 << 12, 0x2000_0000 | 0x0800_0000 | 3), SlbInvalidation::None);
    // The same segment changes its VSID.
    assert_eq!(slb.slbmte(9 << 12, 0x2000_0000 | 0x0800_0000 | 3), segment(0x2000_0000, 28));
    assert_eq!(slb.slbmte(0, 3), segment(0x2000_0000, 28));
    // slbie names the range whether or not an entry is left, by its own B.
    assert_eq!(slb.slbie(0x2000_0000), segment(0x2000_0000, 28));
    assert_eq!(slb.slbie(KERNEL | 1 << 25 | 0x2000_0000), segment(KERNEL, 40));
    assert_eq!(slb.slbie(2 << 25), SlbInvalidation::None);
}

#[test]
fn slbia_spares_by_hint() {
    let fill = || {
        let mut slb = Slb::default();
        for index in 0..32 {
            slb.slbmte(index << 12 | if index % 2 == 1 { 0x80 } else { 0 }, index << 28 | 0x0800_0000 | index);
        }
        slb
    };
    let left = |ih| {
        let mut slb = fill();
        let stale = slb.slbia(ih);
        (slb.entries().iter().filter(|entry| entry.is_valid()).count(), slb.entries()[0].is_valid(), stale)
    };
    assert_eq!(left(0), (1, true, SlbInvalidation::All));
    assert_eq!(left(1), (1, true, SlbInvalidation::Class1));
    assert_eq!(left(3), (16, true, SlbInvalidation::Class1));
    assert_eq!(left(4), (0, false, SlbInvalidation::All));
    assert_eq!(left(6), (1, true, SlbInvalidation::All));
    assert_eq!(left(7), (32, true, SlbInvalidation::All));
}

#[test]
fn slbie_needs_the_right_segment_size() {
    let mut slb = Slb::default();
    slb.slbmte(1 << 62 | 5 << 24, KERNEL | 0x0800_0000);
    let _ = slb.slbie(KERNEL);
    assert!(slb.lookup(KERNEL).is_some());
    let _ = slb.slbie(KERNEL | 1 << 25);
    assert!(slb.lookup(KERNEL).is_none());
}

#[test]
fn enter_refuses_what_cannot_be() {
    let hpt = Hpt::new(18).unwrap();
    let status = |ptex, v, r| hpt.h_enter(0, ptex, v, r, RAM).reply.status;
    assert_eq!(status(hpt.entry_count(), 1, 0x10), -4, "no such group");
    assert_eq!(status(u64::MAX, 1, 0x10), -4);
    assert_eq!(status(0, 5, 0x5000 | 0x10), -4, "no page size has LP = 0101");
    assert_eq!(status(0, 5, 0x3f_8000 | 0x10), -4, "misplaced LP bits");
    // A 16M page that hangs over the end of RAM.
    assert_eq!(hpt.h_enter(0, 0, 5, 0x300_0000 | 0x10, (48 << 20) + 4096).reply.status, -4);
    assert_eq!(hpt.h_enter(0, 0, 5, 0x300_0000 | 0x2a, 48 << 20).reply.status, 0, "beyond RAM is a device");
}

#[test]
fn a_full_group_says_so_and_exact_means_exact() {
    let hpt = Hpt::new(18).unwrap();
    for slot in 0..8 {
        let reply = hpt.h_enter(0, 16, 1 | slot << 7, 0x10, RAM).reply;
        assert_eq!((reply.status, reply.outputs[0]), (0, 16 + slot));
    }
    assert_eq!(hpt.h_enter(0, 16, 1, 0x10, RAM).reply.status, -6);
    assert_eq!(hpt.h_enter(H_EXACT, 19, 1, 0x10, RAM).reply.status, -6);
    assert_eq!(hpt.h_enter(H_EXACT, 27, 1, 0x10, RAM).reply.outputs[0], 27);
    assert!(!hpt.entry(24).is_valid());
}

#[test]
fn remove_returns_the_entry_with_r_and_c_and_reports_it() {
    let world = World::new(SEGMENT_64K);
    let ptex = world.map(KERNEL, 0x1000 | 0x10);
    world.go(KERNEL, Access::Store).unwrap();
    let v = world.hpt.entry(ptex).v;
    assert_eq!(world.hpt.h_remove(1 << 31, ptex, v | 0x1000_0000_0000).reply.status, -7);
    assert_eq!(world.hpt.h_remove(1 << 30, ptex, v).reply.status, -7);
    let removed = world.hpt.h_remove(1 << 31, ptex, v & !0x7f);
    assert_eq!(removed.reply.outputs[..2], [v, 0x1000 | 0x10 | 0x180]);
    assert_eq!(removed.dropped.as_slice(), [ptex]);
    assert_eq!(world.hpt.h_remove(0, ptex, 0).reply.status, -7);
    assert_eq!(world.go(KERNEL, Access::Load), dsi(0x4000_0000, KERNEL));
}

#[test]
fn page_init_zeroes_and_copies_in_ram_only() {
    let ram = GuestRam::new(1 << 20).unwrap();
    let hpt = Hpt::new(18).unwrap();
    let call = |flags, to, from| {
        let args = [flags, to, from, 0, 0, 0, 0, 0, 0];
        hpt.hypercall(0x2c, &args, &ram).map(|reply| reply.reply.status)
    };
    ram.memory().write_slice(&[7; 8192], GuestAddress(0x4000)).unwrap();
    assert_eq!(call(0x4000, 0x1000, 0x4000), Some(0));
    assert_eq!(call(0x8000, 0x4000, 0), Some(0));
    let byte = |address| ram.memory().read_obj::<u8>(GuestAddress(address)).unwrap();
    assert_eq!([byte(0x1fff), byte(0x4000), byte(0x4fff), byte(0x5000)], [7, 0, 0, 7]);
    assert_eq!(call(0x8000, 0x100, 0), Some(-4), "unaligned");
    assert_eq!(call(0x8000, 1 << 20, 0), Some(-4), "beyond RAM");
    assert_eq!(call(0x4000, 0, !0xfff), Some(-4), "beyond RAM");
    assert_eq!(call(1, 0, 0), Some(-4), "unknown flag");
}

#[test]
fn other_hypercalls_are_not_served() {
    let ram = GuestRam::new(4096).unwrap();
    let hpt = Hpt::new(18).unwrap();
    for nr in [0, 1, 0x58, 0xe0, 0x11c, 0xf000, u64::MAX] {
        assert!(!serves(nr));
        assert!(hpt.hypercall(nr, &[0; 9], &ram).is_none());
    }
}

#[test]
fn the_3_0_format_moves_b() {
    let entry = Hpte { v: 1 << 62 | 0x0012_3456_789a_bc85, r: 0x1190 };
    assert_eq!(entry.to_isa3(), (0x0002_3456_789a_bc85, 1 << 58 | 0x1190));
}

#[test]
fn a_store_racing_a_removal_is_never_lost() {
    // One thread stores through a page, another removes and re-enters it: whenever a store got through, the removal
    // that ended that entry must have seen C.
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    let world = World::new(SEGMENT_64K);
    let (stop, stores) = (AtomicBool::new(false), AtomicU64::new(0));
    let changed = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                if world.go(KERNEL, Access::Store).is_ok() {
                    stores.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        let mut seen = 0;
        for _ in 0..20_000 {
            let ptex = world.map(KERNEL, 0x1000 | 0x10);
            let before = stores.load(Ordering::SeqCst);
            std::hint::spin_loop();
            let after = stores.load(Ordering::SeqCst);
            let removed = world.hpt.h_remove(0, ptex, 0).reply;
            assert_eq!(removed.status, 0);
            let c = removed.outputs[1] & 0x80 != 0;
            // A store counted between the two reads went through this entry, but for one begun before.
            assert!(c || after <= before + 1, "{} stores, no C", after - before);
            seen += u64::from(c);
        }
        stop.store(true, Ordering::Relaxed);
        seen
    });
    println!("{changed} removals saw C, {} stores", stores.load(Ordering::SeqCst));
}

#[test]
fn the_explanation_names_every_step() {
    let world = World::new(SEGMENT_64K);
    world.map(KERNEL + 0x3_0000, 0x21_1000 | 0x10);
    let text = explain(&world.context, &world.slb, &world.hpt, KERNEL + 0x3_4567);
    for part in ["VSID 0x5", "primary", "slot 0", "page of 64 KiB", "RA    0x0000000000214567"] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    assert!(explain(&world.context, &world.slb, &world.hpt, 0).contains("segment interrupt"));
    let missing = explain(&world.context, &world.slb, &world.hpt, KERNEL);
    assert!(missing.contains("secondary group") && missing.contains("no entry matches"), "{missing}");
}
