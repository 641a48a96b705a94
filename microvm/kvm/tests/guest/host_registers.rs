//! Whether a call keeps the registers that a function has to keep (ELFv2 ABI 2.2.2): f14 to f31, v20 to v31.

use std::arch::global_asm;
use std::ffi::c_void;

// check_registers(call: r3, context: r4) -> r3: bit n for f(14 + n), bit 32 + n for v(20 + n) that came back changed. Saves and restores all
// of them for its own caller.
global_asm!(
    ".text",
    ".globl paperboat_check_registers",
    ".p2align 4",
    "paperboat_check_registers:",
    "mflr 0; std 0, 16(1)",
    "stdu 1, -1024(1)",
    "std 30, 1000(1); std 31, 1008(1)",
    "mr 12, 3",
    ".irp n, 14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
    "stfd \\n, 96+8*(\\n-14)(1)",
    ".endr",
    ".irp n, 20,21,22,23,24,25,26,27,28,29,30,31",
    "li 5, 256+16*(\\n-20); stvx \\n, 1, 5",
    ".endr",
    // A value for each: 0x4000 + number, written to memory and loaded.
    ".irp n, 14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
    "li 5, 0x4000+\\n; std 5, 512(1); lfd \\n, 512(1)",
    ".endr",
    ".irp n, 20,21,22,23,24,25,26,27,28,29,30,31",
    "li 5, 0x5000+\\n; std 5, 512(1); li 6, 0x6000+\\n; std 6, 520(1); li 7, 512; lvx \\n, 1, 7",
    ".endr",
    "std 2, 24(1)",
    "mr 3, 4",
    "mtctr 12",
    "bctrl",
    "ld 2, 24(1)",
    "li 31, 0",
    ".irp n, 14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
    "stfd \\n, 512(1); ld 5, 512(1); xori 5, 5, 0x4000+\\n; cntlzd 5, 5; srdi 5, 5, 6; xori 5, 5, 1; sldi 5, 5, \\n-14; or 31, 31, 5",
    ".endr",
    ".irp n, 20,21,22,23,24,25,26,27,28,29,30,31",
    "li 7, 512; stvx \\n, 1, 7; ld 5, 512(1); xori 5, 5, 0x5000+\\n; ld 6, 520(1); xori 6, 6, 0x6000+\\n; or 5, 5, 6",
    "cntlzd 5, 5; srdi 5, 5, 6; xori 5, 5, 1; sldi 5, 5, 32+\\n-20; or 31, 31, 5",
    ".endr",
    "mr 3, 31",
    ".irp n, 14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
    "lfd \\n, 96+8*(\\n-14)(1)",
    ".endr",
    ".irp n, 20,21,22,23,24,25,26,27,28,29,30,31",
    "li 5, 256+16*(\\n-20); lvx \\n, 1, 5",
    ".endr",
    "ld 30, 1000(1); ld 31, 1008(1)",
    "addi 1, 1, 1024",
    "ld 0, 16(1); mtlr 0",
    "blr",
);

unsafe extern "C" {
    fn paperboat_check_registers(call: extern "C" fn(*mut c_void), context: *mut c_void) -> u64;
}

struct Context<'a> {
    body: &'a mut dyn FnMut(),
}

extern "C" fn call(context: *mut c_void) {
    // SAFETY: the pointer that `check` has passed, in use by nobody else meanwhile.
    (unsafe { &mut *context.cast::<Context<'_>>() }.body)();
}

/// Calls `body` with known values in the registers; returns those that it changed: bit n for f(14 + n), bit 32 + n for v(20 + n).
pub fn check(mut body: impl FnMut()) -> u64 {
    let mut context = Context { body: &mut body };
    // SAFETY: follows the ABI: it keeps every register that it has to, and calls `call` with its second argument.
    unsafe { paperboat_check_registers(call, (&raw mut context).cast()) }
}
