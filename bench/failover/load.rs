//! The clients of one core: each counts up a key of one partition, again as soon as that is durable.
//!
//! They keep no histograms: what became durable when is the time line's. At the end the counters are added up.
#![forbid(unsafe_code)]

use super::timeline::Timeline;
use crate::layout::Layout;
use mako::bounds::MS;
use mako::clock;
use mako::partition::{Driver, Mode, Submit};
use mako::txn::{Abort, Procedure, Reply, Txn};
use mako::types::{NodeId, PartitionId, Prng, TableId, Timestamp};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What the cores and the steering thread share.
pub struct Run {
    pub layout: Layout,
    pub timeline: Timeline,
    /// Transactions in flight for each partition.
    pub clients: u32,
    /// Transactions that were ever begun.
    pub begun: AtomicU64,
    /// No client begins another.
    pub over: AtomicBool,
    /// The counters are to be added up.
    pub adds_up: AtomicBool,
    /// What they come to, and one; 0 before that is known.
    pub sum: AtomicU64,
}

pub struct Load {
    run: Arc<Run>,
    node: NodeId,
    rng: Prng,
    /// By partition.
    in_flight: Vec<u32>,
    adding: bool,
    sum: Option<Step>,
    wake: Timestamp,
}

impl Load {
    pub fn new(run: Arc<Run>, node: NodeId, seed: u64) -> Load {
        let in_flight = vec![0; run.layout.partition_count()];
        let wake = Timestamp::default();
        Load { run, node, rng: Prng::with_seed(seed), in_flight, adding: false, sum: None, wake }
    }

    fn begin(&mut self, core: &mut dyn Submit<Step>) {
        for home in core.led().to_vec() {
            let prefix = self.run.layout.prefix(home);
            let in_flight = &mut self.in_flight[usize::from(home.0)];
            while *in_flight < self.run.clients {
                let step = Step::Count(key(prefix, self.rng.u32(..KEYS)));
                // Before it begins: a core that dies here has begun it.
                self.run.begun.fetch_add(1, Ordering::Relaxed);
                if core.submit(home, Mode::ReadWrite, u64::from(home.0), step).is_err() {
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
        if self.run.adds_up.load(Ordering::Relaxed) {
            self.add_up(core);
        } else if !self.run.over.load(Ordering::Relaxed) {
            self.begin(core);
        }
    }

    fn on_reply(&mut self, _: Timestamp, token: u64, reply: Reply, step: Option<Step>) {
        if token == SUM {
            return self.on_sum(reply, step);
        }
        let home = PartitionId(u16::try_from(token).expect("a token of ours"));
        match reply {
            Reply::Speculative { .. } => return,
            Reply::Durable { .. } => {
                let shard = self.run.layout.shard(home);
                self.run.timeline.on_durable(shard, self.node, clock::now());
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
    Count(Key),
    /// Adds up the counters of all partitions.
    Sum {
        prefixes: Vec<u32>,
        sum: Cell<u64>,
    },
}

impl Procedure for Step {
    async fn run(&self, txn: &Txn) -> Result<(), Abort> {
        match self {
            Step::Count(key) => {
                let before = txn.get(TABLE, key).await?.map_or(0, |value| word(&value));
                txn.put(TABLE, key, &(before + 1).to_be_bytes())
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
    u64::from_be_bytes(value.try_into().expect("a counter has eight bytes"))
}

pub const TABLE: TableId = TableId(0);
/// Where the counters are added up.
const FIRST: PartitionId = PartitionId(0);
const SUM: u64 = u64::MAX;
/// Counters of a partition: few enough for one scan.
const KEYS: u32 = 1_000;
/// Who finds no room, or leads nothing, looks again after this.
const LOOK_NS: u64 = MS;
const _: () = assert!((KEYS as usize) < mako::bounds::SCAN_ROWS_MAX);
