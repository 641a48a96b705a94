//! Memory for machine code: one file, mapped once to write and once to execute, so that no page is both.
#![allow(unsafe_code, reason = "maps memory and makes a function of an address in it")]

use std::io;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// A region of machine code. Its pages exist once something was written to them.
#[derive(Debug)]
pub struct Region {
    writable: NonNull<u8>,
    executable: NonNull<u8>,
    len: usize,
}

// SAFETY: the mappings belong to the region alone and may be used from any thread.
unsafe impl Send for Region {}

impl Region {
    /// `len` bytes, a multiple of the page size.
    ///
    /// # Errors
    /// What the host refused: a file in memory, or executable mappings.
    pub fn new(len: NonZeroUsize) -> io::Result<Self> {
        let file = memfd_create("paperboat-code", MFdFlags::MFD_CLOEXEC)?;
        nix::unistd::ftruncate(&file, i64::try_from(len.get()).map_err(io::Error::other)?)?;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let map = |protection| unsafe { mmap(None, len, protection, MapFlags::MAP_SHARED, &file, 0) };
        let writable = map(ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)?;
        let executable = match map(ProtFlags::PROT_READ | ProtFlags::PROT_EXEC) {
            Ok(executable) => executable,
            Err(errno) => {
                // SAFETY: the mapping made above, which nothing refers to.
                let _ = unsafe { munmap(writable, len.get()) };
                return Err(errno.into());
            }
        };
        Ok(Self { writable: writable.cast(), executable: executable.cast(), len: len.get() })
    }

    /// Size in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The address that code at `offset` has when it runs.
    pub fn address(&self, offset: usize) -> usize {
        self.executable.as_ptr().addr() + offset
    }

    /// Writes `bytes` at `offset`; false, with nothing written, if they do not fit. Call [`Self::written`] before the code runs.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) -> bool {
        if offset.checked_add(bytes.len()).is_none_or(|end| end > self.len) {
            return false;
        }
        // SAFETY: in bounds by the check above; the region's code does not run while `self` is borrowed mutably.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.writable.as_ptr().add(offset), bytes.len()) };
        true
    }

    /// Makes what was written visible to the processor's fetches: it was written under another address, which asks for a serialising
    /// instruction on the processor that runs it (a vCPU's code is written and run by its own thread). Of those that all processors
    /// have, cpuid is slow under a hypervisor: it leaves to it. (iretq asks for a process without a shadow stack, as all of Rust's are.)
    pub fn written(&self) {
        // SAFETY: returns to the next instruction with the same stack, flags and segments.
        unsafe {
            std::arch::asm!(
                "mov {stack}, rsp",
                "mov {word:e}, ss",
                "push {word}",
                "push {stack}",
                "pushfq",
                "mov {word:e}, cs",
                "push {word}",
                "lea {word}, [rip + 2f]",
                "push {word}",
                "iretq",
                "2:",
                stack = out(reg) _,
                word = out(reg) _,
            );
        }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the region's own mappings, which nothing refers to any more.
        let _ = unsafe { (munmap(self.writable.cast(), self.len), munmap(self.executable.cast(), self.len)) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_not_written() {
        let mut region = Region::new(NonZeroUsize::new(4096).unwrap()).unwrap();
        assert!(region.write(4092, &[0xc3; 4]) && !region.write(4093, &[0xc3; 4]) && !region.write(usize::MAX, &[0xc3]));
    }
}
