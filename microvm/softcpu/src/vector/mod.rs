//! Floating point, VMX and VSX: semantics on the 64 vector-scalar registers (ISA 3.0B Book I chapters 4, 6, 7).
//!
//! One `u128` per register, in the ISA's big-endian numbering: bit 0 is the most significant bit, word element 0 the most
//! significant word. FPR *n* is the high doubleword of VSR *n*, VR *n* is VSR 32 + *n*. Little-endian mode matters in loads and
//! stores only.
