//! The writes a transaction has buffered: visible to itself alone until it commits.
//!
//! Looked up by a 64-bit hash in one flat array, which for the few dozen writes of a usual
//! transaction is faster than any map and allocates nothing once it has grown.
#![forbid(unsafe_code)]

use super::procedure::Abort;
use crate::bounds::{KEY_BYTES_MAX, TXN_BYTES_MAX, TXN_WRITES_MAX, VALUE_BYTES_MAX};
use crate::tree::RecordRef;
use crate::types::{PartitionId, TableId, Value};
use foldhash::fast::FixedState;
use std::hash::{BuildHasher, Hasher};
use std::ops::Range;

#[derive(Default)]
pub struct WriteSet {
    hashes: Vec<u64>,
    writes: Vec<Write>,
    keys: Vec<u8>,
    /// Bytes of keys and values; at most `TXN_BYTES_MAX`.
    bytes: usize,
}

/// Where a write goes. Tables routed `everywhere` are written at every partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    One(PartitionId),
    Everywhere,
}

struct Write {
    place: Place,
    table: TableId,
    key: Range<u32>,
    /// `None` deletes.
    value: Option<Value>,
    /// The record, if the transaction has read it before.
    found: Option<RecordRef>,
}

impl WriteSet {
    pub fn clear(&mut self) {
        self.hashes.clear();
        self.writes.clear();
        self.keys.clear();
        self.bytes = 0;
    }

    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    pub fn len(&self) -> usize {
        self.writes.len()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Buffers a write; a second one of the same key replaces the first. Over a bound nothing changes.
    pub fn put(
        &mut self,
        place: Place,
        table: TableId,
        key: &[u8],
        value: Option<&[u8]>,
        found: Option<RecordRef>,
    ) -> Result<(), Abort> {
        let value_bytes = value.map_or(0, <[u8]>::len);
        within("key", key.len(), KEY_BYTES_MAX)?;
        within("value", value_bytes, VALUE_BYTES_MAX)?;
        let hash = hash_key(table, key);
        let old = self.find(hash, table, key);
        let replaced = old.map_or(0, |at| key.len() + self.writes[at].value.as_ref().map_or(0, |v| v.len()));
        let bytes = self.bytes - replaced + key.len() + value_bytes;
        within("transaction", bytes, TXN_BYTES_MAX)?;
        if let Some(at) = old {
            self.writes[at].value = value.map(Value::new);
        } else {
            within("number of writes", self.writes.len() + 1, TXN_WRITES_MAX)?;
            let start = self.keys.len() as u32;
            self.keys.extend_from_slice(key);
            let key = start..self.keys.len() as u32;
            self.hashes.push(hash);
            self.writes.push(Write { place, table, key, value: value.map(Value::new), found });
        }
        self.bytes = bytes;
        Ok(())
    }

    /// What this transaction itself wrote under the key: `Some(None)` when it deleted it.
    #[inline]
    pub fn get(&self, table: TableId, key: &[u8]) -> Option<Option<&Value>> {
        if self.writes.is_empty() {
            return None;
        }
        let at = self.find(hash_key(table, key), table, key)?;
        Some(self.writes[at].value.as_ref())
    }

    /// Every write, in the order of the first write of each key.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (Place, TableId, &[u8], Option<&Value>)> + Clone {
        self.writes.iter().map(|w| (w.place, w.table, self.key(w), w.value.as_ref()))
    }

    /// Every write of a transaction of one partition, and the record it goes to where that is known.
    pub fn located(
        &self,
    ) -> impl ExactSizeIterator<Item = (TableId, &[u8], Option<&Value>, Option<RecordRef>)> + Clone {
        self.writes.iter().map(|w| (w.table, self.key(w), w.value.as_ref(), w.found))
    }

    /// The writes that go to one partition.
    pub fn at(
        &self,
        partition: PartitionId,
    ) -> impl Iterator<Item = (TableId, &[u8], Option<&Value>)> + Clone {
        let here = move |place| place == Place::One(partition) || place == Place::Everywhere;
        self.iter().filter(move |w| here(w.0)).map(|(_, table, key, value)| (table, key, value))
    }

    fn find(&self, hash: u64, table: TableId, key: &[u8]) -> Option<usize> {
        let same = |at: &usize| self.writes[*at].table == table && self.key(&self.writes[*at]) == key;
        (0..self.hashes.len()).filter(|at| self.hashes[*at] == hash).find(same)
    }

    fn key(&self, write: &Write) -> &[u8] {
        &self.keys[write.key.start as usize..write.key.end as usize]
    }
}

/// One hash for every place that looks a key up, with a fixed seed: it decides nothing, but a run
/// must repeat to the nanosecond.
#[inline]
pub fn hash_key(table: TableId, key: &[u8]) -> u64 {
    let mut hasher = FixedState::with_seed(u64::from(table.0)).build_hasher();
    hasher.write(key);
    hasher.finish()
}

/// The one way to say that something is over its bound.
pub fn within(what: &'static str, size: usize, bound: usize) -> Result<(), Abort> {
    if size <= bound { Ok(()) } else { Err(Abort::TooBig { what, size, bound }) }
}

const _: () = assert!(TXN_BYTES_MAX < u32::MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Place = Place::One(PartitionId(0));
    const T: TableId = TableId(3);

    #[test]
    fn a_later_write_of_a_key_replaces_the_earlier_and_a_refused_one_changes_nothing() {
        let mut set = WriteSet::default();
        set.put(HERE, T, b"a", Some(b"one"), None).unwrap();
        set.put(HERE, T, b"b", Some(b"two"), None).unwrap();
        set.put(HERE, T, b"a", None, None).unwrap();
        assert_eq!(set.get(T, b"a"), Some(None));
        assert_eq!(set.get(TableId(4), b"a"), None);
        assert_eq!((set.len(), set.bytes()), (2, 5));

        let refused = set.put(HERE, T, b"b", Some(&vec![0; VALUE_BYTES_MAX + 1]), None);
        assert!(matches!(refused, Err(Abort::TooBig { what: "value", .. })));
        assert_eq!(set.get(T, b"b").unwrap().unwrap()[..], b"two"[..]);
        assert!(set.put(HERE, T, &[7; KEY_BYTES_MAX + 1], None, None).is_err());
        assert_eq!((set.len(), set.bytes()), (2, 5));
    }

    #[test]
    fn the_bytes_and_the_number_of_writes_are_bounded() {
        let mut set = WriteSet::default();
        let big = vec![0; VALUE_BYTES_MAX];
        let fits = (0u8..).take_while(|n| set.put(HERE, T, &[*n], Some(&big), None).is_ok()).count();
        assert_eq!(fits, TXN_BYTES_MAX / VALUE_BYTES_MAX);
        let mut set = WriteSet::default();
        let fits = (0u32..).take_while(|n| set.put(HERE, T, &n.to_be_bytes(), None, None).is_ok()).count();
        assert_eq!(fits, TXN_WRITES_MAX);
    }

    #[test]
    fn writes_everywhere_belong_to_every_partition() {
        let mut set = WriteSet::default();
        set.put(Place::Everywhere, T, b"all", Some(b""), None).unwrap();
        set.put(Place::One(PartitionId(1)), T, b"one", Some(b""), None).unwrap();
        assert_eq!(set.at(PartitionId(0)).count(), 1);
        assert_eq!(set.at(PartitionId(1)).count(), 2);
    }
}
