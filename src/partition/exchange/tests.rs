//! What a node believes of another's word, and when it says its own.
#![forbid(unsafe_code)]

use super::super::stage::{NOW, Node, config, converse};
use super::*;
use crate::bounds::{EXCHANGE_IDLE_NS, EXCHANGE_INTERVAL_NS, MAX_CLOCK_SKEW_NS, MS};
use crate::config::Durability;
use crate::partition::ports::{Marks, NoCheckpoints};
use crate::partition::stage::Plan;
use crate::txn::Reply;

const THEIRS: ShardId = ShardId(1);

fn epoch(round: u32, node: u16) -> Epoch {
    Ballot { round, node: NodeId(node) }.epoch()
}

fn hear(
    node: &mut Node,
    vector: &[(ShardId, Watermark)],
    wanted: &[(ShardId, Timestamp)],
    closed: &[(Stamp, Timestamp)],
) {
    let Node { core, log, board, now, .. } = node;
    core.on_exchange(*now, vector, wanted, closed, &Ports { log, checkpoints: &mut NoCheckpoints, board });
}

fn mark(epoch: Epoch, timestamp: Timestamp) -> Watermark {
    Watermark { epoch, timestamp }
}

/// Leads shard 0 of two, alone; has heard of the reign of shard 1.
fn node() -> Node {
    let mut node = Node::open(&config(2, 1, Durability::Memory), 0);
    node.turn();
    node
}

fn known(node: &Node, shard: ShardId) -> Watermark {
    node.core.knowledge().vector().get(shard)
}

/// One that believed it would release what is not replicated, and its clock would follow.
#[test]
fn what_is_too_far_ahead_is_ignored_and_counted() {
    let mut node = Node::new(&config(2, 3, Durability::Memory), 2);
    node.turn();
    let absurd = NOW.plus_ns(MAX_CLOCK_SKEW_NS + 1);
    let reign = epoch(1, 1);
    hear(&mut node, &[(THEIRS, mark(reign, absurd))], &[], &[]);
    hear(&mut node, &[], &[(THEIRS, absurd)], &[]);
    hear(&mut node, &[], &[], &[(Stamp { shard: THEIRS, epoch: reign }, absurd)]);
    assert_eq!(node.core.stats().ahead, 3);
    assert_eq!(known(&node, THEIRS), Watermark::default());
    assert_eq!(node.board.wanted(THEIRS), Timestamp::default());
    assert!(node.core.knowledge().closed().is_empty());

    let late = NOW.plus_ns(MAX_CLOCK_SKEW_NS);
    hear(&mut node, &[(THEIRS, mark(reign, late))], &[(THEIRS, late)], &[]);
    assert_eq!((known(&node, THEIRS), node.board.wanted(THEIRS)), (mark(reign, late), late));
    assert_eq!(node.core.stats().ahead, 3);
}

/// A watermark of a later reign stands above all of an earlier one; that of a reign nobody can have won
/// would stand in the way of every one to come. And the fact that closes a reign comes before the next.
#[test]
fn a_watermark_of_a_reign_that_nobody_can_have_won_is_ignored_and_counted() {
    let mut node = Node::new(&config(2, 1, Durability::Memory), 0);
    for nonsense in [epoch(2, 9), epoch(2, 1), epoch(0, 0), Epoch(u64::MAX)] {
        hear(&mut node, &[(THEIRS, mark(nonsense, NOW))], &[], &[]);
        assert_eq!(known(&node, THEIRS), Watermark::default(), "{nonsense:?}");
    }
    let (first, second) = (epoch(1, 0), epoch(2, 0));
    let doubtful = (Stamp { shard: THEIRS, epoch: first }, NOW.plus_ns(MAX_CLOCK_SKEW_NS + 1));
    hear(&mut node, &[(THEIRS, mark(second, NOW))], &[], &[doubtful]);
    assert_eq!(known(&node, THEIRS), Watermark::default());
    assert_eq!((node.core.stats().malformed, node.core.stats().ahead), (5, 1));
    hear(&mut node, &[(THEIRS, mark(second, NOW))], &[], &[(doubtful.0, NOW)]);
    assert_eq!(known(&node, THEIRS), mark(second, NOW));
}

#[test]
fn shards_that_this_cluster_does_not_have_are_no_news() {
    let mut node = node();
    let stranger = ShardId(60);
    let stamp = Stamp { shard: stranger, epoch: epoch(1, 0) };
    hear(&mut node, &[(stranger, mark(stamp.epoch, NOW))], &[(stranger, NOW)], &[(stamp, NOW)]);
    assert!(node.core.knowledge().closed().is_empty());
    node.turn();
}

/// Facts first: were the watermark of the new reign believed before the end of the old one is known, what
/// the old one lost would wait for ever; and what it lost must be said to be rolled back, not durable.
#[test]
fn how_a_reign_ended_settles_what_rests_on_it() {
    let mut nodes = [
        Node::new(&config(2, 3, Durability::QuorumDisk), 0),
        Node::new(&config(2, 3, Durability::QuorumDisk), 1),
        Node::new(&config(2, 3, Durability::QuorumDisk), 2),
    ];
    converse(&mut nodes);
    assert!(nodes[0].core.replicas()[0].open && nodes[1].core.replicas()[1].open);
    // From here on nobody's log gets anywhere, so nothing is replicated.
    nodes.iter_mut().for_each(|node| node.writes_at_once = false);
    nodes[0].turn_with(vec![(0, Plan { writes: vec![[0, 1], [1, 1]], ..Plan::default() })]);
    converse(&mut nodes);
    let speculative = |reply: &Reply| match reply {
        Reply::Speculative { timestamp, .. } => *timestamp,
        other => panic!("{other:?}"),
    };
    let replies = nodes[0].replies();
    let timestamp = speculative(&replies[0]);
    assert_eq!(replies.len(), 1);
    let stamp = Stamp { shard: THEIRS, epoch: epoch(1, 1) };
    hear(&mut nodes[0], &[(THEIRS, mark(epoch(2, 2), timestamp))], &[], &[(stamp, timestamp.prev())]);
    assert_eq!(nodes[0].replies(), [Reply::RolledBack]);
    assert_eq!(nodes[0].core.stats().rolled_back, 1);
    let store = nodes[0].core.replicas()[0].store.borrow();
    assert!(store.window.is_empty());
    assert!(store.tables()[0].get(&[0, 1]).is_none(), "its versions are unlinked");
}

/// Every interval is latency of a durable reply: where something new is wanted the question goes out as
/// soon as it may, and an idle node hardly speaks.
#[test]
fn a_node_speaks_soon_when_it_wants_something_and_seldom_when_it_does_not() {
    let mut nodes = [0, 1, 2].map(|node| Node::new(&config(2, 3, Durability::Memory), node));
    converse(&mut nodes);
    let [node, ..] = &mut nodes;
    node.pass(EXCHANGE_IDLE_NS);
    node.turn();
    assert_eq!(node.core.exchange_deadline(), Some(node.now.plus_ns(EXCHANGE_IDLE_NS)));

    let write = || vec![(0, Plan { writes: vec![[0, 1]], ..Plan::default() })];
    let has_asked = |node: &Node| node.core.asked[0] == node.board.wanted(ShardId(0));
    node.pass(MS);
    node.turn_with(write());
    assert!(has_asked(node) && node.board.wanted(ShardId(0)) >= node.now);
    node.pass(EXCHANGE_INTERVAL_NS - 1);
    node.turn_with(write());
    assert!(!has_asked(node), "two exchanges are never closer than the interval");
    assert_eq!(node.core.exchange_deadline(), Some(node.now.plus_ns(1)));
    node.pass(1);
    node.turn();
    assert!(has_asked(node));
}

/// The speaker hears of facts for all cores of its node.
#[test]
fn facts_are_passed_on_to_sibling_cores_once() {
    let tables = vec![];
    let flags = crate::config::LocalCluster { shards: 2, replicas: 1, cpus: 2, tables, ..Default::default() };
    let config = std::rc::Rc::new(crate::config::Config::local(&flags).unwrap());
    let mut node = Node::new(&config, 0);
    let fact = (Stamp { shard: THEIRS, epoch: epoch(1, 0) }, NOW);
    for expected in [true, false] {
        hear(&mut node, &[], &[], &[fact]);
        assert_eq!(node.core.take_parcel(CoreId(1)).is_some(), expected, "only news is passed on");
    }
    assert_eq!(node.core.knowledge().closed().get(fact.0), Some(NOW));
}
