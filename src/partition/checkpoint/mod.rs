//! Checkpoints as a core takes, gives and receives them, and what of its log they let go (DESIGN §7).
//!
//! | file | is |
//! |---|---|
//! | here | of which partition and when; answers to peers; the end of a transfer; the cut of the log |
//! | `delivered` | from where a stream would have to be replayed |
//! | `logged` | which records of the log a partition needs |
//! | `taking` | one being made, a few rows at a time |
//! | `receiving` | one being received, a piece at a time |
//! | `loading` | the state out of one, and what is written into its header |
//!
//! Not here: the bytes (`wal::checkpoint`), the files (behind `ports`), when a replica is too far behind (`paxos`).
//!
//! Invariants:
//!   1. The newest checkpoint of a partition is never replaced by one that begins at a lower slot: the log
//!      between the two may be gone.
//!   2. The log is cut below the oldest record that any partition of the core needs behind its newest
//!      *committed* checkpoint.
//!   3. A replica that leads keeps its own state.
//!   4. Nothing is said that rests on a committed checkpoint, and no log below it goes, before the disk would miss it.
#![forbid(unsafe_code)]

mod delivered;
mod loading;
mod logged;
mod receiving;
mod taking;
#[cfg(test)]
mod tests;

pub(super) use delivered::{Delivered, Place};
#[cfg(test)]
pub(super) use loading::cluster_of;
pub(super) use loading::{Loaded, Loading};
pub(super) use logged::Logged;

use super::core::Core;
use super::ports::{CheckpointEvent, CheckpointPart, Origin, Ports};
use super::post::{Asker, Outgoing};
use crate::bounds::{
    CHECKPOINT_FAILED_NS, CHECKPOINT_READ_BYTES_MAX, CHECKPOINT_READ_NS_MAX, CHECKPOINT_READ_PAUSE_NS,
    CHECKPOINT_READS_MAX, CHECKPOINT_RETRY_NS,
};
use crate::rules::{self, Rule};
use crate::txn::Procedure;
use crate::types::{Endpoint, Lsn, NodeId, PartitionId, Slot, Stamp, Timestamp, Watermark};
use crate::wire::Message;
use receiving::{Next, Part, Receiving};
use std::collections::VecDeque;
use taking::Taking;

/// What a replica remembers of its stream and its log, so that checkpoints can be made of it.
pub struct Archive {
    pub(super) delivered: Delivered,
    pub(super) logged: Logged,
    /// Where the stream goes on behind the newest committed checkpoint. Monotone.
    newest: Option<Slot>,
    /// A peer needs one that is newer.
    asked_for: bool,
    /// A peer is reading the newest: since when, and when it last did.
    read_by_peer: Option<(Timestamp, Timestamp)>,
    /// We lack slots below this one, and this peer no longer keeps them.
    behind: Option<(Slot, NodeId)>,
}

impl Archive {
    pub(super) fn new(newest: Option<Slot>, logged: Logged) -> Archive {
        Archive {
            delivered: Delivered::from(newest.unwrap_or_default()),
            logged,
            newest,
            asked_for: false,
            read_by_peer: None,
            behind: None,
        }
    }

    /// Where the stream goes on behind the newest committed checkpoint.
    pub fn newest(&self) -> Option<Slot> {
        self.newest
    }

    pub(super) fn on_behind(&mut self, floor: Slot, at: NodeId) {
        self.behind = Some((floor, at));
    }

    /// Everything below `slot` came from elsewhere.
    pub(super) fn on_jump(&mut self, slot: Slot) {
        self.delivered = Delivered::from(slot);
    }

    pub(super) fn on_committed(&mut self, slot: Slot) {
        assert!(self.newest.is_none_or(|newest| newest <= slot), "{slot:?} after {:?}", self.newest);
        let before = self.newest.replace(slot).unwrap_or_default();
        self.logged.on_checkpoint(if rules::on(Rule::CutToNewest) { slot } else { before });
        self.read_by_peer = None;
    }

    fn is_read_by_peer(&self, now: Timestamp) -> bool {
        self.read_by_peer.is_some_and(|(since, last)| {
            now.since(last) < CHECKPOINT_READ_PAUSE_NS && now.since(since) < CHECKPOINT_READ_NS_MAX
        })
    }
}

/// What of a core's checkpoints is under way.
#[derive(Default)]
pub(super) struct Checkpointer {
    taking: Option<Taking>,
    receiving: Option<Receiving>,
    /// None is received before.
    receive_after: Timestamp,
    /// The replica that was taken last, and when that was committed.
    taken: Option<(usize, Timestamp)>,
    /// Nothing is begun before.
    rest_until: Timestamp,
    /// Pieces that are being read for peers.
    reads: VecDeque<Reading>,
    tickets: u64,
    /// The last record of the lives before this one.
    recovered: Lsn,
    truncated: Lsn,
}

struct Reading {
    ticket: u64,
    asker: Asker,
    partition: PartitionId,
}

impl Checkpointer {
    /// Of a core whose log held records up to here when it started.
    pub fn behind(recovered: Lsn) -> Checkpointer {
        Checkpointer { recovered, ..Checkpointer::default() }
    }

    pub fn deadline(&self) -> Option<Timestamp> {
        let taking = self.taking.as_ref().map(Taking::deadline);
        let receiving = self.receiving.as_ref().filter(|one| !one.is_committing()).map(Receiving::deadline);
        taking.into_iter().chain(receiving).min()
    }

    fn is_taking(&self, at: usize) -> bool {
        self.taking.as_ref().is_some_and(|taking| taking.at == at)
    }

    fn is_receiving(&self, at: usize) -> bool {
        self.receiving.as_ref().is_some_and(|receiving| receiving.at == at)
    }
}

impl<P: Procedure> Core<P> {
    /// Once a turn: takes note of what is done, and does the next small step of what is under way.
    pub(super) fn tend_checkpoints(&mut self, now: Timestamp, ports: &mut Ports<'_>) {
        while let Some(event) = ports.checkpoints.poll() {
            match event {
                CheckpointEvent::Committed { origin: Origin::Own, .. } => self.on_own_committed(now, ports),
                CheckpointEvent::Committed { origin: Origin::Peer, .. } => {
                    self.on_received(now, ports);
                }
                CheckpointEvent::Failed { origin: Origin::Own, .. } => {
                    self.checkpoints.taking = None;
                    self.checkpoints.rest_until = now.plus_ns(CHECKPOINT_RETRY_NS);
                }
                CheckpointEvent::Failed { origin: Origin::Peer, .. } => {
                    self.checkpoints.receive_after = now.plus_ns(CHECKPOINT_FAILED_NS);
                    self.end_receiving();
                }
                CheckpointEvent::Read { ticket, part } => self.on_read_for_peer(now, ticket, part),
            }
        }
        self.take_checkpoints(now, ports);
        self.receive_checkpoint(now, ports);
        self.cut_log(ports);
    }

    // Taking.

    fn take_checkpoints(&mut self, now: Timestamp, ports: &mut Ports<'_>) {
        if let Some(taking) = &mut self.checkpoints.taking {
            let store = self.replicas[taking.at].store.borrow();
            return taking.step(now, ports.log.overdue_percent(), &store, ports.checkpoints);
        }
        if now < self.checkpoints.rest_until {
            return;
        }
        if let Some(at) = self.replicas.iter().position(|replica| replica.archive.asked_for) {
            self.replicas[at].archive.asked_for = false;
            return self.begin_taking(at, now, ports);
        }
        if ports.log.checkpoint_due() {
            self.begin_oldest(now, ports);
        }
    }

    /// Of the partition that holds the log back: one of any other would let nothing go.
    fn begin_oldest(&mut self, now: Timestamp, ports: &mut Ports<'_>) {
        let needed = self.replicas.iter().enumerate();
        let needed = needed.filter_map(|(at, replica)| Some((replica.archive.logged.first_needed()?, at)));
        let Some((_, at)) = needed.min() else { return };
        // Not a moment longer than it must: what is appended meanwhile comes on top of the bound.
        let again = self.checkpoints.taken.filter(|(last, _)| *last == at);
        let rested_at = again.map_or(now, |(_, when)| when.plus_ns(CHECKPOINT_RETRY_NS));
        if now < rested_at {
            self.checkpoints.rest_until = rested_at;
            return;
        }
        if !self.replicas[at].archive.is_read_by_peer(now) {
            self.begin_taking(at, now, ports);
        }
        if self.checkpoints.taking.is_none() {
            self.checkpoints.rest_until = now.plus_ns(CHECKPOINT_RETRY_NS);
        }
    }

    /// Unless it would begin where the last one did.
    fn begin_taking(&mut self, at: usize, now: Timestamp, ports: &mut Ports<'_>) {
        let replica = &mut self.replicas[at];
        let place = replica.place();
        let is_news = replica.archive.newest.map_or(place.slot > Slot(0), |newest| place.slot > newest);
        if !is_news || self.checkpoints.is_receiving(at) {
            return;
        }
        let Some(header) = loading::header(&self.config, replica.id, &place, &self.knowledge, now) else {
            return;
        };
        if ports.checkpoints.begin(Origin::Own, replica.id) {
            self.checkpoints.taking = Some(Taking::new(at, &header, now));
        } else {
            self.checkpoints.rest_until = now.plus_ns(CHECKPOINT_RETRY_NS);
        }
    }

    fn on_own_committed(&mut self, now: Timestamp, ports: &mut Ports<'_>) {
        let Some(Taking { at, slot, .. }) = self.checkpoints.taking.take() else { return };
        self.replicas[at].on_checkpoint(slot, ports.log, &mut self.handed);
        self.checkpoints.taken = Some((at, now));
        self.stats_mut().checkpoints_taken += 1;
    }

    /// Invariant 2. A position one below that of a record lies within that record.
    fn cut_log(&mut self, ports: &mut Ports<'_>) {
        let logs = || self.replicas.iter().map(|replica| &replica.archive.logged);
        let needed = logs().filter_map(Logged::first_needed).min();
        let below = match needed.filter(|_| rules::on(Rule::CutBehindCheckpoint)) {
            Some(needed) => Lsn(needed.0.saturating_sub(1)),
            // A core that is never asked to vote appends nothing: what earlier lives left goes all the same.
            None => logs().map(Logged::last).fold(self.checkpoints.recovered, Lsn::max),
        };
        if below > self.checkpoints.truncated && rules::on(Rule::CutLog) {
            self.checkpoints.truncated = below;
            ports.log.truncate(below);
        }
    }

    // Giving to peers.

    /// A peer is too far behind and wants a piece of ours.
    pub(super) fn on_checkpoint_fetch(
        &mut self,
        now: Timestamp,
        asker: Asker,
        partition: PartitionId,
        (checkpoint, offset): (u32, u64),
        ports: &mut Ports<'_>,
    ) {
        let Some(at) = self.place(partition) else { return self.acknowledge(now, asker) };
        let floor = self.replicas[at].stream.floor();
        let begins = checkpoint == 0 || offset == 0;
        // Where not even a new one would reach, a shard elsewhere is down that something here rests on.
        if begins && self.replicas[at].archive.newest.is_none_or(|newest| newest < floor) {
            let would_help = self.replicas[at].place().slot >= floor;
            self.replicas[at].archive.asked_for |= would_help && !self.checkpoints.is_taking(at);
            return self.answer_pending(now, asker, partition);
        }
        let ticket = self.checkpoints.tickets;
        let busy = self.checkpoints.reads.len() >= CHECKPOINT_READS_MAX;
        if busy || !ports.checkpoints.read(partition, offset, CHECKPOINT_READ_BYTES_MAX, ticket) {
            return self.answer_pending(now, asker, partition);
        }
        self.checkpoints.tickets += 1;
        self.checkpoints.reads.push_back(Reading { ticket, asker, partition });
        let since = self.replicas[at].archive.read_by_peer.map_or(now, |(since, _)| since);
        self.replicas[at].archive.read_by_peer = Some((since, now));
    }

    fn on_read_for_peer(&mut self, now: Timestamp, ticket: u64, part: Option<CheckpointPart>) {
        let Some(found) = self.checkpoints.reads.iter().position(|read| read.ticket == ticket) else {
            return;
        };
        let Some(Reading { asker, partition, .. }) = self.checkpoints.reads.remove(found) else { return };
        let Some(CheckpointPart { checkpoint, total, offset, bytes }) = part else {
            return self.answer_pending(now, asker, partition);
        };
        let (from, bytes) = (self.me.node, &bytes[..]);
        let part = Message::CheckpointPart { partition, from, checkpoint, offset, total, bytes };
        self.answer_checkpoint(now, asker, &part);
    }

    fn answer_pending(&mut self, now: Timestamp, asker: Asker, partition: PartitionId) {
        let from = self.me.node;
        self.answer_checkpoint(now, asker, &Message::CheckpointPending { partition, from });
    }

    fn answer_checkpoint(&mut self, now: Timestamp, asker: Asker, message: &Message<'_>) {
        let mut bytes = Vec::with_capacity(64);
        message.encode_into(&mut bytes);
        self.post.send(now, Lsn::default(), Outgoing::Answer { to: asker, message: bytes });
    }

    // Receiving from one.

    fn receive_checkpoint(&mut self, now: Timestamp, ports: &mut Ports<'_>) {
        if self.checkpoints.receiving.is_none() && now >= self.checkpoints.receive_after {
            self.begin_receiving(now);
        }
        let Some(receiving) = &mut self.checkpoints.receiving else { return };
        let (at, partition, peer) = (receiving.at, receiving.partition, receiving.peer);
        if self.replicas[at].leads() && !receiving.is_committing() {
            return self.give_up_receiving(ports);
        }
        match receiving.poll(now, ports.checkpoints) {
            Next::Nothing => {}
            Next::GiveUp => self.give_up_receiving(ports),
            Next::Ask { checkpoint, offset } => {
                let Some(core) = self.config.core_of(peer, partition) else { return };
                let to = Endpoint { node: peer, core };
                let mut message = Vec::with_capacity(32);
                let from = self.me.node;
                Message::CheckpointFetch { partition, from, checkpoint, offset }.encode_into(&mut message);
                self.post.send(now, Lsn::default(), Outgoing::Call { to, note: None, message });
            }
            Next::Commit => self.commit_received(at, ports),
        }
    }

    fn begin_receiving(&mut self, now: Timestamp) {
        for (at, replica) in self.replicas.iter_mut().enumerate() {
            let Some((floor, peer)) = replica.archive.behind.take() else { continue };
            // It may have got there by another way.
            if replica.archive.delivered.end() < floor {
                let receiving = Receiving::new(&self.config, at, replica.id, (floor, peer), now);
                self.checkpoints.receiving = Some(receiving);
                return;
            }
        }
    }

    /// Invariant 1: nothing older may be on its way to the same place.
    fn commit_received(&mut self, at: usize, ports: &mut Ports<'_>) {
        let Some(receiving) = &mut self.checkpoints.receiving else { return };
        if receiving.slot().is_none_or(|slot| slot <= self.replicas[at].archive.delivered.end()) {
            return self.give_up_receiving(ports);
        }
        if let Some(taking) = self.checkpoints.taking.take_if(|taking| taking.at == at) {
            if taking.is_committing() {
                self.checkpoints.taking = Some(taking);
                return;
            }
            ports.checkpoints.abandon(Origin::Own);
        }
        receiving.commit(ports.checkpoints);
    }

    /// A piece of a peer's.
    pub(super) fn on_checkpoint_part(
        &mut self,
        now: Timestamp,
        (partition, from): (PartitionId, NodeId),
        checkpoint: u32,
        (offset, total, bytes): (u64, u64, &[u8]),
        ports: &mut Ports<'_>,
    ) {
        let part = Part { checkpoint, offset, total, bytes };
        let receiving = self.checkpoints.receiving.as_mut();
        let Some(receiving) = receiving.filter(|one| (one.partition, one.peer) == (partition, from)) else {
            return;
        };
        if !receiving.on_part(now, &self.config, &part, ports.checkpoints) {
            self.stats_mut().malformed += 1;
            self.checkpoints.receive_after = now.plus_ns(CHECKPOINT_FAILED_NS);
            self.give_up_receiving(ports);
        }
    }

    pub(super) fn on_checkpoint_pending(&mut self, now: Timestamp, partition: PartitionId, from: NodeId) {
        let receiving = self.checkpoints.receiving.as_mut();
        if let Some(receiving) = receiving.filter(|one| (one.partition, one.peer) == (partition, from)) {
            receiving.on_pending(now);
        }
    }

    fn give_up_receiving(&mut self, ports: &mut Ports<'_>) {
        if let Some(receiving) = &self.checkpoints.receiving {
            receiving.abandon(ports.checkpoints);
            self.end_receiving();
        }
    }

    /// Nothing came of it: the stream is to name whoever it meets next, be it the same peer again.
    fn end_receiving(&mut self) {
        if let Some(receiving) = self.checkpoints.receiving.take() {
            self.replicas[receiving.at].stream.jump(Slot(0));
        }
    }

    /// A peer's checkpoint is on our disk: its state takes the place of ours. Facts first.
    fn on_received(&mut self, now: Timestamp, ports: &mut Ports<'_>) {
        let Some(receiving) = self.checkpoints.receiving.take() else { return };
        let at = receiving.at;
        let Some(loaded) = receiving.finish() else { return };
        let slot = loaded.header.slot;
        self.replicas[at].on_checkpoint(slot, ports.log, &mut self.handed);
        let mut shards: Vec<_> = loaded.header.closed.iter().map(|(stamp, _)| stamp.shard).collect();
        shards.dedup();
        let mut news = false;
        for (stamp, end) in &loaded.header.closed {
            news |= self.learn_closed(*stamp, *end);
        }
        if news {
            self.sweep(now);
            shards.into_iter().for_each(|shard| self.end_reign(now, shard));
            // They hear of facts from whoever learns them first here: told again by a peer, they would be no news.
            self.pass_facts_on(now, &loaded.header.closed);
        }
        self.stats_mut().checkpoints_received += 1;
        let replica = &mut self.replicas[at];
        // It leads (invariant 3), or has got there by itself: then all of this is in its own state.
        if replica.leads() || slot <= replica.archive.delivered.end() {
            return;
        }
        replica.load(loaded);
        ports.board.publish_partition(replica.id, replica.mark(), replica.proposed());
        self.wake_siblings = true;
        self.run_stream(at, now, ports, &mut Asker::Nobody);
    }

    /// What this core's disk knew of epochs that are over is for the other cores of the node too: theirs may
    /// have been written down before.
    pub(super) fn tell_restored(&mut self, now: Timestamp, ports: &Ports<'_>) {
        let closed: Vec<(Stamp, Timestamp)> = self.knowledge.closed().iter().collect();
        if !closed.is_empty() {
            self.pass_facts_on(now, &closed);
        }
        for replica in self.replicas.iter().filter(|replica| replica.mark() > Watermark::default()) {
            ports.board.publish_partition(replica.id, replica.mark(), replica.proposed());
        }
    }
}
