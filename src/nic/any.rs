//! The NIC of a core, whichever the cluster file names: a choice made once, at start.
#![forbid(unsafe_code)]

#[cfg(feature = "dpdk")]
use super::dpdk::Dpdk;
use super::udp::Udp;
use super::{Nic, NicStats, Wake};
use crate::types::{Endpoint, Timestamp};

#[cfg_attr(
    feature = "dpdk",
    expect(clippy::large_enum_variant, reason = "one of each core, and one indirection less for the socket")
)]
pub enum AnyNic {
    Udp(Udp),
    #[cfg(feature = "dpdk")]
    Dpdk(Box<Dpdk>),
}

macro_rules! of_any {
    ($any:expr, $nic:ident => $what:expr) => {
        match $any {
            AnyNic::Udp($nic) => $what,
            #[cfg(feature = "dpdk")]
            AnyNic::Dpdk($nic) => $what,
        }
    };
}

impl Nic for AnyNic {
    fn rx_burst(&mut self, max: usize, sink: &mut dyn FnMut(&[u8])) -> usize {
        of_any!(self, nic => nic.rx_burst(max, sink))
    }

    fn tx_push(&mut self, now: Timestamp, to: Endpoint, frame: &[u8]) -> bool {
        of_any!(self, nic => nic.tx_push(now, to, frame))
    }

    fn tx_flush(&mut self, now: Timestamp) -> usize {
        of_any!(self, nic => nic.tx_flush(now))
    }

    fn wake(&self) -> Wake {
        of_any!(self, nic => nic.wake())
    }

    fn stats(&self) -> NicStats {
        of_any!(self, nic => nic.stats())
    }
}
