//! H_RESIZE_HPT_PREPARE and H_RESIZE_HPT_COMMIT: the guest gives back a part of its hashed page table (LoPAR, Page Frame Table Access).
//!
//! What is prepared is a note: the backend makes and fills the new table in one step, when the guest commits. So a guest holds no memory of the
//! host's besides the table that it uses, and preparing takes no time.

use std::sync::{Mutex, MutexGuard, PoisonError};

use paperboat_hypervisor::{ResizeError, TABLE_ORDERS};

use super::status::{H_AUTHORITY, H_CLOSED, H_HARDWARE, H_PARAMETER, H_PTEG_FULL, H_RESOURCE, H_SUCCESS};
use super::{Call, Outcome};

/// The size that a guest has prepared, log2 of bytes.
#[derive(Debug, Default)]
pub struct PreparedTable {
    order: Mutex<Option<u32>>,
}

impl PreparedTable {
    fn lock(&self) -> MutexGuard<'_, Option<u32>> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The order in a call's arguments; 0 names no table.
fn order(call: &Call<'_>) -> Option<u32> {
    let [flags, order, ..] = *call.args;
    let order = u32::try_from(order).ok().filter(|order| *order == 0 || TABLE_ORDERS.contains(order));
    order.filter(|_| flags == 0)
}

/// H_RESIZE_HPT_PREPARE(flags, order). Order 0 takes back what was prepared.
pub fn prepare(call: &Call<'_>) -> Outcome {
    let Some(table) = call.platform.vm.resizable_table() else { return H_AUTHORITY.into() };
    let Some(order) = order(call) else { return H_PARAMETER.into() };
    let mut prepared = call.platform.prepared_table.lock();
    *prepared = None;
    if order == 0 {
        return H_SUCCESS.into();
    }
    if !table.may_become(order) {
        return H_RESOURCE.into();
    }
    *prepared = Some(order);
    H_SUCCESS.into()
}

/// H_RESIZE_HPT_COMMIT(flags, order).
pub fn commit(call: &Call<'_>) -> Outcome {
    let Some(table) = call.platform.vm.resizable_table() else { return H_AUTHORITY.into() };
    let Some(order) = order(call) else { return H_PARAMETER.into() };
    // Held to the end: one commit at a time.
    let mut prepared = call.platform.prepared_table.lock();
    if order == 0 || *prepared != Some(order) {
        return H_CLOSED.into();
    }
    *prepared = None;
    match table.resize(order) {
        Ok(()) => H_SUCCESS.into(),
        Err(ResizeError::Order { .. } | ResizeError::NoMemory { .. }) => H_RESOURCE.into(),
        Err(ResizeError::Collision { .. }) => H_PTEG_FULL.into(),
        Err(error @ ResizeError::Backend(_)) => {
            log::error!("H_RESIZE_HPT_COMMIT: {error}");
            H_HARDWARE.into()
        }
    }
}
