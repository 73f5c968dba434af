//! What the tests of the bench share: a cluster that runs one procedure at a time, a core that only listens, and
//! a workload that only counts.
//!
//! The cluster is the real one, of one replica in memory: a procedure is tested against the engine it is for.
#![forbid(unsafe_code)]

use crate::workload::{Drawn, Inspection, Verdicts, Workload};
use mako::bounds::MS;
use mako::config::{Config, Durability, LocalCluster, Table};
use mako::partition::{Driver, Mode, Submit};
use mako::server::Cluster;
use mako::txn::{Abort, Procedure, Reply, Txn};
use mako::types::{PartitionId, TableId, Timestamp};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use tempfile::TempDir;

/// A cluster on ports that no other cluster of this test run uses, and the directory it keeps its logs in.
pub struct Place {
    pub config: Config,
    pub data: TempDir,
}

pub fn place(shards: usize, replicas: usize, partitions: usize, tables: Vec<Table>) -> Place {
    static CLUSTERS: AtomicU16 = AtomicU16::new(0);
    // Another test run may be under way on this machine.
    let run = std::process::id() % u32::from(RUNS_MAX);
    let number = u16::try_from(run).expect("few") * CLUSTERS_MAX + CLUSTERS.fetch_add(1, Ordering::Relaxed);
    let first = FIRST_PORT + PORTS_EACH * number;
    let data = tempfile::tempdir().expect("a temporary directory");
    let cluster = LocalCluster {
        election_timeout_ns: None,
        shards,
        replicas,
        partitions,
        tables,
        durability: Durability::Memory,
        data: data.path().to_owned(),
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, first)),
        cpus: CORES_EACH,
        ..LocalCluster::default()
    };
    Place { config: Config::local(&cluster).expect("a sound configuration"), data }
}

/// For tests that start nothing.
pub fn config(shards: usize, replicas: usize, partitions: usize, tables: Vec<Table>) -> Config {
    place(shards, replicas, partitions, tables).config
}

const CORES_EACH: usize = 2;
/// Three nodes of so many cores, and room.
const PORTS_EACH: u16 = 8;
const CLUSTERS_MAX: u16 = 96;
const RUNS_MAX: u16 = 16;
const FIRST_PORT: u16 = 20_000;
/// From here on the kernel takes ports for others.
const _: () = assert!(FIRST_PORT + RUNS_MAX * CLUSTERS_MAX * PORTS_EACH <= 32_768);

/// Runs procedures to their durable end, one after another.
pub struct Engine<P: Procedure + Send> {
    cluster: Option<Cluster<OneByOne<P>>>,
    jobs: Sender<Job<P>>,
    ends: Receiver<End<P>>,
    _data: TempDir,
}

struct Job<P> {
    home: PartitionId,
    mode: Mode,
    work: Work<P>,
}

struct End<P> {
    work: Work<P>,
    result: Result<(), Abort>,
}

/// What a test asks of the engine: a procedure of the bench, or one row read or written directly.
enum Work<P> {
    Run(P),
    Get(TableId, Vec<u8>, RefCell<Option<Vec<u8>>>),
    Put(TableId, Vec<u8>, Option<Vec<u8>>),
}

impl<P: Procedure> Procedure for Work<P> {
    async fn run(&self, txn: &Txn) -> Result<(), Abort> {
        match self {
            Work::Run(procedure) => procedure.run(txn).await,
            Work::Get(table, key, found) => {
                let value = txn.get(*table, key).await?;
                found.replace(value.map(|value| value.to_vec()));
                Ok(())
            }
            Work::Put(table, key, Some(value)) => txn.put(*table, key, value),
            Work::Put(table, key, None) => txn.delete(*table, key),
        }
    }
}

impl<P: Procedure + Send> Engine<P> {
    pub fn start(tables: Vec<Table>) -> Engine<P> {
        let (jobs, todo) = channel();
        let (done, ends) = channel();
        let channels = Mutex::new(Some((todo, done)));
        let make = move |_, _| {
            let taken = channels.lock().expect("not poisoned").take();
            let (todo, done) = taken.expect("one node of one core");
            OneByOne {
                todo,
                done,
                waiting: VecDeque::new(),
                running: None,
                commit: Timestamp(0),
                wake: Timestamp(0),
            }
        };
        let Place { config, data } = place(1, 1, 1, tables);
        let cluster = Cluster::start(config, make).expect("a cluster of one");
        Engine { cluster: Some(cluster), jobs, ends, _data: data }
    }

    pub fn run(&self, procedure: P) -> (P, Result<(), Abort>) {
        self.go(Mode::ReadWrite, procedure)
    }

    /// On a snapshot that shows everything run before.
    pub fn inspect(&self, procedure: P) -> P {
        let (procedure, result) = self.go(Mode::Snapshot, procedure);
        assert_eq!(result, Ok(()));
        procedure
    }

    pub fn get(&self, table: TableId, key: &[u8]) -> Option<Vec<u8>> {
        let end = self.end_of(Mode::ReadWrite, Work::Get(table, key.to_vec(), RefCell::new(None)));
        let Work::Get(_, _, found) = end.work else { panic!("another job's end") };
        found.into_inner()
    }

    pub fn put(&self, table: TableId, key: &[u8], value: &[u8]) {
        let end = self.end_of(Mode::ReadWrite, Work::Put(table, key.to_vec(), Some(value.to_vec())));
        assert_eq!(end.result, Ok(()));
    }

    pub fn delete(&self, table: TableId, key: &[u8]) {
        let end = self.end_of(Mode::ReadWrite, Work::Put(table, key.to_vec(), None));
        assert_eq!(end.result, Ok(()));
    }

    fn go(&self, mode: Mode, procedure: P) -> (P, Result<(), Abort>) {
        let end = self.end_of(mode, Work::Run(procedure));
        let Work::Run(procedure) = end.work else { panic!("another job's end") };
        (procedure, end.result)
    }

    fn end_of(&self, mode: Mode, work: Work<P>) -> End<P> {
        self.jobs.send(Job { home: PartitionId(0), mode, work }).expect("the core runs");
        self.ends.recv().expect("the core runs")
    }
}

impl<P: Procedure + Send> Drop for Engine<P> {
    fn drop(&mut self) {
        if let Some(cluster) = self.cluster.take() {
            cluster.stop().map(drop).expect("the cluster stops");
        }
    }
}

/// Submits the next job when the one before has had its last reply.
struct OneByOne<P> {
    todo: Receiver<Job<P>>,
    done: Sender<End<P>>,
    waiting: VecDeque<Job<P>>,
    running: Option<Option<Work<P>>>,
    commit: Timestamp,
    wake: Timestamp,
}

impl<P: Procedure + Send> OneByOne<P> {
    fn end(&mut self, work: Option<Work<P>>, result: Result<(), Abort>) {
        let kept = self.running.take().expect("a job runs");
        let work = work.or(kept).expect("a reply gave the procedure back");
        self.done.send(End { work, result }).expect("the test listens");
    }
}

impl<P: Procedure + Send> Driver for OneByOne<P> {
    type Procedure = Work<P>;

    fn turn(&mut self, now: Timestamp, core: &mut dyn Submit<Work<P>>) {
        self.wake = now.plus_ns(MS / 5);
        self.waiting.extend(self.todo.try_iter());
        if self.running.is_some() || core.led().is_empty() || core.snapshot() < self.commit {
            return;
        }
        let Some(Job { home, mode, work }) = self.waiting.pop_front() else { return };
        self.running = Some(None);
        if let Err(work) = core.submit(home, mode, 0, work) {
            self.running = None;
            self.waiting.push_front(Job { home, mode, work });
        }
    }

    fn on_reply(&mut self, now: Timestamp, _token: u64, reply: Reply, procedure: Option<Work<P>>) {
        self.wake = now;
        match reply {
            Reply::Speculative { .. } => self.running = Some(procedure),
            Reply::Durable { timestamp, .. } => {
                self.commit = self.commit.max(timestamp);
                self.end(procedure, Ok(()));
            }
            Reply::RolledBack => self.end(procedure, Err(Abort::Conflict { attempts: 1 })),
            Reply::Aborted { abort, .. } => self.end(procedure, Err(abort)),
        }
    }

    fn deadline(&self) -> Option<Timestamp> {
        Some(self.wake)
    }
}

/// A core that answers nothing by itself: tests look at what was submitted and make up the replies.
pub struct Core {
    pub led: Vec<PartitionId>,
    pub hosted: Vec<PartitionId>,
    pub snapshot: Timestamp,
    /// Whether it has room.
    pub is_busy: bool,
    pub submitted: Vec<Submitted>,
}

/// What a test core was asked to run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Submitted {
    pub home: PartitionId,
    pub mode: Mode,
    pub token: u64,
}

impl Core {
    pub fn new(led: &[u16], hosted: &[u16]) -> Core {
        let partitions = |numbers: &[u16]| numbers.iter().copied().map(PartitionId).collect();
        let (led, hosted) = (partitions(led), partitions(hosted));
        Core { led, hosted, snapshot: Timestamp(0), is_busy: false, submitted: Vec::new() }
    }
}

impl<P> Submit<P> for Core {
    fn submit(&mut self, home: PartitionId, mode: Mode, token: u64, procedure: P) -> Result<(), P> {
        if self.is_busy {
            return Err(procedure);
        }
        self.submitted.push(Submitted { home, mode, token });
        Ok(())
    }

    fn led(&self) -> &[PartitionId] {
        &self.led
    }

    fn hosted(&self) -> &[PartitionId] {
        &self.hosted
    }

    fn snapshot(&self) -> Timestamp {
        self.snapshot
    }

    fn applied(&self) -> Timestamp {
        self.snapshot
    }
}

/// A workload of empty transactions, for tests of what surrounds a workload.
pub struct Counting {
    pub steps: u32,
    pub audits: u32,
    pub checks: u32,
    pub durable: u32,
}

pub struct Nothing;

impl Procedure for Nothing {
    async fn run(&self, _txn: &Txn) -> Result<(), Abort> {
        Ok(())
    }
}

impl Counting {
    pub fn new(steps: u32) -> Counting {
        Counting { steps, audits: 0, checks: 0, durable: 0 }
    }
}

impl Workload for Counting {
    type Procedure = Nothing;
    type Findings = u32;
    const KINDS: &'static [&'static str] = &["nothing", "never"];

    fn load_steps(&self, _partition: PartitionId) -> u32 {
        self.steps
    }

    fn load(&self, _partition: PartitionId, _step: u32) -> Nothing {
        Nothing
    }

    fn draw(&mut self, _home: PartitionId) -> Drawn<Nothing> {
        Drawn { kind: 0, procedure: Nothing }
    }

    fn on_durable(&mut self, _kind: usize) {
        self.durable += 1;
    }

    fn audit(&mut self, _inspection: Inspection) -> Option<Nothing> {
        self.audits += 1;
        Some(Nothing)
    }

    fn check(&mut self, _inspection: Inspection, index: u32) -> Option<Nothing> {
        (index < 2).then_some(Nothing)
    }

    fn on_inspected(&mut self, inspection: Inspection, _procedure: Nothing) -> Option<Nothing> {
        if inspection.stage == crate::workload::Stage::Check {
            self.checks += 1;
        }
        None
    }

    fn findings(&self) -> u32 {
        self.checks
    }

    fn verdicts(&self, checks: &[u32]) -> Verdicts {
        let wrong = checks.contains(&0).then(|| "a core checked nothing".to_string());
        Verdicts::from([("counted".to_string(), wrong)])
    }
}
