//! Floating-point instructions (ISA 3.0B I 4).

use super::fpscr::{self, ALL_EXCEPTIONS, FEX, FX, VX};
use super::operation::{self, MADD, MSUB, NMADD, NMSUB, multiply_add, to_integer};
use super::scalar::{compare_doubles_to_cr, conclude, conclude_integer, double, test_divide, test_square_root, to_integral};
use super::softfloat::convert::{
    SIGNED_DOUBLEWORD, SIGNED_WORD, UNSIGNED_DOUBLEWORD, UNSIGNED_WORD, double_to_single, single_to_double,
};
use super::softfloat::round::Rounding;
use super::softfloat::{DOUBLE, SINGLE};
use super::storage;
use crate::exec::DataMemory;
use crate::mmu::Fault;
use crate::state::State;
use crate::table::{FloatOp, Insn};

/// The bits of the FPSCR that instructions can write: not FEX and VX, which are summaries, nor the reserved ones.
const WRITABLE: u64 = 0x7_ffff_f7ff & !((FEX | VX) as u64);
/// DRN: decimal rounding mode, bits 29 to 31.
const DRN: u64 = 7 << 32;
/// VE, OE, UE, ZE, XE.
const ENABLES: u64 = 0xf8;
/// The control bits that mffscrn and its family return: DRN, the enables, NI and RN.
const CONTROL: u64 = DRN | 0xff;
/// FR, FI and FPRF, which mffsl returns too.
const STATUS: u64 = 0x7_f000;
const SIGN: u64 = 1 << 63;

/// Executes one instruction of the class.
pub(super) fn execute(op: FloatOp, insn: Insn, state: &mut State, memory: &mut dyn DataMemory) -> Result<(), Fault> {
    use FloatOp::*;
    // Only the operands that the instruction has are looked at.
    let (a, b, c) = (state.fpr(insn.ra()), state.fpr(insn.rb()), state.fpr(insn.rc()));
    let environment = fpscr::environment(state);
    let result = match op {
        Lfs | Lfsu | Lfsx | Lfsux | Lfd | Lfdu | Lfdx | Lfdux | Lfiwax | Lfiwzx | Lfdp | Lfdpx => {
            return load(op, insn, state, memory);
        }
        Stfs | Stfsu | Stfsx | Stfsux | Stfd | Stfdu | Stfdx | Stfdux | Stfiwx | Stfdp | Stfdpx => {
            return store(op, insn, state, memory);
        }

        Fmr => Some(b),
        Fneg => Some(b ^ SIGN),
        Fabs => Some(b & !SIGN),
        Fnabs => Some(b | SIGN),
        Fcpsgn => Some(a & SIGN | b & !SIGN),
        Fmrgew => Some(a & 0xffff_ffff_0000_0000 | b >> 32),
        Fmrgow => Some(a << 32 | b & 0xffff_ffff),

        Fadd => operation::add(a, b, DOUBLE, environment).conclude(state),
        Fadds => operation::add(a, b, SINGLE, environment).conclude(state),
        Fsub => operation::subtract(a, b, DOUBLE, environment).conclude(state),
        Fsubs => operation::subtract(a, b, SINGLE, environment).conclude(state),
        Fmul => operation::multiply(a, c, DOUBLE, environment).conclude(state),
        Fmuls => operation::multiply(a, c, SINGLE, environment).conclude(state),
        Fdiv => operation::divide(a, b, DOUBLE, environment).conclude(state),
        Fdivs => operation::divide(a, b, SINGLE, environment).conclude(state),
        Fsqrt => operation::square_root(b, DOUBLE, environment).conclude(state),
        Fsqrts => operation::square_root(b, SINGLE, environment).conclude(state),
        Fre => operation::reciprocal(b, DOUBLE, environment).conclude(state),
        Fres => operation::reciprocal(b, SINGLE, environment).conclude(state),
        Frsqrte => operation::reciprocal_root(b, DOUBLE, environment).conclude(state),
        Frsqrtes => operation::reciprocal_root(b, SINGLE, environment).conclude(state),
        Fmadd => multiply_add([a, c, b], MADD, DOUBLE, environment).conclude(state),
        Fmadds => multiply_add([a, c, b], MADD, SINGLE, environment).conclude(state),
        Fmsub => multiply_add([a, c, b], MSUB, DOUBLE, environment).conclude(state),
        Fmsubs => multiply_add([a, c, b], MSUB, SINGLE, environment).conclude(state),
        Fnmadd => multiply_add([a, c, b], NMADD, DOUBLE, environment).conclude(state),
        Fnmadds => multiply_add([a, c, b], NMADD, SINGLE, environment).conclude(state),
        Fnmsub => multiply_add([a, c, b], NMSUB, DOUBLE, environment).conclude(state),
        Fnmsubs => multiply_add([a, c, b], NMSUB, SINGLE, environment).conclude(state),

        Frsp => operation::to_single(b, environment).conclude(state),
        Fctid => conclude_integer(state, to_integer(b, SIGNED_DOUBLEWORD, environment.rounding)),
        Fctidz => conclude_integer(state, to_integer(b, SIGNED_DOUBLEWORD, Rounding::TowardZero)),
        Fctidu => conclude_integer(state, to_integer(b, UNSIGNED_DOUBLEWORD, environment.rounding)),
        Fctiduz => conclude_integer(state, to_integer(b, UNSIGNED_DOUBLEWORD, Rounding::TowardZero)),
        Fctiw => conclude_integer(state, to_integer(b, SIGNED_WORD, environment.rounding)),
        Fctiwz => conclude_integer(state, to_integer(b, SIGNED_WORD, Rounding::TowardZero)),
        Fctiwu => conclude_integer(state, to_integer(b, UNSIGNED_WORD, environment.rounding)),
        Fctiwuz => conclude_integer(state, to_integer(b, UNSIGNED_WORD, Rounding::TowardZero)),
        Fcfid => operation::from_signed(b, DOUBLE, environment).conclude(state),
        Fcfidu => operation::from_unsigned(b, DOUBLE, environment).conclude(state),
        Fcfids => operation::from_signed(b, SINGLE, environment).conclude(state),
        Fcfidus => operation::from_unsigned(b, SINGLE, environment).conclude(state),
        Frin => conclude(state, to_integral(double(b), Rounding::NearestAway), DOUBLE),
        Friz => conclude(state, to_integral(double(b), Rounding::TowardZero), DOUBLE),
        Frip => conclude(state, to_integral(double(b), Rounding::Up), DOUBLE),
        Frim => conclude(state, to_integral(double(b), Rounding::Down), DOUBLE),

        Ftdiv => {
            state.set_cr_field(insn.bf(), test_divide(a, b, DOUBLE));
            return Ok(());
        }
        Ftsqrt => {
            state.set_cr_field(insn.bf(), test_square_root(b, DOUBLE));
            return Ok(());
        }
        Fcmpu | Fcmpo => {
            compare_doubles_to_cr(state, insn.bf(), a, b, op == Fcmpo);
            return Ok(());
        }
        // -0 counts as zero, a NaN as less.
        Fsel => Some(if a & !SIGN == 0 || (a & SIGN == 0 && a <= 0x7ff0_0000_0000_0000) { c } else { b }),

        Mffs | Mffsce | Mffscdrn | Mffscdrni | Mffscrn | Mffscrni | Mffsl => Some(move_from_fpscr(op, insn, b, state)),
        Mcrfs => {
            move_to_cr(insn, state);
            return Ok(());
        }
        Mtfsfi | Mtfsf | Mtfsb0 | Mtfsb1 => {
            move_to_fpscr(op, insn, b, state);
            None
        }

        // The facility is never available; the interpreter does not come here.
        Dadd | Daddq | Dsub | Dsubq | Dmul | Dmulq | Ddiv | Ddivq | Dcmpo | Dcmpoq | Dcmpu | Dcmpuq | Dtstdc | Dtstdcq
        | Dtstdg | Dtstdgq | Dtstex | Dtstexq | Dtstsf | Dtstsfq | Dtstsfi | Dtstsfiq | Dquai | Dquaiq | Dqua | Dquaq | Drrnd
        | Drrndq | Drintx | Drintxq | Drintn | Drintnq | Dctdp | Dctqpq | Drsp | Drdpq | Dcffix | Dcffixq | Dctfix | Dctfixq
        | Ddedpd | Ddedpdq | Denbcd | Denbcdq | Dxex | Dxexq | Diex | Diexq | Dscli | Dscliq | Dscri | Dscriq => return Ok(()),
    };
    if let Some(bits) = result {
        state.set_fpr(insn.rt(), bits);
    }
    if insn.record() && op.row().has_rc {
        state.set_cr_field(1, (state.fpscr >> 28) as u32);
    }
    Ok(())
}

fn load(op: FloatOp, insn: Insn, state: &mut State, memory: &mut dyn DataMemory) -> Result<(), Fault> {
    use FloatOp::*;
    let ea = match op {
        Lfs | Lfsu | Lfd | Lfdu => storage::displaced(insn, state, insn.si()),
        Lfdp => storage::displaced(insn, state, insn.ds()),
        _ => storage::indexed(insn, state),
    };
    match op {
        Lfs | Lfsu | Lfsx | Lfsux => {
            let word = memory.load(ea, 4)? as u32;
            state.set_fpr(insn.rt(), single_to_double(word));
        }
        Lfiwax => {
            let word = memory.load(ea, 4)? as i32;
            state.set_fpr(insn.rt(), i64::from(word) as u64);
        }
        Lfiwzx => {
            let word = memory.load(ea, 4)? as u32;
            state.set_fpr(insn.rt(), word.into());
        }
        Lfdp | Lfdpx => {
            let pair = memory.load(ea, 16)?;
            state.set_fpr(insn.rt() & !1, (pair >> 64) as u64);
            state.set_fpr(insn.rt() | 1, pair as u64);
        }
        _ => {
            let doubleword = memory.load(ea, 8)? as u64;
            state.set_fpr(insn.rt(), doubleword);
        }
    }
    if matches!(op, Lfsu | Lfsux | Lfdu | Lfdux) {
        state.gpr[insn.ra()] = ea;
    }
    Ok(())
}

fn store(op: FloatOp, insn: Insn, state: &mut State, memory: &mut dyn DataMemory) -> Result<(), Fault> {
    use FloatOp::*;
    let ea = match op {
        Stfs | Stfsu | Stfd | Stfdu => storage::displaced(insn, state, insn.si()),
        Stfdp => storage::displaced(insn, state, insn.ds()),
        _ => storage::indexed(insn, state),
    };
    let source = state.fpr(insn.rt());
    match op {
        Stfs | Stfsu | Stfsx | Stfsux => memory.store(ea, 4, double_to_single(source).into())?,
        Stfiwx => memory.store(ea, 4, (source as u32).into())?,
        Stfdp | Stfdpx => {
            let pair = u128::from(state.fpr(insn.rt() & !1)) << 64 | u128::from(state.fpr(insn.rt() | 1));
            memory.store(ea, 16, pair)?;
        }
        _ => memory.store(ea, 8, source.into())?,
    }
    if matches!(op, Stfsu | Stfsux | Stfdu | Stfdux) {
        state.gpr[insn.ra()] = ea;
    }
    Ok(())
}

/// mffs and its family: returns what goes to FRT, and changes what the instruction changes.
fn move_from_fpscr(op: FloatOp, insn: Insn, b: u64, state: &mut State) -> u64 {
    let before = state.fpscr;
    let (result, cleared, set) = match op {
        FloatOp::Mffs => (before, 0, 0),
        FloatOp::Mffsce => (before, ENABLES, 0),
        FloatOp::Mffscdrn => (before & CONTROL, DRN, b & DRN),
        FloatOp::Mffscdrni => (before & CONTROL, DRN, u64::from(insn.bits(18, 20)) << 32),
        FloatOp::Mffscrn => (before & CONTROL, 3, b & 3),
        FloatOp::Mffscrni => (before & CONTROL, 3, insn.bits(19, 20).into()),
        _ => (before & (CONTROL | STATUS), 0, 0),
    };
    state.fpscr = fpscr::summarized(before & !cleared | set);
    result
}

/// mcrfs: a field to CR; exception bits in it are cleared.
fn move_to_cr(insn: Insn, state: &mut State) {
    let shift = 28 - 4 * insn.bits(11, 13);
    state.set_cr_field(insn.bf(), state.fpscr as u32 >> shift);
    let cleared = (ALL_EXCEPTIONS | FX) & 0xf << shift;
    state.fpscr = fpscr::summarized(state.fpscr & !u64::from(cleared));
}

/// mtfsf, mtfsfi, mtfsb0, mtfsb1.
fn move_to_fpscr(op: FloatOp, insn: Insn, b: u64, state: &mut State) {
    let (mask, value) = match op {
        FloatOp::Mtfsf => {
            let fields =
                (0..8).filter(|i| insn.bits(7, 14) >> (7 - i) & 1 != 0).fold(0, |mask, i| mask | 0xf_u64 << (28 - 4 * i));
            let mask = match (insn.bits(6, 6), insn.bits(15, 15)) {
                (1, _) => u64::MAX,
                (_, 0) => fields,
                _ => fields << 32,
            };
            (mask, b)
        }
        FloatOp::Mtfsfi => {
            let shift = 28 - 4 * insn.bits(6, 8) + if insn.bits(15, 15) != 0 { 32 } else { 0 };
            (0xf << shift, u64::from(insn.bits(16, 19)) << shift)
        }
        FloatOp::Mtfsb0 => (1 << (31 - insn.rt()), 0),
        _ => {
            let bit = 1u32 << (31 - insn.rt());
            // An exception bit that comes to be set sets FX.
            fpscr::raise(state, bit);
            (bit.into(), bit.into())
        }
    };
    let mask = mask & WRITABLE;
    state.fpscr = fpscr::summarized(state.fpscr & !mask | value & mask);
}

#[cfg(test)]
mod tests {
    use super::fpscr::{FI, FPRF, FR, OX, UX, VXCVI, VXSNAN, VXSOFT, VXZDZ, XX, ZX};
    use super::*;

    /// One doubleword of storage, wherever it is accessed; the last address is kept.
    struct Cell {
        value: u128,
        ea: u64,
    }

    impl DataMemory for Cell {
        fn load(&mut self, ea: u64, _size: u8) -> Result<u128, Fault> {
            self.ea = ea;
            Ok(self.value)
        }

        fn store(&mut self, ea: u64, _size: u8, value: u128) -> Result<(), Fault> {
            (self.ea, self.value) = (ea, value);
            Ok(())
        }
    }

    /// FRT 1, FRA 2, FRB 3, FRC 4.
    const INSN: u32 = 1 << 21 | 2 << 16 | 3 << 11 | 4 << 6;

    fn run(op: FloatOp, word: u32, state: &mut State) {
        let mut memory = Cell { value: 0, ea: 0 };
        execute(op, Insn(word), state, &mut memory).expect("no storage is accessed");
    }

    fn with(a: u64, b: u64, fpscr: u64) -> State {
        let mut state = State { fpscr, ..State::default() };
        state.set_fpr(1, 0x1111);
        state.set_fpr(2, a);
        state.set_fpr(3, b);
        state
    }

    const ONE: u64 = 0x3ff0_0000_0000_0000;
    const SNAN: u64 = 0x7ff0_0000_0000_0001;

    #[test]
    fn enabled_invalid_and_zero_divide_keep_the_target() {
        // VE and ZE.
        let mut state = with(0, 0, 0x80 | u64::from(FR | FI) | 0x4000);
        run(FloatOp::Fdiv, INSN | 1, &mut state);
        assert_eq!(state.fpr(1), 0x1111);
        assert_eq!(state.fpscr as u32, FX | FEX | VX | VXZDZ | 0x4080);
        // FX, FEX, VX to CR1.
        assert_eq!(state.cr_field(1), 0b1110);
        let mut state = with(ONE, 1 << 63, 0x10);
        run(FloatOp::Fdiv, INSN, &mut state);
        assert_eq!((state.fpr(1), state.fpscr as u32), (0x1111, FX | FEX | ZX | 0x10));
        let mut state = with(ONE, 1 << 63, 0);
        run(FloatOp::Fdiv, INSN, &mut state);
        assert_eq!((state.fpr(1), state.fpscr as u32), (0xfff0_0000_0000_0000, FX | ZX | 0x9000));
    }

    #[test]
    fn enabled_inexact_delivers_its_result() {
        let mut state = with(ONE, 0x4008_0000_0000_0000, 0x8);
        run(FloatOp::Fdiv, INSN, &mut state);
        // 1/3 rounds down.
        assert_eq!((state.fpr(1), state.fpscr as u32), (0x3fd5_5555_5555_5555, FX | FEX | XX | FI | 0x4008));
    }

    #[test]
    fn conversion_of_a_signaling_nan() {
        let mut state = with(0, SNAN, 0);
        run(FloatOp::Fctidz, INSN, &mut state);
        assert_eq!((state.fpr(1), state.fpscr as u32), (1 << 63, FX | VX | VXSNAN | VXCVI));
        // Rounding to single keeps the front of the payload.
        let mut state = with(0, 0x7ff4_0000_2fff_ffff, 0);
        run(FloatOp::Frsp, INSN, &mut state);
        assert_eq!((state.fpr(1), state.fpscr as u32 & FPRF), (0x7ffc_0000_2000_0000, 0x1_1000));
    }

    #[test]
    fn rounding_to_an_integer_is_silent() {
        let mut state = with(0, 0x4004_0000_0000_0000, u64::from(FI | FR));
        run(FloatOp::Frin, INSN, &mut state);
        // 2.5 goes away from zero, and nothing is said of it.
        assert_eq!((state.fpr(1), state.fpscr as u32), (0x4008_0000_0000_0000, 0x4000));
    }

    #[test]
    fn fields_of_the_fpscr() {
        // mtfsf 0x80: field 0 only; FEX and VX are not written.
        let mut state = with(0, 0xffff_ffff, u64::from(OX));
        run(FloatOp::Mtfsf, 0x80 << 17 | 3 << 11, &mut state);
        assert_eq!(state.fpscr as u32, FX | OX);
        // W: the field of DRN.
        let mut state = with(0, u64::MAX, 0);
        run(FloatOp::Mtfsf, 0x01 << 17 | 1 << 16 | 3 << 11, &mut state);
        assert_eq!(state.fpscr, 7 << 32);
        // L: everything that can be written.
        run(FloatOp::Mtfsf, 1 << 25 | 3 << 11, &mut state);
        assert_eq!(state.fpscr, 0x7_ffff_f7ff);
        // mcrfs of field 2 (VXSNAN … in field 1; VXISI, VXIDI, VXZDZ, VXIMZ here) reads and clears exceptions.
        run(FloatOp::Mcrfs, 5 << 23 | 2 << 18, &mut state);
        assert_eq!((state.cr_field(5), state.fpscr as u32), (15, 0xff0f_f7ff));
        // FPRF is no exception and stays.
        run(FloatOp::Mcrfs, 5 << 23 | 4 << 18, &mut state);
        assert_eq!((state.cr_field(5), state.fpscr as u32), (15, 0xff0f_f7ff));
    }

    #[test]
    fn single_bits_of_the_fpscr() {
        let mut state = State::default();
        // VXSOFT is bit 53.
        run(FloatOp::Mtfsb1, 21 << 21, &mut state);
        assert_eq!(state.fpscr as u32, FX | VX | VXSOFT);
        run(FloatOp::Mtfsb0, 21 << 21 | 1, &mut state);
        assert_eq!((state.fpscr as u32, state.cr_field(1)), (FX, 8));
        // FEX cannot be set.
        run(FloatOp::Mtfsb1, 1 << 21, &mut state);
        assert_eq!(state.fpscr as u32, FX);
        run(FloatOp::Mtfsfi, 7 << 23 | 2 << 12, &mut state);
        assert_eq!(state.fpscr as u32, FX | 2);
    }

    #[test]
    fn the_family_of_mffs() {
        let before = 0x3_8207_5fff & WRITABLE;
        for (op, word, result, after) in [
            (FloatOp::Mffs, 1 << 21, before, before),
            (FloatOp::Mffsce, 1 << 21, before, before & !0xf8),
            (FloatOp::Mffscrn, INSN, 0x3_0000_00ff, before & !3 | 1),
            (FloatOp::Mffscrni, 1 << 21 | 2 << 11, 0x3_0000_00ff, before & !3 | 2),
            (FloatOp::Mffscdrni, 1 << 21 | 5 << 11, 0x3_0000_00ff, before & 0xffff_ffff | 5 << 32),
            (FloatOp::Mffsl, 1 << 21, 0x3_0007_50ff, before),
        ] {
            let mut state = with(0, 0x4_0000_0001, fpscr::summarized(before));
            run(op, word, &mut state);
            assert_eq!(
                state.fpr(1),
                if op == FloatOp::Mffs || op == FloatOp::Mffsce { fpscr::summarized(result) } else { result },
                "{op:?}"
            );
            assert_eq!(state.fpscr, fpscr::summarized(after), "{op:?}");
        }
    }

    #[test]
    fn storage_of_singles_pairs_and_words() {
        let mut state = State { msr: 1 << 63, ..State::default() };
        state.gpr[2] = 0x1000;
        // lfsu f1, -8(r2) of a denormal single.
        let mut memory = Cell { value: 1, ea: 0 };
        execute(FloatOp::Lfsu, Insn(1 << 21 | 2 << 16 | 0xfff8), &mut state, &mut memory).expect("served");
        assert_eq!((state.fpr(1), state.gpr[2], memory.ea), (f64::from(f32::from_bits(1)).to_bits(), 0xff8, 0xff8));
        execute(FloatOp::Stfs, Insn(1 << 21 | 2 << 16), &mut state, &mut memory).expect("served");
        assert_eq!(memory.value, 1);
        // The even register of a pair is the high half of the quadword.
        memory.value = 5 << 64 | 6;
        execute(FloatOp::Lfdp, Insn(6 << 21 | 2 << 16), &mut state, &mut memory).expect("served");
        assert_eq!((state.fpr(6), state.fpr(7)), (5, 6));
        memory.value = 0xffff_fffe;
        execute(FloatOp::Lfiwax, Insn(1 << 21 | 2 << 16 | 3 << 11), &mut state, &mut memory).expect("served");
        assert_eq!(state.fpr(1), (-2i64) as u64);
        execute(FloatOp::Lfiwzx, Insn(1 << 21 | 2 << 16 | 3 << 11), &mut state, &mut memory).expect("served");
        assert_eq!(state.fpr(1), 0xffff_fffe);
    }

    #[test]
    fn addresses_wrap_at_32_bits_outside_64_bit_mode() {
        let mut state = State::default();
        state.gpr[2] = 0xffff_fffc;
        let mut memory = Cell { value: 0, ea: 0 };
        execute(FloatOp::Lfd, Insn(1 << 21 | 2 << 16 | 8), &mut state, &mut memory).expect("served");
        assert_eq!(memory.ea, 4);
        // RA 0 means zero, not r0.
        state.gpr[0] = 0x100;
        execute(FloatOp::Lfd, Insn(1 << 21 | 8), &mut state, &mut memory).expect("served");
        assert_eq!(memory.ea, 8);
    }

    #[test]
    fn selection_and_signs() {
        let mut state = with(1 << 63, 7, 0);
        state.set_fpr(4, 9);
        run(FloatOp::Fsel, INSN, &mut state);
        assert_eq!(state.fpr(1), 9);
        state.set_fpr(2, SNAN);
        run(FloatOp::Fsel, INSN, &mut state);
        assert_eq!((state.fpr(1), state.fpscr), (7, 0));
        state.set_fpr(2, 1 << 63);
        run(FloatOp::Fcpsgn, INSN, &mut state);
        assert_eq!(state.fpr(1), 1 << 63 | 7);
        let mut state = with(0x1111_2222_3333_4444, 0x5555_6666_7777_8888, 0);
        run(FloatOp::Fmrgew, INSN, &mut state);
        assert_eq!(state.fpr(1), 0x1111_2222_5555_6666);
        run(FloatOp::Fmrgow, INSN, &mut state);
        assert_eq!(state.fpr(1), 0x3333_4444_7777_8888);
    }

    #[test]
    fn underflow_of_a_single_is_judged_by_its_own_range() {
        // 2^-140 · 2^-5: a denormal single, exact; its class is denormal although the register holds a normal double.
        let mut state = with((1023 - 140) << 52, (1023 + 5) << 52, 0);
        run(FloatOp::Fdivs, INSN, &mut state);
        assert_eq!((state.fpr(1), state.fpscr as u32), ((1023 - 145) << 52, 0x1_4000));
        let mut state = with((1023 - 140) << 52 | 1, (1023 + 5) << 52, 0);
        run(FloatOp::Fdivs, INSN, &mut state);
        assert_eq!(state.fpscr as u32, FX | UX | XX | FI | 0x1_4000);
    }
}
