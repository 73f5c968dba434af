//! Reactors of a whole cluster on one thread, over a loopback network, under a clock that stands still.
//!
//! Time that does not pass fires no timer: what happens all the same happens because something arrived.
#![forbid(unsafe_code)]

use super::*;
use crate::bounds::{EXCHANGE_INTERVAL_NS, MS, WAL_BACKLOG_BYTES_MAX};
use crate::config::{Durability, LocalCluster, Route};
use crate::disk::LogState;
use crate::nic::loopback::{Hub, Loopback};
use crate::partition::{Mode, Submit};
use crate::txn::{Abort, Reply, Txn};
use crate::types::{CoreId, NodeId, PartitionId, ShardId, TableId};
use crate::wal::Record;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;

/// A transaction that counts up under each of its keys.
struct Put {
    keys: Vec<Vec<u8>>,
}

impl Procedure for Put {
    async fn run(&self, txn: &Txn) -> Result<(), Abort> {
        for key in &self.keys {
            let before = txn.get(TABLE, key).await?.map_or(0, |value| value[0]);
            txn.put(TABLE, key, &[before + 1])?;
        }
        Ok(())
    }
}

/// Submits what a test has queued, and keeps what became of it.
#[derive(Clone, Default)]
struct Script {
    queued: Rc<RefCell<VecDeque<(PartitionId, Put)>>>,
    replies: Rc<RefCell<Vec<Reply>>>,
}

impl Driver for Script {
    type Procedure = Put;

    fn turn(&mut self, _: Timestamp, core: &mut dyn Submit<Put>) {
        while let Some((home, put)) = self.queued.borrow_mut().pop_front() {
            assert!(core.submit(home, Mode::ReadWrite, 1, put).is_ok(), "{home:?} takes no transaction");
        }
    }

    fn on_reply(&mut self, _: Timestamp, _: u64, reply: Reply, _: Option<Put>) {
        self.replies.borrow_mut().push(reply);
    }

    fn deadline(&self) -> Option<Timestamp> {
        None
    }
}

/// A disk that finishes writes when the test says so.
#[derive(Clone, Default)]
struct Held {
    appended: Rc<Cell<u64>>,
    finished: Rc<Cell<u64>>,
    held: Rc<Cell<bool>>,
    broken: Rc<Cell<bool>>,
}

impl Disk for Held {
    fn append(&mut self, _: Record<'_>) -> Lsn {
        self.appended.set(self.appended.get() + 1);
        Lsn(self.appended.get())
    }

    fn submit(&mut self) -> Result<(), DiskError> {
        let source = io::Error::from(io::ErrorKind::StorageFull);
        let failed = DiskError::WriteFailed { segment: 0, offset: 0, source };
        if self.broken.get() { Err(failed) } else { Ok(()) }
    }

    fn reap(&mut self, _: Timestamp) -> Result<Lsn, DiskError> {
        if !self.held.get() {
            self.finished.set(self.appended.get());
        }
        Ok(Lsn(self.finished.get()))
    }

    fn appended(&self) -> Lsn {
        Lsn(self.appended.get())
    }

    fn room(&self) -> usize {
        WAL_BACKLOG_BYTES_MAX
    }

    fn truncate(&mut self, _: Lsn) {}

    fn state(&self) -> LogState {
        LogState::default()
    }

    fn wake_fd(&self) -> Option<RawFd> {
        None
    }

    fn deadline(&self) -> Option<Timestamp> {
        None
    }
}

#[derive(Clone, Default)]
struct Standing(Rc<Cell<Timestamp>>);

impl Clock for Standing {
    fn now(&self) -> Timestamp {
        self.0.get()
    }
}

/// Three nodes of one core each: by node, its reactor, its driver and its disk.
struct World {
    clock: Standing,
    reactors: Vec<Reactor<Script, Loopback, Held, Standing>>,
    scripts: Vec<Script>,
    disks: Vec<Held>,
    config: Rc<Config>,
}

impl World {
    /// Time passes until every shard has a leader, and then stands still.
    fn open(durability: Durability) -> World {
        let flags = LocalCluster { cpus: 1, durability, ..LocalCluster::default() };
        let config = Rc::new(Config::local(&flags).unwrap());
        let clock = Standing(Rc::new(Cell::new(Timestamp(BEGIN))));
        let hub = Hub::default();
        let scripts: Vec<Script> = (0..3).map(|_| Script::default()).collect();
        let disks: Vec<Held> = (0..3).map(|_| Held::default()).collect();
        let seat = |node: usize| Seat {
            me: Endpoint { node: NodeId(node as u16), core: CoreId(0) },
            nic: hub.attach(Endpoint { node: NodeId(node as u16), core: CoreId(0) }),
            disk: disks[node].clone(),
            siblings: Siblings::of_node(&Arc::new(Shared::new(&config, 1).unwrap())).remove(0),
            orders: orders().1,
            sleep_after_ns: Some(0),
            incarnation: 1,
            seed: node as u64,
            keys: None,
        };
        let reactor = |node| {
            Reactor::new(seat(node), Recovery::nothing(), &config, clock.clone(), scripts[node].clone())
        };
        let mut world = World { reactors: (0..3).map(reactor).collect(), clock, scripts, disks, config };
        for _ in 0..200 {
            world.pass(5 * MS);
        }
        let mut boards = world.reactors.iter().map(|reactor| &reactor.shared.board);
        let open = |board: &board::Board| (0..2).all(|shard| board.shard(ShardId(shard)).epoch.0 > 0);
        assert!(boards.all(open), "no leaders after a second");
        world
    }

    fn pass(&mut self, ns: u64) {
        self.clock.0.set(self.clock.now().plus_ns(ns));
        self.settle();
    }

    /// Turns of all cores until none of them finds anything to do.
    fn settle(&mut self) {
        for _ in 0..1_000 {
            let turns: Vec<bool> = self.reactors.iter_mut().map(|reactor| reactor.turn().unwrap()).collect();
            if !turns.contains(&true) {
                return;
            }
        }
        panic!("still at work after a thousand turns without time");
    }

    fn submit(&self, node: usize, put: Put) {
        self.scripts[node].queued.borrow_mut().push_back((PartitionId(node as u16), put));
    }

    fn key(&self, partition: u16) -> Vec<u8> {
        let keys = (0_u32..).map(|n| n.to_le_bytes().to_vec());
        let home = Route::One(PartitionId(partition));
        keys.into_iter().find(|key| self.config.route(TABLE, key) == home).unwrap()
    }

    fn replies(&self, node: usize) -> Vec<&'static str> {
        let word = |reply: &Reply| match reply {
            Reply::Speculative { .. } => "speculative",
            Reply::Durable { .. } => "durable",
            Reply::RolledBack => "rolled back",
            Reply::Aborted { .. } => "aborted",
        };
        self.scripts[node].replies.borrow().iter().map(word).collect()
    }
}

/// DESIGN §3: a lone transaction on an idle cluster is durable after a round trip, not after a timer.
#[test]
fn a_lone_transaction_becomes_durable_without_any_time_passing() {
    for durability in Durability::ALL {
        let mut world = World::open(durability);
        world.submit(0, Put { keys: vec![world.key(0)] });
        world.settle();
        assert_eq!(world.replies(0), ["speculative", "durable"], "{durability}");
    }
}

/// DESIGN §3 again: what two shards must tell each other takes a few exchanges. A heartbeat, the timer to
/// which it would fall back, comes after five hundred of them.
#[test]
fn a_lone_transaction_of_two_shards_takes_a_few_exchanges() {
    for durability in Durability::ALL {
        let mut world = World::open(durability);
        world.submit(0, Put { keys: vec![world.key(0), world.key(1)] });
        let mut exchanges = 0;
        while world.replies(0).len() < 2 {
            world.pass(EXCHANGE_INTERVAL_NS);
            exchanges += 1;
            assert!(exchanges <= 4, "{durability}: {:?}", world.replies(0));
        }
        assert_eq!(world.replies(0), ["speculative", "durable"], "{durability}");
    }
}

/// A core whose deadline has passed though nothing is due never sleeps again; one that forgets a deadline
/// is never heard of again.
#[test]
fn an_idle_core_has_nothing_to_do_before_the_deadline_it_names() {
    let mut world = World::open(Durability::QuorumDisk);
    let mut waits = Vec::new();
    for _ in 0..400 {
        let now = world.clock.now();
        let due = world.reactors.iter().map(|reactor| reactor.core.deadline().unwrap());
        let first = due.min().unwrap();
        assert!(first > now, "due {} ns ago", now.since(first));
        assert!(world.reactors.iter_mut().all(|reactor| !reactor.turn().unwrap()));
        waits.push(first.since(now));
        world.pass(first.since(now));
    }
    let (all, longest) = (waits.iter().sum::<u64>(), waits.iter().max().unwrap());
    assert!(*longest <= 200 * MS && all / 400 >= 5 * MS, "on average {} ns, at most {longest}", all / 400);
}

/// Persist before you speak, through the whole turn: in no mode that counts a log is a transaction
/// durable before that log is.
#[test]
fn nothing_is_durable_before_the_logs_that_count_are() {
    let table = [
        (Durability::Memory, [true; 3], true),
        (Durability::LeaderDisk, [false, true, true], true),
        (Durability::LeaderDisk, [true, false, false], false),
        (Durability::QuorumDisk, [true, false, true], false),
        (Durability::QuorumDisk, [false, true, false], true),
    ];
    for (durability, held, durable) in table {
        let mut world = World::open(durability);
        world.disks.iter().zip(held).for_each(|(disk, held)| disk.held.set(held));
        world.submit(0, Put { keys: vec![world.key(0)] });
        world.settle();
        let expected: &[&str] = if durable { &["speculative", "durable"] } else { &["speculative"] };
        assert_eq!(world.replies(0), expected, "{durability}, disks held: {held:?}");
        world.disks.iter().for_each(|disk| disk.held.set(false));
        world.settle();
        assert_eq!(world.replies(0), ["speculative", "durable"], "{durability}");
    }
}

/// After one failed write nothing is promised again: the frames of that turn stay where they are.
#[test]
fn a_core_whose_disk_fails_says_nothing_more() {
    let mut world = World::open(Durability::QuorumDisk);
    world.submit(0, Put { keys: vec![world.key(0)] });
    world.disks[0].broken.set(true);
    let sent = world.reactors[0].outbox.nic.stats().frames_sent;
    assert!(world.reactors[0].run().is_err());
    assert_eq!(world.reactors[0].outbox.nic.stats().frames_sent, sent);
    assert!(!world.replies(0).contains(&"durable"));
}

/// Else its peers wait for answers that will not come until they have heard nothing for ten seconds. One that is killed
/// stands for a process that died, and those say nothing.
#[test]
fn a_core_that_stops_tells_its_peers() {
    for (is_killed, told) in [(false, 1), (true, 0)] {
        let mut world = World::open(Durability::QuorumDisk);
        let shared = &world.reactors[0].shared;
        if is_killed {
            shared.kill()
        } else {
            shared.stop()
        }
        world.reactors[0].run().unwrap();
        for peer in [1, 2] {
            world.reactors[peer].turn().unwrap();
            assert_eq!(world.reactors[peer].core().rpc().stats().peers_left, told);
        }
    }
}

/// A driver that fills its node's cores must see so in the report, and an idle one the contrary.
#[test]
fn time_is_busy_only_between_a_turn_that_worked_and_the_next() {
    let mut pace = Pace::new(Timestamp(100));
    for (at, worked) in [(100, false), (140, true), (150, true), (160, false), (200, false)] {
        pace.begin_turn(Timestamp(at));
        pace.end_turn(worked);
    }
    assert_eq!((pace.busy_ns, pace.turns, pace.idle_ns()), (20, 5, 50));
    assert!((pace.busy() - 0.2).abs() < 1e-9);
}

/// Counted as work, pauses would show a core as full that has room for as much again.
#[test]
fn a_pause_is_neither_work_nor_more_than_a_small_part_of_the_round_trip() {
    let mut pace = Pace::new(Timestamp(100));
    pace.begin_turn(Timestamp(100));
    pace.end_turn(true);
    pace.end_work(Timestamp(110));
    pace.begin_turn(Timestamp(200));
    pace.end_turn(false);
    assert_eq!(pace.busy_ns, 10);

    assert_eq!(pause_ns(None), 0, "no peer is known");
    assert_eq!(pause_ns(Some(100_000)), 0, "a peer on the same switch");
    assert_eq!(pause_ns(Some(10 * MS)), 10 * MS / PAUSE_SHARE);
    assert_eq!(pause_ns(Some(1_000 * MS)), PAUSE_NS_MAX);
}

const TABLE: TableId = TableId(0);
const BEGIN: u64 = 1_700_000_000_000_000_000;
