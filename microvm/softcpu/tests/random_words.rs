//! Random words in random states: nothing a guest executes can panic the CPU or hold it beyond its budget.
//!
//! `PAPERBOAT_SEED` and `PAPERBOAT_ROUNDS` change the run; a failure prints the seed of its round.

use std::time::{Duration, Instant};

use paperboat_hypervisor::{ClockMode, Exit, GuestRam, HypercallReply, InterruptMode, Vcpu, Vm, VmConfig};
use paperboat_softcpu::SoftVm;
use paperboat_softcpu::table::decode::all_ops;
use vm_memory::{Bytes, GuestAddress};

const MEMORY_BYTES: u64 = 1 << 20;
const BUDGET: u64 = 20_000;
const DEFAULT_ROUNDS: u64 = 60;
/// Exits after which a round ends: random code makes hypercalls and device accesses without end.
const MAX_EXITS: usize = 2_000;

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number that is often at an edge.
    fn edgy(&mut self) -> u64 {
        match self.next() % 6 {
            0 => [0, 1, u64::MAX, 1 << 63, i64::MAX as u64, 0x8000_0000, 0x7fff_ffff][self.next() as usize % 7],
            1 => MEMORY_BYTES.wrapping_sub(self.next() % 32),
            2 => self.next() % MEMORY_BYTES,
            3 => 0xc000_0000_0000_0000 | (self.next() % MEMORY_BYTES),
            4 => self.next() % 256,
            _ => self.next(),
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

fn round(seed: u64) {
    let mut random = Random(seed);
    let ram = GuestRam::new(MEMORY_BYTES).unwrap();
    let config = VmConfig {
        ram: ram.clone(),
        vcpu_count: 1,
        hpt_order: 18,
        clock: ClockMode::Deterministic,
        budget_instructions: Some(BUDGET),
        processor: Default::default(),
        threads_per_core: 1,
        presentation: Default::default(),
    };
    let vm = SoftVm::new(config).unwrap();
    let little_endian = random.next() & 1 == 0;
    let rows: Vec<_> = all_ops().map(|op| op.row().encoding).collect();
    let words: Vec<u8> = (0..MEMORY_BYTES / 4)
        .flat_map(|_| {
            let raw = random.next() as u32;
            // Mostly instructions of the table with random fields, some plain noise.
            let encoding = rows[random.next() as usize % rows.len()];
            let word = if raw.is_multiple_of(16) { raw } else { (raw & !encoding.mask) | encoding.value };
            if little_endian { word.to_le_bytes() } else { word.to_be_bytes() }
        })
        .collect();
    ram.memory().write_slice(&words, GuestAddress(0)).unwrap();
    vm.set_interrupt_mode(InterruptMode { ail: Some([0, 2, 3][random.next() as usize % 3]), little_endian: Some(little_endian) })
        .unwrap();
    let mut vcpu = vm.create_soft_vcpu(0).unwrap();
    let mut regs = vcpu.regs();
    regs.gpr = std::array::from_fn(|_| random.edgy());
    regs.pc = (random.next() % MEMORY_BYTES) & !3;
    regs.msr = (random.next() & !0x30) | 0x0280_2000 | (1 << 63) | u64::from(little_endian);
    // In real mode as a rule: with no segment, problem state and relocation end in interrupts at once.
    if !random.next().is_multiple_of(4) {
        regs.msr &= !0x4000;
    }
    (regs.cr, regs.xer, regs.lr, regs.ctr) = (random.next() as u32, random.next(), random.edgy(), random.edgy());
    regs.sprg = std::array::from_fn(|_| random.edgy());
    (regs.srr0, regs.srr1) = (random.edgy(), random.next());
    vcpu.set_regs(&regs);
    for _ in 0..16 {
        let (rs, rb) = (random.next(), random.edgy());
        vcpu.cpu().storage.slb.slbmte(rs, (rb & !0xfff) | (1 << 27) | (random.next() % 32));
    }
    vcpu.cpu().st.vsr = std::array::from_fn(|_| (u128::from(random.edgy()) << 64) | u128::from(random.edgy()));
    vcpu.cpu().st.fpscr = random.next();
    for _ in 0..MAX_EXITS {
        match vcpu.run().unwrap() {
            Exit::Hypercall { .. } => {
                let reply = HypercallReply::with(random.next() as i64, &[random.next(), random.next()]);
                vcpu.complete_hypercall(reply).unwrap();
            }
            Exit::MmioRead { .. } => vcpu.complete_mmio_read(random.next().to_le_bytes()).unwrap(),
            Exit::MmioWrite { .. } | Exit::Kicked => {}
            Exit::Budget => break,
            Exit::Failed { reason } => panic!("{reason}"),
        }
    }
    // The dump reads everything once more.
    assert!(vcpu.dump().contains("vCPU 0"));
}

#[test]
fn nothing_panics_and_everything_ends() {
    let first = number("PAPERBOAT_SEED").unwrap_or(0x5eed);
    for seed in first..first + number("PAPERBOAT_ROUNDS").unwrap_or(DEFAULT_ROUNDS) {
        let start = Instant::now();
        let outcome = std::panic::catch_unwind(|| round(seed));
        assert!(outcome.is_ok(), "PAPERBOAT_SEED={seed} PAPERBOAT_ROUNDS=1");
        assert!(start.elapsed() < Duration::from_secs(30), "seed {seed} took {:?}", start.elapsed());
    }
}
