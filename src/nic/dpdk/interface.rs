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
use super::headers::{ETHERNET_BYTES, HEADERS_BYTES};
use super::patience::patiently;
use super::{DpdkError, sys};
use crate::bounds::FRAME_BYTES;
use std::ffi::CString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

pub struct Interface {
    name: String,
    /// Whether its device is to get every frame.
    takes_all: bool,
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
        // A child that its last owner has started holds a copy until it runs its own program.
        let is_held = |why: &io::Error| why.kind() == io::ErrorKind::AddrInUse;
        let claim = patiently(CLAIM_LOOKS, is_held, || UnixDatagram::bind_addr(&address)).map_err(refuse)?;
        if let Some(mtu) = mtu(name).filter(|mtu| *mtu < PACKET_BYTES_MAX) {
            return Err(DpdkError::Mtu { interface: name.to_string(), mtu, wanted: PACKET_BYTES_MAX });
        }
        let mut notices = Vec::new();
        if device.owns_program() && forget_program(name) {
            notices.push(format!(
                "{device}: {name} was left with a program of an earlier AF_XDP socket, which is taken off"
            ));
        }
        let name = name.to_string();
        Ok((Some(Interface { name, takes_all: device.owns_program(), _claim: claim }), notices))
    }

    /// Refuses an interface with more receive queues than the `pairs` that the device uses: the kernel keeps what
    /// comes to the others, so some peers would be heard and some not.
    pub fn check_queues(&self, pairs: u16) -> Result<(), DpdkError> {
        let (receive, combined) = queues(&self.name).unwrap_or_default();
        if !self.takes_all || receive + combined <= u32::from(pairs) {
            return Ok(());
        }
        let kind = if combined > 0 { "combined" } else { "rx" };
        Err(DpdkError::Queues { interface: self.name.clone(), has: receive + combined, kind, pairs })
    }
}

/// The longest packet it carries; `None` where that is not known.
fn mtu(interface: &str) -> Option<usize> {
    let name = c_string(interface);
    // SAFETY: a string that outlives the call.
    usize::try_from(unsafe { sys::mako_interface_mtu(name.as_ptr()) }).ok()
}

/// Queues that only receive, and those that send too; `None` where the driver does not tell.
fn queues(interface: &str) -> Option<(u32, u32)> {
    let name = c_string(interface);
    let (mut receive, mut combined) = (0, 0);
    // SAFETY: a string that outlives the call, and locals.
    let outcome = unsafe { sys::mako_interface_queues(name.as_ptr(), &raw mut receive, &raw mut combined) };
    (outcome == 0).then_some((receive, combined))
}

fn c_string(interface: &str) -> CString {
    CString::new(interface).expect("a device is spelt without zeros")
}

fn forget_program(interface: &str) -> bool {
    let name = c_string(interface);
    // SAFETY: a string that outlives the call.
    let outcome = unsafe { sys::mako_xdp_forget(name.as_ptr()) };
    outcome > 0
}

/// As a process that is killed leaves it.
#[cfg(test)]
pub fn leave_program(interface: &str) {
    let name = c_string(interface);
    // SAFETY: a string that outlives the call.
    let outcome = unsafe { sys::mako_xdp_leave(name.as_ptr()) };
    assert_eq!(outcome, 0);
}

/// A frame of ours with its headers but the one of Ethernet.
const PACKET_BYTES_MAX: usize = HEADERS_BYTES - ETHERNET_BYTES + FRAME_BYTES;
const CLAIM_LOOKS: u32 = 20;
