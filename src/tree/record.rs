//! Records: the versions of one key, the newest inline and those it superseded in a chain.
//!
//! Keys, and the time at which something becomes garbage, are the business of the tree; a record
//! only says what a change has left for later ([`Placed`], [`Unlinked`]).
//!
//! Invariants (1 to 3 in [`Records::assert_record`]):
//!   1. The versions of a record strictly ascend in timestamp; the newest is never in the chain.
//!   2. At most [`CHAIN_VERSIONS_MAX`] versions are in a chain; an empty chain is not held.
//!   3. Versions below `pruned` may be missing, so no read below it is answered.
//!   4. A record is one cache line, so that its newest version costs one miss.
//!   5. `generation` changes when a slot is released, so that who remembers a record of the past
//!      recognises that it is gone.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::hint::black_box;

use super::probe::RecordRef;
use super::slab::{NONE, Slab};
use crate::bounds::{CHAIN_VERSIONS_MAX, WINDOW_ENTRIES_MAX};
use crate::types::{Timestamp, Value};

/// What a key was from a timestamp on.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Version {
    pub timestamp: Timestamp,
    /// The transaction that wrote it, by its number in the speculation window; 0 is none. The tree
    /// only keeps it.
    pub writer: u64,
    /// `None` is a tombstone: the key was deleted.
    pub value: Option<Value>,
}

/// The read is below what is kept; `floor` is the lowest timestamp at which it would be answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotTooOld {
    pub floor: Timestamp,
}

/// The records of one tree.
#[derive(Debug)]
pub(super) struct Records {
    records: Slab<Record>,
    chains: Slab<Chain>,
    /// Memory of values and of the versions in chains.
    heap_bytes: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(super) struct RecordId(pub(super) u32);

/// What became of a version given to a record.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Placed {
    /// It is there already, or no read will ever return it.
    Ignored,
    /// It is kept. From `due` on it, or the version before it, is garbage.
    Kept { due: Timestamp, newest: bool },
}

/// What became of a record when a version was taken out of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unlinked {
    Absent,
    /// Older versions remain, or newer ones.
    Older,
    /// The newest version went, and another took its place.
    Newest,
    /// It was the only one: the record is released, and its key must go.
    Last,
}

#[derive(Debug)]
#[repr(align(64))]
struct Record {
    newest: Version,
    /// The timestamp of the oldest version kept, once the chain has been cut for its length.
    pruned: Timestamp,
    chain: u32,
    generation: u32,
}

/// Superseded versions, oldest first.
type Chain = VecDeque<Version>;

impl Records {
    pub(super) fn new() -> Records {
        Records { records: Slab::new(), chains: Slab::new(), heap_bytes: 0 }
    }

    pub(super) fn insert(&mut self, version: Version) -> RecordId {
        let id = self.records.acquire();
        self.heap_bytes += value_bytes(&version);
        let record = &mut self.records[id];
        (record.newest, record.pruned, record.chain) = (version, Timestamp(0), NONE);
        RecordId(id)
    }

    pub(super) fn newest(&self, id: RecordId) -> &Version {
        &self.records[id.0].newest
    }

    /// The newest version that `admits` lets through.
    pub(super) fn newest_admitted(
        &self,
        id: RecordId,
        admits: impl Fn(&Version) -> bool,
    ) -> Option<&Version> {
        let newest = self.newest(id);
        let chained = || self.chain(id)?.iter().rev().find(|version| admits(version));
        if admits(newest) { Some(newest) } else { chained() }
    }

    /// The newest version at or below `at`.
    pub(super) fn at(&self, id: RecordId, at: Timestamp) -> Result<Option<&Version>, SnapshotTooOld> {
        let record = &self.records[id.0];
        if at < record.pruned {
            return Err(SnapshotTooOld { floor: record.pruned });
        }
        if record.newest.timestamp <= at {
            return Ok(Some(&record.newest));
        }
        if record.chain == NONE {
            return Ok(None);
        }
        let chain = &self.chains[record.chain];
        let above = chain.partition_point(|version| version.timestamp <= at);
        Ok(above.checked_sub(1).map(|place| &chain[place]))
    }

    /// Puts a version in its place. Below the newest it may come too late to be of use: a read at
    /// `floor` or above never returns a version with another one between it and `floor`.
    pub(super) fn put(&mut self, id: RecordId, version: Version, floor: Timestamp) -> Placed {
        let record = &mut self.records[id.0];
        let timestamp = version.timestamp;
        if timestamp == record.newest.timestamp || timestamp < record.pruned {
            return Placed::Ignored;
        }
        if timestamp < record.newest.timestamp {
            return self.put_below(id, version, floor);
        }
        let bytes = value_bytes(&version);
        let superseded = std::mem::replace(&mut record.newest, version);
        if record.chain == NONE {
            record.chain = self.chains.acquire();
        }
        self.chains[record.chain].push_back(superseded);
        self.heap_bytes += bytes + size_of::<Version>();
        self.cut(id);
        Placed::Kept { due: timestamp, newest: true }
    }

    /// `false` if the version is not here. The caller unlinks no version at or below the floor: what
    /// it superseded may be gone.
    pub(super) fn unlink(&mut self, id: RecordId, timestamp: Timestamp) -> Unlinked {
        let record = &mut self.records[id.0];
        let chain = (record.chain != NONE).then(|| &mut self.chains[record.chain]);
        if record.newest.timestamp == timestamp {
            let Some(before) = chain.and_then(VecDeque::pop_back) else {
                self.release(id);
                return Unlinked::Last;
            };
            self.heap_bytes -= value_bytes(&record.newest) + size_of::<Version>();
            record.newest = before;
            self.release_empty_chain(id);
            return Unlinked::Newest;
        }
        let unlinked = chain.and_then(|chain| {
            let place = chain.binary_search_by_key(&timestamp, |version| version.timestamp).ok()?;
            chain.remove(place)
        });
        let Some(version) = unlinked else { return Unlinked::Absent };
        self.heap_bytes -= value_bytes(&version) + size_of::<Version>();
        self.release_empty_chain(id);
        Unlinked::Older
    }

    /// Frees the versions older than the newest one at or below `floor`, one a step. `false` when
    /// the steps ran out before the work did.
    pub(super) fn prune(&mut self, id: RecordId, floor: Timestamp, steps: &mut usize) -> bool {
        let record = &self.records[id.0];
        if record.chain == NONE {
            return true;
        }
        let chain = &mut self.chains[record.chain];
        while let Some(oldest) = chain.front() {
            if chain.get(1).unwrap_or(&record.newest).timestamp > floor {
                break;
            }
            if *steps == 0 {
                return false;
            }
            *steps -= 1;
            self.heap_bytes -= value_bytes(oldest) + size_of::<Version>();
            chain.pop_front();
        }
        release_spare(chain);
        self.release_empty_chain(id);
        true
    }

    /// Whether nothing but a tombstone at or below `floor` is left of the record.
    pub(super) fn is_dead(&self, id: RecordId, floor: Timestamp) -> bool {
        let Record { newest, chain, .. } = &self.records[id.0];
        newest.value.is_none() && newest.timestamp <= floor && *chain == NONE
    }

    /// Gives the slot back. The record must have one version only.
    pub(super) fn release(&mut self, id: RecordId) {
        let record = &mut self.records[id.0];
        assert!(record.chain == NONE, "a record with versions is released");
        self.heap_bytes -= value_bytes(&record.newest);
        record.newest = Version::default();
        record.generation = record.generation.wrapping_add(1);
        self.records.release(id.0);
    }

    #[inline]
    pub(super) fn reference(&self, id: RecordId) -> RecordRef {
        RecordRef { id, generation: self.generation(id) }
    }

    #[inline]
    pub(super) fn is_current(&self, reference: RecordRef) -> bool {
        self.generation(reference.id) == reference.generation
    }

    /// Asks for the record, without waiting for it.
    #[inline]
    pub(super) fn touch(&self, id: RecordId) {
        black_box(self.records[id.0].chain);
    }

    /// Asks for the newest value, without waiting for it; the record should be there.
    #[inline]
    pub(super) fn touch_value(&self, id: RecordId) {
        if let Some(value) = &self.newest(id).value {
            for line in value.chunks(CACHE_LINE_BYTES).take(LINES_TOUCHED_MAX) {
                black_box(line[0]);
            }
        }
    }

    /// Asks for the chain of a record, without waiting for it; the record should be there.
    #[inline]
    pub(super) fn touch_chain(&self, id: RecordId) {
        if let Some(chain) = self.chain(id) {
            black_box(chain.len());
        }
    }

    /// Asks for the oldest version; the chain should be there.
    #[inline]
    pub(super) fn touch_oldest(&self, id: RecordId) {
        if let Some(oldest) = self.chain(id).and_then(VecDeque::front) {
            black_box(oldest.timestamp);
        }
    }

    /// Asks for the value of the oldest version; the version should be there.
    #[inline]
    pub(super) fn touch_oldest_value(&self, id: RecordId) {
        let oldest = self.chain(id).and_then(VecDeque::front);
        if let Some(byte) = oldest.and_then(|version| version.value.as_ref()?.first()) {
            black_box(*byte);
        }
    }

    fn chain(&self, id: RecordId) -> Option<&Chain> {
        let chain = self.records[id.0].chain;
        (chain != NONE).then(|| &self.chains[chain])
    }

    pub(super) fn generation(&self, id: RecordId) -> u32 {
        self.records[id.0].generation
    }

    pub(super) fn len(&self) -> usize {
        self.records.live()
    }

    pub(super) fn bytes(&self) -> usize {
        self.records.live() * size_of::<Record>() + self.chains.live() * size_of::<Chain>() + self.heap_bytes
    }

    /// Checks a record and returns the timestamps of its versions, oldest first.
    pub(super) fn assert_record(&self, id: RecordId) -> Vec<Timestamp> {
        let record = &self.records[id.0];
        let mut timestamps = vec![];
        if record.chain != NONE {
            let chain = &self.chains[record.chain];
            assert!(!chain.is_empty() && chain.len() <= CHAIN_VERSIONS_MAX);
            timestamps.extend(chain.iter().map(|version| version.timestamp));
        }
        timestamps.push(record.newest.timestamp);
        assert!(timestamps.is_sorted_by(|a, b| a < b), "versions out of order: {timestamps:?}");
        assert!(timestamps[0] >= record.pruned);
        timestamps
    }

    /// Memory of a record's values and chained versions, counted anew.
    pub(super) fn recount_bytes(&self, id: RecordId) -> usize {
        let record = &self.records[id.0];
        let chained = (record.chain != NONE).then(|| &self.chains[record.chain]).into_iter().flatten();
        let chained: usize = chained.map(|version| value_bytes(version) + size_of::<Version>()).sum();
        value_bytes(&record.newest) + chained
    }

    pub(super) fn assert_bytes(&self, heap_bytes: usize, chains: usize) {
        assert_eq!((heap_bytes, chains), (self.heap_bytes, self.chains.live()));
    }

    fn put_below(&mut self, id: RecordId, version: Version, floor: Timestamp) -> Placed {
        let record = &mut self.records[id.0];
        if record.chain == NONE {
            if record.newest.timestamp <= floor {
                return Placed::Ignored;
            }
            record.chain = self.chains.acquire();
        }
        let timestamp = version.timestamp;
        let chain = &mut self.chains[record.chain];
        let place = chain.partition_point(|other| other.timestamp < timestamp);
        let successor = chain.get(place).unwrap_or(&record.newest).timestamp;
        if successor == timestamp || successor <= floor {
            return Placed::Ignored;
        }
        if place == 0 && chain.len() == CHAIN_VERSIONS_MAX {
            record.pruned = successor;
            return Placed::Ignored;
        }
        let bytes = value_bytes(&version);
        chain.insert(place, version);
        self.heap_bytes += bytes + size_of::<Version>();
        self.cut(id);
        // With something before it, it is what makes that garbage; else it is garbage itself once
        // its successor is no longer.
        Placed::Kept { due: if place > 0 { timestamp } else { successor }, newest: false }
    }

    /// Keeps the chain within its bound (invariants 2 and 3).
    fn cut(&mut self, id: RecordId) {
        let record = &mut self.records[id.0];
        let chain = &mut self.chains[record.chain];
        if chain.len() <= CHAIN_VERSIONS_MAX {
            return;
        }
        if let (Some(oldest), Some(next)) = (chain.pop_front(), chain.front()) {
            record.pruned = next.timestamp;
            self.heap_bytes -= value_bytes(&oldest) + size_of::<Version>();
        }
    }

    fn release_empty_chain(&mut self, id: RecordId) {
        let record = &mut self.records[id.0];
        if record.chain != NONE && self.chains[record.chain].is_empty() {
            let chain = &mut self.chains[record.chain];
            if chain.capacity() > CHAIN_CAPACITY_SPARE {
                *chain = Chain::new();
            }
            self.chains.release(record.chain);
            record.chain = NONE;
        }
    }
}

impl Default for Record {
    fn default() -> Record {
        Record { newest: Version::default(), pruned: Timestamp(0), chain: NONE, generation: 0 }
    }
}

/// Memory of a version's value, with the two counters of its allocation.
fn value_bytes(version: &Version) -> usize {
    version.value.as_ref().map_or(0, |value| value.len() + 2 * size_of::<usize>())
}

/// Gives back most of a queue's memory when it uses little of it, so rarely that it costs nothing
/// per element.
pub(super) fn release_spare<T>(queue: &mut VecDeque<T>) {
    if queue.capacity() > 1_024 && queue.len() < queue.capacity() / 4 {
        queue.shrink_to(queue.capacity() / 2);
    }
}

const CACHE_LINE_BYTES: usize = 64;
/// Of a longer value the hardware notices that it is read in order.
const LINES_TOUCHED_MAX: usize = 6;

/// Room an empty chain may take to its next record, which then needs no allocation to be updated.
const CHAIN_CAPACITY_SPARE: usize = 8;

const _: () = assert!(size_of::<Record>() == 64);
/// A window full of transactions on one row may all be rolled back; a stable version must be left.
const _: () = assert!(CHAIN_VERSIONS_MAX >= WINDOW_ENTRIES_MAX);
