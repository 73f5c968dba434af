//! One node of a cluster file that pays, to be killed: a hidden command, run as a process of its own.
//!
//! It makes payments on whatever it leads and, once one is durable, appends a line about it to a file that
//! outlives it. Or it prints what a snapshot shows once that is recent enough, and pays only if told to. What must
//! hold between the two is for whoever kills it to say.
//!
//! Invariant: a line is written after the durable reply, whole, in one write. So a line is a promise made.
#![forbid(unsafe_code)]

use crate::layout::Layout;
use crate::ledger::{self, Payment, RECEIPTS_EACH, Receipts, Step, Total};
use crate::options::NodeOptions;
use anyhow::{Context, bail};
use mako::bounds::MS;
use mako::clock;
use mako::config::Config;
use mako::http::Listeners;
use mako::partition::{Driver, Mode, Submit};
use mako::server::{Cluster, News, Watch};
use mako::txn::Reply;
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
    let acks =
        OpenOptions::new().append(true).create(true).open(&options.acks).context("the file of acks")?;
    let (acks, audit) = (Arc::new(acks), options.audit.map(Timestamp));
    let pace = match options.clients {
        _ if audit.is_some() && !options.pays => Pace::Idle,
        Some(clients) => Pace::Closed(clients as usize),
        None => Pace::Slow,
    };
    let make =
        move |node: NodeId, core: CoreId| Teller::new(layout.clone(), acks.clone(), audit, pace, node, core);
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

/// The clients of one core, and its auditor.
struct Teller {
    layout: Layout,
    acks: Arc<File>,
    pace: Pace,
    rng: Prng,
    core: CoreId,
    /// The id of the next payment, and so its token; the first names node, core and start.
    next: u64,
    flights: BTreeMap<u64, Option<Payment>>,
    led: Vec<PartitionId>,
    acked: u64,
    audit: Option<Audit>,
    wake: Timestamp,
}

/// How far an audit has come.
struct Audit {
    /// The snapshot must have reached this.
    from: Timestamp,
    stage: Stage,
    runs: bool,
    procedure: Option<Step>,
}

#[derive(Clone, Copy)]
enum Stage {
    Total,
    Receipts(PartitionId, u64),
    Done,
}

impl Teller {
    fn new(
        layout: Layout,
        acks: Arc<File>,
        audit: Option<Timestamp>,
        pace: Pace,
        node: NodeId,
        core: CoreId,
    ) -> Teller {
        // Microseconds since a start long ago fit 48 bits, and no process makes a payment each.
        let first = (clock::now().0 / 1_000) << 16 | u64::from(node.0) << 8 | u64::from(core.0);
        Teller {
            layout,
            acks,
            pace,
            rng: Prng::with_seed(first),
            core,
            next: first,
            flights: BTreeMap::new(),
            led: Vec::new(),
            acked: 0,
            audit: audit.map(|from| Audit { from, stage: Stage::Total, runs: false, procedure: None }),
            wake: Timestamp::default(),
        }
    }

    fn pay(&mut self, core: &mut dyn Submit<Step>) {
        for home in core.led().to_vec() {
            if !self.led.contains(&home) {
                println!("leads {}", home.0);
            }
            if self.pace == Pace::Slow && self.flights.len() < FLIGHTS_MAX {
                self.begin(home, core);
            }
        }
        self.led = core.led().to_vec();
        if let Pace::Closed(clients) = self.pace {
            let (mut homes, most) = (self.led.clone().into_iter().cycle(), clients * self.led.len());
            while self.flights.len() < most && homes.next().is_some_and(|home| self.begin(home, core)) {}
        }
    }

    /// Whether there was room for it.
    fn begin(&mut self, home: PartitionId, core: &mut dyn Submit<Step>) -> bool {
        let id = self.next;
        let payment = Payment::draw(&self.layout, &mut self.rng, home, id);
        self.flights.insert(id, None);
        let taken = core.submit(home, Mode::ReadWrite, id, Step::Pay(payment)).is_ok();
        if taken {
            self.next += 1 << 16;
        } else {
            self.flights.remove(&id);
        }
        taken
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
                self.acked += 1;
                if self.acked == 1 {
                    println!("first");
                }
                if self.acked.is_multiple_of(ACKS_PER_LINE) {
                    println!("acked {}", self.acked);
                }
            }
            Reply::RolledBack | Reply::Aborted { .. } => {}
        }
    }
}

impl Audit {
    fn turn(&mut self, layout: &Layout, core: &mut dyn Submit<Step>) {
        if self.runs || core.snapshot() < self.from {
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
            Stage::Done => return,
        };
        self.runs = core.submit(core.hosted()[0], Mode::Snapshot, AUDIT, step).is_ok();
    }

    fn on_reply(&mut self, layout: &Layout, reply: Reply, procedure: Option<Step>) {
        let procedure = procedure.or(self.procedure.take());
        match reply {
            Reply::Speculative { .. } => self.procedure = procedure,
            Reply::Durable { .. } => {
                self.runs = false;
                self.stage = match procedure {
                    Some(Step::Total(total)) => {
                        println!("total {} of {}", total.sum.get(), total.expected());
                        Stage::Receipts(PartitionId(0), 0)
                    }
                    Some(Step::Receipts(receipts)) => next_receipts(layout, &receipts),
                    Some(Step::Pay(_)) | None => unreachable!("an audit only looks"),
                };
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
    if usize::from(next.0) < layout.partition_count() {
        return Stage::Receipts(next, 0);
    }
    println!("audited");
    Stage::Done
}

impl Driver for Teller {
    type Procedure = Step;

    fn turn(&mut self, now: Timestamp, core: &mut dyn Submit<Step>) {
        if now < self.wake {
            return;
        }
        self.wake = now.plus_ns(PAUSE_NS);
        self.pay(core);
        if let Some(audit) = self.audit.as_mut().filter(|_| self.core == CoreId(0)) {
            audit.turn(&self.layout, core);
        }
    }

    fn on_reply(&mut self, now: Timestamp, token: u64, reply: Reply, procedure: Option<Step>) {
        match (&mut self.audit, procedure) {
            (Some(audit), procedure) if token == AUDIT => audit.on_reply(&self.layout, reply, procedure),
            (_, Some(Step::Pay(payment))) => self.on_payment(token, reply, Some(payment)),
            (_, _) => self.on_payment(token, reply, None),
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
/// Between two looks for something to do.
const PAUSE_NS: u64 = MS;
const FLIGHTS_MAX: usize = 64;
const ACKS_PER_LINE: u64 = 50;
