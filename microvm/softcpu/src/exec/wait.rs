//! Finding out that a guest waits in a loop, so that its host thread can step back for the vCPU that is waited for.
//!
//! Linux says so with a priority hint in some loops (`cpu_relax`), but not in those that wait for another CPU's answer
//! (`smp_cond_load_acquire`). Those show by their registers: a loop that comes by the same place with the same
//! registers, thousands of instructions later, will go on until somebody else writes to memory or interrupts it.

use std::time::Duration;

use crate::state::State;

/// States remembered: a loop of several blocks is seen in another one of them each time.
const REMEMBERED: usize = 4;
/// Steps that only yield. Enough on a quiet host; on a loaded one a yield gives nothing away, so a wait that goes on sleeps.
const YIELDS: u32 = 8;
/// First sleep of a wait; each is twice the one before, up to [`MOST_DOUBLINGS`]: what a waiter may be late is under 400 µs.
const SHORTEST_SLEEP: Duration = Duration::from_micros(10);
const MOST_DOUBLINGS: u32 = 5;

/// How to step back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The guest works.
    None,
    /// Let the host run another thread.
    Yield,
    /// Sleep, unless something comes for this vCPU.
    Sleep(Duration),
}

/// The vCPU's waiting, looked at from time to time.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    seen: [u64; REMEMBERED],
    next: usize,
    steps: u32,
}

impl Waiting {
    /// Judges the state at a check. `hinted` if the guest itself said that it waits.
    pub(super) fn judge(&mut self, st: &State, hinted: bool) -> Step {
        let now = fingerprint(st);
        let again = self.seen.contains(&now);
        self.seen[self.next] = now;
        self.next = (self.next + 1) % REMEMBERED;
        if !again && !hinted {
            self.steps = 0;
            return Step::None;
        }
        let step = match self.steps.checked_sub(YIELDS) {
            None => Step::Yield,
            Some(turn) => Step::Sleep(SHORTEST_SLEEP * (1 << turn.min(MOST_DOUBLINGS))),
        };
        self.steps = self.steps.saturating_add(1);
        step
    }
}

/// The registers of a waiting loop in one number; vector registers play no part in one.
fn fingerprint(st: &State) -> u64 {
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    let rest = [st.pc, u64::from(st.cr), st.lr, st.ctr];
    st.gpr.iter().chain(&rest).fold(0, |sum: u64, value| (sum.rotate_left(5) ^ value).wrapping_mul(SPREAD))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_changes_nothing_waits() {
        let mut waiting = Waiting::default();
        let mut st = State::default();
        let mut steps = Vec::new();
        // Seen in either of its two blocks.
        for turn in 0..YIELDS + 6 {
            st.pc = 0x1000 + u64::from(turn % 2) * 8;
            steps.push(waiting.judge(&st, false));
        }
        assert_eq!(steps[..2], [Step::None, Step::None]);
        assert_eq!(steps[2..10], [Step::Yield; YIELDS as usize]);
        assert_eq!(steps[10..12], [Step::Sleep(SHORTEST_SLEEP), Step::Sleep(SHORTEST_SLEEP * 2)]);
    }

    #[test]
    fn work_ends_the_wait() {
        let mut waiting = Waiting::default();
        let mut st = State::default();
        for _ in 0..20 {
            waiting.judge(&st, false);
        }
        st.gpr[7] = 1;
        assert_eq!(waiting.judge(&st, false), Step::None);
        assert_eq!(waiting.judge(&st, true), Step::Yield);
        for turn in 0..50 {
            st.gpr[7] = turn + 2;
            assert_eq!(waiting.judge(&st, false), Step::None, "a counting loop works");
        }
    }
}
