//! What the medium can do with nothing of ours in between: the figures that ours are held against.
//!
//! Each runs on two threads, each on a CPU of its own, that spin on bare sockets.
#![forbid(unsafe_code)]

use super::raw::{BURST, Raw};
use super::{Cpus, Slice, histogram};
use anyhow::Context;
use hdrhistogram::Histogram;
use mako::bounds::{CHUNK_BYTES, MS};
use mako::clock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Round trips of one datagram at a time.
pub fn ping_pong(cpus: Cpus, size: usize, slice: Slice) -> anyhow::Result<Histogram<u64>> {
    let mut round_trips = histogram();
    let payload = vec![7; size];
    with_echo(cpus, 1, |raw| {
        let begun = clock::now();
        let mut sent = begun;
        while sent < begun.plus_ns(slice.warmup_ns + slice.ns) {
            raw.send([&payload[..]].into_iter());
            let came = (0..LOST_POLLS).any(|_| raw.receive(1) > 0);
            let now = clock::now();
            if came && sent.since(begun) > slice.warmup_ns {
                round_trips.saturating_record(now.since(sent));
            }
            sent = now;
        }
    })?;
    Ok(round_trips)
}

/// Datagrams echoed in a second, with so many under way.
pub fn echo(cpus: Cpus, size: usize, window: usize, slice: Slice) -> anyhow::Result<f64> {
    let payload = vec![7; size];
    let mut per_s = 0.0;
    with_echo(cpus, BURST, |raw| {
        let begun = clock::now();
        let (mut under_way, mut heard) = (0, begun);
        let (mut echoed, mut from) = (0_usize, None);
        loop {
            let now = clock::now();
            if now.since(begun) > slice.warmup_ns && from.is_none() {
                from = Some((now, echoed));
            }
            if let Some((at, before)) = from
                && now.since(at) >= slice.ns
            {
                per_s = (echoed - before) as f64 * 1e9 / now.since(at) as f64;
                return;
            }
            if now.since(heard) > LOST_NS {
                under_way = 0;
            }
            under_way += raw.send((under_way..window).map(|_| &payload[..]));
            let came = raw.receive(BURST);
            if came > 0 {
                heard = now;
            }
            echoed += came;
            under_way = under_way.saturating_sub(came);
        }
    })?;
    Ok(per_s)
}

/// Bytes per second from a message on one core to a copy of it on the other, in datagrams that hold as much of
/// it as packets of ours do. The receiver says how far it is through memory, which costs the medium nothing.
pub fn copy(cpus: Cpus, bytes: usize, slice: Slice) -> anyhow::Result<f64> {
    let (mut from, mut to) = Raw::pair().context("no bare sockets (this machine)")?;
    let (arrived, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let message = vec![7_u8; bytes];
    let copy = || {
        let begun = clock::now();
        let (mut sent, mut copied_bytes) = (0, 0_usize);
        while clock::now().since(begun) < slice.ns {
            let mut chunks = message.chunks(CHUNK_BYTES);
            while chunks.len() > 0 {
                let full = || sent + COPY_BURST > arrived.load(Ordering::Acquire) + COPY_WINDOW;
                if (0..LOST_POLLS).all(|_| full()) {
                    sent = arrived.load(Ordering::Acquire);
                }
                let went = from.send(chunks.clone().take(COPY_BURST));
                chunks.by_ref().take(went).for_each(drop);
                sent += went;
            }
            copied_bytes += bytes;
        }
        copied_bytes as f64 * 1e9 / clock::now().since(begun) as f64
    };
    let take = || {
        let (mut copied, mut at) = (vec![0; bytes], 0);
        while !stop.load(Ordering::Relaxed) {
            let came = to.receive(BURST);
            for place in 0..came {
                let datagram = to.datagram(place);
                if at + datagram.len() > bytes {
                    at = 0;
                }
                copied[at..at + datagram.len()].copy_from_slice(datagram);
                at += datagram.len();
            }
            arrived.fetch_add(came, Ordering::Release);
        }
    };
    Ok(cpus.run(&stop, copy, take))
}

/// Runs `ask` on one end of a pair, while the other sends everything back.
fn with_echo(cpus: Cpus, burst: usize, ask: impl FnOnce(&mut Raw) + Send) -> anyhow::Result<()> {
    let (mut near, mut far) = Raw::pair().context("no bare sockets (this machine)")?;
    let stop = AtomicBool::new(false);
    let answer = || {
        while !stop.load(Ordering::Relaxed) {
            let came = far.receive(burst);
            let mut echoed = 0;
            while echoed < came {
                echoed += far.echo(echoed, came);
            }
        }
    };
    cpus.run(&stop, || ask(&mut near), answer);
    Ok(())
}

/// A datagram that has not come back by then was dropped.
const LOST_NS: u64 = 100 * MS;
/// Looked for so often, it was dropped as well: a tenth of a second at least.
const LOST_POLLS: u32 = 2_000_000;
/// Datagrams of a copy under way: what the smallest socket buffer holds.
const COPY_WINDOW: usize = 128;
const COPY_BURST: usize = 32;
