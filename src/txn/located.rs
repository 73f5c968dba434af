//! Where the keys of a run have been found, so that a key is searched for once however often it is used, and what it
//! will read, so that the searches overlap.
//!
//! A cache, and nothing more: what it has forgotten is searched for again. Records are recognised when they are gone
//! (see `tree`), so it stays true while others commit.
//!
//! Invariants:
//!   1. A place of another run is vacant.
//!   2. At most [`ANNOUNCED_MAX`] keys are announced and not yet searched for.
#![forbid(unsafe_code)]

use crate::tree::{Probe, RecordRef, ShortKey, Tree};
use crate::types::TableId;

pub struct Located {
    run: u64,
    places: Box<[Place; PLACES]>,
    announced: Vec<Announced>,
}

#[derive(Clone, Copy, Default)]
struct Place {
    run: u64,
    key: ShortKey,
    table: TableId,
    record: RecordRef,
}

struct Announced {
    table: TableId,
    key: ShortKey,
    probe: Probe,
}

impl Located {
    /// Forgets everything: a run begins.
    pub fn clear(&mut self) {
        self.run += 1;
        self.announced.clear();
    }

    #[inline]
    pub fn find(&self, table: TableId, key: &ShortKey) -> Option<RecordRef> {
        let place = &self.places[place_of(table, key)];
        (place.run == self.run && place.key == *key && place.table == table).then_some(place.record)
    }

    #[inline]
    pub fn add(&mut self, table: TableId, key: ShortKey, record: RecordRef) {
        self.places[place_of(table, &key)] = Place { run: self.run, key, table, record };
    }

    /// The key will be read; how long until `search` is called decides how many wait together.
    pub fn announce(&mut self, table: TableId, key: &[u8], tables: &[Tree]) {
        let Some(key) = ShortKey::new(key) else { return };
        self.announced.push(Announced { table, key, probe: Probe::default() });
        if self.announced.len() == ANNOUNCED_MAX {
            self.search(tables);
        }
    }

    #[inline]
    pub fn has_announced(&self) -> bool {
        !self.announced.is_empty()
    }

    /// Searches for everything announced, all at once.
    pub fn search(&mut self, tables: &[Tree]) {
        for _ in 0..Probe::STEPS {
            for Announced { table, key, probe } in &mut self.announced {
                *probe = tables[usize::from(table.0)].step(*probe, key);
            }
        }
        while let Some(Announced { table, key, probe }) = self.announced.pop() {
            if let Probe::Found(record) = probe {
                self.add(table, key, record);
            }
        }
    }
}

impl Default for Located {
    fn default() -> Located {
        // Runs count from 1: the places are of none.
        Located {
            run: 1,
            places: Box::new([Place::default(); PLACES]),
            announced: Vec::with_capacity(ANNOUNCED_MAX),
        }
    }
}

#[inline]
fn place_of(table: TableId, key: &ShortKey) -> usize {
    (key.spread() >> (64 - PLACES.ilog2())) as usize ^ (usize::from(table.0) * 11 % PLACES)
}

/// Keys remembered: of those that share a place, the last.
const PLACES: usize = 256;
/// More misses than a core keeps under way; the rest of the cost of a batch is what its lines push out of the first
/// cache.
const ANNOUNCED_MAX: usize = 64;

const _: () = assert!(PLACES.is_power_of_two());

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Version;
    use crate::types::{Timestamp, Value};

    const T: TableId = TableId(0);

    fn tables() -> [Tree; 2] {
        let mut tables = [Tree::new(), Tree::new()];
        for number in 0..100u8 {
            let version = Version { timestamp: Timestamp(1), writer: 0, value: Some(Value::new(&[number])) };
            tables[0].put(&[number], version);
        }
        tables
    }

    fn key(number: u8) -> ShortKey {
        ShortKey::new(&[number]).unwrap()
    }

    /// More than one search holds are searched for in several; those found may be forgotten, but never mixed up.
    #[test]
    fn announced_keys_are_found_in_their_tables_or_nowhere() {
        let (tables, mut located) = (tables(), Located::default());
        for number in 0..200u8 {
            located.announce(T, &[number], &tables);
            located.announce(TableId(1), &[number], &tables);
        }
        located.search(&tables);
        assert!(!located.has_announced());
        let mut known = 0;
        for number in 0..200u8 {
            assert_eq!(located.find(TableId(1), &key(number)), None);
            let Some(found) = located.find(T, &key(number)) else { continue };
            let value = tables[0].newest(found).and_then(|version| version.value.as_deref());
            assert_eq!(value, Some(&[number][..]));
            known += 1;
        }
        assert!((50..=100).contains(&known), "{known} of 100 keys are remembered");
    }

    /// Long keys are looked up as ever; a place for one would need its bytes.
    #[test]
    fn a_key_longer_than_a_prefix_is_not_announced() {
        let mut located = Located::default();
        located.announce(T, &[7; 17], &tables());
        assert!(!located.has_announced());
    }

    #[test]
    fn nothing_is_remembered_from_one_run_to_the_next() {
        let (tables, mut located) = (tables(), Located::default());
        let (found, _) = tables[0].find(&[7]).unwrap();
        located.add(T, key(7), found);
        located.announce(T, &[8], &tables);
        assert_eq!(located.find(T, &key(7)), Some(found));
        located.clear();
        assert!(located.find(T, &key(7)).is_none() && !located.has_announced());
    }
}
