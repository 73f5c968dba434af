//! Messages against invariants 1 to 4 of the module: round trips, mutations, hostile counts, golden bytes.
#![forbid(unsafe_code)]

use std::rc::Rc;

use proptest::prelude::*;
use smallvec::SmallVec;

use super::cursor::{Layout, Writer};
use super::stream::{
    Accept, Accepted, Chosen, Entry, Fetch, Fetched, Prepare, Promise, Rejected, Rejoin, Rejoined,
};
use super::*;
use crate::bounds::{
    FETCH_SLOTS_MAX, KEY_BYTES_MAX, MESSAGE_BYTES_MAX, NODES_MAX, PARTITIONS_MAX, SHARDS_MAX, TABLES_MAX,
    VALUE_BYTES_MAX,
};
use crate::types::{
    Ballot, DiskId, Epoch, NodeId, PartitionId, Prng, ShardId, Slot, Stamp, TableId, Timestamp, TxnId,
    Watermark,
};

/// Draws messages whose keys and values are slices of `arena`.
struct Sampler<'a> {
    prng: Prng,
    arena: &'a [u8],
}

impl<'a> Sampler<'a> {
    fn new(seed: u64, arena: &'a [u8]) -> Sampler<'a> {
        Sampler { prng: Prng::with_seed(seed), arena }
    }

    fn bytes(&mut self, len_max: usize) -> &'a [u8] {
        let len = self.prng.usize(0..=len_max.min(self.arena.len()));
        let from = self.prng.usize(0..=self.arena.len() - len);
        &self.arena[from..from + len]
    }

    fn key(&mut self) -> &'a [u8] {
        self.bytes(KEY_BYTES_MAX)
    }

    fn value(&mut self) -> Option<&'a [u8]> {
        self.prng.bool().then(|| self.bytes(usize::MAX))
    }

    fn list<T, C: FromIterator<T>>(&mut self, draw: impl Fn(&mut Self) -> T) -> C {
        (0..self.prng.usize(0..6)).map(|_| draw(self)).collect()
    }

    fn id(&mut self, limit: usize) -> u16 {
        self.prng.u16(..u16::try_from(limit).unwrap())
    }

    fn partition(&mut self) -> PartitionId {
        PartitionId(self.id(PARTITIONS_MAX))
    }

    fn table(&mut self) -> TableId {
        TableId(self.id(TABLES_MAX))
    }

    fn shard(&mut self) -> ShardId {
        ShardId(self.id(SHARDS_MAX))
    }

    fn ballot(&mut self) -> Ballot {
        Ballot { round: self.prng.u32(..), node: NodeId(self.id(NODES_MAX)) }
    }

    fn epoch(&mut self) -> Epoch {
        self.ballot().epoch()
    }

    fn timestamp(&mut self) -> Timestamp {
        Timestamp(self.prng.u64(..))
    }

    fn slot(&mut self) -> Slot {
        Slot(self.prng.u64(..))
    }

    fn stamp(&mut self) -> Stamp {
        Stamp { shard: self.shard(), epoch: self.epoch() }
    }

    fn watermark(&mut self) -> Watermark {
        Watermark { epoch: self.epoch(), timestamp: self.timestamp() }
    }

    fn txn(&mut self) -> TxnId {
        TxnId { home: self.partition(), epoch: self.epoch(), number: self.prng.u64(..) }
    }

    fn deps(&mut self) -> Deps {
        let mut deps = Deps::new();
        for _ in 0..self.prng.usize(0..7) {
            deps.add(self.stamp(), self.timestamp()).expect("seven entries fit");
        }
        deps
    }

    fn token(&mut self) -> Token {
        Token { timestamp: self.timestamp(), epochs: self.list(|s| (s.shard(), s.epoch())) }
    }

    fn range(&mut self) -> ScanRange<'a> {
        ScanRange {
            table: self.table(),
            from: self.bytes(KEY_BYTES_MAX + 1),
            to: self.prng.bool().then(|| self.bytes(KEY_BYTES_MAX + 1)),
            limit: self.prng.u32(..),
            reverse: self.prng.bool(),
            request: self.prng.u32(..),
        }
    }

    fn batch(&mut self) -> Rc<[u8]> {
        Rc::from(self.bytes(usize::MAX))
    }

    fn verdict(&mut self) -> Verdict {
        match self.prng.u8(0..3) {
            0 => Verdict::Pending,
            1 => Verdict::Aborted,
            _ => Verdict::Committed {
                timestamp: self.timestamp(),
                deps: self.deps(),
                participants: self.list(Sampler::partition),
            },
        }
    }

    fn message(&mut self, kind: Kind) -> Message<'a> {
        let (partition, epoch, txn) = (self.partition(), self.epoch(), self.txn());
        let (table, key, deps) = (self.table(), self.key(), self.deps());
        match kind {
            Kind::Read => Message::Read { partition, epoch, txn, table, key },
            Kind::Scan => Message::Scan { partition, epoch, txn, range: self.range() },
            Kind::SnapshotRead => Message::SnapshotRead { partition, txn, token: self.token(), table, key },
            Kind::SnapshotScan => {
                Message::SnapshotScan { partition, txn, token: self.token(), range: self.range() }
            }
            Kind::Prepare => self.prepare(),
            Kind::Commit => {
                let (timestamp, participants) = (self.timestamp(), self.list(Sampler::partition));
                Message::Commit { partition, epoch, txn, timestamp, deps, participants }
            }
            Kind::Abort => Message::Abort { partition, epoch, txn },
            Kind::Inquire => Message::Inquire { partition, epoch, txn },
            Kind::ReadReply => {
                let (version, value) = (self.timestamp(), self.value());
                Message::ReadReply { partition, epoch, txn, version, deps, value, table, key }
            }
            Kind::ScanReply => {
                let rows =
                    self.list(|s| Row { key: s.key(), version: s.timestamp(), value: s.bytes(usize::MAX) });
                let (digest, complete, request) = (self.prng.u64(..), self.prng.bool(), self.prng.u32(..));
                Message::ScanReply { partition, epoch, txn, digest, deps, rows, complete, request }
            }
            Kind::Vote => Message::Vote { partition, epoch, txn, proposal: self.timestamp() },
            Kind::Refused => {
                Message::Refused { partition, epoch, txn, reason: Refusal::ALL[self.prng.usize(..10)] }
            }
            Kind::Done => Message::Done { partition, epoch, txn },
            Kind::Decision => Message::Decision { partition, txn, verdict: self.verdict() },
            Kind::Exchange => Message::Exchange {
                vector: self.list(|s| (s.shard(), s.watermark())),
                wanted: self.list(|s| (s.shard(), s.timestamp())),
                closed: self.list(|s| (s.stamp(), s.timestamp())),
            },
            Kind::Stream => {
                Message::Stream { partition, from: NodeId(self.id(NODES_MAX)), message: self.stream() }
            }
            Kind::Election => {
                let (shard, from) = (self.shard(), NodeId(self.id(NODES_MAX)));
                Message::Election { shard, from, message: self.election() }
            }
            Kind::CheckpointFetch => {
                let (from, checkpoint, offset) =
                    (NodeId(self.id(NODES_MAX)), self.prng.u32(..), self.prng.u64(..));
                Message::CheckpointFetch { partition, from, checkpoint, offset }
            }
            Kind::CheckpointPart => {
                let (from, checkpoint) = (NodeId(self.id(NODES_MAX)), self.prng.u32(..));
                let (offset, total, bytes) = (self.prng.u64(..), self.prng.u64(..), self.bytes(usize::MAX));
                Message::CheckpointPart { partition, from, checkpoint, offset, total, bytes }
            }
            Kind::CheckpointPending => {
                Message::CheckpointPending { partition, from: NodeId(self.id(NODES_MAX)) }
            }
            Kind::Greet => {
                let (from, disk) = (NodeId(self.id(NODES_MAX)), DiskId(self.prng.u64(..)));
                Message::Greet { partition, from, disk, rebuilds: self.prng.bool() }
            }
            Kind::Greeted => Message::Greeted {
                partition,
                from: NodeId(self.id(NODES_MAX)),
                disk: DiskId(self.prng.u64(..)),
                rebuilds: self.prng.bool(),
                to: DiskId(self.prng.u64(..)),
                welcome: self.prng.bool(),
            },
        }
    }

    fn prepare(&mut self) -> Message<'a> {
        Message::Prepare {
            partition: self.partition(),
            epoch: self.epoch(),
            txn: self.txn(),
            hold_ns: self.prng.u64(..),
            deps: self.deps(),
            reads: self.list(|s| ReadCheck {
                table: s.table(),
                key: s.key(),
                version: s.timestamp(),
                absent: s.prng.bool(),
            }),
            scans: self.list(|s| ScanCheck { range: s.range(), digest: s.prng.u64(..) }),
            writes: self.list(|s| WriteRef { table: s.table(), key: s.key(), value: s.value() }),
        }
    }

    fn election(&mut self) -> ElectionMessage {
        let (ballot, sent) = (self.ballot(), self.timestamp());
        match self.prng.u8(0..6) {
            0 => ElectionMessage::PreVote { ballot },
            1 => ElectionMessage::PreVoted { ballot, granted: self.prng.bool(), promised: self.ballot() },
            2 => ElectionMessage::Heartbeat { ballot, sent },
            3 => ElectionMessage::Heartbeaten { ballot, sent },
            4 => ElectionMessage::HandOver { ballot },
            _ => ElectionMessage::Release { ballot },
        }
    }

    fn stream(&mut self) -> StreamMessage {
        let (ballot, from_slot, end_slot) = (self.ballot(), self.slot(), self.slot());
        let (floor, chosen_end, voted_end) = (self.slot(), self.slot(), self.slot());
        match self.prng.u8(0..10) {
            0 => StreamMessage::Prepare(Prepare { ballot, from_slot }),
            1 => {
                let entries = self.list(|s| Entry { slot: s.slot(), ballot: s.ballot(), batch: s.batch() });
                let last = self.prng.bool();
                StreamMessage::Promise(Promise {
                    ballot,
                    from_slot,
                    end_slot,
                    entries,
                    last,
                    floor,
                    chosen_end,
                })
            }
            2 => StreamMessage::Rejected(Rejected { promised: ballot }),
            3 => {
                let batch = self.batch();
                StreamMessage::Accept(Accept { ballot, slot: from_slot, batch, chosen_end, voted_end })
            }
            4 => StreamMessage::Accepted(Accepted { ballot, slot: from_slot, through: end_slot, chosen_end }),
            5 => StreamMessage::Chosen(Chosen {
                ballot,
                next_slot: from_slot,
                chosen_end,
                voted_end,
                known_end: floor,
            }),
            6 => StreamMessage::Fetch(Fetch { ballot, from_slot, end_slot }),
            7 => StreamMessage::Rejoin(Rejoin { nonce: self.prng.u64(..) }),
            8 => {
                let leading = self.prng.bool().then(|| (self.ballot(), self.slot()));
                StreamMessage::Rejoined(Rejoined { nonce: self.prng.u64(..), promised: ballot, leading })
            }
            _ => {
                let entries = self.list(|s| (s.slot(), s.batch()));
                StreamMessage::Fetched(Fetched { ballot, entries, floor, chosen_end, voted_end })
            }
        }
    }
}

/// Heap bytes behind a message, counted by capacity: what decoding it has cost.
fn heap_bytes(message: &Message<'_>) -> usize {
    fn vec<T>(items: &Vec<T>) -> usize {
        items.capacity() * size_of::<T>()
    }
    fn short<A: smallvec::Array>(items: &SmallVec<A>) -> usize {
        if items.spilled() { items.capacity() * size_of::<A::Item>() } else { 0 }
    }
    fn batch(batch: &Rc<[u8]>) -> usize {
        2 * size_of::<usize>() + batch.len()
    }
    // Deps keep their list private; beyond the inline entries it has reserved exactly its length.
    fn deps(deps: &Deps) -> usize {
        deps.len() * size_of::<(Stamp, Timestamp)>()
    }
    match message {
        Message::SnapshotRead { token, .. } | Message::SnapshotScan { token, .. } => short(&token.epochs),
        Message::Prepare { deps: d, reads, scans, writes, .. } => {
            deps(d) + vec(reads) + vec(scans) + vec(writes)
        }
        Message::Commit { deps: d, participants, .. } => deps(d) + short(participants),
        Message::ReadReply { deps: d, .. } => deps(d),
        Message::ScanReply { deps: d, rows, .. } => deps(d) + vec(rows),
        Message::Decision { verdict: Verdict::Committed { deps: d, participants, .. }, .. } => {
            deps(d) + short(participants)
        }
        Message::Exchange { vector, wanted, closed } => short(vector) + short(wanted) + short(closed),
        Message::Stream { message: StreamMessage::Accept(accept), .. } => batch(&accept.batch),
        Message::Stream { message: StreamMessage::Promise(promise), .. } => {
            vec(&promise.entries) + promise.entries.iter().map(|entry| batch(&entry.batch)).sum::<usize>()
        }
        Message::Stream { message: StreamMessage::Fetched(fetched), .. } => {
            vec(&fetched.entries) + fetched.entries.iter().map(|entry| batch(&entry.1)).sum::<usize>()
        }
        _ => 0,
    }
}

/// Invariants 1, 2 and 4 on any bytes: no panic, no cost beyond the input, one encoding per value.
fn assert_total(bytes: &[u8]) {
    let peeked = peek(bytes);
    let Ok(message) = Message::decode(bytes) else { return };
    assert_eq!(peeked, Ok((message.kind(), message.partition())));
    assert!(heap_bytes(&message) <= HEAP_PER_BYTE * bytes.len(), "{message:?} of {} bytes", bytes.len());
    assert_eq!(encoded(&message), bytes);
}

/// A slice costs 16 bytes where its length cost 2: the worst is a list of deletes of empty keys.
const HEAP_PER_BYTE: usize = 6;

fn kind() -> impl Strategy<Value = Kind> {
    prop::sample::select(Kind::ALL.as_slice())
}

fn arena() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..1_500)
}

proptest! {
    /// A field written and read in different order is a wrong key locked, or a wrong timestamp installed.
    #[test]
    fn every_kind_comes_back_as_it_was_sent(kind in kind(), seed: u64, arena in arena()) {
        let message = Sampler::new(seed, &arena).message(kind);
        let bytes = encoded(&message);
        prop_assert_eq!(Message::decode(&bytes), Ok(message.clone()));
        prop_assert_eq!(peek(&bytes), Ok((kind, message.partition())));
        assert_total(&bytes);
    }

    /// Bytes are appended: a reactor lays several messages into one buffer.
    #[test]
    fn encoding_keeps_what_the_buffer_held(kind in kind(), seed: u64, arena in arena()) {
        let message = Sampler::new(seed, &arena).message(kind);
        let mut out = b"before".to_vec();
        message.encode_into(&mut out);
        prop_assert_eq!(&out[..6], b"before");
        prop_assert_eq!(out[6..].to_vec(), encoded(&message));
    }

    /// A prefix that decoded would be a message with its last writes missing.
    #[test]
    fn no_prefix_and_no_extension_of_a_message_decodes(kind in kind(), seed: u64, arena in arena()) {
        let mut bytes = encoded(&Sampler::new(seed, &arena).message(kind));
        for len in (0..bytes.len()).rev().take(200).chain(0..bytes.len().min(60)) {
            prop_assert!(Message::decode(&bytes[..len]).is_err(), "{len} of {} bytes", bytes.len());
        }
        bytes.push(0);
        prop_assert_eq!(Message::decode(&bytes), Err(Malformed::Trailing));
    }

    /// One flipped byte that a checksum missed must not stop a core, whatever field it hits.
    #[test]
    fn mutated_messages_decode_to_something_legal_or_to_nothing(
        kind in kind(),
        seed: u64,
        arena in prop::collection::vec(any::<u8>(), 0..40),
        mutations in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = encoded(&Sampler::new(seed, &arena).message(kind));
        for (at, byte) in mutations {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        assert_total(&bytes);
        assert_total(&bytes[..cut.index(bytes.len())]);
    }

    /// Every four bytes may be a count: a hostile one anywhere must not reserve what the input cannot fill.
    #[test]
    fn hostile_counts_cost_no_more_than_the_input(kind in kind(), seed: u64, count in hostile_count()) {
        let bytes = encoded(&Sampler::new(seed, b"key and value").message(kind));
        for at in 2..bytes.len().saturating_sub(4).min(400) {
            let mut bytes = bytes.clone();
            bytes[at..at + 4].copy_from_slice(&u32::to_le_bytes(count));
            assert_total(&bytes);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), kind in kind()) {
        assert_total(&bytes);
        assert_total(&[&[1, kind as u8], bytes.as_slice()].concat());
        // Small integers reach deeper than noise: they pass for counts and identifiers.
        let small: Vec<u8> = bytes.iter().map(|byte| byte & 1).collect();
        assert_total(&[&[1, kind as u8], small.as_slice()].concat());
    }
}

fn hostile_count() -> impl Strategy<Value = u32> {
    prop_oneof![0..100_u32, Just(4_096), Just(16_384), Just(u32::MAX), Just(u32::MAX - 1), any::<u32>()]
}

/// Old nodes and new ones meet during an upgrade: they must drop each other's messages, not misread them.
#[test]
fn another_version_an_unknown_kind_and_no_bytes_are_refused() {
    let mut bytes = encoded(&abort());
    bytes[0] = 2;
    assert_eq!(Message::decode(&bytes), Err(Malformed::WrongVersion));
    assert_eq!(peek(&bytes), Err(Malformed::WrongVersion));
    bytes[..2].copy_from_slice(&[1, u8::try_from(Kind::ALL.len()).unwrap()]);
    assert_eq!(Message::decode(&bytes), Err(Malformed::UnknownKind));
    assert_eq!(Message::decode(&[]), Err(Malformed::Truncated));
    assert_eq!(peek(&[1]), Err(Malformed::Truncated));
    assert_eq!(Message::decode(&vec![1; MESSAGE_BYTES_MAX + 1]), Err(Malformed::TooLong));
}

/// The tag on the wire is the place in the list: a kind out of place would be decoded as another.
#[test]
fn every_kind_stands_at_its_own_tag() {
    for (tag, kind) in Kind::ALL.into_iter().enumerate() {
        assert_eq!(usize::from(kind as u8), tag);
    }
}

/// The smallest encoding, by the layout that claims it.
fn assert_smallest<'a, T: Layout<'a>>(smallest: &T) {
    let mut bytes = Vec::new();
    Writer::new(&mut bytes).put(smallest);
    assert_eq!(bytes.len(), T::BYTES_MIN, "{}", std::any::type_name::<T>());
}

/// Invariant 2 divides by BYTES_MIN: too high, and a legal list at the end of a message is refused; too low,
/// and a hostile count reserves more than its bytes could fill.
#[test]
fn the_smallest_item_of_every_list_is_as_long_as_its_layout_says() {
    let (shard, epoch, timestamp, table) = (ShardId(0), Epoch(0), Timestamp(0), TableId(0));
    let range = ScanRange { table, from: b"", to: None, limit: 0, reverse: false, request: 0 };
    assert_smallest(&range);
    assert_smallest(&ScanCheck { range, digest: 0 });
    assert_smallest(&ReadCheck { table, key: b"", version: timestamp, absent: false });
    assert_smallest(&WriteRef { table, key: b"", value: None });
    assert_smallest(&Row { key: b"", version: timestamp, value: b"" });
    assert_smallest(&Deps::new());
    assert_smallest(&TxnId::default());
    assert_smallest(&PartitionId(0));
    assert_smallest(&(shard, epoch));
    assert_smallest(&(shard, timestamp));
    assert_smallest(&(shard, Watermark { epoch, timestamp }));
    assert_smallest(&(Stamp { shard, epoch }, timestamp));
    let batch: Rc<[u8]> = Rc::from([].as_slice());
    assert_smallest(&(Slot(0), Rc::clone(&batch)));
    assert_smallest(&Entry { slot: Slot(0), ballot: Ballot::default(), batch });
}

/// More entries than the limit, all of them present: only the limit can refuse them.
#[test]
fn a_list_beyond_its_limit_is_refused_even_when_its_bytes_are_there() {
    let ballot = Ballot { round: 1, node: NodeId(0) };
    let fetched = |count: usize| {
        let entries = (0..count as u64).map(|slot| (Slot(slot), Rc::from([].as_slice()))).collect();
        let (floor, chosen_end, voted_end) = (Slot(0), Slot(0), Slot(0));
        let message = StreamMessage::Fetched(Fetched { ballot, entries, floor, chosen_end, voted_end });
        Message::Stream { partition: PartitionId(0), from: NodeId(0), message }
    };
    let mut bytes = encoded(&fetched(FETCH_SLOTS_MAX));
    assert!(Message::decode(&bytes).is_ok());
    let count_at = 2 + 2 + 2 + 1 + 8;
    bytes[count_at] += 1;
    bytes.splice(count_at + 4..count_at + 4, [0; 12]);
    assert_eq!(Message::decode(&bytes), Err(Malformed::TooMany));
}

/// Each key and value is legal, and together they would not fit the batch they end up in.
#[test]
fn a_prepare_of_more_bytes_than_a_transaction_may_have_is_refused() {
    let value = vec![7; VALUE_BYTES_MAX];
    let (table, version) = (TableId(0), Timestamp(0));
    let read = ReadCheck { table, key: &value[..KEY_BYTES_MAX], version, absent: false };
    let write = WriteRef { table, key: b"", value: Some(&value) };
    let prepare = |reads: usize, writes: usize| {
        let Message::Abort { partition, epoch, txn } = abort() else { panic!("an abort") };
        let (reads, writes) = (vec![read; reads], vec![write; writes]);
        let (hold_ns, deps, scans) = (0, Deps::new(), Vec::new());
        Message::Prepare { partition, epoch, txn, hold_ns, deps, reads, scans, writes }
    };
    let legal = encoded(&prepare(2_048, 4));
    assert!(Message::decode(&legal).is_ok());

    let reads_at = encoded(&prepare(0, 0)).len() - 12;
    let read_bytes = ReadCheck::BYTES_MIN + KEY_BYTES_MAX;
    let mut bytes = legal.clone();
    bytes[reads_at] += 1;
    bytes.splice(reads_at + 4..reads_at + 4, legal[reads_at + 4..][..read_bytes].to_vec());
    assert_eq!(Message::decode(&bytes), Err(Malformed::TransactionTooBig));

    let writes_at = reads_at + 4 + 2_048 * read_bytes + 4;
    let mut bytes = legal.clone();
    bytes[writes_at] += 1;
    bytes.extend_from_slice(&legal[writes_at + 4..][..WriteRef::BYTES_MIN + VALUE_BYTES_MAX]);
    assert_eq!(Message::decode(&bytes), Err(Malformed::TransactionTooBig));
}

fn abort() -> Message<'static> {
    let epoch = Ballot { round: 3, node: NodeId(2) }.epoch();
    let txn = TxnId { home: PartitionId(5), epoch, number: 9 };
    Message::Abort { partition: PartitionId(0x0102), epoch, txn }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a node says of itself before anybody knows it, it says to nodes of every later version.
#[test]
fn golden_bytes_of_greetings_have_not_moved() {
    let (partition, from) = (PartitionId(0x102), NodeId(2));
    let greet = Message::Greet { partition, from, disk: DiskId(0xabcd), rebuilds: true };
    assert_eq!(hex(&encoded(&greet)), "011402010200cdab00000000000001");
    let (disk, to) = (DiskId(0xabcd), DiskId(7));
    let greeted = Message::Greeted { partition, from, disk, rebuilds: false, to, welcome: true };
    assert_eq!(hex(&encoded(&greeted)), "011502010200cdab00000000000000070000000000000001");
}

/// The layout is a contract between nodes of one version: whoever changes these bytes raises WIRE_VERSION.
#[test]
fn golden_bytes_of_messages_have_not_moved() {
    let epoch = "0200030000000000"; // node 2, round 3
    let txn = format!("0500{epoch}0900000000000000");
    assert_eq!(hex(&encoded(&abort())), format!("01060201{epoch}{txn}"));

    let Message::Abort { partition, epoch: in_epoch, txn: of_txn } = abort() else { panic!("an abort") };
    let mut deps = Deps::new();
    deps.add(Stamp { shard: ShardId(1), epoch: in_epoch }, Timestamp(0x1122)).unwrap();
    let range = ScanRange { table: TableId(1), from: b"a", to: None, limit: 10, reverse: true, request: 2 };
    let prepare = Message::Prepare {
        partition,
        epoch: in_epoch,
        txn: of_txn,
        hold_ns: 0x0a,
        deps,
        reads: vec![ReadCheck { table: TableId(1), key: b"r", version: Timestamp(4), absent: true }],
        scans: vec![ScanCheck { range, digest: 0xdd }],
        writes: vec![
            WriteRef { table: TableId(2), key: b"w", value: Some(b"v1") },
            WriteRef { table: TableId(2), key: b"", value: None },
        ],
    };
    let golden = [
        &format!("01040201{epoch}{txn}"),
        "0a00000000000000",
        &format!("010000000100{epoch}2211000000000000"),
        "010000000100010072040000000000000001",
        "010000000100010061ffff0a0000000102000000dd00000000000000",
        "02000000",
        "0200010077020000007631",
        "02000000ffffffff",
    ];
    assert_eq!(hex(&encoded(&prepare)), golden.concat());

    let accept = Accept {
        ballot: Ballot { round: 3, node: NodeId(2) },
        slot: Slot(7),
        batch: Rc::from(b"b".as_slice()),
        chosen_end: Slot(6),
        voted_end: Slot(5),
    };
    let message = StreamMessage::Accept(accept);
    let accept = Message::Stream { partition, from: NodeId(2), message };
    let golden = format!(
        "010f02010200{}{epoch}0700000000000000{}06000000000000000500000000000000",
        "03", "0100000062"
    );
    assert_eq!(hex(&encoded(&accept)), golden);

    let (shard, from, ballot) = (ShardId(1), NodeId(2), Ballot { round: 3, node: NodeId(2) });
    let election = |message| hex(&encoded(&Message::Election { shard, from, message }));
    let sent = Timestamp(0x0102);
    let heartbeat = election(ElectionMessage::Heartbeat { ballot, sent });
    assert_eq!(heartbeat, format!("01100100020002{epoch}0201000000000000"));
    let pre_voted = election(ElectionMessage::PreVoted { ballot, granted: true, promised: ballot });
    assert_eq!(pre_voted, format!("01100100020001{epoch}01{epoch}"));

    let leading = Some((ballot, Slot(7)));
    let message = StreamMessage::Rejoined(Rejoined { nonce: 5, promised: ballot, leading });
    let rejoined = hex(&encoded(&Message::Stream { partition, from, message }));
    assert_eq!(rejoined, format!("010f02010200090500000000000000{epoch}01{epoch}0700000000000000"));

    let (checkpoint, offset) = (0xabcd, 0x0102);
    let fetch = Message::CheckpointFetch { partition, from, checkpoint, offset };
    assert_eq!(hex(&encoded(&fetch)), "011102010200cdab00000201000000000000");
    let part = Message::CheckpointPart { partition, from, checkpoint, offset, total: 0x0103, bytes: b"c" };
    let golden = "011202010200cdab0000020100000000000003010000000000000100000063";
    assert_eq!(hex(&encoded(&part)), golden);
    assert_eq!(hex(&encoded(&Message::CheckpointPending { partition, from })), "011302010200");

    let exchange = Message::Exchange {
        vector: SmallVec::from_slice(&[(ShardId(1), Watermark { epoch: in_epoch, timestamp: Timestamp(8) })]),
        wanted: SmallVec::from_slice(&[(ShardId(2), Timestamp(9))]),
        closed: SmallVec::new(),
    };
    let golden = format!("010e010000000100{epoch}08000000000000000100000002000900000000000000{}", "00000000");
    assert_eq!(hex(&encoded(&exchange)), golden);
}
