//! The unsafe room of the benches: a bare socket, to know what the kernel can do with nothing of ours in between.
//!
//! `sendmmsg` and `recvmmsg` over arrays whose pointers are set once; it neither retries nor counts.
//!
//! Invariants of [`Raw`]:
//!   1. `headers[i]` points at `vectors[i]`, and `vectors[i]` of the receiving side at
//!      `arena[i * DATAGRAM_BYTES..][..DATAGRAM_BYTES]`; none of these is ever resized, and all of them are on
//!      the heap, so that they stay where they are when a `Raw` moves.
//!   2. Vectors of the sending side point at slices borrowed for the call.
#![expect(unsafe_code, reason = "the kernel takes bursts through arrays of raw pointers")]

use libc::{c_uint, iovec, mmsghdr, msghdr};
use mako::bounds::{FRAME_BYTES, SOCKET_BUFFER_BYTES};
use socket2::{Domain, SockAddr, Socket, Type};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::ptr;

/// One end, which knows its peer.
pub struct Raw {
    socket: Socket,
    peer: Box<SockAddr>,
    arena: Vec<u8>,
    headers: Vec<mmsghdr>,
    vectors: Vec<iovec>,
    sent_headers: Vec<mmsghdr>,
    sent_vectors: Vec<iovec>,
}

// SAFETY: the pointers it holds between calls are followed only by the kernel, during calls that borrow it.
unsafe impl Send for Raw {}

impl Raw {
    /// Two ends over loopback.
    pub fn pair() -> io::Result<(Raw, Raw)> {
        let (left, right) = (open()?, open()?);
        let (to_left, to_right) = (left.local_addr()?, right.local_addr()?);
        Ok((Raw::new(left, to_right), Raw::new(right, to_left)))
    }

    fn new(socket: Socket, peer: SockAddr) -> Raw {
        let nothing = iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        let mut raw = Raw {
            socket,
            peer: Box::new(peer),
            arena: vec![0; BURST * DATAGRAM_BYTES],
            headers: Vec::new(),
            vectors: vec![nothing; BURST],
            sent_headers: Vec::new(),
            sent_vectors: vec![nothing; BURST],
        };
        let arena = raw.arena.as_mut_ptr();
        for (place, vector) in raw.vectors.iter_mut().enumerate() {
            vector.iov_base = arena.wrapping_add(place * DATAGRAM_BYTES).cast();
            vector.iov_len = DATAGRAM_BYTES;
        }
        raw.headers = headers(&mut raw.vectors, None);
        raw.sent_headers = headers(&mut raw.sent_vectors, Some(&raw.peer));
        raw
    }

    /// Takes up to `max` datagrams that have come; how many.
    pub fn receive(&mut self, max: usize) -> usize {
        let count = c_uint::try_from(max.min(BURST)).expect("a burst is small");
        let headers = self.headers.as_mut_ptr();
        // SAFETY: invariant 1; there are at least `count` headers.
        let outcome = unsafe {
            libc::recvmmsg(self.socket.as_raw_fd(), headers, count, libc::MSG_DONTWAIT as _, ptr::null_mut())
        };
        usize::try_from(outcome).unwrap_or(0)
    }

    /// One of those received last.
    pub fn datagram(&self, place: usize) -> &[u8] {
        &self.arena[place * DATAGRAM_BYTES..][..self.headers[place].msg_len as usize]
    }

    /// Sends the first of `datagrams`; how many went.
    pub fn send<'a>(&mut self, datagrams: impl Iterator<Item = &'a [u8]>) -> usize {
        let mut count = 0;
        for (vector, datagram) in self.sent_vectors.iter_mut().zip(datagrams) {
            // The kernel only reads it, though the field is not const.
            *vector = iovec { iov_base: datagram.as_ptr().cast_mut().cast(), iov_len: datagram.len() };
            count += 1;
        }
        self.send_vectors(count)
    }

    /// Sends back the datagrams received last, from `first` up to `count`; how many went.
    pub fn echo(&mut self, first: usize, count: usize) -> usize {
        for place in first..count {
            let length = self.headers[place].msg_len as usize;
            self.sent_vectors[place - first] = iovec { iov_len: length, ..self.vectors[place] };
        }
        self.send_vectors(count - first)
    }

    fn send_vectors(&mut self, count: usize) -> usize {
        let count = c_uint::try_from(count).expect("a burst is small");
        let headers = self.sent_headers.as_mut_ptr();
        // SAFETY: invariants 1 and 2; there are at least `count` headers.
        let outcome =
            unsafe { libc::sendmmsg(self.socket.as_raw_fd(), headers, count, libc::MSG_DONTWAIT as _) };
        usize::try_from(outcome).unwrap_or(0)
    }
}

fn open() -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM.nonblocking(), None)?;
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.bind(&std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    Ok(socket)
}

fn headers(vectors: &mut [iovec], peer: Option<&SockAddr>) -> Vec<mmsghdr> {
    let of_one = |vector: &mut iovec| {
        // SAFETY: a plain C struct of integers and pointers, of which zero is a value.
        let mut header: msghdr = unsafe { std::mem::zeroed() };
        header.msg_iov = vector;
        header.msg_iovlen = 1;
        if let Some(peer) = peer {
            header.msg_name = peer.as_ptr().cast_mut().cast();
            header.msg_namelen = peer.len();
        }
        mmsghdr { msg_hdr: header, msg_len: 0 }
    };
    vectors.iter_mut().map(of_one).collect()
}

/// Datagrams one call takes.
pub const BURST: usize = 128;
const DATAGRAM_BYTES: usize = FRAME_BYTES;

#[cfg(test)]
mod tests {
    use super::*;

    fn received(raw: &mut Raw, count: usize) -> Vec<Vec<u8>> {
        let mut datagrams = Vec::new();
        while datagrams.len() < count {
            let came = raw.receive(BURST);
            datagrams.extend((0..came).map(|place| raw.datagram(place).to_vec()));
        }
        datagrams
    }

    /// A limit measured with datagrams that are not what they seem would be a limit of something else.
    #[test]
    fn datagrams_come_back_as_they_were_sent() {
        let (mut left, right) = Raw::pair().unwrap();
        let sent: Vec<Vec<u8>> = (1..=20_u8).map(|byte| vec![byte; usize::from(byte) * 50]).collect();
        assert_eq!(left.send(sent.iter().map(Vec::as_slice)), sent.len());
        let mut moved = right;
        assert_eq!(received(&mut moved, 20), sent);
        assert_eq!(left.send(sent.iter().map(Vec::as_slice)), sent.len());
        let mut echoed = 0;
        while echoed < sent.len() {
            let came = moved.receive(BURST);
            assert_eq!(moved.echo(0, came), came);
            echoed += came;
        }
        assert_eq!(received(&mut left, 20), sent);
    }
}
