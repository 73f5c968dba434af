//! The open end of one core's log: records in, block-aligned writes out.
//!
//! It fills one buffer while another is being handed to the disk; both are reused. It holds no file,
//! reads no clock, and does not know when a write ends: the disk says so through `on_durable`.
//!
//! Invariants:
//!   1. Writes come out in the order of positions, each a multiple of a block, none overlapping another.
//!   2. A record lies in one run, a run in one segment.
//!   3. `settled ≤ appended`; both only grow.
//!   4. A run longer than `WAL_WRITE_BYTES_MAX` holds one record: small ones never wait for several writes.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::mem;

use super::record::{self, RECORD_HEADER_BYTES, Record};
use super::run::{RUN_HEADER_BYTES, RunHeader, padded};
use super::segment::{LogIdentity, position, start_of};
use crate::bounds::{WAL_BACKLOG_BYTES_MAX, WAL_BLOCK_BYTES, WAL_WRITE_BYTES_MAX};
use crate::types::Lsn;

pub struct Wal {
    seed: u32,
    segment_bytes: usize,
    filling: Group,
    draining: Group,
    /// Where the open run, or the next one, begins.
    segment: u64,
    offset: usize,
    /// Records in the open run; 0 when none is open.
    open_records: u32,
    /// The end of the last closed run.
    previous: Lsn,
    /// Where this life of the log begins: behind `previous`, with nothing in between.
    start: Lsn,
    /// Always the end of a run, here or in an earlier life: a position behind it where nothing lies would
    /// make the next run bear witness to more than there is.
    settled: Lsn,
    appended: Lsn,
}

/// Blocks to be written. Borrowed from the wal until the next call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Write<'a> {
    pub segment: u64,
    pub offset: u64,
    pub bytes: &'a [u8],
    /// With this write and all before it on disk, everything below is durable. In the midst of a run
    /// that is the end of the run before, for a run counts as a whole.
    pub durable: Lsn,
}

impl Wal {
    /// Continues a log that ended at `previous`, in a segment nothing was ever written to. A new log
    /// has `previous` at the start of its first segment.
    pub fn new(identity: LogIdentity, segment_bytes: usize, segment: u64, previous: Lsn) -> Wal {
        assert!(segment_bytes.is_multiple_of(WAL_BLOCK_BYTES) && segment_bytes >= 2 * WAL_BLOCK_BYTES);
        let start = start_of(segment, segment_bytes);
        assert!(previous <= start, "the log ended at {previous:?}, after {start:?}");
        Wal {
            seed: identity.seed(),
            segment_bytes,
            filling: Group::default(),
            draining: Group::default(),
            segment,
            offset: WAL_BLOCK_BYTES,
            open_records: 0,
            previous,
            start,
            settled: previous,
            appended: start,
        }
    }

    /// Copies a record into the group being filled. It is durable once everything below the
    /// returned position is.
    pub fn append(&mut self, record: Record<'_>) -> Lsn {
        let bytes = RECORD_HEADER_BYTES + record.payload.len();
        assert!(
            bytes <= self.record_bytes_max(),
            "a record of {bytes} B, at most {}",
            self.record_bytes_max()
        );
        if self.open_records > 0 {
            let grown = padded(self.open_bytes() + bytes);
            if grown > WAL_WRITE_BYTES_MAX || self.offset + grown > self.segment_bytes {
                self.close_run();
            }
        }
        if self.open_records == 0 {
            if self.offset + padded(RUN_HEADER_BYTES + bytes) > self.segment_bytes {
                self.segment += 1;
                self.offset = WAL_BLOCK_BYTES;
            }
            self.filling.open(RUN_HEADER_BYTES);
        }
        self.open_records += 1;
        let end = position(self.segment, self.offset + self.open_bytes() + bytes, self.segment_bytes);
        record::encode(&record, end, self.seed, &mut self.filling.bytes);
        self.appended = end;
        end
    }

    /// Everything below `lsn` is on disk. Runs closed from now on bear witness to it.
    pub fn on_durable(&mut self, lsn: Lsn) {
        assert!(lsn >= self.settled, "durable up to {lsn:?}, after {:?}", self.settled);
        if lsn > self.start {
            self.settled = lsn;
        }
    }

    /// The segment the next write goes to: the caller may not have it ready.
    pub fn next_segment(&mut self) -> Option<u64> {
        self.seal();
        self.draining.runs.front().map(|run| run.segment)
    }

    /// The next write, of at most `limit` bytes. What was appended since the last group was begun
    /// goes as one group commit.
    pub fn next_write(&mut self, limit: usize) -> Option<Write<'_>> {
        assert!(limit >= WAL_BLOCK_BYTES && limit.is_multiple_of(WAL_BLOCK_BYTES), "limit {limit}");
        self.seal();
        let segment_bytes = self.segment_bytes;
        let group = &mut self.draining;
        let run = group.runs.front_mut()?;
        let bytes = limit.min(run.bytes - run.taken);
        let (from, at) = (run.start + run.taken, run.offset + run.taken);
        let (segment, before) = (run.segment, run.previous);
        run.taken += bytes;
        let durable = if run.taken == run.bytes {
            group.runs.pop_front();
            position(segment, at + bytes, segment_bytes)
        } else {
            before.max(self.start)
        };
        group.taken += bytes;
        Some(Write { segment, offset: at as u64, bytes: &group.bytes[from..from + bytes], durable })
    }

    /// The position up to which records were appended. Monotone.
    pub fn appended(&self) -> Lsn {
        self.appended
    }

    /// Bytes the caller may yet append before the backlog is full; see `WAL_BACKLOG_BYTES_MAX`.
    pub fn room(&self) -> usize {
        let backlog = self.filling.bytes.len() + self.draining.bytes.len() - self.draining.taken;
        WAL_BACKLOG_BYTES_MAX.saturating_sub(backlog)
    }

    /// Header and payload of the largest record that fits in a segment.
    fn record_bytes_max(&self) -> usize {
        self.segment_bytes - WAL_BLOCK_BYTES - RUN_HEADER_BYTES
    }

    fn open_bytes(&self) -> usize {
        self.filling.bytes.len() - self.filling.open
    }

    /// Begins to drain what was filled, unless the last group is still being drained.
    fn seal(&mut self) {
        if !self.draining.runs.is_empty() {
            return;
        }
        self.close_run();
        self.draining.clear();
        mem::swap(&mut self.filling, &mut self.draining);
    }

    fn close_run(&mut self) {
        if self.open_records == 0 {
            return;
        }
        let bytes = self.open_bytes();
        let start = position(self.segment, self.offset, self.segment_bytes);
        let header = RunHeader {
            bytes: u32::try_from(bytes).expect("a run fits in a segment"),
            records: self.open_records,
            position: start,
            previous: self.previous,
            settled: self.settled,
        };
        let run = Run {
            segment: self.segment,
            offset: self.offset,
            previous: self.previous,
            start: self.filling.open,
            bytes: padded(bytes),
            taken: 0,
        };
        self.filling.close(run, &header.encode(self.seed));
        self.open_records = 0;
        self.offset += padded(bytes);
        self.previous = position(self.segment, self.offset, self.segment_bytes);
    }
}

/// Runs that are filled, or drained, together.
#[derive(Default)]
struct Group {
    bytes: Vec<u8>,
    runs: VecDeque<Run>,
    /// Where the open run begins in `bytes`.
    open: usize,
    /// Bytes handed out as writes.
    taken: usize,
}

impl Group {
    fn open(&mut self, header_bytes: usize) {
        self.open = self.bytes.len();
        self.bytes.resize(self.open + header_bytes, 0);
    }

    fn close(&mut self, run: Run, header: &[u8]) {
        self.bytes[self.open..self.open + header.len()].copy_from_slice(header);
        self.bytes.resize(self.open + run.bytes, 0);
        self.open = self.bytes.len();
        self.runs.push_back(run);
    }

    fn clear(&mut self) {
        assert!(self.runs.is_empty());
        self.bytes.clear();
        self.open = 0;
        self.taken = 0;
    }
}

/// A closed run: where it goes, and where its bytes lie in its group.
struct Run {
    segment: u64,
    offset: usize,
    /// The end of the run before it.
    previous: Lsn,
    start: usize,
    bytes: usize,
    taken: usize,
}
