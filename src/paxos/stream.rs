//! One replica of one stream: acceptor, learner and, at times, candidate or leader.
//!
//! Four kinds of method, each run to completion: what the host wants (`campaign`, `propose`,
//! `heartbeat`, `announce`, `resend`, `retain`, `step_down`, `jump`), what arrived (`on_*`), what there is to
//! take (`poll_chosen`), and getters. Effects are appended in the order in which they must be carried out.
//!
//! Values are pushed until they are chosen (`Accept`, `resend`) and pulled afterwards (`Fetch`), so
//! the leader keeps no queue for a follower that lags (`catch_up`). A replica that restarts without what it
//! accepted is a learner until it has a leader's whole log (`rejoin`).
//!
//! Invariants (in [`Stream::assert_invariants`], with those of the parts):
//!   1. No slot is held at a ballot above the leader's, and we promised no less than that.
//!   2. A candidate's or leader's ballot is its own, and is what it promised.
//!   3. A leader holds `chosen_end..next_slot` under its ballot: what is in flight, at most a ring full.
//!   4. What was not delivered, or is not in our log, is not dropped.
//!   5. A message that speaks of a promise or acceptance of ours rests on its record.
//!   6. A replica that has forgotten what it accepted neither campaigns nor votes.
#![forbid(unsafe_code)]

mod catch_up;
mod pace;
mod rejoin;

use super::acceptor::Acceptor;
use super::learner::{Heard, Learner};
use super::message::{Accept, Accepted, Batch, Chosen, PaxosMessage, Prepare, Promise, Rejected};
use super::proposer::{Candidate, Leader};
use super::quorum::Quorum;
use super::{Effect, Ignored, Limits, RestsOn};
use crate::bounds::BATCH_BYTES_MAX;
use crate::rules::{Rule, on};
use crate::types::{Ballot, NodeId, Slot};
use catch_up::TooFarBehind;
use pace::Pace;
use rejoin::Rejoining;
pub use rejoin::{Forgot, Restored};

pub struct Stream {
    quorum: Quorum,
    acceptor: Acceptor,
    learner: Learner,
    attempt: Attempt,
    /// While it lasts, our vote counts nowhere.
    rejoining: Option<Rejoining>,
    too_far_behind: TooFarBehind,
    pace: Pace,
}

pub struct StreamConfig {
    pub me: NodeId,
    /// The same list, in the same order, at every replica.
    pub replicas: Vec<NodeId>,
    /// Our own acceptance counts only once our log holds it (`quorum-disk`). Otherwise it counts at
    /// once; a host that also waits for its own disk takes the minimum of `chosen_end` and
    /// `persisted_end` (`leader-disk`).
    pub own_vote_needs_disk: bool,
    pub limits: Limits,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Follower,
    Candidate,
    Leader,
}

enum Attempt {
    None,
    Candidate(Candidate),
    Leader(Leader),
}

type Outcome = Result<(), Ignored>;

impl Stream {
    pub fn new(config: StreamConfig) -> Stream {
        let quorum = Quorum::new(config.me, config.replicas);
        Stream {
            too_far_behind: TooFarBehind::new(quorum.len()),
            pace: Pace::default(),
            quorum,
            acceptor: Acceptor::new(config.limits),
            learner: Learner::new(config.own_vote_needs_disk),
            attempt: Attempt::None,
            rejoining: None,
        }
    }

    // What the host wants.

    /// Phase 1, for every slot from our chosen end on; only when `can_campaign`. `filler` goes into slots
    /// nobody accepted anything in. Ends in `Led`, in `Deposed`, or, if nobody answers, not at all.
    pub fn campaign(&mut self, ballot: Ballot, filler: Batch, out: &mut Vec<Effect>) {
        assert!(ballot.node == self.quorum.node(), "{ballot:?} is not ours");
        assert!(self.can_campaign(), "{ballot:?} by a replica that forgot what it accepted");
        assert!(ballot > self.acceptor.promised(), "{ballot:?}, promised {:?}", self.acceptor.promised());
        self.acceptor.promise(ballot, out);
        let base = self.learner.chosen_end();
        self.attempt = Attempt::Candidate(Candidate::new(ballot, filler, base, self.quorum.len()));
        for (_, to) in self.quorum.peers() {
            let message = PaxosMessage::Prepare(Prepare { ballot, from_slot: base });
            // Even the question rests on the vote: after a restart we must not ask under it again.
            out.push(Effect::Send { to, message, rests_on: on_the_vote() });
        }
    }

    /// Phase 1 is complete, and the pipeline has room for a slot and some bytes.
    pub fn can_propose(&self) -> bool {
        let Attempt::Leader(leader) = &self.attempt else { return false };
        let (limits, droppable) = (self.acceptor.limits(), self.droppable());
        self.in_flight() < limits.pipeline_slots
            && leader.next_slot.0 < droppable.0 + limits.retained_slots as u64
            && (self.acceptor.bytes() < limits.retained_bytes || self.acceptor.floor() < droppable)
    }

    /// Proposed and not yet known chosen, in slots; 0 while we do not lead.
    pub fn in_flight(&self) -> usize {
        match &self.attempt {
            Attempt::Leader(leader) => (leader.next_slot.0 - self.learner.chosen_end().0) as usize,
            Attempt::Candidate(_) | Attempt::None => 0,
        }
    }

    /// Another stream of the shard was lost to `by`: this one is no use without it. Our promise stays.
    pub fn step_down(&mut self, by: Ballot, out: &mut Vec<Effect>) {
        if self.attempted().is_some() {
            self.attempt = Attempt::None;
            out.push(Effect::Deposed { by });
        }
    }

    /// Phase 2a. Does not wait for slots before it. Only after `can_propose`.
    pub fn propose(&mut self, batch: Batch, out: &mut Vec<Effect>) -> Slot {
        assert!(self.can_propose());
        assert!(batch.len() <= BATCH_BYTES_MAX, "a batch of {} bytes", batch.len());
        let droppable = self.droppable();
        let Attempt::Leader(leader) = &mut self.attempt else { unreachable!("can_propose") };
        let (ballot, slot) = (leader.ballot, leader.next_slot);
        leader.next_slot = slot.next();
        assert!(self.acceptor.make_room(slot, batch.len(), droppable, true));
        self.acceptor.accept(slot, ballot, batch, out);
        for (_, to) in self.quorum.peers() {
            self.send_accept(slot, to, out);
        }
        self.note_told();
        self.learn();
        slot
    }

    /// The leader makes itself heard: every follower learns how far it has got.
    pub fn heartbeat(&mut self, out: &mut Vec<Effect>) {
        let Attempt::Leader(leader) = &self.attempt else { return };
        let chosen = Chosen {
            ballot: leader.ballot,
            next_slot: leader.next_slot,
            chosen_end: self.learner.chosen_end(),
            voted_end: self.learner.voted_end(),
            known_end: self.known_everywhere(),
        };
        for (_, to) in self.quorum.peers() {
            out.push(Effect::Send { to, message: PaxosMessage::Chosen(chosen), rests_on: RestsOn::Nothing });
        }
        self.note_told();
    }

    /// A leader's heartbeat, if it has news that no proposal has carried; and a replica that had forgotten
    /// what it accepted votes again, if it has all it waited for. Cheap: call it once a turn.
    pub fn announce(&mut self, out: &mut Vec<Effect>) {
        self.try_vote_again(out);
        let Attempt::Leader(leader) = &self.attempt else { return };
        let (chosen_told, voted_told) = leader.told;
        // Where two votes are no majority, a follower can do nothing with the second end.
        let voted = self.quorum.is_majority_of_two() && self.learner.voted_end() > voted_told;
        if voted || self.learner.chosen_end() > chosen_told {
            self.heartbeat(out);
        }
    }

    /// A timer of the host, in every role: asks again for what is overdue. A candidate for promises, a
    /// leader for votes (a page of slots at a time, oldest first), a follower for slots it lacks.
    pub fn resend(&mut self, out: &mut Vec<Effect>) {
        if let Attempt::Candidate(candidate) = &mut self.attempt {
            candidate.skip_chosen(self.learner.chosen_end());
        }
        match &self.attempt {
            Attempt::Candidate(candidate) => {
                let (ballot, complete) = (candidate.ballot, candidate.complete());
                for (index, to) in self.quorum.peers().filter(|&(index, _)| !complete.contains(index)) {
                    let from_slot = candidate.covered(index);
                    let message = PaxosMessage::Prepare(Prepare { ballot, from_slot });
                    out.push(Effect::Send { to, message, rests_on: on_the_vote() });
                }
                self.try_lead(out);
            }
            Attempt::Leader(leader) => {
                let (from, end) = (self.learner.chosen_end(), leader.next_slot);
                let (entries, _) = self.acceptor.page(from, end);
                for entry in entries {
                    for (index, to) in self.quorum.peers() {
                        let alone = self.acceptor.held(entry.slot).is_some_and(|h| h.votes.contains(index));
                        if entry.slot >= leader.through[index] && !alone {
                            self.send_accept(entry.slot, to, out);
                        }
                    }
                }
            }
            Attempt::None => {
                let overdue = self.learner.take_overdue(&self.acceptor);
                self.fetch(overdue, out);
                self.ask_to_rejoin(out);
                self.try_vote_again(out);
            }
        }
    }

    /// Drops what every replica knows to be chosen, and what exceeds the bound on bytes even if a follower lags;
    /// never what was not delivered, or is not in our log.
    pub fn retain(&mut self) {
        let droppable = self.droppable();
        self.acceptor.drop_below(droppable.min(self.known_everywhere()));
        self.acceptor.drop_excess(droppable);
    }

    // What arrived.

    pub fn on_message(&mut self, from: NodeId, message: PaxosMessage, out: &mut Vec<Effect>) -> Outcome {
        match message {
            PaxosMessage::Prepare(prepare) => self.on_prepare(from, prepare, out),
            PaxosMessage::Promise(promise) => self.on_promise(from, promise, out),
            PaxosMessage::Rejected(rejected) => self.on_rejected(from, rejected, out),
            PaxosMessage::Accept(accept) => self.on_accept(from, accept, out),
            PaxosMessage::Accepted(accepted) => self.on_accepted(from, accepted),
            PaxosMessage::Chosen(chosen) => self.on_chosen(from, chosen, out),
            PaxosMessage::Fetch(fetch) => self.on_fetch(from, fetch, out),
            PaxosMessage::Fetched(fetched) => self.on_fetched(from, fetched, out),
            PaxosMessage::Rejoin(rejoin) => self.on_rejoin(from, rejoin, out),
            PaxosMessage::Rejoined(rejoined) => self.on_rejoined(from, rejoined, out),
        }
    }

    /// Our log holds the promise of `ballot`. Our own promise to ourselves counts from here on.
    pub fn on_vote_persisted(&mut self, ballot: Ballot, out: &mut Vec<Effect>) {
        self.acceptor.on_vote_persisted(ballot);
        self.try_lead(out);
    }

    /// Our log holds this acceptance. Called at once in modes that do not log acceptances.
    pub fn on_persisted(&mut self, slot: Slot, ballot: Ballot) {
        if self.acceptor.on_persisted(slot, ballot) {
            self.learn();
        }
    }

    /// Our log knows that every slot below `end` is chosen. Only then may others forget them: a replica that
    /// restarts takes what it holds for chosen only as far as its log says so.
    pub fn on_chosen_persisted(&mut self, end: Slot) {
        self.learner.on_chosen_persisted(end);
    }

    /// Phase 1b. Repeated for a ballot already promised: the first answer may be lost.
    pub fn on_prepare(&mut self, from: NodeId, prepare: Prepare, out: &mut Vec<Effect>) -> Outcome {
        let Prepare { ballot, from_slot } = prepare;
        self.peer(from)?;
        if self.is_forgetful() {
            return Err(Ignored::Forgetful);
        }
        self.heed(from, ballot, out)?;
        let (floor, chosen_end) = (self.acceptor.floor(), self.learner.chosen_end());
        let mut part_from = from_slot.max(floor);
        loop {
            let (entries, part_end) = self.acceptor.page(part_from, self.acceptor.end());
            let last = part_end >= self.acceptor.end();
            let promise = Promise {
                ballot,
                from_slot: part_from,
                end_slot: part_end,
                entries,
                last,
                floor,
                chosen_end,
            };
            // The vote is behind every acceptance reported here in the wal: it stands for them too.
            let message = PaxosMessage::Promise(promise);
            out.push(Effect::Send { to: from, message, rests_on: on_the_vote() });
            if last {
                return Ok(());
            }
            part_from = part_end;
        }
    }

    pub fn on_promise(&mut self, from: NodeId, promise: Promise, out: &mut Vec<Effect>) -> Outcome {
        let index = self.peer(from)?;
        let candidate = match &mut self.attempt {
            Attempt::Candidate(candidate) if candidate.ballot == promise.ballot => candidate,
            _ => return Err(Ignored::StaleReply),
        };
        candidate.skip_chosen(self.learner.chosen_end());
        let floor = promise.floor;
        let heard = candidate.on_promise(index, promise);
        if heard == Err(Ignored::Truncated) {
            self.tell_behind(index, floor, out);
        }
        self.try_lead(out);
        heard
    }

    pub fn on_rejected(&mut self, from: NodeId, rejected: Rejected, out: &mut Vec<Effect>) -> Outcome {
        self.peer(from)?;
        if self.attempted().is_none_or(|ballot| rejected.promised <= ballot) {
            return Err(Ignored::StaleReply);
        }
        self.step_down(rejected.promised, out);
        Ok(())
    }

    /// Phase 2b.
    pub fn on_accept(&mut self, from: NodeId, accept: Accept, out: &mut Vec<Effect>) -> Outcome {
        let Accept { ballot, slot, batch, chosen_end, voted_end } = accept;
        self.follow(from, ballot, out)?;
        // The last slot there could be has none after it; it is refused below.
        let next_slot = Slot(slot.0.saturating_add(1));
        self.learner.hear(Heard { next_slot, chosen_end, voted_end });
        let outcome = self.take_entry(slot, batch, out);
        self.learn();
        if outcome != Err(Ignored::BeyondWindow) {
            self.send_accepted(from, ballot, slot, out);
        }
        self.fetch_missing(out);
        outcome
    }

    pub fn on_accepted(&mut self, from: NodeId, accepted: Accepted) -> Outcome {
        let index = self.peer(from)?;
        let leader = match &mut self.attempt {
            Attempt::Leader(leader) if leader.ballot == accepted.ballot => leader,
            _ => return Err(Ignored::StaleReply),
        };
        leader.on_accepted(index, accepted)?;
        if let Some(held) = self.acceptor.held_mut(accepted.slot) {
            held.votes.insert(index);
        }
        self.learn();
        Ok(())
    }

    /// The leader's heartbeat, or news between its proposals.
    pub fn on_chosen(&mut self, from: NodeId, chosen: Chosen, out: &mut Vec<Effect>) -> Outcome {
        let Chosen { ballot, next_slot, chosen_end, voted_end, known_end } = chosen;
        self.follow(from, ballot, out)?;
        self.learner.hear(Heard { next_slot, chosen_end, voted_end });
        self.learner.hear_known_everywhere(known_end);
        self.learn();
        self.fetch_missing(out);
        Ok(())
    }

    // What there is to take.

    /// The next chosen slot, each exactly once and in order, on every replica. The ballot is the one
    /// under which *this* replica last accepted the batch; replicas may differ in it.
    pub fn poll_chosen(&mut self) -> Option<(Slot, Ballot, Batch)> {
        let slot = self.learner.take_chosen()?;
        let Some(held) = self.acceptor.held(slot) else { panic!("{slot:?} is chosen and not held") };
        Some((slot, held.ballot, Batch::clone(&held.batch)))
    }

    pub fn role(&self) -> Role {
        match self.attempt {
            Attempt::None => Role::Follower,
            Attempt::Candidate(_) => Role::Candidate,
            Attempt::Leader(_) => Role::Leader,
        }
    }

    pub fn promised(&self) -> Ballot {
        self.acceptor.promised()
    }

    /// The highest promise that our log is known to hold.
    pub fn promised_durably(&self) -> Ballot {
        self.acceptor.vote_durable()
    }

    /// A replica that has forgotten what it accepted would not recover what its own votes chose.
    pub fn can_campaign(&self) -> bool {
        !self.is_forgetful()
    }

    /// The highest ballot under which anyone, perhaps we, was seen to lead. Not proof that it still does.
    pub fn leader(&self) -> Ballot {
        self.learner.leader()
    }

    /// Every slot below it is chosen: the *replicated* end. Monotone.
    pub fn chosen_end(&self) -> Slot {
        self.learner.chosen_end()
    }

    /// Every slot below it is known to be chosen, and still will be after a restart if that is to count.
    pub fn known_for_good(&self) -> Slot {
        self.learner.known_for_good()
    }

    /// Every slot below it is in our own log. May be on either side of `chosen_end`.
    pub fn persisted_end(&self) -> Slot {
        self.acceptor.persisted_end()
    }

    /// One above the highest slot proposed, as far as we know.
    pub fn next_slot(&self) -> Slot {
        match &self.attempt {
            Attempt::Leader(leader) => leader.next_slot,
            Attempt::Candidate(_) | Attempt::None => self.learner.next_heard().max(self.acceptor.end()),
        }
    }

    /// What this replica last accepted in a slot it still keeps; it may not be what is chosen there.
    pub fn accepted(&self, slot: Slot) -> Option<(Ballot, &Batch)> {
        self.acceptor.held(slot).map(|held| (held.ballot, &held.batch))
    }

    /// Whether our log holds what we last accepted in a slot we still keep.
    pub fn is_persisted(&self, slot: Slot) -> bool {
        self.acceptor.held(slot).is_some_and(|held| held.durable)
    }

    /// The oldest slot still kept.
    pub fn floor(&self) -> Slot {
        self.acceptor.floor()
    }

    /// Bytes of batches kept.
    pub fn retained_bytes(&self) -> usize {
        self.acceptor.bytes()
    }

    /// While we lead: how many slots a replica lacks.
    pub fn behind(&self, node: NodeId) -> Option<u64> {
        let Attempt::Leader(leader) = &self.attempt else { return None };
        let index = self.quorum.index_of(node)?;
        let end = if index == self.quorum.me() { leader.next_slot } else { leader.through[index] };
        Some(leader.next_slot.0 - end.0)
    }

    /// Walks everything held: for tests and the simulator.
    pub fn assert_invariants(&self) {
        self.acceptor.assert_invariants();
        self.learner.assert_invariants(&self.acceptor);
        let (promised, leader) = (self.acceptor.promised(), self.learner.leader());
        assert!(leader <= promised, "led by {leader:?}, promised {promised:?}"); // 1
        for slot in (self.acceptor.floor().0..self.acceptor.end().0).map(Slot) {
            assert!(self.acceptor.held(slot).is_none_or(|held| held.ballot <= leader), "{slot:?}"); // 1
        }
        if let Some(ballot) = self.attempted() {
            assert!(ballot == promised && ballot.node == self.quorum.node()); // 2
        }
        if let Attempt::Leader(at) = &self.attempt {
            assert!(at.ballot == leader && at.next_slot == self.learner.held_end()); // 3
            assert!(at.next_slot == self.acceptor.end()); // 3
            assert!(self.in_flight() <= self.acceptor.limits().retained_slots); // 3
        }
        assert!(self.acceptor.floor() <= self.droppable()); // 4
        assert!(self.rejoining.is_none() || self.attempted().is_none()); // 6
    }

    // How the parts are joined.

    /// Leads, once a majority, which may include us, has told all it accepted.
    fn try_lead(&mut self, out: &mut Vec<Effect>) {
        let Attempt::Candidate(candidate) = &self.attempt else { return };
        let mut complete = candidate.complete();
        if self.acceptor.vote_durable() == candidate.ballot {
            complete.insert(self.quorum.me());
        }
        if !self.quorum.is_majority(complete) {
            return;
        }
        let end = candidate.end().max(self.acceptor.end());
        let room = self.droppable().0 + self.acceptor.limits().retained_slots as u64;
        if end.0 > room && self.droppable() < self.learner.chosen_end() {
            // The tail does not fit beside what the host has not taken yet; `resend` tries again.
            return;
        }
        // It is longer than our ring where it was kept by one that restarted from an older checkpoint.
        self.acceptor.grow(end);
        if let Attempt::Candidate(candidate) = std::mem::replace(&mut self.attempt, Attempt::None) {
            self.lead(candidate, end, out);
        }
    }

    /// Proposes the recovered tail again. What someone knows to be chosen we only accept ourselves:
    /// it needs no more votes, and followers that lack it fetch it.
    fn lead(&mut self, mut candidate: Candidate, end: Slot, out: &mut Vec<Effect>) {
        let ballot = candidate.ballot;
        self.learner.follow(ballot);
        for slot in (self.learner.chosen_end().0..end.0).map(Slot) {
            let batch = candidate.take_value(slot, self.acceptor.held(slot));
            assert!(self.acceptor.make_room(slot, batch.len(), self.droppable(), true));
            self.acceptor.accept(slot, ballot, batch, out);
        }
        self.learner.advance(&self.acceptor);
        assert!(candidate.chosen_end() <= end, "chosen through {:?}, got {end:?}", candidate.chosen_end());
        self.learner.choose_through(candidate.chosen_end(), &self.acceptor);
        self.attempt = Attempt::Leader(Leader::new(ballot, end, self.quorum.len()));
        for slot in (self.learner.chosen_end().0..end.0).map(Slot) {
            for (_, to) in self.quorum.peers() {
                self.send_accept(slot, to, out);
            }
        }
        out.push(Effect::Led { next: end });
        self.learn();
    }

    /// What every ballot of another must pass, in one place: a replica, its own ballot, and not below
    /// what we promised. A higher one is promised.
    fn heed(&mut self, from: NodeId, ballot: Ballot, out: &mut Vec<Effect>) -> Outcome {
        self.peer(from)?;
        if ballot.node != from {
            return Err(Ignored::NotItsBallot);
        }
        let promised = self.acceptor.promised();
        if ballot < promised {
            let message = PaxosMessage::Rejected(Rejected { promised });
            out.push(Effect::Send { to: from, message, rests_on: on_the_vote() });
            return Err(Ignored::OldBallot);
        }
        if ballot > promised {
            self.step_down(ballot, out);
            self.acceptor.promise(ballot, out);
        }
        Ok(())
    }

    /// Heeds a ballot under which someone leads already.
    fn follow(&mut self, from: NodeId, ballot: Ballot, out: &mut Vec<Effect>) -> Outcome {
        self.heed(from, ballot, out)?;
        if ballot > self.learner.leader() {
            self.learner.follow(ballot);
            self.ask_to_rejoin(out);
        }
        assert!(ballot == self.learner.leader() && self.attempted().is_none());
        Ok(())
    }

    /// Accepts the leader's value for a slot, unless we hold it already or cannot hold it.
    fn take_entry(&mut self, slot: Slot, batch: Batch, out: &mut Vec<Effect>) -> Outcome {
        let ballot = self.learner.leader();
        if slot < self.acceptor.floor() {
            return Err(Ignored::BelowFloor);
        }
        if let Some(held) = self.acceptor.held(slot)
            && (held.ballot == ballot || slot < self.learner.chosen_end())
        {
            assert!(held.batch == batch, "{slot:?}: {ballot:?} differs from {:?}", held.ballot);
            return Err(Ignored::Duplicate);
        }
        // The first slot we lack may exceed the bound on bytes: else those behind it, which wait for
        // it, could keep it out for ever.
        let forced = slot == self.learner.held_end();
        if !self.acceptor.make_room(slot, batch.len(), self.droppable(), forced) {
            return Err(Ignored::BeyondWindow);
        }
        self.acceptor.accept(slot, ballot, batch, out);
        Ok(())
    }

    /// Draws every conclusion from what has changed.
    fn learn(&mut self) {
        let Attempt::Leader(leader) = &self.attempt else {
            let votes = self.rejoining.is_none();
            return self.learner.learn_as_follower(&self.acceptor, &self.quorum, votes);
        };
        self.learner.advance(&self.acceptor);
        let mut end = self.learner.chosen_end();
        let mut chosen = end;
        while end < leader.next_slot {
            let Some(held) = self.acceptor.held(end) else { break };
            let mut alone = held.votes;
            if self.learner.is_own_vote(end, &self.acceptor) {
                alone.insert(self.quorum.me());
            }
            let is_chosen = self.quorum.has_chosen(end, &leader.through, alone);
            end = end.next();
            if is_chosen {
                chosen = end;
            } else if on(Rule::ContiguousClaim) {
                break;
            }
        }
        self.learner.choose_through(chosen, &self.acceptor);
    }

    fn send_accept(&self, slot: Slot, to: NodeId, out: &mut Vec<Effect>) {
        let Some(held) = self.acceptor.held(slot) else { panic!("{slot:?} is proposed and not held") };
        let accept = Accept {
            ballot: held.ballot,
            slot,
            batch: Batch::clone(&held.batch),
            chosen_end: self.learner.chosen_end(),
            voted_end: self.learner.voted_end(),
        };
        // Our own disk need not be first: our vote counts on its own when it gets there.
        out.push(Effect::Send { to, message: PaxosMessage::Accept(accept), rests_on: RestsOn::Nothing });
    }

    fn send_accepted(&self, to: NodeId, ballot: Ballot, slot: Slot, out: &mut Vec<Effect>) {
        if self.is_forgetful() {
            return;
        }
        let (through, chosen_end) = (self.learner.held_end(), self.learner.chosen_end());
        let accepted = Accepted { ballot, slot, through, chosen_end };
        let (message, rests_on) = (PaxosMessage::Accepted(accepted), self.acceptor.rests_on());
        out.push(Effect::Send { to, message, rests_on });
    }

    fn note_told(&mut self) {
        let told = (self.learner.chosen_end(), self.learner.voted_end());
        if let Attempt::Leader(leader) = &mut self.attempt {
            leader.told = told;
        }
    }

    /// Slots below it may be dropped if need be.
    fn droppable(&self) -> Slot {
        self.learner.delivered().min(self.acceptor.persisted_end())
    }

    fn known_everywhere(&self) -> Slot {
        match &self.attempt {
            Attempt::Leader(leader) => {
                leader.known_by_peers(self.quorum.me()).min(self.learner.known_for_good())
            }
            Attempt::Candidate(_) | Attempt::None => self.learner.known_everywhere(),
        }
    }

    /// The ballot of our own attempt, while it lasts.
    fn attempted(&self) -> Option<Ballot> {
        match &self.attempt {
            Attempt::None => None,
            Attempt::Candidate(candidate) => Some(candidate.ballot),
            Attempt::Leader(leader) => Some(leader.ballot),
        }
    }

    /// The place of another replica.
    fn peer(&self, node: NodeId) -> Result<usize, Ignored> {
        self.quorum.index_of(node).filter(|&index| index != self.quorum.me()).ok_or(Ignored::UnknownReplica)
    }
}

/// What a message that speaks of a promise waits for.
fn on_the_vote() -> RestsOn {
    if on(Rule::PromiseOnDisk) { RestsOn::Vote } else { RestsOn::Nothing }
}
