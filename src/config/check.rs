//! What the values of a cluster file mean together, and the [`Config`] they make when they agree.
//!
//! Reports every contradiction, not the first. A value that `file` already refused is `None` here and
//! stays out of the rules, so that one slip is not reported again and again. The rules about time are in
//! [`timing`], those about what nodes of one machine share in [`machines`], those about DPDK's in [`subnets`],
//! and whether frames may go in the open is said in [`sealing`].
//!
//! Invariant: a `Config` is made only when the list of mistakes is empty.
#![forbid(unsafe_code)]

mod machines;
mod sealing;
mod subnets;
mod timing;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;

use super::file::{At, File, Line, NodeSection};
use super::mistake::{Mistake, Place};
use super::placement::Placement;
use super::{
    Config, CoreLayout, Durability, Link, LinkSpec, NicKind, Node, Poll, Routing, Shard, Table,
    format_duration_ns,
};
use crate::bounds::{
    LINK_DELAY_NS_MAX, NAME_BYTES_MAX, NODES_MAX, PARTITIONS_MAX, REPLICAS_MAX, SHARDS_MAX, TABLES_MAX,
};
use crate::types::{NodeId, PartitionId};
use machines::{check_addresses, check_cpus, check_paths, check_ports, count_cores};
use sealing::check_sealing;
use subnets::check_subnets;
use timing::Timing;

/// Checks a file against itself. `None` when there is any mistake, now or before.
pub(super) fn resolve(
    mut file: File,
    origin: &str,
    cpus: usize,
    is_directory: fn(&Path) -> bool,
    mistakes: &mut Vec<Mistake>,
) -> Option<Config> {
    let mut report = Report { origin, mistakes };
    check_counts(&mut file, &mut report);
    check_names(&file, &mut report);
    check_partitions(&file, &mut report);
    let nodes = check_replicas(&file, &mut report);
    let cores = count_cores(&file, &nodes, cpus, &mut report);
    check_addresses(&file, &mut report);
    check_subnets(&file, &mut report);
    check_ports(&file, &cores, &mut report);
    check_cpus(&file, &mut report);
    check_sealing(&file, &mut report);
    check_paths(&file, is_directory, &mut report);
    check_links(&file, &mut report);
    let timing = Timing::check(&file, &mut report);
    if mistakes.is_empty() { build(file, timing, &cores) } else { None }
}

/// Where the checks put what they find.
struct Report<'a> {
    origin: &'a str,
    mistakes: &'a mut Vec<Mistake>,
}

impl Report<'_> {
    /// Whether there is a mistake about that key, of whichever section.
    fn has(&self, key: &str) -> bool {
        self.mistakes.iter().any(|mistake| mistake.what.split(' ').next() == Some(key))
    }

    fn add(
        &mut self,
        what: impl Into<String>,
        line: Line,
        why: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let place = Place { origin: self.origin.to_string(), line };
        self.mistakes.push(Mistake { what: what.into(), place, why: why.into(), remedy: remedy.into() });
    }
}

/// Too many of anything. The rest is cut off, so that no later check works on an unbounded list.
fn check_counts(file: &mut File, report: &mut Report<'_>) {
    fn cut<T>(list: &mut Vec<T>, kind: &str, max: usize, report: &mut Report<'_>) {
        if list.len() > max {
            let what = format!("{} {kind}s", list.len());
            report.add(what, None, format!("a cluster has at most {max}"), "remove some");
            list.truncate(max);
        }
    }
    cut(&mut file.nodes, "node", NODES_MAX, report);
    cut(&mut file.shards, "shard", SHARDS_MAX, report);
    cut(&mut file.tables, "table", TABLES_MAX, report);
    cut(&mut file.links, "link", LINKS_MAX, report);
}

fn check_names(file: &File, report: &mut Report<'_>) {
    check_name("cluster.name", file.cluster.name.as_ref(), report);
    let mut seen = BTreeMap::new();
    for node in &file.nodes {
        check_name("node.zone", node.zone.as_ref(), report);
        check_name("node.name", node.name.as_ref(), report);
        check_unique("node.name", node.name.as_ref(), &mut seen, report);
    }
    let mut seen = BTreeMap::new();
    for table in &file.tables {
        check_name("table.name", table.name.as_ref(), report);
        check_unique("table.name", table.name.as_ref(), &mut seen, report);
    }
}

/// Names become metric labels, directories and arguments: nothing in them may need quoting there.
fn check_name(key: &str, name: Option<&At<String>>, report: &mut Report<'_>) {
    let Some(At { value, line }) = name else { return };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    let begins_plain = value.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    if !begins_plain || value.len() > NAME_BYTES_MAX || !value.bytes().all(plain) {
        let why = format!(
            "a name has 1 to {NAME_BYTES_MAX} of the letters, digits, _ - and ., the last two not first"
        );
        report.add(format!("{key} = {value:?}"), *line, why, "choose another name");
    }
}

fn check_unique<'f>(
    key: &str,
    name: Option<&'f At<String>>,
    seen: &mut BTreeMap<&'f str, Line>,
    report: &mut Report<'_>,
) {
    let Some(At { value, line }) = name else { return };
    if let Some(first) = seen.get(value.as_str()) {
        let why = format!("the name is taken{}", on_line(*first));
        report.add(format!("{key} = {value:?}"), *line, why, "give each a name of its own");
    } else {
        seen.insert(value, *line);
    }
}

/// The nodes that hold each shard, as far as they are known: positions in the file.
fn check_replicas(file: &File, report: &mut Report<'_>) -> Vec<Vec<usize>> {
    let name = |node: &NodeSection| node.name.as_ref().map(|at| at.value.clone());
    let by_name: BTreeMap<String, usize> =
        file.nodes.iter().zip(0..).filter_map(|(node, i)| Some((name(node)?, i))).collect();
    let found = file.shards.iter().map(|shard| match &shard.replicas {
        Some(replicas) => find_replicas(replicas, &by_name, report),
        None => Vec::new(),
    });
    found.collect()
}

fn find_replicas(
    replicas: &At<Vec<String>>,
    by_name: &BTreeMap<String, usize>,
    report: &mut Report<'_>,
) -> Vec<usize> {
    let At { value: replicas, line } = replicas;
    let mut refuse = |why: String, remedy: String| {
        report.add(format!("shard.replicas = {}", shown(replicas)), *line, why, remedy);
    };
    if replicas.len().is_multiple_of(2) || replicas.len() > REPLICAS_MAX {
        let why =
            format!("a shard has an odd number, 1 to {REPLICAS_MAX}: one more survives no more failures");
        refuse(why, "name 1, 3, 5 or 7 nodes".to_string());
    }
    let mut nodes = Vec::new();
    for name in replicas.iter().take(REPLICAS_MAX) {
        match by_name.get(name) {
            Some(node) if nodes.contains(node) => {
                let why = format!("{name:?} is named twice, and one node is one vote");
                refuse(why, "name each node once".to_string());
            }
            Some(node) => nodes.push(*node),
            None => {
                let remedy = format!("name nodes of this file, or add a [[node]] with name = {name:?}");
                refuse(format!("there is no node {name:?}"), remedy);
            }
        }
    }
    nodes
}

fn check_partitions(file: &File, report: &mut Report<'_>) {
    let mut all = 0u64;
    for shard in &file.shards {
        let (value, line) = shard.partitions.as_ref().map_or((1, shard.line), |at| (at.value, at.line));
        let before = all;
        all = all.saturating_add(value);
        // Said once, where the total passes the bound.
        let passes = before <= PARTITIONS_MAX as u64 && all > PARTITIONS_MAX as u64;
        if value == 0 || passes {
            let why = format!("a shard has at least 1, and all shards together at most {PARTITIONS_MAX}");
            report.add(format!("shard.partitions = {value}"), line, why, "choose a number in that range");
        }
    }
}

fn check_links(file: &File, report: &mut Report<'_>) {
    let mut seen = BTreeMap::new();
    for link in &file.links {
        if let Some(between) = &link.between {
            check_between(file, between, &mut seen, report);
        }
        check_most("delay", link.delay_ns.as_ref(), LINK_DELAY_NS_MAX, "the longest emulated delay", report);
        if let Some(delay) = &link.delay_ns {
            let bound = "no frame arrives before it is sent: the delay";
            check_most("jitter", link.jitter_ns.as_ref(), delay.value, bound, report);
        }
        if let Some(At { value, line }) = link.loss.as_ref().filter(|at| !(0.0..1.0).contains(&at.value)) {
            let why = "loss is the probability that a frame is lost, from 0.0 to below 1.0";
            report.add(format!("link.loss = {value:?}"), *line, why, "write it like 0.01");
        }
    }
}

fn check_between<'f>(
    file: &File,
    between: &'f At<Vec<String>>,
    seen: &mut BTreeMap<[&'f str; 2], Line>,
    report: &mut Report<'_>,
) {
    let At { value: between, line } = between;
    let what = format!("link.between = {}", shown(between));
    let [a, b] = between.as_slice() else {
        report.add(what, *line, "a link joins two zones, and works both ways", "name two zones");
        return;
    };
    let is_in = |zone: &String, node: &NodeSection| node.zone.as_ref().is_some_and(|at| at.value == *zone);
    for zone in between.iter().filter(|zone| !file.nodes.iter().any(|node| is_in(zone, node))) {
        let why = format!("no node is in zone {zone:?}");
        report.add(what.clone(), *line, why, "name two zones of this file's nodes");
    }
    if let Some(first) = seen.insert([a.min(b), a.max(b)], *line) {
        let why = format!("the zones are joined already{}, and a link works both ways", on_line(first));
        report.add(what, *line, why, "keep one of them");
    }
}

fn check_most(key: &str, at: Option<&At<u64>>, max: u64, bound: &str, report: &mut Report<'_>) {
    if let Some(At { value, line }) = at.filter(|at| at.value > max) {
        let [value, max] = [*value, max].map(format_duration_ns);
        let what = format!("link.{key} = {value:?}");
        report.add(what, *line, format!("{bound} is {max}"), format!("choose at most {max}"));
    }
}

/// Everything was checked: only a value that `file` refused could be missing, and then we are not called.
fn build(file: File, timing: Timing, cores: &[usize]) -> Option<Config> {
    let zipped = file.nodes.into_iter().zip(cores);
    let nodes: Vec<Node> = zipped.map(|(node, cores)| build_node(node, *cores)).collect::<Option<_>>()?;
    let mut first = PartitionId(0);
    let mut shards = Vec::new();
    for shard in file.shards {
        let position = |name: &String| nodes.iter().position(|node| node.name == *name);
        let id = |name| u16::try_from(position(name)?).ok().map(NodeId);
        let replicas = shard.replicas?.value.iter().map(id).collect::<Option<Vec<_>>>()?;
        let partitions = u16::try_from(shard.partitions.map_or(1, |at| at.value)).ok()?;
        shards.push(Shard { replicas, first, partitions });
        first = PartitionId(first.0 + partitions);
    }
    let mut tables = Vec::new();
    for table in file.tables {
        tables.push(Table { name: table.name?.value, routing: table.routing?.value });
    }
    if tables.is_empty() {
        tables.push(Table { name: "default".to_string(), routing: Routing::Tag });
    }
    let mut links = Vec::new();
    for link in file.links {
        let zones = link.between?.value.try_into().ok()?;
        let [delay_ns, jitter_ns] = [link.delay_ns, link.jitter_ns].map(|at| at.map_or(0, |at| at.value));
        links.push(Link {
            zones,
            spec: LinkSpec { delay_ns, jitter_ns, loss: link.loss.map_or(0.0, |at| at.value) },
        });
    }
    Some(Config {
        name: file.cluster.name?.value,
        durability: file.cluster.durability.map_or(Durability::QuorumDisk, |at| at.value),
        key_file: file.cluster.key_file.map(|at| at.value),
        election_timeout_ns: timing.election_timeout_ns,
        heartbeat_interval_ns: timing.heartbeat_interval_ns,
        exchange_interval_ns: timing.exchange_interval_ns,
        batch_bytes: timing.batch_bytes,
        batch_delay_ns: timing.batch_delay_ns,
        max_speculation_ns: timing.max_speculation_ns,
        spin_ns: timing.spin_ns,
        log_bytes: timing.log_bytes,
        placement: Placement::new(cores, &shards),
        nodes,
        shards,
        tables,
        links,
    })
}

fn build_node(node: NodeSection, cores: usize) -> Option<Node> {
    let nic = node.nic.map_or(NicKind::Udp, |at| at.value);
    // A DPDK queue cannot wake a sleeping thread, which then looks again later: there the default is not to sleep.
    let poll = if nic == NicKind::Udp { Poll::Adaptive } else { Poll::Busy };
    Some(Node {
        name: node.name?.value,
        zone: node.zone?.value,
        listen: node.listen?.value,
        cores: node.cores.map_or(CoreLayout::Threads(cores), |at| at.value),
        nic,
        subnet: node.subnet.map(|at| at.value),
        gateway: node.gateway.map(|at| at.value),
        poll: node.poll.map_or(poll, |at| at.value),
        data: node.data?.value,
        resp: node.resp.map(|at| at.value),
        http: node.http.map(|at| at.value),
    })
}

fn on_line(line: Line) -> String {
    line.map_or(String::new(), |line| format!(" on line {line}"))
}

/// A list of names as it would be typed, its end cut off when it is long.
fn shown<T: Display>(names: &[T]) -> String {
    const SHOWN_MAX: usize = REPLICAS_MAX + 1;
    let quoted: Vec<String> =
        names.iter().take(SHOWN_MAX).map(|name| format!("{:?}", name.to_string())).collect();
    let rest = if names.len() > SHOWN_MAX { ", …" } else { "" };
    format!("[{}{rest}]", quoted.join(", "))
}

/// Every pair of 64 zones; nobody lays out more by hand.
const LINKS_MAX: usize = 64 * 65 / 2;
