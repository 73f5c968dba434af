//! Checkpoints over a whole life: cores in virtual time with logs and checkpoints on paper.
#![forbid(unsafe_code)]

use super::super::stage::{Node, Plan, config, converse, converse_without, live_without, writing};
use super::*;
use crate::bounds::{CHECKPOINT_FAILED_NS, CHECKPOINT_ROWS_PER_STEP, ELECTION_TIMEOUT_NS, MS, SECOND};
use crate::config::Durability;
use crate::txn::Reply;
use crate::types::{Ballot, Epoch, Prng, ShardId};
use crate::wal::RecordKind;

const OURS: PartitionId = PartitionId(0);

fn cluster(shards: usize, durability: Durability) -> [Node; 3] {
    let config = config(shards, 3, durability);
    let mut nodes = [0, 1, 2].map(|node| Node::new(&config, node));
    converse(&mut nodes);
    assert!(nodes[0].replica(0).open);
    nodes
}

fn live(nodes: &mut [Node], ns: u64) {
    live_without(nodes, None, ns, 5 * MS);
}

/// Writes these keys of partition 0, one transaction each, wherever that is led.
fn write(nodes: &mut [Node], keys: impl Iterator<Item = u8>) {
    let leader = nodes.iter_mut().find(|node| node.replica(0).open).expect("somebody leads");
    assert_eq!(leader.turn_with(keys.map(|key| (0, writing([0, key]))).collect()), 0);
    converse(nodes);
}

/// A round of checkpoints of all that a node has.
fn checkpoint(nodes: &mut [Node], at: usize) {
    nodes[at].log.wants_checkpoint = true;
    live_without(nodes, None, 2 * SECOND, 10 * MS);
    nodes[at].log.wants_checkpoint = false;
    assert!(nodes[at].replica(0).archive.newest().is_some(), "none was taken");
}

/// Restart = checkpoint + log tail (DESIGN §7); and what was cut off the log is in the checkpoint.
#[test]
fn a_core_that_starts_from_its_checkpoint_and_the_tail_ends_equal_to_its_peers() {
    let mut nodes = cluster(1, Durability::QuorumDisk);
    write(&mut nodes, 0..100);
    live(&mut nodes, 100 * MS);
    checkpoint(&mut nodes, 1);
    write(&mut nodes, 50..150);
    live(&mut nodes, 100 * MS);
    assert!(nodes[1].log.cut.contains(&(OURS, Slot(0))), "nothing was cut off");
    let first = nodes[1].log.records.iter().find(|record| record.kind == RecordKind::Accept).unwrap();
    assert!(first.slot >= nodes[1].replica(0).archive.newest().unwrap());

    nodes[1].restart();
    assert!(nodes[1].rows(0).len() >= 100, "the checkpoint was not loaded");
    live(&mut nodes, SECOND);
    assert_eq!(nodes[1].rows(0), nodes[0].rows(0));
    assert_eq!(nodes[1].rows(0).len(), 150);
    assert_eq!(nodes[1].replica(0).runs, nodes[2].replica(0).runs);
    assert!(nodes[1].replica(0).applied() >= nodes[2].replica(0).mark());
}

/// A whole cluster comes back from checkpoints, with nobody left who knows what was cut off.
#[test]
fn all_of_them_start_again_from_their_checkpoints_and_lose_nothing() {
    let mut nodes = cluster(1, Durability::QuorumDisk);
    write(&mut nodes, 0..100);
    live(&mut nodes, 100 * MS);
    (0..3).for_each(|at| checkpoint(&mut nodes, at));
    write(&mut nodes, 90..120);
    live(&mut nodes, 100 * MS);
    let rows = nodes[0].rows(0);
    nodes.iter_mut().for_each(Node::restart);
    live(&mut nodes, 5 * SECOND);
    for node in &nodes {
        assert_eq!(node.rows(0), rows);
    }
    write(&mut nodes, 0..10);
    live(&mut nodes, 100 * MS);
    assert_ne!(nodes[0].rows(0), rows, "and they go on");
}

/// A leader that stopped for its checkpoint would be deposed by it.
#[test]
fn transactions_go_on_while_a_checkpoint_is_taken() {
    let mut nodes = cluster(1, Durability::QuorumDisk);
    for _ in 0..20 {
        write(&mut nodes, 0..=255);
    }
    nodes[0].replies();
    nodes[0].log.wants_checkpoint = true;
    let (mut during, mut durable) = (0, 0);
    for turn in 0..40 {
        nodes.iter_mut().for_each(|node| node.pass(crate::bounds::CHECKPOINT_STEP_NS));
        nodes[0].turn_with(vec![(0, writing([0, turn]))]);
        converse(&mut nodes);
        if nodes[0].checkpoints.is_writing(Origin::Own) {
            during += 1;
            durable +=
                nodes[0].replies().iter().filter(|reply| matches!(reply, Reply::Durable { .. })).count();
        }
    }
    assert!(during >= 256 / CHECKPOINT_ROWS_PER_STEP - 1 && durable >= during - 1, "{durable} of {during}");
    assert!(nodes[0].replica(0).archive.newest().is_some());
    nodes[0].log.wants_checkpoint = false;
    live(&mut nodes, 100 * MS);
    let rows = nodes[0].rows(0);
    nodes[0].restart();
    live(&mut nodes, 5 * SECOND);
    assert_eq!(nodes[0].rows(0), rows);
}

/// A log that grows faster than a checkpoint lets it go takes more than the operator has set aside for it.
#[test]
fn a_checkpoint_makes_haste_when_the_log_has_grown_and_only_then() {
    let turns = |overdue_percent| {
        let mut nodes = cluster(1, Durability::QuorumDisk);
        for _ in 0..20 {
            write(&mut nodes, 0..=255);
        }
        (nodes[0].log.wants_checkpoint, nodes[0].log.overdue_percent) = (true, overdue_percent);
        let took = (0..100).take_while(|_| {
            nodes[0].pass(crate::bounds::CHECKPOINT_STEP_NS);
            nodes[0].turn();
            nodes[0].replica(0).archive.newest().is_none()
        });
        took.count()
    };
    let (calm, hasty) = (turns(0), turns(50));
    assert!(hasty + 2 <= calm && calm < 100, "{hasty} turns in haste, else {calm}");
}

/// A full disk must end neither the core nor the hope: and nothing may be cut for what is not there.
#[test]
fn a_checkpoint_that_fails_is_tried_again_later_and_nothing_is_cut_before() {
    let mut nodes = cluster(1, Durability::QuorumDisk);
    write(&mut nodes, 0..10);
    nodes[0].checkpoints.full = true;
    nodes[0].log.wants_checkpoint = true;
    live(&mut nodes, 500 * MS);
    assert_eq!(nodes[0].replica(0).archive.newest(), None);
    assert_eq!(nodes[0].log.cut, []);
    nodes[0].checkpoints.full = false;
    live(&mut nodes, CHECKPOINT_RETRY_NS);
    assert!(nodes[0].replica(0).archive.newest().is_some());
    assert_ne!(nodes[0].log.cut, []);
}

/// What only a checkpoint can bring back: the peers have dropped the slots, and the replica has nothing.
fn comes_back_with_nothing(durability: Durability, lose: impl Fn(&mut Node)) {
    let mut nodes = cluster(1, durability);
    write(&mut nodes, 0..200);
    live(&mut nodes, 500 * MS);
    assert!(nodes[0].replica(0).stream.floor() > Slot(3), "the leader keeps everything");
    lose(&mut nodes[2]);
    assert_eq!(nodes[2].rows(0), []);
    let mut loaded_at = None;
    for turn in 0..200 {
        // Transactions go on all the while.
        write(&mut nodes, turn..=turn);
        live(&mut nodes, 20 * MS);
        loaded_at = loaded_at.or(nodes[2].replica(0).archive.newest().map(|_| turn));
    }
    live(&mut nodes, SECOND);
    assert!(loaded_at.is_some_and(|turn| turn < 190), "no checkpoint came: {loaded_at:?}");
    assert_eq!(nodes[2].rows(0), nodes[0].rows(0));
    assert_eq!(nodes[2].rows(0).len(), 200);
    assert!(!nodes[2].replica(0).stream.is_forgetful(), "it has all that a vote needs");
    assert_eq!(nodes[2].replica(0).runs, nodes[0].replica(0).runs);
    assert!(nodes[2].checkpoints.committed.contains_key(&OURS), "it is on its own disk");
    // And it is worth as much as the others.
    nodes[2].restart();
    live(&mut nodes, 3 * SECOND);
    assert_eq!(nodes[2].rows(0), nodes[0].rows(0));
}

#[test]
fn a_replica_without_memory_is_brought_back_by_a_peers_checkpoint() {
    comes_back_with_nothing(Durability::Memory, Node::restart);
}

#[test]
fn a_replica_whose_disk_was_emptied_is_brought_back_by_a_peers_checkpoint() {
    comes_back_with_nothing(Durability::QuorumDisk, Node::rebuild);
}

/// Invariant 1: behind the peer's checkpoint the log begins where the peer's does. One of our own that is
/// older, committed after it, would be followed by nothing.
#[test]
fn a_checkpoint_of_our_own_never_takes_the_place_of_a_newer_one_of_a_peer() {
    let mut nodes = cluster(1, Durability::QuorumDisk);
    write(&mut nodes, 0..50);
    live(&mut nodes, 100 * MS);
    // Node 2 is away until its peers know no more than their checkpoints.
    nodes[0].turn_with((50..100).map(|key| (0, writing([0, key]))).collect());
    live_without(&mut nodes, Some(2), 500 * MS, 5 * MS);
    for at in [0, 1] {
        nodes[at].log.wants_checkpoint = true;
        live_without(&mut nodes, Some(2), SECOND, 10 * MS);
        nodes[at].restart();
    }
    live_without(&mut nodes, Some(2), 3 * SECOND, 10 * MS);
    (nodes[2].log.wants_checkpoint, nodes[2].checkpoints.slow) = (true, true);
    nodes[2].turn();
    nodes[2].turn();
    assert!(nodes[2].checkpoints.is_writing(Origin::Own));
    live(&mut nodes, 3 * SECOND);
    let received = nodes[2].replica(0).archive.newest().expect("it came");
    assert_eq!((committed_slot(&nodes[2]), nodes[2].rows(0)), (Some(received), nodes[0].rows(0)));
    nodes[2].checkpoints.slow = false;
    live(&mut nodes, 3 * SECOND);
    assert!(committed_slot(&nodes[2]) > Some(received), "and then one that is newer");
    nodes[2].restart();
    live(&mut nodes, 2 * SECOND);
    assert_eq!(nodes[2].rows(0), nodes[0].rows(0));
}

/// Its state is ahead of every checkpoint, and transactions are running on it.
#[test]
fn a_replica_that_leads_keeps_its_own_state() {
    let mut nodes = cluster(1, Durability::QuorumDisk);
    write(&mut nodes, 0..50);
    nodes[0].core.replicas[0].archive.on_behind(Slot(1_000), NodeId(1));
    live(&mut nodes, SECOND);
    assert!(nodes[0].replica(0).open && nodes[0].rows(0).len() == 50);
    assert_eq!(nodes[1].replica(0).archive.newest(), None, "nobody was even asked");
}

/// Partitions of a core share its log.
#[test]
fn the_log_is_cut_where_the_partition_that_needs_most_of_it_lets_it() {
    let mut node = Node::open(&config(2, 1, Durability::QuorumDisk), 0);
    for key in 0..20 {
        node.turn_with(vec![(0, writing([0, key])), (1, writing([1, key]))]);
    }
    let mut nodes = [node];
    live(&mut nodes, 100 * MS);
    let first = |node: &Node, of: u16| {
        let of = |record: &&crate::wal::OwnedRecord| {
            record.partition == PartitionId(of) && record.kind == RecordKind::Accept
        };
        node.log.records.iter().find(of).map(|record| record.slot)
    };
    for (asked, other) in [(0, 1), (1, 0)] {
        let before = first(&nodes[0], other);
        nodes[0].core.replicas[usize::from(asked)].archive.asked_for = true;
        live(&mut nodes, 2 * CHECKPOINT_RETRY_NS);
        assert!(nodes[0].replica(asked).archive.newest().is_some());
        assert!(asked == 1 || first(&nodes[0], other) == before, "the other one needs it still");
    }
    assert!(first(&nodes[0], 0) > Some(Slot(10)) && first(&nodes[0], 1) > Some(Slot(10)));
}

/// Two shards; a transaction of both that is decided, and chosen in shard 0, when node 1, which leads shard
/// 1, is cut off before it hears of the decision. Whether it survives is open.
fn undecided() -> [Node; 3] {
    let mut nodes = cluster(2, Durability::QuorumDisk);
    assert!(nodes[1].replica(1).open);
    let both = || Plan { writes: vec![[0, 1], [1, 1]], ..Plan::default() };
    assert_eq!(nodes[0].turn_with(vec![(0, both()), (0, writing([0, 2]))]), 0);
    live(&mut nodes, 100 * MS);
    assert!(nodes.iter().all(|node| node.rows(0).len() == 2 && node.rows(1).len() == 1));

    // The prepare gets there and the vote comes back, and that is all.
    assert_eq!(nodes[0].turn_with(vec![(0, both())]), 0);
    for (from, to) in [(0, 1), (1, 0)] {
        let frames = nodes[from].frames();
        let (me, now) = (nodes[to].me, nodes[to].now);
        for (_, frame) in frames.iter().filter(|(at, _)| *at == me) {
            nodes[to].core.on_frame(now, frame);
        }
        nodes[to].turn();
    }
    nodes[0].replies();
    converse_without(&mut nodes, Some(1));
    live_without(&mut nodes, Some(1), 20 * MS, 5 * MS);
    assert_eq!(nodes[0].turn_with(vec![(0, writing([0, 3]))]), 0);
    live_without(&mut nodes, Some(1), 50 * MS, 5 * MS);
    assert!(nodes[0].replica(0).unsettled().is_some() && nodes[2].replica(0).unsettled().is_some());
    nodes
}

/// Checkpoints of partition 0 at nodes 0 and 2 while that transaction is open, then a restart of one of them.
fn restarts_while_it_is_open(at: usize, heals: bool) -> [Node; 3] {
    let mut nodes = undecided();
    for at in [0, 2] {
        nodes[at].log.wants_checkpoint = true;
    }
    live_without(&mut nodes, Some(1), 50 * MS, MS);
    for at in [0, 2] {
        nodes[at].log.wants_checkpoint = false;
        let (newest, end) =
            (nodes[at].replica(0).archive.newest().unwrap(), nodes[at].replica(0).archive.delivered.end());
        assert!(newest < end, "the open transaction is below {newest:?} of {end:?}");
    }
    let open = nodes[at].replica(0).unsettled().unwrap();
    nodes[at].restart();
    assert_eq!(nodes[at].rows(0).len(), 3, "what is stable is there");
    assert!(nodes[at].replica(0).applied().timestamp < open, "what is open is not applied");
    let absent = Some(1).filter(|_| !heals);
    live_without(&mut nodes, absent, 5 * SECOND, 10 * MS);
    nodes
}

/// At the time of the checkpoint the version is not stable, so it is not in it; the stream brings it.
#[test]
fn what_was_open_when_the_checkpoint_was_taken_and_became_stable_is_there_after_a_restart() {
    for at in [0, 2] {
        let nodes = restarts_while_it_is_open(at, true);
        assert!(nodes.iter().all(|node| node.replica(0).unsettled().is_none()));
        for node in &nodes {
            assert_eq!(node.rows(0), nodes[0].rows(0), "after a restart of node {at}");
            assert_eq!(node.rows(0)[0].1, node.rows(1)[0].1, "in both shards: it was decided");
        }
    }
}

/// Had it been in the checkpoint it could not be taken back; and what it had replaced must still be there,
/// though a later version of another key stands above both.
#[test]
fn what_was_open_when_the_checkpoint_was_taken_and_was_lost_leaves_what_it_had_replaced() {
    for at in [0, 2] {
        let nodes = restarts_while_it_is_open(at, false);
        for node in [&nodes[0], &nodes[2]] {
            assert_eq!(node.replica(0).unsettled(), None, "shard 1 has a new leader");
            assert_eq!(node.rows(0), nodes[0].rows(0));
            assert_eq!(node.rows(0).len(), 3);
            assert_eq!(node.rows(0)[0].1, node.rows(1)[0].1, "as before, in both shards");
        }
        assert!(!nodes[at].core.knowledge().closed().is_empty());
    }
}

/// Only the streams tell how an epoch ended, and their beginnings are cut off.
#[test]
fn how_epochs_ended_is_known_after_the_slots_that_told_it_are_gone() {
    let mut nodes = cluster(1, Durability::QuorumDisk);
    write(&mut nodes, 0..10);
    live(&mut nodes, 100 * MS);
    live_without(&mut nodes, Some(0), 4 * ELECTION_TIMEOUT_NS, 10 * MS);
    live(&mut nodes, SECOND);
    let stamp = Stamp { shard: ShardId(0), epoch: Ballot { round: 1, node: NodeId(0) }.epoch() };
    let end = nodes[1].core.knowledge().closed().get(stamp).expect("the first reign is over");
    write(&mut nodes, 10..20);
    (0..3).for_each(|at| checkpoint(&mut nodes, at));
    for node in &nodes {
        let seals = |epoch: Epoch| {
            let records = node.log.records.iter().filter(|record| record.kind == RecordKind::Accept);
            let views = records.map(|record| crate::wire::BatchView::parse(&record.payload).unwrap().epoch());
            views.filter(|of| *of == epoch).count()
        };
        assert_eq!(seals(stamp.epoch), 0, "slots of the first reign are still in the log");
    }
    for node in &mut nodes {
        node.restart();
        assert_eq!(node.core.knowledge().closed().get(stamp), Some(end), "before anything was heard");
        assert_ne!(node.replica(0).runs.opened(), []);
    }
    live(&mut nodes, 5 * SECOND);
    write(&mut nodes, 20..30);
    live(&mut nodes, SECOND);
    assert!(nodes.iter().all(|node| node.rows(0) == nodes[0].rows(0) && node.rows(0).len() == 30));
}

/// Any order of writes, checkpoints, full disks, absences and restarts: no record is cut off that the newest
/// committed checkpoint does not hold, and nothing acknowledged is ever missed.
#[test]
fn a_cut_log_never_lacks_what_a_restart_needs() {
    let (mut cut, mut restarts) = (0, 0);
    for seed in 0..20 {
        let mut prng = Prng::with_seed(seed);
        let mut nodes = cluster(1, Durability::QuorumDisk);
        for _ in 0..40 {
            let at = prng.usize(..3);
            match prng.u8(..8) {
                0..=2 if nodes.iter().any(|node| node.replica(0).open) => {
                    let keys: Vec<u8> = (0..prng.usize(..30)).map(|_| prng.u8(..)).collect();
                    write(&mut nodes, keys.into_iter());
                }
                3 => {
                    nodes[at].restart();
                    restarts += 1;
                }
                4 => nodes[at].log.wants_checkpoint ^= true,
                5 => nodes[at].checkpoints.full ^= true,
                6 => live_without(&mut nodes, Some(at as u16), prng.u64(..2 * SECOND), 20 * MS),
                _ => live(&mut nodes, prng.u64(..500 * MS)),
            }
            for node in &mut nodes {
                let committed = committed_slot(node);
                for (_, slot) in node.log.cut.drain(..) {
                    assert!(committed.is_some_and(|committed| slot < committed), "seed {seed}: {slot:?}");
                    cut += 1;
                }
            }
        }
        for node in &mut nodes {
            (node.log.wants_checkpoint, node.checkpoints.full) = (false, false);
        }
        live_without(&mut nodes, None, CHECKPOINT_FAILED_NS + 5 * SECOND, 20 * MS);
        for node in &nodes {
            assert_eq!(node.rows(0), nodes[0].rows(0), "seed {seed}");
            node.replica(0).stream.assert_invariants();
        }
    }
    assert!(cut > 500 && restarts > 50, "{cut} records cut, {restarts} restarts");
}

/// That of the bytes themselves, which is what a start would find.
fn committed_slot(node: &Node) -> Option<Slot> {
    let mut reader = crate::wal::checkpoint::CheckpointReader::of_anyone();
    let mut slot = None;
    let visit = &mut |piece: crate::wal::checkpoint::Piece<'_>| {
        if let crate::wal::checkpoint::Piece::Header(header) = piece {
            slot = Some(header.slot);
        }
    };
    reader.feed(node.checkpoints.committed.get(&OURS)?, visit).unwrap();
    slot
}
