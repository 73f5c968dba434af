//! What frames go over, from one core to the other: the same medium once beneath the transport, and once bare.
//!
//! | `--nic` | ends | bare |
//! |---|---|---|
//! | `udp` | kernel sockets over loopback | `sendmmsg` and `recvmmsg` on bare sockets |
//! | `dpdk:…` (`ports`) | ports of DPDK over veth between two namespaces | bursts of bare frames on the same ports |
#![forbid(unsafe_code)]

use super::load::{ANSWERER, asker};
use super::raw::Sockets;
use anyhow::Context;
use mako::nic::Nic;
use mako::nic::udp::Udp;
use std::net::{Ipv4Addr, SocketAddr};

pub trait Wire {
    type End<'a>: Nic + Send
    where
        Self: 'a;
    type Bare<'a>: Bursts + Send
    where
        Self: 'a;

    /// The caller's end, behind which there are so many sessions, and the answerer's. If not `coalesced`, each frame
    /// makes its own way.
    fn ends(&mut self, sessions: usize, coalesced: bool) -> anyhow::Result<[Self::End<'_>; 2]>;

    /// Two ends that know each other.
    fn bare(&mut self) -> anyhow::Result<[Self::Bare<'_>; 2]>;
}

/// One end of a bare medium. What it has no room for, or loses, is not sent again.
pub trait Bursts {
    /// Sends the first of `payloads`, each by itself; how many went.
    fn send<'a>(&mut self, payloads: impl Iterator<Item = &'a [u8]>) -> usize;

    /// Takes what has come, `most` at most; how many those are.
    fn receive(&mut self, most: usize) -> usize;

    /// One of those received last.
    fn payload(&self, place: usize) -> &[u8];

    /// Sends back what has come, `most` at most.
    fn echo(&mut self, most: usize);
}

/// Kernel sockets over loopback.
pub struct Loopback;

impl Wire for Loopback {
    type End<'a> = Udp;
    type Bare<'a> = Sockets;

    fn ends(&mut self, sessions: usize, coalesced: bool) -> anyhow::Result<[Udp; 2]> {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut near = Udp::bind(any, &[]).context("no socket for the caller")?;
        let mut far = Udp::bind(any, &[]).context("no socket for the answerer")?;
        near.set_peer(ANSWERER, far.local_address()?)?;
        let back = near.local_address()?;
        (0..sessions).try_for_each(|session| far.set_peer(asker(session), back))?;
        if !coalesced {
            near.forgo_trains();
            far.forgo_trains();
        }
        Ok([near, far])
    }

    fn bare(&mut self) -> anyhow::Result<[Sockets; 2]> {
        Sockets::pair().context("no bare sockets (this machine)")
    }
}
