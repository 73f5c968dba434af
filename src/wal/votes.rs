//! The newest promised ballot of every partition of a core, as bytes: the second home of its votes.
//!
//! The log holds them as well, until it is truncated or damaged. Here they are a block or few that hold all
//! of them at once, written as a whole, in two copies one after the other: `disk` sees to the order.
//!
//! Little-endian: magic 8, crc32c 4 (of everything after it), version 4, cluster 8, node 2, core 2, count 4,
//! generation 8, zeros to 64, then for each partition with a vote partition 2, zero 6, ballot 8; zeros to
//! whole blocks.
//!
//! Invariant: a ballot only grows. A copy with a higher generation holds no lower ballot.
#![forbid(unsafe_code)]

use super::bytes::{put, u16_at, u32_at, u64_at};
use super::replay::Why;
use super::run::padded;
use super::segment::LogIdentity;
use crate::bounds::{PARTITIONS_MAX, VOTES_COPY_BYTES};
use crate::types::{Ballot, CoreId, NodeId, PartitionId};

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Votes {
    /// By partition; the lowest ballot stands for none. Sized once, so that a vote allocates nothing.
    ballots: Box<[Ballot]>,
}

impl Default for Votes {
    fn default() -> Votes {
        Votes { ballots: vec![Ballot::default(); PARTITIONS_MAX].into_boxed_slice() }
    }
}

impl Votes {
    /// Takes a vote in; whether it is above what is known.
    pub fn raise(&mut self, partition: PartitionId, ballot: Ballot) -> bool {
        let place = &mut self.ballots[usize::from(partition.0)];
        let news = ballot > *place;
        if news {
            *place = ballot;
        }
        news
    }

    pub fn merge(&mut self, other: &Votes) {
        for (partition, ballot) in other.iter() {
            self.raise(partition, ballot);
        }
    }

    pub fn get(&self, partition: PartitionId) -> Option<Ballot> {
        let ballot = self.ballots.get(usize::from(partition.0)).copied()?;
        (ballot > Ballot::default()).then_some(ballot)
    }

    /// The partitions that have voted, ascending, with their newest ballots.
    pub fn iter(&self) -> impl Iterator<Item = (PartitionId, Ballot)> + '_ {
        (0..)
            .map(PartitionId)
            .zip(self.ballots.iter().copied())
            .filter(|(_, ballot)| *ballot > Ballot::default())
    }

    /// Fills `bytes` with a copy, whole blocks of it.
    pub fn encode(&self, identity: LogIdentity, generation: u64, bytes: &mut Vec<u8>) {
        bytes.clear();
        bytes.resize(HEADER_BYTES, 0);
        let mut count = 0_u32;
        for (partition, ballot) in self.iter() {
            count += 1;
            bytes.extend_from_slice(&partition.0.to_le_bytes());
            bytes.extend_from_slice(&[0; 6]);
            bytes.extend_from_slice(&ballot.pack().to_le_bytes());
        }
        bytes.resize(padded(bytes.len()), 0);
        put(bytes, 0, MAGIC);
        put(bytes, 12, &VERSION.to_le_bytes());
        put(bytes, 16, &identity.cluster.to_le_bytes());
        put(bytes, 24, &identity.node.0.to_le_bytes());
        put(bytes, 26, &identity.core.0.to_le_bytes());
        put(bytes, 28, &count.to_le_bytes());
        put(bytes, 32, &generation.to_le_bytes());
        let end = HEADER_BYTES + self.iter().count() * ENTRY_BYTES;
        let crc = crc32c::crc32c(&bytes[CRC_FROM..end]);
        put(bytes, 8, &crc.to_le_bytes());
    }

    /// The copy that `bytes` begin with, and its generation. What follows it may be of an older, longer one.
    pub fn decode(bytes: &[u8], identity: LogIdentity) -> Result<(u64, Votes), Why> {
        let (found, generation, votes) = Votes::decode_anyones(bytes)?;
        if found != identity {
            return Err(Why::Foreign { found });
        }
        Ok((generation, votes))
    }

    /// Like `decode`, whoever wrote it.
    pub fn decode_anyones(bytes: &[u8]) -> Result<(LogIdentity, u64, Votes), Why> {
        let header = bytes.get(..HEADER_BYTES).ok_or(Why::Votes)?;
        let count = usize::try_from(u32_at(header, 28)).unwrap_or(usize::MAX);
        if header[..8] != *MAGIC || count > PARTITIONS_MAX {
            return Err(Why::Votes);
        }
        let covered = bytes.get(CRC_FROM..HEADER_BYTES + count * ENTRY_BYTES).ok_or(Why::Votes)?;
        if u32_at(header, 8) != crc32c::crc32c(covered) {
            return Err(Why::Votes);
        }
        let version = u32_at(header, 12);
        if version != VERSION {
            return Err(Why::Version { found: version });
        }
        let mut votes = Votes::default();
        for entry in bytes[HEADER_BYTES..].chunks_exact(ENTRY_BYTES).take(count) {
            let partition = PartitionId(u16_at(entry, 0));
            let ballot = Ballot::unpack(u64_at(entry, 8)).ok_or(Why::Votes)?;
            if usize::from(partition.0) >= PARTITIONS_MAX || !votes.raise(partition, ballot) {
                return Err(Why::Votes);
            }
        }
        let identity = LogIdentity {
            cluster: u64_at(header, 16),
            node: NodeId(u16_at(header, 24)),
            core: CoreId(u16_at(header, 26)),
        };
        Ok((identity, u64_at(header, 32), votes))
    }
}

/// Magic, checksum and version keep their places in every later version.
const MAGIC: &[u8; 8] = b"MAKO-VOT";
const VERSION: u32 = 1;
const CRC_FROM: usize = 12;
const HEADER_BYTES: usize = 64;
const ENTRY_BYTES: usize = 16;
const _: () = assert!(HEADER_BYTES + PARTITIONS_MAX * ENTRY_BYTES <= VOTES_COPY_BYTES);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bounds::WAL_BLOCK_BYTES;

    fn identity() -> LogIdentity {
        LogIdentity::new("demo", NodeId(2), CoreId(1))
    }

    fn ballot(round: u32) -> Ballot {
        Ballot { round, node: NodeId(1) }
    }

    /// As many as there may be must fit, or the last partition forgets what it promised.
    #[test]
    fn the_votes_of_every_partition_come_back() {
        for count in [0, 1, 5, PARTITIONS_MAX] {
            let mut votes = Votes::default();
            for partition in (0..).map(PartitionId).take(count) {
                assert!(votes.raise(partition, ballot(u32::from(partition.0) + 1)));
            }
            let mut bytes = Vec::new();
            votes.encode(identity(), 9, &mut bytes);
            assert!(bytes.len().is_multiple_of(WAL_BLOCK_BYTES) && bytes.len() <= VOTES_COPY_BYTES);
            assert_eq!(Votes::decode(&bytes, identity()), Ok((9, votes)));
        }
    }

    /// An older ballot taken for news takes a promise back.
    #[test]
    fn a_ballot_only_grows() {
        let mut votes = Votes::default();
        assert!(votes.raise(PartitionId(3), ballot(7)));
        assert!(!votes.raise(PartitionId(3), ballot(7)) && !votes.raise(PartitionId(3), ballot(6)));
        let mut older = Votes::default();
        older.raise(PartitionId(3), ballot(2));
        older.raise(PartitionId(4), ballot(2));
        votes.merge(&older);
        assert_eq!(
            votes.iter().collect::<Vec<_>>(),
            [(PartitionId(3), ballot(7)), (PartitionId(4), ballot(2))]
        );
        assert_eq!((votes.get(PartitionId(3)), votes.get(PartitionId(5))), (Some(ballot(7)), None));
    }

    /// A flipped bit may make a lower ballot of a higher one.
    #[test]
    fn every_flipped_bit_and_every_cut_of_a_copy_is_noticed() {
        let mut votes = Votes::default();
        (1..9).for_each(|partition| assert!(votes.raise(PartitionId(partition), ballot(77))));
        let mut bytes = Vec::new();
        votes.encode(identity(), 3, &mut bytes);
        let covered = HEADER_BYTES + 8 * ENTRY_BYTES;
        for bit in 0..covered * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Votes::decode(&flipped, identity()), Err(Why::Votes), "bit {bit}");
        }
        for cut in 0..covered {
            assert_eq!(Votes::decode(&bytes[..cut], identity()), Err(Why::Votes), "cut at {cut}");
        }
        let other = LogIdentity { core: CoreId(2), ..identity() };
        assert_eq!(Votes::decode(&bytes, other), Err(Why::Foreign { found: identity() }));
    }
}
