//! The fault `handover`: somebody orders leaders to hand their shards over, at any time, to anybody.
//!
//! Most orders go to whoever leads and name another replica; some go astray, as those of operators do. Every
//! order is to be answered once, unless its node dies, and one that is called done is to be so.
#![forbid(unsafe_code)]

use super::faults::Fault;
use super::world::{SimCore, What, World};
use crate::partition::{MoveOrder, Moved};
use crate::types::{Ballot, NodeId, ShardId};

/// Orders that are not answered yet, with the core each was given to.
#[derive(Default)]
pub struct Orders {
    given: u64,
    open: Vec<(usize, MoveOrder)>,
}

/// What became of orders that a leader was given for another node.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Moves {
    pub ordered: u64,
    pub done: u64,
    pub refused: u64,
}

impl Orders {
    /// The core is gone, and its orders with it.
    pub fn forget(&mut self, at: usize) {
        self.open.retain(|(core, _)| *core != at);
    }
}

impl World {
    /// Somebody gives an order.
    pub(super) fn order_move(&mut self) {
        if self.profile.handover_every_ns == 0 {
            return;
        }
        self.again(self.profile.handover_every_ns, What::HandOver);
        let shard = ShardId(self.prng.u16(..self.config.shards.len() as u16));
        let chairs = |core: &SimCore| core.core.replicas().iter().any(|replica| replica.is_first_of(shard));
        let leads = |core: &SimCore| core.core.replicas().iter().any(|r| r.is_first_of(shard) && r.open);
        let astray = self.prng.u32(..ASTRAY_ONE_IN) == 0;
        let fits = |core: &&SimCore| core.is_up() && if astray { chairs(core) } else { leads(core) };
        let who: Vec<usize> = (0..self.cores.len()).filter(|at| fits(&&self.cores[*at])).collect();
        let Some(&at) = who.get(self.prng.usize(..who.len().max(1))) else { return };
        let to = NodeId(self.prng.u16(..self.nodes.len() as u16));
        self.orders.given += 1;
        let order = MoveOrder { shard, to, token: self.orders.given };
        self.orders.open.push((at, order));
        let now = self.local_time(self.cores[at].me.node);
        if leads(&self.cores[at]) && to != self.cores[at].me.node {
            self.stats.moves.ordered += 1;
        }
        self.cores[at].core.order_move(now, order);
        self.stats.struck.strike(Fault::HandOver);
        self.wake_soon(at);
    }

    /// Takes what a core says of its orders.
    pub(super) fn take_moved(&mut self, at: usize) -> Result<(), String> {
        while let Some((token, moved)) = self.cores[at].core.poll_moved() {
            let me = self.cores[at].me;
            let asked = self.orders.open.iter().position(|(core, order)| (*core, order.token) == (at, token));
            let Some(asked) = asked else { return Err(format!("{me:?} answers order {token} again")) };
            let (_, MoveOrder { to, shard, .. }) = self.orders.open.swap_remove(asked);
            match moved {
                Moved::Done { epoch } => {
                    let by = Ballot::unpack(epoch.0).map(|ballot| ballot.node);
                    if by != Some(to) {
                        return Err(format!("{me:?} has handed {shard:?} to {to:?}, and {by:?} leads it"));
                    }
                    self.stats.moves.done += u64::from(to != me.node);
                }
                Moved::Refused(_) => self.stats.moves.refused += 1,
            }
        }
        Ok(())
    }

    /// An order nobody has answered, of a world that has come to rest.
    pub(super) fn unanswered_order(&self) -> Option<String> {
        let (at, order) = self.orders.open.first()?;
        Some(format!("{:?} never answers {order:?}", self.cores[*at].me))
    }
}

/// One order in so many is given to a core that need not lead.
const ASTRAY_ONE_IN: u32 = 8;
