//! Which replica of this core is looked at next: audits while transactions run, checks after them.
//!
//! One inspection at a time, because a local one holds the core's turn while it reads. What there is to see is
//! the workload's affair; `driver` submits.
//!
//! Invariants:
//!   1. An inspection that failed is no finding: a check is run again until it has been seen to the end.
//!   2. Every replica hosted here is checked, in turn.
#![forbid(unsafe_code)]

use crate::workload::{Inspection, Role, Stage, Workload};
use mako::bounds::MS;
use mako::partition::Submit;
use mako::types::{NodeId, PartitionId, Timestamp};

pub struct Inspections<W: Workload> {
    node: NodeId,
    under_way: bool,
    /// One that has more to read, or failed.
    again: Option<(Inspection, W::Procedure)>,
    rest_until: Timestamp,
    audits_begun: usize,
    /// The replica being checked, by its position among those hosted, and the next look at it.
    replica: usize,
    index: u32,
}

impl<W: Workload> Inspections<W> {
    pub fn new(node: NodeId) -> Self {
        Inspections {
            node,
            under_way: false,
            again: None,
            rest_until: Timestamp(0),
            audits_begun: 0,
            replica: 0,
            index: 0,
        }
    }

    pub fn next_audit(
        &mut self,
        now: Timestamp,
        workload: &mut W,
        core: &dyn Submit<W::Procedure>,
    ) -> Option<(Inspection, W::Procedure)> {
        if self.under_way || now < self.rest_until {
            return None;
        }
        let audit = self.again.take().or_else(|| {
            let hosted = core.hosted();
            let home = *hosted.get(self.audits_begun % hosted.len().max(1))?;
            self.audits_begun += 1;
            let inspection = self.inspection(Stage::Audit, home, core.led());
            workload.audit(inspection).map(|procedure| (inspection, procedure))
        });
        self.under_way = audit.is_some();
        audit
    }

    pub fn next_check(
        &mut self,
        now: Timestamp,
        workload: &mut W,
        core: &dyn Submit<W::Procedure>,
    ) -> Option<(Inspection, W::Procedure)> {
        if self.under_way || now < self.rest_until {
            return None;
        }
        let again = self.again.take().filter(|(inspection, _)| inspection.stage == Stage::Check);
        let check = again.or_else(|| {
            while let Some(home) = core.hosted().get(self.replica) {
                let inspection = self.inspection(Stage::Check, *home, core.led());
                if let Some(procedure) = workload.check(inspection, self.index) {
                    self.index += 1;
                    return Some((inspection, procedure));
                }
                self.replica += 1;
                self.index = 0;
            }
            None
        });
        self.under_way = check.is_some();
        check
    }

    /// Whether every replica hosted here has been checked to the end.
    pub fn is_complete(&self, hosted: &[PartitionId]) -> bool {
        self.replica >= hosted.len() && !self.under_way && self.again.is_none()
    }

    pub fn on_inspected(&mut self, now: Timestamp, inspection: Inspection, again: Option<W::Procedure>) {
        self.under_way = false;
        self.again = again.map(|procedure| (inspection, procedure));
        if inspection.stage == Stage::Audit {
            self.rest_until = now.plus_ns(PAUSE_NS);
        }
    }

    /// The engine could not serve it: the snapshot was too old, or the replica not ready.
    pub fn on_failed(&mut self, now: Timestamp, inspection: Inspection, procedure: W::Procedure) {
        self.under_way = false;
        self.again = Some((inspection, procedure));
        self.rest_until = now.plus_ns(PAUSE_NS);
    }

    fn inspection(&self, stage: Stage, home: PartitionId, led: &[PartitionId]) -> Inspection {
        let role = if led.contains(&home) { Role::Leader } else { Role::Follower };
        Inspection { stage, node: self.node, home, role }
    }
}

/// Between audits, and before one that failed is tried again: many a second, without crowding out the load.
const PAUSE_NS: u64 = 10 * MS;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Core, Counting};

    const START: Timestamp = Timestamp(MS);
    const LATER: Timestamp = Timestamp(100 * MS);

    /// Invariant 1: a replica too far behind to be read must not pass for one that was found in order.
    #[test]
    fn a_check_that_failed_is_run_again_before_the_replica_counts_as_checked() {
        let mut core = Core::new(&[0], &[0]);
        let (mut workload, mut inspections) = (Counting::new(0), Inspections::<Counting>::new(NodeId(0)));
        let (inspection, procedure) = inspections.next_check(START, &mut workload, &core).unwrap();
        assert!(inspections.next_check(START, &mut workload, &core).is_none(), "one at a time");
        inspections.on_failed(START, inspection, procedure);
        assert!(inspections.next_check(START, &mut workload, &core).is_none(), "it pauses first");

        core.led.clear();
        let (again, _) = inspections.next_check(LATER, &mut workload, &core).unwrap();
        assert_eq!(again, inspection);
        inspections.on_inspected(LATER, again, None);
        assert!(!inspections.is_complete(&core.hosted));
    }

    /// Invariant 2, for a core that leads one partition and follows in two others.
    #[test]
    fn every_hosted_replica_is_checked_in_its_role() {
        let core = Core::new(&[1], &[0, 1, 2]);
        let (mut workload, mut inspections) = (Counting::new(0), Inspections::<Counting>::new(NodeId(5)));
        let mut seen = Vec::new();
        while let Some((inspection, _)) = inspections.next_check(START, &mut workload, &core) {
            seen.push((inspection.home.0, inspection.role));
            inspections.on_inspected(START, inspection, None);
        }
        let roles = [Role::Follower, Role::Leader, Role::Follower];
        let expected: Vec<(u16, Role)> = (0..).zip(roles).flat_map(|replica| [replica; 2]).collect();
        assert_eq!(seen, expected);
        assert!(inspections.is_complete(&core.hosted));
    }

    /// An audit left over from the run says nothing about the state after it.
    #[test]
    fn an_audit_that_failed_late_is_not_taken_for_a_check() {
        let core = Core::new(&[0], &[0]);
        let (mut workload, mut inspections) = (Counting::new(0), Inspections::<Counting>::new(NodeId(0)));
        let (audit, procedure) = inspections.next_audit(START, &mut workload, &core).unwrap();
        inspections.on_failed(START, audit, procedure);
        let (check, _) = inspections.next_check(LATER, &mut workload, &core).unwrap();
        assert_eq!((audit.stage, check.stage), (Stage::Audit, Stage::Check));
    }
}
