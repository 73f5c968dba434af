//! What a configuration amounts to, in text: the report of `mako check`.
//!
//! Written for the person who is about to start the cluster: what each node pins, listens on and hosts,
//! who leads, what the emulated network does.
#![forbid(unsafe_code)]

use std::fmt::{self, Write};

use super::{Config, CoreLayout, Link, NicKind, Node, Poll, format_duration_ns, format_size_bytes};
use crate::types::{CoreId, Endpoint, NodeId, PartitionId};

pub fn describe(config: &Config) -> String {
    let mut text = String::new();
    write(config, &mut text).expect("writing to a string cannot fail");
    text
}

fn write(config: &Config, out: &mut String) -> fmt::Result {
    let duration = format_duration_ns;
    writeln!(
        out,
        "cluster {}: {}, {}, {}, durability {}",
        config.name,
        count(config.nodes.len(), "node"),
        count(config.shards.len(), "shard"),
        count(config.partition_count(), "partition"),
        config.durability
    )?;
    writeln!(
        out,
        "  election after {}, heartbeat every {}, batches of {} or {}, speculation up to {}, logs of {}",
        duration(config.election_timeout_ns),
        duration(config.heartbeat_interval_ns),
        format_size_bytes(config.batch_bytes as u64),
        duration(config.batch_delay_ns),
        duration(config.max_speculation_ns),
        format_size_bytes(config.log_bytes)
    )?;
    match &config.key_file {
        Some(key_file) => writeln!(out, "  frames are sealed with the key in {}", key_file.display())?,
        None if config.is_exposed() => {
            writeln!(out, "  frames go in the open: whoever reaches a node can pose as one")?;
        }
        None => writeln!(out, "  frames go in the open, between processes of one machine")?,
    }
    let tables = config.tables.iter().map(|table| format!("{} ({})", table.name, table.routing));
    writeln!(out, "  tables: {}", tables.collect::<Vec<_>>().join(", "))?;
    for (number, shard) in config.shards.iter().enumerate() {
        let names = |nodes: &[NodeId]| nodes.iter().map(|n| name(config, *n)).collect::<Vec<_>>().join(", ");
        let partitions: Vec<PartitionId> =
            (shard.first.0..shard.first.0 + shard.partitions).map(PartitionId).collect();
        let (leader, followers) = shard.replicas.split_at(1);
        writeln!(out, "shard {number}: partitions {}, leader {}", numbers(&partitions), names(leader))?;
        if !followers.is_empty() {
            writeln!(out, "  followers {}", names(followers))?;
        }
    }
    (0..).map(NodeId).zip(&config.nodes).try_for_each(|(id, node)| write_node(config, id, node, out))?;
    config.links.iter().try_for_each(|link| write_link(link, out))
}

fn write_node(config: &Config, id: NodeId, node: &Node, out: &mut String) -> fmt::Result {
    let polls = match node.poll {
        Poll::Adaptive => format!("spins {} when idle, then sleeps", format_duration_ns(config.spin_ns)),
        Poll::Busy => "never sleeps".to_string(),
    };
    writeln!(out, "node {} in {}: {}, {polls}", node.name, node.zone, node.nic)?;
    if node.nic != NicKind::Udp {
        writeln!(out, "  needs a mako built with --features dpdk")?;
    }
    if let Some(subnet) = node.subnet {
        let gateway = node.gateway.map_or("no gateway".to_string(), |gateway| format!("gateway {gateway}"));
        writeln!(out, "  subnet {subnet}, {gateway}")?;
    }
    writeln!(out, "  data {}", node.data.display())?;
    for (gateway, address) in [("RESP", node.resp), ("HTTP", node.http)] {
        if let Some(address) = address {
            writeln!(out, "  {gateway} {address}")?;
        }
    }
    for core in (0..config.cores(id) as u16).map(CoreId) {
        let place = match &node.cores {
            CoreLayout::Pinned(cpus) => format!("CPU {}", cpus[usize::from(core.0)]),
            CoreLayout::Threads(_) => "not pinned".to_string(),
        };
        let address = config.address(Endpoint { node: id, core });
        let leads = |partition: &PartitionId| config.leader_of(*partition) == id;
        let (led, followed): (Vec<_>, Vec<_>) = config.hosted(id, core).into_iter().partition(leads);
        let parts = [("leads", led), ("follows", followed)];
        let parts = parts.iter().filter(|(_, partitions)| !partitions.is_empty());
        let parts: Vec<String> = parts.map(|(verb, these)| format!("{verb} {}", numbers(these))).collect();
        let work = if parts.is_empty() { "hosts no partition".to_string() } else { parts.join(", ") };
        writeln!(out, "  core {}: {place}, {address}, {work}", core.0)?;
    }
    Ok(())
}

fn write_link(link: &Link, out: &mut String) -> fmt::Result {
    let [a, b] = &link.zones;
    let spec = &link.spec;
    let [delay, jitter] = [spec.delay_ns, spec.jitter_ns].map(format_duration_ns);
    writeln!(out, "emulated link {a} - {b}: delay {delay}, jitter {jitter}, loss {}", spec.loss)
}

fn name(config: &Config, node: NodeId) -> &str {
    &config.nodes[usize::from(node.0)].name
}

fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// `0 2 4`; runs are shortened to `0-7`.
fn numbers(partitions: &[PartitionId]) -> String {
    let mut runs: Vec<(u16, u16)> = Vec::new();
    for PartitionId(number) in partitions {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => runs.push((*number, *number)),
        }
    }
    let shown = runs.iter().map(|(a, b)| if a == b { a.to_string() } else { format!("{a}-{b}") });
    shown.collect::<Vec<_>>().join(" ")
}
