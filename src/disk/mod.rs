//! Where a core's log goes: the `Disk` a partition's records are handed to, and its two kinds.
//!
//! `UringDisk` writes to files, `RamDisk` forgets. The format is `wal`'s; what waits for a position
//! to be durable is the reactor's outbox. A failure here stops the core: after one failed write
//! nothing is promised again, and nothing is retried.
#![deny(unsafe_code)]

use std::io;
use std::os::fd::RawFd;
use std::path::PathBuf;

use thiserror::Error;

use crate::types::Lsn;
use crate::wal::{Damage, Record, Why};

mod ram;
mod segments;
mod uring;

pub use ram::RamDisk;
pub use uring::{DiskOptions, Notice, UringDisk};

/// The log of one core. A turn calls `reap` near its start, `append` as it goes, `submit` once near
/// its end.
pub trait Disk {
    /// Adds a record to the current group. It is durable once `reap` returns the position returned
    /// here, or one above. Never refuses: whoever takes in new work asks `room` first.
    fn append(&mut self, record: Record<'_>) -> Lsn;

    /// Starts the writes of what was appended, as far as there are free writes. The rest stays and
    /// goes with the next call. Never blocks.
    fn submit(&mut self) -> Result<(), DiskError>;

    /// Everything below the returned position is on disk. Monotone.
    fn reap(&mut self) -> Result<Lsn, DiskError>;

    /// The position up to which records were appended.
    fn appended(&self) -> Lsn;

    /// Bytes that may yet be appended before the backlog is full.
    fn room(&self) -> usize;

    /// Readable when `reap`, or `submit` after it, has something to do. Poll it; never read from it.
    fn wake_fd(&self) -> Option<RawFd>;
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
    #[error("segment {segment}, offset {offset}: writing the log failed: {source}; this core stops")]
    WriteFailed { segment: u64, offset: u64, source: io::Error },
    #[error("segment {segment}, offset {offset}: {written} of {bytes} B were written; this core stops")]
    ShortWrite { segment: u64, offset: u64, written: usize, bytes: usize },
    /// Answered for ever after a failure that was reported once.
    #[error("the log of this core has failed before")]
    Stopped,
}
