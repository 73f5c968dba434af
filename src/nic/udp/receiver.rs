//! Frames in: `recvmmsg` into buffers that each hold one datagram, or as many as the kernel has joined (GRO).
//!
//! Nothing here knows what a frame means or what to do about an error.
//!
//! Invariants:
//!   1. `headers[i]` points at `vectors[i]` and `controls[i]`, `vectors[i]` at the buffer `i` of the arena. All of
//!      them are on the heap or mapped, and never resized, so they stay where they are when a `Receiver` moves.
//!   2. The kernel follows these pointers during a call that has borrowed the `Receiver` and at no other time, and
//!      nobody else follows them at all.
//!   3. Frames before `next` have been handed out, in the buffers below `filled` the others are.
#![expect(unsafe_code, reason = "the kernel takes bursts through arrays of raw pointers")]

use super::options::{JoinedSize, count_of, empty_header};
use crate::bounds::FRAME_BYTES;
use libc::{c_uint, iovec, mmsghdr};
use memmap2::MmapMut;
use socket2::Socket;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;

pub struct Receiver {
    arena: MmapMut,
    headers: Vec<mmsghdr>,
    /// Only the kernel reads them.
    _vectors: Vec<iovec>,
    controls: Vec<JoinedSize>,
    filled: usize,
    next: Place,
}

/// A frame of a buffer, by where it begins.
#[derive(Clone, Copy)]
struct Place {
    buffer: usize,
    offset: usize,
}

pub enum Received<'a> {
    Frame {
        bytes: &'a [u8],
        /// It came in one message with others.
        joined: bool,
    },
    /// A datagram longer than any frame.
    TooLong,
}

// SAFETY: invariants 1 and 2: the pointers it holds stay valid when it moves, to another thread as well.
unsafe impl Send for Receiver {}

impl Receiver {
    pub fn new() -> io::Result<Receiver> {
        let mut arena = MmapMut::map_anon(BUFFERS * BUFFER_STRIDE)?;
        let base = arena.as_mut_ptr();
        let vector = |buffer| iovec {
            iov_base: base.wrapping_add(buffer * BUFFER_STRIDE).cast(),
            iov_len: BUFFER_BYTES,
        };
        let mut vectors: Vec<iovec> = (0..BUFFERS).map(vector).collect();
        let mut controls = vec![JoinedSize::empty(); BUFFERS];
        let header = |(vector, control): (&mut iovec, &mut JoinedSize)| {
            let mut header = empty_header();
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = ptr::from_mut(control).cast();
            header.msg_hdr.msg_controllen = size_of::<JoinedSize>() as _;
            header
        };
        let headers = vectors.iter_mut().zip(&mut controls).map(header).collect();
        let next = Place { buffer: 0, offset: 0 };
        Ok(Receiver { arena, headers, _vectors: vectors, controls, filled: 0, next })
    }

    /// Fills up to `buffers` with what has come, without waiting; how many. Every frame has been taken before.
    pub fn receive(&mut self, socket: &Socket, buffers: usize) -> io::Result<usize> {
        assert!(self.next.buffer == self.filled, "frames are left");
        for header in &mut self.headers[..self.filled] {
            // The kernel has put there what it wrote.
            header.msg_hdr.msg_controllen = size_of::<JoinedSize>() as _;
        }
        (self.filled, self.next) = (0, Place { buffer: 0, offset: 0 });
        let count = c_uint::try_from(buffers.min(BUFFERS)).expect("a burst is small");
        let headers = self.headers.as_mut_ptr();
        // SAFETY: invariants 1 and 2; there are at least `count` headers.
        let outcome = unsafe {
            libc::recvmmsg(socket.as_raw_fd(), headers, count, libc::MSG_DONTWAIT as _, ptr::null_mut())
        };
        self.filled = count_of(outcome)?;
        Ok(self.filled)
    }

    /// Takes the next frame of those received.
    pub fn take(&mut self) -> Option<Received<'_>> {
        if self.next.buffer == self.filled {
            return None;
        }
        let Place { buffer, offset } = self.next;
        let header = &self.headers[buffer];
        let length = header.msg_len as usize;
        let joined = self.controls[buffer].size(header.msg_hdr.msg_controllen as _);
        let end = joined.map_or(length, |size| length.min(offset + size));
        self.next = if end < length {
            Place { buffer, offset: end }
        } else {
            Place { buffer: buffer + 1, offset: 0 }
        };
        if end - offset > FRAME_BYTES {
            return Some(Received::TooLong);
        }
        let bytes = &self.arena[buffer * BUFFER_STRIDE..][offset..end];
        Some(Received::Frame { bytes, joined: joined.is_some() })
    }

    /// Buffers that the last call has filled.
    pub fn filled(&self) -> usize {
        self.filled
    }

    pub fn is_empty(&self) -> bool {
        self.next.buffer == self.filled
    }
}

/// Buffers one call fills at most. Beyond these a call more costs little per datagram.
pub const BUFFERS: usize = 32;
/// The longest datagram there is, and so the most the kernel joins.
const BUFFER_BYTES: usize = 64 << 10;
/// Not a multiple of a power of two, or the beginnings of all buffers would fight for the same cache lines.
const BUFFER_STRIDE: usize = BUFFER_BYTES + 2_048 + 64;
