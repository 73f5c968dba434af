//! One checkpoint being taken of a partition here: a few rows at a time, while transactions go on.
//!
//! Not here: of which partition and when (`mod`), and from where its stream is replayed (`delivered`).
//!
//! Invariants:
//!   1. A row is the newest stable version of its key when it is visited: it will never be rolled back.
//!   2. Every stable version that is not in it, nor superseded by one that is, stands in a slot at or above
//!      the header's. For what was not settled when the header was made is replayed from there.
//!   3. A step visits at most `CHECKPOINT_ROWS_PER_STEP` rows and fills at most one chunk of each table; one that is
//!      behind the log, at most so many times `CHECKPOINT_HASTE`.
#![forbid(unsafe_code)]

use super::loading::FLOOR;
use crate::bounds::{
    CHECKPOINT_DONE_PERCENT, CHECKPOINT_HASTE, CHECKPOINT_ROWS_PER_STEP, CHECKPOINT_STEP_NS,
    CHECKPOINT_WAIT_NS, CHECKPOINT_WRITE_BYTES_MAX,
};
use crate::partition::ports::{Checkpoints, Origin};
use crate::txn::Store;
use crate::types::{Slot, TableId, Timestamp};
use crate::wal::checkpoint::{CheckpointBuilder, CheckpointHeader, CheckpointRow};
use std::ops::ControlFlow;

pub(super) struct Taking {
    /// Which of the core's replicas.
    pub at: usize,
    /// That of the header.
    pub slot: Slot,
    /// `None` once all of it is handed over and its commit is under way.
    builder: Option<CheckpointBuilder>,
    table: usize,
    /// The first key of it that was not visited.
    from: Vec<u8>,
    rows: u64,
    step_at: Timestamp,
}

impl Taking {
    /// Of the replica at `at`; begun at the port already.
    pub fn new(at: usize, header: &CheckpointHeader, now: Timestamp) -> Taking {
        let builder = Some(CheckpointBuilder::new(header));
        Taking { at, slot: header.slot, builder, table: 0, from: Vec::new(), rows: 0, step_at: now }
    }

    pub fn is_committing(&self) -> bool {
        self.builder.is_none()
    }

    pub fn deadline(&self) -> Timestamp {
        self.step_at
    }

    /// The next rows, if it is time and there is room. The more the log has grown meanwhile, the more of them: it may
    /// take twice what it held when this became due, and no more.
    pub fn step(&mut self, now: Timestamp, overdue_percent: u64, store: &Store, port: &mut dyn Checkpoints) {
        if now < self.step_at {
            return;
        }
        let pieces = if self.is_behind(overdue_percent, store) { CHECKPOINT_HASTE } else { 1 };
        for _ in 0..pieces {
            if self.is_committing() || port.room(Origin::Own) < CHECKPOINT_WRITE_BYTES_MAX {
                self.step_at = now.plus_ns(CHECKPOINT_WAIT_NS / pieces);
                return;
            }
            self.take_piece(store, port);
        }
        self.step_at = now.plus_ns(CHECKPOINT_STEP_NS);
    }

    /// It would not be done when the log has grown as far as it may.
    fn is_behind(&self, overdue_percent: u64, store: &Store) -> bool {
        let rows: usize = store.tables().iter().map(|table| table.len()).sum();
        self.rows * CHECKPOINT_DONE_PERCENT < rows as u64 * overdue_percent
    }

    fn take_piece(&mut self, store: &Store, port: &mut dyn Checkpoints) {
        let mut left = CHECKPOINT_ROWS_PER_STEP;
        let whole = self.take_rows(store, &mut left, port);
        self.rows += (CHECKPOINT_ROWS_PER_STEP - left) as u64;
        if whole {
            self.close(store.floor(), port);
        }
    }

    /// Whether there are no more.
    fn take_rows(&mut self, store: &Store, left: &mut usize, port: &mut dyn Checkpoints) -> bool {
        while *left > 0 && self.table < store.tables().len() {
            let whole = self.visit(store, left, port);
            if !whole {
                return false;
            }
            self.table += 1;
            self.from.clear();
        }
        self.table == store.tables().len()
    }

    /// The next rows of one table. `true` when there are no more.
    fn visit(&mut self, store: &Store, left: &mut usize, port: &mut dyn Checkpoints) -> bool {
        let Taking { builder: Some(builder), from, table, .. } = self else { return true };
        let table = TableId(u16::try_from(*table).expect("tables are few"));
        let begin = std::mem::take(from);
        store.visit_stable(table, &begin, |key, version| {
            let (timestamp, value) = (version.timestamp, version.value.as_deref());
            builder.push_row(&CheckpointRow { table, key, timestamp, value });
            *left -= 1;
            let chunk = builder.take_chunk();
            if let Some(chunk) = chunk {
                port.write(Origin::Own, chunk);
            }
            if *left > 0 && chunk.is_none() {
                return ControlFlow::Continue(());
            }
            // The first key behind this one.
            from.extend_from_slice(key);
            from.push(0);
            ControlFlow::Break(())
        })
    }

    fn close(&mut self, floor: Timestamp, port: &mut dyn Checkpoints) {
        let Some(mut builder) = self.builder.take() else { return };
        builder.push_row(&CheckpointRow { table: FLOOR, key: &[], timestamp: floor, value: None });
        port.write(Origin::Own, &builder.finish());
        port.commit(Origin::Own);
    }
}
