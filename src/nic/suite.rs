//! What every back end must do: one suite, run over each.
//!
//! It does not demand order, nor that nothing is lost under load; it sends little at a time instead.
#![forbid(unsafe_code)]

use super::Nic;
use super::udp::wait_readable;
use crate::bounds::{FRAME_BYTES, MS, RX_BURST, SECOND};
use crate::types::{CoreId, Endpoint, NodeId, Prng, Timestamp};

pub const LEFT: Endpoint = Endpoint { node: NodeId(0), core: CoreId(0) };
pub const RIGHT: Endpoint = Endpoint { node: NodeId(1), core: CoreId(2) };
const NOBODY: Endpoint = Endpoint { node: NodeId(7), core: CoreId(0) };

/// `make` makes the NICs of [`LEFT`] and [`RIGHT`], which reach each other and not [`NOBODY`].
pub fn assert_passes<N: Nic>(make: impl Fn() -> (N, N)) {
    frames_of_every_size_arrive_intact(make());
    frames_go_both_ways(make());
    a_burst_is_limited_and_the_rest_stays(make());
    a_full_queue_says_so_and_empties(make());
    frames_to_nobody_are_counted_and_hold_up_nothing(make());
}

fn frames_of_every_size_arrive_intact<N: Nic>((mut left, mut right): (N, N)) {
    let mut prng = Prng::with_seed(1);
    let mut now = Timestamp(SECOND);
    let sizes: Vec<usize> =
        (0..FRAME_BYTES).step_by(13).chain([1, 2, FRAME_BYTES - 1, FRAME_BYTES]).collect();
    for sizes in sizes.chunks(16) {
        let frames: Vec<Vec<u8>> =
            sizes.iter().map(|size| (0..*size).map(|_| prng.u8(..)).collect()).collect();
        exchange(&mut left, &mut right, RIGHT, &mut now, frames);
    }
    assert_eq!(left.stats().frames_sent, right.stats().frames_received);
}

fn frames_go_both_ways<N: Nic>((mut left, mut right): (N, N)) {
    let mut now = Timestamp(SECOND);
    for round in 0..10u8 {
        exchange(&mut left, &mut right, RIGHT, &mut now, vec![vec![round; 100]]);
        exchange(&mut right, &mut left, LEFT, &mut now, vec![vec![round; 200]; 3]);
    }
}

fn a_burst_is_limited_and_the_rest_stays<N: Nic>((mut left, mut right): (N, N)) {
    let mut now = Timestamp(SECOND);
    assert_eq!(right.rx_burst(RX_BURST, &mut |_| panic!("nothing was sent")), 0);
    for byte in 0..5u8 {
        assert!(left.tx_push(now, RIGHT, &[byte]));
    }
    let mut bursts = Vec::new();
    let mut bytes = Vec::new();
    receive(&mut left, &mut right, &mut now, 2, 5, &mut |frame, burst| {
        bytes.extend_from_slice(frame);
        bursts.push(burst);
    });
    bytes.sort_unstable();
    assert_eq!(bytes, [0, 1, 2, 3, 4]);
    assert!(bursts.iter().all(|burst| *burst <= 2));
}

/// An emulated link drops and counts instead, as a router does.
fn a_full_queue_says_so_and_empties<N: Nic>((mut left, mut right): (N, N)) {
    let mut now = Timestamp(SECOND);
    let full = (0..PUSHES_MAX).find(|_| !left.tx_push(now, RIGHT, b"frame") || left.stats().overflowed > 0);
    assert!(full.is_some_and(|pushed| pushed > 0), "a queue without end");
    let until = now.plus_ns(10 * SECOND);
    while now < until {
        now = now.plus_ns(MS);
        left.tx_flush(now);
        right.rx_burst(RX_BURST, &mut |frame| assert_eq!(frame, b"frame"));
    }
    assert_eq!(left.wake().deadline, None);
    while right.rx_burst(RX_BURST, &mut |_| ()) > 0 {}
    exchange(&mut left, &mut right, RIGHT, &mut now, vec![b"again".to_vec()]);
}

fn frames_to_nobody_are_counted_and_hold_up_nothing<N: Nic>((mut left, mut right): (N, N)) {
    let mut now = Timestamp(SECOND);
    for _ in 0..20 {
        assert!(left.tx_push(now, NOBODY, b"lost"));
    }
    exchange(&mut left, &mut right, RIGHT, &mut now, vec![b"found".to_vec()]);
    assert_eq!(left.stats().undeliverable, 20);
}

/// Sends `frames` and receives exactly them, in any order.
fn exchange<N: Nic>(from: &mut N, to: &mut N, at: Endpoint, now: &mut Timestamp, mut frames: Vec<Vec<u8>>) {
    for frame in &frames {
        assert!(from.tx_push(*now, at, frame));
    }
    let mut received = Vec::new();
    receive(from, to, now, RX_BURST, frames.len(), &mut |frame, _| received.push(frame.to_vec()));
    frames.sort_unstable();
    received.sort_unstable();
    assert!(received == frames, "{} frames came of {}", received.len(), frames.len());
}

/// Both sides take turns, as cores do: one may have to answer before the other can send. Time goes on by a
/// millisecond whenever nothing has come, and a socket is given one to deliver.
fn receive<N: Nic>(
    from: &mut N,
    to: &mut N,
    now: &mut Timestamp,
    max: usize,
    count: usize,
    sink: &mut dyn FnMut(&[u8], usize),
) {
    let mut received = 0;
    for _ in 0..ROUNDS_MAX {
        from.rx_burst(RX_BURST, &mut |_| panic!("nothing was sent back"));
        from.tx_flush(*now);
        let mut burst = 0;
        let handed = to.rx_burst(max, &mut |frame| {
            burst += 1;
            sink(frame, burst);
        });
        assert_eq!(handed, burst);
        received += burst;
        if received >= count {
            return;
        }
        if burst == 0 {
            *now = now.plus_ns(MS);
            match to.wake().fd {
                Some(fd) => wait_readable(fd, 1),
                None => std::thread::yield_now(),
            }
        }
    }
    panic!("{received} frames came of {count}");
}

const PUSHES_MAX: usize = 1_000_000;
const ROUNDS_MAX: usize = 20_000;
