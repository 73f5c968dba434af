//! How a shard changes its leader (DESIGN §5): the chair's part, and what the other cores of the node do.
//!
//! The order is that of the paper of rules: campaign on every stream; when the seals of *all* are chosen,
//! compute where the epochs before ended; write that into the first stream; and only when it is chosen there
//! tell it and open. A candidate that stops half-way has opened nothing.
//!
//! Invariants:
//!   1. A replica is open only under the ballot its chair has opened, and after the facts were learned here.
//!   2. Whoever loses one stream of a shard gives up all of them.
#![forbid(unsafe_code)]

use super::core::Core;
use super::duty::Duty;
use super::moving::Moving;
use super::ports::Ports;
use super::post::Outgoing;
use super::replica::{News, epoch_of};
use crate::bounds::ELECTION_HEARTBEATS;
use crate::config::Config;
use crate::paxos::{Election, ElectionConfig, ElectionEffect, Role};
use crate::rules::{self, Rule};
use crate::txn::{Known, Procedure};
use crate::types::{Ballot, CoreId, Endpoint, Epoch, NodeId, PartitionId, Prng, ShardId, Stamp, Timestamp};
use crate::wire::{ElectionMessage, Message, StreamMessage};
use std::collections::BTreeMap;

/// The elections of one shard, on the core with its first partition.
pub struct Chair {
    pub shard: ShardId,
    first: PartitionId,
    pub election: Election,
    tenure: Tenure,
    /// Partitions that do not take part here yet. Until they do, nobody runs for leader.
    absent: Vec<PartitionId>,
    /// Partitions of other cores that have forgotten what they accepted.
    unfit: Vec<PartitionId>,
    pub(super) moving: Option<Moving>,
}

/// How far a candidacy of ours has come.
enum Tenure {
    None,
    /// By partition: where the epochs before ended, as far as the seals are chosen.
    Sealing {
        ballot: Ballot,
        ends: BTreeMap<PartitionId, Vec<(Epoch, Timestamp)>>,
    },
    /// The facts are proposed.
    Closing {
        ballot: Ballot,
    },
    Open {
        ballot: Ballot,
    },
}

impl Chair {
    /// `promised` is the highest ballot that any stream of the shard promised here before a restart; `fresh`
    /// says that nothing was ever promised or accepted.
    pub fn new(
        config: &Config,
        me: NodeId,
        shard: ShardId,
        promised: Ballot,
        fresh: bool,
        now: Timestamp,
        prng: &mut Prng,
    ) -> Chair {
        let timeout_ns = config.election_timeout_ns;
        let elections = ElectionConfig {
            me,
            replicas: config.shards[usize::from(shard.0)].replicas.clone(),
            timeout_ns,
            heartbeat_ns: config.heartbeat_interval_ns.min(timeout_ns / ELECTION_HEARTBEATS),
            promised,
            fresh,
        };
        let first = config.partitions_of(shard).next().expect("a shard has a partition");
        let absent = config.partitions_of(shard).collect();
        let election = Election::new(elections, now, prng);
        Chair { shard, first, election, tenure: Tenure::None, absent, unfit: Vec::new(), moving: None }
    }

    /// The reign of ours that is open.
    pub(super) fn reigns(&self) -> Option<Ballot> {
        if let Tenure::Open { ballot } = self.tenure { Some(ballot) } else { None }
    }

    /// When the election has something to do though nothing happens.
    pub(super) fn deadline(&self) -> Option<Timestamp> {
        let moving = self.moving.as_ref().map(Moving::deadline);
        let election = self.election.deadline().filter(|_| self.absent.is_empty());
        election.into_iter().chain(moving).min()
    }

    fn tenure(&self) -> Option<Ballot> {
        match self.tenure {
            Tenure::None => None,
            Tenure::Sealing { ballot, .. } | Tenure::Closing { ballot } | Tenure::Open { ballot } => {
                Some(ballot)
            }
        }
    }

    /// Where each epoch that may have opened and is not closed yet has ended, once every stream has told.
    fn closings(&self, opened: &[Epoch], partitions: usize) -> Option<Vec<(Epoch, Timestamp)>> {
        let Tenure::Sealing { ballot, ends } = &self.tenure else { return None };
        if ends.len() < partitions && rules::on(Rule::SealEveryStream) {
            return None;
        }
        let end = |of: &Vec<(Epoch, Timestamp)>, epoch| {
            of.iter().find(|(known, _)| *known == epoch).map(|(_, end)| *end).unwrap_or_default()
        };
        let closed = opened.iter().filter(|epoch| **epoch < epoch_of(*ballot));
        let last = |epoch| ends.values().map(|of| end(of, epoch)).min().unwrap_or_default();
        Some(closed.map(|epoch| (*epoch, last(*epoch))).collect())
    }
}

impl<P: Procedure> Core<P> {
    /// Who leads a shard, as far as its watermark tells.
    pub(super) fn leader_of(&self, shard: ShardId) -> NodeId {
        let Epoch(bits) = self.knowledge.epoch(shard);
        let won = Ballot::unpack(bits).filter(|ballot| ballot.round > 0);
        won.map_or(self.config.shards[usize::from(shard.0)].replicas[0], |ballot| ballot.node)
    }

    pub(super) fn chair_core(&self, shard: ShardId) -> Option<CoreId> {
        self.config.core_of(self.me.node, self.config.partitions_of(shard).next()?)
    }

    fn chair(&mut self, shard: ShardId) -> Option<&mut Chair> {
        self.chairs.iter_mut().find(|chair| chair.shard == shard)
    }

    pub(super) fn tell_chair(&mut self, shard: ShardId, duty: Duty) {
        if let Some(core) = self.chair_core(shard) {
            self.post.tell(core, duty);
        }
    }

    pub(super) fn tell_cores(&mut self, duty: &Duty) {
        for core in (0..self.config.cores(self.me.node) as u16).map(CoreId) {
            self.post.tell(core, duty.clone());
        }
    }

    fn replicas_of(&self, shard: ShardId) -> impl Iterator<Item = usize> + use<P> {
        let of = |(_, replica): &(usize, &super::Replica<P>)| replica.shard == shard;
        let places: Vec<usize> = self.replicas.iter().enumerate().filter(of).map(|(at, _)| at).collect();
        places.into_iter()
    }

    // Elections.

    /// A chair for the shard whose first replica is this one. Where nothing was ever promised, the first node of a
    /// shard need not wait.
    pub(super) fn seat_chair(&mut self, at: usize, now: Timestamp) -> Chair {
        let replica = &self.replicas[at];
        let (promised, fresh) = (replica.stream.promised(), !replica.has_run);
        Chair::new(&self.config, self.me.node, replica.shard, promised, fresh, now, &mut self.prng)
    }

    /// A partition takes part from now on; once all of the shard do, its election begins: from here, and not from the
    /// start, unless a leader was followed meanwhile.
    pub(super) fn on_admitted(&mut self, now: Timestamp, partition: PartitionId) {
        let shard = self.config.shard_of(partition);
        let Some(place) = self.chairs.iter().position(|chair| chair.shard == shard) else { return };
        let chair = &mut self.chairs[place];
        let before = chair.absent.len();
        chair.absent.retain(|absent| *absent != partition);
        let was_last = before > 0 && chair.absent.is_empty();
        let Some(at) = self.place(self.chairs[place].first).filter(|_| was_last) else { return };
        if self.replicas[at].stream.promised() == Ballot::default() {
            let unfit = std::mem::take(&mut self.chairs[place].unfit);
            self.chairs[place] = Chair { absent: Vec::new(), unfit, ..self.seat_chair(at, now) };
        }
    }

    /// Whether the streams of this node may vote and campaign: not while one of them has forgotten what it accepted.
    /// A node that cannot win every stream of a shard would only keep others from it.
    pub(super) fn judge_fitness(&mut self) {
        for at in 0..self.replicas.len() {
            let replica = &mut self.replicas[at];
            let (shard, partition, fit) = (replica.shard, replica.id, !replica.is_forgetful());
            let is_news = std::mem::replace(&mut replica.told_fit, fit) != fit;
            // The chair of this core looks for itself.
            if is_news && self.chair_core(shard) != Some(self.me.core) {
                self.tell_chair(shard, Duty::Fitness { partition, fit });
            }
        }
        for chair in &mut self.chairs {
            let mut streams = self.replicas.iter().filter(|replica| replica.shard == chair.shard);
            let fit = streams.all(|replica| !replica.is_forgetful());
            chair.election.set_eligible(fit && chair.unfit.is_empty());
        }
    }

    fn on_fitness(&mut self, partition: PartitionId, fit: bool) {
        let shard = self.config.shard_of(partition);
        if let Some(chair) = self.chair(shard) {
            chair.unfit.retain(|unfit| *unfit != partition);
            chair.unfit.extend((!fit).then_some(partition));
        }
    }

    pub(super) fn hold_elections(&mut self, now: Timestamp) {
        for at in 0..self.chairs.len() {
            if !self.chairs[at].absent.is_empty() {
                continue;
            }
            let mut out = std::mem::take(&mut self.elected);
            let chair = &mut self.chairs[at];
            chair.election.on_timer(now, &mut self.prng, &mut out);
            self.elected = out;
            self.carry_out_election(at, now);
        }
    }

    pub(super) fn on_election(
        &mut self,
        now: Timestamp,
        shard: ShardId,
        from: NodeId,
        message: ElectionMessage,
    ) {
        let Some(at) = self.chairs.iter().position(|chair| chair.shard == shard) else { return };
        let mut out = std::mem::take(&mut self.elected);
        if self.chairs[at].election.on_message(now, from, message, &mut out).is_err() {
            self.stats_mut().stream_ignored += 1;
        }
        self.elected = out;
        self.carry_out_election(at, now);
    }

    pub(super) fn carry_out_election(&mut self, at: usize, now: Timestamp) {
        let mut effects = std::mem::take(&mut self.elected);
        let Chair { shard, first, .. } = self.chairs[at];
        for effect in effects.drain(..) {
            match effect {
                ElectionEffect::Send { to, message, rests_on } => {
                    let Some(core) = self.config.core_of(to, first) else { continue };
                    let after = self.place(first).map(|at| self.replicas[at].rests_on(rests_on));
                    let mut bytes = Vec::with_capacity(32);
                    Message::Election { shard, from: self.me.node, message }.encode_into(&mut bytes);
                    let to = Endpoint { node: to, core };
                    self.post.send(now, after.unwrap_or_default(), Outgoing::Cast { to, message: bytes });
                }
                ElectionEffect::Campaign { ballot } => {
                    self.chairs[at].tenure = Tenure::Sealing { ballot, ends: BTreeMap::new() };
                    self.tell_cores(&Duty::Campaign { shard, ballot });
                }
                ElectionEffect::Lost => {
                    let by = self.chairs[at].tenure().unwrap_or_default();
                    self.chairs[at].tenure = Tenure::None;
                    self.tell_cores(&Duty::StandDown { shard, by });
                }
            }
        }
        effects.append(&mut self.elected);
        self.elected = effects;
    }

    /// A replica has promised us its vote and no longer keeps what we lack: it can lead, and we cannot. Asked of
    /// the first stream only: whoever promised there is bound to no leader.
    pub(super) fn give_way(&mut self, now: Timestamp, at: usize, to: NodeId) {
        let replica = &self.replicas[at];
        if replica.stream.role() != Role::Candidate {
            return;
        }
        let Some(at) = self.chairs.iter().position(|chair| chair.first == replica.id) else { return };
        let mut out = std::mem::take(&mut self.elected);
        // One that does not campaign any more has nothing to give.
        let _ = self.chairs[at].election.give_way(now, to, &mut out);
        self.elected = out;
        self.carry_out_election(at, now);
    }

    /// Whether a stream message may reach its stream: a candidate's question is kept from the shard's first
    /// stream while we are bound to a leader that lives.
    pub(super) fn lets_through(
        &mut self,
        now: Timestamp,
        partition: PartitionId,
        message: &StreamMessage,
    ) -> bool {
        let StreamMessage::Prepare(prepare) = message else { return true };
        let chair = self.chairs.iter_mut().find(|chair| chair.first == partition);
        chair.is_none_or(|chair| chair.election.may_promise(now, prepare.ballot))
    }

    /// A leader's message has reached the first stream of its shard.
    pub(super) fn note_leader(&mut self, now: Timestamp, partition: PartitionId, from: NodeId) {
        let Some(at) = self.place(partition) else { return };
        let ballot = self.replicas[at].stream.leader();
        if ballot.node == from
            && let Some(chair) = self.chairs.iter_mut().find(|chair| chair.first == partition)
        {
            chair.election.on_leader_heard(now, ballot);
        }
    }

    // What streams report.

    pub(super) fn take_news(&mut self, at: usize, now: Timestamp) {
        while let Some(news) = self.replicas[at].news.pop_front() {
            let replica = &self.replicas[at];
            let (shard, partition) = (replica.shard, replica.id);
            match news {
                News::Sealed(ballot) => {
                    let ends = replica.runs.ends().to_vec();
                    self.tell_chair(shard, Duty::Sealed { partition, ballot, ends });
                }
                News::Facts(epoch, facts) => self.on_facts_chosen(now, shard, epoch, facts),
                News::Deposed(by) => {
                    self.stop_leading(at, now);
                    self.tell_chair(shard, Duty::Outbid { shard, by });
                }
            }
        }
    }

    /// We hold the first stream of the shard, and an epoch's facts are chosen in it: whoever leads.
    fn on_facts_chosen(
        &mut self,
        now: Timestamp,
        shard: ShardId,
        epoch: Epoch,
        facts: Vec<(Epoch, Timestamp)>,
    ) {
        self.learn_facts(now, shard, epoch, &facts);
        for core in
            (0..self.config.cores(self.me.node) as u16).map(CoreId).filter(|core| *core != self.me.core)
        {
            self.post.tell(core, Duty::Facts { shard, epoch, facts: facts.clone() });
        }
        if let Some(chair) = self.chair(shard)
            && let Tenure::Closing { ballot } = chair.tenure
            && epoch_of(ballot) == epoch
        {
            chair.tenure = Tenure::Open { ballot };
            self.tell_cores(&Duty::Open { shard, ballot });
        }
    }

    /// Epochs of the shard are closed: learned, swept for, and told to the other nodes.
    fn learn_facts(&mut self, now: Timestamp, shard: ShardId, epoch: Epoch, facts: &[(Epoch, Timestamp)]) {
        let mut news = false;
        for (closed, end) in facts {
            news |= self.learn_closed(Stamp { shard, epoch: *closed }, *end);
        }
        for at in self.replicas_of(shard) {
            self.replicas[at].runs.forget_below(epoch);
        }
        if news {
            self.sweep(now);
            self.end_reign(now, shard);
        }
    }

    /// What the checkpoints here told at the start, for cores whose own did not tell it.
    pub(super) fn share_facts(&mut self) {
        let facts: Vec<(Stamp, Timestamp)> = self.knowledge.closed().iter().collect();
        let siblings = (0..self.config.cores(self.me.node) as u16).map(CoreId);
        for core in siblings.filter(|core| *core != self.me.core) {
            for (Stamp { shard, epoch: closed }, end) in &facts {
                // Of no epoch in particular: it is not this that tells how far the streams have got.
                let (shard, epoch) = (*shard, Epoch::default());
                self.post.tell(core, Duty::Facts { shard, epoch, facts: vec![(*closed, *end)] });
            }
        }
    }

    // What cores tell each other.

    pub(super) fn on_duty(&mut self, now: Timestamp, duty: Duty, ports: &mut Ports<'_>) {
        match duty {
            Duty::Campaign { shard, ballot } => {
                for at in self.replicas_of(shard) {
                    self.stop_leading(at, now);
                    if !self.replicas[at].campaign(ballot) {
                        let by = self.replicas[at].stream.promised();
                        self.tell_chair(shard, Duty::Outbid { shard, by });
                    }
                }
            }
            Duty::Facts { shard, epoch, facts } => self.learn_facts(now, shard, epoch, &facts),
            Duty::Open { shard, ballot } => {
                for at in self.replicas_of(shard) {
                    let replica = &mut self.replicas[at];
                    if replica.leads() && replica.stream.leader() == ballot && !replica.open {
                        replica.open(&self.knowledge);
                    }
                }
            }
            Duty::StandDown { shard, by } => {
                for at in self.replicas_of(shard) {
                    self.replicas[at].step_down(by);
                    self.run_stream(at, now, ports, &mut super::post::Asker::Nobody);
                }
            }
            Duty::Fitness { partition, fit } => self.on_fitness(partition, fit),
            Duty::Admitted { partition } => self.on_admitted(now, partition),
            Duty::Sealed { partition, ballot, ends } => self.on_sealed(now, partition, ballot, ends),
            Duty::Outbid { shard, by } => self.on_outbid(now, shard, by),
            Duty::Yield { shard, ballot, to, step } => {
                for at in self.replicas_of(shard) {
                    self.replicas[at].begin_yield(now, ballot, to, step);
                }
            }
            Duty::GoOn { shard } => self.replicas_of(shard).for_each(|at| self.replicas[at].go_on()),
            Duty::Yielded { partition, ballot, step, reached } => {
                self.on_yielded(now, partition, ballot, (step, reached));
            }
        }
    }

    fn on_sealed(
        &mut self,
        now: Timestamp,
        partition: PartitionId,
        ballot: Ballot,
        told: Vec<(Epoch, Timestamp)>,
    ) {
        let shard = self.config.shard_of(partition);
        let partitions = self.config.partitions_of(shard).count();
        let Some(at) = self.chairs.iter().position(|chair| chair.shard == shard) else { return };
        let Some(first) = self.place(self.chairs[at].first) else { return };
        match &mut self.chairs[at].tenure {
            Tenure::Sealing { ballot: ours, ends } if *ours == ballot => ends.insert(partition, told),
            _ => return,
        };
        let replica = &mut self.replicas[first];
        if replica.stream.role() != Role::Leader || replica.stream.leader() != ballot {
            return;
        }
        let Some(facts) = self.chairs[at].closings(replica.runs.opened(), partitions) else { return };
        replica.propose_facts(now, &facts);
        self.chairs[at].tenure = Tenure::Closing { ballot };
        let mut out = std::mem::take(&mut self.elected);
        // A rival may have been promised since: then it will depose our streams.
        let _ = self.chairs[at].election.on_won(now, ballot, &mut out);
        self.elected = out;
        self.carry_out_election(at, now);
        if !rules::on(Rule::FactBeforeOpening) {
            self.on_facts_chosen(now, shard, epoch_of(ballot), facts);
        }
    }

    fn on_outbid(&mut self, now: Timestamp, shard: ShardId, by: Ballot) {
        let Some(chair) = self.chair(shard) else { return };
        chair.election.on_deposed(now, by);
        if chair.tenure().is_some_and(|ballot| ballot < by) {
            chair.tenure = Tenure::None;
            self.tell_cores(&Duty::StandDown { shard, by });
        }
    }

    // Ends.

    /// The replica leads no more: what was undecided never will be decided here.
    pub(super) fn stop_leading(&mut self, at: usize, now: Timestamp) {
        self.coordinate(at, now, |coordinator, env| coordinator.on_deposed(env));
        for holder in self.replicas[at].demote() {
            self.unlock(at, holder);
        }
    }

    /// What waits for an answer from whoever led the shard until now need not wait any longer.
    pub(super) fn end_reign(&mut self, now: Timestamp, shard: ShardId) {
        for at in 0..self.replicas.len() {
            self.coordinate(at, now, |coordinator, env| coordinator.on_reign_ended(env, shard));
        }
    }

    /// Whether a watermark of `epoch` may be believed here: only when the end is known of every earlier epoch
    /// that anything here rests on. Before that, what it says of snapshots would not be true here.
    pub(super) fn may_believe(&mut self, shard: ShardId, epoch: Epoch) -> bool {
        let closed = |stamp: &Stamp| self.knowledge.is_closed(*stamp);
        let earlier = |stamp: &Stamp| stamp.shard == shard && stamp.epoch < epoch;
        let fine = |stamp: Stamp| !earlier(&stamp) || closed(&stamp);
        let mut all = true;
        for replica in &mut self.replicas {
            all &= replica.replay.stamps().iter().all(fine);
            all &= replica.store.borrow_mut().window.stamps().iter().all(fine);
        }
        all
    }

    /// A closed epoch. True when it is news.
    pub(super) fn learn_closed(&mut self, stamp: Stamp, end: Timestamp) -> bool {
        let news = self.knowledge.learn_closed(stamp, end);
        if news {
            self.fresh_facts.push_back((stamp, end));
            self.exchange.on_wanted();
        }
        news
    }
}

#[cfg(test)]
mod tests;
