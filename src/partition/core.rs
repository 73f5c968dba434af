//! One core's world: its replicas, its sessions, what it knows, and the turn that drives them.
//!
//! Pure: time, the log and the board come with every call, and the order of calls is the caller's (the
//! reactor's or the simulator's). Within a turn everything that can happen happens: messages to
//! ourselves and waiters whose locks are gone are handled before the turn ends.
//!
//! Not here: what a message does (`route`), what is said to whom about watermarks (`exchange`).
#![forbid(unsafe_code)]

use super::admission::Admission;
use super::checkpoint::Checkpointer;
use super::driver::Mode;
use super::moving::Moved;
use super::parked::{Waiter, Waiting};
use super::ports::Ports;
use super::post::{Asker, Cargo, Note, Outgoing, Parcel, Post};
use super::recovery::Recovery;
use super::reign::Chair;
use super::replica::{Handed, Replica};
use crate::bounds::{BATCH_BYTES_MAX, NODES_MAX, SHARDS_MAX};
use crate::config::Config;
use crate::paxos::ElectionEffect;
use crate::rpc::{self, Keyring, Rpc};
use crate::rules::{self, Rule};
use crate::txn::{
    Abort, BusyWith, Coordinator, Effect, Env, Known, LocalEnd, Procedure, Reply, Settled, Ticket,
    commit_local, conclude_read, run_local, take_read,
};
use crate::types::{
    Ballot, CoreId, Endpoint, Lsn, PartitionId, Prng, ShardId, Stamp, Timestamp, TxnId, Watermark,
};
use crate::watermark::{ExchangeSchedule, Knowledge};
use crate::wire::Token;
use std::collections::VecDeque;
use std::rc::Rc;

pub struct Core<P: Procedure> {
    pub(super) me: Endpoint,
    pub(super) config: Rc<Config>,
    pub(super) replicas: Vec<Replica<P>>,
    /// By partition: where in `replicas` it is.
    places: Vec<Option<usize>>,
    pub(super) post: Post,
    pub(super) knowledge: Knowledge,
    pub(super) exchange: ExchangeSchedule,
    /// By shard: the timestamp last told to the other nodes, and the one last asked of them.
    pub(super) told: Vec<Timestamp>,
    pub(super) asked: Vec<Timestamp>,
    /// Somebody wants a watermark above what was told last.
    pub(super) others_wait: bool,
    pub(super) facts_told: usize,
    /// Of the shards whose first partition is here.
    pub(super) chairs: Vec<Chair>,
    pub(super) elected: Vec<ElectionEffect>,
    /// Answers to orders of a hand-over; as many as there are orders.
    pub(super) moved: VecDeque<(u64, Moved)>,
    /// Facts that not every node may have heard yet.
    pub(super) fresh_facts: VecDeque<(Stamp, Timestamp)>,
    pub(super) fresh_told: usize,
    /// Shards that have a new leader since the coordinators were last told.
    new_reigns: Vec<ShardId>,
    /// Shards whose watermark rose since the windows were last looked at.
    pub(super) risen: Vec<ShardId>,
    pub(super) checkpoints: Checkpointer,
    pub(super) admission: Admission,
    pub(super) prng: Prng,
    effects: Vec<Effect<P>>,
    unlocked: VecDeque<(usize, TxnId)>,
    replies: VecDeque<(u64, Reply, Option<P>)>,
    pub(super) handed: VecDeque<Handed>,
    settled: Vec<Settled>,
    led: Vec<PartitionId>,
    hosted: Vec<PartitionId>,
    stats: CoreStats,
    started: bool,
    /// Whether a sibling core may have something to do because of what happened here. Parcels come in
    /// before a turn begins, so a turn must not clear it.
    pub(super) wake_siblings: bool,
    housekeeping_at: Timestamp,
}

/// Counts since the start; read by copying.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct CoreStats {
    pub committed_local: u64,
    pub conflicts: u64,
    pub busy: u64,
    pub parked: u64,
    /// Messages that could not be decoded, or came from who may not send them.
    pub malformed: u64,
    /// Messages that were too far ahead of our clock.
    pub ahead: u64,
    /// Stream messages that changed nothing.
    pub stream_ignored: u64,
    pub rolled_back: u64,
    /// Checkpoints of its own that are on disk.
    pub checkpoints_taken: u64,
    /// Checkpoints of peers that took the place of what was here.
    pub checkpoints_received: u64,
}

impl<P: Procedure> Core<P> {
    /// A core whose node has never run.
    pub fn new(config: &Rc<Config>, me: Endpoint, incarnation: u64, seed: u64) -> Core<P> {
        Core::restored(config, me, incarnation, seed, Recovery::nothing())
    }

    /// A core as its disk knows it. `incarnation` must grow with every start of the node.
    pub fn restored(
        config: &Rc<Config>,
        me: Endpoint,
        incarnation: u64,
        seed: u64,
        mut recovery: Recovery,
    ) -> Core<P> {
        let hosted = config.hosted(me.node, me.core);
        let mut places = vec![None; config.partition_count()];
        for (at, partition) in hosted.iter().enumerate() {
            places[usize::from(partition.0)] = Some(at);
        }
        assert!(
            config.nodes.len() <= NODES_MAX && config.shards.len() <= SHARDS_MAX,
            "the configuration is checked"
        );
        let life = if rules::on(Rule::Fence) { incarnation } else { 1 };
        let rpc = Rpc::new(me, cluster_hash(&config.name), life, config.nodes.len());
        let mut knowledge = Knowledge::new(config.shards.len());
        for (stamp, end) in recovery.closed() {
            knowledge.learn_closed(stamp, end);
        }
        let (checkpoints, admission) = (Checkpointer::behind(recovery.last()), Admission::new(&recovery));
        Core {
            me,
            replicas: hosted
                .iter()
                .map(|partition| {
                    let peers = config.replicas_of(*partition).len() - 1;
                    let entry = admission.entry(recovery.has_run(*partition), peers);
                    let restored = recovery.take(config, *partition, incarnation);
                    Replica::new(me.node, *partition, config, restored, entry)
                })
                .collect(),
            places,
            post: Post::new(me, config.cores(me.node), rpc),
            knowledge,
            exchange: ExchangeSchedule::new(Timestamp::default()),
            told: vec![Timestamp::default(); config.shards.len()],
            asked: vec![Timestamp::default(); config.shards.len()],
            others_wait: false,
            facts_told: 0,
            chairs: Vec::new(),
            elected: Vec::new(),
            moved: VecDeque::new(),
            fresh_facts: VecDeque::new(),
            fresh_told: 0,
            new_reigns: Vec::new(),
            risen: Vec::new(),
            checkpoints,
            admission,
            prng: Prng::with_seed(seed),
            effects: Vec::new(),
            unlocked: VecDeque::new(),
            replies: VecDeque::new(),
            handed: VecDeque::new(),
            settled: Vec::new(),
            led: Vec::new(),
            hosted,
            stats: CoreStats::default(),
            started: false,
            wake_siblings: false,
            housekeeping_at: Timestamp::default(),
            config: config.clone(),
        }
    }

    // What enters.

    /// One frame from the network; the rest of the turn does what it asks for.
    pub fn on_frame(&mut self, now: Timestamp, frame: &[u8]) {
        // Counted by the sessions, by reason.
        let _ = self.post.rpc.on_frame(now, frame);
    }

    /// A message from a sibling core.
    pub fn on_parcel(&mut self, now: Timestamp, parcel: Parcel, ports: &mut Ports<'_>) {
        self.begin(now, ports);
        let Parcel { from, cargo } = parcel;
        match cargo {
            Cargo::Request(message) => self.deliver(now, Asker::Sibling(from), self.me.node, message, ports),
            Cargo::Message(message) => self.deliver(now, Asker::Nobody, self.me.node, message, ports),
            Cargo::Duty(duty) => self.on_duty(now, duty, ports),
        }
    }

    /// The log is durable up to `lsn`.
    pub fn on_durable(&mut self, now: Timestamp, lsn: Lsn) {
        while self.handed.front().is_some_and(|handed| handed.lsn <= lsn) {
            if let Some(handed) = self.handed.pop_front()
                && let Some(at) = self.place(handed.partition)
            {
                self.replicas[at].on_durable(&handed.what);
            }
        }
        self.post.on_durable(now, lsn);
    }

    /// First half of a turn: everything that has arrived or is due.
    pub fn begin_turn(&mut self, now: Timestamp, ports: &mut Ports<'_>) {
        self.begin(now, ports);
        self.post.rpc.on_tick(now);
        for _ in 0..EVENTS_PER_TURN {
            match self.post.rpc.poll_event() {
                Some(event) => self.on_event(now, event, ports),
                None => break,
            }
        }
        // What is told again because it was refused may be refused again: that is for the next turn.
        for _ in 0..self.post.refused_count() {
            if let Some(note) = self.post.take_refused() {
                self.on_unreachable(now, note);
            }
        }
        self.absorb_board(ports);
        self.tend_checkpoints(now, ports);
        self.tend_admission(now);
        self.judge_fitness();
        self.hold_elections(now);
        self.tend_moves(now);
        for at in 0..self.replicas.len() {
            self.coordinate(at, now, |coordinator, env| coordinator.on_tick(env));
        }
        self.handle_pending(now, ports);
    }

    /// Second half, after the driver has submitted: proposes, learns what is chosen, releases what is
    /// stable, and tells the other nodes. `now` may be later than that of the turn's beginning, and must
    /// not be earlier.
    pub fn end_turn(&mut self, now: Timestamp, ports: &mut Ports<'_>) {
        self.handle_pending(now, ports);
        self.publish_wants(ports);
        for at in 0..self.replicas.len() {
            let wanted = ports.board.wanted(self.replicas[at].shard);
            self.replicas[at].propose(now, wanted);
            self.replicas[at].end_turn(now);
            self.run_stream(at, now, ports, &mut Asker::Nobody);
        }
        self.report_yields(now);
        self.raise_own_shards(ports);
        self.settle(now);
        self.handle_pending(now, ports);
        if now >= self.housekeeping_at {
            self.housekeeping_at = now.plus_ns(HOUSEKEEPING_NS);
            self.keep_house(now, ports);
        }
        self.conclude_reads(now, ports);
        self.exchange_if_due(now, ports);
        self.led.clear();
        let open = self.replicas.iter().filter(|replica| replica.open);
        self.led.extend(open.map(|replica| replica.id));
    }

    /// The next reply for the driver.
    pub fn poll_reply(&mut self) -> Option<(u64, Reply, Option<P>)> {
        self.replies.pop_front()
    }

    /// Fills the next frame to be sent.
    pub fn poll_tx(&mut self, now: Timestamp, frame: &mut Vec<u8>) -> Option<Endpoint> {
        self.post.rpc.poll_tx(now, frame)
    }

    pub fn take_parcel(&mut self, core: CoreId) -> Option<Parcel> {
        self.post.take_parcel(core)
    }

    pub fn put_parcel_back(&mut self, core: CoreId, parcel: Parcel) {
        self.post.put_back(core, parcel);
    }

    /// When the core next wants a turn though nothing arrives.
    pub fn deadline(&self) -> Option<Timestamp> {
        if !self.started {
            return Some(Timestamp::default());
        }
        let replicas = self.replicas.iter().filter_map(Replica::deadline);
        let coordinators = self.replicas.iter().filter_map(|replica| replica.coordinator.deadline());
        let housekeeping = self.housekeeping_at.plus_ns(HOUSEKEEPING_IDLE_NS - HOUSEKEEPING_NS);
        let others = [
            self.post.rpc.deadline(),
            self.exchange_deadline(),
            self.checkpoints.deadline(),
            self.greeting_deadline(),
            Some(housekeeping),
        ];
        let elections = self.chairs.iter().filter_map(Chair::deadline);
        replicas.chain(coordinators).chain(elections).chain(others.into_iter().flatten()).min()
    }

    /// Whether sibling cores may have something to do because of what happened since this was last asked.
    pub fn take_wakes_siblings(&mut self) -> bool {
        std::mem::take(&mut self.wake_siblings)
    }

    pub fn stats(&self) -> CoreStats {
        self.stats
    }

    pub fn endpoint(&self) -> Endpoint {
        self.me
    }

    pub fn replicas(&self) -> &[Replica<P>] {
        &self.replicas
    }

    /// Under which ballot this core's node leads a shard, if this core is the one to know and it does, by its lights.
    pub fn leads_under(&self, shard: ShardId) -> Option<Ballot> {
        let chair = self.chairs.iter().find(|chair| chair.shard == shard)?;
        chair.election.leader().filter(|ballot| ballot.node == self.me.node)
    }

    /// Partitions whose transactions this core takes.
    pub fn led(&self) -> &[PartitionId] {
        &self.led
    }

    pub(super) fn hosted(&self) -> &[PartitionId] {
        &self.hosted
    }

    pub(super) fn snapshot(&self) -> Timestamp {
        self.knowledge.vector().snapshot().map(|(timestamp, _)| timestamp).unwrap_or_default()
    }

    /// Everything at or below it is applied in every partition here.
    pub fn applied(&self) -> Timestamp {
        let applied = self.replicas.iter().map(|replica| replica.applied().timestamp);
        applied.min().unwrap_or(Timestamp(u64::MAX))
    }

    /// The newest reign that each replica here has heard of.
    pub fn reigns(&self) -> impl Iterator<Item = Ballot> + '_ {
        self.replicas.iter().map(|replica| replica.stream.promised())
    }

    /// Whether a replica here does not vote yet: its peers do not know it, or it has forgotten something.
    pub fn is_forgetful(&self) -> bool {
        self.replicas.iter().any(Replica::is_forgetful)
    }

    pub fn knowledge(&self) -> &Knowledge {
        &self.knowledge
    }

    /// Before it sends or hears anything; see [`Rpc::set_keys`].
    pub fn set_keys(&mut self, keys: Keyring, seed: u64) {
        self.post.rpc.set_keys(keys, seed);
    }

    /// Before it sends or hears anything; see [`Rpc::set_paced`].
    pub fn set_paced(&mut self, is_paced: bool) {
        self.post.rpc.set_paced(is_paced);
    }

    /// Tells all peers that this core stops; nothing else leaves afterwards.
    pub fn leave(&mut self) {
        self.post.rpc.leave();
    }

    pub fn rpc(&self) -> &Rpc {
        &self.post.rpc
    }

    // Inside.

    pub(super) fn place(&self, partition: PartitionId) -> Option<usize> {
        self.places.get(usize::from(partition.0)).copied().flatten()
    }

    pub(super) fn stats_mut(&mut self) -> &mut CoreStats {
        &mut self.stats
    }

    /// Once, before anything else; a sibling may be earlier than our first turn. The elections begin.
    fn begin(&mut self, now: Timestamp, ports: &Ports<'_>) {
        if std::mem::replace(&mut self.started, true) {
            return;
        }
        self.share_facts();
        for at in 0..self.replicas.len() {
            if self.config.partitions_of(self.replicas[at].shard).next() == Some(self.replicas[at].id) {
                let chair = self.seat_chair(at, now);
                self.chairs.push(chair);
            }
        }
        self.tell_admitted(now);
        self.tell_restored(now, ports);
    }

    fn on_event(&mut self, now: Timestamp, event: rpc::Event, ports: &mut Ports<'_>) {
        match event {
            rpc::Event::Request { id, from, message } => {
                self.deliver(now, Asker::Session(id), from.node, message, ports);
            }
            rpc::Event::Response { tag, from, message } => {
                let note = self.post.take_note(tag);
                if message.is_empty() {
                    return self.on_acknowledged(now, note, message);
                }
                self.deliver(now, Asker::Nobody, from.node, message, ports);
            }
            rpc::Event::Cast { from, message } => {
                self.deliver(now, Asker::Nobody, from.node, message, ports);
            }
            rpc::Event::Failed { tag, .. } => {
                if let Some(note) = self.post.take_note(tag) {
                    self.on_unreachable(now, note);
                }
            }
            // Its calls fail one by one, and who leads is for elections to find out.
            rpc::Event::Peer { .. } => {}
        }
    }

    /// A message has arrived, and there was nothing to say to it. Whoever waits for more waits in vain: a
    /// peer that does not understand the question is as good as none.
    fn on_acknowledged(&mut self, now: Timestamp, note: Option<Note>, empty: Vec<u8>) {
        self.post.rpc.recycle(empty);
        if let Some(note) = note
            && matches!(note.ticket, Ticket::Run { .. } | Ticket::Prepare { .. })
        {
            self.on_unreachable(now, note);
        }
    }

    fn on_unreachable(&mut self, now: Timestamp, note: Note) {
        if let Some(at) = self.place(note.home) {
            self.coordinate(at, now, |coordinator, env| {
                coordinator.on_unreachable(env, note.ticket, note.to)
            });
        }
    }

    /// Gives a replica's coordinator an event, and carries out what it asks for.
    pub(super) fn coordinate(
        &mut self,
        at: usize,
        now: Timestamp,
        event: impl FnOnce(&mut Coordinator<P>, &mut Env<'_, P, Knowledge>),
    ) {
        let replica = &mut self.replicas[at];
        let mut env = Env {
            now,
            config: &self.config,
            store: &replica.store,
            known: &self.knowledge,
            prng: &mut self.prng,
            out: &mut self.effects,
        };
        event(&mut replica.coordinator, &mut env);
        if self.effects.is_empty() {
            return;
        }
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            self.carry_out(at, now, effect);
        }
        effects.append(&mut self.effects);
        self.effects = effects;
        self.replicas[at].close_full_batch(now);
    }

    fn carry_out(&mut self, at: usize, now: Timestamp, effect: Effect<P>) {
        match effect {
            Effect::Ask { to, nearest, ticket, message } => {
                let shard = self.config.shard_of(to);
                let leader = self.leader_of(shard);
                let here = self.config.endpoint_of(self.me.node, to).filter(|_| nearest);
                let Some(endpoint) = here.or_else(|| self.config.endpoint_of(leader, to)) else { return };
                let note = Some(Note { home: self.replicas[at].id, to, ticket });
                self.post.send(now, Lsn::default(), Outgoing::Call { to: endpoint, note, message });
            }
            Effect::Reply { token, reply, procedure } => self.replies.push_back((token, reply, procedure)),
            Effect::Park { behind, number, since } => {
                let waiter = Waiter { since, what: Waiting::Attempt { number } };
                self.park(at, now, behind, waiter);
            }
            Effect::Unlocked { holder } => self.unlocked.push_back((at, holder)),
            Effect::Retried => self.stats.conflicts += 1,
        }
    }

    /// Parks behind a transaction's locks; whoever finds no room is answered at once.
    pub(super) fn park(&mut self, at: usize, now: Timestamp, behind: TxnId, waiter: Waiter<P>) {
        self.stats.parked += 1;
        if let Err(waiter) = self.replicas[at].parked.park(behind, waiter) {
            self.turn_away(at, now, waiter, Some(BusyWith::Parked));
        }
    }

    /// Answers a waiter that has waited too long, or (`busy`) may not wait at all.
    fn turn_away(&mut self, at: usize, now: Timestamp, waiter: Waiter<P>, busy: Option<BusyWith>) {
        match waiter.what {
            Waiting::Local { token, procedure, attempts } => {
                let attempts = attempts + 1;
                let abort = busy.map_or(Abort::Conflict { attempts }, Abort::Busy);
                let reply = Reply::Aborted { abort, attempts };
                self.replies.push_back((token, reply, Some(procedure)));
            }
            Waiting::Attempt { number } => {
                self.coordinate(at, now, |coordinator, env| coordinator.give_up(env, number, busy));
            }
            Waiting::Request { asker, message } => self.refuse_parked(now, asker, &message),
        }
    }

    /// Notes that a transaction's locks are gone; its waiters are handled before the turn ends.
    pub(super) fn unlock(&mut self, at: usize, holder: TxnId) {
        self.unlocked.push_back((at, holder));
    }

    /// Messages to ourselves and waiters whose locks are gone, until there are none, or as many as one
    /// turn may take.
    fn handle_pending(&mut self, now: Timestamp, ports: &mut Ports<'_>) {
        for _ in 0..PENDING_PER_TURN {
            if let Some((at, holder)) = self.unlocked.pop_front() {
                for waiter in self.replicas[at].parked.take(holder) {
                    self.wake(at, now, waiter);
                }
            } else if let Some(duty) = self.post.take_duty() {
                self.on_duty(now, duty, ports);
            } else if let Some((asker, message)) = self.post.take_here() {
                self.deliver(now, asker, self.me.node, message, ports);
            } else {
                return;
            }
        }
    }

    fn wake(&mut self, at: usize, now: Timestamp, waiter: Waiter<P>) {
        let since = waiter.since;
        match waiter.what {
            Waiting::Local { token, procedure, attempts } => {
                self.run_local(at, now, token, procedure, attempts, since);
            }
            Waiting::Attempt { number } => {
                self.coordinate(at, now, |coordinator, env| coordinator.resume(env, number));
            }
            Waiting::Request { asker, message } => self.deliver_parked(now, asker, message, since),
        }
    }

    /// Runs a transaction that needs, as far as is known, only its home partition.
    fn run_local(
        &mut self,
        at: usize,
        now: Timestamp,
        token: u64,
        procedure: P,
        attempts: u32,
        since: Timestamp,
    ) {
        let replica = &mut self.replicas[at];
        if !replica.open {
            let reply = Reply::Aborted { abort: Abort::Unavailable, attempts: attempts + 1 };
            return self.replies.push_back((token, reply, Some(procedure)));
        }
        match run_local(&replica.local, &procedure) {
            LocalEnd::Done => {
                let epoch = replica.epoch();
                let id = TxnId { home: replica.id, epoch, number: replica.coordinator.number() };
                if let Some(read) = take_read(&replica.local, now, id, token) {
                    let timestamp = read.timestamp;
                    replica.reads.push(read);
                    self.stats.committed_local += 1;
                    let reply = Reply::Speculative { timestamp, distributed: false, attempts: attempts + 1 };
                    return self.replies.push_back((token, reply, Some(procedure)));
                }
                let done = match commit_local(&replica.local, now, id, token, &self.knowledge) {
                    Ok(done) => done,
                    Err(abort) => {
                        let reply = Reply::Aborted { abort, attempts: attempts + 1 };
                        return self.replies.push_back((token, reply, Some(procedure)));
                    }
                };
                replica.close_full_batch(now);
                self.stats.committed_local += 1;
                let timestamp = done.timestamp;
                let reply = Reply::Speculative { timestamp, distributed: false, attempts: attempts + 1 };
                self.replies.push_back((token, reply, Some(procedure)));
                if done.stable {
                    self.replies.push_back((token, Reply::Durable { timestamp }, None));
                }
            }
            LocalEnd::Aborted(abort) => {
                let reply = Reply::Aborted { abort, attempts: attempts + 1 };
                self.replies.push_back((token, reply, Some(procedure)));
            }
            LocalEnd::Remote => {
                if replica.coordinator.has_room() {
                    self.coordinate(at, now, |coordinator, env| {
                        coordinator.start(env, token, procedure, None, attempts);
                    });
                } else {
                    let reply =
                        Reply::Aborted { abort: Abort::Busy(BusyWith::Coordinated), attempts: attempts + 1 };
                    self.replies.push_back((token, reply, Some(procedure)));
                }
            }
            LocalEnd::Locked(holder) => {
                let what = Waiting::Local { token, procedure, attempts };
                self.park(at, now, holder, Waiter { since, what });
            }
        }
    }

    pub(super) fn submit(
        &mut self,
        now: Timestamp,
        room: usize,
        home: PartitionId,
        mode: Mode,
        token: u64,
        procedure: P,
    ) -> Result<(), P> {
        let Some(at) = self.place(home) else { return Err(procedure) };
        let replica = &self.replicas[at];
        match mode {
            Mode::ReadWrite => {
                if !replica.open || !replica.has_room(now) || room < BATCH_BYTES_MAX {
                    self.stats.busy += 1;
                    return Err(procedure);
                }
                self.run_local(at, now, token, procedure, 0, now);
            }
            Mode::Snapshot => {
                let Some(snapshot) = self.snapshot_token() else { return Err(procedure) };
                if !replica.coordinator.has_room() {
                    self.stats.busy += 1;
                    return Err(procedure);
                }
                self.coordinate(at, now, |coordinator, env| {
                    coordinator.start(env, token, procedure, Some(snapshot), 0);
                });
            }
        }
        Ok(())
    }

    fn snapshot_token(&self) -> Option<Token> {
        let (timestamp, epochs) = self.knowledge.vector().snapshot()?;
        Some(Token { timestamp, epochs: epochs.into_iter().collect() })
    }

    /// Answers the reads made in this turn, now that it is known how late it has become.
    fn conclude_reads(&mut self, now: Timestamp, ports: &Ports<'_>) {
        for chair in &self.chairs {
            ports.board.publish_lease(chair.shard, chair.election.lease_until());
            ports.board.publish_leader(chair.shard, chair.election.leader());
        }
        for replica in &mut self.replicas {
            if replica.reads.is_empty() {
                continue;
            }
            let leased = now < ports.board.lease(replica.shard);
            let store = &mut *replica.store.borrow_mut();
            for read in replica.reads.drain(..) {
                let token = read.token;
                if let Some(reply) = conclude_read(store, now, read, leased, &self.knowledge) {
                    self.replies.push_back((token, reply, None));
                }
            }
        }
    }

    /// Carries out what a replica's stream asked for.
    pub(super) fn run_stream(&mut self, at: usize, now: Timestamp, ports: &mut Ports<'_>, asker: &mut Asker) {
        let Core { replicas, knowledge, post, handed, .. } = self;
        let replica = &mut replicas[at];
        if replica.run_stream(now, knowledge, ports.log, post, handed, asker) {
            self.wake_siblings = true;
            ports.board.publish_partition(replica.id, replica.mark(), replica.proposed());
        }
        self.take_news(at, now);
    }

    /// A shard's watermark is of a later epoch than before.
    pub(super) fn note_new_reign(&mut self, shard: ShardId) {
        self.new_reigns.push(shard);
    }

    /// Releases, and rolls back, what the news about watermarks has settled.
    fn settle(&mut self, now: Timestamp) {
        while let Some(shard) = self.new_reigns.pop() {
            self.end_reign(now, shard);
        }
        self.settle_risen();
        self.serve_waiting(now);
        self.settle_risen();
    }

    pub(super) fn settle_risen(&mut self) {
        let mut risen = std::mem::take(&mut self.risen);
        for shard in risen.drain(..) {
            let Watermark { epoch, timestamp: upto } = self.knowledge.vector().get(shard);
            let stamp = Stamp { shard, epoch };
            for at in 0..self.replicas.len() {
                let replica = &mut self.replicas[at];
                let store = &mut *replica.store.borrow_mut();
                store.window.on_watermark(stamp, upto, &self.knowledge, &mut self.settled);
                replica.replay.on_watermark(stamp, upto, store, &self.knowledge);
            }
            self.reply_settled();
        }
        self.risen = risen;
    }

    /// A closed epoch became known: everything unstable is looked at once, and what its coordinators
    /// left prepared is asked about (DESIGN §5, step 5).
    pub(super) fn sweep(&mut self, now: Timestamp) {
        for at in 0..self.replicas.len() {
            // Others know before our own streams do that our reign is over.
            let stamp = self.replicas[at].store.borrow().stamp();
            if self.replicas[at].open && self.knowledge.is_closed(stamp) {
                self.stop_leading(at, now);
            }
            let replica = &mut self.replicas[at];
            let mut store = replica.store.borrow_mut();
            store.window.sweep(&self.knowledge, &mut self.settled);
            self.settled.iter().for_each(|one| store.roll_back(one));
            replica.replay.sweep(&mut store, &self.knowledge);
            store.window.stamps().forget(|stamp| self.knowledge.is_closed(stamp));
            replica.replay.stamps().forget(|stamp| self.knowledge.is_closed(stamp));
            let orphans = store.prepared().orphans(&self.knowledge);
            drop(store);
            self.reply_settled();
            for txn in orphans {
                self.inquire(at, now, txn);
            }
        }
    }

    fn reply_settled(&mut self) {
        for settled in self.settled.drain(..) {
            let (token, reply) = match settled {
                Settled::Released { token, timestamp } => (token, Reply::Durable { timestamp }),
                Settled::Lost { token, .. } => {
                    self.stats.rolled_back += 1;
                    (token, Reply::RolledBack)
                }
            };
            if let Some(token) = token {
                self.replies.push_back((token, reply, None));
            }
        }
    }

    /// What need not be done every turn.
    fn keep_house(&mut self, now: Timestamp, ports: &mut Ports<'_>) {
        let snapshot = self.knowledge.vector().snapshot().map(|(timestamp, _)| timestamp);
        for at in 0..self.replicas.len() {
            for waiter in self.replicas[at].parked.take_overdue(now) {
                self.turn_away(at, now, waiter, None);
            }
            if let Some(snapshot) = snapshot {
                // A replica that lags would drop the base of versions it has yet to replay, and forget a
                // deletion that is above one of them.
                let replica = &self.replicas[at];
                let settled = replica.unsettled().map_or(snapshot, Timestamp::prev);
                let floor = snapshot.min(replica.applied().timestamp).min(settled);
                replica.store.borrow_mut().prune(floor);
            }
            self.inquire_overdue(at, now);
        }
        self.handle_pending(now, ports);
    }
}

/// Tells clusters apart on one network; not a secret.
pub fn cluster_hash(name: &str) -> u64 {
    crate::txn::hash_key(crate::types::TableId(0), name.as_bytes())
}

/// Bounds of one turn, so that one busy neighbour cannot keep the rest of the turn waiting.
const EVENTS_PER_TURN: usize = 1_024;
const PENDING_PER_TURN: usize = 4_096;
/// Pruning, overdue waiters and undecided transactions are looked at this often by a core that has turns,
/// and for their sake alone only so often: an idle core is to sleep, and none of them waits for less than
/// a second.
const HOUSEKEEPING_NS: u64 = crate::bounds::MS;
const HOUSEKEEPING_IDLE_NS: u64 = 100 * crate::bounds::MS;
const _: () = assert!(HOUSEKEEPING_NS < HOUSEKEEPING_IDLE_NS);
const _: () = assert!(HOUSEKEEPING_IDLE_NS <= crate::bounds::PREPARE_TIMEOUT_NS / 10);
