//! What every read that counts saw, as a place in the version order.
//!
//! Scans are spelled out, key by key: a key of the covered range that was not returned was seen absent.
//! Values that must not be seen at all (unwritten, dirty, intermediate) are refused here; whether the
//! version was the right one is for `serializability` and `snapshots`.
#![forbid(unsafe_code)]

use super::history::{KeyId, TxnIndex, WriteId};
use super::versions::{Fate, Versions};
use super::violation::{Kind, Violation};

#[derive(Clone, Copy)]
pub(super) struct Observed {
    pub txn: TxnIndex,
    pub key: KeyId,
    pub seen: Seen,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    Absent,
    Version(u32),
    /// A write of a transaction whose timestamp nobody knows.
    Unplaced(TxnIndex),
}

pub(super) fn observe(versions: &Versions) -> Result<Vec<Observed>, Violation> {
    let history = versions.history;
    let counts = |txn| matches!(versions.fate(txn), Fate::Committed | Fate::Snapshot);
    let mut observed = Vec::with_capacity(history.reads().len() + history.rows_len());
    for read in history.reads().iter().filter(|read| counts(read.txn)) {
        observe_key(versions, read.txn, read.key, read.seen, &mut observed)?;
    }
    for scan in history.scans().iter().filter(|scan| counts(scan.txn)) {
        let mut rows = history.rows(scan).iter().peekable();
        for key in scan.covered.start..scan.covered.end.min(history.keys()) {
            let key = KeyId(key);
            let row = rows.next_if(|row| row.key == key);
            if !history.wrote(scan.txn, key, scan.own) {
                observe_key(versions, scan.txn, key, row.map(|row| row.seen), &mut observed)?;
            }
        }
    }
    Ok(observed)
}

fn observe_key(
    versions: &Versions,
    txn: TxnIndex,
    key: KeyId,
    seen: Option<WriteId>,
    observed: &mut Vec<Observed>,
) -> Result<(), Violation> {
    let seen = match seen {
        Some(id) => locate(versions, txn, key, id)?,
        // Nobody is known to have written it: there is nothing it could have missed.
        None if versions.of(key).is_empty() => return Ok(()),
        None => Seen::Absent,
    };
    observed.push(Observed { txn, key, seen });
    Ok(())
}

fn locate(versions: &Versions, reader: TxnIndex, key: KeyId, id: WriteId) -> Result<Seen, Violation> {
    let history = versions.history;
    let offence = |kind, txns: &[TxnIndex], account| Err(Violation::new(history, kind, txns, account));
    let Some(index) = history.write_by_id(id) else {
        let account = format!("{reader} read {key} as {id}, which no transaction wrote");
        return offence(Kind::UnwrittenRead, &[reader], account);
    };
    let write = &history.writes()[index as usize];
    let writer = write.txn;
    let both = [reader, writer];
    if write.key != key || write.deleted {
        let deed = if write.deleted { "is the deletion of" } else { "was written to" };
        let account = format!("{reader} read {key} as {id}, which {deed} {} by {writer}", write.key);
        return offence(Kind::UnwrittenRead, &both, account);
    }
    if versions.fate(writer) != Fate::Committed {
        let ending = history.txn(writer).ending;
        let account = format!("{reader} read {key} as {id} of {writer}, which was {ending}");
        return offence(Kind::DirtyRead, &both, account);
    }
    if write.superseded {
        let account = format!("{reader} read {key} as {id} of {writer}, which {writer} itself replaced");
        return offence(Kind::IntermediateRead, &both, account);
    }
    Ok(versions.version_of(index).map_or(Seen::Unplaced(writer), Seen::Version))
}
