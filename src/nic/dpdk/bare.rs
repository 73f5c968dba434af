//! A port with nothing of ours on it: bare frames in bursts, to know what it can do.
//!
//! A frame is as long as a datagram with the same payload would be, and of a type that Ethernet keeps for
//! experiments: neither the kernel nor the transport takes it for anything. Nothing is summed, numbered or looked up.
#![forbid(unsafe_code)]

use super::headers::{HEADERS_BYTES, Mac};
use super::queue::Queue;

/// Has the queue pair of a core as long as it lives.
pub struct Bare<'a> {
    queue: &'a mut Queue,
    headers: [u8; HEADERS_BYTES],
}

impl<'a> Bare<'a> {
    /// What was to be sent is dropped.
    pub(super) fn new(queue: &'a mut Queue, to: Mac) -> Bare<'a> {
        let mut headers = [0; HEADERS_BYTES];
        headers[..6].copy_from_slice(&to.0);
        headers[6..12].copy_from_slice(&queue.port().mac().0);
        headers[12..14].copy_from_slice(&TYPE_EXPERIMENT);
        queue.drop_leaving();
        Bare { queue, headers }
    }

    /// Takes in up to `most` frames, instead of those of the last burst; how many.
    pub fn receive(&mut self, most: usize) -> usize {
        if self.queue.is_up() { self.queue.receive(most) } else { 0 }
    }

    /// Of a frame of the last burst; empty if it is none of these.
    pub fn payload(&self, place: usize) -> &[u8] {
        self.queue.frame(place).0.get(HEADERS_BYTES..).unwrap_or_default()
    }

    /// Puts a frame behind those that leave. False when there is no room.
    pub fn push(&mut self, payload: &[u8]) -> bool {
        let headers = &self.headers;
        self.queue.push(HEADERS_BYTES + payload.len(), |room| {
            let (front, back) = room.split_at_mut(HEADERS_BYTES);
            front.copy_from_slice(headers);
            back.copy_from_slice(payload);
        })
    }

    /// Puts the frames of the last burst behind those that leave, in the buffers they came in, each addressed to
    /// whoever sent it.
    pub fn turn_back(&mut self) {
        self.queue.turn_back();
    }

    /// Gives the device as many of those that leave as it takes; how many are left.
    pub fn flush(&mut self) -> usize {
        if self.queue.is_up() {
            self.queue.flush();
        }
        self.queue.leaving()
    }
}

impl Drop for Bare<'_> {
    fn drop(&mut self) {
        self.queue.release();
        self.queue.drop_leaving();
    }
}

const TYPE_EXPERIMENT: [u8; 2] = [0x88, 0xb5];
