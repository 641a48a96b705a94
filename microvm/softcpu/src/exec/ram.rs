//! Guest memory as vCPUs touch it: with `unsafe`, as the compiler beside it.
//!
//! vCPUs and devices race on guest memory by design, so every access is a relaxed atomic of the access size. Accesses that are not
//! aligned are put together from aligned ones; POWER promises no atomicity for them (ISA 3.0B II 1.4).
#![allow(unsafe_code, reason = "guest memory is shared with devices and other vCPUs and is reached through its mapping")]

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use paperboat_hypervisor::{CodePages, GuestRam};

/// Guest memory; cloning shares it. All values are the bytes read little-endian; callers swap for big-endian accesses.
#[derive(Debug, Clone)]
pub struct Ram {
    base: NonNull<u8>,
    size: u64,
    /// Real address of the last doubleword: `size` is at least a page.
    last_doubleword: u64,
    code: CodePages,
    /// Serialises the quadword conditional stores, for which stable Rust has no portable compare-and-swap.
    quad: Arc<Mutex<()>>,
    /// Keeps the mapping.
    _memory: GuestRam,
}

// SAFETY: the mapping lives as long as `_memory`, it may be used from any thread, and every access below is atomic.
unsafe impl Send for Ram {}
// SAFETY: as above.
unsafe impl Sync for Ram {}

impl Ram {
    /// The memory of a partition.
    pub fn new(memory: &GuestRam) -> Self {
        Self {
            base: memory.host_base(),
            size: memory.size_bytes(),
            last_doubleword: memory.size_bytes() - 8,
            code: memory.code_pages(),
            quad: Arc::new(Mutex::new(())),
            _memory: memory.clone(),
        }
    }

    /// The host's address of real address 0, for compiled code.
    pub fn host_address(&self) -> usize {
        self.base.as_ptr().expose_provenance()
    }

    /// Size in bytes, a multiple of 4096.
    #[inline(always)]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Which pages hold decoded code.
    pub fn code(&self) -> &CodePages {
        &self.code
    }

    /// True if `len` bytes at `ra` are memory.
    #[inline(always)]
    pub fn contains(&self, ra: u64, len: u64) -> bool {
        len <= self.size && ra <= self.size - len
    }

    /// Host address of `ra`, if `len` bytes there are memory. All accesses below pass through here.
    #[inline(always)]
    fn at(&self, ra: u64, len: u64) -> Option<*mut u8> {
        if !self.contains(ra, len) {
            return None;
        }
        // SAFETY: `ra + len` lies within the mapping of `size` bytes at `base`.
        Some(unsafe { self.base.as_ptr().add(ra as usize) })
    }

    /// Loads `N` (1, 2, 4 or 8) bytes. Outside memory it reads zero; callers have checked.
    #[inline(always)]
    pub fn load<const N: usize>(&self, ra: u64) -> u64 {
        let Some(at) = self.at(ra, N as u64) else { return 0 };
        if at.addr() & (N - 1) != 0 {
            return self.load_unaligned(ra, N as u32);
        }
        // SAFETY: in bounds by `at`, aligned by the check above; guest memory is only accessed atomically.
        unsafe {
            match N {
                1 => u64::from(AtomicU8::from_ptr(at).load(Ordering::Relaxed)),
                2 => u64::from(u16::from_le(AtomicU16::from_ptr(at.cast()).load(Ordering::Relaxed))),
                4 => u64::from(u32::from_le(AtomicU32::from_ptr(at.cast()).load(Ordering::Relaxed))),
                _ => u64::from_le(AtomicU64::from_ptr(at.cast()).load(Ordering::Relaxed)),
            }
        }
    }

    /// Host address of the aligned `N` bytes around `ra`, if the doubleword there is memory.
    #[inline(always)]
    fn aligned<const N: usize>(&self, ra: u64) -> Option<*mut u8> {
        let ra = ra & !(N as u64 - 1);
        if ra > self.last_doubleword {
            return None;
        }
        // SAFETY: memory ends eight bytes after `last_doubleword` or later; `ra` is not above it.
        Some(unsafe { self.base.as_ptr().add(ra as usize) })
    }

    /// Loads `N` (1, 2, 4 or 8) bytes at `ra`, a multiple of `N`; `None` at the very end of memory and beyond, where [`Self::load`] tells
    /// more.
    #[inline(always)]
    pub fn load_aligned<const N: usize>(&self, ra: u64) -> Option<u64> {
        let at = self.aligned::<N>(ra)?;
        // SAFETY: in bounds and aligned by `aligned` (the mapping is page-aligned); guest memory is only accessed atomically.
        Some(unsafe {
            match N {
                1 => u64::from(AtomicU8::from_ptr(at).load(Ordering::Relaxed)),
                2 => u64::from(u16::from_le(AtomicU16::from_ptr(at.cast()).load(Ordering::Relaxed))),
                4 => u64::from(u32::from_le(AtomicU32::from_ptr(at.cast()).load(Ordering::Relaxed))),
                _ => u64::from_le(AtomicU64::from_ptr(at.cast()).load(Ordering::Relaxed)),
            }
        })
    }

    /// Stores the low `N` (1, 2, 4 or 8) bytes of `value` at `ra`, a multiple of `N`; false, with nothing stored, where
    /// [`Self::load_aligned`] gives `None`.
    #[inline(always)]
    pub fn store_aligned<const N: usize>(&self, ra: u64, value: u64) -> bool {
        let Some(at) = self.aligned::<N>(ra) else { return false };
        // SAFETY: as in `load_aligned`.
        unsafe {
            match N {
                1 => AtomicU8::from_ptr(at).store(value as u8, Ordering::Relaxed),
                2 => AtomicU16::from_ptr(at.cast()).store((value as u16).to_le(), Ordering::Relaxed),
                4 => AtomicU32::from_ptr(at.cast()).store((value as u32).to_le(), Ordering::Relaxed),
                _ => AtomicU64::from_ptr(at.cast()).store(value.to_le(), Ordering::Relaxed),
            }
        }
        true
    }

    /// An unaligned load, from the one or two aligned doublewords that hold it (memory ends at a page boundary).
    fn load_unaligned(&self, ra: u64, len: u32) -> u64 {
        let shift = (ra & 7) as u32 * 8;
        let low = self.load::<8>(ra & !7) >> shift;
        let value = if shift + len * 8 > 64 { low | self.load::<8>((ra & !7) + 8) << (64 - shift) } else { low };
        if len == 8 { value } else { value & ((1u64 << (len * 8)) - 1) }
    }

    /// Stores the low `N` (1, 2, 4 or 8) bytes of `value`. Outside memory it does nothing; callers have checked.
    #[inline(always)]
    pub fn store<const N: usize>(&self, ra: u64, value: u64) {
        let Some(at) = self.at(ra, N as u64) else { return };
        if at.addr() & (N - 1) != 0 {
            return self.store_unaligned(ra, N as u32, value);
        }
        // SAFETY: in bounds by `at`, aligned by the check above; guest memory is only accessed atomically.
        unsafe {
            match N {
                1 => AtomicU8::from_ptr(at).store(value as u8, Ordering::Relaxed),
                2 => AtomicU16::from_ptr(at.cast()).store((value as u16).to_le(), Ordering::Relaxed),
                4 => AtomicU32::from_ptr(at.cast()).store((value as u32).to_le(), Ordering::Relaxed),
                _ => AtomicU64::from_ptr(at.cast()).store(value.to_le(), Ordering::Relaxed),
            }
        }
    }

    /// An unaligned store, piece by aligned piece.
    fn store_unaligned(&self, ra: u64, len: u32, value: u64) {
        let (mut ra, mut left, mut value) = (ra, len, value);
        while left > 0 {
            let piece = [4u32, 2, 1].into_iter().find(|p| *p <= left && ra.is_multiple_of(u64::from(*p))).unwrap_or(1);
            match piece {
                4 => self.store::<4>(ra, value),
                2 => self.store::<2>(ra, value),
                _ => self.store::<1>(ra, value),
            }
            ra += u64::from(piece);
            left -= piece;
            value >>= piece * 8;
        }
    }

    /// Compares the `size` (1, 2, 4 or 8) aligned bytes at `ra` with `old` and stores `new` if they are equal.
    /// The success is ordered like the surrounding guest barriers ask for (ISA 3.0B II 1.7.3.1: stwcx. itself orders nothing).
    pub fn compare_and_swap(&self, ra: u64, size: u8, old: u64, new: u64) -> bool {
        let Some(at) = self.at(ra, u64::from(size)) else { return false };
        if !ra.is_multiple_of(u64::from(size)) {
            return false;
        }
        // SAFETY: in bounds by `at`, aligned by the check above (the mapping is page-aligned); only accessed atomically.
        unsafe {
            match size {
                1 => AtomicU8::from_ptr(at).compare_exchange(old as u8, new as u8, Ordering::SeqCst, Ordering::Relaxed).is_ok(),
                2 => AtomicU16::from_ptr(at.cast())
                    .compare_exchange((old as u16).to_le(), (new as u16).to_le(), Ordering::SeqCst, Ordering::Relaxed)
                    .is_ok(),
                4 => AtomicU32::from_ptr(at.cast())
                    .compare_exchange((old as u32).to_le(), (new as u32).to_le(), Ordering::SeqCst, Ordering::Relaxed)
                    .is_ok(),
                _ => AtomicU64::from_ptr(at.cast())
                    .compare_exchange(old.to_le(), new.to_le(), Ordering::SeqCst, Ordering::Relaxed)
                    .is_ok(),
            }
        }
    }

    /// Compares the 16 aligned bytes at `ra` with `old` and stores `new` if they are equal. Atomic against other quadword conditional
    /// stores; the two doublewords are each atomic against everything else.
    pub fn compare_and_swap_quad(&self, ra: u64, old: u128, new: u128) -> bool {
        let _guard = self.quad.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let current = u128::from(self.load::<8>(ra)) | u128::from(self.load::<8>(ra + 8)) << 64;
        if current != old {
            return false;
        }
        if !self.compare_and_swap(ra, 8, old as u64, new as u64) {
            return false;
        }
        self.store::<8>(ra + 8, (new >> 64) as u64);
        true
    }

    /// Loads doublewords that follow each other from `ra` on. Nothing is loaded if they are not all memory; callers have checked.
    #[inline(always)]
    pub fn load_doublewords(&self, ra: u64, words: &mut [u64]) {
        let shift = (ra & 7) as u32 * 8;
        let count = words.len() + usize::from(shift != 0);
        let Some(first) = self.at(ra & !7, 8 * count as u64) else { return };
        // SAFETY: `at` has checked all of `count` doublewords, `k` is below it, and `first` is aligned: the mapping is.
        let word = |k: usize| unsafe { u64::from_le(AtomicU64::from_ptr(first.cast::<u64>().add(k)).load(Ordering::Relaxed)) };
        if shift == 0 {
            for (k, into) in words.iter_mut().enumerate() {
                *into = word(k);
            }
            return;
        }
        let mut low = word(0);
        for (k, into) in words.iter_mut().enumerate() {
            let high = word(k + 1);
            *into = low >> shift | high << (64 - shift);
            low = high;
        }
    }

    /// Stores doublewords that follow each other from `ra` on. Nothing is stored if not all of that is memory; callers have checked.
    #[inline(always)]
    pub fn store_doublewords(&self, ra: u64, words: &[u64]) {
        let odd = (ra & 7) as u32;
        let Some(first) = self.at(ra & !7, 8 * (words.len() as u64 + u64::from(odd != 0))) else { return };
        let store = |k: usize, word: u64| {
            // SAFETY: `at` has checked the doublewords up to the last that is stored to, and `first` is aligned: the mapping is.
            unsafe { AtomicU64::from_ptr(first.cast::<u64>().add(k)).store(word.to_le(), Ordering::Relaxed) }
        };
        let (Some(head), Some(tail)) = (words.first(), words.last()) else { return };
        if odd == 0 {
            for (k, word) in words.iter().enumerate() {
                store(k, *word);
            }
            return;
        }
        let shift = 8 * odd;
        self.store_unaligned(ra, 8 - odd, *head);
        for (k, pair) in words.windows(2).enumerate() {
            store(k + 1, pair[0] >> (64 - shift) | pair[1] << shift);
        }
        self.store_unaligned((ra & !7) + 8 * words.len() as u64, odd, tail >> (64 - shift));
    }

    /// Clears `len` bytes at `ra`, both multiples of eight.
    pub fn zero(&self, ra: u64, len: u64) {
        for offset in (0..len).step_by(8) {
            self.store::<8>(ra + offset, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unaligned_accesses_agree_with_bytes() {
        let memory = GuestRam::new(4096).unwrap();
        let ram = Ram::new(&memory);
        for offset in 0..16u64 {
            for i in 0..40 {
                ram.store::<1>(i, 0xee);
            }
            ram.store::<8>(8 + offset, 0x0807_0605_0403_0201);
            for i in 0..8 {
                assert_eq!(ram.load::<1>(8 + offset + i), i + 1);
            }
            assert_eq!(ram.load::<1>(7 + offset), 0xee);
            assert_eq!(ram.load::<1>(16 + offset), 0xee);
            assert_eq!(ram.load::<8>(8 + offset), 0x0807_0605_0403_0201);
            assert_eq!(ram.load::<4>(9 + offset), 0x0504_0302);
            assert_eq!(ram.load::<2>(11 + offset), 0x0504);
        }
    }

    #[test]
    fn aligned_accesses_end_with_memory() {
        let ram = Ram::new(&GuestRam::new(4096).unwrap());
        assert!(ram.store_aligned::<8>(4088, 0x0807_0605_0403_0201));
        assert_eq!(ram.load_aligned::<8>(4088), Some(0x0807_0605_0403_0201));
        assert_eq!(ram.load_aligned::<2>(4088), Some(0x0201));
        // The caller asks the general form there.
        assert_eq!((ram.load_aligned::<4>(4092), ram.load::<4>(4092)), (None, 0x0807_0605));
        assert!(!ram.store_aligned::<8>(4096, 1) && ram.load_aligned::<8>(u64::MAX).is_none());
    }

    #[test]
    fn the_end_of_memory_is_respected() {
        let ram = Ram::new(&GuestRam::new(4096).unwrap());
        ram.store::<8>(4096 - 4, !0);
        assert_eq!(ram.load::<4>(4096 - 4), 0);
        assert_eq!(ram.load::<8>(u64::MAX), 0);
        assert!(!ram.compare_and_swap(u64::MAX - 7, 8, 0, 1));
    }
}
