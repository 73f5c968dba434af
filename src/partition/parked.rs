//! What waits behind the locks of prepared transactions: local transactions, distributed attempts and
//! reads from elsewhere. None of them holds anything, so nothing here can deadlock.
//!
//! Bounded in number and in time; who waits too long is answered `Conflict`.
#![forbid(unsafe_code)]

use super::post::Asker;
use crate::bounds::{PARK_NS_MAX, PARKED_MAX};
use crate::types::{Timestamp, TxnId};
use std::collections::BTreeMap;

pub struct Parked<P> {
    behind: BTreeMap<TxnId, Vec<Waiter<P>>>,
    count: usize,
}

pub struct Waiter<P> {
    pub since: Timestamp,
    pub what: Waiting<P>,
}

pub enum Waiting<P> {
    Local { token: u64, procedure: P, attempts: u32 },
    Attempt { number: u64 },
    Request { asker: Asker, message: Vec<u8> },
}

impl<P> Parked<P> {
    /// Gives the waiter back when there is no room.
    pub fn park(&mut self, behind: TxnId, waiter: Waiter<P>) -> Result<(), Waiter<P>> {
        if self.count >= PARKED_MAX {
            return Err(waiter);
        }
        self.count += 1;
        self.behind.entry(behind).or_default().push(waiter);
        Ok(())
    }

    /// Everything behind a transaction whose locks are gone, first come first.
    pub fn take(&mut self, holder: TxnId) -> Vec<Waiter<P>> {
        let waiters = self.behind.remove(&holder).unwrap_or_default();
        self.count -= waiters.len();
        waiters
    }

    /// Everything that has waited too long.
    pub fn take_overdue(&mut self, now: Timestamp) -> Vec<Waiter<P>> {
        let mut overdue = Vec::new();
        for waiters in self.behind.values_mut() {
            overdue.extend(waiters.extract_if(.., |waiter| now.since(waiter.since) > PARK_NS_MAX));
        }
        self.behind.retain(|_, waiters| !waiters.is_empty());
        self.count -= overdue.len();
        overdue
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl<P> Default for Parked<P> {
    fn default() -> Parked<P> {
        Parked { behind: BTreeMap::new(), count: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiter(number: u64, since: u64) -> Waiter<()> {
        Waiter { since: Timestamp(since), what: Waiting::Attempt { number } }
    }

    fn numbers(waiters: Vec<Waiter<()>>) -> Vec<u64> {
        let number = |waiter: Waiter<()>| match waiter.what {
            Waiting::Attempt { number } => number,
            _ => unreachable!("only attempts are parked here"),
        };
        waiters.into_iter().map(number).collect()
    }

    /// A waiter that nobody wakes, or that is woken twice, is a client that hangs or a run that happens twice.
    #[test]
    fn every_waiter_leaves_once_woken_or_overdue_and_the_room_is_bounded() {
        let txn = |number| TxnId { number, ..TxnId::default() };
        let mut parked = Parked::default();
        for number in 0..PARKED_MAX as u64 {
            assert!(parked.park(txn(number % 2), waiter(number, number)).is_ok());
        }
        assert!(parked.park(txn(0), waiter(9, 0)).is_err());
        let overdue = numbers(parked.take_overdue(Timestamp(PARK_NS_MAX + 3)));
        assert_eq!(overdue, [0, 2, 1]);
        let woken = numbers(parked.take(txn(0)));
        assert_eq!((woken.len(), woken[0]), (PARKED_MAX / 2 - 2, 4));
        assert_eq!(parked.take(txn(0)).len(), 0);
        assert_eq!(parked.len(), PARKED_MAX / 2 - 1);
    }
}
