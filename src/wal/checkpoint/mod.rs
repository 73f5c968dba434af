//! The checkpoint of one partition, as bytes: what makes the log before a slot unnecessary.
//!
//! It travels between replicas, so it names cluster and partition, and neither node nor core. The
//! order and meaning of rows, and what `extra` holds, are for whoever writes it; files are `disk`'s.
//!
//! ```text
//! checkpoint = header, chunk*, footer
//! header     = magic 8, crc32c 4, version 4, bytes 4, cluster 8, partition 2, zero 2, slot 8, epoch 8, promise 8,
//!              closed epochs 4, extra bytes 4, (shard 2, epoch 8, final watermark 8)*, extra
//! chunk      = magic 4, crc32c 4, bytes 4, rows 4, number 8, (table 2, key 2 + n, timestamp 8, value 4 + n)*
//! footer     = magic 4, crc32c 4, bytes 4, zero 4, number 8, rows 8, bytes before the footer 8
//! ```
//! Integers are little-endian. A value of `0xffff_ffff` bytes is a tombstone.
//!
//! Invariants:
//!   1. A checksum covers all of its part but the checksum and what stands before it, and starts from
//!      the checksum of the part before: a part of another checkpoint, or one left out, does not check.
//!   2. A row is delivered only when its whole chunk checks. Only a reader that `finish`es has seen it all.
//!   3. Reading holds at most one part in memory, which is bounded, whatever the bytes claim.
#![forbid(unsafe_code)]

mod builder;
pub(crate) mod fuzzing;
mod header;
mod reader;
#[cfg(test)]
mod tests;

pub use builder::CheckpointBuilder;
pub use header::CheckpointHeader;
pub use reader::{CheckpointReader, CheckpointSummary, Piece};

use super::bytes::{put, u32_at, u64_at};
use crate::bounds::{
    CHECKPOINT_CHUNK_BYTES, CHECKPOINT_EXTRA_BYTES_MAX, CHECKPOINT_WRITE_BYTES_MAX, CLOSED_EPOCHS_MAX,
    KEY_BYTES_MAX, MIB, VALUE_BYTES_MAX,
};
use crate::types::{PartitionId, TableId, Timestamp};
use thiserror::Error;

/// The newest stable version of one key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CheckpointRow<'a> {
    pub table: TableId,
    pub key: &'a [u8],
    pub timestamp: Timestamp,
    /// `None`: the key was deleted, and that is still worth knowing.
    pub value: Option<&'a [u8]>,
}

/// Bytes that are not the checkpoint they should be. Nothing of it may be kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("offset {offset}: {why}")]
pub struct CheckpointDamage {
    /// Where the part begins that does not check.
    pub offset: u64,
    pub why: CheckpointWhy,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum CheckpointWhy {
    #[error("the header is corrupt, or this is no checkpoint")]
    Header,
    #[error("format version {found}, which this program does not read")]
    Version { found: u32 },
    #[error("it is of partition {} of cluster {cluster:016x}", .partition.0)]
    Foreign { cluster: u64, partition: PartitionId },
    #[error("a chunk is corrupt")]
    Chunk,
    #[error("chunk {found} stands where chunk {expected} belongs")]
    Order { found: u64, expected: u64 },
    #[error("a row is corrupt")]
    Row,
    #[error("the footer is corrupt, or counts something else")]
    Footer,
    #[error("it ends before its footer")]
    Truncated,
    #[error("something follows its footer")]
    Trailing,
}

impl CheckpointWhy {
    /// Nothing is corrupt: the checkpoint is another's, or another program's.
    pub fn is_unsuitable(self) -> bool {
        matches!(self, CheckpointWhy::Foreign { .. } | CheckpointWhy::Version { .. })
    }
}

/// What a chunk and the footer begin with.
#[derive(Clone, Copy)]
struct PartHeader {
    kind: PartKind,
    /// Behind this header.
    bytes: u32,
    rows: u32,
    /// Chunks before it.
    number: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum PartKind {
    Chunk,
    Footer,
}

impl PartKind {
    fn magic(self) -> &'static [u8; 4] {
        match self {
            PartKind::Chunk => b"mchk",
            PartKind::Footer => b"mend",
        }
    }
}

impl PartHeader {
    /// Writes the header over the first bytes of `part`, and returns the checksum the next part starts from.
    fn seal(&self, part: &mut [u8], chain: u32) -> u32 {
        put(part, 0, self.kind.magic());
        put(part, 8, &self.bytes.to_le_bytes());
        put(part, 12, &self.rows.to_le_bytes());
        put(part, 16, &self.number.to_le_bytes());
        let crc = crc32c::crc32c_append(chain, &part[PART_CRC_FROM..]);
        put(part, 4, &crc.to_le_bytes());
        crc
    }

    /// `None` for bytes that no part begins with. The checksum is not known yet, so the lengths are
    /// only bounded here.
    fn decode(bytes: &[u8]) -> Option<PartHeader> {
        let kinds = [PartKind::Chunk, PartKind::Footer];
        let kind = kinds.into_iter().find(|kind| bytes[..4] == *kind.magic())?;
        let header =
            PartHeader { kind, bytes: u32_at(bytes, 8), rows: u32_at(bytes, 12), number: u64_at(bytes, 16) };
        let fits = match kind {
            PartKind::Chunk => usize::try_from(header.bytes).is_ok_and(|bytes| bytes <= CHUNK_BYTES_MAX),
            PartKind::Footer => header.bytes == FOOTER_BYTES && header.rows == 0,
        };
        fits.then_some(header)
    }
}

const PART_HEADER_BYTES: usize = 24;
const PART_CRC_FROM: usize = 8;
/// What the footer holds behind its header.
const FOOTER_BYTES: u32 = 16;
/// A row without its key and its value.
const ROW_FIXED_BYTES: usize = 2 + 2 + 8 + 4;
/// A chunk is closed once it is full: the row that fills it may be the largest.
const CHUNK_BYTES_MAX: usize = CHECKPOINT_CHUNK_BYTES + ROW_FIXED_BYTES + KEY_BYTES_MAX + VALUE_BYTES_MAX;
/// In place of a value's length: a tombstone.
const TOMBSTONE: u32 = u32::MAX;

// What one call of the builder yields is at most a header, a chunk and a footer.
const _: () = assert!(
    header::HEADER_BYTES_MAX + 2 * PART_HEADER_BYTES + CHUNK_BYTES_MAX + FOOTER_BYTES as usize
        <= CHECKPOINT_WRITE_BYTES_MAX
);
const _: () = assert!(CHUNK_BYTES_MAX <= 2 * MIB && CHECKPOINT_EXTRA_BYTES_MAX <= MIB);
const _: () = assert!(CLOSED_EPOCHS_MAX * header::CLOSED_BYTES <= MIB);
const _: () = assert!(KEY_BYTES_MAX <= 0xffff && VALUE_BYTES_MAX < 0xffff_ffff);
