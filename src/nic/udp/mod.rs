//! Kernel UDP: one non-blocking socket per core, read and written in bursts.
//!
//! The unsafe room is `mmsg`; this file decides what becomes of each frame and each error.
//!
//! No error of the network is fatal: a datagram may be lost anyway, so one that the kernel will not
//! take is dropped and counted, and one it cannot take *now* is kept.
#![deny(unsafe_code)]

mod mmsg;
#[cfg(test)]
mod tests;

#[cfg(test)]
pub use mmsg::wait_readable;

use super::{Nic, NicStats, Wake, place_of};
use crate::bounds::{FRAME_BYTES, SOCKET_BUFFER_BYTES};
use crate::types::{Endpoint, Timestamp};
use mmsg::{Receiver, Sender};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

pub struct Udp {
    socket: Socket,
    receiver: Receiver,
    sender: Sender,
    /// The address of core `c` of node `n` is `addresses[places[n * CORES_MAX + c]]`.
    places: Vec<Option<u16>>,
    addresses: Vec<SockAddr>,
    stats: NicStats,
}

#[derive(Debug, thiserror::Error)]
pub enum NicError {
    #[error("{address} is in use: another process, perhaps this node a second time, listens there")]
    AddressInUse { address: SocketAddr },
    #[error("{address} is not an address of this machine")]
    AddressNotLocal { address: SocketAddr },
    #[error("{peer} cannot be reached from {local}: one is IPv4, the other IPv6")]
    OtherFamily { local: SocketAddr, peer: SocketAddr },
    #[error("no UDP socket at {address}: {source}")]
    Socket { address: SocketAddr, source: io::Error },
}

impl Udp {
    /// A socket at `address`, for frames to and from the endpoints of `peers`.
    pub fn bind(address: SocketAddr, peers: &[(Endpoint, SocketAddr)]) -> Result<Udp, NicError> {
        let socket = open(address).map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => NicError::AddressInUse { address },
            io::ErrorKind::AddrNotAvailable => NicError::AddressNotLocal { address },
            _ => NicError::Socket { address, source },
        })?;
        let mut udp = Udp {
            socket,
            receiver: Receiver::new(),
            sender: Sender::new(),
            places: Vec::new(),
            addresses: Vec::new(),
            stats: NicStats::default(),
        };
        peers.iter().try_for_each(|(peer, address)| udp.set_peer(*peer, *address))?;
        Ok(udp)
    }

    /// Where frames for `peer` go from now on.
    pub fn set_peer(&mut self, peer: Endpoint, address: SocketAddr) -> Result<(), NicError> {
        let local = self.local_address()?;
        let address = match (local, address) {
            // A socket of IPv6 reaches IPv4 by mapped addresses, if it is bound to any address.
            (SocketAddr::V6(_), SocketAddr::V4(v4)) if local.ip().is_unspecified() => {
                SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port())
            }
            (SocketAddr::V4(_), SocketAddr::V4(_)) | (SocketAddr::V6(_), SocketAddr::V6(_)) => address,
            _ => return Err(NicError::OtherFamily { local, peer: address }),
        };
        let place = place_of(peer).unwrap_or_else(|| panic!("{peer:?} is not in any cluster"));
        if self.places.len() <= place {
            self.places.resize(place + 1, None);
        }
        self.places[place] = Some(u16::try_from(self.addresses.len()).expect("endpoints are bounded"));
        self.addresses.push(SockAddr::from(address));
        Ok(())
    }

    /// Sends and receives each frame by itself.
    pub fn forgo_offloads(&mut self) {}

    /// With the port the kernel chose, if it was to choose.
    pub fn local_address(&self) -> Result<SocketAddr, NicError> {
        let any = SocketAddr::from(([0, 0, 0, 0], 0));
        let address = self.socket.local_addr().map_err(|source| NicError::Socket { address: any, source })?;
        let source = io::Error::from(io::ErrorKind::Unsupported);
        address.as_socket().ok_or(NicError::Socket { address: any, source })
    }
}

impl Nic for Udp {
    fn rx_burst(&mut self, max: usize, sink: &mut dyn FnMut(&[u8])) -> usize {
        let count = match self.receiver.receive(&self.socket, max) {
            Ok(count) => count,
            Err(error) => {
                match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => {}
                    io::ErrorKind::ConnectionRefused => self.stats.refused += 1,
                    _ => self.stats.receive_errors += 1,
                }
                return 0;
            }
        };
        let mut handed = 0;
        for place in 0..count {
            match self.receiver.frame(place) {
                Some(frame) => {
                    handed += 1;
                    sink(frame);
                }
                None => self.stats.truncated += 1,
            }
        }
        self.stats.frames_received += handed as u64;
        handed
    }

    fn tx_push(&mut self, _now: Timestamp, to: Endpoint, frame: &[u8]) -> bool {
        assert!(frame.len() <= FRAME_BYTES, "a frame of {} bytes", frame.len());
        let place = place_of(to).and_then(|place| self.places.get(place).copied().flatten());
        let Some(address) = place else {
            self.stats.undeliverable += 1;
            return true;
        };
        self.sender.push(frame, address)
    }

    /// Each round sends some or drops one, or is the last.
    fn tx_flush(&mut self, _now: Timestamp) -> usize {
        while !self.sender.is_empty() {
            match self.sender.send(&self.socket, &self.addresses) {
                Ok(count) => self.stats.frames_sent += count as u64,
                Err(error) if is_for_later(&error) => break,
                Err(error) => {
                    self.sender.drop_first();
                    match error.kind() {
                        io::ErrorKind::ConnectionRefused => self.stats.refused += 1,
                        _ => self.stats.undeliverable += 1,
                    }
                }
            }
        }
        self.sender.len()
    }

    fn wake(&self) -> Wake {
        Wake { fd: Some(self.socket.as_raw_fd()), ..Wake::default() }
    }

    fn stats(&self) -> NicStats {
        self.stats
    }
}

fn open(address: SocketAddr) -> io::Result<Socket> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(false)?;
    }
    // Beyond the system's limit only for the privileged; what we get in the end is at least the default.
    if mmsg::force_buffers(&socket, SOCKET_BUFFER_BYTES).is_err() {
        socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
        socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// The socket, or the device below it, is full; or a signal came first.
fn is_for_later(error: &io::Error) -> bool {
    let full = matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ENOMEM));
    full || matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
