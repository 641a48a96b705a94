//! Vector (VMX) instructions (ISA 3.0B I 6).

use super::encoding::*;

instruction_class! {
    /// Vector (VMX) instructions (ISA 3.0B I 6).
    pub enum VmxOp {
        Vadduwm = "vadduwm", vx(128), "VRT,VRA,VRB", V206, Vec;
    }
}
