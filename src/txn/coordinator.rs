//! The home partition's side of transactions that need other partitions (DESIGN §4).
//!
//! Execute, prepare, decide, commit; and when somebody refuses, run the procedure again after a
//! backoff. Snapshot transactions use the first step alone. It sends nothing: it appends [`Effect`]s.
//!
//! Invariants:
//!   1. Every attempt has a number of its own, so no vote is ever counted for another attempt.
//!   2. An attempt that is neither among the [`Decisions`] nor being prepared did not commit.
//!   3. The timestamp is at or above every proposal, and the transaction depends on every participant.
#![forbid(unsafe_code)]

use super::attempt::{Active, Phase, Vote, Votes, asked_of, encode};
use super::clock::too_far_ahead;
use super::context::{Context, Halt, Question, Run, RunMode};
use super::decisions::{Decided, Decisions};
use super::participant::{Commit, Known, PrepareRequest};
use super::procedure::{Abort, BusyWith, Procedure, Reply};
use super::store::Store;
use super::vote_times::VoteTimes;
use crate::bounds::{ATTEMPTS_MAX, BACKOFF_NS_MAX, BACKOFF_NS_MIN, COORDINATED_MAX};
use crate::config::Config;
use crate::rules::{self, Rule};
use crate::types::{Epoch, PartitionId, Prng, ShardId, Stamp, Timestamp, TxnId};
use crate::wire::{Deps, Message, Refusal, Token, Verdict};
use hashbrown::HashMap;
use smallvec::SmallVec;
use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::Rc;
use std::task::{self, Poll, Waker};

pub struct Coordinator<P> {
    home: PartitionId,
    shard: ShardId,
    active: HashMap<u64, Active<P>, foldhash::fast::FixedState>,
    decisions: Decisions,
    next_number: u64,
    backoffs: BinaryHeap<Reverse<(Timestamp, u64)>>,
    vote_times: VoteTimes,
    decides: Decides,
}

/// Which transactions that write, or read the latest, may still be decided here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Decides {
    #[default]
    All,
    /// Those that somebody has been asked to vote on.
    Begun,
    Nothing,
}

/// What the partition must do next, in order.
pub enum Effect<P> {
    /// A request to a partition: to its leader, or (`nearest`) to a replica on this node if there is one.
    Ask { to: PartitionId, nearest: bool, ticket: Ticket, message: Vec<u8> },
    /// For whoever submitted the transaction.
    Reply { token: u64, reply: Reply, procedure: Option<P> },
    /// The attempt waits behind this transaction's locks.
    Park { behind: TxnId, number: u64, since: Timestamp },
    /// This transaction's locks are gone.
    Unlocked { holder: TxnId },
    /// A distributed or snapshot attempt was undone and will be made again.
    Retried,
}

/// Says, when a peer cannot be reached, what it was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ticket {
    Run {
        number: u64,
    },
    Prepare {
        number: u64,
    },
    Commit {
        number: u64,
    },
    /// Nobody waits for the answer.
    None,
}

/// What the coordinator is given with every event.
pub struct Env<'a, P, K> {
    pub now: Timestamp,
    pub config: &'a Rc<Config>,
    pub store: &'a Rc<RefCell<Store>>,
    pub known: &'a K,
    pub prng: &'a mut Prng,
    pub out: &'a mut Vec<Effect<P>>,
}

impl<P: Procedure> Coordinator<P> {
    pub fn new(home: PartitionId, shard: ShardId) -> Coordinator<P> {
        Coordinator {
            home,
            shard,
            active: HashMap::default(),
            decisions: Decisions::default(),
            next_number: 1,
            backoffs: BinaryHeap::new(),
            vote_times: VoteTimes::default(),
            decides: Decides::All,
        }
    }

    /// The reign here nears a planned end, or goes on. What may not be decided is undone as if there were no room, and
    /// tried again.
    pub fn set_decides(&mut self, decides: Decides) {
        self.decides = decides;
    }

    /// Whether somebody is being asked to vote.
    pub fn awaits_votes(&self) -> bool {
        self.active.values().any(|active| matches!(active.phase, Phase::Preparing { .. }))
    }

    /// A number no other attempt of this home and epoch has.
    pub fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number - 1
    }

    pub fn has_room(&self) -> bool {
        self.active.len() < COORDINATED_MAX && self.decisions.has_room()
    }

    pub fn is_idle(&self) -> bool {
        self.active.is_empty() && self.decisions.is_empty()
    }

    pub fn in_flight(&self) -> usize {
        self.active.len()
    }

    /// Starts a transaction: distributed, or on a snapshot. `attempts` counts those before.
    pub fn start<K: Known>(
        &mut self,
        env: &mut Env<'_, P, K>,
        token: u64,
        procedure: P,
        snapshot: Option<Token>,
        attempts: u32,
    ) {
        let context = Context::new(self.home, env.config.clone(), env.store.clone());
        let procedure = Rc::new(procedure);
        let number = self.number();
        let id = TxnId { home: self.home, epoch: env.store.borrow().epoch, number };
        let phase = Phase::Waiting;
        let active = Active {
            id,
            token,
            procedure,
            context,
            task: None,
            phase,
            attempts,
            parked_since: None,
            waited: false,
            repeats: 0,
            asked: Vec::new(),
            changes: 0,
            home_first: false,
            snapshot,
        };
        self.active.insert(number, active);
        self.run(env, number);
    }

    /// Makes the next attempt of a waiting transaction, under a new number.
    pub fn resume<K: Known>(&mut self, env: &mut Env<'_, P, K>, number: u64) {
        let parked = match self.active.get(&number).map(|active| &active.phase) {
            Some(Phase::Waiting) => false,
            Some(Phase::Parked) => true,
            Some(Phase::Running | Phase::Preparing { .. }) | None => return,
        };
        if let Some(mut active) = self.active.remove(&number) {
            let number = self.number();
            active.id = TxnId { home: self.home, epoch: env.store.borrow().epoch, number };
            if parked {
                active.context.run.borrow_mut().resume();
                active.begin();
                self.active.insert(number, active);
                self.poll(env, number);
            } else {
                self.active.insert(number, active);
                self.run(env, number);
            }
        }
    }

    /// A parked transaction has waited too long for a lock, or (`busy`) found no room to wait.
    pub fn give_up<K: Known>(&mut self, env: &mut Env<'_, P, K>, number: u64, busy: Option<BusyWith>) {
        if let Some(active) = self.active.get_mut(&number)
            && active.phase.waits()
        {
            active.attempts += 1;
            let attempts = active.attempts;
            self.end(env, number, busy.map_or(Abort::Conflict { attempts }, Abort::Busy));
        }
    }

    /// Attempts whose backoff is over.
    pub fn on_tick<K: Known>(&mut self, env: &mut Env<'_, P, K>) {
        while let Some(Reverse((due, number))) = self.backoffs.peek().copied() {
            if due > env.now {
                break;
            }
            self.backoffs.pop();
            self.resume(env, number);
        }
        self.decisions.on_tick(env.now, env.out);
    }

    pub fn deadline(&self) -> Option<Timestamp> {
        let backoff = self.backoffs.peek().map(|Reverse((due, _))| *due);
        backoff.into_iter().chain(self.decisions.deadline()).min()
    }

    /// An answer to a read or a scan of attempt `id`; `take` puts it into the run.
    pub fn on_answer<K: Known>(&mut self, env: &mut Env<'_, P, K>, id: TxnId, take: impl FnOnce(&mut Run)) {
        let Some(active) = self.active.get_mut(&id.number) else { return };
        if active.id == id && matches!(active.phase, Phase::Running) {
            take(&mut active.context.run.borrow_mut());
            self.poll(env, id.number);
        }
    }

    /// A vote to commit.
    pub fn on_vote<K: Known>(
        &mut self,
        env: &mut Env<'_, P, K>,
        id: TxnId,
        from: PartitionId,
        epoch: Epoch,
        proposal: Timestamp,
    ) {
        let shard = env.config.shard_of(from);
        let mut counted = false;
        let mut all = false;
        if let Some(active) = self.active.get_mut(&id.number)
            && let Phase::Preparing { sent, votes } = &mut active.phase
            && active.id == id
        {
            let took = env.now.since(*sent);
            if let Some(vote) = votes.iter_mut().find(|vote| vote.partition == from) {
                counted = true;
                vote.epoch = epoch;
                vote.proposal = Some(proposal);
            }
            all = votes[1..].iter().all(|vote| vote.proposal.is_some());
            self.vote_times.on_vote(shard, took);
        }
        if !counted {
            // Of an attempt that was given up, unless it was decided: then the commit is on its way.
            if !self.decisions.knows(id) {
                self.tell_abort(env, id, from, epoch);
            }
        } else if too_far_ahead(env.now, proposal) {
            // It has voted, so it is told that the attempt is over, like the others.
            self.undo(env, id.number, None, Refusal::Busy);
        } else if all {
            self.conclude(env, id.number);
        }
    }

    /// A participant refused to be read or to prepare.
    pub fn on_refused<K: Known>(
        &mut self,
        env: &mut Env<'_, P, K>,
        id: TxnId,
        from: PartitionId,
        why: Refusal,
    ) {
        // One refusal undoes an attempt; those of its other questions are of the attempt that is over.
        let current = |active: &Active<P>| active.id == id && !active.phase.waits();
        if self.active.get(&id.number).is_some_and(current) {
            self.undo(env, id.number, Some(from), why);
        } else if self.decisions.knows(id) {
            self.decisions.on_untold(env.now, id.number, from);
        }
    }

    /// A participant has installed, or dropped, a decided transaction.
    pub fn on_done(&mut self, id: TxnId, from: PartitionId) {
        self.decisions.on_done(id, from);
    }

    /// A peer gave no sign of life. What is decided is told again for as long as it takes.
    pub fn on_unreachable<K: Known>(&mut self, env: &mut Env<'_, P, K>, ticket: Ticket, peer: PartitionId) {
        match ticket {
            Ticket::Run { number } | Ticket::Prepare { number } => {
                if let Some(active) = self.active.get(&number)
                    && !active.phase.waits()
                {
                    self.release_prepared(env, number, Some(peer));
                    self.end_run(env, number, Abort::Unavailable);
                }
            }
            Ticket::Commit { number } => self.decisions.on_untold(env.now, number, peer),
            Ticket::None => {}
        }
    }

    /// Another leader reigns over a shard, or the old one is known to be gone. Attempts that wait for an
    /// answer of the old one are made again; decisions it has not acknowledged it will never: what it had
    /// prepared is doomed by its end, and what it had committed is in its log.
    pub fn on_reign_ended<K: Known>(&mut self, env: &mut Env<'_, P, K>, shard: ShardId) {
        let of = |partition: &PartitionId| env.config.shard_of(*partition) == shard;
        let mut waiting: Vec<u64> = Vec::new();
        for (number, active) in &self.active {
            let waits = match &active.phase {
                Phase::Running if active.snapshot.is_none() => active.context.run.borrow().waits_for(of),
                Phase::Preparing { votes, .. } => votes[1..].iter().any(|vote| of(&vote.partition)),
                Phase::Running | Phase::Waiting | Phase::Parked => false,
            };
            if waits {
                waiting.push(*number);
            }
        }
        waiting.sort_unstable();
        for number in waiting {
            self.undo(env, number, None, Refusal::NotLeader);
        }
        let closed = |epoch: Epoch| env.known.is_closed(Stamp { shard, epoch });
        self.decisions.forget(|partition, epoch| of(&partition) && closed(epoch));
    }

    /// Home is not led from here any more: nothing undecided can be decided.
    pub fn on_deposed<K: Known>(&mut self, env: &mut Env<'_, P, K>) {
        let undecided = self.active.iter().filter(|(_, active)| active.snapshot.is_none());
        let mut undecided: Vec<u64> = undecided.map(|(number, _)| *number).collect();
        undecided.sort_unstable();
        for number in undecided {
            self.release_prepared(env, number, None);
            self.end_run(env, number, Abort::Unavailable);
        }
    }

    /// What a participant that has heard nothing for long is told.
    pub fn verdict(&self, id: TxnId) -> Verdict {
        if let Some(committed) = self.decisions.verdict(id) {
            return committed;
        }
        match self.active.get(&id.number) {
            Some(Active { id: current, phase: Phase::Preparing { .. }, .. }) if *current == id => {
                Verdict::Pending
            }
            _ => Verdict::Aborted,
        }
    }

    fn run<K: Known>(&mut self, env: &mut Env<'_, P, K>, number: u64) {
        let Some(active) = self.active.get_mut(&number) else { return };
        let mode = if active.snapshot.is_some() { RunMode::Snapshot } else { RunMode::Distributed };
        active.context.run.borrow_mut().reset(mode);
        (active.waited, active.repeats, active.parked_since) = (false, 0, None);
        active.begin();
        self.poll(env, number);
    }

    fn poll<K: Known>(&mut self, env: &mut Env<'_, P, K>, number: u64) {
        let Some(active) = self.active.get_mut(&number) else { return };
        let Some(task) = &mut active.task else { return };
        let polled = task.as_mut().poll(&mut task::Context::from_waker(Waker::noop()));
        let halt = active.context.run.borrow().halt;
        match (halt, polled) {
            (None, Poll::Pending) => {
                active.waited = true;
                self.send_questions(env, number);
            }
            (Some(Halt::Locked(holder)), _) => {
                active.task = None;
                active.phase = Phase::Parked;
                let since = *active.parked_since.get_or_insert(env.now);
                env.out.push(Effect::Park { behind: holder, number, since });
            }
            (Some(Halt::Refused(abort)), _) | (None, Poll::Ready(Err(abort))) => {
                self.end_run(env, number, abort);
            }
            (Some(Halt::Remote), _) => unreachable!("only a local run is interrupted by a remote key"),
            (None, Poll::Ready(Ok(()))) => {
                active.task = None;
                if active.repeat() {
                    return self.poll(env, number);
                }
                match active.snapshot.clone() {
                    Some(token) => self.finish_snapshot(env, number, token.timestamp),
                    None => self.prepare(env, number),
                }
            }
        }
    }

    fn send_questions<K: Known>(&mut self, env: &mut Env<'_, P, K>, number: u64) {
        let active = &self.active[&number];
        let run = &mut *active.context.run.borrow_mut();
        for at in run.unsent.drain(..) {
            let remote = &run.remote[at as usize];
            assert!(remote.answer.is_none(), "an unsent question has an answer");
            let (to, txn) = (remote.partition, active.id);
            let epoch = env.known.epoch(env.config.shard_of(to));
            let message = match (&remote.question, &active.snapshot) {
                (Question::Read { table, key }, None) => {
                    Message::Read { partition: to, epoch, txn, table: *table, key }
                }
                (Question::Scan(range), None) => {
                    Message::Scan { partition: to, epoch, txn, range: range.as_wire(at) }
                }
                (Question::Read { table, key }, Some(token)) => {
                    Message::SnapshotRead { partition: to, txn, token: token.clone(), table: *table, key }
                }
                (Question::Scan(range), Some(token)) => Message::SnapshotScan {
                    partition: to,
                    txn,
                    token: token.clone(),
                    range: range.as_wire(at),
                },
            };
            let (nearest, message) = (active.snapshot.is_some(), encode(&message));
            env.out.push(Effect::Ask { to, nearest, ticket: Ticket::Run { number }, message });
        }
    }

    fn finish_snapshot<K: Known>(&mut self, env: &mut Env<'_, P, K>, number: u64, timestamp: Timestamp) {
        if let Some(active) = self.active.remove(&number) {
            let (token, attempts) = (active.token, active.attempts + 1);
            let reply = Reply::Speculative { timestamp, distributed: true, attempts };
            env.out.push(Effect::Reply { token, reply, procedure: active.into_procedure() });
            let reply = Reply::Durable { timestamp };
            env.out.push(Effect::Reply { token, reply, procedure: None });
        }
    }

    /// Step 2. Home comes last, in `conclude`: its keys are hot more often than not, and locked while votes
    /// travel they would stop every transaction that stays at home. It comes first when it is alone, or
    /// when what others were asked to write kept changing with what was read at home.
    fn prepare<K: Known>(&mut self, env: &mut Env<'_, P, K>, number: u64) {
        if self.decides != Decides::All {
            return self.undo(env, number, None, Refusal::Busy);
        }
        let active = self.active.get_mut(&number).expect("the attempt being prepared is active");
        let id = active.id;
        let run = active.context.run.borrow();
        let participants = run.participants(self.home, env.config.partition_count() as u16);
        let shards = participants[1..].iter().map(|partition| env.config.shard_of(*partition));
        let hold_ns = self.vote_times.hold_ns(shards);
        let mut votes = Votes::new();
        for partition in &participants {
            let home = *partition == self.home;
            let epoch = if home { id.epoch } else { env.known.epoch(env.config.shard_of(*partition)) };
            votes.push(Vote { partition: *partition, epoch, proposal: None });
        }
        let alone = votes.len() == 1;
        if alone || active.home_first {
            match prepare_home(env, &run, id, self.shard, hold_ns) {
                Ok(proposal) => votes[0].proposal = Some(proposal),
                Err(why) => {
                    drop(run);
                    return self.undo(env, number, Some(self.home), why);
                }
            }
        }
        active.asked.clear();
        for vote in &votes[1..] {
            let part = run.part_of(vote.partition);
            active.asked.push(asked_of(&part, vote.partition));
            let message = encode(&Message::Prepare {
                partition: vote.partition,
                epoch: vote.epoch,
                txn: id,
                hold_ns,
                deps: run.deps.clone(),
                reads: part.reads,
                scans: part.scans,
                writes: part.writes,
            });
            let ticket = Ticket::Prepare { number };
            env.out.push(Effect::Ask { to: vote.partition, nearest: false, ticket, message });
        }
        drop(run);
        active.phase = Phase::Preparing { sent: env.now, votes };
        if alone {
            self.decide(env, number);
        }
    }

    /// Everybody else has voted, so all they were asked about is locked as it was read. The procedure runs
    /// once more, on what is true at home now; when it asks the same of the others, home prepares and
    /// the decision falls in the same instant, and no lock at home ever waits for a message.
    fn conclude<K: Known>(&mut self, env: &mut Env<'_, P, K>, number: u64) {
        if self.decides == Decides::Nothing {
            return self.undo(env, number, None, Refusal::Busy);
        }
        let Some(active) = self.active.get_mut(&number) else { return };
        let Phase::Preparing { votes, .. } = &active.phase else { return };
        if votes[0].proposal.is_some() {
            return self.decide(env, number);
        }
        active.context.run.borrow_mut().start_over();
        let polled = active.task().as_mut().poll(&mut task::Context::from_waker(Waker::noop()));
        let run = active.context.run.borrow();
        let outcome = match (run.halt, polled) {
            (None, Poll::Ready(Ok(()))) => {
                let others = || votes[1..].iter().map(|vote| vote.partition);
                let now = run.participants(self.home, env.config.partition_count() as u16);
                let same = now[1..].iter().copied().eq(others())
                    && others().zip(&active.asked).all(|(p, asked)| asked_of(&run.part_of(p), p) == *asked);
                if same { prepare_home(env, &run, active.id, self.shard, 0) } else { Err(Refusal::Changed) }
            }
            (Some(Halt::Refused(abort)), _) | (None, Poll::Ready(Err(abort))) => {
                drop(run);
                self.release_prepared(env, number, None);
                return self.end_run(env, number, abort);
            }
            (Some(Halt::Locked(_)), _) => Err(Refusal::Locked),
            (Some(Halt::Remote), _) | (None, Poll::Pending) => Err(Refusal::Changed),
        };
        drop(run);
        match outcome {
            Ok(proposal) => {
                if let Phase::Preparing { votes, .. } = &mut active.phase {
                    votes[0].proposal = Some(proposal);
                }
                self.decide(env, number);
            }
            Err(why) => {
                active.changes += u32::from(why == Refusal::Changed);
                active.home_first = active.changes >= CHANGES_MAX;
                self.undo(env, number, None, why);
            }
        }
    }

    /// Step 3, and step 4 at home. The decision is not replicated first: dependencies make it safe.
    fn decide<K: Known>(&mut self, env: &mut Env<'_, P, K>, number: u64) {
        let active = &self.active[&number];
        let Phase::Preparing { votes, .. } = &active.phase else { return };
        let votes = votes.clone();
        let mut epochs: SmallVec<[(ShardId, Epoch); 4]> = SmallVec::new();
        let mut timestamp = Timestamp::default();
        for vote in &votes {
            let shard = env.config.shard_of(vote.partition);
            match epochs.iter().find(|(known, _)| *known == shard) {
                Some((_, epoch)) if *epoch != vote.epoch => {
                    return self.undo(env, number, None, Refusal::WrongEpoch);
                }
                Some(_) => {}
                None => epochs.push((shard, vote.epoch)),
            }
            timestamp = timestamp.max(vote.proposal.unwrap_or_default());
        }
        let mut deps = active.context.run.borrow().deps.clone();
        for (shard, epoch) in epochs {
            let needed = rules::on(Rule::AllParticipants) || shard == self.shard;
            if needed && deps.add(Stamp { shard, epoch }, timestamp).is_err() {
                return self.undo(env, number, None, Refusal::Busy);
            }
        }
        if env.known.any_lost(&deps) {
            return self.undo(env, number, None, Refusal::LostDependency);
        }
        self.commit(env, number, &votes, timestamp, deps);
    }

    fn commit<K: Known>(
        &mut self,
        env: &mut Env<'_, P, K>,
        number: u64,
        votes: &Votes,
        timestamp: Timestamp,
        deps: Deps,
    ) {
        let active = self.active.remove(&number).expect("the attempt being decided is active");
        let (id, token) = (active.id, active.token);
        let wrote = !active.context.run.borrow().writes.is_empty();
        let all = votes.iter().map(|vote| vote.partition);
        let participants: SmallVec<[PartitionId; 4]> = if wrote { all.collect() } else { SmallVec::new() };
        let commit = Commit { txn: id, timestamp, deps: &deps, participants: &participants };
        let done = env.store.borrow_mut().commit(env.now, &commit, Some(token), env.known);
        assert!(done.was_prepared, "the home partition is prepared when it decides");

        let reply = Reply::Speculative { timestamp, distributed: true, attempts: active.attempts + 1 };
        env.out.push(Effect::Reply { token, reply, procedure: active.into_procedure() });
        if done.held.is_none() {
            env.out.push(Effect::Reply { token, reply: Reply::Durable { timestamp }, procedure: None });
        }
        env.out.push(Effect::Unlocked { holder: id });
        let unacknowledged = votes[1..].iter().map(|vote| (vote.partition, vote.epoch)).collect();
        let decided = Decided { id, timestamp, deps, participants, unacknowledged };
        self.decisions.tell(decided, env.out);
    }

    /// Gives the attempt up: unlocks home and whoever has voted, then makes another or ends.
    fn undo<K: Known>(
        &mut self,
        env: &mut Env<'_, P, K>,
        number: u64,
        refuser: Option<PartitionId>,
        why: Refusal,
    ) {
        self.release_prepared(env, number, refuser);
        let Some(active) = self.active.get_mut(&number) else { return };
        active.task = None;
        active.attempts += 1;
        let attempts = active.attempts;
        if let Some(abort) = active.final_end(why).or_else(|| exhausted(why, attempts)) {
            return self.end(env, number, abort);
        }
        active.phase = Phase::Waiting;
        let backoff = (BACKOFF_NS_MIN << attempts.min(16)).min(BACKOFF_NS_MAX);
        let due = env.now.plus_ns(env.prng.u64(backoff / 2..=backoff));
        self.backoffs.push(Reverse((due, number)));
        env.out.push(Effect::Retried);
    }

    /// Lets go of what an attempt holds, here and wherever it has been voted for. Votes still on
    /// their way are answered when they come.
    fn release_prepared<K: Known>(
        &mut self,
        env: &mut Env<'_, P, K>,
        number: u64,
        refuser: Option<PartitionId>,
    ) {
        let Some(active) = self.active.get(&number) else { return };
        let id = active.id;
        if let Phase::Preparing { votes, .. } = &active.phase {
            for vote in votes[1..].iter().filter(|v| v.proposal.is_some() && Some(v.partition) != refuser) {
                self.tell_abort(env, id, vote.partition, vote.epoch);
            }
        }
        if env.store.borrow_mut().abort(id) {
            env.out.push(Effect::Unlocked { holder: id });
        }
    }

    fn tell_abort<K: Known>(&self, env: &mut Env<'_, P, K>, txn: TxnId, to: PartitionId, epoch: Epoch) {
        let message = encode(&Message::Abort { partition: to, epoch, txn });
        env.out.push(Effect::Ask { to, nearest: false, ticket: Ticket::None, message });
    }

    /// Ends in the middle of an attempt, which counts.
    fn end_run<K: Known>(&mut self, env: &mut Env<'_, P, K>, number: u64, abort: Abort) {
        if let Some(active) = self.active.get_mut(&number) {
            active.attempts += 1;
        }
        self.end(env, number, abort);
    }

    fn end<K: Known>(&mut self, env: &mut Env<'_, P, K>, number: u64, abort: Abort) {
        if let Some(active) = self.active.remove(&number) {
            let (token, attempts) = (active.token, active.attempts);
            let reply = Reply::Aborted { abort, attempts };
            env.out.push(Effect::Reply { token, reply, procedure: active.into_procedure() });
        }
    }
}

/// The home partition's own vote.
fn prepare_home<P, K: Known>(
    env: &Env<'_, P, K>,
    run: &Run,
    id: TxnId,
    home: ShardId,
    hold_ns: u64,
) -> Result<Timestamp, Refusal> {
    let part = run.part_of(id.home);
    let request = PrepareRequest {
        txn: id,
        epoch: id.epoch,
        home,
        hold_ns,
        deps: &run.deps,
        reads: &part.reads,
        scans: &part.scans,
        writes: &part.writes,
    };
    env.store.borrow_mut().prepare(env.now, &request, env.known)
}

/// How a transaction ends that has been refused as often as it may be: by what the last refusal says of
/// the participant. A shard that follows another leader than ours does not answer *us*.
fn exhausted(why: Refusal, attempts: u32) -> Option<Abort> {
    if attempts < ATTEMPTS_MAX {
        return None;
    }
    Some(match why {
        Refusal::NotLeader | Refusal::WrongEpoch | Refusal::ClosedEpoch => Abort::Unavailable,
        Refusal::Busy => Abort::Busy(BusyWith::Participant),
        _ => Abort::Conflict { attempts },
    })
}

/// Decisions missed because what others were asked depends on what changes at home, before home is locked.
const CHANGES_MAX: u32 = 2;

const _: () = assert!(BACKOFF_NS_MIN << 16 > BACKOFF_NS_MAX, "the backoff reaches its maximum");

#[cfg(test)]
mod tests;
