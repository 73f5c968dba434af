//! Whole clusters in this process: real threads, sockets and files.
#![forbid(unsafe_code)]

use super::*;
use crate::config::{Durability, LocalCluster, Route};
use crate::partition::{Idle, Mode, Submit};
use crate::txn::{Abort, Procedure, Reply, Txn};
use crate::types::{PartitionId, TableId, Timestamp};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Counts up under a key of its home partition and under another.
struct Count {
    keys: [Vec<u8>; 2],
}

impl Procedure for Count {
    async fn run(&self, txn: &Txn) -> Result<(), Abort> {
        for key in &self.keys {
            let before = txn.get(TABLE, key).await?.map_or(0, |value| value[0]);
            txn.put(TABLE, key, &[before.wrapping_add(1)])?;
        }
        Ok(())
    }
}

/// One client per core: counts up in the first partition the core leads, again once that is durable.
struct Client {
    keys: Vec<Vec<u8>>,
    waits: bool,
    durable: usize,
    done: Sender<NodeId>,
    node: NodeId,
}

impl Driver for Client {
    type Procedure = Count;

    fn turn(&mut self, _: Timestamp, core: &mut dyn Submit<Count>) {
        let Some(home) = core.led().first().copied().filter(|_| !self.waits && self.durable < ROUNDS) else {
            return;
        };
        let here = usize::from(home.0);
        let keys = [here, (here + self.durable) % self.keys.len()].map(|at| self.keys[at].clone());
        self.waits = core.submit(home, Mode::ReadWrite, 7, Count { keys }).is_ok();
    }

    fn on_reply(&mut self, _: Timestamp, token: u64, reply: Reply, _: Option<Count>) {
        assert_eq!(token, 7);
        self.waits = matches!(reply, Reply::Speculative { .. });
        self.durable += usize::from(matches!(reply, Reply::Durable { .. }));
        if self.durable == ROUNDS {
            self.done.send(self.node).unwrap();
        }
    }

    fn deadline(&self) -> Option<Timestamp> {
        None
    }
}

/// With two cores per node, at ports that were free a moment ago.
fn local(data: &Path, durability: Durability) -> Config {
    let [first, ..] = [0; 8].map(|_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    // The kernel deals ports out at random: a few in a row above one of them are rarely taken.
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, first.local_addr().unwrap().port().min(65_000) + 1));
    let data = data.join(durability.to_string());
    let flags = LocalCluster { partitions: 2, cpus: 2, durability, data, listen, ..LocalCluster::default() };
    Config::local(&flags).unwrap()
}

/// And where it listens: on other ports should somebody else have taken one.
fn start<D: Driver + Send + 'static>(
    data: &Path,
    durability: Durability,
    make: impl Fn(NodeId, CoreId) -> D + Clone + Send + Sync + 'static,
) -> (Cluster<D>, SocketAddr) {
    for _ in 0..100 {
        let config = local(data, durability);
        let listen = config.nodes[0].listen;
        match Cluster::start(config, make.clone()) {
            Ok(cluster) => return (cluster, listen),
            Err(StartError::Listen { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
    panic!("no free ports");
}

fn a_key_of_each_partition(config: &Config) -> Vec<Vec<u8>> {
    let key_of = |partition: u16| {
        let home = Route::One(PartitionId(partition));
        let mut keys = (0_u32..).map(|n| n.to_le_bytes().to_vec());
        keys.find(|key| config.route(TABLE, key) == home).unwrap()
    };
    (0..config.partition_count() as u16).map(key_of).collect()
}

/// The whole way down and back: driver, core, rings, sessions, sockets, log. Each client's transactions go
/// in turn to its own partition alone, to one on a sibling core, and to those of the other shard.
#[test]
fn transactions_become_durable_in_every_mode() {
    for durability in Durability::ALL {
        let data = tempfile::tempdir().unwrap();
        let (done, ended) = mpsc::channel();
        let keys = a_key_of_each_partition(&local(data.path(), durability));
        let (cluster, _) = start(data.path(), durability, move |node, _| {
            let done = done.clone();
            Client { keys: keys.clone(), waits: false, durable: 0, done, node }
        });
        assert_eq!(cluster.wait_until_open(), Ok(()), "{durability}");
        let mut nodes = [0; 4].map(|_| ended.recv_timeout(PATIENCE).expect("a transaction got stuck").0);
        nodes.sort_unstable();
        assert_eq!(nodes, [0, 0, 1, 1], "{durability}: each shard has its own leader, of two cores");

        let reports = cluster.stop().unwrap();
        let cores: Vec<_> = reports.iter().map(|report| (report.node.0, report.core.0)).collect();
        assert_eq!(cores, [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]);
        let counts: Vec<_> = reports.iter().map(|report| report.driver.durable).collect();
        assert_eq!(counts, [ROUNDS, ROUNDS, ROUNDS, ROUNDS, 0, 0], "{durability}");
        let local: u64 = reports.iter().map(|report| report.tally.core.committed_local).sum();
        assert_eq!(local, ROUNDS as u64, "one in four touched one partition");
        assert!(reports.iter().all(|report| report.tally.busy > 0.0 && report.tally.nic.frames_sent > 0));
    }
}

/// Two clusters that share a port would each get half of the frames. The second must not have harmed
/// the first, nor left anything behind.
#[test]
fn a_second_cluster_at_the_same_addresses_is_refused_and_named() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (cluster, listen) = start(first.path(), Durability::Memory, |_, _| Idle);
    let data = second.path().to_owned();
    let flags = LocalCluster { cpus: 1, data, listen, ..LocalCluster::default() };
    let error =
        Cluster::start(Config::local(&flags).unwrap(), |_, _| Idle).map(drop).unwrap_err().to_string();
    assert!(error.contains(&format!("({listen})")) && error.contains("in use"), "{error}");
    assert_eq!(std::fs::read_dir(second.path()).unwrap().count(), 0, "{error}");
    assert_eq!(cluster.wait_until_open(), Ok(()));
    assert_eq!(cluster.stop().unwrap().len(), 6);
}

/// Counts up in the first partition that its core leads, again once that is durable, for ever.
struct Counter {
    keys: Vec<Vec<u8>>,
    waits: bool,
    done: Sender<NodeId>,
    node: NodeId,
}

impl Driver for Counter {
    type Procedure = Count;

    fn turn(&mut self, _: Timestamp, core: &mut dyn Submit<Count>) {
        let Some(home) = core.led().first().copied().filter(|_| !self.waits) else { return };
        let key = &self.keys[usize::from(home.0)];
        let keys = [key.clone(), [key.as_slice(), b"+"].concat()];
        self.waits = core.submit(home, Mode::ReadWrite, 7, Count { keys }).is_ok();
    }

    fn on_reply(&mut self, _: Timestamp, _: u64, reply: Reply, _: Option<Count>) {
        self.waits = matches!(reply, Reply::Speculative { .. });
        if let Reply::Durable { .. } = reply {
            // The test may have seen enough.
            let _ = self.done.send(self.node);
        }
    }

    fn deadline(&self) -> Option<Timestamp> {
        None
    }
}

/// Waits until a transaction became durable on a node for which `is_meant`.
fn durable_on(done: &mpsc::Receiver<NodeId>, is_meant: impl Fn(NodeId) -> bool) -> NodeId {
    loop {
        let node = done.recv_timeout(PATIENCE).expect("no transaction becomes durable");
        if is_meant(node) {
            return node;
        }
    }
}

fn counters(data: &Path, durability: Durability) -> (Cluster<Counter>, mpsc::Receiver<NodeId>) {
    let (done, ended) = mpsc::channel();
    let keys = a_key_of_each_partition(&local(data, durability));
    let make = move |node, _| Counter { keys: keys.clone(), waits: false, done: done.clone(), node };
    (start(data, durability, make).0, ended)
}

/// What elections and restart are for: leaders die in turn, the shards go on, and who comes back votes again,
/// in the modes that forget no earlier than it has learned.
#[test]
fn a_leader_that_is_killed_is_replaced_and_comes_back_to_vote() {
    for durability in Durability::ALL {
        let data = tempfile::tempdir().unwrap();
        let (mut cluster, done) = counters(data.path(), durability);
        for _ in 0..3 {
            // What the last one said before it died may still be in the queue.
            done.try_iter().for_each(drop);
            let leader = durable_on(&done, |_| true);
            assert_eq!(cluster.kill(leader).unwrap().len(), 2, "one report for each core");
            durable_on(&done, |node| node != leader);
            cluster.restart(leader).unwrap();
            let (words, notices) = (format!("node n{}, core 1: recovered ", leader.0), cluster.notices());
            assert!(notices.iter().any(|notice| notice.starts_with(&words)), "{notices:?}");
            assert_eq!(cluster.wait_until_voting().unwrap(), Ok(()), "{durability}");
        }
        cluster.stop().unwrap();
    }
}

/// A replica that lost its log may have voted for what it no longer knows: it must learn before it votes, even
/// when it is stopped in between.
#[test]
fn a_node_that_is_rebuilt_learns_before_it_votes() {
    let data = tempfile::tempdir().unwrap();
    let (mut cluster, done) = counters(data.path(), Durability::QuorumDisk);
    let config = (*cluster.config).clone();
    // The others wait for it, or for this.
    assert_eq!(cluster.wait_until_voting().unwrap(), Ok(()));
    // Before it has heard of anything that the others may drop.
    cluster.kill(NodeId(2)).unwrap();
    let file = config.nodes[2].data.join("core-0/0000000000000000.wal");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    let error = cluster.restart(NodeId(2)).unwrap_err().to_string();
    assert!(error.contains("0.wal") && error.contains("offset") && error.contains("--rebuild"), "{error}");
    durable_on(&done, |_| true);

    let rebuilding = |node: &Cluster<Idle>| {
        assert!(node.notices().iter().any(|it| it.starts_with("node n2, core 0: rebuilding")));
    };
    let asked = Cluster::rebuild_nodes(config.clone(), &[NodeId(2)], Watch::default(), |_, _| Idle);
    let asked = asked.unwrap_or_else(|error| panic!("{error}"));
    rebuilding(&asked);
    drop(asked);
    // Nobody asks for it again, and it is still under way.
    let again = Cluster::start_nodes(config.clone(), &[NodeId(2)], Watch::default(), |_, _| Idle);
    let mut again = again.unwrap_or_else(|error| panic!("{error}"));
    rebuilding(&again);
    assert_eq!(again.wait_until_voting().unwrap(), Ok(()));
    drop(again);
    cluster.restart(NodeId(2)).unwrap();
    assert!(cluster.notices().iter().any(|it| it.starts_with("node n2, core 0: recovered ")));
    // One of the others is gone for good now, and the rebuilt one is needed.
    cluster.kill(NodeId(1)).unwrap();
    done.try_iter().for_each(drop);
    durable_on(&done, |_| true);
    cluster.stop().unwrap();
}

/// A replica without peers would forget for good.
#[test]
fn a_replica_that_is_alone_is_not_rebuilt() {
    let data = tempfile::tempdir().unwrap();
    let flags = LocalCluster { replicas: 1, data: data.path().to_owned(), ..LocalCluster::default() };
    let config = Config::local(&flags).unwrap();
    let refused = Cluster::rebuild_nodes(config, &[NodeId(0)], Watch::default(), |_, _| Idle);
    let error = refused.map(drop).unwrap_err().to_string();
    assert!(error.starts_with("--rebuild (node n0): shard 0 has no other replica"), "{error}");
}

/// All at once: nobody is left to learn from, and nothing that was durable may be gone.
#[test]
fn a_cluster_that_stops_as_a_whole_comes_back_with_all_it_held() {
    let data = tempfile::tempdir().unwrap();
    for _ in 0..3 {
        let (cluster, done) = counters(data.path(), Durability::QuorumDisk);
        durable_on(&done, |_| true);
        cluster.stop().unwrap();
    }
}

/// A driver that panics must be told from one that ended, and must not keep the process waiting.
#[test]
fn a_core_that_breaks_off_is_reported_by_name() {
    let data = tempfile::tempdir().unwrap();
    struct Broken(NodeId, Arc<AtomicBool>);
    impl Driver for Broken {
        type Procedure = Count;
        fn turn(&mut self, _: Timestamp, _: &mut dyn Submit<Count>) {
            let breaks = self.0 == NodeId(1) && self.1.load(Ordering::Relaxed);
            assert!(!breaks, "broken on purpose");
        }
        fn on_reply(&mut self, _: Timestamp, _: u64, _: Reply, _: Option<Count>) {}
        fn deadline(&self) -> Option<Timestamp> {
            None
        }
    }
    // Only once the cluster stands: a core that breaks off before is an error of the start.
    let breaks = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&breaks);
    let (cluster, _) = start(data.path(), Durability::Memory, move |node, _| Broken(node, Arc::clone(&told)));
    assert!(cluster.is_whole());
    breaks.store(true, Ordering::Relaxed);
    assert_eq!(cluster.wait(), News::Ended);
    // Its thread ends a moment after it has said so.
    while cluster.is_whole() {
        std::thread::yield_now();
    }
    let error = cluster.stop().map(drop).unwrap_err().to_string();
    // Whichever of its two was first.
    let places = [0, 1].map(|core| format!("(node n1, core {core}): broken on purpose"));
    assert!(places.iter().any(|place| error.contains(place)), "{error}");
}

/// A signal may come while the logs are still being made: it must not be lost, nor end the process midway.
#[test]
fn who_interrupts_before_the_start_is_heard_after_it() {
    let data = tempfile::tempdir().unwrap();
    let cluster = loop {
        let watch = Watch::default();
        watch.interrupter().interrupt();
        let config = local(data.path(), Durability::Memory);
        match Cluster::start_nodes(config, &[NodeId(0)], watch, |_, _| Idle) {
            Err(StartError::Listen { .. }) => {}
            started => break started.unwrap_or_else(|error| panic!("{error}")),
        }
    };
    assert_eq!(cluster.wait(), News::Interrupted);
    assert_eq!(cluster.stop().unwrap().len(), 2);
}

/// Pinned to a CPU that is not there a thread would run anywhere, and nobody would know why it is slow.
#[test]
fn a_cpu_that_is_not_there_is_refused_before_anything_is_opened() {
    let data = tempfile::tempdir().unwrap();
    let text = local(data.path(), Durability::Memory).to_toml().replacen("cores = 2", "cores = [0, 1023]", 1);
    let config = Config::parse(&text, "test", 1).unwrap();
    let error = Cluster::start_nodes(config, &[NodeId(0)], Watch::default(), |_, _| Idle)
        .map(drop)
        .unwrap_err()
        .to_string();
    assert!(error.starts_with("CPU 1023 (node n0, cores): ") && error.contains("; name some"), "{error}");
    assert_eq!(std::fs::read_dir(data.path()).unwrap().count(), 0);
}

const TABLE: TableId = TableId(0);
const ROUNDS: usize = 20;
/// Ends a test that would hang; no claim about speed.
const PATIENCE: Duration = Duration::from_secs(60);
