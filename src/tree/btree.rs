//! A B+tree from keys to record numbers: descent, splits, merges, and walks over the leaves.
//!
//! It does not look into records. Leaves are handed to a walk whole, so that the caller reads its
//! rows in one loop.
//!
//! Invariants (all in [`BTree::assert_invariants`]):
//!   1. Every leaf is `height` inner nodes below the root, and the leaves' links follow key order.
//!   2. No node is empty but a root that is a leaf; a root that is not has two children at least.
//!   3. Every slot of the slabs is reachable from the root, or free: a queue, which inserts at one
//!      end and deletes at the other for ever, stays as large as what it holds.
#![forbid(unsafe_code)]

use std::ops::{ControlFlow, Range};

use super::key::{Key, KeyRef};
use super::node::{Inner, Leaf};
use super::slab::{NONE, Slab};

/// Leaves hold up to `LEAF` keys, inner nodes up to `INNER` children.
#[derive(Debug)]
pub(super) struct BTree<const LEAF: usize, const INNER: usize> {
    leaves: Slab<Leaf<LEAF>>,
    inners: Slab<Inner<INNER>>,
    /// A leaf when `height` is 0, else an inner node.
    root: u32,
    height: usize,
    /// Memory of the parts of keys that do not fit into nodes.
    tail_bytes: usize,
}

/// Where a key is, or would be. Good until the tree changes.
#[derive(Debug)]
pub(super) struct Position {
    path: Path,
    leaf: u32,
    place: Result<usize, usize>,
}

/// The inner nodes from the root down, and which child of each was taken.
#[derive(Debug)]
struct Path {
    steps: [Step; HEIGHT_MAX],
    length: usize,
}

#[derive(Clone, Copy, Debug)]
struct Step {
    inner: u32,
    child: usize,
}

impl<const LEAF: usize, const INNER: usize> BTree<LEAF, INNER> {
    pub(super) fn new() -> Self {
        let mut leaves = Slab::new();
        let root = leaves.acquire();
        BTree { leaves, inners: Slab::new(), root, height: 0, tail_bytes: 0 }
    }

    pub(super) fn find(&self, key: &KeyRef<'_>) -> Option<u32> {
        self.find_in(self.leaf_of(key), key)
    }

    /// The leaf a key belongs to, which is not looked into. Good until the tree changes.
    #[inline]
    pub(super) fn leaf_of(&self, key: &KeyRef<'_>) -> u32 {
        let mut node = self.root;
        for _ in 0..self.height {
            let inner = &self.inners[node];
            node = inner.child(inner.search(key));
        }
        node
    }

    /// The record of a key, given its leaf.
    #[inline]
    pub(super) fn find_in(&self, leaf: u32, key: &KeyRef<'_>) -> Option<u32> {
        let leaf = &self.leaves[leaf];
        leaf.search(key).ok().map(|at| leaf.record(at))
    }

    pub(super) fn touch_leaf(&self, leaf: u32, key: &KeyRef<'_>) {
        self.leaves[leaf].touch(key);
    }

    /// `find`, remembering the way for an insertion or removal.
    pub(super) fn seek(&self, key: &KeyRef<'_>) -> Position {
        let mut path = Path { steps: [Step { inner: NONE, child: 0 }; HEIGHT_MAX], length: 0 };
        let mut node = self.root;
        for _ in 0..self.height {
            let inner = &self.inners[node];
            let child = inner.search(key);
            path.push(Step { inner: node, child });
            node = inner.child(child);
        }
        Position { path, leaf: node, place: self.leaves[node].search(key) }
    }

    pub(super) fn record(&self, position: &Position) -> Option<u32> {
        position.place.ok().map(|at| self.leaves[position.leaf].record(at))
    }

    /// Inserts a key whose `position` says that it is absent.
    pub(super) fn insert(&mut self, position: Position, key: &KeyRef<'_>, record: u32) {
        let Position { mut path, leaf, place } = position;
        let Err(at) = place else { panic!("a key is inserted twice") };
        self.tail_bytes += key.tail_bytes();
        if !self.leaves[leaf].is_full() {
            return self.leaves[leaf].insert(at, key, record);
        }
        let (mut separator, mut right) = self.split_leaf(leaf, at, key, record);
        self.tail_bytes += separator.borrow().tail_bytes();
        while let Some(step) = path.pop() {
            let inner = &mut self.inners[step.inner];
            if !inner.is_full() {
                return inner.insert(step.child, &separator, right);
            }
            let rightmost = step.child + 1 == INNER && self.is_rightmost(&path);
            (separator, right) = self.split_inner(step, separator, right, rightmost);
        }
        let root = self.inners.acquire();
        self.inners[root] = Inner::root(self.root, &separator, right);
        self.root = root;
        self.height += 1;
        assert!(self.height <= HEIGHT_MAX);
    }

    /// Removes a key whose `position` says that it is there, and returns its record.
    pub(super) fn remove(&mut self, position: Position) -> u32 {
        let Position { path, leaf, place } = position;
        let Ok(at) = place else { panic!("an absent key is removed") };
        let node = &mut self.leaves[leaf];
        self.tail_bytes -= node.keys.get(at).tail_bytes();
        let record = node.remove(at);
        if node.keys.len() <= LEAF / 4 {
            self.shrink_leaf(path, leaf);
        }
        record
    }

    /// Calls `visit` with each leaf that has keys in `from <= key < to`, and their places there.
    pub(super) fn walk<B>(
        &self,
        from: &KeyRef<'_>,
        to: Option<&KeyRef<'_>>,
        mut visit: impl FnMut(&Leaf<LEAF>, Range<usize>) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let Position { leaf: mut id, place, .. } = self.seek(from);
        let mut begin = place.unwrap_or_else(|at| at);
        while id != NONE {
            let leaf = &self.leaves[id];
            let bound = to.filter(|to| leaf.keys.last().is_some_and(|last| last >= **to));
            let end = bound.map_or(leaf.keys.len(), |to| leaf.search(to).unwrap_or_else(|at| at));
            if begin < end {
                visit(leaf, begin..end)?;
            }
            if bound.is_some() {
                break;
            }
            (id, begin) = (leaf.next, 0);
        }
        ControlFlow::Continue(())
    }

    /// `walk` from the last leaf to the first; the places are still ascending.
    pub(super) fn walk_back<B>(
        &self,
        from: &KeyRef<'_>,
        to: Option<&KeyRef<'_>>,
        mut visit: impl FnMut(&Leaf<LEAF>, Range<usize>) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let (mut id, mut end) = match to.map(|to| self.seek(to)) {
            Some(Position { leaf, place, .. }) => (leaf, place.unwrap_or_else(|at| at)),
            None => self.end(),
        };
        while id != NONE {
            let leaf = &self.leaves[id];
            let bounded = leaf.keys.first().is_some_and(|first| first <= *from);
            let begin = if bounded { leaf.search(from).unwrap_or_else(|at| at) } else { 0 };
            if begin < end {
                visit(leaf, begin..end)?;
            }
            if bounded {
                break;
            }
            id = leaf.prev;
            end = if id == NONE { 0 } else { self.leaves[id].keys.len() };
        }
        ControlFlow::Continue(())
    }

    /// Memory of the nodes and of the keys they hold.
    pub(super) fn bytes(&self) -> usize {
        self.leaves.live() * size_of::<Leaf<LEAF>>()
            + self.inners.live() * size_of::<Inner<INNER>>()
            + self.tail_bytes
    }

    /// Checks invariants 1 to 3 and returns the records in key order. Costs a walk over everything.
    pub(super) fn assert_invariants(&self) -> Vec<u32> {
        let mut found = Found::default();
        self.assert_subtree(self.root, self.height, (None, None), &mut found);
        assert_eq!(found.leaves.len(), self.leaves.live(), "a leaf has leaked");
        assert_eq!(found.inners, self.inners.live(), "an inner node has leaked");
        assert_eq!(found.tail_bytes, self.tail_bytes);
        let mut prev = NONE;
        for (at, id) in found.leaves.iter().enumerate() {
            let next = found.leaves.get(at + 1).copied().unwrap_or(NONE);
            assert_eq!((self.leaves[*id].prev, self.leaves[*id].next), (prev, next));
            prev = *id;
        }
        found.records
    }

    fn assert_subtree(&self, node: u32, level: usize, range: Bounds<'_>, found: &mut Found) {
        let (low, high) = range;
        let keys_are_within = |first: Option<KeyRef<'_>>, last: Option<KeyRef<'_>>| {
            low.is_none_or(|low| first.is_none_or(|first| low <= first))
                && high.is_none_or(|high| last.is_none_or(|last| last < high))
        };
        if level == 0 {
            let leaf = &self.leaves[node];
            leaf.keys.assert_sorted();
            assert!(leaf.keys.len() > 0 || self.height == 0, "an empty leaf below an inner node");
            assert!(keys_are_within(leaf.keys.first(), leaf.keys.last()), "a key in the wrong leaf");
            found.leaves.push(node);
            for at in 0..leaf.keys.len() {
                found.records.push(leaf.record(at));
                found.tail_bytes += leaf.keys.get(at).tail_bytes();
            }
            return;
        }
        let inner = &self.inners[node];
        let count = inner.keys.len();
        inner.keys.assert_sorted();
        assert!(count > 0 || node != self.root, "a root with one child");
        assert!(keys_are_within(inner.keys.first(), inner.keys.last()), "a separator out of range");
        found.inners += 1;
        for at in 0..=count {
            let low = if at == 0 { low } else { Some(inner.keys.get(at - 1)) };
            let high = if at == count { high } else { Some(inner.keys.get(at)) };
            found.tail_bytes += high.filter(|_| at < count).map_or(0, |key| key.tail_bytes());
            self.assert_subtree(inner.child(at), level - 1, (low, high), found);
        }
    }

    /// The last leaf, and the place behind its last key.
    fn end(&self) -> (u32, usize) {
        let mut node = self.root;
        for _ in 0..self.height {
            let inner = &self.inners[node];
            node = inner.child(inner.keys.len());
        }
        (node, self.leaves[node].keys.len())
    }

    fn is_rightmost(&self, path: &Path) -> bool {
        path.steps[..path.length].iter().all(|step| step.child == self.inners[step.inner].keys.len())
    }

    /// Splits a full leaf and inserts the key. Where keys arrive in ascending order, at the end or
    /// within the tree, the left leaf stays full behind them; elsewhere the leaf is halved.
    fn split_leaf(&mut self, left: u32, at: usize, key: &KeyRef<'_>, record: u32) -> (Key, u32) {
        let right = self.leaves.acquire();
        let node = &mut self.leaves[left];
        let cut = if node.continues_run(at) { at } else { LEAF / 2 };
        let mut split = node.split_off(cut);
        if at <= cut && cut < LEAF {
            node.insert(at, key, record);
        } else {
            split.insert(at - cut, key, record);
        }
        (split.prev, split.next) = (left, node.next);
        node.next = right;
        if split.next != NONE {
            self.leaves[split.next].prev = right;
        }
        self.leaves[right] = split;
        let (Some(last), Some(first)) = (self.leaves[left].keys.last(), self.leaves[right].keys.first())
        else {
            panic!("a split has left a leaf empty");
        };
        (first.separator_from(&last), right)
    }

    /// Splits a full inner node and inserts a child. The last node of its level stays full when it
    /// is split at its end: whoever appends to a table comes back only to the new one.
    fn split_inner(&mut self, step: Step, separator: Key, child: u32, rightmost: bool) -> (Key, u32) {
        let right = self.inners.acquire();
        if rightmost {
            self.inners[right] = Inner::lone(child);
            return (separator, right);
        }
        let left = &mut self.inners[step.inner];
        let (between, mut split) = left.split();
        let kept = left.keys.len();
        if step.child <= kept {
            left.insert(step.child, &separator, child);
        } else {
            split.insert(step.child - kept - 1, &separator, child);
        }
        self.inners[right] = split;
        (between, right)
    }

    /// Frees a leaf that is empty, or joins one that is nearly empty with a sibling that has room.
    fn shrink_leaf(&mut self, mut path: Path, leaf: u32) {
        let Some(Step { inner, child }) = path.pop() else { return };
        let fits = |left: u32, right: u32| {
            self.leaves[left].keys.len() + self.leaves[right].keys.len() <= LEAF - LEAF / 4
        };
        let parent = &self.inners[inner];
        if self.leaves[leaf].keys.len() == 0 {
            self.release_leaf(leaf);
            self.remove_child(path, inner, child);
        } else if child < parent.keys.len() && fits(leaf, parent.child(child + 1)) {
            self.merge_leaves(leaf, parent.child(child + 1));
            self.remove_child(path, inner, child + 1);
        } else if child > 0 && fits(parent.child(child - 1), leaf) {
            self.merge_leaves(parent.child(child - 1), leaf);
            self.remove_child(path, inner, child);
        }
    }

    fn merge_leaves(&mut self, left: u32, right: u32) {
        let mut taken = std::mem::take(&mut self.leaves[right]);
        self.leaves[left].append(&mut taken);
        (self.leaves[right].prev, self.leaves[right].next) = (taken.prev, taken.next);
        self.release_leaf(right);
    }

    fn release_leaf(&mut self, id: u32) {
        let Leaf { prev, next, .. } = std::mem::take(&mut self.leaves[id]);
        if prev != NONE {
            self.leaves[prev].next = next;
        }
        if next != NONE {
            self.leaves[next].prev = prev;
        }
        self.leaves.release(id);
    }

    /// Removes a child that has been released; frees or joins inner nodes up the path as it can.
    fn remove_child(&mut self, mut path: Path, mut inner: u32, mut child: usize) {
        while self.inners[inner].keys.len() == 0 {
            self.inners.release(inner);
            let Some(step) = path.pop() else { panic!("a root had one child") };
            (inner, child) = (step.inner, step.child);
        }
        self.tail_bytes -= self.inners[inner].remove(child);
        while let Some(step) = path.pop() {
            let Some(left) = self.mergeable(step) else { break };
            self.merge_inners(step.inner, left);
        }
        while self.height > 0 && self.inners[self.root].keys.len() == 0 {
            let root = self.root;
            self.root = self.inners[root].child(0);
            self.inners.release(root);
            self.height -= 1;
        }
    }

    /// The left one of two children to be joined, if the child `step` leads to is nearly empty and
    /// a sibling has room for it.
    fn mergeable(&self, step: Step) -> Option<usize> {
        let parent = &self.inners[step.inner];
        let keys = |at: usize| self.inners[parent.child(at)].keys.len();
        if keys(step.child) > INNER / 4 {
            return None;
        }
        let pairs = [step.child.checked_sub(1), Some(step.child)];
        let fits = |left: &usize| {
            *left < parent.keys.len() && keys(*left) + 1 + keys(*left + 1) <= INNER - INNER / 4
        };
        pairs.into_iter().flatten().find(fits)
    }

    fn merge_inners(&mut self, parent: u32, left: usize) {
        let node = &self.inners[parent];
        let between = node.keys.get(left).to_key();
        let (into, from) = (node.child(left), node.child(left + 1));
        let mut taken = std::mem::take(&mut self.inners[from]);
        self.inners[into].append(&between, &mut taken);
        self.inners.release(from);
        self.tail_bytes += between.borrow().tail_bytes();
        self.tail_bytes -= self.inners[parent].remove(left + 1);
    }
}

impl Path {
    fn push(&mut self, step: Step) {
        self.steps[self.length] = step;
        self.length += 1;
    }

    fn pop(&mut self) -> Option<Step> {
        self.length = self.length.checked_sub(1)?;
        Some(self.steps[self.length])
    }
}

/// What a check has come across on its way.
#[derive(Default)]
struct Found {
    leaves: Vec<u32>,
    inners: usize,
    records: Vec<u32>,
    tail_bytes: usize,
}

type Bounds<'a> = (Option<KeyRef<'a>>, Option<KeyRef<'a>>);

/// Levels of inner nodes. Only a full node splits, so a level takes half a node of splits on the level
/// below, whatever is deleted in between: with nodes of 32 children or more, 2^44 insertions.
const HEIGHT_MAX: usize = 12;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::tree::key::KeyBuffer;

    /// Small nodes: a few hundred keys make a tall tree.
    type SmallTree = BTree<8, 8>;

    fn insert(tree: &mut SmallTree, key: &[u8], record: u32) {
        let key = KeyRef::new(key);
        tree.insert(tree.seek(&key), &key, record);
    }

    fn remove(tree: &mut SmallTree, key: &[u8]) -> u32 {
        tree.remove(tree.seek(&KeyRef::new(key)))
    }

    /// Keys that are numbers, most of them too long for the prefix to tell them apart.
    fn spelt(number: u16) -> Vec<u8> {
        let digits = number.to_be_bytes();
        if number.is_multiple_of(4) { digits.to_vec() } else { [&[7; 20][..], &digits].concat() }
    }

    fn rows(tree: &SmallTree, from: &[u8], to: Option<&[u8]>, back: bool) -> Vec<(Vec<u8>, u32)> {
        let (from, to) = (KeyRef::new(from), to.map(KeyRef::new));
        let (mut rows, mut buffer) = (Vec::new(), KeyBuffer::new());
        let visit = |leaf: &Leaf<8>, places: Range<usize>| -> ControlFlow<()> {
            let mut found: Vec<_> =
                places.map(|at| (buffer.fill(&leaf.keys.get(at)).to_vec(), leaf.record(at))).collect();
            if back {
                found.reverse();
            }
            rows.extend(found);
            ControlFlow::Continue(())
        };
        let end = if back {
            tree.walk_back(&from, to.as_ref(), visit)
        } else {
            tree.walk(&from, to.as_ref(), visit)
        };
        assert!(end.is_continue());
        rows
    }

    /// Inner nodes that were never joined would keep a tree as tall as it has ever been.
    #[test]
    fn a_tree_thinned_out_joins_its_inner_nodes() {
        let mut tree = SmallTree::new();
        for number in 0..20_000 {
            insert(&mut tree, &spelt(number), u32::from(number));
        }
        let (height, inners) = (tree.height, tree.inners.live());
        for number in (0..20_000).filter(|number| number % 500 > 0) {
            remove(&mut tree, &spelt(number));
        }
        assert_eq!(tree.assert_invariants().len(), 40);
        assert!(tree.height < height && tree.inners.live() < inners / 100, "{}", tree.inners.live());
    }

    fn steps() -> impl Strategy<Value = Vec<(bool, u16)>> {
        prop::collection::vec((any::<bool>(), 0..1_000u16), 1..4_000)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Insertions first outweigh removals, then the reverse, so that every split is undone by a merge.
        #[test]
        fn a_tall_tree_holds_what_a_map_holds(grow in steps(), shrink in steps(), bounds in any::<[u16; 2]>()) {
            let (mut tree, mut model) = (SmallTree::new(), BTreeMap::new());
            let steps = grow.into_iter().map(|(odd, n)| (odd || n % 3 > 0, n));
            let steps = steps.chain(shrink.into_iter().map(|(odd, n)| (odd && n % 3 == 0, n)));
            for (at, (put, number)) in steps.enumerate() {
                let key = spelt(number);
                prop_assert_eq!(tree.find(&KeyRef::new(&key)), model.get(&key).copied());
                if put && !model.contains_key(&key) {
                    insert(&mut tree, &key, at as u32);
                    model.insert(key, at as u32);
                } else if let Some(record) = model.remove(&key) {
                    prop_assert_eq!(remove(&mut tree, &key), record);
                }
                if at % 64 == 0 {
                    let records = tree.assert_invariants();
                    prop_assert!(records.iter().eq(model.values()));
                    let [from, to] = bounds.map(|bound| spelt(bound.wrapping_add(at as u16) % 1_000));
                    let within = |row: &(&Vec<u8>, &u32)| from <= *row.0 && *row.0 < to;
                    let mut expected: Vec<_> = model.iter().filter(within).map(|(k, r)| (k.clone(), *r)).collect();
                    prop_assert_eq!(rows(&tree, &from, Some(&to), false), expected.clone());
                    expected.reverse();
                    prop_assert_eq!(rows(&tree, &from, Some(&to), true), expected);
                }
            }
        }
    }
}
