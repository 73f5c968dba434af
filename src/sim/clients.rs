//! The clients of a simulated cluster: what they submit, and what they write down of the answers.
//!
//! Every value names the write that made it, so that a history can be judged from outside. Keys are two
//! bytes, a group and a number in it; the group routes.
#![forbid(unsafe_code)]

use super::history::{Direction, History, KeyId, TxnIndex, WriteId};
use super::truth::Truth;
use crate::bounds::{MS, SECOND, US};
use crate::config::{Config, Route};
use crate::partition::{Driver, Mode, Submit};
use crate::txn::{Abort, Procedure, Reply, Rows, Txn};
use crate::types::{PartitionId, Prng, ShardId, Stamp, TableId, Timestamp};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

/// The clients of one core.
pub struct Clients {
    pub shared: Rc<RefCell<Recorder>>,
    config: Rc<Config>,
    clients: Vec<Client>,
    /// Submitted and not finally answered: what each may write, until it has been recorded.
    outstanding: BTreeMap<u64, Vec<(KeyId, WriteId, bool)>>,
    prng: Prng,
    /// The share of transactions that only read.
    reading: f64,
    /// Virtual time, by which clients live: they are no part of any node.
    now: u64,
    /// Of the partitions that are led here after this turn.
    reigns: Vec<(PartitionId, Stamp)>,
}

struct Client {
    id: u32,
    /// When it submits next, in virtual time.
    next: u64,
    /// What it waits for.
    busy: Option<u64>,
    /// Goes on when its transaction is speculative rather than durable.
    hasty: bool,
    /// Transactions left before it pauses.
    burst: u32,
}

/// What all clients write into.
pub struct Recorder {
    pub history: History,
    pub truth: Truth,
    /// Transactions that may still be submitted.
    pub left: usize,
    /// Submitted and not finally answered.
    pub open: usize,
    pub durable: usize,
    pub rolled_back: u64,
    next_write: u64,
    /// The first violation that a client itself noticed.
    pub fault: Option<String>,
}

/// One transaction as a list of steps.
pub struct Work {
    steps: Vec<Step>,
    home: PartitionId,
    gives_up: bool,
    /// What the last run saw, in the order of the steps.
    seen: RefCell<Vec<Seen>>,
    runs: Cell<u32>,
}

enum Step {
    Get(KeyId),
    Put(KeyId, WriteId, usize),
    Delete(KeyId, WriteId),
    Scan { from: KeyId, to: KeyId, limit: usize, direction: Direction },
}

enum Seen {
    Value(Option<WriteId>),
    Rows(Vec<(KeyId, WriteId)>),
    Nothing,
}

impl Recorder {
    pub fn new(truth: Truth, ops: usize) -> Recorder {
        Recorder {
            history: History::new(),
            truth,
            left: ops,
            open: 0,
            durable: 0,
            rolled_back: 0,
            next_write: 1,
            fault: None,
        }
    }

    pub fn write_id(&mut self) -> WriteId {
        self.next_write += 1;
        WriteId(self.next_write - 1)
    }

    fn complain(&mut self, fault: String) {
        self.fault.get_or_insert(fault);
    }
}

impl Procedure for Work {
    async fn run(&self, txn: &Txn) -> Result<(), Abort> {
        self.seen.borrow_mut().clear();
        self.runs.set(self.runs.get() + 1);
        if self.runs.get().is_multiple_of(2) {
            for step in &self.steps {
                if let Step::Get(key) = step {
                    txn.prefetch(TABLE, &key_bytes(*key));
                }
            }
        }
        for step in &self.steps {
            let seen = self.take(step, txn).await?;
            self.seen.borrow_mut().push(seen);
        }
        if self.gives_up { Err(Abort::User) } else { Ok(()) }
    }
}

impl Work {
    async fn take(&self, step: &Step, txn: &Txn) -> Result<Seen, Abort> {
        Ok(match step {
            Step::Get(key) => {
                let value = txn.get(TABLE, &key_bytes(*key)).await?;
                Seen::Value(value.map(|value| write_id(&value)))
            }
            Step::Put(key, id, padding) => {
                let mut value = id.0.to_le_bytes().to_vec();
                value.resize(8 + padding, 7);
                txn.put(TABLE, &key_bytes(*key), &value)?;
                Seen::Nothing
            }
            Step::Delete(key, _) => {
                txn.delete(TABLE, &key_bytes(*key))?;
                Seen::Nothing
            }
            Step::Scan { from, to, limit, direction } => {
                let (from, to) = (key_bytes(*from), key_bytes(*to));
                let rows = match direction {
                    Direction::Forward => txn.scan(TABLE, &from, Some(&to), *limit).await?,
                    Direction::Reverse => txn.rscan(TABLE, &from, Some(&to), *limit).await?,
                };
                Seen::Rows(rows_seen(&rows))
            }
        })
    }

    /// What it will write if it commits.
    fn writes(&self) -> Vec<(KeyId, WriteId, bool)> {
        let write = |step: &Step| match step {
            Step::Put(key, id, _) => Some((*key, *id, false)),
            Step::Delete(key, id) => Some((*key, *id, true)),
            Step::Get(_) | Step::Scan { .. } => None,
        };
        self.steps.iter().filter_map(write).filter(|_| !self.gives_up).collect()
    }

    /// Every shard this transaction touches.
    fn shards(&self, config: &Config) -> Vec<ShardId> {
        let mut shards = vec![config.shard_of(self.home)];
        for step in &self.steps {
            match step {
                Step::Get(key) | Step::Put(key, ..) | Step::Delete(key, _) => {
                    shards.push(shard_of(config, *key))
                }
                Step::Scan { from, to, .. } => {
                    shards.extend((from.0..to.0).map(|key| shard_of(config, KeyId(key))))
                }
            }
        }
        shards.sort();
        shards.dedup();
        shards
    }

    /// Writes the last run down.
    fn record(&self, index: TxnIndex, recorder: &mut Recorder) -> (Vec<WriteId>, Vec<WriteId>) {
        let (mut read, mut written) = (Vec::new(), Vec::new());
        for (step, seen) in self.steps.iter().zip(&*self.seen.borrow()) {
            match (step, seen) {
                (Step::Get(key), Seen::Value(seen)) => {
                    recorder.history.read(index, *key, *seen);
                    read.extend(*seen);
                }
                (Step::Scan { from, to, limit, direction }, Seen::Rows(rows)) => {
                    let complete = rows.len() < *limit;
                    recorder.history.scan(index, *from..*to, *direction, complete, rows);
                    read.extend(rows.iter().map(|(_, id)| *id));
                }
                (Step::Put(key, id, _), Seen::Nothing) => {
                    recorder.history.write(index, *key, *id, false);
                    written.push(*id);
                }
                (Step::Delete(key, id), Seen::Nothing) => {
                    recorder.history.write(index, *key, *id, true);
                    written.push(*id);
                }
                _ => unreachable!("a step saw what another kind of step sees"),
            }
        }
        (read, written)
    }
}

impl Clients {
    pub fn new(
        shared: Rc<RefCell<Recorder>>,
        config: Rc<Config>,
        first: u32,
        prng: Prng,
        reading: f64,
    ) -> Clients {
        let mut prng = prng;
        let client = |id| Client {
            id: first + id,
            next: prng.u64(..100 * MS),
            busy: None,
            hasty: prng.bool(),
            burst: prng.u32(1..60),
        };
        let clients = (0..CLIENTS_PER_CORE).map(client).collect();
        Clients {
            shared,
            config,
            clients,
            outstanding: BTreeMap::new(),
            prng,
            reading,
            now: 0,
            reigns: Vec::new(),
        }
    }

    /// It is so late.
    pub fn set_time(&mut self, now: u64) {
        self.now = now;
    }

    /// Under which reign each partition is led that is led here.
    pub fn set_reigns(&mut self, reigns: impl Iterator<Item = (PartitionId, Stamp)>) {
        self.reigns.clear();
        self.reigns.extend(reigns);
    }

    /// It was so after the turn before.
    pub fn knows_reign(&self, partition: PartitionId, reign: Stamp) -> bool {
        self.reigns.contains(&(partition, reign))
    }

    /// When one of them next has something to submit.
    pub fn due(&self) -> Option<u64> {
        if self.shared.borrow().left == 0 {
            return None;
        }
        self.clients.iter().filter(|client| client.busy.is_none()).map(|client| client.next).min()
    }

    /// The node died: nobody will answer any more, and what became of what was submitted is told by who saw it.
    pub fn abandon(&mut self) {
        let recorder = &mut *self.shared.borrow_mut();
        for (token, writes) in std::mem::take(&mut self.outstanding) {
            let index = TxnIndex(token as u32);
            for (key, id, deleted) in writes {
                recorder.history.write(index, key, id, deleted);
            }
            recorder.history.unknown(index);
            recorder.open -= 1;
        }
        for client in &mut self.clients {
            client.busy = None;
            client.next = self.now + self.prng.u64(..100 * MS);
        }
    }

    fn draw(&mut self, home: PartitionId, mode: Mode) -> Work {
        let mut recorder = self.shared.borrow_mut();
        let (prng, partitions) = (&mut self.prng, self.config.partition_count() as u32);
        let near = |prng: &mut Prng| {
            let group = u32::from(home.0) + partitions * prng.u32(..GROUPS_PER_PARTITION);
            KeyId(group * KEYS_PER_GROUP + prng.u32(..KEYS_PER_GROUP))
        };
        let far = |prng: &mut Prng| KeyId(prng.u32(..keys(partitions)));
        let is_far = prng.f64() < 0.45;
        let key = |prng: &mut Prng| if is_far && prng.bool() { far(prng) } else { near(prng) };
        let mut steps = Vec::new();
        let reads_only = mode == Mode::Snapshot || prng.f64() < self.reading;
        for _ in 0..prng.usize(1..=5) {
            let at = key(prng);
            match prng.u32(..if reads_only { 6 } else { 20 }) {
                0..4 => steps.push(Step::Get(at)),
                4 | 6 => {
                    let start = at.0 - at.0 % KEYS_PER_GROUP;
                    let (from, to) = (KeyId(start), KeyId(start + KEYS_PER_GROUP));
                    steps.push(scan(prng, from, to));
                }
                5 if prng.u32(..4) == 0 => steps.push(scan(prng, KeyId(0), KeyId(keys(partitions)))),
                5 => steps.push(Step::Get(at)),
                7 => steps.push(Step::Delete(at, recorder.write_id())),
                8..14 => {
                    steps.push(Step::Get(at));
                    steps.push(Step::Put(at, recorder.write_id(), padding(prng)));
                }
                _ => steps.push(Step::Put(at, recorder.write_id(), padding(prng))),
            }
        }
        let gives_up = !reads_only && prng.f64() < 0.03;
        Work { steps, home, gives_up, seen: RefCell::default(), runs: Cell::new(0) }
    }
}

impl Driver for Clients {
    type Procedure = Work;

    fn turn(&mut self, _: Timestamp, core: &mut dyn Submit<Work>) {
        let now = self.now;
        for at in 0..self.clients.len() {
            let client = &self.clients[at];
            if client.busy.is_some() || client.next > now || self.shared.borrow().left == 0 {
                continue;
            }
            let snapshot = self.prng.f64() < 0.15 && core.snapshot() > Timestamp(0);
            let (mode, homes) =
                if snapshot { (Mode::Snapshot, core.hosted()) } else { (Mode::ReadWrite, core.led()) };
            if homes.is_empty() {
                self.clients[at].next = now + 5 * MS;
                continue;
            }
            let home = homes[self.prng.usize(..homes.len())];
            let work = self.draw(home, mode);
            let shards = work.shards(&self.config);
            let writes = work.writes();
            let mut recorder = self.shared.borrow_mut();
            let index = recorder.history.begin(now, self.clients[at].id);
            recorder.truth.begin(index, shards, mode == Mode::Snapshot);
            drop(recorder);
            let token = u64::from(index.0);
            let submitted = core.submit(home, mode, token, work);
            let mut recorder = self.shared.borrow_mut();
            match submitted {
                Ok(()) => {
                    recorder.left -= 1;
                    recorder.open += 1;
                    self.outstanding.insert(token, writes);
                    self.clients[at].busy = Some(token);
                }
                Err(_) => {
                    recorder.history.aborted(index, now, "busy");
                    self.clients[at].next = now + 10 * MS;
                }
            }
        }
    }

    fn on_reply(&mut self, _: Timestamp, token: u64, reply: Reply, procedure: Option<Work>) {
        let at = self.now;
        let index = TxnIndex(token as u32);
        let mut recorder = self.shared.borrow_mut();
        let snapshot = recorder.truth.is_snapshot(index);
        let mut is_final = true;
        match reply {
            Reply::Speculative { timestamp, .. } => {
                is_final = false;
                if let Some(work) = procedure {
                    let (read, written) = work.record(index, &mut recorder);
                    let reign =
                        self.reigns.iter().find(|(home, _)| *home == work.home).map(|(_, reign)| *reign);
                    recorder.truth.speculative(index, timestamp, reign, read, &written);
                } else {
                    recorder.complain(format!("{index}: a speculative reply without its procedure"));
                }
                if snapshot {
                    recorder.history.snapshot(index, at, timestamp);
                } else {
                    recorder.history.speculative(index, at, timestamp);
                }
            }
            Reply::Durable { .. } if snapshot => {}
            Reply::Durable { .. } => {
                recorder.durable += 1;
                recorder.history.durable(index, at);
                if let Err(why) = recorder.truth.check_durable(index) {
                    recorder.complain(why);
                }
            }
            Reply::RolledBack => {
                recorder.rolled_back += 1;
                recorder.history.rolled_back(index, at);
            }
            Reply::Aborted { abort, .. } => recorder.history.aborted(index, at, name(abort)),
        }
        if is_final {
            recorder.open -= 1;
            self.outstanding.remove(&token);
        } else if let Some(writes) = self.outstanding.get_mut(&token) {
            writes.clear();
        }
        drop(recorder);
        let Some(client) = self.clients.iter_mut().find(|client| client.busy == Some(token)) else { return };
        if is_final || client.hasty {
            client.busy = None;
            client.burst = client.burst.saturating_sub(1);
            client.next = at + self.prng.u64(..500 * US);
            if client.burst == 0 {
                client.burst = self.prng.u32(1..60);
                client.next = at + self.prng.u64(SECOND..8 * SECOND);
            }
        }
    }

    /// Theirs is virtual time: the world asks `due`.
    fn deadline(&self) -> Option<Timestamp> {
        None
    }
}

fn scan(prng: &mut Prng, from: KeyId, to: KeyId) -> Step {
    let direction = if prng.bool() { Direction::Forward } else { Direction::Reverse };
    let limit = if prng.bool() { 1_000 } else { prng.usize(1..6) };
    Step::Scan { from, to, limit, direction }
}

/// Mostly none; now and then enough for several packets.
fn padding(prng: &mut Prng) -> usize {
    if prng.u32(..50) == 0 { prng.usize(..6_000) } else { prng.usize(..24) }
}

fn rows_seen(rows: &Rows) -> Vec<(KeyId, WriteId)> {
    rows.iter().map(|(key, value)| (key_id(key), write_id(value))).collect()
}

fn name(abort: Abort) -> &'static str {
    match abort {
        Abort::Conflict { .. } => "conflict",
        Abort::User => "user",
        Abort::Busy(_) => "busy",
        Abort::TooBig { .. } => "too big",
        Abort::UnknownTable(_) => "unknown table",
        Abort::ReadOnly => "read only",
        Abort::Unavailable => "unavailable",
        Abort::SnapshotTooOld { .. } => "snapshot too old",
        Abort::Interrupted => "interrupted",
    }
}

fn shard_of(config: &Config, key: KeyId) -> ShardId {
    match config.route(TABLE, &key_bytes(key)) {
        Route::One(partition) => config.shard_of(partition),
        Route::Everywhere => unreachable!("the table of the simulator is routed by key"),
    }
}

pub fn write_id(value: &[u8]) -> WriteId {
    WriteId(value.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes)))
}

pub fn key_bytes(key: KeyId) -> [u8; 2] {
    [(key.0 / KEYS_PER_GROUP) as u8, (key.0 % KEYS_PER_GROUP) as u8]
}

pub fn key_id(bytes: &[u8]) -> KeyId {
    KeyId(u32::from(bytes[0]) * KEYS_PER_GROUP + u32::from(bytes[1]))
}

/// Keys of a cluster of so many partitions.
pub fn keys(partitions: u32) -> u32 {
    partitions * GROUPS_PER_PARTITION * KEYS_PER_GROUP
}

/// The one table of the simulated cluster, routed by the first byte.
pub const TABLE: TableId = TableId(0);
const GROUPS_PER_PARTITION: u32 = 2;
const KEYS_PER_GROUP: u32 = 6;
const CLIENTS_PER_CORE: u32 = 4;
