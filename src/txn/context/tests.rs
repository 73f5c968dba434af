//! Scans that a transaction makes over its own writes, against an ordered map that has both.
#![forbid(unsafe_code)]

use super::*;
use crate::config::{LocalCluster, Routing, Table};
use crate::types::ShardId;
use proptest::prelude::*;
use std::collections::BTreeMap;

const T: TableId = TableId(0);
const HOME: PartitionId = PartitionId(0);

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// One range, as a test asks for it.
#[derive(Clone, Debug)]
struct Range {
    from: Vec<u8>,
    to: Option<Vec<u8>>,
    limit: usize,
    reverse: bool,
}

impl Range {
    fn span(&self) -> Span<'_> {
        let Range { from, to, limit, reverse } = self;
        Span { table: T, from, to: to.as_deref(), limit: *limit, reverse: *reverse }
    }

    fn of(&self, model: &Model) -> Vec<(Vec<u8>, Vec<u8>)> {
        let inside = |key: &Vec<u8>| *key >= self.from && self.to.as_ref().is_none_or(|to| key < to);
        let rows =
            model.iter().filter(|(key, _)| inside(key)).map(|(key, value)| (key.clone(), value.clone()));
        match self.reverse {
            false => rows.take(self.limit).collect(),
            true => rows.rev().take(self.limit).collect(),
        }
    }
}

/// A transaction at home in the first of so many partitions.
fn context(partitions: usize) -> Rc<Context> {
    let tables = vec![Table { name: "t".to_string(), routing: Routing::Key }];
    let flags = LocalCluster { shards: 1, replicas: 1, partitions, tables, ..LocalCluster::default() };
    let config = Rc::new(Config::local(&flags).unwrap());
    Context::new(HOME, config, Rc::new(RefCell::new(Store::new(ShardId(0), 1))))
}

/// Stores what belongs to the home partition.
fn fill(context: &Context, stored: &Model) {
    for (at, (key, value)) in (1..).zip(stored) {
        if context.config.route(T, key) == Route::One(HOME) {
            context.store.borrow_mut().replay(Timestamp(at), [(T, &key[..], Some(&value[..]))].into_iter());
        }
    }
}

fn own_writes(context: &Context, model: &mut Model, writes: &[(Vec<u8>, Option<Vec<u8>>)]) {
    for (key, value) in writes {
        context.write(T, key, value.as_deref()).unwrap();
        match value {
            Some(value) => model.insert(key.clone(), value.clone()),
            None => model.remove(key),
        };
    }
}

fn listed(rows: &Rows) -> Vec<(Vec<u8>, Vec<u8>)> {
    rows.iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
}

/// Answers every question of a scan as the partitions would: each with its first rows, up to the limit.
fn answer_scans(context: &Context, stored: &Model) {
    let run = &mut *context.run.borrow_mut();
    let questions = std::mem::take(&mut run.unsent);
    for at in questions {
        let Remote { partition, question: Question::Scan(asked), .. } = &run.remote[at as usize] else {
            panic!("only scans are asked here");
        };
        let here = stored.iter().filter(|(key, _)| context.config.route(T, key) == Route::One(*partition));
        let here: Model = here.map(|(key, value)| (key.clone(), value.clone())).collect();
        let (from, to) = (asked.from.to_vec(), asked.to.as_ref().map(|to| to.to_vec()));
        let range = Range { from, to, limit: asked.limit as usize, reverse: asked.reverse };
        let found = range.of(&here);
        let complete = found.len() < range.limit;
        let rows = Rows::copied(found.iter().map(|(key, value)| (&key[..], &value[..])));
        run.on_scan(at, 0, rows, complete, &Deps::default());
    }
}

/// Keys close together, so that ranges, writes and rows meet.
fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(0_u8..4, 0..3)
}

fn range() -> impl Strategy<Value = Range> {
    (key(), prop::option::of(key()), 0..12_usize, any::<bool>())
        .prop_map(|(from, to, limit, reverse)| Range { from, to, limit, reverse })
}

fn rows() -> impl Strategy<Value = Model> {
    prop::collection::btree_map(key(), prop::collection::vec(any::<u8>(), 1..3), 0..16)
}

fn writes() -> impl Strategy<Value = Vec<(Vec<u8>, Option<Vec<u8>>)>> {
    prop::collection::vec((key(), prop::option::of(prop::collection::vec(any::<u8>(), 0..3))), 0..10)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// A row too many is a deleted one read; a row too few ends a loop over pages early.
    #[test]
    fn a_scan_at_home_sees_the_rows_under_the_transactions_own_writes(
        stored in rows(), writes in writes(), ranges in prop::collection::vec(range(), 1..4), distributed: bool,
    ) {
        let context = context(1);
        fill(&context, &stored);
        let mode = if distributed { RunMode::Distributed } else { RunMode::Local };
        context.run.borrow_mut().reset(mode);
        let mut model = stored;
        own_writes(&context, &mut model, &writes);
        for range in &ranges {
            let Ok(Fetched::Now(rows)) = context.scan(range.span()) else { panic!("all of it is at home") };
            prop_assert_eq!(listed(&rows), range.of(&model), "{:?}", range);
        }
        prop_assert_eq!(context.run.borrow().scans.len(), if distributed { ranges.len() } else { 0 });
    }

    /// The same over three partitions, each of which stops at the limit on its own.
    #[test]
    fn a_scan_over_partitions_is_one_scan_in_the_order_of_keys(
        stored in rows(), writes in writes(), ranges in prop::collection::vec(range(), 1..4),
    ) {
        let context = context(3);
        fill(&context, &stored);
        context.run.borrow_mut().reset(RunMode::Distributed);
        let mut model = stored.clone();
        own_writes(&context, &mut model, &writes);
        let mut places_asked = 0;
        for range in &ranges {
            match context.scan(range.span()).unwrap() {
                Fetched::Now(rows) => prop_assert_eq!(listed(&rows), range.of(&model), "{:?}", range),
                Fetched::Later(places) => {
                    answer_scans(&context, &stored);
                    prop_assert_eq!(listed(&context.take_scan(&places, range.span()).unwrap()), range.of(&model), "{:?}", range);
                    places_asked += places.len();
                }
            }
        }
        prop_assert!(context.run.borrow().scans.len() >= places_asked);
    }
}

/// The engine runs the procedure again; whatever it does until it ends must not count.
#[test]
fn an_interrupted_run_does_nothing_more() {
    let context = context(3);
    let elsewhere =
        (0_u8..).map(|n| [n]).find(|key| context.config.route(T, key) != Route::One(HOME)).unwrap();
    let here = (0_u8..).map(|n| [n]).find(|key| context.config.route(T, key) == Route::One(HOME)).unwrap();
    context.run.borrow_mut().reset(RunMode::Local);
    context.write(T, &here, Some(b"v")).unwrap();
    assert_eq!(context.write(T, &elsewhere, Some(b"v")), Err(Abort::Interrupted));
    assert_eq!(context.write(T, &here, None), Err(Abort::Interrupted));
    assert_eq!(context.get(T, &here).err(), Some(Abort::Interrupted));
    context.prefetch(T, &elsewhere);
    let run = context.run.borrow();
    assert_eq!((run.halt, run.writes.len(), run.remote.len()), (Some(Halt::Remote), 1, 0));
}

/// Asked twice, a remote key would be paid for twice, and answered by two versions.
#[test]
fn a_remote_key_is_asked_for_once_and_its_answer_serves_every_read() {
    let context = context(3);
    let key = (0_u8..).map(|n| [n]).find(|key| context.config.route(T, key) != Route::One(HOME)).unwrap();
    context.run.borrow_mut().reset(RunMode::Distributed);
    context.prefetch(T, &key);
    for _ in 0..2 {
        let Ok(Fetched::Later(places)) = context.get(T, &key) else { panic!("it is elsewhere") };
        assert_eq!(places[..], [0]);
        context.run.borrow_mut().on_read(T, &key, Timestamp(5), Some(Value::new(b"v")), &Deps::default());
        assert_eq!(context.take_read(0).unwrap().unwrap()[..], b"v"[..]);
        context.run.borrow_mut().on_read(T, &key, Timestamp(6), None, &Deps::default());
    }
    let run = context.run.borrow();
    assert_eq!((run.unsent.len(), run.remote.len()), (1, 1));
    assert!(run.reads.iter().all(|read| read.version == Timestamp(5) && !read.absent));
}

/// A prepare that no message could carry would be noticed only when it is encoded.
#[test]
fn reads_and_scans_of_a_distributed_run_are_bounded() {
    let context = context(3);
    let home = |key: &Vec<u8>| context.config.route(T, key) == Route::One(HOME);
    let key_of = |n: u32| [&n.to_be_bytes()[..], &[7; crate::bounds::KEY_BYTES_MAX - 4]].concat();
    let keys: Vec<Vec<u8>> = (0..).map(key_of).filter(home).take(2_049).collect();
    context.run.borrow_mut().reset(RunMode::Distributed);
    let read = |key: &Vec<u8>| context.get(T, key).map(drop);
    assert!(keys[..2_048].iter().all(|key| read(key).is_ok()));
    let too_big = |what, bound| {
        Err(Abort::TooBig { what, size: bound + if what == "number of scans" { 1 } else { 1_024 }, bound })
    };
    assert_eq!(read(&keys[2_048]), too_big("keys of reads", PREPARE_READ_BYTES_MAX));

    let end = |key: &[u8]| super::super::locks::successor(key);
    let scan = |key: &Vec<u8>| {
        let to = end(&key[..8]);
        context.scan(Span { table: T, from: &key[..8], to: Some(&to), limit: 1, reverse: false }).map(drop)
    };
    let short: Vec<Vec<u8>> =
        (0..).map(|n: u64| n.to_be_bytes().to_vec()).filter(home).take(TXN_SCANS_MAX + 1).collect();
    assert!(short[..TXN_SCANS_MAX].iter().all(|key| scan(key).is_ok()));
    assert_eq!(scan(&short[TXN_SCANS_MAX]), too_big("number of scans", TXN_SCANS_MAX));
}
