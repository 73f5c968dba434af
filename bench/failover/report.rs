//! What a run of kills came to: judged, as JSON, and as a page.
//!
//! The names in the JSON are a published interface. What happened is `failover`'s to see, and `Timeline`'s to keep.
#![forbid(unsafe_code)]

use super::directories::Directories;
use super::load::Run;
use super::timeline::{BUCKET_NS, BUCKETS_MAX};
use crate::machine::Machine;
use mako::bounds::{MS, SECOND};
use mako::clock;
use mako::types::{NodeId, ShardId, Timestamp};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::Range;
use std::sync::Arc;

/// What a run came to.
pub struct Outcome {
    pub run: Arc<Run>,
    pub seconds: f64,
    pub kills: Vec<Kill>,
    pub directories: Directories,
    /// By shard: reigns that began though nobody was killed.
    pub false_elections: Vec<(ShardId, Timestamp)>,
    /// Name of a check → `None` when it holds, else why not.
    pub verdicts: Verdicts,
}

pub type Verdicts = BTreeMap<&'static str, Option<String>>;

/// One kill, and what followed.
pub struct Kill {
    pub at: Timestamp,
    /// Until every shard that failed had a new leader: when elections of those are called for.
    pub elections: Range<Timestamp>,
    pub nodes: Vec<NodeId>,
    pub shards: Vec<Impact>,
    pub healthy: Option<Healthy>,
    /// From its restart on; `None` when it did not within patience.
    pub caught_up_ns: Option<u64>,
    pub absence: Option<Absence>,
}

/// What a kill meant for one shard.
pub struct Impact {
    pub shard: ShardId,
    /// It was led by a node that was killed.
    pub failed: bool,
    /// From its last durable reply before to its first one after.
    pub outage_ns: u64,
    pub leader: Option<NodeId>,
}

/// The shards that did not fail, while others stood still.
pub struct Healthy {
    /// Their throughput, as a share of that before.
    pub share: f64,
    /// The longest that one of their transactions took.
    pub slowest_ns: u64,
    /// What it would have taken had it waited for the others.
    pub outage_ns: u64,
}

/// A follower that was down on purpose, as its leaders saw it.
pub struct Absence {
    pub before_per_s: f64,
    pub down_per_s: f64,
    /// While it caught up.
    pub back_per_s: f64,
    /// Checkpoints it was sent, because its leaders no longer had the log that it lacked.
    pub checkpoints: u64,
}

impl Kill {
    /// Says of each promise whether this kill broke it.
    pub fn judge(&self, election_timeout_ns: u64, number: usize, verdicts: &mut Verdicts) {
        let mut say = |name, why: Option<String>| {
            let verdict = verdicts.entry(name).or_insert(None);
            if verdict.is_none() {
                *verdict = why.map(|why| format!("kill {number}: {why}"));
            }
        };
        for Impact { shard, outage_ns, leader, .. } in self.shards.iter().filter(|impact| impact.failed) {
            let stuck = leader.is_none().then(|| format!("shard {} had no new leader", shard.0));
            say("replaced", stuck);
            let most_ns = election_timeout_ns + TAKE_OVER_NS;
            let late = (*outage_ns > most_ns).then(|| {
                format!("shard {} stood still for {}, above {}", shard.0, ms(*outage_ns), ms(most_ns))
            });
            say("outage", late);
        }
        if let Some(Healthy { share, slowest_ns, outage_ns }) = self.healthy {
            let slow = format!("healthy shards came to {:.0} % of what they did before", 100.0 * share);
            say("healthy_throughput", (share < HEALTHY_SHARE_MIN).then_some(slow));
            let waited = slowest_ns >= outage_ns / 2;
            let why = format!(
                "a transaction of a healthy shard took {}, of an outage of {}",
                ms(slowest_ns),
                ms(outage_ns)
            );
            say("healthy_do_not_wait", waited.then_some(why));
        }
        let late =
            self.caught_up_ns.is_none().then(|| "who was killed came back and did not catch up".to_string());
        say("caught_up", late);
        if let Some(absence) = &self.absence {
            absence.judge(&mut say);
        }
    }
}

impl Absence {
    fn judge(&self, say: &mut impl FnMut(&'static str, Option<String>)) {
        let least = LEADER_SHARE_MIN * self.before_per_s;
        for (name, per_s) in
            [("leader_while_down", self.down_per_s), ("leader_while_catching_up", self.back_per_s)]
        {
            let why = format!("{per_s:.0} per second, of {:.0} before", self.before_per_s);
            say(name, (per_s < least).then_some(why));
        }
        let none = "it lacked nothing that was no longer in a log: keep it down for longer".to_string();
        say("checkpoint_transferred", (self.checkpoints == 0).then_some(none));
    }

    fn json(&self) -> Value {
        json!({
            "before_per_s": self.before_per_s,
            "down_per_s": self.down_per_s,
            "catching_up_per_s": self.back_per_s,
            "checkpoints_received": self.checkpoints,
        })
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
        json!({
            "bench": "failover",
            "version": 1,
            "config": config,
            "machine": Machine::read(),
            "seconds": self.seconds,
            "committed": timeline.total(),
            "throughput_per_s": timeline.total() as f64 / self.seconds,
            "kills": self.kills.iter().map(|kill| self.kill_json(kill)).collect::<Vec<_>>(),
            "false_elections": self.false_elections.len(),
            "directories": self.directories.json(),
            "timeline": { "bucket_ms": BUCKET_NS / MS, "durable_by_shard": counts },
            "checks": checks_json(&self.verdicts),
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
            "healthy_share": kill.healthy.as_ref().map(|healthy| healthy.share),
            "healthy_slowest_ms": kill.healthy.as_ref().map(|healthy| healthy.slowest_ns as f64 / MS as f64),
            "caught_up_ms": kill.caught_up_ns.map(|ns| ns as f64 / MS as f64),
            "absence": kill.absence.as_ref().map(Absence::json),
        })
    }

    /// For a person at a terminal.
    pub fn page(&self) -> String {
        let mut page = String::new();
        let total = self.run.timeline.total();
        let rate = total as f64 / self.seconds;
        let _ = writeln!(page, "failover: {total} durable in {:.1} s: {rate:.0} per second\n", self.seconds);
        for (number, kill) in (1..).zip(&self.kills) {
            self.tell_kill(number, kill, &mut page);
        }
        let _ = writeln!(page, "elections that nobody was killed for: {}", self.false_elections.len());
        page += &self.directories.page();
        page + &checks_page(&self.verdicts)
    }

    fn tell_kill(&self, number: usize, kill: &Kill, page: &mut String) {
        let nodes: Vec<String> = kill.nodes.iter().map(|node| format!("n{}", node.0)).collect();
        let _ = writeln!(page, "kill {number}: {}", nodes.join(", "));
        for Impact { shard, outage_ns, leader, .. } in kill.shards.iter().filter(|impact| impact.failed) {
            let after = leader.map_or("nobody".to_string(), |leader| format!("n{}", leader.0));
            let _ = writeln!(page, "  shard {}: outage {}, then led by {after}", shard.0, ms(*outage_ns));
        }
        let _ = match &kill.healthy {
            Some(Healthy { share, slowest_ns, .. }) => writeln!(
                page,
                "  healthy shards meanwhile: {:.0} % of their throughput; none of their transactions took longer than {}",
                100.0 * share,
                ms(*slowest_ns)
            ),
            None => writeln!(page, "  no shard stood still while another was healthy"),
        };
        let caught_up = kill.caught_up_ns.map_or("never".to_string(), |ns| format!("after {}", ms(ns)));
        let _ = writeln!(page, "  restarted, and caught up {caught_up}");
        if let Some(Absence { before_per_s, down_per_s, back_per_s, checkpoints }) = &kill.absence {
            let share = |per_s: f64| 100.0 * per_s / before_per_s.max(1.0);
            let _ = writeln!(
                page,
                "  its leaders: {before_per_s:.0} per second before, {:.0} % while it was down, {:.0} % while it caught up,\n  \
                 with {checkpoints} checkpoints of its peers",
                share(*down_per_s),
                share(*back_per_s)
            );
        }
        let longest = kill.shards.iter().map(|impact| impact.outage_ns).max().unwrap_or(0);
        let from = Timestamp(kill.at.0 - PLOT_BEFORE_NS);
        *page += &self.run.timeline.plot(from..kill.at.plus_ns(longest + PLOT_AFTER_NS), kill.at);
        page.push('\n');
    }
}

pub fn checks_json(verdicts: &Verdicts) -> Value {
    let checks: BTreeMap<_, _> =
        verdicts.iter().map(|(name, why)| (*name, why.as_deref().unwrap_or("ok"))).collect();
    json!(checks)
}

pub fn checks_page(verdicts: &Verdicts) -> String {
    let line =
        |(name, why): (&&str, &Option<String>)| format!("check {name}: {}\n", why.as_deref().unwrap_or("ok"));
    verdicts.iter().map(line).collect()
}

pub fn ms(ns: u64) -> String {
    match ns {
        _ if ns < 10 * MS => format!("{:.1} ms", ns as f64 / MS as f64),
        _ if ns < 10 * SECOND => format!("{} ms", ns / MS),
        _ => format!("{:.1} s", ns as f64 / SECOND as f64),
    }
}

/// What an outage may last beyond the time in which followers miss their leader: the rounds of an election,
/// the tails of all streams, and the jitter of the timeout.
const TAKE_OVER_NS: u64 = 300 * MS;
const HEALTHY_SHARE_MIN: f64 = 0.8;
const LEADER_SHARE_MIN: f64 = 0.9;
const PLOT_BEFORE_NS: u64 = 300 * MS;
pub const PLOT_AFTER_NS: u64 = 500 * MS;

#[cfg(test)]
mod tests {
    use super::*;

    fn kill() -> Kill {
        let impact = |shard, failed, outage_ns| Impact {
            shard: ShardId(shard),
            failed,
            outage_ns,
            leader: Some(NodeId(1)),
        };
        let shards = vec![impact(0, true, SECOND + TAKE_OVER_NS), impact(1, false, 9 * SECOND)];
        let healthy = Some(Healthy { share: 0.8, slowest_ns: 400 * MS, outage_ns: SECOND });
        let absence = Absence { before_per_s: 100.0, down_per_s: 90.0, back_per_s: 90.0, checkpoints: 1 };
        let (at, elections) = (Timestamp(SECOND), Timestamp(SECOND)..Timestamp(2 * SECOND));
        Kill {
            at,
            elections,
            nodes: vec![NodeId(0)],
            shards,
            healthy,
            caught_up_ns: Some(1),
            absence: Some(absence),
        }
    }

    fn broken(change: impl FnOnce(&mut Kill)) -> Vec<&'static str> {
        let mut kill = kill();
        change(&mut kill);
        let mut verdicts = Verdicts::new();
        kill.judge(SECOND, 1, &mut verdicts);
        assert_eq!(verdicts.len(), 8, "each promise is judged: {verdicts:?}");
        verdicts.into_iter().filter_map(|(name, why)| why.map(|_| name)).collect()
    }

    /// A check that cannot fail proves nothing: each is broken by the one figure it is about.
    #[test]
    fn each_promise_is_broken_by_its_own_figure() {
        assert_eq!(broken(|_| {}), [""; 0]);
        assert_eq!(broken(|kill| kill.shards[0].outage_ns += 1), ["outage"]);
        assert_eq!(broken(|kill| kill.shards[0].leader = None), ["replaced"]);
        assert_eq!(broken(|kill| kill.healthy.as_mut().unwrap().share = 0.79), ["healthy_throughput"]);
        assert_eq!(
            broken(|kill| kill.healthy.as_mut().unwrap().slowest_ns = SECOND / 2),
            ["healthy_do_not_wait"]
        );
        assert_eq!(broken(|kill| kill.absence.as_mut().unwrap().down_per_s = 89.0), ["leader_while_down"]);
        assert_eq!(
            broken(|kill| kill.absence.as_mut().unwrap().back_per_s = 0.0),
            ["leader_while_catching_up"]
        );
        assert_eq!(broken(|kill| kill.caught_up_ns = None), ["caught_up"]);
        assert_eq!(broken(|kill| kill.absence.as_mut().unwrap().checkpoints = 0), ["checkpoint_transferred"]);
    }

    /// Ten kills of which the third was bad must not be called good because the tenth was.
    #[test]
    fn the_first_kill_that_broke_a_promise_is_named() {
        let mut verdicts = Verdicts::new();
        for (number, outage_ns) in [(1, 1), (2, 5 * SECOND), (3, 6 * SECOND), (4, 1)] {
            let mut kill = kill();
            kill.shards[0].outage_ns = outage_ns;
            kill.judge(SECOND, number, &mut verdicts);
        }
        let why = verdicts["outage"].as_deref();
        assert_eq!(why, Some("kill 2: shard 0 stood still for 5000 ms, above 1300 ms"));
    }
}
