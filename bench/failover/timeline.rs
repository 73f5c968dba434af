//! What became durable when and how late, and whose reigns began, by shard: counted by the cores as it happens, read when the run is over.
//!
//! Atomics only, and a lock that is taken after a pause. It knows nothing of kills; `failover` asks it about
//! the times around them.
//!
//! Invariant: all times are those of this process's one clock, so those of different cores compare.
#![forbid(unsafe_code)]

use mako::bounds::{MS, SECOND, US};
use mako::types::{NodeId, ShardId, Timestamp};
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

pub struct Timeline {
    start: Timestamp,
    shards: Vec<Line>,
}

/// Of one shard.
struct Line {
    /// By `BUCKET_NS` since the start.
    durable: Box<[AtomicU32]>,
    /// By the same: the longest that any of them took, in microseconds.
    slowest_us: Box<[AtomicU32]>,
    /// When the last transaction became durable, and on which node.
    latest: AtomicU64,
    leader: AtomicU32,
    /// Between two of them, if it was long.
    pauses: Mutex<Vec<Range<Timestamp>>>,
    /// When somebody began to lead it.
    reigns: Mutex<Vec<Timestamp>>,
}

impl Timeline {
    pub fn new(start: Timestamp, shards: usize) -> Timeline {
        let buckets = || (0..BUCKETS_MAX).map(|_| AtomicU32::new(0)).collect();
        let line = || Line {
            durable: buckets(),
            slowest_us: buckets(),
            latest: AtomicU64::new(start.0),
            leader: AtomicU32::new(NOBODY),
            pauses: Mutex::new(Vec::new()),
            reigns: Mutex::new(Vec::new()),
        };
        Timeline { start, shards: (0..shards).map(|_| line()).collect() }
    }

    pub fn on_durable(&self, shard: ShardId, node: NodeId, begun: Timestamp, now: Timestamp) {
        let line = &self.shards[usize::from(shard.0)];
        let bucket = self.bucket(now);
        if bucket < BUCKETS_MAX {
            line.durable[bucket].fetch_add(1, Ordering::Relaxed);
            let took_us = u32::try_from(now.since(begun) / US).unwrap_or(u32::MAX);
            line.slowest_us[bucket].fetch_max(took_us, Ordering::Relaxed);
        }
        line.leader.store(u32::from(node.0), Ordering::Relaxed);
        let before = Timestamp(line.latest.fetch_max(now.0, Ordering::Relaxed));
        if now.since(before) >= PAUSE_NS_MIN {
            let mut pauses = line.pauses.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            pauses.push(before..now);
        }
    }

    pub fn on_reign(&self, shard: ShardId, now: Timestamp) {
        let reigns = &self.shards[usize::from(shard.0)].reigns;
        reigns.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(now);
    }

    /// When somebody began to lead a shard.
    pub fn reigns(&self, shard: ShardId) -> Vec<Timestamp> {
        let reigns = &self.shards[usize::from(shard.0)].reigns;
        reigns.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// The longest that a transaction of these shards took, of those that became durable between two times.
    pub fn slowest_ns(&self, shards: &[ShardId], within: Range<Timestamp>) -> u64 {
        let buckets =
            self.bucket(within.start).min(BUCKETS_MAX)..(self.bucket(within.end) + 1).min(BUCKETS_MAX);
        let of = |shard: &ShardId| &self.shards[usize::from(shard.0)].slowest_us[buckets.clone()];
        let took_us = shards.iter().flat_map(of).map(|bucket| bucket.load(Ordering::Relaxed));
        u64::from(took_us.max().unwrap_or(0)) * US
    }

    /// Who made the last transaction durable; `None` while nobody has.
    pub fn leader(&self, shard: ShardId) -> Option<NodeId> {
        let leader = self.shards[usize::from(shard.0)].leader.load(Ordering::Relaxed);
        u16::try_from(leader).ok().map(NodeId)
    }

    pub fn shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..).map(ShardId).take(self.shards.len())
    }

    /// The longest time in which nothing became durable, of those that overlap this; at least `PAUSE_NS_MIN`.
    pub fn pause(&self, shard: ShardId, within: Range<Timestamp>) -> Option<Range<Timestamp>> {
        let line = &self.shards[usize::from(shard.0)];
        let pauses = line.pauses.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let overlap = pauses.iter().filter(|pause| pause.start < within.end && pause.end > within.start);
        overlap.max_by_key(|pause| pause.end.since(pause.start)).cloned()
    }

    /// Transactions per second in the whole buckets between two times, of these shards together.
    pub fn per_second(&self, shards: &[ShardId], within: Range<Timestamp>) -> f64 {
        let (from, to) =
            (self.bucket(within.start), self.bucket(within.end).max(self.bucket(within.start) + 1));
        let count: u64 = shards.iter().flat_map(|shard| self.counts(*shard, from..to)).map(u64::from).sum();
        count as f64 * SECOND as f64 / ((to - from) as u64 * BUCKET_NS) as f64
    }

    pub fn total(&self) -> u64 {
        self.shards().flat_map(|shard| self.counts(shard, 0..BUCKETS_MAX)).map(u64::from).sum()
    }

    /// By bucket.
    pub fn counts(&self, shard: ShardId, buckets: Range<usize>) -> impl Iterator<Item = u32> + '_ {
        let (from, to) = (buckets.start.min(BUCKETS_MAX), buckets.end.min(BUCKETS_MAX));
        let of = &self.shards[usize::from(shard.0)].durable[from..to.max(from)];
        of.iter().map(|bucket| bucket.load(Ordering::Relaxed))
    }

    pub fn bucket(&self, at: Timestamp) -> usize {
        usize::try_from(at.since(self.start) / BUCKET_NS).unwrap_or(usize::MAX)
    }

    /// A line of text per shard, each character `COLUMN_BUCKETS` buckets high as what became durable in them,
    /// with a mark under the moment that matters.
    pub fn plot(&self, within: Range<Timestamp>, mark: Timestamp) -> String {
        let buckets = self.bucket(within.start)..self.bucket(within.end);
        let columns: Vec<Vec<u32>> = self
            .shards()
            .map(|shard| {
                let counts: Vec<u32> = self.counts(shard, buckets.clone()).collect();
                counts.chunks(COLUMN_BUCKETS).map(|chunk| chunk.iter().sum()).collect()
            })
            .collect();
        let mut text = String::new();
        for (shard, columns) in self.shards().zip(&columns) {
            let most = columns.iter().copied().max().unwrap_or(0).max(1) as usize;
            let glyph = |count: &u32| GLYPHS[(*count as usize * (GLYPHS.len() - 1)).div_ceil(most)];
            let line: String = columns.iter().map(glyph).collect();
            text += &format!("  shard {:<3} {line}\n", shard.0);
        }
        let column = (self.bucket(mark) - buckets.start) / COLUMN_BUCKETS;
        text + &format!(
            "  {:width$}^ {} ms each\n",
            "",
            COLUMN_BUCKETS as u64 * BUCKET_NS / MS,
            width = 10 + column
        )
    }
}

pub const BUCKET_NS: u64 = 10 * MS;
/// A quarter of an hour.
pub const BUCKETS_MAX: usize = 90_000;
/// What a busy machine does to anybody is no pause.
const PAUSE_NS_MIN: u64 = 2 * MS;
const NOBODY: u32 = u32::MAX;
const COLUMN_BUCKETS: usize = 3;
const GLYPHS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Timestamp {
        Timestamp(5 * SECOND + ms * MS)
    }

    /// One transaction every millisecond on two shards; on the first none from 100 ms to 400 ms.
    fn timeline() -> Timeline {
        let timeline = Timeline::new(at(0), 2);
        for ms in 0..600 {
            if !(100..400).contains(&ms) {
                timeline.on_durable(ShardId(0), NodeId(if ms < 100 { 0 } else { 2 }), at(ms), at(ms));
            }
            let begun = if ms == 450 { at(80) } else { at(ms.saturating_sub(1)) };
            timeline.on_durable(ShardId(1), NodeId(1), begun, at(ms));
        }
        timeline
    }

    #[test]
    fn an_outage_lasts_from_the_last_reply_to_the_first() {
        let timeline = timeline();
        assert_eq!(timeline.pause(ShardId(0), at(120)..at(500)), Some(at(99)..at(400)));
        assert_eq!(timeline.pause(ShardId(0), at(450)..at(500)), None);
        assert_eq!(timeline.pause(ShardId(1), at(0)..at(600)), None);
        assert_eq!((timeline.leader(ShardId(0)), timeline.total()), (Some(NodeId(2)), 900));
    }

    #[test]
    fn throughput_counts_whole_buckets_of_the_shards_asked_for() {
        let timeline = timeline();
        assert_eq!(timeline.per_second(&[ShardId(1)], at(100)..at(400)), 1_000.0);
        assert_eq!(timeline.per_second(&[ShardId(0)], at(100)..at(400)), 0.0);
        assert_eq!(timeline.per_second(&[ShardId(0), ShardId(1)], at(0)..at(100)), 2_000.0);
    }

    /// Whoever waited for the failed shard becomes durable only after the outage, and counts by its own time.
    #[test]
    fn who_took_longest_is_found_by_the_time_of_its_end() {
        let timeline = timeline();
        assert_eq!(timeline.slowest_ns(&[ShardId(1)], at(100)..at(400)), MS);
        assert_eq!(timeline.slowest_ns(&[ShardId(0), ShardId(1)], at(100)..at(500)), 370 * MS);
        assert_eq!(timeline.slowest_ns(&[ShardId(0)], at(100)..at(500)), 0);
    }

    #[test]
    fn a_plot_shows_a_line_per_shard_and_the_mark_below() {
        let plot = timeline().plot(at(0)..at(600), at(105));
        let lines: Vec<&str> = plot.lines().collect();
        assert_eq!(lines[0], "  shard 0   ███▃         ▆██████");
        assert_eq!(lines[1], "  shard 1   ████████████████████");
        assert_eq!(lines[2], "               ^ 30 ms each");
    }

    /// A run longer than the line must not end in a panic of a core.
    #[test]
    fn what_is_beyond_the_end_is_not_counted() {
        let timeline = Timeline::new(at(0), 1);
        timeline.on_durable(ShardId(0), NodeId(0), at(0), at(0).plus_ns(BUCKETS_MAX as u64 * BUCKET_NS));
        assert_eq!(timeline.total(), 0);
        assert_eq!(timeline.slowest_ns(&[ShardId(0)], at(0)..Timestamp(u64::MAX)), 0);
    }
}
