//! Random words in random states of registers, MSR, SLB and page table: whatever a guest does, the CPU neither panics nor hangs.
//!
//! `PAPERBOAT_SEED` and `PAPERBOAT_FUZZ_ROUNDS` choose the sequence and its length.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use paperboat_difftest::rng::{Flavour, Rng};
use paperboat_hypervisor::{ClockMode, EntryState, Exit, GuestRam, HypercallReply, InterruptMode, Vcpu, Vm, VmConfig};
use paperboat_softcpu::SoftVm;
use paperboat_softcpu::table::decode::all_ops;
use paperboat_softcpu::table::operand::{fields, overflow_bit, record_bit};
use paperboat_softcpu::table::{Op, Privilege};
use vm_memory::{Bytes, GuestAddress};

const RAM_BYTES: u64 = 4 << 20;
/// Instructions per round.
const BUDGET: u64 = 20_000;
/// Exits per round; a guest that leaves more often has shown what it does.
const MAX_EXITS: usize = 2000;
/// A round takes milliseconds.
const HANG: Duration = Duration::from_secs(20);

fn from_environment(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(otherwise)
}

fn random_word(rng: &mut Rng, ops: &[Op]) -> u32 {
    const SC_1: u32 = 0x4400_0022;
    match rng.below(16) {
        0 => rng.bits() as u32,
        1 => SC_1,
        2 => {
            // li r3: numbers of hypercalls served inside, and others.
            let nr = rng.pick(&[4u32, 8, 0xc, 0x10, 0x14, 0x18, 0x2c, 0x124, 0xdc, 0xe0, 0xe4, 0xe8, 0x300, 0x31c, 0x54]);
            14 << 26 | 3 << 21 | nr
        }
        // A short branch, so that loops come up.
        3 => 16 << 26 | rng.bits() as u32 & 0x03ff_00fc,
        _ => {
            let row = rng.pick(ops).row();
            let mut word = row.encoding.value;
            for field in fields(row) {
                word = field.set(word, rng.bits() as u32);
            }
            for bit in record_bit(row).into_iter().chain(overflow_bit(row)) {
                word |= bit & rng.bits() as u32;
            }
            word
        }
    }
}

fn some_address(rng: &mut Rng) -> u64 {
    match rng.below(4) {
        0 => rng.below(RAM_BYTES),
        1 => 0xc000_0000_0000_0000 | rng.below(RAM_BYTES),
        2 => RAM_BYTES.wrapping_sub(8).wrapping_add(rng.below(16)),
        _ => rng.integer(),
    }
}

/// Segments at 0 and at 0xc…0 with the page sizes in turn, and pages of both in the table. VSID v and page p meet in group v ^ p.
fn map(rng: &mut Rng, vm_cpu: &mut paperboat_softcpu::exec::Cpu) {
    for (index, base) in [(0u64, 0u64), (1, 0xc000_0000_0000_0000)] {
        let (size, shift) = rng.pick(&[(0u64, 12u32), (0x110, 16), (0x100, 24)]);
        let vsid = index + rng.below(2);
        let _ = vm_cpu.storage.slb.slbmte(vsid << 12 | size | rng.bits() & 0xe80 & rng.bits(), base | 0x0800_0000 | index);
        for page in 0..RAM_BYTES >> shift.min(20) {
            let (large, lp) = match shift {
                12 => (0, 0),
                16 => (4, 0x1000),
                _ => (4, 0),
            };
            let v = vsid << 12 | (page << shift >> 16) & !0x7f | large;
            let frame = if rng.one_in(8) { 1 << 40 } else { rng.below(RAM_BYTES) };
            let r = frame >> shift << shift | lp | 0x10 | rng.bits() & 0xe07 & rng.bits() & rng.bits();
            let group = (vsid ^ page) % (vm_cpu.shared.hpt.entry_count() / 8);
            let _ = vm_cpu.shared.hpt.h_enter(0, group * 8, v, r, RAM_BYTES);
        }
    }
}

fn round(rng: &mut Rng, ops: &[Op]) -> (u64, Exit) {
    let ram = GuestRam::new(RAM_BYTES).expect("guest memory");
    let words: Vec<u8> = (0..0x1_8000 / 4).flat_map(|_| random_word(rng, ops).to_be_bytes()).collect();
    ram.memory().write_slice(&words, GuestAddress(0)).expect("inside");
    let clock = ClockMode::Deterministic;
    let config = VmConfig {
        ram,
        vcpu_count: 1,
        hpt_order: 18,
        clock,
        budget_instructions: Some(BUDGET),
        processor: Default::default(),
        threads_per_core: 1,
        presentation: Default::default(),
    };
    let vm = SoftVm::new(config).expect("a machine");
    let little_endian = Some(rng.one_in(4));
    vm.set_interrupt_mode(InterruptMode { ail: Some(rng.pick(&[0, 0, 2, 3])), little_endian }).expect("a mode");
    let mut vcpu = vm.create_soft_vcpu(0).expect("a vCPU");
    // Translation, privilege, facilities, exception modes, byte order: any of them; 64-bit mostly.
    let msr = rng.bits() & 0x0280_ff71 | if rng.one_in(8) { 0 } else { 1 << 63 };
    vcpu.enter(EntryState { pc: rng.below(0x1_0000) & !3, msr, r3: 0, r4: 0 });
    let cpu = vcpu.cpu();
    for register in &mut cpu.st.gpr {
        *register = some_address(rng);
    }
    for register in &mut cpu.st.vsr {
        let flavour = rng.pick(&[Flavour::Integer, Flavour::Double, Flavour::Single, Flavour::Quad, Flavour::Decimal]);
        *register = rng.vector(flavour);
    }
    cpu.st.lr = some_address(rng);
    cpu.st.ctr = rng.pick(&[3, rng.clone().bits()]);
    cpu.st.fpscr = rng.bits() & 0xff;
    map(rng, cpu);
    let mut last = Exit::Kicked;
    for _ in 0..MAX_EXITS {
        last = vcpu.run().expect("every exit was completed");
        match &last {
            Exit::Hypercall { .. } => {
                let status = rng.pick(&[0, -2, -4]);
                vcpu.complete_hypercall(HypercallReply::with(status, &[rng.bits()])).expect("a pending hypercall");
            }
            Exit::MmioRead { .. } => vcpu.complete_mmio_read(rng.bits().to_le_bytes()).expect("a pending load"),
            Exit::MmioWrite { .. } | Exit::Kicked => {}
            Exit::Budget | Exit::Failed { .. } => break,
        }
    }
    // A dump works in every state.
    assert!(!vcpu.dump().is_empty());
    (vcpu.handle().stats().instructions.unwrap_or(0), last)
}

#[test]
fn no_guest_panics_or_hangs_the_cpu() {
    let seed = from_environment("PAPERBOAT_SEED", 1);
    let rounds = from_environment("PAPERBOAT_FUZZ_ROUNDS", 150);
    println!("PAPERBOAT_SEED={seed} PAPERBOAT_FUZZ_ROUNDS={rounds}");
    // Privileged rows come up as often as the others, although they are few.
    let mut ops: Vec<Op> = all_ops().collect();
    let privileged: Vec<Op> = ops.iter().copied().filter(|op| op.row().privilege != Privilege::Problem).collect();
    while ops.len() < 1600 {
        ops.extend(&privileged);
    }
    let (beat, pulse) = channel();
    let worker = std::thread::spawn(move || {
        for number in 0..rounds {
            let mut rng = Rng::new(seed.wrapping_add(number));
            // The watcher may be gone only because it has failed already.
            let _ = beat.send((number, round(&mut rng, &ops)));
        }
    });
    let (mut done, mut instructions) = (0, 0);
    loop {
        match pulse.recv_timeout(HANG) {
            Ok((_, (count, exit))) => {
                done += 1;
                instructions += count;
                if let Exit::Failed { reason } = exit {
                    panic!("seed {}: the CPU gave up: {reason}", seed.wrapping_add(done - 1));
                }
            }
            Err(RecvTimeoutError::Timeout) => panic!("round with seed {} hangs", seed.wrapping_add(done)),
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    worker.join().unwrap_or_else(|_| panic!("round with seed {} panicked", seed.wrapping_add(done)));
    println!("{instructions} instructions in {done} rounds");
    assert!(instructions > rounds * 100, "{instructions} instructions in {done} rounds: the guests do too little");
}
