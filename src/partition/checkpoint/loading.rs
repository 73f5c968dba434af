//! The state of a partition out of a checkpoint, from this replica's disk or from a peer: built aside, row by
//! row, and worth nothing before the last.
//!
//! Not here: whether the bytes are sound (`wal::checkpoint`), and who puts the state in its place (`replica`).
//!
//! Invariant: reads below the highest timestamp in it are refused, because a checkpoint holds one version of
//! each key, and not all tombstones.
#![forbid(unsafe_code)]

use super::delivered::Place;
use crate::bounds::{CHECKPOINT_EXTRA_BYTES_MAX, CLOSED_EPOCHS_MAX, TABLES_MAX};
use crate::config::Config;
use crate::txn::Store;
use crate::types::{Epoch, PartitionId, Slot, Stamp, TableId, Timestamp};
use crate::wal::LogIdentity;
use crate::wal::checkpoint::{CheckpointHeader, CheckpointRow};
use crate::watermark::{Knowledge, Runs};
use crate::wire::Malformed;
use crate::wire::cursor::{Reader, Writer};

/// A checkpoint that is being read.
pub struct Loading {
    header: CheckpointHeader,
    runs: Runs,
    store: Store,
    highest: Timestamp,
}

/// One that was read from end to end.
pub struct Loaded {
    pub header: CheckpointHeader,
    pub runs: Runs,
    pub store: Store,
}

impl Loading {
    /// `None`: it holds more than this program knows of.
    pub fn new(config: &Config, header: &CheckpointHeader) -> Option<Loading> {
        let runs = decode_extra(&header.extra).ok()?;
        let mut store = Store::new(config.shard_of(header.partition), config.tables.len());
        let reigns = runs.ends().iter().map(|(epoch, _)| *epoch).chain(runs.opened().iter().copied());
        store.epoch = reigns.fold(header.applied.epoch, Epoch::max);
        let promised = runs.ends().iter().map(|(_, promise)| *promise);
        let highest = promised.fold(header.applied.timestamp, Timestamp::max);
        Some(Loading { header: header.clone(), runs, store, highest })
    }

    /// A row of a table that is no longer configured is left out.
    pub fn on_row(&mut self, row: &CheckpointRow<'_>) {
        let CheckpointRow { table, key, timestamp, value } = *row;
        self.highest = self.highest.max(timestamp);
        if table == FLOOR {
            self.store.refuse_below(timestamp);
        } else if self.store.check_table(table).is_ok() {
            self.store.refuse_below(timestamp);
            self.store.replay(timestamp, [(table, key, value)].into_iter());
        }
    }

    /// Where the stream goes on.
    pub fn slot(&self) -> Slot {
        self.header.slot
    }

    /// The epochs it knows to be closed.
    pub fn closed(&self) -> &[(Stamp, Timestamp)] {
        &self.header.closed
    }

    /// The highest timestamp in it so far.
    pub fn highest(&self) -> Timestamp {
        self.highest
    }

    pub fn finish(self) -> Loaded {
        let Loading { header, runs, mut store, highest } = self;
        store.clock.observe(highest);
        Loaded { header, runs, store }
    }
}

/// The header of a checkpoint whose stream is replayed from `place` on. `None` while too much is open to be
/// written down: candidates that come and go leave runs behind until one of them opens its epoch.
pub(super) fn header(
    config: &Config,
    partition: PartitionId,
    place: &Place,
    known: &Knowledge,
    now: Timestamp,
) -> Option<CheckpointHeader> {
    let Place { slot, runs, applied } = place;
    let fits = runs.ends().len() <= EPOCHS_MAX && runs.opened().len() <= EPOCHS_MAX;
    fits.then(|| CheckpointHeader {
        cluster: cluster_of(config),
        partition,
        slot: *slot,
        applied: *applied,
        closed: known.closed().iter().collect(),
        extra: encode_extra(runs, now),
    })
}

pub(in crate::partition) fn cluster_of(config: &Config) -> u64 {
    LogIdentity::new(&config.name, Default::default(), Default::default()).cluster
}

/// The time tells one checkpoint from another of the same slot, whose rows may differ.
fn encode_extra(runs: &Runs, now: Timestamp) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut out = Writer::new(&mut bytes);
    out.put(&EXTRA_VERSION).put(&now).put(&runs.current().unwrap_or_default());
    out.list(runs.ends(), EPOCHS_MAX).list(runs.opened(), EPOCHS_MAX);
    bytes
}

fn decode_extra(extra: &[u8]) -> Result<Runs, Malformed> {
    let mut from = Reader::new(extra);
    if from.take::<u8>()? != EXTRA_VERSION {
        return Err(Malformed::WrongVersion);
    }
    let (_, current): (Timestamp, Epoch) = from.take()?;
    let (ends, opened) = (from.list(EPOCHS_MAX)?, from.list(EPOCHS_MAX)?);
    from.finish()?;
    Ok(Runs::restored(Some(current).filter(|current| *current != Epoch(0)), ends, opened))
}

/// The table of the last row, whose timestamp is the floor of the tables when they had been visited: what was
/// let go of below it before it could be visited is missed by no read.
pub(super) const FLOOR: TableId = TableId(u16::MAX);
/// A change of what `extra` holds raises the version of the whole format, so that older bytes are refused as
/// such: this one only tells ours from another's.
const EXTRA_VERSION: u8 = 1;
/// Runs, and epochs that may have opened, in one header.
const EPOCHS_MAX: usize = CLOSED_EPOCHS_MAX / 2;
const _: () = assert!(TABLES_MAX < FLOOR.0 as usize);
const _: () = assert!(EPOCHS_MAX * (16 + 8) + 32 <= CHECKPOINT_EXTRA_BYTES_MAX);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bounds::SNAPSHOT_KEEP_NS;
    use crate::config::Durability;
    use crate::partition::stage::{NOW, T, config};
    use crate::txn::Abort;
    use crate::types::{Ballot, ShardId, TxnId, Watermark};
    use crate::wire::{BatchBuilder, BatchKind, BatchView, Deps};

    /// Entries behind the slot that the checkpoint begins at are replayed, though it may hold them already,
    /// or a later version of their keys.
    #[test]
    fn replaying_what_a_checkpoint_holds_changes_nothing() {
        let config = config(1, 1, Durability::Memory);
        let (runs, applied) = (Runs::default(), Watermark::default());
        let place = Place { slot: Slot(3), runs, applied };
        let header = header(&config, PartitionId(0), &place, &Knowledge::new(1), NOW).unwrap();
        let mut loading = Loading::new(&config, &header).unwrap();
        for (key, at, value) in [(b"a", 20, Some(&b"2"[..])), (b"b", 30, None), (b"c", 10, Some(b"1"))] {
            loading.on_row(&CheckpointRow { table: T, key, timestamp: Timestamp(at), value });
        }
        loading.on_row(&CheckpointRow { table: FLOOR, key: b"", timestamp: Timestamp(25), value: None });
        let mut store = loading.finish().store;
        assert!(store.clock.last() >= Timestamp(30));
        let read = |store: &Store, key: &[u8], at: u64| {
            store.read_at(T, key, Timestamp(at)).map(|found| found.and_then(|found| found.value))
        };
        let all = |store: &Store| [b"a", b"b", b"c"].map(|key| read(store, key, 30).unwrap());
        let before = all(&store);
        for (key, at) in [(b"a", 15), (b"a", 20), (b"b", 30), (b"b", 28), (b"c", 5)] {
            store.replay(Timestamp(at), [(T, &key[..], Some(&b"again"[..]))].into_iter());
        }
        assert_eq!(all(&store), before);
        assert_eq!(before.map(|value| value.is_some()), [true, false, true]);
        // What was superseded below is not there: no answer is better than a wrong one.
        assert_eq!(read(&store, b"a", 29), Err(Abort::SnapshotTooOld { floor: Timestamp(30) }));
        store.replay(Timestamp(40), [(T, &b"a"[..], None)].into_iter());
        assert_eq!(read(&store, b"a", 40), Ok(None));
        assert!(read(&store, b"a", 39).unwrap().is_some());
    }

    /// What was open when the checkpoint was taken stands below the highest row of it, and may yet be lost.
    /// Were the tables pruned up to that row, what it had replaced would be gone.
    #[test]
    fn what_is_replayed_and_lost_gives_way_to_what_the_checkpoint_holds() {
        let config = config(1, 1, Durability::Memory);
        let (runs, applied) = (Runs::default(), Watermark::default());
        let place = Place { slot: Slot(3), runs, applied };
        let mut known = Knowledge::new(1);
        let header = header(&config, PartitionId(0), &place, &known, NOW).unwrap();
        let mut loading = Loading::new(&config, &header).unwrap();
        for (key, at) in [(b"a", 20), (b"z", 90)] {
            loading.on_row(&CheckpointRow { table: T, key, timestamp: Timestamp(at), value: Some(b"old") });
        }
        let mut store = Store::new(ShardId(0), 1);
        store.take_over(loading.finish().store);

        let stamp = Stamp { shard: ShardId(0), epoch: Ballot { round: 1, ..Ballot::default() }.epoch() };
        let mut deps = Deps::default();
        deps.add(stamp, Timestamp(50)).unwrap();
        let mut batch = BatchBuilder::new();
        let writes = [(T, &b"a"[..], Some(&b"open"[..]))];
        batch.push_entry(Timestamp(50), TxnId::default(), &deps, &[], writes.into_iter());
        let batch = batch.finish(stamp.epoch, Timestamp(60), BatchKind::Entries);
        store.recover(&BatchView::parse(&batch).unwrap().entries().next().unwrap(), &known);
        assert_eq!(store.read(T, b"a").unwrap().version, Timestamp(50));
        store.prune(Timestamp(45).plus_ns(SNAPSHOT_KEEP_NS));
        known.learn_closed(stamp, Timestamp(45));
        let mut settled = Vec::new();
        store.window.sweep(&known, &mut settled);
        settled.iter().for_each(|lost| store.roll_back(lost));
        assert_eq!(store.read(T, b"a").unwrap().version, Timestamp(20));
    }

    /// Runs that come back otherwise than they were count other promises than the other replicas do.
    #[test]
    fn runs_come_back_as_they_were_and_nothing_else_does() {
        for current in [None, Some(Epoch(9))] {
            let ends = vec![(Epoch(3), Timestamp(4)), (Epoch(9), Timestamp(5))];
            let runs = Runs::restored(current, ends, vec![Epoch(3)]);
            let bytes = encode_extra(&runs, Timestamp(77));
            assert_eq!(decode_extra(&bytes), Ok(runs));
            for len in 0..bytes.len() {
                assert!(decode_extra(&bytes[..len]).is_err(), "{len} of {} bytes", bytes.len());
            }
        }
        assert_eq!(decode_extra(&[9; 60]), Err(Malformed::WrongVersion));
    }
}
