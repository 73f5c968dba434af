//! Kills leaders under load, one after the other, and measures how long their shards stand still and how much
//! the others notice.
//!
//! A node that is killed stops at once: nothing is flushed, nobody is told (`Cluster::kill`). It starts again
//! from its disk when its shards have new leaders, and must be followed by the next kill.
#![forbid(unsafe_code)]

mod load;
mod timeline;

use crate::layout::Layout;
use crate::machine::Machine;
use crate::options::{FailoverOptions, Victim};
use anyhow::bail;
use load::{Load, Run, TABLE};
use mako::bounds::{MS, SECOND};
use mako::clock;
use mako::config::{Config, Table};
use mako::server::Cluster;
use mako::types::{NodeId, ShardId, Timestamp};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;
use timeline::{BUCKET_NS, BUCKETS_MAX, Timeline};

/// What a run came to.
pub struct Outcome {
    run: Arc<Run>,
    seconds: f64,
    kills: Vec<Kill>,
    /// Name of a check → `None` when it holds, else why not.
    verdicts: BTreeMap<&'static str, Option<String>>,
}

/// One kill, and what followed.
struct Kill {
    at: Timestamp,
    nodes: Vec<NodeId>,
    shards: Vec<Impact>,
    /// Throughput of the healthy shards while others stood still, as a share of that before; `None` when none
    /// was healthy, or none stood still.
    healthy_share: Option<f64>,
}

/// What a kill meant for one shard.
struct Impact {
    shard: ShardId,
    /// It was led by a node that was killed.
    failed: bool,
    /// From its last durable reply before to its first one after.
    outage_ns: u64,
    leader: Option<NodeId>,
}

pub fn tables() -> Vec<Table> {
    vec![Layout::by_integer("failover")]
}

/// The table whose rows are placed by their leading four bytes.
pub const ROUTED: mako::types::TableId = TABLE;

pub fn run(options: &FailoverOptions, config: Config, interrupted: &AtomicBool) -> anyhow::Result<Outcome> {
    let zones: Vec<String> = config.nodes.iter().map(|node| node.zone.clone()).collect();
    let (start, layout) = (clock::now(), Layout::new(&config, TABLE));
    let run = Arc::new(Run {
        timeline: Timeline::new(start, config.shards.len()),
        layout,
        clients: options.clients,
        begun: AtomicU64::new(0),
        over: AtomicBool::new(false),
        adds_up: AtomicBool::new(false),
        sum: AtomicU64::new(0),
    });
    let shared = run.clone();
    let seeds = AtomicU64::new(options.seed);
    let cluster = Cluster::start(config, move |node, _| {
        Load::new(shared.clone(), node, seeds.fetch_add(1, Ordering::Relaxed))
    })?;
    let mut steering = Steering { cluster, run: &run, interrupted, zones, verdicts: BTreeMap::new() };
    let kills = steering.steer(options)?;
    let Steering { cluster, verdicts, .. } = steering;
    cluster.stop()?;
    let seconds = clock::now().since(start) as f64 / SECOND as f64;
    Ok(Outcome { run, seconds, kills, verdicts })
}

struct Steering<'a> {
    cluster: Cluster<Load>,
    run: &'a Run,
    interrupted: &'a AtomicBool,
    /// By node.
    zones: Vec<String>,
    verdicts: BTreeMap<&'static str, Option<String>>,
}

impl Steering<'_> {
    fn steer(&mut self, options: &FailoverOptions) -> anyhow::Result<Vec<Kill>> {
        let run = self.run;
        let led = || run.timeline.shards().all(|shard| run.timeline.leader(shard).is_some());
        if !self.wait_until(led)? {
            bail!(
                "no load (start): not every shard had a durable transaction after {} s",
                PATIENCE_NS / SECOND
            );
        }
        self.pause(options.warmup_ns)?;
        let mut kills = Vec::new();
        self.verdicts.insert("replaced", None);
        for _ in 0..options.times {
            let kill = self.kill(options)?;
            let stuck = kill.shards.iter().find(|impact| impact.failed && impact.leader.is_none());
            if let Some(Impact { shard, .. }) = stuck {
                let why = format!("shard {} had no new leader after {} s", shard.0, PATIENCE_NS / SECOND);
                self.verdicts.insert("replaced", Some(why));
                kills.push(kill);
                return Ok(kills);
            }
            kills.push(kill);
        }
        run.over.store(true, Ordering::Relaxed);
        self.pause(CALM_NS)?;
        self.add_up()?;
        Ok(kills)
    }

    fn kill(&mut self, options: &FailoverOptions) -> anyhow::Result<Kill> {
        let timeline = &self.run.timeline;
        let leaders: Vec<_> = timeline.shards().map(|shard| timeline.leader(shard)).collect();
        let nodes = self.victims(options.kill, &leaders);
        let at = clock::now();
        for node in &nodes {
            self.cluster.kill(*node)?;
        }
        let failed =
            |shard: ShardId| leaders[usize::from(shard.0)].is_some_and(|leader| nodes.contains(&leader));
        let replaced = |shard| timeline.leader(shard).is_some_and(|leader| !nodes.contains(&leader));
        self.wait_until(|| timeline.shards().filter(|shard| failed(*shard)).all(replaced))?;
        let until = clock::now();
        self.pause(AFTER_NS)?;

        let impact = |shard| {
            let pause = timeline.pause(shard, at..until);
            let outage_ns = pause.map_or(0, |pause| pause.end.since(pause.start));
            let leader = timeline.leader(shard).filter(|leader| !nodes.contains(leader));
            Impact { shard, failed: failed(shard), outage_ns, leader }
        };
        let shards: Vec<Impact> = timeline.shards().map(impact).collect();
        let healthy: Vec<ShardId> = timeline.shards().filter(|shard| !failed(*shard)).collect();
        let before = timeline.per_second(&healthy, Timestamp(at.0 - BEFORE_NS)..at);
        let is_measured = before > 0.0 && healthy.len() < shards.len();
        let healthy_share = is_measured.then(|| timeline.per_second(&healthy, at..until) / before);
        for node in &nodes {
            self.cluster.restart(*node)?;
        }
        self.pause(options.pause_ns)?;
        Ok(Kill { at, nodes, shards, healthy_share })
    }

    fn victims(&self, kill: Victim, leaders: &[Option<NodeId>]) -> Vec<NodeId> {
        let leader = leaders[0].expect("it has led");
        let all = || (0..).map(NodeId).take(self.zones.len());
        match kill {
            Victim::Leader => vec![leader],
            // One that leads nothing, if there is one.
            Victim::Follower => {
                let idle = all().find(|node| !leaders.contains(&Some(*node)));
                idle.or_else(|| all().find(|node| *node != leader)).into_iter().collect()
            }
            Victim::Zone => {
                let zone = |node: NodeId| &self.zones[usize::from(node.0)];
                all().filter(|node| zone(*node) == zone(leader)).collect()
            }
        }
    }

    /// Nothing that was durable may be lost, and nothing done twice.
    fn add_up(&mut self) -> anyhow::Result<()> {
        let (durable, begun) = (self.run.timeline.total(), self.run.begun.load(Ordering::Relaxed));
        self.run.adds_up.store(true, Ordering::Relaxed);
        let known = self.wait_until(|| self.run.sum.load(Ordering::Relaxed) > 0)?;
        let sum = self.run.sum.load(Ordering::Relaxed).saturating_sub(1);
        let verdict = match known {
            false => Some(format!("the counters were not read within {} s", PATIENCE_NS / SECOND)),
            true if (durable..=begun).contains(&sum) => None,
            true => Some(format!("they add up to {sum}; {durable} were durable, of {begun} begun")),
        };
        self.verdicts.insert("counters", verdict);
        Ok(())
    }

    /// Whether it came to be in time.
    fn wait_until(&self, is_so: impl Fn() -> bool) -> anyhow::Result<bool> {
        let start = clock::now();
        while !is_so() {
            if clock::now().since(start) > PATIENCE_NS {
                return Ok(false);
            }
            self.pause(LOOK_NS)?;
        }
        Ok(true)
    }

    fn pause(&self, ns: u64) -> anyhow::Result<()> {
        let until = clock::now().plus_ns(ns);
        loop {
            if self.interrupted.load(Ordering::Relaxed) {
                bail!("the run was interrupted (signal): nothing is reported");
            }
            let left = until.since(clock::now());
            if left == 0 {
                return Ok(());
            }
            thread::park_timeout(Duration::from_nanos(left));
        }
    }
}

impl Outcome {
    pub fn all_checks_hold(&self) -> bool {
        self.verdicts.values().all(Option::is_none)
    }

    /// For programs; the names are a published interface.
    pub fn json(&self, config: Value) -> Value {
        let timeline = &self.run.timeline;
        let buckets = timeline.bucket(clock::now()).min(BUCKETS_MAX);
        let counts: Vec<Vec<u32>> =
            timeline.shards().map(|shard| timeline.counts(shard, 0..buckets).collect()).collect();
        let checks: BTreeMap<_, _> =
            self.verdicts.iter().map(|(name, why)| (*name, why.as_deref().unwrap_or("ok"))).collect();
        json!({
            "bench": "failover",
            "version": 1,
            "config": config,
            "machine": Machine::read(),
            "seconds": self.seconds,
            "committed": timeline.total(),
            "throughput_per_s": timeline.total() as f64 / self.seconds,
            "kills": self.kills.iter().map(|kill| self.kill_json(kill)).collect::<Vec<_>>(),
            "timeline": { "bucket_ms": BUCKET_NS / MS, "durable_by_shard": counts },
            "checks": checks,
        })
    }

    fn kill_json(&self, kill: &Kill) -> Value {
        let shard = |impact: &Impact| {
            json!({
                "shard": impact.shard.0,
                "failed": impact.failed,
                "outage_ms": impact.outage_ns as f64 / MS as f64,
                "leader_after": impact.leader.map(|node| node.0),
            })
        };
        json!({
            "bucket": self.run.timeline.bucket(kill.at),
            "nodes": kill.nodes.iter().map(|node| node.0).collect::<Vec<_>>(),
            "shards": kill.shards.iter().map(shard).collect::<Vec<_>>(),
            "healthy_share": kill.healthy_share,
        })
    }

    /// For a person at a terminal.
    pub fn page(&self) -> String {
        let timeline = &self.run.timeline;
        let mut page = String::new();
        let rate = timeline.total() as f64 / self.seconds;
        let _ = writeln!(
            page,
            "failover: {} durable in {:.1} s: {rate:.0} per second\n",
            timeline.total(),
            self.seconds
        );
        for (number, kill) in (1..).zip(&self.kills) {
            let nodes: Vec<String> = kill.nodes.iter().map(|node| format!("n{}", node.0)).collect();
            let _ = writeln!(page, "kill {number}: {}", nodes.join(", "));
            for impact in kill.shards.iter().filter(|impact| impact.failed) {
                let after = impact.leader.map_or("nobody".to_string(), |leader| format!("n{}", leader.0));
                let outage_ms = impact.outage_ns as f64 / MS as f64;
                let _ = writeln!(
                    page,
                    "  shard {}: outage {outage_ms:.0} ms, then led by {after}",
                    impact.shard.0
                );
            }
            match kill.healthy_share {
                Some(share) => {
                    let _ = writeln!(
                        page,
                        "  healthy shards meanwhile: {:.0} % of their throughput",
                        100.0 * share
                    );
                }
                None => page += "  no shard stood still while another was healthy\n",
            }
            let longest = kill.shards.iter().map(|impact| impact.outage_ns).max().unwrap_or(0);
            let from = Timestamp(kill.at.0 - PLOT_BEFORE_NS);
            page += &timeline.plot(from..kill.at.plus_ns(longest + PLOT_AFTER_NS), kill.at);
            page.push('\n');
        }
        for (name, why) in &self.verdicts {
            let _ = writeln!(page, "check {name}: {}", why.as_deref().unwrap_or("ok"));
        }
        page
    }
}

const LOOK_NS: u64 = MS;
/// How long nothing may happen: several elections.
const PATIENCE_NS: u64 = 60 * SECOND;
/// What the throughput during an outage is compared with.
const BEFORE_NS: u64 = SECOND;
/// Between the end of an outage and the restart of who was killed.
const AFTER_NS: u64 = 500 * MS;
/// What is in flight when the load ends is over then.
const CALM_NS: u64 = SECOND;
const PLOT_BEFORE_NS: u64 = 300 * MS;
const PLOT_AFTER_NS: u64 = 500 * MS;
const _: () = assert!(PLOT_AFTER_NS <= AFTER_NS);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{self, Place};
    use crate::options::{Bench, Options};
    use clap::Parser;

    /// The bench itself must not rot: one leader dies, another follows, and nothing is lost.
    #[test]
    fn a_leader_is_killed_and_replaced_and_the_counters_add_up() {
        let line = "mako-bench failover --times 1 --warmup 200ms --pause 0ms --clients 4";
        let Bench::Failover(options) = Options::parse_from(line.split(' ')).bench else { panic!("failover") };
        let Place { config, data: _data } = fixture::place(2, 3, 1, tables());
        let outcome = run(&options, config, &AtomicBool::new(false)).unwrap();
        assert!(outcome.all_checks_hold(), "{:?}", outcome.verdicts);
        let impact = &outcome.kills[0].shards[0];
        assert!(impact.failed && impact.leader.is_some() && impact.outage_ns > 0);
        let json = outcome.json(Value::Null);
        assert_eq!(json["checks"], json!({ "counters": "ok", "replaced": "ok" }));
        assert!(outcome.page().contains("shard 0: outage "), "{}", outcome.page());
    }

    /// Which node dies is the whole of the experiment.
    #[test]
    fn a_follower_is_one_that_leads_nothing_if_there_is_one() {
        let Place { config, data: _data } = fixture::place(1, 3, 1, tables());
        let zones = config.nodes.iter().map(|node| node.zone.clone()).collect();
        let run = Run {
            timeline: Timeline::new(Timestamp(0), 1),
            layout: Layout::new(&config, TABLE),
            clients: 1,
            begun: AtomicU64::new(0),
            over: AtomicBool::new(false),
            adds_up: AtomicBool::new(false),
            sum: AtomicU64::new(0),
        };
        let interrupted = AtomicBool::new(false);
        let cluster =
            Cluster::start_nodes(config, &[], Default::default(), |_, _| -> Load { unreachable!() });
        let cluster = cluster.unwrap_or_else(|error| panic!("{error}"));
        let steering =
            Steering { cluster, run: &run, interrupted: &interrupted, zones, verdicts: BTreeMap::new() };
        let led = |nodes: &[u16]| nodes.iter().map(|node| Some(NodeId(*node))).collect::<Vec<_>>();
        assert_eq!(steering.victims(Victim::Follower, &led(&[0, 1])), [NodeId(2)]);
        assert_eq!(steering.victims(Victim::Follower, &led(&[0, 1, 2])), [NodeId(1)]);
        assert_eq!(steering.victims(Victim::Leader, &led(&[2, 1])), [NodeId(2)]);
        assert_eq!(steering.victims(Victim::Zone, &led(&[1, 0])), [NodeId(1)]);
    }
}
