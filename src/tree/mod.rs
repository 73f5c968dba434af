//! The ordered map of one table in one partition: keys, and of each key the versions it has had.
//!
//! Single-threaded: no lock, no clock. Locks, dependencies and what is stable belong to `txn`, which
//! puts a version when it commits, unlinks it when it rolls back, and raises the floor as snapshots
//! move on. The inside is simple on purpose: a B+tree of 16-byte key prefixes (`btree`, `node`,
//! `key`) over records in a slab (`record`, `slab`); another ordered map can take its place. Cache
//! misses are most of what it costs, so wherever several rows are about to be read, they are asked
//! for first (`probe` for lookups, scans and pruning here).
//!
//! Invariants (in [`Tree::assert_invariants`]):
//!   1. Every key of the B+tree has one record, and every record one key.
//!   2. At or above the floor, and above a record's own cut, reads see exactly what was put and not
//!      unlinked.
//!   3. Behind every superseded version stands a reminder due when its successor is at the floor, or
//!      later; behind every newest version that is a tombstone, one due at its timestamp. So all
//!      garbage is freed in the end, without a walk over the tree.
//!
//! The caller keeps two rules: it unlinks nothing at or below the floor, and it raises the floor no
//! further than it has applied. A version put below the floor on an absent key is taken, as loading
//! a checkpoint needs it; if the key was deleted and pruned in between, it would come back.
#![forbid(unsafe_code)]

mod btree;
mod garbage;
mod key;
mod node;
mod probe;
mod record;
mod slab;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{ControlFlow, Range};

use self::btree::BTree;
use self::garbage::{Garbage, Reminder, Superseded, Tombstone};
pub use self::key::ShortKey;
use self::key::{KeyBuffer, KeyRef};
use self::node::Leaf;
pub use self::probe::{Probe, RecordRef};
use self::record::{Placed, RecordId, Records, Unlinked};
pub use self::record::{SnapshotTooOld, Version};
use crate::bounds::KEY_BYTES_MAX;
use crate::types::Timestamp;

#[derive(Debug)]
pub struct Tree {
    keys: BTree<LEAF_KEYS, INNER_CHILDREN>,
    records: Records,
    garbage: Garbage,
    /// Reads below it are refused. Monotone.
    floor: Timestamp,
}

impl Tree {
    pub fn new() -> Tree {
        Tree { keys: BTree::new(), records: Records::new(), garbage: Garbage::new(), floor: Timestamp(0) }
    }

    /// The newest version of a key. A deleted key has a tombstone until that is pruned.
    pub fn get(&self, key: &[u8]) -> Option<&Version> {
        let id = self.keys.find(&KeyRef::new(key))?;
        Some(self.records.newest(RecordId(id)))
    }

    /// `get`, with the record it was found in.
    #[inline]
    pub fn find(&self, key: &[u8]) -> Option<(RecordRef, &Version)> {
        let id = RecordId(self.keys.find(&KeyRef::new(key))?);
        Some((self.records.reference(id), self.records.newest(id)))
    }

    /// The newest version of a record once found; `None` if it has been removed since.
    #[inline]
    pub fn newest(&self, found: RecordRef) -> Option<&Version> {
        self.records.is_current(found).then(|| self.records.newest(found.id))
    }

    /// The newest version of a key at or below `at`.
    pub fn get_at(&self, key: &[u8], at: Timestamp) -> Result<Option<&Version>, SnapshotTooOld> {
        self.check_floor(at)?;
        let found = self.keys.find(&KeyRef::new(key));
        found.map_or(Ok(None), |id| self.records.at(RecordId(id), at))
    }

    /// Inserts a version in the order of timestamps. `false` if nothing was inserted: the key has a
    /// version of that timestamp, or newer ones that hide it from every read still allowed. So to
    /// replay a record again changes nothing.
    pub fn put(&mut self, key: &[u8], version: Version) -> bool {
        assert!(key.len() <= KEY_BYTES_MAX, "a key of {} bytes", key.len());
        let key = KeyRef::new(key);
        let position = self.keys.seek(&key);
        let Some(record) = self.keys.record(&position).map(RecordId) else {
            if version.value.is_none() {
                self.garbage.push_tombstone(Tombstone { due: version.timestamp, key: key.to_key() });
            }
            let record = self.records.insert(version);
            self.keys.insert(position, &key, record.0);
            return true;
        };
        self.put_into(record, &key, version)
    }

    /// `put` into the record that a lookup of this key has found; by the key if that is gone.
    pub fn put_found(&mut self, found: RecordRef, key: &[u8], version: Version) -> bool {
        if !self.records.is_current(found) {
            return self.put(key, version);
        }
        self.put_into(found.id, &KeyRef::new(key), version)
    }

    fn put_into(&mut self, record: RecordId, key: &KeyRef<'_>, version: Version) -> bool {
        let (timestamp, is_tombstone) = (version.timestamp, version.value.is_none());
        let Placed::Kept { due, newest } = self.records.put(record, version, self.floor) else {
            return false;
        };
        let generation = self.records.generation(record);
        self.garbage.push_superseded(Superseded { due, record, generation });
        if newest && is_tombstone {
            self.garbage.push_tombstone(Tombstone { due: timestamp, key: key.to_key() });
        }
        true
    }

    /// Rolls a write back: removes the version of that timestamp, and the record with its only one.
    /// `false` if there is no such version.
    pub fn unlink(&mut self, key: &[u8], timestamp: Timestamp) -> bool {
        let key = KeyRef::new(key);
        let position = self.keys.seek(&key);
        let Some(record) = self.keys.record(&position).map(RecordId) else { return false };
        match self.records.unlink(record, timestamp) {
            Unlinked::Absent => return false,
            Unlinked::Older => {}
            Unlinked::Newest => {
                // The reminder of this tombstone may have come and gone while it was superseded.
                let Version { timestamp: due, value, .. } = self.records.newest(record);
                if value.is_none() {
                    self.garbage.push_tombstone(Tombstone { due: *due, key: key.to_key() });
                }
            }
            Unlinked::Last => {
                self.keys.remove(position);
            }
        }
        true
    }

    /// Calls `visit` with the newest version, tombstones included, of each key in `from <= key < to`
    /// in ascending order, until it breaks. `None` is no upper bound.
    pub fn scan<F>(&self, from: &[u8], to: Option<&[u8]>, visit: F)
    where
        F: FnMut(&[u8], &Version) -> ControlFlow<()>,
    {
        let outcome =
            self.visit_rows(from, to, Direction::Forward, |id| Ok(Some(self.records.newest(id))), visit);
        debug_assert!(outcome.is_ok(), "the newest version is never too old");
    }

    /// `scan` over the newest versions that `admits` lets through; keys without one are left out.
    pub fn scan_admitted<F>(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        admits: impl Fn(&Version) -> bool,
        visit: F,
    ) where
        F: FnMut(&[u8], &Version) -> ControlFlow<()>,
    {
        let read = |id| Ok(self.records.newest_admitted(id, &admits));
        let outcome = self.visit_rows(from, to, Direction::Forward, read, visit);
        debug_assert!(outcome.is_ok(), "what is kept is never too old");
    }

    /// `scan` over the same range in descending order.
    pub fn rscan<F>(&self, from: &[u8], to: Option<&[u8]>, visit: F)
    where
        F: FnMut(&[u8], &Version) -> ControlFlow<()>,
    {
        let outcome =
            self.visit_rows(from, to, Direction::Back, |id| Ok(Some(self.records.newest(id))), visit);
        debug_assert!(outcome.is_ok(), "the newest version is never too old");
    }

    /// `scan` over the newest versions at or below `at`. Rows may have been visited when it turns
    /// out that a version further on is gone.
    pub fn scan_at<F>(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        at: Timestamp,
        visit: F,
    ) -> Result<(), SnapshotTooOld>
    where
        F: FnMut(&[u8], &Version) -> ControlFlow<()>,
    {
        self.check_floor(at)?;
        self.visit_rows(from, to, Direction::Forward, |id| self.records.at(id, at), visit)
    }

    /// `scan_at` over the same range in descending order.
    pub fn rscan_at<F>(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        at: Timestamp,
        visit: F,
    ) -> Result<(), SnapshotTooOld>
    where
        F: FnMut(&[u8], &Version) -> ControlFlow<()>,
    {
        self.check_floor(at)?;
        self.visit_rows(from, to, Direction::Back, |id| self.records.at(id, at), visit)
    }

    /// Raises the floor, and frees what no read can return any more: versions superseded at or
    /// below the floor, and records of which only such a tombstone is left. A step frees a version
    /// or looks at a reminder; what is not done within `budget` steps is left to the next call.
    pub fn prune(&mut self, floor: Timestamp, budget: usize) {
        self.floor = self.floor.max(floor);
        let mut steps = budget;
        let mut touched = 0;
        while steps > 0 {
            if touched == 0 {
                self.touch_due();
                touched = TOUCHED_TOGETHER;
            }
            touched -= 1;
            match self.garbage.first_due(self.floor) {
                None => return,
                Some(Reminder::Superseded(Superseded { record, generation, .. })) => {
                    if self.records.generation(record) == generation
                        && !self.records.prune(record, self.floor, &mut steps)
                    {
                        return;
                    }
                    self.garbage.pop_superseded();
                }
                Some(Reminder::Tombstone(tombstone)) => {
                    let position = self.keys.seek(&tombstone.key.borrow());
                    if let Some(record) = self.keys.record(&position).map(RecordId) {
                        if !self.records.prune(record, self.floor, &mut steps) {
                            return;
                        }
                        if self.records.is_dead(record, self.floor) {
                            self.records.release(record);
                            self.keys.remove(position);
                        }
                    }
                    self.garbage.pop_tombstone();
                }
            }
            steps = steps.saturating_sub(1);
        }
    }

    /// The lowest timestamp at which the tree may be read.
    pub fn floor(&self) -> Timestamp {
        self.floor
    }

    /// Records, those of deleted keys not yet pruned included.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Memory in use by nodes, keys, versions and values, in bytes; about, as values may be shared
    /// and memory once used is kept for later.
    pub fn bytes(&self) -> usize {
        self.keys.bytes() + self.records.bytes() + self.garbage.bytes()
    }

    /// Panics unless the invariants hold. Costs a walk over everything; for tests and simulations.
    pub fn assert_invariants(&self) {
        let mut ids = self.keys.assert_invariants();
        let (mut heap_bytes, mut chains) = (0, 0);
        let mut reminders: BTreeMap<(u32, u32), Timestamp> = BTreeMap::new();
        for Superseded { due, record, generation } in self.garbage.superseded() {
            let latest = reminders.entry((record.0, *generation)).or_default();
            *latest = (*latest).max(*due);
        }
        for id in ids.iter().copied().map(RecordId) {
            let timestamps = self.records.assert_record(id);
            heap_bytes += self.records.recount_bytes(id);
            if let [.., _, newest] = timestamps[..] {
                let reminder = reminders.get(&(id.0, self.records.generation(id)));
                assert!(reminder.is_some_and(|due| *due >= newest), "garbage is forgotten");
                chains += 1;
            }
        }
        let tombstones = self.garbage.tombstones();
        let marked: BTreeSet<(Option<u32>, Timestamp)> =
            tombstones.map(|tombstone| (self.keys.find(&tombstone.key.borrow()), tombstone.due)).collect();
        for id in &ids {
            let Version { timestamp, value, .. } = self.records.newest(RecordId(*id));
            assert!(value.is_some() || marked.contains(&(Some(*id), *timestamp)), "a tombstone is forgotten");
        }
        self.records.assert_bytes(heap_bytes, chains);
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), self.records.len(), "keys and records do not match");
    }

    fn check_floor(&self, at: Timestamp) -> Result<(), SnapshotTooOld> {
        if at < self.floor { Err(SnapshotTooOld { floor: self.floor }) } else { Ok(()) }
    }

    /// Asks for what the next reminders lead to. Most of it is long out of the cache, and each part of it
    /// names the next: all records, then all their chains and so on wait for memory side by side.
    fn touch_due(&self) {
        let due = || self.garbage.superseded_due(self.floor).take(TOUCHED_TOGETHER);
        due().for_each(|reminder| self.records.touch(reminder.record));
        due().for_each(|reminder| self.records.touch_chain(reminder.record));
        due().for_each(|reminder| self.records.touch_oldest(reminder.record));
        due().for_each(|reminder| self.records.touch_oldest_value(reminder.record));
    }

    /// Asks for rows about to be visited: for their records, then for their newest values.
    fn touch_rows(&self, leaf: &Leaf<LEAF_KEYS>, places: Range<usize>) {
        if places.len() > 1 {
            places.clone().for_each(|at| self.records.touch(RecordId(leaf.record(at))));
            places.for_each(|at| self.records.touch_value(RecordId(leaf.record(at))));
        }
    }

    /// The loop of all scans; `read` chooses the version of a row, if it has one.
    fn visit_rows<'a>(
        &'a self,
        from: &[u8],
        to: Option<&[u8]>,
        direction: Direction,
        read: impl Fn(RecordId) -> Result<Option<&'a Version>, SnapshotTooOld>,
        mut visit: impl FnMut(&[u8], &Version) -> ControlFlow<()>,
    ) -> Result<(), SnapshotTooOld> {
        let mut buffer = KeyBuffer::new();
        // Rows touched together: more each time, as a scan may stop at any row.
        let mut together = 1;
        let mut visit_row = |leaf: &Leaf<LEAF_KEYS>, at: usize| -> ControlFlow<Result<(), SnapshotTooOld>> {
            match read(RecordId(leaf.record(at))) {
                Err(refused) => ControlFlow::Break(Err(refused)),
                Ok(None) => ControlFlow::Continue(()),
                Ok(Some(version)) => visit(buffer.fill(&leaf.keys.get(at)), version).map_break(Ok),
            }
        };
        let (from, to) = (KeyRef::new(from), to.map(KeyRef::new));
        let end = match direction {
            Direction::Forward => {
                let rows = |leaf: &Leaf<_>, mut places: Range<usize>| {
                    while !places.is_empty() {
                        let end = places.end.min(places.start + together);
                        self.touch_rows(leaf, places.start..end);
                        (places.start..end).try_for_each(|at| visit_row(leaf, at))?;
                        (places.start, together) = (end, TOUCHED_TOGETHER.min(2 * together));
                    }
                    ControlFlow::Continue(())
                };
                self.keys.walk(&from, to.as_ref(), rows)
            }
            Direction::Back => {
                let rows = |leaf: &Leaf<_>, mut places: Range<usize>| {
                    while !places.is_empty() {
                        let start = places.start.max(places.end.saturating_sub(together));
                        self.touch_rows(leaf, start..places.end);
                        (start..places.end).rev().try_for_each(|at| visit_row(leaf, at))?;
                        (places.end, together) = (start, TOUCHED_TOGETHER.min(2 * together));
                    }
                    ControlFlow::Continue(())
                };
                self.keys.walk_back(&from, to.as_ref(), rows)
            }
        };
        end.break_value().unwrap_or(Ok(()))
    }
}

impl Default for Tree {
    fn default() -> Tree {
        Tree::new()
    }
}

#[derive(Clone, Copy)]
enum Direction {
    Forward,
    Back,
}

/// Cache misses asked for before the first is needed: about as many as a core keeps under way.
const TOUCHED_TOGETHER: usize = 16;

/// Keys of a leaf and children of an inner node, chosen by measurement: larger nodes cost more to
/// search and to insert into than they save in levels.
const LEAF_KEYS: usize = 32;
const INNER_CHILDREN: usize = 64;
