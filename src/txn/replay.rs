//! The queue of a follower: chosen entries that wait until what they rest on is stable (DESIGN §8).
//!
//! This is the safety check: an entry is replayed once its dependencies are stable, dropped when one
//! is lost, and held otherwise. Entries behind a held one that do not depend on it pass it; versions
//! are chained by timestamp, so the order of replay does not matter.
//!
//! Invariants:
//!   1. A held entry is in exactly one watch heap, under a dependency not known to be stable.
//!   2. Every chosen entry at or below a timestamp that all shards have passed has been replayed.
#![forbid(unsafe_code)]

use super::participant::Known;
use super::store::Store;
use super::watch::{Stamps, Watches};
use crate::rules::{self, Rule};
use crate::types::{Stamp, Standing, Timestamp};
use crate::wire::{BatchView, Deps, EntryView};
use std::rc::Rc;

#[derive(Default)]
pub struct Replay {
    held: Vec<Held>,
    free: Vec<u32>,
    watches: Watches<u32>,
    stamps: Stamps,
    /// Entries dropped because a dependency was lost.
    pub dropped: u64,
}

struct Held {
    /// `None` when the place is free.
    batch: Option<Rc<[u8]>>,
    /// Which entry of the batch.
    index: u32,
    timestamp: Timestamp,
    deps: Deps,
}

impl Replay {
    /// Takes a chosen batch in: replays what is stable, holds the rest.
    pub fn on_chosen(&mut self, batch: &Rc<[u8]>, store: &mut Store, known: &impl Known) {
        let view = BatchView::parse(batch).expect("a chosen batch was checked when it was accepted");
        for (index, entry) in view.entries().enumerate() {
            match standing(&entry.deps, known) {
                Found::Stable => replay(&entry, store),
                Found::Lost => self.dropped += 1,
                Found::Unknown(stamp, wanted) => {
                    store.clock.observe(entry.timestamp);
                    entry.deps.iter().for_each(|(stamp, _)| self.stamps.add(stamp));
                    let (batch, index) = (Some(batch.clone()), index as u32);
                    let (timestamp, deps) = (entry.timestamp, entry.deps.clone());
                    let place = self.place(Held { batch, index, timestamp, deps });
                    self.watches.watch(stamp, wanted, place);
                }
            }
        }
    }

    /// The watermark of a shard rose to `upto`.
    pub fn on_watermark(&mut self, stamp: Stamp, upto: Timestamp, store: &mut Store, known: &impl Known) {
        while let Some(place) = self.watches.pop_reached(stamp, upto) {
            self.settle(place, store, known);
        }
    }

    /// An epoch closed: everything held is looked at once.
    pub fn sweep(&mut self, store: &mut Store, known: &impl Known) {
        for place in self.watches.take_all() {
            self.settle(place, store, known);
        }
    }

    /// All that is held is in a checkpoint that took its place.
    pub fn clear(&mut self) {
        *self = Replay { dropped: self.dropped, ..Replay::default() };
    }

    /// We lead now: what is chosen and not yet stable is installed as speculative (DESIGN §5.4).
    pub fn promote(&mut self, store: &mut Store, known: &impl Known) {
        let mut places: Vec<u32> = self.watches.take_all().collect();
        places.sort_unstable();
        for place in places {
            let held = &mut self.held[place as usize];
            let batch = held.batch.take().expect("a watched place is held");
            let view = BatchView::parse(&batch).expect("it was parsed when it was taken in");
            let entry = view.entries().nth(held.index as usize).expect("the index is within the batch");
            match standing(&entry.deps, known) {
                Found::Stable => replay(&entry, store),
                Found::Lost => self.dropped += 1,
                Found::Unknown(..) => store.recover(&entry, known),
            }
            self.free.push(place);
        }
    }

    /// The reigns that what was ever held here rests on, less those known to be closed when it was last swept.
    pub fn stamps(&mut self) -> &mut Stamps {
        &mut self.stamps
    }

    /// The lowest timestamp anything here waits for.
    pub fn lowest(&self) -> Option<Timestamp> {
        self.watches.lowest_of_all()
    }

    /// The lowest timestamp of an entry held here. Walks all of them.
    pub fn lowest_entry(&self) -> Option<Timestamp> {
        self.held.iter().filter(|held| held.batch.is_some()).map(|held| held.timestamp).min()
    }

    pub fn len(&self) -> usize {
        self.held.len() - self.free.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn settle(&mut self, place: u32, store: &mut Store, known: &impl Known) {
        let held = &mut self.held[place as usize];
        match standing(&held.deps, known) {
            Found::Unknown(stamp, wanted) => return self.watches.watch(stamp, wanted, place),
            Found::Lost => {
                held.batch = None;
                self.dropped += 1;
            }
            Found::Stable => {
                let batch = held.batch.take().expect("a watched place is held");
                let view = BatchView::parse(&batch).expect("it was parsed when it was taken in");
                let entry = view.entries().nth(held.index as usize).expect("the index is within the batch");
                replay(&entry, store);
            }
        }
        self.free.push(place);
    }

    fn place(&mut self, held: Held) -> u32 {
        match self.free.pop() {
            Some(place) => {
                self.held[place as usize] = held;
                place
            }
            None => {
                self.held.push(held);
                self.held.len() as u32 - 1
            }
        }
    }
}

enum Found {
    Stable,
    Lost,
    Unknown(Stamp, Timestamp),
}

fn standing(deps: &Deps, known: &impl Known) -> Found {
    let mut found = Found::Stable;
    for (stamp, timestamp) in deps.iter() {
        match known.standing(stamp, timestamp) {
            Standing::Stable => {}
            Standing::Lost => return Found::Lost,
            Standing::Unknown if !rules::on(Rule::SafetyCheck) => {}
            Standing::Unknown => found = Found::Unknown(stamp, timestamp),
        }
    }
    found
}

fn replay(entry: &EntryView<'_>, store: &mut Store) {
    store.replay(entry.timestamp, entry.writes().map(|write| (write.table, write.key, write.value)));
}

#[cfg(test)]
mod tests;
