//! A shard of three whose nodes meet, part, and come back without what they had, in virtual time.
#![forbid(unsafe_code)]

use super::super::stage::{Node, config, live_without};
use crate::bounds::{ELECTION_TIMEOUT_NS, MS};
use crate::config::Durability;
use crate::types::{Ballot, NodeId};

const STEP_NS: u64 = 10 * MS;

/// On disks that nobody knows yet.
fn three() -> [Node; 3] {
    [0, 1, 2].map(|node| {
        let mut node = Node::new(&config(1, 3, Durability::QuorumDisk), node);
        node.start_on(u64::from(node.me.node.0) + 1, false);
        node
    })
}

fn live(nodes: &mut [Node], absent: Option<u16>, ns: u64) {
    live_without(nodes, absent, ns, STEP_NS);
}

fn met() -> [Node; 3] {
    let mut nodes = three();
    live(&mut nodes, None, 2 * ELECTION_TIMEOUT_NS);
    assert!(nodes.iter().all(votes) && nodes[0].replica(0).open);
    nodes
}

fn votes(node: &Node) -> bool {
    !node.core.is_forgetful()
}

fn awaited(node: &Node) -> Vec<u16> {
    node.core.awaited().map(|node| node.0).collect()
}

/// Had two of them begun without the third, it could be one of those that have promised and been emptied.
#[test]
fn a_new_shard_waits_until_all_have_met_and_then_opens_at_once() {
    let mut nodes = three();
    live(&mut nodes, Some(2), 3 * ELECTION_TIMEOUT_NS);
    assert!(!nodes.iter().any(votes) && nodes.iter().all(|node| !node.replica(0).open));
    assert_eq!([0, 1, 2].map(|at| awaited(&nodes[at])), [vec![2], vec![2], vec![0, 1]]);
    assert!(nodes.iter().all(|node| node.replica(0).stream.promised() == Ballot::default()));
    live(&mut nodes, None, 300 * MS);
    assert!(nodes.iter().all(votes) && nodes[0].replica(0).open, "and no election timeout had to pass");
}

/// Who took part is known for good: it need not be met again, whoever is down.
#[test]
fn one_that_has_promised_starts_again_without_its_peers() {
    let mut nodes = met();
    nodes[0].start_on(1, false);
    live(&mut nodes, Some(1), 3 * ELECTION_TIMEOUT_NS);
    assert!(
        votes(&nodes[0]) && nodes[2].replica(0).stream.chosen_end() > nodes[1].replica(0).stream.chosen_end()
    );
    assert!(nodes.iter().all(|node| node.core.refused_by().is_none()));
}

/// One peer that remembers is enough, however often it is tried; nothing is promised meanwhile.
#[test]
fn one_whose_disk_was_emptied_is_turned_away_until_it_is_rebuilt() {
    let mut nodes = met();
    nodes[2].empty();
    for (start, absent) in (0..).zip([None, Some(0), Some(1), None]) {
        nodes[2].start_on(9, false);
        live(&mut nodes, absent, ELECTION_TIMEOUT_NS);
        let refused_by = nodes[2].core.refused_by();
        assert!(refused_by.is_some_and(|by| Some(by.0) != absent), "start {start}: {refused_by:?}");
        assert!(!votes(&nodes[2]) && nodes[2].replica(0).stream.promised() == Ballot::default());
    }
    nodes[2].empty();
    nodes[2].start_on(10, true);
    live(&mut nodes, None, 4 * ELECTION_TIMEOUT_NS);
    assert!(votes(&nodes[2]), "it waits for {:?}", awaited(&nodes[2]));
    // On that disk it is known from now on, and on no other.
    nodes[2].start_on(10, false);
    live(&mut nodes, Some(1), ELECTION_TIMEOUT_NS);
    assert!(votes(&nodes[2]));
    nodes[2].empty();
    nodes[2].start_on(11, false);
    live(&mut nodes, Some(1), ELECTION_TIMEOUT_NS);
    assert_eq!(nodes[2].core.refused_by(), Some(NodeId(0)));
}

/// What a peer is known by outlives its own restart, and that of who knows it.
#[test]
fn a_peer_that_was_started_again_still_knows_who_was_emptied() {
    let mut nodes = met();
    nodes[2].empty();
    (0..2).for_each(|at| nodes[at].start_on(at as u64 + 1, false));
    nodes[2].start_on(9, false);
    live(&mut nodes, Some(1), ELECTION_TIMEOUT_NS);
    assert_eq!(nodes[2].core.refused_by(), Some(NodeId(0)));
}

/// Nobody is left who could know that it was emptied.
#[test]
fn peers_that_are_all_being_rebuilt_vouch_for_nobody() {
    let mut nodes = met();
    nodes.iter_mut().for_each(Node::empty);
    nodes[0].start_on(7, false);
    nodes[1].start_on(8, true);
    nodes[2].start_on(9, true);
    live(&mut nodes, None, 4 * ELECTION_TIMEOUT_NS);
    assert!(!nodes.iter().any(votes) && nodes.iter().all(|node| node.core.refused_by().is_none()));
    assert_eq!(awaited(&nodes[0]), Vec::<u16>::new(), "it has heard them all");
}

/// A node that was rebuilt knows its peers again before it votes: else two emptied one after the other would
/// be taken for new.
#[test]
fn one_that_was_rebuilt_knows_who_is_emptied_afterwards() {
    let mut nodes = met();
    nodes[1].empty();
    nodes[1].start_on(8, true);
    live(&mut nodes, None, 4 * ELECTION_TIMEOUT_NS);
    assert!(votes(&nodes[1]));
    nodes[2].empty();
    nodes[2].start_on(9, false);
    live(&mut nodes, Some(0), ELECTION_TIMEOUT_NS);
    assert_eq!(nodes[2].core.refused_by(), Some(NodeId(1)));
}
