//! Many senders before one bottleneck: who gets how much, how long the queue is, and what is lost.
//!
//! The link is a queue of bounded length that is served at one rate; the way back is never full. Each test is made
//! again with the control off, and must then see what it is to see.
#![forbid(unsafe_code)]

use super::*;
use crate::bounds::{QUEUE_NS_HIGH, QUEUE_NS_LOW, RATE_BYTES_MAX};
use std::collections::VecDeque;

struct Bottleneck {
    rate: u64,
    frames_max: usize,
    delay_ns: u64,
    /// When they leave, and the frames.
    queue: VecDeque<(Timestamp, Vec<u8>)>,
    /// When the last one will have left.
    busy_until: Timestamp,
    /// Those that are on their way, and when they arrive.
    flying: VecDeque<(Timestamp, Vec<u8>)>,
    back: VecDeque<(Timestamp, usize, Vec<u8>)>,
    taken: u64,
    dropped: u64,
    /// Of the frames that left since this was cleared: how many, and how long they had waited.
    left: u64,
    waited_ns: u64,
}

/// What a sender is to get through.
#[derive(Clone, Copy)]
struct Wish {
    message_bytes: usize,
    /// Calls under way at once, and in all.
    window: u64,
    calls: u64,
}

struct Sender {
    rpc: Rpc,
    wish: Wish,
    begun: u64,
    ended: u64,
    failed: u64,
}

struct Crowd {
    now: Timestamp,
    hub: Rpc,
    senders: Vec<Sender>,
    link: Bottleneck,
    is_controlled: bool,
    /// The one all send to is not running until then.
    deaf_until: Timestamp,
}

impl Bottleneck {
    fn take(&mut self, now: Timestamp, frame: &[u8]) {
        self.taken += 1;
        if self.queue.len() >= self.frames_max {
            self.dropped += 1;
            return;
        }
        let begins = self.busy_until.max(now);
        self.busy_until = begins.plus_ns(frame.len() as u64 * SECOND / self.rate);
        self.waited_ns += self.busy_until.since(now);
        self.left += 1;
        self.queue.push_back((self.busy_until, frame.to_vec()));
    }

    fn turn(&mut self, now: Timestamp) {
        while let Some((left, frame)) = self.queue.pop_front_if(|(left, _)| *left <= now) {
            self.flying.push_back((left.plus_ns(self.delay_ns), frame));
        }
    }

    fn mean_wait_ns(&self) -> u64 {
        self.waited_ns / self.left.max(1)
    }

    fn forget(&mut self) {
        (self.left, self.waited_ns, self.taken, self.dropped) = (0, 0, 0, 0);
    }
}

impl Crowd {
    fn new(senders: usize, rate: u64, frames_max: usize, delay_ns: u64, is_controlled: bool) -> Crowd {
        let nodes = senders + 1;
        let rpc = |peer| Rpc::new(endpoint(peer), CLUSTER, 1, nodes);
        let wish = Wish { message_bytes: 0, window: 0, calls: 0 };
        let sender = |peer| Sender { rpc: rpc(peer + 1), wish, begun: 0, ended: 0, failed: 0 };
        let link = Bottleneck {
            rate,
            frames_max,
            delay_ns,
            queue: VecDeque::new(),
            busy_until: Timestamp(0),
            flying: VecDeque::new(),
            back: VecDeque::new(),
            taken: 0,
            dropped: 0,
            left: 0,
            waited_ns: 0,
        };
        let mut crowd = Crowd {
            now: Timestamp(SECOND),
            hub: rpc(0),
            senders: (0..senders).map(sender).collect(),
            link,
            is_controlled,
            deaf_until: Timestamp(0),
        };
        // Everybody knows everybody, as where a cluster runs.
        for sender in &mut crowd.senders {
            sender.rpc.cast(crowd.now, endpoint(0), b"beat");
        }
        crowd.run(20 * MS);
        crowd.wish(0..senders, Wish { message_bytes: 0, window: 1, calls: 1 });
        crowd.run(20 * MS);
        crowd.wish(0..senders, wish);
        crowd.link.forget();
        crowd
    }

    fn run(&mut self, ns: u64) {
        let until = self.now.plus_ns(ns);
        while self.now < until {
            self.turn();
        }
    }

    fn turn(&mut self) {
        self.now = self.now.plus_ns(TURN_NS);
        let now = self.now;
        self.link.turn(now);
        let heard = if now < self.deaf_until { Timestamp(0) } else { now };
        while let Some((_, frame)) = self.link.flying.pop_front_if(|(at, _)| *at <= heard) {
            // What was given up too early comes twice.
            let _ = self.hub.on_frame(now, &frame);
        }
        self.hub.on_tick(now);
        while let Some(event) = self.hub.poll_event() {
            match event {
                Event::Request { id, message, .. } => {
                    self.hub.respond(now, id, &[]);
                    self.hub.recycle(message);
                }
                Event::Cast { message, .. } => self.hub.recycle(message),
                other => panic!("{other:?}"),
            }
        }
        let mut frame = Vec::new();
        while let Some(to) = self.hub.poll_tx(now, &mut frame) {
            self.link.back.push_back((
                now.plus_ns(self.link.delay_ns),
                usize::from(to.node.0) - 1,
                frame.clone(),
            ));
        }
        while let Some((_, to, frame)) = self.link.back.pop_front_if(|(at, ..)| *at <= now) {
            let _ = self.senders[to].rpc.on_frame(now, &frame);
        }
        for sender in &mut self.senders {
            sender.turn(now, self.is_controlled, &mut self.link);
        }
    }

    fn wish(&mut self, senders: std::ops::Range<usize>, wish: Wish) {
        for sender in &mut self.senders[senders] {
            sender.wish = wish;
            (sender.begun, sender.ended) = (0, 0);
        }
    }

    /// Nothing is received for so long: what comes meanwhile waits in the socket.
    fn pause(&mut self, ns: u64) {
        self.deaf_until = self.now.plus_ns(ns);
    }

    /// Calls of each sender that ended within so long.
    fn ended_within(&mut self, ns: u64) -> Vec<f64> {
        let before: Vec<u64> = self.senders.iter().map(|sender| sender.ended).collect();
        self.link.forget();
        self.run(ns);
        self.senders.iter().zip(before).map(|(sender, before)| (sender.ended - before) as f64).collect()
    }

    fn ended(&self) -> u64 {
        self.senders.iter().map(|sender| sender.ended).sum()
    }

    fn slowed(&self) -> usize {
        self.senders.iter().filter(|sender| sender.rpc.peers().any(|peer| peer.rate.is_some())).count()
    }
}

impl Sender {
    fn turn(&mut self, now: Timestamp, is_controlled: bool, link: &mut Bottleneck) {
        let Sender { rpc, wish, begun, ended, failed } = self;
        rpc.sessions.iter_mut().for_each(|session| session.set_controlled(is_controlled));
        rpc.on_tick(now);
        while let Some(event) = rpc.poll_event() {
            match event {
                Event::Response { message, .. } => {
                    *ended += 1;
                    rpc.recycle(message);
                }
                // Nothing came through for ten seconds.
                Event::Failed { .. } => *failed += 1,
                Event::Peer { news: News::Silent, .. } => {}
                other => panic!("{other:?}"),
            }
        }
        while *begun < wish.calls && *begun - *ended - *failed < wish.window {
            rpc.call(now, endpoint(0), *begun, &ZEROES[..wish.message_bytes])
                .expect("a window fits the backlog");
            *begun += 1;
        }
        let mut frame = Vec::new();
        while rpc.poll_tx(now, &mut frame).is_some() {
            link.take(now, &frame);
        }
    }
}

/// (Σx)² / n Σx²: 1 when all get the same, 1/n when one gets all.
fn jain(shares: &[f64]) -> f64 {
    let (sum, squares) = shares.iter().fold((0.0, 0.0), |(sum, squares), x| (sum + x, squares + x * x));
    sum * sum / (shares.len() as f64 * squares)
}

const TURN_NS: u64 = 50 * US;
static ZEROES: [u8; MIB] = [0; MIB];
const FOR_EVER: Wish = Wish { message_bytes: 16_000, window: 64, calls: u64::MAX };

/// Eight that have no end of things to say share a link whose buffer holds far more than they should put into it.
#[test]
fn senders_share_a_bottleneck_fairly_and_leave_its_buffer_nearly_empty() {
    let rate = 50_000_000;
    let mut means = Vec::new();
    for is_controlled in [true, false] {
        let mut crowd = Crowd::new(8, rate, 8_192, 100 * US, is_controlled);
        crowd.wish(0..8, FOR_EVER);
        crowd.run(3 * SECOND);
        let shares = crowd.ended_within(3 * SECOND);
        let mean_ns = crowd.link.mean_wait_ns();
        let used = shares.iter().sum::<f64>() * 16_000.0 / (3.0 * rate as f64);
        means.push(mean_ns);
        if is_controlled {
            assert!(jain(&shares) > 0.95, "{shares:?}");
            let fair = shares.iter().sum::<f64>() / 8.0;
            assert!(shares.iter().all(|share| *share > fair / 2.0), "one starves: {shares:?}");
            assert!(used > 0.9, "{used} of the link");
            assert_eq!(crowd.link.dropped, 0);
        }
    }
    assert!(means[0] > QUEUE_NS_LOW / 2 && means[0] < QUEUE_NS_HIGH * 3 / 2, "{means:?}");
    assert!(means[1] > QUEUE_NS_HIGH * 5, "without control the queue is long: {means:?}");
}

/// Who was slowed must not stay slow: seven of eight stop, and then the link becomes as fast as a core.
#[test]
fn a_sender_takes_what_others_leave_and_is_free_again_when_there_is_no_queue() {
    let mut crowd = Crowd::new(8, 25_000_000, 8_192, 100 * US, true);
    crowd.wish(0..8, FOR_EVER);
    crowd.run(2 * SECOND);
    assert!(crowd.slowed() >= 7, "{} of 8 slowed", crowd.slowed());
    crowd.wish(1..8, Wish { calls: 0, ..FOR_EVER });
    crowd.senders[1..].iter_mut().for_each(|sender| (sender.begun, sender.ended) = (0, 0));
    crowd.run(SECOND);
    let share = crowd.ended_within(SECOND)[0] * 16_000.0 / 25_000_000.0;
    assert!(share > 0.8, "one alone has {share} of the link");
    crowd.link.rate = 2 * RATE_BYTES_MAX;
    crowd.run(2 * SECOND);
    assert!(
        crowd.senders[0].rpc.peers().all(|peer| peer.rate.is_none()),
        "{:?}",
        crowd.senders[0].rpc.peers().next()
    );
    assert!(crowd.senders[0].rpc.stats().freed > 0);
}

/// What a core that answers slowly, or does not run for a while, makes of a link without a queue.
#[test]
fn pauses_of_the_peer_do_not_slow_a_session() {
    let mut crowd = Crowd::new(1, RATE_BYTES_MAX, 65_536, 20 * US, true);
    crowd.wish(0..1, FOR_EVER);
    for round in 0..200 {
        crowd.run(20 * MS);
        crowd.pause((1 + round % 8) * MS);
    }
    assert_eq!(crowd.senders[0].rpc.stats().slowed, 0);
    // Longer than the timeout: it looks as if all were lost, until it turns out that all has arrived.
    for _ in 0..20 {
        crowd.run(20 * MS);
        crowd.pause(60 * MS);
        crowd.run(63 * MS);
        assert_eq!(crowd.slowed(), 0);
    }
    let stats = crowd.senders[0].rpc.stats();
    assert!(stats.slowed > 10 && stats.freed == stats.slowed, "{stats:?}");
}

/// A hundred answer one question at once, and the buffer of the switch before the one who asked holds a fraction of it.
#[test]
fn a_hundred_senders_at_once_get_through_a_short_buffer() {
    let wish = Wish { message_bytes: 64_000, window: 4, calls: 40 };
    let mut dropped = Vec::new();
    for is_controlled in [true, false] {
        let mut crowd = Crowd::new(100, 125_000_000, 512, 20 * US, is_controlled);
        crowd.wish(0..100, wish);
        let (begun, mut frames_at_most) = (crowd.now, 0);
        // Twice what the link takes for it.
        while crowd.ended() < 100 * wish.calls && crowd.now < begun.plus_ns(4_500 * MS) {
            crowd.run(MS);
            frames_at_most = frames_at_most.max(crowd.link.queue.len());
        }
        assert!(frames_at_most <= 512);
        dropped.push(crowd.link.dropped as f64 / crowd.link.taken as f64);
        if is_controlled {
            assert_eq!(crowd.ended(), 100 * wish.calls, "all calls end");
            assert!(crowd.senders.iter().all(|sender| sender.failed == 0));
        }
    }
    assert!(dropped[0] < 0.25, "{dropped:?} of the frames are lost");
    assert!(dropped[1] > 2.0 * dropped[0], "without control more are lost: {dropped:?}");
}
