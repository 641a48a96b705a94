//! Branches and condition register logic (ISA 3.0B I 2).

use crate::state::State;
use crate::table::{BranchOp, Insn};

use super::interrupt::facility;
use super::{Cpu, Interrupt, Stop, sprn};

/// Decrements CTR if BO says so and gives the branch condition (I 2.4).
pub(super) fn condition(state: &mut State, bo: u32, bi: u32) -> bool {
    let mut taken = true;
    if bo & 4 == 0 {
        state.ctr = state.ctr.wrapping_sub(1);
        let count = if state.is_64bit() { state.ctr } else { state.ctr & 0xffff_ffff };
        taken = (count != 0) != (bo & 2 != 0);
    }
    if bo & 16 == 0 {
        let set = state.cr >> (31 - bi) & 1 != 0;
        taken &= set == (bo & 8 != 0);
    }
    taken
}

/// LI || 0b00, sign-extended.
pub(super) fn li(insn: Insn) -> i64 {
    i64::from(((insn.0 & 0x03ff_fffc) << 6) as i32 >> 6)
}

/// Executes a branch or CR instruction.
pub(super) fn execute(cpu: &mut Cpu, op: BranchOp, insn: Insn) -> Result<(), Stop> {
    use BranchOp::*;
    let pc = cpu.st.pc;
    let after = cpu.truncate(pc.wrapping_add(4));
    let (bo, bi) = (insn.bits(6, 10), insn.bits(11, 15));
    let (link, taken, target) = match op {
        B | Bl => (op == Bl, true, pc.wrapping_add(li(insn) as u64)),
        Ba | Bla => (op == Bla, true, li(insn) as u64),
        Bc | Bcl => (op == Bcl, condition(&mut cpu.st, bo, bi), pc.wrapping_add(insn.ds() as u64)),
        Bca | Bcla => (op == Bcla, condition(&mut cpu.st, bo, bi), insn.ds() as u64),
        Bclr | Bclrl => {
            let target = cpu.st.lr & !3;
            (op == Bclrl, condition(&mut cpu.st, bo, bi), target)
        }
        // With CTR as the target the count is not used (a reserved form decrements all the same).
        Bcctr | Bcctrl => {
            let target = cpu.st.ctr & !3;
            (op == Bcctrl, condition(&mut cpu.st, bo, bi), target)
        }
        Bctar | Bctarl => {
            if cpu.problem_state() && cpu.spr[sprn::FSCR] >> facility::TAR & 1 == 0 {
                return Err(Stop::Interrupt(Interrupt::FacilityUnavailable(facility::TAR)));
            }
            let target = cpu.st.tar & !3;
            (op == Bctarl, condition(&mut cpu.st, bo, bi), target)
        }
        _ => {
            condition_register(&mut cpu.st, op, insn);
            return Ok(());
        }
    };
    if link {
        cpu.st.lr = after;
    }
    if taken {
        cpu.cfar = pc;
        cpu.npc = cpu.truncate(target);
    }
    Ok(())
}

fn condition_register(state: &mut State, op: BranchOp, insn: Insn) {
    use BranchOp::*;
    if op == Mcrf {
        let field = state.cr_field(insn.bits(11, 13) as usize);
        state.set_cr_field(insn.bf(), field);
        return;
    }
    let bit = |n: u32| state.cr >> (31 - n) & 1;
    let (a, b) = (bit(insn.bits(11, 15)), bit(insn.bits(16, 20)));
    let result = match op {
        Crand => a & b,
        Crnand => !(a & b),
        Cror => a | b,
        Crxor => a ^ b,
        Crnor => !(a | b),
        Creqv => !(a ^ b),
        Crandc => a & !b,
        _ => a | !b,
    } & 1;
    let shift = 31 - insn.bits(6, 10);
    state.cr = (state.cr & !(1 << shift)) | result << shift;
}
