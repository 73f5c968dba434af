//! The tunables of a cluster: each within its range, and possible together over the links there are.
//!
//! An election timeout shorter than a heartbeat's journey deposes every leader; a speculation bound
//! shorter than a round trip to a majority answers `Busy` for ever. Both look like a broken network at
//! run time, so both are refused here, with the numbers.
#![forbid(unsafe_code)]

use super::Report;
use crate::bounds::{
    BATCH_BYTES, BATCH_DELAY_NS, BATCH_DELAY_NS_MAX, ELECTION_TIMEOUT_NS, ELECTION_TIMEOUT_NS_MAX,
    ELECTION_TIMEOUT_NS_MIN, EXCHANGE_IDLE_NS, EXCHANGE_INTERVAL_NS, EXCHANGE_INTERVAL_NS_MIN,
    HEARTBEAT_INTERVAL_NS, HEARTBEAT_INTERVAL_NS_MAX, HEARTBEAT_INTERVAL_NS_MIN, LINK_DELAY_NS_MAX,
    LOG_BYTES, LOG_BYTES_MAX, LOG_BYTES_MIN, MAX_SPECULATION_NS, MAX_SPECULATION_NS_MAX,
    MAX_SPECULATION_NS_MIN, REPLICAS_MAX, SPIN_NS, SPIN_NS_MAX,
};
use crate::config::file::{At, ClusterSection, File};
use crate::config::{format_duration_ns, format_size_bytes};

pub(super) struct Timing {
    pub election_timeout_ns: u64,
    pub heartbeat_interval_ns: u64,
    pub exchange_interval_ns: u64,
    pub batch_bytes: usize,
    pub batch_delay_ns: u64,
    pub max_speculation_ns: u64,
    pub spin_ns: u64,
    pub log_bytes: u64,
}

impl Timing {
    pub fn check(file: &File, report: &mut Report<'_>) -> Timing {
        let cluster = &file.cluster;
        let mut duration =
            |key, at, default, range| check_range(key, at, default, range, format_duration_ns, report);
        let timing = Timing {
            election_timeout_ns: duration(
                "election_timeout",
                &cluster.election_timeout_ns,
                ELECTION_TIMEOUT_NS,
                [ELECTION_TIMEOUT_NS_MIN, ELECTION_TIMEOUT_NS_MAX],
            ),
            heartbeat_interval_ns: duration(
                "heartbeat_interval",
                &cluster.heartbeat_interval_ns,
                HEARTBEAT_INTERVAL_NS,
                [HEARTBEAT_INTERVAL_NS_MIN, HEARTBEAT_INTERVAL_NS_MAX],
            ),
            exchange_interval_ns: duration(
                "exchange_interval",
                &cluster.exchange_interval_ns,
                EXCHANGE_INTERVAL_NS,
                [EXCHANGE_INTERVAL_NS_MIN, EXCHANGE_IDLE_NS],
            ),
            batch_delay_ns: duration(
                "batch_delay",
                &cluster.batch_delay_ns,
                BATCH_DELAY_NS,
                [0, BATCH_DELAY_NS_MAX],
            ),
            max_speculation_ns: duration(
                "max_speculation",
                &cluster.max_speculation_ns,
                MAX_SPECULATION_NS,
                [MAX_SPECULATION_NS_MIN, MAX_SPECULATION_NS_MAX],
            ),
            spin_ns: duration("spin", &cluster.spin_ns, SPIN_NS, [0, SPIN_NS_MAX]),
            log_bytes: {
                let range = [LOG_BYTES_MIN, LOG_BYTES_MAX];
                check_range("log", &cluster.log_bytes, LOG_BYTES, range, format_size_bytes, report)
            },
            batch_bytes: {
                let range = [1, BATCH_BYTES as u64];
                let default = BATCH_BYTES as u64;
                check_range("batch", &cluster.batch_bytes, default, range, format_size_bytes, report) as usize
            },
        };
        timing.check_election(file, report);
        timing.check_speculation(file, report);
        timing
    }

    /// A follower must hear two heartbeats in a row go missing, each after its journey, before it stands.
    fn check_election(&self, file: &File, report: &mut Report<'_>) {
        let ClusterSection { election_timeout_ns: timeout, heartbeat_interval_ns: interval, .. } =
            &file.cluster;
        let journey_ns = round_trips(file).flatten().max().unwrap_or(0);
        let least_ns = 2 * self.heartbeat_interval_ns + journey_ns;
        let as_written =
            stands(timeout, self.election_timeout_ns) && stands(interval, self.heartbeat_interval_ns);
        if as_written && self.election_timeout_ns < least_ns {
            let [set, beat, journey, least] =
                [self.election_timeout_ns, self.heartbeat_interval_ns, journey_ns, least_ns]
                    .map(format_duration_ns);
            let line = timeout.as_ref().or(interval.as_ref()).map_or(file.cluster.line, |at| at.line);
            let why = format!(
                "two heartbeats of {beat} and the longest round trip of {journey} take {least}: \
                 a healthy leader would be deposed"
            );
            let remedy = format!("choose at least {least}, or a shorter heartbeat_interval");
            report.add(format!("cluster.election_timeout = {set:?}"), line, why, remedy);
        }
    }

    /// Nothing becomes stable before a majority has answered the batch it rides in.
    fn check_speculation(&self, file: &File, report: &mut Report<'_>) {
        let ClusterSection { max_speculation_ns: bound, batch_delay_ns: delay, .. } = &file.cluster;
        // With n replicas, whoever leads waits for the n/2 nearest of the others.
        let waits = round_trips(file).map(|mut trips: Vec<u64>| {
            trips.sort_unstable();
            trips.get(trips.len() / 2).copied().unwrap_or(0)
        });
        let least_ns = waits.max().unwrap_or(0) + self.batch_delay_ns;
        let as_written = stands(bound, self.max_speculation_ns) && stands(delay, self.batch_delay_ns);
        if as_written && self.max_speculation_ns <= least_ns {
            let [set, delay, least] =
                [self.max_speculation_ns, self.batch_delay_ns, least_ns].map(format_duration_ns);
            let line = bound.as_ref().map_or(file.cluster.line, |at| at.line);
            let why = format!(
                "a batch waits up to {delay}, and with its round trip takes {least}: \
                 every transaction would be Busy"
            );
            let remedy = format!("choose several times {least}");
            report.add(format!("cluster.max_speculation = {set:?}"), line, why, remedy);
        }
    }
}

/// For each replica of each shard, should it lead: the emulated round trips to all of them, itself included.
fn round_trips(file: &File) -> impl Iterator<Item = Vec<u64>> {
    let zone = |name: &String| {
        let named = |at: &Option<At<String>>| at.as_ref().is_some_and(|at| at.value == *name);
        let node = file.nodes.iter().find(|node| named(&node.name))?;
        Some(node.zone.as_ref()?.value.as_str())
    };
    file.shards.iter().filter_map(|shard| shard.replicas.as_ref()).flat_map(move |replicas| {
        let named = replicas.value.iter().take(REPLICAS_MAX);
        let zones: Vec<_> = named.filter_map(|name| Some((name, zone(name)?))).collect();
        let trips = |(leader, from): &(&String, &str)| {
            let trip = |(follower, to): &(&String, &str)| {
                if leader == follower { 0 } else { round_trip_ns(file, from, to) }
            };
            zones.iter().map(trip).collect()
        };
        zones.iter().map(trips).collect::<Vec<Vec<u64>>>()
    })
}

fn round_trip_ns(file: &File, a: &str, b: &str) -> u64 {
    let joins = |between: &[String]| matches!(between, [x, y] if (x == a && y == b) || (x == b && y == a));
    let link = file.links.iter().find(|link| link.between.as_ref().is_some_and(|at| joins(&at.value)));
    let one_way_ns: u64 = link.map_or(0, |link| {
        // Out of range, it is reported there; here it must only not overflow.
        let parts = [&link.delay_ns, &link.jitter_ns].map(|at| at.as_ref().map_or(0, |at| at.value));
        parts.map(|ns| ns.min(LINK_DELAY_NS_MAX)).iter().sum()
    });
    2 * one_way_ns
}

/// Whether the value is the one that was written, and not a default in place of one out of range.
fn stands(at: &Option<At<u64>>, value: u64) -> bool {
    at.as_ref().is_none_or(|at| at.value == value)
}

/// The value, or its default; a mistake when it is out of range.
fn check_range(
    key: &str,
    at: &Option<At<u64>>,
    default: u64,
    [min, max]: [u64; 2],
    shown: fn(u64) -> String,
    report: &mut Report<'_>,
) -> u64 {
    let Some(At { value, line }) = at else { return default };
    if !(min..=max).contains(value) {
        let why = format!("it may be {} to {}", shown(min), shown(max));
        let remedy = format!("choose a value in that range; left out, it is {}", shown(default));
        report.add(format!("cluster.{key} = {:?}", shown(*value)), *line, why, remedy);
        // The default stands in; rules between values pass over it.
        return default;
    }
    *value
}
