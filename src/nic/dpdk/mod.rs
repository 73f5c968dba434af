//! Kernel bypass: frames go between a core and its queue of a DPDK port, without a system call where the
//! hardware can.
//!
//! | file | is |
//! |---|---|
//! | here | one core's NIC: what becomes of each frame |
//! | `headers` | Ethernet, IPv4, UDP and ARP as bytes |
//! | `neighbours` | hardware addresses of the peers in the subnet, and of the gateway |
//! | `device` | how a device is spelt, and what its driver wants to hear |
//! | `port`, `queue` · *unsafe rooms* | a port from its start to its end; bursts of frames |
//! | `eal`, `sys` · *unsafe rooms* | DPDK's environment; the functions of `ffi/` |
//! | `interface` · *unsafe room* | the kernel's interface beneath a virtual device: claimed, and freed of what was left |
//! | `patience` | waiting for what the last owner of a device is about to let go of |
//! | `sockets` · *unsafe room* | what the kernel has beneath virtual devices |
//! | `bare`, `veth` · *unsafe room* | to measure and to test: a port with nothing on it; two machines on one |
//!
//! The port has the node's `listen` address for itself: the kernel must not have it too. Core i receives what
//! comes to UDP port + i. Where the device cannot tell them apart, whichever core receives a frame hands it to
//! the right one. A frame for a neighbour whose hardware address is unknown waits for it.
//!
//! What a device cannot do is said once at start, and done here instead.
#![deny(unsafe_code)]

mod bare;
mod device;
mod eal;
mod headers;
mod interface;
mod neighbours;
mod patience;
mod port;
mod queue;
mod sockets;
mod sys;
#[cfg(test)]
mod tests;
pub mod veth;

use super::{Nic, NicStats, Wake, place_of};
use crate::bounds::{FRAME_BYTES, MS, RX_BURST, SECOND, US};
use crate::config::Subnet;
use crate::types::{Endpoint, Timestamp};
pub use bare::Bare;
pub use headers::Mac;
use headers::{ARP_BYTES, Arp, Content, HEADERS_BYTES, Route};
use neighbours::{ASK_NS, HopId, Neighbours, REFRESH_NS};
use port::{Opened, Port};
use queue::Queue;
use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;

/// One core's way to its peers. No two cores write to the same cache line, nor to two that are fetched as one.
#[repr(align(128))]
pub struct Dpdk {
    queue: Queue,
    ip: Ipv4Addr,
    /// The UDP port of the node's first core, and how many cores follow.
    first_udp_port: u16,
    /// Core `c` of node `n` is reached by `ways[places[n * CORES_MAX + c]]`.
    places: Vec<Option<u16>>,
    ways: Vec<Way>,
    neighbours: Arc<Neighbours>,
    /// Frames that wait for a neighbour's address, in the order of pushing.
    waiting: VecDeque<Waiting>,
    announced: bool,
    refreshed_at: Timestamp,
    /// When a frame last came or went: an idle core sleeps longer, the longer it has been idle.
    active_at: Timestamp,
    /// When the device last took frames, or there were none for it.
    taken_at: Timestamp,
    now: Timestamp,
    stats: NicStats,
}

/// How a peer's core is reached.
struct Way {
    route: Route,
    hop: HopId,
}

struct Waiting {
    since: Timestamp,
    way: u16,
    frame: Vec<u8>,
}

/// What a node's NICs are made from.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    /// As the cluster file spells it, after `dpdk:`.
    pub device: &'a str,
    /// Of the first core.
    pub listen: SocketAddrV4,
    pub cores: u16,
    pub subnet: Subnet,
    pub gateway: Option<Ipv4Addr>,
    pub peers: &'a [(Endpoint, SocketAddr)],
}

#[derive(Debug, thiserror::Error)]
pub enum DpdkError {
    #[error(
        "DPDK's environment does not start: {why}; run as root, and see hugepages/check.sh for the memory it may have"
    )]
    Environment { why: String },
    #[error(
        "there is no port {device}: {why}; name one that exists, bound to a driver of DPDK if it is on PCI"
    )]
    NoDevice { device: String, why: String },
    #[error("{device} could not be {step}: {why}; see what else uses it")]
    Port { step: &'static str, device: String, why: String },
    #[error(
        "{interface} has {has} receive queues and its port uses {pairs}: what comes to the others would be lost; \
         ethtool -L {interface} {kind} {pairs}"
    )]
    Queues { interface: String, has: u32, kind: &'static str, pairs: u16 },
    #[error(
        "{interface} carries packets of {mtu} bytes and a frame takes up to {wanted}: ip link set dev {interface} mtu {wanted}"
    )]
    Mtu { interface: String, mtu: usize, wanted: usize },
    #[error("no memory for mbufs: {why}; reserve more with hugepages/reserve.sh")]
    Memory { why: String },
    #[error("{peer} is outside of {subnet}, and there is no gateway; add gateway = … to the node")]
    NoWay { peer: SocketAddr, subnet: Subnet },
}

impl Dpdk {
    /// A NIC for each core of a node, in order; and what the operator should know of them. Interfaces are
    /// looked for in the network namespace of the calling thread.
    pub fn open(site: &Site<'_>) -> Result<(Vec<Dpdk>, Vec<String>), DpdkError> {
        let hops = site.peers.iter().map(|(_, peer)| site.next_hop(*peer)).collect::<Result<Vec<_>, _>>()?;
        let neighbours = Arc::new(Neighbours::new(hops.iter().copied()));
        let Opened { queues, notices } = Port::open(site.device, site.cores, site.listen.port())?;
        let open = |queue: Queue| {
            let port = site.listen.port() + queue.core();
            let (from, mac) = (SocketAddrV4::new(*site.listen.ip(), port), queue.port().mac());
            let mut nic = Dpdk {
                queue,
                ip: *site.listen.ip(),
                first_udp_port: site.listen.port(),
                places: Vec::new(),
                ways: Vec::new(),
                neighbours: Arc::clone(&neighbours),
                waiting: VecDeque::new(),
                announced: false,
                refreshed_at: Timestamp::default(),
                active_at: Timestamp::default(),
                taken_at: Timestamp::default(),
                now: Timestamp::default(),
                stats: NicStats::default(),
            };
            for ((peer, address), hop) in site.peers.iter().zip(&hops) {
                let SocketAddr::V4(to) = *address else { unreachable!("`next_hop` has looked") };
                let hop = neighbours.find(*hop).expect("it is in the table");
                nic.add_way(*peer, Way { route: Route::new(mac, from, to), hop });
            }
            nic
        };
        Ok((queues.into_iter().map(open).collect(), notices))
    }

    /// The hardware address at which this core receives.
    pub fn mac(&self) -> Mac {
        self.queue.port().mac()
    }

    /// The port with nothing of ours on it, which sends to `to`.
    pub fn bare(&mut self, to: Mac) -> Bare<'_> {
        Bare::new(&mut self.queue, to)
    }

    fn add_way(&mut self, peer: Endpoint, way: Way) {
        let place = place_of(peer).unwrap_or_else(|| panic!("{peer:?} is not in any cluster"));
        if self.places.len() <= place {
            self.places.resize(place + 1, None);
        }
        self.places[place] = Some(u16::try_from(self.ways.len()).expect("endpoints are bounded"));
        self.ways.push(way);
    }

    fn receive(&mut self, handed_over: bool, most: usize, sink: &mut dyn FnMut(&[u8])) -> usize {
        let Dpdk { queue, stats, ip, first_udp_port, .. } = self;
        let count = if handed_over { queue.receive_handed_over(most) } else { queue.receive(most) };
        if count == 0 {
            return 0;
        }
        self.active_at = self.now;
        let (cores, own) = (queue.port().cores(), queue.core());
        let (mut handed, mut answers) = (0, Vec::new());
        for place in 0..count {
            let (frame, checksums) = queue.frame(place);
            match headers::read(frame, checksums, *ip) {
                Content::Datagram { port, payload } => match port.checked_sub(*first_udp_port) {
                    Some(_) if payload.len() > FRAME_BYTES => stats.truncated += 1,
                    Some(core) if core == own => {
                        handed += 1;
                        sink(payload);
                    }
                    Some(core) if core < cores => {
                        let took = queue.hand_over(place, core);
                        stats.overflowed += u64::from(!took);
                    }
                    _ => stats.foreign += 1,
                },
                Content::Arp(arp) => answers.push(arp),
                Content::Foreign => stats.foreign += 1,
                Content::Corrupt => stats.corrupt += 1,
            }
        }
        stats.frames_received += handed as u64;
        answers.into_iter().for_each(|arp| self.on_arp(arp));
        handed
    }

    fn on_arp(&mut self, Arp { is_request, sender, target }: Arp) {
        self.neighbours.learn(sender.1, sender.0);
        if is_request && target.1 == self.ip && sender.1 != self.ip {
            let me = (self.queue.port().mac(), self.ip);
            let answer = Arp { is_request: false, sender: me, target: sender };
            self.queue.send_now(ARP_BYTES, |room| answer.write(room, sender.0));
        }
    }

    /// Asks everybody for the hardware address of `ip`; of our own, to tell it.
    fn ask(&mut self, ip: Ipv4Addr) {
        let me = (self.queue.port().mac(), self.ip);
        let question = Arp { is_request: true, sender: me, target: (Mac([0; 6]), ip) };
        self.queue.send_now(ARP_BYTES, |room| question.write(room, Mac::EVERYBODY));
    }

    /// What a neighbour needs to hear from us now and then.
    fn greet(&mut self, now: Timestamp) {
        if !self.announced {
            // Whoever knew an earlier owner of our address forgets that one.
            self.announced = true;
            self.refreshed_at = now;
            if self.queue.core() == 0 {
                self.ask(self.ip);
            }
        }
        if now.since(self.refreshed_at) < REFRESH_NS {
            return;
        }
        self.refreshed_at = now;
        for hop in self.neighbours.ids() {
            if self.neighbours.mac(hop).is_some() && self.neighbours.is_to_be_asked(hop, now) {
                self.ask(self.neighbours.ip(hop));
            }
        }
    }

    /// Puts a frame behind those that leave. False when there is no room.
    fn push(&mut self, way: u16, mac: Mac, frame: &[u8]) -> bool {
        let Dpdk { queue, ways, .. } = self;
        let (route, offload) = (&ways[usize::from(way)].route, queue.port().offloads_tx());
        queue.push(HEADERS_BYTES + frame.len(), |room| route.write(room, mac, frame, offload))
    }

    /// Sends on what waits and can go, asks for what it waits for, and gives up what has waited long.
    fn move_waiting(&mut self, now: Timestamp) {
        for _ in 0..self.waiting.len() {
            let Some(one) = self.waiting.pop_front() else { break };
            let hop = self.ways[usize::from(one.way)].hop;
            match self.neighbours.mac(hop) {
                Some(mac) if self.push(one.way, mac, &one.frame) => {}
                None if now.since(one.since) >= WAIT_NS_MAX => self.stats.undeliverable += 1,
                known => {
                    if known.is_none() && self.neighbours.is_to_be_asked(hop, now) {
                        self.ask(self.neighbours.ip(hop));
                    }
                    self.waiting.push_back(one);
                }
            }
        }
    }

    /// Whether the port can be used. What a reset costs is counted.
    fn is_up(&mut self) -> bool {
        let before = self.queue.leaving();
        let is_up = self.queue.is_up();
        self.stats.undeliverable += (before - self.queue.leaving()) as u64;
        is_up
    }
}

impl Nic for Dpdk {
    fn rx_burst(&mut self, max: usize, sink: &mut dyn FnMut(&[u8])) -> usize {
        if !self.is_up() {
            return 0;
        }
        let max = max.min(RX_BURST);
        let mut handed = 0;
        if self.queue.port().cores() > 1 {
            handed = self.receive(true, max, sink);
        }
        if handed < max {
            handed += self.receive(false, max - handed, sink);
        }
        handed
    }

    fn tx_push(&mut self, now: Timestamp, to: Endpoint, frame: &[u8]) -> bool {
        assert!(frame.len() <= FRAME_BYTES, "a frame of {} bytes", frame.len());
        let place = place_of(to).and_then(|place| self.places.get(place).copied().flatten());
        let Some(way) = place else {
            self.stats.undeliverable += 1;
            return true;
        };
        match self.neighbours.mac(self.ways[usize::from(way)].hop) {
            Some(mac) => self.push(way, mac, frame),
            None if self.waiting.len() < WAITING_MAX => {
                self.waiting.push_back(Waiting { since: now, way, frame: frame.to_vec() });
                true
            }
            None => {
                // To refuse it would hold up the frames for all others.
                self.stats.overflowed += 1;
                true
            }
        }
    }

    fn tx_flush(&mut self, now: Timestamp) -> usize {
        self.now = now;
        if !self.is_up() {
            return 0;
        }
        self.greet(now);
        self.move_waiting(now);
        let sent = self.queue.flush();
        // Not sooner: what answers to them is waited for, and their buffers are not.
        self.queue.release();
        self.stats.frames_sent += sent as u64;
        if sent > 0 {
            self.active_at = now;
        }
        if sent > 0 || self.queue.leaving() == 0 {
            self.taken_at = now;
        } else if now.since(self.taken_at) >= STUCK_NS {
            // There is no link: frames for it would keep the core from sleep.
            self.taken_at = now;
            self.stats.undeliverable += self.queue.drop_leaving() as u64;
        }
        self.queue.leaving()
    }

    /// Where nothing tells of a frame, a core looks again after a short sleep: an eighth of the time it has been
    /// idle for, so that sleep adds little to what it waited for anyway. What another core hands over nothing
    /// tells of either.
    fn wake(&self) -> Wake {
        let (port, idle_ns) = (self.queue.port(), self.now.since(self.active_at));
        let fd = port.socket_of(self.queue.core());
        let is_blind = fd.is_none() || port.cores() > 1;
        Wake {
            fd,
            deadline: (!self.waiting.is_empty()).then(|| self.now.plus_ns(ASK_NS)),
            blind_ns_max: is_blind.then(|| (idle_ns / 8).clamp(BLIND_NS_MIN, BLIND_NS_MAX)),
        }
    }

    fn stats(&self) -> NicStats {
        self.stats
    }
}

impl Site<'_> {
    fn next_hop(&self, peer: SocketAddr) -> Result<Ipv4Addr, DpdkError> {
        let on_link = match peer {
            SocketAddr::V4(peer) if self.subnet.contains(*peer.ip()) => Some(*peer.ip()),
            SocketAddr::V4(_) => self.gateway,
            SocketAddr::V6(_) => None,
        };
        on_link.ok_or(DpdkError::NoWay { peer, subnet: self.subnet })
    }
}

/// Frames that wait for hardware addresses, and how long one does.
const WAITING_MAX: usize = 256;
const WAIT_NS_MAX: u64 = SECOND;
/// A device that takes nothing for so long has no link.
const STUCK_NS: u64 = 100 * MS;
const BLIND_NS_MIN: u64 = 20 * US;
const BLIND_NS_MAX: u64 = 500 * US;
