//! One message on its way out, and one on its way in, as packets.
//!
//! Neither knows what the message is for: a request slot has one of each on both sides.
//!
//! Invariants:
//!   1. Each packet of an [`Outgoing`] counts as acknowledged at most once (the flight sees to it), so
//!      `acked == packets` means that the peer holds all of them.
//!   2. An [`Incoming`] holds memory for what has arrived and a bounded stretch ahead of it, never for
//!      the length a peer merely claims; the session's `partial_bytes` counts every byte of it.
#![forbid(unsafe_code)]

use super::buffers::Buffers;
use super::frame::{Part, chunk_of, packets_of};
use super::stats::Ignored;
use crate::bounds::{AHEAD_PACKETS_MAX, CHUNK_BYTES, IN_TRANSIT_BYTES_MAX};

/// A message being sent. Closed (all of it zero) once the peer has it or nobody wants it any more.
#[derive(Default)]
pub struct Outgoing {
    bytes: Vec<u8>,
    packets: u16,
    /// The first packet that has never been sent.
    unsent: u16,
    acked: u16,
    /// Counted in the session's bytes in transit.
    in_transit: bool,
}

impl Outgoing {
    pub fn open(&mut self, bytes: Vec<u8>) {
        assert!(self.packets == 0, "a slot sends one message at a time");
        self.packets = packets_of(bytes.len());
        self.bytes = bytes;
    }

    pub fn is_open(&self) -> bool {
        self.packets > 0
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// May be sent from now on: see [`may_start`].
    pub fn start(&mut self, in_transit_bytes: &mut usize) {
        assert!(may_start(self.bytes.len(), *in_transit_bytes) && !self.in_transit);
        *in_transit_bytes += self.bytes.len();
        self.in_transit = true;
    }

    /// No packet of it has left: the peer cannot know of it.
    pub fn is_untouched(&self) -> bool {
        self.is_open() && self.unsent == 0
    }

    /// Every packet has left at least once.
    pub fn is_sent(&self) -> bool {
        !self.is_open() || self.unsent == self.packets
    }

    pub fn unsent(&self) -> u16 {
        self.unsent
    }

    pub fn on_sent(&mut self) {
        self.unsent += 1;
    }

    pub fn part(&self, slot: u16, seq: u64, packet: u16) -> Part<'_> {
        assert!(packet < self.packets);
        let length = u32::try_from(self.bytes.len()).expect("a message is a few megabytes");
        let payload = &self.bytes[chunk_of(self.bytes.len(), packet)];
        Part { slot, seq, length, packet, payload }
    }

    /// Whether that was the last.
    pub fn on_acked(&mut self) -> bool {
        self.acked += 1;
        assert!(self.acked <= self.unsent, "{} packets acked, {} sent", self.acked, self.unsent);
        self.acked == self.packets
    }

    pub fn close(&mut self, in_transit_bytes: &mut usize, buffers: &mut Buffers) {
        if self.packets == 0 {
            return;
        }
        if self.in_transit {
            *in_transit_bytes -= self.bytes.len();
        }
        buffers.recycle(std::mem::take(&mut self.bytes));
        (self.packets, self.unsent, self.acked, self.in_transit) = (0, 0, 0, false);
    }
}

/// Bytes a session holds for messages under way; see invariant 3 of `session`.
#[derive(Default)]
pub struct Held {
    /// Of messages started and not closed.
    pub in_transit_bytes: usize,
    /// Of messages received in part.
    pub partial_bytes: usize,
}

/// Whether a message fits beside those a session is already sending. The receiver refuses packets
/// of more than this, so starting it anyway could leave many messages half received for ever.
pub fn may_start(bytes: usize, in_transit_bytes: usize) -> bool {
    in_transit_bytes + bytes <= IN_TRANSIT_BYTES_MAX
}

/// A message being received. Blank (`packets == 0`) before its first packet.
#[derive(Default)]
pub struct Incoming {
    bytes: Vec<u8>,
    length: u32,
    packets: u16,
    arrived: u16,
    /// A bit per packet that has arrived.
    seen: Vec<u64>,
}

impl Incoming {
    /// Takes in one packet. `Some` is the whole message, `None` means there is more to come.
    pub fn accept(
        &mut self,
        part: &Part,
        partial_bytes: &mut usize,
        buffers: &mut Buffers,
    ) -> Result<Option<Vec<u8>>, Ignored> {
        let length = part.length as usize;
        if self.packets == 0 && length <= CHUNK_BYTES {
            return Ok(Some(buffers.copy(part.payload)));
        }
        self.accept_one_of_many(part, partial_bytes, buffers)
    }

    /// Apart, so that what happens with most packets is short.
    #[inline(never)]
    fn accept_one_of_many(
        &mut self,
        part: &Part,
        partial_bytes: &mut usize,
        buffers: &mut Buffers,
    ) -> Result<Option<Vec<u8>>, Ignored> {
        let length = part.length as usize;
        if let Some(ignored) = self.ignore_part(part, *partial_bytes) {
            return Err(ignored);
        }
        if self.packets == 0 {
            self.length = part.length;
            self.packets = packets_of(length);
            self.bytes = buffers.take(length);
        }
        let chunk = chunk_of(length, part.packet);
        if self.bytes.len() < chunk.end {
            *partial_bytes += chunk.end - self.bytes.len();
            self.bytes.resize(chunk.end, 0);
        }
        self.bytes[chunk].copy_from_slice(part.payload);
        self.see(part.packet);
        if self.arrived < self.packets {
            return Ok(None);
        }
        assert!(self.bytes.len() == length);
        Ok(Some(self.take(partial_bytes)))
    }

    pub fn discard(&mut self, partial_bytes: &mut usize, buffers: &mut Buffers) {
        if self.packets > 0 {
            let bytes = self.take(partial_bytes);
            buffers.recycle(bytes);
        }
    }

    fn ignore_part(&self, part: &Part, partial_bytes: usize) -> Option<Ignored> {
        if self.packets > 0 && part.length != self.length {
            return Some(Ignored::OtherLength);
        }
        if self.has_seen(part.packet) {
            return Some(Ignored::PastPacket);
        }
        if usize::from(part.packet) >= usize::from(self.arrived) + AHEAD_PACKETS_MAX {
            return Some(Ignored::TooFarAhead);
        }
        let growth = chunk_of(part.length as usize, part.packet).end.saturating_sub(self.bytes.len());
        (partial_bytes + growth > IN_TRANSIT_BYTES_MAX).then_some(Ignored::PartialsFull)
    }

    fn has_seen(&self, packet: u16) -> bool {
        let (word, bit) = (usize::from(packet / 64), packet % 64);
        self.seen.get(word).is_some_and(|bits| bits >> bit & 1 == 1)
    }

    fn see(&mut self, packet: u16) {
        let (word, bit) = (usize::from(packet / 64), packet % 64);
        if self.seen.len() <= word {
            self.seen.resize(word + 1, 0);
        }
        self.seen[word] |= 1 << bit;
        self.arrived += 1;
    }

    fn take(&mut self, partial_bytes: &mut usize) -> Vec<u8> {
        *partial_bytes -= self.bytes.len();
        self.packets = 0;
        self.arrived = 0;
        self.seen.clear();
        std::mem::take(&mut self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bounds::{CHUNK_BYTES, MESSAGE_BYTES_MAX};
    use crate::types::Prng;

    fn part(length: usize, packet: u16, payload: &[u8]) -> Part<'_> {
        Part { slot: 0, seq: 1, length: u32::try_from(length).unwrap(), packet, payload }
    }

    #[test]
    fn a_message_survives_any_order_of_its_packets() {
        let mut prng = Prng::with_seed(3);
        let mut buffers = Buffers::default();
        for length in [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 5 * CHUNK_BYTES, 300_000] {
            let message: Vec<u8> = (0..length).map(|_| prng.u8(..)).collect();
            let mut out = Outgoing::default();
            out.open(message.clone());
            let mut order: Vec<u16> = (0..packets_of(length)).flat_map(|packet| [packet; 2]).collect();
            prng.shuffle(&mut order);

            let (mut incoming, mut partial, mut whole) = (Incoming::default(), 0, None);
            for packet in order {
                match incoming.accept(&out.part(0, 1, packet), &mut partial, &mut buffers) {
                    Ok(Some(bytes)) => {
                        whole = Some(bytes);
                        break;
                    }
                    Ok(None) => assert!(partial <= length),
                    Err(ignored) => assert_eq!(ignored, Ignored::PastPacket),
                }
            }
            assert_eq!((whole, partial), (Some(message), 0));
        }
    }

    /// Invariant 2: else a few forged packets make us reserve gigabytes.
    #[test]
    fn a_claimed_length_allocates_nothing_beyond_the_packets_ahead() {
        let (mut incoming, mut partial, mut buffers) = (Incoming::default(), 0, Buffers::default());
        let payload = [0; CHUNK_BYTES];
        let far = part(MESSAGE_BYTES_MAX, u16::try_from(AHEAD_PACKETS_MAX).unwrap(), &payload);
        assert_eq!(incoming.accept(&far, &mut partial, &mut buffers), Err(Ignored::TooFarAhead));
        assert_eq!(partial, 0);
        let near = part(MESSAGE_BYTES_MAX, 1, &payload);
        assert_eq!(incoming.accept(&near, &mut partial, &mut buffers), Ok(None));
        assert_eq!(partial, 2 * CHUNK_BYTES);
        let mut full = IN_TRANSIT_BYTES_MAX;
        let next = part(MESSAGE_BYTES_MAX, 2, &payload);
        assert_eq!(incoming.accept(&next, &mut full, &mut buffers), Err(Ignored::PartialsFull));
        incoming.discard(&mut partial, &mut buffers);
        assert_eq!(partial, 0);
    }

    #[test]
    fn packets_of_one_message_agree_on_its_length() {
        let (mut incoming, mut partial, mut buffers) = (Incoming::default(), 0, Buffers::default());
        let payload = [0; CHUNK_BYTES];
        let first = part(3 * CHUNK_BYTES, 0, &payload);
        assert_eq!(incoming.accept(&first, &mut partial, &mut buffers), Ok(None));
        let other = part(4 * CHUNK_BYTES, 1, &payload);
        assert_eq!(incoming.accept(&other, &mut partial, &mut buffers), Err(Ignored::OtherLength));
        let short = part(1, 0, &[9]);
        assert_eq!(incoming.accept(&short, &mut partial, &mut buffers), Err(Ignored::OtherLength));
    }
}
