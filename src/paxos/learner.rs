//! The learner of a stream: which slots are chosen, which of those were delivered, which are missing.
//!
//! A leader learns by counting votes (`proposer`). A follower learns from its leader's messages, and
//! by counting itself and the leader, where those two are a majority: half a round trip sooner.
//!
//! What a follower holds is the chosen value only if it accepted it under the ballot of the leader
//! that says "chosen". A value held from an older ballot may be one that lost, so it is missing here
//! until it is fetched or proposed again.
//!
//! Invariants (in [`Learner::assert_invariants`]):
//!   1. `delivered <= chosen_end <= voted_end <= held_end`, and each slot is delivered once, in order.
//!   2. Every slot in `chosen_end..held_end` is held under `leader`'s ballot.
//!   3. Every chosen slot the acceptor has not dropped is held, and it dropped only delivered ones.
#![forbid(unsafe_code)]

use super::acceptor::Acceptor;
use super::quorum::Quorum;
use crate::types::{Ballot, Slot};

pub(super) struct Learner {
    /// The highest ballot under which anyone led, as far as we know. Monotone.
    leader: Ballot,
    heard: Heard,
    /// Every slot below it is chosen, and we held its value. Monotone.
    chosen_end: Slot,
    /// Every slot below it was handed out. Monotone.
    delivered: Slot,
    /// Every slot below it is chosen or held under `leader`. Monotone under one leader.
    held_end: Slot,
    /// Every slot below it is chosen or has our own vote under `leader`. Monotone under one leader.
    voted_end: Slot,
    /// Every replica knows every slot below it to be chosen. Monotone.
    known_everywhere: Slot,
    /// A fetch is under way, from this slot.
    fetching: Option<Slot>,
    /// Our own vote counts only once our log holds it.
    own_vote_needs_disk: bool,
}

/// How far the leader said it has got. Monotone under one leader.
#[derive(Clone, Copy, Default)]
pub(super) struct Heard {
    pub next_slot: Slot,
    pub chosen_end: Slot,
    pub voted_end: Slot,
}

impl Learner {
    pub fn new(own_vote_needs_disk: bool) -> Learner {
        Learner {
            leader: Ballot::default(),
            heard: Heard::default(),
            chosen_end: Slot(0),
            delivered: Slot(0),
            held_end: Slot(0),
            voted_end: Slot(0),
            known_everywhere: Slot(0),
            fetching: None,
            own_vote_needs_disk,
        }
    }

    /// A new leader: what was held under the old one and not known chosen, is held no longer.
    pub fn follow(&mut self, leader: Ballot) {
        assert!(leader > self.leader, "{leader:?} after {:?}", self.leader);
        self.leader = leader;
        self.heard = Heard::default();
        self.held_end = self.chosen_end;
        self.voted_end = self.chosen_end;
        self.fetching = None;
    }

    /// The leader's word. Messages overtake each other, so only what is news counts.
    pub fn hear(&mut self, heard: Heard) {
        self.heard.next_slot = self.heard.next_slot.max(heard.next_slot);
        self.heard.chosen_end = self.heard.chosen_end.max(heard.chosen_end);
        self.heard.voted_end = self.heard.voted_end.max(heard.voted_end);
    }

    pub fn hear_known_everywhere(&mut self, end: Slot) {
        self.known_everywhere = self.known_everywhere.max(end);
    }

    /// Draws every conclusion a follower can: first from what the leader says is chosen, then from
    /// the two votes it knows of.
    pub fn learn_as_follower(&mut self, acceptor: &Acceptor, quorum: &Quorum) {
        self.advance(acceptor);
        self.choose_through(self.heard.chosen_end.min(self.held_end), acceptor);
        if quorum.is_majority_of_two() {
            self.choose_through(self.heard.voted_end.min(self.voted_end), acceptor);
        }
    }

    /// Every slot below `end` is chosen.
    pub fn choose_through(&mut self, end: Slot, acceptor: &Acceptor) {
        assert!(end <= self.held_end, "chosen through {end:?}, held through {:?}", self.held_end);
        if end > self.chosen_end {
            self.chosen_end = end;
            self.advance(acceptor);
        }
    }

    /// Moves the ends of what we hold and what we voted for past what the acceptor got since.
    pub fn advance(&mut self, acceptor: &Acceptor) {
        self.held_end = self.held_end.max(self.chosen_end);
        while acceptor.holds_under(self.held_end, self.leader) {
            self.held_end = self.held_end.next();
        }
        self.voted_end = self.voted_end.max(self.chosen_end);
        while self.voted_end < self.held_end && self.is_own_vote(self.voted_end, acceptor) {
            self.voted_end = self.voted_end.next();
        }
    }

    /// Whether our acceptance of a slot held under the leader's ballot counts already.
    pub fn is_own_vote(&self, slot: Slot, acceptor: &Acceptor) -> bool {
        let held = acceptor.held(slot).filter(|held| held.ballot == self.leader);
        held.is_some_and(|held| held.durable || !self.own_vote_needs_disk)
    }

    /// The next chosen slot in order, once.
    pub fn take_chosen(&mut self) -> Option<Slot> {
        if self.delivered == self.chosen_end {
            return None;
        }
        let slot = self.delivered;
        self.delivered = slot.next();
        Some(slot)
    }

    /// Slots known chosen that we lack, if nobody has been asked for them. A slot not chosen yet is
    /// not missed: it may be on its way, and if it is lost, the leader sends it again.
    pub fn take_missing(&mut self, acceptor: &Acceptor) -> Option<(Slot, Slot)> {
        if self.fetching.is_some() {
            return None;
        }
        self.ask(self.heard.chosen_end, acceptor)
    }

    /// What to ask for when a timer says that what we waited for is overdue.
    pub fn take_overdue(&mut self, acceptor: &Acceptor) -> Option<(Slot, Slot)> {
        self.ask(self.heard.chosen_end.max(self.heard.next_slot), acceptor)
    }

    pub fn on_fetched(&mut self) {
        self.fetching = None;
    }

    pub fn leader(&self) -> Ballot {
        self.leader
    }

    pub fn chosen_end(&self) -> Slot {
        self.chosen_end
    }

    pub fn delivered(&self) -> Slot {
        self.delivered
    }

    pub fn held_end(&self) -> Slot {
        self.held_end
    }

    pub fn voted_end(&self) -> Slot {
        self.voted_end
    }

    pub fn known_everywhere(&self) -> Slot {
        self.known_everywhere
    }

    pub fn next_heard(&self) -> Slot {
        self.heard.next_slot
    }

    pub fn assert_invariants(&self, acceptor: &Acceptor) {
        let ends = [self.delivered, self.chosen_end, self.voted_end, self.held_end];
        assert!(ends.is_sorted(), "{ends:?}"); // 1
        for slot in (self.chosen_end.0..self.held_end.0).map(Slot) {
            assert!(acceptor.holds_under(slot, self.leader), "{slot:?} under {:?}", self.leader); // 2
        }
        assert!(acceptor.floor() <= self.delivered); // 3
        for slot in (acceptor.floor().0..self.chosen_end.0).map(Slot) {
            assert!(acceptor.held(slot).is_some(), "{slot:?} is chosen and not held"); // 3
        }
    }

    fn ask(&mut self, limit: Slot, acceptor: &Acceptor) -> Option<(Slot, Slot)> {
        self.fetching = None;
        let from = self.held_end;
        let limit = limit.min(Slot(from.0 + acceptor.limits().page_slots as u64));
        let mut end = from;
        while end < limit && !acceptor.holds_under(end, self.leader) {
            end = end.next();
        }
        if end == from {
            return None;
        }
        self.fetching = Some(from);
        Some((from, end))
    }
}
