//! What the replicas of one stream say to each other, as values and as bytes.
//!
//! The rules are those of `paxos`, which takes its message types from here, because layers point upwards.
//! A batch is opaque: decoding copies it out of the message into shared bytes of its own, for it stays in
//! the acceptor long after the frames are reused.
//!
//! A leader's messages carry two ends of its stream beside their own matter: `chosen_end` (every slot
//! below it is chosen) and `voted_end` (every slot below it is chosen, or has the leader's own vote). The
//! second lets a follower count to a majority without waiting to be told.
#![forbid(unsafe_code)]

use std::rc::Rc;

use super::cursor::{Layout, Reader, Writer};
use super::malformed::Malformed;
use crate::bounds::{BATCH_BYTES_MAX, FETCH_BYTES_MAX, FETCH_SLOTS_MAX, MESSAGE_BYTES_MAX};
use crate::types::{Ballot, Slot};

/// What a slot holds. Opaque here; cloning shares it.
pub type Batch = Rc<[u8]>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamMessage {
    Prepare(Prepare),
    Promise(Promise),
    Rejected(Rejected),
    Accept(Accept),
    Accepted(Accepted),
    Chosen(Chosen),
    Fetch(Fetch),
    Fetched(Fetched),
    Rejoin(Rejoin),
    Rejoined(Rejoined),
}

impl<'a> Layout<'a> for StreamMessage {
    const BYTES_MIN: usize = 1 + Rejected::BYTES_MIN;

    fn put(&self, out: &mut Writer<'_>) {
        match self {
            StreamMessage::Prepare(message) => out.put(&PREPARE).put(message),
            StreamMessage::Promise(message) => out.put(&PROMISE).put(message),
            StreamMessage::Rejected(message) => out.put(&REJECTED).put(message),
            StreamMessage::Accept(message) => out.put(&ACCEPT).put(message),
            StreamMessage::Accepted(message) => out.put(&ACCEPTED).put(message),
            StreamMessage::Chosen(message) => out.put(&CHOSEN).put(message),
            StreamMessage::Fetch(message) => out.put(&FETCH).put(message),
            StreamMessage::Fetched(message) => out.put(&FETCHED).put(message),
            StreamMessage::Rejoin(message) => out.put(&REJOIN).put(message),
            StreamMessage::Rejoined(message) => out.put(&REJOINED).put(message),
        };
    }

    fn take(from: &mut Reader<'a>) -> Result<StreamMessage, Malformed> {
        Ok(match from.take::<u8>()? {
            PREPARE => StreamMessage::Prepare(from.take()?),
            PROMISE => StreamMessage::Promise(from.take()?),
            REJECTED => StreamMessage::Rejected(from.take()?),
            ACCEPT => StreamMessage::Accept(from.take()?),
            ACCEPTED => StreamMessage::Accepted(from.take()?),
            CHOSEN => StreamMessage::Chosen(from.take()?),
            FETCH => StreamMessage::Fetch(from.take()?),
            FETCHED => StreamMessage::Fetched(from.take()?),
            REJOIN => StreamMessage::Rejoin(from.take()?),
            REJOINED => StreamMessage::Rejoined(from.take()?),
            _ => return Err(Malformed::UnknownTag),
        })
    }
}

/// Phase 1a for every slot at or above `from_slot` at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prepare {
    pub ballot: Ballot,
    pub from_slot: Slot,
}

impl<'a> Layout<'a> for Prepare {
    const BYTES_MIN: usize = 16;

    fn put(&self, out: &mut Writer<'_>) {
        out.put(&self.ballot).put(&self.from_slot);
    }

    fn take(from: &mut Reader<'a>) -> Result<Prepare, Malformed> {
        Ok(Prepare { ballot: from.take()?, from_slot: from.take()? })
    }
}

/// Phase 1b, one part of it: all that was accepted in `from_slot..end_slot`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promise {
    pub ballot: Ballot,
    pub from_slot: Slot,
    pub end_slot: Slot,
    pub entries: Vec<Entry>,
    /// Nothing was accepted at or above `end_slot`.
    pub last: bool,
    /// What the sender accepted below here it no longer keeps.
    pub floor: Slot,
    pub chosen_end: Slot,
}

impl<'a> Layout<'a> for Promise {
    const BYTES_MIN: usize = 8 + 8 + 8 + 4 + 1 + 8 + 8;

    fn put(&self, out: &mut Writer<'_>) {
        out.put(&self.ballot).put(&self.from_slot).put(&self.end_slot);
        out.list(&self.entries, FETCH_SLOTS_MAX).put(&self.last).put(&self.floor).put(&self.chosen_end);
    }

    fn take(from: &mut Reader<'a>) -> Result<Promise, Malformed> {
        Ok(Promise {
            ballot: from.take()?,
            from_slot: from.take()?,
            end_slot: from.take()?,
            entries: from.list(FETCH_SLOTS_MAX)?,
            last: from.take()?,
            floor: from.take()?,
            chosen_end: from.take()?,
        })
    }
}

/// What an acceptor holds in a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub slot: Slot,
    pub ballot: Ballot,
    pub batch: Batch,
}

impl<'a> Layout<'a> for Entry {
    const BYTES_MIN: usize = 8 + 8 + 4;

    fn put(&self, out: &mut Writer<'_>) {
        out.put(&self.slot).put(&self.ballot).put(&self.batch);
    }

    fn take(from: &mut Reader<'a>) -> Result<Entry, Malformed> {
        Ok(Entry { slot: from.take()?, ballot: from.take()?, batch: from.take()? })
    }
}

/// The answer to any ballot below the one promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejected {
    pub promised: Ballot,
}

impl<'a> Layout<'a> for Rejected {
    const BYTES_MIN: usize = 8;

    fn put(&self, out: &mut Writer<'_>) {
        out.put(&self.promised);
    }

    fn take(from: &mut Reader<'a>) -> Result<Rejected, Malformed> {
        Ok(Rejected { promised: from.take()? })
    }
}

/// Phase 2a.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accept {
    pub ballot: Ballot,
    pub slot: Slot,
    pub batch: Batch,
    pub chosen_end: Slot,
    pub voted_end: Slot,
}

impl<'a> Layout<'a> for Accept {
    const BYTES_MIN: usize = 8 + 8 + 4 + 8 + 8;

    fn put(&self, out: &mut Writer<'_>) {
        out.put(&self.ballot).put(&self.slot).put(&self.batch);
        out.put(&self.chosen_end).put(&self.voted_end);
    }

    fn take(from: &mut Reader<'a>) -> Result<Accept, Malformed> {
        Ok(Accept {
            ballot: from.take()?,
            slot: from.take()?,
            batch: from.take()?,
            chosen_end: from.take()?,
            voted_end: from.take()?,
        })
    }
}

/// Phase 2b: `slot`, and every slot below `through`, is accepted under `ballot` or known chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    pub ballot: Ballot,
    pub slot: Slot,
    pub through: Slot,
    /// How far the follower itself knows the stream to be chosen.
    pub chosen_end: Slot,
}

impl<'a> Layout<'a> for Accepted {
    const BYTES_MIN: usize = 32;

    fn put(&self, out: &mut Writer<'_>) {
        out.put(&self.ballot).put(&self.slot).put(&self.through).put(&self.chosen_end);
    }

    fn take(from: &mut Reader<'a>) -> Result<Accepted, Malformed> {
        Ok(Accepted {
            ballot: from.take()?,
            slot: from.take()?,
            through: from.take()?,
            chosen_end: from.take()?,
        })
    }
}

/// How far the leader has got: the heartbeat of a stream, and news between proposals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen {
    pub ballot: Ballot,
    /// The slot of the leader's next proposal.
    pub next_slot: Slot,
    pub chosen_end: Slot,
    pub voted_end: Slot,
    /// Every replica knows every slot below this to be chosen.
    pub known_end: Slot,
}

impl<'a> Layout<'a> for Chosen {
    const BYTES_MIN: usize = 40;

    fn put(&self, out: &mut Writer<'_>) {
        out.put(&self.ballot).put(&self.next_slot).put(&self.chosen_end);
        out.put(&self.voted_end).put(&self.known_end);
    }

    fn take(from: &mut Reader<'a>) -> Result<Chosen, Malformed> {
        Ok(Chosen {
            ballot: from.take()?,
            next_slot: from.take()?,
            chosen_end: from.take()?,
            voted_end: from.take()?,
            known_end: from.take()?,
        })
    }
}

/// Asks the leader for the slots `from_slot..end_slot`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetch {
    pub ballot: Ballot,
    pub from_slot: Slot,
    pub end_slot: Slot,
}

impl<'a> Layout<'a> for Fetch {
    const BYTES_MIN: usize = 24;

    fn put(&self, out: &mut Writer<'_>) {
        out.put(&self.ballot).put(&self.from_slot).put(&self.end_slot);
    }

    fn take(from: &mut Reader<'a>) -> Result<Fetch, Malformed> {
        Ok(Fetch { ballot: from.take()?, from_slot: from.take()?, end_slot: from.take()? })
    }
}

/// Batches by slot, each chosen or proposed under `ballot`: to accept them is right in either case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    pub ballot: Ballot,
    pub entries: Vec<(Slot, Batch)>,
    /// The leader no longer keeps slots below here.
    pub floor: Slot,
    pub chosen_end: Slot,
    pub voted_end: Slot,
}

impl<'a> Layout<'a> for Fetched {
    const BYTES_MIN: usize = 8 + 4 + 8 + 8 + 8;

    fn put(&self, out: &mut Writer<'_>) {
        out.put(&self.ballot).list(&self.entries, FETCH_SLOTS_MAX);
        out.put(&self.floor).put(&self.chosen_end).put(&self.voted_end);
    }

    fn take(from: &mut Reader<'a>) -> Result<Fetched, Malformed> {
        Ok(Fetched {
            ballot: from.take()?,
            entries: from.list(FETCH_SLOTS_MAX)?,
            floor: from.take()?,
            chosen_end: from.take()?,
            voted_end: from.take()?,
        })
    }
}

/// A replica restarted and has forgotten acceptances or more: what does the other know of the stream?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejoin {
    /// Of this restart and no other.
    pub nonce: u64,
}

impl<'a> Layout<'a> for Rejoin {
    const BYTES_MIN: usize = 8;

    fn put(&self, out: &mut Writer<'_>) {
        out.put(&self.nonce);
    }

    fn take(from: &mut Reader<'a>) -> Result<Rejoin, Malformed> {
        Ok(Rejoin { nonce: from.take()? })
    }
}

/// The answer, made after the restart that the nonce names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejoined {
    pub nonce: u64,
    pub promised: Ballot,
    /// The sender leads under this ballot, and its next proposal takes this slot.
    pub leading: Option<(Ballot, Slot)>,
}

impl<'a> Layout<'a> for Rejoined {
    const BYTES_MIN: usize = 8 + 8 + 1;

    fn put(&self, out: &mut Writer<'_>) {
        out.put(&self.nonce).put(&self.promised).put(&self.leading.is_some());
        if let Some(leading) = &self.leading {
            out.put(leading);
        }
    }

    fn take(from: &mut Reader<'a>) -> Result<Rejoined, Malformed> {
        let (nonce, promised) = from.take()?;
        let leading = if from.take::<bool>()? { Some(from.take()?) } else { None };
        Ok(Rejoined { nonce, promised, leading })
    }
}

/// The one field that is copied out of a message.
impl<'a> Layout<'a> for Batch {
    const BYTES_MIN: usize = 4;

    fn put(&self, out: &mut Writer<'_>) {
        out.batch(self);
    }

    fn take(from: &mut Reader<'a>) -> Result<Batch, Malformed> {
        from.batch().map(Rc::from)
    }
}

const PREPARE: u8 = 0;
const PROMISE: u8 = 1;
const REJECTED: u8 = 2;
const ACCEPT: u8 = 3;
const ACCEPTED: u8 = 4;
const CHOSEN: u8 = 5;
const FETCH: u8 = 6;
const FETCHED: u8 = 7;
const REJOIN: u8 = 8;
const REJOINED: u8 = 9;

// A promise or a catch-up reply holds less than FETCH_BYTES_MAX of batches before the one that fills it.
const _: () = assert!(
    FETCH_BYTES_MAX + BATCH_BYTES_MAX + FETCH_SLOTS_MAX * Entry::BYTES_MIN + 128 <= MESSAGE_BYTES_MAX
);
