//! What is asked of a socket beside datagrams: buffers, offloads, and the control messages of these.
//!
//! Invariant of [`SentSize`] and [`JoinedSize`]: each is a control message with its padding, as the kernel's
//! macros lay it out (asserted below).
#![expect(unsafe_code, reason = "options of sockets and headers of messages are plain C")]

use libc::{c_int, c_uint, cmsghdr, mmsghdr};
use socket2::{Domain, Socket};
use std::io;
use std::mem::offset_of;
use std::os::fd::AsRawFd;
use std::ptr;

/// Says in frames of which size the kernel is to cut a message (GSO).
#[derive(Clone, Copy)]
#[repr(C)]
pub struct SentSize {
    header: cmsghdr,
    size: u16,
    _padding: [u16; 3],
}

/// Room for the kernel to say of which size the frames were that it has joined (GRO).
#[derive(Clone, Copy)]
#[repr(C)]
pub struct JoinedSize {
    header: cmsghdr,
    size: c_int,
    _padding: c_int,
}

impl SentSize {
    pub fn new(size: u16) -> SentSize {
        let mut header = empty_control();
        header.cmsg_len = SENT_LENGTH as _;
        header.cmsg_level = libc::SOL_UDP;
        header.cmsg_type = libc::UDP_SEGMENT;
        SentSize { header, size, _padding: [0; 3] }
    }
}

impl JoinedSize {
    pub fn empty() -> JoinedSize {
        JoinedSize { header: empty_control(), size: 0, _padding: 0 }
    }

    /// What it says, if the kernel has written `bytes` of it; `None` when the datagram is one frame.
    pub fn size(&self, bytes: usize) -> Option<usize> {
        let is_told = bytes >= JOINED_LENGTH
            && self.header.cmsg_level == libc::SOL_UDP
            && self.header.cmsg_type == libc::UDP_GRO;
        is_told.then(|| usize::try_from(self.size).ok()).flatten().filter(|size| *size > 0)
    }
}

/// Whether the kernel can cut messages into frames. One that cannot would ignore the control message, and send
/// the whole as one datagram.
pub fn can_segment(socket: &Socket) -> bool {
    let mut value: c_int = 0;
    let mut length = size_of::<c_int>() as libc::socklen_t;
    let (pointer, fd) = (ptr::from_mut(&mut value).cast(), socket.as_raw_fd());
    // SAFETY: `pointer` and `length` describe `value`; all three outlive the call.
    let outcome = unsafe { libc::getsockopt(fd, libc::SOL_UDP, libc::UDP_SEGMENT, pointer, &mut length) };
    outcome == 0
}

/// Lets the kernel join frames that arrive one after the other, or not.
pub fn join_received(socket: &Socket, join: bool) -> io::Result<()> {
    set(socket, libc::SOL_UDP, libc::UDP_GRO, c_int::from(join))
}

/// Datagrams longer than the path is known to carry are cut into fragments here, whatever the system's default:
/// neither dropped somewhere on the way nor refused.
pub fn honour_path_mtu(socket: &Socket, domain: Domain) -> io::Result<()> {
    if domain == Domain::IPV6 {
        set(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_WANT)?;
    }
    set(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_WANT)
}

/// Sets both buffers of the socket whatever the system's limit; fails without the privilege.
pub fn force_buffers(socket: &Socket, bytes: usize) -> io::Result<()> {
    let value = c_int::try_from(bytes).expect("a socket buffer is a few megabytes");
    set(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, value)?;
    set(socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, value)
}

/// Sends without checksums, which the kernel refuses to do for what it is to cut.
#[cfg(test)]
pub fn forgo_checksums(socket: &Socket) -> io::Result<()> {
    set(socket, libc::SOL_SOCKET, libc::SO_NO_CHECK, 1)
}

/// Waits until `fd` is readable, at most `timeout_ms`.
#[cfg(test)]
pub fn wait_readable(fd: std::os::fd::RawFd, timeout_ms: c_int) {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one element, which outlives the call.
    let outcome = unsafe { libc::poll(&mut poll, 1, timeout_ms) };
    assert!(outcome >= 0, "{}", io::Error::last_os_error());
}

fn set(socket: &Socket, level: c_int, option: c_int, value: c_int) -> io::Result<()> {
    let length = size_of::<c_int>() as libc::socklen_t;
    let pointer = ptr::from_ref(&value).cast();
    // SAFETY: `pointer` and `length` describe `value`, which outlives the call.
    let outcome = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, pointer, length) };
    count_of(outcome).map(drop)
}

pub fn count_of(outcome: c_int) -> io::Result<usize> {
    usize::try_from(outcome).map_err(|_| io::Error::last_os_error())
}

pub fn empty_header() -> mmsghdr {
    // SAFETY: a plain C struct of integers and pointers, of which zero is a value; and all it needs
    // to mean nothing.
    unsafe { std::mem::zeroed() }
}

fn empty_control() -> cmsghdr {
    // SAFETY: a plain C struct of integers, of which zero is a value.
    unsafe { std::mem::zeroed() }
}

/// Bytes of each up to the end of its integer.
const SENT_LENGTH: usize = offset_of!(SentSize, size) + size_of::<u16>();
const JOINED_LENGTH: usize = offset_of!(JoinedSize, size) + size_of::<c_int>();
// SAFETY: it computes with the number it is given and follows no pointer.
const SENT_LAYOUT: c_uint = unsafe { libc::CMSG_LEN(2) };
// SAFETY: as above.
const JOINED_LAYOUT: c_uint = unsafe { libc::CMSG_LEN(4) };
const _: () = assert!(SENT_LENGTH == SENT_LAYOUT as usize && JOINED_LENGTH == JOINED_LAYOUT as usize);
