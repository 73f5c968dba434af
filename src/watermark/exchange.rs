//! When a node next tells the others what it knows.
//!
//! Often while something waits and there is news, for every interval is latency of a durable reply; hardly
//! ever otherwise, for an idle cluster is to be idle. It keeps time, not contents.
//!
//! Invariant: two exchanges are never closer than [`EXCHANGE_INTERVAL_NS`], whatever happens in between.
#![forbid(unsafe_code)]

use crate::bounds::{EXCHANGE_IDLE_NS, EXCHANGE_INTERVAL_NS};
use crate::types::Timestamp;

#[derive(Clone, Debug)]
pub struct ExchangeSchedule {
    last: Timestamp,
    /// Something was learnt since `last` that the others may not know.
    changed: bool,
    /// The others are asked for more than they were: they may be idle, and must hear of it to go on.
    demanded: bool,
}

impl ExchangeSchedule {
    /// A node that starts says so as soon as it may: it knows nothing and is told nothing by the idle.
    pub fn new(now: Timestamp) -> ExchangeSchedule {
        ExchangeSchedule { last: now, changed: false, demanded: true }
    }

    /// The vector advanced, or an epoch closed.
    pub fn on_change(&mut self) {
        self.changed = true;
    }

    /// A timestamp wanted of another shard grew.
    pub fn on_wanted(&mut self) {
        self.demanded = true;
    }

    pub fn on_sent(&mut self, now: Timestamp) {
        *self = ExchangeSchedule { last: now, changed: false, demanded: false };
    }

    /// When the next exchange is due; in the past means now. `waiting`: a window here, or a peer that
    /// said so, waits for watermarks to advance.
    pub fn due(&self, waiting: bool) -> Timestamp {
        let busy = self.demanded || (self.changed && waiting);
        self.last.plus_ns(if busy { EXCHANGE_INTERVAL_NS } else { EXCHANGE_IDLE_NS })
    }

    pub fn is_due(&self, now: Timestamp, waiting: bool) -> bool {
        now >= self.due(waiting)
    }
}
