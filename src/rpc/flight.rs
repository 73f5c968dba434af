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
use super::pace::Change;
use super::path::{Arrived, Path};
use super::rtt::Rtt;
use super::stats::Ignored;
use super::window::Window;
use crate::bounds::FRAMES_REMEMBERED;
use crate::types::Timestamp;
use std::collections::VecDeque;
use std::ops::Range;

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
    /// The frames that the last timeout has given up, if it was all of those on the wire.
    given_up: Range<u64>,
    pub lost: VecDeque<PacketRef>,
}

#[derive(Clone, Copy)]
struct Sent {
    at: Timestamp,
    /// Position of its first packet, counted like `packets_taken`.
    packets_from: u64,
    packets: u16,
    bytes: u16,
    open: bool,
}

/// What the passing of time has made of the frames on the wire.
#[derive(Default, PartialEq, Eq, Debug)]
pub struct Losses {
    pub frames: u64,
    /// Nothing had come back for the whole timeout.
    pub timed_out: bool,
    pub change: Option<Change>,
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
            given_up: 0..0,
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
    pub fn on_sent(&mut self, now: Timestamp, bytes: usize) -> u64 {
        let packets = std::mem::take(&mut self.filling);
        let packets_from = self.packets_taken + self.packets.len() as u64 - u64::from(packets);
        let number = self.next();
        let bytes = u16::try_from(bytes).expect("a frame is short");
        self.frames.push_back(Sent { at: now, packets_from, packets, bytes, open: true });
        self.outstanding += 1;
        number
    }

    /// Appends the packets that are acknowledged by `ack` and were not before.
    pub fn on_ack(
        &mut self,
        now: Timestamp,
        ack: &Ack,
        path: &mut Path,
        acked: &mut Vec<PacketRef>,
    ) -> Result<Option<Change>, Ignored> {
        if ack.largest >= self.next() {
            return Err(Ignored::NeverSent);
        }
        let mut arrived = Arrived { outstanding: self.outstanding, ..Arrived::default() };
        for (word, bits) in (0u64..).zip(ack.words()) {
            let mut bits = bits;
            while bits != 0 {
                let age = word * 64 + u64::from(bits.trailing_zeros());
                bits &= bits - 1;
                let Some(number) = ack.largest.checked_sub(age) else { break };
                let Some(place) = number.checked_sub(self.first) else {
                    // All of these were settled before; those that were given up were not acknowledged.
                    if number < self.given_up.start || self.given_up.is_empty() {
                        break;
                    }
                    arrived.is_late |= number < self.given_up.end;
                    continue;
                };
                let Some(sent) = self.settle(place as usize, Fate::Acked(acked)) else { continue };
                arrived.frames += 1;
                arrived.bytes += u64::from(sent.bytes);
                // Only the latest frame is fresh: those before it waited longer at the peer.
                if arrived.latest_sent.is_none() {
                    arrived.latest_sent = Some(sent.at);
                    arrived.held_ns = (age == 0).then_some(u64::from(ack.held_ns));
                }
            }
        }
        // Had they arrived, they would have been acknowledged before any that was sent later.
        if arrived.is_late || arrived.frames > 0 {
            self.given_up = 0..0;
        }
        self.largest_acked = self.largest_acked.max(ack.largest);
        self.forget_settled();
        Ok(path.on_acked(now, &arrived))
    }

    /// Gives up the frames overtaken too long ago, and all of them when the timeout has passed.
    pub fn on_tick(&mut self, now: Timestamp, path: &mut Path) -> Losses {
        let mut losses = Losses::default();
        let mut number_lost = 0;
        while let Some(due) = self.overtaken_deadline(&path.rtt)
            && due <= now
        {
            number_lost = self.first;
            losses.frames += 1;
            self.settle(0, Fate::Lost);
            self.forget_settled();
        }
        if losses.frames > 0 {
            path.on_loss(losses.frames, number_lost, self.next() - 1);
        }
        losses.timed_out = self.deadline(&path.rtt).is_some_and(|due| due <= now);
        if losses.timed_out {
            let frames = self.outstanding;
            self.given_up = if frames == self.frames.len() { self.first..self.next() } else { 0..0 };
            let bytes = self.lose_all();
            losses.frames += frames as u64;
            losses.change = path.on_timeout(now, frames, bytes, self.next() - 1);
        }
        losses
    }

    /// When the oldest frame counts as lost.
    pub fn deadline(&self, rtt: &Rtt) -> Option<Timestamp> {
        let oldest = self.frames.front()?;
        self.overtaken_deadline(rtt).or(Some(oldest.at.plus_ns(rtt.rto_ns())))
    }

    /// How many bytes that was.
    pub fn lose_all(&mut self) -> u64 {
        let mut bytes = 0;
        for place in 0..self.frames.len() {
            bytes += self.settle(place, Fate::Lost).map_or(0, |sent| u64::from(sent.bytes));
        }
        self.forget_settled();
        bytes
    }

    /// The peer that should have received all this is no more. Numbers go on: its successor has
    /// received none of them.
    pub fn clear(&mut self) {
        self.lose_all();
        self.lost.clear();
        self.given_up = 0..0;
    }

    pub fn outstanding(&self) -> usize {
        self.outstanding
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

    /// The frame at `place`, if it was open until now.
    fn settle(&mut self, place: usize, fate: Fate) -> Option<Sent> {
        let sent = self.frames.get_mut(place).filter(|sent| sent.open)?;
        sent.open = false;
        let sent = *sent;
        self.outstanding -= 1;
        let from = (sent.packets_from - self.packets_taken) as usize;
        let packets = self.packets.range(from..from + usize::from(sent.packets)).copied();
        match fate {
            Fate::Acked(acked) => acked.extend(packets),
            Fate::Lost => self.lost.extend(packets),
        }
        Some(sent)
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
        path: Path,
    }

    impl Bench {
        fn new() -> Bench {
            Bench { flight: Flight::new(), path: Path::new(true) }
        }

        fn send(&mut self, now: Timestamp, packets: &[u16]) -> u64 {
            packets.iter().for_each(|packet| self.flight.push(packet_ref(*packet)));
            self.flight.on_sent(now, 100)
        }

        fn ack(&mut self, now: Timestamp, largest: u64, word: u64) -> Result<Vec<u16>, Ignored> {
            let (mut bytes, mut acked) = (Vec::new(), Vec::new());
            encode_ack(&mut bytes, largest, 0, &[word]);
            let Ok(Packet::Ack(ack)) = Packet::decode(&mut &bytes[..]) else { panic!("an ack was encoded") };
            self.flight.on_ack(now, &ack, &mut self.path, &mut acked)?;
            Ok(acked.iter().map(|packet| packet.packet).collect())
        }

        fn tick(&mut self, now: Timestamp) -> (bool, Vec<u16>) {
            let timed_out = self.flight.on_tick(now, &mut self.path).timed_out;
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
        assert_eq!((bench.flight.outstanding, bench.flight.deadline(&bench.path.rtt)), (0, None));
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
        let due = bench.flight.deadline(&bench.path.rtt).unwrap();
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
        assert_eq!(bench.flight.deadline(&bench.path.rtt), Some(Timestamp(RTO_NS_INITIAL)));
        assert_eq!(bench.tick(Timestamp(RTO_NS_INITIAL)), (true, vec![1, 2]));
        assert_eq!(bench.send(Timestamp(RTO_NS_INITIAL), &[1, 2]), 3);
        assert_eq!(bench.ack(Timestamp(RTO_NS_INITIAL + 1), 2, 0b11), Ok(vec![]));
        assert_eq!(bench.ack(Timestamp(RTO_NS_INITIAL + 2), 3, 0b1), Ok(vec![1, 2]));
    }
}
