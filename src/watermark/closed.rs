//! The closed epochs: how far each reign that is over got. Facts, so they never change.
//!
//! Bounded: each shard keeps its newest facts, an equal part of [`CLOSED_EPOCHS_MAX`], so that one that keeps
//! changing leaders cannot push out what is known of the others. What was dropped is older than all that is
//! kept, so when a peer tells of it again it is no news. A dependency on a forgotten epoch is `Unknown`,
//! which delays but does not lie; dozens of reigns later nothing unstable rests on it.
//!
//! Invariants:
//!   1. An epoch has one final watermark; two nodes that say different things have broken the protocol,
//!      and nothing that rests on either may be told to anyone.
//!   2. `facts` is sorted by stamp and holds at most `kept` of a shard, which never become fewer.
#![forbid(unsafe_code)]

use crate::bounds::{CLOSED_EPOCHS_MAX, SHARDS_MAX};
use crate::types::{Epoch, Stamp, Timestamp};

/// `(shard, epoch) → final watermark` (DESIGN §5.3).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClosedEpochs {
    facts: Vec<(Stamp, Timestamp)>,
    shards: usize,
    /// Facts a shard may have.
    kept: usize,
}

impl ClosedEpochs {
    pub fn new(shards: usize) -> ClosedEpochs {
        assert!((1..=SHARDS_MAX).contains(&shards), "{shards} shards, of at most {SHARDS_MAX}");
        let kept = CLOSED_EPOCHS_MAX / shards;
        ClosedEpochs { facts: Vec::with_capacity(shards * kept), shards, kept }
    }

    /// Returns whether it was news. A fact older than all of a full shard is not; nor is one of a shard this
    /// cluster does not have, or of no epoch, for it may come from a peer's message.
    pub fn insert(&mut self, stamp: Stamp, last: Timestamp) -> bool {
        if usize::from(stamp.shard.0) >= self.shards || stamp.epoch == Epoch(0) {
            return false;
        }
        let mut place = match self.place(stamp) {
            Ok(known) => {
                let before = self.facts[known].1;
                assert!(before == last, "{stamp:?} closed at {before:?}, and again at {last:?}");
                return false;
            }
            Err(place) => place,
        };
        let oldest = self.facts.partition_point(|(fact, _)| fact.shard < stamp.shard);
        let end = self.facts.partition_point(|(fact, _)| fact.shard <= stamp.shard);
        if end - oldest == self.kept {
            if place == oldest {
                return false;
            }
            self.facts.remove(oldest);
            place -= 1;
        }
        self.facts.insert(place, (stamp, last));
        true
    }

    /// The final watermark of an epoch, `None` while it is open as far as is known.
    pub fn get(&self, stamp: Stamp) -> Option<Timestamp> {
        self.place(stamp).ok().map(|place| self.facts[place].1)
    }

    /// By shard, then by epoch.
    pub fn iter(&self) -> impl Iterator<Item = (Stamp, Timestamp)> + '_ {
        self.facts.iter().copied()
    }

    pub fn len(&self) -> usize {
        self.facts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.facts.is_empty()
    }

    fn place(&self, stamp: Stamp) -> Result<usize, usize> {
        self.facts.binary_search_by_key(&stamp, |(stamp, _)| *stamp)
    }
}

/// With elections a second apart or more, what is forgotten is a minute old at the least.
const _: () = assert!(CLOSED_EPOCHS_MAX / SHARDS_MAX >= 60);
