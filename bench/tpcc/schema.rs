//! The tables of TPC-C, how many rows each begins with, and the keys of their rows.
//!
//! Keys begin with the warehouse as four big-endian bytes, which route them; `rows` has what the keys lead to.
//! Nine tables became seventeen: rows are split vertically (clause 1.4.5 permits it) so that the hot counters
//! are small rows of their own and nothing static is written again, and there are two secondary indexes.
//!
//! Invariants:
//!   1. The order of keys as bytes is the order of the numbers in them.
//!   2. Keys of the hot tables are eight bytes, one slice of the tree.
#![forbid(unsafe_code)]

use crate::layout::Layout;
use mako::config::{Routing, Table};
use mako::types::TableId;

pub const WAREHOUSE: TableId = TableId(0);
/// W_YTD.
pub const WAREHOUSE_YTD: TableId = TableId(1);
pub const DISTRICT: TableId = TableId(2);
/// D_NEXT_O_ID.
pub const DISTRICT_NEXT_ORDER: TableId = TableId(3);
/// D_YTD.
pub const DISTRICT_YTD: TableId = TableId(4);
pub const CUSTOMER: TableId = TableId(5);
/// C_BALANCE, C_YTD_PAYMENT, C_PAYMENT_CNT, C_DELIVERY_CNT.
pub const CUSTOMER_BALANCE: TableId = TableId(6);
/// C_DATA.
pub const CUSTOMER_DATA: TableId = TableId(7);
/// Index: last name, first name → C_ID.
pub const CUSTOMER_BY_NAME: TableId = TableId(8);
pub const HISTORY: TableId = TableId(9);
pub const NEW_ORDER: TableId = TableId(10);
pub const ORDER: TableId = TableId(11);
/// Index: customer, order → O_ID.
pub const ORDER_BY_CUSTOMER: TableId = TableId(12);
pub const ORDER_LINE: TableId = TableId(13);
/// Reference data: everywhere.
pub const ITEM: TableId = TableId(14);
/// S_QUANTITY, S_YTD, S_ORDER_CNT, S_REMOTE_CNT.
pub const STOCK: TableId = TableId(15);
/// S_DIST_01…10, S_DATA.
pub const STOCK_INFO: TableId = TableId(16);

const NAMES: [&str; 17] = [
    "warehouse",
    "warehouse_ytd",
    "district",
    "district_next_order",
    "district_ytd",
    "customer",
    "customer_balance",
    "customer_data",
    "customer_by_name",
    "history",
    "new_order",
    "orders",
    "order_by_customer",
    "order_line",
    "item",
    "stock",
    "stock_info",
];

/// In the order of their identifiers.
pub fn tables() -> Vec<Table> {
    let mut tables: Vec<Table> = NAMES.into_iter().map(Layout::by_integer).collect();
    tables[usize::from(ITEM.0)].routing = Routing::Everywhere;
    tables
}

/// Clause 1.2.1: districts of a warehouse.
pub const DISTRICTS: u32 = 10;
/// Clause 2.4.1.3: lines of an order.
pub const LINES_MIN: u32 = 5;
pub const LINES_MAX: u32 = 15;

/// Initial rows (clause 4.3.3.1). Everything but tests runs at [`Scale::FULL`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scale {
    pub items: u32,
    /// Per district; so many orders and history rows it has as well.
    pub customers: u32,
}

impl Scale {
    pub const FULL: Scale = Scale { items: 100_000, customers: 3_000 };

    /// Orders already delivered: 2,100 of 3,000. The rest are new orders.
    pub fn delivered_orders(self) -> u32 {
        self.customers / 10 * 7
    }

    /// Distinct last names: the first thousand customers of a district have one each (clause 4.3.3.1).
    pub fn last_names(self) -> u32 {
        self.customers.min(1_000)
    }
}

pub fn warehouse(w: u32) -> [u8; 4] {
    w.to_be_bytes()
}

/// Warehouse, then district in the top four bits of the other word: the first key of that district in every
/// table whose keys continue below.
fn packed(w: u32, d: u32, rest: u32) -> [u8; 8] {
    debug_assert!(d < 1 << 4 && rest < 1 << 28);
    (u64::from(w) << 32 | u64::from(d) << 28 | u64::from(rest)).to_be_bytes()
}

pub fn district(w: u32, d: u32) -> [u8; 8] {
    packed(w, d, 0)
}

pub fn customer(w: u32, d: u32, c: u32) -> [u8; 8] {
    packed(w, d, c)
}

pub fn order(w: u32, d: u32, o: u32) -> [u8; 8] {
    assert!(o < ORDERS_MAX, "order {o} of a district");
    packed(w, d, o)
}

/// The order of a key of `ORDER` or `NEW_ORDER`.
pub fn order_of(key: &[u8]) -> u32 {
    word(key, 4) & (ORDERS_MAX - 1)
}

pub fn order_line(w: u32, d: u32, o: u32, line: u32) -> [u8; 8] {
    assert!(o < ORDERS_MAX && line <= LINES_MAX, "line {line} of order {o} of a district");
    packed(w, d, o << 4 | line)
}

/// The order of a key of `ORDER_LINE`.
pub fn order_of_line(key: &[u8]) -> u32 {
    (word(key, 4) & ((1 << 28) - 1)) >> 4
}

pub fn order_by_customer(w: u32, d: u32, c: u32, o: u32) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&customer(w, d, c));
    key[8..].copy_from_slice(&o.to_be_bytes());
    key
}

/// The number makes the key unique: no two generators share one, and none uses one twice. It grows, and stands
/// before the customer, so that history is appended to and not scattered.
pub fn history(w: u32, d: u32, generator: u32, number: u64, c: u32) -> [u8; 16] {
    assert!(number < 1 << 40 && c < 1 << 24, "row {number} of customer {c}");
    let mut key = [0; 16];
    key[..8].copy_from_slice(&packed(w, d, generator));
    key[8..].copy_from_slice(&(number << 24 | u64::from(c)).to_be_bytes());
    key
}

pub fn item(i: u32) -> [u8; 4] {
    i.to_be_bytes()
}

pub fn stock(w: u32, i: u32) -> [u8; 8] {
    (u64::from(w) << 32 | u64::from(i)).to_be_bytes()
}

/// A key of `CUSTOMER_BY_NAME`, or the bound of a range of them.
#[derive(Clone, Copy)]
pub struct NameKey {
    bytes: [u8; NAME_KEY_BYTES],
    len: usize,
}

impl NameKey {
    /// Last name and first name end with a zero, which sorts before every letter, so that the order is that of
    /// the names (clause 2.5.2.2: sorted by C_FIRST).
    pub fn new(w: u32, d: u32, last: &[u8], first: &[u8], c: u32) -> NameKey {
        let mut key = NameKey::bound(w, d, last, 0);
        key.push(first);
        key.push(&[0]);
        key.push(&c.to_be_bytes());
        key
    }

    /// All customers of this last name.
    pub fn range(w: u32, d: u32, last: &[u8]) -> (NameKey, NameKey) {
        (NameKey::bound(w, d, last, 0), NameKey::bound(w, d, last, 1))
    }

    fn bound(w: u32, d: u32, last: &[u8], end: u8) -> NameKey {
        let mut key = NameKey { bytes: [0; NAME_KEY_BYTES], len: 0 };
        key.push(&district(w, d));
        key.push(last);
        key.push(&[end]);
        key
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

fn word(key: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(key[at..at + 4].try_into().expect("four bytes"))
}

/// District, last name of at most 16, first name of at most 16, customer, two terminators.
const NAME_KEY_BYTES: usize = 8 + 16 + 1 + 16 + 1 + 4;
/// Orders of one district: an order number shares its word with the district and the line. The hundred million
/// order lines before that fill the memory of any machine first.
const ORDERS_MAX: u32 = 1 << 24;
const _: () = assert!(LINES_MAX < 1 << 4 && DISTRICTS < 1 << 4);
const _: () = assert!(Scale::FULL.customers < 1 << 24 && NAMES.len() == STOCK_INFO.0 as usize + 1);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Invariant 1. "The oldest new order" is the first key of a range: in another order, delivery would
        /// deliver the wrong one and every check would still add up.
        #[test]
        fn keys_are_ordered_as_their_numbers(
            a in (1..9u32, 1..=DISTRICTS, 1..9_000_000u32, 1..=LINES_MAX),
            b in (1..9u32, 1..=DISTRICTS, 1..9_000_000u32, 1..=LINES_MAX),
        ) {
            let order_key = |(w, d, o, _): (u32, u32, u32, u32)| order(w, d, o);
            let line_key = |(w, d, o, l): (u32, u32, u32, u32)| order_line(w, d, o, l);
            let index_key = |(w, d, c, o): (u32, u32, u32, u32)| order_by_customer(w, d, c, o);
            prop_assert_eq!(order_key(a).cmp(&order_key(b)), (a.0, a.1, a.2).cmp(&(b.0, b.1, b.2)));
            prop_assert_eq!(line_key(a).cmp(&line_key(b)), a.cmp(&b));
            prop_assert_eq!(index_key(a).cmp(&index_key(b)), a.cmp(&b));
            prop_assert_eq!(stock(a.0, a.2).cmp(&stock(b.0, b.2)), (a.0, a.2).cmp(&(b.0, b.2)));
            prop_assert_eq!((order_of(&order_key(a)), order_of_line(&line_key(a))), (a.2, a.2));
        }
    }

    /// `BAR` is a prefix of `BAROUGHT`: without a terminator their first names would mix.
    #[test]
    fn a_range_of_a_last_name_holds_that_name_alone_in_the_order_of_first_names() {
        let key = |last: &str, first: &str, c| NameKey::new(3, 4, last.as_bytes(), first.as_bytes(), c);
        let (from, to) = NameKey::range(3, 4, b"BARBAR");
        let inside = [key("BARBAR", "abc", 9), key("BARBAR", "abcd", 2), key("BARBAR", "b", 1)];
        let outside = [key("BARBAROUGHT", "a", 1), key("BAR", "z", 1), key("ABLE", "q", 2)];
        assert!(inside.is_sorted_by(|a, b| a.as_bytes() < b.as_bytes()));
        let within = |key: &NameKey| from.as_bytes() <= key.as_bytes() && key.as_bytes() < to.as_bytes();
        assert!(inside.iter().all(within) && !outside.iter().any(within));
    }

    /// Two rows under one key would lose a payment, and conditions 8 to 10 with it.
    #[test]
    fn history_keys_of_different_generators_and_numbers_differ() {
        let keys =
            [history(1, 1, 1, 1, 7), history(1, 1, 2, 1, 7), history(1, 1, 1, 2, 7), history(1, 1, 1, 1, 8)];
        for (i, key) in keys.iter().enumerate() {
            assert!(keys[..i].iter().all(|other| other != key));
        }
    }

    #[test]
    fn every_key_of_a_warehouse_begins_with_it() {
        let w = 0x0102_0304u32;
        let keys: [&[u8]; 6] = [
            &district(w, 10),
            &order_line(w, 10, 5, 15),
            &order_by_customer(w, 1, 2, 3),
            &history(w, 10, 3, 4, 5),
            &stock(w, 100_000),
            NameKey::new(w, 1, b"A", b"b", 1).as_bytes().to_vec().leak(),
        ];
        assert!(keys.iter().all(|key| key[..4] == w.to_be_bytes()));
    }
}
