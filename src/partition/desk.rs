//! A core during one turn, as its driver sees it.
#![forbid(unsafe_code)]

use super::core::Core;
use super::driver::{Mode, Submit};
use crate::txn::Procedure;
use crate::types::{PartitionId, Timestamp};

pub struct Desk<'a, P: Procedure> {
    core: &'a mut Core<P>,
    now: Timestamp,
    /// Of the log, in bytes.
    room: usize,
}

impl<P: Procedure> Core<P> {
    /// For one turn.
    pub fn desk<'a>(&'a mut self, now: Timestamp, room: usize) -> Desk<'a, P> {
        Desk { core: self, now, room }
    }
}

impl<P: Procedure> Submit<P> for Desk<'_, P> {
    fn submit(&mut self, home: PartitionId, mode: Mode, token: u64, procedure: P) -> Result<(), P> {
        self.core.submit(self.now, self.room, home, mode, token, procedure)
    }

    fn led(&self) -> &[PartitionId] {
        self.core.led()
    }

    fn hosted(&self) -> &[PartitionId] {
        self.core.hosted()
    }

    fn snapshot(&self) -> Timestamp {
        self.core.snapshot()
    }

    fn applied(&self) -> Timestamp {
        self.core.applied()
    }
}
