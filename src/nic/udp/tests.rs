//! UDP over loopback: the suite, the errors of sockets, and sessions end to end.
#![forbid(unsafe_code)]

use super::*;
use crate::bounds::{FRAME_BYTES, MS, SECOND};
use crate::nic::suite::{self, LEFT, RIGHT};
use crate::nic::wan::{Link, Wan};
use crate::rpc::{Event, Rpc};
use crate::types::Prng;

fn pair(address: &str) -> (Udp, Udp) {
    let address: SocketAddr = address.parse().unwrap();
    let mut left = Udp::bind(address, &[]).unwrap();
    let right = Udp::bind(address, &[(LEFT, left.local_address().unwrap())]).unwrap();
    left.set_peer(RIGHT, right.local_address().unwrap()).unwrap();
    (left, right)
}

#[test]
fn udp_passes_the_suite() {
    suite::assert_passes(|| pair("127.0.0.1:0"));
}

/// What the kernel of the one cannot do, that of the other must not rely on.
#[test]
fn udp_without_trains_at_either_end_passes_the_suite() {
    for (left_forgoes, right_forgoes) in [(true, true), (true, false), (false, true)] {
        suite::assert_passes(|| {
            let (mut left, mut right) = pair("127.0.0.1:0");
            if left_forgoes {
                left.forgo_trains();
            }
            if right_forgoes {
                right.forgo_trains();
            }
            (left, right)
        });
    }
}

/// Frames of these lengths, all at once.
fn pass(left: &mut Udp, right: &mut Udp, lengths: &[usize]) {
    for (byte, length) in (0..).zip(lengths) {
        assert!(left.tx_push(Timestamp(0), RIGHT, &vec![byte; *length]));
    }
    assert_eq!(left.tx_flush(Timestamp(0)), 0);
    let mut frames = Vec::new();
    for _ in 0..1_000 {
        let came = right.rx_burst(8, &mut |frame| frames.push(frame.to_vec()));
        if frames.len() == lengths.len() {
            break;
        }
        if came == 0 {
            wait_readable(right.wake().fd.unwrap(), 10);
        }
    }
    let mut sent: Vec<Vec<u8>> = (0..).zip(lengths).map(|(byte, length)| vec![byte; *length]).collect();
    frames.sort_unstable();
    sent.sort_unstable();
    assert!(frames == sent, "{} frames came of {}", frames.len(), sent.len());
}

/// A train that were cut in other places than it was joined would hand up frames of no meaning.
#[test]
fn trains_of_any_lengths_arrive_as_the_frames_they_were() {
    let mut prng = Prng::with_seed(1);
    let (mut left, mut right) = pair("127.0.0.1:0");
    let full = [FRAME_BYTES; 100];
    pass(&mut left, &mut right, &full);
    if left.sends_trains {
        assert_eq!((left.stats().sent_in_trains, left.stats().trains_refused), (100, 0));
        assert!(right.stats().received_in_trains >= 98, "{:?}", right.stats());
    }
    for _ in 0..200 {
        let some = [0, 1, 99, 100, 101, FRAME_BYTES - 1, FRAME_BYTES];
        let lengths: Vec<usize> = (0..prng.usize(1..200)).map(|_| some[prng.usize(0..some.len())]).collect();
        pass(&mut left, &mut right, &lengths);
        let alike = [some[prng.usize(0..some.len())]; 150];
        pass(&mut left, &mut right, &alike[..prng.usize(1..150)]);
    }
    assert_eq!(left.stats().frames_sent, right.stats().frames_received);
}

/// A device, a path or a kernel that will not cut trains must cost throughput, never the frames.
#[test]
fn refused_trains_leave_as_single_frames_and_are_counted() {
    let (mut left, mut right) = pair("127.0.0.1:0");
    options::forgo_checksums(&left.socket).unwrap();
    pass(&mut left, &mut right, &[1_000; 20]);
    pass(&mut left, &mut right, &[500; 200]);
    assert_eq!((left.stats().trains_refused, left.stats().sent_in_trains), (1, 0));
    assert_eq!((left.stats().frames_sent, left.stats().undeliverable), (220, 0));
}

#[test]
fn udp_behind_an_emulated_link_passes_the_suite() {
    let link = Link { delay_ns: 2 * MS, jitter_ns: MS, loss: 0.0 };
    let wan = |nic| Wan::new(nic, vec![link; 2], Prng::with_seed(1));
    suite::assert_passes(|| {
        let (left, right) = pair("127.0.0.1:0");
        (wan(left), wan(right))
    });
}

#[test]
fn an_address_in_use_is_refused_by_name() {
    let first = Udp::bind("127.0.0.1:0".parse().unwrap(), &[]).unwrap();
    let taken = first.local_address().unwrap();
    let second = Udp::bind(taken, &[]).err();
    assert!(matches!(second, Some(NicError::AddressInUse { address }) if address == taken), "{second:?}");
    assert!(second.unwrap().to_string().contains(&taken.to_string()));
}

#[test]
fn an_address_of_another_machine_is_refused_by_name() {
    let elsewhere = "192.0.2.1:7400".parse().unwrap();
    assert!(matches!(Udp::bind(elsewhere, &[]), Err(NicError::AddressNotLocal { .. })));
    let near = Udp::bind("127.0.0.1:0".parse().unwrap(), &[(LEFT, "[::1]:1".parse().unwrap())]);
    assert!(matches!(near, Err(NicError::OtherFamily { .. })));
}

/// Whatever else sends to our port must not reach the parser as a frame cut in half.
#[test]
fn a_datagram_too_long_is_dropped_and_counted() {
    let (mut left, _right) = pair("127.0.0.1:0");
    let stranger = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    stranger.send_to(&[1; FRAME_BYTES + 1], left.local_address().unwrap()).unwrap();
    stranger.send_to(&[2; FRAME_BYTES], left.local_address().unwrap()).unwrap();
    let mut frames = Vec::new();
    for _ in 0..1_000 {
        left.rx_burst(8, &mut |frame| frames.push(frame.to_vec()));
        if !frames.is_empty() {
            break;
        }
        wait_readable(left.wake().fd.unwrap(), 10);
    }
    assert_eq!(frames, [[2; FRAME_BYTES]]);
    assert_eq!(left.stats().truncated, 1);
}

/// Nodes start one after the other: those not there yet must not stop those that are.
#[test]
fn frames_to_a_peer_that_does_not_listen_hold_up_nothing() {
    let (mut left, right) = pair("127.0.0.1:0");
    drop(right);
    for _ in 0..10 {
        assert!(left.tx_push(Timestamp(0), RIGHT, b"anyone?"));
        assert_eq!(left.tx_flush(Timestamp(0)), 0);
        left.rx_burst(8, &mut |_| panic!("nobody is there"));
    }
}

fn turn(nic: &mut impl Nic, rpc: &mut Rpc, now: Timestamp, done: &mut Vec<(u64, Vec<u8>)>) -> usize {
    let received = nic.rx_burst(128, &mut |frame| {
        let _ = rpc.on_frame(now, frame);
    });
    rpc.on_tick(now);
    while let Some(event) = rpc.poll_event() {
        match event {
            Event::Request { id, mut message, .. } => {
                message.reverse();
                rpc.respond(now, id, &message);
                rpc.recycle(message);
            }
            Event::Response { tag, message, .. } => done.push((tag, message)),
            Event::Cast { .. } | Event::Failed { .. } | Event::Peer { .. } => panic!("{event:?}"),
        }
    }
    let mut frame = Vec::new();
    while let Some(to) = rpc.poll_tx(now, &mut frame) {
        while !nic.tx_push(now, to, &frame) {
            assert_eq!(nic.tx_flush(now), 0, "loopback takes all at once");
        }
    }
    nic.tx_flush(now);
    received
}

fn call_end_to_end<N: Nic>(mut left: N, mut right: N) {
    let mut rpcs = [Rpc::new(LEFT, 7, 1, 2), Rpc::new(RIGHT, 7, 1, 2)];
    let mut now = Timestamp(SECOND);
    let messages: Vec<Vec<u8>> =
        (0..300u32).map(|tag| vec![tag as u8; tag as usize * 501 % 70_000]).collect();
    for (tag, message) in (0u64..).zip(&messages) {
        let message: Vec<u8> = message.iter().copied().chain([1]).collect();
        rpcs[0].call(now, RIGHT, tag, &message).unwrap();
    }
    let mut done = Vec::new();
    for _ in 0..100_000 {
        let received = turn(&mut left, &mut rpcs[0], now, &mut done)
            + turn(&mut right, &mut rpcs[1], now, &mut Vec::new());
        if done.len() == messages.len() {
            break;
        }
        // Time is the turn's, so that a slow machine times nothing out.
        now = now.plus_ns(MS / 20);
        if received == 0 {
            now = now.plus_ns(MS / 2);
            wait_readable(right.wake().fd.unwrap(), 0);
        }
    }
    done.sort_unstable();
    assert_eq!(done.len(), messages.len());
    for ((tag, answer), message) in done.iter().zip(&messages) {
        assert!(answer[0] == 1 && answer[1..] == message[..], "call {tag} came back changed");
    }
}

#[test]
fn sessions_work_end_to_end() {
    let (left, right) = pair("127.0.0.1:0");
    call_end_to_end(left, right);
}

#[test]
fn sessions_work_end_to_end_over_a_bad_link() {
    let link = Link { delay_ns: 5 * MS, jitter_ns: 2 * MS, loss: 0.05 };
    let (left, right) = pair("127.0.0.1:0");
    let wan = |nic, seed| Wan::new(nic, vec![link; 2], Prng::with_seed(seed));
    call_end_to_end(wan(left, 1), wan(right, 2));
}
