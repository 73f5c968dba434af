//! Who holds what: partition → shard → replicas → core, worked out once.
//!
//! Asked for every message a node sends, so each answer is an index into a small table. Which partition
//! a key belongs to is [`super::routing`]'s affair; who leads *now* is known to the shards, not here.
//!
//! Invariants:
//!   1. Partitions are numbered through the shards in order: a shard's are contiguous.
//!   2. A node's hosted partitions, in order, are dealt to its cores in turn; every node works out the same.
#![forbid(unsafe_code)]

use std::fmt;

use super::{Config, Shard};
use crate::types::{CoreId, Endpoint, NodeId, PartitionId, ShardId};

#[derive(Clone, PartialEq, Eq)]
pub(super) struct Placement {
    /// By partition.
    shards: Vec<ShardId>,
    /// By node, then by partition; `None` where the node holds no replica.
    cores: Vec<Vec<Option<CoreId>>>,
}

impl Placement {
    /// `cores[n]` is the number of cores of node n, at least 1.
    pub fn new(cores: &[usize], shards: &[Shard]) -> Placement {
        let numbered = || shards.iter().zip(0..).map(|(shard, number)| (shard, ShardId(number)));
        let by_partition =
            numbered().flat_map(|(shard, id)| std::iter::repeat_n(id, usize::from(shard.partitions)));
        let deal = |(node, cores): (u16, &usize)| {
            let mut dealt = (0..*cores as u16).map(CoreId).cycle();
            let hosts = |shard: &Shard| shard.replicas.contains(&NodeId(node));
            let places =
                shards.iter().flat_map(|shard| std::iter::repeat_n(hosts(shard), shard.partitions.into()));
            places.map(|hosted| if hosted { dealt.next() } else { None }).collect()
        };
        Placement { shards: by_partition.collect(), cores: (0..).zip(cores).map(deal).collect() }
    }
}

impl Config {
    pub fn partition_count(&self) -> usize {
        self.placement.shards.len()
    }

    pub fn shard_of(&self, partition: PartitionId) -> ShardId {
        self.placement.shards[usize::from(partition.0)]
    }

    /// The nodes that hold the partition, the one that leads at first in front.
    pub fn replicas_of(&self, partition: PartitionId) -> &[NodeId] {
        &self.shards[usize::from(self.shard_of(partition).0)].replicas
    }

    /// Who leads the partition when the cluster starts, and whenever it can.
    pub fn leader_of(&self, partition: PartitionId) -> NodeId {
        self.replicas_of(partition)[0]
    }

    pub fn partitions_of(&self, shard: ShardId) -> impl Iterator<Item = PartitionId> + use<> {
        let Shard { first, partitions, .. } = self.shards[usize::from(shard.0)];
        (first.0..first.0 + partitions).map(PartitionId)
    }

    /// The core of `node` that runs its replica of the partition; `None` when it has none.
    #[inline]
    pub fn core_of(&self, node: NodeId, partition: PartitionId) -> Option<CoreId> {
        self.placement.cores[usize::from(node.0)][usize::from(partition.0)]
    }

    /// Where `node` is reached about the partition.
    pub fn endpoint_of(&self, node: NodeId, partition: PartitionId) -> Option<Endpoint> {
        self.core_of(node, partition).map(|core| Endpoint { node, core })
    }

    /// The partitions one core runs, ascending.
    pub fn hosted(&self, node: NodeId, core: CoreId) -> Vec<PartitionId> {
        let places = (0..).zip(&self.placement.cores[usize::from(node.0)]);
        places
            .filter(|(_, place)| **place == Some(core))
            .map(|(partition, _)| PartitionId(partition))
            .collect()
    }
}

/// The first line a node prints is its `Config`; what follows from the rest of it need not be in there.
impl fmt::Debug for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} partitions", self.shards.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LocalCluster;

    fn cluster() -> Config {
        let flags = LocalCluster { shards: 4, partitions: 3, cpus: 2, ..LocalCluster::default() };
        Config::local(&flags).unwrap()
    }

    #[test]
    fn partitions_are_numbered_through_the_shards() {
        let config = cluster();
        assert_eq!(config.partition_count(), 12);
        let shards: Vec<u16> = (0..12).map(|p| config.shard_of(PartitionId(p)).0).collect();
        assert_eq!(shards, [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]);
        assert!(config.partitions_of(ShardId(1)).eq([3, 4, 5].map(PartitionId)));
    }

    /// A partition on no core is never served; one on two is served by two threads without a lock.
    #[test]
    fn every_hosted_partition_is_on_exactly_one_core() {
        let config = cluster();
        for node in (0..3).map(NodeId) {
            let hosted = (0..config.cores(node) as u16).map(|core| config.hosted(node, CoreId(core)));
            let mut all: Vec<PartitionId> = hosted.flatten().collect();
            all.sort();
            assert!(all.into_iter().eq((0..12).map(PartitionId)));
        }
        assert_eq!(config.hosted(NodeId(1), CoreId(1)), [1, 3, 5, 7, 9, 11].map(PartitionId));
        assert_eq!(config.core_of(NodeId(1), PartitionId(5)), Some(CoreId(1)));
    }
}
