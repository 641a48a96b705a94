//! Elements of a register as numbers, and results of vector instructions (ISA 3.0B I 7.6.1).

use crate::state::State;
use crate::vector::fpscr;
use crate::vector::operation::Outcome;
use crate::vector::softfloat::convert::{double_to_single, single_to_double};
use crate::vector::softfloat::round::round;
use crate::vector::softfloat::{DOUBLE, Format, HALF, Number, SINGLE, pack, unpack};

/// Bits of an element of this format.
const fn width(format: Format) -> u32 {
    1 + format.exponent_bits() + format.fraction_bits()
}

/// Element `index` of `register`, if it is divided into elements as wide as `format`.
pub(super) fn raw(register: u128, format: Format, index: usize) -> u64 {
    let width = width(format);
    (register << (width * index as u32) >> (128 - width)) as u64
}

/// The same as a number.
pub(super) fn number(register: u128, format: Format, index: usize) -> Number {
    unpack(raw(register, format, index).into(), format)
}

/// The number of elements of this format in a register.
pub(super) const fn count(format: Format) -> usize {
    (128 / width(format)) as usize
}

/// The high doubleword as a number.
pub(super) fn scalar(register: u128) -> Number {
    number(register, DOUBLE, 0)
}

/// Gathers elements and the exceptions that they cause.
pub(super) struct Gathered {
    bits: u128,
    flags: u32,
}

impl Gathered {
    /// Calls `f` for each of `elements` numbered places; it returns the element and its FPSCR bits. Elements are placed from the left, each
    /// in `128 / elements` bits.
    pub fn new(elements: usize, mut f: impl FnMut(usize) -> (u64, u32)) -> Self {
        let shift = (128 / elements as u32) % 128;
        let mut gathered = Self { bits: 0, flags: 0 };
        for i in 0..elements {
            let (bits, flags) = f(i);
            gathered.bits = gathered.bits << shift | u128::from(bits);
            gathered.flags |= flags;
        }
        gathered
    }

    /// Records the exceptions; the result, or `None` if one of them is enabled. FR, FI and FPRF stay.
    pub fn conclude(self, state: &mut State) -> Option<u128> {
        fpscr::raise(state, self.flags);
        (!fpscr::suppresses_vector(state, self.flags)).then_some(self.bits)
    }
}

/// Applies `f` to every element's number and rounds the exact results to the same format.
pub(super) fn each(state: &mut State, format: Format, f: impl Fn(usize) -> (Number, u32)) -> Option<u128> {
    let environment = fpscr::environment(state);
    Gathered::new(count(format), |i| {
        let (exact, flags) = f(i);
        let (number, more) = round(exact, format, environment);
        (pack(number, format) as u64, flags | more)
    })
    .conclude(state)
}

/// Element `index` in double format, which holds any single exactly; a signaling NaN stays one.
#[inline]
pub(super) fn as_double(register: u128, format: Format, index: usize) -> u64 {
    let bits = raw(register, format, index);
    if format == DOUBLE { bits } else { single_to_double(bits as u32) }
}

/// Gathers the outcome of an operation on each element.
#[inline]
pub(super) fn each_outcome(state: &mut State, format: Format, f: impl Fn(usize) -> Outcome) -> Option<u128> {
    Gathered::new(count(format), |i| {
        let outcome = f(i);
        (if format == DOUBLE { outcome.bits } else { double_to_single(outcome.bits).into() }, outcome.flags)
    })
    .conclude(state)
}

/// The classes that a data class mask (DCMX) names: true if `number` of `format` is in one of them.
pub(super) fn in_class(number: Number, format: Format, mask: u32) -> bool {
    use crate::vector::softfloat::Kind::*;
    let bit = match number.kind {
        QuietNan | SignalingNan => return mask & 0x40 != 0,
        Infinity => 0x20,
        Zero => 0x08,
        Finite if number.exponent < format.min_exponent() => 0x02,
        Finite => return false,
    };
    mask & if number.negative { bit >> 1 } else { bit } != 0
}

/// Which format a conversion of halves goes to or comes from: the low half of each element.
pub(super) fn low_half(register: u128, index: usize) -> Number {
    unpack((raw(register, SINGLE, index) & 0xffff).into(), HALF)
}
