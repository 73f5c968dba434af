//! The real log, checkpoints and board, as a core asks for them.
#![forbid(unsafe_code)]

use super::board::Board;
use crate::disk::{self, Disk, DiskError, FileCheckpoints};
use crate::partition::{self, CheckpointEvent, Checkpoints, Log, Marks};
use crate::types::{Ballot, Lsn, PartitionId, ShardId, Timestamp, Watermark};
use crate::wal::Record;
use std::os::fd::RawFd;

/// A disk, of which a core sees no more than the end it appends to.
pub(super) struct CoreLog<K>(pub K);

impl<K: Disk> Log for CoreLog<K> {
    fn append(&mut self, record: &Record<'_>) -> Lsn {
        self.0.append(*record)
    }

    fn room(&self) -> usize {
        self.0.room()
    }

    fn truncate(&mut self, below: Lsn) {
        self.0.truncate(below);
    }

    fn checkpoint_due(&self) -> bool {
        self.0.state().checkpoint_due()
    }

    fn overdue_percent(&self) -> u64 {
        self.0.state().overdue_percent()
    }
}

/// The checkpoints on files, if the core keeps any. A fault of the drive is kept for whoever stops the core.
#[derive(Default)]
pub(super) struct CoreCheckpoints {
    files: Option<FileCheckpoints>,
    failed: Option<DiskError>,
}

impl CoreCheckpoints {
    pub fn new(files: FileCheckpoints) -> CoreCheckpoints {
        CoreCheckpoints { files: Some(files), failed: None }
    }

    /// Once something other than a lack of space went wrong, that.
    pub fn check(&mut self) -> Result<(), DiskError> {
        self.failed.take().map_or(Ok(()), Err)
    }

    pub fn wake_fd(&self) -> Option<RawFd> {
        disk::Checkpoints::wake_fd(self.files.as_ref()?)
    }

    fn on_event(&mut self, event: disk::CheckpointEvent) -> Option<CheckpointEvent> {
        Some(match event {
            disk::CheckpointEvent::Committed { origin, partition } => {
                CheckpointEvent::Committed { origin: to_core(origin), partition }
            }
            disk::CheckpointEvent::Failed { origin, partition, error } if error.is_full() => {
                CheckpointEvent::Failed { origin: to_core(origin), partition }
            }
            disk::CheckpointEvent::Failed { error, .. } | disk::CheckpointEvent::ReadFailed { error, .. } => {
                self.failed = Some(error);
                return None;
            }
            disk::CheckpointEvent::Read { ticket, part } => {
                let part = part.map(|part| {
                    let disk::CheckpointPart { checkpoint, total, offset, bytes } = part;
                    partition::CheckpointPart { checkpoint, total, offset, bytes }
                });
                CheckpointEvent::Read { ticket, part }
            }
        })
    }
}

impl Checkpoints for CoreCheckpoints {
    fn begin(&mut self, origin: partition::Origin, partition: PartitionId) -> bool {
        self.files.as_mut().is_some_and(|files| disk::Checkpoints::begin(files, to_disk(origin), partition))
    }

    fn room(&self, origin: partition::Origin) -> usize {
        self.files.as_ref().map_or(0, |files| disk::Checkpoints::room(files, to_disk(origin)))
    }

    fn write(&mut self, origin: partition::Origin, bytes: &[u8]) {
        if let Some(files) = &mut self.files {
            disk::Checkpoints::write(files, to_disk(origin), bytes);
        }
    }

    fn commit(&mut self, origin: partition::Origin) {
        if let Some(files) = &mut self.files {
            disk::Checkpoints::commit(files, to_disk(origin));
        }
    }

    fn abandon(&mut self, origin: partition::Origin) {
        if let Some(files) = &mut self.files {
            disk::Checkpoints::abandon(files, to_disk(origin));
        }
    }

    fn read(&mut self, partition: PartitionId, offset: u64, bytes: usize, ticket: u64) -> bool {
        let files = self.files.as_mut();
        files.is_some_and(|files| disk::Checkpoints::read(files, partition, offset, bytes, ticket))
    }

    fn poll(&mut self) -> Option<CheckpointEvent> {
        let event = disk::Checkpoints::poll(self.files.as_mut()?)?;
        self.on_event(event)
    }
}

fn to_disk(origin: partition::Origin) -> disk::Origin {
    match origin {
        partition::Origin::Own => disk::Origin::Own,
        partition::Origin::Peer => disk::Origin::Peer,
    }
}

fn to_core(origin: disk::Origin) -> partition::Origin {
    match origin {
        disk::Origin::Own => partition::Origin::Own,
        disk::Origin::Peer => partition::Origin::Peer,
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

    fn publish_lease(&self, shard: ShardId, until: Timestamp) {
        Board::publish_lease(self, shard, until);
    }

    fn publish_leader(&self, shard: ShardId, leader: Option<Ballot>) {
        Board::publish_leader(self, shard, leader);
    }

    fn lease(&self, shard: ShardId) -> Timestamp {
        Board::lease(self, shard)
    }
}
