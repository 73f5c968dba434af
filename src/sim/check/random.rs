//! Random histories, and a second opinion on them.
//!
//! A [`Run`] is made by executing transactions one by one, so it is correct; then it may be bent. The
//! second opinion shares nothing with the checker: it replays, and tries every order there is.
#![forbid(unsafe_code)]

use super::super::history::{Direction, History, KeyId, WriteId};
use super::super::versions::FinalRow;
use super::check;
use crate::types::{Prng, Timestamp};

#[derive(Clone, Debug)]
struct Run {
    txns: Vec<Txn>,
    keys: u32,
    rows: Vec<(u32, u64, Option<u64>)>,
}

#[derive(Clone, Debug)]
struct Txn {
    begin: u64,
    reply: u64,
    timestamp: u64,
    role: Role,
    /// The key, and what was seen of it.
    reads: Vec<(u32, Option<u64>)>,
    /// The ends of the range that the last reads are a scan of.
    scan: Option<(u32, u32)>,
    /// The key, the id, whether it is a deletion.
    writes: Vec<(u32, u64, bool)>,
    /// The client hears nothing, or only the speculative answer.
    contact: Contact,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    Commits,
    Undone,
    Snapshot,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Contact {
    Kept,
    LostAfterSpeculative,
    Lost,
}

/// By key: the id of the live write, and the timestamp of the newest.
type State = Vec<(Option<u64>, u64)>;

struct Shape {
    txns: usize,
    keys: u32,
    deletions: bool,
    contact_lost: bool,
}

impl Run {
    /// Executes `shape.txns` programs one after another, at instants 100 ns apart, within wider intervals.
    fn serial(prng: &mut Prng, shape: &Shape) -> Run {
        let mut run = Run { txns: Vec::new(), keys: shape.keys, rows: Vec::new() };
        let mut state: State = vec![(None, 0); shape.keys as usize];
        for number in 0..shape.txns {
            let at = 1_000 + 100 * number as u64;
            let (begin, reply) = (at - prng.u64(0..400), at + prng.u64(1..400));
            let role = if prng.u8(0..10) == 0 { Role::Undone } else { Role::Commits };
            let mut txn = Txn {
                begin,
                reply,
                timestamp: 0,
                role,
                reads: Vec::new(),
                scan: None,
                writes: Vec::new(),
                contact: Contact::Kept,
            };
            if shape.contact_lost && prng.u8(0..4) == 0 {
                txn.contact = *prng.choice([Contact::Lost, Contact::LostAfterSpeculative].iter()).unwrap();
            }
            txn.run(prng, shape, &mut state, number as u64);
            run.txns.push(txn);
        }
        run.stamp(prng);
        run.add_snapshots(prng, shape.txns / 5);
        run.rows = run.state_at(u64::MAX).into_iter().zip(0..).map(|((id, at), key)| (key, at, id)).collect();
        run
    }

    /// Timestamps follow the order of execution, but for transactions that have no key in common.
    fn stamp(&mut self, prng: &mut Prng) {
        let mut order: Vec<usize> = (0..self.txns.len()).collect();
        for _ in 0..order.len() {
            let place = prng.usize(1..order.len());
            let (a, b) = (&self.txns[order[place - 1]], &self.txns[order[place]]);
            if !a.keys().any(|key| b.keys().any(|other| other == key)) {
                order.swap(place - 1, place);
            }
        }
        let mut timestamp = 0;
        for index in order {
            timestamp += prng.u64(1..4);
            self.txns[index].timestamp = timestamp;
        }
    }

    fn add_snapshots(&mut self, prng: &mut Prng, count: usize) {
        let last = self.txns.iter().map(|txn| txn.timestamp).max().unwrap_or(0);
        for _ in 0..count {
            let timestamp = prng.u64(1..last + 2);
            let state = self.state_at(timestamp);
            let reads =
                (0..self.keys).filter(|_| prng.bool()).map(|key| (key, state[key as usize].0)).collect();
            let (begin, reply) = (50_000, 60_000);
            let (role, contact) = (Role::Snapshot, Contact::Kept);
            self.txns.push(Txn { begin, reply, timestamp, role, reads, scan: None, writes: vec![], contact });
        }
    }

    fn writers(&self) -> Vec<&Txn> {
        let wrote = |txn: &&Txn| txn.role == Role::Commits && !txn.writes.is_empty();
        let mut writers: Vec<&Txn> = self.txns.iter().filter(wrote).collect();
        writers.sort_by_key(|txn| txn.timestamp);
        writers
    }

    fn state_at(&self, timestamp: u64) -> State {
        let mut state = vec![(None, 0); self.keys as usize];
        for txn in self.writers().iter().filter(|txn| txn.timestamp <= timestamp) {
            txn.apply(&mut state);
        }
        state
    }

    fn history(&self) -> (History, Vec<FinalRow>) {
        let mut history = History::new();
        for (client, txn) in self.txns.iter().enumerate() {
            txn.record(&mut history, client as u32);
        }
        let row = |(key, timestamp, id): &(u32, u64, Option<u64>)| {
            (KeyId(*key), Timestamp(*timestamp), id.map(WriteId))
        };
        (history, self.rows.iter().map(row).collect())
    }

    /// The second opinion: replay in timestamp order reproduces every read, snapshot and the state at
    /// rest, and some order of all, in real time, with versions in timestamp order, explains every read.
    fn is_right(&self) -> bool {
        let writers = self.writers();
        let keyed = |txn: &Txn| txn.writes.iter().map(|(key, ..)| (*key, txn.timestamp)).collect::<Vec<_>>();
        let mut places: Vec<(u32, u64)> = writers.iter().flat_map(|txn| keyed(txn)).collect();
        places.sort_unstable();
        let distinct = places.windows(2).all(|pair| pair[0] != pair[1]);
        let replayed = writers.iter().all(|txn| txn.reads_agree(&self.state_at(txn.timestamp - 1)));
        let snapshots = self.txns.iter().filter(|txn| txn.role == Role::Snapshot);
        let cut = snapshots.into_iter().all(|txn| txn.reads_agree(&self.state_at(txn.timestamp)));
        let state = self.state_at(u64::MAX);
        let at_rest = self.rows.iter().all(|(key, at, id)| {
            let (live, newest) = state[*key as usize];
            live == *id && newest == *at
        });
        let committed: Vec<&Txn> = self.txns.iter().filter(|txn| txn.role == Role::Commits).collect();
        let empty = vec![(None, 0); self.keys as usize];
        distinct && replayed && cut && at_rest && has_order(&committed, &committed, &empty)
    }

    /// One change to what was seen, when, or in what order.
    fn bend(&mut self, prng: &mut Prng) {
        let index = prng.usize(0..self.txns.len());
        let other = prng.usize(0..self.txns.len());
        let ids: Vec<(u32, u64)> = self
            .txns
            .iter()
            .flat_map(|txn| txn.writes.iter().filter(|write| !write.2).map(|(key, id, _)| (*key, *id)))
            .collect();
        let txn = &mut self.txns[index];
        match prng.u8(0..8) {
            0..4 if !txn.reads.is_empty() => {
                let read = prng.usize(0..txn.reads.len());
                let key = txn.reads[read].0;
                let of_key = ids.iter().filter(|(other, _)| *other == key).map(|(_, id)| Some(*id));
                let seen: Vec<Option<u64>> = of_key.chain([None]).collect();
                txn.reads[read].1 = seen[prng.usize(0..seen.len())];
            }
            4 => txn.begin = prng.u64(500..txn.reply),
            5 => txn.reply = txn.begin + prng.u64(1..900),
            6 => {
                let timestamp = self.txns[other].timestamp;
                self.txns[other].timestamp = self.txns[index].timestamp;
                self.txns[index].timestamp = timestamp;
            }
            _ if txn.role == Role::Commits => txn.role = Role::Undone,
            _ => {}
        }
    }
}

impl Txn {
    /// Reads, then writes. One that is undone leaves no trace in `state`.
    fn run(&mut self, prng: &mut Prng, shape: &Shape, state: &mut State, number: u64) {
        for key in random_keys(prng, shape.keys) {
            self.reads.push((key, state[key as usize].0));
        }
        if prng.u8(0..4) == 0 {
            let low = prng.u32(0..shape.keys);
            let high = prng.u32(low..shape.keys.min(low + 8)) + 1;
            self.scan = Some((low, high));
            self.reads.extend((low..high).map(|key| (key, state[key as usize].0)));
        }
        if prng.u8(0..10) < 7 {
            for key in random_keys(prng, shape.keys) {
                let deleted = shape.deletions && prng.u8(0..3) == 0;
                self.writes.push((key, number * 100 + self.writes.len() as u64, deleted));
            }
        }
        if self.role == Role::Commits {
            self.apply(state);
        }
    }

    fn keys(&self) -> impl Iterator<Item = u32> {
        self.reads.iter().map(|(key, _)| *key).chain(self.writes.iter().map(|(key, ..)| *key))
    }

    fn apply(&self, state: &mut State) {
        for (key, id, deleted) in &self.writes {
            state[*key as usize] = ((!deleted).then_some(*id), self.timestamp);
        }
    }

    fn reads_agree(&self, state: &State) -> bool {
        self.reads.iter().all(|(key, seen)| state[*key as usize].0 == *seen)
    }

    /// A writer sees each key as it is at its timestamp, so an absence it sees is the one of that time:
    /// the values it comes after are those with lower timestamps.
    fn is_in_place(&self, all: &[&Txn], left: &[&Txn]) -> bool {
        let is_left = |txn: &Txn| left.iter().any(|other| std::ptr::eq(*other, txn));
        let puts = |txn: &Txn, key: u32| txn.writes.iter().any(|write| write.0 == key && !write.2);
        self.writes.is_empty()
            || self.reads.iter().all(|(key, _)| {
                let mut others = all.iter().filter(|txn| !std::ptr::eq(**txn, self) && puts(txn, *key));
                others.all(|txn| is_left(txn) == (txn.timestamp >= self.timestamp))
            })
    }

    fn record(&self, history: &mut History, client: u32) {
        let txn = history.begin(self.begin, client);
        let scanned = self.scan.map_or(0, |(low, high)| (high - low) as usize);
        let (reads, rows) = self.reads.split_at(self.reads.len() - scanned);
        for (key, seen) in reads {
            history.read(txn, KeyId(*key), seen.map(WriteId));
        }
        if let Some((low, high)) = self.scan {
            let rows: Vec<(KeyId, WriteId)> =
                rows.iter().filter_map(|(key, seen)| Some((KeyId(*key), WriteId((*seen)?)))).collect();
            history.scan(txn, KeyId(low)..KeyId(high), Direction::Forward, true, &rows);
        }
        for (key, id, deleted) in &self.writes {
            history.write(txn, KeyId(*key), WriteId(*id), *deleted);
        }
        let timestamp = Timestamp(self.timestamp);
        match (self.role, self.contact) {
            (Role::Snapshot, _) => history.snapshot(txn, self.reply, timestamp),
            (_, Contact::Lost) => history.unknown(txn),
            (_, Contact::LostAfterSpeculative) => {
                history.speculative(txn, self.reply, timestamp);
                history.unknown(txn);
            }
            (Role::Commits, Contact::Kept) => {
                history.speculative(txn, self.reply, timestamp);
                history.durable(txn, self.reply + 1_000);
            }
            (Role::Undone, Contact::Kept) => {
                history.speculative(txn, self.reply, timestamp);
                history.rolled_back(txn, self.reply + 1_000);
            }
        }
    }
}

fn random_keys(prng: &mut Prng, keys: u32) -> Vec<u32> {
    let mut chosen: Vec<u32> = (0..prng.usize(0..4)).map(|_| prng.u32(0..keys)).collect();
    chosen.sort_unstable();
    chosen.dedup();
    chosen
}

/// Can `left`, of `all` in the order recorded, be executed one by one from `state`? Tries every order.
fn has_order(all: &[&Txn], left: &[&Txn], state: &State) -> bool {
    let may_be_next = |index: usize| {
        let txn = left[index];
        let first = left.iter().enumerate().all(|(place, other)| match place < index {
            true => other.reply > txn.begin,
            false => place == index || other.reply >= txn.begin,
        });
        let newest = txn.writes.iter().all(|(key, ..)| state[*key as usize].1 < txn.timestamp);
        first && newest && txn.reads_agree(state) && txn.is_in_place(all, left)
    };
    let goes_on = |index: usize| {
        let (mut left, mut state) = (left.to_vec(), state.clone());
        left.remove(index).apply(&mut state);
        has_order(all, &left, &state)
    };
    left.is_empty() || (0..left.len()).any(|index| may_be_next(index) && goes_on(index))
}

const SMALL: Shape = Shape { txns: 6, keys: 3, deletions: false, contact_lost: false };

/// A checker that cries wolf is soon ignored. Outcomes nobody heard of, deletions and overlapping
/// intervals are where it would.
#[test]
fn a_serial_execution_always_passes() {
    for seed in 0..6_000 {
        let mut prng = Prng::with_seed(seed);
        let (deletions, contact_lost) = (seed % 2 == 0, seed % 3 == 0);
        let shape =
            Shape { txns: 5 + seed as usize % 60, keys: 2 + seed as u32 % 9, deletions, contact_lost };
        let run = Run::serial(&mut prng, &shape);
        let (history, rows) = run.history();
        let summary = check(&history, &rows).unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
        assert_eq!(summary.snapshots, shape.txns / 5);
        if !contact_lost {
            let committed = run.txns.iter().filter(|txn| txn.role == Role::Commits).count();
            assert_eq!((summary.committed, summary.unsettled, summary.unverified), (committed, 0, 0));
        }
    }
}

/// The size the simulator makes, with a hot key range.
#[test]
fn a_long_serial_execution_passes() {
    for (seed, keys) in [(1, 20), (2, 200), (3, 2_000)] {
        let shape = Shape { txns: 2_000, keys, deletions: true, contact_lost: false };
        let (history, rows) = Run::serial(&mut Prng::with_seed(seed), &shape).history();
        let summary = check(&history, &rows).unwrap_or_else(|violation| panic!("{violation}"));
        assert!(summary.edges > 4_000 && summary.writer_reads > 1_000, "{summary:?}");
    }
}

/// Without deletions nothing is left in doubt, so the verdict must be the true one, both ways.
#[test]
fn a_bent_history_is_refused_exactly_when_it_is_wrong() {
    let (mut right, mut wrong) = (0, 0);
    for seed in 0..40_000 {
        let mut prng = Prng::with_seed(seed);
        let mut run = Run::serial(&mut prng, &SMALL);
        assert!(run.is_right(), "seed {seed}: the second opinion is mistaken");
        for _ in 0..prng.usize(1..3) {
            run.bend(&mut prng);
        }
        let (history, rows) = run.history();
        let verdict = check(&history, &rows);
        assert_eq!(verdict.is_ok(), run.is_right(), "seed {seed}: {verdict:?}");
        *(if verdict.is_ok() { &mut right } else { &mut wrong }) += 1;
    }
    assert!(right > 8_000 && wrong > 8_000, "{right} right, {wrong} wrong: one side is hardly tested");
}

/// With deletions an absence may be any of several, and with outcomes unknown a witness may be missing:
/// some wrong histories pass. No right one may be refused.
#[test]
fn a_right_history_is_never_refused() {
    let mut caught = 0;
    for seed in 0..20_000 {
        let mut prng = Prng::with_seed(seed);
        let shape = Shape { deletions: true, contact_lost: seed % 2 == 0, ..SMALL };
        let mut run = Run::serial(&mut prng, &shape);
        run.bend(&mut prng);
        let (history, rows) = run.history();
        match check(&history, &rows) {
            Ok(_) => {}
            Err(violation) if run.is_right() => panic!("seed {seed}: {violation}"),
            Err(_) => caught += 1,
        }
    }
    assert!(caught > 4_000, "only {caught} were caught");
}
