//! Fixed-point instructions, loads and stores, cache management (ISA 3.0B I 3, II 4).

use super::encoding::*;

instruction_class! {
    /// Fixed-point instructions, loads and stores, cache management (ISA 3.0B I 3, II 4).
    pub enum FixedOp {
        Addi = "addi", po(14), "RT,RA,SI", V206, Base;
        Add = "add", xo(31, 266), "RT,RA,RB", V206, Base, rc, oe;
    }
}
