//! The real log and the real board, as a core asks for them.
#![forbid(unsafe_code)]

use super::board::Board;
use crate::disk::Disk;
use crate::partition::{Log, Marks};
use crate::types::{Lsn, PartitionId, ShardId, Timestamp, Watermark};
use crate::wal::Record;

/// A disk, of which a core sees no more than the end it appends to.
pub(super) struct CoreLog<K>(pub K);

impl<K: Disk> Log for CoreLog<K> {
    fn append(&mut self, record: &Record<'_>) -> Lsn {
        self.0.append(*record)
    }

    fn room(&self) -> usize {
        self.0.room()
    }
}

impl Marks for Board {
    fn publish_partition(&self, partition: PartitionId, mark: Watermark, proposed: Timestamp) {
        Board::publish_partition(self, partition, mark, proposed);
    }

    fn partition(&self, partition: PartitionId) -> Watermark {
        Board::partition(self, partition)
    }

    fn merge_shard(&self, shard: ShardId, heard: Watermark) -> bool {
        Board::merge_shard(self, shard, heard)
    }

    fn shard(&self, shard: ShardId) -> Watermark {
        Board::shard(self, shard)
    }

    fn want(&self, shard: ShardId, timestamp: Timestamp) {
        Board::want(self, shard, timestamp);
    }

    fn wanted(&self, shard: ShardId) -> Timestamp {
        Board::wanted(self, shard)
    }
}
