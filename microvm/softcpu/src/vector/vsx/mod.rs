//! Vector-scalar (VSX) instructions (ISA 3.0B I 7).

mod element;
mod quad;
mod scalar;
mod storage;
mod vector;

use super::lanes::{build, map, merge, splat};
use super::vmx::permute;
use crate::exec::DataMemory;
use crate::mmu::Fault;
use crate::state::State;
use crate::table::{Facility, Insn, VsxOp};

/// The high doubleword, where scalars live.
const HIGH: u128 = (u64::MAX as u128) << 64;
const SIGN: u128 = 1 << 127;

/// See [`super::facility`].
pub(super) fn facility(op: VsxOp, insn: Insn) -> Facility {
    use VsxOp::*;
    match op.row().facility {
        Facility::VsxOrVec if storage::register(op, insn) >= 32 => Facility::Vec,
        Facility::VsxOrVec if matches!(op, Mfvsrd | Mfvsrwz | Mtvsrd | Mtvsrwa | Mtvsrwz) => Facility::Fp,
        Facility::VsxOrVec => Facility::Vsx,
        other => other,
    }
}

/// Executes one instruction of the class.
pub(super) fn execute(op: VsxOp, insn: Insn, state: &mut State, memory: &mut dyn DataMemory) -> Result<(), Fault> {
    use VsxOp::*;
    let (a, b) = (state.vsr[insn.xa()], state.vsr[insn.xb()]);
    let result = match op {
        Lxsdx | Lxsspx | Lxsiwax | Lxsiwzx | Lxsibzx | Lxsihzx | Lxvd2x | Lxvdsx | Lxvw4x | Lxvh8x | Lxvb16x | Lxvx | Lxvwsx
        | Lxvl | Lxvll | Lxv | Lxsd | Lxssp => return storage::load(op, insn, state, memory),
        Stxsdx | Stxsspx | Stxsiwx | Stxsibx | Stxsihx | Stxvd2x | Stxvw4x | Stxvh8x | Stxvb16x | Stxvx | Stxvl | Stxvll
        | Stxv | Stxsd | Stxssp => return storage::store(op, insn, state, memory),

        Mfvsrd | Mfvsrwz | Mfvsrld => {
            let source = state.vsr[insn.xt()];
            state.gpr[insn.ra()] = match op {
                Mfvsrd => (source >> 64) as u64,
                Mfvsrwz => (source >> 64) as u32 as u64,
                _ => source as u64,
            };
            return Ok(());
        }
        Mtvsrd => u128::from(state.gpr[insn.ra()]) << 64,
        Mtvsrwa => u128::from(i64::from(state.gpr[insn.ra()] as i32) as u64) << 64,
        Mtvsrwz => u128::from(state.gpr[insn.ra()] as u32) << 64,
        Mtvsrdd => u128::from(super::storage::base(insn, state)) << 64 | u128::from(state.gpr[insn.rb()]),
        Mtvsrws => splat::<u32>(state.gpr[insn.ra()].into(), 3),

        Xxland => a & b,
        Xxlandc => a & !b,
        Xxlor => a | b,
        Xxlxor => a ^ b,
        Xxlnor => !(a | b),
        Xxlorc => a | !b,
        Xxlnand => !(a & b),
        Xxleqv => !(a ^ b),
        Xxmrghw => merge::<u32>(a, b, false),
        Xxmrglw => merge::<u32>(a, b, true),
        Xxperm => permute::permute(a, state.vsr[insn.xt()], b),
        Xxpermr => permute::permute_right(a, state.vsr[insn.xt()], b),
        Xxpermdi => {
            let high = if insn.bits(22, 22) == 0 { a >> 64 } else { a & u128::from(u64::MAX) };
            let low = if insn.bits(23, 23) == 0 { b >> 64 } else { b & u128::from(u64::MAX) };
            high << 64 | low
        }
        Xxsldwi => permute::double_shift_left(a, b, 4 * insn.bits(22, 23)),
        Xxsel => {
            let mask = state.vsr[insn.xc()];
            a & !mask | b & mask
        }
        Xxspltw => splat::<u32>(b, insn.bits(14, 15) as usize),
        Xxspltib => build(|_| insn.bits(13, 20) as u8),
        Xxextractuw => permute::extract(b, insn.bits(12, 15) as usize, 4) << 64,
        Xxinsertw => permute::insert(state.vsr[insn.xt()], b >> 64, insn.bits(12, 15) as usize, 4),
        Xxbrh => map(b, u16::swap_bytes),
        Xxbrw => map(b, u32::swap_bytes),
        Xxbrd => map(b, u64::swap_bytes),
        Xxbrq => b.swap_bytes(),

        Xsabsdp => b & HIGH & !SIGN,
        Xsnabsdp => b & HIGH | SIGN,
        Xsnegdp => b & HIGH ^ SIGN,
        Xscpsgndp => a & SIGN | b & HIGH & !SIGN,
        Xsadddp | Xssubdp | Xsmuldp | Xsdivdp | Xsaddsp | Xssubsp | Xsmulsp | Xsdivsp | Xssqrtdp | Xsredp | Xsrsqrtedp
        | Xssqrtsp | Xsresp | Xsrsqrtesp | Xsmaddadp | Xsmaddmdp | Xsmsubadp | Xsmsubmdp | Xsnmaddadp | Xsnmaddmdp
        | Xsnmsubadp | Xsnmsubmdp | Xsmaddasp | Xsmaddmsp | Xsmsubasp | Xsmsubmsp | Xsnmaddasp | Xsnmaddmsp | Xsnmsubasp
        | Xsnmsubmsp | Xstdivdp | Xstsqrtdp | Xsmaxdp | Xsmindp | Xsmaxcdp | Xsmincdp | Xsmaxjdp | Xsminjdp | Xscmpeqdp
        | Xscmpgtdp | Xscmpgedp | Xscmpodp | Xscmpudp | Xscmpexpdp | Xscvdpsp | Xscvspdp | Xscvdpspn | Xscvspdpn | Xsrsp
        | Xscvdpsxds | Xscvdpsxws | Xscvdpuxds | Xscvdpuxws | Xscvsxddp | Xscvuxddp | Xscvsxdsp | Xscvuxdsp | Xsrdpi
        | Xsrdpic | Xsrdpim | Xsrdpip | Xsrdpiz | Xscvhpdp | Xscvdphp | Xsxexpdp | Xsxsigdp | Xsiexpdp | Xststdcdp
        | Xststdcsp => match scalar::execute(op, insn, state) {
            Some(result) => result,
            None => return Ok(()),
        },

        Xvadddp | Xvsubdp | Xvmuldp | Xvdivdp | Xvmaddadp | Xvmaddmdp | Xvmsubadp | Xvmsubmdp | Xvnmaddadp | Xvnmaddmdp
        | Xvnmsubadp | Xvnmsubmdp | Xvmaxdp | Xvmindp | Xvcpsgndp | Xvcmpeqdp | Xvcmpgtdp | Xvcmpgedp | Xvtdivdp | Xvaddsp
        | Xvsubsp | Xvmulsp | Xvdivsp | Xvmaddasp | Xvmaddmsp | Xvmsubasp | Xvmsubmsp | Xvnmaddasp | Xvnmaddmsp | Xvnmsubasp
        | Xvnmsubmsp | Xvmaxsp | Xvminsp | Xvcpsgnsp | Xvcmpeqsp | Xvcmpgtsp | Xvcmpgesp | Xvtdivsp | Xvabsdp | Xvnabsdp
        | Xvnegdp | Xvabssp | Xvnabssp | Xvnegsp | Xvsqrtdp | Xvredp | Xvrsqrtedp | Xvsqrtsp | Xvresp | Xvrsqrtesp
        | Xvtsqrtdp | Xvtsqrtsp | Xvcvdpsp | Xvcvspdp | Xvcvdpsxds | Xvcvdpsxws | Xvcvdpuxds | Xvcvdpuxws | Xvcvspsxds
        | Xvcvspsxws | Xvcvspuxds | Xvcvspuxws | Xvcvsxddp | Xvcvsxwdp | Xvcvuxddp | Xvcvuxwdp | Xvcvsxdsp | Xvcvsxwsp
        | Xvcvuxdsp | Xvcvuxwsp | Xvrdpi | Xvrdpic | Xvrdpim | Xvrdpip | Xvrdpiz | Xvrspi | Xvrspic | Xvrspim | Xvrspip
        | Xvrspiz | Xvcvhpsp | Xvcvsphp | Xvxexpdp | Xvxsigdp | Xvxexpsp | Xvxsigsp | Xviexpdp | Xviexpsp | Xvtstdcdp
        | Xvtstdcsp => match vector::execute(op, insn, state) {
            Some(result) => result,
            None => return Ok(()),
        },

        Xsaddqp | Xsaddqpo | Xsmulqp | Xsmulqpo | Xssubqp | Xssubqpo | Xsdivqp | Xsdivqpo | Xsmaddqp | Xsmaddqpo | Xsmsubqp
        | Xsmsubqpo | Xsnmaddqp | Xsnmaddqpo | Xsnmsubqp | Xsnmsubqpo | Xssqrtqp | Xssqrtqpo | Xscpsgnqp | Xscmpoqp
        | Xscmpuqp | Xscmpexpqp | Xststdcqp | Xsiexpqp | Xsabsqp | Xsxexpqp | Xsnabsqp | Xsnegqp | Xsxsigqp | Xscvqpuwz
        | Xscvudqp | Xscvqpswz | Xscvsdqp | Xscvqpudz | Xscvdpqp | Xscvqpsdz | Xscvqpdp | Xscvqpdpo | Xsrqpi | Xsrqpix
        | Xsrqpxp => {
            if let Some(result) = quad::execute(op, insn, state) {
                state.set_vr(insn.rt(), result);
            }
            return Ok(());
        }
    };
    state.vsr[insn.xt()] = result;
    Ok(())
}
