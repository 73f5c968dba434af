//! The header block of a segment, and the arithmetic between positions, segments and offsets.
//!
//! The header is written and synced before the segment gets its name, so a named segment without a
//! readable header is damage, never a torn write. What comes after the block is `run`'s.
#![forbid(unsafe_code)]

use super::bytes::{put, u16_at, u32_at, u64_at};
use super::replay::Why;
use crate::bounds::WAL_BLOCK_BYTES;
use crate::types::{CoreId, Lsn, NodeId};

/// Whose log it is. Every checksum of the log starts from it, so that a record of another core, node
/// or cluster does not check here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogIdentity {
    /// Hash of the cluster's name.
    pub cluster: u64,
    pub node: NodeId,
    pub core: CoreId,
}

impl LogIdentity {
    pub fn new(cluster_name: &str, node: NodeId, core: CoreId) -> LogIdentity {
        // FNV-1a: on disk for ever, so not a hash that a library may change.
        let mut cluster = 0xcbf2_9ce4_8422_2325_u64;
        for byte in cluster_name.bytes() {
            cluster = (cluster ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        LogIdentity { cluster, node, core }
    }

    /// What the checksums of runs and records start from.
    pub(super) fn seed(self) -> u32 {
        let mut bytes = [0; 12];
        put(&mut bytes, 0, &self.cluster.to_le_bytes());
        put(&mut bytes, 8, &self.node.0.to_le_bytes());
        put(&mut bytes, 10, &self.core.0.to_le_bytes());
        crc32c::crc32c(&bytes)
    }
}

/// The first block of a segment.
///
/// Little-endian: magic 8, crc32c 4 (of everything after it in the block), version 4, cluster 8,
/// node 2, core 2, zero 4, number 8, segment bytes 8, first lsn 8, zeros. The first three fields
/// keep their places in every later version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    pub identity: LogIdentity,
    pub number: u64,
    pub segment_bytes: u64,
}

impl SegmentHeader {
    pub fn encode(&self) -> [u8; WAL_BLOCK_BYTES] {
        let mut block = [0; WAL_BLOCK_BYTES];
        put(&mut block, 0, MAGIC);
        put(&mut block, 12, &VERSION.to_le_bytes());
        put(&mut block, 16, &self.identity.cluster.to_le_bytes());
        put(&mut block, 24, &self.identity.node.0.to_le_bytes());
        put(&mut block, 26, &self.identity.core.0.to_le_bytes());
        put(&mut block, 32, &self.number.to_le_bytes());
        put(&mut block, 40, &self.segment_bytes.to_le_bytes());
        put(&mut block, 48, &self.first().0.to_le_bytes());
        let crc = crc32c::crc32c(&block[CRC_FROM..]);
        put(&mut block, 8, &crc.to_le_bytes());
        block
    }

    /// Any bytes may be given; fewer than a block are no header.
    pub fn decode(bytes: &[u8]) -> Result<SegmentHeader, Why> {
        let block = bytes.get(..WAL_BLOCK_BYTES).ok_or(Why::SegmentHeader)?;
        if block[..8] != *MAGIC || u32_at(block, 8) != crc32c::crc32c(&block[CRC_FROM..]) {
            return Err(Why::SegmentHeader);
        }
        let version = u32_at(block, 12);
        if version != VERSION {
            return Err(Why::Version { found: version });
        }
        let identity = LogIdentity {
            cluster: u64_at(block, 16),
            node: NodeId(u16_at(block, 24)),
            core: CoreId(u16_at(block, 26)),
        };
        let header = SegmentHeader { identity, number: u64_at(block, 32), segment_bytes: u64_at(block, 40) };
        let whole =
            header.segment_bytes.is_multiple_of(BLOCK_BYTES) && header.segment_bytes >= 2 * BLOCK_BYTES;
        if !whole || u64_at(block, 48) != header.first().0 {
            return Err(Why::SegmentHeader);
        }
        Ok(header)
    }

    /// Where its first run begins.
    fn first(&self) -> Lsn {
        Lsn(self.number.wrapping_mul(self.segment_bytes).wrapping_add(BLOCK_BYTES))
    }
}

/// The position of the first run of segment `number`.
pub fn start_of(number: u64, segment_bytes: usize) -> Lsn {
    position(number, WAL_BLOCK_BYTES, segment_bytes)
}

/// The segment a position lies in.
pub fn segment_of(lsn: Lsn, segment_bytes: usize) -> u64 {
    lsn.0 / segment_bytes as u64
}

/// Saturates, so that a file with an absurd number is merely wrong.
pub(super) fn position(number: u64, offset: usize, segment_bytes: usize) -> Lsn {
    Lsn(number.saturating_mul(segment_bytes as u64).saturating_add(offset as u64))
}

const MAGIC: &[u8; 8] = b"MAKO-WAL";
const VERSION: u32 = 1;
const CRC_FROM: usize = 12;
const BLOCK_BYTES: u64 = WAL_BLOCK_BYTES as u64;

#[cfg(test)]
mod tests {
    use super::*;

    /// The header is all that keeps a disk of another node out of this one.
    #[test]
    fn every_bit_of_the_header_block_is_covered() {
        let identity = LogIdentity::new("demo", NodeId(3), CoreId(1));
        let header = SegmentHeader { identity, number: 7, segment_bytes: 65_536 };
        let block = header.encode();
        assert_eq!(SegmentHeader::decode(&block), Ok(header));
        for at in 0..block.len() {
            let mut flipped = block;
            flipped[at] ^= 0x10;
            assert_eq!(SegmentHeader::decode(&flipped), Err(Why::SegmentHeader), "byte {at}");
        }
        assert_eq!(SegmentHeader::decode(&block[..100]), Err(Why::SegmentHeader));
    }

    /// A newer program's log is not damage: the operator must hear which version it has.
    #[test]
    fn another_version_is_refused_by_its_number() {
        let identity = LogIdentity::new("demo", NodeId(3), CoreId(1));
        let mut block = SegmentHeader { identity, number: 7, segment_bytes: 65_536 }.encode();
        put(&mut block, 12, &2_u32.to_le_bytes());
        let crc = crc32c::crc32c(&block[CRC_FROM..]);
        put(&mut block, 8, &crc.to_le_bytes());
        assert_eq!(SegmentHeader::decode(&block), Err(Why::Version { found: 2 }));
    }
}
