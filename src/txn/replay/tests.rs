//! What a follower replays, what it holds, and what it drops.
#![forbid(unsafe_code)]

use super::super::told::Told;
use super::*;
use crate::types::{Epoch, ShardId, TableId, TxnId};
use crate::wire::{BatchBuilder, BatchKind};

const T: TableId = TableId(0);
const OURS: Stamp = Stamp { shard: ShardId(0), epoch: Epoch(1 << 16) };
const THEIRS: Stamp = Stamp { shard: ShardId(1), epoch: Epoch(1 << 16 | 1) };

/// A follower, what it knows, and what it has been given.
struct Follower {
    replay: Replay,
    store: Store,
    known: Told,
}

impl Follower {
    fn new() -> Follower {
        Follower { replay: Replay::default(), store: Store::new(OURS.shard, 1), known: Told::default() }
    }

    /// A chosen batch: of each entry its timestamp, the key it writes, and how far it needs `THEIRS`.
    fn chosen(&mut self, entries: &[(u64, &str, u64)]) {
        let mut builder = BatchBuilder::new();
        for (at, key, theirs) in entries {
            let mut deps = Deps::default();
            deps.add(OURS, Timestamp(*at)).unwrap();
            if *theirs > 0 {
                deps.add(THEIRS, Timestamp(*theirs)).unwrap();
            }
            let value = at.to_string();
            let writes = [(T, key.as_bytes(), Some(value.as_bytes()))];
            builder.push_entry(Timestamp(*at), TxnId::default(), &deps, &[], writes.into_iter());
        }
        let batch = builder.finish(OURS.epoch, Timestamp(99), BatchKind::Entries);
        self.replay.on_chosen(&batch, &mut self.store, &self.known);
    }

    fn watermark(&mut self, stamp: Stamp, upto: u64) {
        self.known.mark(stamp, upto);
        self.replay.on_watermark(stamp, Timestamp(upto), &mut self.store, &self.known);
    }

    fn value(&self, key: &str) -> Option<String> {
        let seen = self.store.read(T, key.as_bytes()).unwrap();
        seen.value.map(|value| String::from_utf8(value.to_vec()).unwrap())
    }

    fn values(&self, keys: [&str; 3]) -> [bool; 3] {
        keys.map(|key| self.value(key).is_some())
    }
}

/// DESIGN §8: were an entry to wait for those before it, a shard that is down would stop every follower
/// of every shard that ever met it.
#[test]
fn an_entry_passes_a_held_one_that_it_does_not_depend_on() {
    let mut follower = Follower::new();
    follower.known.mark(OURS, 50);
    follower.chosen(&[(10, "a", 10), (11, "b", 0), (12, "c", 12)]);
    assert_eq!(follower.values(["a", "b", "c"]), [false, true, false]);
    follower.watermark(THEIRS, 11);
    assert_eq!(follower.values(["a", "b", "c"]), [true, true, false]);
    assert_eq!(follower.replay.len(), 1);
    follower.watermark(THEIRS, 12);
    assert_eq!(follower.values(["a", "b", "c"]), [true, true, true]);
    assert!(follower.replay.is_empty());
}

/// The safety check: a snapshot read at a follower must not see what a failure may yet take back.
#[test]
fn an_entry_is_replayed_by_the_last_of_its_dependencies_and_not_before() {
    let mut follower = Follower::new();
    follower.chosen(&[(10, "a", 20)]);
    follower.watermark(OURS, 10);
    assert_eq!(follower.value("a"), None);
    follower.watermark(THEIRS, 19);
    assert_eq!(follower.value("a"), None);
    follower.watermark(Stamp { epoch: Epoch(9 << 16), ..THEIRS }, 30);
    assert_eq!(follower.value("a"), None, "a later reign says nothing of an earlier one");
    follower.known.closed(THEIRS, 20);
    follower.replay.sweep(&mut follower.store, &follower.known);
    assert_eq!(follower.value("a").as_deref(), Some("10"));
}

#[test]
fn what_is_lost_is_dropped_whether_it_was_held_or_comes_afterwards() {
    let mut follower = Follower::new();
    follower.known.mark(OURS, 50);
    follower.chosen(&[(10, "a", 10), (11, "b", 31)]);
    follower.known.closed(THEIRS, 30);
    follower.replay.sweep(&mut follower.store, &follower.known);
    follower.chosen(&[(12, "c", 32)]);
    assert_eq!(follower.values(["a", "b", "c"]), [true, false, false]);
    assert_eq!((follower.replay.dropped, follower.replay.len()), (2, 0));
}

/// Held entries come in any order; what is read afterwards must be the newest all the same.
#[test]
fn an_older_entry_replayed_late_does_not_cover_a_newer_one() {
    let mut follower = Follower::new();
    follower.known.mark(OURS, 50);
    follower.chosen(&[(10, "k", 10)]);
    follower.chosen(&[(11, "k", 0)]);
    assert_eq!(follower.value("k").as_deref(), Some("11"));
    follower.watermark(THEIRS, 10);
    assert_eq!(follower.value("k").as_deref(), Some("11"));
    let at = |timestamp| follower.store.read_at(T, b"k", Timestamp(timestamp)).unwrap();
    assert_eq!(at(10).unwrap().value.unwrap()[..], b"10"[..]);
}

/// A follower that becomes leader must not hand out a timestamp at or below one it holds.
#[test]
fn the_clock_stands_above_what_is_held_as_well() {
    let mut follower = Follower::new();
    follower.chosen(&[(77, "k", 80)]);
    assert_eq!((follower.replay.len(), follower.store.clock.last()), (1, Timestamp(77)));
}

/// Places of settled entries are taken again; one that were given out twice would lose an entry.
#[test]
fn many_entries_through_few_places_are_each_replayed_once() {
    let mut follower = Follower::new();
    follower.known.mark(OURS, 10_000);
    for round in 1..200_u64 {
        let keys: Vec<String> = (0..5).map(|n| format!("{round}/{n}")).collect();
        let entries: Vec<_> =
            keys.iter().zip(0..).map(|(key, n)| (round * 5 + n, key.as_str(), round * 5 + n)).collect();
        follower.chosen(&entries);
        follower.watermark(THEIRS, round * 5 - 3);
        assert!(follower.replay.len() <= 7);
    }
    follower.watermark(THEIRS, 10_000);
    assert!(follower.replay.is_empty());
    assert_eq!(follower.store.tables()[0].len(), 199 * 5);
}
