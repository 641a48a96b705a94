//! Linux's hold loop: where secondaries of a kernel that was entered without firmware wait for their release.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use paperboat_hypervisor::EntryState;
use vm_memory::{Bytes, GuestAddress};

use super::Inner;
use crate::boot::{MSR_ME, MSR_SF};

/// Physical address of Linux's `__secondary_hold`, entered with the hardware id in r3.
pub(super) const HOLD_ENTRY: u64 = 0x60;
/// How often the release is looked for while a kernel boots, and for how long; the kernel waits 100 ms for its secondaries.
const HOLD_LOOK: Duration = Duration::from_micros(500);
const HOLD_LOOK_FOR: Duration = Duration::from_secs(5);
/// After that, rarely: a kernel in a debugger, a machine that was paused.
const HOLD_LOOK_RARELY: Duration = Duration::from_millis(50);
const HOLD_GIVE_UP: Duration = Duration::from_secs(600);

/// Starts the secondaries of a Linux guest when its boot CPU opens the hold loop. They are not started at boot, where
/// they would spin; nor later by start-cpu, because the kernel waits for those that its tree lists.
pub(super) fn watch(inner: &Inner, address: u64) {
    let begun = Instant::now();
    loop {
        let released = inner.platform.ram.memory().read_obj::<u64>(GuestAddress(address));
        if !matches!(released, Ok(0)) {
            break;
        }
        let elapsed = begun.elapsed();
        if elapsed > HOLD_GIVE_UP || inner.platform.cpus.all_started() {
            return;
        }
        let pause = if elapsed < HOLD_LOOK_FOR { HOLD_LOOK } else { HOLD_LOOK_RARELY };
        let control = inner.lock();
        let control = inner.changed.wait_timeout(control, pause).unwrap_or_else(PoisonError::into_inner).0;
        if control.end.is_some() {
            return;
        }
    }
    for id in 1..inner.platform.cpus.count() {
        let entry = EntryState { pc: HOLD_ENTRY, msr: MSR_SF | MSR_ME, r3: id.into(), r4: 0 };
        // One that start-cpu was faster with is where it should be.
        let _ = inner.platform.cpus.start(id, entry);
    }
}
