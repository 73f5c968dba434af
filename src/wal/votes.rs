//! What a core must know even when its log does not tell: the newest promised ballot of every partition, how
//! much of the log is gone, which checkpoints stand for it, and by which disks its peers are known.
//!
//! The log holds the votes as well, until it is truncated or damaged. Here they are a block or few that hold all
//! of them at once, written as a whole, in two copies one after the other: `disk` sees to the order.
//!
//! Little-endian: magic 8, crc32c 4 (of everything after it), version 4, cluster 8, node 2, core 2, count 4,
//! generation 8, oldest segment 8, peers 4, zeros to 64; then for each partition partition 2, zero 6, ballot 8,
//! slot 8; for each peer node 2, zero 6, disk 8; zeros to whole blocks.
//!
//! Invariant: ballots, slots and the oldest segment only grow, but for a rebuild. A copy with a higher
//! generation holds no lower ones.
#![forbid(unsafe_code)]

use super::bytes::{put, u16_at, u32_at, u64_at};
use super::replay::Why;
use super::run::padded;
use super::segment::LogIdentity;
use crate::bounds::{NODES_MAX, PARTITIONS_MAX, VOTES_COPY_BYTES};
use crate::types::{Ballot, CoreId, DiskId, NodeId, PartitionId, Slot};
use std::collections::BTreeMap;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Votes {
    /// By partition; the lowest ballot stands for none. Sized once, so that a vote allocates nothing.
    ballots: Box<[Ballot]>,
    /// By partition: every slot below it is in a checkpoint that was committed here.
    covered: Box<[Slot]>,
    /// No segment before it is needed.
    oldest: u64,
    /// By which disk each peer was known last.
    peers: BTreeMap<NodeId, DiskId>,
}

impl Default for Votes {
    fn default() -> Votes {
        Votes {
            ballots: vec![Ballot::default(); PARTITIONS_MAX].into_boxed_slice(),
            covered: vec![Slot(0); PARTITIONS_MAX].into_boxed_slice(),
            oldest: 0,
            peers: BTreeMap::new(),
        }
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

    /// A checkpoint of every slot below `slot` was committed; whether that is above what is known.
    pub fn cover(&mut self, partition: PartitionId, slot: Slot) -> bool {
        let place = &mut self.covered[usize::from(partition.0)];
        let news = slot > *place;
        *place = slot.max(*place);
        news
    }

    /// A peer is known by this disk from now on; whether that is news.
    pub fn meet(&mut self, node: NodeId, disk: DiskId) -> bool {
        self.peers.insert(node, disk) != Some(disk)
    }

    /// By which disks peers are known.
    pub fn peers(&self) -> impl Iterator<Item = (NodeId, DiskId)> + '_ {
        self.peers.iter().map(|(node, disk)| (*node, *disk))
    }

    /// Where the checkpoint of a partition must reach.
    pub fn covered(&self, partition: PartitionId) -> Slot {
        self.covered.get(usize::from(partition.0)).copied().unwrap_or_default()
    }

    /// The partitions with a committed checkpoint, ascending.
    pub fn covers(&self) -> impl Iterator<Item = (PartitionId, Slot)> + '_ {
        self.entries().map(|(partition, _, slot)| (partition, slot)).filter(|(_, slot)| *slot > Slot(0))
    }

    /// Segments before it are to go; whether that is news.
    pub fn truncate(&mut self, oldest: u64) -> bool {
        let news = oldest > self.oldest;
        self.oldest = oldest.max(self.oldest);
        news
    }

    /// The log begins there: what was to go and is here is asked for again.
    pub fn begins_at(&mut self, oldest: u64) {
        self.oldest = self.oldest.min(oldest);
    }

    /// The log must begin there, or before.
    pub fn oldest(&self) -> u64 {
        self.oldest
    }

    /// Log and checkpoints were given up: what is there is all there need be.
    pub fn begin_anew(&mut self, oldest: u64, checkpoints: &[(PartitionId, Slot)]) {
        self.oldest = oldest;
        self.covered.fill(Slot(0));
        for (partition, slot) in checkpoints {
            self.cover(*partition, *slot);
        }
    }

    /// Of two disks that a peer was known by either will do: what was told of it rests on both homes.
    pub fn merge(&mut self, other: &Votes) {
        for (partition, ballot, slot) in other.entries() {
            self.raise(partition, ballot);
            self.cover(partition, slot);
        }
        self.truncate(other.oldest);
        self.peers.extend(other.peers());
    }

    /// Every partition of which anything is known, ascending.
    fn entries(&self) -> impl Iterator<Item = (PartitionId, Ballot, Slot)> + '_ {
        let both = self.ballots.iter().copied().zip(self.covered.iter().copied());
        let all =
            (0..).map(PartitionId).zip(both).map(|(partition, (ballot, slot))| (partition, ballot, slot));
        all.filter(|(_, ballot, slot)| *ballot > Ballot::default() || *slot > Slot(0))
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
        for (partition, ballot, slot) in self.entries() {
            count += 1;
            bytes.extend_from_slice(&partition.0.to_le_bytes());
            bytes.extend_from_slice(&[0; 6]);
            bytes.extend_from_slice(&ballot.pack().to_le_bytes());
            bytes.extend_from_slice(&slot.0.to_le_bytes());
        }
        for (node, disk) in &self.peers {
            bytes.extend_from_slice(&node.0.to_le_bytes());
            bytes.extend_from_slice(&[0; 6]);
            bytes.extend_from_slice(&disk.0.to_le_bytes());
        }
        let peers = u32::try_from(self.peers.len()).expect("at most NODES_MAX");
        let end = bytes.len();
        bytes.resize(padded(bytes.len()), 0);
        put(bytes, 0, MAGIC);
        put(bytes, 12, &VERSION.to_le_bytes());
        put(bytes, 16, &identity.cluster.to_le_bytes());
        put(bytes, 24, &identity.node.0.to_le_bytes());
        put(bytes, 26, &identity.core.0.to_le_bytes());
        put(bytes, 28, &count.to_le_bytes());
        put(bytes, 32, &generation.to_le_bytes());
        put(bytes, 40, &self.oldest.to_le_bytes());
        put(bytes, 48, &peers.to_le_bytes());
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

    /// Where the votes of a copy end, and where its peers do; `None` for what begins like none.
    pub(super) fn ends(bytes: &[u8]) -> Option<(usize, usize)> {
        let header = bytes.get(..HEADER_BYTES)?;
        let count = usize::try_from(u32_at(header, 28)).ok().filter(|count| *count <= PARTITIONS_MAX)?;
        let peers = usize::try_from(u32_at(header, 48)).ok().filter(|peers| *peers <= NODES_MAX)?;
        let peers_from = HEADER_BYTES + count * ENTRY_BYTES;
        (header[..8] == *MAGIC).then_some((peers_from, peers_from + peers * PEER_BYTES))
    }

    /// Like `decode`, whoever wrote it.
    pub fn decode_anyones(bytes: &[u8]) -> Result<(LogIdentity, u64, Votes), Why> {
        let (peers_from, end) = Votes::ends(bytes).ok_or(Why::Votes)?;
        let (header, count) = (&bytes[..HEADER_BYTES], (peers_from - HEADER_BYTES) / ENTRY_BYTES);
        let covered = bytes.get(CRC_FROM..end).ok_or(Why::Votes)?;
        if u32_at(header, 8) != crc32c::crc32c(covered) {
            return Err(Why::Votes);
        }
        let version = u32_at(header, 12);
        if version != VERSION {
            return Err(Why::Version { found: version });
        }
        let mut votes = Votes { oldest: u64_at(header, 40), ..Votes::default() };
        for entry in bytes[HEADER_BYTES..].chunks_exact(ENTRY_BYTES).take(count) {
            let partition = PartitionId(u16_at(entry, 0));
            let ballot = Ballot::unpack(u64_at(entry, 8)).ok_or(Why::Votes)?;
            if usize::from(partition.0) >= PARTITIONS_MAX {
                return Err(Why::Votes);
            }
            let covers = votes.cover(partition, Slot(u64_at(entry, 16)));
            if !(votes.raise(partition, ballot) || covers) {
                return Err(Why::Votes);
            }
        }
        for entry in bytes[peers_from..end].chunks_exact(PEER_BYTES) {
            votes.meet(NodeId(u16_at(entry, 0)), DiskId(u64_at(entry, 8)));
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
const VERSION: u32 = 3;
const CRC_FROM: usize = 12;
const HEADER_BYTES: usize = 64;
const ENTRY_BYTES: usize = 24;
const PEER_BYTES: usize = 16;
const _: () =
    assert!(HEADER_BYTES + PARTITIONS_MAX * ENTRY_BYTES + NODES_MAX * PEER_BYTES <= VOTES_COPY_BYTES);

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
                assert!(votes.cover(partition, Slot(u64::from(partition.0) + 7)));
            }
            votes.truncate(count as u64);
            for node in (0..).map(NodeId).take(count.min(NODES_MAX)) {
                assert!(votes.meet(node, DiskId(u64::from(node.0) + 1)));
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
        assert!(votes.meet(NodeId(4), DiskId(u64::MAX)) && !votes.meet(NodeId(4), DiskId(u64::MAX)));
        let mut bytes = Vec::new();
        votes.encode(identity(), 3, &mut bytes);
        let covered = HEADER_BYTES + 8 * ENTRY_BYTES + PEER_BYTES;
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
