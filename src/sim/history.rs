//! What the clients of one run saw: every transaction, what it read and wrote, how it was answered.
//!
//! Only records. It judges nothing but the answers themselves (a transaction answered twice is noticed
//! when the second answer comes); all else is `check`'s. A transaction's reads and writes are those of
//! the run of its procedure that was answered; earlier attempts leave no trace.
//!
//! Invariants:
//!   1. No two writes share a [`WriteId`]: a value names the write that made it.
//!   2. `writes` of one transaction are chained newest first; at most one of a key is not `superseded`.
//!   3. A read of a key its transaction had written before is not recorded: that a transaction sees its
//!      own writes is the business of the transaction handle.
#![forbid(unsafe_code)]

use std::fmt;
use std::ops::Range;

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use super::violation::{Kind, Violation};
use crate::types::Timestamp;

/// The recorded transactions, their operations in the order recorded.
#[derive(Default)]
pub struct History {
    txns: Vec<Txn>,
    reads: Vec<Read>,
    scans: Vec<Scan>,
    rows: Vec<Row>,
    writes: Vec<Write>,
    ids: HashMap<WriteId, u32, FixedState>,
    /// One past the largest key mentioned.
    keys: u32,
    /// Orders what happened at one instant; grows by one with every event.
    events: u32,
    fault: Option<Violation>,
}

/// A transaction of the history, in the order of `begin`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TxnIndex(pub u32);

/// A key, numbered in the order of the keys. Dense: the checkers keep tables by key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct KeyId(pub u32);

/// One write of one transaction. The value written embeds it, so that a reader knows what it saw.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct WriteId(pub u64);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    Forward,
    Reverse,
}

/// How a transaction stands with its client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    Open,
    Speculative,
    Durable,
    RolledBack,
    Aborted(&'static str),
    Snapshot,
}

/// A point of virtual time. Of two events at one instant, the one recorded first came first: the
/// simulator is one thread, so the order in which it records is the order in which things happened.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Moment {
    pub at: u64,
    order: u32,
}

pub(super) struct Txn {
    pub client: u32,
    pub begun: Moment,
    /// The first answer: from here on the client may rely on it.
    pub replied: Option<Moment>,
    pub timestamp: Option<Timestamp>,
    pub ending: Ending,
    /// The client stopped listening: what became of the transaction after `ending` is not known.
    pub contact_lost: bool,
    newest_write: Option<u32>,
}

pub(super) struct Read {
    pub txn: TxnIndex,
    pub key: KeyId,
    pub seen: Option<WriteId>,
}

pub(super) struct Scan {
    pub txn: TxnIndex,
    /// The keys of which it told: present when among the rows, else absent.
    pub covered: Range<u32>,
    pub rows: Range<usize>,
    /// The newest write of the transaction when it scanned.
    pub own: Option<u32>,
}

pub(super) struct Row {
    pub key: KeyId,
    pub seen: WriteId,
}

pub(super) struct Write {
    pub txn: TxnIndex,
    pub key: KeyId,
    pub id: WriteId,
    pub deleted: bool,
    /// The transaction wrote the key again: nobody else may ever see this one.
    pub superseded: bool,
    older: Option<u32>,
}

impl History {
    pub fn new() -> History {
        History::default()
    }

    /// A client hands a transaction in, at `at` virtual nanoseconds.
    pub fn begin(&mut self, at: u64, client: u32) -> TxnIndex {
        let begun = self.moment(at);
        let index = TxnIndex(u32::try_from(self.txns.len()).expect("transactions fit in 32 bits"));
        self.txns.push(Txn {
            client,
            begun,
            replied: None,
            timestamp: None,
            ending: Ending::Open,
            contact_lost: false,
            newest_write: None,
        });
        index
    }

    /// What a read saw; `None` is absence, be it that the key was never written or that it was deleted.
    pub fn read(&mut self, txn: TxnIndex, key: KeyId, seen: Option<WriteId>) {
        self.mention(key);
        if !self.wrote(txn, key, self.txn(txn).newest_write) {
            self.reads.push(Read { txn, key, seen });
        }
    }

    /// What a scan of `keys` returned, in the order returned. A scan that is not `complete` stopped at
    /// its limit, and tells of the keys up to its last row only.
    pub fn scan(
        &mut self,
        txn: TxnIndex,
        keys: Range<KeyId>,
        direction: Direction,
        complete: bool,
        rows: &[(KeyId, WriteId)],
    ) {
        rows.iter().for_each(|(key, _)| self.mention(*key));
        let row = |&(key, seen): &(KeyId, WriteId)| Row { key, seen };
        let first = self.rows.len();
        match direction {
            Direction::Forward => self.rows.extend(rows.iter().map(row)),
            Direction::Reverse => self.rows.extend(rows.iter().rev().map(row)),
        }
        let ascending = &self.rows[first..];
        let inside = ascending.iter().all(|row| keys.contains(&row.key));
        if !inside || !ascending.is_sorted_by(|a, b| a.key < b.key) {
            self.rows.truncate(first);
            let given: Vec<String> = rows.iter().map(|(key, _)| key.to_string()).collect();
            let Range { start, end } = keys;
            let account =
                format!("it scanned {start}..{end} ({direction:?}) and was given {}", given.join(" "));
            self.fault(Kind::MalformedScan, txn, account);
            return;
        }
        let reached = match direction {
            _ if complete => Some(keys.start.0..keys.end.0),
            Direction::Forward => ascending.last().map(|row| keys.start.0..row.key.0 + 1),
            Direction::Reverse => ascending.first().map(|row| row.key.0..keys.end.0),
        };
        let rows = first..self.rows.len();
        let own = self.txn(txn).newest_write;
        self.scans.push(Scan { txn, covered: reached.unwrap_or(0..0), rows, own });
    }

    pub fn write(&mut self, txn: TxnIndex, key: KeyId, id: WriteId, deleted: bool) {
        self.mention(key);
        let index = u32::try_from(self.writes.len()).expect("writes fit in 32 bits");
        let earlier = self.ids.insert(id, index);
        assert!(earlier.is_none(), "{id} is the id of two writes: {earlier:?} and {index}");

        let older = self.txn(txn).newest_write;
        if let Some(previous) = self.find_write(key, older) {
            self.writes[previous as usize].superseded = true;
        }
        self.writes.push(Write { txn, key, id, deleted, superseded: false, older });
        self.txn_mut(txn).newest_write = Some(index);
    }

    pub fn speculative(&mut self, txn: TxnIndex, at: u64, timestamp: Timestamp) {
        if self.answer(txn, at, Ending::Speculative) {
            self.txn_mut(txn).timestamp = Some(timestamp);
        }
    }

    pub fn durable(&mut self, txn: TxnIndex, at: u64) {
        self.answer(txn, at, Ending::Durable);
    }

    pub fn rolled_back(&mut self, txn: TxnIndex, at: u64) {
        self.answer(txn, at, Ending::RolledBack);
    }

    pub fn aborted(&mut self, txn: TxnIndex, at: u64, reason: &'static str) {
        self.answer(txn, at, Ending::Aborted(reason));
    }

    /// A snapshot-mode transaction was answered, as of `timestamp`.
    pub fn snapshot(&mut self, txn: TxnIndex, at: u64, timestamp: Timestamp) {
        assert!(self.txn(txn).newest_write.is_none(), "{txn} read a snapshot and wrote");
        if self.answer(txn, at, Ending::Snapshot) {
            self.txn_mut(txn).timestamp = Some(timestamp);
        }
    }

    /// The client will hear no more of it: its leader died, or the run ended. Whether the transaction
    /// took effect is then told by who saw it. Says nothing of one already settled.
    pub fn unknown(&mut self, txn: TxnIndex) {
        self.txn_mut(txn).contact_lost = true;
    }

    pub fn len(&self) -> usize {
        self.txns.len()
    }

    pub fn is_empty(&self) -> bool {
        self.txns.is_empty()
    }

    pub(super) fn txn(&self, txn: TxnIndex) -> &Txn {
        &self.txns[txn.0 as usize]
    }

    pub(super) fn txns(&self) -> impl Iterator<Item = TxnIndex> + use<> {
        (0..self.txns.len() as u32).map(TxnIndex)
    }

    pub(super) fn reads(&self) -> &[Read] {
        &self.reads
    }

    pub(super) fn scans(&self) -> &[Scan] {
        &self.scans
    }

    pub(super) fn rows(&self, scan: &Scan) -> &[Row] {
        &self.rows[scan.rows.clone()]
    }

    pub(super) fn rows_len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn writes(&self) -> &[Write] {
        &self.writes
    }

    pub(super) fn write_by_id(&self, id: WriteId) -> Option<u32> {
        self.ids.get(&id).copied()
    }

    pub(super) fn keys(&self) -> u32 {
        self.keys
    }

    pub(super) fn is_writer(&self, txn: TxnIndex) -> bool {
        self.txn(txn).newest_write.is_some()
    }

    /// Had `txn` written `key` when its newest write was `newest`?
    pub(super) fn wrote(&self, txn: TxnIndex, key: KeyId, newest: Option<u32>) -> bool {
        let found = self.find_write(key, newest);
        found.is_some_and(|write| self.writes[write as usize].txn == txn)
    }

    /// The first thing wrong with the answers themselves.
    pub(super) fn first_fault(&self) -> Option<&Violation> {
        self.fault.as_ref()
    }

    /// A transaction as a reader of the report wants to see it.
    pub(super) fn describe(&self, txn: TxnIndex) -> String {
        let Txn { client, begun, replied, timestamp, ending, contact_lost, .. } = self.txn(txn);
        let place = timestamp.map_or(String::new(), |timestamp| format!("{timestamp:?}, "));
        let until = replied.map_or("no answer".into(), |moment| format!("answered {}", moment.at));
        let lost = if *contact_lost { ", contact lost" } else { "" };
        format!("{txn}: {place}client {client}, began {}, {until}, {ending}{lost}", begun.at)
    }

    fn txn_mut(&mut self, txn: TxnIndex) -> &mut Txn {
        &mut self.txns[txn.0 as usize]
    }

    fn find_write(&self, key: KeyId, newest: Option<u32>) -> Option<u32> {
        let mut next = newest;
        while let Some(index) = next {
            let write = &self.writes[index as usize];
            if write.key == key {
                return Some(index);
            }
            next = write.older;
        }
        None
    }

    fn mention(&mut self, key: KeyId) {
        assert!(key.0 < KEYS_MAX, "{key} is beyond the {KEYS_MAX} keys a history may have");
        self.keys = self.keys.max(key.0 + 1);
    }

    fn moment(&mut self, at: u64) -> Moment {
        self.events += 1;
        Moment { at, order: self.events }
    }

    /// DESIGN §1: one speculative answer at most, then exactly one of durable and rolled back.
    /// Returns whether the answer was in order; one that is not changes nothing but is remembered.
    fn answer(&mut self, txn: TxnIndex, at: u64, answer: Ending) -> bool {
        let moment = self.moment(at);
        let before = self.txn(txn).ending;
        let kind = match (before, answer) {
            (Ending::Open, _) | (Ending::Speculative, Ending::Durable | Ending::RolledBack) => None,
            (Ending::Durable, Ending::RolledBack) => Some(Kind::DurableLost),
            (Ending::RolledBack, Ending::Durable) => Some(Kind::DurableAfterRollback),
            _ => Some(Kind::AnsweredTwice),
        };
        if let Some(kind) = kind {
            self.fault(kind, txn, format!("it was answered {before}, and at {at} {answer}"));
            return false;
        }
        let record = self.txn_mut(txn);
        record.ending = answer;
        record.replied.get_or_insert(moment);
        true
    }

    fn fault(&mut self, kind: Kind, txn: TxnIndex, account: String) {
        if self.fault.is_none() {
            self.fault = Some(Violation::new(self, kind, &[txn], account));
        }
    }
}

impl fmt::Display for TxnIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "T{}", self.0)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "k{}", self.0)
    }
}

impl fmt::Display for WriteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "w{}", self.0)
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ending::Open => f.write_str("open"),
            Ending::Speculative => f.write_str("speculative"),
            Ending::Durable => f.write_str("durable"),
            Ending::RolledBack => f.write_str("rolled back"),
            Ending::Aborted(reason) => write!(f, "aborted ({reason})"),
            Ending::Snapshot => f.write_str("snapshot"),
        }
    }
}

/// Keys are dense, so a key beyond this is a mistake of the recorder: tables by key stay small.
const KEYS_MAX: u32 = 1 << 20;
