//! Fills one partition, stops its node, and starts it again: how long until it serves, and where the time goes.
//!
//! The cluster is that of the flags, by default one node. A start is taken apart by reading the checkpoint twice
//! more, alone: once to see that it is sound, once with the state made of it. What remains is the log, and a
//! leader that has to be found.
#![forbid(unsafe_code)]

use crate::failover::{Size, Told, VALUE_BYTES_MAX, Verdicts, checks_json, checks_page, mebibytes, ms};
use crate::layout::Layout;
use crate::machine::Machine;
use crate::options::RestartOptions;
use crate::runner::progress;
use anyhow::{Context, bail};
use mako::bounds::{MS, SCAN_BYTES_MAX, SCAN_ROWS_MAX, SECOND, TXN_BYTES_MAX};
use mako::clock;
use mako::config::{Config, Table};
use mako::disk::{CoreDirectory, FileCheckpoints};
use mako::partition::{Driver, Mode, Recovery, Submit};
use mako::server::Cluster;
use mako::txn::{Abort, Procedure, Reply, Txn};
use mako::types::{NodeId, PartitionId, TableId, Timestamp};
use mako::wal::LogIdentity;
use serde_json::{Value, json};
use std::cell::Cell;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

pub fn tables() -> Vec<Table> {
    vec![Layout::by_integer("rows")]
}

pub const TABLE: TableId = TableId(0);

pub fn run(
    options: &RestartOptions,
    config: Config,
    settings: Value,
    interrupted: &AtomicBool,
) -> anyhow::Result<Told> {
    let row_bytes = (KEY_BYTES + options.value_size as usize) as u64;
    let shared = Arc::new(Shared {
        prefix: Layout::new(&config, TABLE).prefix(HOME),
        rows: (options.size_bytes / row_bytes).clamp(1, u64::from(u32::MAX)),
        value_bytes: options.value_size as usize,
        ..Shared::default()
    });
    let steering = Steering { shared: &shared, interrupted };

    let begun = clock::now();
    let cluster = start(&config, &shared)?;
    steering.fill()?;
    steering.settle(&config)?;
    let filled_ns = clock::now().since(begun);
    cluster.stop()?;
    let size = Size::of(&config.nodes[0].data);
    let (read_ns, build_ns) = read_checkpoint(&config)?;

    shared.work.store(SERVE, Ordering::Relaxed);
    let begun = clock::now();
    let cluster = start(&config, &shared)?;
    let recovered_ns = clock::now().since(begun);
    steering.wait("start again", || shared.served.load(Ordering::Relaxed) > 0)?;
    let ready_ns = clock::now().since(begun);
    let notices = cluster.notices().to_vec();
    shared.work.store(COUNT, Ordering::Relaxed);
    steering.wait("count", || shared.counted.load(Ordering::Relaxed) > 0)?;
    cluster.stop()?;

    let found = shared.counted.load(Ordering::Relaxed) - 1;
    let gibibytes = (size.checkpoints as f64 / (1_u64 << 30) as f64).max(1.0);
    let most_ns = (READY_NS_MAX as f64 * gibibytes) as u64;
    let (rows, late) = (shared.rows, format!("it took {}, above {}", ms(ready_ns), ms(most_ns)));
    let lost = format!("{found} rows of {rows} are as they were written");
    let verdicts = Verdicts::from([
        ("ready", (ready_ns > most_ns).then_some(late)),
        ("rows", (found != rows).then_some(lost)),
    ]);
    let times = [
        ("ready", ready_ns),
        ("recovered", recovered_ns),
        ("read_checkpoint", read_ns),
        ("build_from_checkpoint", build_ns.saturating_sub(read_ns)),
        ("replay_log_and_rest", recovered_ns.saturating_sub(build_ns)),
        ("open", ready_ns.saturating_sub(recovered_ns)),
    ];
    let mut page = format!(
        "restart: {rows} rows, {} of checkpoints and {} of logs, filled in {}\n",
        mebibytes(size.checkpoints),
        mebibytes(size.logs),
        ms(filled_ns)
    );
    notices.iter().for_each(|notice| page += &format!("  {notice}\n"));
    times.iter().for_each(|(name, ns)| page += &format!("  {:<22} {}\n", name.replace('_', " "), ms(*ns)));
    page += &checks_page(&verdicts);
    let times: serde_json::Map<String, Value> =
        times.iter().map(|(name, ns)| (format!("{name}_ms"), json!(*ns as f64 / MS as f64))).collect();
    let json = json!({
        "bench": "restart",
        "version": 1,
        "config": settings,
        "machine": Machine::read(),
        "rows": rows,
        "checkpoint_bytes": size.checkpoints,
        "log_bytes": size.logs,
        "times": times,
        "checks": checks_json(&verdicts),
    });
    Ok(Told { json, page, holds: verdicts.values().all(Option::is_none) })
}

fn start(config: &Config, shared: &Arc<Shared>) -> anyhow::Result<Cluster<Filler>> {
    let shared = shared.clone();
    Ok(Cluster::start(config.clone(), move |_, _| Filler::new(shared.clone()))?)
}

/// Reading the checkpoint of the partition alone, and with its state made of it.
fn read_checkpoint(config: &Config) -> anyhow::Result<(u64, u64)> {
    let core = config.core_of(NodeId(0), HOME).context("node 0 hosts the partition")?;
    let directory = core_directory(config)?;
    let directory = CoreDirectory::lock(&directory)?;
    let cluster = LogIdentity::new(&config.name, NodeId(0), core).cluster;
    let begun = clock::now();
    FileCheckpoints::load(&directory, cluster, HOME, &mut |_| {})?;
    let read_ns = clock::now().since(begun);
    let begun = clock::now();
    let mut recovery = Recovery::nothing();
    FileCheckpoints::load(&directory, cluster, HOME, &mut |piece| recovery.on_checkpoint(config, piece))?;
    Ok((read_ns, clock::now().since(begun)))
}

/// Where node 0 keeps the partition.
fn core_directory(config: &Config) -> anyhow::Result<PathBuf> {
    let core = config.core_of(NodeId(0), HOME).context("node 0 hosts the partition")?;
    Ok(config.nodes[0].data.join(format!("core-{}", core.0)))
}

/// What the cores and the steering thread share.
#[derive(Default)]
struct Shared {
    prefix: u32,
    rows: u64,
    value_bytes: usize,
    /// What is to be done: `FILL`, `SERVE` or `COUNT`.
    work: AtomicU8,
    /// Rows whose writing was begun, and rows that are durable.
    begun: AtomicU64,
    durable: AtomicU64,
    /// Transactions that became durable after the restart.
    served: AtomicU64,
    /// Rows found, and one; 0 before that is known.
    counted: AtomicU64,
}

struct Steering<'a> {
    shared: &'a Shared,
    interrupted: &'a AtomicBool,
}

impl Steering<'_> {
    fn fill(&self) -> anyhow::Result<()> {
        let bar = progress("fill", self.shared.rows);
        let mut before = (0, clock::now());
        loop {
            let durable = self.shared.durable.load(Ordering::Relaxed);
            bar.set_position(durable);
            if durable >= self.shared.rows {
                bar.finish_and_clear();
                return Ok(());
            }
            if durable > before.0 {
                before = (durable, clock::now());
            }
            if clock::now().since(before.1) > PATIENCE_NS {
                bail!(
                    "the partition is not filled (row {durable}): nothing became durable for {}",
                    ms(PATIENCE_NS)
                );
            }
            self.pause()?;
        }
    }

    /// Until there is a checkpoint of every row, or nothing more seems to come of it: none may be due.
    fn settle(&self, config: &Config) -> anyhow::Result<()> {
        let node = &config.nodes[0];
        let (mut before, mut since) = (Size::of(&node.data), clock::now());
        let begun = since;
        while clock::now().since(since) < SETTLED_NS && clock::now().since(begun) < PATIENCE_NS {
            let checkpoint = core_directory(config)?.join(format!("{:05}.checkpoint", HOME.0));
            let bytes = fs::metadata(checkpoint).map_or(0, |checkpoint| checkpoint.len());
            if bytes > self.shared.rows * (KEY_BYTES + self.shared.value_bytes) as u64 {
                return Ok(());
            }
            let size = Size::of(&node.data);
            if size != before {
                (before, since) = (size, clock::now());
            }
            self.pause()?;
        }
        Ok(())
    }

    fn wait(&self, what: &str, is_so: impl Fn() -> bool) -> anyhow::Result<()> {
        let begun = clock::now();
        while !is_so() {
            if clock::now().since(begun) > 10 * PATIENCE_NS {
                bail!("the partition does not serve ({what}): nothing for {}", ms(10 * PATIENCE_NS));
            }
            self.pause()?;
        }
        Ok(())
    }

    fn pause(&self) -> anyhow::Result<()> {
        if self.interrupted.load(Ordering::Relaxed) {
            bail!("the run was interrupted (signal): nothing is reported");
        }
        thread::park_timeout(Duration::from_nanos(LOOK_NS));
        Ok(())
    }
}

/// Writes rows or counts them, at the leader of the partition.
struct Filler {
    shared: Arc<Shared>,
    /// First rows of parts that are to be written again.
    failed: Vec<u64>,
    in_flight: usize,
    counting: bool,
    kept: Option<Step>,
    /// Rows found so far, and from where to go on; `None` when that was all.
    seen: (u64, Option<u64>),
    wake: Timestamp,
}

enum Step {
    Put(Part),
    /// Adds what it finds as it was written to the count, and notes where to go on.
    Count(Part, Cell<(u64, Option<u64>)>),
}

/// Rows of the partition.
#[derive(Clone, Copy)]
struct Part {
    prefix: u32,
    from: u64,
    /// The first behind them.
    to: u64,
    value_bytes: usize,
}

impl Filler {
    fn new(shared: Arc<Shared>) -> Filler {
        let (failed, wake) = (Vec::new(), Timestamp::default());
        Filler { shared, failed, in_flight: 0, counting: false, kept: None, seen: (0, Some(0)), wake }
    }

    fn part(&self, from: u64, rows: u64) -> Part {
        let Shared { prefix, value_bytes, rows: all, .. } = *self.shared;
        Part { prefix, from, to: (from + rows).min(all), value_bytes }
    }

    fn fill(&mut self, core: &mut dyn Submit<Step>) {
        while self.in_flight < IN_FLIGHT_MAX {
            let again = self.failed.pop();
            let from = again.unwrap_or_else(|| self.shared.begun.load(Ordering::Relaxed));
            if from >= self.shared.rows {
                return;
            }
            let part = self.part(from, ROWS_EACH);
            if core.submit(HOME, Mode::ReadWrite, from, Step::Put(part)).is_err() {
                self.failed.extend(again);
                return;
            }
            if again.is_none() {
                self.shared.begun.store(part.to, Ordering::Relaxed);
            }
            self.in_flight += 1;
        }
    }

    /// One write that must become durable: of the first rows, as they are.
    fn serve(&mut self, core: &mut dyn Submit<Step>) {
        let part = self.part(0, ROWS_EACH);
        let waits = self.in_flight > 0 || self.shared.served.load(Ordering::Relaxed) > 0;
        if !waits && core.submit(HOME, Mode::ReadWrite, 0, Step::Put(part)).is_ok() {
            self.in_flight += 1;
        }
    }

    fn count(&mut self, from: u64, found: u64, core: &mut dyn Submit<Step>) {
        let step = Step::Count(self.part(from, self.shared.rows), Cell::new((found, None)));
        self.counting = core.submit(HOME, Mode::Snapshot, COUNTING, step).is_ok();
    }

    fn on_put(&mut self, from: u64, reply: &Reply) {
        match reply {
            Reply::Speculative { .. } => return,
            Reply::Durable { .. } => {
                let Part { from, to, .. } = self.part(from, ROWS_EACH);
                let serves = self.shared.work.load(Ordering::Relaxed) == SERVE;
                let count = if serves { &self.shared.served } else { &self.shared.durable };
                count.fetch_add(to - from, Ordering::Relaxed);
            }
            Reply::RolledBack | Reply::Aborted { .. } => self.failed.push(from),
        }
        self.in_flight -= 1;
    }

    fn on_count(&mut self, reply: &Reply, step: Option<Step>) {
        let step = step.or(self.kept.take());
        match (reply, step) {
            (Reply::Speculative { .. }, step) => self.kept = step,
            (Reply::Durable { .. }, Some(Step::Count(_, seen))) => {
                self.counting = false;
                self.seen = seen.get();
            }
            _ => self.counting = false,
        }
    }
}

impl Driver for Filler {
    type Procedure = Step;

    fn turn(&mut self, now: Timestamp, core: &mut dyn Submit<Step>) {
        self.wake = now.plus_ns(MS);
        if !core.led().contains(&HOME) {
            return;
        }
        match self.shared.work.load(Ordering::Relaxed) {
            FILL => self.fill(core),
            SERVE => self.serve(core),
            _ if self.counting => {}
            _ => match self.seen {
                (found, Some(next)) => self.count(next, found, core),
                (found, None) => self.shared.counted.store(found + 1, Ordering::Relaxed),
            },
        }
    }

    fn on_reply(&mut self, _: Timestamp, token: u64, reply: Reply, step: Option<Step>) {
        match token {
            COUNTING => self.on_count(&reply, step),
            from => self.on_put(from, &reply),
        }
    }

    fn deadline(&self) -> Option<Timestamp> {
        Some(self.wake)
    }
}

impl Procedure for Step {
    async fn run(&self, txn: &Txn) -> Result<(), Abort> {
        match self {
            Step::Put(part) => (part.from..part.to)
                .try_for_each(|row| txn.put(TABLE, &key(part.prefix, row), &value(row)[..part.value_bytes])),
            Step::Count(part, seen) => {
                let (from, to) = (key(part.prefix, part.from), key(part.prefix, part.to));
                let rows = txn.scan(TABLE, &from, Some(&to), SCAN_ROWS).await?;
                let is_sound = |(key, found): &(&[u8], &mako::types::Value)| {
                    value(row_of(key)).starts_with(found) && found.len() == part.value_bytes
                };
                let sound = rows.iter().filter(is_sound).count() as u64;
                let last = rows.iter().last().filter(|_| rows.len() == SCAN_ROWS);
                seen.set((seen.get().0 + sound, last.map(|(key, _)| row_of(key) + 1)));
                Ok(())
            }
        }
    }
}

/// In an order of their own, as rows of most tables are written.
fn key(prefix: u32, row: u64) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    key[..4].copy_from_slice(&prefix.to_be_bytes());
    key[4..].copy_from_slice(&row.to_be_bytes());
    key
}

fn row_of(key: &[u8]) -> u64 {
    u64::from_be_bytes(key[4..].try_into().expect("a key has twelve bytes"))
}

/// Told by the row alone, and unlike that of any other.
fn value(row: u64) -> [u8; VALUE_BYTES_MAX] {
    let mut value = [0; VALUE_BYTES_MAX];
    for word in value.chunks_exact_mut(8) {
        word.copy_from_slice(&row.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    }
    value
}

const HOME: PartitionId = PartitionId(0);
const KEY_BYTES: usize = 12;
const FILL: u8 = 0;
const SERVE: u8 = 1;
const COUNT: u8 = 2;
/// The token of a count; those of writes are their first rows.
const COUNTING: u64 = u64::MAX;
/// Rows of one transaction: the largest fit it.
const ROWS_EACH: u64 = 200;
const IN_FLIGHT_MAX: usize = 16;
/// Rows of one scan: the largest fit it.
const SCAN_ROWS: usize = 1_000;
/// When a start is too slow; for each GiB of its checkpoint, beyond the first.
const READY_NS_MAX: u64 = 10 * SECOND;
const LOOK_NS: u64 = MS;
const PATIENCE_NS: u64 = 60 * SECOND;
/// When no file has changed its size for so long, nothing is under way.
const SETTLED_NS: u64 = 3 * SECOND;
const _: () = assert!(SCAN_ROWS < SCAN_ROWS_MAX && VALUE_BYTES_MAX.is_multiple_of(8));
const _: () = assert!(SCAN_ROWS * (VALUE_BYTES_MAX + 64) < SCAN_BYTES_MAX);
const _: () = assert!(ROWS_EACH as usize * (VALUE_BYTES_MAX + 64) < TXN_BYTES_MAX);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{self, Place};
    use crate::options::{Bench, Options};
    use clap::Parser;
    use mako::bounds::{KIB, LOG_BYTES_MIN};
    use mako::config::Durability;

    /// The bench itself must not rot: what was written is there after the restart, and from a checkpoint.
    #[test]
    fn a_partition_that_was_stopped_comes_back_with_every_row() {
        let line = "mako-bench restart --size 4MiB --value-size 1000";
        let Bench::Restart(options) = Options::parse_from(line.split(' ')).bench else { panic!("restart") };
        let Place { mut config, data: _data } = fixture::place(1, 1, 1, tables());
        (config.durability, config.log_bytes) = (Durability::QuorumDisk, LOG_BYTES_MIN);
        let told = run(&options, config, Value::Null, &AtomicBool::new(false)).unwrap();
        assert_eq!(told.json["checks"]["rows"], json!("ok"), "{}", told.page);
        assert!(told.json["checkpoint_bytes"].as_u64().unwrap() > 4_000 * KIB as u64, "{}", told.page);
    }
}
