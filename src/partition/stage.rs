//! What the tests of this layer put a core on: a log and a board that only remember, and frames carried
//! by hand.
#![forbid(unsafe_code)]

use super::core::Core;
use super::driver::{Mode, Submit};
use super::ports::{Log, Marks, Ports};
use crate::config::{Config, Durability, LocalCluster, Routing, Table};
use crate::txn::{Abort, Procedure, Reply, Txn};
use crate::types::{CoreId, Endpoint, Lsn, NodeId, PartitionId, ShardId, TableId, Timestamp, Watermark};
use crate::wal::{Record, RecordKind};
use std::cell::RefCell;
use std::rc::Rc;

pub const T: TableId = TableId(0);
pub const NOW: Timestamp = Timestamp(1_000_000_000_000);

/// A log that is durable when the test says so.
#[derive(Default)]
pub struct PaperLog {
    pub kinds: Vec<RecordKind>,
}

impl PaperLog {
    pub fn end(&self) -> Lsn {
        Lsn(self.kinds.len() as u64)
    }
}

impl Log for PaperLog {
    fn append(&mut self, record: &Record<'_>) -> Lsn {
        self.kinds.push(record.kind);
        self.end()
    }

    fn room(&self) -> usize {
        usize::MAX
    }
}

/// By partition its mark; by shard its watermark and what is wanted of it.
#[derive(Default)]
pub struct PaperBoard {
    marks: RefCell<Vec<Watermark>>,
    shards: RefCell<Vec<(Watermark, Timestamp)>>,
}

impl PaperBoard {
    pub fn new(config: &Config) -> PaperBoard {
        let marks = RefCell::new(vec![Watermark::default(); config.partition_count()]);
        PaperBoard { marks, shards: RefCell::new(vec![Default::default(); config.shards.len()]) }
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
    pub board: PaperBoard,
    pub now: Timestamp,
    /// A log that writes as fast as it is written to.
    pub writes_at_once: bool,
}

impl Node {
    pub fn new(config: &Rc<Config>, node: u16) -> Node {
        let me = Endpoint { node: NodeId(node), core: CoreId(0) };
        let (log, board) = (PaperLog::default(), PaperBoard::new(config));
        Node { me, core: Core::new(config, me, 1, 7), log, board, now: NOW, writes_at_once: true }
    }

    /// One that leads what it may lead.
    pub fn open(config: &Rc<Config>, node: u16) -> Node {
        let mut node = Node::new(config, node);
        for _ in 0..4 {
            node.turn();
        }
        assert!(node.core.replicas().iter().any(|replica| replica.open));
        node
    }

    /// A turn with these submissions, each to the partition of its number; who was refused.
    pub fn turn_with(&mut self, plans: Vec<(u16, Plan)>) -> usize {
        let Node { core, log, board, now, .. } = self;
        let mut ports = Ports { log, board };
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
    for _ in 0..ROUNDS_MAX {
        let mut sent = 0;
        for at in 0..nodes.len() {
            nodes[at].turn();
            for (to, frame) in nodes[at].frames() {
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

const ROUNDS_MAX: usize = 1_000;
