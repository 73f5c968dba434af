//! What nodes share when they share a machine: ports, CPUs, directories; and whether they reach each other.
//!
//! A machine is known by the address its node listens on; all loopback addresses are one machine. Two
//! addresses of one machine are taken for two machines: the kernel will say the rest at start.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use super::{Report, on_line};
use crate::bounds::{CORES_MAX, PARTITIONS_MAX};
use crate::config::CoreLayout;
use crate::config::file::{At, File, Line, NodeSection};

/// How many cores each node has. Left out, it is one for each hosted partition, but no more than CPUs.
pub(super) fn count_cores(
    file: &File,
    shards: &[Vec<usize>],
    cpus: usize,
    report: &mut Report<'_>,
) -> Vec<usize> {
    let mut hosted = vec![0u64; file.nodes.len()];
    for (shard, nodes) in file.shards.iter().zip(shards) {
        let partitions = shard.partitions.as_ref().map_or(1, |at| at.value);
        nodes.iter().for_each(|node| hosted[*node] = hosted[*node].saturating_add(partitions));
    }
    let mut machines = file.nodes.iter().filter_map(machine);
    let first = machines.next();
    let one_machine = machines.all(|machine| Some(machine) == first);
    let mut counts = Vec::new();
    for (node, hosted) in file.nodes.iter().zip(hosted) {
        let hosted = usize::try_from(hosted).unwrap_or(usize::MAX).min(PARTITIONS_MAX);
        let most = cpus.clamp(1, CORES_MAX);
        if node.cores.is_none() && hosted > most && !one_machine {
            // Machines of different sizes would each work out another number and send to the wrong core.
            let why = format!(
                "it hosts {hosted} partitions, and machines with other than {cpus} CPUs would count \
                 its cores otherwise"
            );
            report.add(
                "node.cores is missing",
                node.line,
                why,
                format!("add cores = {most}, or the CPUs to pin"),
            );
        }
        counts.push(node.cores.as_ref().map_or(hosted.clamp(1, most), |at| at.value.cores()));
    }
    counts
}

/// Whether the nodes can reach each other at all.
pub(super) fn check_addresses(file: &File, report: &mut Report<'_>) {
    let listens = || file.nodes.iter().filter_map(|node| node.listen.as_ref());
    let elsewhere = listens().find(|at| !at.value.ip().is_loopback() && !at.value.ip().is_unspecified());
    let first = listens().next();
    for At { value, line } in listens() {
        let mut refuse = |why: String, remedy: &str| {
            report.add(format!("node.listen = {:?}", value.to_string()), *line, why, remedy);
        };
        if value.ip().is_unspecified() || value.ip().is_multicast() {
            refuse(
                "peers send to this very address".into(),
                "write the address by which peers reach the node",
            );
        } else if value.port() == 0 {
            refuse("peers send to this very port".into(), "choose a port from 1024 to 65535");
        } else if let Some(other) = elsewhere.filter(|_| value.ip().is_loopback()) {
            let why =
                format!("no other machine reaches a loopback address, and a node is on {}", other.value.ip());
            refuse(why, "write the address by which peers reach the node");
        } else if let Some(first) = first.filter(|first| first.value.is_ipv4() != value.is_ipv4()) {
            let why = format!("a socket speaks IPv4 or IPv6, and a node listens on {}", first.value);
            refuse(why, "give all nodes addresses of one family");
        }
    }
}

/// Ports that one machine gives to one node.
struct Claim<'f> {
    machine: IpAddr,
    key: &'static str,
    address: SocketAddr,
    ports: usize,
    node: &'f NodeSection,
    line: Line,
}

impl Claim<'_> {
    fn first(&self) -> usize {
        usize::from(self.address.port())
    }

    fn overlaps(&self, other: &Claim<'_>) -> bool {
        let [ours, theirs] = [self.address.ip(), other.address.ip()];
        let same_address = ours == theirs || ours.is_unspecified() || theirs.is_unspecified();
        let apart = self.first() + self.ports <= other.first() || other.first() + other.ports <= self.first();
        self.machine == other.machine && same_address && !apart
    }
}

/// No port twice on a machine, whatever the protocol: core i takes port + i.
pub(super) fn check_ports(file: &File, cores: &[usize], report: &mut Report<'_>) {
    let mut claims: Vec<Claim<'_>> = Vec::new();
    for (node, cores) in file.nodes.iter().zip(cores) {
        let Some(machine) = machine(node) else { continue };
        let keys = [("listen", &node.listen, *cores), ("resp", &node.resp, 1), ("http", &node.http, 1)];
        for (key, at, ports) in keys {
            // Port 0 asks the kernel for a free one.
            let Some(At { value: address, line }) = at.as_ref().filter(|at| at.value.port() != 0) else {
                continue;
            };
            let claim = Claim { machine, key, address: *address, ports, node, line: *line };
            let what = format!("node.{key} = {:?}", address.to_string());
            if claim.first() + ports > 1 << 16 {
                let why =
                    format!("core i listens on port + i, the node has {ports} cores, and ports end at 65535");
                report.add(what, *line, why, format!("choose a port of at most {}", (1 << 16) - ports));
            } else if let Some(other) = claims.iter().find(|other| other.overlaps(&claim)) {
                let name = other.node.name.as_ref().map_or("another node", |name| &name.value);
                let [from, to] = [other.first(), other.first() + other.ports - 1];
                let taken =
                    if from == to { format!("port {to} is") } else { format!("ports {from} to {to} are") };
                let why = format!("{taken} taken by {} of {name}{}", other.key, on_line(other.line));
                report.add(what, *line, why, "choose a port that is free");
            }
            claims.push(claim);
        }
    }
}

/// Two cores on one CPU take turns, and each stalls the other's partitions.
pub(super) fn check_cpus(file: &File, report: &mut Report<'_>) {
    let mut pinned: BTreeMap<(IpAddr, usize), &NodeSection> = BTreeMap::new();
    for node in &file.nodes {
        let (Some(machine), Some(At { value: CoreLayout::Pinned(cpus), line })) =
            (machine(node), &node.cores)
        else {
            continue;
        };
        for cpu in cpus {
            let Some(other) = pinned.insert((machine, *cpu), node) else { continue };
            let name = other.name.as_ref().map_or("another node", |name| &name.value);
            let by = if std::ptr::eq(other, node) {
                "this node twice".to_string()
            } else {
                format!("{name}{}, on the same machine", on_line(other.cores.as_ref().and_then(|at| at.line)))
            };
            let why = format!("CPU {cpu} is pinned by {by}");
            report.add(format!("node.cores = {cpus:?}"), *line, why, "give each core a CPU of its own");
        }
    }
}

pub(super) fn check_paths(file: &File, is_directory: fn(&Path) -> bool, report: &mut Report<'_>) {
    let mut seen: BTreeMap<(IpAddr, &Path), Line> = BTreeMap::new();
    for node in &file.nodes {
        let (Some(machine), Some(At { value, line })) = (machine(node), &node.data) else { continue };
        if let Some(first) = seen.insert((machine, value), *line) {
            let why = format!("another node of the machine keeps its log there{}", on_line(first));
            report.add(format!("node.data = {value:?}"), *line, why, "give each node a directory of its own");
        }
    }
    if let Some(At { value, line }) = &file.cluster.key_file {
        // The parent of a bare name is empty, and means the working directory, which exists.
        let directory = value.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Some(directory) = directory.filter(|directory| !is_directory(directory)) {
            let why = format!("{directory:?} is not a directory here");
            report.add(
                format!("cluster.key_file = {value:?}"),
                *line,
                why,
                "create it, or name another file",
            );
        }
    }
}

/// The machine a node runs on, as far as addresses tell: all loopback addresses are one machine.
fn machine(node: &NodeSection) -> Option<IpAddr> {
    let ip = node.listen.as_ref()?.value.ip().to_canonical();
    Some(if ip.is_loopback() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { ip })
}
