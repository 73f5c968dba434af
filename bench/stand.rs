//! Where this process stands in a run: it steers, and the cores are its own or other processes'; or it is one of those.
//!
//! Both work out cluster and workload from the same words, and so come to the same.
#![forbid(unsafe_code)]

use crate::Embedded;
use crate::children::Children;
use crate::control::Control;
use crate::cores::Threads;
use crate::layout::Layout;
use crate::namespaces::{INTERFACE, Namespaces, SUBNET, address};
use crate::options::RunOptions;
use crate::report::Outcome;
use crate::steered::Steerer;
use crate::talk::Job;
use crate::workload::Workload;
use crate::{publish, runner};
use anyhow::bail;
use mako::bounds::CORES_MAX;
use mako::config::{Config, NicKind, Table};
use mako::types::{NodeId, TableId};
use serde_json::Value;
use std::env;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

pub enum Stand<'a> {
    Steers { interrupted: &'a AtomicBool },
    Steered { steerer: Steerer, job: Job },
}

impl Stand<'_> {
    /// The cluster of the run. `routed` is a table whose rows are placed by their leading four bytes.
    pub fn cluster(
        &self,
        options: &RunOptions,
        tables: Vec<Table>,
        routed: TableId,
    ) -> anyhow::Result<Embedded> {
        match self {
            Stand::Steers { .. } => {
                let mut cluster = Embedded::new(options, tables, routed)?;
                if options.in_processes() {
                    share_cpus(&mut cluster.config);
                }
                if options.namespaces {
                    cluster.namespaces = Some(spread(&mut cluster.config, &options.nic)?);
                }
                Ok(cluster)
            }
            Stand::Steered { job, .. } => {
                let config = Config::parse(&job.cluster, "the cluster file", CORES_MAX)?;
                Ok(Embedded {
                    layout: Layout::new(&config, routed),
                    config,
                    namespaces: None,
                    _temporary: None,
                })
            }
        }
    }

    /// Runs a workload, and reports if this process steers, with what `add` has to say; whether every check held. `make`
    /// builds the workload for a core, from a number no other core has.
    pub fn go<W: Workload>(
        self,
        name: &'static str,
        options: &RunOptions,
        cluster: Embedded,
        flags: Value,
        make: impl Fn(u32) -> W + Send + Sync + 'static,
        add: impl FnOnce(&mut Outcome) -> anyhow::Result<()>,
    ) -> anyhow::Result<bool> {
        let Embedded { config, layout, namespaces, _temporary: _directory } = cluster;
        match self {
            Stand::Steers { interrupted } => {
                let mut outcome = if options.in_processes() {
                    let words: Vec<String> =
                        env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
                    let launch = options.launch.iter().flat_map(|launch| launch.split_whitespace());
                    let launch = match &namespaces {
                        Some(_) => Namespaces::launch(),
                        None => launch.map(str::to_string).collect(),
                    };
                    let kinds = W::KINDS.len();
                    let children = Children::start(&config, &words, &launch, kinds, interrupted)?;
                    runner::steer(options, &layout, interrupted, &make(0), children)?
                } else {
                    runner::run(options, config, &layout, interrupted, make)?
                };
                add(&mut outcome)?;
                publish::<W>(name, options, flags, &outcome)
            }
            Stand::Steered { steerer, job } => {
                let Some(node) = config.node(&job.node) else {
                    bail!("no node {} in the cluster file", job.node)
                };
                let control = Control::of_one_process(layout.partition_count(), generators(node));
                let load = runner::load(options, &layout, &make(0));
                let start =
                    |watch| Ok(Threads::start(config, &[node], watch, (Arc::new(control), load), make)?);
                steerer.obey(start)?;
                Ok(true)
            }
        }
    }
}

/// Numbers above this one are the node's, as many as it may have cores.
fn generators(node: NodeId) -> u32 {
    u32::from(node.0) * CORES_MAX as u32
}

/// Gives each node a namespace, and an address there: the kernel's, or one of its DPDK port alone.
fn spread(config: &mut Config, nic: &NicKind) -> anyhow::Result<Namespaces> {
    let cores = (0..).map(NodeId).take(config.nodes.len()).map(|node| config.cores(node)).max();
    for (number, node) in config.nodes.iter_mut().enumerate() {
        node.listen = (address(number), node.listen.port()).into();
        if let NicKind::Dpdk(device) = nic {
            node.nic = NicKind::Dpdk(device_of(device));
            node.subnet = Some(SUBNET.parse()?);
        }
    }
    let names: Vec<&str> = config.nodes.iter().map(|node| node.name.as_str()).collect();
    Namespaces::make(&names, queues_for(nic, cores.unwrap_or(1)), *nic == NicKind::Udp)
}

/// What an interface of a namespace should have. Of such a one `net_af_xdp` takes a single queue, and what comes to
/// another would be lost.
fn queues_for(nic: &NicKind, cores: usize) -> usize {
    match nic {
        NicKind::Dpdk(device) if device.starts_with("net_af_xdp") => 1,
        _ => cores,
    }
}

/// A driver alone becomes a device over the interface of the namespace.
fn device_of(spelt: &str) -> String {
    let (name, arguments) = spelt.split_once(',').unwrap_or((spelt, ""));
    let number = if name.ends_with(|last: char| last.is_ascii_digit()) { "" } else { "0" };
    let comma = if arguments.is_empty() { "" } else { "," };
    format!("{name}{number},iface={INTERFACE}{comma}{arguments}")
}

/// A process does not see that the CPUs its cores would spin on are those that other nodes need.
fn share_cpus(config: &mut Config) {
    let nodes = (0..).map(NodeId).take(config.nodes.len());
    let cores: usize = nodes.map(|node| config.cores(node)).sum();
    if cores > std::thread::available_parallelism().map_or(1, usize::from) {
        config.spin_ns = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_becomes_a_device_over_the_interface_of_a_namespace() {
        let devices = ["net_af_xdp", "net_af_packet1", "net_af_xdp,force_copy=1"].map(device_of);
        let expected =
            ["net_af_xdp0,iface=mako0", "net_af_packet1,iface=mako0", "net_af_xdp0,iface=mako0,force_copy=1"];
        assert_eq!(devices, expected);
    }
}
