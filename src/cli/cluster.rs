//! The flags that describe a cluster inside this process: those of `mako dev`, shared by `mako-bench`.
//!
//! They become a [`LocalCluster`], which `config` resolves; nothing is checked twice.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use crate::config::{Durability, LocalCluster, Poll, Table, parse_duration_ns, parse_size_bytes};

/// A local cluster: node i of R holds one replica of every shard and leads shard s where s mod R = i.
#[derive(Args, Clone, PartialEq, Eq, Debug)]
pub struct ClusterFlags {
    /// Shards; each has a leader of its own.
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub shards: usize,
    /// Replicas of each shard, and nodes: 1, 3, 5 or 7.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub replicas: usize,
    /// Partitions of each shard; a node runs each on a core, as far as there are CPUs.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub partitions: usize,
    /// Emulated round trip between any two nodes.
    #[arg(long = "rtt", value_name = "DURATION", default_value = "0ms", value_parser = parse_duration_ns)]
    pub rtt_ns: u64,
    /// Which logs must hold a transaction before it is durable: memory, leader-disk or quorum-disk.
    #[arg(long, value_name = "MODE", default_value = "quorum-disk")]
    pub durability: Durability,
    /// Followers that miss their leader's heartbeats for this long elect another.
    #[arg(long = "election-timeout", value_name = "DURATION", value_parser = parse_duration_ns)]
    pub election_timeout_ns: Option<u64>,
    /// Log of a core before checkpoints are made that let go of it; without it, 4GiB.
    #[arg(long = "log", value_name = "SIZE", value_parser = parse_size_bytes)]
    pub log_bytes: Option<u64>,
    /// Where the nodes keep their logs; without it, a temporary directory removed at exit.
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Address of the first core; the others follow on the next ports.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7400")]
    pub listen: SocketAddr,
}

/// A whole local cluster in one process.
///
/// Prints one line `ready: …` with every address, then
/// runs until it is told to stop (SIGINT or SIGTERM).
#[derive(Args, Clone, PartialEq, Eq, Debug)]
#[command(after_help = "Example:\n  mako dev --replicas 3 --rtt 20ms")]
pub struct DevArgs {
    #[command(flatten)]
    pub cluster: ClusterFlags,
    /// Where node 0 will serve the Redis protocol; written to the cluster file, and not served yet.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:6380", hide = true)]
    pub resp: SocketAddr,
    /// Where node 0 serves its status and takes orders over HTTP; node i on this port + i.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9180")]
    pub http: SocketAddr,
    /// Write the equivalent cluster file, and exit.
    #[arg(long, value_name = "FILE")]
    pub write_config: Option<PathBuf>,
}

impl ClusterFlags {
    /// Without gateways. `data` stands in where no `--data` was given; `cpus` are those of this machine.
    pub fn local(&self, data: PathBuf, tables: Vec<Table>, cpus: usize) -> LocalCluster {
        LocalCluster {
            shards: self.shards,
            replicas: self.replicas,
            partitions: self.partitions,
            rtt_ns: self.rtt_ns,
            durability: self.durability,
            election_timeout_ns: self.election_timeout_ns,
            log_bytes: self.log_bytes,
            poll: Poll::Adaptive,
            data: self.data.clone().unwrap_or(data),
            key_file: None,
            tables,
            listen: self.listen,
            resp: None,
            http: None,
            cpus,
        }
    }
}

impl DevArgs {
    /// With the one table of the Redis protocol.
    pub fn local(&self, data: PathBuf, cpus: usize) -> LocalCluster {
        let cluster = self.cluster.local(data, Vec::new(), cpus);
        LocalCluster { resp: Some(self.resp), http: Some(self.http), ..cluster }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use crate::config::Config;
    use crate::types::NodeId;
    use clap::Parser;

    fn dev(words: &str) -> DevArgs {
        let cli = Cli::try_parse_from(words.split_whitespace()).unwrap_or_else(|error| panic!("{error}"));
        let Command::Dev(args) = cli.command else { panic!("{cli:?}") };
        args
    }

    /// The defaults are part of the interface: the README and every script lean on them.
    #[test]
    fn plain_dev_is_two_shards_on_three_nodes() {
        let flags = dev("mako dev").local(PathBuf::from("temporary"), 2);
        let gateways = LocalCluster {
            resp: Some(SocketAddr::from(([127, 0, 0, 1], 6380))),
            http: Some(SocketAddr::from(([127, 0, 0, 1], 9180))),
            ..LocalCluster::default()
        };
        assert_eq!(flags, LocalCluster { data: PathBuf::from("temporary"), cpus: 2, ..gateways });
        let config = Config::local(&flags).unwrap();
        assert_eq!(config.nodes[2].resp, Some(SocketAddr::from(([127, 0, 0, 1], 6382))));
        assert_eq!(config.nodes[2].data, PathBuf::from("temporary/n2"));
    }

    #[test]
    fn each_flag_reaches_the_cluster() {
        let words = "mako dev --shards 1 --replicas 5 --partitions 4 --rtt 50ms --durability memory --data d \
            --listen 127.0.0.1:9000 --resp 127.0.0.1:0 --http 127.0.0.1:8000 --write-config out.toml";
        let args = dev(words);
        let config = Config::local(&args.local(PathBuf::from("temporary"), 2)).unwrap();
        assert_eq!((config.nodes.len(), config.shards.len(), config.partition_count()), (5, 1, 4));
        assert_eq!(config.durability, Durability::Memory);
        assert_eq!(config.link(NodeId(0), NodeId(4)).delay_ns, 25_000_000);
        let node = &config.nodes[1];
        assert_eq!((node.data.to_str(), node.listen.port()), (Some("d/n1"), 9002));
        assert_eq!((node.resp.map(|a| a.port()), node.http.map(|a| a.port())), (Some(0), Some(8001)));
        assert_eq!(args.write_config, Some(PathBuf::from("out.toml")));
    }

    /// What the flags cannot mean is answered by name, not by a panic or a half-started cluster.
    #[test]
    fn impossible_numbers_are_refused_by_flag() {
        let words = "mako dev --replicas 18446744073709551615 --shards 18446744073709551615 \
            --partitions 18446744073709551615 --rtt 18446744073s";
        let mistakes = Config::local(&dev(words).local(PathBuf::new(), usize::MAX)).unwrap_err();
        for flag in ["--replicas", "--shards", "--partitions", "--rtt"] {
            assert!(mistakes.to_string().contains(&format!("error: {flag} ")), "{mistakes}");
        }
    }
}
