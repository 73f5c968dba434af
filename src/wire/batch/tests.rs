//! Batches against what was pushed, against damage, and against hostile counts.
#![forbid(unsafe_code)]

use proptest::prelude::*;

use super::*;
use crate::bounds::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use crate::types::ShardId;

#[derive(Clone, PartialEq, Debug)]
struct Pushed {
    timestamp: Timestamp,
    txn: TxnId,
    deps: Vec<(Stamp, Timestamp)>,
    participants: Vec<PartitionId>,
    writes: Vec<(TableId, Vec<u8>, Option<Vec<u8>>)>,
}

impl Pushed {
    fn push_into(&self, builder: &mut BatchBuilder) {
        let mut deps = Deps::new();
        self.deps.iter().for_each(|(stamp, ts)| deps.add(*stamp, *ts).expect("few entries"));
        let writes = self.writes.iter().map(|(table, key, value)| (*table, key.as_slice(), value.as_deref()));
        builder.push_entry(self.timestamp, self.txn, &deps, &self.participants, writes);
    }

    fn from_view(entry: &EntryView<'_>) -> Pushed {
        let owned = |write: WriteRef<'_>| (write.table, write.key.to_vec(), write.value.map(<[u8]>::to_vec));
        Pushed {
            timestamp: entry.timestamp,
            txn: entry.txn,
            deps: entry.deps.iter().collect(),
            participants: entry.participants().collect(),
            writes: entry.writes().map(owned).collect(),
        }
    }
}

fn pushed() -> impl Strategy<Value = Pushed> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..20);
    let write = (0..256_u16, bytes(), prop::option::of(bytes()));
    let writes =
        prop::collection::vec(write.prop_map(|(table, key, value)| (TableId(table), key, value)), 0..5);
    let deps = prop::collection::btree_map((0..64_u16, 0..1_000_u64), any::<u64>(), 0..6);
    let participants = prop::collection::vec((0..1_024_u16).prop_map(PartitionId), 0..6);
    (any::<u64>(), any::<u64>(), deps, participants, writes).prop_map(
        |(timestamp, number, deps, participants, writes)| Pushed {
            timestamp: Timestamp(timestamp),
            txn: TxnId { home: PartitionId(3), epoch: Epoch(0x1_0002), number },
            deps: deps
                .into_iter()
                .map(|((shard, epoch), ts)| {
                    (Stamp { shard: ShardId(shard), epoch: Epoch(epoch) }, Timestamp(ts))
                })
                .collect(),
            participants,
            writes,
        },
    )
}

fn finish(builder: &mut BatchBuilder, kind: BatchKind) -> Rc<[u8]> {
    builder.finish(Epoch(0x2_0001), Timestamp(99), kind)
}

/// Invariant 3 on any bytes: refused, or every iterator runs to its end.
fn assert_total(bytes: &[u8]) {
    let Ok(view) = BatchView::parse(bytes) else { return };
    if view.kind() == BatchKind::Facts {
        let facts: Vec<_> = view.facts().collect();
        assert_eq!((facts.len(), view.entries().len()), (view.count(), 0));
        assert_eq!(&*BatchBuilder::facts(view.epoch(), view.promise(), &facts), bytes);
        return;
    }
    assert_eq!(view.entries().len(), view.count());
    let mut builder = BatchBuilder::new();
    view.entries().for_each(|entry| Pushed::from_view(&entry).push_into(&mut builder));
    let again = builder.finish(view.epoch(), view.promise(), view.kind());
    assert_eq!(&*again, bytes, "one value, one encoding");
}

proptest! {
    /// What a follower replays must be what the leader committed; and a reused builder starts empty.
    #[test]
    fn a_batch_gives_back_what_was_pushed(entries in prop::collection::vec(pushed(), 0..6)) {
        let mut builder = BatchBuilder::new();
        for round in 0..2 {
            entries.iter().for_each(|entry| entry.push_into(&mut builder));
            prop_assert_eq!((builder.count(), builder.is_empty()), (entries.len(), entries.is_empty()));
            let len_bytes = builder.len_bytes();
            let batch = finish(&mut builder, BatchKind::Entries);
            prop_assert_eq!(batch.len(), len_bytes, "round {}", round);

            let view = BatchView::parse(&batch).unwrap();
            prop_assert_eq!((view.epoch(), view.promise()), (Epoch(0x2_0001), Timestamp(99)));
            prop_assert_eq!((view.kind(), view.count()), (BatchKind::Entries, entries.len()));
            let seen: Vec<Pushed> = view.entries().map(|entry| Pushed::from_view(&entry)).collect();
            prop_assert_eq!(&seen, &entries);
        }
    }

    /// A batch comes from the wal or a peer: damage is refused, or harmless, and never a panic later on.
    #[test]
    fn damaged_batches_are_refused_or_walk_to_their_end(
        entries in prop::collection::vec(pushed(), 0..4),
        at in any::<prop::sample::Index>(),
        with in any::<[u8; 4]>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut builder = BatchBuilder::new();
        entries.iter().for_each(|entry| entry.push_into(&mut builder));
        let mut bytes = finish(&mut builder, BatchKind::Entries).to_vec();
        prop_assert!(BatchView::parse(&bytes[..cut.index(bytes.len())]).is_err());
        let at = at.index(bytes.len() - 3);
        bytes[at..at + 4].copy_from_slice(&with);
        assert_total(&bytes);
        bytes[at] = 0xff;
        assert_total(&bytes);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(0..3_u8, 0..300)) {
        assert_total(&bytes);
        assert_total(&[&[BATCH_VERSION, 0], bytes.as_slice()].concat());
    }
}

/// The final watermark rests on telling a seal from a filler: a kind must not change on its way.
#[test]
fn batches_without_entries_keep_their_kind() {
    let mut builder = BatchBuilder::new();
    for kind in [BatchKind::Entries, BatchKind::Noop, BatchKind::Seal, BatchKind::Filler] {
        let batch = finish(&mut builder, kind);
        let view = BatchView::parse(&batch).unwrap();
        assert_eq!((view.kind(), view.count(), view.entries().count()), (kind, 0, 0));
    }
}

/// A leader that repeats a fact must repeat it to the nanosecond.
#[test]
fn facts_come_back_as_they_were_told() {
    let facts: Vec<_> = (1..40).map(|n| (Epoch(n << 16), Timestamp(n * 7))).collect();
    for count in [0, 1, 39] {
        let batch = BatchBuilder::facts(Epoch(0x2_0001), Timestamp(99), &facts[..count]);
        let view = BatchView::parse(&batch).unwrap();
        assert_eq!(
            (view.kind(), view.epoch(), view.promise()),
            (BatchKind::Facts, Epoch(0x2_0001), Timestamp(99))
        );
        assert_eq!(view.facts().collect::<Vec<_>>(), facts[..count]);
        assert_eq!((0..batch.len()).find(|end| BatchView::parse(&batch[..*end]).is_ok()), None);
    }
}

/// A seal that carried transactions would carry them past the end of their epoch (invariant 2).
#[test]
fn only_a_batch_of_entries_holds_entries() {
    let mut builder = BatchBuilder::new();
    builder.push_entry(Timestamp(1), TxnId::default(), &Deps::new(), &[], [].into_iter());
    let mut bytes = finish(&mut builder, BatchKind::Entries).to_vec();
    for kind in [BatchKind::Noop, BatchKind::Seal, BatchKind::Filler] {
        bytes[1] = kind as u8;
        assert_eq!(BatchView::parse(&bytes).err(), Some(Malformed::UnexpectedEntries));
    }
}

#[test]
#[should_panic(expected = "1 entries in a Seal")]
fn a_builder_with_entries_does_not_finish_as_a_seal() {
    let mut builder = BatchBuilder::new();
    builder.push_entry(Timestamp(1), TxnId::default(), &Deps::new(), &[], [].into_iter());
    finish(&mut builder, BatchKind::Seal);
}

/// Bytes inside an entry that nobody reads would make two replicas hold different bytes for one batch.
#[test]
fn an_entry_longer_than_its_fields_is_refused() {
    let mut builder = BatchBuilder::new();
    builder.push_entry(Timestamp(1), TxnId::default(), &Deps::new(), &[], [].into_iter());
    let mut bytes = finish(&mut builder, BatchKind::Entries).to_vec();
    bytes[HEADER_BYTES] += 1;
    assert_eq!(BatchView::parse(&bytes).err(), Some(Malformed::Truncated));
    bytes.push(0);
    assert_eq!(BatchView::parse(&bytes).err(), Some(Malformed::Trailing));
}

/// A follower sizes its window by the limit: an entry above it, though the batch is not, must not pass.
#[test]
fn an_entry_with_more_bytes_than_a_transaction_may_write_is_refused() {
    let value = vec![7; VALUE_BYTES_MAX];
    let write = (TableId(0), [].as_slice(), Some(value.as_slice()));
    let mut builder = BatchBuilder::new();
    builder.push_entry(Timestamp(1), TxnId::default(), &Deps::new(), &[], [write; 4].into_iter());
    let mut bytes = finish(&mut builder, BatchKind::Entries).to_vec();
    assert!(BatchView::parse(&bytes).is_ok());

    let surplus = TXN_BYTES_MAX - 4 * VALUE_BYTES_MAX + 1;
    let mut out = Writer::new(&mut bytes);
    out.put(&WriteRef { table: TableId(0), key: b"", value: Some(&value[..surplus]) });
    let entry_bytes = u32::try_from(bytes.len() - HEADER_BYTES - 4).unwrap();
    bytes[HEADER_BYTES..HEADER_BYTES + 4].copy_from_slice(&entry_bytes.to_le_bytes());
    bytes[HEADER_BYTES + ENTRY_BYTES_MIN - 4] += 1;
    assert_eq!(BatchView::parse(&bytes).err(), Some(Malformed::TransactionTooBig));
}

/// The promise on `BatchBuilder`: below BATCH_BYTES there is room for the largest transaction, or the
/// leader would stop at an assert under a legal load.
#[test]
fn the_largest_transaction_fits_behind_an_almost_full_batch() {
    let value = vec![7; VALUE_BYTES_MAX];
    let key = [1; KEY_BYTES_MAX];
    let mut builder = BatchBuilder::new();
    let small = BATCH_BYTES - 1 - builder.len_bytes() - ENTRY_BYTES_MIN - WriteRef::BYTES_MIN;
    let writes = [(TableId(0), [].as_slice(), Some(&value[..small]))];
    builder.push_entry(Timestamp(1), TxnId::default(), &Deps::new(), &[], writes.into_iter());
    assert_eq!(builder.len_bytes(), BATCH_BYTES - 1);

    let mut deps = Deps::new();
    for epoch in 0..DEPS_MAX as u64 {
        deps.add(Stamp { shard: ShardId(0), epoch: Epoch(epoch) }, Timestamp(1)).unwrap();
    }
    let large = (TableId(0), key.as_slice(), Some(value.as_slice()));
    let rest = TXN_BYTES_MAX - 4 * (KEY_BYTES_MAX + VALUE_BYTES_MAX);
    let rest = (TableId(0), [].as_slice(), Some(&value[..rest]));
    let delete = (TableId(0), [].as_slice(), None);
    let mut writes = vec![delete; TXN_WRITES_MAX];
    writes[..4].fill(large);
    writes[4] = rest;
    let everyone = vec![PartitionId(0); PARTITIONS_MAX];
    builder.push_entry(Timestamp(2), TxnId::default(), &deps, &everyone, writes.into_iter());
    assert_eq!(builder.len_bytes(), BATCH_BYTES - 1 + ENTRY_BYTES_MAX);

    let batch = finish(&mut builder, BatchKind::Entries);
    let view = BatchView::parse(&batch).unwrap();
    let last = view.entries().last().unwrap();
    assert_eq!((last.writes().len(), last.participants().len()), (TXN_WRITES_MAX, PARTITIONS_MAX));
}

/// The bytes rest on disk: whoever moves them raises BATCH_VERSION and keeps a way to read the old ones.
#[test]
fn golden_bytes_of_a_batch_have_not_moved() {
    let epoch = Epoch(0x3_0002);
    let mut deps = Deps::new();
    deps.add(Stamp { shard: ShardId(1), epoch }, Timestamp(5)).unwrap();
    let txn = TxnId { home: PartitionId(4), epoch, number: 6 };
    let writes = [(TableId(1), b"k".as_slice(), Some(b"vv".as_slice())), (TableId(1), b"d", None)];
    let mut builder = BatchBuilder::new();
    let participants = [PartitionId(4), PartitionId(9)];
    builder.push_entry(Timestamp(5), txn, &deps, &participants, writes.into_iter());
    let batch = builder.finish(epoch, Timestamp(0x0102), BatchKind::Entries);
    let hex: String = batch.iter().map(|byte| format!("{byte:02x}")).collect();
    let golden = [
        "0100",
        "0200030000000000",
        "0201000000000000",
        "01000000",
        "50000000",
        "0500000000000000",
        "040002000300000000000600000000000000",
        "01000000010002000300000000000500000000000000",
        "0200000004000900",
        "02000000",
        "010001006b020000007676",
        "0100010064ffffffff",
    ];
    assert_eq!(hex, golden.concat());
}

#[test]
fn another_version_or_kind_and_leftover_bytes_are_refused() {
    let mut builder = BatchBuilder::new();
    let noop = finish(&mut builder, BatchKind::Noop).to_vec();
    let with = |at: usize, byte: u8| {
        let mut bytes = noop.clone();
        bytes[at] = byte;
        BatchView::parse(&bytes).err()
    };
    assert_eq!(with(0, 2), Some(Malformed::WrongVersion));
    assert_eq!(with(1, 5), Some(Malformed::UnknownKind));
    assert_eq!(with(18, 1), Some(Malformed::Truncated));
    assert_eq!(BatchView::parse(&[noop.as_slice(), &[0]].concat()).err(), Some(Malformed::Trailing));
    assert_eq!(BatchView::parse(&vec![1; BATCH_BYTES_MAX + 1]).err(), Some(Malformed::TooLong));
}
