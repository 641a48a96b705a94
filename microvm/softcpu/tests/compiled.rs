//! Whole runs with compiled code against the same runs interpreted: programs of random instructions in loops, over several pages, that
//! call each other, fault, write into their own pages, and change instructions that have run. A deterministic run ends in the same state, instruction for
//! instruction, whatever was compiled on the way.

use std::sync::Arc;

use paperboat_hypervisor::{ClockMode, EntryState, Exit, GuestRam, InterruptMode, Processor, Vcpu, Vm, VmConfig};
use paperboat_softcpu::{CompileAfter, SoftVm};
use vm_memory::{Bytes, GuestAddress};

const MEMORY_BYTES: u64 = 1 << 20;
const CODE: u64 = 0x1_0000;
/// Functions begin here, some words before the end of a page, so that they go across.
const FUNCTIONS: [u64; 4] = [0x2_0f40, 0x2_2000, 0x2_2ff8, 0x2_4100];
const DATA: u64 = 0x8_0000;
const SF_ME_LE: u64 = 1 << 63 | 1 << 12 | 1;

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u32) -> u32 {
        (self.next() % u64::from(limit)) as u32
    }
}

/// A word on r3 to r12, which hold data; r20 points to data, r21 to the code of the program, r22 is a small multiple of eight, r25 points
/// beyond memory.
fn word(random: &mut Random) -> u32 {
    let mut register = || 3 + random.below(10);
    let (a, b, c) = (register() << 21, register() << 16, register() << 11);
    let immediate = random.next() as u32 & 0xffff;
    let displacement = random.next() as u32 & 0x7f8;
    // mullw, add, subf, and, or, xor, nor, neg, extsw, sld, srad, cntlzd, addc, adde, popcntd; some with Rc.
    const REGISTERS: [u32; 15] = [235, 266, 40, 28, 444, 316, 124, 104, 986, 27, 794, 58, 10, 138, 506];
    match random.below(16) {
        0..4 => 31 << 26 | a | b | c | REGISTERS[random.below(15) as usize] << 1 | random.below(2),
        4 => 14 << 26 | a | b | immediate,
        5 => (24 + random.below(6)) << 26 | a | b | immediate,
        // rldicl and its kin, rlwinm.
        6 => 30 << 26 | a | b | (random.next() as u32 & 0xffee),
        7 => 21 << 26 | a | b | (random.next() as u32 & 0xffff),
        // Loads and stores at r20: lwz, lbz, stw, stb, lhz, lha, sth; ld and std; indexed by r22.
        8 => [32, 34, 36, 38, 40, 42, 44][random.below(7) as usize] << 26 | a | 20 << 16 | (immediate & 0x7ff),
        9 => [58, 62][random.below(2) as usize] << 26 | a | 20 << 16 | displacement,
        10 => 31 << 26 | a | 20 << 16 | 22 << 11 | [21, 23, 87, 149, 151, 215][random.below(6) as usize] << 1,
        // Comparisons, then a branch over the next word.
        11 => (10 + random.below(2)) << 26 | random.below(8) << 23 | random.below(2) << 21 | b | immediate,
        12 => 31 << 26 | random.below(8) << 23 | random.below(2) << 21 | b | c | random.below(2) << 6,
        13 => 16 << 26 | [4, 12][random.below(2) as usize] << 21 | random.below(32) << 16 | 8,
        // A store beside the code, into a page that has some.
        14 if random.below(4) == 0 => 36 << 26 | a | 21 << 16 | 0x2800,
        // A trap, an access beyond memory, one of floating point while that is off, an illegal word: now and then.
        14 if random.below(16) == 0 => [0x7fe0_0008, 32 << 26 | a | 25 << 16, 50 << 26 | 20 << 16, 0][random.below(4) as usize],
        // mfcr.
        14 => 31 << 26 | a | 19 << 1,
        _ => 31 << 26 | a | b | c | random.below(32) << 6 | 15 << 1,
    }
}

/// Writes a program: a loop that calls functions, whose ends are returns.
fn program(random: &mut Random, ram: &GuestRam) {
    let put = |at: u64, words: &[u32]| {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        ram.memory().write_slice(&bytes, GuestAddress(at)).unwrap();
    };
    const BLR: u32 = 0x4e80_0020;
    for at in FUNCTIONS {
        // The first one is rewritten while it runs now and then.
        let mut words: Vec<u32> = (0..40 + random.below(60)).map(|_| word(random)).collect();
        // Where a branch at the end would lead over the return.
        words.extend([0x6000_0000, BLR]);
        put(at, &words);
    }
    // r20 to r22 and CTR, then the loop.
    let (li, lis) = (|rt: u32, imm: u32| 14 << 26 | rt << 21 | imm, |rt: u32, imm: u32| 15 << 26 | rt << 21 | imm);
    let mut words = vec![lis(20, DATA as u32 >> 16), lis(21, 2), li(22, 0x48), lis(25, 0x7000), li(23, 400), 0x7ee9_03a6];
    let top = words.len();
    // Every 64th time round the first function gets another first instruction, `addi r3,r3,` the low bits of r3: mfctr r23;
    // andi. r26,r23,63; bne over; rlwinm r26,r3,0,17,31; oris r26,r26,0x3863; stw r26,0xf40(r21).
    words.extend([0x7ee9_02a6, 0x72fa_003f, 0x4082_0010, 0x547a_047e, 0x675a_3863, 0x9355_0f40]);
    for at in FUNCTIONS {
        words.extend((0..random.below(12)).map(|_| word(random)));
        words.push(0x6000_0000);
        let here = CODE + 4 * words.len() as u64;
        words.push(18 << 26 | (at.wrapping_sub(here) as u32 & 0x03ff_fffc) | 1);
    }
    let back = 4 * (top as i64 - words.len() as i64);
    words.extend([0x4200_0000 | back as u32 & 0xfffc, 14 << 26 | 3 << 21 | 0x7000, 0x4400_0022]);
    put(CODE, &words);
    // Interrupts go on behind the instruction: mfsrr0 r24, addi 4, mtsrr0, rfid.
    for vector in [0x300u64, 0x380, 0x400, 0x600, 0x700, 0x800, 0xf20, 0xf40] {
        put(vector, &[0x7f1a_02a6, 0x3b18_0004, 0x7f1a_03a6, 0x4c00_0024]);
    }
    let data: Vec<u8> = (0..0x1000).map(|_| random.next() as u8).collect();
    ram.memory().write_slice(&data, GuestAddress(DATA)).unwrap();
}

/// The state at the end: registers, instructions, a copy of memory.
fn end(seed: u64, budget: Option<u64>, after: CompileAfter) -> (String, u64, Vec<u8>) {
    let ram = GuestRam::new(MEMORY_BYTES).unwrap();
    program(&mut Random(seed), &ram);
    let config = VmConfig {
        ram: ram.clone(),
        vcpu_count: 1,
        hpt_order: 18,
        clock: ClockMode::Deterministic,
        budget_instructions: budget.or(Some(2_000_000)),
        processor: Processor::Native,
        threads_per_core: 1,
        presentation: Default::default(),
    };
    let vm = Arc::new(SoftVm::new(config).unwrap());
    vm.set_compile_after(after);
    vm.set_interrupt_mode(InterruptMode { ail: Some(0), little_endian: Some(true) }).unwrap();
    let mut vcpu = vm.create_soft_vcpu(0).unwrap();
    vcpu.enter(EntryState { pc: CODE, msr: SF_ME_LE, r3: 0, r4: 0 });
    let exit = vcpu.run().unwrap();
    assert!(matches!(exit, Exit::Hypercall { nr: 0x7000, .. } | Exit::Budget), "{exit:?}\n{}", vcpu.dump());
    let cpu = vcpu.cpu();
    let state = format!("{exit:?} {:x?} cfar {:x}", cpu.st, cpu.cfar);
    let mut memory = vec![0; MEMORY_BYTES as usize];
    ram.memory().read_slice(&mut memory, GuestAddress(0)).unwrap();
    (state, cpu.instructions, memory)
}

/// A number from the environment.
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}")))
}

#[test]
fn compiled_and_interpreted_runs_end_alike() {
    let (first, programs) = (setting("PAPERBOAT_SEED", 0), setting("PAPERBOAT_FUZZ_ROUNDS", 48));
    let mut finished = 0;
    for seed in first..first + programs {
        let never = end(seed, None, CompileAfter::NEVER);
        finished += u64::from(never.0.contains("Hypercall"));
        assert!(never.1 > 10_000, "program {seed} ended after {} instructions", never.1);
        for runs in ["2", "32"] {
            let compiled = end(seed, None, runs.parse().unwrap());
            assert_eq!((&compiled.0, compiled.1), (&never.0, never.1), "program {seed}, compiled after {runs} runs");
            assert!(compiled.2 == never.2, "program {seed} left other memory");
        }
        // Wherever it is interrupted.
        for budget in (0..8).map(|step| 3_000 + seed % 1_000 * 37 + step * 611) {
            let budget = Some(budget);
            let (one, other) = (end(seed, budget, CompileAfter::NEVER), end(seed, budget, "2".parse().unwrap()));
            assert!(one == other, "program {seed} after {budget:?} instructions:\n{}\n{}", one.0, other.0);
        }
    }
    assert!(finished > programs / 2, "only {finished} programs came to their end");
}

#[test]
fn when_code_is_compiled_is_never_or_a_power_of_two() {
    assert_eq!("never".parse(), Ok(CompileAfter::NEVER));
    assert_eq!("64".parse(), Ok(CompileAfter::default()));
    for text in ["", "0", "1", "3", "256", "-2", "always"] {
        let error = text.parse::<CompileAfter>().unwrap_err();
        assert_eq!(error, "must be never, or a power of two from 2 to 128", "{text}");
    }
}
