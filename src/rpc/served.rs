//! The answering side of a session: the peer's request slots as we see them.
//!
//! Each slot remembers the last use it has seen, so a request is handed up at most once; a response is
//! kept until the peer has it. Carrying requests out is the caller's.
//!
//! Invariants:
//!   1. A slot's `seq` only grows, and each value enters `Executing` at most once.
//!   2. Only `Receiving` has a partial request, only `Responding` an open response.
//!   3. `responses` counts the slots in `Responding`, and `open` those that are not `Done`.
//!   4. A slot without work is `Done`.
#![forbid(unsafe_code)]

use super::buffers::Buffers;
use super::flight::{MessageRef, Way};
use super::frame::Part;
use super::message::{Held, Incoming, Outgoing, may_start};
use super::stats::Ignored;
use std::collections::VecDeque;

#[derive(Default)]
pub struct Served {
    /// The last use of each slot that was seen. Grows to the highest slot the peer has used.
    seqs: Vec<u64>,
    /// What goes on in them. Grows to the highest slot used since the last rest.
    slots: Vec<Work>,
    /// Responses whose bytes may not be in transit yet.
    waiting: VecDeque<MessageRef>,
    responses: usize,
    open: usize,
}

#[derive(Default)]
struct Work {
    state: State,
    request: Incoming,
    response: Outgoing,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
enum State {
    Receiving,
    Executing,
    Responding,
    /// The peer has its response, or does not want it.
    #[default]
    Done,
}

impl Served {
    /// A packet of a request; `Some` is the whole request, to be carried out.
    pub fn on_request(
        &mut self,
        part: &Part,
        held: &mut Held,
        buffers: &mut Buffers,
    ) -> Result<Option<Vec<u8>>, Ignored> {
        let index = usize::from(part.slot);
        if self.seqs.len() <= index {
            self.seqs.resize(index + 1, 0);
        }
        let seq = &mut self.seqs[index];
        if part.seq > *seq {
            if self.slots.len() <= index {
                self.slots.resize_with(index + 1, Work::default);
            }
            let slot = &mut self.slots[index];
            // The next use of a slot acknowledges the response to the one before.
            self.responses -= usize::from(slot.state == State::Responding);
            self.open += usize::from(slot.state == State::Done);
            slot.end(held, buffers);
            slot.state = State::Receiving;
            *seq = part.seq;
        }
        let receiving = self.slots.get_mut(index).filter(|slot| slot.state == State::Receiving);
        let Some(slot) = receiving.filter(|_| part.seq == *seq) else { return Err(Ignored::PastPacket) };
        let message = slot.request.accept(part, &mut held.partial_bytes, buffers)?;
        if message.is_some() {
            slot.state = State::Executing;
        }
        Ok(message)
    }

    /// Whether anybody still waits for it.
    pub fn respond(&mut self, slot: u16, seq: u64, message: &[u8], buffers: &mut Buffers) -> bool {
        if self.seqs.get(usize::from(slot)) != Some(&seq) {
            return false;
        }
        let executing = self.slots.get_mut(usize::from(slot)).filter(|work| work.state == State::Executing);
        let Some(served) = executing else { return false };
        served.state = State::Responding;
        served.response.open(buffers.copy(message));
        self.responses += 1;
        self.waiting.push_back(MessageRef { way: Way::Response, slot, seq });
        true
    }

    /// The oldest response that may be sent now and could not before.
    pub fn start(&mut self, held: &mut Held) -> Option<MessageRef> {
        while let Some(message) = self.waiting.front().copied() {
            if let Some(response) = self.outgoing(message.slot, message.seq) {
                if !may_start(response.len(), held.in_transit_bytes) {
                    return None;
                }
                response.start(&mut held.in_transit_bytes);
                self.waiting.pop_front();
                return Some(message);
            }
            self.waiting.pop_front();
        }
        None
    }

    /// The response, while any of it is still to be sent or acknowledged.
    pub fn outgoing(&mut self, slot: u16, seq: u64) -> Option<&mut Outgoing> {
        let is_last = self.seqs.get(usize::from(slot)) == Some(&seq);
        let response = &mut self.slots.get_mut(usize::from(slot))?.response;
        (is_last && response.is_open()).then_some(response)
    }

    /// The peer has acknowledged all of the response that `outgoing` returned.
    pub fn on_delivered(&mut self, slot: u16, held: &mut Held, buffers: &mut Buffers) {
        let slot = &mut self.slots[usize::from(slot)];
        assert!(slot.state == State::Responding, "delivered a response in state {:?}", slot.state);
        slot.response.close(&mut held.in_transit_bytes, buffers);
        slot.state = State::Done;
        self.responses -= 1;
        self.open -= 1;
    }

    /// The peer has given up all its calls; it goes on from the sequence numbers it has reached.
    pub fn abandon(&mut self, held: &mut Held, buffers: &mut Buffers) {
        for slot in &mut self.slots {
            slot.end(held, buffers);
        }
        self.waiting.clear();
        self.responses = 0;
        self.open = 0;
    }

    /// The peer has restarted: it begins again with the first use of each slot.
    pub fn reset(&mut self, held: &mut Held, buffers: &mut Buffers) {
        self.abandon(held, buffers);
        self.seqs.clear();
    }

    /// Gives back what it holds; nothing is under way.
    pub fn rest(&mut self) {
        assert!(self.open == 0, "{} requests are under way", self.open);
        self.slots = Vec::new();
        self.waiting = VecDeque::new();
        self.seqs.shrink_to_fit();
    }

    /// Whether a request is being received, carried out or answered.
    pub fn is_open(&self) -> bool {
        self.open > 0
    }

    /// Responses the peer does not have yet.
    pub fn responses(&self) -> usize {
        self.responses
    }
}

impl Work {
    fn end(&mut self, held: &mut Held, buffers: &mut Buffers) {
        self.request.discard(&mut held.partial_bytes, buffers);
        self.response.close(&mut held.in_transit_bytes, buffers);
        self.state = State::Done;
    }
}
