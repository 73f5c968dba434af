//! Who votes on a stream, and how many votes are enough.
//!
//! Not here: what was voted on, and whether a vote is durable.
//!
//! Invariants (in [`Quorum::new`]):
//!   1. Replicas are distinct and include us.
//!   2. Every two majorities share a replica.
#![forbid(unsafe_code)]

use crate::bounds::REPLICAS_MAX;
use crate::rules::{Rule, on};
use crate::types::{NodeId, Slot};

pub(super) struct Quorum {
    replicas: Vec<NodeId>,
    me: usize,
    majority: usize,
}

impl Quorum {
    pub fn new(me: NodeId, replicas: Vec<NodeId>) -> Quorum {
        assert!(replicas.len() <= REPLICAS_MAX, "{} replicas, at most {REPLICAS_MAX}", replicas.len());
        for (i, node) in replicas.iter().enumerate() {
            assert!(!replicas[..i].contains(node), "{node:?} is listed twice");
        }
        let index = replicas.iter().position(|&node| node == me);
        let me = index.unwrap_or_else(|| panic!("{me:?} is not one of the replicas {replicas:?}"));
        let majority = replicas.len() / 2 + usize::from(on(Rule::Majority));
        assert!(2 * majority > replicas.len() || !on(Rule::Majority));
        Quorum { replicas, me, majority }
    }

    pub fn len(&self) -> usize {
        self.replicas.len()
    }

    pub fn me(&self) -> usize {
        self.me
    }

    pub fn node(&self) -> NodeId {
        self.replicas[self.me]
    }

    pub fn at(&self, index: usize) -> NodeId {
        self.replicas[index]
    }

    pub fn index_of(&self, node: NodeId) -> Option<usize> {
        self.replicas.iter().position(|&replica| replica == node)
    }

    /// Everyone but us, with their places.
    pub fn peers(&self) -> impl Iterator<Item = (usize, NodeId)> + '_ {
        let me = self.me;
        self.replicas.iter().copied().enumerate().filter(move |&(index, _)| index != me)
    }

    pub fn majority(&self) -> usize {
        self.majority
    }

    pub fn is_majority(&self, votes: VoteSet) -> bool {
        votes.count() >= self.majority
    }

    /// The leader's vote and that of one follower suffice.
    pub fn is_majority_of_two(&self) -> bool {
        self.majority <= 2
    }

    /// Whether a slot has its majority: those whose votes reach `through` it without a gap, and those
    /// who voted for this one alone.
    pub fn has_chosen(&self, slot: Slot, through: &[Slot], alone: VoteSet) -> bool {
        let mut votes = alone;
        for (index, &end) in through.iter().enumerate() {
            if slot < end {
                votes.insert(index);
            }
        }
        self.is_majority(votes)
    }
}

/// A set of replicas, by their place in the list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct VoteSet(u8);

impl VoteSet {
    pub fn insert(&mut self, index: usize) {
        assert!(index < REPLICAS_MAX);
        self.0 |= 1 << index;
    }

    pub fn remove(&mut self, index: usize) {
        assert!(index < REPLICAS_MAX);
        self.0 &= !(1 << index);
    }

    pub fn contains(self, index: usize) -> bool {
        index < REPLICAS_MAX && self.0 & (1 << index) != 0
    }

    pub fn count(self) -> usize {
        self.0.count_ones() as usize
    }
}

const _: () = assert!(REPLICAS_MAX <= u8::BITS as usize);

#[cfg(test)]
mod tests {
    use super::*;

    fn quorum(replicas: usize) -> Quorum {
        Quorum::new(NodeId(0), (0..replicas as u16).map(NodeId).collect())
    }

    /// A slot called chosen on one vote too few is lost with the next leader; on one too many, a
    /// minority that is down stops the stream. `testdata/quorum.txt` draws the cases.
    #[test]
    fn a_slot_is_chosen_exactly_when_a_majority_voted() {
        let mut cases = 0;
        for line in include_str!("testdata/quorum.txt").lines() {
            let line = line.split('#').next().unwrap().trim();
            if line.is_empty() {
                continue;
            }
            let [through, slot, alone, verdict] =
                line.split('|').map(str::trim).collect::<Vec<_>>().try_into().unwrap();
            let through: Vec<Slot> = through.split(' ').map(|end| Slot(end.parse().unwrap())).collect();
            let mut votes = VoteSet::default();
            for index in alone.split(' ').filter(|&index| index != "-") {
                votes.insert(index.parse().unwrap());
            }
            let chosen = quorum(through.len()).has_chosen(Slot(slot.parse().unwrap()), &through, votes);
            assert_eq!(if chosen { "chosen" } else { "open" }, verdict, "{line}");
            cases += 1;
        }
        assert_eq!(cases, 27, "a case was added or lost: say so here");
    }

    /// The whole of Paxos rests on it: what one majority accepted, every other majority reports.
    #[test]
    fn every_two_majorities_share_a_replica() {
        for replicas in 1..=REPLICAS_MAX {
            let quorum = quorum(replicas);
            let sets = (0..1u32 << replicas).map(|bits| VoteSet(bits as u8));
            let majorities: Vec<VoteSet> = sets.filter(|&set| quorum.is_majority(set)).collect();
            assert!(!majorities.is_empty());
            for a in &majorities {
                assert!(majorities.iter().all(|b| a.0 & b.0 != 0), "{replicas} replicas: {a:?}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "listed twice")]
    fn a_replica_cannot_have_two_votes() {
        Quorum::new(NodeId(0), vec![NodeId(0), NodeId(1), NodeId(1)]);
    }
}
