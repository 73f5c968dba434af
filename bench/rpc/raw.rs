//! The unsafe room of the benches: bare sockets, to know what the kernel can do with nothing of ours in between.
//!
//! `sendmmsg` and `recvmmsg` over arrays whose pointers are set once; it neither retries nor counts.
//!
//! Invariants of [`Sockets`]:
//!   1. `headers[i]` points at `vectors[i]`, and `vectors[i]` of the receiving side at
//!      `arena[i * DATAGRAM_BYTES..][..DATAGRAM_BYTES]`; none of these is ever resized, and all of them are on
//!      the heap, so that they stay where they are when a `Sockets` moves.
//!   2. Vectors of the sending side point at slices borrowed for the call.
#![expect(unsafe_code, reason = "the kernel takes bursts through arrays of raw pointers")]

use super::wire::Bursts;
use libc::{c_uint, iovec, mmsghdr, msghdr};
use mako::bounds::{FRAME_BYTES, SOCKET_BUFFER_BYTES};
use socket2::{Domain, SockAddr, Socket, Type};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::ptr;

/// One end, which knows its peer.
pub struct Sockets {
    socket: Socket,
    peer: Box<SockAddr>,
    arena: Vec<u8>,
    headers: Vec<mmsghdr>,
    vectors: Vec<iovec>,
    sent_headers: Vec<mmsghdr>,
    sent_vectors: Vec<iovec>,
}

// SAFETY: the pointers it holds between calls are followed only by the kernel, during calls that borrow it.
unsafe impl Send for Sockets {}

impl Sockets {
    /// Two ends over loopback.
    pub fn pair() -> io::Result<[Sockets; 2]> {
        let (left, right) = (open()?, open()?);
        let (to_left, to_right) = (left.local_addr()?, right.local_addr()?);
        Ok([Sockets::new(left, to_right), Sockets::new(right, to_left)])
    }

    fn new(socket: Socket, peer: SockAddr) -> Sockets {
        let nothing = iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        let mut raw = Sockets {
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

    /// Sends back the datagrams received last, from `first` up to `count`; how many went.
    fn send_back(&mut self, first: usize, count: usize) -> usize {
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

impl Bursts for Sockets {
    fn send<'a>(&mut self, payloads: impl Iterator<Item = &'a [u8]>) -> usize {
        let mut count = 0;
        for (vector, payload) in self.sent_vectors.iter_mut().zip(payloads) {
            // The kernel only reads it, though the field is not const.
            *vector = iovec { iov_base: payload.as_ptr().cast_mut().cast(), iov_len: payload.len() };
            count += 1;
        }
        self.send_vectors(count)
    }

    fn receive(&mut self, most: usize) -> usize {
        let count = c_uint::try_from(most.min(BURST)).expect("a burst is small");
        let headers = self.headers.as_mut_ptr();
        // SAFETY: invariant 1; there are at least `count` headers.
        let outcome = unsafe {
            libc::recvmmsg(self.socket.as_raw_fd(), headers, count, libc::MSG_DONTWAIT as _, ptr::null_mut())
        };
        usize::try_from(outcome).unwrap_or(0)
    }

    fn payload(&self, place: usize) -> &[u8] {
        &self.arena[place * DATAGRAM_BYTES..][..self.headers[place].msg_len as usize]
    }

    fn echo(&mut self, most: usize) {
        let came = self.receive(most);
        let mut echoed = 0;
        while echoed < came {
            echoed += self.send_back(echoed, came);
        }
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

    fn received(raw: &mut Sockets, count: usize) -> Vec<Vec<u8>> {
        let mut datagrams = Vec::new();
        while datagrams.len() < count {
            let came = raw.receive(BURST);
            datagrams.extend((0..came).map(|place| raw.payload(place).to_vec()));
        }
        datagrams
    }

    /// A limit measured with datagrams that are not what they seem would be a limit of something else.
    #[test]
    fn datagrams_come_back_as_they_were_sent() {
        let [mut left, right] = Sockets::pair().unwrap();
        let sent: Vec<Vec<u8>> = (1..=20_u8).map(|byte| vec![byte; usize::from(byte) * 50]).collect();
        assert_eq!(left.send(sent.iter().map(Vec::as_slice)), sent.len());
        let mut moved = right;
        assert_eq!(received(&mut moved, 20), sent);
        assert_eq!(left.send(sent.iter().map(Vec::as_slice)), sent.len());
        let mut came = Vec::new();
        while came.len() < sent.len() {
            moved.echo(BURST);
            let count = left.receive(BURST);
            came.extend((0..count).map(|place| left.payload(place).to_vec()));
        }
        assert_eq!(came, sent);
    }
}
