//! A coordinator alone: what it asks, how it decides, what it remembers, and how it gives up.
#![forbid(unsafe_code)]

use super::super::handle::Txn;
use super::super::told::Told;
use super::*;
use crate::bounds::{MAX_CLOCK_SKEW_NS, MS};
use crate::config::{LocalCluster, Routing, Table};
use crate::types::{Ballot, NodeId, TableId, Value};
use std::cell::Cell;

const T: TableId = TableId(0);
const HOME: PartitionId = PartitionId(0);
/// The two partitions of another shard, and one of a third.
const NEAR: PartitionId = PartitionId(2);
const NEXT: PartitionId = PartitionId(3);
const FAR: PartitionId = PartitionId(4);
const NOW: Timestamp = Timestamp(1_000_000_000);

/// A procedure as a list of steps. The first byte of a key is its partition.
#[derive(Default)]
struct Plan {
    steps: Vec<Step>,
    runs: Cell<u32>,
    /// What the last run read, first bytes of values.
    read: RefCell<Vec<Option<u8>>>,
}

enum Step {
    Get(u8, u8),
    Put(u8, u8),
    Scan(u8),
}
use Step::{Get, Put, Scan};

impl Procedure for Plan {
    async fn run(&self, txn: &Txn) -> Result<(), Abort> {
        self.runs.set(self.runs.get() + 1);
        self.read.borrow_mut().clear();
        for step in &self.steps {
            match *step {
                Get(partition, key) => {
                    let value = txn.get(T, &[partition, key]).await?;
                    self.read.borrow_mut().push(value.map(|value| value[0]));
                }
                Put(partition, key) => txn.put(T, &[partition, key], &[key])?,
                Scan(partition) => drop(txn.scan(T, &[partition, 0], Some(&[partition, 9]), 5).await?),
            }
        }
        Ok(())
    }
}

/// The first partition of three shards with two each.
struct Home {
    coordinator: Coordinator<Plan>,
    config: Rc<Config>,
    store: Rc<RefCell<Store>>,
    known: Told,
    prng: Prng,
    now: Timestamp,
    out: Vec<Effect<Plan>>,
}

fn epoch(node: u16) -> Epoch {
    Ballot { round: 1, node: NodeId(node) }.epoch()
}

fn stamp(shard: u16) -> Stamp {
    Stamp { shard: ShardId(shard), epoch: epoch(0) }
}

impl Home {
    fn new() -> Home {
        let tables = vec![Table { name: "t".to_string(), routing: Routing::Int(1) }];
        let flags = LocalCluster { shards: 3, replicas: 1, partitions: 2, tables, ..LocalCluster::default() };
        let config = Rc::new(Config::local(&flags).unwrap());
        let mut store = Store::new(ShardId(0), 1);
        store.epoch = epoch(0);
        let mut known = Told::default();
        (0..3).for_each(|shard| known.mark(stamp(shard), 1));
        Home {
            coordinator: Coordinator::new(HOME, ShardId(0)),
            config,
            store: Rc::new(RefCell::new(store)),
            known,
            prng: Prng::with_seed(1),
            now: NOW,
            out: Vec::new(),
        }
    }

    fn with<R>(&mut self, event: impl FnOnce(&mut Coordinator<Plan>, &mut Env<'_, Plan, Told>) -> R) -> R {
        let Home { coordinator, config, store, known, prng, now, out } = self;
        event(coordinator, &mut Env { now: *now, config, store, known, prng, out })
    }

    fn start(&mut self, steps: Vec<Step>) {
        let plan = Plan { steps, ..Plan::default() };
        self.with(|coordinator, env| coordinator.start(env, 7, plan, None, 0));
    }

    fn vote(&mut self, id: TxnId, from: PartitionId, at: u64) {
        self.with(|coordinator, env| coordinator.on_vote(env, id, from, epoch(0), Timestamp(at)));
    }

    fn refuse(&mut self, id: TxnId, from: PartitionId, why: Refusal) {
        self.with(|coordinator, env| coordinator.on_refused(env, id, from, why));
    }

    /// A remote read is answered: the key has this version, and that is its value.
    fn answer(&mut self, id: TxnId, key: [u8; 2], version: u64) {
        let value = Some(Value::new(&[version as u8]));
        let take = |run: &mut super::super::context::Run| {
            run.on_read(T, &key, Timestamp(version), value, &Deps::default());
        };
        self.with(|coordinator, env| coordinator.on_answer(env, id, take));
    }

    /// Lets every backoff end.
    fn wait(&mut self) {
        self.now = self.now.plus_ns(BACKOFF_NS_MAX);
        self.with(|coordinator, env| coordinator.on_tick(env));
    }

    /// The effects since this was last called, in short.
    fn said(&mut self) -> Vec<String> {
        let short = |effect: Effect<Plan>| match effect {
            Effect::Ask { to, message, .. } => {
                let message = Message::decode(&message).unwrap();
                assert_eq!(message.partition(), Some(to));
                format!("{:?} {}", message.kind(), to.0)
            }
            Effect::Reply { reply: Reply::Speculative { .. }, .. } => "speculative".to_string(),
            Effect::Reply { reply: Reply::Durable { .. }, .. } => "durable".to_string(),
            Effect::Reply { reply: Reply::RolledBack, .. } => "rolled back".to_string(),
            Effect::Reply { reply: Reply::Aborted { abort, attempts }, .. } => {
                format!("{abort:?} after {attempts}")
            }
            Effect::Park { .. } => "park".to_string(),
            Effect::Unlocked { .. } => "unlocked".to_string(),
            Effect::Retried => "retried".to_string(),
        };
        self.out.drain(..).map(short).collect()
    }

    /// The transaction that the last question was asked for.
    fn id(&self) -> TxnId {
        let asked = self.out.iter().rev().find_map(|effect| match effect {
            Effect::Ask { message, .. } => match Message::decode(message).unwrap() {
                Message::Read { txn, .. } | Message::Scan { txn, .. } | Message::Prepare { txn, .. } => {
                    Some(txn)
                }
                _ => None,
            },
            _ => None,
        });
        asked.expect("something was asked")
    }

    /// Prepared at home and asked of the two partitions of the other shard.
    fn preparing(&mut self) -> TxnId {
        self.start(vec![Put(0, 1), Put(2, 1), Put(3, 1)]);
        let id = self.id();
        assert_eq!(self.said(), ["Prepare 2", "Prepare 3"]);
        id
    }

    fn decided(&mut self) -> TxnId {
        let id = self.preparing();
        self.vote(id, NEAR, NOW.0 + 10);
        self.vote(id, NEXT, NOW.0 + 20);
        assert_eq!(self.said(), ["speculative", "unlocked", "Commit 2", "Commit 3"]);
        id
    }

    fn locks_are_free(&self) -> bool {
        let store = self.store.borrow();
        store.prepared().is_empty() && (0..9).all(|key| store.holder(T, &[0, key]).is_none())
    }
}

/// DESIGN §4, step 3: the whole point of dependencies is that nobody is left out, least of all who only read.
#[test]
fn the_decision_is_above_every_proposal_and_rests_on_every_participant() {
    let mut home = Home::new();
    home.start(vec![Get(4, 1), Put(2, 1)]);
    let id = home.id();
    assert_eq!(home.said(), ["Read 4"]);
    home.answer(id, [4, 1], 5);
    assert_eq!(home.said(), ["Prepare 4", "Prepare 2"]);
    home.vote(id, FAR, NOW.0 + 30);
    assert!(home.said().is_empty(), "one vote is missing");
    home.vote(id, NEAR, NOW.0 + 20);
    let commit = home.out.iter().find_map(|effect| match effect {
        Effect::Ask { to: FAR, message, .. } => Some(message.clone()),
        _ => None,
    });
    let commit = commit.expect("the reader is told as well");
    let Ok(Message::Commit { timestamp, deps, participants, .. }) = Message::decode(&commit) else {
        panic!("a commit")
    };
    assert_eq!(timestamp, NOW.plus_ns(30));
    let expected: Vec<_> = [0, 1, 2].map(|shard| (stamp(shard), timestamp)).into();
    assert_eq!(deps.iter().collect::<Vec<_>>(), expected);
    assert_eq!(participants[..], [HOME, FAR, NEAR]);
}

/// Between the two votes the shard changed leader: the first part may be gone.
#[test]
fn votes_of_two_epochs_of_one_shard_abort() {
    let mut home = Home::new();
    let id = home.preparing();
    home.vote(id, NEAR, NOW.0 + 10);
    home.with(|coordinator, env| coordinator.on_vote(env, id, NEXT, epoch(1), NOW.plus_ns(10)));
    assert_eq!(home.said(), ["Abort 2", "Abort 3", "unlocked", "retried"]);
    assert!(home.locks_are_free());
    home.wait();
    assert!(home.id() != id, "votes for the attempt that is over must not count for the next");
    assert_eq!(home.said(), ["Prepare 2", "Prepare 3"]);
}

/// Its participant has locked everything and waits for a word that would otherwise come after a timeout.
#[test]
fn a_vote_for_an_attempt_that_is_over_is_answered_with_an_abort() {
    let mut home = Home::new();
    let id = home.preparing();
    home.refuse(id, NEAR, Refusal::Locked);
    assert_eq!(home.said(), ["retried"]);
    home.vote(id, NEXT, NOW.0 + 10);
    assert_eq!(home.said(), ["Abort 3"]);
    home.vote(TxnId { number: 99, ..id }, FAR, NOW.0 + 10);
    assert_eq!(home.said(), ["Abort 4"]);
}

/// An abort would overtake the commit that is on its way.
#[test]
fn a_repeated_vote_for_what_is_decided_changes_nothing() {
    let mut home = Home::new();
    let id = home.decided();
    home.vote(id, NEAR, NOW.0 + 10);
    home.refuse(id, NEAR, Refusal::Locked);
    assert!(home.said().is_empty());
    let other_reign = TxnId { epoch: epoch(1), ..id };
    home.vote(other_reign, NEAR, NOW.0 + 10);
    assert_eq!(home.said(), ["Abort 2"], "the same number in another reign is another transaction");
}

#[test]
fn a_refusal_tells_those_who_voted_and_one_undoes_an_attempt() {
    let mut home = Home::new();
    let id = home.preparing();
    home.vote(id, NEAR, NOW.0 + 10);
    home.refuse(id, NEXT, Refusal::Changed);
    assert_eq!(home.said(), ["Abort 2", "retried"]);
    home.refuse(id, NEAR, Refusal::Changed);
    assert!(home.said().is_empty() && home.locks_are_free());
    home.wait();
    let id = home.id();
    home.vote(id, NEAR, NOW.0);
    home.vote(id, NEXT, NOW.0);
    let attempts = home.out.iter().find_map(|effect| match effect {
        Effect::Reply { reply: Reply::Speculative { attempts, .. }, .. } => Some(*attempts),
        _ => None,
    });
    assert_eq!(attempts, Some(2));
}

/// A participant whose clock runs ahead would take ours with it; and it is prepared, like any that voted.
#[test]
fn a_proposal_too_far_ahead_undoes_the_attempt_and_frees_who_made_it() {
    let mut home = Home::new();
    let id = home.preparing();
    home.vote(id, NEAR, NOW.0 + MAX_CLOCK_SKEW_NS + 1);
    assert_eq!(home.said(), ["Abort 2", "retried"]);
}

/// Who asks must never hear "aborted" of a transaction that a reply was given for, nor "committed" of
/// another that happens to have its number.
#[test]
fn the_verdict_follows_the_attempt() {
    let mut home = Home::new();
    home.start(vec![Get(2, 1), Put(3, 1)]);
    let id = home.id();
    assert_eq!(home.coordinator.verdict(id), Verdict::Aborted, "nobody can be prepared yet");
    home.answer(id, [2, 1], 5);
    assert_eq!(home.coordinator.verdict(id), Verdict::Pending);
    let other_reign = TxnId { epoch: epoch(1), ..id };
    assert_eq!(home.coordinator.verdict(other_reign), Verdict::Aborted);
    home.vote(id, NEAR, NOW.0 + 10);
    home.vote(id, NEXT, NOW.0 + 20);
    let Verdict::Committed { timestamp, deps, participants } = home.coordinator.verdict(id) else {
        panic!("decided")
    };
    assert_eq!((timestamp, deps.len(), participants.len()), (NOW.plus_ns(20), 2, 3));
    assert_eq!(home.coordinator.verdict(other_reign), Verdict::Aborted);
    assert_eq!(home.coordinator.verdict(TxnId { number: 99, ..id }), Verdict::Aborted);
}

/// Invariant 2: forgotten too early, a decision turns into "aborted" for the participant that asks.
#[test]
fn a_decision_is_remembered_until_every_participant_has_acknowledged_it() {
    let mut home = Home::new();
    let id = home.decided();
    let committed = |home: &Home| matches!(home.coordinator.verdict(id), Verdict::Committed { .. });
    for (id, from) in [(id, NEAR), (id, NEAR), (id, FAR), (TxnId { epoch: epoch(1), ..id }, NEXT)] {
        home.coordinator.on_done(id, from);
        assert!(committed(&home), "{from:?} of {id:?}");
    }
    home.coordinator.on_done(id, NEXT);
    assert!(!committed(&home) && home.coordinator.is_idle());
}

/// The decision was not replicated: nobody else would tell it. Told again at once, to a peer whose queue is full,
/// it would fail again at once, for ever.
#[test]
fn a_commit_that_did_not_arrive_is_told_again_after_a_pause_to_who_has_not_acknowledged() {
    let mut home = Home::new();
    let id = home.decided();
    let ticket = Ticket::Commit { number: id.number };
    for _ in 0..3 {
        home.with(|coordinator, env| coordinator.on_unreachable(env, ticket, NEXT));
        assert!(home.said().is_empty());
        home.now = home.coordinator.deadline().expect("it is told again some time");
        home.with(|coordinator, env| coordinator.on_tick(env));
        assert_eq!(home.said(), ["Commit 3"]);
        assert_eq!(home.coordinator.deadline(), None, "once at a time");
    }
    home.with(|coordinator, env| coordinator.on_unreachable(env, ticket, NEXT));
    home.coordinator.on_done(id, NEXT);
    home.now = home.coordinator.deadline().expect("nobody has looked at it since");
    home.with(|coordinator, env| coordinator.on_tick(env));
    assert!(home.said().is_empty());
}

#[test]
fn a_participant_that_cannot_be_reached_ends_the_transaction_and_frees_the_others() {
    let mut home = Home::new();
    let id = home.preparing();
    home.vote(id, NEAR, NOW.0 + 10);
    let ticket = Ticket::Prepare { number: id.number };
    home.with(|coordinator, env| coordinator.on_unreachable(env, ticket, NEXT));
    assert_eq!(home.said(), ["Abort 2", "Unavailable after 1"]);
    assert!(home.locks_are_free() && home.coordinator.is_idle());
    home.vote(id, NEXT, NOW.0 + 10);
    assert_eq!(home.said(), ["Abort 3"], "it was only slow");
}

/// A hot key at home changes while a transaction waits for a distant answer. Validated as it was read
/// before the wait, it would abort every time.
#[test]
fn after_an_answer_the_run_is_repeated_on_what_is_true_at_home_now() {
    let mut home = Home::new();
    home.start(vec![Get(0, 1), Get(2, 1), Put(0, 2)]);
    let id = home.id();
    home.store.borrow_mut().replay(Timestamp(9), [(T, &[0, 1][..], Some(&[42][..]))].into_iter());
    home.said();
    home.answer(id, [2, 1], 5);
    assert_eq!(home.said(), ["Prepare 2"], "the remote key is not asked for again");
    home.vote(id, NEAR, NOW.0);
    let plan = home.out.drain(..).find_map(|effect| match effect {
        Effect::Reply { procedure: Some(plan), .. } => Some(plan),
        _ => None,
    });
    let plan = plan.expect("the procedure comes back with the first reply");
    assert_eq!((plan.runs.get(), plan.read.take()), (2, vec![Some(42), Some(5)]));
}

/// Prepares another coordinator's transaction here, which locks a key.
fn lock(home: &mut Home, key: u8) -> TxnId {
    let txn = TxnId { home: FAR, epoch: epoch(0), number: 1_000 + u64::from(key) };
    let (key, deps) = ([0, key], Deps::default());
    let writes = [crate::wire::WriteRef { table: T, key: &key, value: None }];
    let request = PrepareRequest {
        txn,
        epoch: epoch(0),
        home: ShardId(2),
        hold_ns: 0,
        deps: &deps,
        reads: &[],
        scans: &[],
        writes: &writes,
    };
    home.store.borrow_mut().prepare(home.now, &request, &home.known).unwrap();
    txn
}

/// A wait behind a lock at home must not cost the round trips that were made already.
#[test]
fn a_parked_attempt_keeps_the_answers_it_has_and_asks_again_for_those_it_has_not() {
    let mut home = Home::new();
    home.start(vec![Get(2, 1), Get(0, 1), Get(3, 1)]);
    let id = home.id();
    let holder = lock(&mut home, 1);
    home.answer(id, [2, 1], 5);
    assert_eq!(home.said(), ["Read 2", "park"]);
    home.answer(id, [2, 1], 6);
    assert!(home.said().is_empty(), "a parked run takes nothing in");
    home.store.borrow_mut().abort(holder);
    home.with(|coordinator, env| coordinator.resume(env, id.number));
    let next = home.id();
    assert_eq!(home.said(), ["Read 3"]);
    assert!(next.number > id.number);
    home.answer(id, [3, 1], 7);
    assert!(home.said().is_empty(), "answers to the attempt before belong to it");
    home.answer(next, [3, 1], 7);
    assert_eq!(home.said(), ["Prepare 2", "Prepare 3"]);
}

/// Locks on a hot key change hands: the time spent behind all of them together is what is bounded.
#[test]
fn a_second_wait_behind_a_lock_counts_from_the_first() {
    let mut home = Home::new();
    home.start(vec![Get(2, 1), Get(0, 1)]);
    let id = home.id();
    let mut holder = lock(&mut home, 1);
    home.answer(id, [2, 1], 5);
    let since = |home: &mut Home| {
        let parked = home.out.drain(..).find_map(|effect| match effect {
            Effect::Park { since, number, .. } => Some((since, number)),
            _ => None,
        });
        parked.expect("it waits for the lock")
    };
    for _ in 0..3 {
        let (parked, number) = since(&mut home);
        assert_eq!(parked, NOW);
        home.store.borrow_mut().abort(holder);
        home.now = home.now.plus_ns(MS);
        holder = lock(&mut home, 1);
        home.with(|coordinator, env| coordinator.resume(env, number));
    }
}

#[test]
fn who_waits_too_long_or_finds_no_room_to_wait_is_told_which() {
    for (busy, expected) in
        [(None, "Conflict { attempts: 1 } after 1"), (Some(BusyWith::Parked), "Busy(Parked) after 1")]
    {
        let mut home = Home::new();
        lock(&mut home, 1);
        home.start(vec![Put(2, 1), Get(0, 1)]);
        assert_eq!(home.said(), ["park"]);
        home.with(|coordinator, env| coordinator.give_up(env, 1, busy));
        assert_eq!(home.said(), [expected]);
        assert!(home.coordinator.is_idle());
        home.with(|coordinator, env| coordinator.resume(env, 1));
        assert!(home.said().is_empty());
    }
}

/// What the client is told must be what stood in the way: "conflict" means "try again at once", the
/// others do not.
#[test]
fn a_transaction_refused_to_the_end_says_by_what() {
    let ends = [
        (Refusal::Locked, "Conflict { attempts: 64 } after 64"),
        (Refusal::Changed, "Conflict { attempts: 64 } after 64"),
        (Refusal::LostDependency, "Conflict { attempts: 64 } after 64"),
        (Refusal::Busy, "Busy(Participant) after 64"),
        (Refusal::NotLeader, "Unavailable after 64"),
        (Refusal::WrongEpoch, "Unavailable after 64"),
        (Refusal::ClosedEpoch, "Unavailable after 64"),
        (Refusal::UnknownTable, "UnknownTable(0) after 1"),
        (Refusal::TooBig, "TooBig { what: \"bytes of a scan\", size: 4194305, bound: 4194304 } after 1"),
    ];
    for (why, expected) in ends {
        let mut home = Home::new();
        home.start(vec![Scan(2), Put(3, 1)]);
        let mut attempts = 0;
        while !home.coordinator.is_idle() {
            attempts += 1;
            assert!(attempts <= ATTEMPTS_MAX, "{why:?}");
            let id = home.id();
            home.said();
            home.refuse(id, NEAR, why);
            if home.coordinator.is_idle() {
                break;
            }
            home.wait();
        }
        assert_eq!(home.said(), [expected], "{why:?}");
    }
}

#[test]
fn an_abort_by_the_procedure_counts_the_attempt_that_ended_so() {
    let mut home = Home::new();
    home.start(vec![Get(2, 1), Put(9, 1)]);
    let id = home.id();
    home.refuse(id, NEAR, Refusal::Locked);
    home.wait();
    let id = home.id();
    home.said();
    home.with(|coordinator, env| {
        coordinator.on_unreachable(env, Ticket::Run { number: id.number }, NEAR);
    });
    assert_eq!(home.said(), ["Unavailable after 2"]);
}

/// Locked while votes travel, a hot key at home would stop every transaction that stays at home.
#[test]
fn home_is_not_locked_while_the_others_vote_and_is_read_again_at_the_decision() {
    let mut home = Home::new();
    home.start(vec![Get(2, 1), Get(0, 1), Put(0, 1), Put(2, 1)]);
    let id = home.id();
    home.answer(id, [2, 1], 5);
    assert_eq!(home.said(), ["Read 2", "Prepare 2"]);
    assert!(home.locks_are_free());
    let meanwhile: (TableId, &[u8], Option<&[u8]>) = (T, &[0, 1], Some(b"new"));
    home.store.borrow_mut().replay(NOW.next(), [meanwhile].into_iter());
    home.vote(id, NEAR, NOW.0 + 10);
    assert_eq!(home.said(), ["speculative", "unlocked", "Commit 2"]);
    let store = home.store.borrow();
    let written = store.read(T, &[0, 1]).unwrap_or_else(|_| panic!("it is unlocked again"));
    assert!(written.version > NOW.next() && written.value.is_some_and(|value| value[..] == [1]));
}

/// While everybody else is locked, home must not wait for a lock of its own: that is how a deadlock begins.
#[test]
fn a_key_locked_at_home_when_all_have_voted_undoes_the_attempt() {
    let mut home = Home::new();
    home.start(vec![Get(2, 1), Put(0, 1)]);
    let id = home.id();
    home.answer(id, [2, 1], 5);
    lock(&mut home, 1);
    home.vote(id, NEAR, NOW.0 + 10);
    assert_eq!(home.said(), ["Read 2", "Prepare 2", "Abort 2", "retried"]);
}
