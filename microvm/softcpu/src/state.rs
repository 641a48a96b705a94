//! The architected registers of one vCPU.

/// Register state that instructions read and write. Special registers that only the system part knows live beside it in `exec`.
///
/// What compiled code touches most comes first, so that its instructions are short.
#[derive(Debug, Clone)]
#[repr(C)]
pub struct State {
    /// Link register.
    pub lr: u64,
    /// Count register.
    pub ctr: u64,
    /// Address of the instruction being executed.
    pub pc: u64,
    /// Machine state register.
    pub msr: u64,
    /// Condition register, CR field 0 in the top four bits.
    pub cr: u32,
    /// XER\[SO\].
    pub so: bool,
    /// XER\[OV\].
    pub ov: bool,
    /// XER\[OV32\].
    pub ov32: bool,
    /// XER\[CA\].
    pub ca: bool,
    /// XER\[CA32\].
    pub ca32: bool,
    /// XER bits 57 to 63: the byte count of lswx and stswx.
    pub xer_count: u8,
    /// General purpose registers.
    pub gpr: [u64; 32],
    /// Vector-scalar registers; FPR n is the high doubleword of VSR n, VR n is VSR 32 + n.
    pub vsr: [u128; 64],
    /// Target address register.
    pub tar: u64,
    /// Floating-point status and control register, bit 32 to 63 in the low word, DRN in bits 29 to 31 (ISA numbering).
    pub fpscr: u64,
    /// Vector status and control register: NJ is 1 << 16, SAT is 1.
    pub vscr: u32,
    /// VRSAVE.
    pub vrsave: u32,
}

impl Default for State {
    fn default() -> Self {
        Self {
            gpr: [0; 32],
            vsr: [0; 64],
            cr: 0,
            so: false,
            ov: false,
            ov32: false,
            ca: false,
            ca32: false,
            xer_count: 0,
            lr: 0,
            ctr: 0,
            tar: 0,
            pc: 0,
            msr: 0,
            fpscr: 0,
            vscr: 0,
            vrsave: 0,
        }
    }
}

impl State {
    /// MSR\[SF\]: 64-bit mode.
    #[inline(always)]
    pub fn is_64bit(&self) -> bool {
        self.msr >> 63 != 0
    }

    /// XER as mfxer reads it (ISA 3.0B I 3.2.2).
    pub fn xer(&self) -> u64 {
        u64::from(self.so) << 31
            | u64::from(self.ov) << 30
            | u64::from(self.ca) << 29
            | u64::from(self.ov32) << 19
            | u64::from(self.ca32) << 18
            | u64::from(self.xer_count & 0x7f)
    }

    /// Sets XER as mtxer does; reserved bits read back as zero.
    pub fn set_xer(&mut self, value: u64) {
        self.so = value >> 31 & 1 != 0;
        self.ov = value >> 30 & 1 != 0;
        self.ca = value >> 29 & 1 != 0;
        self.ov32 = value >> 19 & 1 != 0;
        self.ca32 = value >> 18 & 1 != 0;
        self.xer_count = value as u8 & 0x7f;
    }

    /// FPR `n` as its 64 bits.
    pub fn fpr(&self, n: usize) -> u64 {
        (self.vsr[n & 31] >> 64) as u64
    }

    /// Sets FPR `n`. The low doubleword of the VSR is undefined after a scalar operation (ISA 3.0B I 7.2.1.1); POWER9 clears it.
    pub fn set_fpr(&mut self, n: usize, bits: u64) {
        self.vsr[n & 31] = u128::from(bits) << 64;
    }

    /// VR `n`.
    pub fn vr(&self, n: usize) -> u128 {
        self.vsr[32 + (n & 31)]
    }

    /// Sets VR `n`.
    pub fn set_vr(&mut self, n: usize, value: u128) {
        self.vsr[32 + (n & 31)] = value;
    }

    /// Sets CR field `field` (0 to 7) to the four bits LT GT EQ SO.
    pub fn set_cr_field(&mut self, field: usize, bits: u32) {
        let shift = 28 - 4 * (field & 7) as u32;
        self.cr = (self.cr & !(0xf << shift)) | ((bits & 0xf) << shift);
    }

    /// CR field `field` (0 to 7).
    pub fn cr_field(&self, field: usize) -> u32 {
        (self.cr >> (28 - 4 * (field & 7) as u32)) & 0xf
    }
}
