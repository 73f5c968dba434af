//! A core at its limits, in virtual time: a full window, long waits behind locks, a peer that is gone.
#![forbid(unsafe_code)]

use super::post::Parcel;
use super::stage::{Node, Plan, T, config, converse, reading, writing};
use super::*;
use crate::bounds::{
    ELECTION_TIMEOUT_NS_MAX, KIB, MAX_SPECULATION_NS, MS, PARK_NS_MAX, PARKED_MAX, VALUE_BYTES_MAX,
    WINDOW_ENTRIES_MAX,
};
use crate::config::Durability;
use crate::rpc::{Event, Rpc};
use crate::txn::{Abort, BusyWith, Reply};
use crate::types::{Ballot, CoreId, Endpoint, NodeId, PartitionId, Timestamp, TxnId};
use crate::wire::{Deps, Message, WriteRef};
use std::rc::Rc;

const OURS: PartitionId = PartitionId(0);
const THEIRS: PartitionId = PartitionId(1);

const _: () = assert!(WINDOW_ENTRIES_MAX.is_multiple_of(1_024));

fn is_speculative(reply: &Reply) -> bool {
    matches!(reply, Reply::Speculative { .. })
}

fn is_durable(reply: &Reply) -> bool {
    matches!(reply, Reply::Durable { .. })
}

/// The disk hangs. New transactions are turned away before the lag becomes a disaster, those that were
/// taken are kept, and when the disk comes back everything goes on.
#[test]
fn a_window_that_lags_too_far_turns_transactions_away_until_it_moves() {
    let mut node = Node::open(&config(1, 1, Durability::QuorumDisk), 0);
    node.replies();
    node.writes_at_once = false;
    assert_eq!(node.turn_with(vec![(0, writing([0, 1]))]), 0);
    node.pass(MAX_SPECULATION_NS - MS);
    assert_eq!(node.turn_with(vec![(0, writing([0, 2]))]), 0);
    node.pass(2 * MS);
    assert_eq!(node.turn_with(vec![(0, writing([0, 3])), (0, reading([0, 1]))]), 2);
    assert_eq!(node.core.stats().busy, 2);
    let replies = node.replies();
    assert!(replies.len() == 2 && replies.iter().all(is_speculative), "{replies:?}");

    node.writes_at_once = true;
    (0..6).for_each(|_| node.turn());
    assert!(node.replies().iter().filter(|reply| is_durable(reply)).count() == 2);
    assert_eq!(node.turn_with(vec![(0, writing([0, 3]))]), 0);
}

#[test]
fn a_window_of_too_many_entries_turns_transactions_away_until_it_moves() {
    let mut node = Node::open(&config(1, 1, Durability::QuorumDisk), 0);
    node.writes_at_once = false;
    let mut refused = 0;
    for _ in 0..WINDOW_ENTRIES_MAX / 1_024 {
        node.pass(MS);
        refused += node.turn_with((0..1_024).map(|at| (0, writing([0, at as u8]))).collect());
    }
    assert_eq!((refused, node.turn_with(vec![(0, writing([0, 1]))])), (0, 1));
    node.writes_at_once = true;
    (0..8).for_each(|_| node.turn());
    let durable = node.replies().iter().filter(|reply| is_durable(reply)).count();
    assert_eq!(durable, WINDOW_ENTRIES_MAX);
    assert_eq!(node.turn_with(vec![(0, writing([0, 1]))]), 0);
}

/// A transaction of the other partition's coordinator.
fn theirs(number: u64) -> TxnId {
    TxnId { home: THEIRS, epoch: Ballot { round: 1, node: NodeId(0) }.epoch(), number }
}

/// Hands the node a message as a sibling core would.
fn deliver(node: &mut Node, is_request: bool, message: &Message<'_>) {
    let mut bytes = Vec::new();
    message.encode_into(&mut bytes);
    let Node { core, log, board, now, .. } = node;
    let parcel = Parcel {
        from: CoreId(0),
        cargo: if is_request { Cargo::Request(bytes) } else { Cargo::Message(bytes) },
    };
    core.on_parcel(*now, parcel, &mut Ports { log, checkpoints: &mut NoCheckpoints, board });
}

/// Locks a key of our partition.
fn prepare(node: &mut Node, number: u64, key: [u8; 2]) {
    let message = Message::Prepare {
        partition: OURS,
        epoch: theirs(number).epoch,
        txn: theirs(number),
        hold_ns: 0,
        deps: Deps::default(),
        reads: vec![],
        scans: vec![],
        writes: vec![WriteRef { table: T, key: &key, value: None }],
    };
    deliver(node, true, &message);
    assert!(node.core.replicas()[0].store.borrow().prepared().contains(theirs(number)));
}

fn abort(node: &mut Node, number: u64) {
    let (partition, txn) = (OURS, theirs(number));
    deliver(node, true, &Message::Abort { partition, epoch: txn.epoch, txn });
}

/// Two shards on one node, so that what one does at the other can be said by hand.
fn two_shards() -> Node {
    let mut node = Node::open(&config(2, 1, Durability::Memory), 0);
    node.replies();
    node
}

#[test]
fn who_is_parked_goes_on_when_the_lock_goes_in_the_order_of_coming() {
    let mut node = two_shards();
    prepare(&mut node, 1, [0, 1]);
    assert_eq!(node.turn_with(vec![(0, writing([0, 1])), (0, reading([0, 1])), (0, writing([0, 2]))]), 0);
    let replies = node.replies();
    assert_eq!(replies.iter().filter(|reply| is_speculative(reply)).count(), 1, "one needed no locked key");
    assert_eq!((node.core.stats().parked, node.core.replicas()[0].parked.len()), (2, 2));
    abort(&mut node, 1);
    node.turn();
    let timestamps: Vec<Timestamp> = node
        .replies()
        .iter()
        .filter_map(|reply| match reply {
            Reply::Speculative { timestamp, distributed: false, attempts: 1 } => Some(*timestamp),
            _ => None,
        })
        .collect();
    assert!(timestamps.len() == 2 && timestamps.is_sorted(), "{timestamps:?}");
}

/// The leader of our shard, cut off from the coordinators at the other, and patient.
fn cut_off() -> Node {
    let mut patient = (*config(2, 3, Durability::Memory)).clone();
    patient.election_timeout_ns = ELECTION_TIMEOUT_NS_MAX;
    let patient = Rc::new(patient);
    let mut nodes = [0, 1, 2].map(|node| Node::new(&patient, node));
    converse(&mut nodes);
    let [mut node, ..] = nodes;
    assert!(node.core.replicas()[0].open);
    node.replies();
    node
}

/// The coordinator that holds the lock may be on the other side of a cut: its lock stands until the cut
/// heals, its waiters must not.
#[test]
fn who_is_parked_too_long_is_answered_conflict() {
    let mut node = cut_off();
    prepare(&mut node, 1, [0, 1]);
    node.turn_with(vec![(0, writing([0, 1]))]);
    node.pass(PARK_NS_MAX);
    node.turn();
    assert_eq!(node.replies(), []);
    node.pass(2 * MS);
    node.turn();
    let attempts = 1;
    assert_eq!(node.replies(), [Reply::Aborted { abort: Abort::Conflict { attempts }, attempts }]);
    abort(&mut node, 1);
    node.turn_with(vec![(0, writing([0, 1]))]);
    assert!(node.replies().iter().any(is_speculative), "the key is free again");
}

#[test]
fn who_finds_no_room_to_park_is_answered_busy() {
    let mut node = two_shards();
    prepare(&mut node, 1, [0, 1]);
    let plans = (0..=PARKED_MAX).map(|_| (0, reading([0, 1]))).collect();
    assert_eq!(node.turn_with(plans), 0);
    let (abort_with, attempts) = (Abort::Busy(BusyWith::Parked), 1);
    assert_eq!(node.replies(), [Reply::Aborted { abort: abort_with, attempts }]);
    abort(&mut node, 1);
    (0..8).for_each(|_| node.turn());
    assert_eq!(node.replies().iter().filter(|reply| is_speculative(reply)).count(), PARKED_MAX);
}

/// Locks on a hot key follow each other without a gap; a read from elsewhere that began its wait anew
/// behind each of them would hold its slot for as long as they do.
#[test]
fn a_parked_read_from_elsewhere_waits_no_longer_behind_many_locks_than_behind_one() {
    let mut node = cut_off();
    prepare(&mut node, 1, [0, 1]);
    let (partition, txn) = (OURS, theirs(500));
    deliver(&mut node, true, &Message::Read { partition, epoch: txn.epoch, txn, table: T, key: &[0, 1] });
    node.turn();
    assert_eq!(node.core.replicas()[0].parked.len(), 1);
    for number in 1..=4 {
        node.pass(PARK_NS_MAX / 4 + MS);
        abort(&mut node, number);
        // The next one comes before the waiter is woken.
        prepare(&mut node, number + 1, [0, 1]);
        node.turn();
    }
    assert_eq!(node.core.replicas()[0].parked.len(), 0);
}

/// A commit that a full session refuses is told again, and refused again: within one turn that would go
/// on for ever.
#[test]
fn a_decision_that_cannot_be_sent_does_not_keep_the_core_from_its_turn() {
    let mut nodes = [0, 1, 2].map(|node| Node::new(&config(2, 3, Durability::Memory), node));
    converse(&mut nodes);
    let [node, peer, _] = &mut nodes;
    node.turn_with(vec![(0, Plan { writes: vec![[0, 1], [1, 1]], ..Plan::default() })]);
    // The peer votes, and falls silent before it hears the decision.
    for (to, frame) in node.frames() {
        if to == peer.me {
            let now = peer.now;
            peer.core.on_frame(now, &frame);
        }
    }
    peer.turn();
    let votes: Vec<_> = peer.frames().into_iter().filter(|(to, _)| *to == node.me).collect();
    // Then its session fills up, to the last byte.
    let mut number = 0;
    for value_bytes in [VALUE_BYTES_MAX, 16 * KIB, 256, 1] {
        let refused = node.core.rpc().stats().calls_refused;
        while node.core.rpc().stats().calls_refused == refused {
            number += 1;
            assert!(number < 10_000, "the session is never full");
            let key = u32::to_be_bytes(number);
            let plan = Plan { writes: vec![[1, key[2] ^ key[3]]], value_bytes, ..Plan::default() };
            assert_eq!(node.turn_with(vec![(0, plan)]), 0);
        }
        node.replies();
    }
    for (_, frame) in &votes {
        let now = node.now;
        node.core.on_frame(now, frame);
    }
    node.turn();
    assert!(node.replies().iter().any(is_speculative), "it is decided");
    (0..3).for_each(|_| node.turn());
    assert!(node.core.rpc().stats().calls_refused > 1);
}

/// A peer of another version acknowledges what it does not understand. Whoever waited for more than that
/// would wait for ever, with everything locked that it has locked at home.
#[test]
fn a_question_that_is_only_acknowledged_ends_the_transaction() {
    let mut node = cut_off();
    let me = Endpoint { node: NodeId(1), core: CoreId(0) };
    let mut peer = Rpc::new(me, cluster_hash("local"), 2, 3);
    let mut ends = Vec::new();
    // The first transaction meets a peer that has restarted, and fails with its session.
    for _ in 0..2 {
        node.turn_with(vec![(0, reading([1, 1]))]);
        for _ in 0..20 {
            let now = node.now;
            for (_, frame) in node.frames().iter().filter(|(to, _)| *to == me) {
                let _ = peer.on_frame(now, frame);
            }
            while let Some(event) = peer.poll_event() {
                if let Event::Request { id, .. } = event {
                    peer.respond(now, id, &[]);
                }
            }
            let mut frame = Vec::new();
            while peer.poll_tx(now, &mut frame).is_some() {
                node.core.on_frame(now, &frame);
            }
            node.turn();
        }
        ends.push(node.replies());
    }
    let unavailable = Reply::Aborted { abort: Abort::Unavailable, attempts: 1 };
    assert_eq!(ends[1], [unavailable], "{ends:?}");
    assert_eq!(node.core.stats().malformed, 0, "an acknowledgement is no message that makes no sense");
}
