//! Guest memory: one memfd, mapped lazily, one region at real address 0.
//!
//! A hash-MMU partition needs nothing else: PAPR lets a partition's memory be one contiguous range, and MMIO windows lie
//! far above it. One region makes the software CPU's real-address check a single comparison.
//!
//! [`CodePages`] is how every writer of guest memory tells an interpreter that cached decoded code may be stale: it is
//! `vm-memory`'s dirty-tracking hook, so device DMA reports its writes without knowing that a software CPU exists.

use std::io;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering, fence};

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::memfd::{MFdFlags, memfd_create};
use vm_memory::bitmap::{Bitmap, WithBitmapSlice};
use vm_memory::mmap::NewBitmap;
use vm_memory::{FileOffset, GuestAddress, GuestMemory, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap};

/// Granularity in bytes at which code presence is tracked (the smallest page of the Power ISA).
pub const CODE_PAGE_SIZE: u64 = 4096;

/// Why guest memory could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RamError {
    /// The size is not one a machine can have.
    #[error("guest memory of {size_bytes} bytes: must be a multiple of {CODE_PAGE_SIZE} above zero")]
    Size {
        /// The size asked for.
        size_bytes: u64,
    },
    /// The kernel refused the memfd or its size.
    #[error("cannot create a memory file of {size_bytes} bytes")]
    Create {
        /// The size asked for.
        size_bytes: u64,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Huge pages come whole.
    #[error(
        "guest memory of {size_bytes} bytes in huge pages: must be a multiple of {page_bytes} bytes, which they have on this host"
    )]
    HugeStep {
        /// The size asked for.
        size_bytes: u64,
        /// The host's huge pages.
        page_bytes: u64,
    },
    /// The host has no huge pages, or not enough that are free.
    #[error(
        "the host has no {size_bytes} bytes of free huge pages for guest memory; reserve more with `sysctl vm.nr_hugepages=`, or go without huge pages"
    )]
    NoHugePages {
        /// The size asked for.
        size_bytes: u64,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The host has not got the memory that goes with it.
    #[error("the host has no memory for the bookkeeping of {size_bytes} bytes of guest memory")]
    Bookkeeping {
        /// The size asked for.
        size_bytes: u64,
    },
    /// Whoever asked for it does not want it any more.
    #[error("given up while {size_bytes} bytes of guest memory were being taken")]
    GivenUp {
        /// The size asked for.
        size_bytes: u64,
    },
    /// The kernel refused the mapping.
    #[error("cannot map {size_bytes} bytes of guest memory: {reason}")]
    Map {
        /// The size asked for.
        size_bytes: u64,
        /// What the mapping layer said.
        reason: String,
    },
}

const NO_CODE: u8 = 0;
const HAS_CODE: u8 = 1;
const STALE: u8 = 2;

/// Which 4 KiB pages of guest memory hold code that an interpreter has decoded, and which of those were written since.
///
/// Writers call [`CodePages::wrote`] (devices do so through [`Bitmap`]); the interpreter calls [`CodePages::mark_code`] when it
/// decodes from a page, compares [`CodePages::epoch`] at every block boundary, and collects stale pages with
/// [`CodePages::take_stale`] when it moved.
#[derive(Debug, Clone)]
pub struct CodePages {
    inner: Arc<CodePagesInner>,
    /// Byte offset of this view within the region (slices of a region are views of the same map).
    base: usize,
}

#[derive(Debug)]
struct CodePagesInner {
    pages: Box<[AtomicU8]>,
    /// Counts the transitions to stale, so that "did anything change" is one relaxed load.
    epoch: AtomicU64,
}

impl CodePages {
    fn for_size(size_bytes: usize) -> Self {
        let count = size_bytes.div_ceil(CODE_PAGE_SIZE as usize);
        // Zeros that the host fills when they are touched.
        const { assert!(NO_CODE == 0) };
        let pages = bytemuck::zeroed_slice_box(count);
        Self { inner: Arc::new(CodePagesInner { pages, epoch: AtomicU64::new(0) }), base: 0 }
    }

    /// Notes that decoded code from page number `page` (real address / [`CODE_PAGE_SIZE`]) is about to be cached.
    /// Call it *before* reading the instructions, so that a concurrent write is not missed.
    /// Returns true when the page held no code before: cached write permissions to it have to be dropped.
    pub fn mark_code(&self, page: u64) -> bool {
        let Some(cell) = self.cell(page) else {
            return false;
        };
        cell.compare_exchange(NO_CODE, HAS_CODE, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// True when the page holds decoded code (or did, and was written since).
    #[inline]
    pub fn has_code(&self, page: u64) -> bool {
        self.cell(page).is_some_and(|cell| cell.load(Ordering::Relaxed) != NO_CODE)
    }

    /// Tells the interpreters that `len` bytes at real address `ra` were written. Out-of-range parts are ignored.
    pub fn wrote(&self, ra: u64, len: u64) {
        if len == 0 {
            return;
        }
        let first = ra / CODE_PAGE_SIZE;
        let last = ra.saturating_add(len - 1) / CODE_PAGE_SIZE;
        for page in first..=last {
            let Some(cell) = self.cell(page) else { return };
            if cell.load(Ordering::Relaxed) == HAS_CODE
                && cell.compare_exchange(HAS_CODE, STALE, Ordering::SeqCst, Ordering::SeqCst).is_ok()
            {
                self.inner.epoch.fetch_add(1, Ordering::Release);
            }
        }
    }

    /// Changes whenever a page with code became stale.
    #[inline]
    pub fn epoch(&self) -> u64 {
        self.inner.epoch.load(Ordering::Acquire)
    }

    /// The word that [`Self::epoch`] reads, for compiled code.
    pub fn epoch_word(&self) -> &AtomicU64 {
        &self.inner.epoch
    }

    /// True when the page was written after its code had been decoded.
    pub fn is_stale(&self, page: u64) -> bool {
        self.cell(page).is_some_and(|cell| cell.load(Ordering::Acquire) == STALE)
    }

    /// Clears a stale page back to "no code"; true if it was stale. Single-vCPU interpreters drop their blocks of the page after it.
    pub fn take_stale(&self, page: u64) -> bool {
        let Some(cell) = self.cell(page) else {
            return false;
        };
        cell.compare_exchange(STALE, NO_CODE, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    fn cell(&self, page: u64) -> Option<&AtomicU8> {
        self.inner.pages.get(usize::try_from(page).ok()?)
    }
}

impl WithBitmapSlice<'_> for CodePages {
    type S = Self;
}

impl vm_memory::bitmap::BitmapSlice for CodePages {}

impl Bitmap for CodePages {
    fn mark_dirty(&self, offset: usize, len: usize) {
        // The data comes before the look at the mark: who marks the page and reads it either has the data or is told.
        fence(Ordering::SeqCst);
        self.wrote((self.base.saturating_add(offset)) as u64, len as u64);
    }

    fn dirty_at(&self, offset: usize) -> bool {
        self.is_stale((self.base.saturating_add(offset)) as u64 / CODE_PAGE_SIZE)
    }

    fn slice_at(&self, offset: usize) -> Self {
        Self { inner: Arc::clone(&self.inner), base: self.base.saturating_add(offset) }
    }
}

impl Default for CodePages {
    fn default() -> Self {
        Self::for_size(0)
    }
}

impl NewBitmap for CodePages {
    fn with_len(len: usize) -> Self {
        Self::for_size(len)
    }
}

/// What guest memory is made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Backing {
    /// The host's usual pages, taken when touched, given back when the guest says that it does not need them.
    #[default]
    Usual,
    /// Huge pages of the host's default size, all taken at once and kept.
    Huge,
}

/// The guest's memory, shared by CPUs and devices. Cloning shares it.
#[derive(Debug, Clone)]
pub struct GuestRam {
    memory: GuestMemoryMmap<CodePages>,
    memfd: Arc<OwnedFd>,
    size_bytes: u64,
    backing: Backing,
}

impl GuestRam {
    /// Maps `size_bytes` (a multiple of [`CODE_PAGE_SIZE`]) of zeroed memory at real address 0. Nothing is allocated until touched.
    ///
    /// # Errors
    /// [`RamError`] names the size and what the kernel said.
    pub fn new(size_bytes: u64) -> Result<Self, RamError> {
        Self::with_backing(size_bytes, Backing::Usual, &|| true)
    }

    /// The same, with memory of a chosen kind. Huge pages are taken for as long as `go_on` says so: many of them take seconds.
    ///
    /// # Errors
    /// [`RamError`], also when the host lacks huge pages.
    pub fn with_backing(size_bytes: u64, backing: Backing, go_on: &dyn Fn() -> bool) -> Result<Self, RamError> {
        if size_bytes == 0 || !size_bytes.is_multiple_of(CODE_PAGE_SIZE) {
            return Err(RamError::Size { size_bytes });
        }
        let create = |source: nix::Error| RamError::Create { size_bytes, source: source.into() };
        let no_pages = |source: nix::Error| RamError::NoHugePages { size_bytes, source: source.into() };
        let memfd = match backing {
            Backing::Usual => memfd_create(NAME, MFdFlags::MFD_CLOEXEC).map_err(create)?,
            Backing::Huge => memfd_create(NAME, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_HUGETLB).map_err(no_pages)?,
        };
        let length = i64::try_from(size_bytes).map_err(|_| RamError::Size { size_bytes })?;
        let page_bytes = block_bytes(&memfd).map_err(create)?;
        if backing == Backing::Huge && !size_bytes.is_multiple_of(page_bytes) {
            return Err(RamError::HugeStep { size_bytes, page_bytes });
        }
        nix::unistd::ftruncate(&memfd, length).map_err(create)?;
        if backing == Backing::Huge {
            // A huge page that is missing when it is touched ends the process: all are taken now or none.
            let step = TAKEN_AT_ONCE.next_multiple_of(page_bytes);
            for start in (0..size_bytes).step_by(step as usize) {
                if !go_on() {
                    return Err(RamError::GivenUp { size_bytes });
                }
                let part = step.min(size_bytes - start);
                fallocate(&memfd, FallocateFlags::empty(), start as i64, part as i64).map_err(no_pages)?;
            }
        }
        // The map of code pages is made where no error can be given back: whether there is room for it is asked before.
        let pages = usize::try_from(size_bytes / CODE_PAGE_SIZE).map_err(|_| RamError::Size { size_bytes })?;
        Vec::<u8>::new().try_reserve_exact(pages).map_err(|_| RamError::Bookkeeping { size_bytes })?;
        let file = memfd.try_clone().map_err(|source| RamError::Create { size_bytes, source })?;
        let length = usize::try_from(size_bytes).map_err(|_| RamError::Size { size_bytes })?;
        let memory = GuestMemoryMmap::from_ranges_with_files([(
            GuestAddress(0),
            length,
            Some(FileOffset::new(std::fs::File::from(file), 0)),
        )])
        .map_err(|error| RamError::Map { size_bytes, reason: error.to_string() })?;
        Ok(Self { memory, memfd: Arc::new(memfd), size_bytes, backing })
    }

    /// The same memory with `size_bytes` more at `address` that nobody else has: not the guest, not another clone. [`Self::size_bytes`] and
    /// [`Self::code_pages`] are the guest's as before.
    ///
    /// # Errors
    /// [`RamError::Map`] when it overlaps the guest's, or cannot be mapped.
    pub fn with_private_memory(&self, address: u64, size_bytes: u64) -> Result<Self, RamError> {
        let failed = |reason: String| RamError::Map { size_bytes, reason };
        let length = usize::try_from(size_bytes).map_err(|_| RamError::Size { size_bytes })?;
        let region =
            GuestRegionMmap::from_range(GuestAddress(address), length, None).map_err(|error| failed(error.to_string()))?;
        let memory = self.memory.insert_region(Arc::new(region)).map_err(|error| failed(error.to_string()))?;
        Ok(Self { memory, memfd: Arc::clone(&self.memfd), size_bytes: self.size_bytes, backing: self.backing })
    }

    /// Size in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// What it is made of.
    pub fn backing(&self) -> Backing {
        self.backing
    }

    /// Size in bytes of the pages that huge memory consists of; `None` for the host's usual pages.
    pub fn huge_page_bytes(&self) -> Option<u64> {
        (self.backing == Backing::Huge).then(|| block_bytes(&self.memfd).ok()).flatten()
    }

    /// The view that devices and loaders use: bounds-checked, and reporting its writes to [`Self::code_pages`].
    pub fn memory(&self) -> &GuestMemoryMmap<CodePages> {
        &self.memory
    }

    /// The memory file, for sharing, counting and punching holes.
    pub fn memfd(&self) -> &OwnedFd {
        &self.memfd
    }

    /// The code-presence map of this memory.
    pub fn code_pages(&self) -> CodePages {
        match self.memory.iter().next() {
            Some(region) => region.bitmap().slice_at(0),
            None => CodePages::default(),
        }
    }

    /// Start of the mapping in this process. It is valid for [`Self::size_bytes`] bytes for as long as any clone of
    /// this value lives. Whoever dereferences it must use atomic accesses (vCPUs and devices race by design) and must
    /// report writes to pages with code through [`Self::code_pages`].
    pub fn host_base(&self) -> NonNull<u8> {
        self.memory
            .get_host_address(GuestAddress(0))
            .ok()
            .and_then(NonNull::new)
            .unwrap_or_else(|| unreachable!("the region at 0 was mapped in GuestRam::new"))
    }
}

/// Huge memory is taken in pieces of this many bytes, or of one page: a fraction of a second each.
const TAKEN_AT_ONCE: u64 = 256 << 20;

const NAME: &std::ffi::CStr = c"paperboat-guest";

/// Size of the pages of a memory file.
fn block_bytes(memfd: &OwnedFd) -> Result<u64, nix::Error> {
    Ok(u64::try_from(nix::sys::stat::fstat(memfd)?.st_blksize).unwrap_or(CODE_PAGE_SIZE).max(CODE_PAGE_SIZE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::Bytes;

    /// Of this host, in huge pages of the default size; 0 where it has none.
    fn free_huge_bytes() -> u64 {
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap();
        let field = |name: &str| {
            let line = meminfo.lines().find(|line| line.starts_with(name))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        };
        field("HugePages_Free:").unwrap_or(0) * (field("Hugepagesize:").unwrap_or(0) << 10)
    }

    #[test]
    fn huge_pages_are_all_there_or_the_error_says_what_helps() {
        const SIZE: u64 = 64 << 20;
        match GuestRam::with_backing(SIZE, Backing::Huge, &|| true) {
            Ok(ram) => {
                let page = ram.huge_page_bytes().unwrap();
                assert!(page > 64 << 10 && SIZE.is_multiple_of(page), "{page}");
                assert_eq!(nix::sys::stat::fstat(ram.memfd()).unwrap().st_blocks * 512, SIZE as i64, "taken at once");
                ram.memory().write_slice(&[1; 64], GuestAddress(SIZE - 64)).unwrap();
            }
            Err(RamError::HugeStep { page_bytes, .. }) => assert!(page_bytes > SIZE, "{page_bytes}"),
            Err(error) => {
                assert!(free_huge_bytes() < SIZE, "{error}");
                assert!(error.to_string().contains("vm.nr_hugepages"), "{error}");
            }
        }
        assert_eq!(GuestRam::new(SIZE).unwrap().huge_page_bytes(), None);
        match GuestRam::with_backing(SIZE, Backing::Huge, &|| false) {
            // None was taken: it is the same whether there are any.
            Err(RamError::GivenUp { .. } | RamError::HugeStep { .. } | RamError::NoHugePages { .. }) => {}
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn sizes_that_cannot_be_are_refused() {
        assert!(matches!(GuestRam::new(0), Err(RamError::Size { .. })));
        assert!(matches!(GuestRam::new(4097), Err(RamError::Size { .. })));
    }

    #[test]
    fn device_writes_make_decoded_code_stale() {
        let ram = GuestRam::new(1 << 20).unwrap();
        let code = ram.code_pages();
        assert!(code.mark_code(3));
        assert!(!code.mark_code(3), "second decode of the same page is not new");
        let before = code.epoch();
        ram.memory().write_slice(&[1, 2, 3], GuestAddress(0x2fff)).unwrap();
        assert_ne!(code.epoch(), before);
        assert!(code.is_stale(3));
        assert!(!code.is_stale(2));
        assert!(code.take_stale(3));
        assert!(!code.has_code(3));
    }

    #[test]
    fn writes_elsewhere_cost_no_epoch() {
        let ram = GuestRam::new(1 << 20).unwrap();
        let code = ram.code_pages();
        code.mark_code(3);
        ram.memory().write_slice(&[1; 64], GuestAddress(0x8000)).unwrap();
        assert_eq!(code.epoch(), 0);
    }
}
