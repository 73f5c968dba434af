//! The hybrid logical clock of one partition (DESIGN §3).
//!
//! Invariants:
//!   1. `last` never falls, and every timestamp handed out is above all handed out before it.
//!   2. A promise once made is at or below `last`, so nothing handed out later is at or below it.
#![forbid(unsafe_code)]

use crate::bounds::{CLOCK_LEAD_NS, MAX_CLOCK_SKEW_NS};
use crate::types::Timestamp;

#[derive(Default)]
pub struct HybridClock {
    /// The highest timestamp given out, promised or observed.
    last: Timestamp,
}

impl HybridClock {
    /// A timestamp for one local transaction: `max(now, last + 1)`.
    #[inline]
    pub fn tick(&mut self, now: Timestamp) -> Timestamp {
        self.last = now.max(self.last.next());
        self.last
    }

    /// Where a transaction that will take `hold_ns` to decide should stand: above this clock, and
    /// about where physical time will be by then, so that the promise need not wait for it. Does not
    /// move the clock: transactions that do not meet it go on at the present. Physical time, not the
    /// clock, is what is added to: clocks that add to each other's lead would run away.
    pub fn propose(&self, now: Timestamp, hold_ns: u64) -> Timestamp {
        now.plus_ns(hold_ns).max(self.last.next())
    }

    /// Whether the clock is to follow something that stands at `seen`, or to leave it standing ahead.
    pub fn follows(&self, now: Timestamp, seen: Timestamp) -> bool {
        seen <= self.last.max(now.plus_ns(CLOCK_LEAD_NS))
    }

    /// Nothing handed out from now on is at or below `seen`.
    pub fn observe(&mut self, seen: Timestamp) {
        self.last = self.last.max(seen);
    }

    /// The clock now, which becomes the bound of everything later.
    pub fn read(&mut self, now: Timestamp) -> Timestamp {
        self.last = self.last.max(now);
        self.last
    }

    pub fn last(&self) -> Timestamp {
        self.last
    }
}

/// Whether a timestamp heard from elsewhere is too far ahead to be believed.
pub fn too_far_ahead(now: Timestamp, heard: Timestamp) -> bool {
    heard > now.plus_ns(MAX_CLOCK_SKEW_NS)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The heart of every watermark: were a timestamp handed out at or below a promise, a
    /// transaction would be called durable before its entry was written.
    #[test]
    fn no_timestamp_is_at_or_below_an_earlier_promise() {
        let mut clock = HybridClock::default();
        let mut floor = Timestamp(0);
        for now in [5, 5, 4, 90, 90, 2, 91, 91] {
            let promise = clock.read(Timestamp(now));
            assert!(promise >= floor);
            floor = promise;
            let given = clock.tick(Timestamp(now));
            assert!(given > floor);
            floor = given;
            assert!(clock.propose(Timestamp(now), 0) > floor);
            assert!(clock.propose(Timestamp(now), 50) >= Timestamp(now + 50));
        }
    }

    #[test]
    fn two_clocks_that_propose_to_each_other_do_not_run_away() {
        let (mut a, mut b) = (HybridClock::default(), HybridClock::default());
        for round in 0..1_000 {
            let now = Timestamp(round * 50);
            let decided = a.propose(now, 50).max(b.propose(now.plus_ns(25), 50));
            a.observe(decided);
            b.observe(decided);
            assert!(a.last().since(now) <= 100, "lead {} after {round} rounds", a.last().since(now));
        }
    }
}
