//! Minima and standings are tables of text under `testdata/watermark/`; the rest is told here.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::*;
use crate::bounds::{CLOSED_EPOCHS_MAX, EXCHANGE_IDLE_NS, EXCHANGE_INTERVAL_NS, SHARDS_MAX};
use crate::types::{Epoch, Prng, ShardId, Stamp, Standing, Timestamp, Watermark};

const SHARD: ShardId = ShardId(0);

fn stamp(shard: u16, epoch: u64) -> Stamp {
    Stamp { shard: ShardId(shard), epoch: Epoch(epoch) }
}

fn mark(epoch: u64, timestamp: u64) -> Watermark {
    Watermark { epoch: Epoch(epoch), timestamp: Timestamp(timestamp) }
}

/// The lines that say something, with their numbers.
fn lines(table: &str) -> impl Iterator<Item = (usize, &str)> {
    let numbered = (1..).zip(table.lines().map(str::trim));
    numbered.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

/// `3@10`
fn parse(text: &str) -> Watermark {
    let (epoch, timestamp) = text.split_once('@').expect(text);
    mark(epoch.parse().expect(text), timestamp.parse().expect(text))
}

fn show(mark: Watermark) -> String {
    format!("{}@{}", mark.epoch.0, mark.timestamp.0)
}

/// Too high a minimum acknowledges what a failure can still take back.
#[test]
fn the_watermark_of_a_shard_is_the_least_of_its_streams() {
    let mut rows = 0;
    for (number, line) in lines(include_str!("../../testdata/watermark/minima.txt")) {
        let (streams, expected) = line.split_once('=').expect("streams = minimum");
        let claim = shard_watermark(streams.split_whitespace().map(parse));
        assert_eq!(claim.map_or("none".into(), show), expected.trim(), "line {number}: {line}");
        rows += 1;
    }
    assert_eq!(rows, 17);
}

/// A snapshot above the watermark of any shard could show what is rolled back later.
#[test]
fn a_snapshot_is_cut_at_the_slowest_shard() {
    let mut rows = 0;
    for (number, line) in lines(include_str!("../../testdata/watermark/snapshots.txt")) {
        let (marks, expected) = line.split_once('=').expect("marks = snapshot");
        let marks: Vec<Watermark> = marks.split_whitespace().map(parse).collect();
        let mut vector = Vector::new(marks.len());
        for (shard, mark) in marks.iter().enumerate() {
            vector.advance(ShardId(shard as u16), *mark);
        }
        let shown = vector.snapshot().map_or("none".into(), |(timestamp, epochs)| {
            let epochs: Vec<String> = epochs.map(|(_, epoch)| epoch.0.to_string()).collect();
            format!("{timestamp:?} in {}", epochs.join(" "))
        });
        assert_eq!(shown, expected.trim(), "line {number}: {line}");
        rows += 1;
    }
    assert_eq!(rows, 9);
}

/// One step too far in either direction, and a durable transaction is lost or a lost one is durable.
#[test]
fn a_dependency_stands_as_the_table_says() {
    let mut knowledge = Knowledge::new(1);
    let mut rows = 0;
    for (number, line) in lines(include_str!("../../testdata/watermark/standings.txt")) {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words[0] == "know" {
            knowledge = Knowledge::new(1);
            for fact in words[1..].chunks(2) {
                let learnt = parse(fact[1]);
                let news = match fact[0] {
                    "vector" => knowledge.learn_vector(SHARD, learnt),
                    "closed" => knowledge.learn_closed(stamp(0, learnt.epoch.0), learnt.timestamp),
                    other => panic!("line {number}: {other}"),
                };
                assert!(news, "line {number}: {fact:?}");
            }
            continue;
        }
        let dependency = parse(words[0]);
        let standing = knowledge.standing(stamp(0, dependency.epoch.0), dependency.timestamp);
        assert_eq!(format!("{standing:?}").to_lowercase(), words[1], "line {number}: {line}");
        rows += 1;
    }
    assert_eq!(rows, 28);
}

/// Messages come late, twice and out of order, from nodes that know less: none may take anything back.
#[test]
fn a_vector_only_grows_whatever_the_order_of_messages() {
    for seed in 0..200 {
        let mut prng = Prng::with_seed(seed);
        let mut heard: Vec<(ShardId, Watermark)> =
            (0..40).map(|_| (ShardId(prng.u16(0..3)), mark(prng.u64(1..4), prng.u64(0..20)))).collect();
        let (mut one, mut other) = (Vector::new(3), Vector::new(3));
        for (shard, mark) in &heard {
            let before = one.get(*shard);
            assert_eq!(one.advance(*shard, *mark), *mark > before);
            assert_eq!(one.get(*shard), before.max(*mark));
        }
        prng.shuffle(&mut heard);
        heard.iter().for_each(|(shard, mark)| _ = other.advance(*shard, *mark));
        assert_eq!(one, other);
        assert!(!one.merge(&other));
        assert!(Vector::new(3).merge(&one));
    }
}

/// News of one shard must not be missed because the next shard has none.
#[test]
fn a_merge_takes_the_greater_of_each_shard_and_tells_of_any_news() {
    let vector = |marks: [Watermark; 2]| {
        let mut vector = Vector::new(2);
        vector.advance(ShardId(0), marks[0]);
        vector.advance(ShardId(1), marks[1]);
        vector
    };
    let mut merged = vector([mark(1, 10), mark(5, 1)]);
    assert!(merged.merge(&vector([mark(2, 1), mark(4, 99)])));
    assert_eq!(merged, vector([mark(2, 1), mark(5, 1)]));
    assert!(!merged.merge(&vector([mark(1, 99), mark(5, 0)])));
}

/// A shard number from a peer's message is not to be trusted, whatever it is.
#[test]
fn of_a_shard_the_cluster_does_not_have_nothing_is_known() {
    let mut knowledge = Knowledge::new(2);
    let nowhere = stamp(2, 1);
    assert!(!knowledge.learn_vector(nowhere.shard, mark(1, 10)));
    assert!(!knowledge.learn_closed(nowhere, Timestamp(10)));
    assert!(!knowledge.learn_closed(stamp(0, 0), Timestamp(10)), "epoch 0 is none, so it cannot have closed");
    assert_eq!(knowledge.standing(nowhere, Timestamp(1)), Standing::Unknown);
    assert!(!knowledge.knows_opening(nowhere));
    assert_eq!(knowledge, Knowledge::new(2));
}

/// One lost dependency dooms a transaction; one that is not stable holds it back. Without any, as for a
/// transaction that read nothing unstable and wrote nothing, there is nothing to wait for.
#[test]
fn any_loss_dooms_and_only_all_release() {
    let mut knowledge = Knowledge::new(3);
    knowledge.learn_vector(ShardId(0), mark(1, 10));
    knowledge.learn_closed(stamp(1, 1), Timestamp(5));
    let (stable, lost, unknown) =
        ((stamp(0, 1), Timestamp(10)), (stamp(1, 1), Timestamp(6)), (stamp(2, 1), Timestamp(1)));
    type Deps<'a> = &'a [(Stamp, Timestamp)];
    let cases: [(Deps, bool, bool); 6] = [
        (&[], false, true),
        (&[stable], false, true),
        (&[stable, unknown], false, false),
        (&[unknown, stable], false, false),
        (&[stable, unknown, lost], true, false),
        (&[lost, stable], true, false),
    ];
    for (deps, is_lost, is_stable) in cases {
        assert_eq!(knowledge.lost(deps.iter().copied()), is_lost, "{deps:?}");
        assert_eq!(knowledge.stable(deps.iter().copied()), is_stable, "{deps:?}");
    }
}

/// A snapshot token of a later epoch must not be served here before what the earlier ones lost is gone.
#[test]
fn an_opening_is_known_from_a_watermark_in_its_epoch_or_later() {
    let mut knowledge = Knowledge::new(1);
    assert!(!knowledge.knows_opening(stamp(0, 1)));
    knowledge.learn_closed(stamp(0, 1), Timestamp(5));
    assert!(!knowledge.knows_opening(stamp(0, 1)), "that it closed does not tell how those before it did");
    knowledge.learn_vector(SHARD, mark(2, 0));
    assert!(knowledge.knows_opening(stamp(0, 1)) && knowledge.knows_opening(stamp(0, 2)));
    assert!(!knowledge.knows_opening(stamp(0, 3)));
}

/// A standing, once given, was acted upon: replies left, or versions were unlinked (invariant 1).
#[test]
fn what_was_stable_or_lost_once_stays_so() {
    for seed in 0..300 {
        let mut prng = Prng::with_seed(seed);
        // Three reigns whose ends lie ahead; claims of each stay at or below its end.
        let ends: Vec<u64> = (0..3).map(|_| prng.u64(0..12)).collect();
        let dependencies: Vec<(Stamp, Timestamp)> =
            (1..4).flat_map(|epoch| (0..14).map(move |at| (stamp(0, epoch), Timestamp(at)))).collect();
        let mut knowledge = Knowledge::new(1);
        let mut given = vec![Standing::Unknown; dependencies.len()];
        for _ in 0..20 {
            let epoch = prng.u64(1..4);
            let end = ends[epoch as usize - 1];
            if prng.u8(0..4) == 0 {
                knowledge.learn_closed(stamp(0, epoch), Timestamp(end));
            } else {
                // A watermark that arrives comes with the facts about every reign before (facts first).
                for earlier in 1..epoch {
                    knowledge.learn_closed(stamp(0, earlier), Timestamp(ends[earlier as usize - 1]));
                }
                knowledge.learn_vector(SHARD, mark(epoch, prng.u64(0..=end)));
            }
            for ((stamp, at), given) in dependencies.iter().zip(&mut given) {
                let standing = knowledge.standing(*stamp, *at);
                assert!(*given == Standing::Unknown || *given == standing, "seed {seed}: {stamp:?} {at:?}");
                *given = standing;
            }
        }
        assert!(given.iter().any(|standing| *standing != Standing::Unknown));
    }
}

/// Every exchange repeats every fact: repetition must cost nothing and mean nothing.
#[test]
fn a_fact_is_news_once() {
    let mut closed = ClosedEpochs::new(2);
    assert!(closed.insert(stamp(1, 1), Timestamp(5)));
    assert!(!closed.insert(stamp(1, 1), Timestamp(5)));
    assert_eq!(closed.get(stamp(1, 1)), Some(Timestamp(5)));
    assert_eq!((closed.len(), closed.get(stamp(0, 1))), (1, None));
}

/// Two leaders that closed one epoch at two places have broken the protocol: whoever goes on with either
/// may tell a client what is not so.
#[test]
#[should_panic(expected = "closed at @5, and again at @6")]
fn two_ends_of_one_epoch_stop_the_node() {
    let mut closed = ClosedEpochs::new(1);
    closed.insert(stamp(0, 1), Timestamp(5));
    closed.insert(stamp(0, 1), Timestamp(6));
}

/// Durable replies rested on the claim; the fact says that they were wrong.
#[test]
#[should_panic(expected = "claimed @7 and closed at @6")]
fn an_end_below_what_was_claimed_stops_the_node() {
    let mut knowledge = Knowledge::new(1);
    knowledge.learn_vector(SHARD, mark(1, 7));
    knowledge.learn_closed(stamp(0, 1), Timestamp(6));
}

/// The same, heard in the other order.
#[test]
#[should_panic(expected = "claimed @7 and closed at @6")]
fn a_claim_above_the_end_stops_the_node() {
    let mut knowledge = Knowledge::new(1);
    knowledge.learn_closed(stamp(0, 1), Timestamp(6));
    knowledge.learn_vector(SHARD, mark(1, 7));
}

/// A shard that changes leaders for ever must neither grow the table nor push out what is known of
/// others; and what it forgot must not come back as news, or peers would sweep without end.
#[test]
fn a_shard_keeps_its_newest_facts_and_forgets_for_good() {
    let mut closed = ClosedEpochs::new(SHARDS_MAX);
    let kept = CLOSED_EPOCHS_MAX / SHARDS_MAX;
    let rounds = kept as u64 + 3;
    closed.insert(stamp(0, 1), Timestamp(1));
    closed.insert(stamp(2, 1), Timestamp(1));
    for epoch in 1..=rounds {
        assert!(closed.insert(stamp(1, epoch), Timestamp(epoch)));
    }
    assert_eq!(closed.len(), kept + 2);
    for epoch in 1..=rounds {
        assert_eq!(closed.get(stamp(1, epoch)), (epoch > 3).then_some(Timestamp(epoch)));
        assert!(!closed.insert(stamp(1, epoch), Timestamp(epoch)));
    }
    assert_eq!(closed.get(stamp(0, 1)).and(closed.get(stamp(2, 1))), Some(Timestamp(1)));
}

/// Facts arrive in any order; tables that were filled differently must be equal, for they are compared
/// and written to checkpoints.
#[test]
fn facts_are_told_in_the_order_of_stamps() {
    for seed in 0..100 {
        let mut prng = Prng::with_seed(seed);
        let (mut closed, mut model) = (ClosedEpochs::new(4), BTreeMap::new());
        for _ in 0..60 {
            let stamp = stamp(prng.u16(0..4), prng.u64(1..20));
            let last = Timestamp(stamp.epoch.0 * 10);
            assert_eq!(closed.insert(stamp, last), model.insert(stamp, last).is_none());
        }
        assert!(closed.iter().eq(model.into_iter()));
    }
}

const START: Timestamp = Timestamp(1_000_000_000);
const BUSY: Timestamp = Timestamp(START.0 + EXCHANGE_INTERVAL_NS);
const IDLE: Timestamp = Timestamp(START.0 + EXCHANGE_IDLE_NS);

fn sent_at_start() -> ExchangeSchedule {
    let mut schedule = ExchangeSchedule::new(Timestamp(0));
    schedule.on_sent(START);
    schedule
}

/// Either half of the rule alone would burn CPU: news nobody waits for, or waiting without news.
#[test]
fn exchanges_are_frequent_while_something_waits_and_something_changed() {
    for (changed, waiting, due) in
        [(false, false, IDLE), (false, true, IDLE), (true, false, IDLE), (true, true, BUSY)]
    {
        let mut schedule = sent_at_start();
        if changed {
            schedule.on_change();
        }
        assert_eq!(schedule.due(waiting), due, "changed {changed}, waiting {waiting}");
        assert!(schedule.is_due(due, waiting) && !schedule.is_due(due.prev(), waiting));
    }
}

/// An idle shard advances only when asked: the demand is the latency of a lone transaction, so it goes
/// out although nothing else does; but a burst of demands is one exchange.
#[test]
fn a_demand_goes_out_at_once_but_never_closer_than_the_interval() {
    let mut schedule = sent_at_start();
    schedule.on_wanted();
    assert_eq!(schedule.due(false), BUSY);
    let later = START.plus_ns(EXCHANGE_IDLE_NS / 2);
    assert!(schedule.is_due(later, false));

    schedule.on_sent(later);
    assert_eq!(schedule.due(false), later.plus_ns(EXCHANGE_IDLE_NS), "a demand is told once");
    schedule.on_wanted();
    schedule.on_change();
    assert!(!schedule.is_due(later.plus_ns(EXCHANGE_INTERVAL_NS - 1), true));
    assert!(schedule.is_due(later.plus_ns(EXCHANGE_INTERVAL_NS), true));
}

/// A node that restarts knows nothing, and an idle cluster would tell it nothing for long.
#[test]
fn a_new_node_speaks_up_without_being_asked() {
    let schedule = ExchangeSchedule::new(START);
    assert_eq!(schedule.due(false), BUSY);
}
