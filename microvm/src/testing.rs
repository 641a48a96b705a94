//! What unit tests share: a scripted backend, a PCI function that remembers, and a seeded generator.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use paperboat_hypervisor::{
    BackendError, Capabilities, EntryState, Exit, HypercallReply, InterruptMode, PageSizeEncoding, ResizableTable, ResizeError,
    SegmentPageSizes, Vcpu, VcpuHandle, VcpuRegs, VcpuStats, Vm,
};

use crate::papr::phb::{DmaPolicy, PciSlot, Phb};
use crate::papr::xics::Xics;
use crate::pci::{DmaWindow, Doorbells, InterruptLine, PciBar, PciFunction, PciIdentity};

/// A small generator (xorshift64*): the same sequence for the same seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// Values that find edges: small, near powers of two, addresses, anything.
    pub fn awkward(&mut self) -> u64 {
        match self.below(6) {
            0 => self.below(0x20),
            1 => (1u64 << self.below(64)).wrapping_add(self.below(3)).wrapping_sub(1),
            2 => self.below(1 << 26),
            3 => u64::MAX - self.below(0x20),
            4 => 0x1000 + self.below(0x700),
            _ => self.next(),
        }
    }
}

/// What the facts' POWER9 offers.
pub fn capabilities() -> Capabilities {
    let page = |page_shift, pte_encoding| PageSizeEncoding { page_shift, pte_encoding };
    let mut pa_features = vec![0; 66];
    pa_features[0] = 64;
    Capabilities {
        pvr: 0x004e_1202,
        cpu_version: 0x0f00_0005,
        timebase_hz: 512_000_000,
        slb_entries: 32,
        hpt_order: 22,
        hpt_resize: false,
        segment_page_sizes: vec![
            SegmentPageSizes { base_shift: 12, slb_encoding: 0, pages: vec![page(12, 0), page(16, 7), page(24, 0x38)] },
            SegmentPageSizes { base_shift: 16, slb_encoding: 0x110, pages: vec![page(16, 1), page(24, 8)] },
            SegmentPageSizes { base_shift: 24, slb_encoding: 0x100, pages: vec![page(24, 0)] },
        ],
        segments_1t: true,
        cpu_characteristics: (0, 0x01c0_0000_0000_0000),
        in_kernel_xics: false,
        pa_features,
    }
}

#[derive(Default)]
pub struct TestHandle {
    external: AtomicBool,
    kicked: Mutex<bool>,
    changed: Condvar,
}

impl TestHandle {
    pub fn external(&self) -> bool {
        self.external.load(Ordering::SeqCst)
    }

    fn take_kick(&self) -> bool {
        std::mem::take(&mut *self.kicked.lock().unwrap())
    }

    fn wait_kick(&self) {
        let mut kicked = self.kicked.lock().unwrap();
        while !*kicked {
            kicked = self.changed.wait(kicked).unwrap();
        }
        *kicked = false;
    }
}

impl VcpuHandle for TestHandle {
    fn set_external_interrupt(&self, asserted: bool) {
        self.external.store(asserted, Ordering::SeqCst);
    }

    fn kick(&self) {
        *self.kicked.lock().unwrap() = true;
        self.changed.notify_all();
    }

    fn stats(&self) -> VcpuStats {
        VcpuStats { instructions: Some(1000), ..VcpuStats::default() }
    }
}

#[derive(Default)]
pub struct CountingLine {
    edges: AtomicU32,
}

impl CountingLine {
    pub fn edges(&self) -> u32 {
        self.edges.load(Ordering::SeqCst)
    }
}

impl InterruptLine for CountingLine {
    fn trigger(&self) {
        self.edges.fetch_add(1, Ordering::SeqCst);
    }

    fn set_level(&self, _: bool) {}
}

/// What a scripted vCPU does next.
pub enum Step {
    /// Leaves with this exit.
    Exit(Exit),
    /// Executes for ever (until kicked).
    Spin,
}

/// The steps that are left of a vCPU's script.
pub type Script = Arc<Mutex<VecDeque<Step>>>;

/// A backend that follows a script: one list of steps per vCPU; a vCPU without steps executes for ever.
pub struct ScriptedVm {
    capabilities: Capabilities,
    pub log: Arc<ScriptLog>,
    mode: Mutex<(u8, bool)>,
    /// The page table, if its size can change.
    table: Option<Arc<ScriptedTable>>,
}

/// A page table that may become smaller, and what becomes of that.
pub struct ScriptedTable {
    pub order: Mutex<u32>,
    pub failures: Mutex<VecDeque<ResizeError>>,
}

impl ResizableTable for ScriptedTable {
    fn may_become(&self, order: u32) -> bool {
        order < *self.order.lock().unwrap()
    }

    fn resize(&self, order: u32) -> Result<(), ResizeError> {
        if let Some(failure) = self.failures.lock().unwrap().pop_front() {
            return Err(failure);
        }
        *self.order.lock().unwrap() = order;
        Ok(())
    }
}

/// What the machine did with a scripted backend.
#[derive(Default)]
pub struct ScriptLog {
    pub scripts: Mutex<Vec<Script>>,
    pub entries: Mutex<Vec<(u32, EntryState)>>,
    pub replies: Mutex<Vec<(u32, HypercallReply)>>,
    pub loads: Mutex<Vec<[u8; 8]>>,
    pub runs: AtomicU64,
}

impl ScriptedVm {
    pub fn new(scripts: Vec<Vec<Step>>) -> Self {
        let log = Arc::<ScriptLog>::default();
        *log.scripts.lock().unwrap() = scripts.into_iter().map(|steps| Arc::new(Mutex::new(steps.into()))).collect();
        Self { capabilities: capabilities(), log, mode: Mutex::new((0, false)), table: None }
    }

    /// One whose page table's size can change.
    pub fn with_table(self, table: &Arc<ScriptedTable>) -> Self {
        Self { table: Some(Arc::clone(table)), ..self }
    }
}

impl Vm for ScriptedVm {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn resizable_table(&self) -> Option<Arc<dyn ResizableTable>> {
        self.table.clone().map(|table| table as _)
    }

    fn create_vcpu(&self, id: u32) -> Result<Box<dyn Vcpu>, BackendError> {
        let script = self.log.scripts.lock().unwrap().get(id as usize).cloned().unwrap_or_default();
        let handle = Arc::new(TestHandle::default());
        Ok(Box::new(ScriptedVcpu { id, script, handle, log: Arc::clone(&self.log), regs: VcpuRegs::default() }))
    }

    fn set_interrupt_mode(&self, change: InterruptMode) -> Result<(), BackendError> {
        let mut mode = self.mode.lock().unwrap();
        mode.0 = change.ail.unwrap_or(mode.0);
        mode.1 = change.little_endian.unwrap_or(mode.1);
        Ok(())
    }

    fn interrupt_mode(&self) -> (u8, bool) {
        *self.mode.lock().unwrap()
    }
}

struct ScriptedVcpu {
    id: u32,
    script: Script,
    handle: Arc<TestHandle>,
    log: Arc<ScriptLog>,
    regs: VcpuRegs,
}

impl Vcpu for ScriptedVcpu {
    fn id(&self) -> u32 {
        self.id
    }

    fn enter(&mut self, entry: EntryState) {
        self.log.entries.lock().unwrap().push((self.id, entry));
        self.regs = VcpuRegs { pc: entry.pc, msr: entry.msr, ..VcpuRegs::default() };
    }

    fn run(&mut self) -> Result<Exit, BackendError> {
        self.log.runs.fetch_add(1, Ordering::SeqCst);
        if self.handle.take_kick() {
            return Ok(Exit::Kicked);
        }
        match self.script.lock().unwrap().pop_front() {
            Some(Step::Exit(exit)) => return Ok(exit),
            Some(Step::Spin) | None => {}
        }
        self.handle.wait_kick();
        Ok(Exit::Kicked)
    }

    fn complete_hypercall(&mut self, reply: HypercallReply) -> Result<(), BackendError> {
        self.log.replies.lock().unwrap().push((self.id, reply));
        Ok(())
    }

    fn complete_mmio_read(&mut self, data: [u8; 8]) -> Result<(), BackendError> {
        self.log.loads.lock().unwrap().push(data);
        Ok(())
    }

    fn regs(&self) -> VcpuRegs {
        self.regs.clone()
    }

    fn set_regs(&mut self, regs: &VcpuRegs) {
        self.regs = regs.clone();
        self.log.entries.lock().unwrap().push((self.id, EntryState { pc: regs.pc, msr: regs.msr, r3: regs.gpr[3], r4: 0 }));
    }

    fn handle(&self) -> Arc<dyn VcpuHandle> {
        self.handle.clone()
    }
}

type BarWrite = (u8, u64, Vec<u8>);

/// A PCI function that remembers what was done to it. BAR reads answer the low byte of each offset.
pub struct TestFunction {
    name: String,
    bar: AtomicU64,
    decoding: AtomicBool,
    bound: Mutex<[bool; 2]>,
    config: Mutex<Option<(u16, u8, u32)>>,
    written: Mutex<Option<BarWrite>>,
    pub shut_down: AtomicBool,
    /// Shutting it down waits for whoever holds this.
    pub held: Mutex<()>,
}

const BARS: &[PciBar] = &[PciBar { index: 4, size_bytes: 0x1_0000, is_64bit: true, prefetchable: false }];

impl TestFunction {
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            bar: AtomicU64::new(0),
            decoding: AtomicBool::new(false),
            bound: Mutex::default(),
            config: Mutex::default(),
            written: Mutex::default(),
            shut_down: AtomicBool::new(false),
            held: Mutex::default(),
        }
    }

    pub fn decode(&self, on: bool) {
        self.decoding.store(on, Ordering::SeqCst);
    }

    pub fn last_config_write(&self) -> Option<(u16, u8, u32)> {
        *self.config.lock().unwrap()
    }

    pub fn last_bar_write(&self) -> Option<BarWrite> {
        self.written.lock().unwrap().clone()
    }

    pub fn bound_vectors(&self) -> usize {
        self.bound.lock().unwrap().iter().filter(|bound| **bound).count()
    }
}

impl PciFunction for TestFunction {
    fn name(&self) -> &str {
        &self.name
    }

    fn identity(&self) -> PciIdentity {
        PciIdentity {
            vendor_id: 0x1af4,
            device_id: 0x1042,
            class_code: 0x01_0000,
            revision_id: 1,
            subsystem_vendor_id: 0x1af4,
            subsystem_id: 0x1100,
        }
    }

    fn bars(&self) -> &[PciBar] {
        BARS
    }

    fn msix_vectors(&self) -> u16 {
        2
    }

    fn config_read(&self, offset: u16, _: u8) -> u32 {
        if offset == 0 { 0x1042_1af4 } else { 0 }
    }

    fn config_write(&self, offset: u16, len: u8, value: u32) {
        *self.config.lock().unwrap() = Some((offset, len, value));
    }

    fn bar_address(&self, index: u8) -> Option<u64> {
        (index == 4 && self.decoding.load(Ordering::SeqCst)).then(|| self.bar.load(Ordering::SeqCst))
    }

    fn assign_bar(&self, _: u8, address: u64) {
        self.bar.store(address, Ordering::SeqCst);
    }

    fn bar_read(&self, _: u8, offset: u64, data: &mut [u8]) {
        for (index, byte) in data.iter_mut().enumerate() {
            *byte = offset as u8 + index as u8;
        }
    }

    fn bar_write(&self, index: u8, offset: u64, data: &[u8]) {
        *self.written.lock().unwrap() = Some((index, offset, data.to_vec()));
    }

    fn bind_msix(&self, vector: u16, line: Option<Arc<dyn InterruptLine>>) {
        self.bound.lock().unwrap()[usize::from(vector)] = line.is_some();
    }

    fn bind_intx(&self, _: Arc<dyn InterruptLine>) {}

    fn bind_dma(&self, _: Arc<dyn DmaWindow>) {}

    fn bind_doorbells(&self, _: Arc<dyn Doorbells>) {}

    fn shutdown(&self) {
        let _held = self.held.lock().unwrap();
        self.shut_down.store(true, Ordering::SeqCst);
    }

    fn statistics(&self) -> Vec<(&'static str, u64)> {
        vec![("requests", 3)]
    }
}

/// Slots with `count` test functions.
pub fn slots(count: usize) -> Vec<PciSlot> {
    let functions: Vec<Arc<dyn PciFunction>> =
        (0..count).map(|index| Arc::new(TestFunction::new(&format!("t{index}"))) as _).collect();
    Phb::new(functions, Arc::new(Xics::new(1)), &Arc::default(), DmaPolicy::Identity).unwrap().into_slots()
}
