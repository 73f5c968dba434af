//! Reads a log back: which records it holds, where it ends, and whether anything before that is lost.
//!
//! The caller shows the head of every segment, then every segment whole, in the order of their
//! numbers. Runs are followed as a chain (`previous`). Where the chain breaks, the rest is searched
//! for a run that was written when more than that was already on disk: one such witness makes the
//! break damage; without one it is the torn tail of the writes that were in flight at the end.
//!
//! Invariants:
//!   1. A record is delivered only when its whole run checks, and the chain from the start reaches it.
//!   2. A tail that an earlier recovery left behind is never delivered, even if its writes arrived
//!      late: the segment opened after that recovery names the end that was recovered.
//!   3. No bytes, however hostile, make this panic or loop.
//!
//! Not known here: whether segments are missing before the first one shown. The caller compares
//! [`End::start`] with what its checkpoint covers.
#![forbid(unsafe_code)]

use thiserror::Error;

use super::record::{self, RECORD_HEADER_BYTES, RecordView};
use super::run::{RUN_HEADER_BYTES, RunHeader, padded};
use super::segment::{LogIdentity, SegmentHeader, position, start_of};
use crate::bounds::WAL_BLOCK_BYTES;
use crate::rules::{self, Rule};
use crate::types::Lsn;

pub struct Replay {
    identity: LogIdentity,
    seed: u32,
    segment_bytes: usize,
    /// For every segment with a readable first run: its number, and the end it continues from.
    continues: Vec<(u64, Lsn)>,
    /// The first position of the log shown; `None` before the first segment.
    start: Option<Lsn>,
    /// Where the chain ends so far.
    end: Lsn,
    end_segment: Option<u64>,
    /// Why the chain did not go on from `end`, and where.
    stop: Option<Damage>,
    segment_last: Option<u64>,
}

/// What a replay delivers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Replayed<'a> {
    Run(RunView),
    Record(RecordView<'a>),
}

/// One group commit, as its header tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RunView {
    pub position: Lsn,
    /// Header and records, without the padding.
    pub bytes: u32,
    pub records: u32,
    /// The end of the run before it.
    pub previous: Lsn,
    /// Everything below was on disk when it was written.
    pub settled: Lsn,
}

/// Something the log must hold and does not. Nothing may be written to it; the replica is rebuilt.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("segment {segment}, offset {offset}: {why}")]
pub struct Damage {
    pub segment: u64,
    pub offset: u64,
    pub why: Why,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Why {
    #[error("the segment's header is unreadable")]
    SegmentHeader,
    #[error("the segment is {found} bytes long, not {expected}")]
    Length { found: u64, expected: u64 },
    #[error("the log was made with segments of {found} bytes, not {expected}")]
    SegmentBytes { found: u64, expected: u64 },
    #[error("the segment belongs to another log: node {} core {} of cluster {:016x}", .found.node.0, .found.core.0, .found.cluster)]
    Foreign { found: LogIdentity },
    #[error("the segment calls itself number {found}")]
    Number { found: u64 },
    #[error("format version {found}, which this program does not read")]
    Version { found: u32 },
    #[error("nothing is written here, though later writes rest on it")]
    Missing,
    #[error("what came before this run is not there")]
    Gap,
    #[error("the header of a run is corrupt")]
    RunHeader,
    #[error("a record is corrupt")]
    Record,
    #[error("a record of unknown kind {found}")]
    Kind { found: u8 },
    #[error("the padding behind a run is not zero")]
    Padding,
    #[error("the votes are corrupt")]
    Votes,
}

impl Why {
    /// What lies behind the end of a log and did not check for this reason. Where no run begins, an earlier use of the
    /// file may have left it.
    pub fn as_tail(self) -> &'static str {
        if self == Why::RunHeader { "an old run, or a torn tail" } else { "a torn tail" }
    }

    /// Nothing is corrupt: the log is another's, or another program's.
    pub fn is_unsuitable(self) -> bool {
        match self {
            Why::Foreign { .. } | Why::SegmentBytes { .. } | Why::Version { .. } | Why::Kind { .. } => true,
            Why::SegmentHeader | Why::Length { .. } | Why::Number { .. } => false,
            Why::Missing | Why::Gap | Why::RunHeader | Why::Record | Why::Padding | Why::Votes => false,
        }
    }
}

/// What a log without damage came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct End {
    /// The first position of the oldest segment.
    pub start: Lsn,
    /// The end of the last run recovered: what the next segment continues from.
    pub end: Lsn,
    /// The last segment with a recovered run in it, or the oldest if there is none.
    pub segment: Option<u64>,
    /// What the torn tail looked like, if something was there that did not check.
    pub torn: Option<Damage>,
}

impl Replay {
    pub fn new(identity: LogIdentity, segment_bytes: usize) -> Replay {
        assert!(segment_bytes.is_multiple_of(WAL_BLOCK_BYTES) && segment_bytes >= 2 * WAL_BLOCK_BYTES);
        Replay {
            identity,
            seed: identity.seed(),
            segment_bytes,
            continues: Vec::new(),
            start: None,
            end: Lsn(0),
            end_segment: None,
            stop: None,
            segment_last: None,
        }
    }

    /// The first [`HEAD_BYTES`](Self::HEAD_BYTES) of each segment, before any segment is read (invariant 2).
    pub fn on_head(&mut self, number: u64, head: &[u8]) {
        assert!(self.start.is_none(), "heads come before segments");
        let first = start_of(number, self.segment_bytes);
        let run = head.get(WAL_BLOCK_BYTES..).and_then(|run| RunHeader::decode(run, first, self.seed));
        if let Some(run) = run {
            self.continues.push((number, run.previous));
        }
    }

    pub const HEAD_BYTES: usize = WAL_BLOCK_BYTES + RUN_HEADER_BYTES;

    /// One segment, whole; numbers ascend. Records go to `visit` in the order they were appended.
    pub fn on_segment<'a>(
        &mut self,
        number: u64,
        bytes: &'a [u8],
        visit: &mut dyn FnMut(RecordView<'a>),
    ) -> Result<(), Damage> {
        self.on_segment_runs(number, bytes, &mut |piece| {
            if let Replayed::Record(view) = piece {
                visit(view);
            }
        })
    }

    /// Like `on_segment`, and tells of the runs as well, each before its records.
    pub fn on_segment_runs<'a>(
        &mut self,
        number: u64,
        bytes: &'a [u8],
        visit: &mut dyn FnMut(Replayed<'a>),
    ) -> Result<(), Damage> {
        assert!(self.segment_last.is_none_or(|last| last < number), "segments come in order");
        self.segment_last = Some(number);
        self.check_segment(number, bytes).map_err(|why| Damage { segment: number, offset: 0, why })?;
        let oldest = self.start.is_none();
        if oldest {
            self.start = Some(start_of(number, self.segment_bytes));
            self.end = start_of(number, self.segment_bytes);
            self.end_segment = Some(number);
        }
        let broke_at = self.follow(number, bytes, oldest, visit);
        self.seek_witness(number, bytes, broke_at)
    }

    /// All segments were shown and none was damaged.
    pub fn finish(self) -> End {
        let torn = self.stop.filter(|stop| !matches!(stop.why, Why::Missing));
        End { start: self.start.unwrap_or_default(), end: self.end, segment: self.end_segment, torn }
    }

    fn check_segment(&self, number: u64, bytes: &[u8]) -> Result<(), Why> {
        let header = SegmentHeader::decode(bytes)?;
        let (found, expected) = (bytes.len() as u64, self.segment_bytes as u64);
        if header.identity != self.identity {
            return Err(Why::Foreign { found: header.identity });
        }
        if header.number != number {
            return Err(Why::Number { found: header.number });
        }
        if header.segment_bytes != expected {
            return Err(Why::SegmentBytes { found: header.segment_bytes, expected });
        }
        if found != expected {
            return Err(Why::Length { found, expected });
        }
        Ok(())
    }

    /// Follows the chain through one segment and returns the offset it does not go beyond.
    fn follow<'a>(
        &mut self,
        number: u64,
        bytes: &'a [u8],
        oldest: bool,
        visit: &mut dyn FnMut(Replayed<'a>),
    ) -> usize {
        let limit = self.continues.iter().filter(|(later, _)| *later > number).map(|(_, end)| *end).min();
        let mut offset = WAL_BLOCK_BYTES;
        while offset < bytes.len() {
            let here = position(number, offset, self.segment_bytes);
            // Abandoned by the recovery that opened a later segment (invariant 2).
            if limit.is_some_and(|limit| here >= limit) {
                return offset;
            }
            let run = match verify_run(&bytes[offset..], here, self.seed) {
                Ok(run) => run,
                Err((within, why)) => {
                    self.on_stop(number, offset + within, why);
                    return offset;
                }
            };
            // What came before the oldest segment was truncated: its first run continues from there.
            let first_of_all = oldest && offset == WAL_BLOCK_BYTES;
            if run.header.previous != self.end && !first_of_all {
                self.on_stop(number, offset, Why::Gap);
                return offset;
            }
            run.deliver(visit);
            offset += padded(run.bytes.len());
            self.end = position(number, offset, self.segment_bytes);
            self.end_segment = Some(number);
            self.stop = None;
        }
        offset
    }

    /// Keeps the most telling reason: that nothing is written says little, since a segment may end
    /// before its last block.
    fn on_stop(&mut self, segment: u64, offset: usize, why: Why) {
        if self.stop.is_none_or(|stop| stop.why == Why::Missing) {
            self.stop = Some(Damage { segment, offset: offset as u64, why });
        }
    }

    /// Looks behind the break for a run that was written when more than `end` was on disk. Its header
    /// is witness enough: its own records may be torn.
    fn seek_witness(&self, number: u64, bytes: &[u8], from: usize) -> Result<(), Damage> {
        let mut offset = from;
        while offset < bytes.len() {
            let here = position(number, offset, self.segment_bytes);
            let Some(run) = RunHeader::decode(&bytes[offset..], here, self.seed) else {
                offset += WAL_BLOCK_BYTES;
                continue;
            };
            if run.settled > self.end && rules::on(Rule::StopAtDamage) {
                let gap = Damage { segment: number, offset: offset as u64, why: Why::Gap };
                return Err(self.stop.unwrap_or(gap));
            }
            offset += WAL_BLOCK_BYTES;
        }
        Ok(())
    }
}

/// A run all of whose bytes check.
struct Run<'a> {
    header: RunHeader,
    /// Header and records.
    bytes: &'a [u8],
}

impl<'a> Run<'a> {
    fn deliver(&self, visit: &mut dyn FnMut(Replayed<'a>)) {
        let RunHeader { bytes, records, position, previous, settled } = self.header;
        visit(Replayed::Run(RunView { position, bytes, records, previous, settled }));
        let mut at = RUN_HEADER_BYTES;
        for _ in 0..self.header.records {
            let view = record::decode(&self.bytes[at..]).expect("the run was verified");
            at += RECORD_HEADER_BYTES + view.record.payload.len();
            visit(Replayed::Record(view));
        }
    }
}

/// The run that begins with `bytes`, or where within it the first fault lies.
fn verify_run(bytes: &[u8], position: Lsn, seed: u32) -> Result<Run<'_>, (usize, Why)> {
    let Some(header) = RunHeader::decode(bytes, position, seed) else {
        let blank = bytes[..WAL_BLOCK_BYTES].iter().all(|byte| *byte == 0);
        return Err((0, if blank { Why::Missing } else { Why::RunHeader }));
    };
    let length = usize::try_from(header.bytes).map_err(|_| (0, Why::RunHeader))?;
    if length < RUN_HEADER_BYTES || padded(length) > bytes.len() {
        return Err((0, Why::RunHeader));
    }
    let mut at = RUN_HEADER_BYTES;
    for _ in 0..header.records {
        let here = Lsn(position.0.saturating_add(at as u64));
        let view = record::verify(&bytes[at..length], here, seed).map_err(|why| (at, why))?;
        at += RECORD_HEADER_BYTES + view.record.payload.len();
    }
    if at != length {
        return Err((at, Why::Record));
    }
    match bytes[length..padded(length)].iter().position(|byte| *byte != 0) {
        Some(within) => Err((length + within, Why::Padding)),
        None => Ok(Run { header, bytes: &bytes[..length] }),
    }
}
