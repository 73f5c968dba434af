//! Sessions over a hostile network: loss, repetition, reordering, cuts, late and restarted peers.
//!
//! The world is one thread under one seed. Its observer knows of every request carried out and every
//! call ended, and checks invariants 1 and 2 of [`super`] at each of these moments.
#![forbid(unsafe_code)]

mod congestion;
mod goodbye;
mod hostile;
mod matrix;
mod sealed;
mod slots;

use super::*;
use crate::bounds::{
    BACKLOG_CALLS_MAX, CALL_TIMEOUT_NS, FRAME_BYTES, IN_TRANSIT_BYTES_MAX, MIB, MS, REQUEST_SLOTS, REST_NS,
    SECOND, US,
};
use crate::types::{CoreId, NodeId, Prng};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

/// The wire carries frames and, as if they were frames, the moments a request is answered.
struct World {
    now: Timestamp,
    prng: Prng,
    rpcs: Vec<Rpc>,
    wire: BinaryHeap<Reverse<(u64, u64, Arrival)>>,
    arrivals: u64,
    link: Link,
    /// Calls that have not ended, by caller and tag: the message.
    open: BTreeMap<(usize, u64), Vec<u8>>,
    ended: BTreeMap<(usize, u64), End>,
    /// Requests carried out, by answerer and its incarnation.
    executed: BTreeSet<(usize, u64, Vec<u8>)>,
    /// Requests under way, by number: a `RequestId` has no order, so the wire cannot carry it.
    under_way: Vec<(RequestId, Vec<u8>)>,
    casts: u64,
    /// What each was told of the other.
    news: Vec<(usize, News)>,
    /// Frames are sealed, in every other world.
    keys: Option<Keyring>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Arrival {
    Frame { from: usize, to: usize, frame: Vec<u8> },
    Answer { by: usize, incarnation: u64, request: usize },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Answered,
    Failed,
}

/// Probabilities in percent, times in nanoseconds. `cut` is (from, to).
#[derive(Clone, Default)]
struct Link {
    loss: u32,
    repeat: u32,
    delay_ns: u64,
    jitter_ns: u64,
    execute_ns_max: u64,
    cut: Vec<(usize, usize)>,
}

const CLUSTER: u64 = 77;
const PEERS: usize = 2;

fn endpoint(peer: usize) -> Endpoint {
    Endpoint { node: NodeId(u16::try_from(peer).unwrap()), core: CoreId(3) }
}

fn new_rpc(peer: usize, incarnation: u64) -> Rpc {
    Rpc::new(endpoint(peer), CLUSTER, incarnation, PEERS)
}

fn keyed(mut rpc: Rpc, keys: Option<&Keyring>, seed: u64) -> Rpc {
    if let Some(keys) = keys {
        rpc.set_keys(keys.clone(), seed);
    }
    rpc
}

/// A message that says whose call it is, when it is long enough to say anything.
fn message_of(peer: usize, tag: u64, length: usize) -> Vec<u8> {
    let mut prng = Prng::with_seed(tag * 2 + peer as u64);
    let mut message: Vec<u8> = (0..length).map(|_| prng.u8(..)).collect();
    if length >= 16 {
        message[..8].copy_from_slice(&tag.to_le_bytes());
        message[8..16].copy_from_slice(&(peer as u64).to_le_bytes());
    }
    message
}

/// What every peer answers.
fn answer_to(message: &[u8]) -> Vec<u8> {
    match message.len() % 4 {
        0 => Vec::new(),
        1 => message.iter().rev().copied().collect(),
        2 => message.iter().map(|byte| !byte).chain([1; 40]).collect(),
        _ => message[..message.len().min(100)].to_vec(),
    }
}

impl World {
    fn new(seed: u64, link: Link) -> World {
        let keys = (seed % 2 == 1).then(|| Keyring::new(&[[7; SECRET_BYTES]]).unwrap());
        World {
            now: Timestamp(SECOND),
            prng: Prng::with_seed(seed),
            rpcs: (0..PEERS).map(|peer| keyed(new_rpc(peer, 1), keys.as_ref(), seed)).collect(),
            keys,
            wire: BinaryHeap::new(),
            arrivals: 0,
            link,
            open: BTreeMap::new(),
            ended: BTreeMap::new(),
            executed: BTreeSet::new(),
            under_way: Vec::new(),
            casts: 0,
            news: Vec::new(),
        }
    }

    fn call(&mut self, from: usize, tag: u64, length: usize) -> Result<(), Busy> {
        let message = message_of(from, tag, length);
        self.rpcs[from].call(self.now, endpoint(1 - from), tag, &message)?;
        assert!(self.open.insert((from, tag), message).is_none());
        Ok(())
    }

    fn restart(&mut self, peer: usize) {
        let incarnation = self.rpcs[peer].shared.incarnation + 1;
        self.rpcs[peer] = keyed(new_rpc(peer, incarnation), self.keys.as_ref(), self.prng.u64(..));
        self.open.retain(|(from, _), _| *from != peer);
    }

    /// Sends all there is to send, then goes on to the next moment at which anything happens, but not
    /// beyond `until`. False when nothing will ever happen.
    fn step(&mut self, until: Timestamp) -> bool {
        let mut frame = Vec::new();
        for from in 0..PEERS {
            self.rpcs[from].on_tick(self.now);
            while let Some(to) = self.rpcs[from].poll_tx(self.now, &mut frame) {
                assert!(frame.len() <= FRAME_BYTES);
                self.send(from, usize::from(to.node.0), &frame);
            }
            self.take_events(from);
        }
        let arrival = self.wire.peek().map(|Reverse((due, ..))| Timestamp(*due));
        let timer = self.rpcs.iter().filter_map(Rpc::deadline).min();
        let Some(next) = arrival.into_iter().chain(timer).min() else {
            return false;
        };
        self.now = self.now.max(next.min(until));
        while let Some(Reverse((due, ..))) = self.wire.peek()
            && *due <= self.now.0
        {
            let Some(Reverse((_, _, arrival))) = self.wire.pop() else { break };
            self.deliver(arrival);
        }
        true
    }

    fn run_until(&mut self, until: Timestamp) {
        for _ in 0..STEPS_MAX {
            if self.now >= until || !self.step(until) {
                self.now = self.now.max(until);
                return;
            }
        }
        panic!("still busy at {:?}", self.now);
    }

    fn run_until_ended(&mut self) {
        for _ in 0..STEPS_MAX {
            if self.open.is_empty() {
                return;
            }
            let goes_on = self.step(Timestamp(u64::MAX)) || self.open.is_empty();
            assert!(goes_on, "{} calls wait and no timer is set", self.open.len());
        }
        panic!("{} calls still wait at {:?}", self.open.len(), self.now);
    }

    fn send(&mut self, from: usize, to: usize, frame: &[u8]) {
        if self.link.cut.contains(&(from, to)) || self.prng.u32(..100) < self.link.loss {
            return;
        }
        let copies = if self.prng.u32(..100) < self.link.repeat { 2 } else { 1 };
        for _ in 0..copies {
            let delay = self.link.delay_ns + self.prng.u64(..=self.link.jitter_ns);
            self.post(delay, Arrival::Frame { from, to, frame: frame.to_vec() });
        }
    }

    fn post(&mut self, delay_ns: u64, arrival: Arrival) {
        self.arrivals += 1;
        self.wire.push(Reverse((self.now.0 + delay_ns, self.arrivals, arrival)));
    }

    fn deliver(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Frame { from, to, frame } => {
                if !self.link.cut.contains(&(from, to)) {
                    // Repeated and late frames are ignored by name; that is what is being tested.
                    let _ = self.rpcs[to].on_frame(self.now, &frame);
                    self.take_events(to);
                }
            }
            Arrival::Answer { by, incarnation, request } => {
                if self.rpcs[by].shared.incarnation == incarnation {
                    let (id, message) = &self.under_way[request];
                    self.rpcs[by].respond(self.now, *id, &answer_to(message));
                }
            }
        }
        for rpc in &self.rpcs {
            assert_bounded(rpc);
        }
    }

    fn take_events(&mut self, at: usize) {
        while let Some(event) = self.rpcs[at].poll_event() {
            match event {
                Event::Request { id, from, message } => {
                    assert_eq!((from, id.from()), (endpoint(1 - at), from));
                    self.on_request(at, id, message);
                }
                Event::Response { tag, from, message } => {
                    assert_eq!(from, endpoint(1 - at));
                    let call = self.open.remove(&(at, tag)).expect("a call ends once");
                    assert!(message == answer_to(&call), "call {tag} got the wrong answer");
                    self.ended.insert((at, tag), End::Answered);
                    self.rpcs[at].recycle(message);
                }
                Event::Failed { tag, peer } => {
                    assert_eq!(peer, endpoint(1 - at));
                    assert!(self.open.remove(&(at, tag)).is_some(), "a call ends once");
                    self.ended.insert((at, tag), End::Failed);
                }
                Event::Peer { peer, news } => {
                    assert_eq!(peer, endpoint(1 - at));
                    self.news.push((at, news));
                }
                Event::Cast { message, .. } => {
                    assert!(message == b"beat");
                    self.casts += 1;
                    self.rpcs[at].recycle(message);
                }
            }
        }
    }

    fn on_request(&mut self, at: usize, id: RequestId, message: Vec<u8>) {
        let incarnation = self.rpcs[at].shared.incarnation;
        if message.len() >= 16 {
            let tag = u64::from_le_bytes(message[..8].try_into().unwrap());
            assert!(message == message_of(1 - at, tag, message.len()), "request {tag} arrived damaged");
            let executed = self.executed.insert((at, incarnation, message[..16].to_vec()));
            assert!(executed, "request {tag} carried out twice");
        }
        self.under_way.push((id, message));
        let request = self.under_way.len() - 1;
        let delay = self.prng.u64(..=self.link.execute_ns_max);
        self.post(delay, Arrival::Answer { by: at, incarnation, request });
    }

    fn ended(&self, end: End) -> usize {
        self.ended.values().filter(|e| **e == end).count()
    }
}

/// Invariant 3.
fn assert_bounded(rpc: &Rpc) {
    for session in &rpc.sessions {
        let (in_transit, partial) = session.held_bytes();
        assert!(in_transit <= IN_TRANSIT_BYTES_MAX && partial <= IN_TRANSIT_BYTES_MAX);
    }
}

fn assert_nothing_held(rpc: &Rpc) {
    assert!(rpc.sessions.iter().all(|session| session.held_bytes() == (0, 0)));
}

const STEPS_MAX: usize = 5_000_000;

fn length_under(seed: u64, prng: &mut Prng) -> usize {
    match prng.u32(..20) {
        0 if seed.is_multiple_of(8) => prng.usize(..3 * MIB),
        0..2 => prng.usize(..100_000),
        2..4 => prng.usize(..4),
        _ => prng.usize(..400),
    }
}

/// The promise itself.
#[test]
fn every_call_is_answered_once_whatever_the_network_does() {
    for seed in 0..64 {
        let mut prng = Prng::with_seed(seed + 1_000);
        let mut world = World::new(
            seed,
            Link {
                loss: prng.u32(..25),
                repeat: prng.u32(..25),
                delay_ns: prng.u64(..30 * MS),
                jitter_ns: prng.u64(..20 * MS),
                execute_ns_max: if prng.bool() { 0 } else { 3 * SECOND },
                cut: Vec::new(),
            },
        );
        for round in 0..4 {
            for tag in 0..prng.u64(..150) {
                let from = prng.usize(..PEERS);
                let length = length_under(seed, &mut prng);
                world.call(from, round * 1_000 + tag, length).unwrap();
                world.rpcs[from].cast(world.now, endpoint(1 - from), b"beat");
            }
            let until = world.now.plus_ns(prng.u64(..SECOND));
            world.run_until(until);
        }
        world.run_until_ended();
        assert_eq!(world.ended(End::Failed), 0, "seed {seed}");
        let until = world.now.plus_ns(60 * SECOND);
        world.run_until(until);
        world.rpcs.iter().for_each(assert_nothing_held);
        assert!(world.casts > 0 || world.ended.is_empty());
    }
}

/// Cuts in one direction make each side believe something else; none may believe an answer that was
/// never given, and all must end.
#[test]
fn every_call_ends_though_links_are_cut_and_peers_restart() {
    for seed in 0..64 {
        let mut prng = Prng::with_seed(seed + 2_000);
        let (delay_ns, execute_ns_max) = (prng.u64(..20 * MS), prng.u64(..SECOND));
        let mut world =
            World::new(seed, Link { loss: 5, repeat: 5, delay_ns, execute_ns_max, ..Link::default() });
        for round in 0..12 {
            for tag in 0..prng.u64(..40) {
                let length = length_under(seed, &mut prng);
                world.call(prng.usize(..PEERS), round * 1_000 + tag, length).unwrap();
            }
            match prng.u32(..7) {
                0 => world.link.cut = vec![(0, 1)],
                1 => world.link.cut = vec![(1, 0)],
                2 => world.link.cut = vec![(0, 1), (1, 0)],
                3 => world.restart(prng.usize(..PEERS)),
                4 => world.depart(prng.usize(..PEERS)),
                _ => world.link.cut.clear(),
            }
            let until = world.now.plus_ns(prng.u64(..6 * SECOND));
            world.run_until(until);
        }
        world.link.cut.clear();
        world.run_until_ended();
        // The first may fail, on learning of a restart. The next may not.
        for tag in 900_000..=900_001 {
            world.call(0, tag, 50_000).unwrap();
            world.call(1, tag, 50_000).unwrap();
            world.run_until_ended();
        }
        let last = [world.ended[&(0, 900_001)], world.ended[&(1, 900_001)]];
        assert_eq!(last, [End::Answered; 2], "seed {seed}");
    }
}

/// A call whose request may have been carried out must not be carried out again by the next life.
#[test]
fn a_restarted_peer_carries_out_nothing_that_was_meant_for_its_past() {
    for seed in 0..200 {
        let link = Link { loss: 10, repeat: 20, delay_ns: MS, jitter_ns: 5 * MS, ..Link::default() };
        let mut world = World::new(seed, Link { execute_ns_max: 20 * MS, ..link });
        for tag in 0..400 {
            world.call(0, tag, 16 + tag as usize).unwrap();
        }
        let crash = world.now.plus_ns(seed * MS / 4);
        world.run_until(crash);
        world.restart(1);
        world.run_until_ended();
        for ((_, tag), end) in &world.ended {
            let message = message_of(0, *tag, 16);
            let lives = world.executed.iter().filter(|(_, _, head)| *head == message).count();
            assert!(lives <= 1, "seed {seed}: call {tag} carried out by both lives");
            assert!(*end == End::Failed || lives == 1);
        }
    }
}

#[test]
fn a_caller_that_restarts_is_served_anew_and_gets_no_answer_of_its_past() {
    let mut world =
        World::new(1, Link { delay_ns: MS, jitter_ns: MS, execute_ns_max: 50 * MS, ..Link::default() });
    for life in 0..20 {
        for tag in 0..300 {
            world.call(0, life * 1_000 + tag, 100).unwrap();
        }
        let crash = world.now.plus_ns(30 * MS);
        world.run_until(crash);
        world.restart(0);
    }
    world.call(0, 1_000_000, 2_000).unwrap();
    world.run_until_ended();
    assert_eq!(world.ended[&(0, 1_000_000)], End::Answered);
    assert!(world.rpcs[1].stats().responses_dropped > 0 && world.rpcs[1].stats().peer_restarts > 10);
}

#[test]
fn a_peer_that_starts_later_is_found() {
    let mut world = World::new(1, Link { delay_ns: MS, ..Link::default() });
    world.link.cut = vec![(0, 1), (1, 0)];
    world.call(0, 1, 10_000).unwrap();
    let late = world.now.plus_ns(CALL_TIMEOUT_NS - SECOND);
    world.run_until(late);
    world.link.cut.clear();
    world.run_until_ended();
    assert_eq!(world.ended(End::Answered), 1);
    assert!(world.now < late.plus_ns(SECOND));
}

#[test]
fn calls_to_a_silent_peer_fail_after_the_timeout_and_not_before() {
    let mut world = World::new(1, Link::default());
    world.link.cut = vec![(0, 1), (1, 0)];
    let begin = world.now;
    for tag in 0..1_000 {
        world.call(0, tag, 10).unwrap();
    }
    world.run_until(begin.plus_ns(CALL_TIMEOUT_NS - 1));
    assert_eq!(world.ended(End::Failed), 0);
    world.run_until(begin.plus_ns(CALL_TIMEOUT_NS + 1));
    assert_eq!(world.ended(End::Failed), 1_000);
    world.run_until(begin.plus_ns(100 * CALL_TIMEOUT_NS));
    let quiet = world.rpcs[0].stats().frames_sent;
    assert!(quiet < 100, "{quiet} frames to a peer that never was");
}

/// Execution may wait for locks and other datacenters; only silence is a reason to give up.
#[test]
fn a_call_that_takes_minutes_is_not_given_up() {
    let mut world =
        World::new(5, Link { loss: 10, delay_ns: 10 * MS, execute_ns_max: 300 * SECOND, ..Link::default() });
    for tag in 0..20 {
        world.call(0, tag, 5_000).unwrap();
    }
    world.run_until_ended();
    assert!(world.now > Timestamp(100 * SECOND));
    assert_eq!(world.ended(End::Answered), 20);
    // While it waits, the request is not sent again.
    assert!(world.rpcs[0].stats().packets_resent < 100);
}

/// Requests half received when their caller gave up must not hold the receiver's memory for ever.
#[test]
fn long_messages_get_through_after_any_number_of_failures() {
    let mut world = World::new(2, Link { delay_ns: 5 * MS, ..Link::default() });
    for round in 0..12 {
        for tag in 0..40 {
            world.call(0, round * 100 + tag, 600_000 + tag as usize).unwrap();
        }
        let half_way = world.now.plus_ns(60 * MS);
        world.run_until(half_way);
        world.link.cut = vec![(0, 1)];
        world.run_until_ended();
        world.link.cut.clear();
    }
    assert!(world.ended(End::Failed) > 12 * 20);
    for tag in 0..40 {
        world.call(0, 10_000 + tag, 2_000_000).unwrap();
    }
    world.run_until_ended();
    assert!((0..40).all(|tag| world.ended[&(0, 10_000 + tag)] == End::Answered));
    world.rpcs.iter().for_each(assert_nothing_held);
}

#[test]
fn a_full_backlog_is_busy_and_recovers() {
    let mut world = World::new(3, Link { delay_ns: MS, ..Link::default() });
    let mut accepted = 0;
    while world.call(0, accepted, 32) == Ok(()) {
        accepted += 1;
    }
    assert_eq!(accepted as usize, REQUEST_SLOTS + BACKLOG_CALLS_MAX);
    assert_eq!(world.rpcs[0].stats().calls_refused, 1);
    world.run_until_ended();
    assert_eq!(world.call(0, 1 << 40, 32), Ok(()));
    world.run_until_ended();
    assert_eq!(world.ended(End::Answered), accepted as usize + 1);

    let mut accepted = 0;
    let message = vec![0; 8 * MIB];
    while world.rpcs[0].call(world.now, endpoint(1), accepted, &message) == Ok(()) {
        accepted += 1;
    }
    assert_eq!(accepted as usize, 2 + 8, "two in transit, 64 MiB in the backlog");
}

/// One turn of a busy core makes hundreds of small calls: a datagram each would cost a syscall each.
#[test]
fn packets_for_one_peer_share_frames() {
    let mut world = World::new(4, Link { delay_ns: MS, ..Link::default() });
    world.call(0, 0, 16).unwrap();
    world.run_until_ended();
    let before = world.rpcs[0].stats().frames_sent;
    for tag in 1..=100 {
        world.call(0, tag, 100).unwrap();
    }
    world.run_until_ended();
    let frames = world.rpcs[0].stats().frames_sent - before;
    assert!(frames <= 12, "{frames} frames for 100 calls");
}

/// An idle cluster must let its cores sleep.
#[test]
fn an_idle_session_sets_no_timer() {
    let mut world = World::new(4, Link { delay_ns: MS, ..Link::default() });
    world.call(0, 0, 16).unwrap();
    world.run_until_ended();
    let rested = world.now.plus_ns(2 * REST_NS);
    world.run_until(rested);
    assert_eq!(world.rpcs.iter().filter_map(Rpc::deadline).min(), None);
}

#[test]
fn a_core_may_call_itself() {
    let mut rpc = new_rpc(0, 1);
    let (mut frame, mut now, mut answered) = (Vec::new(), Timestamp(1), 0);
    (0..50).for_each(|tag| rpc.call(now, endpoint(0), tag, &[7; 3_000]).unwrap());
    for _ in 0..1_000 {
        now = now.plus_ns(MS);
        rpc.on_tick(now);
        while rpc.poll_tx(now, &mut frame).is_some() {
            assert_eq!(rpc.on_frame(now, &frame), Ok(()));
        }
        while let Some(event) = rpc.poll_event() {
            match event {
                Event::Request { id, message, .. } => rpc.respond(now, id, &message),
                Event::Response { message, .. } => answered += u32::from(message == [7; 3_000]),
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(answered, 50);
}

/// A core that shares its CPU pauses for a part of this: of a peer that has moved away it would pause for too long.
#[test]
fn the_nearest_peer_is_known_though_the_ways_change() {
    let mut rpcs: Vec<Rpc> = (0..3).map(|peer| Rpc::new(endpoint(peer), CLUSTER, 1, 3)).collect();
    let mut now = Timestamp(SECOND);
    let mut ask = |rpcs: &mut [Rpc], peer: usize, rtt_ns: u64| {
        for tag in 0..64 {
            let _ = rpcs[0].call(now, endpoint(peer), tag, b"question");
            for (from, to) in [(0, peer), (peer, 0)] {
                let mut frame = Vec::new();
                rpcs[from].on_tick(now);
                while rpcs[from].poll_tx(now, &mut frame).is_some() {
                    let _ = rpcs[to].on_frame(now.plus_ns(if to == 0 { rtt_ns } else { 0 }), &frame);
                }
                while let Some(event) = rpcs[to].poll_event() {
                    if let Event::Request { id, .. } = event {
                        rpcs[to].respond(now, id, b"answer");
                    }
                }
            }
            now = now.plus_ns(rtt_ns + MS);
        }
    };
    assert_eq!(rpcs[0].rtt_ns_min(), None);
    ask(&mut rpcs, 1, 40 * MS);
    ask(&mut rpcs, 2, 8 * MS);
    let near =
        |rpcs: &[Rpc], rtt_ns: u64| rpcs[0].rtt_ns_min().is_some_and(|least| least.abs_diff(rtt_ns) < MS);
    assert!(near(&rpcs, 8 * MS), "{:?}", rpcs[0].rtt_ns_min());
    ask(&mut rpcs, 2, 90 * MS);
    assert!(near(&rpcs, 40 * MS), "{:?}", rpcs[0].rtt_ns_min());
    ask(&mut rpcs, 1, 3 * MS);
    assert!(near(&rpcs, 3 * MS), "{:?}", rpcs[0].rtt_ns_min());
}
