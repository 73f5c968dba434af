//! How long the votes of other shards take, and so how far above its clock a participant proposes.
//!
//! A proposal that far ahead does not hold the participant's promise back while the decision travels.
#![forbid(unsafe_code)]

use crate::bounds::HOLD_NS_MAX;
use crate::types::ShardId;

/// Smoothed time from prepare to vote, in nanoseconds, by shard; 0 before the first vote.
#[derive(Default)]
pub(super) struct VoteTimes(Vec<u64>);

impl VoteTimes {
    /// Moves the smoothed time an eighth of the way (RFC 6298 does so with round trips).
    pub(super) fn on_vote(&mut self, shard: ShardId, took_ns: u64) {
        let at = usize::from(shard.0);
        if self.0.len() <= at {
            self.0.resize(at + 1, 0);
        }
        let smoothed = &mut self.0[at];
        *smoothed = if *smoothed == 0 { took_ns } else { *smoothed - *smoothed / 8 + took_ns / 8 };
    }

    /// How long participants of these shards should expect to wait for the decision: that of the slowest
    /// voter and an eighth more.
    pub(super) fn hold_ns(&self, shards: impl Iterator<Item = ShardId>) -> u64 {
        let slowest = shards.filter_map(|shard| self.0.get(usize::from(shard.0))).max().copied().unwrap_or(0);
        (slowest + slowest / 8).min(HOLD_NS_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bounds::MS;

    /// Held for the fastest, the slowest voter's promise would stand still until the decision arrives.
    #[test]
    fn the_slowest_voter_and_an_eighth_is_what_all_hold_for_up_to_the_bound() {
        let mut times = VoteTimes::default();
        assert_eq!(times.hold_ns([ShardId(0), ShardId(7)].into_iter()), 0, "nothing known");
        times.on_vote(ShardId(0), 8 * MS);
        times.on_vote(ShardId(2), 16 * MS);
        assert_eq!(times.hold_ns([ShardId(0), ShardId(2)].into_iter()), 18 * MS);
        assert_eq!(times.hold_ns([ShardId(0)].into_iter()), 9 * MS);
        times.on_vote(ShardId(0), 16 * MS);
        assert_eq!(times.hold_ns([ShardId(0)].into_iter()), 9 * MS + 9 * MS / 8, "an eighth of the way");
        times.on_vote(ShardId(2), u64::MAX / 2);
        assert_eq!(times.hold_ns([ShardId(2)].into_iter()), HOLD_NS_MAX);
    }
}
