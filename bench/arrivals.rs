//! When the next transaction of a partition starts: as soon as a client is free, or when its time has come.
//!
//! Pure: it is told the time. It neither draws transactions nor submits them.
//!
//! Invariants:
//!   1. Closed loop: free clients and transactions in flight together are the number of clients.
//!   2. Open loop: the n-th start is fixed in advance, whatever became of the ones before it, so that a slow
//!      engine cannot make itself look fast by being asked less (coordinated omission).
#![forbid(unsafe_code)]

use crate::workload::Drawn;
use mako::bounds::{MS, SECOND};
use mako::types::{PartitionId, Timestamp};

/// How transactions are started, for the whole cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Load {
    /// So many clients per partition, each waiting for its durable reply.
    Closed { clients: u32 },
    /// So many transactions per second, dealt evenly to so many partitions.
    Open { per_second: u64, partitions: u64 },
}

/// The clients of one partition.
pub struct Arrivals<P> {
    pub home: PartitionId,
    schedule: Schedule,
    /// A transaction the engine had no room for, to be submitted again: its client still waits for it.
    held: Option<Drawn<P>>,
    /// After `Busy` the partition is left alone until then.
    rest_until: Timestamp,
}

enum Schedule {
    Closed { free: u32 },
    Open { first: Timestamp, started: u64, per_second: u64, partitions: u64 },
}

impl<P> Arrivals<P> {
    pub fn new(load: Load, home: PartitionId, now: Timestamp) -> Arrivals<P> {
        let schedule = match load {
            Load::Closed { clients } => Schedule::Closed { free: clients },
            // The partitions take turns, so that the cluster as a whole is asked evenly.
            Load::Open { per_second, partitions } => {
                let first = now.plus_ns(u64::from(home.0) * SECOND / per_second);
                Schedule::Open { first, started: 0, per_second, partitions }
            }
        };
        Arrivals { home, schedule, held: None, rest_until: Timestamp(0) }
    }

    /// When a transaction may start next; `None` while every client waits for a reply.
    pub fn due(&self) -> Option<Timestamp> {
        match self.schedule {
            Schedule::Closed { free: 0 } => None,
            Schedule::Closed { .. } => Some(self.rest_until),
            Schedule::Open { first, started, per_second, partitions } => {
                let ns = u128::from(started) * u128::from(partitions * SECOND) / u128::from(per_second);
                Some(first.plus_ns(u64::try_from(ns).unwrap_or(u64::MAX)))
            }
        }
    }

    /// Takes the start that is due at `now`: the moment it was meant for, `None` in a closed loop.
    pub fn start(&mut self, now: Timestamp) -> Option<Timestamp> {
        let due = self.due().expect("a start is due");
        assert!(due <= now, "due at {due:?}, now {now:?}");
        match &mut self.schedule {
            Schedule::Closed { free } => {
                *free -= 1;
                None
            }
            Schedule::Open { started, .. } => {
                *started += 1;
                Some(due)
            }
        }
    }

    /// The engine had no room. A client of a closed loop keeps its transaction and tries again after a pause;
    /// an arrival of an open loop is lost.
    pub fn on_busy(&mut self, now: Timestamp, drawn: Drawn<P>) {
        if let Schedule::Closed { free } = &mut self.schedule {
            *free += 1;
            self.held = Some(drawn);
            self.rest(now);
        }
    }

    /// A client has its last reply.
    pub fn on_completed(&mut self) {
        if let Schedule::Closed { free } = &mut self.schedule {
            *free += 1;
        }
    }

    pub fn rest(&mut self, now: Timestamp) {
        self.rest_until = now.plus_ns(BUSY_PAUSE_NS);
    }

    pub fn take_held(&mut self) -> Option<Drawn<P>> {
        self.held.take()
    }
}

/// A full window drains at the pace of round trips; asking more often only burns the core that must drain it.
const BUSY_PAUSE_NS: u64 = MS;

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(5 * SECOND);

    #[test]
    fn a_closed_loop_starts_no_more_than_its_clients() {
        let mut arrivals: Arrivals<()> = Arrivals::new(Load::Closed { clients: 2 }, PartitionId(0), NOW);
        arrivals.start(NOW);
        arrivals.start(NOW);
        assert_eq!(arrivals.due(), None);
        arrivals.on_completed();
        assert!(arrivals.due().is_some_and(|due| due <= NOW));
    }

    /// Invariant 2: falling behind must not move later starts, or the backlog never shows in the latency.
    #[test]
    fn starts_of_an_open_loop_do_not_depend_on_when_they_were_taken() {
        let load = Load::Open { per_second: 3, partitions: 2 };
        let mut prompt: Arrivals<()> = Arrivals::new(load, PartitionId(1), NOW);
        let mut late: Arrivals<()> = Arrivals::new(load, PartitionId(1), NOW);
        for _ in 0..9 {
            let due = prompt.due().unwrap();
            assert_eq!(prompt.start(due), late.start(NOW.plus_ns(100 * SECOND)));
        }
        // Nine starts at 3/2 a second behind the offset of the second partition.
        assert_eq!(prompt.due(), Some(NOW.plus_ns(SECOND / 3 + 6 * SECOND)));
    }

    /// A refused transaction that is simply replaced would thin out whatever kind is refused most.
    #[test]
    fn a_client_refused_tries_the_same_transaction_again_after_a_pause() {
        let mut arrivals = Arrivals::new(Load::Closed { clients: 1 }, PartitionId(0), NOW);
        arrivals.start(NOW);
        arrivals.on_busy(NOW, Drawn { kind: 3, procedure: "payment" });
        assert_eq!(arrivals.due(), Some(NOW.plus_ns(BUSY_PAUSE_NS)));
        assert!(arrivals.take_held().is_some_and(|held| (held.kind, held.procedure) == (3, "payment")));

        let load = Load::Open { per_second: 1, partitions: 1 };
        let mut arrivals = Arrivals::new(load, PartitionId(0), NOW);
        arrivals.start(NOW);
        arrivals.on_busy(NOW, Drawn { kind: 3, procedure: "payment" });
        assert!(arrivals.take_held().is_none());
    }
}
