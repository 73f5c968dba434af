//! The watermark of one shard from its streams, and the vector of the watermarks of all shards.
//!
//! Invariants:
//!   1. A component of the vector never falls: a later epoch is above every timestamp of an earlier one.
//!   2. Epoch 0 means that nothing has been heard of the shard; whatever waits for it goes on waiting.
//!   3. A shard watermark is claimed only when all of its streams stand in one epoch.
#![forbid(unsafe_code)]

use crate::bounds::SHARDS_MAX;
use crate::types::{Epoch, ShardId, Timestamp, Watermark};

/// The watermark of every shard of the cluster, as far as it has been heard of here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Vector {
    /// By shard. Each only grows.
    marks: Box<[Watermark]>,
}

impl Vector {
    pub fn new(shards: usize) -> Vector {
        assert!((1..=SHARDS_MAX).contains(&shards), "{shards} shards, of at most {SHARDS_MAX}");
        Vector { marks: vec![Watermark::default(); shards].into_boxed_slice() }
    }

    /// Takes the greater of what is known and `mark`; returns whether that was news. A shard this cluster
    /// does not have never is: the shard may come from a peer's message.
    pub fn advance(&mut self, shard: ShardId, mark: Watermark) -> bool {
        let Some(known) = self.marks.get_mut(usize::from(shard.0)) else { return false };
        let news = mark > *known;
        if news {
            *known = mark;
        }
        news
    }

    /// Takes the greater of both, shard by shard; returns whether any was news.
    pub fn merge(&mut self, other: &Vector) -> bool {
        assert_eq!(self.marks.len(), other.marks.len(), "vectors of two clusters");
        other.iter().fold(false, |news, (shard, mark)| self.advance(shard, mark) || news)
    }

    /// What is known of `shard`: of one this cluster does not have, nothing.
    pub fn get(&self, shard: ShardId) -> Watermark {
        self.marks.get(usize::from(shard.0)).copied().unwrap_or_default()
    }

    pub fn iter(&self) -> impl Iterator<Item = (ShardId, Watermark)> + '_ {
        (0..).map(ShardId).zip(self.marks.iter().copied())
    }

    /// The timestamp below which every shard is replicated, and the epoch of each in which that was said:
    /// what a snapshot token is made of (DESIGN §3). `None` while any shard has not been heard of.
    pub fn snapshot(&self) -> Option<(Timestamp, impl Iterator<Item = (ShardId, Epoch)> + '_)> {
        let heard_of_all = self.marks.iter().all(|mark| mark.epoch != Epoch(0));
        let timestamp = self.marks.iter().map(|mark| mark.timestamp).min().filter(|_| heard_of_all)?;
        Some((timestamp, self.iter().map(|(shard, mark)| (shard, mark.epoch))))
    }
}

/// The watermark of a shard: the least of `marks`, one from each of its streams. `None` without streams,
/// before an epoch has begun, and while they stand in two epochs.
///
/// Of two epochs not even the lesser may be claimed. The streams already in the later one no longer say
/// how far they got in the earlier, and it may be less than what those left behind in it show: the claim
/// would lie above the final watermark, and call stable what the change of leader lost.
pub fn shard_watermark(marks: impl Iterator<Item = Watermark>) -> Option<Watermark> {
    let mut claim: Option<Watermark> = None;
    for mark in marks {
        let least = claim.map_or(mark, |claim| claim.min(mark));
        if least.epoch != mark.epoch || claim.is_some_and(|claim| claim.epoch != mark.epoch) {
            return None;
        }
        claim = Some(least);
    }
    claim.filter(|claim| claim.epoch != Epoch(0))
}
