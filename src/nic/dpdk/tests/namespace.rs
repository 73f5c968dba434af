//! Two network namespaces joined by a pair of interfaces, which exist as long as a test.
#![allow(unsafe_code, reason = "an unsafe room: a thread enters a namespace by file descriptor")]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{io, thread};

pub struct Veth {
    namespaces: [String; 2],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    Left,
    Right,
}

/// The interface in either namespace.
pub const INTERFACE: &str = "mako0";

impl Veth {
    pub fn new(queues: u16) -> Veth {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = |side: &str| format!("mako-{}-{number}-{side}", process::id());
        let veth = Veth { namespaces: [name("left"), name("right")] };
        let [left, right] = &veth.namespaces;
        ip(&format!("netns add {left}"));
        ip(&format!("netns add {right}"));
        let channels = format!("numrxqueues {queues} numtxqueues {queues}");
        ip(&format!(
            "-n {left} link add {INTERFACE} {channels} type veth peer name {INTERFACE} {channels} netns {right}"
        ));
        veth.set_link(Side::Left, "up");
        veth.set_link(Side::Right, "up");
        veth
    }

    pub fn set_link(&self, side: Side, state: &str) {
        ip(&format!("-n {} link set {INTERFACE} {state}", self.namespace(side)));
    }

    /// Gives the kernel an address, with its prefix.
    pub fn add_address(&self, side: Side, address: &str) {
        ip(&format!("-n {} address add {address} dev {INTERFACE}", self.namespace(side)));
    }

    /// Runs `work` on a thread whose interfaces are those of a side.
    pub fn within<T: Send>(&self, side: Side, work: impl FnOnce() -> T + Send) -> T {
        let path = format!("/run/netns/{}", self.namespace(side));
        let namespace = File::open(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                // SAFETY: takes integers; the file is open until the thread has ended.
                let outcome = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
                assert_eq!(outcome, 0, "{path}: {}", io::Error::last_os_error());
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn namespace(&self, side: Side) -> &str {
        let [left, right] = &self.namespaces;
        if side == Side::Left { left } else { right }
    }
}

impl Drop for Veth {
    fn drop(&mut self) {
        for namespace in &self.namespaces {
            // One that is left is seen in `ip netns`; a test that fails anyway must not abort here.
            let _ = Command::new("ip").args(["netns", "delete", namespace]).status();
        }
    }
}

fn ip(arguments: &str) {
    let made = Command::new("ip").args(arguments.split_whitespace()).output();
    let made =
        made.unwrap_or_else(|error| panic!("these tests need iproute2 (apt-get install iproute2): {error}"));
    let why = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "ip {arguments}: {why}; these tests need root and a kernel with veth");
}
