//! Restart: what a replica knows from its disk, and how one that has forgotten what it accepted, or even
//! what it promised, comes to vote again (DESIGN §7, rule "recover-first").
//!
//! A vote once told is counted, whether or not the voter still knows of it. So a replica that forgot must
//! take part in nothing that needs its memory until a leader has taught it all that its forgotten votes
//! may have chosen: those of ballots at or below its own promise. A leader whose ballot is at or above that
//! promise has recovered them, or proposed them itself; and it is asked *after* the restart how far it
//! has got, because an older answer may lie below what we accepted since and forgot.
//!
//! One that forgot its promises too first asks every other replica. A candidate it promised has its own
//! ballot on its own disk before it asks anyone, so that candidate's answer is at or above it.
//!
//! Invariants:
//!   1. While `rejoining`, no promise and no acceptance leaves, none of ours is counted here, and we do
//!      not campaign; slots are held, learned and delivered all the same.
//!   2. `heard` and `whole_at` come only from answers to this restart.
//!   3. A replica that forgot its promises answers nobody: what it would say may be too low.
#![forbid(unsafe_code)]

use super::catch_up::TooFarBehind;
use super::pace::Pace;
use super::{Attempt, Outcome, Stream, StreamConfig, on_the_vote};
use crate::paxos::acceptor::Acceptor;
use crate::paxos::learner::{Heard, Learner};
use crate::paxos::message::{Entry, PaxosMessage, Rejoin, Rejoined};
use crate::paxos::quorum::{Quorum, VoteSet};
use crate::paxos::{Effect, Ignored, RestsOn};
use crate::rules::{Rule, on};
use crate::types::{Ballot, NodeId, Slot};

/// What a disk gave back of a stream.
pub struct Restored {
    /// The highest vote on disk.
    pub promised: Ballot,
    /// Every slot below it is chosen, and inside the checkpoint the host has loaded; 0 without one.
    pub floor: Slot,
    /// Of each slot at or above `floor`, the acceptance of the highest ballot that the log held. There may
    /// be holes; all of it is durable.
    pub accepted: Vec<Entry>,
    /// Every slot below it was known to be chosen, as last accepted here.
    pub chosen_end: Slot,
    pub forgot: Forgot,
    /// Of this restart and no other.
    pub nonce: u64,
}

/// What a replica may have told and no longer knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgot {
    Nothing,
    /// In modes that do not count acceptances on disk: all of them that `accepted` does not hold.
    Acceptances,
    /// The disk was emptied or rebuilt: acceptances, and promises.
    Votes,
}

/// A replica that does not vote yet.
pub(super) struct Rejoining {
    nonce: u64,
    /// While our promise is unknown: who has told us theirs.
    heard: Option<VoteSet>,
    /// The highest promise they told.
    promised: Ballot,
    /// The leader whose log makes us whole, and the end of that log when we asked.
    whole_at: Option<(Ballot, Slot)>,
}

impl Stream {
    /// A stream as it was when the process stopped, as far as the disk knows. What is chosen at or above
    /// `floor` is learned again, from a leader or by campaigning.
    pub fn restored(config: StreamConfig, restored: Restored) -> Stream {
        let Restored { promised, floor, accepted, chosen_end, forgot, nonce } = restored;
        let quorum = Quorum::new(config.me, config.replicas);
        let acceptor = Acceptor::restored(config.limits, promised, floor, accepted);
        let learner = Learner::restored(config.own_vote_needs_disk, floor, chosen_end, &acceptor);
        let heard = (forgot == Forgot::Votes).then(VoteSet::default);
        let rejoining = Rejoining { nonce, heard, promised, whole_at: None };
        let forgetful = forgot != Forgot::Nothing && on(Rule::RecoverFirst);
        let mut stream = Stream {
            too_far_behind: TooFarBehind::new(quorum.len()),
            pace: Pace::default(),
            quorum,
            acceptor,
            learner,
            attempt: Attempt::None,
            rejoining: forgetful.then_some(rejoining),
        };
        stream.learn();
        stream
    }

    /// We have forgotten what we accepted and do not vote. For good, if a majority has.
    pub fn is_forgetful(&self) -> bool {
        self.rejoining.is_some()
    }

    /// Whether what we promised is all we ever did: not before every peer has told a replica that lost its disk.
    pub fn knows_its_promise(&self) -> bool {
        self.rejoining.as_ref().is_none_or(|rejoining| rejoining.heard.is_none())
    }

    /// A peer has forgotten. Its votes for what is not chosen yet are given up, so that nothing is called
    /// chosen of which it was to hold a copy; what is chosen stays chosen.
    pub fn on_rejoin(&mut self, from: NodeId, rejoin: Rejoin, out: &mut Vec<Effect>) -> Outcome {
        let index = self.peer(from)?;
        if self.rejoining.as_ref().is_some_and(|rejoining| rejoining.heard.is_some()) {
            return Err(Ignored::Forgetful);
        }
        let leading = match &mut self.attempt {
            Attempt::Leader(leader) => {
                let (ballot, next_slot) = (leader.ballot, leader.next_slot);
                if leader.on_rejoin(index, rejoin.nonce) {
                    for slot in (self.learner.chosen_end().0..next_slot.0).map(Slot) {
                        if let Some(held) = self.acceptor.held_mut(slot) {
                            held.votes.remove(index);
                        }
                    }
                }
                Some((ballot, next_slot))
            }
            Attempt::Candidate(_) | Attempt::None => None,
        };
        let rejoined = Rejoined { nonce: rejoin.nonce, promised: self.acceptor.promised(), leading };
        let message = PaxosMessage::Rejoined(rejoined);
        out.push(Effect::Send { to: from, message, rests_on: on_the_vote() });
        Ok(())
    }

    pub fn on_rejoined(&mut self, from: NodeId, rejoined: Rejoined, out: &mut Vec<Effect>) -> Outcome {
        let index = self.peer(from)?;
        let Rejoined { nonce, promised, leading } = rejoined;
        let Some(rejoining) = &mut self.rejoining else { return Err(Ignored::StaleReply) };
        if nonce != rejoining.nonce && on(Rule::RejoinNonce) {
            return Err(Ignored::StaleReply);
        }
        rejoining.promised = rejoining.promised.max(promised);
        if let Some(heard) = &mut rejoining.heard {
            heard.insert(index);
            if heard.count() + 1 == self.quorum.len() {
                rejoining.heard = None;
                if rejoining.promised > self.acceptor.promised() {
                    self.acceptor.promise(rejoining.promised, out);
                }
            }
        }
        let Some((ballot, next_slot)) = leading else { return Ok(()) };
        // Before it is followed, or it would be asked again. One that is rejected below is never followed,
        // so what it told makes nobody whole.
        if ballot.node == from {
            rejoining.hear_leader(ballot, next_slot);
        }
        self.follow(from, ballot, out)?;
        self.learner.hear(Heard { next_slot, ..Heard::default() });
        self.learn();
        self.fetch_missing(out);
        Ok(())
    }

    /// Asks those whose answer is still needed: everyone for its promise, and whoever may lead.
    pub(super) fn ask_to_rejoin(&mut self, out: &mut Vec<Effect>) {
        let Some(rejoining) = &self.rejoining else { return };
        let led = rejoining.whole_at.is_some_and(|(leader, _)| leader == self.learner.leader());
        let message = PaxosMessage::Rejoin(Rejoin { nonce: rejoining.nonce });
        for (index, to) in self.quorum.peers() {
            let promise_known = rejoining.heard.is_none_or(|heard| heard.contains(index));
            if !(led && promise_known) {
                // It reveals nothing of ours.
                out.push(Effect::Send { to, message: message.clone(), rests_on: RestsOn::Nothing });
            }
        }
    }

    /// The end of rejoining, if it has come: the leader hears of all our votes at once.
    pub(super) fn try_vote_again(&mut self, out: &mut Vec<Effect>) {
        let Some(Rejoining { heard: None, whole_at: Some((leader, end)), .. }) = self.rejoining else {
            return;
        };
        // Equal, because no promise is below the leader followed. And on disk: from here on a restart of this
        // replica may be one that forgot nothing.
        if leader != self.learner.leader() || leader != self.acceptor.vote_durable() {
            return;
        }
        if self.learner.holds_whole(end, &self.acceptor) {
            self.rejoining = None;
            self.learn();
            if let Some(last) = self.learner.held_end().0.checked_sub(1) {
                self.send_accepted(leader.node, leader, Slot(last), out);
            }
        }
    }
}

impl Rejoining {
    /// Any answer to this restart will do, and the lowest is reached first.
    fn hear_leader(&mut self, ballot: Ballot, next_slot: Slot) {
        match &mut self.whole_at {
            Some((known, _)) if *known > ballot => {}
            Some((known, end)) if *known == ballot => *end = next_slot.min(*end),
            whole_at => *whole_at = Some((ballot, next_slot)),
        }
    }
}
