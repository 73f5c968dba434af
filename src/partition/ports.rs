//! What a core needs from outside, as traits: its log and the node's watermark board. The reactor
//! brings the real ones, the simulator its own.
#![forbid(unsafe_code)]

use crate::types::{Lsn, PartitionId, ShardId, Timestamp, Watermark};
use crate::wal::Record;

pub trait Log {
    /// Adds a record; durable once `Core::on_durable` has been told of this position or a higher one.
    fn append(&mut self, record: &Record<'_>) -> Lsn;

    /// Bytes that may yet be appended before new work is refused.
    fn room(&self) -> usize;
}

/// The watermark board of a node, which its cores share (DESIGN §2).
pub trait Marks {
    fn publish_partition(&self, partition: PartitionId, mark: Watermark, proposed: Timestamp);
    fn partition(&self, partition: PartitionId) -> Watermark;
    /// Keeps the maximum; true when that is news.
    fn merge_shard(&self, shard: ShardId, heard: Watermark) -> bool;
    fn shard(&self, shard: ShardId) -> Watermark;
    fn want(&self, shard: ShardId, timestamp: Timestamp);
    fn wanted(&self, shard: ShardId) -> Timestamp;
}

/// Both, for one turn.
pub struct Ports<'a> {
    pub log: &'a mut dyn Log,
    pub board: &'a dyn Marks,
}
