//! How knowledge of watermarks moves: between the cores of a node over its board, and between nodes in
//! the exchange (DESIGN §3). Merging takes the maximum, so it does not matter who heard what first.
#![forbid(unsafe_code)]

use super::core::Core;
use super::ports::Ports;
use super::post::Outgoing;
use crate::bounds::CAST_BYTES_MAX;
use crate::txn::{Procedure, too_far_ahead};
use crate::types::{Ballot, CoreId, Endpoint, Epoch, Lsn, NodeId, ShardId, Stamp, Timestamp, Watermark};
use crate::watermark::shard_watermark;
use crate::wire::Message;
use smallvec::SmallVec;

impl<P: Procedure> Core<P> {
    /// Takes in a watermark, and remembers that the windows must be looked at.
    pub(super) fn learn(&mut self, shard: ShardId, heard: Watermark) {
        let known = self.knowledge.vector().get(shard);
        if heard <= known || (heard.epoch > known.epoch && !self.may_believe(shard, heard.epoch)) {
            return;
        }
        if self.knowledge.learn_vector(shard, heard) {
            if heard.epoch > known.epoch {
                self.note_new_reign(shard);
            }
            self.exchange.on_change();
            if !self.risen.contains(&shard) {
                self.risen.push(shard);
            }
        }
    }

    /// What sibling cores have put on the board since.
    pub(super) fn absorb_board(&mut self, ports: &Ports<'_>) {
        for shard in (0..self.config.shards.len() as u16).map(ShardId) {
            self.learn(shard, ports.board.shard(shard));
        }
    }

    /// The watermark of every shard that has replicas on this node: the least of its streams' marks.
    pub(super) fn raise_own_shards(&mut self, ports: &Ports<'_>) {
        for shard in (0..self.config.shards.len() as u16).map(ShardId) {
            if !self.config.shards[usize::from(shard.0)].replicas.contains(&self.me.node) {
                continue;
            }
            let marks = self.config.partitions_of(shard).map(|partition| ports.board.partition(partition));
            if let Some(watermark) = shard_watermark(marks)
                && watermark > self.knowledge.vector().get(shard)
            {
                self.wake_siblings |= ports.board.merge_shard(shard, watermark);
                self.learn(shard, watermark);
            }
        }
        self.absorb_board(ports);
    }

    /// How far the transactions here need each shard to get, for whoever leads it to see.
    pub(super) fn publish_wants(&mut self, ports: &Ports<'_>) {
        for replica in &self.replicas {
            for (shard, wanted) in replica.store.borrow().window.wanted() {
                if wanted > ports.board.wanted(shard) {
                    ports.board.want(shard, wanted);
                    self.wake_siblings = true;
                }
            }
        }
    }

    /// One core per node speaks for it.
    fn is_speaker(&self) -> bool {
        self.me.core == CoreId(0)
    }

    pub(super) fn exchange_deadline(&self) -> Option<Timestamp> {
        (self.is_speaker() && self.config.nodes.len() > 1).then(|| self.exchange.due(self.others_wait))
    }

    /// Tells every node all we know of all shards, when that is due.
    pub(super) fn exchange_if_due(&mut self, now: Timestamp, ports: &Ports<'_>) {
        if !self.is_speaker() || self.config.nodes.len() == 1 {
            return;
        }
        let shards = (0..self.config.shards.len() as u16).map(ShardId);
        let mut wanted: SmallVec<[(ShardId, Timestamp); 8]> = SmallVec::new();
        self.others_wait = false;
        for shard in shards.clone() {
            let (at, wants) = (usize::from(shard.0), ports.board.wanted(shard));
            self.others_wait |= wants > self.told[at];
            if wants > self.knowledge.vector().get(shard).timestamp {
                wanted.push((shard, wants));
                if wants > self.asked[at] {
                    self.exchange.on_wanted();
                }
            }
        }
        if !self.exchange.is_due(now, self.others_wait) {
            return;
        }
        self.exchange.on_sent(now);
        for shard in shards.clone() {
            let at = usize::from(shard.0);
            self.told[at] = self.knowledge.vector().get(shard).timestamp;
            self.asked[at] = ports.board.wanted(shard);
        }
        let vector = shards.map(|shard| (shard, self.knowledge.vector().get(shard)));
        let vector = vector.filter(|(_, watermark)| *watermark > Watermark::default()).collect();
        let closed = self.facts_to_tell();
        let mut bytes = Vec::with_capacity(256);
        Message::Exchange { vector, wanted, closed }.encode_into(&mut bytes);
        assert!(bytes.len() <= CAST_BYTES_MAX, "an exchange of {} bytes", bytes.len());
        for node in (0..self.config.nodes.len() as u16).map(NodeId).filter(|node| *node != self.me.node) {
            let to = Endpoint { node, core: CoreId(0) };
            self.post.send(now, Lsn::default(), Outgoing::Cast { to, message: bytes.clone() });
        }
    }

    /// The facts for one exchange: the newest first, a few times each, for others wait for them; then all of
    /// them in turn, a few at a time, so that none is lost for good.
    fn facts_to_tell(&mut self) -> SmallVec<[(Stamp, Timestamp); 4]> {
        if !self.fresh_facts.is_empty() {
            let fresh = self.fresh_facts.iter().take(CLOSED_PER_EXCHANGE).copied().collect();
            self.fresh_told += 1;
            if self.fresh_told >= FRESH_TOLD {
                self.fresh_told = 0;
                self.fresh_facts.drain(..self.fresh_facts.len().min(CLOSED_PER_EXCHANGE));
            }
            return fresh;
        }
        let all = self.knowledge.closed();
        let count = all.len();
        let from = if count == 0 { 0 } else { self.facts_told % count };
        self.facts_told = from + CLOSED_PER_EXCHANGE;
        all.iter().skip(from).chain(all.iter().take(from)).take(count.min(CLOSED_PER_EXCHANGE)).collect()
    }

    /// Sibling cores hear of facts from the speaker: the board has no room for them.
    pub(super) fn pass_facts_on(&mut self, now: Timestamp, closed: &[(Stamp, Timestamp)]) {
        let (vector, wanted, closed) = (SmallVec::new(), SmallVec::new(), SmallVec::from_slice(closed));
        let mut bytes = Vec::with_capacity(256);
        Message::Exchange { vector, wanted, closed }.encode_into(&mut bytes);
        for core in
            (0..self.config.cores(self.me.node) as u16).map(CoreId).filter(|core| *core != self.me.core)
        {
            let to = Endpoint { node: self.me.node, core };
            self.post.send(now, Lsn::default(), Outgoing::Cast { to, message: bytes.clone() });
        }
    }

    /// Whether the epoch is one that a replica of the shard can have won. An epoch that is not would stand
    /// above every one to come, and nothing of the shard would be stable again.
    fn could_reign(&self, shard: ShardId, epoch: Epoch) -> bool {
        let replicas = &self.config.shards[usize::from(shard.0)].replicas;
        Ballot::unpack(epoch.0).is_some_and(|ballot| ballot.round > 0 && replicas.contains(&ballot.node))
    }

    /// What another node knows. Facts first: a watermark of a new epoch is only believed once the end
    /// of the old one is known.
    pub(super) fn on_exchange(
        &mut self,
        now: Timestamp,
        vector: &[(ShardId, Watermark)],
        wanted: &[(ShardId, Timestamp)],
        closed: &[(Stamp, Timestamp)],
        ports: &Ports<'_>,
    ) {
        let shards = self.config.shards.len();
        let ours = |shard: ShardId| usize::from(shard.0) < shards;
        let mut news = false;
        let mut doubtful: SmallVec<[ShardId; 4]> = SmallVec::new();
        for (stamp, end) in closed.iter().filter(|(stamp, _)| ours(stamp.shard)) {
            if too_far_ahead(now, *end) {
                self.stats_mut().ahead += 1;
                doubtful.push(stamp.shard);
            } else {
                news |= self.learn_closed(*stamp, *end);
            }
        }
        if news {
            self.sweep(now);
            for shard in
                (0..shards as u16).map(ShardId).filter(|at| closed.iter().any(|(s, _)| s.shard == *at))
            {
                self.end_reign(now, shard);
            }
            self.pass_facts_on(now, closed);
        }
        for (shard, watermark) in vector.iter().filter(|(shard, _)| ours(*shard)) {
            if too_far_ahead(now, watermark.timestamp) {
                self.stats_mut().ahead += 1;
                continue;
            }
            if doubtful.contains(shard) || !self.could_reign(*shard, watermark.epoch) {
                self.stats_mut().malformed += 1;
                continue;
            }
            self.learn(*shard, *watermark);
            self.wake_siblings |= ports.board.merge_shard(*shard, *watermark);
        }
        for (shard, timestamp) in wanted.iter().filter(|(shard, _)| ours(*shard)) {
            if too_far_ahead(now, *timestamp) {
                self.stats_mut().ahead += 1;
            } else if *timestamp > ports.board.wanted(*shard) {
                ports.board.want(*shard, *timestamp);
                self.wake_siblings = true;
            }
        }
    }
}

/// Facts one exchange carries: a frame has room for them beside the watermarks of every shard.
const CLOSED_PER_EXCHANGE: usize = 8;

/// Exchanges in which a new fact is told before it takes its turn with the others.
const FRESH_TOLD: usize = 4;

#[cfg(test)]
mod tests;
