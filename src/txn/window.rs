//! The speculation window of one partition: its transactions that are executed but not yet durable.
//!
//! Each entry watches one dependency that is not yet stable; when the watermark of that shard passes
//! it, the entry looks for the next, and with none left it is released. So an advance of a watermark
//! costs the entries it concerns, not the window, and entries that wait for a shard that is down
//! neither hold up those that never touched it nor take their room (DESIGN §1, promise 4).
//!
//! Invariants:
//!   1. A [`Writer`] names one entry for ever: places are reused, their generation is not.
//!   2. A held entry is in exactly one watch heap, under a dependency not known to be stable.
//!   3. `bytes` is the sum over the entries held.
#![forbid(unsafe_code)]

use super::watch::{Stamps, Watches};
use crate::bounds::{MAX_SPECULATION_NS, WINDOW_BYTES_MAX, WINDOW_ENTRIES_MAX};
use crate::types::{PartitionId, ShardId, Stamp, Standing, TableId, Timestamp, TxnId};
use crate::wire::Deps;
use smallvec::SmallVec;

pub struct Window {
    /// Places, reused: an entry keeps its buffers for the next that lives there.
    entries: Vec<Entry>,
    free: Vec<u32>,
    watches: Watches<Writer>,
    /// By shard: the highest timestamp anything here ever waited for. Monotone.
    wanted: Vec<Timestamp>,
    stamps: Stamps,
    bytes: usize,
}

/// What a version carries to find its writer while that is unstable. 0 is nobody.
pub type Writer = u64;

struct Entry {
    generation: u32,
    held: bool,
    txn: TxnId,
    timestamp: Timestamp,
    deps: Deps,
    /// Where else it is, for those who were not told; empty for one of a single partition.
    participants: SmallVec<[PartitionId; 4]>,
    /// Of the durable reply; `None` at participants.
    token: Option<u64>,
    bytes: usize,
    /// Keys written, for rollback: table, length, bytes.
    keys: Vec<u8>,
}

/// An entry about to be pushed.
pub struct Speculative<'a> {
    pub txn: TxnId,
    pub timestamp: Timestamp,
    pub deps: &'a Deps,
    pub participants: &'a [PartitionId],
    pub token: Option<u64>,
    pub bytes: usize,
}

/// What a change of knowledge settled.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Settled {
    /// Every dependency is stable.
    Released { token: Option<u64>, timestamp: Timestamp },
    /// A dependency is lost: the versions are to be unlinked.
    Lost { token: Option<u64>, timestamp: Timestamp, writes: Vec<(TableId, Vec<u8>)> },
}

/// What is known of a dependency; the window does not know how.
pub trait Standings {
    fn standing(&self, stamp: Stamp, timestamp: Timestamp) -> Standing;
}

impl Window {
    pub fn new() -> Window {
        Window {
            entries: Vec::with_capacity(1_024),
            free: Vec::new(),
            watches: Watches::default(),
            wanted: Vec::new(),
            stamps: Stamps::default(),
            bytes: 0,
        }
    }

    /// Whether one more transaction may be executed: entries, bytes and lag are bounded (DESIGN §4).
    /// The lag is that of our own shard: one that is down elsewhere must not stop us.
    pub fn has_room(&self, now: Timestamp, own: ShardId) -> bool {
        let lag = self.watches.lowest(own).map_or(0, |oldest| now.since(oldest));
        self.len() < WINDOW_ENTRIES_MAX && self.bytes < WINDOW_BYTES_MAX && lag < MAX_SPECULATION_NS
    }

    pub fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The dependencies of the writer of a version, while it is unstable.
    #[inline]
    pub fn unstable(&self, writer: Writer) -> Option<&Deps> {
        let entry = self.entries.get(place(writer))?;
        (entry.held && entry.generation == generation(writer)).then_some(&entry.deps)
    }

    /// A transaction that is still here: what a coordinator that is asked looks at.
    pub fn find(&self, txn: TxnId) -> Option<(Timestamp, &Deps, &[PartitionId])> {
        let entry = self.entries.iter().find(|entry| entry.held && entry.txn == txn)?;
        Some((entry.timestamp, &entry.deps, &entry.participants))
    }

    /// Takes a transaction in; `None` when its dependencies are stable already. None of them may be
    /// lost: the caller has looked.
    pub fn push<'a>(
        &mut self,
        new: Speculative<'_>,
        known: &impl Standings,
        writes: impl Iterator<Item = (TableId, &'a [u8])>,
    ) -> Option<Writer> {
        let (stamp, wanted) = match first_unstable(new.deps, known) {
            Found::Unstable(stamp, wanted) => (stamp, wanted),
            Found::None => return None,
            Found::Lost => panic!("transaction {:?} was pushed with a lost dependency", new.txn),
        };
        for (stamp, wanted) in new.deps.iter() {
            let at = usize::from(stamp.shard.0);
            if self.wanted.len() <= at {
                self.wanted.resize(at + 1, Timestamp::default());
            }
            self.wanted[at] = self.wanted[at].max(wanted);
            self.stamps.add(stamp);
        }
        let at = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry::vacant());
            self.entries.len() as u32 - 1
        });
        let entry = &mut self.entries[at as usize];
        entry.generation += 1;
        entry.held = true;
        (entry.txn, entry.timestamp, entry.token, entry.bytes) =
            (new.txn, new.timestamp, new.token, new.bytes);
        entry.deps.clone_from(new.deps);
        entry.participants.clear();
        entry.participants.extend_from_slice(new.participants);
        entry.keys.clear();
        for (table, key) in writes {
            entry.keys.extend_from_slice(&table.0.to_le_bytes());
            entry.keys.extend_from_slice(&(key.len() as u16).to_le_bytes());
            entry.keys.extend_from_slice(key);
        }
        self.bytes += new.bytes;
        let writer = u64::from(entry.generation) << 32 | u64::from(at);
        self.watches.watch(stamp, wanted, writer);
        Some(writer)
    }

    /// The watermark of a shard rose to `upto`: settles what waited for it and nothing else.
    pub fn on_watermark(
        &mut self,
        stamp: Stamp,
        upto: Timestamp,
        known: &impl Standings,
        out: &mut Vec<Settled>,
    ) {
        while let Some(writer) = self.watches.pop_reached(stamp, upto) {
            self.settle(writer, known, out);
        }
    }

    /// An epoch closed: every unstable transaction is looked at once (DESIGN §5, step 5).
    pub fn sweep(&mut self, known: &impl Standings, out: &mut Vec<Settled>) {
        let mut held: Vec<_> = self.watches.take_all().collect();
        held.sort_unstable_by_key(|writer| self.entries[place(*writer)].timestamp);
        for writer in held {
            self.settle(writer, known, out);
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

    /// The lowest timestamp of a transaction held here. Walks all of them.
    pub fn lowest_entry(&self) -> Option<Timestamp> {
        self.entries.iter().filter(|entry| entry.held).map(|entry| entry.timestamp).min()
    }

    /// How far each shard must get before everything here is durable. Monotone.
    pub fn wanted(&self) -> impl Iterator<Item = (ShardId, Timestamp)> {
        self.wanted.iter().enumerate().map(|(shard, wanted)| (ShardId(shard as u16), *wanted))
    }

    fn settle(&mut self, writer: Writer, known: &impl Standings, out: &mut Vec<Settled>) {
        let entry = &mut self.entries[place(writer)];
        assert!(entry.held && entry.generation == generation(writer), "a watched entry is held");
        let (token, timestamp) = (entry.token, entry.timestamp);
        out.push(match first_unstable(&entry.deps, known) {
            Found::Unstable(stamp, wanted) => return self.watches.watch(stamp, wanted, writer),
            Found::None => Settled::Released { token, timestamp },
            Found::Lost => Settled::Lost { token, timestamp, writes: written(&entry.keys) },
        });
        entry.held = false;
        self.bytes -= entry.bytes;
        self.free.push(place(writer) as u32);
    }
}

impl Default for Window {
    fn default() -> Window {
        Window::new()
    }
}

impl Entry {
    fn vacant() -> Entry {
        Entry {
            generation: 0,
            held: false,
            txn: TxnId::default(),
            timestamp: Timestamp::default(),
            deps: Deps::default(),
            participants: SmallVec::new(),
            token: None,
            bytes: 0,
            keys: Vec::new(),
        }
    }
}

fn place(writer: Writer) -> usize {
    (writer & 0xffff_ffff) as usize
}

fn generation(writer: Writer) -> u32 {
    (writer >> 32) as u32
}

fn written(mut keys: &[u8]) -> Vec<(TableId, Vec<u8>)> {
    let mut writes = Vec::new();
    while let [a, b, c, d, rest @ ..] = keys {
        let (key, left) = rest.split_at(usize::from(u16::from_le_bytes([*c, *d])));
        writes.push((TableId(u16::from_le_bytes([*a, *b])), key.to_vec()));
        keys = left;
    }
    writes
}

enum Found {
    None,
    Unstable(Stamp, Timestamp),
    Lost,
}

/// A lost dependency wins over an unstable one: it will not change any more.
fn first_unstable(deps: &Deps, known: &impl Standings) -> Found {
    let mut found = Found::None;
    for (stamp, timestamp) in deps.iter() {
        match known.standing(stamp, timestamp) {
            Standing::Stable => {}
            Standing::Lost => return Found::Lost,
            Standing::Unknown => found = Found::Unstable(stamp, timestamp),
        }
    }
    found
}

const _: () = assert!(crate::bounds::KEY_BYTES_MAX <= u16::MAX as usize);
const _: () = assert!(WINDOW_ENTRIES_MAX <= u32::MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Epoch;
    use std::cell::RefCell;

    /// Watermarks by shard, and final ones of shards whose epoch closed.
    #[derive(Default)]
    struct Known {
        upto: RefCell<[u64; 3]>,
        closed: RefCell<[Option<u64>; 3]>,
    }

    impl Standings for Known {
        fn standing(&self, stamp: Stamp, timestamp: Timestamp) -> Standing {
            let shard = usize::from(stamp.shard.0);
            match self.closed.borrow()[shard] {
                Some(end) if timestamp.0 <= end => Standing::Stable,
                Some(_) => Standing::Lost,
                None if timestamp.0 <= self.upto.borrow()[shard] => Standing::Stable,
                None => Standing::Unknown,
            }
        }
    }

    fn deps(of: &[(u16, u64)]) -> Deps {
        let mut deps = Deps::default();
        for (shard, timestamp) in of {
            deps.add(Stamp { shard: ShardId(*shard), epoch: Epoch(1) }, Timestamp(*timestamp)).unwrap();
        }
        deps
    }

    fn push(window: &mut Window, known: &Known, token: u64, of: &[(u16, u64)]) -> Option<Writer> {
        let timestamp = Timestamp(of[0].1);
        let (txn, token) = (TxnId::default(), Some(token));
        let entry = Speculative { txn, timestamp, deps: &deps(of), participants: &[], token, bytes: 10 };
        window.push(entry, known, [(TableId(2), b"key".as_slice())].into_iter())
    }

    fn advance(window: &mut Window, known: &Known, shard: u16, upto: u64) -> Vec<u64> {
        known.upto.borrow_mut()[usize::from(shard)] = upto;
        let mut out = Vec::new();
        let stamp = Stamp { shard: ShardId(shard), epoch: Epoch(1) };
        window.on_watermark(stamp, Timestamp(upto), known, &mut out);
        let token = |settled| match settled {
            Settled::Released { token, .. } => token.unwrap(),
            Settled::Lost { .. } => panic!("nothing is lost here"),
        };
        out.into_iter().map(token).collect()
    }

    /// Durable means every dependency: one of two shards is not enough, in whatever order they come.
    #[test]
    fn a_transaction_is_released_by_the_last_of_its_dependencies_and_not_before() {
        let (mut window, known) = (Window::new(), Known::default());
        push(&mut window, &known, 1, &[(0, 10), (1, 20)]);
        push(&mut window, &known, 2, &[(0, 11)]);
        push(&mut window, &known, 3, &[(0, 12), (2, 5)]);
        assert_eq!(advance(&mut window, &known, 0, 11), [2]);
        assert_eq!(advance(&mut window, &known, 1, 19), [0; 0]);
        assert_eq!(advance(&mut window, &known, 2, 5), [0; 0]);
        assert_eq!(advance(&mut window, &known, 0, 12), [3]);
        assert_eq!(advance(&mut window, &known, 1, 20), [1]);
        assert!(window.is_empty() && window.bytes() == 0);
        assert_eq!(push(&mut window, &known, 4, &[(0, 12)]), None);
    }

    /// A version must not inherit the dependencies of whoever uses its writer's place today.
    #[test]
    fn a_writer_that_is_gone_is_stable_though_its_place_is_taken() {
        let (mut window, known) = (Window::new(), Known::default());
        let old = push(&mut window, &known, 1, &[(0, 10)]).unwrap();
        assert!(window.unstable(old).is_some() && window.unstable(0).is_none());
        advance(&mut window, &known, 0, 10);
        let new = push(&mut window, &known, 2, &[(0, 11)]).unwrap();
        assert_eq!(place(old), place(new));
        assert!(window.unstable(old).is_none() && window.unstable(new).is_some());
    }

    #[test]
    fn a_sweep_loses_what_rests_above_the_final_watermark_and_names_its_keys() {
        let (mut window, known) = (Window::new(), Known::default());
        push(&mut window, &known, 1, &[(1, 10)]);
        push(&mut window, &known, 2, &[(0, 11), (1, 30)]);
        known.closed.borrow_mut()[1] = Some(10);
        let mut out = Vec::new();
        window.sweep(&known, &mut out);
        let writes = vec![(TableId(2), b"key".to_vec())];
        let lost = Settled::Lost { token: Some(2), timestamp: Timestamp(11), writes };
        assert_eq!(out, [Settled::Released { token: Some(1), timestamp: Timestamp(10) }, lost]);
        assert!(window.is_empty());
    }

    /// A shard that is down for an hour must not make the others `Busy`.
    #[test]
    fn entries_of_a_shard_that_is_down_take_no_room_from_the_others() {
        let (mut window, known) = (Window::new(), Known::default());
        push(&mut window, &known, 0, &[(1, 1)]);
        for at in 1..3 * WINDOW_ENTRIES_MAX as u64 {
            let now = Timestamp(at);
            assert!(window.has_room(now.plus_ns(MAX_SPECULATION_NS - 1), ShardId(0)));
            push(&mut window, &known, at, &[(0, at)]);
            assert_eq!(advance(&mut window, &known, 0, at), [at]);
        }
        assert_eq!(window.len(), 1);
        assert!(!window.has_room(Timestamp(1).plus_ns(MAX_SPECULATION_NS), ShardId(1)));
    }
}
