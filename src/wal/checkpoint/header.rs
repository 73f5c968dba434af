//! The header of a checkpoint: of which partition it is, and from where the stream goes on.
//!
//! Encoding asserts the bounds, decoding is total. Not here: whether the partition is the one asked for.
#![forbid(unsafe_code)]

use super::super::bytes::{put, u16_at, u32_at, u64_at};
use super::CheckpointWhy;
use crate::bounds::{CHECKPOINT_EXTRA_BYTES_MAX, CLOSED_EPOCHS_MAX};
use crate::types::{Epoch, PartitionId, ShardId, Slot, Stamp, Timestamp, Watermark};

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckpointHeader {
    /// See [`LogIdentity::cluster`](crate::wal::LogIdentity).
    pub cluster: u64,
    pub partition: PartitionId,
    /// Every slot below is inside: the stream is replayed from here.
    pub slot: Slot,
    /// The last promise that is inside, and its epoch.
    pub applied: Watermark,
    /// The closed epochs that are known, with their final watermarks.
    pub closed: Vec<(Stamp, Timestamp)>,
    /// What else the host keeps; opaque here, at most `CHECKPOINT_EXTRA_BYTES_MAX`.
    pub extra: Vec<u8>,
}

impl CheckpointHeader {
    /// Appends the header, and returns its checksum, from which the first part starts.
    pub(super) fn encode(&self, out: &mut Vec<u8>) -> u32 {
        let CheckpointHeader { cluster, partition, slot, applied, closed, extra } = self;
        assert!(closed.len() <= CLOSED_EPOCHS_MAX, "{} closed epochs", closed.len());
        assert!(extra.len() <= CHECKPOINT_EXTRA_BYTES_MAX, "{} B of extra", extra.len());
        let bytes = FIXED_BYTES + closed.len() * CLOSED_BYTES + extra.len();
        let word = |count: usize| u32::try_from(count).expect("within its bound").to_le_bytes();
        let begin = out.len();
        out.resize(begin + FIXED_BYTES, 0);
        let fixed = &mut out[begin..];
        put(fixed, 0, MAGIC);
        put(fixed, 12, &VERSION.to_le_bytes());
        put(fixed, 16, &word(bytes));
        put(fixed, 20, &cluster.to_le_bytes());
        put(fixed, 28, &partition.0.to_le_bytes());
        put(fixed, 32, &slot.0.to_le_bytes());
        put(fixed, 40, &applied.epoch.0.to_le_bytes());
        put(fixed, 48, &applied.timestamp.0.to_le_bytes());
        put(fixed, 56, &word(closed.len()));
        put(fixed, 60, &word(extra.len()));
        for (stamp, last) in closed {
            out.extend_from_slice(&stamp.shard.0.to_le_bytes());
            out.extend_from_slice(&stamp.epoch.0.to_le_bytes());
            out.extend_from_slice(&last.0.to_le_bytes());
        }
        out.extend_from_slice(extra);
        let crc = crc32c::crc32c(&out[begin + CRC_FROM..]);
        put(&mut out[begin..], 8, &crc.to_le_bytes());
        crc
    }

    /// How long the header is that begins with these `FIXED_BYTES`; believed only as far as it is bounded.
    pub(super) fn length(fixed: &[u8]) -> Result<usize, CheckpointWhy> {
        let bytes = usize::try_from(u32_at(fixed, 16)).map_err(|_| CheckpointWhy::Header)?;
        let sound = fixed[..8] == *MAGIC && (FIXED_BYTES..=HEADER_BYTES_MAX).contains(&bytes);
        if sound { Ok(bytes) } else { Err(CheckpointWhy::Header) }
    }

    /// A header of the length that `length` has told, and its checksum. The checksum is looked at first:
    /// a flipped version is corruption, not a version of the future.
    pub(super) fn decode(bytes: &[u8]) -> Result<(CheckpointHeader, u32), CheckpointWhy> {
        let crc = u32_at(bytes, 8);
        if crc != crc32c::crc32c(&bytes[CRC_FROM..]) {
            return Err(CheckpointWhy::Header);
        }
        let version = u32_at(bytes, 12);
        if version != VERSION {
            return Err(CheckpointWhy::Version { found: version });
        }
        let count = |at| usize::try_from(u32_at(bytes, at)).unwrap_or(usize::MAX);
        let (facts, extra) = (count(56), count(60));
        let bounded = facts <= CLOSED_EPOCHS_MAX && extra <= CHECKPOINT_EXTRA_BYTES_MAX;
        if !bounded || FIXED_BYTES + facts * CLOSED_BYTES + extra != bytes.len() || u16_at(bytes, 30) != 0 {
            return Err(CheckpointWhy::Header);
        }
        let (closed, extra) = bytes[FIXED_BYTES..].split_at(facts * CLOSED_BYTES);
        let fact = |fact: &[u8]| {
            let stamp = Stamp { shard: ShardId(u16_at(fact, 0)), epoch: Epoch(u64_at(fact, 2)) };
            (stamp, Timestamp(u64_at(fact, 10)))
        };
        let header = CheckpointHeader {
            cluster: u64_at(bytes, 20),
            partition: PartitionId(u16_at(bytes, 28)),
            slot: Slot(u64_at(bytes, 32)),
            applied: Watermark { epoch: Epoch(u64_at(bytes, 40)), timestamp: Timestamp(u64_at(bytes, 48)) },
            closed: closed.chunks_exact(CLOSED_BYTES).map(fact).collect(),
            extra: extra.to_vec(),
        };
        Ok((header, crc))
    }
}

pub(super) const FIXED_BYTES: usize = 64;
/// One closed epoch: shard, epoch, final watermark.
pub(super) const CLOSED_BYTES: usize = 2 + 8 + 8;
pub(super) const HEADER_BYTES_MAX: usize =
    FIXED_BYTES + CLOSED_EPOCHS_MAX * CLOSED_BYTES + CHECKPOINT_EXTRA_BYTES_MAX;
/// Magic, checksum, version and length keep their places in every later version.
const MAGIC: &[u8; 8] = b"MAKO-CKP";
const VERSION: u32 = 1;
const CRC_FROM: usize = 12;
