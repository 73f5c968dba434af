//! What a fuzzer hands the log: records, segments and votes. Their checksums are made right first, or nothing would get past.
#![forbid(unsafe_code)]

use super::bytes::{put, u32_at};
use super::record::{self, RECORD_HEADER_BYTES};
use super::run::{RUN_HEADER_BYTES, RunHeader, padded};
use super::{LogIdentity, Record, RecordKind, Replay, Replayed, SegmentHeader, Votes, Wal, start_of};
use crate::bounds::WAL_BLOCK_BYTES;
use crate::types::{Ballot, CoreId, DiskId, Lsn, NodeId, PartitionId, Slot};

/// What decodes is encoded to a record that decodes to the same.
pub(crate) fn record(bytes: &[u8]) -> bool {
    let Ok(view) = record::decode(bytes) else { return false };
    let mut again = Vec::new();
    record::encode(&view.record, view.lsn, 0, &mut again);
    assert_eq!(record::decode(&again), Ok(view));
    // The checksum, and four bytes that mean nothing yet.
    let same = again[4..12] == bytes[4..12] && again[16..] == bytes[16..again.len()];
    assert!(same, "{view:?} has two encodings");
    true
}

/// The bytes behind the first block of a segment. What is recovered from it is a log that says the same.
pub(crate) fn segment(bytes: &[u8]) -> bool {
    let identity = identity();
    let header = SegmentHeader { identity, number: 0, segment_bytes: SEGMENT_BYTES as u64 };
    let mut segment = header.encode().to_vec();
    segment.extend_from_slice(bytes.get(..SEGMENT_BYTES - WAL_BLOCK_BYTES).unwrap_or(bytes));
    segment.resize(SEGMENT_BYTES, 0);
    for offset in (WAL_BLOCK_BYTES..SEGMENT_BYTES).step_by(WAL_BLOCK_BYTES) {
        sum_run(&mut segment[offset..], identity.seed());
    }
    let mut replay = Replay::new(identity, SEGMENT_BYTES);
    replay.on_head(0, &segment[..Replay::HEAD_BYTES]);
    let (mut records, mut counted) = (0, 0);
    let _ = replay.on_segment_runs(0, &segment, &mut |piece| match piece {
        Replayed::Run(run) => counted += run.records,
        Replayed::Record(view) => {
            records += 1;
            let mut again = Vec::new();
            record::encode(&view.record, view.lsn, 0, &mut again);
            assert_eq!(record::decode(&again), Ok(view));
        }
    });
    assert_eq!(records, counted);
    let end = replay.finish();
    assert!(end.start <= end.end && end.end <= Lsn(SEGMENT_BYTES as u64), "{end:?}");
    records > 0
}

/// Writes the checksums of the run that `bytes` begin with, and of its records, as far as they are there.
fn sum_run(bytes: &mut [u8], seed: u32) {
    let length = (u32_at(bytes, 8) as usize).min(bytes.len());
    let mut at = RUN_HEADER_BYTES;
    while length.saturating_sub(at) >= RECORD_HEADER_BYTES {
        let end = at.saturating_add(RECORD_HEADER_BYTES).saturating_add(u32_at(bytes, at + 4) as usize);
        if end > length {
            break;
        }
        let sum = crc32c::crc32c_append(seed, &bytes[at + 4..end]);
        put(bytes, at, &sum.to_le_bytes());
        at = end;
    }
    if bytes.starts_with(b"mrun") {
        let sum = crc32c::crc32c_append(seed, &bytes[8..RUN_HEADER_BYTES]);
        put(bytes, 4, &sum.to_le_bytes());
    }
}

/// What decodes is encoded to a copy that decodes to the same.
pub(crate) fn votes(bytes: &[u8]) -> bool {
    let mut bytes = bytes.to_vec();
    if let Some(covered) = Votes::ends(&bytes).and_then(|(_, end)| bytes.get(12..end)) {
        let sum = crc32c::crc32c(covered);
        put(&mut bytes, 8, &sum.to_le_bytes());
    }
    let Ok((identity, generation, votes)) = Votes::decode_anyones(&bytes) else { return false };
    let mut again = Vec::new();
    votes.encode(identity, generation, &mut again);
    assert_eq!(Votes::decode(&again, identity), Ok((generation, votes)));
    true
}

pub(crate) fn record_seeds() -> Vec<Vec<u8>> {
    let encoded = |record: &Record<'_>| {
        let mut bytes = Vec::new();
        record::encode(record, Lsn(4_200), 0, &mut bytes);
        bytes
    };
    records().iter().map(encoded).collect()
}

pub(crate) fn segment_seeds() -> Vec<Vec<u8>> {
    let mut wal = Wal::new(identity(), SEGMENT_BYTES, 0, start_of(0, SEGMENT_BYTES));
    let mut bytes = Vec::new();
    for record in records() {
        let end = wal.append(record);
        let write = wal.next_write(padded(RUN_HEADER_BYTES + 1_000)).expect("a record was appended");
        bytes.extend_from_slice(write.bytes);
        wal.on_durable(end);
    }
    let whole = RunHeader::decode(&bytes, start_of(0, SEGMENT_BYTES), identity().seed());
    assert!(whole.is_some(), "a run was written");
    vec![bytes]
}

pub(crate) fn votes_seeds() -> Vec<Vec<u8>> {
    let mut votes = Votes::default();
    let mut seeds = Vec::new();
    for partition in 0..4 {
        let mut bytes = Vec::new();
        votes.encode(identity(), u64::from(partition), &mut bytes);
        seeds.push(bytes);
        votes.raise(PartitionId(partition), Ballot { round: 3, node: NodeId(partition) });
        votes.cover(PartitionId(partition), Slot(9));
        votes.meet(NodeId(partition), DiskId(5));
    }
    seeds
}

fn records() -> [Record<'static>; 4] {
    let ballot = Ballot { round: 2, node: NodeId(1) };
    let accept = Record {
        kind: RecordKind::Accept,
        partition: PartitionId(3),
        ballot,
        slot: Slot(8),
        payload: b"a batch",
    };
    [
        Record { kind: RecordKind::Vote, payload: &[], ..accept },
        accept,
        Record { kind: RecordKind::Chosen, payload: &[], ..accept },
        Record::of_peer(NodeId(2), DiskId(77)),
    ]
}

fn identity() -> LogIdentity {
    LogIdentity::new("fuzz", NodeId(0), CoreId(0))
}

const SEGMENT_BYTES: usize = 8 * WAL_BLOCK_BYTES;
