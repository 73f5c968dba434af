//! Which slots of one stream count, and where each epoch ended in it (DESIGN §5.3).
//!
//! An epoch is the unbroken run of its own slots behind its seal. Paxos may bring back slots of a reign that
//! is over behind a hole, or behind the seal of a later one: they are beyond the run, so they are void, and
//! what they promise was never true.
//!
//! Invariants:
//!   1. A promise counts only in the run of its epoch, so every replica that has learned a slot counts the
//!      same promises below it.
//!   2. `ends` is sorted by epoch and holds no epoch below the last one that is known to be closed.
#![forbid(unsafe_code)]

use crate::rules::{self, Rule};
use crate::types::{Epoch, Timestamp};

#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Runs {
    /// Whose run the last slot belonged to; `None` behind a break.
    current: Option<Epoch>,
    /// The last promise of each run.
    ends: Vec<(Epoch, Timestamp)>,
    /// In the shard's first stream: epochs whose facts were seen there, so that they may have opened, and
    /// that no later fact has closed.
    opened: Vec<Epoch>,
}

impl Runs {
    /// What a checkpoint kept of another.
    pub fn restored(current: Option<Epoch>, ends: Vec<(Epoch, Timestamp)>, opened: Vec<Epoch>) -> Runs {
        Runs { current, ends, opened }
    }

    /// The next slot of the stream. False when it is void.
    pub fn on_slot(&mut self, epoch: Epoch, is_seal: bool, promise: Timestamp) -> bool {
        let within = self.current == Some(epoch) || !rules::on(Rule::UnbrokenRun);
        if !is_seal && !within {
            self.current = None;
            return false;
        }
        self.current = Some(epoch);
        match self.ends.binary_search_by_key(&epoch, |(known, _)| *known) {
            Ok(at) => self.ends[at].1 = self.ends[at].1.max(promise),
            Err(at) => self.ends.insert(at, (epoch, promise)),
        }
        true
    }

    /// Facts of `epoch` were seen in the shard's first stream: every epoch before it is closed, or never
    /// opened.
    pub fn on_facts(&mut self, epoch: Epoch) {
        self.forget_below(epoch);
        self.opened.retain(|opened| *opened > epoch);
        self.opened.insert(0, epoch);
    }

    /// The epochs below `epoch` are closed, or never opened: nobody will ask where they ended.
    pub fn forget_below(&mut self, epoch: Epoch) {
        self.ends.retain(|(known, _)| *known >= epoch);
    }

    /// Epochs that may have opened and that no fact seen here closes.
    pub fn opened(&self) -> &[Epoch] {
        &self.opened
    }

    /// The last promise of each run that is not known to be closed.
    pub fn ends(&self) -> &[(Epoch, Timestamp)] {
        &self.ends
    }

    pub fn current(&self) -> Option<Epoch> {
        self.current
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    enum Slot {
        Seal(u64, u64),
        Own(u64, u64),
        Filler(u64),
    }

    fn counted(slots: &[Slot]) -> (Vec<bool>, Runs) {
        let mut runs = Runs::default();
        let counts = slots.iter().map(|slot| match slot {
            Slot::Seal(epoch, promise) => runs.on_slot(Epoch(*epoch), true, Timestamp(*promise)),
            Slot::Own(epoch, promise) => runs.on_slot(Epoch(*epoch), false, Timestamp(*promise)),
            Slot::Filler(epoch) => runs.on_slot(Epoch(*epoch), false, Timestamp(0)),
        });
        (counts.collect(), runs)
    }

    /// The reason for the rule: slot 4 was proposed by epoch 1 when slot 3 was still on its way and was lost.
    /// Its promise covers what was in slot 3, which is gone.
    #[test]
    fn what_comes_back_behind_a_hole_is_void_and_so_is_all_after_it() {
        use Slot::{Filler, Own, Seal};
        let (counts, runs) =
            counted(&[Seal(1, 5), Own(1, 10), Filler(2), Own(1, 30), Own(1, 40), Seal(2, 50), Own(2, 60)]);
        assert_eq!(counts, [true, true, false, false, false, true, true]);
        assert_eq!(runs.ends(), [(Epoch(1), Timestamp(10)), (Epoch(2), Timestamp(60))]);
    }

    #[test]
    fn what_comes_back_behind_a_later_seal_is_void() {
        use Slot::{Own, Seal};
        let (counts, runs) = counted(&[Own(1, 3), Seal(1, 5), Seal(2, 7), Own(1, 30), Own(2, 40)]);
        assert_eq!(counts, [false, true, true, false, false]);
        assert_eq!(runs.ends(), [(Epoch(1), Timestamp(5)), (Epoch(2), Timestamp(7))]);
    }

    /// A candidate that stops half-way opens nothing, and must not stay for ever among those to be closed.
    #[test]
    fn facts_end_every_epoch_before_them() {
        use Slot::{Own, Seal};
        let (_, mut runs) = counted(&[Seal(1, 5), Own(1, 9), Seal(2, 11), Seal(3, 12)]);
        runs.on_facts(Epoch(1));
        assert_eq!(runs.opened(), [Epoch(1)]);
        runs.on_facts(Epoch(3));
        assert_eq!((runs.opened(), runs.ends()), (&[Epoch(3)][..], &[(Epoch(3), Timestamp(12))][..]));
    }
}
