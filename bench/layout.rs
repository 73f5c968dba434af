//! Where things are in the cluster under test: partitions, their shards, the integers that route to each.
//!
//! The one place where the bench asks the configuration. Every table of every workload is routed by its
//! leading four bytes (or lives everywhere), so one integer decides the partition of a row.
#![forbid(unsafe_code)]

use mako::config::{Config, Route, Routing, Table};
use mako::types::{NodeId, PartitionId, ShardId, TableId};

#[derive(Clone, Debug)]
pub struct Layout {
    /// By partition.
    shards: Vec<ShardId>,
    /// By partition: how many replicas it has.
    replicas: Vec<usize>,
    /// By partition: the least integer above 0 that is routed to it.
    prefixes: Vec<u32>,
    /// By routing slot.
    slots: Vec<PartitionId>,
    /// Cores of all nodes together.
    cores: usize,
}

impl Layout {
    /// `table` is any that is routed by its leading four bytes.
    pub fn new(config: &Config, table: TableId) -> Layout {
        let slots: Vec<PartitionId> = (0..u32::from(mako::bounds::ROUTING_SLOTS))
            .map(|slot| match config.route(table, &slot.to_be_bytes()) {
                Route::One(partition) => partition,
                Route::Everywhere => panic!("table {} lives everywhere", table.0),
            })
            .collect();
        let partitions = (0..).map(PartitionId).take(config.partition_count());
        let prefix = |partition| {
            let found = slots.iter().skip(1).position(|owner| *owner == partition);
            u32::try_from(found.expect("every partition owns a slot") + 1).expect("slots are few")
        };
        let nodes = (0..).map(NodeId).take(config.nodes.len());
        Layout {
            shards: partitions.clone().map(|partition| config.shard_of(partition)).collect(),
            replicas: partitions.clone().map(|partition| config.replicas_of(partition).len()).collect(),
            prefixes: partitions.map(prefix).collect(),
            cores: nodes.map(|node| config.cores(node)).sum(),
            slots,
        }
    }

    pub fn partitions(&self) -> impl Iterator<Item = PartitionId> + use<> {
        (0..).map(PartitionId).take(self.shards.len())
    }

    pub fn partition_count(&self) -> usize {
        self.shards.len()
    }

    pub fn cores(&self) -> usize {
        self.cores
    }

    pub fn shard(&self, partition: PartitionId) -> ShardId {
        self.shards[usize::from(partition.0)]
    }

    pub fn replicas(&self, partition: PartitionId) -> usize {
        self.replicas[usize::from(partition.0)]
    }

    pub fn has_followers(&self) -> bool {
        self.replicas.iter().any(|replicas| *replicas > 1)
    }

    /// Rows whose key begins with this are in `partition`.
    pub fn prefix(&self, partition: PartitionId) -> u32 {
        self.prefixes[usize::from(partition.0)]
    }

    /// The partition of the rows that begin with `integer`.
    pub fn place(&self, integer: u32) -> PartitionId {
        self.slots[integer as usize % self.slots.len()]
    }

    /// A table whose rows are placed by their leading four bytes.
    pub fn by_integer(name: &str) -> Table {
        Table { name: name.to_string(), routing: Routing::Int(4) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    /// A key that a generator believes to be at home and is not turns every transaction into a distributed one.
    #[test]
    fn prefixes_and_places_agree_with_the_routing_of_the_cluster() {
        let config = fixture::config(2, 1, 3, vec![Layout::by_integer("rows")]);
        let layout = Layout::new(&config, TableId(0));
        assert_eq!(layout.partition_count(), 6);
        for partition in layout.partitions() {
            let key = layout.prefix(partition).to_be_bytes();
            assert_eq!(config.route(TableId(0), &key), Route::One(partition));
            assert_eq!(layout.shard(partition), config.shard_of(partition));
        }
        for integer in [1, 7, 16_384, 16_385, u32::MAX] {
            let route = config.route(TableId(0), &integer.to_be_bytes());
            assert_eq!(route, Route::One(layout.place(integer)));
        }
    }
}
