//! What a core keeps: the log its records go to, the votes beside it, and the checkpoints of its partitions.
//!
//! | file | is |
//! |---|---|
//! | here | [`Disk`], the log as a core sees it; why there is none |
//! | `ram` | the log that forgets |
//! | `uring`, `segments` | the log on files, written through io_uring |
//! | `votes` | the file that holds every promised ballot a second time, and what must outlive the log |
//! | `checkpoints` | [`Checkpoints`], and those on files |
//! | `directory` | the locked directory in which all of that lies |
//! | `forgetting` | how all of that but the votes is given up |
//! | `urgency` | its threads are as urgent as the core |
//!
//! The formats are `wal`'s; what waits for a position to be durable is the reactor's outbox. A failure here
//! stops the core: after one failed write nothing is promised again, and nothing is retried. A full disk is
//! the one exception: no new work is taken in until there is space again.
#![deny(unsafe_code)]

use std::io;
use std::os::fd::RawFd;
use std::path::PathBuf;

use thiserror::Error;

use crate::bounds::{SECOND, WAL_STUCK_NS};
use crate::types::{Lsn, Slot, Timestamp};
use crate::wal::checkpoint::{CheckpointDamage, CheckpointWhy};
use crate::wal::{Damage, Record, Why};

mod checkpoints;
mod directory;
mod forgetting;
mod ram;
mod segments;
mod urgency;
mod uring;
mod votes;

use checkpoints::path_of as checkpoint_path;
pub use checkpoints::{CheckpointEvent, CheckpointPart, Checkpoints, FileCheckpoints, Origin, is_checkpoint};
pub use directory::CoreDirectory;
pub use forgetting::forget_log;
pub use ram::RamDisk;
pub use segments::number_of;
pub use uring::{DiskOptions, Notice, Opened, UringDisk};
pub use votes::{VOTES_NAME, inspect_votes, read_votes};

/// The log of one core. A turn calls `reap` near its start, `append` as it goes, `submit` once near
/// its end.
pub trait Disk {
    /// Adds a record to the current group. It is durable once `reap` returns the position returned
    /// here, or one above. Never refuses: whoever takes in new work asks `room` first.
    fn append(&mut self, record: Record<'_>) -> Lsn;

    /// Starts the writes of what was appended, as far as there are free writes. The rest stays and
    /// goes with the next call. Never blocks.
    fn submit(&mut self) -> Result<(), DiskError>;

    /// Everything below the returned position is on disk, and every vote below it twice. Monotone.
    fn reap(&mut self, now: Timestamp) -> Result<Lsn, DiskError>;

    /// The position up to which records were appended.
    fn appended(&self) -> Lsn;

    /// Bytes that may yet be appended before the backlog is full; 0 while the drive has no space.
    fn room(&self) -> usize;

    /// Deletes or recycles what lies wholly below `below`. The caller holds a committed checkpoint of it.
    fn truncate(&mut self, below: Lsn);

    fn state(&self) -> LogState;

    /// Readable when `reap`, or `submit` after it, has something to do. Poll it; never read from it.
    fn wake_fd(&self) -> Option<RawFd>;

    /// When `reap` is to be called even if nothing woke the core: a write may be stuck, or space back.
    fn deadline(&self) -> Option<Timestamp>;
}

/// How large a log is, and whether it can grow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LogState {
    /// What was written and not let go, and what is ready to be written. Not the files of what was let go: within
    /// `bytes_max` they are used again, and those beyond go at a rate of their own.
    pub bytes: u64,
    /// Past this a checkpoint is due. 0 is a log that never needs one.
    pub bytes_max: u64,
    /// The drive has no space for the next segment. A checkpoint may make some.
    pub full: bool,
}

impl LogState {
    pub fn checkpoint_due(&self) -> bool {
        self.full || (self.bytes_max > 0 && self.bytes >= self.bytes_max)
    }

    /// How much it has grown since one became due, in hundredths of what was there then.
    pub fn overdue_percent(&self) -> u64 {
        let over = self.bytes.saturating_sub(self.bytes_max);
        if self.full { 100 } else { (over * 100).checked_div(self.bytes_max).unwrap_or(0) }
    }
}

/// Why there is no log, or no longer one.
#[derive(Debug, Error)]
pub enum DiskError {
    #[error("{path}: in use by another process; stop it, or give this node another data directory")]
    InUse { path: PathBuf },
    #[error("{path}: {what} failed: {source}")]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("io_uring: {what} failed: {source}; `mako doctor` tells what is missing")]
    Ring { what: &'static str, source: io::Error },
    #[error("{path}: damaged: {damage}; nothing was changed; rebuild this replica from its peers")]
    Damaged { path: PathBuf, damage: Damage },
    #[error("{path}: {why}; nothing was changed; check the data directory and the program's version")]
    Unsuitable { path: PathBuf, why: Why },
    /// What this replica has promised is known to its peers only.
    #[error(
        "{path}: the votes are missing, or both copies are damaged; nothing was changed; rebuild this replica from its peers"
    )]
    VotesLost { path: PathBuf },
    #[error("{path}: damaged: {damage}; nothing was changed; rebuild this replica from its peers")]
    CheckpointDamaged { path: PathBuf, damage: CheckpointDamage },
    /// The log was cut because of it, or what it holds was acknowledged.
    #[error(
        "{path}: this checkpoint, or a later one, stood for every slot below {}, and is gone; nothing was changed; \
         rebuild this replica from its peers", slot.0
    )]
    CheckpointLost { path: PathBuf, slot: Slot },
    /// What no checkpoint replaces.
    #[error(
        "{path}: the oldest segments of the log are gone: it must begin with number {oldest} or before; nothing was \
         changed; rebuild this replica from its peers"
    )]
    SegmentsLost { path: PathBuf, oldest: u64 },
    #[error("{path}: {why}; nothing was changed; check the data directory and the program's version")]
    CheckpointUnsuitable { path: PathBuf, why: CheckpointWhy },
    #[error("{path}: the drive has not answered {what} for {} s; this core stops", WAL_STUCK_NS / SECOND)]
    Stuck { path: PathBuf, what: Unanswered },
    #[error("segment {segment}, offset {offset}: writing the log failed: {source}; this core stops")]
    WriteFailed { segment: u64, offset: u64, source: io::Error },
    #[error("segment {segment}, offset {offset}: {written} of {bytes} B were written; this core stops")]
    ShortWrite { segment: u64, offset: u64, written: usize, bytes: usize },
    /// Answered for ever after a failure that was reported once.
    #[error("the log of this core has failed before")]
    Stopped,
}

/// What a drive was asked for that has not done it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Unanswered {
    #[error("a write of the log (segment {segment}, offset {offset})")]
    Write { segment: u64, offset: u64 },
    #[error("a write of the votes")]
    Votes,
    /// Each step of making one is an answer.
    #[error("anything asked of it to make segment {segment} of the log")]
    Segment { segment: u64 },
}

impl DiskError {
    /// For lack of space, which may come back; not a fault of the drive.
    pub fn is_full(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self, DiskError::Io { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded))
    }
}
