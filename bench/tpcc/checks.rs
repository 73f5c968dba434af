//! What a replica says of a warehouse after the run, read on snapshots: the evidence for clause 3.3.2.
//!
//! One look reads a few thousand rows and says where it stopped, so that a replica with millions of order lines is
//! read in many short turns. Nothing is written any more, so later snapshots go on where earlier ones stopped.
//! Conditions that one district decides are judged here; those that need more are left to `findings`.
//!
//! Invariant: a look that runs again starts from where it started, so rows are never counted twice.
#![forbid(unsafe_code)]

use super::customer::present;
use super::rows::{Balance, History, Order, OrderLine, Stock, cents, number};
use super::schema::{self, DISTRICTS, LINES_MAX, Scale};
use foldhash::fast::FixedState;
use mako::txn::{Abort, Rows, Txn};
use mako::types::TableId;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::hash::BuildHasher;

/// The first thing found wrong, by condition.
pub type Faults = BTreeMap<u32, String>;

/// A customer of any warehouse: warehouse, district, number.
pub type CustomerName = (u32, u32, u32);

/// Reads one district.
pub struct DistrictCheck {
    pub w: u32,
    pub d: u32,
    scale: Scale,
    from: (Stage, Tally),
    to: RefCell<(Stage, Tally)>,
}

/// Which rows are read next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// With their lines and new orders.
    Orders {
        from: u32,
    },
    History {
        from: [u8; 17],
    },
    Customers {
        from: u32,
    },
    Counters,
    End,
}

/// What was read of a district.
#[derive(Clone, Default)]
pub struct Tally {
    pub faults: Faults,
    /// Over every row, in key order: equal replicas have equal digests.
    pub digest: u64,
    pub ytd_cents: i64,
    pub history_cents: i64,
    orders: u32,
    last_order: u32,
    new_orders: u32,
    first_new_order: u32,
    last_new_order: u32,
    lines: u64,
    lines_promised: u64,
    deliveries: u64,
    /// By customer: amounts of delivered lines, and payments booked at this district.
    delivered_cents: Vec<i64>,
    paid_cents: Vec<i64>,
    /// Condition 10, for customers where what this district knows does not add up, and payments booked here for
    /// customers elsewhere: over all warehouses they must cancel out.
    pub open_cents: Vec<(CustomerName, i64)>,
    /// By supplying warehouse: quantities ordered since the load.
    pub supplied: BTreeMap<u32, u64>,
}

impl DistrictCheck {
    pub fn new(w: u32, d: u32, scale: Scale) -> DistrictCheck {
        let places = scale.customers as usize + 1;
        let tally =
            Tally { delivered_cents: vec![0; places], paid_cents: vec![0; places], ..Tally::default() };
        let from = (Stage::Orders { from: 0 }, tally);
        DistrictCheck { w, d, scale, to: RefCell::new(from.clone()), from }
    }

    /// Takes what the last look read; whether there is more.
    pub fn go_on(&mut self) -> bool {
        self.from = self.to.get_mut().clone();
        self.from.0 != Stage::End
    }

    pub fn into_tally(self) -> Tally {
        self.from.1
    }

    pub async fn run(&self, txn: &Txn) -> Result<(), Abort> {
        let (stage, mut tally) = self.from.clone();
        let next = match stage {
            Stage::Orders { from } => self.read_orders(txn, from, &mut tally).await?,
            Stage::History { from } => self.read_history(txn, &from, &mut tally).await?,
            Stage::Customers { from } => self.read_customers(txn, from, &mut tally).await?,
            Stage::Counters => {
                self.read_counters(txn, &mut tally).await?;
                Stage::End
            }
            Stage::End => Stage::End,
        };
        self.to.replace((next, tally));
        Ok(())
    }

    /// Orders, their lines and the new orders among them are read side by side.
    async fn read_orders(&self, txn: &Txn, from: u32, tally: &mut Tally) -> Result<Stage, Abort> {
        let &DistrictCheck { w, d, .. } = self;
        let end = schema::district(w, d + 1);
        let from_key = schema::order(w, d, from);
        let orders = txn.scan(schema::ORDER, &from_key, Some(&end), ORDERS_PER_LOOK).await?;
        let last = orders.iter().last().map_or(from, |(key, _)| schema::order_of(key));
        let is_end = orders.len() < ORDERS_PER_LOOK;
        let to = if is_end { end } else { schema::order(w, d, last + 1) };
        let lines_to = if is_end { end } else { schema::order_line(w, d, last + 1, 0) };
        let news = txn.scan(schema::NEW_ORDER, &from_key, Some(&to), ROWS_PER_LOOK).await?;
        let lines_from = schema::order_line(w, d, from, 0);
        let lines = txn.scan(schema::ORDER_LINE, &lines_from, Some(&lines_to), ROWS_PER_LOOK).await?;
        if lines.len() == ROWS_PER_LOOK || news.len() == ROWS_PER_LOOK {
            tally.fault(4, || format!("more than {ROWS_PER_LOOK} lines behind order {from}"));
        }

        tally.add_to_digest(&[&orders, &lines, &news]);
        let mut lines =
            lines.iter().map(|(key, row)| (schema::order_of_line(key), OrderLine::decode(row))).peekable();
        let mut news = news.iter().map(|(key, _)| schema::order_of(key)).peekable();
        for (key, row) in orders.iter() {
            let (o, order) = (schema::order_of(key), Order::decode(row));
            while let Some(stray) = news.next_if(|new| *new < o) {
                tally.add_stray_new_order(stray);
            }
            let is_new = news.next_if_eq(&o).is_some();
            while let Some((stray, _)) = lines.next_if(|(of, _)| *of < o) {
                tally.add_stray_line(stray);
            }
            let mut count = 0;
            while let Some((_, line)) = lines.next_if(|(of, _)| *of == o) {
                count += 1;
                self.add_line(tally, (o, &order), &line);
            }
            self.add_order(tally, (o, &order), is_new, count);
        }
        news.for_each(|stray| tally.add_stray_new_order(stray));
        lines.for_each(|(stray, _)| tally.add_stray_line(stray));
        let history = Stage::History { from: first_history(w, d) };
        Ok(if is_end { history } else { Stage::Orders { from: last + 1 } })
    }

    /// Conditions 5 and 6 for one order.
    fn add_order(&self, tally: &mut Tally, (o, order): (u32, &Order), is_new: bool, lines: u32) {
        tally.orders += 1;
        tally.last_order = o;
        tally.lines_promised += u64::from(order.lines);
        if is_new {
            tally.add_new_order(o);
        }
        if (order.carrier == 0) != is_new {
            tally.fault(5, || format!("order {o}: carrier {}, new order {is_new}", order.carrier));
        }
        if u32::from(order.lines) != lines {
            tally.fault(6, || format!("order {o}: O_OL_CNT {}, {lines} lines", order.lines));
        }
    }

    /// Condition 7 for one line, and its part in 10 and 12.
    fn add_line(&self, tally: &mut Tally, (o, order): (u32, &Order), line: &OrderLine) {
        tally.lines += 1;
        if (line.delivery_date == 0) != (order.carrier == 0) {
            tally.fault(7, || {
                format!("order {o}: carrier {}, a line delivered at {}", order.carrier, line.delivery_date)
            });
        }
        if o > self.scale.customers {
            *tally.supplied.entry(line.supply_warehouse).or_default() += u64::from(line.quantity);
        }
        if line.delivery_date != 0 {
            match tally.delivered_cents.get_mut(order.customer as usize) {
                Some(sum) => *sum += i64::from(line.amount_cents),
                None => tally.fault(10, || format!("order {o} of customer {}", order.customer)),
            }
        }
    }

    async fn read_history(&self, txn: &Txn, from: &[u8; 17], tally: &mut Tally) -> Result<Stage, Abort> {
        let end = schema::district(self.w, self.d + 1);
        let rows = txn.scan(schema::HISTORY, from, Some(&end), ROWS_PER_LOOK).await?;
        tally.add_to_digest(&[&rows]);
        for (_, row) in rows.iter() {
            let history = History::decode(row);
            tally.history_cents += history.amount_cents;
            let name = (history.customer_warehouse, history.customer_district, history.customer);
            match tally.paid_cents.get_mut(history.customer as usize) {
                Some(sum) if (name.0, name.1) == (self.w, self.d) => *sum += history.amount_cents,
                _ => tally.open_cents.push((name, history.amount_cents)),
            }
        }
        let last = rows.iter().last().filter(|_| rows.len() == ROWS_PER_LOOK);
        Ok(last.map_or(Stage::Customers { from: 0 }, |(key, _)| {
            // The key after a key is that key and a zero.
            let mut from = [0; 17];
            from[..16].copy_from_slice(key);
            Stage::History { from }
        }))
    }

    async fn read_customers(&self, txn: &Txn, from: u32, tally: &mut Tally) -> Result<Stage, Abort> {
        let &DistrictCheck { w, d, scale, .. } = self;
        let (from_key, end) = (schema::customer(w, d, from), schema::district(w, d + 1));
        let rows = txn.scan(schema::CUSTOMER_BALANCE, &from_key, Some(&end), ROWS_PER_LOOK).await?;
        tally.add_to_digest(&[&rows]);
        if rows.len() != scale.customers as usize {
            tally.fault(12, || format!("{} customers, not {}", rows.len(), scale.customers));
        }
        for (c, (key, row)) in (1..=scale.customers).zip(rows.iter()) {
            if key != schema::customer(w, d, c) {
                tally.fault(12, || format!("customer {c} is missing"));
                break;
            }
            let balance = Balance::decode(row);
            let delivered_cents = tally.delivered_cents[c as usize];
            tally.deliveries += u64::from(balance.deliveries);
            // Clause 3.3.2.12.
            if balance.balance_cents + balance.ytd_payment_cents != delivered_cents {
                tally.fault(12, || format!("customer {c}: {balance:?}, delivered {delivered_cents} cents"));
            }
            // Clause 3.3.2.10, but for payments booked at other districts.
            let open_cents = balance.balance_cents - delivered_cents + tally.paid_cents[c as usize];
            if open_cents != 0 {
                tally.open_cents.push(((w, d, c), open_cents));
            }
        }
        Ok(Stage::Counters)
    }

    /// Conditions 2, 3, 4, 9 and 11.
    async fn read_counters(&self, txn: &Txn, tally: &mut Tally) -> Result<(), Abort> {
        let key = schema::district(self.w, self.d);
        let next = number(&present(txn.get(schema::DISTRICT_NEXT_ORDER, &key).await?)?);
        tally.ytd_cents = cents(&present(txn.get(schema::DISTRICT_YTD, &key).await?)?);
        let Tally { orders, last_order, new_orders, first_new_order, last_new_order, .. } = *tally;
        let Tally { lines, lines_promised, ytd_cents, history_cents, deliveries, .. } = *tally;
        if next != last_order + 1 {
            tally.fault(2, || format!("D_NEXT_O_ID {next}, max(O_ID) {last_order}"));
        }
        if new_orders > 0 && last_new_order != last_order {
            tally.fault(2, || format!("max(O_ID) {last_order}, max(NO_O_ID) {last_new_order}"));
        }
        if new_orders > 0 && last_new_order - first_new_order + 1 != new_orders {
            tally.fault(3, || format!("{new_orders} new orders from {first_new_order} to {last_new_order}"));
        }
        if lines_promised != lines {
            tally.fault(4, || format!("sum(O_OL_CNT) {lines_promised}, {lines} order lines"));
        }
        if ytd_cents != history_cents {
            tally.fault(9, || format!("D_YTD {ytd_cents}, sum(H_AMOUNT) {history_cents} cents"));
        }
        // Clause 3.3.2.11 holds for the initial rows; each delivery since has taken one new order away.
        let delivered = u64::from(self.scale.delivered_orders()) + deliveries;
        if u64::from(orders) != u64::from(new_orders) + delivered {
            tally.fault(11, || format!("{orders} orders, {new_orders} new, {delivered} delivered"));
        }
        tally.add_number_to_digest(u64::from(next) ^ ytd_cents.cast_unsigned().rotate_left(32));
        Ok(())
    }
}

impl Tally {
    fn fault(&mut self, condition: u32, what: impl FnOnce() -> String) {
        self.faults.entry(condition).or_insert_with(what);
    }

    fn add_new_order(&mut self, o: u32) {
        self.new_orders += 1;
        self.last_new_order = o;
        if self.new_orders == 1 {
            self.first_new_order = o;
        }
    }

    fn add_stray_new_order(&mut self, o: u32) {
        self.add_new_order(o);
        self.fault(5, || format!("new order {o} without an order"));
    }

    fn add_stray_line(&mut self, o: u32) {
        self.lines += 1;
        self.fault(6, || format!("a line of order {o}, which is not there"));
    }

    fn add_to_digest(&mut self, scans: &[&Rows]) {
        for (key, row) in scans.iter().flat_map(|rows| rows.iter()) {
            self.digest = digest(self.digest, key, row);
        }
    }

    fn add_number_to_digest(&mut self, number: u64) {
        self.digest = digest(self.digest, b"", &number.to_le_bytes());
    }
}

/// Reads the counters and the stock of one warehouse.
pub struct WarehouseCheck {
    pub w: u32,
    from: (Option<u32>, WarehouseTally),
    to: RefCell<(Option<u32>, WarehouseTally)>,
}

#[derive(Clone, Copy, Default)]
pub struct WarehouseTally {
    pub digest: u64,
    pub ytd_cents: i64,
    pub districts_ytd_cents: i64,
    pub stock_ytd: u64,
}

impl WarehouseCheck {
    pub fn new(w: u32) -> WarehouseCheck {
        let from = (Some(0), WarehouseTally::default());
        WarehouseCheck { w, from, to: RefCell::new(from) }
    }

    /// Takes what the last look read; whether there is more.
    pub fn go_on(&mut self) -> bool {
        self.from = *self.to.get_mut();
        self.from.0.is_some()
    }

    pub fn tally(&self) -> WarehouseTally {
        self.from.1
    }

    pub async fn run(&self, txn: &Txn) -> Result<(), Abort> {
        let (Some(from), mut tally) = self.from else { return Ok(()) };
        if from == 0 {
            self.read_counters(txn, &mut tally).await?;
        }
        let from_key = schema::stock(self.w, from);
        let rows =
            txn.scan(schema::STOCK, &from_key, Some(&schema::stock(self.w, u32::MAX)), ROWS_PER_LOOK).await?;
        for (key, row) in rows.iter() {
            tally.stock_ytd += u64::from(Stock::decode(row).ytd);
            tally.digest = digest(tally.digest, key, row);
        }
        let last = rows.iter().last().filter(|_| rows.len() == ROWS_PER_LOOK);
        let next = last.map(|(key, _)| number_of_stock(key) + 1);
        self.to.replace((next, tally));
        Ok(())
    }

    async fn read_counters(&self, txn: &Txn, tally: &mut WarehouseTally) -> Result<(), Abort> {
        let ytd = |table: TableId, key: [u8; 8], len: usize| async move {
            Ok::<i64, Abort>(cents(&present(txn.get(table, &key[..len]).await?)?))
        };
        // A warehouse's key is the first four bytes of its districts'.
        tally.ytd_cents = ytd(schema::WAREHOUSE_YTD, schema::district(self.w, 0), 4).await?;
        for d in 1..=DISTRICTS {
            tally.districts_ytd_cents += ytd(schema::DISTRICT_YTD, schema::district(self.w, d), 8).await?;
        }
        tally.digest = digest(tally.digest, b"", &tally.ytd_cents.to_le_bytes());
        Ok(())
    }
}

fn number_of_stock(key: &[u8]) -> u32 {
    u32::from_be_bytes(key[4..].try_into().expect("eight bytes"))
}

fn first_history(w: u32, d: u32) -> [u8; 17] {
    let mut from = [0; 17];
    from[..8].copy_from_slice(&schema::district(w, d));
    from
}

fn digest(so_far: u64, key: &[u8], row: &[u8]) -> u64 {
    // A fixed seed: replicas on different cores must agree.
    FixedState::with_seed(so_far).hash_one((key, row))
}

/// Rows of one look; orders bring at most fifteen lines each.
const ROWS_PER_LOOK: usize = mako::bounds::SCAN_ROWS_MAX;
const ORDERS_PER_LOOK: usize = 500;
const _: () = assert!(ORDERS_PER_LOOK * (LINES_MAX as usize + 1) < ROWS_PER_LOOK);
const _: () = assert!((Scale::FULL.customers as usize) < ROWS_PER_LOOK);
