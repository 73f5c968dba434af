//! Where transactions come from: the seam between a core and whatever submits to it.
//!
//! A driver lives on the core's own thread: a bench generates transactions there, the simulator's
//! clients do, and the ways in will.
#![forbid(unsafe_code)]

use crate::txn::{Procedure, Reply, Txn};
use crate::types::{PartitionId, Timestamp};

pub trait Driver {
    type Procedure: Procedure;

    /// Once a turn: submits what it wants to, a bounded number.
    fn turn(&mut self, now: Timestamp, core: &mut dyn Submit<Self::Procedure>);

    /// What became of a submission. `Speculative` or `Aborted` comes first and gives the procedure
    /// back; a `Speculative` is followed by exactly one `Durable` or `RolledBack`.
    fn on_reply(&mut self, now: Timestamp, token: u64, reply: Reply, procedure: Option<Self::Procedure>);

    /// When it wants a turn though nothing happened.
    fn deadline(&self) -> Option<Timestamp>;
}

/// A core, as a driver sees it.
pub trait Submit<P> {
    /// Transactions of one partition run inside this call; their replies come in the same turn. Over
    /// a bound the procedure comes back: busy, try again later.
    fn submit(&mut self, home: PartitionId, mode: Mode, token: u64, procedure: P) -> Result<(), P>;

    /// The partitions that this core leads and that take transactions now.
    fn led(&self) -> &[PartitionId];

    /// Every partition with a replica here: any of them can be home of a snapshot transaction.
    fn hosted(&self) -> &[PartitionId];

    /// The newest snapshot timestamp known here; 0 while some shard has not been heard of.
    fn snapshot(&self) -> Timestamp;

    /// Every replica here holds everything at or below it.
    fn applied(&self) -> Timestamp;
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// At the leader of its home partition, strictly serializable.
    ReadWrite,
    /// Reads only, on any replica, at the newest snapshot timestamp known there.
    Snapshot,
}

/// A driver that submits nothing: a node without clients.
pub struct Idle;

/// The procedure of a node without clients: there is none.
pub enum NoProcedure {}

impl Procedure for NoProcedure {
    async fn run(&self, _: &Txn) -> Result<(), crate::txn::Abort> {
        match *self {}
    }
}

impl Driver for Idle {
    type Procedure = NoProcedure;

    fn turn(&mut self, _: Timestamp, _: &mut dyn Submit<NoProcedure>) {}

    fn on_reply(&mut self, _: Timestamp, _: u64, _: Reply, _: Option<NoProcedure>) {}

    fn deadline(&self) -> Option<Timestamp> {
        None
    }
}
