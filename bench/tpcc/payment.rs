//! The Payment transaction (clause 2.5): a customer, of this warehouse or another, pays at a district.
#![forbid(unsafe_code)]

use super::Terminal;
use super::customer::{Selector, present};
use super::random::Text;
use super::rows::{Balance, Customer, History, Site, cents};
use super::schema;
use mako::txn::{Abort, Txn};
use std::io::Write;

pub struct Payment {
    w: u32,
    d: u32,
    customer_warehouse: u32,
    customer_district: u32,
    customer: Selector,
    amount_cents: i64,
    date: u64,
    generator: u32,
    number: u64,
}

impl Payment {
    /// Clause 2.5.1.
    pub fn draw(terminal: &mut Terminal, w: u32) -> Payment {
        let plan = terminal.plan.clone();
        let number = terminal.next_history_number();
        let rng = &mut terminal.rng;
        let d = rng.u32(1..=schema::DISTRICTS);
        let other = plan.other_warehouse(rng, w);
        let is_remote = other != w && rng.u32(0..100) < plan.remote_payment_pct;
        Payment {
            w,
            d,
            customer_warehouse: if is_remote { other } else { w },
            customer_district: if is_remote { rng.u32(1..=schema::DISTRICTS) } else { d },
            customer: Selector::draw(rng, &plan.nurand, plan.scale),
            amount_cents: rng.i64(100..=500_000),
            date: terminal.date,
            generator: terminal.generator,
            number,
        }
    }

    pub async fn run(&self, txn: &Txn) -> Result<(), Abort> {
        let &Payment { w, d, customer_warehouse: cw, customer_district: cd, amount_cents, .. } = self;
        let c = self.customer.find(txn, cw, cd).await?;
        let key = schema::customer(cw, cd, c);
        txn.prefetch(schema::CUSTOMER, &key);
        txn.prefetch(schema::CUSTOMER_BALANCE, &key);
        let customer_row = present(txn.get(schema::CUSTOMER, &key).await?)?;
        let mut balance = Balance::decode(&present(txn.get(schema::CUSTOMER_BALANCE, &key).await?)?);
        balance.balance_cents -= amount_cents;
        balance.ytd_payment_cents += amount_cents;
        balance.payments += 1;
        txn.put(schema::CUSTOMER_BALANCE, &key, &balance.encode())?;
        if Customer::new(&customer_row).has_bad_credit() {
            self.put_data(txn, c).await?;
        }

        let warehouse_row = present(txn.get(schema::WAREHOUSE, &schema::warehouse(w)).await?)?;
        let district_row = present(txn.get(schema::DISTRICT, &schema::district(w, d)).await?)?;
        let district_ytd = cents(&present(txn.get(schema::DISTRICT_YTD, &schema::district(w, d)).await?)?);
        txn.put(schema::DISTRICT_YTD, &schema::district(w, d), &(district_ytd + amount_cents).to_le_bytes())?;
        let warehouse_ytd = cents(&present(txn.get(schema::WAREHOUSE_YTD, &schema::warehouse(w)).await?)?);
        txn.put(schema::WAREHOUSE_YTD, &schema::warehouse(w), &(warehouse_ytd + amount_cents).to_le_bytes())?;

        let history = History {
            customer_warehouse: cw,
            customer_district: cd,
            customer: c,
            amount_cents,
            date: self.date,
            data: history_data(Site::new(&warehouse_row).name(), Site::new(&district_row).name()),
        };
        txn.put(schema::HISTORY, &schema::history(w, d, self.generator, self.number, c), &history.encode())
    }

    /// Clause 2.5.2.2: of a customer with bad credit, C_DATA begins with this payment and loses what no longer fits.
    async fn put_data(&self, txn: &Txn, c: u32) -> Result<(), Abort> {
        let key = schema::customer(self.customer_warehouse, self.customer_district, c);
        let old = present(txn.get(schema::CUSTOMER_DATA, &key).await?)?;
        let mut data = [0; CUSTOMER_DATA_BYTES];
        let mut rest = &mut data[..];
        let (cw, cd) = (self.customer_warehouse, self.customer_district);
        write!(rest, "{c} {cd} {cw} {} {} {} ", self.d, self.w, self.amount_cents).expect("six numbers fit");
        let kept = rest.len().min(old.len());
        rest[..kept].copy_from_slice(&old[..kept]);
        let len = CUSTOMER_DATA_BYTES - rest.len() + kept;
        txn.put(schema::CUSTOMER_DATA, &key, &data[..len])
    }
}

/// Clause 2.5.2.2: W_NAME, four spaces, D_NAME.
fn history_data(warehouse: &[u8], district: &[u8]) -> Text<24> {
    let mut data = [b' '; 24];
    data[..warehouse.len()].copy_from_slice(warehouse);
    let at = warehouse.len() + 4;
    data[at..at + district.len()].copy_from_slice(district);
    Text::new(&data[..at + district.len()])
}

const CUSTOMER_DATA_BYTES: usize = 500;

#[cfg(test)]
mod tests {
    use super::super::Step;
    use super::super::random::last_name;
    use super::super::rows::number;
    use super::super::tests::{Shop, W};
    use super::*;

    fn payment(customer: Selector, customer_warehouse: u32) -> Payment {
        Payment {
            w: W,
            d: 2,
            customer_warehouse,
            customer_district: 4,
            customer,
            amount_cents: 12_345,
            date: 99,
            generator: 7,
            number: 1,
        }
    }

    #[test]
    fn the_amount_is_booked_at_warehouse_district_and_customer() {
        let shop = Shop::open();
        let before = shop.balance(W + 1, 4, 5);
        let ytd = |table, key: &[u8]| cents(&shop.row(table, key));
        let warehouse = ytd(schema::WAREHOUSE_YTD, &schema::warehouse(W));
        let district = ytd(schema::DISTRICT_YTD, &schema::district(W, 2));
        assert_eq!(shop.run(Step::Payment(payment(Selector::Number(5), W + 1))).1, Ok(()));

        let after = shop.balance(W + 1, 4, 5);
        assert_eq!(after.balance_cents, before.balance_cents - 12_345);
        assert_eq!(after.ytd_payment_cents, before.ytd_payment_cents + 12_345);
        assert_eq!(after.payments, before.payments + 1);
        assert_eq!(ytd(schema::WAREHOUSE_YTD, &schema::warehouse(W)), warehouse + 12_345);
        assert_eq!(ytd(schema::DISTRICT_YTD, &schema::district(W, 2)), district + 12_345);
        let row = History::decode(&shop.row(schema::HISTORY, &schema::history(W, 2, 7, 1, 5)));
        assert_eq!((row.customer_warehouse, row.customer_district, row.customer), (W + 1, 4, 5));
        assert_eq!(row.amount_cents, 12_345);
    }

    /// Clause 2.5.2.2: of n namesakes, the one at n/2 rounded up.
    #[test]
    fn a_last_name_means_the_middle_of_its_customers() {
        let shop = Shop::open();
        let name = last_name(3);
        let mut namesakes: Vec<(Vec<u8>, u32)> = (1..=shop.scale().customers)
            .map(|c| (c, shop.row(schema::CUSTOMER, &schema::customer(W, 4, c))))
            .filter(|(_, row)| Customer::new(row).last() == name.as_bytes())
            .map(|(c, row)| (Customer::new(&row).first().to_vec(), c))
            .collect();
        namesakes.sort();
        let middle = namesakes[namesakes.len().div_ceil(2) - 1].1;
        let before = shop.balance(W, 4, middle);
        assert_eq!(shop.run(Step::Payment(payment(Selector::LastName(3), W))).1, Ok(()));
        assert_eq!(shop.balance(W, 4, middle).payments, before.payments + 1);
        assert_eq!(number(&middle.to_le_bytes()), middle);
    }

    #[test]
    fn the_data_of_bad_credit_remembers_the_payment_and_stays_within_500_bytes() {
        let shop = Shop::open();
        let is_bad = |c: &u32| {
            Customer::new(&shop.row(schema::CUSTOMER, &schema::customer(W, 4, *c))).has_bad_credit()
        };
        let (bad, good) = (1..=shop.scale().customers).partition::<Vec<u32>, _>(is_bad);
        for c in [bad[0], good[0]] {
            let key = schema::customer(W, 4, c);
            let before = shop.row(schema::CUSTOMER_DATA, &key);
            assert_eq!(shop.run(Step::Payment(payment(Selector::Number(c), W))).1, Ok(()));
            let after = shop.row(schema::CUSTOMER_DATA, &key);
            let line = format!("{c} 4 {W} 2 {W} 12345 ");
            let mut expected = [line.as_bytes(), &before].concat();
            expected.truncate(CUSTOMER_DATA_BYTES);
            assert_eq!(after, if c == bad[0] { expected } else { before });
        }
    }
}
