//! The backend as the machine sees it: small guests, written as words, run to an exit.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use paperboat_hypervisor::{
    ClockMode, EntryState, Exit, GuestRam, HypercallReply, InterruptMode, Processor, Vcpu, VcpuHandle, Vm, VmConfig,
};
use paperboat_softcpu::coverage::Coverage;
use paperboat_softcpu::{SoftVcpu, SoftVm};
use vm_memory::{Bytes, GuestAddress};

const MEMORY_BYTES: u64 = 16 << 20;
const CODE: u64 = 0x1_0000;
const SF_ME: u64 = 1 << 63 | 1 << 12;
const EE: u64 = 1 << 15;
const PR: u64 = 1 << 14;
const IR_DR: u64 = 0x30;
const LE: u64 = 1;
/// A hypercall that no backend serves: how these guests say that they are done.
const DONE: u64 = 0x7000;
const H_REMOVE: u64 = 0x04;
const H_ENTER: u64 = 0x08;
const H_CEDE: u64 = 0xe0;
const H_PROD: u64 = 0xe8;

// ---- a little assembler -------------------------------------------------------------------------------------------------------

fn d(po: u32, rt: u32, ra: u32, imm: i32) -> u32 {
    po << 26 | rt << 21 | ra << 16 | (imm as u32 & 0xffff)
}
fn x(rt: u32, ra: u32, rb: u32, xo: u32) -> u32 {
    31 << 26 | rt << 21 | ra << 16 | rb << 11 | xo << 1
}
fn li(rt: u32, imm: i32) -> u32 {
    d(14, rt, 0, imm)
}
fn addi(rt: u32, ra: u32, imm: i32) -> u32 {
    d(14, rt, ra, imm)
}
fn ld(rt: u32, imm: i32, ra: u32) -> u32 {
    d(58, rt, ra, imm)
}
fn std(rs: u32, imm: i32, ra: u32) -> u32 {
    d(62, rs, ra, imm)
}
fn lwz(rt: u32, imm: i32, ra: u32) -> u32 {
    d(32, rt, ra, imm)
}
fn stw(rs: u32, imm: i32, ra: u32) -> u32 {
    d(36, rs, ra, imm)
}
fn b(offset: i32) -> u32 {
    18 << 26 | (offset as u32 & 0x03ff_fffc)
}
fn bne(offset: i32) -> u32 {
    0x4082_0000 | (offset as u32 & 0xfffc)
}
fn bdnz(offset: i32) -> u32 {
    0x4200_0000 | (offset as u32 & 0xfffc)
}
fn spr(number: u32) -> u32 {
    ((number & 31) << 16) | ((number >> 5) << 11)
}
fn mtspr(number: u32, rs: u32) -> u32 {
    31 << 26 | rs << 21 | spr(number) | 467 << 1
}
fn mfspr(rt: u32, number: u32) -> u32 {
    31 << 26 | rt << 21 | spr(number) | 339 << 1
}
const SC: u32 = 0x4400_0002;
const SC1: u32 = 0x4400_0022;
const RFID: u32 = 0x4c00_0024;
const ISYNC: u32 = 0x4c00_012c;
const SYNC: u32 = 0x7c00_04ac;
const ILLEGAL: u32 = 0;

/// The words that end a guest.
fn done() -> [u32; 2] {
    [li(3, DONE as i32), SC1]
}

// ---- a partition --------------------------------------------------------------------------------------------------------------

fn partition(vcpu_count: u32, clock: ClockMode) -> (SoftVm, GuestRam) {
    partition_of(Processor::Native, vcpu_count, clock)
}

fn partition_of(processor: Processor, vcpu_count: u32, clock: ClockMode) -> (SoftVm, GuestRam) {
    let ram = GuestRam::new(MEMORY_BYTES).unwrap();
    let config = VmConfig {
        ram: ram.clone(),
        vcpu_count,
        hpt_order: 18,
        clock,
        budget_instructions: Some(200_000_000),
        processor,
        threads_per_core: 2,
        presentation: Default::default(),
    };
    (SoftVm::new(config).unwrap(), ram)
}

fn put(ram: &GuestRam, at: u64, words: &[u32]) {
    for (i, word) in words.iter().enumerate() {
        ram.memory().write_slice(&word.to_le_bytes(), GuestAddress(at + 4 * i as u64)).unwrap();
    }
}

fn put_big_endian(ram: &GuestRam, at: u64, words: &[u32]) {
    for (i, word) in words.iter().enumerate() {
        ram.memory().write_slice(&word.to_be_bytes(), GuestAddress(at + 4 * i as u64)).unwrap();
    }
}

fn enter(vcpu: &mut SoftVcpu, pc: u64, msr: u64) {
    vcpu.enter(EntryState { pc, msr, r3: 0, r4: 0 });
}

/// Runs until the guest makes a hypercall that is not served inside; answers its number.
fn run(vcpu: &mut SoftVcpu) -> u64 {
    match vcpu.run().unwrap() {
        Exit::Hypercall { nr, .. } => {
            vcpu.complete_hypercall(HypercallReply::status(0)).unwrap();
            nr
        }
        other => panic!("{other:?}\n{}", vcpu.dump()),
    }
}

/// One vCPU that runs `words` in real mode, little-endian, and its partition.
fn run_words(words: &[u32]) -> (SoftVm, GuestRam, SoftVcpu) {
    let (vm, ram) = partition(1, ClockMode::Deterministic);
    put(&ram, CODE, words);
    for vector in (0x100..0x1000).step_by(0x20) {
        put(&ram, vector, &done());
    }
    let mut vcpu = vm.create_soft_vcpu(0).unwrap();
    enter(&mut vcpu, CODE, SF_ME | LE);
    vm.set_interrupt_mode(InterruptMode { ail: Some(0), little_endian: Some(true) }).unwrap();
    assert_eq!(run(&mut vcpu), DONE);
    (vm, ram, vcpu)
}

/// Maps the segment of `ea` (256 MiB, VSID 5, 4 KiB pages) in a vCPU's SLB.
fn map_segment(vcpu: &mut SoftVcpu, ea: u64) {
    vcpu.cpu().storage.slb.slbmte(5 << 12, (ea & !0xfff_ffff) | 1 << 27);
}

/// Enters a 4 KiB page for `ea` in that segment: the hash of ISA 3.0B III 5.7.8.2, H_EXACT not set.
fn h_enter(vcpu: &mut SoftVcpu, ea: u64, ra: u64) -> u64 {
    let hash = 5 ^ ((ea & 0xfff_ffff) >> 12);
    let group = hash & ((1 << (18 - 7)) - 1);
    let avpn = (5 << 12 | (ea & 0xfff_ffff) >> 16) & !0x7f;
    let ptex = group * 8;
    hypercall(vcpu, H_ENTER, [0, ptex, avpn | 1, ra | 0x110 | 2]);
    let regs = vcpu.regs();
    assert_eq!(regs.gpr[3], 0, "H_ENTER");
    regs.gpr[4]
}

/// Makes a vCPU execute `sc 1` with these registers, then leave. Its registers are what the hypercall left.
fn hypercall(vcpu: &mut SoftVcpu, nr: u64, args: [u64; 4]) {
    let (pc, msr) = (vcpu.regs().pc, vcpu.regs().msr);
    let mut regs = vcpu.regs();
    regs.msr = SF_ME | LE;
    regs.pc = HYPERCALL_STUB;
    regs.gpr[3] = nr;
    regs.gpr[4..8].copy_from_slice(&args);
    vcpu.set_regs(&regs);
    let status = match vcpu.run().unwrap() {
        Exit::Hypercall { nr: DONE, .. } => vcpu.regs().gpr[31],
        other => panic!("{other:?}\n{}", vcpu.dump()),
    };
    vcpu.complete_hypercall(HypercallReply::status(status as i64)).unwrap();
    let mut regs = vcpu.regs();
    (regs.pc, regs.msr) = (pc, msr);
    vcpu.set_regs(&regs);
}

const HYPERCALL_STUB: u64 = 0x2_0000;

fn put_stub(ram: &GuestRam) {
    put(ram, HYPERCALL_STUB, &[SC1, 0x7c7f_1b78, li(3, DONE as i32), SC1]);
}

// ---- interrupts ---------------------------------------------------------------------------------------------------------------

#[test]
fn a_system_call_saves_where_to_return() {
    let (_, _, vcpu) = run_words(&[li(5, 7), SC]);
    let regs = vcpu.regs();
    assert_eq!(regs.srr0, CODE + 8);
    assert_eq!(regs.srr1, SF_ME | LE);
    assert_eq!(regs.gpr[5], 7);
}

#[test]
fn an_illegal_instruction_says_so_in_srr1() {
    let (_, _, vcpu) = run_words(&[li(5, 7), ILLEGAL]);
    let regs = vcpu.regs();
    assert_eq!((regs.srr0, regs.srr1), (CODE + 4, SF_ME | LE | 0x8_0000));
}

#[test]
fn problem_state_may_not_move_to_srr0() {
    // rfid to problem state at CODE + 0x20 in real mode cannot be: problem state forces translation on, so the fetch faults.
    let (_, _, vcpu) = run_words(&[li(5, 0x4001), mtspr(27, 5), mtspr(26, 5), RFID]);
    let regs = vcpu.regs();
    // Instruction segment interrupt in problem state, with EE, IR, DR forced.
    assert_eq!(regs.srr1, 1 << 12 | LE | PR | EE | IR_DR);
    assert_eq!(regs.srr0, 0x4000);
}

#[test]
fn a_trap_and_a_storage_interrupt_in_real_mode() {
    let (_, _, vcpu) = run_words(&[0x7fe0_0008]);
    assert_eq!(vcpu.regs().srr1, SF_ME | LE | 0x2_0000);
    // Beyond memory: no page table entry.
    let (_, _, vcpu) = run_words(&[d(15, 5, 0, 0x4000), ld(6, 8, 5)]);
    let regs = vcpu.regs();
    assert_eq!((regs.dar, regs.dsisr, regs.srr0), (0x4000_0008, 0x4000_0000, CODE + 4));
}

#[test]
fn undefined_registers_are_no_operation_from_privileged_state() {
    // HSPRG0 and an undefined number read as nothing; the low numbers are illegal.
    let (_, _, vcpu) = run_words(&[li(5, 9), mfspr(5, 304), li(6, 8), mfspr(6, 1000), SC]);
    assert_eq!((vcpu.regs().gpr[5], vcpu.regs().gpr[6]), (9, 8));
    let (_, _, vcpu) = run_words(&[mfspr(5, 4)]);
    assert_eq!(vcpu.regs().srr1 & 0x8_0000, 0x8_0000);
}

#[test]
fn interrupts_relocate_with_ail_3_only_from_relocated_state() {
    let (vm, ram) = partition(1, ClockMode::Deterministic);
    vm.set_interrupt_mode(InterruptMode { ail: Some(3), little_endian: Some(true) }).unwrap();
    assert!(vm.set_interrupt_mode(InterruptMode { ail: Some(1), little_endian: None }).is_err());
    put(&ram, CODE, &[SC]);
    put(&ram, 0xc00, &done());
    let mut vcpu = vm.create_soft_vcpu(0).unwrap();
    enter(&mut vcpu, CODE, SF_ME | LE);
    assert_eq!(run(&mut vcpu), DONE);
    // Relocated: the vector lies at 0xc000000000004c00, which no segment maps, so the fetch raises 0x480 there for ever.
    let mut regs = vcpu.regs();
    regs.pc = 0x4000_0000;
    regs.msr = SF_ME | IR_DR | LE;
    vcpu.set_regs(&regs);
    vcpu.handle().kick();
    assert!(matches!(vcpu.run().unwrap(), Exit::Kicked));
    let kicker = vcpu.handle();
    let thread = thread::spawn(move || {
        thread::sleep(Duration::from_millis(20));
        kicker.kick();
    });
    assert!(matches!(vcpu.run().unwrap(), Exit::Kicked));
    thread.join().unwrap();
    assert_eq!(vcpu.regs().srr0, 0xc000_0000_0000_4480);
    assert_eq!(vcpu.regs().srr1 & IR_DR, IR_DR);
}

#[test]
fn big_endian_code_flips_itself_little() {
    let (vm, ram) = partition(1, ClockMode::Deterministic);
    // A load and a store in big-endian order; then rfid to little-endian code.
    put_big_endian(
        &ram,
        CODE,
        &[
            d(15, 5, 0, 2),
            ld(6, 0, 5),
            std(6, 8, 5),
            li(7, 1),
            d(15, 8, 0, 1),
            addi(8, 8, 0x100),
            mtspr(26, 8),
            mtspr(27, 7),
            RFID,
        ],
    );
    put(&ram, CODE + 0x100, &done());
    ram.memory().write_slice(&[1, 2, 3, 4, 5, 6, 7, 8], GuestAddress(0x2_0000)).unwrap();
    let mut vcpu = vm.create_soft_vcpu(0).unwrap();
    enter(&mut vcpu, CODE, SF_ME);
    assert_eq!(run(&mut vcpu), DONE);
    assert_eq!(vcpu.regs().gpr[6], 0x0102_0304_0506_0708);
    let mut copy = [0; 8];
    ram.memory().read_slice(&mut copy, GuestAddress(0x2_0008)).unwrap();
    assert_eq!(copy, [1, 2, 3, 4, 5, 6, 7, 8]);
    // SRR1 had SF = 0: the rest ran in 32-bit mode.
    assert_eq!(vcpu.regs().msr, 1 << 12 | LE);
}

// ---- time and waiting ---------------------------------------------------------------------------------------------------------

#[test]
fn a_deterministic_cede_jumps_to_the_decrementer() {
    let (vm, ram) = partition(1, ClockMode::Deterministic);
    vm.set_interrupt_mode(InterruptMode { ail: Some(0), little_endian: Some(true) }).unwrap();
    put(&ram, CODE, &[d(15, 5, 0, 0x1000), mtspr(22, 5), mfspr(6, 268), li(3, H_CEDE as i32), SC1, b(0)]);
    put(&ram, 0x900, &[mfspr(7, 268), li(3, DONE as i32), SC1]);
    let mut vcpu = vm.create_soft_vcpu(0).unwrap();
    enter(&mut vcpu, CODE, SF_ME | LE);
    let start = Instant::now();
    assert_eq!(run(&mut vcpu), DONE);
    let regs = vcpu.regs();
    assert_eq!(regs.srr0, CODE + 20, "the interrupt comes after the hypercall");
    let waited = regs.gpr[7] - regs.gpr[6];
    assert!((0x1000_0000..0x1000_0040).contains(&waited), "{waited:#x}");
    assert!(start.elapsed() < Duration::from_millis(500), "268 million ticks are half a second of real time");
    assert_eq!(vcpu.handle().stats().cedes, 1);
}

/// The two low bits of an instruction's address are ignored, also where pages of compiled code lead to each other.
#[test]
fn a_guest_entered_between_two_instructions_starts_at_the_first() {
    for odd in 1..4 {
        let (vm, ram) = partition(1, ClockMode::Deterministic);
        vm.set_compile_after("2".parse().unwrap());
        // r5 counts down from 1000 over two pages.
        put(&ram, CODE, &[b(0x1000), addi(5, 5, -1), d(11, 0, 5, 0), bne(-12), li(3, DONE as i32), SC1]);
        put(&ram, CODE + 0x1000, &[b(-0xffc)]);
        let mut vcpu = vm.create_soft_vcpu(0).unwrap();
        enter(&mut vcpu, CODE + odd, SF_ME | LE);
        let mut regs = vcpu.regs();
        assert_eq!(regs.pc, CODE);
        regs.gpr[5] = 1000;
        regs.pc = CODE + odd;
        vcpu.set_regs(&regs);
        assert_eq!((run(&mut vcpu), vcpu.regs().gpr[5]), (DONE, 0));
    }
}

#[test]
fn deterministic_runs_are_identical() {
    let once = || {
        let (vm, ram) = partition(1, ClockMode::Deterministic);
        vm.set_interrupt_mode(InterruptMode { ail: Some(0), little_endian: Some(true) }).unwrap();
        // The handler counts in r20 and rearms DEC; the main loop draws random numbers until r20 is 50.
        put(
            &ram,
            CODE,
            &[
                li(5, 999),
                mtspr(22, 5),
                li(6, -0x8000 + 1),
                0x7cc0_0164 | 0x1_0000,
                0x7ce1_05e6,
                0x7d08_3a14,
                d(11, 0, 20, 50),
                0x4180_fff4,
                li(3, DONE as i32),
                SC1,
            ],
        );
        put(&ram, 0x900, &[addi(20, 20, 1), li(5, 999), mtspr(22, 5), RFID]);
        let mut vcpu = vm.create_soft_vcpu(0).unwrap();
        enter(&mut vcpu, CODE, SF_ME | LE);
        assert_eq!(run(&mut vcpu), DONE);
        (vcpu.regs(), vcpu.handle().stats())
    };
    let (first, second) = (once(), once());
    assert_eq!(first, second);
    assert_eq!(first.1.interrupts.iter().sum::<u64>(), 50);
}

#[test]
fn an_external_interrupt_wakes_a_ceded_vcpu() {
    let (vm, ram) = partition(1, ClockMode::Host);
    vm.set_interrupt_mode(InterruptMode { ail: Some(0), little_endian: Some(true) }).unwrap();
    put(&ram, CODE, &[li(3, H_CEDE as i32), SC1, b(0)]);
    put(&ram, 0x500, &done());
    let mut vcpu = vm.create_soft_vcpu(0).unwrap();
    enter(&mut vcpu, CODE, SF_ME | LE);
    let handle = vcpu.handle();
    let thread = thread::spawn(move || {
        thread::sleep(Duration::from_millis(30));
        handle.set_external_interrupt(true);
    });
    assert_eq!(run(&mut vcpu), DONE);
    thread.join().unwrap();
    assert_eq!(vcpu.regs().srr0, CODE + 8);
    assert_eq!(vcpu.regs().srr1, SF_ME | LE | EE);
}

#[test]
fn a_kick_is_never_lost_and_leaves_a_ceded_vcpu_ceded() {
    let (vm, ram) = partition(1, ClockMode::Host);
    put(&ram, CODE, &[li(3, H_CEDE as i32), SC1, li(3, DONE as i32), SC1]);
    let mut vcpu = vm.create_soft_vcpu(0).unwrap();
    enter(&mut vcpu, CODE, SF_ME | LE);
    vcpu.handle().kick();
    assert_eq!(vcpu.run().unwrap(), Exit::Kicked);
    for _ in 0..3 {
        let handle = vcpu.handle();
        let thread = thread::spawn(move || {
            thread::sleep(Duration::from_millis(10));
            handle.kick();
        });
        assert_eq!(vcpu.run().unwrap(), Exit::Kicked);
        thread.join().unwrap();
    }
    assert_eq!(vcpu.handle().stats().cedes, 1);
}

#[test]
fn the_budget_ends_an_endless_loop() {
    let ram = GuestRam::new(MEMORY_BYTES).unwrap();
    let config = VmConfig {
        ram: ram.clone(),
        vcpu_count: 1,
        hpt_order: 18,
        clock: ClockMode::Deterministic,
        budget_instructions: Some(10_000),
        processor: Default::default(),
        threads_per_core: 1,
        presentation: Default::default(),
    };
    let vm = SoftVm::new(config).unwrap();
    put(&ram, CODE, &[b(0)]);
    let mut vcpu = vm.create_soft_vcpu(0).unwrap();
    enter(&mut vcpu, CODE, SF_ME | LE);
    assert_eq!(vcpu.run().unwrap(), Exit::Budget);
    let count = vcpu.handle().stats().instructions.unwrap();
    assert!((10_000..10_064).contains(&count), "{count}");
}

#[test]
fn doorbells_reach_the_threads_of_their_core() {
    const TIR: u32 = 446;
    const DOORBELL: u64 = 0xa00;
    let msgsndp = |rb: u32| 31 << 26 | rb << 11 | 142 << 1;
    let (vm, ram) = partition(4, ClockMode::Host);
    vm.set_interrupt_mode(InterruptMode { ail: Some(0), little_endian: Some(true) }).unwrap();
    put(&ram, DOORBELL, &[li(9, DOORBELL as i32), li(3, DONE as i32), SC1]);
    // A message of type 5 to thread r4, then the sender's own thread number.
    put(&ram, CODE, &[d(15, 5, 0, 0x2800), x(5, 5, 4, 444), msgsndp(5), mfspr(8, TIR), li(3, DONE as i32), SC1]);
    // Waits with interrupts enabled.
    put(&ram, CODE + 0x100, &[li(3, H_CEDE as i32), SC1, b(-8)]);
    let mut vcpus: Vec<SoftVcpu> = (0..4).map(|id| vm.create_soft_vcpu(id).unwrap()).collect();
    for vcpu in &mut vcpus {
        enter(vcpu, CODE, SF_ME | LE);
    }
    let go = |vcpu: &mut SoftVcpu, pc, msr, thread| {
        let mut regs = vcpu.regs();
        (regs.pc, regs.msr, regs.gpr[4]) = (pc, msr, thread);
        vcpu.set_regs(&regs);
    };
    let mut send = |from: usize, thread: u64| {
        go(&mut vcpus[from], CODE, SF_ME | LE, thread);
        assert_eq!(run(&mut vcpus[from]), DONE);
        let tir = vcpus[from].regs().gpr[8];
        let hit = (0..4).filter(|id| {
            let vcpu: &mut SoftVcpu = &mut vcpus[*id];
            go(vcpu, CODE + 0x100, SF_ME | LE | EE, 0);
            // A kick ends the wait of those that it was not for.
            let handle = vcpu.handle();
            let kicker = thread::spawn(move || {
                thread::sleep(Duration::from_millis(100));
                handle.kick();
            });
            let reached = matches!(vcpu.run().unwrap(), Exit::Hypercall { nr: DONE, .. });
            kicker.join().unwrap();
            if reached {
                assert_eq!(vcpu.regs().gpr[9], DOORBELL);
                vcpu.complete_hypercall(HypercallReply::status(0)).unwrap();
                assert_eq!(vcpu.run().unwrap(), Exit::Kicked);
            }
            reached
        });
        (tir, hit.collect::<Vec<_>>())
    };
    assert_eq!(send(2, 1), (0, vec![3]));
    assert_eq!(send(3, 0), (1, vec![2]));
    assert_eq!(send(1, 1), (1, vec![1]));
    assert_eq!(send(0, 2), (0, vec![]), "no such thread");
}

#[test]
fn coverage_counts_every_completed_instruction_once() {
    let (vm, ram) = partition(1, ClockMode::Deterministic);
    let coverage = Arc::new(Coverage::default());
    vm.set_coverage(Arc::clone(&coverage));
    vm.set_interrupt_mode(InterruptMode { ail: Some(0), little_endian: Some(true) }).unwrap();
    // A system call whose handler returns, and the end.
    put(&ram, 0xc00, &[addi(6, 6, 1), RFID]);
    put(&ram, CODE, &[li(5, 1), addi(5, 5, 1), SC, addi(5, 5, 1), li(3, DONE as i32), SC1]);
    let mut vcpu = vm.create_soft_vcpu(0).unwrap();
    enter(&mut vcpu, CODE, SF_ME | LE);
    assert_eq!(run(&mut vcpu), DONE);
    let ran: Vec<(&str, u64)> =
        coverage.rows().filter(|(_, count)| *count > 0).map(|(op, count)| (op.row().mnemonic, count)).collect();
    let count = |name| ran.iter().find(|(mnemonic, _)| *mnemonic == name).map(|(_, count)| *count);
    assert_eq!((count("addi"), count("sc"), count("rfid"), ran.len()), (Some(5), Some(2), Some(1), 3), "{ran:?}");
    assert_eq!(vcpu.handle().stats().instructions, Some(8));
    let report = coverage.to_string();
    assert!(report.starts_with("# 8 instructions of 3 rows; the table has "), "{report}");
    assert!(report.lines().nth(2).unwrap().contains(" addi "), "most frequent first: {report}");
    assert!(report.lines().count() > 800, "rows that never ran are in it");
}

/// What came with 3.0 is illegal for the programs of a logical POWER8, and stays what it is in the kernel (III 2.5).
#[test]
fn a_logical_power8_has_no_newer_instructions_in_problem_state() {
    // modud r5,r6,r7; maddld r5,r6,r7,r8; cnttzd r5,r6; xxspltib vs1,3; darn r5,1.
    let newer = [
        x(5, 6, 7, 265),
        4 << 26 | 5 << 21 | 6 << 16 | 7 << 11 | 8 << 6 | 51,
        x(6, 5, 0, 570),
        60 << 26 | 1 << 21 | 3 << 11 | 360 << 1,
        x(5, 1, 0, 755),
    ];
    const PROGRAM: u64 = 0x700;
    const ILLEGAL_INSTRUCTION: u64 = 1 << 19;
    const FP_VEC_VSX: u64 = 1 << 13 | 1 << 25 | 1 << 23;
    for processor in [Processor::Power8, Processor::Native] {
        for word in newer {
            let (vm, ram) = partition_of(processor, 1, ClockMode::Deterministic);
            vm.set_interrupt_mode(InterruptMode { ail: Some(0), little_endian: Some(true) }).unwrap();
            for vector in (0x100..0x1000).step_by(0x20) {
                put(&ram, vector, &[li(9, vector as i32), li(3, DONE as i32), SC1]);
            }
            // Problem state needs translation.
            put_stub(&ram);
            let mut vcpu = vm.create_soft_vcpu(0).unwrap();
            enter(&mut vcpu, CODE, SF_ME | LE);
            let code_ea = 0x1001_0000u64;
            h_enter(&mut vcpu, code_ea, CODE);
            map_segment(&mut vcpu, code_ea);
            // Twice: before and after the block is known; behind it a system call.
            put(&ram, CODE, &[word, SC]);
            for _ in 0..2 {
                let mut regs = vcpu.regs();
                regs.pc = code_ea;
                regs.msr = SF_ME | IR_DR | LE | PR | FP_VEC_VSX;
                (regs.gpr[6], regs.gpr[7]) = (5, 3);
                vcpu.set_regs(&regs);
                assert_eq!(run(&mut vcpu), DONE);
                let regs = vcpu.regs();
                let refused = regs.gpr[9] == PROGRAM && regs.srr1 & ILLEGAL_INSTRUCTION != 0;
                assert_eq!(
                    refused,
                    processor == Processor::Power8,
                    "{processor:?} {word:#x}: {:#x} {:#x}",
                    regs.gpr[9],
                    regs.srr1
                );
            }
        }
    }
    let (vm, ram) = partition_of(Processor::Power8, 1, ClockMode::Deterministic);
    put(&ram, CODE, &[li(6, 5), li(7, 3), newer[0], li(3, DONE as i32), SC1]);
    let mut vcpu = vm.create_soft_vcpu(0).unwrap();
    enter(&mut vcpu, CODE, SF_ME | LE);
    assert_eq!((run(&mut vcpu), vcpu.regs().gpr[5]), (DONE, 2));
    assert_eq!(vm.capabilities().cpu_version, 0x0f00_0004);
}

// ---- memory and devices -------------------------------------------------------------------------------------------------------

#[test]
fn device_accesses_leave_and_the_instruction_completes_once() {
    let (vm, ram) = partition(1, ClockMode::Deterministic);
    put_stub(&ram);
    let mut vcpu = vm.create_soft_vcpu(0).unwrap();
    enter(&mut vcpu, CODE, SF_ME | LE);
    let device = 0x4000_0000_0000;
    let (ea, code_ea) = (0x1000_3000u64, 0x1001_0000u64);
    h_enter(&mut vcpu, ea, device);
    h_enter(&mut vcpu, code_ea, CODE);
    map_segment(&mut vcpu, ea);
    // lwzu r5,4(r4); sthbrx r5,0,r4; ld r6,0(r4); addi r7,r7,1
    put(&ram, CODE, &[d(33, 5, 4, 4), x(5, 0, 4, 918), ld(6, 0, 4), addi(7, 7, 1), li(3, DONE as i32), SC1]);
    let mut regs = vcpu.regs();
    regs.pc = code_ea;
    regs.msr = SF_ME | IR_DR | LE;
    (regs.gpr[4], regs.gpr[7]) = (ea, 0);
    vcpu.set_regs(&regs);
    assert_eq!(vcpu.run().unwrap(), Exit::MmioRead { addr: device + 4, len: 4 });
    assert!(vcpu.run().is_err(), "the load is not completed");
    assert_eq!(vcpu.regs().gpr[4], ea, "no partial effect");
    vcpu.complete_mmio_read([0x78, 0x56, 0x34, 0x12, 0, 0, 0, 0]).unwrap();
    let Exit::MmioWrite { addr, len, data } = vcpu.run().unwrap() else { panic!("{}", vcpu.dump()) };
    assert_eq!((addr, len, &data[..2]), (device + 4, 2, &[0x56, 0x78][..]));
    assert_eq!(vcpu.run().unwrap(), Exit::MmioRead { addr: device + 4, len: 8 });
    vcpu.complete_mmio_read([1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
    assert_eq!(run(&mut vcpu), DONE);
    let regs = vcpu.regs();
    assert_eq!((regs.gpr[5], regs.gpr[4], regs.gpr[7]), (0x1234_5678, ea + 4, 1));
    assert_eq!(regs.gpr[6], 0x0807_0605_0403_0201);
}

#[test]
fn code_that_was_written_is_decoded_again() {
    // Call a subroutine, overwrite its first instruction, call it again; no icbi needed on a coherent cache, isync is.
    let (vm, ram) = partition(1, ClockMode::Deterministic);
    let (sub, new) = (CODE + 0x100, li(5, 2));
    put(
        &ram,
        CODE,
        &[
            18 << 26 | 0x101,
            addi(6, 5, 0),
            d(15, 8, 0, 1),
            d(15, 7, 0, (new >> 16) as i32),
            d(24, 7, 7, (new & 0xffff) as i32),
            stw(7, 0x100, 8),
            SYNC,
            ISYNC,
            18 << 26 | 0xe1,
            li(3, DONE as i32),
            SC1,
        ],
    );
    put(&ram, sub, &[li(5, 1), 0x4e80_0020]);
    let mut vcpu = vm.create_soft_vcpu(0).unwrap();
    enter(&mut vcpu, CODE, SF_ME | LE);
    assert_eq!(run(&mut vcpu), DONE);
    assert_eq!((vcpu.regs().gpr[6], vcpu.regs().gpr[5]), (1, 2));
    // A device writes the code.
    put(&ram, sub, &[li(5, 3)]);
    let mut regs = vcpu.regs();
    regs.pc = CODE + 32;
    vcpu.set_regs(&regs);
    assert_eq!(run(&mut vcpu), DONE);
    assert_eq!(vcpu.regs().gpr[5], 3);
}

// ---- several vCPUs ------------------------------------------------------------------------------------------------------------

#[test]
fn vcpus_count_together_with_lwarx_and_stwcx() {
    const VCPUS: u32 = 3;
    const ROUNDS: u32 = 20_000;
    let (vm, ram) = partition(VCPUS, ClockMode::Host);
    // r4 counter, CTR rounds.
    put(
        &ram,
        CODE,
        &[
            d(15, 4, 0, 2),
            li(5, ROUNDS as i32),
            mtspr(9, 5),
            x(6, 0, 4, 20),
            addi(6, 6, 1),
            x(6, 0, 4, 150) | 1,
            bne(-12),
            bdnz(-16),
            li(3, DONE as i32),
            SC1,
        ],
    );
    let threads: Vec<_> = (0..VCPUS)
        .map(|id| {
            let mut vcpu = vm.create_soft_vcpu(id).unwrap();
            enter(&mut vcpu, CODE, SF_ME | LE);
            thread::spawn(move || run(&mut vcpu))
        })
        .collect();
    for thread in threads {
        assert_eq!(thread.join().unwrap(), DONE);
    }
    let counter: u32 = ram.memory().read_obj(GuestAddress(0x2_0000)).unwrap();
    assert_eq!(u32::from_le(counter), VCPUS * ROUNDS);
}

/// One vCPU runs a subroutine all the time, compiled; the other changes it and waits until the change is seen, many times.
#[test]
fn code_that_another_vcpu_changes_is_compiled_again() {
    const CHANGES: i32 = 300;
    let (vm, ram) = partition(2, ClockMode::Host);
    vm.set_compile_after("2".parse().unwrap());
    let (sub, changer) = (CODE + 0x1000, CODE + 0x2000);
    // bl sub; store what it says; until it is the last.
    let call = 18 << 26 | 0xffc | 1;
    put(&ram, CODE, &[d(15, 4, 0, 2), call, stw(5, 0, 4), d(11, 0, 5, CHANGES), bne(-12), li(3, DONE as i32), SC1]);
    put(&ram, sub, &[li(5, 0), 0x4e80_0020]);
    put(
        &ram,
        changer,
        &[
            d(15, 4, 0, 2),
            d(15, 9, 0, 1),
            li(6, 1),
            // li r5,r6 in r7, to the subroutine.
            d(25, 6, 7, 0x38a0),
            stw(7, 0x1000, 9),
            SYNC,
            lwz(8, 0, 4),
            x(0, 8, 6, 0),
            bne(-8),
            addi(6, 6, 1),
            d(11, 0, 6, CHANGES + 1),
            bne(-32),
            li(3, DONE as i32),
            SC1,
        ],
    );
    let threads: Vec<_> = [CODE, changer]
        .into_iter()
        .zip(0..)
        .map(|(pc, id)| {
            let mut vcpu = vm.create_soft_vcpu(id).unwrap();
            enter(&mut vcpu, pc, SF_ME | LE);
            thread::spawn(move || run(&mut vcpu))
        })
        .collect();
    for thread in threads {
        assert_eq!(thread.join().unwrap(), DONE);
    }
}

#[test]
fn a_removed_page_is_gone_on_every_vcpu_when_the_call_returns() {
    let (vm, ram) = partition(2, ClockMode::Host);
    vm.set_interrupt_mode(InterruptMode { ail: Some(0), little_endian: Some(true) }).unwrap();
    put_stub(&ram);
    // vCPU 1 stores its running count to the page until it faults.
    put(&ram, CODE, &[addi(5, 5, 1), std(5, 0, 4), b(-8)]);
    put(&ram, 0x300, &done());
    let mut remover = vm.create_soft_vcpu(0).unwrap();
    let mut storer = vm.create_soft_vcpu(1).unwrap();
    enter(&mut remover, CODE, SF_ME | LE);
    enter(&mut storer, CODE, SF_ME | LE);
    let (ea, code_ea, target) = (0x1000_3000u64, 0x1001_0000u64, 0x20_0000u64);
    let ptex = h_enter(&mut remover, ea, target);
    h_enter(&mut remover, code_ea, CODE);
    map_segment(&mut storer, ea);
    let mut regs = storer.regs();
    (regs.pc, regs.msr, regs.gpr[4]) = (code_ea, SF_ME | IR_DR | LE, ea);
    storer.set_regs(&regs);
    let thread = thread::spawn(move || {
        assert_eq!(run(&mut storer), DONE);
        storer.regs()
    });
    let count = || u64::from_le(ram.memory().read_obj(GuestAddress(target)).unwrap());
    let start = Instant::now();
    while count() < 1000 {
        assert!(start.elapsed() < Duration::from_secs(20), "the other vCPU does not run");
        thread::yield_now();
    }
    hypercall(&mut remover, H_REMOVE, [0, ptex, 0, 0]);
    assert_eq!(remover.regs().gpr[3], 0);
    let after = count();
    thread::sleep(Duration::from_millis(20));
    assert_eq!(count(), after, "a store went through a removed translation");
    let regs = thread.join().unwrap();
    assert_eq!((regs.dar, regs.dsisr), (ea, 0x4200_0000));
    assert_eq!(regs.gpr[5], after + 1);
}

#[test]
fn h_prod_wakes_another_vcpu() {
    let (vm, ram) = partition(2, ClockMode::Host);
    put_stub(&ram);
    put(&ram, CODE, &[li(3, H_CEDE as i32), SC1, li(3, DONE as i32), SC1]);
    let mut sleeper = vm.create_soft_vcpu(0).unwrap();
    let mut waker = vm.create_soft_vcpu(1).unwrap();
    enter(&mut sleeper, CODE, SF_ME | LE);
    enter(&mut waker, CODE, SF_ME | LE);
    let handle: Arc<dyn VcpuHandle> = sleeper.handle();
    let thread = thread::spawn(move || run(&mut sleeper));
    while handle.stats().cedes == 0 {
        thread::yield_now();
    }
    hypercall(&mut waker, H_PROD, [0, 0, 0, 0]);
    assert_eq!(thread.join().unwrap(), DONE);
    hypercall(&mut waker, H_PROD, [9, 0, 0, 0]);
    assert_eq!(waker.regs().gpr[3] as i64, -4);
}

#[test]
fn words_are_checked_by_their_own_disassembly() {
    // A guard for the little assembler above.
    use paperboat_softcpu::table::disasm::disassemble;
    assert_eq!(disassemble(lwz(3, 8, 4), 0), "lwz r3,8(r4)");
    assert_eq!(disassemble(mtspr(26, 5), 0), "mtspr 26,r5");
}
