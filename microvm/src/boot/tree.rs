//! The flattened device tree: what Linux needs of LoPAR device tree appendices, and no more. Every property costs the guest
//! instructions at boot; each one here is either required for booting or for working well.

use super::fdt::Writer;
use super::layout::Layout;
use crate::papr::phb::{self, PciSlot};
use crate::papr::{nvram, rtas, vty, xics};
use paperboat_hypervisor::Capabilities;

/// Most vCPUs of a machine.
pub const VCPUS_MAX: u32 = 64;

/// Most threads of one core (POWER8 and later run eight).
pub const THREADS_PER_CORE_MAX: u32 = 8;

/// Hardware id of the vCPU that boots.
const BOOT_CPU: u32 = 0;

/// The interrupt controller's phandle, named by the host bridge's interrupt map.
const XICS_PHANDLE: u32 = 0x1111;

/// `ibm,pi-features` (one attribute byte, type 0): bit 3 faults of no-execute pages are reported as such, bit 4 no directed
/// doorbells. With more than one thread in a core Linux would send inter-processor interrupts to its siblings with
/// msgsndp, which reaches nobody where each vCPU runs by itself; H_IPI reaches all.
const PI_FEATURES_NO_DOORBELL: &[u8] = &[1, 0, 0x18];

/// Processor clock for programs that print it; nothing depends on it.
const CLOCK_HZ: u32 = 1_000_000_000;

/// Hypercall groups that the machine serves (`ibm,hypertas-functions`); hcall-hpt-resize comes with a backend that can. hcall-vphn is not served.
/// hcall-sprg0, hcall-dabr and hcall-join are served where the backend can and not announced: no kernel needs the first, which has SPRG0 in reach;
/// the second would replace the watchpoints of H_SET_MODE, and the third is for migration.
const HYPERTAS_FUNCTIONS: &[&str] = &[
    "hcall-pft",
    "hcall-term",
    "hcall-interrupt",
    "hcall-splpar",
    "hcall-bulk",
    "hcall-set-mode",
    "hcall-vio",
    "hcall-tce",
    "hcall-multi-tce",
];

/// Why the tree could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// A machine that cannot be.
    #[error("{vcpus} CPUs, allowed are 1 to {VCPUS_MAX}")]
    Vcpus {
        /// The count asked for.
        vcpus: u32,
    },
    /// Threads per core.
    #[error("{threads} threads per core, allowed are 1, 2, 4 and 8")]
    Threads {
        /// The count asked for.
        threads: u32,
    },
}

/// How vCPUs are arranged. Interrupt server numbers and vCPU ids are the same: 0, 1, 2 …
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topology {
    /// Number of vCPUs.
    pub vcpus: u32,
    /// Threads of one core; the last core may have fewer.
    pub threads_per_core: u32,
}

impl Topology {
    /// Checks the counts.
    ///
    /// # Errors
    /// [`TreeError::Vcpus`], [`TreeError::Threads`].
    pub fn new(vcpus: u32, threads_per_core: u32) -> Result<Self, TreeError> {
        if vcpus == 0 || vcpus > VCPUS_MAX {
            return Err(TreeError::Vcpus { vcpus });
        }
        if !threads_per_core.is_power_of_two() || threads_per_core > THREADS_PER_CORE_MAX {
            return Err(TreeError::Threads { threads: threads_per_core });
        }
        Ok(Self { vcpus, threads_per_core })
    }
}

/// Everything the tree tells.
pub struct TreeInput<'a> {
    /// The processor.
    pub capabilities: &'a Capabilities,
    /// vCPUs.
    pub topology: Topology,
    /// Guest memory in bytes.
    pub memory_bytes: u64,
    /// Command line.
    pub cmdline: &'a str,
    /// Addresses of initramfs, RTAS blob and tree.
    pub layout: &'a Layout,
    /// Functions behind the host bridge.
    pub slots: &'a [PciSlot],
    /// Entropy for the guest's generator.
    pub rng_seed: [u8; 32],
}

/// Builds the tree. Its length depends on everything but the addresses in the layout.
pub fn build_tree(input: &TreeInput<'_>) -> Vec<u8> {
    let mut fdt = Writer::new();
    fdt.begin_node("");
    fdt.cell("#address-cells", 2);
    fdt.cell("#size-cells", 2);
    fdt.string("device_type", "chrp");
    fdt.string("model", "paperboat,pseries");
    fdt.string("compatible", "paperboat,pseries");
    chosen(&mut fdt, input);
    rtas_node(&mut fdt, input.layout, input.capabilities.hpt_resize);
    cpus(&mut fdt, input);

    fdt.begin_node("memory@0");
    fdt.string("device_type", "memory");
    fdt.wide("reg", &[0, input.memory_bytes]);
    fdt.end_node();

    // Linux picks its preemption and polling heuristics by this node.
    fdt.begin_node("hypervisor");
    fdt.string("compatible", "linux,kvm");
    fdt.end_node();

    fdt.begin_node("nvram");
    fdt.string("device_type", "nvram");
    fdt.cell("#bytes", nvram::SIZE_BYTES);
    fdt.end_node();

    interrupt_controller(&mut fdt, input.topology);
    vdevice(&mut fdt);
    if !input.slots.is_empty() {
        host_bridge(&mut fdt, input.slots);
    }
    fdt.end_node();
    // Blob and tree are memory like any other to the guest's allocator unless they are reserved (DTSpec 5.3).
    fdt.finish(BOOT_CPU, &[input.layout.rtas.clone(), input.layout.fdt.clone()])
}

fn chosen(fdt: &mut Writer, input: &TreeInput<'_>) {
    fdt.begin_node("chosen");
    fdt.string("bootargs", input.cmdline);
    let console = format!("/vdevice/vty@{:x}", vty::UNIT_ADDRESS);
    fdt.string("stdout-path", &console);
    fdt.string("linux,stdout-path", &console);
    if let Some(initrd) = &input.layout.initrd {
        fdt.wide("linux,initrd-start", &[initrd.start]);
        fdt.wide("linux,initrd-end", &[initrd.end]);
    }
    fdt.property("rng-seed", &input.rng_seed);
    if !input.slots.is_empty() {
        // 0: the kernel may move BARs; it keeps what it finds in assigned-addresses.
        fdt.cell("linux,pci-probe-only", 0);
    }
    fdt.end_node();
}

fn rtas_node(fdt: &mut Writer, layout: &Layout, hpt_resize: bool) {
    fdt.begin_node("rtas");
    // RTAS is called in 32-bit mode; the layout keeps it below 1 GiB.
    fdt.cell("linux,rtas-base", layout.rtas.start as u32);
    fdt.cell("linux,rtas-entry", layout.rtas.start as u32);
    fdt.cell("rtas-size", (layout.rtas.end - layout.rtas.start) as u32);
    fdt.cell("rtas-error-log-max", rtas::ERROR_LOG_MAX);
    // Zero: nothing to poll for. No event is ever pending here.
    fdt.cell("rtas-event-scan-rate", 0);
    // os-term returns only if it cannot end the partition. Linux calls it only with this property.
    fdt.flag("ibm,extended-os-term");
    let resize = hpt_resize.then_some("hcall-hpt-resize");
    let functions: Vec<&str> = HYPERTAS_FUNCTIONS.iter().copied().chain(resize).collect();
    fdt.strings("ibm,hypertas-functions", &functions);
    for call in rtas::CALLS {
        fdt.cell(call.name, call.token);
    }
    fdt.end_node();
}

fn cpus(fdt: &mut Writer, input: &TreeInput<'_>) {
    let capabilities = input.capabilities;
    let topology = input.topology;
    fdt.begin_node("cpus");
    fdt.cell("#address-cells", 1);
    fdt.cell("#size-cells", 0);
    for first in (0..topology.vcpus).step_by(topology.threads_per_core as usize) {
        let threads: Vec<u32> = (first..topology.vcpus.min(first + topology.threads_per_core)).collect();
        fdt.begin_node(&format!("PowerPC,{}@{first:x}", processor_name(capabilities.pvr)));
        fdt.string("device_type", "cpu");
        fdt.cell("reg", first);
        fdt.cells("ibm,ppc-interrupt-server#s", &threads);
        let global: Vec<u32> = threads.iter().flat_map(|id| [*id, 0]).collect();
        fdt.cells("ibm,ppc-interrupt-gserver#s", &global);
        fdt.cells("ibm,pft-size", &[0, capabilities.hpt_order]);
        fdt.cells("ibm,segment-page-sizes", &segment_page_sizes(capabilities));
        if capabilities.segments_1t {
            fdt.cells("ibm,processor-segment-sizes", &[28, 40, u32::MAX, u32::MAX]);
        }
        fdt.cell("ibm,slb-size", capabilities.slb_entries);
        // 2: VMX and VSX (LoPAR, CPU node properties).
        fdt.cell("ibm,vmx", 2);
        fdt.property("ibm,pa-features", &capabilities.pa_features);
        if topology.threads_per_core > 1 {
            fdt.property("ibm,pi-features", PI_FEATURES_NO_DOORBELL);
        }
        fdt.cell("cpu-version", capabilities.cpu_version);
        fdt.cell("clock-frequency", CLOCK_HZ);
        fdt.cell("timebase-frequency", u32::try_from(capabilities.timebase_hz).unwrap_or(u32::MAX));
        for name in ["i-cache-size", "d-cache-size"] {
            fdt.cell(name, 0x8000);
        }
        for name in ["i-cache-line-size", "i-cache-block-size", "d-cache-line-size", "d-cache-block-size"] {
            fdt.cell(name, 128);
        }
        fdt.end_node();
    }
    fdt.end_node();
}

fn segment_page_sizes(capabilities: &Capabilities) -> Vec<u32> {
    let mut cells = Vec::new();
    for base in &capabilities.segment_page_sizes {
        cells.extend([base.base_shift, base.slb_encoding, base.pages.len() as u32]);
        for page in &base.pages {
            cells.extend([page.page_shift, page.pte_encoding]);
        }
    }
    cells
}

fn processor_name(pvr: u32) -> &'static str {
    match pvr >> 16 {
        0x4b..=0x4d => "POWER8",
        0x4e => "POWER9",
        _ => "POWER10",
    }
}

fn interrupt_controller(fdt: &mut Writer, topology: Topology) {
    fdt.begin_node("interrupt-controller");
    fdt.string("device_type", "PowerPC-External-Interrupt-Presentation");
    fdt.string("compatible", "IBM,ppc-xicp");
    fdt.flag("interrupt-controller");
    fdt.cell("#address-cells", 0);
    fdt.cell("#interrupt-cells", 2);
    fdt.cells("ibm,interrupt-server-ranges", &[0, topology.vcpus]);
    fdt.cell("phandle", XICS_PHANDLE);
    fdt.cell("linux,phandle", XICS_PHANDLE);
    fdt.end_node();
}

fn vdevice(fdt: &mut Writer) {
    fdt.begin_node("vdevice");
    fdt.string("device_type", "vdevice");
    fdt.string("compatible", "IBM,vdevice");
    fdt.cell("#address-cells", 1);
    fdt.cell("#size-cells", 0);
    fdt.cell("#interrupt-cells", 2);
    fdt.flag("interrupt-controller");
    fdt.begin_node(&format!("vty@{:x}", vty::UNIT_ADDRESS));
    fdt.string("device_type", "serial");
    fdt.string("compatible", "hvterm1");
    fdt.cell("reg", vty::UNIT_ADDRESS);
    fdt.cells("interrupts", &[xics::VTY_SOURCE, SENSE_EDGE]);
    fdt.end_node();
    fdt.end_node();
}

const SENSE_EDGE: u32 = 0;
const SENSE_LEVEL: u32 = 1;

/// LoPAR's PCI host bridge node over the IEEE 1275 PCI binding.
fn host_bridge(fdt: &mut Writer, slots: &[PciSlot]) {
    fdt.begin_node(&format!("pci@{:x}", phb::BUID));
    fdt.string("device_type", "pci");
    fdt.string("compatible", "IBM,Logical_PHB");
    fdt.cell("#address-cells", 3);
    fdt.cell("#size-cells", 2);
    fdt.cell("#interrupt-cells", 1);
    fdt.wide("reg", &[phb::BUID, 0]);
    fdt.cells("bus-range", &[0, 0]);
    // 1: the extended 4 KiB configuration space is reachable.
    fdt.cell("ibm,pci-config-space-type", 1);
    // Both are compulsory: without them the kernel oopses in its MSI and DMA set-up.
    fdt.cell("ibm,pe-total-#msi", xics::MSI_SOURCES);
    dma_window(fdt, phb::LIOBN);
    let mut ranges = Vec::new();
    for window in phb::WINDOWS {
        ranges.push(window.space);
        ranges.extend(cells(window.bus_base));
        ranges.extend(cells(window.real_base));
        ranges.extend(cells(window.size_bytes));
    }
    fdt.cells("ranges", &ranges);
    fdt.cells("interrupt-map-mask", &[0xf800, 0, 0, 7]);
    let map: Vec<u32> = slots
        .iter()
        .flat_map(|slot| [slot.config_address(0), 0, 0, 1, XICS_PHANDLE, xics::intx_source(slot.device), SENSE_LEVEL])
        .collect();
    fdt.cells("interrupt-map", &map);
    for slot in slots {
        pci_function(fdt, slot);
    }
    fdt.end_node();
}

fn pci_function(fdt: &mut Writer, slot: &PciSlot) {
    let identity = slot.function.identity();
    fdt.begin_node(&format!("pci{:x},{:x}@{:x}", identity.vendor_id, identity.device_id, slot.device));
    let mut reg = vec![slot.config_address(0), 0, 0, 0, 0];
    let mut assigned = Vec::new();
    for bar in &slot.bars {
        let high = bar.space() | slot.config_address(0x10 + u16::from(bar.bar.index) * 4);
        reg.extend([high, 0, 0]);
        reg.extend(cells(bar.bar.size_bytes));
        assigned.push(0x8000_0000 | high);
        assigned.extend(cells(bar.address));
        assigned.extend(cells(bar.bar.size_bytes));
    }
    fdt.cells("reg", &reg);
    fdt.cells("assigned-addresses", &assigned);
    fdt.cell("vendor-id", identity.vendor_id.into());
    fdt.cell("device-id", identity.device_id.into());
    fdt.cell("revision-id", identity.revision_id.into());
    fdt.cell("class-code", identity.class_code);
    fdt.cell("subsystem-vendor-id", identity.subsystem_vendor_id.into());
    fdt.cell("subsystem-id", identity.subsystem_id.into());
    // Pin INTA.
    fdt.cell("interrupts", 1);
    if let Some(liobn) = slot.liobn {
        dma_window(fdt, liobn);
    }
    let vectors = slot.function.msix_vectors();
    if vectors > 0 {
        // Has to equal the table size, or drivers fall back to shared vectors.
        fdt.cell("ibm,req#msi-x", vectors.into());
    }
    fdt.end_node();
}

/// A window in the node of the bridge or of a function: Linux looks for the cell counts beside it.
fn dma_window(fdt: &mut Writer, liobn: u32) {
    fdt.cells("ibm,dma-window", &phb::dma_window_cells(liobn));
    fdt.cell("ibm,#dma-address-cells", 2);
    fdt.cell("ibm,#dma-size-cells", 2);
}

fn cells(value: u64) -> [u32; 2] {
    [(value >> 32) as u32, value as u32]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::dts_from_dtb;
    use crate::testing::{capabilities, slots};

    fn tree(topology: Topology, slots: &[PciSlot]) -> (Vec<u8>, String) {
        tree_of(&capabilities(), topology, slots)
    }

    fn tree_of(capabilities: &Capabilities, topology: Topology, slots: &[PciSlot]) -> (Vec<u8>, String) {
        let layout = Layout {
            kernel: 0..0x100_0000,
            initrd: Some(0x100_0000..0x110_0000),
            rtas: 0x110_0000..0x110_1000,
            fdt: 0x111_0000..0x111_2000,
        };
        let dtb = build_tree(&TreeInput {
            capabilities,
            topology,
            memory_bytes: 512 << 20,
            cmdline: "console=hvc0 quiet",
            layout: &layout,
            slots,
            rng_seed: [0x5a; 32],
        });
        let dts = dts_from_dtb(&dtb).unwrap();
        (dtb, dts)
    }

    #[test]
    fn the_page_table_s_size_can_change_where_the_backend_says_so() {
        for hpt_resize in [false, true] {
            let offered = Capabilities { hpt_resize, ..capabilities() };
            let (_, dts) = tree_of(&offered, Topology::new(1, 1).unwrap(), &[]);
            assert_eq!(dts.contains("\"hcall-hpt-resize\""), hpt_resize, "{dts}");
        }
    }

    #[test]
    fn what_linux_cannot_boot_without_is_there() {
        let (dtb, dts) = tree(Topology::new(1, 1).unwrap(), &[]);
        for needed in [
            "device_type = \"chrp\";",
            "ibm,hypertas-functions = \"hcall-pft\", \"hcall-term\"",
            "PowerPC,POWER9@0 {",
            "ibm,pft-size = <0x0 0x16>;",
            "ibm,segment-page-sizes = <",
            "ibm,vmx = <0x2>;",
            "memory@0 {",
            "reg = <0x0 0x0 0x0 0x20000000>;",
            "device_type = \"vdevice\";",
            "compatible = \"hvterm1\";",
            "reg = <0x71000000>;",
            "bootargs = \"console=hvc0 quiet\";",
            "linux,rtas-base = <0x1100000>;",
            "linux,rtas-entry = <0x1100000>;",
            "ibm,set-xive = <0x",
            "power-off = <0x",
            "device_type = \"nvram\";",
            "linux,initrd-start = <0x0 0x1000000>;",
            "/memreserve/ 0x1110000 0x2000;",
            "ibm,processor-segment-sizes = <0x1c 0x28 0xffffffff 0xffffffff>;",
        ] {
            assert!(dts.contains(needed), "{needed} is missing in\n{dts}");
        }
        for unwanted in ["cas", "features {", "hcall-sprg0", "ibm,nmi-register", "ibm,dfp", "pci@", "ibm,architecture-vec-5"] {
            assert!(!dts.contains(unwanted), "{unwanted} must not be in the tree");
        }
        assert_eq!(u32::from_be_bytes(dtb[28..32].try_into().unwrap()), 0, "boot_cpuid_phys");
    }

    #[test]
    fn every_interrupt_server_is_covered_and_threads_share_a_node() {
        let (_, dts) = tree(Topology::new(6, 4).unwrap(), &[]);
        assert!(dts.contains("ibm,interrupt-server-ranges = <0x0 0x6>;"));
        assert!(dts.contains("ibm,ppc-interrupt-server#s = <0x0 0x1 0x2 0x3>;"));
        assert_eq!(dts.matches("ibm,pi-features = [01 00 18];").count(), 2);
        assert!(dts.contains("PowerPC,POWER9@4 {"));
        assert!(dts.contains("ibm,ppc-interrupt-server#s = <0x4 0x5>;"));
        assert_eq!(dts.matches("device_type = \"cpu\"").count(), 2);
    }

    #[test]
    fn functions_have_nodes_with_assigned_addresses_and_an_interrupt() {
        let slots = slots(2);
        let (_, dts) = tree(Topology::new(1, 1).unwrap(), &slots);
        assert!(dts.contains("pci@800000020000000 {"));
        assert!(dts.contains("ibm,pe-total-#msi"));
        assert!(dts.contains("ibm,dma-window"));
        assert!(dts.contains("ibm,req#msi-x = <0x2>;"));
        let intx = format!(
            "<0x0 0x0 0x0 0x1 0x1111 {:#x} 0x1 0x800 0x0 0x0 0x1 0x1111 {:#x} 0x1>",
            xics::intx_source(0),
            xics::intx_source(1)
        );
        assert!(dts.contains(&intx), "{intx} in\n{dts}");
        let bar = &slots[1].bars[0];
        let assigned = format!(
            "<0x{:x} 0x{:x} 0x{:x} 0x0 0x{:x}",
            0x8300_0820u32,
            bar.address >> 32,
            bar.address as u32,
            bar.bar.size_bytes
        );
        assert!(dts.contains(&assigned), "{assigned} in\n{dts}");
    }

    #[test]
    fn the_length_does_not_depend_on_addresses() {
        let (first, _) = tree(Topology::new(2, 1).unwrap(), &[]);
        let layout = Layout { kernel: 0..1, initrd: Some(0..0), rtas: 0x10000..0x11000, fdt: 0..0x10 };
        let second = build_tree(&TreeInput {
            capabilities: &capabilities(),
            topology: Topology::new(2, 1).unwrap(),
            memory_bytes: 64 << 20,
            cmdline: "console=hvc0 quiet",
            layout: &layout,
            slots: &[],
            rng_seed: [0; 32],
        });
        assert_eq!(first.len(), second.len());
    }

    #[test]
    fn impossible_topologies_are_refused() {
        assert!(matches!(Topology::new(0, 1), Err(TreeError::Vcpus { .. })));
        assert!(matches!(Topology::new(10_000, 1), Err(TreeError::Vcpus { .. })));
        assert!(matches!(Topology::new(4, 3), Err(TreeError::Threads { .. })));
        assert!(matches!(Topology::new(4, 0), Err(TreeError::Threads { .. })));
        assert!(matches!(Topology::new(4, 16), Err(TreeError::Threads { .. })));
    }
}
