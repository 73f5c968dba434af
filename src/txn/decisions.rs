//! What this home has decided and not every participant has acknowledged (DESIGN §4, step 4).
//!
//! A decision is told for as long as it takes: again, after a pause, when a participant cannot be reached or
//! refuses to hear it. It is given up where the participant's epoch has closed: what was
//! prepared there is doomed by that end, and what was committed is in the log.
//!
//! Invariants:
//!   1. A decision is remembered until every participant has acknowledged it or its epoch is closed.
//!   2. Each participant is asked once at a time: it is told again only when it has been heard to fail.
//!   3. Numbers begin anew with every start of a node, so a decision is found by number *and* identifier.
#![forbid(unsafe_code)]

use super::attempt::encode;
use super::coordinator::{Effect, Ticket};
use crate::bounds::{COORDINATED_MAX, MS};
use crate::types::{Epoch, PartitionId, Timestamp, TxnId};
use crate::wire::{Deps, Message, Verdict};
use hashbrown::HashMap;
use smallvec::SmallVec;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

#[derive(Default)]
pub(super) struct Decisions {
    by_number: HashMap<u64, Decided, foldhash::fast::FixedState>,
    /// Who did not hear which decision, and when it is told again.
    untold: BinaryHeap<Reverse<(Timestamp, u64, PartitionId)>>,
}

pub(super) struct Decided {
    pub id: TxnId,
    pub timestamp: Timestamp,
    pub deps: Deps,
    /// Of the entry: empty when nothing was written anywhere.
    pub participants: SmallVec<[PartitionId; 4]>,
    pub unacknowledged: SmallVec<[(PartitionId, Epoch); 4]>,
}

impl Decisions {
    pub(super) fn has_room(&self) -> bool {
        self.by_number.len() < COORDINATED_MAX
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_number.is_empty()
    }

    /// Tells every participant, and remembers it until all have acknowledged.
    pub(super) fn tell<P>(&mut self, decided: Decided, out: &mut Vec<Effect<P>>) {
        if !decided.unacknowledged.is_empty() {
            let number = decided.id.number;
            out.extend(decided.unacknowledged.iter().map(|(to, epoch)| decided.ask(*to, *epoch)));
            self.by_number.insert(number, decided);
        }
    }

    pub(super) fn knows(&self, id: TxnId) -> bool {
        self.get(id).is_some()
    }

    pub(super) fn verdict(&self, id: TxnId) -> Option<Verdict> {
        let Decided { timestamp, deps, participants, .. } = self.get(id)?;
        Some(Verdict::Committed {
            timestamp: *timestamp,
            deps: deps.clone(),
            participants: participants.clone(),
        })
    }

    /// A participant has installed, or dropped, a decided transaction.
    pub(super) fn on_done(&mut self, id: TxnId, from: PartitionId) {
        if let Some(decided) = self.by_number.get_mut(&id.number).filter(|decided| decided.id == id) {
            decided.unacknowledged.retain(|(partition, _)| *partition != from);
            if decided.unacknowledged.is_empty() {
                self.by_number.remove(&id.number);
            }
        }
    }

    /// A participant could not be told: it gave no sign of life, or there was no room for one more message to
    /// it, or it does not lead, or in another epoch. What comes of it then is known when its epoch has ended.
    /// Told at once, it would find as little room as now.
    pub(super) fn on_untold(&mut self, now: Timestamp, number: u64, who: PartitionId) {
        self.untold.push(Reverse((now.plus_ns(TELL_AGAIN_NS), number, who)));
    }

    /// Nothing is to be told any more where `is_over` says that the epoch of a participant has closed.
    pub(super) fn forget(&mut self, is_over: impl Fn(PartitionId, Epoch) -> bool) {
        self.by_number.retain(|_, decided| {
            decided.unacknowledged.retain(|(partition, epoch)| !is_over(*partition, *epoch));
            !decided.unacknowledged.is_empty()
        });
    }

    pub(super) fn on_tick<P>(&mut self, now: Timestamp, out: &mut Vec<Effect<P>>) {
        while let Some(Reverse((due, number, who))) = self.untold.peek().copied() {
            if due > now {
                break;
            }
            self.untold.pop();
            if let Some(decided) = self.by_number.get(&number) {
                let waits = decided.unacknowledged.iter().find(|(partition, _)| *partition == who);
                out.extend(waits.map(|(to, epoch)| decided.ask(*to, *epoch)));
            }
        }
    }

    pub(super) fn deadline(&self) -> Option<Timestamp> {
        self.untold.peek().map(|Reverse((due, ..))| *due)
    }

    fn get(&self, id: TxnId) -> Option<&Decided> {
        self.by_number.get(&id.number).filter(|decided| decided.id == id)
    }
}

impl Decided {
    fn ask<P>(&self, to: PartitionId, epoch: Epoch) -> Effect<P> {
        let message = encode(&Message::Commit {
            partition: to,
            epoch,
            txn: self.id,
            timestamp: self.timestamp,
            deps: self.deps.clone(),
            participants: self.participants.clone(),
        });
        Effect::Ask { to, nearest: false, ticket: Ticket::Commit { number: self.id.number }, message }
    }
}

/// A decision that was not heard is told again after this long: a tenth of a usual outage.
const TELL_AGAIN_NS: u64 = 100 * MS;
