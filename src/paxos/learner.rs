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
    /// Every replica knows every slot below it to be chosen, as the leader said last. Falls back when one of
    /// them restarts and knows less.
    known_everywhere: Slot,
    /// Our log knows every slot below it to be chosen. Monotone.
    known_durable: Slot,
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
            known_durable: Slot(0),
            fetching: None,
            own_vote_needs_disk,
        }
    }

    /// After a restart. What is known of a leader is that of the highest ballot under which we accepted
    /// anything; everything below `floor` is in the checkpoint, and what the leader called chosen above it we
    /// are told again.
    /// `chosen_end` is what the log knew: as far as it holds the slots, they are chosen as they are held.
    pub fn restored(
        own_vote_needs_disk: bool,
        floor: Slot,
        chosen_end: Slot,
        acceptor: &Acceptor,
    ) -> Learner {
        let held = (floor.0..acceptor.end().0).filter_map(|slot| acceptor.held(Slot(slot)));
        let leader = held.map(|held| held.ballot).max().unwrap_or_default();
        let mut learner = Learner { leader, ..Learner::new(own_vote_needs_disk) };
        let mut known = floor;
        while known < chosen_end && acceptor.held(known).is_some() {
            known = known.next();
        }
        (learner.delivered, learner.chosen_end, learner.known_durable) = (floor, known, known);
        learner.advance(acceptor);
        learner
    }

    /// The host holds the state that every slot below `to` leads to.
    pub fn jump(&mut self, to: Slot, acceptor: &Acceptor) {
        self.delivered = self.delivered.max(to);
        self.chosen_end = self.chosen_end.max(to);
        self.fetching = None;
        self.advance(acceptor);
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
        self.known_everywhere = end;
    }

    /// Draws every conclusion a follower can: first from what the leader says is chosen, then from
    /// the two votes it knows of, unless its own does not count (`votes`).
    pub fn learn_as_follower(&mut self, acceptor: &Acceptor, quorum: &Quorum, votes: bool) {
        self.advance(acceptor);
        self.choose_through(self.heard.chosen_end.min(self.held_end), acceptor);
        if votes && quorum.is_majority_of_two() {
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
    /// not missed: it may be on its way, and if it is lost, the leader sends it again. Unless `all` is
    /// wanted, by one that cannot vote before it has it.
    pub fn take_missing(&mut self, all: bool, acceptor: &Acceptor) -> Option<(Slot, Slot)> {
        if self.fetching.is_some() {
            return None;
        }
        let proposed = if all { self.heard.next_slot } else { Slot(0) };
        self.ask(self.heard.chosen_end.max(proposed), acceptor)
    }

    /// What to ask for when a timer says that what we waited for is overdue.
    pub fn take_overdue(&mut self, acceptor: &Acceptor) -> Option<(Slot, Slot)> {
        self.ask(self.heard.chosen_end.max(self.heard.next_slot), acceptor)
    }

    pub fn on_fetched(&mut self) {
        self.fetching = None;
    }

    /// Every slot below `end` is chosen or held under `leader`, in our log too where votes need that.
    pub fn holds_whole(&self, end: Slot, acceptor: &Acceptor) -> bool {
        self.held_end >= end && (!self.own_vote_needs_disk || acceptor.persisted_end() >= end)
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

    pub fn on_chosen_persisted(&mut self, end: Slot) {
        self.known_durable = self.known_durable.max(end);
    }

    /// Every slot below it we know to be chosen, and still will after a restart if that is to count.
    pub fn known_for_good(&self) -> Slot {
        if self.own_vote_needs_disk { self.known_durable.min(self.chosen_end) } else { self.chosen_end }
    }

    pub fn known_everywhere(&self) -> Slot {
        self.known_everywhere
    }

    /// How far the leader said it has chosen.
    pub fn chosen_heard(&self) -> Slot {
        self.heard.chosen_end
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
