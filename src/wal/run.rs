//! The header of a run: one group commit, the unit that recovery takes or leaves.
//!
//! Little-endian: magic 4, crc32c 4 (of the 32 bytes after it), bytes 4 (header and records, without
//! the padding), records 4, position 8, previous 8, settled 8. The records check themselves, so the
//! header can be closed last, when it is known how far the disk has got.
#![forbid(unsafe_code)]

use super::bytes::{put, u32_at, u64_at};
use crate::bounds::WAL_BLOCK_BYTES;
use crate::types::Lsn;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct RunHeader {
    /// Header and records, without the padding.
    pub(super) bytes: u32,
    pub(super) records: u32,
    pub(super) position: Lsn,
    /// The end, padding included, of the run before this one.
    pub(super) previous: Lsn,
    /// Everything below was on disk when this header was written.
    pub(super) settled: Lsn,
}

impl RunHeader {
    pub(super) fn encode(&self, seed: u32) -> [u8; RUN_HEADER_BYTES] {
        let mut header = [0; RUN_HEADER_BYTES];
        put(&mut header, 0, MAGIC);
        put(&mut header, 8, &self.bytes.to_le_bytes());
        put(&mut header, 12, &self.records.to_le_bytes());
        put(&mut header, 16, &self.position.0.to_le_bytes());
        put(&mut header, 24, &self.previous.0.to_le_bytes());
        put(&mut header, 32, &self.settled.0.to_le_bytes());
        let crc = crc32c::crc32c_append(seed, &header[CRC_FROM..]);
        put(&mut header, 4, &crc.to_le_bytes());
        header
    }

    /// `None` unless the bytes begin with a header written for this very log and position.
    pub(super) fn decode(bytes: &[u8], position: Lsn, seed: u32) -> Option<RunHeader> {
        let header = bytes.get(..RUN_HEADER_BYTES)?;
        if header[..4] != *MAGIC || u64_at(header, 16) != position.0 {
            return None;
        }
        if u32_at(header, 4) != crc32c::crc32c_append(seed, &header[CRC_FROM..]) {
            return None;
        }
        Some(RunHeader {
            bytes: u32_at(header, 8),
            records: u32_at(header, 12),
            position,
            previous: Lsn(u64_at(header, 24)),
            settled: Lsn(u64_at(header, 32)),
        })
    }
}

/// Bytes rounded up to whole blocks.
pub(super) fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(WAL_BLOCK_BYTES)
}

pub(super) const RUN_HEADER_BYTES: usize = 40;
const MAGIC: &[u8; 4] = b"mrun";
const CRC_FROM: usize = 8;
