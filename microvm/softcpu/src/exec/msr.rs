//! Bits of the machine state register (ISA 3.0B III 3.2.1) and what instructions may change of it.

/// 64-bit mode.
pub const SF: u64 = 1 << 63;
/// Vector available.
pub const VEC: u64 = 1 << 25;
/// VSX available.
pub const VSX: u64 = 1 << 23;
/// External interrupts enabled.
pub const EE: u64 = 1 << 15;
/// Problem state.
pub const PR: u64 = 1 << 14;
/// Floating point available.
pub const FP: u64 = 1 << 13;
/// Machine checks enabled.
pub const ME: u64 = 1 << 12;
/// Floating-point exception mode 0.
pub const FE0: u64 = 1 << 11;
/// Single-step trace.
pub const SE: u64 = 1 << 10;
/// Branch trace.
pub const BE: u64 = 1 << 9;
/// Floating-point exception mode 1.
pub const FE1: u64 = 1 << 8;
/// Instruction relocation.
pub const IR: u64 = 1 << 5;
/// Data relocation.
pub const DR: u64 = 1 << 4;
/// Performance monitor mark.
pub const PMM: u64 = 1 << 2;
/// Recoverable interrupt.
pub const RI: u64 = 1 << 1;
/// Little-endian mode.
pub const LE: u64 = 1;

/// The bits that exist in a partition without transactional memory; HV always reads zero.
pub const IMPLEMENTED: u64 = SF | VEC | VSX | EE | PR | FP | ME | FE0 | SE | BE | FE1 | IR | DR | PMM | RI | LE;
/// MSR bits 33 to 36 and 42 to 47, where SRR1 carries the cause of an interrupt.
pub const CAUSE: u64 = 0x783f_0000;

/// In problem state EE, IR and DR are always on (III 3.2.1, 4.4.1).
const fn close(msr: u64) -> u64 {
    (if msr & PR != 0 { msr | EE | IR | DR } else { msr }) & IMPLEMENTED
}

/// After rfid or rfscv: everything from `source` but HV and ME, which only the hypervisor changes (III 3.3.1).
pub const fn after_return(old: u64, source: u64) -> u64 {
    close(source & !ME & !CAUSE | old & ME)
}

/// After mtmsrd with L = 0 (III 4.4.1): ME and LE stay.
pub const fn after_mtmsrd(old: u64, source: u64) -> u64 {
    const KEPT: u64 = ME | LE;
    close(source & !KEPT | old & KEPT)
}

/// After mtmsr with L = 0: as mtmsrd, the high word stays.
pub const fn after_mtmsr(old: u64, source: u64) -> u64 {
    after_mtmsrd(old, old & !0xffff_ffff | source & 0xffff_ffff)
}

/// After either with L = 1: only EE and RI change.
pub const fn after_mtmsr_l1(old: u64, source: u64) -> u64 {
    old & !(EE | RI) | source & (EE | RI)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problem_state_forces_translation_and_interrupts_on() {
        assert_eq!(after_return(SF | ME, SF | PR | LE), SF | ME | PR | EE | IR | DR | LE);
        assert_eq!(after_mtmsrd(SF | ME | LE, SF), SF | ME | LE);
    }

    #[test]
    fn the_hypervisor_bit_cannot_be_set() {
        assert_eq!(after_return(SF, SF | 1 << 60), SF);
        assert_eq!(after_mtmsr_l1(SF, u64::MAX), SF | EE | RI);
    }
}
