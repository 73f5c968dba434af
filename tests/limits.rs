//! Transactions at and over the limits, on real clusters: each is answered with its own typed abort, changes
//! nothing, and the core goes on.
//!
//! One replica of one shard, and three of each of two, where the limit is met at another partition than the
//! transaction's home.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use mako::bounds::{
    KEY_BYTES_MAX, MS, RANGE_BOUND_BYTES_MAX, SCAN_BYTES_MAX, SCAN_ROWS_MAX, TXN_BYTES_MAX, TXN_SCANS_MAX,
    TXN_WRITES_MAX, VALUE_BYTES_MAX,
};
use mako::config::{Config, Durability, LocalCluster, Routing, Table};
use mako::partition::{Driver, Mode, Submit};
use mako::server::{Cluster, StartError};
use mako::txn::{Abort, Procedure, Reply, Txn};
use mako::types::{PartitionId, TableId, Timestamp};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What a transaction does, one after another; the first error ends it.
#[derive(Clone, Debug)]
enum Step {
    Get(TableId, Vec<u8>),
    Put(TableId, Vec<u8>, usize),
    Delete(TableId, Vec<u8>),
    /// From, to, limit, descending.
    Scan(TableId, Vec<u8>, Vec<u8>, usize, bool),
    /// Tries to write a value of this size, and does without.
    TryPut(Vec<u8>, usize),
    GiveUp,
}
use Step::{Delete, Get, GiveUp, Put, Scan, TryPut};

struct Program {
    steps: Vec<Step>,
    /// Of the last run: sizes of values read, and numbers of rows.
    found: RefCell<Vec<Option<usize>>>,
}

impl Procedure for Program {
    async fn run(&self, txn: &Txn) -> Result<(), Abort> {
        self.found.borrow_mut().clear();
        for step in &self.steps {
            match step {
                Get(table, key) => {
                    let value = txn.get(*table, key).await?;
                    self.found.borrow_mut().push(value.map(|value| value.len()));
                }
                Put(table, key, bytes) => txn.put(*table, key, &vec![7; *bytes])?,
                Delete(table, key) => txn.delete(*table, key)?,
                Scan(table, from, to, limit, descending) => {
                    let rows = match descending {
                        false => txn.scan(*table, from, Some(to), *limit).await?,
                        true => txn.rscan(*table, from, Some(to), *limit).await?,
                    };
                    self.found.borrow_mut().push(Some(rows.len()));
                }
                TryPut(key, bytes) => {
                    let refused = txn.put(T, key, &vec![7; *bytes]);
                    assert!(matches!(refused, Err(Abort::TooBig { .. } | Abort::Interrupted)), "{refused:?}");
                }
                GiveUp => return Err(Abort::User),
            }
        }
        Ok(())
    }
}

struct Job {
    home: PartitionId,
    mode: Mode,
    program: Program,
}

/// Takes the jobs whose home its core leads, one at a time.
struct Worker {
    jobs: Arc<Mutex<VecDeque<Job>>>,
    busy: bool,
    looked: Timestamp,
    program: Option<Program>,
    ended: Sender<(Reply, Program)>,
}

impl Driver for Worker {
    type Procedure = Program;

    fn turn(&mut self, now: Timestamp, core: &mut dyn Submit<Program>) {
        self.looked = now;
        let mut jobs = self.jobs.lock().unwrap();
        let ready = |job: &Job| {
            core.led().contains(&job.home) && (job.mode == Mode::ReadWrite || core.snapshot().0 > 0)
        };
        let Some(at) = jobs.iter().position(ready).filter(|_| !self.busy) else { return };
        let Job { home, mode, program } = jobs.remove(at).unwrap();
        match core.submit(home, mode, 1, program) {
            Ok(()) => self.busy = true,
            Err(program) => jobs.push_front(Job { home, mode, program }),
        }
    }

    fn on_reply(&mut self, _: Timestamp, _: u64, reply: Reply, program: Option<Program>) {
        self.program = program.or(self.program.take());
        if !matches!(reply, Reply::Speculative { .. }) {
            self.busy = false;
            self.ended.send((reply, self.program.take().unwrap())).unwrap();
        }
    }

    fn deadline(&self) -> Option<Timestamp> {
        Some(self.looked.plus_ns(MS))
    }
}

/// A cluster, and the only client it has.
struct Client {
    cluster: Cluster<Worker>,
    jobs: Arc<Mutex<VecDeque<Job>>>,
    ended: Receiver<(Reply, Program)>,
    _data: tempfile::TempDir,
}

impl Client {
    fn start(shards: usize, replicas: usize) -> Client {
        let data = tempfile::tempdir().unwrap();
        let jobs = Arc::new(Mutex::new(VecDeque::new()));
        let (tell, ended) = mpsc::channel();
        for _ in 0..100 {
            let config = local(shards, replicas, data.path().to_owned());
            let (theirs, tell) = (Arc::clone(&jobs), tell.clone());
            let started = Cluster::start(config, move |_, _| Worker {
                jobs: Arc::clone(&theirs),
                busy: false,
                looked: Timestamp::default(),
                program: None,
                ended: tell.clone(),
            });
            match started {
                Ok(cluster) => {
                    assert_eq!(cluster.wait_until_open(), Ok(()));
                    return Client { cluster, jobs, ended, _data: data };
                }
                Err(StartError::Listen { .. }) => {}
                Err(other) => panic!("{other}"),
            }
        }
        panic!("no free ports");
    }

    /// The last reply, and what the last run found.
    fn run(&self, mode: Mode, steps: Vec<Step>) -> (Reply, Vec<Option<usize>>) {
        let program = Program { steps, found: RefCell::default() };
        self.jobs.lock().unwrap().push_back(Job { home: HOME, mode, program });
        let (reply, program) = self.ended.recv_timeout(PATIENCE).expect("a transaction got no answer");
        (reply, program.found.into_inner())
    }

    fn committed(&self, steps: Vec<Step>) -> Vec<Option<usize>> {
        let (reply, found) = self.run(Mode::ReadWrite, steps);
        assert!(matches!(reply, Reply::Durable { .. }), "{reply:?}");
        found
    }

    /// Whatever the transaction wrote before it met its limit must not be there afterwards, at none of
    /// the partitions.
    fn refused(&self, name: &str, mode: Mode, steps: Vec<Step>, expected: Abort) {
        let marks = [b"\0mark".to_vec(), b"\x01mark".to_vec()];
        let before =
            if mode == Mode::Snapshot { vec![] } else { marks.iter().map(|key| put(key, 1)).collect() };
        let (reply, _) = self.run(mode, [before, steps].concat());
        assert_eq!(reply, Reply::Aborted { abort: expected, attempts: 1 }, "{name}");
        let found = self.committed(marks.iter().map(|key| Get(T, key.clone())).collect());
        assert_eq!(found, [None, None], "{name}");
        // And nothing it locked is locked still.
        self.committed(marks.iter().map(|key| put(key, 1)).collect());
        self.committed(marks.iter().map(|key| Delete(T, key.clone())).collect());
    }

    fn stop(self) {
        let reports = self.cluster.stop().unwrap();
        assert!(
            reports.iter().all(|report| report.tally.core.malformed == 0 && report.tally.core.ahead == 0)
        );
    }
}

fn local(shards: usize, replicas: usize, data: std::path::PathBuf) -> Config {
    // The kernel deals ports out at random: a few in a row above one of them are rarely taken.
    let free = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, free.min(65_000) + 1));
    let tables = vec![Table { name: "t".to_string(), routing: Routing::Int(1) }];
    let durability = Durability::Memory;
    let flags =
        LocalCluster { shards, replicas, durability, tables, data, listen, cpus: 1, ..Default::default() };
    Config::local(&flags).unwrap()
}

fn put(key: &[u8], bytes: usize) -> Step {
    Put(T, key.to_vec(), bytes)
}

/// A key of the longest kind at that partition, and one byte more.
fn long_keys(partition: u8) -> [Vec<u8>; 2] {
    let of = |bytes: usize| [&[partition][..], &vec![b'k'; bytes - 1]].concat();
    [of(KEY_BYTES_MAX), of(KEY_BYTES_MAX + 1)]
}

fn too_big(what: &'static str, size: usize, bound: usize) -> Abort {
    Abort::TooBig { what, size, bound }
}

/// Every limit of a transaction, met with keys of partition `at`.
fn meet_the_limits(client: &Client, at: u8) {
    let [longest, too_long] = long_keys(at);
    let key = |n: usize| [&[at][..], &(n as u32).to_be_bytes()].concat();
    let (from, to) = (vec![at, b'A'], vec![at, b'Z']);
    let scan = |limit, descending| Scan(T, from.clone(), to.clone(), limit, descending);
    let values = |count: usize| (0..count).map(|n| put(&key(n), VALUE_BYTES_MAX)).collect::<Vec<_>>();
    let writes = |count: usize| (0..count).map(|n| put(&key(n), 1)).collect::<Vec<_>>();
    let long_key = || too_big("key", KEY_BYTES_MAX + 1, KEY_BYTES_MAX);
    let long_value = too_big("value", VALUE_BYTES_MAX + 1, VALUE_BYTES_MAX);
    // The two marks that every refused transaction writes first: their keys, and a byte each.
    let marks = 2 * (5 + 1);

    let five_values = too_big("transaction", marks + 5 * (5 + VALUE_BYTES_MAX), TXN_BYTES_MAX);
    let unknown = TableId(3);
    let range_end = [&[at][..], &[b'k'; RANGE_BOUND_BYTES_MAX]].concat();
    let cases = [
        ("a long value", vec![put(&key(0), VALUE_BYTES_MAX + 1)], long_value),
        ("a long key, written", vec![put(&too_long, 1)], long_key()),
        ("a long key, deleted", vec![Delete(T, too_long.clone())], long_key()),
        ("a long key, read", vec![Get(T, too_long.clone())], long_key()),
        (
            "many writes",
            writes(TXN_WRITES_MAX + 1),
            too_big("number of writes", TXN_WRITES_MAX + 1, TXN_WRITES_MAX),
        ),
        ("many bytes", values(5), five_values),
        (
            "many rows",
            vec![scan(SCAN_ROWS_MAX + 1, false)],
            too_big("rows of a scan", SCAN_ROWS_MAX + 1, SCAN_ROWS_MAX),
        ),
        (
            "a long bound",
            vec![Scan(T, from.clone(), range_end.clone(), 1, true)],
            too_big("bound of a range", range_end.len(), RANGE_BOUND_BYTES_MAX),
        ),
        ("an unknown table, read", vec![Get(unknown, key(0))], Abort::UnknownTable(3)),
        ("an unknown table, written", vec![Put(unknown, key(0), 1)], Abort::UnknownTable(3)),
        ("an unknown table, deleted", vec![Delete(unknown, key(0))], Abort::UnknownTable(3)),
        (
            "an unknown table, scanned",
            vec![Scan(unknown, from.clone(), to.clone(), 1, false)],
            Abort::UnknownTable(3),
        ),
        ("its own wish", vec![put(&key(0), 1), GiveUp], Abort::User),
    ];
    for (name, steps, expected) in cases {
        client.refused(name, Mode::ReadWrite, steps, expected);
    }
    let nothing = client.committed(vec![Scan(T, vec![at], vec![at + 1], SCAN_ROWS_MAX, false)]);
    assert_eq!(nothing, [Some(0)], "nothing of all this is there");
    client.refused(
        "a write in a snapshot",
        Mode::Snapshot,
        vec![Get(T, key(0)), put(&key(0), 1)],
        Abort::ReadOnly,
    );

    // At the limit, and just under it.
    client.committed(vec![put(&longest, VALUE_BYTES_MAX), TryPut(key(0), VALUE_BYTES_MAX + 1)]);
    assert_eq!(
        client.committed(vec![Get(T, longest.clone()), Get(T, key(0))]),
        [Some(VALUE_BYTES_MAX), None]
    );
    client.committed(vec![Delete(T, longest)]);
    client.committed(writes(TXN_WRITES_MAX));
    let all = Scan(T, vec![at], vec![at + 1], SCAN_ROWS_MAX, true);
    assert_eq!(client.committed(vec![all]), [Some(TXN_WRITES_MAX)]);
}

/// Five of the largest values are more than one scan may return.
fn scan_too_many_bytes(client: &Client, at: u8, size: usize) {
    for n in 0..5 {
        client.committed(vec![put(&[at, b'A' + n], VALUE_BYTES_MAX)]);
    }
    let scan = |limit, descending| Scan(T, vec![at, b'A'], vec![at, b'Z'], limit, descending);
    let expected = || too_big("bytes of a scan", size, SCAN_BYTES_MAX);
    client.refused("a scan of many bytes", Mode::ReadWrite, vec![scan(10, false)], expected());
    client.refused("a scan of many bytes, descending", Mode::ReadWrite, vec![scan(10, true)], expected());
    assert_eq!(client.committed(vec![scan(3, false), scan(3, true)]), [Some(3), Some(3)]);
}

#[test]
fn at_one_partition_every_limit_has_its_own_answer() {
    let client = Client::start(1, 1);
    meet_the_limits(&client, 0);
    // Counted up to the row that is too much: here the fourth and its key.
    scan_too_many_bytes(&client, 0, 4 * (VALUE_BYTES_MAX + 2));
    client.stop();
}

/// The limit is met at the other shard, which another node leads: what it refuses must come back as what
/// it is, and what was prepared at home must be let go.
#[test]
fn across_shards_every_limit_has_the_same_answer() {
    let client = Client::start(2, 3);
    meet_the_limits(&client, 1);
    // The refusal says that it was too much, not how much.
    scan_too_many_bytes(&client, 1, SCAN_BYTES_MAX + 1);
    let scans = |count: usize| {
        (0..count)
            .map(|n| {
                let from = [&[1][..], &(n as u32).to_be_bytes()].concat();
                let to = [&from[..], &[0]].concat();
                Scan(T, from, to, 1, false)
            })
            .collect::<Vec<_>>()
    };
    let expected = too_big("number of scans", TXN_SCANS_MAX + 1, TXN_SCANS_MAX);
    client.refused("many scans", Mode::ReadWrite, scans(TXN_SCANS_MAX + 1), expected);
    assert_eq!(client.committed(scans(TXN_SCANS_MAX)), vec![Some(1); TXN_SCANS_MAX]);
    client.stop();
}

const T: TableId = TableId(0);
const HOME: PartitionId = PartitionId(0);
/// Far beyond what anything here takes, on a machine however busy.
const PATIENCE: Duration = Duration::from_secs(60);
