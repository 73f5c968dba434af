//! Crashes that wait for a bad moment: while a node starts or has just started, while it does not vote yet, while it
//! becomes a leader, while a checkpoint of it is written or one of a peer's comes in.
//!
//! An aim is given up when no such moment comes for a while. Where memory counts, no more of it is lost than a
//! minority's: a node may die again before it has got back what it forgot, as long as nobody else does.
#![forbid(unsafe_code)]

use super::disk::Draft;
use super::faults::{Fault, pick};
use super::world::{Death, SimCore, World};
use crate::bounds::SECOND;
use crate::config::Durability;
use crate::paxos::Role;
use crate::types::NodeId;

/// What a node is in the middle of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moment {
    /// The first turns of a process: its predecessor has died a moment ago.
    Start,
    /// It has forgotten what it accepted, and does not vote yet.
    Rejoin,
    /// It campaigns, or has won and not opened its epoch yet.
    Election,
    /// It writes a checkpoint.
    Checkpoint,
    /// It receives one.
    Transfer,
}

pub const MOMENTS: [Moment; 5] =
    [Moment::Start, Moment::Rejoin, Moment::Election, Moment::Checkpoint, Moment::Transfer];

/// How many died in which moment.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Deaths([u32; MOMENTS.len()]);

impl Deaths {
    pub fn of(&self, moment: Moment) -> u32 {
        self.0[moment as usize]
    }
}

/// A death that waits for its moment.
#[derive(Clone, Copy, Debug)]
pub struct Aim {
    moment: Moment,
    /// Only this one.
    node: Option<NodeId>,
    /// Turns in that moment that are let pass.
    spared: u32,
    until: u64,
}

impl World {
    /// The next node that meets a moment of some kind is to die in it.
    pub(super) fn aim(&mut self) {
        let moment = *pick(&mut self.prng, &MOMENTS);
        let most = if moment == Moment::Election { SPARED_ELECTIONS_MAX } else { SPARED_TURNS_MAX };
        let spared = self.prng.u32(..most);
        self.aims.push(Aim { moment, node: None, spared, until: self.now + AIM_NS });
    }

    /// Once a node has died, it may die again soon.
    pub(super) fn aim_again(&mut self, node: NodeId) {
        if self.profile.crash_every_ns > 0 && self.prng.f64() < self.profile.aimed / 3.0 {
            let spared = self.prng.u32(..SPARED_TURNS_MAX);
            let moment = *pick(&mut self.prng, &[Moment::Start, Moment::Rejoin]);
            self.aims.push(Aim { moment, node: Some(node), spared, until: self.now + AIM_NS });
        }
    }

    /// After a turn of a core, and before it dies if it is to.
    pub(super) fn meet_aims(&mut self, at: usize) {
        if self.aims.is_empty() {
            return;
        }
        let (now, node) = (self.now, self.cores[at].me.node);
        self.aims.retain(|aim| aim.until > now);
        for place in 0..self.aims.len() {
            let Aim { moment, node: only, spared, .. } = self.aims[place];
            if only.is_some_and(|only| only != node) || !self.is_moment(at, moment) {
                continue;
            }
            if spared > 0 {
                self.aims[place].spared -= 1;
                continue;
            }
            if self.may_die_again(node) {
                self.aims.swap_remove(place);
                let death = Death::draw(&mut self.prng);
                self.nodes[usize::from(node.0)].dying = Some(death);
                self.stats.deaths.0[moment as usize] += 1;
                self.stats.struck.strike(Fault::Crash);
                return;
            }
        }
    }

    fn is_moment(&self, at: usize, moment: Moment) -> bool {
        let core = &self.cores[at];
        let node = &self.nodes[usize::from(core.me.node.0)];
        match moment {
            Moment::Start => node.incarnation > 1 && node.turns <= u64::from(2 * SPARED_TURNS_MAX),
            Moment::Rejoin => core.core.is_forgetful(),
            Moment::Election => core.core.replicas().iter().any(|replica| match replica.stream.role() {
                Role::Follower => false,
                Role::Candidate => true,
                Role::Leader => !replica.open,
            }),
            Moment::Checkpoint => core.checkpoints.is_writing(Draft::Own),
            Moment::Transfer => core.checkpoints.is_writing(Draft::Received),
        }
    }

    /// Everybody else has all that it ever said it had.
    fn may_die_again(&self, node: NodeId) -> bool {
        let whole = |core: &SimCore| core.me.node == node || core.is_up() && !core.core.is_forgetful();
        let others_dying = self
            .nodes
            .iter()
            .enumerate()
            .any(|(at, other)| at != usize::from(node.0) && other.dying.is_some());
        let alone = !others_dying && self.nodes.len() > 2 && self.cores.iter().all(whole);
        self.config.durability == Durability::QuorumDisk || alone
    }
}

/// How long an aim lasts.
const AIM_NS: u64 = 3 * SECOND;
const SPARED_TURNS_MAX: u32 = 24;
/// An election is over in a few turns.
const SPARED_ELECTIONS_MAX: u32 = 4;
