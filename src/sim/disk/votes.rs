//! The second copy of every partition's newest vote: two slots beside the log, written in turn.
//!
//! A slot holds the whole table: generation 8, count 4, then partition 2 and ballot 8 of each, zeros, and at its
//! very end crc32c 4, so that a small table can be torn as well; little-endian. The layout is the simulator's
//! own: the rules of the upkeep are what is tried here, not the bytes.
//!
//! Invariants:
//!   1. While one slot is being written the other is whole, and holds every vote that left the log.
//!   2. A vote is durable when a slot holds it, besides the log.
//!   3. A vote may leave the log when both slots hold it: there are two copies at any time.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};

use super::faults::{DiskFaults, Fate};
use super::medium::{Landing, Medium};
use crate::bounds::{PARTITIONS_MAX, WAL_BLOCK_BYTES};
use crate::types::{Ballot, Lsn, PartitionId, Prng, Timestamp};

/// The highest ballot each partition has promised.
pub type VoteTable = BTreeMap<PartitionId, Ballot>;

/// What is known of the slots, and what is still to be written to them.
pub(super) struct VoteKeeper {
    table: VoteTable,
    /// Votes that are not in both slots, by their positions in the log.
    pending: VecDeque<Lsn>,
    newest: Lsn,
    /// Every vote at or below it is in the slot.
    covers: [Lsn; 2],
    /// Of what a slot holds; the next is one above both.
    generations: [u64; 2],
    flight: Option<SlotFlight>,
}

impl VoteKeeper {
    /// Goes on with what was recovered, which `Medium::keep_votes` has put into both slots.
    pub(super) fn new(table: VoteTable, generations: [u64; 2]) -> VoteKeeper {
        let (pending, newest) = (VecDeque::new(), Lsn(0));
        VoteKeeper { table, pending, newest, covers: [Lsn(0); 2], generations, flight: None }
    }

    pub(super) fn on_vote(&mut self, partition: PartitionId, ballot: Ballot, lsn: Lsn) {
        merge(&mut self.table, partition, ballot);
        self.pending.push_back(lsn);
        self.newest = lsn;
        assert!(self.table.len() <= PARTITIONS_MAX, "votes of {} partitions", self.table.len());
    }

    /// Begins a write, unless one is under way or both slots are up to date: to the slot that lacks more.
    pub(super) fn submit(&mut self, now: Timestamp, faults: &DiskFaults, prng: &mut Prng) {
        let slot = usize::from((self.covers[1], self.generations[1]) < (self.covers[0], self.generations[0]));
        if self.flight.is_some() || self.covers[slot] >= self.newest {
            return;
        }
        let generation = self.generations[0].max(self.generations[1]) + 1;
        let (due, fate) = faults.draw(now, prng);
        let bytes = encode(&self.table, generation);
        self.flight = Some(SlotFlight { slot, generation, covers: self.newest, bytes, due, fate });
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

    pub(super) fn take_flight(&mut self) -> Option<SlotFlight> {
        self.flight.take()
    }
}

/// A write of a slot, under way.
pub(super) struct SlotFlight {
    slot: usize,
    generation: u64,
    covers: Lsn,
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
        table: VoteTable,
    },
}

pub(super) fn merge(table: &mut VoteTable, partition: PartitionId, ballot: Ballot) {
    let known = table.entry(partition).or_insert(ballot);
    *known = ballot.max(*known);
}

pub(super) fn encode(table: &VoteTable, generation: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(SLOT_BYTES);
    bytes.extend_from_slice(&generation.to_le_bytes());
    let count = u32::try_from(table.len()).expect("at most PARTITIONS_MAX");
    bytes.extend_from_slice(&count.to_le_bytes());
    for (partition, ballot) in table {
        bytes.extend_from_slice(&partition.0.to_le_bytes());
        bytes.extend_from_slice(&ballot.pack().to_le_bytes());
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
    decode_table(bytes).map_or(Slot::Unreadable, |(generation, table)| Slot::Holds { generation, table })
}

fn decode_table(bytes: &[u8]) -> Option<(u64, VoteTable)> {
    let (bytes, crc) = bytes.split_last_chunk::<CRC_BYTES>()?;
    if u32::from_le_bytes(*crc) != crc32c::crc32c(bytes) {
        return None;
    }
    let (generation, rest) = bytes.split_first_chunk()?;
    let (count, rest) = rest.split_first_chunk()?;
    let (generation, count) = (u64::from_le_bytes(*generation), u32::from_le_bytes(*count));
    let votes = rest.chunks_exact(VOTE_BYTES).take(usize::try_from(count).ok()?);
    let votes = votes.map(|vote| {
        let partition = PartitionId(u16::from_le_bytes(*vote.first_chunk()?));
        Some((partition, Ballot::unpack(u64::from_le_bytes(*vote.last_chunk()?))?))
    });
    Some((generation, votes.collect::<Option<VoteTable>>()?))
}

const HEAD_BYTES: usize = 12;
const CRC_BYTES: usize = 4;
const VOTE_BYTES: usize = 10;
/// Whole blocks, as everything that is written past the page cache.
pub(super) const SLOT_BYTES: usize = 3 * WAL_BLOCK_BYTES;
const _: () = assert!(HEAD_BYTES + PARTITIONS_MAX * VOTE_BYTES + CRC_BYTES <= SLOT_BYTES);
