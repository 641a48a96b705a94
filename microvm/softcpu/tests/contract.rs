//! The software CPU keeps the backends' contract.

use std::sync::Arc;

use paperboat_hypervisor::{Presentation, contract};
use paperboat_softcpu::SoftVm;

#[test]
fn who_serves_which_hypercall() {
    let made = contract::check(Presentation::Machine, |config| Arc::new(SoftVm::new(config).unwrap()));
    made.unwrap_or_else(|breach| panic!("{breach}"));
}
