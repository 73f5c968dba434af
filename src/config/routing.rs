//! Which partition a key belongs to: `key → routing key → slot → partition` (DESIGN §2).
//!
//! Pure arithmetic on the bytes of the key: every node, client and bench computes the same partition, and
//! nothing is looked up. Which shard and which core hold the partition is [`super::placement`]'s affair.
//!
//! Invariants:
//!   1. A key's slot depends on its routing key alone, so keys that share one share a partition.
//!   2. Slots are dealt to partitions in turn (`slot mod partitions`), so consecutive integers spread.
//!   3. A range is said to lie in one partition only when every key in it has one routing key.
#![forbid(unsafe_code)]

use std::fmt;
use std::str::FromStr;

use super::mistake::Refusal;
use crate::bounds::{KEY_BYTES_MAX, ROUTING_INT_BYTES_MAX, ROUTING_SLOTS};
use crate::types::PartitionId;

/// Which bytes of a table's keys decide where they live.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Routing {
    /// The whole key.
    Key,
    /// What stands between the first `{` and the next `}`, as in a Redis cluster; the whole key when there
    /// is no such pair or nothing in it.
    Tag,
    /// The first N bytes; of a shorter key, all of it.
    Prefix(usize),
    /// The first N bytes as a big-endian integer, taken modulo the slots; of a shorter key, all of it.
    Int(usize),
    /// Reference data: every partition holds all of it.
    Everywhere,
}

/// Where a key, or a range, lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Route {
    One(PartitionId),
    /// In every partition: read where you are, written to all.
    Everywhere,
}

impl Routing {
    /// The slot of a key; `None` for a table that lives everywhere.
    #[inline]
    pub fn slot(self, key: &[u8]) -> Option<u16> {
        match self {
            Routing::Key => Some(crc16(key) % ROUTING_SLOTS),
            Routing::Tag => Some(crc16(tag(key).map_or(key, |(from, to)| &key[from..to])) % ROUTING_SLOTS),
            Routing::Prefix(bytes) => Some(crc16(&key[..bytes.min(key.len())]) % ROUTING_SLOTS),
            Routing::Int(bytes) => Some(int_slot(&key[..bytes.min(key.len())])),
            Routing::Everywhere => None,
        }
    }

    #[inline]
    pub(super) fn route(self, key: &[u8], partitions: u16) -> Route {
        match self.slot(key) {
            Some(slot) => Route::One(PartitionId(slot % partitions)),
            None => Route::Everywhere,
        }
    }

    /// The one place that holds all of `from <= key < to`; `None` when only all partitions together do.
    pub(super) fn route_range(self, from: &[u8], to: Option<&[u8]>, partitions: u16) -> Option<Route> {
        let one_key = to.is_some_and(|to| to.split_last() == Some((&0, from)));
        let one_routing_key =
            || self.deciding_prefix(from).is_some_and(|length| ends_within(&from[..length], to));
        let one_place = partitions == 1 || self == Routing::Everywhere || one_key || one_routing_key();
        one_place.then(|| self.route(from, partitions))
    }

    /// Length of the prefix of `key` that alone decides the slot of every key beginning with it.
    fn deciding_prefix(self, key: &[u8]) -> Option<usize> {
        match self {
            Routing::Prefix(bytes) | Routing::Int(bytes) => (key.len() >= bytes).then_some(bytes),
            Routing::Tag => tag(key).map(|(_, to)| to + 1),
            Routing::Key | Routing::Everywhere => None,
        }
    }
}

/// Whether every key from one that begins with `prefix` up to `to`, exclusive, begins with `prefix` too:
/// whether `to` is at most the prefix's successor, the least string above all that begin with it.
fn ends_within(prefix: &[u8], to: Option<&[u8]>) -> bool {
    // Trailing 0xff bytes cannot be raised: the successor of `61 ff` is `62`, and that of `ff` is nothing.
    let Some(last) = prefix.iter().rposition(|byte| *byte != 0xff) else {
        return true;
    };
    let Some(to) = to else { return false };
    let is_successor = to.len() == last + 1 && to[..last] == prefix[..last] && to[last] == prefix[last] + 1;
    is_successor || to <= prefix || to.starts_with(prefix)
}

/// Where the tag of a key begins and ends. Only the first brace counts, and the first that closes it:
/// `a{}{b}` has no tag. So says Redis, and clients that group keys rely on it.
fn tag(key: &[u8]) -> Option<(usize, usize)> {
    let from = key.iter().position(|byte| *byte == b'{')? + 1;
    let length = key[from..].iter().position(|byte| *byte == b'}')?;
    (length > 0).then_some((from, from + length))
}

/// The integer modulo the slots: they are a power of two, and the last two bytes hold the remainder.
fn int_slot(bytes: &[u8]) -> u16 {
    let value = match *bytes {
        [.., high, low] => u16::from_be_bytes([high, low]),
        [low] => u16::from(low),
        [] => 0,
    };
    value % ROUTING_SLOTS
}

const _: () = assert!(ROUTING_SLOTS.is_power_of_two());

/// CRC-16/XMODEM, the checksum of Redis cluster slots, eight bytes a step.
fn crc16(bytes: &[u8]) -> u16 {
    let (blocks, rest) = bytes.as_chunks::<8>();
    let mut crc = 0u16;
    for block in blocks {
        let [high, low] = crc.to_be_bytes();
        let first = TABLES[7][usize::from(block[0] ^ high)] ^ TABLES[6][usize::from(block[1] ^ low)];
        crc = (2..8).fold(first, |sum, i| sum ^ TABLES[7 - i][usize::from(block[i])]);
    }
    rest.iter().fold(crc, |crc, byte| (crc << 8) ^ TABLES[0][usize::from(crc.to_be_bytes()[0] ^ byte)])
}

/// `TABLES[n][byte]`: what `byte` adds to the checksum when `n` bytes follow it.
static TABLES: [[u16; 256]; 8] = crc16_tables();

const fn crc16_tables() -> [[u16; 256]; 8] {
    const POLYNOMIAL: u16 = 0x1021;
    let mut tables = [[0u16; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 != 0 { (crc << 1) ^ POLYNOMIAL } else { crc << 1 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut cell = 256;
    while cell < 8 * 256 {
        let shorter = tables[cell / 256 - 1][cell % 256];
        tables[cell / 256][cell % 256] = (shorter << 8) ^ tables[0][(shorter >> 8) as usize];
        cell += 1;
    }
    tables
}

impl FromStr for Routing {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Routing, Refusal> {
        let (word, bytes) = match text.split_once(':') {
            Some((word, bytes)) => (word, Some(bytes)),
            None => (text, None),
        };
        match (word, bytes) {
            ("key", None) => Ok(Routing::Key),
            ("tag", None) => Ok(Routing::Tag),
            ("everywhere", None) => Ok(Routing::Everywhere),
            ("prefix", Some(bytes)) => Ok(Routing::Prefix(parse_length(bytes, KEY_BYTES_MAX)?)),
            ("int", Some(bytes)) => Ok(Routing::Int(parse_length(bytes, ROUTING_INT_BYTES_MAX)?)),
            _ => Err(Refusal::new(
                "routing says which bytes of a key choose its partition",
                "write key, tag, prefix:N, int:N or everywhere",
            )),
        }
    }
}

fn parse_length(text: &str, max: usize) -> Result<usize, Refusal> {
    let length = text.parse().ok().filter(|length| (1..=max).contains(length));
    length.ok_or_else(|| Refusal::new(format!("N bytes are 1 to {max}"), format!("choose N in 1..={max}")))
}

impl fmt::Display for Routing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Routing::Key => f.write_str("key"),
            Routing::Tag => f.write_str("tag"),
            Routing::Prefix(bytes) => write!(f, "prefix:{bytes}"),
            Routing::Int(bytes) => write!(f, "int:{bytes}"),
            Routing::Everywhere => f.write_str("everywhere"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PARTITIONS: u16 = 7;

    fn routing() -> impl Strategy<Value = Routing> {
        prop_oneof![
            Just(Routing::Key),
            Just(Routing::Tag),
            (1..5usize).prop_map(Routing::Prefix),
            (1..5usize).prop_map(Routing::Int),
            Just(Routing::Everywhere),
        ]
    }

    /// Few distinct bytes, so that prefixes, braces, successors and their carries meet often.
    fn key() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop::sample::select(b"\x00\x01a{}\xfe\xff".to_vec()), 0..7)
    }

    /// A Redis client with a slot map of its own must land where we do: these are its published values.
    #[test]
    fn slots_are_those_of_redis() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(Routing::Key.slot(b"foo"), Some(12_182));
        let same = [
            ("{user1000}.following", "user1000"),
            ("foo{bar}{zap}", "bar"),
            ("foo{{bar}}zap", "{bar"),
            ("a}b{c}d", "c"),
        ];
        for (key, tag) in same {
            assert_eq!(Routing::Tag.slot(key.as_bytes()), Routing::Key.slot(tag.as_bytes()), "{key}");
        }
        for whole in ["foo{}{bar}", "plain", "{open", "close}", ""] {
            assert_eq!(Routing::Tag.slot(whole.as_bytes()), Routing::Key.slot(whole.as_bytes()), "{whole}");
        }
    }

    /// Warehouses 1, 2, 3… must fall on different partitions, or a benchmark loads one core alone.
    #[test]
    fn consecutive_integers_are_dealt_to_partitions_in_turn() {
        for warehouse in 0..40u32 {
            let partition = PartitionId((warehouse % 4) as u16);
            let key = [&warehouse.to_be_bytes()[..], b"district"].concat();
            assert_eq!(Routing::Int(4).route(&key, 4), Route::One(partition));
        }
        assert_eq!(Routing::Int(8).slot(&(16_384u64 * 5 + 3).to_be_bytes()), Some(3));
    }

    /// A key shorter than the routing key still has a place, and it is the same on every node.
    #[test]
    fn a_short_key_is_routed_by_what_there_is() {
        assert_eq!(Routing::Int(4).slot(b""), Some(0));
        assert_eq!(Routing::Int(4).slot(&[9]), Some(9));
        assert_eq!(Routing::Int(4).slot(&[0, 1, 2]), Some(258));
        assert_eq!(Routing::Prefix(4).slot(b"ab"), Routing::Key.slot(b"ab"));
    }

    /// TPC-C scans end at the next district or the next warehouse: both must stay in one partition, or
    /// every such scan asks the whole cluster.
    #[test]
    fn a_scan_up_to_the_next_routing_key_asks_one_partition() {
        let one =
            |routing: Routing, from: &[u8], to: Option<&[u8]>| routing.route_range(from, to, PARTITIONS);
        let int = Routing::Int(2);
        let home = Some(int.route(&[0, 255], PARTITIONS));
        assert_eq!(one(int, &[0, 255, 7], Some(&[0, 255, 9])), home);
        assert_eq!(one(int, &[0, 255, 7], Some(&[1])), home);
        assert_eq!(one(int, &[0, 255, 7], Some(&[1, 0])), None);
        assert_eq!(one(int, &[0, 255], Some(&[1, 0, 0])), None);
        assert_eq!(one(int, &[0, 254], Some(&[0, 255])), Some(int.route(&[0, 254], PARTITIONS)));
        assert_eq!(one(int, &[0, 254], None), None);
        assert_eq!(one(int, &[255, 255], None), Some(int.route(&[255, 255], PARTITIONS)));
        let tagged = Some(Routing::Tag.route(b"{u}:a", PARTITIONS));
        assert_eq!(one(Routing::Tag, b"{u}:a", Some(b"{u}:b")), tagged);
        assert_eq!(one(Routing::Tag, b"{u}", Some(b"{u~")), tagged);
        assert_eq!(one(Routing::Tag, b"u:a", Some(b"u:b")), None);
        assert_eq!(one(Routing::Key, b"k", Some(b"k\0")), Some(Routing::Key.route(b"k", PARTITIONS)));
        assert_eq!(one(Routing::Everywhere, b"", None), Some(Route::Everywhere));
        assert_eq!(Routing::Key.route_range(b"", None, 1), Some(Route::One(PartitionId(0))));
    }

    #[test]
    fn routings_are_written_as_they_are_read() {
        for text in ["key", "tag", "everywhere", "prefix:1", "prefix:1024", "int:4", "int:8"] {
            assert_eq!(text.parse::<Routing>().map(|routing| routing.to_string()), Ok(text.to_string()));
        }
        for text in
            ["", "Key", "key:1", "prefix", "prefix:0", "prefix:1025", "int:9", "int:-1", "int:", "tag:"]
        {
            assert!(text.parse::<Routing>().is_err(), "{text}");
        }
    }

    proptest! {
        /// The eight-byte steps are an optimisation; a slip in a table would move keys between versions.
        #[test]
        fn the_checksum_equals_its_definition_bit_by_bit(bytes: Vec<u8>) {
            let mut crc = 0u16;
            for byte in &bytes {
                crc ^= u16::from(*byte) << 8;
                for _ in 0..8 {
                    crc = if crc & 0x8000 != 0 { (crc << 1) ^ 0x1021 } else { crc << 1 };
                }
            }
            prop_assert_eq!(crc16(&bytes), crc);
        }

        /// Invariant 3: a key left out of a scan is a wrong answer that nobody notices.
        #[test]
        fn a_range_in_one_partition_holds_no_key_of_another(
            routing in routing(),
            from in key(),
            to in prop::option::of(key()),
            keys in prop::collection::vec(key(), 64),
        ) {
            if let Some(place) = routing.route_range(&from, to.as_deref(), PARTITIONS) {
                for key in keys.iter().filter(|key| **key >= from && to.as_ref().is_none_or(|to| *key < to)) {
                    prop_assert_eq!(routing.route(key, PARTITIONS), place);
                }
            }
        }

        #[test]
        fn every_key_has_a_slot(routing in routing(), key: Vec<u8>) {
            prop_assert!(routing.slot(&key).is_none_or(|slot| slot < ROUTING_SLOTS));
        }
    }
}
