//! Numbered payments: the transactions of a node that is to be killed, and the look at what is left of them.
//!
//! Each payment counts up its home partition's counter, leaves a receipt under the number it drew, and moves
//! money between two accounts. So a payment that was lost, ran twice or ran by halves shows afterwards: in a
//! receipt that is gone or another's, in numbers with holes, in a total that is off.
#![forbid(unsafe_code)]

use crate::layout::Layout;
#[cfg(test)]
use mako::config::Table;
use mako::txn::{Abort, Procedure, Txn};
use mako::types::{PartitionId, Prng, TableId, Value};
use std::cell::{Cell, RefCell};
use std::fmt::Write;

/// Every procedure of this workload.
pub enum Step {
    Pay(Payment),
    Total(Total),
    Receipts(Receipts),
}

pub struct Payment {
    pub home: PartitionId,
    /// What the keys of its home partition begin with.
    prefix: u32,
    /// No other payment has it.
    pub id: u64,
    /// Accounts, by prefix and number.
    from: (u32, u32),
    to: (u32, u32),
    amount: i64,
    /// The number drawn by the last run.
    pub number: Cell<u64>,
}

impl Payment {
    /// At home, and now and then from there to elsewhere.
    pub fn draw(layout: &Layout, rng: &mut Prng, home: PartitionId, id: u64) -> Payment {
        let partitions = u16::try_from(layout.partition_count()).expect("partitions are few");
        let other = if rng.u8(..AWAY_EVERY) == 0 { PartitionId(rng.u16(..partitions)) } else { home };
        let prefix = layout.prefix(home);
        let (from, step) = (rng.u32(..ACCOUNTS), rng.u32(1..ACCOUNTS));
        let to = (layout.prefix(other), (from + step) % ACCOUNTS);
        let amount = rng.i64(1..=AMOUNT_MAX);
        Payment { home, prefix, id, from: (prefix, from), to, amount, number: Cell::default() }
    }

    async fn run(&self, txn: &Txn) -> Result<(), Abort> {
        let counter = key(self.prefix, COUNTER, 0);
        let number = txn.get(TABLE, &counter).await?.map_or(0, |value| word(&value)) + 1;
        txn.put(TABLE, &counter, &number.to_be_bytes())?;
        txn.put(TABLE, &key(self.prefix, RECEIPT, number), &self.id.to_be_bytes())?;
        for ((prefix, account), change) in [(self.from, -self.amount), (self.to, self.amount)] {
            let account = key(prefix, ACCOUNT, u64::from(account));
            let balance = txn.get(TABLE, &account).await?.map_or(FIRST_BALANCE, |value| balance(&value));
            txn.put(TABLE, &account, &(balance + change).to_be_bytes())?;
        }
        self.number.set(number);
        Ok(())
    }
}

/// Adds up all accounts at one snapshot.
pub struct Total {
    pub prefixes: Vec<u32>,
    pub sum: Cell<i64>,
}

impl Total {
    async fn run(&self, txn: &Txn) -> Result<(), Abort> {
        let mut sum = 0;
        for prefix in &self.prefixes {
            for account in 0..ACCOUNTS {
                let value = txn.get(TABLE, &key(*prefix, ACCOUNT, u64::from(account))).await?;
                sum += value.map_or(FIRST_BALANCE, |value| balance(&value));
            }
        }
        self.sum.set(sum);
        Ok(())
    }

    /// What it comes to when no payment was made by halves.
    pub fn expected(&self) -> i64 {
        i64::try_from(self.prefixes.len()).expect("few") * i64::from(ACCOUNTS) * FIRST_BALANCE
    }
}

/// Reads some receipts of a partition, and its counter.
pub struct Receipts {
    pub partition: PartitionId,
    pub prefix: u32,
    /// The first number to read.
    pub from: u64,
    /// What is printed of them, and how many they are.
    pub seen: RefCell<(String, usize)>,
}

impl Receipts {
    async fn run(&self, txn: &Txn) -> Result<(), Abort> {
        let partition = self.partition.0;
        let (from, to) = (key(self.prefix, RECEIPT, self.from), key(self.prefix, RECEIPT, u64::MAX));
        let rows = txn.scan(TABLE, &from, Some(&to), RECEIPTS_EACH).await?;
        let counter = txn.get(TABLE, &key(self.prefix, COUNTER, 0)).await?;
        let mut text = String::new();
        for (key, id) in rows.iter() {
            let (number, id) = (word(&key[KEY_BYTES - 8..]), word(id));
            writeln!(text, "receipt {partition} {number} {id}").expect("a string takes everything");
        }
        if rows.len() < RECEIPTS_EACH {
            let counter = counter.map_or(0, |value| word(&value));
            writeln!(text, "counter {partition} {counter}").expect("a string takes everything");
        }
        self.seen.replace((text, rows.len()));
        Ok(())
    }
}

impl Procedure for Step {
    async fn run(&self, txn: &Txn) -> Result<(), Abort> {
        match self {
            Step::Pay(payment) => payment.run(txn).await,
            Step::Total(total) => total.run(txn).await,
            Step::Receipts(receipts) => receipts.run(txn).await,
        }
    }
}

#[cfg(test)]
pub fn tables() -> Vec<Table> {
    vec![Layout::by_integer("ledger")]
}

const KEY_BYTES: usize = 13;

/// Routed by the prefix.
fn key(prefix: u32, kind: u8, number: u64) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    key[..4].copy_from_slice(&prefix.to_be_bytes());
    key[4] = kind;
    key[5..].copy_from_slice(&number.to_be_bytes());
    key
}

fn word(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes.try_into().expect("eight bytes"))
}

fn balance(value: &Value) -> i64 {
    i64::from_be_bytes(value[..].try_into().expect("a balance has eight bytes"))
}

pub const TABLE: TableId = TableId(0);
const COUNTER: u8 = b'c';
const RECEIPT: u8 = b'r';
const ACCOUNT: u8 = b'a';
/// Of each partition.
const ACCOUNTS: u32 = 20;
/// An account that was never paid from or to.
const FIRST_BALANCE: i64 = 1_000;
const AMOUNT_MAX: i64 = 100;
/// One payment in so many goes to any partition.
const AWAY_EVERY: u8 = 8;
/// Receipts read by one transaction.
pub const RECEIPTS_EACH: usize = 1_000;
const _: () = assert!(RECEIPTS_EACH < mako::bounds::SCAN_ROWS_MAX);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{self, Engine};

    fn pay(engine: &Engine<Step>, layout: &Layout, id: u64) -> u64 {
        let payment = Payment::draw(layout, &mut Prng::with_seed(id), PartitionId(0), id);
        let (Step::Pay(payment), result) = engine.run(Step::Pay(payment)) else { panic!("a payment") };
        assert_eq!(result, Ok(()));
        payment.number.get()
    }

    /// What the killing tests compare: were a payment itself unsound, they would blame the engine.
    #[test]
    fn payments_are_numbered_and_leave_receipts_and_the_total() {
        let config = fixture::config(1, 1, 1, tables());
        let layout = Layout::new(&config, TABLE);
        let prefix = layout.prefix(PartitionId(0));
        let engine = Engine::start(tables());
        assert_eq!([11, 22, 33].map(|id| pay(&engine, &layout, id)), [1, 2, 3]);

        let seen = RefCell::default();
        let receipts = Receipts { partition: PartitionId(0), prefix, from: 2, seen };
        let Step::Receipts(receipts) = engine.inspect(Step::Receipts(receipts)) else { panic!("receipts") };
        let (text, count) = receipts.seen.into_inner();
        assert_eq!((text.as_str(), count), ("receipt 0 2 22\nreceipt 0 3 33\ncounter 0 3\n", 2));
        let total = Total { prefixes: vec![prefix], sum: Cell::default() };
        let Step::Total(total) = engine.inspect(Step::Total(total)) else { panic!("a total") };
        assert_eq!(total.sum.get(), total.expected());
    }
}
