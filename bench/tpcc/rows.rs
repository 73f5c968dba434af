//! The rows of TPC-C as bytes: fixed layouts, little-endian, read in place by offset.
//!
//! A row that is written again and again (counters, orders, lines) is a struct that is encoded and decoded whole;
//! a row that is written once (names, addresses, data) is a view that reads the one field asked for. Money is in
//! cents, rates in basis points, dates in nanoseconds; 0 stands for null.
//!
//! Not here: keys and tables (`schema`), what goes into the initial rows (`load`).
#![forbid(unsafe_code)]

use super::random::Text;

/// Appends the fields of a row of `N` bytes, in order.
struct Writer<const N: usize> {
    bytes: [u8; N],
    at: usize,
}

impl<const N: usize> Writer<N> {
    fn new() -> Self {
        Writer { bytes: [0; N], at: 0 }
    }

    fn raw(mut self, field: &[u8]) -> Self {
        self.bytes[self.at..self.at + field.len()].copy_from_slice(field);
        self.at += field.len();
        self
    }

    /// A length and as many bytes as the longest such text has.
    fn text<const M: usize>(mut self, text: &Text<M>) -> Self {
        let bytes = text.as_bytes();
        self.bytes[self.at] = u8::try_from(bytes.len()).expect("texts of fixed rows are short");
        self.bytes[self.at + 1..][..bytes.len()].copy_from_slice(bytes);
        self.at += 1 + M;
        self
    }

    fn done(self) -> [u8; N] {
        assert!(self.at == N, "{} bytes of a row of {N}", self.at);
        self.bytes
    }
}

/// Reads the fields of a row in order.
struct Reader<'a> {
    bytes: &'a [u8],
}

impl Reader<'_> {
    fn new(row: &[u8], len: usize) -> Reader<'_> {
        assert!(row.len() == len, "a row of {} bytes, not {len}", row.len());
        Reader { bytes: row }
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) = self.bytes.split_first_chunk().expect("the length was checked");
        self.bytes = rest;
        *field
    }

    fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.take())
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn i32(&mut self) -> i32 {
        i32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    fn i64(&mut self) -> i64 {
        i64::from_le_bytes(self.take())
    }
}

/// A text field at `at` within a row.
fn text_at(row: &[u8], at: usize) -> &[u8] {
    &row[at + 1..][..usize::from(row[at])]
}

fn u16_at(row: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([row[at], row[at + 1]])
}

fn u32_at(row: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([row[at], row[at + 1], row[at + 2], row[at + 3]])
}

/// One integer that is a row of its own: W_YTD, D_YTD.
pub fn cents(row: &[u8]) -> i64 {
    Reader::new(row, 8).i64()
}

/// D_NEXT_O_ID, or the number an index leads to.
pub fn number(row: &[u8]) -> u32 {
    Reader::new(row, 4).u32()
}

/// Street, street, city, state, zip.
#[derive(Clone, Copy)]
pub struct Address {
    pub street_1: Text<20>,
    pub street_2: Text<20>,
    pub city: Text<20>,
    pub state: [u8; 2],
    pub zip: [u8; 9],
}

impl Address {
    fn write<const N: usize>(&self, row: Writer<N>) -> Writer<N> {
        row.text(&self.street_1).text(&self.street_2).text(&self.city).raw(&self.state).raw(&self.zip)
    }
}

const ADDRESS_BYTES: usize = 3 * 21 + 2 + 9;

/// The static part of a warehouse or a district.
pub struct Site<'a>(&'a [u8]);

impl<'a> Site<'a> {
    pub const BYTES: usize = 2 + 11 + ADDRESS_BYTES;

    pub fn encode(tax_bp: u16, name: &Text<10>, address: &Address) -> [u8; Site::BYTES] {
        address.write(Writer::new().raw(&tax_bp.to_le_bytes()).text(name)).done()
    }

    pub fn new(row: &'a [u8]) -> Self {
        assert!(row.len() == Site::BYTES, "a row of {} bytes", row.len());
        Site(row)
    }

    pub fn tax_bp(&self) -> u16 {
        u16_at(self.0, 0)
    }

    pub fn name(&self) -> &'a [u8] {
        text_at(self.0, 2)
    }
}

/// The static part of a customer.
pub struct Customer<'a>(&'a [u8]);

/// What a customer is created with.
pub struct CustomerFields {
    pub first: Text<16>,
    pub last: Text<16>,
    pub address: Address,
    pub phone: [u8; 16],
    pub since: u64,
    pub has_bad_credit: bool,
    pub discount_bp: u16,
}

impl<'a> Customer<'a> {
    pub const BYTES: usize = 2 + 2 + 17 + 17 + 2 + ADDRESS_BYTES + 16 + 8 + 8;

    pub fn encode(fields: &CustomerFields) -> [u8; Customer::BYTES] {
        let credit = if fields.has_bad_credit { b"BC" } else { b"GC" };
        let row = Writer::new().raw(&fields.discount_bp.to_le_bytes()).raw(credit);
        let row = row.text(&fields.last).text(&fields.first).raw(b"OE");
        let row = fields.address.write(row).raw(&fields.phone).raw(&fields.since.to_le_bytes());
        row.raw(&CREDIT_LIMIT_CENTS.to_le_bytes()).done()
    }

    pub fn new(row: &'a [u8]) -> Self {
        assert!(row.len() == Customer::BYTES, "a row of {} bytes", row.len());
        Customer(row)
    }

    pub fn discount_bp(&self) -> u16 {
        u16_at(self.0, 0)
    }

    pub fn has_bad_credit(&self) -> bool {
        self.0[2..4] == *b"BC"
    }

    #[cfg(test)]
    pub fn last(&self) -> &'a [u8] {
        text_at(self.0, 4)
    }

    #[cfg(test)]
    pub fn first(&self) -> &'a [u8] {
        text_at(self.0, 21)
    }
}

/// The counters of a customer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Balance {
    pub balance_cents: i64,
    pub ytd_payment_cents: i64,
    pub payments: u32,
    pub deliveries: u32,
}

impl Balance {
    pub const BYTES: usize = 24;

    pub fn encode(&self) -> [u8; Balance::BYTES] {
        let row = Writer::new().raw(&self.balance_cents.to_le_bytes());
        let row = row.raw(&self.ytd_payment_cents.to_le_bytes());
        row.raw(&self.payments.to_le_bytes()).raw(&self.deliveries.to_le_bytes()).done()
    }

    pub fn decode(row: &[u8]) -> Balance {
        let mut row = Reader::new(row, Balance::BYTES);
        Balance {
            balance_cents: row.i64(),
            ytd_payment_cents: row.i64(),
            payments: row.u32(),
            deliveries: row.u32(),
        }
    }
}

/// A payment. Its warehouse and district are in its key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct History {
    pub customer_warehouse: u32,
    pub customer_district: u32,
    pub customer: u32,
    pub amount_cents: i64,
    pub date: u64,
    pub data: Text<24>,
}

impl History {
    pub const BYTES: usize = 4 + 1 + 4 + 8 + 8 + 25;

    pub fn encode(&self) -> [u8; History::BYTES] {
        let district = u8::try_from(self.customer_district).expect("ten districts");
        let row = Writer::new().raw(&self.customer_warehouse.to_le_bytes()).raw(&[district]);
        let row = row.raw(&self.customer.to_le_bytes()).raw(&self.amount_cents.to_le_bytes());
        row.raw(&self.date.to_le_bytes()).text(&self.data).done()
    }

    pub fn decode(row: &[u8]) -> History {
        let data = Text::new(text_at(row, History::BYTES - 25));
        let mut row = Reader::new(row, History::BYTES);
        History {
            customer_warehouse: row.u32(),
            customer_district: u32::from(row.u8()),
            customer: row.u32(),
            amount_cents: row.i64(),
            date: row.u64(),
            data,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Order {
    pub customer: u32,
    pub entry_date: u64,
    /// O_CARRIER_ID; 0 until delivered.
    pub carrier: u8,
    pub lines: u8,
    pub all_local: bool,
}

impl Order {
    pub const BYTES: usize = 15;

    pub fn encode(&self) -> [u8; Order::BYTES] {
        let row = Writer::new().raw(&self.customer.to_le_bytes()).raw(&self.entry_date.to_le_bytes());
        row.raw(&[self.carrier, self.lines, u8::from(self.all_local)]).done()
    }

    pub fn decode(row: &[u8]) -> Order {
        let mut row = Reader::new(row, Order::BYTES);
        Order {
            customer: row.u32(),
            entry_date: row.u64(),
            carrier: row.u8(),
            lines: row.u8(),
            all_local: row.u8() != 0,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OrderLine {
    pub item: u32,
    pub supply_warehouse: u32,
    /// OL_DELIVERY_D; 0 until delivered.
    pub delivery_date: u64,
    pub quantity: u8,
    pub amount_cents: u32,
    pub dist_info: [u8; 24],
}

impl OrderLine {
    pub const BYTES: usize = 45;

    pub fn encode(&self) -> [u8; OrderLine::BYTES] {
        let row = Writer::new().raw(&self.item.to_le_bytes()).raw(&self.supply_warehouse.to_le_bytes());
        let row = row.raw(&self.delivery_date.to_le_bytes()).raw(&[self.quantity]);
        row.raw(&self.amount_cents.to_le_bytes()).raw(&self.dist_info).done()
    }

    pub fn decode(row: &[u8]) -> OrderLine {
        let mut row = Reader::new(row, OrderLine::BYTES);
        OrderLine {
            item: row.u32(),
            supply_warehouse: row.u32(),
            delivery_date: row.u64(),
            quantity: row.u8(),
            amount_cents: row.u32(),
            dist_info: row.take(),
        }
    }
}

pub struct Item<'a>(&'a [u8]);

impl<'a> Item<'a> {
    pub const BYTES: usize = 4 + 4 + 25 + 51;

    pub fn encode(price_cents: u32, image: u32, name: &Text<24>, data: &Text<50>) -> [u8; Item::BYTES] {
        let row = Writer::new().raw(&price_cents.to_le_bytes()).raw(&image.to_le_bytes());
        row.text(name).text(data).done()
    }

    pub fn new(row: &'a [u8]) -> Self {
        assert!(row.len() == Item::BYTES, "a row of {} bytes", row.len());
        Item(row)
    }

    pub fn price_cents(&self) -> u32 {
        u32_at(self.0, 0)
    }

    pub fn data(&self) -> &'a [u8] {
        text_at(self.0, 33)
    }
}

/// The counters of a stock row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stock {
    pub quantity: i32,
    pub ytd: u32,
    pub orders: u32,
    pub remote_orders: u32,
}

impl Stock {
    pub const BYTES: usize = 16;

    pub fn encode(&self) -> [u8; Stock::BYTES] {
        let row = Writer::new().raw(&self.quantity.to_le_bytes()).raw(&self.ytd.to_le_bytes());
        row.raw(&self.orders.to_le_bytes()).raw(&self.remote_orders.to_le_bytes()).done()
    }

    pub fn decode(row: &[u8]) -> Stock {
        let mut row = Reader::new(row, Stock::BYTES);
        Stock { quantity: row.i32(), ytd: row.u32(), orders: row.u32(), remote_orders: row.u32() }
    }
}

/// The static part of a stock row.
pub struct StockInfo<'a>(&'a [u8]);

impl<'a> StockInfo<'a> {
    pub const BYTES: usize = 10 * 24 + 51;

    pub fn encode(dist: &[[u8; 24]; 10], data: &Text<50>) -> [u8; StockInfo::BYTES] {
        Writer::new().raw(dist.as_flattened()).text(data).done()
    }

    pub fn new(row: &'a [u8]) -> Self {
        assert!(row.len() == StockInfo::BYTES, "a row of {} bytes", row.len());
        StockInfo(row)
    }

    /// S_DIST_xx, of a district counted from 1.
    pub fn dist(&self, district: u32) -> [u8; 24] {
        let dists = self.0.as_chunks().0;
        dists[district as usize - 1]
    }

    pub fn data(&self) -> &'a [u8] {
        text_at(self.0, 240)
    }
}

/// Clause 4.3.3.1.
const CREDIT_LIMIT_CENTS: i64 = 5_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn address() -> Address {
        let text = |bytes: &[u8]| Text::new(bytes);
        Address {
            street_1: text(b"a street of 20 chars"),
            street_2: text(b""),
            city: text(b"Turin"),
            state: *b"NY",
            zip: *b"123411111",
        }
    }

    #[test]
    fn rows_that_change_are_read_back_as_written() {
        let balance =
            Balance { balance_cents: -1_000, ytd_payment_cents: i64::MAX, payments: 1, deliveries: 2 };
        assert_eq!(Balance::decode(&balance.encode()), balance);
        let order = Order { customer: 3_000, entry_date: u64::MAX, carrier: 10, lines: 15, all_local: true };
        assert_eq!(Order::decode(&order.encode()), order);
        let line = OrderLine {
            item: 100_000,
            supply_warehouse: u32::MAX,
            delivery_date: 7,
            quantity: 10,
            amount_cents: 99_999,
            dist_info: *b"abcdefghijklmnopqrstuvwx",
        };
        assert_eq!(OrderLine::decode(&line.encode()), line);
        let stock = Stock { quantity: -3, ytd: 4, orders: 5, remote_orders: 6 };
        assert_eq!(Stock::decode(&stock.encode()), stock);
        let history = History {
            customer_warehouse: 9,
            customer_district: 10,
            customer: 11,
            amount_cents: -12,
            date: 13,
            data: Text::new(b"warehouse    district"),
        };
        assert_eq!(History::decode(&history.encode()), history);
        assert_eq!((cents(&(-5i64).to_le_bytes()), number(&7u32.to_le_bytes())), (-5, 7));
    }

    #[test]
    fn views_find_their_fields() {
        let row = Site::encode(2_000, &Text::new(b"Lisbon"), &address());
        let site = Site::new(&row);
        assert_eq!((site.tax_bp(), site.name()), (2_000, &b"Lisbon"[..]));

        let row = Customer::encode(&CustomerFields {
            first: Text::new(b"Ada"),
            last: Text::new(b"BARBARBAR"),
            address: address(),
            phone: [b'1'; 16],
            since: 5,
            has_bad_credit: true,
            discount_bp: 4_999,
        });
        let customer = Customer::new(&row);
        assert_eq!((customer.first(), customer.last()), (&b"Ada"[..], &b"BARBARBAR"[..]));
        assert_eq!((customer.discount_bp(), customer.has_bad_credit()), (4_999, true));

        let row = Item::encode(1_234, 5, &Text::new(b"name"), &Text::new(b"data ORIGINAL"));
        let item = Item::new(&row);
        assert_eq!((item.price_cents(), item.data()), (1_234, &b"data ORIGINAL"[..]));

        let mut dist = [[0; 24]; 10];
        for (i, dist) in dist.iter_mut().enumerate() {
            dist.fill(b'a' + i as u8);
        }
        let row = StockInfo::encode(&dist, &Text::new(b"stock"));
        let info = StockInfo::new(&row);
        assert_eq!((info.dist(1), info.dist(10), info.data()), ([b'a'; 24], [b'j'; 24], &b"stock"[..]));
    }
}
