//! One access: effective → virtual → real (ISA 3.0B III 5.7), with the interrupt it raises when refused (6.5.3 to 6.5.6).

use super::hpt::{GROUP, HPTE_C, HPTE_H, HPTE_R, HPTE_V, Hpt, Hpte};
use super::page::{HPTE_L, HPTE_RPN, SegmentSize};
use super::slb::{Slb, SlbEntry};
use super::{Access, Fault};

/// SRR1 bit 33, DSISR bit 33: no page table entry.
pub(super) const NO_PTE: u32 = 0x4000_0000;
/// SRR1 bit 35: fetch from no-execute or guarded storage.
pub(super) const NO_EXECUTE: u32 = 0x1000_0000;
/// SRR1 bit 36, DSISR bit 36: storage protection.
pub(super) const PROTECTION: u32 = 0x0800_0000;
/// DSISR bit 38: the access was a store.
pub(super) const STORE: u32 = 0x0200_0000;
/// SRR1 bit 42, DSISR bit 42: virtual page class key protection.
pub(super) const KEY: u32 = 0x0020_0000;

/// Real mode ignores these bits of an effective address (ISA 3.0B III 5.7.2).
const REAL_MODE_IGNORES: u64 = 0xf << 60;
/// Range in bytes (log2) that a real-mode translation vouches for: RAM ends at a multiple of it.
const REAL_MODE_SHIFT: u32 = 12;

const N: u64 = 0x4;
const G: u64 = 0x8;
const I: u64 = 0x20;

/// The registers that translation depends on, for one access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TranslationContext {
    /// MSR\[IR\] for a fetch, MSR\[DR\] for data: false means real mode.
    pub relocate: bool,
    /// MSR\[PR\].
    pub problem_state: bool,
    /// AMR: two bits per class key, no store and no load.
    pub amr: u64,
    /// IAMR: the second bit of each pair forbids fetching.
    pub iamr: u64,
    /// Bytes of RAM from real address 0.
    pub ram_bytes: u64,
}

/// Where an effective address leads, and what may be done there without asking again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Translation {
    /// Guest real address of the effective address itself (not of its page).
    pub ra: u64,
    /// All of the naturally aligned 2^`page_shift` bytes around the effective address map the same way, 12 to 24.
    pub page_shift: u32,
    /// Loads are permitted.
    pub readable: bool,
    /// Stores are permitted and C is set already; false after a load from a page whose C has yet to be set by a store.
    pub writable: bool,
    /// Fetching is permitted.
    pub executable: bool,
    /// The page table entry; `None` in real mode.
    pub ptex: Option<u64>,
    /// Class of the segment, see [`super::SlbInvalidation::Class1`].
    pub class: bool,
    /// Caching inhibited. RAM never is, whatever WIMG says: KVM-HV maps it cacheable too.
    pub cache_inhibited: bool,
}

/// Translates `ea` for one access and records it in R and C.
///
/// # Errors
/// The interrupt that the access raises: segment, or storage with exact DSISR or SRR1 bits.
pub fn translate(context: &TranslationContext, slb: &Slb, hpt: &Hpt, ea: u64, access: Access) -> Result<Translation, Fault> {
    if !context.relocate {
        return real_mode(context, ea, access);
    }
    let Some((_, segment)) = slb.lookup(ea) else {
        return Err(match access {
            Access::Fetch => Fault::InstructionSegment,
            Access::Load | Access::Store => Fault::DataSegment { ea },
        });
    };
    if access == Access::Fetch && segment.no_execute() {
        return Err(storage_fault(ea, access, NO_EXECUTE));
    }
    // A loop, because an entry found without the lock may change before the lock is taken. Each turn means that
    // another vCPU got its change done; after a few of those "not found" is an answer that was true in between.
    const ATTEMPTS: usize = 64;
    for _ in 0..ATTEMPTS {
        let Some(found) = search(hpt, segment, ea) else { break };
        let Some(entry) = hpt.lock(found.ptex) else { break };
        let current = entry.get();
        if current.v != found.entry.v || current.r & HPTE_RPN != found.entry.r & HPTE_RPN {
            continue;
        }
        let rights = Rights::of(context, segment, current);
        if let Some(bits) = rights.refuses(access) {
            return Err(storage_fault(ea, access, bits));
        }
        let mut r = current.r | HPTE_R;
        if access == Access::Store {
            r |= HPTE_C;
        }
        if r != current.r {
            entry.set(Hpte { v: current.v, r });
        }
        let offset = (1 << found.page_shift) - 1;
        let ra = current.r & HPTE_RPN & !offset | ea & offset;
        return Ok(Translation {
            ra,
            page_shift: found.page_shift,
            readable: rights.refuses(Access::Load).is_none(),
            writable: r & HPTE_C != 0 && rights.refuses(Access::Store).is_none(),
            executable: !segment.no_execute() && rights.refuses(Access::Fetch).is_none(),
            ptex: Some(found.ptex),
            class: segment.class(),
            cache_inhibited: r & I != 0 && ra >= context.ram_bytes,
        });
    }
    Err(storage_fault(ea, access, NO_PTE))
}

/// Real mode of a partition: the virtual real mode area, which covers RAM and nothing else (ISA 3.0B III 5.7.3.3).
fn real_mode(context: &TranslationContext, ea: u64, access: Access) -> Result<Translation, Fault> {
    let ra = ea & !REAL_MODE_IGNORES;
    if ra >= context.ram_bytes {
        return Err(storage_fault(ea, access, NO_PTE));
    }
    Ok(Translation {
        ra,
        page_shift: REAL_MODE_SHIFT,
        readable: true,
        writable: true,
        executable: true,
        ptex: None,
        class: false,
        cache_inhibited: false,
    })
}

fn storage_fault(ea: u64, access: Access, bits: u32) -> Fault {
    match access {
        Access::Fetch => Fault::InstructionStorage { srr1: u64::from(bits) },
        Access::Load => Fault::DataStorage { dsisr: bits, ea },
        Access::Store => Fault::DataStorage { dsisr: bits | STORE, ea },
    }
}

/// The hash and the comparison value of an address in a segment (ISA 3.0B III 5.7.8.2).
pub(super) struct Probe {
    /// Primary hash; the secondary one is its complement.
    pub(super) hash: u64,
    /// B, AVPN, H = 0 and V = 1 as the first doubleword of a match has them.
    pub(super) v: u64,
}

/// First doubleword bits that a match must share: all but the software bits (57 to 60) and L (61).
const COMPARED: u64 = !(0x78 | HPTE_L);

impl Probe {
    /// `None` for a reserved segment size or an unknown base page size.
    pub(super) fn new(segment: &SlbEntry, ea: u64) -> Option<Self> {
        let size = segment.segment_size()?;
        let page_shift = segment.base_page()?.shift;
        let vsid = segment.vsid();
        let page = (ea & ((1 << size.shift()) - 1)) >> page_shift;
        let hash = match size {
            SegmentSize::M256 => vsid ^ page,
            SegmentSize::T1 => vsid ^ vsid << 25 ^ page,
        };
        // The abbreviated page number ends at bit 54, which is virtual address bit 2^23.
        let avpn = (vsid << (size.shift() - 16) | page << page_shift >> 16) & 0x3fff_ffff_ffff_ff80;
        Some(Self { hash, v: segment.vsid_word & 3 << 62 | avpn | HPTE_V })
    }
}

/// A matching entry, as it was when the search passed it.
pub(super) struct Found {
    pub(super) ptex: u64,
    pub(super) entry: Hpte,
    pub(super) page_shift: u32,
}

/// Searches both groups without a lock.
pub(super) fn search(hpt: &Hpt, segment: &SlbEntry, ea: u64) -> Option<Found> {
    let probe = Probe::new(segment, ea)?;
    let base = segment.base_page()?;
    for (hash, h) in [(probe.hash, 0), (!probe.hash, HPTE_H)] {
        let group = hpt.group(hash);
        for ptex in group..group + GROUP {
            let entry = hpt.entry(ptex);
            if (entry.v ^ (probe.v | h)) & COMPARED != 0 {
                continue;
            }
            if let Some(page_shift) = base.actual_shift(entry.v, entry.r) {
                return Some(Found { ptex, entry, page_shift });
            }
        }
    }
    None
}

/// What an entry lets the current state do.
pub(super) struct Rights {
    /// Loads, by key and PP.
    pub(super) load: bool,
    /// Stores, by key and PP.
    pub(super) store: bool,
    /// N or G of the page.
    pub(super) no_execute: bool,
    /// AMR forbids loads.
    pub(super) key_no_load: bool,
    /// AMR forbids stores.
    pub(super) key_no_store: bool,
    /// IAMR forbids fetching.
    pub(super) key_no_fetch: bool,
}

impl Rights {
    pub(super) fn of(context: &TranslationContext, segment: &SlbEntry, entry: Hpte) -> Self {
        // Figure "protection by page table" (ISA 3.0B III 5.7.10.1); reserved combinations give nothing.
        let pp = (entry.r >> 61 & 4) | entry.r & 3;
        let (load, store) = match (segment.key(context.problem_state), pp) {
            (false, 0..=2) | (true, 2) => (true, true),
            (false, 3 | 6) | (true, 1 | 3) => (true, false),
            _ => (false, false),
        };
        // Class key k has bits 2k and 2k + 1 of AMR and IAMR, counted from the left (5.7.10.2).
        let class_key = (entry.r >> 57 & 0x18) | (entry.r >> 9 & 7);
        let shift = 2 * (31 - class_key);
        Self {
            load,
            store,
            no_execute: entry.r & (N | G) != 0,
            key_no_load: context.amr >> shift & 1 != 0,
            key_no_store: context.amr >> shift & 2 != 0,
            key_no_fetch: context.iamr >> shift & 1 != 0,
        }
    }

    /// The SRR1 or DSISR bits that say why `access` is refused, `None` when it is allowed.
    pub(super) fn refuses(&self, access: Access) -> Option<u32> {
        let reasons = match access {
            Access::Fetch => [(self.no_execute, NO_EXECUTE), (!self.load, PROTECTION), (self.key_no_fetch, KEY)],
            Access::Load => [(false, 0), (!self.load, PROTECTION), (self.key_no_load, KEY)],
            Access::Store => [(false, 0), (!self.store, PROTECTION), (self.key_no_store, KEY)],
        };
        let bits = reasons.iter().filter(|(applies, _)| *applies).fold(0, |bits, (_, bit)| bits | bit);
        (bits != 0).then_some(bits)
    }
}
