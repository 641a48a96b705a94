//! Branches and condition register logic (ISA 3.0B I 2).

use super::encoding::*;

instruction_class! {
    /// Branches and condition register logic (ISA 3.0B I 2).
    pub enum BranchOp {
        B = "b", po(18), "LI", V206, Base;
    }
}
