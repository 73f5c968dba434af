//! A participant's vote, what it locks and promises while it waits, and what a decision does.
#![forbid(unsafe_code)]

use super::super::told::Told;
use super::*;
use crate::bounds::CLOCK_LEAD_NS;
use crate::wire::ScanRange;

/// A key, the timestamp of its version, and its value.
type Stored<'a> = (&'a [u8], u64, Option<&'a [u8]>);

const T: TableId = TableId(0);
const OURS: Stamp = Stamp { shard: ShardId(0), epoch: Epoch(1 << 16) };
const THEIRS: Stamp = Stamp { shard: ShardId(1), epoch: Epoch(1 << 16 | 1) };
const NOW: Timestamp = Timestamp(1_000_000);

fn txn(number: u64) -> TxnId {
    TxnId { home: PartitionId(1), epoch: THEIRS.epoch, number }
}

fn deps(of: &[(Stamp, u64)]) -> Deps {
    let mut deps = Deps::default();
    of.iter().for_each(|(stamp, at)| deps.add(*stamp, Timestamp(*at)).unwrap());
    deps
}

/// A partition in its epoch, with some rows.
fn store(rows: &[Stored<'_>]) -> Store {
    let mut store = Store::new(OURS.shard, 1);
    store.epoch = OURS.epoch;
    for (key, at, value) in rows {
        store.replay(Timestamp(*at), [(T, *key, *value)].into_iter());
    }
    store
}

/// What a test asks of the store; everything else of a request is as it should be.
#[derive(Default)]
struct Ask<'a> {
    reads: &'a [ReadCheck<'a>],
    scans: &'a [ScanCheck<'a>],
    writes: &'a [WriteRef<'a>],
    hold_ns: u64,
}

fn prepare(store: &mut Store, number: u64, ask: &Ask<'_>) -> Result<Timestamp, Refusal> {
    let Ask { reads, scans, writes, hold_ns } = *ask;
    let (txn, epoch, home) = (txn(number), OURS.epoch, THEIRS.shard);
    let request = PrepareRequest { txn, epoch, home, hold_ns, deps: &Deps::default(), reads, scans, writes };
    store.prepare(NOW, &request, &Told::default())
}

fn commit(store: &mut Store, number: u64, timestamp: Timestamp, known: &Told) -> Committed {
    let deps = deps(&[(OURS, timestamp.0), (THEIRS, timestamp.0)]);
    let participants = [PartitionId(0), PartitionId(1)];
    let commit = Commit { txn: txn(number), timestamp, deps: &deps, participants: &participants };
    store.commit(NOW, &commit, None, known)
}

fn write<'a>(key: &'a [u8], value: Option<&'a [u8]>) -> WriteRef<'a> {
    WriteRef { table: T, key, value }
}

fn read(key: &[u8], version: u64, absent: bool) -> ReadCheck<'_> {
    ReadCheck { table: T, key, version: Timestamp(version), absent }
}

fn span<'a>(from: &'a [u8], to: &'a [u8], limit: u32, reverse: bool) -> ScanRange<'a> {
    ScanRange { table: T, from, to: Some(to), limit, reverse, request: 0 }
}

/// The scan as somebody saw it just now.
fn scanned<'a>(store: &Store, range: ScanRange<'a>) -> ScanCheck<'a> {
    let visited = store.visit(Span::from(&range), true, &mut Deps::default(), &mut |_, _, _| {}).unwrap();
    ScanCheck { range, digest: visited.digest }
}

fn value(store: &Store, key: &[u8]) -> Option<Vec<u8>> {
    store.read(T, key).unwrap().value.map(|value| value.to_vec())
}

/// A refusal that left a lock behind would never be given back: nobody sends an abort to who refused.
#[test]
fn every_reason_to_refuse_leaves_nothing_behind() {
    let (mut store, mut known) = (store(&[(b"k", 5, Some(b"old"))]), Told::default());
    known.closed(Stamp { epoch: Epoch(7), ..THEIRS }, 40);
    let (none, fine) = (deps(&[]), [write(b"k", Some(b"new"))]);
    let lost = deps(&[(Stamp { epoch: Epoch(7), ..THEIRS }, 41)]);
    let elsewhere = TableId(1);
    let request = |epoch, txn, deps| {
        let home = THEIRS.shard;
        PrepareRequest { txn, epoch, home, hold_ns: 0, deps, reads: &[], scans: &[], writes: &fine }
    };
    let good = || request(OURS.epoch, txn(1), &none);
    let stray_read = [ReadCheck { table: elsewhere, ..read(b"k", 5, false) }];
    let stray_scan =
        [ScanCheck { range: ScanRange { table: elsewhere, ..span(b"a", b"z", 9, false) }, digest: 0 }];
    let stray_write = [WriteRef { table: elsewhere, ..fine[0] }];
    let stale = [read(b"k", 4, false)];
    let phantom = [ScanCheck { range: span(b"a", b"z", 9, false), digest: 0 }];
    let cases = [
        (Refusal::WrongEpoch, request(Epoch(3), txn(1), &none)),
        (Refusal::ClosedEpoch, request(OURS.epoch, TxnId { epoch: Epoch(7), ..txn(1) }, &none)),
        (Refusal::LostDependency, request(OURS.epoch, txn(1), &lost)),
        (Refusal::UnknownTable, PrepareRequest { reads: &stray_read, ..good() }),
        (Refusal::UnknownTable, PrepareRequest { scans: &stray_scan, ..good() }),
        (Refusal::UnknownTable, PrepareRequest { writes: &stray_write, ..good() }),
        (Refusal::Changed, PrepareRequest { reads: &stale, ..good() }),
        (Refusal::Changed, PrepareRequest { scans: &phantom, ..good() }),
    ];
    for (why, request) in &cases {
        assert_eq!(store.prepare(NOW, request, &known), Err(*why));
        assert!(store.prepared().is_empty() && store.locks.is_empty(), "{why:?}");
    }
    assert!(store.prepare(NOW, &good(), &known).is_ok());
    assert_eq!(prepare(&mut store, 2, &Ask { writes: &fine, ..Ask::default() }), Err(Refusal::Locked));
    assert_eq!(
        prepare(&mut store, 2, &Ask { reads: &[read(b"k", 5, false)], ..Ask::default() }),
        Err(Refusal::Locked)
    );
    assert_eq!(store.prepared().len(), 1);
}

#[test]
fn the_number_of_prepared_transactions_is_bounded() {
    let mut store = store(&[]);
    for number in 0..PREPARED_MAX as u64 {
        let key = number.to_be_bytes();
        assert!(prepare(&mut store, number, &Ask { writes: &[write(&key, None)], ..Ask::default() }).is_ok());
    }
    let full = || Ask { writes: &[WriteRef { table: T, key: b"one more", value: None }], ..Ask::default() };
    assert_eq!(prepare(&mut store, u64::MAX, &full()), Err(Refusal::Busy));
    assert!(store.abort(txn(0)));
    assert!(prepare(&mut store, u64::MAX, &full()).is_ok());
}

/// Where a read is judged: only the very version that was read will do, and an absent key has one too.
/// The exception is a tombstone that was pruned, for then the key is as absent as it was.
#[test]
fn a_read_holds_only_while_the_version_read_is_the_newest() {
    let rows: &[Stored<'_>] = &[(b"here", 5, Some(b"v")), (b"gone", 3, Some(b"v")), (b"gone", 6, None)];
    let cases = [
        (read(b"here", 5, false), true),
        (read(b"here", 4, false), false),
        (read(b"here", 5, true), false),
        (read(b"here", 0, true), false),
        (read(b"gone", 6, true), true),
        (read(b"gone", 3, false), false),
        (read(b"gone", 5, true), false),
        (read(b"gone", 0, true), false),
        (read(b"never", 0, true), true),
        (read(b"never", 4, true), true),
        (read(b"never", 4, false), false),
    ];
    for (check, holds) in cases {
        let mut store = store(rows);
        let vote = prepare(&mut store, 1, &Ask { reads: &[check], ..Ask::default() });
        assert_eq!(vote.is_ok(), holds, "{check:?}");
    }
}

/// Without the lock on what was read, a writer prepared in between would commit below the reader.
#[test]
fn what_is_read_or_scanned_keeps_writers_out_until_the_end() {
    let mut store = store(&[(b"b", 5, Some(b"v"))]);
    let scans = [scanned(&store, span(b"m", b"p", 9, false))];
    prepare(&mut store, 1, &Ask { reads: &[read(b"b", 5, false)], scans: &scans, ..Ask::default() }).unwrap();
    for key in [&b"b"[..], b"m", b"n"] {
        assert_eq!(store.holder(T, key), Some(txn(1)));
        let writes = [write(key, None)];
        assert_eq!(prepare(&mut store, 2, &Ask { writes: &writes, ..Ask::default() }), Err(Refusal::Locked));
    }
    assert_eq!((store.holder(T, b"a"), store.holder(T, b"p")), (None, None));
    assert!(prepare(&mut store, 3, &Ask { reads: &[read(b"b", 5, false)], ..Ask::default() }).is_ok());
    assert!(store.abort(txn(1)) && store.abort(txn(3)) && !store.abort(txn(1)));
    assert!(store.locks.is_empty());
}

/// A transaction reads what it then writes more often than not: one lock, given back once.
#[test]
fn a_key_read_and_written_by_one_transaction_is_locked_once() {
    let mut store = store(&[(b"k", 5, Some(b"old"))]);
    let ask = Ask { reads: &[read(b"k", 5, false)], writes: &[write(b"k", Some(b"new"))], ..Ask::default() };
    let proposal = prepare(&mut store, 1, &ask).unwrap();
    assert_eq!(store.read(T, b"k").err(), Some(txn(1)));
    assert!(commit(&mut store, 1, proposal, &Told::default()).was_prepared);
    assert!(store.locks.is_empty());
    assert_eq!(value(&store, b"k"), Some(b"new".to_vec()));
}

const ROWS: &[Stored<'static>] = &[
    (b"b", 1, Some(b"")),
    (b"d", 2, Some(b"")),
    (b"f", 3, None),
    (b"h", 4, Some(b"")),
    (b"j", 5, Some(b"")),
];

/// A scan that its limit stopped has seen nothing behind its last row: a change there must not abort it,
/// and a change before it must.
#[test]
fn a_limited_scan_answers_for_the_part_it_has_seen_and_no_more() {
    let forward = span(b"a", b"z", 3, false);
    let backward = span(b"a", b"z", 3, true);
    let cases: [(ScanRange<'_>, &[u8], bool); 12] = [
        (forward, b"a", false),
        (forward, b"c", false),
        (forward, b"f", false),
        (forward, b"h", false),
        (forward, b"h\0", true),
        (forward, b"j", true),
        (backward, b"b", true),
        (backward, b"c", true),
        (backward, b"d", false),
        (backward, b"f", false),
        (backward, b"k", false),
        (backward, b"z", true),
    ];
    for (range, key, harmless) in cases {
        let mut changed = store(ROWS);
        let scans = [scanned(&changed, range)];
        changed.replay(Timestamp(9), [(T, key, Some(&b"new"[..]))].into_iter());
        let vote = prepare(&mut changed, 1, &Ask { scans: &scans, ..Ask::default() });
        assert_eq!(vote.is_ok(), harmless, "{range:?} and a change of {key:?}");

        let mut locked = store(ROWS);
        prepare(&mut locked, 1, &Ask { scans: &scans, ..Ask::default() }).unwrap();
        assert_eq!(locked.holder(T, key).is_none(), harmless, "{range:?} and a write of {key:?}");
    }
}

/// A scan that ended before its limit has seen that there is nothing more.
#[test]
fn a_scan_that_reached_the_end_of_its_range_answers_for_all_of_it() {
    for reverse in [false, true] {
        let mut store = store(ROWS);
        let scans = [scanned(&store, span(b"c", b"i", 3, reverse))];
        prepare(&mut store, 1, &Ask { scans: &scans, ..Ask::default() }).unwrap();
        for (key, locked) in [(b"b", false), (b"c", true), (b"e", true), (b"i", false)] {
            assert_eq!(store.holder(T, key).is_some(), locked, "{key:?}, reverse {reverse}");
        }
    }
}

/// The watermark of the shard is the least of these promises: one that reached a proposal would call
/// everything below it replicated while a transaction may yet commit there.
#[test]
fn no_promise_reaches_the_lowest_proposal_while_it_is_undecided() {
    let mut store = store(&[]);
    let ask = |hold_ns| Ask { hold_ns, ..Ask::default() };
    store.clock.observe(NOW.plus_ns(10));
    let near = prepare(&mut store, 1, &ask(0)).unwrap();
    let far = prepare(&mut store, 2, &ask(u64::MAX)).unwrap();
    assert_eq!((near, far), (NOW.plus_ns(11), NOW.plus_ns(HOLD_NS_MAX)));
    let late = NOW.plus_ns(2 * HOLD_NS_MAX);
    assert_eq!(store.promise(late), near.prev());
    assert!(store.abort(txn(1)));
    assert_eq!(store.promise(late), far.prev());
    assert!(prepare(&mut store, 3, &ask(0)).unwrap() > late, "the clock has been read at {late:?}");
    let decided = late.plus_ns(500);
    commit(&mut store, 2, decided, &Told::default());
    assert_eq!(store.promise(late), late, "the third stands above its clock reading");
    assert!(store.abort(txn(3)));
    assert_eq!(store.promise(late), late, "what stands ahead is promised when time gets there");
    assert_eq!(store.promise(decided), decided);
}

/// A clock that followed would put strangers above proposals that are still undecided, and they would wait for
/// those; one that stayed without the floors would put who meets it below it.
#[test]
fn what_is_decided_ahead_of_the_clock_raises_only_those_who_meet_it() {
    let mut store = store(&[(b"read", 5, Some(b"v")), (b"written", 6, Some(b"v"))]);
    let scans = [scanned(&store, span(b"m", b"p", 9, false))];
    let (reads, writes) = ([read(b"read", 5, false)], [write(b"written", Some(b"new"))]);
    prepare(&mut store, 1, &Ask { reads: &reads, scans: &scans, writes: &writes, ..Ask::default() }).unwrap();
    let ahead = NOW.plus_ns(20 * CLOCK_LEAD_NS);
    commit(&mut store, 1, ahead, &Told::default());
    assert!(store.clock.last() < ahead && store.stands_ahead());

    let (seen, scans) = ([read(b"written", ahead.0, false)], [scanned(&store, span(b"v", b"x", 9, false))]);
    let cases: [(Ask<'_>, bool); 7] = [
        (Ask { reads: &seen, ..Ask::default() }, true),
        (Ask { scans: &scans, ..Ask::default() }, true),
        (Ask { writes: &[write(b"written", None)], ..Ask::default() }, true),
        (Ask { writes: &[write(b"read", None)], ..Ask::default() }, true),
        (Ask { writes: &[write(b"n", None)], ..Ask::default() }, true),
        (Ask { reads: &reads, ..Ask::default() }, false),
        (Ask { writes: &[write(b"p", None)], ..Ask::default() }, false),
    ];
    for (number, (ask, meets)) in (2..).zip(&cases) {
        let proposal = prepare(&mut store, number, ask).unwrap();
        assert_eq!(proposal > ahead, *meets, "case {number}: {proposal:?}");
        assert!(store.abort(txn(number)));
    }
    assert_eq!(store.promise(NOW.plus_ns(5)), NOW.plus_ns(5), "the clock goes on from where it was");
    assert_eq!(store.promise(ahead), ahead);
    assert!(!store.stands_ahead());
}

/// At most once is promised of a message, not of a coordinator that asks again.
#[test]
fn a_repeated_prepare_gets_the_same_vote_and_holds_nothing_twice() {
    let mut store = store(&[]);
    let writes = [write(b"k", Some(b"v"))];
    let ask = Ask { writes: &writes, ..Ask::default() };
    let first = prepare(&mut store, 1, &ask).unwrap();
    store.clock.observe(first.plus_ns(99));
    assert_eq!(prepare(&mut store, 1, &ask), Ok(first));
    assert_eq!(store.prepared().len(), 1);
    assert!(store.abort(txn(1)));
    assert!(store.locks.is_empty() && store.prepared().lowest_proposal().is_none());
}

#[test]
fn a_decision_installs_logs_and_unlocks_once() {
    let (mut store, known) = (store(&[(b"old", 1, Some(b"v"))]), Told::default());
    let writes = [write(b"new", Some(b"v")), write(b"old", None)];
    let proposal = prepare(&mut store, 1, &Ask { writes: &writes, ..Ask::default() }).unwrap();
    let done = commit(&mut store, 1, proposal.plus_ns(5), &known);
    assert!(done.was_prepared && done.held.is_some());
    assert_eq!((value(&store, b"new"), value(&store, b"old")), (Some(b"v".to_vec()), None));
    assert_eq!((store.batch.count(), store.window.len()), (1, 1));
    assert!(store.locks.is_empty());
    assert!(!commit(&mut store, 1, proposal.plus_ns(5), &known).was_prepared);
    assert!(!commit(&mut store, 2, proposal, &known).was_prepared, "never prepared here");
    assert_eq!((store.batch.count(), store.window.len()), (1, 1));
}

/// What rests on a transaction that is gone must not be installed, however late the news came: the sweep
/// for that news is over.
#[test]
fn a_decision_that_rests_on_what_is_lost_only_unlocks() {
    let (mut store, mut known) = (store(&[]), Told::default());
    let writes = [write(b"k", Some(b"v"))];
    let proposal = prepare(&mut store, 1, &Ask { writes: &writes, ..Ask::default() }).unwrap();
    known.closed(THEIRS, proposal.0 - 1);
    let done = commit(&mut store, 1, proposal, &known);
    assert!(done.was_prepared && done.held.is_none());
    assert_eq!(value(&store, b"k"), None);
    assert!(store.batch.is_empty() && store.window.is_empty() && store.locks.is_empty());
}

#[test]
fn a_transaction_that_wrote_nothing_anywhere_is_held_for_its_reply_and_not_logged() {
    let mut store = store(&[]);
    for (number, token) in [(1, Some(7)), (2, None)] {
        let timestamp = prepare(&mut store, number, &Ask::default()).unwrap().plus_ns(100);
        let deps = deps(&[(OURS, timestamp.0)]);
        let commit = Commit { txn: txn(number), timestamp, deps: &deps, participants: &[] };
        let done = store.commit(NOW, &commit, token, &Told::default());
        assert_eq!((done.was_prepared, done.held.is_some()), (true, token.is_some()));
        // What was read here must not be overwritten at a timestamp below that of its reader.
        assert!(store.clock.propose(NOW, 0) > timestamp);
    }
    assert_eq!((store.batch.count(), store.window.len()), (0, 1));
}

/// Asked once a timeout, not once a turn; and the oldest first.
#[test]
fn an_undecided_transaction_is_named_when_overdue_and_again_after_as_long() {
    let mut store = store(&[]);
    prepare(&mut store, 1, &Ask { hold_ns: 50, ..Ask::default() }).unwrap();
    prepare(&mut store, 2, &Ask::default()).unwrap();
    let mut overdue = |after_ns| {
        let mut out = Vec::new();
        store.prepared_mut().overdue(NOW.plus_ns(after_ns), 100, &mut out);
        out
    };
    assert_eq!(overdue(99), []);
    assert_eq!(overdue(100), [txn(2), txn(1)]);
    assert_eq!(overdue(199), []);
    assert_eq!(overdue(200), [txn(2), txn(1)]);
}

#[test]
fn orphans_are_those_of_a_coordinator_whose_reign_is_over() {
    let (mut store, mut known) = (store(&[]), Told::default());
    prepare(&mut store, 1, &Ask::default()).unwrap();
    let later = TxnId { epoch: Epoch(2 << 16), ..txn(2) };
    let (epoch, home, deps) = (OURS.epoch, THEIRS.shard, Deps::default());
    let request = PrepareRequest {
        txn: later,
        epoch,
        home,
        hold_ns: 0,
        deps: &deps,
        reads: &[],
        scans: &[],
        writes: &[],
    };
    store.prepare(NOW, &request, &known).unwrap();
    assert_eq!(store.prepared().orphans(&known), []);
    known.closed(THEIRS, 1);
    assert_eq!(store.prepared().orphans(&known), [txn(1)]);
}
