//! The simulated disk, and with it the real log format, under thousands of drawn lives and crashes.
//!
//! `Trial` is a host that writes down what it was told and holds every recovery against it. What a recovery owes
//! a medium that was lied to comes from `Medium::owed`; the trial counts the verdicts, so that none goes untried.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::mem;

use super::*;
use crate::bounds::{MS, SECOND, US};
use crate::types::{Ballot, CoreId, NodeId, PartitionId, Slot};

mod behaviour;

const SEGMENT: usize = 8 * WAL_BLOCK_BYTES;

fn options(faults: DiskFaults) -> SimDiskOptions {
    let identity = LogIdentity::new("sim", NodeId(1), CoreId(0));
    SimDiskOptions { identity, write_bytes_max: 2 * WAL_BLOCK_BYTES, faults }
}

/// What was appended; its number is its slot, and its bytes follow from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Known {
    lsn: Lsn,
    number: u64,
    kind: RecordKind,
    partition: PartitionId,
    ballot: Ballot,
    bytes: usize,
}

impl Known {
    fn payload(&self) -> impl Iterator<Item = u8> {
        let number = self.number;
        (0..self.bytes as u64).map(move |at| (at * 7 + number).to_le_bytes()[0])
    }

    fn seen(view: RecordView<'_>) -> Known {
        let Record { kind, partition, ballot, slot, payload } = view.record;
        let known = Known { lsn: view.lsn, number: slot.0, kind, partition, ballot, bytes: payload.len() };
        assert!(known.payload().eq(payload.iter().copied()), "the bytes of another record: {known:?}");
        known
    }
}

/// How often each verdict was passed over all trials of a test.
#[derive(Default, Debug)]
struct Verdicts {
    whole: u32,
    cut: u32,
    ended: u32,
    damaged: u32,
    revived: u32,
    votes_lost: u32,
    failed: u32,
    segments_most: usize,
}

/// One disk through many lives.
struct Trial<'a> {
    faults: DiskFaults,
    prng: Prng,
    now: Timestamp,
    disk: SimDisk,
    /// What the log holds, in order: recovered last, and appended since. Truncated from the front at leisure.
    log: Vec<Known>,
    /// Of them, the first so many must come back.
    durable: usize,
    /// So many were recovered last, and what earlier lives had appended behind them: it may be on its way still,
    /// and come back as long as nothing else has followed.
    recovered: usize,
    left_behind: Vec<Vec<Known>>,
    truncated: Lsn,
    /// Votes that must come back, and all that were ever cast.
    votes: VoteTable,
    cast: BTreeSet<(PartitionId, Ballot)>,
    number: u64,
    verdicts: &'a mut Verdicts,
}

impl<'a> Trial<'a> {
    fn new(seed: u64, faults: DiskFaults, verdicts: &'a mut Verdicts) -> Trial<'a> {
        let opened =
            SimDisk::open(Medium::new(SEGMENT), options(faults), &mut |_| panic!("nothing was written"));
        Trial {
            faults,
            prng: Prng::with_seed(seed),
            now: Timestamp(SECOND),
            disk: opened.expect("a blank drive is whole").disk,
            log: Vec::new(),
            durable: 0,
            recovered: 0,
            left_behind: Vec::new(),
            truncated: Lsn(0),
            votes: VoteTable::new(),
            cast: BTreeSet::new(),
            number: 0,
            verdicts,
        }
    }

    fn live(&mut self) {
        for _ in 0..self.prng.usize(..60) {
            match self.prng.u8(..10) {
                0..=3 => (0..self.prng.usize(1..6)).for_each(|_| self.append()),
                4..=5 => self.disk.submit(self.now, &mut self.prng),
                6 => self.truncate(),
                _ => {
                    let idle = self.now.plus_ns(self.prng.u64(..500 * US));
                    let due = self.disk.next_due().filter(|_| self.prng.bool());
                    self.now = due.unwrap_or(idle).max(self.now);
                    if !self.complete() {
                        return;
                    }
                    self.disk.submit(self.now, &mut self.prng);
                }
            }
        }
    }

    fn append(&mut self) {
        if self.disk.room() == 0 {
            return;
        }
        self.number += 1;
        let is_vote = self.prng.u8(..6) == 0;
        let bytes = match self.prng.u8(..8) {
            0..=4 => self.prng.usize(..300),
            5..=6 => self.prng.usize(..6_000),
            _ => self.prng.usize(..5 * WAL_BLOCK_BYTES),
        };
        let mut known = Known {
            lsn: Lsn(0),
            number: self.number,
            kind: if is_vote { RecordKind::Vote } else { RecordKind::Accept },
            partition: PartitionId(self.prng.u16(..3)),
            ballot: Ballot { round: self.number as u32, node: NodeId(1) },
            bytes: if is_vote { 0 } else { bytes },
        };
        let Known { kind, partition, ballot, .. } = known;
        let payload: Vec<u8> = known.payload().collect();
        let slot = Slot(known.number);
        known.lsn = self.disk.append(&Record { kind, partition, ballot, slot, payload: &payload });
        self.log.push(known);
        if is_vote {
            self.cast.insert((partition, ballot));
        }
    }

    /// False when the disk has failed.
    fn complete(&mut self) -> bool {
        let Ok(durable) = self.disk.complete(self.now) else {
            assert_eq!(self.disk.complete(self.now), Err(DiskFailure::Stopped));
            self.verdicts.failed += 1;
            return false;
        };
        while let Some(known) = self.log.get(self.durable).filter(|known| known.lsn <= durable) {
            if known.kind == RecordKind::Vote {
                votes::merge(&mut self.votes, known.partition, known.ballot);
            }
            self.durable += 1;
        }
        true
    }

    fn truncate(&mut self) {
        let at = self.prng.usize(..=self.durable);
        if let Some(known) = self.log[..self.durable].get(at) {
            self.truncated = self.truncated.max(known.lsn);
            self.disk.truncate(known.lsn);
        }
    }

    /// Crashes and opens again. After a refusal the replica is rebuilt: it keeps its votes and nothing else.
    fn crash_and_open(&mut self) {
        let crash = if self.prng.bool() { Crash::PowerCut } else { Crash::ProcessKill };
        let opened = SimDisk::open(Medium::new(SEGMENT), options(self.faults), &mut |_| {});
        let disk = mem::replace(&mut self.disk, opened.unwrap().disk);
        let medium = disk.crash(self.now, &mut self.prng, crash);
        self.verdicts.segments_most = self.verdicts.segments_most.max(medium.segment_count());
        let owed = medium.owed();
        let before = medium.clone();
        let mut visited = Vec::new();
        match SimDisk::open(medium, options(self.faults), &mut |view| visited.push(Known::seen(view))) {
            Ok(opened) => self.on_opened(opened, visited, owed),
            Err(refused) => {
                assert!(refused.medium == before, "a refused medium was changed");
                self.on_refused(*refused, owed);
            }
        }
    }

    fn on_opened(&mut self, opened: Opened, visited: Vec<Known>, owed: Owed) {
        let Opened { disk, end, votes, .. } = opened;
        assert!(end.start <= start_of(segment_of(self.truncated, SEGMENT), SEGMENT), "truncated too far");
        self.choose_log(&visited, owed);
        let skipped = self.log.iter().take_while(|known| known.lsn <= end.start).count();
        let rest = &self.log[skipped..];
        assert!(visited.len() <= rest.len(), "{} visited of {}", visited.len(), rest.len());
        assert!(visited == rest[..visited.len()], "not what was appended, in order");
        let owed_count = match owed {
            Owed::Everything => self.durable,
            Owed::EndOrDamage(from) => self.log[..self.durable].iter().filter(|k| k.lsn <= from).count(),
            Owed::Damage => panic!("damage was not noticed; the end is {end:?}"),
        };
        assert!(skipped + visited.len() >= owed_count, "{} + {} of {owed_count}", skipped, visited.len());
        match owed {
            Owed::Everything if visited.len() < rest.len() => self.verdicts.cut += 1,
            Owed::Everything => self.verdicts.whole += 1,
            _ => self.verdicts.ended += 1,
        }
        self.check_votes(&votes);
        self.votes = votes;
        self.leave_behind(skipped + visited.len());
        (self.durable, self.recovered) = (visited.len(), visited.len());
        self.log = visited;
        self.disk = disk;
    }

    /// What came back may be the end of an earlier life, if nothing of this one is owed.
    fn choose_log(&mut self, visited: &[Known], owed: Owed) {
        let Some(last) = visited.last() else { return };
        if self.log.contains(last) || self.durable > self.recovered && owed == Owed::Everything {
            return;
        }
        if let Some(revived) = self.left_behind.iter().position(|tail| tail.contains(last)) {
            let revived = self.left_behind.swap_remove(revived);
            self.log.truncate(self.recovered);
            self.log.extend(revived);
            self.durable = self.recovered;
            self.left_behind.clear();
            self.verdicts.revived += 1;
        }
    }

    fn leave_behind(&mut self, kept: usize) {
        if kept > self.recovered {
            self.left_behind.clear();
        }
        self.left_behind.push(self.log[kept..].to_vec());
    }

    fn on_refused(&mut self, refused: Refused, owed: Owed) {
        let Refused { why, mut medium } = refused;
        match why {
            RefusedWhy::Log(_) => {
                assert!(owed != Owed::Everything, "refused without need: {why}");
                self.verdicts.damaged += 1;
                self.check_votes(&medium.votes().expect("or that is why"));
                medium.wipe_log();
            }
            // One copy torn and the other rotten: nothing is left to be remembered, and that is said.
            RefusedWhy::Votes => {
                assert!(self.faults.lies.rot > 0.0 && medium.votes().is_none());
                self.verdicts.votes_lost += 1;
                medium = Medium::new(SEGMENT);
            }
        }
        let opened = SimDisk::open(medium, options(self.faults), &mut |_| panic!("it was wiped")).unwrap();
        (self.disk, self.votes) = (opened.disk, opened.votes);
        self.log.clear();
        self.left_behind.clear();
        (self.durable, self.recovered, self.truncated) = (0, 0, Lsn(0));
    }

    fn check_votes(&self, found: &VoteTable) {
        let was_cast = |vote: (&PartitionId, &Ballot)| self.cast.contains(&(*vote.0, *vote.1));
        assert!(found.iter().all(was_cast), "a vote nobody cast: {found:?}");
        // Of two copies that were both lied about, nothing can be left.
        if self.faults.lies.lost + self.faults.lies.misdirected > 0.0 {
            return;
        }
        for (partition, ballot) in &self.votes {
            assert!(found.get(partition) >= Some(ballot), "{partition:?} forgot {ballot:?}: {found:?}");
        }
    }
}

fn run_trials(seeds: u64, faults: impl Fn(&mut Prng) -> DiskFaults) -> Verdicts {
    let mut verdicts = Verdicts::default();
    for seed in 0..seeds {
        let mut prng = Prng::with_seed(seed);
        let mut trial = Trial::new(seed, faults(&mut prng), &mut verdicts);
        let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..prng.usize(2..10) {
                trial.live();
                // A node that cannot come up crashes again before it has written anything.
                (0..prng.usize(1..3)).for_each(|_| trial.crash_and_open());
            }
        }));
        assert!(run.is_ok(), "seed {seed}");
    }
    verdicts
}

/// Each switch on or off, so that faults are tried alone and together.
fn draw_hardships(prng: &mut Prng) -> Hardships {
    let mut some = |chance: f64| if prng.bool() { chance } else { 0.0 };
    let (slow, stuck, failed, full) = (some(0.1), some(0.002), some(0.002), some(0.3));
    Hardships { slow, slow_ns: 20 * MS, stuck, failed, full, full_ns: 5 * MS }
}

/// Power cuts, kills, torn writes in any order, errors and full disks: whatever an honest drive does, what it
/// said is there is there, and nobody calls it damaged.
#[test]
fn an_honest_drive_keeps_what_was_reported_durable_through_every_crash() {
    let verdicts =
        run_trials(2_000, |prng| DiskFaults { hardships: draw_hardships(prng), ..DiskFaults::NONE });
    assert_eq!((verdicts.ended, verdicts.damaged, verdicts.votes_lost), (0, 0, 0));
    assert!(verdicts.whole > 1_000 && verdicts.cut > 1_000 && verdicts.failed > 50, "{verdicts:?}");
    assert!(verdicts.segments_most > 6 && verdicts.revived > 10, "{verdicts:?}");
}

/// A bit that flipped in what a peer was told of, read as the end of the log, takes back a promise.
#[test]
fn rot_is_named_wherever_a_later_write_bears_witness_and_no_vote_is_forgotten() {
    let rot = |prng: &mut Prng| {
        let lies = Lies { rot: 0.5, ..Lies::default() };
        DiskFaults { hardships: draw_hardships(prng), lies, ..DiskFaults::NONE }
    };
    let verdicts = run_trials(2_000, rot);
    assert!(verdicts.damaged > 1_000 && verdicts.ended > 50 && verdicts.cut > 1_000, "{verdicts:?}");
    assert!(verdicts.votes_lost > 0, "{verdicts:?}");
}

/// Drives that acknowledge what they never write, or write it over something else.
#[test]
fn writes_that_were_lied_about_are_named_or_lie_at_the_very_end() {
    for lies in [Lies { lost: 0.02, ..Lies::default() }, Lies { misdirected: 0.02, ..Lies::default() }] {
        let verdicts = run_trials(1_000, |prng| DiskFaults {
            hardships: draw_hardships(prng),
            lies,
            ..DiskFaults::NONE
        });
        assert!(
            verdicts.damaged > 200 && verdicts.ended > 50 && verdicts.whole > 500,
            "{lies:?}: {verdicts:?}"
        );
    }
}

/// Everything at once: nothing that was never appended, no hole, no damage unnoticed.
#[test]
fn all_faults_together_never_pass_for_a_shorter_log() {
    let verdicts = run_trials(1_500, |prng| {
        let lies = Lies { lost: 0.005, misdirected: 0.005, rot: 0.2 };
        DiskFaults { hardships: draw_hardships(prng), lies, ..DiskFaults::NONE }
    });
    assert!(verdicts.damaged > 500 && verdicts.ended > 50 && verdicts.cut > 500, "{verdicts:?}");
}
