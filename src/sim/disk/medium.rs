//! What a simulated drive holds, and what was done to it: the log's segments and the two slots of votes.
//!
//! It keeps account of the truth beside the bytes (which blocks differ from what was last written there, which
//! runs there are and what they bear witness to), so that [`Medium::owed`] can say what opening it must come
//! to without reading it. Opening never looks at that account.
//!
//! Invariants:
//!   1. `injured` names exactly the blocks whose bytes are not those last written there, of writes that have
//!      ended: completed, or cut off by a crash.
//!   2. `runs` lists the runs of the log that was recovered last and of the life since, in order; and, marked,
//!      those that a recovery has left behind its end, for they may come back as long as nothing followed.
//!   3. A retired segment is gone for good once another was prepared; a power cut before may bring it back.
//!
//! Not here: writes under way (`mod`), how votes are kept up to date (`votes`).
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::mem;
use std::ops::Range;

use super::faults::Crash;
use super::votes::{self, Kept, SLOT_BYTES, Slot, VoteTable};
use crate::bounds::WAL_BLOCK_BYTES;
use crate::types::{self, Lsn, PartitionId, Prng};
use crate::wal::{LogIdentity, SegmentHeader};

#[derive(Clone, PartialEq, Eq)]
pub struct Medium {
    segment_bytes: usize,
    pub(super) segments: BTreeMap<u64, Segment>,
    /// Oldest first (invariant 3).
    retired: Vec<(u64, Segment)>,
    pub(super) slots: [Box<[u8]>; 2],
    /// Blocks of a process that was killed, still on their way when the next one opened.
    late: Vec<Late>,
    /// All writes below were said to be complete.
    completed: Lsn,
    /// What lies have kept from being there: block by block.
    truth: Vec<Late>,
}

/// What opening a medium must come to, known from what was done to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owed {
    /// Everything that was reported durable, in silence.
    Everything,
    /// A lie reached the last writes, and none that came after bears witness: no log can tell that from a
    /// torn tail. It may end at this position or behind it, or be called damaged.
    EndOrDamage(Lsn),
    /// Something durable is gone, and a later write bears witness: the log must be called damaged.
    Damage,
}

/// Where a bit flipped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rot {
    Log { segment: u64, block: usize },
    Votes { slot: usize },
}

impl Medium {
    /// A drive nothing was ever written to.
    pub fn new(segment_bytes: usize) -> Medium {
        assert!(segment_bytes.is_multiple_of(WAL_BLOCK_BYTES) && segment_bytes >= 2 * WAL_BLOCK_BYTES);
        let blank = || vec![0; SLOT_BYTES].into_boxed_slice();
        Medium {
            segment_bytes,
            segments: BTreeMap::new(),
            retired: Vec::new(),
            slots: [blank(), blank()],
            late: Vec::new(),
            completed: Lsn(0),
            truth: Vec::new(),
        }
    }

    /// The newest vote of every partition that the slots remember, whatever the log has come to. `None` when
    /// both copies are gone, one torn and the other rotten: this replica has forgotten what it promised.
    pub fn votes(&self) -> Option<VoteTable> {
        self.kept().map(|kept| kept.votes)
    }

    /// All that the slots remember.
    pub(super) fn kept(&self) -> Option<Kept> {
        let slots = [votes::decode(&self.slots[0]), votes::decode(&self.slots[1])];
        if slots.iter().all(|slot| *slot == Slot::Unreadable) {
            return None;
        }
        let mut newest = Kept::default();
        for slot in slots {
            if let Slot::Holds { kept, .. } = slot {
                newest.take_in(&kept);
            }
        }
        Some(newest)
    }

    /// Whether log and checkpoints hold less than the slots say they did.
    pub fn misses_any(&self, checkpoints: &[(PartitionId, types::Slot)]) -> bool {
        let Some(kept) = self.kept() else { return true };
        let used = kept.oldest > 0 || !kept.votes.is_empty();
        let covers =
            |partition, slot| checkpoints.iter().any(|(of, found)| *of == partition && *found >= slot);
        let mut covered = kept.covered.iter().filter(|(_, slot)| **slot > types::Slot(0));
        self.segments.keys().next().map_or(used, |first| *first > kept.oldest)
            || !covered.all(|(partition, slot)| covers(*partition, *slot))
    }

    /// The oldest part of the log vanishes. False when there is none.
    pub fn lose_oldest(&mut self) -> bool {
        self.segments.pop_first().is_some()
    }

    /// The drive of a replica about to be rebuilt from its peers: it forgets its log, not its votes.
    pub fn wipe_log(&mut self) {
        for bytes in &mut self.slots {
            if let Slot::Holds { generation, kept: Kept { votes, peers, .. } } = votes::decode(bytes) {
                bytes.copy_from_slice(&votes::encode(&Kept { votes, peers, ..Kept::default() }, generation));
            }
        }
        self.segments.clear();
        self.retired.clear();
        self.late.clear();
        self.truth.clear();
        self.completed = Lsn(0);
    }

    pub fn has_lied(&self) -> bool {
        !self.truth.is_empty()
    }

    /// The drive does what it said it had done.
    pub fn own_up(&mut self) {
        for Late { segment, block, bytes } in mem::take(&mut self.truth) {
            let place = self.segments.get_mut(&segment).filter(|place| place.injured.contains(&block));
            if let Some(place) = place {
                place.land_block(block, &bytes, Landing::Whole);
            }
        }
    }

    /// What opening must come to. Of the log only: votes are owed whatever it comes to.
    pub fn owed(&self) -> Owed {
        // Headers are synced before a segment has its name, so not even a spare's is ever torn.
        if self.segments.values().any(|segment| segment.injured.contains(&0)) {
            return Owed::Damage;
        }
        let mut broken: Option<Lsn> = None;
        let runs =
            || self.segments.values().flat_map(|segment| segment.runs.iter().map(move |run| (segment, run)));
        for (segment, run) in runs().filter(|(_, run)| run.standing == Standing::Live) {
            let hurt = segment.injured.range(run.blocks.clone()).next().is_some();
            match broken {
                None if hurt && run.end <= self.completed => broken = Some(run.start),
                // Its header is witness enough.
                Some(broken) if run.witnesses > broken && !segment.injured.contains(&run.blocks.start) => {
                    return Owed::Damage;
                }
                _ => {}
            }
        }
        let has_lost = runs().any(|(_, run)| run.standing == Standing::Lost);
        broken.or(has_lost.then_some(self.completed)).map_or(Owed::Everything, Owed::EndOrDamage)
    }

    /// Flips one bit of what is remembered: of a block of a segment, or of a slot. `None` on a blank drive.
    pub fn rot(&mut self, prng: &mut Prng) -> Option<Rot> {
        if prng.f64() < ROT_IN_VOTES {
            let slot = prng.usize(..self.slots.len());
            self.slots[slot][prng.usize(..SLOT_BYTES)] ^= 1 << prng.u32(..8);
            return Some(Rot::Votes { slot });
        }
        let used: usize = self.segments.values().map(Segment::used).sum();
        let mut block = prng.usize(..used.max(1));
        let (number, segment) = self.segments.iter_mut().find(|(_, segment)| {
            let here = block < segment.used();
            block -= if here { 0 } else { segment.used() };
            here
        })?;
        segment.bytes[block * WAL_BLOCK_BYTES + prng.usize(..WAL_BLOCK_BYTES)] ^= 1 << prng.u32(..8);
        segment.injured.insert(block);
        Some(Rot::Log { segment: *number, block })
    }

    pub fn segment_bytes(&self) -> usize {
        self.segment_bytes
    }

    /// How many segments there are, spares included.
    pub fn segment_count(&self) -> usize {
        self.segments.len()
    }

    /// Makes a segment of full size with its header; one that was retired is used again, with what is in it.
    pub(super) fn prepare(&mut self, identity: LogIdentity, number: u64) {
        let spare = self.retired.drain(..).next();
        let mut bytes = spare.map_or_else(|| vec![0; self.segment_bytes], |(_, segment)| segment.bytes);
        let header = SegmentHeader { identity, number, segment_bytes: self.segment_bytes as u64 };
        bytes[..WAL_BLOCK_BYTES].copy_from_slice(&header.encode());
        let segment = Segment { bytes, injured: BTreeSet::new(), runs: Vec::new() };
        let taken = self.segments.insert(number, segment);
        assert!(taken.is_none(), "segment {number} is made twice");
    }

    pub(super) fn has_spare(&self) -> bool {
        !self.retired.is_empty()
    }

    pub(super) fn retire(&mut self, number: u64) {
        if let Some(segment) = self.segments.remove(&number) {
            self.retired.push((number, segment));
        }
    }

    /// A write that was meant for `block` of a segment ends, block by block as drawn.
    pub(super) fn land(
        &mut self,
        number: u64,
        block: usize,
        bytes: &[u8],
        draw: &mut dyn FnMut() -> Landing,
    ) {
        let segment = self.segments.get_mut(&number).expect("not truncated before it is durable");
        for (block, new) in (block..).zip(bytes.chunks_exact(WAL_BLOCK_BYTES)) {
            let landing = draw();
            segment.land_block(block, new, landing);
            if landing == Landing::Late {
                self.late.push(Late { segment: number, block, bytes: new.into() });
            }
        }
    }

    /// A write that is about not to land is to be known by `own_up`.
    pub(super) fn remember(&mut self, segment: u64, block: usize, bytes: &[u8]) {
        for (block, bytes) in (block..).zip(bytes.chunks_exact(WAL_BLOCK_BYTES)) {
            self.truth.push(Late { segment, block, bytes: bytes.into() });
        }
    }

    /// A write that was meant for elsewhere lands from `block` on, as far as the segment goes. The place may
    /// have been truncated meanwhile.
    pub(super) fn overwrite(&mut self, number: u64, block: usize, stray: &[u8]) {
        let Some(segment) = self.segments.get(&number) else { return };
        let end = segment.bytes.len().min(block * WAL_BLOCK_BYTES + stray.len());
        let before = segment.bytes[block * WAL_BLOCK_BYTES..end].to_vec();
        self.remember(number, block, &before);
        if let Some(segment) = self.segments.get_mut(&number) {
            segment.overwrite(block, stray);
        }
    }

    /// What an earlier process left on its way has landed meanwhile or never will. A segment that was removed
    /// takes it along.
    pub(super) fn land_late(&mut self, prng: &mut Prng) {
        for late in mem::take(&mut self.late) {
            if let Some(segment) = self.segments.get_mut(&late.segment).filter(|_| prng.bool()) {
                segment.land_block(late.block, &late.bytes, Landing::Whole);
            }
        }
    }

    /// Settles what a crash leaves of the segments that were retired and not yet for good.
    pub(super) fn on_crash(&mut self, crash: Crash, prng: &mut Prng) {
        // Names leave in order, so the last to leave come back first.
        let lost = match crash {
            Crash::PowerCut => prng.usize(..=self.retired.len()),
            Crash::ProcessKill => self.retired.len(),
        };
        self.segments.extend(self.retired.drain(lost..));
        self.retired.clear();
    }

    /// Removes what lies behind the end that was recovered, and marks in the account what did not survive.
    pub(super) fn settle(&mut self, last: u64, end: Lsn) {
        self.truth.clear();
        self.segments.retain(|number, _| *number <= last);
        for (number, segment) in &mut self.segments {
            for run in &mut segment.runs {
                run.standing = match run.standing {
                    Standing::Live if run.start >= end && run.end <= self.completed => Standing::Lost,
                    Standing::Live if run.start >= end => Standing::LeftBehind,
                    // It has come back: the log ends behind it in the same segment.
                    Standing::LeftBehind if run.start < end && *number == last => Standing::Live,
                    standing => standing,
                };
            }
        }
        self.completed = self.completed.max(end);
    }

    /// Writes the table that was recovered to both slots, as far as they do not hold it; returns their
    /// generations. One after the other: the other has it meanwhile, or the log.
    pub(super) fn keep_votes(&mut self, newest: &Kept) -> [u64; 2] {
        let mut generations = [0; 2];
        for slot in [0, 1] {
            let next = generations[0] + 1;
            generations[slot] = match votes::decode(&self.slots[slot]) {
                Slot::Holds { generation, kept } if kept == *newest => generation,
                Slot::Blank if newest.votes.is_empty() && newest.peers.is_empty() => 0,
                _ => {
                    self.slots[slot].copy_from_slice(&votes::encode(newest, next));
                    next
                }
            };
        }
        generations
    }

    pub(super) fn on_completed(&mut self, completed: Lsn) {
        self.completed = self.completed.max(completed);
    }

    pub(super) fn draw_segment(&self, prng: &mut Prng) -> Option<u64> {
        let at = prng.usize(..self.segments.len().max(1));
        self.segments.keys().nth(at).copied()
    }
}

/// Without the bytes: there are too many to be read.
impl fmt::Debug for Medium {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers: Vec<u64> = self.segments.keys().copied().collect();
        let (completed, owed, kept) = (self.completed, self.owed(), self.kept());
        write!(f, "segments {numbers:?}, completed {completed:?}, owed {owed:?}, {kept:?}")
    }
}

/// One segment and the account of it. Its position in the log is the caller's to know.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) bytes: Vec<u8>,
    injured: BTreeSet<usize>,
    pub(super) runs: Vec<Run>,
}

/// A run that was handed to the drive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Run {
    pub(super) start: Lsn,
    pub(super) end: Lsn,
    pub(super) blocks: Range<usize>,
    pub(super) standing: Standing,
    /// Everything below was complete before its last record was appended, so its header says at least that.
    pub(super) witnesses: Lsn,
}

/// What recovery has made of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    Live,
    /// Behind the end, and nobody was told of it.
    LeftBehind,
    /// Behind the end, and said to be complete. A witness that lands late may yet tell.
    Lost,
}

/// What has become of one block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Landing {
    Whole,
    /// The first half is new.
    Torn,
    Nothing,
    /// Nothing as yet.
    Late,
}

/// A block on its way.
#[derive(Clone, PartialEq, Eq)]
struct Late {
    segment: u64,
    block: usize,
    bytes: Box<[u8]>,
}

impl Landing {
    pub(super) fn copy(self, new: &[u8], place: &mut [u8]) {
        let landed = match self {
            Landing::Whole => WAL_BLOCK_BYTES,
            Landing::Torn => WAL_BLOCK_BYTES / 2,
            Landing::Nothing | Landing::Late => 0,
        };
        place[..landed].copy_from_slice(&new[..landed]);
    }
}

impl Segment {
    fn blocks(&self) -> usize {
        self.bytes.len() / WAL_BLOCK_BYTES
    }

    /// Blocks up to one behind the last run: the rest of a young segment would take most bit flips.
    fn used(&self) -> usize {
        self.runs.last().map_or(1, |run| run.blocks.end + 1).min(self.blocks())
    }

    /// One block of a write that was meant for `block` ends.
    fn land_block(&mut self, block: usize, new: &[u8], landing: Landing) {
        let place = &mut self.bytes[block * WAL_BLOCK_BYTES..][..WAL_BLOCK_BYTES];
        landing.copy(new, place);
        if landing == Landing::Whole || *place == *new {
            self.injured.remove(&block);
        } else {
            self.injured.insert(block);
        }
    }

    fn overwrite(&mut self, block: usize, stray: &[u8]) {
        let blocks = self.blocks();
        for (at, new) in (block..blocks).zip(stray.chunks_exact(WAL_BLOCK_BYTES)) {
            let place = &mut self.bytes[at * WAL_BLOCK_BYTES..][..WAL_BLOCK_BYTES];
            if *place != *new {
                place.copy_from_slice(new);
                self.injured.insert(at);
            }
        }
    }
}

/// Share of bit flips that hit a slot of votes.
const ROT_IN_VOTES: f64 = 0.2;
