//! Which of the delivered slots of a stream may still hold something unsettled, and what the stream looked
//! like before each: so that a checkpoint can say from where it is to be replayed.
//!
//! The runs of a stream are not known for a slot of the past: a copy is kept for the beginning of each
//! *stretch* of slots, because walking the batches again would need batches that memory has dropped.
//! A stretch is one slot long, and more when many slots wait for something: memory is bounded, and all that
//! is lost is that a checkpoint begins a little earlier than it might.
//!
//! Invariants:
//!   1. Slots come in order, each once; `end` is the one that comes next.
//!   2. Every slot whose entries may be unsettled lies at or above the first stretch.
//!   3. There are at most `CHECKPOINT_STRETCHES_MAX` stretches after `compact`.
#![forbid(unsafe_code)]

use crate::bounds::CHECKPOINT_STRETCHES_MAX;
use crate::types::{Slot, Timestamp, Watermark};
use crate::watermark::Runs;
use std::collections::VecDeque;

pub struct Delivered {
    end: Slot,
    stretches: VecDeque<Stretch>,
    /// Slots with entries in a stretch, at most.
    stride: u32,
}

/// A stream as it was when everything below `slot` had been delivered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    pub slot: Slot,
    pub runs: Runs,
    pub applied: Watermark,
}

struct Stretch {
    before: Place,
    /// The highest timestamp of an entry in it.
    highest: Timestamp,
    slots: u32,
}

impl Delivered {
    /// Nothing yet, and nothing below `end` is ever to be delivered.
    pub fn from(end: Slot) -> Delivered {
        Delivered { end, stretches: VecDeque::new(), stride: 1 }
    }

    /// The next slot, the highest timestamp of its entries (0 without any), and what was before it.
    pub fn on_slot(&mut self, slot: Slot, highest: Timestamp, runs: &Runs, applied: Watermark) {
        assert!(slot == self.end, "{slot:?} is delivered where {:?} was to come", self.end);
        self.end = slot.next();
        if highest == Timestamp::default() {
            return;
        }
        match self.stretches.back_mut().filter(|last| last.slots < self.stride) {
            Some(last) => {
                last.highest = last.highest.max(highest);
                last.slots += 1;
            }
            None => {
                let before = Place { slot, runs: runs.clone(), applied };
                self.stretches.push_back(Stretch { before, highest, slots: 1 });
            }
        }
    }

    /// Nothing unsettled has a timestamp below `lowest`; `None`: nothing is unsettled.
    pub fn settle(&mut self, lowest: Option<Timestamp>) {
        while self.stretches.front().is_some_and(|first| lowest.is_none_or(|lowest| first.highest < lowest)) {
            self.stretches.pop_front();
        }
        if self.stretches.is_empty() {
            self.stride = 1;
        }
    }

    /// Whether `settle`, and `compact` after it, are due.
    pub fn is_full(&self) -> bool {
        self.stretches.len() > CHECKPOINT_STRETCHES_MAX
    }

    /// Makes two stretches one while there are too many.
    pub fn compact(&mut self) {
        while self.stretches.len() > CHECKPOINT_STRETCHES_MAX / 2 {
            let mut stretches = std::mem::take(&mut self.stretches).into_iter();
            while let Some(mut one) = stretches.next() {
                if let Some(other) = stretches.next() {
                    one.highest = one.highest.max(other.highest);
                    one.slots += other.slots;
                }
                self.stretches.push_back(one);
            }
            self.stride = self.stride.saturating_mul(2);
        }
    }

    /// Where a replay has to begin, if that is below the end.
    pub fn first_unsettled(&self) -> Option<&Place> {
        self.stretches.front().map(|first| &first.before)
    }

    pub fn end(&self) -> Slot {
        self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Epoch, Prng};

    const EPOCH: Epoch = Epoch(7);

    /// Delivers slots with these highest timestamps; each also promises its own number.
    fn deliver(delivered: &mut Delivered, runs: &mut Runs, highest: &[u64]) {
        for highest in highest {
            let slot = delivered.end();
            let applied = Watermark { epoch: EPOCH, timestamp: Timestamp(slot.0) };
            delivered.on_slot(slot, Timestamp(*highest), runs, applied);
            runs.on_slot(EPOCH, true, Timestamp(slot.0 + 1));
        }
    }

    /// The runs of the end would count promises of slots that are replayed again as if they had been made
    /// before them.
    #[test]
    fn a_replay_begins_at_the_first_unsettled_slot_with_the_runs_of_then() {
        let (mut delivered, mut runs) = (Delivered::from(Slot(0)), Runs::default());
        deliver(&mut delivered, &mut runs, &[10, 0, 40, 30, 0]);
        delivered.settle(Some(Timestamp(30)));
        let place = delivered.first_unsettled().unwrap();
        assert_eq!((place.slot, place.applied.timestamp), (Slot(2), Timestamp(2)));
        assert_eq!(place.runs.ends(), [(EPOCH, Timestamp(2))]);
        // One with a lower timestamp may stand behind one with a higher.
        delivered.settle(Some(Timestamp(41)));
        assert!(delivered.first_unsettled().is_none());
        assert_eq!(delivered.end(), Slot(5));
    }

    /// A shard that is down for an hour leaves something unsettled in a slot of an hour ago.
    #[test]
    fn memory_is_bounded_and_no_unsettled_slot_is_ever_left_out() {
        for seed in 0..20 {
            let mut prng = Prng::with_seed(seed);
            let (mut delivered, mut runs) = (Delivered::from(Slot(0)), Runs::default());
            let mut all: Vec<u64> = Vec::new();
            let mut lowest = 0;
            for _ in 0..200 {
                let highest: Vec<u64> = (0..prng.usize(..100)).map(|_| prng.u64(1..1_000)).collect();
                deliver(&mut delivered, &mut runs, &highest);
                all.extend(&highest);
                if delivered.is_full() {
                    delivered.compact();
                }
                assert!(delivered.stretches.len() <= CHECKPOINT_STRETCHES_MAX);
                if prng.u8(..10) == 0 {
                    lowest = prng.u64(lowest..1_000);
                }
                delivered.settle(Some(Timestamp(lowest)));
                let first = all.iter().position(|highest| *highest >= lowest);
                let begins = delivered.first_unsettled().map_or(delivered.end(), |place| place.slot);
                assert!(first.is_none_or(|first| begins <= Slot(first as u64)), "seed {seed}");
            }
        }
    }
}
