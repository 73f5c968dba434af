//! Lookups taken step by step, so that many of them wait for memory side by side.
//!
//! A lookup reads a leaf, a record and a value, each at a place that the one before it names, and on a table that
//! is larger than the caches each is a miss. One after another, most of the time of a transaction is spent waiting.
//! Taken through each step together, the lookups of a transaction wait as long as one of them.
//!
//! It changes nothing and answers nothing that a lookup would not.
//!
//! Invariants:
//!   1. The tree does not change between the steps of a probe.
//!   2. A step reads only what the step before has asked for.
#![forbid(unsafe_code)]

use super::Tree;
use super::key::ShortKey;
use super::record::RecordId;

/// How far a lookup has got.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Probe {
    #[default]
    Begun,
    /// The leaf, not looked into; then asked for.
    Leaf(u32),
    LeafAsked(u32),
    /// The record, not looked into; then asked for.
    Record(u32),
    RecordAsked(u32),
    /// The value was asked for as well.
    Found(RecordRef),
    Absent,
}

/// The record of a key. It stays that key's for as long as it lives, and is recognised when it does not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RecordRef {
    pub(super) id: RecordId,
    pub(super) generation: u32,
}

impl Probe {
    /// Steps after which a probe is `Found` or `Absent`.
    pub const STEPS: usize = 5;
}

impl Tree {
    /// Takes the lookup of `key` one step further.
    #[inline]
    pub fn step(&self, probe: Probe, key: &ShortKey) -> Probe {
        match probe {
            Probe::Begun => Probe::Leaf(self.keys.leaf_of(&key.borrow())),
            Probe::Leaf(leaf) => {
                self.keys.touch_leaf(leaf, &key.borrow());
                Probe::LeafAsked(leaf)
            }
            Probe::LeafAsked(leaf) => {
                self.keys.find_in(leaf, &key.borrow()).map_or(Probe::Absent, Probe::Record)
            }
            Probe::Record(id) => {
                self.records.touch(RecordId(id));
                Probe::RecordAsked(id)
            }
            Probe::RecordAsked(id) => {
                self.records.touch_value(RecordId(id));
                Probe::Found(self.records.reference(RecordId(id)))
            }
            Probe::Found(_) | Probe::Absent => probe,
        }
    }
}
