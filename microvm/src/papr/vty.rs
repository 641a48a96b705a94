//! The partition's terminal (LoPAR, Virtual Terminal Support: H_PUT_TERM_CHAR, H_GET_TERM_CHAR, `hvterm1`).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::console::Console;
use crate::pci::InterruptLine;

/// Unit address of the terminal's node.
pub const UNIT_ADDRESS: u32 = 0x7100_0000;

/// Most bytes one terminal hypercall carries.
pub const CHARS_MAX: usize = 16;

/// Typed bytes that the guest has not fetched; more is dropped, as a real terminal line would.
const INPUT_MAX: usize = 4096;

/// The terminal: output goes to the machine's console, input waits for the guest.
pub struct Vty {
    console: Arc<Console>,
    input: Mutex<VecDeque<u8>>,
    line: Arc<dyn InterruptLine>,
}

impl Vty {
    /// A terminal that writes to `console` and raises `line` when input arrives.
    pub fn new(console: Arc<Console>, line: Arc<dyn InterruptLine>) -> Self {
        Self { console, input: Mutex::new(VecDeque::new()), line }
    }

    /// True for the terminal's number; 0 is the partition's first terminal.
    pub fn is_mine(&self, number: u64) -> bool {
        number == 0 || number == u64::from(UNIT_ADDRESS)
    }

    /// Writes the guest's bytes. False: the sink is full, the guest has to try again.
    pub fn put(&self, bytes: &[u8]) -> bool {
        self.console.write(bytes)
    }

    /// Up to [`CHARS_MAX`] typed bytes.
    pub fn take(&self) -> Vec<u8> {
        let mut input = self.lock();
        let count = input.len().min(CHARS_MAX);
        input.drain(..count).collect()
    }

    /// Gives typed bytes to the guest; returns how many fitted.
    pub fn type_in(&self, bytes: &[u8]) -> usize {
        let mut input = self.lock();
        let was_empty = input.is_empty();
        let count = bytes.len().min(INPUT_MAX.saturating_sub(input.len()));
        input.extend(&bytes[..count]);
        drop(input);
        // One edge when there is something again: the guest fetches until it is empty.
        if was_empty && count > 0 {
            self.line.trigger();
        }
        count
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<u8>> {
        self.input.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::CountingLine;

    #[test]
    fn input_is_bounded_fetched_in_order_and_announced_once() {
        let line = Arc::new(CountingLine::default());
        let vty = Vty::new(Arc::new(Console::in_memory()), line.clone());
        assert_eq!(vty.take(), b"");
        assert_eq!(vty.type_in(b"hello, this is more than sixteen"), 32);
        assert_eq!(vty.type_in(b"!"), 1);
        assert_eq!(line.edges(), 1);
        assert_eq!(vty.take(), b"hello, this is m");
        assert_eq!(vty.take(), b"ore than sixteen");
        assert_eq!(vty.take(), b"!");
        assert_eq!(vty.type_in(&[b'x'; INPUT_MAX + 5]), INPUT_MAX);
        assert_eq!(line.edges(), 2);
    }
}
