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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mmu::Fault;

    struct Nothing;

    impl DataMemory for Nothing {
        fn load(&mut self, ea: u64, _size: u8) -> Result<u128, Fault> {
            Err(Fault::DataSegment { ea })
        }

        fn store(&mut self, ea: u64, _size: u8, _value: u128) -> Result<(), Fault> {
            Err(Fault::DataSegment { ea })
        }
    }

    const NUMBERED: u128 = 0x0001_0203_0405_0607_0809_0a0b_0c0d_0e0f;

    /// XT 1, XA 34, XB 3, unless `word` says otherwise.
    fn run(op: VsxOp, word: u32, a: u128, b: u128, t: u128) -> State {
        let mut state = State::default();
        (state.vsr[1], state.vsr[34], state.vsr[3]) = (t, a, b);
        execute(op, Insn(1 << 21 | 2 << 16 | 3 << 11 | 1 << 2 | word), &mut state, &mut Nothing).expect("no storage is accessed");
        state
    }

    #[test]
    fn doublewords_and_words_by_immediates() {
        let dm = |dm: u32| run(VsxOp::Xxpermdi, dm << 8, NUMBERED, !NUMBERED, 0).vsr[1];
        assert_eq!(dm(0), NUMBERED >> 64 << 64 | !NUMBERED >> 64);
        assert_eq!(dm(3), NUMBERED << 64 | (!NUMBERED & u128::from(u64::MAX)));
        assert_eq!(dm(2), NUMBERED << 64 | !NUMBERED >> 64);
        assert_eq!(run(VsxOp::Xxsldwi, 1 << 8, NUMBERED, !NUMBERED, 0).vsr[1], NUMBERED << 32 | !NUMBERED >> 96);
        let state = run(VsxOp::Xxinsertw, 0, 0, NUMBERED, u128::MAX);
        // UIM is bits 12 to 15: 2 here.
        assert_eq!(state.vsr[1] >> 64, 0xffff_0405_0607_ffff);
        assert_eq!(run(VsxOp::Xxextractuw, 0, 0, NUMBERED, 0).vsr[1], 0x0203_0405 << 64);
        assert_eq!(run(VsxOp::Xxperm, 0, NUMBERED, 0x1000_0000_0000_0000_0000_0000_0000_001f, !NUMBERED).vsr[1] >> 120, 0xff);
    }

    #[test]
    fn moves_between_files() {
        let mut state = State::default();
        (state.gpr[2], state.gpr[3]) = (0x8000_0001_8000_0002, 7);
        let insn = Insn(1 << 21 | 2 << 16 | 3 << 11);
        for (op, expected) in [
            (VsxOp::Mtvsrd, 0x8000_0001_8000_0002_u128 << 64),
            (VsxOp::Mtvsrwa, 0xffff_ffff_8000_0002 << 64),
            (VsxOp::Mtvsrwz, 0x8000_0002 << 64),
            (VsxOp::Mtvsrdd, 0x8000_0001_8000_0002 << 64 | 7),
            (VsxOp::Mtvsrws, 0x8000_0002_8000_0002_8000_0002_8000_0002),
        ] {
            execute(op, insn, &mut state, &mut Nothing).expect("no storage is accessed");
            assert_eq!(state.vsr[1], expected, "{op:?}");
        }
        state.vsr[1] = NUMBERED;
        execute(VsxOp::Mfvsrwz, insn, &mut state, &mut Nothing).expect("no storage is accessed");
        assert_eq!(state.gpr[2], 0x0405_0607);
        execute(VsxOp::Mfvsrld, insn, &mut state, &mut Nothing).expect("no storage is accessed");
        assert_eq!(state.gpr[2], 0x0809_0a0b_0c0d_0e0f);
    }

    #[test]
    fn facilities_follow_the_register_number() {
        let high = Insn(1);
        assert_eq!(facility(VsxOp::Mtvsrd, Insn(0)), Facility::Fp);
        assert_eq!(facility(VsxOp::Mtvsrd, high), Facility::Vec);
        assert_eq!(facility(VsxOp::Mtvsrdd, Insn(0)), Facility::Vsx);
        assert_eq!(facility(VsxOp::Lxvx, high), Facility::Vec);
        // TX of the DQ form is bit 28.
        assert_eq!(facility(VsxOp::Lxv, high), Facility::Vsx);
        assert_eq!(facility(VsxOp::Lxv, Insn(8)), Facility::Vec);
        assert_eq!(facility(VsxOp::Lxvd2x, high), Facility::Vsx);
        assert_eq!(facility(VsxOp::Lxsd, Insn(0)), Facility::Vec);
    }

    #[test]
    fn a_fault_changes_no_register() {
        let mut state = State::default();
        state.vsr[1] = NUMBERED;
        assert_eq!(execute(VsxOp::Lxvx, Insn(1 << 21), &mut state, &mut Nothing), Err(Fault::DataSegment { ea: 0 }));
        assert_eq!(state.vsr[1], NUMBERED);
    }
}
