//! Registers: a few keys that transactions read, modify and write, each on file as it begins and as it is answered.
//!
//! Their values name the write that made them, so that `sim::recorded` can judge from the file alone what the
//! clients of all nodes saw, and on every node snapshots of all registers are taken as well. What makes the file
//! sound is told there.
//!
//! Invariant: a `begin` is on file before its transaction is submitted, an answer after it came; each in one write.
#![forbid(unsafe_code)]

use crate::layout::Layout;
use crate::ledger::TABLE;
use crate::node::Numbers;
use mako::bounds::MS;
use mako::partition::{Mode, Submit};
use mako::sim::history::{KeyId, WriteId};
use mako::sim::recorded::{Event, Held};
use mako::txn::{Abort, Procedure, Reply, Txn};
use mako::types::{PartitionId, Prng, Timestamp};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::sync::Arc;

/// Clients of the registers on one core.
pub struct Registers {
    layout: Layout,
    history: Arc<File>,
    /// What their transactions are known by in the history.
    client: u32,
    prng: Prng,
    /// By token: the home of each transaction under way.
    open: BTreeMap<u64, PartitionId>,
    /// By partition: how many transactions of clients are durable.
    durable: BTreeMap<PartitionId, u64>,
    /// When the next transactions are due.
    begin_at: Timestamp,
    /// The snapshot under way, and when the next one is due.
    look: Option<u64>,
    look_at: Timestamp,
    /// Snapshots shown so far.
    pub looks: u64,
}

impl Registers {
    pub fn new(layout: Layout, history: Arc<File>, client: u32, seed: u64) -> Registers {
        Registers {
            layout,
            history,
            client,
            prng: Prng::with_seed(seed),
            open: BTreeMap::new(),
            durable: BTreeMap::new(),
            begin_at: Timestamp::default(),
            look: None,
            look_at: Timestamp::default(),
            looks: 0,
        }
    }

    pub fn owns(&self, token: u64) -> bool {
        self.open.contains_key(&token)
    }

    /// Begins one more transaction for every partition led, unless enough are under way or the last ones are recent.
    pub fn turn<P: From<Work>>(&mut self, now: Timestamp, numbers: &mut Numbers, core: &mut dyn Submit<P>) {
        if now < self.begin_at {
            return;
        }
        self.begin_at = now.plus_ns(PAUSE_NS);
        for home in core.led().to_vec() {
            if self.open.len() < OPEN_MAX {
                let work = self.draw(home, numbers);
                self.submit(home, Mode::ReadWrite, work, numbers, core);
            }
        }
    }

    /// Looks at all registers on a snapshot at or above `from`, one after the other.
    pub fn look<P: From<Work>>(
        &mut self,
        now: Timestamp,
        from: Timestamp,
        numbers: &mut Numbers,
        core: &mut dyn Submit<P>,
    ) {
        if self.look.is_some() || now < self.look_at || core.snapshot() < from.max(Timestamp(1)) {
            return;
        }
        self.look_at = now.plus_ns(LOOK_NS);
        let keys = 0..keys(&self.layout);
        let work = Work::new(keys.map(|key| self.step(KeyId(key), None)).collect());
        let home = core.hosted()[0];
        self.look = self.submit(home, Mode::Snapshot, work, numbers, core);
    }

    pub fn on_reply(&mut self, token: u64, reply: Reply, work: Option<Work>) {
        let event = match reply {
            Reply::Speculative { timestamp, .. } => {
                let reads = work.expect("the first reply gives it back").seen.into_inner();
                Event::Said { txn: token, timestamp, reads }
            }
            Reply::Durable { .. } => Event::Durable { txn: token },
            Reply::RolledBack => Event::RolledBack { txn: token },
            Reply::Aborted { .. } => Event::Refused { txn: token },
        };
        self.append(&event);
        if matches!(event, Event::Said { .. }) {
            return;
        }
        let home = self.open.remove(&token).expect("it was under way");
        let is_durable = matches!(event, Event::Durable { .. });
        if self.look == Some(token) {
            self.look = None;
            self.looks += u64::from(is_durable);
        } else if is_durable {
            let durable = self.durable.entry(home).or_default();
            *durable += 1;
            if durable.is_multiple_of(DURABLE_PER_LINE) {
                println!("recorded {} {durable}", home.0);
            }
        }
    }

    /// Its token, when there was room for it.
    fn submit<P: From<Work>>(
        &mut self,
        home: PartitionId,
        mode: Mode,
        work: Work,
        numbers: &mut Numbers,
        core: &mut dyn Submit<P>,
    ) -> Option<u64> {
        let txn = numbers.take();
        let writes = work.steps.iter().filter_map(|step| Some((step.id, step.writes?))).collect();
        self.append(&Event::Begin { txn, client: self.client, mode, writes });
        self.open.insert(txn, home);
        let taken = core.submit(home, mode, txn, work.into()).is_ok();
        if !taken {
            self.open.remove(&txn);
            self.append(&Event::Refused { txn });
        }
        taken.then_some(txn)
    }

    /// Updates one register at home or reads several, and does either to others, now and then of other partitions.
    fn draw(&mut self, home: PartitionId, numbers: &mut Numbers) -> Work {
        let updates = self.prng.u8(..READS_EVERY) != 0;
        let mut chosen = BTreeSet::new();
        for at in 0..self.prng.u32(1..=STEPS_MAX) {
            let near = u32::from(home.0) * REGISTERS_EACH + self.prng.u32(..REGISTERS_EACH);
            let far = self.prng.u32(..keys(&self.layout));
            let is_far = at > 0 && self.prng.bool();
            chosen.insert(if is_far { far } else { near });
        }
        let mut steps: Vec<Step> = chosen.into_iter().map(|key| self.step(KeyId(key), None)).collect();
        for step in steps.iter_mut().filter(|_| updates) {
            step.writes = self.prng.bool().then(|| WriteId(numbers.take()));
        }
        Work::new(steps)
    }

    fn step(&self, id: KeyId, writes: Option<WriteId>) -> Step {
        let partition = u16::try_from(id.0 / REGISTERS_EACH).expect("partitions are few");
        let mut key = [0; KEY_BYTES];
        key[..4].copy_from_slice(&self.layout.prefix(PartitionId(partition)).to_be_bytes());
        key[4] = REGISTER;
        key[5] = u8::try_from(id.0 % REGISTERS_EACH).expect("registers are few");
        Step { id, key, writes }
    }

    fn append(&mut self, event: &Event) {
        (&*self.history).write_all(event.line().as_bytes()).expect("the file of the history takes a line");
    }
}

/// A transaction: every register it reads, and which of them it writes as well.
pub struct Work {
    steps: Vec<Step>,
    /// What the last run saw.
    seen: RefCell<Vec<(KeyId, Option<Held>)>>,
}

struct Step {
    id: KeyId,
    key: [u8; KEY_BYTES],
    writes: Option<WriteId>,
}

impl Work {
    fn new(steps: Vec<Step>) -> Work {
        Work { steps, seen: RefCell::default() }
    }
}

impl Procedure for Work {
    async fn run(&self, txn: &Txn) -> Result<(), Abort> {
        self.seen.borrow_mut().clear();
        for step in &self.steps {
            txn.prefetch(TABLE, &step.key);
        }
        for Step { id, key, writes } in &self.steps {
            let held = txn.get(TABLE, key).await?.map(|value| read(&value));
            self.seen.borrow_mut().push((*id, held));
            if let Some(write) = writes {
                let number = held.map_or(0, |held| held.number) + 1;
                txn.put(TABLE, key, &value(Held { id: *write, number, previous: held.map(|held| held.id) }))?;
            }
        }
        Ok(())
    }
}

/// Three integers: the write, its number, and the write before it or 0.
fn value(held: Held) -> [u8; VALUE_BYTES] {
    let mut value = [0; VALUE_BYTES];
    let words = [held.id.0, held.number, held.previous.map_or(0, |id| id.0)];
    for (place, word) in value.chunks_exact_mut(8).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    value
}

fn read(value: &[u8]) -> Held {
    assert_eq!(value.len(), VALUE_BYTES, "the value of a register is whole: {value:?}");
    let word = |at: usize| u64::from_le_bytes(value[at..at + 8].try_into().expect("eight bytes"));
    Held { id: WriteId(word(0)), number: word(8), previous: Some(WriteId(word(16))).filter(|id| id.0 > 0) }
}

fn keys(layout: &Layout) -> u32 {
    u32::try_from(layout.partition_count()).expect("partitions are few") * REGISTERS_EACH
}

const KEY_BYTES: usize = 6;
const VALUE_BYTES: usize = 24;
/// The fifth byte of their keys, in the table of the ledger.
const REGISTER: u8 = b'v';
/// Of each partition: few, so that transactions meet.
const REGISTERS_EACH: u32 = 6;
const STEPS_MAX: u32 = 4;
/// One transaction in so many only reads.
const READS_EVERY: u8 = 3;
/// Under way on one core.
const OPEN_MAX: usize = 32;
/// From one transaction of a partition to the next: the file is to stay small.
const PAUSE_NS: u64 = MS;
/// Between two snapshots of a core.
const LOOK_NS: u64 = 20 * MS;
const DURABLE_PER_LINE: u64 = 50;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{self, Engine};
    use crate::ledger;
    use mako::sim::recorded::judge;

    #[test]
    fn a_value_is_read_as_it_was_written() {
        let first = Held { id: WriteId(7), number: 1, previous: None };
        for held in [first, Held { number: 2, previous: Some(WriteId(u64::MAX)), ..first }] {
            assert_eq!(read(&value(held)), held);
        }
    }

    /// Were what a transaction notes not what it saw, the file would accuse the engine, or bless it.
    /// Keeps what is submitted.
    struct Keeping(Vec<(u64, Work)>);

    impl Submit<Work> for Keeping {
        fn submit(&mut self, _: PartitionId, _: Mode, token: u64, work: Work) -> Result<(), Work> {
            self.0.push((token, work));
            Ok(())
        }

        fn led(&self) -> &[PartitionId] {
            &[PartitionId(0)]
        }

        fn hosted(&self) -> &[PartitionId] {
            self.led()
        }

        fn snapshot(&self) -> Timestamp {
            Timestamp(1_000)
        }

        fn applied(&self) -> Timestamp {
            self.snapshot()
        }
    }

    /// Were what a transaction notes not what it saw, the file would accuse the engine, or bless it.
    #[test]
    fn what_is_noted_of_a_sound_engine_is_sound() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("history");
        let layout = Layout::new(&fixture::config(1, 1, 1, ledger::tables()), TABLE);
        let mut registers = Registers::new(layout, Arc::new(File::create(&path).unwrap()), 0, 1);
        let (mut numbers, mut core) = (Numbers::starting_at(1), Keeping(Vec::new()));
        let engine = Engine::start(ledger::tables());
        for at in 1..=201 {
            match at {
                201 => registers.look(Timestamp(at * MS), Timestamp(200), &mut numbers, &mut core),
                _ => registers.turn(Timestamp(at * MS), &mut numbers, &mut core),
            }
            let (token, work) = core.0.pop().unwrap();
            let (work, result) = engine.run(work);
            assert_eq!((result, registers.owns(token)), (Ok(()), true));
            let timestamp = Timestamp(at);
            let said = Reply::Speculative { timestamp, distributed: false, attempts: 1 };
            registers.on_reply(token, said, Some(work));
            registers.on_reply(token, Reply::Durable { timestamp }, None);
            assert!(!registers.owns(token));
        }
        let summary = judge(&std::fs::read_to_string(path).unwrap()).unwrap();
        assert_eq!((summary.durable, summary.newest, summary.looked.len()), (200, Timestamp(200), 1));
        assert!(summary.checked.writer_reads > 100, "{summary:?}");
        assert_eq!(summary.checked.snapshot_reads, REGISTERS_EACH as usize);
    }
}
