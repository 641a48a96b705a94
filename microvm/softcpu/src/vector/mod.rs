//! Floating point, VMX and VSX: semantics on the 64 vector-scalar registers (ISA 3.0B Book I chapters 4, 6, 7).
//!
//! One `u128` per register, in the ISA's big-endian numbering: bit 0 is the most significant bit, word element 0 the most
//! significant word. FPR *n* is the high doubleword of VSR *n*, VR *n* is VSR 32 + *n*. Little-endian mode matters in loads and
//! stores only.
//!
//! The caller has checked the row's facility (for [`Facility::VsxOrVec`] with [`facility()`]) and
//! privilege, advances the address of the instruction, and afterwards takes the floating-point enabled exception interrupt when
//! FPSCR\[FEX\] and MSR\[FE0\] or MSR\[FE1\] ask for it. Everything else happens here: target registers, CR, FPSCR, VSCR, RA of the update
//! forms. If a storage access faults, no register has changed.

mod float;
mod fpscr;
mod lanes;
mod operation;
mod scalar;
mod softfloat;
mod storage;
mod swar;
mod vmx;
mod vsx;

use crate::exec::DataMemory;
use crate::mmu::Fault;
use crate::state::State;
use crate::table::{Facility, FloatOp, Insn, VmxOp, VsxOp};
pub(crate) use vmx::permute::{first_of_row, from_byte, permute};

/// Executes a floating-point instruction (ISA 3.0B I 4).
///
/// # Errors
/// The interrupt that a storage access raises; no register has changed then.
pub fn execute_float(op: FloatOp, insn: Insn, state: &mut State, memory: &mut dyn DataMemory) -> Result<(), Fault> {
    float::execute(op, insn, state, memory)
}

/// Executes a vector instruction (ISA 3.0B I 6).
///
/// # Errors
/// The interrupt that a storage access raises; no register has changed then.
pub fn execute_vmx(op: VmxOp, insn: Insn, state: &mut State, memory: &mut dyn DataMemory) -> Result<(), Fault> {
    vmx::execute(op, insn, state, memory)
}

/// Executes a vector-scalar instruction (ISA 3.0B I 7).
///
/// # Errors
/// The interrupt that a storage access raises; no register has changed then.
pub fn execute_vsx(op: VsxOp, insn: Insn, state: &mut State, memory: &mut dyn DataMemory) -> Result<(), Fault> {
    vsx::execute(op, insn, state, memory)
}

/// The facility that this instance of an instruction needs: for [`Facility::VsxOrVec`] it depends on the register's number and is
/// [`Facility::Vec`], [`Facility::Vsx`], or [`Facility::Fp`] (moves between general and floating-point registers; ISA 3.0B I 3.3.19);
/// for all others it is the row's.
pub fn facility(op: VsxOp, insn: Insn) -> Facility {
    vsx::facility(op, insn)
}

/// For an instruction of [`Facility::VsxOrVec`]: true if this instance needs MSR\[VEC\] (ISA 3.0B I 7.6). If it is false, [`facility`]
/// tells between MSR\[VSX\] and MSR\[FP\].
pub fn needs_vec(op: VsxOp, insn: Insn) -> bool {
    facility(op, insn) == Facility::Vec
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Op;

    /// A small generator of bit patterns, with many zeros, ones and edges.
    struct Noise(u64);

    impl Noise {
        fn next(&mut self) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0
        }

        fn register(&mut self) -> u128 {
            let bits = u128::from(self.next()) << 64 | u128::from(self.next());
            match self.next() % 6 {
                0 => bits & (bits << 7) & (bits >> 9),
                1 => bits | (bits << 11) | (bits >> 5),
                2 => (bits & 0x8001_8001_8001_8001_8001_8001_8001_8001) | 0x7fe0 << 112,
                3 => u128::MAX << (bits & 127),
                _ => bits,
            }
        }
    }

    impl DataMemory for Noise {
        fn load(&mut self, ea: u64, size: u8) -> Result<u128, Fault> {
            assert!([1, 2, 4, 8, 16].contains(&size));
            if self.next().is_multiple_of(8) {
                return Err(Fault::DataSegment { ea });
            }
            Ok(self.register() & (u128::MAX >> (128 - 8 * u32::from(size))))
        }

        fn store(&mut self, ea: u64, size: u8, value: u128) -> Result<(), Fault> {
            assert!([1, 2, 4, 8, 16].contains(&size));
            assert_eq!(value & !(u128::MAX >> (128 - 8 * u32::from(size))), 0, "more than {size} bytes");
            if self.next().is_multiple_of(8) { Err(Fault::DataSegment { ea }) } else { Ok(()) }
        }
    }

    /// Random operands in every form, reserved ones included: no panic, no arithmetic overflow (tests check for it), no register
    /// changed by an access that faults.
    #[test]
    fn every_instruction_takes_whatever_comes() {
        const SEED: u64 = 0x0dd0_b1a5_ed5e_ed01;
        const RUNS: usize = 300;
        let mut noise = Noise(SEED);
        let all = (FloatOp::ALL.iter().map(|&op| Op::Float(op)))
            .chain(VmxOp::ALL.iter().map(|&op| Op::Vmx(op)))
            .chain(VsxOp::ALL.iter().map(|&op| Op::Vsx(op)));
        for op in all {
            let encoding = op.row().encoding;
            for _ in 0..RUNS {
                let insn = Insn(encoding.value | noise.next() as u32 & !encoding.mask);
                let mut state = State { fpscr: noise.next() & 0x7_9fff_f7ff, vscr: noise.next() as u32, ..State::default() };
                state.msr = noise.next() & (1 << 63 | 1);
                state.cr = noise.next() as u32;
                for register in &mut state.gpr {
                    *register = noise.next();
                }
                for register in &mut state.vsr {
                    *register = noise.register();
                }
                let before = state.clone();
                let result = match op {
                    Op::Float(op) => execute_float(op, insn, &mut state, &mut noise),
                    Op::Vmx(op) => execute_vmx(op, insn, &mut state, &mut noise),
                    Op::Vsx(op) => execute_vsx(op, insn, &mut state, &mut noise),
                    _ => unreachable!("the list has no others"),
                };
                if result.is_err() {
                    assert_eq!(
                        (state.vsr, state.gpr, state.cr, state.fpscr),
                        (before.vsr, before.gpr, before.cr, before.fpscr),
                        "{op:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn enabled_summary_is_kept() {
        // Whatever an instruction does, FEX and VX are what the other bits say.
        let mut noise = Noise(0x5eed_0000_0000_0002);
        for &op in FloatOp::ALL {
            let encoding = op.row().encoding;
            for _ in 0..100 {
                let insn = Insn(encoding.value | noise.next() as u32 & !encoding.mask);
                let fpscr = fpscr::summarized(noise.next() & 0x7_ffff_f7ff);
                let mut state = State { fpscr, msr: 1 << 63, ..State::default() };
                for register in &mut state.vsr {
                    *register = noise.register();
                }
                let _ = execute_float(op, insn, &mut state, &mut noise);
                assert_eq!(state.fpscr, fpscr::summarized(state.fpscr), "{op:?} {insn:?}");
            }
        }
    }
}
