//! States at a timestamp: what writers must have seen at theirs, what snapshots must have seen at
//! theirs, and what is left at the end.
//!
//! `serializability` shows that *some* order explains the history. The system promises more: that the
//! order of timestamps does, for snapshots, replay and backups are cut along it. Read-only transactions
//! at leaders are not held to it; they read the latest state, and real time orders them.
#![forbid(unsafe_code)]

use super::history::{KeyId, TxnIndex, WriteId};
use super::observed::{Observed, Seen};
use super::versions::{Fate, FinalRow, Versions};
use super::violation::{Kind, Violation};
use crate::types::Timestamp;

/// What of the history could be held against a timestamp.
#[derive(Default)]
pub(super) struct Compared {
    pub snapshot_reads: usize,
    pub writer_reads: usize,
    /// Reads whose right answer depends on a transaction of which nobody knows when it took effect.
    pub unverified: usize,
}

pub(super) fn check(versions: &Versions, observed: &[Observed]) -> Result<Compared, Violation> {
    let mut compared = Compared::default();
    for read in observed {
        let is_snapshot = versions.fate(read.txn) == Fate::Snapshot;
        if !is_snapshot && !versions.history.is_writer(read.txn) {
            continue;
        }
        let Some(timestamp) = versions.timestamp(read.txn) else {
            compared.unverified += 1;
            continue;
        };
        // A writer's is strictly below: whoever conflicts with it has another timestamp (DESIGN §4.2).
        let (expected, count) = match is_snapshot {
            true => (versions.below(read.key, timestamp.next()), &mut compared.snapshot_reads),
            false => (versions.below(read.key, timestamp), &mut compared.writer_reads),
        };
        match agrees(versions, read.key, read.seen, expected) {
            Some(true) => *count += 1,
            Some(false) => return Err(disagreement(versions, observed, read, timestamp, expected)),
            None => compared.unverified += 1,
        }
    }
    Ok(compared)
}

/// Whether `seen` is the version `expected`; `None` when nobody can tell.
fn agrees(versions: &Versions, key: KeyId, seen: Seen, expected: Option<u32>) -> Option<bool> {
    let live = expected.filter(|version| !versions.get(*version).deleted);
    match seen {
        Seen::Unplaced(_) => None,
        Seen::Version(version) => Some(live == Some(version)),
        Seen::Absent if live.is_none() => Some(true),
        Seen::Absent => (!versions.is_doubtful(key)).then_some(false),
    }
}

fn disagreement(
    versions: &Versions,
    observed: &[Observed],
    read: &Observed,
    timestamp: Timestamp,
    expected: Option<u32>,
) -> Violation {
    let Observed { txn, key, seen } = *read;
    let mut txns = vec![txn];
    let seen = match seen {
        Seen::Version(version) => Some(version),
        Seen::Absent | Seen::Unplaced(_) => None,
    };
    let due = describe(versions, expected);
    let mut account =
        format!("{txn} at {timestamp:?} read {key} as {}; due was {due}", describe(versions, seen));
    let concerned = [expected, seen].into_iter().flatten().map(|version| versions.get(version).txn);
    txns.extend(concerned.clone().filter(|other| *other != txn));
    let mut kind = Kind::TimestampOrder;
    if versions.fate(txn) == Fate::Snapshot {
        kind = Kind::WrongSnapshot;
        if let Some(writer) = concerned.into_iter().find(|writer| is_torn(versions, observed, txn, *writer)) {
            kind = Kind::FracturedSnapshot;
            account.push_str(&format!("; of what {writer} wrote it saw a part"));
        }
    }
    Violation::new(versions.history, kind, &txns, account)
}

/// Did `reader` see one write of `writer`, and of another key something older than what `writer` wrote?
fn is_torn(versions: &Versions, observed: &[Observed], reader: TxnIndex, writer: TxnIndex) -> bool {
    let (mut saw, mut missed) = (false, false);
    for read in observed.iter().filter(|read| read.txn == reader) {
        let written = versions.of(read.key).find(|version| versions.get(*version).txn == writer);
        let Some(written) = written else { continue };
        match read.seen {
            Seen::Version(version) => {
                saw |= version == written;
                missed |= version < written;
            }
            Seen::Absent => missed |= !versions.get(written).deleted,
            Seen::Unplaced(_) => {}
        }
    }
    saw && missed
}

fn describe(versions: &Versions, version: Option<u32>) -> String {
    let Some(version) = version else { return "absent".into() };
    let version = versions.get(version);
    let deed = if version.deleted { "absent, deleted by" } else { "written by" };
    format!("{} ({deed} {} at {:?})", version.id, version.txn, version.timestamp)
}

/// Every row must be the newest version of its key, and every key that has a live one must have a row.
/// Several replicas may be given one after the other.
pub(super) fn check_final_state(versions: &Versions, final_state: &[FinalRow]) -> Result<(), Violation> {
    let keys = versions.history.keys();
    let mut present = vec![false; keys as usize];
    for (key, timestamp, id) in final_state {
        let newest = versions.newest(*key);
        let live = newest.filter(|version| !versions.get(*version).deleted);
        let due = newest.map(|version| versions.get(version).timestamp);
        let right = match id {
            Some(id) => {
                live.is_some_and(|version| versions.get(version).id == *id) && due == Some(*timestamp)
            }
            None if versions.is_doubtful(*key) => true,
            None => live.is_none() && (*timestamp == Timestamp(0) || due == Some(*timestamp)),
        };
        if !right {
            let found = match id {
                Some(id) => format!("{id} at {timestamp:?}{}", whose(versions, *id)),
                None => format!("absent at {timestamp:?}"),
            };
            return Err(wrong_rest(versions, *key, &found));
        }
        if let Some(present) = present.get_mut(key.0 as usize) {
            *present = true;
        }
    }
    for key in (0..keys).map(KeyId).filter(|key| !present[key.0 as usize]) {
        let live = versions.newest(key).is_some_and(|version| !versions.get(version).deleted);
        if live && !versions.is_doubtful(key) {
            return Err(wrong_rest(versions, key, "no row"));
        }
    }
    Ok(())
}

fn wrong_rest(versions: &Versions, key: KeyId, found: &str) -> Violation {
    let newest = versions.newest(key);
    let txns: Vec<TxnIndex> = newest.iter().map(|version| versions.get(*version).txn).collect();
    let account = format!("{key} came to rest as {found}; due was {}", describe(versions, newest));
    Violation::new(versions.history, Kind::FinalState, &txns, account)
}

/// Whose write was found where it should not be.
fn whose(versions: &Versions, id: WriteId) -> String {
    let history = versions.history;
    match history.write_by_id(id).map(|write| &history.writes()[write as usize]) {
        None => ", which no transaction wrote".into(),
        Some(write) => {
            let ending = history.txn(write.txn).ending;
            format!(", written to {} by {} ({ending})", write.key, write.txn)
        }
    }
}
