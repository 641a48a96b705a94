//! The hashed page table becomes smaller while the guest runs (KVM_CAP_SPAPR_RESIZE_HPT; Documentation/virt/kvm/api.rst, 4.100 and 4.101).
//!
//! Two things in KVM decide how this is done, for a guest is hostile:
//!
//! - Growing, and keeping the size, is not offered. When KVM moves bolted entries to a table that is not smaller it takes two at one place for
//!   its own bug, and stops the host's kernel there; a guest can enter such a pair, with base pages of 16 MiB at places that are not theirs.
//!   Memory does not grow, so no guest needs a larger table than the one that it was given.
//! - A prepared table that is not used is lost to the host when the partition goes, and one that is being prepared then is written to
//!   afterwards. So both halves are one step here, inside one hypercall.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use paperboat_hypervisor::{BackendError, ResizableTable, ResizeError, TABLE_ORDERS};

use crate::vm::Partition;

/// How long KVM may take to find and clear the memory; a machine that is told to stop waits as long.
const PREPARE_LIMIT: Duration = Duration::from_millis(800);
/// How often it is asked; its own estimate is always 100 ms.
const PREPARE_LOOK: Duration = Duration::from_millis(2);

/// A partition's table.
pub struct Table {
    partition: Arc<Partition>,
    /// Log2 of its size in bytes.
    order: Mutex<u32>,
}

impl Table {
    pub fn new(partition: &Arc<Partition>, order: u32) -> Self {
        Self { partition: Arc::clone(partition), order: Mutex::new(order) }
    }

    fn prepare(&self, order: u32) -> Result<(), ResizeError> {
        let started = Instant::now();
        loop {
            match self.partition.fd.prepare_table(order) {
                Ok(..=0) => return Ok(()),
                Ok(_) if started.elapsed() < PREPARE_LIMIT => std::thread::sleep(PREPARE_LOOK),
                Ok(_) => {
                    // KVM drops it when it has it.
                    self.partition.fd.prepare_table(0).map_err(failed("KVM_PPC_RESIZE_HPT_PREPARE 0", order))?;
                    let call = format!("KVM_PPC_RESIZE_HPT_PREPARE {order}");
                    return Err(BackendError::Os { call, source: io::ErrorKind::TimedOut.into() }.into());
                }
                Err(errno) => return Err(failed("KVM_PPC_RESIZE_HPT_PREPARE", order)(errno)),
            }
        }
    }
}

impl ResizableTable for Table {
    fn may_become(&self, order: u32) -> bool {
        let current = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        TABLE_ORDERS.contains(&order) && order < *current
    }

    fn resize(&self, order: u32) -> Result<(), ResizeError> {
        let mut current = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        if !TABLE_ORDERS.contains(&order) || order >= *current {
            return Err(ResizeError::Order { order });
        }
        self.prepare(order)?;
        self.partition.fd.commit_table(order).map_err(failed("KVM_PPC_RESIZE_HPT_COMMIT", order))?;
        *current = order;
        Ok(())
    }
}

/// What KVM's refusal of a call means.
fn failed(call: &'static str, order: u32) -> impl FnOnce(Errno) -> ResizeError {
    move |errno| match errno {
        Errno::ENOMEM => ResizeError::NoMemory { order },
        Errno::ENOSPC => ResizeError::Collision { order },
        errno => BackendError::Os { call: format!("{call} {order}"), source: errno.into() }.into(),
    }
}
