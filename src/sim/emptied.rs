//! Disks that are emptied under their nodes: all of them at once, while the process is down.
//!
//! Such a node cannot know, and starts as if it had never run; its peers know, and turn it away. Then the operator
//! has it rebuilt, which makes the disk a new one that says so.
//!
//! As with all that disks lose: one node at a time, and only while all others have what they were given.
#![forbid(unsafe_code)]

use super::disk::{Crash, Medium};
use super::faults::Fault;
use super::world::{SEGMENT_BYTES, World};
use crate::types::{DiskId, NodeId};

/// What a node is known by.
pub struct SimIdentity {
    pub(super) disk: DiskId,
    /// It was emptied, and nobody has told its node so.
    emptied: bool,
    /// The operator has told it, and not every replica has learned enough to vote.
    pub(super) rebuilds: bool,
}

impl SimIdentity {
    pub(super) fn new(disk: u64) -> SimIdentity {
        SimIdentity { disk: DiskId(disk), emptied: false, rebuilds: false }
    }
}

impl World {
    /// Everything a node had is gone, and it is about to start.
    pub(super) fn empty_disks(&mut self, node: NodeId) {
        let World { cores, nodes, prng, stats, .. } = self;
        for core in cores.iter_mut().filter(|core| core.me.node == node) {
            core.medium = Some(Medium::new(SEGMENT_BYTES));
            core.checkpoints.wipe();
        }
        let identity = &mut nodes[usize::from(node.0)].identity;
        *identity = SimIdentity { emptied: true, ..SimIdentity::new(prng.u64(..)) };
        stats.struck.strike(Fault::Wipe);
        stats.emptied += 1;
    }

    /// After a turn of a core: a peer may have turned its node away, which then ends. Whether it has.
    pub(super) fn is_refused(&mut self, at: usize) -> Result<bool, String> {
        let (node, refused_by) = (self.cores[at].me.node, self.cores[at].core.refused_by());
        let Some(by) = refused_by else { return Ok(false) };
        let World { nodes, prng, stats, .. } = self;
        let identity = &mut nodes[usize::from(node.0)].identity;
        if !identity.emptied {
            return Err(format!("{by:?} turns {node:?} away, whose disk is its own"));
        }
        *identity = SimIdentity { rebuilds: true, ..SimIdentity::new(prng.u64(..)) };
        stats.refusals += 1;
        self.crash(node, Crash::ProcessKill);
        for core in self.cores.iter_mut().filter(|core| core.me.node == node) {
            core.rebuild();
        }
        Ok(true)
    }

    /// Once every replica of a node votes, it is noted that its rebuild is over; else all of them are to learn again.
    pub(super) fn note_rebuild(&mut self, node: NodeId) {
        let identity = &mut self.nodes[usize::from(node.0)].identity;
        let of_node = || self.cores.iter().filter(|core| core.me.node == node);
        identity.rebuilds &= of_node().any(|core| core.core.is_forgetful());
        let rebuilds = identity.rebuilds;
        for core in self.cores.iter_mut().filter(|core| core.me.node == node) {
            core.mends |= rebuilds;
        }
    }
}
