//! The machines a node sends frames to directly: its peers in the subnet, its gateway for all others.
//!
//! Who they are is known at start; their hardware addresses are asked for. All cores of the node share one
//! table, because an answer comes in at whichever core: an address is one atomic, and cores agree by another
//! who asks.
//!
//! Invariant: an address that was learned stays until another takes its place, so that a neighbour that is
//! silent is not asked for with every frame.
#![forbid(unsafe_code)]

use super::headers::Mac;
use crate::bounds::{MS, SECOND};
use crate::types::Timestamp;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};

pub struct Neighbours {
    hops: Vec<Hop>,
}

/// A place in the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HopId(u16);

struct Hop {
    ip: Ipv4Addr,
    /// 0 as long as it is unknown.
    mac: AtomicU64,
    /// 0 as long as nobody has.
    asked_at: AtomicU64,
}

impl Neighbours {
    /// Each of `ips` once, however often it is there.
    pub fn new(ips: impl IntoIterator<Item = Ipv4Addr>) -> Neighbours {
        let mut hops: Vec<Hop> = Vec::new();
        for ip in ips {
            if hops.iter().all(|hop| hop.ip != ip) {
                hops.push(Hop { ip, mac: AtomicU64::new(0), asked_at: AtomicU64::new(0) });
            }
        }
        Neighbours { hops }
    }

    pub fn find(&self, ip: Ipv4Addr) -> Option<HopId> {
        let place = self.hops.iter().position(|hop| hop.ip == ip)?;
        u16::try_from(place).ok().map(HopId)
    }

    pub fn ip(&self, hop: HopId) -> Ipv4Addr {
        self.hops[usize::from(hop.0)].ip
    }

    pub fn mac(&self, hop: HopId) -> Option<Mac> {
        let bytes = self.hops[usize::from(hop.0)].mac.load(Ordering::Relaxed).to_be_bytes();
        let [0, 0, a, b, c, d, e, f] = bytes else { unreachable!("48 bits were stored") };
        Some(Mac([a, b, c, d, e, f])).filter(|mac| mac.0 != [0; 6])
    }

    /// Takes note of an address; those of strangers are not kept.
    pub fn learn(&self, ip: Ipv4Addr, mac: Mac) {
        let Some(hop) = self.find(ip).filter(|_| mac.is_ordinary()) else { return };
        let [a, b, c, d, e, f] = mac.0;
        let bits = u64::from_be_bytes([0, 0, a, b, c, d, e, f]);
        self.hops[usize::from(hop.0)].mac.store(bits, Ordering::Relaxed);
    }

    /// Whether the caller, and no other core, is to ask now.
    pub fn is_to_be_asked(&self, hop: HopId, now: Timestamp) -> bool {
        let Hop { asked_at, .. } = &self.hops[usize::from(hop.0)];
        let pause_ns = if self.mac(hop).is_some() { REFRESH_NS } else { ASK_NS };
        let before = asked_at.load(Ordering::Relaxed);
        let is_due = before == 0 || now.since(Timestamp(before)) >= pause_ns;
        is_due && asked_at.compare_exchange(before, now.0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    pub fn ids(&self) -> impl Iterator<Item = HopId> + use<> {
        (0..).map(HopId).take(self.hops.len())
    }
}

/// Between two questions for an address that frames wait for.
pub const ASK_NS: u64 = 100 * MS;
/// Between two questions for one that is known: a machine that took over an address is found after so long.
pub const REFRESH_NS: u64 = 10 * SECOND;

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

    fn ip(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, last)
    }

    #[test]
    fn only_neighbours_are_learned_and_the_last_word_counts() {
        let table = Neighbours::new([ip(1), ip(2), ip(1)]);
        assert_eq!(table.ids().count(), 2);
        let hop = table.find(ip(1)).unwrap();
        assert_eq!((table.mac(hop), table.ip(hop)), (None, ip(1)));
        for (from, mac) in [(ip(9), MAC), (ip(1), Mac::EVERYBODY), (ip(1), Mac([0; 6]))] {
            table.learn(from, mac);
            assert_eq!(table.mac(hop), None);
        }
        table.learn(ip(1), MAC);
        assert_eq!(table.mac(hop), Some(MAC));
        table.learn(ip(1), Mac([2, 0, 0, 0, 0, 9]));
        assert_eq!(table.mac(hop), Some(Mac([2, 0, 0, 0, 0, 9])));
    }

    #[test]
    fn one_core_asks_at_a_time_and_less_often_once_it_knows() {
        let table = Neighbours::new([ip(1)]);
        let hop = table.find(ip(1)).unwrap();
        let mut now = Timestamp(SECOND);
        assert!(table.is_to_be_asked(hop, now));
        assert!(!table.is_to_be_asked(hop, now.plus_ns(ASK_NS - 1)));
        now = now.plus_ns(ASK_NS);
        assert!(table.is_to_be_asked(hop, now));
        table.learn(ip(1), MAC);
        assert!(!table.is_to_be_asked(hop, now.plus_ns(ASK_NS)));
        assert!(table.is_to_be_asked(hop, now.plus_ns(REFRESH_NS)));
    }
}
