//! What the cores of one node tell each other about the leadership of a shard, whose partitions may lie on
//! several of them. Never on the wire: a parcel carries it as it is.
//!
//! The *chair* of a shard is the core with its first partition: it holds the elections, collects what the
//! others report, and tells them what was decided.
#![forbid(unsafe_code)]

use crate::types::{Ballot, Epoch, NodeId, PartitionId, ShardId, Timestamp};

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Duty {
    // From the chair to everybody.
    /// Run for leader of the shard's streams.
    Campaign { shard: ShardId, ballot: Ballot },
    /// These epochs of the shard ended so: known before anything of a later one is believed.
    Facts { shard: ShardId, epoch: Epoch, facts: Vec<(Epoch, Timestamp)> },
    /// The epoch is open.
    Open { shard: ShardId, ballot: Ballot },
    /// The shard was lost on one of its streams, or we may have lost it and not know.
    StandDown { shard: ShardId, by: Ballot },
    /// This reign is to be handed over: take this step of it, and say when it is done.
    Yield { shard: ShardId, ballot: Ballot, to: NodeId, step: YieldStep },
    /// The hand-over has ended: who leads still, leads on.
    GoOn { shard: ShardId },

    // From whoever it happened to, to the chair.
    /// The seal under this ballot is chosen; so far did the epochs before it get.
    Sealed { partition: PartitionId, ballot: Ballot, ends: Vec<(Epoch, Timestamp)> },
    /// Every peer knows this replica, so that it takes part.
    Admitted { partition: PartitionId },
    /// This replica has forgotten something, or knows it again: only then may the node run for leader.
    Fitness { partition: PartitionId, fit: bool },
    /// A stream has promised, or was lost to, a higher ballot.
    Outbid { shard: ShardId, by: Ballot },
    /// The stream has done its part of a step of the hand-over; no timestamp here is above `reached`.
    Yielded { partition: PartitionId, ballot: Ballot, step: YieldStep, reached: Timestamp },
}

/// What a stream does of a hand-over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum YieldStep {
    /// Waits until the target lacks few slots of it.
    Near,
    /// Takes no new transactions, and waits until none is prepared.
    Pause,
    /// Promises as far as any stream of the shard has got, and waits until the target holds that. What a shard's
    /// epoch ends at is the least of these promises: all that any of its streams took part in is below.
    Part { upto: Timestamp },
}
