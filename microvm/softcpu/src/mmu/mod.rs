//! Address translation: effective → virtual (SLB) → real (hashed page table), Power ISA 3.0B Book III chapter 5.
//!
//! - [`Slb`]: the 32 segment entries of one vCPU, and what its instructions tell the soft TLB to forget.
//! - [`Hpt`]: the partition's page table, shared by all vCPUs. Lookups scan without a lock; everything that changes an
//!   entry (hypercalls, R and C) holds the lock of that entry's group.
//! - [`translate()`]: one access through both, with the exact interrupt when it is refused.
//! - [`Hpt::hypercall`]: H_ENTER and its family (LoPAR 14.5.4), as KVM-HV serves them.
//! - [`explain()`]: the same walk as text.
//!
//! A caller that caches a [`Translation`] keeps its `ptex` beside it. Two things make it stale: a hypercall, whose
//! [`HptReply::dropped`] names the entries that *every* vCPU has to forget before the call returns to its guest; and an SLB
//! instruction of the same vCPU, which returns an [`SlbInvalidation`].

mod explain;
mod hcall;
mod hpt;
mod page;
mod slb;
mod translate;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

pub use explain::explain;
pub use hcall::{DroppedPtes, HptReply, serves};
pub use hpt::{Hpt, HptError, Hpte};
pub use page::{SegmentSize, segment_page_sizes};
pub use slb::{SLB_ENTRIES, Slb, SlbEntry, SlbInvalidation};
pub use translate::{Translation, TranslationContext, translate};

/// What kind of access is translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Instruction fetch.
    Fetch,
    /// Data load.
    Load,
    /// Data store (also dcbz, stwcx. and the like).
    Store,
}

/// Why an access did not go through: which interrupt it raises (ISA 3.0B III 6.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Data storage interrupt (0x300) with these DSISR bits and this DAR.
    DataStorage {
        /// Bits to set in DSISR.
        dsisr: u32,
        /// Effective address for DAR.
        ea: u64,
    },
    /// Data segment interrupt (0x380) with this DAR.
    DataSegment {
        /// Effective address for DAR.
        ea: u64,
    },
    /// Instruction storage interrupt (0x400) with these SRR1 bits (33 to 36 and 42 to 47).
    InstructionStorage {
        /// Bits to set in SRR1.
        srr1: u64,
    },
    /// Instruction segment interrupt (0x480).
    InstructionSegment,
    /// Alignment interrupt (0x600).
    Alignment {
        /// Effective address for DAR.
        ea: u64,
    },
    /// The real address is not RAM: the machine has to serve the access, then the instruction runs again.
    Mmio {
        /// Guest real address.
        ra: u64,
        /// 1, 2, 4 or 8 bytes.
        size: u8,
        /// The value to store in the guest's register order, `None` for a load.
        store: Option<u64>,
        /// Byte order of the access.
        little_endian: bool,
    },
}
