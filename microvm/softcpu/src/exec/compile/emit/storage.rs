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

    /// Makes the address in rax a real one by the entry at `tags` of the bank; the labels for what the soft TLB does not answer.
    fn translate(&mut self, size: u8, tags: usize) -> (DynamicLabel, DynamicLabel) {
        let (slow, back) = (self.ops.new_dynamic_label(), self.ops.new_dynamic_label());
        // The last byte's page has to be the entry's, so an access across pages never is.
        let (last, page) = ((1 << size) - 1, !(PAGE_SIZE - 1) as i32);
        let tag = (tags + tlb::ENTRY_TAG) as i32;
        let delta = (tags + tlb::ENTRY_DELTA) as i32;
        x!(self
            ; mov ecx, eax
            ; lea rdx, [rax + last]
            ; shr ecx, tlb::INDEX_SHIFT as i8
            ; and ecx, tlb::INDEX_MASK as i32
            ; and rdx, page
            ; cmp rdx, [r13 + rcx + tag]
            ; jne =>slow
            ; add rax, [r13 + rcx + delta]
        );
        (slow, back)
    }

    /// Loads from the address in rax into `rt`.
    pub(super) fn load(&mut self, rt: u8, size: u8, extend: Widen) {
        let (from, back) = self.translate(size, tlb::LOAD_ENTRIES);
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
        let (from, back) = self.translate(size, tlb::STORE_ENTRIES);
        x!(self; mov rcx, [BYTE rbx + gpr(rs)]);
        match size {
            0 => x!(self; mov [r15 + rax], cl),
            1 => x!(self; mov [r15 + rax], cx),
            2 => x!(self; mov [r15 + rax], ecx),
            _ => x!(self; mov [r15 + rax], rcx),
        }
        x!(self; =>back);
        // The value is the register's at the time of the slow way, too.
        self.later.push(Slow { from, back, index: self.index, access: Access::Store(size | rs << 2) });
    }

    pub(super) fn slow(&mut self, slow: &Slow) {
        let place = self.place(slow.index) as i32;
        let index = slow.index as i32;
        x!(self; =>slow.from);
        if let Access::Whole = slow.access {
            self.interpret_inner(slow.index);
            x!(self; jmp =>slow.back);
            return;
        }
        x!(self; mov rdi, rbp; mov rsi, rax);
        match slow.access {
            Access::Load(size, extend) => {
                let function = self.thunks.load[usize::from(size & 3)];
                x!(self
                    ; lea rdx, [r12 + place]
                    ; mov ecx, index
                    ; call extern function
                    ; test edx, edx
                    ; jnz extern self.thunks.stopped
                );
                match (size, extend) {
                    (1, Widen::Sign) => x!(self; movsx rcx, ax),
                    (2, Widen::Sign) => x!(self; movsxd rcx, eax),
                    _ => x!(self; mov rcx, rax),
                }
            }
            // Above.
            Access::Whole => {}
            Access::Store(packed) => {
                let function = self.thunks.store[usize::from(packed & 3)];
                x!(self
                    ; mov rdx, [BYTE rbx + gpr(packed >> 2)]
                    ; lea rcx, [r12 + place]
                    ; mov r8d, index
                    ; call extern function
                    ; test eax, eax
                    ; jnz extern self.thunks.stopped
                );
            }
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
        x!(self; test DWORD [rbp + MSR], facility as i32; jz =>unavailable);
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
        let (missed, back) = self.translate(size, if store { tlb::STORE_ENTRIES } else { tlb::LOAD_ENTRIES });
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
