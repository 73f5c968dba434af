//! The simulated checkpoint files of one core: the newest committed bytes of each partition, at most one being
//! written and one being received.
//!
//! Bytes are opaque: their format, and what is in them, is the host's. Time and chance are handed in, for a
//! core through [`CheckpointPort`].
//!
//! Invariants:
//!   1. What is committed is replaced as a whole or not at all.
//!   2. A draft that is not committed does not outlive a crash.
//!   3. Events come out in the order in which they are due.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::faults::happens;
use crate::bounds::{CHECKPOINT_WRITE_BYTES_MAX, MS, US};
use crate::partition::{self, CheckpointPart, Checkpoints, Origin};
use crate::types::{PartitionId, Prng, Timestamp};

#[derive(Clone, Debug)]
pub struct SimCheckpoints {
    faults: CheckpointFaults,
    committed: BTreeMap<PartitionId, Vec<u8>>,
    /// By [`Draft`].
    drafts: [Option<Writing>; 2],
    reads: Vec<Reading>,
    /// Counts reads, so that two of one instant keep their order.
    reads_begun: u64,
    /// When the last one was begun.
    read_at: Option<Timestamp>,
}

/// Which of the two checkpoints under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Draft {
    /// This core's own, being written.
    Own = 0,
    /// A peer's, being received.
    Received = 1,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub struct CheckpointFaults {
    /// Least and most a read takes.
    pub read_ns: (u64, u64),
    /// Least and most a commit takes.
    pub commit_ns: (u64, u64),
    /// Chance that there is no space: the commit fails, and what was committed before stays.
    pub failed: f64,
    /// Chance per crash that one bit of what is committed flips. It is for the reader to notice.
    pub rot: f64,
}

impl CheckpointFaults {
    pub const NONE: CheckpointFaults =
        CheckpointFaults { read_ns: (100 * US, MS), commit_ns: (MS, 20 * MS), failed: 0.0, rot: 0.0 };
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CheckpointEvent {
    Committed {
        draft: Draft,
        partition: PartitionId,
    },
    /// The draft is gone.
    Failed {
        draft: Draft,
        partition: PartitionId,
    },
    /// As many bytes as there are of those asked for; `None` when nothing is committed.
    Read {
        ticket: u64,
        part: Option<CheckpointPart>,
    },
}

impl SimCheckpoints {
    pub fn new(faults: CheckpointFaults) -> SimCheckpoints {
        let (committed, reads) = (BTreeMap::new(), Vec::new());
        SimCheckpoints { faults, committed, drafts: [None, None], reads, reads_begun: 0, read_at: None }
    }

    pub fn begin(&mut self, draft: Draft, partition: PartitionId) {
        let place = &mut self.drafts[draft as usize];
        assert!(place.is_none(), "one checkpoint at a time: {draft:?} of {partition:?}, during {place:?}");
        *place = Some(Writing { partition, bytes: Vec::new(), commit: None });
    }

    pub fn write(&mut self, draft: Draft, bytes: &[u8]) {
        self.open_draft(draft).bytes.extend_from_slice(bytes);
    }

    /// Ends with `Committed` or `Failed`.
    pub fn commit(&mut self, draft: Draft, now: Timestamp, prng: &mut Prng) {
        let CheckpointFaults { commit_ns: (least, most), failed, .. } = self.faults;
        let commit = Commit { due: now.plus_ns(prng.u64(least..=most)), fails: happens(prng, failed) };
        self.open_draft(draft).commit = Some(commit);
    }

    pub fn abandon(&mut self, draft: Draft) {
        self.open_draft(draft);
        self.drafts[draft as usize] = None;
    }

    /// Ends with `Read`, of what is committed by then.
    pub fn read(&mut self, piece: Piece, ticket: u64, now: Timestamp, prng: &mut Prng) {
        let (least, most) = self.faults.read_ns;
        self.reads_begun += 1;
        self.read_at = Some(now);
        let due = now.plus_ns(prng.u64(least..=most));
        self.reads.push(Reading { due, order: self.reads_begun, piece, ticket });
    }

    /// The next thing that is done by now.
    pub fn poll(&mut self, now: Timestamp) -> Option<CheckpointEvent> {
        let read = (0..self.reads.len()).min_by_key(|at| (self.reads[*at].due, self.reads[*at].order));
        let read_due = read.map(|at| self.reads[at].due);
        let commit = [Draft::Own, Draft::Received]
            .into_iter()
            .filter_map(|draft| Some((self.commit_of(draft)?.due, draft)))
            .min_by_key(|(due, _)| *due);
        match (read_due, commit) {
            (read_due, Some((due, draft))) if due <= now && read_due.is_none_or(|read| due <= read) => {
                Some(self.end_commit(draft))
            }
            (Some(due), _) if due <= now => Some(self.end_read(read?)),
            _ => None,
        }
    }

    pub fn next_due(&self) -> Option<Timestamp> {
        let commits = [Draft::Own, Draft::Received].into_iter().filter_map(|draft| self.commit_of(draft));
        commits.map(|commit| commit.due).chain(self.reads.iter().map(|read| read.due)).min()
    }

    /// When a peer last read of one.
    pub fn read_at(&self) -> Option<Timestamp> {
        self.read_at
    }

    pub fn is_writing(&self, draft: Draft) -> bool {
        self.drafts[draft as usize].is_some()
    }

    /// Of all that is committed.
    pub fn committed_bytes(&self) -> u64 {
        self.committed.values().map(|bytes| bytes.len() as u64).sum()
    }

    /// What a start of the core loads.
    pub fn committed(&self, partition: PartitionId) -> Option<&[u8]> {
        self.committed.get(&partition).map(Vec::as_slice)
    }

    /// Ends this life of the core: what is left is what the next one opens.
    pub fn crash(&mut self, now: Timestamp, prng: &mut Prng) {
        self.reads.clear();
        for draft in [Draft::Own, Draft::Received] {
            let Some(writing) = self.drafts[draft as usize].take() else { continue };
            let Some(commit) = writing.commit else { continue };
            if !commit.fails && (commit.due <= now || prng.bool()) {
                self.committed.insert(writing.partition, writing.bytes);
            }
        }
        if happens(prng, self.faults.rot) {
            self.rot(prng);
        }
    }

    /// Gives all of them up.
    pub fn wipe(&mut self) {
        self.committed.clear();
    }

    /// One of them vanishes. Which.
    pub fn lose(&mut self, prng: &mut Prng) -> Option<PartitionId> {
        let at = prng.usize(..self.committed.len().max(1));
        let partition = self.committed.keys().nth(at).copied()?;
        self.committed.remove(&partition);
        Some(partition)
    }

    /// Flips one bit of one committed checkpoint, and says of which.
    pub fn rot(&mut self, prng: &mut Prng) -> Option<PartitionId> {
        let at = prng.usize(..self.committed.len().max(1));
        let (partition, bytes) = self.committed.iter_mut().nth(at)?;
        let byte = prng.usize(..bytes.len().max(1));
        *bytes.get_mut(byte)? ^= 1 << prng.u32(..8);
        Some(*partition)
    }

    fn commit_of(&self, draft: Draft) -> Option<&Commit> {
        self.drafts[draft as usize].as_ref()?.commit.as_ref()
    }

    /// A draft that may still be changed.
    fn open_draft(&mut self, draft: Draft) -> &mut Writing {
        let open = self.drafts[draft as usize].as_mut().filter(|writing| writing.commit.is_none());
        open.expect("begun, and not being committed")
    }

    fn end_commit(&mut self, draft: Draft) -> CheckpointEvent {
        let writing = self.drafts[draft as usize].take().expect("it is being committed");
        let partition = writing.partition;
        if writing.commit.is_some_and(|commit| commit.fails) {
            return CheckpointEvent::Failed { draft, partition };
        }
        self.committed.insert(partition, writing.bytes);
        CheckpointEvent::Committed { draft, partition }
    }

    fn end_read(&mut self, at: usize) -> CheckpointEvent {
        let Reading { piece: Piece { partition, offset, len }, ticket, .. } = self.reads.swap_remove(at);
        let part = self.committed.get(&partition).map(|whole| {
            let from = usize::try_from(offset).map_or(whole.len(), |offset| offset.min(whole.len()));
            let bytes = whole[from..from.saturating_add(len).min(whole.len())].to_vec();
            // As on files: the checksum of the header tells one from the next.
            let checkpoint =
                whole.get(8..12).map_or(0, |crc| u32::from_le_bytes([crc[0], crc[1], crc[2], crc[3]]));
            CheckpointPart { checkpoint, total: whole.len() as u64, offset, bytes }
        });
        CheckpointEvent::Read { ticket, part }
    }
}

/// The checkpoints of a core for one turn of it.
pub struct CheckpointPort<'a> {
    pub checkpoints: &'a mut SimCheckpoints,
    pub now: Timestamp,
    pub prng: &'a mut Prng,
}

impl Checkpoints for CheckpointPort<'_> {
    fn begin(&mut self, origin: Origin, partition: PartitionId) -> bool {
        let draft = draft_of(origin);
        let begins = self.checkpoints.drafts[draft as usize].is_none();
        if begins {
            self.checkpoints.begin(draft, partition);
        }
        begins
    }

    fn room(&self, origin: Origin) -> usize {
        let writing = self.checkpoints.drafts[draft_of(origin) as usize].as_ref();
        if writing.is_some_and(|writing| writing.commit.is_none()) { CHECKPOINT_WRITE_BYTES_MAX } else { 0 }
    }

    fn write(&mut self, origin: Origin, bytes: &[u8]) {
        self.checkpoints.write(draft_of(origin), bytes);
    }

    fn commit(&mut self, origin: Origin) {
        self.checkpoints.commit(draft_of(origin), self.now, self.prng);
    }

    fn abandon(&mut self, origin: Origin) {
        let draft = draft_of(origin);
        if self.checkpoints.commit_of(draft).is_some_and(|commit| !commit.fails) && self.prng.bool() {
            self.checkpoints.end_commit(draft);
        }
        self.checkpoints.drafts[draft as usize] = None;
    }

    fn read(&mut self, partition: PartitionId, offset: u64, bytes: usize, ticket: u64) -> bool {
        self.checkpoints.read(Piece { partition, offset, len: bytes }, ticket, self.now, self.prng);
        true
    }

    fn poll(&mut self) -> Option<partition::CheckpointEvent> {
        Some(match self.checkpoints.poll(self.now)? {
            CheckpointEvent::Committed { draft, partition } => {
                partition::CheckpointEvent::Committed { origin: origin_of(draft), partition }
            }
            CheckpointEvent::Failed { draft, partition } => {
                partition::CheckpointEvent::Failed { origin: origin_of(draft), partition }
            }
            CheckpointEvent::Read { ticket, part } => partition::CheckpointEvent::Read { ticket, part },
        })
    }
}

fn draft_of(origin: Origin) -> Draft {
    match origin {
        Origin::Own => Draft::Own,
        Origin::Peer => Draft::Received,
    }
}

fn origin_of(draft: Draft) -> Origin {
    match draft {
        Draft::Own => Origin::Own,
        Draft::Received => Origin::Peer,
    }
}

/// A piece of a committed checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    pub partition: PartitionId,
    pub offset: u64,
    pub len: usize,
}

#[derive(Clone, Debug)]
struct Writing {
    partition: PartitionId,
    bytes: Vec<u8>,
    commit: Option<Commit>,
}

#[derive(Clone, Copy, Debug)]
struct Commit {
    due: Timestamp,
    fails: bool,
}

#[derive(Clone, Copy, Debug)]
struct Reading {
    due: Timestamp,
    order: u64,
    piece: Piece,
    ticket: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARTITION: PartitionId = PartitionId(3);

    fn settle(checkpoints: &mut SimCheckpoints) -> Vec<CheckpointEvent> {
        let mut events = Vec::new();
        while let Some(due) = checkpoints.next_due() {
            assert_eq!(checkpoints.poll(due.prev()), None, "nothing is early");
            events.push(checkpoints.poll(due).expect("it is due"));
        }
        events
    }

    fn commit(checkpoints: &mut SimCheckpoints, draft: Draft, bytes: &[u8], prng: &mut Prng) {
        checkpoints.begin(draft, PARTITION);
        bytes.chunks(2).for_each(|piece| checkpoints.write(draft, piece));
        checkpoints.commit(draft, Timestamp(0), prng);
    }

    /// A log is truncated because a checkpoint was committed. Half of a new one in the place of an old
    /// one, or neither, and the partition is lost.
    #[test]
    fn a_crash_leaves_the_old_checkpoint_or_the_new_one_whole() {
        let mut seen = [0; 2];
        for seed in 0..200 {
            let mut prng = Prng::with_seed(seed);
            let mut checkpoints = SimCheckpoints::new(CheckpointFaults::NONE);
            commit(&mut checkpoints, Draft::Own, b"the old one", &mut prng);
            settle(&mut checkpoints);
            commit(&mut checkpoints, Draft::Own, b"a newer", &mut prng);
            checkpoints.begin(Draft::Received, PARTITION);
            checkpoints.write(Draft::Received, b"half of a peer's");
            let now = Timestamp(prng.u64(..25 * MS));
            let due = checkpoints.next_due().unwrap() <= now;
            checkpoints.crash(now, &mut prng);
            let is_new = match checkpoints.committed(PARTITION).unwrap() {
                b"a newer" => true,
                b"the old one" => false,
                other => panic!("seed {seed}: {other:?}"),
            };
            assert!(is_new || !due, "seed {seed}: done before the crash, and gone");
            seen[usize::from(is_new)] += 1;
            assert_eq!(checkpoints.next_due(), None);
            checkpoints.begin(Draft::Own, PARTITION);
        }
        assert!(seen.iter().all(|times| *times > 20), "{seen:?}");
    }

    /// Space runs out in the middle: what is there must stay, and the host must hear of it.
    #[test]
    fn a_commit_that_fails_keeps_what_was_committed() {
        let mut prng = Prng::with_seed(1);
        let mut checkpoints = SimCheckpoints::new(CheckpointFaults::NONE);
        commit(&mut checkpoints, Draft::Received, b"old", &mut prng);
        let committed = CheckpointEvent::Committed { draft: Draft::Received, partition: PARTITION };
        assert_eq!(settle(&mut checkpoints), [committed]);
        checkpoints.faults.failed = 1.0;
        commit(&mut checkpoints, Draft::Own, b"new", &mut prng);
        let failed = CheckpointEvent::Failed { draft: Draft::Own, partition: PARTITION };
        assert_eq!(settle(&mut checkpoints), [failed]);
        assert_eq!(checkpoints.committed(PARTITION), Some(&b"old"[..]));
    }

    /// A peer asks for pieces until one comes back short: one too many bytes, or a panic behind the end,
    /// and it never finishes.
    #[test]
    fn reads_end_with_the_bytes_there_are_and_drafts_are_not_read() {
        let mut prng = Prng::with_seed(2);
        let mut checkpoints = SimCheckpoints::new(CheckpointFaults::NONE);
        checkpoints.read(Piece { partition: PARTITION, offset: 0, len: 4 }, 7, Timestamp(0), &mut prng);
        let nothing = CheckpointEvent::Read { ticket: 7, part: None };
        assert_eq!(settle(&mut checkpoints), [nothing]);
        commit(&mut checkpoints, Draft::Own, b"abcdef", &mut prng);
        settle(&mut checkpoints);
        checkpoints.begin(Draft::Own, PARTITION);
        checkpoints.write(Draft::Own, b"unfinished");
        for (offset, expected) in [(0, &b"abcd"[..]), (4, b"ef"), (6, b""), (u64::MAX, b"")] {
            let piece = Piece { partition: PARTITION, offset, len: 4 };
            checkpoints.read(piece, offset, Timestamp(0), &mut prng);
            let (total, bytes) = (6, expected.to_vec());
            let part = Some(CheckpointPart { checkpoint: 0, total, offset, bytes });
            let read = CheckpointEvent::Read { ticket: offset, part };
            assert_eq!(settle(&mut checkpoints), [read]);
        }
        checkpoints.abandon(Draft::Own);
        checkpoints.begin(Draft::Own, PARTITION);
    }

    /// Rot that nothing changes would test no reader.
    #[test]
    fn rot_flips_one_bit() {
        let mut prng = Prng::with_seed(3);
        let mut checkpoints = SimCheckpoints::new(CheckpointFaults { rot: 1.0, ..CheckpointFaults::NONE });
        assert_eq!(checkpoints.rot(&mut prng), None);
        commit(&mut checkpoints, Draft::Own, &[0; 100], &mut prng);
        settle(&mut checkpoints);
        checkpoints.crash(Timestamp(0), &mut prng);
        let ones: u32 = checkpoints.committed(PARTITION).unwrap().iter().map(|byte| byte.count_ones()).sum();
        assert_eq!(ones, 1);
    }
}
