//! What the medium can do with nothing of ours in between: the figures that ours are held against.
//!
//! Each is measured by two threads, each on a CPU of its own, that spin on bare ends: over UDP on sockets of their
//! own, over DPDK on the very ports the transport has otherwise. A frame carries as many bytes as a request does,
//! behind nothing but the headers that the medium needs; the transport's frames carry its own header besides. What
//! a burst takes in or hands over is one call.
//!
//! | figure | is | what is held against it |
//! |---|---|---|
//! | `ping_pong` | the round trip of one frame | that of one request |
//! | `echo` | frames echoed per second, as many under way as there are sessions | one request of each session, each in a frame of its own |
//! | `burst` | frames per second in one direction, of bursts as long as the device takes | requests answered per second, however many share a frame |
//! | `copy` | bytes per second in one direction, copied into the frames and out of them | long messages |
//!
//! `echo` is the like of a request and its response: a frame there and a frame back, each core sending one and
//! receiving one. Nothing in it is looked at, copied or counted: over DPDK a frame goes back in the buffer it came
//! in. So no transport in which each request is a frame can be faster, and what it lacks is the transport's cost. In
//! `burst` a core has but half of that work, with nobody to wait for: only requests that share frames can beat it.
#![forbid(unsafe_code)]

use super::raw::BURST;
use super::wire::{Bursts, Wire};
use super::{Cpus, Slice, histogram};
use crossbeam_utils::CachePadded;
use hdrhistogram::Histogram;
use mako::bounds::{CHUNK_BYTES, MS};
use mako::clock;
use mako::types::Timestamp;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Round trips of one frame at a time.
pub fn ping_pong(
    cpus: Cpus,
    wire: &mut impl Wire,
    size: usize,
    slice: Slice<'_>,
) -> anyhow::Result<Histogram<u64>> {
    let mut round_trips = histogram();
    let payload = vec![7; size];
    with_echo(cpus, wire.bare()?, 1, |bare| {
        let begun = clock::now();
        let mut sent = begun;
        while !slice.is_over(begun, sent, slice.warmup_ns + slice.ns) {
            bare.send([&payload[..]].into_iter());
            let came = comes(|| bare.receive(1) > 0);
            let now = clock::now();
            if came && sent.since(begun) > slice.warmup_ns {
                round_trips.saturating_record(now.since(sent));
            }
            sent = now;
        }
    });
    Ok(round_trips)
}

/// Frames echoed in a second, with so many under way.
pub fn echo(
    cpus: Cpus,
    wire: &mut impl Wire,
    size: usize,
    window: usize,
    slice: Slice<'_>,
) -> anyhow::Result<f64> {
    let payload = vec![7; size];
    let mut per_s = 0.0;
    with_echo(cpus, wire.bare()?, BURST, |bare| {
        let begun = clock::now();
        let (mut under_way, mut heard, mut echoed) = (0, begun, 0);
        let mut rate = Rate::new(begun, slice);
        loop {
            let now = clock::now();
            if let Some(measured) = rate.measured(now, echoed) {
                per_s = measured;
                return;
            }
            if now.since(heard) > LOST_NS {
                under_way = 0;
            }
            under_way += bare.send((under_way..window).map(|_| &payload[..]));
            let came = bare.receive(BURST);
            if came > 0 {
                heard = now;
            }
            echoed += came;
            under_way = under_way.saturating_sub(came);
        }
    });
    Ok(per_s)
}

/// Frames per second in one direction.
pub fn burst(cpus: Cpus, wire: &mut impl Wire, size: usize, slice: Slice<'_>) -> anyhow::Result<f64> {
    let message = vec![7; size * SENT_AT_ONCE];
    Ok(one_way(cpus, wire.bare()?, &message, size, slice))
}

/// Bytes per second from a message on one core to a copy of it on the other, in frames that hold as much of it as
/// packets of ours do.
pub fn copy(cpus: Cpus, wire: &mut impl Wire, bytes: usize, slice: Slice<'_>) -> anyhow::Result<f64> {
    let per_s = one_way(cpus, wire.bare()?, &vec![7; bytes], CHUNK_BYTES, slice);
    Ok(per_s / bytes.div_ceil(CHUNK_BYTES) as f64 * bytes as f64)
}

/// Frames per second, in which pieces of a message go from one end to the other, again and again. The receiver says
/// how far it is through memory, which costs the medium nothing, and puts the message together.
fn one_way<B: Bursts + Send>(
    cpus: Cpus,
    [mut from, mut to]: [B; 2],
    message: &[u8],
    frame_bytes: usize,
    slice: Slice<'_>,
) -> f64 {
    let (arrived, stop) = (CachePadded::new(AtomicUsize::new(0)), CachePadded::new(AtomicBool::new(false)));
    let send = || {
        let begun = clock::now();
        let mut rate = Rate::new(begun, slice);
        let (mut sent, mut frames) = (0, message.chunks(frame_bytes));
        loop {
            if let Some(measured) = rate.measured(clock::now(), arrived.load(Ordering::Acquire)) {
                return measured;
            }
            if frames.len() == 0 {
                frames = message.chunks(frame_bytes);
            }
            if !comes(|| sent + SENT_AT_ONCE <= arrived.load(Ordering::Acquire) + SENT_AHEAD) {
                sent = arrived.load(Ordering::Acquire);
            }
            let went = from.send(frames.clone().take(SENT_AT_ONCE));
            frames.by_ref().take(went).for_each(drop);
            sent += went;
        }
    };
    let take = || {
        let (mut copied, mut at) = (vec![0; message.len()], 0);
        while !stop.load(Ordering::Relaxed) {
            let came = to.receive(BURST);
            for place in 0..came {
                let payload = to.payload(place);
                if at + payload.len() > copied.len() {
                    at = 0;
                }
                copied[at..at + payload.len()].copy_from_slice(payload);
                at += payload.len();
            }
            arrived.fetch_add(came, Ordering::Release);
        }
    };
    cpus.run(&stop, send, take)
}

/// Runs `ask` on one end, while the other sends everything back.
fn with_echo<B: Bursts + Send>(
    cpus: Cpus,
    [mut near, mut far]: [B; 2],
    burst: usize,
    ask: impl FnOnce(&mut B) + Send,
) {
    let stop = CachePadded::new(AtomicBool::new(false));
    let answer = || {
        while !stop.load(Ordering::Relaxed) {
            far.echo(burst);
        }
    };
    cpus.run(&stop, || ask(&mut near), answer);
}

/// What happens per second, from the end of the warm-up on.
struct Rate<'a> {
    slice: Slice<'a>,
    begun: Timestamp,
    /// When the warm-up was over, and how much had happened by then.
    from: Option<(Timestamp, usize)>,
}

impl<'a> Rate<'a> {
    fn new(begun: Timestamp, slice: Slice<'a>) -> Rate<'a> {
        Rate { slice, begun, from: None }
    }

    /// `None` until the slice is over.
    fn measured(&mut self, now: Timestamp, count: usize) -> Option<f64> {
        let Rate { slice, begun, from } = self;
        let Some((at, before)) = *from else {
            *from = slice.is_over(*begun, now, slice.warmup_ns).then_some((now, count));
            return None;
        };
        let per_s = || (count - before) as f64 * 1e9 / now.since(at).max(1) as f64;
        slice.is_over(at, now, slice.ns).then(per_s)
    }
}

/// Spins until something is so. False when it is not after a time in which every frame comes.
fn comes(mut is_so: impl FnMut() -> bool) -> bool {
    let begun = clock::now();
    loop {
        // The clock takes longer to look at than an empty queue.
        if (0..LOOKS).any(|_| is_so()) {
            return true;
        }
        if clock::now().since(begun) > LOST_NS {
            return false;
        }
    }
}

const LOOKS: u32 = 1_000;
/// What has not come by then was dropped.
const LOST_NS: u64 = 100 * MS;
/// Frames in one direction that are under way: what the smallest socket buffer holds.
const SENT_AHEAD: usize = 128;
const SENT_AT_ONCE: usize = 32;
