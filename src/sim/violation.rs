//! What can be wrong with a history: a name, the transactions concerned, and the account of it.
//!
//! The account is for the reader of a failing seed: transactions, keys, writes and timestamps, a cycle
//! edge by edge. It is composed only when something is wrong, so it may cost what it likes.
#![forbid(unsafe_code)]

use std::fmt;

use super::history::{History, TxnIndex};

/// The first offence found in a history.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    pub kind: Kind,
    /// The transactions concerned; those of a cycle in its order.
    pub txns: Vec<TxnIndex>,
    account: String,
}

/// The kinds of offence, in the order in which they are looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Two answers where the contract allows one.
    AnsweredTwice,
    /// Acknowledged as durable, then rolled back.
    DurableLost,
    /// Rolled back, then acknowledged as durable.
    DurableAfterRollback,
    /// A scan returned rows outside its range, twice, or out of order.
    MalformedScan,
    /// Two writers of a key have one timestamp: their order is nobody's to say.
    SharedTimestamp,
    /// A value that no transaction ever wrote to that key.
    UnwrittenRead,
    /// A value of a transaction that was aborted or rolled back, read by one that was not.
    DirtyRead,
    /// A value its own writer had replaced before it committed.
    IntermediateRead,
    /// A cycle without anti-dependency: each saw or overwrote the one before.
    CircularFlow,
    /// One update of a key rests on a version another update had replaced.
    LostUpdate,
    /// One anti-dependency: a transaction saw one write of another and missed a second one.
    ReadSkew,
    /// Several anti-dependencies: each missed what the next one wrote.
    WriteSkew,
    /// Something written and answered before the reader began was not seen.
    StaleRead,
    /// Writes or reads ordered against real time, with nothing missed.
    AgainstTime,
    /// Serializable, but not in the order of the timestamps.
    TimestampOrder,
    /// A snapshot that saw a transaction in part.
    FracturedSnapshot,
    /// A snapshot that is not the state at its timestamp.
    WrongSnapshot,
    /// The cluster came to rest in a state the history does not lead to.
    FinalState,
}

impl Violation {
    pub(super) fn new(history: &History, kind: Kind, txns: &[TxnIndex], mut account: String) -> Violation {
        for txn in txns {
            account.push_str("\n  ");
            account.push_str(&history.describe(*txn));
        }
        Violation { kind, txns: txns.to_vec(), account }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.account)
    }
}

impl std::error::Error for Violation {}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::AnsweredTwice => "answered twice",
            Kind::DurableLost => "durable transaction rolled back",
            Kind::DurableAfterRollback => "durable after rolled back",
            Kind::MalformedScan => "malformed scan",
            Kind::SharedTimestamp => "two writers of one key and timestamp",
            Kind::UnwrittenRead => "read of a write nobody made",
            Kind::DirtyRead => "dirty read",
            Kind::IntermediateRead => "intermediate read",
            Kind::CircularFlow => "circular information flow",
            Kind::LostUpdate => "lost update",
            Kind::ReadSkew => "read skew",
            Kind::WriteSkew => "write skew",
            Kind::StaleRead => "stale read in real time",
            Kind::AgainstTime => "order against real time",
            Kind::TimestampOrder => "read against timestamp order",
            Kind::FracturedSnapshot => "fractured snapshot",
            Kind::WrongSnapshot => "snapshot is not the state at its timestamp",
            Kind::FinalState => "final state",
        })
    }
}
