//! The Stock-Level transaction (clause 2.8): how many items of a district's last twenty orders run low. Reads only.
#![forbid(unsafe_code)]

use super::Terminal;
use super::customer::present;
use super::rows::{OrderLine, Stock, number};
use super::schema::{self, LINES_MAX};
use mako::txn::{Abort, Txn};
use std::cell::Cell;

pub struct StockLevel {
    w: u32,
    d: u32,
    threshold: i32,
    low: Cell<Option<u32>>,
}

impl StockLevel {
    /// Clause 2.8.1.
    pub fn draw(terminal: &mut Terminal, w: u32) -> StockLevel {
        let rng = &mut terminal.rng;
        let (d, threshold) = (rng.u32(1..=schema::DISTRICTS), rng.i32(10..=20));
        StockLevel { w, d, threshold, low: Cell::new(None) }
    }

    pub async fn run(&self, txn: &Txn) -> Result<(), Abort> {
        let &StockLevel { w, d, threshold, .. } = self;
        let next = present(txn.get(schema::DISTRICT_NEXT_ORDER, &schema::district(w, d)).await?)?;
        let next = number(&next);
        let from = schema::order_line(w, d, next.saturating_sub(ORDERS), 0);
        let to = schema::order_line(w, d, next, 0);
        let lines = txn.scan(schema::ORDER_LINE, &from, Some(&to), LINES).await?;
        let mut items = [0; LINES];
        for (item, (_, line)) in items.iter_mut().zip(lines.iter()) {
            *item = OrderLine::decode(line).item;
        }
        // Sorted, equal items are neighbours: each is counted once (clause 2.8.2.2).
        let items = &mut items[..lines.len()];
        items.sort_unstable();
        for distinct in items.chunk_by(|a, b| a == b) {
            txn.prefetch(schema::STOCK, &schema::stock(w, distinct[0]));
        }
        let mut low = 0;
        for distinct in items.chunk_by(|a, b| a == b) {
            let stock = present(txn.get(schema::STOCK, &schema::stock(w, distinct[0])).await?)?;
            low += u32::from(Stock::decode(&stock).quantity < threshold);
        }
        self.low.set(Some(low));
        Ok(())
    }

    /// What the last run counted.
    #[cfg(test)]
    pub fn low(&self) -> Option<u32> {
        self.low.get()
    }
}

const ORDERS: u32 = 20;
const LINES: usize = (ORDERS * LINES_MAX) as usize;

#[cfg(test)]
mod tests {
    use super::super::Step;
    use super::super::tests::{Shop, W};
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn distinct_items_below_the_threshold_in_the_last_twenty_orders_are_counted() {
        let shop = Shop::open();
        let next = shop.scale().customers + 1;
        let mut items = BTreeSet::new();
        for o in next - ORDERS..next {
            for l in 1..=LINES_MAX {
                let row = shop.get(schema::ORDER_LINE, &schema::order_line(W, 5, o, l));
                items.extend(row.map(|row| OrderLine::decode(&row).item));
            }
        }
        for threshold in [10, 40, 1_000] {
            let expected = items.iter().filter(|i| shop.stock(W, **i).quantity < threshold).count();
            let level = StockLevel { w: W, d: 5, threshold, low: Cell::new(None) };
            let (procedure, result) = shop.run(Step::StockLevel(level));
            let Step::StockLevel(level) = procedure else { panic!("another procedure came back") };
            assert_eq!((result, level.low()), (Ok(()), Some(expected as u32)));
        }
    }
}
