//! The page table hypercalls (LoPAR 14.5.4), with the semantics of KVM-HV: flags that it ignores are ignored here.

use paperboat_hypervisor::{GuestRam, HypercallArgs, HypercallReply};
use vm_memory::{Bytes, GuestAddress};

use super::hpt::{GROUP, HPTE_C, HPTE_R, HPTE_V, Hpt, Hpte};
use super::page::{HPTE_RPN, shifts_of_hpte};

const H_SUCCESS: i64 = 0;
const H_PARAMETER: i64 = -4;
const H_PTEG_FULL: i64 = -6;
const H_NOT_FOUND: i64 = -7;

const H_REMOVE: u64 = 0x04;
const H_ENTER: u64 = 0x08;
const H_READ: u64 = 0x0c;
const H_CLEAR_MOD: u64 = 0x10;
const H_CLEAR_REF: u64 = 0x14;
const H_PROTECT: u64 = 0x18;
const H_PAGE_INIT: u64 = 0x2c;
const H_BULK_REMOVE: u64 = 0x124;

/// Flag bit `n` in the ISA's numbering.
const fn flag(n: u32) -> u64 {
    1 << (63 - n)
}

const H_EXACT: u64 = flag(24);
const H_READ_4: u64 = flag(26);
const H_AVPN: u64 = flag(32);
const H_ANDCOND: u64 = flag(33);
const H_ZERO_PAGE: u64 = flag(48);
const H_COPY_PAGE: u64 = flag(49);
/// All that H_PAGE_INIT knows: page state and coalescing hints (28 to 31), instruction cache (40 and 41), zero and copy.
const PAGE_INIT_FLAGS: u64 = 0xf << (63 - 31) | flag(40) | flag(41) | H_ZERO_PAGE | H_COPY_PAGE;

/// Software bits of the first doubleword that the hypervisor keeps for itself (KVM: HVLOCK and ABSENT).
const V_RESERVED: u64 = 0x60;
/// Guest software bit of the second doubleword that KVM reserves (HPTE_GR_RESERVED).
const R_RESERVED: u64 = 1 << 62;
/// What H_PROTECT replaces.
const R_PP0: u64 = 1 << 63;
const R_KEY_HIGH: u64 = 3 << 60;
const R_KEY_LOW_N_PP: u64 = 0xe07;

const INIT_PAGE_BYTES: usize = 4096;

/// Entries that a hypercall made stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DroppedPtes {
    ptexes: [u64; 4],
    count: usize,
}

impl DroppedPtes {
    /// Their indexes.
    pub fn as_slice(&self) -> &[u64] {
        &self.ptexes[..self.count]
    }

    fn one(ptex: u64) -> Self {
        Self { ptexes: [ptex, 0, 0, 0], count: 1 }
    }

    fn push(&mut self, ptex: u64) {
        if let Some(slot) = self.ptexes.get_mut(self.count) {
            *slot = ptex;
            self.count += 1;
        }
    }
}

/// Outcome of a page table hypercall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HptReply {
    /// For the caller's registers.
    pub reply: HypercallReply,
    /// Every vCPU of the partition has to forget translations through these before the caller goes on.
    pub dropped: DroppedPtes,
}

impl HptReply {
    fn status(status: i64) -> Self {
        Self { reply: HypercallReply::status(status), dropped: DroppedPtes::default() }
    }

    fn with(values: &[u64], dropped: DroppedPtes) -> Self {
        Self { reply: HypercallReply::with(H_SUCCESS, values), dropped }
    }
}

/// True if [`Hpt::hypercall`] serves the hypercall `nr`.
pub fn serves(nr: u64) -> bool {
    matches!(nr, H_REMOVE | H_ENTER | H_READ | H_CLEAR_MOD | H_CLEAR_REF | H_PROTECT | H_PAGE_INIT | H_BULK_REMOVE)
}

impl Hpt {
    /// Serves a page table hypercall: `nr` from GPR 3, `args` from GPR 4 onwards. `None` if `nr` is not one.
    pub fn hypercall(&self, nr: u64, args: &HypercallArgs, ram: &GuestRam) -> Option<HptReply> {
        Some(match nr {
            H_ENTER => self.h_enter(args[0], args[1], args[2], args[3], ram.size_bytes()),
            H_REMOVE => self.h_remove(args[0], args[1], args[2]),
            H_BULK_REMOVE => self.h_bulk_remove(args),
            H_READ => self.h_read(args[0], args[1]),
            H_PROTECT => self.h_protect(args[0], args[1], args[2]),
            H_CLEAR_REF => self.h_clear(args[1], HPTE_R),
            H_CLEAR_MOD => self.h_clear(args[1], HPTE_C),
            H_PAGE_INIT => h_page_init(args[0], args[1], args[2], ram),
            _ => return None,
        })
    }

    /// H_ENTER (LoPAR 14.5.4.1.2): makes an entry in the group of `ptex`, or exactly there with H_EXACT. Returns its index in GPR 4.
    ///
    /// A page lies in RAM as a whole or not at all; outside RAM it maps device registers, which leave the CPU as MMIO.
    pub fn h_enter(&self, flags: u64, ptex: u64, v: u64, r: u64, ram_bytes: u64) -> HptReply {
        let Some((_, page_shift)) = shifts_of_hpte(v, r) else {
            return HptReply::status(H_PARAMETER);
        };
        let page_bytes = 1u64 << page_shift;
        let start = r & HPTE_RPN & !(page_bytes - 1);
        if start < ram_bytes && start + page_bytes > ram_bytes {
            return HptReply::status(H_PARAMETER);
        }
        let Some(mut entry) = self.lock(ptex) else {
            return HptReply::status(H_PARAMETER);
        };
        let slots = if flags & H_EXACT != 0 { ptex % GROUP..ptex % GROUP + 1 } else { 0..GROUP };
        for slot in slots {
            entry.slot(slot);
            if !entry.get().is_valid() {
                entry.set(Hpte { v: v & !V_RESERVED | HPTE_V, r: r & !R_RESERVED });
                return HptReply::with(&[ptex / GROUP * GROUP + slot], DroppedPtes::default());
            }
        }
        HptReply::status(H_PTEG_FULL)
    }

    /// H_REMOVE (LoPAR 14.5.4.1.1): invalidates an entry, on condition with H_AVPN or H_ANDCOND, and returns what it was.
    pub fn h_remove(&self, flags: u64, ptex: u64, avpn: u64) -> HptReply {
        let Some(entry) = self.lock(ptex) else {
            return HptReply::status(H_PARAMETER);
        };
        let old = entry.get();
        if !old.is_valid() || (flags & H_AVPN != 0 && !avpn_matches(old, avpn)) || (flags & H_ANDCOND != 0 && old.v & avpn != 0) {
            return HptReply::status(H_NOT_FOUND);
        }
        entry.set(Hpte::default());
        HptReply::with(&[old.v, old.r], DroppedPtes::one(ptex))
    }

    /// H_BULK_REMOVE (LoPAR 14.5.4.1.7): up to four removals, each a pair of translation specifiers. The high byte of each
    /// first word says what was done: request type, flags, and R and C of the removed entry.
    pub fn h_bulk_remove(&self, args: &HypercallArgs) -> HptReply {
        const REQUEST: u64 = 1;
        const END: u64 = 3;
        const DONE: u64 = 0x80;
        const NOT_FOUND: u64 = 0x90;
        const BAD: u64 = 0xa0;

        let mut words = *args;
        let mut dropped = DroppedPtes::default();
        let mut status = H_SUCCESS;
        for pair in words[..8].chunks_exact_mut(2) {
            let (head, ptex) = (pair[0] >> 56, pair[0] & ((1 << 56) - 1));
            let (request, flags) = (head >> 6, head & 3);
            if request == END {
                break;
            }
            let entry = self.lock(ptex).filter(|_| request == REQUEST && flags != 3);
            let Some(entry) = entry else {
                pair[0] = (BAD | flags) << 56 | ptex;
                status = H_PARAMETER;
                break;
            };
            let old = entry.get();
            let meant = match flags {
                0 => true,
                1 => old.v & pair[1] == 0,
                _ => avpn_matches(old, pair[1]),
            };
            if !old.is_valid() || !meant {
                pair[0] = (NOT_FOUND | flags) << 56 | ptex;
                continue;
            }
            entry.set(Hpte::default());
            dropped.push(ptex);
            pair[0] = (DONE | flags) << 56 | ptex | (old.r & (HPTE_R | HPTE_C)) << 51;
        }
        HptReply { reply: HypercallReply::with(status, &words[..8]), dropped }
    }

    /// H_READ (LoPAR 14.5.4.1.3): one entry, or the aligned four around it with H_READ_4.
    pub fn h_read(&self, flags: u64, ptex: u64) -> HptReply {
        if ptex >= self.entry_count() {
            return HptReply::status(H_PARAMETER);
        }
        let (first, count) = if flags & H_READ_4 != 0 { (ptex & !3, 4) } else { (ptex, 1) };
        let Some(mut locked) = self.lock(first) else {
            return HptReply::status(H_PARAMETER);
        };
        let mut words = [0; 8];
        for (pair, ptex) in words.chunks_exact_mut(2).zip(first..first + count) {
            locked.slot(ptex % GROUP);
            let entry = locked.get();
            pair.copy_from_slice(&[entry.v, entry.r]);
        }
        HptReply::with(&words[..2 * count as usize], DroppedPtes::default())
    }

    /// H_PROTECT (LoPAR 14.5.4.1.6): replaces pp0, key, N and PP with those in `flags`.
    pub fn h_protect(&self, flags: u64, ptex: u64, avpn: u64) -> HptReply {
        let Some(entry) = self.lock(ptex) else {
            return HptReply::status(H_PARAMETER);
        };
        let old = entry.get();
        if !old.is_valid() || (flags & H_AVPN != 0 && !avpn_matches(old, avpn)) {
            return HptReply::status(H_NOT_FOUND);
        }
        let new = flags << 55 & R_PP0 | flags << 48 & R_KEY_HIGH | flags & R_KEY_LOW_N_PP;
        entry.set(Hpte { v: old.v, r: old.r & !(R_PP0 | R_KEY_HIGH | R_KEY_LOW_N_PP) | new });
        HptReply { reply: HypercallReply::status(H_SUCCESS), dropped: DroppedPtes::one(ptex) }
    }

    /// H_CLEAR_REF and H_CLEAR_MOD (LoPAR 14.5.4.1.4, 14.5.4.1.5): clears R or C and returns the second doubleword as it was.
    fn h_clear(&self, ptex: u64, bit: u64) -> HptReply {
        let Some(entry) = self.lock(ptex) else {
            return HptReply::status(H_PARAMETER);
        };
        let old = entry.get();
        if !old.is_valid() {
            return HptReply::status(H_NOT_FOUND);
        }
        if old.r & bit == 0 {
            return HptReply::with(&[old.r], DroppedPtes::default());
        }
        entry.set(Hpte { v: old.v, r: old.r & !bit });
        HptReply::with(&[old.r], DroppedPtes::one(ptex))
    }
}

/// The AVPN condition compares all of the first doubleword but its last seven bits.
fn avpn_matches(entry: Hpte, avpn: u64) -> bool {
    entry.v & !0x7f == avpn
}

/// H_PAGE_INIT (LoPAR 14.5.4.2.2): zeroes or copies 4 KiB at `destination`.
fn h_page_init(flags: u64, destination: u64, source: u64, ram: &GuestRam) -> HptReply {
    let aligned = |address: u64| address.is_multiple_of(INIT_PAGE_BYTES as u64);
    let copies = flags & H_COPY_PAGE != 0;
    if flags & !PAGE_INIT_FLAGS != 0 || !aligned(destination) || (copies && !aligned(source)) {
        return HptReply::status(H_PARAMETER);
    }
    let mut page = [0u8; INIT_PAGE_BYTES];
    let done = if copies {
        ram.memory()
            .read_slice(&mut page, GuestAddress(source))
            .and_then(|()| ram.memory().write_slice(&page, GuestAddress(destination)))
    } else if flags & H_ZERO_PAGE != 0 {
        ram.memory().write_slice(&page, GuestAddress(destination))
    } else {
        Ok(())
    };
    HptReply::status(if done.is_ok() { H_SUCCESS } else { H_PARAMETER })
}
