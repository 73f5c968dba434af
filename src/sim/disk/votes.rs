//! The second copy of every partition's newest vote, and of what checkpoints replace of the log: two slots beside it,
//! written in turn.
//!
//! A slot holds the whole table: generation 8, oldest segment 8, count 4, then partition 2, ballot 8 and slot 8 of
//! each, zeros, and at its very end crc32c 4, so that a small table can be torn as well; little-endian. The layout is the simulator's
//! own: the rules of the upkeep are what is tried here, not the bytes.
//!
//! Invariants:
//!   1. While one slot is being written the other is whole, and holds every vote that left the log.
//!   2. A vote is durable when a slot holds it, besides the log.
//!   3. A vote may leave the log when both slots hold it: there are two copies at any time. So may a segment, when
//!      both say that the log begins behind it.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};

use super::faults::{DiskFaults, Fate};
use super::medium::{Landing, Medium};
use crate::bounds::{PARTITIONS_MAX, WAL_BLOCK_BYTES};
use crate::types::{self, Ballot, Lsn, PartitionId, Prng, Timestamp};

/// The highest ballot each partition has promised.
pub type VoteTable = BTreeMap<PartitionId, Ballot>;

/// What outlives the log.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Kept {
    pub(super) votes: VoteTable,
    /// Every slot below it is in a checkpoint that was committed.
    pub(super) covered: BTreeMap<PartitionId, types::Slot>,
    /// The log begins there, or before.
    pub(super) oldest: u64,
}

impl Kept {
    pub(super) fn take_in(&mut self, other: &Kept) {
        other.votes.iter().for_each(|(partition, ballot)| merge(&mut self.votes, *partition, *ballot));
        other.covered.iter().for_each(|(partition, slot)| self.cover(*partition, *slot));
        self.oldest = self.oldest.max(other.oldest);
    }

    pub(super) fn cover(&mut self, partition: PartitionId, slot: types::Slot) {
        let known = self.covered.entry(partition).or_default();
        *known = slot.max(*known);
    }
}

/// What is known of the slots, and what is still to be written to them.
pub(super) struct VoteKeeper {
    kept: Kept,
    /// Votes that are not in both slots, by their positions in the log.
    pending: VecDeque<Lsn>,
    newest: Lsn,
    /// Every vote at or below it is in the slot.
    covers: [Lsn; 2],
    /// Where the log begins, as a slot tells.
    oldest: [u64; 2],
    /// Of what a slot holds; the next is one above both.
    generations: [u64; 2],
    flight: Option<SlotFlight>,
}

impl VoteKeeper {
    /// Goes on with what was recovered, which `Medium::keep_votes` has put into both slots.
    pub(super) fn new(kept: Kept, generations: [u64; 2]) -> VoteKeeper {
        let (pending, newest, oldest) = (VecDeque::new(), Lsn(0), [kept.oldest; 2]);
        VoteKeeper { kept, pending, newest, covers: [Lsn(0); 2], oldest, generations, flight: None }
    }

    pub(super) fn on_vote(&mut self, partition: PartitionId, ballot: Ballot, covered: types::Slot, lsn: Lsn) {
        merge(&mut self.kept.votes, partition, ballot);
        self.kept.cover(partition, covered);
        self.pending.push_back(lsn);
        self.newest = lsn;
        let votes = self.kept.votes.len();
        assert!(votes <= PARTITIONS_MAX, "votes of {votes} partitions");
    }

    /// Segments before this one are to go, once `truncated` says so.
    pub(super) fn on_truncate(&mut self, oldest: u64) {
        self.kept.oldest = self.kept.oldest.max(oldest);
    }

    pub(super) fn truncated(&self) -> u64 {
        self.oldest[0].min(self.oldest[1])
    }

    /// Begins a write, unless one is under way or both slots are up to date: to the slot that lacks more.
    pub(super) fn submit(&mut self, now: Timestamp, faults: &DiskFaults, prng: &mut Prng) {
        let lacks = |slot: usize| (self.covers[slot], self.oldest[slot], self.generations[slot]);
        let slot = usize::from(lacks(1) < lacks(0));
        let is_news = self.covers[slot] < self.newest || self.truncated() < self.kept.oldest;
        if self.flight.is_some() || !is_news {
            return;
        }
        let generation = self.generations[0].max(self.generations[1]) + 1;
        let (due, fate) = faults.draw(now, prng);
        let bytes = encode(&self.kept, generation);
        let (covers, oldest) = (self.newest, self.kept.oldest);
        self.flight = Some(SlotFlight { slot, generation, covers, oldest, bytes, due, fate });
    }

    /// Carries out the write under way if it is due by now. On a failure it stays under way.
    pub(super) fn complete(&mut self, now: Timestamp, medium: &mut Medium) -> Result<(), Fate> {
        let Some(flight) = self.flight.take_if(|flight| flight.due <= now) else { return Ok(()) };
        match flight.fate {
            Fate::Lands => medium.slots[flight.slot].copy_from_slice(&flight.bytes),
            // There is no elsewhere for a slot: a misdirected write of the log does what it would do.
            Fate::Lost | Fate::Misdirected => {}
            fate @ (Fate::Stuck | Fate::Failed) => {
                self.flight = Some(flight);
                return Err(fate);
            }
        }
        self.covers[flight.slot] = flight.covers;
        self.oldest[flight.slot] = flight.oldest;
        self.generations[flight.slot] = flight.generation;
        let in_both = self.covers[0].min(self.covers[1]);
        while self.pending.front().is_some_and(|lsn| *lsn <= in_both) {
            self.pending.pop_front();
        }
        Ok(())
    }

    /// How far the slots let the log be durable (invariant 2).
    pub(super) fn limit_durable(&self, durable: Lsn) -> Lsn {
        let covered = self.covers[0].max(self.covers[1]);
        match self.pending.iter().find(|lsn| **lsn > covered) {
            Some(vote) => durable.min(Lsn(vote.0 - 1)),
            None => durable,
        }
    }

    /// How far they let it be truncated (invariant 3). One less than the end of the record, which may be
    /// the end of its segment.
    pub(super) fn limit_truncation(&self, below: Lsn) -> Lsn {
        self.pending.front().map_or(below, |vote| below.min(Lsn(vote.0 - 1)))
    }

    pub(super) fn due(&self) -> Option<Timestamp> {
        self.flight.as_ref().map(|flight| flight.due)
    }

    /// Of the write under way.
    pub(super) fn fate(&self) -> Option<Fate> {
        self.flight.as_ref().map(|flight| flight.fate)
    }

    pub(super) fn take_flight(&mut self) -> Option<SlotFlight> {
        self.flight.take()
    }
}

/// A write of a slot, under way.
pub(super) struct SlotFlight {
    slot: usize,
    generation: u64,
    covers: Lsn,
    oldest: u64,
    bytes: Vec<u8>,
    pub(super) due: Timestamp,
    pub(super) fate: Fate,
}

impl SlotFlight {
    /// Cut off by a crash: every block lands in the way drawn for it.
    pub(super) fn end(&self, medium: &mut Medium, draw: &mut dyn FnMut() -> Landing) {
        if self.fate.is_lie() {
            return;
        }
        let places = medium.slots[self.slot].chunks_exact_mut(WAL_BLOCK_BYTES);
        for (place, new) in places.zip(self.bytes.chunks_exact(WAL_BLOCK_BYTES)) {
            draw().copy(new, place);
        }
    }
}

/// What is read from a slot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Slot {
    /// Never written to.
    Blank,
    /// Torn, or rotten.
    Unreadable,
    Holds {
        generation: u64,
        kept: Kept,
    },
}

pub(super) fn merge(table: &mut VoteTable, partition: PartitionId, ballot: Ballot) {
    let known = table.entry(partition).or_insert(ballot);
    *known = ballot.max(*known);
}

pub(super) fn encode(kept: &Kept, generation: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(SLOT_BYTES);
    bytes.extend_from_slice(&generation.to_le_bytes());
    bytes.extend_from_slice(&kept.oldest.to_le_bytes());
    let count = u32::try_from(kept.votes.len()).expect("at most PARTITIONS_MAX");
    bytes.extend_from_slice(&count.to_le_bytes());
    for (partition, ballot) in &kept.votes {
        let covered = kept.covered.get(partition).copied().unwrap_or_default();
        bytes.extend_from_slice(&partition.0.to_le_bytes());
        bytes.extend_from_slice(&ballot.pack().to_le_bytes());
        bytes.extend_from_slice(&covered.0.to_le_bytes());
    }
    bytes.resize(SLOT_BYTES - CRC_BYTES, 0);
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

pub(super) fn decode(bytes: &[u8]) -> Slot {
    if bytes.iter().all(|byte| *byte == 0) {
        return Slot::Blank;
    }
    decode_kept(bytes).map_or(Slot::Unreadable, |(generation, kept)| Slot::Holds { generation, kept })
}

fn decode_kept(bytes: &[u8]) -> Option<(u64, Kept)> {
    let (bytes, crc) = bytes.split_last_chunk::<CRC_BYTES>()?;
    if u32::from_le_bytes(*crc) != crc32c::crc32c(bytes) {
        return None;
    }
    let (generation, rest) = bytes.split_first_chunk()?;
    let (oldest, rest) = rest.split_first_chunk()?;
    let (count, rest) = rest.split_first_chunk()?;
    let (generation, count) = (u64::from_le_bytes(*generation), u32::from_le_bytes(*count));
    let mut kept = Kept { oldest: u64::from_le_bytes(*oldest), ..Kept::default() };
    for vote in rest.chunks_exact(VOTE_BYTES).take(usize::try_from(count).ok()?) {
        let partition = PartitionId(u16::from_le_bytes(*vote.first_chunk()?));
        let ballot = Ballot::unpack(u64::from_le_bytes(*vote[2..].first_chunk()?))?;
        merge(&mut kept.votes, partition, ballot);
        kept.cover(partition, types::Slot(u64::from_le_bytes(*vote.last_chunk()?)));
    }
    Some((generation, kept))
}

const HEAD_BYTES: usize = 20;
const CRC_BYTES: usize = 4;
const VOTE_BYTES: usize = 18;
/// Whole blocks, as everything that is written past the page cache.
pub(super) const SLOT_BYTES: usize = 5 * WAL_BLOCK_BYTES;
const _: () = assert!(HEAD_BYTES + PARTITIONS_MAX * VOTE_BYTES + CRC_BYTES <= SLOT_BYTES);
