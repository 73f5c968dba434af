//! A core's log on files, written through io_uring: the disk of every mode but "memory".
//!
//! Its buffers and system calls live in `write_ring`; its files and their preparation in `segments`.
//! Here the two meet `wal`: which write goes where, and how far everything is on disk.
//!
//! Invariants:
//!   1. Writes are started in the order of positions; `flights` holds those not known to be done, in it.
//!      There are at most `WAL_WRITES_MAX`, so a buffer is free whenever another may be started.
//!   2. `durable` passes a write only when it and all before it have succeeded.
//!   3. After a failure every call answers `Stopped`; nothing is retried. A full disk is no failure: what
//!      was appended waits, nothing new is asked for, and the segment is ordered again.
//!   4. A vote counts as durable when its run is on disk and so are both copies of the votes.
#![deny(unsafe_code)]

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::io;
use std::mem;
use std::os::fd::RawFd;
use std::path::PathBuf;

use memmap2::MmapMut;

use super::directory::{CoreDirectory, io_error};
use super::segments::{self, Afterlife, Fresh, Prepared, Preparer, Segments};
use super::votes::{Standing, VOTES_NAME, VoteWriter, VotesFile};
use super::{Disk, DiskError, LogState, Unanswered};
use crate::bounds::{
    WAL_BLOCK_BYTES, WAL_FULL_RETRY_NS, WAL_SEGMENT_BYTES, WAL_SEGMENT_BYTES_MIN, WAL_SEGMENTS_PER_LOG,
    WAL_STUCK_NS, WAL_WRITE_BYTES_MAX, WAL_WRITES_MAX,
};
use crate::types::{Lsn, PartitionId, Slot, Timestamp};
use crate::wal::{
    End, LogIdentity, Record, RecordKind, RecordView, Replay, Votes, Wal, segment_of, start_of,
};

mod write_ring;

use write_ring::{Completion, SEGMENT_PLACES, VOTES_PLACE, WriteRing};

pub struct UringDisk {
    wal: Wal,
    ring: WriteRing,
    /// Segments in the ring's table: those with writes under way, and those ready for them.
    attached: BTreeSet<u64>,
    flights: VecDeque<Flight>,
    votes: VoteWriter,
    /// The write of a copy of the votes: its buffer, and when it was started.
    vote_flight: Option<(usize, Timestamp)>,
    /// How far the log itself is on disk; the votes may hold back what is told.
    durable: Lsn,
    /// Why the next segment will not come; told when it is needed.
    unprepared: Option<DiskError>,
    /// The highest segment ordered so far.
    ordered: u64,
    space: Space,
    /// Since when writes wait for a segment that is not ready, though there is space for it.
    waiting: Option<Waiting>,
    /// The segments that are not truncated, oldest first, up to the highest ordered. Earlier lives leave holes.
    kept: VecDeque<u64>,
    /// Everything below is to go, as soon as it is durable.
    unneeded: Lsn,
    /// Retired segments that are to be used again.
    spares: usize,
    /// Those and `kept` together, unless more are needed.
    segments_max: usize,
    segment_bytes: usize,
    log_bytes_max: u64,
    /// The time of the last turn.
    now: Timestamp,
    failed: bool,
    notices: Vec<Notice>,
    // Dropped after the ring, which waits for its writes: the directory is locked until they are done.
    preparer: Preparer,
    directory: CoreDirectory,
}

/// Whose a log is, and how much of it there may be.
#[derive(Clone, Debug)]
pub struct DiskOptions {
    pub identity: LogIdentity,
    /// Bytes of a segment of a new log. One that exists goes on as it began.
    pub segment_bytes: usize,
    /// Past this a checkpoint is due; see [`LogState`].
    pub log_bytes_max: u64,
    /// The committed checkpoints, and where the log goes on behind each.
    pub checkpoints: Vec<(PartitionId, Slot)>,
    /// Log and checkpoints were given up: what there is now is all there need be.
    pub begins_anew: bool,
    /// It has been opened before: votes that are missing are lost, and not yet to be made.
    pub has_opened: bool,
}

impl DiskOptions {
    /// With segments small enough that a log within its bound is made of several.
    pub fn new(identity: LogIdentity, log_bytes_max: u64) -> DiskOptions {
        let wanted = usize::try_from(log_bytes_max / WAL_SEGMENTS_PER_LOG).unwrap_or(WAL_SEGMENT_BYTES);
        let whole = wanted - wanted % WAL_BLOCK_BYTES;
        let segment_bytes = whole.clamp(WAL_SEGMENT_BYTES_MIN, WAL_SEGMENT_BYTES);
        DiskOptions {
            identity,
            segment_bytes,
            log_bytes_max,
            checkpoints: Vec::new(),
            begins_anew: false,
            has_opened: false,
        }
    }
}

/// A log that was opened, and what it told besides its records.
pub struct Opened {
    pub disk: UringDisk,
    /// The newest ballot that each partition has promised, truncated or not: of the log and of the file.
    pub votes: Votes,
    /// `start` is what a checkpoint must reach; `torn` is the tail that was cut, if there was one.
    pub end: End,
}

/// Something that works, but slower than it could. For the operator, at the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Notice {
    BuffersNotRegistered,
    NotDirect,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Notice::BuffersNotRegistered => {
                "log buffers are not registered with the kernel (memlock limit): each write pins them anew; \
                 raise LimitMEMLOCK"
            }
            Notice::NotDirect => "the file system refuses O_DIRECT: the log goes through the page cache",
        })
    }
}

impl UringDisk {
    /// Opens the log, or makes a new one, and shows `visit` every record of it, in order. On an error
    /// forget what was visited. The log goes on in a fresh segment: what is on disk is not touched.
    ///
    /// Blocks, and starts a thread that inherits the CPUs this one may run on: call it before pinning.
    pub fn open(
        directory: &CoreDirectory,
        options: &DiskOptions,
        visit: &mut dyn FnMut(RecordView<'_>),
    ) -> Result<Opened, DiskError> {
        let DiskOptions { identity, log_bytes_max, ref checkpoints, begins_anew, has_opened, .. } = *options;
        let numbers = segments::numbers(directory)?;
        let segment_bytes = segments::size_of(directory, &numbers)?.unwrap_or(options.segment_bytes);
        let segments = Segments::new(directory, identity, segment_bytes);
        let mut logged = Votes::default();
        let mut visit = |view: RecordView<'_>| {
            if view.record.kind == RecordKind::Vote {
                logged.raise(view.record.partition, view.record.ballot);
                logged.cover(view.record.partition, view.record.slot);
            }
            if let Some((node, disk)) = view.record.peer() {
                logged.meet(node, disk);
            }
            visit(view);
        };
        let end = replay(&segments, &numbers, Replay::new(identity, segment_bytes), &mut visit)?;
        // Before anything is changed: a log without its votes is not to be continued.
        let standing = Standing { first: numbers.first().copied(), checkpoints, begins_anew, has_opened };
        let votes = VotesFile::open(directory, identity, &logged, &standing)?;
        let first = numbers.last().map_or(0, |last| last + 1);
        let mut spares = settle(&segments, &numbers, &end, first)?;
        let fresh = segments.prepare(first, spares.pop_front())?;
        let last = end.segment.unwrap_or(0);
        let left = numbers.iter().copied().filter(|number| *number <= last);
        let kept: VecDeque<u64> = left.chain(first..=first).collect();
        let start = start_of(first, segment_bytes);
        let previous = if numbers.is_empty() { start } else { end.end };
        let (bell_heard, bell) =
            io::pipe().map_err(|source| DiskError::Ring { what: "making a pipe", source })?;
        let mut disk = UringDisk {
            wal: Wal::new(identity, segment_bytes, first, previous),
            attached: BTreeSet::new(),
            flights: VecDeque::new(),
            votes: VoteWriter::new(identity, votes.votes.clone(), votes.generation),
            vote_flight: None,
            durable: start,
            unprepared: None,
            ordered: first,
            space: Space::default(),
            waiting: None,
            kept,
            unneeded: Lsn::default(),
            spares: spares.len(),
            segments_max: usize::try_from(log_bytes_max / segment_bytes as u64).unwrap_or(usize::MAX),
            segment_bytes,
            log_bytes_max,
            now: Timestamp::default(),
            failed: false,
            notices: Vec::new(),
            preparer: Preparer::start(segments, spares, bell)?,
            directory: directory.clone(),
            ring: WriteRing::new(bell_heard)?,
        };
        if !disk.ring.is_registered() {
            disk.notices.push(Notice::BuffersNotRegistered);
        }
        disk.notice_direct(votes.direct);
        disk.ring.attach(VOTES_PLACE, &votes.file)?;
        disk.attach(&fresh)?;
        disk.order_until(first + SEGMENTS_AHEAD);
        Ok(Opened { disk, votes: votes.votes, end })
    }

    pub fn notices(&self) -> &[Notice] {
        &self.notices
    }

    fn start_writes(&mut self) -> Result<(), DiskError> {
        let mut started = self.start_votes();
        // Those done behind one that is not count as well, or a slow write would let them pile up.
        while self.flights.len() < WAL_WRITES_MAX {
            let Some(segment) = self.wal.next_segment() else { break };
            if !self.has_segment(segment)? {
                break;
            }
            let write = self.wal.next_write(WAL_WRITE_BYTES_MAX).expect("a segment was asked for");
            let buffer = self.ring.write(place_of(segment), write.offset, write.bytes);
            let (offset, bytes, durable) = (write.offset, write.bytes.len(), write.durable);
            let started_at = self.now;
            self.flights.push_back(Flight {
                buffer,
                segment,
                offset,
                bytes,
                durable,
                started_at,
                done: false,
            });
            started = true;
        }
        if started { self.ring.submit() } else { Ok(()) }
    }

    /// Whether a copy of the votes was to be written and its write is prepared now.
    fn start_votes(&mut self) -> bool {
        let Some((offset, bytes)) = self.votes.next_write() else { return false };
        let buffer = self.ring.write(VOTES_PLACE, offset, bytes);
        self.vote_flight = Some((buffer, self.now));
        true
    }

    /// Whether `segment` can be written to; orders the next one when this one is begun.
    fn has_segment(&mut self, segment: u64) -> Result<bool, DiskError> {
        self.order_until(segment + SEGMENTS_AHEAD);
        if !self.attached.contains(&segment) {
            self.take_prepared()?;
        }
        let is_ready = self.attached.contains(&segment);
        self.preparer.hurry(!is_ready);
        if is_ready {
            self.waiting = None;
            return Ok(true);
        }
        if !self.space.full {
            let (since, steps) = (self.now, self.preparer.steps());
            self.waiting.get_or_insert(Waiting { segment, since, steps });
        }
        match self.unprepared.take() {
            Some(failure) => Err(failure),
            None => Ok(false),
        }
    }

    fn take_prepared(&mut self) -> Result<(), DiskError> {
        while self.unprepared.is_none() {
            match self.preparer.take() {
                Some(Prepared::Fresh(fresh)) => {
                    self.space.full = false;
                    self.attach(&fresh)?;
                }
                Some(Prepared::Full(number)) => {
                    self.waiting = None;
                    self.space.full = true;
                    self.space.refused.push(number);
                    self.space.retry_at = self.now.plus_ns(WAL_FULL_RETRY_NS);
                }
                Some(Prepared::Failed(failure)) => self.unprepared = Some(failure),
                None => break,
            }
        }
        Ok(())
    }

    /// Orders again what there was no space for.
    fn retry_refused(&mut self) {
        for number in mem::take(&mut self.space.refused) {
            self.order(number);
        }
    }

    fn order_until(&mut self, last: u64) {
        while self.ordered < last {
            self.ordered += 1;
            self.kept.push_back(self.ordered);
            self.order(self.ordered);
        }
    }

    fn order(&mut self, number: u64) {
        self.spares = self.spares.saturating_sub(1);
        self.preparer.prepare(number);
    }

    /// Nothing at or above what is durable goes, whatever the caller says; but it goes when it is.
    fn cut(&mut self) {
        let below = self.unneeded.min(self.votes.limit(self.durable));
        self.votes.on_truncate(segment_of(below, self.segment_bytes));
        self.retire_truncated();
    }

    fn attach(&mut self, fresh: &Fresh) -> Result<(), DiskError> {
        self.notice_direct(fresh.direct);
        // Else an entry would go to another segment's file.
        let free = self.attached.iter().all(|other| place_of(*other) != place_of(fresh.number));
        assert!(free, "segment {} would take the place of another: {:?}", fresh.number, self.attached);
        self.attached.insert(fresh.number);
        self.ring.attach(place_of(fresh.number), &fresh.file)
    }

    fn notice_direct(&mut self, direct: bool) {
        if !direct && !self.notices.contains(&Notice::NotDirect) {
            self.notices.push(Notice::NotDirect);
        }
    }

    /// Segments written to their end leave the table. Only here, where no entry waits for `submit`.
    fn detach_written(&mut self) -> Result<(), DiskError> {
        let writing = segment_of(self.durable, self.segment_bytes);
        while let Some(written) = self.attached.first().copied().filter(|first| *first < writing) {
            self.attached.remove(&written);
            self.ring.detach(place_of(written))?;
        }
        Ok(())
    }

    fn reap_writes(&mut self) -> Result<(), DiskError> {
        let mut resume = false;
        while let Some(completion) = self.ring.next_completion()? {
            match completion {
                Completion::Wrote { buffer, result } => {
                    resume |= self.vote_flight.is_some_and(|(voting, _)| voting == buffer);
                    self.on_wrote(buffer, result)?;
                }
                Completion::Bell => {
                    self.take_prepared()?;
                    resume = true;
                }
            }
        }
        while self.flights.front().is_some_and(|flight| flight.done) {
            self.durable = self.flights.pop_front().expect("it is the front").durable;
        }
        self.wal.on_durable(self.durable);
        self.detach_written()?;
        self.cut();
        self.refuse_stuck()?;
        if !self.space.refused.is_empty() && self.now >= self.space.retry_at {
            self.retry_refused();
        }
        // Neither moves the durable position, so nobody would come back to start what it lets start.
        if resume { self.start_writes() } else { Ok(()) }
    }

    fn on_wrote(&mut self, buffer: usize, result: io::Result<usize>) -> Result<(), DiskError> {
        if self.vote_flight.is_some_and(|(voting, _)| voting == buffer) {
            return self.on_wrote_votes(result);
        }
        let flight = self.flights.iter_mut().find(|flight| flight.buffer == buffer && !flight.done);
        let flight = flight.expect("a completion belongs to a write");
        let Flight { segment, offset, bytes, .. } = *flight;
        let written = result.map_err(|source| DiskError::WriteFailed { segment, offset, source })?;
        if written != bytes {
            return Err(DiskError::ShortWrite { segment, offset, written, bytes });
        }
        flight.done = true;
        Ok(())
    }

    fn on_wrote_votes(&mut self, result: io::Result<usize>) -> Result<(), DiskError> {
        self.vote_flight = None;
        let whole = self.votes.copy_bytes();
        let written = match result {
            Ok(written) if written == whole => Ok(()),
            Ok(_) => Err(io::Error::from(io::ErrorKind::WriteZero)),
            Err(source) => Err(source),
        };
        let path = || self.directory.file(VOTES_NAME);
        written.map_err(|source| DiskError::Io { what: "writing", path: path(), source })?;
        self.votes.on_wrote();
        self.retire_truncated();
        Ok(())
    }

    /// What the votes' file says to be gone goes.
    fn retire_truncated(&mut self) {
        let keep = self.votes.truncated();
        let before = self.kept.len();
        while let Some(oldest) = self.kept.front().copied().filter(|oldest| *oldest < keep) {
            self.kept.pop_front();
            // One at least, or each segment would have to be filled.
            let is_spare = self.spares == 0 || self.kept.len() + self.spares < self.segments_max;
            self.spares += usize::from(is_spare);
            self.preparer.retire(oldest, if is_spare { Afterlife::Spare } else { Afterlife::Removed });
        }
        if self.kept.len() < before {
            // What is retired is used again: there is space now.
            self.retry_refused();
        }
    }

    /// What was started before anybody told the time was started now.
    fn on_time(&mut self, now: Timestamp) {
        if self.now == Timestamp::default() {
            self.flights.iter_mut().for_each(|flight| flight.started_at = now);
            self.vote_flight = self.vote_flight.map(|(buffer, _)| (buffer, now));
            self.waiting = self.waiting.map(|waiting| Waiting { since: now, ..waiting });
        }
        self.now = self.now.max(now);
    }

    /// A drive that does not answer is a drive that failed: others must be able to take over.
    fn refuse_stuck(&mut self) -> Result<(), DiskError> {
        self.note_progress();
        let Some((_, what)) = self.stuck_at().filter(|(at, _)| self.now >= *at) else { return Ok(()) };
        // Nothing can be waited for any more. The lock stays until the process is gone, because writes may
        // still arrive.
        self.ring.abandon();
        self.preparer.abandon();
        mem::forget(self.directory.clone());
        Err(DiskError::Stuck { path: self.directory.path().to_owned(), what })
    }

    /// A segment takes many answers of the drive, and on a busy one their time.
    fn note_progress(&mut self) {
        let Some(waiting) = &mut self.waiting else { return };
        let steps = self.preparer.steps();
        if waiting.steps != steps {
            (waiting.since, waiting.steps) = (self.now, steps);
        }
    }

    /// When what the drive was asked for first, and has not done, has taken too long; and what that is.
    fn stuck_at(&self) -> Option<(Timestamp, Unanswered)> {
        let write = |flight: &Flight| {
            let Flight { segment, offset, started_at, .. } = *flight;
            (started_at, Unanswered::Write { segment, offset })
        };
        let segment = |waiting: Waiting| (waiting.since, Unanswered::Segment { segment: waiting.segment });
        let votes = self.vote_flight.map(|(_, started_at)| (started_at, Unanswered::Votes));
        let asked = [self.flights.front().map(write), votes, self.waiting.map(segment)];
        let (since, what) = asked.into_iter().flatten().min_by_key(|(since, _)| *since)?;
        Some((since.plus_ns(WAL_STUCK_NS), what))
    }

    fn unless_failed<T>(
        &mut self,
        work: impl FnOnce(&mut UringDisk) -> Result<T, DiskError>,
    ) -> Result<T, DiskError> {
        if self.failed {
            return Err(DiskError::Stopped);
        }
        let result = work(self);
        self.failed = result.is_err();
        result
    }
}

impl Disk for UringDisk {
    fn append(&mut self, record: Record<'_>) -> Lsn {
        if record.kind == RecordKind::Vote {
            self.votes.on_vote(record.partition, record.ballot, record.slot, self.wal.appended());
        }
        if let Some(peer) = record.peer() {
            self.votes.on_peer(peer, self.wal.appended());
        }
        self.wal.append(record)
    }

    fn submit(&mut self) -> Result<(), DiskError> {
        self.unless_failed(UringDisk::start_writes)
    }

    fn reap(&mut self, now: Timestamp) -> Result<Lsn, DiskError> {
        self.on_time(now);
        self.unless_failed(UringDisk::reap_writes)?;
        Ok(self.votes.limit(self.durable))
    }

    fn appended(&self) -> Lsn {
        self.wal.appended()
    }

    fn room(&self) -> usize {
        if self.space.full { 0 } else { self.wal.room() }
    }

    fn truncate(&mut self, below: Lsn) {
        self.unneeded = self.unneeded.max(below);
        self.cut();
    }

    fn state(&self) -> LogState {
        let bytes = (self.kept.len() * self.segment_bytes) as u64;
        LogState { bytes, bytes_max: self.log_bytes_max, full: self.space.full }
    }

    fn wake_fd(&self) -> Option<RawFd> {
        Some(self.ring.fd())
    }

    fn deadline(&self) -> Option<Timestamp> {
        let retry = (!self.space.refused.is_empty()).then_some(self.space.retry_at);
        let stuck = self.stuck_at().map(|(at, _)| at);
        [stuck, retry].into_iter().flatten().min()
    }
}

/// Writes that wait for a segment.
#[derive(Clone, Copy)]
struct Waiting {
    segment: u64,
    /// The drive has answered nothing that is needed for it since.
    since: Timestamp,
    /// How many answers there had been by then.
    steps: u64,
}

/// Whether there is space for the next segment.
#[derive(Default)]
struct Space {
    /// There was none the last time one was tried.
    full: bool,
    /// Segments to be ordered again; no more than there are ahead, and the one needed.
    refused: Vec<u64>,
    retry_at: Timestamp,
}

/// A write under way, or done behind one that is.
struct Flight {
    buffer: usize,
    segment: u64,
    offset: u64,
    bytes: usize,
    /// What is durable once this and all before it are done.
    durable: Lsn,
    started_at: Timestamp,
    done: bool,
}

fn replay(
    segments: &Segments,
    numbers: &[u64],
    mut replay: Replay,
    visit: &mut dyn FnMut(RecordView<'_>),
) -> Result<End, DiskError> {
    let mut bytes = Vec::new();
    for number in numbers {
        segments.read_head(*number, Replay::HEAD_BYTES, &mut bytes)?;
        replay.on_head(*number, &bytes);
    }
    // A block more than there should be, so that a file too long is seen as well.
    let pages = MmapMut::map_anon(segments.segment_bytes() + WAL_BLOCK_BYTES);
    let mut pages = pages.map_err(|source| io_error("reading", &segments.path(0), source))?;
    for number in numbers {
        let bytes = segments.read(*number, &mut pages)?;
        replay.on_segment(*number, &pages[..bytes], visit).map_err(|damage| {
            let path = segments.path(damage.segment);
            let why = damage.why;
            if why.is_unsuitable() {
                DiskError::Unsuitable { path, why }
            } else {
                DiskError::Damaged { path, damage }
            }
        })?;
    }
    Ok(replay.finish())
}

/// Makes durable what was recovered, and takes away what lies behind it: spares, and what a dying process wrote
/// there and told nobody of. Files of which segments from `first` on can be made.
fn settle(
    segments: &Segments,
    numbers: &[u64],
    end: &End,
    first: u64,
) -> Result<VecDeque<PathBuf>, DiskError> {
    let last = end.segment.unwrap_or(0);
    for number in numbers.iter().filter(|number| **number <= last) {
        segments.sync(*number)?;
    }
    for number in numbers.iter().filter(|number| **number > last) {
        segments.retire(*number)?;
    }
    segments.take_leftovers(first)
}

/// A segment's place in the ring's table.
fn place_of(segment: u64) -> usize {
    usize::try_from(segment % SEGMENT_PLACES as u64).expect("less than the number of places")
}

/// Segments kept ready beyond the one being written.
const SEGMENTS_AHEAD: u64 = 1;
// Writes under way touch at most one segment each; then the one being begun, and those ahead.
const _: () = assert!(WAL_WRITES_MAX + 2 + SEGMENTS_AHEAD as usize <= SEGMENT_PLACES);

#[cfg(test)]
mod tests;
