//! Transactions of one partition: run to completion on the core, without a message or a lock.
//!
//! Nothing else runs in between, so what was read is what is true at the commit, and nothing is
//! validated. The one obstacle is a key locked by a prepared transaction.
#![forbid(unsafe_code)]

use super::context::{Context, Halt, RunMode};
use super::handle::Txn;
use super::participant::Known;
use super::procedure::{Abort, BusyWith, Procedure};
use super::store::Install;
use crate::types::{Timestamp, TxnId};
use crate::wire::DepsFull;
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

/// Runs the procedure once, on the stack.
pub fn run_local<P: Procedure>(context: &Rc<Context>, procedure: &P) -> LocalEnd {
    context.run.borrow_mut().reset(RunMode::Local);
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
    if run.writes.is_empty() {
        let timestamp = store.clock.last();
        let entry = Install { txn: id, timestamp, deps: &run.deps, participants: &[], token: Some(token) };
        let held = store.hold(&entry, 0, known, std::iter::empty());
        return Ok(LocalCommit { timestamp, stable: held.is_none() });
    }
    let timestamp = store.clock.tick(now);
    run.deps.add(store.stamp(), timestamp).map_err(|DepsFull| Abort::Busy(BusyWith::Window))?;
    let home = [context.home];
    let entry = Install { txn: id, timestamp, deps: &run.deps, participants: &home, token: Some(token) };
    let held = store.install_located(&entry, now, known, run.writes.located());
    Ok(LocalCommit { timestamp, stable: !held })
}
