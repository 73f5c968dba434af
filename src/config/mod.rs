//! The configuration of a cluster: flags (as typed) → file (as written) → [`Config`] (resolved).
//!
//! A [`Config`] that exists has passed every check; nobody checks again. [`Config::parse`] is pure and
//! takes the number of CPUs as an argument; only [`Config::load`] touches the disk. Building the
//! node it describes is `server`'s affair, and so is what only that machine can know (are the CPUs there?).
//!
//! Invariants:
//!   1. `parse(to_toml(c)) == c`.
//!   2. Machines of different sizes that read the same file resolve the same cores.
//!   3. Wrong input is answered with every mistake at once, in the order of the file.
#![forbid(unsafe_code)]

mod check;
mod describe;
mod file;
mod local;
mod mistake;
mod placement;
mod routing;
#[cfg(test)]
mod tests;
mod units;
mod values;
mod write;

use std::fs::File;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

pub use describe::describe;
pub use local::LocalCluster;
pub use mistake::{Mistake, Mistakes, Place, Refusal};
pub use routing::{Route, Routing};
pub use units::{format_duration_ns, format_size_bytes, parse_duration_ns, parse_size_bytes};
pub use values::{CoreLayout, Durability, NicKind, Poll, Subnet};

use crate::bounds::CLUSTER_FILE_BYTES_MAX;
use crate::types::{Endpoint, NodeId, PartitionId, TableId};
use check::resolve;
use placement::Placement;

/// A whole cluster, as every node of it sees it. Ids are positions in the lists. Not to be changed once
/// built: the placement of partitions was worked out from it.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// Frames of a cluster of another name are dropped.
    pub name: String,
    pub durability: Durability,
    /// Holds the key that frames are sealed with. Relative paths count from the working directory. `None`: frames go in
    /// the open, because the file says so, or because no node listens beyond its machine.
    pub key_file: Option<PathBuf>,
    pub election_timeout_ns: u64,
    pub heartbeat_interval_ns: u64,
    pub exchange_interval_ns: u64,
    pub batch_bytes: usize,
    pub batch_delay_ns: u64,
    pub max_speculation_ns: u64,
    /// How long an idle adaptive core polls before it sleeps.
    pub spin_ns: u64,
    /// The log of a core, before checkpoints are made that let go of it.
    pub log_bytes: u64,
    pub nodes: Vec<Node>,
    pub shards: Vec<Shard>,
    pub tables: Vec<Table>,
    pub links: Vec<Link>,
    placement: Placement,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    pub name: String,
    pub zone: String,
    /// Core i listens on this port + i.
    pub listen: SocketAddr,
    pub cores: CoreLayout,
    pub nic: NicKind,
    /// There with DPDK, and only there: the kernel knows its own.
    pub subnet: Option<Subnet>,
    /// For peers outside of the subnet.
    pub gateway: Option<Ipv4Addr>,
    pub poll: Poll,
    pub data: PathBuf,
    pub resp: Option<SocketAddr>,
    pub http: Option<SocketAddr>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shard {
    /// The first leads when it can. An odd number, all different.
    pub replicas: Vec<NodeId>,
    pub first: PartitionId,
    /// How many partitions, counted on from `first`. At least 1.
    pub partitions: u16,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Table {
    pub name: String,
    pub routing: Routing,
}

/// An emulated link between two zones, or inside one when both are the same; it works in both directions.
#[derive(Clone, PartialEq, Debug)]
pub struct Link {
    pub zones: [String; 2],
    pub spec: LinkSpec,
}

/// What happens to a frame on its way. The default does nothing.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct LinkSpec {
    pub delay_ns: u64,
    /// The delay varies by up to this; at most `delay_ns`.
    pub jitter_ns: u64,
    /// Probability that a frame is lost: 0 or more, below 1.
    pub loss: f64,
}

impl Config {
    /// Reads and checks a cluster file. `cpus` of this machine bound the cores of nodes that leave them out.
    pub fn load(path: &Path, cpus: usize) -> Result<Config, Mistakes> {
        let origin = path.display().to_string();
        let mut text = String::new();
        // No more than shows that it is too long: whatever the path leads to may have no end.
        let most = CLUSTER_FILE_BYTES_MAX as u64 + 1;
        let read = File::open(path).and_then(|file| file.take(most).read_to_string(&mut text));
        read.map_err(|error| {
            let place = Place { origin: origin.clone(), line: None };
            let remedy = "name a cluster file that exists and may be read".to_string();
            let what = "the cluster file cannot be read".to_string();
            Mistakes(vec![Mistake { what, place, why: error.to_string(), remedy }])
        })?;
        Config::parse_where(&text, &origin, cpus, Path::is_dir)
    }

    /// Checks the text of a cluster file; `origin` is what its mistakes call it.
    pub fn parse(text: &str, origin: &str, cpus: usize) -> Result<Config, Mistakes> {
        Config::parse_where(text, origin, cpus, |_| true)
    }

    fn parse_where(
        text: &str,
        origin: &str,
        cpus: usize,
        is_directory: fn(&Path) -> bool,
    ) -> Result<Config, Mistakes> {
        let mut mistakes = Vec::new();
        let file = file::File::read(text, origin, &mut mistakes);
        match file.and_then(|file| resolve(file, origin, cpus, is_directory, &mut mistakes)) {
            Some(config) if mistakes.is_empty() => Ok(config),
            _ => Err(Mistakes::in_reading_order(mistakes)),
        }
    }

    pub fn node(&self, name: &str) -> Option<NodeId> {
        let found = (0..).zip(&self.nodes).find(|(_, node)| node.name == name);
        found.map(|(number, _)| NodeId(number))
    }

    /// Whether frames go in the open, and some of them beyond a machine.
    pub fn is_exposed(&self) -> bool {
        self.key_file.is_none() && self.nodes.iter().any(|node| !is_loopback(node.listen))
    }

    pub fn cores(&self, node: NodeId) -> usize {
        self.nodes[usize::from(node.0)].cores.cores()
    }

    /// Where a core listens.
    pub fn address(&self, endpoint: Endpoint) -> SocketAddr {
        let mut address = self.nodes[usize::from(endpoint.node.0)].listen;
        address.set_port(address.port() + endpoint.core.0);
        address
    }

    /// What the emulated network does to frames between two nodes.
    pub fn link(&self, from: NodeId, to: NodeId) -> LinkSpec {
        let [a, b] = [from, to].map(|node| self.nodes[usize::from(node.0)].zone.as_str());
        let joins = |link: &&Link| link.zones == [a, b] || link.zones == [b, a];
        let link = self.links.iter().find(joins).filter(|_| from != to);
        link.map(|link| link.spec).unwrap_or_default()
    }

    pub fn table(&self, name: &str) -> Option<TableId> {
        let found = (0..).zip(&self.tables).find(|(_, table)| table.name == name);
        found.map(|(number, _)| TableId(number))
    }

    /// Where a key lives. Called for every read and write: no lookup, no allocation.
    #[inline]
    pub fn route(&self, table: TableId, key: &[u8]) -> Route {
        let routing = self.tables[usize::from(table.0)].routing;
        routing.route(key, self.partition_count() as u16)
    }

    /// The one place that holds all of `from <= key < to`; `None` when every partition has to be asked
    /// and the answers merged in key order.
    pub fn route_range(&self, table: TableId, from: &[u8], to: Option<&[u8]>) -> Option<Route> {
        let routing = self.tables[usize::from(table.0)].routing;
        routing.route_range(from, to, self.partition_count() as u16)
    }
}

/// Only processes of this machine reach such an address, or send from one.
fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}
