//! System linkage, special purpose registers, storage control (ISA 3.0B II, III).

use super::encoding::*;

instruction_class! {
    /// System linkage, special purpose registers, storage control (ISA 3.0B II, III).
    pub enum SystemOp {
        Sc = "sc", po(17).and(30, 30, 1), "LEV", V206, Base;
    }
}
