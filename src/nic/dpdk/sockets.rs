//! The kernel sockets beneath virtual devices: DPDK has them and does not tell.
//!
//! They are worth finding for two reasons. A core can sleep on one: it becomes readable when a frame has come.
//! And `net_af_xdp` of DPDK 22.11 does not close its own: it counts the users of a umem only where umems are
//! shared, counts down from zero at the end, and so never takes the last one for the last. The interface would
//! be busy until the process ends.
#![allow(unsafe_code, reason = "an unsafe room: sockets of C are asked what they are, and closed")]

use std::fs;
use std::os::fd::RawFd;
use std::ptr;

/// The sockets of this process that take whole frames from an interface, ascending.
pub fn open_now() -> Vec<RawFd> {
    let names = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let numbers = names.filter_map(|name| name.file_name().to_str()?.parse::<RawFd>().ok());
    let mut found: Vec<RawFd> =
        numbers.filter(|fd| matches!(family(*fd), Some(libc::AF_XDP | libc::AF_PACKET))).collect();
    found.sort_unstable();
    found
}

/// Closes those that are left of `fds`, of a port that is closed, while no port is made or closed.
pub fn close_left(fds: &[RawFd]) {
    for fd in fds.iter().copied().filter(|fd| family(*fd) == Some(libc::AF_XDP)) {
        // SAFETY: an AF_XDP socket, of which only ports have any; it was this port's, and nobody has opened
        // one since.
        unsafe { libc::close(fd) };
    }
}

/// `None` of what is no socket.
fn family(fd: RawFd) -> Option<i32> {
    let mut family: i32 = 0;
    let mut bytes = size_of::<i32>() as libc::socklen_t;
    let (value, length) = (ptr::from_mut(&mut family).cast(), &raw mut bytes);
    // SAFETY: room for an integer, and its length; both are locals.
    let outcome = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_DOMAIN, value, length) };
    (outcome == 0).then_some(family)
}
