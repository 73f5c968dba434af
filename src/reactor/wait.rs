//! The one call in which an idle core blocks: until one of its files is readable, or a time has come.
//!
//! What the files are, and what is done after waking, is the reactor's. Waking too early is harmless,
//! so a signal or a file that was readable already just ends the wait.
#![allow(unsafe_code, reason = "an unsafe room: the kernel is handed an array and a time by pointer")]

use crate::bounds::SECOND;
use std::io;
use std::os::fd::RawFd;
use std::ptr;

/// What a core sleeps on: its NIC, its disk, its waker. Places without a file are passed over.
pub type Sources = [Option<RawFd>; 4];

/// Blocks until one of `sources` is readable, or `timeout_ns` have passed; `None` waits for ever.
pub fn wait(sources: Sources, timeout_ns: Option<u64>) {
    // The kernel ignores a negative file.
    let mut polled =
        sources.map(|fd| libc::pollfd { fd: fd.unwrap_or(-1), events: libc::POLLIN, revents: 0 });
    let timeout = timeout_ns.map(timespec);
    let timeout = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
    let count = polled.len() as libc::nfds_t;
    // SAFETY: `polled` has `count` elements, `timeout` is null or points at a local; both outlive the
    // call, and the kernel keeps neither. No signal mask is changed.
    let outcome = unsafe { libc::ppoll(polled.as_mut_ptr(), count, timeout, ptr::null()) };
    if outcome < 0 {
        let error = io::Error::last_os_error();
        assert_eq!(error.kind(), io::ErrorKind::Interrupted, "waiting on files of ours: {error}");
    }
}

/// The kernel may put off the end of a wait by its timer slack, 50 us unless a thread says otherwise:
/// as much as a whole exchange of messages takes here. For the calling thread.
pub fn ask_for_exact_timers() {
    const LEAST_NS: libc::c_ulong = 1;
    // SAFETY: takes integers only, and changes nothing but when this thread wakes.
    let outcome = unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, LEAST_NS) };
    // Where it is not allowed timers are late by the slack: nothing else changes.
    debug_assert_eq!(outcome, 0, "{}", io::Error::last_os_error());
}

fn timespec(ns: u64) -> libc::timespec {
    let seconds = i64::try_from(ns / SECOND).expect("64 bits of nanoseconds are few seconds");
    let rest = i64::try_from(ns % SECOND).expect("less than a second");
    libc::timespec { tv_sec: seconds, tv_nsec: rest }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::ring::Waker;

    /// A core that cannot be woken holds up every sibling that hands it something. Without the file
    /// the wait would last for ever, and so would this test.
    #[test]
    fn a_readable_file_ends_a_wait_without_end() {
        let waker = Waker::new().unwrap();
        waker.begin_sleep();
        waker.wake();
        wait([None, None, None, Some(waker.fd())], None);
        waker.end_sleep();
    }

    /// A timeout taken for another unit is a core that spins, or one that is late by a factor.
    #[test]
    fn a_wait_ends_when_its_time_has_come_and_not_before() {
        let waker = Waker::new().unwrap();
        for timeout_ns in [0, 1, 3_000_000] {
            let begin = crate::clock::now();
            wait([Some(waker.fd()), None, None, None], Some(timeout_ns));
            assert!(crate::clock::now().since(begin) >= timeout_ns);
        }
        let spec = timespec(3 * SECOND + 7);
        assert_eq!((spec.tv_sec, spec.tv_nsec), (3, 7));
    }
}
