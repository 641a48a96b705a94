//! Interrupts (ISA 3.0B III 6): vectors, SRR0, SRR1, and the new MSR.

use super::{Cpu, Stop, msr, sprn};
use crate::trace::Place;

/// SRR1 bits of the program interrupt (III 6.5.9).
pub mod program {
    use super::{Interrupt, Stop};

    /// Floating-point enabled exception.
    pub const FLOATING_POINT: u64 = 0x10_0000;
    /// Illegal instruction.
    pub const ILLEGAL: u64 = 0x8_0000;
    /// Privileged instruction.
    pub const PRIVILEGED: u64 = 0x4_0000;
    /// Trap.
    pub const TRAP: u64 = 0x2_0000;
    /// SRR0 is the instruction after the one that caused the exception.
    pub const AFTER: u64 = 0x1_0000;

    /// The stop for an illegal instruction.
    pub const fn illegal() -> Stop {
        Stop::Interrupt(Interrupt::Program(ILLEGAL))
    }

    /// The stop for a privileged instruction in problem state.
    pub const fn privileged() -> Stop {
        Stop::Interrupt(Interrupt::Program(PRIVILEGED))
    }
}

/// Facilities of FSCR\[IC\] (III 6.2.10).
pub mod facility {
    /// Data stream control register.
    pub const DSCR: u8 = 2;
    /// Event-based branching.
    pub const EBB: u8 = 7;
    /// Target address register.
    pub const TAR: u8 = 8;
    /// `scv` and `rfscv`.
    pub const SCV: u8 = 12;
}

/// An interrupt that a partition can see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interrupt {
    /// 0x100.
    SystemReset,
    /// 0x200, with the cause for SRR1 and DSISR.
    MachineCheck {
        /// SRR1 bits 42 to 47 region.
        srr1: u64,
    },
    /// 0x300.
    DataStorage {
        /// For DSISR.
        dsisr: u32,
        /// For DAR.
        dar: u64,
    },
    /// 0x380.
    DataSegment {
        /// For DAR.
        dar: u64,
    },
    /// 0x400, with bits 33 to 36 and 42 to 47 of SRR1.
    InstructionStorage {
        /// For SRR1.
        srr1: u64,
    },
    /// 0x480.
    InstructionSegment,
    /// 0x500.
    External,
    /// 0x600.
    Alignment {
        /// For DAR.
        dar: u64,
    },
    /// 0x700, with the cause for SRR1.
    Program(u64),
    /// 0x800.
    FpUnavailable,
    /// 0x900.
    Decrementer,
    /// 0xa00.
    Doorbell,
    /// 0xc00.
    SystemCall,
    /// scv, with its level.
    SystemCallVectored(u8),
    /// 0xd00.
    Trace,
    /// 0xf20.
    VecUnavailable,
    /// 0xf40.
    VsxUnavailable,
    /// 0xf60, with the facility.
    FacilityUnavailable(u8),
}

impl Interrupt {
    /// Offset of the vector (III 6.4.3); scv has its own.
    pub fn vector(self) -> u64 {
        match self {
            Self::SystemReset => 0x100,
            Self::MachineCheck { .. } => 0x200,
            Self::DataStorage { .. } => 0x300,
            Self::DataSegment { .. } => 0x380,
            Self::InstructionStorage { .. } => 0x400,
            Self::InstructionSegment => 0x480,
            Self::External => 0x500,
            Self::Alignment { .. } => 0x600,
            Self::Program(_) => 0x700,
            Self::FpUnavailable => 0x800,
            Self::Decrementer => 0x900,
            Self::Doorbell => 0xa00,
            Self::SystemCall => 0xc00,
            Self::SystemCallVectored(_) => 0x3000,
            Self::Trace => 0xd00,
            Self::VecUnavailable => 0xf20,
            Self::VsxUnavailable => 0xf40,
            Self::FacilityUnavailable(_) => 0xf60,
        }
    }

    /// Its place in [`paperboat_hypervisor::INTERRUPT_KINDS`].
    pub(crate) fn kind(self) -> usize {
        match self {
            Self::SystemReset => 0,
            Self::MachineCheck { .. } => 1,
            Self::DataStorage { .. } => 2,
            Self::DataSegment { .. } => 3,
            Self::InstructionStorage { .. } => 4,
            Self::InstructionSegment => 5,
            Self::External => 6,
            Self::Alignment { .. } => 7,
            Self::Program(_) => 8,
            Self::Decrementer => 9,
            Self::Doorbell => 10,
            Self::SystemCall | Self::SystemCallVectored(_) => 11,
            Self::Trace => 12,
            Self::FpUnavailable | Self::VecUnavailable | Self::VsxUnavailable => 13,
            Self::FacilityUnavailable(_) => 14,
        }
    }
}

/// Base of the vectors with LPCR\[AIL\] = 2 and 3.
const AIL2_OFFSET: u64 = 0x1_8000;
const AIL3_BASE: u64 = 0xc000_0000_0000_4000;
/// Base of the scv vectors, and with AIL = 3.
const SCV_BASE: u64 = 0x1_7000;
const SCV_AIL3_BASE: u64 = 0xc000_0000_0000_3000;

impl Cpu {
    /// Enters the interrupt: `pc` is the excepting instruction, `npc` the one after it. Asynchronous interrupts are taken between
    /// instructions, with `pc` the next one.
    pub fn interrupt(&mut self, interrupt: Interrupt) {
        let (ail, little_endian) = self.shared.interrupt_mode();
        let old = self.st.msr;
        let return_to = match interrupt {
            Interrupt::SystemCall | Interrupt::SystemCallVectored(_) | Interrupt::Trace => self.npc,
            _ => self.st.pc,
        };
        let mut cause = 0;
        match interrupt {
            Interrupt::MachineCheck { srr1 } | Interrupt::InstructionStorage { srr1 } | Interrupt::Program(srr1) => cause = srr1,
            Interrupt::DataStorage { dsisr, dar } => {
                self.spr[sprn::DSISR] = u64::from(dsisr);
                self.spr[sprn::DAR] = dar;
            }
            Interrupt::DataSegment { dar } | Interrupt::Alignment { dar } => self.spr[sprn::DAR] = dar,
            Interrupt::FacilityUnavailable(facility) => {
                let fscr = self.spr[sprn::FSCR];
                self.spr[sprn::FSCR] = fscr & !(0xff << 56) | u64::from(facility) << 56;
            }
            // Taking it ends it: a doorbell is rung once.
            Interrupt::Doorbell => self.doorbell = false,
            _ => {}
        }
        if let Some(trace) = &mut self.trace {
            let at = Place { pc: return_to, msr: old, instructions: self.instructions };
            trace.interrupt(at, interrupt, self.spr[sprn::DAR]);
        }
        self.interrupts += 1;
        if let Some(budget) = self.shared.budget {
            self.check_at = self.check_at.min(budget.saturating_sub(self.interrupts));
        }
        self.shared.count_interrupt(self.id, interrupt.kind());
        let relocated = ail >= 2
            && old & (msr::IR | msr::DR) == msr::IR | msr::DR
            && !matches!(interrupt, Interrupt::SystemReset | Interrupt::MachineCheck { .. });
        let mut new = msr::SF | old & msr::ME;
        if relocated {
            new |= msr::IR | msr::DR;
        }
        if little_endian {
            new |= msr::LE;
        }
        if let Interrupt::SystemCallVectored(level) = interrupt {
            self.st.lr = return_to;
            self.st.ctr = old & !msr::CAUSE;
            self.set_msr(new | old & (msr::EE | msr::RI));
            let base = if relocated && ail == 3 { SCV_AIL3_BASE } else { SCV_BASE };
            self.st.pc = base + u64::from(level) * 0x20;
            return;
        }
        self.spr[sprn::SRR0] = return_to;
        self.spr[sprn::SRR1] = old & !msr::CAUSE | cause & msr::CAUSE;
        if matches!(interrupt, Interrupt::MachineCheck { .. }) {
            new &= !msr::ME;
        }
        self.set_msr(new);
        self.st.pc = match (relocated, ail) {
            (true, 2) => AIL2_OFFSET + interrupt.vector(),
            (true, _) => AIL3_BASE + interrupt.vector(),
            _ => interrupt.vector(),
        };
    }

    /// The asynchronous interrupt to take now, by priority (III 6.8): machine check and reset first, then with MSR\[EE\] the external
    /// interrupt, the decrementer and the doorbell.
    pub(super) fn pending_interrupt(&self) -> Option<Interrupt> {
        if self.st.msr & msr::EE == 0 {
            return None;
        }
        if self.shared.external(self.id) {
            return Some(Interrupt::External);
        }
        if self.dec_seen {
            return Some(Interrupt::Decrementer);
        }
        if self.doorbell { Some(Interrupt::Doorbell) } else { None }
    }
}
