//! What transactions that stand ahead of the clock demand of those that come after them.
//!
//! A distributed transaction stands about where time will be when its slowest participant hears of the
//! decision; anywhere else that lies in the future. A clock that followed would put every later transaction
//! there too, above proposals of others that are still undecided, and all of them would wait for those. So the
//! clock stays, and only who meets such a transaction stands above it: above the versions it reads or
//! replaces, and above the committed reads of what it writes. Those reads are kept here.
//!
//! Invariants:
//!   1. No version and no committed read stands above both the clock and `until`.
//!   2. A mark is kept until the clock has reached it: from then on everything is above it anyway.
//!   3. Marks are bounded; where there is no room, the caller moves the clock instead.
#![forbid(unsafe_code)]

use super::locks::{KeyRange, lock_key};
use super::writes::hash_key;
use crate::bounds::{AHEAD_RANGES_MAX, AHEAD_READS_MAX};
use crate::types::{TableId, Timestamp};
use hashbrown::HashMap;

#[derive(Default)]
pub struct Ahead {
    /// The highest timestamp of all that ever stood ahead. Monotone.
    until: Timestamp,
    /// Marks go in here until those before have all been passed; then these are the ones before.
    recent: Marks,
    before: Marks,
}

#[derive(Default)]
struct Marks {
    until: Timestamp,
    /// By the key's hash: two keys that share one stand higher than they must, and no harm is done.
    keys: HashMap<u64, Timestamp, foldhash::fast::FixedState>,
    ranges: Vec<(KeyRange, Timestamp)>,
}

impl Ahead {
    pub fn until(&self) -> Timestamp {
        self.until
    }

    /// A committed transaction that stands at `timestamp` has read keys, by their hashes, and ranges. False
    /// when there is no room to remember it.
    pub fn mark(
        &mut self,
        clock: Timestamp,
        timestamp: Timestamp,
        keys: impl ExactSizeIterator<Item = u64>,
        ranges: impl ExactSizeIterator<Item = KeyRange>,
    ) -> bool {
        if self.before.until <= clock {
            std::mem::swap(&mut self.before, &mut self.recent);
            self.recent.clear();
        }
        let marks = &mut self.recent;
        let fits = marks.keys.len() + keys.len() <= AHEAD_READS_MAX
            && marks.ranges.len() + ranges.len() <= AHEAD_RANGES_MAX;
        if fits {
            self.until = self.until.max(timestamp);
            marks.until = marks.until.max(timestamp);
            for key in keys {
                let mark = marks.keys.entry(key).or_default();
                *mark = timestamp.max(*mark);
            }
            marks.ranges.extend(ranges.map(|range| (range, timestamp)));
        }
        fits
    }

    /// The highest committed read of the key that stood ahead when it was made; 0 without one.
    pub fn read_of(&self, table: TableId, key: &[u8]) -> Timestamp {
        self.recent.read_of(table, key).max(self.before.read_of(table, key))
    }
}

impl Marks {
    fn read_of(&self, table: TableId, key: &[u8]) -> Timestamp {
        let mark = self.keys.get(&hash_key(table, key)).copied().unwrap_or_default();
        if self.ranges.is_empty() {
            return mark;
        }
        let key = lock_key(table, key);
        let ranges = self.ranges.iter().filter(|(range, _)| range.has(&key));
        ranges.map(|(_, timestamp)| *timestamp).fold(mark, Timestamp::max)
    }

    fn clear(&mut self) {
        self.until = Timestamp::default();
        self.keys.clear();
        self.ranges.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Prng;

    const T: TableId = TableId(2);

    fn mark(ahead: &mut Ahead, clock: u64, at: u64, keys: &[&[u8]]) -> bool {
        let hashes: Vec<u64> = keys.iter().map(|key| hash_key(T, key)).collect();
        ahead.mark(Timestamp(clock), Timestamp(at), hashes.into_iter(), [].into_iter())
    }

    /// A mark dropped early lets a write in below a committed read: the two disagree about who came first.
    #[test]
    fn a_read_is_remembered_until_the_clock_has_passed_it() {
        for seed in 0..200 {
            let mut prng = Prng::with_seed(seed);
            let (mut ahead, mut clock, mut made) = (Ahead::default(), 0, Vec::new());
            for _ in 0..100 {
                clock += prng.u64(0..30);
                let (at, key) = (clock + prng.u64(1..50), [prng.u8(0..8)]);
                assert!(mark(&mut ahead, clock, at, &[&key]));
                made.push((at, key));
                for (at, key) in made.iter().filter(|(at, _)| *at > clock) {
                    assert!(ahead.read_of(T, key) >= Timestamp(*at), "seed {seed}: {key:?} at {at}");
                }
                assert!(ahead.until() >= Timestamp(at));
            }
        }
    }

    #[test]
    fn a_scanned_range_marks_every_key_in_it_and_no_other() {
        let mut ahead = Ahead::default();
        let range = KeyRange::new(T, b"b", Some(b"d"));
        assert!(ahead.mark(Timestamp(1), Timestamp(9), [].into_iter(), [range].into_iter()));
        for (table, key, at) in
            [(T, b"b", 9), (T, b"c", 9), (T, b"d", 0), (T, b"a", 0), (TableId(3), b"c", 0)]
        {
            assert_eq!(ahead.read_of(table, key), Timestamp(at), "{table:?} {key:?}");
        }
    }

    /// The caller must hear of it: a read that is silently not remembered is a wrong order.
    #[test]
    fn what_finds_no_room_is_refused_and_room_comes_back_with_time() {
        let mut ahead = Ahead::default();
        let mut fill = |clock: u64| {
            let hashes = 0..AHEAD_READS_MAX as u64;
            let at = Timestamp(clock + 10);
            ahead.mark(Timestamp(clock), at, hashes.collect::<Vec<_>>().into_iter(), [].into_iter())
        };
        assert!(fill(1));
        assert!(fill(1), "the other generation");
        assert!(!fill(2));
        assert!(fill(30));
    }
}
