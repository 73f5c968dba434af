//! The calling side of a session: request slots under way and the backlog behind them.
//!
//! A call leaves the backlog when a slot is free and its bytes may be in transit, in the order of
//! `push`. It ends in a response or a failure, once. When to send and to give up is the session's.
//!
//! Invariants:
//!   1. A slot's `seq` grows with each use, and begins after `rested` when the slot is made anew: so a packet of an
//!      earlier use is recognised for ever.
//!   2. A free slot has its request closed and its response blank.
#![forbid(unsafe_code)]

use super::Busy;
use super::buffers::Buffers;
use super::flight::{MessageRef, Way};
use super::frame::Part;
use super::message::{Held, Incoming, Outgoing, may_start};
use super::stats::Ignored;
use crate::bounds::{BACKLOG_BYTES_MAX, BACKLOG_CALLS_MAX, REQUEST_SLOTS};
use std::collections::VecDeque;

#[derive(Default)]
pub struct Calls {
    /// Grows to the most calls under way at once since the last rest.
    slots: Vec<CallSlot>,
    /// No slot was used more often before the last rest.
    rested: u64,
    /// Taken from the end, so that few slots stay warm.
    free: Vec<u16>,
    backlog: VecDeque<Waiting>,
    backlog_bytes: usize,
}

#[derive(Default)]
struct CallSlot {
    seq: u64,
    tag: u64,
    is_busy: bool,
    request: Outgoing,
    response: Incoming,
}

struct Waiting {
    tag: u64,
    message: Vec<u8>,
}

impl Calls {
    pub fn push(&mut self, tag: u64, message: &[u8], buffers: &mut Buffers) -> Result<(), Busy> {
        let bytes = self.backlog_bytes + message.len();
        if self.backlog.len() >= BACKLOG_CALLS_MAX || bytes > BACKLOG_BYTES_MAX {
            return Err(Busy);
        }
        self.backlog_bytes = bytes;
        self.backlog.push_back(Waiting { tag, message: buffers.copy(message) });
        Ok(())
    }

    /// Moves the oldest call of the backlog into a slot; `None` when it must wait on.
    pub fn start(&mut self, held: &mut Held) -> Option<MessageRef> {
        let bytes = self.backlog.front()?.message.len();
        let index = match self.free.last() {
            Some(index) => *index,
            None if self.slots.len() < REQUEST_SLOTS => {
                let index = u16::try_from(self.slots.len()).expect("slots are few");
                self.slots.push(CallSlot { seq: self.rested, ..CallSlot::default() });
                self.free.push(index);
                index
            }
            None => return None,
        };
        if !may_start(bytes, held.in_transit_bytes) {
            return None;
        }
        let waiting = self.backlog.pop_front()?;
        self.backlog_bytes -= bytes;
        self.free.pop();
        let slot = &mut self.slots[usize::from(index)];
        slot.request.open(waiting.message);
        slot.request.start(&mut held.in_transit_bytes);
        slot.seq += 1;
        slot.tag = waiting.tag;
        slot.is_busy = true;
        Some(MessageRef { way: Way::Request, slot: index, seq: slot.seq })
    }

    /// The request, while any of it is still to be sent or acknowledged.
    pub fn outgoing(&mut self, slot: u16, seq: u64) -> Option<&mut Outgoing> {
        let slot = self.slots.get_mut(usize::from(slot))?;
        (slot.seq == seq && slot.request.is_open()).then_some(&mut slot.request)
    }

    /// A packet of a response; `Some` is the tag of its call and the whole response.
    pub fn on_response(
        &mut self,
        part: &Part,
        held: &mut Held,
        buffers: &mut Buffers,
    ) -> Result<Option<(u64, Vec<u8>)>, Ignored> {
        let Some(slot) = self.slots.get_mut(usize::from(part.slot)) else {
            return Err(if part.seq <= self.rested { Ignored::PastPacket } else { Ignored::NeverSent });
        };
        if part.seq < slot.seq || (part.seq == slot.seq && !slot.is_busy) {
            return Err(Ignored::PastPacket);
        }
        if part.seq > slot.seq || !slot.request.is_sent() {
            return Err(Ignored::NeverSent);
        }
        let Some(message) = slot.response.accept(part, &mut held.partial_bytes, buffers)? else {
            return Ok(None);
        };
        // The response acknowledges the request.
        slot.request.close(&mut held.in_transit_bytes, buffers);
        slot.is_busy = false;
        self.free.push(part.slot);
        Ok(Some((slot.tag, message)))
    }

    /// Ends every call under way in failure, those in slots first. With `spare_unsent`, calls of
    /// which no packet has left stay: no life of the peer can have carried them out.
    pub fn fail(
        &mut self,
        spare_unsent: bool,
        held: &mut Held,
        buffers: &mut Buffers,
        mut on_failed: impl FnMut(u64),
    ) {
        for (index, slot) in (0u16..).zip(&mut self.slots) {
            if !slot.is_busy || (spare_unsent && slot.request.is_untouched()) {
                continue;
            }
            slot.request.close(&mut held.in_transit_bytes, buffers);
            slot.response.discard(&mut held.partial_bytes, buffers);
            slot.is_busy = false;
            self.free.push(index);
            on_failed(slot.tag);
        }
        if spare_unsent {
            return;
        }
        self.backlog_bytes = 0;
        for waiting in self.backlog.drain(..) {
            buffers.recycle(waiting.message);
            on_failed(waiting.tag);
        }
    }

    /// Gives back what it holds; no call is under way.
    pub fn rest(&mut self) {
        assert!(self.count() == 0, "{} calls are under way", self.count());
        let rested = self.slots.iter().map(|slot| slot.seq).max().unwrap_or(self.rested);
        *self = Calls { rested, ..Calls::default() };
    }

    /// Calls that have not ended.
    pub fn count(&self) -> usize {
        self.slots.len() - self.free.len() + self.backlog.len()
    }
}
