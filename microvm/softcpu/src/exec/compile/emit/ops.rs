//! The code of each micro-op.

use dynasmrt::{DynasmApi, DynasmLabelApi, dynasm};

use super::*;

impl Emit<'_> {
    /// Emits the code of a micro-op. True if the block ends with it.
    pub(super) fn micro_op(&mut self, uop: Uop) -> bool {
        match uop {
            Uop::Nop => {}
            // The host keeps loads in order, and stores; a store and a later load need a fence.
            Uop::OrderSome => {}
            Uop::OrderAll => x!(self; lock or DWORD [BYTE rsp + SPARE], 0),

            Uop::B { .. }
            | Uop::Bl { .. }
            | Uop::BranchIf { .. }
            | Uop::BranchUnless { .. }
            | Uop::Bdnz { .. }
            | Uop::Blr
            | Uop::BlrIf { .. }
            | Uop::BlrUnless { .. }
            | Uop::Bctr
            | Uop::Bctrl
            | Uop::MtlrBlr { .. } => return self.branch(uop),

            Uop::LdLd { rt, rt2, ra, imm, imm2 } => {
                self.displaced(ra, i32::from(imm));
                self.load(rt, 3, Widen::Zero);
                self.index += 1;
                self.displaced(ra, i32::from(imm2));
                self.load(rt2, 3, Widen::Zero);
            }
            Uop::StdStd { rs, rs2, ra, imm, imm2 } => {
                self.displaced(ra, i32::from(imm));
                self.store(rs, 3);
                self.index += 1;
                self.displaced(ra, i32::from(imm2));
                self.store(rs2, 3);
            }
            Uop::MoveMove { ra, rs, ra2, rs2 } => {
                self.copy(ra, rs);
                self.copy(ra2, rs2);
                self.index += 1;
            }
            Uop::AddiAddi { rt, ra, imm } => {
                self.add_immediate(rt, ra, imm);
                self.index += 1;
            }
            Uop::AddAdd { rt, ra, rb, rt2, ra2, rb2 } => {
                self.indexed(ra, rb);
                self.set(rt);
                self.indexed(ra2, rb2);
                self.set(rt2);
                self.index += 1;
            }
            Uop::XorXor { rt, ra, rb, rt2, ra2, rb2 } => {
                self.xor(rt, ra, rb);
                self.xor(rt2, ra2, rb2);
                self.index += 1;
            }
            Uop::TurnXor { ra, rs, sh, ra2, rs2, rb2 } => {
                self.rotated_word(rs, sh, u32::MAX);
                self.set(ra);
                self.xor(ra2, rs2, rb2);
                self.index += 1;
            }
            Uop::ShiftAdd { ra, rs, sh, rt2, ra2, rb2 } => {
                x!(self; mov rax, [BYTE rbx + gpr(rs)]; shl rax, (sh & 63) as i8);
                self.set(ra);
                self.indexed(ra2, rb2);
                self.set(rt2);
                self.index += 1;
            }
            _ => {
                if !(self.arithmetic(uop)
                    || self.logic(uop)
                    || self.condition(uop)
                    || self.storage(uop)
                    || self.vector_storage(uop))
                {
                    return self.interpret();
                }
            }
        }
        false
    }

    /// Stores rax to a register.
    fn set(&mut self, rt: u8) {
        x!(self; mov [BYTE rbx + gpr(rt)], rax);
    }

    fn copy(&mut self, ra: u8, rs: u8) {
        x!(self; mov rax, [BYTE rbx + gpr(rs)]);
        self.set(ra);
    }

    fn add_immediate(&mut self, rt: u8, ra: u8, imm: i32) {
        if rt == ra {
            x!(self; add QWORD [BYTE rbx + gpr(rt)], imm);
        } else {
            self.displaced(ra, imm);
            self.set(rt);
        }
    }

    fn xor(&mut self, ra: u8, rs: u8, rb: u8) {
        x!(self; mov rax, [BYTE rbx + gpr(rs)]; xor rax, [BYTE rbx + gpr(rb)]);
        self.set(ra);
    }

    /// ANDs rax with a mask; rcx is used for one that is no immediate.
    fn mask(&mut self, mask: u64) {
        if mask == u64::MAX {
        } else if mask == u64::from(u32::MAX) {
            x!(self; mov eax, eax);
        } else if let Ok(mask) = u32::try_from(mask) {
            x!(self; and eax, mask as i32);
        } else if let Ok(mask) = i32::try_from(mask as i64) {
            x!(self; and rax, mask);
        } else {
            x!(self; mov rcx, QWORD mask as i64; and rax, rcx);
        }
    }

    /// `rs` rotated and masked, in rax.
    fn rotated(&mut self, rs: u8, sh: u8, mask: u64) {
        x!(self; mov rax, [BYTE rbx + gpr(rs)]);
        if sh & 63 != 0 {
            x!(self; rol rax, (sh & 63) as i8);
        }
        self.mask(mask);
    }

    /// The low word of `rs` rotated and masked, in rax.
    fn rotated_word(&mut self, rs: u8, sh: u8, mask: u32) {
        x!(self; mov eax, [BYTE rbx + gpr(rs)]);
        if sh & 31 != 0 {
            x!(self; rol eax, (sh & 31) as i8);
        }
        if mask != u32::MAX {
            x!(self; and eax, mask as i32);
        }
    }

    /// What is in rax replaces `ra` where the mask has ones.
    fn insert(&mut self, ra: u8, mask: u64) {
        x!(self; mov rdx, [BYTE rbx + gpr(ra)]; xor rax, rdx);
        self.mask(mask);
        x!(self; xor rax, rdx);
        self.set(ra);
    }

    // ---- arithmetic -------------------------------------------------------------------------------------------------------

    /// rax plus rcx, with the carry that the flag is to have: `carry` emits it. CA and CA32 are set, the sum goes to `rt`.
    fn add_carrying(&mut self, rt: u8, carry: impl FnOnce(&mut Self)) {
        x!(self; mov rdx, rax; xor rdx, rcx);
        carry(self);
        x!(self
            ; adc rax, rcx
            ; setc BYTE [BYTE rbp + CA]
            ; xor rdx, rax
            ; shr rdx, 32
            ; and edx, 1
            ; mov [BYTE rbp + CA32], dl
        );
        self.set(rt);
    }

    fn arithmetic(&mut self, uop: Uop) -> bool {
        let carry_of_xer = |emit: &mut Self| x!(emit; movzx esi, BYTE [BYTE rbp + CA]; add sil, -1);
        match uop {
            Uop::Li { rt, imm } => x!(self; mov QWORD [BYTE rbx + gpr(rt)], imm),
            Uop::Addi { rt, ra, imm } => self.add_immediate(rt, ra, imm),
            Uop::Add { rt, ra, rb } => {
                self.indexed(ra, rb);
                self.set(rt);
            }
            Uop::AddRecord { rt, ra, rb } => {
                self.indexed(ra, rb);
                self.record(rt);
            }
            Uop::Subf { rt, ra, rb } => {
                x!(self; mov rax, [BYTE rbx + gpr(rb)]; sub rax, [BYTE rbx + gpr(ra)]);
                self.set(rt);
            }
            Uop::SubfRecord { rt, ra, rb } => {
                x!(self; mov rax, [BYTE rbx + gpr(rb)]; sub rax, [BYTE rbx + gpr(ra)]);
                self.record(rt);
            }
            Uop::Neg { rt, ra } => {
                x!(self; mov rax, [BYTE rbx + gpr(ra)]; neg rax);
                self.set(rt);
            }
            Uop::Mulli { rt, ra, imm } => {
                x!(self; imul rax, [BYTE rbx + gpr(ra)], imm);
                self.set(rt);
            }
            Uop::Mulld { rt, ra, rb } => {
                x!(self; mov rax, [BYTE rbx + gpr(ra)]; imul rax, [BYTE rbx + gpr(rb)]);
                self.set(rt);
            }
            Uop::Mullw { rt, ra, rb } => {
                x!(self; movsxd rax, DWORD [BYTE rbx + gpr(ra)]; movsxd rcx, DWORD [BYTE rbx + gpr(rb)]; imul rax, rcx);
                self.set(rt);
            }
            Uop::Mulhdu { rt, ra, rb } => {
                x!(self; mov rax, [BYTE rbx + gpr(ra)]; mul QWORD [BYTE rbx + gpr(rb)]; mov [BYTE rbx + gpr(rt)], rdx);
            }
            Uop::Addic { rt, ra, imm } => {
                x!(self; mov rax, [BYTE rbx + gpr(ra)]; mov rcx, imm);
                self.add_carrying(rt, |emit| x!(emit; clc));
            }
            Uop::Subfic { rt, ra, imm } => {
                x!(self; mov rax, [BYTE rbx + gpr(ra)]; not rax; mov rcx, imm);
                self.add_carrying(rt, |emit| x!(emit; stc));
            }
            Uop::Addc { rt, ra, rb } => {
                x!(self; mov rax, [BYTE rbx + gpr(ra)]; mov rcx, [BYTE rbx + gpr(rb)]);
                self.add_carrying(rt, |emit| x!(emit; clc));
            }
            Uop::Adde { rt, ra, rb } => {
                x!(self; mov rax, [BYTE rbx + gpr(ra)]; mov rcx, [BYTE rbx + gpr(rb)]);
                self.add_carrying(rt, carry_of_xer);
            }
            Uop::Subfc { rt, ra, rb } => {
                x!(self; mov rax, [BYTE rbx + gpr(ra)]; not rax; mov rcx, [BYTE rbx + gpr(rb)]);
                self.add_carrying(rt, |emit| x!(emit; stc));
            }
            Uop::Subfe { rt, ra, rb } => {
                x!(self; mov rax, [BYTE rbx + gpr(ra)]; not rax; mov rcx, [BYTE rbx + gpr(rb)]);
                self.add_carrying(rt, carry_of_xer);
            }
            Uop::Addze { rt, ra } => {
                x!(self; mov rax, [BYTE rbx + gpr(ra)]; xor ecx, ecx);
                self.add_carrying(rt, carry_of_xer);
            }
            _ => return false,
        }
        true
    }

    // ---- logic, rotates and shifts ----------------------------------------------------------------------------------------

    fn logic(&mut self, uop: Uop) -> bool {
        match uop {
            Uop::Move { ra, rs } => self.copy(ra, rs),
            Uop::And { ra, rs, rb } => {
                x!(self; mov rax, [BYTE rbx + gpr(rs)]; and rax, [BYTE rbx + gpr(rb)]);
                self.set(ra);
            }
            Uop::AndRecord { ra, rs, rb } => {
                x!(self; mov rax, [BYTE rbx + gpr(rs)]; and rax, [BYTE rbx + gpr(rb)]);
                self.record(ra);
            }
            Uop::Or { ra, rs, rb } => {
                x!(self; mov rax, [BYTE rbx + gpr(rs)]; or rax, [BYTE rbx + gpr(rb)]);
                self.set(ra);
            }
            Uop::OrRecord { ra, rs, rb } => {
                x!(self; mov rax, [BYTE rbx + gpr(rs)]; or rax, [BYTE rbx + gpr(rb)]);
                self.record(ra);
            }
            Uop::Xor { ra, rs, rb } => self.xor(ra, rs, rb),
            Uop::Nor { ra, rs, rb } => {
                x!(self; mov rax, [BYTE rbx + gpr(rs)]; or rax, [BYTE rbx + gpr(rb)]; not rax);
                self.set(ra);
            }
            Uop::Andc { ra, rs, rb } => {
                x!(self; mov rax, [BYTE rbx + gpr(rb)]; not rax; and rax, [BYTE rbx + gpr(rs)]);
                self.set(ra);
            }
            Uop::Orc { ra, rs, rb } => {
                x!(self; mov rax, [BYTE rbx + gpr(rb)]; not rax; or rax, [BYTE rbx + gpr(rs)]);
                self.set(ra);
            }
            Uop::AndiRecord { ra, rs, imm } => {
                x!(self; mov eax, [BYTE rbx + gpr(rs)]; and eax, imm as i32);
                self.record(ra);
            }
            Uop::Ori { ra, rs, imm } => {
                // An immediate is extended with its sign; the operand of oris is not.
                match i32::try_from(imm) {
                    Ok(imm) => x!(self; mov rax, [BYTE rbx + gpr(rs)]; or rax, imm),
                    Err(_) => x!(self; mov eax, imm as i32; or rax, [BYTE rbx + gpr(rs)]),
                }
                self.set(ra);
            }
            Uop::Xori { ra, rs, imm } => {
                x!(self; mov eax, imm as i32; xor rax, [BYTE rbx + gpr(rs)]);
                self.set(ra);
            }
            Uop::Extsb { ra, rs } => {
                x!(self; movsx rax, BYTE [BYTE rbx + gpr(rs)]);
                self.set(ra);
            }
            Uop::Extsh { ra, rs } => {
                x!(self; movsx rax, WORD [BYTE rbx + gpr(rs)]);
                self.set(ra);
            }
            Uop::Extsw { ra, rs } => {
                x!(self; movsxd rax, DWORD [BYTE rbx + gpr(rs)]);
                self.set(ra);
            }
            Uop::ExtswRecord { ra, rs } => {
                x!(self; movsxd rax, DWORD [BYTE rbx + gpr(rs)]);
                self.record(ra);
            }
            // Of zero the number of the highest bit is taken as one that makes 64 or 32 of it.
            Uop::Cntlzd { ra, rs } => {
                x!(self; mov ecx, 127; bsr rax, [BYTE rbx + gpr(rs)]; cmovz rax, rcx; xor rax, 63);
                self.set(ra);
            }
            Uop::Cntlzw { ra, rs } => {
                x!(self; mov ecx, 63; bsr eax, [BYTE rbx + gpr(rs)]; cmovz eax, ecx; xor eax, 31);
                self.set(ra);
            }
            _ => return self.shift(uop),
        }
        true
    }

    fn shift(&mut self, uop: Uop) -> bool {
        match uop {
            Uop::Rotate { ra, rs, sh, mb, me } => {
                self.rotated(rs, sh, hot::straight(mb, me));
                self.set(ra);
            }
            Uop::RotateRecord { ra, rs, sh, mb, me } => {
                self.rotated(rs, sh, hot::straight(mb, me));
                self.record(ra);
            }
            Uop::RotateBranch { ra, rs, sh, mb, test, offset } => {
                self.rotated(rs, sh, hot::straight(mb, 63));
                self.record(ra);
                self.branch_on_field(test, offset);
            }
            Uop::AndiBranch { ra, rs, test, imm, offset } => {
                x!(self; mov eax, [BYTE rbx + gpr(rs)]; and eax, i32::from(imm));
                self.record(ra);
                self.branch_on_field(test, offset);
            }
            Uop::RotateInsert { ra, rs, sh, mb, me } => {
                self.rotated(rs, sh, u64::MAX);
                self.insert(ra, hot::straight(mb, me));
            }
            Uop::ShiftLeft { ra, rs, sh } => {
                x!(self; mov rax, [BYTE rbx + gpr(rs)]; shl rax, (sh & 63) as i8);
                self.set(ra);
            }
            Uop::ShiftRight { ra, rs, sh } => {
                x!(self; mov rax, [BYTE rbx + gpr(rs)]; shr rax, (sh & 63) as i8);
                self.set(ra);
            }
            Uop::RotateWord { ra, rs, sh, mask } => {
                self.rotated_word(rs, sh, mask);
                self.set(ra);
            }
            Uop::RotateWordRecord { ra, rs, sh, mask } => {
                self.rotated_word(rs, sh, mask);
                self.record(ra);
            }
            Uop::RotateWordInsert { ra, rs, sh, mask } => {
                self.rotated_word(rs, sh, u32::MAX);
                self.insert(ra, u64::from(mask));
            }
            Uop::Sld { ra, rs, rb } => {
                x!(self
                    ; mov rcx, [BYTE rbx + gpr(rb)]; mov rax, [BYTE rbx + gpr(rs)]; xor edx, edx
                    ; shl rax, cl; test ecx, 0x40; cmovnz rax, rdx);
                self.set(ra);
            }
            Uop::Srd { ra, rs, rb } => {
                x!(self
                    ; mov rcx, [BYTE rbx + gpr(rb)]; mov rax, [BYTE rbx + gpr(rs)]; xor edx, edx
                    ; shr rax, cl; test ecx, 0x40; cmovnz rax, rdx);
                self.set(ra);
            }
            Uop::Slw { ra, rs, rb } => {
                x!(self
                    ; mov ecx, [BYTE rbx + gpr(rb)]; mov eax, [BYTE rbx + gpr(rs)]; xor edx, edx
                    ; shl eax, cl; test ecx, 0x20; cmovnz eax, edx);
                self.set(ra);
            }
            Uop::Srw { ra, rs, rb } => {
                x!(self
                    ; mov ecx, [BYTE rbx + gpr(rb)]; mov eax, [BYTE rbx + gpr(rs)]; xor edx, edx
                    ; shr eax, cl; test ecx, 0x20; cmovnz eax, edx);
                self.set(ra);
            }
            Uop::Sradi { ra, rs, sh } => {
                x!(self; mov rax, [BYTE rbx + gpr(rs)]);
                self.shift_right_algebraic(ra, sh & 63);
            }
            Uop::Srawi { ra, rs, sh } => {
                x!(self; movsxd rax, DWORD [BYTE rbx + gpr(rs)]);
                self.shift_right_algebraic(ra, sh & 31);
            }
            _ => return false,
        }
        true
    }

    /// rax shifted to the right into `ra`. The carry is set if ones were shifted out of a negative number.
    fn shift_right_algebraic(&mut self, ra: u8, by: u8) {
        if by == 0 {
            x!(self; mov BYTE [BYTE rbp + CA], 0; mov BYTE [BYTE rbp + CA32], 0);
        } else {
            x!(self
                ; mov rcx, rax
                ; sar rcx, 63
                ; and rcx, rax
                ; shl rcx, (64 - by) as i8
                ; setnz BYTE [BYTE rbp + CA]
                ; setnz BYTE [BYTE rbp + CA32]
                ; sar rax, by as i8
            );
        }
        self.set(ra);
    }

    // ---- condition register and special registers -------------------------------------------------------------------------

    fn condition(&mut self, uop: Uop) -> bool {
        use Order::{Signed, Unsigned};
        use With::{Immediate, Register};
        match uop {
            Uop::Cmpdi { shift, ra, imm } => self.compare(shift, ra, Immediate(imm), true, Signed),
            Uop::Cmpwi { shift, ra, imm } => self.compare(shift, ra, Immediate(imm), false, Signed),
            Uop::Cmpldi { shift, ra, imm } => self.compare(shift, ra, Immediate(imm as i32), true, Unsigned),
            Uop::Cmplwi { shift, ra, imm } => self.compare(shift, ra, Immediate(imm as i32), false, Unsigned),
            Uop::Cmpd { shift, ra, rb } => self.compare(shift, ra, Register(rb), true, Signed),
            Uop::Cmpw { shift, ra, rb } => self.compare(shift, ra, Register(rb), false, Signed),
            Uop::Cmpld { shift, ra, rb } => self.compare(shift, ra, Register(rb), true, Unsigned),
            Uop::Cmplw { shift, ra, rb } => self.compare(shift, ra, Register(rb), false, Unsigned),
            Uop::CmpdiBranch { ra, test, imm, offset } => {
                self.compare_and_branch(ra, Immediate(imm.into()), true, Signed, test, offset);
            }
            Uop::CmpwiBranch { ra, test, imm, offset } => {
                self.compare_and_branch(ra, Immediate(imm.into()), false, Signed, test, offset);
            }
            Uop::CmpldiBranch { ra, test, imm, offset } => {
                self.compare_and_branch(ra, Immediate(imm.into()), true, Unsigned, test, offset);
            }
            Uop::CmplwiBranch { ra, test, imm, offset } => {
                self.compare_and_branch(ra, Immediate(imm.into()), false, Unsigned, test, offset);
            }
            Uop::CmpdBranch { ra, rb, test, offset } => self.compare_and_branch(ra, Register(rb), true, Signed, test, offset),
            Uop::CmpwBranch { ra, rb, test, offset } => self.compare_and_branch(ra, Register(rb), false, Signed, test, offset),
            Uop::CmpldBranch { ra, rb, test, offset } => {
                self.compare_and_branch(ra, Register(rb), true, Unsigned, test, offset);
            }
            Uop::CmplwBranch { ra, rb, test, offset } => {
                self.compare_and_branch(ra, Register(rb), false, Unsigned, test, offset);
            }
            Uop::Isel { rt, ra, rb, shift } => {
                let bit = 1u32 << (shift & 31);
                x!(self
                    ; mov rax, [BYTE rbx + gpr(rb)]
                    ; test DWORD [BYTE rbp + CR], bit as i32
                    ; cmovnz rax, [BYTE rbx + gpr(ra)]
                );
                self.set(rt);
            }
            Uop::Mfcr { rt, mask } => {
                x!(self; mov eax, [BYTE rbp + CR]; and eax, mask as i32);
                self.set(rt);
            }
            Uop::Mtcrf { rs, mask } => x!(self
                ; mov eax, [BYTE rbp + CR]
                ; mov ecx, [BYTE rbx + gpr(rs)]
                ; and eax, !mask as i32
                ; and ecx, mask as i32
                ; or eax, ecx
                ; mov [BYTE rbp + CR], eax
            ),
            Uop::Mflr { rt } => {
                x!(self; mov rax, [BYTE rbp + LR]);
                self.set(rt);
            }
            Uop::Mtlr { rs } => x!(self; mov rax, [BYTE rbx + gpr(rs)]; mov [BYTE rbp + LR], rax),
            Uop::Mfctr { rt } => {
                x!(self; mov rax, [BYTE rbp + CTR]);
                self.set(rt);
            }
            Uop::Mtctr { rs } => x!(self; mov rax, [BYTE rbx + gpr(rs)]; mov [BYTE rbp + CTR], rax),
            _ => return false,
        }
        true
    }

    // ---- branches ---------------------------------------------------------------------------------------------------------

    /// Emits a branch. True if execution never goes on behind it.
    fn branch(&mut self, uop: Uop) -> bool {
        let place = self.place(self.index);
        let link = (place + 4) as i32;
        match uop {
            Uop::B { offset } => {
                self.go_to(place + i64::from(offset), self.index + 1, true);
            }
            Uop::Bl { offset } => {
                x!(self; lea rax, [r12 + link]; mov [BYTE rbp + LR], rax);
                self.go_to(place + i64::from(offset), self.index + 1, true);
            }
            Uop::BranchIf { shift, offset } => {
                let to = self.exit(offset.into());
                self.branch_on(shift, true, to);
                return false;
            }
            Uop::BranchUnless { shift, offset } => {
                let to = self.exit(offset.into());
                self.branch_on(shift, false, to);
                return false;
            }
            Uop::Bdnz { offset } => {
                let to = self.exit(offset.into());
                x!(self; sub QWORD [BYTE rbp + CTR], 1; jnz =>to);
                return false;
            }
            Uop::BlrIf { shift } => {
                self.return_if(shift, true);
                return false;
            }
            Uop::BlrUnless { shift } => {
                self.return_if(shift, false);
                return false;
            }
            Uop::MtlrBlr { rs } => {
                x!(self; mov rax, [BYTE rbx + gpr(rs)]; mov [BYTE rbp + LR], rax);
                self.index += 1;
                self.go_to_register();
            }
            Uop::Bctr => {
                x!(self; mov rax, [BYTE rbp + CTR]);
                self.go_to_register();
            }
            Uop::Bctrl => {
                x!(self; lea rax, [r12 + link]; mov [BYTE rbp + LR], rax; mov rax, [BYTE rbp + CTR]);
                self.go_to_register();
            }
            // Uop::Blr; the caller gives branches only.
            _ => {
                x!(self; mov rax, [BYTE rbp + LR]);
                self.go_to_register();
            }
        }
        true
    }

    fn return_if(&mut self, shift: u8, set: bool) {
        let over = self.ops.new_dynamic_label();
        self.branch_on(shift, !set, over);
        x!(self; mov rax, [BYTE rbp + LR]);
        self.go_to_register();
        x!(self; =>over);
    }
}
