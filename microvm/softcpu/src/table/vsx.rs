//! Vector-scalar (VSX) instructions (ISA 3.0B I 7).

use super::encoding::*;

instruction_class! {
    /// Vector-scalar (VSX) instructions (ISA 3.0B I 7).
    pub enum VsxOp {
        Xxlxor = "xxlxor", xx3(60, 154), "XT,XA,XB", V206, Vsx;
    }
}
