//! Hand-overs of a shard of three, in virtual time: one that is done, and those that are refused.
#![forbid(unsafe_code)]

use super::super::stage::{Node, config, converse_without, live_without, writing};
use super::*;
use crate::bounds::{ELECTION_TIMEOUT_NS, MS};
use crate::config::Durability;
use crate::txn::Reply;

const SHARD: ShardId = ShardId(0);

fn three() -> [Node; 3] {
    let mut nodes = [0, 1, 2].map(|node| Node::new(&config(1, 3, Durability::QuorumDisk), node));
    live_without(&mut nodes, None, 500 * MS, 10 * MS);
    assert!(nodes[0].core.replicas()[0].open);
    nodes
}

fn order(node: &mut Node, to: u16) {
    let now = node.now;
    node.core.order_move(now, MoveOrder { shard: SHARD, to: NodeId(to), token: 7 });
}

fn answers(node: &mut Node) -> Vec<Moved> {
    std::iter::from_fn(|| node.core.poll_moved())
        .map(|(token, moved)| {
            assert_eq!(token, 7);
            moved
        })
        .collect()
}

fn refused(why: MoveRefusal) -> Vec<Moved> {
    vec![Moved::Refused(why)]
}

/// The leader takes transactions, and they become durable without the absent.
fn is_at_work(nodes: &mut [Node], leader: usize, absent: Option<u16>) -> bool {
    nodes[leader].replies();
    let taken = nodes[leader].turn_with(vec![(0, writing([0, 9]))]) == 0;
    live_without(nodes, absent, 20 * MS, MS);
    taken && nodes[leader].replies().iter().any(|reply| matches!(reply, Reply::Durable { .. }))
}

/// Promises 1 and 2 through a planned change: what was executed at the old leader is durable, though it had not even
/// been sent when the order came.
#[test]
fn a_shard_is_handed_over_with_all_that_was_executed() {
    let mut nodes = three();
    assert_eq!(nodes[0].turn_with(vec![(0, writing([0, 1]))]), 0);
    order(&mut nodes[0], 2);
    live_without(&mut nodes, None, 20 * MS, MS);
    let epoch = nodes[2].replica(0).epoch();
    assert_eq!(answers(&mut nodes[0]), [Moved::Done { epoch }]);
    let replies = nodes[0].replies();
    assert!(replies.iter().any(|reply| matches!(reply, Reply::Durable { .. })), "{replies:?}");
    assert!(!replies.contains(&Reply::RolledBack));
    assert!(nodes[2].replica(0).open && !nodes[0].replica(0).open);
    assert!(is_at_work(&mut nodes, 2, None));
    assert_eq!(nodes[1].rows(0).len(), 2);

    order(&mut nodes[2], 0);
    live_without(&mut nodes, None, 20 * MS, MS);
    assert!(matches!(answers(&mut nodes[2])[..], [Moved::Done { .. }]));
    assert!(is_at_work(&mut nodes, 0, None));
}

/// A target that has died a moment ago is found out in the pause, which has an end; the leader has not given
/// anything up by then.
#[test]
fn a_target_that_does_not_keep_up_is_refused_and_the_leader_goes_on() {
    let mut nodes = three();
    converse_without(&mut nodes, Some(2));
    order(&mut nodes[0], 2);
    nodes[0].turn();
    assert_eq!(nodes[0].turn_with(vec![(0, writing([0, 1]))]), 1, "it pauses");
    assert!(nodes[0].replica(0).is_paused());
    live_without(&mut nodes, Some(2), ELECTION_TIMEOUT_NS / HAND_OVER_PAUSE_PART + 20 * MS, 10 * MS);
    assert_eq!(answers(&mut nodes[0]), refused(MoveRefusal::Behind));
    assert!(is_at_work(&mut nodes, 0, Some(2)));
    assert!(nodes[0].core.chairs[0].election.holds_lease(nodes[0].now));

    live_without(&mut nodes, Some(2), 2 * ELECTION_TIMEOUT_NS, 10 * MS);
    order(&mut nodes[0], 2);
    assert_eq!(answers(&mut nodes[0]), refused(MoveRefusal::Unreachable));
    assert!(is_at_work(&mut nodes, 0, Some(2)));
}

/// Each order is answered, and at once where nothing can be done.
#[test]
fn orders_that_cannot_be_carried_out_are_refused_at_once() {
    let mut nodes = three();
    order(&mut nodes[1], 2);
    assert_eq!(answers(&mut nodes[1]), refused(MoveRefusal::NotLeading));
    order(&mut nodes[0], 3);
    assert_eq!(answers(&mut nodes[0]), refused(MoveRefusal::NoReplica));
    let epoch = nodes[0].replica(0).epoch();
    order(&mut nodes[0], 0);
    assert_eq!(answers(&mut nodes[0]), [Moved::Done { epoch }], "it leads already");
    order(&mut nodes[0], 1);
    order(&mut nodes[0], 2);
    assert_eq!(answers(&mut nodes[0]), refused(MoveRefusal::UnderWay));
    live_without(&mut nodes, None, 20 * MS, MS);
    assert!(matches!(answers(&mut nodes[0])[..], [Moved::Done { .. }]));
    assert!(is_at_work(&mut nodes, 1, None));
}

/// The lease is found lost in the very turn in which it was to be given up: no stream may wait for an end that
/// nobody will tell it.
#[test]
fn a_lease_that_was_lost_before_it_could_be_given_up_leaves_nothing_paused() {
    let mut nodes = three();
    order(&mut nodes[0], 2);
    nodes[0].turn();
    assert!(nodes[0].replica(0).is_paused());
    let (now, rival) = (nodes[0].now, Ballot { round: 9, node: NodeId(1) });
    nodes[0].core.chairs[0].election.on_deposed(now, rival);
    live_without(&mut nodes, None, 10 * MS, MS);
    assert_eq!(answers(&mut nodes[0]), refused(MoveRefusal::Overtaken));
    assert!(!nodes[0].replica(0).is_paused());
}
