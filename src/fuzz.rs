//! Every decoder of bytes that others have written, as a function from any bytes to a verdict: what fuzzers drive.
//!
//! `tests/fuzz.rs` drives them over a kept corpus and its mutations, with any compiler; `bench/fuzzer.rs` under libFuzzer.
//! A target panics when the decoder has a fault: it broke off, took what has two encodings, or gave what does not encode to
//! the same. How much memory it took is measured from outside.
#![forbid(unsafe_code)]

use crate::config::Config;
use crate::http::read_answer;
use crate::rpc::fuzzing as rpc;
use crate::server::parse_keys;
use crate::types::{Ballot, DiskId, Epoch, NodeId, PartitionId, ShardId, Slot, TableId, Timestamp, TxnId};
use crate::wal::checkpoint::fuzzing as checkpoint;
use crate::wal::fuzzing as wal;
use crate::wire::stream::{Fetched, Rejected, StreamMessage};
use crate::wire::{BatchBuilder, BatchKind, BatchView, Deps, Message, encoded};

/// One decoder.
#[derive(Clone, Copy)]
pub struct Target {
    pub name: &'static str,
    /// Whether the bytes meant something.
    pub run: fn(&[u8]) -> bool,
    /// Bytes that do.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// What a run may allocate, however short its input.
    pub memory_bytes: usize,
}

pub const TARGETS: &[Target] = &[
    Target { name: "frame", run: rpc::frame, seeds: rpc::frame_seeds, memory_bytes: 4 << 10 },
    Target { name: "session", run: rpc::session, seeds: rpc::session_seeds, memory_bytes: 64 << 10 },
    Target { name: "sealed", run: rpc::sealed, seeds: rpc::frame_seeds, memory_bytes: 64 << 10 },
    Target { name: "message", run: message, seeds: message_seeds, memory_bytes: 8 << 10 },
    Target { name: "batch", run: batch, seeds: batch_seeds, memory_bytes: 8 << 10 },
    Target { name: "record", run: wal::record, seeds: wal::record_seeds, memory_bytes: 4 << 10 },
    Target { name: "segment", run: wal::segment, seeds: wal::segment_seeds, memory_bytes: 128 << 10 },
    Target { name: "votes", run: wal::votes, seeds: wal::votes_seeds, memory_bytes: 128 << 10 },
    Target {
        name: "checkpoint",
        run: checkpoint::checkpoint,
        seeds: checkpoint::checkpoint_seeds,
        memory_bytes: 2 << 20,
    },
    Target { name: "cluster-file", run: cluster_file, seeds: cluster_file_seeds, memory_bytes: 1 << 20 },
    Target { name: "key-file", run: key_file, seeds: key_file_seeds, memory_bytes: 16 << 10 },
    Target { name: "http-answer", run: http_answer, seeds: http_answer_seeds, memory_bytes: 512 << 10 },
];

/// A message between partitions, of whatever kind: one value has one encoding.
fn message(bytes: &[u8]) -> bool {
    let Ok(message) = Message::decode(bytes) else { return false };
    assert_eq!(encoded(&message), bytes, "{message:?} has two encodings");
    true
}

/// A view walks what `parse` has walked, and cannot fail.
fn batch(bytes: &[u8]) -> bool {
    let Ok(view) = BatchView::parse(bytes) else { return false };
    let (mut entries, mut highest) = (0, Timestamp::default());
    for entry in view.entries() {
        entries += 1;
        highest = highest.max(entry.timestamp);
        assert!(entry.participants().len() <= bytes.len() && entry.writes().count() <= bytes.len());
    }
    let count = if view.kind() == BatchKind::Facts { view.facts().count() } else { entries };
    assert!(count == view.count() && highest == view.highest(), "{view:?}");
    true
}

/// What is taken means what it is written as.
fn cluster_file(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    match Config::parse(&text, "a file", CPUS) {
        Ok(config) => {
            assert_eq!(Config::parse(&config.to_toml(), "written", CPUS), Ok(config));
            true
        }
        Err(mistakes) => {
            assert!(!mistakes.0.is_empty(), "it was refused without a reason");
            false
        }
    }
}

fn key_file(bytes: &[u8]) -> bool {
    parse_keys(&String::from_utf8_lossy(bytes)).is_ok()
}

/// What somebody at the other end of an HTTP connection says.
fn http_answer(bytes: &[u8]) -> bool {
    read_answer(bytes)
}

fn message_seeds() -> Vec<Vec<u8>> {
    let (partition, epoch, from) = (PartitionId(3), Epoch(65_537), NodeId(1));
    let txn = TxnId { home: partition, epoch, number: 7 };
    let messages = [
        Message::Read { partition, epoch, txn, table: TableId(1), key: b"key" },
        Message::Commit {
            partition,
            epoch,
            txn,
            timestamp: Timestamp(9),
            deps: Deps::new(),
            participants: [partition, PartitionId(4)].into_iter().collect(),
        },
        Message::Prepare {
            partition,
            epoch,
            txn,
            hold_ns: 1,
            deps: Deps::new(),
            reads: Vec::new(),
            scans: Vec::new(),
            writes: Vec::new(),
        },
        Message::Abort { partition, epoch, txn },
        Message::Vote { partition, epoch, txn, proposal: Timestamp(9) },
        Message::CheckpointFetch { partition, from, checkpoint: 1, offset: 2 },
        Message::CheckpointPart { partition, from, checkpoint: 1, offset: 2, total: 9, bytes: b"part" },
        Message::Greet { partition, from, disk: DiskId(5), rebuilds: false },
        Message::Exchange {
            vector: Default::default(),
            wanted: [(ShardId(1), Timestamp(2))].into_iter().collect(),
            closed: Default::default(),
        },
    ];
    let ballot = Ballot { round: 1, node: from };
    let stream = [
        StreamMessage::Rejected(Rejected { promised: ballot }),
        StreamMessage::Fetched(Fetched {
            ballot,
            entries: vec![(Slot(4), b"batch"[..].into())],
            floor: Slot(1),
            chosen_end: Slot(5),
            voted_end: Slot(0),
        }),
    ];
    let stream = stream.map(|message| encoded(&Message::Stream { partition, from, message }));
    messages.iter().map(encoded).chain(stream).collect()
}

fn batch_seeds() -> Vec<Vec<u8>> {
    let (home, epoch) = (PartitionId(0), Epoch(65_537));
    let mut builder = BatchBuilder::new();
    let seeds = [BatchKind::Entries, BatchKind::Noop].map(|kind| {
        if kind == BatchKind::Entries {
            let writes = [(TableId(0), &b"a"[..], Some(&b"value"[..])), (TableId(1), b"b", None)];
            let txn = TxnId { home, epoch, number: 1 };
            builder.push_entry(Timestamp(4), txn, &Deps::new(), &[home], writes.into_iter());
        }
        builder.finish(epoch, Timestamp(5), kind).to_vec()
    });
    let facts = BatchBuilder::facts(epoch, Timestamp(5), &[(Epoch(65_536), Timestamp(3))]);
    seeds.into_iter().chain([facts.to_vec()]).collect()
}

fn cluster_file_seeds() -> Vec<Vec<u8>> {
    vec![include_bytes!("../testdata/config/good.toml").to_vec()]
}

fn key_file_seeds() -> Vec<Vec<u8>> {
    let (one, two) = ("0f".repeat(32), "A1".repeat(32));
    vec![format!("{one}\n").into_bytes(), format!("# of a cluster\n{one}  # new\n\n{two}\n").into_bytes()]
}

fn http_answer_seeds() -> Vec<Vec<u8>> {
    let answers = [
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nyes",
        "HTTP/1.1 307 Temporary Redirect\r\nlocation: http://127.0.0.1:9181/move-leader?shard=0&to=n1\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 409 Conflict\r\ntransfer-encoding: chunked\r\n\r\n5\r\nerror\r\n0\r\n\r\n",
        "HTTP/1.0 503 Service Unavailable\r\n\r\nerror: no",
    ];
    answers.map(|answer| answer.as_bytes().to_vec()).to_vec()
}

const CPUS: usize = 4;
