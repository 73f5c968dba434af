//! What the tests of this layer put a core on: a log, checkpoints and a board that only remember, and frames
//! carried by hand.
#![forbid(unsafe_code)]

use super::checkpoint::cluster_of;
use super::core::Core;
use super::driver::{Mode, Submit};
use super::ports::{CheckpointEvent, CheckpointPart, Checkpoints, Log, Marks, Origin, Ports};
use super::recovery::Recovery;
use super::replica::Replica;
use crate::bounds::{CHECKPOINT_LOG_STEP_BYTES, CHECKPOINT_WRITE_BYTES_MAX};
use crate::config::{Config, Durability, LocalCluster, Routing, Table};
use crate::txn::{Abort, Procedure, Reply, Txn};
use crate::types::{
    Ballot, CoreId, DiskId, Endpoint, Lsn, NodeId, PartitionId, ShardId, Slot, TableId, Timestamp, Watermark,
};
use crate::wal::checkpoint::CheckpointReader;
use crate::wal::{OwnedRecord, Record, RecordKind, RecordView};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::rc::Rc;

pub const T: TableId = TableId(0);
pub const NOW: Timestamp = Timestamp(1_000_000_000_000);

/// A log that is durable when the test says so. Every record of it is a step of its own.
#[derive(Default)]
pub struct PaperLog {
    pub records: VecDeque<OwnedRecord>,
    appended: u64,
    durable: Lsn,
    pub wants_checkpoint: bool,
    pub overdue_percent: u64,
    /// Acceptances that were cut off since somebody looked.
    pub cut: Vec<(PartitionId, Slot)>,
}

impl PaperLog {
    pub fn end(&self) -> Lsn {
        Lsn(self.appended * CHECKPOINT_LOG_STEP_BYTES)
    }

    /// What was not durable is gone.
    pub fn crash(&mut self) {
        self.records.retain(|record| record.lsn <= self.durable);
        self.wants_checkpoint = false;
    }
}

impl Log for PaperLog {
    fn append(&mut self, record: &Record<'_>) -> Lsn {
        self.appended += 1;
        let lsn = self.end();
        self.records.push_back(OwnedRecord::from(RecordView { lsn, record: *record }));
        lsn
    }

    fn room(&self) -> usize {
        usize::MAX
    }

    /// Votes are kept, as a disk keeps them beside the log.
    fn truncate(&mut self, below: Lsn) {
        assert!(below <= self.end(), "cut at {below:?}, behind the end at {:?}", self.end());
        let gone = |record: &OwnedRecord| record.lsn <= below && record.kind == RecordKind::Accept;
        self.cut
            .extend(self.records.iter().filter(|record| gone(record)).map(|one| (one.partition, one.slot)));
        self.records.retain(|record| !gone(record));
    }

    fn checkpoint_due(&self) -> bool {
        self.wants_checkpoint
    }

    fn overdue_percent(&self) -> u64 {
        self.overdue_percent
    }
}

/// Checkpoints on paper: done as soon as somebody looks.
#[derive(Default)]
pub struct PaperCheckpoints {
    pub committed: BTreeMap<PartitionId, Vec<u8>>,
    drafts: [Option<(PartitionId, Vec<u8>)>; 2],
    events: VecDeque<CheckpointEvent>,
    /// No space: whatever is committed fails.
    pub full: bool,
    /// Takes nothing in of our own.
    pub slow: bool,
}

impl PaperCheckpoints {
    pub fn crash(&mut self) {
        self.drafts = [None, None];
        self.events.clear();
    }

    pub fn is_writing(&self, origin: Origin) -> bool {
        self.drafts[origin as usize].is_some()
    }
}

impl Checkpoints for PaperCheckpoints {
    fn begin(&mut self, origin: Origin, partition: PartitionId) -> bool {
        let draft = &mut self.drafts[origin as usize];
        let begins = draft.is_none();
        if begins {
            *draft = Some((partition, Vec::new()));
        }
        begins
    }

    fn room(&self, origin: Origin) -> usize {
        let slow = self.slow && origin == Origin::Own;
        if self.is_writing(origin) && !slow { CHECKPOINT_WRITE_BYTES_MAX } else { 0 }
    }

    fn write(&mut self, origin: Origin, bytes: &[u8]) {
        assert!(bytes.len() <= self.room(origin));
        self.drafts[origin as usize].as_mut().unwrap().1.extend_from_slice(bytes);
    }

    fn commit(&mut self, origin: Origin) {
        let (partition, bytes) = self.drafts[origin as usize].take().unwrap();
        if self.full {
            return self.events.push_back(CheckpointEvent::Failed { origin, partition });
        }
        self.committed.insert(partition, bytes);
        self.events.push_back(CheckpointEvent::Committed { origin, partition });
    }

    fn abandon(&mut self, origin: Origin) {
        self.drafts[origin as usize] = None;
    }

    fn read(&mut self, partition: PartitionId, offset: u64, bytes: usize, ticket: u64) -> bool {
        let part = self.committed.get(&partition).map(|whole| {
            let from = whole.len().min(offset as usize);
            let to = whole.len().min(from + bytes);
            let checkpoint = u32::from_le_bytes(whole[8..12].try_into().unwrap());
            CheckpointPart { checkpoint, total: whole.len() as u64, offset, bytes: whole[from..to].to_vec() }
        });
        self.events.push_back(CheckpointEvent::Read { ticket, part });
        true
    }

    fn poll(&mut self) -> Option<CheckpointEvent> {
        self.events.pop_front()
    }
}

/// By partition its mark; by shard its watermark and what is wanted of it.
#[derive(Default)]
pub struct PaperBoard {
    marks: RefCell<Vec<Watermark>>,
    shards: RefCell<Vec<(Watermark, Timestamp)>>,
    leases: RefCell<Vec<Timestamp>>,
}

impl PaperBoard {
    pub fn new(config: &Config) -> PaperBoard {
        let marks = RefCell::new(vec![Watermark::default(); config.partition_count()]);
        let leases = RefCell::new(vec![Timestamp::default(); config.shards.len()]);
        PaperBoard { marks, shards: RefCell::new(vec![Default::default(); config.shards.len()]), leases }
    }
}

impl Marks for PaperBoard {
    fn publish_partition(&self, partition: PartitionId, mark: Watermark, _: Timestamp) {
        self.marks.borrow_mut()[usize::from(partition.0)] = mark;
    }

    fn partition(&self, partition: PartitionId) -> Watermark {
        self.marks.borrow()[usize::from(partition.0)]
    }

    fn merge_shard(&self, shard: ShardId, heard: Watermark) -> bool {
        let known = &mut self.shards.borrow_mut()[usize::from(shard.0)].0;
        let news = heard > *known;
        *known = heard.max(*known);
        news
    }

    fn shard(&self, shard: ShardId) -> Watermark {
        self.shards.borrow()[usize::from(shard.0)].0
    }

    fn want(&self, shard: ShardId, timestamp: Timestamp) {
        let wanted = &mut self.shards.borrow_mut()[usize::from(shard.0)].1;
        *wanted = timestamp.max(*wanted);
    }

    fn wanted(&self, shard: ShardId) -> Timestamp {
        self.shards.borrow()[usize::from(shard.0)].1
    }

    fn publish_lease(&self, shard: ShardId, until: Timestamp) {
        self.leases.borrow_mut()[usize::from(shard.0)] = until;
    }

    fn publish_leader(&self, _: ShardId, _: Option<Ballot>) {}

    fn lease(&self, shard: ShardId) -> Timestamp {
        self.leases.borrow()[usize::from(shard.0)]
    }
}

/// Reads some keys, then writes others. The first byte of a key is its partition.
#[derive(Default, Debug)]
pub struct Plan {
    pub reads: Vec<[u8; 2]>,
    pub writes: Vec<[u8; 2]>,
    /// Of each value written.
    pub value_bytes: usize,
}

impl Procedure for Plan {
    async fn run(&self, txn: &Txn) -> Result<(), Abort> {
        for key in &self.reads {
            txn.get(T, key).await?;
        }
        let value = vec![7; self.value_bytes];
        self.writes.iter().try_for_each(|key| txn.put(T, key, &value))
    }
}

pub fn reading(key: [u8; 2]) -> Plan {
    Plan { reads: vec![key], ..Plan::default() }
}

pub fn writing(key: [u8; 2]) -> Plan {
    Plan { writes: vec![key], ..Plan::default() }
}

/// Every shard on every node, one core each.
pub fn config(shards: usize, replicas: usize, durability: Durability) -> Rc<Config> {
    let tables = vec![Table { name: "t".to_string(), routing: Routing::Int(1) }];
    let flags = LocalCluster { shards, replicas, durability, tables, cpus: 1, ..LocalCluster::default() };
    Rc::new(Config::local(&flags).unwrap())
}

/// A node with one core.
pub struct Node {
    pub me: Endpoint,
    pub core: Core<Plan>,
    pub log: PaperLog,
    pub checkpoints: PaperCheckpoints,
    pub board: PaperBoard,
    pub now: Timestamp,
    config: Rc<Config>,
    lives: u64,
    /// A log that writes as fast as it is written to.
    pub writes_at_once: bool,
}

impl Node {
    pub fn new(config: &Rc<Config>, node: u16) -> Node {
        let me = Endpoint { node: NodeId(node), core: CoreId(0) };
        Node {
            me,
            core: Core::new(config, me, 1, 7),
            log: PaperLog::default(),
            checkpoints: PaperCheckpoints::default(),
            board: PaperBoard::new(config),
            now: NOW,
            config: config.clone(),
            lives: 1,
            writes_at_once: true,
        }
    }

    /// Crashes, and starts again from what its disk holds.
    pub fn restart(&mut self) {
        let recovery = self.recovery();
        self.start_again(recovery);
    }

    /// Crashes, and starts again as one whose disk was emptied.
    pub fn rebuild(&mut self) {
        self.empty();
        self.start_again(Recovery::rebuilding());
    }

    /// Starts, perhaps again, on a disk that its peers may know, from what it holds.
    pub fn start_on(&mut self, disk: u64, rebuilds: bool) {
        let mut recovery = self.recovery();
        recovery.on_disk(DiskId(disk));
        if rebuilds {
            recovery.on_disk_lost();
        }
        self.start_again(recovery);
    }

    /// Its disk loses everything.
    pub fn empty(&mut self) {
        (self.log.records, self.checkpoints) = Default::default();
    }

    fn start_again(&mut self, recovery: Recovery) {
        self.lives += 1;
        self.log.crash();
        self.checkpoints.crash();
        self.board = PaperBoard::new(&self.config);
        self.core = Core::restored(&self.config, self.me, self.lives, self.lives, recovery);
    }

    /// What a start would find.
    fn recovery(&self) -> Recovery {
        let mut recovery = Recovery::default();
        for (partition, bytes) in &self.checkpoints.committed {
            let mut reader = CheckpointReader::new(cluster_of(&self.config), *partition);
            // In pieces that fit nothing.
            for piece in bytes.chunks(777) {
                reader.feed(piece, &mut |piece| recovery.on_checkpoint(&self.config, piece)).unwrap();
            }
            reader.finish().unwrap();
        }
        for record in self.log.records.iter().filter(|record| record.lsn <= self.log.durable) {
            let OwnedRecord { lsn, kind, partition, ballot, slot, ref payload } = *record;
            let record = Record { kind, partition, ballot, slot, payload };
            recovery.on_record(&RecordView { lsn, record });
        }
        recovery
    }

    /// Every key of a partition with its newest version.
    pub fn rows(&self, partition: u16) -> Vec<Row> {
        let replica = self.replica(partition);
        let store = replica.store.borrow();
        let mut rows = Vec::new();
        store.tables()[0].scan(b"", None, |key, version| {
            if let Some(value) = &version.value {
                rows.push((key.to_vec(), version.timestamp, value.to_vec()));
            }
            ControlFlow::Continue(())
        });
        rows
    }

    pub fn replica(&self, partition: u16) -> &Replica<Plan> {
        self.core.replicas().iter().find(|replica| replica.id == PartitionId(partition)).unwrap()
    }

    /// One that leads what it may lead.
    pub fn open(config: &Rc<Config>, node: u16) -> Node {
        let mut node = Node::new(config, node);
        for _ in 0..8 {
            node.turn();
        }
        assert!(node.core.replicas().iter().any(|replica| replica.open));
        node
    }

    /// A turn with these submissions, each to the partition of its number; who was refused.
    pub fn turn_with(&mut self, plans: Vec<(u16, Plan)>) -> usize {
        let Node { core, log, checkpoints, board, now, .. } = self;
        let mut ports = Ports { log, checkpoints, board };
        core.begin_turn(*now, &mut ports);
        let mut refused = 0;
        for (token, (home, plan)) in (0..).zip(plans) {
            let mut desk = core.desk(*now, usize::MAX);
            refused += usize::from(desk.submit(PartitionId(home), Mode::ReadWrite, token, plan).is_err());
        }
        core.end_turn(*now, &mut ports);
        if self.writes_at_once {
            self.flush();
        }
        refused
    }

    pub fn turn(&mut self) {
        self.turn_with(Vec::new());
    }

    /// Everything appended is durable.
    pub fn flush(&mut self) {
        self.log.durable = self.log.end();
        self.core.on_durable(self.now, self.log.end());
    }

    pub fn replies(&mut self) -> Vec<Reply> {
        std::iter::from_fn(|| self.core.poll_reply()).map(|(_, reply, _)| reply).collect()
    }

    /// The frames it has to send.
    pub fn frames(&mut self) -> Vec<(Endpoint, Vec<u8>)> {
        let mut frames = Vec::new();
        let mut frame = Vec::new();
        while let Some(to) = self.core.poll_tx(self.now, &mut frame) {
            frames.push((to, frame.clone()));
        }
        frames
    }

    pub fn pass(&mut self, ns: u64) {
        self.now = self.now.plus_ns(ns);
    }
}

/// Turns of all nodes, with frames between them, until nobody has any more to say.
pub fn converse(nodes: &mut [Node]) {
    converse_without(nodes, None);
}

/// As `converse`, but nothing gets to a node that is cut off, or away from it.
pub fn converse_without(nodes: &mut [Node], absent: Option<u16>) {
    for _ in 0..ROUNDS_MAX {
        let mut sent = 0;
        for at in 0..nodes.len() {
            nodes[at].turn();
            for (to, frame) in nodes[at].frames() {
                if absent.is_some_and(|absent| [nodes[at].me.node, to.node].contains(&NodeId(absent))) {
                    continue;
                }
                sent += 1;
                let Some(node) = nodes.iter_mut().find(|node| node.me == to) else { continue };
                let now = node.now;
                node.core.on_frame(now, &frame);
            }
        }
        if sent == 0 {
            return;
        }
    }
    panic!("still talking after {ROUNDS_MAX} rounds of one instant");
}

/// Lets time pass, in steps, while all but one converse.
pub fn live_without(nodes: &mut [Node], absent: Option<u16>, ns: u64, step_ns: u64) {
    for _ in 0..ns / step_ns {
        nodes.iter_mut().for_each(|node| node.pass(step_ns));
        converse_without(nodes, absent);
    }
}

/// A key, and the timestamp and value of its newest version.
pub type Row = (Vec<u8>, Timestamp, Vec<u8>);

const ROUNDS_MAX: usize = 1_000;
