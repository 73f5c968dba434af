//! Emulated long links in front of any NIC: delay, jitter and loss per destination node.
//!
//! Frames are held back on the sending side, so both ends of a cluster emulate their own half. A link
//! without delay costs a lookup. Bandwidth is not emulated.
//!
//! Invariants:
//!   1. A held frame leaves at its due time or after, never before; frames due later may overtake
//!      those pushed earlier only by jitter.
//!   2. At most `WAN_FRAMES_MAX` frames are held; a frame more is dropped and counted.
#![forbid(unsafe_code)]

use super::{Nic, NicStats, Wake};
use crate::bounds::{FRAME_BYTES, WAN_FRAMES_MAX};
use crate::types::{Endpoint, Prng, Timestamp};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

pub struct Wan<N> {
    nic: N,
    /// By destination node; a node beyond the end is near.
    links: Vec<Link>,
    prng: Prng,
    /// By due time, then in the order of pushing.
    held: BinaryHeap<Reverse<Held>>,
    pushed: u64,
    /// The frames of `held`, and places among them that are free.
    frames: Vec<(Endpoint, Vec<u8>)>,
    free: Vec<u32>,
    lost: u64,
    overflowed: u64,
}

/// One direction of a link.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Link {
    pub delay_ns: u64,
    /// A frame takes `delay_ns` give or take up to this much.
    pub jitter_ns: u64,
    /// Probability, 0 to 1.
    pub loss: f64,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    due: Timestamp,
    order: u64,
    place: u32,
}

impl<N: Nic> Wan<N> {
    pub fn new(nic: N, links: Vec<Link>, prng: Prng) -> Wan<N> {
        assert!(links.iter().all(|link| (0.0..=1.0).contains(&link.loss)), "a probability is from 0 to 1");
        Wan {
            nic,
            links,
            prng,
            held: BinaryHeap::new(),
            pushed: 0,
            frames: Vec::new(),
            free: Vec::new(),
            lost: 0,
            overflowed: 0,
        }
    }

    fn hold(&mut self, due: Timestamp, to: Endpoint, frame: &[u8]) {
        if self.held.len() >= WAN_FRAMES_MAX {
            self.overflowed += 1;
            return;
        }
        let place = self.free.pop().unwrap_or_else(|| {
            self.frames.push((to, Vec::with_capacity(FRAME_BYTES)));
            u32::try_from(self.frames.len() - 1).expect("held frames are bounded")
        });
        let (held_to, bytes) = &mut self.frames[place as usize];
        *held_to = to;
        bytes.clear();
        bytes.extend_from_slice(frame);
        self.pushed += 1;
        self.held.push(Reverse(Held { due, order: self.pushed, place }));
    }

    /// Whether the NIC below has taken all that is due.
    fn push_due(&mut self, now: Timestamp) -> bool {
        while let Some(Reverse(Held { due, place, .. })) = self.held.peek()
            && *due <= now
        {
            let (to, frame) = &self.frames[*place as usize];
            if !self.nic.tx_push(now, *to, frame) {
                return false;
            }
            self.free.push(*place);
            self.held.pop();
        }
        true
    }
}

impl<N: Nic> Nic for Wan<N> {
    fn rx_burst(&mut self, max: usize, sink: &mut dyn FnMut(&[u8])) -> usize {
        self.nic.rx_burst(max, sink)
    }

    fn tx_push(&mut self, now: Timestamp, to: Endpoint, frame: &[u8]) -> bool {
        assert!(frame.len() <= FRAME_BYTES, "a frame of {} bytes", frame.len());
        let link = self.links.get(usize::from(to.node.0)).copied().unwrap_or_default();
        if link.loss > 0.0 && self.prng.f64() < link.loss {
            self.lost += 1;
            return true;
        }
        if link.delay_ns == 0 && link.jitter_ns == 0 {
            return self.nic.tx_push(now, to, frame);
        }
        let least_ns = link.delay_ns.saturating_sub(link.jitter_ns);
        let delay_ns = self.prng.u64(least_ns..=link.delay_ns + link.jitter_ns);
        self.hold(now.plus_ns(delay_ns), to, frame);
        true
    }

    /// Frames that are not due are not left over: [`Nic::wake`] names their time.
    fn tx_flush(&mut self, now: Timestamp) -> usize {
        loop {
            let took_all = self.push_due(now);
            let left = self.nic.tx_flush(now);
            if took_all || left > 0 {
                return left;
            }
        }
    }

    fn wake(&self) -> Wake {
        let below = self.nic.wake();
        let due = self.held.peek().map(|Reverse(held)| held.due);
        Wake { deadline: due.into_iter().chain(below.deadline).min(), ..below }
    }

    fn stats(&self) -> NicStats {
        let below = self.nic.stats();
        NicStats { lost: below.lost + self.lost, overflowed: below.overflowed + self.overflowed, ..below }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bounds::{MS, TX_BURST, US};
    use crate::nic::loopback::{Hub, Loopback};
    use crate::nic::suite::{self, LEFT, RIGHT};

    fn pair(link: Link) -> (Wan<Loopback>, Wan<Loopback>) {
        let hub = Hub::default();
        let wan = |local| Wan::new(hub.attach(local), vec![link; 2], Prng::with_seed(1));
        (wan(LEFT), wan(RIGHT))
    }

    fn received(nic: &mut impl Nic) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        while nic.rx_burst(8, &mut |frame| frames.push(frame.to_vec())) > 0 {}
        frames
    }

    #[test]
    fn emulated_links_pass_the_suite() {
        suite::assert_passes(|| pair(Link::default()));
        suite::assert_passes(|| pair(Link { delay_ns: 25 * MS, jitter_ns: 5 * MS, loss: 0.0 }));
    }

    /// Invariant 1.
    #[test]
    fn a_frame_leaves_when_it_is_due_and_not_before() {
        let (mut left, mut right) = pair(Link { delay_ns: 25 * MS, ..Link::default() });
        assert!(left.tx_push(Timestamp(0), RIGHT, b"one") && left.tx_push(Timestamp(5), RIGHT, b"two"));
        assert_eq!(left.wake().deadline, Some(Timestamp(25 * MS)));
        assert_eq!(left.tx_flush(Timestamp(25 * MS - 1)), 0);
        assert!(received(&mut right).is_empty());
        left.tx_flush(Timestamp(25 * MS));
        assert_eq!(received(&mut right), [b"one"]);
        left.tx_flush(Timestamp(26 * MS));
        assert_eq!(received(&mut right), [b"two"]);
        assert_eq!(left.wake().deadline, None);
    }

    #[test]
    fn delays_spread_over_the_jitter_on_both_sides() {
        let (mut left, mut right) = pair(Link { delay_ns: 10 * MS, jitter_ns: 2 * MS, loss: 0.0 });
        let mut counts = [0; 3];
        for _ in 0..3_000 {
            left.tx_push(Timestamp(0), RIGHT, b"frame");
        }
        for (count, at) in counts.iter_mut().zip([8 * MS - 1, 10 * MS, 12 * MS]) {
            for now in (at.saturating_sub(2 * MS)..=at).step_by(50 * US as usize) {
                left.tx_flush(Timestamp(now));
                *count += received(&mut right).len();
            }
            left.tx_flush(Timestamp(at));
            *count += received(&mut right).len();
        }
        assert_eq!((counts[0], counts.iter().sum::<usize>()), (0, 3_000));
        assert!(counts[1] > 1_300 && counts[2] > 1_300, "{counts:?}");
    }

    #[test]
    fn a_lossy_link_loses_its_share_and_counts_it() {
        let (mut left, mut right) = pair(Link { loss: 0.25, ..Link::default() });
        let mut arrived = 0;
        for _ in 0..10_000 {
            assert!(left.tx_push(Timestamp(0), RIGHT, b"frame"));
            left.tx_flush(Timestamp(0));
            arrived += received(&mut right).len() as u64;
        }
        assert_eq!(arrived + left.stats().lost, 10_000);
        assert!((2_200..2_800).contains(&left.stats().lost));
    }

    /// Invariant 2, and that a NIC below that fills up holds the rest back instead of losing it.
    #[test]
    fn a_link_holds_a_bounded_number_of_frames_and_loses_none_of_them() {
        let (mut left, mut right) = pair(Link { delay_ns: MS, ..Link::default() });
        for _ in 0..WAN_FRAMES_MAX + 10 {
            assert!(left.tx_push(Timestamp(0), RIGHT, b"frame"));
        }
        assert_eq!((left.held.len(), left.stats().overflowed), (WAN_FRAMES_MAX, 10));
        // The loopback's inbox is the narrowest place, so it is emptied between small steps.
        let mut narrow = pair(Link { delay_ns: MS, ..Link::default() });
        for order in 0..3 * TX_BURST {
            narrow.0.tx_push(Timestamp(order as u64), RIGHT, &order.to_le_bytes());
        }
        assert_eq!(narrow.0.tx_flush(Timestamp(2 * MS)), 0);
        let orders: Vec<_> = (0..3 * TX_BURST).map(|order| order.to_le_bytes().to_vec()).collect();
        assert_eq!(received(&mut narrow.1), orders);
        assert!(received(&mut right).is_empty());
    }
}
