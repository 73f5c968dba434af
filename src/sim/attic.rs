//! Frames kept from long ago, to be delivered once more: whoever they were meant for may have restarted, whoever
//! sent them may have, and the reign they speak of may be over.
//!
//! Sessions drop most of them. Streams are written for a network without sessions, where any message may come at
//! any time: what matters most there are the answers to a replica that has forgotten what it accepted, so those
//! are kept apart, and come past the sessions.
//!
//! Bounded: a frame that is kept takes the place of one drawn at random, so that some are always old.
#![forbid(unsafe_code)]

use crate::paxos::Rejoined;
use crate::types::{Endpoint, NodeId, PartitionId, Prng};

#[derive(Default)]
pub struct Attic {
    frames: Vec<OldFrame>,
    answers: Vec<OldAnswer>,
}

/// What a leader answers, or could have answered, to one that had forgotten what it accepted.
#[derive(Clone)]
pub struct OldAnswer {
    pub to: usize,
    pub from: Endpoint,
    pub partition: PartitionId,
    pub rejoined: Rejoined,
}

#[derive(Clone)]
pub struct OldFrame {
    /// Where it goes to.
    pub core: usize,
    pub bytes: Vec<u8>,
    pub sent_at: u64,
    pub from: NodeId,
    /// Incarnations of who sent it and of who was to receive it.
    pub lives: (u64, u64),
}

impl Attic {
    pub fn keep(&mut self, frame: OldFrame, prng: &mut Prng) {
        if self.frames.len() < FRAMES_MAX {
            self.frames.push(frame);
        } else {
            let place = prng.usize(..FRAMES_MAX);
            self.frames[place] = frame;
        }
    }

    /// Unless it answers the same question as one that is here.
    pub fn keep_answer(&mut self, answer: OldAnswer) {
        let same = |known: &OldAnswer| {
            let key = |of: &OldAnswer| (of.to, of.partition, of.rejoined.nonce);
            key(known) == key(&answer)
        };
        if self.answers.len() < ANSWERS_MAX && !self.answers.iter().any(same) {
            self.answers.push(answer);
        }
    }

    /// Those to an earlier life of a core.
    pub fn answers(&self, to: usize, life: u64) -> impl Iterator<Item = &OldAnswer> {
        self.answers.iter().filter(move |answer| answer.to == to && answer.rejoined.nonce < life)
    }

    /// One of them, which stays.
    pub fn draw(&self, prng: &mut Prng) -> Option<&OldFrame> {
        let at = prng.usize(..self.frames.len().max(1));
        self.frames.get(at)
    }
}

const FRAMES_MAX: usize = 256;
const ANSWERS_MAX: usize = 1_024;
