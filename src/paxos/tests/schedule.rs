//! A hostile world: several campaigners race while messages are lost, repeated, reordered and late, disks
//! take their time, and replicas restart with all, some or none of what they knew (`restarts`).
//!
//! Checked at every step, against what the logs really hold:
//!   - one value per slot, and one per slot and ballot;
//!   - what a replica delivers is chosen, in order, without gaps, each slot once;
//!   - no promise is taken back, not even by a restart, and nothing is said before the record it speaks of
//!     is durable;
//!   - a replica that forgot what it accepted says neither promise nor acceptance.
//!
//! Then the world heals, and one leader must finish every slot at every replica.
#![forbid(unsafe_code)]

mod restarts;

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::paxos::{Accepted, Role};
use crate::types::Prng;

struct Replica {
    stream: Stream,
    log: Vec<Persist>,
    /// Records of `log` that are durable, and how many there were when the last of each kind came.
    durable: usize,
    votes_end: usize,
    accepts_end: usize,
    vote_durable: Ballot,
    outbox: Vec<(usize, NodeId, PaxosMessage)>,
    delivered: u64,
    /// Every slot below it is in its durable checkpoint.
    checkpoint: u64,
    /// A peer told that it no longer keeps what this one lacks.
    is_behind: bool,
    /// It restarted in this way and has not voted since.
    forgot: Forgot,
    /// The highest ballot of a promise or acceptance that has left it, before whatever restart.
    spoken: Ballot,
}

struct World {
    rng: Prng,
    needs_disk: bool,
    replicas: Vec<Replica>,
    network: Vec<(NodeId, NodeId, PaxosMessage)>,
    /// Messages that come when what they speak of is long past.
    late: Vec<(NodeId, NodeId, PaxosMessage)>,
    /// In percent of its turns, by replica.
    disk_idles: Vec<u32>,
    /// One in so many steps, someone campaigns: most often the one before, again.
    campaign_every: u32,
    campaigner: usize,
    /// One in so many steps, someone restarts: as a rule the one before, again.
    restart_every: u32,
    restarter: usize,
    restarts: u64,
    limits: Limits,
    /// Who accepted what, durably where the mode counts it.
    votes: BTreeMap<(Slot, Ballot), (Batch, BTreeSet<u16>)>,
    chosen: BTreeMap<Slot, Batch>,
    round: u32,
    proposed: u64,
    seen: Seen,
    out: Vec<Effect>,
}

/// What the schedules have met: a test that never met it has not tested it.
#[derive(Default, Debug)]
struct Seen {
    led: usize,
    deposed: usize,
    behind: usize,
    fillers: usize,
    long_promises: usize,
    fetched: usize,
    counted: usize,
    dropped: usize,
    chosen: usize,
    restarts: usize,
    forgot_acceptances: usize,
    forgot_votes: usize,
    votes_again: usize,
    jumps: usize,
}

impl World {
    fn new(seed: u64, replicas: u16, needs_disk: bool, limits: Limits) -> World {
        let replica = |me| Replica {
            stream: stream(me, replicas, needs_disk, limits),
            log: Vec::new(),
            durable: 0,
            votes_end: 0,
            accepts_end: 0,
            vote_durable: Ballot::default(),
            outbox: Vec::new(),
            delivered: 0,
            checkpoint: 0,
            is_behind: false,
            forgot: Forgot::Nothing,
            spoken: Ballot::default(),
        };
        let mut rng = Prng::with_seed(seed);
        World {
            disk_idles: (0..replicas).map(|_| rng.u32(..95)).collect(),
            campaign_every: rng.u32(50..400),
            campaigner: rng.usize(..usize::from(replicas)),
            restart_every: rng.u32(30..500),
            restarter: rng.usize(..usize::from(replicas)),
            restarts: 0,
            limits,
            rng,
            needs_disk,
            replicas: (0..replicas).map(replica).collect(),
            network: Vec::new(),
            late: Vec::new(),
            votes: BTreeMap::new(),
            chosen: BTreeMap::new(),
            round: 0,
            proposed: 0,
            seen: Seen::default(),
            out: Vec::new(),
        }
    }

    fn stream(&mut self, at: usize) -> (&mut Stream, &mut Vec<Effect>) {
        (&mut self.replicas[at].stream, &mut self.out)
    }

    /// One random event at one random replica.
    fn step(&mut self) {
        let at = self.rng.usize(..self.replicas.len());
        if self.rng.u32(..self.campaign_every) == 0 {
            if self.rng.bool() {
                self.campaigner = at;
            }
            return self.campaign(self.campaigner);
        }
        if self.rng.u32(..self.restart_every) == 0 {
            if self.rng.u32(..4) == 0 {
                self.restarter = at;
            }
            return self.restart(self.restarter);
        }
        match self.rng.u32(..100) {
            0..45 => self.deliver(true),
            45..65 if self.rng.u32(..100) >= self.disk_idles[at] => {
                let records = self.rng.usize(1..6);
                self.persist(at, records);
            }
            45..65 => {}
            65..83 => self.propose(at),
            83 => {
                if !self.late.is_empty() && self.rng.bool() {
                    let index = self.rng.usize(..self.late.len());
                    self.network.push(self.late.swap_remove(index));
                }
            }
            84..88 => self.with(at, |stream, out| stream.resend(out)),
            88..90 => self.with(at, |stream, out| stream.heartbeat(out)),
            90..93 => self.with(at, |stream, out| stream.announce(out)),
            93 => self.with(at, |stream, _| stream.retain()),
            94 => match self.rng.u32(..4) {
                0 => self.replicas[at].checkpoint = self.replicas[at].delivered,
                1 => self.jump(at),
                _ => self.jump_if_behind(at),
            },
            _ => self.poll(at),
        }
    }

    fn with(&mut self, at: usize, event: impl FnOnce(&mut Stream, &mut Vec<Effect>)) {
        let (stream, out) = self.stream(at);
        event(stream, out);
        self.carry_out(at);
    }

    fn campaign(&mut self, at: usize) {
        if !self.replicas[at].stream.can_campaign() {
            return;
        }
        // Rounds collide and fall behind: whoever campaigns knows only its own promise.
        let promised = self.replicas[at].stream.promised();
        let ballot = ballot(promised.round + 1 + self.rng.u32(..2), at as u16);
        self.round = self.round.max(ballot.round);
        self.with(at, |stream, out| stream.campaign(ballot, batch(&format!("filler {ballot:?}")), out));
    }

    fn propose(&mut self, at: usize) {
        // A leader that nobody has told is deposed goes on proposing.
        let leads = |replica: &Replica| replica.stream.can_propose();
        let at = if leads(&self.replicas[at]) { Some(at) } else { self.replicas.iter().position(leads) };
        let Some(at) = at else { return };
        self.proposed += 1;
        let value = batch(&format!("value {}", self.proposed));
        let before = self.replicas[at].stream.next_slot();
        self.with(at, |stream, out| assert_eq!(stream.propose(value, out), before));
    }

    fn deliver(&mut self, faulty: bool) {
        if self.network.is_empty() {
            return;
        }
        let index = self.rng.usize(..self.network.len());
        let fate = if faulty { self.rng.u32(..100) } else { 99 };
        let (from, to, message) = match fate {
            0..15 => {
                self.network.swap_remove(index);
                return;
            }
            15..30 => self.network[index].clone(),
            30..40 => {
                self.late.push(self.network.swap_remove(index));
                return;
            }
            _ => self.network.swap_remove(index),
        };
        if let PaxosMessage::Fetched(fetched) = &message {
            self.seen.fetched += fetched.entries.len();
        }
        // Why a message was ignored is the matrix's matter; here only what it leads to.
        self.with(usize::from(to.0), |stream, out| {
            let _ignored = stream.on_message(from, message, out);
        });
    }

    fn persist(&mut self, at: usize, records: usize) {
        for _ in 0..records {
            let replica = &mut self.replicas[at];
            let Some(record) = replica.log.get(replica.durable).cloned() else { break };
            replica.durable += 1;
            match record {
                Persist::Vote { ballot } => {
                    replica.vote_durable = ballot;
                    replica.stream.on_vote_persisted(ballot, &mut self.out);
                }
                Persist::Accept { slot, ballot, batch } if self.needs_disk => {
                    self.vote_unless_forgetful(at, slot, ballot, &batch);
                    self.replicas[at].stream.on_persisted(slot, ballot);
                }
                Persist::Accept { .. } => {}
            }
            self.carry_out(at);
        }
    }

    /// What the logs hold decides what is chosen, whether or not anyone has noticed.
    fn vote(&mut self, at: usize, slot: Slot, ballot: Ballot, batch: &Batch) {
        let (value, voters) =
            self.votes.entry((slot, ballot)).or_insert_with(|| (Batch::clone(batch), BTreeSet::new()));
        assert!(value == batch, "two values for {slot:?} under {ballot:?}");
        voters.insert(at as u16);
        if voters.len() > self.replicas.len() / 2 {
            let chosen = self.chosen.entry(slot).or_insert_with(|| Batch::clone(batch));
            assert!(chosen == batch, "agreement: two values chosen in {slot:?}, the second under {ballot:?}");
        }
    }

    fn carry_out(&mut self, at: usize) {
        self.note_whether_it_votes_again(at);
        let mut out = std::mem::take(&mut self.out);
        for effect in out.drain(..) {
            match effect {
                Effect::Persist(record) => self.append(at, record),
                Effect::Send { to, message, rests_on } => {
                    let replica = &mut self.replicas[at];
                    let votes = matches!(message, PaxosMessage::Promise(_) | PaxosMessage::Accepted(_));
                    assert!(!votes || !replica.stream.is_forgetful(), "{at} forgot, and says {message:?}");
                    let after = match rests_on {
                        RestsOn::Nothing => 0,
                        RestsOn::Acceptance(slot) if self.needs_disk => {
                            let last = replica.log[..replica.accepts_end].last();
                            let is_last = matches!(last, Some(Persist::Accept { slot: s, .. }) if *s == slot);
                            assert!(is_last, "rests on {slot:?}, the last acceptance is {last:?}");
                            replica.accepts_end
                        }
                        RestsOn::Vote | RestsOn::Acceptance(_) => replica.votes_end,
                    };
                    replica.outbox.push((after, to, message));
                }
                Effect::Led { next } => {
                    self.seen.led += 1;
                    assert_eq!(next, self.replicas[at].stream.next_slot());
                }
                Effect::Deposed { .. } => self.seen.deposed += 1,
                Effect::Behind { .. } => {
                    self.seen.behind += 1;
                    self.replicas[at].is_behind = true;
                }
            }
        }
        assert!(self.out.is_empty());
        self.out = out;
        self.release(at);
        self.replicas[at].stream.assert_invariants();
    }

    fn append(&mut self, at: usize, record: Persist) {
        let replica = &mut self.replicas[at];
        let voted = replica.log[..replica.votes_end].last().map_or(Ballot::default(), |last| match last {
            Persist::Vote { ballot } => *ballot,
            Persist::Accept { .. } => unreachable!("votes_end is one above a vote"),
        });
        replica.log.push(record.clone());
        match record {
            Persist::Vote { ballot } => {
                assert!(ballot > voted, "promised {ballot:?} after {voted:?}");
                replica.votes_end = replica.log.len();
            }
            Persist::Accept { slot, ballot, batch } => {
                assert!(ballot == voted, "accepts under {ballot:?}, promised {voted:?}");
                replica.accepts_end = replica.log.len();
                if !self.needs_disk {
                    self.vote_unless_forgetful(at, slot, ballot, &batch);
                    self.replicas[at].stream.on_persisted(slot, ballot);
                }
            }
        }
    }

    /// Lets go of what is allowed to leave, and checks that it is true.
    fn release(&mut self, at: usize) {
        let replica = &mut self.replicas[at];
        let durable = replica.durable;
        let leaving: Vec<_> = replica.outbox.extract_if(.., |(after, ..)| *after <= durable).collect();
        for (_, to, message) in leaving {
            let spoken = match &message {
                PaxosMessage::Prepare(prepare) => prepare.ballot,
                PaxosMessage::Promise(promise) => promise.ballot,
                PaxosMessage::Rejected(rejected) => rejected.promised,
                PaxosMessage::Accept(accept) => accept.ballot,
                PaxosMessage::Accepted(accepted) => accepted.ballot,
                PaxosMessage::Chosen(chosen) => chosen.ballot,
                PaxosMessage::Fetch(_) => Ballot::default(),
                PaxosMessage::Fetched(fetched) => fetched.ballot,
                PaxosMessage::Rejoin(_) => Ballot::default(),
                PaxosMessage::Rejoined(rejoined) => rejoined.promised,
            };
            assert!(spoken <= self.replicas[at].vote_durable, "speaks of {spoken:?} too early: {message:?}");
            if matches!(message, PaxosMessage::Promise(_) | PaxosMessage::Accepted(_)) {
                let before = std::mem::replace(&mut self.replicas[at].spoken, spoken);
                assert!(spoken >= before, "{at} takes {before:?} back: {message:?}");
            }
            match &message {
                PaxosMessage::Accepted(accepted) => self.check_accepted(at, *accepted),
                PaxosMessage::Promise(promise) => self.seen.long_promises += usize::from(!promise.last),
                _ => {}
            }
            self.network.push((NodeId(at as u16), to, message));
        }
    }

    fn check_accepted(&self, at: usize, accepted: Accepted) {
        let voted = |slot: Slot| {
            let votes = self.votes.get(&(slot, accepted.ballot));
            self.chosen.contains_key(&slot) || votes.is_some_and(|(_, who)| who.contains(&(at as u16)))
        };
        assert!(voted(accepted.slot), "{at} has no vote for what it says: {accepted:?}");
        for slot in (0..accepted.through.0).map(Slot) {
            assert!(voted(slot), "{at} has no vote for {slot:?}: {accepted:?}");
        }
    }

    fn poll(&mut self, at: usize) {
        for _ in 0..self.rng.usize(..8) {
            self.poll_one(at);
        }
    }

    fn poll_one(&mut self, at: usize) -> bool {
        let replica = &mut self.replicas[at];
        let Some((slot, ballot, batch)) = replica.stream.poll_chosen() else { return false };
        assert_eq!(slot, Slot(replica.delivered), "delivered out of order at {at}");
        replica.delivered += 1;
        let chosen = self.chosen.get(&slot);
        assert!(chosen.is_some(), "{at} delivers {slot:?} under {ballot:?}, and no majority holds it");
        assert_eq!(chosen, Some(&batch), "{at} delivers another value in {slot:?}");
        self.seen.chosen += 1;
        self.seen.fillers += usize::from(batch.starts_with(b"filler"));
        let follows = replica.stream.role() == Role::Follower;
        self.seen.counted += usize::from(follows && replica.stream.leader().node != NodeId(at as u16));
        self.seen.dropped += usize::from(replica.stream.floor() > Slot(0));
        true
    }

    /// No more loss, and one campaigner. What is late still comes.
    fn heal(&mut self) {
        self.network.append(&mut self.late);
        let fit: Vec<usize> =
            (0..self.replicas.len()).filter(|&at| self.replicas[at].stream.can_campaign()).collect();
        let leader = fit[self.rng.usize(..fit.len())];
        let ballot = ballot(self.round + 1, leader as u16);
        self.with(leader, |stream, out| stream.campaign(ballot, batch("filler, healed"), out));
        let (mut to_propose, mut done) = (20, false);
        for _ in 0..100 {
            for at in 0..self.replicas.len() {
                self.persist(at, usize::MAX);
                self.with(at, |stream, out| {
                    stream.resend(out);
                    stream.heartbeat(out);
                    stream.retain();
                });
                while self.poll_one(at) {}
                self.jump_if_behind(at);
            }
            while to_propose > 0 && self.replicas[leader].stream.can_propose() {
                self.propose(leader);
                to_propose -= 1;
            }
            for _ in 0..self.network.len() {
                self.deliver(false);
            }
            let next = self.replicas[leader].stream.next_slot().0;
            done = to_propose == 0
                && self
                    .replicas
                    .iter()
                    .all(|replica| replica.delivered == next && !replica.stream.is_forgetful());
            if done {
                break;
            }
        }
        let ends: Vec<_> = self.replicas.iter().map(|r| (r.stream.role(), r.delivered, r.forgot)).collect();
        assert!(done, "no progress after healing, under {leader}: {to_propose} unproposed, {ends:?}");
    }
}

/// Says which seed failed, whatever the way it failed.
struct Seed(u64, &'static str);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("paxos schedule failed: {} seed={}", self.1, self.0);
        }
    }
}

fn run(what: &'static str, seed: u64, replicas: u16, limits: Limits, heals: bool) -> Seen {
    let _seed = Seed(seed, what);
    let mut world = World::new(seed, replicas, !seed.is_multiple_of(3), limits);
    for _ in 0..STEPS {
        world.step();
    }
    if heals {
        world.heal();
    }
    world.seen
}

fn run_all(what: &'static str, seeds: u64, replicas: u16, limits: Limits, heals: bool) -> Seen {
    let mut all = Seen::default();
    for seed in 0..seeds {
        let seen = run(what, seed, replicas, limits, heals);
        all.led += seen.led;
        all.deposed += seen.deposed;
        all.behind += seen.behind;
        all.fillers += seen.fillers;
        all.long_promises += seen.long_promises;
        all.fetched += seen.fetched;
        all.counted += seen.counted;
        all.dropped += seen.dropped;
        all.chosen += seen.chosen;
        all.restarts += seen.restarts;
        all.forgot_acceptances += seen.forgot_acceptances;
        all.forgot_votes += seen.forgot_votes;
        all.votes_again += seen.votes_again;
        all.jumps += seen.jumps;
    }
    println!("{what}: {all:?}");
    all
}

fn assert_met(seen: &Seen, seeds: u64) {
    let met = [seen.led, seen.deposed, seen.fillers, seen.long_promises, seen.fetched, seen.counted];
    assert!(met.iter().all(|&count| count > seeds as usize / 2), "the schedules are too tame: {seen:?}");
    assert!(seen.chosen > 50 * seeds as usize && seen.dropped > 0, "{seen:?}");
    let restarts = [seen.restarts, seen.forgot_acceptances, seen.forgot_votes, seen.votes_again, seen.jumps];
    assert!(restarts.iter().all(|&count| count > seeds as usize / 4), "too few restarts: {seen:?}");
}

const STEPS: usize = 2_000;
/// Small pages, so that promises and catch-up come in parts; a ring no schedule fills.
const ROOMY: Limits =
    Limits { pipeline_slots: 8, retained_slots: 512, retained_bytes: 1 << 20, page_slots: 3, page_bytes: 40 };
/// A ring and a memory that every schedule fills. Those left behind need checkpoints.
const TIGHT: Limits =
    Limits { pipeline_slots: 6, retained_slots: 16, retained_bytes: 120, page_slots: 3, page_bytes: 40 };

/// Agreement and progress, the two things the stream is for.
#[test]
fn three_replicas_agree_under_every_schedule_and_finish_when_it_heals() {
    assert_met(&run_all("three", 800, 3, ROOMY, true), 800);
}

/// Two votes are no majority here: followers must wait to be told.
#[test]
fn five_replicas_agree_under_every_schedule_and_finish_when_it_heals() {
    assert_met(&run_all("five", 800, 5, ROOMY, true), 800);
}

/// Dropping slots to make room must never drop what a majority has not, or make a recovery skip it.
#[test]
fn three_replicas_agree_and_finish_when_memory_is_short() {
    let seen = run_all("tight", 500, 3, TIGHT, true);
    assert!(seen.behind > 0 && seen.led > 500 && seen.chosen > 5_000, "{seen:?}");
}

/// The schedules must be able to tell each rule from no rule, or they prove nothing about it.
#[cfg(feature = "mutation")]
#[test]
fn every_rule_of_restarts_is_missed_when_it_is_dropped() {
    use crate::rules::{FAILURE_RULES, Rule, without};
    let fails = |seed| std::panic::catch_unwind(|| run("mutated", seed, 3, ROOMY, true)).is_err();
    for (rule, name) in FAILURE_RULES.into_iter().filter(|(rule, _)| *rule != Rule::Lease) {
        let caught = without(rule, || (0..40_000).find(|&seed| fails(seed)));
        println!("{name:20} caught by seed {caught:?}");
        assert!(caught.is_some(), "no schedule misses {name}");
    }
}
