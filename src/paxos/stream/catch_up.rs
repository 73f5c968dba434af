//! Catching up: slots a follower lacks are fetched from the leader, and where nobody keeps them any more, a
//! checkpoint from elsewhere takes their place.
//!
//! Not here: which slots are missing (`learner`), and the checkpoint itself, which the host carries.
//!
//! Invariants:
//!   1. `Behind` is told at most once per peer and floor, until a checkpoint came or a slot was chosen:
//!      the host starts a transfer for each.
//!   2. A jump moves every end up or leaves it, and never past what the host holds.
#![forbid(unsafe_code)]

use super::{Attempt, Outcome, Stream};
use crate::paxos::learner::Heard;
use crate::paxos::message::{Fetch, Fetched, PaxosMessage};
use crate::paxos::{Effect, Ignored, RestsOn};
use crate::types::{NodeId, Slot, Timestamp};

impl Stream {
    /// The host holds a durable checkpoint that covers every slot below `to`, and the state it leads to. What
    /// is held below is dropped and will not be handed out; pending fetches are forgotten. A checkpoint that
    /// covers less than was delivered already changes nothing.
    pub fn jump(&mut self, to: Slot) {
        self.too_far_behind.forget();
        if to <= self.learner.delivered() {
            return;
        }
        self.acceptor.jump(to);
        self.learner.jump(to, &self.acceptor);
        // A leader that lacks what was chosen has been deposed and has not heard of it. What it still proposes
        // is void, and in slots of its own.
        if let Attempt::Leader(leader) = &mut self.attempt {
            leader.next_slot = leader.next_slot.max(to);
        }
        self.learn();
    }

    /// A follower lacks slots. Only the leader answers: what it holds is chosen, or its own proposal.
    pub fn on_fetch(&mut self, from: NodeId, fetch: Fetch, out: &mut Vec<Effect>) -> Outcome {
        let index = self.peer(from)?;
        let Fetch { ballot, from_slot, end_slot } = fetch;
        let leader = match &mut self.attempt {
            Attempt::Leader(leader) if leader.ballot == ballot => leader,
            _ => return Err(Ignored::StaleReply),
        };
        let next_slot = leader.next_slot;
        if from_slot >= next_slot {
            return Err(Ignored::BeyondWindow);
        }
        leader.on_lacking(index, from_slot);
        let floor = self.acceptor.floor();
        let (entries, _) = self.acceptor.page(from_slot.max(floor), end_slot.min(next_slot));
        let fetched = Fetched {
            ballot,
            entries: entries.into_iter().map(|entry| (entry.slot, entry.batch)).collect(),
            floor,
            chosen_end: self.learner.chosen_end(),
            voted_end: self.learner.voted_end(),
        };
        let message = PaxosMessage::Fetched(fetched);
        out.push(Effect::Send { to: from, message, rests_on: RestsOn::Nothing });
        Ok(())
    }

    /// Every entry is accepted as if it had been proposed to us: the leader proposed it, or it is
    /// chosen, and then the leader can propose nothing else there.
    pub fn on_fetched(&mut self, from: NodeId, fetched: Fetched, out: &mut Vec<Effect>) -> Outcome {
        let Fetched { ballot, entries, floor, chosen_end, voted_end } = fetched;
        let index = self.peer(from)?;
        self.follow(from, ballot, out)?;
        self.learner.on_fetched();
        let held_before = self.learner.held_end();
        if floor > held_before {
            self.tell_behind(index, floor, out);
            return Err(Ignored::Truncated);
        }
        self.learner.hear(Heard { next_slot: chosen_end, chosen_end, voted_end });
        let (mut outcome, mut last) = (Ok(()), None);
        for (slot, batch) in entries {
            match self.take_entry(slot, batch, out) {
                Err(Ignored::BeyondWindow) => outcome = Err(Ignored::BeyondWindow),
                _ => last = Some(slot),
            }
            self.learn();
        }
        if let Some(slot) = last {
            self.send_accepted(from, ballot, slot, out);
        }
        // A reply that brought nothing must not start the next request, or the two would never rest.
        if self.learner.held_end() > held_before {
            self.fetch_next(held_before, out);
        }
        outcome
    }

    /// The peer's floor is above what we lack.
    pub(super) fn tell_behind(&mut self, index: usize, floor: Slot, out: &mut Vec<Effect>) {
        if self.too_far_behind.is_news(index, floor, self.learner.chosen_end()) {
            out.push(Effect::Behind { floor, at: self.quorum.at(index) });
        }
    }

    /// Time goes on: what is missing and was not asked for, so as not to hold others up, may be now.
    pub fn catch_up(&mut self, now: Timestamp, out: &mut Vec<Effect>) {
        if self.pace.on_time(now, self.learner.chosen_heard(), self.learner.held_end()) {
            self.fetch_missing(out);
        }
    }

    /// When `catch_up` next has something to do.
    pub fn catch_up_deadline(&self) -> Option<Timestamp> {
        self.pace.deadline()
    }

    /// After a page that began at `before`: at once if less than another is missing, else in its time.
    fn fetch_next(&mut self, before: Slot, out: &mut Vec<Effect>) {
        let page_slots = self.acceptor.limits().page_slots as u64;
        let missing = self.learner.take_missing(self.is_forgetful(), &self.acceptor);
        match missing {
            Some((from, end)) if end.0 - from.0 >= page_slots => {
                self.learner.on_fetched();
                self.pace.hold_back(self.learner.held_end().0 - before.0);
            }
            _ => self.fetch(missing, out),
        }
    }

    pub(super) fn fetch_missing(&mut self, out: &mut Vec<Effect>) {
        if self.pace.holds_back() {
            return;
        }
        let missing = self.learner.take_missing(self.is_forgetful(), &self.acceptor);
        self.fetch(missing, out);
    }

    pub(super) fn fetch(&self, slots: Option<(Slot, Slot)>, out: &mut Vec<Effect>) {
        let Some((from_slot, end_slot)) = slots else { return };
        let ballot = self.learner.leader();
        // One that we followed and have since promised against would only be told that it is deposed.
        if ballot == self.acceptor.promised() && ballot.node != self.quorum.node() {
            let message = PaxosMessage::Fetch(Fetch { ballot, from_slot, end_slot });
            out.push(Effect::Send { to: ballot.node, message, rests_on: RestsOn::Nothing });
        }
    }
}

/// Which peers' floors the host has been told of.
pub(super) struct TooFarBehind {
    /// By replica: the highest floor told.
    told: Vec<Slot>,
    /// Our chosen end at that time.
    chosen_end: Slot,
}

impl TooFarBehind {
    pub fn new(replicas: usize) -> TooFarBehind {
        TooFarBehind { told: vec![Slot(0); replicas], chosen_end: Slot(0) }
    }

    fn is_news(&mut self, index: usize, floor: Slot, chosen_end: Slot) -> bool {
        if chosen_end > self.chosen_end {
            self.forget();
            self.chosen_end = chosen_end;
        }
        let is_news = floor > self.told[index];
        self.told[index] = self.told[index].max(floor);
        is_news
    }

    fn forget(&mut self) {
        self.told.fill(Slot(0));
    }
}
