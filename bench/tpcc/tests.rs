//! TPC-C as a whole, at a reduced scale, against the engine: the load, the mix, and checks that hold and fail.
#![forbid(unsafe_code)]

use super::rows::{Balance, Customer, Order, OrderLine, Stock, cents, number};
use super::*;
use crate::fixture::{self, Engine};
use crate::workload::{Role, Stage};
use mako::types::NodeId;
use std::collections::BTreeMap;

/// The warehouse the tests look at; there is one more behind it.
pub const W: u32 = 1;
const SCALE: Scale = Scale { items: 200, customers: 30 };

/// A loaded TPC-C.
pub struct Shop {
    engine: Engine<Step>,
    plan: Arc<Plan>,
}

impl Shop {
    pub fn open() -> Shop {
        let config = fixture::config(1, 1, 1, Plan::tables());
        let layout = Layout::new(&config, Plan::table());
        let remote = Remote { item_pct: 10, payment_pct: 30 };
        let plan = Arc::new(Plan::of_scale(SCALE, 42, 2, remote, &layout));
        let shop = Shop { engine: Engine::start(Plan::tables()), plan };
        let tpcc = shop.tpcc();
        for step in 0..tpcc.load_steps(PartitionId(0)) {
            assert_eq!(shop.run(tpcc.load(PartitionId(0), step)).1, Ok(()));
        }
        shop
    }

    fn tpcc(&self) -> Tpcc {
        Tpcc::new(self.plan.clone(), 1)
    }

    pub fn scale(&self) -> Scale {
        SCALE
    }

    pub fn run(&self, step: Step) -> (Step, Result<(), Abort>) {
        self.engine.run(step)
    }

    pub fn get(&self, table: TableId, key: &[u8]) -> Option<Vec<u8>> {
        self.engine.get(table, key)
    }

    pub fn row(&self, table: TableId, key: &[u8]) -> Vec<u8> {
        self.get(table, key).unwrap_or_else(|| panic!("no row {key:?} in table {}", table.0))
    }

    pub fn put(&self, table: TableId, key: &[u8], row: &[u8]) {
        self.engine.put(table, key, row);
    }

    pub fn stock(&self, w: u32, i: u32) -> Stock {
        Stock::decode(&self.row(schema::STOCK, &schema::stock(w, i)))
    }

    pub fn balance(&self, w: u32, d: u32, c: u32) -> Balance {
        Balance::decode(&self.row(schema::CUSTOMER_BALANCE, &schema::customer(w, d, c)))
    }

    fn transact(&self, transactions: usize) {
        let mut tpcc = self.tpcc();
        for _ in 0..transactions {
            let result = self.run(tpcc.draw(PartitionId(0)).procedure).1;
            assert!(matches!(result, Ok(()) | Err(Abort::User)), "{result:?}");
        }
    }

    /// What the checks say of the one replica.
    fn verdicts(&self) -> Verdicts {
        let mut tpcc = self.tpcc();
        self.check(&mut tpcc, NodeId(0), Role::Leader);
        tpcc.verdicts(&[tpcc.findings()])
    }

    fn check(&self, tpcc: &mut Tpcc, node: NodeId, role: Role) {
        let inspection = Inspection { stage: Stage::Check, node, home: PartitionId(0), role };
        for index in 0.. {
            let Some(mut step) = tpcc.check(inspection, index) else { return };
            while let Some(again) = tpcc.on_inspected(inspection, self.engine.inspect(step)) {
                step = again;
            }
        }
    }
}

fn failed(verdicts: &Verdicts) -> Vec<&str> {
    verdicts.iter().filter(|(_, why)| why.is_some()).map(|(name, _)| name.as_str()).collect()
}

#[test]
fn the_load_has_the_cardinalities_of_the_standard() {
    let shop = Shop::open();
    for w in 1..=2 {
        assert_eq!(cents(&shop.row(schema::WAREHOUSE_YTD, &schema::warehouse(w))), 10 * 30 * 1_000);
        for d in 1..=DISTRICTS {
            assert_eq!(number(&shop.row(schema::DISTRICT_NEXT_ORDER, &schema::district(w, d))), 31);
            let mut customers = Vec::new();
            for n in 1..=SCALE.customers {
                assert_eq!(shop.balance(w, d, n).balance_cents, -1_000);
                let order = Order::decode(&shop.row(schema::ORDER, &schema::order(w, d, n)));
                assert_eq!(order.carrier == 0, n > 21);
                assert!((5..=15).contains(&order.lines));
                assert_eq!(shop.get(schema::NEW_ORDER, &schema::order(w, d, n)).is_some(), n > 21);
                let last = schema::order_line(w, d, n, u32::from(order.lines));
                let line = OrderLine::decode(&shop.row(schema::ORDER_LINE, &last));
                assert_eq!((line.delivery_date == 0, line.amount_cents == 0), (n > 21, n <= 21));
                customers.push(order.customer);
            }
            customers.sort_unstable();
            assert!(customers.into_iter().eq(1..=30), "each customer has one order");
        }
        assert!(shop.get(schema::STOCK, &schema::stock(w, 200)).is_some());
        assert!(shop.get(schema::STOCK_INFO, &schema::stock(w, 201)).is_none());
    }
    assert!(shop.get(schema::ITEM, &schema::item(200)).is_some());
    assert!(shop.get(schema::ITEM, &schema::item(201)).is_none());
    assert_eq!(failed(&shop.verdicts()), [""; 0]);
}

#[test]
fn full_scale_has_the_numbers_of_clause_4_3_3_1() {
    assert_eq!((Scale::FULL.items, Scale::FULL.customers), (100_000, 3_000));
    assert_eq!((Scale::FULL.delivered_orders(), Scale::FULL.last_names()), (2_100, 1_000));
}

/// Two runs of one seed must start from the same bytes, whichever core loaded them.
#[test]
fn the_same_seed_loads_the_same_rows() {
    let digests = [Shop::open(), Shop::open()].map(|shop| {
        let tables = [schema::CUSTOMER, schema::CUSTOMER_DATA];
        tables.map(|table| shop.row(table, &schema::customer(2, 10, 17)))
    });
    assert_eq!(digests[0], digests[1]);
}

#[test]
fn the_mix_is_that_of_the_standard() {
    let config = fixture::config(1, 1, 1, Plan::tables());
    let layout = Layout::new(&config, Plan::table());
    let plan = Plan::of_scale(SCALE, 1, 4, Remote { item_pct: 1, payment_pct: 15 }, &layout);
    let mut tpcc = Tpcc::new(Arc::new(plan), 1);
    let mut kinds = BTreeMap::<usize, u32>::new();
    for _ in 0..10_000 {
        *kinds.entry(tpcc.draw(PartitionId(0)).kind).or_default() += 1;
    }
    let expected = [(0, 4_500), (1, 4_300), (2, 400), (3, 400), (4, 400)];
    assert_eq!(kinds, BTreeMap::from(expected));
}

/// Drawing "another" warehouse from all of them would make the remote share smaller than the flag says.
#[test]
fn another_warehouse_is_never_the_own_one_and_each_of_the_rest_at_times() {
    let config = fixture::config(1, 1, 1, Plan::tables());
    let layout = Layout::new(&config, Plan::table());
    let plan = Plan::of_scale(SCALE, 1, 4, Remote { item_pct: 1, payment_pct: 15 }, &layout);
    let mut rng = Prng::with_seed(3);
    for w in 1..=4 {
        let mut others: Vec<u32> = (0..200).map(|_| plan.other_warehouse(&mut rng, w)).collect();
        others.sort_unstable();
        others.dedup();
        assert!(others.into_iter().eq((1..=4).filter(|other| *other != w)));
    }
}

#[test]
fn all_conditions_hold_after_a_run() {
    let shop = Shop::open();
    shop.transact(600);
    let next = |d| number(&shop.row(schema::DISTRICT_NEXT_ORDER, &schema::district(W, d)));
    assert!((1..=DISTRICTS).map(next).sum::<u32>() > 10 * 31 + 50, "the run ordered something");
    let verdicts = shop.verdicts();
    assert_eq!(verdicts.len(), 14);
    assert_eq!(failed(&verdicts), [""; 0], "{verdicts:?}");
}

/// A check that cannot fail is worse than none. Each condition is broken alone, in the row it is about.
#[test]
fn every_condition_notices_the_corruption_it_is_about() {
    let shop = Shop::open();
    shop.transact(200);
    let order_key = schema::order(W, 1, 1);
    let order = Order::decode(&shop.row(schema::ORDER, &order_key));
    let line_key = schema::order_line(W, 1, 1, 1);
    let line = OrderLine::decode(&shop.row(schema::ORDER_LINE, &line_key));
    let customer_key = schema::customer(W, 1, 9);
    let balance = shop.balance(W, 1, 9);
    let ytd = cents(&shop.row(schema::WAREHOUSE_YTD, &schema::warehouse(W)));
    let next = number(&shop.row(schema::DISTRICT_NEXT_ORDER, &schema::district(W, 1)));
    let stock = shop.stock(W, 5);

    type Corruption<'a> = (&'a [&'a str], TableId, &'a [u8], Vec<u8>);
    let corruptions: [Corruption; 9] = [
        (&["1", "8"], schema::WAREHOUSE_YTD, &schema::warehouse(W), (ytd + 1).to_le_bytes().to_vec()),
        (&["2"], schema::DISTRICT_NEXT_ORDER, &schema::district(W, 1), (next + 1).to_le_bytes().to_vec()),
        (&["2", "3"], schema::NEW_ORDER, &schema::order(W, 1, next + 5), vec![]),
        (&["4", "6"], schema::ORDER, &order_key, Order { lines: order.lines - 1, ..order }.encode().to_vec()),
        (&["5"], schema::NEW_ORDER, &order_key, vec![]),
        (&["7"], schema::ORDER_LINE, &line_key, OrderLine { delivery_date: 0, ..line }.encode().to_vec()),
        (
            &["10", "12"],
            schema::CUSTOMER_BALANCE,
            &customer_key,
            Balance { balance_cents: balance.balance_cents + 1, ..balance }.encode().to_vec(),
        ),
        (
            &["11"],
            schema::CUSTOMER_BALANCE,
            &customer_key,
            Balance { deliveries: balance.deliveries + 1, ..balance }.encode().to_vec(),
        ),
        (
            &["stock_ytd"],
            schema::STOCK,
            &schema::stock(W, 5),
            Stock { ytd: stock.ytd + 1, ..stock }.encode().to_vec(),
        ),
    ];
    for (conditions, table, key, row) in corruptions {
        let before = shop.get(table, key);
        shop.put(table, key, &row);
        let verdicts = shop.verdicts();
        for condition in conditions {
            let name =
                if condition.len() > 2 { condition.to_string() } else { format!("consistency_{condition}") };
            assert!(verdicts[&name].is_some(), "{name} did not notice: {verdicts:?}");
        }
        match before {
            Some(row) => shop.put(table, key, &row),
            None => shop.engine.delete(table, key),
        }
    }
    assert_eq!(failed(&shop.verdicts()), [""; 0], "the rows were put back");
}

/// Condition 9 compares a district with its payments, 10 a customer with theirs: a lost history row breaks both.
#[test]
fn a_lost_payment_is_noticed_at_district_and_customer() {
    let shop = Shop::open();
    shop.engine.delete(schema::HISTORY, &schema::history(W, 2, 0, 3, 3));
    assert_eq!(failed(&shop.verdicts()), ["consistency_10", "consistency_8", "consistency_9"]);
}

/// A follower that applied everything but one write looks healthy from the leader.
#[test]
fn replicas_that_differ_are_noticed() {
    let shop = Shop::open();
    let mut plan = Plan::of_scale(SCALE, 42, 2, Remote { item_pct: 0, payment_pct: 0 }, &{
        let config = fixture::config(1, 1, 1, Plan::tables());
        Layout::new(&config, Plan::table())
    });
    plan.replicas_of = vec![0, 2, 2];
    let plan = Arc::new(plan);
    let (mut leader, mut follower) = (Tpcc::new(plan.clone(), 1), Tpcc::new(plan, 2));
    shop.check(&mut leader, NodeId(0), Role::Leader);
    assert!(
        leader.verdicts(&[leader.findings(), follower.findings()])["replicas_agree"].is_some(),
        "a replica nobody read"
    );

    let key = schema::customer(W, 1, 9);
    let balance = shop.balance(W, 1, 9);
    shop.put(schema::CUSTOMER_BALANCE, &key, &Balance { payments: 77, ..balance }.encode());
    shop.check(&mut follower, NodeId(1), Role::Follower);
    assert_eq!(failed(&leader.verdicts(&[leader.findings(), follower.findings()])), ["replicas_agree"]);
}

#[test]
fn what_was_not_checked_is_not_ok() {
    let shop = Shop::open();
    let tpcc = shop.tpcc();
    let verdicts = tpcc.verdicts(&[tpcc.findings()]);
    assert!(verdicts.values().all(Option::is_some));
}

/// The digests are only worth something when the names on the wire are the ones the loader wrote.
#[test]
fn names_lead_to_the_customers_that_bear_them() {
    let shop = Shop::open();
    for c in 1..=SCALE.customers {
        let row = shop.row(schema::CUSTOMER, &schema::customer(W, 3, c));
        let customer = Customer::new(&row);
        let key = schema::NameKey::new(W, 3, customer.last(), customer.first(), c);
        assert_eq!(number(&shop.row(schema::CUSTOMER_BY_NAME, key.as_bytes())), c);
    }
}
