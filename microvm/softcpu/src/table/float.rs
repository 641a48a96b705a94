//! Floating-point instructions (ISA 3.0B I 4).

use super::encoding::*;

instruction_class! {
    /// Floating-point instructions (ISA 3.0B I 4).
    pub enum FloatOp {
        Fadd = "fadd", a(63, 21), "FRT,FRA,FRB", V206, Fp, rc;
    }
}
