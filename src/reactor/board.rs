//! The watermark board: how far every stream and every shard has got, for all cores of a node to see.
//!
//! An array of cache-line padded atomics. It computes nothing: whoever owns a partition publishes its
//! mark, whoever hears of a shard's watermark merges it, whoever waits for a timestamp wants it.
//!
//! Invariants, of each cell:
//!   1. One writer at a time: the core that owns the partition, or the holder of the shard's flag.
//!   2. A read returns what one publication wrote: never an epoch with another's timestamp.
//!   3. Watermarks only grow, and so do the reads of one thread.
//!   4. A reader never waits for a writer, not even for one that was stopped half-way.
#![forbid(unsafe_code)]

use std::hint;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::thread;

use crossbeam_utils::CachePadded;

use crate::types::{Ballot, Epoch, PartitionId, ShardId, Timestamp, Watermark};

pub struct Board {
    partitions: Box<[CachePadded<Cell>]>,
    shards: Box<[CachePadded<Shard>]>,
}

impl Board {
    /// A board for the partitions and shards of the whole cluster, all at "nothing yet".
    pub fn new(partitions: usize, shards: usize) -> Board {
        Board {
            partitions: (0..partitions).map(|_| CachePadded::default()).collect(),
            shards: (0..shards).map(|_| CachePadded::default()).collect(),
        }
    }

    /// Of a partition hosted here, by the core that owns it: how far its stream is replicated and on
    /// disk, and how far it has proposed.
    pub fn publish_partition(&self, id: PartitionId, mark: Watermark, proposed: Timestamp) {
        let cell = &self.partitions[usize::from(id.0)];
        let (last, _) = cell.read();
        assert!(mark >= last, "the mark of {id:?} went from {last:?} back to {mark:?}");
        cell.publish(mark, proposed);
    }

    /// The lesser of replicated and on disk.
    pub fn partition(&self, id: PartitionId) -> Watermark {
        self.partitions[usize::from(id.0)].read().0
    }

    /// The highest timestamp the partition has proposed an entry for.
    pub fn proposed(&self, id: PartitionId) -> Timestamp {
        self.partitions[usize::from(id.0)].read().1
    }

    /// Keeps the greater of what is known and `heard`; any core may call it. Whether it was news.
    pub fn merge_shard(&self, id: ShardId, heard: Watermark) -> bool {
        let shard = &self.shards[usize::from(id.0)];
        // Most of what is heard is known: that takes no flag.
        if heard <= shard.best.read().0 {
            return false;
        }
        shard.seize();
        let news = heard > shard.best.read().0;
        if news {
            shard.best.publish(heard, Timestamp(0));
        }
        shard.merging.store(false, Ordering::Release);
        news
    }

    /// The best known watermark of a shard.
    pub fn shard(&self, id: ShardId) -> Watermark {
        self.shards[usize::from(id.0)].best.read().0
    }

    /// Something here waits for the shard's watermark to reach `timestamp`.
    pub fn want(&self, id: ShardId, timestamp: Timestamp) {
        self.shards[usize::from(id.0)].wanted.fetch_max(timestamp.0, Ordering::AcqRel);
    }

    /// The highest timestamp anybody waits for.
    pub fn wanted(&self, id: ShardId) -> Timestamp {
        Timestamp(self.shards[usize::from(id.0)].wanted.load(Ordering::Acquire))
    }

    /// By the shard's chair alone: until when this node, if it leads the shard, knows that nobody else does.
    pub fn publish_lease(&self, id: ShardId, until: Timestamp) {
        let lease = &self.shards[usize::from(id.0)].lease;
        // Every turn asks; a line that does not change stays shared.
        if lease.load(Ordering::Relaxed) != until.0 {
            lease.store(until.0, Ordering::Release);
        }
    }

    /// By the shard's chair alone: whom it has heard to lead. For onlookers.
    pub fn publish_leader(&self, id: ShardId, leader: Option<Ballot>) {
        let (cell, bits) = (&self.shards[usize::from(id.0)].leader, leader.map_or(0, Ballot::pack));
        if cell.load(Ordering::Relaxed) != bits {
            cell.store(bits, Ordering::Release);
        }
    }

    /// `None` where no replica is, or it has not heard of a leader lately.
    pub fn leader(&self, id: ShardId) -> Option<Ballot> {
        let bits = self.shards[usize::from(id.0)].leader.load(Ordering::Acquire);
        Ballot::unpack(bits).filter(|ballot| ballot.round > 0)
    }

    pub fn lease(&self, id: ShardId) -> Timestamp {
        Timestamp(self.shards[usize::from(id.0)].lease.load(Ordering::Acquire))
    }
}

#[derive(Default)]
struct Shard {
    best: Cell,
    /// Somebody is in the midst of a merge.
    merging: AtomicBool,
    wanted: AtomicU64,
    lease: AtomicU64,
    leader: AtomicU64,
}

impl Shard {
    /// Waits for other mergers: a few stores each, unless the kernel has stopped one in between.
    fn seize(&self) {
        let mut tries = 0_u32;
        while self.merging.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            tries += 1;
            if tries.is_multiple_of(SPINS) { thread::yield_now() } else { hint::spin_loop() }
        }
    }
}

/// A watermark and a timestamp that are read together.
///
/// Two sides, written in turn: `version` says which of them is whole. A reader takes that one and
/// then looks whether `version` is still the same. A writer changes the other side, then `version`;
/// so a reader can be disturbed only by a second publication, which it would see in `version`.
#[derive(Default)]
struct Cell {
    version: AtomicU64,
    sides: [Side; 2],
}

#[derive(Default)]
struct Side {
    epoch: AtomicU64,
    timestamp: AtomicU64,
    proposed: AtomicU64,
}

impl Cell {
    fn read(&self) -> (Watermark, Timestamp) {
        self.read_disturbed(|| {})
    }

    /// `disturb` runs in the midst of every try: where a test lets a writer in.
    fn read_disturbed(&self, mut disturb: impl FnMut()) -> (Watermark, Timestamp) {
        loop {
            let version = self.version.load(Ordering::Acquire);
            let side = &self.sides[usize::from(version % 2 == 1)];
            let epoch = Epoch(side.epoch.load(Ordering::Relaxed));
            disturb();
            let timestamp = Timestamp(side.timestamp.load(Ordering::Relaxed));
            let proposed = Timestamp(side.proposed.load(Ordering::Relaxed));
            // With the fence in `publish`: had one of the loads seen the next contents of this side, this
            // would see the version that came before them.
            fence(Ordering::Acquire);
            if self.version.load(Ordering::Relaxed) == version {
                return (Watermark { epoch, timestamp }, proposed);
            }
        }
    }

    /// One writer at a time (invariant 1).
    fn publish(&self, mark: Watermark, proposed: Timestamp) {
        let version = self.version.load(Ordering::Relaxed) + 1;
        // The version of the publication before this one comes before these stores, for whoever sees them.
        fence(Ordering::Release);
        let side = &self.sides[usize::from(version % 2 == 1)];
        side.epoch.store(mark.epoch.0, Ordering::Relaxed);
        side.timestamp.store(mark.timestamp.0, Ordering::Relaxed);
        side.proposed.store(proposed.0, Ordering::Relaxed);
        self.version.store(version, Ordering::Release);
    }
}

/// Tries for a shard's flag before the core is offered to whoever holds it.
const SPINS: u32 = 64;

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    fn mark(epoch: u64, timestamp: u64) -> Watermark {
        Watermark { epoch: Epoch(epoch), timestamp: Timestamp(timestamp) }
    }

    /// Publications from which a torn read can be told: the timestamp says which epoch it belongs to,
    /// and falls when the epoch rises, as at a change of leader.
    fn publication(n: u64) -> (Watermark, Timestamp) {
        let (epoch, step) = (1 + n / 7, n % 7);
        (mark(epoch, epoch * 1_000_000_007 % 1_000_003 * 10 + step), Timestamp(epoch << 8 | step))
    }

    /// A timestamp read with the epoch before it would release transactions that were rolled back.
    #[test]
    fn a_reader_sees_whole_publications_in_order_while_one_writes() {
        const COUNT: u64 = 1_000_000;
        let board = Board::new(2, 1);
        let id = PartitionId(1);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut last = Watermark::default();
                    while last != publication(COUNT - 1).0 {
                        let (seen, proposed) = board.partitions[1].read();
                        assert!(seen >= last, "{last:?} then {seen:?}");
                        last = seen;
                        let Watermark { epoch: Epoch(epoch), timestamp: Timestamp(timestamp) } = seen;
                        if epoch > 0 {
                            let step = timestamp % 10;
                            assert_eq!((seen, proposed), publication((epoch - 1) * 7 + step));
                        }
                    }
                });
            }
            for n in 0..COUNT {
                let (mark, proposed) = publication(n);
                board.publish_partition(id, mark, proposed);
            }
        });
        assert_eq!(board.partition(PartitionId(0)), Watermark::default());
        assert_eq!(board.proposed(id), publication(COUNT - 1).1);
    }

    /// The same without luck: publications arrive between the two halves of a read. One leaves the side
    /// being read alone, two do not.
    #[test]
    fn a_read_disturbed_between_epoch_and_timestamp_is_still_whole() {
        for disturbances in 0..6 {
            let cell = Cell::default();
            let mut next = 0;
            let mut publish = |count: u64| {
                for _ in 0..count {
                    // Each in an epoch of its own, so that no two may be mixed.
                    let (mark, proposed) = publication(next * 7);
                    cell.publish(mark, proposed);
                    next += 1;
                }
                next
            };
            publish(3);
            let mut left = disturbances;
            let read = cell.read_disturbed(|| {
                publish(left);
                left = 0;
            });
            let whole = (0..publish(0)).any(|n| read == publication(n * 7));
            assert!(whole, "{disturbances} publications gave {read:?}");
            assert!(read >= publication(2 * 7));
        }
    }

    /// Two cores that hear different news must not undo each other's.
    #[test]
    fn merging_from_many_cores_keeps_the_greatest_and_never_goes_back() {
        const COUNT: u64 = 50_000;
        let board = Board::new(1, 3);
        let id = ShardId(2);
        let news = AtomicUsize::new(0);
        thread::scope(|scope| {
            for lane in 0..3 {
                let (board, news) = (&board, &news);
                scope.spawn(move || {
                    let mut last = Watermark::default();
                    for n in (lane..COUNT).step_by(3) {
                        let (heard, _) = publication(n);
                        let was_news = board.merge_shard(id, heard);
                        news.fetch_add(usize::from(was_news), Ordering::Relaxed);
                        let seen = board.shard(id);
                        assert!(seen >= last && seen >= heard, "{last:?}, {heard:?} then {seen:?}");
                        assert_eq!(
                            seen.timestamp.0 / 10,
                            publication((seen.epoch.0 - 1) * 7).0.timestamp.0 / 10
                        );
                        last = seen;
                    }
                });
            }
        });
        assert_eq!(board.shard(id), publication(COUNT - 1).0);
        assert!((1..=COUNT as usize).contains(&news.into_inner()));
        assert_eq!(board.shard(ShardId(0)), Watermark::default());
    }

    /// An exchange repeats what everybody knows: that must not look like progress.
    #[test]
    fn only_what_is_greater_is_news() {
        let board = Board::new(1, 1);
        let id = ShardId(0);
        assert!(board.merge_shard(id, mark(1, 50)));
        assert!(!board.merge_shard(id, mark(1, 50)));
        assert!(!board.merge_shard(id, mark(1, 49)));
        assert!(
            board.merge_shard(id, mark(2, 10)),
            "a later epoch is above every timestamp of an earlier one"
        );
        assert!(!board.merge_shard(id, mark(1, 99)));
        assert_eq!(board.shard(id), mark(2, 10));
    }

    /// The leader proposes a no-op for the highest timestamp waited for; a lesser wish must not hide it.
    #[test]
    fn the_greatest_wish_stands() {
        let board = Board::new(1, 2);
        board.want(ShardId(1), Timestamp(7));
        board.want(ShardId(1), Timestamp(3));
        assert_eq!((board.wanted(ShardId(0)), board.wanted(ShardId(1))), (Timestamp(0), Timestamp(7)));
    }

    /// A mark that falls would take back what others have already released transactions on.
    #[test]
    #[should_panic(expected = "back to")]
    fn a_mark_that_goes_back_stops_the_core() {
        let board = Board::new(1, 1);
        board.publish_partition(PartitionId(0), mark(2, 5), Timestamp(5));
        board.publish_partition(PartitionId(0), mark(1, 9), Timestamp(9));
    }
}
