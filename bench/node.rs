//! One node of a cluster file that pays, to be killed: a hidden command, run as a process of its own.
//!
//! It makes payments on whatever it leads and, once one is durable, appends a line about it to a file that
//! outlives it. With a history it reads and writes registers beside them, and audits the total all the while. Or it
//! prints what a snapshot shows once that is recent enough, and pays only if told to. What must hold between all of
//! them is for whoever kills it to say.
//!
//! Invariant: a line is written after the durable reply, whole, in one write. So a line is a promise made.
#![forbid(unsafe_code)]

use crate::layout::Layout;
use crate::ledger::{self, Payment, RECEIPTS_EACH, Receipts, Step, Total};
use crate::options::NodeOptions;
use crate::registers::{Registers, Work};
use anyhow::{Context, bail};
use mako::bounds::MS;
use mako::clock;
use mako::config::Config;
use mako::http::Listeners;
use mako::partition::{Driver, Mode, Submit};
use mako::server::{Cluster, News, Watch};
use mako::txn::{Abort, Procedure, Reply, Txn};
use mako::types::{CoreId, NodeId, PartitionId, Prng, Timestamp};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::Arc;

/// Runs until it is told to stop, or killed.
pub fn run(options: &NodeOptions) -> anyhow::Result<()> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let config = Config::load(&options.config, cpus)?;
    let Some(id) = config.node(&options.node) else { bail!("no node {} in the cluster file", options.node) };
    let layout = Layout::new(&config, ledger::TABLE);
    let append = |path| OpenOptions::new().append(true).create(true).open(path).map(Arc::new);
    let acks = append(&options.acks).context("the file of acks")?;
    let history = options.history.as_ref().map(append).transpose().context("the file of the history")?;
    let audit = options.audit.map(Timestamp);
    let pace = match options.clients {
        _ if audit.is_some() && !options.pays => Pace::Idle,
        Some(clients) => Pace::Closed(clients as usize),
        None => Pace::Slow,
    };
    let make = move |node: NodeId, core: CoreId| {
        let files = (acks.clone(), history.clone());
        Teller::new(layout.clone(), files, audit, pace, node, core)
    };
    // Before anything starts, as a real node does.
    let (listeners, described) = (Listeners::bind(&config, &[id])?, config.clone());
    let start = if options.rebuild { Cluster::rebuild_nodes } else { Cluster::start_nodes };
    let mut cluster = start(config, &[id], Watch::default(), make)?;
    let gateway = listeners.serve(&described, cluster.controls())?;
    for notice in cluster.notices() {
        eprintln!("note: {notice}");
    }
    if cluster.wait_until_voting()?.is_ok() {
        println!("ready");
        while cluster.wait() == News::Running {}
    }
    drop(gateway);
    cluster.stop()?;
    Ok(())
}

/// How fast payments are made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// Not at all.
    Idle,
    /// One in a while for each partition: the log of a test is to stay small.
    Slow,
    /// So many are under way at any time.
    Closed(usize),
}

/// Every procedure of a node.
pub enum Task {
    Ledger(Step),
    Registers(Work),
}

impl Procedure for Task {
    async fn run(&self, txn: &Txn) -> Result<(), Abort> {
        match self {
            Task::Ledger(step) => step.run(txn).await,
            Task::Registers(work) => work.run(txn).await,
        }
    }
}

impl From<Work> for Task {
    fn from(work: Work) -> Task {
        Task::Registers(work)
    }
}

/// Numbers that no other core and no other process takes.
pub struct Numbers {
    next: u64,
}

impl Numbers {
    /// Of one core of one start.
    fn new(node: NodeId, core: CoreId) -> Numbers {
        // Microseconds since a start long ago fit 48 bits, and no process takes a number each.
        Numbers::starting_at((clock::now().0 / 1_000) << 16 | u64::from(node.0) << 8 | u64::from(core.0))
    }

    pub fn starting_at(next: u64) -> Numbers {
        Numbers { next }
    }

    pub fn take(&mut self) -> u64 {
        self.next += 1 << 16;
        self.next - (1 << 16)
    }
}

/// The clients of one core, and its auditor.
struct Teller {
    layout: Layout,
    acks: Arc<File>,
    pace: Pace,
    rng: Prng,
    core: CoreId,
    /// The ids of payments, and so their tokens.
    numbers: Numbers,
    flights: BTreeMap<u64, Option<Payment>>,
    registers: Option<Registers>,
    /// By partition: how many of its payments are durable.
    acked: BTreeMap<PartitionId, u64>,
    audit: Option<Audit>,
    wake: Timestamp,
}

/// How far an audit has come.
struct Audit {
    /// The snapshot must have reached this.
    from: Timestamp,
    /// Of everything, once; else of the total, again and again.
    whole: bool,
    stage: Stage,
    runs: bool,
    rests_until: Timestamp,
    procedure: Option<Step>,
}

#[derive(Clone, Copy)]
enum Stage {
    Total,
    Receipts(PartitionId, u64),
    Registers,
    Done,
}

impl Teller {
    fn new(
        layout: Layout,
        (acks, history): (Arc<File>, Option<Arc<File>>),
        audit: Option<Timestamp>,
        pace: Pace,
        node: NodeId,
        core: CoreId,
    ) -> Teller {
        let mut numbers = Numbers::new(node, core);
        let seed = numbers.take();
        let client = u32::from(node.0);
        let registers = history.map(|history| Registers::new(layout.clone(), history, client, seed));
        let audit = match audit {
            Some(from) => Some(Audit::new(from, true)),
            None => registers.as_ref().map(|_| Audit::new(Timestamp(1), false)),
        };
        Teller {
            layout,
            acks,
            pace,
            rng: Prng::with_seed(seed),
            core,
            numbers,
            flights: BTreeMap::new(),
            registers,
            acked: BTreeMap::new(),
            audit,
            wake: Timestamp::default(),
        }
    }

    fn pay(&mut self, now: Timestamp, core: &mut dyn Submit<Task>) {
        for home in core.led().to_vec() {
            if self.pace == Pace::Slow && self.flights.len() < FLIGHTS_MAX {
                self.begin(home, core);
            }
        }
        if let Some(registers) = self.registers.as_mut().filter(|_| self.pace != Pace::Idle) {
            registers.turn(now, &mut self.numbers, core);
        }
        if let Pace::Closed(clients) = self.pace {
            let led = core.led().to_vec();
            let (most, mut homes) = (clients * led.len(), led.into_iter().cycle());
            while self.flights.len() < most && homes.next().is_some_and(|home| self.begin(home, core)) {}
        }
    }

    /// Whether there was room for it.
    fn begin(&mut self, home: PartitionId, core: &mut dyn Submit<Task>) -> bool {
        let id = self.numbers.take();
        let payment = Payment::draw(&self.layout, &mut self.rng, home, id);
        self.flights.insert(id, None);
        let taken = core.submit(home, Mode::ReadWrite, id, Task::Ledger(Step::Pay(payment))).is_ok();
        if !taken {
            self.flights.remove(&id);
        }
        taken
    }

    fn audit(&mut self, now: Timestamp, core: &mut dyn Submit<Task>) {
        let Some(audit) = self.audit.as_mut().filter(|_| self.core == CoreId(0)) else { return };
        if let Some(registers) = &mut self.registers {
            registers.look(now, audit.from, &mut self.numbers, core);
        }
        audit.turn(now, &self.layout, core);
        if let Stage::Registers = audit.stage
            && self.registers.as_ref().is_none_or(|registers| registers.looks > 0)
        {
            println!("audited");
            audit.stage = Stage::Done;
        }
    }

    fn on_payment(&mut self, id: u64, reply: Reply, payment: Option<Payment>) {
        let known = self.flights.remove(&id).expect("a payment under way");
        match reply {
            Reply::Speculative { .. } => drop(self.flights.insert(id, payment)),
            Reply::Durable { timestamp } => {
                let payment = known.expect("it was speculative before");
                let (partition, number) = (payment.home, payment.number.get());
                let line = format!("{} {number} {id} {}\n", partition.0, timestamp.0);
                (&*self.acks).write_all(line.as_bytes()).expect("the file of acks takes a line");
                if self.acked.is_empty() {
                    println!("first");
                }
                let acked = self.acked.entry(partition).or_default();
                *acked += 1;
                if acked.is_multiple_of(ACKS_PER_LINE) {
                    println!("acked {} {acked}", partition.0);
                }
            }
            Reply::RolledBack | Reply::Aborted { .. } => {}
        }
    }
}

impl Audit {
    fn new(from: Timestamp, whole: bool) -> Audit {
        let rests_until = Timestamp::default();
        Audit { from, whole, stage: Stage::Total, runs: false, rests_until, procedure: None }
    }

    fn turn(&mut self, now: Timestamp, layout: &Layout, core: &mut dyn Submit<Task>) {
        if self.runs || now < self.rests_until || core.snapshot() < self.from {
            return;
        }
        let prefix = |partition| layout.prefix(partition);
        let step = match self.stage {
            Stage::Total => {
                let prefixes = layout.partitions().map(prefix).collect();
                Step::Total(Total { prefixes, sum: Cell::default() })
            }
            Stage::Receipts(partition, from) => {
                let seen = RefCell::default();
                Step::Receipts(Receipts { partition, prefix: prefix(partition), from, seen })
            }
            Stage::Registers | Stage::Done => return,
        };
        self.runs = core.submit(core.hosted()[0], Mode::Snapshot, AUDIT, Task::Ledger(step)).is_ok();
    }

    fn on_reply(&mut self, now: Timestamp, layout: &Layout, reply: Reply, procedure: Option<Step>) {
        let procedure = procedure.or(self.procedure.take());
        match reply {
            Reply::Speculative { .. } => self.procedure = procedure,
            Reply::Durable { .. } => {
                self.runs = false;
                self.stage = match procedure {
                    Some(Step::Total(total)) => {
                        println!("total {} of {}", total.sum.get(), total.expected());
                        if self.whole { Stage::Receipts(PartitionId(0), 0) } else { Stage::Total }
                    }
                    Some(Step::Receipts(receipts)) => next_receipts(layout, &receipts),
                    Some(Step::Pay(_)) | None => unreachable!("an audit only looks"),
                };
                self.rests_until = if self.whole { now } else { now.plus_ns(REST_NS) };
            }
            // The snapshot is not here yet, or too old already: again.
            Reply::RolledBack | Reply::Aborted { .. } => self.runs = false,
        }
    }
}

/// Prints some receipts; which come next.
fn next_receipts(layout: &Layout, receipts: &Receipts) -> Stage {
    let (text, count) = receipts.seen.take();
    print!("{text}");
    if count == RECEIPTS_EACH {
        return Stage::Receipts(receipts.partition, receipts.from.max(1) + RECEIPTS_EACH as u64);
    }
    let next = PartitionId(receipts.partition.0 + 1);
    if usize::from(next.0) < layout.partition_count() { Stage::Receipts(next, 0) } else { Stage::Registers }
}

impl Driver for Teller {
    type Procedure = Task;

    fn turn(&mut self, now: Timestamp, core: &mut dyn Submit<Task>) {
        if now < self.wake {
            return;
        }
        self.wake = now.plus_ns(PAUSE_NS);
        self.pay(now, core);
        self.audit(now, core);
    }

    fn on_reply(&mut self, now: Timestamp, token: u64, reply: Reply, procedure: Option<Task>) {
        let (step, work) = match procedure {
            Some(Task::Ledger(step)) => (Some(step), None),
            Some(Task::Registers(work)) => (None, Some(work)),
            None => (None, None),
        };
        match (&mut self.audit, &mut self.registers) {
            (Some(audit), _) if token == AUDIT => audit.on_reply(now, &self.layout, reply, step),
            (_, Some(registers)) if registers.owns(token) => registers.on_reply(token, reply, work),
            _ => {
                let payment = step.map(|step| match step {
                    Step::Pay(payment) => payment,
                    Step::Total(_) | Step::Receipts(_) => unreachable!("an audit has a token of its own"),
                });
                self.on_payment(token, reply, payment);
            }
        }
        if let Pace::Closed(_) = self.pace {
            self.wake = now;
        }
    }

    fn deadline(&self) -> Option<Timestamp> {
        Some(self.wake)
    }
}

/// The token of whatever an auditor asks; payments have times in theirs.
const AUDIT: u64 = 0;
/// From one audit of the total to the next.
const REST_NS: u64 = 20 * MS;
/// Between two looks for something to do.
const PAUSE_NS: u64 = MS;
const FLIGHTS_MAX: usize = 64;
const ACKS_PER_LINE: u64 = 50;
