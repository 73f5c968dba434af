//! A shard of three that loses its leader, in virtual time: who takes over, what survives, who is told what.
#![forbid(unsafe_code)]

use super::super::stage::{Node, config, converse, reading, writing};
use super::*;
use crate::bounds::{ELECTION_TIMEOUT_NS, MS, SECOND};
use crate::config::Durability;
use crate::txn::Reply;

const SHARD: ShardId = ShardId(0);

fn three() -> [Node; 3] {
    let mut nodes = [0, 1, 2].map(|node| Node::new(&config(1, 3, Durability::Memory), node));
    live(&mut nodes, 50 * MS);
    assert!(nodes[0].core.replicas()[0].open);
    nodes
}

/// Time passes for these nodes; the others do not hear of it, and nobody hears of them.
fn live(nodes: &mut [Node], ns: u64) {
    for _ in 0..ns / STEP_NS {
        nodes.iter_mut().for_each(|node| node.pass(STEP_NS));
        converse(nodes);
    }
}

/// Time passes and nothing else happens: what a node does that can reach nobody.
fn alone(node: &mut Node, ns: u64) {
    for _ in 0..ns / STEP_NS {
        node.pass(STEP_NS);
        node.turn();
        node.frames();
    }
}

fn is_durable(reply: &Reply) -> bool {
    matches!(reply, Reply::Durable { .. })
}

fn submit(node: &mut Node, plan: super::super::stage::Plan) -> Vec<Reply> {
    assert_eq!(node.turn_with(vec![(0, plan)]), 0, "the node takes transactions");
    node.replies()
}

const STEP_NS: u64 = 10 * MS;

/// Promise 1: what was acknowledged is there after the leader's death; and the shard goes on, twice.
#[test]
fn whoever_is_left_takes_over_with_all_that_was_acknowledged() {
    let mut nodes = three();
    submit(&mut nodes[0], writing([0, 1]));
    live(&mut nodes, 20 * MS);
    assert!(nodes[0].replies().iter().any(is_durable));

    let [_, rest @ ..] = &mut nodes;
    live(rest, 2 * ELECTION_TIMEOUT_NS);
    let open: Vec<usize> = (0..2).filter(|at| rest[*at].core.replicas()[0].open).collect();
    assert_eq!(open.len(), 1, "one leads");
    let leader = &rest[open[0]];
    let store = leader.core.replicas()[0].store.borrow();
    assert!(store.read(super::super::stage::T, &[0, 1]).unwrap().value.is_some());
    let first = Stamp { shard: SHARD, epoch: Ballot { round: 1, node: NodeId(0) }.epoch() };
    assert!(
        rest.iter().all(|node| node.core.knowledge().is_closed(first)),
        "and both know where the first ended"
    );
}

/// The lease is what makes a read at a leader true: a leader that others have replaced, and that nobody has
/// told, must not answer for what it reads.
#[test]
fn a_leader_that_is_cut_off_answers_for_no_read_once_its_lease_is_over() {
    let mut nodes = three();
    let leased = submit(&mut nodes[0], reading([0, 1]));
    assert!(leased.iter().any(is_durable), "under its lease at once: {leased:?}");
    alone(&mut nodes[0], ELECTION_TIMEOUT_NS);
    let unleased = submit(&mut nodes[0], reading([0, 1]));
    assert!(!unleased.iter().any(is_durable), "{unleased:?}");
    assert!(matches!(unleased[..], [Reply::Speculative { .. }]), "{unleased:?}");

    // A minority takes no more transactions after a while, rather than promise what it cannot keep.
    alone(&mut nodes[0], 2 * ELECTION_TIMEOUT_NS);
    assert_eq!(nodes[0].turn_with(vec![(0, reading([0, 1]))]), 1);
}

/// Promise: a speculative answer is followed by exactly one of two. What only the old leader ever knew is gone,
/// and it says so as soon as it hears how its reign ended.
#[test]
fn what_a_deposed_leader_executed_alone_is_rolled_back_when_it_hears_of_its_end() {
    let mut nodes = three();
    nodes[0].replies();
    assert!(matches!(submit(&mut nodes[0], writing([0, 7]))[..], [Reply::Speculative { .. }]));
    nodes[0].frames();
    live(&mut nodes[1..], 2 * ELECTION_TIMEOUT_NS);
    assert!(nodes[1..].iter().any(|node| node.core.replicas()[0].open));
    let behind = nodes[1].now.since(nodes[0].now);
    nodes[0].pass(behind);
    live(&mut nodes, SECOND);
    assert_eq!(nodes[0].replies(), [Reply::RolledBack]);
    assert!(!nodes[0].core.replicas()[0].open);
    let read =
        |node: &Node| node.core.replicas()[0].store.borrow().read(super::super::stage::T, &[0, 7]).unwrap();
    assert!(nodes.iter().all(|node| read(node).value.is_none()), "no trace of it is left anywhere");

    // And the shard takes transactions: at its new leader, not here.
    let refused = |node: &mut Node| node.turn_with(vec![(0, writing([0, 8]))]);
    let taken: usize = nodes.iter_mut().map(|node| 1 - refused(node)).sum();
    assert_eq!(taken, 1);
}

/// A candidate may be alone in thinking that all seals are chosen. With one of two streams unsealed, that
/// stream's end is still open, and a final watermark computed now may lie above what it loses.
#[test]
fn the_ends_of_all_streams_are_waited_for() {
    let ballot = Ballot { round: 2, node: NodeId(1) };
    let old = Ballot { round: 1, node: NodeId(0) }.epoch();
    let mut prng = Prng::with_seed(1);
    let config = config(1, 3, Durability::Memory);
    let mut chair = Chair::new(&config, NodeId(1), SHARD, Ballot::default(), true, Timestamp(5), &mut prng);
    let mut ends = BTreeMap::new();
    ends.insert(PartitionId(0), vec![(old, Timestamp(70))]);
    chair.tenure = Tenure::Sealing { ballot, ends };
    assert_eq!(chair.closings(&[old], 2), None);
    if let Tenure::Sealing { ends, .. } = &mut chair.tenure {
        ends.insert(PartitionId(1), vec![(old, Timestamp(40)), (ballot.epoch(), Timestamp(99))]);
    }
    assert_eq!(chair.closings(&[old], 2), Some(vec![(old, Timestamp(40))]), "the least of all streams");
    assert_eq!(
        chair.closings(&[old, ballot.epoch()], 2).map(|facts| facts.len()),
        Some(1),
        "its own goes on"
    );
    assert_eq!(chair.closings(&[], 2), Some(Vec::new()), "the first leader closes nothing");
}
