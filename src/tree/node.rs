//! The nodes of the B+tree: sorted keys, and beside each key a record (leaf) or a child (inner).
//!
//! A node knows its own contents and, a leaf, its neighbours. When to split or merge, and what a
//! parent must then be told, is decided in `btree`.
//!
//! Invariants:
//!   1. The first `count` keys are strictly ascending; the prefixes behind them are the highest
//!      there is, so that a search may compare with all of them.
//!   2. An inner node has one child more than keys; child `i` holds the keys in `[key i-1, key i)`.
#![forbid(unsafe_code)]

use std::hint::black_box;

use super::key::{Key, KeyRef, PREFIX_BYTES, Tail};
use super::slab::NONE;

/// Up to `N` sorted keys. The halves of the prefixes lie together, so that a search touches few cache lines:
/// for a key of eight bytes that no longer one begins with, the first half is all it needs.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Keys<const N: usize> {
    highs: [u64; N],
    /// Up to one more than the prefix: how long the tail is, the tail knows.
    lengths: [u8; N],
    count: usize,
    /// There only once the node has met a key longer than the prefix.
    tails: Option<Box<[Tail; N]>>,
    lows: [u64; N],
}

/// Keys and their records, linked to the leaves on both sides. A search reads whole cache lines, first ones first.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Leaf<const N: usize> {
    records: [u32; N],
    pub(super) keys: Keys<N>,
    pub(super) prev: u32,
    pub(super) next: u32,
    /// One past the key inserted last, and how many before it each followed the one before.
    run_end: u32,
    run_length: u32,
}

/// Up to `N` children and the keys between them.
#[derive(Debug)]
pub(super) struct Inner<const N: usize> {
    pub(super) keys: Keys<N>,
    children: [u32; N],
}

impl<const N: usize> Keys<N> {
    fn new() -> Keys<N> {
        Keys { highs: [u64::MAX; N], lengths: [0; N], count: 0, tails: None, lows: [u64::MAX; N] }
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn get(&self, at: usize) -> KeyRef<'_> {
        let tail = self.tails.as_ref().map_or(&None, |tails| &tails[at]);
        KeyRef::from_parts(self.prefix(at), self.lengths[at], tail)
    }

    fn prefix(&self, at: usize) -> u128 {
        u128::from(self.highs[at]) << 64 | u128::from(self.lows[at])
    }

    fn set(&mut self, at: usize, prefix: u128, length: u8) {
        (self.highs[at], self.lows[at], self.lengths[at]) = ((prefix >> 64) as u64, prefix as u64, length);
    }

    pub(super) fn first(&self) -> Option<KeyRef<'_>> {
        (self.count > 0).then(|| self.get(0))
    }

    pub(super) fn last(&self) -> Option<KeyRef<'_>> {
        (self.count > 0).then(|| self.get(self.count - 1))
    }

    /// The place of `key`, or where it would be inserted.
    ///
    /// Compares with the last of every group, then with those of one group. That is more comparisons
    /// than a binary search makes, but none is a branch to mispredict, and the cache misses of a step
    /// do not wait for each other; nor, by invariant 1, for `count`.
    #[inline]
    pub(super) fn search(&self, key: &KeyRef<'_>) -> Result<usize, usize> {
        const { assert!(N.is_multiple_of(GROUP)) };
        let (high, low) = ((key.prefix() >> 64) as u64, key.prefix() as u64);
        let (groups, _) = self.highs.as_chunks::<GROUP>();
        let passed = count_below(groups.iter().map(|group| group[GROUP - 1]), high);
        let Some(group) = groups.get(passed) else { return Err(N) };
        let mut at = passed * GROUP + count_below(group.iter().copied(), high);
        if self.highs[at] != high || at >= self.count {
            return Err(at);
        }
        if usize::from(self.lengths[at]) == key.length() && key.length() <= size_of::<u64>() {
            return Ok(at);
        }
        if low > 0 {
            let same = self.highs[at..self.count].iter().zip(&self.lows[at..self.count]);
            at += same.take_while(|(a, b)| **a == high && **b < low).count();
            if at == self.count {
                return Err(at);
            }
        }
        if self.prefix(at) != key.prefix() {
            return Err(at);
        }
        if usize::from(self.lengths[at]) <= PREFIX_BYTES && usize::from(self.lengths[at]) == key.length() {
            return Ok(at);
        }
        self.search_ties(at, key)
    }

    /// `search` among the keys that share its prefix; the first of them is at `low`.
    #[cold]
    fn search_ties(&self, low: usize, key: &KeyRef<'_>) -> Result<usize, usize> {
        let ties = (low..self.count).take_while(|at| self.prefix(*at) == key.prefix());
        let (mut low, mut high) = (low, low + ties.count());
        while low < high {
            let middle = low.midpoint(high);
            match self.get(middle).cmp(key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Ok(middle),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    fn insert(&mut self, at: usize, key: &KeyRef<'_>) {
        assert!(at <= self.count && self.count < N);
        self.highs.copy_within(at..self.count, at + 1);
        self.lows.copy_within(at..self.count, at + 1);
        self.lengths.copy_within(at..self.count, at + 1);
        self.set(at, key.prefix(), key.length_up_to_tail());
        let tail = key.to_tail();
        if tail.is_some() && self.tails.is_none() {
            self.tails = Some(Box::new([const { None }; N]));
        }
        if let Some(tails) = &mut self.tails {
            tails[at..=self.count].rotate_right(1);
            tails[at] = tail;
        }
        self.count += 1;
    }

    fn remove(&mut self, at: usize) {
        assert!(at < self.count);
        self.highs.copy_within(at + 1..self.count, at);
        self.lows.copy_within(at + 1..self.count, at);
        self.lengths.copy_within(at + 1..self.count, at);
        if let Some(tails) = &mut self.tails {
            tails[at] = None;
            tails[at..self.count].rotate_left(1);
        }
        self.count -= 1;
        (self.highs[self.count], self.lows[self.count]) = (u64::MAX, u64::MAX);
    }

    /// Appends the keys of `other` from `from` on, taking them out of it.
    fn append(&mut self, other: &mut Keys<N>, from: usize) {
        let moved = other.count - from;
        let end = self.count + moved;
        assert!(end <= N);
        self.highs[self.count..end].copy_from_slice(&other.highs[from..other.count]);
        self.lows[self.count..end].copy_from_slice(&other.lows[from..other.count]);
        self.lengths[self.count..end].copy_from_slice(&other.lengths[from..other.count]);
        if let Some(theirs) = &mut other.tails {
            let ours = self.tails.get_or_insert_with(|| Box::new([const { None }; N]));
            for (our, their) in ours[self.count..end].iter_mut().zip(&mut theirs[from..other.count]) {
                *our = their.take();
            }
        }
        other.highs[from..other.count].fill(u64::MAX);
        other.lows[from..other.count].fill(u64::MAX);
        self.count = end;
        other.count = from;
    }

    pub(super) fn assert_sorted(&self) {
        assert!(self.count <= N && (self.count..N).all(|at| self.prefix(at) == u128::MAX));
        for at in 1..self.count {
            assert!(self.get(at - 1) < self.get(at), "keys {} and {at} of a node out of order", at - 1);
        }
    }
}

impl<const N: usize> Leaf<N> {
    pub(super) fn record(&self, at: usize) -> u32 {
        self.records[at]
    }

    /// `search` of the keys. A leaf is seldom in the cache: the numbers of its records are asked for
    /// before the search needs the prefixes, so that the misses overlap. It saves a fifth of a `get`.
    #[inline]
    pub(super) fn search(&self, key: &KeyRef<'_>) -> Result<usize, usize> {
        black_box((self.records[0], self.records[N / 2]));
        self.keys.search(key)
    }

    /// Asks for all that `search` and `record` will read, waiting for none of it.
    #[inline]
    pub(super) fn touch(&self, key: &KeyRef<'_>) {
        self.keys.highs.iter().step_by(GROUP).for_each(|high| {
            black_box(*high);
        });
        black_box((self.keys.count, self.records[0], self.records[N / 2]));
        if key.length() > size_of::<u64>() {
            self.keys.lows.iter().step_by(GROUP).for_each(|low| {
                black_box(*low);
            });
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.keys.count == N
    }

    pub(super) fn insert(&mut self, at: usize, key: &KeyRef<'_>, record: u32) {
        self.records.copy_within(at..self.keys.count, at + 1);
        self.keys.insert(at, key);
        self.records[at] = record;
        self.run_length = if at == self.run_end as usize { self.run_length + 1 } else { 1 };
        self.run_end = at as u32 + 1;
    }

    pub(super) fn remove(&mut self, at: usize) -> u32 {
        let record = self.record(at);
        self.records.copy_within(at + 1..self.keys.count, at);
        self.keys.remove(at);
        if at < self.run_end as usize {
            self.run_end -= 1;
        }
        record
    }

    /// Whether the key about to be inserted at `at` continues a run of ascending insertions. A run
    /// must have filled a part of this leaf, or chance and ill will could split off crumbs.
    pub(super) fn continues_run(&self, at: usize) -> bool {
        at == self.run_end as usize && self.run_length as usize >= N / 4
    }

    /// Moves the entries from `at` on to an empty leaf. A run that ends there goes on in this leaf;
    /// one that has filled it starts anew in the next.
    pub(super) fn split_off(&mut self, at: usize) -> Leaf<N> {
        let mut right = Leaf::default();
        if self.run_end as usize != at || at == self.keys.count {
            self.forget_run();
        }
        right.append_from(self, at);
        right
    }

    /// Takes all of the leaf behind this one.
    pub(super) fn append(&mut self, right: &mut Leaf<N>) {
        self.append_from(right, 0);
        self.forget_run();
    }

    fn append_from(&mut self, other: &mut Leaf<N>, from: usize) {
        let (begin, moved) = (self.keys.count, other.keys.count - from);
        self.records[begin..begin + moved].copy_from_slice(&other.records[from..from + moved]);
        self.keys.append(&mut other.keys, from);
    }

    fn forget_run(&mut self) {
        (self.run_end, self.run_length) = (0, 0);
    }
}

impl<const N: usize> Inner<N> {
    pub(super) fn root(left: u32, separator: &Key, right: u32) -> Inner<N> {
        let mut root = Inner::default();
        root.children[0] = left;
        root.insert(0, separator, right);
        root
    }

    pub(super) fn child(&self, at: usize) -> u32 {
        self.children[at]
    }

    pub(super) fn is_full(&self) -> bool {
        self.keys.count == N - 1
    }

    /// The child whose range holds `key`.
    pub(super) fn search(&self, key: &KeyRef<'_>) -> usize {
        self.keys.search(key).map_or_else(|at| at, |at| at + 1)
    }

    /// Child `at` was split: `separator` and `child` go behind it.
    pub(super) fn insert(&mut self, at: usize, separator: &Key, child: u32) {
        assert!(!self.is_full());
        self.children.copy_within(at + 1..=self.keys.count, at + 2);
        self.children[at + 1] = child;
        self.keys.insert(at, &separator.borrow());
    }

    /// Moves the children behind the middle to a new node; returns it and the key between the two.
    pub(super) fn split(&mut self) -> (Key, Inner<N>) {
        let (middle, count) = (self.keys.count / 2, self.keys.count);
        let mut right = Inner::default();
        right.children[..count - middle].copy_from_slice(&self.children[middle + 1..=count]);
        right.keys.append(&mut self.keys, middle + 1);
        let between = self.keys.get(middle).to_key();
        self.keys.remove(middle);
        (between, right)
    }

    /// A node with one child only; it gets its siblings later.
    pub(super) fn lone(child: u32) -> Inner<N> {
        let mut lone = Inner::default();
        lone.children[0] = child;
        lone
    }

    /// Removes child `at` and a key beside it, and returns the memory of that key's tail. The
    /// neighbour inherits the range. Must not be the only child.
    pub(super) fn remove(&mut self, at: usize) -> usize {
        let key = at.saturating_sub(1);
        let tail_bytes = self.keys.get(key).tail_bytes();
        self.children.copy_within(at + 1..=self.keys.count, at);
        self.keys.remove(key);
        tail_bytes
    }

    /// Takes all children of the node behind this one; `between` is the parent's key between them.
    pub(super) fn append(&mut self, between: &Key, right: &mut Inner<N>) {
        let (begin, moved) = (self.keys.count + 1, right.keys.count + 1);
        self.children[begin..begin + moved].copy_from_slice(&right.children[..moved]);
        self.keys.insert(self.keys.count, &between.borrow());
        self.keys.append(&mut right.keys, 0);
    }
}

impl<const N: usize> Default for Leaf<N> {
    fn default() -> Leaf<N> {
        Leaf { records: [NONE; N], keys: Keys::new(), prev: NONE, next: NONE, run_end: 0, run_length: 0 }
    }
}

impl<const N: usize> Default for Inner<N> {
    fn default() -> Inner<N> {
        Inner { keys: Keys::new(), children: [NONE; N] }
    }
}

/// How many of these ascending halves of prefixes are below `bound`. Written as a choice and not as a sum, which
/// the compiler would turn into vectors of booleans, at several times the cost.
#[inline]
fn count_below(highs: impl Iterator<Item = u64>, bound: u64) -> usize {
    highs.enumerate().fold(0, |count, (at, high)| if high < bound { at + 1 } else { count })
}

/// Halves of prefixes a search compares together: one cache line.
const GROUP: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    /// A key of sixteen 0xff bytes has the prefix that fills the places behind the last key, and such
    /// a place may still hold the length of a key that was removed.
    #[test]
    fn the_highest_prefix_is_not_found_behind_the_last_key() {
        let highest = KeyRef::new(&[0xff; PREFIX_BYTES]);
        let mut leaf: Leaf<8> = Leaf::default();
        leaf.insert(0, &KeyRef::new(b"a"), 1);
        leaf.insert(1, &highest, 2);
        assert_eq!(leaf.search(&highest), Ok(1));
        assert_eq!(leaf.remove(1), 2);
        assert_eq!(leaf.search(&highest), Err(1));
    }
}
