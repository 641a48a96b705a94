//! Quad precision (ISA 3.0B I 7.6.4 to 7.6.7). Operands are VRs.

use super::scalar::{compare_exponents, condition_to_cr, record_class, signaling, test_class};
use crate::state::State;
use crate::table::{Insn, VsxOp};
use crate::vector::fpscr;
use crate::vector::scalar::{compare_to_cr, conclude_integer};
use crate::vector::softfloat::arithmetic::{add, divide, multiply, multiply_add, square_root};
use crate::vector::softfloat::convert::{
    Integer, SIGNED_DOUBLEWORD, SIGNED_WORD, UNSIGNED_DOUBLEWORD, UNSIGNED_WORD, from_signed, from_unsigned, to_integer,
};
use crate::vector::softfloat::round::{Environment, Rounding, round, round_to_integer};
use crate::vector::softfloat::{DOUBLE, EXTENDED, Format, Kind, Number, QUAD, class_flags, pack, unpack};

const SIGN: u128 = 1 << 127;
const EXPONENT: u128 = 0x7fff << 112;

/// Executes one instruction and returns the target's new value, or `None` if there is none or an enabled exception suppresses it.
pub(super) fn execute(op: VsxOp, insn: Insn, state: &mut State) -> Option<u128> {
    use VsxOp::*;
    let (va, vb, vt) = (state.vr(insn.ra()), state.vr(insn.rb()), state.vr(insn.rt()));
    let (a, b, t) = (unpack(va, QUAD), unpack(vb, QUAD), unpack(vt, QUAD));
    let mut environment = fpscr::environment(state);
    // In the arithmetic instructions bit 31 overrides the rounding mode.
    if insn.record() {
        environment.rounding = Rounding::Odd;
    }
    let rounding = environment.rounding;
    match op {
        Xsaddqp | Xsaddqpo => finish(state, environment, add(a, b, rounding), false),
        Xssubqp | Xssubqpo => finish(state, environment, add(a, b.negated(), rounding), false),
        Xsmulqp | Xsmulqpo => finish(state, environment, multiply(a, b), false),
        Xsdivqp | Xsdivqpo => finish(state, environment, divide(a, b, QUAD), false),
        Xssqrtqp | Xssqrtqpo => finish(state, environment, square_root(b, QUAD), false),
        Xsmaddqp | Xsmaddqpo => finish(state, environment, multiply_add(a, b, t, rounding), false),
        Xsmsubqp | Xsmsubqpo => finish(state, environment, multiply_add(a, b, t.negated(), rounding), false),
        Xsnmaddqp | Xsnmaddqpo => finish(state, environment, multiply_add(a, b, t, rounding), true),
        Xsnmsubqp | Xsnmsubqpo => finish(state, environment, multiply_add(a, b, t.negated(), rounding), true),

        Xsabsqp => Some(vb & !SIGN),
        Xsnabsqp => Some(vb | SIGN),
        Xsnegqp => Some(vb ^ SIGN),
        Xscpsgnqp => Some(va & SIGN | vb & !SIGN),
        Xsxexpqp => Some((vb >> 112 & 0x7fff) << 64),
        Xsxsigqp => {
            let implicit = b.kind == Kind::Finite && b.exponent >= QUAD.min_exponent();
            Some(vb & !(SIGN | EXPONENT) | u128::from(implicit) << 112)
        }
        Xsiexpqp => Some(va & !EXPONENT | (vb >> 64 & 0x7fff) << 112),

        Xscmpoqp | Xscmpuqp => {
            compare_to_cr(state, insn.bf(), a, b, op == Xscmpoqp);
            None
        }
        Xscmpexpqp => {
            let field = |x: u128| (x >> 112 & 0x7fff) as u32;
            condition_to_cr(state, insn, compare_exponents(a, b, field(va), field(vb)))
        }
        Xststdcqp => test_class(state, insn, b, QUAD, false),

        Xscvqpdp | Xscvqpdpo => {
            let (number, flags) = round(b.quieted().truncated_payload(DOUBLE), DOUBLE, environment);
            let flags = flags | signaling(b);
            record_class(state, flags, class_flags(number, DOUBLE)).then(|| pack(number, DOUBLE) << 64)
        }
        Xscvdpqp => {
            let double = unpack(vb >> 64, DOUBLE);
            finish(state, Environment::masked(rounding), (double.quieted(), signaling(double)), false)
        }
        Xscvsdqp => finish(state, environment, (from_signed((vb >> 64) as i64), 0), false),
        Xscvudqp => finish(state, environment, (from_unsigned((vb >> 64) as u64), 0), false),
        Xscvqpsdz => convert(state, b, SIGNED_DOUBLEWORD),
        Xscvqpudz => convert(state, b, UNSIGNED_DOUBLEWORD),
        Xscvqpswz => convert(state, b, SIGNED_WORD).map(|word| u128::from((word >> 64) as i32 as i64 as u64) << 64),
        Xscvqpuwz => convert(state, b, UNSIGNED_WORD),

        Xsrqpi | Xsrqpix => {
            let (number, inexact, incremented) = round_to_integer(b.quieted(), immediate_rounding(insn, state));
            let inexact = if op == Xsrqpix { fpscr::inexact(inexact, incremented) } else { 0 };
            let flags = signaling(b) | inexact;
            record_class(state, flags, class_flags(number, QUAD)).then(|| pack(number, QUAD))
        }
        Xsrqpxp => {
            let environment = Environment { rounding: immediate_rounding(insn, state), ..environment };
            let exact = (b.quieted().truncated_payload(EXTENDED), signaling(b));
            finish_in(state, environment, exact, false, EXTENDED)
        }
        // The caller passes quad-precision instructions only, and these are all.
        _ => None,
    }
}

/// Rounds, records and packs.
fn finish(state: &mut State, environment: Environment, exact: (Number, u32), negate: bool) -> Option<u128> {
    finish_in(state, environment, exact, negate, QUAD)
}

fn finish_in(state: &mut State, environment: Environment, exact: (Number, u32), negate: bool, format: Format) -> Option<u128> {
    let (number, more) = round(exact.0, format, environment);
    let number = if negate { number.negated() } else { number };
    record_class(state, exact.1 | more, class_flags(number, QUAD)).then(|| pack(number, QUAD))
}

/// Conversion to an integer toward zero, in the high doubleword.
fn convert(state: &mut State, b: Number, integer: Integer) -> Option<u128> {
    conclude_integer(state, to_integer(b, integer, Rounding::TowardZero)).map(|bits| u128::from(bits) << 64)
}

/// The mode that R and RMC select (ISA 3.0B I 7.6.6, xsrqpi). The two reserved combinations are taken as RN.
fn immediate_rounding(insn: Insn, state: &State) -> Rounding {
    match (insn.bits(15, 15), insn.bits(21, 22)) {
        (0, 0) => Rounding::NearestAway,
        (0, _) => fpscr::rounding(state),
        (_, 0) => Rounding::NearestEven,
        (_, 1) => Rounding::TowardZero,
        (_, 2) => Rounding::Up,
        _ => Rounding::Down,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vector::fpscr::{FI, FR, FX, OX, XX};

    const ONE: u128 = 0x3fff << 112;

    fn run(op: VsxOp, insn: u32, a: u128, b: u128, t: u128) -> (Option<u128>, u32) {
        let mut state = State::default();
        state.set_vr(1, t);
        state.set_vr(2, a);
        state.set_vr(3, b);
        let result = execute(op, Insn(1 << 21 | 2 << 16 | 3 << 11 | insn), &mut state);
        (result, state.fpscr as u32)
    }

    #[test]
    fn sums_round_to_nearest_or_to_odd() {
        // 1 + 2^-114: a quarter of the last place.
        let tiny = (0x3fff - 114) << 112;
        let class = 0x4000;
        assert_eq!(run(VsxOp::Xsaddqp, 0, ONE, tiny, 0), (Some(ONE), FX | XX | FI | class));
        assert_eq!(run(VsxOp::Xsaddqpo, 1, ONE, tiny, 0), (Some(ONE | 1), FX | XX | FI | FR | class));
        // To odd, an overflow is the largest number.
        let largest = (0x7fff << 112) - 1;
        assert_eq!(run(VsxOp::Xsaddqpo, 1, largest, largest, 0).0, Some(largest));
        assert_eq!(run(VsxOp::Xsaddqp, 0, largest, largest, 0), (Some(0x7fff << 112), FX | OX | XX | FI | FR | 0x5000));
    }

    #[test]
    fn fused_with_the_target() {
        let (two, three) = (0x4000 << 112, 0x4000 << 112 | 1 << 111);
        assert_eq!(run(VsxOp::Xsmaddqp, 0, two, three, ONE).0, Some(0x4001 << 112 | 0b11 << 110));
        assert_eq!(run(VsxOp::Xsnmsubqp, 0, two, ONE, ONE).0, Some(ONE | SIGN));
    }

    #[test]
    fn integers_by_the_immediate_mode() {
        // 2.5
        let x = 0x4000 << 112 | 1 << 110;
        let three = 0x4000 << 112 | 1 << 111;
        let rmc = |r: u32, rmc: u32| r << 16 | rmc << 9;
        // VRA overlaps R; the helper's register number there has R clear.
        assert_eq!(run(VsxOp::Xsrqpi, rmc(0, 0), 0, x, 0), (Some(three), 0x4000));
        assert_eq!(run(VsxOp::Xsrqpi, rmc(1, 0), 0, x, 0).0, Some(0x4000 << 112));
        assert_eq!(run(VsxOp::Xsrqpix, rmc(1, 2) | 1, 0, x, 0), (Some(three), FX | XX | FI | FR | 0x4000));
        // To 64 bits: 1 + 2^-64 is a tie.
        let tie = ONE | 1 << 48;
        assert_eq!(run(VsxOp::Xsrqpxp, rmc(1, 0), 0, tie, 0).0, Some(ONE));
        assert_eq!(run(VsxOp::Xsrqpxp, rmc(0, 0), 0, tie, 0).0, Some(ONE | 1 << 49));
    }

    #[test]
    fn conversions() {
        assert_eq!(run(VsxOp::Xscvqpdp, 0, 0, ONE | 1, 0).0, Some(u128::from(1.0f64.to_bits()) << 64));
        assert_eq!(run(VsxOp::Xscvqpdpo, 1, 0, ONE | 1, 0).0, Some(u128::from(1.0f64.to_bits() | 1) << 64));
        assert_eq!(run(VsxOp::Xscvdpqp, 0, 0, u128::from((-1.0f64).to_bits()) << 64, 0).0, Some(ONE | SIGN));
        assert_eq!(run(VsxOp::Xscvqpswz, 0, 0, ONE | SIGN, 0).0, Some(u128::from(u64::MAX) << 64));
        assert_eq!(run(VsxOp::Xscvsdqp, 0, 0, u128::from(u64::MAX) << 64, 0).0, Some(ONE | SIGN));
    }

    #[test]
    fn fields() {
        assert_eq!(run(VsxOp::Xsxexpqp, 0, 0, ONE, 0).0, Some(0x3fff << 64));
        assert_eq!(run(VsxOp::Xsxsigqp, 0, 0, ONE | 5, 0).0, Some(1 << 112 | 5));
        assert_eq!(run(VsxOp::Xsiexpqp, 0, SIGN | 5, 0x3fff << 64, 0).0, Some(ONE | SIGN | 5));
    }
}
