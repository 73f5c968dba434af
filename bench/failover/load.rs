//! The clients of one core: each counts up a key of one partition, again as soon as that is durable.
//!
//! They keep no histograms: what became durable when is the time line's. At the end the counters are added up.
#![forbid(unsafe_code)]

use super::timeline::Timeline;
use crate::layout::Layout;
use crate::options::FailoverOptions;
use mako::bounds::{MS, US};
use mako::clock;
use mako::config::Config;
use mako::partition::{Driver, Mode, Submit};
use mako::txn::{Abort, Procedure, Reply, Txn};
use mako::types::{CoreId, NodeId, PartitionId, Prng, TableId, Timestamp};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What the cores and the steering thread share.
pub struct Run {
    pub layout: Layout,
    pub timeline: Timeline,
    /// Transactions in flight for each partition.
    pub clients: u32,
    /// Bytes of a counter.
    pub value_bytes: usize,
    /// By node and core: everything at or below it is applied there. 0 while the node is down.
    pub applied: Vec<Vec<AtomicU64>>,
    /// Transactions that were ever begun.
    pub begun: AtomicU64,
    /// No client begins another.
    pub over: AtomicBool,
    /// The counters are to be added up.
    pub adds_up: AtomicBool,
    /// What they come to, and one; 0 before that is known.
    pub sum: AtomicU64,
}

impl Run {
    pub fn new(options: &FailoverOptions, config: &Config, start: Timestamp) -> Run {
        let nodes = (0..).map(NodeId).take(config.nodes.len());
        let cores = |node| (0..config.cores(node)).map(|_| AtomicU64::new(0)).collect();
        Run {
            timeline: Timeline::new(start, config.shards.len()),
            layout: Layout::new(config, TABLE),
            clients: options.clients,
            value_bytes: options.value_size as usize,
            applied: nodes.map(cores).collect(),
            begun: AtomicU64::new(0),
            over: AtomicBool::new(false),
            adds_up: AtomicBool::new(false),
            sum: AtomicU64::new(0),
        }
    }

    /// What every core of a node has applied.
    pub fn applied(&self, node: NodeId) -> Timestamp {
        let cores = self.applied[usize::from(node.0)].iter();
        Timestamp(cores.map(|core| core.load(Ordering::Relaxed)).min().unwrap_or(0))
    }

    /// Whether it is the partition by which reigns of its shard are counted.
    fn counts_reigns(&self, partition: PartitionId) -> bool {
        let shard = |partition| self.layout.shard(PartitionId(partition));
        partition.0 == 0 || shard(partition.0 - 1) != shard(partition.0)
    }
}

pub struct Load {
    run: Arc<Run>,
    node: NodeId,
    core: CoreId,
    /// As of the last turn.
    led: Vec<PartitionId>,
    rng: Prng,
    /// By partition.
    in_flight: Vec<u32>,
    adding: bool,
    sum: Option<Step>,
    wake: Timestamp,
}

impl Load {
    pub fn new(run: Arc<Run>, node: NodeId, core: CoreId, seed: u64) -> Load {
        let (in_flight, rng) = (vec![0; run.layout.partition_count()], Prng::with_seed(seed));
        run.applied[usize::from(node.0)][usize::from(core.0)].store(0, Ordering::Relaxed);
        let wake = Timestamp::default();
        Load { run, node, core, led: Vec::new(), rng, in_flight, adding: false, sum: None, wake }
    }

    /// Tells what the steering thread cannot see by itself.
    fn tell(&mut self, now: Timestamp, core: &dyn Submit<Step>) {
        let applied = &self.run.applied[usize::from(self.node.0)][usize::from(self.core.0)];
        applied.store(core.applied().0, Ordering::Relaxed);
        if self.led == core.led() {
            return;
        }
        let begun = core.led().iter().filter(|partition| !self.led.contains(partition));
        for partition in begun.filter(|partition| self.run.counts_reigns(**partition)) {
            self.run.timeline.on_reign(self.run.layout.shard(*partition), now);
        }
        self.led = core.led().to_vec();
    }

    fn begin(&mut self, now: Timestamp, core: &mut dyn Submit<Step>) {
        for home in self.led.iter().copied() {
            let prefix = self.run.layout.prefix(home);
            let in_flight = &mut self.in_flight[usize::from(home.0)];
            while *in_flight < self.run.clients {
                let step = Step::Count(key(prefix, self.rng.u32(..KEYS)), self.run.value_bytes);
                // Before it begins: a core that dies here has begun it.
                self.run.begun.fetch_add(1, Ordering::Relaxed);
                if core.submit(home, Mode::ReadWrite, token(home, now), step).is_err() {
                    break;
                }
                *in_flight += 1;
            }
        }
    }

    /// At leaders, so that replicas that lag do not matter.
    fn add_up(&mut self, core: &mut dyn Submit<Step>) {
        if self.adding || self.run.sum.load(Ordering::Relaxed) > 0 || !core.led().contains(&FIRST) {
            return;
        }
        let layout = &self.run.layout;
        let prefixes = layout.partitions().map(|partition| layout.prefix(partition)).collect();
        let step = Step::Sum { prefixes, sum: Cell::default() };
        self.adding = core.submit(FIRST, Mode::ReadWrite, SUM, step).is_ok();
    }

    fn on_sum(&mut self, reply: Reply, step: Option<Step>) {
        let step = step.or(self.sum.take());
        match (reply, step) {
            (Reply::Speculative { .. }, step) => self.sum = step,
            (Reply::Durable { .. }, Some(Step::Sum { sum, .. })) => {
                self.run.sum.store(sum.get() + 1, Ordering::Relaxed);
            }
            _ => self.adding = false,
        }
    }
}

impl Driver for Load {
    type Procedure = Step;

    fn turn(&mut self, now: Timestamp, core: &mut dyn Submit<Step>) {
        self.wake = now.plus_ns(LOOK_NS);
        self.tell(now, core);
        if self.run.adds_up.load(Ordering::Relaxed) {
            self.add_up(core);
        } else if !self.run.over.load(Ordering::Relaxed) {
            self.begin(now, core);
        }
    }

    fn on_reply(&mut self, _: Timestamp, token: u64, reply: Reply, step: Option<Step>) {
        if token == SUM {
            return self.on_sum(reply, step);
        }
        let (home, begun) = begun(token);
        match reply {
            Reply::Speculative { .. } => return,
            Reply::Durable { .. } => {
                let shard = self.run.layout.shard(home);
                self.run.timeline.on_durable(shard, self.node, begun, clock::now());
            }
            Reply::RolledBack | Reply::Aborted { .. } => {}
        }
        self.in_flight[usize::from(home.0)] -= 1;
    }

    fn deadline(&self) -> Option<Timestamp> {
        Some(self.wake)
    }
}

pub enum Step {
    /// Counts up a key, whose value has so many bytes.
    Count(Key, usize),
    /// Adds up the counters of all partitions.
    Sum { prefixes: Vec<u32>, sum: Cell<u64> },
}

impl Procedure for Step {
    async fn run(&self, txn: &Txn) -> Result<(), Abort> {
        match self {
            Step::Count(key, bytes) => {
                let before = txn.get(TABLE, key).await?.map_or(0, |value| word(&value));
                let mut value = [0; VALUE_BYTES_MAX];
                value[..WORD_BYTES].copy_from_slice(&(before + 1).to_be_bytes());
                txn.put(TABLE, key, &value[..*bytes])
            }
            Step::Sum { prefixes, sum } => {
                let mut all = 0;
                for prefix in prefixes {
                    let (from, to) = (key(*prefix, 0), key(*prefix, KEYS));
                    let rows = txn.scan(TABLE, &from, Some(&to), KEYS as usize).await?;
                    all += rows.iter().map(|(_, value)| word(value)).sum::<u64>();
                }
                sum.set(all);
                Ok(())
            }
        }
    }
}

/// The prefix that routes it, and its number.
type Key = [u8; 8];

fn key(prefix: u32, number: u32) -> Key {
    (u64::from(prefix) << 32 | u64::from(number)).to_be_bytes()
}

fn word(value: &[u8]) -> u64 {
    u64::from_be_bytes(value[..WORD_BYTES].try_into().expect("a counter has eight bytes"))
}

/// Where and when a transaction was begun, to the microsecond: its token.
fn token(home: PartitionId, begun: Timestamp) -> u64 {
    (u64::from(home.0) << TOKEN_TIME_BITS) | (begun.0 / US)
}

fn begun(token: u64) -> (PartitionId, Timestamp) {
    let home = u16::try_from(token >> TOKEN_TIME_BITS).expect("partitions are few");
    (PartitionId(home), Timestamp(token % (1 << TOKEN_TIME_BITS) * US))
}

pub const TABLE: TableId = TableId(0);
/// Where the counters are added up.
const FIRST: PartitionId = PartitionId(0);
const SUM: u64 = u64::MAX;
/// Microseconds since 1970 fit until 2112.
const TOKEN_TIME_BITS: u32 = 52;
const WORD_BYTES: usize = 8;
/// Counters of a partition: few enough for one scan.
const KEYS: u32 = 1_000;
pub const VALUE_BYTES_MAX: usize = 4_000;
/// Who finds no room, or leads nothing, looks again after this.
const LOOK_NS: u64 = MS;
const _: () = assert!(mako::bounds::PARTITIONS_MAX < 1 << (64 - TOKEN_TIME_BITS));
const _: () = assert!((KEYS as usize) < mako::bounds::SCAN_ROWS_MAX);
const _: () = assert!(KEYS as usize * (VALUE_BYTES_MAX + 64) < mako::bounds::SCAN_BYTES_MAX);
