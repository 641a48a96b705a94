//! The program that runs a batch of cases: for each it loads the whole state from a record, executes the instruction, and
//! stores the whole state back. One program for both sides; only start, trap and end differ.

use crate::asm::{CTR, FSCR, LR, Label, Program, SRR1, TAR, XER};
use crate::case::{Case, Endian, Ending, MAX_INSTRUCTIONS, Outcome, SCRATCH_BYTES, Snapshot};

/// Where the program lies, effective = real address.
pub const BASE: u64 = 0x0100_0000;
/// The runtime.
const CODE: u64 = BASE + 0x1000;
/// Pointer to the record being executed.
const CURRENT: u64 = BASE + 0x3000;
/// A doubleword of zero beside it.
const CURRENT_ZERO: i64 = 8;
/// The MSR to go on with after an interrupt.
const CURRENT_MSR: i64 = 16;
/// Arguments of the system calls that set up signals.
const SIGACTION: u64 = BASE + 0x3100;
const SIGSTACK: u64 = BASE + 0x3200;
/// Signal stack.
const STACK: u64 = BASE + 0x1_0000;
const STACK_BYTES: u64 = 0x1_0000;
/// One stub per case: its instructions and a branch back.
const STUBS: u64 = BASE + 0x2_0000;
const STUB_BYTES: u64 = 4 * (MAX_INSTRUCTIONS as u64 + 1);

/// Cases per program: the stubs end before the records, and the branches reach.
pub const BATCH: usize = 8192;

const VSR: i64 = 256;
const CR: i64 = 1280;
const XER_OFFSET: i64 = 1288;
const FPSCR: i64 = 1296;
const STATUS: i64 = 1304;
const VSCR: i64 = 1312;
const STUB: i64 = 1328;
const LR_OFFSET: i64 = 1336;
const CTR_OFFSET: i64 = 1344;
const SCRATCH: i64 = 1408;
const RECORD_BYTES: u64 = 1664;

/// FSCR\[TAR\].
const FSCR_TAR: u32 = 1 << 8;

/// Status of a record whose case was not reached.
const NOT_RUN: u64 = u64::MAX;

/// MSR bits of the state in which our CPU runs the cases: 64-bit, vector, VSX, floating point with precise exceptions.
pub const MSR: u64 = 1 << 63 | 1 << 25 | 1 << 23 | 1 << 13 | 1 << 12 | MSR_FE;
/// MSR\[FE0\] and MSR\[FE1\].
const MSR_FE: u64 = 1 << 11 | 1 << 8;
/// MSR\[LE\].
pub const MSR_LE: u64 = 1;

/// Hypercall number by which the program on our CPU says that it is done. No backend serves it.
pub const DONE: u64 = 0x7fff_0000;

/// Who runs the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// QEMU's user mode: Linux system calls and signals.
    Linux,
    /// Our CPU: real mode, interrupts and a hypercall.
    Bare,
}

/// A program: bytes for addresses from [`BASE`] on, and where it starts.
#[derive(Debug)]
pub struct Image {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// First instruction.
    pub entry: u64,
    /// Code for each interrupt vector, for [`Target::Bare`]: address and bytes.
    pub vectors: Vec<(u64, Vec<u8>)>,
    records: u64,
    count: usize,
    endian: Endian,
}

/// Address of the scratch storage of case number `index` in a batch.
pub fn scratch_address(index: usize) -> u64 {
    records_address() + index as u64 * RECORD_BYTES + SCRATCH as u64
}

/// Address of the instruction of case number `index` in a batch.
pub fn stub_address(index: usize) -> u64 {
    STUBS + index as u64 * STUB_BYTES
}

fn records_address() -> u64 {
    (STUBS + BATCH as u64 * STUB_BYTES).next_multiple_of(0x1_0000)
}

/// Interrupt vectors that get a handler: everything below the system call and facility vectors.
const VECTORS: [u64; 14] = [0x200, 0x300, 0x380, 0x400, 0x480, 0x600, 0x700, 0x800, 0xc00, 0xe40, 0xf00, 0xf20, 0xf40, 0xf60];

impl Image {
    /// Builds the program for up to [`BATCH`] cases.
    pub fn new(cases: &[Case], endian: Endian, target: Target) -> Self {
        assert!(cases.len() <= BATCH, "{} cases in a batch of {BATCH}", cases.len());
        let records = records_address();
        let mut program = Program::new(CODE);
        emit_common(&mut program);
        match target {
            Target::Linux => emit_linux(&mut program, records, cases.len() as u64 * RECORD_BYTES),
            Target::Bare => emit_bare(&mut program, records),
        }
        let (words, labels) = program.finish();

        // One record more than cases: its stub pointer of zero ends the run.
        let size = records + (cases.len() as u64 + 1) * RECORD_BYTES - BASE;
        let mut memory = Memory { bytes: vec![0; size as usize], endian };
        for (index, word) in words.iter().enumerate() {
            memory.put(CODE + 4 * index as u64, 4, u128::from(*word));
        }
        if target == Target::Linux {
            // struct sigaction: handler, flags SA_SIGINFO | SA_ONSTACK | SA_NODEFER, restorer, mask.
            memory.put(SIGACTION, 8, u128::from(labels[&Label::Trap]));
            memory.put(SIGACTION + 8, 8, 0x4 | 0x0800_0000 | 0x4000_0000);
            memory.put(SIGSTACK, 8, u128::from(STACK));
            memory.put(SIGSTACK + 16, 8, u128::from(STACK_BYTES));
        }
        for (index, case) in cases.iter().enumerate() {
            let stub = stub_address(index);
            assert!(case.rest.len() < MAX_INSTRUCTIONS, "{} instructions in one case", case.rest.len() + 1);
            let mut at = stub;
            for word in case.words() {
                memory.put(at, 4, u128::from(word));
                at += 4;
            }
            let back = labels[&Label::After].wrapping_sub(at) as u32 & 0x03ff_fffc;
            memory.put(at, 4, u128::from(18 << 26 | back));
            memory.put_record(records + index as u64 * RECORD_BYTES, &case.before, stub);
        }
        let vectors = match target {
            Target::Linux => Vec::new(),
            Target::Bare => VECTORS.iter().map(|vector| (*vector, vector_code(*vector, &labels, endian))).collect(),
        };
        Self { bytes: memory.bytes, entry: labels[&Label::Start], vectors, records, count: cases.len(), endian }
    }

    /// Offset in [`Self::bytes`] and length in bytes of the records, which is what changes.
    pub fn results(&self) -> (u64, usize) {
        (self.records - BASE, self.count * RECORD_BYTES as usize)
    }

    /// The outcomes in the records after a run.
    pub fn outcomes(&self, records: &[u8]) -> Vec<Outcome> {
        records.chunks_exact(RECORD_BYTES as usize).map(|record| read_record(record, self.endian)).collect()
    }
}

/// The part both sides share. GPR 1 points to the record; around the case TAR holds what would otherwise be lost: its address
/// before, GPR 1 after.
fn emit_common(p: &mut Program) {
    p.label(Label::After);
    p.mtspr(TAR, 1);
    p.constant(1, CURRENT);
    p.ld(1, 1, 0);
    for register in (0..32).filter(|register| *register != 1) {
        p.std(register, 1, 8 * i64::from(register));
    }
    p.mfspr(0, TAR);
    p.std(0, 1, 8);
    p.mfspr(0, LR);
    p.std(0, 1, LR_OFFSET);
    p.mfspr(0, CTR);
    p.std(0, 1, CTR_OFFSET);
    p.x(31, 0, 0, 0, 19); // mfcr r0
    p.std(0, 1, CR);
    p.mfspr(0, XER);
    p.std(0, 1, XER_OFFSET);
    emit_store_vectors(p);
    p.word(4 << 26 | 1540); // mfvscr v0
    p.stxv(32, 1, VSCR);
    p.addi(0, 0, 0);
    p.std(0, 1, STATUS);

    p.label(Label::Next);
    p.addi(1, 1, RECORD_BYTES as i64);

    p.label(Label::Load);
    p.ld(0, 1, STUB);
    p.cmpdi(0, 0);
    p.beq(Label::Exit);
    p.constant(2, CURRENT);
    p.std(1, 2, 0);
    p.lfd(0, 1, FPSCR);
    p.word(63 << 26 | 1 << 25 | 711 << 1); // mtfsf with L = 1: the whole register
    p.lxv(32, 1, VSCR);
    p.word(4 << 26 | 1604); // mtvscr v0
    for register in 0..64 {
        p.lxv(register, 1, VSR + 16 * i64::from(register));
    }
    p.mtspr(TAR, 0);
    p.ld(0, 1, LR_OFFSET);
    p.mtspr(LR, 0);
    p.ld(0, 1, CTR_OFFSET);
    p.mtspr(CTR, 0);
    p.ld(0, 1, CR);
    p.word(31 << 26 | 0xff << 12 | 144 << 1); // mtcrf 255,r0
    p.ld(0, 1, XER_OFFSET);
    p.mtspr(XER, 0);
    p.ld(0, 1, 0);
    for register in 2..32 {
        p.ld(register, 1, 8 * i64::from(register));
    }
    p.ld(1, 1, 8);
    p.btar();
}

/// Stores the vector-scalar registers and FPSCR.
fn emit_store_vectors(p: &mut Program) {
    for register in 0..64 {
        p.stxv(register, 1, VSR + 16 * i64::from(register));
    }
    p.x(63, 0, 0, 0, 583); // mffs f0
    p.stfd(0, 1, FPSCR);
}

fn emit_linux(p: &mut Program, records: u64, bytes: u64) {
    const SYS_EXIT_GROUP: i64 = 234;
    const SYS_WRITE: i64 = 4;
    const SYS_SIGALTSTACK: i64 = 185;
    const SYS_RT_SIGACTION: i64 = 173;
    const SIGNALS: [i64; 5] = [4, 5, 7, 8, 11];
    let system_call = 0x4400_0002;

    p.label(Label::Trap);
    p.constant(4, CURRENT);
    p.ld(1, 4, 0);
    p.std(3, 1, STATUS);
    emit_store_vectors(p);
    p.b(Label::Next);

    p.label(Label::Exit);
    p.addi(3, 0, 1);
    p.constant(4, records);
    p.constant(5, bytes);
    p.addi(0, 0, SYS_WRITE);
    p.word(system_call);
    p.addi(3, 0, 0);
    p.addi(0, 0, SYS_EXIT_GROUP);
    p.word(system_call);

    p.label(Label::Start);
    p.constant(3, SIGSTACK);
    p.addi(4, 0, 0);
    p.addi(0, 0, SYS_SIGALTSTACK);
    p.word(system_call);
    for signal in SIGNALS {
        p.addi(3, 0, signal);
        p.constant(4, SIGACTION);
        p.addi(5, 0, 0);
        p.addi(6, 0, 8);
        p.addi(0, 0, SYS_RT_SIGACTION);
        p.word(system_call);
    }
    p.constant(1, records);
    p.b(Label::Load);
}

fn emit_bare(p: &mut Program, records: u64) {
    // GPR 3: vector; SRR1's bits 42 to 47 lie above it. The interrupt took the facilities away: the MSR is put back.
    p.label(Label::Trap);
    p.constant(4, CURRENT);
    p.ld(1, 4, 0);
    p.mfspr(5, SRR1);
    p.word(28 << 26 | 5 << 21 | 6 << 16 | 0xffff); // andi. r6,r5,0xffff
    p.x(31, 5, 5, 6, 316); // xor r5,r5,r6: without the low half
    p.x(31, 5, 3, 3, 444); // or r3,r5,r3
    p.std(3, 1, STATUS);
    // An enabled floating-point exception stays pending until FPSCR is cleared, so FE0 and FE1 come back after that, and translation with them.
    p.x(31, 6, 0, 0, 83); // mfmsr r6
    p.constant(5, MSR & 0x7fff_ffff & !MSR_FE);
    p.x(31, 6, 6, 5, 444); // or r6,r6,r5
    p.x(31, 6, 0, 0, 178); // mtmsrd r6
    emit_store_vectors(p);
    p.lfd(0, 4, CURRENT_ZERO);
    p.word(63 << 26 | 1 << 25 | 711 << 1); // mtfsf with L = 1
    p.ld(6, 4, CURRENT_MSR);
    p.x(31, 6, 0, 0, 178); // mtmsrd r6
    p.b(Label::Next);
    p.label(Label::Exit);
    p.constant(3, DONE);
    p.word(0x4400_0022); // sc 1
    p.label(Label::Start);
    p.x(31, 3, 0, 0, 83); // mfmsr r3
    p.constant(4, CURRENT);
    p.std(3, 4, CURRENT_MSR);
    p.mfspr(3, FSCR);
    p.word(24 << 26 | 3 << 21 | 3 << 16 | FSCR_TAR); // ori r3,r3,FSCR_TAR
    p.mtspr(FSCR, 3);
    p.constant(1, records);
    p.b(Label::Load);
}

fn vector_code(vector: u64, labels: &std::collections::HashMap<Label, u64>, endian: Endian) -> Vec<u8> {
    let mut p = Program::new(vector);
    p.constant(4, labels[&Label::Trap]);
    p.mtspr(CTR, 4);
    p.addi(3, 0, vector as i64);
    p.bctr();
    let (words, _) = p.finish();
    words
        .iter()
        .flat_map(|word| match endian {
            Endian::Little => word.to_le_bytes(),
            Endian::Big => word.to_be_bytes(),
        })
        .collect()
}

/// The signal that Linux makes of an interrupt vector and SRR1.
fn signal(status: u64) -> u8 {
    const SIGILL: u8 = 4;
    const SIGTRAP: u8 = 5;
    const SIGBUS: u8 = 7;
    const SIGFPE: u8 = 8;
    const SIGSEGV: u8 = 11;
    const FP_ENABLED: u64 = 1 << (63 - 43);
    const TRAP: u64 = 1 << (63 - 46);
    match status & 0xffff {
        0x300 | 0x380 | 0x400 | 0x480 => SIGSEGV,
        0x600 => SIGBUS,
        0x700 if status & FP_ENABLED != 0 => SIGFPE,
        0x700 if status & TRAP != 0 => SIGTRAP,
        0x700 | 0xe40 | 0xf60 => SIGILL,
        other => other as u8,
    }
}

struct Memory {
    bytes: Vec<u8>,
    endian: Endian,
}

impl Memory {
    fn put(&mut self, address: u64, size: usize, value: u128) {
        let at = (address - BASE) as usize;
        let bytes = value.to_be_bytes();
        let target = &mut self.bytes[at..at + size];
        target.copy_from_slice(&bytes[16 - size..]);
        if self.endian == Endian::Little {
            target.reverse();
        }
    }

    fn put_record(&mut self, at: u64, state: &Snapshot, stub: u64) {
        let field = |offset: i64| at + offset as u64;
        for (index, value) in state.gpr.iter().enumerate() {
            self.put(at + 8 * index as u64, 8, u128::from(*value));
        }
        for (index, value) in state.vsr.iter().enumerate() {
            self.put(field(VSR) + 16 * index as u64, 16, *value);
        }
        self.put(field(CR), 8, u128::from(state.cr));
        self.put(field(XER_OFFSET), 8, u128::from(state.xer));
        self.put(field(FPSCR), 8, u128::from(state.fpscr));
        self.put(field(STATUS), 8, u128::from(NOT_RUN));
        self.put(field(VSCR), 16, u128::from(state.vscr));
        self.put(field(STUB), 8, u128::from(stub));
        self.put(field(LR_OFFSET), 8, u128::from(state.lr));
        self.put(field(CTR_OFFSET), 8, u128::from(state.ctr));
        let scratch = (field(SCRATCH) - BASE) as usize;
        self.bytes[scratch..scratch + SCRATCH_BYTES].copy_from_slice(&state.scratch);
    }
}

fn read_record(record: &[u8], endian: Endian) -> Outcome {
    let number = |at: i64, size: usize| {
        let mut bytes = record[at as usize..at as usize + size].to_vec();
        if endian == Endian::Little {
            bytes.reverse();
        }
        bytes.iter().fold(0u128, |value, byte| value << 8 | u128::from(*byte))
    };
    let mut scratch = [0; SCRATCH_BYTES];
    scratch.copy_from_slice(&record[SCRATCH as usize..SCRATCH as usize + SCRATCH_BYTES]);
    let status = number(STATUS, 8) as u64;
    Outcome {
        ending: match status {
            0 => Ending::Completed,
            NOT_RUN => Ending::NotRun,
            1..=0xff => Ending::Signal(status as u8),
            vector => Ending::Signal(signal(vector)),
        },
        after: Snapshot {
            gpr: std::array::from_fn(|index| number(8 * index as i64, 8) as u64),
            vsr: std::array::from_fn(|index| number(VSR + 16 * index as i64, 16)),
            lr: number(LR_OFFSET, 8) as u64,
            ctr: number(CTR_OFFSET, 8) as u64,
            cr: number(CR, 8) as u32,
            xer: number(XER_OFFSET, 8) as u64,
            fpscr: number(FPSCR, 8) as u64,
            vscr: number(VSCR, 16) as u32,
            scratch,
        },
    }
}
