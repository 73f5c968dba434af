//! Kills nodes under load, one after the other, and measures how long their shards stand still and how much
//! the others notice.
//!
//! | file | is |
//! |---|---|
//! | here | whom to kill, when, and what to wait for, in a cluster of this process |
//! | `load` | the clients |
//! | `timeline`, `directories` | what is seen of them: transactions as they become durable, and files |
//! | `report` | what that came to, judged |
//! | `processes`, `book` | nodes as processes, and what they acknowledged and show |
//! | `power` | all of them killed at once, or a bit of their files flipped |
//!
//! A node that is killed stops at once: nothing is flushed, nobody is told (`Cluster::kill`). It starts again
//! from its disk when its shards have new leaders, and the next one is killed when it has caught up.
#![forbid(unsafe_code)]

mod book;
mod directories;
mod load;
mod power;
mod processes;
mod report;
mod timeline;

pub use directories::{Size, mebibytes};
pub use load::VALUE_BYTES_MAX;
pub use report::{Verdicts, checks_json, checks_page, ms};

use crate::layout::Layout;
use crate::options::{FailoverOptions, Victim};
use crate::runner::progress;
use anyhow::bail;
use directories::Directories;
use indicatif::ProgressBar;
use load::{Load, Run, TABLE};
use mako::bounds::{MS, SECOND};
use mako::clock;
use mako::config::{Config, Table};
use mako::server::{Cluster, CoreReport};
use mako::types::{NodeId, ShardId, Timestamp};
use report::{Absence, Healthy, Impact, Kill, Outcome, PLOT_AFTER_NS};
use serde_json::Value;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;
use timeline::Timeline;

/// What a run has to say.
pub struct Told {
    pub json: Value,
    pub page: String,
    /// No promise was broken.
    pub holds: bool,
}

pub fn tables() -> Vec<Table> {
    vec![Layout::by_integer("failover")]
}

/// The table whose rows are placed by their leading four bytes.
pub const ROUTED: mako::types::TableId = TABLE;

/// `settings` are what was chosen, for the report.
pub fn run(
    options: &FailoverOptions,
    config: Config,
    settings: Value,
    interrupted: &AtomicBool,
) -> anyhow::Result<Told> {
    if options.kill == Victim::All || options.flip > 0 {
        return power::run(options, config, settings, interrupted);
    }
    let outcome = kill_nodes(options, config, interrupted)?;
    Ok(Told { json: outcome.json(settings), page: outcome.page(), holds: outcome.all_checks_hold() })
}

fn kill_nodes(
    options: &FailoverOptions,
    config: Config,
    interrupted: &AtomicBool,
) -> anyhow::Result<Outcome> {
    let start = clock::now();
    let zones: Vec<String> = config.nodes.iter().map(|node| node.zone.clone()).collect();
    let (election_timeout_ns, directories) = (config.election_timeout_ns, Directories::new(&config, start));
    let run = Arc::new(Run::new(options, &config, start));
    let shared = run.clone();
    let seeds = AtomicU64::new(options.seed);
    let cluster = Cluster::start(config, move |node, core| {
        Load::new(shared.clone(), node, core, seeds.fetch_add(1, Ordering::Relaxed))
    })?;
    let bar = progress("failover", 1);
    let (verdicts, kills) = (Verdicts::new(), Vec::new());
    let mut steering = Steering { cluster, run: &run, interrupted, zones, directories, bar, kills, verdicts };
    let steered = steering.steer(options);
    let Steering { cluster, bar, directories, mut kills, mut verdicts, .. } = steering;
    bar.finish_and_clear();
    // Why a core has ended says more than that it has.
    let reports = cluster.stop()?;
    let steady = steered?;
    note_checkpoints(&mut kills, &reports);

    (1..).zip(&kills).for_each(|(number, kill)| kill.judge(election_timeout_ns, number, &mut verdicts));
    let false_elections = false_elections(&run.timeline, &kills, steady);
    let why = false_elections.first().map(|(shard, at)| {
        let (count, after_s) = (false_elections.len(), at.since(start) as f64 / SECOND as f64);
        format!("{count}; the first of shard {}, after {after_s:.1} s", shard.0)
    });
    verdicts.insert("no_false_election", why);
    verdicts.insert("directory", directories.verdict());
    let seconds = clock::now().since(start) as f64 / SECOND as f64;
    Ok(Outcome { run, seconds, kills, directories, false_elections, verdicts })
}

/// Reigns of shards that had a leader who was well. The first of each shard, before all is steady, is none.
fn false_elections(timeline: &Timeline, kills: &[Kill], steady: Timestamp) -> Vec<(ShardId, Timestamp)> {
    let is_called_for = |shard: ShardId, at: Timestamp| {
        let killed =
            kills.iter().filter(|kill| kill.shards.iter().any(|one| one.shard == shard && one.failed));
        at < steady || killed.into_iter().any(|kill| kill.elections.contains(&at))
    };
    let reigns =
        timeline.shards().flat_map(|shard| timeline.reigns(shard).into_iter().map(move |at| (shard, at)));
    reigns.filter(|(shard, at)| !is_called_for(*shard, *at)).collect()
}

/// What a node was sent by its peers since it came back; known once it has ended again.
fn note_checkpoints(kills: &mut [Kill], reports: &[CoreReport<Load>]) {
    for CoreReport { node, tally, .. } in reports {
        let last = kills.iter_mut().rev().find(|kill| kill.nodes.contains(node));
        if let Some(absence) = last.and_then(|kill| kill.absence.as_mut()) {
            absence.checkpoints += tally.core.checkpoints_received;
        }
    }
}

struct Steering<'a> {
    cluster: Cluster<Load>,
    run: &'a Run,
    interrupted: &'a AtomicBool,
    /// By node.
    zones: Vec<String>,
    directories: Directories,
    bar: ProgressBar,
    kills: Vec<Kill>,
    verdicts: Verdicts,
}

impl Steering<'_> {
    /// Since when every shard had its leader.
    fn steer(&mut self, options: &FailoverOptions) -> anyhow::Result<Timestamp> {
        let run = self.run;
        let led = || run.timeline.shards().all(|shard| run.timeline.leader(shard).is_some());
        if !self.wait_until(led)? {
            bail!(
                "no load (start): not every shard had a durable transaction after {} s",
                PATIENCE_NS / SECOND
            );
        }
        let steady = clock::now();
        self.pause(options.warmup_ns)?;
        let times = if options.kill == Victim::None { 0 } else { options.times };
        if times == 0 {
            self.run_undisturbed(options.duration_ns)?;
        }
        self.bar.set_length(u64::from(times).max(1));
        for done in 0..times {
            self.bar.set_position(u64::from(done));
            if !self.kill(options)? {
                // Nothing is gained by more of them, nor by adding up what cannot be read.
                return Ok(steady);
            }
        }
        run.over.store(true, Ordering::Relaxed);
        self.pause(CALM_NS)?;
        self.add_up()?;
        Ok(steady)
    }

    fn run_undisturbed(&mut self, ns: u64) -> anyhow::Result<()> {
        let start = clock::now();
        self.bar.set_length(ns / MS);
        loop {
            let done_ns = clock::now().since(start);
            if done_ns >= ns {
                return Ok(());
            }
            self.bar.set_position(done_ns / MS);
            self.pause(SECOND.min(ns - done_ns))?;
        }
    }

    /// Whether every shard that it left without a leader has one again.
    fn kill(&mut self, options: &FailoverOptions) -> anyhow::Result<bool> {
        let timeline = &self.run.timeline;
        let leaders: Vec<_> = timeline.shards().map(|shard| timeline.leader(shard)).collect();
        let nodes = self.victims(options.kill, &leaders);
        let at = clock::now();
        let calm_ns = if self.kills.is_empty() { options.warmup_ns } else { options.pause_ns };
        let before = Timestamp(at.0 - calm_ns.clamp(BEFORE_NS_MIN, BEFORE_NS_MAX))..at;
        for node in &nodes {
            let left = self.cluster.kill(*node)?;
            note_checkpoints(&mut self.kills, &left);
        }
        let failed =
            |shard: ShardId| leaders[usize::from(shard.0)].is_some_and(|leader| nodes.contains(&leader));
        let replaced = |shard| timeline.leader(shard).is_some_and(|leader| !nodes.contains(&leader));
        let is_replaced = || timeline.shards().filter(|shard| failed(*shard)).all(replaced);
        let all_replaced = self.wait_until(is_replaced)?;
        let until = clock::now();
        self.pause(options.down_ns.unwrap_or(AFTER_NS).max(AFTER_NS))?;
        let back = clock::now();
        for node in &nodes {
            self.cluster.restart(*node)?;
        }
        let healthy: Vec<ShardId> = timeline.shards().filter(|shard| !failed(*shard)).collect();
        let is_absence = options.kill == Victim::Follower && options.down_ns.is_some();
        let returned = self.await_return(&nodes)?;
        let absence = match is_absence {
            true => Some(self.absence(returned, &healthy, before.clone(), at..back)?),
            false => None,
        };
        let caught_up_ns = returned.map(|at| at.since(back));
        self.pause(options.pause_ns)?;

        let impact = |shard| {
            let pause = timeline.pause(shard, at..until);
            let outage_ns = pause.map_or(0, |pause| pause.end.since(pause.start));
            let leader = timeline.leader(shard).filter(|leader| !nodes.contains(leader));
            Impact { shard, failed: failed(shard), outage_ns, leader }
        };
        let shards: Vec<Impact> = timeline.shards().map(impact).collect();
        let healthy = self.healthy(&healthy, &shards, before, at..until);
        let elections = at..until;
        self.kills.push(Kill { at, elections, nodes, shards, healthy, caught_up_ns, absence });
        Ok(all_replaced)
    }

    /// How the healthy shards fared while others stood still; `None` when none was healthy, or none stood still.
    fn healthy(
        &self,
        healthy: &[ShardId],
        shards: &[Impact],
        before: Range<Timestamp>,
        outage: Range<Timestamp>,
    ) -> Option<Healthy> {
        let timeline = &self.run.timeline;
        let before = timeline.per_second(healthy, before);
        let failed = shards.iter().filter(|impact| impact.failed);
        let outage_ns = failed.map(|impact| impact.outage_ns).max().filter(|_| before > 0.0)?;
        let share = timeline.per_second(healthy, outage.clone()) / before;
        // Who waited for the others ends only after them.
        let slowest_ns = timeline.slowest_ns(healthy, outage.start..outage.end.plus_ns(AFTER_NS / 2));
        Some(Healthy { share, slowest_ns, outage_ns })
    }

    /// Waits until nodes that were down have all that their leaders have: a cluster that lacks one more is another case.
    /// When that was; `None` when they did not within patience.
    fn await_return(&mut self, nodes: &[NodeId]) -> anyhow::Result<Option<Timestamp>> {
        let run = self.run;
        let caught_up = || {
            let lag = |node: &NodeId| clock::now().since(run.applied(*node));
            nodes.iter().all(|node| lag(node) < CAUGHT_UP_NS)
        };
        let in_time = self.wait_until(caught_up)?;
        Ok(in_time.then(clock::now))
    }

    /// What it cost the leaders that a node was down and came back.
    fn absence(
        &mut self,
        returned: Option<Timestamp>,
        led: &[ShardId],
        before: Range<Timestamp>,
        down: Range<Timestamp>,
    ) -> anyhow::Result<Absence> {
        let timeline = &self.run.timeline;
        // A few milliseconds are no throughput.
        let back = down.end..returned.unwrap_or_else(clock::now).max(down.end.plus_ns(BEFORE_NS_MIN));
        self.pause(back.end.since(clock::now()))?;
        let [before_per_s, down_per_s, back_per_s] =
            [before, down, back].map(|within| timeline.per_second(led, within));
        Ok(Absence { before_per_s, down_per_s, back_per_s, checkpoints: 0 })
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
            Victim::All | Victim::None => Vec::new(),
        }
    }

    /// Nothing that was durable may be lost, and nothing done twice.
    fn add_up(&mut self) -> anyhow::Result<()> {
        let (durable, begun) = (self.run.timeline.total(), self.run.begun.load(Ordering::Relaxed));
        self.run.adds_up.store(true, Ordering::Relaxed);
        let run = self.run;
        let known = self.wait_until(|| run.sum.load(Ordering::Relaxed) > 0)?;
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
    fn wait_until(&mut self, is_so: impl Fn() -> bool) -> anyhow::Result<bool> {
        let start = clock::now();
        while !is_so() {
            if clock::now().since(start) > PATIENCE_NS {
                return Ok(false);
            }
            self.pause(LOOK_NS)?;
        }
        Ok(true)
    }

    fn pause(&mut self, ns: u64) -> anyhow::Result<()> {
        let until = clock::now().plus_ns(ns);
        loop {
            if self.interrupted.load(Ordering::Relaxed) {
                bail!("the run was interrupted (signal): nothing is reported");
            }
            if !self.cluster.is_whole() {
                bail!("a core has ended that nobody was to stop: nothing is reported");
            }
            let now = clock::now();
            self.directories.look(now);
            let left = until.since(now);
            if left == 0 {
                return Ok(());
            }
            thread::park_timeout(Duration::from_nanos(left.min(SECOND)));
        }
    }
}

const LOOK_NS: u64 = MS;
/// How long nothing may happen: several elections.
const PATIENCE_NS: u64 = 60 * SECOND;
/// Between these is the time before a kill with which the time after it is compared.
const BEFORE_NS_MIN: u64 = SECOND;
const BEFORE_NS_MAX: u64 = 10 * SECOND;
/// Between the end of an outage and the restart of who was killed.
const AFTER_NS: u64 = 500 * MS;
/// What is in flight when the load ends is over then.
const CALM_NS: u64 = SECOND;
/// A replica that lags no more than this has caught up; under load it is never closer than a few round trips.
const CAUGHT_UP_NS: u64 = 500 * MS;
const _: () = assert!(PLOT_AFTER_NS <= AFTER_NS);

#[cfg(test)]
mod tests;
