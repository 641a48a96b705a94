//! Architected register state as the machine sees it.

/// State in which a vCPU enters the guest: at boot, or when `start-cpu` (LoPAR 7.3.4.2) starts a secondary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryState {
    /// Next instruction address (real mode).
    pub pc: u64,
    /// Machine state register.
    pub msr: u64,
    /// GPR 3: the flattened tree's address, or `start-cpu`'s argument.
    pub r3: u64,
    /// GPR 4.
    pub r4: u64,
}

/// The registers that dumps, tests and the machine read and write (the shape of `struct kvm_regs`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VcpuRegs {
    /// General purpose registers.
    pub gpr: [u64; 32],
    /// Next instruction address.
    pub pc: u64,
    /// Machine state register.
    pub msr: u64,
    /// Condition register, CR field 0 in the top four bits.
    pub cr: u32,
    /// Link register.
    pub lr: u64,
    /// Count register.
    pub ctr: u64,
    /// Fixed-point exception register.
    pub xer: u64,
    /// Save/restore register 0.
    pub srr0: u64,
    /// Save/restore register 1.
    pub srr1: u64,
    /// Data address register.
    pub dar: u64,
    /// Data storage interrupt status register.
    pub dsisr: u32,
    /// Software-use SPRs 0 to 3.
    pub sprg: [u64; 4],
}
