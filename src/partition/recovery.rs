//! What the disk of a core gave back when its node started: votes, checkpoints, accepted batches.
//!
//! The host shows it everything, in any order between partitions; a core is then made of it. Nothing is
//! known to be chosen but what checkpoints hold: the rest is learned again from a leader, or recovered by
//! becoming one.
#![forbid(unsafe_code)]

use super::checkpoint::{Loaded, Loading, Logged};
use crate::config::{Config, Durability};
use crate::paxos::{Entry, Forgot, Restored};
use crate::rules::{self, Rule};
use crate::types::{Ballot, DiskId, Lsn, NodeId, PartitionId, Slot, Stamp, Timestamp};
use crate::wal::checkpoint::Piece;
use crate::wal::{Record, RecordKind, RecordView};
use crate::wire::{Batch, BatchView};
use std::collections::BTreeMap;

/// Of one core.
#[derive(Default)]
pub struct Recovery {
    partitions: BTreeMap<PartitionId, Found>,
    /// Where the last record of the log lies.
    last: Lsn,
    /// The checkpoint being shown.
    shown: Option<PartitionId>,
    /// The disk was emptied or its log given up: not even the promises made are all known.
    rebuilding: bool,
    /// The log was given up, and the votes were not.
    log_lost: bool,
    /// The node has run before: it may have accepted what no disk remembers.
    started_before: bool,
    /// What the core's disk is known by, and the disks its peers are known by.
    disk: Option<DiskId>,
    peers: BTreeMap<NodeId, DiskId>,
}

#[derive(Default)]
struct Found {
    promised: Ballot,
    checkpoint: Option<Loading>,
    /// By slot: the acceptance of the highest ballot.
    accepted: BTreeMap<Slot, (Ballot, Batch)>,
    chosen_end: Slot,
    logged: Logged,
}

/// What a replica starts from.
pub(super) struct Revived {
    pub stream: Restored,
    pub checkpoint: Option<Loaded>,
    pub logged: Logged,
}

impl Recovery {
    /// A core whose node has never run.
    pub fn nothing() -> Recovery {
        Recovery::default()
    }

    /// The node was told to forget what its disk holds and to learn it from its peers.
    pub fn rebuilding() -> Recovery {
        Recovery { rebuilding: true, started_before: true, ..Recovery::default() }
    }

    /// The log is damaged and was given up; votes and checkpoints are as they were.
    pub fn on_log_lost(&mut self) {
        (self.log_lost, self.started_before) = (true, true);
    }

    /// The disk was emptied, and the node was told that it has forgotten what it promised.
    pub fn on_disk_lost(&mut self) {
        (self.rebuilding, self.started_before) = (true, true);
    }

    /// What all of this was on.
    pub fn on_disk(&mut self, disk: DiskId) {
        self.disk = Some(disk);
    }

    /// A peer was known by this disk.
    pub fn on_peer(&mut self, node: NodeId, disk: DiskId) {
        self.peers.insert(node, disk);
    }

    /// A ballot was promised.
    pub fn on_vote(&mut self, partition: PartitionId, ballot: Ballot) {
        self.started_before = true;
        if rules::on(Rule::KeepVotes) {
            self.on_promised(partition, ballot);
        }
    }

    fn on_promised(&mut self, partition: PartitionId, ballot: Ballot) {
        let found = self.partitions.entry(partition).or_default();
        found.promised = found.promised.max(ballot);
    }

    /// The next piece of the newest committed checkpoint of a partition, one partition after the other. What
    /// of it turns out not to be sound is for the host to refuse: then no core is to be made of this.
    pub fn on_checkpoint(&mut self, config: &Config, piece: Piece<'_>) {
        match piece {
            Piece::Header(header) => {
                self.started_before = true;
                self.shown = Some(header.partition);
                let loading = Loading::new(config, header);
                let loading =
                    loading.expect("a sound checkpoint of this version holds what this program wrote");
                self.partitions.entry(header.partition).or_default().checkpoint = Some(loading);
            }
            Piece::Row(row) => {
                let found = self.shown.and_then(|partition| self.partitions.get_mut(&partition));
                if let Some(loading) = found.and_then(|found| found.checkpoint.as_mut()) {
                    loading.on_row(&row);
                }
            }
        }
    }

    /// A record of the log, in the order of the log.
    pub fn on_record(&mut self, view: &RecordView<'_>) {
        let RecordView { lsn, record: Record { kind, partition, ballot, slot, payload } } = *view;
        self.last = lsn;
        if let Some((node, disk)) = view.record.peer() {
            return self.on_peer(node, disk);
        }
        self.on_vote(partition, ballot);
        if kind == RecordKind::Accept {
            self.on_promised(partition, ballot);
        }
        let found = self.partitions.entry(partition).or_default();
        match kind {
            RecordKind::Chosen if !rules::on(Rule::KeepChosen) => return,
            RecordKind::Accept if BatchView::parse(payload).is_ok() => found.logged.on_record(slot, lsn),
            RecordKind::Chosen => return found.chosen_end = found.chosen_end.max(slot),
            RecordKind::Accept | RecordKind::Vote | RecordKind::Peer => return,
        }
        let known = found.accepted.get(&slot).is_some_and(|(known, _)| *known > ballot);
        if !known {
            found.accepted.insert(slot, (ballot, Batch::from(payload)));
        }
    }

    /// The checkpoints shown, and where the log goes on behind each.
    pub fn checkpoints(&self) -> Vec<(PartitionId, Slot)> {
        let loading = |(partition, found): (&PartitionId, &Found)| {
            Some((*partition, found.checkpoint.as_ref()?.slot()))
        };
        self.partitions.iter().filter_map(loading).collect()
    }

    pub fn is_empty(&self) -> bool {
        self.partitions.is_empty() && !self.started_before
    }

    pub(super) fn disk(&self) -> Option<DiskId> {
        self.disk
    }

    pub(super) fn rebuilds(&self) -> bool {
        self.rebuilding
    }

    pub(super) fn peers(&self) -> impl Iterator<Item = (NodeId, DiskId)> + '_ {
        self.peers.iter().map(|(node, disk)| (*node, *disk))
    }

    /// Whether a replica has promised or accepted something here.
    pub(super) fn has_run(&self, partition: PartitionId) -> bool {
        let found = self.partitions.get(&partition);
        found.is_some_and(|found| {
            let is_bare = found.checkpoint.is_none() && found.accepted.is_empty();
            found.promised > Ballot::default() || !is_bare
        })
    }

    /// Nothing that was found in the log lies behind this.
    pub(super) fn last(&self) -> Lsn {
        self.last
    }

    /// How epochs ended, as far as the checkpoints tell: to be known before anything else is believed.
    pub(super) fn closed(&self) -> impl Iterator<Item = (Stamp, Timestamp)> + '_ {
        let loading = self.partitions.values().filter_map(|found| found.checkpoint.as_ref());
        loading.flat_map(|loading| loading.closed().iter().copied())
    }

    /// What a replica starts from; `None` for one that has never run.
    pub(super) fn take(&mut self, config: &Config, partition: PartitionId, nonce: u64) -> Option<Revived> {
        if !self.started_before {
            return None;
        }
        let found = self.partitions.remove(&partition).unwrap_or_default();
        let Found { promised, checkpoint, accepted, chosen_end, mut logged } = found;
        let alone = config.replicas_of(partition).len() == 1;
        let forgot = match config.durability {
            _ if self.rebuilding => Forgot::Votes,
            _ if self.log_lost => Forgot::Acceptances,
            // Nobody else could tell it what it forgot, and nobody else was told.
            _ if alone => Forgot::Nothing,
            Durability::QuorumDisk => Forgot::Nothing,
            Durability::Memory | Durability::LeaderDisk => Forgot::Acceptances,
        };
        let checkpoint = checkpoint.map(Loading::finish);
        let floor = checkpoint.as_ref().map_or(Slot(0), |loaded| loaded.header.slot);
        logged.on_checkpoint(floor);
        let entry = |(slot, (ballot, batch))| Entry { slot, ballot, batch };
        let accepted = accepted.into_iter().filter(|(slot, _)| *slot >= floor).map(entry).collect();
        let stream = Restored { promised, floor, accepted, chosen_end, forgot, nonce };
        Some(Revived { stream, checkpoint, logged })
    }
}
