//! The handle through which a procedure reads and writes.
//!
//! Reads see the transaction's own writes. Nothing is visible to others before the commit, which is
//! the engine's business, not the procedure's.
#![forbid(unsafe_code)]

use super::context::{Context, Fetched};
use super::procedure::{Abort, Rows};
use super::store::Span;
use crate::types::{TableId, Value};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task;

/// One transaction, as its procedure sees it.
pub struct Txn {
    context: Rc<Context>,
}

impl Txn {
    pub(super) fn new(context: Rc<Context>) -> Txn {
        Txn { context }
    }

    /// The value under the key, `None` when it is absent.
    #[inline]
    pub async fn get(&self, table: TableId, key: &[u8]) -> Result<Option<Value>, Abort> {
        match self.context.get(table, key)? {
            Fetched::Now(value) => Ok(value),
            Fetched::Later(places) => {
                Answered { context: &self.context, places: &places }.await;
                self.context.take_read(places[0])
            }
        }
    }

    /// Buffers a write. A value over its bound is refused, and the transaction may go on without it.
    #[inline]
    pub fn put(&self, table: TableId, key: &[u8], value: &[u8]) -> Result<(), Abort> {
        self.context.write(table, key, Some(value))
    }

    /// Buffers a deletion. Deleting what is absent is a write too.
    #[inline]
    pub fn delete(&self, table: TableId, key: &[u8]) -> Result<(), Abort> {
        self.context.write(table, key, None)
    }

    /// At most `limit` rows of `from <= key < to`, ascending; `to` of `None` is the end of the table.
    pub async fn scan(
        &self,
        table: TableId,
        from: &[u8],
        to: Option<&[u8]>,
        limit: usize,
    ) -> Result<Rows, Abort> {
        self.range(Span { table, from, to, limit, reverse: false }).await
    }

    /// As `scan`, descending over the same range.
    pub async fn rscan(
        &self,
        table: TableId,
        from: &[u8],
        to: Option<&[u8]>,
        limit: usize,
    ) -> Result<Rows, Abort> {
        self.range(Span { table, from, to, limit, reverse: true }).await
    }

    /// Announces a read, so that several overlap: one that lives elsewhere is started, and those at home are
    /// searched for together when the first of them is needed. Changes nothing else.
    pub fn prefetch(&self, table: TableId, key: &[u8]) {
        self.context.prefetch(table, key);
    }

    async fn range(&self, span: Span<'_>) -> Result<Rows, Abort> {
        match self.context.scan(span)? {
            Fetched::Now(rows) => Ok(rows),
            Fetched::Later(places) => {
                Answered { context: &self.context, places: &places }.await;
                self.context.take_scan(&places, span)
            }
        }
    }
}

/// Ready when every question has its answer, or the run was stopped. Nobody is woken: the partition
/// polls the procedure again when an answer for it has come.
struct Answered<'a> {
    context: &'a Context,
    places: &'a [u32],
}

impl Future for Answered<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut task::Context<'_>) -> task::Poll<()> {
        let run = self.context.run.borrow();
        if run.halt.is_some() || run.answered(self.places) {
            task::Poll::Ready(())
        } else {
            task::Poll::Pending
        }
    }
}
