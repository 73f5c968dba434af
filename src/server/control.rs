//! What the ways in may see of a node that runs here, and ask of it, from any thread.
//!
//! It sees what the board shows and asks through mailboxes: nothing here waits for a core, or makes one wait. A node that
//! was killed or has stopped shows what it showed last, and takes no order any more.
#![forbid(unsafe_code)]

use crate::config::Config;
use crate::reactor::{Answer, HandOver, NoOrder, OrderSender, Shared};
use crate::types::{Ballot, NodeId, ShardId, Watermark};
use std::sync::Arc;

#[derive(Clone)]
pub struct Control {
    pub(super) node: NodeId,
    pub(super) config: Arc<Config>,
    pub(super) shared: Arc<Shared>,
    /// By core.
    pub(super) orders: Vec<OrderSender>,
}

impl Control {
    pub fn node(&self) -> NodeId {
        self.node
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Whether every replica here votes.
    pub fn votes(&self) -> bool {
        self.shared.is_voting()
    }

    /// Whether a replica of the shard is here.
    pub fn hosts(&self, shard: ShardId) -> bool {
        self.config.shards[usize::from(shard.0)].replicas.contains(&self.node)
    }

    /// Who leads a shard: whom its replica here has heard lately, or, without one, whom its watermark names.
    pub fn leader(&self, shard: ShardId) -> Option<Ballot> {
        let board = &self.shared.board;
        if self.hosts(shard) {
            return board.leader(shard);
        }
        Ballot::unpack(board.shard(shard).epoch.0).filter(|ballot| ballot.round > 0)
    }

    /// As far as this node has heard.
    pub fn watermark(&self, shard: ShardId) -> Watermark {
        self.shared.board.shard(shard)
    }

    /// Frames that came in the name of a node and did not open; of no node that had none.
    pub fn refused(&self) -> impl Iterator<Item = (NodeId, u64)> + '_ {
        self.shared.refused()
    }

    /// Orders the shard's core here to hand its leadership over; `answer` is called on that core's thread, or dropped.
    pub fn hand_over(&self, shard: ShardId, to: NodeId, answer: Answer) -> Result<(), NoOrder> {
        let first = self.config.partitions_of(shard).next();
        let core = first.and_then(|first| self.config.core_of(self.node, first)).ok_or(NoOrder::Ended)?;
        self.orders[usize::from(core.0)].send(HandOver { shard, to, answer })?;
        self.shared.waker(core).wake();
        Ok(())
    }
}
