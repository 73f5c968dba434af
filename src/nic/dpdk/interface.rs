//! The interface of the kernel beneath a virtual device: claimed, and freed of what an earlier owner has left on it.
//!
//! The claim is a socket that lives as long as its process, however that ends, in the network namespace of the
//! interface. Without it a node that is started a second time would take the interface from under the first before
//! it finds that it may not run.
//!
//! What is left is the program by which `net_af_xdp` has frames go to its sockets: the kernel closes those of a
//! process that was killed, and keeps the program, which counts users that are no more and is of whatever version
//! they were.
#![allow(unsafe_code, reason = "an unsafe room: C is called with the name of the interface")]

use super::device::Device;
use super::{DpdkError, sys};
use std::ffi::CString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::thread;
use std::time::Duration;

pub struct Interface {
    _claim: UnixDatagram,
}

impl Interface {
    /// The one beneath `device`, if it is of that kind; and what the operator should know of it. Looked for in the
    /// network namespace of the calling thread.
    pub fn take(device: &Device) -> Result<(Option<Interface>, Vec<String>), DpdkError> {
        let Some(name) = device.interface() else { return Ok((None, Vec::new())) };
        let refuse = |why: io::Error| DpdkError::Port {
            step: "claimed",
            device: device.to_string(),
            why: format!("{name} is a port of another process ({why})"),
        };
        let address = SocketAddr::from_abstract_name(format!("mako-dpdk-{name}")).map_err(refuse)?;
        let mut looks = CLAIM_LOOKS;
        let claim = loop {
            match UnixDatagram::bind_addr(&address) {
                // A child that its last owner has started holds a copy until it runs its own program.
                Err(why) if why.kind() == io::ErrorKind::AddrInUse && looks > 0 => {
                    looks -= 1;
                    #[expect(
                        clippy::disallowed_methods,
                        reason = "at the start of a node, when no core runs yet"
                    )]
                    thread::sleep(CLAIM_PAUSE);
                }
                outcome => break outcome.map_err(refuse)?,
            }
        };
        let mut notices = Vec::new();
        if device.owns_program() && forget_program(name) {
            notices.push(format!(
                "{device}: {name} was left with a program of an earlier AF_XDP socket, which is taken off"
            ));
        }
        Ok((Some(Interface { _claim: claim }), notices))
    }
}

fn forget_program(interface: &str) -> bool {
    let name = CString::new(interface).expect("a device is spelt without zeros");
    // SAFETY: a string that outlives the call.
    let outcome = unsafe { sys::mako_xdp_forget(name.as_ptr()) };
    outcome > 0
}

/// As a process that is killed leaves it.
#[cfg(test)]
pub fn leave_program(interface: &str) {
    let name = CString::new(interface).unwrap();
    // SAFETY: a string that outlives the call.
    let outcome = unsafe { sys::mako_xdp_leave(name.as_ptr()) };
    assert_eq!(outcome, 0);
}

const CLAIM_LOOKS: u32 = 20;
const CLAIM_PAUSE: Duration = Duration::from_millis(10);
