//! One Multi-Paxos stream of one partition: slots, each of which ends up with one batch.
//!
//! A pure state machine. It reads no clock, opens no file and sends no packet: the partition hands a
//! [`Stream`] one message or completion at a time and carries out, in order, the [`Effect`]s it
//! appends. Batches are opaque. Messages may be lost, repeated, reordered and late.
//!
//! | file | is |
//! |---|---|
//! | `stream` | the whole: routes messages between the parts below, and owns the invariants |
//! | `stream/catch_up` | slots that are missing, and checkpoints that replace them |
//! | `stream/rejoin` | restart, with and without memory of what was promised and accepted |
//! | `acceptor` | what this replica has promised and accepted |
//! | `proposer` | a candidate's recovery, a leader's pipeline |
//! | `learner` | which slots are chosen, which are missing here |
//! | `quorum` | who votes, and how many votes are enough |
//! | `message` | what replicas say to each other |
//!
//! Beside the streams of a shard stands its [`Election`] (`election`), which says when to campaign and at which
//! ballot, and who holds the leader's lease. The two know nothing of each other: the host carries
//! ballots between them.
//!
//! Not here: what a batch means, seals and epochs, the bytes of messages (`wire`) and of records (`wal`),
//! the files and bytes of a checkpoint.
#![forbid(unsafe_code)]

mod acceptor;
mod election;
mod learner;
mod message;
mod proposer;
mod quorum;
mod stream;
#[cfg(test)]
mod tests;

pub use election::{Election, ElectionConfig, ElectionEffect};
pub use message::{
    Accept, Accepted, Batch, Chosen, ElectionMessage, Entry, Fetch, Fetched, PaxosMessage, Prepare, Promise,
    Rejected, Rejoin, Rejoined,
};
pub use stream::{Forgot, Restored, Role, Stream, StreamConfig};

use crate::bounds::{
    FETCH_BYTES_MAX, FETCH_SLOTS_MAX, PIPELINE_SLOTS, RETAINED_BYTES_MAX, RETAINED_SLOTS_MAX,
};
use crate::types::{Ballot, NodeId, Slot};

/// What the partition must do next, in the order appended, to a buffer it owns and reuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Hand this to the wal now; report back when it is durable.
    Persist(Persist),
    /// Send, but not before what it rests on is durable.
    Send { to: NodeId, message: PaxosMessage, rests_on: RestsOn },
    /// Phase 1 is complete: we lead, and our first own proposal takes slot `next`.
    Led { next: Slot },
    /// We were a candidate or the leader, and a higher ballot exists.
    Deposed { by: Ballot },
    /// We lack slots below `floor`, which `at` no longer keeps: only a checkpoint helps.
    Behind { floor: Slot, at: NodeId },
}

/// A record for the wal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Persist {
    /// We promised this ballot. Written in every durability mode.
    Vote { ballot: Ballot },
    /// We accepted this batch. A `Vote` of the same or a higher ballot was handed over before it.
    Accept { slot: Slot, ballot: Ballot, batch: Batch },
}

/// Which of our own records must be durable before a message leaves.
///
/// The wal keeps the order in which it is handed records, so the host need remember only two
/// positions per stream: that of the last `Vote` and that of the last `Accept`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestsOn {
    Nothing,
    /// The last `Vote` handed over before this effect. In every durability mode: a promise that a
    /// restart can forget lets two leaders share a majority.
    Vote,
    /// The last `Accept` handed over before this effect, which is that of this slot and behind the
    /// last `Vote`. In modes that do not count acceptances that vote remains, since an acceptance
    /// speaks of its ballot too.
    Acceptance(Slot),
}

/// Why an input changed nothing, or less than it could have. Not an error: peers lag, and packets
/// repeat. Counted by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ignored {
    /// From below what we promised; the sender is told.
    OldBallot,
    /// A reply to an attempt of ours that is over, or that we did not make.
    StaleReply,
    /// From a node that is no replica of this stream.
    UnknownReplica,
    /// From a node that speaks for a ballot of another.
    NotItsBallot,
    /// The slot was chosen, delivered and dropped.
    BelowFloor,
    /// The slot is further ahead than we can hold, or than the stream goes.
    BeyondWindow,
    /// We hold it already; the sender is told again.
    Duplicate,
    /// The peer no longer keeps what we lack.
    Truncated,
    /// One of us has forgotten what it promised or accepted, and does not vote yet.
    Forgetful,
    /// No correct replica would say this.
    Malformed,
}

/// The limits of one stream. Those of `bounds`, unless a test wants to meet them sooner.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Slots a leader has in flight.
    pub pipeline_slots: usize,
    /// Slots held, chosen or not. A power of two.
    pub retained_slots: usize,
    /// Bytes of batches held. Exceeded by the batch that reaches it, and by a leader's recovery.
    pub retained_bytes: usize,
    /// Slots one part of a promise, one catch-up reply and one resend carry.
    pub page_slots: usize,
    /// Their bytes; exceeded by the batch that reaches it.
    pub page_bytes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            pipeline_slots: PIPELINE_SLOTS,
            retained_slots: RETAINED_SLOTS_MAX,
            retained_bytes: RETAINED_BYTES_MAX,
            page_slots: FETCH_SLOTS_MAX,
            page_bytes: FETCH_BYTES_MAX,
        }
    }
}

// The place of a slot in the ring is a mask; and a full pipeline must not fill the ring, or nothing
// would be left for peers that lag.
const _: () = assert!(RETAINED_SLOTS_MAX.is_power_of_two());
const _: () = assert!(PIPELINE_SLOTS * 2 <= RETAINED_SLOTS_MAX);
