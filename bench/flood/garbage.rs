//! What a flood consists of: noise, frames under another key, frames that were seen and changed, frames that were seen.
//!
//! Whoever sits on the network sees frames; here a packet socket does, for which one has to be privileged. Without it the
//! last two kinds are left out, and the report says that nothing was captured.
#![forbid(unsafe_code)]

use super::usage;
use anyhow::{Context, ensure};
use mako::bounds::{FRAME_BYTES, MS, RX_BURST};
use mako::clock;
use mako::config::Config;
use mako::nic::Nic;
use mako::nic::udp::Udp;
use mako::partition::cluster_hash;
use mako::rpc::{Keyring, Rpc, SECRET_BYTES};
use mako::types::{CoreId, Endpoint, NodeId, Prng};
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::BTreeSet;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

pub struct Garbage {
    socket: UdpSocket,
    /// The sockets of all cores.
    places: Vec<SocketAddr>,
    /// Under a key that is not the cluster's, each for whom it is meant.
    foreign: Vec<(SocketAddr, Vec<u8>)>,
    /// Frames of the cluster's own, as they were sent.
    captured: Vec<(SocketAddr, Vec<u8>)>,
    ear: Option<Socket>,
    prng: Prng,
    sent: usize,
}

impl Garbage {
    pub fn new(config: &Config) -> anyhow::Result<Garbage> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("no socket")?;
        socket.set_nonblocking(true).context("a socket that does not wait")?;
        let endpoints: Vec<Endpoint> = (0..)
            .map(NodeId)
            .take(config.nodes.len())
            .flat_map(|node| {
                (0..).map(CoreId).take(config.cores(node)).map(move |core| Endpoint { node, core })
            })
            .collect();
        let places = endpoints.iter().map(|endpoint| config.address(*endpoint)).collect();
        let foreign = foreign(config, &endpoints);
        let prng = Prng::with_seed(1);
        Ok(Garbage { socket, places, foreign, captured: Vec::new(), ear: ear().ok(), prng, sent: 0 })
    }

    /// Captures some frames of this moment in place of those before.
    pub fn listen(&mut self) {
        let Some(ear) = &mut self.ear else { return };
        let ports: BTreeSet<u16> = self.places.iter().map(SocketAddr::port).collect();
        let (mut heard, mut packet) = (Vec::new(), vec![0; 1 << 16]);
        let until = clock::now().plus_ns(LISTEN_NS);
        while heard.len() < CAPTURED_MAX && clock::now() < until {
            let Ok(bytes) = ear.read(&mut packet) else { continue };
            let sealed =
                frame_in(&packet[..bytes]).filter(|(to, frame)| ports.contains(&to.port()) && frame[3] != 0);
            heard.extend(sealed.map(|(to, frame)| (to, frame.to_vec())));
        }
        if !heard.is_empty() {
            self.captured = heard;
        }
    }

    /// How many frames the last two kinds are made from.
    pub fn captured(&self) -> usize {
        self.captured.len()
    }

    /// One datagram, of each kind in turn. The kernel may have no room for it.
    pub fn send(&mut self) {
        let (to, frame) = self.next();
        let _ = self.socket.send_to(&frame, to);
    }

    fn next(&mut self) -> (SocketAddr, Vec<u8>) {
        self.sent += 1;
        let kinds = if self.captured.is_empty() { 2 } else { 4 };
        match self.sent % kinds {
            0 => {
                let mut noise = vec![0; self.prng.usize(1..=FRAME_BYTES)];
                self.prng.fill(&mut noise);
                (self.places[self.prng.usize(..self.places.len())], noise)
            }
            1 => self.foreign[self.prng.usize(..self.foreign.len())].clone(),
            2 => {
                let (to, mut frame) = self.captured[self.prng.usize(..self.captured.len())].clone();
                // A count that was not seen yet, or it would be dropped before it is opened.
                frame[COUNT_AT + 4] ^= self.prng.u8(1..);
                (to, frame)
            }
            _ => self.captured[self.prng.usize(..self.captured.len())].clone(),
        }
    }

    /// CPU time in which a core takes a datagram of these in and drops it.
    pub fn cost_of_dropping_ns(&mut self) -> anyhow::Result<f64> {
        let me = Endpoint { node: NodeId(0), core: CoreId(0) };
        let mut nic = Udp::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), &[]).context("no socket")?;
        let place = nic.local_address().context("a socket without an address")?;
        let mut rpc = Rpc::new(me, CLUSTER, 1, 2);
        rpc.set_keys(ring(1), 1);
        // As a peer that is known, so that frames are opened before they are dropped.
        let them = Endpoint { node: NodeId(1), core: CoreId(0) };
        let mut peer = Rpc::new(them, CLUSTER, 1, 2);
        peer.set_keys(ring(1), 1);
        let mut frame = Vec::new();
        peer.cast(clock::now(), me, b"true");
        peer.poll_tx(clock::now(), &mut frame).context("a cast is a frame")?;
        let (mut spent_ns, mut dropped) = (0, 0);
        for _ in 0..CALIBRATION {
            for number in 0..RX_BURST {
                let noise: Vec<u8> = (0..FRAME_BYTES / 2).map(|_| self.prng.u8(..)).collect();
                let mut forged = frame.clone();
                forged[COUNT_AT + 4] ^= self.prng.u8(1..);
                let datagram = [&noise, &self.foreign[0].1, &forged, &frame][number % 4];
                let _ = self.socket.send_to(datagram, place);
            }
            let before = usage::thread_ns();
            dropped += nic.rx_burst(RX_BURST, &mut |frame| {
                let _ = rpc.on_frame(clock::now(), frame);
            });
            spent_ns += usage::thread_ns().saturating_sub(before);
        }
        ensure!(dropped > 0, "no datagram arrives ({place})");
        Ok(spent_ns as f64 / dropped as f64)
    }
}

/// Frames of every core for every other, under a key that nobody has.
fn foreign(config: &Config, endpoints: &[Endpoint]) -> Vec<(SocketAddr, Vec<u8>)> {
    let cluster = cluster_hash(&config.name);
    let mut frames = Vec::new();
    for from in endpoints {
        let mut rpc = Rpc::new(*from, cluster, clock::now().0, config.nodes.len());
        rpc.set_keys(ring(2), 1);
        let mut frame = Vec::new();
        for to in endpoints.iter().filter(|to| *to != from) {
            rpc.cast(clock::now(), *to, b"garbage");
            while let Some(to) = rpc.poll_tx(clock::now(), &mut frame) {
                frames.push((config.address(to), frame.clone()));
            }
        }
    }
    frames
}

fn ring(byte: u8) -> Keyring {
    Keyring::new(&[[byte; SECRET_BYTES]]).expect("one key is a ring")
}

/// A socket that hears everything on this machine.
fn ear() -> std::io::Result<Socket> {
    let everything = Protocol::from(i32::from(0x0003_u16.to_be()));
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(everything))?;
    socket.set_read_timeout(Some(std::time::Duration::from_nanos(MS)))?;
    Ok(socket)
}

/// The frame of ours in an Ethernet frame of IPv4 and UDP, and where it goes. Longer ones are trains.
fn frame_in(packet: &[u8]) -> Option<(SocketAddr, &[u8])> {
    let ip = packet.get(14..)?;
    let header = usize::from(ip.first()? & 0xf) * 4;
    if packet[12..14] != [8, 0] || ip[0] >> 4 != 4 || *ip.get(9)? != 17 {
        return None;
    }
    let to: [u8; 4] = ip.get(16..20)?.try_into().ok()?;
    let udp = ip.get(header..)?;
    let port = u16::from_be_bytes(udp.get(2..4)?.try_into().ok()?);
    let frame = udp.get(8..)?;
    let fits = frame.starts_with(b"MK") && (COUNT_AT + 8..=FRAME_BYTES).contains(&frame.len());
    fits.then(|| (SocketAddr::from((to, port)), frame))
}

/// Of the header of a frame (README, Formats).
const COUNT_AT: usize = 48;
const CLUSTER: u64 = 7;
const CAPTURED_MAX: usize = 256;
const LISTEN_NS: u64 = 50 * MS;
/// Bursts dropped to measure what that costs.
const CALIBRATION: usize = 160;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_found_in_what_passes_by() {
        let mut packet = vec![0; 14];
        packet[12] = 8;
        packet.extend([0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 127, 0, 0, 1, 10, 0, 0, 2]);
        packet.extend([0x10, 0x00, 0x1c, 0xe8, 0, 0, 0, 0]);
        let mut frame = b"MK".to_vec();
        frame.resize(COUNT_AT + 8 + 16, 9);
        packet.extend(&frame);
        assert_eq!(frame_in(&packet), Some((SocketAddr::from(([10, 0, 0, 2], 7400)), &frame[..])));
        for cut in 0..packet.len() - 16 {
            assert_eq!(frame_in(&packet[..cut]), None, "{cut}");
        }
        packet[23] = 6;
        assert_eq!(frame_in(&packet), None);
    }
}
