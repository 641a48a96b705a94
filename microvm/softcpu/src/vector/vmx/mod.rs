//! Vector (VMX) instructions (ISA 3.0B I 6).

mod arithmetic;
mod crypto;
mod decimal;
mod float;
pub(super) mod permute;

use super::lanes::{alternate, build, compare, map, merge, pack, splat, unpack, zip};
use super::storage;
use super::swar::{BYTES, HALFWORDS};
use crate::exec::DataMemory;
use crate::mmu::Fault;
use crate::state::State;
use crate::table::{Insn, VmxOp};

/// VSCR\[SAT\]: an integer result was saturated.
const VSCR_SAT: u32 = 1;
/// VSCR\[NJ\]: denormalized numbers count as zero in the floating-point instructions of this class.
const VSCR_NJ: u32 = 1 << 16;

/// Zips with a saturating operation and notes in VSCR\[SAT\] where it differs from the wrapping one.
macro_rules! saturating {
    ($state:ident, $type:ty, $a:expr, $b:expr, $saturating:ident, $wrapping:ident) => {{
        let mut saturated = false;
        let result = zip::<$type>($a, $b, |x, y| {
            let sum = x.$saturating(y);
            saturated |= sum != x.$wrapping(y);
            sum
        });
        note_saturation($state, saturated);
        result
    }};
}

/// Packs with saturation to the bounds of the narrower type.
macro_rules! pack_saturating {
    ($state:ident, $wide:ty, $narrow:ty, $a:expr, $b:expr) => {{
        let mut saturated = false;
        let result = pack::<$wide, $narrow>($a, $b, |x| {
            <$narrow>::try_from(x).unwrap_or_else(|_| {
                saturated = true;
                if x > 0 { <$narrow>::MAX } else { <$narrow>::MIN }
            })
        });
        note_saturation($state, saturated);
        result
    }};
}

/// Executes one instruction of the class.
pub(super) fn execute(op: VmxOp, insn: Insn, state: &mut State, memory: &mut dyn DataMemory) -> Result<(), Fault> {
    use VmxOp::*;
    let (a, b) = (state.vr(insn.ra()), state.vr(insn.rb()));
    let uim = insn.ra();
    let result = match op {
        Lvebx => load_element(1, insn, state, memory)?,
        Lvehx => load_element(2, insn, state, memory)?,
        Lvewx => load_element(4, insn, state, memory)?,
        Lvx | Lvxl => memory.load(storage::indexed(insn, state) & !15, 16)?,
        Stvebx => return store_element(1, insn, state, memory),
        Stvehx => return store_element(2, insn, state, memory),
        Stvewx => return store_element(4, insn, state, memory),
        Stvx | Stvxl => return memory.store(storage::indexed(insn, state) & !15, 16, state.vr(insn.rt())),
        Lvsl => build(|i| (storage::indexed(insn, state) & 15) as u8 + i as u8),
        Lvsr => build(|i| 16 - (storage::indexed(insn, state) & 15) as u8 + i as u8),

        Vpkpx => pack(a, b, permute::pack_pixel),
        Vpkshss => pack_saturating!(state, i16, i8, a, b),
        Vpkshus => pack_saturating!(state, i16, u8, a, b),
        Vpkswss => pack_saturating!(state, i32, i16, a, b),
        Vpkswus => pack_saturating!(state, i32, u16, a, b),
        Vpksdss => pack_saturating!(state, i64, i32, a, b),
        Vpksdus => pack_saturating!(state, i64, u32, a, b),
        Vpkuhum => pack(a, b, |x: u16| x as u8),
        Vpkuwum => pack(a, b, |x: u32| x as u16),
        Vpkudum => pack(a, b, |x: u64| x as u32),
        Vpkuhus => pack_saturating!(state, u16, u8, a, b),
        Vpkuwus => pack_saturating!(state, u32, u16, a, b),
        Vpkudus => pack_saturating!(state, u64, u32, a, b),
        Vupkhpx => unpack(b, false, permute::unpack_pixel),
        Vupklpx => unpack(b, true, permute::unpack_pixel),
        Vupkhsb => unpack::<i8, i16>(b, false, i16::from),
        Vupkhsh => unpack::<i16, i32>(b, false, i32::from),
        Vupkhsw => unpack::<i32, i64>(b, false, i64::from),
        Vupklsb => unpack::<i8, i16>(b, true, i16::from),
        Vupklsh => unpack::<i16, i32>(b, true, i32::from),
        Vupklsw => unpack::<i32, i64>(b, true, i64::from),
        Vmrghb => merge::<u8>(a, b, false),
        Vmrghh => merge::<u16>(a, b, false),
        Vmrghw => merge::<u32>(a, b, false),
        Vmrglb => merge::<u8>(a, b, true),
        Vmrglh => merge::<u16>(a, b, true),
        Vmrglw => merge::<u32>(a, b, true),
        Vmrgew => alternate::<u32, u64>(a, b, false, |x, y| u64::from(x) << 32 | u64::from(y)),
        Vmrgow => alternate::<u32, u64>(a, b, true, |x, y| u64::from(x) << 32 | u64::from(y)),
        Vspltb => splat::<u8>(b, uim),
        Vsplth => splat::<u16>(b, uim),
        Vspltw => splat::<u32>(b, uim),
        Vspltisb => build(|_| sim(insn) as i8),
        Vspltish => build(|_| sim(insn) as i16),
        Vspltisw => build(|_| sim(insn)),
        Vperm => permute::permute(a, b, state.vr(insn.rc())),
        Vpermr => permute::permute_right(a, b, state.vr(insn.rc())),
        Vsel => {
            let mask = state.vr(insn.rc());
            a & !mask | b & mask
        }
        Vsl => a << (b & 7),
        Vslo => a << (b & 0x78),
        Vslv => permute::shift_left_variable(a, b),
        Vsldoi => permute::double_shift_left(a, b, insn.bits(22, 25)),
        Vsr => a >> (b & 7),
        Vsro => a >> (b & 0x78),
        Vsrv => permute::shift_right_variable(a, b),
        Vextractub => permute::extract(b, uim, 1) << 64,
        Vextractuh => permute::extract(b, uim, 2) << 64,
        Vextractuw => permute::extract(b, uim, 4) << 64,
        Vextractd => permute::extract(b, uim, 8) << 64,
        Vinsertb => permute::insert(state.vr(insn.rt()), b >> 64, uim, 1),
        Vinserth => permute::insert(state.vr(insn.rt()), b >> 64, uim, 2),
        Vinsertw => permute::insert(state.vr(insn.rt()), b >> 64, uim, 4),
        Vinsertd => permute::insert(state.vr(insn.rt()), b >> 64, uim, 8),
        Vextublx => return extract_left(1, insn, state),
        Vextuhlx => return extract_left(2, insn, state),
        Vextuwlx => return extract_left(4, insn, state),
        Vextubrx => return extract_right(1, insn, state),
        Vextuhrx => return extract_right(2, insn, state),
        Vextuwrx => return extract_right(4, insn, state),

        Vaddcuw => zip::<u32>(a, b, |x, y| u32::from(x.overflowing_add(y).1)),
        Vaddsbs => saturating!(state, i8, a, b, saturating_add, wrapping_add),
        Vaddshs => saturating!(state, i16, a, b, saturating_add, wrapping_add),
        Vaddsws => saturating!(state, i32, a, b, saturating_add, wrapping_add),
        Vaddubm => BYTES.add(a, b),
        Vadduhm => HALFWORDS.add(a, b),
        Vadduwm => zip(a, b, u32::wrapping_add),
        Vaddudm => zip(a, b, u64::wrapping_add),
        Vaddubs => saturating!(state, u8, a, b, saturating_add, wrapping_add),
        Vadduhs => saturating!(state, u16, a, b, saturating_add, wrapping_add),
        Vadduws => saturating!(state, u32, a, b, saturating_add, wrapping_add),
        Vadduqm => a.wrapping_add(b),
        Vaddcuq => u128::from(a.overflowing_add(b).1),
        Vaddeuqm => arithmetic::add_extended(a, b, state.vr(insn.rc()) & 1).0,
        Vaddecuq => arithmetic::add_extended(a, b, state.vr(insn.rc()) & 1).1,
        Vsubcuw => zip::<u32>(a, b, |x, y| u32::from(x >= y)),
        Vsubsbs => saturating!(state, i8, a, b, saturating_sub, wrapping_sub),
        Vsubshs => saturating!(state, i16, a, b, saturating_sub, wrapping_sub),
        Vsubsws => saturating!(state, i32, a, b, saturating_sub, wrapping_sub),
        Vsububm => BYTES.subtract(a, b),
        Vsubuhm => HALFWORDS.subtract(a, b),
        Vsubuwm => zip(a, b, u32::wrapping_sub),
        Vsubudm => zip(a, b, u64::wrapping_sub),
        Vsububs => saturating!(state, u8, a, b, saturating_sub, wrapping_sub),
        Vsubuhs => saturating!(state, u16, a, b, saturating_sub, wrapping_sub),
        Vsubuws => saturating!(state, u32, a, b, saturating_sub, wrapping_sub),
        Vsubuqm => a.wrapping_sub(b),
        Vsubcuq => u128::from(a >= b),
        Vsubeuqm => arithmetic::add_extended(a, !b, state.vr(insn.rc()) & 1).0,
        Vsubecuq => arithmetic::add_extended(a, !b, state.vr(insn.rc()) & 1).1,

        Vmulesb => alternate::<i8, i16>(a, b, false, |x, y| i16::from(x) * i16::from(y)),
        Vmulesh => alternate::<i16, i32>(a, b, false, |x, y| i32::from(x) * i32::from(y)),
        Vmulesw => alternate::<i32, i64>(a, b, false, |x, y| i64::from(x) * i64::from(y)),
        Vmuleub => alternate::<u8, u16>(a, b, false, |x, y| u16::from(x) * u16::from(y)),
        Vmuleuh => alternate::<u16, u32>(a, b, false, |x, y| u32::from(x) * u32::from(y)),
        Vmuleuw => alternate::<u32, u64>(a, b, false, |x, y| u64::from(x) * u64::from(y)),
        Vmulosb => alternate::<i8, i16>(a, b, true, |x, y| i16::from(x) * i16::from(y)),
        Vmulosh => alternate::<i16, i32>(a, b, true, |x, y| i32::from(x) * i32::from(y)),
        Vmulosw => alternate::<i32, i64>(a, b, true, |x, y| i64::from(x) * i64::from(y)),
        Vmuloub => alternate::<u8, u16>(a, b, true, |x, y| u16::from(x) * u16::from(y)),
        Vmulouh => alternate::<u16, u32>(a, b, true, |x, y| u32::from(x) * u32::from(y)),
        Vmulouw => alternate::<u32, u64>(a, b, true, |x, y| u64::from(x) * u64::from(y)),
        Vmuluwm => zip(a, b, u32::wrapping_mul),
        Vmhaddshs => with_saturation(state, arithmetic::multiply_high_add(a, b, state.vr(insn.rc()), 0)),
        Vmhraddshs => with_saturation(state, arithmetic::multiply_high_add(a, b, state.vr(insn.rc()), 0x4000)),
        Vmladduhm => super::lanes::zip3::<u16>(a, b, state.vr(insn.rc()), |x, y, z| x.wrapping_mul(y).wrapping_add(z)),
        Vmsumudm => arithmetic::sum_doubleword_products(a, b, state.vr(insn.rc())),
        Vmsumubm => arithmetic::sum_byte_products(a, b, state.vr(insn.rc()), i32::from),
        Vmsummbm => arithmetic::sum_byte_products(a, b, state.vr(insn.rc()), |x| i32::from(x as i8)),
        Vmsumuhm => arithmetic::sum_unsigned_products(a, b, state.vr(insn.rc()), false).0,
        Vmsumuhs => with_saturation(state, arithmetic::sum_unsigned_products(a, b, state.vr(insn.rc()), true)),
        Vmsumshm => arithmetic::sum_signed_products(a, b, state.vr(insn.rc()), false).0,
        Vmsumshs => with_saturation(state, arithmetic::sum_signed_products(a, b, state.vr(insn.rc()), true)),
        Vsum4sbs => with_saturation(state, arithmetic::sum_across_signed_bytes(a, b)),
        Vsum4shs => with_saturation(state, arithmetic::sum_across_signed_halfwords(a, b)),
        Vsum4ubs => with_saturation(state, arithmetic::sum_across_unsigned_bytes(a, b)),
        Vsum2sws => with_saturation(state, arithmetic::sum_across_half_words(a, b)),
        Vsumsws => with_saturation(state, arithmetic::sum_across_words(a, b)),

        Vnegw => map(b, u32::wrapping_neg),
        Vnegd => map(b, u64::wrapping_neg),
        Vextsb2w => map::<i32>(b, |x| i32::from(x as i8)),
        Vextsh2w => map::<i32>(b, |x| i32::from(x as i16)),
        Vextsb2d => map::<i64>(b, |x| i64::from(x as i8)),
        Vextsh2d => map::<i64>(b, |x| i64::from(x as i16)),
        Vextsw2d => map::<i64>(b, |x| i64::from(x as i32)),
        Vavgsb => zip::<i8>(a, b, |x, y| ((i16::from(x) + i16::from(y) + 1) >> 1) as i8),
        Vavgsh => zip::<i16>(a, b, |x, y| ((i32::from(x) + i32::from(y) + 1) >> 1) as i16),
        Vavgsw => zip::<i32>(a, b, |x, y| ((i64::from(x) + i64::from(y) + 1) >> 1) as i32),
        Vavgub => zip::<u8>(a, b, |x, y| ((u16::from(x) + u16::from(y) + 1) >> 1) as u8),
        Vavguh => zip::<u16>(a, b, |x, y| ((u32::from(x) + u32::from(y) + 1) >> 1) as u16),
        Vavguw => zip::<u32>(a, b, |x, y| ((u64::from(x) + u64::from(y) + 1) >> 1) as u32),
        Vabsdub => zip(a, b, u8::abs_diff),
        Vabsduh => zip(a, b, u16::abs_diff),
        Vabsduw => zip(a, b, u32::abs_diff),
        Vmaxsb => zip(a, b, i8::max),
        Vmaxsh => zip(a, b, i16::max),
        Vmaxsw => zip(a, b, i32::max),
        Vmaxsd => zip(a, b, i64::max),
        Vmaxub => BYTES.maximum(a, b),
        Vmaxuh => HALFWORDS.maximum(a, b),
        Vmaxuw => zip(a, b, u32::max),
        Vmaxud => zip(a, b, u64::max),
        Vminsb => zip(a, b, i8::min),
        Vminsh => zip(a, b, i16::min),
        Vminsw => zip(a, b, i32::min),
        Vminsd => zip(a, b, i64::min),
        Vminub => BYTES.minimum(a, b),
        Vminuh => HALFWORDS.minimum(a, b),
        Vminuw => zip(a, b, u32::min),
        Vminud => zip(a, b, u64::min),

        Vcmpequb => recorded(insn, state, BYTES.equal(a, b)),
        Vcmpequh => recorded(insn, state, HALFWORDS.equal(a, b)),
        Vcmpequw => recorded(insn, state, compare::<u32>(a, b, |x, y| x == y)),
        Vcmpequd => recorded(insn, state, compare::<u64>(a, b, |x, y| x == y)),
        Vcmpgtsb => recorded(insn, state, compare::<i8>(a, b, |x, y| x > y)),
        Vcmpgtsh => recorded(insn, state, compare::<i16>(a, b, |x, y| x > y)),
        Vcmpgtsw => recorded(insn, state, compare::<i32>(a, b, |x, y| x > y)),
        Vcmpgtsd => recorded(insn, state, compare::<i64>(a, b, |x, y| x > y)),
        Vcmpgtub => recorded(insn, state, BYTES.greater(a, b)),
        Vcmpgtuh => recorded(insn, state, HALFWORDS.greater(a, b)),
        Vcmpgtuw => recorded(insn, state, compare::<u32>(a, b, |x, y| x > y)),
        Vcmpgtud => recorded(insn, state, compare::<u64>(a, b, |x, y| x > y)),
        Vcmpneb => recorded(insn, state, !BYTES.equal(a, b)),
        Vcmpneh => recorded(insn, state, !HALFWORDS.equal(a, b)),
        Vcmpnew => recorded(insn, state, compare::<u32>(a, b, |x, y| x != y)),
        Vcmpnezb => recorded(insn, state, !BYTES.equal(a, b) | BYTES.equal(a | b, 0)),
        Vcmpnezh => recorded(insn, state, compare::<u16>(a, b, |x, y| x != y || x == 0 || y == 0)),
        Vcmpnezw => recorded(insn, state, compare::<u32>(a, b, |x, y| x != y || x == 0 || y == 0)),

        Vand => a & b,
        Vandc => a & !b,
        Veqv => !(a ^ b),
        Vnand => !(a & b),
        Vnor => !(a | b),
        Vor => a | b,
        Vorc => a | !b,
        Vxor => a ^ b,
        Vprtybw => map::<u32>(b, |x| (x & 0x0101_0101).count_ones() & 1),
        Vprtybd => map::<u64>(b, |x| u64::from((x & 0x0101_0101_0101_0101).count_ones() & 1)),
        Vprtybq => u128::from((b & 0x0101_0101_0101_0101_0101_0101_0101_0101).count_ones() & 1),
        Vrlb => zip::<u8>(a, b, |x, y| x.rotate_left(u32::from(y & 7))),
        Vrlh => zip::<u16>(a, b, |x, y| x.rotate_left(u32::from(y & 15))),
        Vrlw => zip::<u32>(a, b, |x, y| x.rotate_left(y & 31)),
        Vrld => zip::<u64>(a, b, |x, y| x.rotate_left((y & 63) as u32)),
        Vrlwmi => arithmetic::rotate_words(a, b, state.vr(insn.rt())),
        Vrlwnm => arithmetic::rotate_words(a, b, 0),
        Vrldmi => arithmetic::rotate_doublewords(a, b, state.vr(insn.rt())),
        Vrldnm => arithmetic::rotate_doublewords(a, b, 0),
        Vslb => zip::<u8>(a, b, |x, y| x << (y & 7)),
        Vslh => zip::<u16>(a, b, |x, y| x << (y & 15)),
        Vslw => zip::<u32>(a, b, |x, y| x << (y & 31)),
        Vsld => zip::<u64>(a, b, |x, y| x << (y & 63)),
        Vsrb => zip::<u8>(a, b, |x, y| x >> (y & 7)),
        Vsrh => zip::<u16>(a, b, |x, y| x >> (y & 15)),
        Vsrw => zip::<u32>(a, b, |x, y| x >> (y & 31)),
        Vsrd => zip::<u64>(a, b, |x, y| x >> (y & 63)),
        Vsrab => zip::<i8>(a, b, |x, y| x >> (y & 7)),
        Vsrah => zip::<i16>(a, b, |x, y| x >> (y & 15)),
        Vsraw => zip::<i32>(a, b, |x, y| x >> (y & 31)),
        Vsrad => zip::<i64>(a, b, |x, y| x >> (y & 63)),

        Vaddfp | Vsubfp | Vmaddfp | Vnmsubfp | Vmaxfp | Vminfp | Vctsxs | Vctuxs | Vcfsx | Vcfux | Vrfim | Vrfin | Vrfip
        | Vrfiz | Vcmpbfp | Vcmpeqfp | Vcmpgefp | Vcmpgtfp | Vexptefp | Vlogefp | Vrefp | Vrsqrtefp => {
            float::execute(op, insn, state)
        }

        Vcipher => crypto::cipher(a, b),
        Vcipherlast => crypto::cipher_last(a, b),
        Vncipher => crypto::inverse_cipher(a, b),
        Vncipherlast => crypto::inverse_cipher_last(a, b),
        Vsbox => crypto::substitute(a),
        Vshasigmaw => crypto::sha256_sigma(a, insn.bits(16, 16) != 0, insn.bits(17, 20)),
        Vshasigmad => crypto::sha512_sigma(a, insn.bits(16, 16) != 0, insn.bits(17, 20)),
        Vpmsumb => crypto::polynomial_sum_bytes(a, b),
        Vpmsumh => crypto::polynomial_sum_halfwords(a, b),
        Vpmsumw => crypto::polynomial_sum_words(a, b),
        Vpmsumd => crypto::polynomial_sum_doublewords(a, b),
        Vpermxor => permute::permute_xor(a, b, state.vr(insn.rc())),
        Vgbbd => map(b, permute::gather_bits),
        Vclzb => map::<u8>(b, |x| x.leading_zeros() as u8),
        Vclzh => map::<u16>(b, |x| x.leading_zeros() as u16),
        Vclzw => map(b, u32::leading_zeros),
        Vclzd => map::<u64>(b, |x| u64::from(x.leading_zeros())),
        Vctzb => map::<u8>(b, |x| x.trailing_zeros() as u8),
        Vctzh => map::<u16>(b, |x| x.trailing_zeros() as u16),
        Vctzw => map(b, u32::trailing_zeros),
        Vctzd => map::<u64>(b, |x| u64::from(x.trailing_zeros())),
        Vclzlsbb => {
            state.gpr[insn.rt()] = u64::from((b & permute::LOW_BIT_OF_BYTES).leading_zeros() / 8);
            return Ok(());
        }
        Vctzlsbb => {
            state.gpr[insn.rt()] = u64::from((b & permute::LOW_BIT_OF_BYTES).trailing_zeros() / 8);
            return Ok(());
        }
        Vpopcntb => map::<u8>(b, |x| x.count_ones() as u8),
        Vpopcnth => map::<u16>(b, |x| x.count_ones() as u16),
        Vpopcntw => map(b, u32::count_ones),
        Vpopcntd => map::<u64>(b, |x| u64::from(x.count_ones())),
        Vbpermq => permute::bit_permute_quadword(a, b),
        Vbpermd => permute::bit_permute_doublewords(a, b),

        Bcdadd | Bcdsub | Bcdcfn | Bcdcfz | Bcdctn | Bcdctz | Bcdcfsq | Bcdctsq | Bcdsetsgn | Bcdcpsgn | Bcds | Bcdus | Bcdsr
        | Bcdtrunc | Bcdutrunc => decimal::execute(op, insn, state),
        Vmul10uq => arithmetic::multiply_by_ten(a, 0).0,
        Vmul10cuq => arithmetic::multiply_by_ten(a, 0).1,
        Vmul10euq => arithmetic::multiply_by_ten(a, b & 15).0,
        Vmul10ecuq => arithmetic::multiply_by_ten(a, b & 15).1,

        Mfvscr => u128::from(state.vscr),
        Mtvscr => {
            // All other bits are reserved and read as zero.
            state.vscr = b as u32 & (VSCR_NJ | VSCR_SAT);
            return Ok(());
        }
    };
    state.set_vr(insn.rt(), result);
    Ok(())
}

/// SIM, sign-extended.
fn sim(insn: Insn) -> i32 {
    ((insn.bits(11, 15) as i32) << 27) >> 27
}

fn note_saturation(state: &mut State, saturated: bool) {
    if saturated {
        state.vscr |= VSCR_SAT;
    }
}

/// Takes a result together with whether it was saturated.
fn with_saturation(state: &mut State, (result, saturated): (u128, bool)) -> u128 {
    note_saturation(state, saturated);
    result
}

/// With the record bit: CR6 says whether all elements compared true, or none (ISA 3.0B I 6.9.2).
fn recorded(insn: Insn, state: &mut State, result: u128) -> u128 {
    if insn.bits(21, 21) != 0 {
        state.set_cr_field(6, u32::from(result == u128::MAX) << 3 | u32::from(result == 0) << 1);
    }
    result
}

/// The element that the address selects: its effective address, and its place in the register.
fn element(size: u8, insn: Insn, state: &State) -> (u64, u32) {
    let ea = storage::indexed(insn, state) & !u64::from(size - 1);
    (ea, storage::place((ea & 15) as u32, size, !storage::little_endian(state)))
}

/// lvebx, lvehx, lvewx. The other elements are undefined; they stay as they are.
fn load_element(size: u8, insn: Insn, state: &State, memory: &mut dyn DataMemory) -> Result<u128, Fault> {
    let (ea, place) = element(size, insn, state);
    let mask = storage::low_bytes(size) << place;
    Ok(state.vr(insn.rt()) & !mask | memory.load(ea, size)? << place)
}

/// stvebx, stvehx, stvewx.
fn store_element(size: u8, insn: Insn, state: &State, memory: &mut dyn DataMemory) -> Result<(), Fault> {
    let (ea, place) = element(size, insn, state);
    memory.store(ea, size, state.vr(insn.rt()) >> place & storage::low_bytes(size))
}

/// vextublx and the like: bytes from the left, by RA.
fn extract_left(size: usize, insn: Insn, state: &mut State) -> Result<(), Fault> {
    let index = (state.gpr[insn.ra()] & 15) as usize;
    state.gpr[insn.rt()] = permute::extract(state.vr(insn.rb()), index, size) as u64;
    Ok(())
}

/// vextubrx and the like: bytes from the right, by RA. Bytes beyond the left end are zero (undefined in the ISA).
fn extract_right(size: usize, insn: Insn, state: &mut State) -> Result<(), Fault> {
    let index = (state.gpr[insn.ra()] & 15) as u32;
    state.gpr[insn.rt()] = (state.vr(insn.rb()) >> (8 * index) & (u128::MAX >> (128 - 8 * size))) as u64;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vector::storage::testkit::{Bytes, NUMBERED};

    /// VRT 1, RA or VRA 2, VRB 3, VRC 4.
    const INSN: u32 = 1 << 21 | 2 << 16 | 3 << 11 | 4 << 6;

    /// The register, and the storage below 16.
    fn access(op: VmxOp, ea: u64, little: bool, register: u128) -> (u128, [u8; 16]) {
        let mut memory = Bytes::numbered(little);
        let mut state = State { msr: 1 << 63 | u64::from(little), ..State::default() };
        state.gpr[2] = ea;
        state.set_vr(1, register);
        execute(op, Insn(INSN), &mut state, &mut memory).expect("storage is there");
        (state.vr(1), std::array::from_fn(|i| memory.bytes[i]))
    }

    fn run(op: VmxOp, word: u32, a: u128, b: u128, c: u128) -> State {
        let mut state = State::default();
        (state.vsr[34], state.vsr[35], state.vsr[36]) = (a, b, c);
        execute(op, Insn(word), &mut state, &mut Bytes::numbered(false)).expect("no storage is accessed");
        state
    }

    #[test]
    fn elements_go_where_their_address_says() {
        // Big-endian: byte 5 of storage is byte 5 of the register. Little-endian: counted from the right.
        assert_eq!(access(VmxOp::Lvebx, 5, false, 0).0, 5 << 80);
        assert_eq!(access(VmxOp::Lvebx, 5, true, 0).0, 5 << 40);
        assert_eq!(access(VmxOp::Lvewx, 6, false, 0).0, 0x0405_0607 << 64);
        assert_eq!(access(VmxOp::Lvewx, 6, true, 0).0, 0x0706_0504 << 32);
        assert_eq!(access(VmxOp::Lvehx, 3, true, 0).0, 0x0302 << 16);
        assert_eq!(access(VmxOp::Lvx, 7, false, 0).0, NUMBERED);
        assert_eq!(access(VmxOp::Lvx, 7, true, 0).0, NUMBERED.swap_bytes());
        for little in [false, true] {
            let register = if little { NUMBERED.swap_bytes() } else { NUMBERED } ^ u128::MAX;
            let (_, bytes) = access(VmxOp::Stvehx, 9, little, register);
            let expected = std::array::from_fn(|i| if i == 8 || i == 9 { !(i as u8) } else { i as u8 });
            assert_eq!(bytes, expected);
        }
    }

    #[test]
    fn shift_patterns_for_unaligned_loads() {
        assert_eq!(access(VmxOp::Lvsl, 3, true, 0).0 >> 112, 0x0304);
        assert_eq!(access(VmxOp::Lvsr, 3, true, 0).0 >> 112, 0x0d0e);
        assert_eq!(access(VmxOp::Lvsr, 16, false, 0).0 & 0xff, 0x1f);
    }

    #[test]
    fn saturation_is_noted_and_stays() {
        let state = run(VmxOp::Vaddsbs, INSN, 0x7f << 8, 1 << 8, 0);
        assert_eq!((state.vr(1), state.vscr), (0x7f << 8, VSCR_SAT));
        let state = run(VmxOp::Vsububs, INSN, 1, 2, 0);
        assert_eq!((state.vr(1), state.vscr), (0, VSCR_SAT));
        let state = run(VmxOp::Vadduws, INSN, 1, 2, 0);
        assert_eq!((state.vr(1), state.vscr), (3, 0));
        let state = run(VmxOp::Vpkshus, INSN, 0xffff << 112, 0x00ff, 0);
        assert_eq!((state.vr(1), state.vscr), (0xff, VSCR_SAT));
        let state = run(VmxOp::Vpkswss, INSN, 0xffff_8000 << 96, 0x8000, 0);
        assert_eq!((state.vr(1), state.vscr), (0x8000 << 112 | 0x7fff, VSCR_SAT));
    }

    #[test]
    fn comparisons_record_in_cr6() {
        let dot = INSN & !(31 << 6) | 1 << 10;
        let state = run(VmxOp::Vcmpequb, dot, NUMBERED, NUMBERED, 0);
        assert_eq!((state.vr(1), state.cr_field(6)), (u128::MAX, 8));
        let state = run(VmxOp::Vcmpgtsw, dot, 0, 0, 0);
        assert_eq!((state.vr(1), state.cr_field(6)), (0, 2));
        let state = run(VmxOp::Vcmpnezb, dot, NUMBERED, NUMBERED, 0);
        assert_eq!((state.vr(1), state.cr_field(6)), (0xff << 120, 0));
        let state = run(VmxOp::Vcmpgtsh, INSN & !(31 << 6), 0, 0xffff, 0);
        assert_eq!((state.vr(1), state.cr), (0xffff, 0));
    }

    #[test]
    fn immediates_and_counts() {
        let state = run(VmxOp::Vspltisb, 1 << 21 | 0b10001 << 16, 0, 0, 0);
        assert_eq!(state.vr(1), u128::MAX / 0xff * 0xf1);
        let state = run(VmxOp::Vclzlsbb, INSN, 0, 0x0202_0001 << 96, 0);
        assert_eq!(state.gpr[1], 3);
        let state = run(VmxOp::Vctzlsbb, INSN, 0, 0, 0);
        assert_eq!(state.gpr[1], 16);
        let state = run(VmxOp::Vextublx, INSN, 0, NUMBERED, 0);
        assert_eq!(state.gpr[1], 0);
        let state = run(VmxOp::Vprtybd, INSN, 0, 1 << 64 | 0x0101, 0);
        assert_eq!(state.vr(1), 1 << 64);
        let state = run(VmxOp::Vsubcuw, INSN, 5, 6 << 32 | 5, 0);
        assert_eq!(u32::from((state.vr(1) >> 32) as u32 == 0), 1);
        assert_eq!(state.vr(1) as u32, 1);
    }

    #[test]
    fn vscr_keeps_two_bits() {
        let mut state = run(VmxOp::Mtvscr, INSN, 0, u128::MAX, 0);
        assert_eq!(state.vscr, VSCR_NJ | VSCR_SAT);
        execute(VmxOp::Mfvscr, Insn(INSN), &mut state, &mut Bytes::numbered(false)).expect("no storage");
        assert_eq!(state.vr(1), 0x1_0001);
    }
}
