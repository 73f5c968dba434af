//! What a node knows of all shards, and what that says of a dependency.
//!
//! Invariants:
//!   1. What was stable or lost once stays so, for as long as its epoch is remembered.
//!   2. No watermark is above the final watermark of its epoch (asserted when either is learnt). Had it
//!      been, transactions acknowledged as durable would be gone: better to stop than to go on.
//!
//! **Facts first.** Of one message, learn the closed epochs before the vector. [`Knowledge::knows_opening`]
//! takes a watermark in a later epoch as proof that the closing of the earlier ones is known.
#![forbid(unsafe_code)]

use super::closed::ClosedEpochs;
use super::vector::Vector;
use crate::types::{Epoch, ShardId, Stamp, Standing, Timestamp, Watermark};

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Knowledge {
    vector: Vector,
    closed: ClosedEpochs,
}

impl Knowledge {
    pub fn new(shards: usize) -> Knowledge {
        Knowledge { vector: Vector::new(shards), closed: ClosedEpochs::new(shards) }
    }

    /// Returns whether the vector advanced.
    pub fn learn_vector(&mut self, shard: ShardId, mark: Watermark) -> bool {
        let stamp = Stamp { shard, epoch: mark.epoch };
        if let Some(last) = self.closed.get(stamp) {
            assert_claim(stamp, mark.timestamp, last);
        }
        self.vector.advance(shard, mark)
    }

    /// Returns whether it was news, which calls for a sweep (DESIGN §5.5).
    pub fn learn_closed(&mut self, stamp: Stamp, last: Timestamp) -> bool {
        let mark = self.vector.get(stamp.shard);
        if mark.epoch == stamp.epoch {
            assert_claim(stamp, mark.timestamp, last);
        }
        self.closed.insert(stamp, last)
    }

    pub fn standing(&self, stamp: Stamp, timestamp: Timestamp) -> Standing {
        if let Some(last) = self.closed.get(stamp) {
            return if timestamp <= last { Standing::Stable } else { Standing::Lost };
        }
        let mark = self.vector.get(stamp.shard);
        let begun = stamp.epoch != Epoch(0);
        if begun && mark.epoch == stamp.epoch && timestamp <= mark.timestamp {
            Standing::Stable
        } else {
            Standing::Unknown
        }
    }

    /// Whether any of `deps` is lost: then what rests on them is to be rolled back.
    pub fn lost(&self, deps: impl IntoIterator<Item = (Stamp, Timestamp)>) -> bool {
        deps.into_iter().any(|(stamp, timestamp)| self.standing(stamp, timestamp) == Standing::Lost)
    }

    /// Whether all of `deps` are stable: then what rests on them may be released.
    pub fn stable(&self, deps: impl IntoIterator<Item = (Stamp, Timestamp)>) -> bool {
        deps.into_iter().all(|(stamp, timestamp)| self.standing(stamp, timestamp) == Standing::Stable)
    }

    /// Whether an epoch named by a snapshot token is known to be open, or to have been: then how the
    /// earlier ones closed has been learnt, and what they lost is gone from here.
    pub fn knows_opening(&self, stamp: Stamp) -> bool {
        self.vector.get(stamp.shard).epoch >= stamp.epoch
    }

    pub fn vector(&self) -> &Vector {
        &self.vector
    }

    pub fn closed(&self) -> &ClosedEpochs {
        &self.closed
    }
}

/// Invariant 2.
fn assert_claim(stamp: Stamp, claimed: Timestamp, last: Timestamp) {
    assert!(claimed <= last, "{stamp:?} claimed {claimed:?} and closed at {last:?}");
}
