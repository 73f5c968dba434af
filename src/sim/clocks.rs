//! The clocks of a simulated node: the wall's, which somebody may set at any time, and the monotonic one that its
//! process counts with.
//!
//! A process looks at the wall once, when it starts (`clock` of a real node); from there on it only counts. So a
//! wall that is set, forward or back and by however much, moves no timestamp and no lease of a running process;
//! the next process of the node starts from it, perhaps before the time its predecessor had reached.
//!
//! Invariants:
//!   1. The time of one process never falls.
//!   2. Two processes count apart by less than `CLOCK_DRIFT_PART` of any interval: leases rest on that.
#![forbid(unsafe_code)]

use crate::bounds::{CLOCK_DRIFT_PART, MAX_CLOCK_SKEW_NS, MS, SECOND};
use crate::types::{Prng, Timestamp};

#[derive(Clone, Debug)]
pub struct NodeClock {
    /// What the wall is off by.
    wall_ns: i64,
    /// What the time of the process was off by at `since`, and what it gains of a million since.
    offset_ns: i64,
    drift_ppm: i64,
    since: u64,
}

impl NodeClock {
    pub fn new(wall_ns: i64) -> NodeClock {
        NodeClock { wall_ns, offset_ns: wall_ns, drift_ppm: 0, since: 0 }
    }

    pub fn set_wall(&mut self, wall_ns: i64) {
        self.wall_ns = wall_ns;
    }

    /// A process starts. How far its time lies from where that of the one before would be.
    pub fn start(&mut self, now: u64) -> u64 {
        let before = self.offset(now);
        (self.offset_ns, self.since) = (self.wall_ns, now);
        before.abs_diff(self.wall_ns)
    }

    /// It counts faster or slower from now on, and rather towards the right time when it is far from it.
    pub fn drift(&mut self, now: u64, prng: &mut Prng) {
        let offset_ns = self.offset(now);
        let drift = prng.i64(-DRIFT_PPM_MAX..=DRIFT_PPM_MAX);
        let is_far = offset_ns.unsigned_abs() > CLOCK_OFF_NS_MAX / 2;
        let drift_ppm = if is_far { -offset_ns.signum() * drift.abs() } else { drift };
        (self.offset_ns, self.since, self.drift_ppm) = (offset_ns, now, drift_ppm);
    }

    /// It counts as time goes.
    pub fn heal(&mut self, now: u64) {
        (self.offset_ns, self.since, self.drift_ppm) = (self.offset(now), now, 0);
    }

    /// What the process takes the time to be.
    pub fn local_time(&self, now: u64) -> Timestamp {
        Timestamp((EPOCH_NS + now).saturating_add_signed(self.offset(now)))
    }

    /// Its peers refuse what it says, or it what they say: it is for an operator to put right.
    pub fn is_too_far_off(&self, now: u64) -> bool {
        self.offset(now).unsigned_abs() > CLOCK_OFF_NS_MAX
    }

    fn offset(&self, now: u64) -> i64 {
        let elapsed = i64::try_from(now - self.since).expect("no run lasts for centuries");
        self.offset_ns + elapsed / MILLION * self.drift_ppm + elapsed % MILLION * self.drift_ppm / MILLION
    }
}

/// Virtual time 0 on every clock that is right: far enough from 0 for clocks to be behind it.
pub const EPOCH_NS: u64 = 1_000 * SECOND;
const MILLION: i64 = 1_000_000;
/// One that gains this and one that loses it stay within `CLOCK_DRIFT_PART` of each other.
const DRIFT_PPM_MAX: i64 = MILLION / (2 * CLOCK_DRIFT_PART as i64);
/// Two clocks this far off, one each way, and a frame between them still understand each other.
pub const CLOCK_OFF_NS_MAX: u64 = MAX_CLOCK_SKEW_NS / 2 - 50 * MS;

#[cfg(test)]
mod tests {
    use super::*;

    /// A lease is held against time, and so is every promise of the watermark.
    #[test]
    fn the_time_of_a_process_never_falls_whatever_happens_to_the_wall() {
        for seed in 0..50 {
            let mut prng = Prng::with_seed(seed);
            let (mut clock, mut now) = (NodeClock::new(-3), 0);
            let mut last = clock.local_time(now);
            for _ in 0..500 {
                let step = [1, 1_000, SECOND][prng.usize(..3)];
                now += prng.u64(..=step);
                match prng.u32(..8) {
                    0 => clock.set_wall(prng.i64(-(SECOND as i64)..=SECOND as i64)),
                    1 => clock.drift(now, &mut prng),
                    _ => {}
                }
                let time = clock.local_time(now);
                assert!(time >= last, "seed {seed}: {time:?} after {last:?}");
                last = time;
            }
        }
    }

    /// The bound that leases rest on: a world that breaks it finds faults that are none.
    #[test]
    fn two_clocks_drift_apart_by_less_than_leases_allow() {
        for seed in 0..50 {
            let mut prng = Prng::with_seed(seed);
            let mut clocks = [NodeClock::new(0), NodeClock::new(0)];
            for interval in [MS, 37 * MS, SECOND] {
                clocks.iter_mut().for_each(|clock| clock.drift(0, &mut prng));
                let [a, b] =
                    clocks.each_ref().map(|clock| clock.local_time(interval).since(clock.local_time(0)));
                assert!(a.abs_diff(b) < a.min(b) / CLOCK_DRIFT_PART, "seed {seed}: {a} and {b}");
            }
        }
    }

    #[test]
    fn a_wall_that_is_set_is_seen_by_the_next_process_only() {
        let mut clock = NodeClock::new(0);
        clock.set_wall(-7);
        assert_eq!(clock.local_time(10), Timestamp(EPOCH_NS + 10));
        assert_eq!(clock.start(10), 7);
        assert_eq!(clock.local_time(10), Timestamp(EPOCH_NS + 3));
    }
}
