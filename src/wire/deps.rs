//! The dependencies of a transaction: for each stamp it rests on, the highest timestamp (DESIGN §3, §4).
//!
//! A sparse map that is nearly always one or two entries long and then lives inline. It knows nothing of
//! watermarks: whether a dependency is stable or lost is asked of `watermark`.
//!
//! Invariants:
//!   1. Entries are in strictly ascending order of stamp: one entry per stamp, one encoding per map.
//!   2. There are at most [`DEPS_MAX`].
#![forbid(unsafe_code)]

use smallvec::SmallVec;
use thiserror::Error;

use super::cursor::{Layout, Reader, Writer};
use super::malformed::Malformed;
use crate::bounds::{DEPS_MAX, SHARDS_MAX};
use crate::types::{Stamp, Timestamp};

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Deps {
    entries: SmallVec<[(Stamp, Timestamp); INLINE]>,
}

impl Deps {
    pub fn new() -> Deps {
        Deps::default()
    }

    /// Keeps the maximum: resting on a timestamp of an epoch is resting on everything below it.
    pub fn add(&mut self, stamp: Stamp, timestamp: Timestamp) -> Result<(), DepsFull> {
        match self.entries.binary_search_by_key(&stamp, |entry| entry.0) {
            Ok(at) => {
                let kept = &mut self.entries[at].1;
                *kept = timestamp.max(*kept);
            }
            Err(_) if self.entries.len() == DEPS_MAX => return Err(DepsFull),
            Err(at) => self.entries.insert(at, (stamp, timestamp)),
        }
        Ok(())
    }

    /// Full half-way leaves a part of `other` here: the transaction it was for cannot go on anyway.
    pub fn merge(&mut self, other: &Deps) -> Result<(), DepsFull> {
        if self.entries.is_empty() {
            self.entries.extend_from_slice(&other.entries);
            return Ok(());
        }
        other.iter().try_for_each(|(stamp, timestamp)| self.add(stamp, timestamp))
    }

    pub fn get(&self, stamp: Stamp) -> Option<Timestamp> {
        let at = self.entries.binary_search_by_key(&stamp, |entry| entry.0).ok()?;
        Some(self.entries[at].1)
    }

    /// In ascending order of stamp.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (Stamp, Timestamp)> + '_ {
        self.entries.iter().copied()
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Keeps the capacity.
    pub fn clear(&mut self) {
        self.entries.clear();
    }
}

impl<'a> Layout<'a> for Deps {
    const BYTES_MIN: usize = 4;

    fn put(&self, out: &mut Writer<'_>) {
        out.list(&self.entries, DEPS_MAX);
    }

    fn take(from: &mut Reader<'a>) -> Result<Deps, Malformed> {
        let entries: SmallVec<[(Stamp, Timestamp); INLINE]> = from.short_list(DEPS_MAX)?;
        let ascending = entries.windows(2).all(|pair| pair[0].0 < pair[1].0);
        if ascending { Ok(Deps { entries }) } else { Err(Malformed::Unordered) }
    }
}

/// The transaction rests on more reigns than a cluster can have unsettled; it must abort.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("a transaction rests on more than {DEPS_MAX} reigns")]
pub struct DepsFull;

/// Entries held without an allocation.
const INLINE: usize = 4;

// Every shard's reign must fit, or a transaction over all shards could never commit.
const _: () = assert!(DEPS_MAX >= SHARDS_MAX);

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::types::{Epoch, ShardId};

    fn stamp(shard: u16, epoch: u64) -> Stamp {
        Stamp { shard: ShardId(shard), epoch: Epoch(epoch) }
    }

    fn entry() -> impl Strategy<Value = (Stamp, Timestamp)> {
        (0..8_u16, 0..4_u64, 0..50_u64).prop_map(|(shard, epoch, ts)| (stamp(shard, epoch), Timestamp(ts)))
    }

    proptest! {
        /// A dependency lost in a merge is a transaction acknowledged although what it read was rolled back.
        #[test]
        fn deps_behave_as_a_map_that_keeps_the_maximum(
            ours in prop::collection::vec(entry(), 0..20),
            theirs in prop::collection::vec(entry(), 0..20),
        ) {
            let mut model: BTreeMap<Stamp, Timestamp> = BTreeMap::new();
            for (stamp, ts) in ours.iter().chain(&theirs) {
                let kept = model.entry(*stamp).or_default();
                *kept = (*kept).max(*ts);
            }
            let build = |entries: &[(Stamp, Timestamp)]| {
                let mut deps = Deps::new();
                entries.iter().for_each(|(stamp, ts)| deps.add(*stamp, *ts).unwrap());
                deps
            };
            let mut deps = build(&ours);
            deps.merge(&build(&theirs)).unwrap();

            prop_assert_eq!(deps.iter().collect::<Vec<_>>(), model.clone().into_iter().collect::<Vec<_>>());
            prop_assert_eq!((deps.len(), deps.is_empty()), (model.len(), model.is_empty()));
            for shard in 0..8 {
                for epoch in 0..4 {
                    prop_assert_eq!(deps.get(stamp(shard, epoch)), model.get(&stamp(shard, epoch)).copied());
                }
            }
            let mut bytes = Vec::new();
            Writer::new(&mut bytes).put(&deps);
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.take::<Deps>(), Ok(deps));
            prop_assert_eq!(reader.finish(), Ok(()));
        }
    }

    /// Unordered entries would break the search in `get`, and a dependency there would not be found.
    #[test]
    fn entries_out_of_order_or_twice_are_refused() {
        let one = (stamp(1, 1), Timestamp(5));
        let two = (stamp(2, 1), Timestamp(5));
        for pair in [[two, one], [one, one]] {
            let mut bytes = Vec::new();
            Writer::new(&mut bytes).list(&pair, DEPS_MAX);
            assert_eq!(Reader::new(&bytes).take::<Deps>(), Err(Malformed::Unordered));
        }
    }

    /// Full is an answer, not a growth: and what is there already can still rise.
    #[test]
    fn a_full_map_refuses_another_stamp_and_still_raises_its_own() {
        let mut deps = Deps::new();
        for epoch in 0..DEPS_MAX as u64 {
            assert_eq!(deps.add(stamp(0, epoch), Timestamp(1)), Ok(()));
        }
        assert_eq!(deps.add(stamp(1, 0), Timestamp(1)), Err(DepsFull));
        assert_eq!(deps.add(stamp(0, 7), Timestamp(9)), Ok(()));
        assert_eq!((deps.get(stamp(0, 7)), deps.len()), (Some(Timestamp(9)), DEPS_MAX));
    }
}
