//! BPF, as far as a container runtime takes it: instructions by the names of the instruction set ([`insn`]), and the commands of
//! bpf(2) that load a program, give it sockets and attach it ([`command`]).
//!
//! The shim steers connections to localhost with one program, the agent holds device rules with another. Both are assembled where their
//! meaning is known; what is the kernel's is here.

pub mod command;
pub mod insn;

pub use command::{Attach, Program, SocketMap};
pub use insn::Insn;
