//! What a user of the engine writes and gets: a procedure, the rows of a scan, and how it can end.
#![forbid(unsafe_code)]

use super::handle::Txn;
use crate::types::{Timestamp, Value};
use smallvec::SmallVec;
use std::ops::Range;

/// A transaction as a program.
pub trait Procedure: 'static {
    /// May run several times (conflicts, the discovery of remote keys), so it has no side effects but
    /// those through `txn` and on cells of its own that every run overwrites.
    fn run(&self, txn: &Txn) -> impl Future<Output = Result<(), Abort>>;
}

/// Why a transaction had no effect. Not an error: conflicts and limits are part of the contract.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Abort {
    #[error("conflict: another transaction got there first, {attempts} times; try again")]
    Conflict { attempts: u32 },
    #[error("rolled back by the procedure")]
    User,
    #[error("busy: {0}; try again later")]
    Busy(BusyWith),
    #[error("too big: {what} is {size}, at most {bound} is allowed")]
    TooBig { what: &'static str, size: usize, bound: usize },
    #[error("unknown table {0}")]
    UnknownTable(u16),
    #[error("a snapshot transaction only reads")]
    ReadOnly,
    #[error("unavailable: a shard it needs has no leader that answers")]
    Unavailable,
    #[error("snapshot too old: versions below {floor:?} are gone")]
    SnapshotTooOld { floor: Timestamp },
    /// Not an end but a turn: the engine stops this run and makes another. A procedure passes it on.
    #[error("interrupted: the engine runs the procedure again")]
    Interrupted,
}

/// The limit that was reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BusyWith {
    #[error("the speculation window is full")]
    Window,
    #[error("too many transactions are parked behind locks")]
    Parked,
    #[error("too many distributed transactions are under way")]
    Coordinated,
    #[error("the snapshot is not applied here yet")]
    Snapshot,
    #[error("another partition it needs has reached a limit of its own")]
    Participant,
}

/// How a submission went, in order: `Speculative` then `Durable` or `RolledBack`, or `Aborted` alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reply {
    /// Executed and visible; `attempts` counts this run and those that conflicts undid.
    Speculative {
        timestamp: Timestamp,
        distributed: bool,
        attempts: u32,
    },
    /// Survives from here on. For a snapshot transaction: its reads hold at `timestamp`.
    Durable {
        timestamp: Timestamp,
    },
    RolledBack,
    Aborted {
        abort: Abort,
        attempts: u32,
    },
}

/// What a scan found, in the order of the scan.
#[derive(Clone, Default)]
pub struct Rows {
    keys: Vec<u8>,
    rows: Vec<(Range<u32>, Value)>,
}

impl Rows {
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&[u8], &Value)> {
        self.rows.iter().map(|(key, value)| (self.bytes(key), value))
    }

    /// Rows from elsewhere, copied.
    pub fn copied<'a>(rows: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Rows {
        let mut copied = Rows::default();
        rows.for_each(|(key, value)| copied.push(key, Value::new(value)));
        copied
    }

    pub(super) fn push(&mut self, key: &[u8], value: Value) {
        let start = self.keys.len() as u32;
        self.keys.extend_from_slice(key);
        self.rows.push((start..self.keys.len() as u32, value));
    }

    fn bytes(&self, range: &Range<u32>) -> &[u8] {
        &self.keys[range.start as usize..range.end as usize]
    }
}

/// A key held for longer than a call; most are short enough to stay inline.
pub type KeyBytes = SmallVec<[u8; 32]>;
