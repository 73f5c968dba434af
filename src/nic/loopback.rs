//! NICs on one thread that share a hub: for tests and for measuring what is above the network.
//!
//! In order and without loss, except that an inbox holds as many frames as a small socket buffer.
#![forbid(unsafe_code)]

use super::{Nic, NicStats, Wake};
use crate::bounds::{FRAME_BYTES, TX_BURST};
use crate::types::{Endpoint, Timestamp};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

pub struct Loopback {
    local: Endpoint,
    hub: Hub,
    queue: VecDeque<(Endpoint, Vec<u8>)>,
    stats: NicStats,
}

/// What the NICs of one test are plugged into.
#[derive(Clone, Default)]
pub struct Hub {
    inboxes: Rc<RefCell<BTreeMap<Endpoint, VecDeque<Vec<u8>>>>>,
}

impl Hub {
    /// Frames for `local` that are in its inbox already stay there: the node has restarted.
    pub fn attach(&self, local: Endpoint) -> Loopback {
        self.inboxes.borrow_mut().entry(local).or_default();
        Loopback { local, hub: self.clone(), queue: VecDeque::new(), stats: NicStats::default() }
    }
}

impl Nic for Loopback {
    fn rx_burst(&mut self, max: usize, sink: &mut dyn FnMut(&[u8])) -> usize {
        for count in 0..max {
            // Not borrowed while the sink runs, which may hold another NIC of the hub.
            let frame = self.hub.inboxes.borrow_mut().get_mut(&self.local).and_then(VecDeque::pop_front);
            let Some(frame) = frame else { return count };
            self.stats.frames_received += 1;
            sink(&frame);
        }
        max
    }

    fn tx_push(&mut self, _now: Timestamp, to: Endpoint, frame: &[u8]) -> bool {
        assert!(frame.len() <= FRAME_BYTES, "a frame of {} bytes", frame.len());
        if self.queue.len() >= TX_BURST {
            return false;
        }
        self.queue.push_back((to, frame.to_vec()));
        true
    }

    fn tx_flush(&mut self, _now: Timestamp) -> usize {
        let mut inboxes = self.hub.inboxes.borrow_mut();
        for (to, frame) in self.queue.drain(..) {
            match inboxes.get_mut(&to) {
                None => self.stats.undeliverable += 1,
                Some(inbox) if inbox.len() >= INBOX_FRAMES => self.stats.overflowed += 1,
                Some(inbox) => {
                    inbox.push_back(frame);
                    self.stats.frames_sent += 1;
                }
            }
        }
        0
    }

    fn wake(&self) -> Wake {
        Wake::default()
    }

    fn stats(&self) -> NicStats {
        self.stats
    }
}

const INBOX_FRAMES: usize = 4 * TX_BURST;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nic::suite;

    #[test]
    fn loopback_passes_the_suite() {
        suite::assert_passes(|| {
            let hub = Hub::default();
            (hub.attach(suite::LEFT), hub.attach(suite::RIGHT))
        });
    }
}
