//! The software CPU keeps the backends' contract.

use std::sync::Arc;

use paperboat_hypervisor::{Presentation, contract};
use paperboat_softcpu::SoftVm;

#[test]
fn who_serves_which_hypercall() {
    let made = contract::check(Presentation::Machine, |config| Arc::new(SoftVm::new(config).unwrap()));
    made.unwrap_or_else(|breach| panic!("{breach}"));
}

/// It has no use for a table of another size: its memory is the machine's own, taken as it is used.
#[test]
fn the_page_table_keeps_its_size() {
    let resizable = contract::check_resizing(|config| Arc::new(SoftVm::new(config).unwrap()));
    assert!(!resizable.unwrap_or_else(|breach| panic!("{breach}")));
}
