//! A hashed page table whose size can change while the guest runs.

use std::ops::RangeInclusive;

use crate::BackendError;

/// Log2 of the sizes in bytes that a hashed page table can have at all (ISA 3.0B III 5.7.6.1, HTABSIZE).
pub const TABLE_ORDERS: RangeInclusive<u32> = 18..=46;

/// A backend's hashed page table, where its size can change (LoPAR, H_RESIZE_HPT_PREPARE and H_RESIZE_HPT_COMMIT).
pub trait ResizableTable: Send + Sync {
    /// Whether the table can be given 2^`order` bytes now.
    fn may_become(&self, order: u32) -> bool;

    /// Replaces the table by one of 2^`order` bytes that holds its bolted entries, each at the place that the new size gives it; the others are
    /// dropped, as the guest may expect of any. No vCPU executes the guest meanwhile.
    ///
    /// # Errors
    /// [`ResizeError`]; the guest then has its old table, with its bolted entries.
    fn resize(&self, order: u32) -> Result<(), ResizeError>;
}

/// Why a table kept its size.
#[derive(Debug, thiserror::Error)]
pub enum ResizeError {
    /// A size that the table cannot take.
    #[error("the hashed page table cannot become one of 2^{order} bytes")]
    Order {
        /// Log2 of the size in bytes.
        order: u32,
    },
    /// The host has no memory for it.
    #[error("the host has no memory left for a hashed page table of 2^{order} bytes")]
    NoMemory {
        /// Log2 of the size in bytes.
        order: u32,
    },
    /// Two bolted entries belong at one place.
    #[error("two bolted entries have one place in a hashed page table of 2^{order} bytes")]
    Collision {
        /// Log2 of the size in bytes.
        order: u32,
    },
    /// The backend failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
}
