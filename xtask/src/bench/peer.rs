//! QEMU as the peer of the boot benchmark: the same kernel and initramfs, entered as our machine enters them
//! (physical 0, tree in r3), so that no firmware is counted. Two stages of a few instructions stand for a boot loader:
//! QEMU starts at 0x100, where the kernel belongs, so the first jumps away and the second copies the kernel down.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use vm_fdt::FdtWriter;

use super::io::bridge::{self, Function};

/// Where things lie in the guest's memory before the kernel runs.
const STAGE2: u64 = 0x700_0000;
const KERNEL: u64 = 0x800_0000;
const TREE: u64 = 0x600_0000;
const RTAS: u64 = 0x5f0_0000;
const INITRD: u64 = 0x400_0000;
/// Room that is kept free of the kernel's own use for each of them.
const TREE_SIZE: u64 = 0x1_0000;
/// Largest kernel that fits below the initramfs, and largest initramfs that fits below RTAS.
const KERNEL_LIMIT: u64 = 0x300_0000;
const INITRD_LIMIT: u64 = RTAS - INITRD;
/// Offset of the system reset vector, where QEMU starts.
const RESET: usize = 0x100;
/// The interrupt controller's handle in the tree.
const XICS: u32 = 0x1111;
/// Version register of a POWER9 DD2.2, as QEMU's `power9` shows it.
const POWER9_PVR: u32 = 0x004e_1202;

/// How QEMU emulates the partition that our machine offers.
const TCG: &[&str] = &[
    "-machine",
    "pseries,ic-mode=xics,cap-cfpc=broken,cap-sbbc=broken,cap-ibs=broken,cap-ccf-assist=off",
    "-machine",
    "cap-hpt-max-page-size=16M,usb=off",
    "-cpu",
    "power9",
];
/// The same under KVM-HV, where guest pages are no larger than the host's. A compatibility mode older than radix makes QEMU provide a hashed
/// page table from the start; it otherwise waits for firmware to ask for one.
pub const KVM: &[&str] = &[
    "-machine",
    "pseries,accel=kvm,ic-mode=xics,cap-cfpc=broken,cap-sbbc=broken,cap-ibs=broken,cap-ccf-assist=off",
    "-machine",
    "cap-hpt-max-page-size=64K,usb=off,max-cpu-compat=power8",
    "-cpu",
    "host",
];

/// The command that boots `vmlinux` with `initramfs` and the kernel's command line in QEMU; files it needs are written below `dir`.
pub fn command(dir: &Path, vmlinux: &Path, initramfs: &Path, cmdline: &str, memory_bytes: u64) -> Result<Command> {
    let dir = fs::canonicalize(dir).with_context(|| format!("find {}", dir.display()))?;
    write_files(&dir, vmlinux, initramfs, cmdline, memory_bytes, Pages::All, &[])?;
    let mut qemu = Command::new("qemu-system-ppc64");
    qemu.args(TCG).args(arguments(memory_bytes, &dir));
    Ok(qemu)
}

/// The same with devices: `functions` are told to the guest and to QEMU, the first at slot 1. Its memory is shared with whoever serves them.
pub fn command_with(
    dir: &Path,
    vmlinux: &Path,
    initramfs: &Path,
    cmdline: &str,
    memory_bytes: u64,
    functions: &[Function],
) -> Result<Command> {
    let dir = fs::canonicalize(dir).with_context(|| format!("find {}", dir.display()))?;
    write_files(&dir, vmlinux, initramfs, cmdline, memory_bytes, Pages::All, functions)?;
    let mut qemu = Command::new("qemu-system-ppc64");
    qemu.args(TCG).args(["-machine", "memory-backend=ram"]).args(arguments(memory_bytes, &dir));
    qemu.args(["-object", &format!("memory-backend-memfd,id=ram,size={memory_bytes},share=on")]);
    for (function, slot) in functions.iter().zip(bridge::FIRST_SLOT..) {
        qemu.args(&function.backend).args(["-device", &format!("{},addr={slot}", function.device)]);
    }
    Ok(qemu)
}

/// The command that boots a stock `vmlinux`, which is too large for the loader above, the way QEMU starts Linux fastest: by its own small
/// firmware. Radix is turned off, as it is here.
pub fn firmware_command(vmlinux: &Path, initramfs: &Path, cmdline: &str, memory_bytes: u64) -> Command {
    let mut qemu = Command::new("qemu-system-ppc64");
    qemu.args(["-machine", "pseries,x-vof=on,ic-mode=xics,cap-cfpc=broken,cap-sbbc=broken,cap-ibs=broken,cap-ccf-assist=off"])
        .args(["-cpu", "POWER9", "-nodefaults", "-display", "none", "-serial", "stdio"])
        .args(["-m", &format!("{}M", memory_bytes >> 20), "-append", &format!("{cmdline} disable_radix"), "-kernel"])
        .arg(vmlinux)
        .arg("-initrd")
        .arg(initramfs);
    qemu
}

/// Which page sizes the guest may use.
#[derive(Clone, Copy)]
pub enum Pages {
    /// 4 KiB, 64 KiB, 16 MiB.
    All,
    /// Those that a host with pages of 64 KiB can back: 4 KiB, 64 KiB.
    Small,
}

impl Pages {
    /// The property `ibm,segment-page-sizes`: base shift, SLB encoding, count, then shift and PTE encoding each.
    fn sizes(self) -> &'static [u32] {
        match self {
            Self::All => &[12, 0, 3, 12, 0, 16, 7, 24, 0x38, 16, 0x110, 2, 16, 1, 24, 8, 24, 0x100, 1, 24, 0],
            Self::Small => &[12, 0, 2, 12, 0, 16, 7, 16, 0x110, 1, 16, 1],
        }
    }
}

/// What QEMU loads: files, and where each lies in the guest's memory.
const PARTS: [(&str, u64); 5] = [("stage2", STAGE2), ("kernel", KERNEL), ("tree", TREE), ("rtas", RTAS), ("initrd", INITRD)];
const FIRST: &str = "stage1";

/// Writes the files below `dir`.
pub fn write_files(
    dir: &Path,
    vmlinux: &Path,
    initramfs: &Path,
    cmdline: &str,
    memory_bytes: u64,
    pages: Pages,
    functions: &[Function],
) -> Result<()> {
    let flat = flatten(&fs::read(vmlinux)?).with_context(|| format!("read {}", vmlinux.display()))?;
    let initrd = fs::read(initramfs).with_context(|| format!("read {}", initramfs.display()))?;
    ensure!((flat.len() as u64) < KERNEL_LIMIT, "the kernel is too large for the peer's loader");
    ensure!((initrd.len() as u64) < INITRD_LIMIT, "the initramfs is too large for the peer's loader");
    let tree = tree(cmdline, memory_bytes, initrd.len() as u64, pages, functions)?;
    let second = words(&second_stage(flat.len()));
    for (name, bytes) in [FIRST, "stage2", "kernel", "tree", "rtas", "initrd"].iter().zip([
        first_stage(),
        second,
        flat,
        tree,
        words(&RTAS_CALL),
        initrd,
    ]) {
        fs::write(dir.join(name), bytes).with_context(|| format!("write {name}"))?;
    }
    Ok(())
}

/// What QEMU is told of them when they lie in `dir`: a guest with a serial line on standard output and no devices.
pub fn arguments(memory_bytes: u64, dir: &Path) -> Vec<String> {
    let mut arguments: Vec<String> = ["-nodefaults", "-display", "none", "-serial", "stdio"].map(str::to_owned).into();
    arguments.extend(["-m".into(), format!("{}M", memory_bytes >> 20)]);
    arguments.extend(["-bios".into(), dir.join(FIRST).display().to_string()]);
    for (name, address) in PARTS {
        let device = format!("loader,file={},addr={address:#x},force-raw=on", dir.join(name).display());
        arguments.extend(["-device".into(), device]);
    }
    arguments
}

/// `mr r4,r3; lis r3,0; ori r3,r3,0xf000; sc 1; blr`: RTAS is a hypercall of the emulator.
const RTAS_CALL: [u32; 5] = [0x7c64_1b78, 0x3c60_0000, 0x6063_f000, 0x4400_0022, 0x4e80_0020];

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

/// Branches to the second stage.
fn first_stage() -> Vec<u8> {
    let mut bytes = vec![0; RESET];
    // lis r4,STAGE2>>16; mtctr r4; bctr
    bytes.extend(words(&[0x3c80_0000 | (STAGE2 >> 16) as u32, 0x7c89_03a6, 0x4e80_0420]));
    bytes
}

/// Copies the kernel to 0 and enters it with the tree in r3, 0 in r4 and r5.
fn second_stage(kernel_bytes: usize) -> [u32; 16] {
    let count = kernel_bytes.div_ceil(8) as u32;
    [
        0x3cc0_0000 | (KERNEL >> 16) as u32, // lis r6,KERNEL>>16
        0x38e0_0000,                         // li r7,0
        0x3d00_0000 | (count >> 16),         // lis r8,count>>16
        0x6108_0000 | (count & 0xffff),      // ori r8,r8,count
        0x7d09_03a6,                         // mtctr r8
        0xe926_0000,                         // 1: ld r9,0(r6)
        0xf927_0000,                         // std r9,0(r7)
        0x38c6_0008,                         // addi r6,r6,8
        0x38e7_0008,                         // addi r7,r7,8
        0x4200_fff0,                         // bdnz 1b
        0x3c60_0000 | (TREE >> 16) as u32,   // lis r3,TREE>>16
        0x3880_0000,                         // li r4,0
        0x38a0_0000,                         // li r5,0
        0x7ca9_03a6,                         // mtctr r5
        0x4e80_0420,                         // bctr
        0x6000_0000,                         // nop
    ]
}

/// The bytes of an ELF file's only loaded segment.
fn flatten(elf: &[u8]) -> Result<Vec<u8>> {
    let field = |at: usize, size: usize| -> Result<u64> {
        let bytes = elf.get(at..at + size).context("the file is cut short")?;
        Ok(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    };
    ensure!(elf.starts_with(b"\x7fELF\x02\x01"), "not a little-endian 64-bit ELF file");
    let (table, size, count) = (field(32, 8)? as usize, field(54, 2)? as usize, field(56, 2)? as usize);
    for index in 0..count {
        let header = table + index * size;
        if field(header, 4)? == 1 {
            let (offset, length) = (field(header + 8, 8)? as usize, field(header + 32, 8)? as usize);
            return Ok(elf.get(offset..offset.saturating_add(length)).context("the file is cut short")?.to_vec());
        }
    }
    anyhow::bail!("nothing in it is to be loaded")
}

/// The smallest tree that boots, with QEMU's RTAS tokens (hw/ppc/spapr_rtas.c registers them from 0x2000).
fn tree(cmdline: &str, memory_bytes: u64, initrd_size: u64, pages: Pages, functions: &[Function]) -> Result<Vec<u8>> {
    let reserved = [(TREE, TREE_SIZE), (RTAS, TREE_SIZE), (INITRD, initrd_size.next_multiple_of(TREE_SIZE))];
    let reserved: Vec<_> =
        reserved.iter().map(|(base, size)| vm_fdt::FdtReserveEntry::new(*base, *size)).collect::<Result<_, _>>()?;
    let mut fdt = FdtWriter::new_with_mem_reserv(&reserved)?;
    let root = fdt.begin_node("")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_string("device_type", "chrp")?;
    fdt.property_string("model", "peer,pseries")?;
    fdt.property_string("compatible", "peer,pseries")?;

    let chosen = fdt.begin_node("chosen")?;
    fdt.property_string("bootargs", cmdline)?;
    fdt.property_string("linux,stdout-path", "/vdevice/vty@71000000")?;
    fdt.property_array_u64("linux,initrd-start", &[INITRD])?;
    fdt.property_array_u64("linux,initrd-end", &[INITRD + initrd_size])?;
    if !functions.is_empty() {
        bridge::ask_for_addresses(&mut fdt)?;
    }
    // Constant: the benchmark repeats itself.
    fdt.property_array_u32("rng-seed", &[0x8419_4d8a; 8])?;
    fdt.end_node(chosen)?;

    let rtas = fdt.begin_node("rtas")?;
    fdt.property_u32("rtas-size", 0x1000)?;
    fdt.property_u32("linux,rtas-base", RTAS as u32)?;
    fdt.property_u32("linux,rtas-entry", RTAS as u32)?;
    fdt.property_string_list(
        "ibm,hypertas-functions",
        ["hcall-pft", "hcall-term", "hcall-interrupt", "hcall-splpar", "hcall-bulk", "hcall-set-mode", "hcall-vio", "hcall-tce"]
            .map(str::to_owned)
            .to_vec(),
    )?;
    for (name, token) in [
        ("get-time-of-day", 0x2001),
        ("power-off", 0x2003),
        ("system-reboot", 0x2004),
        ("query-cpu-stopped-state", 0x2005),
        ("start-cpu", 0x2006),
        ("stop-self", 0x2007),
        ("ibm,set-xive", 0x200a),
        ("ibm,get-xive", 0x200b),
        ("ibm,int-off", 0x200c),
        ("ibm,int-on", 0x200d),
    ] {
        fdt.property_u32(name, token)?;
    }
    if !functions.is_empty() {
        bridge::calls(&mut fdt)?;
    }
    fdt.end_node(rtas)?;

    let cpus = fdt.begin_node("cpus")?;
    fdt.property_u32("#address-cells", 1)?;
    fdt.property_u32("#size-cells", 0)?;
    let cpu = fdt.begin_node("PowerPC,POWER9@0")?;
    fdt.property_string("device_type", "cpu")?;
    fdt.property_u32("reg", 0)?;
    fdt.property_u32("ibm,ppc-interrupt-server#s", 0)?;
    fdt.property_array_u32("ibm,ppc-interrupt-gserver#s", &[0, 0])?;
    // QEMU's own hash table: 4 MiB, which it makes for 512 MiB.
    fdt.property_array_u32("ibm,pft-size", &[0, 22])?;
    fdt.property_array_u32("ibm,segment-page-sizes", pages.sizes())?;
    fdt.property_array_u32("ibm,processor-segment-sizes", &[28, 40, u32::MAX, u32::MAX])?;
    fdt.property_u32("ibm,slb-size", 32)?;
    fdt.property_u32("ibm,vmx", 2)?;
    fdt.property("ibm,pa-features", &PA_FEATURES)?;
    fdt.property_u32("clock-frequency", 1_000_000_000)?;
    fdt.property_u32("timebase-frequency", 512_000_000)?;
    for cache in ["i", "d"] {
        fdt.property_u32(&format!("{cache}-cache-size"), 0x8000)?;
        fdt.property_u32(&format!("{cache}-cache-line-size"), 128)?;
        fdt.property_u32(&format!("{cache}-cache-block-size"), 128)?;
    }
    fdt.property_u32("cpu-version", POWER9_PVR)?;
    fdt.end_node(cpu)?;
    fdt.end_node(cpus)?;

    let memory = fdt.begin_node("memory@0")?;
    fdt.property_string("device_type", "memory")?;
    fdt.property_array_u64("reg", &[0, memory_bytes])?;
    fdt.end_node(memory)?;

    let xics = fdt.begin_node("interrupt-controller")?;
    fdt.property_string("device_type", "PowerPC-External-Interrupt-Presentation")?;
    fdt.property_string("compatible", "IBM,ppc-xicp")?;
    fdt.property_u32("#interrupt-cells", 2)?;
    fdt.property_null("interrupt-controller")?;
    fdt.property_array_u32("ibm,interrupt-server-ranges", &[0, 1])?;
    fdt.property_phandle(XICS)?;
    fdt.end_node(xics)?;

    let vdevice = fdt.begin_node("vdevice")?;
    fdt.property_string("device_type", "vdevice")?;
    fdt.property_string("compatible", "IBM,vdevice")?;
    fdt.property_u32("#address-cells", 1)?;
    fdt.property_u32("#size-cells", 0)?;
    fdt.property_u32("#interrupt-cells", 2)?;
    fdt.property_null("interrupt-controller")?;
    let vty = fdt.begin_node("vty@71000000")?;
    fdt.property_string("device_type", "serial")?;
    fdt.property_string("compatible", "hvterm1")?;
    fdt.property_u32("reg", 0x7100_0000)?;
    fdt.property_array_u32("interrupts", &[0x1100, 0])?;
    fdt.end_node(vty)?;
    fdt.end_node(vdevice)?;
    if !functions.is_empty() {
        bridge::write(&mut fdt, XICS, functions)?;
    }
    fdt.end_node(root)?;
    bridge::finish(fdt.finish()?)
}

/// Processor features (LoPAR 1.1 C.6.2.1) of a hash-only POWER8 and later: what both machines' kernels then use.
const PA_FEATURES: [u8; 26] =
    [24, 0, 0xf6, 0x3f, 0xc7, 0xc0, 0, 0xf0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80, 0, 0x80, 0, 0x80, 0, 0, 0];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copy_loop_covers_the_kernel() {
        let code = second_stage(0x18_0001 * 8 - 3);
        assert_eq!(code[2] & 0xffff, 0x18);
        assert_eq!(code[3] & 0xffff, 1);
        // bdnz to the load, four instructions back.
        assert_eq!(code[9], 0x4200_0000 | (-16i16 as u16 as u32));
    }

    #[test]
    fn damaged_kernels_are_refused() {
        assert!(flatten(b"\x7fELF").is_err());
        assert!(flatten(&[0; 100]).is_err());
        let mut elf = vec![0; 64 + 56];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[32] = 64;
        elf[54] = 56;
        elf[56] = 1;
        elf[64] = 1;
        elf[64 + 8] = 4;
        elf[64 + 32] = 2;
        assert_eq!(flatten(&elf).unwrap(), [2, 1]);
        elf[64 + 38] = 0xff;
        assert!(flatten(&elf).is_err());
    }

    #[test]
    fn tree_is_made() {
        let tree = tree("quiet", 512 << 20, 1000, Pages::All, &[]).unwrap();
        assert_eq!(&tree[..4], &0xd00d_feed_u32.to_be_bytes());
        assert!((tree.len() as u64) < TREE_SIZE);
    }
}
