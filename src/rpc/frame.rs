//! The bytes of a frame: one header, then packets until its end.
//!
//! Little-endian throughout. Decoding is total: any bytes give a value or a named [`Ignored`].
//! What a packet means for a session is not decided here.
//!
//! Invariants:
//!   1. A decoded [`Part`] is consistent in itself: its slot exists, its message is not longer than
//!      a message may be, and its payload has exactly the length its place in the message demands.
//!   2. A full packet, the shortest useful acknowledgement and a tag fit one frame together.
#![forbid(unsafe_code)]

use super::stats::Ignored;
use crate::bounds::{
    CAST_BYTES_MAX, CHUNK_BYTES, FRAME_BYTES, FRAMES_REMEMBERED, MESSAGE_BYTES_MAX, REQUEST_SLOTS,
};
use crate::types::{CoreId, Endpoint, NodeId};

/// Who sends the frame to whom, and in which of their lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    pub cluster: u64,
    pub from: Endpoint,
    pub to: Endpoint,
    pub from_incarnation: u64,
    /// The receiver's incarnation as far as the sender knows; 0 asks for it.
    pub to_incarnation: u64,
    /// Counts how often the sender gave up all its calls to this peer.
    pub generation: u32,
    /// Counts the sender's frames that want an acknowledgement; 0 in a frame that wants none.
    pub number: u64,
    /// Under which of the cluster's keys the packets are sealed; 0 if they are not. Then `count` is 0 as well.
    pub key: u8,
    /// Counts the sender's frames to the receiver, from anywhere: no frame has that of another.
    pub count: u64,
}

impl Header {
    pub fn encode(&self, frame: &mut Vec<u8>) {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..2].copy_from_slice(&MAGIC);
        bytes[2] = VERSION;
        bytes[KEY_AT] = self.key;
        bytes[4..12].copy_from_slice(&self.cluster.to_le_bytes());
        bytes[12..16].copy_from_slice(&endpoint_to_bytes(self.from));
        bytes[16..20].copy_from_slice(&endpoint_to_bytes(self.to));
        bytes[20..28].copy_from_slice(&self.from_incarnation.to_le_bytes());
        bytes[28..36].copy_from_slice(&self.to_incarnation.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.generation.to_le_bytes());
        bytes[NUMBER_AT..COUNT_AT].copy_from_slice(&self.number.to_le_bytes());
        bytes[COUNT_AT..HEADER_BYTES].copy_from_slice(&self.count.to_le_bytes());
        frame.extend_from_slice(&bytes);
    }

    /// The header and the packets behind it.
    pub fn decode(frame: &[u8]) -> Result<(Header, &[u8]), Ignored> {
        if frame.len() > FRAME_BYTES {
            return Err(Ignored::BadFrame);
        }
        let mut rest = frame;
        let [magic0, magic1, version, key] = take(&mut rest).ok_or(Ignored::BadFrame)?;
        if [magic0, magic1] != MAGIC {
            return Err(Ignored::BadFrame);
        }
        if version != VERSION {
            return Err(Ignored::OtherVersion);
        }
        let header = decode_fields(key, &mut rest).ok_or(Ignored::BadFrame)?;
        Ok((header, rest))
    }

    /// Which life of whom sends to which life of whom, and in which cluster.
    pub fn lives(&self) -> [u8; LIVES_BYTES] {
        let mut bytes = [0; LIVES_BYTES];
        bytes[0..8].copy_from_slice(&self.cluster.to_le_bytes());
        bytes[8..12].copy_from_slice(&endpoint_to_bytes(self.from));
        bytes[12..16].copy_from_slice(&endpoint_to_bytes(self.to));
        bytes[16..24].copy_from_slice(&self.from_incarnation.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.to_incarnation.to_le_bytes());
        bytes
    }
}

/// Whom a frame is for, where one socket serves several endpoints; `None` for what is no frame of ours.
pub fn is_for(frame: &[u8]) -> Option<Endpoint> {
    Header::decode(frame).ok().map(|(header, _)| header.to)
}

/// Whether a frame is numbered is known only when its packets are in.
pub fn set_number(frame: &mut [u8], number: u64) {
    frame[NUMBER_AT..COUNT_AT].copy_from_slice(&number.to_le_bytes());
}

/// So are the key and the count under which it is sealed.
pub fn set_seal(frame: &mut [u8], key: u8, count: u64) {
    frame[KEY_AT] = key;
    frame[COUNT_AT..HEADER_BYTES].copy_from_slice(&count.to_le_bytes());
}

/// One packet of a request or response: a chunk of its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part<'a> {
    pub slot: u16,
    /// Which use of the slot. Counts from 1.
    pub seq: u64,
    /// Bytes of the whole message.
    pub length: u32,
    /// Position of this chunk in the message.
    pub packet: u16,
    pub payload: &'a [u8],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Packet<'a> {
    Request(Part<'a>),
    Response(Part<'a>),
    Cast(&'a [u8]),
    Ack(Ack<'a>),
    /// Asks for an acknowledgement and nothing else.
    Ping,
    /// The last word of the sender's life.
    Bye,
}

/// Frames received: bit `b` of word `w` stands for frame `largest - 64 * w - b`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ack<'a> {
    pub largest: u64,
    /// How long before this was said frame `largest` had come.
    pub held_ns: u32,
    words: &'a [u8],
}

impl Ack<'_> {
    pub fn words(&self) -> impl Iterator<Item = u64> {
        self.words.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("chunks of eight")))
    }
}

impl<'a> Packet<'a> {
    /// Takes the first packet off `rest`, which is not empty. Inline, so that it is looked at where it was taken apart:
    /// to be handed back through memory takes longer than all of the rest.
    #[inline(always)]
    pub fn decode(rest: &mut &'a [u8]) -> Result<Packet<'a>, Ignored> {
        let [kind] = take(rest).ok_or(Ignored::BadPacket)?;
        let packet = match kind {
            KIND_REQUEST => decode_part(rest).map(Packet::Request),
            KIND_RESPONSE => decode_part(rest).map(Packet::Response),
            KIND_CAST => decode_cast(rest).map(Packet::Cast),
            KIND_ACK => decode_ack(rest).map(Packet::Ack),
            KIND_PING => Some(Packet::Ping),
            KIND_BYE => Some(Packet::Bye),
            _ => None,
        };
        packet.ok_or(Ignored::BadPacket)
    }
}

pub fn encode_request(frame: &mut Vec<u8>, part: &Part) {
    encode_part(frame, KIND_REQUEST, part);
}

pub fn encode_response(frame: &mut Vec<u8>, part: &Part) {
    encode_part(frame, KIND_RESPONSE, part);
}

pub fn encode_cast(frame: &mut Vec<u8>, message: &[u8]) {
    let length = u16::try_from(message.len()).expect("a cast fits a frame");
    frame.push(KIND_CAST);
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(message);
}

pub fn encode_ack(frame: &mut Vec<u8>, largest: u64, held_ns: u64, words: &[u64]) {
    let count = u8::try_from(words.len()).expect("the history has few words");
    frame.extend_from_slice(&[KIND_ACK, count]);
    frame.extend_from_slice(&largest.to_le_bytes());
    frame.extend_from_slice(&u32::try_from(held_ns).unwrap_or(u32::MAX).to_le_bytes());
    for word in words {
        frame.extend_from_slice(&word.to_le_bytes());
    }
}

pub fn encode_ping(frame: &mut Vec<u8>) {
    frame.push(KIND_PING);
}

pub fn encode_bye(frame: &mut Vec<u8>) {
    frame.push(KIND_BYE);
}

/// Packets a message of `length` bytes is cut into; even an empty one takes a packet.
pub fn packets_of(length: usize) -> u16 {
    u16::try_from(length.div_ceil(CHUNK_BYTES).max(1)).expect("a message has few packets")
}

/// Where a packet's payload lies in its message.
pub fn chunk_of(length: usize, packet: u16) -> std::ops::Range<usize> {
    let start = usize::from(packet) * CHUNK_BYTES;
    start..length.min(start + CHUNK_BYTES)
}

fn encode_part(frame: &mut Vec<u8>, kind: u8, part: &Part) {
    let mut bytes = [0; PART_HEADER_BYTES];
    bytes[0] = kind;
    bytes[1..3].copy_from_slice(&part.slot.to_le_bytes());
    bytes[3..11].copy_from_slice(&part.seq.to_le_bytes());
    bytes[11..15].copy_from_slice(&part.length.to_le_bytes());
    bytes[15..17].copy_from_slice(&part.packet.to_le_bytes());
    frame.extend_from_slice(&bytes);
    frame.extend_from_slice(part.payload);
}

/// Invariant 1: the length of the payload is not on the wire, so it cannot contradict the rest.
fn decode_part<'a>(rest: &mut &'a [u8]) -> Option<Part<'a>> {
    let slot = u16::from_le_bytes(take(rest)?);
    let seq = u64::from_le_bytes(take(rest)?);
    let length = u32::from_le_bytes(take(rest)?);
    let packet = u16::from_le_bytes(take(rest)?);
    let bytes = usize::try_from(length).ok()?;
    if usize::from(slot) >= REQUEST_SLOTS
        || seq == 0
        || bytes > MESSAGE_BYTES_MAX
        || packet >= packets_of(bytes)
    {
        return None;
    }
    let payload = take_slice(rest, chunk_of(bytes, packet).len())?;
    Some(Part { slot, seq, length, packet, payload })
}

fn decode_cast<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = u16::from_le_bytes(take(rest)?);
    take_slice(rest, usize::from(length))
}

fn decode_ack<'a>(rest: &mut &'a [u8]) -> Option<Ack<'a>> {
    let [count] = take(rest)?;
    let largest = u64::from_le_bytes(take(rest)?);
    let held_ns = u32::from_le_bytes(take(rest)?);
    let words = take_slice(rest, usize::from(count) * 8)?;
    Some(Ack { largest, held_ns, words })
}

fn decode_fields(key: u8, rest: &mut &[u8]) -> Option<Header> {
    Some(Header {
        key,
        cluster: u64::from_le_bytes(take(rest)?),
        from: endpoint_from_bytes(take(rest)?),
        to: endpoint_from_bytes(take(rest)?),
        from_incarnation: u64::from_le_bytes(take(rest)?),
        to_incarnation: u64::from_le_bytes(take(rest)?),
        generation: u32::from_le_bytes(take(rest)?),
        number: u64::from_le_bytes(take(rest)?),
        count: u64::from_le_bytes(take(rest)?),
    })
}

fn endpoint_to_bytes(endpoint: Endpoint) -> [u8; 4] {
    let ([a, b], [c, d]) = (endpoint.node.0.to_le_bytes(), endpoint.core.0.to_le_bytes());
    [a, b, c, d]
}

fn endpoint_from_bytes([a, b, c, d]: [u8; 4]) -> Endpoint {
    Endpoint { node: NodeId(u16::from_le_bytes([a, b])), core: CoreId(u16::from_le_bytes([c, d])) }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

fn take_slice<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(head)
}

const MAGIC: [u8; 2] = *b"MK";
/// Raised with every change of this file's layout, or of the cipher; frames of another version are dropped.
const VERSION: u8 = 4;

const KIND_REQUEST: u8 = 1;
const KIND_RESPONSE: u8 = 2;
const KIND_CAST: u8 = 3;
const KIND_ACK: u8 = 4;
const KIND_PING: u8 = 5;
const KIND_BYE: u8 = 6;

const KEY_AT: usize = 3;
const NUMBER_AT: usize = 40;
const COUNT_AT: usize = NUMBER_AT + 8;
pub const HEADER_BYTES: usize = COUNT_AT + 8;
const LIVES_BYTES: usize = 32;
pub const PART_HEADER_BYTES: usize = 17;
pub const CAST_HEADER_BYTES: usize = 3;
pub const ACK_HEADER_BYTES: usize = 14;
/// What a sealed frame ends in; others keep room for it.
pub const TAG_BYTES: usize = 16;
/// Words of an acknowledgement that repeats enough to survive the loss of the one before.
pub const ACK_WORDS_MIN: usize = 2;

const _: () = assert!(
    HEADER_BYTES + PART_HEADER_BYTES + CHUNK_BYTES + ACK_HEADER_BYTES + 8 * ACK_WORDS_MIN + TAG_BYTES
        <= FRAME_BYTES
);
const _: () = assert!(HEADER_BYTES + CAST_HEADER_BYTES + CAST_BYTES_MAX + TAG_BYTES <= FRAME_BYTES);
const _: () = assert!(FRAMES_REMEMBERED / 64 <= u8::MAX as usize);
const _: () = assert!(HEADER_BYTES + ACK_HEADER_BYTES + FRAMES_REMEMBERED / 8 + TAG_BYTES <= FRAME_BYTES);

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            cluster: 0x0102_0304_0506_0708,
            from: Endpoint { node: NodeId(1), core: CoreId(2) },
            to: Endpoint { node: NodeId(3), core: CoreId(4) },
            from_incarnation: 5,
            to_incarnation: 6,
            generation: 7,
            number: 0,
            key: 0,
            count: 0,
        }
    }

    /// Nodes of one cluster may run on machines of either byte order.
    #[test]
    fn header_has_the_documented_bytes() {
        let mut frame = Vec::new();
        header().encode(&mut frame);
        set_number(&mut frame, 0x0a0b);
        set_seal(&mut frame, 9, 0x0c0d);
        let expected = [
            b'M', b'K', VERSION, 9, 8, 7, 6, 5, 4, 3, 2, 1, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 0, 0, 0, 0, 0, 0,
            6, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0x0b, 0x0a, 0, 0, 0, 0, 0, 0, 0x0d, 0x0c, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(frame, expected);
        assert_eq!(
            Header::decode(&frame),
            Ok((Header { number: 0x0a0b, key: 9, count: 0x0c0d, ..header() }, &[][..]))
        );
    }

    #[test]
    fn packets_come_back_as_they_went_in() {
        let part = Part { slot: 3, seq: 9, length: 2_000, packet: 1, payload: &[7; 2_000 - CHUNK_BYTES] };
        let mut frame = Vec::new();
        encode_request(&mut frame, &part);
        encode_cast(&mut frame, b"beat");
        encode_ack(&mut frame, 77, 5_000_000_000, &[1, u64::MAX]);
        encode_ping(&mut frame);
        encode_bye(&mut frame);
        encode_response(&mut frame, &Part { length: 0, packet: 0, payload: &[], ..part });

        let mut rest = &frame[..];
        assert_eq!(Packet::decode(&mut rest), Ok(Packet::Request(part)));
        assert_eq!(Packet::decode(&mut rest), Ok(Packet::Cast(b"beat")));
        let Ok(Packet::Ack(ack)) = Packet::decode(&mut rest) else { panic!("an ack was encoded") };
        assert_eq!(
            (ack.largest, ack.held_ns, ack.words().collect::<Vec<_>>()),
            (77, u32::MAX, vec![1, u64::MAX])
        );
        assert_eq!(Packet::decode(&mut rest), Ok(Packet::Ping));
        assert_eq!(Packet::decode(&mut rest), Ok(Packet::Bye));
        let empty = Part { length: 0, packet: 0, payload: &[], ..part };
        assert_eq!(Packet::decode(&mut rest), Ok(Packet::Response(empty)));
        assert!(rest.is_empty());
    }

    /// Invariant 1: a length is refused before anybody allocates for it.
    #[test]
    fn impossible_parts_are_refused() {
        let whole = Part { slot: 0, seq: 1, length: 4, packet: 0, payload: b"abcd" };
        let too_long = u32::try_from(MESSAGE_BYTES_MAX).unwrap() + 1;
        let slot_beyond = u16::try_from(REQUEST_SLOTS).unwrap();
        let bad = [
            Part { slot: slot_beyond, ..whole },
            Part { seq: 0, ..whole },
            Part { length: too_long, ..whole },
            Part { packet: 1, ..whole },
            Part { length: 5, ..whole },
        ];
        for part in bad {
            let mut frame = Vec::new();
            encode_request(&mut frame, &part);
            assert_eq!(Packet::decode(&mut &frame[..]), Err(Ignored::BadPacket), "{part:?}");
        }
    }

    #[test]
    fn every_cut_of_a_frame_is_refused_or_shorter() {
        let mut frame = Vec::new();
        header().encode(&mut frame);
        encode_cast(&mut frame, b"beat");
        for cut in 0..frame.len() {
            match Header::decode(&frame[..cut]) {
                Err(ignored) => assert!(cut < HEADER_BYTES && ignored == Ignored::BadFrame),
                Ok((_, [])) => assert_eq!(cut, HEADER_BYTES),
                Ok((_, mut rest)) => assert_eq!(Packet::decode(&mut rest), Err(Ignored::BadPacket)),
            }
        }
    }
}
