//! The software CPU keeps the backends' contract.

use std::sync::Arc;

use paperboat_hypervisor::contract;
use paperboat_softcpu::SoftVm;

#[test]
fn who_serves_which_hypercall() {
    contract::check(|config| Arc::new(SoftVm::new(config).unwrap())).unwrap_or_else(|breach| panic!("{breach}"));
}
