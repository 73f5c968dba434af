//! Who waits for which timestamp of which reign: what the window and the replay queue share.
//!
//! A waiter watches one dependency at a time. A watermark settles only what waits for its own epoch:
//! one that waits for an earlier epoch of the shard waits for the fact that closes it.
#![forbid(unsafe_code)]

use crate::types::{ShardId, Stamp, Timestamp};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

pub struct Watches<T> {
    /// Few: one or two reigns of each shard.
    heaps: Vec<(Stamp, Heap<T>)>,
}

type Heap<T> = BinaryHeap<Reverse<(Timestamp, T)>>;

impl<T: Ord + Copy> Watches<T> {
    pub fn watch(&mut self, stamp: Stamp, timestamp: Timestamp, waiter: T) {
        let at = self.heaps.iter().position(|(known, _)| *known == stamp).unwrap_or_else(|| {
            self.heaps.push((stamp, BinaryHeap::new()));
            self.heaps.len() - 1
        });
        self.heaps[at].1.push(Reverse((timestamp, waiter)));
    }

    /// The next waiter that a watermark at `upto` has reached.
    #[inline]
    pub fn pop_reached(&mut self, stamp: Stamp, upto: Timestamp) -> Option<T> {
        let (_, heap) = self.heaps.iter_mut().find(|(known, _)| *known == stamp)?;
        let Reverse((timestamp, waiter)) = *heap.peek()?;
        if timestamp > upto {
            return None;
        }
        heap.pop();
        Some(waiter)
    }

    /// Everybody, in no order; nobody waits afterwards.
    pub fn take_all(&mut self) -> impl Iterator<Item = T> + use<T> {
        let heaps = std::mem::take(&mut self.heaps);
        heaps.into_iter().flat_map(|(_, heap)| heap.into_iter().map(|Reverse((_, waiter))| waiter))
    }

    /// The lowest timestamp that anybody waits for.
    pub fn lowest_of_all(&self) -> Option<Timestamp> {
        let lowest = self.heaps.iter().filter_map(|(_, heap)| heap.peek());
        lowest.map(|Reverse((timestamp, _))| *timestamp).min()
    }

    /// The lowest timestamp of a shard that anybody waits for.
    pub fn lowest(&self, shard: ShardId) -> Option<Timestamp> {
        let heaps = self.heaps.iter().filter(|(stamp, _)| stamp.shard == shard);
        heaps.filter_map(|(_, heap)| heap.peek().map(|Reverse((timestamp, _))| *timestamp)).min()
    }
}

/// The reigns that anything rests on: how a core knows whose end it must learn.
#[derive(Default)]
pub struct Stamps {
    /// The one added last: nearly every one after it is the same, or one of two.
    last: [Stamp; 2],
    all: Vec<Stamp>,
}

impl Stamps {
    #[inline]
    pub fn add(&mut self, stamp: Stamp) {
        if self.last.contains(&stamp) {
            return;
        }
        self.last = [stamp, self.last[0]];
        if !self.all.contains(&stamp) {
            self.all.push(stamp);
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = Stamp> + '_ {
        self.all.iter().copied()
    }

    pub fn forget(&mut self, gone: impl Fn(Stamp) -> bool) {
        self.all.retain(|stamp| !gone(*stamp));
        self.last = [Stamp::default(); 2];
    }
}

impl<T> Default for Watches<T> {
    fn default() -> Watches<T> {
        Watches { heaps: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Epoch;

    /// A watermark of a later epoch is above every timestamp of an earlier one, and says nothing of it:
    /// woken for it, a waiter would find nothing changed, watch again, and be woken for ever.
    #[test]
    fn a_watermark_reaches_only_those_who_wait_for_its_own_epoch() {
        let stamp = |epoch| Stamp { shard: ShardId(3), epoch: Epoch(epoch) };
        let mut watches = Watches::default();
        for (epoch, timestamp, waiter) in [(1, 10, 'a'), (2, 10, 'b'), (2, 5, 'c'), (2, 11, 'd')] {
            watches.watch(stamp(epoch), Timestamp(timestamp), waiter);
        }
        let mut reached = || watches.pop_reached(stamp(2), Timestamp(10));
        assert_eq!([reached(), reached(), reached()], [Some('c'), Some('b'), None]);
        assert_eq!(watches.pop_reached(stamp(3), Timestamp(99)), None);
        assert_eq!(watches.lowest(ShardId(3)), Some(Timestamp(10)));
        assert_eq!(watches.lowest(ShardId(0)), None);
        let mut all: Vec<char> = watches.take_all().collect();
        all.sort();
        assert_eq!(all, ['a', 'd']);
    }
}
