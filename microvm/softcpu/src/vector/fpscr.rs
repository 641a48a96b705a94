//! The floating-point status and control register (ISA 3.0B I 4.2.2) and what an instruction leaves in it.

use super::softfloat::round::{Environment, Rounding};
use crate::state::State;

/// Exception summary.
pub(super) const FX: u32 = 1 << 31;
/// Enabled exception summary.
pub(super) const FEX: u32 = 1 << 30;
/// Invalid operation summary.
pub(super) const VX: u32 = 1 << 29;
/// Overflow.
pub(super) const OX: u32 = 1 << 28;
/// Underflow.
pub(super) const UX: u32 = 1 << 27;
/// Zero divide.
pub(super) const ZX: u32 = 1 << 26;
/// Inexact.
pub(super) const XX: u32 = 1 << 25;
/// Invalid: signaling NaN.
pub(super) const VXSNAN: u32 = 1 << 24;
/// Invalid: ∞ - ∞.
pub(super) const VXISI: u32 = 1 << 23;
/// Invalid: ∞ ÷ ∞.
pub(super) const VXIDI: u32 = 1 << 22;
/// Invalid: 0 ÷ 0.
pub(super) const VXZDZ: u32 = 1 << 21;
/// Invalid: ∞ × 0.
pub(super) const VXIMZ: u32 = 1 << 20;
/// Invalid: comparison.
pub(super) const VXVC: u32 = 1 << 19;
/// Fraction rounded: the magnitude grew.
pub(super) const FR: u32 = 1 << 18;
/// Fraction inexact.
pub(super) const FI: u32 = 1 << 17;
/// Result flags: class, and the condition code.
pub(super) const FPRF: u32 = 0x1f << 12;
/// The condition code in FPRF.
pub(super) const FPCC: u32 = 0xf << 12;
/// Invalid: by software.
pub(super) const VXSOFT: u32 = 1 << 10;
/// Invalid: square root.
pub(super) const VXSQRT: u32 = 1 << 9;
/// Invalid: conversion to integer.
pub(super) const VXCVI: u32 = 1 << 8;
/// Invalid operation exception enable.
pub(super) const VE: u32 = 1 << 7;
/// Overflow exception enable.
pub(super) const OE: u32 = 1 << 6;
/// Underflow exception enable.
pub(super) const UE: u32 = 1 << 5;
/// Zero divide exception enable.
pub(super) const ZE: u32 = 1 << 4;
/// Inexact exception enable.
pub(super) const XE: u32 = 1 << 3;
/// Rounding mode.
pub(super) const RN: u32 = 3;

/// All causes of an invalid operation exception.
pub(super) const ALL_VX: u32 = VXSNAN | VXISI | VXIDI | VXZDZ | VXIMZ | VXVC | VXSOFT | VXSQRT | VXCVI;
/// All exception bits that stay set until cleared.
pub(super) const ALL_EXCEPTIONS: u32 = OX | UX | ZX | XX | ALL_VX;

/// XX, FI and FR of a rounding.
pub(super) fn inexact(inexact: bool, incremented: bool) -> u32 {
    match (inexact, incremented) {
        (false, _) => 0,
        (true, false) => XX | FI,
        (true, true) => XX | FI | FR,
    }
}

/// The mode that FPSCR\[RN\] selects.
pub(super) fn rounding(state: &State) -> Rounding {
    match state.fpscr as u32 & RN {
        0 => Rounding::NearestEven,
        1 => Rounding::TowardZero,
        2 => Rounding::Up,
        _ => Rounding::Down,
    }
}

/// What governs a rounding now.
pub(super) fn environment(state: &State) -> Environment {
    Environment {
        rounding: rounding(state),
        overflow_enabled: state.fpscr as u32 & OE != 0,
        underflow_enabled: state.fpscr as u32 & UE != 0,
    }
}

/// `fpscr` with the summary bits VX and FEX as the others make them.
pub(super) fn summarized(fpscr: u64) -> u64 {
    let low = fpscr as u32;
    let vx = if low & ALL_VX != 0 { VX } else { 0 };
    // VX, OX, UX, ZX, XX stand in the same order as VE, OE, UE, ZE, XE.
    let enabled = (low & (OX | UX | ZX | XX) | vx) >> 22 & low & (VE | OE | UE | ZE | XE);
    let fex = if enabled != 0 { FEX } else { 0 };
    fpscr & !u64::from(VX | FEX) | u64::from(vx | fex)
}

/// Sets exception bits; FX too if one of them was not set before.
pub(super) fn raise(state: &mut State, flags: u32) {
    let flags = flags & ALL_EXCEPTIONS;
    let new = flags & !(state.fpscr as u32);
    if new != 0 {
        state.fpscr |= u64::from(flags | FX);
        state.fpscr = summarized(state.fpscr);
    }
}

/// True if these exceptions are enabled in a way that suppresses the result of a scalar instruction: invalid operation or zero
/// divide (ISA 3.0B I 4.4.1, 4.4.2).
pub(super) fn suppresses(state: &State, flags: u32) -> bool {
    let fpscr = state.fpscr as u32;
    (flags & ALL_VX != 0 && fpscr & VE != 0) || (flags & ZX != 0 && fpscr & ZE != 0)
}

/// True if these exceptions suppress the result of a vector instruction: any enabled one (ISA 3.0B I 7.6.1).
pub(super) fn suppresses_vector(state: &State, flags: u32) -> bool {
    let fpscr = state.fpscr as u32;
    let vx = if flags & ALL_VX != 0 { VX } else { 0 };
    (flags & (OX | UX | ZX | XX) | vx) >> 22 & fpscr & (VE | OE | UE | ZE | XE) != 0
}

/// Records a scalar instruction: its exceptions, FR and FI, and FPRF if there is a result. Returns true if the target is to be written.
#[inline]
pub(super) fn scalar(state: &mut State, flags: u32, result_flags: u64) -> bool {
    let written = !suppresses(state, flags);
    state.fpscr &= !u64::from(FR | FI);
    if written {
        state.fpscr = state.fpscr & !u64::from(FPRF) | u64::from(flags & (FR | FI)) | result_flags;
    }
    raise(state, flags);
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_follow_their_parts() {
        assert_eq!(summarized(u64::from(VXCVI)), u64::from(VXCVI | VX));
        assert_eq!(summarized(u64::from(VXCVI | VE)), u64::from(VXCVI | VX | VE | FEX));
        assert_eq!(summarized(u64::from(FEX | VX | XX)), u64::from(XX));
        for (exception, enable) in [(OX, OE), (UX, UE), (ZX, ZE), (XX, XE)] {
            assert_eq!(summarized(u64::from(exception | enable)), u64::from(exception | enable | FEX));
        }
    }

    #[test]
    fn fx_is_set_by_a_new_exception_only() {
        let mut state = State { fpscr: u64::from(XX), ..State::default() };
        raise(&mut state, XX | FI);
        assert_eq!(state.fpscr, u64::from(XX));
        raise(&mut state, XX | OX);
        assert_eq!(state.fpscr, u64::from(XX | OX | FX));
    }

    #[test]
    fn suppressed_results_leave_fprf_and_clear_fr_fi() {
        let mut state = State { fpscr: u64::from(ZE | FR | FI | 0x1000), ..State::default() };
        assert!(!scalar(&mut state, ZX, 0x4000));
        assert_eq!(state.fpscr, u64::from(ZE | ZX | FX | FEX | 0x1000));
        assert!(scalar(&mut state, XX | FI | FR, 0x4000));
        assert_eq!(state.fpscr as u32 & (FPRF | FR | FI), 0x4000 | FR | FI);
    }
}
