//! Histories made by hand, one per offence: each must be found under its name, and explained.
#![forbid(unsafe_code)]

use super::super::history::{Direction, History, KeyId, TxnIndex, WriteId};
use super::super::versions::FinalRow;
use super::super::violation::{Kind, Violation};
use super::{Summary, check};
use crate::types::Timestamp;

/// Writes are numbered by hand, `key * 10 + n`, so that a test reads without a table.
type Seen = (u32, Option<u64>);
/// Key, timestamp, write.
type Rest<'a> = &'a [(u32, u64, u64)];

fn started(history: &mut History, begin: u64, reads: &[Seen], writes: &[(u32, u64)]) -> TxnIndex {
    let txn = history.begin(begin, history.len() as u32);
    for (key, seen) in reads {
        history.read(txn, KeyId(*key), seen.map(WriteId));
    }
    for (key, id) in writes {
        history.write(txn, KeyId(*key), WriteId(*id), false);
    }
    txn
}

/// A transaction answered speculative at `time.1` and durable a little later.
fn committed(
    history: &mut History,
    time: (u64, u64),
    timestamp: u64,
    reads: &[Seen],
    writes: &[(u32, u64)],
) -> TxnIndex {
    let txn = started(history, time.0, reads, writes);
    history.speculative(txn, time.1, Timestamp(timestamp));
    history.durable(txn, time.1 + 5);
    txn
}

fn deleting(history: &mut History, time: (u64, u64), timestamp: u64, key: u32, id: u64) -> TxnIndex {
    let txn = history.begin(time.0, 0);
    history.write(txn, KeyId(key), WriteId(id), true);
    history.speculative(txn, time.1, Timestamp(timestamp));
    txn
}

fn snapshot(history: &mut History, timestamp: u64, reads: &[Seen]) -> TxnIndex {
    let txn = started(history, 900, reads, &[]);
    history.snapshot(txn, 950, Timestamp(timestamp));
    txn
}

fn rest(rows: Rest) -> Vec<FinalRow> {
    rows.iter().map(|(key, timestamp, id)| (KeyId(*key), Timestamp(*timestamp), Some(WriteId(*id)))).collect()
}

/// The offence in `history`, whose state at rest is nobody's concern here.
fn offence(history: &History) -> Violation {
    check(history, &[]).expect_err("an offence must be found")
}

fn sound(history: &History, rows: Rest) -> Summary {
    check(history, &rest(rows)).unwrap_or_else(|violation| panic!("{violation}"))
}

#[track_caller]
fn assert_found(history: &History, kind: Kind, txns: &[TxnIndex], words: &[&str]) {
    let violation = offence(history);
    assert_eq!(violation.kind, kind, "{violation}");
    assert_eq!(violation.txns, txns, "{violation}");
    let text = violation.to_string();
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
}

/// Two increments that both started from the same value: one of them never happened.
#[test]
fn a_lost_update_is_found() {
    let mut history = History::new();
    let first = committed(&mut history, (0, 100), 10, &[(1, None)], &[(1, 11)]);
    let second = committed(&mut history, (0, 100), 20, &[(1, None)], &[(1, 12)]);
    let words = [
        "lost update",
        "T0 --ww k1--> T1: T0 wrote it at @10 (w11)",
        "T1 --rw k1--> T0: T1 read it as absent",
    ];
    assert_found(&history, Kind::LostUpdate, &[first, second], &words);
}

/// The anomaly snapshot isolation permits: each reads what the other writes, and both commit.
#[test]
fn write_skew_is_found() {
    let mut history = History::new();
    committed(&mut history, (0, 10), 1, &[], &[(1, 11), (2, 21)]);
    let left = committed(&mut history, (20, 100), 10, &[(1, Some(11)), (2, Some(21))], &[(1, 12)]);
    let right = committed(&mut history, (20, 100), 20, &[(1, Some(11)), (2, Some(21))], &[(2, 22)]);
    let words = ["--rw k2--> T2: T1 read it as w21, T2 wrote it at @20 (w22)", "T1: @10, client 1, began 20"];
    assert_found(&history, Kind::WriteSkew, &[left, right], &words);
}

/// A scan that misses an insert is write skew over a key nobody read by name.
#[test]
fn a_phantom_is_found() {
    let mut history = History::new();
    let scanner = history.begin(0, 0);
    history.scan(scanner, KeyId(0)..KeyId(10), Direction::Forward, true, &[]);
    history.write(scanner, KeyId(20), WriteId(200), false);
    history.speculative(scanner, 100, Timestamp(20));
    let inserter = committed(&mut history, (0, 100), 10, &[(20, None)], &[(5, 50)]);
    let words = ["T0 --rw k5--> T1: T0 read it as absent, T1 wrote it at @10 (w50)"];
    assert_found(&history, Kind::WriteSkew, &[scanner, inserter], &words);
}

/// The part of a range a limited scan never reached is no evidence of absence, in either direction.
#[test]
fn a_limited_scan_tells_of_what_it_reached_only() {
    for (direction, reached, beyond) in [(Direction::Forward, 3, 4), (Direction::Reverse, 4, 3)] {
        let scan = |complete, limit_row: u32| {
            let mut history = History::new();
            committed(&mut history, (0, 10), 1, &[], &[(3, 30), (4, 40)]);
            let txn = history.begin(20, 1);
            let row = (KeyId(limit_row), WriteId(u64::from(limit_row) * 10));
            history.scan(txn, KeyId(0)..KeyId(9), direction, complete, &[row]);
            history.speculative(txn, 30, Timestamp(5));
            check(&history, &rest(&[(3, 1, 30), (4, 1, 40)])).map_err(|violation| violation.kind)
        };
        assert!(scan(false, reached).is_ok());
        assert_eq!(scan(true, reached), Err(Kind::ReadSkew));
        assert_eq!(scan(false, beyond), Err(Kind::ReadSkew));
    }
}

/// Half of a transaction seen, half missed, by a read-only transaction whose timestamp proves nothing.
#[test]
fn read_skew_is_found() {
    let mut history = History::new();
    let writer = committed(&mut history, (0, 100), 10, &[], &[(1, 11), (2, 21)]);
    let reader = committed(&mut history, (0, 100), 5, &[(1, Some(11)), (2, None)], &[]);
    assert_found(&history, Kind::ReadSkew, &[writer, reader], &["T0 --wr k1--> T1", "T1 --rw k2--> T0"]);
}

/// Two transactions that each saw the other's write cannot have run one after the other.
#[test]
fn circular_information_flow_is_found() {
    let mut history = History::new();
    let left = committed(&mut history, (0, 100), 10, &[(2, Some(21))], &[(1, 11)]);
    let right = committed(&mut history, (0, 100), 20, &[(1, Some(11))], &[(2, 21)]);
    assert_found(&history, Kind::CircularFlow, &[left, right], &["--wr k1--> T1: T1 read it as w11"]);
}

/// A leader that lost its lease and does not know it serves what was true once.
#[test]
fn a_stale_read_in_real_time_is_found() {
    let mut history = History::new();
    committed(&mut history, (0, 10), 1, &[], &[(1, 11)]);
    let writer = committed(&mut history, (20, 30), 10, &[], &[(1, 12)]);
    let reader = committed(&mut history, (40, 50), 5, &[(1, Some(11))], &[]);
    let words =
        ["T1 --rt--> T2: T1 was answered at 30, T2 began at 40", "T2 --rw k1--> T1: T2 read it as w11"];
    assert_found(&history, Kind::StaleRead, &[writer, reader], &words);
}

/// Staleness two steps away: real time leads through transactions that touch other keys.
#[test]
fn real_time_reaches_across_other_transactions() {
    let mut history = History::new();
    let writer = committed(&mut history, (0, 10), 1, &[], &[(1, 11)]);
    committed(&mut history, (11, 12), 2, &[], &[(2, 21)]);
    committed(&mut history, (13, 14), 3, &[], &[(3, 31)]);
    let reader = committed(&mut history, (20, 30), 4, &[(1, None)], &[]);
    assert_found(&history, Kind::StaleRead, &[writer, reader], &["T0 --rt--> T3: T0 was answered at 10"]);
}

/// Clients that go on in the instant of an answer are the rule in virtual time: the order of recording
/// decides, or most of real time would be lost on the checker.
#[test]
fn at_one_instant_the_order_of_recording_is_the_order_of_time() {
    let stale = |answer_first: bool| {
        let mut history = History::new();
        let writer = started(&mut history, 0, &[], &[(1, 11)]);
        if answer_first {
            history.speculative(writer, 10, Timestamp(1));
        }
        committed(&mut history, (10, 20), 2, &[(1, None)], &[]);
        if !answer_first {
            history.speculative(writer, 10, Timestamp(1));
        }
        check(&history, &rest(&[(1, 1, 11)])).map_err(|violation| violation.kind).err()
    };
    assert_eq!(stale(true), Some(Kind::StaleRead));
    assert_eq!(stale(false), None);
}

/// A new leader whose clock starts too low orders its writes under those already answered.
#[test]
fn writes_ordered_against_real_time_are_found() {
    let mut history = History::new();
    let earlier = committed(&mut history, (0, 10), 20, &[], &[(1, 11)]);
    let later = committed(&mut history, (20, 30), 10, &[], &[(1, 12)]);
    assert_found(&history, Kind::AgainstTime, &[earlier, later], &["T1 --ww k1--> T0", "T0 --rt--> T1"]);
}

/// What is durable must not rest on what never was: the reader saw a write that was undone.
#[test]
fn a_dirty_read_is_found() {
    for aborted in [true, false] {
        let mut history = History::new();
        let writer = started(&mut history, 0, &[], &[(1, 11)]);
        let reader = committed(&mut history, (5, 20), 20, &[(1, Some(11))], &[]);
        if aborted {
            history.aborted(writer, 30, "conflict");
        } else {
            history.speculative(writer, 10, Timestamp(10));
            history.rolled_back(writer, 30);
        }
        let ending = if aborted { "aborted (conflict)" } else { "rolled back" };
        assert_found(&history, Kind::DirtyRead, &[reader, writer], &["T1 read k1 as w11 of T0", ending]);
    }
}

/// A reader that is undone with what it read has done no harm.
#[test]
fn a_dirty_read_of_one_rolled_back_as_well_is_no_offence() {
    let mut history = History::new();
    let writer = started(&mut history, 0, &[], &[(1, 11)]);
    history.speculative(writer, 10, Timestamp(10));
    let reader = started(&mut history, 11, &[(1, Some(11))], &[(2, 21)]);
    history.speculative(reader, 12, Timestamp(20));
    history.rolled_back(writer, 30);
    history.rolled_back(reader, 30);
    let summary = sound(&history, &[]);
    assert_eq!((summary.committed, summary.undone), (0, 2));
}

/// Bytes nobody wrote, or wrote elsewhere: a torn record, a frame reused too early.
#[test]
fn a_read_of_a_write_nobody_made_is_found() {
    let mut history = History::new();
    let writer = committed(&mut history, (0, 10), 1, &[], &[(1, 11)]);
    let nobody = committed(&mut history, (20, 30), 2, &[(1, Some(99))], &[]);
    assert_found(
        &history,
        Kind::UnwrittenRead,
        &[nobody],
        &["T1 read k1 as w99, which no transaction wrote"],
    );

    let mut history = History::new();
    assert_eq!(writer, committed(&mut history, (0, 10), 1, &[], &[(1, 11)]));
    let elsewhere = committed(&mut history, (20, 30), 2, &[(2, Some(11))], &[]);
    assert_found(
        &history,
        Kind::UnwrittenRead,
        &[elsewhere, writer],
        &["w11, which was written to k1 by T0"],
    );
}

/// The buffered writes of a transaction leave together: nobody may see one it replaced itself.
#[test]
fn an_intermediate_read_is_found() {
    let mut history = History::new();
    let writer = committed(&mut history, (0, 10), 1, &[], &[(1, 11), (1, 12)]);
    let reader = committed(&mut history, (20, 30), 2, &[(1, Some(11))], &[]);
    assert_found(
        &history,
        Kind::IntermediateRead,
        &[reader, writer],
        &["w11 of T0, which T0 itself replaced"],
    );
}

/// Equal timestamps would let two replicas apply the same log in two orders.
#[test]
fn two_writers_of_one_key_and_timestamp_are_found() {
    let mut history = History::new();
    let first = committed(&mut history, (0, 10), 7, &[], &[(1, 11)]);
    let second = committed(&mut history, (0, 10), 7, &[], &[(1, 12)]);
    assert_found(&history, Kind::SharedTimestamp, &[first, second], &["both wrote k1 at @7 (w11 and w12)"]);
}

/// DESIGN §1: a speculative answer is followed by exactly one of durable and rolled back.
#[test]
fn answers_that_contradict_each_other_are_found() {
    let speculative = |history: &mut History, txn| history.speculative(txn, 10, Timestamp(1));
    let durable = |history: &mut History, txn| history.durable(txn, 20);
    let rolled_back = |history: &mut History, txn| history.rolled_back(txn, 30);
    let aborted = |history: &mut History, txn| history.aborted(txn, 40, "busy");
    type Answer<'a> = &'a dyn Fn(&mut History, TxnIndex);
    let cases: [(&[Answer], Option<Kind>); 10] = [
        (&[&speculative, &durable], None),
        (&[&speculative, &rolled_back], None),
        (&[&aborted], None),
        (&[&durable, &rolled_back], Some(Kind::DurableLost)),
        (&[&speculative, &rolled_back, &durable], Some(Kind::DurableAfterRollback)),
        (&[&speculative, &speculative], Some(Kind::AnsweredTwice)),
        (&[&speculative, &durable, &durable], Some(Kind::AnsweredTwice)),
        (&[&speculative, &aborted], Some(Kind::AnsweredTwice)),
        (&[&durable, &speculative], Some(Kind::AnsweredTwice)),
        (&[&aborted, &aborted], Some(Kind::AnsweredTwice)),
    ];
    for (answers, expected) in cases {
        let mut history = History::new();
        let txn = history.begin(0, 1);
        answers.iter().for_each(|answer| answer(&mut history, txn));
        let found = check(&history, &[]).err();
        assert_eq!(found.as_ref().map(|violation| violation.kind), expected, "{found:?}");
        if let Some(violation) = found {
            assert!(violation.to_string().contains("it was answered "), "{violation}");
            assert!(violation.to_string().contains("T0: "), "{violation}");
        }
    }
}

/// A tree that returns a row twice or out of place would pass as another history.
#[test]
fn a_malformed_scan_is_found() {
    let rows =
        |keys: &[u32]| keys.iter().map(|key| (KeyId(*key), WriteId(u64::from(*key)))).collect::<Vec<_>>();
    let cases: [(&[u32], Direction, bool); 6] = [
        (&[1, 2], Direction::Forward, true),
        (&[2, 1], Direction::Reverse, true),
        (&[2, 1], Direction::Forward, false),
        (&[1, 2], Direction::Reverse, false),
        (&[1, 1], Direction::Forward, false),
        (&[1, 5], Direction::Forward, false),
    ];
    for (keys, direction, right) in cases {
        let mut history = History::new();
        committed(&mut history, (0, 1), 1, &[], &[(1, 1), (2, 2)]);
        let txn = history.begin(2, 0);
        history.scan(txn, KeyId(0)..KeyId(5), direction, true, &rows(keys));
        let found = check(&history, &rest(&[(1, 1, 1), (2, 1, 2)])).err();
        assert_eq!(
            found.map(|violation| violation.kind),
            (!right).then_some(Kind::MalformedScan),
            "{keys:?}"
        );
    }
}

/// No cycle, and yet replay in timestamp order goes wrong: it is the timestamps that replicas follow.
#[test]
fn a_read_against_timestamp_order_is_found() {
    let mut history = History::new();
    let writer = committed(&mut history, (0, 10), 20, &[], &[(1, 11)]);
    let reader = committed(&mut history, (20, 30), 10, &[(1, Some(11))], &[(2, 21)]);
    let words = ["T1 at @10 read k1 as w11 (written by T0 at @20); due was absent"];
    assert_found(&history, Kind::TimestampOrder, &[reader, writer], &words);
}

/// Snapshots are cut at a timestamp: a transaction is in one whole or not at all.
#[test]
fn a_fractured_snapshot_is_found() {
    let mut history = History::new();
    let writer = committed(&mut history, (0, 10), 10, &[], &[(1, 11), (2, 21)]);
    let reader = snapshot(&mut history, 15, &[(1, Some(11)), (2, None)]);
    let words =
        ["T1 at @15 read k2 as absent; due was w21 (written by T0 at @10)", "of what T0 wrote it saw a part"];
    assert_found(&history, Kind::FracturedSnapshot, &[reader, writer], &words);

    // What it missed may have been there in an older version.
    let mut history = History::new();
    committed(&mut history, (0, 10), 5, &[], &[(1, 10), (2, 20)]);
    let writer = committed(&mut history, (0, 10), 10, &[], &[(1, 11), (2, 21)]);
    let reader = snapshot(&mut history, 15, &[(1, Some(11)), (2, Some(20))]);
    let before = TxnIndex(0);
    assert_found(&history, Kind::FracturedSnapshot, &[reader, writer, before], &["T2 at @15 read k2 as w20"]);

    // The same from the other side: one write too many instead of one too few.
    let mut history = History::new();
    let writer = committed(&mut history, (0, 10), 10, &[], &[(1, 11), (2, 21)]);
    let reader = snapshot(&mut history, 5, &[(1, Some(11)), (2, None)]);
    assert_found(&history, Kind::FracturedSnapshot, &[reader, writer], &["T1 at @5 read k1 as w11"]);
}

/// Consistent, but not at the timestamp its reply names.
#[test]
fn a_snapshot_of_another_time_is_found() {
    let history = |timestamp, seen| {
        let mut history = History::new();
        committed(&mut history, (0, 10), 10, &[], &[(1, 11)]);
        committed(&mut history, (20, 30), 20, &[(1, Some(11))], &[(1, 12)]);
        snapshot(&mut history, timestamp, &[(1, seen)]);
        check(&history, &rest(&[(1, 20, 12)])).map_err(|violation| violation.kind)
    };
    for (timestamp, right) in [(9, None), (10, Some(11)), (19, Some(11)), (20, Some(12)), (99, Some(12))] {
        for seen in [None, Some(11), Some(12)] {
            let expected = if seen == right { Ok(1) } else { Err(Kind::WrongSnapshot) };
            assert_eq!(history(timestamp, seen).map(|summary| summary.snapshot_reads), expected);
        }
    }
}

/// A snapshot in the past offends nobody: its clients asked for a timestamp, not for the latest.
#[test]
fn a_snapshot_is_not_held_to_real_time() {
    let mut history = History::new();
    committed(&mut history, (0, 10), 10, &[], &[(1, 11)]);
    snapshot(&mut history, 9, &[(1, None)]);
    assert_eq!(sound(&history, &[(1, 10, 11)]).snapshots, 1);
}

/// Durable means durable: what was acknowledged is there at the end, and nothing else is.
#[test]
fn a_final_state_the_history_does_not_lead_to_is_found() {
    let mut history = History::new();
    committed(&mut history, (0, 10), 10, &[], &[(1, 11)]);
    committed(&mut history, (20, 30), 20, &[(1, Some(11))], &[(1, 12)]);
    let undone = started(&mut history, 40, &[], &[(1, 13), (2, 21)]);
    history.speculative(undone, 41, Timestamp(30));
    history.rolled_back(undone, 50);
    let cases: [(Rest, &str); 6] = [
        (&[(1, 10, 11)], "k1 came to rest as w11 at @10, written to k1 by T0 (durable); due was w12"),
        (&[(1, 19, 12)], "k1 came to rest as w12 at @19"),
        (&[(1, 30, 13)], "w13 at @30, written to k1 by T2 (rolled back)"),
        (&[(1, 20, 12), (2, 30, 21)], "k2 came to rest as w21 at @30"),
        (&[(1, 20, 99)], "w99 at @20, which no transaction wrote"),
        (&[], "k1 came to rest as no row; due was w12"),
    ];
    assert_eq!(sound(&history, &[(1, 20, 12)]).committed, 2);
    for (rows, words) in cases {
        let violation = check(&history, &rest(rows)).expect_err("an offence must be found");
        assert_eq!(violation.kind, Kind::FinalState);
        assert!(violation.to_string().contains(words), "{words:?} is not in: {violation}");
    }
}

/// The handle shows a transaction its own writes: that is none of this checker's business.
#[test]
fn own_writes_are_not_compared() {
    let mut history = History::new();
    let txn = started(&mut history, 0, &[], &[(1, 11)]);
    history.read(txn, KeyId(1), Some(WriteId(11)));
    history.scan(txn, KeyId(0)..KeyId(5), Direction::Forward, true, &[(KeyId(1), WriteId(11))]);
    history.speculative(txn, 10, Timestamp(10));
    sound(&history, &[(1, 10, 11)]);
}

/// A leader dies and its clients hear nothing: the transaction may have survived or not. Both are right,
/// so long as everybody agrees.
#[test]
fn a_transaction_of_unknown_outcome_took_effect_if_anyone_saw_it() {
    let history = |answered: bool, seen: Option<u64>, second: Option<u64>| {
        let mut history = History::new();
        let lost = started(&mut history, 0, &[], &[(1, 11), (2, 21)]);
        if answered {
            history.speculative(lost, 10, Timestamp(10));
        }
        history.unknown(lost);
        committed(&mut history, (20, 30), 30, &[(1, seen), (2, second)], &[(3, 31)]);
        history
    };
    for answered in [true, false] {
        let survived = [(1, 10, 11), (2, 10, 21), (3, 30, 31)];
        assert_eq!(sound(&history(answered, Some(11), Some(21)), &survived).committed, 2);
        assert_eq!(sound(&history(answered, None, None), &survived[2..]).unsettled, 1);
        // Seen in part; then seen by nobody, and there at the end all the same.
        let torn = check(&history(answered, Some(11), None), &rest(&survived));
        assert_eq!(torn.map_err(|violation| violation.kind), Err(Kind::ReadSkew));
        let stale =
            check(&history(answered, None, None), &rest(&survived)).map_err(|violation| violation.kind);
        let expected = if answered { Kind::StaleRead } else { Kind::TimestampOrder };
        assert_eq!(stale, Err(expected));
    }
}

/// The proof that it took effect may itself be of unknown outcome. Without timestamps it has no place
/// among the versions, but who saw whom can still be a circle.
#[test]
fn unknown_outcomes_are_proven_through_one_another() {
    let history = |first_reads: &[Seen], last_reads: &[Seen]| {
        let mut history = History::new();
        let first = started(&mut history, 0, first_reads, &[(1, 11)]);
        let second = started(&mut history, 5, &[(1, Some(11))], &[(2, 21)]);
        history.unknown(first);
        history.unknown(second);
        committed(&mut history, (4, 30), 30, last_reads, &[(3, 31)]);
        history
    };
    let rows = [(3, 30, 31)];
    assert_eq!(sound(&history(&[], &[(2, Some(21))]), &rows).committed, 3);
    assert_eq!(sound(&history(&[], &[]), &rows).unsettled, 2);
    assert_eq!(offence(&history(&[(3, Some(31))], &[(2, Some(21))])).kind, Kind::CircularFlow);
}

/// A deletion leaves no name: of a key that an unsettled transaction may have deleted, absence proves nothing.
#[test]
fn an_absence_that_an_unknown_deletion_may_explain_is_no_offence() {
    for deleted in [true, false] {
        let mut history = History::new();
        committed(&mut history, (0, 10), 10, &[], &[(1, 11)]);
        let lost = history.begin(20, 1);
        history.write(lost, KeyId(1), WriteId(12), deleted);
        history.unknown(lost);
        committed(&mut history, (40, 50), 50, &[(1, None)], &[(2, 21)]);
        let rows = [(KeyId(1), Timestamp(0), None), (KeyId(2), Timestamp(50), Some(WriteId(21)))];
        let verdict = check(&history, &rows).map(|summary| summary.unverified);
        let expected = if deleted { Ok(1) } else { Err(Kind::StaleRead) };
        assert_eq!(verdict.map_err(|violation| violation.kind), expected);
    }
}

/// A record of the deletion gives the unknown transaction its timestamp, and so ends the doubt.
#[test]
fn a_deletion_at_rest_settles_who_made_it() {
    let verdict = |seen| {
        let mut history = History::new();
        committed(&mut history, (0, 10), 10, &[], &[(1, 11)]);
        let lost = history.begin(20, 1);
        history.write(lost, KeyId(1), WriteId(12), true);
        history.unknown(lost);
        snapshot(&mut history, 30, &[(1, seen)]);
        let verdict = check(&history, &[(KeyId(1), Timestamp(30), None)]);
        verdict.map(|summary| summary.committed).map_err(|violation| violation.kind)
    };
    assert_eq!(verdict(None), Ok(2));
    assert_eq!(verdict(Some(11)), Err(Kind::WrongSnapshot));
}

/// Where real time leaves it open which absence a writer saw, its timestamp tells: it came after the
/// deletion, so whoever saw it must not miss the deletion.
#[test]
fn the_timestamp_of_a_writer_tells_which_absence_it_saw() {
    let mut history = History::new();
    committed(&mut history, (0, 100), 5, &[], &[(1, 11)]);
    let deletion = deleting(&mut history, (0, 100), 10, 1, 12);
    let writer = committed(&mut history, (0, 100), 20, &[(1, None)], &[(3, 31)]);
    let reader = committed(&mut history, (0, 100), 25, &[(3, Some(31)), (1, Some(11))], &[]);
    let words =
        ["T1 --wr k1--> T2: T2 read it as absent", "T3 --rw k1--> T1: T3 read it as w11, T1 deleted it"];
    assert_found(&history, Kind::ReadSkew, &[deletion, writer, reader], &words);
}

/// Two leaders may give one timestamp, when one of them is not heard of again: the record of a deletion
/// then proves neither transaction. Taken for the first, this one wrote against real time.
#[test]
fn a_deletion_at_rest_that_two_may_have_made_proves_neither() {
    let mut history = History::new();
    let lost = history.begin(0, 0);
    history.write(lost, KeyId(1), WriteId(10), true);
    history.write(lost, KeyId(2), WriteId(20), true);
    history.speculative(lost, 10, Timestamp(30));
    history.unknown(lost);
    committed(&mut history, (20, 30), 20, &[], &[(2, 21)]);
    let survivor = history.begin(40, 1);
    history.write(survivor, KeyId(1), WriteId(11), true);
    history.unknown(survivor);
    let rows = [(KeyId(1), Timestamp(30), None), (KeyId(2), Timestamp(20), Some(WriteId(21)))];
    let verdict = check(&history, &rows).map(|summary| (summary.committed, summary.unsettled));
    assert_eq!(verdict.map_err(|violation| violation.kind), Ok((1, 2)));
}

/// Absence before the first write and after a deletion look alike. A read-only transaction may mean
/// either where real time allows both, and neither where it saw something in between.
#[test]
fn absence_is_any_absence_that_real_time_allows() {
    let verdict = |begin, other: Option<u64>| {
        let mut history = History::new();
        committed(&mut history, (0, 10), 10, &[], &[(1, 11), (2, 21)]);
        deleting(&mut history, (20, 30), 20, 1, 12);
        committed(&mut history, (begin, 50), 25, &[(1, None), (2, other)], &[]);
        let rows = rest(&[(2, 10, 21)]);
        check(&history, &rows).map(|_| ()).map_err(|violation| violation.kind)
    };
    assert_eq!(verdict(5, None), Ok(()), "before the first write");
    assert_eq!(verdict(5, Some(21)), Ok(()), "after the deletion");
    assert_eq!(verdict(15, Some(21)), Ok(()), "after the deletion, which is not answered yet");
    assert_eq!(
        verdict(15, None),
        Err(Kind::ReadSkew),
        "so it saw the deletion, and missed what that deleted"
    );
}

/// A run that checked nothing must not look like one that found nothing.
#[test]
fn the_summary_counts_what_was_compared() {
    assert_eq!(check(&History::new(), &[]), Ok(Summary::default()));
    let mut history = History::new();
    committed(&mut history, (0, 10), 10, &[(1, None)], &[(1, 11)]);
    committed(&mut history, (20, 30), 20, &[(1, Some(11))], &[(1, 12)]);
    snapshot(&mut history, 10, &[(1, Some(11))]);
    let summary = sound(&history, &[(1, 20, 12)]);
    // ww, wr and rt lead from the first to the second; rt by way of a relay.
    let expected = Summary {
        committed: 2,
        snapshots: 1,
        edges: 4,
        writer_reads: 2,
        snapshot_reads: 1,
        ..Summary::default()
    };
    assert_eq!(summary, expected);
}
