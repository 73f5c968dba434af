//! The command `mako-bench`: runs one workload against a cluster and reports what it measured.
//!
//! Exit code 0 when it ran and every check held, 1 when not, 2 on bad usage.
#![deny(unsafe_code)]

mod arrivals;
mod bank;
mod children;
mod control;
mod cores;
mod driver;
mod failover;
#[cfg(test)]
mod fixture;
mod flood;
mod hgrm;
mod inspections;
mod layout;
mod ledger;
mod loading;
mod machine;
mod measure;
mod micro;
mod namespaces;
mod node;
mod options;
mod registers;
mod report;
mod restart;
mod rpc;
mod runner;
mod stand;
mod steered;
mod summary;
mod talk;
mod tpcc;
mod workload;

use anyhow::{Context, bail};
use failover::Told;
use layout::Layout;
use mako::cli::ClusterFlags;
use mako::cli::{MISUSED, usage_error};
use mako::config::{Config, Mistakes, Table, format_duration_ns};
use mako::server::{StartError, StopError};
use mako::types::TableId;
use namespaces::Namespaces;
use options::{
    BankOptions, Bench, FailoverOptions, MicroOptions, Options, RestartOptions, RpcOptions, RunOptions,
    TpccOptions,
};
use report::{Outcome, Report};
use serde_json::{Map, Value, json};
use stand::Stand;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use steered::Steerer;
use tempfile::TempDir;
use workload::Workload;

/// As in `mako`: what is measured is what is shipped.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let options = match Options::read(std::env::args_os()) {
        Ok(options) => options,
        Err(error) => return refuse(&error),
    };
    let result = match options.bench {
        // It ends when its input does, and by no signal that can be caught.
        Bench::Steered => obey(),
        bench => runner::catch_interrupts().and_then(|interrupted| run(bench, &interrupted)),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // Every mistake in the flags, each a line that begins with "error:" already.
        Err(error) if error.is::<Mistakes>() => {
            eprintln!("{error}");
            ExitCode::from(MISUSED)
        }
        // The engine's errors name their causes themselves.
        Err(error) if error.is::<StartError>() || error.is::<StopError>() => {
            eprintln!("error: {error}");
            ExitCode::from(if error.is::<StartError>() { MISUSED } else { FAILED })
        }
        Err(error) => {
            eprintln!("error: {error:#}; start it again when that is mended");
            ExitCode::from(FAILED)
        }
    }
}

fn run(bench: Bench, interrupted: &AtomicBool) -> anyhow::Result<bool> {
    match bench {
        Bench::Failover(options) => failover(&options, interrupted),
        Bench::Restart(options) => restart(&options, interrupted),
        Bench::Rpc(options) => rpc(&options, interrupted),
        Bench::Node(options) => node::run(&options).map(|()| true),
        bench => work(bench, Stand::Steers { interrupted }),
    }
}

/// What has a workload of its own.
fn work(bench: Bench, stand: Stand<'_>) -> anyhow::Result<bool> {
    match bench {
        Bench::Tpcc(options) => tpcc(&options, stand),
        Bench::Micro(options) => micro(&options, stand),
        Bench::Bank(options) => bank(&options, stand),
        _ => bail!("a bench that has no nodes to steer (the first line of standard input)"),
    }
}

/// As one node of a run that another process steers.
fn obey() -> anyhow::Result<bool> {
    let (steerer, job) = Steerer::meet()?;
    let words = ["mako-bench".to_string()].into_iter().chain(job.words.iter().cloned());
    let done = match Options::read(words) {
        Ok(options) => work(options.bench, Stand::Steered { steerer, job }),
        Err(error) => Err(error.into()),
    };
    match done {
        Ok(done) => Ok(done),
        // It is told, and not printed: whoever steers does that.
        Err(why) => steered::fail(&why).map(|()| false),
    }
}

/// Help and version are no mistakes: clap prints them, and they succeed.
fn refuse(error: &clap::Error) -> ExitCode {
    match usage_error(error) {
        Some(complaint) => eprintln!("{complaint}"),
        // Whoever closed standard output does not want to read it.
        None => drop(error.print()),
    }
    u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
}

fn tpcc(options: &TpccOptions, stand: Stand<'_>) -> anyhow::Result<bool> {
    let mut cluster = stand.cluster(&options.run, tpcc::Plan::tables(), tpcc::Plan::table())?;
    let remote = tpcc::Remote { item_pct: options.remote_item_pct, payment_pct: options.remote_payment_pct };
    let mut plan = tpcc::Plan::new(options.run.seed, options.warehouses, remote, &cluster.layout);
    let mut flood = None;
    if let Some(rate) = options.flood {
        if options.run.in_processes() {
            bail!(
                "--flood with --processes: it counts the transactions of this process; leave one of them out"
            );
        }
        flood::seal(&mut cluster.config)?;
        let RunOptions { warmup_ns, duration_ns, .. } = options.run;
        let how = flood::Plan { rate, warmup_ns, duration_ns };
        flood = Some(flood::Flood::start(how, cluster.config.clone(), plan.count_commits())?);
    }
    let plan = Arc::new(plan);
    let flags = json!({
        "warehouses": plan.warehouses(),
        "remote_item_pct": options.remote_item_pct,
        "remote_payment_pct": options.remote_payment_pct,
    });
    let make = move |generator| tpcc::Tpcc::new(plan.clone(), generator);
    stand.go("tpcc", &options.run, cluster, flags, make, |outcome| {
        if let Some(told) = flood.map(flood::Flood::finish).transpose()? {
            outcome.figures.insert("flood".to_string(), told.figures);
            outcome.verdicts.insert("flood".to_string(), told.verdict);
        }
        Ok(())
    })
}

fn micro(options: &MicroOptions, stand: Stand<'_>) -> anyhow::Result<bool> {
    let cluster = stand.cluster(&options.run, micro::Plan::tables(), micro::TABLE)?;
    let plan = Arc::new(micro::Plan::new(options.run.seed, options, cluster.layout.clone()));
    let flags = json!({
        "keys": options.keys,
        "keys_per_txn": options.keys_per_txn,
        "cross_shard_pct": options.cross_shard_pct,
        "value_size": options.value_size,
    });
    let make = move |generator| micro::Micro::new(plan.clone(), generator);
    stand.go("micro", &options.run, cluster, flags, make, |_| Ok(()))
}

fn bank(options: &BankOptions, stand: Stand<'_>) -> anyhow::Result<bool> {
    let cluster = stand.cluster(&options.run, bank::Plan::tables(), bank::TABLE)?;
    let plan = Arc::new(bank::Plan::new(options.run.seed, options.accounts, cluster.layout.clone()));
    let flags = json!({ "accounts": options.accounts });
    let make = move |generator| bank::Bank::new(plan.clone(), generator);
    stand.go("bank", &options.run, cluster, flags, make, |_| Ok(()))
}

fn failover(options: &FailoverOptions, interrupted: &AtomicBool) -> anyhow::Result<bool> {
    let flags = &options.cluster;
    let cluster = Embedded::of(flags, options.json.iter(), failover::tables(), failover::ROUTED)?;
    let mut settings = cluster_settings(flags);
    let own = json!({
        "kill": format!("{:?}", options.kill).to_lowercase(),
        "times": options.times,
        "flip": options.flip,
        "duration": format_duration_ns(options.duration_ns),
        "down": options.down_ns.map(format_duration_ns),
        "warmup": format_duration_ns(options.warmup_ns),
        "pause": format_duration_ns(options.pause_ns),
        "clients": options.clients,
        "value_size": options.value_size,
        "seed": options.seed,
        "election_timeout": format_duration_ns(cluster.config.election_timeout_ns),
    });
    settings.extend(own.as_object().cloned().unwrap_or_default());
    let told = failover::run(options, cluster.config, settings.into(), interrupted)?;
    tell(told, options.json.as_deref())
}

fn restart(options: &RestartOptions, interrupted: &AtomicBool) -> anyhow::Result<bool> {
    let flags = &options.cluster;
    let cluster = Embedded::of(flags, options.json.iter(), restart::tables(), restart::TABLE)?;
    let mut settings = cluster_settings(flags);
    let own = json!({ "size": options.size_bytes, "value_size": options.value_size });
    settings.extend(own.as_object().cloned().unwrap_or_default());
    let told = restart::run(options, cluster.config, settings.into(), interrupted)?;
    tell(told, options.json.as_deref())
}

fn rpc(options: &RpcOptions, interrupted: &AtomicBool) -> anyhow::Result<bool> {
    // A report that cannot be written is noticed now, not after the run.
    options.json.iter().chain(&options.hdr).try_for_each(|path| write(path, String::new()))?;
    tell(rpc::run(options, interrupted)?, options.json.as_deref())
}

/// Writes and prints what a run has to say; whether it held what was promised.
fn tell(told: Told, json: Option<&Path>) -> anyhow::Result<bool> {
    if let Some(path) = json {
        let report = serde_json::to_string(&told.json).context("the report (JSON)")?;
        write(path, report + "\n")?;
    }
    say(&told.page);
    Ok(told.holds)
}

/// The cluster the flags describe.
struct Embedded {
    config: Config,
    layout: Layout,
    /// Where its nodes are, if each has a machine to itself: they go after the cluster has stopped.
    namespaces: Option<Namespaces>,
    /// Where its logs are when no place was named: removed after the cluster has stopped.
    _temporary: Option<TempDir>,
}

impl Embedded {
    /// `routed` is a table whose rows are placed by their leading four bytes.
    fn new(options: &RunOptions, tables: Vec<Table>, routed: TableId) -> anyhow::Result<Embedded> {
        Embedded::of(&options.cluster, options.json.iter().chain(&options.hdr), tables, routed)
    }

    fn of<'a>(
        flags: &ClusterFlags,
        reports: impl Iterator<Item = &'a PathBuf>,
        tables: Vec<Table>,
        routed: TableId,
    ) -> anyhow::Result<Embedded> {
        // A report that cannot be written is noticed now, not after the run.
        for path in reports {
            write(path, String::new())?;
        }
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let temporary = match flags.data {
            Some(_) => None,
            None => {
                let directory = tempfile::Builder::new().prefix("mako-bench-").tempdir();
                Some(directory.context("no temporary directory (this machine)")?)
            }
        };
        let data = temporary.as_ref().map_or_else(Default::default, |directory| directory.path().to_owned());
        let config = Config::local(&flags.local(data, tables, cpus))?;
        Ok(Embedded { layout: Layout::new(&config, routed), config, namespaces: None, _temporary: temporary })
    }
}

/// Writes and prints the report; whether every check held.
fn publish<W: Workload>(
    name: &'static str,
    options: &RunOptions,
    flags: Value,
    outcome: &Outcome,
) -> anyhow::Result<bool> {
    let report = Report::new(name, W::KINDS, settings(options, flags), outcome);
    let total = outcome.measures.total();
    if let Some(path) = &options.json {
        let json = serde_json::to_string_pretty(&report).context("the report (JSON)")?;
        write(path, json + "\n")?;
    }
    if let Some(path) = &options.hdr {
        write(path, hgrm::render(&total.durable))?;
        write(&hgrm::beside(path), hgrm::render(&total.speculative))?;
    }
    say(&summary::render(&report, &total.speculative, &total.durable));
    Ok(report.all_checks_hold())
}

/// On standard output. Whoever closed it does not want to read it: the exit code counts all the same.
fn say(page: &str) {
    drop(io::stdout().lock().write_all(page.as_bytes()));
}

fn write(path: &Path, text: String) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("the file cannot be written ({})", path.display()))
}

/// Everything that was chosen, by flag or by default.
fn settings(options: &RunOptions, flags: Value) -> Map<String, Value> {
    let mut settings = Map::from_iter(flags.as_object().cloned().unwrap_or_default());
    settings.extend(cluster_settings(&options.cluster));
    let common = json!({
        "duration": format_duration_ns(options.duration_ns),
        "warmup": format_duration_ns(options.warmup_ns),
        "seed": options.seed,
        "clients": options.rate.is_none().then_some(options.clients),
        "rate": options.rate,
        "processes": options.in_processes(),
        "namespaces": options.namespaces,
        "nic": options.nic.to_string(),
        "launch": options.launch,
    });
    settings.extend(common.as_object().cloned().unwrap_or_default());
    settings
}

fn cluster_settings(cluster: &ClusterFlags) -> Map<String, Value> {
    let settings = json!({
        "shards": cluster.shards,
        "replicas": cluster.replicas,
        "partitions": cluster.partitions,
        "rtt": format_duration_ns(cluster.rtt_ns),
        "durability": cluster.durability.to_string(),
        "log": cluster.log_bytes,
    });
    settings.as_object().cloned().unwrap_or_default()
}

/// It was asked for correctly and did not work out.
const FAILED: u8 = 1;
