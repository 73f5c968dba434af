//! The Delivery transaction (clause 2.7): the oldest new order of each of ten districts is delivered, in one
//! transaction.
#![forbid(unsafe_code)]

use super::Terminal;
use super::customer::present;
use super::rows::{Balance, Order, OrderLine};
use super::schema::{self, DISTRICTS, LINES_MAX};
use mako::txn::{Abort, Txn};

pub struct Delivery {
    w: u32,
    carrier: u8,
    date: u64,
}

impl Delivery {
    /// Clause 2.7.1.
    pub fn draw(terminal: &mut Terminal, w: u32) -> Delivery {
        Delivery { w, carrier: terminal.rng.u8(1..=10), date: terminal.date }
    }

    pub async fn run(&self, txn: &Txn) -> Result<(), Abort> {
        // A step of all districts before the next step of any: what it reads is then looked for together.
        let mut oldest = [None; DISTRICTS as usize];
        for (d, oldest) in (1..).zip(&mut oldest) {
            *oldest = self.take_oldest(txn, d).await?;
        }
        let mut orders = [None; DISTRICTS as usize];
        for ((d, o), order) in (1..).zip(oldest).zip(&mut orders) {
            let Some(o) = o else { continue };
            *order = Some((d, o, self.put_carrier(txn, d, o).await?));
        }
        for (d, o, order) in orders.iter().flatten() {
            txn.prefetch(schema::CUSTOMER_BALANCE, &schema::customer(self.w, *d, order.customer));
            for line in 1..=u32::from(order.lines) {
                txn.prefetch(schema::ORDER_LINE, &schema::order_line(self.w, *d, *o, line));
            }
        }
        for (d, o, order) in orders.into_iter().flatten() {
            self.put_delivered(txn, d, o, order.customer).await?;
        }
        Ok(())
    }

    /// Clause 2.7.4.2: a district without new orders is skipped.
    async fn take_oldest(&self, txn: &Txn, d: u32) -> Result<Option<u32>, Abort> {
        let (from, to) = (schema::district(self.w, d), schema::district(self.w, d + 1));
        let oldest = txn.scan(schema::NEW_ORDER, &from, Some(&to), 1).await?;
        let Some((key, _)) = oldest.iter().next() else { return Ok(None) };
        let o = schema::order_of(key);
        txn.delete(schema::NEW_ORDER, key)?;
        txn.prefetch(schema::ORDER, &schema::order(self.w, d, o));
        Ok(Some(o))
    }

    async fn put_carrier(&self, txn: &Txn, d: u32, o: u32) -> Result<Order, Abort> {
        let key = schema::order(self.w, d, o);
        let mut order = Order::decode(&present(txn.get(schema::ORDER, &key).await?)?);
        order.carrier = self.carrier;
        txn.put(schema::ORDER, &key, &order.encode())?;
        Ok(order)
    }

    async fn put_delivered(&self, txn: &Txn, d: u32, o: u32, customer: u32) -> Result<(), Abort> {
        let w = self.w;
        let from = schema::order_line(w, d, o, 0);
        let to = schema::order_line(w, d, o + 1, 0);
        let mut sum_cents = 0;
        for (key, row) in txn.scan(schema::ORDER_LINE, &from, Some(&to), LINES_MAX as usize).await?.iter() {
            let mut line = OrderLine::decode(row);
            sum_cents += i64::from(line.amount_cents);
            line.delivery_date = self.date;
            txn.put(schema::ORDER_LINE, key, &line.encode())?;
        }
        let key = schema::customer(w, d, customer);
        let mut balance = Balance::decode(&present(txn.get(schema::CUSTOMER_BALANCE, &key).await?)?);
        balance.balance_cents += sum_cents;
        balance.deliveries += 1;
        txn.put(schema::CUSTOMER_BALANCE, &key, &balance.encode())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Step;
    use super::super::tests::{Shop, W};
    use super::*;

    #[test]
    fn the_oldest_new_order_of_every_district_is_delivered() {
        let shop = Shop::open();
        let oldest = shop.scale().delivered_orders() + 1;
        let customer = |d| Order::decode(&shop.row(schema::ORDER, &schema::order(W, d, oldest))).customer;
        let before: Vec<Balance> = (1..=DISTRICTS).map(|d| shop.balance(W, d, customer(d))).collect();
        assert_eq!(shop.run(Step::Delivery(Delivery { w: W, carrier: 9, date: 77 })).1, Ok(()));
        for d in 1..=DISTRICTS {
            assert!(shop.get(schema::NEW_ORDER, &schema::order(W, d, oldest)).is_none());
            assert!(shop.get(schema::NEW_ORDER, &schema::order(W, d, oldest + 1)).is_some());
            let order = Order::decode(&shop.row(schema::ORDER, &schema::order(W, d, oldest)));
            assert_eq!(order.carrier, 9);
            let lines = (1..=u32::from(order.lines)).map(|l| {
                OrderLine::decode(&shop.row(schema::ORDER_LINE, &schema::order_line(W, d, oldest, l)))
            });
            let lines: Vec<OrderLine> = lines.collect();
            assert!(lines.iter().all(|line| line.delivery_date == 77));
            let sum: i64 = lines.iter().map(|line| i64::from(line.amount_cents)).sum();
            let (before, after) = (before[d as usize - 1], shop.balance(W, d, order.customer));
            assert_eq!(after.balance_cents, before.balance_cents + sum);
            assert_eq!(after.deliveries, before.deliveries + 1);
        }
    }

    /// Deliveries outrun new orders sooner or later; an error there would stop the bench after minutes.
    #[test]
    fn districts_without_new_orders_are_skipped() {
        let shop = Shop::open();
        let new_orders = shop.scale().customers - shop.scale().delivered_orders();
        for _ in 0..=new_orders {
            assert_eq!(shop.run(Step::Delivery(Delivery { w: W, carrier: 1, date: 77 })).1, Ok(()));
        }
        let last = shop.scale().customers;
        assert!(shop.get(schema::NEW_ORDER, &schema::order(W, 10, last)).is_none());
    }
}
