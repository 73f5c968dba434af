//! A core's log on files, written through io_uring: the disk of every mode but "memory".
//!
//! Its buffers and system calls live in `write_ring`; its files and their preparation in `segments`.
//! Here the two meet `wal`: which write goes where, and how far everything is on disk.
//!
//! Invariants:
//!   1. Writes are started in the order of positions; `flights` holds those not known to be done, in it.
//!      There are at most `WAL_WRITES_MAX`, so a buffer is free whenever another may be started.
//!   2. `durable` passes a write only when it and all before it have succeeded.
//!   3. After a failure every call answers `Stopped`; nothing is retried.
#![deny(unsafe_code)]

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::io;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::sync::Arc;

use super::segments::{Directory, Fresh, Preparer};
use super::{Disk, DiskError};
use crate::bounds::{WAL_SEGMENT_BYTES, WAL_WRITE_BYTES_MAX, WAL_WRITES_MAX};
use crate::types::Lsn;
use crate::wal::{End, LogIdentity, Record, RecordView, Replay, Wal, segment_of, start_of};

mod write_ring;

use write_ring::{Completion, FILES, WriteRing};

pub struct UringDisk {
    wal: Wal,
    ring: WriteRing,
    /// Segments in the ring's table: those with writes under way, and those ready for them.
    attached: BTreeSet<u64>,
    flights: VecDeque<Flight>,
    durable: Lsn,
    /// Why the next segment will not come; told when it is needed.
    unprepared: Option<DiskError>,
    /// The highest segment ordered so far.
    ordered: u64,
    /// The oldest segment that is not truncated.
    oldest: u64,
    segment_bytes: usize,
    failed: bool,
    notices: Vec<Notice>,
    // Dropped after the ring, which waits for its writes: the directory is locked until they are done.
    preparer: Preparer,
    directory: Arc<Directory>,
}

/// Where a log lives, and whose it is.
#[derive(Clone, Debug)]
pub struct DiskOptions {
    /// A directory of this core's own; made if it is not there.
    pub dir: PathBuf,
    pub identity: LogIdentity,
    /// Bytes of a segment: the same for the whole life of a log.
    pub segment_bytes: usize,
}

impl DiskOptions {
    pub fn new(dir: PathBuf, identity: LogIdentity) -> DiskOptions {
        DiskOptions { dir, identity, segment_bytes: WAL_SEGMENT_BYTES }
    }
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
        options: &DiskOptions,
        visit: &mut dyn FnMut(RecordView<'_>),
    ) -> Result<UringDisk, DiskError> {
        let DiskOptions { dir, identity, segment_bytes } = options;
        let (identity, segment_bytes) = (*identity, *segment_bytes);
        let directory = Arc::new(Directory::open(dir, identity, segment_bytes)?);
        let numbers = directory.numbers()?;
        let end = replay(&directory, &numbers, Replay::new(identity, segment_bytes), segment_bytes, visit)?;
        settle(&directory, &numbers, &end)?;

        let first = numbers.last().map_or(0, |last| last + 1);
        let start = start_of(first, segment_bytes);
        let previous = if numbers.is_empty() { start } else { end.end };
        let (bell_heard, bell) =
            io::pipe().map_err(|source| DiskError::Ring { what: "making a pipe", source })?;
        let ring = WriteRing::new(bell_heard)?;
        let mut disk = UringDisk {
            wal: Wal::new(identity, segment_bytes, first, previous),
            attached: BTreeSet::new(),
            flights: VecDeque::new(),
            durable: start,
            unprepared: None,
            ordered: first + SEGMENTS_AHEAD,
            oldest: numbers.first().copied().unwrap_or(first),
            segment_bytes,
            failed: false,
            notices: Vec::new(),
            preparer: Preparer::start(Arc::clone(&directory), bell)?,
            directory,
            ring,
        };
        if !disk.ring.is_registered() {
            disk.notices.push(Notice::BuffersNotRegistered);
        }
        for number in first..=first + SEGMENTS_AHEAD {
            let fresh = disk.directory.prepare(number, None)?;
            disk.attach(&fresh)?;
        }
        Ok(disk)
    }

    /// Deletes or recycles the segments all of whose records lie below `below`. The caller holds a
    /// checkpoint of them.
    pub fn truncate(&mut self, below: Lsn) {
        // Nothing at or above what is durable goes, whatever the caller says.
        let keep = segment_of(below.min(self.durable), self.segment_bytes);
        while self.oldest < keep {
            // Numbers may have holes, where an earlier recovery skipped segments.
            if self.directory.segment_path(self.oldest).exists() {
                self.preparer.retire(self.oldest);
            }
            self.oldest += 1;
        }
    }

    /// Bytes from the oldest segment to the open end; see `LOG_BYTES_MAX`.
    pub fn log_bytes(&self) -> u64 {
        self.wal.appended().0 - self.oldest * self.segment_bytes as u64
    }

    pub fn notices(&self) -> &[Notice] {
        &self.notices
    }

    fn start_writes(&mut self) -> Result<(), DiskError> {
        let mut started = false;
        // Those done behind one that is not count as well, or a slow write would let them pile up.
        while self.flights.len() < WAL_WRITES_MAX {
            let Some(segment) = self.wal.next_segment() else { break };
            if !self.has_segment(segment)? {
                break;
            }
            let write = self.wal.next_write(WAL_WRITE_BYTES_MAX).expect("a segment was asked for");
            let buffer = self.ring.write(place_of(segment), write.offset, write.bytes);
            let (offset, bytes, durable) = (write.offset, write.bytes.len(), write.durable);
            self.flights.push_back(Flight { buffer, segment, offset, bytes, durable, done: false });
            started = true;
        }
        if started { self.ring.submit() } else { Ok(()) }
    }

    /// Whether `segment` can be written to; orders the next one when this one is begun.
    fn has_segment(&mut self, segment: u64) -> Result<bool, DiskError> {
        while self.ordered < segment + SEGMENTS_AHEAD {
            self.ordered += 1;
            self.preparer.prepare(self.ordered);
        }
        if !self.attached.contains(&segment) {
            self.take_fresh()?;
        }
        if self.attached.contains(&segment) {
            return Ok(true);
        }
        match self.unprepared.take() {
            Some(failure) => Err(failure),
            None => Ok(false),
        }
    }

    fn take_fresh(&mut self) -> Result<(), DiskError> {
        while self.unprepared.is_none() {
            match self.preparer.take() {
                Some(Ok(fresh)) => self.attach(&fresh)?,
                Some(Err(failure)) => self.unprepared = Some(failure),
                None => break,
            }
        }
        Ok(())
    }

    fn attach(&mut self, fresh: &Fresh) -> Result<(), DiskError> {
        if !fresh.direct && !self.notices.contains(&Notice::NotDirect) {
            self.notices.push(Notice::NotDirect);
        }
        // Else an entry would go to another segment's file.
        let free = self.attached.iter().all(|other| place_of(*other) != place_of(fresh.number));
        assert!(free, "segment {} would take the place of another: {:?}", fresh.number, self.attached);
        self.attached.insert(fresh.number);
        self.ring.attach(place_of(fresh.number), &fresh.file)
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
        while let Some(completion) = self.ring.next_completion()? {
            match completion {
                Completion::Wrote { buffer, result } => self.on_wrote(buffer, result)?,
                Completion::Bell => self.take_fresh()?,
            }
        }
        while self.flights.front().is_some_and(|flight| flight.done) {
            self.durable = self.flights.pop_front().expect("it is the front").durable;
        }
        self.wal.on_durable(self.durable);
        self.detach_written()
    }

    fn on_wrote(&mut self, buffer: usize, result: io::Result<usize>) -> Result<(), DiskError> {
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
        self.wal.append(record)
    }

    fn submit(&mut self) -> Result<(), DiskError> {
        self.unless_failed(UringDisk::start_writes)
    }

    fn reap(&mut self) -> Result<Lsn, DiskError> {
        self.unless_failed(UringDisk::reap_writes)?;
        Ok(self.durable)
    }

    fn appended(&self) -> Lsn {
        self.wal.appended()
    }

    fn room(&self) -> usize {
        self.wal.room()
    }

    fn wake_fd(&self) -> Option<RawFd> {
        Some(self.ring.fd())
    }
}

/// A write under way, or done behind one that is.
struct Flight {
    buffer: usize,
    segment: u64,
    offset: u64,
    bytes: usize,
    /// What is durable once this and all before it are done.
    durable: Lsn,
    done: bool,
}

fn replay(
    directory: &Directory,
    numbers: &[u64],
    mut replay: Replay,
    segment_bytes: usize,
    visit: &mut dyn FnMut(RecordView<'_>),
) -> Result<End, DiskError> {
    let mut bytes = Vec::new();
    for number in numbers {
        directory.read(*number, Replay::HEAD_BYTES, &mut bytes)?;
        replay.on_head(*number, &bytes);
    }
    for number in numbers {
        // One byte more than there should be, so that a file too long is seen as well.
        directory.read(*number, segment_bytes + 1, &mut bytes)?;
        replay.on_segment(*number, &bytes, visit).map_err(|damage| {
            let path = directory.segment_path(damage.segment);
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

/// Makes durable what was recovered, and removes what lies behind it: spares, and what a dying process
/// wrote there and told nobody of.
fn settle(directory: &Directory, numbers: &[u64], end: &End) -> Result<(), DiskError> {
    let last = end.segment.unwrap_or(0);
    for number in numbers.iter().filter(|number| **number <= last) {
        directory.sync(*number)?;
    }
    for number in numbers.iter().filter(|number| **number > last) {
        directory.remove(*number)?;
    }
    directory.remove_leftovers()
}

/// A segment's place in the ring's table.
fn place_of(segment: u64) -> usize {
    usize::try_from(segment % FILES as u64).expect("less than the number of places")
}

/// Segments kept ready beyond the one being written.
const SEGMENTS_AHEAD: u64 = 1;
// Writes under way touch at most one segment each; then the one being begun, and those ahead.
const _: () = assert!(WAL_WRITES_MAX + 2 + SEGMENTS_AHEAD as usize <= FILES);

#[cfg(test)]
mod tests;
