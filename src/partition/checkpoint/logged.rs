//! Which part of its core's log a partition still needs: the acceptances it has appended there, in order, and
//! the slots they are of.
//!
//! Several partitions share a log, and the log is cut at one place for all of them (`Checkpointer`).
//! Records close together count as one step, so that what is remembered is a small part of what is logged.
//!
//! Invariant: every record of a slot at or above the one asked for lies in the first step kept, or behind it.
#![forbid(unsafe_code)]

use crate::bounds::CHECKPOINT_LOG_STEP_BYTES;
use crate::types::{Lsn, Slot};
use std::collections::VecDeque;

#[derive(Default)]
pub struct Logged {
    steps: VecDeque<Step>,
    /// Of any kind.
    last: Lsn,
}

struct Step {
    /// Of its first record.
    first: Lsn,
    /// Of any record in it: a new leader writes old slots again.
    highest: Slot,
}

impl Logged {
    /// An acceptance was appended, or found in the log at the start, behind those before it.
    pub fn on_record(&mut self, slot: Slot, lsn: Lsn) {
        assert!(lsn >= self.last, "{lsn:?} behind {:?}", self.last);
        self.last = lsn;
        match self.steps.back_mut().filter(|step| lsn.0 < step.first.0 + CHECKPOINT_LOG_STEP_BYTES) {
            Some(step) => step.highest = step.highest.max(slot),
            None => self.steps.push_back(Step { first: lsn, highest: slot }),
        }
    }

    /// A vote was appended, which is kept beside the log as well.
    pub fn on_vote(&mut self, lsn: Lsn) {
        self.last = self.last.max(lsn);
    }

    /// A checkpoint holds every slot below `slot`.
    pub fn on_checkpoint(&mut self, slot: Slot) {
        while self.steps.front().is_some_and(|step| step.highest < slot) {
            self.steps.pop_front();
        }
    }

    /// The first record that is needed.
    pub fn first_needed(&self) -> Option<Lsn> {
        self.steps.front().map(|step| step.first)
    }

    /// The last record of all.
    pub fn last(&self) -> Lsn {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Prng;

    /// A record cut off that a restart needs is a forgotten acceptance.
    #[test]
    fn no_record_of_a_slot_behind_the_checkpoint_is_ever_given_up() {
        let mut advanced = 0;
        for seed in 0..50 {
            let mut prng = Prng::with_seed(seed);
            let (mut logged, mut records, mut lsn, mut slot) = (Logged::default(), Vec::new(), 0, 0);
            let mut covered = Slot(0);
            for _ in 0..300 {
                lsn += prng.u64(1..CHECKPOINT_LOG_STEP_BYTES);
                // A new leader proposes the tail again.
                slot = if prng.u8(..20) == 0 { prng.u64(slot / 2..=slot) } else { slot + 1 };
                logged.on_record(Slot(slot), Lsn(lsn));
                records.push((Slot(slot), Lsn(lsn)));
                if prng.u8(..10) == 0 {
                    covered = covered.max(Slot(prng.u64(..=slot)));
                    logged.on_checkpoint(covered);
                    let needed = records.iter().find(|(slot, _)| *slot >= covered).map(|(_, lsn)| *lsn);
                    let kept = logged.first_needed();
                    assert!(
                        needed.is_none_or(|needed| kept.is_some_and(|kept| kept <= needed)),
                        "seed {seed}"
                    );
                    advanced += usize::from(kept.is_none_or(|kept| kept > records[0].1));
                }
            }
        }
        assert!(advanced > 100, "nothing was ever given up: {advanced}");
    }
}
