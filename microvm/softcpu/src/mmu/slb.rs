//! The segment lookaside buffer: 32 entries that software fills (ISA 3.0B III 5.7.6, 5.9.3.2).

use super::page::{BaseSize, SegmentSize};

/// Number of entries, `ibm,slb-size`.
pub const SLB_ENTRIES: usize = 32;

/// ESID field of the first word (bits 0 to 35).
const ESID: u64 = 0xffff_ffff_f000_0000;
/// V of the first word (bit 36).
const V: u64 = 0x0800_0000;
/// B in the RB of slbie (bits 37 and 38).
const RB_B_SHIFT: u32 = 25;

const B_SHIFT: u32 = 62;
const KS: u64 = 0x800;
const KP: u64 = 0x400;
const N: u64 = 0x200;
const CLASS: u64 = 0x80;
/// B, VSID, Ks, Kp, N, L, C and LP; the rest is reserved and reads as zero.
const VSID_WORD: u64 = 0xffff_ffff_ffff_ffb0;

/// What a change of the SLB makes stale in caches of translations of this vCPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlbInvalidation {
    /// Nothing.
    None,
    /// Translations of effective addresses `base .. base + 2^shift`.
    Segment {
        /// First effective address.
        base: u64,
        /// Log2 of the size in bytes: 28 or 40.
        shift: u32,
    },
    /// Translations whose [`super::Translation::class`] is true. Forgetting all of them is allowed too.
    Class1,
    /// All translations.
    All,
}

/// One entry, in the two words of slbmte, slbmfee and slbmfev.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SlbEntry {
    /// ESID (bits 0 to 35) and V (bit 36).
    pub esid_word: u64,
    /// B, VSID, Ks, Kp, N, L, C, LP (RS of slbmte).
    pub vsid_word: u64,
}

impl SlbEntry {
    /// V.
    pub fn is_valid(&self) -> bool {
        self.esid_word & V != 0
    }

    /// The segment size; `None` for a reserved B, which matches no address.
    pub fn segment_size(&self) -> Option<SegmentSize> {
        SegmentSize::from_b(self.vsid_word >> B_SHIFT)
    }

    /// The virtual segment id: 50 bits of a 256M segment, 38 bits of a 1T segment.
    pub fn vsid(&self) -> u64 {
        match self.segment_size() {
            Some(SegmentSize::T1) => (self.vsid_word & 0x3fff_ffff_ffff_f000) >> 24,
            _ => (self.vsid_word & 0x3fff_ffff_ffff_f000) >> 12,
        }
    }

    /// True if this valid entry maps `ea`.
    pub fn covers(&self, ea: u64) -> bool {
        self.is_valid() && self.segment_size().is_some_and(|size| size.base(ea) == size.base(self.esid_word & ESID))
    }

    /// The storage key that protection uses: Kp in problem state, Ks otherwise.
    pub fn key(&self, problem_state: bool) -> bool {
        self.vsid_word & if problem_state { KP } else { KS } != 0
    }

    /// N: no instruction fetch from this segment.
    pub fn no_execute(&self) -> bool {
        self.vsid_word & N != 0
    }

    /// Class bit.
    pub fn class(&self) -> bool {
        self.vsid_word & CLASS != 0
    }

    /// Base page size by L and LP; `None` for an encoding that this processor does not have.
    pub(super) fn base_page(&self) -> Option<&'static BaseSize> {
        BaseSize::from_slb(self.vsid_word)
    }

    /// What cached translations came through this entry.
    fn invalidation(&self) -> SlbInvalidation {
        match self.segment_size() {
            Some(size) if self.is_valid() => SlbInvalidation::Segment { base: size.base(self.esid_word), shift: size.shift() },
            _ => SlbInvalidation::None,
        }
    }
}

/// The segment lookaside buffer of one vCPU.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Slb {
    entries: [SlbEntry; SLB_ENTRIES],
}

impl Slb {
    /// All entries, by index.
    pub fn entries(&self) -> &[SlbEntry; SLB_ENTRIES] {
        &self.entries
    }

    /// The entry that maps `ea`, with its index. Two entries for one address are a programming error (ISA 3.0B III 5.7.6.2);
    /// the lower index wins then.
    pub fn lookup(&self, ea: u64) -> Option<(usize, &SlbEntry)> {
        self.entries.iter().enumerate().find(|(_, entry)| entry.covers(ea))
    }

    /// `slbmte RS,RB`: writes the entry that RB bits 52 to 63 name (modulo the number of entries).
    ///
    /// The architecture wants an `slbie` before a valid entry's translations change; what is returned makes the change
    /// effective without it. An entry that makes room for another segment needs nothing: its cached translations stay
    /// true until `slbie` or `slbia` names them.
    pub fn slbmte(&mut self, rs: u64, rb: u64) -> SlbInvalidation {
        let entry = SlbEntry { esid_word: rb & (ESID | V), vsid_word: rs & VSID_WORD };
        let slot = &mut self.entries[(rb & 0xfff) as usize % SLB_ENTRIES];
        let old = std::mem::replace(slot, entry);
        if old == entry || (entry.is_valid() && !old.covers(entry.esid_word) && !entry.covers(old.esid_word)) {
            return SlbInvalidation::None;
        }
        old.invalidation()
    }

    /// `slbmfee RT,RB`: ESID and V of the entry that RB names.
    pub fn slbmfee(&self, rb: u64) -> u64 {
        self.entries[(rb & 0xfff) as usize % SLB_ENTRIES].esid_word
    }

    /// `slbmfev RT,RB`: B, VSID and attributes of the entry that RB names.
    pub fn slbmfev(&self, rb: u64) -> u64 {
        self.entries[(rb & 0xfff) as usize % SLB_ENTRIES].vsid_word
    }

    /// `slbfee. RT,RB`: B, VSID and attributes of the entry that maps the ESID in RB. `None`: RT = 0 and CR0 = 0b000 || SO, else
    /// CR0 = 0b001 || SO.
    pub fn slbfee(&self, rb: u64) -> Option<u64> {
        self.lookup(rb & ESID).map(|(_, entry)| entry.vsid_word)
    }

    /// `slbie RB`, and `slbieg` as far as it concerns this vCPU: invalidates the entries for RB's ESID (bits 0 to 35) and B
    /// (bits 37 and 38). Cached translations of that range go even when no entry is left for it.
    pub fn slbie(&mut self, rb: u64) -> SlbInvalidation {
        let Some(size) = SegmentSize::from_b(rb >> RB_B_SHIFT & 3) else {
            return SlbInvalidation::None;
        };
        for entry in &mut self.entries {
            if entry.covers(rb & ESID) && entry.segment_size() == Some(size) {
                entry.esid_word &= !V;
            }
        }
        SlbInvalidation::Segment { base: size.base(rb & ESID), shift: size.shift() }
    }

    /// `slbia IH` (0 to 7).
    ///
    /// | IH | entries | cached translations |
    /// |---|---|---|
    /// | 0, 2, 5, 6 | all but entry 0 | all |
    /// | 1 | all but entry 0 | of class 1 |
    /// | 3 | of class 1 | of class 1 |
    /// | 4 | all | all |
    /// | 7 | none | all |
    pub fn slbia(&mut self, ih: u32) -> SlbInvalidation {
        for (index, entry) in self.entries.iter_mut().enumerate() {
            let goes = match ih & 7 {
                3 => entry.class(),
                4 => true,
                7 => false,
                _ => index != 0,
            };
            if goes {
                entry.esid_word &= !V;
            }
        }
        match ih & 7 {
            1 | 3 => SlbInvalidation::Class1,
            _ => SlbInvalidation::All,
        }
    }

    /// Invalidates everything, as a reset does.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}
