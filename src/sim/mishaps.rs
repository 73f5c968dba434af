//! What befalls a simulated world besides cut links and crashes: clocks, slow cores, old frames, leaders that are
//! cut off again and again, disks that lie.
//!
//! Each is an event that schedules the next of its kind, and ends when the world heals.
//!
//! What is promised of disks that lie holds for a minority: one node at a time, and only while all others have
//! what they were given (`World::may_lose_disk`). The lie is about one write of the log: it completes, and
//! nothing landed, or it landed elsewhere in the log. The node dies some time later and finds it out.
#![forbid(unsafe_code)]

use super::attic::{OldAnswer, OldFrame};
use super::clocks::CLOCK_OFF_NS_MAX;
use super::disk::{Lie, Medium};
use super::faults::{Fault, pick};
use super::world::{SimCore, What, World};
use crate::bounds::{MS, SECOND};
use crate::config::Durability;
use crate::partition::{Replica, cluster_hash};
use crate::paxos::{Rejoined, Role};
use crate::rpc::Rpc;
use crate::rules::{self, Rule};
use crate::types::{NodeId, ShardId, Timestamp};
use crate::wire::{Message, StreamMessage};

/// Leaders of one shard cut off, one after the other.
#[derive(Clone, Copy, Default)]
pub struct Bout {
    shard: ShardId,
    left: u32,
}

impl World {
    // Clocks.

    /// The speed of one clock changes.
    pub(super) fn drift(&mut self) {
        let node = self.draw_node();
        let World { nodes, prng, now, profile, .. } = self;
        if profile.skew_ns == 0 {
            return;
        }
        nodes[usize::from(node.0)].clock.drift(*now, prng);
        self.stats.struck.strike(Fault::Skew);
        self.again(SECOND, What::Drift);
    }

    /// A wall clock is set, and the node may be started anew at once.
    ///
    /// Where memory counts, by no more than peers bear. Another start puts right what they do not, and there only
    /// a minority may be started anew at a time; but while they refuse what a leader says, nothing that rests on it
    /// is settled, and whoever has forgotten is not taught.
    pub(super) fn jump(&mut self) {
        if self.profile.jump_every_ns == 0 {
            return;
        }
        let forgets = self.config.durability != Durability::QuorumDisk;
        let jump_ns =
            if forgets { self.profile.jump_ns.min(CLOCK_OFF_NS_MAX / 2) } else { self.profile.jump_ns };
        let (node, most) = (self.draw_node(), jump_ns as i64);
        self.nodes[usize::from(node.0)].clock.set_wall(self.prng.i64(-most..=most));
        if self.prng.bool() {
            self.doom(node);
        }
        self.again(self.profile.jump_every_ns, What::Jump);
    }

    /// A process starts, and looks at the wall.
    pub(super) fn start_clock(&mut self, node: NodeId) {
        let most = self.profile.skew_ns as i64;
        let World { nodes, prng, now, profile, stats, .. } = self;
        let clock = &mut nodes[usize::from(node.0)].clock;
        if profile.jump_every_ns == 0 {
            clock.set_wall(prng.i64(-most..=most));
        }
        if clock.start(*now) > 2 * profile.skew_ns + MS && profile.jump_every_ns > 0 {
            stats.struck.strike(Fault::Jump);
        }
    }

    /// All walls are right, and no clock changes its speed any more.
    pub(super) fn heal_clocks(&mut self) {
        let most = self.profile.skew_ns as i64;
        self.profile.skew_ns = 0;
        for node in &mut self.nodes {
            node.clock.heal(self.now);
            node.clock.set_wall(self.prng.i64(-most..=most));
        }
        self.schedule(self.now, What::SetRight);
    }

    /// The operator starts nodes anew, one after the other, whose processes count from a wall that was too far off.
    pub(super) fn set_clocks_right(&mut self) {
        let off = |node: &NodeId| self.nodes[usize::from(node.0)].clock.is_too_far_off(self.now);
        let Some(node) = (0..self.nodes.len() as u16).map(NodeId).find(off) else { return };
        if self.cores.iter().all(|core| core.is_up()) {
            self.doom(node);
        }
        self.schedule(self.now + 100 * MS, What::SetRight);
    }

    pub(super) fn clocks_are_right(&self) -> bool {
        self.nodes.iter().all(|node| !node.clock.is_too_far_off(self.now))
    }

    // Cores.

    /// Every turn of one core takes long for a while.
    pub(super) fn slow_core(&mut self) {
        if self.profile.core_every_ns == 0 {
            return;
        }
        let at = self.prng.usize(..self.cores.len());
        self.cores[at].slow_until = self.now + self.prng.u64(..self.profile.absence_ns);
        self.stats.struck.strike(Fault::Core);
        self.again(self.profile.core_every_ns, What::SlowCore);
    }

    // Frames.

    /// Now and then one is kept on its way.
    pub(super) fn keep_frame(&mut self, from: NodeId, core: usize, frame: &[u8]) {
        if self.profile.replay_every_ns == 0 || self.prng.u32(..KEPT_ONE_IN) != 0 {
            return;
        }
        let life = |node: NodeId| self.nodes[usize::from(node.0)].incarnation;
        let lives = (life(from), life(self.cores[core].me.node));
        let old = OldFrame { core, bytes: frame.to_vec(), sent_at: self.now, from, lives };
        self.attic.keep(old, &mut self.prng);
    }

    /// A few old ones arrive.
    pub(super) fn replay_frames(&mut self) {
        if self.profile.replay_every_ns == 0 {
            return;
        }
        self.replay_answers();
        for _ in 0..self.prng.u32(1..=REPLAYED_MAX) {
            let Some(old) = self.attic.draw(&mut self.prng) else { break };
            if self.now - old.sent_at < OLD_NS {
                continue;
            }
            let OldFrame { core, bytes, from, lives, .. } = old.clone();
            let life = |node: NodeId| self.nodes[usize::from(node.0)].incarnation;
            let outlived = lives != (life(from), life(self.cores[core].me.node));
            self.stats.outlived += u64::from(outlived);
            self.stats.struck.strike(Fault::Replay);
            self.schedule(self.now, What::Frame { core, frame: bytes });
        }
        self.again(self.profile.replay_every_ns, What::Replay);
    }

    /// What the leaders of its streams would answer to a core that does not vote yet. Told to a later life of it,
    /// this is an answer from before it accepted what it has forgotten since.
    pub(super) fn keep_answers(&mut self, at: usize) {
        if self.profile.replay_every_ns == 0 || !self.cores[at].core.is_forgetful() {
            return;
        }
        let nonce = self.nodes[usize::from(self.cores[at].me.node.0)].incarnation;
        let replicas = self.cores[at].core.replicas().iter();
        let asking = replicas.filter(|replica| replica.is_forgetful()).map(|replica| replica.id);
        for partition in asking.collect::<Vec<_>>() {
            let leading = self.cores.iter().filter(|core| core.is_up()).find_map(|core| {
                let leads =
                    |replica: &&Replica<_>| replica.id == partition && replica.stream.role() == Role::Leader;
                core.core.replicas().iter().find(leads).map(|replica| (core.me, &replica.stream))
            });
            let Some((from, stream)) = leading else { continue };
            let (promised, leading) = (stream.promised(), Some((stream.leader(), stream.next_slot())));
            let rejoined = Rejoined { nonce, promised, leading };
            self.attic.keep_answer(OldAnswer { to: at, from, partition, rejoined });
        }
    }

    /// A core that does not vote yet hears what was answered to an earlier life of it.
    fn replay_answers(&mut self) {
        for at in (0..self.cores.len()).filter(|at| self.cores[*at].is_up()).collect::<Vec<_>>() {
            let SimCore { me, core, .. } = &self.cores[at];
            let life = self.nodes[usize::from(me.node.0)].incarnation;
            if !core.is_forgetful() {
                continue;
            }
            let cluster = cluster_hash(&self.config.name);
            let mut frames = Vec::new();
            for OldAnswer { from, partition, rejoined, .. } in self.attic.answers(at, life) {
                let sender = self.nodes[usize::from(from.node.0)].incarnation;
                let mut rpc = Rpc::new(*from, cluster, sender, self.nodes.len());
                if let Some(keys) = &self.keys {
                    rpc.set_keys(keys.clone(), self.now);
                }
                let message = StreamMessage::Rejoined(*rejoined);
                let (mut bytes, mut frame) = (Vec::new(), Vec::new());
                Message::Stream { partition: *partition, from: from.node, message }.encode_into(&mut bytes);
                rpc.cast(Timestamp(self.now), *me, &bytes);
                while rpc.poll_tx(Timestamp(self.now), &mut frame).is_some() {
                    frames.push(frame.clone());
                }
            }
            for frame in frames {
                self.stats.outlived += 1;
                self.schedule(self.now, What::Frame { core: at, frame });
            }
        }
    }

    // Leaders.

    /// Whoever leads is cut off for about as long as it takes to replace it; then its successor is.
    pub(super) fn flap(&mut self) {
        if self.profile.flap_every_ns == 0 {
            return;
        }
        if self.bout.left == 0 {
            let shard = ShardId(self.prng.u16(..self.config.shards.len() as u16));
            self.bout = Bout { shard, left: self.prng.u32(3..8) };
        }
        self.bout.left -= 1;
        let shard = self.bout.shard;
        let timeout_ns = self.profile.election_timeout_ns;
        let leads = |core: &&SimCore| {
            core.is_up() && core.core.replicas().iter().any(|replica| replica.shard == shard && replica.open)
        };
        if let Some(leader) = self.cores.iter().find(leads).map(|core| core.me.node) {
            match self.nodes.len() >= 3 && self.prng.bool() {
                true => self.undermine(leader),
                false => {
                    let until = self.now + self.prng.u64(timeout_ns / 2..timeout_ns * 2);
                    self.cut_off(leader, until);
                }
            }
            self.stats.struck.strike(Fault::Flap);
        }
        let wait_ns = if self.bout.left > 0 { timeout_ns } else { self.profile.flap_every_ns };
        self.again(wait_ns, What::Flap);
    }

    /// A leader is cut off from one follower, and a second one, on which its lease then rests, dies and is back at once:
    /// it has forgotten that it is bound.
    fn undermine(&mut self, leader: NodeId) {
        let nodes = self.nodes.len() as u16;
        let (second, third) = (NodeId((leader.0 + 1) % nodes), NodeId((leader.0 + 2) % nodes));
        let (rival, support) = if self.prng.bool() { (second, third) } else { (third, second) };
        let timeout_ns = self.profile.election_timeout_ns;
        let until = self.now + self.prng.u64(timeout_ns..timeout_ns * 4);
        self.outages.push(((leader, rival), until));
        self.outages.push(((rival, leader), until));
        if self.prng.f64() < self.profile.aimed && self.profile.crash_every_ns > 0 {
            let dies_at = self.now + self.prng.u64(timeout_ns..timeout_ns * 2);
            self.nodes[usize::from(support.0)].hasty = true;
            self.schedule(dies_at, What::Doom { node: support });
        }
    }

    // Disks.

    /// A disk lies about its next write, and its node finds out at its next start, which is not far.
    pub(super) fn tell_lie(&mut self, lie: Lie) {
        let (every_ns, fault, what) = match lie {
            Lie::Misdirected => (self.profile.misdirect_every_ns, Fault::Misdirect, What::Misdirect),
            Lie::Lost => (self.profile.lost_every_ns, Fault::Lost, What::Lose),
        };
        if every_ns == 0 {
            return;
        }
        let at = self.prng.usize(..self.cores.len());
        let node = self.cores[at].me.node;
        let lied = |core: &SimCore| core.disk.as_ref().is_some_and(|disk| disk.has_lied());
        // One of a node at a time: what two do to each other nobody could put right.
        if self.may_lose_disk(node) && !lied(&self.cores[at]) {
            if let Some(disk) = &mut self.cores[at].disk {
                disk.lie_once(lie);
                self.stats.struck.strike(fault);
            }
            let found_at = self.now + *pick(&mut self.prng, &[20 * MS, 200 * MS, SECOND]);
            self.schedule(found_at, What::Doom { node });
        }
        self.again(every_ns, what);
    }

    /// One of the node's disks has lost a checkpoint or the oldest part of its log, or all of them everything, if no
    /// other replica is short of anything. Whether it has.
    pub(super) fn wipe(&mut self, node: NodeId) -> Result<bool, String> {
        let strikes = self.profile.wipe > 0.0 && self.prng.f64() < self.profile.wipe;
        if !strikes || !self.may_lose_disk(node) {
            return Ok(false);
        }
        let places: Vec<usize> = (0..self.cores.len()).filter(|at| self.cores[*at].me.node == node).collect();
        let at = *pick(&mut self.prng, &places);
        if places.iter().any(|at| self.cores[*at].mends) {
            return Ok(false);
        }
        if self.prng.u32(..3) == 0 {
            self.empty_disks(node);
            return Ok(true);
        }
        let World { cores, prng, .. } = self;
        let SimCore { medium, checkpoints, .. } = &mut cores[at];
        let before = (medium.clone(), checkpoints.clone());
        let lost = match prng.bool() {
            true => checkpoints.lose(prng).is_some(),
            false => medium.as_mut().is_some_and(Medium::lose_oldest),
        };
        let found = self.read_checkpoints(at)?.checkpoints();
        let core = &mut self.cores[at];
        // What nothing rests on yet is not missed.
        if !lost || !core.medium.as_ref().is_some_and(|medium| medium.misses_any(&found)) {
            (core.medium, core.checkpoints) = before;
            return Ok(false);
        }
        if rules::on(Rule::WholeLog) {
            core.rebuild();
        }
        self.stats.struck.strike(Fault::Wipe);
        Ok(true)
    }

    fn draw_node(&mut self) -> NodeId {
        NodeId(self.prng.u16(..self.nodes.len() as u16))
    }

    pub(super) fn again(&mut self, every_ns: u64, what: What) {
        let at = self.now + self.prng.u64(every_ns / 2..=every_ns * 3 / 2);
        self.schedule(at, what);
    }
}

/// Of the frames that are sent, one in so many is kept.
const KEPT_ONE_IN: u32 = 50;
/// At once.
const REPLAYED_MAX: u32 = 16;
/// A younger one is only late.
const OLD_NS: u64 = 300 * MS;
