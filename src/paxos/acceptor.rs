//! The acceptor of a stream: what this replica has promised and accepted.
//!
//! Every change of either appends the record that makes it last, before the caller can append a
//! message that speaks of it.
//!
//! Invariants (in [`Acceptor::assert_invariants`]):
//!   1. No slot is held at a ballot above `promised`.
//!   2. `promised` changes only together with a `Vote` handed to the wal.
//!   3. Slots are held in `floor..end` only, and `bytes` is the size of what they hold.
//!   4. `floor <= persisted_end <= end`; every slot in `floor..persisted_end` is held and durable.
//!
//! After a restart the log hands back what it held ([`Acceptor::restored`]); nothing is persisted again.
//!
//! Not here: which slots are chosen (`learner`), hence which may be dropped: the caller says.
#![forbid(unsafe_code)]

use super::message::{Batch, Entry};
use super::quorum::VoteSet;
use super::{Effect, Limits, Persist, RestsOn};
use crate::types::{Ballot, Slot};

pub(super) struct Acceptor {
    /// Monotone.
    promised: Ballot,
    /// The highest promise our log is known to hold. Monotone, at most `promised`.
    vote_durable: Ballot,
    /// Slot `s` lives at `s % ring.len()`. Sized in `new`; see `grow`.
    ring: Box<[Option<Held>]>,
    /// The oldest slot still kept. Monotone.
    floor: Slot,
    /// One above the highest slot ever held. Monotone.
    end: Slot,
    bytes: usize,
    /// Every slot below it is in our own log, as last accepted. Falls back when a new leader proposes
    /// a slot again.
    persisted_end: Slot,
    /// The slot of the last record handed to the wal, if that was an acceptance and not a vote.
    recorded: Option<Slot>,
    limits: Limits,
}

/// What a slot holds here.
pub(super) struct Held {
    pub ballot: Ballot,
    pub batch: Batch,
    /// Our own log holds this acceptance.
    pub durable: bool,
    /// While we lead: who voted for this slot, though they may lack one below it.
    pub votes: VoteSet,
}

impl Acceptor {
    pub fn new(limits: Limits) -> Acceptor {
        assert!(limits.retained_slots.is_power_of_two());
        assert!(limits.pipeline_slots <= limits.retained_slots);
        assert!(limits.page_slots > 0);
        Acceptor {
            promised: Ballot::default(),
            vote_durable: Ballot::default(),
            ring: (0..limits.retained_slots).map(|_| None).collect(),
            floor: Slot(0),
            end: Slot(0),
            bytes: 0,
            persisted_end: Slot(0),
            recorded: None,
            limits,
        }
    }

    /// What the log held. A checkpoint may be older than what memory dropped before the restart, so the tail
    /// of the log may be longer than the ring: the ring then grows, this once, since an acceptance that
    /// was told must not be forgotten.
    pub fn restored(limits: Limits, promised: Ballot, floor: Slot, accepted: Vec<Entry>) -> Acceptor {
        let end = accepted.iter().map(|entry| entry.slot.next()).max().map_or(floor, |end| end.max(floor));
        let mut acceptor =
            Acceptor { promised, vote_durable: promised, floor, end: floor, ..Acceptor::new(limits) };
        acceptor.grow(end);
        acceptor.end = end;
        for Entry { slot, ballot, batch } in accepted {
            assert!(ballot <= promised, "{slot:?} accepted under {ballot:?}, promised {promised:?}");
            if slot < floor || acceptor.held(slot).is_some_and(|held| held.ballot >= ballot) {
                continue;
            }
            acceptor.bytes += batch.len();
            let held = Held { ballot, batch, durable: true, votes: VoteSet::default() };
            let place = acceptor.place(slot);
            if let Some(old) = acceptor.ring[place].replace(held) {
                acceptor.bytes -= old.batch.len();
            }
        }
        acceptor.persisted_end = floor;
        acceptor.advance_persisted();
        acceptor
    }

    /// Phase 1b. Also how a leader we did not vote for is followed: a promise may always be raised.
    pub fn promise(&mut self, ballot: Ballot, out: &mut Vec<Effect>) {
        assert!(ballot > self.promised, "{ballot:?} after {:?}", self.promised);
        self.promised = ballot;
        self.recorded = None;
        out.push(Effect::Persist(Persist::Vote { ballot }));
    }

    /// Phase 2b. The promise comes first and on its own (`promise`), so that modes which do not log
    /// acceptances still log every ballot.
    pub fn accept(&mut self, slot: Slot, ballot: Ballot, batch: Batch, out: &mut Vec<Effect>) {
        assert!(ballot == self.promised, "accepts {ballot:?}, promised {:?}", self.promised);
        assert!(slot >= self.floor && self.has_place(slot), "{slot:?} with floor {:?}", self.floor);
        out.push(Effect::Persist(Persist::Accept { slot, ballot, batch: Batch::clone(&batch) }));
        self.recorded = Some(slot);
        self.bytes += batch.len();
        let place = self.place(slot);
        let held = Held { ballot, batch, durable: false, votes: VoteSet::default() };
        if let Some(old) = self.ring[place].replace(held) {
            assert!(old.ballot < ballot, "{slot:?} accepted twice under {ballot:?}");
            self.bytes -= old.batch.len();
        }
        self.end = self.end.max(slot.next());
        self.persisted_end = self.persisted_end.min(slot);
    }

    /// False when the acceptance has been overtaken by one of a higher ballot, or dropped.
    pub fn on_persisted(&mut self, slot: Slot, ballot: Ballot) -> bool {
        let Some(held) = self.held_mut(slot) else { return false };
        if held.ballot != ballot {
            return false;
        }
        held.durable = true;
        self.advance_persisted();
        true
    }

    pub fn on_vote_persisted(&mut self, ballot: Ballot) {
        assert!(ballot <= self.promised, "{ballot:?} durable, promised {:?}", self.promised);
        self.vote_durable = self.vote_durable.max(ballot);
    }

    /// Makes room for a batch by dropping slots below `limit`, oldest first, and no more than needed.
    /// `forced` ignores the bound on bytes, not that on slots.
    pub fn make_room(&mut self, slot: Slot, bytes: usize, limit: Slot, forced: bool) -> bool {
        // Nothing is dropped for a slot that would not fit even then.
        if slot.0 >= limit.0 + self.ring.len() as u64 {
            return false;
        }
        let fits = |acceptor: &Acceptor| acceptor.bytes + bytes <= acceptor.limits.retained_bytes;
        while self.floor < limit && !(self.has_place(slot) && fits(self)) {
            self.drop_oldest();
        }
        self.has_place(slot) && (forced || fits(self))
    }

    /// Drops everything below `limit`.
    pub fn drop_below(&mut self, limit: Slot) {
        while self.floor < limit {
            self.drop_oldest();
        }
    }

    /// Makes places for every slot below `end`, which others hold already. Only a restart and a recovery may
    /// need it: everything else waits until there is room.
    pub fn grow(&mut self, end: Slot) {
        let span = usize::try_from(end.0 - self.floor.0).expect("others hold no more slots than memory");
        if span <= self.ring.len() {
            return;
        }
        self.limits.retained_slots = span.next_power_of_two();
        let ring = (0..self.limits.retained_slots).map(|_| None).collect();
        let mut old = std::mem::replace(&mut self.ring, ring);
        let mask = old.len() - 1;
        for slot in (self.floor.0..self.end.0).map(Slot) {
            let place = self.place(slot);
            self.ring[place] = old[slot.0 as usize & mask].take();
        }
    }

    /// A durable checkpoint holds every slot below `to`: what our log holds there is needed no longer.
    pub fn jump(&mut self, to: Slot) {
        while self.floor < to.min(self.end) {
            self.take_oldest();
        }
        self.floor = self.floor.max(to);
        self.end = self.end.max(to);
        self.persisted_end = self.persisted_end.max(to);
        self.advance_persisted();
    }

    /// Drops slots below `limit` while more bytes are held than the bound allows.
    pub fn drop_excess(&mut self, limit: Slot) {
        while self.floor < limit && self.bytes > self.limits.retained_bytes {
            self.drop_oldest();
        }
    }

    /// What is held in `from..end`, as much as one message carries, and where that stops.
    pub fn page(&self, from: Slot, end: Slot) -> (Vec<Entry>, Slot) {
        let (mut entries, mut bytes, mut slot) = (Vec::new(), 0, from);
        while slot < end && entries.len() < self.limits.page_slots && bytes < self.limits.page_bytes {
            if let Some(held) = self.held(slot) {
                bytes += held.batch.len();
                entries.push(Entry { slot, ballot: held.ballot, batch: Batch::clone(&held.batch) });
            }
            slot = slot.next();
        }
        (entries, slot)
    }

    /// What a message about our acceptances waits for: our last record, even if it speaks of an earlier
    /// one. Replies are cumulative, they speak of the ballot too, and the wal is durable in order.
    pub fn rests_on(&self) -> RestsOn {
        self.recorded.map_or(RestsOn::Vote, RestsOn::Acceptance)
    }

    pub fn held(&self, slot: Slot) -> Option<&Held> {
        if slot < self.floor || slot >= self.end {
            return None;
        }
        self.ring[self.place(slot)].as_ref()
    }

    pub fn held_mut(&mut self, slot: Slot) -> Option<&mut Held> {
        if slot < self.floor || slot >= self.end {
            return None;
        }
        let place = self.place(slot);
        self.ring[place].as_mut()
    }

    pub fn holds_under(&self, slot: Slot, ballot: Ballot) -> bool {
        self.held(slot).is_some_and(|held| held.ballot == ballot)
    }

    pub fn promised(&self) -> Ballot {
        self.promised
    }

    pub fn vote_durable(&self) -> Ballot {
        self.vote_durable
    }

    pub fn floor(&self) -> Slot {
        self.floor
    }

    pub fn end(&self) -> Slot {
        self.end
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn persisted_end(&self) -> Slot {
        self.persisted_end
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Walks the whole ring.
    pub fn assert_invariants(&self) {
        assert!(self.vote_durable <= self.promised); // 2
        assert!(self.floor <= self.persisted_end && self.persisted_end <= self.end); // 4
        let mut bytes = 0;
        for slot in (self.floor.0..self.end.0).map(Slot) {
            let held = self.held(slot);
            assert!(held.is_none_or(|held| held.ballot <= self.promised), "{slot:?}"); // 1
            assert!(slot >= self.persisted_end || held.is_some_and(|held| held.durable), "{slot:?}"); // 4
            bytes += held.map_or(0, |held| held.batch.len());
        }
        assert_eq!(bytes, self.bytes); // 3
        let all: usize = self.ring.iter().flatten().map(|held| held.batch.len()).sum();
        assert_eq!(all, self.bytes); // 3
    }

    fn drop_oldest(&mut self) {
        assert!(self.floor < self.persisted_end, "{:?} is not in our log yet", self.floor);
        self.take_oldest();
    }

    fn take_oldest(&mut self) {
        let place = self.place(self.floor);
        let held = self.ring[place].take();
        self.bytes -= held.map_or(0, |held| held.batch.len());
        self.floor = self.floor.next();
    }

    fn advance_persisted(&mut self) {
        while self.held(self.persisted_end).is_some_and(|held| held.durable) {
            self.persisted_end = self.persisted_end.next();
        }
    }

    fn has_place(&self, slot: Slot) -> bool {
        slot.0 < self.floor.0 + self.ring.len() as u64
    }

    fn place(&self, slot: Slot) -> usize {
        slot.0 as usize & (self.ring.len() - 1)
    }
}
