//! Vector (VMX) instructions (ISA 3.0B I 6).

use super::encoding::*;

instruction_class! {
    /// Vector (VMX) instructions (ISA 3.0B I 6).
    pub enum VmxOp {
        Vand = "vand", vx(1028), "VRT,VRA,VRB", V206, Vec;
    }
}
