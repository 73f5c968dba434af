//! Everything a core sends: to other nodes through sessions, to sibling cores through rings, to itself.
//!
//! A message that speaks of something on disk is held until the log is durable that far; there is no
//! other way to send, so nobody can forget (HOUSE §1.4, rule 3).
//!
//! Invariants:
//!   1. Messages held for the log leave in the order in which they were handed over.
//!   2. A call's note is kept until its answer or its failure, and its number is not used meanwhile.
#![forbid(unsafe_code)]

use super::duty::Duty;
use crate::rpc::{RequestId, Rpc};
use crate::txn::Ticket;
use crate::types::{CoreId, Endpoint, Lsn, PartitionId, Timestamp};
use std::collections::VecDeque;

pub struct Post {
    me: Endpoint,
    pub rpc: Rpc,
    /// For this core itself: handled in the same turn.
    here: VecDeque<(Asker, Vec<u8>)>,
    duties: VecDeque<Duty>,
    /// By core of this node; ours stays empty.
    siblings: Vec<VecDeque<Parcel>>,
    held: VecDeque<(Lsn, Outgoing)>,
    durable: Lsn,
    notes: Vec<Option<Note>>,
    free: Vec<u32>,
    /// Notes of calls that a full session refused: as good as unanswered.
    refused: VecDeque<Note>,
}

/// Who waits for the answer to a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asker {
    Session(RequestId),
    Sibling(CoreId),
    Here,
    /// It was an answer, or a cast: nobody does.
    Nobody,
}

/// A message between two cores of one node.
#[derive(Debug)]
pub struct Parcel {
    pub from: CoreId,
    pub cargo: Cargo,
}

#[derive(Debug)]
pub enum Cargo {
    /// A message that is to be answered.
    Request(Vec<u8>),
    Message(Vec<u8>),
    Duty(Duty),
}

#[cfg(test)]
impl Parcel {
    /// The bytes of the message it carries.
    pub fn bytes(&self) -> &[u8] {
        match &self.cargo {
            Cargo::Request(bytes) | Cargo::Message(bytes) => bytes,
            Cargo::Duty(duty) => panic!("a duty is no message: {duty:?}"),
        }
    }
}

/// What is remembered of a call, for when its peer gives no sign of life.
#[derive(Clone, Copy, Debug)]
pub struct Note {
    pub home: PartitionId,
    pub to: PartitionId,
    pub ticket: Ticket,
}

#[derive(Debug)]
pub enum Outgoing {
    Call {
        to: Endpoint,
        note: Option<Note>,
        message: Vec<u8>,
    },
    Answer {
        to: Asker,
        message: Vec<u8>,
    },
    /// To another node; at most a frame.
    Cast {
        to: Endpoint,
        message: Vec<u8>,
    },
}

impl Post {
    pub fn new(me: Endpoint, cores: usize, rpc: Rpc) -> Post {
        Post {
            me,
            rpc,
            here: VecDeque::new(),
            duties: VecDeque::new(),
            siblings: (0..cores).map(|_| VecDeque::new()).collect(),
            held: VecDeque::new(),
            durable: Lsn::default(),
            notes: Vec::new(),
            free: Vec::new(),
            refused: VecDeque::new(),
        }
    }

    /// Sends once the log is durable through `after`.
    pub fn send(&mut self, now: Timestamp, after: Lsn, outgoing: Outgoing) {
        if after <= self.durable {
            self.go(now, outgoing);
        } else {
            self.held.push_back((after, outgoing));
        }
    }

    /// The log is durable that far: what waited for it leaves.
    pub fn on_durable(&mut self, now: Timestamp, durable: Lsn) {
        self.durable = self.durable.max(durable);
        while self.held.front().is_some_and(|(after, _)| *after <= self.durable) {
            if let Some((_, outgoing)) = self.held.pop_front() {
                self.go(now, outgoing);
            }
        }
    }

    /// Whether the log is, as far as was told.
    pub fn is_durable(&self, lsn: Lsn) -> bool {
        lsn <= self.durable
    }

    /// Tells a core of this node, perhaps this one.
    pub fn tell(&mut self, core: CoreId, duty: Duty) {
        if core == self.me.core {
            self.duties.push_back(duty);
        } else {
            let parcel = Parcel { from: self.me.core, cargo: Cargo::Duty(duty) };
            self.siblings[usize::from(core.0)].push_back(parcel);
        }
    }

    pub fn take_duty(&mut self) -> Option<Duty> {
        self.duties.pop_front()
    }

    pub fn take_here(&mut self) -> Option<(Asker, Vec<u8>)> {
        self.here.pop_front()
    }

    /// The next parcel for a sibling core.
    pub fn take_parcel(&mut self, core: CoreId) -> Option<Parcel> {
        self.siblings[usize::from(core.0)].pop_front()
    }

    /// Puts a parcel back that the ring had no room for.
    pub fn put_back(&mut self, core: CoreId, parcel: Parcel) {
        self.siblings[usize::from(core.0)].push_front(parcel);
    }

    /// The note of a call that ended.
    pub fn take_note(&mut self, tag: u64) -> Option<Note> {
        let at = tag.checked_sub(1)? as usize;
        let note = self.notes.get_mut(at)?.take()?;
        self.free.push(at as u32);
        Some(note)
    }

    /// Calls that were not even sent.
    pub fn refused_count(&self) -> usize {
        self.refused.len()
    }

    /// A call that was not even sent.
    pub fn take_refused(&mut self) -> Option<Note> {
        self.refused.pop_front()
    }

    pub fn is_idle(&self) -> bool {
        self.here.is_empty() && self.held.is_empty()
    }

    fn go(&mut self, now: Timestamp, outgoing: Outgoing) {
        match outgoing {
            Outgoing::Call { to, message, .. } if to == self.me => {
                self.here.push_back((Asker::Here, message))
            }
            Outgoing::Call { to, message, .. } if to.node == self.me.node => {
                self.pass(to.core, true, message)
            }
            Outgoing::Call { to, note, message } => {
                let tag = note.map_or(0, |note| self.keep(note));
                if self.rpc.call(now, to, tag, &message).is_err() {
                    let refused = self.take_note(tag);
                    self.refused.extend(refused);
                }
                self.rpc.recycle(message);
            }
            Outgoing::Answer { to: Asker::Session(id), message } => {
                self.rpc.respond(now, id, &message);
                self.rpc.recycle(message);
            }
            Outgoing::Answer { to: Asker::Sibling(core), message } => self.pass(core, false, message),
            Outgoing::Answer { to: Asker::Here, message } => self.here.push_back((Asker::Nobody, message)),
            Outgoing::Answer { to: Asker::Nobody, .. } => {}
            Outgoing::Cast { to, message } if to == self.me => self.here.push_back((Asker::Nobody, message)),
            Outgoing::Cast { to, message } if to.node == self.me.node => self.pass(to.core, false, message),
            Outgoing::Cast { to, message } => {
                self.rpc.cast(now, to, &message);
                self.rpc.recycle(message);
            }
        }
    }

    fn pass(&mut self, to: CoreId, is_request: bool, message: Vec<u8>) {
        let cargo = if is_request { Cargo::Request(message) } else { Cargo::Message(message) };
        let parcel = Parcel { from: self.me.core, cargo };
        self.siblings[usize::from(to.0)].push_back(parcel);
    }

    fn keep(&mut self, note: Note) -> u64 {
        let at = self.free.pop().unwrap_or_else(|| {
            self.notes.push(None);
            self.notes.len() as u32 - 1
        });
        self.notes[at as usize] = Some(note);
        u64::from(at) + 1
    }
}

#[cfg(test)]
mod tests;
