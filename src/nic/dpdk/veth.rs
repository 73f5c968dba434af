//! Two network namespaces joined by a pair of interfaces: two machines, for tests and benches on one.
//!
//! The namespaces have no names. They are there as long as a file of ours is open on each, and what is in them goes
//! with them: however the process ends, nothing of it stays behind.
#![allow(unsafe_code, reason = "an unsafe room: threads make namespaces, and enter them by file descriptor")]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::panic;
use std::process::{self, Command};
use std::{io, thread};

pub struct Veth {
    namespaces: [File; 2],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    Left,
    Right,
}

#[derive(Debug, thiserror::Error)]
pub enum VethError {
    #[error("there is no network namespace: {0}; run as root, in a container with CAP_SYS_ADMIN")]
    NoNamespace(io::Error),
    #[error("`ip` does not run: {0}; apt-get install iproute2")]
    NoCommand(io::Error),
    #[error("ip {arguments}: {why}; it takes root, and a kernel with veth")]
    Refused { arguments: String, why: String },
}

/// The interface in either namespace.
pub const INTERFACE: &str = "mako0";

impl Veth {
    /// Both interfaces are up, and have so many queues.
    pub fn new(queues: u16) -> Result<Veth, VethError> {
        let veth = Veth { namespaces: [namespace()?, namespace()?] };
        let right = format!("/proc/{}/fd/{}", process::id(), veth.namespace(Side::Right).as_raw_fd());
        let channels = format!("numrxqueues {queues} numtxqueues {queues}");
        let pair =
            format!("add {INTERFACE} {channels} type veth peer name {INTERFACE} {channels} netns {right}");
        veth.ip(Side::Left, &format!("link {pair}"))?;
        for side in [Side::Left, Side::Right] {
            // The kernel would make itself an address of IPv6, and send of its own accord.
            veth.ip(side, &format!("link set {INTERFACE} addrgenmode none"))?;
            veth.set_link(side, "up")?;
        }
        Ok(veth)
    }

    pub fn set_link(&self, side: Side, state: &str) -> Result<(), VethError> {
        self.ip(side, &format!("link set {INTERFACE} {state}"))
    }

    /// Gives the kernel an address, with its prefix.
    pub fn add_address(&self, side: Side, address: &str) -> Result<(), VethError> {
        self.ip(side, &format!("address add {address} dev {INTERFACE}"))
    }

    /// Runs `work` on a thread whose interfaces are those of a side.
    pub fn within<T: Send>(&self, side: Side, work: impl FnOnce() -> T + Send) -> T {
        let namespace = self.namespace(side).as_raw_fd();
        thread::scope(|scope| {
            let inside = scope.spawn(move || {
                // SAFETY: takes integers; the file is open as long as we are borrowed.
                let outcome = unsafe { libc::setns(namespace, libc::CLONE_NEWNET) };
                assert_eq!(outcome, 0, "a namespace of ours: {}", io::Error::last_os_error());
                work()
            });
            inside.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
        })
    }

    fn ip(&self, side: Side, arguments: &str) -> Result<(), VethError> {
        let run = || Command::new("ip").args(arguments.split_whitespace()).output();
        let done = self.within(side, run).map_err(VethError::NoCommand)?;
        let refused = || VethError::Refused {
            arguments: arguments.to_string(),
            why: String::from_utf8_lossy(&done.stderr).trim().to_string(),
        };
        if done.status.success() { Ok(()) } else { Err(refused()) }
    }

    fn namespace(&self, side: Side) -> &File {
        let [left, right] = &self.namespaces;
        if side == Side::Left { left } else { right }
    }
}

/// A fresh one, made by a thread that ends in it.
fn namespace() -> Result<File, VethError> {
    let make = || {
        // SAFETY: takes an integer, and changes the calling thread alone.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            return Err(io::Error::last_os_error());
        }
        File::open("/proc/thread-self/ns/net")
    };
    let made = thread::scope(|scope| scope.spawn(make).join());
    made.unwrap_or_else(|panic| panic::resume_unwind(panic)).map_err(VethError::NoNamespace)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// What a killed test or bench leaves behind would be in the way of the next.
    #[test]
    fn nothing_of_it_has_a_name_outside() {
        let names = || fs::read_dir("/run/netns").map_or(0, |names| names.count());
        let before = names();
        let veth = Veth::new(1).unwrap();
        let interfaces = || fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        assert!(!interfaces().contains(INTERFACE) && names() == before);
        for side in [Side::Left, Side::Right] {
            assert!(veth.within(side, interfaces).contains(INTERFACE));
        }
    }

    #[test]
    fn what_the_kernel_refuses_is_told_with_its_reason() {
        let veth = Veth::new(1).unwrap();
        let told = veth.set_link(Side::Left, "sideways").unwrap_err().to_string();
        assert!(told.starts_with("ip link set mako0 sideways: ") && told.contains("sideways\""), "{told}");
    }
}
