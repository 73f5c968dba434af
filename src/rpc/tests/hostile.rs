//! Bytes no peer of ours would send: nothing panics, nothing grows, and what was not sent is not delivered.
#![forbid(unsafe_code)]

use super::*;
use crate::bounds::{CASTS_RECEIVED_MAX, CHUNK_BYTES, MESSAGE_BYTES_MAX};
use crate::rpc::frame::{self, Part};
use crate::rpc::fuzzing::header_to_us;
use proptest::prelude::*;

/// Frames of an ordinary exchange with peer 0, as peer 1 sends them.
fn ordinary_frames() -> Vec<Vec<u8>> {
    let (mut caller, mut victim) = (new_rpc(1, 1), new_rpc(0, 1));
    let (mut now, mut frame, mut frames) = (Timestamp(SECOND), Vec::new(), Vec::new());
    for tag in 0..20 {
        caller.call(now, endpoint(0), tag, &message_of(1, tag, 100 + 300 * tag as usize)).unwrap();
        victim.call(now, endpoint(1), tag, &message_of(0, tag, 50)).unwrap();
    }
    caller.cast(now, endpoint(0), b"beat");
    for _ in 0..20 {
        now = now.plus_ns(MS);
        for rpc in [&mut caller, &mut victim] {
            rpc.on_tick(now);
            while let Some(Event::Request { id, message, .. }) = rpc.poll_event() {
                rpc.respond(now, id, &message);
            }
        }
        while caller.poll_tx(now, &mut frame).is_some() {
            frames.push(frame.clone());
            let _ = victim.on_frame(now, &frame);
        }
        while victim.poll_tx(now, &mut frame).is_some() {
            let _ = caller.on_frame(now, &frame);
        }
    }
    assert!(frames.len() > 10);
    frames
}

/// A node that has called peer 1 and learnt of its life.
fn victim() -> Rpc {
    let mut rpc = new_rpc(0, 1);
    let mut frame = Vec::new();
    header().encode(&mut frame);
    rpc.on_frame(Timestamp(1), &frame).unwrap();
    for tag in 0..20 {
        rpc.call(Timestamp(1), endpoint(1), tag, &message_of(0, tag, 50)).unwrap();
    }
    while rpc.poll_tx(Timestamp(1), &mut frame).is_some() {}
    rpc
}

pub(super) fn header() -> Header {
    Header { cluster: CLUSTER, from: endpoint(1), to: endpoint(0), ..header_to_us() }
}

/// Feeds the frame, lets time pass, and answers what it takes for requests.
fn survive(rpc: &mut Rpc, now: Timestamp, frame: &[u8]) {
    let _ = rpc.on_frame(now, frame);
    rpc.on_tick(now);
    while let Some(event) = rpc.poll_event() {
        if let Event::Request { id, message, .. } = event {
            rpc.respond(now, id, &message);
        }
    }
    let mut sent = Vec::new();
    while rpc.poll_tx(now, &mut sent).is_some() {
        assert!(sent.len() <= FRAME_BYTES);
    }
    assert_bounded(rpc);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_are_ignored(bytes in proptest::collection::vec(any::<u8>(), 0..1_600)) {
        let mut rpc = victim();
        let ignored = rpc.on_frame(Timestamp(2), &bytes);
        prop_assert!(ignored.is_err());
        prop_assert_eq!(rpc.poll_event(), None);
    }

    /// Behind a good header, so that the packets are looked at.
    #[test]
    fn arbitrary_packets_do_no_harm(packets in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut rpc = victim();
        let mut frame = Vec::new();
        Header { number: 1, ..header() }.encode(&mut frame);
        frame.extend_from_slice(&packets);
        survive(&mut rpc, Timestamp(2), &frame);
    }

    /// A cut frame delivers a prefix of its messages, each whole and unchanged, or nothing.
    #[test]
    fn cut_frames_deliver_nothing_that_was_not_sent(cuts in proptest::collection::vec(0..1_473usize, 100)) {
        let mut rpc = victim();
        for (frame, cut) in ordinary_frames().iter().zip(cuts) {
            let _ = rpc.on_frame(Timestamp(2), &frame[..cut.min(frame.len())]);
            while let Some(event) = rpc.poll_event() {
                match event {
                    Event::Request { message, .. } => {
                        let tag = u64::from_le_bytes(message[..8].try_into().unwrap());
                        prop_assert_eq!(&message, &message_of(1, tag, 100 + 300 * tag as usize));
                    }
                    Event::Response { tag, message, .. } => prop_assert_eq!(message, message_of(0, tag, 50)),
                    Event::Cast { message, .. } => prop_assert_eq!(message, b"beat"),
                    Event::Failed { .. } | Event::Peer { .. } => {}
                }
            }
        }
    }

    /// Frames are not authenticated yet, so a forger can end a session; it must not end the node.
    #[test]
    fn mutated_frames_do_not_end_the_node(
        mutations in proptest::collection::vec((0..1_472usize, any::<u8>(), 0..3u32), 200),
    ) {
        let (mut rpc, mut now) = (victim(), Timestamp(2));
        let frames = ordinary_frames();
        for (round, (place, byte, spread)) in mutations.into_iter().enumerate() {
            let mut frame = frames[round % frames.len()].clone();
            // Headers of frames and of their first packets are where the decisions are.
            let place = if spread > 0 { place % 70 } else { place } % frame.len();
            frame[place] = byte;
            now = now.plus_ns(u64::from(byte) * 10 * MS);
            survive(&mut rpc, now, &frame);
        }
    }
}

/// Invariant 3: every slot claims the longest message, and sends as little of it as it can.
#[test]
fn forged_parts_cannot_exhaust_memory() {
    let mut rpc = victim();
    let payload = [0; CHUNK_BYTES];
    let mut refused = 0;
    for packet in [2_000, 1_000, 0] {
        for slot in 0..u16::try_from(REQUEST_SLOTS).unwrap() {
            let mut frame = Vec::new();
            header().encode(&mut frame);
            let length = u32::try_from(MESSAGE_BYTES_MAX).unwrap();
            frame::encode_request(&mut frame, &Part { slot, seq: 1, length, packet, payload: &payload });
            refused += u32::from(rpc.on_frame(Timestamp(2), &frame) == Err(Ignored::PartialsFull));
            assert_bounded(&rpc);
        }
    }
    assert!(refused > 400);
}

#[test]
fn casts_nobody_takes_are_dropped() {
    let mut rpc = victim();
    let mut frame = Vec::new();
    header().encode(&mut frame);
    frame::encode_cast(&mut frame, b"beat");
    for _ in 0..CASTS_RECEIVED_MAX {
        assert_eq!(rpc.on_frame(Timestamp(2), &frame), Ok(()));
    }
    assert_eq!(rpc.on_frame(Timestamp(2), &frame), Err(Ignored::CastsFull));
    assert!(rpc.poll_event().is_some());
    assert_eq!(rpc.on_frame(Timestamp(2), &frame), Ok(()));
}
