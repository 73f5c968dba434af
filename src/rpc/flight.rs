//! The numbered frames of a session that are on the wire: which packets each carried, what became of it.
//!
//! A frame ends in one of two ways, acknowledged or lost, once; its packets end with it. Packets of a
//! lost frame go to `lost` and leave again under a new number. What a packet means is not known here.
//!
//! Invariants:
//!   1. Frame `first + i` is `frames[i]`; `frames` is in the order of sending, so of `sent_at`.
//!   2. The oldest frame held is open: its fate decides the session's only retransmission timer.
//!   3. `outstanding` is the number of open frames.
#![forbid(unsafe_code)]

use super::frame::Ack;
use super::rtt::Rtt;
use super::stats::Ignored;
use super::window::Window;
use crate::bounds::FRAMES_REMEMBERED;
use crate::types::Timestamp;
use std::collections::VecDeque;

pub struct Flight {
    /// Number of `frames[0]`, or of the next frame when there is none.
    first: u64,
    frames: VecDeque<Sent>,
    /// The packets of `frames`, in their order.
    packets: VecDeque<PacketRef>,
    /// How many packets have been taken off the front of `packets`, ever.
    packets_taken: u64,
    /// Packets pushed for the frame that is being filled.
    filling: u16,
    outstanding: usize,
    largest_acked: u64,
    pub lost: VecDeque<PacketRef>,
}

struct Sent {
    at: Timestamp,
    /// Position of its first packet, counted like `packets_taken`.
    packets_from: u64,
    packets: u16,
    open: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    Request,
    Response,
}

/// One message of a session: a use of a request slot, one way or the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MessageRef {
    pub way: Way,
    pub slot: u16,
    pub seq: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PacketRef {
    pub message: MessageRef,
    pub packet: u16,
}

impl Flight {
    pub fn new() -> Flight {
        Flight {
            first: 1,
            frames: VecDeque::new(),
            packets: VecDeque::new(),
            packets_taken: 0,
            filling: 0,
            outstanding: 0,
            largest_acked: 0,
            lost: VecDeque::new(),
        }
    }

    pub fn has_room(&self, window: &Window) -> bool {
        self.outstanding < window.frames() && self.frames.len() < FRAMES_REMEMBERED
    }

    /// The packet goes into the frame being filled.
    pub fn push(&mut self, packet: PacketRef) {
        self.packets.push_back(packet);
        self.filling += 1;
    }

    /// The frame being filled leaves, under the number returned.
    pub fn on_sent(&mut self, now: Timestamp) -> u64 {
        let packets = std::mem::take(&mut self.filling);
        let packets_from = self.packets_taken + self.packets.len() as u64 - u64::from(packets);
        let number = self.next();
        self.frames.push_back(Sent { at: now, packets_from, packets, open: true });
        self.outstanding += 1;
        number
    }

    /// Appends the packets that are acknowledged by `ack` and were not before.
    pub fn on_ack(
        &mut self,
        now: Timestamp,
        ack: &Ack,
        rtt: &mut Rtt,
        window: &mut Window,
        acked: &mut Vec<PacketRef>,
    ) -> Result<(), Ignored> {
        if ack.largest >= self.next() {
            return Err(Ignored::NeverSent);
        }
        let outstanding = self.outstanding;
        let mut sampled = false;
        for (word, bits) in (0u64..).zip(ack.words()) {
            let mut bits = bits;
            while bits != 0 {
                let age = word * 64 + u64::from(bits.trailing_zeros());
                bits &= bits - 1;
                let Some(place) = ack.largest.checked_sub(age).and_then(|n| n.checked_sub(self.first)) else {
                    break;
                };
                let Some(sent) = self.settle(place as usize, Fate::Acked(acked)) else { continue };
                // Only the latest frame is fresh: those before it waited longer at the peer.
                if !std::mem::replace(&mut sampled, true) {
                    rtt.on_sample(now.since(sent));
                }
            }
        }
        self.largest_acked = self.largest_acked.max(ack.largest);
        self.forget_settled();
        let count = outstanding - self.outstanding;
        window.on_acked(u32::try_from(count).unwrap_or(u32::MAX), outstanding);
        Ok(())
    }

    /// Gives up the frames overtaken too long ago, and all of them when the timeout has passed.
    /// Whether it had.
    pub fn on_tick(&mut self, now: Timestamp, rtt: &mut Rtt, window: &mut Window) -> bool {
        let mut number_lost = None;
        while let Some(due) = self.overtaken_deadline(rtt)
            && due <= now
        {
            number_lost = Some(self.first);
            self.settle(0, Fate::Lost);
            self.forget_settled();
        }
        if let Some(number) = number_lost {
            window.on_loss(number, self.next() - 1);
        }
        let timed_out = self.deadline(rtt).is_some_and(|due| due <= now);
        if timed_out {
            self.lose_all();
            rtt.on_timeout();
            window.on_timeout(self.next() - 1);
        }
        timed_out
    }

    /// When the oldest frame counts as lost.
    pub fn deadline(&self, rtt: &Rtt) -> Option<Timestamp> {
        let oldest = self.frames.front()?;
        self.overtaken_deadline(rtt).or(Some(oldest.at.plus_ns(rtt.rto_ns())))
    }

    pub fn lose_all(&mut self) {
        for place in 0..self.frames.len() {
            self.settle(place, Fate::Lost);
        }
        self.forget_settled();
    }

    /// The peer that should have received all this is no more. Numbers go on: its successor has
    /// received none of them.
    pub fn clear(&mut self) {
        self.lose_all();
        self.lost.clear();
    }

    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Gives back what it holds. Nothing is on the wire, and packets that were lost are wanted no more.
    pub fn rest(&mut self) {
        assert!(self.frames.is_empty() && self.filling == 0, "{} frames are on the wire", self.frames.len());
        (self.frames, self.packets, self.lost) = Default::default();
    }

    fn next(&self) -> u64 {
        self.first + self.frames.len() as u64
    }

    fn overtaken_deadline(&self, rtt: &Rtt) -> Option<Timestamp> {
        let oldest = self.frames.front()?;
        (self.first < self.largest_acked).then(|| oldest.at.plus_ns(rtt.overtaken_ns()))
    }

    /// When it was sent, if the frame at `place` was open until now.
    fn settle(&mut self, place: usize, fate: Fate) -> Option<Timestamp> {
        let sent = self.frames.get_mut(place).filter(|sent| sent.open)?;
        sent.open = false;
        self.outstanding -= 1;
        let from = (sent.packets_from - self.packets_taken) as usize;
        let packets = self.packets.range(from..from + usize::from(sent.packets)).copied();
        match fate {
            Fate::Acked(acked) => acked.extend(packets),
            Fate::Lost => self.lost.extend(packets),
        }
        Some(sent.at)
    }

    /// Invariant 2.
    fn forget_settled(&mut self) {
        while let Some(sent) = self.frames.front()
            && !sent.open
        {
            self.packets.drain(..usize::from(sent.packets));
            self.packets_taken += u64::from(sent.packets);
            self.frames.pop_front();
            self.first += 1;
        }
    }
}

enum Fate<'a> {
    Acked(&'a mut Vec<PacketRef>),
    Lost,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bounds::{MS, RTO_NS_INITIAL};
    use crate::rpc::frame::{Packet, encode_ack};

    struct Bench {
        flight: Flight,
        rtt: Rtt,
        window: Window,
    }

    impl Bench {
        fn new() -> Bench {
            Bench { flight: Flight::new(), rtt: Rtt::new(), window: Window::new() }
        }

        fn send(&mut self, now: Timestamp, packets: &[u16]) -> u64 {
            packets.iter().for_each(|packet| self.flight.push(packet_ref(*packet)));
            self.flight.on_sent(now)
        }

        fn ack(&mut self, now: Timestamp, largest: u64, word: u64) -> Result<Vec<u16>, Ignored> {
            let (mut bytes, mut acked) = (Vec::new(), Vec::new());
            encode_ack(&mut bytes, largest, &[word]);
            let Ok(Packet::Ack(ack)) = Packet::decode(&mut &bytes[..]) else { panic!("an ack was encoded") };
            self.flight.on_ack(now, &ack, &mut self.rtt, &mut self.window, &mut acked)?;
            Ok(acked.iter().map(|packet| packet.packet).collect())
        }

        fn tick(&mut self, now: Timestamp) -> (bool, Vec<u16>) {
            let timed_out = self.flight.on_tick(now, &mut self.rtt, &mut self.window);
            (timed_out, self.flight.lost.drain(..).map(|packet| packet.packet).collect())
        }
    }

    fn packet_ref(packet: u16) -> PacketRef {
        PacketRef { message: MessageRef { way: Way::Request, slot: 0, seq: 1 }, packet }
    }

    #[test]
    fn each_packet_is_acknowledged_once() {
        let mut bench = Bench::new();
        assert_eq!(bench.send(Timestamp(0), &[10, 11]), 1);
        assert_eq!(bench.send(Timestamp(0), &[20]), 2);
        assert_eq!(bench.send(Timestamp(0), &[30, 31]), 3);
        assert_eq!(bench.ack(Timestamp(MS), 2, 0b01), Ok(vec![20]));
        assert_eq!(bench.ack(Timestamp(MS), 3, 0b111), Ok(vec![30, 31, 10, 11]));
        assert_eq!(bench.ack(Timestamp(MS), 3, 0b111), Ok(vec![]));
        assert_eq!((bench.flight.outstanding, bench.flight.deadline(&bench.rtt)), (0, None));
    }

    #[test]
    fn an_ack_of_a_frame_never_sent_is_ignored() {
        let mut bench = Bench::new();
        bench.send(Timestamp(0), &[1]);
        assert_eq!(bench.ack(Timestamp(0), 2, 0b11), Err(Ignored::NeverSent));
        assert_eq!(bench.ack(Timestamp(0), u64::MAX, u64::MAX), Err(Ignored::NeverSent));
        assert_eq!(bench.flight.outstanding, 1);
    }

    /// Waiting for the full timeout after a single loss would halve the throughput of a lossy link.
    #[test]
    fn an_overtaken_frame_is_lost_before_the_timeout() {
        let mut bench = Bench::new();
        bench.send(Timestamp(0), &[1]);
        bench.send(Timestamp(0), &[2]);
        assert_eq!(bench.ack(Timestamp(MS), 2, 0b01), Ok(vec![2]));
        let due = bench.flight.deadline(&bench.rtt).unwrap();
        assert!(due < Timestamp(5 * MS));
        assert_eq!(bench.tick(due.prev()), (false, vec![]));
        assert_eq!(bench.tick(due), (false, vec![1]));
    }

    /// A late acknowledgement of a frame given up must not count its packets, which are on the wire again.
    #[test]
    fn after_the_timeout_all_is_lost_and_late_acks_are_void() {
        let mut bench = Bench::new();
        bench.send(Timestamp(0), &[1]);
        bench.send(Timestamp(7), &[2]);
        assert_eq!(bench.flight.deadline(&bench.rtt), Some(Timestamp(RTO_NS_INITIAL)));
        assert_eq!(bench.tick(Timestamp(RTO_NS_INITIAL)), (true, vec![1, 2]));
        assert_eq!(bench.send(Timestamp(RTO_NS_INITIAL), &[1, 2]), 3);
        assert_eq!(bench.ack(Timestamp(RTO_NS_INITIAL + 1), 2, 0b11), Ok(vec![]));
        assert_eq!(bench.ack(Timestamp(RTO_NS_INITIAL + 2), 3, 0b1), Ok(vec![1, 2]));
    }
}
