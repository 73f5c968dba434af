//! The words every layer shares: identifiers, ballots, timestamps, and the bytes of a value.
//!
//! Newtypes, so that two integers of different meaning cannot be swapped. Nothing here decides
//! anything; the orders derived on [`Ballot`] and [`Watermark`] are part of the protocol.
#![forbid(unsafe_code)]

use std::fmt;
use std::ops::Deref;
use std::rc::Rc;

/// A process of the cluster, by its position in the cluster file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct NodeId(pub u16);

/// A set of partitions with one set of replicas, one leader and one epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ShardId(pub u16);

/// A partition of the whole cluster: shards count theirs on from those of the shards before them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct PartitionId(pub u16);

/// A core of one node, counted from 0; not the number of a CPU.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct CoreId(pub u16);

/// A table, by its position in the cluster file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct TableId(pub u16);

/// One core of one node: what a session connects.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Endpoint {
    pub node: NodeId,
    pub core: CoreId,
}

/// A leader's attempt. Compared by round first, so a later attempt by anyone wins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Ballot {
    pub round: u32,
    pub node: NodeId,
}

impl Ballot {
    /// The order of the packed form is the order of ballots.
    pub fn pack(self) -> u64 {
        (u64::from(self.round) << 16) | u64::from(self.node.0)
    }

    /// Bits above the round are not a ballot of ours: `None`.
    pub fn unpack(bits: u64) -> Option<Ballot> {
        let round = u32::try_from(bits >> 16).ok()?;
        let node = NodeId(u16::try_from(bits & 0xffff).ok()?);
        Some(Ballot { round, node })
    }

    /// No two reigns share a ballot, so the ballot names the epoch (DESIGN §3).
    pub fn epoch(self) -> Epoch {
        Epoch(self.pack())
    }
}

impl fmt::Debug for Ballot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.round, self.node.0)
    }
}

/// A shard's reign under one leader: the packed ballot under which it was won. 0 is "none yet".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch(pub u64);

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 >> 16, self.0 & 0xffff)
    }
}

/// A position in a stream.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Slot(pub u64);

impl Slot {
    pub fn next(self) -> Slot {
        Slot(self.0 + 1)
    }
}

/// A position in a core's wal: everything below it was handed over before it. Monotone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Lsn(pub u64);

/// The disk of a node, from when it was new or made anew until it is emptied: what was promised on another, nobody
/// remembers on this one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DiskId(pub u64);

/// Nanoseconds of a hybrid logical clock. 0 is before everything.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub u64);

impl Timestamp {
    pub fn next(self) -> Timestamp {
        Timestamp(self.0 + 1)
    }

    /// The timestamp before this one; that of 0 is 0.
    pub fn prev(self) -> Timestamp {
        Timestamp(self.0.saturating_sub(1))
    }

    pub fn plus_ns(self, ns: u64) -> Timestamp {
        Timestamp(self.0.saturating_add(ns))
    }

    /// Nanoseconds from `earlier` to here; 0 when `earlier` is later.
    pub fn since(self, earlier: Timestamp) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@{}", self.0)
    }
}

/// One reign of one shard.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Stamp {
    pub shard: ShardId,
    pub epoch: Epoch,
}

/// How far a shard has got, in which epoch. A later epoch is above every timestamp of an earlier one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Watermark {
    pub epoch: Epoch,
    pub timestamp: Timestamp,
}

/// What is known of a dependency `(stamp, timestamp)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Survives whatever a minority of replicas does.
    Stable,
    /// Its epoch closed below the timestamp: gone.
    Lost,
    Unknown,
}

/// One attempt of one transaction: its home partition, the epoch of that, and a number unique there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct TxnId {
    pub home: PartitionId,
    pub epoch: Epoch,
    pub number: u64,
}

/// The bytes stored under a key. Cloning shares them; they never change.
#[derive(Clone, PartialEq, Eq)]
pub struct Value(Rc<[u8]>);

impl Value {
    pub fn new(bytes: &[u8]) -> Value {
        Value(Rc::from(bytes))
    }
}

impl Deref for Value {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl From<&[u8]> for Value {
    fn from(bytes: &[u8]) -> Value {
        Value::new(bytes)
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} B", self.len())
    }
}

/// The source of every random decision: seeded, so that a run can be repeated.
pub type Prng = fastrand::Rng;

#[cfg(test)]
mod tests {
    use super::*;

    /// Epochs are compared as packed ballots; if the orders differed, an old reign could outrank a new one.
    #[test]
    fn packed_ballots_keep_the_order_of_ballots() {
        let ballots = [(0, 0), (0, 7), (1, 0), (1, 65_535), (2, 0), (u32::MAX, 65_535)];
        let ballots = ballots.map(|(round, node)| Ballot { round, node: NodeId(node) });
        for pair in ballots.windows(2) {
            assert!(pair[0] < pair[1] && pair[0].pack() < pair[1].pack());
        }
        assert!(ballots.iter().all(|b| Ballot::unpack(b.pack()) == Some(*b)));
        assert_eq!(Ballot::unpack(1 << 60), None);
    }
}
