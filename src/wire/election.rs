//! What the replicas of one shard say to each other about who leads it, as values and as bytes.
//!
//! The rules are those of `paxos::election`. Ballots are those of the shard's streams: all of them are won
//! and lost under one.
#![forbid(unsafe_code)]

use super::cursor::{Layout, Reader, Writer};
use super::malformed::Malformed;
use crate::types::{Ballot, Timestamp};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElectionMessage {
    /// Would you promise this ballot? It binds neither side.
    PreVote { ballot: Ballot },
    /// The answer, and the highest ballot the sender has promised.
    PreVoted { ballot: Ballot, granted: bool, promised: Ballot },
    /// The leader lives; `sent` is the time by its own clock, which nobody else interprets.
    Heartbeat { ballot: Ballot, sent: Timestamp },
    /// The sender lets no other ballot through for one timeout from when it received that heartbeat.
    Heartbeaten { ballot: Ballot, sent: Timestamp },
    /// The leader to its successor, or a candidate that cannot win to one that can: campaign now.
    HandOver { ballot: Ballot },
    /// The leader to all others: my lease is over, vote for whom you like.
    Release { ballot: Ballot },
}

impl ElectionMessage {
    pub fn ballot(&self) -> Ballot {
        match *self {
            ElectionMessage::PreVote { ballot }
            | ElectionMessage::PreVoted { ballot, .. }
            | ElectionMessage::Heartbeat { ballot, .. }
            | ElectionMessage::Heartbeaten { ballot, .. }
            | ElectionMessage::HandOver { ballot }
            | ElectionMessage::Release { ballot } => ballot,
        }
    }
}

impl<'a> Layout<'a> for ElectionMessage {
    const BYTES_MIN: usize = 1 + 8;

    fn put(&self, out: &mut Writer<'_>) {
        match self {
            ElectionMessage::PreVote { ballot } => out.put(&PRE_VOTE).put(ballot),
            ElectionMessage::PreVoted { ballot, granted, promised } => {
                out.put(&PRE_VOTED).put(ballot).put(granted).put(promised)
            }
            ElectionMessage::Heartbeat { ballot, sent } => out.put(&HEARTBEAT).put(ballot).put(sent),
            ElectionMessage::Heartbeaten { ballot, sent } => out.put(&HEARTBEATEN).put(ballot).put(sent),
            ElectionMessage::HandOver { ballot } => out.put(&HAND_OVER).put(ballot),
            ElectionMessage::Release { ballot } => out.put(&RELEASE).put(ballot),
        };
    }

    fn take(from: &mut Reader<'a>) -> Result<ElectionMessage, Malformed> {
        let (tag, ballot) = from.take::<(u8, Ballot)>()?;
        Ok(match tag {
            PRE_VOTE => ElectionMessage::PreVote { ballot },
            PRE_VOTED => ElectionMessage::PreVoted { ballot, granted: from.take()?, promised: from.take()? },
            HEARTBEAT => ElectionMessage::Heartbeat { ballot, sent: from.take()? },
            HEARTBEATEN => ElectionMessage::Heartbeaten { ballot, sent: from.take()? },
            HAND_OVER => ElectionMessage::HandOver { ballot },
            RELEASE => ElectionMessage::Release { ballot },
            _ => return Err(Malformed::UnknownTag),
        })
    }
}

const PRE_VOTE: u8 = 0;
const PRE_VOTED: u8 = 1;
const HEARTBEAT: u8 = 2;
const HEARTBEATEN: u8 = 3;
const HAND_OVER: u8 = 4;
const RELEASE: u8 = 5;
