//! Pairs of micro-ops that follow each other often, made one: the commonest cost of a micro-op is getting to it.
//!
//! A pair does exactly what its two instructions do one after the other. It stands in the place of the first; the second stays in its own
//! place, unused, so that addresses and counts still follow from a micro-op's index.

use super::uop::{IF_SET, Uop};

/// Replaces pairs in a block.
pub fn fuse(uops: &mut [Uop]) {
    let mut i = 0;
    while i + 1 < uops.len() {
        match pair(uops[i], uops[i + 1]) {
            Some(both) => {
                uops[i] = both;
                i += 2;
            }
            None => i += 1,
        }
    }
}

/// The tested bit and the displacement of a conditional branch on CR field `shift`.
fn branch(second: Uop, shift: u8) -> Option<(u8, i16)> {
    let (bit, offset, test) = match second {
        Uop::BranchIf { shift, offset } => (shift, offset, shift | IF_SET),
        Uop::BranchUnless { shift, offset } => (shift, offset, shift),
        _ => return None,
    };
    (bit & !3 == shift).then_some((test, i16::try_from(offset).ok()?))
}

/// Both in one, if there is such a micro-op.
fn pair(first: Uop, second: Uop) -> Option<Uop> {
    /// Shift of CR field 0, which record forms set.
    const CR0: u8 = 28;
    Some(match (first, second) {
        (Uop::Cmpdi { shift, ra, imm }, _) => {
            let (test, offset) = branch(second, shift)?;
            Uop::CmpdiBranch { ra, test, imm: imm as i16, offset }
        }
        (Uop::Cmpwi { shift, ra, imm }, _) => {
            let (test, offset) = branch(second, shift)?;
            Uop::CmpwiBranch { ra, test, imm: imm as i16, offset }
        }
        (Uop::Cmpldi { shift, ra, imm }, _) => {
            let (test, offset) = branch(second, shift)?;
            Uop::CmpldiBranch { ra, test, imm: imm as u16, offset }
        }
        (Uop::Cmplwi { shift, ra, imm }, _) => {
            let (test, offset) = branch(second, shift)?;
            Uop::CmplwiBranch { ra, test, imm: imm as u16, offset }
        }
        (Uop::Cmpd { shift, ra, rb }, _) => {
            let (test, offset) = branch(second, shift)?;
            Uop::CmpdBranch { ra, rb, test, offset }
        }
        (Uop::Cmpw { shift, ra, rb }, _) => {
            let (test, offset) = branch(second, shift)?;
            Uop::CmpwBranch { ra, rb, test, offset }
        }
        (Uop::Cmpld { shift, ra, rb }, _) => {
            let (test, offset) = branch(second, shift)?;
            Uop::CmpldBranch { ra, rb, test, offset }
        }
        (Uop::Cmplw { shift, ra, rb }, _) => {
            let (test, offset) = branch(second, shift)?;
            Uop::CmplwBranch { ra, rb, test, offset }
        }
        (Uop::AndiRecord { ra, rs, imm }, _) => {
            let (test, offset) = branch(second, CR0)?;
            Uop::AndiBranch { ra, rs, test, imm: u16::try_from(imm).ok()?, offset }
        }
        (Uop::RotateRecord { ra, rs, sh, mb, me: 63 }, _) => {
            let (test, offset) = branch(second, CR0)?;
            Uop::RotateBranch { ra, rs, sh, mb, test, offset }
        }
        (Uop::Ld { rt, ra, imm }, Uop::Ld { rt: rt2, ra: ra2, imm: imm2 }) if ra == ra2 && rt != ra => {
            Uop::LdLd { rt, rt2, ra, imm: imm as i16, imm2: imm2 as i16 }
        }
        (Uop::Std { rs, ra, imm }, Uop::Std { rs: rs2, ra: ra2, imm: imm2 }) if ra == ra2 => {
            Uop::StdStd { rs, rs2, ra, imm: imm as i16, imm2: imm2 as i16 }
        }
        (Uop::Move { ra, rs }, Uop::Move { ra: ra2, rs: rs2 }) => Uop::MoveMove { ra, rs, ra2, rs2 },
        (Uop::Addi { rt, ra, imm }, Uop::Addi { rt: rt2, ra: ra2, imm: imm2 }) if rt == rt2 && rt == ra2 => {
            Uop::AddiAddi { rt, ra, imm: imm.checked_add(imm2)? }
        }
        (Uop::Mtlr { rs }, Uop::Blr) => Uop::MtlrBlr { rs },
        (Uop::Add { rt, ra, rb }, Uop::Add { rt: rt2, ra: ra2, rb: rb2 }) => Uop::AddAdd { rt, ra, rb, rt2, ra2, rb2 },
        (Uop::Xor { ra, rs, rb }, Uop::Xor { ra: rt2, rs: ra2, rb: rb2 }) => Uop::XorXor { rt: ra, ra: rs, rb, rt2, ra2, rb2 },
        (Uop::RotateWord { ra, rs, sh, mask: u32::MAX }, Uop::Xor { ra: ra2, rs: rs2, rb: rb2 }) => {
            Uop::TurnXor { ra, rs, sh, ra2, rs2, rb2 }
        }
        (Uop::ShiftLeft { ra, rs, sh }, Uop::Add { rt: rt2, ra: ra2, rb: rb2 }) => Uop::ShiftAdd { ra, rs, sh, rt2, ra2, rb2 },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_branch_on_another_field_stays_alone() {
        let compare = Uop::Cmpdi { shift: 0, ra: 3, imm: 1 };
        assert!(pair(compare, Uop::BranchIf { shift: 30, offset: 8 }).is_none());
        assert!(matches!(
            pair(compare, Uop::BranchIf { shift: 2, offset: 8 }),
            Some(Uop::CmpdiBranch { ra: 3, test: 34, imm: 1, offset: 8 })
        ));
    }

    #[test]
    fn a_load_into_the_base_is_not_paired() {
        let loads = |rt| pair(Uop::Ld { rt, ra: 4, imm: 8 }, Uop::Ld { rt: 9, ra: 4, imm: 16 });
        assert!(loads(4).is_none() && loads(5).is_some());
    }

    #[test]
    fn pairs_do_not_overlap() {
        let mut uops = [Uop::Move { ra: 1, rs: 2 }; 3];
        fuse(&mut uops);
        assert!(matches!(uops, [Uop::MoveMove { .. }, Uop::Move { .. }, Uop::Move { .. }]));
    }
}
