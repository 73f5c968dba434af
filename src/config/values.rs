//! The closed vocabularies of the cluster file: durability, NIC, polling, cores.
//!
//! Each is read from text by `FromStr` and written back by `Display`; the two agree.
#![forbid(unsafe_code)]

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use super::mistake::Refusal;

/// What `durable` waits for (DESIGN §7).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// A majority holds it in memory.
    Memory,
    /// … and the leader's log holds it.
    LeaderDisk,
    /// The logs of a majority hold it.
    QuorumDisk,
}

/// How a core reaches its peers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NicKind {
    /// Kernel sockets: any Linux machine.
    Udp,
    /// A device, as DPDK's `--allow` or `--vdev` spells it, or its MAC address.
    Dpdk(String),
}

/// The addresses a DPDK port reaches without a gateway.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Subnet {
    first: Ipv4Addr,
    /// Bits that are the same for all, 1 to 31.
    prefix: u32,
}

impl Subnet {
    pub fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask(self.prefix) == self.first.to_bits()
    }
}

fn mask(prefix: u32) -> u32 {
    u32::MAX << (u32::BITS - prefix)
}

/// What an idle core does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Poll {
    /// Spins for a while, then sleeps until something wakes it.
    Adaptive,
    /// Never sleeps.
    Busy,
}

/// The threads of a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CoreLayout {
    /// Core i is pinned to the i-th of these CPUs.
    Pinned(Vec<usize>),
    /// This many threads, placed by the kernel.
    Threads(usize),
}

impl CoreLayout {
    pub fn cores(&self) -> usize {
        match self {
            CoreLayout::Pinned(cpus) => cpus.len(),
            CoreLayout::Threads(threads) => *threads,
        }
    }
}

impl Durability {
    pub const ALL: [Durability; 3] = [Durability::Memory, Durability::LeaderDisk, Durability::QuorumDisk];
}

impl FromStr for Durability {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Durability, Refusal> {
        let found = Durability::ALL.into_iter().find(|durability| durability.to_string() == text);
        found.ok_or_else(|| {
            Refusal::new(
                "durability says which logs must hold a transaction before it is durable",
                "write memory, leader-disk or quorum-disk",
            )
        })
    }
}

impl FromStr for NicKind {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<NicKind, Refusal> {
        match text.strip_prefix("dpdk:") {
            Some(device) if is_device(device) => Ok(NicKind::Dpdk(device.to_string())),
            None if text == "udp" => Ok(NicKind::Udp),
            _ => Err(Refusal::new(
                "a NIC is udp, or dpdk: and a PCI address, a MAC address or a virtual device",
                "write it like udp, dpdk:0000:3b:00.0 or dpdk:net_af_xdp0,iface=eth1",
            )),
        }
    }
}

/// Only the shape is checked, to catch a slip of the pen; DPDK knows which devices exist.
fn is_device(text: &str) -> bool {
    let name = text.split(',').next().unwrap_or_default();
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let virtual_device =
        name.strip_prefix("net_").is_some_and(|rest| !rest.is_empty() && rest.chars().all(word));
    let is_mac = has_shape(text, b"hh:hh:hh:hh:hh:hh");
    let is_pci_address = has_shape(name, b"hhhh:hh:hh.h");
    text.chars().all(|c| c.is_ascii_graphic()) && (virtual_device || is_pci_address || is_mac)
}

/// Whether `text` has a hexadecimal digit for each `h` of `shape`, and the rest as it is.
fn has_shape(text: &str, shape: &[u8]) -> bool {
    let fits =
        |(byte, shape): (u8, &u8)| if *shape == b'h' { byte.is_ascii_hexdigit() } else { byte == *shape };
    text.len() == shape.len() && text.bytes().zip(shape).all(fits)
}

impl FromStr for Subnet {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Subnet, Refusal> {
        let why = "a subnet is its first address and the number of leading bits all addresses share, 1 to 31";
        let parts = text.split_once('/').and_then(|(first, prefix)| {
            let prefix = prefix.parse().ok().filter(|prefix| (1..32).contains(prefix))?;
            Some((first.parse::<Ipv4Addr>().ok()?, prefix))
        });
        let Some((address, prefix)) = parts else {
            return Err(Refusal::new(why, "write it like 10.0.0.0/24"));
        };
        let subnet = Subnet { first: Ipv4Addr::from_bits(address.to_bits() & mask(prefix)), prefix };
        if subnet.first == address { Ok(subnet) } else { Err(Refusal::new(why, format!("write {subnet}"))) }
    }
}

impl FromStr for Poll {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Poll, Refusal> {
        match text {
            "adaptive" => Ok(Poll::Adaptive),
            "busy" => Ok(Poll::Busy),
            _ => Err(Refusal::new("poll says whether an idle core may sleep", "write adaptive or busy")),
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Durability::Memory => "memory",
            Durability::LeaderDisk => "leader-disk",
            Durability::QuorumDisk => "quorum-disk",
        })
    }
}

impl fmt::Display for NicKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NicKind::Udp => f.write_str("udp"),
            NicKind::Dpdk(device) => write!(f, "dpdk:{device}"),
        }
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

impl fmt::Display for Poll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Poll::Adaptive => "adaptive",
            Poll::Busy => "busy",
        })
    }
}

impl fmt::Display for CoreLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CoreLayout::Pinned(cpus) => write!(f, "{cpus:?}"),
            CoreLayout::Threads(threads) => write!(f, "{threads}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_written_as_they_are_read() {
        for text in ["memory", "leader-disk", "quorum-disk"] {
            assert_eq!(text.parse::<Durability>().map(|d| d.to_string()), Ok(text.to_string()));
        }
        for text in [
            "udp",
            "dpdk:0000:3b:00.0",
            "dpdk:02:00:00:00:00:0a",
            "dpdk:net_af_xdp0,iface=eth1",
            "dpdk:net_af_packet0,iface=e",
        ] {
            assert_eq!(text.parse::<NicKind>().map(|nic| nic.to_string()), Ok(text.to_string()));
        }
        for text in ["adaptive", "busy"] {
            assert_eq!(text.parse::<Poll>().map(|poll| poll.to_string()), Ok(text.to_string()));
        }
    }

    #[test]
    fn a_subnet_holds_what_shares_its_leading_bits() {
        for text in ["10.0.0.0/24", "128.0.0.0/1", "10.0.0.2/31"] {
            assert_eq!(text.parse::<Subnet>().map(|subnet| subnet.to_string()), Ok(text.to_string()));
        }
        let subnet: Subnet = "10.0.4.0/22".parse().unwrap();
        let inside = ["10.0.4.0", "10.0.7.255", "10.0.3.255", "10.0.8.0"];
        assert_eq!(inside.map(|ip| subnet.contains(ip.parse().unwrap())), [true, true, false, false]);
        for text in ["", "10.0.0.0", "10.0.0.0/0", "10.0.0.0/32", "10.0.0.0/-1", "::/64", "10.0.0/24"] {
            assert!(text.parse::<Subnet>().is_err(), "{text}");
        }
        assert_eq!("10.0.5.1/22".parse::<Subnet>().unwrap_err().remedy, "write 10.0.4.0/22");
    }

    /// DPDK's own complaint about a bad device comes minutes later and names nothing of ours.
    #[test]
    fn a_misspelt_device_is_refused_before_dpdk_sees_it() {
        for text in
            ["", "UDP", "tcp", "dpdk", "dpdk:", "dpdk:eth0", "dpdk:net_", "dpdk:3b:00.0", "dpdk:net_x y"]
        {
            assert!(text.parse::<NicKind>().is_err(), "{text}");
        }
    }
}
