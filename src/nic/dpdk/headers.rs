//! Ethernet, IPv4, UDP and ARP as bytes: what is put around a frame of ours, and taken off again.
//!
//! Total functions on hostile bytes. Whose address is whose, and what to answer, is not known here.
#![forbid(unsafe_code)]

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};

pub const HEADERS_BYTES: usize = ETHERNET_BYTES + IPV4_BYTES + UDP_BYTES;
pub const ARP_BYTES: usize = ETHERNET_BYTES + 28;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    pub const EVERYBODY: Mac = Mac([0xff; 6]);

    /// `hh:hh:hh:hh:hh:hh`.
    pub fn parse(text: &str) -> Option<Mac> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2)?;
            *byte = u8::from_str_radix(part, 16).ok()?;
        }
        parts.next().is_none().then_some(Mac(bytes))
    }

    /// Whether it can be the address of one machine.
    pub fn is_ordinary(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// What is known of a received frame's checksums.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Checksums {
    Good,
    Bad,
    Unknown,
}

/// What a frame turned out to be.
#[derive(PartialEq, Eq, Debug)]
pub enum Content<'a> {
    /// For the address that was asked about.
    Datagram {
        port: u16,
        payload: &'a [u8],
    },
    Arp(Arp),
    /// Of another protocol, or for somebody else.
    Foreign,
    /// Its checksum is wrong.
    Corrupt,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arp {
    pub is_request: bool,
    pub sender: (Mac, Ipv4Addr),
    pub target: (Mac, Ipv4Addr),
}

/// The headers of datagrams from one address to another, but for what differs between them.
#[derive(Clone, Debug)]
pub struct Route {
    headers: [u8; HEADERS_BYTES],
    ipv4_sum: u64,
    udp_sum: u64,
}

impl Route {
    pub fn new(from_mac: Mac, from: SocketAddrV4, to: SocketAddrV4) -> Route {
        let mut headers = [0; HEADERS_BYTES];
        headers[6..12].copy_from_slice(&from_mac.0);
        headers[12..14].copy_from_slice(&TYPE_IPV4);
        let (ipv4, udp) = headers[ETHERNET_BYTES..].split_at_mut(IPV4_BYTES);
        ipv4[0] = 0x45;
        ipv4[6] = DO_NOT_FRAGMENT;
        ipv4[8] = HOPS_MAX;
        ipv4[9] = PROTOCOL_UDP;
        ipv4[12..16].copy_from_slice(&from.ip().octets());
        ipv4[16..20].copy_from_slice(&to.ip().octets());
        udp[0..2].copy_from_slice(&from.port().to_be_bytes());
        udp[2..4].copy_from_slice(&to.port().to_be_bytes());
        let addresses = sum(&ipv4[12..20]);
        let (ipv4_sum, udp_sum) = (sum(ipv4), addresses + u64::from(PROTOCOL_UDP) + sum(udp));
        Route { headers, ipv4_sum, udp_sum }
    }

    /// Fills `room`, which is as long as headers and payload together. With `offload` the device completes
    /// the checksums: that of IPv4 from zero, that of UDP from the sum over what is not in the datagram.
    pub fn write(&self, room: &mut [u8], to_mac: Mac, payload: &[u8], offload: bool) {
        let (headers, body) = room.split_at_mut(HEADERS_BYTES);
        body.copy_from_slice(payload);
        headers.copy_from_slice(&self.headers);
        headers[0..6].copy_from_slice(&to_mac.0);
        let udp_bytes = u16::try_from(UDP_BYTES + payload.len()).expect("a frame is short");
        let ipv4_bytes = udp_bytes + IPV4_BYTES as u16;
        headers[16..18].copy_from_slice(&ipv4_bytes.to_be_bytes());
        headers[38..40].copy_from_slice(&udp_bytes.to_be_bytes());
        if offload {
            let addresses = sum(&headers[26..34]);
            let pseudo = fold(addresses + u64::from(PROTOCOL_UDP) + u64::from(udp_bytes));
            headers[40..42].copy_from_slice(&pseudo.to_be_bytes());
            return;
        }
        let ipv4 = !fold(self.ipv4_sum + u64::from(ipv4_bytes));
        headers[24..26].copy_from_slice(&ipv4.to_be_bytes());
        // The length counts twice: before the datagram, and in it.
        let udp = !fold(self.udp_sum + 2 * u64::from(udp_bytes) + sum(payload));
        // Zero would say that there is none.
        headers[40..42].copy_from_slice(&(if udp == 0 { 0xffff } else { udp }).to_be_bytes());
    }
}

/// What `frame` is to somebody with the address `me`.
pub fn read(frame: &[u8], checksums: Checksums, me: Ipv4Addr) -> Content<'_> {
    let Some((ethernet, rest)) = frame.split_at_checked(ETHERNET_BYTES) else { return Content::Foreign };
    match [ethernet[12], ethernet[13]] {
        TYPE_IPV4 => read_ipv4(rest, checksums, me).unwrap_or(Content::Foreign),
        TYPE_ARP => read_arp(rest).map_or(Content::Foreign, Content::Arp),
        _ => Content::Foreign,
    }
}

/// `None` when it is for somebody else, or no whole datagram.
fn read_ipv4(packet: &[u8], checksums: Checksums, me: Ipv4Addr) -> Option<Content<'_>> {
    let header_bytes = usize::from(packet.first()? & 0x0f) * 4;
    let is_version_4 = packet[0] >> 4 == 4 && header_bytes >= IPV4_BYTES;
    let header = packet.get(..header_bytes).filter(|_| is_version_4)?;
    let packet = packet.get(..usize::from(be16(header, 2))).filter(|packet| packet.len() >= header_bytes)?;
    let is_fragment = be16(header, 6) & !(u16::from(DO_NOT_FRAGMENT) << 8) != 0;
    if header[9] != PROTOCOL_UDP || header[16..20] != me.octets() || is_fragment {
        return None;
    }
    let datagram = &packet[header_bytes..];
    let udp = datagram.get(..UDP_BYTES)?;
    let datagram =
        datagram.get(..usize::from(be16(udp, 4))).filter(|datagram| datagram.len() >= UDP_BYTES)?;
    let is_intact = match checksums {
        Checksums::Good => true,
        Checksums::Bad => false,
        Checksums::Unknown => {
            let pseudo = || sum(&header[12..20]) + u64::from(PROTOCOL_UDP) + datagram.len() as u64;
            let has_none = be16(udp, 6) == 0;
            fold(sum(header)) == 0xffff && (has_none || fold(pseudo() + sum(datagram)) == 0xffff)
        }
    };
    let whole = Content::Datagram { port: be16(udp, 2), payload: &datagram[UDP_BYTES..] };
    Some(if is_intact { whole } else { Content::Corrupt })
}

fn read_arp(packet: &[u8]) -> Option<Arp> {
    let packet = packet.get(..ARP_BYTES - ETHERNET_BYTES)?;
    let is_request = match packet[6..8] {
        [0, 1] => true,
        [0, 2] => false,
        _ => return None,
    };
    let party = |at: usize| {
        let mac = Mac(packet[at..at + 6].try_into().expect("six bytes"));
        let ip: [u8; 4] = packet[at + 6..at + 10].try_into().expect("four bytes");
        (mac, Ipv4Addr::from(ip))
    };
    (packet[..6] == ARP_ETHERNET_IPV4).then(|| Arp { is_request, sender: party(8), target: party(18) })
}

impl Arp {
    /// Fills `room`, of `ARP_BYTES`.
    pub fn write(&self, room: &mut [u8], to_mac: Mac) {
        room[0..6].copy_from_slice(&to_mac.0);
        room[6..12].copy_from_slice(&self.sender.0.0);
        room[12..14].copy_from_slice(&TYPE_ARP);
        room[14..20].copy_from_slice(&ARP_ETHERNET_IPV4);
        room[20..22].copy_from_slice(&[0, if self.is_request { 1 } else { 2 }]);
        for ((mac, ip), at) in [(self.sender, 22), (self.target, 32)] {
            room[at..at + 6].copy_from_slice(&mac.0);
            room[at + 6..at + 10].copy_from_slice(&ip.octets());
        }
    }
}

/// The sum of RFC 1071, not folded yet: of 16-bit words in network order, the last one padded. Eight bytes
/// at a time, as two halves of 32 bits: what overflows 16 bits is folded back in the end anyway. And as
/// little-endian words, which a compiler adds up many at a time: to exchange the bytes of all words is to exchange
/// those of the sum.
fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let word = |bytes: &[u8; 8]| {
        let word = u64::from_le_bytes(*bytes);
        (word >> 32) + (word & 0xffff_ffff)
    };
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    u64::from(fold(words.iter().map(word).sum::<u64>() + word(&last)).swap_bytes())
}

fn fold(mut sum: u64) -> u16 {
    while let high @ 1.. = sum >> 16 {
        sum = (sum & 0xffff) + high;
    }
    sum as u16
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

pub const ETHERNET_BYTES: usize = 14;
const IPV4_BYTES: usize = 20;
const UDP_BYTES: usize = 8;
const TYPE_IPV4: [u8; 2] = [0x08, 0x00];
const TYPE_ARP: [u8; 2] = [0x08, 0x06];
/// Hardware and protocol with the lengths of their addresses.
const ARP_ETHERNET_IPV4: [u8; 6] = [0, 1, 0x08, 0x00, 6, 4];
const PROTOCOL_UDP: u8 = 17;
const DO_NOT_FRAGMENT: u8 = 0x40;
const HOPS_MAX: u8 = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bounds::FRAME_BYTES;
    use crate::types::Prng;
    use proptest::prelude::*;

    const LEFT: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const RIGHT: Mac = Mac([2, 0, 0, 0, 0, 2]);

    fn addresses() -> (SocketAddrV4, SocketAddrV4) {
        let (from, to) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        (SocketAddrV4::new(from, 7400), SocketAddrV4::new(to, 7401))
    }

    fn written(payload: &[u8]) -> Vec<u8> {
        let (from, to) = addresses();
        let mut room = vec![0xaa; HEADERS_BYTES + payload.len()];
        Route::new(LEFT, from, to).write(&mut room, RIGHT, payload, false);
        room
    }

    /// The bytes of RFC 1071's own example, and those of a datagram worked out by hand.
    #[test]
    fn checksums_are_those_of_the_standard() {
        assert_eq!(fold(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])), 0xddf2);
        let frame = written(b"hi");
        assert_eq!(frame[24..26], [0x26, 0xcd]);
        assert_eq!(frame[40..42], [0x49, 0x9d]);
    }

    #[test]
    fn what_is_written_is_read_at_every_length() {
        let mut prng = Prng::with_seed(1);
        for bytes in 0..=FRAME_BYTES {
            let payload: Vec<u8> = (0..bytes).map(|_| prng.u8(..)).collect();
            let mut frame = written(&payload);
            // As short frames are padded on their way.
            frame.resize(frame.len().max(60), 0x55);
            let read = read(&frame, Checksums::Unknown, *addresses().1.ip());
            assert_eq!(read, Content::Datagram { port: 7401, payload: &payload });
        }
    }

    /// A device adds up what is in the datagram and leaves out what is not: that must be there before.
    #[test]
    fn a_device_completes_the_checksum_it_is_left() {
        let (from, to) = addresses();
        let whole = written(b"payload");
        let mut left = vec![0; whole.len()];
        Route::new(LEFT, from, to).write(&mut left, RIGHT, b"payload", true);
        assert_eq!(left[24..26], [0, 0]);
        assert_eq!((!fold(sum(&left[34..]))).to_be_bytes(), whole[40..42]);
    }

    #[test]
    fn a_flipped_bit_is_noticed_unless_the_device_has_looked() {
        let me = *addresses().1.ip();
        for at in [24, 26, 40, 45] {
            let mut frame = written(b"payload");
            frame[at] ^= 4;
            assert_eq!(read(&frame, Checksums::Unknown, me), Content::Corrupt, "{at}");
            assert!(matches!(read(&frame, Checksums::Good, me), Content::Datagram { .. }));
            assert_eq!(read(&frame, Checksums::Bad, me), Content::Corrupt);
        }
        // A sender may leave the checksum of UDP out.
        let mut frame = written(b"payload");
        frame[40..42].fill(0);
        assert!(matches!(read(&frame, Checksums::Unknown, me), Content::Datagram { .. }));
    }

    #[test]
    fn frames_for_others_are_foreign() {
        let me = *addresses().1.ip();
        assert_eq!(read(&written(b"x"), Checksums::Unknown, *addresses().0.ip()), Content::Foreign);
        // Another type, version and protocol, a fragment, and more bytes than there are.
        for (at, byte) in
            [(13, 0xdd), (14, 0x65), (14, 0x44), (23, 6), (20, 0x20), (21, 1), (17, 200), (39, 200)]
        {
            let mut frame = written(b"x");
            frame[at] = byte;
            assert_eq!(read(&frame, Checksums::Good, me), Content::Foreign, "{at}");
        }
    }

    #[test]
    fn arp_is_read_as_it_is_written() {
        let ip = |last| Ipv4Addr::new(10, 0, 0, last);
        for is_request in [false, true] {
            let arp = Arp { is_request, sender: (LEFT, ip(1)), target: (RIGHT, ip(2)) };
            let mut room = [0; ARP_BYTES];
            arp.write(&mut room, Mac::EVERYBODY);
            assert_eq!(read(&room, Checksums::Unknown, ip(2)), Content::Arp(arp));
            assert_eq!(read(&room[..ARP_BYTES - 1], Checksums::Unknown, ip(2)), Content::Foreign);
        }
    }

    #[test]
    fn addresses_of_machines_are_read_as_they_are_written() {
        assert_eq!(Mac::parse(&RIGHT.to_string()), Some(RIGHT));
        for text in ["", "02:00:00:00:00", "02:00:00:00:00:01:02", "2:0:0:0:0:1", "02:00:00:00:00:0g"] {
            assert_eq!(Mac::parse(text), None, "{text}");
        }
        assert!(RIGHT.is_ordinary() && !Mac::EVERYBODY.is_ordinary() && !Mac([0; 6]).is_ordinary());
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_read_without_panic(
            mut bytes in prop::collection::vec(any::<u8>(), 0..128),
            kind in 0..3usize,
        ) {
            let starts: [&[u8]; 3] = [&[], &[8, 0, 0x45, 0, 0, 40], &[8, 6, 0, 1, 8, 0, 6, 4]];
            let start = starts[kind];
            if let Some(place) = bytes.get_mut(12..12 + start.len()) {
                place.copy_from_slice(start);
            }
            for checksums in [Checksums::Good, Checksums::Unknown] {
                if let Content::Datagram { payload, .. } = read(&bytes, checksums, Ipv4Addr::LOCALHOST) {
                    prop_assert!(payload.len() <= bytes.len());
                }
            }
        }
    }
}
