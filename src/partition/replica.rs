//! One replica of one partition: its state, its stream, and the way from a committed transaction to a
//! chosen slot and from a chosen slot to a mark on the watermark board.
//!
//! It routes between `txn`, `paxos` and `wire`, which do not know each other; what is decided is
//! decided there.
//!
//! Invariants:
//!   1. `proposed` is at or above every promise this reign has made, and `mark` is one of them.
//!   2. A batch's promise is taken when the batch is closed, and no entry joins it afterwards.
#![forbid(unsafe_code)]

use super::admission::Entry;
use super::checkpoint::{Archive, Loaded, Logged, Place};
use super::duty::YieldStep;
use super::moving::Yielding;
use super::parked::Parked;
use super::ports::Log;
use super::post::{Asker, Outgoing, Post};
use super::recovery::Revived;
use crate::bounds::{
    BATCH_BYTES_MAX, CLOCK_LEAD_NS, HAND_OVER_NEAR_SLOTS, HAND_OVER_PREPARED_PART, HEARTBEAT_INTERVAL_NS,
    RESEND_INTERVAL_NS,
};
use crate::config::{Config, Durability};
use crate::paxos::{self, Persist, RestsOn, Role, Stream, StreamConfig};
use crate::rules::{self, Rule};
use crate::txn::{Context, Coordinator, Decides, LocalRead, Procedure, Replay, Store, too_far_ahead};
use crate::types::{
    Ballot, Endpoint, Epoch, Lsn, NodeId, PartitionId, ShardId, Slot, Timestamp, TxnId, Watermark,
};
use crate::wal::{Record, RecordKind};
use crate::watermark::{Knowledge, Runs};
use crate::wire::{BatchBuilder, BatchKind, BatchView, Message, StreamMessage};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

pub struct Replica<P> {
    pub id: PartitionId,
    pub shard: ShardId,
    me: NodeId,
    config: Rc<Config>,
    pub store: Rc<RefCell<Store>>,
    /// The one that transactions of this partition alone run in, one after another.
    pub local: Rc<Context>,
    pub coordinator: Coordinator<P>,
    pub parked: Parked<P>,
    pub replay: Replay,
    pub stream: Stream,
    /// We lead, and how the epochs before ours ended is chosen: transactions may be executed.
    pub open: bool,
    /// Our reign is to be handed over.
    yielding: Option<Yielding>,
    /// Of our reign: past the last batch that whoever takes over should hold, in the slot it has or will have.
    said_end: Slot,
    /// It may have promised or accepted something before this start of the node.
    pub has_run: bool,
    /// Whether it takes part yet.
    pub(super) entry: Entry,
    /// What the chair was told last: it takes every replica for fit.
    pub(super) told_fit: bool,
    /// Holds the facts of its shard.
    is_first: bool,
    pub runs: Runs,
    /// What checkpoints are made of.
    pub archive: Archive,
    /// What the shard's chair is to hear of.
    pub news: VecDeque<News>,
    /// Batches closed and not yet proposed.
    closed: VecDeque<Rc<[u8]>>,
    /// The promise of the last batch closed.
    proposed: Timestamp,
    proposed_at: Timestamp,
    /// The promise somebody waits for.
    awaited: Timestamp,
    /// Promises of chosen slots whose durability the mode still waits for.
    chosen: VecDeque<(Slot, Watermark)>,
    /// The promise at the end of the contiguous prefix that is replicated and, as the mode demands,
    /// on disk.
    mark: Watermark,
    /// The promise at the end of what is chosen and handed to the state here.
    applied: Watermark,
    resend_at: Timestamp,
    vote_lsn: Lsn,
    accept_lsn: Lsn,
    /// The chosen end that the log knows. What a peer is told we know, it may drop; so the log comes first.
    chosen_logged: Slot,
    chosen_lsn: Lsn,
    effects: Vec<paxos::Effect>,
    /// Local reads made in this turn and not yet answered for.
    pub reads: Vec<LocalRead>,
    /// Snapshot reads that wait for `applied` to rise.
    pub waiting: VecDeque<(Timestamp, Asker, Vec<u8>)>,
}

/// What happened to a stream that concerns its whole shard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum News {
    /// The seal of our epoch is chosen: what came before it here is fixed.
    Sealed(Ballot),
    /// The facts of an epoch are chosen.
    Facts(Epoch, Vec<(Epoch, Timestamp)>),
    /// We were candidate or leader, and a higher ballot exists.
    Deposed(Ballot),
}

/// An acceptance handed to the log, to be reported when it is durable.
pub struct Handed {
    pub lsn: Lsn,
    pub partition: PartitionId,
    pub what: HandedWhat,
}

pub enum HandedWhat {
    Vote(Ballot),
    Accept(Slot, Ballot),
    Chosen(Slot),
}

impl<P: Procedure> Replica<P> {
    /// A new one, or as the disk knows it.
    pub(super) fn new(
        me: NodeId,
        id: PartitionId,
        config: &Rc<Config>,
        revived: Option<Revived>,
        entry: Entry,
    ) -> Replica<P> {
        let shard = config.shard_of(id);
        let store = Rc::new(RefCell::new(Store::new(shard, config.tables.len())));
        let stream_config = StreamConfig {
            me,
            replicas: config.replicas_of(id).to_vec(),
            own_vote_needs_disk: config.durability == Durability::QuorumDisk,
            limits: paxos::Limits::default(),
        };
        let has_run = revived.is_some();
        let (stream, checkpoint, logged) = match revived {
            Some(Revived { stream, checkpoint, logged }) => {
                (Stream::restored(stream_config, stream), checkpoint, logged)
            }
            None => (Stream::new(stream_config), None, Logged::default()),
        };
        let mut replica = Replica {
            id,
            shard,
            me,
            config: config.clone(),
            local: Context::new(id, config.clone(), store.clone()),
            store,
            coordinator: Coordinator::new(id, shard),
            parked: Parked::default(),
            replay: Replay::default(),
            stream,
            open: false,
            yielding: None,
            said_end: Slot(0),
            has_run,
            entry,
            told_fit: true,
            is_first: config.partitions_of(shard).next() == Some(id),
            runs: Runs::default(),
            archive: Archive::new(checkpoint.as_ref().map(|loaded| loaded.header.slot), logged),
            news: VecDeque::new(),
            closed: VecDeque::new(),
            proposed: Timestamp::default(),
            proposed_at: Timestamp::default(),
            awaited: Timestamp::default(),
            chosen: VecDeque::new(),
            mark: Watermark::default(),
            applied: Watermark::default(),
            resend_at: Timestamp::default(),
            vote_lsn: Lsn::default(),
            accept_lsn: Lsn::default(),
            chosen_logged: Slot(0),
            chosen_lsn: Lsn::default(),
            effects: Vec::new(),
            reads: Vec::new(),
            waiting: VecDeque::new(),
        };
        if let Some(loaded) = checkpoint {
            replica.load(loaded);
        }
        replica
    }

    /// Takes the state of a checkpoint over, which is at least as far as ours: what waits here to be replayed
    /// was settled when the checkpoint began.
    pub(super) fn load(&mut self, loaded: Loaded) {
        let Loaded { header, runs, store } = loaded;
        self.store.borrow_mut().take_over(store);
        self.replay.clear();
        self.runs = runs;
        self.applied = self.applied.max(header.applied);
        self.chosen.clear();
        if self.sees_durability() {
            self.mark = self.mark.max(header.applied);
        }
        self.archive.on_jump(header.slot);
        self.stream.jump(header.slot);
    }

    /// From where the stream would have to be replayed by whoever starts from what is settled here now.
    pub(super) fn place(&mut self) -> Place {
        let lowest = self.lowest_entry().filter(|_| rules::on(Rule::ReplayUnsettled));
        self.archive.delivered.settle(lowest);
        let first = self.archive.delivered.first_unsettled().cloned();
        first.unwrap_or_else(|| Place {
            slot: self.archive.delivered.end(),
            runs: self.runs.clone(),
            applied: self.applied,
        })
    }

    /// The lowest timestamp of anything that is not settled. Walks all of it.
    fn lowest_entry(&self) -> Option<Timestamp> {
        let window = self.store.borrow().window.lowest_entry();
        window.into_iter().chain(self.replay.lowest_entry()).min()
    }

    /// The one that hosts it.
    pub fn node(&self) -> NodeId {
        self.me
    }

    pub fn mark(&self) -> Watermark {
        self.mark
    }

    pub fn applied(&self) -> Watermark {
        self.applied
    }

    pub fn proposed(&self) -> Timestamp {
        self.proposed
    }

    pub fn is_first_of(&self, shard: ShardId) -> bool {
        self.is_first && self.shard == shard
    }

    pub fn leads(&self) -> bool {
        self.stream.role() == Role::Leader
    }

    /// It does not vote: not yet, or because it has forgotten what it promised or accepted.
    pub fn is_forgetful(&self) -> bool {
        !self.entry.is_admitted() || self.stream.is_forgetful()
    }

    /// It is one of those that take part, and knows all it ever promised.
    pub fn knows_its_promise(&self) -> bool {
        self.entry.is_admitted() && self.stream.knows_its_promise()
    }

    /// Whether one more transaction may be executed here.
    pub fn has_room(&self, now: Timestamp) -> bool {
        !self.is_paused()
            && self.closed.len() < CLOSED_BATCHES_MAX
            && self.store.borrow().window.has_room(now, self.shard)
    }

    /// Gives up leading or running for it, because another stream of the shard was lost.
    pub fn step_down(&mut self, by: Ballot) {
        self.stream.step_down(by, &mut self.effects);
    }

    /// Runs for leader of this stream under `ballot`. False when it must not: it has promised as much.
    pub fn campaign(&mut self, ballot: Ballot) -> bool {
        if ballot <= self.stream.promised() || self.is_forgetful() {
            return false;
        }
        self.closed.clear();
        let filler = BatchBuilder::new().finish(epoch_of(ballot), Timestamp::default(), BatchKind::Filler);
        self.stream.campaign(ballot, filler, &mut self.effects);
        true
    }

    /// Every seal of the shard is chosen: writes down, before anything else of this epoch, where those
    /// before it ended.
    pub fn propose_facts(&mut self, now: Timestamp, facts: &[(Epoch, Timestamp)]) {
        let store = &mut *self.store.borrow_mut();
        let promise = store.promise(now);
        self.proposed = self.proposed.max(promise);
        self.closed.push_back(BatchBuilder::facts(store.epoch, promise, facts));
    }

    /// How the epochs before ended is chosen and known: takes transactions from now on.
    pub fn open(&mut self, known: &Knowledge) {
        assert!(self.leads() && !self.open, "{:?} opens as {:?}", self.id, self.stream.role());
        self.replay.promote(&mut self.store.borrow_mut(), known);
        self.open = true;
    }

    /// Does not lead any more. Returns whose locks are gone.
    pub fn demote(&mut self) -> Vec<TxnId> {
        self.open = false;
        self.go_on();
        self.closed.clear();
        (self.proposed, self.awaited) = (Timestamp::default(), Timestamp::default());
        self.store.borrow_mut().demote()
    }

    /// Our reign under `ballot` is to be handed over: `take_yield` says when this replica has taken its step.
    pub(super) fn begin_yield(&mut self, now: Timestamp, ballot: Ballot, to: NodeId, step: YieldStep) {
        if self.open && self.stream.leader() == ballot {
            let begun = Yielding { to, ballot, step, since: now, fresh: true, parted: false, told: false };
            self.yielding = Some(begun);
            self.coordinator.set_decides(match step {
                YieldStep::Near => Decides::All,
                YieldStep::Pause => Decides::Begun,
                YieldStep::Part { .. } => Decides::Nothing,
            });
        }
    }

    pub fn go_on(&mut self) {
        self.yielding = None;
        self.coordinator.set_decides(Decides::All);
    }

    /// Once for each step, when it is taken; with what no timestamp here is above. What is prepared for others may
    /// hold a pause up for a part of it only: its coordinator may be gone.
    pub(super) fn take_yield(&mut self, now: Timestamp) -> Option<(Yielding, Timestamp)> {
        let yielding = self.yielding.filter(|yielding| !yielding.told)?;
        let behind = self.stream.behind(yielding.to)?;
        let store = &mut *self.store.borrow_mut();
        let done = match yielding.step {
            YieldStep::Near => behind <= HAND_OVER_NEAR_SLOTS,
            YieldStep::Pause => {
                let patience_ns = self.config.election_timeout_ns / HAND_OVER_PREPARED_PART;
                let undecided = !store.prepared().is_empty() || self.coordinator.awaits_votes();
                !undecided || now.since(yielding.since) >= patience_ns
            }
            YieldStep::Part { .. } => {
                let held = Slot(self.stream.next_slot().0 - behind).min(self.stream.chosen_end());
                yielding.parted && self.closed.is_empty() && store.batch.is_empty() && held >= self.said_end
            }
        };
        self.yielding = Some(Yielding { told: done, fresh: false, ..yielding });
        done.then(|| (yielding, store.reached(now)))
    }

    /// When a step may be done, or be waited for no longer, though nothing happens.
    fn yield_deadline(&self) -> Option<Timestamp> {
        let yielding = self.yielding.filter(|yielding| !yielding.told && !yielding.parted)?;
        let patient_until = yielding.since.plus_ns(self.config.election_timeout_ns / HAND_OVER_PREPARED_PART);
        match yielding.step {
            _ if yielding.fresh => Some(Timestamp::default()),
            YieldStep::Near => None,
            // What is closed goes first, and whoever makes room for it wakes us.
            YieldStep::Part { .. } if !self.closed.is_empty() => None,
            YieldStep::Pause => Some(patient_until),
            YieldStep::Part { upto } => Some(patient_until.min(upto)),
        }
    }

    /// Once: how far the last no-op before our reign ends is to promise. What stands ahead of the clock by more than
    /// that may be moved is waited for, as long as for what is prepared.
    fn take_parting(&mut self, now: Timestamp) -> Option<Timestamp> {
        let patience_ns = self.config.election_timeout_ns / HAND_OVER_PREPARED_PART;
        let yielding = self.yielding.as_mut().filter(|yielding| !yielding.parted)?;
        let YieldStep::Part { upto } = yielding.step else { return None };
        let reach = within_reach(now, upto);
        yielding.parted = reach == upto || now.since(yielding.since) >= patience_ns;
        yielding.parted.then_some(reach)
    }

    /// Takes no transactions: whoever is to lead next is to miss nothing.
    pub fn is_paused(&self) -> bool {
        self.yielding.is_some_and(|yielding| yielding.step != YieldStep::Near)
    }

    /// The lowest timestamp that anything here, executed or to be replayed, still waits for.
    pub fn unsettled(&self) -> Option<Timestamp> {
        self.store.borrow().window.lowest().into_iter().chain(self.replay.lowest()).min()
    }

    pub fn on_stream(&mut self, from: NodeId, message: StreamMessage) -> Result<(), paxos::Ignored> {
        self.stream.on_message(from, message, &mut self.effects)
    }

    pub fn on_durable(&mut self, what: &HandedWhat) {
        match what {
            HandedWhat::Vote(ballot) => self.stream.on_vote_persisted(*ballot, &mut self.effects),
            HandedWhat::Accept(slot, ballot) => self.stream.on_persisted(*slot, *ballot),
            HandedWhat::Chosen(end) => self.stream.on_chosen_persisted(*end),
        }
    }

    /// Closes the open batch when it is full. Called after every commit, so that a batch never
    /// outgrows a message.
    pub fn close_full_batch(&mut self, now: Timestamp) {
        if self.store.borrow().batch.len_bytes() >= self.config.batch_bytes {
            self.close_batch(now, BatchKind::Entries);
        }
    }

    fn close_batch(&mut self, now: Timestamp, kind: BatchKind) {
        let store = &mut *self.store.borrow_mut();
        let promise = store.promise(now);
        let batch = store.batch.finish(store.epoch, promise, kind);
        assert!(batch.len() <= BATCH_BYTES_MAX, "a batch of {} bytes", batch.len());
        self.proposed = self.proposed.max(promise);
        self.closed.push_back(batch);
        // A mere no-op need not be known to whoever takes over from us.
        if kind != BatchKind::Noop {
            self.said_end = self.closed_end();
        }
    }

    /// Past the last batch that is closed, in the slot it has or will have.
    fn closed_end(&self) -> Slot {
        Slot(self.stream.next_slot().0 + self.closed.len() as u64)
    }

    /// Proposes what is due: full batches, the open one when nothing is in flight or it is old enough,
    /// and a no-op when somebody waits for a promise that no entry will bring (DESIGN §3).
    pub fn propose(&mut self, now: Timestamp, wanted: Timestamp) {
        if !self.leads() {
            return;
        }
        let calm = self.stream.in_flight() == 0 || self.is_paused();
        let (open, since) = {
            let store = self.store.borrow();
            (!store.batch.is_empty(), store.batch_since)
        };
        if open && (calm || now.since(since) >= self.config.batch_delay_ns) && self.closed.is_empty() {
            self.store.borrow_mut().clock.observe(within_reach(now, wanted));
            self.close_batch(now, BatchKind::Entries);
        } else if !open
            && self.closed.is_empty()
            && let Some(upto) = self.take_parting(now)
        {
            self.store.borrow_mut().clock.observe(upto);
            self.close_batch(now, BatchKind::Noop);
            self.said_end = self.closed_end();
        } else if !open && self.closed.is_empty() && self.noop_is_due(now, wanted, calm) {
            self.close_batch(now, BatchKind::Noop);
        }
        while !self.closed.is_empty() && self.stream.can_propose() {
            if let Some(batch) = self.closed.pop_front() {
                self.stream.propose(batch, &mut self.effects);
                self.proposed_at = now;
            }
        }
    }

    fn noop_is_due(&mut self, now: Timestamp, wanted: Timestamp, calm: bool) -> bool {
        if !self.open {
            return false;
        }
        let age = now.since(self.proposed_at);
        if age >= HEARTBEAT_INTERVAL_NS {
            return true;
        }
        self.awaited = believable(now, wanted);
        let within_reach = within_reach(now, wanted);
        // What only time can bring is not asked for in every turn.
        let calm = calm && within_reach == self.awaited;
        if self.awaited <= self.proposed || !(calm || age >= self.config.batch_delay_ns) {
            return false;
        }
        let store = &mut *self.store.borrow_mut();
        store.clock.observe(within_reach);
        // Behind a prepared transaction a no-op would promise nothing new.
        store.promise(now) > self.proposed
    }

    /// When `propose` next has something to do though nothing happens.
    pub fn deadline(&self) -> Option<Timestamp> {
        if !self.open {
            let catch_up = self.stream.catch_up_deadline();
            return Some(catch_up.map_or(self.resend_at, |at| at.min(self.resend_at)));
        }
        let heartbeat = self.proposed_at.plus_ns(HEARTBEAT_INTERVAL_NS).min(self.resend_at);
        let heartbeat = self.yield_deadline().map_or(heartbeat, |at| at.min(heartbeat));
        let store = self.store.borrow();
        let delay_ns = self.config.batch_delay_ns;
        let batch = (!store.batch.is_empty()).then(|| store.batch_since.plus_ns(delay_ns));
        // Behind a prepared transaction a no-op would promise nothing new, however long we wait.
        let free = store.prepared().lowest_proposal().is_none_or(|lowest| lowest.prev() > self.proposed);
        let noop = (self.awaited > self.proposed && free).then(|| self.proposed_at.plus_ns(delay_ns));
        Some(batch.into_iter().chain(noop).fold(heartbeat, Timestamp::min))
    }

    /// Carries out what the stream asked for, and takes what it has chosen. True when a mark rose.
    pub fn run_stream(
        &mut self,
        now: Timestamp,
        known: &Knowledge,
        log: &mut dyn Log,
        post: &mut Post,
        handed: &mut VecDeque<Handed>,
        asker: &mut Asker,
    ) -> bool {
        let mut rose = false;
        loop {
            self.carry_out(now, log, post, handed, asker);
            rose |= self.take_chosen(known);
            if self.effects.is_empty() {
                break;
            }
        }
        rose
    }

    /// What is done once a turn, after everything else.
    pub fn end_turn(&mut self, now: Timestamp) {
        if now >= self.resend_at {
            self.resend_at = now.plus_ns(RESEND_INTERVAL_NS);
            if self.entry.is_admitted() {
                self.stream.resend(&mut self.effects);
            }
        }
        self.stream.catch_up(now, &mut self.effects);
        self.stream.announce(&mut self.effects);
        self.stream.retain();
        if self.archive.delivered.is_full() {
            let lowest = self.lowest_entry();
            self.archive.delivered.settle(lowest);
            self.archive.delivered.compact();
        }
    }

    fn carry_out(
        &mut self,
        now: Timestamp,
        log: &mut dyn Log,
        post: &mut Post,
        handed: &mut VecDeque<Handed>,
        asker: &mut Asker,
    ) {
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            match effect {
                paxos::Effect::Persist(persist) => self.persist(persist, log, handed),
                paxos::Effect::Send { to, message, rests_on } => {
                    let mut after = self.rests_on(rests_on);
                    if let StreamMessage::Accepted(accepted) = &message {
                        after = after.max(self.log_chosen(accepted.chosen_end, log));
                    }
                    self.send(now, to, message, after, post, asker);
                }
                paxos::Effect::Led { .. } => self.on_led(now),
                paxos::Effect::Deposed { by } => self.news.push_back(News::Deposed(by)),
                paxos::Effect::Behind { floor, at } => self.archive.on_behind(floor, at),
            }
        }
        effects.append(&mut self.effects);
        self.effects = effects;
    }

    fn persist(&mut self, persist: Persist, log: &mut dyn Log, handed: &mut VecDeque<Handed>) {
        let partition = self.id;
        match persist {
            Persist::Vote { ballot } => {
                let kind = RecordKind::Vote;
                // What outlives the log says how much of it a checkpoint replaces.
                let slot = self.archive.newest().unwrap_or_default();
                let record = Record { kind, partition, ballot, slot, payload: &[] };
                self.vote_lsn = log.append(&record);
                self.archive.logged.on_vote(self.vote_lsn);
                handed.push_back(Handed { lsn: self.vote_lsn, partition, what: HandedWhat::Vote(ballot) });
            }
            // The mode does not count acceptances: they are as good as durable at once.
            Persist::Accept { slot, ballot, .. } if self.config.durability == Durability::Memory => {
                self.stream.on_persisted(slot, ballot);
            }
            Persist::Accept { slot, ballot, batch } => {
                let record = Record { kind: RecordKind::Accept, partition, ballot, slot, payload: &batch };
                self.accept_lsn = log.append(&record);
                self.archive.logged.on_record(slot, self.accept_lsn);
                let what = HandedWhat::Accept(slot, ballot);
                handed.push_back(Handed { lsn: self.accept_lsn, partition, what });
                // Behind every acceptance it speaks of: of a page that fills a gap this is the last.
                let chosen_end = self.stream.chosen_end();
                let counts = self.config.durability == Durability::QuorumDisk;
                if counts && slot.next() >= chosen_end && chosen_end > self.chosen_logged {
                    let lsn = self.log_chosen(chosen_end, log);
                    handed.push_back(Handed { lsn, partition, what: HandedWhat::Chosen(chosen_end) });
                }
            }
        }
    }

    /// A checkpoint of every slot below `slot` is on disk. What leaves from here on may rest on it, so it waits until
    /// it would be missed: told again with the vote, which outlives the log.
    pub(super) fn on_checkpoint(&mut self, slot: Slot, log: &mut dyn Log, handed: &mut VecDeque<Handed>) {
        self.archive.on_committed(slot);
        let ballot = self.stream.promised();
        self.persist(Persist::Vote { ballot }, log, handed);
    }

    /// Where acceptances count on disk, so does what is known of them.
    fn log_chosen(&mut self, chosen_end: Slot, log: &mut dyn Log) -> Lsn {
        if self.config.durability != Durability::QuorumDisk {
            return Lsn::default();
        }
        if chosen_end > self.chosen_logged {
            self.chosen_logged = chosen_end;
            let (kind, partition, ballot) = (RecordKind::Chosen, self.id, self.stream.promised());
            self.chosen_lsn = log.append(&Record { kind, partition, ballot, slot: chosen_end, payload: &[] });
        }
        self.chosen_lsn
    }

    pub fn rests_on(&self, rests_on: RestsOn) -> Lsn {
        match rests_on {
            RestsOn::Nothing => Lsn::default(),
            RestsOn::Acceptance(_)
                if self.config.durability == Durability::QuorumDisk && rules::on(Rule::AcceptOnDisk) =>
            {
                self.accept_lsn.max(self.vote_lsn)
            }
            RestsOn::Vote | RestsOn::Acceptance(_) => self.vote_lsn,
        }
    }

    /// The first answer to the replica that asked goes as the answer of its call; the rest are calls
    /// of our own, and news that may be lost are casts.
    fn send(
        &self,
        now: Timestamp,
        to: NodeId,
        message: StreamMessage,
        after: Lsn,
        post: &mut Post,
        asker: &mut Asker,
    ) {
        let Some(core) = self.config.core_of(to, self.id) else { return };
        let to = Endpoint { node: to, core };
        let is_answer = match &message {
            StreamMessage::Promise(_)
            | StreamMessage::Rejected(_)
            | StreamMessage::Accepted(_)
            | StreamMessage::Fetched(_)
            | StreamMessage::Rejoined(_) => true,
            StreamMessage::Prepare(_)
            | StreamMessage::Accept(_)
            | StreamMessage::Chosen(_)
            | StreamMessage::Fetch(_)
            | StreamMessage::Rejoin(_) => false,
        };
        let is_cast = matches!(message, StreamMessage::Chosen(_));
        let mut bytes = Vec::with_capacity(64);
        Message::Stream { partition: self.id, from: self.me, message }.encode_into(&mut bytes);
        let waits = match *asker {
            Asker::Session(id) => is_answer && id.from() == to,
            Asker::Sibling(_) | Asker::Here | Asker::Nobody => false,
        };
        let outgoing = if waits {
            Outgoing::Answer { to: std::mem::replace(asker, Asker::Nobody), message: bytes }
        } else if is_cast {
            Outgoing::Cast { to, message: bytes }
        } else {
            Outgoing::Call { to, note: None, message: bytes }
        };
        post.send(now, after, outgoing);
    }

    /// Phase 1 is over: the seal of the new epoch is the first thing we propose, above everything that
    /// the stream holds already.
    fn on_led(&mut self, now: Timestamp) {
        let ballot = self.stream.leader();
        let mut store = self.store.borrow_mut();
        store.epoch = epoch_of(ballot);
        assert!(store.batch.is_empty() && self.closed.is_empty(), "a new leader has nothing of its own yet");
        for slot in (self.stream.floor().0..self.stream.next_slot().0).map(Slot) {
            let Some((_, batch)) = self.stream.accepted(slot) else { continue };
            let view = BatchView::parse(batch).expect("a batch is checked before it is accepted");
            store
                .clock
                .observe(view.entries().map(|entry| entry.timestamp).fold(view.promise(), Timestamp::max));
        }
        drop(store);
        self.close_batch(now, BatchKind::Seal);
        self.propose(now, Timestamp::default());
    }

    fn take_chosen(&mut self, known: &Knowledge) -> bool {
        let before = self.mark;
        while let Some((slot, _, batch)) = self.stream.poll_chosen() {
            let view = BatchView::parse(&batch).expect("a batch is checked before it is accepted");
            let promised = Watermark { epoch: view.epoch(), timestamp: view.promise() };
            self.archive.delivered.on_slot(slot, view.highest(), &self.runs, self.applied);
            let counts = self.runs.on_slot(view.epoch(), view.kind() == BatchKind::Seal, view.promise());
            let store = &mut *self.store.borrow_mut();
            let ours = self.stream.role() == Role::Leader && view.epoch() == store.epoch;
            if !ours {
                store.epoch = store.epoch.max(view.epoch());
                store.clock.observe(promised.timestamp);
                match counts {
                    true => self.replay.on_chosen(&batch, store, known),
                    false => view.entries().for_each(|entry| store.clock.observe(entry.timestamp)),
                }
            }
            match view.kind() {
                BatchKind::Seal if ours => self.news.push_back(News::Sealed(self.stream.leader())),
                BatchKind::Facts => {
                    self.runs.on_facts(view.epoch());
                    self.news.push_back(News::Facts(view.epoch(), view.facts().collect()));
                }
                _ => {}
            }
            if counts && self.may_claim(view.epoch()) {
                self.applied = self.applied.max(promised);
                if self.sees_durability() {
                    self.chosen.push_back((slot, promised));
                }
            }
        }
        let durable = self.durable_end();
        while self.chosen.front().is_some_and(|(slot, _)| *slot < durable) {
            if let Some((_, promised)) = self.chosen.pop_front() {
                self.mark = self.mark.max(promised);
            }
        }
        self.mark > before
    }

    /// Every slot below it is as durable as the mode demands, as far as this replica knows.
    fn durable_end(&self) -> Slot {
        match self.config.durability {
            Durability::LeaderDisk if rules::on(Rule::DiskTimestamp) => {
                self.stream.chosen_end().min(self.stream.persisted_end())
            }
            Durability::Memory | Durability::LeaderDisk | Durability::QuorumDisk => self.stream.chosen_end(),
        }
    }

    /// A watermark in an epoch is claimed only once that has opened, and the shard's first stream tells.
    fn may_claim(&self, epoch: Epoch) -> bool {
        !self.is_first || self.runs.opened().contains(&epoch) || !rules::on(Rule::FactBeforeOpening)
    }

    /// Where only the leader's log counts, only the leader knows; the others hear of it in the exchange.
    fn sees_durability(&self) -> bool {
        self.config.durability != Durability::LeaderDisk || self.leads()
    }

    pub fn epoch(&self) -> Epoch {
        self.store.borrow().epoch
    }
}

/// No two reigns share a ballot, so the ballot names the epoch (DESIGN §3).
pub(super) fn epoch_of(ballot: Ballot) -> Epoch {
    if rules::on(Rule::UniqueEpoch) { ballot.epoch() } else { Ballot { node: NodeId(0), ..ballot }.epoch() }
}

/// As much of what is wanted as the clock may be moved to; the rest comes with time.
fn within_reach(now: Timestamp, wanted: Timestamp) -> Timestamp {
    believable(now, wanted).min(now.plus_ns(CLOCK_LEAD_NS))
}

/// What is wanted, unless no correct clock could want it yet.
fn believable(now: Timestamp, wanted: Timestamp) -> Timestamp {
    if too_far_ahead(now, wanted) { Timestamp::default() } else { wanted }
}

/// Batches that wait for the pipeline before new transactions get `Busy`.
const CLOSED_BATCHES_MAX: usize = 64;

#[cfg(test)]
mod tests;
