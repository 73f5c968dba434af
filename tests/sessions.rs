//! One core with as many sessions as there may be: what they take at rest, and what a tick costs while few are busy.
//!
//! Work is counted, not timed. The peers are real; what they do is left out of what is counted.
#![forbid(unsafe_code)]

use mako::bounds::{
    CORES_MAX, FRAME_BYTES, MS, REST_NS, SECOND, SESSION_BYTES_AT_REST, SESSION_BYTES_AT_REST_SEALED,
    SESSIONS_MAX,
};
use mako::rpc::{Event, Keyring, Rpc, SECRET_BYTES};
use mako::types::{CoreId, Endpoint, NodeId, Timestamp};

const HUB: Endpoint = Endpoint { node: NodeId(0), core: CoreId(0) };
const SESSIONS: usize = 20_000;
/// Sessions that get to know each other at a time, so that the buffers of messages under way are few.
const BATCH: usize = 32;

struct Crowd {
    now: Timestamp,
    hub: Rpc,
    peers: Vec<Rpc>,
    frame: Vec<u8>,
    /// What the hub has allocated and not freed, and how often it has allocated.
    hub_bytes: i64,
    hub_allocations: u64,
    /// Peers from here on answer nothing.
    silent_from: usize,
    responses: usize,
}

fn endpoint(peer: usize) -> Endpoint {
    let place = u16::try_from(peer + CORES_MAX).expect("peers are bounded");
    let cores = u16::try_from(CORES_MAX).expect("cores are few");
    Endpoint { node: NodeId(place / cores), core: CoreId(place % cores) }
}

fn peer_of(endpoint: Endpoint) -> usize {
    usize::from(endpoint.node.0) * CORES_MAX + usize::from(endpoint.core.0) - CORES_MAX
}

fn rpc(me: Endpoint, is_sealed: bool) -> Rpc {
    let mut rpc = Rpc::new(me, 7, 1, SESSIONS_MAX / CORES_MAX);
    if is_sealed {
        rpc.set_keys(Keyring::new(&[[1; SECRET_BYTES]]).expect("one key is a ring"), 1);
    }
    rpc
}

impl Crowd {
    fn new(is_sealed: bool) -> Crowd {
        Crowd {
            now: Timestamp(SECOND),
            hub: rpc(HUB, is_sealed),
            peers: (0..SESSIONS).map(|peer| rpc(endpoint(peer), is_sealed)).collect(),
            frame: Vec::with_capacity(FRAME_BYTES),
            hub_bytes: 0,
            hub_allocations: 0,
            silent_from: SESSIONS,
            responses: 0,
        }
    }

    fn of_hub<T>(&mut self, mut act: impl FnMut(Timestamp, &mut Rpc) -> T) -> T {
        let mut outcome = None;
        let info = allocation_counter::measure(|| outcome = Some(act(self.now, &mut self.hub)));
        self.hub_bytes += info.bytes_current;
        self.hub_allocations += info.count_total;
        outcome.expect("it was just set")
    }

    fn call(&mut self, peer: usize) {
        self.of_hub(|now, hub| hub.call(now, endpoint(peer), peer as u64, b"question").expect("no backlog"));
    }

    /// A millisecond: what the hub sends goes to its peers, and what those of `busy` send to the hub.
    fn turn(&mut self, busy: std::ops::Range<usize>) {
        self.now = self.now.plus_ns(MS);
        let now = self.now;
        for peer in busy {
            let rpc = &mut self.peers[peer];
            rpc.on_tick(now);
            answer(now, rpc, peer < self.silent_from);
            while self.peers[peer].poll_tx(now, &mut self.frame).is_some() {
                let frame = std::mem::take(&mut self.frame);
                let _ = self.of_hub(|now, hub| hub.on_frame(now, &frame));
                self.frame = frame;
            }
        }
        self.responses += self.of_hub(|now, hub| {
            hub.on_tick(now);
            answer(now, hub, true)
        });
        let mut frame = std::mem::take(&mut self.frame);
        while let Some(to) = self.of_hub(|now, hub| hub.poll_tx(now, &mut frame)) {
            let _ = self.peers[peer_of(to)].on_frame(now, &frame);
        }
        self.frame = frame;
    }
}

/// Answers what was asked, if it does; how many answers came.
fn answer(now: Timestamp, rpc: &mut Rpc, answers: bool) -> usize {
    let mut responses = 0;
    while let Some(event) = rpc.poll_event() {
        match event {
            Event::Request { id, message, .. } => {
                if answers {
                    rpc.respond(now, id, b"answer");
                }
                rpc.recycle(message);
            }
            Event::Response { message, .. } => {
                responses += 1;
                rpc.recycle(message);
            }
            other => panic!("{other:?}"),
        }
    }
    responses
}

/// A thousand clients that once said something must not cost a core what a thousand busy ones do.
#[test]
fn twenty_thousand_sessions_fit_the_memory_stated_and_a_tick_touches_only_those_that_are_due() {
    for (is_sealed, bytes_max) in [(false, SESSION_BYTES_AT_REST), (true, SESSION_BYTES_AT_REST_SEALED)] {
        let mut crowd = Crowd::new(is_sealed);
        for first in (0..SESSIONS).step_by(BATCH) {
            let batch = first..first + BATCH;
            for peer in batch.clone() {
                crowd.call(peer);
                crowd.peers[peer].call(crowd.now, HUB, 1, b"question").expect("no backlog");
            }
            (0..6).for_each(|_| crowd.turn(batch.clone()));
        }
        assert_eq!(crowd.responses, SESSIONS, "sealed {is_sealed}");
        assert_eq!(crowd.hub.stats().requests, SESSIONS as u64);

        crowd.now = crowd.now.plus_ns(REST_NS);
        (0..2).for_each(|_| crowd.turn(0..0));
        assert_eq!(crowd.hub.deadline(), None, "a session at rest sets no timer");
        let each = crowd.hub_bytes / SESSIONS as i64;
        println!("sealed {is_sealed}: {each} bytes for each session at rest");
        assert!(each <= bytes_max as i64, "sealed {is_sealed}: {each} bytes for each session at rest");
        few_busy_among_many(&mut crowd);
    }
}

/// Some have calls under way that take long, and are kept alive; some are asked something every millisecond.
fn few_busy_among_many(crowd: &mut Crowd) {
    const ASKED: usize = 32;
    const WAITING: usize = 256;
    crowd.silent_from = ASKED;
    (ASKED..ASKED + WAITING).for_each(|peer| crowd.call(peer));
    let round = |crowd: &mut Crowd, milliseconds: u64| {
        for _ in 0..milliseconds {
            (0..ASKED).for_each(|peer| crowd.call(peer));
            crowd.turn(0..ASKED + WAITING);
        }
    };
    round(crowd, 1_000);
    let (timers, allocations, frames) =
        (crowd.hub.stats().timers, crowd.hub_allocations, crowd.hub.stats().frames_received);
    round(crowd, 1_000);
    let looked_at = crowd.hub.stats().timers - timers;
    // Each of the asked is due once a millisecond at most, each of the waiting a few times for each of its two pings.
    let most = 1_000 * ASKED as u64 + 2 * 5 * WAITING as u64;
    assert!(looked_at <= most, "{looked_at} sessions looked at in 1000 ticks, {most} expected at most");
    assert!(looked_at >= 2 * WAITING as u64, "the waiting are kept alive: {looked_at}");
    assert!(crowd.hub.stats().frames_received - frames >= 2 * WAITING as u64);
    assert_eq!(crowd.hub_allocations, allocations, "allocations of the hub in the steady state");
    assert_eq!(crowd.hub.stats().calls_failed, 0);
}
