//! Two ports of DPDK, each in a network namespace of its own, joined by veth: the kernel's own drivers of DPDK, on a
//! machine that has no other.
//!
//! They are opened once, and every measurement goes over the same two: a buffer that the driver loses is missed by
//! all that come after. What of one measurement is still under way is waited for and thrown away before the next.
#![forbid(unsafe_code)]

use super::load::{ANSWERER, asker};
use super::wire::{Bursts, Wire};
use anyhow::Context;
use mako::bounds::{MS, RX_BURST};
use mako::clock;
use mako::nic::dpdk::veth::{INTERFACE, Side, Veth};
use mako::nic::dpdk::{Bare, Dpdk, DpdkError, Site};
use mako::nic::{Nic, NicStats, Wake};
use mako::types::{Endpoint, Timestamp};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

pub struct Ports {
    veth: Veth,
    /// The caller's and the answerer's, until drop.
    near: Option<Dpdk>,
    far: Option<Dpdk>,
    /// What the operator should know of them.
    pub notices: Vec<String>,
}

impl Ports {
    /// Over `driver`, with so many sessions on the caller's side.
    pub fn open(driver: &str, sessions: usize) -> anyhow::Result<Ports> {
        let veth = Veth::new(1).context("no way between two ports (--nic)")?;
        let mut ports = Ports { veth, near: None, far: None, notices: Vec::new() };
        let [near, far] = [Side::Left, Side::Right].map(|side| SocketAddrV4::new(address(side), UDP_PORT));
        let callers: Vec<_> = (0..sessions).map(|session| (asker(session), SocketAddr::V4(near))).collect();
        ports.near = Some(ports.port(driver, Side::Left, &[(ANSWERER, SocketAddr::V4(far))])?);
        ports.far = Some(ports.port(driver, Side::Right, &callers)?);
        Ok(ports)
    }

    fn port(
        &mut self,
        driver: &str,
        side: Side,
        peers: &[(Endpoint, SocketAddr)],
    ) -> Result<Dpdk, DpdkError> {
        let site = Site {
            device: &format!("{driver}{},iface={INTERFACE}", side as u8),
            listen: SocketAddrV4::new(address(side), UDP_PORT),
            cores: 1,
            subnet: SUBNET.parse().expect("a constant"),
            gateway: None,
            peers,
        };
        let (mut nics, notices) = self.veth.within(side, || Dpdk::open(&site))?;
        self.notices.extend(notices);
        Ok(nics.pop().expect("one of each core"))
    }

    /// Both, with nothing under way between them.
    fn settled(&mut self) -> [&mut Dpdk; 2] {
        let Ports { near, far, .. } = self;
        let mut both = [near, far].map(|port| port.as_mut().expect("open until drop"));
        let [left, right] = both.each_ref().map(|port| port.mac());
        let mut heard = clock::now();
        while clock::now().since(heard) < SETTLED_NS {
            for (port, to) in both.iter_mut().zip([right, left]) {
                if port.bare(to).receive(RX_BURST) > 0 {
                    heard = clock::now();
                }
            }
        }
        both
    }
}

impl Drop for Ports {
    /// What a driver has done to an interface it undoes where that is.
    fn drop(&mut self) {
        let Ports { veth, near, far, .. } = self;
        for (side, port) in [(Side::Left, near), (Side::Right, far)] {
            veth.within(side, || drop(port.take()));
        }
    }
}

impl Wire for Ports {
    type End<'a> = End<'a>;
    type Bare<'a> = Bare<'a>;

    /// Frames are never coalesced.
    fn ends(&mut self, _: usize, _: bool) -> anyhow::Result<[End<'_>; 2]> {
        Ok(self.settled().map(End))
    }

    fn bare(&mut self) -> anyhow::Result<[Bare<'_>; 2]> {
        let [near, far] = self.settled();
        let (to_far, to_near) = (far.mac(), near.mac());
        Ok([near.bare(to_far), far.bare(to_near)])
    }
}

impl Bursts for Bare<'_> {
    fn send<'a>(&mut self, payloads: impl Iterator<Item = &'a [u8]>) -> usize {
        let pushed = payloads.take_while(|payload| self.push(payload)).count();
        self.flush();
        pushed
    }

    fn receive(&mut self, most: usize) -> usize {
        // What the device had no room for.
        self.flush();
        Bare::receive(self, most.min(RX_BURST))
    }

    fn payload(&self, place: usize) -> &[u8] {
        Bare::payload(self, place)
    }

    fn echo(&mut self, most: usize) {
        Bare::receive(self, most.min(RX_BURST));
        self.turn_back();
        self.flush();
    }
}

/// A port for as long as one measurement.
pub struct End<'a>(&'a mut Dpdk);

impl Nic for End<'_> {
    fn rx_burst(&mut self, max: usize, sink: &mut dyn FnMut(&[u8])) -> usize {
        self.0.rx_burst(max, sink)
    }

    fn tx_push(&mut self, now: Timestamp, to: Endpoint, frame: &[u8]) -> bool {
        self.0.tx_push(now, to, frame)
    }

    fn tx_flush(&mut self, now: Timestamp) -> usize {
        self.0.tx_flush(now)
    }

    fn wake(&self) -> Wake {
        self.0.wake()
    }

    fn stats(&self) -> NicStats {
        self.0.stats()
    }
}

fn address(side: Side) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, if side == Side::Left { 1 } else { 2 })
}

const SUBNET: &str = "10.77.0.0/24";
const UDP_PORT: u16 = 7400;
/// For so long nothing has come.
const SETTLED_NS: u64 = MS;
