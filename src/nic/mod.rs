//! The network of one core: five verbs over datagrams that may be lost, repeated or reordered.
//!
//! A back end moves bytes between its queues and the wire and never blocks or spins; making something
//! reliable of it is `rpc`'s. All back ends pass one test suite.
//!
//! Invariants of every back end:
//!   1. A frame that arrives has the bytes it was sent with, 0 to `FRAME_BYTES` of them.
//!   2. `tx_push` that returns true has copied the frame: it will be sent once, or dropped and counted.
//!   3. `tx_push` that returns false has done nothing; it takes frames again when `tx_flush` has sent some.
#![deny(unsafe_code)]

pub mod any;
#[cfg(feature = "dpdk")]
pub mod dpdk;
pub mod loopback;
#[cfg(test)]
mod suite;
pub mod udp;
pub mod wan;

use crate::bounds::{CORES_MAX, NODES_MAX};
use crate::types::{Endpoint, Timestamp};
use std::os::fd::RawFd;

pub trait Nic {
    /// Hands each received frame to `sink`, at most `max`; how many those were.
    fn rx_burst(&mut self, max: usize, sink: &mut dyn FnMut(&[u8])) -> usize;

    /// Queues a copy of the frame. False when the queue is full: the caller keeps the frame.
    fn tx_push(&mut self, now: Timestamp, to: Endpoint, frame: &[u8]) -> bool;

    /// Sends what is queued, in as few system calls as possible; how many frames could not be sent yet.
    /// While there are any, the caller comes back instead of sleeping until [`Nic::wake`].
    fn tx_flush(&mut self, now: Timestamp) -> usize;

    /// What a core that sleeps waits for.
    fn wake(&self) -> Wake;

    fn stats(&self) -> NicStats;
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Wake {
    /// Becomes readable when a frame has come, once a burst has found none: a back end may hold some itself.
    pub fd: Option<RawFd>,
    /// When `tx_flush` has something to do though nothing was pushed.
    pub deadline: Option<Timestamp>,
    /// How long a core may sleep at most, where nothing can wake it when a frame comes.
    pub blind_ns_max: Option<u64>,
}

/// Only grows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NicStats {
    pub frames_received: u64,
    pub frames_sent: u64,
    /// Datagrams longer than any frame of ours.
    pub truncated: u64,
    /// The peer's machine says that nobody listens there.
    pub refused: u64,
    /// Frames to an endpoint without an address, or that the kernel would not take.
    pub undeliverable: u64,
    /// Frames the receiver, or an emulated router, had no room for.
    pub overflowed: u64,
    /// Frames an emulated link has lost.
    pub lost: u64,
    /// Receive calls that failed for another reason than that nothing had come.
    pub receive_errors: u64,
    /// Frames that the kernel took or handed over together with others, by one pass through its network.
    pub sent_in_trains: u64,
    pub received_in_trains: u64,
    /// How often frames had to go one by one from then on: to one peer, or above a length, because the kernel or
    /// the device would not cut a train of them; or in a direction in which the kernel knows no trains at all.
    pub trains_refused: u64,
    /// Frames of other protocols, or for somebody else.
    pub foreign: u64,
    /// Frames with a wrong checksum.
    pub corrupt: u64,
}

/// Where tables by endpoint have it; `None` for one that no cluster has.
fn place_of(endpoint: Endpoint) -> Option<usize> {
    let (node, core) = (usize::from(endpoint.node.0), usize::from(endpoint.core.0));
    (node < NODES_MAX && core < CORES_MAX).then_some(node * CORES_MAX + core)
}
