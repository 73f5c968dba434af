//! When a leader proposes what, on a stage where slots are chosen when the test says so.
#![forbid(unsafe_code)]

use super::super::admission::Admission;
use super::super::recovery::Recovery;
use super::super::stage::{NOW, PaperLog, T, config};
use super::*;
use crate::bounds::{CLOCK_LEAD_NS, HOLD_NS_MAX, MAX_CLOCK_SKEW_NS};
use crate::partition::NoProcedure;
use crate::rpc::Rpc;
use crate::txn::{Install, PrepareRequest};
use crate::types::{CoreId, Stamp, TxnId, Value};
use crate::wire::{Deps, Verdict};

/// The only replica of its partition. Its own vote counts once the log has it, so a slot is in flight
/// until `flush`.
struct Leader {
    replica: Replica<NoProcedure>,
    known: Knowledge,
    log: PaperLog,
    post: Post,
    handed: VecDeque<Handed>,
    now: Timestamp,
    /// Slots proposed that the test has looked at.
    seen: u64,
}

impl Leader {
    fn new() -> Leader {
        let config = config(1, 1, Durability::QuorumDisk);
        let me = Endpoint { node: NodeId(0), core: CoreId(0) };
        let entry = Admission::new(&Recovery::nothing()).entry(false, 0);
        let mut leader = Leader {
            replica: Replica::new(me.node, PartitionId(0), &config, None, entry),
            known: Knowledge::new(2),
            log: PaperLog::default(),
            post: Post::new(me, 1, Rpc::new(me, 1, 1, 1)),
            handed: VecDeque::new(),
            now: NOW,
            seen: 0,
        };
        leader.replica.campaign(Ballot { round: 1, node: me.node });
        leader.run();
        leader.flush();
        assert!(leader.replica.leads() && !leader.replica.open, "the seal is in flight");
        leader.flush();
        assert_eq!(leader.replica.news.pop_front(), Some(News::Sealed(leader.replica.stream.leader())));
        leader.replica.propose_facts(leader.now, &[]);
        leader.replica.propose(leader.now, Timestamp::default());
        leader.run();
        leader.flush();
        assert!(matches!(leader.replica.news.pop_front(), Some(News::Facts(_, facts)) if facts.is_empty()));
        leader.replica.open(&leader.known);
        assert_eq!(leader.proposed(), [BatchKind::Seal, BatchKind::Facts]);
        leader.replica.end_turn(leader.now);
        leader.run();
        leader
    }

    fn run(&mut self) {
        let Leader { replica, known, log, post, handed, now, .. } = self;
        replica.run_stream(*now, known, log, post, handed, &mut Asker::Nobody);
    }

    /// The log is durable through all it holds: everything in flight is chosen.
    fn flush(&mut self) {
        while let Some(handed) = self.handed.pop_front() {
            self.replica.on_durable(&handed.what);
        }
        self.run();
    }

    /// Offers the leader to propose; the kinds of what it did.
    fn propose(&mut self, wanted: Timestamp) -> Vec<BatchKind> {
        self.replica.propose(self.now, wanted);
        self.run();
        self.proposed()
    }

    fn proposed(&mut self) -> Vec<BatchKind> {
        let slots = self.seen..self.replica.stream.next_slot().0;
        self.seen = slots.end;
        let kind =
            |slot| BatchView::parse(self.replica.stream.accepted(Slot(slot)).unwrap().1).unwrap().kind();
        slots.map(kind).collect()
    }

    fn last_promise(&self) -> Timestamp {
        let last = Slot(self.replica.stream.next_slot().0 - 1);
        BatchView::parse(self.replica.stream.accepted(last).unwrap().1).unwrap().promise()
    }

    fn commit(&mut self, bytes: usize) {
        let store = &mut *self.replica.store.borrow_mut();
        let timestamp = store.clock.tick(self.now);
        let mut deps = Deps::default();
        deps.add(store.stamp(), timestamp).unwrap();
        let entry = Install { txn: TxnId::default(), timestamp, deps: &deps, participants: &[], token: None };
        let value = Value::new(&vec![0; bytes]);
        store.install(&entry, self.now, &self.known, [(T, &b"k"[..], Some(&value))].into_iter());
    }

    fn prepare(&mut self, number: u64, hold_ns: u64) -> TxnId {
        let txn = TxnId { number, ..TxnId::default() };
        let store = &mut *self.replica.store.borrow_mut();
        let (epoch, home, deps) = (store.epoch, ShardId(0), Deps::default());
        let request =
            PrepareRequest { txn, epoch, home, hold_ns, deps: &deps, reads: &[], scans: &[], writes: &[] };
        store.prepare(self.now, &request, &self.known).unwrap();
        txn
    }

    fn pass(&mut self, ns: u64) {
        self.now = self.now.plus_ns(ns);
    }

    fn batch_delay_ns(&self) -> u64 {
        self.replica.config.batch_delay_ns
    }
}

/// DESIGN §3: a lone transaction is durable after one round trip, not after a timer.
#[test]
fn a_noop_is_proposed_at_once_when_somebody_waits_and_nothing_is_in_flight() {
    let mut leader = Leader::new();
    let promised = leader.replica.proposed();
    assert_eq!(leader.propose(Timestamp::default()), [], "nobody waits");
    assert_eq!(leader.propose(promised), [], "what is wanted has been promised");
    let wanted = leader.now.plus_ns(50);
    assert_eq!(leader.propose(wanted), [BatchKind::Noop]);
    assert!(leader.last_promise() >= wanted, "it is for this that it was proposed");
    assert_eq!(leader.propose(wanted), []);
}

/// Else every turn of a busy cluster would add a slot to every stream.
#[test]
fn while_a_slot_is_in_flight_noops_keep_the_distance_of_a_batch() {
    let mut leader = Leader::new();
    leader.commit(1);
    assert_eq!(leader.propose(Timestamp::default()), [BatchKind::Entries]);
    leader.pass(leader.batch_delay_ns() - 1);
    assert_eq!(leader.propose(leader.now), []);
    leader.pass(1);
    assert_eq!(leader.propose(leader.now), [BatchKind::Noop]);
    leader.pass(leader.batch_delay_ns() - 1);
    assert_eq!(leader.propose(leader.now), []);
    leader.flush();
    assert_eq!(leader.propose(leader.now), [BatchKind::Noop]);
}

/// Its promise would stand below the prepared transaction, where the last one stands: a slot for nothing,
/// again and again until the decision comes.
#[test]
fn no_noop_is_proposed_behind_a_prepared_transaction_that_it_could_not_pass() {
    let mut leader = Leader::new();
    leader.pass(500);
    let txn = leader.prepare(1, 0);
    leader.pass(500);
    assert_eq!(
        leader.propose(leader.now),
        [BatchKind::Noop],
        "up to the proposal there is something to promise"
    );
    leader.flush();
    assert_eq!(leader.last_promise(), NOW.plus_ns(499));
    assert_eq!(leader.propose(leader.now), []);
    assert!(leader.replica.store.borrow_mut().abort(txn));
    assert_eq!(leader.propose(leader.now), [BatchKind::Noop]);
    assert_eq!(leader.last_promise(), leader.now);
}

/// A proposal that allows for the way of the decision does not hold up those who need less.
#[test]
fn a_noop_passes_under_a_proposal_in_the_future() {
    let mut leader = Leader::new();
    leader.prepare(1, HOLD_NS_MAX);
    leader.pass(1_000);
    assert_eq!(leader.propose(leader.now), [BatchKind::Noop]);
    assert_eq!(leader.last_promise(), leader.now);
}

/// A clock dragged along by a wish could not be set back, and no timestamp after it would be believed.
#[test]
fn a_wish_that_no_correct_clock_could_have_is_not_granted() {
    let mut leader = Leader::new();
    let absurd = leader.now.plus_ns(MAX_CLOCK_SKEW_NS + 1);
    assert_eq!(leader.propose(absurd), []);
    leader.commit(1);
    assert_eq!(leader.propose(absurd), [BatchKind::Entries]);
    assert!(leader.last_promise() < leader.now.plus_ns(1_000));
    leader.flush();
}

/// A decision that stands ahead of the clock is waited for; a clock that jumped there would take everybody
/// along, and one that was deaf to small wishes would make them wait for the skew between two machines.
#[test]
fn a_wish_moves_the_clock_a_little_and_the_rest_comes_with_time() {
    let mut leader = Leader::new();
    let near = leader.now.plus_ns(CLOCK_LEAD_NS);
    assert_eq!(leader.propose(near), [BatchKind::Noop]);
    assert_eq!(leader.last_promise(), near);
    leader.flush();
    let far = leader.now.plus_ns(10 * CLOCK_LEAD_NS);
    assert_eq!(leader.propose(far), []);
    let mut turns = 0;
    while leader.last_promise() < far {
        let due = leader.replica.deadline().expect("somebody waits");
        leader.pass(due.since(leader.now).max(1));
        leader.propose(far);
        leader.flush();
        turns += 1;
    }
    assert!(leader.now <= far && turns <= 10, "{turns} turns, until {:?}", leader.now);
}

/// What piles up while a slot is in flight shares the next one; nothing waits longer than the delay.
#[test]
fn entries_leave_at_once_when_it_is_calm_and_share_a_batch_when_it_is_not() {
    let mut leader = Leader::new();
    leader.commit(1);
    assert_eq!(leader.propose(Timestamp::default()), [BatchKind::Entries]);
    leader.commit(1);
    leader.pass(leader.batch_delay_ns() - 1);
    leader.commit(1);
    assert_eq!(leader.propose(Timestamp::default()), []);
    assert_eq!(leader.replica.deadline(), Some(leader.now.plus_ns(1)));
    leader.pass(1);
    assert_eq!(leader.propose(Timestamp::default()), [BatchKind::Entries]);
    assert_eq!(
        BatchView::parse(leader.replica.stream.accepted(Slot(leader.seen - 1)).unwrap().1).unwrap().count(),
        2
    );
    leader.commit(1);
    leader.flush();
    assert_eq!(leader.propose(Timestamp::default()), [BatchKind::Entries]);
}

/// And carries the promise that somebody waits for, so that no no-op is needed behind it.
#[test]
fn a_batch_of_entries_promises_what_is_wanted() {
    let mut leader = Leader::new();
    let wanted = leader.now.plus_ns(5_000);
    leader.commit(1);
    assert_eq!(leader.propose(wanted), [BatchKind::Entries]);
    assert!(leader.last_promise() >= wanted);
    leader.flush();
    assert_eq!(leader.propose(wanted), []);
}

/// A batch must not outgrow a message, and invariant 2: an entry that came after the promise was taken
/// could stand below it.
#[test]
fn a_full_batch_is_closed_and_takes_no_more() {
    let mut leader = Leader::new();
    leader.commit(1);
    assert_eq!(leader.propose(Timestamp::default()), [BatchKind::Entries]);
    leader.commit(leader.replica.config.batch_bytes);
    leader.replica.close_full_batch(leader.now);
    let promised = leader.replica.proposed();
    leader.commit(1);
    leader.replica.close_full_batch(leader.now);
    assert_eq!(leader.propose(Timestamp::default()), [BatchKind::Entries], "it waits for nothing");
    assert_eq!(leader.last_promise(), promised);
    leader.pass(leader.batch_delay_ns());
    assert_eq!(leader.propose(Timestamp::default()), [BatchKind::Entries]);
    let entry = leader.replica.stream.accepted(Slot(leader.seen - 1)).unwrap().1.clone();
    let entry = BatchView::parse(&entry).unwrap().entries().next().unwrap().timestamp;
    assert!(entry > promised, "{entry:?} came after the promise {promised:?}");
}

/// Followers take silence for death, whatever the reason: a heartbeat goes even where it can promise nothing.
#[test]
fn an_idle_leader_is_heard_every_interval_and_says_when_it_is_due() {
    let mut leader = Leader::new();
    leader.prepare(1, 0);
    for _ in 0..3 {
        leader.replica.end_turn(leader.now);
        leader.run();
        leader.flush();
        let due = leader.replica.deadline().unwrap();
        assert!(due > leader.now && due <= leader.now.plus_ns(HEARTBEAT_INTERVAL_NS), "{due:?}");
        leader.pass(HEARTBEAT_INTERVAL_NS - 1);
        assert_eq!(leader.propose(Timestamp::default()), []);
        leader.pass(1);
        assert_eq!(leader.propose(Timestamp::default()), [BatchKind::Noop]);
    }
}

/// The mark is what others release transactions on: before the log has the slot it is not replicated.
#[test]
fn the_mark_rises_when_the_slot_is_chosen_and_not_when_it_is_proposed() {
    let mut leader = Leader::new();
    let before = leader.replica.mark();
    leader.commit(1);
    leader.propose(Timestamp::default());
    assert_eq!(leader.replica.mark(), before);
    let promised = leader.last_promise();
    leader.flush();
    assert_eq!(leader.replica.mark().timestamp, promised);
    assert!(promised > before.timestamp);
}

/// Batches that the pipeline does not take pile up in memory.
#[test]
fn batches_that_wait_for_the_pipeline_end_the_room() {
    let mut leader = Leader::new();
    let mut closed = 0;
    while leader.replica.has_room(leader.now) {
        leader.commit(leader.replica.config.batch_bytes);
        leader.replica.close_full_batch(leader.now);
        closed += 1;
    }
    assert_eq!(closed, CLOSED_BATCHES_MAX);
    leader.propose(Timestamp::default());
    assert!(leader.replica.has_room(leader.now));
}

/// A participant that its coordinator left waiting asks whoever leads there now. It may be the same replica
/// again, or one that took the decision over in a reign that is over as well: told "aborted" by it, the participant would
/// drop its part of what is in the log of the others (seed 8052).
#[test]
fn a_decision_is_known_again_by_whoever_leads_after_another_change() {
    let mut leader = Leader::new();
    let txn = TxnId { number: 7, ..TxnId::default() };
    let participants = [PartitionId(0), PartitionId(1)];
    let at = {
        let store = &mut *leader.replica.store.borrow_mut();
        let (timestamp, elsewhere) =
            (store.clock.tick(leader.now), Stamp { shard: ShardId(1), epoch: Epoch(9) });
        let mut deps = Deps::default();
        deps.add(elsewhere, timestamp).unwrap();
        let entry = Install { txn, timestamp, deps: &deps, participants: &participants, token: None };
        store.install(
            &entry,
            leader.now,
            &leader.known,
            [(T, &b"k"[..], Some(&Value::new(&[1])))].into_iter(),
        );
        timestamp
    };
    let verdict = |leader: &Leader| leader.replica.store.borrow().recovered(txn, &leader.known);
    for _ in 0..2 {
        assert!(matches!(
            verdict(&leader),
            Some(Verdict::Committed { timestamp, participants: told, .. }) if timestamp == at && told[..] == participants
        ));
        leader.replica.demote();
    }
    leader.known.learn_closed(Stamp { shard: ShardId(1), epoch: Epoch(9) }, at.prev());
    assert_eq!(verdict(&leader), None, "it is lost");
}
