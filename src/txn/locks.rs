//! The locks that prepared transactions hold on keys and scanned ranges of one partition.
//!
//! Only prepared transactions lock: writes exclusively, reads and scanned ranges shared (DESIGN §4,
//! step 2). Nothing ever waits in here; a caller learns who holds the lock and decides.
//!
//! Invariants:
//!   1. A key has at most one writer, and none while another transaction reads it.
//!   2. A transaction's locks are exactly those of its one successful [`Locks::acquire`].
#![forbid(unsafe_code)]

use super::procedure::KeyBytes;
use crate::types::{TableId, TxnId};
use smallvec::SmallVec;
use std::collections::BTreeMap;
use std::ops::Bound;

#[derive(Default)]
pub struct Locks {
    /// Table and key → the transaction that will write it. Ordered, so that a scan can be checked.
    writers: BTreeMap<LockKey, TxnId>,
    readers: BTreeMap<LockKey, SmallVec<[TxnId; 2]>>,
    ranges: Vec<RangeLock>,
}

/// Everything one prepare locks.
pub struct LockSet<'a> {
    pub writes: &'a [(TableId, &'a [u8])],
    pub reads: &'a [(TableId, &'a [u8])],
    pub ranges: &'a [Range<'a>],
}

/// Table, from (inclusive), to (exclusive; `None` is the end of the table).
pub type Range<'a> = (TableId, &'a [u8], Option<&'a [u8]>);

struct RangeLock {
    holder: TxnId,
    range: KeyRange,
}

/// Keys of one table, from one to before another.
#[derive(Clone)]
pub struct KeyRange {
    from: LockKey,
    to: LockKey,
}

/// Table, big-endian, then the key: ordered as tables hold their keys.
pub type LockKey = SmallVec<[u8; 40]>;

impl Locks {
    /// Nobody is prepared: the answer that transactions of one partition nearly always get.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.writers.is_empty() && self.readers.is_empty() && self.ranges.is_empty()
    }

    /// Who keeps others from reading the key.
    pub fn writer(&self, table: TableId, key: &[u8]) -> Option<TxnId> {
        if self.writers.is_empty() {
            return None;
        }
        self.writers.get(&lock_key(table, key)).copied()
    }

    /// Who keeps others from reading something in the range.
    pub fn writer_within(&self, table: TableId, from: &[u8], to: Option<&[u8]>) -> Option<TxnId> {
        if self.writers.is_empty() {
            return None;
        }
        let (from, to) = (lock_key(table, from), end_key(table, to));
        if to <= from {
            return None;
        }
        self.writers.range((Bound::Included(from), Bound::Excluded(to))).next().map(|(_, holder)| *holder)
    }

    /// Who keeps others from writing the key: its writer, a reader, or a scan whose range it is in.
    pub fn holder(&self, table: TableId, key: &[u8]) -> Option<TxnId> {
        if self.is_empty() {
            return None;
        }
        let key = lock_key(table, key);
        let read = || self.readers.get(&key).map(|holders| holders[0]);
        let scanned = || self.ranges.iter().find(|lock| lock.range.has(&key)).map(|lock| lock.holder);
        self.writers.get(&key).copied().or_else(read).or_else(scanned)
    }

    /// Takes all of it or nothing; false when somebody is in the way.
    pub fn acquire(&mut self, txn: TxnId, wanted: &LockSet<'_>) -> bool {
        let free = wanted.writes.iter().all(|(table, key)| self.holder(*table, key).is_none())
            && wanted.reads.iter().all(|(table, key)| self.writer(*table, key).is_none())
            && wanted.ranges.iter().all(|(table, from, to)| self.writer_within(*table, from, *to).is_none());
        if !free {
            return false;
        }
        for (table, key) in wanted.writes {
            self.writers.insert(lock_key(*table, key), txn);
        }
        for (table, key) in wanted.reads {
            self.readers.entry(lock_key(*table, key)).or_default().push(txn);
        }
        for (table, from, to) in wanted.ranges {
            self.ranges.push(RangeLock { holder: txn, range: KeyRange::new(*table, from, *to) });
        }
        true
    }

    /// Gives back what `acquire` took, named the same way.
    pub fn release<'a>(
        &mut self,
        txn: TxnId,
        writes: impl Iterator<Item = (TableId, &'a [u8])>,
        reads: impl Iterator<Item = (TableId, &'a [u8])>,
    ) {
        for (table, key) in writes {
            let holder = self.writers.remove(&lock_key(table, key));
            assert_eq!(holder, Some(txn), "a write lock was released by another transaction than its holder");
        }
        for (table, key) in reads {
            let key = lock_key(table, key);
            let holders = self.readers.get_mut(&key).expect("a read lock is released by its holder");
            let at =
                holders.iter().position(|holder| *holder == txn).expect("the holder is among the readers");
            holders.remove(at);
            if holders.is_empty() {
                self.readers.remove(&key);
            }
        }
        self.ranges.retain(|lock| lock.holder != txn);
    }

    /// The ranges a transaction holds.
    pub fn ranges_of(&self, txn: TxnId) -> Vec<KeyRange> {
        let held = self.ranges.iter().filter(|lock| lock.holder == txn);
        held.map(|lock| lock.range.clone()).collect()
    }
}

impl KeyRange {
    pub fn new(table: TableId, from: &[u8], to: Option<&[u8]>) -> KeyRange {
        KeyRange { from: lock_key(table, from), to: end_key(table, to) }
    }

    pub fn has(&self, key: &LockKey) -> bool {
        (&self.from..&self.to).contains(&key)
    }
}

pub fn lock_key(table: TableId, key: &[u8]) -> LockKey {
    let mut bytes = LockKey::from_slice(&table.0.to_be_bytes());
    bytes.extend_from_slice(key);
    bytes
}

/// The first lock key past the range: the end of a table is the start of the next.
fn end_key(table: TableId, to: Option<&[u8]>) -> LockKey {
    match to {
        Some(to) => lock_key(table, to),
        None => LockKey::from_slice(&table.0.saturating_add(1).to_be_bytes()),
    }
}

/// The first key after `key` in byte order: what turns an inclusive end into an exclusive one.
pub fn successor(key: &[u8]) -> KeyBytes {
    let mut next = KeyBytes::from_slice(key);
    next.push(0);
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: TableId = TableId(1);

    fn txn(number: u64) -> TxnId {
        TxnId { number, ..TxnId::default() }
    }

    fn set<'a>(writes: &'a [(TableId, &'a [u8])], reads: &'a [(TableId, &'a [u8])]) -> LockSet<'a> {
        LockSet { writes, reads, ranges: &[] }
    }

    /// Two prepared writers of one key would both install; a reader under a writer would miss it.
    #[test]
    fn readers_share_and_writers_do_not() {
        let mut locks = Locks::default();
        let key: &[(TableId, &[u8])] = &[(T, b"k")];
        assert!(locks.acquire(txn(1), &set(&[], key)));
        assert!(locks.acquire(txn(2), &set(&[], key)));
        assert!(!locks.acquire(txn(3), &set(key, &[])));
        locks.release(txn(1), [].into_iter(), key.iter().copied());
        assert_eq!(locks.holder(T, b"k"), Some(txn(2)));
        assert_eq!(locks.writer(T, b"k"), None);
        locks.release(txn(2), [].into_iter(), key.iter().copied());
        assert!(locks.acquire(txn(3), &set(key, &[])));
        assert!(!locks.acquire(txn(4), &set(&[], key)));
        assert_eq!(locks.writer(T, b"k"), Some(txn(3)));
        locks.release(txn(3), key.iter().copied(), [].into_iter());
        assert!(locks.is_empty());
    }

    /// Phantoms: an insert into a range that a prepared transaction has scanned.
    #[test]
    fn a_scanned_range_keeps_inserts_out_and_a_pending_insert_keeps_scans_out() {
        let mut locks = Locks::default();
        let ranges: &[Range<'_>] = &[(T, b"b", Some(b"d")), (T, b"x", None)];
        assert!(locks.acquire(txn(1), &LockSet { writes: &[], reads: &[], ranges }));
        let held = |key: &[u8]| locks.holder(T, key).is_some();
        assert!(!held(b"a") && held(b"b") && held(b"c\xff") && !held(b"d") && held(b"zz"));
        assert_eq!(locks.holder(TableId(2), b"y"), None);
        locks.release(txn(1), [].into_iter(), [].into_iter());
        let insert: &[(TableId, &[u8])] = &[(T, b"c")];
        assert!(locks.acquire(txn(2), &set(insert, &[])));
        assert!(!locks.acquire(txn(3), &LockSet { writes: &[], reads: &[], ranges }));
        assert_eq!(locks.writer_within(T, b"d", None), None);
        assert_eq!(locks.writer_within(T, b"d", Some(b"b")), None);
    }

    #[test]
    fn a_refused_acquire_takes_nothing() {
        let mut locks = Locks::default();
        assert!(locks.acquire(txn(1), &set(&[(T, b"b")], &[])));
        assert!(!locks.acquire(txn(2), &set(&[(T, b"a"), (T, b"b")], &[])));
        assert_eq!(locks.holder(T, b"a"), None);
    }
}
