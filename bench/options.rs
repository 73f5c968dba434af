//! What was typed: the subcommands and flags of `mako-bench`, each with its default and its bound.
//!
//! Whatever can be judged without the cluster is judged here, so that a slip costs a second and not a
//! load; clap answers with exit code 2. What the flags mean together is `runner`'s and the workloads' affair.
#![forbid(unsafe_code)]

use crate::failover::VALUE_BYTES_MAX;
use clap::builder::{EnumValueParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use mako::bounds::{CHUNK_BYTES, CORES_MAX, MESSAGE_BYTES_MAX, NODES_MAX, REQUEST_SLOTS};
use mako::cli::ClusterFlags;
use mako::config::{NicKind, format_size_bytes, parse_duration_ns, parse_size_bytes};
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

/// Measures Mako: transactions are generated on the leader cores of a cluster embedded in this process.
#[derive(Parser, Debug)]
#[command(name = "mako-bench", version)]
pub struct Options {
    #[command(subcommand)]
    pub bench: Bench,
}

impl Options {
    /// What was typed, with the defaults of each bench.
    pub fn read<T: Into<OsString> + Clone>(
        words: impl IntoIterator<Item = T>,
    ) -> Result<Options, clap::Error> {
        // One more than is killed must lead, but a follower is to lead nothing.
        let shards = |shards: clap::Arg| shards.default_value("3").default_value_if("kill", "follower", "2");
        let one = |arg: clap::Arg| arg.default_value("1");
        let command = Options::command()
            .mut_subcommand("failover", |bench| bench.mut_arg("shards", shards))
            .mut_subcommand("restart", |bench| {
                let bench = bench.mut_arg("shards", one).mut_arg("replicas", one);
                bench.mut_arg("log_bytes", |log| log.default_value("256MiB"))
            });
        let options = Options::from_arg_matches(&command.clone().try_get_matches_from(words)?)?;
        if let Some(why) = options.bench.run().and_then(RunOptions::mistake) {
            return Err(command.clone().error(ErrorKind::ArgumentConflict, why));
        }
        match &options.bench {
            Bench::Failover(FailoverOptions { flip: 1.., kill, .. }) if *kill != Victim::Follower => {
                let why = "bits are flipped in the files of a follower; add --kill follower\n";
                Err(command.clone().error(ErrorKind::ArgumentConflict, why))
            }
            _ => Ok(options),
        }
    }
}

#[derive(Subcommand, Debug)]
pub enum Bench {
    /// TPC-C: five transactions, standard mix and data sizes; afterwards the consistency conditions
    #[command(
        after_help = "Example: mako-bench tpcc --warehouses 4 --duration 30s --rtt 50ms --json tpcc.json"
    )]
    Tpcc(TpccOptions),
    /// Few keys a transaction, half read-only, half read-modify-write, some across shards
    #[command(after_help = "Example: mako-bench micro --cross-shard-pct 20 --clients 256")]
    Micro(MicroOptions),
    /// Transfers between accounts; the total is checked throughout on snapshots of leaders and followers
    #[command(after_help = "Example: mako-bench bank --accounts 1000 --rate 20000")]
    Bank(BankOptions),
    /// Kills nodes under load, again and again: the outage, what other shards notice, and that nothing is lost
    #[command(after_help = FAILOVER_EXAMPLES)]
    Failover(FailoverOptions),
    /// Fills a partition, stops it, and starts it again: how long that takes, and where the time goes
    #[command(after_help = "Example: mako-bench restart --size 1GiB --value-size 100")]
    Restart(RestartOptions),
    /// The transport alone: requests per second of one core, round trips, long messages; and the bare medium beside it
    #[command(after_help = RPC_EXAMPLES)]
    Rpc(RpcOptions),
    /// One node of a run with --processes, told by the bench on standard input what to do
    #[command(hide = true)]
    Steered,
    /// One node of a cluster file, that makes payments until it is killed; for tests
    #[command(hide = true)]
    Node(NodeOptions),
}

impl Bench {
    fn run(&self) -> Option<&RunOptions> {
        match self {
            Bench::Tpcc(options) => Some(&options.run),
            Bench::Micro(options) => Some(&options.run),
            Bench::Bank(options) => Some(&options.run),
            _ => None,
        }
    }
}

impl RunOptions {
    pub fn in_processes(&self) -> bool {
        self.processes || self.namespaces
    }

    fn mistake(&self) -> Option<&'static str> {
        match &self.nic {
            NicKind::Dpdk(_) if !self.namespaces => {
                Some("a DPDK port needs an interface of its own for each node; add --namespaces\n")
            }
            NicKind::Dpdk(device) if !device.starts_with("net_") => {
                Some("a namespace has no device but its veth; write dpdk:net_af_xdp or dpdk:net_af_packet\n")
            }
            _ => None,
        }
    }
}

#[derive(Args, Clone, Debug)]
pub struct RunOptions {
    /// How long to measure
    #[arg(long = "duration", value_name = "DURATION", default_value = "10s", value_parser = parse_duration_ns)]
    pub duration_ns: u64,
    /// How long to run before measuring
    #[arg(long = "warmup", value_name = "DURATION", default_value = "2s", value_parser = parse_duration_ns)]
    pub warmup_ns: u64,
    /// Of the data loaded and the transactions drawn
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Closed loop: clients per partition, each waiting for its durable reply
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=CLIENTS_MAX))]
    pub clients: u32,
    /// Open loop: transactions per second, all partitions together; latency counts from the intended start
    #[arg(long, conflicts_with = "clients", value_parser = clap::value_parser!(u64).range(1..=RATE_MAX))]
    pub rate: Option<u64>,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the durable latencies as a percentile table (.hgrm); the speculative ones beside it
    #[arg(long, value_name = "FILE")]
    pub hdr: Option<PathBuf>,
    /// Run each node as a process of its own, instead of all in this one
    #[arg(long)]
    pub processes: bool,
    /// Words before the command of each node's process, {node} being its name
    #[arg(long, value_name = "WORDS", requires = "processes", conflicts_with = "namespaces")]
    pub launch: Option<String>,
    /// Give each node's process a network namespace of its own, joined by a bridge; needs root
    #[arg(long)]
    pub namespaces: bool,
    /// What the nodes' frames go over: udp, dpdk:net_af_xdp or dpdk:net_af_packet, the latter two in namespaces
    #[arg(long, value_name = "NIC", default_value = "udp")]
    pub nic: NicKind,
    #[command(flatten)]
    pub cluster: ClusterFlags,
}

#[derive(Args, Clone, Debug)]
pub struct TpccOptions {
    /// Warehouses; one per partition when not given
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=WAREHOUSES_MAX))]
    pub warehouses: Option<u32>,
    /// Order lines supplied by another warehouse, in percent (clause 2.4.1.5)
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub remote_item_pct: u32,
    /// Payments by a customer of another warehouse, in percent (clause 2.5.1.2)
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub remote_payment_pct: u32,
    /// Garbage datagrams per second at the nodes' ports, in every other slice of the run; frames are sealed then
    #[arg(long, value_name = "RATE", value_parser = clap::value_parser!(u64).range(1..=RATE_MAX))]
    pub flood: Option<u64>,
    #[command(flatten)]
    pub run: RunOptions,
}

#[derive(Args, Clone, Debug)]
pub struct MicroOptions {
    /// Keys in the table
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub keys: u32,
    /// Keys one transaction touches
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=MICRO_KEYS_PER_TXN_MAX))]
    pub keys_per_txn: u32,
    /// Transactions with a key in another shard, in percent
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub cross_shard_pct: u32,
    /// Bytes of a value
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(8..=MICRO_VALUE_BYTES_MAX))]
    pub value_size: u32,
    #[command(flatten)]
    pub run: RunOptions,
}

#[derive(Args, Clone, Debug)]
pub struct BankOptions {
    /// Accounts, spread over all partitions
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(2..=ACCOUNTS_MAX))]
    pub accounts: u32,
    #[command(flatten)]
    pub run: RunOptions,
}

#[derive(Args, Clone, Debug)]
pub struct FailoverOptions {
    /// Whom to kill
    #[arg(long, value_enum, default_value_t = Victim::Leader)]
    pub kill: Victim,
    /// How often; 0 is to kill nobody, for as long as --duration says
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(0..=KILLS_MAX))]
    pub times: u32,
    /// How long to run when nobody is killed
    #[arg(long = "duration", value_name = "DURATION", default_value = "10s", value_parser = parse_duration_ns)]
    pub duration_ns: u64,
    /// How long who was killed stays down after its shards have new leaders; a follower is to be left behind then
    #[arg(long = "down", value_name = "DURATION", value_parser = parse_duration_ns)]
    pub down_ns: Option<u64>,
    /// Flip one bit of a killed follower's files before it starts again, so often; nodes are processes then
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=FLIPS_MAX))]
    pub flip: u32,
    /// How long to run before the first kill
    #[arg(long = "warmup", value_name = "DURATION", default_value = "2s", value_parser = parse_duration_ns)]
    pub warmup_ns: u64,
    /// How long to run after a node has come back
    #[arg(long = "pause", value_name = "DURATION", default_value = "2s", value_parser = parse_duration_ns)]
    pub pause_ns: u64,
    /// Closed loop: clients per partition, each waiting for its durable reply
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=CLIENTS_MAX))]
    pub clients: u32,
    /// Bytes of a value; a thousand keys of each partition are written again and again
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(8..=VALUE_BYTES_MAX as i64))]
    pub value_size: u32,
    /// Of the transactions drawn, and of the bits flipped
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Write the report as JSON, with the time line of every shard
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    #[command(flatten)]
    pub cluster: ClusterFlags,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Victim {
    /// The node that leads shard 0
    Leader,
    /// A node that leads nothing, if there is one
    Follower,
    /// Every node in the zone of the leader of shard 0
    Zone,
    /// Every node at once, as processes; what was acknowledged is then looked up
    All,
    /// Nobody, for as long as --duration says
    None,
}

#[derive(Args, Clone, Debug)]
pub struct RestartOptions {
    /// Bytes of the rows in the partition
    #[arg(long = "size", value_name = "SIZE", default_value = "1GiB", value_parser = parse_size_bytes)]
    pub size_bytes: u64,
    /// Bytes of a value
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(8..=VALUE_BYTES_MAX as i64))]
    pub value_size: u32,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    #[command(flatten)]
    pub cluster: ClusterFlags,
}

#[derive(Args, Clone, Debug)]
pub struct RpcOptions {
    /// Bytes of a request and of its response; several, to measure each
    #[arg(
        long = "size",
        value_name = "BYTES",
        value_delimiter = ',',
        default_value = "32",
        value_parser = clap::value_parser!(u32).range(8..=CHUNK_BYTES as i64)
    )]
    pub sizes: Vec<u32>,
    /// Requests of a session that are under way; several, to measure each
    #[arg(
        long = "window",
        value_name = "REQUESTS",
        value_delimiter = ',',
        default_value = "8",
        value_parser = clap::value_parser!(u32).range(1..=REQUEST_SLOTS as i64)
    )]
    pub windows: Vec<u32>,
    /// Sessions between the two cores
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=RPC_SESSIONS_MAX))]
    pub sessions: u32,
    /// Bytes of a long message
    #[arg(long = "message", value_name = "SIZE", default_value = "8MiB", value_parser = message_bytes)]
    pub message_bytes: u64,
    /// What the frames go over; `dpdk:` is between two network namespaces that are made for it, which takes root
    #[arg(long, default_value = "udp", value_parser = EnumValueParser::<Medium>::new().try_map(Medium::if_built))]
    pub nic: Medium,
    /// How long to measure each figure, in four slices
    #[arg(long = "duration", value_name = "DURATION", default_value = "2s", value_parser = parse_duration_ns)]
    pub duration_ns: u64,
    /// How long to run before measuring, in each slice
    #[arg(long = "warmup", value_name = "DURATION", default_value = "50ms", value_parser = parse_duration_ns)]
    pub warmup_ns: u64,
    /// Of the messages, and of the frames lost
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the round trips of one request at a time, of the first size, as a percentile table (.hgrm)
    #[arg(long, value_name = "FILE")]
    pub hdr: Option<PathBuf>,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Medium {
    /// Kernel sockets, over loopback
    Udp,
    /// Ports of DPDK on AF_XDP sockets, over veth
    #[value(name = "dpdk:net_af_xdp")]
    AfXdp,
    /// Ports of DPDK on packet sockets, over veth
    #[value(name = "dpdk:net_af_packet")]
    AfPacket,
}

impl Medium {
    fn if_built(self) -> Result<Medium, &'static str> {
        if self == Medium::Udp || cfg!(feature = "dpdk") { Ok(self) } else { Err(NO_DPDK) }
    }
}

impl fmt::Display for Medium {
    /// As it is typed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value().expect("none is hidden");
        f.write_str(value.get_name())
    }
}

fn message_bytes(text: &str) -> Result<u64, String> {
    let bytes = parse_size_bytes(text).map_err(|refusal| refusal.to_string())?;
    let fits = (1..=MESSAGE_BYTES_MAX as u64).contains(&bytes);
    fits.then_some(bytes)
        .ok_or_else(|| format!("a message has 1B to {}", format_size_bytes(MESSAGE_BYTES_MAX as u64)))
}

#[derive(Args, Clone, Debug)]
pub struct NodeOptions {
    /// The cluster file, with one table that is routed by a leading integer of four bytes
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Which of its nodes to be
    #[arg(long, value_name = "NAME")]
    pub node: String,
    /// Where to append a line for every payment that is durable
    #[arg(long, value_name = "FILE")]
    pub acks: PathBuf,
    /// Where to append the history of registers that are read and written beside the payments, while the total is audited
    #[arg(long, value_name = "FILE")]
    pub history: Option<PathBuf>,
    /// Make no payments; print what a snapshot at or above this timestamp shows
    #[arg(long, value_name = "TIMESTAMP")]
    pub audit: Option<u64>,
    /// Make payments all the same
    #[arg(long)]
    pub pays: bool,
    /// Closed loop: payments under way; without it one is begun each millisecond for every partition led
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=CLIENTS_MAX))]
    pub clients: Option<u32>,
    /// Forget the log, and learn everything from the other replicas
    #[arg(long)]
    pub rebuild: bool,
}

const FAILOVER_EXAMPLES: &str = "Examples:
  mako-bench failover --kill leader --times 10 --election-timeout 500ms
  mako-bench failover --kill all --times 20
  mako-bench failover --kill follower --times 1 --down 120s
  mako-bench failover --kill follower --flip 50
  mako-bench failover --kill none --duration 600s --log 256MiB --value-size 1000";
const RPC_EXAMPLES: &str = "Examples:
  mako-bench rpc --size 32,1024 --window 1,8,64 --json rpc.json
  mako-bench rpc --nic dpdk:net_af_xdp --duration 60s";
/// The time line of a run ends after a quarter of an hour.
const KILLS_MAX: i64 = 100;
const FLIPS_MAX: i64 = 1_000;
/// A client is a few dozen bytes; past this the engine's window answers for everyone.
const CLIENTS_MAX: i64 = 65_536;
/// The gap between two starts is a whole number of nanoseconds; this keeps it at 10 or more.
const RATE_MAX: u64 = 100_000_000;
/// Routing takes the warehouse modulo the slots; more warehouses than that only make the load longer.
const WAREHOUSES_MAX: i64 = 16_384;
/// Every endpoint of a cluster but one.
const RPC_SESSIONS_MAX: i64 = ((NODES_MAX - 1) * CORES_MAX) as i64;
const NO_DPDK: &str = "it was built without feature dpdk; apt-get install pkg-config libdpdk-dev libclang-dev, then build it with --features dpdk";
/// An audit reads every account in one transaction.
const ACCOUNTS_MAX: i64 = 10_000_000;
/// Bounds of the arrays in which `micro` draws a transaction and builds a value.
pub const MICRO_KEYS_PER_TXN_MAX: i64 = 16;
pub const MICRO_VALUE_BYTES_MAX: i64 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Options::command().debug_assert();
    }

    /// A bound that is only documented lets a bench measure nothing for minutes.
    #[test]
    fn values_out_of_bounds_are_refused_as_bad_usage() {
        let bad = [
            "tpcc --warehouses 0",
            "tpcc --remote-item-pct 101",
            "tpcc --duration 10",
            "micro --keys-per-txn 17",
            "micro --value-size 7",
            "bank --accounts 1",
            "bank --clients 0",
            "bank --rate 0",
            "rpc --size 7",
            "rpc --window 8,257",
            "rpc --message 9MiB",
            "rpc --sessions 0",
            "bank --rate 10 --clients 10",
            "bank --launch x",
            "bank --namespaces --launch x",
            "bank --nic dpdk:net_af_xdp",
            "bank --namespaces --nic dpdk:0000:3b:00.0",
            "ycsb",
        ];
        for line in bad {
            let words = ["mako-bench"].into_iter().chain(line.split(' '));
            let error = Options::read(words).map(|_| line).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(mako::cli::usage_error(&error).is_some_and(|text| text.starts_with("error: ")), "{line}");
        }
    }

    /// What cannot be measured is said before anything is measured, with what would help.
    #[test]
    fn a_medium_that_is_not_built_in_is_refused_by_name() {
        let read = |nic: &str| match Options::read(["mako-bench", "rpc", "--nic", nic]) {
            Ok(Options { bench: Bench::Rpc(options) }) => Ok(options.nic),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(mako::cli::usage_error(&error).unwrap()),
        };
        assert_eq!(read("udp"), Ok(Medium::Udp));
        for (name, nic) in [("dpdk:net_af_xdp", Medium::AfXdp), ("dpdk:net_af_packet", Medium::AfPacket)] {
            let told = format!("error: --nic {name} (command line): {NO_DPDK}");
            assert_eq!(read(name), if cfg!(feature = "dpdk") { Ok(nic) } else { Err(told) });
            assert_eq!(nic.to_string(), name);
        }
        assert!(read("dpdk:net_ring").is_err_and(|told| told.contains("dpdk:net_af_xdp")));
    }

    /// With two shards on three nodes a kill may leave no shard healthy to compare with.
    #[test]
    fn failover_has_a_leader_on_every_node() {
        let read = |line: &str| match Options::read(line.split(' ')).unwrap().bench {
            Bench::Failover(options) => options.cluster.shards,
            Bench::Micro(options) => options.run.cluster.shards,
            other => panic!("{other:?}"),
        };
        let lines = ["mako-bench failover", "mako-bench failover --shards 1", "mako-bench micro"];
        assert_eq!(lines.map(read), [3, 1, 2]);
        assert_eq!(read("mako-bench failover --kill follower"), 2);
        assert_eq!(read("mako-bench failover --kill follower --shards 5"), 5);
    }

    #[test]
    fn defaults_are_those_of_the_standard() {
        let Bench::Tpcc(tpcc) = Options::parse_from(["mako-bench", "tpcc"]).bench else { panic!("tpcc") };
        assert_eq!((tpcc.remote_item_pct, tpcc.remote_payment_pct, tpcc.warehouses), (1, 15, None));
        assert_eq!((tpcc.run.duration_ns, tpcc.run.warmup_ns), (10_000_000_000, 2_000_000_000));
        assert_eq!((tpcc.run.clients, tpcc.run.rate), (64, None));
    }
}
