//! What a core needs from outside, as traits: its log, the node's watermark board, and its checkpoints. The
//! reactor brings the real ones, the simulator its own.
#![forbid(unsafe_code)]

use crate::types::{Ballot, Lsn, PartitionId, ShardId, Timestamp, Watermark};
use crate::wal::Record;

pub trait Log {
    /// Adds a record; durable once `Core::on_durable` has been told of this position or a higher one.
    fn append(&mut self, record: &Record<'_>) -> Lsn;

    /// Bytes that may yet be appended before new work is refused.
    fn room(&self) -> usize;

    /// Records whose own position is at or below `below` are needed no longer.
    fn truncate(&mut self, below: Lsn);

    /// It has grown so large that checkpoints should let its oldest part go.
    fn checkpoint_due(&self) -> bool;

    /// How much it has grown since one became due, in hundredths of what was there then: with 100 it has taken all
    /// that an operator has set aside for it.
    fn overdue_percent(&self) -> u64;
}

/// The checkpoints of a core: one being made, one being received, and the newest committed one of each
/// partition. Bytes only; nothing here blocks.
pub trait Checkpoints {
    /// Begins one, which nobody sees before it is committed. `false` while the last of this origin is not
    /// over: ask again.
    fn begin(&mut self, origin: Origin, partition: PartitionId) -> bool;

    /// The bytes that the next `write` may have; 0 while too many are on their way, else
    /// `CHECKPOINT_WRITE_BYTES_MAX`.
    fn room(&self, origin: Origin) -> usize;

    /// The next bytes of the one that was begun.
    fn write(&mut self, origin: Origin, bytes: &[u8]);

    /// Makes it durable, and the newest of its partition. `Committed` or `Failed` follows.
    fn commit(&mut self, origin: Origin);

    /// Gives it up. Nothing follows; one that was being committed may be committed all the same.
    fn abandon(&mut self, origin: Origin);

    /// Reads from the newest committed one of a partition. `Read` follows, with this ticket; `false` when too
    /// many reads are under way.
    fn read(&mut self, partition: PartitionId, offset: u64, bytes: usize, ticket: u64) -> bool;

    /// The next thing that has happened. Called until there is none.
    fn poll(&mut self) -> Option<CheckpointEvent>;
}

/// Where a checkpoint comes from. One of each may be under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// Made of what this replica holds.
    Own,
    /// Received from a peer.
    Peer,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CheckpointEvent {
    /// It survives a crash from here on; what it covers may be truncated.
    Committed { origin: Origin, partition: PartitionId },
    /// It is over, and nothing is left of it: there was no space. Every other fault stops the core.
    Failed { origin: Origin, partition: PartitionId },
    /// `None`: the partition has no checkpoint.
    Read { ticket: u64, part: Option<CheckpointPart> },
}

/// Bytes of a committed checkpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckpointPart {
    /// Which one: parts of different ones do not fit together.
    pub checkpoint: u32,
    /// Bytes of the whole.
    pub total: u64,
    pub offset: u64,
    /// Fewer than asked for at the end.
    pub bytes: Vec<u8>,
}

/// For a core that keeps none: it takes none and has none to give.
#[derive(Default)]
pub struct NoCheckpoints;

impl Checkpoints for NoCheckpoints {
    fn begin(&mut self, _: Origin, _: PartitionId) -> bool {
        false
    }

    fn room(&self, _: Origin) -> usize {
        0
    }

    fn write(&mut self, origin: Origin, bytes: &[u8]) {
        panic!("{} B for a checkpoint of {origin:?} that was not begun", bytes.len());
    }

    fn commit(&mut self, origin: Origin) {
        panic!("commits a checkpoint of {origin:?} that was not begun");
    }

    fn abandon(&mut self, _: Origin) {}

    fn read(&mut self, _: PartitionId, _: u64, _: usize, _: u64) -> bool {
        false
    }

    fn poll(&mut self) -> Option<CheckpointEvent> {
        None
    }
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
    /// Until when this node, which leads the shard, is sure that nobody else does; 0 when it is not.
    fn publish_lease(&self, shard: ShardId, until: Timestamp);
    fn lease(&self, shard: ShardId) -> Timestamp;
    /// Whom this node's replica of the shard has lately heard to lead it. For onlookers: nothing rests on it.
    fn publish_leader(&self, shard: ShardId, leader: Option<Ballot>);
}

/// All of them, for one turn.
pub struct Ports<'a> {
    pub log: &'a mut dyn Log,
    pub checkpoints: &'a mut dyn Checkpoints,
    pub board: &'a dyn Marks,
}
