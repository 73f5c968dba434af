//! The file of a core's votes, and of what else outlives its log: two copies, each written only while the other
//! stands.
//!
//! `wal` knows what a copy looks like, `uring` writes it. Here: where it goes, which copy is next, and how
//! far the log may be called durable meanwhile.
//!
//! Invariants:
//!   1. A copy is written only while the other is whole, and so at most one is torn by a crash.
//!   2. A generation counts when both copies hold it. So any one copy alone has every vote that counted,
//!      however the other was lost: torn, or rotten years later.
//!   3. The file has its full size and both copies before it has its name, and has its name before the
//!      first segment of the log: a log without it has lost it, and so has a directory that was used before.
//!   4. That a checkpoint replaces part of the log is in both copies before that part goes, and before anything
//!      leaves that rests on it: log and checkpoints that hold less have lost it.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;

use memmap2::MmapMut;

use super::directory::{CoreDirectory, io_error, open_direct};
use super::{DiskError, checkpoint_path, segments};
use crate::bounds::VOTES_COPY_BYTES;
use crate::rules::{self, Rule};
use crate::types::{Ballot, DiskId, Lsn, NodeId, PartitionId, Slot};
use crate::wal::{LogIdentity, Votes, Why};

/// The votes of a core, as far as both homes tell that they counted: readable when the log is not. Touches
/// nothing. A directory without a log has none.
pub fn read_votes(directory: &CoreDirectory, identity: LogIdentity) -> Result<Votes, DiskError> {
    Ok(Copies::read(directory, identity)?.map_or_else(Votes::default, |copies| copies.votes))
}

/// What the two copies say.
struct Copies {
    votes: Votes,
    /// The highest generation found.
    generation: u64,
    /// The copy to be written first: the one that is damaged or behind, if one is.
    weaker: usize,
    agree: bool,
}

impl Copies {
    fn read(directory: &CoreDirectory, identity: LogIdentity) -> Result<Option<Copies>, DiskError> {
        let path = directory.file(VOTES_NAME);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            // Invariant 3.
            Err(absent) if absent.kind() == io::ErrorKind::NotFound => {
                let new = segments::numbers(directory)?.is_empty();
                return if new { Ok(None) } else { Err(DiskError::VotesLost { path }) };
            }
            Err(source) => return Err(io_error("reading", &path, source)),
        };
        let copy = |number: usize| {
            let copy = bytes.get(number * VOTES_COPY_BYTES..).unwrap_or_default();
            Votes::decode(&copy[..copy.len().min(VOTES_COPY_BYTES)], identity)
        };
        let copies = match (copy(0), copy(1)) {
            (Ok((first, mut votes)), Ok((second, others))) => {
                let agree = first == second && votes == others;
                votes.merge(&others);
                Copies { votes, generation: first.max(second), weaker: usize::from(second < first), agree }
            }
            (Ok((generation, votes)), Err(_)) => Copies { votes, generation, weaker: 1, agree: false },
            (Err(_), Ok((generation, votes))) => Copies { votes, generation, weaker: 0, agree: false },
            (Err(why), Err(_)) | (Err(_), Err(why)) if why.is_unsuitable() => {
                return Err(DiskError::Unsuitable { path, why });
            }
            (Err(_), Err(_)) => return Err(DiskError::VotesLost { path }),
        };
        Ok(Some(copies))
    }
}

/// What is there beside the votes.
pub(super) struct Standing<'a> {
    /// The oldest segment of the log.
    pub(super) first: Option<u64>,
    /// Where the log goes on behind each committed checkpoint.
    pub(super) checkpoints: &'a [(PartitionId, Slot)],
    /// Log and checkpoints were given up, and that is noted: what there is now is all there need be.
    pub(super) begins_anew: bool,
    /// The file was there once.
    pub(super) has_opened: bool,
}

impl Standing<'_> {
    /// Whether log and checkpoints hold in one piece what the votes say they did (invariant 4).
    fn check(&self, directory: &CoreDirectory, votes: &Votes) -> Result<(), DiskError> {
        if self.begins_anew || !rules::on(Rule::WholeLog) {
            return Ok(());
        }
        let used = votes.oldest() > 0 || votes.iter().next().is_some();
        if self.first.map_or(used, |first| first > votes.oldest()) {
            let (path, oldest) = (directory.path().to_owned(), votes.oldest());
            return Err(DiskError::SegmentsLost { path, oldest });
        }
        for (partition, slot) in votes.covers() {
            let known = self.checkpoints.iter().find(|(known, _)| *known == partition);
            if known.is_none_or(|(_, found)| *found < slot) {
                let path = checkpoint_path(directory, partition);
                return Err(DiskError::CheckpointLost { path, slot });
            }
        }
        Ok(())
    }
}

/// The file, open to be written to, with both copies sound.
pub(super) struct VotesFile {
    pub(super) file: File,
    pub(super) direct: bool,
    pub(super) votes: Votes,
    pub(super) generation: u64,
}

impl VotesFile {
    /// Makes the file, or the same of both copies and `logged`, what the log holds. Blocks.
    pub(super) fn open(
        directory: &CoreDirectory,
        identity: LogIdentity,
        logged: &Votes,
        standing: &Standing<'_>,
    ) -> Result<VotesFile, DiskError> {
        let copies = Copies::read(directory, identity)?;
        let made = copies.is_some();
        let new = || Copies { votes: Votes::default(), generation: 0, weaker: 0, agree: false };
        let Copies { mut votes, generation, weaker, agree } = copies.unwrap_or_else(new);
        let before = votes.clone();
        votes.merge(logged);
        if made {
            standing.check(directory, &votes)?;
        } else if standing.has_opened && !standing.begins_anew {
            return Err(DiskError::VotesLost { path: directory.file(VOTES_NAME) });
        }
        if standing.begins_anew {
            votes.begin_anew(standing.first.unwrap_or(0), standing.checkpoints);
        }
        votes.begins_at(standing.first.unwrap_or(0));
        let stale = !agree || votes != before;
        let generation = generation + u64::from(stale);
        let path = directory.file(if made { VOTES_NAME } else { VOTES_NEW });
        let opened = open_direct(&path).map_err(|source| io_error("opening", &path, source))?;
        let (file, direct) = opened;
        if stale {
            let mut bytes = Vec::new();
            votes.encode(identity, generation, &mut bytes);
            let written = write_copies(&file, &bytes, weaker);
            written.map_err(|source| io_error("writing", &path, source))?;
        }
        if !made {
            let name = directory.file(VOTES_NAME);
            fs::rename(&path, &name).map_err(|source| io_error("renaming", &path, source))?;
            directory.sync_names()?;
        }
        Ok(VotesFile { file, direct, votes, generation })
    }
}

/// The whole of both copies, the weaker first (invariant 1).
fn write_copies(file: &File, bytes: &[u8], weaker: usize) -> io::Result<()> {
    // A mapping, because O_DIRECT wants whole pages.
    let mut copy = MmapMut::map_anon(VOTES_COPY_BYTES)?;
    copy[..bytes.len()].copy_from_slice(bytes);
    for number in [weaker, 1 - weaker] {
        file.write_all_at(&copy, offset_of(number))?;
        file.sync_all()?;
    }
    Ok(())
}

/// Votes on their way to the file, and what waits for them.
pub(super) struct VoteWriter {
    identity: LogIdentity,
    votes: Votes,
    generation: u64,
    /// The copy of that generation.
    bytes: Vec<u8>,
    stage: Stage,
    /// Where the log stood before the first vote of the generation being written, and before the first vote
    /// that is in no generation yet.
    writing: Option<Lsn>,
    waiting: Option<Lsn>,
    /// Segments before this one may go: both copies say so.
    truncated: u64,
    /// The same, when the generation being written is in both copies.
    truncating: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Both copies are the same.
    Settled,
    /// This copy is to be written next.
    Due(usize),
    /// This copy is being written.
    UnderWay(usize),
}

impl VoteWriter {
    pub(super) fn new(identity: LogIdentity, votes: Votes, generation: u64) -> VoteWriter {
        let bytes = Vec::with_capacity(VOTES_COPY_BYTES);
        let stage = Stage::Settled;
        let (truncated, truncating) = (votes.oldest(), votes.oldest());
        let (writing, waiting) = (None, None);
        VoteWriter { identity, votes, generation, bytes, stage, writing, waiting, truncated, truncating }
    }

    /// A vote was appended to a log that had reached `before`; the slots below `covered` are in a checkpoint.
    pub(super) fn on_vote(&mut self, partition: PartitionId, ballot: Ballot, covered: Slot, before: Lsn) {
        let covers = self.votes.cover(partition, covered);
        if self.votes.raise(partition, ballot) || covers {
            self.waiting.get_or_insert(before);
        }
    }

    /// That a peer is known by a disk was appended, as a vote is.
    pub(super) fn on_peer(&mut self, (node, disk): (NodeId, DiskId), before: Lsn) {
        if self.votes.meet(node, disk) {
            self.waiting.get_or_insert(before);
        }
    }

    /// Segments before this one are to go, once `truncated` says so.
    pub(super) fn on_truncate(&mut self, oldest: u64) {
        self.votes.truncate(oldest);
    }

    pub(super) fn truncated(&self) -> u64 {
        self.truncated
    }

    /// The next copy to write, and where; not before the last one was.
    pub(super) fn next_write(&mut self) -> Option<(u64, &[u8])> {
        let due = self.waiting.is_some() || self.votes.oldest() > self.truncated;
        if self.stage == Stage::Settled && due {
            self.writing = self.waiting.take();
            self.truncating = self.votes.oldest();
            self.generation += 1;
            self.votes.encode(self.identity, self.generation, &mut self.bytes);
            self.stage = Stage::Due(0);
        }
        let Stage::Due(copy) = self.stage else { return None };
        self.stage = Stage::UnderWay(copy);
        Some((offset_of(copy), &self.bytes))
    }

    /// Bytes of a copy of the generation being written.
    pub(super) fn copy_bytes(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn on_wrote(&mut self) {
        match self.stage {
            Stage::UnderWay(0) => self.stage = Stage::Due(1),
            Stage::UnderWay(_) => {
                self.stage = Stage::Settled;
                self.writing = None;
                self.truncated = self.truncating;
            }
            Stage::Settled | Stage::Due(_) => panic!("no copy was being written"),
        }
    }

    /// How far the log may be called durable, given that it reached `durable` itself.
    pub(super) fn limit(&self, durable: Lsn) -> Lsn {
        let limits = [self.writing, self.waiting];
        limits.into_iter().flatten().fold(durable, Lsn::min)
    }
}

fn offset_of(copy: usize) -> u64 {
    (copy * VOTES_COPY_BYTES) as u64
}

/// Judges the bytes of a whole votes file, whoever wrote it: for looking at it.
pub fn inspect_votes(bytes: &[u8]) -> [Result<(LogIdentity, u64, Votes), Why>; 2] {
    [0, 1].map(|number| {
        let copy = bytes.get(number * VOTES_COPY_BYTES..).unwrap_or_default();
        Votes::decode_anyones(&copy[..copy.len().min(VOTES_COPY_BYTES)])
    })
}

pub const VOTES_NAME: &str = "votes";
const VOTES_NEW: &str = "votes.new";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{CoreId, NodeId};

    fn writer() -> VoteWriter {
        let identity = LogIdentity::new("demo", NodeId(2), CoreId(1));
        VoteWriter::new(identity, Votes::default(), 1)
    }

    fn ballot(round: u32) -> Ballot {
        Ballot { round, node: NodeId(1) }
    }

    /// A vote spoken with one copy on disk is forgotten when that copy is the one that rots.
    #[test]
    fn a_vote_counts_when_both_copies_are_written_one_after_the_other() {
        let mut writer = writer();
        assert_eq!(writer.limit(Lsn(90)), Lsn(90));
        writer.on_vote(PartitionId(3), ballot(1), Slot(0), Lsn(100));
        for copy in [0, 1] {
            assert_eq!(writer.limit(Lsn(200)), Lsn(100));
            assert_eq!(writer.next_write().map(|(offset, _)| offset), Some(offset_of(copy)));
            assert!(writer.next_write().is_none(), "one copy is whole at any time");
            assert_eq!(writer.limit(Lsn(200)), Lsn(100));
            writer.on_wrote();
        }
        assert_eq!(writer.limit(Lsn(200)), Lsn(200));
        assert!(writer.next_write().is_none());
    }

    /// A vote appended while a generation is being written is not in it.
    #[test]
    fn a_vote_that_comes_too_late_for_a_generation_waits_for_the_next() {
        let mut writer = writer();
        writer.on_vote(PartitionId(3), ballot(1), Slot(0), Lsn(100));
        assert!(writer.next_write().is_some());
        writer.on_vote(PartitionId(4), ballot(1), Slot(0), Lsn(150));
        writer.on_wrote();
        assert!(writer.next_write().is_some());
        writer.on_wrote();
        assert_eq!(writer.limit(Lsn(200)), Lsn(150));
        let (_, bytes) = writer.next_write().unwrap();
        let (generation, votes) =
            Votes::decode(bytes, LogIdentity::new("demo", NodeId(2), CoreId(1))).unwrap();
        assert_eq!((generation, votes.get(PartitionId(4))), (3, Some(ballot(1))));
    }

    /// Deleted before the file knows, what is missing would not be missed.
    #[test]
    fn segments_go_when_both_copies_know_the_checkpoint_that_replaces_them() {
        let mut writer = writer();
        writer.on_vote(PartitionId(3), ballot(1), Slot(0), Lsn(100));
        assert!(writer.next_write().is_some());
        writer.on_vote(PartitionId(3), ballot(1), Slot(50), Lsn(200));
        writer.on_truncate(4);
        for _ in 0..2 {
            writer.on_wrote();
            assert_eq!(
                (writer.truncated(), writer.limit(Lsn(300))),
                (0, Lsn(if writer.stage == Stage::Settled { 200 } else { 100 }))
            );
            assert!(writer.next_write().is_some());
        }
        writer.on_wrote();
        let (_, bytes) = writer.next_write().unwrap();
        let (_, votes) = Votes::decode(bytes, LogIdentity::new("demo", NodeId(2), CoreId(1))).unwrap();
        assert_eq!((votes.oldest(), votes.covered(PartitionId(3))), (4, Slot(50)));
        writer.on_wrote();
        assert_eq!((writer.truncated(), writer.limit(Lsn(300))), (4, Lsn(300)));
    }

    /// A ballot the file holds already is a repetition: nothing waits for it.
    #[test]
    fn a_vote_that_is_no_news_writes_nothing() {
        let mut writer = writer();
        writer.on_vote(PartitionId(3), ballot(2), Slot(0), Lsn(100));
        for _ in 0..2 {
            assert!(writer.next_write().is_some());
            writer.on_wrote();
        }
        writer.on_vote(PartitionId(3), ballot(2), Slot(0), Lsn(150));
        writer.on_vote(PartitionId(3), ballot(1), Slot(0), Lsn(160));
        assert_eq!((writer.limit(Lsn(200)), writer.next_write()), (Lsn(200), None));
    }
}
