//! Orders from other threads to one core: that it hands the leadership of a shard over (DESIGN §6).
//!
//! A bounded mailbox, looked into once a turn. The order brings the way back for its answer; when the core ends
//! before it has answered, that is dropped, and whoever waits there learns it so.
#![forbid(unsafe_code)]

use crate::bounds::HAND_OVER_ORDERS;
use crate::partition::{Core, MoveOrder, Moved};
use crate::txn::Procedure;
use crate::types::{NodeId, ShardId, Timestamp};
use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};

/// Called once, on the core's thread: it must not block.
pub type Answer = Box<dyn FnOnce(Moved) + Send>;

pub struct HandOver {
    pub shard: ShardId,
    pub to: NodeId,
    pub answer: Answer,
}

/// Why a core takes no order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoOrder {
    /// It has not taken those before it yet.
    Busy,
    /// It has ended.
    Ended,
}

#[derive(Clone)]
pub struct OrderSender(SyncSender<HandOver>);

/// The core's end, and the orders that it has not answered.
pub struct Orders {
    inbox: Receiver<HandOver>,
    waiting: BTreeMap<u64, Answer>,
    next: u64,
}

pub fn orders() -> (OrderSender, Orders) {
    let (sender, inbox) = sync_channel(HAND_OVER_ORDERS);
    (OrderSender(sender), Orders { inbox, waiting: BTreeMap::new(), next: 0 })
}

impl OrderSender {
    /// Wake the core afterwards.
    pub fn send(&self, order: HandOver) -> Result<(), NoOrder> {
        self.0.try_send(order).map_err(|refused| match refused {
            TrySendError::Full(_) => NoOrder::Busy,
            TrySendError::Disconnected(_) => NoOrder::Ended,
        })
    }
}

impl Orders {
    /// Before a turn: gives the core one order, if there is any. How many.
    pub(super) fn give<P: Procedure>(&mut self, now: Timestamp, core: &mut Core<P>) -> usize {
        match self.inbox.try_recv() {
            Ok(HandOver { shard, to, answer }) => {
                let token = self.next;
                self.next += 1;
                self.waiting.insert(token, answer);
                core.order_move(now, MoveOrder { shard, to, token });
                1
            }
            // Nobody orders anything any more, as in tests, or nobody has yet.
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => 0,
        }
    }

    /// After a turn: passes on what became of orders. How many.
    pub(super) fn answer<P: Procedure>(&mut self, core: &mut Core<P>) -> usize {
        let mut answered = 0;
        while let Some((token, moved)) = core.poll_moved() {
            if let Some(answer) = self.waiting.remove(&token) {
                answer(moved);
            }
            answered += 1;
        }
        answered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order() -> HandOver {
        HandOver { shard: ShardId(0), to: NodeId(1), answer: Box::new(|_| {}) }
    }

    /// A core that stands still must not let those who ask pile up behind it.
    #[test]
    fn a_full_mailbox_and_one_whose_core_has_ended_say_so() {
        let (sender, orders) = orders();
        assert!((0..HAND_OVER_ORDERS).all(|_| sender.send(order()).is_ok()));
        assert_eq!(sender.send(order()), Err(NoOrder::Busy));
        drop(orders);
        assert_eq!(sender.send(order()), Err(NoOrder::Ended));
    }
}
