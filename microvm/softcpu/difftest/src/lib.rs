//! Differential test of the software CPU: random instructions, made from the CPU's own table, run on it and on QEMU's
//! user-mode emulation of a POWER9, and everything they leave behind is compared.
//!
//! A [`case::Case`] is one instruction with a full register state and 256 bytes of storage before it, so a mismatch is already
//! as small as it can be. Thousands of cases form an [`image::Image`], a program that is the same on both sides.

pub mod asm;
pub mod case;
pub mod compare;
pub mod corpus;
pub mod direct;
pub mod generate;
pub mod image;
pub mod machine;
pub mod program;
pub mod qemu;
pub mod rng;
