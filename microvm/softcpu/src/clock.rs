//! Guest time (ISA 3.0B II 6): the time base at 512 MHz, from the host's clock or from counted instructions.

use std::time::{Duration, Instant};

use paperboat_hypervisor::ClockMode;

/// Frequency of the time base, the one of POWER8 and POWER9.
pub const TIMEBASE_HZ: u64 = 512_000_000;
/// Ticks per instruction of a deterministic run: a machine of 512 million instructions per second.
const TICKS_PER_INSTRUCTION: u64 = 1;

/// The partition's clock.
#[derive(Debug)]
pub struct Clock {
    mode: ClockMode,
    start: Instant,
}

impl Clock {
    /// Starts at zero.
    pub fn new(mode: ClockMode) -> Self {
        Self { mode, start: Instant::now() }
    }

    /// True if time is counted instructions.
    pub fn is_deterministic(&self) -> bool {
        self.mode == ClockMode::Deterministic
    }

    /// The time base after `instructions`.
    pub fn timebase(&self, instructions: u64) -> u64 {
        match self.mode {
            ClockMode::Host => {
                // 512 ticks per microsecond: 64 per 125 nanoseconds.
                let elapsed = self.start.elapsed();
                elapsed.as_secs().wrapping_mul(TIMEBASE_HZ) + u64::from(elapsed.subsec_nanos()) * 64 / 125
            }
            ClockMode::Deterministic => instructions.wrapping_mul(TICKS_PER_INSTRUCTION),
        }
    }

    /// Instructions until `ticks` have passed, in a deterministic run.
    pub fn instructions_for(ticks: u64) -> u64 {
        ticks.div_ceil(TICKS_PER_INSTRUCTION)
    }

    /// Host time for `ticks`.
    pub fn duration_of(ticks: u64) -> Duration {
        Duration::from_nanos((u128::from(ticks) * 125 / 64).min(u128::from(u64::MAX)) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_and_time_agree() {
        assert_eq!(Clock::duration_of(TIMEBASE_HZ), Duration::from_secs(1));
        assert_eq!(Clock::new(ClockMode::Deterministic).timebase(1000), 1000);
    }
}
