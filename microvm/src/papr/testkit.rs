//! A platform without a machine, for the tests of both tables.

use std::sync::Arc;

use paperboat_hypervisor::GuestRam;

use super::calendar::PartitionClock;
use super::phb::DmaPolicy;
use super::trace::Trace;
use super::{Platform, PlatformParts};
use crate::console::Console;
use crate::testing::{ScriptedVm, TestFunction};

/// One MiB of memory, two PCI functions.
pub fn platform(vcpus: u32) -> (Platform, Arc<Console>) {
    platform_of(ScriptedVm::new(Vec::new()), vcpus)
}

/// The same with a backend of the test's.
pub fn platform_of(vm: ScriptedVm, vcpus: u32) -> (Platform, Arc<Console>) {
    let console = Arc::new(Console::in_memory());
    let platform = Platform::new(PlatformParts {
        ram: GuestRam::new(1 << 20).unwrap(),
        vm: Arc::new(vm),
        vcpus,
        console: Arc::clone(&console),
        functions: vec![Arc::new(TestFunction::new("t0")), Arc::new(TestFunction::new("t1"))],
        dma: DmaPolicy::Identity,
        clock: PartitionClock::deterministic(),
        trace: Trace::default(),
    });
    (platform.unwrap(), console)
}
