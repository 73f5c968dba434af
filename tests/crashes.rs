//! Real nodes as processes, over loopback and real files, killed under load: what was acknowledged is there.
//!
//! What they do and how they are judged is `nodes`'.
#![forbid(unsafe_code)]

mod nodes;

use nodes::{NODES, Nodes};

/// The leader of a shard dies with payments under way, and comes back; then its successor does.
#[test]
fn what_a_leader_acknowledged_before_it_was_killed_is_kept() {
    let mut nodes = Nodes::start();
    nodes.wait_for_payments(&[0, 1]);
    nodes.kill(0);
    let next = nodes.wait_for_leader(0, &[1, 2]);
    nodes.wait_for_payments(&[next]);
    nodes.add(0, &[]);
    nodes.wait_for_payments(&[next]);
    nodes.kill(next);
    let others: Vec<usize> = (0..NODES).filter(|node| *node != next).collect();
    let last = nodes.wait_for_leader(0, &others);
    nodes.wait_for_payments(&[last]);
    nodes.verify();
}

/// A follower may die and come back as it likes: the leaders do not wait for it.
#[test]
fn what_was_acknowledged_while_a_follower_was_killed_is_kept() {
    let mut nodes = Nodes::start();
    for _ in 0..3 {
        nodes.wait_for_payments(&[0, 1]);
        nodes.kill(2);
        nodes.wait_for_payments(&[0, 1]);
        nodes.add(2, &[]);
    }
    nodes.wait_for_payments(&[0, 1]);
    nodes.verify();
}

/// A power cut: nobody is left who remembers, but for the disks.
#[test]
fn what_was_acknowledged_before_all_were_killed_at_once_is_kept() {
    let mut nodes = Nodes::start();
    for _ in 0..3 {
        let leader = nodes.wait_for_leader(0, &[0, 1, 2]);
        nodes.wait_for_payments(&[leader]);
        (0..NODES).for_each(|node| nodes.kill(node));
        (0..NODES).for_each(|node| nodes.spawn(node, &[]));
        (0..NODES).for_each(|node| drop(nodes.wait_for(node, "ready")));
    }
    nodes.verify();
}

/// A leader that sleeps past its lease wakes up in a world that has gone on without it, and believes for a
/// moment that it leads.
#[test]
fn a_leader_that_was_stopped_past_its_lease_acknowledges_nothing_that_is_not_kept() {
    let nodes = Nodes::start();
    nodes.wait_for_payments(&[0, 1]);
    let mut leader = 0;
    for _ in 0..2 {
        nodes.signal(leader, "STOP");
        let others: Vec<usize> = (0..NODES).filter(|node| *node != leader).collect();
        let next = nodes.wait_for_leader(0, &others);
        nodes.wait_for_payments(&[next]);
        nodes.signal(leader, "CONT");
        nodes.wait_for_payments(&[next]);
        leader = next;
    }
    nodes.verify();
}
