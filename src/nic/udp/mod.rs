//! Kernel UDP: one non-blocking socket per core, read and written in bursts.
//!
//! The unsafe rooms are `receiver`, `sender` and `options`; this file decides what becomes of each frame and each
//! error. Where the kernel can, frames of one size for one peer pass through it as a train, one message (GSO and
//! GRO): that saves most of what a datagram costs. Where it cannot, they go one by one.
//!
//! No error of the network is fatal: a datagram may be lost anyway, so one that the kernel will not
//! take is dropped and counted, and one it cannot take *now* is kept.
#![deny(unsafe_code)]

mod options;
mod receiver;
mod sender;
#[cfg(test)]
mod tests;

#[cfg(test)]
pub use options::wait_readable;

use super::{Nic, NicStats, Wake, place_of};
use crate::bounds::{FRAME_BYTES, RX_BURST, SOCKET_BUFFER_BYTES};
use crate::types::{Endpoint, Timestamp};
use receiver::{BUFFERS, Received, Receiver};
use sender::{Destination, Sender};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

pub struct Udp {
    socket: Socket,
    receiver: Receiver,
    sender: Sender,
    /// Core `c` of node `n` is at `destinations[places[n * CORES_MAX + c]]`.
    places: Vec<Option<u16>>,
    destinations: Vec<Destination>,
    /// The kernel can cut trains of frames.
    sends_trains: bool,
    /// Calls in a row that have found nothing.
    empty_polls: u32,
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
        let receiver = Receiver::new().map_err(|source| NicError::Socket { address, source })?;
        let sends_trains = options::can_segment(&socket);
        let receives_trains = options::join_received(&socket, true).is_ok();
        let trains_refused = u64::from(!sends_trains) + u64::from(!receives_trains);
        let mut udp = Udp {
            socket,
            receiver,
            sender: Sender::new(),
            places: Vec::new(),
            destinations: Vec::new(),
            sends_trains,
            empty_polls: 0,
            stats: NicStats { trains_refused, ..NicStats::default() },
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
        let address = SockAddr::from(address);
        // Endpoints may share an address, and their frames a train.
        let known = self.destinations.iter().position(|destination| destination.address == address);
        let known = known.unwrap_or_else(|| {
            let train_frame_bytes_max = if self.sends_trains { u16::MAX } else { 0 };
            self.destinations.push(Destination { address, train_frame_bytes_max });
            self.destinations.len() - 1
        });
        self.places[place] = Some(u16::try_from(known).expect("endpoints are bounded"));
        Ok(())
    }

    /// Sends and receives each frame by itself, as on a kernel that cannot do otherwise.
    pub fn forgo_trains(&mut self) {
        self.sends_trains = false;
        self.destinations.iter_mut().for_each(|destination| destination.train_frame_bytes_max = 0);
        // Fails where there is nothing to forgo.
        let _ = options::join_received(&self.socket, false);
    }

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
        let mut handed = 0;
        // A flood of what is no frame must not hold up the turn: so many calls, and no more.
        for _ in 0..RX_BURST / BUFFERS {
            let more = !self.receiver.is_empty() || self.receive();
            handed += self.hand_out(max - handed, sink);
            if handed == max || !more || self.receiver.filled() < BUFFERS {
                break;
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
            match self.sender.send(&self.socket, &self.destinations) {
                Ok(sent) => {
                    self.stats.frames_sent += sent.frames as u64;
                    self.stats.sent_in_trains += sent.in_trains as u64;
                }
                Err(error) if is_for_later(&error) => break,
                Err(error) => {
                    if self.gave_up_train(&error) {
                        continue;
                    }
                    self.sender.drop_first();
                    match error.kind() {
                        io::ErrorKind::ConnectionRefused => self.stats.refused += 1,
                        _ => self.stats.undeliverable += 1,
                    }
                }
            }
        }
        self.sender.compact();
        self.sender.len()
    }

    fn wake(&self) -> Wake {
        Wake { fd: Some(self.socket.as_raw_fd()), ..Wake::default() }
    }

    fn stats(&self) -> NicStats {
        self.stats
    }
}

impl Udp {
    /// Whether anything came. What a core has spun for usually comes alone, and finding that there is no second costs
    /// time while it waits: so only the next call looks for more. Where a core has slept, a burst has gathered.
    fn receive(&mut self) -> bool {
        let buffers = if self.empty_polls < SPINNING_POLLS { BUFFERS } else { 1 };
        let came = self.receiver.receive(&self.socket, buffers);
        let found = came.as_ref().is_ok_and(|count| *count > 0);
        self.empty_polls = if found { 0 } else { self.empty_polls.saturating_add(1) };
        if let Err(error) = came {
            match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => {}
                io::ErrorKind::ConnectionRefused => self.stats.refused += 1,
                _ => self.stats.receive_errors += 1,
            }
        }
        found
    }

    /// Whether frames that were to leave as one now go one by one: the device cannot cut them, or not into frames of
    /// this length on this path, where the kernel will make fragments of each.
    fn gave_up_train(&mut self, error: &io::Error) -> bool {
        let Some((destination, length)) = self.sender.first_train() else { return false };
        let train_frame_bytes_max = match error.raw_os_error() {
            Some(libc::EMSGSIZE) => length - 1,
            Some(libc::EINVAL | libc::EIO | libc::EOPNOTSUPP) => 0,
            _ => return false,
        };
        self.destinations[destination].train_frame_bytes_max = train_frame_bytes_max;
        self.stats.trains_refused += 1;
        true
    }

    /// Hands out at most `max` of the frames received; how many.
    fn hand_out(&mut self, max: usize, sink: &mut dyn FnMut(&[u8])) -> usize {
        let mut handed = 0;
        while handed < max
            && let Some(received) = self.receiver.take()
        {
            match received {
                Received::Frame { bytes, joined } => {
                    handed += 1;
                    self.stats.received_in_trains += u64::from(joined);
                    sink(bytes);
                }
                Received::TooLong => self.stats.truncated += 1,
            }
        }
        handed
    }
}

fn open(address: SocketAddr) -> io::Result<Socket> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(false)?;
    }
    // Beyond the system's limit only for the privileged; what we get in the end is at least the default.
    if options::force_buffers(&socket, SOCKET_BUFFER_BYTES).is_err() {
        socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
        socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    }
    options::honour_path_mtu(&socket, domain)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// The socket, or the device below it, is full; or a signal came first.
fn is_for_later(error: &io::Error) -> bool {
    let full = matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ENOMEM));
    full || matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Who has looked in vain so often is spinning: about two microseconds.
const SPINNING_POLLS: u32 = 8;
