//! Frames out: `sendmmsg`, where frames of one size for one peer leave as one message that the kernel cuts (GSO).
//!
//! Nothing here knows what a frame means or what to do about an error.
//!
//! Invariants:
//!   1. Frame `i` of `queued` is `arena[queued[i].start..][..queued[i].length]`, in the order of pushing and
//!      without gaps. All memory is allocated in `new` and never resized.
//!   2. Before each call the headers it is given point at vectors and controls, and these at frames, of the same
//!      value (or at addresses borrowed for the call), taken from borrows that last until it returns. The kernel
//!      keeps no pointer beyond the call, and nobody else follows one.
#![expect(unsafe_code, reason = "the kernel takes bursts through arrays of raw pointers")]

use super::options::{SentSize, count_of, empty_header};
use crate::bounds::{FRAME_BYTES, TX_BURST};
use libc::{c_uint, c_void, iovec, mmsghdr};
use socket2::{SockAddr, Socket};
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;

pub struct Sender {
    arena: Box<[u8]>,
    queued: Vec<Queued>,
    /// The first of `queued` that has not left.
    first: usize,
    trains: Vec<Train>,
    headers: Box<[mmsghdr]>,
    vectors: Box<[iovec]>,
    controls: Box<[SentSize]>,
}

#[derive(Clone, Copy)]
struct Queued {
    start: u32,
    length: u16,
    /// A place in the table of addresses that the caller keeps.
    address: u16,
}

/// Frames that leave as one message.
#[derive(Clone, Copy)]
struct Train {
    frames: usize,
    bytes: usize,
}

/// Where frames go, and up to which length frames for it may leave as one.
pub struct Destination {
    pub address: SockAddr,
    pub train_frame_bytes_max: u16,
}

/// What became of the frames handed to the kernel.
pub struct Sent {
    pub frames: usize,
    /// Of these, frames that left together with others.
    pub in_trains: usize,
}

// SAFETY: invariant 2: the pointers it holds between calls are never followed, so it is as free to
// move to another thread as the boxes it owns.
unsafe impl Send for Sender {}

impl Sender {
    pub fn new() -> Sender {
        Sender {
            arena: vec![0; TX_BURST * FRAME_BYTES].into(),
            queued: Vec::with_capacity(TX_BURST),
            first: 0,
            trains: Vec::with_capacity(TX_BURST),
            headers: vec![empty_header(); TX_BURST].into(),
            vectors: vec![iovec { iov_base: ptr::null_mut(), iov_len: 0 }; TX_BURST].into(),
            controls: vec![SentSize::new(0); TX_BURST].into(),
        }
    }

    pub fn len(&self) -> usize {
        self.queued.len() - self.first
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// False when there is no room.
    pub fn push(&mut self, frame: &[u8], address: u16) -> bool {
        if self.queued.len() == TX_BURST {
            return false;
        }
        let start = self.queued.last().map_or(0, |last| last.start as usize + usize::from(last.length));
        self.arena[start..start + frame.len()].copy_from_slice(frame);
        let length = u16::try_from(frame.len()).expect("a frame is short");
        self.queued.push(Queued {
            start: u32::try_from(start).expect("the arena is small"),
            length,
            address,
        });
        true
    }

    /// Sends the oldest frames; what went, at least one.
    pub fn send(&mut self, socket: &Socket, destinations: &[Destination]) -> io::Result<Sent> {
        self.find_trains(destinations);
        let mut first = self.first;
        for (place, train) in self.trains.iter().enumerate() {
            let Queued { start, length, address } = self.queued[first];
            first += train.frames;
            let bytes = &mut self.arena[start as usize..][..train.bytes];
            self.vectors[place] = iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
            let header = &mut self.headers[place];
            *header = empty_header();
            header.msg_hdr.msg_iov = &mut self.vectors[place];
            header.msg_hdr.msg_iovlen = 1;
            // The kernel only reads it, though the field is not const.
            let address = &destinations[usize::from(address)].address;
            header.msg_hdr.msg_name = address.as_ptr().cast::<c_void>().cast_mut();
            header.msg_hdr.msg_namelen = address.len();
            if train.frames > 1 {
                self.controls[place] = SentSize::new(length);
                header.msg_hdr.msg_control = ptr::from_mut(&mut self.controls[place]).cast();
                header.msg_hdr.msg_controllen = size_of::<SentSize>() as _;
            }
        }
        let count = c_uint::try_from(self.trains.len()).expect("a burst is small");
        let headers = self.headers.as_mut_ptr();
        // SAFETY: invariant 2; at least `count` headers, all of them just written, and the addresses are
        // borrowed until the end of this function.
        let outcome = unsafe { libc::sendmmsg(socket.as_raw_fd(), headers, count, libc::MSG_DONTWAIT as _) };
        let left = &self.trains[..count_of(outcome)?];
        let frames = left.iter().map(|train| train.frames).sum();
        let in_trains = left.iter().map(|train| train.frames).filter(|frames| *frames > 1).sum();
        self.take(frames);
        Ok(Sent { frames, in_trains })
    }

    /// If the kernel was last asked to send a train first, and has not: its destination, and the length of its frames.
    pub fn first_train(&self) -> Option<(usize, u16)> {
        let is_train = self.trains.first().is_some_and(|train| train.frames > 1) && !self.is_empty();
        let Queued { length, address, .. } = *self.queued.get(self.first).filter(|_| is_train)?;
        Some((usize::from(address), length))
    }

    pub fn drop_first(&mut self) {
        self.take(1);
    }

    /// Cuts what is queued into trains: frames of one size for one peer, of which the last may be shorter.
    fn find_trains(&mut self, destinations: &[Destination]) {
        self.trains.clear();
        let mut rest = self.queued[self.first..].iter();
        while let Some(first) = rest.next() {
            let mut train = Train { frames: 1, bytes: usize::from(first.length) };
            let most = destinations[usize::from(first.address)].train_frame_bytes_max;
            let mut open = (1..=most).contains(&first.length);
            while open
                && let Some(next) = rest.as_slice().first()
                && next.address == first.address
                && (1..=first.length).contains(&next.length)
                && train.frames < TRAIN_FRAMES_MAX
                && train.bytes + usize::from(next.length) <= TRAIN_BYTES_MAX
            {
                train.frames += 1;
                train.bytes += usize::from(next.length);
                open = next.length == first.length;
                rest.next();
            }
            self.trains.push(train);
        }
    }

    /// What has left makes room at once when nothing is left over, and by moving the rest when something is.
    fn take(&mut self, count: usize) {
        assert!(count <= self.len(), "{count} frames taken of {}", self.len());
        self.first += count;
        if self.is_empty() {
            self.queued.clear();
            self.first = 0;
        }
    }

    /// Makes room of what has left.
    pub fn compact(&mut self) {
        if self.first == 0 {
            return;
        }
        let start = self.queued[self.first].start;
        let end = self.queued.last().map_or(start, |last| last.start + u32::from(last.length));
        self.arena.copy_within(start as usize..end as usize, 0);
        self.queued.drain(..self.first);
        self.queued.iter_mut().for_each(|queued| queued.start -= start);
        self.first = 0;
    }
}

/// The kernel's own bound (`UDP_MAX_SEGMENTS`), as it was in the first that could do it.
const TRAIN_FRAMES_MAX: usize = 64;
/// The longest datagram over IPv4; over IPv6 it is longer.
const TRAIN_BYTES_MAX: usize = 65_507;
const _: () = assert!(FRAME_BYTES <= u16::MAX as usize && TX_BURST * FRAME_BYTES <= u32::MAX as usize);
