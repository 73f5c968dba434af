//! Who a node is to its peers: the disk it is known by, and when its replicas may take part.
//!
//! A replica that finds nothing on its disk has never promised anything, or the disk was emptied under it, and only
//! its peers can tell. So it greets them with the identity of that disk, which is drawn when the directory is
//! made, and takes part once *all* of them know it by that one. One that was known by another is turned away: it
//! has forgotten what it promised, and nothing but a rebuild helps. A rebuild is a new disk, too, but says so.
//!
//! Why this is enough: whoever ever took part was known by every peer before it did, on their disks. So any one
//! of them that still has its memory knows whoever comes back without one; and a peer that lost it does not take
//! part again before it knows them all.
//!
//! Invariants:
//!   1. What a peer is known by is durable before that peer hears of it, and before it counts here.
//!   2. Before a replica is admitted nothing reaches its stream and nothing leaves it: it promises nothing, accepts
//!      nothing and does not run for leader.
//!   3. A replica that has promised anything on this disk was admitted, and is from the start; but for a rebuild.
//!   4. One whose disk may be new needs a peer that is not being rebuilt: those have forgotten whom they knew.
#![forbid(unsafe_code)]

use super::core::Core;
use super::duty::Duty;
use super::ports::Ports;
use super::post::Outgoing;
use super::recovery::Recovery;
use super::replica::Replica;
use crate::bounds::GREET_INTERVAL_NS;
use crate::rules::{self, Rule};
use crate::txn::Procedure;
use crate::types::{DiskId, Endpoint, Lsn, NodeId, PartitionId, Timestamp};
use crate::wal::Record;
use crate::wire::Message;
use std::collections::BTreeMap;

/// Of one core.
pub(super) struct Admission {
    /// `None`: whoever made the core has no disk that could be another.
    disk: Option<DiskId>,
    rebuilds: bool,
    /// The disks by which peers are known, each since its record in the log.
    known: BTreeMap<NodeId, (DiskId, Lsn)>,
    /// This peer knows us by another disk.
    refused_by: Option<NodeId>,
    greet_at: Timestamp,
}

/// Of one replica.
pub(super) struct Entry {
    admitted: bool,
    /// Who knows us, and whether it is being rebuilt.
    welcomed_by: BTreeMap<NodeId, bool>,
}

/// A greeting, or the answer to one: of whom, for which partition.
#[derive(Clone, Copy)]
pub(super) struct Introduction {
    pub partition: PartitionId,
    pub from: NodeId,
    pub disk: DiskId,
    pub rebuilds: bool,
}

impl Admission {
    pub fn new(recovery: &Recovery) -> Admission {
        let known = recovery.peers().map(|(node, disk)| (node, (disk, Lsn::default()))).collect();
        let (disk, rebuilds) = (recovery.disk(), recovery.rebuilds());
        Admission { disk, rebuilds, known, refused_by: None, greet_at: Timestamp::default() }
    }

    /// `has_run`: the replica has promised something on this disk.
    pub fn entry(&self, has_run: bool, peers: usize) -> Entry {
        let admitted = self.disk.is_none() || peers == 0 || has_run && !self.rebuilds;
        Entry { admitted, welcomed_by: BTreeMap::new() }
    }

    fn knows(&self, peer: NodeId, durable: impl Fn(Lsn) -> bool) -> bool {
        self.known.get(&peer).is_some_and(|(_, since)| durable(*since))
    }

    /// Whether a peer that comes with this disk is the one that is known here, if any is.
    fn recognizes(&self, peer: NodeId, disk: DiskId) -> bool {
        self.known.get(&peer).is_none_or(|(known, _)| *known == disk)
    }
}

impl Entry {
    pub fn is_admitted(&self) -> bool {
        self.admitted
    }
}

impl<P: Procedure> Core<P> {
    /// A peer that knows this node by another disk. Its cores must stop.
    pub fn refused_by(&self) -> Option<NodeId> {
        self.admission.refused_by
    }

    /// Peers that have to be heard before every replica here may take part.
    pub fn awaited(&self) -> impl Iterator<Item = NodeId> + '_ {
        let unheard = |replica: &Replica<P>| {
            let peers = self.config.replicas_of(replica.id).iter().copied();
            let entry = &replica.entry;
            peers
                .filter(|peer| {
                    !entry.admitted && *peer != self.me.node && !entry.welcomed_by.contains_key(peer)
                })
                .collect::<Vec<_>>()
        };
        self.replicas.iter().flat_map(unheard)
    }

    /// When those are greeted again.
    pub(super) fn greeting_deadline(&self) -> Option<Timestamp> {
        let waits = self.replicas.iter().any(|replica| !replica.entry.admitted);
        waits.then_some(self.admission.greet_at)
    }

    /// Those that were admitted before this start.
    pub(super) fn tell_admitted(&mut self, now: Timestamp) {
        for at in 0..self.replicas.len() {
            if self.replicas[at].entry.admitted {
                self.tell_of_admission(now, at);
            }
        }
    }

    /// Admits whom every peer knows, and greets for the others.
    pub(super) fn tend_admission(&mut self, now: Timestamp) {
        if self.greeting_deadline().is_none() {
            return;
        }
        for at in 0..self.replicas.len() {
            if !self.replicas[at].entry.admitted && self.is_known_everywhere(at) {
                self.replicas[at].entry.admitted = true;
                self.tell_of_admission(now, at);
            }
        }
        if now >= self.admission.greet_at {
            self.admission.greet_at = now.plus_ns(GREET_INTERVAL_NS);
            for at in 0..self.replicas.len() {
                let id = self.replicas[at].id;
                let peers = self.config.replicas_of(id).to_vec();
                peers.into_iter().for_each(|peer| self.greet(now, at, peer));
            }
        }
    }

    fn is_known_everywhere(&self, at: usize) -> bool {
        let Admission { rebuilds, .. } = self.admission;
        let Replica { id, entry, .. } = &self.replicas[at];
        let mut peers = self.config.replicas_of(*id).iter().filter(|peer| **peer != self.me.node);
        let durable = |lsn| self.post.is_durable(lsn);
        let everywhere =
            peers.all(|peer| entry.welcomed_by.contains_key(peer) && self.admission.knows(*peer, durable));
        everywhere && (rebuilds || entry.welcomed_by.values().any(|rebuilt| !rebuilt))
    }

    fn tell_of_admission(&mut self, now: Timestamp, at: usize) {
        let Replica { id: partition, shard, .. } = self.replicas[at];
        match self.chair_core(shard) == Some(self.me.core) {
            true => self.on_admitted(now, partition),
            false => self.tell_chair(shard, Duty::Admitted { partition }),
        }
    }

    /// Greets a peer, unless there is no need.
    fn greet(&mut self, now: Timestamp, at: usize, peer: NodeId) {
        let Replica { id: partition, entry, .. } = &self.replicas[at];
        let Admission { disk: Some(disk), rebuilds, .. } = self.admission else { return };
        if peer == self.me.node || entry.admitted || entry.welcomed_by.contains_key(&peer) {
            return;
        }
        let greet = Message::Greet { partition: *partition, from: self.me.node, disk, rebuilds };
        self.introduce(now, Lsn::default(), peer, &greet);
    }

    fn introduce(&mut self, now: Timestamp, after: Lsn, peer: NodeId, message: &Message<'_>) {
        let Some(partition) = message.partition() else { return };
        let Some(core) = self.config.core_of(peer, partition) else { return };
        let mut bytes = Vec::with_capacity(64);
        message.encode_into(&mut bytes);
        let to = Endpoint { node: peer, core };
        self.post.send(now, after, Outgoing::Cast { to, message: bytes });
    }

    /// From now on the peer is known by this disk. Whether that is news.
    fn meet(&mut self, peer: NodeId, disk: DiskId, ports: &mut Ports<'_>) -> bool {
        let news = self.admission.known.get(&peer).is_none_or(|(known, _)| *known != disk);
        if news {
            let since = ports.log.append(&Record::of_peer(peer, disk));
            self.admission.known.insert(peer, (disk, since));
        }
        news
    }

    pub(super) fn on_greet(&mut self, now: Timestamp, greet: Introduction, ports: &mut Ports<'_>) {
        let Introduction { partition, from, disk: to, rebuilds: rebuilt } = greet;
        let (Some(at), Some(disk)) = (self.place(partition), self.admission.disk) else { return };
        let welcome = rebuilt || self.admission.recognizes(from, to) || !rules::on(Rule::DiskIdentity);
        let news = welcome && self.meet(from, to, ports);
        let since = self.admission.known.get(&from).map(|(_, since)| *since).unwrap_or_default();
        let rebuilds = self.admission.rebuilds;
        let greeted = Message::Greeted { partition, from: self.me.node, disk, rebuilds, to, welcome };
        self.introduce(now, since, from, &greeted);
        // It may have started just now, and nobody need wait for our next round.
        if news {
            self.greet(now, at, from);
        }
    }

    pub(super) fn on_greeted(
        &mut self,
        answer: Introduction,
        (to, welcome): (DiskId, bool),
        ports: &mut Ports<'_>,
    ) {
        let Introduction { partition, from, disk, rebuilds } = answer;
        let Some(at) = self.place(partition) else { return };
        // Of an earlier disk, or of no more interest.
        if self.admission.disk != Some(to) || self.replicas[at].entry.admitted {
            return;
        }
        if !welcome {
            self.admission.refused_by = Some(from);
        } else if self.admission.recognizes(from, disk) {
            self.meet(from, disk, ports);
            self.replicas[at].entry.welcomed_by.insert(from, rebuilds);
        }
        // Else it is the one that was emptied, and hears of it when it greets us.
    }
}

#[cfg(test)]
mod tests;
