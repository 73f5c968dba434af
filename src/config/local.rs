//! What `mako dev` means: a whole cluster on one machine, worked out from a handful of flags.
//!
//! Node i of R holds one replica of every shard, leads shard s where `s mod R = i`, and is a zone of its
//! own; a frame takes half the round trip between any two. The result passes the checks of a file.
#![forbid(unsafe_code)]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::check::resolve;
use super::file::{At, ClusterSection, File, LinkSection, NodeSection, ShardSection, TableSection};
use super::mistake::{Mistake, Mistakes, Place};
use super::{Config, CoreLayout, Durability, Poll, Table, format_duration_ns, is_loopback};
use crate::bounds::{
    CORES_MAX, ELECTION_HEARTBEATS, ELECTION_TIMEOUT_NS, HEARTBEAT_INTERVAL_NS, LINK_DELAY_NS_MAX,
    PARTITIONS_MAX, REPLICAS_MAX, SHARDS_MAX,
};

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LocalCluster {
    pub shards: usize,
    /// Also the number of nodes.
    pub replicas: usize,
    /// Of each shard.
    pub partitions: usize,
    /// Between any two nodes.
    pub rtt_ns: u64,
    pub durability: Durability,
    /// None means the default, or more where links are slow.
    pub election_timeout_ns: Option<u64>,
    /// Of each core, before checkpoints are made; none means the default.
    pub log_bytes: Option<u64>,
    pub poll: Poll,
    /// Each node's directory is made in here.
    pub data: PathBuf,
    /// None means frames in the open, and then only between loopback addresses.
    pub key_file: Option<PathBuf>,
    /// None means the one table of the Redis protocol.
    pub tables: Vec<Table>,
    /// Of node 0; the others follow, each after the cores of the one before.
    pub listen: SocketAddr,
    /// Of node 0; node i has this port + i, unless it is 0, which asks the kernel for one.
    pub resp: Option<SocketAddr>,
    pub http: Option<SocketAddr>,
    /// CPUs of the machine: a node has one core for each partition, but no more than this.
    pub cpus: usize,
}

impl Default for LocalCluster {
    /// The defaults of `mako dev`, without its gateways, and with a core for every partition.
    fn default() -> LocalCluster {
        LocalCluster {
            shards: 2,
            replicas: 3,
            partitions: 1,
            rtt_ns: 0,
            durability: Durability::QuorumDisk,
            election_timeout_ns: None,
            log_bytes: None,
            poll: Poll::Adaptive,
            data: PathBuf::from("data"),
            key_file: None,
            tables: Vec::new(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 7400)),
            resp: None,
            http: None,
            cpus: CORES_MAX,
        }
    }
}

impl Config {
    pub fn local(cluster: &LocalCluster) -> Result<Config, Mistakes> {
        let mut mistakes = cluster.mistakes();
        if mistakes.is_empty() {
            let config = resolve(cluster.file(), "command line", cluster.cpus, |_| true, &mut mistakes);
            if let Some(config) = config.filter(|_| mistakes.is_empty()) {
                return Ok(config);
            }
        }
        Err(Mistakes(mistakes))
    }
}

impl LocalCluster {
    /// What is wrong in the words of the flags, rather than of the file nobody wrote.
    fn mistakes(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        let mut report = |flag: &str, value: String, why: String, remedy: &str| {
            let place = Place { origin: "command line".to_string(), line: None };
            let what = format!("{flag} {value}");
            mistakes.push(Mistake { what, place, why, remedy: remedy.to_string() });
        };
        if self.replicas.is_multiple_of(2) || self.replicas > REPLICAS_MAX {
            let why = format!("a shard has an odd number of replicas, 1 to {REPLICAS_MAX}");
            report("--replicas", self.replicas.to_string(), why, "choose 1, 3, 5 or 7");
        }
        if !(1..=SHARDS_MAX).contains(&self.shards) {
            let why = format!("a cluster has 1 to {SHARDS_MAX} shards");
            report("--shards", self.shards.to_string(), why, "choose a number of shards in that range");
        }
        let all = self.shards.saturating_mul(self.partitions);
        if self.partitions == 0 || all > PARTITIONS_MAX {
            let why = format!("each shard has at least 1, and all shards together at most {PARTITIONS_MAX}");
            report("--partitions", self.partitions.to_string(), why, "choose fewer shards or partitions");
        }
        if self.rtt_ns > 2 * LINK_DELAY_NS_MAX {
            let why = format!("the longest round trip is {}", format_duration_ns(2 * LINK_DELAY_NS_MAX));
            report("--rtt", format_duration_ns(self.rtt_ns), why, "choose a shorter one");
        }
        let ports = self.replicas.saturating_mul(self.cores());
        let first = usize::from(self.listen.port());
        if first == 0 || first.saturating_add(ports) > 1 << 16 {
            let why = format!("its nodes take {ports} ports from there on, which end at 65535");
            report("--listen", self.listen.to_string(), why, "choose a port from 1024 up that leaves room");
        }
        if self.key_file.is_none() && !is_loopback(self.listen) {
            let why = "frames of this cluster go in the open, and others may reach that address".to_string();
            report("--listen", self.listen.to_string(), why, "choose a loopback address");
        }
        for (flag, address) in [("--resp", self.resp), ("--http", self.http)] {
            let last = address.map_or(0, |address| {
                usize::from(address.port()).saturating_add(self.replicas.saturating_sub(1))
            });
            if let Some(address) = address.filter(|_| last >= 1 << 16) {
                let why = format!("node i takes this port + i, and there are {} nodes", self.replicas);
                report(flag, address.to_string(), why, "choose a lower port");
            }
        }
        let why = || "a cluster file is UTF-8, and so are the paths it names".to_string();
        if self.data.to_str().is_none() {
            report("--data", self.data.display().to_string(), why(), "choose a directory of such a name");
        } else if let Some(key_file) = self.key_file.as_ref().filter(|path| path.to_str().is_none()) {
            report("the key file", key_file.display().to_string(), why(), "choose a file of such a name");
        }
        mistakes
    }

    fn cores(&self) -> usize {
        let hosted = self.shards.saturating_mul(self.partitions);
        hosted.min(self.cpus).clamp(1, CORES_MAX)
    }

    /// The file that would say the same. Only called when `mistakes` found none.
    fn file(&self) -> File {
        // Heartbeats take half a round trip; a slow link must not depose a leader that is well.
        let patient_ns = ELECTION_TIMEOUT_NS.max(2 * HEARTBEAT_INTERVAL_NS + 2 * self.rtt_ns);
        let election_timeout_ns = self.election_timeout_ns.unwrap_or(patient_ns);
        let heartbeat_interval_ns = HEARTBEAT_INTERVAL_NS.min(election_timeout_ns / ELECTION_HEARTBEATS);
        let cluster = ClusterSection {
            name: at("local".to_string()),
            durability: at(self.durability),
            key_file: self.key_file.clone().and_then(at),
            election_timeout_ns: at(election_timeout_ns),
            heartbeat_interval_ns: at(heartbeat_interval_ns),
            log_bytes: self.log_bytes.and_then(at),
            ..ClusterSection::default()
        };
        let tables = self
            .tables
            .iter()
            .map(|table| TableSection { name: at(table.name.clone()), routing: at(table.routing) });
        File {
            cluster,
            nodes: (0..self.replicas).map(|node| self.node(node)).collect(),
            shards: (0..self.shards).map(|shard| self.shard(shard)).collect(),
            tables: tables.collect(),
            links: self.links(),
        }
    }

    fn node(&self, node: usize) -> NodeSection {
        let after = |address: SocketAddr, ports: usize| {
            let port = if address.port() == 0 { 0 } else { address.port() + ports as u16 };
            SocketAddr::new(address.ip(), port)
        };
        NodeSection {
            line: None,
            name: at(node_name(node)),
            zone: at(zone_name(node)),
            listen: at(after(self.listen, node * self.cores())),
            cores: at(CoreLayout::Threads(self.cores())),
            nic: None,
            subnet: None,
            gateway: None,
            poll: at(self.poll),
            data: at(self.data.join(node_name(node))),
            resp: self.resp.and_then(|resp| at(after(resp, node))),
            http: self.http.and_then(|http| at(after(http, node))),
        }
    }

    /// The list of replicas, rotated so that the leaders are spread.
    fn shard(&self, shard: usize) -> ShardSection {
        let replicas = (0..self.replicas).map(|i| node_name((shard + i) % self.replicas));
        ShardSection { line: None, replicas: at(replicas.collect()), partitions: at(self.partitions as u64) }
    }

    fn links(&self) -> Vec<LinkSection> {
        let nodes = if self.rtt_ns == 0 { 0 } else { self.replicas };
        let pairs = (0..nodes).flat_map(|a| (a + 1..nodes).map(move |b| (a, b)));
        let links = pairs.map(|(a, b)| LinkSection {
            between: at(vec![zone_name(a), zone_name(b)]),
            delay_ns: at(self.rtt_ns / 2),
            ..LinkSection::default()
        });
        links.collect()
    }
}

fn node_name(node: usize) -> String {
    format!("n{node}")
}

fn zone_name(node: usize) -> String {
    format!("z{node}")
}

fn at<T>(value: T) -> Option<At<T>> {
    Some(At { value, line: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bounds::MS;
    use crate::config::{LinkSpec, Node};
    use crate::types::{CoreId, Endpoint, NodeId, PartitionId};
    use std::collections::BTreeSet;

    #[test]
    fn node_i_leads_shard_s_where_s_mod_r_is_i() {
        let config = Config::local(&LocalCluster { shards: 7, ..LocalCluster::default() }).unwrap();
        for shard in 0..7 {
            assert_eq!(config.leader_of(PartitionId(shard)), NodeId(shard % 3));
            assert_eq!(config.replicas_of(PartitionId(shard)).iter().collect::<BTreeSet<_>>().len(), 3);
        }
    }

    /// Two sockets on one port: the second node does not start, or worse, takes the first one's frames.
    #[test]
    fn no_two_sockets_of_a_local_cluster_share_a_port() {
        let resp = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 6380)));
        let http = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 9180)));
        let flags =
            LocalCluster { shards: 4, partitions: 2, resp, http, replicas: 7, ..LocalCluster::default() };
        let config = Config::local(&flags).unwrap();
        let mut ports = BTreeSet::new();
        for node in (0..7).map(NodeId) {
            for core in (0..config.cores(node) as u16).map(CoreId) {
                assert!(ports.insert(config.address(Endpoint { node, core }).port()));
            }
            let Node { resp, http, .. } = &config.nodes[usize::from(node.0)];
            assert!(ports.insert(resp.unwrap().port()) && ports.insert(http.unwrap().port()));
        }
        assert_eq!(ports.len(), 7 * (8 + 2));
    }

    #[test]
    fn a_frame_takes_half_the_round_trip_between_nodes_and_none_within_one() {
        let config = Config::local(&LocalCluster { rtt_ns: 50 * MS, ..LocalCluster::default() }).unwrap();
        let half = LinkSpec { delay_ns: 25 * MS, ..LinkSpec::default() };
        assert_eq!(config.link(NodeId(0), NodeId(2)), half);
        assert_eq!(config.link(NodeId(2), NodeId(0)), half);
        assert_eq!(config.link(NodeId(1), NodeId(1)), LinkSpec::default());
    }

    /// The longest round trip the flag allows must not be refused by a rule the user cannot reach.
    #[test]
    fn every_round_trip_that_may_be_asked_for_makes_a_cluster() {
        for rtt_ns in [0, 1, MS, 2 * LINK_DELAY_NS_MAX] {
            for replicas in [1, 3, 5, 7] {
                let flags = LocalCluster { rtt_ns, replicas, ..LocalCluster::default() };
                assert_eq!(Config::local(&flags).map(|_| ()), Ok(()));
            }
        }
    }

    #[test]
    fn a_local_cluster_listens_beyond_its_machine_only_with_a_key() {
        let listen = SocketAddr::from(([10, 0, 0, 1], 7400));
        let open = LocalCluster { listen, ..LocalCluster::default() };
        let mistakes = Config::local(&open).unwrap_err().to_string();
        assert!(mistakes.starts_with("error: --listen 10.0.0.1:7400 (command line): frames "), "{mistakes}");
        let sealed = LocalCluster { key_file: Some(PathBuf::from("cluster.key")), ..open };
        assert_eq!(Config::local(&sealed).map(|config| config.is_exposed()), Ok(false));
    }

    #[test]
    fn wrong_flags_are_all_named_at_once() {
        let flags = LocalCluster {
            shards: 0,
            replicas: 2,
            partitions: 0,
            rtt_ns: u64::MAX,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 65_535)),
            resp: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 65_535))),
            ..LocalCluster::default()
        };
        let Err(Mistakes(mistakes)) = Config::local(&flags) else { panic!("accepted") };
        let flags: Vec<&str> = mistakes.iter().filter_map(|m| m.what.split(' ').next()).collect();
        assert_eq!(flags, ["--replicas", "--shards", "--partitions", "--rtt", "--listen", "--resp"]);
    }
}
