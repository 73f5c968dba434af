//! The watermark board of a simulated node: one thread, so plain cells.
#![forbid(unsafe_code)]

use crate::partition::Marks;
use crate::types::{Ballot, PartitionId, ShardId, Timestamp, Watermark};
use std::cell::RefCell;

pub struct SimBoard {
    partitions: RefCell<Vec<Watermark>>,
    shards: RefCell<Vec<(Watermark, Timestamp)>>,
    leases: RefCell<Vec<Timestamp>>,
}

impl SimBoard {
    pub fn new(partitions: usize, shards: usize) -> SimBoard {
        SimBoard {
            partitions: RefCell::new(vec![Watermark::default(); partitions]),
            shards: RefCell::new(vec![Default::default(); shards]),
            leases: RefCell::new(vec![Timestamp::default(); shards]),
        }
    }
}

impl Marks for SimBoard {
    fn publish_partition(&self, partition: PartitionId, mark: Watermark, _: Timestamp) {
        let slot = &mut self.partitions.borrow_mut()[usize::from(partition.0)];
        assert!(mark >= *slot, "the mark of {partition:?} fell from {slot:?} to {mark:?}");
        *slot = mark;
    }

    fn partition(&self, partition: PartitionId) -> Watermark {
        self.partitions.borrow()[usize::from(partition.0)]
    }

    fn merge_shard(&self, shard: ShardId, heard: Watermark) -> bool {
        let known = &mut self.shards.borrow_mut()[usize::from(shard.0)].0;
        let news = heard > *known;
        *known = heard.max(*known);
        news
    }

    fn shard(&self, shard: ShardId) -> Watermark {
        self.shards.borrow()[usize::from(shard.0)].0
    }

    fn want(&self, shard: ShardId, timestamp: Timestamp) {
        let wanted = &mut self.shards.borrow_mut()[usize::from(shard.0)].1;
        *wanted = timestamp.max(*wanted);
    }

    fn wanted(&self, shard: ShardId) -> Timestamp {
        self.shards.borrow()[usize::from(shard.0)].1
    }

    fn publish_lease(&self, shard: ShardId, until: Timestamp) {
        self.leases.borrow_mut()[usize::from(shard.0)] = until;
    }

    fn publish_leader(&self, _: ShardId, _: Option<Ballot>) {}

    fn lease(&self, shard: ShardId) -> Timestamp {
        self.leases.borrow()[usize::from(shard.0)]
    }
}
