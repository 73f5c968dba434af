//! Files as processes would have left them, one offence each: it must be found, and told in a sentence.
#![forbid(unsafe_code)]

use super::{Event, Held, Summary, judge};
use crate::partition::Mode;
use crate::sim::history::{KeyId, WriteId};
use crate::types::Timestamp;

/// A key and the write of it that was seen, by its number: write `n` of key `k` is `100 * k + n`.
type Seen = (u32, u64);

fn id(key: u32, number: u64) -> WriteId {
    WriteId(100 * u64::from(key) + number)
}

fn held(key: u32, number: u64) -> Option<Held> {
    let previous = (number > 1).then(|| id(key, number - 1));
    (number > 0).then(|| Held { id: id(key, number), number, previous })
}

fn begin(txn: u64, mode: Mode, writes: &[Seen]) -> String {
    let writes = writes.iter().map(|(key, number)| (KeyId(*key), id(*key, *number))).collect();
    Event::Begin { txn, client: 7, mode, writes }.line()
}

fn said(txn: u64, timestamp: u64, reads: &[Seen]) -> String {
    let reads = reads.iter().map(|(key, number)| (KeyId(*key), held(*key, *number))).collect();
    Event::Said { txn, timestamp: Timestamp(timestamp), reads }.line()
}

fn durable(txn: u64) -> String {
    Event::Durable { txn }.line()
}

fn undone(txn: u64) -> String {
    Event::RolledBack { txn }.line()
}

/// Updates these keys from these versions; its last answer is for the test to add.
fn updating(txn: u64, timestamp: u64, reads: &[Seen]) -> String {
    let writes: Vec<Seen> = reads.iter().map(|(key, number)| (*key, number + 1)).collect();
    begin(txn, Mode::ReadWrite, &writes) + &said(txn, timestamp, reads)
}

fn update(txn: u64, timestamp: u64, reads: &[Seen]) -> String {
    updating(txn, timestamp, reads) + &durable(txn)
}

fn read(txn: u64, timestamp: u64, reads: &[Seen]) -> String {
    begin(txn, Mode::ReadWrite, &[]) + &said(txn, timestamp, reads) + &durable(txn)
}

fn snapshot(txn: u64, timestamp: u64, reads: &[Seen]) -> String {
    begin(txn, Mode::Snapshot, &[]) + &said(txn, timestamp, reads) + &durable(txn)
}

fn sound(lines: &[String]) -> Summary {
    judge(&lines.concat()).unwrap_or_else(|offence| panic!("{offence}"))
}

#[track_caller]
fn assert_found(lines: &[String], words: &[&str]) {
    let offence = judge(&lines.concat()).expect_err("an offence must be found");
    for word in words {
        assert!(offence.contains(word), "{word:?} is not in: {offence}");
    }
}

#[test]
fn a_sound_history_is_told_by_what_it_consists_of() {
    let lines = [
        update(1, 10, &[(1, 0), (2, 0)]),
        begin(2, Mode::ReadWrite, &[(3, 1)]) + &Event::Refused { txn: 2 }.line(),
        updating(3, 30, &[(1, 1)]) + &undone(3),
        snapshot(4, 15, &[(1, 1), (2, 1)]),
    ];
    let Summary { checked, durable, unknown, newest, looked, torn } = sound(&lines);
    assert_eq!((durable, unknown, newest, torn), (1, 0, Timestamp(10), 0));
    assert_eq!((checked.committed, checked.undone, checked.snapshot_reads), (1, 2, 2));
    assert!(looked.into_iter().eq([7]));
}

/// A kill at any byte leaves the beginning of a sound history, and that is sound; nor may the line of the next
/// process be lost with one that was torn.
#[test]
fn a_history_may_end_anywhere() {
    let text = [update(1, 10, &[(1, 0)]), update(2, 20, &[(1, 1), (2, 0)])].concat();
    for end in 0..=text.len() {
        let rest = read(9, 90, &[(3, 0)]);
        let summary = sound(&[text[..end].to_string(), rest]);
        assert!(summary.torn <= 1 && (1..=3).contains(&summary.durable), "{summary:?}");
    }
}

/// Nobody was told of it: it may have taken effect or not, and who saw it proves that it did.
#[test]
fn what_was_under_way_at_a_kill_may_be_seen_or_not() {
    let killed = begin(1, Mode::ReadWrite, &[(1, 1)]);
    let unheard = sound(&[killed.clone(), snapshot(2, 20, &[(1, 0)])]);
    assert_eq!((unheard.unknown, unheard.checked.committed), (1, 0));
    let seen = sound(&[killed.clone(), update(2, 20, &[(1, 1)]), snapshot(3, 30, &[(1, 2)])]);
    assert_eq!((seen.unknown, seen.checked.committed), (1, 2));
    // Answered, but not for the last time.
    sound(&[updating(1, 10, &[(1, 0)]), snapshot(2, 20, &[(1, 0)])]);
    sound(&[updating(1, 10, &[(1, 0)]), snapshot(2, 20, &[(1, 1)])]);
}

#[test]
fn a_lost_update_is_found() {
    let second =
        Event::Begin { txn: 2, client: 7, mode: Mode::ReadWrite, writes: vec![(KeyId(1), WriteId(9))] };
    let lines = [update(1, 10, &[(1, 0)]), second.line(), said(2, 20, &[(1, 0)]), durable(2)];
    // In real time it is a stale read as well; a cycle without a clock says more.
    assert_found(&lines, &["lost update: ", "T1 --rw k1--> T0"]);
}

/// The one that lost was never answered, so that no timestamp orders the two.
#[test]
fn a_lost_update_by_one_that_was_killed_is_found() {
    let killed =
        Event::Begin { txn: 2, client: 7, mode: Mode::ReadWrite, writes: vec![(KeyId(1), WriteId(9))] };
    let other = Held { id: WriteId(9), number: 1, previous: None };
    let reader = Event::Said { txn: 3, timestamp: Timestamp(30), reads: vec![(KeyId(1), Some(other))] };
    let lines = [
        update(1, 10, &[(1, 0)]),
        killed.line(),
        begin(3, Mode::ReadWrite, &[]) + &reader.line() + &durable(3),
    ];
    assert_found(&lines, &["lost update: version 1 of k1 is w101 to T0 and w9 to T2"]);
}

#[test]
fn a_stale_read_is_found() {
    let lines = [update(1, 10, &[(1, 0)]), update(2, 20, &[(1, 1)]), read(3, 15, &[(1, 1)])];
    assert_found(&lines, &["stale read in real time: ", "T1 --rt--> T2", "T2 read it as w101"]);
}

/// The reader was under way already: then it may come before.
#[test]
fn a_read_that_overlaps_is_not_stale() {
    sound(&[
        update(1, 10, &[(1, 0)]),
        begin(3, Mode::ReadWrite, &[]),
        update(2, 20, &[(1, 1)]),
        said(3, 15, &[(1, 1)]),
        durable(3),
    ]);
}

#[test]
fn a_dirty_read_is_found() {
    let undone_before = updating(1, 10, &[(1, 0)]);
    let lines = [undone_before, read(2, 20, &[(1, 1)]), undone(1)];
    assert_found(&lines, &["dirty read: T1 read k1 as w101 of T0, which was rolled back"]);

    let refused = begin(1, Mode::ReadWrite, &[(1, 1)]) + &Event::Refused { txn: 1 }.line();
    assert_found(&[refused, read(2, 20, &[(1, 1)])], &["dirty read: ", "aborted (refused)"]);
}

#[test]
fn a_durable_write_that_vanished_is_found() {
    let lines = [update(1, 10, &[(1, 0)]), update(2, 20, &[(1, 1)]), snapshot(3, 30, &[(1, 1)])];
    assert_found(&lines, &["snapshot is not the state at its timestamp: ", "due was w102"]);
    assert_found(&[lines[0].clone(), snapshot(3, 30, &[(1, 0)])], &["read k1 as absent; due was w101"]);
}

/// What is shown instead is of one that was killed: no timestamp tells that it should have been replaced.
#[test]
fn a_durable_write_that_vanished_behind_an_unknown_one_is_found() {
    let killed = begin(1, Mode::ReadWrite, &[(1, 1)]);
    let lines = [killed, update(2, 20, &[(1, 1)]), snapshot(3, 30, &[(1, 1)])];
    let words =
        ["snapshot is not the state", "T2 at @30 read version 1 of k1, but T1 made version 2 durable"];
    assert_found(&lines, &words);
}

#[test]
fn a_rolled_back_value_on_a_snapshot_is_found() {
    let lines = [updating(1, 10, &[(1, 0)]), undone(1), snapshot(2, 30, &[(1, 1)])];
    assert_found(&lines, &["dirty read: T1 read k1 as w101 of T0, which was rolled back"]);
}

/// One shard was told, the other was not.
#[test]
fn half_a_transaction_on_a_snapshot_is_found() {
    let lines = [update(1, 10, &[(1, 0), (2, 0)]), snapshot(2, 30, &[(1, 1), (2, 0)])];
    assert_found(&lines, &["fractured snapshot: "]);
}

#[test]
fn a_durable_answer_taken_back_is_found() {
    assert_found(&[update(1, 10, &[(1, 0)]), undone(1)], &["durable transaction rolled back: "]);
    assert_found(&[updating(1, 10, &[(1, 0)]), undone(1), durable(1)], &["durable after rolled back: "]);
}

/// A line that no client writes is a fault of the recorder, and must not pass as sound.
#[test]
fn lines_out_of_place_are_named() {
    let twice = updating(1, 10, &[(1, 0)]) + &said(1, 11, &[(1, 0)]);
    let unread = begin(1, Mode::ReadWrite, &[(1, 1)]) + &said(1, 10, &[(2, 0)]);
    let again = begin(1, Mode::ReadWrite, &[]) + &begin(1, Mode::ReadWrite, &[]);
    let taken = begin(1, Mode::ReadWrite, &[(1, 1)]) + &begin(2, Mode::ReadWrite, &[(1, 1)]);
    let unsaid = begin(1, Mode::ReadWrite, &[]) + &durable(1);
    let garbled = "\nsaid 1 10 1=101/0/0 .".to_string();
    for lines in [twice, unread, again, taken, unsaid, durable(4), garbled, "\nbegin 1 2 x .".to_string()] {
        assert_found(&[lines], &["of the history is out of place: "]);
    }
}
