//! What can be freed once the floor has risen: two queues of reminders, in the order of the writes.
//!
//! It frees nothing itself. A reminder may be out of date, as the version it was made for was
//! rolled back or its record released: the tree looks before it frees.
//!
//! Invariants:
//!   1. The first reminder of each queue holds back those behind it, even where one of them is due
//!      earlier: versions that sorted in late are freed late, and no queue is ever searched.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use super::key::Key;
use super::record::{RecordId, release_spare};
use crate::types::Timestamp;

#[derive(Debug)]
pub(super) struct Garbage {
    superseded: VecDeque<Superseded>,
    tombstones: VecDeque<Tombstone>,
    /// Memory of the keys in `tombstones` beyond their inline part.
    tail_bytes: usize,
}

/// From `due` on some version of this record is garbage.
#[derive(Clone, Copy, Debug)]
pub(super) struct Superseded {
    pub(super) due: Timestamp,
    pub(super) record: RecordId,
    pub(super) generation: u32,
}

/// From `due` on the record of this key may be no more than a tombstone. To remove it from the tree
/// takes its key, which records do not know.
#[derive(Debug)]
pub(super) struct Tombstone {
    pub(super) due: Timestamp,
    pub(super) key: Key,
}

#[derive(Debug)]
pub(super) enum Reminder<'a> {
    Superseded(Superseded),
    Tombstone(&'a Tombstone),
}

impl Garbage {
    pub(super) fn new() -> Garbage {
        Garbage { superseded: VecDeque::new(), tombstones: VecDeque::new(), tail_bytes: 0 }
    }

    pub(super) fn push_superseded(&mut self, superseded: Superseded) {
        self.superseded.push_back(superseded);
    }

    pub(super) fn push_tombstone(&mut self, tombstone: Tombstone) {
        self.tail_bytes += tombstone.key.borrow().tail_bytes();
        self.tombstones.push_back(tombstone);
    }

    /// The next reminder due at `floor`: of the two queues, the earlier one, so that neither starves.
    pub(super) fn first_due(&self, floor: Timestamp) -> Option<Reminder<'_>> {
        let superseded = self.superseded.front().filter(|first| first.due <= floor);
        let tombstone = self.tombstones.front().filter(|first| first.due <= floor);
        match (superseded, tombstone) {
            (Some(first), Some(tombstone)) if tombstone.due < first.due => {
                Some(Reminder::Tombstone(tombstone))
            }
            (Some(first), _) => Some(Reminder::Superseded(*first)),
            (None, tombstone) => tombstone.map(Reminder::Tombstone),
        }
    }

    pub(super) fn pop_superseded(&mut self) {
        self.superseded.pop_front();
        release_spare(&mut self.superseded);
    }

    pub(super) fn pop_tombstone(&mut self) {
        if let Some(tombstone) = self.tombstones.pop_front() {
            self.tail_bytes -= tombstone.key.borrow().tail_bytes();
        }
        release_spare(&mut self.tombstones);
    }

    pub(super) fn bytes(&self) -> usize {
        self.superseded.len() * size_of::<Superseded>()
            + self.tombstones.len() * size_of::<Tombstone>()
            + self.tail_bytes
    }

    /// The reminders of superseded versions that are next, as far as they are due.
    pub(super) fn superseded_due(&self, floor: Timestamp) -> impl Iterator<Item = &Superseded> {
        self.superseded.iter().take_while(move |reminder| reminder.due <= floor)
    }

    pub(super) fn superseded(&self) -> impl Iterator<Item = &Superseded> {
        self.superseded.iter()
    }

    pub(super) fn tombstones(&self) -> impl Iterator<Item = &Tombstone> {
        self.tombstones.iter()
    }
}
