//! A register as elements, in the ISA's order: element 0 is the most significant.

/// An element type of a 128-bit register.
pub(super) trait Lane: Copy {
    /// All elements of one register.
    type Lanes: Copy + AsRef<[Self]> + AsMut<[Self]>;
    /// All bits zero.
    const ZEROS: Self;
    /// All bits one.
    const ONES: Self;

    /// The elements of `register`.
    fn split(register: u128) -> Self::Lanes;
    /// The register with these elements.
    fn join(lanes: Self::Lanes) -> u128;
    /// The elements in the host's order, for what does not look at their numbers.
    fn unordered(register: u128) -> Self::Lanes;
    /// The register with these elements in the host's order.
    fn from_unordered(lanes: Self::Lanes) -> u128;
}

macro_rules! lane {
    ($type:ty, $size:literal) => {
        impl Lane for $type {
            type Lanes = [$type; 16 / $size];
            const ZEROS: Self = 0;
            const ONES: Self = !0;

            #[inline]
            fn split(register: u128) -> Self::Lanes {
                let bytes = register.to_be_bytes();
                std::array::from_fn(|i| <$type>::from_be_bytes(std::array::from_fn(|k| bytes[$size * i + k])))
            }

            #[inline]
            fn join(lanes: Self::Lanes) -> u128 {
                let mut bytes = [0; 16];
                for (to, lane) in bytes.chunks_exact_mut($size).zip(lanes) {
                    to.copy_from_slice(&lane.to_be_bytes());
                }
                u128::from_be_bytes(bytes)
            }

            #[inline]
            fn unordered(register: u128) -> Self::Lanes {
                let bytes = register.to_ne_bytes();
                std::array::from_fn(|i| <$type>::from_ne_bytes(std::array::from_fn(|k| bytes[$size * i + k])))
            }

            #[inline]
            fn from_unordered(lanes: Self::Lanes) -> u128 {
                let mut bytes = [0; 16];
                for (to, lane) in bytes.chunks_exact_mut($size).zip(lanes) {
                    to.copy_from_slice(&lane.to_ne_bytes());
                }
                u128::from_ne_bytes(bytes)
            }
        }
    };
}

lane!(u8, 1);
lane!(i8, 1);
lane!(u16, 2);
lane!(i16, 2);
lane!(u32, 4);
lane!(i32, 4);
lane!(u64, 8);
lane!(i64, 8);

/// Builds a register from a function of the element's number.
#[inline]
pub(super) fn build<T: Lane>(mut f: impl FnMut(usize) -> T) -> u128 {
    let mut lanes = T::split(0);
    for (i, lane) in lanes.as_mut().iter_mut().enumerate() {
        *lane = f(i);
    }
    T::join(lanes)
}

/// Applies `f` to every element.
#[inline]
pub(super) fn map<T: Lane>(a: u128, mut f: impl FnMut(T) -> T) -> u128 {
    let mut lanes = T::unordered(a);
    for lane in lanes.as_mut() {
        *lane = f(*lane);
    }
    T::from_unordered(lanes)
}

/// Applies `f` to every pair of elements.
#[inline]
pub(super) fn zip<T: Lane>(a: u128, b: u128, mut f: impl FnMut(T, T) -> T) -> u128 {
    let (mut lanes, b) = (T::unordered(a), T::unordered(b));
    for (lane, &b) in lanes.as_mut().iter_mut().zip(b.as_ref()) {
        *lane = f(*lane, b);
    }
    T::from_unordered(lanes)
}

/// Applies `f` to every three elements.
#[inline]
pub(super) fn zip3<T: Lane>(a: u128, b: u128, c: u128, mut f: impl FnMut(T, T, T) -> T) -> u128 {
    let (mut lanes, b, c) = (T::unordered(a), T::unordered(b), T::unordered(c));
    for ((lane, &b), &c) in lanes.as_mut().iter_mut().zip(b.as_ref()).zip(c.as_ref()) {
        *lane = f(*lane, b, c);
    }
    T::from_unordered(lanes)
}

/// All ones in the elements for which `f` holds, zeros in the others.
#[inline]
pub(super) fn compare<T: Lane>(a: u128, b: u128, f: impl Fn(T, T) -> bool) -> u128 {
    zip(a, b, |x: T, y| if f(x, y) { T::ONES } else { T::ZEROS })
}

/// Element `index` (modulo the number of elements) in all places.
#[inline]
pub(super) fn splat<T: Lane>(a: u128, index: usize) -> u128 {
    let lanes = T::split(a);
    let lanes = lanes.as_ref();
    let value = lanes[index % lanes.len()];
    build(|_| value)
}

/// The elements of `a` and `b`, made narrower.
#[inline]
pub(super) fn pack<W: Lane, N: Lane>(a: u128, b: u128, mut f: impl FnMut(W) -> N) -> u128 {
    let (a, b) = (W::split(a), W::split(b));
    let mut out = N::split(0);
    for (to, &from) in out.as_mut().iter_mut().zip(a.as_ref().iter().chain(b.as_ref())) {
        *to = f(from);
    }
    N::join(out)
}

/// Half of the elements of `a`, made wider: the first half, or the last if `low`.
#[inline]
pub(super) fn unpack<N: Lane, W: Lane>(a: u128, low: bool, f: impl Fn(N) -> W) -> u128 {
    let lanes = N::split(a);
    let lanes = lanes.as_ref();
    let first = if low { lanes.len() / 2 } else { 0 };
    build(|i| f(lanes[first + i]))
}

/// Elements of the first (or, if `low`, the last) halves of `a` and `b` in turn.
#[inline]
pub(super) fn merge<T: Lane>(a: u128, b: u128, low: bool) -> u128 {
    let (a, b) = (T::split(a), T::split(b));
    let (a, b) = (a.as_ref(), b.as_ref());
    let first = if low { a.len() / 2 } else { 0 };
    build(|i| if i % 2 == 0 { a[first + i / 2] } else { b[first + i / 2] })
}

/// Combines the even (or, if `odd`, the odd) elements of `a` and `b` into wider ones.
#[inline]
pub(super) fn alternate<N: Lane, W: Lane>(a: u128, b: u128, odd: bool, f: impl Fn(N, N) -> W) -> u128 {
    let (a, b) = (N::split(a), N::split(b));
    let (a, b) = (a.as_ref(), b.as_ref());
    build(|i| f(a[2 * i + usize::from(odd)], b[2 * i + usize::from(odd)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: u128 = 0x0001_0203_0405_0607_0809_0a0b_0c0d_0e0f;

    #[test]
    fn element_zero_is_most_significant() {
        assert_eq!(u8::split(BYTES)[0], 0);
        assert_eq!(u8::split(BYTES)[15], 15);
        assert_eq!(u32::split(BYTES), [0x0001_0203, 0x0405_0607, 0x0809_0a0b, 0x0c0d_0e0f]);
        assert_eq!(u64::join(u64::split(BYTES)), BYTES);
        assert_eq!(splat::<u16>(BYTES, 1), 0x0203_0203_0203_0203_0203_0203_0203_0203);
    }

    #[test]
    fn signed_elements_do_not_leak_their_sign() {
        assert_eq!(i16::join([0, -1, 0, 0, 0, 0, 0, -2]), 0xffff_0000_0000_0000_0000_0000_fffe);
        assert_eq!(unpack::<i8, i16>(0x80 << 120, false, i16::from), 0xff80 << 112);
    }

    #[test]
    fn merge_and_pack_take_a_first() {
        assert_eq!(merge::<u32>(BYTES, !BYTES, false), 0x0001_0203_fffe_fdfc_0405_0607_fbfa_f9f8);
        assert_eq!(pack::<u16, u8>(BYTES, !BYTES, |x| x as u8), 0x0103_0507_090b_0d0f_fefc_faf8_f6f4_f2f0);
    }
}
