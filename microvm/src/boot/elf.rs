//! ELF64 PowerPC images of either byte order.
//!
//! Linux is linked at 0xc000000000000000 and runs at physical 0; a bare-metal program stands at its `PT_LOAD` physical
//! addresses, or, when it is position-independent, where the user says.

use std::ops::Range;

use object::elf::{self, FileHeader64};
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader};
use object::{Endianness, ReadRef};

/// The start of the kernel's linear mapping (`PAGE_OFFSET` of ppc64).
const LINEAR_MAPPING: u64 = 0xc000_0000_0000_0000;
const LINEAR_MAPPING_MASK: u64 = 0xf000_0000_0000_0000;

/// Most `PT_LOAD` segments an image may have; kernels have one to three.
const SEGMENTS_MAX: usize = 64;

/// What is wrong with an image.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    /// Not ELF at all.
    #[error("not an ELF file (compressed zImages and scripts are not taken: give the raw vmlinux)")]
    NotElf,
    /// 32-bit.
    #[error("a 32-bit ELF file, needed is ELF64")]
    NotElf64,
    /// For another processor.
    #[error("built for {machine} (e_machine {number}), needed is 64-bit PowerPC")]
    ForeignMachine {
        /// Its name where it is a usual one.
        machine: &'static str,
        /// `e_machine`.
        number: u16,
    },
    /// A core file, a relocatable object …
    #[error("an ELF file of type {0}, needed is an executable (2) or a position-independent one (3)")]
    Type(u16),
    /// A header or segment lies outside the file.
    #[error("truncated or damaged: {0}")]
    Damaged(&'static str),
    /// Nothing to load.
    #[error("no loadable segment")]
    Empty,
    /// More segments than any kernel has.
    #[error("{0} loadable segments, allowed are {SEGMENTS_MAX}")]
    TooManySegments(usize),
    /// Two segments claim the same memory.
    #[error("the segments at {0:#x} and {1:#x} overlap")]
    Overlap(u64, u64),
    /// The entry point is in no segment.
    #[error("the entry point {0:#x} lies in no loadable segment")]
    Entry(u64),
    /// `--load-address` for an image that is bound to its addresses.
    #[error("the image is linked for fixed addresses: a load address can be given only for a position-independent one")]
    NotRelocatable,
    /// The load address is not aligned as the segments need.
    #[error("load address {0:#x}: must be a multiple of 64 KiB")]
    LoadAddress(u64),
    /// A segment would end beyond the address space.
    #[error("the segment at {0:#x} wraps around the address space")]
    Wraps(u64),
}

/// What kind of image it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageKind {
    /// Linked in the kernel's linear mapping.
    Linux,
    /// Stands at its physical addresses.
    BareMetal,
}

/// One segment to copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Physical address.
    pub address: u64,
    /// Bytes in memory; what the file does not fill is zero.
    pub size_bytes: u64,
    /// Bytes of the file to copy.
    pub file_range: Range<u64>,
}

/// A checked image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Linux or not.
    pub kind: ImageKind,
    /// Byte order of the image.
    pub little_endian: bool,
    /// Segments in ascending order, not overlapping.
    pub segments: Vec<Segment>,
    /// Physical address of the first instruction.
    pub entry: u64,
    /// Physical address of the lowest byte.
    pub base: u64,
    /// First physical address above the image.
    pub end: u64,
}

/// Checks `data` and says what goes where. `load_address` moves a position-independent image.
///
/// # Errors
/// [`ElfError`]; nothing of a damaged file is used.
pub fn load_elf<'data>(data: impl ReadRef<'data>, load_address: Option<u64>) -> Result<Image, ElfError> {
    let ident = data.read_bytes_at(0, 8).map_err(|()| ElfError::NotElf)?;
    if ident[..4] != elf::ELFMAG {
        return Err(ElfError::NotElf);
    }
    if ident[4] != elf::ELFCLASS64 {
        return Err(ElfError::NotElf64);
    }
    let header = FileHeader64::<Endianness>::parse(data).map_err(|_| ElfError::Damaged("the file header"))?;
    let endian = header.endian().map_err(|_| ElfError::Damaged("the byte order"))?;
    let machine = header.e_machine.get(endian);
    if machine != elf::EM_PPC64 {
        return Err(ElfError::ForeignMachine { machine: machine_name(machine), number: machine });
    }
    let file_type = header.e_type.get(endian);
    if file_type != elf::ET_EXEC && file_type != elf::ET_DYN {
        return Err(ElfError::Type(file_type));
    }
    let loads = load_segments(header, endian, data)?;
    let linux = loads.iter().all(|load| load.vaddr & LINEAR_MAPPING_MASK == LINEAR_MAPPING);
    let kind = if linux { ImageKind::Linux } else { ImageKind::BareMetal };
    let offset = placement(kind, file_type == elf::ET_DYN, load_address)?;

    let mut segments = Vec::with_capacity(loads.len());
    for load in &loads {
        let linked = match kind {
            // Linkers disagree on whether a kernel's physical addresses carry the linear mapping's offset.
            ImageKind::Linux => load.paddr & !LINEAR_MAPPING_MASK,
            ImageKind::BareMetal => load.paddr,
        };
        let address = linked.checked_add(offset).ok_or(ElfError::Wraps(linked))?;
        address.checked_add(load.memsz).ok_or(ElfError::Wraps(address))?;
        segments.push(Segment { address, size_bytes: load.memsz, file_range: load.file_range.clone() });
    }
    let linked_entry = entry_point(header, endian, data, &loads);
    let entry = loads
        .iter()
        .zip(&segments)
        .find_map(|(load, segment)| {
            let inside = linked_entry.checked_sub(load.vaddr).filter(|delta| *delta < load.memsz)?;
            Some(segment.address + inside)
        })
        .ok_or(ElfError::Entry(linked_entry))?;

    segments.sort_by_key(|segment| segment.address);
    for pair in segments.windows(2) {
        if pair[0].address + pair[0].size_bytes > pair[1].address {
            return Err(ElfError::Overlap(pair[0].address, pair[1].address));
        }
    }
    let base = segments.first().map_or(0, |segment| segment.address);
    let end = segments.last().map_or(0, |segment| segment.address + segment.size_bytes);
    Ok(Image { kind, little_endian: endian == Endianness::Little, segments, entry, base, end })
}

struct Load {
    vaddr: u64,
    paddr: u64,
    memsz: u64,
    file_range: Range<u64>,
}

fn load_segments<'data>(
    header: &FileHeader64<Endianness>,
    endian: Endianness,
    data: impl ReadRef<'data>,
) -> Result<Vec<Load>, ElfError> {
    let file_bytes = data.len().map_err(|()| ElfError::Damaged("its length is unknown"))?;
    let headers = header.program_headers(endian, data).map_err(|_| ElfError::Damaged("the program headers"))?;
    let mut loads = Vec::new();
    for program in headers {
        if program.p_type(endian) != elf::PT_LOAD || program.p_memsz(endian) == 0 {
            continue;
        }
        let (offset, filesz) = (program.p_offset(endian), program.p_filesz(endian));
        let memsz = program.p_memsz(endian);
        if filesz > memsz {
            return Err(ElfError::Damaged("a segment is larger in the file than in memory"));
        }
        let end = offset.checked_add(filesz).filter(|end| *end <= file_bytes);
        let end = end.ok_or(ElfError::Damaged("a segment reaches beyond the end of the file"))?;
        loads.push(Load { vaddr: program.p_vaddr(endian), paddr: program.p_paddr(endian), memsz, file_range: offset..end });
    }
    match loads.len() {
        0 => Err(ElfError::Empty),
        count if count > SEGMENTS_MAX => Err(ElfError::TooManySegments(count)),
        _ => Ok(loads),
    }
}

/// How far the image moves from its physical addresses.
fn placement(kind: ImageKind, position_independent: bool, load_address: Option<u64>) -> Result<u64, ElfError> {
    match (load_address, kind) {
        (None, _) => Ok(0),
        (Some(address), ImageKind::BareMetal) if position_independent => {
            if address.is_multiple_of(0x1_0000) {
                Ok(address)
            } else {
                Err(ElfError::LoadAddress(address))
            }
        }
        (Some(_), _) => Err(ElfError::NotRelocatable),
    }
}

/// The linked address of the first instruction. In the first ELF ABI a C function's symbol is its descriptor in `.opd`;
/// there the entry is the descriptor's first doubleword.
fn entry_point<'data>(header: &FileHeader64<Endianness>, endian: Endianness, data: impl ReadRef<'data>, loads: &[Load]) -> u64 {
    let entry = header.e_entry.get(endian);
    let abi = header.e_flags.get(endian) & 3;
    if abi == 2 {
        return entry;
    }
    let descriptor = || -> Option<u64> {
        let sections = header.sections(endian, data).ok()?;
        let (_, opd) = sections.section_by_name(endian, b".opd")?;
        let start = opd.sh_addr(endian);
        entry.checked_sub(start).filter(|delta| *delta < opd.sh_size(endian))?;
        let load =
            loads.iter().find(|load| entry >= load.vaddr && entry - load.vaddr < load.file_range.end - load.file_range.start)?;
        let offset = load.file_range.start + (entry - load.vaddr);
        let raw = data.read_at::<object::U64Bytes<Endianness>>(offset).ok()?;
        Some(raw.get(endian))
    };
    descriptor().unwrap_or(entry)
}

fn machine_name(machine: u16) -> &'static str {
    match machine {
        3 => "i386",
        20 => "32-bit PowerPC",
        22 => "s390",
        40 => "32-bit ARM",
        62 => "x86_64",
        183 => "aarch64",
        243 => "RISC-V",
        _ => "another processor",
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// In memory, as from a file.
    fn load_elf(data: impl AsRef<[u8]>, load_address: Option<u64>) -> Result<Image, ElfError> {
        super::load_elf(data.as_ref(), load_address)
    }

    /// A minimal ELF64 with the given segments: (vaddr, paddr, bytes, memsz).
    pub(crate) fn elf_with(little: bool, machine: u16, kind: u16, entry: u64, segments: &[(u64, u64, &[u8], u64)]) -> Vec<u8> {
        let u16s = |value: u16| if little { value.to_le_bytes() } else { value.to_be_bytes() };
        let u32s = |value: u32| if little { value.to_le_bytes() } else { value.to_be_bytes() };
        let u64s = |value: u64| if little { value.to_le_bytes() } else { value.to_be_bytes() };
        let mut out = vec![0x7f, b'E', b'L', b'F', 2, if little { 1 } else { 2 }, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        out.extend(u16s(kind));
        out.extend(u16s(machine));
        out.extend(u32s(1));
        out.extend(u64s(entry));
        out.extend(u64s(64));
        out.extend(u64s(0));
        out.extend(u32s(if little { 2 } else { 1 }));
        for field in [64, 56, segments.len() as u16, 64, 0, 0] {
            out.extend(u16s(field));
        }
        let mut offset = 64 + 56 * segments.len() as u64;
        for (vaddr, paddr, bytes, memsz) in segments {
            out.extend(u32s(1));
            out.extend(u32s(7));
            for field in [offset, *vaddr, *paddr, bytes.len() as u64, *memsz, 0x10000] {
                out.extend(u64s(field));
            }
            offset += bytes.len() as u64;
        }
        for (_, _, bytes, _) in segments {
            out.extend_from_slice(bytes);
        }
        out
    }

    const KERNEL: u64 = LINEAR_MAPPING;

    #[test]
    fn a_kernel_linked_in_the_linear_mapping_goes_to_physical_zero() {
        for little in [false, true] {
            let image = load_elf(elf_with(little, 21, 2, KERNEL, &[(KERNEL, KERNEL, &[1; 32], 0x1000)]), None).unwrap();
            assert_eq!(image.kind, ImageKind::Linux);
            assert_eq!((image.entry, image.base, image.end), (0, 0, 0x1000));
            assert_eq!(image.little_endian, little);
        }
    }

    #[test]
    fn a_kernel_whose_physical_addresses_are_physical_is_the_same() {
        let image = load_elf(elf_with(true, 21, 2, KERNEL + 8, &[(KERNEL, 0, &[1; 32], 0x1000)]), None).unwrap();
        assert_eq!((image.kind, image.entry, image.base), (ImageKind::Linux, 8, 0));
    }

    #[test]
    fn bare_metal_stands_at_its_physical_addresses() {
        let file = elf_with(false, 21, 2, 0x2000_0010, &[(0x2000_0000, 0x10_0000, &[1; 32], 64)]);
        let image = load_elf(&file, None).unwrap();
        assert_eq!((image.kind, image.entry, image.base, image.end), (ImageKind::BareMetal, 0x10_0010, 0x10_0000, 0x10_0040));
        assert!(matches!(load_elf(&file, Some(0x40_0000)), Err(ElfError::NotRelocatable)));
    }

    #[test]
    fn a_position_independent_image_goes_where_the_user_says() {
        let file = elf_with(true, 21, 3, 0x10, &[(0, 0, &[1; 32], 64)]);
        let image = load_elf(&file, Some(0x40_0000)).unwrap();
        assert_eq!((image.entry, image.base), (0x40_0010, 0x40_0000));
        assert!(matches!(load_elf(&file, Some(0x40_0001)), Err(ElfError::LoadAddress(_))));
    }

    #[test]
    fn foreign_and_damaged_files_are_named() {
        let good = elf_with(true, 21, 2, KERNEL, &[(KERNEL, 0, &[1; 32], 64)]);
        assert!(matches!(load_elf(b"#!/bin/sh\n", None), Err(ElfError::NotElf)));
        assert!(matches!(load_elf(b"", None), Err(ElfError::NotElf)));
        let mut narrow = good.clone();
        narrow[4] = 1;
        assert!(matches!(load_elf(&narrow, None), Err(ElfError::NotElf64)));
        let x86 = elf_with(true, 62, 2, KERNEL, &[(KERNEL, 0, &[1; 32], 64)]);
        assert!(matches!(load_elf(&x86, None), Err(ElfError::ForeignMachine { machine: "x86_64", .. })));
        let object = elf_with(true, 21, 1, KERNEL, &[(KERNEL, 0, &[1; 32], 64)]);
        assert!(matches!(load_elf(&object, None), Err(ElfError::Type(1))));
        assert!(matches!(load_elf(elf_with(true, 21, 2, 0, &[]), None), Err(ElfError::Empty)));
        let outside = elf_with(true, 21, 2, KERNEL + 64, &[(KERNEL, 0, &[1; 32], 64)]);
        assert!(matches!(load_elf(&outside, None), Err(ElfError::Entry(_))));
    }

    #[test]
    fn overlapping_or_wrapping_segments_are_refused() {
        let file = elf_with(true, 21, 2, 0, &[(0, 0, &[1; 32], 64), (0x1000, 32, &[1; 4], 4)]);
        assert!(matches!(load_elf(&file, None), Err(ElfError::Overlap(0, 32))));
        let file = elf_with(true, 21, 2, 0, &[(0, u64::MAX - 8, &[1; 4], 64)]);
        assert!(matches!(load_elf(&file, None), Err(ElfError::Wraps(_))));
    }

    #[test]
    fn every_truncation_is_an_error_or_a_smaller_image_never_a_panic() {
        let good = elf_with(true, 21, 2, KERNEL, &[(KERNEL, 0, &[1; 32], 64), (KERNEL + 0x1000, 0x1000, &[2; 16], 16)]);
        for length in 0..good.len() {
            assert!(load_elf(&good[..length], None).is_err(), "{length} bytes of {}", good.len());
        }
    }

    #[test]
    fn any_flipped_byte_is_survived() {
        let good = elf_with(false, 21, 2, KERNEL, &[(KERNEL, 0, &[1; 32], 64)]);
        for position in 0..good.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bad = good.clone();
                bad[position] = value;
                let _ = load_elf(&bad, None);
            }
        }
    }
}
