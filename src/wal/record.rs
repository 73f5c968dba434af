//! One record: what the acceptor of one partition must not forget, and its bytes.
//!
//! Encoding appends to the run being filled; decoding is total on hostile bytes. What a payload
//! means is for whoever wrote it.
#![forbid(unsafe_code)]

use super::bytes::{put, u16_at, u32_at, u64_at};
use super::replay::Why;
use crate::types::{Ballot, DiskId, Lsn, NodeId, PartitionId, Slot};

/// What a record says. The numbers are on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecordKind {
    /// A promised ballot; the slot is 0 unless the acceptor gives it a meaning.
    Vote = 1,
    /// A batch accepted in a slot.
    Accept = 2,
    /// Every slot below this one is chosen, as last accepted before this record. Without a payload.
    Chosen = 3,
    /// The node of the ballot, whose round means nothing, is known by the disk that the slot names.
    Peer = 4,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record<'a> {
    pub kind: RecordKind,
    pub partition: PartitionId,
    pub ballot: Ballot,
    pub slot: Slot,
    pub payload: &'a [u8],
}

impl Record<'_> {
    /// That a peer is known by this disk; of no partition in particular.
    pub fn of_peer(node: NodeId, disk: DiskId) -> Record<'static> {
        let (ballot, slot) = (Ballot { round: 0, node }, Slot(disk.0));
        Record { kind: RecordKind::Peer, partition: PartitionId(0), ballot, slot, payload: &[] }
    }

    /// What a record of that kind says.
    pub fn peer(&self) -> Option<(NodeId, DiskId)> {
        (self.kind == RecordKind::Peer).then_some((self.ballot.node, DiskId(self.slot.0)))
    }
}

/// A record read back, and the position that made it durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordView<'a> {
    pub lsn: Lsn,
    pub record: Record<'a>,
}

/// A record read back and kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OwnedRecord {
    pub lsn: Lsn,
    pub kind: RecordKind,
    pub partition: PartitionId,
    pub ballot: Ballot,
    pub slot: Slot,
    pub payload: Vec<u8>,
}

impl From<RecordView<'_>> for OwnedRecord {
    fn from(view: RecordView<'_>) -> OwnedRecord {
        let Record { kind, partition, ballot, slot, payload } = view.record;
        OwnedRecord { lsn: view.lsn, kind, partition, ballot, slot, payload: payload.to_vec() }
    }
}

/// The header, little-endian: crc32c 4 (of everything after it, payload included), payload bytes 4,
/// kind 1, version 1, partition 2, zero 4, ballot 8, slot 8, lsn 8 (the position of the record's end).
pub(super) const RECORD_HEADER_BYTES: usize = 40;

pub(super) fn encode(record: &Record<'_>, lsn: Lsn, seed: u32, out: &mut Vec<u8>) {
    let length = u32::try_from(record.payload.len()).expect("a record fits in a segment");
    let mut header = [0; RECORD_HEADER_BYTES];
    put(&mut header, 4, &length.to_le_bytes());
    header[8] = record.kind as u8;
    header[9] = VERSION;
    put(&mut header, 10, &record.partition.0.to_le_bytes());
    put(&mut header, 16, &record.ballot.pack().to_le_bytes());
    put(&mut header, 24, &record.slot.0.to_le_bytes());
    put(&mut header, 32, &lsn.0.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c_append(seed, &header[4..]), record.payload);
    put(&mut header, 0, &crc.to_le_bytes());
    out.extend_from_slice(&header);
    out.extend_from_slice(record.payload);
}

/// The record that begins at the start of `bytes`; it ends `RECORD_HEADER_BYTES + payload.len()` on.
pub(super) fn decode(bytes: &[u8]) -> Result<RecordView<'_>, Why> {
    let header = bytes.get(..RECORD_HEADER_BYTES).ok_or(Why::Record)?;
    let length = usize::try_from(u32_at(header, 4)).map_err(|_| Why::Record)?;
    let payload = bytes[RECORD_HEADER_BYTES..].get(..length).ok_or(Why::Record)?;
    let kind = match header[8] {
        1 => RecordKind::Vote,
        2 => RecordKind::Accept,
        3 => RecordKind::Chosen,
        4 => RecordKind::Peer,
        found => return Err(Why::Kind { found }),
    };
    if header[9] != VERSION {
        return Err(Why::Version { found: u32::from(header[9]) });
    }
    let ballot = Ballot::unpack(u64_at(header, 16)).ok_or(Why::Record)?;
    let partition = PartitionId(u16_at(header, 10));
    let record = Record { kind, partition, ballot, slot: Slot(u64_at(header, 24)), payload };
    Ok(RecordView { lsn: Lsn(u64_at(header, 32)), record })
}

/// Like `decode`, and the checksum holds and the record ends at `position` plus its own length. The
/// checksum is looked at first: a flipped kind is corruption, not a kind of the future.
pub(super) fn verify(bytes: &[u8], position: Lsn, seed: u32) -> Result<RecordView<'_>, Why> {
    let header = bytes.get(..RECORD_HEADER_BYTES).ok_or(Why::Record)?;
    let length = usize::try_from(u32_at(header, 4)).map_err(|_| Why::Record)?;
    let whole =
        RECORD_HEADER_BYTES.checked_add(length).and_then(|end| bytes.get(..end)).ok_or(Why::Record)?;
    if u32_at(header, 0) != crc32c::crc32c_append(seed, &whole[4..]) {
        return Err(Why::Record);
    }
    let view = decode(whole)?;
    if view.lsn.0 != position.0.saturating_add(whole.len() as u64) {
        return Err(Why::Record);
    }
    Ok(view)
}

/// Version of the record's layout.
const VERSION: u8 = 1;
