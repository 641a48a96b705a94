//! Giving up a machine that is still being made: taking huge pages and reading kernels takes seconds, and whoever stops it waits for one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Asks for an end of what is under way. Clones ask the same.
#[derive(Debug, Clone, Default)]
pub struct GiveUp {
    asked: Arc<AtomicBool>,
}

impl GiveUp {
    /// Asks. There is no way back.
    pub fn ask(&self) {
        self.asked.store(true, Ordering::SeqCst);
    }

    /// True once somebody has asked.
    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }
}
