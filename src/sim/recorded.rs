//! Histories of real processes: the lines they append to one file, and the verdict on them.
//!
//! Nodes are killed at any instruction, so what a file says must be sound wherever it ends:
//!   1. A transaction is on file, with the names of all its writes, before it is submitted. So no value is ever seen
//!      whose writer the file does not name.
//!   2. An answer is on file after it came. One that is missing makes the outcome *unknown*: the transaction counts
//!      as committed when somebody saw a write of it, else it is left out, which accuses nobody.
//!   3. All processes append to one file of this machine, each event in one write. A line above another was appended
//!      before it, so an answer above a beginning came before that transaction was submitted: the order of lines is
//!      real time, without a clock.
//!   4. A line begins with its newline and ends with a mark. A kill may tear the line being written; it is cut, and
//!      that is the same as having been killed before it.
//!
//! Every write is an update: a value carries its number among the versions of its key, and the write before it.
//! `check` judges the whole; `lineage` what it cannot know, of writes whose timestamp nobody was told.
#![forbid(unsafe_code)]

mod lineage;

use super::check::{self, check_seen};
use super::history::{History, KeyId, TxnIndex, WriteId};
use crate::partition::Mode;
use crate::types::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What a client does or hears. `txn` names a transaction; no two of all processes share a name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// It is about to be submitted, and may write this.
    Begin {
        txn: u64,
        client: u32,
        mode: Mode,
        writes: Vec<(KeyId, WriteId)>,
    },
    /// It was answered for the first time, and this is what it had seen. It reads whatever it writes.
    Said {
        txn: u64,
        timestamp: Timestamp,
        reads: Vec<(KeyId, Option<Held>)>,
    },
    Durable {
        txn: u64,
    },
    RolledBack {
        txn: u64,
    },
    Refused {
        txn: u64,
    },
}

/// What a key holds: which write it is, the how many-th of the key, and the one before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    pub id: WriteId,
    /// Counts from 1.
    pub number: u64,
    pub previous: Option<WriteId>,
}

impl Held {
    /// The first of a key has none before it, and only the first.
    fn is_sound(&self) -> bool {
        self.number > 0 && (self.number == 1) == self.previous.is_none()
    }
}

/// What a file without offence consisted of.
#[derive(Clone, Debug)]
pub struct Summary {
    pub checked: check::Summary,
    /// Transactions whose last answer was that they are durable.
    pub durable: usize,
    /// Without a last answer when the file ended.
    pub unknown: usize,
    /// The highest timestamp of a durable transaction.
    pub newest: Timestamp,
    /// Clients that have read a snapshot no older than that.
    pub looked: BTreeSet<u32>,
    /// Lines that a kill has cut.
    pub torn: usize,
}

/// The verdict on everything in the file; the offence as a sentence.
pub fn judge(text: &str) -> Result<Summary, String> {
    let mut recording = Recording::default();
    let mut torn = 0;
    for (number, line) in (1..).zip(text.lines()) {
        match line.strip_suffix(END) {
            Some(line) => recording
                .add(number, line)
                .ok_or_else(|| format!("line {number} of the history is out of place: {line:?}"))?,
            None => torn += usize::from(!line.is_empty()),
        }
    }
    recording.judge(torn)
}

#[derive(Default)]
struct Recording {
    history: History,
    txns: Vec<Txn>,
    /// By name: the place in `txns`, which is the index in the history as well.
    places: BTreeMap<u64, usize>,
    /// Of every write that was announced.
    ids: BTreeSet<WriteId>,
}

struct Txn {
    client: u32,
    mode: Mode,
    writes: Vec<(KeyId, WriteId)>,
    /// Of the first answer.
    timestamp: Option<Timestamp>,
    reads: Vec<(KeyId, Option<Held>)>,
    ending: Ending,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    Open,
    Durable,
    Undone,
}

impl Recording {
    /// `None` when no client can have written this line at this place.
    fn add(&mut self, line: u64, text: &str) -> Option<()> {
        match Event::read(text)? {
            Event::Begin { txn, client, mode, writes } => {
                let are_new = writes.iter().all(|(_, id)| self.ids.insert(*id));
                let index = self.history.begin(line, client);
                let earlier = self.places.insert(txn, index.0 as usize);
                let (reads, ending) = (Vec::new(), Ending::Open);
                self.txns.push(Txn { client, mode, writes, timestamp: None, reads, ending });
                (earlier.is_none() && are_new).then_some(())
            }
            Event::Said { txn, timestamp, reads } => {
                let (index, txn) = self.find(txn)?;
                let reads_its_writes =
                    txn.writes.iter().all(|(key, _)| reads.iter().any(|(read, _)| read == key));
                if txn.timestamp.is_some() || !reads_its_writes {
                    return None;
                }
                (txn.timestamp, txn.reads) = (Some(timestamp), reads);
                let mode = txn.mode;
                let reads = self.txns[index.0 as usize].reads.iter();
                reads.for_each(|(key, held)| self.history.read(index, *key, held.map(|held| held.id)));
                self.write_down(index);
                match mode {
                    Mode::Snapshot => self.history.snapshot(index, line, timestamp),
                    Mode::ReadWrite => self.history.speculative(index, line, timestamp),
                }
                Some(())
            }
            Event::Durable { txn } => {
                let (index, txn) = self.find(txn)?;
                txn.timestamp?;
                txn.ending = Ending::Durable;
                if txn.mode == Mode::ReadWrite {
                    self.history.durable(index, line);
                }
                Some(())
            }
            Event::RolledBack { txn } => {
                let (index, txn) = self.find(txn)?;
                txn.ending = Ending::Undone;
                self.history.rolled_back(index, line);
                Some(())
            }
            Event::Refused { txn } => {
                let (index, txn) = self.find(txn)?;
                txn.ending = Ending::Undone;
                self.write_down(index);
                self.history.aborted(index, line, "refused");
                Some(())
            }
        }
    }

    fn find(&mut self, txn: u64) -> Option<(TxnIndex, &mut Txn)> {
        let place = *self.places.get(&txn)?;
        Some((TxnIndex(place as u32), &mut self.txns[place]))
    }

    /// What it wrote, or would have written: that nobody saw it is for the checkers to say.
    fn write_down(&mut self, index: TxnIndex) {
        for (key, id) in &self.txns[index.0 as usize].writes {
            self.history.write(index, *key, *id, false);
        }
    }

    fn judge(mut self, torn: usize) -> Result<Summary, String> {
        let mut unknown = 0;
        for index in self.history.txns() {
            let Txn { ending, timestamp, .. } = self.txns[index.0 as usize];
            if ending == Ending::Open {
                unknown += 1;
                if timestamp.is_none() {
                    self.write_down(index);
                }
                self.history.unknown(index);
            }
        }
        let checked = check_seen(&self.history).map_err(|violation| violation.to_string())?;
        lineage::check(&self.history, &self.txns).map_err(|violation| violation.to_string())?;
        let durable = || self.txns.iter().filter(|txn| txn.is_durable());
        let newest = durable().filter_map(|txn| txn.timestamp).max().unwrap_or_default();
        let looks = self.txns.iter().filter(|txn| txn.snapshot() >= Some(newest));
        let looked = looks.map(|txn| txn.client).collect();
        Ok(Summary { checked, durable: durable().count(), unknown, newest, looked, torn })
    }
}

impl Txn {
    fn is_durable(&self) -> bool {
        self.mode == Mode::ReadWrite && self.ending == Ending::Durable
    }

    /// When it has shown a snapshot: at which timestamp.
    fn snapshot(&self) -> Option<Timestamp> {
        self.timestamp.filter(|_| self.mode == Mode::Snapshot)
    }
}

impl Event {
    /// As bytes to append in one write.
    pub fn line(&self) -> String {
        format!("\n{self}{END}")
    }

    fn read(line: &str) -> Option<Event> {
        let mut words = line.split(' ');
        let (verb, txn) = (words.next()?, words.next()?.parse().ok()?);
        let event = match verb {
            "begin" => {
                let client = words.next()?.parse().ok()?;
                let mode = match words.next()? {
                    "leader" => Mode::ReadWrite,
                    "snapshot" => Mode::Snapshot,
                    _ => return None,
                };
                Event::Begin {
                    txn,
                    client,
                    mode,
                    writes: words.by_ref().map(read_write).collect::<Option<_>>()?,
                }
            }
            "said" => {
                let timestamp = Timestamp(words.next()?.parse().ok()?);
                Event::Said { txn, timestamp, reads: words.by_ref().map(read_read).collect::<Option<_>>()? }
            }
            "durable" => Event::Durable { txn },
            "undone" => Event::RolledBack { txn },
            "refused" => Event::Refused { txn },
            _ => return None,
        };
        words.next().is_none().then_some(event)
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Begin { txn, client, mode, writes } => {
                let mode = if *mode == Mode::Snapshot { "snapshot" } else { "leader" };
                write!(f, "begin {txn} {client} {mode}")?;
                writes.iter().try_for_each(|(key, id)| write!(f, " {}={}", key.0, id.0))
            }
            Event::Said { txn, timestamp, reads } => {
                write!(f, "said {txn} {}", timestamp.0)?;
                reads.iter().try_for_each(|(key, held)| match held {
                    None => write!(f, " {}=-", key.0),
                    Some(Held { id, number, previous }) => {
                        let previous = previous.map_or(0, |previous| previous.0);
                        write!(f, " {}={}/{number}/{previous}", key.0, id.0)
                    }
                })
            }
            Event::Durable { txn } => write!(f, "durable {txn}"),
            Event::RolledBack { txn } => write!(f, "undone {txn}"),
            Event::Refused { txn } => write!(f, "refused {txn}"),
        }
    }
}

fn read_write(word: &str) -> Option<(KeyId, WriteId)> {
    let (key, id) = word.split_once('=')?;
    Some((KeyId(key.parse().ok()?), WriteId(id.parse().ok()?)))
}

fn read_read(word: &str) -> Option<(KeyId, Option<Held>)> {
    let (key, held) = word.split_once('=')?;
    let key = KeyId(key.parse().ok()?);
    if held == "-" {
        return Some((key, None));
    }
    let mut parts = held.split('/').map(|part| part.parse::<u64>().ok());
    let (id, number, previous) = (parts.next()??, parts.next()??, parts.next()??);
    let previous = (previous > 0).then_some(WriteId(previous));
    let held = Held { id: WriteId(id), number, previous };
    held.is_sound().then_some((key, Some(held)))
}

/// Ends every line that is whole.
const END: &str = " .";

#[cfg(test)]
mod tests;
