//! The way into KVM_RUN.
//!
//! KVM-HV may come back with the calling thread's floating point and vector registers changed, those that a function has to preserve
//! (f14 to f31, v20 to v31; ELFv2 ABI 2.2.2) among them. The C library's `ioctl` believes in the kernel's promise, so the call is made here and
//! every such register is declared as changed; the compiler keeps what it needs. FPSCR is kept by hand.
#![allow(unsafe_code, reason = "one system call in assembly")]

use std::arch::asm;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::bindings::KVM_RUN;

/// `ioctl(2)`'s number (arch/powerpc syscall table).
const SYS_IOCTL: u64 = 54;

/// Runs the vCPU behind `fd` until it leaves the guest.
pub fn kvm_run(fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut fpscr = 0_u64;
    let mut result = fd.as_raw_fd() as i64;
    // SAFETY: KVM_RUN takes no pointer; what it writes is the kvm_run page that the kernel shares and the registers that are declared as changed
    // (ISA 3.0B I 2.3; r0, r3 to r12, CTR, XER and CR0 are a system call's to change). `fpscr` is a live, aligned doubleword.
    unsafe {
        asm!(
            "mffs 0",
            "stfd 0, 0({fpscr})",
            "sc",
            "bns+ 2f",
            "neg 3, 3",
            "2:",
            "lfd 0, 0({fpscr})",
            "mtfsf 255, 0, 1, 0",
            fpscr = in(reg_nonzero) &raw mut fpscr,
            inout("r0") SYS_IOCTL => _,
            inout("r3") result,
            inout("r4") u64::from(KVM_RUN) => _,
            inout("r5") 0_u64 => _,
            out("r6") _, out("r7") _, out("r8") _, out("r9") _, out("r10") _, out("r11") _, out("r12") _,
            out("ctr") _, out("xer") _, out("cr0") _,
            out("f0") _, out("f1") _, out("f2") _, out("f3") _, out("f4") _, out("f5") _, out("f6") _, out("f7") _,
            out("f8") _, out("f9") _, out("f10") _, out("f11") _, out("f12") _, out("f13") _, out("f14") _, out("f15") _,
            out("f16") _, out("f17") _, out("f18") _, out("f19") _, out("f20") _, out("f21") _, out("f22") _, out("f23") _,
            out("f24") _, out("f25") _, out("f26") _, out("f27") _, out("f28") _, out("f29") _, out("f30") _, out("f31") _,
            out("v0") _, out("v1") _, out("v2") _, out("v3") _, out("v4") _, out("v5") _, out("v6") _, out("v7") _,
            out("v8") _, out("v9") _, out("v10") _, out("v11") _, out("v12") _, out("v13") _, out("v14") _, out("v15") _,
            out("v16") _, out("v17") _, out("v18") _, out("v19") _, out("v20") _, out("v21") _, out("v22") _, out("v23") _,
            out("v24") _, out("v25") _, out("v26") _, out("v27") _, out("v28") _, out("v29") _, out("v30") _, out("v31") _,
        );
    }
    if result < 0 { Err(io::Error::from_raw_os_error(-result as i32)) } else { Ok(()) }
}

/// The host's processor version register; the kernel lets programs read it (Linux emulates the access).
pub fn host_pvr() -> u32 {
    let pvr: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mfspr {}, 287", out(reg) pvr, options(nomem, nostack, preserves_flags)) };
    pvr as u32
}
