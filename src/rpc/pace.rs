//! How fast a session may send: congestion control by delay, and by loss where buffers are too short for delays.
//!
//! A session sends as fast as it likes (the bypass) until a queue has stood on its way for some rounds or many frames
//! of a round were lost. From then on it sends at a rate. The first one is what came through in that round, so that
//! many who overrun one peer agree at once; from there on the rate follows the round trip as in Timely (Mittal et al.,
//! SIGCOMM 2015) with the weighted gradient that gives it one fixed point (Zhu et al., CoNEXT 2016). Without a queue it
//! grows until the session is back on the bypass. Rounds are judged by their least round trip: a core that was not
//! running for a while delays some frames of a round, and a queue delays all of them.
//!
//! None of this on a far way ([`FAR_NS`]): round trips differ there by more than a queue is to delay frames, and frames
//! that others overtake are given up too early, so that a rate which follows either falls for ever. Nor where cores sleep
//! or share their CPUs: there a round trip tells of schedulers, and a peer that was not running would be taken for a full
//! link. The window alone answers losses then.
//!
//! Frames may leave in small bursts ([`PACE_BURST_NS`]), so that a core need not wake for each. When a session waits
//! for its turn is the affair of the core's timers. How many frames may be unacknowledged is the window's.
//!
//! Invariants:
//!   1. `rate` is 0 (the bypass) or within `RATE_BYTES_MIN` and `RATE_BYTES_MAX`.
//!   2. A session that does not fill its window to [`DEMAND_FRAMES`], or whose way is far, is never taken off the bypass.
#![forbid(unsafe_code)]

use crate::bounds::{
    FRAME_BYTES, PACE_BURST_NS, QUEUE_NS_HIGH, QUEUE_NS_LOW, RATE_BYTES_MAX, RATE_BYTES_MIN, ROUND_NS_MIN,
    SECOND,
};
use crate::types::Timestamp;

pub struct Pace {
    /// Bytes a second; 0 on the bypass.
    rate: u64,
    /// When all frames sent will have left at `rate`.
    spent_until: Timestamp,
    /// Something is to be sent and must wait for `spent_until`.
    is_held: bool,
    /// The least round trip of the spell that began at `spell_since`, and of the one before; `u64::MAX` before the first.
    least_ns: [u64; 2],
    spell_since: Timestamp,
    round: Round,
    /// Frames that were settled since losses were last judged, and how many of them were lost: a round may have too few to tell.
    settled_frames: u64,
    lost_frames: u64,
    /// The queue of the round before.
    queue_ns: u64,
    /// Rounds in a row that had a queue, on the bypass; that were at the least rate and had one too long, off it.
    queued_rounds: u32,
    /// Nothing but a timeout has slowed it.
    timed_out: bool,
    /// Else it stays on the bypass.
    pub is_on: bool,
}

/// About one round trip.
#[derive(Default)]
struct Round {
    since: Timestamp,
    /// `None` before its first sample.
    rtt_ns: Option<u64>,
    acked_bytes: u64,
    /// The session had as much under way as a queue takes to build up.
    is_demanding: bool,
}

/// What the end of a round has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    Slowed,
    Freed,
}

impl Pace {
    pub fn new(is_on: bool) -> Pace {
        Pace {
            rate: 0,
            spent_until: Timestamp(0),
            is_held: false,
            least_ns: [u64::MAX; 2],
            spell_since: Timestamp(0),
            round: Round::default(),
            settled_frames: 0,
            lost_frames: 0,
            queue_ns: 0,
            queued_rounds: 0,
            timed_out: false,
            is_on,
        }
    }

    pub fn may_send(&self, now: Timestamp) -> bool {
        self.rate == 0 || self.spent_until <= now.plus_ns(PACE_BURST_NS)
    }

    /// Something was to be sent, and may not yet.
    pub fn hold(&mut self) {
        self.is_held = true;
        self.round.is_demanding = true;
    }

    pub fn is_held(&self) -> bool {
        self.is_held
    }

    pub fn on_tick(&mut self, now: Timestamp) {
        self.is_held &= now < self.spent_until;
    }

    /// When what is held may leave: a whole burst of it, or a core would wake for each frame.
    pub fn deadline(&self) -> Option<Timestamp> {
        self.is_held.then_some(self.spent_until)
    }

    pub fn on_sent(&mut self, now: Timestamp, bytes: u64) {
        if let Some(ns) = (bytes * SECOND).checked_div(self.rate) {
            self.spent_until = self.spent_until.max(now).plus_ns(ns);
        }
    }

    /// `outstanding` frames were unacknowledged before.
    pub fn on_acked(&mut self, frames: u64, bytes: u64, outstanding: usize) {
        self.settled_frames += frames;
        self.round.acked_bytes += bytes;
        self.round.is_demanding |= outstanding >= DEMAND_FRAMES;
    }

    /// The round trip of a frame, without the time its acknowledgement was held back.
    pub fn on_sample(&mut self, now: Timestamp, rtt_ns: u64) {
        self.round.rtt_ns = Some(self.round.rtt_ns.map_or(rtt_ns, |least_ns| least_ns.min(rtt_ns)));
        // What is paced sees its own queue: the least it has seen would come to be that.
        if self.rate == 0 && now.since(self.spell_since) >= SPELL_NS {
            self.spell_since = now;
            self.least_ns = [u64::MAX, self.least_ns[0]];
        }
        self.least_ns[0] = self.least_ns[0].min(rtt_ns);
    }

    pub fn on_lost(&mut self, frames: u64) {
        self.settled_frames += frames;
        self.lost_frames += frames;
    }

    /// Nothing came back for a whole timeout, of so much.
    pub fn on_timeout(&mut self, now: Timestamp, frames: usize, bytes: u64, rto_ns: u64) -> Option<Change> {
        let is_slowed = self.is_on && self.rate == 0 && frames >= DEMAND_FRAMES && !self.is_far();
        self.timed_out |= is_slowed;
        let used = bytes * SECOND / rto_ns;
        // Of a session that has little to say a timeout says little: the last of a few frames was lost.
        if is_slowed || (self.rate > 0 && used >= self.rate / 2) {
            self.set_rate(if self.rate == 0 { used } else { self.rate } / 2);
        }
        self.round = Round { since: now, ..Round::default() };
        (self.settled_frames, self.lost_frames) = (0, 0);
        is_slowed.then_some(Change::Slowed)
    }

    /// The frames that the timeout gave up have arrived after all: the peer was not running. Whether that frees the session.
    pub fn on_late(&mut self) -> bool {
        self.timed_out && self.free().is_some()
    }

    /// Ends the round if it is over.
    pub fn end_round(&mut self, now: Timestamp, smoothed_ns: u64) -> Option<Change> {
        let length_ns = now.since(self.round.since);
        let rtt_ns = self.round.rtt_ns.filter(|_| length_ns >= smoothed_ns.max(ROUND_NS_MIN))?;
        self.judge_round(now, rtt_ns, length_ns, smoothed_ns)
    }

    /// Apart, so that what happens with every acknowledgement is short.
    #[inline(never)]
    fn judge_round(
        &mut self,
        now: Timestamp,
        rtt_ns: u64,
        length_ns: u64,
        smoothed_ns: u64,
    ) -> Option<Change> {
        let round = std::mem::replace(&mut self.round, Round { since: now, ..Round::default() });
        // After a pause everything may be different.
        if self.is_far() || length_ns >= smoothed_ns + STALE_NS {
            return self.free();
        }
        let arrived = (u128::from(round.acked_bytes) * u128::from(SECOND) / u128::from(length_ns)) as u64;
        let queue_ns = rtt_ns.saturating_sub(self.least_ns());
        let was_paced = self.rate > 0;
        if self.judge_losses() && (was_paced || round.is_demanding) {
            let rate = match (was_paced, round.is_demanding) {
                (true, true) => self.rate.min(arrived),
                (true, false) => self.rate,
                (false, _) => arrived,
            };
            self.set_rate(rate / 4 * 3);
            self.timed_out = false;
        } else if was_paced {
            let most = if round.is_demanding { arrived / 4 * 5 } else { RATE_BYTES_MAX };
            self.adjust(rtt_ns, queue_ns, most);
        } else {
            let is_queued = queue_ns > QUEUE_NS_LOW && round.is_demanding;
            self.queued_rounds = if is_queued { self.queued_rounds + 1 } else { 0 };
            if self.queued_rounds >= QUEUED_ROUNDS {
                self.set_rate(arrived);
            }
        }
        self.queue_ns = queue_ns;
        match (was_paced, self.rate > 0) {
            (false, true) => Some(Change::Slowed),
            (true, false) => Some(Change::Freed),
            _ => None,
        }
    }

    /// Bytes a second; `None` on the bypass.
    pub fn rate(&self) -> Option<u64> {
        (self.rate > 0).then_some(self.rate)
    }

    /// Timely, Algorithm 1, with the weight of the gradient of Zhu et al. in place of its two cases; and never far from
    /// what came through.
    fn adjust(&mut self, rtt_ns: u64, queue_ns: u64, most: u64) {
        let step = GROWTH_FRAMES * FRAME_BYTES as u64 * SECOND / rtt_ns.max(ROUND_NS_MIN);
        if queue_ns < QUEUE_NS_LOW {
            // Also beyond what came through: in a round of a few frames that is an accident, and a queue or losses will tell.
            return self.set_rate(self.rate + self.rate / CALM_GROWTH_PART + step);
        }
        if queue_ns > QUEUE_NS_HIGH {
            self.doubt_least(rtt_ns);
            let rate = self.rate.min(most / 5 * 4);
            let cut = part_of(rate, queue_ns - QUEUE_NS_HIGH, queue_ns);
            return self.set_rate(rate - part_of(cut, BETA.0, BETA.1));
        }
        // Below the reference the rate grows by the error, above it shrinks: the more, the faster the queue grows.
        let rise = GRADIENT_WEIGHT * (signed(queue_ns) - signed(self.queue_ns));
        let weight = (signed(BAND_NS) / 2 + rise).clamp(0, signed(BAND_NS)).unsigned_abs();
        let off = part_of(
            part_of(self.rate, queue_ns.abs_diff(QUEUE_NS_REFERENCE), QUEUE_NS_REFERENCE),
            weight,
            BAND_NS,
        );
        let off = part_of(off, BETA.0, BETA.1);
        let grown = self.rate.min(most) + part_of(step, BAND_NS - weight, BAND_NS);
        self.set_rate(if queue_ns < QUEUE_NS_REFERENCE { grown + off } else { grown.saturating_sub(off) });
    }

    fn least_ns(&self) -> u64 {
        self.least_ns[0].min(self.least_ns[1])
    }

    /// Also before the first sample: it is not known to be near.
    fn is_far(&self) -> bool {
        self.least_ns() > FAR_NS
    }

    /// Whether so many were lost of late that it was no accident.
    fn judge_losses(&mut self) -> bool {
        if self.settled_frames < JUDGED_FRAMES {
            return false;
        }
        let (settled, lost) =
            (std::mem::take(&mut self.settled_frames), std::mem::take(&mut self.lost_frames));
        lost * LOST_PART >= settled
    }

    /// A queue that stays though next to nothing is sent may be none: the way has become longer.
    fn doubt_least(&mut self, rtt_ns: u64) {
        self.queued_rounds = if self.rate == RATE_BYTES_MIN { self.queued_rounds + 1 } else { 0 };
        if self.queued_rounds >= DOUBTFUL_ROUNDS {
            self.queued_rounds = 0;
            self.least_ns = [rtt_ns, u64::MAX];
        }
    }

    fn set_rate(&mut self, rate: u64) {
        if !self.is_on {
            return;
        }
        if rate > RATE_BYTES_MAX {
            self.free();
            return;
        }
        self.rate = rate.max(RATE_BYTES_MIN);
    }

    fn free(&mut self) -> Option<Change> {
        let was_paced = std::mem::take(&mut self.rate) > 0;
        self.spent_until = Timestamp(0);
        self.is_held = false;
        self.timed_out = false;
        self.queued_rounds = 0;
        was_paced.then_some(Change::Freed)
    }
}

fn part_of(whole: u64, numerator: u64, denominator: u64) -> u64 {
    (u128::from(whole) * u128::from(numerator) / u128::from(denominator)) as u64
}

fn signed(ns: u64) -> i64 {
    i64::try_from(ns).unwrap_or(i64::MAX / 8)
}

/// Frames unacknowledged that a queue may be made of. Who has fewer does not make it.
pub const DEMAND_FRAMES: usize = 32;
/// A way whose least round trip is longer is far.
const FAR_NS: u64 = QUEUE_NS_HIGH;
/// The least round trip is the least of so long, and up to twice that.
const SPELL_NS: u64 = 10 * SECOND;
/// What was learned is forgotten in a round that was longer than its round trip by this.
const STALE_NS: u64 = SECOND;
/// Rounds with a queue before a session is slowed: one that was not running for a while queues in two.
const QUEUED_ROUNDS: u32 = 3;
/// Rounds at the least rate after which a queue is taken for a longer way.
const DOUBTFUL_ROUNDS: u32 = 8;
/// Frames a second more in each second, per round trip, as in Vegas: who is far away grows more slowly.
const GROWTH_FRAMES: u64 = 2;
/// Without a queue the rate doubles in six rounds.
const CALM_GROWTH_PART: u64 = 8;
/// How much of the error one round corrects: Timely's.
const BETA: (u64, u64) = (1, 2);
const QUEUE_NS_REFERENCE: u64 = (QUEUE_NS_LOW + QUEUE_NS_HIGH) / 2;
const BAND_NS: u64 = QUEUE_NS_HIGH - QUEUE_NS_LOW;
/// A quarter of the band in one round is a gradient of one.
const GRADIENT_WEIGHT: i64 = 2;
/// Losses are judged of so many frames, and are no accident from a tenth of them on.
const JUDGED_FRAMES: u64 = 32;
const LOST_PART: u64 = 10;

const _: () = assert!(RATE_BYTES_MIN < RATE_BYTES_MAX && RATE_BYTES_MAX < u64::MAX / SECOND);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bounds::MS;

    struct Bench {
        pace: Pace,
        now: Timestamp,
    }

    impl Bench {
        fn new() -> Bench {
            let mut bench = Bench { pace: Pace::new(true), now: Timestamp(SECOND) };
            bench.round(MS, 1, 1, 0);
            bench
        }

        /// A round with that round trip, in which so many frames arrived, were unacknowledged and were lost.
        fn round(&mut self, rtt_ns: u64, frames: u64, outstanding: usize, lost: u64) -> Option<Change> {
            self.now = self.now.plus_ns(rtt_ns.max(ROUND_NS_MIN));
            self.pace.on_sample(self.now, rtt_ns);
            self.pace.on_lost(lost);
            self.pace.on_acked(frames, 1_000 * frames, outstanding);
            self.pace.end_round(self.now, rtt_ns)
        }

        fn slowed(frames: u64) -> Bench {
            let mut bench = Bench::new();
            let changes: Vec<_> = (0..3).map(|_| bench.round(20 * MS, frames, 64, 0)).collect();
            assert_eq!(changes, [None, None, Some(Change::Slowed)]);
            bench
        }
    }

    /// Invariant 2, and what a core that was not running for a while looks like from afar.
    #[test]
    fn neither_a_pause_nor_a_session_with_little_to_say_is_slowed() {
        let mut bench = Bench::new();
        for _ in 0..100 {
            assert_eq!(bench.round(20 * MS, 10, DEMAND_FRAMES - 1, 5), None);
        }
        let mut bench = Bench::new();
        for _ in 0..100 {
            assert_eq!(bench.round(MS, 10, 64, 0), None);
            assert_eq!(bench.round(20 * MS, 10, 64, 0), None);
            assert_eq!(bench.round(20 * MS, 10, 64, 0), None);
        }
        assert_eq!((bench.pace.rate(), bench.pace.may_send(bench.now)), (None, true));
    }

    #[test]
    fn the_first_rate_is_what_came_through() {
        // 100 frames of 1,000 bytes in 20 ms.
        assert_eq!(Bench::slowed(100).pace.rate(), Some(5_000_000));
        assert_eq!(Bench::slowed(1).pace.rate(), Some(RATE_BYTES_MIN));
        let mut bench = Bench::new();
        assert_eq!(bench.round(MS, 80, 100, 20), Some(Change::Slowed));
        assert_eq!(bench.pace.rate(), Some(80_000_000 / 4 * 3));
    }

    /// One frame in twenty is what a bad line loses, whatever is sent.
    #[test]
    fn few_losses_slow_nobody() {
        let mut bench = Bench::new();
        assert!((0..100).all(|_| bench.round(MS, 95, 100, 5).is_none()));
        // Of too few frames it cannot be said.
        let mut bench = Bench::new();
        assert_eq!(bench.round(MS, 3, 100, 3), None);
    }

    #[test]
    fn what_is_held_leaves_as_a_burst_and_no_faster_than_the_rate() {
        let mut bench = Bench::slowed(100);
        let (begun, mut sent, mut wakes) = (bench.now, 0, 0);
        while bench.now < begun.plus_ns(100 * MS) {
            while bench.pace.may_send(bench.now) {
                bench.pace.on_sent(bench.now, 1_000);
                sent += 1;
            }
            bench.pace.hold();
            let due = bench.pace.deadline().expect("something is held");
            assert!(due > bench.now);
            bench.now = due;
            bench.pace.on_tick(due);
            assert!(!bench.pace.is_held());
            wakes += 1;
        }
        // 5,000 in a second, and the first burst.
        assert!((500..=505).contains(&sent), "{sent}");
        assert!(wakes <= 200, "{wakes}");
    }

    /// A way that has become longer must not look like a queue for ever.
    #[test]
    fn a_longer_way_is_found_out() {
        let mut bench = Bench::slowed(100);
        let mut rounds = 0;
        // As much arrives as is sent.
        while let Some(rate) = bench.pace.rate().filter(|rate| *rate < 100_000_000) {
            bench.round(50 * MS, rate / 20 / 1_000, 64, 0);
            rounds += 1;
            assert!(rounds < 1_000, "still at {rate}");
        }
    }

    /// Frames of a far way that overtake each other are no queue and not lost: a session that was slowed for them would
    /// stay slow.
    #[test]
    fn a_far_way_slows_nobody() {
        let mut pace = Pace::new(true);
        let (mut now, mut prng) = (Timestamp(SECOND), crate::types::Prng::with_seed(1));
        for _ in 0..2_000 {
            let rtt_ns = prng.u64(50 * MS..=140 * MS);
            now = now.plus_ns(rtt_ns);
            pace.on_sample(now, rtt_ns);
            pace.on_lost(20);
            pace.on_acked(80, 80_000, 64);
            assert_eq!(pace.end_round(now, rtt_ns), None);
            assert_eq!(pace.on_timeout(now, 64, 64_000, 2 * rtt_ns), None);
        }
        assert_eq!(pace.rate(), None);
    }

    /// A session with little to say is judged by what it may send, not by what it happened to.
    #[test]
    fn a_slowed_session_with_little_to_say_is_not_slowed_to_that() {
        // One frame in a round of which many were lost before.
        let mut bench = Bench::slowed(100);
        bench.pace.on_lost(JUDGED_FRAMES);
        bench.round(MS, 1, 1, 0);
        assert_eq!(bench.pace.rate(), Some(5_000_000 / 4 * 3));
        // One frame alone, and nothing came back.
        let mut bench = Bench::slowed(100);
        assert_eq!(bench.pace.on_timeout(bench.now, 1, 1_000, 50 * MS), None);
        assert_eq!(bench.pace.rate(), Some(5_000_000));
        bench.pace.on_timeout(bench.now, 200, 200_000, 50 * MS);
        assert_eq!(bench.pace.rate(), Some(2_500_000));
    }

    /// Rounds of a slow session have a frame or two: which of them an acknowledgement falls into is chance.
    #[test]
    fn without_a_queue_a_rate_grows_whatever_came_through_in_a_round() {
        let mut bench = Bench::slowed(100);
        for _ in 0..20 {
            let before = bench.pace.rate();
            bench.round(MS, 1, 64, 0);
            assert!(bench.pace.rate() > before, "{before:?}, then {:?}", bench.pace.rate());
        }
    }

    #[test]
    fn after_a_pause_nothing_of_it_counts() {
        let mut bench = Bench::slowed(100);
        bench.now = bench.now.plus_ns(2 * STALE_NS);
        assert_eq!(bench.round(MS, 1, 1, 0), Some(Change::Freed));
    }
}
