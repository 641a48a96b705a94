//! From an ELF image to the state in which a vCPU enters it.
//!
//! There is no firmware: the machine does what firmware would leave behind. The kernel stands at its physical address,
//! initramfs, RTAS blob and flattened tree follow it at page boundaries, and the boot vCPU enters the image in real mode
//! with the tree's address in r3 and zero in r5 (which would otherwise announce an Open Firmware client interface).

mod dts;
mod elf;
mod fdt;
mod layout;
mod tree;

pub use dts::{DtsError, dts_from_dtb};
pub use elf::{ElfError, Image, ImageKind, load_elf};
pub use layout::{Layout, LayoutError, place};
pub use tree::{THREADS_PER_CORE_MAX, Topology, TreeError, TreeInput, VCPUS_MAX, build_tree};

#[cfg(test)]
pub(crate) use elf::tests::elf_with as elf_for_tests;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;

use nix::fcntl::OFlag;
use object::read::ReadCache;
use paperboat_hypervisor::{Backing, Capabilities, EntryState, GuestRam};
use vm_memory::{Bytes, GuestAddress};

use crate::give_up::GiveUp;
use crate::papr::phb::PciSlot;

/// MSR\[SF\]: 64-bit mode.
pub const MSR_SF: u64 = 1 << 63;
/// MSR\[EE\]: external interrupts enabled.
pub const MSR_EE: u64 = 1 << 15;
/// MSR\[ME\]: machine checks enabled.
pub const MSR_ME: u64 = 1 << 12;
/// MSR\[LE\]: little-endian.
pub const MSR_LE: u64 = 1;

/// Longest command line in bytes: powerpc's COMMAND_LINE_SIZE without the final NUL.
pub const CMDLINE_MAX: usize = 2047;

/// Largest kernel or initramfs file that is read (guards against a device or an endless pipe given by mistake).
pub const FILE_SIZE_MAX: u64 = 4 << 30;

/// Files are copied in pieces of this many bytes, between which a request to give up is heard.
const COPIED_AT_ONCE: u64 = 8 << 20;

/// The RTAS blob: what the guest calls at `linux,rtas-entry` in 32-bit big-endian real mode (private hypercall
/// 0xf000 with the argument buffer's address in r4): `mr r4,r3; lis r3,0; ori r3,r3,0xf000; sc 1; blr`.
pub const RTAS_BLOB: [u32; 5] = [0x7c64_1b78, 0x3c60_0000, 0x6063_f000, 0x4400_0022, 0x4e80_0020];

/// Why the machine cannot boot what it was given.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The kernel's file.
    #[error("kernel {path}")]
    Kernel {
        /// As given.
        path: String,
        /// What is wrong with it.
        #[source]
        source: ElfError,
    },
    /// A file cannot be read.
    #[error("cannot read {what} {path}")]
    Read {
        /// Kernel or initramfs.
        what: &'static str,
        /// As given.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A directory, a pipe, a device.
    #[error("{what} {path} is not a regular file")]
    NotAFile {
        /// Kernel or initramfs.
        what: &'static str,
        /// As given.
        path: String,
    },
    /// A file is larger than any this machine takes.
    #[error("{what} {path} is {size_bytes} bytes, allowed are {FILE_SIZE_MAX}")]
    TooLarge {
        /// Kernel or initramfs.
        what: &'static str,
        /// As given.
        path: String,
        /// Its size.
        size_bytes: u64,
    },
    /// The command line does not fit the kernel's buffer.
    #[error("the kernel command line has {length} bytes, allowed are {CMDLINE_MAX}")]
    Cmdline {
        /// Its length.
        length: usize,
    },
    /// The command line holds a NUL byte.
    #[error("the kernel command line contains a NUL byte")]
    CmdlineNul,
    /// The pieces do not fit into memory.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Guest memory refused a write that the layout had checked.
    #[error("writing {what} to guest memory at {address:#x}")]
    Write {
        /// Which piece.
        what: &'static str,
        /// Where.
        address: u64,
        /// What the memory said.
        #[source]
        source: vm_memory::GuestMemoryError,
    },
}

/// A file to boot from, already open: paths are for messages.
#[derive(Debug)]
pub struct BootFile {
    /// As given by the user.
    pub path: String,
    file: File,
    size_bytes: u64,
}

impl BootFile {
    /// Opens `path`.
    ///
    /// # Errors
    /// [`BootError::Read`], [`BootError::NotAFile`], [`BootError::TooLarge`].
    pub fn open(what: &'static str, path: &str) -> Result<Self, BootError> {
        let failed = |source| BootError::Read { what, path: path.to_owned(), source };
        // A pipe that nobody writes to would hold the open for ever.
        let file = File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(BootError::NotAFile { what, path: path.to_owned() });
        }
        let size_bytes = metadata.len();
        if size_bytes > FILE_SIZE_MAX {
            return Err(BootError::TooLarge { what, path: path.to_owned(), size_bytes });
        }
        Ok(Self { path: path.to_owned(), file, size_bytes })
    }

    /// Copies `length` bytes at `offset` of the file to guest memory, in the kernel: they are neither mapped nor read here. Files of huge pages
    /// take no writes; their memory is read into.
    fn copy_to(&self, offset: u64, length: u64, ram: &GuestRam, address: u64, give_up: &GiveUp) -> io::Result<()> {
        let mut input = &self.file;
        input.seek(SeekFrom::Start(offset))?;
        let mut output = File::from(ram.memfd().try_clone()?);
        output.seek(SeekFrom::Start(address))?;
        for start in (0..length).step_by(COPIED_AT_ONCE as usize) {
            if give_up.is_asked() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let part = COPIED_AT_ONCE.min(length - start);
            if ram.backing() == Backing::Huge {
                let memory = ram.memory();
                memory
                    .read_exact_volatile_from(GuestAddress(address + start), &mut input, part as usize)
                    .map_err(io::Error::other)?;
            } else if io::copy(&mut input.take(part), &mut output)? != part {
                // Someone cuts the file short while it is read.
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }
}

/// What to boot.
#[derive(Debug)]
pub struct BootSource {
    /// ELF image.
    pub kernel: BootFile,
    /// Initramfs, placed as it is.
    pub initrd: Option<BootFile>,
    /// `/chosen/bootargs`.
    pub cmdline: String,
    /// Where a position-independent bare-metal image is loaded.
    pub load_address: Option<u64>,
}

/// What the tree needs to know about the machine.
pub struct BootMachine<'a> {
    /// What the backend offers.
    pub capabilities: &'a Capabilities,
    /// vCPUs and their arrangement.
    pub topology: Topology,
    /// Functions behind the host bridge.
    pub slots: &'a [PciSlot],
    /// For `/chosen/rng-seed`.
    pub rng_seed: [u8; 32],
    /// Heard while files are copied.
    pub give_up: GiveUp,
}

/// A machine ready to be entered.
#[derive(Debug)]
pub struct Booted {
    /// How the boot vCPU enters.
    pub entry: EntryState,
    /// Where everything is.
    pub layout: Layout,
    /// Where Linux's secondaries learn that they may leave their hold loop, if this image has one.
    pub hold_release: Option<u64>,
    /// The flattened tree as written.
    pub dtb: Vec<u8>,
}

/// Loads everything into `ram`.
///
/// # Errors
/// [`BootError`], one clear line each.
pub fn load(ram: &GuestRam, source: &BootSource, machine: &BootMachine<'_>) -> Result<Booted, BootError> {
    if source.cmdline.len() > CMDLINE_MAX {
        return Err(BootError::Cmdline { length: source.cmdline.len() });
    }
    if source.cmdline.contains('\0') {
        return Err(BootError::CmdlineNul);
    }
    let kernel = &source.kernel;
    let image = load_elf(&ReadCache::new(&kernel.file), source.load_address)
        .map_err(|error| BootError::Kernel { path: kernel.path.clone(), source: error })?;

    // The tree names addresses, and its size decides none of them: it comes last. Its own length is fixed for a given
    // input, so a first build with placeholders tells how much has to be reserved.
    let initrd_len = source.initrd.as_ref().map(|initrd| initrd.size_bytes);
    let mut layout = place(&image, initrd_len, ram.size_bytes(), 0)?;
    let tree = |layout: &Layout| {
        build_tree(&TreeInput {
            capabilities: machine.capabilities,
            topology: machine.topology,
            memory_bytes: ram.size_bytes(),
            cmdline: &source.cmdline,
            layout,
            slots: machine.slots,
            rng_seed: machine.rng_seed,
        })
    };
    let length = tree(&layout).len() as u64;
    layout = place(&image, initrd_len, ram.size_bytes(), length)?;
    let dtb = tree(&layout);
    debug_assert_eq!(dtb.len() as u64, length);
    if let Some(left) = too_little_left(&image, &layout, ram.size_bytes()) {
        log::warn!(
            "kernel and initramfs leave {} KiB of guest memory: Linux may panic, or stand still without a word; give it more memory",
            left >> 10
        );
    }

    let copy = |what, file: &BootFile, range: &Range<u64>, address| {
        file.copy_to(range.start, range.end - range.start, ram, address, &machine.give_up).map_err(|source| BootError::Read {
            what,
            path: file.path.clone(),
            source,
        })
    };
    for segment in &image.segments {
        copy("kernel", kernel, &segment.file_range, segment.address)?;
    }
    if let (Some(place), Some(initrd)) = (&layout.initrd, &source.initrd) {
        copy("initramfs", initrd, &(0..initrd.size_bytes), place.start)?;
    }
    let write = |what, address: u64, bytes: &[u8]| {
        ram.memory().write_slice(bytes, GuestAddress(address)).map_err(|source| BootError::Write { what, address, source })
    };
    let blob: Vec<u8> = RTAS_BLOB.iter().flat_map(|word| word.to_be_bytes()).collect();
    write("the RTAS blob", layout.rtas.start, &blob)?;
    write("the device tree", layout.fdt.start, &dtb)?;

    // The image's own byte order: Linux copes with either, a bare-metal program without a switch of its own does not.
    let endian = if image.little_endian { MSR_LE } else { 0 };
    let entry = EntryState { pc: image.entry, msr: MSR_SF | MSR_ME | endian, r3: layout.fdt.start, r4: image.base };
    Ok(Booted { entry, layout, hold_release: hold_release(ram, &image), dtb })
}

/// What is left of memory in bytes, if no Linux starts in that: the project's, a small one, ran out of 11 MiB before it looked at its initramfs,
/// and out of 8 MiB without a word.
fn too_little_left(image: &Image, layout: &Layout, memory_bytes: u64) -> Option<u64> {
    const LEAST: u64 = 12 << 20;
    let left = memory_bytes.saturating_sub(layout.fdt.end - layout.kernel.start);
    (image.kind == ImageKind::Linux && left < LEAST).then_some(left)
}

/// Physical address of Linux's `__secondary_hold_spinloop`, zero until the boot CPU releases the secondaries. The image begins with a branch, a
/// trap and this doubleword; in a little-endian one the switch of the byte order comes before them.
fn hold_release(ram: &GuestRam, image: &Image) -> Option<u64> {
    const TRAP: u32 = 0x7fe0_0008;
    if image.kind != ImageKind::Linux || image.base != 0 {
        return None;
    }
    let address = if image.little_endian { 0x38 } else { 0x8 };
    let word: u32 = ram.memory().read_obj(GuestAddress(address - 4)).ok()?;
    let word = if image.little_endian { u32::from_le(word) } else { u32::from_be(word) };
    let released: u64 = ram.memory().read_obj(GuestAddress(address)).ok()?;
    (word == TRAP && released == 0).then_some(address)
}
