//! QEMU's PCI host bridge and virtio functions as a directly entered guest is told of them. No firmware has looked at them: the guest gives
//! addresses to what is in the tree, by the sizes that the tree names (PCI bus binding to Open Firmware, `reg`).

use anyhow::{Context, Result};
use vm_fdt::FdtWriter;

/// Slot of the first function; 0 would do as well.
pub const FIRST_SLOT: u32 = 1;

/// The bridge's unit id (hw/ppc/spapr_pci.c, `SPAPR_PCI_BASE_BUID`), which names it in RTAS calls.
const UNIT: u64 = 0x800_0000_2000_0000;
/// Ranges of the bridge's windows, as `-machine dumpdtb` shows them: 64 KiB of I/O ports, 2 GiB and 1 TiB of memory.
#[rustfmt::skip]
const RANGES: [u32; 21] = [
    0x0100_0000, 0, 0, 0x2000, 0, 0, 0x1_0000,
    0x0200_0000, 0, 0x8000_0000, 0x2000, 0x8000_0000, 0, 0x8000_0000,
    0x0300_0000, 0x2100, 0, 0x2100, 0, 0x100, 0,
];
/// RTAS calls of the bridge, with QEMU's tokens.
const CALLS: [(&str, u32); 6] = [
    ("read-pci-config", 0x2014),
    ("write-pci-config", 0x2015),
    ("ibm,read-pci-config", 0x2016),
    ("ibm,write-pci-config", 0x2017),
    (PLACEHOLDER, 0x2018),
    ("ibm,change-msi", 0x2019),
];
/// `vm-fdt` refuses names longer than 31 characters; this one stands for a longer one until the tree is written.
const PLACEHOLDER: &str = "query-interrupt-source";
const LONG_NAME: &str = "ibm,query-interrupt-source-number";
/// First of four interrupt sources that pins share.
const PINS: u32 = 0x1200;

/// A virtio function.
#[derive(Clone, Debug)]
pub struct Function {
    /// QEMU's `-device`, without its address.
    pub device: String,
    /// QEMU's options for what is behind it.
    pub backend: Vec<String>,
    /// Virtio device type (virtio 1.2 §5).
    pub kind: u32,
    /// PCI class code.
    pub class: u32,
    /// Vectors it has.
    pub vectors: u32,
}

/// Says that the guest is to assign addresses. Belongs into /chosen.
pub fn ask_for_addresses(fdt: &mut FdtWriter) -> Result<()> {
    Ok(fdt.property_u32("linux,pci-probe-only", 0)?)
}

/// The bridge's calls. Belongs into /rtas.
pub fn calls(fdt: &mut FdtWriter) -> Result<()> {
    for (name, token) in CALLS {
        fdt.property_u32(name, token)?;
    }
    Ok(())
}

/// The bridge and its functions, whose pins go to the interrupt controller `xics`.
pub fn write(fdt: &mut FdtWriter, xics: u32, functions: &[Function]) -> Result<()> {
    let bridge = fdt.begin_node(&format!("pci@{UNIT:x}"))?;
    fdt.property_string("device_type", "pci")?;
    fdt.property_string("compatible", "IBM,Logical_PHB")?;
    fdt.property_u32("#address-cells", 3)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_u32("#interrupt-cells", 1)?;
    fdt.property_array_u32("reg", &[(UNIT >> 32) as u32, UNIT as u32, 0, 0])?;
    fdt.property_array_u32("bus-range", &[0, 0xff])?;
    fdt.property_array_u32("ranges", &RANGES)?;
    fdt.property_u32("ibm,pci-config-space-type", 1)?;
    fdt.property_u32("ibm,pe-total-#msi", 0x100)?;
    fdt.property_array_u32("ibm,dma-window", &[0x8000_0000, 0, 0, 0, 0x4000_0000])?;
    fdt.property_u32("ibm,#dma-address-cells", 2)?;
    fdt.property_u32("ibm,#dma-size-cells", 2)?;
    fdt.property_array_u32("interrupt-map-mask", &[0xf800, 0, 0, 7])?;
    let pins: Vec<u32> =
        (FIRST_SLOT..).zip(functions).flat_map(|(slot, _)| [slot << 11, 0, 0, 1, xics, PINS + slot % 4, 1]).collect();
    fdt.property_array_u32("interrupt-map", &pins)?;
    for (slot, function) in (FIRST_SLOT..).zip(functions) {
        let node = fdt.begin_node(&format!("virtio@{slot:x}"))?;
        // Configuration space; BAR 1 with the vectors, 32 bits; BAR 4 with the registers, 64 bits and prefetchable.
        let at = slot << 11;
        fdt.property_array_u32("reg", &[at, 0, 0, 0, 0, 0x0200_0014 | at, 0, 0, 0, 0x1000, 0x0300_0020 | at, 0, 0, 0, 0x4000])?;
        fdt.property_u32("vendor-id", 0x1af4)?;
        fdt.property_u32("device-id", 0x1040 + function.kind)?;
        fdt.property_u32("class-code", function.class)?;
        fdt.property_u32("revision-id", 1)?;
        fdt.property_u32("subsystem-vendor-id", 0x1af4)?;
        fdt.property_u32("subsystem-id", 0x1100)?;
        fdt.property_u32("interrupts", 1)?;
        fdt.property_u32("ibm,req#msi-x", function.vectors)?;
        fdt.end_node(node)?;
    }
    Ok(fdt.end_node(bridge)?)
}

/// Gives the call in a written tree its own name (DTSpec 5.2, 5.4): the name goes to the end of the strings, which are the tree's end.
pub fn finish(mut tree: Vec<u8>) -> Result<Vec<u8>> {
    let field =
        |tree: &[u8], at: usize| tree.get(at..at + 4).map(|bytes| u32::from_be_bytes(bytes.try_into().unwrap_or_default()));
    let strings = field(&tree, 12).context("a tree has strings")? as usize;
    let find = |tree: &[u8], bytes: &[u8]| tree.windows(bytes.len()).position(|window| window == bytes);
    let Some(place) = tree.get(strings..).and_then(|strings| find(strings, format!("\0{PLACEHOLDER}\0").as_bytes())) else {
        return Ok(tree);
    };
    let property = [3u32.to_be_bytes(), 4u32.to_be_bytes(), (place as u32 + 1).to_be_bytes()].concat();
    let property = find(&tree, &property).context("the name has a property")?;
    let added = tree.len() - strings;
    tree[property + 8..property + 12].copy_from_slice(&(added as u32).to_be_bytes());
    tree.extend_from_slice(LONG_NAME.as_bytes());
    tree.push(0);
    let (total, size) = (tree.len() as u32, (tree.len() - strings) as u32);
    tree[4..8].copy_from_slice(&total.to_be_bytes());
    tree[32..36].copy_from_slice(&size.to_be_bytes());
    Ok(tree)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_is_written() {
        let mut fdt = FdtWriter::new().unwrap();
        let root = fdt.begin_node("").unwrap();
        fdt.property_u32("first", 1).unwrap();
        calls(&mut fdt).unwrap();
        fdt.end_node(root).unwrap();
        let tree = finish(fdt.finish().unwrap()).unwrap();
        let word = |at: usize| u32::from_be_bytes(tree[at..at + 4].try_into().unwrap()) as usize;
        assert_eq!((word(4), word(12) + word(32)), (tree.len(), tree.len()));
        let name = tree.len() - LONG_NAME.len() - 1;
        assert_eq!(&tree[name..], [LONG_NAME.as_bytes(), &[0]].concat());
        let expected = [3, 4, (name - word(12)) as u32, 0x2018].map(u32::to_be_bytes).concat();
        assert!(tree.windows(16).any(|window| window == expected));
    }
}
