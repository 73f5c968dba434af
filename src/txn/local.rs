//! Transactions of one partition: run to completion on the core, without a message or a lock.
//!
//! Nothing else runs in between, so what was read is what is true at the commit, and nothing is
//! validated. The one obstacle is a key locked by a prepared transaction.
#![forbid(unsafe_code)]

use super::context::{Context, Halt, RunMode};
use super::handle::Txn;
use super::participant::Known;
use super::procedure::{Abort, BusyWith, Procedure, Reply};
use super::store::{Install, Store};
use crate::rules::{self, Rule};
use crate::types::{Timestamp, TxnId};
use crate::wire::{Deps, DepsFull};
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::task::{self, Poll, Waker};

/// How a local run ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LocalEnd {
    /// To be committed.
    Done,
    Aborted(Abort),
    /// It needs other partitions.
    Remote,
    /// It needs a key that a prepared transaction holds.
    Locked(TxnId),
}

/// A local transaction that has been committed.
pub struct LocalCommit {
    pub timestamp: Timestamp,
    /// Nothing it rests on is unstable: it is durable already.
    pub stable: bool,
}

/// A local transaction that wrote nothing: what it read is true if we lead, which remains to be shown.
pub struct LocalRead {
    pub txn: TxnId,
    pub token: u64,
    pub timestamp: Timestamp,
    pub deps: Deps,
}

/// Runs the procedure once, on the stack.
pub fn run_local<P: Procedure>(context: &Rc<Context>, procedure: &P) -> LocalEnd {
    let stands_ahead = context.store.borrow().stands_ahead();
    let mut run = context.run.borrow_mut();
    run.reset(RunMode::Local);
    run.track(stands_ahead);
    drop(run);
    let txn = Txn::new(context.clone());
    let result = {
        let mut running = pin!(procedure.run(&txn));
        running.as_mut().poll(&mut task::Context::from_waker(Waker::noop()))
    };
    match (context.run.borrow().halt, result) {
        (Some(Halt::Locked(holder)), _) => LocalEnd::Locked(holder),
        // A procedure that waits for something of its own gets a task that can be polled again.
        (Some(Halt::Remote), _) | (None, Poll::Pending) => LocalEnd::Remote,
        (Some(Halt::Refused(abort)), _) | (None, Poll::Ready(Err(abort))) => LocalEnd::Aborted(abort),
        (None, Poll::Ready(Ok(()))) => LocalEnd::Done,
    }
}

/// What the run that has just ended `Done` read, if it wrote nothing.
pub fn take_read(context: &Context, now: Timestamp, txn: TxnId, token: u64) -> Option<LocalRead> {
    let run = &mut *context.run.borrow_mut();
    if !run.writes.is_empty() {
        return None;
    }
    let store = &mut *context.store.borrow_mut();
    let timestamp = store.clock.last().max(run.read_floor());
    store.stand(now, timestamp, run.tracked.keys(), run.tracked.ranges());
    Some(LocalRead { txn, token, timestamp, deps: std::mem::take(&mut run.deps) })
}

/// Answers for a read: at once while we hold the lease, for then nobody else leads. Without it the answer waits
/// for a watermark: whoever leads now, if it is not us, has sealed our stream, and nothing above that seal
/// will ever be chosen under us. `now` is a time after the read was made. `None` while it waits.
pub fn conclude_read(
    store: &mut Store,
    now: Timestamp,
    mut read: LocalRead,
    leased: bool,
    known: &impl Known,
) -> Option<Reply> {
    let mut fits = true;
    if !leased && rules::on(Rule::LeaderLease) {
        let timestamp = store.clock.tick(now);
        fits = read.deps.add(store.stamp(), timestamp).is_ok();
    }
    let LocalRead { txn, token, timestamp, deps } = read;
    if !fits || known.any_lost(&deps) {
        return Some(Reply::RolledBack);
    }
    let entry = Install { txn, timestamp, deps: &deps, participants: &[], token: Some(token) };
    let held = store.hold(&entry, 0, known, std::iter::empty());
    held.is_none().then_some(Reply::Durable { timestamp })
}

/// Commits what the run that has just ended `Done` wrote.
pub fn commit_local(
    context: &Context,
    now: Timestamp,
    id: TxnId,
    token: u64,
    known: &impl Known,
) -> Result<LocalCommit, Abort> {
    let run = &mut *context.run.borrow_mut();
    let store = &mut *context.store.borrow_mut();
    let mut timestamp = store.clock.tick(now);
    if timestamp <= store.ahead.until() {
        let floors = run.writes.iter().map(|(_, table, key, _)| store.write_floor(table, key));
        timestamp = timestamp.max(floors.fold(run.read_floor(), Timestamp::max).next());
        store.stand(now, timestamp, run.tracked.keys(), run.tracked.ranges());
    }
    run.deps.add(store.stamp(), timestamp).map_err(|DepsFull| Abort::Busy(BusyWith::Window))?;
    let home = [context.home];
    let entry = Install { txn: id, timestamp, deps: &run.deps, participants: &home, token: Some(token) };
    let held = store.install_located(&entry, now, known, run.writes.located());
    Ok(LocalCommit { timestamp, stable: !held })
}

#[cfg(test)]
mod tests {
    use super::super::procedure::Abort;
    use super::super::told::Told;
    use super::*;
    use crate::bounds::CLOCK_LEAD_NS;
    use crate::config::{Config, LocalCluster, Routing, Table};
    use crate::tree::Version;
    use crate::types::{PartitionId, ShardId, TableId};
    use std::cell::RefCell;

    const T: TableId = TableId(0);
    const NOW: Timestamp = Timestamp(1_000_000_000);
    const AHEAD: Timestamp = Timestamp(NOW.0 + 20 * CLOCK_LEAD_NS);

    enum Step {
        Get(&'static [u8]),
        Scan(&'static [u8], &'static [u8]),
        Put(&'static [u8]),
    }

    struct Steps(Vec<Step>);

    impl Procedure for Steps {
        async fn run(&self, txn: &Txn) -> Result<(), Abort> {
            for step in &self.0 {
                match step {
                    Step::Get(key) => drop(txn.get(T, key).await?),
                    Step::Scan(from, to) => drop(txn.scan(T, from, Some(to), 9).await?),
                    Step::Put(key) => txn.put(T, key, b"v")?,
                }
            }
            Ok(())
        }
    }

    /// A partition in which `met` was written by a transaction that stands ahead of the clock.
    fn context() -> Rc<Context> {
        let tables = vec![Table { name: "t".to_string(), routing: Routing::Key }];
        let flags = LocalCluster { shards: 1, replicas: 1, partitions: 1, tables, ..LocalCluster::default() };
        let config = Rc::new(Config::local(&flags).unwrap());
        let mut store = Store::new(ShardId(0), 1);
        store.stand(NOW, AHEAD, [].into_iter(), [].into_iter());
        store.tables[0].put(b"met", Version { timestamp: AHEAD, writer: 0, value: None });
        Context::new(PartitionId(0), config, Rc::new(RefCell::new(store)))
    }

    fn run(context: &Rc<Context>, steps: Vec<Step>) -> Timestamp {
        assert_eq!(run_local(context, &Steps(steps)), LocalEnd::Done);
        if let Some(read) = take_read(context, NOW, TxnId::default(), 0) {
            return read.timestamp;
        }
        commit_local(context, NOW, TxnId::default(), 0, &Told::default()).unwrap().timestamp
    }

    /// Two that disagree about who came first, the log and the reader, make a snapshot that never was.
    #[test]
    fn whoever_meets_what_stands_ahead_stands_above_it_and_so_does_whoever_meets_that() {
        let meets: [fn() -> Vec<Step>; 3] = [
            || vec![Step::Get(b"met"), Step::Put(b"x")],
            || vec![Step::Scan(b"m", b"n"), Step::Put(b"x")],
            || vec![Step::Put(b"met")],
        ];
        for (case, meets) in meets.iter().enumerate() {
            let context = context();
            let mut steps = meets();
            steps.extend([Step::Get(b"read"), Step::Scan(b"s", b"t")]);
            assert!(run(&context, vec![Step::Get(b"a"), Step::Put(b"b")]) < AHEAD, "case {case}");
            assert_eq!(run(&context, steps), AHEAD.next(), "case {case}");
            assert!(run(&context, vec![Step::Get(b"read"), Step::Put(b"c")]) < AHEAD, "case {case}");
            for overwritten in [&b"read"[..], b"sx"] {
                assert!(run(&context, vec![Step::Put(overwritten)]) > AHEAD, "case {case}: {overwritten:?}");
            }
        }
    }

    /// It is in no log, but others have seen both what it saw and what overwrote it.
    #[test]
    fn a_reader_of_what_stands_ahead_keeps_later_writes_above_it() {
        let context = context();
        assert_eq!(run(&context, vec![Step::Get(b"met"), Step::Get(b"read")]), AHEAD);
        assert!(run(&context, vec![Step::Put(b"read")]) > AHEAD);
        assert!(run(&context, vec![Step::Put(b"other")]) < AHEAD);
    }
}
