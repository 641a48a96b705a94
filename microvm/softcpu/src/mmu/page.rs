//! Segment and page sizes and how SLB and page table encode them (ISA 3.0B III 5.7.6.1, 5.7.8.2).
//!
//! Which encodings exist is up to the implementation; these are POWER9's for 4K, 64K and 16M pages.

use paperboat_hypervisor::{PageSizeEncoding, SegmentPageSizes};

/// SLBE L (bit 55): the base page size is not 4K.
pub(super) const SLB_L: u64 = 0x100;
/// SLBE LP (bits 58 and 59).
pub(super) const SLB_LP: u64 = 0x30;
/// Real page number field of the second HPTE doubleword, LP included (bits 4 to 51).
pub(super) const HPTE_RPN: u64 = 0x0fff_ffff_ffff_f000;
/// HPTE L (bit 61 of the first doubleword): the page is not 4K, its size stands in LP.
pub(super) const HPTE_L: u64 = 0x4;

/// How much of the address space one SLB entry maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentSize {
    /// 256 MiB, B = 0.
    M256,
    /// 1 TiB, B = 1.
    T1,
}

impl SegmentSize {
    /// Log2 of the size in bytes.
    pub const fn shift(self) -> u32 {
        match self {
            Self::M256 => 28,
            Self::T1 => 40,
        }
    }

    /// From the B field; `None` for the reserved values 2 and 3.
    pub const fn from_b(b: u64) -> Option<Self> {
        match b {
            0 => Some(Self::M256),
            1 => Some(Self::T1),
            _ => None,
        }
    }

    /// Segment base of `ea`.
    pub const fn base(self, ea: u64) -> u64 {
        ea & !((1 << self.shift()) - 1)
    }
}

/// A page size inside segments of some base page size: its shift and its LP encoding.
struct ActualSize {
    shift: u32,
    lp: u64,
}

/// A base page size: its shift, its L and LP bits in the SLB, and the page sizes that may be mixed into its segments.
pub(super) struct BaseSize {
    pub(super) shift: u32,
    pub(super) slb_encoding: u64,
    actual: &'static [ActualSize],
}

const fn actual(shift: u32, lp: u64) -> ActualSize {
    ActualSize { shift, lp }
}

static BASE_SIZES: [BaseSize; 3] = [
    BaseSize { shift: 12, slb_encoding: 0, actual: &[actual(12, 0), actual(16, 0x7), actual(24, 0x38)] },
    BaseSize { shift: 16, slb_encoding: SLB_L | 0x10, actual: &[actual(16, 0x1), actual(24, 0x8)] },
    BaseSize { shift: 24, slb_encoding: SLB_L, actual: &[actual(24, 0)] },
];

impl BaseSize {
    /// The base page size that an SLB entry's L and LP mean.
    pub(super) fn from_slb(vsid_word: u64) -> Option<&'static Self> {
        BASE_SIZES.iter().find(|size| size.slb_encoding == vsid_word & (SLB_L | SLB_LP))
    }

    /// Log2 of the page size of an HPTE found through a segment of this base page size; `None` if its encoding belongs to
    /// another base page size (such entries do not match, ISA 3.0B III 5.7.8.2).
    pub(super) fn actual_shift(&self, v: u64, r: u64) -> Option<u32> {
        if v & HPTE_L == 0 {
            return (self.shift == 12).then_some(12);
        }
        // LP occupies the RPN bits below the page size.
        let fits = |size: &&ActualSize| size.shift != 12 && r & HPTE_RPN & ((1 << size.shift) - 1) == size.lp << 12;
        self.actual.iter().find(fits).map(|size| size.shift)
    }
}

/// Log2 of base and actual page size of an HPTE by its own encoding, as H_ENTER needs it; `None` if no size has this encoding.
pub(super) fn shifts_of_hpte(v: u64, r: u64) -> Option<(u32, u32)> {
    BASE_SIZES.iter().find_map(|base| base.actual_shift(v, r).map(|actual| (base.shift, actual)))
}

/// All page sizes with their encodings, for `ibm,segment-page-sizes` (LoPAR C.6.2).
pub fn segment_page_sizes() -> Vec<SegmentPageSizes> {
    BASE_SIZES
        .iter()
        .map(|base| SegmentPageSizes {
            base_shift: base.shift,
            slb_encoding: base.slb_encoding as u32,
            pages: base
                .actual
                .iter()
                .map(|size| PageSizeEncoding { page_shift: size.shift, pte_encoding: size.lp as u32 })
                .collect(),
        })
        .collect()
}
