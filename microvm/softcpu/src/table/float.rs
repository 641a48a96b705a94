//! Floating-point instructions (ISA 3.0B I 4).

use super::encoding::*;

instruction_class! {
    /// Floating-point instructions (ISA 3.0B I 4).
    pub enum FloatOp {
        Fmr = "fmr", x(63, 72), "FRT,FRB", V206, Fp, rc;
    }
}
