//! A shard of elections in one true time, which none of them knows: clocks drift as far as they may, links lose,
//! delay and cut messages in one direction or both, nodes restart.
//!
//! Beside each election stands just enough of a stream: a promise on disk, a phase 1, a leader that makes
//! itself heard. Checked after every event: at most one leader holds its lease by its own clock, and then
//! fewer than a majority have promised, or could promise, another ballot.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use super::*;

struct Node {
    /// None while it is down.
    election: Option<Election>,
    /// Its clock shows `offset + true * rate / RATE`.
    offset: u64,
    rate: u64,
    /// On disk.
    promised: Ballot,
    attempt: Option<Attempt>,
    speaks_at: u64,
    lost: usize,
}

struct Attempt {
    ballot: Ballot,
    promises: BTreeSet<u16>,
    leads: bool,
}

#[derive(Clone, Copy, Debug)]
enum Message {
    Election(ElectionMessage),
    Prepare(Ballot),
    Promise(Ballot),
    Rejected(Ballot),
    Chosen(Ballot),
}

struct Network {
    rng: Prng,
    now: u64,
    nodes: Vec<Node>,
    /// By the time they arrive, and their number.
    under_way: BTreeMap<(u64, u64), (u16, u16, Message)>,
    sent: u64,
    cut: BTreeSet<(u16, u16)>,
    loss_percent: u32,
    delay_ns: std::ops::Range<u64>,
    leases: usize,
    elected: usize,
}

impl Network {
    fn new(seed: u64, replicas: u16) -> Network {
        let mut rng = Prng::with_seed(seed);
        let node = |rng: &mut Prng| Node {
            election: None,
            offset: rng.u64(TIMEOUT..1_000 * TIMEOUT),
            rate: rng.u64(RATE - RATE_DRIFT..=RATE + RATE_DRIFT),
            promised: Ballot::default(),
            attempt: None,
            speaks_at: 0,
            lost: 0,
        };
        let mut network = Network {
            nodes: (0..replicas).map(|_| node(&mut rng)).collect(),
            rng,
            now: 0,
            under_way: BTreeMap::new(),
            sent: 0,
            cut: BTreeSet::new(),
            loss_percent: 0,
            delay_ns: TIMEOUT / 1_000..TIMEOUT / 20,
            leases: 0,
            elected: 0,
        };
        for at in 0..replicas {
            network.start(at, true);
        }
        network
    }

    fn start(&mut self, at: u16, fresh: bool) {
        let (now, promised) = (self.clock(at), self.nodes[usize::from(at)].promised);
        let config = config(at, self.nodes.len() as u16, promised, fresh && promised == Ballot::default());
        self.nodes[usize::from(at)].election = Some(Election::new(config, now, &mut self.rng));
    }

    fn stop(&mut self, at: u16) {
        let node = &mut self.nodes[usize::from(at)];
        (node.election, node.attempt) = (None, None);
        // The next process may run on a machine that started later.
        node.offset = self.rng.u64(TIMEOUT..1_000 * TIMEOUT);
    }

    fn clock(&self, at: u16) -> Timestamp {
        let node = &self.nodes[usize::from(at)];
        Timestamp(node.offset + self.now * node.rate / RATE)
    }

    /// Runs every event up to a true time.
    fn run_until(&mut self, end: u64) {
        while let Some(due) = self.next_event().filter(|due| *due <= end) {
            self.now = due.max(self.now);
            while let Some(entry) = self.under_way.first_entry().filter(|entry| entry.key().0 <= self.now) {
                let (from, to, message) = entry.remove();
                self.deliver(from, to, message);
            }
            for at in 0..self.nodes.len() as u16 {
                self.on_timers(at);
            }
        }
        self.now = end;
        self.check();
    }

    fn next_event(&self) -> Option<u64> {
        let arrival = self.under_way.first_key_value().map(|((due, _), _)| *due);
        let wakes = self.nodes.iter().filter_map(|node| {
            let election = node.election.as_ref()?;
            let speaks = node.leads().map(|_| node.speaks_at);
            let due = election.deadline().map(|due| due.0.saturating_sub(node.offset) * RATE / node.rate + 1);
            due.into_iter().chain(speaks).min()
        });
        wakes.chain(arrival).min()
    }

    fn on_timers(&mut self, at: u16) {
        let clock = self.clock(at);
        let node = &mut self.nodes[usize::from(at)];
        let Some(election) = &mut node.election else { return };
        let mut out = Vec::new();
        if election.deadline().is_some_and(|due| due <= clock) {
            election.on_timer(clock, &mut self.rng, &mut out);
        }
        if let Some(ballot) = node.leads().filter(|_| node.speaks_at <= self.now) {
            node.speaks_at = self.now + HEARTBEAT;
            self.send_all(at, Message::Chosen(ballot));
        }
        self.carry_out(at, out);
    }

    fn deliver(&mut self, from: u16, to: u16, message: Message) {
        let clock = self.clock(to);
        let node = &mut self.nodes[usize::from(to)];
        let Some(election) = &mut node.election else { return };
        let mut out = Vec::new();
        match message {
            Message::Election(message) => {
                let _ignored = election.on_message(clock, NodeId(from), message, &mut out);
            }
            Message::Prepare(ballot) if !election.may_promise(clock, ballot) => {}
            Message::Prepare(ballot) | Message::Chosen(ballot) if ballot < node.promised => {
                let promised = node.promised;
                self.send(to, from, Message::Rejected(promised));
            }
            Message::Prepare(ballot) => {
                node.promise(clock, ballot);
                self.send(to, from, Message::Promise(ballot));
            }
            Message::Chosen(ballot) => {
                node.promise(clock, ballot);
                if let Some(election) = &mut node.election {
                    election.on_leader_heard(clock, ballot);
                }
            }
            Message::Rejected(promised) => node.depose(clock, promised),
            Message::Promise(ballot) => self.on_promise(from, to, ballot, &mut out),
        }
        self.carry_out(to, out);
    }

    fn on_promise(&mut self, from: u16, to: u16, ballot: Ballot, out: &mut Vec<ElectionEffect>) {
        let (clock, majority, now) = (self.clock(to), self.nodes.len() / 2 + 1, self.now);
        let node = &mut self.nodes[usize::from(to)];
        let Some(attempt) = node.attempt.as_mut().filter(|a| a.ballot == ballot && !a.leads) else { return };
        attempt.promises.insert(from);
        if attempt.promises.len() >= majority {
            (attempt.leads, node.speaks_at) = (true, now);
            self.elected += 1;
            if let Some(election) = &mut node.election {
                assert_eq!(election.on_won(clock, ballot, out), Ok(()));
            }
        }
    }

    fn carry_out(&mut self, at: u16, out: Vec<ElectionEffect>) {
        for effect in out {
            match effect {
                ElectionEffect::Send { to, message, .. } => self.send(at, to.0, Message::Election(message)),
                ElectionEffect::Campaign { ballot } => {
                    let node = &mut self.nodes[usize::from(at)];
                    assert!(ballot > node.promised && ballot.node == NodeId(at));
                    node.promised = ballot;
                    node.attempt = Some(Attempt { ballot, promises: BTreeSet::from([at]), leads: false });
                    self.send_all(at, Message::Prepare(ballot));
                }
                ElectionEffect::Lost => {
                    let node = &mut self.nodes[usize::from(at)];
                    (node.attempt, node.lost) = (None, node.lost + 1);
                }
            }
        }
        self.check();
    }

    fn send_all(&mut self, from: u16, message: Message) {
        for to in (0..self.nodes.len() as u16).filter(|to| *to != from) {
            self.send(from, to, message);
        }
    }

    fn send(&mut self, from: u16, to: u16, message: Message) {
        if self.cut.contains(&(from, to)) || self.rng.u32(..100) < self.loss_percent {
            return;
        }
        self.sent += 1;
        let delay = self.rng.u64(self.delay_ns.clone());
        self.under_way.insert((self.now + delay, self.sent), (from, to, message));
    }

    /// What a lease is worth.
    fn check(&mut self) {
        let clock = |at: usize| self.clock(at as u16);
        let holds = |at: &usize| self.nodes[*at].election.as_ref().is_some_and(|e| e.holds_lease(clock(*at)));
        let holders: Vec<usize> = (0..self.nodes.len()).filter(holds).collect();
        assert!(holders.len() <= 1, "{holders:?} hold a lease at {}", self.now);
        let Some(&holder) = holders.first() else { return };
        let rival = Ballot { round: u32::MAX, node: NodeId(holder as u16 + 1) };
        let against = (0..self.nodes.len()).filter(|&at| {
            let node = &self.nodes[at];
            let could = node.election.as_ref().is_some_and(|e| e.lets_through(clock(at), rival));
            could || node.promised > self.nodes[holder].promised
        });
        let against = against.count();
        assert!(2 * against <= self.nodes.len(), "{against} are free while {holder} holds a lease");
        if let Some(election) = &self.nodes[holder].election {
            election.assert_invariants();
        }
        self.leases += 1;
    }

    fn lease_holder(&self) -> Option<u16> {
        let holds = |at: &u16| {
            let election = self.nodes[usize::from(*at)].election.as_ref();
            election.is_some_and(|election| election.holds_lease(self.clock(*at)))
        };
        (0..self.nodes.len() as u16).find(holds)
    }

    fn leader(&self) -> Option<Ballot> {
        self.nodes.iter().filter_map(Node::leads).max()
    }

    /// One random fault, or the end of some.
    fn strike(&mut self) {
        let replicas = self.nodes.len() as u16;
        let (a, b) = (self.rng.u16(..replicas), self.rng.u16(..replicas));
        match self.rng.u32(..12) {
            0 | 1 => _ = self.cut.insert((a, b)),
            2 => self.cut.extend([(a, b), (b, a)]),
            3 => self.cut.extend((0..replicas).flat_map(|other| [(a, other), (other, a)])),
            4 | 5 => self.cut.clear(),
            6 => self.loss_percent = self.rng.u32(..40),
            7 => self.delay_ns = 1..TIMEOUT / [100, 20, 4, 1][self.rng.usize(..4)],
            8 => self.stop(a),
            9 | 10 => {
                for at in 0..replicas {
                    if self.nodes[usize::from(at)].election.is_none() {
                        self.start(at, false);
                    }
                }
            }
            _ => {
                let clock = self.clock(a);
                let mut out = Vec::new();
                if let Some(election) = &mut self.nodes[usize::from(a)].election {
                    let _not_leading = election.hand_over(clock, NodeId(b), &mut out);
                }
                self.carry_out(a, out);
            }
        }
    }

    fn heal(&mut self) {
        self.cut.clear();
        (self.loss_percent, self.delay_ns) = (0, 1..TIMEOUT / 20);
        for at in 0..self.nodes.len() as u16 {
            if self.nodes[usize::from(at)].election.is_none() {
                self.start(at, false);
            }
        }
    }

    /// Runs until somebody leads with a lease; the time it took.
    fn run_to_lease(&mut self, within: u64) -> u64 {
        let begin = self.now;
        while self.lease_holder().is_none() {
            assert!(self.now < begin + within, "no leader within {} timeouts", within / TIMEOUT);
            self.run_until(self.now + TIMEOUT / 100);
        }
        self.now - begin
    }
}

impl Node {
    fn leads(&self) -> Option<Ballot> {
        self.attempt.as_ref().filter(|attempt| attempt.leads).map(|attempt| attempt.ballot)
    }

    fn promise(&mut self, clock: Timestamp, ballot: Ballot) {
        if ballot > self.promised {
            self.promised = ballot;
            self.depose(clock, ballot);
        }
    }

    fn depose(&mut self, clock: Timestamp, by: Ballot) {
        if self.attempt.as_ref().is_some_and(|attempt| attempt.ballot < by) {
            self.attempt = None;
            if let Some(election) = &mut self.election {
                election.on_deposed(clock, by);
            }
        }
    }
}

/// Ticks of a perfect clock.
const RATE: u64 = 1_000_000;
/// As far as one clock may be off, so that two differ by just less than one part in `CLOCK_DRIFT_PART`.
const RATE_DRIFT: u64 = RATE / (2 * crate::bounds::CLOCK_DRIFT_PART + 3);

fn run_struck(seed: u64, replicas: u16) -> Network {
    let mut network = Network::new(seed, replicas);
    for _ in 0..80 {
        let calm = network.rng.u64(..TIMEOUT);
        network.run_until(network.now + calm);
        network.strike();
    }
    network
}

/// The lease is what reads at the leader rest on: under every fault it must hold or be known not to. And when
/// the faults end, somebody must lead, and go on leading.
#[test]
fn no_majority_is_free_while_a_lease_is_held_and_healing_brings_a_leader_that_stays() {
    let (mut leases, mut elected, mut lost) = (0, 0, 0);
    for seed in 0..400 {
        let mut network = run_struck(seed, if seed % 2 == 0 { 3 } else { 5 });
        network.heal();
        network.run_to_lease(8 * TIMEOUT);
        network.run_until(network.now + 3 * TIMEOUT);
        let leader = network.leader();
        network.run_until(network.now + 20 * TIMEOUT);
        assert_eq!(network.leader(), leader, "seed {seed}: a leader was deposed for nothing");
        assert!(network.lease_holder().is_some(), "seed {seed}");
        leases += network.leases;
        elected += network.elected;
        lost += network.nodes.iter().map(|node| node.lost).sum::<usize>();
    }
    assert!(leases > 100_000 && elected > 1_500 && lost > 400, "too tame: {leases} {elected} {lost}");
}

/// The pre-vote's purpose: a replica that hears its leader only now and then must not depose it each time.
#[test]
fn a_flapping_link_to_one_replica_does_not_depose_a_good_leader() {
    for seed in 0..100 {
        let mut network = Network::new(seed, 3);
        network.run_to_lease(TIMEOUT);
        let leader = network.leader().expect("it holds a lease");
        let flapping = (leader.node.0 + 1) % 3;
        for _ in 0..60 {
            let link = (leader.node.0, flapping);
            match network.rng.u32(..3) {
                0 => network.cut.extend([link, (link.1, link.0)]),
                1 => _ = network.cut.insert(link),
                _ => network.cut.clear(),
            }
            let calm = network.rng.u64(..3 * TIMEOUT);
            network.run_until(network.now + calm);
            assert_eq!((network.leader(), network.lease_holder()), (Some(leader), Some(leader.node.0)));
        }
    }
}

/// Two that wake at once split the votes; if they woke at once again and again, nobody would ever lead.
#[test]
fn two_rivals_do_not_keep_each_other_from_winning() {
    for seed in 0..1_000 {
        let mut network = Network::new(seed, 3);
        network.run_to_lease(TIMEOUT);
        let leader = network.lease_holder().expect("it holds a lease");
        network.stop(leader);
        // Long delays, so that each has campaigned before it hears of the other.
        network.delay_ns = TIMEOUT / 5..TIMEOUT / 4;
        network.run_to_lease(12 * TIMEOUT);
    }
}

/// A planned change must cost less than a failure: one round trip without a leader, and no timeout.
#[test]
fn a_hand_over_moves_leadership_in_one_round_trip() {
    const DELAY: u64 = TIMEOUT / 20;
    for seed in 0..50 {
        let mut network = Network::new(seed, 3);
        network.run_to_lease(TIMEOUT);
        network.run_until(network.now + TIMEOUT);
        network.delay_ns = DELAY..DELAY + 1;
        network.run_until(network.now + TIMEOUT);
        let before = network.leader().expect("nothing failed");
        let (at, to, mut out) = (before.node.0, (before.node.0 + 1) % 3, Vec::new());
        let (clock, start) = (network.clock(at), network.now);
        let election = network.nodes[usize::from(at)].election.as_mut().expect("it is up");
        assert_eq!(election.hand_over(clock, NodeId(to), &mut out), Ok(()));
        network.carry_out(at, out);
        // The request, and the successor's phase 1. Until its question arrives the old leader goes on.
        network.run_until(start + 2 * DELAY - 1);
        assert_eq!(network.leader(), Some(before), "seed {seed}");
        network.run_until(start + 3 * DELAY);
        assert_eq!(network.leader().map(|leader| leader.node.0), Some(to), "seed {seed}");
        network.run_until(start + 5 * DELAY);
        assert_eq!(network.lease_holder(), Some(to), "seed {seed}");
    }
}

/// The check must be able to tell the rule from no rule.
#[cfg(feature = "mutation")]
#[test]
fn the_lease_is_missed_when_it_is_dropped() {
    use crate::rules::{Rule, without};
    let fails = |seed| std::panic::catch_unwind(|| run_struck(seed, 3)).is_err();
    let caught = without(Rule::Lease, || (0..100).find(|&seed| fails(seed)));
    assert!(caught.is_some(), "no schedule misses the lease");
}
