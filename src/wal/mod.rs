//! What one core keeps on disk, as bytes and offsets: format, open end, replay of its log. It opens no file.
//!
//! A log is a sequence of *segments* of equal size. A segment begins with a header block; after it
//! come *runs*. A run is one group commit: records packed behind a run header, padded with zeros to
//! a whole number of blocks, so that no write ever touches a block that an earlier one touched.
//! An [`Lsn`](crate::types::Lsn) is a byte position: `segment number × segment bytes + offset`.
//!
//! Invariants of the format, which `replay` checks:
//!   1. A run header names its own position: what a recycled segment held before is never taken for a run.
//!   2. It names the end of the run before it: runs form a chain, across segments and restarts.
//!   3. It names a position below which everything was on disk when it was written ("settled"). So
//!      a break in the chain below it is damage, and a break at or above it is a torn tail.
//!   4. A run counts as a whole or not at all.
//!
//! Beside the log: `checkpoint`, what makes its older part unnecessary, and `votes`, the second copy of what a
//! core has promised. Not here: files, rings, threads (`disk`); what the records mean (`paxos`).
#![forbid(unsafe_code)]
#![deny(clippy::cast_possible_truncation)]

mod bytes;
pub mod checkpoint;
pub(crate) mod fuzzing;
mod open_end;
mod record;
mod replay;
mod run;
mod segment;
mod votes;

pub use open_end::{Wal, Write};
pub use record::{OwnedRecord, Record, RecordKind, RecordView};
pub use replay::{Damage, End, Replay, Replayed, RunView, Why};
pub use segment::{LogIdentity, SegmentHeader, segment_of, start_of};
pub use votes::Votes;

#[cfg(test)]
mod tests;
