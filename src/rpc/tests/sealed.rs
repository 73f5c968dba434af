//! Frames under keys: who does not have them gets nothing in, whatever it has seen of others.
#![forbid(unsafe_code)]

use super::*;
use crate::bounds::HELLOS_PER_MS;

fn ring(secrets: &[u8]) -> Keyring {
    let secrets: Vec<_> = secrets.iter().map(|byte| [*byte; SECRET_BYTES]).collect();
    Keyring::new(&secrets).unwrap()
}

fn pair(left: &[u8], right: &[u8]) -> [Rpc; 2] {
    [keyed(new_rpc(0, 1), Some(&ring(left)), 50), keyed(new_rpc(1, 1), Some(&ring(right)), 9)]
}

/// Frames are carried to and fro for some milliseconds; those that were, by sender. Requests are answered with
/// themselves.
fn talk(rpcs: &mut [Rpc; 2], from: Timestamp, milliseconds: u64) -> [Vec<Vec<u8>>; 2] {
    let (mut frame, mut frames) = (Vec::new(), [Vec::new(), Vec::new()]);
    for now in (0..milliseconds).map(|ms| from.plus_ns(ms * MS)) {
        for sender in [0, 1] {
            rpcs[sender].on_tick(now);
            while rpcs[sender].poll_tx(now, &mut frame).is_some() {
                frames[sender].push(frame.clone());
                let _ = rpcs[1 - sender].on_frame(now, &frame);
            }
        }
        for rpc in rpcs.iter_mut() {
            let mut requests = Vec::new();
            while let Some(event) = rpc.poll_event() {
                if let Event::Request { id, message, .. } = event {
                    requests.push((id, message));
                }
            }
            requests.into_iter().for_each(|(id, message)| rpc.respond(now, id, &message));
        }
    }
    frames
}

fn responses(rpcs: &[Rpc; 2]) -> [u64; 2] {
    [rpcs[0].stats().responses, rpcs[1].stats().responses]
}

const START: Timestamp = Timestamp(SECOND);
const SECRET: &[u8] = b"a message that nobody else is to read";

#[test]
fn who_has_the_key_is_heard_and_nobody_else_reads_it() {
    let mut rpcs = pair(&[1], &[1]);
    rpcs[0].call(START, endpoint(1), 1, SECRET).unwrap();
    rpcs[1].call(START, endpoint(0), 2, SECRET).unwrap();
    let frames = talk(&mut rpcs, START, 20);
    assert_eq!(responses(&rpcs), [1, 1]);
    for frame in frames.iter().flatten() {
        assert!(!frame.windows(8).any(|bytes| SECRET.windows(8).any(|secret| secret == bytes)));
    }
}

/// Keys differ, or one of the two has none: in either direction nothing gets past the first frame.
#[test]
fn who_has_another_key_or_none_is_not_heard_and_is_named() {
    let open = |peer| new_rpc(peer, 1);
    let sealed = |peer, byte| keyed(new_rpc(peer, 1), Some(&ring(&[byte])), 3);
    for mut rpcs in [[sealed(0, 1), sealed(1, 2)], [sealed(0, 1), open(1)], [open(0), sealed(1, 1)]] {
        let are_sealed = [rpcs[0].shared.watch.is_some(), rpcs[1].shared.watch.is_some()];
        rpcs[0].call(START, endpoint(1), 1, SECRET).unwrap();
        rpcs[1].call(START, endpoint(0), 2, SECRET).unwrap();
        rpcs[0].cast(START, endpoint(1), SECRET);
        rpcs[1].cast(START, endpoint(0), SECRET);
        let frames = talk(&mut rpcs, START, 50);
        assert!(frames.iter().all(|frames| !frames.is_empty()));
        for (at, rpc) in rpcs.iter().enumerate() {
            let stats = rpc.stats();
            assert_eq!((stats.requests, stats.responses, stats.peer_restarts), (0, 0, 0));
            assert_eq!(rpc.sessions[0].rtt_ns(), None);
            let refused: Vec<_> = stats.refused().collect();
            let peer = endpoint(1 - at).node;
            assert_eq!(refused, [(peer, stats.frames_received)]);
            assert_eq!(stats.refused_total(), stats.frames_received);
            assert!(are_sealed[at] || stats.ignored(Ignored::UnknownKey) == stats.frames_received);
        }
    }
}

/// A key is replaced node by node while the cluster runs: first all know the new one, then all use it, then the old one
/// goes.
#[test]
fn a_key_is_replaced_step_by_step_and_all_hear_all() {
    let steps: [&[u8]; 4] = [&[1], &[1, 2], &[2, 1], &[2]];
    for (before, after) in steps.iter().zip(&steps[1..]) {
        let mut rpcs = pair(before, after);
        rpcs[0].call(START, endpoint(1), 1, SECRET).unwrap();
        rpcs[1].call(START, endpoint(0), 2, SECRET).unwrap();
        talk(&mut rpcs, START, 20);
        assert_eq!(responses(&rpcs), [1, 1], "{before:?} to {after:?}");
    }
}

/// A bit of the header or of the rest: a frame that is not what was sent is nothing.
#[test]
fn a_frame_with_one_bit_changed_is_refused_and_the_true_one_is_still_taken() {
    let mut rpcs = pair(&[1], &[1]);
    talk(&mut rpcs, START, 1);
    rpcs[0].call(START, endpoint(1), 1, SECRET).unwrap();
    talk(&mut rpcs, START, 20);
    let now = START.plus_ns(20 * MS);
    rpcs[0].call(now, endpoint(1), 2, SECRET).unwrap();
    let mut frame = Vec::new();
    rpcs[0].poll_tx(now, &mut frame).unwrap();
    let before = rpcs[1].stats().requests;
    for bit in 0..8 * frame.len() {
        let mut bent = frame.clone();
        bent[bit / 8] ^= 1 << (bit % 8);
        // Some bits make it a frame of other lives, of which only so many are looked at.
        let later = now.plus_ns(bit as u64 * MS);
        assert!(rpcs[1].on_frame(later, &bent).is_err(), "bit {bit}");
        assert_eq!(rpcs[1].poll_event(), None);
    }
    assert!(rpcs[1].stats().ignored(Ignored::NotAuthentic) > 8 * SECRET.len() as u64);
    rpcs[1].on_frame(now, &frame).unwrap();
    assert_eq!(rpcs[1].stats().requests, before + 1);
}

/// Whoever records frames and sends them again, in any order and as often as it likes, changes nothing.
#[test]
fn recorded_frames_are_refused_when_they_come_again() {
    let mut rpcs = pair(&[1], &[1]);
    let mut recorded = Vec::new();
    for tag in 0..40 {
        let now = START.plus_ns(tag * 10 * MS);
        rpcs[0].call(now, endpoint(1), tag, &message_of(0, tag, 3_000)).unwrap();
        rpcs[0].cast(now, endpoint(1), SECRET);
        recorded.extend(talk(&mut rpcs, now, 10)[0].clone());
    }
    let mut prng = Prng::with_seed(5);
    let requests = rpcs[1].stats().requests;
    let names_life = |frame: &[u8]| Header::decode(frame).unwrap().0.to_incarnation == 1;
    let bound: Vec<_> = recorded.into_iter().filter(|frame| names_life(frame)).collect();
    assert!(bound.len() > 100);
    for _ in 0..3_000 {
        let frame = &bound[prng.usize(..bound.len())];
        let refused = rpcs[1].on_frame(START.plus_ns(SECOND), frame).unwrap_err();
        assert_eq!(refused, Ignored::ReplayedFrame);
        assert_eq!(rpcs[1].poll_event(), None);
    }
    assert_eq!(rpcs[1].stats().requests, requests);

    // Nor after a restart: they name the life before.
    rpcs[1] = keyed(new_rpc(1, 2), Some(&ring(&[1])), 77);
    for (at, frame) in bound.iter().enumerate() {
        let now = START.plus_ns(2 * SECOND + at as u64 * MS);
        let _ = rpcs[1].on_frame(now, frame);
        let event = rpcs[1].poll_event();
        assert!(matches!(event, None | Some(Event::Cast { .. })), "{event:?}");
    }
}

/// Frames of lives that nobody leads cost a bounded part of a core's time, and no memory; who was known is still heard.
#[test]
fn a_million_forged_handshakes_are_refused_and_cost_little() {
    let mut rpcs = pair(&[1], &[1]);
    rpcs[0].call(START, endpoint(1), 1, SECRET).unwrap();
    talk(&mut rpcs, START, 20);
    let key = ring(&[1]).id();
    let mut frame = Vec::new();
    for life in 2..1_000_002 {
        frame.clear();
        Header { from_incarnation: life, to_incarnation: 0, key, count: life, ..hostile::header() }
            .encode(&mut frame);
        frame.extend_from_slice(&[0; 40]);
        let now = START.plus_ns(SECOND + life * US);
        let refused = rpcs[0].on_frame(now, &frame).unwrap_err();
        assert!(matches!(refused, Ignored::NotAuthentic | Ignored::HellosFull), "{refused:?}");
    }
    let looked_at = rpcs[0].stats().ignored(Ignored::NotAuthentic);
    assert!(looked_at > 0 && looked_at <= 1_001 * u64::from(HELLOS_PER_MS), "{looked_at}");
    assert_eq!(rpcs[0].sessions.len(), 1);
    let now = START.plus_ns(3 * SECOND);
    rpcs[0].call(now, endpoint(1), 2, SECRET).unwrap();
    talk(&mut rpcs, now, 20);
    assert_eq!(responses(&rpcs)[0], 2);
}

/// From an endpoint that was never heard, a forged frame makes no session.
#[test]
fn a_stranger_makes_no_session() {
    let mut rpc = keyed(new_rpc(0, 1), Some(&ring(&[1])), 5);
    let mut frame = Vec::new();
    Header { key: ring(&[1]).id(), count: 1, ..hostile::header() }.encode(&mut frame);
    frame.extend_from_slice(&[0; 40]);
    assert_eq!(rpc.on_frame(START, &frame), Err(Ignored::NotAuthentic));
    assert!(rpc.sessions.is_empty());
    let mut friend = keyed(new_rpc(1, 1), Some(&ring(&[1])), 5);
    friend.cast(START, endpoint(0), SECRET);
    friend.poll_tx(START, &mut frame).unwrap();
    rpc.on_frame(START, &frame).unwrap();
    assert_eq!(rpc.sessions.len(), 1);
}

/// A disk that was copied leads the same life twice: the frames of the two must differ in what is sealed alike.
#[test]
fn the_same_life_led_twice_seals_differently() {
    let frame_of = |seed| {
        let mut rpc = keyed(new_rpc(0, 1), Some(&ring(&[1])), seed);
        let mut frame = Vec::new();
        rpc.cast(START, endpoint(1), SECRET);
        rpc.poll_tx(START, &mut frame).unwrap();
        frame
    };
    assert_eq!(frame_of(4), frame_of(4));
    assert_ne!(frame_of(4)[60..], frame_of(1 << 40)[60..]);
}
