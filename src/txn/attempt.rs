//! One attempt of a transaction that its home partition coordinates.
//!
//! The states an attempt goes through, how its procedure is run (again), and how it can end; who moves it
//! from state to state is the `coordinator`.
#![forbid(unsafe_code)]

use super::context::{Context, Part};
use super::handle::Txn;
use super::procedure::{Abort, BusyWith, Procedure};
use crate::bounds::SCAN_BYTES_MAX;
use crate::types::{Epoch, PartitionId, Timestamp, TxnId};
use crate::wire::{Deps, Message, Refusal, Token};
use smallvec::SmallVec;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

/// One attempt under way, or the wait for the next.
pub(super) struct Active<P> {
    pub id: TxnId,
    pub token: u64,
    pub procedure: Rc<P>,
    pub context: Rc<Context>,
    pub task: Option<Task>,
    pub phase: Phase,
    pub attempts: u32,
    /// Since when this attempt is parked; a second wait counts from there.
    pub parked_since: Option<Timestamp>,
    /// This run has waited for an answer, and what it read at home before may have changed.
    pub waited: bool,
    /// Runs over again in this attempt.
    pub repeats: u32,
    /// What each other participant was asked to check and to write, as bytes.
    pub asked: Vec<Vec<u8>>,
    /// Times that had changed by the time everybody had voted.
    pub changes: u32,
    /// Home is locked while the others vote.
    pub home_first: bool,
    /// Of a snapshot transaction.
    pub snapshot: Option<Token>,
}

pub(super) enum Phase {
    Running,
    Preparing {
        sent: Timestamp,
        votes: Votes,
    },
    /// In a backoff: what was read is to be read again.
    Waiting,
    /// Behind a lock: what was read elsewhere is as good as it was.
    Parked,
}

impl Phase {
    pub(super) fn waits(&self) -> bool {
        matches!(self, Phase::Waiting | Phase::Parked)
    }
}

pub(super) type Task = Pin<Box<dyn Future<Output = Result<(), Abort>>>>;
pub(super) type Votes = SmallVec<[Vote; 4]>;

#[derive(Clone, Copy)]
pub(super) struct Vote {
    pub partition: PartitionId,
    pub epoch: Epoch,
    pub proposal: Option<Timestamp>,
}

impl<P: Procedure> Active<P> {
    pub(super) fn begin(&mut self) {
        self.task = Some(self.task());
        self.phase = Phase::Running;
    }

    pub(super) fn task(&self) -> Task {
        let (procedure, txn) = (self.procedure.clone(), Txn::new(self.context.clone()));
        Box::pin(async move { procedure.run(&txn).await })
    }

    /// Runs the procedure over again when it has waited for answers and home is to prepare first: with the
    /// answers at hand it runs without a pause, so that what it reads at home is what the prepare, in the
    /// same instant, will find.
    pub(super) fn repeat(&mut self) -> bool {
        let again = self.waited && self.home_first && self.repeats < REPEATS_MAX;
        if again {
            self.waited = false;
            self.repeats += 1;
            self.context.run.borrow_mut().start_over();
            self.begin();
        }
        again
    }
}

impl<P> Active<P> {
    /// How a refusal that no other attempt would change ends the transaction. A refusal is one byte: what
    /// it leaves out is worked out from what was asked.
    pub(super) fn final_end(&self, why: Refusal) -> Option<Abort> {
        match why {
            Refusal::UnknownTable => Some(Abort::UnknownTable(self.context.run.borrow().last_table().0)),
            // Beyond the bound, by how much the participant has not counted.
            Refusal::TooBig => Some(Abort::TooBig {
                what: "bytes of a scan",
                size: SCAN_BYTES_MAX + 1,
                bound: SCAN_BYTES_MAX,
            }),
            Refusal::SnapshotTooOld => {
                let floor = self.snapshot.as_ref().map_or(Timestamp::default(), |token| token.timestamp);
                Some(Abort::SnapshotTooOld { floor: floor.next() })
            }
            Refusal::Busy if self.snapshot.is_some() => Some(Abort::Busy(BusyWith::Snapshot)),
            _ => None,
        }
    }

    /// The procedure, for the driver to use again; the task that shared it is over.
    pub(super) fn into_procedure(mut self) -> Option<P> {
        self.task = None;
        Rc::into_inner(self.procedure)
    }
}

/// What a participant is asked, and nothing that differs from one asking to the next.
pub(super) fn asked_of(part: &Part<'_>, partition: PartitionId) -> Vec<u8> {
    encode(&Message::Prepare {
        partition,
        epoch: Epoch::default(),
        txn: TxnId::default(),
        hold_ns: 0,
        deps: Deps::default(),
        reads: part.reads.clone(),
        scans: part.scans.clone(),
        writes: part.writes.clone(),
    })
}

pub(super) fn encode(message: &Message<'_>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(128);
    message.encode_into(&mut bytes);
    bytes
}

/// A procedure that asks for other keys every time it runs is prepared as it is in the end.
const REPEATS_MAX: u32 = 4;
