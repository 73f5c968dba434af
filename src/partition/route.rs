//! What a message does: each kind, its checks, and its answer.
//!
//! Every request gets exactly one answer, so that its session slot is freed and nobody waits for a
//! timeout: a refusal is an answer too. Whoever asks in another epoch than ours is refused before
//! anything is looked at.
#![forbid(unsafe_code)]

use super::admission::Introduction;
use super::core::Core;
use super::parked::{Waiter, Waiting};
use super::ports::Ports;
use super::post::{Asker, Note, Outgoing};
use crate::bounds::{PARK_NS_MAX, PARKED_MAX, PREPARE_TIMEOUT_NS, SNAPSHOT_WAIT_NS_MAX};
use crate::config::Config;
use crate::paxos::Ignored;
use crate::rules::{self, Rule};
use crate::txn::{Abort, Commit, Known, PrepareRequest, Procedure, Rows, Span, Ticket, too_far_ahead};
use crate::types::{Epoch, Lsn, NodeId, PartitionId, Timestamp, TxnId, Value, Watermark};
use crate::wire::{BatchView, Deps, Message, Refusal, Row, StreamMessage, Token, Verdict, WriteRef};
use smallvec::SmallVec;

/// Whom an answer goes to, and what it answers.
#[derive(Clone, Copy)]
struct Call {
    now: Timestamp,
    asker: Asker,
    partition: PartitionId,
    txn: TxnId,
}

impl<P: Procedure> Core<P> {
    /// One whole message. `from` is the node it came from, as the session knows it.
    pub(super) fn deliver(
        &mut self,
        now: Timestamp,
        asker: Asker,
        from: NodeId,
        message: Vec<u8>,
        ports: &mut Ports<'_>,
    ) {
        match Message::decode(&message) {
            Ok(decoded) if plausible(&self.config, from, &decoded) => {
                self.dispatch(now, asker, decoded, &message, ports);
            }
            Ok(_) | Err(_) => {
                self.stats_mut().malformed += 1;
                self.acknowledge(now, asker);
            }
        }
        self.post.rpc.recycle(message);
    }

    /// A request that had waited behind a lock since `since`; a second wait counts from there.
    pub(super) fn deliver_parked(
        &mut self,
        now: Timestamp,
        asker: Asker,
        message: Vec<u8>,
        since: Timestamp,
    ) {
        match Message::decode(&message) {
            Ok(request) if now.since(since) <= PARK_NS_MAX => {
                self.on_request(now, asker, since, request, &message);
            }
            _ => self.refuse_parked(now, asker, &message),
        }
        self.post.rpc.recycle(message);
    }

    /// A parked read that gets no answer to its question.
    pub(super) fn refuse_parked(&mut self, now: Timestamp, asker: Asker, message: &[u8]) {
        match Message::decode(message) {
            Ok(Message::Read { partition, txn, .. } | Message::Scan { partition, txn, .. }) => {
                self.refuse(Call { now, asker, partition, txn }, Refusal::Locked);
            }
            _ => self.acknowledge(now, asker),
        }
    }

    fn dispatch(
        &mut self,
        now: Timestamp,
        asker: Asker,
        message: Message<'_>,
        bytes: &[u8],
        ports: &mut Ports<'_>,
    ) {
        match message {
            Message::Stream { partition, from: sender, message } => {
                self.on_stream(now, asker, partition, sender, message, ports);
            }
            Message::Exchange { vector, wanted, closed } => {
                self.on_exchange(now, &vector, &wanted, &closed, ports);
                self.acknowledge(now, asker);
            }
            Message::SnapshotRead { partition, txn, ref token, .. }
            | Message::SnapshotScan { partition, txn, ref token, .. } => {
                let call = Call { now, asker, partition, txn };
                self.on_snapshot(call, token, &message, bytes, now);
            }
            Message::Read { .. }
            | Message::Scan { .. }
            | Message::Prepare { .. }
            | Message::Commit { .. }
            | Message::Abort { .. }
            | Message::Inquire { .. } => self.on_request(now, asker, now, message, bytes),
            Message::Election { shard, from, message } => {
                self.acknowledge(now, asker);
                self.on_election(now, shard, from, message);
            }
            Message::CheckpointFetch { partition, checkpoint, offset, .. } => {
                self.on_checkpoint_fetch(now, asker, partition, (checkpoint, offset), ports);
            }
            Message::CheckpointPart { partition, from, checkpoint, offset, total, bytes } => {
                self.acknowledge(now, asker);
                let part = (offset, total, bytes);
                self.on_checkpoint_part(now, (partition, from), checkpoint, part, ports);
            }
            Message::CheckpointPending { partition, from } => {
                self.acknowledge(now, asker);
                self.on_checkpoint_pending(now, partition, from);
            }
            Message::Greet { partition, from, disk, rebuilds } => {
                self.acknowledge(now, asker);
                self.on_greet(now, Introduction { partition, from, disk, rebuilds }, ports);
            }
            Message::Greeted { partition, from, disk, rebuilds, to, welcome } => {
                self.acknowledge(now, asker);
                self.on_greeted(Introduction { partition, from, disk, rebuilds }, (to, welcome), ports);
            }
            reply => {
                self.acknowledge(now, asker);
                self.on_reply(now, reply);
            }
        }
    }

    // Streams.

    fn on_stream(
        &mut self,
        now: Timestamp,
        mut asker: Asker,
        partition: PartitionId,
        from: NodeId,
        message: StreamMessage,
        ports: &mut Ports<'_>,
    ) {
        let Some(at) = self.place(partition).filter(|_| batches_parse(&message)) else {
            self.stats_mut().malformed += 1;
            return self.acknowledge(now, asker);
        };
        if !self.replicas[at].entry.is_admitted() {
            self.stats_mut().stream_ignored += 1;
            return self.acknowledge(now, asker);
        }
        if !self.lets_through(now, partition, &message) {
            self.stats_mut().stream_ignored += 1;
            return self.acknowledge(now, asker);
        }
        let leads = is_of_leader(&message);
        if let Err(ignored) = self.replicas[at].on_stream(from, message) {
            self.stats_mut().stream_ignored += 1;
            if ignored == Ignored::Truncated {
                self.give_way(now, at, from);
            }
        }
        if leads {
            self.note_leader(now, partition, from);
        }
        self.run_stream(at, now, ports, &mut asker);
        // Nothing was answered, or not to the caller: it is told that its message has arrived.
        self.acknowledge(now, asker);
    }

    // Requests of a coordinator, and of a participant left waiting.

    /// It has been here, perhaps parked, `since` then.
    fn on_request(
        &mut self,
        now: Timestamp,
        asker: Asker,
        since: Timestamp,
        message: Message<'_>,
        bytes: &[u8],
    ) {
        match message {
            Message::Read { partition, epoch, txn, table, key } => {
                let call = Call { now, asker, partition, txn };
                let Some(at) = self.serve_in(call, epoch) else { return };
                self.read(call, at, since, table, key, bytes);
            }
            Message::Scan { partition, epoch, txn, range } => {
                let call = Call { now, asker, partition, txn };
                let Some(at) = self.serve_in(call, epoch) else { return };
                self.scan(call, at, since, &range, bytes);
            }
            Message::Prepare { partition, epoch, txn, hold_ns, deps, reads, scans, writes } => {
                let call = Call { now, asker, partition, txn };
                let Some(at) = self.leading(call) else { return };
                let home = self.config.shard_of(txn.home);
                let (reads, scans, writes) = (&reads[..], &scans[..], &writes[..]);
                let request = PrepareRequest { txn, epoch, home, hold_ns, deps: &deps, reads, scans, writes };
                let replica = &self.replicas[at];
                let vote = match replica.has_room(now) {
                    true => replica.store.borrow_mut().prepare(now, &request, &self.knowledge),
                    false => Err(Refusal::Busy),
                };
                match vote {
                    Ok(proposal) => {
                        let epoch = replica.epoch();
                        self.answer(call, &Message::Vote { partition, epoch, txn, proposal });
                    }
                    Err(why) => self.refuse(call, why),
                }
            }
            Message::Commit { partition, epoch, txn, timestamp, deps, participants } => {
                let call = Call { now, asker, partition, txn };
                let Some(at) = self.serve_in(call, epoch) else { return };
                match self.commit(call, at, timestamp, &deps, &participants) {
                    true => self.done(call, at),
                    false => self.refuse(call, Refusal::Busy),
                }
            }
            Message::Abort { partition, epoch, txn } => {
                let call = Call { now, asker, partition, txn };
                let Some(at) = self.serve_in(call, epoch) else { return };
                if self.replicas[at].store.borrow_mut().abort(txn) {
                    self.unlock(at, txn);
                }
                self.done(call, at);
            }
            Message::Inquire { partition, txn, .. } => {
                let call = Call { now, asker, partition, txn };
                let Some(at) = self.leading(call) else { return };
                let replica = &self.replicas[at];
                let verdict = match txn.epoch == replica.epoch() {
                    true => replica.coordinator.verdict(txn),
                    // Decided, if at all, by a leader before us: what survived of that is in the log.
                    false => {
                        let recovered = replica.store.borrow().recovered(txn, &self.knowledge);
                        recovered.unwrap_or(Verdict::Aborted)
                    }
                };
                self.answer(call, &Message::Decision { partition, txn, verdict });
            }
            _ => self.acknowledge(now, asker),
        }
    }

    fn read(
        &mut self,
        call: Call,
        at: usize,
        since: Timestamp,
        table: crate::types::TableId,
        key: &[u8],
        bytes: &[u8],
    ) {
        let Call { partition, txn, .. } = call;
        let store = self.replicas[at].store.borrow();
        if store.check_key(table, key).is_err() {
            drop(store);
            return self.refuse(call, Refusal::UnknownTable);
        }
        match store.read(table, key) {
            Ok(seen) => {
                let mut deps = Deps::default();
                let inherited = store.inherit(seen.writer, &mut deps);
                let epoch = store.epoch;
                drop(store);
                if inherited.is_err() {
                    return self.refuse(call, Refusal::Busy);
                }
                let (version, value) = (seen.version, seen.value.as_deref());
                let reply = Message::ReadReply { partition, epoch, txn, version, deps, value, table, key };
                self.answer(call, &reply);
            }
            Err(holder) => {
                drop(store);
                self.park_request(call, at, since, holder, bytes);
            }
        }
    }

    fn scan(
        &mut self,
        call: Call,
        at: usize,
        since: Timestamp,
        range: &crate::wire::ScanRange<'_>,
        bytes: &[u8],
    ) {
        let store = self.replicas[at].store.borrow();
        if store.check_table(range.table).is_err() {
            drop(store);
            return self.refuse(call, Refusal::UnknownTable);
        }
        let mut deps = Deps::default();
        let mut rows = Vec::new();
        let row = &mut |key: &[u8], version: Timestamp, value: &Value| {
            rows.push((key.to_vec(), version, value.clone()))
        };
        let scanned = store.scan(Span::from(range), true, &mut deps, row);
        let epoch = store.epoch;
        drop(store);
        match scanned {
            Ok(Ok(visited)) => {
                let (partition, txn, digest, complete) =
                    (call.partition, call.txn, visited.digest, visited.complete);
                let rows =
                    rows.iter().map(|(key, version, value)| Row { key, version: *version, value }).collect();
                let request = range.request;
                let reply =
                    Message::ScanReply { partition, epoch, txn, digest, deps, rows, complete, request };
                self.answer(call, &reply);
            }
            Ok(Err(Abort::Busy(_))) => self.refuse(call, Refusal::Busy),
            Ok(Err(_)) => self.refuse(call, Refusal::TooBig),
            Err(holder) => self.park_request(call, at, since, holder, bytes),
        }
    }

    fn park_request(&mut self, call: Call, at: usize, since: Timestamp, holder: TxnId, bytes: &[u8]) {
        let what = Waiting::Request { asker: call.asker, message: bytes.to_vec() };
        self.park(at, call.now, holder, Waiter { since, what });
    }

    /// False when it is not to be believed: it stays prepared, and its coordinator is asked in time.
    fn commit(
        &mut self,
        call: Call,
        at: usize,
        timestamp: Timestamp,
        deps: &Deps,
        participants: &SmallVec<[PartitionId; 4]>,
    ) -> bool {
        let proposal = self.replicas[at].store.borrow().prepared().proposal(call.txn);
        if proposal.is_some_and(|proposal| timestamp < proposal) {
            self.stats_mut().malformed += 1;
            return false;
        }
        if too_far_ahead(call.now, timestamp) {
            self.stats_mut().ahead += 1;
            return false;
        }
        let commit = Commit { txn: call.txn, timestamp, deps, participants };
        let done = self.replicas[at].store.borrow_mut().commit(call.now, &commit, None, &self.knowledge);
        if done.was_prepared {
            self.replicas[at].close_full_batch(call.now);
            self.unlock(at, call.txn);
        }
        true
    }

    // Replies.

    fn on_reply(&mut self, now: Timestamp, reply: Message<'_>) {
        let txn = match &reply {
            Message::ReadReply { txn, .. }
            | Message::ScanReply { txn, .. }
            | Message::Vote { txn, .. }
            | Message::Refused { txn, .. }
            | Message::Done { txn, .. } => *txn,
            Message::Decision { txn, verdict, .. } => return self.on_decision(now, *txn, verdict),
            _ => return,
        };
        let Some(at) = self.place(txn.home) else { return };
        match reply {
            Message::ReadReply { version, deps, value, table, key, .. } => {
                let value = value.map(Value::new);
                self.coordinate(at, now, |coordinator, env| {
                    coordinator.on_answer(env, txn, |run| run.on_read(table, key, version, value, &deps));
                });
            }
            Message::ScanReply { digest, deps, rows, complete, request, .. } => {
                let rows = Rows::copied(rows.iter().map(|row| (row.key, row.value)));
                self.coordinate(at, now, |coordinator, env| {
                    coordinator.on_answer(env, txn, |run| {
                        run.on_scan(request, digest, rows, complete, &deps);
                    });
                });
            }
            Message::Vote { partition, epoch, proposal, .. } => {
                self.coordinate(at, now, |coordinator, env| {
                    coordinator.on_vote(env, txn, partition, epoch, proposal);
                });
            }
            Message::Refused { partition, reason, .. } => {
                self.coordinate(at, now, |coordinator, env| {
                    coordinator.on_refused(env, txn, partition, reason);
                });
            }
            Message::Done { partition, .. } => self.replicas[at].coordinator.on_done(txn, partition),
            _ => {}
        }
    }

    /// What a coordinator said of a transaction left prepared: whoever holds it here acts on it.
    fn on_decision(&mut self, now: Timestamp, txn: TxnId, verdict: &Verdict) {
        for at in 0..self.replicas.len() {
            // At home it is the coordinator that decides, and nobody tells it how.
            let home = self.replicas[at].id == txn.home;
            if home || !self.replicas[at].store.borrow().prepared().contains(txn) {
                continue;
            }
            let call = Call { now, asker: Asker::Nobody, partition: self.replicas[at].id, txn };
            match verdict {
                Verdict::Pending => {}
                Verdict::Aborted => {
                    self.replicas[at].store.borrow_mut().abort(txn);
                    self.unlock(at, txn);
                }
                Verdict::Committed { timestamp, deps, participants } => {
                    if self.commit(call, at, *timestamp, deps, participants) {
                        self.report_done(call, at);
                    }
                }
            }
        }
    }

    /// Lets the coordinator forget a decision that it was asked for: its `Commit` may not have got here.
    fn report_done(&mut self, call: Call, at: usize) {
        let Call { now, partition, txn, .. } = call;
        let leader = self.leader_of(self.config.shard_of(txn.home));
        let Some(to) = self.config.endpoint_of(leader, txn.home) else { return };
        let mut message = Vec::with_capacity(64);
        Message::Done { partition, epoch: self.replicas[at].epoch(), txn }.encode_into(&mut message);
        self.post.send(now, Lsn::default(), Outgoing::Call { to, note: None, message });
    }

    /// Asks the coordinators of transactions that have been prepared here for too long.
    pub(super) fn inquire_overdue(&mut self, at: usize, now: Timestamp) {
        let mut overdue = Vec::new();
        self.replicas[at].store.borrow_mut().prepared_mut().overdue(now, PREPARE_TIMEOUT_NS, &mut overdue);
        for txn in overdue {
            self.inquire(at, now, txn);
        }
    }

    pub(super) fn inquire(&mut self, at: usize, now: Timestamp, txn: TxnId) {
        let shard = self.config.shard_of(txn.home);
        let leader = self.leader_of(shard);
        let Some(to) = self.config.endpoint_of(leader, txn.home) else { return };
        let epoch = self.knowledge.epoch(shard);
        let mut message = Vec::with_capacity(64);
        Message::Inquire { partition: txn.home, epoch, txn }.encode_into(&mut message);
        let note = Some(Note { home: self.replicas[at].id, to: txn.home, ticket: Ticket::None });
        self.post.send(now, Lsn::default(), Outgoing::Call { to, note, message });
    }

    // Snapshots.

    fn on_snapshot(
        &mut self,
        call: Call,
        token: &Token,
        message: &Message<'_>,
        bytes: &[u8],
        since: Timestamp,
    ) {
        let Some(at) = self.place(call.partition) else { return self.refuse(call, Refusal::NotLeader) };
        if too_far_ahead(call.now, token.timestamp) {
            self.stats_mut().ahead += 1;
            return self.refuse(call, Refusal::Busy);
        }
        if !self.can_serve(at, token) {
            let waiting = &mut self.replicas[at].waiting;
            if waiting.len() >= PARKED_MAX || call.now.since(since) > SNAPSHOT_WAIT_NS_MAX {
                return self.refuse(call, Refusal::Busy);
            }
            return waiting.push_back((since, call.asker, bytes.to_vec()));
        }
        match message {
            Message::SnapshotRead { table, key, .. } => {
                self.snapshot_read(call, at, token.timestamp, *table, key)
            }
            Message::SnapshotScan { range, .. } => self.snapshot_scan(call, at, token.timestamp, range),
            _ => self.acknowledge(call.now, call.asker),
        }
    }

    /// Whether everything at or below the token's timestamp is applied here, and everything above it
    /// that an earlier epoch lost is gone (DESIGN §3). What the token proves of watermarks is learned.
    fn can_serve(&mut self, at: usize, token: &Token) -> bool {
        for (shard, epoch) in &token.epochs {
            let known = self.knowledge.vector().get(*shard);
            if rules::on(Rule::EpochInSnapshot) && known.epoch < *epoch {
                return false;
            }
            if known.epoch == *epoch {
                self.learn(*shard, Watermark { epoch: *epoch, timestamp: token.timestamp });
            }
        }
        self.settle_risen();
        let replica = &self.replicas[at];
        let settled = replica.unsettled().is_none_or(|lowest| lowest > token.timestamp);
        replica.applied().timestamp >= token.timestamp && (settled || !rules::on(Rule::EpochInSnapshot))
    }

    fn snapshot_read(
        &mut self,
        call: Call,
        at: usize,
        when: Timestamp,
        table: crate::types::TableId,
        key: &[u8],
    ) {
        let Call { partition, txn, .. } = call;
        let store = self.replicas[at].store.borrow();
        let found = store.check_key(table, key).and_then(|()| store.read_at(table, key, when));
        let epoch = store.epoch;
        drop(store);
        match found {
            Ok(found) => {
                let version = found.as_ref().map(|version| version.timestamp).unwrap_or_default();
                let value = found.as_ref().and_then(|version| version.value.as_deref());
                let deps = Deps::default();
                let reply = Message::ReadReply { partition, epoch, txn, version, deps, value, table, key };
                self.answer(call, &reply);
            }
            Err(Abort::SnapshotTooOld { .. }) => self.refuse(call, Refusal::SnapshotTooOld),
            Err(_) => self.refuse(call, Refusal::UnknownTable),
        }
    }

    fn snapshot_scan(&mut self, call: Call, at: usize, when: Timestamp, range: &crate::wire::ScanRange<'_>) {
        let store = self.replicas[at].store.borrow();
        let mut rows = Vec::new();
        let row = &mut |key: &[u8], version: Timestamp, value: &Value| {
            rows.push((key.to_vec(), version, value.clone()))
        };
        let scanned =
            store.check_table(range.table).and_then(|()| store.scan_at(Span::from(range), when, row));
        let epoch = store.epoch;
        drop(store);
        match scanned {
            Ok(visited) => {
                let (partition, txn, digest, complete) =
                    (call.partition, call.txn, visited.digest, visited.complete);
                let rows =
                    rows.iter().map(|(key, version, value)| Row { key, version: *version, value }).collect();
                let (deps, request) = (Deps::default(), range.request);
                let reply =
                    Message::ScanReply { partition, epoch, txn, digest, deps, rows, complete, request };
                self.answer(call, &reply);
            }
            Err(Abort::SnapshotTooOld { .. }) => self.refuse(call, Refusal::SnapshotTooOld),
            Err(Abort::UnknownTable(_)) => self.refuse(call, Refusal::UnknownTable),
            Err(_) => self.refuse(call, Refusal::TooBig),
        }
    }

    /// Snapshot reads that waited for their timestamp to be applied: those that it is, or that have
    /// waited long enough.
    pub(super) fn serve_waiting(&mut self, now: Timestamp) {
        for at in 0..self.replicas.len() {
            for _ in 0..self.replicas[at].waiting.len() {
                let Some((since, asker, bytes)) = self.replicas[at].waiting.pop_front() else { break };
                if let Ok(message) = Message::decode(&bytes)
                    && let Message::SnapshotRead { partition, txn, ref token, .. }
                    | Message::SnapshotScan { partition, txn, ref token, .. } = message
                {
                    self.on_snapshot(Call { now, asker, partition, txn }, token, &message, &bytes, since);
                }
            }
        }
    }

    // Answers.

    /// The replica that serves a request of `epoch`, or a refusal.
    fn serve_in(&mut self, call: Call, epoch: Epoch) -> Option<usize> {
        let at = self.leading(call)?;
        if rules::on(Rule::ServeInEpoch) && self.replicas[at].epoch() != epoch {
            self.refuse(call, Refusal::WrongEpoch);
            return None;
        }
        Some(at)
    }

    /// The replica that leads the partition and is open, or a refusal.
    fn leading(&mut self, call: Call) -> Option<usize> {
        let at = self.place(call.partition).filter(|at| self.replicas[*at].open);
        if at.is_none() {
            self.refuse(call, Refusal::NotLeader);
        }
        at
    }

    fn refuse(&mut self, call: Call, reason: Refusal) {
        let Call { partition, txn, .. } = call;
        let epoch = self.place(partition).map(|at| self.replicas[at].epoch()).unwrap_or_default();
        self.answer(call, &Message::Refused { partition, epoch, txn, reason });
    }

    fn done(&mut self, call: Call, at: usize) {
        let (partition, epoch, txn) = (call.partition, self.replicas[at].epoch(), call.txn);
        self.answer(call, &Message::Done { partition, epoch, txn });
    }

    fn answer(&mut self, call: Call, message: &Message<'_>) {
        let mut bytes = Vec::with_capacity(128);
        message.encode_into(&mut bytes);
        self.post.send(call.now, Lsn::default(), Outgoing::Answer { to: call.asker, message: bytes });
    }

    /// Frees the caller's slot when there is nothing to say.
    pub(super) fn acknowledge(&mut self, now: Timestamp, asker: Asker) {
        if let Asker::Session(_) = asker {
            self.post.send(now, Lsn::default(), Outgoing::Answer { to: asker, message: Vec::new() });
        }
    }
}

/// Whether the message could be of this cluster and from who may send it: the coordinator's node of a
/// request, a replica's of an answer, the sender itself of a stream message. Decoding knows how many of
/// a thing there can be; here it matters how many there are.
fn plausible(config: &Config, from: NodeId, message: &Message<'_>) -> bool {
    let (partitions, shards) = (config.partition_count(), config.shards.len());
    let exists = |partition: PartitionId| usize::from(partition.0) < partitions;
    let hosts = |partition| config.replicas_of(partition).contains(&from);
    let ours = |deps: &Deps| deps.iter().all(|(stamp, _)| usize::from(stamp.shard.0) < shards);
    if !message.partition().is_none_or(exists) {
        return false;
    }
    match message {
        Message::Read { txn, .. } | Message::Scan { txn, .. } => exists(txn.home) && hosts(txn.home),
        Message::SnapshotRead { txn, token, .. } | Message::SnapshotScan { txn, token, .. } => {
            let known = token.epochs.iter().all(|(shard, _)| usize::from(shard.0) < shards);
            exists(txn.home) && hosts(txn.home) && known
        }
        // What a coordinator does at home it does not ask for. And a lock is given back once, however often
        // its key is named.
        Message::Prepare { partition, txn, deps, writes, .. } => {
            let elsewhere = exists(txn.home) && hosts(txn.home) && txn.home != *partition;
            elsewhere && ours(deps) && WriteRef::are_distinct(writes)
        }
        Message::Commit { partition, txn, deps, participants, .. } => {
            let elsewhere = exists(txn.home) && hosts(txn.home) && txn.home != *partition;
            elsewhere && ours(deps) && participants.iter().all(|partition| exists(*partition))
        }
        Message::Abort { partition, txn, .. } => {
            exists(txn.home) && hosts(txn.home) && txn.home != *partition
        }
        Message::Inquire { partition, txn, .. } => *partition == txn.home,
        Message::ReadReply { partition, deps, txn, .. } | Message::ScanReply { partition, deps, txn, .. } => {
            exists(txn.home) && hosts(*partition) && ours(deps)
        }
        Message::Vote { partition, txn, .. }
        | Message::Refused { partition, txn, .. }
        | Message::Done { partition, txn, .. } => exists(txn.home) && hosts(*partition),
        Message::Decision { partition, txn, verdict } => {
            let known = match verdict {
                Verdict::Committed { deps, participants, .. } => {
                    ours(deps) && participants.iter().all(|partition| exists(*partition))
                }
                Verdict::Pending | Verdict::Aborted => true,
            };
            *partition == txn.home && hosts(txn.home) && known
        }
        Message::Exchange { .. } => true,
        Message::Stream { from: sender, .. } => from == *sender,
        Message::CheckpointFetch { partition, from: sender, .. }
        | Message::CheckpointPart { partition, from: sender, .. }
        | Message::CheckpointPending { partition, from: sender }
        | Message::Greet { partition, from: sender, .. }
        | Message::Greeted { partition, from: sender, .. } => from == *sender && hosts(*partition),
        Message::Election { shard, from: sender, .. } => {
            let replicas = config.shards.get(usize::from(shard.0)).map(|shard| &shard.replicas);
            from == *sender && replicas.is_some_and(|replicas| replicas.contains(&from))
        }
    }
}

/// Whether only a leader says such a thing. A leader that has restarted asks about what it forgot, in the name
/// of nobody: were that a sign of life of its reign, its followers would wait for it for ever.
fn is_of_leader(message: &StreamMessage) -> bool {
    matches!(message, StreamMessage::Accept(_) | StreamMessage::Chosen(_) | StreamMessage::Fetched(_))
}

/// Whether every batch in a stream message is one: what is accepted must be replayed one day.
fn batches_parse(message: &StreamMessage) -> bool {
    let parses = |batch: &[u8]| BatchView::parse(batch).is_ok();
    match message {
        StreamMessage::Accept(accept) => parses(&accept.batch),
        StreamMessage::Promise(promise) => promise.entries.iter().all(|entry| parses(&entry.batch)),
        StreamMessage::Fetched(fetched) => fetched.entries.iter().all(|(_, batch)| parses(batch)),
        _ => true,
    }
}
