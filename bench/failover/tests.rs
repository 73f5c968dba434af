//! Runs of `failover` against real clusters, small enough for a test, and who is killed in them.
#![forbid(unsafe_code)]

use super::*;
use crate::fixture::{self, Place};
use crate::options::{Bench, Options};
use clap::Parser;
use serde_json::json;

fn options(line: &str) -> FailoverOptions {
    let words = ["mako-bench", "failover"].into_iter().chain(line.split(' '));
    let Bench::Failover(options) = Options::parse_from(words).bench else { panic!("failover") };
    options
}

/// The bench itself must not rot: one leader dies, another follows, and nothing is lost. How long that takes
/// on a busy machine is not for a test to say.
#[test]
fn a_leader_is_killed_and_replaced_and_the_counters_add_up() {
    let options = options("--times 1 --warmup 200ms --pause 0ms --clients 4 --value-size 50");
    let Place { config, data: _data } = fixture::place(2, 3, 1, tables());
    let outcome = kill_nodes(&options, config, &AtomicBool::new(false)).unwrap();
    let impact = &outcome.kills[0].shards[0];
    assert!(impact.failed && impact.leader.is_some() && impact.outage_ns > 0);
    let json = outcome.json(Value::Null);
    for check in ["counters", "replaced", "directory"] {
        assert_eq!(json["checks"][check], json!("ok"));
    }
    assert!(outcome.page().contains("shard 0: outage "), "{}", outcome.page());
}

/// A follower that was away must be seen to come back, also beside leaders who fill the CPUs, and they to have gone on.
#[test]
fn a_follower_that_was_down_catches_up() {
    let options = options("--kill follower --times 1 --warmup 200ms --pause 0ms --clients 4 --down 600ms");
    let Place { config, data: _data } = fixture::place(2, 3, 1, tables());
    let outcome = kill_nodes(&options, config, &AtomicBool::new(false)).unwrap();
    let [Kill { nodes, absence: Some(absence), healthy: None, caught_up_ns, .. }] = &outcome.kills[..] else {
        panic!("one absence");
    };
    assert_eq!(nodes, &[NodeId(2)]);
    assert!(caught_up_ns.is_some() && absence.down_per_s > 0.0);
    assert_eq!(outcome.json(Value::Null)["checks"]["caught_up"], json!("ok"));
}

fn kill_of(shard: ShardId, elections: Range<Timestamp>) -> Kill {
    let shards = vec![Impact { shard, failed: true, outage_ns: 1, leader: None }];
    Kill {
        at: elections.start,
        elections,
        nodes: vec![NodeId(0)],
        shards,
        healthy: None,
        caught_up_ns: Some(1),
        absence: None,
    }
}

/// An election that deposes a leader who is well is an outage that nobody asked for.
#[test]
fn a_reign_that_no_kill_called_for_is_a_false_election() {
    let timeline = Timeline::new(Timestamp(0), 2);
    let kills = [kill_of(ShardId(1), Timestamp(100)..Timestamp(200))];
    for (shard, at) in [(0, 5), (1, 6), (1, 150), (0, 150), (1, 99), (1, 200)] {
        timeline.on_reign(ShardId(shard), Timestamp(at));
    }
    let found = false_elections(&timeline, &kills, Timestamp(10));
    let expected = [(0, 150), (1, 99), (1, 200)].map(|(shard, at)| (ShardId(shard), Timestamp(at)));
    assert_eq!(found, expected);
}

/// Which node dies is the whole of the experiment.
#[test]
fn a_follower_is_one_that_leads_nothing_if_there_is_one() {
    let Place { config, data: _data } = fixture::place(1, 3, 1, tables());
    let zones = config.nodes.iter().map(|node| node.zone.clone()).collect();
    let run = Run::new(&options("--clients 1"), &config, Timestamp(0));
    let interrupted = AtomicBool::new(false);
    let directories = Directories::new(&config, Timestamp(0));
    let cluster = Cluster::start_nodes(config, &[], Default::default(), |_, _| -> Load { unreachable!() });
    let cluster = cluster.unwrap_or_else(|error| panic!("{error}"));
    let (run, interrupted, bar) = (&run, &interrupted, ProgressBar::hidden());
    let (kills, verdicts) = (Vec::new(), Verdicts::new());
    let steering = Steering { cluster, run, interrupted, zones, directories, bar, kills, verdicts };
    let led = |nodes: &[u16]| nodes.iter().map(|node| Some(NodeId(*node))).collect::<Vec<_>>();
    assert_eq!(steering.victims(Victim::Follower, &led(&[0, 1])), [NodeId(2)]);
    assert_eq!(steering.victims(Victim::Follower, &led(&[0, 1, 2])), [NodeId(1)]);
    assert_eq!(steering.victims(Victim::Leader, &led(&[2, 1])), [NodeId(2)]);
    assert_eq!(steering.victims(Victim::Zone, &led(&[1, 0])), [NodeId(1)]);
}
