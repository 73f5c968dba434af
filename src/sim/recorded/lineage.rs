//! The versions of every key by the number that each value carries: one write each, and none gone again.
//!
//! `check` orders versions by timestamp. Of a writer that was killed before its first answer nobody knows the
//! timestamp, and what others saw of its writes could be compared with nothing. But each names its place:
//!   1. A number of a key belongs to one write. Two updates of one version are a lost update, known or not.
//!   2. A snapshot shows of each key no smaller number than any durable update at or below its timestamp has.
#![forbid(unsafe_code)]

use super::super::history::{History, KeyId, TxnIndex, WriteId};
use super::super::violation::{Kind, Violation};
use super::{Held, Txn};
use crate::types::Timestamp;
use std::collections::BTreeMap;

pub(super) fn check(history: &History, txns: &[Txn]) -> Result<(), Violation> {
    let mut lineage = Lineage { history, owners: BTreeMap::new(), durable: BTreeMap::new() };
    let indexed = || (0..).map(TxnIndex).zip(txns);
    for (index, txn) in indexed().filter(|(_, txn)| txn.is_durable() || txn.snapshot().is_some()) {
        lineage.add(index, txn)?;
    }
    lineage.durable.values_mut().for_each(|updates| updates.sort_unstable());
    indexed().try_for_each(|(index, txn)| match txn.snapshot() {
        Some(timestamp) => lineage.check_snapshot(index, timestamp, &txn.reads),
        None => Ok(()),
    })
}

struct Lineage<'h> {
    history: &'h History,
    /// By key and number: the write, and who says so.
    owners: BTreeMap<(KeyId, u64), (WriteId, TxnIndex)>,
    /// By key: timestamp, number and transaction of each durable update.
    durable: BTreeMap<KeyId, Vec<(Timestamp, u64, TxnIndex)>>,
}

impl Lineage<'_> {
    fn add(&mut self, index: TxnIndex, txn: &Txn) -> Result<(), Violation> {
        for (key, held) in &txn.reads {
            if let Some(Held { id, number, previous }) = *held {
                self.claim(*key, number, id, index)?;
                previous.map_or(Ok(()), |previous| self.claim(*key, number - 1, previous, index))?;
            }
            let write = txn.writes.iter().find(|(written, _)| written == key);
            if let (Some((_, id)), Some(timestamp)) = (write, txn.timestamp) {
                let number = held.map_or(0, |held| held.number) + 1;
                self.claim(*key, number, *id, index)?;
                self.durable.entry(*key).or_default().push((timestamp, number, index));
            }
        }
        Ok(())
    }

    fn claim(&mut self, key: KeyId, number: u64, id: WriteId, witness: TxnIndex) -> Result<(), Violation> {
        let (owner, first) = *self.owners.entry((key, number)).or_insert((id, witness));
        if owner == id {
            return Ok(());
        }
        let account = format!("version {number} of {key} is {owner} to {first} and {id} to {witness}");
        Err(Violation::new(self.history, Kind::LostUpdate, &[first, witness], account))
    }

    fn check_snapshot(
        &self,
        reader: TxnIndex,
        timestamp: Timestamp,
        reads: &[(KeyId, Option<Held>)],
    ) -> Result<(), Violation> {
        for (key, held) in reads {
            let shown = held.map_or(0, |held| held.number);
            let Some(updates) = self.durable.get(key) else { continue };
            let known = updates.partition_point(|(at, ..)| *at <= timestamp);
            let Some((_, number, writer)) = updates[..known].last() else { continue };
            if *number > shown {
                let account = format!(
                    "{reader} at {timestamp:?} read version {shown} of {key}, but {writer} made version {number} durable"
                );
                return Err(Violation::new(self.history, Kind::WrongSnapshot, &[reader, *writer], account));
            }
        }
        Ok(())
    }
}
