//! Every kind of packet, from the past, in order and from the future, to a session that is fresh, established, or whose
//! peer has restarted.
//!
//! What is past and what is future:
//!
//! | session | past | in order | future |
//! |---|---|---|---|
//! | fresh | meant for a life of ours before this one | the first | far ahead of the first |
//! | established | come before | the next | far ahead of the next |
//! | restarted | of the life of the peer before this one | the first of the new life | far ahead of it |
//!
//! Ahead are a request or response by its use of the slot, an acknowledgement by the frame it names, and all others by
//! the number of their frame.
#![forbid(unsafe_code)]

use super::*;
use crate::rpc::frame::{self, Part};
use Ignored::{NeverSent, OldIncarnation, OtherIncarnation, PastPacket, RepeatedFrame};
use Kind::{Ack, Bye, Cast, Ping, Request, Response};
use Seen::{Answer, Message, News as Told, Nothing, Question};
use State::{Established, Fresh, Restarted};
use When::{Future, InOrder, Past};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Request,
    Response,
    Cast,
    Ack,
    Ping,
    Bye,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum When {
    Past,
    InOrder,
    Future,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Fresh,
    Established,
    Restarted,
}

/// What the caller is given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Seen {
    Nothing,
    Question,
    Answer,
    Message,
    News(News),
}

type Outcome = (Result<(), Ignored>, Seen);

const TAKEN: Outcome = (Ok(()), Nothing);
const OLD: Outcome = (Err(OldIncarnation), Nothing);
const STRAY: Outcome = (Err(OtherIncarnation), Nothing);
const AGAIN: Outcome = (Err(RepeatedFrame), Nothing);
const UNASKED: Outcome = (Err(NeverSent), Nothing);
const LEFT: Outcome = (Ok(()), Told(News::Left));

/// Past, in order, future.
const TABLE: [(Kind, State, [Outcome; 3]); 18] = [
    (Request, Fresh, [STRAY, (Ok(()), Question), (Ok(()), Question)]),
    (Request, Established, [(Err(PastPacket), Nothing), (Ok(()), Question), (Ok(()), Question)]),
    (Request, Restarted, [OLD, (Ok(()), Question), (Ok(()), Question)]),
    (Response, Fresh, [STRAY, UNASKED, UNASKED]),
    (Response, Established, [(Err(PastPacket), Nothing), (Ok(()), Answer), UNASKED]),
    // The call went to the life before and has failed: nothing was asked of this one.
    (Response, Restarted, [OLD, (Err(PastPacket), Nothing), UNASKED]),
    // A cast may be lost and come late, so it may also come to another life.
    (Cast, Fresh, [(Err(OtherIncarnation), Message), (Ok(()), Message), (Ok(()), Message)]),
    (Cast, Established, [AGAIN, (Ok(()), Message), (Ok(()), Message)]),
    (Cast, Restarted, [OLD, (Ok(()), Message), (Ok(()), Message)]),
    (Ack, Fresh, [STRAY, UNASKED, UNASKED]),
    (Ack, Established, [TAKEN, TAKEN, UNASKED]),
    // Numbers of frames go on, so what the new life has not received is known, and known to be void.
    (Ack, Restarted, [OLD, TAKEN, UNASKED]),
    (Ping, Fresh, [STRAY, TAKEN, TAKEN]),
    (Ping, Established, [AGAIN, TAKEN, TAKEN]),
    (Ping, Restarted, [OLD, TAKEN, TAKEN]),
    (Bye, Fresh, [STRAY, LEFT, LEFT]),
    (Bye, Established, [AGAIN, LEFT, LEFT]),
    (Bye, Restarted, [OLD, LEFT, LEFT]),
];

/// The node under test is peer 0 in its life 5, and peer 1 is written by hand.
struct Bench {
    rpc: Rpc,
    life: u64,
    /// Of the last frame of the peer, and of ours.
    number: u64,
    sent: u64,
}

impl Bench {
    fn new(state: State) -> Bench {
        let mut bench = Bench { rpc: new_rpc(0, 5), life: 9, number: 0, sent: 0 };
        if state == Fresh {
            return bench;
        }
        // Two calls of ours, of which the first is answered; and two of the peer, both answered.
        bench.next(frame::encode_ping).unwrap();
        for tag in [70, 71] {
            bench.rpc.call(NOW, endpoint(1), tag, b"question").unwrap();
            bench.send();
            if tag == 70 {
                bench.next(|frame| frame::encode_response(frame, &part(0, 1))).unwrap();
                assert!(matches!(bench.rpc.poll_event(), Some(Event::Response { tag: 70, .. })));
            }
        }
        for seq in [1, 2] {
            bench.next(|frame| frame::encode_request(frame, &part(4, seq))).unwrap();
            let Some(Event::Request { id, .. }) = bench.rpc.poll_event() else {
                panic!("a request was sent")
            };
            bench.rpc.respond(NOW, id, b"answer");
            bench.send();
        }
        bench.next(|frame| frame::encode_ack(frame, 1, 0, &[1])).unwrap();
        if state == Restarted {
            (bench.life, bench.number) = (10, 0);
            bench.next(frame::encode_ping).unwrap();
            while bench.rpc.poll_event().is_some() {}
        }
        bench
    }

    fn send(&mut self) {
        let mut frame = Vec::new();
        while self.rpc.poll_tx(NOW, &mut frame).is_some() {
            self.sent = self.sent.max(Header::decode(&frame).unwrap().0.number);
        }
    }

    fn next(&mut self, encode: impl FnOnce(&mut Vec<u8>)) -> Result<(), Ignored> {
        self.number += 1;
        self.hear(Header { number: self.number, from_incarnation: self.life, ..header() }, encode)
    }

    fn hear(&mut self, header: Header, encode: impl FnOnce(&mut Vec<u8>)) -> Result<(), Ignored> {
        let mut frame = Vec::new();
        header.encode(&mut frame);
        encode(&mut frame);
        self.rpc.on_frame(NOW, &frame)
    }

    /// What becomes of such a packet.
    fn outcome(mut self, kind: Kind, state: State, when: When) -> Outcome {
        let number = match (state, when, kind) {
            // A frame of its own: that the packet is past must be seen by the packet.
            (Established, Past, Request | Response | Ack) | (_, InOrder, _) => self.number + 1,
            (Established, Past, _) => self.number,
            (_, Past, _) => 1,
            (_, Future, _) => self.number + 500,
        };
        let header = match (state, when) {
            (Fresh, Past) => Header { from_incarnation: 9, to_incarnation: 4, number, ..header() },
            (Restarted, Past) => Header { from_incarnation: 9, number, ..header() },
            _ => Header { from_incarnation: self.life, number, ..header() },
        };
        let is_established = state == Established;
        let request = match when {
            Past => {
                if is_established {
                    2
                } else {
                    1
                }
            }
            InOrder => {
                if is_established {
                    3
                } else {
                    1
                }
            }
            Future => 50,
        };
        // The slot of the second call is that of the first.
        let response = match when {
            Past => 1,
            InOrder => {
                if state == Fresh {
                    1
                } else {
                    2
                }
            }
            Future => 50,
        };
        let acked = match when {
            Past => 1,
            InOrder => self.sent.max(1),
            Future => self.sent + 50,
        };
        let result = self.hear(header, |frame| match kind {
            Request => frame::encode_request(frame, &part(4, request)),
            Response => frame::encode_response(frame, &part(0, response)),
            Cast => frame::encode_cast(frame, b"beat"),
            Ack => frame::encode_ack(frame, acked, 0, &[1]),
            Ping => frame::encode_ping(frame),
            Bye => frame::encode_bye(frame),
        });
        let seen = match self.rpc.poll_event() {
            None => Nothing,
            Some(Event::Request { .. }) => Question,
            Some(Event::Response { tag: 71, .. }) => Answer,
            Some(Event::Cast { .. }) => Message,
            Some(Event::Peer { news, .. }) => Told(news),
            Some(other) => panic!("{other:?}"),
        };
        (result, seen)
    }
}

fn header() -> Header {
    Header { to_incarnation: 5, ..hostile::header() }
}

fn part(slot: u16, seq: u64) -> Part<'static> {
    Part { slot, seq, length: 4, packet: 0, payload: b"part" }
}

const NOW: Timestamp = Timestamp(SECOND);

#[test]
fn every_packet_is_taken_in_its_time_and_place_only() {
    for (kind, state, outcomes) in TABLE {
        for (when, expected) in [Past, InOrder, Future].into_iter().zip(outcomes) {
            let outcome = Bench::new(state).outcome(kind, state, when);
            assert_eq!(outcome, expected, "{kind:?} {state:?} {when:?}");
        }
    }
}

/// Whatever came first, a second copy of it changes nothing.
#[test]
fn every_packet_that_comes_again_is_ignored() {
    for (kind, state, _) in TABLE {
        let mut bench = Bench::new(state);
        let number = bench.number + 1;
        let header = Header { from_incarnation: bench.life, number, ..header() };
        let encode = |frame: &mut Vec<u8>| match kind {
            Request => frame::encode_request(frame, &part(4, 9)),
            Response => frame::encode_response(frame, &part(0, 2)),
            Cast => frame::encode_cast(frame, b"beat"),
            Ack => frame::encode_ack(frame, 1, 0, &[1]),
            Ping => frame::encode_ping(frame),
            Bye => frame::encode_bye(frame),
        };
        let _ = bench.hear(header, encode);
        while bench.rpc.poll_event().is_some() {}
        assert!(bench.hear(header, encode).is_err(), "{kind:?} {state:?}");
        assert_eq!(bench.rpc.poll_event(), None, "{kind:?} {state:?}");
    }
}
