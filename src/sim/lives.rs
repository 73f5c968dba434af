//! How nodes of a simulated world die and come back, and what their disks hold then.
//!
//! A crash takes everything that is not on a disk; a restart makes cores of what is there, after a look at what has
//! rotted or was never written. As with all that disks lose: one node at a time, and only while all others have what
//! they were given ([`World::may_lose_disk`]).
#![forbid(unsafe_code)]

use super::board::SimBoard;
use super::disk::{Crash, DiskFaults, Owed, SimDisk, SimDiskOptions};
use super::faults::{Fault, pick};
use super::world::{SimCore, What, World};
use crate::bounds::{KIB, MS};
use crate::config::Durability;
use crate::partition::{Core, Recovery};
use crate::rules::{self, Rule};
use crate::types::{NodeId, Timestamp};
use crate::wal::LogIdentity;
use crate::wal::checkpoint::CheckpointReader;

impl World {
    /// Where memory counts, a minority may lose it at a time: a replica that has not yet got back what it
    /// forgot is of that minority.
    pub(super) fn may_die(&self, with_others: bool) -> bool {
        let whole = |core: &SimCore| core.is_up() && !core.core.is_forgetful();
        let dying = self.nodes.iter().any(|node| node.dying.is_some());
        let alone = !with_others && !dying && self.nodes.len() > 2 && self.cores.iter().all(whole);
        self.config.durability == Durability::QuorumDisk || alone
    }

    pub(super) fn is_up(&self, node: NodeId) -> bool {
        self.cores.iter().any(|core| core.me.node == node && core.is_up())
    }

    /// The node is gone, and with it all that is not on its disk.
    pub(super) fn crash(&mut self, node: NodeId, crash: Crash) {
        self.stats.crashes += 1;
        let World { cores, prng, orders, now: at, .. } = self;
        for (place, core) in cores.iter_mut().enumerate().filter(|(_, core)| core.me.node == node) {
            orders.forget(place);
            let Some(disk) = core.disk.take() else { continue };
            core.mends &= core.core.is_forgetful();
            core.medium = Some(disk.crash(Timestamp(*at), prng, crash));
            core.checkpoints.crash(Timestamp(*at), prng);
            core.clients.set_time(*at);
            core.clients.abandon();
            core.end_life();
        }
        self.nodes[usize::from(node.0)].dying = None;
        self.note_rebuild(node);
        self.recorder.borrow_mut().truth.forget(node);
        let hasty = std::mem::take(&mut self.nodes[usize::from(node.0)].hasty);
        let most = if hasty { HASTE_NS } else { self.profile.absence_ns };
        let after = self.prng.u64(..most);
        self.schedule(self.now + after, What::Restart { node });
    }

    pub(super) fn restart(&mut self, node: NodeId) -> Result<(), String> {
        self.start_clock(node);
        let board = SimBoard::new(self.config.partition_count(), self.config.shards.len());
        self.nodes[usize::from(node.0)].begin_life(board);
        self.aim_again(node);
        self.find_lies(node)?;
        if !self.wipe(node)? {
            self.rot(node)?;
        }
        for at in 0..self.cores.len() {
            if self.cores[at].me.node == node && !self.cores[at].is_up() {
                self.open_disk(at)?;
                self.wake_soon(at);
            }
        }
        Ok(())
    }

    /// A bit of one of the node's disks has flipped, if no other replica is short of anything: what a minority
    /// loses, the others have. The node finds it, and starts without what it cannot trust.
    fn rot(&mut self, node: NodeId) -> Result<(), String> {
        if !self.may_lose_disk(node) || self.prng.f64() >= self.profile.rot {
            return Ok(());
        }
        let of_node = |(_, core): &(usize, &SimCore)| core.me.node == node;
        let places: Vec<usize> = self.cores.iter().enumerate().filter(of_node).map(|(at, _)| at).collect();
        let at = *pick(&mut self.prng, &places);
        let World { cores, prng, .. } = self;
        let core = &mut cores[at];
        let Some(medium) = &mut core.medium else { return Ok(()) };
        let sound = medium.clone();
        if prng.u32(..4) == 0 && core.checkpoints.rot(prng).is_some() {
            core.rebuild();
        } else if medium.rot(prng).is_some() {
            match medium.owed() {
                // The crash has torn the other copy of the votes: two faults, of which one is survived.
                _ if medium.votes().is_none() => *medium = sound,
                Owed::Everything => {}
                // The last writes of all: nothing written later bears witness, and nobody could tell.
                Owed::EndOrDamage(_) => *medium = sound,
                Owed::Damage => core.give_up_log()?,
            }
        }
        self.stats.rots += 1;
        self.stats.struck.strike(Fault::Rot);
        Ok(())
    }

    /// Lies that were told to the process before: found, unless nothing written later bears witness. Nobody could
    /// tell those from writes that were never made, and no log can do without the writes that its drive called
    /// complete; so the drive is held to those.
    fn find_lies(&mut self, node: NodeId) -> Result<(), String> {
        for core in self.cores.iter_mut().filter(|core| core.me.node == node) {
            let Some(medium) = core.medium.as_mut().filter(|medium| medium.has_lied()) else { continue };
            match medium.owed() {
                Owed::Everything => {}
                Owed::EndOrDamage(_) => medium.own_up(),
                Owed::Damage => {
                    core.give_up_log()?;
                    self.stats.lies_found += 1;
                }
            }
        }
        Ok(())
    }

    /// The disk of one more node may lose what it holds: no other replica is short of anything, or will be when
    /// it looks.
    pub(super) fn may_lose_disk(&self, node: NodeId) -> bool {
        let lied = |core: &SimCore| core.disk.as_ref().is_some_and(SimDisk::has_lied);
        let whole = |core: &SimCore| {
            core.me.node == node
                || core.is_up() && !core.mends && !lied(core) && core.core.awaited().next().is_none()
        };
        self.config.durability == Durability::QuorumDisk
            && self.nodes.len() > 1
            && self.cores.iter().all(whole)
    }

    /// Makes a core of what its disk holds.
    pub(super) fn open_disk(&mut self, at: usize) -> Result<(), String> {
        let me = self.cores[at].me;
        let identity = LogIdentity::new("sim", me.node, me.core);
        let faults = self.profile.disk_faults();
        let options = SimDiskOptions { identity, write_bytes_max: WRITE_BYTES, faults };
        let medium = self.cores[at].medium.take().expect("a core that is down has its medium");
        let mut recovery = self.read_checkpoints(at)?;
        recovery.on_disk(self.nodes[usize::from(me.node.0)].identity.disk);
        if self.nodes[usize::from(me.node.0)].identity.rebuilds {
            recovery.on_disk_lost();
        } else if self.cores[at].mends {
            recovery.on_log_lost();
        } else if rules::on(Rule::WholeLog) && medium.misses_any(&recovery.checkpoints()) {
            let found = recovery.checkpoints();
            return Err(format!(
                "{me:?} is short of what it knew, and nobody took it: {found:?}, {medium:?}"
            ));
        }
        let opened = SimDisk::open(medium, options, &mut |view| recovery.on_record(&view));
        let opened = opened.map_err(|refused| format!("{me:?} cannot open its log: {}", refused.why))?;
        for (partition, ballot) in &opened.votes {
            recovery.on_vote(*partition, *ballot);
        }
        opened.peers.iter().for_each(|(node, disk)| recovery.on_peer(*node, *disk));
        let incarnation = self.nodes[usize::from(me.node.0)].incarnation;
        let mut core = Core::restored(&self.config, me, incarnation, self.prng.u64(..), recovery);
        core.set_paced(self.profile.paced);
        if let Some(keys) = &self.keys {
            core.set_keys(keys.clone(), self.now ^ at as u64);
        }
        self.cores[at].begin_life(self.now, opened.disk, core);
        Ok(())
    }

    /// What the checkpoints of a core hold.
    pub(super) fn read_checkpoints(&self, at: usize) -> Result<Recovery, String> {
        let mut recovery = Recovery::nothing();
        let SimCore { me, checkpoints, .. } = &self.cores[at];
        for partition in self.config.hosted(me.node, me.core) {
            let Some(bytes) = checkpoints.committed(partition) else { continue };
            let cluster = LogIdentity::new(&self.config.name, me.node, me.core).cluster;
            let mut reader = CheckpointReader::new(cluster, partition);
            let read = reader.feed(bytes, &mut |piece| recovery.on_checkpoint(&self.config, piece));
            let read = read.and_then(|()| reader.finish());
            read.map_err(|damage| format!("{me:?} cannot read its checkpoint of {partition:?}: {damage}"))?;
        }
        Ok(recovery)
    }
}

impl SimCore {
    /// The log is damaged: opening it must say so, and the replicas are rebuilt from their peers.
    fn give_up_log(&mut self) -> Result<(), String> {
        let Some(medium) = &mut self.medium else { return Ok(()) };
        let identity = LogIdentity::new("sim", self.me.node, self.me.core);
        let options = SimDiskOptions { identity, write_bytes_max: WRITE_BYTES, faults: DiskFaults::NONE };
        if SimDisk::open(medium.clone(), options, &mut |_| {}).is_ok() {
            return Err(format!("{:?} opens its damaged log as if nothing were wrong", self.me));
        }
        self.rebuild();
        Ok(())
    }

    /// The operator does it, while the node is down: log and checkpoints are given up.
    pub(super) fn rebuild(&mut self) {
        if let Some(medium) = &mut self.medium {
            medium.wipe_log();
        }
        self.checkpoints.wipe();
        self.mends = true;
    }
}

/// A supervisor starts a node again within this.
const HASTE_NS: u64 = 50 * MS;
/// The most one write carries: a long run takes several, and a crash tears it in between.
const WRITE_BYTES: usize = 16 * KIB;
