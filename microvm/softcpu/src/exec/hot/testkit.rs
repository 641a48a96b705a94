//! What tests of the hot loop share: a CPU over a little memory, and its comparison with another.

use std::sync::Arc;

use paperboat_hypervisor::{ClockMode, GuestRam, VmConfig};

use super::*;
use crate::mmu::Hpt;
use crate::shared::Shared;
use crate::table::Insn;

pub(in crate::exec) const MEMORY_BYTES: u64 = 1 << 16;
pub(in crate::exec) const EDGES: [u64; 12] =
    [0, 1, 2, 31, 32, 63, 64, 0x7fff_ffff, 0x8000_0000, u64::MAX, 1 << 63, (1 << 63) - 1];

/// splitmix64.
pub(in crate::exec) struct Random(pub(in crate::exec) u64);

impl Random {
    pub(in crate::exec) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

pub(in crate::exec) fn cpu() -> Cpu {
    let config = VmConfig {
        ram: GuestRam::new(MEMORY_BYTES).unwrap(),
        vcpu_count: 1,
        hpt_order: 18,
        clock: ClockMode::Deterministic,
        budget_instructions: None,
        processor: Default::default(),
        threads_per_core: 1,
        presentation: Default::default(),
    };
    let mut cpu = Cpu::new(&Arc::new(Shared::new(&config, Hpt::new(18).unwrap()).unwrap()), 0);
    cpu.set_msr(msr::SF | msr::LE | msr::FP | msr::VEC | msr::VSX);
    cpu
}

pub(in crate::exec) fn fill(cpu: &mut Cpu, random: &mut Random) {
    for i in 0..32 {
        cpu.st.gpr[i] = match random.next() % 4 {
            0 => EDGES[random.next() as usize % EDGES.len()],
            // Addresses, some of them across pages and beyond memory.
            1 | 2 => random.next() % (MEMORY_BYTES + 64),
            _ => random.next(),
        };
    }
    for i in 0..64 {
        cpu.st.vsr[i] = (u128::from(random.next()) << 64) | u128::from(random.next());
    }
    cpu.st.cr = random.next() as u32;
    cpu.st.set_xer(random.next());
    cpu.st.lr = random.next();
    cpu.st.ctr = random.next() % 3;
    let ram = cpu.storage.ram().clone();
    for at in (0..MEMORY_BYTES).step_by(8) {
        ram.store::<8>(at, random.next());
    }
}

pub(in crate::exec) fn copy(from: &Cpu, to: &mut Cpu) {
    to.st = from.st.clone();
    for at in (0..MEMORY_BYTES).step_by(8) {
        to.storage.ram().store::<8>(at, from.storage.ram().load::<8>(at));
    }
}

pub(in crate::exec) fn compare(word: Insn, hot: &Cpu, plain: &Cpu) {
    let text = crate::table::disasm::disassemble(word.0, plain.st.pc);
    assert_eq!(hot.st.gpr, plain.st.gpr, "{text}");
    assert_eq!(hot.st.vsr, plain.st.vsr, "{text}");
    assert_eq!((hot.st.cr, hot.st.xer()), (plain.st.cr, plain.st.xer()), "{text}");
    assert_eq!((hot.st.lr, hot.st.ctr), (plain.st.lr, plain.st.ctr), "{text}");
    for at in (0..MEMORY_BYTES).step_by(8) {
        let (a, b) = (hot.storage.ram().load::<8>(at), plain.storage.ram().load::<8>(at));
        assert_eq!(a, b, "{text} at {at:#x}");
    }
}
