//! A partition's part in a distributed transaction that others decide (DESIGN §4, steps 2 and 4).
//!
//! Invariants:
//!   1. A prepared transaction holds its locks until it is committed or aborted here.
//!   2. Its proposal is above the clock when it is made, and no promise reaches it before the end.
#![forbid(unsafe_code)]

use super::locks::{LockSet, successor};
use super::procedure::KeyBytes;
use super::store::{Install, Span, Store};
use super::window::{Standings, Writer};
use super::writes::hash_key;
use crate::bounds::{HOLD_NS_MAX, PREPARED_MAX};
use crate::rules::{self, Rule};
use crate::types::{Epoch, PartitionId, ShardId, Stamp, Standing, TableId, Timestamp, TxnId, Value};
use crate::wire::{Deps, ReadCheck, Refusal, ScanCheck, WriteRef};
use hashbrown::HashMap;
use std::collections::BTreeSet;

/// The transactions prepared here and not yet decided.
#[derive(Default)]
pub struct PreparedSet {
    by_txn: HashMap<TxnId, Prepared, foldhash::fast::FixedState>,
    proposals: BTreeSet<(Timestamp, TxnId)>,
}

struct Prepared {
    proposal: Timestamp,
    /// When its coordinator was last asked.
    asked: Timestamp,
    /// Shard of the coordinator, for the test whether its epoch is over.
    coordinator: Stamp,
    writes: Vec<(TableId, KeyBytes, Option<Value>)>,
    reads: Vec<(TableId, KeyBytes)>,
}

/// What a coordinator asks of one participant.
pub struct PrepareRequest<'a> {
    pub txn: TxnId,
    /// Epoch under which the coordinator knows this shard.
    pub epoch: Epoch,
    /// Shard of the coordinator.
    pub home: ShardId,
    pub hold_ns: u64,
    pub deps: &'a Deps,
    pub reads: &'a [ReadCheck<'a>],
    pub scans: &'a [ScanCheck<'a>],
    pub writes: &'a [WriteRef<'a>],
}

/// What a coordinator decided.
pub struct Commit<'a> {
    pub txn: TxnId,
    pub timestamp: Timestamp,
    pub deps: &'a Deps,
    /// Empty when the transaction wrote nothing anywhere: then nothing is logged.
    pub participants: &'a [PartitionId],
}

/// What a participant must know of the rest of the cluster.
pub trait Known: Standings {
    /// Whether the reign is over.
    fn is_closed(&self, stamp: Stamp) -> bool;
    /// The newest epoch heard of; 0 when none is.
    fn epoch(&self, shard: ShardId) -> Epoch;

    fn any_lost(&self, deps: &Deps) -> bool {
        deps.iter().any(|(stamp, timestamp)| self.standing(stamp, timestamp) == Standing::Lost)
    }
}

impl PreparedSet {
    pub fn lowest_proposal(&self) -> Option<Timestamp> {
        self.proposals.first().map(|(proposal, _)| *proposal)
    }

    pub fn len(&self) -> usize {
        self.by_txn.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_txn.is_empty()
    }

    pub fn contains(&self, txn: TxnId) -> bool {
        self.by_txn.contains_key(&txn)
    }

    /// Where a transaction prepared here will stand at least.
    pub fn proposal(&self, txn: TxnId) -> Option<Timestamp> {
        self.by_txn.get(&txn).map(|prepared| prepared.proposal)
    }

    /// Transactions undecided for longer than `timeout_ns`, oldest proposal first; each is named again
    /// only after as long once more.
    pub fn overdue(&mut self, now: Timestamp, timeout_ns: u64, out: &mut Vec<TxnId>) {
        for (_, txn) in &self.proposals {
            let Some(prepared) = self.by_txn.get_mut(txn) else { continue };
            if now.since(prepared.asked) >= timeout_ns {
                prepared.asked = now;
                out.push(*txn);
            }
        }
    }

    /// Transactions whose coordinator's reign has ended: nobody will decide them unasked.
    pub fn orphans(&self, known: &impl Known) -> Vec<TxnId> {
        let orphan = |txn: &TxnId| known.is_closed(self.by_txn[txn].coordinator);
        self.proposals.iter().map(|(_, txn)| *txn).filter(orphan).collect()
    }

    /// All of them, lowest proposal first.
    pub fn all(&self) -> Vec<TxnId> {
        self.proposals.iter().map(|(_, txn)| *txn).collect()
    }

    fn insert(&mut self, txn: TxnId, prepared: Prepared) {
        self.proposals.insert((prepared.proposal, txn));
        self.by_txn.insert(txn, prepared);
    }

    fn remove(&mut self, txn: TxnId) -> Option<Prepared> {
        let prepared = self.by_txn.remove(&txn)?;
        self.proposals.remove(&(prepared.proposal, txn));
        Some(prepared)
    }
}

impl Store {
    pub fn prepared(&self) -> &PreparedSet {
        &self.prepared
    }

    pub fn prepared_mut(&mut self) -> &mut PreparedSet {
        &mut self.prepared
    }

    /// Votes: a proposal, with everything locked, or a refusal that changes nothing.
    pub fn prepare(
        &mut self,
        now: Timestamp,
        request: &PrepareRequest<'_>,
        known: &impl Known,
    ) -> Result<Timestamp, Refusal> {
        if let Some(repeated) = self.prepared.by_txn.get(&request.txn) {
            return Ok(repeated.proposal);
        }
        let coordinator = Stamp { shard: request.home, epoch: request.txn.epoch };
        self.refuse(request, coordinator, known)?;
        let (ends, read_floor) = self.validate(request)?;

        let writes: Vec<_> = request.writes.iter().map(|w| (w.table, w.key)).collect();
        let written = |check: &&ReadCheck<'_>| !writes.contains(&(check.table, check.key));
        let reads: Vec<_> = request.reads.iter().filter(written).map(|r| (r.table, r.key)).collect();
        let ranges: Vec<_> =
            ends.iter().map(|(table, from, to)| (*table, &from[..], to.as_deref())).collect();
        let set = LockSet { writes: &writes, reads: &reads, ranges: &ranges };
        if !self.locks.acquire(request.txn, &set) {
            return Err(Refusal::Locked);
        }
        let mut proposal = self.clock.propose(now, request.hold_ns.min(HOLD_NS_MAX));
        if proposal <= self.ahead.until() {
            let floors = writes.iter().map(|(table, key)| self.write_floor(*table, key));
            proposal = proposal.max(floors.fold(read_floor, Timestamp::max).next());
        }
        let own = |w: &WriteRef<'_>| (w.table, KeyBytes::from_slice(w.key), w.value.map(Value::new));
        let prepared = Prepared {
            proposal,
            asked: now,
            coordinator,
            writes: request.writes.iter().map(own).collect(),
            reads: reads.iter().map(|(table, key)| (*table, KeyBytes::from_slice(key))).collect(),
        };
        self.prepared.insert(request.txn, prepared);
        Ok(proposal)
    }

    /// Every reason not to vote that needs no look at the data.
    fn refuse(
        &self,
        request: &PrepareRequest<'_>,
        coordinator: Stamp,
        known: &impl Known,
    ) -> Result<(), Refusal> {
        if rules::on(Rule::RefuseWrongEpoch) && request.epoch != self.epoch {
            return Err(Refusal::WrongEpoch);
        }
        if rules::on(Rule::RefuseClosedEpoch) && known.is_closed(coordinator) {
            return Err(Refusal::ClosedEpoch);
        }
        if known.any_lost(request.deps) {
            return Err(Refusal::LostDependency);
        }
        if self.prepared.len() >= PREPARED_MAX {
            return Err(Refusal::Busy);
        }
        let tables = request.reads.iter().map(|r| r.table);
        let tables = tables.chain(request.scans.iter().map(|s| s.range.table));
        let mut tables = tables.chain(request.writes.iter().map(|w| w.table));
        if tables.any(|table| usize::from(table.0) >= self.tables.len()) {
            return Err(Refusal::UnknownTable);
        }
        Ok(())
    }

    /// Nothing that was read has changed. Returns the ranges that the scans really covered, and the highest
    /// version of all that was read.
    fn validate(&self, request: &PrepareRequest<'_>) -> Result<(Vec<Covered>, Timestamp), Refusal> {
        let mut highest = Timestamp::default();
        for check in request.reads {
            let seen = self.read(check.table, check.key).map_err(|_| Refusal::Locked)?;
            // A tombstone that is gone was stable and old: the key is still absent, as it was read.
            let pruned = check.absent && seen.version == Timestamp::default();
            let same = seen.version == check.version && seen.value.is_none() == check.absent;
            if rules::on(Rule::ValidateReads) && !same && !pruned {
                return Err(Refusal::Changed);
            }
            highest = highest.max(seen.version);
        }
        let mut covered = Vec::with_capacity(request.scans.len());
        for check in request.scans {
            let span = Span::from(&check.range);
            let mut last = None;
            let row = &mut |key: &[u8], _: Timestamp, _: &Value| last = Some(KeyBytes::from_slice(key));
            // It was within its bounds when it was read: another attempt meets the bound as a reader.
            let visited = self.visit(span, true, &mut Deps::default(), row).map_err(|_| Refusal::Changed)?;
            if rules::on(Rule::ValidateScans) && visited.digest != check.digest {
                return Err(Refusal::Changed);
            }
            highest = highest.max(visited.highest);
            covered.push(cover(span, visited.complete, last));
        }
        let floor = Some(highest).filter(|_| rules::on(Rule::ReadFloor)).unwrap_or_default();
        Ok((covered, floor))
    }

    /// Installs a decided transaction and unlocks. False when it is not prepared here: a repeated
    /// decision, or one prepared in an earlier epoch, which that epoch's end dooms everywhere.
    pub fn commit(
        &mut self,
        now: Timestamp,
        commit: &Commit<'_>,
        token: Option<u64>,
        known: &impl Known,
    ) -> Committed {
        let ranges = match self.clock.follows(now, commit.timestamp) {
            true => Vec::new(),
            false => self.locks.ranges_of(commit.txn),
        };
        let Some(prepared) = self.release(commit.txn) else {
            return Committed { was_prepared: false, held: None };
        };
        let reads = prepared.reads.iter().map(|(table, key)| hash_key(*table, key));
        self.stand(now, commit.timestamp, reads, ranges.into_iter());
        let Commit { txn, timestamp, deps, participants } = *commit;
        let lost = known.any_lost(deps);
        if lost && rules::on(Rule::DoomedAtCommit) {
            return Committed { was_prepared: true, held: None };
        }
        let install = Install { txn, timestamp, deps, participants, token };
        let writes = prepared.writes.iter().map(|(table, key, value)| (*table, &key[..], value.as_ref()));
        let held = if lost {
            // Only without the rule above: the window takes nothing that is lost already.
            self.replay(timestamp, writes.map(|(table, key, value)| (table, key, value.map(|v| &v[..]))));
            None
        } else if participants.is_empty() {
            token.and_then(|_| self.hold(&install, 0, known, std::iter::empty()))
        } else {
            self.install(&install, now, known, writes).then_some(1)
        };
        Committed { was_prepared: true, held }
    }

    /// Unlocks and forgets. False when it is not prepared here.
    pub fn abort(&mut self, txn: TxnId) -> bool {
        self.release(txn).is_some()
    }

    fn release(&mut self, txn: TxnId) -> Option<Prepared> {
        let prepared = self.prepared.remove(txn)?;
        let writes = prepared.writes.iter().map(|(table, key, _)| (*table, &key[..]));
        let reads = prepared.reads.iter().map(|(table, key)| (*table, &key[..]));
        self.locks.release(txn, writes, reads);
        Some(prepared)
    }
}

/// What became of a commit here.
pub struct Committed {
    pub was_prepared: bool,
    /// It waits in the window.
    pub held: Option<Writer>,
}

type Covered = (TableId, KeyBytes, Option<KeyBytes>);

/// The part of the range a scan rests on: all of it, or up to the row at which its limit stopped it.
fn cover(span: Span<'_>, complete: bool, last: Option<KeyBytes>) -> Covered {
    let from = KeyBytes::from_slice(span.from);
    let to = span.to.map(KeyBytes::from_slice);
    match (last, span.reverse) {
        (Some(last), false) if !complete => (span.table, from, Some(successor(&last))),
        (Some(last), true) if !complete => (span.table, last, to),
        _ => (span.table, from, to),
    }
}

#[cfg(test)]
mod tests;
