//! A function's interrupts: the MSI-X table and its pending bits (PCI 3.0 §6.8.2), and INTx with the ISR byte as fallback
//! (virtio 1.2 §4.1.4.5).
//!
//! On PAPR the operating system never programs message addresses: ibm,change-msi binds a vector to an interrupt source, and
//! the guest reads the table back. Only mask bits and the enable bits come from it.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use super::lock;
use super::queue::Counters;
use crate::pci::InterruptLine;

/// "No vector" in a virtio vector register (virtio 1.2 §4.1.5.1.2).
pub(super) const NO_VECTOR: u16 = 0xffff;

/// Bytes of one MSI-X table entry: message address, message data, vector control.
pub(super) const TABLE_ENTRY_BYTES: usize = 16;

/// Offset of the vector control word in a table entry.
const VECTOR_CONTROL: usize = 12;

/// ISR bit 0: a queue was used.
const ISR_QUEUE: u8 = 1;
/// ISR bit 1: the device configuration changed.
const ISR_CONFIG: u8 = 2;

#[derive(Default)]
struct Vector {
    line: Option<Arc<dyn InterruptLine>>,
    /// Message address low and high, message data: firmware's to set on PAPR, kept so that they read back.
    message: [u32; 3],
    masked: bool,
    pending: bool,
}

struct State {
    msix_enabled: bool,
    function_masked: bool,
    vectors: Vec<Vector>,
    queue_vectors: Vec<u16>,
    config_vector: u16,
    isr: u8,
    intx: Option<Arc<dyn InterruptLine>>,
    intx_disabled: bool,
}

/// All interrupt state of one function.
pub(super) struct Interrupts {
    state: Mutex<State>,
}

impl Interrupts {
    /// For a function with `queues` queues and a table of `vectors` entries, all masked as after a reset.
    pub(super) fn new(queues: usize, vectors: u16) -> Self {
        let vectors = (0..vectors).map(|_| Vector { masked: true, ..Vector::default() }).collect();
        Self {
            state: Mutex::new(State {
                msix_enabled: false,
                function_masked: false,
                vectors,
                queue_vectors: vec![NO_VECTOR; queues],
                config_vector: NO_VECTOR,
                isr: 0,
                intx: None,
                intx_disabled: false,
            }),
        }
    }

    /// A device reset: vectors of queues and configuration are forgotten, MSI-X itself stays (virtio 1.2 §4.1.4.3.1).
    pub(super) fn reset(&self) {
        let mut state = lock(&self.state);
        state.queue_vectors.fill(NO_VECTOR);
        state.config_vector = NO_VECTOR;
        state.isr = 0;
        state.drive_intx();
    }

    pub(super) fn bind_msix(&self, vector: u16, line: Option<Arc<dyn InterruptLine>>) {
        let mut state = lock(&self.state);
        if let Some(entry) = state.vectors.get_mut(usize::from(vector)) {
            // A guest that reads the table back expects a message where one is bound. Nothing else looks at it.
            entry.message = if line.is_some() { [MESSAGE_ADDRESS, 0, u32::from(vector)] } else { [0; 3] };
            entry.line = line;
        }
    }

    pub(super) fn bind_intx(&self, line: Arc<dyn InterruptLine>) {
        let mut state = lock(&self.state);
        state.intx = Some(line);
        state.drive_intx();
    }

    /// The enable and function mask bits of the MSI-X capability were written.
    pub(super) fn set_msix(&self, enabled: bool, function_masked: bool) {
        let mut state = lock(&self.state);
        state.msix_enabled = enabled;
        state.function_masked = function_masked;
        state.drive_intx();
        let due = state.take_deliverable();
        drop(state);
        due.iter().for_each(|line| line.trigger());
    }

    /// The interrupt disable bit of the command register was written.
    pub(super) fn set_intx_disabled(&self, disabled: bool) {
        let mut state = lock(&self.state);
        state.intx_disabled = disabled;
        state.drive_intx();
    }

    /// Whether INTx would be asserted: the interrupt status bit of the status register.
    pub(super) fn intx_pending(&self) -> bool {
        let state = lock(&self.state);
        !state.msix_enabled && state.isr != 0
    }

    /// Stores a vector for queue `index`; one that the table does not have reads back as "no vector".
    pub(super) fn set_queue_vector(&self, index: u16, vector: u16) {
        let mut state = lock(&self.state);
        let vector = state.checked(vector);
        if let Some(entry) = state.queue_vectors.get_mut(usize::from(index)) {
            *entry = vector;
        }
    }

    pub(super) fn queue_vector(&self, index: u16) -> u16 {
        lock(&self.state).queue_vectors.get(usize::from(index)).copied().unwrap_or(NO_VECTOR)
    }

    pub(super) fn set_config_vector(&self, vector: u16) {
        let mut state = lock(&self.state);
        state.config_vector = state.checked(vector);
    }

    pub(super) fn config_vector(&self) -> u16 {
        lock(&self.state).config_vector
    }

    /// Reads and clears the ISR byte, which deasserts INTx.
    pub(super) fn read_isr(&self) -> u8 {
        let mut state = lock(&self.state);
        let isr = std::mem::take(&mut state.isr);
        state.drive_intx();
        isr
    }

    /// Queue `index` has used buffers that the driver wants to hear about.
    pub(super) fn queue_used(&self, index: u16, counters: &Counters) {
        let state = lock(&self.state);
        let vector = state.queue_vectors.get(usize::from(index)).copied().unwrap_or(NO_VECTOR);
        Self::raise(state, vector, ISR_QUEUE, &counters.interrupts);
    }

    /// The device configuration or status changed.
    pub(super) fn config_changed(&self, counters: &Counters) {
        let state = lock(&self.state);
        let vector = state.config_vector;
        Self::raise(state, vector, ISR_CONFIG, &counters.interrupts);
    }

    fn raise(mut state: std::sync::MutexGuard<'_, State>, vector: u16, isr: u8, counter: &AtomicU64) {
        if !state.msix_enabled {
            state.isr |= isr;
            state.drive_intx();
            Counters::count(counter);
            return;
        }
        let function_masked = state.function_masked;
        let Some(entry) = state.vectors.get_mut(usize::from(vector)) else { return };
        if entry.masked || function_masked {
            entry.pending = true;
            return;
        }
        let line = entry.line.clone();
        // The line takes the interrupt controller's locks: not under ours.
        drop(state);
        if let Some(line) = line {
            Counters::count(counter);
            line.trigger();
        }
    }

    /// Reads the MSI-X table as bytes, at `offset` within it.
    pub(super) fn read_table(&self, offset: usize, data: &mut [u8]) {
        let state = lock(&self.state);
        for (position, byte) in (offset..).zip(data.iter_mut()) {
            let Some(entry) = state.vectors.get(position / TABLE_ENTRY_BYTES) else { return };
            let within = position % TABLE_ENTRY_BYTES;
            let word = if within < VECTOR_CONTROL { entry.message[within / 4] } else { u32::from(entry.masked) };
            *byte = word.to_le_bytes()[within % 4];
        }
    }

    /// Writes one aligned dword or qword of the MSI-X table (PCI 3.0 §6.8.2: nothing else is defined).
    pub(super) fn write_table(&self, offset: usize, data: &[u8]) {
        if !matches!(data.len(), 4 | 8) || !offset.is_multiple_of(data.len()) {
            return;
        }
        let mut state = lock(&self.state);
        for (position, word) in (offset..).step_by(4).zip(data.chunks_exact(4)) {
            let word = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
            let Some(entry) = state.vectors.get_mut(position / TABLE_ENTRY_BYTES) else { return };
            let within = position % TABLE_ENTRY_BYTES;
            if within < VECTOR_CONTROL {
                entry.message[within / 4] = word;
            } else {
                entry.masked = word & 1 != 0;
            }
        }
        let due = state.take_deliverable();
        drop(state);
        due.iter().for_each(|line| line.trigger());
    }

    /// Reads the pending bit array as bytes, at `offset` within it.
    pub(super) fn read_pending(&self, offset: usize, data: &mut [u8]) {
        let state = lock(&self.state);
        for (position, byte) in (offset..).zip(data.iter_mut()) {
            let first = position.saturating_mul(8);
            for bit in 0..8 {
                let pending = state.vectors.get(first.saturating_add(bit)).is_some_and(|entry| entry.pending);
                *byte |= u8::from(pending) << bit;
            }
        }
    }
}

/// What the message address of a bound vector reads as. The bridge routes by vector; the value only must not be zero.
const MESSAGE_ADDRESS: u32 = 0xfee0_0000;

impl State {
    fn checked(&self, vector: u16) -> u16 {
        if usize::from(vector) < self.vectors.len() { vector } else { NO_VECTOR }
    }

    /// Lines of the vectors that became deliverable with their pending bit set; clears those bits.
    fn take_deliverable(&mut self) -> Vec<Arc<dyn InterruptLine>> {
        if !self.msix_enabled || self.function_masked {
            return Vec::new();
        }
        let due = self.vectors.iter_mut().filter(|entry| entry.pending && !entry.masked);
        due.filter_map(|entry| {
            entry.pending = false;
            entry.line.clone()
        })
        .collect()
    }

    fn drive_intx(&self) {
        if let Some(line) = &self.intx {
            line.set_level(self.isr != 0 && !self.msix_enabled && !self.intx_disabled);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testkit::RecordingLine;
    use super::*;

    fn table() -> (Interrupts, Arc<RecordingLine>, Counters) {
        let interrupts = Interrupts::new(2, 4);
        let line = Arc::new(RecordingLine::default());
        interrupts.bind_msix(1, Some(Arc::clone(&line) as Arc<dyn InterruptLine>));
        interrupts.set_queue_vector(0, 1);
        interrupts.set_msix(true, false);
        (interrupts, line, Counters::default())
    }

    fn set_mask(interrupts: &Interrupts, vector: usize, masked: u32) {
        interrupts.write_table(vector * TABLE_ENTRY_BYTES + VECTOR_CONTROL, &masked.to_le_bytes());
    }

    #[test]
    fn a_masked_vector_waits_in_the_pending_bits_until_unmasked() {
        let (interrupts, line, counters) = table();
        interrupts.queue_used(0, &counters);
        assert_eq!(line.edges(), 0);
        let mut pending = [0];
        interrupts.read_pending(0, &mut pending);
        assert_eq!(pending, [0b10]);
        set_mask(&interrupts, 1, 0);
        assert_eq!(line.edges(), 1);
        let mut pending = [0];
        interrupts.read_pending(0, &mut pending);
        assert_eq!(pending, [0]);
        interrupts.queue_used(0, &counters);
        assert_eq!(line.edges(), 2);
    }

    #[test]
    fn the_function_mask_holds_back_and_releases() {
        let (interrupts, line, counters) = table();
        set_mask(&interrupts, 1, 0);
        interrupts.set_msix(true, true);
        interrupts.queue_used(0, &counters);
        assert_eq!(line.edges(), 0);
        interrupts.set_msix(true, false);
        assert_eq!(line.edges(), 1);
    }

    #[test]
    fn vectors_outside_the_table_read_back_as_none() {
        let (interrupts, line, counters) = table();
        interrupts.set_queue_vector(0, 4);
        assert_eq!(interrupts.queue_vector(0), NO_VECTOR);
        interrupts.queue_used(0, &counters);
        interrupts.bind_msix(9, None);
        interrupts.set_queue_vector(700, 1);
        assert_eq!(interrupts.queue_vector(700), NO_VECTOR);
        assert_eq!(line.edges(), 0);
    }

    #[test]
    fn without_msix_the_isr_byte_drives_intx() {
        let interrupts = Interrupts::new(1, 2);
        let counters = Counters::default();
        let line = Arc::new(RecordingLine::default());
        interrupts.bind_intx(Arc::clone(&line) as Arc<dyn InterruptLine>);
        interrupts.queue_used(0, &counters);
        assert!(line.level());
        interrupts.set_intx_disabled(true);
        assert!(!line.level());
        interrupts.set_intx_disabled(false);
        assert!(line.level());
        assert_eq!(interrupts.read_isr(), ISR_QUEUE);
        assert!(!line.level());
        assert_eq!(interrupts.read_isr(), 0);
        interrupts.config_changed(&counters);
        assert_eq!(interrupts.read_isr(), ISR_CONFIG);
    }

    #[test]
    fn table_accesses_of_any_place_and_width_are_harmless() {
        let (interrupts, _, _) = table();
        for offset in [0, 1, 3, 7, 13, 60, 63, 64, 4096, usize::MAX - 16] {
            for width in [1, 2, 4, 8] {
                interrupts.write_table(offset, &vec![0xff; width]);
                interrupts.read_table(offset, &mut vec![0; width]);
                interrupts.read_pending(offset, &mut vec![0; width]);
            }
        }
        let mut data = [0; 4];
        interrupts.read_table(TABLE_ENTRY_BYTES + 8, &mut data);
        assert_eq!(u32::from_le_bytes(data), 1, "the message data of a bound vector reads back");
    }
}
