//! What a fuzzer hands the transport: frames, what follows a good header, and frames under a key.
#![forbid(unsafe_code)]

use super::frame::{self, HEADER_BYTES, Header, Packet};
use super::{Event, Keyring, Rpc, SECRET_BYTES};
use crate::bounds::{CAST_BYTES_MAX, FRAME_BYTES, MS};
use crate::types::{CoreId, Endpoint, NodeId, Timestamp};

/// What decodes is encoded to the bytes it was decoded from.
pub(crate) fn frame(bytes: &[u8]) -> bool {
    let Ok((header, mut rest)) = Header::decode(bytes) else { return false };
    let mut again = Vec::new();
    header.encode(&mut again);
    let mut decoded = true;
    while !rest.is_empty() {
        let Ok(packet) = Packet::decode(&mut rest) else {
            decoded = false;
            break;
        };
        match packet {
            Packet::Request(part) => frame::encode_request(&mut again, &part),
            Packet::Response(part) => frame::encode_response(&mut again, &part),
            Packet::Cast(message) => frame::encode_cast(&mut again, message),
            Packet::Ack(ack) => {
                let words: Vec<u64> = ack.words().collect();
                frame::encode_ack(&mut again, ack.largest, u64::from(ack.held_ns), &words);
            }
            Packet::Ping => frame::encode_ping(&mut again),
            Packet::Bye => frame::encode_bye(&mut again),
        }
    }
    assert!(bytes.starts_with(&again), "{header:?} and its packets have two encodings");
    decoded
}

/// Frames of a peer with true headers and any packets: `control 1, bytes 2, packets` each. Whether one was taken whole.
pub(crate) fn session(bytes: &[u8]) -> bool {
    let mut rpc = rpc(US);
    let (mut frame, mut taken, mut now) = (Vec::new(), false, Timestamp(1 << 40));
    let mut rest = bytes;
    while let Some((&[control, low, high], after)) = rest.split_first_chunk::<3>() {
        let wanted = usize::from(u16::from_le_bytes([low, high]));
        let (packets, after) = after.split_at(wanted.min(after.len()).min(FRAME_BYTES - HEADER_BYTES));
        rest = after;
        let header = Header {
            from_incarnation: u64::from(control & 3),
            to_incarnation: u64::from(control >> 2 & 1),
            generation: u32::from(control >> 3 & 1),
            number: u64::from(control >> 4),
            ..header_to_us()
        };
        frame.clear();
        header.encode(&mut frame);
        frame.extend_from_slice(packets);
        taken |= rpc.on_frame(now, &frame).is_ok() && !packets.is_empty();
        while let Some(event) = rpc.poll_event() {
            match event {
                Event::Request { id, message, .. } => {
                    rpc.respond(now, id, &message[..message.len() / 2]);
                    rpc.recycle(message);
                }
                Event::Response { .. } | Event::Failed { .. } => panic!("nobody was asked: {event:?}"),
                Event::Cast { message, .. } => rpc.recycle(message),
                Event::Peer { .. } => {}
            }
        }
        now = now.plus_ns(u64::from(control) * MS);
        rpc.on_tick(now);
        while rpc.poll_tx(now, &mut frame).is_some() {
            assert!(frame.len() <= FRAME_BYTES, "a frame of {} bytes", frame.len());
        }
    }
    taken
}

/// A frame made without the key is refused; one made with it brings what was put in, and with one bit changed nothing.
pub(crate) fn sealed(bytes: &[u8]) -> bool {
    let keys = Keyring::new(&[[7; SECRET_BYTES]]).expect("one key is a ring");
    let now = Timestamp(1 << 40);
    let mut forged = Vec::new();
    Header { key: keys.id(), ..header_to_us() }.encode(&mut forged);
    forged.extend_from_slice(bytes.get(..FRAME_BYTES - HEADER_BYTES).unwrap_or(bytes));
    let [mut ours, mut theirs] = [US, THEM].map(rpc);
    ours.set_keys(keys.clone(), 1);
    theirs.set_keys(keys, 2);
    for frame in [&forged[..], bytes] {
        assert!(ours.on_frame(now, frame).is_err(), "a frame was opened that nobody has sealed");
    }
    let message = bytes.get(..CAST_BYTES_MAX).unwrap_or(bytes);
    theirs.cast(now, US, message);
    let mut frame = Vec::new();
    while theirs.poll_tx(now, &mut frame).is_some() {
        let mut changed = frame.clone();
        let sum = crc32c::crc32c(message) as usize;
        let bit = sum % (frame.len() * 8);
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(ours.on_frame(now, &changed).is_err(), "bit {bit} was changed");
        assert_eq!(ours.on_frame(now, &frame), Ok(()));
    }
    match ours.poll_event() {
        Some(Event::Cast { message: arrived, .. }) => assert_eq!(arrived, message),
        other => panic!("{other:?} in place of a cast"),
    }
    true
}

pub(crate) fn frame_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for packets in packets() {
        let mut frame = Vec::new();
        header_to_us().encode(&mut frame);
        frame.extend_from_slice(&packets);
        seeds.push(frame);
    }
    seeds
}

pub(crate) fn session_seeds() -> Vec<Vec<u8>> {
    let mut seed = Vec::new();
    for (number, packets) in (1..).zip(packets()) {
        let length = u16::try_from(packets.len()).expect("it fits a frame");
        seed.push(0b0101 | number << 4);
        seed.extend_from_slice(&length.to_le_bytes());
        seed.extend_from_slice(&packets);
    }
    vec![seed]
}

/// One of each kind, and all of them.
fn packets() -> Vec<Vec<u8>> {
    let part = frame::Part { slot: 1, seq: 1, length: 5, packet: 0, payload: b"hello" };
    let mut kinds = vec![Vec::new(); 6];
    frame::encode_request(&mut kinds[0], &part);
    frame::encode_response(&mut kinds[1], &part);
    frame::encode_cast(&mut kinds[2], b"beat");
    frame::encode_ack(&mut kinds[3], 1, 7, &[1, u64::MAX]);
    frame::encode_ping(&mut kinds[4]);
    frame::encode_bye(&mut kinds[5]);
    kinds.push(kinds.concat());
    kinds
}

pub(super) fn header_to_us() -> Header {
    Header {
        cluster: 7,
        from: THEM,
        to: US,
        from_incarnation: 1,
        to_incarnation: 1,
        generation: 0,
        number: 0,
        key: 0,
        count: 0,
    }
}

fn rpc(local: Endpoint) -> Rpc {
    Rpc::new(local, 7, 1, 2)
}

const US: Endpoint = Endpoint { node: NodeId(0), core: CoreId(0) };
const THEM: Endpoint = Endpoint { node: NodeId(1), core: CoreId(0) };
