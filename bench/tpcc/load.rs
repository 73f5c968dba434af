//! The initial rows of TPC-C (clause 4.3.3.1), cut into transactions of a few hundred writes.
//!
//! A transaction makes its rows itself, from the seed and the numbers of the rows: it can run again, on any core,
//! after any other, and make the same rows.
//!
//! Invariant: what is loaded satisfies all conditions of clause 3.3.2, so money and counts agree from the start.
#![forbid(unsafe_code)]

use super::random::{NuRand, Text, digits, last_name, letters, stream, zip};
use super::rows::{
    Address, Balance, Customer, CustomerFields, History, Item, Order, OrderLine, Site, Stock, StockInfo,
};
use super::schema::{self, DISTRICTS, LINES_MAX, LINES_MIN, NameKey, Scale};
use mako::txn::{Abort, Txn};
use mako::types::Prng;

/// One transaction of the load.
pub struct Load {
    pub seed: u64,
    pub scale: Scale,
    pub nurand: NuRand,
    pub rows: Rows,
}

/// Which rows it makes. Ranges are half open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rows {
    Items {
        from: u32,
        to: u32,
    },
    /// A warehouse and its districts.
    Sites {
        w: u32,
    },
    Stock {
        w: u32,
        from: u32,
        to: u32,
    },
    /// With their balances, names and one payment each.
    Customers {
        w: u32,
        d: u32,
        from: u32,
        to: u32,
    },
    /// With their lines.
    Orders {
        w: u32,
        d: u32,
        from: u32,
        to: u32,
    },
}

impl Rows {
    /// How many transactions make the items.
    pub fn item_steps(scale: Scale) -> u32 {
        scale.items.div_ceil(ITEMS_PER_STEP)
    }

    pub fn item_step(scale: Scale, step: u32) -> Rows {
        let (from, to) = part(step, ITEMS_PER_STEP, scale.items);
        Rows::Items { from, to }
    }

    /// How many make one warehouse.
    pub fn warehouse_steps(scale: Scale) -> u32 {
        let [stock, customers, orders] = Rows::steps(scale);
        1 + stock + DISTRICTS * (customers + orders)
    }

    pub fn warehouse_step(scale: Scale, w: u32, step: u32) -> Rows {
        let [stock, customers, orders] = Rows::steps(scale);
        let Some(step) = step.checked_sub(1) else { return Rows::Sites { w } };
        let Some(step) = step.checked_sub(stock) else {
            let (from, to) = part(step, STOCK_PER_STEP, scale.items);
            return Rows::Stock { w, from, to };
        };
        let d = step / (customers + orders) + 1;
        assert!(d <= DISTRICTS, "step beyond the last district");
        let step = step % (customers + orders);
        match step.checked_sub(customers) {
            None => {
                let (from, to) = part(step, CUSTOMERS_PER_STEP, scale.customers);
                Rows::Customers { w, d, from, to }
            }
            Some(step) => {
                let (from, to) = part(step, ORDERS_PER_STEP, scale.customers);
                Rows::Orders { w, d, from, to }
            }
        }
    }

    /// Of stock in a warehouse; of customers and of orders in a district.
    fn steps(scale: Scale) -> [u32; 3] {
        [
            scale.items.div_ceil(STOCK_PER_STEP),
            scale.customers.div_ceil(CUSTOMERS_PER_STEP),
            scale.customers.div_ceil(ORDERS_PER_STEP),
        ]
    }
}

/// The numbers of a step, counting rows from 1.
fn part(step: u32, per_step: u32, rows: u32) -> (u32, u32) {
    (1 + step * per_step, 1 + rows.min((step + 1) * per_step))
}

impl Load {
    pub async fn run(&self, txn: &Txn) -> Result<(), Abort> {
        match self.rows {
            Rows::Items { from, to } => (from..to).try_for_each(|i| self.put_item(txn, i)),
            Rows::Sites { w } => self.put_sites(txn, w),
            Rows::Stock { w, from, to } => (from..to).try_for_each(|i| self.put_stock(txn, w, i)),
            Rows::Customers { w, d, from, to } => {
                (from..to).try_for_each(|c| self.put_customer(txn, w, d, c))
            }
            Rows::Orders { w, d, from, to } => {
                // Clause 4.3.3.1: customers come in a random order, each once.
                let mut customers: Vec<u32> = (1..=self.scale.customers).collect();
                self.stream([CUSTOMERS_OF_ORDERS, w, d, 0]).shuffle(&mut customers);
                (from..to).try_for_each(|o| self.put_order(txn, (w, d, o), customers[o as usize - 1]))
            }
        }
    }

    fn put_item(&self, txn: &Txn, i: u32) -> Result<(), Abort> {
        let rng = &mut self.stream([ITEM_ROWS, 0, 0, i]);
        let (price, image) = (rng.u32(100..=10_000), rng.u32(1..=10_000));
        let row = Item::encode(price, image, &Text::random(rng, 14), &Text::random_data(rng, 26));
        txn.put(schema::ITEM, &schema::item(i), &row)
    }

    fn put_sites(&self, txn: &Txn, w: u32) -> Result<(), Abort> {
        let rng = &mut self.stream([SITE_ROWS, w, 0, 0]);
        let district_cents = PAYMENT_CENTS * i64::from(self.scale.customers);
        let warehouse_cents = district_cents * i64::from(DISTRICTS);
        txn.put(schema::WAREHOUSE, &schema::warehouse(w), &site(rng))?;
        txn.put(schema::WAREHOUSE_YTD, &schema::warehouse(w), &warehouse_cents.to_le_bytes())?;
        for d in 1..=DISTRICTS {
            let key = schema::district(w, d);
            txn.put(schema::DISTRICT, &key, &site(rng))?;
            txn.put(schema::DISTRICT_NEXT_ORDER, &key, &(self.scale.customers + 1).to_le_bytes())?;
            txn.put(schema::DISTRICT_YTD, &key, &district_cents.to_le_bytes())?;
        }
        Ok(())
    }

    fn put_stock(&self, txn: &Txn, w: u32, i: u32) -> Result<(), Abort> {
        let rng = &mut self.stream([STOCK_ROWS, w, 0, i]);
        let stock = Stock { quantity: rng.i32(10..=100), ytd: 0, orders: 0, remote_orders: 0 };
        let dists = std::array::from_fn(|_| letters(rng));
        let info = StockInfo::encode(&dists, &Text::random_data(rng, 26));
        txn.put(schema::STOCK, &schema::stock(w, i), &stock.encode())?;
        txn.put(schema::STOCK_INFO, &schema::stock(w, i), &info)
    }

    fn put_customer(&self, txn: &Txn, w: u32, d: u32, c: u32) -> Result<(), Abort> {
        let rng = &mut self.stream([CUSTOMER_ROWS, w, d, c]);
        let names = self.scale.last_names();
        let name = if c <= names { c - 1 } else { self.nurand.last_name(rng, names) };
        let fields = CustomerFields {
            first: Text::random(rng, 8),
            last: last_name(name),
            address: address(rng),
            phone: digits(rng),
            since: LOAD_DATE,
            has_bad_credit: rng.u32(0..10) == 0,
            discount_bp: rng.u16(0..=5_000),
        };
        let balance = Balance {
            balance_cents: -PAYMENT_CENTS,
            ytd_payment_cents: PAYMENT_CENTS,
            payments: 1,
            deliveries: 0,
        };
        let history = History {
            customer_warehouse: w,
            customer_district: d,
            customer: c,
            amount_cents: PAYMENT_CENTS,
            date: LOAD_DATE,
            data: Text::random(rng, 12),
        };
        let key = schema::customer(w, d, c);
        let name_key = NameKey::new(w, d, fields.last.as_bytes(), fields.first.as_bytes(), c);
        txn.put(schema::CUSTOMER, &key, &Customer::encode(&fields))?;
        txn.put(schema::CUSTOMER_BALANCE, &key, &balance.encode())?;
        txn.put(schema::CUSTOMER_DATA, &key, Text::<500>::random(rng, 300).as_bytes())?;
        txn.put(schema::CUSTOMER_BY_NAME, name_key.as_bytes(), &c.to_le_bytes())?;
        txn.put(schema::HISTORY, &schema::history(w, d, LOADER, u64::from(c), c), &history.encode())
    }

    fn put_order(&self, txn: &Txn, (w, d, o): (u32, u32, u32), c: u32) -> Result<(), Abort> {
        let rng = &mut self.stream([ORDER_ROWS, w, d, o]);
        let is_delivered = o <= self.scale.delivered_orders();
        let lines = rng.u32(LINES_MIN..=LINES_MAX);
        let order = Order {
            customer: c,
            entry_date: LOAD_DATE,
            carrier: if is_delivered { rng.u8(1..=10) } else { 0 },
            lines: u8::try_from(lines).expect("at most fifteen"),
            all_local: true,
        };
        txn.put(schema::ORDER, &schema::order(w, d, o), &order.encode())?;
        txn.put(schema::ORDER_BY_CUSTOMER, &schema::order_by_customer(w, d, c, o), &o.to_le_bytes())?;
        if !is_delivered {
            txn.put(schema::NEW_ORDER, &schema::order(w, d, o), &[])?;
        }
        for number in 1..=lines {
            let line = OrderLine {
                item: rng.u32(1..=self.scale.items),
                supply_warehouse: w,
                delivery_date: if is_delivered { LOAD_DATE } else { 0 },
                quantity: 5,
                amount_cents: if is_delivered { 0 } else { rng.u32(1..=999_999) },
                dist_info: letters(rng),
            };
            txn.put(schema::ORDER_LINE, &schema::order_line(w, d, o, number), &line.encode())?;
        }
        Ok(())
    }

    fn stream(&self, words: [u32; 4]) -> Prng {
        stream(self.seed, words)
    }
}

fn site(rng: &mut Prng) -> [u8; Site::BYTES] {
    Site::encode(rng.u16(0..=2_000), &Text::random(rng, 6), &address(rng))
}

fn address(rng: &mut Prng) -> Address {
    Address {
        street_1: Text::random(rng, 10),
        street_2: Text::random(rng, 10),
        city: Text::random(rng, 10),
        state: letters(rng),
        zip: zip(rng),
    }
}

/// H_AMOUNT and C_YTD_PAYMENT of every customer, so W_YTD is 300,000.00 at full scale.
const PAYMENT_CENTS: i64 = 1_000;
/// Anything that is not null; fixed, so that two loads of one seed are the same bytes.
const LOAD_DATE: u64 = 1;
/// The generator of history rows that are loaded.
const LOADER: u32 = 0;

/// Rows of one step: 200 to 500 writes, some 60 KB. An item is written in every partition.
const ITEMS_PER_STEP: u32 = 250;
const STOCK_PER_STEP: u32 = 200;
const CUSTOMERS_PER_STEP: u32 = 90;
const ORDERS_PER_STEP: u32 = 30;
const _: () = assert!(ORDERS_PER_STEP * (3 + LINES_MAX) < mako::bounds::TXN_WRITES_MAX as u32);

/// First words of the random streams.
const ITEM_ROWS: u32 = 1;
const SITE_ROWS: u32 = 2;
const STOCK_ROWS: u32 = 3;
const CUSTOMER_ROWS: u32 = 4;
const ORDER_ROWS: u32 = 5;
const CUSTOMERS_OF_ORDERS: u32 = 6;

#[cfg(test)]
mod tests {
    use super::*;

    /// A gap between two steps is rows that are missing, an overlap is time lost; neither is seen at once.
    #[test]
    fn steps_make_every_row_once() {
        for scale in [Scale::FULL, Scale { items: 7, customers: 10 }, Scale { items: 401, customers: 100 }] {
            let mut made = [0u32; 4];
            let mut next = [[1u32; 11]; 2];
            for step in 0..Rows::warehouse_steps(scale) {
                match Rows::warehouse_step(scale, 9, step) {
                    Rows::Sites { w: 9 } => made[0] += 1,
                    Rows::Stock { w: 9, from, to } => {
                        assert_eq!(from, made[1] + 1);
                        made[1] = to - 1;
                    }
                    Rows::Customers { w: 9, d, from, to } => {
                        assert_eq!(std::mem::replace(&mut next[0][d as usize], to), from);
                        made[2] += to - from;
                    }
                    Rows::Orders { w: 9, d, from, to } => {
                        assert_eq!(std::mem::replace(&mut next[1][d as usize], to), from);
                        made[3] += to - from;
                    }
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(made, [1, scale.items, DISTRICTS * scale.customers, DISTRICTS * scale.customers]);
            let items = (0..Rows::item_steps(scale)).map(|step| match Rows::item_step(scale, step) {
                Rows::Items { from, to } => to - from,
                other => panic!("{other:?}"),
            });
            assert_eq!(items.sum::<u32>(), scale.items);
        }
    }
}
