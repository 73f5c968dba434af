//! The planned hand-over of a shard's leadership (DESIGN §6): what its chair does for somebody who asked.
//!
//! Steps, each with an end: the target comes **near** (it holds all but a few slots of every stream, and
//! transactions go on); the streams **pause** (no new transaction; what is prepared is decided) and **part** (a
//! last no-op that promises as far as any of them has got; the target holds it, and it is chosen); the lease is
//! **given up**, and the target told to campaign. So nothing that was executed is lost, and transactions stand
//! still for no longer than the last slots and the campaign take.
//!
//! Not here: the election itself (`paxos::Election`), and what a change of leader does (`reign`).
//!
//! Invariants:
//!   1. Of a shard one hand-over is under way at most, and each that was asked for is answered once.
//!   2. Whatever it ends in, no stream stays paused that leads on.
#![forbid(unsafe_code)]

use super::core::Core;
use super::duty::{Duty, YieldStep};
use super::reign::Chair;
use crate::bounds::{HAND_OVER_PAUSE_PART, HAND_OVER_REMINDERS};
use crate::txn::{Known, Procedure};
use crate::types::{Ballot, Epoch, NodeId, PartitionId, ShardId, Stamp, Timestamp};
use std::collections::BTreeSet;
use std::fmt;

/// Somebody wants a shard to be led by another node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MoveOrder {
    pub shard: ShardId,
    pub to: NodeId,
    /// Comes back with the answer.
    pub token: u64,
}

/// What became of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moved {
    /// The target leads, in this epoch.
    Done {
        epoch: Epoch,
    },
    Refused(MoveRefusal),
}

/// Why the leader is who it was, or somebody else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MoveRefusal {
    /// This node does not lead the shard, or has given its lease up already.
    NotLeading,
    /// The target holds no replica of it.
    NoReplica,
    /// Another hand-over of the shard is not over.
    UnderWay,
    /// The target has not been heard lately.
    Unreachable,
    /// The target lacks too much of a stream, or did not catch up in time.
    Behind,
    /// The target was asked and has not taken over in time; whoever leads next is elected.
    NotTaken,
    /// The leader lost the shard before it could give it up, or somebody else took it.
    Overtaken,
}

impl fmt::Display for MoveRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MoveRefusal::NotLeading => "this node does not lead the shard, or not for long any more",
            MoveRefusal::NoReplica => "the target holds no replica of the shard",
            MoveRefusal::UnderWay => "another hand-over of the shard is under way",
            MoveRefusal::Unreachable => "the target is not reachable from the leader",
            MoveRefusal::Behind => "the target lags and did not catch up in time",
            MoveRefusal::NotTaken => "the target was asked to lead and did not take over in time",
            MoveRefusal::Overtaken => "the leader lost the shard meanwhile",
        })
    }
}

/// A hand-over that is under way.
pub(super) struct Moving {
    to: NodeId,
    token: u64,
    /// The reign that is to end.
    ballot: Ballot,
    step: Step,
    /// No timestamp of a stream that pauses is above it.
    reached: Timestamp,
    /// Partitions whose stream has done its part of the step.
    done: BTreeSet<PartitionId>,
    /// It is given up then.
    due: Timestamp,
    /// The target is told again then.
    remind_at: Timestamp,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Yield(YieldStep),
    GivenUp,
}

impl Moving {
    pub fn deadline(&self) -> Timestamp {
        if self.step == Step::GivenUp { self.due.min(self.remind_at) } else { self.due }
    }
}

/// A replica's part: to whom, and what of it the chair has not been told yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Yielding {
    pub to: NodeId,
    pub ballot: Ballot,
    pub step: YieldStep,
    pub since: Timestamp,
    /// Nobody has looked yet whether there is anything to wait for.
    pub fresh: bool,
    /// The last no-op is closed.
    pub parted: bool,
    /// The chair knows that the step is done.
    pub told: bool,
}

impl<P: Procedure> Core<P> {
    /// Somebody asks this core, which chairs the shard, to hand its leadership over. `poll_moved` answers.
    pub fn order_move(&mut self, now: Timestamp, order: MoveOrder) {
        match self.judge_order(now, order) {
            Ok(None) => {}
            Ok(Some(epoch)) => self.moved.push_back((order.token, Moved::Done { epoch })),
            Err(why) => self.moved.push_back((order.token, Moved::Refused(why))),
        }
    }

    /// What became of an order.
    pub fn poll_moved(&mut self) -> Option<(u64, Moved)> {
        self.moved.pop_front()
    }

    /// Begins the hand-over, unless the target leads already.
    fn judge_order(&mut self, now: Timestamp, order: MoveOrder) -> Result<Option<Epoch>, MoveRefusal> {
        let MoveOrder { shard, to, token } = order;
        let (me, timeout_ns) = (self.me.node, self.config.election_timeout_ns);
        let replicas = &self.config.shards[usize::from(shard.0)].replicas;
        if !replicas.contains(&to) {
            return Err(MoveRefusal::NoReplica);
        }
        let chair = self.chairs.iter_mut().find(|chair| chair.shard == shard);
        let chair = chair.ok_or(MoveRefusal::NotLeading)?;
        if chair.moving.is_some() {
            return Err(MoveRefusal::UnderWay);
        }
        let ballot = chair.reigns().ok_or(MoveRefusal::NotLeading)?;
        if to == me {
            return Ok(Some(ballot.epoch()));
        }
        if !chair.election.hears(now, to).ok_or(MoveRefusal::NotLeading)? {
            return Err(MoveRefusal::Unreachable);
        }
        let (due, done, reached) = (now.plus_ns(timeout_ns), BTreeSet::new(), Timestamp::default());
        let step = Step::Yield(YieldStep::Near);
        chair.moving = Some(Moving { to, token, ballot, step, reached, done, due, remind_at: due });
        self.tell_cores(&Duty::Yield { shard, ballot, to, step: YieldStep::Near });
        Ok(None)
    }

    /// What a chair does with time about its hand-over.
    pub(super) fn tend_moves(&mut self, now: Timestamp) {
        for at in 0..self.chairs.len() {
            let Some(moving) = &self.chairs[at].moving else { continue };
            let (ballot, to) = (moving.ballot, moving.to);
            if let Some(by) = self.successor(at, ballot) {
                let moved = match by.node {
                    node if node == to => Moved::Done { epoch: by.epoch() },
                    node if node == self.me.node => Moved::Refused(MoveRefusal::NotTaken),
                    _ => Moved::Refused(MoveRefusal::Overtaken),
                };
                self.end_move(at, moved);
            } else if moving.step != Step::GivenUp && self.chairs[at].reigns() != Some(ballot) {
                self.end_move(at, Moved::Refused(MoveRefusal::Overtaken));
            } else if now >= moving.due {
                let late = moving.step == Step::GivenUp;
                let why = if late { MoveRefusal::NotTaken } else { MoveRefusal::Behind };
                self.end_move(at, Moved::Refused(why));
            } else if moving.step == Step::GivenUp && now >= moving.remind_at {
                self.remind(at, now);
            }
        }
    }

    /// Whoever has opened the shard after our reign: it is told by its watermark, or, sooner, by the fact that our epoch
    /// is closed and by its own messages.
    fn successor(&self, at: usize, ballot: Ballot) -> Option<Ballot> {
        let Chair { shard, election, .. } = &self.chairs[at];
        let told = Ballot::unpack(self.knowledge.epoch(*shard).0);
        let closed = self.knowledge.is_closed(Stamp { shard: *shard, epoch: ballot.epoch() });
        let heard = election.leader().filter(|_| closed);
        told.into_iter().chain(heard).filter(|by| *by > ballot).max()
    }

    /// A stream has done its part of a step; when all have, the next step begins.
    pub(super) fn on_yielded(
        &mut self,
        now: Timestamp,
        partition: PartitionId,
        ballot: Ballot,
        (step, reached): (YieldStep, Timestamp),
    ) {
        let shard = self.config.shard_of(partition);
        let partitions = self.config.partitions_of(shard).count();
        let pause_ns = self.config.election_timeout_ns / HAND_OVER_PAUSE_PART;
        let Some(at) = self.chairs.iter().position(|chair| chair.shard == shard) else { return };
        let reigns = self.chairs[at].reigns() == Some(ballot);
        let Some(moving) = self.chairs[at].moving.as_mut() else { return };
        if moving.ballot != ballot || moving.step != Step::Yield(step) || !reigns {
            return;
        }
        moving.reached = moving.reached.max(reached);
        moving.done.insert(partition);
        if moving.done.len() < partitions {
            return;
        }
        moving.done.clear();
        let next = match step {
            YieldStep::Near => {
                moving.due = now.plus_ns(pause_ns);
                YieldStep::Pause
            }
            YieldStep::Pause => YieldStep::Part { upto: moving.reached },
            YieldStep::Part { .. } => return self.give_up(at, now),
        };
        moving.step = Step::Yield(next);
        let to = moving.to;
        self.tell_cores(&Duty::Yield { shard, ballot, to, step: next });
    }

    /// The target holds all there is.
    fn give_up(&mut self, at: usize, now: Timestamp) {
        let timeout_ns = self.config.election_timeout_ns;
        let chair = &mut self.chairs[at];
        let Some(moving) = &mut chair.moving else { return };
        moving.step = Step::GivenUp;
        moving.due = now.plus_ns(timeout_ns);
        moving.remind_at = now.plus_ns(timeout_ns / HAND_OVER_REMINDERS);
        let mut out = std::mem::take(&mut self.elected);
        let given_up = chair.election.hand_over(now, moving.to, &mut out);
        self.elected = out;
        // Lost in this very turn: our streams lead on until they hear of it.
        if given_up.is_err() {
            return self.end_move(at, Moved::Refused(MoveRefusal::Overtaken));
        }
        self.carry_out_election(at, now);
    }

    fn remind(&mut self, at: usize, now: Timestamp) {
        let again_ns = self.config.election_timeout_ns / HAND_OVER_REMINDERS;
        let chair = &mut self.chairs[at];
        let Some(moving) = &mut chair.moving else { return };
        moving.remind_at = now.plus_ns(again_ns);
        let mut out = std::mem::take(&mut self.elected);
        chair.election.remind(moving.to, moving.ballot, &mut out);
        self.elected = out;
        self.carry_out_election(at, now);
    }

    fn end_move(&mut self, at: usize, moved: Moved) {
        let shard = self.chairs[at].shard;
        if let Some(moving) = self.chairs[at].moving.take() {
            self.moved.push_back((moving.token, moved));
            self.tell_cores(&Duty::GoOn { shard });
        }
    }

    /// Tells the chair of streams here that have done their part.
    pub(super) fn report_yields(&mut self, now: Timestamp) {
        for at in 0..self.replicas.len() {
            let Some((Yielding { ballot, step, .. }, reached)) = self.replicas[at].take_yield(now) else {
                continue;
            };
            let (shard, partition) = (self.replicas[at].shard, self.replicas[at].id);
            self.tell_chair(shard, Duty::Yielded { partition, ballot, step, reached });
        }
    }
}

#[cfg(test)]
mod tests;
