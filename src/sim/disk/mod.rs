//! The simulated disk of one core: the real log format over a drive that can be crashed and that may lie.
//!
//! Records become writes through `wal::Wal` and are read back through `wal::Replay`, in the steps of the real
//! disk, so that a recovery in the simulator is the recovery of a node. Time and chance are handed in.
//! At `next_due`, and at the start of a turn, call `complete`; at its end, and after every `complete`, `submit`.
//!
//! | file | is |
//! |---|---|
//! | `medium` | what the drive holds, and what opening it must come to |
//! | `faults` | what goes wrong, by what recovery owes it |
//! | `votes` | the second copy of the votes |
//! | `checkpoints` | checkpoints of the core's partitions, as opaque bytes |
//!
//! Invariants:
//!   1. Writes are begun in the order of positions and complete in any; `written` passes one only when it and
//!      all before it have completed.
//!   2. What is reported durable never passes `written`, nor a vote that no slot holds.
//!   3. After a failure nothing is begun, and every call of `complete` says so.
//!   4. Opening changes nothing on a medium that it refuses.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use thiserror::Error;

use crate::bounds::{WAL_BLOCK_BYTES, WAL_WRITES_MAX};
use crate::partition::Log;
use crate::types::{Lsn, Prng, Timestamp};
use crate::wal::{
    Damage, End, LogIdentity, Record, RecordKind, RecordView, Replay, Wal, segment_of, start_of,
};

mod checkpoints;
mod faults;
mod medium;
mod votes;

pub use checkpoints::{CheckpointEvent, CheckpointFaults, CheckpointPort, Draft, Piece, SimCheckpoints};
pub use faults::{Crash, DiskFailure, DiskFaults, Hardships, Lie, Lies, STUCK_NS};
pub use medium::{Medium, Owed, Rot};
pub use votes::VoteTable;

use faults::{Fate, happens};
use medium::{Landing, Run, Standing};
use votes::VoteKeeper;

pub struct SimDisk {
    options: SimDiskOptions,
    wal: Wal,
    medium: Medium,
    votes: VoteKeeper,
    /// In the order of positions; those done wait for those before them.
    flights: VecDeque<Flight>,
    /// Buffers of flights that are over.
    buffers: Vec<Vec<u8>>,
    /// The drive says it holds everything below.
    written: Lsn,
    /// How far the log was appended when `written` last moved, and where to: what comes later bears witness.
    witnessed: VecDeque<(Lsn, Lsn)>,
    /// The end of the last write begun is in the midst of a run.
    midst_of_run: bool,
    /// The oldest segment that is not truncated, the one that writes go to, and the highest that was made.
    oldest: u64,
    /// Everything below is to go, as soon as it is durable.
    unneeded: Lsn,
    writing: u64,
    newest: u64,
    /// No segment can be made before.
    full_until: Option<Timestamp>,
    /// Of the next write, this is told.
    lie: Option<Lie>,
    failed: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct SimDiskOptions {
    pub identity: LogIdentity,
    /// The most one write carries: a multiple of a block. Larger runs take several writes.
    pub write_bytes_max: usize,
    pub faults: DiskFaults,
}

/// A disk that was opened, and what it remembers besides the records that were visited.
pub struct Opened {
    pub disk: SimDisk,
    pub end: End,
    /// From the log and the slots, the higher of each.
    pub votes: VoteTable,
}

/// A medium that cannot be trusted, unchanged. When it is the log, its votes can still be read.
#[derive(Debug)]
pub struct Refused {
    pub why: RefusedWhy,
    pub medium: Medium,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum RefusedWhy {
    #[error("{0}")]
    Log(Damage),
    #[error("both copies of the votes are unreadable")]
    Votes,
}

impl SimDisk {
    /// Shows `visit` every record of the log, in order, and goes on in a fresh segment. When it is refused,
    /// forget what was visited.
    pub fn open(
        mut medium: Medium,
        options: SimDiskOptions,
        visit: &mut dyn FnMut(RecordView<'_>),
    ) -> Result<Opened, Box<Refused>> {
        let SimDiskOptions { identity, .. } = options;
        let segment_bytes = medium.segment_bytes();
        let Some(mut kept) = medium.kept() else {
            return Err(Box::new(Refused { why: RefusedWhy::Votes, medium }));
        };
        let replayed = replay(&medium, identity, &mut |view| {
            if view.record.kind == RecordKind::Vote {
                votes::merge(&mut kept.votes, view.record.partition, view.record.ballot);
                kept.cover(view.record.partition, view.record.slot);
            }
            visit(view);
        });
        let end = match replayed {
            Ok(end) => end,
            Err(damage) => return Err(Box::new(Refused { why: RefusedWhy::Log(damage), medium })),
        };
        let is_new = medium.segments.is_empty();
        let first = medium.segments.keys().last().map_or(0, |last| last + 1);
        let oldest = medium.segments.keys().next().copied().unwrap_or(first);
        medium.settle(end.segment.unwrap_or(0), end.end);
        // What was to go and is here is asked for again.
        kept.oldest = kept.oldest.min(oldest);
        let generations = medium.keep_votes(&kept);
        let votes = kept.votes.clone();
        let start = start_of(first, segment_bytes);
        let previous = if is_new { start } else { end.end };
        let newest = first + SEGMENTS_AHEAD;
        (first..=newest).for_each(|number| medium.prepare(identity, number));
        let disk = SimDisk {
            options,
            wal: Wal::new(identity, segment_bytes, first, previous),
            medium,
            votes: VoteKeeper::new(kept, generations),
            flights: VecDeque::new(),
            buffers: Vec::new(),
            written: start,
            witnessed: VecDeque::from([(Lsn(0), previous)]),
            midst_of_run: false,
            oldest,
            unneeded: Lsn(0),
            writing: first,
            newest,
            full_until: None,
            lie: None,
            failed: false,
        };
        Ok(Opened { disk, end, votes })
    }

    /// Ends this life of the core. What was appended and not yet begun to be written is gone.
    pub fn crash(mut self, now: Timestamp, prng: &mut Prng, crash: Crash) -> Medium {
        self.medium.land_late(prng);
        // What the drive has done before, it has done, though nobody has asked it yet.
        for at in 0..self.flights.len() {
            let Flight { done, fate, due, .. } = self.flights[at];
            if !done && fate == Fate::Lands && due <= now {
                self.land(at);
            }
        }
        let spared = crash == Crash::ProcessKill && prng.bool();
        let mut draw = || match crash {
            _ if spared => Landing::Whole,
            Crash::ProcessKill if prng.bool() => Landing::Whole,
            Crash::ProcessKill => Landing::Late,
            Crash::PowerCut => [Landing::Whole, Landing::Torn, Landing::Nothing][prng.usize(..3)],
        };
        let SimDisk { mut medium, flights, mut votes, options, .. } = self;
        for flight in flights.iter().filter(|flight| !flight.done) {
            if flight.fate == Fate::Misdirected && draw() == Landing::Whole {
                flight.stray(&mut medium);
            }
            flight.end(&mut medium, &mut || if flight.fate.is_lie() { Landing::Nothing } else { draw() });
        }
        if let Some(flight) = votes.take_flight() {
            let done = flight.fate == Fate::Lands && flight.due <= now;
            let mut draw = || if done { Landing::Whole } else { draw() };
            flight.end(&mut medium, &mut draw);
        }
        medium.on_crash(crash, prng);
        if happens(prng, options.faults.lies.rot) {
            medium.rot(prng);
        }
        medium
    }

    /// Begins the writes of what was appended, as far as there are free writes and segments.
    pub fn submit(&mut self, now: Timestamp, prng: &mut Prng) {
        if self.failed {
            return;
        }
        if self.full_until.is_some_and(|until| until <= now) {
            self.full_until = None;
            self.has_segment(self.writing, now, prng);
        }
        while self.flights.len() < WAL_WRITES_MAX {
            let Some(segment) = self.wal.next_segment() else { break };
            if !self.has_segment(segment, now, prng) {
                break;
            }
            self.begin_write(now, prng);
        }
        self.votes.submit(now, &self.options.faults, prng);
    }

    /// From now on the drive behaves so.
    pub fn set_faults(&mut self, faults: DiskFaults) {
        self.options.faults = faults;
    }

    /// Takes note of the writes that are done by now, and says how far everything is durable. Monotone.
    pub fn complete(&mut self, now: Timestamp) -> Result<Lsn, DiskFailure> {
        if self.failed {
            return Err(DiskFailure::Stopped);
        }
        while let Some(at) = self.next_flight(now) {
            match self.flights[at].fate {
                Fate::Lands => self.land(at),
                Fate::Lost | Fate::Misdirected => self.lie(at),
                fate @ (Fate::Failed | Fate::Stuck) => return Err(self.fail(fate)),
            }
        }
        if let Err(fate) = self.votes.complete(now, &mut self.medium) {
            return Err(self.fail(fate));
        }
        self.retire_truncated();
        let before = self.written;
        while self.flights.front().is_some_and(|flight| flight.done) {
            let flight = self.flights.pop_front().expect("it is the front");
            self.written = flight.durable;
            self.buffers.push(flight.bytes);
        }
        self.wal.on_durable(self.written);
        if self.written > before {
            self.medium.on_completed(self.written);
            self.witnessed.push_back((self.wal.appended(), self.written));
        }
        self.cut();
        Ok(self.durable())
    }

    /// When something is next to be done here. `None` after a failure, and when nothing is under way.
    pub fn next_due(&self) -> Option<Timestamp> {
        if self.failed {
            return None;
        }
        let flights = self.flights.iter().filter(|flight| !flight.done).map(|flight| flight.due);
        flights.chain(self.votes.due()).chain(self.full_until).min()
    }

    /// Deletes the segments all of whose records lie below `below`. The caller holds a checkpoint of them;
    /// the votes in them are held here.
    pub fn truncate(&mut self, below: Lsn) {
        self.unneeded = self.unneeded.max(below);
        self.cut();
    }

    fn cut(&mut self) {
        let below = self.votes.limit_truncation(self.unneeded.min(self.written));
        self.votes.on_truncate(segment_of(below, self.medium.segment_bytes()));
        self.retire_truncated();
    }

    fn retire_truncated(&mut self) {
        let keep = self.votes.truncated();
        while self.oldest < keep {
            self.medium.retire(self.oldest);
            self.oldest += 1;
        }
    }

    /// No segment can be made until then, unless one was truncated before.
    pub fn fill_up(&mut self, until: Timestamp) {
        self.full_until = self.full_until.max(Some(until));
    }

    /// The next write of the log completes, and is not where it should be.
    pub fn lie_once(&mut self, lie: Lie) {
        self.lie = Some(lie);
    }

    /// What the drive holds is not what it said, or will not be.
    pub fn has_lied(&self) -> bool {
        let under_way = || self.flights.iter().any(|flight| flight.fate.is_lie());
        self.lie.is_some() || self.medium.has_lied() || under_way()
    }

    /// No segment can be made.
    pub fn is_full(&self) -> bool {
        self.full_until.is_some()
    }

    /// A write does not come back: nothing behind it is durable, and no votes leave the log, until the core gives the
    /// drive up.
    pub fn is_stuck(&self) -> bool {
        let under_way = self.flights.iter().map(|flight| flight.fate);
        under_way.chain(self.votes.fate()).any(|fate| fate == Fate::Stuck)
    }

    /// With this much a checkpoint is due.
    pub fn log_bytes_due(&self) -> u64 {
        SEGMENTS_BEFORE_CHECKPOINT * self.medium.segment_bytes() as u64
    }

    /// Of all segments that the drive holds, the one ahead and one to be used again among them.
    pub fn log_bytes(&self) -> u64 {
        self.bytes_begun_below(Lsn(u64::MAX)) + u64::from(self.medium.has_spare()) * self.segment_bytes()
    }

    /// Of the segments that begin below `lsn` and were not let go.
    pub fn bytes_begun_below(&self, lsn: Lsn) -> u64 {
        let numbers = self.medium.segments.keys();
        let count = numbers.filter(|number| start_of(**number, self.medium.segment_bytes()) < lsn).count();
        count as u64 * self.segment_bytes()
    }

    pub fn segment_bytes(&self) -> u64 {
        self.medium.segment_bytes() as u64
    }

    pub fn appended(&self) -> Lsn {
        self.wal.appended()
    }

    /// Everything below is durable.
    fn durable(&self) -> Lsn {
        self.votes.limit_durable(self.written)
    }

    fn begin_write(&mut self, now: Timestamp, prng: &mut Prng) {
        let segment_bytes = self.medium.segment_bytes();
        let (due, mut fate) = self.options.faults.draw(now, prng);
        if fate == Fate::Lands {
            match self.lie.take() {
                Some(Lie::Lost) => fate = Fate::Lost,
                Some(Lie::Misdirected) => fate = Fate::Misdirected,
                None => {}
            }
        }
        let write = self.wal.next_write(self.options.write_bytes_max).expect("a segment was asked for");
        let mut bytes = self.buffers.pop().unwrap_or_default();
        bytes.clear();
        bytes.extend_from_slice(write.bytes);
        let (segment, durable) = (write.segment, write.durable);
        let block = usize::try_from(write.offset).expect("within a segment") / WAL_BLOCK_BYTES;
        let blocks = block..block + bytes.len() / WAL_BLOCK_BYTES;
        let base = segment * segment_bytes as u64;
        let position = |block: usize| Lsn(base + (block * WAL_BLOCK_BYTES) as u64);
        let (start, end) = (position(blocks.start), position(blocks.end));

        let runs = &mut self.medium.segments.get_mut(&segment).expect("it was prepared").runs;
        if self.midst_of_run {
            let run = runs.last_mut().expect("its first write began it");
            (run.end, run.blocks.end) = (end, blocks.end);
        } else {
            // The run holds a record appended after that, for it goes a block further: only padding is less.
            let last = Lsn(end.0 - WAL_BLOCK_BYTES as u64);
            while self.witnessed.get(1).is_some_and(|(appended, _)| *appended <= last) {
                self.witnessed.pop_front();
            }
            let witnesses = self.witnessed[0].1;
            runs.push(Run { start, end, blocks, standing: Standing::Live, witnesses });
        }
        self.midst_of_run = durable < end;
        self.writing = segment;
        let stray = (fate == Fate::Misdirected).then(|| self.draw_place((segment, block), prng));
        self.flights.push_back(Flight { segment, block, bytes, durable, due, fate, stray, done: false });
    }

    /// Where a write that is meant for `own` lands instead.
    fn draw_place(&self, own: (u64, usize), prng: &mut Prng) -> (u64, usize) {
        let blocks = self.medium.segment_bytes() / WAL_BLOCK_BYTES;
        let segment = self.medium.draw_segment(prng).expect("there is one to write to");
        let block = prng.usize(..blocks);
        if (segment, block) == own { (segment, (block + 1) % blocks) } else { (segment, block) }
    }

    /// Whether `segment` can be written to; makes the one after it as well.
    fn has_segment(&mut self, segment: u64, now: Timestamp, prng: &mut Prng) -> bool {
        while self.newest < segment + SEGMENTS_AHEAD {
            // A segment that was truncated is used again: that takes no space.
            if !self.medium.has_spare() {
                if self.full_until.is_none() && happens(prng, self.options.faults.hardships.full) {
                    self.full_until = Some(now.plus_ns(prng.u64(1..=self.options.faults.hardships.full_ns)));
                }
                if self.full_until.is_some() {
                    break;
                }
            }
            self.newest += 1;
            self.medium.prepare(self.options.identity, self.newest);
        }
        segment <= self.newest
    }

    /// The write that is due first, if it is due by now.
    fn next_flight(&self, now: Timestamp) -> Option<usize> {
        let open = self.flights.iter().enumerate().filter(|(_, flight)| !flight.done && flight.due <= now);
        open.min_by_key(|(_, flight)| flight.due).map(|(at, _)| at)
    }

    fn land(&mut self, at: usize) {
        self.flights[at].done = true;
        self.flights[at].end(&mut self.medium, &mut || Landing::Whole);
    }

    fn lie(&mut self, at: usize) {
        let flight = &mut self.flights[at];
        flight.done = true;
        self.medium.remember(flight.segment, flight.block, &flight.bytes);
        flight.end(&mut self.medium, &mut || Landing::Nothing);
        flight.stray(&mut self.medium);
    }

    fn fail(&mut self, fate: Fate) -> DiskFailure {
        self.failed = true;
        if fate == Fate::Stuck { DiskFailure::Stuck } else { DiskFailure::WriteFailed }
    }
}

impl Log for SimDisk {
    fn append(&mut self, record: &Record<'_>) -> Lsn {
        let lsn = self.wal.append(*record);
        if record.kind == RecordKind::Vote {
            self.votes.on_vote(record.partition, record.ballot, record.slot, lsn);
        }
        lsn
    }

    fn room(&self) -> usize {
        if self.full_until.is_some() { 0 } else { self.wal.room() }
    }

    fn truncate(&mut self, below: Lsn) {
        SimDisk::truncate(self, below);
    }

    fn checkpoint_due(&self) -> bool {
        self.full_until.is_some() || self.log_bytes() >= self.log_bytes_due()
    }

    fn overdue_percent(&self) -> u64 {
        self.log_bytes().saturating_sub(self.log_bytes_due()) * 100 / self.log_bytes_due()
    }
}

/// A write under way, or done behind one that is.
struct Flight {
    segment: u64,
    block: usize,
    bytes: Vec<u8>,
    /// What is durable once this and all before it are done.
    durable: Lsn,
    due: Timestamp,
    fate: Fate,
    /// Where a misdirected one lands: a segment and a block.
    stray: Option<(u64, usize)>,
    done: bool,
}

impl Flight {
    fn end(&self, medium: &mut Medium, draw: &mut dyn FnMut() -> Landing) {
        medium.land(self.segment, self.block, &self.bytes, draw);
    }

    /// The place may have been truncated meanwhile.
    fn stray(&self, medium: &mut Medium) {
        let Some((number, block)) = self.stray else { return };
        medium.overwrite(number, block, &self.bytes);
    }
}

fn replay(
    medium: &Medium,
    identity: LogIdentity,
    visit: &mut dyn FnMut(RecordView<'_>),
) -> Result<End, Damage> {
    let mut replay = Replay::new(identity, medium.segment_bytes());
    for (number, segment) in &medium.segments {
        replay.on_head(*number, &segment.bytes[..Replay::HEAD_BYTES]);
    }
    for (number, segment) in &medium.segments {
        replay.on_segment(*number, &segment.bytes, visit)?;
    }
    Ok(replay.finish())
}

/// A log of so many segments wants a checkpoint.
const SEGMENTS_BEFORE_CHECKPOINT: u64 = 6;
/// Segments kept ready beyond the one being written, as on the real disk.
const SEGMENTS_AHEAD: u64 = 1;

#[cfg(test)]
mod tests;
