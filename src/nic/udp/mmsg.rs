//! The unsafe room of `udp`: `recvmmsg` and `sendmmsg` over buffers allocated once.
//!
//! Nothing here knows what a frame means or what to do about an error.
//!
//! Invariants of [`Receiver`] and [`Sender`]:
//!   1. Frame `i` is `arena[i * FRAME_BYTES..][..FRAME_BYTES]`; arena, headers and vectors are allocated
//!      in `new`, with an element for each frame, and never resized.
//!   2. Before each system call the headers it is given point at vectors, and these at frames, of the
//!      same value (or at addresses borrowed for the call), taken from borrows that last until it returns.
//!      The kernel keeps no pointer beyond the call, and nobody else follows one.
#![expect(unsafe_code, reason = "the kernel takes bursts through arrays of raw pointers")]

use crate::bounds::{FRAME_BYTES, RX_BURST, TX_BURST};
use libc::{c_int, c_uint, c_void, iovec, mmsghdr};
use socket2::{SockAddr, Socket};
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;

/// Frames as the last [`Receiver::receive`] found them.
pub struct Receiver {
    arena: Box<[u8]>,
    headers: Box<[mmsghdr]>,
    vectors: Box<[iovec]>,
}

// SAFETY: invariant 2: the pointers it holds between calls are never followed, so it is as free to
// move to another thread as the boxes it owns.
unsafe impl Send for Receiver {}

impl Receiver {
    pub fn new() -> Receiver {
        Receiver {
            arena: vec![0; RX_BURST * FRAME_BYTES].into(),
            headers: vec![empty_header(); RX_BURST].into(),
            vectors: vec![empty_vector(); RX_BURST].into(),
        }
    }

    /// Takes up to `max` frames that have come, without waiting; how many.
    pub fn receive(&mut self, socket: &Socket, max: usize) -> io::Result<usize> {
        let count = max.min(RX_BURST);
        let places = self.arena.chunks_exact_mut(FRAME_BYTES).zip(&mut self.vectors).zip(&mut self.headers);
        for ((frame, vector), header) in places.take(count) {
            *vector = iovec { iov_base: frame.as_mut_ptr().cast(), iov_len: FRAME_BYTES };
            *header = empty_header();
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
        }
        let count = c_uint::try_from(count).expect("a burst is small");
        let headers = self.headers.as_mut_ptr();
        // SAFETY: invariants 1 and 2; `count` is at most the number of headers, all of them just written.
        let outcome = unsafe {
            libc::recvmmsg(socket.as_raw_fd(), headers, count, libc::MSG_DONTWAIT as _, ptr::null_mut())
        };
        count_of(outcome)
    }

    /// `None` when the datagram was longer than a frame.
    pub fn frame(&self, place: usize) -> Option<&[u8]> {
        let header = &self.headers[place];
        if header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
            return None;
        }
        Some(&self.arena[place * FRAME_BYTES..][..header.msg_len as usize])
    }
}

/// A ring of frames to be sent. Addresses are named by their place in a table the caller keeps.
pub struct Sender {
    arena: Box<[u8]>,
    headers: Box<[mmsghdr]>,
    vectors: Box<[iovec]>,
    /// Length and address of each frame.
    queued: Box<[(u16, u16)]>,
    first: usize,
    len: usize,
}

// SAFETY: as for `Receiver`.
unsafe impl Send for Sender {}

impl Sender {
    pub fn new() -> Sender {
        Sender {
            arena: vec![0; TX_BURST * FRAME_BYTES].into(),
            headers: vec![empty_header(); TX_BURST].into(),
            vectors: vec![empty_vector(); TX_BURST].into(),
            queued: vec![(0, 0); TX_BURST].into(),
            first: 0,
            len: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// False when the ring is full.
    pub fn push(&mut self, frame: &[u8], address: u16) -> bool {
        if self.len == TX_BURST {
            return false;
        }
        let place = (self.first + self.len) % TX_BURST;
        self.arena[place * FRAME_BYTES..][..frame.len()].copy_from_slice(frame);
        self.queued[place] = (u16::try_from(frame.len()).expect("a frame is short"), address);
        self.len += 1;
        true
    }

    /// Sends the frames up to the end of the ring's memory; how many went, at least one.
    pub fn send(&mut self, socket: &Socket, addresses: &[SockAddr]) -> io::Result<usize> {
        let places = self.first..TX_BURST.min(self.first + self.len);
        for place in places.clone() {
            let (length, address) = self.queued[place];
            let frame = &mut self.arena[place * FRAME_BYTES..][..usize::from(length)];
            let address = &addresses[usize::from(address)];
            self.vectors[place] = iovec { iov_base: frame.as_mut_ptr().cast(), iov_len: frame.len() };
            let header = &mut self.headers[place];
            *header = empty_header();
            header.msg_hdr.msg_iov = &mut self.vectors[place];
            header.msg_hdr.msg_iovlen = 1;
            // The kernel only reads it, though the field is not const.
            header.msg_hdr.msg_name = address.as_ptr().cast::<c_void>().cast_mut();
            header.msg_hdr.msg_namelen = address.len();
        }
        let count = c_uint::try_from(places.len()).expect("a burst is small");
        let headers = self.headers[places].as_mut_ptr();
        // SAFETY: invariants 1 and 2; `headers` has `count` elements, all of them just written, and the
        // addresses are borrowed until the end of this function.
        let outcome = unsafe { libc::sendmmsg(socket.as_raw_fd(), headers, count, libc::MSG_DONTWAIT as _) };
        let sent = count_of(outcome)?;
        self.take(sent);
        Ok(sent)
    }

    pub fn drop_first(&mut self) {
        self.take(1);
    }

    fn take(&mut self, count: usize) {
        assert!(count <= self.len, "{count} frames taken of {}", self.len);
        self.first = (self.first + count) % TX_BURST;
        self.len -= count;
    }
}

/// Sets both buffers of the socket whatever the system's limit; fails without the privilege.
pub fn force_buffers(socket: &Socket, bytes: usize) -> io::Result<()> {
    let value = c_int::try_from(bytes).expect("a socket buffer is a few megabytes");
    for option in [libc::SO_RCVBUFFORCE, libc::SO_SNDBUFFORCE] {
        let length = size_of::<c_int>() as libc::socklen_t;
        let pointer = ptr::from_ref(&value).cast();
        // SAFETY: `pointer` and `length` describe `value`, which outlives the call.
        let outcome =
            unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, pointer, length) };
        count_of(outcome)?;
    }
    Ok(())
}

/// Waits until `fd` is readable, at most `timeout_ms`.
#[cfg(test)]
pub fn wait_readable(fd: std::os::fd::RawFd, timeout_ms: c_int) {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one element, which outlives the call.
    let outcome = unsafe { libc::poll(&mut poll, 1, timeout_ms) };
    assert!(outcome >= 0, "{}", io::Error::last_os_error());
}

fn count_of(outcome: c_int) -> io::Result<usize> {
    usize::try_from(outcome).map_err(|_| io::Error::last_os_error())
}

fn empty_header() -> mmsghdr {
    // SAFETY: a plain C struct of integers and pointers, of which zero is a value; and all it needs
    // to mean nothing.
    unsafe { std::mem::zeroed() }
}

fn empty_vector() -> iovec {
    iovec { iov_base: ptr::null_mut(), iov_len: 0 }
}

const _: () = assert!(FRAME_BYTES <= u16::MAX as usize);
