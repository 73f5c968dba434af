//! The tree against a map of maps, and the places where version chains and reminders are easiest
//! to get wrong.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use proptest::prelude::*;

use super::*;
use crate::bounds::CHAIN_VERSIONS_MAX;
use crate::types::{Prng, Value};

fn version(timestamp: u64, value: Option<&[u8]>) -> Version {
    Version { timestamp: Timestamp(timestamp), writer: timestamp ^ 7, value: value.map(Value::new) }
}

fn put(tree: &mut Tree, key: &[u8], timestamp: u64) -> bool {
    tree.put(key, version(timestamp, Some(b"value")))
}

fn delete(tree: &mut Tree, key: &[u8], timestamp: u64) -> bool {
    tree.put(key, version(timestamp, None))
}

fn newest(tree: &Tree, key: &[u8]) -> Option<u64> {
    tree.get(key).map(|version| version.timestamp.0)
}

fn at(tree: &Tree, key: &[u8], timestamp: u64) -> Result<Option<u64>, u64> {
    let read = tree.get_at(key, Timestamp(timestamp));
    read.map(|found| found.map(|version| version.timestamp.0)).map_err(|too_old| too_old.floor.0)
}

#[derive(Clone, Debug)]
enum Step {
    Put { key: usize, timestamp: u64, tombstone: bool },
    Unlink { key: usize, timestamp: u64 },
    Prune { floor: u64, budget: usize },
    Read { key: usize, timestamp: u64 },
    Scan { from: usize, to: Option<usize>, timestamp: u64, limit: usize },
}

type Row = (Vec<u8>, Version);
type Visit<'a> = dyn FnMut(&[u8], &Version) -> ControlFlow<()> + 'a;

/// All versions ever put and not unlinked. A tombstone at or below the floor is no version: whether
/// the tree still shows it depends on how much it has had time to prune.
#[derive(Default)]
struct Model {
    keys: BTreeMap<Vec<u8>, BTreeMap<u64, Version>>,
    floor: u64,
}

impl Model {
    fn seen(&self, version: &Version) -> bool {
        version.value.is_some() || version.timestamp.0 > self.floor
    }

    fn read(&self, key: &[u8], at: u64) -> Option<Version> {
        let found = self.keys.get(key)?.range(..=at).next_back()?.1;
        self.seen(found).then(|| found.clone())
    }

    fn rows(&self, from: &[u8], to: Option<&[u8]>, at: u64) -> Vec<Row> {
        let within = |key: &[u8]| from <= key && to.is_none_or(|to| key < to);
        let keys = self.keys.keys().filter(|key| within(key));
        keys.filter_map(|key| Some((key.clone(), self.read(key, at)?))).collect()
    }

    /// Whether the tree may have pruned the tombstone that hides such a version. The caller, who has
    /// applied everything up to the floor, never brings one.
    fn is_forgotten(&self, key: &[u8], timestamp: u64) -> bool {
        let hidden_by = self.keys.get(key).and_then(|versions| versions.range(..=self.floor).next_back());
        hidden_by.is_some_and(|(hider, version)| *hider >= timestamp && version.value.is_none())
    }

    /// Whether the tree takes a version it may be asked to take.
    fn takes(&self, key: &[u8], timestamp: u64) -> bool {
        let Some(versions) = self.keys.get(key) else { return true };
        let successor = versions.range(timestamp..).next();
        successor.is_none_or(|(successor, _)| *successor > timestamp && *successor > self.floor)
    }
}

/// Short and long keys, keys that are prefixes of others, keys that differ in trailing zeros.
fn key_pool() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let stem = prop::sample::select(vec![0usize, 0, 1, 8, 14, 15, 16, 17, 40, 1_020]);
    let byte = prop::sample::select(vec![0u8, 97, 255]);
    let end = prop::collection::vec(prop::sample::select(vec![0u8, 1, 97, 98, 255]), 0..=4);
    let key = (stem, byte, end).prop_map(|(length, byte, end)| [vec![byte; length], end].concat());
    prop::collection::vec(key, POOL)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (key, timestamp) = (0..POOL, 0..120u64);
    let budget = prop_oneof![0..4usize, Just(usize::MAX)];
    let step = prop_oneof![
        10 => (key.clone(), timestamp.clone(), prop::bool::weighted(0.3))
            .prop_map(|(key, timestamp, tombstone)| Step::Put { key, timestamp, tombstone }),
        3 => (key.clone(), timestamp.clone()).prop_map(|(key, timestamp)| Step::Unlink { key, timestamp }),
        1 => (timestamp.clone(), budget).prop_map(|(floor, budget)| Step::Prune { floor, budget }),
        3 => (key.clone(), timestamp.clone()).prop_map(|(key, timestamp)| Step::Read { key, timestamp }),
        1 => (key.clone(), prop::option::of(key), timestamp, 1..400usize)
            .prop_map(|(from, to, timestamp, limit)| Step::Scan { from, to, timestamp, limit }),
    ];
    prop::collection::vec(step, 1..1_200)
}

/// Steps move slowly up in time, so that late versions, rollbacks and the floor meet in the middle.
fn drift(step_number: usize, timestamp: u64) -> u64 {
    timestamp + step_number as u64 / 8
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Everything the rest of the system believes about reads, at the newest state and in the past.
    #[test]
    fn the_tree_reads_as_a_map_of_maps(pool in key_pool(), steps in steps()) {
        let (mut tree, mut model) = (Tree::new(), Model::default());
        for (number, step) in steps.into_iter().enumerate() {
            run(&mut tree, &mut model, &pool, number, step)?;
            if number % 8 == 0 {
                tree.assert_invariants();
            }
        }
        tree.assert_invariants();
        check_rows(&tree, &model, b"", None, u64::MAX, usize::MAX)?;

        for key in model.keys.keys() {
            delete(&mut tree, key, u64::MAX);
        }
        tree.prune(Timestamp(u64::MAX), usize::MAX);
        tree.assert_invariants();
        prop_assert_eq!((tree.len(), tree.bytes()), (0, Tree::new().bytes()));
    }
}

fn run(
    tree: &mut Tree,
    model: &mut Model,
    pool: &[Vec<u8>],
    number: usize,
    step: Step,
) -> Result<(), TestCaseError> {
    match step {
        Step::Put { key, timestamp, tombstone } => {
            let (key, timestamp) = (&pool[key], drift(number, timestamp));
            if model.is_forgotten(key, timestamp) {
                return Ok(());
            }
            let version = version(timestamp, (!tombstone).then_some(&key[..key.len() / 2]));
            let takes = model.takes(key, timestamp);
            // Every other version is put by way of a lookup, as after a read.
            let found = tree.find(key).map(|(found, _)| found).filter(|_| timestamp % 2 == 0);
            let put = match found {
                Some(found) => tree.put_found(found, key, version.clone()),
                None => tree.put(key, version.clone()),
            };
            prop_assert_eq!(put, takes);
            if takes {
                model.keys.entry(key.clone()).or_default().insert(timestamp, version);
            }
        }
        Step::Unlink { key, timestamp } => {
            let (key, timestamp) = (&pool[key], drift(number, timestamp));
            if timestamp <= model.floor {
                return Ok(());
            }
            let versions = model.keys.get_mut(key);
            let there = versions.is_some_and(|versions| versions.remove(&timestamp).is_some());
            prop_assert_eq!(tree.unlink(key, Timestamp(timestamp)), there);
            if model.keys.get(key).is_some_and(BTreeMap::is_empty) {
                model.keys.remove(key);
            }
        }
        Step::Prune { floor, budget } => {
            let floor = drift(number, floor);
            model.floor = model.floor.max(floor);
            tree.prune(Timestamp(floor), budget);
            prop_assert_eq!(tree.floor(), Timestamp(model.floor));
        }
        Step::Read { key, timestamp } => {
            let (key, at) = (&pool[key], drift(number, timestamp));
            let seen = |found: Option<&Version>| found.filter(|version| model.seen(version)).cloned();
            prop_assert_eq!(seen(tree.get(key)), model.read(key, u64::MAX));
            match tree.get_at(key, Timestamp(at)) {
                Ok(found) => prop_assert_eq!((seen(found), at >= model.floor), (model.read(key, at), true)),
                Err(SnapshotTooOld { floor }) => prop_assert!(at < model.floor && floor.0 == model.floor),
            }
        }
        Step::Scan { from, to, timestamp, limit } => {
            let (from, to) = (&pool[from], to.map(|to| &pool[to][..]));
            check_rows(tree, model, from, to, drift(number, timestamp), limit)?;
        }
    }
    Ok(())
}

/// The four scans, each stopped after `limit` rows.
fn check_rows(
    tree: &Tree,
    model: &Model,
    from: &[u8],
    to: Option<&[u8]>,
    at: u64,
    limit: usize,
) -> Result<(), TestCaseError> {
    let collect = |scan: &mut dyn FnMut(&mut Visit<'_>) -> bool| {
        let mut rows: Vec<Row> = Vec::new();
        let answered = scan(&mut |key, version| {
            if model.seen(version) {
                rows.push((key.to_vec(), version.clone()));
            }
            if rows.len() == limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        answered.then_some(rows)
    };
    let expect = |at: u64, back: bool| {
        let mut rows = model.rows(from, to, at);
        if back {
            rows.reverse();
        }
        rows.truncate(limit);
        rows
    };
    let in_time = |at: u64, back: bool| (at >= model.floor).then(|| expect(at, back));
    let when = Timestamp(at);
    prop_assert_eq!(
        collect(&mut |visit| {
            tree.scan(from, to, visit);
            true
        }),
        Some(expect(u64::MAX, false))
    );
    prop_assert_eq!(
        collect(&mut |visit| {
            tree.rscan(from, to, visit);
            true
        }),
        Some(expect(u64::MAX, true))
    );
    prop_assert_eq!(collect(&mut |visit| tree.scan_at(from, to, when, visit).is_ok()), in_time(at, false));
    prop_assert_eq!(collect(&mut |visit| tree.rscan_at(from, to, when, visit).is_ok()), in_time(at, true));
    Ok(())
}

/// TPC-C's new-order table: each district appends orders and delivers its oldest, for ever. Nodes
/// left behind, or leaves left half empty, would grow without end.
#[test]
fn a_table_of_queues_stays_as_large_as_what_it_holds() {
    let (mut tree, mut random) = (Tree::new(), Prng::with_seed(7));
    let key = |district: u32, order: u32| [district.to_be_bytes(), order.to_be_bytes()].concat();
    let mut queues = [(0u32, 0u32); 20];
    let (mut now, mut bytes_max_early, mut bytes_max_late) = (0, 0, 0);
    for turn in 0..200_000 {
        let district = random.usize(..queues.len());
        let (first, next) = &mut queues[district];
        now += 1;
        if *next - *first < 300 {
            assert!(put(&mut tree, &key(district as u32, *next), now));
            *next += 1;
        } else {
            assert!(delete(&mut tree, &key(district as u32, *first), now));
            *first += 1;
        }
        tree.prune(Timestamp(now.saturating_sub(100)), 4);
        let bytes_max = if turn < 50_000 { &mut bytes_max_early } else { &mut bytes_max_late };
        *bytes_max = tree.bytes().max(*bytes_max);
    }
    tree.assert_invariants();
    assert!(tree.len() < 20 * 301 + 101, "{} records", tree.len());
    assert!(bytes_max_late <= bytes_max_early + bytes_max_early / 20);
}

/// Half-full leaves would double the memory of every table that is loaded in order.
#[test]
fn ascending_insertions_leave_full_nodes_behind() {
    let records = 50_000;
    let (mut one, mut many) = (Tree::new(), Tree::new());
    for order in 0..records as u32 {
        put(&mut one, &order.to_be_bytes(), 1);
        let district = order % 10;
        put(&mut many, &[district.to_be_bytes(), order.to_be_bytes()].concat(), 1);
    }
    let packed = records * size_of::<Leaf<LEAF_KEYS>>() / LEAF_KEYS;
    assert!(one.keys.bytes() < packed + packed / 20, "{} of {packed}", one.keys.bytes());
    assert!(many.keys.bytes() < packed + packed / 8, "{} of {packed}", many.keys.bytes());
}

/// Deletions at random empty few leaves. If only empty ones were freed, a table that shrank would
/// keep the memory of its largest day.
#[test]
fn a_table_thinned_out_gives_back_its_nodes() {
    let mut tree = Tree::new();
    for number in 0..50_000u32 {
        put(&mut tree, &number.to_be_bytes(), 1);
    }
    let full = tree.keys.bytes();
    for number in (0..50_000u32).filter(|number| !number.is_multiple_of(30)) {
        delete(&mut tree, &number.to_be_bytes(), 2);
    }
    tree.prune(Timestamp(2), usize::MAX);
    tree.assert_invariants();
    assert!(tree.keys.bytes() < full / 8, "{} of {full}", tree.keys.bytes());
}

/// A hot row while another shard holds the floor back: the chain is cut, and a read in the part cut
/// off must be refused, not answered with a version that was not there then.
#[test]
fn a_chain_past_its_bound_refuses_what_it_no_longer_knows() {
    let mut tree = Tree::new();
    let last = CHAIN_VERSIONS_MAX as u64 + 100;
    for timestamp in 1..=last {
        assert!(put(&mut tree, b"hot", timestamp * 2));
    }
    put(&mut tree, b"cold", 2);
    let cut = (last - CHAIN_VERSIONS_MAX as u64) * 2;
    assert_eq!(at(&tree, b"hot", cut - 1), Err(cut));
    assert_eq!(at(&tree, b"hot", cut), Ok(Some(cut)));
    assert_eq!(at(&tree, b"hot", cut + 1), Ok(Some(cut)));
    assert_eq!(at(&tree, b"cold", 2), Ok(Some(2)));
    let refused = tree.scan_at(b"", None, Timestamp(2), |_, _| ControlFlow::Continue(()));
    assert_eq!(refused, Err(SnapshotTooOld { floor: Timestamp(cut) }));

    // What sorts in at the end of a full chain is not kept, and what sorts in above that cuts it.
    assert!(!put(&mut tree, b"hot", cut - 1));
    assert_eq!(at(&tree, b"hot", cut), Ok(Some(cut)));
    assert!(put(&mut tree, b"hot", cut + 1));
    assert_eq!((at(&tree, b"hot", cut), at(&tree, b"hot", cut + 1)), (Err(cut + 1), Ok(Some(cut + 1))));
    tree.assert_invariants();
    tree.prune(Timestamp(u64::MAX), usize::MAX);
    assert_eq!(at(&tree, b"hot", u64::MAX), Ok(Some(last * 2)));
    tree.assert_invariants();
}

/// Every transaction of a full window may have written one row, and all may be lost.
#[test]
fn a_window_of_writes_to_one_row_can_be_rolled_back() {
    let mut tree = Tree::new();
    put(&mut tree, b"hot", 1);
    let window = 2..2 + crate::bounds::WINDOW_ENTRIES_MAX as u64;
    assert!(window.clone().all(|timestamp| put(&mut tree, b"hot", timestamp)));
    assert!(window.rev().all(|timestamp| tree.unlink(b"hot", Timestamp(timestamp))));
    assert_eq!(newest(&tree, b"hot"), Some(1));
    tree.assert_invariants();
}

/// The version that sorts in late supersedes nothing and was announced by nothing: without a
/// reminder of its own it would stay for ever.
#[test]
fn a_version_that_sorts_in_below_the_newest_is_freed_in_time() {
    let mut tree = Tree::new();
    put(&mut tree, b"k", 10);
    let bytes = tree.bytes();
    assert!(put(&mut tree, b"k", 5));
    assert_eq!((at(&tree, b"k", 4), at(&tree, b"k", 9)), (Ok(None), Ok(Some(5))));
    tree.prune(Timestamp(9), usize::MAX);
    assert_eq!(at(&tree, b"k", 9), Ok(Some(5)));
    tree.prune(Timestamp(10), usize::MAX);
    assert_eq!(tree.bytes(), bytes);
    assert!(!put(&mut tree, b"k", 5), "no read can see it any more");
    assert_eq!(tree.bytes(), bytes);
}

/// The reminder of a record that was rolled back must not touch the one that took its slot.
#[test]
fn a_reminder_outlived_by_its_record_spares_the_next_one() {
    let mut tree = Tree::new();
    put(&mut tree, b"old", 1);
    put(&mut tree, b"old", 2);
    assert!(tree.unlink(b"old", Timestamp(2)) && tree.unlink(b"old", Timestamp(1)));
    put(&mut tree, b"new", 3);
    put(&mut tree, b"new", 9);
    tree.prune(Timestamp(5), usize::MAX);
    assert_eq!((newest(&tree, b"old"), at(&tree, b"new", 5)), (None, Ok(Some(3))));
    tree.assert_invariants();
}

/// While the tombstone was superseded its reminder went by. The rollback makes it the newest again,
/// and nobody else will ever remove the record.
#[test]
fn a_tombstone_uncovered_by_a_rollback_is_pruned() {
    let mut tree = Tree::new();
    put(&mut tree, b"k", 1);
    delete(&mut tree, b"k", 2);
    put(&mut tree, b"k", 9);
    tree.prune(Timestamp(5), usize::MAX);
    assert_eq!(tree.len(), 1);
    assert!(tree.unlink(b"k", Timestamp(9)));
    tree.prune(Timestamp(6), usize::MAX);
    assert_eq!(tree.len(), 0);
    tree.prune(Timestamp(9), usize::MAX);
    assert_eq!(tree.bytes(), Tree::new().bytes(), "the reminder of the lost version is gone as well");
}

/// The floor may jump by an hour when a shard comes back; freeing what that releases must not stop
/// the core.
#[test]
fn pruning_does_no_more_than_its_budget_and_finishes_later() {
    let mut tree = Tree::new();
    for timestamp in 1..=1_000 {
        put(&mut tree, b"hot", timestamp);
    }
    let idle = tree.bytes();
    tree.prune(Timestamp(1_000), 10);
    assert!(tree.bytes() > idle / 2);
    assert_eq!((at(&tree, b"hot", 999), at(&tree, b"hot", 1_000)), (Err(1_000), Ok(Some(1_000))));
    let turns = (1..).find(|_| {
        tree.prune(Timestamp(0), 10);
        tree.assert_invariants();
        tree.garbage.bytes() == 0
    });
    assert!(turns.is_some_and(|turns| (100..=200).contains(&turns)), "{turns:?}");
    let mut fresh = Tree::new();
    put(&mut fresh, b"hot", 1_000);
    assert_eq!(tree.bytes(), fresh.bytes());
}

/// Replay after a restart repeats entries that a checkpoint already holds.
#[test]
fn a_version_put_twice_is_put_once() {
    let mut tree = Tree::new();
    assert!(put(&mut tree, b"k", 5) && put(&mut tree, b"k", 7));
    assert!(!delete(&mut tree, b"k", 5) && !delete(&mut tree, b"k", 7));
    assert!(tree.get(b"k").is_some_and(|version| version.value.is_some()));
    assert!(tree.unlink(b"k", Timestamp(7)) && !tree.unlink(b"k", Timestamp(7)));
    assert_eq!(newest(&tree, b"k"), Some(5));
    assert!(tree.unlink(b"k", Timestamp(5)) && !tree.unlink(b"k", Timestamp(5)));
    assert_eq!((newest(&tree, b"k"), tree.len()), (None, 0));
}

/// A write would land in the row of another key, which took the slot of the one that was read.
#[test]
fn a_record_that_is_gone_is_recognised_and_its_key_put_anew() {
    let mut tree = Tree::new();
    put(&mut tree, b"old", 1);
    let (old, _) = tree.find(b"old").unwrap();
    assert!(tree.unlink(b"old", Timestamp(1)) && put(&mut tree, b"new", 2));
    assert_eq!((tree.newest(old), tree.find(b"old")), (None, None));
    assert!(tree.put_found(old, b"old", version(3, None)));
    assert_eq!((newest(&tree, b"old"), newest(&tree, b"new")), (Some(3), Some(2)));
    tree.assert_invariants();
}

/// What a probe finds is read without a lookup: were it another record, nobody would notice.
#[test]
fn a_probe_ends_where_a_lookup_does() {
    let mut tree = Tree::new();
    let key = |number: u32| [&number.to_be_bytes()[..], &b"abcdefghijkl"[..number as usize % 13]].concat();
    for number in (0..5_000).filter(|number| number % 3 > 0) {
        put(&mut tree, &key(number), u64::from(number) + 1);
    }
    for number in 0..5_000 {
        let short = ShortKey::new(&key(number)).unwrap();
        let probe = (0..Probe::STEPS).fold(Probe::default(), |probe, _| tree.step(probe, &short));
        let expected = tree.find(&key(number)).map_or(Probe::Absent, |(found, _)| Probe::Found(found));
        assert_eq!(probe, expected, "{number}");
        assert_eq!(probe == Probe::Absent, number % 3 == 0);
    }
    assert_eq!(ShortKey::new(&[0; 17]), None);
}

#[test]
#[should_panic(expected = "a key of 1025 bytes")]
fn a_key_longer_than_the_bound_is_not_put() {
    put(&mut Tree::new(), &[0; KEY_BYTES_MAX + 1], 1);
}

/// A scan continues behind a row by asking from that key with a zero appended, which may be a byte
/// longer than any key.
#[test]
fn bounds_longer_than_any_key_are_understood() {
    let mut tree = Tree::new();
    put(&mut tree, &[9; KEY_BYTES_MAX], 1);
    let behind = [&[9; KEY_BYTES_MAX][..], &[0]].concat();
    let count = |from: &[u8], to: Option<&[u8]>| {
        let mut rows = 0;
        tree.scan(from, to, |_, _| {
            rows += 1;
            ControlFlow::Continue(())
        });
        rows
    };
    assert_eq!((count(&behind, None), count(b"", Some(&behind))), (0, 1));
    assert!(tree.get(&behind).is_none());
}

/// Keys a model run draws from: enough for a few leaves, few enough to meet again.
const POOL: usize = 160;
