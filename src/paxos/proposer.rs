//! The proposer of a stream: a candidate's recovery (phase 1) and a leader's pipeline (phase 2).
//!
//! A candidate asks for all slots from its own chosen end on with one message. Answers come in parts,
//! in any order; it leads when a majority has told all it accepted. The value of a slot is then the
//! one accepted at the highest ballot, or the caller's filler where nobody accepted any.
//!
//! Invariants:
//!   1. An acceptor counts only when its parts cover every slot from the candidate's base on.
//!   2. No part is heard that reports a ballot at or above the candidate's own.
//!   3. A leader's peer is never believed to hold a slot that was not proposed.
//!   4. A peer that forgot what it accepted has no vote left that was not counted, until it has voted for
//!      everything that was proposed when it told so.
//!
//! Not here: our own acceptor and the effects; `stream` joins them.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::collections::btree_map;

use super::Ignored;
use super::acceptor::Held;
use super::message::{Accepted, Batch, Promise};
use super::quorum::VoteSet;
use crate::rules::{Rule, on};
use crate::types::{Ballot, Slot};

pub(super) struct Candidate {
    pub ballot: Ballot,
    pub filler: Batch,
    /// By replica; our own place is not used.
    coverage: Vec<Coverage>,
    /// Of each slot, what was accepted at the highest ballot anyone reported.
    best: BTreeMap<Slot, (Ballot, Batch)>,
    /// Someone knows every slot below it to be chosen.
    chosen_end: Slot,
}

/// Which slots an acceptor has told us all about.
struct Coverage {
    /// All below it.
    end: Slot,
    /// Parts that overtook one before them: from → end.
    beyond: BTreeMap<Slot, Slot>,
    /// Where its last part ended.
    last: Option<Slot>,
}

impl Candidate {
    pub fn new(ballot: Ballot, filler: Batch, base: Slot, replicas: usize) -> Candidate {
        let coverage = || Coverage { end: base, beyond: BTreeMap::new(), last: None };
        Candidate {
            ballot,
            filler,
            coverage: (0..replicas).map(|_| coverage()).collect(),
            best: BTreeMap::new(),
            chosen_end: base,
        }
    }

    /// One part of an acceptor's promise. Reports that were heard twice change nothing, and a report
    /// from an acceptor that never completes does no harm: what it accepted, it accepted.
    pub fn on_promise(&mut self, from: usize, promise: Promise) -> Result<(), Ignored> {
        let inside = |slot: Slot| (promise.from_slot..promise.end_slot).contains(&slot);
        let sound = |slot, ballot| inside(slot) && ballot < self.ballot;
        if promise.from_slot > promise.end_slot || !promise.entries.iter().all(|e| sound(e.slot, e.ballot)) {
            return Err(Ignored::Malformed);
        }
        self.chosen_end = self.chosen_end.max(promise.chosen_end);
        let coverage = &mut self.coverage[from];
        if promise.floor > coverage.end {
            return Err(Ignored::Truncated);
        }
        for entry in promise.entries {
            match self.best.entry(entry.slot) {
                btree_map::Entry::Occupied(mut best) if best.get().0 < entry.ballot => {
                    best.insert((entry.ballot, entry.batch));
                }
                btree_map::Entry::Occupied(_) => {}
                btree_map::Entry::Vacant(best) => {
                    best.insert((entry.ballot, entry.batch));
                }
            }
        }
        coverage.insert(promise.from_slot, promise.end_slot);
        if promise.last {
            coverage.last = Some(promise.end_slot);
        }
        Ok(())
    }

    /// Every slot below `end` has since become chosen here: nobody need tell us about it, and those who have
    /// dropped it can.
    pub fn skip_chosen(&mut self, end: Slot) {
        for coverage in &mut self.coverage {
            coverage.insert(Slot(0), end);
        }
        self.best = self.best.split_off(&end);
        self.chosen_end = self.chosen_end.max(end);
    }

    /// Those that have told us everything.
    pub fn complete(&self) -> VoteSet {
        let mut complete = VoteSet::default();
        for (index, coverage) in self.coverage.iter().enumerate() {
            if coverage.is_complete() {
                complete.insert(index);
            }
        }
        complete
    }

    /// The first slot an acceptor has not told us about.
    pub fn covered(&self, index: usize) -> Slot {
        self.coverage[index].end
    }

    /// One above the highest slot anyone reported.
    pub fn end(&self) -> Slot {
        self.best.last_key_value().map_or(Slot(0), |(slot, _)| slot.next())
    }

    pub fn chosen_end(&self) -> Slot {
        self.chosen_end
    }

    /// The value that must be proposed in `slot`, given what we accepted there ourselves: the one of
    /// the highest ballot, since only that is sure to be the chosen one if any was chosen.
    pub fn take_value(&mut self, slot: Slot, own: Option<&Held>) -> Batch {
        let reported = self.best.remove(&slot);
        match (reported, own) {
            (Some((ballot, _)), Some(own)) if own.ballot > ballot || !on(Rule::HighestBallot) => {
                Batch::clone(&own.batch)
            }
            (Some((_, batch)), _) => batch,
            (None, Some(own)) => Batch::clone(&own.batch),
            (None, None) => {
                let known = self.chosen_end;
                assert!(slot >= known, "{slot:?} is chosen (all below {known:?}), and no majority has it");
                Batch::clone(&self.filler)
            }
        }
    }
}

impl Coverage {
    fn insert(&mut self, from: Slot, end: Slot) {
        let known = self.beyond.entry(from).or_insert(end);
        *known = end.max(*known);
        while let Some(part) = self.beyond.first_entry().filter(|part| *part.key() <= self.end) {
            self.end = self.end.max(part.remove());
        }
    }

    fn is_complete(&self) -> bool {
        self.last.is_some_and(|last| self.end >= last)
    }
}

pub(super) struct Leader {
    pub ballot: Ballot,
    /// The slot of the next proposal. Monotone.
    pub next_slot: Slot,
    /// By replica: every slot below has its vote. Our own place stays at 0. Falls back to 0 when it forgot.
    pub through: Vec<Slot>,
    /// By replica: how far it knows the stream to be chosen, when last heard. Our own place stays at 0.
    /// Falls back when it restarts from an older checkpoint, or messages overtake each other.
    known: Vec<Slot>,
    /// By replica, if it ever told that it forgot: the restart that was, and where the stream ended then.
    rejoined: Vec<Option<(u64, Slot)>>,
    /// The chosen end and the voted end that every follower was sent last.
    pub told: (Slot, Slot),
}

impl Leader {
    pub fn new(ballot: Ballot, next_slot: Slot, replicas: usize) -> Leader {
        let ends = vec![Slot(0); replicas];
        let rejoined = vec![None; replicas];
        Leader { ballot, next_slot, through: ends.clone(), known: ends, rejoined, told: (Slot(0), Slot(0)) }
    }

    /// A peer restarted and has forgotten what it accepted. True when this is the first we hear of that
    /// restart: its votes for what is not chosen yet are then not to be counted on.
    pub fn on_rejoin(&mut self, from: usize, nonce: u64) -> bool {
        if self.rejoined[from].is_some_and(|(known, _)| known == nonce) {
            return false;
        }
        self.rejoined[from] = Some((nonce, self.next_slot));
        self.through[from] = Slot(0);
        self.known[from] = Slot(0);
        true
    }

    /// A peer lacks this slot, so it knows no more than those below it to be chosen.
    pub fn on_lacking(&mut self, from: usize, slot: Slot) {
        self.known[from] = self.known[from].min(slot);
    }

    pub fn on_accepted(&mut self, from: usize, accepted: Accepted) -> Result<(), Ignored> {
        let ends = [accepted.chosen_end, accepted.through, self.next_slot];
        if !ends.is_sorted() || accepted.slot >= self.next_slot {
            return Err(Ignored::Malformed);
        }
        // It votes again only when it has all that (4); so this was said before it restarted.
        if self.rejoined[from].is_some_and(|(_, end)| accepted.through < end) {
            return Err(Ignored::StaleReply);
        }
        self.through[from] = self.through[from].max(accepted.through);
        self.known[from] = accepted.chosen_end;
        Ok(())
    }

    /// Every follower knows every slot below it to be chosen. To hold a slot is not enough: a value
    /// held from a leader that is gone has to be fetched again, and then someone must still have it.
    pub fn known_by_peers(&self, me: usize) -> Slot {
        let peers = self.known.iter().enumerate().filter(|&(index, _)| index != me);
        peers.map(|(_, &end)| end).min().unwrap_or(self.next_slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paxos::Entry;
    use crate::types::NodeId;

    fn ballot(round: u32) -> Ballot {
        Ballot { round, node: NodeId(0) }
    }

    fn batch(text: &str) -> Batch {
        Batch::from(text.as_bytes())
    }

    fn part(slots: std::ops::Range<u64>, entries: &[(u64, u32, &str)], last: bool) -> Promise {
        let entry = |&(slot, round, text): &(u64, u32, &str)| Entry {
            slot: Slot(slot),
            ballot: ballot(round),
            batch: batch(text),
        };
        Promise {
            ballot: ballot(9),
            from_slot: Slot(slots.start),
            end_slot: Slot(slots.end),
            entries: entries.iter().map(entry).collect(),
            last,
            floor: Slot(0),
            chosen_end: Slot(0),
        }
    }

    fn candidate() -> Candidate {
        Candidate::new(ballot(9), batch("filler"), Slot(2), 3)
    }

    /// An acceptor that is counted with a part missing may have accepted, in that part, the very
    /// value that was chosen.
    #[test]
    fn a_promise_counts_when_its_last_missing_part_has_come() {
        let mut candidate = candidate();
        for (slots, last) in [(8..11, true), (2..5, false)] {
            assert_eq!(candidate.on_promise(1, part(slots, &[], last)), Ok(()));
            assert!(!candidate.complete().contains(1));
        }
        assert_eq!(candidate.covered(1), Slot(5));
        assert_eq!(candidate.on_promise(1, part(5..8, &[], false)), Ok(()));
        assert!(candidate.complete().contains(1));
        assert!(!candidate.complete().contains(2));
    }

    /// The rule that makes a chosen value stay chosen.
    #[test]
    fn the_value_of_the_highest_ballot_is_taken_whoever_reports_it() {
        let mut candidate = candidate();
        let first = part(2..5, &[(2, 3, "old"), (3, 5, "new"), (4, 4, "peer")], true);
        let second = part(2..4, &[(2, 5, "new"), (3, 3, "old")], true);
        assert_eq!(candidate.on_promise(1, first), Ok(()));
        assert_eq!(candidate.on_promise(2, second), Ok(()));
        let votes = VoteSet::default();
        let own = |round| Held { ballot: ballot(round), batch: batch("own"), durable: true, votes };
        assert_eq!(candidate.end(), Slot(5));
        assert_eq!(candidate.take_value(Slot(2), None), batch("new"));
        assert_eq!(candidate.take_value(Slot(3), Some(&own(4))), batch("new"));
        assert_eq!(candidate.take_value(Slot(4), Some(&own(6))), batch("own"));
        assert_eq!(candidate.take_value(Slot(5), Some(&own(1))), batch("own"));
        assert_eq!(candidate.take_value(Slot(6), None), batch("filler"));
    }

    /// Such a promise would hide slots that were chosen, delivered and dropped at the peer.
    #[test]
    fn a_promise_that_starts_above_our_chosen_end_never_counts() {
        let mut candidate = candidate();
        let truncated = Promise { floor: Slot(3), ..part(3..5, &[], true) };
        assert_eq!(candidate.on_promise(1, truncated), Err(Ignored::Truncated));
        assert!(!candidate.complete().contains(1));
    }

    #[test]
    fn a_report_of_our_own_ballot_or_outside_its_part_is_malformed() {
        for entry in [(3, 9, "own"), (5, 3, "outside"), (1, 3, "outside")] {
            let outcome = candidate().on_promise(1, part(2..5, &[entry], true));
            assert_eq!(outcome, Err(Ignored::Malformed), "{entry:?}");
        }
    }
}
