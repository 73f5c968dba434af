//! The New-Order transaction (clause 2.4): a customer orders five to fifteen items, some from other warehouses.
#![forbid(unsafe_code)]

use super::Terminal;
use super::customer::present;
use super::random::is_original;
use super::rows::{Customer, Item, Order, OrderLine, Site, Stock, StockInfo, number};
use super::schema::{self, LINES_MAX, LINES_MIN};
use mako::txn::{Abort, Txn};
use std::cell::Cell;

pub struct NewOrder {
    w: u32,
    d: u32,
    c: u32,
    date: u64,
    lines: [Line; LINES_MAX as usize],
    line_count: usize,
    placed: Cell<Option<Placed>>,
}

#[derive(Clone, Copy, Default)]
struct Line {
    item: u32,
    supply_warehouse: u32,
    quantity: u8,
}

/// What the terminal shows (clause 2.4.3.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Placed {
    pub order: u32,
    pub total_cents: u64,
    /// Lines whose item and stock are both original.
    pub brand_lines: u32,
}

impl NewOrder {
    /// Clause 2.4.1.
    pub fn draw(terminal: &mut Terminal, w: u32) -> NewOrder {
        let plan = terminal.plan.clone();
        let rng = &mut terminal.rng;
        let mut order = NewOrder {
            w,
            d: rng.u32(1..=schema::DISTRICTS),
            c: plan.nurand.customer(rng, plan.scale.customers),
            date: terminal.date,
            lines: [Line::default(); LINES_MAX as usize],
            line_count: rng.u32(LINES_MIN..=LINES_MAX) as usize,
            placed: Cell::new(None),
        };
        for line in &mut order.lines[..order.line_count] {
            let is_remote = rng.u32(0..100) < plan.remote_item_pct;
            *line = Line {
                item: plan.nurand.item(rng, plan.scale.items),
                supply_warehouse: if is_remote { plan.other_warehouse(rng, w) } else { w },
                quantity: rng.u8(1..=10),
            };
        }
        // 1 % end with an item that is not there, and roll back (clause 2.4.1.4).
        if rng.u32(0..100) == 0 {
            order.lines[order.line_count - 1].item = plan.scale.items + 1;
        }
        order
    }

    pub async fn run(&self, txn: &Txn) -> Result<(), Abort> {
        let &NewOrder { w, d, c, .. } = self;
        let lines = &self.lines[..self.line_count];
        let next = present(txn.get(schema::DISTRICT_NEXT_ORDER, &schema::district(w, d)).await?)?;
        let o = number(&next);
        txn.prefetch(schema::ORDER_BY_CUSTOMER, &schema::order_by_customer(w, d, c, o));
        txn.prefetch(schema::CUSTOMER, &schema::customer(w, d, c));
        for line in lines {
            let key = schema::stock(line.supply_warehouse, line.item);
            txn.prefetch(schema::ITEM, &schema::item(line.item));
            txn.prefetch(schema::STOCK, &key);
            txn.prefetch(schema::STOCK_INFO, &key);
        }
        let warehouse_row = present(txn.get(schema::WAREHOUSE, &schema::warehouse(w)).await?)?;
        let district_row = present(txn.get(schema::DISTRICT, &schema::district(w, d)).await?)?;
        let customer_row = present(txn.get(schema::CUSTOMER, &schema::customer(w, d, c)).await?)?;
        txn.put(schema::DISTRICT_NEXT_ORDER, &schema::district(w, d), &(o + 1).to_le_bytes())?;

        let order = Order {
            customer: c,
            entry_date: self.date,
            carrier: 0,
            lines: u8::try_from(self.line_count).expect("at most fifteen"),
            all_local: lines.iter().all(|line| line.supply_warehouse == w),
        };
        txn.put(schema::ORDER, &schema::order(w, d, o), &order.encode())?;
        txn.put(schema::NEW_ORDER, &schema::order(w, d, o), &[])?;
        txn.put(schema::ORDER_BY_CUSTOMER, &schema::order_by_customer(w, d, c, o), &o.to_le_bytes())?;

        let mut sum_cents = 0;
        let mut brand_lines = 0;
        for (line_number, line) in (1..).zip(lines) {
            let (cents, is_brand) = self.put_line(txn, o, line_number, line).await?;
            sum_cents += u64::from(cents);
            brand_lines += u32::from(is_brand);
        }
        let tax_bp = Site::new(&warehouse_row).tax_bp() + Site::new(&district_row).tax_bp();
        let discount_bp = Customer::new(&customer_row).discount_bp();
        let total_cents =
            sum_cents * u64::from(10_000 - discount_bp) * u64::from(10_000 + tax_bp) / 100_000_000;
        self.placed.set(Some(Placed { order: o, total_cents, brand_lines }));
        Ok(())
    }

    /// Clause 2.4.2.2, for each item: its price, and whether it is a brand item.
    async fn put_line(&self, txn: &Txn, o: u32, line_number: u32, line: &Line) -> Result<(u32, bool), Abort> {
        let Some(item_row) = txn.get(schema::ITEM, &schema::item(line.item)).await? else {
            return Err(Abort::User);
        };
        let item = Item::new(&item_row);
        let key = schema::stock(line.supply_warehouse, line.item);
        let mut stock = Stock::decode(&present(txn.get(schema::STOCK, &key).await?)?);
        let info_row = present(txn.get(schema::STOCK_INFO, &key).await?)?;
        let info = StockInfo::new(&info_row);

        let quantity = i32::from(line.quantity);
        let refill = if stock.quantity >= quantity + REFILL_BELOW { 0 } else { REFILL };
        stock.quantity += refill - quantity;
        stock.ytd += u32::from(line.quantity);
        stock.orders += 1;
        stock.remote_orders += u32::from(line.supply_warehouse != self.w);
        txn.put(schema::STOCK, &key, &stock.encode())?;

        let amount_cents = u32::from(line.quantity) * item.price_cents();
        let row = OrderLine {
            item: line.item,
            supply_warehouse: line.supply_warehouse,
            delivery_date: 0,
            quantity: line.quantity,
            amount_cents,
            dist_info: info.dist(self.d),
        };
        txn.put(schema::ORDER_LINE, &schema::order_line(self.w, self.d, o, line_number), &row.encode())?;
        Ok((amount_cents, is_original(item.data()) && is_original(info.data())))
    }

    /// What the last run placed.
    #[cfg(test)]
    pub fn placed(&self) -> Option<Placed> {
        self.placed.get()
    }
}

/// Clause 2.4.2.2: stock that would fall below 10 is filled up by 91.
const REFILL_BELOW: i32 = 10;
const REFILL: i32 = 91;

#[cfg(test)]
mod tests {
    use super::super::Step;
    use super::super::tests::{Shop, W};
    use super::*;

    impl NewOrder {
        fn of(lines: &[(u32, u32, u8)]) -> NewOrder {
            let mut order = NewOrder {
                w: W,
                d: 3,
                c: 5,
                date: 99,
                lines: [Line::default(); LINES_MAX as usize],
                line_count: lines.len(),
                placed: Cell::new(None),
            };
            for (line, (item, supply_warehouse, quantity)) in order.lines.iter_mut().zip(lines) {
                *line = Line { item: *item, supply_warehouse: *supply_warehouse, quantity: *quantity };
            }
            order
        }
    }

    fn run(shop: &Shop, order: NewOrder) -> (NewOrder, Result<(), Abort>) {
        let (procedure, result) = shop.run(Step::NewOrder(order));
        let Step::NewOrder(order) = procedure else { panic!("another procedure came back") };
        (order, result)
    }

    #[test]
    fn an_order_takes_the_next_number_and_its_goods_from_stock() {
        let shop = Shop::open();
        let before = shop.stock(W, 7);
        let next = number(&shop.row(schema::DISTRICT_NEXT_ORDER, &schema::district(W, 3)));
        let (order, result) = run(&shop, NewOrder::of(&[(7, W, 4), (8, W + 1, 10)]));
        assert_eq!(result, Ok(()));
        let placed = order.placed().unwrap();
        assert_eq!(placed.order, next);

        let after = shop.stock(W, 7);
        let expected = if before.quantity >= 14 { before.quantity - 4 } else { before.quantity + 87 };
        assert_eq!((after.quantity, after.ytd, after.orders, after.remote_orders), (expected, 4, 1, 0));
        let remote = shop.stock(W + 1, 8);
        assert_eq!((remote.ytd, remote.orders, remote.remote_orders), (10, 1, 1));

        let row = Order::decode(&shop.row(schema::ORDER, &schema::order(W, 3, next)));
        assert_eq!(row, Order { customer: 5, entry_date: 99, carrier: 0, lines: 2, all_local: false });
        let line = OrderLine::decode(&shop.row(schema::ORDER_LINE, &schema::order_line(W, 3, next, 1)));
        let price = Item::new(&shop.row(schema::ITEM, &schema::item(7))).price_cents();
        assert_eq!((line.item, line.delivery_date, line.amount_cents), (7, 0, 4 * price));
        let info = shop.row(schema::STOCK_INFO, &schema::stock(W, 7));
        assert_eq!(line.dist_info, StockInfo::new(&info).dist(3));
        shop.row(schema::NEW_ORDER, &schema::order(W, 3, next));
        shop.row(schema::ORDER_BY_CUSTOMER, &schema::order_by_customer(W, 3, 5, next));
        let again = number(&shop.row(schema::DISTRICT_NEXT_ORDER, &schema::district(W, 3)));
        assert_eq!(again, next + 1);
    }

    /// Clause 2.4.2.3: everything is undone, the order number too, or condition 2 fails from then on.
    #[test]
    fn an_unused_item_rolls_everything_back() {
        let shop = Shop::open();
        let next = shop.row(schema::DISTRICT_NEXT_ORDER, &schema::district(W, 3));
        let unused = shop.scale().items + 1;
        let (_, result) = run(&shop, NewOrder::of(&[(7, W, 4), (unused, W, 1)]));
        assert_eq!(result, Err(Abort::User));
        assert_eq!(shop.row(schema::DISTRICT_NEXT_ORDER, &schema::district(W, 3)), next);
        assert_eq!(shop.stock(W, 7).ytd, 0);
        assert!(shop.get(schema::ORDER, &schema::order(W, 3, number(&next))).is_none());
    }

    /// The second line of the same item must see what the first took, or half of it is lost.
    #[test]
    fn one_item_on_two_lines_is_taken_twice() {
        let shop = Shop::open();
        let (_, result) = run(&shop, NewOrder::of(&[(9, W, 3), (9, W, 2)]));
        assert_eq!(result, Ok(()));
        let stock = shop.stock(W, 9);
        assert_eq!((stock.ytd, stock.orders), (5, 2));
    }
}
