//! Vector arithmetic, comparison and conversion (ISA 3.0B I 7.6.4 to 7.6.7).

use super::element::{Gathered, as_double, count, each, each_outcome, in_class, low_half, number, raw};
use super::scalar::{extreme, signaling, significand, unordered_flags};
use crate::state::State;
use crate::table::{Insn, VsxOp};
use crate::vector::fpscr;
use crate::vector::lanes::{build, map, zip};
use crate::vector::operation::{self, MADD, MSUB, NMADD, NMSUB, multiply_add};
use crate::vector::scalar::{test_divide, test_square_root, to_integral};
use crate::vector::softfloat::convert::{
    Integer, SIGNED_DOUBLEWORD, SIGNED_WORD, UNSIGNED_DOUBLEWORD, UNSIGNED_WORD, from_signed, from_unsigned, to_integer,
};
use crate::vector::softfloat::round::{Rounding, round, round_to_integer};
use crate::vector::softfloat::{DOUBLE, Format, HALF, Number, SINGLE, pack};

const SIGNS_DP: u128 = 1 << 127 | 1 << 63;
const SIGNS_SP: u128 = 1 << 127 | 1 << 95 | 1 << 63 | 1 << 31;

/// Executes one instruction and returns the target's new value, or `None` if there is none or an enabled exception suppresses it.
pub(super) fn execute(op: VsxOp, insn: Insn, state: &mut State) -> Option<u128> {
    use VsxOp::*;
    let (a, b) = (state.vsr[insn.xa()], state.vsr[insn.xb()]);
    match op {
        Xvabsdp => Some(b & !SIGNS_DP),
        Xvabssp => Some(b & !SIGNS_SP),
        Xvnabsdp => Some(b | SIGNS_DP),
        Xvnabssp => Some(b | SIGNS_SP),
        Xvnegdp => Some(b ^ SIGNS_DP),
        Xvnegsp => Some(b ^ SIGNS_SP),
        Xvcpsgndp => Some(a & SIGNS_DP | b & !SIGNS_DP),
        Xvcpsgnsp => Some(a & SIGNS_SP | b & !SIGNS_SP),

        Xvcmpeqdp | Xvcmpgtdp | Xvcmpgedp => compare_each(op, insn, state, DOUBLE),
        Xvcmpeqsp | Xvcmpgtsp | Xvcmpgesp => compare_each(op, insn, state, SINGLE),
        Xvtdivdp | Xvtdivsp | Xvtsqrtdp | Xvtsqrtsp => {
            test_each(op, insn, state);
            None
        }

        Xvcvdpsp => convert_format(state, b, DOUBLE, SINGLE),
        Xvcvspdp => convert_format(state, b, SINGLE, DOUBLE),
        Xvcvhpsp => Gathered::new(4, |i| {
            let half = low_half(b, i);
            (pack(half.quieted(), SINGLE) as u64, signaling(half))
        })
        .conclude(state),
        Xvcvsphp => {
            let environment = fpscr::environment(state);
            Gathered::new(4, |i| {
                let x = number(b, SINGLE, i);
                let (rounded, flags) = round(x.quieted().truncated_payload(HALF), HALF, environment);
                (pack(rounded, HALF) as u64, flags | signaling(x))
            })
            .conclude(state)
        }
        Xvcvdpsxds => convert_to_integers(state, b, DOUBLE, SIGNED_DOUBLEWORD),
        Xvcvdpuxds => convert_to_integers(state, b, DOUBLE, UNSIGNED_DOUBLEWORD),
        Xvcvdpsxws => convert_to_integers(state, b, DOUBLE, SIGNED_WORD),
        Xvcvdpuxws => convert_to_integers(state, b, DOUBLE, UNSIGNED_WORD),
        Xvcvspsxds => convert_to_integers(state, b, SINGLE, SIGNED_DOUBLEWORD),
        Xvcvspuxds => convert_to_integers(state, b, SINGLE, UNSIGNED_DOUBLEWORD),
        Xvcvspsxws => convert_to_integers(state, b, SINGLE, SIGNED_WORD),
        Xvcvspuxws => convert_to_integers(state, b, SINGLE, UNSIGNED_WORD),
        Xvcvsxddp => each(state, DOUBLE, |i| (from_signed(raw(b, DOUBLE, i) as i64), 0)),
        Xvcvuxddp => each(state, DOUBLE, |i| (from_unsigned(raw(b, DOUBLE, i)), 0)),
        Xvcvsxwdp => each(state, DOUBLE, |i| (from_signed(i64::from(raw(b, SINGLE, 2 * i) as i32)), 0)),
        Xvcvuxwdp => each(state, DOUBLE, |i| (from_unsigned(raw(b, SINGLE, 2 * i)), 0)),
        Xvcvsxwsp => each(state, SINGLE, |i| (from_signed(i64::from(raw(b, SINGLE, i) as i32)), 0)),
        Xvcvuxwsp => each(state, SINGLE, |i| (from_unsigned(raw(b, SINGLE, i)), 0)),
        Xvcvsxdsp => round_to_words(state, |i| (from_signed(raw(b, DOUBLE, i) as i64), 0)),
        Xvcvuxdsp => round_to_words(state, |i| (from_unsigned(raw(b, DOUBLE, i)), 0)),
        Xvrdpic => round_by_mode(state, b, DOUBLE),
        Xvrspic => round_by_mode(state, b, SINGLE),

        Xvxexpdp => Some(map::<u64>(b, |x| x >> 52 & 0x7ff)),
        Xvxexpsp => Some(map::<u32>(b, |x| x >> 23 & 0xff)),
        Xvxsigdp => Some(map::<u64>(b, |x| significand(x, DOUBLE))),
        Xvxsigsp => Some(map::<u32>(b, |x| significand(x.into(), SINGLE) as u32)),
        Xviexpdp => Some(zip::<u64>(a, b, |x, y| x & 0x800f_ffff_ffff_ffff | (y & 0x7ff) << 52)),
        Xviexpsp => Some(zip::<u32>(a, b, |x, y| x & 0x807f_ffff | (y & 0xff) << 23)),
        Xvtstdcdp => Some(build::<u64>(|i| if in_class(number(b, DOUBLE, i), DOUBLE, class_mask(insn)) { u64::MAX } else { 0 })),
        Xvtstdcsp => Some(build::<u32>(|i| if in_class(number(b, SINGLE, i), SINGLE, class_mask(insn)) { u32::MAX } else { 0 })),
        _ => arithmetic(op, insn, state),
    }
}

/// Instructions that do the same in every element of both formats, as the table has them.
fn arithmetic(op: VsxOp, insn: Insn, state: &mut State) -> Option<u128> {
    use VsxOp::*;
    let format = match op {
        Xvadddp | Xvsubdp | Xvmuldp | Xvdivdp | Xvmaxdp | Xvmindp | Xvsqrtdp | Xvredp | Xvrsqrtedp | Xvrdpi | Xvrdpim
        | Xvrdpip | Xvrdpiz | Xvmaddadp | Xvmaddmdp | Xvmsubadp | Xvmsubmdp | Xvnmaddadp | Xvnmaddmdp | Xvnmsubadp
        | Xvnmsubmdp => DOUBLE,
        _ => SINGLE,
    };
    let (xa, xb, xt) = (state.vsr[insn.xa()], state.vsr[insn.xb()], state.vsr[insn.xt()]);
    let a = |i| number(xa, format, i);
    let b = |i| number(xb, format, i);
    let environment = fpscr::environment(state);
    // The same in double format.
    let p = |i| as_double(xa, format, i);
    let q = |i| as_double(xb, format, i);
    let r = |i| as_double(xt, format, i);
    match op {
        Xvadddp | Xvaddsp => each_outcome(state, format, |i| operation::add(p(i), q(i), format, environment)),
        Xvsubdp | Xvsubsp => each_outcome(state, format, |i| operation::subtract(p(i), q(i), format, environment)),
        Xvmuldp | Xvmulsp => each_outcome(state, format, |i| operation::multiply(p(i), q(i), format, environment)),
        Xvdivdp | Xvdivsp => each_outcome(state, format, |i| operation::divide(p(i), q(i), format, environment)),
        Xvsqrtdp | Xvsqrtsp => each_outcome(state, format, |i| operation::square_root(q(i), format, environment)),
        Xvredp | Xvresp => each_outcome(state, format, |i| operation::reciprocal(q(i), format, environment)),
        Xvrsqrtedp | Xvrsqrtesp => each_outcome(state, format, |i| operation::reciprocal_root(q(i), format, environment)),
        Xvmaxdp | Xvmaxsp | Xvmindp | Xvminsp => {
            let least = matches!(op, Xvmindp | Xvminsp);
            // Nothing is rounded: a denormal number is no underflow.
            Gathered::new(count(format), |i| (pack(extreme(a(i), b(i), least), format) as u64, signaling(a(i)) | signaling(b(i))))
                .conclude(state)
        }
        Xvmaddadp | Xvmaddasp => each_outcome(state, format, |i| multiply_add([p(i), q(i), r(i)], MADD, format, environment)),
        Xvmaddmdp | Xvmaddmsp => each_outcome(state, format, |i| multiply_add([p(i), r(i), q(i)], MADD, format, environment)),
        Xvmsubadp | Xvmsubasp => each_outcome(state, format, |i| multiply_add([p(i), q(i), r(i)], MSUB, format, environment)),
        Xvmsubmdp | Xvmsubmsp => each_outcome(state, format, |i| multiply_add([p(i), r(i), q(i)], MSUB, format, environment)),
        Xvnmaddadp | Xvnmaddasp => each_outcome(state, format, |i| multiply_add([p(i), q(i), r(i)], NMADD, format, environment)),
        Xvnmaddmdp | Xvnmaddmsp => each_outcome(state, format, |i| multiply_add([p(i), r(i), q(i)], NMADD, format, environment)),
        Xvnmsubadp | Xvnmsubasp => each_outcome(state, format, |i| multiply_add([p(i), q(i), r(i)], NMSUB, format, environment)),
        Xvnmsubmdp | Xvnmsubmsp => each_outcome(state, format, |i| multiply_add([p(i), r(i), q(i)], NMSUB, format, environment)),
        Xvrdpi | Xvrspi => each(state, format, |i| to_integral(b(i), Rounding::NearestAway)),
        Xvrdpim | Xvrspim => each(state, format, |i| to_integral(b(i), Rounding::Down)),
        Xvrdpip | Xvrspip => each(state, format, |i| to_integral(b(i), Rounding::Up)),
        Xvrdpiz | Xvrspiz => each(state, format, |i| to_integral(b(i), Rounding::TowardZero)),
        // The caller passes vector arithmetic only, and these are all.
        _ => None,
    }
}

/// DCMX of xvtstdcdp and xvtstdcsp: dc || dm || dx.
fn class_mask(insn: Insn) -> u32 {
    insn.bits(25, 25) << 6 | insn.bits(29, 29) << 5 | insn.bits(11, 15)
}

/// xvcmpeqdp and the like, with CR6 if the record bit (21) is set.
fn compare_each(op: VsxOp, insn: Insn, state: &mut State, format: Format) -> Option<u128> {
    use VsxOp::*;
    let (xa, xb) = (state.vsr[insn.xa()], state.vsr[insn.xb()]);
    let ordered = !matches!(op, Xvcmpeqdp | Xvcmpeqsp);
    let ones = u64::MAX >> (64 - 128 / count(format) as u32);
    let (mut all, mut none) = (true, true);
    let gathered = Gathered::new(count(format), |i| {
        let (p, q) = (f64::from_bits(as_double(xa, format, i)), f64::from_bits(as_double(xb, format, i)));
        let holds = match op {
            Xvcmpeqdp | Xvcmpeqsp => p == q,
            Xvcmpgtdp | Xvcmpgtsp => p > q,
            _ => p >= q,
        };
        (all, none) = (all && holds, none && !holds);
        let flags = if p.is_nan() || q.is_nan() {
            unordered_flags(state, number(xa, format, i), number(xb, format, i), ordered)
        } else {
            0
        };
        (if holds { ones } else { 0 }, flags)
    });
    if insn.bits(21, 21) != 0 {
        state.set_cr_field(6, u32::from(all) << 3 | u32::from(none) << 1);
    }
    gathered.conclude(state)
}

/// xvtdivdp and the like: what any element says counts.
fn test_each(op: VsxOp, insn: Insn, state: &mut State) {
    use VsxOp::*;
    let (a, b) = (state.vsr[insn.xa()], state.vsr[insn.xb()]);
    let format = if matches!(op, Xvtdivdp | Xvtsqrtdp) { DOUBLE } else { SINGLE };
    let bits = (0..count(format)).fold(0, |bits, i| {
        bits | match op {
            Xvtdivdp | Xvtdivsp => test_divide(raw(a, format, i), raw(b, format, i), format),
            _ => test_square_root(raw(b, format, i), format),
        }
    });
    state.set_cr_field(insn.bf(), bits);
}

/// Doublewords to words 0 and 2 (words 1 and 3, undefined in the ISA, get the same), rounded to single precision.
fn round_to_words(state: &mut State, f: impl Fn(usize) -> (Number, u32)) -> Option<u128> {
    let environment = fpscr::environment(state);
    Gathered::new(2, |i| {
        let (exact, flags) = f(i);
        let (rounded, more) = round(exact.truncated_payload(SINGLE), SINGLE, environment);
        (twice(pack(rounded, SINGLE) as u32), flags | more)
    })
    .conclude(state)
}

fn twice(word: u32) -> u64 {
    u64::from(word) << 32 | u64::from(word)
}

/// xvcvdpsp and xvcvspdp; single precision is in words 0 and 2.
fn convert_format(state: &mut State, b: u128, from: Format, to: Format) -> Option<u128> {
    if to == SINGLE {
        return round_to_words(state, |i| {
            let x = number(b, from, i);
            (x.quieted(), signaling(x))
        });
    }
    Gathered::new(2, |i| {
        let x = number(b, from, 2 * i);
        (pack(x.quieted(), to) as u64, signaling(x))
    })
    .conclude(state)
}

/// Conversion to integers toward zero. Where the sizes differ, words 0 and 2 stand for doublewords 0 and 1.
fn convert_to_integers(state: &mut State, b: u128, format: Format, integer: Integer) -> Option<u128> {
    let convert = |x: Number| to_integer(x, integer, Rounding::TowardZero);
    let gathered = match (format == DOUBLE, integer.bits) {
        (true, 64) => Gathered::new(2, |i| convert(number(b, DOUBLE, i))),
        (true, _) => Gathered::new(2, |i| {
            let (word, flags) = convert(number(b, DOUBLE, i));
            (twice(word as u32), flags)
        }),
        (false, 64) => Gathered::new(2, |i| convert(number(b, SINGLE, 2 * i))),
        (false, _) => Gathered::new(4, |i| convert(number(b, SINGLE, i))),
    };
    gathered.conclude(state)
}

/// xvrdpic, xvrspic: to an integer by RN, with the inexact exception.
fn round_by_mode(state: &mut State, b: u128, format: Format) -> Option<u128> {
    let rounding = fpscr::rounding(state);
    Gathered::new(count(format), |i| {
        let x = number(b, format, i);
        let (rounded, inexact, incremented) = round_to_integer(x.quieted(), rounding);
        (pack(rounded, format) as u64, signaling(x) | fpscr::inexact(inexact, incremented))
    })
    .conclude(state)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vector::fpscr::{FX, OE, OX, UE, VX, VXSNAN, VXVC, XX, ZX};
    use crate::vector::lanes::Lane;

    /// XT 1, XA 2, XB 3, record bit on.
    const INSN: Insn = Insn(1 << 21 | 2 << 16 | 3 << 11 | 1 << 10);

    fn run(op: VsxOp, a: u128, b: u128, fpscr: u32) -> (Option<u128>, State) {
        let mut state = State { fpscr: fpscr.into(), ..State::default() };
        (state.vsr[2], state.vsr[3]) = (a, b);
        (execute(op, INSN, &mut state), state)
    }

    fn singles(values: [f32; 4]) -> u128 {
        u32::join(values.map(f32::to_bits))
    }

    fn doubles(values: [f64; 2]) -> u128 {
        u64::join(values.map(f64::to_bits))
    }

    #[test]
    fn a_denormal_maximum_is_no_underflow() {
        let tiny = singles([f32::from_bits(9), 0.0, f32::from_bits(0x7f_ffff), -0.0]);
        let (result, state) = run(VsxOp::Xvmaxsp, tiny, 0, UE);
        assert_eq!((result, state.fpscr as u32), (Some(tiny & !SIGNS_SP), UE));
    }

    #[test]
    fn every_element_by_itself_and_flags_together() {
        let (result, state) = run(VsxOp::Xvdivsp, singles([1.0, 1.0, 0.5, 1e38]), singles([2.0, 0.0, 0.25, 1e-10]), 0);
        assert_eq!(result, Some(singles([0.5, f32::INFINITY, 2.0, f32::INFINITY])));
        // No FR, FI, FPRF.
        assert_eq!(state.fpscr as u32, FX | ZX | OX | XX);
        let (result, _) = run(VsxOp::Xvmuldp, doubles([3.0, f64::MAX]), doubles([-0.5, 2.0]), OE);
        assert_eq!(result, None);
    }

    #[test]
    fn comparisons_record_all_and_none() {
        let (result, state) = run(VsxOp::Xvcmpgtsp, singles([2.0; 4]), singles([1.0; 4]), 0);
        assert_eq!((result, state.cr_field(6)), (Some(u128::MAX), 8));
        let (result, state) = run(VsxOp::Xvcmpeqdp, doubles([1.0, f64::NAN]), doubles([1.0, f64::NAN]), 0);
        assert_eq!((result, state.cr_field(6), state.fpscr), (Some(u128::MAX << 64), 0, 0));
        let snan = u128::from(0x7ff0_0000_0000_0001u64);
        let (result, state) = run(VsxOp::Xvcmpgedp, snan, 0, 0);
        assert_eq!((result, state.fpscr as u32), (Some(u128::MAX << 64), FX | VX | VXSNAN | VXVC));
    }

    #[test]
    fn words_of_doublewords() {
        let (result, _) = run(VsxOp::Xvcvdpsp, 0, doubles([1.5, -2.0]), 0);
        assert_eq!(result.map(|r| [(r >> 96) as u32, (r >> 32) as u32]), Some([0x3fc0_0000, 0xc000_0000]));
        let (result, _) = run(VsxOp::Xvcvspdp, 0, singles([1.5, 9.0, -2.0, 9.0]), 0);
        assert_eq!(result, Some(doubles([1.5, -2.0])));
        let (result, _) = run(VsxOp::Xvcvsxwdp, 0, 0xffff_fffe_0000_0009_0000_0003_0000_0009, 0);
        assert_eq!(result, Some(doubles([-2.0, 3.0])));
        let (result, _) = run(VsxOp::Xvcvspuxds, 0, singles([3.5, 9.0, 8.0, 9.0]), 0);
        assert_eq!(result, Some(3 << 64 | 8));
    }

    #[test]
    fn halves() {
        let (result, _) = run(VsxOp::Xvcvhpsp, 0, 0x0000_3c00_ffff_c000_0000_0001_0000_7c00, 0);
        assert_eq!(result, Some(singles([1.0, -2.0, 2f32.powi(-24), f32::INFINITY])));
        let (result, _) = run(VsxOp::Xvcvsphp, 0, singles([1.0, -2.0, 2f32.powi(-24), 1e6]), 0);
        assert_eq!(result, Some(0x0000_3c00_0000_c000_0000_0001_0000_7c00));
    }
}
