//! The versions of every key in timestamp order, and the fate of every transaction.
//!
//! A transaction counts as *committed* when it was answered speculative or durable and not rolled back.
//! One whose client lost contact is *unsettled*: it counts as committed when a committed transaction or
//! a snapshot saw one of its writes, or the final state holds one; otherwise it is left out. Leaving out
//! one that did take effect can hide an offence but never invent one, with one exception: nobody sees
//! *who* deleted a key. So keys that an unsettled transaction may have deleted are `doubtful`, and their
//! absence is held against nobody.
//!
//! Invariants:
//!   1. `order` holds the committed writes that have a timestamp, by key, then by timestamp; no two alike.
//!   2. A committed transaction without timestamp (its answer was lost, and it is in no final state) has
//!      no version: what it wrote is *unplaced*.
#![forbid(unsafe_code)]

use std::ops::Range;

use super::history::{Ending, History, KeyId, TxnIndex, WriteId};
use super::violation::{Kind, Violation};
use crate::types::Timestamp;

pub(super) struct Versions<'h> {
    pub history: &'h History,
    fates: Vec<Fate>,
    timestamps: Vec<Option<Timestamp>>,
    order: Vec<Version>,
    /// Versions of key `k` are `order[first[k]..first[k + 1]]`.
    first: Vec<u32>,
    /// By write: its version.
    version: Vec<Option<u32>>,
    /// By key: a deletion that has no place in `order` may have made it absent.
    doubtful: Vec<bool>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    Committed,
    Undone,
    Unsettled,
    Snapshot,
}

#[derive(Clone, Copy)]
pub(super) struct Version {
    pub key: KeyId,
    pub timestamp: Timestamp,
    pub txn: TxnIndex,
    pub id: WriteId,
    pub deleted: bool,
    write: u32,
}

/// A row of the state the cluster came to rest in: the newest version of a key, `None` when deleted.
/// A deletion whose record is gone may be left out, or have timestamp 0.
pub type FinalRow = (KeyId, Timestamp, Option<WriteId>);

impl<'h> Versions<'h> {
    pub fn new(history: &'h History, final_state: &[FinalRow]) -> Result<Versions<'h>, Violation> {
        let mut versions = Versions {
            history,
            fates: history.txns().map(|txn| fate(history, txn)).collect(),
            timestamps: history.txns().map(|txn| history.txn(txn).timestamp).collect(),
            order: Vec::new(),
            first: Vec::new(),
            version: vec![None; history.writes().len()],
            doubtful: vec![false; history.keys() as usize],
        };
        versions.settle(final_state);
        versions.place();
        versions.assert_distinct()?;
        Ok(versions)
    }

    pub fn fate(&self, txn: TxnIndex) -> Fate {
        self.fates[txn.0 as usize]
    }

    pub fn count(&self, fate: Fate) -> usize {
        self.fates.iter().filter(|other| **other == fate).count()
    }

    pub fn timestamp(&self, txn: TxnIndex) -> Option<Timestamp> {
        self.timestamps[txn.0 as usize]
    }

    pub fn version_of(&self, write: u32) -> Option<u32> {
        self.version[write as usize]
    }

    pub fn get(&self, version: u32) -> &Version {
        &self.order[version as usize]
    }

    /// The versions of `key`, as places in the order.
    pub fn of(&self, key: KeyId) -> Range<u32> {
        match self.first.get(key.0 as usize + 1) {
            Some(end) => self.first[key.0 as usize]..*end,
            None => 0..0,
        }
    }

    /// The version after `version` of the same key.
    pub fn next(&self, version: u32) -> Option<u32> {
        let next = self.order.get(version as usize + 1)?;
        (next.key == self.get(version).key).then_some(version + 1)
    }

    /// The newest version of `key` below `timestamp`: what a writer at `timestamp` must have seen.
    pub fn below(&self, key: KeyId, timestamp: Timestamp) -> Option<u32> {
        let of = self.of(key);
        let all = &self.order[of.start as usize..of.end as usize];
        let below = all.partition_point(|version| version.timestamp < timestamp) as u32;
        (below > 0).then(|| of.start + below - 1)
    }

    pub fn newest(&self, key: KeyId) -> Option<u32> {
        self.of(key).last()
    }

    pub fn is_doubtful(&self, key: KeyId) -> bool {
        self.doubtful.get(key.0 as usize).is_some_and(|doubtful| *doubtful)
    }

    pub fn all(&self) -> Range<u32> {
        0..self.order.len() as u32
    }

    /// Finds out which unsettled transactions took effect, and when.
    fn settle(&mut self, final_state: &[FinalRow]) {
        if !self.fates.contains(&Fate::Unsettled) && !self.timestamps.contains(&None) {
            return;
        }
        for (key, timestamp, id) in final_state {
            let holder = match id {
                Some(id) => self.writer(*id),
                None => self.deleter(*key, *timestamp),
            };
            if let Some(txn) = holder {
                self.prove(txn);
                self.timestamps[txn.0 as usize].get_or_insert(*timestamp);
            }
        }
        // What one proves may be the proof of another; each round proves at least one more.
        while self.prove_by_readers() {}
    }

    fn prove(&mut self, txn: TxnIndex) -> bool {
        let fate = &mut self.fates[txn.0 as usize];
        let proven = *fate == Fate::Unsettled;
        if proven {
            *fate = Fate::Committed;
        }
        proven
    }

    fn prove_by_readers(&mut self) -> bool {
        let history = self.history;
        let read = history.reads().iter().filter_map(|read| Some((read.txn, read.seen?)));
        let scanned =
            history.scans().iter().flat_map(|scan| history.rows(scan).iter().map(|row| (scan.txn, row.seen)));
        let mut news = false;
        for (reader, id) in read.chain(scanned) {
            if matches!(self.fate(reader), Fate::Committed | Fate::Snapshot) {
                news |= self.writer(id).is_some_and(|writer| self.prove(writer));
            }
        }
        news
    }

    fn writer(&self, id: WriteId) -> Option<TxnIndex> {
        let write = self.history.write_by_id(id)?;
        Some(self.history.writes()[write as usize].txn)
    }

    /// Who left the record of a deletion at `timestamp`: the only one who can have. Of several it may be
    /// any, so it is none; their keys stay doubtful.
    fn deleter(&self, key: KeyId, timestamp: Timestamp) -> Option<TxnIndex> {
        let deletions = self.history.writes().iter().filter(|write| {
            write.key == key && write.deleted && !write.superseded && timestamp > Timestamp(0)
        });
        let mut possible = deletions.map(|write| write.txn).filter(|txn| {
            let survivor = matches!(self.fate(*txn), Fate::Committed | Fate::Unsettled);
            survivor && self.timestamp(*txn).is_none_or(|known| known == timestamp)
        });
        possible.next().filter(|_| possible.next().is_none())
    }

    fn place(&mut self) {
        for (index, write) in self.history.writes().iter().enumerate() {
            let committed = match self.fate(write.txn) {
                Fate::Committed => true,
                Fate::Unsettled => false,
                Fate::Undone | Fate::Snapshot => continue,
            };
            match self.timestamp(write.txn) {
                _ if write.superseded => {}
                Some(timestamp) if committed => self.order.push(Version {
                    key: write.key,
                    timestamp,
                    txn: write.txn,
                    id: write.id,
                    deleted: write.deleted,
                    write: index as u32,
                }),
                _ => self.doubtful[write.key.0 as usize] |= write.deleted,
            }
        }
        self.order.sort_unstable_by_key(|version| (version.key, version.timestamp, version.txn));
        self.first = vec![0; self.history.keys() as usize + 1];
        for (index, version) in self.order.iter().enumerate() {
            self.first[version.key.0 as usize + 1] += 1;
            self.version[version.write as usize] = Some(index as u32);
        }
        for key in 0..self.history.keys() as usize {
            self.first[key + 1] += self.first[key];
        }
    }

    fn assert_distinct(&self) -> Result<(), Violation> {
        for pair in self.order.windows(2) {
            let [a, b] = pair else { continue };
            if a.key == b.key && a.timestamp == b.timestamp {
                let account = format!("both wrote {} at {:?} ({} and {})", a.key, a.timestamp, a.id, b.id);
                return Err(Violation::new(self.history, Kind::SharedTimestamp, &[a.txn, b.txn], account));
            }
        }
        Ok(())
    }
}

fn fate(history: &History, txn: TxnIndex) -> Fate {
    let txn = history.txn(txn);
    match txn.ending {
        Ending::Aborted(_) | Ending::RolledBack => Fate::Undone,
        Ending::Durable => Fate::Committed,
        Ending::Speculative if !txn.contact_lost => Fate::Committed,
        Ending::Speculative | Ending::Open => Fate::Unsettled,
        Ending::Snapshot => Fate::Snapshot,
    }
}
