//! One slot under the matrix of past, in-order and future packets, on both sides; and frames as a whole.
#![forbid(unsafe_code)]

use super::*;
use crate::bounds::CHUNK_BYTES;
use crate::rpc::frame::{self, Part};

/// The node under test is peer 0; peer 1 is written by hand.
struct Bench {
    rpc: Rpc,
    number: u64,
}

impl Bench {
    fn new() -> Bench {
        Bench { rpc: new_rpc(0, 5), number: 0 }
    }

    fn header(&mut self) -> Header {
        self.number += 1;
        Header {
            cluster: CLUSTER,
            from: endpoint(1),
            to: endpoint(0),
            from_incarnation: 9,
            to_incarnation: 5,
            generation: 0,
            number: self.number,
            key: 0,
            count: 0,
        }
    }

    fn receive(&mut self, header: Header, encode: impl FnOnce(&mut Vec<u8>)) -> Result<(), Ignored> {
        let mut frame = Vec::new();
        header.encode(&mut frame);
        encode(&mut frame);
        self.rpc.on_frame(NOW, &frame)
    }

    fn request(&mut self, seq: u64, length: usize, packet: u16) -> Result<(), Ignored> {
        let header = self.header();
        self.receive(header, |frame| frame::encode_request(frame, &part(seq, length, packet)))
    }

    fn response(&mut self, seq: u64, length: usize, packet: u16) -> Result<(), Ignored> {
        let header = self.header();
        self.receive(header, |frame| frame::encode_response(frame, &part(seq, length, packet)))
    }

    fn request_event(&mut self) -> Option<RequestId> {
        match self.rpc.poll_event()? {
            Event::Request { id, .. } => Some(id),
            Event::Peer { .. } => self.request_event(),
            other => panic!("{other:?}"),
        }
    }

    /// Frames the node sends now.
    fn sent(&mut self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut frame = Vec::new();
        while self.rpc.poll_tx(NOW, &mut frame).is_some() {
            frames.push(frame.clone());
        }
        frames
    }
}

const NOW: Timestamp = Timestamp(SECOND);
const PAYLOAD: [u8; CHUNK_BYTES] = [3; CHUNK_BYTES];

fn part(seq: u64, length: usize, packet: u16) -> Part<'static> {
    let payload = &PAYLOAD[..frame::chunk_of(length, packet).len()];
    Part { slot: 4, seq, length: u32::try_from(length).unwrap(), packet, payload }
}

#[test]
fn past_in_order_and_future_packets_of_a_request() {
    let mut bench = Bench::new();
    // In order: handed up.
    assert_eq!(bench.request(2, 10, 0), Ok(()));
    let second = bench.request_event().unwrap();
    // The same, while it executes: not again.
    assert_eq!(bench.request(2, 10, 0), Err(Ignored::PastPacket));
    // The use before it, which never came: it was given up.
    assert_eq!(bench.request(1, 10, 0), Err(Ignored::PastPacket));
    bench.rpc.respond(NOW, second, b"two");
    // The same, while the answer is on its way: not again, and the answer is not sent twice.
    assert_eq!(bench.request(2, 10, 0), Err(Ignored::PastPacket));
    // The future: some use further on. It acknowledges the answer.
    assert_eq!(bench.request(7, 10, 0), Ok(()));
    let seventh = bench.request_event().unwrap();
    assert_eq!(bench.rpc.sessions[0].held_bytes(), (0, 0));
    // An answer to the past is dropped; to the present it counts once.
    bench.rpc.respond(NOW, second, b"late");
    assert_eq!(bench.rpc.stats().responses_dropped, 1);
    bench.rpc.respond(NOW, seventh, b"seven");
    bench.rpc.respond(NOW, seventh, b"again");
    assert_eq!(bench.rpc.stats().responses_dropped, 2);
    assert_eq!(bench.rpc.sessions[0].held_bytes(), (5, 0));
    assert_eq!(bench.request_event(), None);
}

#[test]
fn a_newer_request_replaces_one_half_received() {
    let mut bench = Bench::new();
    assert_eq!(bench.request(1, 3 * CHUNK_BYTES, 0), Ok(()));
    assert_eq!(bench.rpc.sessions[0].held_bytes(), (0, CHUNK_BYTES));
    assert_eq!(bench.request(2, 2 * CHUNK_BYTES, 1), Ok(()));
    assert_eq!(bench.request(1, 3 * CHUNK_BYTES, 1), Err(Ignored::PastPacket));
    assert_eq!(bench.request_event(), None);
    assert_eq!(bench.request(2, 2 * CHUNK_BYTES, 0), Ok(()));
    assert!(bench.request_event().is_some());
    assert_eq!(bench.rpc.sessions[0].held_bytes(), (0, 0));
}

#[test]
fn past_in_order_and_future_packets_of_a_response() {
    let mut bench = Bench::new();
    // Peer 1 is heard of, so that the call leaves at once. Its slot is the first, not slot 4.
    let header = bench.header();
    assert_eq!(bench.receive(header, frame::encode_ping), Ok(()));
    bench.rpc.call(NOW, endpoint(1), 70, b"question").unwrap();
    let answer = |bench: &mut Bench, seq| {
        let header = bench.header();
        bench.receive(header, |frame| frame::encode_response(frame, &Part { slot: 0, ..part(seq, 10, 0) }))
    };
    // Before the request has left there can be no answer.
    assert_eq!(answer(&mut bench, 1), Err(Ignored::NeverSent));
    assert_eq!(bench.sent().len(), 1);
    // The future, and a slot never used: no answer to anything.
    assert_eq!(answer(&mut bench, 2), Err(Ignored::NeverSent));
    assert_eq!(bench.response(1, 10, 0), Err(Ignored::NeverSent));
    // In order, then the same again.
    assert_eq!(answer(&mut bench, 1), Ok(()));
    assert!(matches!(bench.rpc.poll_event(), Some(Event::Response { tag: 70, .. })));
    assert_eq!(answer(&mut bench, 1), Err(Ignored::PastPacket));
    assert_eq!(bench.rpc.poll_event(), None);
    assert_eq!(bench.rpc.sessions[0].held_bytes(), (0, 0));
}

/// The next life uses the same slots and numbers for other requests: an answer to the past, given late
/// or still waiting to be sent, would be taken for theirs.
#[test]
fn an_answer_to_a_past_life_never_reaches_the_next() {
    let mut bench = Bench::new();
    assert_eq!(bench.request(1, 10, 0), Ok(()));
    let answered = bench.request_event().unwrap();
    bench.rpc.respond(NOW, answered, b"to the past");
    let header = bench.header();
    let other_slot = Part { slot: 5, ..part(1, 10, 0) };
    assert_eq!(bench.receive(header, |frame| frame::encode_request(frame, &other_slot)), Ok(()));
    let late = bench.request_event().unwrap();

    for slot in [4, 5] {
        let header = Header { from_incarnation: 10, ..bench.header() };
        let request = Part { slot, ..part(1, 20, 0) };
        assert_eq!(bench.receive(header, |frame| frame::encode_request(frame, &request)), Ok(()));
    }
    let present = bench.request_event().unwrap();
    bench.rpc.respond(NOW, late, b"late");
    assert_eq!(bench.rpc.stats().responses_dropped, 1);
    bench.rpc.respond(NOW, present, b"present");
    assert_eq!(bench.rpc.sessions[0].held_bytes(), (b"present".len(), 0));

    let mut answers = Vec::new();
    for sent in bench.sent() {
        let (_, mut rest) = Header::decode(&sent).unwrap();
        while !rest.is_empty() {
            if let frame::Packet::Response(part) = frame::Packet::decode(&mut rest).unwrap() {
                answers.push((part.slot, part.payload.to_vec()));
            }
        }
    }
    assert_eq!(answers, [(4, b"present".to_vec())]);
}

/// What is refused for want of room must not be acknowledged: its sender would forget it.
#[test]
fn a_refused_frame_is_not_acknowledged() {
    let mut bench = Bench::new();
    let far = u16::try_from(crate::bounds::AHEAD_PACKETS_MAX + 5).unwrap();
    assert_eq!(bench.request(1, 8 * MIB, far), Err(Ignored::TooFarAhead));
    assert!(bench.sent().is_empty());
    assert_eq!(bench.rpc.deadline(), None);
    // The same frame number counts when its packets are welcome.
    bench.number -= 1;
    assert_eq!(bench.request(1, 8 * MIB, 0), Ok(()));
    assert!(bench.rpc.deadline().is_some());
    bench.number -= 1;
    assert_eq!(bench.request(1, 8 * MIB, 1), Err(Ignored::RepeatedFrame));
}

#[test]
fn frames_are_dropped_by_name() {
    let mut bench = Bench::new();
    let good = bench.header();
    let stranger = Endpoint { node: NodeId(9), core: CoreId(0) };
    let beyond = Endpoint { node: NodeId(1), core: CoreId(64) };
    let cases = [
        (Header { cluster: 1, ..good }, Ignored::OtherCluster),
        (Header { to: endpoint(1), ..good }, Ignored::OtherEndpoint),
        (Header { from: stranger, ..good }, Ignored::UnknownPeer),
        (Header { from: beyond, ..good }, Ignored::UnknownPeer),
        (Header { from_incarnation: 0, ..good }, Ignored::BadFrame),
        (Header { to_incarnation: 4, ..good }, Ignored::OtherIncarnation),
    ];
    for (header, reason) in cases {
        let outcome = bench.receive(header, |frame| frame::encode_request(frame, &part(1, 10, 0)));
        assert_eq!(outcome, Err(reason), "{header:?}");
        assert_eq!(bench.rpc.stats().ignored(reason), bench.rpc.stats().ignored(reason).max(1));
    }
    assert_eq!(bench.rpc.poll_event(), None);
    assert_eq!(bench.receive(Header { generation: 3, ..good }, frame::encode_ping), Ok(()));
    assert_eq!(
        bench.receive(Header { generation: 2, ..good }, frame::encode_ping),
        Err(Ignored::OldGeneration)
    );
    let old = Header { from_incarnation: 8, generation: 3, ..good };
    assert_eq!(bench.receive(old, frame::encode_ping), Err(Ignored::OldIncarnation));
    assert_eq!(bench.rpc.stats().ignored_total(), 8);
}

/// Else two nodes that do not know each other's lives would never get to.
#[test]
fn a_frame_for_another_life_is_answered_with_ours() {
    let mut bench = Bench::new();
    for to_incarnation in [0, 4] {
        let header = Header { to_incarnation, ..bench.header() };
        let _ = bench.receive(header, |frame| frame::encode_cast(frame, b"beat"));
        assert!(matches!(bench.rpc.poll_event(), Some(Event::Cast { .. })));
        let sent = bench.sent();
        let (answer, _) = Header::decode(&sent[0]).unwrap();
        assert_eq!((sent.len(), answer.from_incarnation, answer.to_incarnation), (1, 5, 9));
    }
    // One that knows us is not: two nodes would greet each other for ever.
    let header = Header { number: 0, ..bench.header() };
    assert_eq!(bench.receive(header, |_| ()), Ok(()));
    assert!(bench.sent().is_empty());
}
