//! The leader's lease: which of its heartbeats were acknowledged, and how long that protects it.
//!
//! A follower is bound for one timeout from when it *received* a heartbeat, the leader protected for one
//! timeout, less the drift of their clocks, from when it *sent* it: the second ends first, whatever the delay.
#![forbid(unsafe_code)]

use crate::bounds::{CLOCK_DRIFT_PART, REPLICAS_MAX};
use crate::paxos::Ignored;
use crate::paxos::quorum::Quorum;
use crate::types::{Ballot, Timestamp};

pub(super) struct Reign {
    pub ballot: Ballot,
    pub won_at: Timestamp,
    /// When heartbeats were sent last. Monotone.
    pub sent: Timestamp,
    /// By replica: when the newest heartbeat it acknowledged was sent; 0 for none. Our own place stays at 0.
    acked: Vec<Timestamp>,
}

impl Reign {
    pub fn new(ballot: Ballot, now: Timestamp, replicas: usize) -> Reign {
        Reign { ballot, won_at: now, sent: now, acked: vec![Timestamp::default(); replicas] }
    }

    pub fn on_heartbeaten(&mut self, from: usize, sent: Timestamp) -> Result<(), Ignored> {
        if sent < self.won_at || sent > self.sent {
            return Err(Ignored::Malformed);
        }
        self.acked[from] = self.acked[from].max(sent);
        Ok(())
    }

    /// When the newest heartbeat was sent that this replica has acknowledged; 0 for none.
    pub fn acked(&self, index: usize) -> Timestamp {
        self.acked[index]
    }

    pub fn heartbeat_at(&self, heartbeat_ns: u64) -> Timestamp {
        self.sent.plus_ns(heartbeat_ns)
    }

    /// The end of the lease; 0 while no majority has acknowledged anything. We ourselves always have: to
    /// promise another ballot ends our reign in the same step.
    pub fn lease_until(&self, quorum: &Quorum, timeout_ns: u64) -> Timestamp {
        let mut acked = [Timestamp::default(); REPLICAS_MAX];
        let acked = &mut acked[..self.acked.len()];
        acked.copy_from_slice(&self.acked);
        acked[quorum.me()] = Timestamp(u64::MAX);
        acked.sort_unstable();
        match acked[acked.len() - quorum.majority()] {
            Timestamp(0) => Timestamp(0),
            sent => sent.plus_ns(timeout_ns - timeout_ns.div_ceil(CLOCK_DRIFT_PART)),
        }
    }

    pub fn assert_invariants(&self, quorum: &Quorum, timeout_ns: u64) {
        let until = self.lease_until(quorum, timeout_ns);
        let protects = |sent: Timestamp| sent > Timestamp(0) && sent.plus_ns(timeout_ns) >= until;
        let others = self.acked.iter().filter(|&&sent| protects(sent)).count();
        let held = until > Timestamp(0) && quorum.len() > 1;
        assert!(!held || others + 1 >= quorum.majority(), "a lease on {:?}", self.acked);
        assert!(self.acked.iter().all(|&sent| sent <= self.sent));
    }
}
