//! The Order-Status transaction (clause 2.6): a customer's balance and the lines of their last order. Reads only.
#![forbid(unsafe_code)]

use super::Terminal;
use super::customer::{Selector, present};
use super::rows::{Balance, Order, OrderLine, number};
use super::schema::{self, LINES_MAX};
use mako::txn::{Abort, Txn};
use std::cell::Cell;

pub struct OrderStatus {
    w: u32,
    d: u32,
    customer: Selector,
    shown: Cell<Option<Shown>>,
}

/// What the terminal shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shown {
    pub balance_cents: i64,
    pub order: u32,
    pub lines: u32,
    pub amount_cents: u64,
}

impl OrderStatus {
    /// Clause 2.6.1.
    pub fn draw(terminal: &mut Terminal, w: u32) -> OrderStatus {
        let plan = terminal.plan.clone();
        let rng = &mut terminal.rng;
        let d = rng.u32(1..=schema::DISTRICTS);
        OrderStatus { w, d, customer: Selector::draw(rng, &plan.nurand, plan.scale), shown: Cell::new(None) }
    }

    pub async fn run(&self, txn: &Txn) -> Result<(), Abort> {
        let &OrderStatus { w, d, .. } = self;
        let c = self.customer.find(txn, w, d).await?;
        txn.prefetch(schema::CUSTOMER, &schema::customer(w, d, c));
        txn.prefetch(schema::CUSTOMER_BALANCE, &schema::customer(w, d, c));
        present(txn.get(schema::CUSTOMER, &schema::customer(w, d, c)).await?)?;
        let balance = present(txn.get(schema::CUSTOMER_BALANCE, &schema::customer(w, d, c)).await?)?;

        let from = schema::order_by_customer(w, d, c, 0);
        let to = schema::order_by_customer(w, d, c + 1, 0);
        let last = txn.rscan(schema::ORDER_BY_CUSTOMER, &from, Some(&to), 1).await?;
        // Every customer is loaded with an order.
        let o = number(&present(last.iter().next().map(|(_, o)| o.clone()))?);
        let order = Order::decode(&present(txn.get(schema::ORDER, &schema::order(w, d, o)).await?)?);

        let from = schema::order_line(w, d, o, 0);
        let to = schema::order_line(w, d, o + 1, 0);
        let lines = txn.scan(schema::ORDER_LINE, &from, Some(&to), LINES_MAX as usize).await?;
        let amount_cents =
            lines.iter().map(|(_, line)| u64::from(OrderLine::decode(line).amount_cents)).sum();
        self.shown.set(Some(Shown {
            balance_cents: Balance::decode(&balance).balance_cents,
            order: o,
            lines: u32::from(order.lines),
            amount_cents,
        }));
        Ok(())
    }

    /// What the last run showed.
    #[cfg(test)]
    pub fn shown(&self) -> Option<Shown> {
        self.shown.get()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Step;
    use super::super::tests::{Shop, W};
    use super::*;

    #[test]
    fn the_last_order_of_the_customer_is_shown() {
        let shop = Shop::open();
        let orders = 1..=shop.scale().customers;
        let order_of = |o: u32| Order::decode(&shop.row(schema::ORDER, &schema::order(W, 6, o)));
        let loaded = orders.clone().find(|o| order_of(*o).customer == 8).unwrap();
        // A later order of the same customer; the one after belongs to somebody else.
        let later = shop.scale().customers + 1;
        shop.put(schema::ORDER, &schema::order(W, 6, later), &order_of(loaded).encode());
        let line = schema::order_line(W, 6, later, 1);
        shop.put(schema::ORDER_LINE, &line, &shop.row(schema::ORDER_LINE, &schema::order_line(W, 6, 30, 1)));
        for (c, o) in [(8, later), (9, later + 1)] {
            shop.put(schema::ORDER_BY_CUSTOMER, &schema::order_by_customer(W, 6, c, o), &o.to_le_bytes());
        }

        let status = OrderStatus { w: W, d: 6, customer: Selector::Number(8), shown: Cell::new(None) };
        let (procedure, result) = shop.run(Step::OrderStatus(status));
        let Step::OrderStatus(status) = procedure else { panic!("another procedure came back") };
        assert_eq!(result, Ok(()));
        let amount = OrderLine::decode(&shop.row(schema::ORDER_LINE, &line)).amount_cents;
        let expected = Shown {
            balance_cents: -1_000,
            order: later,
            lines: u32::from(order_of(loaded).lines),
            amount_cents: u64::from(amount),
        };
        assert_eq!(status.shown(), Some(expected));
    }
}
