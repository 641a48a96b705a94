//! Loads and stores: through the soft TLB in line, by `support` where it does not answer.

use dynasmrt::{DynasmApi, DynasmLabelApi, dynasm};

use super::*;

impl Emit<'_> {
    pub(super) fn displaced(&mut self, ra: u8, imm: i32) {
        x!(self; mov rax, [BYTE rbx + gpr(ra)]);
        if imm != 0 {
            x!(self; add rax, imm);
        }
    }

    pub(super) fn indexed(&mut self, ra: u8, rb: u8) {
        x!(self; mov rax, [BYTE rbx + gpr(ra)]; add rax, [BYTE rbx + gpr(rb)]);
    }

    /// Makes the address in rax a real one by the entry for loads or stores; the labels for what the soft TLB does not answer.
    fn translate(&mut self, size: u8, store: bool) -> (DynamicLabel, DynamicLabel) {
        let (slow, back) = (self.ops.new_dynamic_label(), self.ops.new_dynamic_label());
        // The last byte's page has to be the entry's, so an access across pages never is.
        let last = (1i8 << size) - 1;
        x!(self
            ; mov ecx, eax
            ; lea rdx, [BYTE rax + last]
            ; shr ecx, layout::INDEX_SHIFT as i8
            ; and rdx, r9
            ; and ecx, r10d
        );
        if store {
            let (tag, delta) = (layout::STORES_FROM_LOADS + layout::TAG, layout::STORES_FROM_LOADS + layout::DELTA);
            x!(self; cmp rdx, [r13 + rcx + tag as i32]; jne =>slow; add rax, [r13 + rcx + delta as i32]);
        } else {
            let (tag, delta) = (layout::TAG as i8, layout::DELTA as i8);
            x!(self; cmp rdx, [BYTE r13 + rcx + tag]; jne =>slow; add rax, [BYTE r13 + rcx + delta]);
        }
        (slow, back)
    }

    /// Loads from the address in rax into `rt`.
    pub(super) fn load(&mut self, rt: u8, size: u8, extend: Widen) {
        let (from, back) = self.translate(size, false);
        match (size, extend) {
            (0, _) => x!(self; movzx ecx, BYTE [r15 + rax]),
            (1, Widen::Zero) => x!(self; movzx ecx, WORD [r15 + rax]),
            (1, Widen::Sign) => x!(self; movsx rcx, WORD [r15 + rax]),
            (2, Widen::Zero) => x!(self; mov ecx, [r15 + rax]),
            (2, Widen::Sign) => x!(self; movsxd rcx, DWORD [r15 + rax]),
            _ => x!(self; mov rcx, [r15 + rax]),
        }
        x!(self; =>back; mov [BYTE rbx + gpr(rt)], rcx);
        self.later.push(Slow { from, back, index: self.index, access: Access::Load(size, extend) });
    }

    /// Stores `rs` to the address in rax.
    pub(super) fn store(&mut self, rs: u8, size: u8) {
        let (from, back) = self.translate(size, true);
        x!(self; mov rcx, [BYTE rbx + gpr(rs)]);
        match size {
            0 => x!(self; mov [r15 + rax], cl),
            1 => x!(self; mov [r15 + rax], cx),
            2 => x!(self; mov [r15 + rax], ecx),
            _ => x!(self; mov [r15 + rax], rcx),
        }
        x!(self; =>back);
        self.later.push(Slow { from, back, index: self.index, access: Access::Store { rs, size } });
    }

    pub(super) fn slow(&mut self, slow: &Slow) {
        let at = self.at(slow.index);
        x!(self; =>slow.from);
        match slow.access {
            Access::Load(size, extend) => {
                x!(self; mov ecx, at; call extern self.thunks.load[usize::from(size & 3)]);
                match (size, extend) {
                    (1, Widen::Sign) => x!(self; movsx rcx, cx),
                    (2, Widen::Sign) => x!(self; movsxd rcx, ecx),
                    _ => {}
                }
            }
            Access::Store { rs, size } => x!(self
                ; mov rdx, [BYTE rbx + gpr(rs)]
                ; mov ecx, at
                ; call extern self.thunks.store[usize::from(size & 3)]
            ),
            Access::Whole => self.interpret_inner(slow.index),
        }
        x!(self; jmp =>slow.back);
    }

    pub(super) fn storage(&mut self, uop: Uop) -> bool {
        use Widen::{Sign, Zero};
        // What is loaded or stored, its size as a power of two.
        let (register, size, extend, store) = match uop {
            Uop::Lbz { rt, .. } | Uop::Lbzx { rt, .. } | Uop::Lbzu { rt, .. } => (rt, 0, Zero, false),
            Uop::Lhz { rt, .. } | Uop::Lhzx { rt, .. } | Uop::Lhzu { rt, .. } => (rt, 1, Zero, false),
            Uop::Lha { rt, .. } | Uop::Lhax { rt, .. } => (rt, 1, Sign, false),
            Uop::Lwz { rt, .. } | Uop::Lwzx { rt, .. } | Uop::Lwzu { rt, .. } => (rt, 2, Zero, false),
            Uop::Lwa { rt, .. } | Uop::Lwax { rt, .. } => (rt, 2, Sign, false),
            Uop::Ld { rt, .. } | Uop::Ldx { rt, .. } | Uop::Ldu { rt, .. } => (rt, 3, Zero, false),
            Uop::Stb { rs, .. } | Uop::Stbx { rs, .. } | Uop::Stbu { rs, .. } => (rs, 0, Zero, true),
            Uop::Sth { rs, .. } | Uop::Sthx { rs, .. } | Uop::Sthu { rs, .. } => (rs, 1, Zero, true),
            Uop::Stw { rs, .. } | Uop::Stwx { rs, .. } | Uop::Stwu { rs, .. } => (rs, 2, Zero, true),
            Uop::Std { rs, .. } | Uop::Stdx { rs, .. } | Uop::Stdu { rs, .. } => (rs, 3, Zero, true),
            _ => return false,
        };
        let mut update = None;
        match uop {
            Uop::Lbzx { ra, rb, .. }
            | Uop::Lhzx { ra, rb, .. }
            | Uop::Lhax { ra, rb, .. }
            | Uop::Lwzx { ra, rb, .. }
            | Uop::Lwax { ra, rb, .. }
            | Uop::Ldx { ra, rb, .. }
            | Uop::Stbx { ra, rb, .. }
            | Uop::Sthx { ra, rb, .. }
            | Uop::Stwx { ra, rb, .. }
            | Uop::Stdx { ra, rb, .. } => self.indexed(ra, rb),
            Uop::Lbz { ra, imm, .. }
            | Uop::Lhz { ra, imm, .. }
            | Uop::Lha { ra, imm, .. }
            | Uop::Lwz { ra, imm, .. }
            | Uop::Lwa { ra, imm, .. }
            | Uop::Ld { ra, imm, .. }
            | Uop::Stb { ra, imm, .. }
            | Uop::Sth { ra, imm, .. }
            | Uop::Stw { ra, imm, .. }
            | Uop::Std { ra, imm, .. } => self.displaced(ra, imm),
            Uop::Lbzu { ra, imm, .. }
            | Uop::Lhzu { ra, imm, .. }
            | Uop::Lwzu { ra, imm, .. }
            | Uop::Ldu { ra, imm, .. }
            | Uop::Stbu { ra, imm, .. }
            | Uop::Sthu { ra, imm, .. }
            | Uop::Stwu { ra, imm, .. }
            | Uop::Stdu { ra, imm, .. } => {
                self.displaced(ra, imm);
                update = Some((ra, imm));
            }
            _ => return false,
        }
        if store {
            self.store(register, size)
        } else {
            self.load(register, size, extend)
        }
        // Not the register that was loaded; the one stored keeps its old value in memory.
        if let Some((ra, imm)) = update {
            x!(self; add QWORD [BYTE rbx + gpr(ra)], imm);
        }
        true
    }

    /// Loads and stores of the floating-point and vector registers. What the soft TLB does not answer, or where the registers are not
    /// available, is done by the interpreter.
    pub(super) fn vector_storage(&mut self, uop: Uop) -> bool {
        let (facility, size, store) = match uop {
            Uop::Lfd { .. } => (msr::FP, 3, false),
            Uop::Stfd { .. } => (msr::FP, 3, true),
            Uop::Lvx { .. } | Uop::LvxAt { .. } => (msr::VEC, 4, false),
            Uop::Stvx { .. } | Uop::StvxAt { .. } => (msr::VEC, 4, true),
            Uop::Lxvd2x { .. } => (msr::VSX, 4, false),
            Uop::Stxvd2x { .. } => (msr::VSX, 4, true),
            _ => return false,
        };
        let unavailable = self.ops.new_dynamic_label();
        x!(self; test DWORD [BYTE rbp + MSR], facility as i32; jz =>unavailable);
        // The register, and whether the doubleword at the lower address is its high one.
        let (register, high_first) = match uop {
            Uop::Lfd { rt: n, ra, imm } | Uop::Stfd { rs: n, ra, imm } => {
                self.displaced(ra, imm);
                (n & 31, true)
            }
            Uop::Lxvd2x { xt: n, ra, rb } | Uop::Stxvd2x { xs: n, ra, rb } => {
                self.indexed(ra, rb);
                (n & 63, true)
            }
            Uop::Lvx { rt: n, ra, rb } | Uop::Stvx { rs: n, ra, rb } => {
                self.indexed(ra, rb);
                x!(self; and rax, -16);
                (32 + (n & 31), false)
            }
            Uop::LvxAt { rt: n, rb } | Uop::StvxAt { rs: n, rb } => {
                x!(self; mov rax, [BYTE rbx + gpr(rb)]; and rax, -16);
                (32 + (n & 31), false)
            }
            _ => return false,
        };
        let (first, second) = if high_first { (vsr(register) + 8, vsr(register)) } else { (vsr(register), vsr(register) + 8) };
        let (missed, back) = self.translate(size, store);
        match (size, store) {
            (3, false) => x!(self; mov rcx, [r15 + rax]; mov [rbp + first], rcx; mov QWORD [rbp + second], 0),
            (3, true) => x!(self; mov rcx, [rbp + first]; mov [r15 + rax], rcx),
            (_, false) => x!(self
                ; mov rcx, [r15 + rax]; mov rdx, [r15 + rax + 8]
                ; mov [rbp + first], rcx; mov [rbp + second], rdx),
            (_, true) => x!(self
                ; mov rcx, [rbp + first]; mov rdx, [rbp + second]
                ; mov [r15 + rax], rcx; mov [r15 + rax + 8], rdx),
        }
        x!(self; =>back);
        for from in [unavailable, missed] {
            self.later.push(Slow { from, back, index: self.index, access: Access::Whole });
        }
        true
    }
}
